//! The parts of exports. A part is claimed, held and let go as an export is, but on its own. Writes that move both a
//! part and its export begin with [`lock`] in one transaction; the order of locks is connection, export, part.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, PgExecutor, types::Json};
use uuid::Uuid;

use super::{
    Held,
    exports::{export_columns, interval},
};
use crate::{
    exports::{
        problem::Problem,
        record::ExportRecord,
        state::{Phase, State},
    },
    ids::{ExportId, FileId},
};

/// A part in a worker's hands, and its export as it was then.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct ClaimedPart {
    #[sqlx(flatten)]
    pub export: ExportRecord,
    /// What the vendor gave to follow the export's job by, sealed.
    pub ticket: Option<Vec<u8>>,
    pub submitted_at: Option<DateTime<Utc>>,
    pub number: i32,
    pub file: i32,
    pub claim: Uuid,
    pub name: Option<String>,
    /// One of the vendor's files, sealed.
    pub locator: Option<Vec<u8>>,
    pub first_asked_at: Option<DateTime<Utc>>,
    pub failures: i32,
    pub part_status: Option<String>,
    pub seen_ready: bool,
    /// Stored already, in an earlier try.
    pub files: Json<Vec<PartFile>>,
    /// The database's clock at the claim.
    pub now: DateTime<Utc>,
}

impl ClaimedPart {
    pub fn key(&self) -> PartKey {
        PartKey { export: self.export.export_id, number: self.number, file: self.file, claim: self.claim }
    }
}

/// Names a part, and the claim that holds it.
#[derive(Debug, Clone, Copy)]
pub struct PartKey {
    pub export: ExportId,
    pub number: i32,
    pub file: i32,
    pub claim: Uuid,
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

/// What of a part is counted in its export's progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counted {
    pub records: i64,
    pub bytes_read: i64,
    pub bytes_written: i64,
}

/// One part to be added.
#[derive(Debug, Clone, Default)]
pub struct NewPart {
    pub number: i32,
    pub file: i32,
    pub name: Option<String>,
    pub locator: Option<Vec<u8>>,
}

/// Adds the parts of an export; the first `at_once` of them are due.
pub async fn insert(db: impl PgExecutor<'_>, id: ExportId, parts: &[NewPart], at_once: i64) -> sqlx::Result<()> {
    sqlx::query(
        "insert into part (export_id, number, file, name, locator, due_at) \
         select $1, number, file, name, locator, case when place <= $6 then now() end \
         from unnest($2::int[], $3::int[], $4::text[], $5::bytea[]) with ordinality \
              as given (number, file, name, locator, place)",
    )
    .bind(id)
    .bind(parts.iter().map(|part| part.number).collect::<Vec<_>>())
    .bind(parts.iter().map(|part| part.file).collect::<Vec<_>>())
    .bind(parts.iter().map(|part| part.name.clone()).collect::<Vec<_>>())
    .bind(parts.iter().map(|part| part.locator.clone()).collect::<Vec<_>>())
    .bind(at_once)
    .execute(db)
    .await
    .map(drop)
}

/// Takes over the parts that the version before began; answers how many there are.
pub async fn take_over(db: impl PgExecutor<'_>, id: ExportId) -> sqlx::Result<u64> {
    sqlx::query(
        "insert into part (export_id, number, file, name, due_at, first_asked_at, failures, vendor_status, seen_ready, \
         files, records, bytes_read, bytes_written, done_at) \
         select export_id, number, 0, part, case when done_at is null then due_at end, first_asked_at, failures, \
         vendor_status, seen_ready, files, stored.records, stored.received, stored.bytes, done_at \
         from export_part, lateral (select coalesce(sum((file ->> 'records')::bigint), 0) as records, \
              coalesce(sum((file ->> 'received')::bigint), 0) as received, \
              coalesce(sum((file ->> 'bytes')::bigint), 0) as bytes from jsonb_array_elements(files) file) stored \
         where export_id = $1",
    )
    .bind(id)
    .execute(db)
    .await
    .map(|result| result.rows_affected())
}

