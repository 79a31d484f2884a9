//! Exports as callers ask for them and see them. What workers write is in [`super::engine`].

use std::time::Duration;

use serde_json::Value;
use sqlx::{PgExecutor, postgres::types::PgInterval, types::Json};

use crate::{
    exports::{
        record::{AttemptRecord, EventRecord, ExportRecord},
        request::{Dataset, Delivery, Output, Priority},
        state::{State, Transition},
    },
    ids::{ConnectionId, DestinationId, ExportId},
};

/// How often a follower looks on its own whether the export it follows still lives: it is told, this is the fallback.
pub(super) const LOOK_AT_LEADER: Duration = Duration::from_mins(10);

macro_rules! export_columns {
    () => {
        "export_id, tenant, created_by, connection_id, connection, vendor, dataset, parameters, output, delivery, \
         delivery_path, labels, priority, coalesced_with, follows, run_id, state, phase, waiting_reason, attempt, retry_at, retry_of, records, bytes_read, bytes_written, \
         files_done, files_total, created_at, started_at, last_progress_at, finished_at, deadline_at, error, warnings, \
         vendor_status, vendor_reference, result_expires_at, data_as_of, result_deleted_at, version, \
         schedule_id, scheduled_for"
    };
}
pub(super) use export_columns;

/// A new export, before the database gives it times.
#[derive(Debug)]
pub struct NewExport<'a> {
    pub export_id: ExportId,
    pub tenant: &'a str,
    pub created_by: &'a str,
    pub connection_id: ConnectionId,
    pub connection: &'a str,
    pub vendor: &'a str,
    pub dataset: Dataset,
    pub parameters: &'a Value,
    pub output: Output,
    pub delivery: &'a Delivery,
    pub destination: Option<DestinationId>,
    pub delivery_path: Option<&'a str>,
    pub labels: &'a std::collections::BTreeMap<String, String>,
    pub deadline: Duration,
    pub warnings: &'a [String],
    pub exclusive_key: Option<&'a str>,
    pub retry_of: Option<ExportId>,
    pub priority: Priority,
    /// See [`EffectivePlan`](crate::exports::plan::EffectivePlan); `None` shares with nobody.
    pub plan_sha256: Option<&'a [u8]>,
    /// Whose work it waits for.
    pub follows: Option<ExportId>,
    pub run: Option<ExportId>,
    pub coalesced_with: Option<ExportId>,
}

/// Filters of a list; `None` filters nothing.
#[derive(Debug)]
pub struct Page<'a> {
    pub tenant: &'a str,
    pub state: Option<State>,
    pub connection: Option<&'a str>,
    pub dataset: Option<Dataset>,
    pub created_after: Option<chrono::DateTime<chrono::Utc>>,
    pub created_before: Option<chrono::DateTime<chrono::Utc>>,
    pub labels: &'a std::collections::BTreeMap<String, String>,
    pub before: Option<ExportId>,
    pub limit: i64,
}

pub(super) fn interval(duration: Duration) -> sqlx::Result<PgInterval> {
    // An interval counts whole microseconds; nanoseconds below that are noise here.
    PgInterval::try_from(Duration::from_micros(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)))
        .map_err(sqlx::Error::Encode)
}

