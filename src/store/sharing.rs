//! Exports of one plan that share one vendor export. One of them leads: it is driven as any other. The others follow:
//! they hold nothing and wait, show what the leader shows (a trigger passes it on), and end with it. A leader that is
//! cancelled or whose time is up hands its work on to a follower in the transaction that ends it.
//!
//! Whoever ends the work of a plan holds [`lock_plan`]; whoever joins or begins some, [`lock_plan_to_join`]. Both are
//! taken before any lock of a connection or an export, and leaders are locked before their followers.

use std::time::Duration;

use sqlx::{PgConnection, PgExecutor, types::Json};
use uuid::Uuid;

use super::{
    Held,
    exports::{LOOK_AT_LEADER, export_columns, interval},
};
use crate::{
    exports::{problem::Problem, record::ExportRecord},
    ids::{ExportId, FileId},
};

/// How many exports follow one: what the leader shows is written for each of them. One more begins work of its own.
const MAX_FOLLOWERS: i64 = 1000;

/// Work that can be shared.
#[derive(Debug, Clone, Copy, sqlx::FromRow)]
pub struct Work {
    /// Who does it, or did it.
    pub by: ExportId,
    pub run: ExportId,
    /// One of the run that the tenant may see.
    pub shown: Option<ExportId>,
}

macro_rules! work_columns {
    () => {
        "l.export_id as by, coalesce(l.run_id, l.export_id) as run, \
         case when l.tenant = $2 then l.export_id else coalesce( \
             (select m.export_id from export m where m.export_id = l.run_id and m.tenant = $2), \
             (select m.export_id from export m where m.run_id = coalesce(l.run_id, l.export_id) and m.tenant = $2 \
              order by m.export_id limit 1)) end as shown"
    };
}

/// Until the transaction ends, nobody else joins, begins or ends work of this plan.
pub async fn lock_plan(db: impl PgExecutor<'_>, plan_sha256: &[u8]) -> sqlx::Result<()> {
    sqlx::query("select pg_advisory_xact_lock($1)").bind(lock_number(plan_sha256)).execute(db).await.map(drop)
}

/// Until the transaction ends, nobody ends work of this plan, and nobody begins any where there is none. Many may join at
/// once. Look for the work after this: it may have ended, or begun, while the lock was waited for.
pub async fn lock_plan_to_join(db: impl PgExecutor<'_>, plan_sha256: &[u8]) -> sqlx::Result<()> {
    sqlx::query(
        "select case when exists (select from live_export where plan_sha256 = $1) \
         then pg_advisory_xact_lock_shared($2) else pg_advisory_xact_lock($2) end",
    )
    .bind(plan_sha256)
    .bind(lock_number(plan_sha256))
    .execute(db)
    .await
    .map(drop)
}

/// Two plans with one number would only wait for each other.
fn lock_number(plan_sha256: &[u8]) -> i64 {
    plan_sha256.first_chunk().map_or(0, |head| i64::from_be_bytes(*head))
}

/// Live work of this plan that one more export of `tenant` can share.
pub async fn live(db: impl PgExecutor<'_>, plan_sha256: &[u8], tenant: &str) -> sqlx::Result<Option<Work>> {
    sqlx::query_as(concat!(
        "select ",
        work_columns!(),
        " from live_export live join export l on l.export_id = live.export_id \
         where live.plan_sha256 = $1 and l.follows is null and l.finished_at is null and l.state in ('queued', 'running') and l.staged_at is null and l.stored_at is null \
         and (select count(*) from (select from export f where f.follows = l.export_id and f.finished_at is null \
                                    limit $3) counted) < $3 \
         order by l.export_id desc limit 1"
    ))
    .bind(plan_sha256)
    .bind(tenant)
    .bind(MAX_FOLLOWERS)
    .fetch_optional(db)
    .await
}

