//! The users of a segment.
//! The exporter is asked first, which is told what variables to put into the file and gives a signed link. Where it is
//! not switched on its address is unknown, and `users.csv`, which holds every variable, is got in the same poll.
//! Start at [`poll`]; what is asked for is in [`ask`](mod@ask), the files are read in [`rows`].

mod ask;
mod rows;

use std::sync::Arc;

use serde_json::Value;

use self::{ask::Ask, rows::UserFiles};
use super::{
    api::{Api, json},
    no_plan, not_supported,
    statistics::{Body, Get, Status, data, is_absent, malformed, not_found, parsed, path_part, separator},
};
use crate::{
    exports::{
        parameters::{AudienceKind, Parameters},
        problem::FieldError,
        records::Records,
        request::ExportRequest,
    },
    vendors::{Exchanges, Inquiry, Plan, Progress, VendorError, VendorFile, Work, http::decided},
};

/// The only part of an export of users.
const PART: &str = "users";
/// What files of the exporter are called, as [`VendorFile::tag`].
pub const EXPORTED: &str = "exported";
/// Lifetime asked for on links, in minutes; the vendor gives 5 unless asked, and never prolongs one it gave. A day
/// leaves time for a file to be fetched again. Source: `api/statistics-api-v3/definition/get-segmentations.md`.
const LINK_MINUTES: u32 = 24 * 60;

/// What would be asked for: the parts, and the calls they stand for.
///
/// # Errors
/// Fields that cannot be served, with pointers into the request body.
pub fn parts(api: &Api, request: &ExportRequest) -> Result<Plan, Vec<FieldError>> {
    let Parameters::AudienceMembers { refresh, .. } = &request.parameters else { return Err(not_supported()) };
    if *refresh {
        let detail = "GrowingIO computes its segments on its own; only CDP can be asked to";
        return Err(vec![FieldError::new("/parameters/refresh", "not_supported", detail)]);
    }
    let ask = ask(api, request);
    let calls = vec![exporter(api, &segment(request)?, &ask).planned()];
    Ok(Plan { calls, work: Work::Parts(vec![PART.to_owned()]), windows: Vec::new(), warnings: ask.warnings })
}

/// Asks for one part.
///
/// # Errors
/// What the calls fail with.
pub async fn poll(
    api: &Api,
    request: &ExportRequest,
    _part: &str,
    _inquiry: &Inquiry<'_>,
    exchanges: &Exchanges,
) -> Result<Progress, VendorError> {
    let segment = segment(request).map_err(|_| no_plan())?;
    let get = exporter(api, &segment, &ask(api, request));
    match api.get("poll", &get.path, &get.query, exchanges).await {
        Ok(answer) => {
            let progress = json(&answer).and_then(|answer| exported(&answer));
            return decided(exchanges, progress, |progress| match progress {
                Progress::Ready(files) => format!("ready, files: {}", files.len()),
                Progress::Preparing { status, .. } => format!("preparing, status {status}"),
                Progress::Data(_) | Progress::NextStage(_) => "went on".into(),
            });
        }
        Err(error) if is_absent(&error) => exchanges.decide("not at the exporter; asking for users.csv"),
        Err(error) => return Err(error),
    }
    let path = format!("/projects/{}/segmentations/{segment}/users.csv", api.project());
    let users = Get::new(path).open(api, Body::Text, exchanges).await;
    let users = users
        .map_err(|error| if is_absent(&error) { not_found("GrowingIO has no such segment") } else { error })
        .map(|users| {
            let tag = separator(&users);
            data(users, "csv", tag)
        });
    decided(exchanges, users, |_| "the users came with the answer".into())
}

/// Whether the segment exists. The list of segments is the only way to know beforehand; where it cannot be had, the
/// export finds out.
///
/// # Errors
/// `vendor_data_not_found` when the list does not have it.
pub async fn verify(api: &Api, request: &ExportRequest, exchanges: &Exchanges) -> Result<(), VendorError> {
    let Parameters::AudienceMembers { audience, .. } = &request.parameters else { return Ok(()) };
    let list = Get::new(format!("/projects/{}/segmentations.json", api.project()));
    let Ok(list) = list.list("verify", api, Body::Array, exchanges).await else { return Ok(()) };
    let Ok(Value::Array(segments)) = parsed(&list) else { return Ok(()) };
    let is_it = |segment: &Value| match segment.get("id") {
        Some(Value::String(id)) => Some(id) == audience.id.as_ref(),
        Some(id) => Some(id.to_string()) == audience.id,
        None => false,
    };
    let found =
        if segments.iter().any(is_it) { Ok(()) } else { Err(not_found("GrowingIO has no such segment in its list")) };
    decided(exchanges, found, |()| "the segment exists".into())
}

/// How the records of the request are read.
pub fn records(api: &Api, request: &ExportRequest) -> Arc<dyn Records> {
    Arc::new(UserFiles::new(request.parameters.selection(), ask(api, request), api.values().clone()))
}

fn ask(api: &Api, request: &ExportRequest) -> Ask {
    Ask::new(&request.parameters.selection(), api.mapping())
}

/// The segment's id as a part of paths.
fn segment(request: &ExportRequest) -> Result<String, Vec<FieldError>> {
    let Parameters::AudienceMembers { audience, .. } = &request.parameters else { return Err(not_supported()) };
    let pointer = "/parameters/audience";
    match (audience.kind, audience.id.as_deref()) {
        (AudienceKind::Segment, Some(id)) => path_part(id, &format!("{pointer}/id")).map_err(|error| vec![error]),
        (AudienceKind::Segment, None) => {
            Err(vec![FieldError::new(format!("{pointer}/id"), "required", "the id of a segment")])
        }
        _ => {
            let detail = "GrowingIO exports audiences of kind `segment`";
            Err(vec![FieldError::new(format!("{pointer}/kind"), "not_supported", detail)])
        }
    }
}

/// The same call every time: the exporter knows an export by it.
fn exporter(api: &Api, segment: &str, ask: &Ask) -> Get {
    let parameters = (!ask.parameters.is_empty()).then(|| ask.parameters.join(","));
    Get {
        path: format!("/v3/exporter/projects/{}/segmentations/{segment}/users", api.project()),
        query: vec![("expire", Some(LINK_MINUTES.to_string())), ("parameters", parameters)],
    }
}

/// What the exporter says of the segment's file. An empty list of links is an empty segment.
fn exported(answer: &Value) -> Result<Progress, VendorError> {
    let status = Status::of(answer, "the users of the segment")?;
    if status != Status::Done {
        return status.preparing();
    }
    let Some(Value::Array(links)) = answer.get("downloadLinks") else { return status.preparing() };
    let file = |link: &Value| {
        let link = link.as_str().filter(|link| !link.is_empty())?;
        Some(VendorFile { locator: link.to_owned().into(), extension: "csv".into(), tag: EXPORTED.into() })
    };
    let files = links.iter().map(file).collect::<Option<Vec<_>>>();
    files.map(Progress::Ready).ok_or_else(|| malformed("GrowingIO's download links are not text".into()))
}

#[cfg(test)]
mod tests;
