//! Braze's JSON: the body of a segment export, what its answer means, and the rate-limit headers.

use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::StatusCode;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use url::Url;

use super::{
    api::{self, is_used_up},
    fields::Ask,
    segment_export::Whom,
};
use crate::exports::problem::Code;
use crate::vendors::{
    Next, Submitted, Ticket, VendorError,
    http::{Answer, TRY_AGAIN},
};

/// What a [`Ticket`] holds.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Handle {
    /// Grants access to the archive by itself.
    Url(String),
    /// A folder in every key of the export's objects in the workspace's bucket.
    ObjectPrefix(String),
    /// A link although the workspace has a bucket: Braze's pages hint that this happens, and not which of the two will
    /// have the data.
    Either { url: String, object_prefix: String },
}

#[derive(Debug, Deserialize)]
struct SegmentExport {
    message: Option<String>,
    object_prefix: Option<String>,
    url: Option<String>,
}

/// The body that begins an export. `output_format` is left out: its default, `zip`, is what we want.
pub fn export_body(whom: Whom<'_>, callback: Option<&Url>, ask: &Ask) -> Value {
    let mut body = json!({});
    if let Whom::Segment(segment) = whom {
        body["segment_id"] = segment.into();
    }
    if let Some(callback) = callback {
        body["callback_endpoint"] = callback.as_str().into();
    }
    body["fields_to_export"] = json!(ask.fields);
    if matches!(whom, Whom::Segment(_)) && !ask.custom_attributes.is_empty() {
        body["custom_attributes_to_export"] = json!(ask.custom_attributes);
    }
    body
}

/// What Braze made of a submission.
///
/// # Errors
/// Everything but an accepted export with something to follow it by: a link, or where the connection knows the
/// workspace's bucket, the prefix of its objects.
pub fn submitted(
    answer: &Answer,
    key: &SecretString,
    permission: &str,
    has_bucket: bool,
) -> Result<Submitted, VendorError> {
    if !answer.status.is_success() {
        return Err(refused(answer, key, permission));
    }
    // The export may have begun, and an answer that breaks the contract once would do so again: repeating blindly could
    // begin one export after the other. So this ends the export, and a person decides.
    let Ok(read) = serde_json::from_slice::<SegmentExport>(&answer.body) else {
        let shown = answer.excerpt(key);
        let message = format!("Braze answered something that is not its documented JSON: {shown}");
        return Err(answer.error(Code::VendorMalformedData, Next::GiveUp, message));
    };
    let message = read.message.as_deref().unwrap_or_default();
    let accepted = message.eq_ignore_ascii_case("success");
    let reference = read.object_prefix.filter(|prefix| !prefix.is_empty() && prefix.len() <= 255);
    match read.url.filter(|url| !url.is_empty()) {
        Some(url) if accepted && has_bucket && reference.is_some() => {
            let object_prefix = reference.clone().unwrap_or_default();
            Ok(Submitted { ticket: ticket(&Handle::Either { url, object_prefix }), reference })
        }
        Some(url) if accepted || message.is_empty() => Ok(Submitted { ticket: ticket(&Handle::Url(url)), reference }),
        // Taken during maintenance, to be worked on later, without a handle to follow it by. Whether it begins can only
        // be found out as after a lost answer. Source: `_docs/_api/errors.md`, older text.
        None if answer.status == StatusCode::ACCEPTED || message.eq_ignore_ascii_case("queued") => {
            Err(answer.error(Code::VendorUnavailable, Next::OutcomeUnknown, "Braze queued the request without a link"))
        }
        None if accepted && has_bucket => match reference {
            Some(prefix) => {
                Ok(Submitted { ticket: ticket(&Handle::ObjectPrefix(prefix.clone())), reference: Some(prefix) })
            }
            None => Err(answer.error(
                Code::VendorMalformedData,
                Next::GiveUp,
                "Braze's answer holds neither a link nor the prefix of the objects in the bucket",
            )),
        },
        None if accepted => {
            let prefix = reference.map(|prefix| format!(" under `{prefix}`")).unwrap_or_default();
            Err(answer.error(
                Code::VendorRejectedRequest,
                Next::GiveUp,
                format!(
                    "Braze gave no download link: the workspace exports to its own cloud storage{prefix}. Set \
                     `settings.bucket` and its credentials so that Headgate can read it there, or remove the storage \
                     credentials from the Braze workspace to export by link"
                ),
            ))
        }
        _ if message.is_empty() => Err(answer.error(
            Code::VendorMalformedData,
            Next::GiveUp,
            "Braze's answer holds neither a link nor a message",
        )),
        _ => Err(answer.error(
            Code::VendorRejectedRequest,
            Next::GiveUp,
            format!("Braze did not accept the export: {}", answer.excerpt(key)),
        )),
    }
}

fn ticket(handle: &Handle) -> Ticket {
    Ticket(json!(handle).to_string().into())
}

