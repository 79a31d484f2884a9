//! Stub.
#[derive(Clone)]
pub struct Vault;
#[derive(Debug, thiserror::Error)]
#[error("stub")]
pub struct Error;
