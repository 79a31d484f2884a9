//! What workers write. An export is claimed under a lease; every later write names the claim and touches nothing once
//! another worker has it.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{PgExecutor, types::Json};
use uuid::Uuid;

use super::{
    Held,
    exports::{export_columns, interval},
};
use crate::{
    exports::{
        problem::Problem,
        record::{AttemptRecord, ExportRecord},
        state::{Phase, State, Transition},
    },
    ids::{DestinationId, ExportId},
};

/// An export in a worker's hands.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct ClaimedExport {
    #[sqlx(flatten)]
    pub export: ExportRecord,
    pub claim: Uuid,
    pub failures: i32,
    pub submissions: i32,
    pub submit_intent_at: Option<DateTime<Utc>>,
    pub submitted_at: Option<DateTime<Utc>>,
    pub ticket: Option<Vec<u8>>,
    pub called_back_at: Option<DateTime<Utc>>,
    pub destination_id: Option<DestinationId>,
    /// Set once only the delivery is left.
    pub staged_at: Option<DateTime<Utc>>,
    /// Set once another export's files are named as this one's too.
    pub stored_at: Option<DateTime<Utc>>,
    /// Exports with the same one may share its work.
    pub plan_sha256: Option<Vec<u8>>,
    /// The database's clock at the claim.
    pub now: DateTime<Utc>,
}

/// How many exports one claim takes, and of which kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// All in all.
    pub limit: i64,
    /// At most so many that no worker has had in hand, in their turn. The rest are those that have been due longest.
    pub fresh: i64,
}

/// Claims exports and holds them for `lease`. `skip locked` lets workers poll side by side; when a lease ends, a crashed
/// worker's export is due again. What is claimed is found by two partial indexes that hold no finished export, and by
/// primary key after that, so that a claim costs the same whatever the size of the table.
pub async fn claim_due(
    db: impl PgExecutor<'_>,
    worker: &str,
    lease: Duration,
    share: Share,
) -> sqlx::Result<Vec<ClaimedExport>> {
    sqlx::query_as(concat!(
        "with fresh as (select export_id from export where unclaimed and claim is null and finished_at is null \
                        order by turn, export_id limit (select $4) for update skip locked), \
         due as (select export_id from export where finished_at is null and due_at <= now() \
                 order by due_at limit $3 - (select count(*) from fresh) for update skip locked) \
         update export set claim = gen_random_uuid(), claimed_by = $1, due_at = now() + $2, wake = false, \
         unclaimed = false \
         where export_id = any(array(select export_id from fresh union all select export_id from due)) \
         returning now() as now, claim, failures, submissions, submit_intent_at, submitted_at, ticket, called_back_at, \
         destination_id, staged_at, stored_at, plan_sha256, ",
        export_columns!()
    ))
    .bind(worker)
    .bind(interval(lease)?)
    .bind(share.limit)
    .bind(share.fresh)
    .fetch_all(db)
    .await
}

/// When the next export is due, if any is live: at once while some have not been in any worker's hand.
pub async fn next_due(db: impl PgExecutor<'_>) -> sqlx::Result<Option<Duration>> {
    let seconds: Option<f64> = sqlx::query_scalar(
        "select least((select 0.0 from export where unclaimed and claim is null and finished_at is null limit 1), \
         (select extract(epoch from due_at - now()) from export where finished_at is null \
          order by due_at limit 1))::float8",
    )
    .fetch_optional(db)
    .await?;
    Ok(seconds.map(|seconds| Duration::from_secs_f64(seconds.clamp(0.0, 86_400.0))))
}

/// Locks an export that is still in our hands and answers its state; `None` means that the claim is lost.
pub async fn lock_claimed(db: impl PgExecutor<'_>, id: ExportId, claim: Uuid) -> sqlx::Result<Option<State>> {
    sqlx::query_scalar("select state from export where export_id = $1 and claim = $2 for update")
        .bind(id)
        .bind(claim)
        .fetch_optional(db)
        .await
}

/// What a transfer has moved so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Moved {
    pub records: i64,
    pub bytes_read: i64,
    pub bytes_written: i64,
    pub files_done: i32,
    pub files_total: Option<i32>,
}

/// The state of an export that is still in our hands; `None` means that the claim is lost.
pub async fn look(db: impl PgExecutor<'_>, id: ExportId, claim: Uuid) -> sqlx::Result<Option<State>> {
    sqlx::query_scalar("select state from export where export_id = $1 and claim = $2")
        .bind(id)
        .bind(claim)
        .fetch_optional(db)
        .await
}

