//! `/v1/webhook-endpoints`: where a tenant wants to be told what happened. Secrets are shown when they are made and never
//! again.

use std::collections::BTreeMap;

use actix_web::{HttpRequest, HttpResponse, delete, get, http::header::LOCATION, patch, post, web};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    body,
    caller::{Authorized, WebhooksRead, WebhooksWrite},
    paging,
    problem::{Answer, ApiError},
    query::Query,
    responses::{Absent, BadBody, BadQuery, Denied},
};
use crate::{
    exports::{
        problem::FieldError,
        request::parse_duration,
        webhook::{DisabledReason, EventType},
    },
    ids::WebhookEndpointId,
    operations::{
        Gateway,
        webhooks::{self as operation, ChangeEndpoint, Endpoint, NewEndpoint},
    },
};

/// Where a tenant wants to be told what happened.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = WebhookEndpoint)]
pub struct EndpointView {
    #[schema(value_type = String, example = "whe_019a5b6c7d8e7f00a1b2c3d4e5f6071c")]
    pub id: WebhookEndpointId,
    #[schema(example = "https://crm.example/hooks/headgate")]
    pub url: String,
    #[schema(example = "CRM, imports audiences")]
    pub description: String,
    pub event_types: Vec<EventType>,
    /// Only exports that have all of these labels.
    pub labels: BTreeMap<String, String>,
    pub enabled: bool,
    #[schema(required = true)]
    pub disabled_at: Option<DateTime<Utc>>,
    #[schema(required = true)]
    pub disabled_reason: Option<DisabledReason>,
    /// The first failure since the last success.
    #[schema(required = true)]
    pub failing_since: Option<DateTime<Utc>>,
    /// Grows with each rotation, from 1.
    #[schema(example = 1)]
    pub secret_version: i32,
    /// Until when messages are signed with the secret before, too.
    #[schema(required = true)]
    pub previous_secret_until: Option<DateTime<Utc>>,
    /// The subject of the token that made it.
    #[schema(example = "crm-sync")]
    pub created_by: String,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    /// Told only when it is made, here or by a rotation: keep it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oDC2FVsBQIhrs=")]
    pub secret: Option<String>,
}

/// One page of endpoints, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct WebhookEndpointList {
    pub data: Vec<EndpointView>,
    /// Give it back as `page_token` for the next page; empty on the last.
    pub next_page_token: String,
}

/// A new endpoint.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateWebhookEndpoint {
    /// `https`, with a public address; the operator can permit others. Redirects are not followed.
    #[schema(max_length = 2048, example = "https://crm.example/hooks/headgate")]
    url: String,
    /// For people.
    #[serde(default)]
    #[schema(max_length = 255, example = "CRM, imports audiences")]
    description: String,
    /// Every end of an export unless given. `connection.unhealthy` is only for tokens with `connections:admin`.
    #[serde(default = "every_end")]
    event_types: Vec<EventType>,
    /// Only exports that have all of these labels.
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

fn every_end() -> Vec<EventType> {
    EventType::OF_EXPORTS.into()
}

/// What is to be different; what is left out stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeWebhookEndpoint {
    #[serde(default)]
    #[schema(nullable = false, max_length = 2048)]
    url: Option<String>,
    #[serde(default)]
    #[schema(nullable = false, max_length = 255)]
    description: Option<String>,
    #[serde(default)]
    #[schema(nullable = false)]
    event_types: Option<Vec<EventType>>,
    #[serde(default)]
    #[schema(nullable = false)]
    labels: Option<BTreeMap<String, String>>,
    /// `true` makes a disabled endpoint hear again; what it missed comes only by a replay.
    #[serde(default)]
    #[schema(nullable = false)]
    enabled: Option<bool>,
}

/// How a secret is replaced.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RotateWebhookSecret {
    /// ISO 8601 duration, at most `P7D`: for how long messages are signed with the old secret too. `PT0S` drops it at once,
    /// for a secret that became known to others.
    #[serde(default)]
    #[schema(nullable = false, default = "P1D", example = "P1D")]
    grace: Option<String>,
}

