//! Issued tokens, one for each account at a vendor, and who is getting the next one.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;
use uuid::Uuid;

use super::exports::interval;

/// A token as it is kept.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct SealedToken {
    /// 0 before the first issue.
    pub generation: i64,
    pub key_id: Option<String>,
    pub sealed_data_key: Option<Vec<u8>>,
    pub token: Option<Vec<u8>>,
    /// How long it lives on, in seconds.
    pub life_secs: Option<f64>,
}

/// The token of an account, if any was ever asked for.
pub async fn read(db: impl PgExecutor<'_>, vendor: &str, account: &str) -> sqlx::Result<Option<SealedToken>> {
    sqlx::query_as(
        "select generation, key_id, sealed_data_key, token, extract(epoch from expires_at - now())::float8 as life_secs \
         from vendor_token where vendor = $1 and account = $2",
    )
    .bind(vendor)
    .bind(account)
    .fetch_optional(db)
    .await
}

/// Begins to get the token after `generation`, alone: `false` while somebody else is at it or has it already.
pub async fn begin_refresh(
    db: impl PgExecutor<'_>,
    vendor: &str,
    account: &str,
    generation: i64,
    refresher: Uuid,
    lease: Duration,
) -> sqlx::Result<bool> {
    sqlx::query(
        "insert into vendor_token as t (vendor, account, refresher, refresh_until) values ($1, $2, $4, now() + $5) \
         on conflict (vendor, account) do update set refresher = $4, refresh_until = now() + $5 \
         where t.generation = $3 and (t.refresh_until is null or t.refresh_until <= now())",
    )
    .bind(vendor)
    .bind(account)
    .bind(generation)
    .bind(refresher)
    .bind(interval(lease)?)
    .execute(db)
    .await
    .map(|result| result.rows_affected() > 0)
}

/// A new token, sealed.
#[derive(Debug)]
pub struct NewToken<'a> {
    pub key_id: &'a str,
    pub sealed_data_key: &'a [u8],
    pub token: &'a [u8],
    pub expires_at: DateTime<Utc>,
}

/// Keeps what `refresher` got; `None` when it took too long and somebody else is at it.
pub async fn end_refresh(
    db: impl PgExecutor<'_>,
    vendor: &str,
    account: &str,
    refresher: Uuid,
    new: &NewToken<'_>,
) -> sqlx::Result<Option<i64>> {
    sqlx::query_scalar(
        "update vendor_token set generation = generation + 1, key_id = $4, sealed_data_key = $5, token = $6, \
         issued_at = now(), expires_at = $7, refresher = null, refresh_until = null \
         where vendor = $1 and account = $2 and refresher = $3 returning generation",
    )
    .bind(vendor)
    .bind(account)
    .bind(refresher)
    .bind(new.key_id)
    .bind(new.sealed_data_key)
    .bind(new.token)
    .bind(new.expires_at)
    .fetch_optional(db)
    .await
}

/// Lets another try.
pub async fn abandon_refresh(
    db: impl PgExecutor<'_>,
    vendor: &str,
    account: &str,
    refresher: Uuid,
) -> sqlx::Result<()> {
    sqlx::query(
        "update vendor_token set refresher = null, refresh_until = null \
         where vendor = $1 and account = $2 and refresher = $3",
    )
    .bind(vendor)
    .bind(account)
    .bind(refresher)
    .execute(db)
    .await
    .map(drop)
}
