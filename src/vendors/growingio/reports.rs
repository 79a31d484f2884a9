//! Saved charts, funnels, retentions and frequencies.
//! The exporter is asked first: it repeats `doing` until the result comes with the answer, and that answer is the one
//! that is read. Where it is not switched on its addresses are unknown, and the interfaces that answer at once are
//! asked in the same poll; they give up after five seconds, so they are the second choice.
//! Start at [`poll`]; what an answer means is in [`rows`].

mod rows;

use std::sync::Arc;

use self::rows::{Form, ReportRows, interval_ms};
use super::{
    api::Api,
    no_plan, not_supported,
    statistics::{Body, Get, Status, data, is_absent, not_found, parsed, path_part},
};
use crate::{
    exports::{
        parameters::{Interval, Parameters, Report, ReportKind},
        problem::FieldError,
        records::Records,
        request::ExportRequest,
    },
    vendors::{
        Exchanges, Inquiry, Plan, Progress, VendorError, Work,
        http::{Peeked, decided},
    },
};

/// The only part of a report.
const PART: &str = "report";
const SPLITS: [&str; 3] = ["10", "15", "25"];
const STATISTICS: [&str; 6] = ["max", "min", "avg", "median", "0.25", "0.75"];

/// Where one report can be had.
struct Calls {
    exporter: Get,
    /// The interfaces that answer at once, the newest first.
    at_once: Vec<(Get, Form)>,
}

/// What would be asked for: the parts, and the calls they stand for.
///
/// # Errors
/// Fields that cannot be served, with pointers into the request body.
pub fn parts(api: &Api, request: &ExportRequest) -> Result<Plan, Vec<FieldError>> {
    let Parameters::Report(report) = &request.parameters else { return Err(not_supported()) };
    let calls = Calls::new(api, report)?;
    let mut warnings = Vec::new();
    if report.interval == Some(Interval::Hour) {
        warnings.push("by the hour, ratios such as bounce rate and average visit length may come as 0".into());
    }
    Ok(Plan {
        calls: vec![calls.exporter.planned()],
        work: Work::Parts(vec![PART.to_owned()]),
        windows: Vec::new(),
        warnings,
    })
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
    let Parameters::Report(report) = &request.parameters else { return Err(no_plan()) };
    let calls = Calls::new(api, report).map_err(|_| no_plan())?;
    match calls.exporter.open(api, Body::Object, exchanges).await {
        Ok(answer) => return decided(exchanges, exported(answer, report.report.kind), note),
        Err(error) if is_absent(&error) => exchanges.decide("not at the exporter; asking where answers come at once"),
        Err(error) => return Err(error),
    }
    for (get, form) in &calls.at_once {
        match get.open(api, Body::Object, exchanges).await {
            Ok(answer) => return decided(exchanges, at_once(answer, *form, report.report.kind), note),
            Err(error) if is_absent(&error) => exchanges.decide("not here"),
            Err(error) => return Err(error),
        }
    }
    Err(not_found(absent(report)))
}

/// How the records of the request are read.
pub fn records(_api: &Api, request: &ExportRequest) -> Arc<dyn Records> {
    let Parameters::Report(report) = &request.parameters else { return Arc::new(ReportRows::new(None)) };
    Arc::new(ReportRows::new(report.interval))
}

/// An answer of the exporter that is longer than its status ever is can only be the result.
fn exported(answer: Peeked, kind: ReportKind) -> Result<Progress, VendorError> {
    if answer.is_whole {
        let document = parsed(&answer)?;
        if document.get("data").is_none() && document.get("meta").is_none() {
            return Status::of(&document, &format!("the {}", kind.as_str()))?.preparing();
        }
    }
    Ok(data(answer, "json", Form::Later.tag()))
}

fn at_once(answer: Peeked, form: Form, kind: ReportKind) -> Result<Progress, VendorError> {
    if answer.is_whole {
        let document = parsed(&answer)?;
        if document.get("data").is_none() {
            Status::of(&document, &format!("the {}", kind.as_str()))?;
            let message = "GrowingIO answered a report without `data`";
            return Err(super::statistics::malformed(message.into()));
        }
    }
    Ok(data(answer, "json", form.tag()))
}

fn note(progress: &Progress) -> String {
    match progress {
        Progress::Preparing { status, .. } => format!("preparing, status {status}"),
        _ => "the result came with the answer".into(),
    }
}

fn absent(report: &Report) -> String {
    let kind = report.report.kind.as_str();
    match report.report.kind {
        ReportKind::Frequency => {
            format!("GrowingIO has no such {kind}, or its exporter, which alone has frequencies, is not switched on")
        }
        ReportKind::Chart if report.window.is_none() => format!(
            "GrowingIO has no such {kind}; the oldest interface for charts was not asked, since it needs a `window`"
        ),
        _ => format!("GrowingIO has no such {kind}"),
    }
}

