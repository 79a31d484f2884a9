//! What happened to an export: its transitions, as a list or live (server-sent events), and its vendor exchanges.

use std::time::Duration;

use actix_web::{
    HttpRequest, HttpResponse, get,
    http::header::{ACCEPT, CACHE_CONTROL, HeaderMap, HeaderName, VARY},
    web,
};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::{Stream, stream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    Edge,
    caller::{Authorized, ExportsRead},
    export_view::{AttemptList, AttemptView, EventList, EventView},
    exports::export_id,
    problem::{Answer, ApiError},
    requests::WasHead,
    responses::{Absent, BadQuery, Denied},
};
use crate::{
    ids::ExportId,
    operations::{Caller, Error, Gateway, Watch, exports as operation},
};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// A comment is sent this often when nothing happens, so that proxies keep the connection.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Follow an export
///
/// Its transitions, oldest first. With `Accept: text/event-stream` a live stream: each event has an `id`, the name
/// `transition` and the same object as `data`; comments keep it alive; it ends after the final state, and when the
/// token expires. Reconnect with `Last-Event-ID`; when nothing can follow any more the answer is 204, which tells an
/// `EventSource` to stop.
#[utoipa::path(
    tag = "exports",
    security(("bearer" = ["exports:read"])),
    params(
        ("id" = String, Path, description = "The export's id."),
        ("Last-Event-ID" = Option<i64>, Header, minimum = 0, description = "Only events after this one."),
    ),
    responses(
        (status = 200, description = "The events.", content(
            (EventList = "application/json"),
            (String = "text/event-stream"),
        )),
        (status = 204, description = "Live stream only: the export is finished and no event follows `Last-Event-ID`."),
        BadQuery, Absent, Denied,
    ),
)]
#[get("/v1/exports/{id}/events")]
pub async fn list_events(
    caller: Authorized<ExportsRead>,
    gateway: web::Data<Gateway>,
    edge: web::Data<Edge>,
    request: HttpRequest,
    path: web::Path<String>,
) -> Answer {
    let id = export_id(&path)?;
    let after = last_event_id(request.headers())?;
    if !wants_stream(request.headers()) {
        let events = operation::list_events(&gateway, &caller, id, after).await?;
        let data = events.into_iter().map(EventView::from).collect();
        return Ok(HttpResponse::Ok()
            .insert_header((VARY, "Accept"))
            .json(EventList { data, next_page_token: String::new() }));
    }

    // Read once before the stream begins, so that a foreign export is an ordinary 404.
    let export = operation::get_export(&gateway, &caller, id).await?.export;
    let pending = operation::list_events(&gateway, &caller, id, after).await?;
    if after > 0 && export.state.is_final() && pending.is_empty() {
        return Ok(HttpResponse::NoContent().finish());
    }
    let mut answer = HttpResponse::Ok();
    answer
        .content_type("text/event-stream")
        .insert_header((VARY, "Accept"))
        .insert_header((CACHE_CONTROL, "private, no-store"))
        // Proxies must pass events on as they come.
        .insert_header(("x-accel-buffering", "no"));
    if actix_web::HttpMessage::extensions(&request).contains::<WasHead>() {
        return Ok(answer.finish());
    }
    let live = Live {
        expires_at: caller.expires_at,
        caller: caller.into_caller(),
        gateway: gateway.get_ref().clone(),
        stopping: edge.stopping.clone(),
        id,
        after,
    };
    Ok(answer.streaming(live.stream()))
}

/// List vendor exchanges
///
/// Each call to the vendor for this export, oldest first: when, what, how it was answered and what was made of it.
#[utoipa::path(
    tag = "exports",
    security(("bearer" = ["exports:read"])),
    params(("id" = String, Path, description = "The export's id.")),
    responses((status = 200, description = "The exchanges.", body = AttemptList), Absent, Denied),
)]
#[get("/v1/exports/{id}/attempts")]
pub async fn list_attempts(
    caller: Authorized<ExportsRead>,
    gateway: web::Data<Gateway>,
    path: web::Path<String>,
) -> Answer {
    let attempts = operation::list_attempts(&gateway, &caller, export_id(&path)?).await?;
    let data = attempts.into_iter().map(AttemptView::from).collect();
    Ok(HttpResponse::Ok().json(AttemptList { data, next_page_token: String::new() }))
}

/// A live stream of one export's events.
struct Live {
    gateway: Gateway,
    caller: Caller,
    expires_at: DateTime<Utc>,
    stopping: CancellationToken,
    id: ExportId,
    /// The last event sent.
    after: i64,
}

