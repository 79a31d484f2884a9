//! A person as Braze exports them, and as the `user.v1` row that this record means.
//! Shape, names and spellings: `_docs/_api/endpoints/export/user_data/post_users_segment.md`.

use chrono::{DateTime, Datelike, SecondsFormat, Timelike, Utc};
use serde_json::{Map, Value, json};

use crate::vendors::sandbox::people::{Gender, Oddity, Person, pick};

/// What `fields_to_export` may name: the documented names, old and new.
pub const FIELDS: [&str; 34] = [
    "apps",
    "attributed_campaign",
    "attributed_source",
    "attributed_adgroup",
    "attributed_ad",
    "braze_id",
    "campaigns_received",
    "canvases_received",
    "cards_clicked",
    "country",
    "created_at",
    "created_from",
    "custom_attributes",
    "custom_events",
    "devices",
    "dob",
    "email",
    "email_subscribe",
    "external_id",
    "first_name",
    "gender",
    "home_city",
    "language",
    "last_coordinates",
    "last_name",
    "phone",
    "purchases",
    "push_subscribe",
    "push_tokens",
    "random_bucket",
    "time_zone",
    "total_revenue",
    "uninstalled_at",
    "user_aliases",
];

/// Members of a record that `user.v1` has elsewhere than in `activity`.
const NOT_ACTIVITY: [&str; 15] = [
    "external_id",
    "user_aliases",
    "braze_id",
    "first_name",
    "last_name",
    "email",
    "dob",
    "home_city",
    "country",
    "phone",
    "language",
    "time_zone",
    "gender",
    "created_at",
    "custom_attributes",
];

/// What an export asked for.
#[derive(Debug, Clone)]
pub struct Asked {
    /// By position in [`ORDER`].
    fields: [bool; ORDER.len()],
    /// `custom_attributes_to_export`; without effect beside the field `custom_attributes`.
    custom_attributes: Vec<String>,
}

impl Asked {
    /// Names that are no field ask for nothing.
    pub fn new(fields: &[String], custom_attributes: Vec<String>) -> Self {
        Self { fields: ORDER.map(|name| fields.iter().any(|asked| asked == name)), custom_attributes }
    }

    /// Every field.
    pub fn everything() -> Self {
        Self { fields: [true; ORDER.len()], custom_attributes: Vec::new() }
    }
}

impl Person {
    /// 24 hexadecimal digits.
    pub fn braze_id(&self) -> String {
        format!("{:016x}{:08x}", self.draw(100, u64::MAX), self.index & 0xffff_ffff)
    }

    /// The person's line in an export file, without the line end. Only what was asked for appears, and what is unknown
    /// is missing or null.
    pub fn braze(&self, asked: &Asked) -> String {
        let mut line = String::with_capacity(1024);
        line.push('{');
        for (name, value) in self.members(asked) {
            if line.len() > 1 {
                line.push(',');
            }
            member(&mut line, name, &value);
        }
        line.push('}');
        line
    }

    /// The row of `user.v1` that an export of every field means.
    pub fn braze_user_v1(&self) -> Value {
        let parsed = |text: &str| serde_json::from_str(text).unwrap_or(Value::Null);
        let everything = self.members(&Asked::everything());
        let activity: Map<_, _> = everything
            .iter()
            // Null means the same as missing.
            .filter(|(name, value)| !NOT_ACTIVITY.contains(name) && value != "null")
            .map(|(name, value)| ((*name).to_owned(), parsed(value)))
            .collect();
        let attributes: Map<_, _> =
            self.custom_attributes().iter().map(|(name, value)| ((*name).to_owned(), parsed(value))).collect();
        json!({
            "user_id": self.user_id,
            "vendor_user_id": self.braze_id(),
            "identities": self.braze_identities(),
            "email": self.email,
            "phone": self.phone,
            "first_name": self.first_name,
            "last_name": self.last_name,
            "gender": self.gender.map(letter),
            "birth_date": self.birth_date.map(|day| day.to_string()),
            "country": self.country,
            "city": self.city,
            "language": self.language,
            "time_zone": self.time_zone,
            "created_at": self.created_at.map(|at| at.to_rfc3339_opts(SecondsFormat::Millis, true)),
            "attributes": attributes,
            "activity": activity,
        })
    }

    fn braze_identities(&self) -> Value {
        let mut identities = Map::new();
        if let Some(id) = &self.user_id {
            identities.insert("external_id".into(), json!([id]));
        }
        identities.insert("braze_id".into(), json!([self.braze_id()]));
        for (label, name) in &self.aliases {
            let names = identities.entry(format!("alias:{label}")).or_insert_with(|| json!([]));
            if let Some(names) = names.as_array_mut() {
                names.push(json!(name));
            }
        }
        Value::Object(identities)
    }

