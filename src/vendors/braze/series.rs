//! Figures over time: which endpoint has a metric, and how a window is cut into calls.
//! A call names its last point and how many points lie before it. Braze does not say whether either end counts, so each
//! call asks for one more point than its part has, and a part keeps only the points that begin in it: neighbouring calls
//! overlap, the parts do not. How points become rows is in [`series_rows`](super::series_rows).
//! Sources: `_docs/_api/endpoints/export/{kpi,sessions,custom_events,purchases,segments,campaigns,canvas}/`.

use chrono::{DateTime, DurationRound, TimeDelta, Utc};

use super::{
    api::{Api, Ask, Endpoint, Pool, Query, shown},
    times::{seconds, window},
};
use crate::exports::{
    parameters::{Interval, Metric, MetricSeries, Window},
    problem::{Code, FieldError},
};
use crate::vendors::{Exchanges, Next, PlannedCall, Progress, VendorData, VendorError};

/// The most points one call gives; of a canvas, and of a send, whose figures are kept no longer.
const MAX_LENGTH: i32 = 100;
const MAX_DAYS: i32 = 14;

/// A series of one endpoint.
#[derive(Debug, Clone, Copy)]
pub struct Series {
    pub endpoint: Endpoint,
    /// The members of `subject` that it takes.
    takes: &'static [&'static str],
    has_hours: bool,
    /// The largest `length`.
    max_length: i32,
    /// The member of a point that is its figure; none where there are many.
    pub figure: Option<&'static str>,
    /// Where an answer has its points.
    pub points: &'static [&'static str],
}

/// What Braze has of a metric.
pub const fn of(metric: Metric) -> Series {
    const fn series(path: &'static str, permission: &'static str, takes: &'static [&'static str]) -> Series {
        let endpoint = Endpoint { path, permission, pool: Pool::Default };
        Series { endpoint, takes, has_hours: false, max_length: MAX_LENGTH, figure: None, points: &["data"] }
    }
    const fn simple(series: Series, figure: &'static str, has_hours: bool) -> Series {
        Series { figure: Some(figure), has_hours, ..series }
    }
    const fn within(series: Series, pool: Pool) -> Series {
        Series { endpoint: Endpoint { pool, ..series.endpoint }, ..series }
    }
    match metric {
        Metric::Dau => simple(series("/kpi/dau/data_series", "kpi.dau.data_series", &["app_id"]), "dau", false),
        Metric::Mau => simple(series("/kpi/mau/data_series", "kpi.mau.data_series", &["app_id"]), "mau", false),
        Metric::NewUsers => {
            let new_users = series("/kpi/new_users/data_series", "kpi.new_users.data_series", &["app_id"]);
            simple(new_users, "new_users", false)
        }
        Metric::Uninstalls => {
            let uninstalls = series("/kpi/uninstalls/data_series", "kpi.uninstalls.data_series", &["app_id"]);
            simple(uninstalls, "uninstalls", false)
        }
        Metric::Sessions => {
            let sessions = series("/sessions/data_series", "sessions.data_series", &["app_id", "segment_id"]);
            simple(sessions, "sessions", true)
        }
        Metric::CustomEvent => {
            let events = series("/events/data_series", "events.data_series", &["app_id", "event", "segment_id"]);
            simple(events, "count", true)
        }
        Metric::PurchaseQuantity => {
            let quantity = series("/purchases/quantity_series", "purchases.quantity_series", &["app_id", "product"]);
            within(simple(quantity, "purchase_quantity", true), Pool::Names)
        }
        Metric::PurchaseRevenue => {
            let revenue = series("/purchases/revenue_series", "purchases.revenue_series", &["app_id", "product"]);
            within(simple(revenue, "revenue", true), Pool::Names)
        }
        Metric::SegmentSize => {
            simple(series("/segments/data_series", "segments.data_series", &["segment_id"]), "size", false)
        }
        Metric::Campaign => {
            within(series("/campaigns/data_series", "campaigns.data_series", &["campaign_id"]), Pool::CampaignSeries)
        }
        Metric::Send => Series {
            max_length: MAX_DAYS,
            ..series("/sends/data_series", "sends.data_series", &["campaign_id", "send_id"])
        },
        Metric::Canvas => Series {
            max_length: MAX_DAYS,
            points: &["data", "stats"],
            ..series("/canvas/data_series", "canvas.data_series", &["canvas_id"])
        },
    }
}

/// What stands for one point.
pub fn interval(request: &MetricSeries) -> Interval {
    request.interval.unwrap_or(Interval::Day)
}

fn unit(request: &MetricSeries) -> TimeDelta {
    if interval(request) == Interval::Hour { TimeDelta::hours(1) } else { TimeDelta::days(1) }
}

