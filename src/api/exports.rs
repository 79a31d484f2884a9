//! `/v1/exports`: submit, list, read, cancel, retry, delete.

use std::time::Duration;

use actix_web::{
    HttpRequest, HttpResponse, delete, get,
    http::header::{ETAG, HeaderMap, HeaderName, LOCATION, RETRY_AFTER, VARY},
    post, web,
};
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    Edge, body,
    caller::{Authorized, ExportsRead, ExportsWrite},
    conditions::is_current,
    export_view::{ExportList, ExportView, etag},
    paging,
    problem::{Answer, ApiError},
    query::Query,
    responses::{Absent, BadBody, BadQuery, Denied, ExportFinished, ExportUnfinished, KeyInFlight, NoLongerPossible},
};
use crate::{
    exports::{
        canonical,
        parameters::Window,
        record::ExportRecord,
        request::{Dataset, SubmitExport},
        state::State,
    },
    ids::ExportId,
    operations::{
        Gateway,
        exports::{self as operation, ExportWithFiles, Idempotency, ListExports},
    },
};

const IDEMPOTENCY_KEY: &str = "idempotency-key";
const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
/// Longest wait a caller can ask for, in seconds.
const MAX_WAIT_SECS: u64 = 60;
/// When to look again after an export was accepted, in seconds.
const FIRST_LOOK_SECS: u64 = 2;

/// What an export would do.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Plan)]
pub struct PlanView {
    /// Always true: what is not valid is answered with a problem.
    pub valid: bool,
    /// The vendor calls that start it, in order.
    pub calls: Vec<PlannedCallView>,
    /// The slices a time window is cut into; none for datasets without a window.
    pub windows: Vec<Window>,
    /// What the caller should know, in words.
    pub warnings: Vec<String>,
}

/// One vendor call of a plan. Shows no host and no credential.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PlannedCall)]
pub struct PlannedCallView {
    #[schema(example = "POST")]
    pub method: &'static str,
    #[schema(example = "/users/export/segment")]
    pub path: String,
    /// Absent when the call has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Object)]
    pub body: Option<Value>,
}

/// Submit an export
///
/// Accepts an export job and answers at once; follow it with `GET /v1/exports/{id}` or its events.
/// With an `Idempotency-Key` it is safe to send again: the same key and body answer the same export.
#[utoipa::path(
    tag = "exports",
    security(("bearer" = ["exports:write"])),
    params(
        ("validate_only" = Option<bool>, Query, description = "Only check the request and answer the plan; nothing is done."),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible ASCII characters, unique for this request. Kept as long as the export."),
    ),
    request_body = SubmitExport,
    responses(
        (status = 202, description = "Accepted, or accepted before under the same key.", body = ExportView, headers(
            ("Location" = String, description = "Where the export is."),
            ("Retry-After" = Option<u64>, description = "Seconds after which to look, unless it has finished."),
            ("Idempotency-Replayed" = Option<String>, description = "`true` when an earlier request with this key made it."),
        )),
        (status = 200, description = "With `validate_only=true`: what would be done.", body = PlanView),
        BadBody, Denied, KeyInFlight,
    ),
)]
#[post("/v1/exports")]
pub async fn submit_export(
    caller: Authorized<ExportsWrite>,
    gateway: web::Data<Gateway>,
    request: HttpRequest,
    payload: web::Payload,
) -> Answer {
    let only_validate = Query::read(&request, &["validate_only"])?.flag("validate_only")?;
    let key = idempotency_key(request.headers())?;
    let body = body::read_json(&request, payload).await?;
    let body_sha256 = canonical::sha256(&body);
    let body: SubmitExport = body::fields(body)?;

    if only_validate {
        let plan = operation::plan_export(&gateway, &caller, &body).await?;
        let calls = plan.calls.into_iter();
        return Ok(HttpResponse::Ok().json(PlanView {
            valid: true,
            calls: calls
                .map(|call| PlannedCallView { method: call.method, path: call.path, body: call.body })
                .collect(),
            windows: plan.windows,
            warnings: plan.warnings,
        }));
    }
    let idempotency = key.map(|key| Idempotency { key, body_sha256 });
    let submission = operation::submit_export(&gateway, &caller, body, idempotency).await?;
    let mut export = ExportWithFiles { export: submission.export, files: Vec::new(), queue_position: None };
    if export.export.state == State::Succeeded {
        export = operation::get_export(&gateway, &caller, export.export.export_id).await?;
    }
    let mut answer = accepted(&export.export);
    if submission.replayed {
        answer.insert_header((IDEMPOTENCY_REPLAYED, "true"));
    }
    Ok(answer.json(ExportView::new(export, Utc::now())))
}

