//! The rows of raw data files as `event.v1`, and as the vendor's own columns. What a file's columns are is found out
//! once, from its header; cells are borrowed from the file.

mod layout;
mod time;

use std::{
    borrow::Cow,
    ops::Range,
    sync::atomic::{AtomicBool, Ordering},
};

use self::layout::{Column, Layout, Role};
use super::tables::Kind;
use crate::{
    exports::{
        json,
        moments::{Moment, Time},
        records::{BadRecord, Cells, Delimiter, Dialect, Emit, Framing, Member, Record, Records},
        rows::{EventRow, ObjectText, Row},
    },
    vendors::{growingio::settings::RawData, object},
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
    fn text<'c>(&self, cell: Result<&'c str, &'c [u8]>) -> Cow<'c, str> {
        cell.map_or_else(
            |bytes| {
                self.had_no_unicode.store(true, Ordering::Relaxed);
                String::from_utf8_lossy(bytes)
            },
            Cow::Borrowed,
        )
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
        Box::new(File {
            records: self,
            tag,
            layout: None,
            is_wanted: true,
            event_time: String::new(),
            received_at: String::new(),
            properties: String::new(),
        })
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
    properties: String,
}

impl File<'_> {
    /// Whether the row is an event that is wanted.
    fn takes(&mut self, row: Cells<'_>) -> Result<bool, BadRecord> {
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

fn cells(record: Record<'_>) -> Result<Cells<'_>, BadRecord> {
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
        let Self { records, layout: Some(layout), event_time, received_at, properties, .. } = self else {
            return Ok(());
        };
        let mut event = EventRow { event_type: Cow::Borrowed(&layout.event_type), ..EventRow::default() };
        let (mut event_micros, mut received_micros) = (None, None);
        properties.clear();
        for (column, cell) in layout.columns.iter().zip(row.texts()) {
            let text = records.text(cell);
            if text.is_empty() || text == "null" {
                continue;
            }
            match column.role {
                Role::User => event.user_id = Some(text),
                Role::Visitor => event.visitor_id = Some(text),
                Role::Session => event.session_id = Some(text),
                Role::EventTime | Role::ReceivedAt | Role::Property => {
                    let micros = match column.role {
                        Role::EventTime => Some((time::write(&text, event_time), &mut event_micros)),
                        Role::ReceivedAt => Some((time::write(&text, received_at), &mut received_micros)),
                        _ => None,
                    };
                    // A time that cannot be read is shown as it is.
                    if let Some((Some(micros), place)) = micros {
                        *place = Some(micros);
                        continue;
                    }
                    property(properties, column, &text);
                }
            }
        }
        // What begins the first one is a comma.
        let first = properties.len().min(1);
        properties.replace_range(..first, "{");
        properties.push('}');
        let known = |text, micros: Option<i64>| micros.map(|micros| Time::Known(Moment { text, micros }));
        event.event_time = known(Cow::Borrowed(event_time), event_micros);
        event.received_at = known(Cow::Borrowed(received_at), received_micros);
        event.properties = ObjectText(Cow::Borrowed(properties));
        emit(&Row::Event(event))
    }

    fn vendor(&mut self, record: Record<'_>, out: &mut Vec<u8>) -> Result<(), BadRecord> {
        let row = cells(record)?;
        if !self.takes(row)? {
            return Ok(());
        }
        let Some(layout) = &self.layout else { return Ok(()) };
        let mut separator = b'{';
        for (column, cell) in layout.columns.iter().zip(row.texts()) {
            let text = self.records.text(cell);
            out.push(separator);
            separator = b',';
            out.extend_from_slice(column.json_name.as_bytes());
            out.push(b':');
            if text.is_empty() {
                out.extend_from_slice(b"null");
            } else {
                json::string(out, &text);
            }
        }
        out.push(b'}');
        Ok(())
    }
}

/// Appends what a cell means in `properties`, behind its name.
fn property(out: &mut String, column: &Column, text: &str) {
    out.push_str(&column.property);
    let write = match column.kind {
        Kind::Text => return json::rest_of_string(out, text),
        Kind::Integer => integer,
        Kind::Double => double,
        Kind::Map => map,
    };
    // It is no text, unless it cannot be read as anything else.
    out.pop();
    if !write(out, text) {
        json::string(out, text);
    }
}

fn integer(out: &mut String, text: &str) -> bool {
    let Ok(number) = text.parse::<i64>() else { return false };
    let digits = text.strip_prefix('-').unwrap_or(text);
    let is_json = !digits.starts_with('+') && (digits == "0" || !digits.starts_with('0'));
    if is_json {
        out.push_str(text);
    } else {
        out.push_str(&number.to_string());
    }
    true
}

/// Every digit is kept where it is written as JSON has it.
fn double(out: &mut String, text: &str) -> bool {
    let is_numeric = text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
    if !is_numeric {
        return false;
    }
    if object::is_json(text) {
        out.push_str(text);
        return true;
    }
    let number = text.parse().ok().filter(|number: &f64| number.is_finite());
    number.inspect(|number| out.push_str(&number.to_string())).is_some()
}

/// The documents show maps that are no JSON (`{"city"->"beijing"}`): those stay text.
fn map(out: &mut String, text: &str) -> bool {
    let text = text.trim_ascii();
    if !text.starts_with('{') || !object::is_json(text) {
        return false;
    }
    if memchr::memchr2(b'\n', b'\r', text.as_bytes()).is_none() {
        out.push_str(text);
        return true;
    }
    // Within JSON they stand between values only, and a record must stay one line.
    for piece in text.split_inclusive(['\n', '\r']) {
        match piece.strip_suffix(['\n', '\r']) {
            None => out.push_str(piece),
            Some(line) => {
                out.push_str(line);
                out.push(' ');
            }
        }
    }
    true
}

#[cfg(test)]
mod tests;
