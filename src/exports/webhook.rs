//! Who is told what happened: events, the message that carries one, and when a message is tried again. Messages follow
//! Standard Webhooks 1.0 (<https://www.standardwebhooks.com>).

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use sqlx::types::Json;
use url::Url;
use utoipa::ToSchema;

use super::{problem::FieldError, request::SubmitExport};
use crate::ids::{DeliveryId, EventId, WebhookEndpointId};

/// How often a message is tried, replays apart.
pub const MAX_TRIES: i32 = 10;
/// Pauses after each try but the last, about 75 hours in all. Source: the schedule that Standard Webhooks recommends.
const PAUSES: [Duration; MAX_TRIES as usize - 1] = [
    Duration::from_secs(5),
    Duration::from_mins(5),
    Duration::from_mins(30),
    Duration::from_hours(2),
    Duration::from_hours(5),
    Duration::from_hours(10),
    Duration::from_hours(14),
    Duration::from_hours(20),
    Duration::from_hours(24),
];
/// The longest pause that a receiver can ask for.
const MAX_PAUSE: Duration = Duration::from_hours(1);
/// An endpoint that has only failed for this long is disabled when a message has used up its tries.
pub const MAX_FAILING: Duration = Duration::from_hours(72);
/// How long a replaced secret goes on signing, unless the caller says otherwise.
pub const DEFAULT_GRACE: Duration = Duration::from_hours(24);
/// The longest that a replaced secret can go on signing.
pub const MAX_GRACE: Duration = Duration::from_hours(7 * 24);

const MAX_URL: usize = 2048;
const MAX_DESCRIPTION: usize = 255;

/// What endpoints can be told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[sqlx(type_name = "text")]
pub enum EventType {
    #[serde(rename = "export.succeeded")]
    #[sqlx(rename = "export.succeeded")]
    ExportSucceeded,
    #[serde(rename = "export.failed")]
    #[sqlx(rename = "export.failed")]
    ExportFailed,
    #[serde(rename = "export.cancelled")]
    #[sqlx(rename = "export.cancelled")]
    ExportCancelled,
    /// A vendor rejected a connection's credentials. Only for admins of connections.
    #[serde(rename = "connection.unhealthy")]
    #[sqlx(rename = "connection.unhealthy")]
    ConnectionUnhealthy,
}

impl EventType {
    /// Every type.
    pub const ALL: [Self; 4] =
        [Self::ExportSucceeded, Self::ExportFailed, Self::ExportCancelled, Self::ConnectionUnhealthy];

    /// What an endpoint is told of unless it says otherwise: every end of an export.
    pub const OF_EXPORTS: [Self; 3] = [Self::ExportSucceeded, Self::ExportFailed, Self::ExportCancelled];

    /// The name in JSON and in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ExportSucceeded => "export.succeeded",
            Self::ExportFailed => "export.failed",
            Self::ExportCancelled => "export.cancelled",
            Self::ConnectionUnhealthy => "connection.unhealthy",
        }
    }
}

/// The body of a message. It says that something happened, not what: read the object to know how it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct WebhookMessage {
    #[serde(rename = "type")]
    pub event_type: EventType,
    /// When it happened.
    #[schema(value_type = DateTime<Utc>, example = "2026-03-02T08:01:30.000000Z")]
    pub timestamp: String,
    pub data: WebhookData,
}

/// What a message is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct WebhookData {
    /// The export's id, or the connection's name.
    #[schema(example = "exp_019a5b6c7d8e7f00a1b2c3d4e5f60718")]
    pub id: String,
    /// The state it went into.
    #[schema(example = "succeeded")]
    pub state: String,
    /// Where to read it: below the gateway's public address where that is configured, else a path.
    #[schema(example = "https://headgate.example/v1/exports/exp_019a5b6c7d8e7f00a1b2c3d4e5f60718")]
    pub href: String,
}

/// Why an endpoint is not told anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum DisabledReason {
    /// A caller wanted it so.
    Requested,
    /// It answered 410.
    Gone,
    /// It has only failed for days.
    Failing,
}

/// How far a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum DeliveryState {
    /// It is going to be tried.
    Pending,
    /// The endpoint took it.
    Delivered,
    /// Every try failed, or the endpoint is disabled. It can be replayed.
    Failed,
}

/// One endpoint. Address and secret are not here: the vault opens them.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct EndpointRecord {
    pub webhook_endpoint_id: WebhookEndpointId,
    pub tenant: String,
    pub created_by: String,
    pub description: String,
    pub event_types: Vec<EventType>,
    pub labels: Json<BTreeMap<String, String>>,
    /// The address without what could be secret.
    pub host: String,
    pub secret_version: i32,
    /// Until when the secret before signs too.
    pub previous_secret_until: Option<DateTime<Utc>>,
    pub disabled_at: Option<DateTime<Utc>>,
    pub disabled_reason: Option<DisabledReason>,
    /// The first failure since the last success.
    pub failing_since: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