/// Create a webhook endpoint
///
/// The answer holds the secret that its messages are signed with; it is not shown again.
#[utoipa::path(
    tag = "webhooks",
    security(("bearer" = ["webhooks:write"])),
    request_body = CreateWebhookEndpoint,
    responses(
        (status = 201, description = "Created, with its secret.", body = EndpointView, headers(
            ("Location" = String, description = "Where the endpoint is."),
        )),
        BadBody, Denied,
    ),
)]
#[post("/v1/webhook-endpoints")]
pub async fn create_webhook_endpoint(
    caller: Authorized<WebhooksWrite>,
    gateway: web::Data<Gateway>,
    request: HttpRequest,
    payload: web::Payload,
) -> Answer {
    let CreateWebhookEndpoint { url, description, event_types, labels } =
        body::fields(body::read_json(&request, payload).await?)?;
    let new = NewEndpoint { url, description, event_types, labels };
    let (endpoint, secret) = operation::create_endpoint(&gateway, &caller, new).await?;
    let at = format!("/v1/webhook-endpoints/{}", endpoint.record.webhook_endpoint_id);
    let view = EndpointView { secret: Some(secret.expose_secret().to_owned()), ..view(endpoint) };
    Ok(HttpResponse::Created().insert_header((LOCATION, at)).json(view))
}

/// List webhook endpoints
///
/// Your tenant's, newest first.
#[utoipa::path(
    tag = "webhooks",
    security(("bearer" = ["webhooks:read"])),
    params(
        ("page_size" = Option<i64>, Query, minimum = 1, description = "How many at most: 50 unless given; more than 200 counts as 200."),
        ("page_token" = Option<String>, Query, description = "`next_page_token` of the page before."),
    ),
    responses((status = 200, description = "One page.", body = WebhookEndpointList), BadQuery, Denied),
)]
#[get("/v1/webhook-endpoints")]
pub async fn list_webhook_endpoints(
    caller: Authorized<WebhooksRead>,
    gateway: web::Data<Gateway>,
    request: HttpRequest,
) -> Answer {
    let query = Query::read(&request, &["page_size", "page_token"])?;
    let (before, size) = (paging::before(&query)?.map(WebhookEndpointId), paging::size(&query)?);
    let (endpoints, more) = operation::list_endpoints(&gateway, &caller, before, size).await?;
    let last = endpoints.last().filter(|_| more).map(|last| last.record.webhook_endpoint_id.0);
    Ok(HttpResponse::Ok().json(WebhookEndpointList {
        data: endpoints.into_iter().map(view).collect(),
        next_page_token: last.map_or_else(String::new, paging::token),
    }))
}

/// Read a webhook endpoint
#[utoipa::path(
    tag = "webhooks",
    security(("bearer" = ["webhooks:read"])),
    params(("id" = String, Path, description = "The endpoint's id.")),
    responses((status = 200, description = "The endpoint.", body = EndpointView), Absent, Denied),
)]
#[get("/v1/webhook-endpoints/{id}")]
pub async fn get_webhook_endpoint(
    caller: Authorized<WebhooksRead>,
    gateway: web::Data<Gateway>,
    path: web::Path<String>,
) -> Answer {
    let endpoint = operation::get_endpoint(&gateway, &caller, endpoint_id(&path)?).await?;
    Ok(HttpResponse::Ok().json(view(endpoint)))
}

