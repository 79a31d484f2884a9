//! What every request passes: its id, its span, the form of its failures, and the common headers of its answer.

use std::{panic::AssertUnwindSafe, time::Instant};

use actix_web::{
    Error, HttpMessage,
    body::{BoxBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    http::{
        Method,
        header::{CACHE_CONTROL, HeaderMap, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS},
    },
    middleware::Next,
    web::Data,
};
use futures_util::FutureExt;
use tracing::Instrument;
use uuid::Uuid;

use super::{Edge, problem::ApiError};
use crate::exports::problem::{Code, Problem};

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest request id taken over from a caller.
const MAX_REQUEST_ID: usize = 128;

/// The request came as `HEAD` and is served by the `GET` of its path; the server leaves the body out.
#[derive(Debug, Clone, Copy)]
pub struct WasHead;

/// The outermost layer of the application.
pub async fn observe(
    mut request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let id = request_id(request.headers());
    let span = tracing::info_span!(
        "request",
        request.id = %id,
        http.method = %request.method(),
        http.route = tracing::field::Empty,
        http.status = tracing::field::Empty,
        duration_ms = tracing::field::Empty,
        caller.subject = tracing::field::Empty,
        caller.tenant = tracing::field::Empty,
        trace_id = trace_id(request.headers()),
    );
    serve_head_by_get(&mut request);
    let is_api = request.path().starts_with("/v1/");
    let started = Instant::now();

    let answer =
        AssertUnwindSafe(async move { next.call(request).await }).catch_unwind().instrument(span.clone()).await;
    let _entered = span.enter();
    let answer = match answer {
        Ok(Ok(answer)) => answer.map_into_boxed_body(),
        Ok(Err(error)) => {
            let error = error
                .as_error::<ApiError>()
                .cloned()
                .unwrap_or_else(|| ApiError::from_status(error.as_response_error().status_code()));
            return Err(without_answer(error, &id).into());
        }
        Err(_) => {
            span.record("http.status", 500);
            tracing::error!("a handler panicked");
            let problem =
                Problem::new(Code::Internal, "something went wrong here; the log has it under this request's id");
            return Err(without_answer(problem.into(), &id).into());
        }
    };
    let mut answer = as_problem(answer, &id);

    let elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let route = answer.request().match_pattern().unwrap_or_else(|| "unmatched".into());
    span.record("http.route", route.as_str());
    span.record("http.status", answer.status().as_u16());
    span.record("duration_ms", elapsed_ms);
    // The path itself is never told: that of a link grants access.
    if route.starts_with("/v1/") || route.starts_with("/links/") {
        tracing::info!("answered");
    } else {
        tracing::debug!("answered");
    }

    let headers = answer.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&id) {
        headers.insert(X_REQUEST_ID, value);
    }
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if is_api && !headers.contains_key(CACHE_CONTROL) {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    }
    Ok(answer)
}

/// Gives every failing answer the form of a problem and the id of its request.
fn as_problem(answer: ServiceResponse, id: &str) -> ServiceResponse {
    let status = answer.status();
    if !status.is_client_error() && !status.is_server_error() {
        return answer;
    }
    let error = match answer.response().error().and_then(|error| error.as_error::<ApiError>()) {
        Some(error) => error.clone(),
        None => ApiError::from_status(status),
    };
    let answer_with_id = actix_web::ResponseError::error_response(&error.with_instance(id));
    answer.into_response(answer_with_id)
}

/// For a failure that left no answer to change: the server makes one from the error alone.
fn without_answer(error: ApiError, id: &str) -> ApiError {
    let error = error.with_instance(id);
    match HeaderValue::from_str(id) {
        Ok(value) => error.with_header(X_REQUEST_ID, value),
        Err(_) => error,
    }
}

fn serve_head_by_get(request: &mut ServiceRequest) {
    let by_get = request.method() == Method::HEAD
        && request
            .app_data::<Data<Edge>>()
            .is_some_and(|edge| edge.published.routes.serves_head_by_get(request.path()));
    if by_get {
        request.head_mut().method = Method::GET;
        request.extensions_mut().insert(WasHead);
    }
}

/// The caller's own id when it is safe to echo and to log, else a new one.
fn request_id(headers: &HeaderMap) -> String {
    headers
        .get(X_REQUEST_ID)
        .and_then(|value| value.to_str().ok())
        .filter(|id| !id.is_empty() && id.len() <= MAX_REQUEST_ID && id.bytes().all(|byte| byte.is_ascii_graphic()))
        .map_or_else(|| format!("req_{}", Uuid::now_v7().simple()), str::to_owned)
}

/// The trace id of a well-formed `traceparent` (W3C Trace Context, version 00 and its successors).
fn trace_id(headers: &HeaderMap) -> Option<&str> {
    let mut parts = headers.get("traceparent")?.to_str().ok()?.split('-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let hex =
        |text: &str, length| text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let is_zero = |text: &str| text.bytes().all(|byte| byte == b'0');
    let well_formed = hex(version, 2)
        && version != "ff"
        && (version != "00" || parts.next().is_none())
        && hex(trace, 32)
        && !is_zero(trace)
        && hex(parent, 16)
        && !is_zero(parent)
        && hex(flags, 2);
    well_formed.then_some(trace)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap());
        headers
    }

    #[test]
    fn a_sane_request_id_is_kept_and_any_other_replaced() {
        assert_eq!(request_id(&headers("x-request-id", "abc-1")), "abc-1");
        for bad in ["", "a b", "ü", &"x".repeat(129)] {
            assert!(request_id(&headers("x-request-id", bad)).starts_with("req_"), "{bad}");
        }
    }

    #[test]
    fn only_a_well_formed_traceparent_gives_a_trace_id() {
        let trace = "0af7651916cd43dd8448eb211c80319c";
        let good = format!("00-{trace}-b7ad6b7169203331-01");
        assert_eq!(trace_id(&headers("traceparent", &good)), Some(trace));
        for bad in [
            format!("00-{}-b7ad6b7169203331-01", "0".repeat(32)),
            format!("ff-{trace}-b7ad6b7169203331-01"),
            format!("00-{trace}-b7ad6b7169203331-01-extra"),
            format!("00-{}-b7ad6b7169203331-01", trace.to_uppercase()),
            "00".into(),
        ] {
            assert_eq!(trace_id(&headers("traceparent", &bad)), None, "{bad}");
        }
    }
}
