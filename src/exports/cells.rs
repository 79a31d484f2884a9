//! The cells of a unified row, one after another: what every format of a result file is written from, so that equal
//! records are equal rows in all of them.
//!
//! A date or time that cannot be read as one is null in its column, and kept as text in the object column of its row
//! (`activity`, `properties`, `dimensions`, `vendor`), under the column's name.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::{
    fields::{Selection, UserColumn, Wanted},
    json,
    moments::{Day, Moment, Time},
    rows::{CatalogRow, Cell, EventRow, MetricRow, Row, SuppressionRow},
    user::UserRow,
};

/// The name of a column, as it stands in a JSON object behind another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key(&'static str);

impl Key {
    /// Of text like `,"name":`.
    pub(super) const fn new(json: &'static str) -> Self {
        Self(json)
    }

    /// `,"name":`
    pub const fn json(self) -> &'static str {
        self.0
    }

    pub fn name(self) -> &'static str {
        self.0.trim_start_matches(",\"").trim_end_matches("\":")
    }
}

macro_rules! key {
    ($name:literal) => {
        Key::new(concat!(",\"", $name, "\":"))
    };
}

/// Takes the cells of a row, in the order of the schema. `None` is null.
pub trait Cells {
    fn text(&mut self, key: Key, value: Option<&str>);
    fn day(&mut self, key: Key, value: Option<&Day<'_>>);
    fn moment(&mut self, key: Key, value: Option<&Moment<'_>>);
    /// A number as it was written in JSON.
    fn number(&mut self, key: Key, value: Option<&str>);
    fn integer(&mut self, key: Key, value: Option<i64>);
    /// `write` appends the object's JSON text, on one line.
    fn object(&mut self, key: Key, write: impl FnOnce(&mut Vec<u8>));
    /// An object that is JSON text already, on one line.
    fn object_text(&mut self, key: Key, json: &str) {
        self.object(key, |out| out.extend_from_slice(json.as_bytes()));
    }
}

impl Row<'_> {
    /// Hands every cell to `cells`; `selection` narrows users only. Answers how many dates and times could not be read.
    pub fn cells(&self, selection: &Selection, cells: &mut impl Cells) -> u64 {
        let mut strays = Strays::default();
        match self {
            Self::User(row) => user(row, selection, cells, &mut strays),
            Self::Event(row) => event(row, cells, &mut strays),
            Self::Metric(row) => metric(row, cells, &mut strays),
            Self::Catalog(row) => catalog(row, cells, &mut strays),
            Self::Suppression(row) => suppression(row, cells, &mut strays),
        }
        strays.count as u64
    }
}

fn user<'r>(row: &'r UserRow<'_>, selection: &Selection, cells: &mut impl Cells, strays: &mut Strays<'r>) {
    for column in selection.columns() {
        let key = column.key();
        match column {
            UserColumn::Identities => {
                cells.object(key, |out| members(out, &row.identities, Wanted::Whole, &Strays::default()));
            }
            // Activity comes last and takes the strays: they are the vendor's, not the caller's attributes.
            UserColumn::Attributes => {
                cells.object(key, |out| {
                    members(out, &row.attributes, selection.wants(column), &Strays::default());
                });
            }
            UserColumn::Activity => {
                cells.object(key, |out| members(out, &row.activity, selection.wants(column), strays));
            }
            UserColumn::BirthDate => cells.day(key, strays.day(key, row.text(column)).as_ref()),
            UserColumn::CreatedAt => cells.moment(key, strays.moment(key, row.text(column)).as_ref()),
            _ => cells.text(key, row.text(column)),
        }
    }
}

fn event<'r>(row: &'r EventRow<'_>, cells: &mut impl Cells, strays: &mut Strays<'r>) {
    let (event_time, received_at) = (key!("event_time"), key!("received_at"));
    cells.text(key!("event_type"), Some(&row.event_type));
    cells.moment(event_time, strays.time(event_time, row.event_time.as_ref()).as_ref());
    cells.moment(received_at, strays.time(received_at, row.received_at.as_ref()).as_ref());
    cells.text(key!("user_id"), row.user_id.as_deref());
    cells.text(key!("visitor_id"), row.visitor_id.as_deref());
    cells.text(key!("session_id"), row.session_id.as_deref());
    let (key, properties) = (key!("properties"), &row.properties.0);
    if strays.count == 0 {
        cells.object_text(key, properties);
    } else {
        cells.object(key, |out| with_strays(out, properties, strays));
    }
}

