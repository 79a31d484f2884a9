//! Endpoints of webhooks, with their sealed addresses and secrets.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, Utc};
use sqlx::{PgExecutor, types::Json};

use super::exports::interval;
use crate::{
    exports::webhook::{DisabledReason, EndpointRecord, EventType},
    ids::WebhookEndpointId,
};

macro_rules! columns {
    () => {
        "webhook_endpoint_id, tenant, created_by, description, event_types, labels, host, secret_version, \
         previous_secret_until, disabled_at, disabled_reason, failing_since, created_at, updated_at"
    };
}

macro_rules! sealed_columns {
    () => {
        concat!(columns!(), ", key_id, sealed_data_key, url, secret, previous_secret")
    };
}

/// An endpoint with what the vault needs to open address and secrets.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct SealedEndpoint {
    #[sqlx(flatten)]
    pub record: EndpointRecord,
    #[sqlx(flatten)]
    pub sealed: Sealed,
}

/// The sealed parts of an endpoint.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Sealed {
    pub key_id: String,
    pub sealed_data_key: Vec<u8>,
    pub url: Vec<u8>,
    pub secret: Vec<u8>,
    pub previous_secret: Option<Vec<u8>>,
}

/// What of an endpoint its owner can change.
#[derive(Debug)]
pub struct Changed<'a> {
    pub description: &'a str,
    pub event_types: &'a [EventType],
    pub labels: &'a BTreeMap<String, String>,
    pub url: &'a [u8],
    pub host: &'a str,
}

/// Takes the tenant's endpoints for this transaction: those who would add one take turns.
pub async fn lock_tenant(db: impl PgExecutor<'_>, tenant: &str) -> sqlx::Result<()> {
    sqlx::query("select pg_advisory_xact_lock(hashtextextended($1, 17))").bind(tenant).execute(db).await.map(drop)
}

/// How many the tenant has.
pub async fn count(db: impl PgExecutor<'_>, tenant: &str) -> sqlx::Result<i64> {
    sqlx::query_scalar("select count(*) from webhook_endpoint where tenant = $1").bind(tenant).fetch_one(db).await
}

/// Adds an endpoint.
pub async fn insert(db: impl PgExecutor<'_>, endpoint: &SealedEndpoint) -> sqlx::Result<SealedEndpoint> {
    let SealedEndpoint { record, sealed } = endpoint;
    sqlx::query_as(concat!(
        "insert into webhook_endpoint (webhook_endpoint_id, tenant, created_by, description, event_types, labels, host, \
         key_id, sealed_data_key, url, secret) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) returning ",
        sealed_columns!()
    ))
    .bind(record.webhook_endpoint_id)
    .bind(&record.tenant)
    .bind(&record.created_by)
    .bind(&record.description)
    .bind(names(&record.event_types))
    .bind(&record.labels)
    .bind(&record.host)
    .bind(&sealed.key_id)
    .bind(&sealed.sealed_data_key)
    .bind(&sealed.url)
    .bind(&sealed.secret)
    .fetch_one(db)
    .await
}

fn names(event_types: &[EventType]) -> Vec<&'static str> {
    event_types.iter().map(|event_type| event_type.as_str()).collect()
}

/// One page of a tenant's endpoints, newest first.
pub async fn list(
    db: impl PgExecutor<'_>,
    tenant: &str,
    before: Option<WebhookEndpointId>,
    limit: i64,
) -> sqlx::Result<Vec<SealedEndpoint>> {
    sqlx::query_as(concat!(
        "select ",
        sealed_columns!(),
        " from webhook_endpoint where tenant = $1 and ($2::uuid is null or webhook_endpoint_id < $2) \
         order by webhook_endpoint_id desc limit $3"
    ))
    .bind(tenant)
    .bind(before)
    .bind(limit)
    .fetch_all(db)
    .await
}

/// The tenant's endpoint.
pub async fn by_id(
    db: impl PgExecutor<'_>,
    tenant: &str,
    id: WebhookEndpointId,
) -> sqlx::Result<Option<SealedEndpoint>> {
    sqlx::query_as(concat!(
        "select ",
        sealed_columns!(),
        " from webhook_endpoint where webhook_endpoint_id = $2 and tenant = $1"
    ))
    .bind(tenant)
    .bind(id)
    .fetch_optional(db)
    .await
}

/// The tenant's endpoint, locked against changes but not against new deliveries.
pub async fn lock(
    db: impl PgExecutor<'_>,
    tenant: &str,
    id: WebhookEndpointId,
) -> sqlx::Result<Option<SealedEndpoint>> {
    sqlx::query_as(concat!(
        "select ",
        sealed_columns!(),
        " from webhook_endpoint where webhook_endpoint_id = $2 and tenant = $1 for no key update"
    ))
    .bind(tenant)
    .bind(id)
    .fetch_optional(db)
    .await
}

