//! Segments: `_docs/_api/endpoints/export/segments/get_segment{,_details}.md`. One for each audience of the world.

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::{Value, json};

use super::{
    gate::{Pool, Refusal, Reply},
    lists,
    query::{Get, Query},
    segment_id, segment_number,
};
use crate::vendors::sandbox::{Audience, World};

pub const PER_PAGE: usize = 100;

pub const GETS: &[Get] = &[
    Get {
        path: "/segments/list",
        faults: "braze.lists",
        pool: Pool::Default,
        parameters: &["page", "sort_direction"],
        answer: list,
    },
    Get {
        path: "/segments/details",
        faults: "braze.details",
        pool: Pool::Default,
        parameters: &["segment_id"],
        answer: details,
    },
];

fn list(query: &Query) -> Result<Reply, Refusal> {
    let segments = lists::page(query, query.world.audiences().collect(), PER_PAGE)?;
    Ok(json!({"segments": segments.into_iter().map(item).collect::<Vec<_>>()}).into())
}

/// A segment in the list. The oldest lack `tags`.
pub fn item(segment: Audience) -> Value {
    let mut item = json!({
        "id": segment_id(segment.number),
        "name": segment.title(),
        "analytics_tracking_enabled": is_tracked(segment),
    });
    if !is_old(segment) {
        item["tags"] = if segment.number == 1 { json!(["demo"]) } else { json!([]) };
    }
    item
}

fn details(query: &Query) -> Result<Reply, Refusal> {
    Ok(described(known(query.world, query.required("segment_id")?)?).into())
}

/// The two descriptions are swapped from what one expects.
pub fn described(segment: Audience) -> Value {
    let mut details = json!({
        "created_at": spelled(created_at(segment)),
        "updated_at": spelled(created_at(segment) + TimeDelta::days(40)),
        "name": segment.title(),
        "description": format!("Number is divisible by {}", segment.number),
        "text_description": (!segment.number.is_multiple_of(4)).then(|| format!("Made for \"{}\" 🎯", segment.title())),
    });
    if !is_old(segment) {
        details["tags"] = item(segment)["tags"].clone();
        details["teams"] = json!(if segment.number.is_multiple_of(5) { vec!["Growth"] } else { vec![] });
    }
    details
}

fn created_at(segment: Audience) -> DateTime<Utc> {
    moment(1_704_067_200, segment.number)
}

/// Later by a day for each number, never on a whole second.
pub fn moment(start: i64, number: u64) -> DateTime<Utc> {
    let millis = i64::try_from(number).unwrap_or_default().saturating_mul(86_400_000 + 61_234).saturating_add(123);
    DateTime::from_timestamp(start, 0).unwrap_or_default() + TimeDelta::milliseconds(millis % 60_000_000_000)
}

pub fn spelled(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, false)
}

fn is_old(segment: Audience) -> bool {
    segment.number % 10 == 4
}

/// Only these have a size over time, and narrow other series.
pub fn is_tracked(segment: Audience) -> bool {
    segment.number % 2 == 1
}

/// The segment of that identifier, or the vendor's refusal.
pub fn known(world: &World, id: &str) -> Result<Audience, Refusal> {
    segment_number(id)
        .and_then(|number| world.audience(number))
        .ok_or_else(|| Refusal::bad("segment_id must be a string of the segment api identifier"))
}