/// Lets an export go whose parts are begun: it rests until the last of them is done, one fails, or `rest` is over.
pub async fn leave_export(
    db: impl PgExecutor<'_>,
    id: ExportId,
    claim: Uuid,
    phase: Phase,
    rest: Duration,
) -> sqlx::Result<Held> {
    sqlx::query(
        "update export set claim = null, claimed_by = null, phase = $3, waiting_reason = null, \
         due_at = case when wake then now() else least(now() + $4, deadline_at) end, wake = false, \
         version = version + 1 where export_id = $1 and claim = $2 and state = 'running'",
    )
    .bind(id)
    .bind(claim)
    .bind(phase)
    .bind(interval(rest)?)
    .execute(db)
    .await
    .map(Held::from)
}

/// Counts the parts of an export that has just begun with them. From then on each part counts itself.
pub async fn count(db: impl PgExecutor<'_>, id: ExportId) -> sqlx::Result<()> {
    sqlx::query(
        "update export set records = sums.records, bytes_read = sums.bytes_read, bytes_written = sums.bytes_written, \
         files_done = sums.done, files_total = sums.total from ( \
             select coalesce(sum(records), 0)::bigint as records, coalesce(sum(bytes_read), 0)::bigint as bytes_read, \
             coalesce(sum(bytes_written), 0)::bigint as bytes_written, count(done_at)::int as done, \
             count(*)::int as total from part where export_id = $1) sums \
         where export_id = $1",
    )
    .bind(id)
    .execute(db)
    .await
    .map(drop)
}

/// Whether the export is made of parts.
pub async fn exist(db: impl PgExecutor<'_>, id: ExportId) -> sqlx::Result<bool> {
    sqlx::query_scalar("select exists (select from part where export_id = $1)").bind(id).fetch_one(db).await
}

/// Whether a part of the export is not done yet.
pub async fn are_pending(db: impl PgExecutor<'_>, id: ExportId) -> sqlx::Result<bool> {
    sqlx::query_scalar("select exists (select from part where export_id = $1 and done_at is null)")
        .bind(id)
        .fetch_one(db)
        .await
}

/// Why the export can never be complete, if a part has failed.
pub async fn failed(db: impl PgExecutor<'_>, id: ExportId) -> sqlx::Result<Option<Problem>> {
    let error: Option<Json<Problem>> = sqlx::query_scalar(
        "select error from part where export_id = $1 and error is not null order by number, file limit 1",
    )
    .bind(id)
    .fetch_optional(db)
    .await?;
    Ok(error.map(|Json(problem)| problem))
}

/// Claims up to `limit` parts that have been due longest and holds them for `lease`. Few parts of one export are due at
/// a time and each next one is due when another is done, so exports take turns.
pub async fn claim_due(
    db: impl PgExecutor<'_>,
    worker: &str,
    lease: Duration,
    limit: i64,
) -> sqlx::Result<Vec<ClaimedPart>> {
    sqlx::query_as(concat!(
        "with due as (select export_id, number, file from part where due_at <= now() \
                      order by due_at limit $3 for update skip locked), \
         held as (update part set claim = gen_random_uuid(), claimed_by = $1, due_at = now() + $2 from due \
                  where part.export_id = due.export_id and part.number = due.number and part.file = due.file \
                  returning part.export_id as of_export, part.number, part.file, part.claim as part_claim, part.name, \
                  part.locator, part.first_asked_at, part.failures as part_failures, part.vendor_status as part_status, \
                  part.seen_ready, part.files) \
         select now() as now, ticket, submitted_at, number, file, part_claim as claim, name, locator, first_asked_at, \
         part_failures as failures, part_status, seen_ready, files, ",
        export_columns!(),
        " from held join export on export_id = of_export"
    ))
    .bind(worker)
    .bind(interval(lease)?)
    .bind(limit)
    .fetch_all(db)
    .await
}