fn metric<'r>(row: &'r MetricRow<'_>, cells: &mut impl Cells, strays: &mut Strays<'r>) {
    let time = key!("time");
    cells.text(key!("metric"), Some(&row.metric));
    cells.moment(time, strays.moment(time, row.time.as_deref()).as_ref());
    cells.text(key!("interval"), row.interval.map(super::parameters::Interval::as_str));
    cells.object(key!("dimensions"), |out| members(out, &row.dimensions.0, Wanted::Whole, strays));
    cells.number(key!("value"), row.value.as_deref().map(RawValue::get).filter(|value| *value != "null"));
}

fn catalog<'r>(row: &'r CatalogRow<'_>, cells: &mut impl Cells, strays: &mut Strays<'r>) {
    let (created_at, updated_at) = (key!("created_at"), key!("updated_at"));
    cells.text(key!("id"), Some(&row.id));
    cells.text(key!("kind"), Some(&row.kind));
    cells.text(key!("name"), row.name.as_deref());
    cells.text(key!("description"), row.description.as_deref());
    cells.integer(key!("size"), row.size);
    cells.text(key!("status"), row.status.as_deref());
    cells.moment(created_at, strays.moment(created_at, row.created_at.as_deref()).as_ref());
    cells.moment(updated_at, strays.moment(updated_at, row.updated_at.as_deref()).as_ref());
    cells.object(key!("vendor"), |out| members(out, &row.vendor.0, Wanted::Whole, strays));
}

fn suppression<'r>(row: &'r SuppressionRow<'_>, cells: &mut impl Cells, strays: &mut Strays<'r>) {
    let suppressed_at = key!("suppressed_at");
    cells.text(key!("kind"), Some(&row.kind));
    cells.text(key!("address"), row.address.as_deref());
    cells.moment(suppressed_at, strays.moment(suppressed_at, row.suppressed_at.as_deref()).as_ref());
    cells.text(key!("reason"), row.reason.as_deref());
    cells.object(key!("vendor"), |out| members(out, &row.vendor.0, Wanted::Whole, strays));
}

/// Dates and times of one row that could not be read: at most two.
#[derive(Default)]
struct Strays<'r> {
    texts: [Option<(&'static str, &'r str)>; 2],
    count: usize,
}

