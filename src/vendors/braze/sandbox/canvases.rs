//! Canvases and their series: `_docs/_api/endpoints/export/canvas/`.

use std::ops::RangeInclusive;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Map, Value, json};

use super::{
    figures::{CHANNELS, figure, message, money},
    gate::{Pool, Refusal, Reply},
    lists, numbered,
    query::{Get, Query},
    segments::{moment, spelled},
    series::{Point, before},
};
use crate::vendors::sandbox::World;

pub const PER_PAGE: usize = 100;
/// How many there are. Without the archived ones they fill two pages exactly.
const CANVASES: u64 = 215;
/// Days in one call.
const LENGTHS: RangeInclusive<u64> = 1..=14;

pub const GETS: &[Get] = &[
    Get {
        path: "/canvas/list",
        faults: "braze.lists",
        pool: Pool::Default,
        parameters: &["page", "include_archived", "sort_direction", "last_edit.time[gt]"],
        answer: list,
    },
    Get {
        path: "/canvas/details",
        faults: "braze.details",
        pool: Pool::Default,
        parameters: &["canvas_id", "post_launch_draft_version"],
        answer: |query| {
            query.flag("post_launch_draft_version")?;
            Ok(known(query)?.details().into())
        },
    },
];

const WINDOW: &[&str] = &[
    "canvas_id",
    "ending_at",
    "starting_at",
    "length",
    "include_variant_breakdown",
    "include_step_breakdown",
    "include_deleted_step_data",
];

/// What is counted of a whole canvas and of a variant.
const ENTERED: [&str; 3] = ["conversions", "conversions_by_entry_time", "entries"];

/// What is seen over time.
pub const SERIES: &[Get] = &[
    Get {
        path: "/canvas/data_series",
        faults: "braze.series",
        pool: Pool::Default,
        parameters: WINDOW,
        answer: |query| {
            let canvas = known(query)?;
            let breakdown = Breakdown::read(query)?;
            let stats: Vec<_> = window(query)?
                .iter()
                .map(|point| {
                    let mut stats = json!({"time": point.spelled()});
                    canvas.add_stats(query.world, breakdown, point, &mut stats);
                    stats
                })
                .collect();
            Ok(json!({"data": {"name": canvas.name(), "stats": stats}}).into())
        },
    },
    Get {
        path: "/canvas/data_summary",
        faults: "braze.series",
        pool: Pool::Default,
        parameters: WINDOW,
        answer: summary,
    },
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Canvas(u64);

/// What the figures are split by. None of it unless asked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Breakdown {
    pub variants: bool,
    pub steps: bool,
    pub deleted_steps: bool,
}

impl Breakdown {
    fn read(query: &Query) -> Result<Self, Refusal> {
        Ok(Self {
            variants: query.flag("include_variant_breakdown")?,
            steps: query.flag("include_step_breakdown")?,
            deleted_steps: query.flag("include_deleted_step_data")?,
        })
    }
}

/// Those a list shows, oldest first.
pub fn listed(include_archived: bool) -> Vec<Canvas> {
    (1..=CANVASES).map(Canvas).filter(|canvas| include_archived || !canvas.is_archived()).collect()
}

fn list(query: &Query) -> Result<Reply, Refusal> {
    let edited_after = query.local_time("last_edit.time[gt]")?.map(|time| time.and_utc());
    let mut canvases = listed(query.flag("include_archived")?);
    canvases.retain(|canvas| edited_after.is_none_or(|after| canvas.edited_at() > after));
    let rows = lists::page(query, canvases, PER_PAGE)?;
    Ok(json!({"canvases": rows.into_iter().map(Canvas::item).collect::<Vec<_>>()}).into())
}

fn known(query: &Query) -> Result<Canvas, Refusal> {
    let number = numbered(query.required("canvas_id")?, canvas_id).filter(|number| (1..=CANVASES).contains(number));
    number.map(Canvas).ok_or_else(|| Refusal::bad("canvas_id must be a string of the canvas api identifier"))
}

