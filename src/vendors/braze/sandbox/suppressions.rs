//! Addresses that are not written to: `_docs/_api/endpoints/email/get_list_hard_bounces.md`,
//! `.../email/get_query_unsubscribed_email_addresses.md`, `.../sms/get_query_invalid_numbers.md`.

use std::ops::Range;

use chrono::{DateTime, Days, NaiveDate, NaiveTime, TimeDelta, Utc};
use serde_json::{Value, json};

use super::{
    gate::{Pool, Refusal, Reply},
    lists,
    query::{Get, Query},
};
use crate::vendors::sandbox::World;

const MAX_LIMIT: u64 = 500;
const DEFAULT_LIMIT: u64 = 100;

/// A list, and how many come onto it each day since the beginning of 2020.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum List {
    Unsubscribed,
    HardBounced,
    InvalidPhone,
}

pub const GETS: &[Get] = &[
    Get {
        path: "/email/unsubscribes",
        faults: "braze.suppressions",
        pool: Pool::Default,
        parameters: &["start_date", "end_date", "limit", "offset", "sort_direction", "email"],
        answer: |query| emails(query, List::Unsubscribed),
    },
    Get {
        path: "/email/hard_bounces",
        faults: "braze.suppressions",
        pool: Pool::Default,
        parameters: &["start_date", "end_date", "limit", "offset", "email"],
        answer: |query| emails(query, List::HardBounced),
    },
    Get {
        path: "/sms/invalid_phone_numbers",
        faults: "braze.suppressions",
        pool: Pool::Default,
        parameters: &["start_date", "end_date", "limit", "offset", "phone_numbers[]", "reason"],
        answer: phones,
    },
];

/// Somebody on a list.
pub struct Entry {
    list: List,
    /// Counted from the first of all.
    number: u64,
}

impl List {
    const fn per_day(self) -> u64 {
        match self {
            // Ten days are exactly one page of the largest size.
            Self::Unsubscribed => 50,
            Self::HardBounced => 37,
            Self::InvalidPhone => 41,
        }
    }

    /// The entries of `[from, to)`, oldest first. Both dates are midnight in UTC.
    pub fn between(self, world: &World, from: NaiveDate, to: NaiveDate) -> Range<u64> {
        let days = |date: NaiveDate| u64::try_from((date - beginning()).num_days()).unwrap_or(0);
        let today = world.now().date_naive();
        let (from, to) = (days(from.min(today)), days(to.min(today)));
        from * self.per_day()..to.max(from) * self.per_day()
    }

    pub const fn entry(self, number: u64) -> Entry {
        Entry { list: self, number }
    }

    fn find(self, address: &str) -> Option<Entry> {
        let digits: String = address.chars().filter(char::is_ascii_digit).collect();
        // Phone numbers begin with a fixed +1555.
        let number = digits.strip_prefix("1555").filter(|_| self == Self::InvalidPhone).unwrap_or(&digits);
        let entry = self.entry(number.parse().ok()?);
        (entry.address() == address).then_some(entry)
    }
}

impl Entry {
    pub fn address(&self) -> String {
        match self.list {
            List::Unsubscribed => format!("quiet+{}@example.test", self.number),
            List::HardBounced => format!("gone{}@example.test", self.number),
            List::InvalidPhone => format!("+1555{:09}", self.number),
        }
    }

    /// On a whole second.
    pub fn at(&self) -> DateTime<Utc> {
        let (day, of_day) = (self.number / self.list.per_day(), self.number % self.list.per_day());
        let date = beginning().checked_add_days(Days::new(day)).unwrap_or_default();
        let seconds = of_day * 86_400 / self.list.per_day();
        date.and_time(NaiveTime::MIN).and_utc() + TimeDelta::seconds(seconds.cast_signed())
    }

