//! One user as `user.v1`: a row borrowed from the vendor's bytes.
//! Vendors fill a [`UserRow`] from one of their records; nothing here knows a vendor.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::fields::UserColumn;

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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exports::{fields::Selection, rows::Row};

    #[test]
    fn a_row_has_exactly_the_selected_columns_in_schema_order() {
        let mut row = UserRow::default();
        row.set(UserColumn::Email, Some("a@example.test".into()));
        let number: &RawValue = serde_json::from_str("12345678901234567890123").unwrap();
        row.attributes.push(("plan".into(), Cow::Borrowed(number)));
        row.attributes.push(("other".into(), Cow::Borrowed(number)));
        let selection = Selection::parse(&["attributes.plan".into(), "email".into(), "user_id".into()]).unwrap();
        let mut out = Vec::new();
        Row::User(row).append_json(&selection, &mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            r#"{"user_id":null,"email":"a@example.test","attributes":{"plan":12345678901234567890123}}"#
        );
    }
}