/// A finished export of this plan whose data are no older than `max_age`. Its files stay until the transaction ends.
pub async fn finished(
    db: impl PgExecutor<'_>,
    plan_sha256: &[u8],
    tenant: &str,
    max_age: Duration,
) -> sqlx::Result<Option<Work>> {
    sqlx::query_as(concat!(
        "select ",
        work_columns!(),
        " from export l where l.plan_sha256 = $1 and l.state = 'succeeded' and l.result_deleted_at is null \
         and l.result_swept_at is null and l.result_expires_at > now() and l.data_as_of >= now() - $3 \
         order by l.data_as_of desc limit 1 for share of l"
    ))
    .bind(plan_sha256)
    .bind(tenant)
    .bind(interval(max_age)?)
    .fetch_optional(db)
    .await
}

/// Has a new follower show what its leader shows, which is at least as urgent from now on.
pub async fn join(db: impl PgExecutor<'_>, id: ExportId) -> sqlx::Result<ExportRecord> {
    sqlx::query_as(concat!(
        "with urged as (update export l set turn = f.turn from export f \
                        where f.export_id = $1 and l.export_id = f.follows and l.turn > f.turn \
                        and l.priority <> f.priority and l.state = 'queued') \
         update export f set (state, phase, waiting_reason, attempt, retry_at, records, bytes_read, bytes_written, \
             files_done, files_total, vendor_status, vendor_reference, data_as_of, started_at) = ( \
             select case when l.state = 'running' then l.state else f.state end, l.phase, l.waiting_reason, l.attempt, \
             l.retry_at, l.records, l.bytes_read, l.bytes_written, l.files_done, l.files_total, l.vendor_status, \
             l.vendor_reference, l.data_as_of, case when l.started_at is not null then f.created_at end \
             from export l where l.export_id = f.follows) \
         where f.export_id = $1 returning ",
        export_columns!()
    ))
    .bind(id)
    .fetch_one(db)
    .await
}

/// Gives a new export the files of a finished one: it has succeeded, or only its delivery is left.
pub async fn reuse(
    tx: &mut PgConnection,
    id: ExportId,
    finished: ExportId,
    result_ttl: Duration,
) -> sqlx::Result<ExportRecord> {
    sqlx::query(
        "update export set state = 'running', started_at = now(), unclaimed = false \
         where export_id = $1 and state = 'queued'",
    )
    .bind(id)
    .execute(&mut *tx)
    .await?;
    give(tx, finished, &[id], result_ttl).await?;
    sqlx::query_as(concat!("select ", export_columns!(), " from export where export_id = $1"))
        .bind(id)
        .fetch_one(tx)
        .await
}

/// The leader has everything stored and named: so have its followers. Call in the transaction that names the files.
pub async fn succeed_followers(tx: &mut PgConnection, leader: ExportId, result_ttl: Duration) -> sqlx::Result<()> {
    let followers: Vec<ExportId> = sqlx::query_scalar(
        "select export_id from export where follows = $1 and finished_at is null and state in ('queued', 'running') \
         order by export_id for update",
    )
    .bind(leader)
    .fetch_all(&mut *tx)
    .await?;
    if followers.is_empty() {
        return Ok(());
    }
    // One that joined while the leader began may not have heard of it.
    sqlx::query(
        "update export set state = 'running', started_at = coalesce(started_at, now()) \
         where export_id = any($1) and state = 'queued'",
    )
    .bind(uuids(&followers))
    .execute(&mut *tx)
    .await?;
    give(tx, leader, &followers, result_ttl).await
}

