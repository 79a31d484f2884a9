//! Whether the gateway can serve.

use std::time::Duration;

use sqlx::Connection;

use super::Gateway;
use crate::results;

/// A database that takes longer than this is not ready.
const DATABASE_TIMEOUT: Duration = Duration::from_secs(3);

/// What the gateway cannot do without.
#[derive(Debug, thiserror::Error)]
pub enum NotReady {
    #[error("the database does not answer")]
    Database(#[source] Option<sqlx::Error>),
    #[error("the object store does not answer")]
    Storage(#[source] results::Error),
}

/// Asks the database and the object store for a sign of life.
///
/// # Errors
/// The first that gives none.
pub async fn readiness(gateway: &Gateway) -> Result<(), NotReady> {
    let ping = async { gateway.db.acquire().await?.ping().await };
    match tokio::time::timeout(DATABASE_TIMEOUT, ping).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Err(NotReady::Database(Some(error))),
        Err(_) => return Err(NotReady::Database(None)),
    }
    gateway.storage.probe().await.map_err(NotReady::Storage)
}
