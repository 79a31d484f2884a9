//! The rows of raw data files as `event.v1`, and as the vendor's own columns. What a file's columns are is found out
//! once, from its header; cells are borrowed from the file.

mod layout;
mod time;

use std::{
    borrow::Cow,
    ops::Range,
    sync::atomic::{AtomicBool, Ordering},
};

use serde_json::value::RawValue;

use self::layout::{Layout, Role};
use super::tables::Kind;
use crate::{
    exports::{
        records::{BadRecord, Delimiter, Dialect, Emit, Framing, Member, Record, Records},
        rows::{Cell, EventRow, Row},
    },
    vendors::growingio::settings::RawData,
};

/// Backslash escapes, no doubled quotes. Source: `api/originaldata-export-v2/exportsuggest.md`.
const V2: Dialect = Dialect { delimiter: Delimiter::Comma, escape: Some(b'\\'), double_quote: false };
/// The sample of v1 has the usual quoting.
const V1: Dialect = Dialect { delimiter: Delimiter::Comma, escape: None, double_quote: true };

/// How the rows of one request are read.
pub struct RawRows {
    version: RawData,
    /// The types that were asked for; none for all.
    event_types: Vec<String>,
    /// When GrowingIO received what is kept, in milliseconds since 1970.
    received: Range<i64>,
    /// What there is to warn of, once for an export.
    had_no_header: AtomicBool,
    had_no_unicode: AtomicBool,
}

impl RawRows {
    pub fn new(version: RawData, event_types: Vec<String>, received: Range<i64>) -> Self {
        Self {
            version,
            event_types,
            received,
            had_no_header: AtomicBool::new(false),
            had_no_unicode: AtomicBool::new(false),
        }
    }

    /// A cell as text. Long texts are cut by their bytes at the vendor, perhaps within a character.
    fn text<'c>(&self, cell: &'c [u8]) -> Cow<'c, str> {
        let text = String::from_utf8_lossy(cell);
        if matches!(text, Cow::Owned(_)) {
            self.had_no_unicode.store(true, Ordering::Relaxed);
        }
        text
    }

    fn wants(&self, event_type: &str) -> bool {
        self.event_types.is_empty() || self.event_types.iter().any(|wanted| wanted == event_type)
    }
}

impl Records for RawRows {
    fn framing(&self, _tag: &str) -> Framing {
        Framing::Delimited(if self.version == RawData::V1 { V1 } else { V2 })
    }

    fn member<'r>(&'r self, tag: &'r str) -> Box<dyn Member + 'r> {
        let (event_time, received_at) = (String::new(), String::new());
        Box::new(File { records: self, tag, layout: None, is_wanted: true, event_time, received_at })
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.had_no_header.load(Ordering::Relaxed) {
            warnings.push("a file had no header row; its columns were taken to be in the documented order".into());
        }
        if self.had_no_unicode.load(Ordering::Relaxed) {
            warnings.push("a cell was not UTF-8; what could not be read of it was replaced by U+FFFD".into());
        }
        warnings
    }
}

/// One file being read.
struct File<'r> {
    records: &'r RawRows,
    tag: &'r str,
    /// Known from the first row on.
    layout: Option<Layout>,
    /// Whether its type was asked for.
    is_wanted: bool,
    /// Kept so that no row needs new ones.
    event_time: String,
    received_at: String,
}

impl File<'_> {
    /// Whether the row is an event that is wanted.
    fn takes(&mut self, row: &csv::ByteRecord) -> Result<bool, BadRecord> {
        if self.layout.is_none() {
            let (layout, is_header) = Layout::find(self.tag, self.records.version, row)?;
            self.is_wanted = self.records.wants(&layout.event_type);
            self.layout = Some(layout);
            if is_header {
                return Ok(false);
            }
            self.records.had_no_header.store(true, Ordering::Relaxed);
        }
        let Some(layout) = &self.layout else { return Ok(false) };
        if row.len() != layout.columns.len() {
            let why = format!("it has {} cells where the header has {}", row.len(), layout.columns.len());
            return Err(BadRecord(why.into()));
        }
        let received = layout.received_at.and_then(|at| row.get(at)).and_then(time::millis);
        Ok(self.is_wanted && received.is_none_or(|received| self.records.received.contains(&received)))
    }
}

fn cells(record: Record<'_>) -> Result<&csv::ByteRecord, BadRecord> {
    match record {
        Record::Cells(row) => Ok(row),
        _ => Err(BadRecord("it is no row".into())),
    }
}

