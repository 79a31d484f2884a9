//! One user as CDP writes it: `{"gio_id": …, "identifications": {…}, "properties": {…}}` in files, `gioId` in queries.
//! Ids come as numbers or strings, identities as one value or a list; both are read. Values stay as CDP wrote them.

use std::{borrow::Cow, collections::BTreeSet};

use serde_json::value::RawValue;

use super::properties::{Ask, identity_key, identity_name, is_identity};
use crate::exports::{
    fields::{Selection, UserColumn, Wanted},
    mapping::ValueMaps,
    records::{BadRecord, LineRecords},
    rows::Row,
    user::UserRow,
};
use crate::vendors::object::{self, Members, Walk, is_null, is_object, keep_last, text, texts};

const NO_OBJECT: BadRecord = BadRecord(Cow::Borrowed("a record is not a JSON object"));

/// Reads users as one request asked for them.
pub struct CdpUsers {
    selection: Selection,
    ask: Ask,
    /// Properties that a column or a renamed attribute shows: they are not repeated under their own name.
    shown: BTreeSet<String>,
    values: ValueMaps,
}

/// A record, taken apart.
#[derive(Default)]
struct User<'a> {
    /// With the name it has here.
    gio_id: Option<(Cow<'a, str>, &'a RawValue)>,
    identifications: Members<'a>,
    properties: Members<'a>,
    rest: Members<'a>,
}

impl<'a> User<'a> {
    fn read(record: &'a [u8]) -> Result<Self, BadRecord> {
        let mut user = Self::default();
        for member in Walk::over(record) {
            let (name, value) = member.map_err(|_| NO_OBJECT)?;
            match name.as_ref() {
                "gio_id" | "gioId" => user.gio_id = Some((name, value)),
                "identifications" if is_object(value) => user.identifications = Members::of(value).unwrap_or_default(),
                "properties" if is_object(value) => user.properties = Members::of(value).unwrap_or_default(),
                "identifications" | "properties" if is_null(value) => {}
                _ => user.rest.0.push((name, value)),
            }
        }
        keep_last(&mut user.rest.0);
        Ok(user)
    }

    /// The vendor's id, unless it says that there is no such user.
    fn id(&self) -> Option<Cow<'a, str>> {
        let id = self.gio_id.as_ref().and_then(|(_, value)| text(value));
        id.filter(|id| !matches!(id.as_ref(), "0" | "0.0" | ""))
    }

    /// The value of a property; of an identity wherever CDP put it, however it spelled the prefix.
    fn find(&self, property: &str) -> Option<&'a RawValue> {
        if let Some(value) = self.properties.get(property) {
            return Some(value);
        }
        let name = is_identity(property).then(|| identity_name(property))?;
        let same = self.identifications.0.iter().find(|(key, _)| identity_name(key) == name);
        same.map(|(_, value)| *value)
    }
}

impl CdpUsers {
    pub fn new(selection: Selection, ask: Ask) -> Self {
        let shown = ask.columns.values().chain(ask.attributes.values()).cloned().collect();
        Self { selection, ask, shown, values: ValueMaps::default() }
    }

    /// Translates values of what the mapping names.
    #[must_use]
    pub fn with_values(self, values: ValueMaps) -> Self {
        Self { values, ..self }
    }

    /// What is asked for.
    pub const fn ask(&self) -> &Ask {
        &self.ask
    }

    /// Whether an answer says that there is no such user.
    ///
    /// # Errors
    /// When it is no JSON object.
    pub fn is_nobody(record: &[u8]) -> Result<bool, BadRecord> {
        User::read(record).map(|user| user.id().is_none())
    }

    fn wants(&self, column: UserColumn) -> bool {
        self.selection.wants(column) != Wanted::No
    }
}

