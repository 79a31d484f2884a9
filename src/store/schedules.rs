//! Schedules and what became of their runs.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{PgExecutor, types::Json};

use super::exports::interval;
use crate::{
    exports::{
        problem::Problem,
        schedule::{RunOutcome, RunRecord, ScheduleRecord, SkipReason},
    },
    ids::{ExportId, ScheduleId},
};

macro_rules! columns {
    () => {
        "schedule_id, tenant, name, created_by, runs_as, connections, cron, time_zone, export, not_before, catch_up, \
         paused_at, next_run_at, due_at, last_error, failures, created_at, updated_at"
    };
}

/// Takes the tenant's schedules for this transaction: those who would add one take turns.
pub async fn lock_tenant(db: impl PgExecutor<'_>, tenant: &str) -> sqlx::Result<()> {
    sqlx::query("select pg_advisory_xact_lock(hashtextextended($1, 19))").bind(tenant).execute(db).await.map(drop)
}

/// How many the tenant has.
pub async fn count(db: impl PgExecutor<'_>, tenant: &str) -> sqlx::Result<i64> {
    sqlx::query_scalar("select count(*) from schedule where tenant = $1").bind(tenant).fetch_one(db).await
}

/// Whether the tenant has another schedule of that name.
pub async fn is_name_taken(db: impl PgExecutor<'_>, tenant: &str, name: &str, but: ScheduleId) -> sqlx::Result<bool> {
    sqlx::query_scalar("select exists (select from schedule where tenant = $1 and name = $2 and schedule_id <> $3)")
        .bind(tenant)
        .bind(name)
        .bind(but)
        .fetch_one(db)
        .await
}

/// Adds a schedule.
pub async fn insert(db: impl PgExecutor<'_>, new: &ScheduleRecord) -> sqlx::Result<ScheduleRecord> {
    sqlx::query_as(concat!(
        "insert into schedule (schedule_id, tenant, name, created_by, runs_as, connections, cron, time_zone, export, \
         not_before, catch_up, paused_at, next_run_at, due_at) \
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) returning ",
        columns!()
    ))
    .bind(new.schedule_id)
    .bind(&new.tenant)
    .bind(&new.name)
    .bind(&new.created_by)
    .bind(&new.runs_as)
    .bind(&new.connections)
    .bind(&new.cron)
    .bind(&new.time_zone)
    .bind(&new.export)
    .bind(&new.not_before)
    .bind(new.catch_up)
    .bind(new.paused_at)
    .bind(new.next_run_at)
    .bind(new.due_at)
    .fetch_one(db)
    .await
}

/// Changes a locked schedule. What was wrong with it may no longer be.
pub async fn update(db: impl PgExecutor<'_>, changed: &ScheduleRecord) -> sqlx::Result<ScheduleRecord> {
    sqlx::query_as(concat!(
        "update schedule set name = $2, runs_as = $3, connections = $4, cron = $5, time_zone = $6, export = $7, \
         not_before = $8, catch_up = $9, paused_at = $10, next_run_at = $11, due_at = $12, last_error = $13, \
         failures = $14, updated_at = now() where schedule_id = $1 returning ",
        columns!()
    ))
    .bind(changed.schedule_id)
    .bind(&changed.name)
    .bind(&changed.runs_as)
    .bind(&changed.connections)
    .bind(&changed.cron)
    .bind(&changed.time_zone)
    .bind(&changed.export)
    .bind(&changed.not_before)
    .bind(changed.catch_up)
    .bind(changed.paused_at)
    .bind(changed.next_run_at)
    .bind(changed.due_at)
    .bind(&changed.last_error)
    .bind(changed.failures)
    .fetch_one(db)
    .await
}

/// One page of a tenant's schedules, newest first.
pub async fn list(
    db: impl PgExecutor<'_>,
    tenant: &str,
    before: Option<ScheduleId>,
    limit: i64,
) -> sqlx::Result<Vec<ScheduleRecord>> {
    sqlx::query_as(concat!(
        "select ",
        columns!(),
        " from schedule where tenant = $1 and ($2::uuid is null or schedule_id < $2) order by schedule_id desc limit $3"
    ))
    .bind(tenant)
    .bind(before)
    .bind(limit)
    .fetch_all(db)
    .await
}