    /// The members of the record with their JSON text, in the documented order.
    fn members(&self, asked: &Asked) -> Vec<(&'static str, String)> {
        let nulls = self.oddity == Oddity::Nulls;
        let mut members: Vec<(&'static str, String)> = Vec::with_capacity(32);
        let mut add = |name: &'static str, value: Option<String>| match value {
            Some(value) => members.push((name, value)),
            None if nulls => members.push((name, "null".into())),
            None => {}
        };
        for (name, whole) in ORDER.into_iter().zip(asked.fields) {
            let in_part = name == "custom_attributes" && !asked.custom_attributes.is_empty();
            if !whole && !in_part {
                continue;
            }
            match name {
                "push_subscribe" => self.subscription(name, "push_opted_in_at", "push_unsubscribed_at", 110, &mut add),
                "email_subscribe" => {
                    self.subscription(name, "email_opted_in_at", "email_unsubscribed_at", 112, &mut add);
                }
                "custom_attributes" => add(name, self.asked_attributes(whole, &asked.custom_attributes)),
                _ => add(name, self.field(name)),
            }
        }
        members
    }

    fn field(&self, name: &str) -> Option<String> {
        let often = |topic, of_ten| self.oddity != Oddity::Bare && self.draw(topic, 10) < of_ten;
        match name {
            "created_at" => self.created_at.map(|at| text(&spelled(at, self.index))),
            "created_from" => {
                often(101, 3).then(|| text(pick::<&str>(&["SDK", "REST API", "CSV import"], self.draw(102, 3))))
            }
            "external_id" => self.user_id.as_deref().map(text),
            "user_aliases" => self.user_aliases(),
            "braze_id" => Some(text(&self.braze_id())),
            "random_bucket" => Some(self.draw(103, 10_000).to_string()),
            "first_name" => self.first_name.as_deref().map(text),
            "last_name" => self.last_name.as_deref().map(text),
            "email" => self.email.as_deref().map(text),
            "dob" => self.birth_date.map(|day| text(&day.to_string())),
            "home_city" => self.city.map(text),
            "country" => self.country.map(text),
            "phone" => self.phone.as_deref().map(text),
            "language" => self.language.map(text),
            "time_zone" => self.time_zone.map(text),
            "last_coordinates" => {
                let (x, y) = (self.draw(104, 3_600_000), self.draw(105, 1_800_000));
                often(106, 3).then(|| format!("[{}.{:04},{}.{:04}]", x / 10_000, x % 10_000, y / 10_000, y % 10_000))
            }
            "gender" => self.gender.map(|gender| text(letter(gender))),
            "total_revenue" => often(107, 4).then(|| match self.draw(108, 20_000) {
                whole if whole % 3 == 0 => whole.to_string(),
                cents => format!("{}.{:02}", cents / 100, cents % 100),
            }),
            "attributed_campaign" => often(109, 1).then(|| text("春季 2026")),
            "attributed_source" => often(109, 1).then(|| text("adjust")),
            "attributed_adgroup" => often(109, 1).then(|| text("look-alike 1%")),
            "attributed_ad" => often(109, 1).then(|| text("ad \"b\"")),
            "uninstalled_at" => often(114, 1).then(|| text(&spelled(self.moment(115), self.index))),
            "custom_events" => self.custom_events(),
            "purchases" => self.purchases(),
            "devices" => self.devices(),
            "push_tokens" => (self.oddity == Oddity::Devices).then(|| self.push_tokens()),
            "apps" => self.apps(),
            "campaigns_received" => often(121, 3).then(|| self.campaigns_received()),
            "canvases_received" => often(125, 2).then(|| self.canvases_received()),
            "cards_clicked" => often(129, 2).then(|| r#"[{"name":"Banner, top"}]"#.to_owned()),
            _ => None,
        }
    }

    /// `push_subscribe` and its like bring the time of the choice along.
    fn subscription(
        &self,
        name: &'static str,
        opted_in_at: &'static str,
        unsubscribed_at: &'static str,
        topic: u64,
        add: &mut impl FnMut(&'static str, Option<String>),
    ) {
        let at = || Some(text(&spelled(self.moment(topic + 1), 0)));
        match self.draw(topic, 10) {
            _ if self.oddity == Oddity::Bare => add(name, None),
            0..2 => {
                add(name, Some(text("opted_in")));
                add(opted_in_at, at());
            }
            2..8 => add(name, Some(text("subscribed"))),
            8 => {
                add(name, Some(text("unsubscribed")));
                add(unsubscribed_at, at());
            }
            _ => add(name, None),
        }
    }

    fn asked_attributes(&self, whole: bool, named: &[String]) -> Option<String> {
        let wanted = |name: &str| whole || named.iter().any(|asked| asked == name);
        let mut object = String::from("{");
        for (name, value) in self.custom_attributes() {
            if wanted(name) {
                if object.len() > 1 {
                    object.push(',');
                }
                member(&mut object, name, &value);
            }
        }
        object.push('}');
        (object.len() > 2 || self.oddity == Oddity::Empty).then_some(object)
    }

    /// Every custom attribute with its JSON text.
    fn custom_attributes(&self) -> Vec<(&'static str, String)> {
        if self.oddity == Oddity::Bare || self.oddity == Oddity::Nulls {
            return Vec::new();
        }
        let mut attributes = vec![("plan", text(self.plan))];
        if let Some(age) = self.age {
            attributes.push(("age", age.to_string()));
        }
        if let Some(score) = self.score {
            attributes.push(("score", score.to_string()));
        }
        attributes.push(("vip", (self.draw(130, 10) == 0).to_string()));
        attributes.push(("favorite_food", r#"["pizza","寿司"]"#.to_owned()));
        if let Some(note) = self.note {
            attributes.push(("note", text(note)));
        }
        match self.oddity {
            Oddity::Formulas => attributes.extend([("+cmd|' /C calc'!A0", text("-2+3")), ("formula", text("\t=1+1"))]),
            Oddity::Numbers => attributes.extend([
                ("account", "9007199254740993".to_owned()),
                ("ledger", "18446744073709551615".to_owned()),
                ("beyond", "12345678901234567890123".to_owned()),
                ("precise", "0.1000000000000000055511151231257827".to_owned()),
                ("exponent", "1.0E+2".to_owned()),
                ("loyalty_id", text("321")),
            ]),
            Oddity::Nested => attributes.extend([
                (
                    "pets",
                    r#"[{"name":"Rex","kind":"dog","visits":[{"at":"2026-01-02","cost":12.50},{}]},{"name":null}]"#
                        .to_owned(),
                ),
                ("address", r#"{"home":{"zip":"00100","geo":{"lat":41.9,"lon":12.5}},"work":null}"#.to_owned()),
            ]),
            Oddity::Empty => attributes.extend([
                ("tags", "[]".to_owned()),
                ("settings", "{}".to_owned()),
                ("last_seen", "null".to_owned()),
            ]),
            Oddity::Unicode => attributes.push(("最爱颜色 🎨", text("藍"))),
            _ => {}
        }
        attributes
    }

    fn user_aliases(&self) -> Option<String> {
        if self.aliases.is_empty() {
            return (self.oddity == Oddity::Empty).then(|| "[]".to_owned());
        }
        let mut list = String::from("[");
        for (label, name) in &self.aliases {
            if list.len() > 1 {
                list.push(',');
            }
            list.push('{');
            member(&mut list, "alias_name", &text(name));
            list.push(',');
            member(&mut list, "alias_label", &text(label));
            list.push('}');
        }
        list.push(']');
        Some(list)
    }

    /// A time within the year before October 2026.
    pub(super) fn moment(&self, topic: u64) -> DateTime<Utc> {
        let ago = self.draw(topic, 365 * 86_400_000).cast_signed();
        DateTime::from_timestamp_millis(1_790_812_800_000 - ago).unwrap_or_default()
    }
}

/// The order of the documented sample.
const ORDER: [&str; 34] = [
    "created_at",
    "created_from",
    "external_id",
    "user_aliases",
    "braze_id",
    "random_bucket",
    "first_name",
    "last_name",
    "email",
    "dob",
    "home_city",
    "country",
    "phone",
    "language",
    "time_zone",
    "last_coordinates",
    "gender",
    "total_revenue",
    "attributed_campaign",
    "attributed_source",
    "attributed_adgroup",
    "attributed_ad",
    "push_subscribe",
    "email_subscribe",
    "uninstalled_at",
    "custom_attributes",
    "custom_events",
    "purchases",
    "devices",
    "push_tokens",
    "apps",
    "campaigns_received",
    "canvases_received",
    "cards_clicked",
];

/// The three spellings of a time that stand side by side in the documented sample; a bare date is the fourth (`dob`).
pub(super) fn spelled(at: DateTime<Utc>, which: u64) -> String {
    // Formatted by hand: an export holds millions of times, and a format string would be read for each.
    let (date, time) = (at.date_naive(), at.time());
    let (year, month, day) = (date.year(), date.month(), date.day());
    let (hour, minute, second, millis) = (time.hour(), time.minute(), time.second(), at.timestamp_subsec_millis());
    match which % 3 {
        0 => format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z"),
        1 => format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}+00:00"),
        _ => format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{millis:03} UTC"),
    }
}

const fn letter(gender: Gender) -> &'static str {
    match gender {
        Gender::Female => "F",
        Gender::Male => "M",
        Gender::Other => "O",
    }
}

pub(super) fn text(value: &str) -> String {
    let plain = !value.bytes().any(|byte| byte < b' ' || byte == b'"' || byte == b'\\');
    if plain { ["\"", value, "\""].concat() } else { Value::from(value).to_string() }
}

fn member(object: &mut String, name: &str, value: &str) {
    object.push_str(&text(name));
    object.push(':');
    object.push_str(value);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_documented_order_holds_every_field_once() {
        assert_eq!(BTreeSet::from(ORDER), BTreeSet::from(FIELDS));
        assert_eq!(BTreeSet::from(FIELDS).len(), 34);
    }

    #[test]
    fn only_what_was_asked_for_comes_out() {
        let asked = Asked::new(&["email_subscribe".into(), "braze_id".into()], Vec::new());
        let mut names = BTreeSet::new();
        for index in 0..200 {
            let record: Map<String, Value> = serde_json::from_str(&Person::new(1, index).braze(&asked)).unwrap();
            names.extend(record.keys().cloned());
        }
        let expected = ["braze_id", "email_opted_in_at", "email_subscribe", "email_unsubscribed_at"];
        assert_eq!(names, expected.map(str::to_owned).into());
    }

    #[test]
    fn single_attributes_narrow_the_object_and_the_whole_object_beats_them() {
        let person = Person::new(1, 0);
        let attributes = |fields: &[&str]| {
            let fields: Vec<_> = fields.iter().map(ToString::to_string).collect();
            let asked = Asked::new(&fields, vec!["plan".into(), "no such".into()]);
            let record: Value = serde_json::from_str(&person.braze(&asked)).unwrap();
            record["custom_attributes"].as_object().unwrap().keys().cloned().collect::<Vec<_>>()
        };
        assert_eq!(attributes(&["email"]), ["plan"]);
        assert!(attributes(&["email", "custom_attributes"]).len() > 3);
    }

    #[test]
    fn every_record_is_one_line_of_json_with_unique_ids_and_a_usual_one_has_a_kilobyte() {
        let usual = "braze_id,external_id,first_name,last_name,email,phone,dob,gender,country,home_city,language,\
            time_zone,created_at,custom_attributes,custom_events,purchases";
        let usual: Vec<_> = usual.split(',').map(str::to_owned).collect();
        let usual = Asked::new(&usual, Vec::new());
        let mut ids = BTreeSet::new();
        let mut bytes = 0;
        for index in 0..2_048 {
            bytes += Person::new(1, index).braze(&usual).len();
            let line = Person::new(1, index).braze(&Asked::everything());
            assert!(!line.contains('\n'));
            let record: Value = serde_json::from_str(&line).unwrap();
            assert!(ids.insert(record["braze_id"].as_str().unwrap().to_owned()));
        }
        let mean = bytes / 2_048;
        assert!((900..1_300).contains(&mean), "{mean} bytes a user");
    }

    #[test]
    fn the_unified_row_has_what_the_record_has() {
        let person =
            (0..16).map(|index| Person::new(1, index)).find(|person| person.oddity == Oddity::Aliases).unwrap();
        let row = person.braze_user_v1();
        assert_eq!(row["user_id"], Value::Null);
        assert_eq!(row["identities"]["alias:crm"], json!(["C-11", "C-11-old"]));
        let record: Value = serde_json::from_str(&person.braze(&Asked::everything())).unwrap();
        let in_row = row["activity"].as_object().unwrap();
        assert!(in_row.iter().all(|(name, value)| record[name] == *value));
        assert_eq!(record["custom_attributes"], row["attributes"]);
        let elsewhere = record.as_object().unwrap().keys().filter(|name| !in_row.contains_key(*name));
        assert!(elsewhere.clone().count() > 5);
        assert!(elsewhere.into_iter().all(|name| NOT_ACTIVITY.contains(&name.as_str())));
    }

    #[test]
    fn unknown_is_null_for_some_and_missing_for_others() {
        let record = |oddity| -> Value {
            let person = (0..16).map(|index| Person::new(1, index)).find(|person| person.oddity == oddity).unwrap();
            serde_json::from_str(&person.braze(&Asked::everything())).unwrap()
        };
        assert_eq!(record(Oddity::Nulls).get("email"), Some(&Value::Null));
        assert_eq!(record(Oddity::Bare).get("email"), None);
        assert_eq!(record(Oddity::Anonymous).get("external_id"), None);
    }
}
