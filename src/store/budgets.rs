//! Budgets of vendor calls, by the database's clock: one truth for all replicas.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;

use super::exports::interval;

/// Whose budget.
#[derive(Debug, Clone, Copy)]
pub struct BudgetKey<'a> {
    pub vendor: &'a str,
    pub account: &'a str,
    pub budget: &'a str,
}

/// Counts one call. Answers `None` when it may be made, else how long the budget is spent, in seconds.
pub async fn count(
    db: &sqlx::PgPool,
    key: BudgetKey<'_>,
    limit: i32,
    window: Duration,
) -> sqlx::Result<Option<Duration>> {
    let counted: Option<i32> = sqlx::query_scalar(
        "insert into vendor_budget as b (vendor, account, budget, call_limit, used, resets_at) \
         values ($1, $2, $3, $4, 1, now() + $5) \
         on conflict (vendor, account, budget) do update set \
           used = case when b.resets_at <= now() then 1 else b.used + 1 end, \
           call_limit = case when b.resets_at <= now() then $4 else b.call_limit end, \
           resets_at = case when b.resets_at <= now() then now() + $5 else b.resets_at end \
         where b.resets_at <= now() or b.used < b.call_limit returning used",
    )
    .bind(key.vendor)
    .bind(key.account)
    .bind(key.budget)
    .bind(limit)
    .bind(interval(window)?)
    .fetch_optional(db)
    .await?;
    if counted.is_some() {
        return Ok(None);
    }
    let left: Option<f64> = sqlx::query_scalar(
        "select extract(epoch from resets_at - now())::float8 from vendor_budget \
         where vendor = $1 and account = $2 and budget = $3",
    )
    .bind(key.vendor)
    .bind(key.account)
    .bind(key.budget)
    .fetch_optional(db)
    .await?;
    Ok(Some(seconds(left)))
}

fn seconds(left: Option<f64>) -> Duration {
    Duration::from_secs_f64(left.unwrap_or_default().clamp(0.0, 86_400.0))
}

/// Believes the vendor. Calls that are on their way are not in what it counted, so `used` never goes down within a
/// window; another end means another window.
pub async fn learn(
    db: impl PgExecutor<'_>,
    key: BudgetKey<'_>,
    limit: i32,
    used: i32,
    resets_at: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query(
        "insert into vendor_budget as b (vendor, account, budget, call_limit, used, resets_at) \
         values ($1, $2, $3, $4, $5, $6) \
         on conflict (vendor, account, budget) do update set call_limit = $4, \
           used = case when $6 between b.resets_at - interval '2 s' and b.resets_at + interval '2 s' \
                  then greatest(b.used, $5) else $5 end, resets_at = $6 \
         where (b.call_limit, b.resets_at) is distinct from ($4, $6) or b.used < $5",
    )
    .bind(key.vendor)
    .bind(key.account)
    .bind(key.budget)
    .bind(limit)
    .bind(used)
    .bind(resets_at)
    .execute(db)
    .await
    .map(drop)
}

/// A place of a spaced budget.
#[derive(Debug, Clone, Copy, sqlx::FromRow)]
pub struct Slot {
    pub slot: i32,
    /// Tells this holder from the next.
    pub free_at: DateTime<Utc>,
}

/// Takes a place for at most `hold`, or answers how long none is free.
pub async fn take_slot(
    db: &sqlx::PgPool,
    key: BudgetKey<'_>,
    limit: i32,
    hold: Duration,
) -> sqlx::Result<Result<Slot, Duration>> {
    for _ in 0..2 {
        let taken = sqlx::query_as(
            "update vendor_call_slot set free_at = now() + $5 where (vendor, account, budget, slot) in ( \
                select vendor, account, budget, slot from vendor_call_slot \
                where vendor = $1 and account = $2 and budget = $3 and slot <= $4 and free_at <= now() \
                order by free_at limit 1 for update skip locked) \
             returning slot, free_at",
        )
        .bind(key.vendor)
        .bind(key.account)
        .bind(key.budget)
        .bind(limit)
        .bind(interval(hold)?)
        .fetch_optional(db)
        .await?;
        if let Some(slot) = taken {
            return Ok(Ok(slot));
        }
        let made = sqlx::query(
            "insert into vendor_call_slot (vendor, account, budget, slot) select $1, $2, $3, generate_series(1, $4) \
             on conflict do nothing",
        )
        .bind(key.vendor)
        .bind(key.account)
        .bind(key.budget)
        .bind(limit)
        .execute(db)
        .await?;
        if made.rows_affected() == 0 {
            break;
        }
    }
    let left: Option<f64> = sqlx::query_scalar(
        "select extract(epoch from min(free_at) - now())::float8 from vendor_call_slot \
         where vendor = $1 and account = $2 and budget = $3 and slot <= $4",
    )
    .bind(key.vendor)
    .bind(key.account)
    .bind(key.budget)
    .bind(limit)
    .fetch_one(db)
    .await?;
    Ok(Err(seconds(left)))
}

/// Gives a place back, to be free after `rest`; nothing if somebody else has it by now.
pub async fn give_slot_back(
    db: impl PgExecutor<'_>,
    key: BudgetKey<'_>,
    slot: Slot,
    rest: Duration,
) -> sqlx::Result<()> {
    sqlx::query(
        "update vendor_call_slot set free_at = least(free_at, now() + $6) \
         where vendor = $1 and account = $2 and budget = $3 and slot = $4 and free_at = $5",
    )
    .bind(key.vendor)
    .bind(key.account)
    .bind(key.budget)
    .bind(slot.slot)
    .bind(slot.free_at)
    .bind(interval(rest)?)
    .execute(db)
    .await
    .map(drop)
}

/// What is known of a counted budget.
#[derive(Debug, Clone, Copy, sqlx::FromRow)]
pub struct Count {
    pub call_limit: i32,
    /// 0 once its window is over.
    pub used: i32,
    /// None once its window is over.
    pub resets_at: Option<DateTime<Utc>>,
}

/// Reads a counted budget; none before its first call.
pub async fn read_count(db: impl PgExecutor<'_>, key: BudgetKey<'_>) -> sqlx::Result<Option<Count>> {
    sqlx::query_as(
        "select call_limit, case when resets_at > now() then used else 0 end as used, \
         case when resets_at > now() then resets_at end as resets_at \
         from vendor_budget where vendor = $1 and account = $2 and budget = $3",
    )
    .bind(key.vendor)
    .bind(key.account)
    .bind(key.budget)
    .fetch_optional(db)
    .await
}

/// How many places of a spaced budget are taken or resting.
pub async fn taken_slots(db: impl PgExecutor<'_>, key: BudgetKey<'_>) -> sqlx::Result<i64> {
    sqlx::query_scalar(
        "select count(*) from vendor_call_slot \
         where vendor = $1 and account = $2 and budget = $3 and free_at > now()",
    )
    .bind(key.vendor)
    .bind(key.account)
    .bind(key.budget)
    .fetch_one(db)
    .await
}
