//! What can be exported from this simulator besides the demo's audience, and the unified rows that must come out.

use chrono::{NaiveDate, NaiveTime, SecondsFormat, TimeDelta};
use serde_json::{Map, Value, json};

use super::{
    analysis::{ANALYSES, Analysis, TOTAL},
    catalog::list_item,
    computations::detector,
    segment_key, tag_key,
    users::MAPPING,
};
use crate::{
    exports::request::Dataset,
    vendors::sandbox::{Audience, DEMO_FIELDS, DemoDataset, Trouble, World, people::Person},
};

/// Troubles of an export job.
const JOB: &[(Trouble, &str)] = &[
    (Trouble::Prepares, "growingio_cdp.job.stuck"),
    (Trouble::UnknownStatus, "growingio_cdp.job.unknown_stage"),
    (Trouble::Partial, "growingio_cdp.file.truncated"),
    (Trouble::ExpiredLink, "growingio_cdp.file.not_found"),
    (Trouble::Unauthorized, "growingio_cdp.export.unauthorized"),
    (Trouble::Forbidden, "growingio_cdp.export.forbidden"),
    (Trouble::RateLimited, "growingio_cdp.export.rate_limited"),
    (Trouble::ServerError, "growingio_cdp.job.server_error"),
    (Trouble::Malformed, "growingio_cdp.export.bad_json"),
    (Trouble::CutOff, "growingio_cdp.file.cut"),
    (Trouble::Slow, "growingio_cdp.file.drip"),
];

/// Troubles of an answer that comes at once.
macro_rules! troubles_of {
    ($thing:literal $(, $also:expr)?) => {
        &[
            $($also,)?
            (Trouble::Unauthorized, concat!("growingio_cdp.", $thing, ".unauthorized")),
            (Trouble::Forbidden, concat!("growingio_cdp.", $thing, ".forbidden")),
            (Trouble::RateLimited, concat!("growingio_cdp.", $thing, ".rate_limited")),
            (Trouble::ServerError, concat!("growingio_cdp.", $thing, ".server_error")),
            (Trouble::Malformed, concat!("growingio_cdp.", $thing, ".html")),
            (Trouble::CutOff, concat!("growingio_cdp.", $thing, ".cut")),
            (Trouble::Slow, concat!("growingio_cdp.", $thing, ".slow")),
        ]
    };
}

const LISTS: &[(Trouble, &str)] = troubles_of!("lists", (Trouble::Partial, "growingio_cdp.lists.bad_json"));
const ANALYSIS: &[(Trouble, &str)] = troubles_of!("analysis", (Trouble::Partial, "growingio_cdp.analysis.bad_json"));
const USER: &[(Trouble, &str)] = troubles_of!("user", (Trouble::Partial, "growingio_cdp.user.bad_json"));

/// Attributes that the exports of users ask for besides the columns.
const ATTRIBUTES: [&str; 2] = ["usr_plan", "tag_rfm"];

/// A row of the table below.
const fn dataset(
    dataset: Dataset,
    name: &'static str,
    parameters: fn(&World) -> Value,
    empty: Option<fn(&World) -> Value>,
    truth: fn(&World) -> Vec<Value>,
    troubles: &'static [(Trouble, &'static str)],
) -> DemoDataset {
    DemoDataset { dataset, name, parameters, empty, truth, troubles }
}

pub const DATASETS: &[DemoDataset] = &[
    dataset(
        Dataset::AudienceMembers,
        "",
        |_| users_of("tag", &tag_key(1)),
        Some(|_| users_of("tag", &tag_key(2))),
        |world| users(world, 1),
        JOB,
    ),
    dataset(
        Dataset::AudienceMembers,
        "segment",
        |_| users_of("segment", &segment_key(3)),
        Some(|_| users_of("segment", &segment_key(2))),
        |world| users(world, 3),
        JOB,
    ),
    dataset(
        Dataset::AudienceMembers,
        "refresh",
        |_| {
            json!({
                "audience": {"kind": "tag", "id": tag_key(REFRESHED)},
                "fields": ["user_id", "vendor_user_id", "attributes.usr_computation"],
                "refresh": true,
            })
        },
        None,
        refreshed,
        troubles_of!("computes"),
    ),
    dataset(
        Dataset::Audiences,
        "",
        |_| json!({}),
        None,
        |world| [audiences(world, "tag"), audiences(world, "seg")].concat(),
        LISTS,
    ),
    dataset(Dataset::Audiences, "tag", |_| json!({"kind": "tag"}), None, |world| audiences(world, "tag"), LISTS),
    dataset(
        Dataset::Audiences,
        "segment",
        |_| json!({"kind": "segment"}),
        None,
        |world| audiences(world, "seg"),
        LISTS,
    ),
    dataset(
        Dataset::Report,
        "chart",
        |_| report("chart", 0),
        Some(|_| report("chart", 3)),
        |world| metrics(world, 0),
        ANALYSIS,
    ),
    dataset(Dataset::Report, "chart_by_city", |_| report("chart", 1), None, |world| metrics(world, 1), ANALYSIS),
    dataset(Dataset::Report, "chart_of_many_rows", |_| report("chart", 2), None, |world| metrics(world, 2), ANALYSIS),
    dataset(Dataset::Report, "funnel", |_| report("funnel", 4), None, |world| metrics(world, 4), ANALYSIS),
    dataset(Dataset::Report, "retention", |_| report("retention", 5), None, |world| metrics(world, 5), ANALYSIS),
    dataset(Dataset::Report, "frequency", |_| report("frequency", 6), None, |world| metrics(world, 6), ANALYSIS),
    dataset(
        Dataset::UserProfiles,
        "",
        |world| {
            // Nobody has the last one.
            let ids = asked_for(world).filter_map(|person| person.user_id).chain(["nobody-0".to_owned()]);
            profiles(ids)
        },
        Some(|_| profiles(["nobody-0".to_owned()].into_iter())),
        |world| asked_for(world).filter(|person| person.user_id.is_some()).map(|person| profile(&person)).collect(),
        USER,
    ),
];

