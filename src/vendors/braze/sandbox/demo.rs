//! What can be exported from this simulator, and the unified rows that must come out. Windows are relative to the start
//! of the sandbox, so that nothing in them is older than what the vendor keeps.

use chrono::{DateTime, DurationRound, NaiveDate, SecondsFormat, TimeDelta, Utc};
use serde_json::{Map, Value, json};

use super::{
    campaigns::{self, Campaign, send_id},
    canvases::{self, Breakdown, Canvas},
    order::{NOT_OF_CONTROL_GROUP, control_group},
    profiles, segment_id, segments,
    series::{APPS, Point, value},
    suppressions::List,
    vocabulary,
};
use crate::{
    exports::request::Dataset,
    vendors::sandbox::{
        DemoDataset,
        Trouble::{
            self, Busy, CutOff, ExpiredLink, Forbidden, Malformed, Partial, Prepares, RateLimited, ServerError, Slow,
            Unauthorized,
        },
        World,
        people::{Oddity, Person},
    },
};

/// The same faults show in an export of a segment and of the control group.
const EXPORT: &[(Trouble, &str)] = &[
    (Prepares, "braze.segment.not_ready"),
    (Partial, "braze.file.truncated"),
    (ExpiredLink, "braze.file.expired"),
    (Unauthorized, "braze.segment.unauthorized"),
    (Forbidden, "braze.segment.forbidden"),
    (RateLimited, "braze.segment.rate_limited"),
    (Busy, "braze.segment.busy"),
    (ServerError, "braze.segment.server_error"),
    (Malformed, "braze.segment.bad_json"),
    (CutOff, "braze.file.cut"),
    (Slow, "braze.file.drip"),
];

/// What goes wrong at the endpoints of one group.
macro_rules! troubles {
    ($group:literal) => {
        &[
            (Partial, concat!($group, ".bad_json")),
            (Unauthorized, concat!($group, ".unauthorized")),
            (Forbidden, concat!($group, ".forbidden")),
            (RateLimited, concat!($group, ".rate_limited")),
            (ServerError, concat!($group, ".server_error")),
            (Malformed, concat!($group, ".html")),
            (CutOff, concat!($group, ".cut")),
            (Slow, concat!($group, ".slow")),
        ]
    };
}

const IDS: &[(Trouble, &str)] = troubles!("braze.ids");
const LISTS: &[(Trouble, &str)] = troubles!("braze.lists");
const DETAILS: &[(Trouble, &str)] = troubles!("braze.details");
const SERIES: &[(Trouble, &str)] = troubles!("braze.series");
const SUPPRESSIONS: &[(Trouble, &str)] = troubles!("braze.suppressions");

type Parameters = fn(&World) -> Value;
type Truth = fn(&World) -> Vec<Value>;

