//! What webhook endpoints were told, and telling it once more.

use actix_web::{HttpRequest, HttpResponse, get, post, web};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    body,
    caller::{Authorized, WebhooksRead, WebhooksWrite},
    paging,
    problem::{Answer, ApiError},
    query::Query,
    responses::{Absent, BadBody, BadQuery, Denied, NotEnabled},
    webhooks::endpoint_id,
};
use crate::{
    exports::webhook::{DeliveryState, EventType, WebhookAttemptRecord, WebhookData},
    ids::{DeliveryId, EventId},
    operations::{
        Gateway,
        deliveries::{self as operation, DeliveryWithAttempts},
    },
};

/// One event for one endpoint.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = WebhookDelivery)]
pub struct DeliveryView {
    #[schema(value_type = String, example = "dlv_019a5b6c7d8e7f00a1b2c3d4e5f6071d")]
    pub id: DeliveryId,
    /// What the message says in `webhook-id`: the same for every try and replay.
    #[schema(value_type = String, example = "evt_019a5b6c7d8e7f00a1b2c3d4e5f6071e")]
    pub event_id: EventId,
    #[serde(rename = "type")]
    pub event_type: EventType,
    /// When it happened.
    pub timestamp: DateTime<Utc>,
    pub data: WebhookData,
    pub state: DeliveryState,
    /// While it is pending.
    #[schema(required = true)]
    pub next_attempt_at: Option<DateTime<Utc>>,
    #[schema(required = true)]
    pub finished_at: Option<DateTime<Utc>>,
    /// Every try, oldest first, those before a replay too.
    pub attempts: Vec<WebhookAttemptView>,
}

/// One try. What the endpoint answered is not kept, only how.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = WebhookAttempt)]
pub struct WebhookAttemptView {
    /// Counts from 1.
    #[schema(example = 1)]
    pub number: i32,
    pub at: DateTime<Utc>,
    /// Null when there was no answer.
    #[schema(required = true, example = 204)]
    pub http_status: Option<i32>,
    #[schema(example = 87)]
    pub duration_ms: i64,
    /// Why it was no success.
    #[schema(required = true, example = "no answer in time")]
    pub error: Option<String>,
}

/// One page of deliveries, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct WebhookDeliveryList {
    pub data: Vec<DeliveryView>,
    /// Give it back as `page_token` for the next page; empty on the last.
    pub next_page_token: String,
}

/// Which deliveries are sent once more.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplayDeliveries {
    /// Of events from then on.
    since: DateTime<Utc>,
    /// Of events before then; without it, up to now.
    #[serde(default)]
    #[schema(nullable = false)]
    until: Option<DateTime<Utc>>,
    /// Also those that the endpoint took.
    #[serde(default)]
    include_delivered: bool,
}

/// How much is sent once more.
#[derive(Debug, Serialize, ToSchema)]
pub struct Replayed {
    #[schema(example = 42)]
    pub deliveries: u64,
}

/// List deliveries
///
/// What an endpoint was told in the last 30 days, newest first, with every try.
#[utoipa::path(
    tag = "webhooks",
    security(("bearer" = ["webhooks:read"])),
    params(
        ("id" = String, Path, description = "The endpoint's id."),
        ("state" = Option<DeliveryState>, Query, description = "Only deliveries in this state."),
        ("page_size" = Option<i64>, Query, minimum = 1, description = "How many at most: 50 unless given; more than 200 counts as 200."),
        ("page_token" = Option<String>, Query, description = "`next_page_token` of the page before."),
    ),
    responses((status = 200, description = "One page.", body = WebhookDeliveryList), BadQuery, Absent, Denied),
)]
#[get("/v1/webhook-endpoints/{id}/deliveries")]
pub async fn list_deliveries(
    caller: Authorized<WebhooksRead>,
    gateway: web::Data<Gateway>,
    request: HttpRequest,
    path: web::Path<String>,
) -> Answer {
    let query = Query::read(&request, &["state", "page_size", "page_token"])?;
    let (before, size) = (paging::before(&query)?.map(DeliveryId), paging::size(&query)?);
    let (endpoint, state) = (endpoint_id(&path)?, query.choice("state")?);
    let (deliveries, more) = operation::list_deliveries(&gateway, &caller, endpoint, state, before, size).await?;
    let last = deliveries.last().filter(|_| more).map(|last| last.delivery.webhook_delivery_id.0);
    Ok(HttpResponse::Ok().json(WebhookDeliveryList {
        data: deliveries.into_iter().map(view).collect(),
        next_page_token: last.map_or_else(String::new, paging::token),
    }))
}

