//! Sends webhooks: claims deliveries that are due under a lease, asks their endpoints to take them, records the answer.
//! A slow or dead endpoint holds up nobody else: each has a few deliveries in hand at most, one while it fails, and all
//! that fail together never have more than their share.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chrono::Utc;
use reqwest::{
    StatusCode,
    header::{CONTENT_TYPE, HeaderMap},
};
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, debug, info, info_span, warn};
use uuid::Uuid;

use super::Worker;
use crate::{
    ids::WebhookEndpointId,
    operations::{
        Error, Gateway,
        deliveries::{self, Ready},
    },
    store::{
        self, Held,
        deliveries::{ClaimedDelivery, Room, Tried},
    },
    vendors::http::{retry_after, was_blocked},
};

/// How long an endpoint has to answer, from the first look at its name.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Longer than any try, with room for its record: a delivery is sent again only if its sender died.
const LEASE: Duration = Duration::from_mins(1);
/// In hand at once, in this process.
const TOTAL: i32 = 64;
/// Of these, in all endpoints' hands that fail.
const FAILING: i32 = 16;
/// In one endpoint's hands.
const EACH: i32 = 4;
/// In one endpoint's hands while it fails.
const EACH_FAILING: i32 = 1;
/// How long a sender sleeps at most: notifications can be lost, and so can those who were to try again.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// And at least, when what is due is in other hands.
const IDLE_MIN: Duration = Duration::from_secs(1);
/// How often old deliveries are looked for.
const SWEEP_EVERY: Duration = Duration::from_mins(1);
/// An answer of this many bytes is read, and thrown away, so that the connection can be used again.
const MAX_DRAINED: u64 = 4096;

/// Sends until `stop`; what is in hand then goes on among `tries`.
pub async fn send(worker: &Worker, stop: &CancellationToken, tries: &TaskTracker) {
    tokio::select! {
        () = claim_until(worker, stop, tries) => {}
        () = sweep_for_ever(&worker.gateway) => {}
    }
}

async fn claim_until(worker: &Worker, stop: &CancellationToken, tries: &TaskTracker) {
    let (gateway, hands) = (&worker.gateway, Hands::default());
    while !stop.is_cancelled() {
        let busy = hands.busy();
        let room = Room {
            total: (TOTAL - hands.total()).max(0).into(),
            each: EACH,
            each_failing: EACH_FAILING,
            failing: hands.failing() < FAILING,
            busy: &busy,
        };
        // Runs to its end also when told to stop: a claim whose answer nobody reads would hold until its lease ends.
        match store::deliveries::claim_due(&gateway.db, LEASE, &room).await {
            Ok(claimed) if claimed.is_empty() => {
                stop.run_until_cancelled(idle(gateway)).await;
            }
            Ok(claimed) => {
                for delivery in claimed {
                    let (worker, hand) = (worker.clone(), hands.take(&delivery));
                    let id = delivery.delivery.webhook_delivery_id;
                    let span = info_span!("webhook.try", webhook.delivery = %id, webhook.host = %delivery.host);
                    tries.spawn(
                        async move {
                            deliver(&worker, &delivery).await;
                            drop(hand);
                            // There may be room for what was left before.
                            worker.gateway.hub.deliveries().ring();
                        }
                        .instrument(span),
                    );
                }
            }
            Err(error) => {
                warn!(error = %error, "no deliveries could be claimed; trying again");
                stop.run_until_cancelled(tokio::time::sleep(IDLE_MIN)).await;
            }
        }
    }
}

async fn idle(gateway: &Gateway) {
    let next = store::deliveries::next_due(&gateway.db).await.ok().flatten().unwrap_or(IDLE_MAX);
    gateway.hub.deliveries().wait(next.clamp(IDLE_MIN, IDLE_MAX)).await;
}

async fn sweep_for_ever(gateway: &Gateway) {
    let mut every = tokio::time::interval(SWEEP_EVERY);
    loop {
        every.tick().await;
        match deliveries::sweep_deliveries(gateway).await {
            Ok(0) => {}
            Ok(count) => debug!(deliveries = count, "deleted old deliveries"),
            Err(error) => warn!(error = %error, "old deliveries could not be deleted; trying again later"),
        }
    }
}

/// One try, and its record.
async fn deliver(worker: &Worker, claimed: &ClaimedDelivery) {
    match try_once(worker, claimed).await {
        Ok(Held::Yes) => {}
        Ok(Held::Lost) => debug!("somebody else has the delivery now"),
        Err(error) => warn!(error = %error, "the try could not be recorded; it will be made again"),
    }
}