/// List exports
///
/// Your tenant's exports, newest first. All filters must hold.
#[utoipa::path(
    tag = "exports",
    security(("bearer" = ["exports:read"])),
    params(
        ("state" = Option<State>, Query, description = "Only exports in this state."),
        ("connection" = Option<String>, Query, description = "Only exports over this connection."),
        ("dataset" = Option<Dataset>, Query, description = "Only exports of this dataset."),
        ("created_after" = Option<DateTime<Utc>>, Query, description = "Only exports created after this time (RFC 3339)."),
        ("created_before" = Option<DateTime<Utc>>, Query, description = "Only exports created before this time (RFC 3339)."),
        ("label.{key}" = Option<String>, Query, description = "Only exports whose label `key` has this value, e.g. `label.team=growth`; may be given for several keys."),
        ("page_size" = Option<i64>, Query, minimum = 1, description = "How many at most: 50 unless given; more than 200 counts as 200."),
        ("page_token" = Option<String>, Query, description = "`next_page_token` of the page before."),
    ),
    responses((status = 200, description = "One page.", body = ExportList), BadQuery, Denied),
)]
#[get("/v1/exports")]
pub async fn list_exports(
    caller: Authorized<ExportsRead>,
    gateway: web::Data<Gateway>,
    request: HttpRequest,
) -> Answer {
    let filter = list_filter(&request)?;
    let (exports, more) = operation::list_exports(&gateway, &caller, &filter).await?;
    let last = exports.last().filter(|_| more).map(|last| last.export.export_id);
    let now = Utc::now();
    Ok(HttpResponse::Ok().json(ExportList {
        data: exports.into_iter().map(|export| ExportView::new(export, now)).collect(),
        next_page_token: last.map_or_else(String::new, |last| paging::token(last.0)),
    }))
}

/// Read an export
///
/// Answers 200 in every state, also when the export failed: then `error` says why.
/// `Prefer: wait=30` holds the answer until `state` or `phase` change or the time is up.
#[utoipa::path(
    tag = "exports",
    security(("bearer" = ["exports:read"])),
    params(
        ("id" = String, Path, description = "The export's id."),
        ("Prefer" = Option<String>, Header, description = "`wait=N`: hold the answer until a change, N seconds at most; more than 60 counts as 60."),
        ("If-None-Match" = Option<String>, Header, description = "An `ETag` of before: answers 304 when nothing has changed."),
    ),
    responses(
        (status = 200, description = "The export.", body = ExportView, headers(
            ("ETag" = String, description = "Changes with the export."),
            ("Retry-After" = Option<u64>, description = "Seconds after which to look again, while it is not finished."),
            ("Preference-Applied" = Option<String>, description = "`wait=N` when that was preferred."),
        )),
        (status = 304, description = "Nothing has changed since the `ETag` of `If-None-Match`."),
        Absent, Denied,
    ),
)]
#[get("/v1/exports/{id}")]
pub async fn get_export(
    caller: Authorized<ExportsRead>,
    gateway: web::Data<Gateway>,
    edge: web::Data<Edge>,
    request: HttpRequest,
    path: web::Path<String>,
) -> Answer {
    let id = export_id(&path)?;
    let wait = preferred_wait(request.headers());
    let export = match wait {
        None => operation::get_export(&gateway, &caller, id).await?,
        Some(secs) => tokio::select! {
            export = operation::wait_for_change(&gateway, &caller, id, Duration::from_secs(secs)) => export?,
            () = edge.stopping.cancelled() => operation::get_export(&gateway, &caller, id).await?,
        },
    };
    let now = Utc::now();
    let etag = etag(&export.export, now);
    let unchanged = is_current(request.headers(), &etag);
    let mut answer = if unchanged { HttpResponse::NotModified() } else { HttpResponse::Ok() };
    answer.insert_header((ETAG, etag)).insert_header((VARY, "Prefer"));
    if let Some(secs) = wait {
        answer.insert_header((PREFERENCE_APPLIED, format!("wait={secs}")));
    }
    if !export.export.state.is_final() {
        answer.insert_header((RETRY_AFTER, retry_after_secs(&export.export, now)));
    }
    if unchanged {
        return Ok(answer.finish());
    }
    Ok(answer.json(ExportView::new(export, now)))
}

