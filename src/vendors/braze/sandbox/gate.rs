//! What every call of the API goes through: the key, the request budget, and what goes wrong on the way.
//! `_docs/_api/{basics,errors,api_limits}.md`.

use std::{
    collections::HashMap,
    io::Write,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use actix_web::{
    HttpRequest, HttpResponse, HttpResponseBuilder,
    http::{
        StatusCode,
        header::{self, HeaderName, HeaderValue},
    },
};
use chrono::Utc;
use serde_json::{Value, json, value::RawValue};

use super::{API_KEY, API_KEY_WITHOUT_EXPORT, NAME};
use crate::vendors::sandbox::{
    EndpointFault, World,
    files::{SpooledFile, Transfer},
};

pub(super) const HTML: &str =
    "<!DOCTYPE html><html><head><title>502 Bad Gateway</title></head><body>Bad Gateway</body></html>";

/// Requests that share one budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pool {
    /// 250,000 an hour, or what the sandbox is configured for.
    Default,
    /// 1,000 an hour: lists of events, attributes and products. The pages of the purchase series name it too.
    Names,
    /// `/campaigns/data_series`: 50,000 a minute.
    CampaignSeries,
    /// `/users/export/ids`: 250 a minute for customers since August 2024.
    Profiles,
    /// The same with named fields and without received campaigns and canvases: 40 a second.
    FewFields,
}

impl Pool {
    fn limit(self, world: &World) -> (u64, Duration) {
        match self {
            Self::Default => (world.config.requests_per_hour, Duration::from_hours(1)),
            Self::Names => (1_000, Duration::from_hours(1)),
            Self::CampaignSeries => (50_000, Duration::from_mins(1)),
            Self::Profiles => (250, Duration::from_mins(1)),
            Self::FewFields => (40, Duration::from_secs(1)),
        }
    }
}

/// Calls in the current window of each pool, and when it began.
#[derive(Default)]
struct Windows(Mutex<HashMap<Pool, (Instant, u64)>>);

/// `X-RateLimit-*`, as every answer of the API carries them.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    pub limit: u64,
    pub remaining: u64,
    /// Unix time in seconds, by the real clock: clients wait in real time.
    pub reset: i64,
}

impl Budget {
    /// Counts one call at `now`; false when there was no budget for it.
    pub(super) fn spend(world: &World, pool: Pool, now: Instant) -> (Self, bool) {
        let (limit, window) = pool.limit(world);
        let windows = world.shelf::<Windows>();
        let mut windows = windows.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (began, used) = windows.get(&pool).copied().unwrap_or((now, 0));
        let passed = now.saturating_duration_since(began);
        let (began, used, passed) = if passed < window { (began, used, passed) } else { (now, 0, Duration::ZERO) };
        let allowed = used < limit;
        let used = if allowed { used + 1 } else { used };
        windows.insert(pool, (began, used));
        let left = i64::try_from(window.saturating_sub(passed).as_secs()).unwrap_or(i64::MAX);
        (Self { limit, remaining: limit - used, reset: Utc::now().timestamp().saturating_add(left) }, allowed)
    }

    /// Nothing left for another two seconds.
    pub(super) fn used_up(self) -> Self {
        Self { remaining: 0, reset: Utc::now().timestamp() + 2, ..self }
    }

    pub(super) fn answer(self, status: StatusCode, body: &Value) -> HttpResponse {
        self.headers(&mut HttpResponse::build(status)).json(body)
    }

    pub(super) fn headers(self, answer: &mut HttpResponseBuilder) -> &mut HttpResponseBuilder {
        for (name, value) in self.named() {
            answer.insert_header((name, value));
        }
        answer
    }

    fn add_to(self, answer: &mut HttpResponse) {
        for (name, value) in self.named() {
            answer.headers_mut().insert(name, value);
        }
    }

    fn named(self) -> [(HeaderName, HeaderValue); 3] {
        [
            (HeaderName::from_static("x-ratelimit-limit"), self.limit.into()),
            (HeaderName::from_static("x-ratelimit-remaining"), self.remaining.into()),
            (HeaderName::from_static("x-ratelimit-reset"), self.reset.into()),
        ]
    }
}

/// A call that Braze would not carry out.
#[derive(Debug)]
pub struct Refusal {
    pub status: StatusCode,
    /// For the record of what clients did.
    pub reason: &'static str,
    pub message: String,
}

impl Refusal {
    /// 400, for something that the documents do not forbid in so many words.
    pub fn bad(message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, reason: "bad_request", message: message.into() }
    }

    /// 400, for something that the documents forbid.
    pub fn forbidden(world: &World, message: impl Into<String>) -> Self {
        let message = message.into();
        world.violation(NAME, message.clone());
        Self::bad(message)
    }

    pub(super) fn answer(&self, world: &World, budget: Budget) -> HttpResponse {
        world.refuse(NAME, self.reason);
        budget.answer(self.status, &json!({"message": self.message}))
    }
}