async fn try_once(worker: &Worker, claimed: &ClaimedDelivery) -> Result<Held, Error> {
    let gateway = &worker.gateway;
    if claimed.is_disabled {
        return deliveries::record_disabled(gateway, claimed).await;
    }
    let (at, began) = (Utc::now(), Instant::now());
    let answer = match deliveries::prepare(gateway, claimed, worker.settings.callback_base.as_ref()) {
        Ok(ready) => post(gateway, ready).await,
        Err(error) => {
            warn!(error = %error, "the endpoint's address or secret cannot be opened");
            Err("the address or the secret cannot be opened")
        }
    };
    let (duration, delivery) = (began.elapsed(), &claimed.delivery);
    let (status, pause) = match &answer {
        Ok((status, headers)) => (Some(*status), retry_after(headers, Utc::now())),
        Err(_) => (None, None),
    };
    let error = match &answer {
        Ok((status, _)) if status.is_success() => None,
        Ok((status, _)) if status.is_redirection() => Some("redirects are not followed"),
        Ok(_) => Some("the endpoint refused"),
        Err(error) => Some(*error),
    };
    let tried = Tried { at, http_status: status.map(|status| status.as_u16()), duration, error };
    let http_status = tried.http_status;
    if error.is_none() {
        info!(http.status = http_status, duration_ms = duration.as_millis(), "the endpoint took the event");
        return deliveries::record_success(gateway, claimed, &tried).await;
    }
    info!(http.status = http_status, tries = delivery.tries, error, "the endpoint did not take the event");
    deliveries::record_failure(gateway, claimed, &tried, pause, jitter()).await
}

/// Sends a message; an error is in words that hold no address.
async fn post(gateway: &Gateway, ready: Ready) -> Result<(StatusCode, HeaderMap), &'static str> {
    const BLOCKED: &str = "the address may not be reached";
    gateway.http.policy().check_url(&ready.url).map_err(|_| BLOCKED)?;
    let sent = gateway
        .http
        .client()
        .post(ready.url)
        .timeout(TIMEOUT)
        .header(CONTENT_TYPE, "application/json")
        .header("webhook-id", ready.id)
        .header("webhook-timestamp", ready.timestamp)
        .header("webhook-signature", ready.signatures)
        .body(ready.body)
        .send()
        .await;
    let mut answer = sent.map_err(|error| {
        if was_blocked(&error) {
            BLOCKED
        } else if error.is_timeout() {
            "no answer in time"
        } else if error.is_connect() {
            "no connection could be made"
        } else {
            "the connection broke"
        }
    })?;
    let (status, headers) = (answer.status(), std::mem::take(answer.headers_mut()));
    if answer.content_length().is_some_and(|length| length <= MAX_DRAINED) {
        // What it says is nobody's business; the status is the answer.
        drop(answer.bytes().await);
    }
    Ok((status, headers))
}

/// Random in 0..1.
fn jitter() -> f64 {
    f64::from(u32::from_be_bytes(*Uuid::new_v4().as_bytes().first_chunk().unwrap_or(&[0; 4]))) / f64::from(u32::MAX)
}

/// Which endpoints have how many deliveries in hand. Clones count together.
#[derive(Clone, Default)]
struct Hands(Arc<Mutex<Counts>>);

#[derive(Default)]
struct Counts {
    each: HashMap<WebhookEndpointId, i32>,
    failing: i32,
}

/// One delivery in hand; put down when dropped, also by a panic.
struct Hand {
    hands: Hands,
    endpoint: WebhookEndpointId,
    is_failing: bool,
}

impl Hands {
    fn take(&self, claimed: &ClaimedDelivery) -> Hand {
        let (endpoint, is_failing) = (claimed.delivery.webhook_endpoint_id, claimed.is_failing);
        let mut counts = self.counts();
        *counts.each.entry(endpoint).or_default() += 1;
        counts.failing += i32::from(is_failing);
        Hand { hands: self.clone(), endpoint, is_failing }
    }

    fn busy(&self) -> Vec<(WebhookEndpointId, i32)> {
        self.counts().each.iter().map(|(endpoint, count)| (*endpoint, *count)).collect()
    }

    fn total(&self) -> i32 {
        self.counts().each.values().sum()
    }

    fn failing(&self) -> i32 {
        self.counts().failing
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        let mut counts = self.hands.counts();
        counts.failing -= i32::from(self.is_failing);
        if let Some(count) = counts.each.get_mut(&self.endpoint) {
            *count -= 1;
            if *count <= 0 {
                counts.each.remove(&self.endpoint);
            }
        }
    }
}