fn canvas_id(number: u64) -> String {
    format!("ca2b5a50-0000-4000-8000-{number:012}")
}

/// `ending_at`, and `starting_at` or `length`.
fn window(query: &Query) -> Result<Vec<Point>, Refusal> {
    let end = query.time("ending_at")?.ok_or_else(|| query.forbidden("ending_at is required"))?;
    let length = match (query.time("starting_at")?, query.number("length", LENGTHS)?) {
        (None, None) => return Err(query.forbidden("length or starting_at is required")),
        (_, Some(length)) => length,
        (Some(start), None) => {
            let seconds = u64::try_from((end - start).num_seconds()).unwrap_or(0);
            Some(seconds.div_ceil(86_400))
                .filter(|days| LENGTHS.contains(days))
                .ok_or_else(|| query.forbidden("starting_at must be 1 to 14 days before ending_at"))?
        }
    };
    Ok(before(query, end, length, false))
}

/// One rollup of the window, without `time`.
fn summary(query: &Query) -> Result<Reply, Refusal> {
    let canvas = known(query)?;
    let breakdown = Breakdown::read(query)?;
    let mut data = json!({});
    for point in window(query)? {
        let mut stats = json!({});
        canvas.add_stats(query.world, breakdown, &point, &mut stats);
        add_up(&mut data, &stats);
    }
    data["name"] = json!(canvas.name());
    Ok(json!({"data": data}).into())
}

/// Adds numbers, member by member; all else is taken over.
fn add_up(total: &mut Value, more: &Value) {
    match (&mut *total, more) {
        (Value::Object(total), Value::Object(more)) => {
            for (name, value) in more {
                add_up(total.entry(name).or_insert(Value::Null), value);
            }
        }
        (Value::Array(total), Value::Array(more)) if total.len() == more.len() => {
            total.iter_mut().zip(more).for_each(|(total, more)| add_up(total, more));
        }
        (Value::Number(one), Value::Number(other)) => {
            *total = match (one.as_u64(), other.as_u64()) {
                (Some(one), Some(other)) => json!(one + other),
                _ => json!(one.as_f64().unwrap_or_default() + other.as_f64().unwrap_or_default()),
            };
        }
        (total, more) => *total = more.clone(),
    }
}

impl Canvas {
    pub fn id(self) -> String {
        canvas_id(self.0)
    }

    pub const fn is_archived(self) -> bool {
        self.0.is_multiple_of(14)
    }

    const fn is_old(self) -> bool {
        self.0 % 10 == 1
    }

    fn name(self) -> String {
        if self.0.is_multiple_of(5) { format!("旅程, \"{}\"", self.0) } else { format!("Canvas {}", self.0) }
    }

    fn created_at(self) -> DateTime<Utc> {
        moment(1_709_251_200, self.0)
    }

    fn edited_at(self) -> DateTime<Utc> {
        self.created_at() + TimeDelta::days((self.0 * 11 % 45).cast_signed())
    }

    fn tags(self) -> Value {
        if self.0.is_multiple_of(3) { json!(["Onboarding"]) } else { json!([]) }
    }

    /// The canvas in the list.
    pub fn item(self) -> Value {
        let mut item = json!({"id": self.id(), "last_edited": spelled(self.edited_at()), "name": self.name()});
        if !self.is_old() {
            item["tags"] = self.tags();
        }
        item
    }

