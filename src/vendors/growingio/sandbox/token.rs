//! `POST /auth/token`: a token for a signed request (`api/authenticate/gettoken.md`). Issuing one ends the one before.

use std::sync::{Mutex, MutexGuard, PoisonError};

use actix_web::{HttpRequest, HttpResponse, http::header, web};
use aws_lc_rs::hmac;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use uuid::Uuid;

use super::{
    AI, CLIENT_ID, NAME, PRIVATE_KEY, PROJECT_UID,
    access::{Refusal, edge_fault, either, forbidden, served, too_many, unauthorized},
};
use crate::vendors::sandbox::{EndpointFault, World, files::Transfer};

/// How long an issued token works.
const TOKEN_LIFE: TimeDelta = TimeDelta::days(30);
/// How far `tm` may be from the server's time; not documented.
const MAX_SKEW: TimeDelta = TimeDelta::minutes(5);

/// The token that was issued last; there is never more than one.
#[derive(Default)]
pub struct Tokens(Mutex<Option<(String, DateTime<Utc>)>>);

impl Tokens {
    pub fn is_valid(&self, token: &str, now: DateTime<Utc>) -> bool {
        self.lock().as_ref().is_some_and(|(code, issued)| code == token && now - *issued < TOKEN_LIFE)
    }

