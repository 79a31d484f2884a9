//! How the CDP answers: who is let in, what is refused and how it says so, and what the faults of an endpoint do to an
//! answer. Everything that is wrong or not granted is `Internal Server Error` in plain text.

use std::collections::HashMap;

use actix_web::{
    HttpRequest, HttpResponse,
    http::{StatusCode, header},
};
use serde_json::{Value, json};

use super::{NAME, PROJECT, SPACE, TOKEN, audience_number};
use crate::vendors::sandbox::{
    Audience, EndpointFault, World,
    files::{Transfer, answer_in_pieces},
};

const TEXT: &str = "text/plain;charset=UTF-8";
pub const HTML: &str = "<html><head><title>502 Bad Gateway</title></head><body><center>nginx</center></body></html>";

/// The vendor's answer to nearly everything that is wrong.
pub fn internal_server_error() -> HttpResponse {
    HttpResponse::InternalServerError().content_type(TEXT).body("Internal Server Error")
}

pub fn proxy_page() -> HttpResponse {
    HttpResponse::BadGateway().content_type("text/html").body(HTML)
}

pub fn not_found() -> HttpResponse {
    HttpResponse::NotFound().content_type(TEXT).body("Not Found")
}

/// 429. The CDP documents no rate, so it gives no `Retry-After` either.
pub fn too_many_requests(world: &World) -> HttpResponse {
    world.refuse(NAME, "fault");
    HttpResponse::TooManyRequests().content_type(TEXT).body("Too Many Requests")
}

/// 401 or 403 with nothing to read, because a fault is on.
pub fn denied(world: &World, status: StatusCode) -> HttpResponse {
    world.refuse(NAME, "fault");
    HttpResponse::build(status).finish()
}

/// The token, and project and workspace where the path has them. What is not granted looks like a fault of the server.
pub fn admit(world: &World, request: &HttpRequest) -> Result<(), Box<HttpResponse>> {
    let token = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if token.and_then(|value| value.strip_prefix("Bearer ")) != Some(TOKEN) {
        world.refuse(NAME, "unauthorized");
        return Err(Box::new(HttpResponse::Unauthorized().finish()));
    }
    let place = request.match_info();
    let granted = |name, granted| place.get(name).is_none_or(|asked| asked == granted);
    if !granted("project", PROJECT) || !granted("space", SPACE) {
        world.refuse(NAME, "not_granted");
        return Err(Box::new(internal_server_error()));
    }
    Ok(())
}

/// Why a call is refused, as it is counted; the client never learns it.
pub type Refusal = &'static str;

/// What the fault of the endpoint `thing` that is on makes of an answer: another answer, or the way this one goes.
/// `page` is the proxy's page.
pub fn spoiled(world: &World, thing: &str, page: fn() -> HttpResponse) -> Result<Transfer, Box<HttpResponse>> {
    let instead = match world.endpoint_fault(thing) {
        Some(EndpointFault::Unauthorized) => denied(world, StatusCode::UNAUTHORIZED),
        Some(EndpointFault::Forbidden) => denied(world, StatusCode::FORBIDDEN),
        Some(EndpointFault::RateLimited) => too_many_requests(world),
        Some(EndpointFault::ServerError) => internal_server_error(),
        Some(EndpointFault::Html) => page(),
        Some(EndpointFault::BadJson) => return Ok(Transfer::Truncated),
        Some(EndpointFault::Cut) => return Ok(Transfer::Cut),
        Some(EndpointFault::Slow) => return Ok(Transfer::Drip),
        None => return Ok(Transfer::Whole),
    };
    Err(Box::new(instead))
}

/// 200 with JSON.
pub fn json_answer(value: &Value, transfer: Transfer) -> HttpResponse {
    answer_in_pieces("application/json;charset=UTF-8", value.to_string().into(), transfer)
}

