//! A person as the CDP exports them, and as the `user.v1` row that this record means.
//! Shapes: `developer-manual/open-api/cdp/space/space-download-user-tag-users.md`.

use std::collections::BTreeMap;

use chrono::SecondsFormat;
use serde_json::{Map, Value, json};

use crate::vendors::sandbox::people::{Gender, Oddity, Person};

/// The column of `user.v1` and the user attribute that feeds it, as the demo connection maps them.
pub const MAPPING: [(&str, &str); 11] = [
    ("email", "usr_email"),
    ("phone", "usr_phone"),
    ("first_name", "usr_first_name"),
    ("last_name", "usr_last_name"),
    ("gender", "usr_gender"),
    ("birth_date", "usr_birth_date"),
    ("country", "usr_country"),
    ("city", "usr_city"),
    ("language", "usr_language"),
    ("time_zone", "usr_time_zone"),
    ("created_at", "usr_created_at"),
];

/// The user's own id, as outputs name it. Requests may also say `ids_$basic_userId`.
pub const USER_ID: &str = "id_$basic_userId";

/// How an export is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GioId {
    Number,
    Text,
}

impl Person {
    /// Beyond 2^53 for some.
    pub fn gio_id(&self) -> u64 {
        let offset = if self.oddity == Oddity::Numbers { 9_007_199_254_740_993 } else { 600_000 };
        offset + self.index
    }

    /// The person's line in a `json` file, without the line end. Without properties it holds the vendor's id only.
    pub fn cdp(&self, properties: &[String], gio_id: GioId) -> String {
        let id = self.gio_id();
        let mut line = match gio_id {
            GioId::Number => format!("{{\"gio_id\":{id}"),
            GioId::Text => format!("{{\"gio_id\":\"{id}\""),
        };
        if !properties.is_empty() {
            let (mut identifications, mut values) = (Map::new(), Map::new());
            for name in properties {
                let value = self.property(name).flatten();
                match (output_name(name), value) {
                    // An identity the person lacks is left out by some releases and null in others.
                    (name, None) if name.starts_with("id_") && self.index.is_multiple_of(2) => drop(name),
                    (name, value) if name.starts_with("id_") => drop(identifications.insert(name, json!(value))),
                    (name, value) => drop(values.insert(name, json!(value))),
                }
            }
            line.push_str(",\"identifications\":");
            line.push_str(&Value::Object(identifications).to_string());
            line.push_str(",\"properties\":");
            line.push_str(&Value::Object(values).to_string());
        }
        line.push('}');
        line
    }

    /// The person's row in a `csv` file, without the line end: every value quoted, unknown ones empty and bare.
    pub fn cdp_csv(&self, properties: &[String]) -> String {
        let mut row = quoted(&self.gio_id().to_string());
        for name in properties {
            row.push(',');
            if let Some(value) = self.property(name).flatten() {
                row.push_str(&quoted(&value));
            }
        }
        row
    }

    /// The row of `user.v1` that an export with this mapping means; `attributes` are the other properties it asked for.
    pub fn cdp_user_v1(&self, mapping: &BTreeMap<String, String>, attributes: &[&str]) -> Value {
        let column = |name: &str| mapping.get(name).and_then(|property| self.property(property).flatten());
        let mut identities = Map::new();
        identities.insert("gio_id".into(), json!([self.gio_id().to_string()]));
        if let Some(id) = &self.user_id {
            identities.insert(USER_ID.into(), json!([id]));
        }
        let attributes: Map<_, _> =
            attributes.iter().map(|name| ((*name).to_owned(), json!(self.property(name).flatten()))).collect();
        json!({
            "user_id": self.user_id,
            "vendor_user_id": self.gio_id().to_string(),
            "identities": identities,
            "email": column("email"),
            "phone": column("phone"),
            "first_name": column("first_name"),
            "last_name": column("last_name"),
            "gender": column("gender"),
            "birth_date": column("birth_date"),
            "country": column("country"),
            "city": column("city"),
            "language": column("language"),
            "time_zone": column("time_zone"),
            "created_at": column("created_at"),
            "attributes": attributes,
            "activity": {},
        })
    }

