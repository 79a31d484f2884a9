//! Braze's user object as `user.v1`, and narrowed but otherwise as Braze wrote it.
//! Every field may be missing or null, which mean the same; fields nobody has documented come through in `activity`.

use std::{borrow::Cow, collections::BTreeSet};

use serde_json::value::RawValue;

use super::{
    fields::{Ask, Source, Sources, column_of},
    times,
};
use crate::exports::{
    fields::{ColumnType, Selection, UserColumn, Wanted},
    records::{BadRecord, LineRecords},
    rows::Row,
    user::UserRow,
};
use crate::vendors::object::{self, Members, Walk, is_null, keep_last, text};

const NO_OBJECT: BadRecord = BadRecord(Cow::Borrowed("a record is not a JSON object"));

/// Reads users as one request asked for them. What it did not ask for is checked to be JSON, and passed over.
pub struct BrazeUsers {
    selection: Selection,
    sources: Sources,
    ask: Ask,
    /// Which columns are wanted, by their place in the schema.
    wanted: [bool; UserColumn::ALL.len()],
    /// Fields that the mapping reads.
    mapped_fields: BTreeSet<&'static str>,
    /// Custom attributes that the mapping reads: they are shown there instead.
    moved: BTreeSet<String>,
    reads_custom: bool,
}

impl BrazeUsers {
    pub fn new(selection: Selection, sources: Sources, ask: Ask) -> Self {
        let mut wanted = [false; UserColumn::ALL.len()];
        for column in selection.columns() {
            wanted[column as usize] = true;
        }
        let (mut mapped_fields, mut moved) = (BTreeSet::new(), BTreeSet::new());
        for source in sources.columns.values().chain(sources.attributes.values()) {
            match source {
                Source::Field { name, .. } => _ = mapped_fields.insert(*name),
                Source::Custom(name) => _ = moved.insert(name.clone()),
            }
        }
        let reads_custom = wanted[UserColumn::Attributes as usize] || !moved.is_empty();
        Self { selection, sources, ask, wanted, mapped_fields, moved, reads_custom }
    }

    fn wants(&self, column: UserColumn) -> bool {
        self.wanted[column as usize]
    }

    /// Whether a member of an object column is wanted.
    fn wants_member(&self, column: UserColumn, name: &str) -> bool {
        self.wants(column)
            && match self.selection.wants(column) {
                Wanted::Whole => true,
                Wanted::Members(members) => members.contains(name),
                Wanted::No => false,
            }
    }

    /// Whether a custom attribute is shown under its own name.
    fn shows(&self, name: &str) -> bool {
        let shown = match self.selection.wants(UserColumn::Attributes) {
            Wanted::Whole => !self.moved.contains(name),
            Wanted::Members(members) => members.contains(name),
            Wanted::No => false,
        };
        shown && !self.sources.attributes.contains_key(name)
    }

