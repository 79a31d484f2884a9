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

/// The folders that an export's files lie in.
pub async fn folders_of(db: impl PgExecutor<'_>, id: ExportId) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar(
        "select distinct o.folder from result_file f join result_object o on o.object_key = f.object_key \
         where f.export_id = $1",
    )
    .bind(id)
    .fetch_all(db)
    .await
}

/// Folders with objects that no manifest names any more.
pub async fn folders_to_sweep(db: impl PgExecutor<'_>, limit: i64) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar("select distinct folder from result_object where unreferenced_at is not null limit $1")
        .bind(limit)
        .fetch_all(db)
        .await
}

/// Objects of one folder, by their keys.
#[derive(Debug, sqlx::FromRow)]
pub struct Objects {
    /// Named by some manifest.
    pub referenced: Vec<String>,
    pub unreferenced: Vec<String>,
}

/// The objects of a folder, all seen at one moment.
pub async fn objects_below(db: impl PgExecutor<'_>, folder: &str) -> sqlx::Result<Objects> {
    sqlx::query_as(
        "select coalesce(array_agg(object_key) filter (where unreferenced_at is null), '{}') as referenced, \
         coalesce(array_agg(object_key) filter (where unreferenced_at is not null), '{}') as unreferenced \
         from result_object where folder = $1",
    )
    .bind(folder)
    .fetch_one(db)
    .await
}

/// Forgets objects that are gone.
pub async fn forget_objects(db: impl PgExecutor<'_>, keys: &[String]) -> sqlx::Result<()> {
    sqlx::query("delete from result_object where object_key = any($1) and unreferenced_at is not null")
        .bind(keys)
        .execute(db)
        .await
        .map(drop)
}

/// Gives up the files: the manifest goes, and with the last one that names an object the object may go.
pub async fn mark_swept(db: impl PgExecutor<'_>, id: ExportId) -> sqlx::Result<()> {
    sqlx::query("update export set result_swept_at = coalesce(result_swept_at, now()), version = version + 1 where export_id = $1")
        .bind(id)
        .execute(db)
        .await
        .map(drop)
}
