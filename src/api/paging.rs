//! Pages of lists that are sorted by id, newest first.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use uuid::Uuid;

use super::{problem::ApiError, query::Query};

const DEFAULT_SIZE: i64 = 50;
const MAX_SIZE: i64 = 200;

/// `page_size`: 50 unless given, and 200 at most.
pub fn size(query: &Query) -> Result<i64, ApiError> {
    let size = query.integer("page_size")?.unwrap_or(DEFAULT_SIZE);
    if size < 1 {
        return Err(ApiError::malformed("`page_size` is at least 1"));
    }
    Ok(size.min(MAX_SIZE))
}

/// `page_token`: the id where the page before ended.
pub fn before(query: &Query) -> Result<Option<Uuid>, ApiError> {
    query.text("page_token").map(from_token).transpose()
}

/// Opaque to callers: where a page ended.
pub fn token(last: Uuid) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(last.as_bytes())
}

fn from_token(token: &str) -> Result<Uuid, ApiError> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(token).ok();
    bytes
        .and_then(|bytes| Uuid::from_slice(&bytes).ok())
        .ok_or_else(|| ApiError::malformed("`page_token` is not one that a page gave"))
}
