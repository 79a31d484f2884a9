//! The parts of an export that is asked for piecewise. Every write names the claim that its worker holds.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::{PgExecutor, types::Json};
use uuid::Uuid;

use super::{Held, exports::interval};
use crate::ids::{ExportId, FileId};

/// One pending part.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct PendingPart {
    pub number: i32,
    pub part: String,
    pub first_asked_at: Option<DateTime<Utc>>,
    pub failures: i32,
    pub vendor_status: Option<String>,
    pub seen_ready: bool,
    /// Stored already, in an earlier try.
    pub files: Json<Vec<PartFile>>,
}

/// A stored file of a part, and which of the vendor's files it came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartFile {
    /// Position and tag of the vendor's file.
    pub source: String,
    pub file_id: FileId,
    pub name: String,
    pub object_key: String,
    pub media_type: String,
    pub compression: String,
    pub bytes: u64,
    pub records: Option<u64>,
    /// In Base64.
    pub sha256: String,
    /// Bytes as received from the vendor.
    pub received: u64,
}

/// How far all parts are.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Tally {
    pub total: i64,
    pub done: i64,
    /// Of all stored files.
    pub records: i64,
    pub bytes_read: i64,
    pub bytes_written: i64,
    /// Until the next pending part is due, in seconds.
    pub next_due_secs: Option<f64>,
    /// What the vendor said last of some pending part.
    pub vendor_status: Option<String>,
    /// The most failures in a row of a pending part.
    pub failures: i32,
}

/// Adds the parts of an export; those that are there already stay.
pub async fn insert(db: impl PgExecutor<'_>, id: ExportId, parts: &[String]) -> sqlx::Result<()> {
    sqlx::query(
        "insert into export_part (export_id, number, part) \
         select $1, number, part from unnest($2::text[]) with ordinality as given (part, number) \
         on conflict do nothing",
    )
    .bind(id)
    .bind(parts)
    .execute(db)
    .await
    .map(drop)
}

/// Up to `limit` parts that are due, longest first.
pub async fn pending(db: impl PgExecutor<'_>, id: ExportId, limit: i64) -> sqlx::Result<Vec<PendingPart>> {
    sqlx::query_as(
        "select number, part, first_asked_at, failures, vendor_status, seen_ready, files \
         from export_part where export_id = $1 and done_at is null and due_at <= now() order by due_at, number limit $2",
    )
    .bind(id)
    .bind(limit)
    .fetch_all(db)
    .await
}

/// How far the export is.
pub async fn tally(db: impl PgExecutor<'_>, id: ExportId) -> sqlx::Result<Tally> {
    sqlx::query_as(
        "select count(*) as total, count(done_at) as done, \
         coalesce(sum(files.records), 0)::bigint as records, coalesce(sum(files.received), 0)::bigint as bytes_read, \
         coalesce(sum(files.bytes), 0)::bigint as bytes_written, \
         extract(epoch from min(due_at) filter (where done_at is null) - now())::float8 as next_due_secs, \
         min(vendor_status) filter (where done_at is null) as vendor_status, \
         coalesce(max(failures) filter (where done_at is null), 0) as failures \
         from export_part, lateral (select sum((file ->> 'records')::bigint) as records, \
              sum((file ->> 'received')::bigint) as received, sum((file ->> 'bytes')::bigint) as bytes \
              from jsonb_array_elements(files) file) files \
         where export_id = $1",
    )
    .bind(id)
    .fetch_one(db)
    .await
}

/// The stored files of every part, in order.
pub async fn files(db: impl PgExecutor<'_>, id: ExportId) -> sqlx::Result<Vec<PartFile>> {
    let files: Vec<Json<PartFile>> = sqlx::query_scalar(
        "select file from export_part, jsonb_array_elements(files) with ordinality as stored (file, position) \
         where export_id = $1 order by number, position",
    )
    .bind(id)
    .fetch_all(db)
    .await?;
    Ok(files.into_iter().map(|Json(file)| file).collect())
}

/// How a part is left that is not done.
#[derive(Debug, Clone)]
pub struct LeavePart<'a> {
    /// Until it is asked for again.
    pub after: Duration,
    pub failures: i32,
    /// The vendor's last words; `None` keeps the ones before.
    pub vendor_status: Option<&'a str>,
}

/// Leaves a part for a while.
pub async fn leave(
    db: impl PgExecutor<'_>,
    id: ExportId,
    claim: Uuid,
    number: i32,
    leave: &LeavePart<'_>,
) -> sqlx::Result<Held> {
    sqlx::query(
        "update export_part set due_at = now() + $4, failures = $5, vendor_status = coalesce($6, vendor_status), \
         first_asked_at = coalesce(first_asked_at, now()) \
         where export_id = $1 and number = $3 and exists (select from export where export_id = $1 and claim = $2)",
    )
    .bind(id)
    .bind(claim)
    .bind(number)
    .bind(interval(leave.after)?)
    .bind(leave.failures)
    .bind(leave.vendor_status)
    .execute(db)
    .await
    .map(Held::from)
}

/// Notes that the vendor has the files of a part.
pub async fn mark_ready(db: impl PgExecutor<'_>, id: ExportId, claim: Uuid, number: i32) -> sqlx::Result<Held> {
    sqlx::query(
        "update export_part set seen_ready = true, first_asked_at = coalesce(first_asked_at, now()) \
         where export_id = $1 and number = $3 and exists (select from export where export_id = $1 and claim = $2)",
    )
    .bind(id)
    .bind(claim)
    .bind(number)
    .execute(db)
    .await
    .map(Held::from)
}

/// Keeps a stored file of a part; with `done` the part is done.
pub async fn keep(
    db: impl PgExecutor<'_>,
    id: ExportId,
    claim: Uuid,
    number: i32,
    files: &[PartFile],
    done: bool,
) -> sqlx::Result<Held> {
    sqlx::query(
        "update export_part set files = $4, failures = 0, done_at = case when $5 then now() end \
         where export_id = $1 and number = $3 and done_at is null \
         and exists (select from export where export_id = $1 and claim = $2)",
    )
    .bind(id)
    .bind(claim)
    .bind(number)
    .bind(Json(files))
    .bind(done)
    .execute(db)
    .await
    .map(Held::from)
}
