//! What a workspace has: segments, campaigns, canvases, custom events. As datasets, with a call for each one's details
//! where wanted, and as catalogs to choose from.
//! Sources: `_docs/_api/endpoints/export/{segments,campaigns,canvas,custom_events}/`.

use std::{borrow::Cow, sync::Arc};

use serde_json::value::RawValue;

use super::{
    api::{Api, Endpoint, Pool, shown},
    pages::{self, Details, List, Page, Rows, Turn, member},
    times::{instant, spelled},
};
use crate::exports::{
    parameters::{Events, Messages, Parameters},
    problem::Code,
    records::{BadRecord, LineRecords},
    request::ExportRequest,
    rows::{CatalogRow, Cell, Object, Row},
};
use crate::vendors::{
    CatalogKind, CatalogPage, CatalogQuery, Exchanges, Next, PlannedCall, Progress, VendorData, VendorError,
    object::{self, Members, is_null, text},
};

const NO_OBJECT: BadRecord = BadRecord(Cow::Borrowed("a record is not a JSON object"));

/// Rows of one page of segments, campaigns and canvases.
const PAGE: usize = 100;
/// Rows of one page of names of events.
const EVENT_NAMES: usize = 250;

pub const SEGMENT_DETAILS: Endpoint =
    Endpoint { path: "/segments/details", permission: "segments.details", pool: Pool::Default };

/// What is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thing {
    Segment,
    Campaign,
    Canvas,
    Event,
}

/// What of it is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    pub thing: Thing,
    pub details: bool,
    pub include_archived: bool,
}

impl Wish {
    /// Of a request for a list; none for any other.
    pub fn of(parameters: &Parameters) -> Option<Self> {
        let messages = |thing, messages: &Messages| Self {
            thing,
            details: messages.details,
            include_archived: messages.include_archived,
        };
        match parameters {
            Parameters::Audiences(audiences) => {
                Some(Self { thing: Thing::Segment, details: audiences.details, include_archived: false })
            }
            Parameters::Campaigns(wish) => Some(messages(Thing::Campaign, wish)),
            Parameters::Canvases(wish) => Some(messages(Thing::Canvas, wish)),
            Parameters::Events(Events { details }) => {
                Some(Self { thing: Thing::Event, details: *details, include_archived: false })
            }
            _ => None,
        }
    }

    /// The list that is read. Events have a second one, with more members.
    pub fn list(self) -> List {
        let (path, permission, rows): (_, _, &'static [&'static str]) = match (self.thing, self.details) {
            (Thing::Segment, _) => ("/segments/list", "segments.list", &["segments"]),
            (Thing::Campaign, _) => ("/campaigns/list", "campaigns.list", &["campaigns"]),
            (Thing::Canvas, _) => ("/canvas/list", "canvas.list", &["canvases"]),
            (Thing::Event, false) => ("/events/list", "events.list", &["events"]),
            (Thing::Event, true) => ("/events", "events.get", &["events"]),
        };
        let (pool, turn) = match (self.thing, self.details) {
            (Thing::Event, false) => (Pool::Names, Turn::Number { size: EVENT_NAMES }),
            (Thing::Event, true) => (Pool::Names, Turn::Cursor),
            _ => (Pool::Default, Turn::Number { size: PAGE }),
        };
        let query = if self.include_archived { vec![("include_archived", "true".to_owned())] } else { Vec::new() };
        List { endpoint: Endpoint { path, permission, pool }, rows, query, turn }
    }

    fn details(self) -> Option<Details> {
        let details = |path, permission, parameter| {
            Some(Details { endpoint: Endpoint { path, permission, pool: Pool::Default }, parameter })
        };
        match self.thing {
            _ if !self.details => None,
            Thing::Segment => Some(Details { endpoint: SEGMENT_DETAILS, parameter: "segment_id" }),
            Thing::Campaign => details("/campaigns/details", "campaigns.details", "campaign_id"),
            Thing::Canvas => details("/canvas/details", "canvas.details", "canvas_id"),
            Thing::Event => None,
        }
    }

    fn rows(self, verbatim: bool) -> Rows {
        let key = match self.thing {
            Thing::Event => event_name,
            _ => |row: &RawValue| member(row, "id"),
        };
        Rows { verbatim, key, keep: Arc::new(|_| true), details: self.details() }
    }

    /// The calls: the first page, and the details of the first row.
    pub fn planned(self) -> Vec<PlannedCall> {
        let list = self.list();
        let get = |path| PlannedCall { method: "GET", path, body: None };
        let details = self.details().map(|details| get(format!("{}?{}=…", details.endpoint.path, details.parameter)));
        std::iter::once(get(shown(list.endpoint, &list.asked(None)))).chain(details).collect()
    }

    /// Reads the list.
    pub async fn poll(self, api: &Api, verbatim: bool, exchanges: &Exchanges) -> Result<Progress, VendorError> {
        let list = self.list();
        let first = list.page(api, "poll", None, exchanges).await?;
        let download = pages::read(api.clone(), list, self.rows(verbatim), first, exchanges.clone());
        Ok(Progress::Data(VendorData { download, extension: "json".into(), tag: "rows".into() }))
    }
}

