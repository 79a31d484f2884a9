//! Stub.
use std::sync::Arc;

use actix_web::web::ServiceConfig;
use url::Url;

use crate::vendors::sandbox::{DemoConnection, World};

pub fn routes(_: &mut ServiceConfig, _: Arc<World>) {}

pub fn demo_connection(_: &Url) -> DemoConnection {
    DemoConnection
}