impl Calls {
    /// The calls for a report; each of `endTime` is the last millisecond of the half-open window, as in the documents'
    /// samples, whose `endTime` ends in 999.
    fn new(api: &Api, report: &Report) -> Result<Self, Vec<FieldError>> {
        let mut errors = Vec::new();
        let mut query = own_parameters(report, &mut errors);
        if let Some(window) = report.window {
            let start = window.from.timestamp_millis();
            let end = (window.to.timestamp_millis() - 1).max(start);
            query.extend([("startTime", Some(start.to_string())), ("endTime", Some(end.to_string()))]);
        }
        let id = path_part(&report.report.id, "/parameters/report/id").map_err(|error| errors.push(error)).ok();
        let Some(id) = id.filter(|_| errors.is_empty()) else { return Err(errors) };
        let list = match report.report.kind {
            ReportKind::Chart => "charts",
            ReportKind::Funnel => "funnels",
            ReportKind::Retention => "retentions",
            ReportKind::Frequency => "frequencies",
        };
        let path = format!("/projects/{}/{list}/{id}", api.project());
        let get = |path: String| Get { path, query: query.clone() };
        let mut at_once = Vec::new();
        if report.report.kind != ReportKind::Frequency {
            at_once.push((get(format!("/v2{path}.json")), Form::Later));
        }
        if report.report.kind == ReportKind::Chart && report.window.is_some() {
            at_once.push((get(format!("{path}.json")), Form::First));
        }
        Ok(Self { exporter: get(format!("/v3/exporter{path}")), at_once })
    }
}

/// What only this kind of report can be asked for; the rest is refused.
fn own_parameters(report: &Report, errors: &mut Vec<FieldError>) -> Vec<(&'static str, Option<String>)> {
    let (target, kind) = (&report.report, report.report.kind);
    let mut refuse = |pointer: &str, code: &str, detail: &str| errors.push(FieldError::new(pointer, code, detail));
    let mut query = Vec::new();
    if let Some(interval) = report.interval {
        let pointer = "/parameters/interval";
        match (kind, interval) {
            (ReportKind::Chart, _) => query.push(("interval", Some(interval_ms(interval).to_string()))),
            // All that funnels come in, so there is nothing to ask for.
            (ReportKind::Funnel, Interval::Day) => {}
            (ReportKind::Funnel, _) => refuse(pointer, "not_supported", "`day`: the figures of a funnel are by day"),
            (_, Interval::Hour) => {
                refuse(pointer, "not_supported", "`day`, `week` or `month`: this kind of report has no hours");
            }
            (ReportKind::Retention, _) => query.push(("range", Some(interval.as_str().to_owned()))),
            (ReportKind::Frequency, _) => query.push(("interval", Some(interval.as_str().to_owned()))),
        }
    }
    if let Some(days) = target.conversion_window_days {
        let pointer = "/parameters/report/conversion_window_days";
        match kind {
            ReportKind::Funnel if days > 0 => query.push(("conversionWindow", Some(days.to_string()))),
            ReportKind::Funnel => refuse(pointer, "invalid", "at least 1 day"),
            _ => refuse(pointer, "not_allowed", "only a funnel has a conversion window"),
        }
    }
    if let Some(split) = &target.split {
        let pointer = "/parameters/report/split";
        match kind {
            ReportKind::Frequency if is_split(split) => query.push(("split", Some(split.clone()))),
            ReportKind::Frequency => refuse(pointer, "invalid", "`10`, `15`, `25`, or limits such as `[1,5,10]`"),
            _ => refuse(pointer, "not_allowed", "only a frequency is split"),
        }
    }
    if let Some(statistic) = &target.statistic {
        let pointer = "/parameters/report/statistic";
        match kind {
            ReportKind::Frequency if STATISTICS.contains(&statistic.as_str()) => {
                query.push(("statistic", Some(statistic.clone())));
            }
            ReportKind::Frequency => refuse(pointer, "invalid", "`max`, `min`, `avg`, `median`, `0.25` or `0.75`"),
            _ => refuse(pointer, "not_allowed", "only a frequency has a statistic"),
        }
    }
    query
}

fn is_split(text: &str) -> bool {
    let limits = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    SPLITS.contains(&text)
        || limits.is_some_and(|limits| limits.split(',').all(|limit| limit.trim().parse::<u32>().is_ok()))
}

#[cfg(test)]
mod tests;
