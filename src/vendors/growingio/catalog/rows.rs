//! The items of lists, as rows of `audience.v1`, `dashboard.v1` and `rule.v1`.

use std::borrow::Cow;

use chrono::{DateTime, NaiveDate, NaiveTime, SecondsFormat, TimeDelta};
use serde_json::{
    Value,
    value::{RawValue, to_raw_value},
};

use crate::{
    exports::{
        records::{BadRecord, Delimiter, Dialect, Emit, Framing, Member, Record, Records},
        rows::{CatalogRow, Cell, Object, Row},
    },
    vendors::{
        growingio::{
            statistics::TABS,
            table::{self, distinct},
        },
        object::{self, Members, text},
    },
};

/// Beijing is so far ahead of UTC, all year.
const BEIJING_HOURS: i64 = 8;

/// What a list is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Items {
    Segments,
    Dashboards,
    /// Of that dashboard.
    Charts {
        dashboard: String,
    },
    Rules,
}

/// Reads one list.
pub struct ListRows(Items);

impl ListRows {
    pub const fn new(items: Items) -> Self {
        Self(items)
    }
}

impl Records for ListRows {
    fn framing(&self, tag: &str) -> Framing {
        match self.0 {
            Items::Segments | Items::Dashboards => Framing::Json { records: &[] },
            Items::Charts { .. } => Framing::Json { records: &["charts"] },
            Items::Rules => {
                let delimiter = if tag == TABS { Delimiter::Tab } else { Delimiter::Comma };
                Framing::Delimited(Dialect { delimiter, escape: None, double_quote: true })
            }
        }
    }

    fn member<'r>(&'r self, _tag: &'r str) -> Box<dyn Member + 'r> {
        match &self.0 {
            Items::Rules => Box::new(Rules { header: None }),
            items => Box::new(JsonList(items)),
        }
    }
}

/// A list in JSON.
struct JsonList<'r>(&'r Items);

const NO_OBJECT: BadRecord = BadRecord(Cow::Borrowed("an item of the list is not a JSON object"));
const NO_ROW: BadRecord = BadRecord(Cow::Borrowed("it is not an item of this list"));

impl Member for JsonList<'_> {
    fn unified(&mut self, record: Record<'_>, emit: &mut Emit<'_>) -> Result<(), BadRecord> {
        let Record::Element { head, json } = record else { return Err(NO_ROW) };
        let members = Members::read(json.as_bytes()).map_err(|_| NO_OBJECT)?;
        emit(&Row::Catalog(self.0.row(members, head)?))
    }

    fn vendor(&mut self, record: Record<'_>, out: &mut Vec<u8>) -> Result<(), BadRecord> {
        let Record::Element { json, .. } = record else { return Err(NO_ROW) };
        let members = Members::read(json.as_bytes()).map_err(|_| NO_OBJECT)?;
        let all = members.0.iter().map(|(name, value)| (name.as_ref(), *value));
        object::write(all, out).map_err(|_| NO_OBJECT)
    }
}

impl Items {
    /// One item of a list in JSON. `head` is the document around it.
    ///
    /// # Errors
    /// When the item has no id.
    pub fn row<'a>(&self, item: Members<'a>, head: &'a Value) -> Result<CatalogRow<'a>, BadRecord> {
        let mut row = CatalogRow::default();
        let mut vendor = Vec::new();
        for (name, value) in item.0 {
            match (name.as_ref(), self) {
                ("id", _) => row.id = text(value).unwrap_or_default(),
                ("name", _) => row.name = text(value),
                ("createdAt", Self::Dashboards | Self::Charts { .. }) => row.created_at = text(value).map(time),
                ("updatedAt", Self::Dashboards | Self::Segments) => row.updated_at = text(value).map(time),
                ("userNum", Self::Segments) => row.size = text(value).and_then(|number| whole(&number)),
                ("resource_type", Self::Charts { .. }) => row.kind = text(value).unwrap_or_default(),
                // The first is the vendor's spelling, the second what everybody expects.
                ("createor" | "creator", Self::Charts { .. }) => {
                    vendor.retain(|(name, _)| name != "creator");
                    vendor.push((Cow::Borrowed("creator"), Cell::Json(Cow::Borrowed(value))));
                }
                _ => vendor.push((name, Cell::Json(Cow::Borrowed(value)))),
            }
        }
        if row.id.is_empty() {
            return Err(BadRecord("an item of the list has no id".into()));
        }
        if let Self::Charts { dashboard } = self {
            let text_of = |name: &str| head.get(name).and_then(Value::as_str);
            let id = text_of("id").map_or_else(|| Cow::Owned(dashboard.clone()), Cow::Borrowed);
            vendor.retain(|(name, _)| !matches!(name.as_ref(), "dashboard_id" | "dashboard_name"));
            vendor.push((Cow::Borrowed("dashboard_id"), Cell::Text(id)));
            if let Some(name) = text_of("name") {
                vendor.push((Cow::Borrowed("dashboard_name"), Cell::Text(Cow::Borrowed(name))));
            }
        }
        if row.kind.is_empty() {
            row.kind = Cow::Borrowed(match self {
                Self::Segments => "segment",
                Self::Dashboards => "dashboard",
                Self::Charts { .. } => "chart",
                Self::Rules => "rule",
            });
        }
        row.vendor = Object(vendor);
        Ok(row)
    }
}