/// Extends the lease and answers the state; `None` means that the claim is lost.
pub async fn renew(db: impl PgExecutor<'_>, id: ExportId, claim: Uuid, lease: Duration) -> sqlx::Result<Option<State>> {
    sqlx::query_scalar("update export set due_at = now() + $3 where export_id = $1 and claim = $2 returning state")
        .bind(id)
        .bind(claim)
        .bind(interval(lease)?)
        .fetch_optional(db)
        .await
}

/// Extends the lease and notes progress; `None` means that the claim is lost.
pub async fn renew_with_progress(
    db: impl PgExecutor<'_>,
    id: ExportId,
    claim: Uuid,
    lease: Duration,
    moved: Moved,
) -> sqlx::Result<Option<State>> {
    sqlx::query_scalar(
        "update export set due_at = now() + $3, records = $4, bytes_read = $5, bytes_written = $6, \
         files_done = $7, files_total = $8, last_progress_at = now(), version = version + 1 \
         where export_id = $1 and claim = $2 returning state",
    )
    .bind(id)
    .bind(claim)
    .bind(interval(lease)?)
    .bind(moved.records)
    .bind(moved.bytes_read)
    .bind(moved.bytes_written)
    .bind(moved.files_done)
    .bind(moved.files_total)
    .fetch_optional(db)
    .await
}

/// Lets go without a result, to be claimed again at once.
pub async fn hand_back(db: impl PgExecutor<'_>, id: ExportId, claim: Uuid) -> sqlx::Result<Held> {
    sqlx::query(
        "update export set claim = null, claimed_by = null, due_at = now(), wake = false \
         where export_id = $1 and claim = $2",
    )
    .bind(id)
    .bind(claim)
    .execute(db)
    .await
    .map(Held::from)
}

/// Lets go until there is room: whoever makes room has a worker look again. The state stays as it is.
pub async fn wait_for_slot(
    db: impl PgExecutor<'_>,
    id: ExportId,
    claim: Uuid,
    reason: &str,
    exclusive_key: Option<&str>,
) -> sqlx::Result<Held> {
    sqlx::query(
        "update export set claim = null, claimed_by = null, \
         due_at = case when wake then now() else deadline_at end, wake = false, \
         phase = 'waiting_for_slot', waiting_reason = $3, exclusive_key = $4, \
         version = version + case when phase = 'waiting_for_slot' and waiting_reason = $3 then 0 else 1 end \
         where export_id = $1 and claim = $2",
    )
    .bind(id)
    .bind(claim)
    .bind(reason)
    .bind(exclusive_key)
    .execute(db)
    .await
    .map(Held::from)
}

/// Commits the intent to ask the vendor, before the vendor is asked.
pub async fn begin_submission(
    db: impl PgExecutor<'_>,
    id: ExportId,
    claim: Uuid,
    transition: Transition,
    phase: Phase,
    callback_token_sha256: Option<&[u8]>,
) -> sqlx::Result<Held> {
    sqlx::query(
        "update export set state = $6, phase = $3, waiting_reason = null, retry_at = null, \
         started_at = coalesce(started_at, now()), submit_intent_at = coalesce(submit_intent_at, now()), \
         callback_token_sha256 = coalesce($4, callback_token_sha256), \
         version = version + 1 where export_id = $1 and claim = $2 and state = $5",
    )
    .bind(id)
    .bind(claim)
    .bind(phase)
    .bind(callback_token_sha256)
    .bind(transition.from())
    .bind(transition.to())
    .execute(db)
    .await
    .map(Held::from)
}

/// The parts of an export can be asked for now.
pub async fn begin_parts(
    db: impl PgExecutor<'_>,
    id: ExportId,
    claim: Uuid,
    transition: Transition,
) -> sqlx::Result<Held> {
    sqlx::query(
        "update export set state = $4, phase = 'vendor_processing', waiting_reason = null, retry_at = null, \
         started_at = coalesce(started_at, now()), last_progress_at = now(), data_as_of = now(), \
         version = version + 1 where export_id = $1 and claim = $2 and state = $3",
    )
    .bind(id)
    .bind(claim)
    .bind(transition.from())
    .bind(transition.to())
    .execute(db)
    .await
    .map(Held::from)
}

