//! What endpoints are told: the log, replays, and the steps of a delivery that whoever sends it takes.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use tracing::{info, warn};
use url::Url;

use super::{
    Caller, Error, Gateway,
    webhooks::{data_key, no_endpoint, open_secret, open_url, read},
};
use crate::{
    exports::{
        problem::{Code, FieldError, Problem},
        webhook::{DeliveryRecord, DeliveryState, DisabledReason, MAX_FAILING, WebhookAttemptRecord, pause},
    },
    ids::{DeliveryId, WebhookEndpointId},
    store::{
        self, Held,
        deliveries::{ClaimedDelivery, Tried},
    },
    vault,
};

/// How long deliveries are kept.
const KEPT: Duration = Duration::from_hours(30 * 24);
/// How many one sweep deletes.
const SWEEP_BATCH: i64 = 10_000;

/// A delivery and its tries, oldest first.
#[derive(Debug)]
pub struct DeliveryWithAttempts {
    pub delivery: DeliveryRecord,
    pub attempts: Vec<WebhookAttemptRecord>,
}

/// One page of an endpoint's deliveries, newest first, and whether more follow.
pub async fn list_deliveries(
    gateway: &Gateway,
    caller: &Caller,
    endpoint: WebhookEndpointId,
    state: Option<DeliveryState>,
    before: Option<DeliveryId>,
    page_size: i64,
) -> Result<(Vec<DeliveryWithAttempts>, bool), Error> {
    read(gateway, caller, endpoint).await?;
    let mut found = store::deliveries::list(&gateway.db, endpoint, state, before, page_size + 1).await?;
    let more = super::cut_page(&mut found, page_size);
    Ok((with_attempts(gateway, found).await?, more))
}

async fn with_attempts(gateway: &Gateway, deliveries: Vec<DeliveryRecord>) -> Result<Vec<DeliveryWithAttempts>, Error> {
    let ids: Vec<_> = deliveries.iter().map(|delivery| delivery.webhook_delivery_id).collect();
    let mut attempts: BTreeMap<DeliveryId, Vec<WebhookAttemptRecord>> = BTreeMap::new();
    for attempt in store::deliveries::attempts(&gateway.db, &ids).await? {
        attempts.entry(attempt.webhook_delivery_id).or_default().push(attempt);
    }
    let own = |delivery: DeliveryRecord| {
        let attempts = attempts.remove(&delivery.webhook_delivery_id).unwrap_or_default();
        DeliveryWithAttempts { delivery, attempts }
    };
    Ok(deliveries.into_iter().map(own).collect())
}

/// Sends a delivery once more, whatever became of it. Refused with `endpoint_disabled`.
pub async fn replay_delivery(
    gateway: &Gateway,
    caller: &Caller,
    endpoint: WebhookEndpointId,
    id: DeliveryId,
) -> Result<DeliveryWithAttempts, Error> {
    let mut tx = gateway.db.begin().await?;
    require_enabled(&mut tx, caller, endpoint).await?;
    let delivery = store::deliveries::replay(&mut *tx, endpoint, id).await?;
    let delivery = delivery.ok_or_else(|| super::not_found("delivery"))?;
    store::deliveries::notify(&mut *tx).await?;
    tx.commit().await?;
    info!(webhook.endpoint = %endpoint, webhook.delivery = %id, "a delivery is sent once more");
    let mut found = with_attempts(gateway, vec![delivery]).await?;
    found.pop().ok_or_else(|| super::not_found("delivery"))
}

/// Sends the deliveries of a span of time once more: those that failed, and with `with_delivered` also those that were
/// taken. Answers how many. Refused with `endpoint_disabled`.
pub async fn replay_between(
    gateway: &Gateway,
    caller: &Caller,
    endpoint: WebhookEndpointId,
    since: DateTime<Utc>,
    until: Option<DateTime<Utc>>,
    with_delivered: bool,
) -> Result<u64, Error> {
    if until.is_some_and(|until| until <= since) {
        return Err(Problem::invalid(vec![FieldError::new("/until", "invalid", "later than `since`")]).into());
    }
    let mut tx = gateway.db.begin().await?;
    require_enabled(&mut tx, caller, endpoint).await?;
    let count = store::deliveries::replay_between(&mut *tx, endpoint, since, until, with_delivered).await?;
    store::deliveries::notify(&mut *tx).await?;
    tx.commit().await?;
    info!(webhook.endpoint = %endpoint, deliveries = count, "deliveries are sent once more");
    Ok(count)
}

async fn require_enabled(tx: &mut sqlx::PgConnection, caller: &Caller, id: WebhookEndpointId) -> Result<(), Error> {
    let endpoint = store::webhooks::lock(tx, &caller.tenant, id).await?.ok_or_else(no_endpoint)?;
    if endpoint.record.disabled_at.is_none() {
        return Ok(());
    }
    Err(Problem::new(Code::EndpointDisabled, "enable the endpoint first").into())
}

