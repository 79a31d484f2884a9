//! Destinations and their sealed credentials.

use sqlx::PgExecutor;

use crate::{
    exports::record::{DestinationRecord, Health},
    ids::DestinationId,
};

macro_rules! columns {
    () => {
        "destination_id, name, display_name, url, settings, health, health_detail, health_checked_at, \
         credential_version, created_at, updated_at"
    };
}

/// A destination with what the vault needs to open its credentials.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct SealedDestination {
    #[sqlx(flatten)]
    pub record: DestinationRecord,
    pub key_id: String,
    pub sealed_data_key: Vec<u8>,
    /// `None`: the process's own are used.
    pub credentials: Option<Vec<u8>>,
}

/// Every destination, by name.
pub async fn list(db: impl PgExecutor<'_>) -> sqlx::Result<Vec<DestinationRecord>> {
    sqlx::query_as(concat!("select ", columns!(), " from destination order by name")).fetch_all(db).await
}

/// The destination of that name.
pub async fn by_name(db: impl PgExecutor<'_>, name: &str) -> sqlx::Result<Option<DestinationRecord>> {
    sqlx::query_as(concat!("select ", columns!(), " from destination where name = $1"))
        .bind(name)
        .fetch_optional(db)
        .await
}

/// The destination of that name, which is not deleted before the transaction ends.
pub async fn keep_by_name(db: impl PgExecutor<'_>, name: &str) -> sqlx::Result<Option<DestinationRecord>> {
    sqlx::query_as(concat!("select ", columns!(), " from destination where name = $1 for key share"))
        .bind(name)
        .fetch_optional(db)
        .await
}

/// Takes the name for this transaction, also while no destination has it: two who would make it take turns.
pub async fn lock_name(db: impl PgExecutor<'_>, name: &str) -> sqlx::Result<()> {
    sqlx::query("select pg_advisory_xact_lock(hashtextextended($1, 13))").bind(name).execute(db).await.map(drop)
}

/// Exports are staged for a destination one at a time until the transaction ends.
pub async fn lock(db: impl PgExecutor<'_>, id: DestinationId) -> sqlx::Result<()> {
    sqlx::query("select from destination where destination_id = $1 for no key update")
        .bind(id)
        .execute(db)
        .await
        .map(drop)
}

/// The destination of that name with its sealed parts, locked against a change of them and new exports.
pub async fn lock_sealed_by_name(db: impl PgExecutor<'_>, name: &str) -> sqlx::Result<Option<SealedDestination>> {
    sqlx::query_as(concat!(
        "select ",
        columns!(),
        ", key_id, sealed_data_key, credentials from destination where name = $1 for update"
    ))
    .bind(name)
    .fetch_optional(db)
    .await
}

/// The destination of that name with its sealed parts.
pub async fn sealed_by_name(db: impl PgExecutor<'_>, name: &str) -> sqlx::Result<Option<SealedDestination>> {
    sqlx::query_as(concat!(
        "select ",
        columns!(),
        ", key_id, sealed_data_key, credentials from destination where name = $1"
    ))
    .bind(name)
    .fetch_optional(db)
    .await
}

/// The destination of that id with its sealed parts.
pub async fn sealed_by_id(db: impl PgExecutor<'_>, id: DestinationId) -> sqlx::Result<Option<SealedDestination>> {
    sqlx::query_as(concat!(
        "select ",
        columns!(),
        ", key_id, sealed_data_key, credentials from destination where destination_id = $1"
    ))
    .bind(id)
    .fetch_optional(db)
    .await
}

/// Destinations whose data key is sealed under another master key than this one.
pub async fn not_sealed_under(db: impl PgExecutor<'_>, key_id: &str) -> sqlx::Result<Vec<SealedDestination>> {
    sqlx::query_as(concat!(
        "select ",
        columns!(),
        ", key_id, sealed_data_key, credentials from destination where key_id <> $1 order by name"
    ))
    .bind(key_id)
    .fetch_all(db)
    .await
}