/// Answers a call with the JSON that `work` makes, or with the fault of the endpoint `thing` that is on.
pub fn answered(
    world: &World,
    request: &HttpRequest,
    thing: &str,
    work: impl FnOnce() -> Result<Value, Refusal>,
) -> HttpResponse {
    let page = || HttpResponse::Ok().content_type("text/html").body(HTML);
    let transfer = match admit(world, request).and_then(|()| spoiled(world, thing, page)) {
        Ok(transfer) => transfer,
        Err(answer) => return *answer,
    };
    match work() {
        Ok(value) => json_answer(&value, transfer),
        Err(reason) => {
            world.refuse(NAME, reason);
            internal_server_error()
        }
    }
}

/// The tag or segment that the path names, with the prefix of its kind.
pub fn audience_of(world: &World, request: &HttpRequest) -> Result<(Audience, &'static str), Refusal> {
    let prefix = if request.match_info().query("kind") == "user_tags" { "tag" } else { "seg" };
    let key = request.match_info().query("key");
    let audience = audience_number(key, prefix).and_then(|number| world.audience(number)).ok_or("unknown_key")?;
    Ok((audience, prefix))
}

/// The parameters after `?`; those that are not documented are noted and passed over.
pub struct Query<'a> {
    world: &'a World,
    values: HashMap<String, Vec<String>>,
}

impl<'a> Query<'a> {
    pub fn read(world: &'a World, request: &HttpRequest, documented: &[&str]) -> Self {
        let mut values: HashMap<String, Vec<String>> = HashMap::new();
        for (name, value) in url::form_urlencoded::parse(request.query_string().as_bytes()) {
            if !documented.contains(&name.as_ref()) {
                world.violation(NAME, format!("the parameter {name:?} is not documented"));
            }
            values.entry(name.into_owned()).or_default().push(value.into_owned());
        }
        Self { world, values }
    }

    /// Every value of a parameter that may be repeated.
    pub fn all(&self, name: &str) -> &[String] {
        self.values.get(name).map(Vec::as_slice).unwrap_or_default()
    }

    /// A parameter that is `true` or `false`; without it false.
    pub fn flag(&self, name: &str) -> Result<bool, Refusal> {
        match self.all(name) {
            [] => Ok(false),
            [value] if value == "true" => Ok(true),
            [value] if value == "false" => Ok(false),
            _ => self.bad(format!("`{name}` is true or false")),
        }
    }

    /// `limit` and `offset`. More than `max` is refused.
    pub fn page(&self, max: u64) -> Result<Page, Refusal> {
        let number = |name: &str, default: u64| match self.all(name) {
            [] => Some(default),
            [value] => value.parse().ok(),
            _ => None,
        };
        match (number("limit", Page::DEFAULT_LIMIT), number("offset", 0)) {
            (Some(limit), Some(offset)) if (1..=max).contains(&limit) => Ok(Page { limit, offset }),
            _ => self.bad(format!("`limit` and `offset` are numbers, `limit` at most {max}")),
        }
    }

    pub fn bad<T>(&self, text: String) -> Result<T, Refusal> {
        self.world.violation(NAME, text);
        Err("bad_request")
    }
}

/// One page that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    pub limit: u64,
    pub offset: u64,
}

impl Page {
    const DEFAULT_LIMIT: u64 = 1_000;

    /// The rows of the page, of `total`. While the fault `shift` is on, a row has come in front of the others since the
    /// first page was read: every later page begins a row earlier, with the row that ended the page before.
    pub fn rows(self, world: &World, total: u64, shift: &str) -> std::ops::Range<u64> {
        let shifted = u64::from(self.offset > 0 && world.fault(shift));
        let start = self.offset.min(total + shifted) - shifted;
        start..(start + self.limit).min(total)
    }

    /// Offset, limit, count and whether there are pages before and after, with numbers printed as `1000.0`.
    pub fn envelope(self, rows: &std::ops::Range<u64>, total: u64, total_count: u64) -> Value {
        json!({
            "offset": printed(self.offset),
            "limit": printed(self.limit),
            "totalCount": printed(total_count),
            "hasNextPage": rows.end < total,
            "hasPreviousPage": self.offset > 0,
        })
    }
}

/// Whole numbers are printed as `1000.0`.
fn printed(value: u64) -> f64 {
    f64::from(u32::try_from(value).unwrap_or(u32::MAX))
}