impl Member for File<'_> {
    fn unified(&mut self, record: Record<'_>, emit: &mut Emit<'_>) -> Result<(), BadRecord> {
        let row = cells(record)?;
        if !self.takes(row)? {
            return Ok(());
        }
        let Some(layout) = &self.layout else { return Ok(()) };
        let mut event = EventRow { event_type: Cow::Borrowed(&layout.event_type), ..EventRow::default() };
        event.properties.0.reserve(layout.columns.len());
        let (mut has_event_time, mut has_received_at) = (false, false);
        for (column, cell) in layout.columns.iter().zip(row) {
            if cell.is_empty() || cell == b"null" {
                continue;
            }
            let read = match column.role {
                Role::EventTime => time::write(cell, &mut self.event_time),
                Role::ReceivedAt => time::write(cell, &mut self.received_at),
                _ => false,
            };
            match column.role {
                Role::EventTime if read => has_event_time = true,
                Role::ReceivedAt if read => has_received_at = true,
                Role::User => event.user_id = Some(self.records.text(cell)),
                Role::Visitor => event.visitor_id = Some(self.records.text(cell)),
                Role::Session => event.session_id = Some(self.records.text(cell)),
                // A time that cannot be read is shown as it is.
                Role::EventTime | Role::ReceivedAt | Role::Property => {
                    let value = property(column.kind, self.records.text(cell));
                    event.properties.0.push((Cow::Borrowed(&column.name), value));
                }
            }
        }
        event.event_time = has_event_time.then_some(Cow::Borrowed(&self.event_time));
        event.received_at = has_received_at.then_some(Cow::Borrowed(&self.received_at));
        emit(&Row::Event(event))
    }

    fn vendor(&mut self, record: Record<'_>, out: &mut Vec<u8>) -> Result<(), BadRecord> {
        let row = cells(record)?;
        if !self.takes(row)? {
            return Ok(());
        }
        let Some(layout) = &self.layout else { return Ok(()) };
        let mut separator = b'{';
        for (column, cell) in layout.columns.iter().zip(row) {
            out.push(separator);
            separator = b',';
            out.extend_from_slice(column.json_name.as_bytes());
            out.push(b':');
            if cell.is_empty() {
                out.extend_from_slice(b"null");
            } else {
                serde_json::to_writer(&mut *out, &self.records.text(cell))
                    .map_err(|_| BadRecord("it cannot be written as JSON".into()))?;
            }
        }
        out.push(b'}');
        Ok(())
    }
}

/// What a cell means in `properties`.
fn property(kind: Kind, text: Cow<'_, str>) -> Cell<'_> {
    let json = match kind {
        Kind::Text => None,
        Kind::Integer => integer(&text),
        Kind::Double => double(&text),
        Kind::Map => map(&text),
    };
    match (json, text) {
        (Some(Json::AsWritten), Cow::Borrowed(text)) => match serde_json::from_str::<&RawValue>(text) {
            Ok(json) => Cell::Json(Cow::Borrowed(json)),
            Err(_) => Cell::Text(Cow::Borrowed(text)),
        },
        (Some(Json::AsWritten), Cow::Owned(text)) => match RawValue::from_string(text.clone()) {
            Ok(json) => Cell::Json(Cow::Owned(json)),
            Err(_) => Cell::Text(Cow::Owned(text)),
        },
        (Some(Json::Rewritten(json)), text) => match RawValue::from_string(json) {
            Ok(json) => Cell::Json(Cow::Owned(json)),
            Err(_) => Cell::Text(text),
        },
        (None, text) => Cell::Text(text),
    }
}

/// How a cell becomes JSON, if it may be JSON at all.
enum Json {
    AsWritten,
    Rewritten(String),
}

fn integer(text: &str) -> Option<Json> {
    let number: i64 = text.parse().ok()?;
    let digits = text.strip_prefix('-').unwrap_or(text);
    let is_json = !digits.starts_with('+') && (digits == "0" || !digits.starts_with('0'));
    Some(if is_json { Json::AsWritten } else { Json::Rewritten(number.to_string()) })
}

/// Every digit is kept where it is written as JSON has it.
fn double(text: &str) -> Option<Json> {
    let is_numeric = text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
    if !is_numeric {
        return None;
    }
    if serde_json::from_str::<&RawValue>(text).is_ok() {
        return Some(Json::AsWritten);
    }
    let number: f64 = text.parse().ok()?;
    number.is_finite().then(|| Json::Rewritten(number.to_string()))
}

/// The documents show maps that are no JSON (`{"city"->"beijing"}`): those stay text.
fn map(text: &str) -> Option<Json> {
    if !text.trim_ascii_start().starts_with('{') {
        return None;
    }
    if text.contains(['\n', '\r']) {
        // Within JSON they stand between values only, and a record must stay one line.
        return Some(Json::Rewritten(text.replace(['\n', '\r'], " ")))
            .filter(|_| serde_json::from_str::<&RawValue>(text).is_ok());
    }
    Some(Json::AsWritten)
}

#[cfg(test)]
mod tests;