/// The number of the tag that only the export with `refresh` uses: once computed on request it stays so.
const REFRESHED: u64 = 4;

fn fields() -> Vec<String> {
    let attributes = ATTRIBUTES.iter().map(|name| format!("attributes.{name}"));
    DEMO_FIELDS.iter().map(ToString::to_string).chain(attributes).collect()
}

fn users_of(kind: &str, key: &str) -> Value {
    json!({"audience": {"kind": kind, "id": key}, "fields": fields()})
}

fn users(world: &World, number: u64) -> Vec<Value> {
    let members = world.audience(number).into_iter().flat_map(Audience::members);
    members.map(|index| profile(&world.person(index))).collect()
}

/// A user's row with the columns of [`fields`].
fn profile(person: &Person) -> Value {
    let mapping = MAPPING.iter().map(|(column, property)| ((*column).into(), (*property).into())).collect();
    let mut row = person.cdp_user_v1(&mapping, &ATTRIBUTES);
    if let Some(row) = row.as_object_mut() {
        row.retain(|column, _| column == "attributes" || DEMO_FIELDS.contains(&column.as_str()));
    }
    row
}

fn refreshed(world: &World) -> Vec<Value> {
    let members = world.audience(REFRESHED).into_iter().flat_map(Audience::members);
    let row = |index| {
        let person = world.person(index);
        json!({
            "user_id": person.user_id,
            "vendor_user_id": person.gio_id().to_string(),
            "attributes": {"usr_computation": "requested"},
        })
    };
    members.map(row).collect()
}

/// The first sixteen people: ids with quotes and letters of every kind among them.
fn asked_for(world: &World) -> impl Iterator<Item = Person> + '_ {
    (0..world.config.people.min(16)).map(|index| world.person(index))
}

fn profiles(ids: impl Iterator<Item = String>) -> Value {
    let identifiers: Vec<_> = ids.map(|id| json!({"type": "user_id", "value": id})).collect();
    json!({"identifiers": identifiers, "fields": fields()})
}

/// The rows of `audience.v1` for the list of tags or segments.
fn audiences(world: &World, prefix: &str) -> Vec<Value> {
    let kind = if prefix == "tag" { "tag" } else { "segment" };
    let row = |audience: Audience| {
        let mut item = list_item(audience, prefix, &detector(world, prefix, audience.number));
        let stage = item["detector"]["stage"].clone();
        let mut take = |member: &str| item.as_object_mut().and_then(|item| item.shift_remove(member));
        json!({
            "id": take("key"),
            "kind": kind,
            "name": take("name"),
            "description": take("description"),
            "size": null,
            "status": stage,
            "created_at": take("createdAt"),
            "updated_at": take("updatedAt"),
            "vendor": item,
        })
    };
    world.audiences().map(row).collect()
}

fn report(kind: &str, number: usize) -> Value {
    json!({"report": {"kind": kind, "id": ANALYSES[number].id}})
}

/// The rows of `metric.v1` for a result: one for each cell that is a figure.
fn metrics(world: &World, number: usize) -> Vec<Value> {
    let analysis = &ANALYSES[number];
    analysis.cells(world.config.seed, 0..analysis.rows).flat_map(|cells| metrics_of(analysis, &cells)).collect()
}

fn metrics_of(analysis: &Analysis, cells: &[String]) -> Vec<Value> {
    let (mut time, mut dimensions, mut rows) = (Value::Null, Map::new(), Vec::new());
    for (column, (name, cell)) in analysis.header.iter().zip(cells).enumerate() {
        match *name {
            "时间" if cell == TOTAL => drop(dimensions.insert((*name).to_owned(), json!(cell))),
            "时间" => time = json!(beijing_midnight(cell)),
            "目标用户" | "城市" | "商品名称" | "活跃天数 区间范围" => {
                dimensions.insert((*name).to_owned(), json!(cell));
            }
            _ => {
                let before = analysis.header[..column].iter().filter(|other| *other == name).count();
                let metric = if before == 0 { (*name).to_owned() } else { format!("{name} ({})", before + 1) };
                let value: Option<serde_json::Number> = serde_json::from_str(cell).ok();
                rows.push((metric, json!(value)));
            }
        }
    }
    // The dimensions are complete only now.
    let interval = analysis.interval();
    let row = |(metric, value)| json!({"metric": metric, "time": time, "interval": interval, "dimensions": dimensions, "value": value});
    rows.into_iter().map(row).collect()
}

/// Midnight in Beijing of a plain date, as a time in UTC.
fn beijing_midnight(day: &str) -> Option<String> {
    let midnight = day.parse::<NaiveDate>().ok()?.and_time(NaiveTime::MIN).and_utc() - TimeDelta::hours(8);
    Some(midnight.to_rfc3339_opts(SecondsFormat::Secs, true))
}