    /// Flat, beside `message`.
    pub fn details(self) -> Value {
        let [welcome, wait, goodbye] = [0, 1, 2].map(|step| self.step_id(step));
        let [one, two] = [0, 1].map(|variant| self.variant_id(variant));
        let mut details = json!({
            "created_at": spelled(self.created_at()),
            "updated_at": spelled(self.edited_at()),
            "name": self.name(),
            "description": if self.0.is_multiple_of(2) { json!("Leads people on") } else { Value::Null },
            "archived": self.is_archived(),
            "draft": self.0.is_multiple_of(9),
            "enabled": !self.0.is_multiple_of(4),
            "has_post_launch_draft": self.0.is_multiple_of(8),
            "schedule_type": "action_based",
            "first_entry": spelled(self.created_at() + TimeDelta::days(1)),
            "last_entry": spelled(self.created_at() + TimeDelta::days(30)),
            "channels": ["email", "ios_push"],
            "variants": [
                {"name": "Variant 1", "id": one, "first_step_ids": [welcome], "first_step_id": welcome},
                {"name": "Control", "id": two, "first_step_ids": []},
            ],
            "steps": [
                {
                    "name": "Welcome", "type": "message", "id": welcome, "next_step_ids": [wait],
                    "next_paths": [{"name": "Always", "next_step_id": wait}], "channels": ["email"],
                    "messages": {self.step_id(7): {"channel": "email"}},
                },
                {
                    "name": "Wait", "type": "delay", "id": wait, "next_step_ids": [goodbye],
                    "next_paths": [{"name": "Delay", "next_step_id": goodbye}], "channels": [], "messages": {},
                },
                {
                    "name": "Goodbye", "type": "message", "id": goodbye, "next_step_ids": [],
                    "next_paths": [], "channels": ["ios_push"], "messages": {self.step_id(8): {"channel": "ios_push"}},
                },
            ],
        });
        if !self.is_old() {
            details["tags"] = self.tags();
            details["teams"] = json!([]);
        }
        details
    }

    fn variant_id(self, variant: u64) -> String {
        format!("ca2b5a51-{variant:04}-4000-8000-{:012}", self.0)
    }

    fn step_id(self, step: u64) -> String {
        format!("ca2b5a52-{step:04}-4000-8000-{:012}", self.0)
    }

    /// The figures of one day.
    pub fn add_stats(self, world: &World, breakdown: Breakdown, point: &Point, stats: &mut Value) {
        let id = self.id();
        let counted = |part: &str, names: &[&str]| {
            let count = |name: &&str| ((*name).to_owned(), json!(figure(world, &[&id, part, name], point.at, 5_000)));
            let mut counted: Map<String, Value> = names.iter().map(count).collect();
            counted.insert("revenue".to_owned(), money(world, &[&id, part], point.at));
            counted
        };
        stats["total_stats"] = json!(counted("total", &ENTERED));
        if breakdown.variants {
            let variant = |(number, name): (u64, &str)| {
                let id = self.variant_id(number);
                let mut variant = counted(&id, &ENTERED);
                variant.insert("name".to_owned(), json!(name));
                (id, json!(variant))
            };
            stats["variant_stats"] =
                Value::Object([(0, "Variant 1"), (1, "Control")].into_iter().map(variant).collect());
        }
        if breakdown.steps {
            let deleted = if breakdown.deleted_steps { Some((3, "Deleted step", Some(0))) } else { None };
            let steps =
                [(0, "Welcome", Some(0)), (1, "Wait", None), (2, "Goodbye", Some(1))].into_iter().chain(deleted);
            let step = |(number, name, channel): (u64, &str, Option<usize>)| {
                let id = self.step_id(number);
                let mut step = counted(&id, &["conversions", "conversions_by_entry_time", "unique_recipients"]);
                step.insert("name".to_owned(), json!(name));
                let channel = channel.and_then(|channel| CHANNELS.get(channel));
                let messages: Map<_, _> = channel
                    .map(|channel| (channel.0.to_owned(), json!([message(world, &[&id], channel, None, point.at)])))
                    .into_iter()
                    .collect();
                step.insert("messages".to_owned(), json!(messages));
                (id, json!(step))
            };
            stats["step_stats"] = Value::Object(steps.map(step).collect());
        }
    }
}