/// A name of an event, or an event with its members.
fn event_name(row: &RawValue) -> Option<String> {
    member(row, "name").or_else(|| text(row).map(Cow::into_owned))
}

/// One page to choose from.
pub async fn catalog(api: &Api, query: &CatalogQuery, exchanges: &Exchanges) -> Result<CatalogPage, VendorError> {
    let thing = match query.kind {
        CatalogKind::Audiences => Thing::Segment,
        CatalogKind::Campaigns => Thing::Campaign,
        CatalogKind::Canvases => Thing::Canvas,
        CatalogKind::Events => Thing::Event,
        CatalogKind::Dashboards => {
            return Err(VendorError::new(Code::NotFound, Next::GiveUp, "Braze has no such catalog"));
        }
    };
    let after = query.after.as_deref();
    if after.is_some_and(|after| after.parse::<u32>().is_err()) {
        return Err(VendorError::new(Code::InvalidRequest, Next::GiveUp, "the page token is not one of this catalog"));
    }
    let wish = Wish { thing, details: false, include_archived: false };
    let Page { rows, next, .. } = wish.list().page(api, "catalog", after, exchanges).await?;
    let rows = rows.iter().map(|row| things(thing, row.get().as_bytes()).map(CatalogRow::into_owned));
    let rows = rows.collect::<Result<_, _>>().map_err(|bad| {
        VendorError::new(Code::VendorMalformedData, Next::GiveUp, format!("Braze's list cannot be read: {bad}"))
    })?;
    Ok(CatalogPage { rows, next })
}

/// Reads the rows of a list.
pub struct Things(Thing);

impl Things {
    pub fn new(request: &ExportRequest) -> Option<Self> {
        Wish::of(&request.parameters).map(|wish| Self(wish.thing))
    }
}

impl LineRecords for Things {
    fn unified<'a>(&self, line: &'a [u8]) -> Result<Row<'a>, BadRecord> {
        things(self.0, line).map(Row::Catalog)
    }

    fn vendor(&self, line: &[u8], out: &mut Vec<u8>) -> Result<(), BadRecord> {
        if line.starts_with(b"\"") {
            let name: &RawValue = serde_json::from_slice(line).map_err(|_| NO_OBJECT)?;
            return object::write([("name", name)], out).map_err(|_| NO_OBJECT);
        }
        let members = Members::read(line).map_err(|_| NO_OBJECT)?;
        let members = members.0.iter().map(|(name, value)| (name.as_ref(), *value));
        object::write(members, out).map_err(|_| NO_OBJECT)
    }
}

/// One row. What the columns do not name goes into `vendor` as it is.
fn things(thing: Thing, line: &[u8]) -> Result<CatalogRow<'_>, BadRecord> {
    let kind = match thing {
        Thing::Segment => "segment",
        Thing::Campaign => "campaign",
        Thing::Canvas => "canvas",
        Thing::Event => "event",
    };
    if line.starts_with(b"\"") {
        let name: &RawValue = serde_json::from_slice(line).map_err(|_| NO_OBJECT)?;
        let name = text(name);
        let id = name.clone().unwrap_or_default();
        return Ok(CatalogRow { id, kind: kind.into(), name, ..CatalogRow::default() });
    }
    let mut members = Members::read(line).map_err(|_| NO_OBJECT)?;
    let mut take = |wanted: &str| {
        let position = members.0.iter().position(|(name, _)| name == wanted)?;
        Some(members.0.remove(position).1).filter(|value| !is_null(value))
    };
    let name = take("name").and_then(text);
    let id = if thing == Thing::Event { name.clone() } else { take("id").and_then(text) };
    // Of a segment, `description` is its filters in words.
    let description = take(if thing == Thing::Segment { "text_description" } else { "description" }).and_then(text);
    let status = match thing {
        Thing::Segment => None,
        Thing::Event => take("status").and_then(text),
        Thing::Campaign | Thing::Canvas => {
            let [archived, draft, enabled] =
                ["archived", "draft", "enabled"].map(|flag| take(flag).map(|value| value.get() == "true"));
            match (archived, draft, enabled) {
                (None, None, None) => None,
                (Some(true), ..) => Some("archived".into()),
                (_, Some(true), _) => Some("draft".into()),
                (.., Some(true)) => Some("enabled".into()),
                _ => Some("stopped".into()),
            }
        }
    };
    let created_at = take("created_at").and_then(time);
    let (edited, updated) = (take("last_edited"), take("updated_at"));
    let updated_at = updated.or(edited).and_then(time);
    let vendor = members.0.into_iter().map(|(name, value)| (name, Cell::Json(Cow::Borrowed(value)))).collect();
    Ok(CatalogRow {
        id: id.unwrap_or_default(),
        kind: kind.into(),
        name,
        description,
        size: None,
        status,
        created_at,
        updated_at,
        vendor: Object(vendor),
    })
}

/// A full time in UTC; a date, or what cannot be read, stays as it is.
fn time(value: &RawValue) -> Option<Cow<'_, str>> {
    let text = text(value)?;
    Some(instant(&text).map_or(text, |time| Cow::Owned(spelled(time))))
}

#[cfg(test)]
#[path = "lists_tests.rs"]
mod tests;
