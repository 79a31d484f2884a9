//! Stub.
pub mod sandbox;

use super::VendorSpec;
pub const SPEC: VendorSpec = VendorSpec {
    name: "growingio_cdp",
    display_name: "",
    datasets: &[],
    settings_schema: || todo!(),
    credentials: &[],
    connect: |_| todo!(),
    sandbox: sandbox::routes,
    sandbox_connection: sandbox::demo_connection,
};
