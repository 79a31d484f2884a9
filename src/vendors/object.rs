//! A JSON object as pairs borrowed from its text: values stay as the vendor wrote them, so numbers keep every digit and
//! a record costs no tree of allocations.

mod scan;

use std::{
    borrow::Cow,
    collections::{BTreeMap, btree_map::Entry},
    iter,
};

use serde::de::{
    Deserialize, Deserializer, Error as _, Visitor,
    value::{BorrowedStrDeserializer, Error as Unread, MapDeserializer},
};
use serde_json::value::RawValue;

/// Something is not a JSON object, or not JSON at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is not a JSON object")]
pub struct NoObject;

/// One member of an object.
pub type Member<'a> = (Cow<'a, str>, &'a RawValue);

/// Whether a text is one JSON value, with white space around it or not.
pub fn is_json(text: &str) -> bool {
    let bytes = text.as_bytes();
    scan::value(bytes, scan::space(bytes, 0)).map(|end| scan::space(bytes, end)) == Some(bytes.len())
}

/// Walks over the members of one JSON object, in their order. Each value is checked to be JSON but not otherwise looked
/// at. Ends with an error if it is no object after all, so nothing may be passed on before the walk's end.
pub struct Walk<'a> {
    text: &'a str,
    /// Where the next member is; none before the first and after the last.
    next: Option<usize>,
    has_begun: bool,
}

impl<'a> Walk<'a> {
    /// Walks over a text.
    pub fn over(json: &'a [u8]) -> Self {
        // What is no UTF-8 is no JSON either, like an empty text.
        Self { text: simdutf8::basic::from_utf8(json).unwrap_or_default(), next: None, has_begun: false }
    }

    /// Passes over the opening brace, or what stands after a member; answers where the next member is, if there is one.
    fn pass(&self, at: usize) -> Result<Option<usize>, NoObject> {
        let bytes = self.text.as_bytes();
        let at = scan::space(bytes, at);
        let begin = if self.has_begun { scan::byte(bytes, at, b',') } else { scan::byte(bytes, at, b'{') };
        let begin = begin.map(|begin| scan::space(bytes, begin));
        let brace = if self.has_begun { Some(at) } else { begin };
        match brace.and_then(|brace| scan::byte(bytes, brace, b'}')) {
            Some(end) if scan::space(bytes, end) == bytes.len() => Ok(None),
            Some(_) => Err(NoObject),
            None => begin.map(Some).ok_or(NoObject),
        }
    }

    /// Reads the member there; answers where it ends too.
    fn member(&self, at: usize) -> Option<(Member<'a>, usize)> {
        let bytes = self.text.as_bytes();
        let name_end = scan::string(bytes, at)?;
        let colon = scan::space(bytes, name_end);
        let begin = scan::space(bytes, scan::byte(bytes, colon, b':')?);
        let end = scan::value(bytes, begin)?;
        let name = string(self.text.get(at..name_end)?)?;
        Some(((name, checked(self.text.get(begin..end)?)?), end))
    }

    fn step(&mut self) -> Result<Option<Member<'a>>, NoObject> {
        if !self.has_begun {
            self.next = self.pass(0)?;
            self.has_begun = true;
        }
        let Some(at) = self.next.take() else { return Ok(None) };
        let (member, end) = self.member(at).ok_or(NoObject)?;
        self.next = self.pass(end)?;
        Ok(Some(member))
    }
}

impl<'a> Iterator for Walk<'a> {
    type Item = Result<Member<'a>, NoObject>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.step();
        // After an error there is nothing more.
        self.has_begun = true;
        step.transpose()
    }
}

/// The members of one JSON object, in their order and without repeats. A value is checked to be JSON but not otherwise
/// looked at.
#[derive(Debug, Default)]
pub struct Members<'a>(pub Vec<Member<'a>>);

impl<'a> Members<'a> {
    /// Reads an object; anything else is an error.
    pub fn read(json: &'a [u8]) -> Result<Self, NoObject> {
        let mut members = Vec::with_capacity(32);
        for member in Walk::over(json) {
            members.push(member?);
        }
        keep_last(&mut members);
        Ok(Self(members))
    }

    /// The members of a value that is an object.
    pub fn of(value: &'a RawValue) -> Option<Self> {
        Self::read(value.get().as_bytes()).ok()
    }

    pub fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| *value)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::of(<&RawValue>::deserialize(deserializer)?).ok_or_else(|| D::Error::custom(NoObject))
    }
}

