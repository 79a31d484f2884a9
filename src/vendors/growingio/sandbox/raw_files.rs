//! The files of raw data, and the rows of `event.v1` that they mean. Columns come in another order in every file; some
//! files spell a column in another case, have a column nobody knows, or lack one, as files did over the years.

use std::{
    borrow::Cow,
    fs::File,
    io::{self, BufWriter, Write},
};

use chrono::{DateTime, SecondsFormat};
use flate2::{Compression, write::GzEncoder};
use serde_json::{Map, Value, json};

use super::{
    columns::{DataType, Kind},
    events::{Event, Source},
    slices::Hour,
};

/// In no document.
const UNKNOWN_COLUMN: &str = "newColumn2031";
/// Spellings of older pages.
const OLD_SPELLINGS: [(&str, &str); 6] = [
    ("channelID", "channelId"),
    ("channelId", "channelID"),
    ("IMEI", "imei"),
    ("imei", "IMEI"),
    ("OAID", "oaid"),
    ("idfa", "IDFA"),
];
/// Columns that make the row's own members; they are in every file.
const ALWAYS: [&str; 6] = ["visitUserId", "sessionId", "loginUserId", "time", "eventTime", "sendTime"];

/// Which generation of the API the file belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    One,
    Two,
}

/// One part of the events of one type in one hour.
#[derive(Clone, Copy)]
pub struct Part {
    pub source: Source,
    pub version: Version,
    pub data_type: &'static DataType,
    pub hour: Hour,
    pub number: u64,
    pub max_records: u64,
}

/// What is wrong with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Damage {
    pub empty: bool,
    pub bad_record: bool,
    pub no_header: bool,
    pub bom: bool,
}

/// A column of one file.
struct Column {
    header: Cow<'static, str>,
    /// The name by which events know it; `None` for one that nobody knows.
    name: Option<&'static str>,
}

impl Part {
    /// How many parts the events of one type in one hour have.
    pub fn count(source: Source, data_type: &DataType, hour: Hour, max_records: u64) -> u64 {
        source.count(data_type, hour).div_ceil(max_records.max(1))
    }

    /// Writes the file: gzipped csv.
    pub fn write(self, damage: Damage, file: &mut BufWriter<File>) -> io::Result<()> {
        if damage.empty {
            return Ok(());
        }
        let mut out = GzEncoder::new(file, Compression::fast());
        if damage.bom {
            out.write_all("\u{feff}".as_bytes())?;
        }
        let columns = if damage.no_header { self.documented() } else { self.columns() };
        if !damage.no_header {
            writeln!(out, "{}", columns.iter().map(|column| &*column.header).collect::<Vec<_>>().join(","))?;
        }
        for (at, number) in self.numbers().enumerate() {
            let event = self.source.event(self.data_type, self.hour, number);
            let mut cells: Vec<_> = columns.iter().map(|column| self.cell(&event, number, column)).collect();
            if damage.bad_record && at == 1 {
                cells.truncate(cells.len() / 2);
            }
            writeln!(out, "{}", cells.join(","))?;
        }
        out.finish()?.flush()
    }

    /// The rows of `event.v1` that the file means.
    pub fn rows(self) -> impl Iterator<Item = Value> {
        let columns = self.columns();
        self.numbers().map(move |number| {
            let event = self.source.event(self.data_type, self.hour, number);
            self.row(&event, &columns)
        })
    }

    fn numbers(self) -> impl Iterator<Item = u64> {
        let first = self.number * self.max_records;
        let end = self.source.count(self.data_type, self.hour);
        first..end.min(first + self.max_records)
    }