/// The tenant's schedule.
pub async fn by_id(db: impl PgExecutor<'_>, tenant: &str, id: ScheduleId) -> sqlx::Result<Option<ScheduleRecord>> {
    sqlx::query_as(concat!("select ", columns!(), " from schedule where schedule_id = $2 and tenant = $1"))
        .bind(tenant)
        .bind(id)
        .fetch_optional(db)
        .await
}

/// The tenant's schedule, locked: no run of it begins before the transaction ends.
pub async fn lock(db: impl PgExecutor<'_>, tenant: &str, id: ScheduleId) -> sqlx::Result<Option<ScheduleRecord>> {
    sqlx::query_as(concat!("select ", columns!(), " from schedule where schedule_id = $2 and tenant = $1 for update"))
        .bind(tenant)
        .bind(id)
        .fetch_optional(db)
        .await
}

/// Deletes the tenant's schedule with its history, not its exports; says whether it was there.
pub async fn delete(db: impl PgExecutor<'_>, tenant: &str, id: ScheduleId) -> sqlx::Result<bool> {
    sqlx::query("delete from schedule where schedule_id = $2 and tenant = $1")
        .bind(tenant)
        .bind(id)
        .execute(db)
        .await
        .map(|result| result.rows_affected() > 0)
}

/// A schedule whose next run is due, locked for this transaction.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct DueSchedule {
    #[sqlx(flatten)]
    pub schedule: ScheduleRecord,
    /// The database's clock.
    pub now: DateTime<Utc>,
}

/// The schedule that has been due longest and has no live run, if any. Others are skipped while somebody has them; the
/// lock is held for as long as it takes to write down a run, and lost with the connection of whoever dies.
pub async fn lock_due(db: impl PgExecutor<'_>) -> sqlx::Result<Option<DueSchedule>> {
    sqlx::query_as(concat!(
        "select now() as now, ",
        columns!(),
        " from schedule s where due_at <= now() and not exists \
           (select from export e where e.schedule_id = s.schedule_id and e.finished_at is null) \
         order by due_at limit 1 for update of s skip locked"
    ))
    .fetch_optional(db)
    .await
}

/// How the runs of a locked schedule stand.
#[derive(Debug, Clone, Copy, sqlx::FromRow)]
pub struct Standing {
    /// A run is live. Asked anew under the lock, since it may have begun while the lock was waited for.
    pub is_live: bool,
    /// When a run ended last.
    pub last_end: Option<DateTime<Utc>>,
}

/// How the runs of a locked schedule stand.
pub async fn standing(db: impl PgExecutor<'_>, id: ScheduleId) -> sqlx::Result<Standing> {
    sqlx::query_as(
        "select exists (select from export where schedule_id = $1 and finished_at is null) as is_live, \
                (select e.finished_at from schedule_run r join export e using (export_id) \
                 where r.schedule_id = $1 and r.outcome = 'started' order by r.run_at desc limit 1) as last_end",
    )
    .bind(id)
    .fetch_one(db)
    .await
}

/// The database's clock, or the last run of a locked schedule that was dealt with if that is later.
pub async fn dealt_with_until(db: impl PgExecutor<'_>, id: ScheduleId) -> sqlx::Result<DateTime<Utc>> {
    sqlx::query_scalar("select greatest(now(), (select max(through) from schedule_run where schedule_id = $1))")
        .bind(id)
        .fetch_one(db)
        .await
}

/// What became of a run.
#[derive(Debug)]
pub enum Outcome<'a> {
    Started(ExportId),
    Skipped { through: DateTime<Utc>, reason: SkipReason },
    Failed(&'a Problem),
}