impl LineRecords for CdpUsers {
    fn unified<'a>(&self, record: &'a [u8]) -> Result<Row<'a>, BadRecord> {
        let user = User::read(record)?;
        let mut row = UserRow::default();
        if let Some(id) = user.id() {
            if self.wants(UserColumn::Identities) {
                row.identities.push((Cow::Borrowed("gio_id"), vec![id.clone()]));
            }
            row.set(UserColumn::VendorUserId, Some(self.values.text(UserColumn::VendorUserId, id)));
        }
        for (column, property) in &self.ask.columns {
            let values = user.find(property).map(texts);
            let value = values.and_then(|values| values.into_iter().next());
            row.set(*column, value.map(|text| self.values.text(*column, text)));
        }
        for (member, property) in &self.ask.attributes {
            if let Some(value) = user.find(property) {
                let value = self.values.attribute(member, Cow::Borrowed(value));
                row.attributes.push((Cow::Owned(member.clone()), value));
            }
        }
        // Attributes that are named are among what is asked for.
        let attributes = (self.selection.wants(UserColumn::Attributes) == Wanted::Whole).then_some(user.properties.0);
        for (name, value) in attributes.into_iter().flatten() {
            if !self.shown.contains(name.as_ref()) && !self.ask.attributes.contains_key(name.as_ref()) {
                row.attributes.push((name, Cow::Borrowed(value)));
            }
        }
        let identities = self.wants(UserColumn::Identities).then_some(user.identifications.0);
        for (name, value) in identities.into_iter().flatten() {
            let values = texts(value);
            let key = match name {
                Cow::Borrowed(name) => identity_key(name),
                Cow::Owned(name) => identity_key(&name).into_owned().into(),
            };
            if !values.is_empty() && row.identities.iter().all(|(known, _)| *known != key) {
                row.identities.push((key, values));
            }
        }
        if self.wants(UserColumn::Activity) {
            row.activity.extend(user.rest.0.into_iter().map(|(name, value)| (name, Cow::Borrowed(value))));
        }
        Ok(Row::User(row))
    }

    fn vendor(&self, record: &[u8], out: &mut Vec<u8>) -> Result<(), BadRecord> {
        if self.selection.is_everything() {
            let members = Members::read(record).map_err(|_| NO_OBJECT)?;
            let all = members.0.iter().map(|(name, value)| (name.as_ref(), *value));
            return object::write(all, out).map_err(|_| NO_OBJECT);
        }
        let user = User::read(record)?;
        let all_ids = self.wants(UserColumn::Identities);
        let asked = |property: &str| self.ask.properties.iter().any(|known| known == property);
        let asked_identity = |key: &str| {
            let mut identities = self.ask.properties.iter().filter(|known| is_identity(known));
            all_ids || identities.any(|known| identity_name(known) == identity_name(key))
        };
        let identifications = narrowed(&user.identifications, asked_identity)?;
        let whole = self.selection.wants(UserColumn::Attributes) == Wanted::Whole;
        let properties = narrowed(&user.properties, |property| whole || asked(property))?;
        let gio_id = user.gio_id.as_ref().filter(|_| all_ids || self.wants(UserColumn::VendorUserId));
        let kept = [
            (gio_id.map_or("gio_id", |(name, _)| name.as_ref()), gio_id.map(|(_, value)| *value)),
            ("identifications", identifications.as_deref()),
            ("properties", properties.as_deref()),
        ];
        object::write(kept.into_iter().filter_map(|(name, value)| Some((name, value?))), out).map_err(|_| NO_OBJECT)
    }
}

