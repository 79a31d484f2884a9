//! The manifest of a result, and results whose life is over.

use sqlx::PgExecutor;

use crate::{
    exports::record::FileRecord,
    ids::{ExportId, FileId},
};

macro_rules! columns {
    () => {
        "file_id, export_id, name, object_key, media_type, compression, bytes, records, sha256, location"
    };
}

/// Names a file of an export; call in the transaction that completes or stages it.
pub async fn insert(db: impl PgExecutor<'_>, position: i32, file: &FileRecord) -> sqlx::Result<()> {
    sqlx::query(
        "insert into result_file (file_id, export_id, position, name, object_key, media_type, compression, bytes, \
         records, sha256) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
    )
    .bind(file.file_id)
    .bind(file.export_id)
    .bind(position)
    .bind(&file.name)
    .bind(&file.object_key)
    .bind(&file.media_type)
    .bind(&file.compression)
    .bind(file.bytes)
    .bind(file.records)
    .bind(&file.sha256)
    .execute(db)
    .await
    .map(drop)
}

/// Notes that every file of an export has been delivered below `base`; call in the transaction that completes it.
pub async fn set_locations(db: impl PgExecutor<'_>, id: ExportId, base: &str) -> sqlx::Result<()> {
    sqlx::query("update result_file set location = $2 || name where export_id = $1")
        .bind(id)
        .bind(base)
        .execute(db)
        .await
        .map(drop)
}

/// Forgets the files of an export that ends without a result.
pub async fn forget(db: impl PgExecutor<'_>, id: ExportId) -> sqlx::Result<()> {
    sqlx::query("delete from result_file where export_id = $1").bind(id).execute(db).await.map(drop)
}

/// The files of these exports, in order.
pub async fn of_exports(db: impl PgExecutor<'_>, ids: &[ExportId]) -> sqlx::Result<Vec<FileRecord>> {
    let ids: Vec<uuid::Uuid> = ids.iter().map(|id| id.0).collect();
    sqlx::query_as(concat!(
        "select ",
        columns!(),
        " from result_file where export_id = any($1) order by export_id, position"
    ))
    .bind(ids)
    .fetch_all(db)
    .await
}

/// One file of an export.
pub async fn by_id(db: impl PgExecutor<'_>, export: ExportId, file: FileId) -> sqlx::Result<Option<FileRecord>> {
    sqlx::query_as(concat!("select ", columns!(), " from result_file where export_id = $1 and file_id = $2"))
        .bind(export)
        .bind(file)
        .fetch_optional(db)
        .await
}

/// Exports whose result is expired or deleted while its files still lie in the object store.
pub async fn to_sweep(db: impl PgExecutor<'_>, limit: i64) -> sqlx::Result<Vec<ExportId>> {
    sqlx::query_scalar(
        "select export_id from export where result_expires_at is not null and result_swept_at is null \
         and (result_expires_at <= now() or result_deleted_at is not null) order by result_expires_at limit $1",
    )
    .bind(limit)
    .fetch_all(db)
    .await
}

/// Notes that the files are gone.
pub async fn mark_swept(db: impl PgExecutor<'_>, id: ExportId) -> sqlx::Result<()> {
    sqlx::query("update export set result_swept_at = now(), version = version + 1 where export_id = $1")
        .bind(id)
        .execute(db)
        .await
        .map(drop)
}
