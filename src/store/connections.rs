//! Connections and their sealed credentials.

use sqlx::{PgExecutor, types::Json};

use crate::{
    exports::record::{ConnectionRecord, Health},
    ids::ConnectionId,
};

macro_rules! columns {
    () => {
        "connection_id, name, vendor, display_name, settings, mapping, health, health_detail, health_checked_at, \
         credential_version, created_at, updated_at"
    };
}

/// A connection with what the vault needs to open its credentials.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct SealedConnection {
    #[sqlx(flatten)]
    pub record: ConnectionRecord,
    pub key_id: String,
    pub sealed_data_key: Vec<u8>,
    pub credentials: Vec<u8>,
}

/// Every connection, by name.
pub async fn list(db: impl PgExecutor<'_>) -> sqlx::Result<Vec<ConnectionRecord>> {
    sqlx::query_as(concat!("select ", columns!(), " from connection order by name")).fetch_all(db).await
}

/// The connection of that name.
pub async fn by_name(db: impl PgExecutor<'_>, name: &str) -> sqlx::Result<Option<ConnectionRecord>> {
    sqlx::query_as(concat!("select ", columns!(), " from connection where name = $1"))
        .bind(name)
        .fetch_optional(db)
        .await
}

/// Takes the name for this transaction, also while no connection has it: two who would make it take turns.
pub async fn lock_name(db: impl PgExecutor<'_>, name: &str) -> sqlx::Result<()> {
    sqlx::query("select pg_advisory_xact_lock(hashtextextended($1, 11))").bind(name).execute(db).await.map(drop)
}

/// The connection of that name with its sealed parts, locked against a change of them.
pub async fn lock_sealed_by_name(db: impl PgExecutor<'_>, name: &str) -> sqlx::Result<Option<SealedConnection>> {
    sqlx::query_as(concat!(
        "select ",
        columns!(),
        ", key_id, sealed_data_key, credentials from connection where name = $1 for update"
    ))
    .bind(name)
    .fetch_optional(db)
    .await
}

/// The connection of that id with its sealed parts.
pub async fn sealed_by_id(db: impl PgExecutor<'_>, id: ConnectionId) -> sqlx::Result<Option<SealedConnection>> {
    sqlx::query_as(concat!(
        "select ",
        columns!(),
        ", key_id, sealed_data_key, credentials from connection where connection_id = $1"
    ))
    .bind(id)
    .fetch_optional(db)
    .await
}

/// Connections whose data key is sealed under another master key than this one.
pub async fn not_sealed_under(db: impl PgExecutor<'_>, key_id: &str) -> sqlx::Result<Vec<SealedConnection>> {
    sqlx::query_as(concat!(
        "select ",
        columns!(),
        ", key_id, sealed_data_key, credentials from connection where key_id <> $1 order by name"
    ))
    .bind(key_id)
    .fetch_all(db)
    .await
}

/// Replaces the sealed form of the same data key, unless another process did so already.
pub async fn replace_sealed_key(
    db: impl PgExecutor<'_>,
    old: &SealedConnection,
    key_id: &str,
    sealed_data_key: &[u8],
) -> sqlx::Result<()> {
    sqlx::query(
        "update connection set key_id = $3, sealed_data_key = $4 where connection_id = $1 and sealed_data_key = $2",
    )
    .bind(old.record.connection_id)
    .bind(&old.sealed_data_key)
    .bind(key_id)
    .bind(sealed_data_key)
    .execute(db)
    .await
    .map(drop)
}

/// Adds a connection; fails on a taken name.
pub async fn insert(db: impl PgExecutor<'_>, connection: &SealedConnection) -> sqlx::Result<ConnectionRecord> {
    let SealedConnection { record, key_id, sealed_data_key, credentials } = connection;
    sqlx::query_as(concat!(
        "insert into connection (connection_id, name, vendor, display_name, settings, mapping, key_id, \
         sealed_data_key, credentials) values ($1, $2, $3, $4, $5, $6, $7, $8, $9) returning ",
        columns!()
    ))
    .bind(record.connection_id)
    .bind(&record.name)
    .bind(&record.vendor)
    .bind(&record.display_name)
    .bind(&record.settings)
    .bind(&record.mapping)
    .bind(key_id)
    .bind(sealed_data_key)
    .bind(credentials)
    .fetch_one(db)
    .await
}

/// Changes everything of a connection but its credentials. What was known of its health no longer holds.
pub async fn update(
    db: impl PgExecutor<'_>,
    id: ConnectionId,
    display_name: &str,
    settings: &serde_json::Value,
    mapping: &Json<crate::exports::mapping::ConnectionMapping>,
) -> sqlx::Result<ConnectionRecord> {
    sqlx::query_as(concat!(
        "update connection set display_name = $2, settings = $3, mapping = $4, updated_at = now(), \
         health = 'unknown', health_detail = null, health_checked_at = null where connection_id = $1 returning ",
        columns!()
    ))
    .bind(id)
    .bind(display_name)
    .bind(settings)
    .bind(mapping)
    .fetch_one(db)
    .await
}

/// Puts a new version of the credentials in force.
pub async fn set_credentials(
    db: impl PgExecutor<'_>,
    id: ConnectionId,
    credentials: &[u8],
) -> sqlx::Result<ConnectionRecord> {
    sqlx::query_as(concat!(
        "update connection set credentials = $2, credential_version = credential_version + 1, updated_at = now(), \
         health = 'unknown', health_detail = null, health_checked_at = null where connection_id = $1 returning ",
        columns!()
    ))
    .bind(id)
    .bind(credentials)
    .fetch_one(db)
    .await
}

/// Notes whether the credentials of `version` work; says nothing about newer ones.
pub async fn set_health(
    db: impl PgExecutor<'_>,
    id: ConnectionId,
    version: i32,
    health: Health,
    detail: Option<&str>,
) -> sqlx::Result<()> {
    sqlx::query(
        "update connection set health = $3, health_detail = $4, health_checked_at = now() \
         where connection_id = $1 and credential_version = $2",
    )
    .bind(id)
    .bind(version)
    .bind(health)
    .bind(detail)
    .execute(db)
    .await
    .map(drop)
}

/// Deletes a connection unless exports run over it; says whether it did.
pub async fn delete_unused(db: impl PgExecutor<'_>, id: ConnectionId) -> sqlx::Result<bool> {
    sqlx::query(
        "delete from connection c where connection_id = $1 and not exists \
         (select from live_export e where e.connection_id = c.connection_id)",
    )
    .bind(id)
    .execute(db)
    .await
    .map(|result| result.rows_affected() > 0)
}
