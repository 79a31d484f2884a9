//! A person as the CDP exports them, and as the `user.v1` row that this record means.
//! Shapes: `developer-manual/open-api/cdp/space/space-download-user-tag-users.md`.

use std::collections::BTreeMap;

use chrono::SecondsFormat;
use serde_json::{Map, Value, json};

use super::computations::Computation;
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

/// Every identity that a user may have.
pub const IDENTITIES: [&str; 2] = [USER_ID, "id_$anonymous_user"];

/// Every user attribute and tag that a person has by itself.
pub const ATTRIBUTES: [&str; 17] = [
    "usr_email",
    "usr_phone",
    "usr_first_name",
    "usr_last_name",
    "usr_gender",
    "usr_birth_date",
    "usr_country",
    "usr_city",
    "usr_language",
    "usr_time_zone",
    "usr_created_at",
    "usr_plan",
    "usr_age",
    "usr_score",
    "usr_note",
    "usr_account",
    "tag_rfm",
];

/// How an export is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GioId {
    Number,
    Text,
}

/// How a csv file is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CsvStyle {
    /// `gio_id` has no quotes, as one format sample has it.
    pub bare_gio_id: bool,
    /// A quote within a value is `\"`, not `""`; which one is meant is not documented.
    pub backslash: bool,
}

impl CsvStyle {
    /// A cell.
    pub fn quoted(self, value: &str) -> String {
        let value =
            if self.backslash { value.replace('\\', r"\\").replace('"', "\\\"") } else { value.replace('"', "\"\"") };
        format!("\"{value}\"")
    }
}

/// A person as a user of one tag or segment: some properties tell of the audience's computation.
pub struct Member<'a> {
    pub person: &'a Person,
    pub computation: &'a Computation,
}

