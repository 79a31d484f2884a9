//! The elements of arrays in JSON documents, which may be as long as they like.

use std::{
    cell::Cell,
    fmt,
    io::{self, BufRead, Read},
    rc::Rc,
};

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value, value::RawValue};

use super::{At, Each};
use crate::{
    exports::records::Record,
    results::{
        Error, Limits,
        archive::{Place, reading},
    },
};

/// The documents of a member without the arrays that [`elements`] reads: what it needs to know beforehand, since
/// members of an object come in any order.
pub fn heads(place: Place, member: &mut dyn BufRead, path: &[&str], limits: &Limits) -> Result<Vec<Value>, Error> {
    let leash = Leash::new(limits.max_record_bytes);
    let mut documents = serde_json::Deserializer::from_reader(leash.hold(member));
    let mut heads = Vec::new();
    loop {
        match documents.end() {
            Ok(()) => return Ok(heads),
            Err(error) if error.is_io() => return Err(json_error(place, error, &leash, limits)),
            Err(_) => {}
        }
        let head = Head { path, leash: &leash }.deserialize(&mut documents);
        heads.push(head.map_err(|error| json_error(place, error, &leash, limits))?);
    }
}

/// The elements of the array at `path` in each document; an empty path means the document itself.
pub fn elements(
    place: Place,
    member: &mut dyn BufRead,
    path: &[&str],
    heads: &[Value],
    limits: &Limits,
    each: &mut Each<'_>,
) -> Result<(), Error> {
    let leash = Leash::new(limits.max_record_bytes);
    let mut documents = serde_json::Deserializer::from_reader(leash.hold(member));
    let mut number = 0;
    for head in heads {
        let (mut found, mut fault) = (false, None);
        let read = Elements {
            place,
            path,
            head,
            leash: &leash,
            found: &mut found,
            number: &mut number,
            fault: &mut fault,
            each,
        }
        .deserialize(&mut documents);
        if let Some(fault) = fault {
            return Err(fault);
        }
        read.map_err(|error| json_error(place, error, &leash, limits))?;
        if !found {
            let why = format!("the answer has no `{}`", path.join("."));
            return Err(place.bad_record(number, leash.total(), why));
        }
    }
    Ok(())
}

fn json_error(place: Place, error: serde_json::Error, leash: &Leash, limits: &Limits) -> Error {
    let (line, offset) = (error.line() as u64, leash.total());
    if leash.is_taut() {
        return place.long_record(line, offset, limits);
    }
    if error.is_io() {
        return reading(place, error.into());
    }
    place.bad_record(line, offset, "it is not the documented JSON")
}

/// Lets a reader go only so far between two records.
struct Leash {
    state: Rc<LeashState>,
}

struct LeashState {
    max: usize,
    /// Bytes read since it was loosened, and in all.
    read: Cell<usize>,
    total: Cell<u64>,
}

impl Leash {
    /// Readers read ahead by their buffers, so the length is only as exact as those.
    const AHEAD: usize = 64 * 1024;

    fn new(max: usize) -> Self {
        Self { state: Rc::new(LeashState { max: max + Self::AHEAD, read: Cell::new(0), total: Cell::new(0) }) }
    }

    fn hold<'m>(&self, member: &'m mut dyn BufRead) -> Leashed<'m> {
        Leashed { member, state: Rc::clone(&self.state) }
    }

    fn loosen(&self) {
        self.state.read.set(0);
    }

    fn is_taut(&self) -> bool {
        self.state.read.get() >= self.state.max
    }

    fn total(&self) -> u64 {
        self.state.total.get()
    }
}

struct Leashed<'m> {
    member: &'m mut dyn BufRead,
    state: Rc<LeashState>,
}

impl Leashed<'_> {
    fn went(&self, bytes: usize) {
        self.state.read.set(self.state.read.get() + bytes);
        self.state.total.set(self.state.total.get() + bytes as u64);
    }
}

impl Read for Leashed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.state.read.get() >= self.state.max {
            return Err(io::Error::other("the record is too long"));
        }
        // Reading ahead must not hide how far a record goes.
        let room = buffer.len().min(Leash::AHEAD);
        let bytes = self.member.read(&mut buffer[..room])?;
        self.went(bytes);
        Ok(bytes)
    }
}

/// Reads a document without the array at the path.
struct Head<'p> {
    path: &'p [&'p str],
    leash: &'p Leash,
}

impl<'de> DeserializeSeed<'de> for Head<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        if self.path.is_empty() {
            return deserializer.deserialize_any(Skipped(self.leash));
        }
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Head<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut head = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let value = if self.path.first() == Some(&key.as_str()) {
                let below = map.next_value_seed(Head { path: &self.path[1..], leash: self.leash })?;
                if self.path.len() == 1 {
                    continue;
                }
                below
            } else {
                map.next_value()?
            };
            head.insert(key, value);
        }
        Ok(Value::Object(head))
    }
}

