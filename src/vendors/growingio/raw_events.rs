//! Raw data: the files that GrowingIO makes of each hour and day by itself. A call names a slice and gives its state
//! and, once it is there, signed links to its files; nothing is begun and nothing can be cancelled.
//! Slices are in [`slices`], what an answer means in [`answer`], the tables in [`tables`](mod@tables), their rows in [`rows`].
//! Source: `api/originaldata-export-v2/`, `api/originaldata-export-v1/`.

mod answer;
mod rows;
mod slices;
mod tables;

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};

use self::{rows::RawRows, slices::Slice, tables::Table};
use super::{api::Api, no_plan, not_supported, settings::RawData};
use crate::{
    exports::{
        parameters::{self, Parameters, Window},
        problem::FieldError,
        records::Records,
        request::{ExportRequest, Format},
    },
    vendors::{Exchanges, Inquiry, Plan, PlannedCall, Progress, VendorError, Work, http::decided},
};

/// Lifetime asked for on links, in minutes; GrowingIO gives 5 unless asked, at most 7 days. Links are asked for again
/// where they did not last. Source: parameter `expire` in `api/originaldata-export-v2/definition/eventtype.md`.
const LINK_MINUTES: u32 = 120;

/// How far the clock of a caller who asks up to "now" may be ahead of ours.
const CLOCKS_DIFFER: TimeDelta = TimeDelta::minutes(1);

/// The table with no receipt times.
const CLICKS: &str = "ads_track_click";

/// What is asked for in one call: a slice of one table, or of all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    slice: Slice,
    table: Option<&'static Table>,
}

impl Part {
    /// `hour:2018070100` or `hour:page:2018070100`.
    fn name(self) -> String {
        let (granularity, date) = (self.slice.granularity_name(), self.slice.date());
        self.table
            .map_or_else(|| format!("{granularity}:{date}"), |table| format!("{granularity}:{}:{date}", table.name))
    }

    fn parse(name: &str) -> Option<Self> {
        let (granularity, rest) = name.split_once(':')?;
        let (table, date) = match rest.split_once(':') {
            Some((table, date)) => (Some(Table::named(table)?), date),
            None => (None, rest),
        };
        Some(Self { slice: Slice::parse(granularity, date)?, table })
    }

    fn path(self, api: &Api) -> String {
        let (granularity, date, ai) = (self.slice.granularity_name(), self.slice.date(), api.ai());
        match (api.raw_data(), self.table) {
            (RawData::V1, _) => format!("/insights/{ai}/{date}.json"),
            (RawData::V2, None) => format!("/v2/insights/{granularity}/{ai}/{date}.json"),
            (RawData::V2, Some(table)) => format!("/v2/insights/{granularity}/{}/{ai}/{date}.json", table.name),
        }
    }
}

/// What would be asked for: the parts, and the calls they stand for.
///
/// # Errors
/// Fields that cannot be served, with pointers into the request body.
pub fn parts(api: &Api, request: &ExportRequest) -> Result<Plan, Vec<FieldError>> {
    let Parameters::RawEvents(wanted) = &request.parameters else { return Err(not_supported()) };
    plan(api, request, wanted, Utc::now())
}

fn plan(
    api: &Api,
    request: &ExportRequest,
    wanted: &parameters::RawEvents,
    now: DateTime<Utc>,
) -> Result<Plan, Vec<FieldError>> {
    let mut errors = window_errors(wanted, now);
    let tables = tables(api, &wanted.event_types).map_err(|more| errors.extend(more)).unwrap_or_default();
    if !errors.is_empty() {
        return Err(errors);
    }
    // Raw data v1 has no form for one table.
    let typed = api.raw_data() == RawData::V2 && !tables.is_empty();
    let parts: Vec<_> = Slice::covering(wanted.granularity, wanted.window)
        .flat_map(|slice| {
            let all = (!typed).then_some(Part { slice, table: None });
            let each = tables.iter().filter(move |_| typed).map(move |table| Part { slice, table: Some(*table) });
            all.into_iter().chain(each)
        })
        .collect();
    let call = |part: &Part| PlannedCall { method: "GET", path: part.path(api), body: None };
    Ok(Plan {
        calls: parts.iter().map(call).collect(),
        work: Work::Parts(parts.iter().map(|part| part.name()).collect()),
        windows: Slice::covering(wanted.granularity, wanted.window)
            .map(|slice| Window { from: slice.start(), to: slice.end() })
            .collect(),
        warnings: warnings(api, request, wanted, now),
    })
}