pub const DATASETS: &[DemoDataset] = &[
    DemoDataset {
        dataset: Dataset::AudienceMembers,
        name: "",
        parameters: |_| json!({"audience": {"kind": "segment", "id": segment_id(1)}}),
        empty: Some(|_| json!({"audience": {"kind": "segment", "id": segment_id(2)}})),
        truth: |world| (0..world.config.people).map(|index| without_fields(&world.person(index))).collect(),
        troubles: EXPORT,
    },
    DemoDataset {
        dataset: Dataset::AudienceMembers,
        name: "global_control_group",
        parameters: |_| json!({"audience": {"kind": "global_control_group"}}),
        empty: None,
        truth: of_control_group,
        troubles: EXPORT,
    },
    DemoDataset {
        dataset: Dataset::UserProfiles,
        name: "",
        parameters: |world| json!({"identifiers": identifiers(world)}),
        empty: Some(|_| json!({"identifiers": [{"type": "user_id", "value": "nobody"}]})),
        truth: |world| asked_by_id(world).map(|index| without_fields(&world.person(index))).collect(),
        troubles: IDS,
    },
    // More than 100 days take several calls.
    series("dau", |world| over(world, "dau", 250, 5, "day", json!({})), |world| simple(world, "dau", 250, 5, &[])),
    series(
        "mau",
        |world| over(world, "mau", 121, 1, "day", json!({"app_id": APPS[0]})),
        |world| simple(world, "mau", 121, 1, &[("app_id", APPS[0])]),
    ),
    series(
        "new_users",
        |world| over(world, "new_users", 101, 0, "day", json!({})),
        |world| simple(world, "new_users", 101, 0, &[]),
    ),
    series(
        "uninstalls",
        |world| over(world, "uninstalls", 110, 9, "day", json!({})),
        |world| simple(world, "uninstalls", 110, 9, &[]),
    ),
    series(
        "sessions",
        |world| over(world, "sessions", 9, 3, "hour", json!({"segment_id": segment_id(1)})),
        |world| {
            let id = segment_id(1);
            let subject = [("segment_id", id.as_str())];
            let points = points(world, 9, 3, true);
            points.map(|point| simple_row(world, "sessions", &subject, point)).collect()
        },
    ),
    series(
        "custom_event",
        |world| over(world, "custom_event", 40, 2, "day", json!({"event": "50% & more + extra"})),
        |world| simple(world, "custom_event", 40, 2, &[("event", "50% & more + extra")]),
    ),
    series(
        "purchase_quantity",
        |world| over(world, "purchase_quantity", 40, 2, "day", json!({"product": "会员年卡"})),
        |world| simple(world, "purchase_quantity", 40, 2, &[("product", "会员年卡")]),
    ),
    series(
        "purchase_revenue",
        |world| over(world, "purchase_revenue", 130, 2, "day", json!({})),
        |world| simple(world, "purchase_revenue", 130, 2, &[]),
    ),
    DemoDataset {
        empty: Some(|world| over(world, "segment_size", 20, 1, "day", json!({"segment_id": segment_id(2)}))),
        ..series(
            "segment_size",
            |world| over(world, "segment_size", 140, 1, "day", json!({"segment_id": segment_id(3)})),
            |world| simple(world, "segment_size", 140, 1, &[("segment_id", &segment_id(3))]),
        )
    },
    series(
        "campaign",
        |world| over(world, "campaign", 105, 1, "day", json!({"campaign_id": multichannel().id()})),
        |world| of_campaign(world, multichannel(), None, 105, 1),
    ),
    series(
        "campaign, multivariate",
        |world| over(world, "campaign", 12, 1, "day", json!({"campaign_id": multivariate().id()})),
        |world| of_campaign(world, multivariate(), None, 12, 1),
    ),
    DemoDataset {
        empty: Some(|world| {
            let subject = json!({"campaign_id": triggered().id(), "send_id": send_id(20)});
            over(world, "send", 8, 1, "day", subject)
        }),
        ..series(
            "send",
            |world| {
                let subject = json!({"campaign_id": triggered().id(), "send_id": send_id(9)});
                over(world, "send", 8, 1, "day", subject)
            },
            |world| of_campaign(world, triggered(), Some(&send_id(9)), 8, 1),
        )
    },
    // More than 14 days take several calls.
    series(
        "canvas",
        |world| over(world, "canvas", 33, 2, "day", json!({"canvas_id": journey().id()})),
        |world| points(world, 33, 2, false).flat_map(|point| of_canvas(world, journey(), point)).collect(),
    ),
    catalog(Dataset::Audiences, "", |_| json!({"kind": "segment"}), |world| audiences(world, false), LISTS),
    catalog(
        Dataset::Audiences,
        "details",
        |_| json!({"kind": "segment", "details": true}),
        |world| audiences(world, true),
        DETAILS,
    ),
    catalog(Dataset::Campaigns, "", |_| json!({}), |world| all_campaigns(world, false, false), LISTS),
    catalog(
        Dataset::Campaigns,
        "details",
        |_| json!({"details": true, "include_archived": true}),
        |world| all_campaigns(world, true, true),
        DETAILS,
    ),
    catalog(Dataset::Canvases, "", |_| json!({}), |_| all_canvases(false, false), LISTS),
    catalog(
        Dataset::Canvases,
        "details",
        |_| json!({"details": true, "include_archived": true}),
        |_| all_canvases(true, true),
        DETAILS,
    ),
    catalog(Dataset::Events, "", |_| json!({}), |_| events(false), LISTS),
    catalog(Dataset::Events, "details", |_| json!({"details": true}), |_| events(true), LISTS),
    suppressions(
        "unsubscribed",
        // Twice the largest page, exactly.
        |world| suppressed_in(world, "unsubscribed", 20),
        |_| never("unsubscribed"),
        |world| suppressed(world, List::Unsubscribed, "unsubscribed", 20),
    ),
    suppressions(
        "hard_bounced",
        |world| suppressed_in(world, "hard_bounced", 30),
        |_| never("hard_bounced"),
        |world| suppressed(world, List::HardBounced, "hard_bounced", 30),
    ),
    suppressions(
        "invalid_phone",
        |world| suppressed_in(world, "invalid_phone", 15),
        |_| never("invalid_phone"),
        |world| suppressed(world, List::InvalidPhone, "invalid_phone", 15),
    ),
];