/// What is needed to send a delivery: where to, and one header for each secret in force.
pub struct Ready {
    pub url: Url,
    pub body: Vec<u8>,
    /// The header `webhook-id`.
    pub id: String,
    /// The header `webhook-timestamp`: seconds since 1970.
    pub timestamp: i64,
    /// The header `webhook-signature`.
    pub signatures: String,
}

/// Opens address and secrets of a delivery, and signs its message. `public_url` is what the gateway is reached by.
pub fn prepare(gateway: &Gateway, claimed: &ClaimedDelivery, public_url: Option<&Url>) -> Result<Ready, vault::Error> {
    let (delivery, sealed) = (&claimed.delivery, &claimed.sealed);
    let (endpoint, version) = (delivery.webhook_endpoint_id, claimed.secret_version);
    let key = data_key(gateway, sealed)?;
    let url = open_url(gateway, &key, endpoint, &sealed.url)?;
    let mut secrets = vec![open_secret(gateway, &key, endpoint, version, &sealed.secret)?];
    if let Some(previous) = &sealed.previous_secret
        && claimed.previous_secret_until.is_some_and(|until| claimed.now < until)
    {
        secrets.push(open_secret(gateway, &key, endpoint, version - 1, previous)?);
    }
    let body = serde_json::to_vec(&delivery.message(public_url)).unwrap_or_default();
    let (id, timestamp) = (delivery.event_id.to_string(), Utc::now().timestamp());
    let signatures: Result<Vec<_>, _> = secrets.iter().map(|secret| secret.sign(&id, timestamp, &body)).collect();
    Ok(Ready { url, body, id, timestamp, signatures: signatures?.join(" ") })
}

/// The endpoint took the message.
pub async fn record_success(gateway: &Gateway, claimed: &ClaimedDelivery, tried: &Tried<'_>) -> Result<Held, Error> {
    let delivery = &claimed.delivery;
    let mut tx = gateway.db.begin().await?;
    // Endpoint first, then delivery, as everybody does: nobody waits in a circle.
    store::webhooks::note_success(&mut *tx, delivery.webhook_endpoint_id).await?;
    let (id, claim) = (delivery.webhook_delivery_id, claimed.claim);
    if store::deliveries::finish(&mut *tx, id, claim, DeliveryState::Delivered).await? == Held::Lost {
        return Ok(Held::Lost);
    }
    store::deliveries::log(&mut *tx, id, tried).await?;
    tx.commit().await?;
    Ok(Held::Yes)
}

/// The endpoint did not take the message: it is tried again, or given up. 410 disables the endpoint at once, as do days of
/// nothing but failures. `jitter` is random in 0..1.
pub async fn record_failure(
    gateway: &Gateway,
    claimed: &ClaimedDelivery,
    tried: &Tried<'_>,
    retry_after: Option<Duration>,
    jitter: f64,
) -> Result<Held, Error> {
    let (delivery, claim) = (&claimed.delivery, claimed.claim);
    let (id, endpoint) = (delivery.webhook_delivery_id, delivery.webhook_endpoint_id);
    let mut tx = gateway.db.begin().await?;
    // Gone with its endpoint.
    let Some(failing) = store::webhooks::note_failure(&mut *tx, endpoint).await? else { return Ok(Held::Lost) };
    let again = pause(delivery.tries, jitter, retry_after);
    let failing_for = (failing.now - failing.failing_since).max(TimeDelta::zero());
    let reason = match (tried.http_status, again) {
        (Some(410), _) => Some(DisabledReason::Gone),
        (_, None) if failing_for.to_std().unwrap_or_default() >= MAX_FAILING => Some(DisabledReason::Failing),
        _ => None,
    };
    let held = match again {
        Some(after) if reason.is_none() && failing.disabled_at.is_none() => {
            store::deliveries::try_again(&mut *tx, id, claim, after).await?
        }
        _ => store::deliveries::finish(&mut *tx, id, claim, DeliveryState::Failed).await?,
    };
    if held == Held::Lost {
        return Ok(Held::Lost);
    }
    store::deliveries::log(&mut *tx, id, tried).await?;
    if let Some(reason) = reason.filter(|_| failing.disabled_at.is_none()) {
        store::webhooks::disable(&mut *tx, endpoint, reason).await?;
        store::deliveries::give_up(&mut *tx, endpoint).await?;
    }
    tx.commit().await?;
    if let Some(reason) = reason {
        warn!(webhook.endpoint = %endpoint, webhook.host = claimed.host, reason = ?reason, "the endpoint is disabled");
    }
    Ok(Held::Yes)
}

/// Gives up a delivery to an endpoint that was disabled while the event happened.
pub async fn record_disabled(gateway: &Gateway, claimed: &ClaimedDelivery) -> Result<Held, Error> {
    let id = claimed.delivery.webhook_delivery_id;
    Ok(store::deliveries::finish(&gateway.db, id, claimed.claim, DeliveryState::Failed).await?)
}

/// Deletes deliveries that are old; answers how many.
pub async fn sweep_deliveries(gateway: &Gateway) -> Result<u64, Error> {
    Ok(store::deliveries::sweep(&gateway.db, KEPT, SWEEP_BATCH).await?)
}