/// Cancel an export
///
/// The vendor may go on preparing; its files are not fetched. Cancelling twice is fine.
#[utoipa::path(
    tag = "exports",
    security(("bearer" = ["exports:write"])),
    params(("id" = String, Path, description = "The export's id.")),
    responses(
        (status = 202, description = "It is being stopped: `cancelling`.", body = ExportView, headers(
            ("Location" = String, description = "Where the export is."),
            ("Retry-After" = u64, description = "Seconds after which to look."),
        )),
        (status = 200, description = "It was cancelled already.", body = ExportView),
        Absent, Denied, ExportFinished,
    ),
)]
#[post("/v1/exports/{id}/cancel")]
pub async fn cancel_export(
    caller: Authorized<ExportsWrite>,
    gateway: web::Data<Gateway>,
    path: web::Path<String>,
) -> Answer {
    let export = operation::cancel_export(&gateway, &caller, export_id(&path)?).await?;
    let mut answer = if export.state == State::Cancelled { HttpResponse::Ok() } else { accepted(&export) };
    Ok(answer.json(ExportView::new(ExportWithFiles { export, files: Vec::new(), queue_position: None }, Utc::now())))
}

/// Retry an export
///
/// Submits the request of a finished export again, as a new export with `retry_of`.
#[utoipa::path(
    tag = "exports",
    security(("bearer" = ["exports:write"])),
    params(("id" = String, Path, description = "The finished export's id.")),
    responses(
        (status = 202, description = "The new export.", body = ExportView, headers(
            ("Location" = String, description = "Where the new export is."),
            ("Retry-After" = u64, description = "Seconds after which to look."),
        )),
        Absent, Denied, ExportUnfinished, NoLongerPossible,
    ),
)]
#[post("/v1/exports/{id}/retry")]
pub async fn retry_export(
    caller: Authorized<ExportsWrite>,
    gateway: web::Data<Gateway>,
    path: web::Path<String>,
) -> Answer {
    let export = operation::retry_export(&gateway, &caller, export_id(&path)?).await?;
    Ok(accepted(&export)
        .json(ExportView::new(ExportWithFiles { export, files: Vec::new(), queue_position: None }, Utc::now())))
}

/// Delete an export's files
///
/// Purges the result files of a finished export; the export itself stays readable, with
/// `result.availability` = `deleted`. Deleting twice is fine.
#[utoipa::path(
    tag = "exports",
    security(("bearer" = ["exports:write"])),
    params(("id" = String, Path, description = "The finished export's id.")),
    responses((status = 204, description = "The files are gone."), Absent, Denied, ExportUnfinished),
)]
#[delete("/v1/exports/{id}")]
pub async fn delete_export(
    caller: Authorized<ExportsWrite>,
    gateway: web::Data<Gateway>,
    path: web::Path<String>,
) -> Answer {
    operation::delete_export(&gateway, &caller, export_id(&path)?).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// The id in a path. What is no id names nothing.
pub fn export_id(text: &str) -> Result<ExportId, ApiError> {
    text.parse().map_err(|_| ApiError::not_found("export"))
}

fn accepted(export: &ExportRecord) -> actix_web::HttpResponseBuilder {
    let mut answer = HttpResponse::Accepted();
    answer.insert_header((LOCATION, format!("/v1/exports/{}", export.export_id)));
    // Replayed under its idempotency key, it may have finished long ago.
    if !export.state.is_final() {
        answer.insert_header((RETRY_AFTER, FIRST_LOOK_SECS));
    }
    answer
}

/// An eighth of the export's age: a slow export is looked at rarely, and its end is noticed at most an eighth late.
fn retry_after_secs(export: &ExportRecord, now: DateTime<Utc>) -> i64 {
    ((now - export.created_at).num_seconds() / 8).clamp(1, 30)
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let mut keys = headers.get_all(IDEMPOTENCY_KEY);
    let Some(key) = keys.next() else { return Ok(None) };
    let key = key.to_str().unwrap_or_default();
    let is_plain = (1..=255).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_plain || keys.next().is_some() {
        return Err(ApiError::malformed("one `Idempotency-Key` of 1 to 255 visible ASCII characters is possible"));
    }
    Ok(Some(key.to_owned()))
}

/// The seconds of `Prefer: wait=N` (RFC 7240), at most [`MAX_WAIT_SECS`]. What cannot be read is ignored, as that RFC wants it.
fn preferred_wait(headers: &HeaderMap) -> Option<u64> {
    headers
        .get_all("prefer")
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split([',', ';']))
        .filter_map(|preference| preference.split_once('='))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("wait"))
        .and_then(|(_, secs)| secs.trim().trim_matches('"').parse::<u64>().ok())
        .map(|secs| secs.min(MAX_WAIT_SECS))
}