/// Replay a delivery
///
/// Sends it once more, now, whatever became of it, and tries up to ten times. `webhook-id` stays the same.
#[utoipa::path(
    tag = "webhooks",
    security(("bearer" = ["webhooks:write"])),
    params(
        ("id" = String, Path, description = "The endpoint's id."),
        ("delivery_id" = String, Path, description = "The delivery's id."),
    ),
    responses(
        (status = 202, description = "It is sent once more.", body = DeliveryView),
        Absent, Denied, NotEnabled,
    ),
)]
#[post("/v1/webhook-endpoints/{id}/deliveries/{delivery_id}/replay")]
pub async fn replay_delivery(
    caller: Authorized<WebhooksWrite>,
    gateway: web::Data<Gateway>,
    path: web::Path<(String, String)>,
) -> Answer {
    let (endpoint, delivery) = path.into_inner();
    let delivery = delivery.parse().map_err(|_| ApiError::not_found("delivery"))?;
    let delivery = operation::replay_delivery(&gateway, &caller, endpoint_id(&endpoint)?, delivery).await?;
    Ok(HttpResponse::Accepted().json(view(delivery)))
}

/// Replay deliveries of a span of time
///
/// Sends those once more that failed, also those of the time when the endpoint was disabled.
#[utoipa::path(
    tag = "webhooks",
    security(("bearer" = ["webhooks:write"])),
    params(("id" = String, Path, description = "The endpoint's id.")),
    request_body = ReplayDeliveries,
    responses(
        (status = 202, description = "They are sent once more.", body = Replayed),
        BadBody, Absent, Denied, NotEnabled,
    ),
)]
#[post("/v1/webhook-endpoints/{id}/replay")]
pub async fn replay_deliveries(
    caller: Authorized<WebhooksWrite>,
    gateway: web::Data<Gateway>,
    request: HttpRequest,
    payload: web::Payload,
    path: web::Path<String>,
) -> Answer {
    let endpoint = endpoint_id(&path)?;
    let ReplayDeliveries { since, until, include_delivered } = body::fields(body::read_json(&request, payload).await?)?;
    let deliveries = operation::replay_between(&gateway, &caller, endpoint, since, until, include_delivered).await?;
    Ok(HttpResponse::Accepted().json(Replayed { deliveries }))
}

/// The delivery as it is in the log.
pub fn view(found: DeliveryWithAttempts) -> DeliveryView {
    let DeliveryWithAttempts { delivery, attempts } = found;
    let data = delivery.message(None).data;
    DeliveryView {
        id: delivery.webhook_delivery_id,
        event_id: delivery.event_id,
        event_type: delivery.event_type,
        timestamp: delivery.occurred_at,
        data,
        state: delivery.state,
        next_attempt_at: (delivery.state == DeliveryState::Pending).then_some(delivery.due_at),
        finished_at: delivery.finished_at,
        attempts: attempts.into_iter().map(WebhookAttemptView::from).collect(),
    }
}

impl From<WebhookAttemptRecord> for WebhookAttemptView {
    fn from(attempt: WebhookAttemptRecord) -> Self {
        let WebhookAttemptRecord { number, at, http_status, duration_ms, error, .. } = attempt;
        Self { number, at, http_status, duration_ms, error }
    }
}