/// An object of the members that are kept; none when there are none.
fn narrowed(members: &Members<'_>, keep: impl Fn(&str) -> bool) -> Result<Option<Box<RawValue>>, BadRecord> {
    let mut kept = members.0.iter().filter(|(name, _)| keep(name)).peekable();
    if kept.peek().is_none() {
        return Ok(None);
    }
    let mut json = Vec::new();
    object::write(kept.map(|(name, value)| (name.as_ref(), *value)), &mut json).map_err(|_| NO_OBJECT)?;
    serde_json::from_slice(&json).map(Some).map_err(|_| NO_OBJECT)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        exports::mapping::{ConnectionMapping, Feed},
        vendors::Mapping,
    };

    fn users(fields: &[&str], mapping: &[(&str, &str)]) -> CdpUsers {
        let fields: Vec<_> = fields.iter().map(ToString::to_string).collect();
        let mapping: Mapping = mapping.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let selection = Selection::parse(&fields).unwrap();
        let ask = Ask::of_export(&selection, &mapping).unwrap();
        CdpUsers::new(selection, ask)
    }

    fn unified(users: &CdpUsers, record: &str) -> Value {
        let mut out = Vec::new();
        users.unified(record.as_bytes()).unwrap().write_json(&users.selection, &mut out).unwrap();
        serde_json::from_slice(&out).unwrap()
    }

    fn vendor(users: &CdpUsers, record: &str) -> String {
        let mut out = Vec::new();
        users.vendor(record.as_bytes(), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    const SAMPLE: &str = r#"{"gio_id": "1", "identifications": { "id_$basic_userId": "C001" }, "properties": { "usr_gender":"男", "tag_rfm": "高", "usr_age": 28 } }"#;

    #[test]
    fn the_documented_sample_as_user_v1() {
        let users = users(&[], &[("gender", "usr_gender"), ("attributes.level", "tag_rfm")]);
        let row = unified(&users, SAMPLE);
        assert_eq!(row["user_id"], "C001");
        assert_eq!(row["vendor_user_id"], "1");
        assert_eq!(row["identities"], json!({"gio_id": ["1"], "id_$basic_userId": ["C001"]}));
        assert_eq!(row["gender"], "男");
        assert_eq!(row["attributes"], json!({"level": "高", "usr_age": 28}));
        assert_eq!(row["activity"], json!({}));
        assert_eq!(row["email"], Value::Null);
    }

    #[test]
    fn values_of_what_the_mapping_names_are_translated() {
        let feed = |from: &str, theirs: &str, ours: &str| Feed {
            from: from.into(),
            values: [(theirs.to_owned(), ours.to_owned())].into(),
        };
        let (mapping, values) = ValueMaps::split(ConnectionMapping::from([
            ("gender".to_owned(), feed("usr_gender", "男", "male")),
            ("user_id".to_owned(), feed(super::super::properties::USER_ID, "C001", "customer one")),
            ("vendor_user_id".to_owned(), feed("gio_id", "1", "one")),
            ("attributes.level".to_owned(), feed("tag_rfm", "高", "high")),
        ]));
        let selection = Selection::everything();
        let ask = Ask::of_export(&selection, &mapping).unwrap();
        assert_eq!(ask.properties, ["id_$basic_userId", "usr_gender", "tag_rfm"]);
        let users = CdpUsers::new(selection, ask).with_values(values);
        let row = unified(&users, SAMPLE);
        assert_eq!((&row["gender"], &row["user_id"]), (&json!("male"), &json!("customer one")));
        assert_eq!(
            (&row["vendor_user_id"], &row["attributes"]),
            (&json!("one"), &json!({"level": "high", "usr_age": 28}))
        );
        assert_eq!(row["identities"], json!({"gio_id": ["1"], "id_$basic_userId": ["C001"]}));
        assert_eq!(unified(&users, &SAMPLE.replace('男', "女"))["gender"], "女");
    }

    /// Quirk 7.
    #[test]
    fn a_record_may_be_a_bare_id() {
        let row = unified(&users(&[], &[]), r#"{"gio_id":603542}"#);
        assert_eq!((&row["vendor_user_id"], &row["user_id"]), (&json!("603542"), &Value::Null));
        assert_eq!(row["attributes"], json!({}));
        let nobody = unified(&users(&[], &[]), r#"{"gio_id":"0","identifications":null,"properties":null}"#);
        assert_eq!((&nobody["vendor_user_id"], &nobody["identities"]), (&Value::Null, &json!({})));
        let large = unified(&users(&["vendor_user_id"], &[]), r#"{"gio_id":12345678901234567890123}"#);
        assert_eq!(large["vendor_user_id"], "12345678901234567890123");
    }

    /// Quirks 6 and 8: three prefixes, and one value or a list of them.
    #[test]
    fn identities_are_found_and_shown_alike_however_they_are_spelled() {
        let users = users(&["user_id", "identities"], &[]);
        for key in ["id_$basic_userId", "ids_$basic_userId", "d_$basic_userId"] {
            for value in [json!("C001"), json!(["C001"])] {
                let record = json!({"gio_id": 1, "identifications": {key: value}}).to_string();
                let row = unified(&users, &record);
                assert_eq!(
                    row,
                    json!({"user_id": "C001", "identities": {"gio_id": ["1"], "id_$basic_userId": ["C001"]}})
                );
            }
        }
    }

    #[test]
    fn a_named_attribute_keeps_its_name_and_its_value_as_written() {
        let users = users(&["attributes.age", "attributes.tag_rfm", "attributes.id_phone"], &[]);
        let record = r#"{"gio_id":1,"identifications":{"id_phone":"7"},"properties":{"usr_age":1000.0,"tag_rfm":null,"usr_x":1}}"#;
        let mut out = Vec::new();
        users.unified(record.as_bytes()).unwrap().write_json(&users.selection, &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), r#"{"attributes":{"age":1000.0,"id_phone":"7","tag_rfm":null}}"#);
    }

    #[test]
    fn the_answer_of_a_query_is_a_user_too() {
        let users = users(&[], &[("gender", "usr_gender")]);
        let answer = r#"{"gioId":"13831","identifications":{"ids_$basic_userId":["U38"],"ids_$anonymous_user":["X","Y"]},"properties":{"usr_gender":"女","usr_age":"28","usr_address":null}}"#;
        let row = unified(&users, answer);
        assert_eq!(
            (&row["user_id"], &row["vendor_user_id"], &row["gender"]),
            (&json!("U38"), &json!("13831"), &json!("女"))
        );
        assert_eq!(row["identities"]["id_$anonymous_user"], json!(["X", "Y"]));
        assert_eq!(row["attributes"], json!({"usr_age": "28", "usr_address": null}));
        assert!(!CdpUsers::is_nobody(answer.as_bytes()).unwrap());
        for nobody in [r#"{"gioId":"0","identifications":{},"properties":{}}"#, r#"{"gioId":0.0}"#, "{}"] {
            assert!(CdpUsers::is_nobody(nobody.as_bytes()).unwrap(), "{nobody}");
        }
    }

    #[test]
    fn numbers_in_text_columns_are_text_as_written() {
        let users = users(&["phone"], &[("phone", "usr_phone")]);
        let row = unified(&users, r#"{"gio_id":1,"properties":{"usr_phone":13800000000.0}}"#);
        assert_eq!(row, json!({"phone": "13800000000.0"}));
    }

    #[test]
    fn the_vendor_schema_keeps_only_what_was_asked() {
        let users_named = users(&["user_id", "attributes.rfm"], &[("attributes.rfm", "tag_rfm")]);
        assert_eq!(
            vendor(&users_named, SAMPLE),
            r#"{"identifications":{"id_$basic_userId":"C001"},"properties":{"tag_rfm":"高"}}"#
        );
        assert_eq!(vendor(&users(&["vendor_user_id"], &[]), SAMPLE), r#"{"gio_id":"1"}"#);
        let whole: Value = serde_json::from_str(&vendor(&users(&[], &[]), SAMPLE)).unwrap();
        assert_eq!(whole, serde_json::from_str::<Value>(SAMPLE).unwrap());
    }

    #[test]
    fn unknown_members_survive_and_broken_lines_are_refused() {
        let users = users(&[], &[]);
        let row = unified(&users, r#"{"gio_id":1,"newThing":[1],"properties":"odd"}"#);
        assert_eq!(row["activity"], json!({"newThing": [1], "properties": "odd"}));
        for bad in ["", "[]", "{", "{\"gio_id\":1", "gio_id,1"] {
            assert!(users.unified(bad.as_bytes()).is_err() && users.vendor(bad.as_bytes(), &mut Vec::new()).is_err());
        }
    }
}
