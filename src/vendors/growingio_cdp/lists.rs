//! The lists of tags and segments: `audiences`, the catalog, and the look-up of one key.
//! Source: `developer-manual/open-api/cdp/space/{space-search-user-tags,space-search-segment-profiles}.md`.

use std::{borrow::Cow, collections::HashSet};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Deserialize;
use serde_json::value::RawValue;
use url::Url;

use super::{
    pages::{Api, Listing},
    place::{AudienceRef, List, Place},
    wire::{self, About},
};
use crate::exports::{
    problem::Code,
    records::{BadRecord, Emit, Framing, Member, Record, Records},
    rows::{CatalogRow, Cell, Row},
};
use crate::vendors::{
    CatalogPage, Exchanges, Next, VendorError,
    http::{below, decided},
    object::{self, Members, text},
};

/// The most that one call may ask for. Source: same pages, parameter `limit`.
const MAX_LIMIT: u64 = 1000;
/// Rows of a catalog page: people look at them one page at a time.
const CATALOG_LIMIT: u64 = 200;
/// The largest page that is read at once, in bytes: 1,000 entries with long descriptions.
const MAX_PAGE: usize = 16 * 1024 * 1024;
/// The member of a page with its entries.
const VALUES: &str = "values";
const ABOUT: About = About { not_found: "CDP has no such list; check project, space and `path_family`", by_key: false };

/// The listing of every tag or segment.
pub fn listing(base: &Url, place: &Place, list: List) -> Listing {
    Listing { url: below(base, &place.list(list)), limit: Some(MAX_LIMIT), records: VALUES, about: ABOUT }
}

/// One page, read.
#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    values: Vec<&'a RawValue>,
    #[serde(default, rename = "hasNextPage")]
    has_next_page: bool,
}

/// What a list says of one tag or segment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    /// Of the computation: `NONE`, `READY`, `RUNNING`, `FINISH` or `ERROR`.
    pub stage: Option<String>,
    /// When the newest computation ended.
    pub detected_at: Option<String>,
}

/// What was found of a key.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    Here(Entry),
    /// The whole list was read.
    Nowhere,
    /// The list could not be read, which says nothing about the key.
    Unreadable(VendorError),
}

