//! The connection a newcomer needs, what can be exported with it, and what must come out.

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::{Value, json};
use url::Url;

use super::{
    AI, FAULTS, NAME, PROJECT_UID, TOKEN, catalog,
    columns::{DATA_TYPES, DataType},
    events::{QUIET_HOUR, Source},
    raw_files::{Part, Version},
    reports::{self, Form, Report, demo_asked, demo_window},
    segments::{audience_v1, segment_id, user_type},
    slices::{Granularity, Hour, Slice},
    users::{MAPPING, UserType},
};
use crate::{
    exports::request::Dataset,
    vendors::sandbox::{DEMO_FIELDS, DemoConnection, DemoDataset, Trouble, World, vendor_base},
};

/// The connection a newcomer needs; the token is [`TOKEN`].
pub fn demo_connection(base: &Url) -> DemoConnection {
    let mapping: serde_json::Map<_, _> =
        MAPPING.iter().map(|(column, key)| ((*column).to_owned(), json!(key))).collect();
    DemoConnection {
        name: "demo-growingio",
        vendor: NAME,
        body: json!({
            "vendor": NAME,
            "display_name": "GrowingIO (sandbox)",
            "settings": {"base_url": vendor_base(base, NAME), "ai": AI, "project_uid": PROJECT_UID},
            "credentials": {"token": TOKEN},
            "mapping": mapping,
        }),
        audience: json!({"kind": "segment", "id": segment_id(1)}),
        fields: DEMO_FIELDS,
        truth: |person| person.classic_user_v1(UserType::Visitor, &mapped(), &[]),
        faults: FAULTS,
        datasets: DATASETS,
    }
}

fn mapped() -> std::collections::BTreeMap<String, String> {
    MAPPING.iter().map(|(column, key)| ((*column).to_owned(), (*key).to_owned())).collect()
}

const DATASETS: &[DemoDataset] = &[
    DemoDataset {
        dataset: Dataset::AudienceMembers,
        name: "",
        parameters: |_| json!({"audience": {"kind": "segment", "id": segment_id(1)}}),
        empty: Some(|_| json!({"audience": {"kind": "segment", "id": segment_id(2)}})),
        truth: |world| members_v1(world, 1),
        troubles: EXPORTER_FILE,
    },
    DemoDataset {
        dataset: Dataset::AudienceMembers,
        name: "login_users",
        parameters: |_| json!({"audience": {"kind": "segment", "id": segment_id(4)}}),
        empty: None,
        truth: |world| members_v1(world, 4),
        troubles: &[],
    },
    DemoDataset {
        dataset: Dataset::RawEvents,
        name: "",
        parameters: |world| raw_events(world, &[], "hour"),
        empty: Some(|world| window(quiet_hour(world), &[], "hour")),
        truth: |world| events_v1(world, &[], hours(world)),
        troubles: RAW,
    },
    DemoDataset {
        dataset: Dataset::RawEvents,
        name: "typed",
        parameters: |world| raw_events(world, &TYPED, "hour"),
        empty: Some(|world| window(quiet_hour(world), &TYPED, "hour")),
        truth: |world| events_v1(world, &TYPED, hours(world)),
        troubles: RAW,
    },
    DemoDataset {
        dataset: Dataset::RawEvents,
        name: "day",
        parameters: |world| raw_events(world, &[], "day"),
        empty: None,
        truth: |world| events_v1(world, &[], day(world)),
        // Hundreds of files: once is enough, the troubles are those of hours.
        troubles: &[],
    },
    DemoDataset {
        dataset: Dataset::RawEvents,
        name: "typed_day",
        parameters: |world| raw_events(world, &TYPED_DAY, "day"),
        empty: None,
        truth: |world| events_v1(world, &TYPED_DAY, day(world)),
        troubles: RAW,
    },
    report("line", |world| asks(world, "chart", reports::LINE), |world| means(world, "chart", reports::LINE)),
    report(
        "vertical_bar",
        |world| asks(world, "chart", reports::VERTICAL_BAR),
        |world| means(world, "chart", reports::VERTICAL_BAR),
    ),
    report(
        "horizontal_bar",
        |world| asks(world, "chart", reports::HORIZONTAL_BAR),
        |world| means(world, "chart", reports::HORIZONTAL_BAR),
    ),
    report("table", |world| asks(world, "chart", reports::TABLE), |world| means(world, "chart", reports::TABLE)),
    report(
        "big_number",
        |world| asks(world, "chart", reports::BIG_NUMBER),
        |world| means(world, "chart", reports::BIG_NUMBER),
    ),
    report("bubble", |world| asks(world, "chart", reports::BUBBLE), |world| means(world, "chart", reports::BUBBLE)),
    report("funnel", |world| asks(world, "funnel", reports::FUNNEL), |world| means(world, "funnel", reports::FUNNEL)),
    report(
        "retention",
        |world| asks(world, "retention", reports::RETENTION),
        |world| means(world, "retention", reports::RETENTION),
    ),
    report(
        "frequency",
        |world| asks(world, "frequency", reports::FREQUENCY),
        |world| means(world, "frequency", reports::FREQUENCY),
    ),
    DemoDataset {
        dataset: Dataset::Audiences,
        name: "",
        parameters: |_| json!({}),
        empty: None,
        truth: |world| world.audiences().map(|audience| audience_v1(world, audience)).collect(),
        troubles: SEGMENTATIONS,
    },
    DemoDataset {
        dataset: Dataset::Dashboards,
        name: "",
        parameters: |_| json!({}),
        empty: None,
        truth: |_| catalog::dashboards_v1(),
        troubles: DASHBOARDS,
    },
    DemoDataset {
        dataset: Dataset::Dashboards,
        name: "one",
        parameters: |_| json!({"id": catalog::DASHBOARD}),
        empty: Some(|_| json!({"id": catalog::EMPTY_DASHBOARD})),
        truth: |_| catalog::charts_v1(catalog::DASHBOARD),
        troubles: DASHBOARD,
    },
    DemoDataset {
        dataset: Dataset::EventRules,
        name: "",
        parameters: |_| json!({}),
        empty: None,
        truth: |_| catalog::rules_v1(),
        troubles: RULES,
    },
];