/// Puts the data key of `old` in again, sealed under another master key, unless somebody was faster.
pub async fn replace_sealed_key(
    db: impl PgExecutor<'_>,
    old: &SealedDestination,
    key_id: &str,
    sealed_data_key: &[u8],
) -> sqlx::Result<()> {
    sqlx::query(
        "update destination set key_id = $3, sealed_data_key = $4 \
         where destination_id = $1 and sealed_data_key = $2",
    )
    .bind(old.record.destination_id)
    .bind(&old.sealed_data_key)
    .bind(key_id)
    .bind(sealed_data_key)
    .execute(db)
    .await
    .map(drop)
}

/// Adds a destination.
pub async fn insert(db: impl PgExecutor<'_>, sealed: &SealedDestination) -> sqlx::Result<DestinationRecord> {
    let SealedDestination { record, key_id, sealed_data_key, credentials } = sealed;
    sqlx::query_as(concat!(
        "insert into destination (destination_id, name, display_name, url, settings, key_id, sealed_data_key, \
         credentials, credential_version) values ($1, $2, $3, $4, $5, $6, $7, $8, $9) returning ",
        columns!()
    ))
    .bind(record.destination_id)
    .bind(&record.name)
    .bind(&record.display_name)
    .bind(&record.url)
    .bind(&record.settings)
    .bind(key_id)
    .bind(sealed_data_key)
    .bind(credentials)
    .bind(record.credential_version)
    .fetch_one(db)
    .await
}

/// Changes everything of a destination but its credentials. What was known of its health no longer holds.
pub async fn update(
    db: impl PgExecutor<'_>,
    id: DestinationId,
    display_name: &str,
    url: &str,
    settings: &serde_json::Value,
) -> sqlx::Result<DestinationRecord> {
    sqlx::query_as(concat!(
        "update destination set display_name = $2, url = $3, settings = $4, updated_at = now(), \
         health = 'unknown', health_detail = null, health_checked_at = null where destination_id = $1 returning ",
        columns!()
    ))
    .bind(id)
    .bind(display_name)
    .bind(url)
    .bind(settings)
    .fetch_one(db)
    .await
}

/// Puts a new version of the credentials in force; `None` and 0 leave it to the process's own.
pub async fn set_credentials(
    db: impl PgExecutor<'_>,
    id: DestinationId,
    credentials: Option<&[u8]>,
    version: i32,
) -> sqlx::Result<DestinationRecord> {
    sqlx::query_as(concat!(
        "update destination set credentials = $2, credential_version = $3, updated_at = now(), \
         health = 'unknown', health_detail = null, health_checked_at = null where destination_id = $1 returning ",
        columns!()
    ))
    .bind(id)
    .bind(credentials)
    .bind(version)
    .fetch_one(db)
    .await
}

/// Notes what a try of `tried` showed; says nothing about a destination that was changed since.
pub async fn set_health(
    db: impl PgExecutor<'_>,
    tried: &DestinationRecord,
    health: Health,
    detail: Option<&str>,
) -> sqlx::Result<()> {
    sqlx::query(
        "update destination set health = $3, health_detail = $4, health_checked_at = now() \
         where destination_id = $1 and updated_at = $2",
    )
    .bind(tried.destination_id)
    .bind(tried.updated_at)
    .bind(health)
    .bind(detail)
    .execute(db)
    .await
    .map(drop)
}

/// Deletes a locked destination unless exports are on their way to it; says whether it did.
pub async fn delete_unused(db: impl PgExecutor<'_>, id: DestinationId) -> sqlx::Result<bool> {
    sqlx::query(
        "delete from destination d where destination_id = $1 and not exists \
         (select from export e where e.destination_id = d.destination_id and e.finished_at is null)",
    )
    .bind(id)
    .execute(db)
    .await
    .map(|result| result.rows_affected() > 0)
}
