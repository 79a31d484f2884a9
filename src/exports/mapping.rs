//! A connection's mapping: which vendor property feeds which column of `user.v1`, and how its values are translated.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::value::{RawValue, to_raw_value};
use utoipa::{PartialSchema, ToSchema};

use super::{fields::UserColumn, problem::FieldError, request::escape_pointer};

/// The most values that one column's map may have.
const MAX_VALUES: usize = 1_000;
/// The most characters of a vendor property, and of a value on either side of a map.
const MAX_CHARACTERS: usize = 255;

/// The column → what feeds it.
pub type ConnectionMapping = BTreeMap<String, Feed>;

/// What feeds a column: a vendor property, perhaps with other values than the vendor's. Written as the property alone
/// where no values are translated.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Feed {
    pub from: String,
    /// The vendor's value → ours. Values that are not here stay as they are.
    pub values: BTreeMap<String, String>,
}

impl From<&str> for Feed {
    fn from(property: &str) -> Self {
        Self { from: property.into(), values: BTreeMap::new() }
    }
}

/// A vendor property whose values are translated.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ValueMap, example = json!({"from": "usr_gender", "values": {"男": "male", "女": "female"}}))]
struct Translated<'a> {
    /// The vendor property.
    #[schema(min_length = 1, max_length = 255, example = "usr_gender")]
    from: Cow<'a, str>,
    /// The vendor's value → what the column shows; at most 1,000. Values that are not here stay as they are.
    #[schema(value_type = BTreeMap<String, String>, example = json!({"男": "male", "女": "female"}))]
    values: Cow<'a, BTreeMap<String, String>>,
}

impl Serialize for Feed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.values.is_empty() {
            return serializer.serialize_str(&self.from);
        }
        Translated { from: Cow::Borrowed(&self.from), values: Cow::Borrowed(&self.values) }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Feed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrObject;

        impl<'de> Visitor<'de> for TextOrObject {
            type Value = Feed;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a vendor property, or an object with `from` and `values`")
            }

            fn visit_str<E>(self, property: &str) -> Result<Feed, E> {
                Ok(property.into())
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Feed, A::Error> {
                let Translated { from, values } = Translated::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Feed { from: from.into_owned(), values: values.into_owned() })
            }
        }

        deserializer.deserialize_any(TextOrObject)
    }
}

impl PartialSchema for Feed {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        use utoipa::openapi::schema::{Object, OneOfBuilder, Type};
        let property = Object::builder()
            .schema_type(Type::String)
            .description(Some("A vendor property."))
            .min_length(Some(1))
            .max_length(Some(MAX_CHARACTERS))
            .build();
        OneOfBuilder::new()
            .item(property)
            .item(Translated::schema())
            .description(Some("What feeds a column: a vendor property, or one whose values are translated."))
            .into()
    }
}

impl ToSchema for Feed {
    fn name() -> Cow<'static, str> {
        "Feed".into()
    }
}

/// What is wrong with the value maps of a mapping.
pub fn check(mapping: &ConnectionMapping) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (column, feed) in mapping.iter().filter(|(_, feed)| !feed.values.is_empty()) {
        let pointer = format!("/mapping/{}", escape_pointer(column));
        if feed.from.trim().is_empty() || is_long(&feed.from) {
            let detail = "a vendor property of 1 to 255 characters";
            errors.push(FieldError::new(format!("{pointer}/from"), "invalid", detail));
        }
        let pointer = format!("{pointer}/values");
        if feed.values.len() > MAX_VALUES {
            let detail = format!("at most {MAX_VALUES} values; here are {}", feed.values.len());
            errors.push(FieldError::new(pointer, "too_many", detail));
            continue;
        }
        for (value, ours) in &feed.values {
            if is_long(value) || is_long(ours) {
                let pointer = format!("{pointer}/{}", escape_pointer(value));
                errors.push(FieldError::new(pointer, "invalid", "at most 255 characters on either side"));
            }
        }
    }
    errors
}

fn is_long(text: &str) -> bool {
    text.chars().nth(MAX_CHARACTERS).is_some()
}

/// The translated values of a mapping, by what they are shown in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ValueMaps {
    columns: BTreeMap<UserColumn, BTreeMap<String, String>>,
    attributes: BTreeMap<String, BTreeMap<String, String>>,
}

impl ValueMaps {
    /// Takes a mapping apart: the property of each column, and the values.
    pub fn split(mapping: ConnectionMapping) -> (BTreeMap<String, String>, Self) {
        let (mut properties, mut maps) = (BTreeMap::new(), Self::default());
        for (key, Feed { from, values }) in mapping {
            if !values.is_empty() {
                if let Some(column) = UserColumn::named(&key) {
                    maps.columns.insert(column, values);
                } else if let Some(name) = key.strip_prefix("attributes.") {
                    maps.attributes.insert(name.to_owned(), values);
                }
            }
            properties.insert(key, from);
        }
        (properties, maps)
    }