/// When the next part is due, if any is.
pub async fn next_due(db: impl PgExecutor<'_>) -> sqlx::Result<Option<Duration>> {
    let seconds: Option<f64> = sqlx::query_scalar(
        "select extract(epoch from due_at - now())::float8 from part where due_at is not null order by due_at limit 1",
    )
    .fetch_optional(db)
    .await?;
    Ok(seconds.map(|seconds| Duration::from_secs_f64(seconds.clamp(0.0, 86_400.0))))
}

/// The state of the export of a part that is still in our hands; `None` means that the claim is lost.
pub async fn look(db: impl PgExecutor<'_>, part: PartKey) -> sqlx::Result<Option<State>> {
    sqlx::query_scalar(
        "select state from part join export using (export_id) \
         where export_id = $1 and number = $2 and file = $3 and part.claim = $4 and finished_at is null",
    )
    .bind(part.export)
    .bind(part.number)
    .bind(part.file)
    .bind(part.claim)
    .fetch_optional(db)
    .await
}

/// Extends the lease of a part; `None` means that the claim is lost.
pub async fn renew(db: impl PgExecutor<'_>, part: PartKey, lease: Duration) -> sqlx::Result<Option<State>> {
    sqlx::query_scalar(
        "update part set due_at = now() + $5 from export where export.export_id = part.export_id \
         and part.export_id = $1 and number = $2 and file = $3 and part.claim = $4 and finished_at is null \
         returning state",
    )
    .bind(part.export)
    .bind(part.number)
    .bind(part.file)
    .bind(part.claim)
    .bind(interval(lease)?)
    .fetch_optional(db)
    .await
}

/// Locks a part that is still in our hands, and its live export before it; `None` means that the claim is lost.
pub async fn lock(tx: &mut PgConnection, part: PartKey) -> sqlx::Result<Option<State>> {
    let state: Option<State> =
        sqlx::query_scalar("select state from export where export_id = $1 and finished_at is null for update")
            .bind(part.export)
            .fetch_optional(&mut *tx)
            .await?;
    let held: Option<i32> = sqlx::query_scalar(
        "select 1 from part where export_id = $1 and number = $2 and file = $3 and claim = $4 for update",
    )
    .bind(part.export)
    .bind(part.number)
    .bind(part.file)
    .bind(part.claim)
    .fetch_optional(tx)
    .await?;
    Ok(state.filter(|_| held.is_some()))
}

/// Counts a locked part in its export anew.
pub async fn recount(tx: &mut PgConnection, part: PartKey, counted: Counted) -> sqlx::Result<()> {
    sqlx::query(
        "update export set records = export.records - part.records + $4, \
         bytes_read = export.bytes_read - part.bytes_read + $5, \
         bytes_written = export.bytes_written - part.bytes_written + $6, last_progress_at = now(), \
         version = version + 1 from part \
         where export.export_id = $1 and part.export_id = $1 and number = $2 and file = $3",
    )
    .bind(part.export)
    .bind(part.number)
    .bind(part.file)
    .bind(counted.records)
    .bind(counted.bytes_read)
    .bind(counted.bytes_written)
    .execute(&mut *tx)
    .await?;
    sqlx::query(
        "update part set records = $4, bytes_read = $5, bytes_written = $6 \
         where export_id = $1 and number = $2 and file = $3",
    )
    .bind(part.export)
    .bind(part.number)
    .bind(part.file)
    .bind(counted.records)
    .bind(counted.bytes_read)
    .bind(counted.bytes_written)
    .execute(tx)
    .await
    .map(drop)
}

/// As [`recount`], but leaves everything as it is when nothing differs.
pub async fn recount_if_counted(tx: &mut PgConnection, part: PartKey, counted: Counted) -> sqlx::Result<()> {
    let differs: bool = sqlx::query_scalar(
        "select (records, bytes_read, bytes_written) is distinct from ($4, $5, $6) from part \
         where export_id = $1 and number = $2 and file = $3",
    )
    .bind(part.export)
    .bind(part.number)
    .bind(part.file)
    .bind(counted.records)
    .bind(counted.bytes_read)
    .bind(counted.bytes_written)
    .fetch_one(&mut *tx)
    .await?;
    if differs { recount(tx, part, counted).await } else { Ok(()) }
}

