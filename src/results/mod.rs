//! Stub.
pub mod storage;