/// Gives running exports the counts and files of another. Each keeps them for its own time.
async fn give(tx: &mut PgConnection, from: ExportId, to: &[ExportId], result_ttl: Duration) -> sqlx::Result<()> {
    let to = uuids(to);
    // Those that go to a destination go on as if they had stored the files themselves.
    sqlx::query(
        "update export f set state = case when f.destination_id is null then 'succeeded' else 'running' end, \
         phase = case when f.destination_id is not null then 'delivering' end, \
         finished_at = case when f.destination_id is null then now() end, \
         result_expires_at = case when f.destination_id is null then now() + $3 end, \
         stored_at = case when f.destination_id is not null then now() end, due_at = now(), follows = null, \
         claim = null, claimed_by = null, wake = false, waiting_reason = null, retry_at = null, attempt = 1, \
         failures = 0, records = l.records, bytes_read = l.bytes_read, bytes_written = l.bytes_written, \
         files_done = l.files_done, files_total = l.files_total, warnings = l.warnings, \
         vendor_status = l.vendor_status, vendor_reference = l.vendor_reference, data_as_of = l.data_as_of, \
         last_progress_at = now(), version = f.version + 1 \
         from export l where l.export_id = $1 and f.export_id = any($2) and f.state = 'running'",
    )
    .bind(from)
    .bind(&to)
    .bind(interval(result_ttl)?)
    .execute(&mut *tx)
    .await?;
    let positions: Vec<i32> = sqlx::query_scalar("select position from result_file where export_id = $1")
        .bind(from)
        .fetch_all(&mut *tx)
        .await?;
    let named: Vec<(Uuid, i32)> =
        to.iter().flat_map(|export| positions.iter().map(|position| (*export, *position))).collect();
    sqlx::query(
        "insert into result_file (file_id, export_id, position, name, object_key, media_type, compression, bytes, \
         records, sha256) \
         select named.file_id, named.export_id, f.position, f.name, f.object_key, f.media_type, f.compression, f.bytes, \
         f.records, f.sha256 \
         from unnest($2::uuid[], $3::uuid[], $4::int[]) as named (file_id, export_id, position) \
         join result_file f on f.export_id = $1 and f.position = named.position",
    )
    .bind(from)
    .bind(named.iter().map(|_| FileId::new().0).collect::<Vec<_>>())
    .bind(named.iter().map(|(export, _)| *export).collect::<Vec<_>>())
    .bind(named.iter().map(|(_, position)| *position).collect::<Vec<_>>())
    .execute(tx)
    .await
    .map(drop)
}

/// The leader ends badly: so do its followers.
pub async fn fail_followers(db: impl PgExecutor<'_>, leader: ExportId, problem: &Problem) -> sqlx::Result<()> {
    sqlx::query(
        "update export set state = 'failed', phase = null, finished_at = now(), error = $2, claim = null, \
         claimed_by = null, waiting_reason = null, retry_at = null, version = version + 1 \
         where follows = $1 and finished_at is null and state in ('queued', 'running')",
    )
    .bind(leader)
    .bind(Json(problem))
    .execute(db)
    .await
    .map(drop)
}

/// The plan of a live export of the tenant, if it may share work.
pub async fn plan_of(db: impl PgExecutor<'_>, tenant: &str, id: ExportId) -> sqlx::Result<Option<Vec<u8>>> {
    let plan: Option<Option<Vec<u8>>> = sqlx::query_scalar(
        "select plan_sha256 from export where export_id = $2 and tenant = $1 and finished_at is null",
    )
    .bind(tenant)
    .bind(id)
    .fetch_optional(db)
    .await?;
    Ok(plan.flatten())
}

/// Whether some export follows this one.
pub async fn is_followed(db: impl PgExecutor<'_>, leader: ExportId) -> sqlx::Result<bool> {
    sqlx::query_scalar(
        "select exists (select from export where follows = $1 and finished_at is null \
         and state in ('queued', 'running'))",
    )
    .bind(leader)
    .fetch_one(db)
    .await
}