/// Writes down what became of a run.
pub async fn insert_run(
    db: impl PgExecutor<'_>,
    id: ScheduleId,
    run_at: DateTime<Utc>,
    outcome: &Outcome<'_>,
) -> sqlx::Result<()> {
    let (name, through, export, reason, error) = match outcome {
        Outcome::Started(export) => (RunOutcome::Started, run_at, Some(*export), None, None),
        Outcome::Skipped { through, reason } => (RunOutcome::Skipped, *through, None, Some(*reason), None),
        Outcome::Failed(problem) => (RunOutcome::Failed, run_at, None, None, Some(Json(*problem))),
    };
    sqlx::query(
        "insert into schedule_run (schedule_id, run_at, through, outcome, export_id, reason, error) \
         values ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(id)
    .bind(run_at)
    .bind(through)
    .bind(name)
    .bind(export)
    .bind(reason)
    .bind(error)
    .execute(db)
    .await
    .map(drop)
}

/// Marks a new export as a run of a schedule. Fails if the run has an export already.
pub async fn mark_export(
    db: impl PgExecutor<'_>,
    export: ExportId,
    id: ScheduleId,
    run_at: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query("update export set schedule_id = $2, scheduled_for = $3 where export_id = $1")
        .bind(export)
        .bind(id)
        .bind(run_at)
        .execute(db)
        .await
        .map(drop)
}

/// Moves a locked schedule on to its next run.
pub async fn advance(
    db: impl PgExecutor<'_>,
    id: ScheduleId,
    next_run_at: Option<DateTime<Utc>>,
    due_at: Option<DateTime<Utc>>,
    error: Option<&Problem>,
    failures: i32,
) -> sqlx::Result<()> {
    sqlx::query(
        "update schedule set next_run_at = $2, due_at = $3, last_error = $4, failures = $5 where schedule_id = $1",
    )
    .bind(id)
    .bind(next_run_at)
    .bind(due_at)
    .bind(error.map(Json))
    .bind(failures)
    .execute(db)
    .await
    .map(drop)
}

/// Puts off a due schedule that cannot be dealt with now, so that it does not keep others waiting.
pub async fn put_off(db: impl PgExecutor<'_>, id: ScheduleId, after: Duration) -> sqlx::Result<()> {
    sqlx::query("update schedule set due_at = now() + $2 where schedule_id = $1 and due_at <= now()")
        .bind(id)
        .bind(interval(after)?)
        .execute(db)
        .await
        .map(drop)
}

/// When the next run is due, if any is to come.
pub async fn next_due(db: impl PgExecutor<'_>) -> sqlx::Result<Option<Duration>> {
    let seconds: Option<f64> = sqlx::query_scalar(
        "select extract(epoch from due_at - now())::float8 from schedule where due_at is not null order by due_at limit 1",
    )
    .fetch_optional(db)
    .await?;
    Ok(seconds.map(|seconds| Duration::from_secs_f64(seconds.clamp(0.0, 86_400.0))))
}

/// What became of a schedule's runs before `before`, latest first.
pub async fn runs(
    db: impl PgExecutor<'_>,
    id: ScheduleId,
    before: Option<DateTime<Utc>>,
    limit: i64,
) -> sqlx::Result<Vec<RunRecord>> {
    sqlx::query_as(
        "select r.schedule_id, r.run_at, r.through, r.outcome, r.at, r.export_id, e.state, r.reason, r.error \
         from schedule_run r left join export e using (export_id) \
         where r.schedule_id = $1 and ($2::timestamptz is null or r.run_at < $2) order by r.run_at desc limit $3",
    )
    .bind(id)
    .bind(before)
    .bind(limit)
    .fetch_all(db)
    .await
}

/// What became of the latest run of each schedule.
pub async fn last_runs(db: impl PgExecutor<'_>, ids: &[ScheduleId]) -> sqlx::Result<Vec<RunRecord>> {
    let ids: Vec<_> = ids.iter().map(|id| id.0).collect();
    sqlx::query_as(
        "select r.schedule_id, r.run_at, r.through, r.outcome, r.at, r.export_id, e.state, r.reason, r.error \
         from unnest($1::uuid[]) as asked (id) \
         cross join lateral (select * from schedule_run where schedule_id = asked.id order by run_at desc limit 1) r \
         left join export e using (export_id)",
    )
    .bind(ids)
    .fetch_all(db)
    .await
}

/// Deletes what became of runs longer ago than `age`; answers how many, `limit` at most.
pub async fn sweep_runs(db: impl PgExecutor<'_>, age: Duration, limit: i64) -> sqlx::Result<u64> {
    sqlx::query(
        "delete from schedule_run where (schedule_id, run_at) in \
         (select schedule_id, run_at from schedule_run where at < now() - $1 order by at limit $2 for update skip locked)",
    )
    .bind(interval(age)?)
    .bind(limit)
    .execute(db)
    .await
    .map(|result| result.rows_affected())
}
