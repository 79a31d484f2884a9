//! A JSON object as pairs borrowed from its text: values stay as the vendor wrote them, so numbers keep every digit and
//! a record costs no tree of allocations.

use std::{borrow::Cow, fmt};

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The members of one JSON object, in their order. A value is checked to be JSON but not otherwise looked at.
#[derive(Debug, Default)]
pub struct Members<'a>(pub Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Members<'a> {
    /// Reads an object; anything else is an error.
    pub fn read(json: &'a [u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(json)
    }

    /// The members of a value that is an object.
    pub fn of(value: &'a RawValue) -> Option<Self> {
        serde_json::from_str(value.get()).ok()
    }

    pub fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| *value)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;

        impl<'de> Visitor<'de> for Pairs {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::with_capacity(map.size_hint().unwrap_or(16));
                while let Some((Text(key), value)) = map.next_entry()? {
                    members.push((key, value));
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Pairs)
    }
}

/// A string, borrowed where it holds no escapes.
#[derive(Debug, serde::Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

pub fn is_null(value: &RawValue) -> bool {
    value.get() == "null"
}

/// A value as text: a string without its quotes, a number or any other value as it is written, null as none.
/// A string that is no Unicode (a lone surrogate) stays as it is written too.
pub fn text(value: &RawValue) -> Option<Cow<'_, str>> {
    if is_null(value) {
        return None;
    }
    let written = value.get();
    let string = written.starts_with('"').then(|| serde_json::from_str::<Text>(written).ok()).flatten();
    Some(string.map_or(Cow::Borrowed(written), |Text(string)| string))
}

/// A value that may be one or many, as a list of texts without nulls.
pub fn texts(value: &RawValue) -> Vec<Cow<'_, str>> {
    match serde_json::from_str::<Vec<&RawValue>>(value.get()) {
        Ok(values) => values.into_iter().filter_map(text).collect(),
        Err(_) => text(value).into_iter().collect(),
    }
}

/// Appends an object of these members to `out`.
pub fn write<'m, 'a: 'm>(
    members: impl IntoIterator<Item = (&'m str, &'m RawValue)>,
    out: &mut Vec<u8>,
) -> serde_json::Result<()> {
    out.push(b'{');
    for (index, (name, value)) in members.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        serde_json::to_writer(&mut *out, name)?;
        out.push(b':');
        out.extend_from_slice(value.get().as_bytes());
    }
    out.push(b'}');
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(json: &str) -> &RawValue {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn members_keep_their_order_and_every_digit() {
        let json = br#"{"b": 12345678901234567890123, "a\n": {"x" : [1e400]}, "c":null}"#;
        let members = Members::read(json).unwrap();
        assert!(matches!(members.0[0].0, Cow::Borrowed("b")));
        assert_eq!(members.0[1].0, "a\n");
        let mut out = Vec::new();
        write(members.0.iter().map(|(name, value)| (name.as_ref(), *value)), &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), r#"{"b":12345678901234567890123,"a\n":{"x" : [1e400]},"c":null}"#);
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for json in ["", "[1]", "\"x\"", "null", "{", "{\"a\":1}{", "{\"a\":01}", "{\"a\":\"\u{1}\"}"] {
            assert!(Members::read(json.as_bytes()).is_err(), "{json}");
        }
        assert!(Members::read(b"{\"a\":\"\xff\"}").is_err());
    }

    #[test]
    fn every_value_has_a_text_but_null() {
        for (json, expected) in [
            ("null", None),
            (r#""a\u00e9""#, Some("aé")),
            (r#""""#, Some("")),
            ("603542", Some("603542")),
            ("1000.0", Some("1000.0")),
            ("true", Some("true")),
            (r#"["x"]"#, Some(r#"["x"]"#)),
            (r#""\ud800""#, Some(r#""\ud800""#)),
        ] {
            assert_eq!(text(raw(json)).as_deref(), expected, "{json}");
        }
        assert_eq!(texts(raw(r#"["a", null, 1]"#)), ["a", "1"]);
        assert_eq!(texts(raw(r#""a""#)), ["a"]);
        assert!(texts(raw("null")).is_empty());
    }
}