/// Change a webhook endpoint
///
/// While an endpoint is disabled, what happens is kept as failed deliveries, which can be replayed once it is enabled.
#[utoipa::path(
    tag = "webhooks",
    security(("bearer" = ["webhooks:write"])),
    params(("id" = String, Path, description = "The endpoint's id.")),
    request_body = ChangeWebhookEndpoint,
    responses((status = 200, description = "Changed.", body = EndpointView), BadBody, Absent, Denied),
)]
#[patch("/v1/webhook-endpoints/{id}")]
pub async fn change_webhook_endpoint(
    caller: Authorized<WebhooksWrite>,
    gateway: web::Data<Gateway>,
    request: HttpRequest,
    payload: web::Payload,
    path: web::Path<String>,
) -> Answer {
    let id = endpoint_id(&path)?;
    let ChangeWebhookEndpoint { url, description, event_types, labels, enabled } =
        body::fields(body::read_json(&request, payload).await?)?;
    let change = ChangeEndpoint { url, description, event_types, labels, enabled };
    let endpoint = operation::change_endpoint(&gateway, &caller, id, change).await?;
    Ok(HttpResponse::Ok().json(view(endpoint)))
}

/// Delete a webhook endpoint
///
/// With its deliveries. Nothing is sent any more.
#[utoipa::path(
    tag = "webhooks",
    security(("bearer" = ["webhooks:write"])),
    params(("id" = String, Path, description = "The endpoint's id.")),
    responses((status = 204, description = "It is gone."), Absent, Denied),
)]
#[delete("/v1/webhook-endpoints/{id}")]
pub async fn delete_webhook_endpoint(
    caller: Authorized<WebhooksWrite>,
    gateway: web::Data<Gateway>,
    path: web::Path<String>,
) -> Answer {
    operation::delete_endpoint(&gateway, &caller, endpoint_id(&path)?).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Replace a webhook endpoint's secret
///
/// The answer holds the new secret; it is not shown again. Until the grace period is over messages are signed with the
/// old one too, so a receiver can change over at its leisure.
#[utoipa::path(
    tag = "webhooks",
    security(("bearer" = ["webhooks:write"])),
    params(("id" = String, Path, description = "The endpoint's id.")),
    request_body(content = Option<RotateWebhookSecret>),
    responses((status = 200, description = "The new secret is in force.", body = EndpointView), BadBody, Absent, Denied),
)]
#[post("/v1/webhook-endpoints/{id}/secret")]
pub async fn rotate_webhook_secret(
    caller: Authorized<WebhooksWrite>,
    gateway: web::Data<Gateway>,
    request: HttpRequest,
    payload: web::Payload,
    path: web::Path<String>,
) -> Answer {
    let id = endpoint_id(&path)?;
    let grace = match body::read_optional_json(&request, payload).await? {
        Some(body) => body::fields::<RotateWebhookSecret>(body)?.grace,
        None => None,
    };
    let invalid = || ApiError::invalid(vec![FieldError::new("/grace", "invalid", "an ISO 8601 duration such as P1D")]);
    let grace = grace.map(|text| parse_duration(&text).ok_or_else(invalid)).transpose()?;
    let (endpoint, secret) = operation::rotate_secret(&gateway, &caller, id, grace).await?;
    Ok(HttpResponse::Ok().json(EndpointView { secret: Some(secret.expose_secret().to_owned()), ..view(endpoint) }))
}

/// The id in a path. What is no id names nothing.
pub fn endpoint_id(text: &str) -> Result<WebhookEndpointId, ApiError> {
    text.parse().map_err(|_| ApiError::not_found("webhook endpoint"))
}

/// The endpoint, without its secret.
pub fn view(endpoint: Endpoint) -> EndpointView {
    let Endpoint { record, url } = endpoint;
    EndpointView {
        id: record.webhook_endpoint_id,
        url: url.into(),
        description: record.description,
        event_types: record.event_types,
        labels: record.labels.0,
        enabled: record.disabled_at.is_none(),
        disabled_at: record.disabled_at,
        disabled_reason: record.disabled_reason,
        failing_since: record.failing_since,
        secret_version: record.secret_version,
        previous_secret_until: record.previous_secret_until.filter(|until| *until > Utc::now()),
        created_by: record.created_by,
        created_at: record.created_at,
        updated_at: record.updated_at,
        secret: None,
    }
}
