//! Room: at the vendor, over a connection, for a tenant. Taking, giving back and waking all happen under a lock of the
//! connection's row, and of the tenant where its limit is looked at, so that room that is made is never missed by an
//! export that is just about to wait. Who waits gets it by its turn, so that tenants take turns here too.

use sqlx::PgExecutor;

use crate::ids::{ConnectionId, ExportId};

macro_rules! next_over_connection {
    ($connection:literal) => {
        concat!(
            "select e.export_id from export e where e.connection_id = ",
            $connection,
            " and e.finished_at is null and e.follows is null and e.phase = 'waiting_for_slot' \
               and e.waiting_reason <> 'tenant_concurrency' and e.claim is null and e.due_at > now() \
               and not exists (select from vendor_slot s where s.connection_id = e.connection_id \
                               and s.exclusive_key = e.exclusive_key) \
             order by e.turn, e.export_id limit 1"
        )
    };
}

macro_rules! waits_for_tenant {
    () => {
        "phase = 'waiting_for_slot' and waiting_reason = 'tenant_concurrency' and follows is null \
         and finished_at is null"
    };
}

macro_rules! next_of_tenant {
    ($tenant:literal) => {
        concat!(
            "select e.export_id from export e where e.tenant = ",
            $tenant,
            " and e.finished_at is null and e.follows is null and e.phase = 'waiting_for_slot' \
               and e.waiting_reason = 'tenant_concurrency' and e.claim is null and e.due_at > now() \
             order by e.turn, e.export_id limit 1"
        )
    };
}

/// Serialises all slot changes of one connection until the transaction ends. `false` when the connection is gone.
pub async fn lock_connection(db: impl PgExecutor<'_>, connection: ConnectionId) -> sqlx::Result<bool> {
    sqlx::query_scalar::<_, i32>("select 1 from connection where connection_id = $1 for update")
        .bind(connection)
        .fetch_optional(db)
        .await
        .map(|row| row.is_some())
}

/// Serialises who begins and ends among the exports of one tenant until the transaction ends. After
/// [`lock_connection`], never before it.
pub async fn lock_tenant(db: impl PgExecutor<'_>, tenant: &str) -> sqlx::Result<()> {
    sqlx::query("select pg_advisory_xact_lock(hashtextextended($1, 13))").bind(tenant).execute(db).await.map(drop)
}

/// What stands in the way of one more export.
#[derive(Debug, Clone, Copy, sqlx::FromRow)]
pub struct Room {
    /// Others at the vendor over this connection.
    pub taken: i64,
    /// Another holds the same exclusive key, or its turn comes earlier and it still waits for it.
    pub key_taken: bool,
    /// Others whose turn comes earlier and who wait for nothing but a place over this connection; 1,000 at most.
    pub ahead: i64,
    /// Others that run over this connection, and of this tenant.
    pub running_over_connection: i64,
    pub running_of_tenant: i64,
}

/// Looks at the room for `export`, not counting what it holds itself.
pub async fn room(
    db: impl PgExecutor<'_>,
    connection: ConnectionId,
    tenant: &str,
    export: ExportId,
    exclusive_key: Option<&str>,
) -> sqlx::Result<Room> {
    sqlx::query_as(
        "select (select count(*) from vendor_slot s where s.connection_id = $1 and s.export_id <> $2) as taken, \
         exists (select from vendor_slot s where s.connection_id = $1 and s.export_id <> $2 and s.exclusive_key = $3) \
         or exists (select from export e where e.connection_id = $1 and e.exclusive_key = $3 \
                    and (e.turn, e.export_id) < (own.turn, own.export_id) and e.finished_at is null \
                    and e.follows is null and e.state <> 'cancelling' and e.ticket is null) as key_taken, \
         (select count(*) from ( \
             select from export e where e.connection_id = $1 and e.phase = 'waiting_for_slot' \
             and e.follows is null and e.finished_at is null and e.state <> 'cancelling' \
             and e.waiting_reason in ('vendor_concurrency', 'connection_concurrency') \
             and (e.turn, e.export_id) < (own.turn, own.export_id) limit 1000) counted) as ahead, \
         (select count(*) from live_export e where e.connection_id = $1 and e.is_running and e.export_id <> $2) \
          as running_over_connection, \
         (select count(*) from live_export e where e.tenant = $4 and e.is_running and e.export_id <> $2) \
          as running_of_tenant \
         from export own where own.export_id = $2",
    )
    .bind(connection)
    .bind(export)
    .bind(exclusive_key)
    .bind(tenant)
    .fetch_one(db)
    .await
}