/// What of a request Braze does not have.
///
/// # Errors
/// The fields.
pub fn check(request: &MetricSeries, now: DateTime<Utc>) -> Result<(), Vec<FieldError>> {
    let series = of(request.metric);
    let mut errors = Vec::new();
    let intervals = if series.has_hours { "`hour` and `day`" } else { "`day`" };
    match interval(request) {
        Interval::Day => {}
        Interval::Hour if series.has_hours => {}
        _ => {
            let detail = format!("Braze has `{}` by {intervals} only", request.metric.as_str());
            errors.push(FieldError::new("/parameters/interval", "not_supported", detail));
        }
    }
    for name in request.subject.members().into_keys() {
        if !series.takes.contains(&name) {
            let takes = if series.takes.is_empty() { "nothing".to_owned() } else { series.takes.join(", ") };
            let detail = format!("`{}` can be narrowed by {takes}", request.metric.as_str());
            errors.push(FieldError::new(format!("/parameters/subject/{name}"), "not_supported", detail));
        }
    }
    if request.metric == Metric::Send && request.window.from < floor(now, TimeDelta::days(1)) - TimeDelta::days(14) {
        let detail = "Braze keeps the figures of a send for 14 days";
        errors.push(FieldError::new("/parameters/window/from", "not_available", detail));
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

fn floor(time: DateTime<Utc>, unit: TimeDelta) -> DateTime<Utc> {
    time.duration_trunc(unit).unwrap_or(time)
}

fn ceiling(time: DateTime<Utc>, unit: TimeDelta) -> DateTime<Utc> {
    let floor = floor(time, unit);
    if floor < time { floor.checked_add_signed(unit).unwrap_or(floor) } else { floor }
}

/// The window in parts that meet, written `from/to`: the points that begin in it. No part begins in the future, where
/// there are no points; the current one is asked for as it stands. Always at least one.
pub fn parts(request: &MetricSeries, now: DateTime<Utc>) -> Vec<String> {
    let unit = unit(request);
    let start = ceiling(request.window.from, unit);
    let end = ceiling(request.window.to, unit).min(ceiling(now, unit)).max(start);
    // One point more is asked for than is kept.
    let step = unit * (of(request.metric).max_length - 1);
    let written = |from, to| format!("{}/{}", seconds(from), seconds(to));
    let mut parts = Vec::new();
    let mut from = start;
    while from < end {
        let to = from.checked_add_signed(step).unwrap_or(end).min(end);
        parts.push(written(from, to));
        from = to;
    }
    if parts.is_empty() {
        parts.push(written(start, start));
    }
    parts
}

/// The parameters of a part's call.
fn query(request: &MetricSeries, part: Window) -> Query {
    let unit = unit(request);
    let points = (part.to - part.from).num_seconds() / unit.num_seconds().max(1);
    let mut query: Query =
        request.subject.members().into_iter().map(|(name, value)| (name, value.to_owned())).collect();
    query.push(("length", (points + 1).to_string()));
    if interval(request) == Interval::Hour {
        query.push(("unit", "hour".to_owned()));
    }
    query.push(("ending_at", seconds(part.to)));
    if request.metric == Metric::Canvas {
        query.push(("include_variant_breakdown", "true".to_owned()));
        query.push(("include_step_breakdown", "true".to_owned()));
    }
    query
}

/// The calls, one for each part.
pub fn planned(request: &MetricSeries, parts: &[String]) -> Vec<PlannedCall> {
    let endpoint = of(request.metric).endpoint;
    let queries = parts.iter().filter_map(|part| window(part)).map(|part| query(request, part));
    queries.map(|query| PlannedCall { method: "GET", path: shown(endpoint, &query), body: None }).collect()
}

/// Makes the call of a part.
pub async fn poll(
    api: &Api,
    part: &str,
    request: &MetricSeries,
    exchanges: &Exchanges,
) -> Result<Progress, VendorError> {
    let Some(window) = window(part) else {
        return Err(VendorError::new(Code::Internal, Next::GiveUp, "the part is not one of this request"));
    };
    // No point begins in it, so there is nothing to ask.
    if window.from >= window.to {
        return Ok(Progress::Ready(Vec::new()));
    }
    let series = of(request.metric);
    let query = query(request, window);
    let ask = Ask { action: "poll", endpoint: series.endpoint, query: &query, body: None, holds: series.points };
    let download = api.fetch(ask, exchanges).await?;
    Ok(Progress::Data(VendorData { download, extension: "json".into(), tag: part.to_owned().into() }))
}

#[cfg(test)]
#[path = "series_tests.rs"]
mod tests;