/// Passes over an array element by element, so that it may be as long as it likes.
struct Skipped<'p>(&'p Leash);

impl<'de> Visitor<'de> for Skipped<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array or null")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {
            self.0.loosen();
        }
        Ok(Value::Null)
    }
}

/// Hands on the elements of the array at the path.
struct Elements<'p, 'e, 'f> {
    place: Place,
    path: &'p [&'p str],
    head: &'p Value,
    leash: &'p Leash,
    found: &'p mut bool,
    number: &'p mut u64,
    fault: &'p mut Option<Error>,
    each: &'e mut Each<'f>,
}

impl<'de> DeserializeSeed<'de> for Elements<'_, '_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Elements<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.path.is_empty() { "an array or null" } else { "an object" })
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        if !self.path.is_empty() {
            return Err(E::custom("no object"));
        }
        *self.found = true;
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        if !self.path.is_empty() {
            return Err(A::Error::custom("an array where an object is documented"));
        }
        *self.found = true;
        while let Some(element) = seq.next_element::<Box<RawValue>>()? {
            *self.number += 1;
            self.leash.loosen();
            let at = At { place: self.place, line: *self.number, offset: self.leash.total() };
            if let Err(fault) = (self.each)(at, Record::Element { head: self.head, json: element.get() }) {
                *self.fault = Some(fault);
                return Err(A::Error::custom("a record was not taken"));
            }
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Some((first, rest)) = self.path.split_first() else {
            return Err(A::Error::custom("an object where an array is documented"));
        };
        while let Some(key) = map.next_key::<String>()? {
            if key == *first {
                map.next_value_seed(Elements {
                    place: self.place,
                    path: rest,
                    head: self.head,
                    leash: self.leash,
                    found: &mut *self.found,
                    number: &mut *self.number,
                    fault: &mut *self.fault,
                    each: &mut *self.each,
                })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exports::problem::Code;

    fn limits(max_record_bytes: usize) -> Limits {
        Limits { max_record_bytes, ..Limits::default() }
    }

    fn cut_json(text: &str, path: &[&str], limits: &Limits) -> Result<Vec<(Value, String)>, Error> {
        let heads = heads(Place::file(1, false), &mut text.as_bytes(), path, limits)?;
        let mut records = Vec::new();
        elements(Place::file(1, false), &mut text.as_bytes(), path, &heads, limits, &mut |_, record| {
            let Record::Element { head, json } = record else { panic!("{record:?}") };
            records.push((head.clone(), json.to_owned()));
            Ok(())
        })?;
        Ok(records)
    }

    #[test]
    fn elements_come_with_their_documents_head_whatever_the_order() {
        let text = r#"{"data": {"stats": [1, {"a" : 2}], "name": "n"}, "message": "ok"}
                      {"message": "two", "data": {"stats": []}}{"data":{"stats":null}}"#;
        let records = cut_json(text, &["data", "stats"], &Limits::default()).unwrap();
        let head = serde_json::json!({"data": {"name": "n"}, "message": "ok"});
        assert_eq!(records, [(head.clone(), "1".to_owned()), (head, "{\"a\" : 2}".to_owned())]);
        let bare = cut_json("[1,[2]]\n[3]", &[], &Limits::default()).unwrap();
        assert_eq!(bare.iter().map(|(_, json)| json.as_str()).collect::<Vec<_>>(), ["1", "[2]", "3"]);
    }

    #[test]
    fn an_answer_of_another_shape_is_no_empty_result() {
        for text in ["{}", "{\"data\":{}}", "{\"data\":1}", "{\"data\":[1]}", "[1]", "{\"data\":{\"stats\":[1", "x"] {
            let error = cut_json(text, &["data", "stats"], &Limits::default()).unwrap_err();
            assert_eq!(error.code, Code::VendorMalformedData, "{text}");
        }
        assert!(cut_json("", &["data"], &Limits::default()).unwrap().is_empty());
    }

    #[test]
    fn a_long_array_is_fine_and_a_long_element_is_not() {
        let many = format!("{{\"data\":[{}1]}}", "1,".repeat(500_000));
        assert_eq!(cut_json(&many, &["data"], &limits(1000)).unwrap().len(), 500_001);
        let long = format!("{{\"data\":[\"{}\"]}}", "x".repeat(500_000));
        assert_eq!(cut_json(&long, &["data"], &limits(1000)).unwrap_err().code, Code::ArchiveLimitExceeded);
    }
}