/// What a call is answered with.
pub struct Reply {
    pub status: StatusCode,
    /// Without `message`.
    pub body: Value,
    /// Whether the answer lacks `message`, as one documented sample does.
    pub without_message: bool,
    /// A member whose entries are passed on as they are written.
    pub raw: Option<(&'static str, Vec<Box<RawValue>>)>,
    /// The `Link` header.
    pub link: Option<String>,
}

impl From<Value> for Reply {
    fn from(body: Value) -> Self {
        Self { status: StatusCode::OK, body, without_message: false, raw: None, link: None }
    }
}

/// One call on its way through the endpoint group `thing`, with the fault that it meets.
pub struct Gate {
    fault: Option<EndpointFault>,
    pub budget: Budget,
}

impl Gate {
    /// Lets the call in, unless the key, the budget or a fault is against it. `exports` needs the export permission.
    pub fn open(
        world: &World,
        request: &HttpRequest,
        thing: &str,
        pool: Pool,
        exports: bool,
    ) -> Result<Self, Box<HttpResponse>> {
        let fault = world.endpoint_fault(thing);
        match fault {
            Some(EndpointFault::ServerError) => {
                let answer =
                    HttpResponse::InternalServerError().content_type("text/plain").body("Internal Server Error");
                return Err(Box::new(answer));
            }
            Some(EndpointFault::Html) => {
                return Err(Box::new(HttpResponse::Ok().content_type("text/html").body(HTML)));
            }
            _ => {}
        }
        let budget = admit(world, request, pool, exports)?;
        let refuse = |status, message: &str, budget: Budget| {
            let refusal = Refusal { status, reason: "fault", message: message.to_owned() };
            Err(Box::new(refusal.answer(world, budget)))
        };
        match fault {
            Some(EndpointFault::Unauthorized) => refuse(StatusCode::UNAUTHORIZED, "Unauthorized", budget),
            Some(EndpointFault::Forbidden) => refuse(StatusCode::FORBIDDEN, "Access Denied", budget),
            Some(EndpointFault::RateLimited) => refuse(StatusCode::TOO_MANY_REQUESTS, "Rate Limited", budget.used_up()),
            _ => Ok(Self { fault, budget }),
        }
    }

    /// The answer, or what a fault makes of it.
    pub async fn answer(self, world: &World, request: &HttpRequest, reply: Result<Reply, Refusal>) -> HttpResponse {
        let reply = match reply {
            Ok(reply) => reply,
            Err(refusal) => return refusal.answer(world, self.budget),
        };
        if world.fault("braze.answer.queued") {
            return self.budget.answer(StatusCode::ACCEPTED, &json!({"message": "queued"}));
        }
        let mut body = reply.body;
        if !reply.without_message {
            body["message"] = json!("success");
        }
        if world.fault("braze.answer.minor_errors") {
            body["errors"] = json!(["a minor error that did not keep Braze from answering"]);
        }
        let transfer = match self.fault {
            Some(EndpointFault::BadJson) => Transfer::Truncated,
            Some(EndpointFault::Cut) => Transfer::Cut,
            Some(EndpointFault::Slow) => Transfer::Drip,
            _ => Transfer::Whole,
        };
        let mut bytes = body.to_string();
        if let Some((name, rows)) = reply.raw {
            let rows: Vec<&str> = rows.iter().map(|row| row.get()).collect();
            bytes.truncate(bytes.len() - 1);
            bytes = format!("{bytes},{}:[{}]}}", json!(name), rows.join(","));
        }
        let mut answer = if transfer == Transfer::Whole {
            HttpResponse::build(reply.status).content_type("application/json").body(bytes)
        } else {
            match SpooledFile::write(move |file| file.write_all(bytes.as_bytes())).await {
                Ok(file) => file.serve(request, "application/json", transfer),
                Err(error) => {
                    tracing::error!(%error, "the sandbox could not write an answer");
                    HttpResponse::InternalServerError().finish()
                }
            }
        };
        self.budget.add_to(&mut answer);
        if let Some(link) = reply.link.and_then(|link| HeaderValue::from_str(&link).ok()) {
            answer.headers_mut().insert(header::LINK, link);
        }
        answer
    }
}

/// Checks the key and counts the call.
pub(super) fn admit(
    world: &World,
    request: &HttpRequest,
    pool: Pool,
    exports: bool,
) -> Result<Budget, Box<HttpResponse>> {
    let (budget, allowed) = Budget::spend(world, pool, Instant::now());
    let refuse = |status, reason, message: &str| {
        Err(Box::new(Refusal { status, reason, message: message.to_owned() }.answer(world, budget)))
    };
    if request.query_string().contains("api_key") {
        world.violation(NAME, "the key was sent in the address");
    }
    let key = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    match key.and_then(|value| value.strip_prefix("Bearer ")) {
        Some(API_KEY) => {}
        Some(API_KEY_WITHOUT_EXPORT) if !exports => {}
        Some(API_KEY_WITHOUT_EXPORT) => return refuse(StatusCode::FORBIDDEN, "forbidden", "Access Denied"),
        _ => return refuse(StatusCode::UNAUTHORIZED, "unauthorized", "Unauthorized"),
    }
    if !allowed {
        return refuse(StatusCode::TOO_MANY_REQUESTS, "rate_limited", "Rate Limited");
    }
    Ok(budget)
}