/// Adds an export: at the end of its tenant's part of the line, or waiting for the one it follows. Its turn is counted
/// from where the line stands, or from the tenant's last in it: that is start-time fair queueing, with a tenant's exports
/// of one priority as a flow. Two that come at the same moment may get the same turn.
pub async fn insert(db: impl PgExecutor<'_>, new: &NewExport<'_>) -> sqlx::Result<ExportRecord> {
    sqlx::query_as(concat!(
        "insert into export (export_id, tenant, created_by, connection_id, connection, vendor, dataset, parameters, \
         output, delivery, labels, deadline_at, warnings, retry_of, exclusive_key, destination_id, delivery_path, \
         priority, plan_sha256, follows, run_id, coalesced_with, unclaimed, due_at, turn) \
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, now() + $12, $13, $14, $15, $16, $17, $18, $19, $20, \
         $21, $22, $20::uuid is null, now() + least($12, case when $20::uuid is not null then $23 end), $24 + greatest( \
             coalesce((select turn from export where state = 'queued' and follows is null order by turn limit 1), 0), \
             coalesce((select turn from export where state = 'queued' and follows is null and tenant = $2 \
                       and priority = $18 order by turn desc limit 1), 0))) returning ",
        export_columns!()
    ))
    .bind(new.export_id)
    .bind(new.tenant)
    .bind(new.created_by)
    .bind(new.connection_id)
    .bind(new.connection)
    .bind(new.vendor)
    .bind(new.dataset)
    .bind(new.parameters)
    .bind(Json(new.output))
    .bind(Json(new.delivery))
    .bind(Json(new.labels))
    .bind(interval(new.deadline)?)
    .bind(Json(new.warnings))
    .bind(new.retry_of)
    .bind(new.exclusive_key)
    .bind(new.destination)
    .bind(new.delivery_path)
    .bind(new.priority)
    .bind(new.plan_sha256)
    .bind(new.follows)
    .bind(new.run)
    .bind(new.coalesced_with)
    .bind(interval(LOOK_AT_LEADER)?)
    .bind(new.priority.weight())
    .fetch_one(db)
    .await
}

/// The tenant's export.
pub async fn by_id(db: impl PgExecutor<'_>, tenant: &str, id: ExportId) -> sqlx::Result<Option<ExportRecord>> {
    sqlx::query_as(concat!("select ", export_columns!(), " from export where export_id = $2 and tenant = $1"))
        .bind(tenant)
        .bind(id)
        .fetch_optional(db)
        .await
}

/// These exports, whoever's they are, in any order.
pub async fn by_ids(db: impl PgExecutor<'_>, ids: &[ExportId]) -> sqlx::Result<Vec<ExportRecord>> {
    let ids: Vec<uuid::Uuid> = ids.iter().map(|id| id.0).collect();
    sqlx::query_as(concat!("select ", export_columns!(), " from export where export_id = any($1)"))
        .bind(ids)
        .fetch_all(db)
        .await
}

/// The tenant's export, locked.
pub async fn lock(db: impl PgExecutor<'_>, tenant: &str, id: ExportId) -> sqlx::Result<Option<ExportRecord>> {
    sqlx::query_as(concat!(
        "select ",
        export_columns!(),
        " from export where export_id = $2 and tenant = $1 for update"
    ))
    .bind(tenant)
    .bind(id)
    .fetch_optional(db)
    .await
}

/// One page of a tenant's exports, newest first.
pub async fn list(db: impl PgExecutor<'_>, page: &Page<'_>) -> sqlx::Result<Vec<ExportRecord>> {
    macro_rules! select_page {
        ($labels:literal) => {
            concat!(
                "select ",
                export_columns!(),
                " from export where tenant = $1 \
                   and ($2::text is null or state = $2) \
                   and ($3::text is null or connection = $3) \
                   and ($4::text is null or dataset = $4) \
                   and ($5::timestamptz is null or created_at > $5) \
                   and ($6::timestamptz is null or created_at < $6) \
                   and ",
                $labels,
                " and ($8::uuid is null or export_id < $8) order by export_id desc limit $9"
            )
        };
    }
    // The index of labels holds only exports that have some.
    let any = page.labels.is_empty();
    sqlx::query_as(if any { select_page!("labels @> $7") } else { select_page!("labels <> '{}' and labels @> $7") })
        .bind(page.tenant)
        .bind(page.state)
        .bind(page.connection)
        .bind(page.dataset)
        .bind(page.created_after)
        .bind(page.created_before)
        .bind(Json(page.labels))
        .bind(page.before)
        .bind(page.limit)
        .fetch_all(db)
        .await
}

/// What an export must not share at the vendor, if anything.
pub async fn exclusive_key(db: impl PgExecutor<'_>, id: ExportId) -> sqlx::Result<Option<String>> {
    sqlx::query_scalar("select exclusive_key from export where export_id = $1").bind(id).fetch_one(db).await
}

/// Moves a locked export on and has a worker look at it. With `is_free` nobody holds it any more, whoever had claimed it.
pub async fn request_cancel(
    db: impl PgExecutor<'_>,
    id: ExportId,
    transition: Transition,
    is_free: bool,
) -> sqlx::Result<ExportRecord> {
    sqlx::query_as(concat!(
        "update export set state = $3, version = version + 1, wake = true, unclaimed = false, \
         claim = case when not $4 then claim end, \
         due_at = case when claim is null or $4 then now() else due_at end where export_id = $1 and state = $2 returning ",
        export_columns!()
    ))
    .bind(id)
    .bind(transition.from())
    .bind(transition.to())
    .bind(is_free)
    .fetch_one(db)
    .await
}