/// A day is one of GrowingIO's clock, which is Beijing's, and stands for its beginning; all is shown in UTC.
fn time(text: Cow<'_, str>) -> Cow<'_, str> {
    let beginning = |day: NaiveDate| day.and_time(NaiveTime::MIN).and_utc() - TimeDelta::hours(BEIJING_HOURS);
    let time = match DateTime::parse_from_rfc3339(&text) {
        Ok(time) => Some(time.to_utc()),
        Err(_) => text.parse().ok().map(beginning),
    };
    time.map_or(text, |time| Cow::Owned(time.to_rfc3339_opts(SecondsFormat::AutoSi, true)))
}

/// A whole number, also where it is written as `1000.0`.
fn whole(text: &str) -> Option<i64> {
    text.strip_suffix(".0").unwrap_or(text).parse().ok()
}

/// `rules.csv`, whose columns have other names in the documents' table than in its header.
struct Rules {
    header: Option<RuleColumns>,
}

struct RuleColumns {
    names: Vec<String>,
    id: usize,
    name: Option<usize>,
    kind: Option<usize>,
}

impl Rules {
    /// The header and the cells of a rule; none for the header row itself.
    fn cells<'c>(&mut self, record: Record<'c>) -> Result<Option<(&RuleColumns, Vec<&'c str>)>, BadRecord> {
        let mut cells = table::cells(record)?;
        if self.header.is_none() {
            self.header = Some(RuleColumns::read(cells)?);
            return Ok(None);
        }
        let Some(header) = &self.header else { return Ok(None) };
        table::fit(&mut cells, header.names.len())?;
        for cell in &mut cells {
            *cell = cell.trim();
        }
        Ok(Some((header, cells)))
    }
}

impl RuleColumns {
    fn read(mut cells: Vec<&str>) -> Result<Self, BadRecord> {
        table::fit_header(&mut cells);
        let mut names: Vec<_> = cells.iter().map(|cell| cell.trim().to_owned()).collect();
        let find =
            |known: &[&str]| names.iter().position(|name| known.iter().any(|known| known.eq_ignore_ascii_case(name)));
        let id = find(&["ruleId", "rule_id"]);
        let id = id.ok_or_else(|| BadRecord("the first row names no column of rule ids".into()))?;
        let (name, kind) = (find(&["eventName", "name"]), find(&["eventType", "ruleType"]));
        distinct(&mut names);
        Ok(Self { names, id, name, kind })
    }
}

impl Member for Rules {
    fn unified(&mut self, record: Record<'_>, emit: &mut Emit<'_>) -> Result<(), BadRecord> {
        let Some((header, cells)) = self.cells(record)? else { return Ok(()) };
        let known = |index: Option<usize>| Some(Cow::Borrowed(*cells.get(index?)?)).filter(|cell| !cell.is_empty());
        let is_shown = |index: usize| [Some(header.id), header.name, header.kind].contains(&Some(index));
        let rest = header.names.iter().zip(&cells).enumerate().filter(|(index, _)| !is_shown(*index));
        let vendor = rest.map(|(_, (name, cell))| (Cow::Borrowed(name.as_str()), Cell::Text(Cow::Borrowed(*cell))));
        emit(&Row::Catalog(CatalogRow {
            id: Cow::Borrowed(cells[header.id]),
            kind: known(header.kind).unwrap_or(Cow::Borrowed("rule")),
            name: known(header.name),
            vendor: Object(vendor.collect()),
            ..CatalogRow::default()
        }))
    }

    fn vendor(&mut self, record: Record<'_>, out: &mut Vec<u8>) -> Result<(), BadRecord> {
        let Some((header, cells)) = self.cells(record)? else { return Ok(()) };
        let values = cells.iter().map(to_raw_value).collect::<Result<Vec<Box<RawValue>>, _>>().map_err(|_| NO_ROW)?;
        let members = header.names.iter().zip(&values).map(|(name, value)| (name.as_str(), &**value));
        object::write(members, out).map_err(|_| NO_ROW)
    }
}

#[cfg(test)]
#[path = "rows_tests.rs"]
mod tests;