/// Keeps what the vendor gave for the next stage of the same job.
pub async fn replace_ticket(
    db: impl PgExecutor<'_>,
    id: ExportId,
    claim: Uuid,
    ticket: &[u8],
    reference: Option<&str>,
) -> sqlx::Result<Held> {
    sqlx::query(
        "update export set ticket = $3, vendor_reference = coalesce($4, vendor_reference), submitted_at = now(), \
         failures = 0, attempt = 1, retry_at = null, last_progress_at = now(), version = version + 1 \
         where export_id = $1 and claim = $2",
    )
    .bind(id)
    .bind(claim)
    .bind(ticket)
    .bind(reference)
    .execute(db)
    .await
    .map(Held::from)
}

/// Adds what a caller should know, unless it is there already.
pub async fn add_warning(db: impl PgExecutor<'_>, id: ExportId, claim: Uuid, warning: &str) -> sqlx::Result<Held> {
    sqlx::query(
        "update export set warnings = case when warnings ? $3 then warnings else warnings || to_jsonb($3::text) end, \
         version = version + 1 where export_id = $1 and claim = $2",
    )
    .bind(id)
    .bind(claim)
    .bind(warning)
    .execute(db)
    .await
    .map(Held::from)
}

/// Keeps the vendor's answer: the vendor is at it.
pub async fn record_ticket(
    db: impl PgExecutor<'_>,
    id: ExportId,
    claim: Uuid,
    ticket: &[u8],
    reference: Option<&str>,
) -> sqlx::Result<Held> {
    sqlx::query(
        "update export set ticket = $3, vendor_reference = $4, submit_intent_at = null, submitted_at = now(), \
         submissions = submissions + 1, \
         phase = case when state = 'running' then 'vendor_processing' else phase end, vendor_status = 'accepted', \
         failures = 0, attempt = 1, retry_at = null, last_progress_at = now(), version = version + 1 \
         where export_id = $1 and claim = $2",
    )
    .bind(id)
    .bind(claim)
    .bind(ticket)
    .bind(reference)
    .execute(db)
    .await
    .map(Held::from)
}

/// How an export is let go that is not finished.
#[derive(Debug, Clone)]
pub struct Release<'a> {
    /// Until somebody looks again.
    pub after: Duration,
    pub phase: Phase,
    pub waiting_reason: Option<&'a str>,
    /// The vendor's last words; `None` keeps the ones before.
    pub vendor_status: Option<&'a str>,
    /// Failures in a row, this one included; 0 when nothing failed.
    pub failures: i32,
    /// The vendor may have begun without our knowing: keep the intent.
    pub outcome_unknown: bool,
    /// Added unless already there.
    pub warning: Option<&'a str>,
}

/// Lets go for a while.
pub async fn release(db: impl PgExecutor<'_>, id: ExportId, claim: Uuid, release: &Release<'_>) -> sqlx::Result<Held> {
    let held = release_all(db, &[(id, claim, release.clone())]).await?;
    Ok(if held.is_empty() { Held::Lost } else { Held::Yes })
}

