//! What the columns of one file are. Files of one table differ: columns come in any order, in spellings of several
//! years, with some that no document knows and without some that the documents have.

use std::{borrow::Cow, collections::BTreeSet};

use crate::{
    exports::records::{BadRecord, Cells},
    vendors::growingio::{
        raw_events::tables::{Kind, Table, recognise, renamed},
        settings::RawData,
    },
};

/// The columns of one file.
pub struct Layout {
    pub event_type: String,
    pub columns: Vec<Column>,
    /// Where the time of receipt stands.
    pub received_at: Option<usize>,
}

/// One column.
pub struct Column {
    pub role: Role,
    pub kind: Kind,
    /// Its name in `properties`, as documented, where it is: `,"name":"`, up to the quote that a text begins with.
    pub property: String,
    /// Its name in the file, as JSON.
    pub json_name: String,
}

/// What a column fills of `event.v1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    EventTime,
    ReceivedAt,
    User,
    Visitor,
    Session,
    Property,
}

impl Layout {
    /// Finds out from a file's first row; says whether that was a header.
    ///
    /// # Errors
    /// When nothing tells what the columns are.
    pub fn find(tag: &str, version: RawData, first: Cells<'_>) -> Result<(Self, bool), BadRecord> {
        let cells: Vec<Cow<'_, str>> = first.iter().map(|cell| String::from_utf8_lossy(cell.trim_ascii())).collect();
        let named = if version == RawData::V1 { None } else { Table::named(tag) };
        let plain: BTreeSet<String> = cells.iter().map(|cell| cell.to_ascii_lowercase().replace('_', "")).collect();
        let table = named.or_else(|| recognise(|name| plain.contains(name)));
        if is_header(&cells, table) {
            let event_type = table.map_or(tag, |table| table.name);
            return Ok((Self::of(event_type, table, version, &cells), true));
        }
        let Some(table) = named else {
            return Err(BadRecord("the file has no header row, and nothing else tells its columns".into()));
        };
        let documented: Vec<_> = table.columns().map(Cow::Borrowed).collect();
        if documented.len() != cells.len() {
            let why = format!(
                "the file has no header row, and {} cells where {} are documented",
                cells.len(),
                documented.len()
            );
            return Err(BadRecord(why.into()));
        }
        Ok((Self::of(table.name, Some(table), version, &documented), false))
    }

    fn of(event_type: &str, table: Option<&Table>, version: RawData, header: &[Cow<'_, str>]) -> Self {
        let documented: Vec<_> = header.iter().map(|cell| documented(cell, table, version)).collect();
        let has_time = documented.iter().any(|name| name == "time");
        let (mut names, mut json_names, mut roles) = (Names::default(), Names::default(), BTreeSet::new());
        let columns: Vec<_> = header
            .iter()
            .zip(documented)
            .map(|(cell, documented)| {
                let role = match documented.as_str() {
                    "time" => Role::EventTime,
                    "eventTime" if !has_time => Role::EventTime,
                    "sendTime" => Role::ReceivedAt,
                    "loginUserId" => Role::User,
                    "visitUserId" => Role::Visitor,
                    "sessionId" => Role::Session,
                    _ => Role::Property,
                };
                // A column that comes twice is not lost.
                let role = if roles.insert(documented.clone()) { role } else { Role::Property };
                Column {
                    role,
                    kind: Kind::of(&documented),
                    property: format!(",{}:\"", serde_json::Value::String(names.own(&documented))),
                    json_name: serde_json::Value::String(json_names.own(cell)).to_string(),
                }
            })
            .collect();
        let received_at = columns.iter().position(|column| column.role == Role::ReceivedAt);
        Self { event_type: event_type.to_owned(), columns, received_at }
    }
}

/// A first row of nothing but names, or with many known ones. Every event has a number, so no event is taken for one.
fn is_header(cells: &[Cow<'_, str>], table: Option<&Table>) -> bool {
    let is_name = |cell: &Cow<'_, str>| {
        cell.starts_with(|first: char| first.is_ascii_alphabetic())
            && cell.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    let known = cells.iter().filter(|cell| table.is_some_and(|table| table.column(cell).is_some())).count();
    cells.iter().all(is_name) || known * 2 >= cells.len()
}

/// The documented name of a column, else its own.
fn documented(cell: &str, table: Option<&Table>, version: RawData) -> String {
    let new = table.filter(|_| version == RawData::V1).and_then(|table| renamed(table, cell));
    let name = new.as_deref().unwrap_or(cell);
    if let Some(known) = table.and_then(|table| table.column(name)) {
        return known.to_owned();
    }
    // Those of a table that nobody knows yet.
    let ours = ["time", "eventTime", "sendTime", "loginUserId", "visitUserId", "sessionId"];
    ours.into_iter().find(|known| known.eq_ignore_ascii_case(name)).unwrap_or(name).to_owned()
}

/// Names that do not repeat.
#[derive(Default)]
struct Names(BTreeSet<String>);

impl Names {
    fn own(&mut self, name: &str) -> String {
        let numbered = (1..).map(|number| if number == 1 { name.to_owned() } else { format!("{name} ({number})") });
        numbered.into_iter().find(|name| self.0.insert(name.clone())).unwrap_or_default()
    }
}
