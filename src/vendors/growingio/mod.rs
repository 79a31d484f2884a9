//! GrowingIO, classic: statistics and raw data at `www.growingio.com`. Only its simulator is here so far.

pub mod sandbox;

use serde_json::json;

use super::VendorSpec;
use crate::exports::problem::FieldError;

pub const SPEC: VendorSpec = VendorSpec {
    name: "growingio",
    display_name: "GrowingIO",
    datasets: &[],
    settings_schema: || json!({"type": "object"}),
    credentials: &[],
    catalogs: &[],
    connect: |_| Err(vec![FieldError::new("/vendor", "not_supported", "there is no adapter yet")]),
    sandbox: sandbox::routes,
    sandbox_connection: sandbox::demo_connection,
};
