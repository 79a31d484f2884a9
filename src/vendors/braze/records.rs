//! Braze's user object as `user.v1`, and narrowed but otherwise as Braze wrote it.
//! Every field may be missing or null, which mean the same; fields nobody has documented come through in `activity`.

use std::borrow::Cow;

use chrono::NaiveDate;
use serde_json::value::RawValue;

use super::{
    fields::{Ask, Source, Sources, column_of},
    times::{instant_or_day, spelled},
};
use crate::exports::{
    fields::{ColumnType, Selection, UserColumn, Wanted},
    records::{BadRecord, LineRecords},
    rows::Row,
    user::UserRow,
};
use crate::vendors::object::{self, Members, is_null, text};

const NO_OBJECT: BadRecord = BadRecord(Cow::Borrowed("a record is not a JSON object"));

/// Reads users as one request asked for them.
pub struct BrazeUsers {
    selection: Selection,
    sources: Sources,
    ask: Ask,
}

impl BrazeUsers {
    pub fn new(selection: Selection, sources: Sources, ask: Ask) -> Self {
        Self { selection, sources, ask }
    }

    fn attributes<'a>(&self, members: &Members<'a>, custom: Members<'a>, row: &mut UserRow<'a>) {
        let asked = |name: &str| match self.selection.wants(UserColumn::Attributes) {
            Wanted::Members(members) => members.contains(name),
            Wanted::Whole | Wanted::No => false,
        };
        for (name, source) in &self.sources.attributes {
            if let Some(value) = find(source, members, &custom) {
                row.attributes.push((Cow::Owned(name.clone()), Cow::Borrowed(value)));
            }
        }
        for (name, value) in custom.0 {
            let moved = !asked(&name) && self.is_moved(&name);
            if !moved && !self.sources.attributes.contains_key(name.as_ref()) {
                row.attributes.push((name, Cow::Borrowed(value)));
            }
        }
    }

    /// Whether a mapping shows this custom attribute elsewhere.
    fn is_moved(&self, name: &str) -> bool {
        let mut sources = self.sources.columns.values().chain(self.sources.attributes.values());
        sources.any(|source| matches!(source, Source::Custom(custom) if custom == name))
    }
}

impl LineRecords for BrazeUsers {
    fn unified<'a>(&self, record: &'a [u8]) -> Result<Row<'a>, BadRecord> {
        let members = Members::read(record).map_err(|_| NO_OBJECT)?;
        let mut row = UserRow::default();
        let mut custom = Members::default();
        for (name, value) in &members.0 {
            if is_null(value) {
                continue;
            }
            match (name.as_ref(), column_of(name)) {
                ("custom_attributes", _) => match Members::of(value) {
                    Some(read) => custom = read,
                    None => row.activity.push((name.clone(), Cow::Borrowed(*value))),
                },
                ("user_aliases", _) => match aliases(value) {
                    Some(aliases) => row.identities.extend(aliases),
                    None => row.activity.push((name.clone(), Cow::Borrowed(*value))),
                },
                (_, None) => row.activity.push((name.clone(), Cow::Borrowed(*value))),
                (field, Some(column)) => {
                    if matches!(column, UserColumn::UserId | UserColumn::VendorUserId) {
                        row.identities.push((Cow::Owned(field.to_owned()), text(value).into_iter().collect()));
                    } else if self.sources.columns.contains_key(&column) {
                        row.activity.push((name.clone(), Cow::Borrowed(*value)));
                    }
                    if !self.sources.columns.contains_key(&column) {
                        row.set(column, column_text(column, value));
                    }
                }
            }
        }
        for (column, source) in &self.sources.columns {
            let value = find(source, &members, &custom);
            row.set(*column, value.and_then(|value| column_text(*column, value)));
        }
        self.attributes(&members, custom, &mut row);
        Ok(Row::User(row))
    }

    fn vendor(&self, record: &[u8], out: &mut Vec<u8>) -> Result<(), BadRecord> {
        let members = Members::read(record).map_err(|_| NO_OBJECT)?;
        let everything = self.selection.is_everything();
        let all_activity = self.selection.wants(UserColumn::Activity) == Wanted::Whole;
        let narrowed = self.narrowed_attributes(&members)?;
        let kept = members.0.iter().filter_map(|(name, value)| {
            let name = name.as_ref();
            let keep = everything || self.ask.wanted.contains(name) || (all_activity && column_of(name).is_none());
            let value = if name == "custom_attributes" { narrowed.as_deref().unwrap_or(value) } else { *value };
            keep.then_some((name, value))
        });
        object::write(kept, out).map_err(|_| NO_OBJECT)
    }
}

impl BrazeUsers {
    /// `custom_attributes` with only the asked members; none when all were asked or there are none.
    fn narrowed_attributes(&self, members: &Members<'_>) -> Result<Option<Box<RawValue>>, BadRecord> {
        if self.ask.custom_attributes.is_empty() {
            return Ok(None);
        }
        let Some(custom) = members.get("custom_attributes").and_then(Members::of) else { return Ok(None) };
        let asked = custom.0.iter().filter(|(name, _)| self.ask.custom_attributes.contains(name.as_ref()));
        let mut json = Vec::new();
        object::write(asked.map(|(name, value)| (name.as_ref(), *value)), &mut json).map_err(|_| NO_OBJECT)?;
        serde_json::from_slice(&json).map(Some).map_err(|_| NO_OBJECT)
    }
}

fn find<'a>(source: &Source, members: &Members<'a>, custom: &Members<'a>) -> Option<&'a RawValue> {
    match source {
        Source::Field { name, .. } => members.get(name),
        Source::Custom(name) => custom.get(name),
    }
}

fn column_text(column: UserColumn, value: &RawValue) -> Option<Cow<'_, str>> {
    let value = text(value)?;
    Some(match column.kind() {
        ColumnType::Timestamp => instant_or_day(&value).map(spelled).map_or(value, Cow::Owned),
        ColumnType::Date => date(&value).map_or(value, Cow::Owned),
        _ => value,
    })
}

/// Ids: name → values.
type Identities<'a> = Vec<(Cow<'a, str>, Vec<Cow<'a, str>>)>;

/// Aliases by label. Braze's field table says one object, its samples say an array: both are read.
fn aliases(value: &RawValue) -> Option<Identities<'_>> {
    let list = match Members::of(value) {
        Some(one) => vec![one],
        None => serde_json::from_str::<Vec<Members>>(value.get()).ok()?,
    };
    let mut identities = Identities::new();
    for alias in list {
        let Some(name) = alias.get("alias_name").and_then(text) else { continue };
        let label = format!("alias:{}", alias.get("alias_label").and_then(text).unwrap_or_default());
        match identities.iter_mut().find(|(known, _)| *known == label) {
            Some((_, names)) => names.push(name),
            None => identities.push((Cow::Owned(label), vec![name])),
        }
    }
    Some(identities)
}

/// The day as written: a birthday does not move with a time zone.
fn date(text: &str) -> Option<String> {
    let day = text.get(..10)?;
    let rest = text[10..].chars().next();
    let day = NaiveDate::parse_from_str(day, "%Y-%m-%d").ok()?;
    matches!(rest, None | Some('T' | ' ')).then(|| day.format("%Y-%m-%d").to_string())
}

#[cfg(test)]
#[path = "records_tests.rs"]
mod tests;
