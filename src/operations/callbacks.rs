//! Vendors reporting that an export is done.

use aws_lc_rs::digest::{SHA256, digest};

use super::{Error, Gateway, not_found};
use crate::store;

/// What the database keeps of a callback token: enough to recognise it, not to use it.
pub fn token_sha256(token: &str) -> Vec<u8> {
    digest(&SHA256, token.as_bytes()).as_ref().to_vec()
}

/// Takes a callback as a hint to look at the export now; what the vendor sent is not believed. An unknown token is
/// not found.
pub async fn vendor_called_back(gateway: &Gateway, token: &str) -> Result<(), Error> {
    if store::exports::wake_by_callback(&gateway.db, &token_sha256(token)).await? {
        Ok(())
    } else {
        Err(not_found("callback"))
    }
}