const fn report(name: &'static str, parameters: fn(&World) -> Value, truth: fn(&World) -> Vec<Value>) -> DemoDataset {
    let empty: fn(&World) -> Value = |world| asks(world, "chart", reports::EMPTY);
    DemoDataset { dataset: Dataset::Report, name, parameters, empty: Some(empty), truth, troubles: EXPORTER }
}

const RAW: &[(Trouble, &str)] = &[
    (Trouble::Prepares, "growingio.raw.running"),
    (Trouble::UnknownStatus, "growingio.raw.unknown_status"),
    (Trouble::Partial, "growingio.file.truncated"),
    (Trouble::ExpiredLink, "growingio.file.expired"),
    (Trouble::Unauthorized, "growingio.raw.unauthorized"),
    (Trouble::Forbidden, "growingio.raw.forbidden"),
    (Trouble::RateLimited, "growingio.raw.rate_limited"),
    (Trouble::ServerError, "growingio.raw.server_error"),
    (Trouble::Malformed, "growingio.file.bad_record"),
    (Trouble::CutOff, "growingio.file.cut"),
    (Trouble::Slow, "growingio.file.drip"),
];
const EXPORTER: &[(Trouble, &str)] = &[
    (Trouble::Prepares, "growingio.exporter.doing"),
    (Trouble::UnknownStatus, "growingio.exporter.unknown_status"),
    (Trouble::Partial, "growingio.exporter.bad_json"),
    (Trouble::Unauthorized, "growingio.exporter.unauthorized"),
    (Trouble::Forbidden, "growingio.exporter.forbidden"),
    (Trouble::RateLimited, "growingio.exporter.rate_limited"),
    (Trouble::ServerError, "growingio.exporter.server_error"),
    (Trouble::Malformed, "growingio.exporter.html"),
    (Trouble::CutOff, "growingio.exporter.cut"),
    (Trouble::Slow, "growingio.exporter.slow"),
];
const EXPORTER_FILE: &[(Trouble, &str)] = &[
    (Trouble::Prepares, "growingio.exporter.doing"),
    (Trouble::UnknownStatus, "growingio.exporter.unknown_status"),
    (Trouble::Partial, "growingio.file.truncated"),
    (Trouble::ExpiredLink, "growingio.file.expired"),
    (Trouble::Unauthorized, "growingio.exporter.unauthorized"),
    (Trouble::Forbidden, "growingio.exporter.forbidden"),
    (Trouble::RateLimited, "growingio.exporter.rate_limited"),
    (Trouble::ServerError, "growingio.exporter.server_error"),
    (Trouble::Malformed, "growingio.file.bad_record"),
    (Trouble::CutOff, "growingio.file.cut"),
    (Trouble::Slow, "growingio.file.drip"),
];