/// Of members with the same name only the last value stays, at the place of the first: what a name means in JSON where
/// it repeats is nobody's rule, but nearly every reader's.
pub fn keep_last<V>(members: &mut Vec<(Cow<'_, str>, V)>) {
    /// How many are compared with each other.
    const FEW: usize = 32;
    let is_repeated = |index: usize| members[..index].iter().any(|(name, _)| *name == members[index].0);
    if members.len() <= FEW && !(1..members.len()).any(is_repeated) {
        return;
    }
    let mut places: BTreeMap<_, usize> = BTreeMap::new();
    let mut kept: Vec<(Cow<'_, str>, V)> = Vec::with_capacity(members.len());
    for (name, value) in members.drain(..) {
        match places.entry(name.clone()) {
            Entry::Occupied(place) => kept[*place.get()].1 = value,
            Entry::Vacant(place) => {
                place.insert(kept.len());
                kept.push((name, value));
            }
        }
    }
    *members = kept;
}

/// A text that is known to be one JSON value.
fn checked(json: &str) -> Option<&RawValue> {
    struct Known<'a>(&'a str);

    impl<'de> Deserializer<'de> for Known<'de> {
        type Error = Unread;

        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Unread> {
            Err(Unread::custom("only a raw value is read"))
        }

        /// The way in which serde_json hands a raw value over; by itself it would read the text once more.
        fn deserialize_newtype_struct<V: Visitor<'de>>(
            self,
            name: &'static str,
            visitor: V,
        ) -> Result<V::Value, Unread> {
            visitor.visit_map(MapDeserializer::new(iter::once((name, BorrowedStrDeserializer::new(self.0)))))
        }

        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct seq
            tuple tuple_struct map struct enum identifier ignored_any
        }
    }

    <&RawValue>::deserialize(Known(json)).ok()
}

/// A string as it is written, quotes and all, as its text: borrowed where it holds no escapes, none where it is no
/// Unicode (a lone surrogate).
fn string(written: &str) -> Option<Cow<'_, str>> {
    let inner = written.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') { serde_json::from_str(written).ok().map(Cow::Owned) } else { Some(Cow::Borrowed(inner)) }
}

pub fn is_null(value: &RawValue) -> bool {
    value.get() == "null"
}

pub fn is_object(value: &RawValue) -> bool {
    value.get().starts_with('{')
}

/// A value as text: a string without its quotes, a number or any other value as it is written, null as none.
/// A string that is no Unicode (a lone surrogate) stays as it is written too.
pub fn text(value: &RawValue) -> Option<Cow<'_, str>> {
    if is_null(value) {
        return None;
    }
    let written = value.get();
    Some(string(written).unwrap_or(Cow::Borrowed(written)))
}

/// A value that may be one or many, as a list of texts without nulls.
pub fn texts(value: &RawValue) -> Vec<Cow<'_, str>> {
    if !value.get().starts_with('[') {
        return text(value).into_iter().collect();
    }
    let values: Vec<&RawValue> = serde_json::from_str(value.get()).unwrap_or_default();
    values.into_iter().filter_map(text).collect()
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
        for json in [
            "",
            "[1]",
            "\"x\"",
            "null",
            "{",
            "{\"a\":1}{",
            "{\"a\":01}",
            "{\"a\":\"\u{1}\"}",
            "{\"a\":1,}",
            "{,}",
            "{}}",
            "{\"a\":1} x",
            "{\"\\ud800\":1}",
            "{\"a\":tru}",
            "{\"a\" 1}",
            "{a:1}",
        ] {
            assert!(Members::read(json.as_bytes()).is_err(), "{json}");
        }
        assert!(Members::read(b"{\"a\":\"\xff\"}").is_err());
        assert!(Members::read(b" {\"a\" : 1 } \r\n").is_ok() && Members::read(b"{ }").unwrap().0.is_empty());
    }

    #[test]
    fn a_walk_that_fails_ends() {
        let mut walk = Walk::over(b"{\"a\":1,\"b\":x,\"c\":2}");
        assert_eq!(walk.next().unwrap().unwrap().0, "a");
        assert_eq!(walk.next().unwrap().unwrap_err(), NoObject);
        assert!(walk.next().is_none());
        let mut none = Walk::over(b"[]");
        assert!(none.next().unwrap().is_err() && none.next().is_none());
    }

    #[test]
    fn of_repeated_names_the_last_value_stays() {
        let few = Members::read(br#"{"a":1,"b":2,"\u0061":3,"a":4}"#).unwrap();
        assert_eq!(
            few.0.iter().map(|(name, value)| (&**name, value.get())).collect::<Vec<_>>(),
            [("a", "4"), ("b", "2")]
        );
        let many: Vec<_> = (0..100_000).map(|number| format!("\"{}\":{number}", number % 50_000)).collect();
        let json = format!("{{{}}}", many.join(","));
        let many = Members::read(json.as_bytes()).unwrap();
        assert_eq!((many.0.len(), many.0[7].1.get(), many.get("49999").unwrap().get()), (50_000, "50007", "99999"));
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