impl<'r> Strays<'r> {
    fn day(&mut self, key: Key, text: Option<&'r str>) -> Option<Day<'r>> {
        let text = text.filter(|text| !text.is_empty())?;
        Day::read(text).or_else(|| self.keep(key, text))
    }

    fn moment(&mut self, key: Key, text: Option<&'r str>) -> Option<Moment<'r>> {
        let text = text.filter(|text| !text.is_empty())?;
        Moment::read(text).or_else(|| self.keep(key, text))
    }

    fn time(&mut self, key: Key, time: Option<&'r Time<'_>>) -> Option<Moment<'r>> {
        match time? {
            Time::Text(text) => self.moment(key, Some(text)),
            Time::Known(Moment { text, micros }) => Some(Moment { text: Cow::Borrowed(text), micros: *micros }),
        }
    }

    fn keep<T>(&mut self, key: Key, text: &'r str) -> Option<T> {
        if let Some(place) = self.texts.get_mut(self.count) {
            *place = Some((key.name(), text));
        }
        self.count += 1;
        None
    }
}

/// Appends an object of the wanted members, and of the strays under names that no member has.
fn members<V: Value>(out: &mut Vec<u8>, members: &[(Cow<'_, str>, V)], wanted: Wanted<'_>, strays: &Strays<'_>) {
    let wants = |name: &str| match wanted {
        Wanted::No => false,
        Wanted::Whole => true,
        Wanted::Members(members) => members.contains(name),
    };
    out.push(b'{');
    let first = out.len();
    let name = |out: &mut Vec<u8>, name: &str| {
        if out.len() > first {
            out.push(b',');
        }
        json::string(out, name);
        out.push(b':');
    };
    for (known, value) in members {
        if wants(known) {
            name(out, known);
            value.write(out);
        }
    }
    for (column, text) in strays.texts.iter().flatten() {
        let free = free_name(column, |name| members.iter().any(|(known, _)| known == name));
        if wants(&free) {
            name(out, &free);
            json::string(out, text);
        }
    }
    out.push(b'}');
}

/// As [`members`], of an object that is text already.
fn with_strays(out: &mut Vec<u8>, object: &str, strays: &Strays<'_>) {
    let known: serde_json::Map<String, serde_json::Value> = serde_json::from_str(object).unwrap_or_default();
    out.extend_from_slice(object.strip_suffix('}').unwrap_or("{").as_bytes());
    for (column, text) in strays.texts.iter().flatten() {
        if !out.ends_with(b"{") {
            out.push(b',');
        }
        json::string(out, &free_name(column, |name| known.contains_key(name)));
        out.push(b':');
        json::string(out, text);
    }
    out.push(b'}');
}

/// The column's name, or one made of it that no member has.
fn free_name(column: &'static str, is_taken: impl Fn(&str) -> bool) -> Cow<'static, str> {
    let mut free = Cow::Borrowed(column);
    while is_taken(&free) {
        free.to_mut().push_str("_as_given");
    }
    free
}

/// What a member of an object column can be.
trait Value {
    fn write(&self, out: &mut Vec<u8>);
}

impl Value for Cow<'_, RawValue> {
    fn write(&self, out: &mut Vec<u8>) {
        json::one_line(out, self.get());
    }
}

impl Value for Cell<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Text(text) => json::string(out, text),
            Self::Json(value) => value.write(out),
        }
    }
}

impl Value for Vec<Cow<'_, str>> {
    fn write(&self, out: &mut Vec<u8>) {
        out.push(b'[');
        for (index, text) in self.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            json::string(out, text);
        }
        out.push(b']');
    }
}

/// Writes a row as one JSON object.
pub(super) struct JsonObject<'o> {
    out: &'o mut Vec<u8>,
    first: usize,
}

impl<'o> JsonObject<'o> {
    pub(super) fn begin(out: &'o mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { first: out.len(), out }
    }

    pub(super) fn end(self) {
        self.out.push(b'}');
    }

    fn key(&mut self, key: Key) {
        let is_first = usize::from(self.out.len() == self.first);
        self.out.extend_from_slice(&key.json().as_bytes()[is_first..]);
    }

    fn null(&mut self) {
        self.out.extend_from_slice(b"null");
    }

    /// Text that has nothing to escape.
    fn plain(&mut self, text: &str) {
        self.out.push(b'"');
        self.out.extend_from_slice(text.as_bytes());
        self.out.push(b'"');
    }
}

impl Cells for JsonObject<'_> {
    fn text(&mut self, key: Key, value: Option<&str>) {
        self.key(key);
        match value {
            Some(text) => json::string(self.out, text),
            None => self.null(),
        }
    }

    fn day(&mut self, key: Key, value: Option<&Day<'_>>) {
        self.key(key);
        match value {
            Some(day) => self.plain(day.text),
            None => self.null(),
        }
    }

    fn moment(&mut self, key: Key, value: Option<&Moment<'_>>) {
        self.key(key);
        match value {
            Some(moment) => self.plain(&moment.text),
            None => self.null(),
        }
    }

    fn number(&mut self, key: Key, value: Option<&str>) {
        self.key(key);
        match value {
            Some(number) => json::one_line(self.out, number),
            None => self.null(),
        }
    }

    fn integer(&mut self, key: Key, value: Option<i64>) {
        self.key(key);
        match value {
            Some(number) => self.out.extend_from_slice(number.to_string().as_bytes()),
            None => self.null(),
        }
    }

    fn object(&mut self, key: Key, write: impl FnOnce(&mut Vec<u8>)) {
        self.key(key);
        write(self.out);
    }
}

#[cfg(test)]
#[path = "cells_tests.rs"]
mod tests;