const fn series(name: &'static str, parameters: Parameters, truth: Truth) -> DemoDataset {
    DemoDataset { dataset: Dataset::MetricSeries, name, parameters, empty: None, truth, troubles: SERIES }
}

const fn catalog(
    dataset: Dataset,
    name: &'static str,
    parameters: Parameters,
    truth: Truth,
    troubles: &'static [(Trouble, &'static str)],
) -> DemoDataset {
    DemoDataset { dataset, name, parameters, empty: None, truth, troubles }
}

const fn suppressions(name: &'static str, parameters: Parameters, empty: Parameters, truth: Truth) -> DemoDataset {
    DemoDataset { dataset: Dataset::Suppressions, name, parameters, empty: Some(empty), truth, troubles: SUPPRESSIONS }
}

/// The row that an export without `fields` means: the 33 names of the documented list, where an absent member and null
/// are the same. `created_from` is in newer tables only and comes when it is named.
pub fn without_fields(person: &Person) -> Value {
    let mut row = person.braze_user_v1();
    if let Some(activity) = row["activity"].as_object_mut() {
        activity.retain(|name, value| name != "created_from" && !value.is_null());
    }
    row
}

/// Six of the names do not exist for the control group, and what comes along with them neither.
fn of_control_group(world: &World) -> Vec<Value> {
    let members = control_group(world).into_iter().flat_map(|group| group.members());
    let row = |index| {
        let mut row = without_fields(&world.person(index));
        if let Some(activity) = row["activity"].as_object_mut() {
            activity.retain(|name, _| {
                !NOT_OF_CONTROL_GROUP.contains(&name.as_str())
                    && !name.ends_with("_opted_in_at")
                    && !name.ends_with("_unsubscribed_at")
            });
        }
        row
    };
    members.map(row).collect()
}

fn asked_by_id(world: &World) -> std::ops::Range<u64> {
    0..world.config.people.min(120)
}

/// Each person by one of the ids, and more unknown ones than fit into a call.
fn identifiers(world: &World) -> Vec<Value> {
    let of = |person: Person| match (&person.user_id, person.aliases.first()) {
        _ if person.oddity == Oddity::Devices => json!({"type": "device_id", "value": profiles::device_id(&person)}),
        _ if person.email.is_some() && person.index % 5 == 2 => json!({"type": "email", "value": person.email}),
        _ if person.phone.is_some() && person.index % 7 == 4 => json!({"type": "phone", "value": person.phone}),
        (Some(id), _) => json!({"type": "user_id", "value": id}),
        (None, Some((label, name))) => json!({"type": "alias", "value": name, "label": label}),
        (None, None) => json!({"type": "vendor_user_id", "value": person.braze_id()}),
    };
    let known = asked_by_id(world).map(|index| of(world.person(index)));
    let unknown = (0..=profiles::MAX_IDS).map(|number| json!({"type": "user_id", "value": format!("nobody-{number}")}));
    known.chain(unknown).collect()
}

/// Midnight of so many days before the sandbox started.
fn days_ago(world: &World, days: i64) -> DateTime<Utc> {
    let started = world.started_at();
    started.duration_trunc(TimeDelta::days(1)).unwrap_or(started) - TimeDelta::days(days)
}

/// Parameters of a series.
fn over(world: &World, metric: &str, from: i64, to: i64, interval: &str, subject: Value) -> Value {
    let mut parameters = json!({
        "metric": metric,
        "window": {"from": utc(days_ago(world, from)), "to": utc(days_ago(world, to))},
        "interval": interval,
    });
    if subject.as_object().is_some_and(|subject| !subject.is_empty()) {
        parameters["subject"] = subject;
    }
    parameters
}