    /// Shows a field where it belongs without a mapping.
    fn place<'a>(&self, name: Cow<'a, str>, value: &'a RawValue, row: &mut UserRow<'a>) {
        let column = column_of(&name);
        if let Some(column @ (UserColumn::UserId | UserColumn::VendorUserId)) = column
            && self.wants(UserColumn::Identities)
        {
            let name = if column == UserColumn::UserId { "external_id" } else { "braze_id" };
            row.identities.push((Cow::Borrowed(name), text(value).into_iter().collect()));
        }
        let is_activity = match column {
            None => true,
            Some(UserColumn::Identities) => {
                let aliases = aliases(value);
                let is_odd = aliases.is_none();
                row.identities.extend(aliases.filter(|_| self.wants(UserColumn::Identities)).unwrap_or_default());
                is_odd
            }
            Some(UserColumn::Attributes) => !object::is_object(value),
            Some(column) if self.sources.columns.contains_key(&column) => {
                let is_own =
                    matches!(self.sources.columns.get(&column), Some(Source::Field { name: own, .. }) if *own == name);
                !is_own && !matches!(column, UserColumn::UserId | UserColumn::VendorUserId)
            }
            Some(column) => {
                if self.wants(column) {
                    row.set(column, text(value).map(|text| as_kind(column, text)));
                }
                false
            }
        };
        if is_activity && self.wants_member(UserColumn::Activity, &name) {
            row.activity.push((name, Cow::Borrowed(value)));
        }
    }

    /// A mapped column's text: as Braze wrote it, it is looked up.
    fn translated<'a>(&self, column: UserColumn, value: &'a RawValue) -> Option<Cow<'a, str>> {
        text(value).map(|text| as_kind(column, self.sources.values.text(column, text)))
    }

    /// Shows what the mapping reads, and the custom attributes.
    fn place_mapped<'a>(&self, fields: &Members<'a>, custom: Members<'a>, row: &mut UserRow<'a>) {
        for (column, source) in self.sources.columns.iter().filter(|(column, _)| self.wants(**column)) {
            let value = find(source, fields, &custom);
            row.set(*column, value.and_then(|value| self.translated(*column, value)));
        }
        for (name, source) in &self.sources.attributes {
            if let Some(value) =
                find(source, fields, &custom).filter(|_| self.wants_member(UserColumn::Attributes, name))
            {
                let value = self.sources.values.attribute(name, Cow::Borrowed(value));
                row.attributes.push((Cow::Owned(name.clone()), value));
            }
        }
        let shown = custom.0.into_iter().filter(|(name, _)| self.shows(name));
        row.attributes.extend(shown.map(|(name, value)| (name, Cow::Borrowed(value))));
    }
}

impl LineRecords for BrazeUsers {
    fn unified<'a>(&self, record: &'a [u8]) -> Result<Row<'a>, BadRecord> {
        let mut row = UserRow::default();
        let (mut mapped, mut custom) = (Members::default(), Members::default());
        for member in Walk::over(record) {
            let (name, value) = member.map_err(|_| NO_OBJECT)?;
            if is_null(value) {
                continue;
            }
            if !self.mapped_fields.is_empty() && self.mapped_fields.contains(name.as_ref()) {
                mapped.0.push((name.clone(), value));
            }
            if self.reads_custom && name == "custom_attributes" {
                custom = Members::of(value).unwrap_or_default();
            }
            self.place(name, value, &mut row);
        }
        keep_last(&mut mapped.0);
        self.place_mapped(&mapped, custom, &mut row);
        keep_last(&mut row.identities);
        keep_last(&mut row.activity);
        Ok(Row::User(row))
    }

    fn vendor(&self, record: &[u8], out: &mut Vec<u8>) -> Result<(), BadRecord> {
        let everything = self.selection.is_everything();
        let all_activity = self.selection.wants(UserColumn::Activity) == Wanted::Whole;
        let mut kept = Vec::new();
        for member in Walk::over(record) {
            let (name, value) = member.map_err(|_| NO_OBJECT)?;
            if everything || self.ask.wanted.contains(name.as_ref()) || (all_activity && column_of(&name).is_none()) {
                kept.push((name, value));
            }
        }
        keep_last(&mut kept);
        let narrowed = self.narrowed_attributes(&kept)?;
        let kept = kept.iter().map(|(name, value)| match &narrowed {
            Some(narrowed) if name == "custom_attributes" => (name.as_ref(), narrowed.as_ref()),
            _ => (name.as_ref(), *value),
        });
        object::write(kept, out).map_err(|_| NO_OBJECT)
    }
}

impl BrazeUsers {
    /// `custom_attributes` with only the asked members; none when all were asked or there are none.
    fn narrowed_attributes(&self, members: &[object::Member<'_>]) -> Result<Option<Box<RawValue>>, BadRecord> {
        if self.ask.custom_attributes.is_empty() {
            return Ok(None);
        }
        let custom = members.iter().find(|(name, _)| name == "custom_attributes");
        let Some(custom) = custom.and_then(|(_, value)| Members::of(value)) else { return Ok(None) };
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

/// A text as the column's kind has it.
fn as_kind(column: UserColumn, text: Cow<'_, str>) -> Cow<'_, str> {
    match column.kind() {
        ColumnType::Timestamp => times::unified(text),
        ColumnType::Date => times::unified_day(text),
        _ => text,
    }
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

#[cfg(test)]
#[path = "records_tests.rs"]
mod tests;
