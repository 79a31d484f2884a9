//! Series with one figure a point: `_docs/_api/endpoints/export/{kpi,sessions,custom_events,purchases,segments}/`.
//! Also which points any series has: [`points`].

use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use serde_json::{Value, json};

use super::{
    figures::{figure, money},
    gate::{Pool, Refusal, Reply},
    query::{Get, Query},
    segments, vocabulary,
};
use crate::vendors::sandbox::World;

/// The most units in one call, except for a canvas.
pub const MAX_LENGTH: u64 = 100;
/// The API identifiers of the workspace's apps.
pub const APPS: [&str; 2] = ["8f2c1a30-0000-4000-8000-000000000001", "8f2c1a30-0000-4000-8000-000000000002"];

const KPI: &[&str] = &["length", "ending_at", "app_id"];
const PURCHASES: &[&str] = &["length", "unit", "ending_at", "app_id", "product"];

pub const GETS: &[Get] = &[
    get("/kpi/dau/data_series", Pool::Default, KPI, |query| simple(query, "dau", "dau")),
    get("/kpi/mau/data_series", Pool::Default, KPI, |query| simple(query, "mau", "mau")),
    get("/kpi/new_users/data_series", Pool::Default, KPI, |query| simple(query, "new_users", "new_users")),
    get("/kpi/uninstalls/data_series", Pool::Default, KPI, |query| simple(query, "uninstalls", "uninstalls")),
    get("/sessions/data_series", Pool::Default, &["length", "unit", "ending_at", "app_id", "segment_id"], |query| {
        simple(query, "sessions", "sessions")
    }),
    get(
        "/events/data_series",
        Pool::Default,
        &["event", "length", "unit", "ending_at", "app_id", "segment_id"],
        |query| {
            query.required("event")?;
            simple(query, "custom_event", "count")
        },
    ),
    get("/purchases/quantity_series", Pool::Names, PURCHASES, |query| {
        simple(query, "purchase_quantity", "purchase_quantity")
    }),
    get("/purchases/revenue_series", Pool::Names, PURCHASES, |query| simple(query, "purchase_revenue", "revenue")),
    get("/segments/data_series", Pool::Default, &["segment_id", "length", "ending_at"], |query| {
        let segment = segments::known(query.world, query.required("segment_id")?)?;
        if segments::is_tracked(segment) {
            return simple(query, "segment_size", "size");
        }
        points(query, 1..=MAX_LENGTH)?;
        Ok(json!({"data": []}).into())
    }),
];

const fn get(
    path: &'static str,
    pool: Pool,
    parameters: &'static [&'static str],
    answer: fn(&Query) -> Result<Reply, Refusal>,
) -> Get {
    Get { path, faults: "braze.series", pool, parameters, answer }
}

fn simple(query: &Query, metric: &str, member: &str) -> Result<Reply, Refusal> {
    let unknown = |name: &str| Refusal::bad(format!("{name} is not known in this workspace"));
    if query.text("app_id").is_some_and(|app| !APPS.contains(&app)) {
        return Err(unknown("app_id"));
    }
    if query.text("event").is_some_and(|event| !vocabulary::events().iter().any(|known| known == event)) {
        return Err(unknown("event"));
    }
    if query.text("product").is_some_and(|product| !vocabulary::products().iter().any(|known| known == product)) {
        return Err(unknown("product"));
    }
    if let Some(segment) = query.text("segment_id").map(|id| segments::known(query.world, id)).transpose()?
        && !segments::is_tracked(segment)
    {
        return Err(Refusal::bad("analytics tracking is not enabled for the segment"));
    }
    let subject: Vec<_> = SUBJECT.iter().filter_map(|name| Some((*name, query.text(name)?))).collect();
    let point = |point: Point| json!({"time": point.spelled(), member: value(query.world, metric, &subject, &point)});
    let data: Vec<_> = points(query, 1..=MAX_LENGTH)?.into_iter().map(point).collect();
    Ok(json!({"data": data}).into())
}

/// What narrows a series.
const SUBJECT: [&str; 4] = ["app_id", "event", "product", "segment_id"];

/// The figure of a metric for a subject, in the order of [`SUBJECT`], at a point.
pub fn value(world: &World, metric: &str, subject: &[(&str, &str)], point: &Point) -> Value {
    let mut names = vec![metric, if point.hourly { "hour" } else { "day" }];
    names.extend(subject.iter().flat_map(|(name, value)| [*name, *value]));
    if metric == "purchase_revenue" {
        money(world, &names, point.at)
    } else {
        json!(figure(world, &names, point.at, 100_000))
    }
}

/// One unit of a series, by its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    pub at: DateTime<Utc>,
    pub hourly: bool,
}

impl Point {
    /// A date for a day, an extended date-time for an hour.
    pub fn spelled(&self) -> String {
        if self.hourly { self.at.format("%Y-%m-%dT%H:%M:%S%:z").to_string() } else { self.at.date_naive().to_string() }
    }
}

/// The `length` units before `ending_at`, oldest first. Braze does not say whether the unit of `ending_at` counts. Here
/// a unit counts if it begins before `ending_at`, so with 2026-11-20T00:00:00Z the last day is the 19th, and with
/// 2026-11-20T23:59:59Z it is the 20th, as the samples want. `braze.series.inclusive_end` is the other reading.
pub fn points(query: &Query, lengths: std::ops::RangeInclusive<u64>) -> Result<Vec<Point>, Refusal> {
    let hourly = query.one_of("unit", &["day", "hour"])? == Some("hour");
    let length = query.number("length", lengths)?.ok_or_else(|| query.forbidden("length is required"))?;
    let end = query.time("ending_at")?.unwrap_or_else(|| query.world.now());
    Ok(before(query, end, length, hourly))
}

pub fn before(query: &Query, end: DateTime<Utc>, length: u64, hourly: bool) -> Vec<Point> {
    let unit = if hourly { TimeDelta::hours(1) } else { TimeDelta::days(1) };
    let floor = end.duration_trunc(unit).unwrap_or(end);
    let end = if floor < end { floor + unit } else { floor };
    let more = i32::from(query.world.fault("braze.series.inclusive_end"));
    let length = i32::try_from(length).unwrap_or(i32::MAX);
    (-length..more).map(|number| Point { at: end + unit * number, hourly }).collect()
}