    fn lock(&self) -> MutexGuard<'_, Option<(String, DateTime<Utc>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the issued token, as another process does that asks for its own.
pub fn kill_token(world: &World) {
    *world.shelf::<Tokens>().lock() = None;
}

/// `POST /auth/token`.
pub async fn issue(world: web::Data<World>, request: HttpRequest, body: web::Bytes) -> HttpResponse {
    either(issued(&world, &request, &body).await)
}

async fn issued(world: &World, request: &HttpRequest, body: &[u8]) -> Result<HttpResponse, Refusal> {
    let fault = edge_fault(world, "growingio.auth")?;
    let refused = match fault {
        Some(EndpointFault::Unauthorized) => Some(unauthorized()),
        Some(EndpointFault::Forbidden) => Some(forbidden()),
        Some(EndpointFault::RateLimited) => Some(too_many()),
        _ => None,
    };
    if let Some(refusal) = refused {
        world.refuse(NAME, "fault");
        return Err(refusal);
    }
    if world.fault("growingio.auth.disabled") {
        world.refuse(NAME, "fault");
        return Err(failed("issuing tokens is switched off"));
    }
    if world.fault("growingio.auth.fail") {
        world.refuse(NAME, "fault");
        return Ok(HttpResponse::Ok().json(json!({"status": "fail", "message": "error message"})));
    }
    check(world, request, body)?;
    let code = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
    *world.shelf::<Tokens>().lock() = Some((code.clone(), world.now()));
    world.note(NAME, |activity| activity.tokens_issued += 1);
    let transfer = match fault {
        Some(EndpointFault::BadJson) => Transfer::Truncated,
        Some(EndpointFault::Cut) => Transfer::Cut,
        Some(EndpointFault::Slow) => Transfer::Drip,
        _ => Transfer::Whole,
    };
    let answer = json!({"status": "success", "code": code});
    Ok(served(request, "application/json;charset=UTF-8", transfer, move |file| {
        Ok(serde_json::to_writer(file, &answer)?)
    })
    .await)
}

/// What a failed request looks like is not documented here; a neighbouring API has this.
fn failed(message: &str) -> Refusal {
    Refusal::from(HttpResponse::BadRequest().json(json!({"status": "fail", "message": message})))
}

fn check(world: &World, request: &HttpRequest, body: &[u8]) -> Result<(), Refusal> {
    let forbidden = |text: &str| {
        world.violation(NAME, text);
        world.refuse(NAME, "bad_request");
        Err(failed("error message"))
    };
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    if request.headers().contains_key(header::AUTHORIZATION) {
        world.violation(NAME, "a token was sent to ask for a token");
    }
    if !request.query_string().is_empty() {
        return forbidden("the fields of a token request belong into its body");
    }
    let content_type = header(header::CONTENT_TYPE.as_str()).unwrap_or_default();
    if content_type.starts_with("application/x-www-form-urlencoded") || content_type.starts_with("multipart/") {
        return forbidden("the body of a token request is raw text, not a form");
    }
    let Some([project, ai, tm, auth]) = std::str::from_utf8(body).ok().and_then(fields) else {
        return forbidden("the body of a token request is `project=..&ai=..&tm=..&auth=..`");
    };
    let now_ms = |now: DateTime<Utc>| now.timestamp_millis();
    let Ok(sent) = tm.parse::<i64>() else { return forbidden("`tm` is a Unix time in milliseconds") };
    // A scenario may have set the simulator's clock, which clients cannot know: their own is as good.
    if [world.now(), Utc::now()]
        .iter()
        .all(|now| sent.abs_diff(now_ms(*now)) > MAX_SKEW.num_milliseconds().unsigned_abs())
    {
        return forbidden("`tm` is not the time now in milliseconds");
    }
    let refuse = || {
        world.refuse(NAME, "unauthorized");
        Err(unauthorized())
    };
    if header("X-Client-Id") != Some(CLIENT_ID) || project != PROJECT_UID || ai != AI {
        return refuse();
    }
    if auth != signature(PRIVATE_KEY, project, ai, tm) {
        world.violation(NAME, "the signature of a token request is wrong");
        return refuse();
    }
    Ok(())
}

fn fields(body: &str) -> Option<[&str; 4]> {
    let mut parts = body.split('&');
    let mut next = |name: &str| parts.next()?.strip_prefix(name)?.strip_prefix('=');
    let fields = [next("project")?, next("ai")?, next("tm")?, next("auth")?];
    parts.next().is_none().then_some(fields)
}

/// `auth` of a token request: lower-case hex.
fn signature(private_key: &str, project: &str, ai: &str, tm: &str) -> String {
    sign(private_key.as_bytes(), &format!("POST\n/auth/token\nproject={project}&ai={ai}&tm={tm}"))
}

/// HMAC-SHA256 in lower-case hex.
pub fn sign(key: &[u8], message: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    hmac::sign(&key, message.as_bytes()).as_ref().iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed with Python's hmac and with openssl.
    #[test]
    fn the_signature_of_the_worked_example() {
        let (project, ai, tm) = ("nxog09md", "2a1b4018cd954ec2bcc69da5138bdb96", "1465020309123");
        assert_eq!(
            signature("example-private-key-0123456789abcdef", project, ai, tm),
            "0f77dcf3caf58980e2f117167a3ce852af4bc565a0fc96fafea24d13c2433002"
        );
        assert_eq!(
            signature("私钥-密码", project, ai, tm),
            "7beb9cd355726c90792d50da6c26c45652b95e1da27f10b916b4e8422744137a"
        );
    }

    #[test]
    fn a_token_lives_thirty_days() {
        let tokens = Tokens::default();
        let issued = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        *tokens.lock() = Some(("code".into(), issued));
        assert!(tokens.is_valid("code", issued + TimeDelta::days(30) - TimeDelta::seconds(1)));
        assert!(!tokens.is_valid("code", issued + TimeDelta::days(30)));
        assert!(!tokens.is_valid("other", issued));
    }

    #[test]
    fn the_body_has_four_fields_in_order() {
        assert_eq!(fields("project=a&ai=b&tm=c&auth=d"), Some(["a", "b", "c", "d"]));
        for bad in ["ai=b&project=a&tm=c&auth=d", "project=a&ai=b&tm=c", "project=a&ai=b&tm=c&auth=d&x=y", ""] {
            assert_eq!(fields(bad), None, "{bad}");
        }
    }
}
