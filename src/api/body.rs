//! Reading a request's body: bounded, JSON only, with errors that point at the field. Called by handlers after the
//! caller has been let in, so that nothing is read for strangers.

use actix_web::{
    HttpRequest,
    http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE},
    web,
};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::problem::ApiError;
use crate::exports::{
    problem::{Code, FieldError, Problem},
    request::{escape_pointer, from_json},
};

/// Largest JSON body, in bytes.
pub const MAX_JSON: usize = 1 << 20;

/// Reads the body as one JSON object.
///
/// # Errors
/// 413 when it is too large, 415 when it is not declared as JSON, 400 when it is not JSON, 422 when it is no object or
/// holds what the database cannot keep.
pub async fn read_json(request: &HttpRequest, payload: web::Payload) -> Result<Value, ApiError> {
    must_be_json(request)?;
    let bytes = read(request, payload, MAX_JSON).await?;
    if bytes.is_empty() {
        return Err(ApiError::malformed("a JSON body is needed"));
    }
    parse(&bytes)
}

/// As [`read_json`], but there need not be a body.
///
/// # Errors
/// Those of [`read_json`].
pub async fn read_optional_json(request: &HttpRequest, payload: web::Payload) -> Result<Option<Value>, ApiError> {
    let bytes = read(request, payload, MAX_JSON).await?;
    if bytes.is_empty() {
        return Ok(None);
    }
    must_be_json(request)?;
    parse(&bytes).map(Some)
}

fn parse(bytes: &[u8]) -> Result<Value, ApiError> {
    let value: Value = serde_json::from_slice(bytes).map_err(|error| {
        ApiError::malformed(format!("the body is not JSON: line {}, column {}", error.line(), error.column()))
    })?;
    if !value.is_object() {
        return Err(ApiError::invalid(vec![FieldError::new("", "invalid", "a JSON object is needed")]));
    }
    if let Some(pointer) = find_nul(&value) {
        return Err(ApiError::invalid(vec![FieldError::new(
            pointer,
            "invalid",
            "text must not hold the NUL character",
        )]));
    }
    Ok(value)
}

/// Reads the fields of a body.
///
/// # Errors
/// 422 with the first field that does not fit.
pub fn fields<T: DeserializeOwned>(value: Value) -> Result<T, ApiError> {
    from_json(value, "").map_err(|error| ApiError::invalid(vec![error]))
}

/// Reads a whole body of at most `limit` bytes, also when its length was not announced.
///
/// # Errors
/// 413 when it is larger, 400 when it breaks off.
pub async fn read(request: &HttpRequest, mut payload: web::Payload, limit: usize) -> Result<Bytes, ApiError> {
    let too_large =
        || ApiError::from(Problem::new(Code::PayloadTooLarge, format!("a body may have at most {limit} bytes")));
    let announced = request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > limit) {
        return Err(too_large());
    }
    let mut body = BytesMut::with_capacity(announced.unwrap_or_default());
    while let Some(chunk) = payload.next().await {
        let chunk = chunk.map_err(|_| ApiError::malformed("the body broke off"))?;
        if body.len() + chunk.len() > limit {
            return Err(too_large());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

fn must_be_json(request: &HttpRequest) -> Result<(), ApiError> {
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    let media_type = header(CONTENT_TYPE).and_then(|value| value.split(';').next()).unwrap_or_default().trim();
    let encoding = header(CONTENT_ENCODING).unwrap_or("identity").trim();
    if media_type.eq_ignore_ascii_case("application/json") && encoding.eq_ignore_ascii_case("identity") {
        return Ok(());
    }
    Err(Problem::new(Code::UnsupportedMediaType, "send `Content-Type: application/json`, not compressed").into())
}

/// Where the first NUL character is. Postgres keeps none in text.
fn find_nul(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => text.contains('\0').then(String::new),
        Value::Array(items) => {
            items.iter().enumerate().find_map(|(index, item)| Some(format!("/{index}{}", find_nul(item)?)))
        }
        Value::Object(members) => members.iter().find_map(|(name, member)| {
            if name.contains('\0') {
                return Some(String::new());
            }
            Some(format!("/{}{}", escape_pointer(name), find_nul(member)?))
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use actix_web::{
        App, FromRequest, HttpResponse,
        test::{TestRequest, call_service, init_service},
    };
    use serde_json::json;

    use super::*;

    async fn read_as(content_type: &str, body: impl Into<Bytes>) -> Result<Value, u16> {
        let (request, mut payload) =
            TestRequest::post().insert_header((CONTENT_TYPE, content_type)).set_payload(body.into()).to_http_parts();
        let payload = web::Payload::from_request(&request, &mut payload).await.unwrap();
        read_json(&request, payload).await.map_err(|error| error.problem().status)
    }

    #[actix_web::test]
    async fn what_is_not_a_json_object_has_its_own_status() {
        assert_eq!(read_as("application/json; charset=utf-8", "{\"a\":1}").await, Ok(json!({"a": 1})));
        assert_eq!(read_as("text/plain", "{}").await, Err(415));
        assert_eq!(read_as("application/json", "{").await, Err(400));
        assert_eq!(read_as("application/json", "").await, Err(400));
        assert_eq!(read_as("application/json", &b"{\"a\":\"\xff\"}"[..]).await, Err(400));
        assert_eq!(read_as("application/json", "[]").await, Err(422));
        assert_eq!(read_as("application/json", "[".repeat(100_000)).await, Err(400));
        assert_eq!(read_as("application/json", r#"{"a":["x\u0000"]}"#).await, Err(422));
    }

    #[actix_web::test]
    async fn a_body_over_the_limit_is_refused_also_without_a_length() {
        let body = format!("{{\"a\":\"{}\"}}", "x".repeat(MAX_JSON));
        assert_eq!(read_as("application/json", body).await, Err(413));
        let app =
            init_service(App::new().default_service(web::to(async |request: HttpRequest, payload: web::Payload| {
                match read(&request, payload, 10).await {
                    Ok(_) => HttpResponse::Ok().finish(),
                    Err(error) => actix_web::ResponseError::error_response(&error),
                }
            })))
            .await;
        for (length, status) in [(10, 200), (11, 413)] {
            let request = TestRequest::post().set_payload(vec![b'x'; length]).to_request();
            assert_eq!(call_service(&app, request).await.status(), status);
        }
    }

    #[test]
    fn a_nul_is_pointed_at() {
        assert_eq!(find_nul(&json!({"a": {"b/c": ["x", "\0"]}})).as_deref(), Some("/a/b~1c/1"));
        assert_eq!(find_nul(&json!({"a": "x"})), None);
    }
}
