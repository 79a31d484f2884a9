//! Rows in bulk, as they are when exports wait at a vendor or have ended; and what things cost.

use std::time::Duration;

use anyhow::Context as _;
use sqlx::{AssertSqlSafe, PgPool};

const REQUEST: &str = r#"'tenant-' || i % 20, 'crm-sync', md5((i % 10)::text)::uuid, 'growth-braze', 'braze', 'audience_members',
    '{"audience": {"kind": "segment", "id": "5a1b0c2d-0000-4000-8000-000000000001"}, "fields": ["user_id", "email"]}',
    '{"format": "ndjson", "compression": "none", "schema": "unified"}', '{"type": "gateway"}', '{}'"#;
const COLUMNS: &str = "export_id, tenant, created_by, connection_id, connection, vendor, dataset, parameters, output, \
                       delivery, labels";

/// Exports that the vendor is at, to be looked at `due`.
pub async fn live(db: &PgPool, count: u64, due: &str) -> sqlx::Result<()> {
    fill(
        db,
        format!(
            "insert into export ({COLUMNS}, state, phase, vendor_status, started_at, submitted_at, deadline_at, due_at, \
             ticket, plan_sha256, exclusive_key) \
             select gen_random_uuid(), {REQUEST}, 'running', 'vendor_processing', 'not ready', now(), now(), \
             now() + interval '2 days', {due}, sha256(i::text::bytea), sha256(gen_random_uuid()::text::bytea), \
             'segment:' || i from generate_series(1, {count}) i"
        ),
    )
    .await
}

/// Exports that have succeeded.
pub async fn finished(db: &PgPool, count: u64) -> sqlx::Result<()> {
    fill(
        db,
        format!(
            "insert into export ({COLUMNS}, state, started_at, finished_at, deadline_at, due_at, result_expires_at, \
             data_as_of, records, plan_sha256) \
             select gen_random_uuid(), {REQUEST}, 'succeeded', now(), now(), now(), now() - interval '1 day', \
             now() + interval '7 days', now(), i, sha256(gen_random_uuid()::text::bytea) \
             from generate_series(1, {count}) i"
        ),
    )
    .await
}

/// Without triggers: nobody waits for the events of these.
async fn fill(db: &PgPool, insert: String) -> sqlx::Result<()> {
    let mut tx = db.begin().await?;
    sqlx::query("set local session_replication_role = replica").execute(&mut *tx).await?;
    sqlx::query(AssertSqlSafe(insert)).execute(&mut *tx).await?;
    tx.commit().await?;
    sqlx::query("vacuum analyze export").execute(db).await.map(drop)
}

/// CPU time of this process so far.
pub fn own_cpu() -> anyhow::Result<Duration> {
    cpu("self")
}

/// CPU time so far of every Postgres process on this machine: ours, unless others run beside it.
pub fn postgres_cpu() -> anyhow::Result<Duration> {
    let processes = std::fs::read_dir("/proc")?.filter_map(Result::ok);
    let names = processes.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let is_postgres = |id: &String| {
        let name = std::fs::read_to_string(format!("/proc/{id}/comm"));
        name.is_ok_and(|name| name.starts_with("postgres"))
    };
    // One that has just ended counts no more.
    Ok(names.filter(is_postgres).filter_map(|id| cpu(&id).ok()).sum())
}

fn cpu(process: &str) -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').context("an unusual /proc/self/stat")?;
    let ticks = |n: usize| fields.split_whitespace().nth(n).and_then(|ticks| ticks.parse::<u64>().ok()).unwrap_or(0);
    // utime and stime, the 14th and 15th field, in hundredths of a second.
    Ok(Duration::from_millis((ticks(11) + ticks(12)) * 10))
}

/// Transactions of this database so far, as its statistics say, a second late at most.
pub async fn transactions(db: &PgPool) -> sqlx::Result<i64> {
    tokio::time::sleep(Duration::from_millis(1200)).await;
    sqlx::query_scalar("select xact_commit + xact_rollback from pg_stat_database where datname = current_database()")
        .fetch_one(db)
        .await
}