/// A submission that was not accepted. Decided by status alone: Braze's texts are undocumented.
fn refused(answer: &Answer, key: &SecretString, permission: &str) -> VendorError {
    let shown = answer.excerpt(key);
    let status = answer.status.as_u16();
    let (code, next, message) = match status {
        401 | 403 => return credentials_error(answer, key, permission),
        429 => (
            Code::VendorUnavailable,
            Next::Wait { after: busy_pause(answer, Utc::now()) },
            if is_used_up(&answer.headers) {
                "Braze's rate limit is used up".to_owned()
            } else {
                "Braze has no room for this export now: it is being exported already, by whomever, or the company runs \
                 as many exports as it may"
                    .to_owned()
            },
        ),
        // A 5xx says nothing about whether the export began, and Braze never replays a failed call. Finding out is
        // cheap: Braze refuses a second export of a busy segment.
        408 | 500.. => (
            Code::VendorUnavailable,
            Next::OutcomeUnknown,
            format!("Braze failed with {status}, so the export may or may not have begun: {shown}"),
        ),
        404 => (
            Code::VendorRejectedRequest,
            Next::GiveUp,
            format!("Braze has no such address; check `settings.base_url`: {shown}"),
        ),
        _ => (Code::VendorRejectedRequest, Next::GiveUp, format!("Braze refused the request with {status}: {shown}")),
    };
    answer.error(code, next, message)
}

fn credentials_error(answer: &Answer, key: &SecretString, permission: &str) -> VendorError {
    let shown = answer.excerpt(key);
    if answer.status == StatusCode::UNAUTHORIZED {
        let message = format!("Braze rejected the API key; a key works only on its own instance: {shown}");
        return answer.error(Code::VendorCredentialsRejected, Next::GiveUp, message);
    }
    let message = format!("the API key lacks the permission `{permission}`: {shown}");
    answer.error(Code::VendorPermissionDenied, Next::GiveUp, message)
}

/// What the answer of `GET /segments/list` says about address and key.
///
/// # Errors
/// When one of them cannot work.
pub fn checked(answer: &Answer, key: &SecretString) -> Result<&'static str, VendorError> {
    let shown = || answer.excerpt(key);
    match answer.status.as_u16() {
        200..=299 if serde_json::from_slice::<serde_json::Map<String, Value>>(&answer.body).is_ok() => {
            Ok("address and key work")
        }
        // A wrong key or instance is 401. A key made for exports alone rightly lacks `segments.list`.
        403 => Ok("address and key work; the key may not list segments, which exports do not need"),
        401 => Err(credentials_error(answer, key, "segments.list")),
        429 => {
            let after = busy_pause(answer, Utc::now());
            Err(answer.error(Code::VendorUnavailable, Next::Wait { after }, "Braze's rate limit is used up"))
        }
        408 | 500.. => {
            let message = format!("Braze failed with {}: {}", answer.status.as_u16(), shown());
            Err(answer.error(Code::VendorUnavailable, TRY_AGAIN, message))
        }
        status => {
            let message = format!("this is not a Braze REST address (status {status}): {}", shown());
            Err(answer.error(Code::VendorRejectedRequest, Next::GiveUp, message))
        }
    }
}