    /// The value of an identity, user attribute or tag, always text; `None` when there is no such property.
    pub fn property(&self, name: &str) -> Option<Option<String>> {
        let value = match output_name(name).as_str() {
            USER_ID => self.user_id.clone(),
            "id_$anonymous_user" => {
                self.user_id.is_none().then(|| format!("{:08x}-anonymous", self.draw(200, 1 << 32)))
            }
            "usr_email" => self.email.clone(),
            "usr_phone" => self.phone.clone(),
            "usr_first_name" => self.first_name.clone(),
            "usr_last_name" => self.last_name.clone(),
            "usr_gender" => self.gender.map(|gender| match gender {
                Gender::Female => "女".to_owned(),
                Gender::Male => "男".to_owned(),
                Gender::Other => "其他".to_owned(),
            }),
            "usr_birth_date" => self.birth_date.map(|day| day.to_string()),
            "usr_country" => self.country.map(str::to_owned),
            "usr_city" => self.city.map(str::to_owned),
            "usr_language" => self.language.map(str::to_owned),
            "usr_time_zone" => self.time_zone.map(str::to_owned),
            "usr_created_at" => self.created_at.map(|at| at.to_rfc3339_opts(SecondsFormat::Millis, true)),
            "usr_plan" => Some(self.plan.to_owned()),
            "usr_age" => self.age.map(|age| age.to_string()),
            "usr_score" => self.score.map(|score| score.to_string()),
            "usr_note" => self.note.map(str::to_owned),
            "usr_account" => (self.oddity == Oddity::Numbers).then(|| "12345678901234567890123".to_owned()),
            "tag_rfm" => {
                ["高", "中", "低"].get(usize::try_from(self.draw(201, 4)).ok()?).map(|value| (*value).to_owned())
            }
            _ => return None,
        };
        Some(value)
    }
}

/// Requests spell identities `ids_…` or `id_…`; files always say `id_…`.
pub fn output_name(name: &str) -> String {
    name.strip_prefix("ids_").map_or_else(|| name.to_owned(), |rest| format!("id_{rest}"))
}

/// What a column is called with `csvHeaderType: name`.
pub fn display_name(name: &str) -> String {
    match output_name(name).as_str() {
        USER_ID => "用户ID".to_owned(),
        "usr_gender" => "性别".to_owned(),
        "usr_city" => "城市".to_owned(),
        "tag_rfm" => "会员等级".to_owned(),
        other => other.to_owned(),
    }
}

/// A csv cell.
pub fn quoted(value: &str) -> String {
    format!("\"{}\"", value.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_record_has_what_was_asked_for_and_null_for_the_unknown() {
        let asked = names(&["ids_$basic_userId", "usr_email", "usr_note"]);
        for index in 0..64 {
            let person = Person::new(1, index);
            let record: Value = serde_json::from_str(&person.cdp(&asked, GioId::Number)).unwrap();
            assert_eq!(record["gio_id"], person.gio_id());
            assert_eq!(record["properties"], json!({"usr_email": person.email, "usr_note": person.note}));
            assert_eq!(record["identifications"].get(USER_ID).unwrap_or(&Value::Null), &json!(person.user_id));
        }
    }

    #[test]
    fn without_properties_a_record_is_the_vendors_id_alone() {
        let person = Person::new(1, 8);
        assert_eq!(person.cdp(&[], GioId::Number), r#"{"gio_id":9007199254741001}"#);
        assert_eq!(person.cdp(&[], GioId::Text), r#"{"gio_id":"9007199254741001"}"#);
    }

    #[test]
    fn csv_quotes_every_value_and_leaves_the_unknown_bare() {
        let mut person = Person::new(1, 0);
        (person.note, person.email) = (Some("a \"b\",\nc"), None);
        assert_eq!(person.cdp_csv(&names(&["usr_email", "usr_note"])), "\"600000\",,\"a \"\"b\"\",\nc\"");
    }

    #[test]
    fn both_vendors_tell_of_the_same_person() {
        let mapping = MAPPING.map(|(column, property)| (column.to_owned(), property.to_owned())).into();
        for index in 0..64 {
            let person = Person::new(1, index);
            let (braze, cdp) = (person.braze_user_v1(), person.cdp_user_v1(&mapping, &[]));
            for column in ["user_id", "email", "phone", "first_name", "last_name", "birth_date", "city", "created_at"] {
                assert_eq!(braze[column], cdp[column], "{column} of {index}");
            }
        }
    }
}
