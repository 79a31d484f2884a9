//! Addresses that get no messages: `_docs/_api/endpoints/email/get_list_hard_bounces.md`,
//! `.../email/get_query_unsubscribed_email_addresses.md`, `.../sms/get_query_invalid_numbers.md`.
//! Braze takes days in UTC and does not say whether the last one counts: a part asks for every day it touches, and the
//! rows are held against its window.

use std::{borrow::Cow, sync::Arc};

use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use serde_json::value::RawValue;

use super::{
    api::{Api, Endpoint, Pool, shown},
    pages::{self, List, Rows, Turn, member},
    times::{instant_or_day, spelled, window},
};
use crate::exports::{
    parameters::{SuppressionKind, Suppressions, Window},
    problem::Code,
    records::{BadRecord, LineRecords},
    rows::{Cell, Object, Row, SuppressionRow},
};
use crate::vendors::{
    Exchanges, Next, PlannedCall, Progress, VendorData, VendorError,
    object::{self, Members, text},
};

const NO_OBJECT: BadRecord = BadRecord(Cow::Borrowed("a record is not a JSON object"));

/// The largest documented `limit`.
const LIMIT: usize = 500;
/// So many days a part has: far offsets are slow, and what fails is asked for again.
const DAYS: i64 = 31;

/// What one list's rows look like.
struct Shape {
    path: &'static str,
    permission: &'static str,
    rows: &'static [&'static str],
    address: &'static str,
    time: &'static str,
}

const fn shape(kind: SuppressionKind) -> Shape {
    match kind {
        SuppressionKind::Unsubscribed => Shape {
            path: "/email/unsubscribes",
            permission: "email.unsubscribe",
            rows: &["emails"],
            address: "email",
            time: "unsubscribed_at",
        },
        SuppressionKind::HardBounced => Shape {
            path: "/email/hard_bounces",
            permission: "email.hard_bounces",
            rows: &["emails"],
            address: "email",
            time: "hard_bounced_at",
        },
        SuppressionKind::InvalidPhone => Shape {
            path: "/sms/invalid_phone_numbers",
            permission: "sms.invalid_phone_numbers",
            rows: &["sms"],
            address: "phone",
            time: "invalid_detected_at",
        },
    }
}

fn day_of(time: DateTime<Utc>) -> DateTime<Utc> {
    time.duration_trunc(TimeDelta::days(1)).unwrap_or(time)
}

/// The window in pieces that meet at midnight, written `from/to`.
pub fn parts(window: Window) -> Vec<String> {
    let mut parts = Vec::new();
    let mut from = window.from;
    while from < window.to {
        let end = day_of(from).checked_add_signed(TimeDelta::days(DAYS)).unwrap_or(window.to).min(window.to);
        parts.push(format!("{}/{}", spelled(from), spelled(end)));
        from = end;
    }
    parts
}

/// The list that holds every row of a window. `end_date` is the midnight after it, which is right whether or not the
/// last day counts.
fn list(kind: SuppressionKind, window: Window) -> List {
    let Shape { path, permission, rows, .. } = shape(kind);
    let start = day_of(window.from);
    let end = day_of(window.to - TimeDelta::nanoseconds(1)) + TimeDelta::days(1);
    let day = |time: DateTime<Utc>| time.date_naive().to_string();
    let mut query = vec![("start_date", day(start)), ("end_date", day(end))];
    // Oldest first: what comes new while pages are read comes at the end.
    if kind == SuppressionKind::Unsubscribed {
        query.push(("sort_direction", "asc".to_owned()));
    }
    let endpoint = Endpoint { path, permission, pool: Pool::Default };
    List { endpoint, rows, query, turn: Turn::Offset { limit: LIMIT } }
}

/// The first call of each part.
pub fn planned(kind: SuppressionKind, parts: &[String]) -> Vec<PlannedCall> {
    let lists = parts.iter().filter_map(|part| window(part)).map(|window| list(kind, window));
    lists.map(|list| PlannedCall { method: "GET", path: shown(list.endpoint, &list.asked(None)), body: None }).collect()
}

/// Reads the list of a part.
pub async fn poll(
    api: &Api,
    part: &str,
    suppressions: Suppressions,
    verbatim: bool,
    exchanges: &Exchanges,
) -> Result<Progress, VendorError> {
    let Some(window) = window(part) else {
        return Err(VendorError::new(Code::Internal, Next::GiveUp, "the part is not one of this request"));
    };
    let list = list(suppressions.kind, window);
    let first = list.page(api, "poll", None, exchanges).await?;
    let Shape { time, .. } = shape(suppressions.kind);
    // A time that cannot be read is no reason to lose the row.
    let keep = move |row: &RawValue| {
        let at = member(row, time).and_then(|text| instant_or_day(&text));
        at.is_none_or(|at| window.from <= at && at < window.to)
    };
    // One address may be there twice, at two times: the whole row is its key.
    let rows = Rows { verbatim, key: |row| Some(row.get().to_owned()), keep: Arc::new(keep), details: None };
    let download = pages::read(api.clone(), list, rows, first, exchanges.clone());
    Ok(Progress::Data(VendorData { download, extension: "json".into(), tag: "rows".into() }))
}

/// Reads the rows.
pub struct Addresses(pub SuppressionKind);

impl LineRecords for Addresses {
    fn unified<'a>(&self, line: &'a [u8]) -> Result<Row<'a>, BadRecord> {
        let shape = shape(self.0);
        let mut members = Members::read(line).map_err(|_| NO_OBJECT)?;
        let mut take = |wanted: &str| {
            let position = members.0.iter().position(|(name, _)| name == wanted)?;
            text(members.0.remove(position).1)
        };
        let (address, at) = (take(shape.address), take(shape.time));
        let reason = if self.0 == SuppressionKind::InvalidPhone { take("reason") } else { None };
        let at = at.map(|at| instant_or_day(&at).map_or(at, |time| Cow::Owned(spelled(time))));
        let vendor = members.0.into_iter().map(|(name, value)| (name, Cell::Json(Cow::Borrowed(value)))).collect();
        Ok(Row::Suppression(SuppressionRow {
            kind: self.0.as_str().into(),
            address,
            suppressed_at: at,
            reason,
            vendor: Object(vendor),
        }))
    }

    fn vendor(&self, line: &[u8], out: &mut Vec<u8>) -> Result<(), BadRecord> {
        let members = Members::read(line).map_err(|_| NO_OBJECT)?;
        let members = members.0.iter().map(|(name, value)| (name.as_ref(), *value));
        object::write(members, out).map_err(|_| NO_OBJECT)
    }
}

#[cfg(test)]
#[path = "suppressions_tests.rs"]
mod tests;