/// Notes that the vendor has the files of a part.
pub async fn mark_ready(db: impl PgExecutor<'_>, part: PartKey) -> sqlx::Result<Held> {
    sqlx::query(
        "update part set seen_ready = true, first_asked_at = coalesce(first_asked_at, now()) \
         where export_id = $1 and number = $2 and file = $3 and claim = $4",
    )
    .bind(part.export)
    .bind(part.number)
    .bind(part.file)
    .bind(part.claim)
    .execute(db)
    .await
    .map(Held::from)
}

/// Keeps the stored files of a locked part.
pub async fn keep(db: impl PgExecutor<'_>, part: PartKey, files: &[PartFile]) -> sqlx::Result<()> {
    sqlx::query("update part set files = $4, failures = 0 where export_id = $1 and number = $2 and file = $3")
        .bind(part.export)
        .bind(part.number)
        .bind(part.file)
        .bind(Json(files))
        .execute(db)
        .await
        .map(drop)
}

/// A locked part is done. The export is due when it was the last.
pub async fn finish(tx: &mut PgConnection, part: PartKey) -> sqlx::Result<()> {
    sqlx::query(
        "update part set done_at = now(), due_at = null, claim = null \
         where export_id = $1 and number = $2 and file = $3",
    )
    .bind(part.export)
    .bind(part.number)
    .bind(part.file)
    .execute(&mut *tx)
    .await?;
    sqlx::query(
        "update export set files_done = files_done + 1, wake = wake or files_done + 1 >= files_total, \
         due_at = case when files_done + 1 >= files_total and claim is null then now() else due_at end \
         where export_id = $1",
    )
    .bind(part.export)
    .execute(tx)
    .await
    .map(drop)
}

/// A part of the export made room: the next one is due. Call with the export locked.
pub async fn make_next_due(db: impl PgExecutor<'_>, id: ExportId) -> sqlx::Result<()> {
    sqlx::query(
        "update part set due_at = now() where (export_id, number, file) = ( \
             select export_id, number, file from part \
             where export_id = $1 and due_at is null and done_at is null and error is null \
             order by number, file limit 1)",
    )
    .bind(id)
    .execute(db)
    .await
    .map(drop)
}

/// How a part is left that is not done.
#[derive(Debug, Clone)]
pub struct LeavePart<'a> {
    /// Until it is looked at again.
    pub after: Duration,
    /// In a row, this one included; 0 when nothing failed.
    pub failures: i32,
    pub waiting_reason: Option<&'a str>,
    /// The vendor's last words; `None` keeps the ones before.
    pub vendor_status: Option<&'a str>,
}

/// Leaves a locked part for a while, and shows in its export what it waits for.
pub async fn leave(tx: &mut PgConnection, part: PartKey, leave: &LeavePart<'_>) -> sqlx::Result<()> {
    sqlx::query(
        "update export set waiting_reason = $5, attempt = $6 + 1, retry_at = case when $6 > 0 then now() + $7 end, \
         last_progress_at = case when $6 = 0 and $4::text is distinct from part.vendor_status and $4 is not null \
                            then now() else last_progress_at end, \
         vendor_status = coalesce($4, export.vendor_status), version = version + 1 from part \
         where export.export_id = $1 and part.export_id = $1 and number = $2 and file = $3 \
         and (waiting_reason is distinct from $5 or attempt <> $6 + 1 or $6 > 0 \
              or ($4 is not null and ($4 is distinct from export.vendor_status \
                                      or $4 is distinct from part.vendor_status)))",
    )
    .bind(part.export)
    .bind(part.number)
    .bind(part.file)
    .bind(leave.vendor_status)
    .bind(leave.waiting_reason)
    .bind(leave.failures)
    .bind(interval(leave.after)?)
    .execute(&mut *tx)
    .await?;
    sqlx::query(
        "update part set claim = null, claimed_by = null, due_at = now() + $4, failures = $5, \
         vendor_status = coalesce($6, vendor_status), first_asked_at = coalesce(first_asked_at, now()) \
         where export_id = $1 and number = $2 and file = $3",
    )
    .bind(part.export)
    .bind(part.number)
    .bind(part.file)
    .bind(interval(leave.after)?)
    .bind(leave.failures)
    .bind(leave.vendor_status)
    .execute(tx)
    .await
    .map(drop)
}