    fn documented(self) -> Vec<Column> {
        if let (Version::One, Some((_, columns))) = (self.version, self.data_type.version_1) {
            let column = |(header, name): &(&'static str, _)| Column { header: (*header).into(), name: Some(*name) };
            return columns.iter().map(column).collect();
        }
        let columns = self.data_type.columns.iter();
        columns.map(|(name, _)| Column { header: (*name).into(), name: Some(*name) }).collect()
    }

    /// The columns of this very file, in its order.
    fn columns(self) -> Vec<Column> {
        let mut columns = self.documented();
        if self.version == Version::One {
            return columns;
        }
        let draw = self.source.draw(self.data_type, self.hour, self.number, "layout");
        if draw.is_multiple_of(5) {
            let last = columns.iter().rposition(|column| !ALWAYS.contains(&&*column.header));
            if let Some(at) = last.filter(|_| columns.len() > 5) {
                columns.remove(at);
            }
        }
        if draw % 4 == 1 {
            columns.push(Column { header: UNKNOWN_COLUMN.into(), name: None });
        }
        if draw % 3 == 1 {
            for column in &mut columns {
                if let Some((_, old)) = OLD_SPELLINGS.iter().find(|(name, _)| *name == column.header) {
                    column.header = (*old).into();
                }
            }
        }
        let turn = usize::try_from(draw / 60).unwrap_or_default() % columns.len();
        columns.rotate_left(turn);
        columns
    }

    fn cell(self, event: &Event, number: u64, column: &Column) -> String {
        match (self.value(event, column), self.version) {
            (Some(value), Version::Two) => escaped(&value),
            (Some(value), Version::One) => quoted(&value),
            // What is absent is empty or the text `null`.
            (None, Version::Two) if number % 3 == 1 => "null".to_owned(),
            (None, _) => String::new(),
        }
    }

    fn value(self, event: &Event, column: &Column) -> Option<String> {
        match column.name {
            Some(name) => event.cell(name),
            None => Some(format!("new, {}", self.number)),
        }
    }

    fn row(self, event: &Event, columns: &[Column]) -> Value {
        let here = |name: &str| {
            let is_column = |known: &&(&str, Kind)| known.0 == name;
            self.data_type.columns.iter().find(is_column).and_then(|_| event.cell(name))
        };
        let time = |name: &str| {
            let millis: i64 = here(name)?.parse().ok()?;
            Some(DateTime::from_timestamp_millis(millis)?.to_rfc3339_opts(SecondsFormat::Millis, true))
        };
        let mut properties = Map::new();
        for column in columns.iter().filter(|column| column.name.is_none_or(|name| !ALWAYS.contains(&name))) {
            let Some(value) = self.value(event, column) else { continue };
            let kind = self.data_type.columns.iter().find(|(name, _)| Some(*name) == column.name);
            let value = kind.map_or_else(|| json!(value), |(_, kind)| property(*kind, &value));
            properties.insert(column.name.map_or_else(|| column.header.to_string(), str::to_owned), value);
        }
        json!({
            "event_type": self.data_type.name,
            "event_time": if self.data_type.name == "ads_track_click" { time("eventTime") } else { time("time") },
            "received_at": time("sendTime"),
            "user_id": here("loginUserId"),
            "visitor_id": here("visitUserId"),
            "session_id": here("sessionId"),
            "properties": properties,
        })
    }
}

/// What a cell means in `properties`.
fn property(kind: Kind, value: &str) -> Value {
    let text = || json!(value);
    match kind {
        Kind::Text => text(),
        Kind::Integer => value.parse::<i64>().map_or_else(|_| text(), |number| json!(number)),
        Kind::Double => value.parse::<f64>().map_or_else(|_| text(), |number| json!(number)),
        Kind::Map => serde_json::from_str::<Map<_, _>>(value).map_or_else(|_| text(), Value::Object),
    }
}

/// A cell of v2: quoted where needed, with backslash escapes.
pub fn escaped(value: &str) -> String {
    if !value.contains([',', '"', '\\', '\n', '\r']) {
        return value.to_owned();
    }
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
}

/// A cell of v1: quoted where needed, with doubled quotes.
fn quoted(value: &str) -> String {
    if !value.contains([',', '"', '\n', '\r']) {
        return value.to_owned();
    }
    format!("\"{}\"", value.replace('"', "\"\""))
}