fn list_filter(request: &HttpRequest) -> Result<ListExports, ApiError> {
    let query = Query::read(
        request,
        &["state", "connection", "dataset", "created_after", "created_before", "label.", "page_size", "page_token"],
    )?;
    Ok(ListExports {
        state: query.choice("state")?,
        connection: query.text("connection").map(str::to_owned),
        dataset: query.choice("dataset")?,
        created_after: query.time("created_after")?,
        created_before: query.time("created_before")?,
        labels: query.with_prefix("label."),
        before: paging::before(&query)?.map(ExportId),
        page_size: paging::size(&query)?,
    })
}

#[cfg(test)]
mod tests {
    use actix_web::{http::header::HeaderValue, test::TestRequest};

    use super::*;

    fn headers(name: &'static str, values: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers
    }

    fn filter(query: &str) -> Result<ListExports, u16> {
        let request = TestRequest::with_uri(&format!("/v1/exports?{query}")).to_http_request();
        list_filter(&request).map_err(|error| error.problem().status)
    }

    #[test]
    fn a_page_token_reads_back_and_any_other_text_is_malformed() {
        let id = ExportId::new();
        assert_eq!(filter(&format!("page_token={}", paging::token(id.0))).unwrap().before, Some(id));
        for bad in ["x", "AAAA", &id.to_string()] {
            assert_eq!(filter(&format!("page_token={bad}")).unwrap_err(), 400, "{bad}");
        }
    }

    #[test]
    fn pages_have_50_exports_unless_asked_and_200_at_most() {
        assert_eq!(filter("").unwrap().page_size, 50);
        assert_eq!(filter("page_size=1000").unwrap().page_size, 200);
        for bad in ["page_size=0", "page_size=-1", "page_size=ten"] {
            assert_eq!(filter(bad).unwrap_err(), 400, "{bad}");
        }
    }

    #[test]
    fn filters_are_read_and_typos_are_refused() {
        let filter_ok = filter("state=failed&label.team=growth&label.x=1&connection=c").unwrap();
        assert_eq!((filter_ok.state, filter_ok.labels.len()), (Some(State::Failed), 2));
        for bad in ["status=failed", "state=done", "dataset=x", "created_after=now"] {
            assert_eq!(filter(bad).unwrap_err(), 400, "{bad}");
        }
    }

    #[test]
    fn a_wait_is_at_most_a_minute_and_nonsense_is_ignored() {
        let wait = |values| preferred_wait(&headers("prefer", values));
        assert_eq!(wait(&["wait=30"]), Some(30));
        assert_eq!(wait(&["respond-async, wait=100"]), Some(60));
        assert_eq!(wait(&["respond-async", "Wait=\"5\""]), Some(5));
        for ignored in [&["wait"][..], &["wait=-1"], &["wait=x"], &["waits=3"], &[]] {
            assert_eq!(wait(ignored), None, "{ignored:?}");
        }
    }

    #[test]
    fn an_idempotency_key_is_1_to_255_visible_characters() {
        let key = |values| idempotency_key(&headers(IDEMPOTENCY_KEY, values)).map_err(|error| error.problem().status);
        assert_eq!(key(&["a-1"]), Ok(Some("a-1".into())));
        assert_eq!(key(&[]), Ok(None));
        for bad in [&[""][..], &["a b"], &["a", "b"]] {
            assert_eq!(key(bad), Err(400), "{bad:?}");
        }
        let long = HeaderValue::from_bytes(&[b'x'; 256]).unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(HeaderName::from_static(IDEMPOTENCY_KEY), long);
        assert!(idempotency_key(&headers).is_err());
    }
}