/// How long to wait after a 429. It means one of three things: the rate limit is used up (the headers say until when),
/// this segment is being exported, or the company runs 100 exports; the last two end when some export ends, and Braze
/// does not say when, so the worker's own spacing applies.
fn busy_pause(answer: &Answer, now: DateTime<Utc>) -> Option<Duration> {
    api::busy_pause(answer.retry_after(), &answer.headers, now)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use secrecy::ExposeSecret;

    use super::*;

    fn answer(status: u16, body: &str, headers: &[(&'static str, String)]) -> Answer {
        let headers = headers
            .iter()
            .map(|(name, value)| (reqwest::header::HeaderName::from_static(name), value.parse().unwrap()));
        Answer {
            status: StatusCode::from_u16(status).unwrap(),
            headers: headers.collect(),
            body: Bytes::from(body.to_owned()),
        }
    }

    fn submit(status: u16, body: &str) -> Result<Submitted, VendorError> {
        submitted(&answer(status, body, &[]), &"key-of-test".into(), "users.export.segment", false)
    }

    #[test]
    fn the_request_body_to_the_letter() {
        let mut ask = Ask { fields: vec!["braze_id", "email"], ..Ask::default() };
        assert_eq!(
            export_body(Whom::Segment("s-1"), None, &ask).to_string(),
            r#"{"segment_id":"s-1","fields_to_export":["braze_id","email"]}"#
        );
        ask.custom_attributes.extend(["plan".to_owned(), "b".to_owned()]);
        let callback = Url::parse("https://gate.test/callbacks/x").unwrap();
        assert_eq!(
            export_body(Whom::Segment("s-1"), Some(&callback), &ask).to_string(),
            r#"{"segment_id":"s-1","callback_endpoint":"https://gate.test/callbacks/x","fields_to_export":["braze_id","email"],"custom_attributes_to_export":["b","plan"]}"#
        );
    }

    #[test]
    fn an_accepted_export_gives_a_link_and_a_reference() {
        for status in [200, 201] {
            let body = r#"{"message":"success","object_prefix":"bb8e2a91-1464728599","url":"https://files.test/x"}"#;
            let submitted = submit(status, body).unwrap();
            assert_eq!(submitted.reference.as_deref(), Some("bb8e2a91-1464728599"));
            assert_eq!(submitted.ticket.0.expose_secret(), r#"{"url":"https://files.test/x"}"#);
        }
        assert!(submit(200, r#"{"message":"success","errors":["minor"],"url":"https://files.test/x"}"#).is_ok());
    }

    #[test]
    fn every_other_answer_is_classified() {
        use Code::*;
        use Next::*;
        for (status, body, code, next) in [
            (200, r#"{"message":"success","object_prefix":"p","url":null}"#, VendorRejectedRequest, GiveUp),
            (200, r#"{"message":"success","object_prefix":"p"}"#, VendorRejectedRequest, GiveUp),
            (201, r#"{"message":"success","object_prefix":"p","url":""}"#, VendorRejectedRequest, GiveUp),
            (202, r#"{"message":"queued"}"#, VendorUnavailable, OutcomeUnknown),
            (200, r#"{"message":"queued"}"#, VendorUnavailable, OutcomeUnknown),
            (200, r#"{"message":"segment is archived"}"#, VendorRejectedRequest, GiveUp),
            (200, "{}", VendorMalformedData, GiveUp),
            (200, "<html>login</html>", VendorMalformedData, GiveUp),
            (200, "", VendorMalformedData, GiveUp),
            (200, r#"["success"]"#, VendorMalformedData, GiveUp),
            (400, r#"{"message":"segment_id must be valid"}"#, VendorRejectedRequest, GiveUp),
            (401, r#"{"message":"Unauthorized"}"#, VendorCredentialsRejected, GiveUp),
            (403, r#"{"message":"Access Denied"}"#, VendorPermissionDenied, GiveUp),
            (404, r#"{"message":"Not Found"}"#, VendorRejectedRequest, GiveUp),
            (422, "", VendorRejectedRequest, GiveUp),
            (302, "", VendorRejectedRequest, GiveUp),
            (429, "", VendorUnavailable, Wait { after: None }),
            (500, "", VendorUnavailable, OutcomeUnknown),
            (502, "<html>", VendorUnavailable, OutcomeUnknown),
            (503, "", VendorUnavailable, OutcomeUnknown),
            (504, "", VendorUnavailable, OutcomeUnknown),
        ] {
            let error = submit(status, body).unwrap_err();
            assert_eq!((error.code, error.next, error.http_status), (code, next, Some(status)), "{status} {body}");
        }
    }

    #[test]
    fn an_error_text_is_shown_without_secrets() {
        let body = r#"{"message":"key key-of-test of a@b.test is bad"}"#;
        let message = submit(400, body).unwrap_err().message;
        assert_eq!(message, "Braze refused the request with 400: key [redacted] of [redacted] is bad");
    }

    #[test]
    fn a_429_waits_as_long_as_the_headers_say() {
        let now = Utc::now();
        let wait = |headers: &[(&'static str, String)]| {
            busy_pause(&answer(429, "", headers), now).map(|pause| pause.as_secs())
        };
        let limit = |remaining: i64, reset: i64| {
            [
                ("x-ratelimit-limit", "250000".to_owned()),
                ("x-ratelimit-remaining", remaining.to_string()),
                ("x-ratelimit-reset", (now.timestamp() + reset).to_string()),
            ]
        };
        assert_eq!(wait(&[]), None);
        assert_eq!(wait(&limit(0, 90)), Some(90));
        assert_eq!(wait(&limit(0, -5)), Some(1));
        assert_eq!(wait(&limit(0, 100_000)), Some(3600));
        assert_eq!(wait(&limit(249_999, 90)), None, "budget is left, so the segment is busy");
        assert_eq!(wait(&[("x-ratelimit-remaining", "0".into())]), None);
        assert_eq!(wait(&[("retry-after", "7".into())]), Some(7));
    }

    #[test]
    fn a_check_tells_a_bad_key_from_a_missing_list_permission() {
        let check = |status, body| checked(&answer(status, body, &[]), &"key-of-test".into());
        assert!(check(200, r#"{"message":"success","segments":[]}"#).is_ok());
        assert!(check(403, r#"{"message":"Access Denied"}"#).is_ok());
        assert_eq!(check(401, "").unwrap_err().code, Code::VendorCredentialsRejected);
        assert_eq!(check(404, "").unwrap_err().code, Code::VendorRejectedRequest);
        assert_eq!(check(200, "<html>").unwrap_err().code, Code::VendorRejectedRequest);
        assert_eq!(check(503, "").unwrap_err().next, TRY_AGAIN);
    }
}
