//! Stub.
#[derive(Clone)]
pub struct Storage;