fn points(world: &World, from: i64, to: i64, hourly: bool) -> impl Iterator<Item = Point> + use<> {
    let (start, end) = (days_ago(world, from), days_ago(world, to));
    let unit = if hourly { TimeDelta::hours(1) } else { TimeDelta::days(1) };
    std::iter::successors(Some(start), move |at| Some(*at + unit))
        .take_while(move |at| *at < end)
        .map(move |at| Point { at, hourly })
}

fn simple(world: &World, metric: &str, from: i64, to: i64, subject: &[(&str, &str)]) -> Vec<Value> {
    points(world, from, to, false).map(|point| simple_row(world, metric, subject, point)).collect()
}

fn simple_row(world: &World, metric: &str, subject: &[(&str, &str)], point: Point) -> Value {
    let dimensions = subject.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
    metric_row(metric.to_owned(), point, &dimensions, &value(world, metric, subject, &point))
}

fn metric_row(metric: String, point: Point, dimensions: &Map<String, Value>, value: &Value) -> Value {
    json!({
        "metric": metric,
        "time": utc(point.at),
        "interval": if point.hourly { "hour" } else { "day" },
        "dimensions": dimensions,
        "value": value,
    })
}

/// The first campaign that is neither multivariate nor archived.
fn multichannel() -> Campaign {
    campaign(|campaign| !campaign.is_multivariate())
}

fn multivariate() -> Campaign {
    campaign(Campaign::is_multivariate)
}

fn triggered() -> Campaign {
    campaign(|campaign| campaign.is_api() && !campaign.is_multivariate())
}

fn campaign(is: fn(Campaign) -> bool) -> Campaign {
    let listed = campaigns::listed(false);
    listed.iter().copied().find(|campaign| is(*campaign)).unwrap_or(listed[0])
}

fn journey() -> Canvas {
    canvases::listed(false)[4]
}

fn of_campaign(world: &World, campaign: Campaign, send: Option<&str>, from: i64, to: i64) -> Vec<Value> {
    let mut dimensions = Map::from_iter([("campaign_id".to_owned(), json!(campaign.id()))]);
    if let Some(send) = send {
        dimensions.insert("send_id".to_owned(), json!(send));
    }
    let metric = if send.is_some() { "send" } else { "campaign" };
    let rows = |point: Point| {
        let mut rows = Vec::new();
        add_figures(&mut rows, metric, point, &dimensions, &campaign.point(world, send, &point));
        rows
    };
    points(world, from, to, false).flat_map(rows).collect()
}

fn of_canvas(world: &World, canvas: Canvas, point: Point) -> Vec<Value> {
    let breakdown = Breakdown { variants: true, steps: true, deleted_steps: false };
    let mut stats = json!({});
    canvas.add_stats(world, &breakdown, &point, &mut stats);
    let dimensions = Map::from_iter([("canvas_id".to_owned(), json!(canvas.id()))]);
    let mut rows = Vec::new();
    add_figures(&mut rows, "canvas.total_stats", point, &dimensions, &stats["total_stats"]);
    for (group, dimension) in [("variant_stats", "variant_id"), ("step_stats", "step_id")] {
        for (id, stats) in stats[group].as_object().into_iter().flatten() {
            let mut dimensions = dimensions.clone();
            dimensions.insert(dimension.to_owned(), json!(id));
            add_figures(&mut rows, &format!("canvas.{group}"), point, &dimensions, stats);
        }
    }
    rows
}

/// A row for each number; in `messages`, texts tell the messages apart.
fn add_figures(rows: &mut Vec<Value>, path: &str, point: Point, dimensions: &Map<String, Value>, stats: &Value) {
    for (name, figure) in stats.as_object().into_iter().flatten() {
        if figure.is_number() {
            rows.push(metric_row(format!("{path}.{name}"), point, dimensions, figure));
        }
        for (channel, messages) in figure.as_object().into_iter().flatten().filter(|_| name == "messages") {
            for message in messages.as_array().into_iter().flatten() {
                let texts = message.as_object().into_iter().flatten().filter(|(_, value)| value.is_string());
                let mut dimensions = dimensions.clone();
                dimensions.extend(texts.map(|(name, value)| (name.clone(), value.clone())));
                add_figures(rows, &format!("{path}.messages.{channel}"), point, &dimensions, message);
            }
        }
    }
}

