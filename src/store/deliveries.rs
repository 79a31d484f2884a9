//! Deliveries of webhooks: the outbox that triggers fill, the claims of those who send, and the log of tries.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;
use uuid::Uuid;

use super::{Held, exports::interval, webhooks::Sealed};
use crate::{
    exports::webhook::{DeliveryRecord, DeliveryState, WebhookAttemptRecord},
    ids::{DeliveryId, WebhookEndpointId},
};

macro_rules! columns {
    () => {
        "d.webhook_delivery_id, d.webhook_endpoint_id, d.event_id, d.event_type, d.occurred_at, d.object_id, \
         d.object_state, d.object_href, d.state, d.due_at, d.tries, d.finished_at"
    };
}

/// A delivery in somebody's hands, and where it goes.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct ClaimedDelivery {
    #[sqlx(flatten)]
    pub delivery: DeliveryRecord,
    #[sqlx(flatten)]
    pub sealed: Sealed,
    pub claim: Uuid,
    pub host: String,
    pub secret_version: i32,
    pub previous_secret_until: Option<DateTime<Utc>>,
    /// The endpoint is told nothing any more.
    pub is_disabled: bool,
    pub is_failing: bool,
    /// The database's clock at the claim.
    pub now: DateTime<Utc>,
}

/// What a claim may take.
#[derive(Debug)]
pub struct Room<'a> {
    /// Deliveries in all.
    pub total: i64,
    /// In one endpoint's hands at once, and in one that fails.
    pub each: i32,
    pub each_failing: i32,
    /// Endpoints that fail as well.
    pub failing: bool,
    /// What endpoints have in hand, from this process.
    pub busy: &'a [(WebhookEndpointId, i32)],
}

/// Claims deliveries that are due, the longest due of each endpoint first, and holds them for `lease`. Looks at a few of
/// each endpoint, so that a long queue of one neither hides those of others nor costs more than a short one.
pub async fn claim_due(
    db: impl PgExecutor<'_>,
    lease: Duration,
    room: &Room<'_>,
) -> sqlx::Result<Vec<ClaimedDelivery>> {
    let (ids, counts): (Vec<Uuid>, Vec<i32>) = room.busy.iter().map(|(id, count)| (id.0, *count)).unzip();
    sqlx::query_as(concat!(
        "with found as ( \
           select d.webhook_delivery_id from webhook_endpoint e \
           left join unnest($6::uuid[], $7::integer[]) as b (endpoint_id, in_hand) \
             on b.endpoint_id = e.webhook_endpoint_id \
           cross join lateral ( \
             select webhook_delivery_id, due_at, row_number() over (order by due_at) as place from ( \
               select webhook_delivery_id, due_at from webhook_delivery \
               where webhook_endpoint_id = e.webhook_endpoint_id and state = 'pending' and due_at <= now() \
               order by due_at \
               limit greatest(case when e.failing_since is null then $3 else $4 end - coalesce(b.in_hand, 0), 0)) own) d \
           where $5 or e.failing_since is null order by d.place, d.due_at limit $2), \
         chosen as ( \
           select webhook_delivery_id from webhook_delivery \
           where webhook_delivery_id in (select webhook_delivery_id from found) and state = 'pending' and due_at <= now() \
           for update skip locked) \
         update webhook_delivery d set claim = gen_random_uuid(), due_at = now() + $1, tries = tries + 1 \
         from chosen c, webhook_endpoint e \
         where d.webhook_delivery_id = c.webhook_delivery_id and e.webhook_endpoint_id = d.webhook_endpoint_id \
         returning now() as now, d.claim, e.key_id, e.sealed_data_key, e.url, e.secret, e.previous_secret, e.host, \
                   e.secret_version, e.previous_secret_until, e.disabled_at is not null as is_disabled, \
                   e.failing_since is not null as is_failing, ",
        columns!()
    ))
    .bind(interval(lease)?)
    .bind(room.total)
    .bind(room.each)
    .bind(room.each_failing)
    .bind(room.failing)
    .bind(ids)
    .bind(counts)
    .fetch_all(db)
    .await
}

/// When the next delivery is due, if any is pending.
pub async fn next_due(db: impl PgExecutor<'_>) -> sqlx::Result<Option<Duration>> {
    let seconds: Option<f64> = sqlx::query_scalar(
        "select extract(epoch from due_at - now())::float8 from webhook_delivery where state = 'pending' \
         order by due_at limit 1",
    )
    .fetch_optional(db)
    .await?;
    Ok(seconds.map(|seconds| Duration::from_secs_f64(seconds.clamp(0.0, 86_400.0))))
}

/// How a try ended.
#[derive(Debug)]
pub struct Tried<'a> {
    pub at: DateTime<Utc>,
    pub http_status: Option<u16>,
    pub duration: Duration,
    /// Why it was no success.
    pub error: Option<&'a str>,
}

/// Logs a try of a delivery that is held.
pub async fn log(db: impl PgExecutor<'_>, id: DeliveryId, tried: &Tried<'_>) -> sqlx::Result<()> {
    sqlx::query(
        "insert into webhook_attempt (webhook_delivery_id, number, at, http_status, duration_ms, error) \
         select $1, coalesce(max(number), 0) + 1, $2, $3, $4, $5 from webhook_attempt where webhook_delivery_id = $1",
    )
    .bind(id)
    .bind(tried.at)
    .bind(tried.http_status.map(i32::from))
    .bind(i64::try_from(tried.duration.as_millis()).unwrap_or(i64::MAX))
    .bind(tried.error)
    .execute(db)
    .await
    .map(drop)
}