/// Lets go of a part without a result, to be claimed again at once.
pub async fn hand_back(db: impl PgExecutor<'_>, part: PartKey) -> sqlx::Result<Held> {
    sqlx::query(
        "update part set claim = null, claimed_by = null, due_at = now() \
         where export_id = $1 and number = $2 and file = $3 and claim = $4",
    )
    .bind(part.export)
    .bind(part.number)
    .bind(part.file)
    .bind(part.claim)
    .execute(db)
    .await
    .map(Held::from)
}

/// A locked part can never be done: its export is due, to fail for it.
pub async fn fail(tx: &mut PgConnection, part: PartKey, problem: &Problem) -> sqlx::Result<()> {
    sqlx::query(
        "update part set error = $4, due_at = null, claim = null, claimed_by = null \
         where export_id = $1 and number = $2 and file = $3",
    )
    .bind(part.export)
    .bind(part.number)
    .bind(part.file)
    .bind(Json(problem))
    .execute(&mut *tx)
    .await?;
    sqlx::query(
        "update export set wake = true, due_at = case when claim is null then now() else due_at end \
         where export_id = $1",
    )
    .bind(part.export)
    .execute(tx)
    .await
    .map(drop)
}

/// Puts the files of a locked part's answer in its place; it keeps its own place in the result. `at_once` parts of the
/// export are due then, and at least one more than before.
pub async fn split(tx: &mut PgConnection, part: PartKey, files: &[NewPart], at_once: i64) -> sqlx::Result<()> {
    sqlx::query("delete from part where export_id = $1 and number = $2 and file = $3")
        .bind(part.export)
        .bind(part.number)
        .bind(part.file)
        .execute(&mut *tx)
        .await?;
    insert(&mut *tx, part.export, files, 0).await?;
    sqlx::query(
        "update part set due_at = now() where (export_id, number, file) in ( \
             select export_id, number, file from part \
             where export_id = $1 and due_at is null and done_at is null and error is null order by number, file \
             limit greatest(1, $2 - (select count(due_at) from part where export_id = $1)))",
    )
    .bind(part.export)
    .bind(at_once)
    .execute(&mut *tx)
    .await?;
    sqlx::query("update export set files_total = files_total + $2 - 1, version = version + 1 where export_id = $1")
        .bind(part.export)
        .bind(i32::try_from(files.len()).unwrap_or(i32::MAX))
        .execute(tx)
        .await
        .map(drop)
}

/// New links for files of one answer that are not fetched yet. Call with the export locked.
pub async fn relink(
    db: impl PgExecutor<'_>,
    id: ExportId,
    number: i32,
    files: &[i32],
    locators: &[Vec<u8>],
) -> sqlx::Result<()> {
    sqlx::query(
        "update part set locator = given.locator from unnest($3::int[], $4::bytea[]) as given (file, locator) \
         where export_id = $1 and number = $2 and part.file = given.file and done_at is null",
    )
    .bind(id)
    .bind(number)
    .bind(files)
    .bind(locators)
    .execute(db)
    .await
    .map(drop)
}

/// The vendor no longer has what its job made: forgets the parts and has the job begun anew. Call with the export
/// locked. Whoever works on a part finds its claim gone.
pub async fn begin_anew(tx: &mut PgConnection, id: ExportId, why: &str) -> sqlx::Result<()> {
    sqlx::query("delete from part where export_id = $1").bind(id).execute(&mut *tx).await?;
    sqlx::query(
        "update export set ticket = null, submit_intent_at = null, submitted_at = null, data_as_of = null, \
         phase = case when state = 'running' then 'submitting' else phase end, vendor_status = $2, failures = 0, \
         attempt = 1, retry_at = null, records = 0, bytes_read = 0, bytes_written = 0, files_done = 0, \
         files_total = null, wake = true, due_at = case when claim is null then now() else due_at end, \
         version = version + 1 where export_id = $1",
    )
    .bind(id)
    .bind(why)
    .execute(tx)
    .await
    .map(drop)
}