    pub fn reason(&self) -> Option<&'static str> {
        (self.list == List::InvalidPhone).then_some(if self.number.is_multiple_of(3) {
            "deactivated"
        } else {
            "provider_error"
        })
    }

    fn row(&self) -> Value {
        let at = self.at().format("%Y-%m-%d %H:%M:%S %z").to_string();
        match self.list {
            List::Unsubscribed => json!({"email": self.address(), "unsubscribed_at": at}),
            List::HardBounced => json!({"email": self.address(), "hard_bounced_at": at}),
            List::InvalidPhone => {
                json!({"phone": self.address(), "invalid_detected_at": at, "reason": self.reason()})
            }
        }
    }
}

fn emails(query: &Query, list: List) -> Result<Reply, Refusal> {
    let (offset, limit) = paging(query)?;
    let end = query.date("end_date")?.ok_or_else(|| query.forbidden("end_date is required"))?;
    let oldest_first = query.one_of("sort_direction", &["asc", "desc"])? == Some("asc");
    let start = query.date("start_date")?;
    if let Some(address) = query.text("email") {
        let until = end.and_time(NaiveTime::MIN).and_utc();
        let found = list.find(address).filter(|entry| entry.at() < until.min(query.world.now()));
        // `offset` counts here, too, and easily leaves nothing.
        let rows: Vec<_> = found.iter().skip(offset).take(limit).map(Entry::row).collect();
        return Ok(json!({"emails": rows}).into());
    }
    let start = start.ok_or_else(|| query.forbidden("start_date or email is required"))?;
    let numbers = between(query, list, start, end)?;
    let rows: Vec<_> = if oldest_first {
        numbers.skip(offset).take(limit).map(|number| list.entry(number).row()).collect()
    } else {
        numbers.rev().skip(offset).take(limit).map(|number| list.entry(number).row()).collect()
    };
    Ok(json!({"emails": rows}).into())
}

fn phones(query: &Query) -> Result<Reply, Refusal> {
    let (offset, limit) = paging(query)?;
    let list = List::InvalidPhone;
    let reason = query.one_of("reason", &["provider_error", "deactivated"])?;
    let (start, end) = (query.date("start_date")?, query.date("end_date")?);
    let wanted = |entry: &Entry| reason.is_none_or(|reason| entry.reason() == Some(reason));
    let numbers: Vec<_> = query.all("phone_numbers[]").collect();
    let rows: Vec<_> = if numbers.is_empty() {
        let (Some(start), Some(end)) = (start, end) else {
            return Err(query.forbidden("start_date and end_date, or phone_numbers, are required"));
        };
        let entries = between(query, list, start, end)?.rev().map(|number| list.entry(number));
        entries.filter(wanted).skip(offset).take(limit).map(|entry| entry.row()).collect()
    } else {
        let entries = numbers.iter().filter_map(|number| list.find(number)).filter(wanted);
        entries.skip(offset).take(limit).map(|entry| entry.row()).collect()
    };
    Ok(json!({"sms": rows}).into())
}

/// `offset` and `limit`.
fn paging(query: &Query) -> Result<(usize, usize), Refusal> {
    let place = |number: Option<u64>, otherwise| usize::try_from(number.unwrap_or(otherwise)).unwrap_or(usize::MAX);
    let limit = place(query.number("limit", 0..=MAX_LIMIT)?, DEFAULT_LIMIT);
    let offset = place(query.number("offset", 0..=u64::MAX)?, 0);
    Ok((offset.saturating_sub(lists::slipped(query, "braze.suppressions.row_moves", offset == 0)), limit))
}

fn between(query: &Query, list: List, start: NaiveDate, end: NaiveDate) -> Result<Range<u64>, Refusal> {
    if start >= end {
        return Err(query.forbidden("start_date must be earlier than end_date"));
    }
    Ok(list.between(query.world, start, end))
}

fn beginning() -> NaiveDate {
    NaiveDate::from_ymd_opt(2020, 1, 1).unwrap_or_default()
}
