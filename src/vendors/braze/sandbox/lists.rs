//! Pages: by number from 0, and by cursor in the `Link` header. No list says how long it is.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{Mutex, PoisonError},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::{gate::Refusal, query::Query};

/// The documented `page` and `sort_direction` of a list that is oldest first, and what it is made of.
pub fn page<T>(query: &Query, mut rows: Vec<T>, size: usize) -> Result<Vec<T>, Refusal> {
    if query.one_of("sort_direction", &["asc", "desc"])? == Some("desc") {
        rows.reverse();
    }
    let page = query.number("page", 0..=u64::MAX)?.unwrap_or(0);
    let start = usize::try_from(page).unwrap_or(usize::MAX).saturating_mul(size);
    let start = start.saturating_sub(slipped(query, "braze.lists.row_moves", page == 0));
    Ok(rows.into_iter().skip(start).take(size).collect())
}

/// How far each list's rows have slipped since its first page was read.
#[derive(Default)]
struct Slips(Mutex<HashMap<&'static str, usize>>);

/// How far the rows have slipped towards the end, as if new ones had come at the front between two pages.
pub fn slipped(query: &Query, fault: &str, first: bool) -> usize {
    let slips = query.world.shelf::<Slips>();
    let mut slips = slips.0.lock().unwrap_or_else(PoisonError::into_inner);
    let slip = slips.entry(query.path).or_default();
    if first {
        *slip = 0;
    } else if query.world.fault(fault) {
        *slip += 1;
    }
    *slip
}

/// The rows that the cursor means, out of `total`, and the `Link` header.
pub fn by_cursor(query: &Query, total: usize, size: usize) -> Result<(Range<usize>, Option<String>), Refusal> {
    let start = match query.text("cursor") {
        None => 0,
        Some(cursor) => STANDARD
            .decode(cursor)
            .ok()
            .and_then(|cursor| String::from_utf8(cursor).ok()?.strip_prefix("skip:")?.parse().ok())
            .filter(|start| *start <= total)
            .ok_or_else(|| query.forbidden("cursor is not one that was given"))?,
    };
    let end = total.min(start + size);
    let link = |start: usize, relation: &str| {
        let cursor = STANDARD.encode(format!("skip:{start}"));
        let cursor = utf8_percent_encode(&cursor, NON_ALPHANUMERIC);
        let elsewhere = query.world.fault_url("braze.lists.next_elsewhere").filter(|_| relation == "next");
        let path = elsewhere.unwrap_or_else(|| query.path.to_owned());
        format!("<{path}?cursor={cursor}>; rel=\"{relation}\"")
    };
    let mut links = Vec::new();
    if start > 0 {
        links.push(link(start.saturating_sub(size), "prev"));
    }
    if end < total {
        links.push(link(end, "next"));
    }
    Ok((start..end, (!links.is_empty()).then(|| links.join(","))))
}