/// How often the vendor began the job of an export.
pub async fn submissions(db: impl PgExecutor<'_>, id: ExportId) -> sqlx::Result<i32> {
    sqlx::query_scalar("select submissions from export where export_id = $1").bind(id).fetch_one(db).await
}

/// Adds what a caller should know to a part's export, unless it is there already.
pub async fn add_warning(db: impl PgExecutor<'_>, part: PartKey, warning: &str) -> sqlx::Result<Held> {
    sqlx::query(
        "update export set version = version + case when warnings ? $5 then 0 else 1 end, \
         warnings = case when warnings ? $5 then warnings else warnings || to_jsonb($5::text) end \
         from part where export.export_id = $1 and part.export_id = $1 and number = $2 and file = $3 \
         and part.claim = $4 and finished_at is null",
    )
    .bind(part.export)
    .bind(part.number)
    .bind(part.file)
    .bind(part.claim)
    .bind(warning)
    .execute(db)
    .await
    .map(Held::from)
}

/// The stored files of every part, in order.
pub async fn files(db: impl PgExecutor<'_>, id: ExportId) -> sqlx::Result<Vec<PartFile>> {
    let files: Vec<Json<PartFile>> = sqlx::query_scalar(
        "select stored.file from part, jsonb_array_elements(files) with ordinality as stored (file, position) \
         where export_id = $1 order by number, part.file, position",
    )
    .bind(id)
    .fetch_all(db)
    .await?;
    Ok(files.into_iter().map(|Json(file)| file).collect())
}

/// Hands the parts of one export on to another, with what is done of them; call with both locked. What is in somebody's
/// hands is begun anew.
pub async fn hand_on(tx: &mut PgConnection, from: ExportId, to: ExportId) -> sqlx::Result<()> {
    let moved = sqlx::query(
        "update part set export_id = $2, due_at = case when claim is null then due_at else now() end, claim = null, \
         claimed_by = null where export_id = $1",
    )
    .bind(from)
    .bind(to)
    .execute(&mut *tx)
    .await?;
    if moved.rows_affected() > 0 { count(tx, to).await } else { Ok(()) }
}

/// Forgets the parts of an export that has ended, but for those in somebody's hands: they are due once more when their
/// lease is over, and whoever claims them then removes what a dead worker left.
pub async fn forget(db: impl PgExecutor<'_>, id: ExportId) -> sqlx::Result<()> {
    sqlx::query("delete from part where export_id = $1 and claim is null").bind(id).execute(db).await.map(drop)
}

/// Lets go of a part whose export is about to end, so that it is forgotten with it, or goes on with whoever the work is
/// handed on to. `true` when the export has ended already; then nothing is changed.
pub async fn abandon(tx: &mut PgConnection, part: PartKey) -> sqlx::Result<bool> {
    let ended = sqlx::query_scalar("select finished_at is not null from export where export_id = $1 for update")
        .bind(part.export)
        .fetch_optional(&mut *tx)
        .await?;
    if ended.unwrap_or(true) {
        return Ok(true);
    }
    sqlx::query(
        "update part set claim = null, claimed_by = null, due_at = now() + interval '1 second' \
         where export_id = $1 and number = $2 and file = $3 and claim = $4",
    )
    .bind(part.export)
    .bind(part.number)
    .bind(part.file)
    .bind(part.claim)
    .execute(tx)
    .await?;
    Ok(false)
}

/// Forgets a part of an export that has ended.
pub async fn forget_one(db: impl PgExecutor<'_>, part: PartKey) -> sqlx::Result<()> {
    sqlx::query("delete from part where export_id = $1 and number = $2 and file = $3 and claim = $4")
        .bind(part.export)
        .bind(part.number)
        .bind(part.file)
        .bind(part.claim)
        .execute(db)
        .await
        .map(drop)
}