/// One event for one endpoint.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct DeliveryRecord {
    pub webhook_delivery_id: DeliveryId,
    pub webhook_endpoint_id: WebhookEndpointId,
    pub event_id: EventId,
    pub event_type: EventType,
    pub occurred_at: DateTime<Utc>,
    pub object_id: String,
    pub object_state: String,
    /// A path below the gateway's address.
    pub object_href: String,
    pub state: DeliveryState,
    pub due_at: DateTime<Utc>,
    /// Since it was made or last asked for again.
    pub tries: i32,
    pub finished_at: Option<DateTime<Utc>>,
}

/// One try.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct WebhookAttemptRecord {
    pub webhook_delivery_id: DeliveryId,
    pub number: i32,
    pub at: DateTime<Utc>,
    pub http_status: Option<i32>,
    pub duration_ms: i64,
    pub error: Option<String>,
}

impl DeliveryRecord {
    /// The body to send. The same for every try, as long as `public_url` is.
    pub fn message(&self, public_url: Option<&Url>) -> WebhookMessage {
        let href = match public_url {
            Some(base) => format!("{}{}", base.as_str().trim_end_matches('/'), self.object_href),
            None => self.object_href.clone(),
        };
        WebhookMessage {
            event_type: self.event_type,
            timestamp: self.occurred_at.to_rfc3339_opts(SecondsFormat::Micros, true),
            data: WebhookData { id: self.object_id.clone(), state: self.object_state.clone(), href },
        }
    }
}

/// How long to wait after the `tries`-th failure, or `None` when that was the last try. `jitter` is random in 0..1: pauses
/// differ by up to a tenth, so that what failed together is not tried together. A receiver's own pause is kept, up to an hour.
pub fn pause(tries: i32, jitter: f64, retry_after: Option<Duration>) -> Option<Duration> {
    let index = usize::try_from(tries.max(1) - 1).ok()?;
    let pause = PAUSES.get(index)?.mul_f64(0.9 + 0.2 * jitter.clamp(0.0, 1.0));
    Some(pause.max(retry_after.unwrap_or_default().min(MAX_PAUSE)))
}

/// What is wrong with an endpoint's description and labels.
pub fn check(description: &str, labels: &BTreeMap<String, String>) -> Vec<FieldError> {
    let mut errors = SubmitExport::label_errors(labels);
    if description.chars().count() > MAX_DESCRIPTION || description.chars().any(char::is_control) {
        let detail = format!("at most {MAX_DESCRIPTION} printable characters");
        errors.push(FieldError::new("/description", "invalid", detail));
    }
    errors
}

/// Reads an endpoint's address, as far as that needs no knowledge of the network.
///
/// # Errors
/// What is wrong with it; never the address itself, which may be a secret.
pub fn parse_url(text: &str) -> Result<Url, FieldError> {
    let invalid = |why: &str| FieldError::new("/url", "invalid", why);
    let url = Url::parse(text).map_err(|_| invalid("a URL such as https://receiver.example/webhooks"))?;
    if text.len() > MAX_URL {
        return Err(invalid("at most 2048 bytes"));
    }
    if !matches!(url.scheme(), "https" | "http") {
        return Err(invalid("an https address"));
    }
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        return Err(invalid("an address without user name, password and fragment"));
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_tries_take_about_75_hours() {
        let all = |jitter: f64| (1..MAX_TRIES).map(|tries| pause(tries, jitter, None).unwrap()).sum::<Duration>();
        let hours = |duration: Duration| duration.as_secs_f64() / 3600.0;
        assert!((75.0..76.0).contains(&hours(all(0.5))), "{}", hours(all(0.5)));
        assert!(hours(all(0.0)) > 67.0 && hours(all(1.0)) < 84.0);
        assert_eq!(pause(MAX_TRIES, 0.5, None), None);
        assert_eq!(pause(MAX_TRIES, 0.5, Some(Duration::from_secs(1))), None, "asking for a pause is no way to more");
    }

    #[test]
    fn a_receiver_can_ask_for_a_longer_pause_but_not_for_more_than_an_hour() {
        assert_eq!(pause(1, 0.5, Some(Duration::from_mins(3))), Some(Duration::from_mins(3)));
        assert_eq!(pause(1, 0.5, Some(Duration::from_millis(1))), Some(Duration::from_secs(5)));
        assert_eq!(pause(1, 0.5, Some(Duration::from_hours(1000))), Some(MAX_PAUSE));
    }

    #[test]
    fn an_event_has_one_name_everywhere() {
        for event in EventType::ALL {
            assert_eq!(serde_json::to_value(event).unwrap(), event.as_str());
        }
    }

    #[test]
    fn an_address_is_a_plain_http_url_and_is_not_repeated_in_the_refusal() {
        assert!(parse_url("https://hooks.example/t/s3cr3t?x=1").is_ok());
        for bad in ["hooks.example", "ftp://s3cr3t.example", "https://u:s3cr3t@h.example/", "https://h.example/#s3cr3t"]
        {
            assert!(!parse_url(bad).unwrap_err().detail.contains("s3cr3t"), "{bad}");
        }
        assert!(parse_url(&format!("https://h.example/{}", "x".repeat(MAX_URL))).is_err());
    }
}
