//! Campaigns, their series, and those of their sends: `_docs/_api/endpoints/export/campaigns/`.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Map, Value, json};

use super::{
    figures::{CHANNELS, figure, message, money, trait_of},
    gate::{Pool, Refusal, Reply},
    lists, numbered,
    query::{Get, Query},
    segments::{moment, spelled},
    series::{MAX_LENGTH, Point, points},
};
use crate::vendors::sandbox::World;

pub const PER_PAGE: usize = 100;
/// How many there are; every thirteenth is archived.
const CAMPAIGNS: u64 = 260;
/// How long figures of a send are kept after it, in days.
pub const SEND_RETENTION_DAYS: u64 = 14;
const SENDS: u64 = 30;

pub const GETS: &[Get] = &[
    Get {
        path: "/campaigns/list",
        faults: "braze.lists",
        pool: Pool::Default,
        parameters: &["page", "include_archived", "sort_direction", "last_edit.time[gt]"],
        answer: list,
    },
    Get {
        path: "/campaigns/details",
        faults: "braze.details",
        pool: Pool::Default,
        parameters: &["campaign_id", "post_launch_draft_version"],
        answer: |query| {
            query.flag("post_launch_draft_version")?;
            Ok(known(query)?.details(query.world).into())
        },
    },
    Get {
        path: "/campaigns/data_series",
        faults: "braze.series",
        pool: Pool::CampaignSeries,
        parameters: &["campaign_id", "length", "ending_at"],
        answer: |query| {
            let campaign = known(query)?;
            let data: Vec<_> =
                points(query, 1..=MAX_LENGTH)?.iter().map(|point| campaign.point(query.world, None, point)).collect();
            // The documented multivariate sample has no `message`.
            Ok(Reply { without_message: campaign.is_multivariate(), ..json!({"data": data}).into() })
        },
    },
    Get {
        path: "/sends/data_series",
        faults: "braze.series",
        pool: Pool::Default,
        parameters: &["campaign_id", "send_id", "length", "ending_at"],
        answer: sends,
    },
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Campaign(u64);

/// Those a list shows, oldest first.
pub fn listed(include_archived: bool) -> Vec<Campaign> {
    (1..=CAMPAIGNS).map(Campaign).filter(|campaign| include_archived || !campaign.is_archived()).collect()
}

fn list(query: &Query) -> Result<Reply, Refusal> {
    let edited_after = query.local_time("last_edit.time[gt]")?.map(|time| time.and_utc());
    let mut campaigns = listed(query.flag("include_archived")?);
    campaigns.retain(|campaign| edited_after.is_none_or(|after| campaign.edited_at() > after));
    let rows = lists::page(query, campaigns, PER_PAGE)?;
    Ok(json!({"campaigns": rows.into_iter().map(Campaign::item).collect::<Vec<_>>()}).into())
}

fn known(query: &Query) -> Result<Campaign, Refusal> {
    let number =
        numbered(query.required("campaign_id")?, campaign_id).filter(|number| (1..=CAMPAIGNS).contains(number));
    number.map(Campaign).ok_or_else(|| Refusal::bad("campaign_id must be a string of the campaign api identifier"))
}

fn campaign_id(number: u64) -> String {
    format!("c4a1b0c2-0000-4000-8000-{number:012}")
}

impl Campaign {
    pub fn id(self) -> String {
        campaign_id(self.0)
    }

    pub const fn is_archived(self) -> bool {
        self.0.is_multiple_of(13)
    }

    pub const fn is_multivariate(self) -> bool {
        self.0.is_multiple_of(4)
    }

    /// Only these have sends.
    pub const fn is_api(self) -> bool {
        self.0.is_multiple_of(5)
    }

    /// So old that some members are missing.
    const fn is_old(self) -> bool {
        self.0 % 10 == 1
    }

    fn name(self) -> String {
        match self.0 % 6 {
            0 => format!("=Summer, \"sale\" {}", self.0),
            1 => format!("欢迎 👋 {}", self.0),
            _ => format!("Campaign {}", self.0),
        }
    }

    fn created_at(self) -> DateTime<Utc> {
        moment(1_706_745_600, self.0)
    }

    fn edited_at(self) -> DateTime<Utc> {
        self.created_at() + TimeDelta::days((self.0 * 7 % 60).cast_signed())
    }

    /// The campaign in the list.
    pub fn item(self) -> Value {
        let mut item = json!({"id": self.id(), "last_edited": spelled(self.edited_at()), "name": self.name()});
        if !self.is_old() {
            item["is_api_campaign"] = json!(self.is_api());
            item["tags"] = self.tags();
        }
        item
    }

    fn tags(self) -> Value {
        if self.0.is_multiple_of(3) { json!(["Lifecycle", "促销"]) } else { json!([]) }
    }

    /// Flat, beside `message`.
    pub fn details(self, world: &World) -> Value {
        let channels: Vec<_> = self.channels().iter().map(|channel| channel.0).collect();
        let messages: Map<_, _> = channels
            .iter()
            .enumerate()
            .map(|(number, channel)| {
                (self.variation(number), json!({"channel": channel, "name": format!("V{number}")}))
            })
            .collect();
        let window = trait_of(world, &["window", &self.id()], 259_200);
        let mut details = json!({
            "created_at": spelled(self.created_at()),
            "updated_at": spelled(self.edited_at()),
            "archived": self.is_archived(),
            "draft": self.0.is_multiple_of(7),
            "enabled": !self.0.is_multiple_of(3),
            "has_post_launch_draft": false,
            "name": self.name(),
            "description": if self.0.is_multiple_of(2) { json!(format!("For \"{}\"", self.0)) } else { Value::Null },
            "schedule_type": if self.is_api() { "api_triggered" } else { "time_based" },
            "channels": channels,
            "first_sent": spelled(self.created_at() + TimeDelta::days(1)),
            "last_sent": (!self.0.is_multiple_of(7)).then(|| spelled(self.created_at() + TimeDelta::days(9))),
            "messages": messages,
            "conversion_behaviors": [{"type": "Opens App", "window": window}],
        });
        if !self.is_old() {
            details["tags"] = self.tags();
            details["teams"] = json!(["Growth"]);
        }
        details
    }

    fn channels(self) -> Vec<&'static (&'static str, &'static [&'static str])> {
        let first = usize::try_from(self.0).unwrap_or_default() % CHANNELS.len();
        let count = if self.is_multivariate() { 1 } else { 3 };
        CHANNELS.iter().cycle().skip(first).take(count).collect()
    }

    fn variation(self, number: usize) -> String {
        format!("e{number:07}-0000-4000-8000-{:012}", self.0)
    }

    /// One point of its series, or of one send's.
    pub fn point(self, world: &World, send: Option<&str>, point: &Point) -> Value {
        let id = self.id();
        let entity = ["campaign", id.as_str(), send.unwrap_or_default()];
        let messages: Map<_, _> = self
            .channels()
            .into_iter()
            .enumerate()
            .map(|(number, channel)| {
                let named =
                    |(key, name): (&'static str, String)| message(world, &entity, channel, Some((key, name)), point.at);
                let entries: Vec<_> = if self.is_multivariate() {
                    let mut entries: Vec<_> =
                        ["Variant 1", "Variant 2"].map(|name| named(("variation_name", name.to_owned()))).into();
                    // The control group gets no message.
                    entries
                        .push(json!({"variation_name": "Control", "enrolled": figure(world, &entity, point.at, 500)}));
                    entries
                } else {
                    vec![named(("variation_api_id", self.variation(number)))]
                };
                (channel.0.to_owned(), json!(entries))
            })
            .collect();
        let count = |name: &str| figure(world, &[entity[0], entity[1], entity[2], name], point.at, 1_000);
        let mut row = json!({
            "time": point.spelled(),
            "messages": messages,
            "conversions_by_send_time": count("conversions_by_send_time"),
            "conversions": count("conversions"),
            "unique_recipients": count("unique_recipients"),
            "revenue": money(world, &entity, point.at),
        });
        // Further conversion events are optional.
        if self.0.is_multiple_of(2) {
            for name in ["conversions1", "conversions1_by_send_time", "conversions2", "conversions3"] {
                row[name] = json!(count(name));
            }
        }
        row
    }
}

fn sends(query: &Query) -> Result<Reply, Refusal> {
    let campaign = known(query)?;
    let id = query.required("send_id")?;
    let points = points(query, 1..=MAX_LENGTH)?;
    let send = id.strip_prefix("send-").and_then(|days| days.parse::<u64>().ok()).filter(|days| *days <= SENDS);
    let Some(days) = send.filter(|days| campaign.is_api() && send_id(*days) == id) else {
        return Err(Refusal::bad("send_id must be a send of an API campaign"));
    };
    let sent_at = query.world.started_at() - TimeDelta::days(days.cast_signed());
    let kept = query.world.now() <= sent_at + TimeDelta::days(SEND_RETENTION_DAYS.cast_signed());
    let data: Vec<_> = if kept {
        points.iter().map(|point| campaign.point(query.world, Some(id), point)).collect()
    } else {
        Vec::new()
    };
    Ok(json!({"data": data}).into())
}

/// The send that was so many days ago when the sandbox started.
pub fn send_id(days_ago: u64) -> String {
    format!("send-{days_ago}")
}