/// Ends a delivery: it was taken, or is given up.
pub async fn finish(db: impl PgExecutor<'_>, id: DeliveryId, claim: Uuid, state: DeliveryState) -> sqlx::Result<Held> {
    sqlx::query(
        "update webhook_delivery set claim = null, state = $3, finished_at = now() \
         where webhook_delivery_id = $1 and claim = $2 and state = 'pending'",
    )
    .bind(id)
    .bind(claim)
    .bind(state)
    .execute(db)
    .await
    .map(Held::from)
}

/// Lets go of a delivery until it is tried again.
pub async fn try_again(db: impl PgExecutor<'_>, id: DeliveryId, claim: Uuid, after: Duration) -> sqlx::Result<Held> {
    sqlx::query(
        "update webhook_delivery set claim = null, due_at = now() + $3 \
         where webhook_delivery_id = $1 and claim = $2 and state = 'pending'",
    )
    .bind(id)
    .bind(claim)
    .bind(interval(after)?)
    .execute(db)
    .await
    .map(Held::from)
}

/// Gives up what an endpoint that is being disabled was to be told, but for what is in somebody's hands now.
pub async fn give_up(db: impl PgExecutor<'_>, endpoint: WebhookEndpointId) -> sqlx::Result<()> {
    sqlx::query(
        "update webhook_delivery set state = 'failed', claim = null, finished_at = now() \
         where webhook_endpoint_id = $1 and state = 'pending' and (claim is null or due_at <= now())",
    )
    .bind(endpoint)
    .execute(db)
    .await
    .map(drop)
}

/// One page of an endpoint's deliveries, newest first.
pub async fn list(
    db: impl PgExecutor<'_>,
    endpoint: WebhookEndpointId,
    state: Option<DeliveryState>,
    before: Option<DeliveryId>,
    limit: i64,
) -> sqlx::Result<Vec<DeliveryRecord>> {
    sqlx::query_as(concat!(
        "select ",
        columns!(),
        " from webhook_delivery d where webhook_endpoint_id = $1 and ($2::text is null or state = $2) \
           and ($3::uuid is null or webhook_delivery_id < $3) \
         order by webhook_delivery_id desc limit $4"
    ))
    .bind(endpoint)
    .bind(state)
    .bind(before)
    .bind(limit)
    .fetch_all(db)
    .await
}

/// The tries of deliveries, oldest first.
pub async fn attempts(db: impl PgExecutor<'_>, ids: &[DeliveryId]) -> sqlx::Result<Vec<WebhookAttemptRecord>> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    sqlx::query_as(
        "select webhook_delivery_id, number, at, http_status, duration_ms, error from webhook_attempt \
         where webhook_delivery_id = any($1) order by webhook_delivery_id, number",
    )
    .bind(ids)
    .fetch_all(db)
    .await
}

/// Has an endpoint's delivery sent once more, now. One that is in somebody's hands is sent again after that.
pub async fn replay(
    db: impl PgExecutor<'_>,
    endpoint: WebhookEndpointId,
    id: DeliveryId,
) -> sqlx::Result<Option<DeliveryRecord>> {
    sqlx::query_as(concat!(
        "update webhook_delivery d set state = 'pending', claim = null, due_at = now(), tries = 0, finished_at = null \
         where webhook_delivery_id = $2 and webhook_endpoint_id = $1 returning ",
        columns!()
    ))
    .bind(endpoint)
    .bind(id)
    .fetch_optional(db)
    .await
}

/// Has an endpoint's deliveries of a span of time sent once more, now: those that failed, or all that have ended. Answers
/// how many.
pub async fn replay_between(
    db: impl PgExecutor<'_>,
    endpoint: WebhookEndpointId,
    since: DateTime<Utc>,
    until: Option<DateTime<Utc>>,
    with_delivered: bool,
) -> sqlx::Result<u64> {
    sqlx::query(
        "update webhook_delivery set state = 'pending', claim = null, due_at = now(), tries = 0, finished_at = null \
         where webhook_endpoint_id = $1 and occurred_at >= $2 and ($3::timestamptz is null or occurred_at < $3) \
           and (state = 'failed' or ($4 and state = 'delivered'))",
    )
    .bind(endpoint)
    .bind(since)
    .bind(until)
    .bind(with_delivered)
    .execute(db)
    .await
    .map(|result| result.rows_affected())
}

/// Tells those who send that there is something to send, once the transaction is committed.
pub async fn notify(db: impl PgExecutor<'_>) -> sqlx::Result<()> {
    sqlx::query("select pg_notify('headgate_delivery', '')").execute(db).await.map(drop)
}

/// Deletes deliveries, with their tries, of events that lie longer back than `age`; answers how many, `limit` at most.
pub async fn sweep(db: impl PgExecutor<'_>, age: Duration, limit: i64) -> sqlx::Result<u64> {
    sqlx::query(
        "delete from webhook_delivery where webhook_delivery_id in \
         (select webhook_delivery_id from webhook_delivery where occurred_at < now() - $1 and state <> 'pending' \
          order by occurred_at limit $2 for update skip locked)",
    )
    .bind(interval(age)?)
    .bind(limit)
    .execute(db)
    .await
    .map(|result| result.rows_affected())
}