/// Days are kept fifteen days, whole ones by the vendor's clock.
fn window_errors(wanted: &parameters::RawEvents, now: DateTime<Utc>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let first = Slice::at(wanted.granularity, wanted.window.from);
    if first.start() < slices::oldest(now) {
        let detail = format!("GrowingIO keeps raw data for {} days", slices::RETENTION_DAYS);
        errors.push(FieldError::new("/parameters/window/from", "invalid", detail));
    }
    if wanted.window.to > now + CLOCKS_DIFFER {
        errors.push(FieldError::new("/parameters/window/to", "invalid", "it lies in the future"));
    }
    errors
}

/// The tables that are asked for by name; none for all.
fn tables(api: &Api, event_types: &[String]) -> Result<Vec<&'static Table>, Vec<FieldError>> {
    let offered = |table: &&Table| api.raw_data() == RawData::V2 || table.in_v1;
    let mut errors = Vec::new();
    let mut tables = Vec::new();
    for (index, event_type) in event_types.iter().enumerate() {
        if let Some(table) = Table::named(event_type).filter(offered) {
            tables.push(table);
        } else {
            let known: Vec<_> = tables::TABLES.iter().filter(offered).map(|table| table.name).collect();
            let pointer = format!("/parameters/event_types/{index}");
            errors.push(FieldError::new(pointer, "invalid", format!("one of {}", known.join(", "))));
        }
    }
    if errors.is_empty() { Ok(tables) } else { Err(errors) }
}

fn warnings(api: &Api, request: &ExportRequest, wanted: &parameters::RawEvents, now: DateTime<Utc>) -> Vec<String> {
    let mut warnings = Vec::new();
    let (first, last) = (Slice::at(wanted.granularity, wanted.window.from), Slice::last(wanted));
    let unit = first.granularity_name();
    if first.start() != wanted.window.from || last.end() != wanted.window.to {
        let clicks = wanted.event_types.is_empty() || wanted.event_types.iter().any(|name| name == CLICKS);
        warnings.push(if request.output.format == Format::Raw {
            format!("the window does not begin and end with {unit}s of Beijing time; the files of whole {unit}s come")
        } else {
            let exception = if clicks { " Clicks on ads have no such time: all of them come." } else { "" };
            format!(
                "the window does not begin and end with {unit}s of Beijing time; whole {unit}s are fetched, and events \
                 that GrowingIO received outside of the window are left out.{exception}"
            )
        });
    }
    if api.raw_data() == RawData::V1 && request.output.format == Format::Raw && !wanted.event_types.is_empty() {
        warnings.push("raw data v1 comes with all types in one list; with `raw` the files of all of them come".into());
    }
    if last.end() > now {
        let end = last.expected().to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
        warnings.push(format!("the last {unit} has not ended yet; its files are there about {end}"));
    }
    warnings
}

/// Asks for the files of one slice.
///
/// # Errors
/// What the call fails with, and what its answer says.
pub async fn poll(
    api: &Api,
    _request: &ExportRequest,
    part: &str,
    inquiry: &Inquiry<'_>,
    exchanges: &Exchanges,
) -> Result<Progress, VendorError> {
    let part = Part::parse(part).ok_or_else(no_plan)?;
    let query = [("expire", Some(LINK_MINUTES.to_string()))];
    let answer = api.get_large("poll", &part.path(api), &query, exchanges).await?;
    decided(exchanges, answer::progress(&answer, part, inquiry.now), |progress| match progress {
        Progress::Ready(files) => format!("ready, files: {}", files.len()),
        Progress::Preparing { status, .. } => format!("preparing, status {status}"),
        Progress::Data(_) | Progress::NextStage(_) => "went on".into(),
    })
}

/// How the records of the request are read.
pub fn records(api: &Api, request: &ExportRequest) -> Arc<dyn Records> {
    let Parameters::RawEvents(wanted) = &request.parameters else {
        return Arc::new(RawRows::new(api.raw_data(), Vec::new(), i64::MIN..i64::MAX));
    };
    let (first, last) = (Slice::at(wanted.granularity, wanted.window.from), Slice::last(wanted));
    // A border that is a slice's own is kept by the vendor: what it put into the slice belongs to it.
    let from = if first.start() == wanted.window.from { i64::MIN } else { millis_from(wanted.window.from) };
    let to = if last.end() == wanted.window.to { i64::MAX } else { millis_from(wanted.window.to) };
    Arc::new(RawRows::new(api.raw_data(), wanted.event_types.clone(), from..to))
}

/// The first whole millisecond that is not before `time`.
fn millis_from(time: DateTime<Utc>) -> i64 {
    time.timestamp_millis() + i64::from(!time.timestamp_subsec_nanos().is_multiple_of(1_000_000))
}

#[cfg(test)]
mod tests;