/// Looks for one tag or segment, page after page.
///
/// # Errors
/// When the vendor could not be asked, rejects the token or wants a pause.
pub async fn find(
    api: &Api,
    base: &Url,
    place: &Place,
    audience: &AudienceRef<'_>,
    exchanges: &Exchanges,
) -> Result<Found, VendorError> {
    let mut offset = 0;
    loop {
        let mut url = below(base, &place.list(audience.list));
        url.set_query(Some(&format!("limit={MAX_LIMIT}&offset={offset}")));
        let answer = api.get("verify", url, MAX_PAGE, exchanges).await?;
        let page = answer.status.is_success().then(|| serde_json::from_slice::<Page<'_>>(&answer.body).ok()).flatten();
        let Some(page) = page else {
            let error = wire::refused(&answer, &api.token, ABOUT);
            exchanges.decide(error.message.clone());
            let stands_in_the_way =
                error.code == Code::VendorCredentialsRejected || matches!(error.next, Next::Wait { .. });
            return if stands_in_the_way { Err(error) } else { Ok(Found::Unreadable(error)) };
        };
        let found = page.values.iter().find_map(|item| {
            let members = Members::of(item)?;
            (members.get("key").and_then(text)? == audience.key).then(|| entry(&members))
        });
        if let Some(entry) = found {
            exchanges.decide("found");
            return Ok(Found::Here(entry));
        }
        exchanges.decide(format!("not among these {}", page.values.len()));
        if !page.has_next_page || page.values.is_empty() {
            return Ok(Found::Nowhere);
        }
        offset += page.values.len() as u64;
    }
}

fn entry(members: &Members<'_>) -> Entry {
    let detector = members.get("detector").and_then(Members::of).unwrap_or_default();
    let of = |name| detector.get(name).and_then(text).map(Cow::into_owned);
    Entry { stage: of("stage"), detected_at: of("detectedAt") }
}

/// The error for a key that is in no list.
pub fn unknown_key(audience: &AudienceRef<'_>) -> VendorError {
    let message = format!("CDP lists no such {} for this token", audience.list.kind());
    VendorError::new(Code::VendorDataNotFound, Next::GiveUp, message)
}

/// One page of the catalog; `after` is `<kind>:<offset>`. Tags come first.
///
/// # Errors
/// What the call fails with.
pub async fn catalog(
    api: &Api,
    base: &Url,
    place: &Place,
    after: Option<&str>,
    exchanges: &Exchanges,
) -> Result<CatalogPage, VendorError> {
    let begin = (List::Tags, 0);
    let read = |after: &str| {
        let (kind, offset) = after.split_once(':')?;
        Some((List::of_kind(kind)?, offset.parse::<u64>().ok()?))
    };
    let (list, offset) = after.map_or(Some(begin), read).ok_or_else(|| {
        VendorError::new(Code::InvalidRequest, Next::GiveUp, "this page token is not one of this catalog's")
    })?;
    let mut url = below(base, &place.list(list));
    url.set_query(Some(&format!("limit={CATALOG_LIMIT}&offset={offset}")));
    let answer = api.get("catalog", url, MAX_PAGE, exchanges).await?;
    let page = answer.status.is_success().then(|| serde_json::from_slice::<Page<'_>>(&answer.body).ok()).flatten();
    let page = page.ok_or_else(|| wire::refused(&answer, &api.token, ABOUT));
    let page = decided(exchanges, page, |page| format!("read, rows: {}", page.values.len()))?;
    let rows = page.values.iter().filter_map(|item| row(list, item).ok().map(CatalogRow::into_owned)).collect();
    let next = match list {
        _ if page.has_next_page && !page.values.is_empty() => {
            Some(format!("{}:{}", list.kind(), offset + page.values.len() as u64))
        }
        List::Tags if place.has_segments() => Some(format!("{}:0", List::Segments.kind())),
        _ => None,
    };
    Ok(CatalogPage { rows, next })
}

/// An entry of a list as a row.
fn row(list: List, item: &RawValue) -> Result<CatalogRow<'_>, BadRecord> {
    let members = Members::of(item).ok_or(BadRecord("an entry is not a JSON object".into()))?;
    let status = entry(&members).stage.map(Cow::Owned);
    let mut row = CatalogRow { kind: list.kind().into(), status, ..CatalogRow::default() };
    let mut id = None;
    for (name, value) in members.0 {
        match name.as_ref() {
            "key" => id = text(value),
            "name" => row.name = text(value),
            "description" => row.description = text(value),
            "createdAt" => row.created_at = text(value).map(utc),
            "updatedAt" => row.updated_at = text(value).map(utc),
            _ => row.vendor.0.push((name, Cell::Json(Cow::Borrowed(value)))),
        }
    }
    row.id = id.ok_or(BadRecord("an entry has no `key`".into()))?;
    Ok(row)
}

/// A time in UTC; what is no time stays as it is.
fn utc(time: Cow<'_, str>) -> Cow<'_, str> {
    match DateTime::parse_from_rfc3339(&time) {
        Ok(parsed) if !time.ends_with('Z') => {
            parsed.with_timezone(&Utc).to_rfc3339_opts(SecondsFormat::Millis, true).into()
        }
        _ => time,
    }
}

/// Reads pages of a list; the tag of the data is the kind of the list.
pub struct Audiences;

impl Records for Audiences {
    fn framing(&self, _tag: &str) -> Framing {
        Framing::Json { records: &[VALUES] }
    }

    fn member<'r>(&'r self, tag: &'r str) -> Box<dyn Member + 'r> {
        let list = List::of_kind(tag).unwrap_or(List::Tags);
        Box::new(Entries { list, page: 0, before: HashSet::new(), now: HashSet::new() })
    }
}

/// When a list changes between two pages, the entry that ended the one begins the other again: what stood on the page
/// before is passed over.
struct Entries {
    list: List,
    /// Which document the last entry came from: the address of its head.
    page: usize,
    before: HashSet<String>,
    now: HashSet<String>,
}

impl Entries {
    /// The entry, unless the page before had it.
    fn read<'a>(&mut self, record: Record<'a>) -> Result<Option<(CatalogRow<'a>, &'a RawValue)>, BadRecord> {
        let Record::Element { head, json } = record else { return Err(BadRecord("it is no entry of a list".into())) };
        let page = std::ptr::from_ref(head).addr();
        if page != self.page {
            self.page = page;
            self.before = std::mem::take(&mut self.now);
        }
        let item = serde_json::from_str::<&RawValue>(json).map_err(|_| BadRecord("an entry is not JSON".into()))?;
        let row = row(self.list, item)?;
        self.now.insert(row.id.clone().into_owned());
        Ok((!self.before.contains(row.id.as_ref())).then_some((row, item)))
    }
}

impl Member for Entries {
    fn unified(&mut self, record: Record<'_>, emit: &mut Emit<'_>) -> Result<(), BadRecord> {
        match self.read(record)? {
            Some((row, _)) => emit(&Row::Catalog(row)),
            None => Ok(()),
        }
    }

    fn vendor(&mut self, record: Record<'_>, out: &mut Vec<u8>) -> Result<(), BadRecord> {
        let Some((_, item)) = self.read(record)? else { return Ok(()) };
        let members = Members::of(item).unwrap_or_default();
        object::write(members.0.iter().map(|(name, value)| (name.as_ref(), *value)), out)
            .map_err(|_| BadRecord("an entry cannot be written as JSON".into()))
    }
}