/// Whether another live export at the vendor, over whatever connection, hangs on the same exclusive key.
pub async fn is_shared(
    db: impl PgExecutor<'_>,
    vendor: &str,
    export: ExportId,
    exclusive_key: &str,
) -> sqlx::Result<bool> {
    sqlx::query_scalar(
        "select exists (select from export where vendor = $1 and exclusive_key = $3 and export_id <> $2 \
         and finished_at is null and (ticket is not null or submit_intent_at is not null))",
    )
    .bind(vendor)
    .bind(export)
    .bind(exclusive_key)
    .fetch_one(db)
    .await
}

/// How many slots of the connection are taken.
pub async fn taken(db: impl PgExecutor<'_>, connection: ConnectionId) -> sqlx::Result<i64> {
    sqlx::query_scalar("select count(*) from vendor_slot where connection_id = $1").bind(connection).fetch_one(db).await
}

/// How many exports stand before each of these that waits for a slot, itself included: those of its connection that
/// wait for the same thing and whose turn comes earlier. Who follows another has its place.
pub async fn queue_positions(db: impl PgExecutor<'_>, exports: &[ExportId]) -> sqlx::Result<Vec<(ExportId, i64)>> {
    let ids: Vec<uuid::Uuid> = exports.iter().map(|id| id.0).collect();
    sqlx::query_as(
        "select own.export_id, count(*) from export own \
         join export e on e.export_id = coalesce(own.follows, own.export_id) \
         join export o on o.connection_id = e.connection_id and o.phase = 'waiting_for_slot' and o.follows is null \
         and o.finished_at is null and (o.turn, o.export_id) <= (e.turn, e.export_id) \
         and (e.waiting_reason <> 'vendor_exclusive' or o.exclusive_key = e.exclusive_key) \
         and (e.waiting_reason <> 'tenant_concurrency' or o.tenant = e.tenant) \
         where own.export_id = any($1) and e.phase = 'waiting_for_slot' group by own.export_id",
    )
    .bind(ids)
    .fetch_all(db)
    .await
}

/// Takes a slot; a second time is fine.
pub async fn take(
    db: impl PgExecutor<'_>,
    connection: ConnectionId,
    export: ExportId,
    exclusive_key: Option<&str>,
) -> sqlx::Result<()> {
    sqlx::query(
        "insert into vendor_slot (export_id, connection_id, exclusive_key) values ($1, $2, $3) \
         on conflict (export_id) do nothing",
    )
    .bind(export)
    .bind(connection)
    .bind(exclusive_key)
    .execute(db)
    .await
    .map(drop)
}

/// Gives the slot back, if it holds one; says whether it did.
pub async fn give_back(db: impl PgExecutor<'_>, export: ExportId) -> sqlx::Result<bool> {
    sqlx::query("delete from vendor_slot where export_id = $1")
        .bind(export)
        .execute(db)
        .await
        .map(|result| result.rows_affected() > 0)
}

/// Has a worker look at the waiting export of the connection whose turn is next and whose exclusive key is free. Those
/// already woken are passed over, so that two slots given back wake two exports.
pub async fn wake_next(db: impl PgExecutor<'_>, connection: ConnectionId) -> sqlx::Result<()> {
    sqlx::query(concat!("update export set due_at = now() where export_id = (", next_over_connection!("$1"), ")"))
        .bind(connection)
        .execute(db)
        .await
        .map(drop)
}

/// As [`wake_next`], of those that wait because their tenant has enough running.
pub async fn wake_next_of_tenant(db: impl PgExecutor<'_>, tenant: &str) -> sqlx::Result<()> {
    sqlx::query(concat!("update export set due_at = now() where export_id = (", next_of_tenant!("$1"), ")"))
        .bind(tenant)
        .execute(db)
        .await
        .map(drop)
}

/// Wakes the next of every connection and of every tenant. Nobody should need it: who makes room wakes who waits for it.
/// But limits are settings, and another version may not know of them.
pub async fn wake_all_next(db: impl PgExecutor<'_>) -> sqlx::Result<()> {
    sqlx::query(concat!(
        "with recursive tenants as ( \
             (select tenant from export where ",
        waits_for_tenant!(),
        " order by tenant limit 1) union all \
             select (select tenant from export where ",
        waits_for_tenant!(),
        " and tenant > tenants.tenant order by tenant limit 1) from tenants where tenants.tenant is not null) \
         update export set due_at = now() where export_id = any(array( \
             select (",
        next_over_connection!("connection.connection_id"),
        ") from connection union all select (",
        next_of_tenant!("tenants.tenant"),
        ") from tenants))"
    ))
    .execute(db)
    .await
    .map(drop)
}