/// Hands all work of a locked leader on to the follower that has the most time left, which any worker can go on with at
/// once: what the vendor gave, parts, the slot, its place in the line. Answers the heir; `None` when nobody follows.
pub async fn hand_on(tx: &mut PgConnection, leader: ExportId) -> sqlx::Result<Option<ExportId>> {
    let heir: Option<ExportId> = sqlx::query_scalar(
        "select export_id from export where follows = $1 and finished_at is null and state in ('queued', 'running') \
         order by deadline_at desc, export_id limit 1 for update",
    )
    .bind(leader)
    .fetch_optional(&mut *tx)
    .await?;
    let Some(heir) = heir else { return Ok(None) };
    // One export at a time has a callback token.
    let token: Option<Vec<u8>> = sqlx::query_scalar("select callback_token_sha256 from export where export_id = $1")
        .bind(leader)
        .fetch_one(&mut *tx)
        .await?;
    sqlx::query("update export set callback_token_sha256 = null where export_id = $1")
        .bind(leader)
        .execute(&mut *tx)
        .await?;
    sqlx::query(
        "update export h set follows = null, claim = null, claimed_by = null, wake = false, state = l.state, \
         phase = l.phase, waiting_reason = l.waiting_reason, started_at = coalesce(h.started_at, \
         case when l.started_at is not null then now() end), due_at = case when l.unclaimed then h.deadline_at else now() end, \
         unclaimed = l.unclaimed, turn = l.turn, ticket = l.ticket, submit_intent_at = l.submit_intent_at, \
         submitted_at = l.submitted_at, submissions = l.submissions, failures = l.failures, attempt = l.attempt, \
         retry_at = l.retry_at, exclusive_key = l.exclusive_key, callback_token_sha256 = $3, \
         called_back_at = l.called_back_at, data_as_of = l.data_as_of, vendor_status = l.vendor_status, \
         vendor_reference = l.vendor_reference, warnings = l.warnings, last_progress_at = \
         greatest(l.last_progress_at, h.created_at), version = h.version + 1 \
         from export l where l.export_id = $1 and h.export_id = $2",
    )
    .bind(leader)
    .bind(heir)
    .bind(token)
    .execute(&mut *tx)
    .await?;
    sqlx::query(
        "update export set ticket = null, submit_intent_at = null, exclusive_key = null, unclaimed = false \
         where export_id = $1",
    )
    .bind(leader)
    .execute(&mut *tx)
    .await?;
    for moved in [
        "update export set follows = $2 where follows = $1 and finished_at is null",
        "update export_part set export_id = $2 where export_id = $1",
        "update vendor_slot set export_id = $2 where export_id = $1",
    ] {
        sqlx::query(moved).bind(leader).bind(heir).execute(&mut *tx).await?;
    }
    super::parts::hand_on(tx, leader, heir).await?;
    Ok(Some(heir))
}

/// Lets a follower go: to wait on, or on its own at once when nobody does the work any more.
pub async fn follow_on(db: impl PgExecutor<'_>, id: ExportId, claim: Uuid) -> sqlx::Result<Held> {
    sqlx::query(
        "update export f set claim = null, claimed_by = null, wake = false, \
         follows = case when led.lives then follows end, \
         due_at = case when led.lives then least(now() + $3, deadline_at) else now() end \
         from (select exists (select from export l join export own on l.export_id = own.follows \
                              where own.export_id = $1 and l.finished_at is null and l.follows is null \
                              and l.state in ('queued', 'running')) as lives) led \
         where f.export_id = $1 and f.claim = $2",
    )
    .bind(id)
    .bind(claim)
    .bind(interval(LOOK_AT_LEADER)?)
    .execute(db)
    .await
    .map(Held::from)
}

/// Whether another live export has part in the same run.
pub async fn is_run_shared(db: impl PgExecutor<'_>, run: ExportId, by: ExportId) -> sqlx::Result<bool> {
    sqlx::query_scalar(
        "select exists (select from export where (run_id = $1 or export_id = $1) and export_id <> $2 \
         and finished_at is null)",
    )
    .bind(run)
    .bind(by)
    .fetch_one(db)
    .await
}

fn uuids(ids: &[ExportId]) -> Vec<Uuid> {
    ids.iter().map(|id| id.0).collect()
}
