//! Lists that come page by page, read lazily. Braze pages in three ways (by number, by offset, by a cursor in the `Link`
//! header), says nowhere how long a list is, and rows may slip from one page to the next between two calls: such a row
//! is passed over, as far as the page before is remembered.

use std::collections::{HashSet, VecDeque};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use serde_json::value::RawValue;

use super::api::{Api, Ask, Endpoint, Query};
use crate::exports::problem::Code;
use crate::vendors::{
    Download, Exchanges, Next, VendorError,
    object::{self, Members, text},
};

/// One list of the API.
#[derive(Debug, Clone)]
pub struct List {
    pub endpoint: Endpoint,
    /// The member of an answer that holds the rows.
    pub rows: &'static [&'static str],
    pub query: Query,
    pub turn: Turn,
}

/// How a list is asked for its next page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// `page`, from 0; a page with fewer rows is the last.
    Number { size: usize },
    /// `limit` and `offset`; a page with fewer rows than the limit is the last.
    Offset { limit: usize },
    /// `cursor`; a page without a next link is the last.
    Cursor,
}

/// One page.
#[derive(Debug)]
pub struct Page {
    /// As Braze wrote it.
    pub body: Bytes,
    pub rows: Vec<Box<RawValue>>,
    /// Where the next page begins; none on the last.
    pub next: Option<String>,
}

impl List {
    /// What the page that begins `at` is asked with; the first when there is none.
    pub fn asked(&self, at: Option<&str>) -> Query {
        let mut query = self.query.clone();
        match (self.turn, at) {
            (Turn::Number { .. }, at) => query.push(("page", at.unwrap_or("0").to_owned())),
            (Turn::Offset { limit }, at) => {
                query.push(("limit", limit.to_string()));
                query.push(("offset", at.unwrap_or("0").to_owned()));
            }
            (Turn::Cursor, Some(cursor)) => query.push(("cursor", cursor.to_owned())),
            (Turn::Cursor, None) => {}
        }
        query
    }

    /// Asks for one page.
    ///
    /// # Errors
    /// Every answer that is not a page.
    pub async fn page(
        &self,
        api: &Api,
        action: &'static str,
        at: Option<&str>,
        exchanges: &Exchanges,
    ) -> Result<Page, VendorError> {
        let query = self.asked(at);
        let ask = Ask { action, endpoint: self.endpoint, query: &query, body: None, holds: self.rows };
        let (body, link) = api.fetch_page(ask, exchanges).await?;
        let rows = Members::read(&body).ok().and_then(|members| {
            let rows = members.get(self.rows.first().copied()?)?;
            serde_json::from_str::<Option<Vec<Box<RawValue>>>>(rows.get()).ok()
        });
        let Some(rows) = rows else {
            return Err(malformed(format!("`{}` of Braze's answer is no list", self.rows.join("."))));
        };
        let rows = rows.unwrap_or_default();
        let after = |size: usize, step: usize| {
            let at = at.and_then(|at| at.parse::<usize>().ok()).unwrap_or(0);
            (rows.len() >= size).then(|| (at + step).to_string())
        };
        let next = match self.turn {
            Turn::Number { size } => after(size, 1),
            Turn::Offset { limit } => after(limit, limit),
            Turn::Cursor => link.as_deref().map(next_cursor).transpose()?.flatten(),
        };
        if next.is_some() && next.as_deref() == at {
            return Err(malformed("Braze's next page is the same page"));
        }
        Ok(Page { body, rows, next })
    }
}

/// The cursor of the next page in a `Link` header. Only the cursor is taken from it, never the address: the key goes
/// nowhere but to the connection's own. Source: `_docs/_api/endpoints/export/custom_events/get_custom_events_data.md`.
fn next_cursor(header: &str) -> Result<Option<String>, VendorError> {
    for link in header.split('<') {
        let Some((target, parameters)) = link.split_once('>') else { continue };
        let is_next = parameters.split(';').any(|parameter| {
            let parameter = parameter.trim().trim_end_matches(',').replace('"', "");
            parameter.strip_prefix("rel=").is_some_and(|relations| relations.split(' ').any(|one| one == "next"))
        });
        if is_next {
            let cursor = target.split_once('?').and_then(|(_, query)| {
                let query = query.split('#').next().unwrap_or_default();
                url::form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "cursor")
            });
            return match cursor {
                Some((_, cursor)) => Ok(Some(cursor.into_owned())),
                None => Err(malformed("Braze's link to the next page has no cursor")),
            };
        }
    }
    Ok(None)
}

fn malformed(message: impl Into<String>) -> VendorError {
    VendorError::new(Code::VendorMalformedData, Next::GiveUp, message)
}

/// What becomes of the rows of a list.
#[derive(Clone)]
pub struct Rows {
    /// The bodies as they are, nothing passed over.
    pub verbatim: bool,
    /// Tells a row from the others.
    pub key: fn(&RawValue) -> Option<String>,
    pub keep: Keep,
    /// The call that tells more of one row, by its key.
    pub details: Option<Details>,
}

/// Which rows are wanted.
pub type Keep = std::sync::Arc<dyn Fn(&RawValue) -> bool + Send + Sync>;