/// Changes a locked endpoint.
pub async fn update(
    db: impl PgExecutor<'_>,
    id: WebhookEndpointId,
    changed: &Changed<'_>,
) -> sqlx::Result<SealedEndpoint> {
    sqlx::query_as(concat!(
        "update webhook_endpoint set description = $2, event_types = $3, labels = $4, url = $5, host = $6, \
         updated_at = now() where webhook_endpoint_id = $1 returning ",
        sealed_columns!()
    ))
    .bind(id)
    .bind(changed.description)
    .bind(names(changed.event_types))
    .bind(Json(changed.labels))
    .bind(changed.url)
    .bind(changed.host)
    .fetch_one(db)
    .await
}

/// Puts a new secret in force; the one before signs too for `grace`.
pub async fn rotate(
    db: impl PgExecutor<'_>,
    id: WebhookEndpointId,
    secret: &[u8],
    grace: Duration,
) -> sqlx::Result<SealedEndpoint> {
    sqlx::query_as(concat!(
        "update webhook_endpoint set secret = $2, secret_version = secret_version + 1, \
         previous_secret = case when $3 > interval '0' then secret end, \
         previous_secret_until = case when $3 > interval '0' then now() + $3 end, updated_at = now() \
         where webhook_endpoint_id = $1 returning ",
        sealed_columns!()
    ))
    .bind(id)
    .bind(secret)
    .bind(interval(grace)?)
    .fetch_one(db)
    .await
}

/// Tells a disabled endpoint again; what it was not told meanwhile stays so until it is replayed.
pub async fn enable(db: impl PgExecutor<'_>, id: WebhookEndpointId) -> sqlx::Result<SealedEndpoint> {
    sqlx::query_as(concat!(
        "update webhook_endpoint set disabled_at = null, disabled_reason = null, failing_since = null, \
         updated_at = now() where webhook_endpoint_id = $1 returning ",
        sealed_columns!()
    ))
    .bind(id)
    .fetch_one(db)
    .await
}

/// Tells an endpoint nothing any more; one that is disabled already keeps its reason. Its deliveries are to be given up
/// in the same transaction.
pub async fn disable(
    db: impl PgExecutor<'_>,
    id: WebhookEndpointId,
    reason: DisabledReason,
) -> sqlx::Result<SealedEndpoint> {
    sqlx::query_as(concat!(
        "update webhook_endpoint set disabled_at = coalesce(disabled_at, now()), \
         disabled_reason = coalesce(disabled_reason, $2), updated_at = now() where webhook_endpoint_id = $1 returning ",
        sealed_columns!()
    ))
    .bind(id)
    .bind(reason)
    .fetch_one(db)
    .await
}

/// Deletes the tenant's endpoint with its deliveries; says whether it was there.
pub async fn delete(db: impl PgExecutor<'_>, tenant: &str, id: WebhookEndpointId) -> sqlx::Result<bool> {
    sqlx::query("delete from webhook_endpoint where webhook_endpoint_id = $2 and tenant = $1")
        .bind(tenant)
        .bind(id)
        .execute(db)
        .await
        .map(|result| result.rows_affected() > 0)
}

/// An endpoint took a message.
pub async fn note_success(db: impl PgExecutor<'_>, id: WebhookEndpointId) -> sqlx::Result<()> {
    sqlx::query(
        "update webhook_endpoint set failing_since = null where webhook_endpoint_id = $1 and failing_since is not null",
    )
    .bind(id)
    .execute(db)
    .await
    .map(drop)
}

/// How an endpoint stands that has just failed.
#[derive(Debug, Clone, Copy, sqlx::FromRow)]
pub struct Failing {
    pub failing_since: DateTime<Utc>,
    pub disabled_at: Option<DateTime<Utc>>,
    /// The database's clock.
    pub now: DateTime<Utc>,
}

/// An endpoint did not take a message. Locks it. `None` when it is gone.
pub async fn note_failure(db: impl PgExecutor<'_>, id: WebhookEndpointId) -> sqlx::Result<Option<Failing>> {
    sqlx::query_as(
        "update webhook_endpoint set failing_since = coalesce(failing_since, now()) where webhook_endpoint_id = $1 \
         returning failing_since, disabled_at, now() as now",
    )
    .bind(id)
    .fetch_optional(db)
    .await
}

/// Endpoints whose data key is sealed under another master key than this one.
pub async fn not_sealed_under(db: impl PgExecutor<'_>, key_id: &str) -> sqlx::Result<Vec<SealedEndpoint>> {
    sqlx::query_as(concat!("select ", sealed_columns!(), " from webhook_endpoint where key_id <> $1"))
        .bind(key_id)
        .fetch_all(db)
        .await
}

/// Replaces the sealed form of the same data key, unless another process did so already.
pub async fn replace_sealed_key(
    db: impl PgExecutor<'_>,
    old: &SealedEndpoint,
    key_id: &str,
    sealed_data_key: &[u8],
) -> sqlx::Result<()> {
    sqlx::query(
        "update webhook_endpoint set key_id = $3, sealed_data_key = $4 \
         where webhook_endpoint_id = $1 and sealed_data_key = $2",
    )
    .bind(old.record.webhook_endpoint_id)
    .bind(&old.sealed.sealed_data_key)
    .bind(key_id)
    .bind(sealed_data_key)
    .execute(db)
    .await
    .map(drop)
}