impl Live {
    fn stream(self) -> impl Stream<Item = Result<Bytes, Error>> {
        // Watching begins before the first read, so that no change falls between.
        let watch = self.gateway.hub.watch(self.id);
        stream::unfold(Some((self, watch, Instant::now())), |following| async move {
            let (mut live, mut watch, mut last_sent) = following?;
            loop {
                match live.news(&mut watch).await {
                    Err(error) => {
                        let cause: &dyn std::error::Error = &error;
                        tracing::error!(export.id = %live.id, error = cause, "a live stream broke off");
                        return Some((Err(error), None));
                    }
                    Ok((text, true)) => return (!text.is_empty()).then(|| (Ok(text.into()), None)),
                    Ok((text, false)) if !text.is_empty() => {
                        return Some((Ok(text.into()), Some((live, watch, Instant::now()))));
                    }
                    Ok(_) => {}
                }
                if Utc::now() >= live.expires_at {
                    return None;
                }
                if last_sent.elapsed() >= HEARTBEAT {
                    last_sent = Instant::now();
                    return Some((Ok(Bytes::from_static(b": still here\n\n")), Some((live, watch, last_sent))));
                }
                tokio::select! {
                    () = watch.changed() => {}
                    () = tokio::time::sleep_until(last_sent + HEARTBEAT) => {}
                    () = live.stopping.cancelled() => return None,
                }
            }
        })
    }

    /// The events since the last, as text, and whether they are the end. The state is read first: if it is final, all
    /// events are written.
    async fn news(&mut self, watch: &mut Watch) -> Result<(String, bool), Error> {
        let export = operation::get_export(&self.gateway, &self.caller, self.id).await?.export;
        watch.seen(export.version);
        let events = operation::list_events(&self.gateway, &self.caller, self.id, self.after).await?;
        let mut text = String::new();
        for event in events {
            self.after = event.seq;
            text += &as_text(&EventView::from(event));
        }
        Ok((text, export.state.is_final()))
    }
}

/// One event in the format of `text/event-stream`.
fn as_text(event: &EventView) -> String {
    // JSON without line breaks, so one data line is enough.
    let data = serde_json::to_string(event).unwrap_or_default();
    format!("id: {}\nevent: transition\ndata: {data}\n\n", event.id)
}

fn wants_stream(headers: &HeaderMap) -> bool {
    headers.get_all(ACCEPT).filter_map(|value| value.to_str().ok()).any(|list| {
        list.split(',')
            .filter_map(|item| item.split(';').next())
            .any(|media_type| media_type.trim().eq_ignore_ascii_case("text/event-stream"))
    })
}

fn last_event_id(headers: &HeaderMap) -> Result<i64, ApiError> {
    match headers.get(LAST_EVENT_ID).map(|value| value.to_str().unwrap_or("?").trim()) {
        None | Some("") => Ok(0),
        Some(text) => text
            .parse()
            .ok()
            .filter(|id| *id >= 0)
            .ok_or_else(|| ApiError::malformed("`Last-Event-ID` is the id of an event: a whole number")),
    }
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::{super::examples, *};

    fn headers(name: HeaderName, value: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_static(value));
        headers
    }

    #[test]
    fn an_event_has_id_name_and_one_line_of_data() {
        let text = as_text(&examples::event());
        insta::assert_snapshot!(text, @r#"
        id: 2
        event: transition
        data: {"id":2,"at":"2026-03-02T08:00:01Z","state":"running","phase":"submitting","detail":null}
        "#);
        assert!(text.ends_with("}\n\n"));
    }

    #[test]
    fn a_stream_is_given_only_to_those_who_ask_for_one() {
        assert!(wants_stream(&headers(ACCEPT, "text/event-stream")));
        assert!(wants_stream(&headers(ACCEPT, "application/json, Text/Event-Stream;q=0.9")));
        assert!(!wants_stream(&headers(ACCEPT, "*/*")));
    }

    #[test]
    fn the_last_event_is_a_number() {
        assert_eq!(last_event_id(&headers(LAST_EVENT_ID, "7")).unwrap(), 7);
        assert_eq!(last_event_id(&HeaderMap::new()).unwrap(), 0);
        for bad in ["-1", "x", "1.5"] {
            assert!(last_event_id(&headers(LAST_EVENT_ID, bad)).is_err(), "{bad}");
        }
    }
}