/// Marks the result of a locked, finished export as deleted by its owner.
pub async fn mark_deleted(db: impl PgExecutor<'_>, id: ExportId) -> sqlx::Result<()> {
    sqlx::query(
        "update export set result_deleted_at = coalesce(result_deleted_at, now()), version = version + 1 \
         where export_id = $1",
    )
    .bind(id)
    .execute(db)
    .await
    .map(drop)
}

/// Transitions after the one numbered `after`, oldest first.
pub async fn events(db: impl PgExecutor<'_>, id: ExportId, after: i64) -> sqlx::Result<Vec<EventRecord>> {
    sqlx::query_as(
        "select seq, at, state, phase, detail from export_event where export_id = $1 and seq > $2 order by seq",
    )
    .bind(id)
    .bind(after)
    .fetch_all(db)
    .await
}

/// Vendor exchanges, oldest first: the export's own, and those that others of its run had for it while it lived.
pub async fn attempts(db: impl PgExecutor<'_>, id: ExportId) -> sqlx::Result<Vec<AttemptRecord>> {
    sqlx::query_as(
        "select x.at, x.action, x.method, x.target, x.http_status, x.duration_ms, x.decision \
         from export own join export other on other.export_id = own.export_id or other.run_id = own.run_id \
              or other.export_id = own.run_id \
         join vendor_exchange x on x.export_id = other.export_id \
         where own.export_id = $1 and (other.export_id = own.export_id \
              or x.at between own.created_at and coalesce(own.finished_at, 'infinity')) \
         order by x.vendor_exchange_id",
    )
    .bind(id)
    .fetch_all(db)
    .await
}

/// What an idempotency key stands for.
#[derive(Debug, sqlx::FromRow)]
pub struct KeyUse {
    pub body_sha256: Vec<u8>,
    pub export_id: ExportId,
}

/// Takes the key for this transaction; `false` while another transaction has it.
pub async fn try_lock_key(db: impl PgExecutor<'_>, tenant: &str, subject: &str, key: &str) -> sqlx::Result<bool> {
    sqlx::query_scalar("select pg_try_advisory_xact_lock(hashtextextended($1 || chr(1) || $2 || chr(1) || $3, 7))")
        .bind(tenant)
        .bind(subject)
        .bind(key)
        .fetch_one(db)
        .await
}

/// The export that the key made, if any.
pub async fn key_use(db: impl PgExecutor<'_>, tenant: &str, subject: &str, key: &str) -> sqlx::Result<Option<KeyUse>> {
    sqlx::query_as("select body_sha256, export_id from idempotency_key where tenant = $1 and subject = $2 and key = $3")
        .bind(tenant)
        .bind(subject)
        .bind(key)
        .fetch_optional(db)
        .await
}

/// Remembers the key of a new export.
pub async fn insert_key(
    db: impl PgExecutor<'_>,
    tenant: &str,
    subject: &str,
    key: &str,
    body_sha256: &[u8],
    id: ExportId,
) -> sqlx::Result<()> {
    sqlx::query(
        "insert into idempotency_key (tenant, subject, key, body_sha256, export_id) values ($1, $2, $3, $4, $5)",
    )
    .bind(tenant)
    .bind(subject)
    .bind(key)
    .bind(body_sha256)
    .bind(id)
    .execute(db)
    .await
    .map(drop)
}

/// Has a worker look now at the live export that was given this callback token; `false` when there is none.
pub async fn wake_by_callback(db: impl PgExecutor<'_>, token_sha256: &[u8]) -> sqlx::Result<bool> {
    sqlx::query(
        "update export set wake = finished_at is null, called_back_at = coalesce(called_back_at, now()), \
         due_at = case when claim is null and finished_at is null then now() else due_at end \
         where callback_token_sha256 = $1",
    )
    .bind(token_sha256)
    .execute(db)
    .await
    .map(|result| result.rows_affected() > 0)
}
