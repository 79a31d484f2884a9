//! Room at the vendor. Taking, giving back and waking all happen under a lock of the connection's row, so that a slot
//! given back is never missed by an export that is just about to wait.

use sqlx::PgExecutor;

use crate::ids::{ConnectionId, ExportId};

/// Serialises all slot changes of one connection until the transaction ends. `false` when the connection is gone.
pub async fn lock_connection(db: impl PgExecutor<'_>, connection: ConnectionId) -> sqlx::Result<bool> {
    sqlx::query_scalar::<_, i32>("select 1 from connection where connection_id = $1 for update")
        .bind(connection)
        .fetch_optional(db)
        .await
        .map(|row| row.is_some())
}

/// What stands in the way of one more export at the vendor.
#[derive(Debug, Clone, Copy, sqlx::FromRow)]
pub struct Room {
    /// Others at the vendor over this connection.
    pub taken: i64,
    /// Another holds the same exclusive key, or was accepted earlier and still waits for it: those with the same key go
    /// in the order in which they were accepted.
    pub key_taken: bool,
}

/// Looks at the room for `export`, not counting a slot it holds itself.
pub async fn room(
    db: impl PgExecutor<'_>,
    connection: ConnectionId,
    export: ExportId,
    exclusive_key: Option<&str>,
) -> sqlx::Result<Room> {
    sqlx::query_as(
        "select count(*) as taken, coalesce(bool_or(exclusive_key = $3), false) or exists ( \
             select from export e where e.connection_id = $1 and e.exclusive_key = $3 and e.export_id < $2 \
             and e.finished_at is null and e.state <> 'cancelling' and e.ticket is null) as key_taken \
         from vendor_slot where connection_id = $1 and export_id <> $2",
    )
    .bind(connection)
    .bind(export)
    .bind(exclusive_key)
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
/// wait for the same thing and were accepted earlier.
pub async fn queue_positions(db: impl PgExecutor<'_>, exports: &[ExportId]) -> sqlx::Result<Vec<(ExportId, i64)>> {
    let ids: Vec<uuid::Uuid> = exports.iter().map(|id| id.0).collect();
    sqlx::query_as(
        "select e.export_id, count(*) from export e join export o \
         on o.connection_id = e.connection_id and o.export_id <= e.export_id and o.finished_at is null \
         and o.phase = 'waiting_for_slot' \
         and (e.waiting_reason <> 'vendor_exclusive' or o.exclusive_key = e.exclusive_key) \
         where e.export_id = any($1) and e.phase = 'waiting_for_slot' group by e.export_id",
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

/// Has a worker look at the oldest waiting export of the connection whose exclusive key is free. Those already woken
/// are passed over, so that two slots given back wake two exports.
pub async fn wake_next(db: impl PgExecutor<'_>, connection: ConnectionId) -> sqlx::Result<()> {
    sqlx::query(
        "update export set due_at = now() where export_id = ( \
             select e.export_id from export e \
             where e.connection_id = $1 and e.finished_at is null and e.phase = 'waiting_for_slot' \
               and e.claim is null and e.due_at > now() \
               and not exists (select from vendor_slot s where s.connection_id = $1 \
                               and s.exclusive_key = e.exclusive_key) \
             order by e.export_id limit 1)",
    )
    .bind(connection)
    .execute(db)
    .await
    .map(drop)
}