/// What can happen at an endpoint that answers at once.
macro_rules! at_once {
    ($endpoint:literal) => {
        &[
            (Trouble::Partial, concat!($endpoint, ".bad_json")),
            (Trouble::Unauthorized, concat!($endpoint, ".unauthorized")),
            (Trouble::Forbidden, concat!($endpoint, ".forbidden")),
            (Trouble::RateLimited, concat!($endpoint, ".rate_limited")),
            (Trouble::ServerError, concat!($endpoint, ".server_error")),
            (Trouble::Malformed, concat!($endpoint, ".html")),
            (Trouble::CutOff, concat!($endpoint, ".cut")),
            (Trouble::Slow, concat!($endpoint, ".slow")),
        ]
    };
}

const SEGMENTATIONS: &[(Trouble, &str)] = at_once!("growingio.segmentations");
const DASHBOARDS: &[(Trouble, &str)] = at_once!("growingio.dashboards");
const DASHBOARD: &[(Trouble, &str)] = at_once!("growingio.dashboard");
const RULES: &[(Trouble, &str)] = at_once!("growingio.rules");

const TYPED: [&str; 3] = ["page", "custom_event", "ads_track_click"];
const TYPED_DAY: [&str; 1] = ["evar"];

fn members_v1(world: &World, number: u64) -> Vec<Value> {
    let Some(audience) = world.audience(number) else { return Vec::new() };
    let (user_type, mapping) = (user_type(audience), mapped());
    let people = audience.members().map(|index| world.person(index));
    let people = people.filter(|person| user_type == UserType::Visitor || person.user_id.is_some());
    people.map(|person| person.classic_user_v1(user_type, &mapping, &[])).collect()
}

/// The day before yesterday in Beijing, when the sandbox started: its files are ready, and kept for long.
fn demo_day(world: &World) -> Slice {
    Slice::at(Granularity::Day, world.started_at() - TimeDelta::days(2))
}

fn day(world: &World) -> (DateTime<Utc>, DateTime<Utc>) {
    (demo_day(world).start(), demo_day(world).end())
}

/// Three hours in the middle of that day.
fn hours(world: &World) -> (DateTime<Utc>, DateTime<Utc>) {
    let first = demo_day(world).start() + TimeDelta::hours(10);
    (first, first + TimeDelta::hours(3))
}

fn quiet_hour(world: &World) -> (DateTime<Utc>, DateTime<Utc>) {
    let first = demo_day(world).start() + TimeDelta::hours(QUIET_HOUR);
    (first, first + TimeDelta::hours(1))
}

fn raw_events(world: &World, event_types: &[&str], granularity: &str) -> Value {
    window(if granularity == "day" { day(world) } else { hours(world) }, event_types, granularity)
}

fn window((from, to): (DateTime<Utc>, DateTime<Utc>), event_types: &[&str], granularity: &str) -> Value {
    let mut parameters = json!({"window": {"from": rfc3339(from), "to": rfc3339(to)}, "granularity": granularity});
    if !event_types.is_empty() {
        parameters["event_types"] = json!(event_types);
    }
    parameters
}

fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// The rows of `event.v1` of whole hours; of all types, if none is named.
pub fn events_v1(world: &World, event_types: &[&str], (from, to): (DateTime<Utc>, DateTime<Utc>)) -> Vec<Value> {
    let (source, max_records) = (Source::of(world), world.config.raw_part_records.max(1));
    let wanted = |data_type: &&DataType| event_types.is_empty() || event_types.contains(&data_type.name);
    let mut rows = Vec::new();
    for data_type in DATA_TYPES.iter().filter(wanted) {
        for hour in (Hour::of(from).0..Hour::of(to).0).map(Hour) {
            for number in 0..Part::count(source, data_type, hour, max_records) {
                rows.extend(Part { source, version: Version::Two, data_type, hour, number, max_records }.rows());
            }
        }
    }
    rows
}

fn asks(world: &World, kind: &str, id: &str) -> Value {
    let (from, to) = demo_window(world);
    json!({
        "report": {"kind": kind, "id": id},
        "window": {"from": rfc3339(from), "to": rfc3339(to)},
        "interval": "day",
    })
}

fn means(world: &World, kind: &str, id: &str) -> Vec<Value> {
    let report = Report::named(kind, id);
    report.map(|report| report.metric_v1(Form::Two, &demo_asked(world, "day"), world.config.seed)).unwrap_or_default()
}