impl Member<'_> {
    /// As [`Person::property`].
    fn property(&self, name: &str) -> Option<String> {
        self.computation.property(name).or_else(|| self.person.property(name).flatten())
    }

    /// The user's line in a `json` file, without the line end. Without properties it holds the vendor's id only.
    pub fn json(&self, properties: &[String], gio_id: GioId) -> String {
        let id = self.person.gio_id();
        let mut line = match gio_id {
            GioId::Number => format!("{{\"gio_id\":{id}"),
            GioId::Text => format!("{{\"gio_id\":\"{id}\""),
        };
        if !properties.is_empty() {
            let (mut identifications, mut values) = (Map::new(), Map::new());
            for name in properties {
                let value = self.property(name);
                match (output_name(name), value) {
                    // An identity the person lacks is left out by some releases and null in others.
                    (name, None) if name.starts_with("id_") && self.person.index.is_multiple_of(2) => drop(name),
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

    /// The user's row in a `csv` file, without the line end: every value quoted, unknown ones empty and bare.
    pub fn csv(&self, properties: &[String], style: CsvStyle) -> String {
        let id = self.person.gio_id().to_string();
        let mut row = if style.bare_gio_id { id } else { style.quoted(&id) };
        for name in properties {
            row.push(',');
            if let Some(value) = self.property(name) {
                row.push_str(&style.quoted(&value));
            }
        }
        row
    }

    /// The user's entry in a page of `…/users`: identities are lists, ids and numbers are text.
    pub fn item(&self, properties: &[String]) -> Value {
        let (mut identifications, mut values) = (Map::new(), Map::new());
        for name in properties {
            match (output_name(name), self.property(name)) {
                (name, Some(value)) if name.starts_with("id_") => drop(identifications.insert(name, json!([value]))),
                (name, None) if name.starts_with("id_") => {}
                (name, value) => drop(values.insert(name, json!(value))),
            }
        }
        json!({"gioId": self.person.gio_id().to_string(), "identifications": identifications, "properties": values})
    }
}

impl Person {
    /// Beyond 2^53 for some.
    pub fn gio_id(&self) -> u64 {
        let offset = if self.oddity == Oddity::Numbers { 9_007_199_254_740_993 } else { 600_000 };
        offset + self.index
    }

    /// The answer to a query for this one person: everything there is, identities spelled `ids_…`.
    /// Source: `developer-manual/open-api/cdp/space/space-search-user.md`.
    pub fn cdp_single(&self) -> Value {
        let identifications: Map<_, _> = IDENTITIES
            .into_iter()
            .filter_map(|name| Some((name.replacen("id_", "ids_", 1), json!([self.property(name).flatten()?]))))
            .collect();
        let properties: Map<_, _> =
            ATTRIBUTES.iter().map(|name| ((*name).to_owned(), json!(self.property(name).flatten()))).collect();
        json!({"gioId": self.gio_id().to_string(), "identifications": identifications, "properties": properties})
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
                self.user_id.is_none().then(|| format!("{:08x}-{}", self.draw(200, 1 << 32), self.index))
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
    let name = output_name(name);
    let displayed = match name.as_str() {
        USER_ID => "用户ID",
        "id_$anonymous_user" => "设备ID",
        "usr_email" => "邮箱",
        "usr_phone" => "手机号",
        "usr_first_name" => "名",
        "usr_last_name" => "姓",
        "usr_gender" => "性别",
        "usr_birth_date" => "生日",
        "usr_country" => "国家",
        "usr_city" => "城市",
        "usr_language" => "语言",
        "usr_time_zone" => "时区",
        "usr_created_at" => "创建时间",
        "usr_plan" => "套餐",
        "usr_age" => "年龄",
        "usr_score" => "得分",
        "usr_note" => "备注",
        "usr_account" => "账号",
        "usr_computed_at" => "计算时间",
        "usr_computation" => "计算方式",
        "tag_rfm" => "会员等级",
        _ => return name,
    };
    displayed.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The person as a user of an audience that was computed by schedule.
    fn member(person: &Person) -> Member<'_> {
        static NIGHTLY: std::sync::LazyLock<Computation> = std::sync::LazyLock::new(Computation::nightly);
        Member { person, computation: &NIGHTLY }
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_record_has_what_was_asked_for_and_null_for_the_unknown() {
        let asked = names(&["ids_$basic_userId", "usr_email", "usr_note"]);
        for index in 0..64 {
            let person = Person::new(1, index);
            let record: Value = serde_json::from_str(&member(&person).json(&asked, GioId::Number)).unwrap();
            assert_eq!(record["gio_id"], person.gio_id());
            assert_eq!(record["properties"], json!({"usr_email": person.email, "usr_note": person.note}));
            assert_eq!(record["identifications"].get(USER_ID).unwrap_or(&Value::Null), &json!(person.user_id));
        }
    }

    #[test]
    fn without_properties_a_record_is_the_vendors_id_alone() {
        let person = Person::new(1, 8);
        assert_eq!(member(&person).json(&[], GioId::Number), r#"{"gio_id":9007199254741001}"#);
        assert_eq!(member(&person).json(&[], GioId::Text), r#"{"gio_id":"9007199254741001"}"#);
    }

    #[test]
    fn csv_quotes_every_value_and_leaves_the_unknown_bare() {
        let mut person = Person::new(1, 0);
        (person.note, person.email) = (Some("a \"b\",\nc"), None);
        let row = |style| member(&person).csv(&names(&["usr_email", "usr_note"]), style);
        assert_eq!(row(CsvStyle::default()), "\"600000\",,\"a \"\"b\"\",\nc\"");
        let odd = CsvStyle { bare_gio_id: true, backslash: true };
        assert_eq!(row(odd), "600000,,\"a \\\"b\\\",\nc\"");
    }

    #[test]
    fn a_query_for_one_person_answers_lists_of_identities_and_every_property() {
        let person = Person::new(1, 0);
        let one = person.cdp_single();
        assert_eq!(one["identifications"], json!({"ids_$basic_userId": ["user-0"]}));
        assert_eq!(one["properties"].as_object().unwrap().len(), ATTRIBUTES.len());
        assert_eq!(one["properties"]["usr_age"], json!(person.age.map(|age| age.to_string())));
        assert!(ATTRIBUTES.iter().chain(&IDENTITIES).all(|name| person.property(name).is_some()));
        assert!(ATTRIBUTES.iter().all(|name| display_name(name) != *name));
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