/// A row of a catalog: what the unified row names is taken out of `item`, the rest is the vendor's.
fn catalog_row(kind: &str, mut item: Map<String, Value>, status: Value, description: &str, updated_at: &str) -> Value {
    let mut take = |name: &str| item.shift_remove(name).unwrap_or(Value::Null);
    let time = |value: Value| {
        value.as_str().and_then(|text| DateTime::parse_from_rfc3339(text).ok()).map(|at| utc(at.to_utc()))
    };
    let (id, name, description) = (take("id"), take("name"), take(description));
    let (created_at, updated_at) = (time(take("created_at")), time(take(updated_at)));
    json!({
        "id": id,
        "kind": kind,
        "name": name,
        "description": description,
        "size": null,
        "status": status,
        "created_at": created_at,
        "updated_at": updated_at,
        "vendor": item,
    })
}

/// List item and details together; the details win.
fn merged(item: Value, details: Option<Value>) -> Map<String, Value> {
    let members = [Some(item), details].into_iter().flatten();
    members.filter_map(|value| value.as_object().cloned()).flatten().collect()
}

fn audiences(world: &World, details: bool) -> Vec<Value> {
    let row = |segment| {
        let item = merged(segments::item(segment), details.then(|| segments::described(segment)));
        catalog_row("segment", item, Value::Null, "text_description", "updated_at")
    };
    world.audiences().map(row).collect()
}

fn all_campaigns(world: &World, details: bool, archived: bool) -> Vec<Value> {
    let row = |campaign: Campaign| edited("campaign", campaign.item(), details.then(|| campaign.details(world)));
    campaigns::listed(archived).into_iter().map(row).collect()
}

fn all_canvases(details: bool, archived: bool) -> Vec<Value> {
    let row = |canvas: Canvas| edited("canvas", canvas.item(), details.then(|| canvas.details()));
    canvases::listed(archived).into_iter().map(row).collect()
}

fn edited(kind: &str, item: Value, details: Option<Value>) -> Value {
    let detailed = details.is_some();
    let mut item = merged(item, details);
    let mut is = |name: &str| item.shift_remove(name) == Some(json!(true));
    let (archived, draft, enabled) = (is("archived"), is("draft"), is("enabled"));
    let status = match () {
        () if !detailed => Value::Null,
        () if archived => json!("archived"),
        () if draft => json!("draft"),
        () if enabled => json!("enabled"),
        () => json!("stopped"),
    };
    if detailed {
        item.shift_remove("last_edited");
    }
    catalog_row(kind, item, status, "description", if detailed { "updated_at" } else { "last_edited" })
}

fn events(details: bool) -> Vec<Value> {
    let row = |name: String| {
        let mut item = merged(if details { vocabulary::event(&name) } else { json!({"name": name}) }, None);
        let status = item.shift_remove("status").unwrap_or(Value::Null);
        item.insert("id".to_owned(), json!(name));
        catalog_row("event", item, status, "description", "updated_at")
    };
    vocabulary::events().into_iter().map(row).collect()
}

fn suppressed_in(world: &World, kind: &str, days: i64) -> Value {
    json!({"kind": kind, "window": {"from": utc(days_ago(world, days)), "to": utc(days_ago(world, 0))}})
}

/// Before anybody was suppressed.
fn never(kind: &str) -> Value {
    json!({"kind": kind, "window": {"from": "2019-01-01T00:00:00Z", "to": "2019-02-01T00:00:00Z"}})
}

fn suppressed(world: &World, list: List, kind: &str, days: i64) -> Vec<Value> {
    let date = |days| -> NaiveDate { days_ago(world, days).date_naive() };
    let row = |number| {
        let entry = list.entry(number);
        json!({
            "kind": kind,
            "address": entry.address(),
            "suppressed_at": utc(entry.at()),
            "reason": entry.reason(),
            "vendor": {},
        })
    };
    list.between(world, date(days), date(0)).map(row).collect()
}

fn utc(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}