    /// What a text, date or time column shows for the vendor's text.
    pub fn text<'a>(&self, column: UserColumn, text: Cow<'a, str>) -> Cow<'a, str> {
        let values = self.columns.get(&column);
        values.and_then(|values| values.get(text.as_ref())).map_or(text, |ours| Cow::Owned(ours.clone()))
    }

    /// What a member of `attributes` shows for the vendor's value: a string is looked up by its text, a number or a
    /// boolean as it is written. Null, lists and objects stay as they are.
    pub fn attribute<'a>(&self, name: &str, value: Cow<'a, RawValue>) -> Cow<'a, RawValue> {
        let Some(values) = self.attributes.get(name) else { return value };
        let written = value.get();
        let ours = match written.as_bytes().first() {
            Some(b'{' | b'[' | b'n') | None => None,
            Some(b'"') => serde_json::from_str::<String>(written).ok().and_then(|text| values.get(&text)),
            Some(_) => values.get(written),
        };
        ours.and_then(|ours| to_raw_value(ours).ok()).map_or(value, Cow::Owned)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::exports::request::from_json;

    fn read(mapping: Value) -> Result<ConnectionMapping, FieldError> {
        from_json(mapping, "/mapping")
    }

    #[test]
    fn a_feed_is_a_text_or_has_values_and_is_written_as_it_was_read() {
        let written = json!({"email": "usr_email", "gender": {"from": "usr_gender", "values": {"男": "male"}}});
        let mapping = read(written.clone()).unwrap();
        assert_eq!(mapping["email"], Feed::from("usr_email"));
        assert_eq!(mapping["gender"].values["男"], "male");
        assert_eq!(serde_json::to_value(&mapping).unwrap(), written);
        let stored: ConnectionMapping = serde_json::from_str(&written.to_string()).unwrap();
        assert_eq!(stored, mapping);
    }

    #[test]
    fn what_is_wrong_is_pointed_at() {
        for (mapping, pointer) in [
            (json!({"gender": 1}), "/mapping/gender"),
            (json!({"gender": null}), "/mapping/gender"),
            (json!({"gender": ["usr_gender"]}), "/mapping/gender"),
            (json!({"gender": {"values": {}}}), "/mapping/gender/from"),
            (json!({"gender": {"from": "usr_gender"}}), "/mapping/gender/values"),
            (json!({"gender": {"from": 1, "values": {}}}), "/mapping/gender/from"),
            (json!({"gender": {"from": "g", "values": {"男": 1}}}), "/mapping/gender/values/男"),
            (json!({"gender": {"from": "g", "values": {"a/b": null}}}), "/mapping/gender/values/a~1b"),
            (json!({"gender": {"from": "g", "values": ["男"]}}), "/mapping/gender/values"),
            (json!({"gender": {"from": "g", "values": {}, "otherwise": "x"}}), "/mapping/gender/otherwise"),
        ] {
            assert_eq!(read(mapping.clone()).unwrap_err().pointer, pointer, "{mapping}");
        }
    }

    #[test]
    fn values_have_limits() {
        let map = |from: &str, values: BTreeMap<String, String>| {
            ConnectionMapping::from([("gender".to_owned(), Feed { from: from.into(), values })])
        };
        let many = |count: usize| (0..count).map(|value| (value.to_string(), "x".to_owned())).collect();
        let one = |value: &str, ours: &str| BTreeMap::from([(value.to_owned(), ours.to_owned())]);
        let long = "男".repeat(MAX_CHARACTERS);
        assert_eq!(check(&map("g", many(MAX_VALUES))), []);
        assert_eq!(check(&map("g", one(&long, &long))), []);
        assert_eq!(check(&map("g", one("", ""))), []);
        for (mapping, pointer) in [
            (map("g", many(MAX_VALUES + 1)), "/mapping/gender/values".to_owned()),
            (map("g", one(&format!("{long}x"), "y")), format!("/mapping/gender/values/{long}x")),
            (map("g", one("x", &format!("{long}y"))), "/mapping/gender/values/x".to_owned()),
            (map(" ", one("x", "y")), "/mapping/gender/from".to_owned()),
        ] {
            let pointers: Vec<_> = check(&mapping).into_iter().map(|error| error.pointer).collect();
            assert_eq!(pointers, [pointer]);
        }
    }

    #[test]
    fn only_the_values_of_the_map_are_translated() {
        let values =
            json!({"from": "p", "values": {"男": "male", "1": "one", "true": "yes", "a\"b": "quoted", "null": "x"}});
        let mapping = read(json!({"gender": values, "attributes.plan": values, "email": "e"})).unwrap();
        let (properties, maps) = ValueMaps::split(mapping);
        assert_eq!((&*properties["gender"], &*properties["attributes.plan"], &*properties["email"]), ("p", "p", "e"));
        for (text, expected) in [("男", "male"), ("女", "女"), ("", "")] {
            assert_eq!(maps.text(UserColumn::Gender, text.into()), expected);
        }
        assert_eq!(maps.text(UserColumn::Email, "男".into()), "男");
        for (json, expected) in [
            ("\"男\"", "\"male\""),
            (r#""\u7537""#, "\"male\""),
            (r#""a\"b""#, "\"quoted\""),
            ("1", "\"one\""),
            ("1.0", "1.0"),
            ("true", "\"yes\""),
            ("null", "null"),
            ("[\"男\"]", "[\"男\"]"),
            (r#""\ud800""#, r#""\ud800""#),
        ] {
            let value: &RawValue = serde_json::from_str(json).unwrap();
            assert_eq!(maps.attribute("plan", Cow::Borrowed(value)).get(), expected, "{json}");
            assert_eq!(maps.attribute("other", Cow::Borrowed(value)).get(), json);
        }
    }
}
