//! Stub.
#[derive(Clone)]
pub struct Http;