/// Lets many go, each for a while; answers those that were still held. The version grows, and with it callers are told,
/// only when they would see a difference: most looks at a vendor find what was found before. The arrays are selected so that
/// one plan does for any number of them; with their length in sight Postgres would plan each call anew.
pub async fn release_all(
    db: impl PgExecutor<'_>,
    releases: &[(ExportId, Uuid, Release<'_>)],
) -> sqlx::Result<Vec<ExportId>> {
    macro_rules! column {
        ($value:expr) => {
            releases.iter().map($value).collect::<Vec<_>>()
        };
    }
    sqlx::query_scalar(
        "update export e set claim = null, claimed_by = null, \
         due_at = case when e.wake then now() else least(now() + r.after, e.deadline_at) end, wake = false, \
         phase = case when e.state = 'running' then r.phase else e.phase end, waiting_reason = r.waiting_reason, \
         last_progress_at = case when r.vendor_status is distinct from e.vendor_status and r.vendor_status is not null \
                                 and r.failures = 0 then now() else e.last_progress_at end, \
         vendor_status = coalesce(r.vendor_status, e.vendor_status), failures = r.failures, \
         attempt = r.failures + 1, retry_at = case when r.failures > 0 then now() + r.after end, \
         submit_intent_at = case when r.outcome_unknown then e.submit_intent_at end, \
         warnings = case when r.warning is null or e.warnings ? r.warning then e.warnings \
                         else e.warnings || to_jsonb(r.warning) end, \
         version = e.version + case when \
             r.failures = 0 and e.failures = 0 and e.retry_at is null and r.waiting_reason is not distinct from e.waiting_reason \
             and (e.state <> 'running' or r.phase is not distinct from e.phase) \
             and (r.vendor_status is null or r.vendor_status is not distinct from e.vendor_status) \
             and (r.warning is null or e.warnings ? r.warning) then 0 else 1 end \
         from unnest((select $1::uuid[]), (select $2::uuid[]), (select $3::interval[]), (select $4::text[]), \
                     (select $5::text[]), (select $6::text[]), (select $7::int[]), (select $8::bool[]), \
                     (select $9::text[])) as r (export_id, claim, after, phase, waiting_reason, vendor_status, \
                                                failures, outcome_unknown, warning) \
         where e.export_id = r.export_id and e.claim = r.claim returning e.export_id",
    )
    .bind(column!(|(id, ..)| id.0))
    .bind(column!(|(_, claim, _)| *claim))
    .bind(releases.iter().map(|(.., release)| interval(release.after)).collect::<sqlx::Result<Vec<_>>>()?)
    .bind(column!(|(.., release)| release.phase.as_str()))
    .bind(column!(|(.., release)| release.waiting_reason))
    .bind(column!(|(.., release)| release.vendor_status))
    .bind(column!(|(.., release)| release.failures))
    .bind(column!(|(.., release)| release.outcome_unknown))
    .bind(column!(|(.., release)| release.warning))
    .fetch_all(db)
    .await
}

/// Forgets what the vendor gave, because the vendor no longer has it; the next step asks again.
pub async fn forget_ticket(db: impl PgExecutor<'_>, id: ExportId, claim: Uuid, why: &str) -> sqlx::Result<Held> {
    sqlx::query(
        "update export set claim = null, claimed_by = null, wake = false, due_at = now(), ticket = null, \
         submit_intent_at = null, submitted_at = null, data_as_of = null, phase = case when state = 'running' then 'submitting' else phase end, \
         vendor_status = $3, failures = 0, attempt = 1, version = version + 1 \
         where export_id = $1 and claim = $2",
    )
    .bind(id)
    .bind(claim)
    .bind(why)
    .execute(db)
    .await
    .map(Held::from)
}

/// The vendor's files are ready: the transfer begins, `taken_at` is when the data was taken.
pub async fn begin_transfer(db: impl PgExecutor<'_>, id: ExportId, claim: Uuid, files: i32) -> sqlx::Result<Held> {
    sqlx::query(
        "update export set phase = 'downloading', vendor_status = 'ready', waiting_reason = null, files_total = $3, \
         files_done = 0, records = 0, bytes_read = 0, bytes_written = 0, retry_at = null, \
         last_progress_at = case when failures = 0 then now() else last_progress_at end, \
         data_as_of = now(), version = version + 1 where export_id = $1 and claim = $2 and state = 'running'",
    )
    .bind(id)
    .bind(claim)
    .bind(files)
    .execute(db)
    .await
    .map(Held::from)
}

/// Whether the vendor has, or may have, begun the job of an export.
pub async fn is_begun(db: impl PgExecutor<'_>, id: ExportId) -> sqlx::Result<bool> {
    sqlx::query_scalar("select ticket is not null or submit_intent_at is not null from export where export_id = $1")
        .bind(id)
        .fetch_one(db)
        .await
}

/// Says what a running export does next.
pub async fn enter_phase(db: impl PgExecutor<'_>, id: ExportId, claim: Uuid, phase: Phase) -> sqlx::Result<Held> {
    sqlx::query(
        "update export set phase = $3, version = version + 1 \
         where export_id = $1 and claim = $2 and state = 'running'",
    )
    .bind(id)
    .bind(claim)
    .bind(phase)
    .execute(db)
    .await
    .map(Held::from)
}

/// Everything is stored, only the delivery is left: lets go, so that any worker can begin with it at once. Name the files
/// in the same transaction, under a lock of the destination: `staged_at` says whose turn it is there.
pub async fn stage(db: impl PgExecutor<'_>, id: ExportId, claim: Uuid, moved: Moved) -> sqlx::Result<Held> {
    sqlx::query(
        "update export set phase = 'delivering', staged_at = clock_timestamp(), \
         records = $3, bytes_read = $4, bytes_written = $5, files_done = $6, files_total = $7, \
         last_progress_at = now(), claim = null, claimed_by = null, due_at = now(), wake = false, ticket = null, \
         submit_intent_at = null, exclusive_key = null, waiting_reason = null, retry_at = null, failures = 0, \
         attempt = 1, version = version + 1 \
         where export_id = $1 and claim = $2 and state = 'running'",
    )
    .bind(id)
    .bind(claim)
    .bind(moved.records)
    .bind(moved.bytes_read)
    .bind(moved.bytes_written)
    .bind(moved.files_done)
    .bind(moved.files_total)
    .execute(db)
    .await
    .map(Held::from)
}

/// Whether another live export was staged earlier for the same folder of the same destination: it goes first.
pub async fn goes_after_another(db: impl PgExecutor<'_>, id: ExportId) -> sqlx::Result<bool> {
    sqlx::query_scalar(
        "select exists (select from export own join export other \
         on other.destination_id = own.destination_id and other.delivery_path = own.delivery_path \
         and other.finished_at is null and (other.staged_at, other.export_id) < (own.staged_at, own.export_id) \
         where own.export_id = $1)",
    )
    .bind(id)
    .fetch_one(db)
    .await
}

/// Ends an export well. Name its files in the same transaction.
pub async fn complete(
    db: impl PgExecutor<'_>,
    id: ExportId,
    claim: Uuid,
    transition: Transition,
    moved: Moved,
    result_ttl: Duration,
) -> sqlx::Result<Held> {
    sqlx::query(
        "update export set state = $10, phase = null, finished_at = now(), result_expires_at = now() + $3, \
         records = $4, bytes_read = $5, bytes_written = $6, files_done = $7, files_total = $8, \
         last_progress_at = now(), claim = null, claimed_by = null, ticket = null, submit_intent_at = null, \
         waiting_reason = null, retry_at = null, version = version + 1 \
         where export_id = $1 and claim = $2 and state = $9",
    )
    .bind(id)
    .bind(claim)
    .bind(interval(result_ttl)?)
    .bind(moved.records)
    .bind(moved.bytes_read)
    .bind(moved.bytes_written)
    .bind(moved.files_done)
    .bind(moved.files_total)
    .bind(transition.from())
    .bind(transition.to())
    .execute(db)
    .await
    .map(Held::from)
}

/// Ends an export badly.
pub async fn fail(
    db: impl PgExecutor<'_>,
    id: ExportId,
    claim: Uuid,
    transition: Transition,
    problem: &Problem,
) -> sqlx::Result<Held> {
    sqlx::query(
        "update export set state = $6, phase = null, finished_at = now(), error = $3, claim = null, \
         claimed_by = null, ticket = null, waiting_reason = null, retry_at = null, \
         vendor_status = coalesce($4, vendor_status), version = version + 1 \
         where export_id = $1 and claim = $2 and state = $5",
    )
    .bind(id)
    .bind(claim)
    .bind(Json(problem))
    .bind(problem.vendor.as_ref().and_then(|vendor| vendor.message.as_deref()))
    .bind(transition.from())
    .bind(transition.to())
    .execute(db)
    .await
    .map(Held::from)
}

/// Ends an export that a caller stopped.
pub async fn cancelled(
    db: impl PgExecutor<'_>,
    id: ExportId,
    claim: Uuid,
    transition: Transition,
) -> sqlx::Result<Held> {
    sqlx::query(
        "update export set state = $4, phase = null, finished_at = now(), claim = null, claimed_by = null, \
         ticket = null, waiting_reason = null, retry_at = null, version = version + 1 \
         where export_id = $1 and claim = $2 and state = $3",
    )
    .bind(id)
    .bind(claim)
    .bind(transition.from())
    .bind(transition.to())
    .execute(db)
    .await
    .map(Held::from)
}

/// Keeps vendor exchanges; they are evidence and are written whoever holds the claim.
pub async fn insert_exchanges(db: impl PgExecutor<'_>, id: ExportId, exchanges: &[AttemptRecord]) -> sqlx::Result<()> {
    sqlx::query(
        "insert into vendor_exchange (export_id, at, action, method, target, http_status, duration_ms, decision) \
         select $1, * from unnest($2::timestamptz[], $3::text[], $4::text[], $5::text[], $6::int[], $7::bigint[], $8::text[])",
    )
    .bind(id)
    .bind(exchanges.iter().map(|exchange| exchange.at).collect::<Vec<_>>())
    .bind(exchanges.iter().map(|exchange| exchange.action.clone()).collect::<Vec<_>>())
    .bind(exchanges.iter().map(|exchange| exchange.method.clone()).collect::<Vec<_>>())
    .bind(exchanges.iter().map(|exchange| exchange.target.clone()).collect::<Vec<_>>())
    .bind(exchanges.iter().map(|exchange| exchange.http_status).collect::<Vec<_>>())
    .bind(exchanges.iter().map(|exchange| exchange.duration_ms).collect::<Vec<_>>())
    .bind(exchanges.iter().map(|exchange| exchange.decision.clone()).collect::<Vec<_>>())
    .execute(db)
    .await
    .map(drop)
}