/// A call for each row.
#[derive(Debug, Clone, Copy)]
pub struct Details {
    pub endpoint: Endpoint,
    /// The parameter that takes the row's key.
    pub parameter: &'static str,
}

/// The rest of a list.
struct Reading {
    api: Api,
    list: List,
    rows: Rows,
    exchanges: Exchanges,
    /// Rows of the page before and of this one, by their keys.
    before: HashSet<String>,
    now: HashSet<String>,
    queue: VecDeque<Box<RawValue>>,
    page: Option<Page>,
    next: Option<String>,
}

/// The whole list from its first page on: one row a line, or the vendor's bodies one after another. A page is asked for
/// when the one before is read.
pub fn read(api: Api, list: List, rows: Rows, first: Page, exchanges: Exchanges) -> Download {
    let reading = Reading {
        api,
        list,
        rows,
        exchanges,
        before: HashSet::new(),
        now: HashSet::new(),
        queue: VecDeque::new(),
        next: None,
        page: Some(first),
    };
    let chunks = stream::try_unfold(reading, |mut reading| async move {
        let chunk = reading.chunk().await?;
        Ok(chunk.map(|chunk| (chunk, reading)))
    });
    Download { length: None, body: chunks.boxed() }
}

impl Reading {
    async fn chunk(&mut self) -> Result<Option<Bytes>, VendorError> {
        loop {
            if let Some(row) = self.queue.pop_front() {
                return self.detailed(&row).await.map(Some);
            }
            let page = match (self.page.take(), self.next.take()) {
                (Some(page), _) => page,
                (None, Some(next)) => self.list.page(&self.api, "poll", Some(&next), &self.exchanges).await?,
                (None, None) => return Ok(None),
            };
            let chunk = self.turn(page)?;
            if !chunk.is_empty() {
                return Ok(Some(chunk.into()));
            }
        }
    }

    /// Goes over one page: what can be handed on at once, and what has to be asked about first.
    fn turn(&mut self, page: Page) -> Result<Vec<u8>, VendorError> {
        self.before = std::mem::take(&mut self.now);
        let mut chunk = Vec::new();
        if self.rows.verbatim {
            chunk.extend_from_slice(&page.body);
            chunk.push(b'\n');
        }
        let mut is_new = page.rows.is_empty();
        for row in page.rows {
            if let Some(key) = (self.rows.key)(&row) {
                let slipped = self.before.contains(&key);
                if !self.now.insert(key) || slipped {
                    continue;
                }
            }
            is_new = true;
            if !(self.rows.keep)(&row) {
                continue;
            }
            match (self.rows.details, self.rows.verbatim) {
                (Some(_), _) => self.queue.push_back(row),
                (None, true) => {}
                (None, false) => line(row.get(), &mut chunk),
            }
        }
        if !is_new && page.next.is_some() {
            return Err(malformed("Braze gives the same page again and again"));
        }
        self.next = page.next;
        Ok(chunk)
    }

    /// A row together with its details, which win.
    async fn detailed(&self, row: &RawValue) -> Result<Bytes, VendorError> {
        let mut chunk = Vec::new();
        let (Some(details), Some(key)) = (self.rows.details, (self.rows.key)(row)) else {
            line(row.get(), &mut chunk);
            return Ok(chunk.into());
        };
        let query = [(details.parameter, key)];
        let ask = Ask { action: "poll", endpoint: details.endpoint, query: &query, body: None, holds: &[] };
        let body = self.api.fetch_whole(ask, &self.exchanges).await?;
        if self.rows.verbatim {
            chunk.extend_from_slice(&body);
            chunk.push(b'\n');
            return Ok(chunk.into());
        }
        let (Some(item), Ok(more)) = (Members::of(row), Members::read(&body)) else {
            return Err(malformed("Braze's details are no JSON object"));
        };
        let more =
            Members(more.0.into_iter().filter(|(name, _)| !matches!(name.as_ref(), "message" | "errors")).collect());
        let only_listed = item.0.iter().filter(|(name, _)| more.get(name).is_none());
        let members = only_listed.chain(&more.0).map(|(name, value)| (name.as_ref(), *value));
        let mut merged = Vec::new();
        object::write(members, &mut merged).map_err(|_| malformed("Braze's details cannot be written"))?;
        chunk.extend(merged.iter().map(|byte| flat(*byte)));
        chunk.push(b'\n');
        Ok(chunk.into())
    }
}

/// Appends JSON as one line. Between the tokens of JSON a line break means no more than a blank, and inside a string
/// there is none.
fn line(json: &str, out: &mut Vec<u8>) {
    out.extend(json.bytes().map(flat));
    out.push(b'\n');
}

const fn flat(byte: u8) -> u8 {
    if matches!(byte, b'\n' | b'\r') { b' ' } else { byte }
}

/// The text of a member, as a row's key.
pub fn member(row: &RawValue, name: &str) -> Option<String> {
    Members::of(row)?.get(name).and_then(text).map(std::borrow::Cow::into_owned)
}

#[cfg(test)]
#[path = "pages_tests.rs"]
mod tests;
