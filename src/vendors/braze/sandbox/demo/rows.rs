//! The unified rows that an export from this simulator must become.

use chrono::{DateTime, NaiveDate, SecondsFormat, TimeDelta, Utc};
use serde_json::{Map, Value, json};

use super::{
    super::{
        campaigns::{self, Campaign},
        canvases::{self, Breakdown, Canvas},
        order::{NOT_OF_CONTROL_GROUP, control_group},
        segments,
        series::{Point, value},
        suppressions::List,
        vocabulary,
    },
    days_ago,
};
use crate::vendors::sandbox::{Audience, World, people::Person};

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
pub(super) fn of_control_group(world: &World) -> Vec<Value> {
    let members = control_group(world).into_iter().flat_map(Audience::members);
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

pub(super) fn points(world: &World, from: i64, to: i64, hourly: bool) -> impl Iterator<Item = Point> + use<> {
    let (start, end) = (days_ago(world, from), days_ago(world, to));
    let unit = if hourly { TimeDelta::hours(1) } else { TimeDelta::days(1) };
    std::iter::successors(Some(start), move |at| Some(*at + unit))
        .take_while(move |at| *at < end)
        .map(move |at| Point { at, hourly })
}

pub(super) fn simple(world: &World, metric: &str, from: i64, to: i64, subject: &[(&str, &str)]) -> Vec<Value> {
    points(world, from, to, false).map(|point| simple_row(world, metric, subject, point)).collect()
}

pub(super) fn simple_row(world: &World, metric: &str, subject: &[(&str, &str)], point: Point) -> Value {
    let dimensions = subject.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
    metric_row(metric, point, &dimensions, &value(world, metric, subject, &point))
}

fn metric_row(metric: &str, point: Point, dimensions: &Map<String, Value>, value: &Value) -> Value {
    json!({
        "metric": metric,
        "time": utc(point.at),
        "interval": if point.hourly { "hour" } else { "day" },
        "dimensions": dimensions,
        "value": value,
    })
}

pub(super) fn of_campaign(world: &World, campaign: Campaign, send: Option<&str>, from: i64, to: i64) -> Vec<Value> {
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

pub(super) fn of_canvas(world: &World, canvas: Canvas, point: Point) -> Vec<Value> {
    let breakdown = Breakdown { variants: true, steps: true, deleted_steps: false };
    let mut stats = json!({});
    canvas.add_stats(world, breakdown, &point, &mut stats);
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
            rows.push(metric_row(&format!("{path}.{name}"), point, dimensions, figure));
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
fn catalog_row(kind: &str, mut item: Map<String, Value>, status: &Value, description: &str, updated_at: &str) -> Value {
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

pub(super) fn audiences(world: &World, details: bool) -> Vec<Value> {
    let row = |segment| {
        let item = merged(segments::item(segment), details.then(|| segments::described(segment)));
        catalog_row("segment", item, &Value::Null, "text_description", "updated_at")
    };
    world.audiences().map(row).collect()
}

pub(super) fn all_campaigns(world: &World, details: bool, archived: bool) -> Vec<Value> {
    let row = |campaign: Campaign| edited("campaign", campaign.item(), details.then(|| campaign.details(world)));
    campaigns::listed(archived).into_iter().map(row).collect()
}

pub(super) fn all_canvases(details: bool, archived: bool) -> Vec<Value> {
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
    catalog_row(kind, item, &status, "description", if detailed { "updated_at" } else { "last_edited" })
}

pub(super) fn events(details: bool) -> Vec<Value> {
    let row = |name: String| {
        let mut item = merged(if details { vocabulary::event(&name) } else { json!({"name": name}) }, None);
        let status = item.shift_remove("status").unwrap_or(Value::Null);
        item.insert("id".to_owned(), json!(name));
        catalog_row("event", item, &status, "description", "updated_at")
    };
    vocabulary::events().into_iter().map(row).collect()
}

pub(super) fn suppressed(world: &World, list: List, kind: &str, days: i64) -> Vec<Value> {
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

pub(super) fn utc(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}
