//! One user as `user.v1`: a row borrowed from the vendor's bytes, and how it is written as JSON.
//! Vendors fill a [`UserRow`] from one of their records; nothing here knows a vendor.

use std::borrow::Cow;

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::value::RawValue;

use super::fields::{Selection, UserColumn, Wanted};

/// One user. Text columns are set by [`UserRow::set`]; the object columns are pairs in the vendor's order.
#[derive(Debug, Default)]
pub struct UserRow<'a> {
    texts: [Option<Cow<'a, str>>; UserColumn::ALL.len()],
    /// The vendor's name of an id → its values.
    pub identities: Vec<(Cow<'a, str>, Vec<Cow<'a, str>>)>,
    pub attributes: Vec<(Cow<'a, str>, Cow<'a, RawValue>)>,
    pub activity: Vec<(Cow<'a, str>, Cow<'a, RawValue>)>,
}

impl<'a> UserRow<'a> {
    /// Sets a text, date or time column.
    pub fn set(&mut self, column: UserColumn, value: Option<Cow<'a, str>>) {
        self.texts[column as usize] = value;
    }

    /// The value of a text, date or time column.
    pub fn text(&self, column: UserColumn) -> Option<&str> {
        self.texts[column as usize].as_deref()
    }

    /// Appends the selected columns to `out` as one JSON object without a line end.
    ///
    /// # Errors
    /// Never for rows read from JSON; kept because the serializer's signature has it.
    pub fn write_json(&self, selection: &Selection, out: &mut Vec<u8>) -> serde_json::Result<()> {
        serde_json::to_writer(out, &Selected { row: self, selection })
    }
}

struct Selected<'r, 'a> {
    row: &'r UserRow<'a>,
    selection: &'r Selection,
}

impl Serialize for Selected<'_, '_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for column in self.selection.columns() {
            match column {
                UserColumn::Identities => {
                    map.serialize_entry(column.name(), &Pairs(&self.row.identities, Wanted::Whole))?;
                }
                UserColumn::Attributes => {
                    map.serialize_entry(column.name(), &Pairs(&self.row.attributes, self.selection.wants(column)))?;
                }
                UserColumn::Activity => {
                    map.serialize_entry(column.name(), &Pairs(&self.row.activity, self.selection.wants(column)))?;
                }
                _ => map.serialize_entry(column.name(), &self.row.text(column))?,
            }
        }
        map.end()
    }
}

/// An object column, narrowed to the wanted members.
struct Pairs<'r, 'a, V>(&'r [(Cow<'a, str>, V)], Wanted<'r>);

impl<V: Serialize> Serialize for Pairs<'_, '_, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (name, value) in self.0 {
            let wanted = match self.1 {
                Wanted::No => false,
                Wanted::Whole => true,
                Wanted::Members(members) => members.contains(name.as_ref()),
            };
            if wanted {
                map.serialize_entry(name, value)?;
            }
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_exactly_the_selected_columns_in_schema_order() {
        let mut row = UserRow::default();
        row.set(UserColumn::Email, Some("a@example.test".into()));
        let number: &RawValue = serde_json::from_str("12345678901234567890123").unwrap();
        row.attributes.push(("plan".into(), Cow::Borrowed(number)));
        row.attributes.push(("other".into(), Cow::Borrowed(number)));
        let selection = Selection::parse(&["attributes.plan".into(), "email".into(), "user_id".into()]).unwrap();
        let mut out = Vec::new();
        row.write_json(&selection, &mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            r#"{"user_id":null,"email":"a@example.test","attributes":{"plan":12345678901234567890123}}"#
        );
    }
}
