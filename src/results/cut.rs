//! Cutting the bytes of a vendor file into records, one at a time and none larger than the limit.

use std::{
    cell::Cell,
    fmt,
    io::{self, BufRead, Read},
    rc::Rc,
};

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value, value::RawValue};

use super::{
    Error, Limits,
    archive::{Place, reading},
    text::EitherQuote,
};
use crate::exports::records::{BadRecord, Delimiter, Dialect, Record};

/// A buffer that grew beyond this for one long record is given back.
pub const ROOMY: usize = 1024 * 1024;

/// Where a record begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At {
    pub place: Place,
    /// From 1; of JSON documents, the number of the element.
    pub line: u64,
    /// In bytes, from 0; of JSON documents, roughly.
    pub offset: u64,
}

impl At {
    /// A record here that cannot be read.
    pub fn bad_record(self, BadRecord(why): &BadRecord) -> Error {
        self.place.bad_record(self.line, self.offset, why)
    }

    fn long_record(self, limits: &Limits) -> Error {
        self.place.long_record(self.line, self.offset, limits)
    }
}

/// Takes each record as it is cut out.
pub type Each<'e> = dyn FnMut(At, Record<'_>) -> Result<(), Error> + 'e;

/// Bytes read at once for lines. The fuzzer's inputs are small, and shall span blocks too.
const BLOCK: usize = if cfg!(fuzzing) { 32 } else { 256 * 1024 };

/// Whole lines out of the middle of a member.
#[derive(Debug)]
pub struct Lines {
    /// Where the first one begins.
    pub at: At,
    pub bytes: Vec<u8>,
}

impl Lines {
    /// Each of the lines, as [`lines`].
    ///
    /// # Errors
    /// For a line beyond the limit, and what `each` fails with.
    pub fn each(&self, limits: &Limits, each: &mut Each<'_>) -> Result<(), Error> {
        let mut at = self.at;
        let mut rest = self.bytes.as_slice();
        while !rest.is_empty() {
            let bytes = memchr::memchr(b'\n', rest).map_or(rest.len(), |end| end + 1);
            let (line, behind) = rest.split_at(bytes);
            let record = line.trim_ascii();
            if record.len() > limits.max_record_bytes {
                return Err(at.long_record(limits));
            }
            if !record.is_empty() {
                each(at, Record::Line(record))?;
            }
            at = At { line: at.line + 1, offset: at.offset + bytes as u64, ..at };
            rest = behind;
        }
        Ok(())
    }
}

/// Whole lines at a time: their ends may be `\n` or `\r\n`, the last may be missing. The lines of all blocks are the
/// lines of the member.
///
/// # Errors
/// When reading fails, for a line far beyond the limit, and what `take` fails with.
pub fn blocks(
    place: Place,
    member: &mut dyn Read,
    limits: &Limits,
    take: &mut dyn FnMut(Lines) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut at = At { place, line: 1, offset: 0 };
    let mut carried = Vec::new();
    loop {
        let mut bytes = std::mem::take(&mut carried);
        let wanted = BLOCK.saturating_sub(bytes.len()).max(BLOCK / 2);
        bytes.reserve_exact(wanted);
        let read = (&mut *member).take(wanted as u64).read_to_end(&mut bytes).map_err(|error| reading(place, error))?;
        let is_last = read < wanted;
        let end = if is_last { bytes.len() } else { memchr::memrchr(b'\n', &bytes).map_or(0, |end| end + 1) };
        carried.extend_from_slice(&bytes[end..]);
        bytes.truncate(end);
        // Room for white space around the longest record allowed.
        if carried.len() > limits.max_record_bytes + BLOCK {
            return Err(
                At { line: at.line + newlines(&bytes), offset: at.offset + end as u64, ..at }.long_record(limits)
            );
        }
        let next = At { line: at.line + newlines(&bytes), offset: at.offset + end as u64, ..at };
        if !bytes.is_empty() {
            take(Lines { at, bytes })?;
        }
        if is_last {
            return Ok(());
        }
        at = next;
    }
}

fn newlines(bytes: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', bytes).count() as u64
}

/// Lines, one record each: white space around them is no part of them, blank ones are passed over.
///
/// # Errors
/// As [`blocks`] and [`Lines::each`].
pub fn lines(place: Place, member: &mut dyn Read, limits: &Limits, each: &mut Each<'_>) -> Result<(), Error> {
    blocks(place, member, limits, &mut |block| block.each(limits, each))
}

/// Rows of delimited text. A byte-order mark is passed over.
pub fn delimited(
    place: Place,
    member: &mut dyn BufRead,
    dialect: Dialect,
    limits: &Limits,
    each: &mut Each<'_>,
) -> Result<(), Error> {
    let delimiter = delimiter(place, member, dialect.delimiter)?;
    let leash = Leash::new(limits.max_record_bytes);
    let mut reader = csv::ReaderBuilder::new();
    reader.has_headers(false).flexible(true).delimiter(delimiter).double_quote(dialect.double_quote);
    reader.quoting(dialect.delimiter != Delimiter::Tab);
    let held = leash.hold(member);
    if dialect.escape == Some(b'\\') && dialect.double_quote {
        return each_row(place, reader.from_reader(EitherQuote::new(held)), &leash, limits, each);
    }
    each_row(place, reader.escape(dialect.escape).from_reader(held), &leash, limits, each)
}

fn each_row(
    place: Place,
    mut rows: csv::Reader<impl Read>,
    leash: &Leash,
    limits: &Limits,
    each: &mut Each<'_>,
) -> Result<(), Error> {
    let mut row = csv::ByteRecord::new();
    loop {
        leash.loosen();
        let position = rows.position().clone();
        let (line, offset) = (position.line(), position.byte());
        match rows.read_byte_record(&mut row) {
            Ok(false) => return Ok(()),
            Ok(true) if row.as_slice().len() > limits.max_record_bytes => {
                return Err(place.long_record(line, offset, limits));
            }
            Ok(true) => each(At { place, line, offset }, Record::Cells(&row))?,
            Err(_) if leash.is_taut() => return Err(place.long_record(line, offset, limits)),
            Err(error) => {
                return Err(match error.into_kind() {
                    csv::ErrorKind::Io(error) => reading(place, error),
                    _ => place.bad_record(line, offset, "it is not delimited text"),
                });
            }
        }
        if row.as_slice().len() > ROOMY {
            row = csv::ByteRecord::new();
        }
    }
}

/// Passes over a byte-order mark and finds out what stands between cells.
fn delimiter(place: Place, member: &mut dyn BufRead, wanted: Delimiter) -> Result<u8, Error> {
    let start = member.fill_buf().map_err(|error| reading(place, error))?;
    let mark = if start.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
    let first_line = start[mark..].split(|byte| *byte == b'\n').next().unwrap_or_default();
    let delimiter = match wanted {
        Delimiter::Tab => b'\t',
        Delimiter::TabOrComma if first_line.contains(&b'\t') => b'\t',
        Delimiter::TabOrComma | Delimiter::Comma => b',',
    };
    member.consume(mark);
    Ok(delimiter)
}

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

    fn place() -> Place {
        Place::file(1, false)
    }

    fn limits(max_record_bytes: usize) -> Limits {
        Limits { max_record_bytes, ..Limits::default() }
    }

    const BACKSLASH: Dialect = Dialect { delimiter: Delimiter::Comma, escape: Some(b'\\'), double_quote: false };

    fn rows(text: &str, dialect: Dialect, limits: &Limits) -> Result<Vec<Vec<String>>, Error> {
        let mut rows = Vec::new();
        delimited(place(), &mut text.as_bytes(), dialect, limits, &mut |_, record| {
            let Record::Cells(row) = record else { panic!("{record:?}") };
            rows.push(row.iter().map(|cell| String::from_utf8(cell.to_vec()).unwrap()).collect());
            Ok(())
        })?;
        Ok(rows)
    }

    fn cut_json(text: &str, path: &[&str], limits: &Limits) -> Result<Vec<(Value, String)>, Error> {
        let heads = heads(place(), &mut text.as_bytes(), path, limits)?;
        let mut records = Vec::new();
        elements(place(), &mut text.as_bytes(), path, &heads, limits, &mut |_, record| {
            let Record::Element { head, json } = record else { panic!("{record:?}") };
            records.push((head.clone(), json.to_owned()));
            Ok(())
        })?;
        Ok(records)
    }

    #[test]
    fn backslashes_escape_and_quoted_values_may_hold_commas_and_newlines() {
        let text = "\u{feff}a,b\r\n\"x,\\\"y\\\"\\\\\",\"1\n2\"\n\"{\\\"city\\\"->\\\"beijing\\\"}\",";
        assert_eq!(
            rows(text, BACKSLASH, &Limits::default()).unwrap(),
            [["a", "b"], ["x,\"y\"\\", "1\n2"], ["{\"city\"->\"beijing\"}", ""]]
        );
    }

    #[test]
    fn where_either_escape_may_be_used_the_text_tells_which() {
        let either = Dialect { double_quote: true, ..BACKSLASH };
        let doubled = rows("\"a \"\"b\"\"\",\"C:\\dir\\\",\n\"1\n2\",,x\n", either, &Limits::default()).unwrap();
        assert_eq!(doubled, [["a \"b\"", "C:\\dir\\", ""], ["1\n2", "", "x"]]);
        let escaped = rows("\"a \\\"b\\\", c\",\"C:\\\\\"\n", either, &Limits::default()).unwrap();
        assert_eq!(escaped, [["a \"b\", c", "C:\\"]]);
    }

    #[test]
    fn a_tab_in_the_first_line_beats_commas() {
        let dialect = Dialect { delimiter: Delimiter::TabOrComma, escape: None, double_quote: true };
        let tab = rows("id\tname, full\n1\t\"a\"\"b\"\n", dialect, &Limits::default()).unwrap();
        assert_eq!(tab, [["id", "name, full"], ["1", "a\"b"]]);
        assert_eq!(rows("id,name\n1,\ta\n", dialect, &Limits::default()).unwrap(), [["id", "name"], ["1", "\ta"]]);
    }

    #[test]
    fn text_that_quotes_nothing_may_hold_quotes() {
        let dialect = Dialect { delimiter: Delimiter::Tab, escape: None, double_quote: false };
        let text = "\u{feff}id\tname\n1\t\"open\r\n\t\"a\" b, c\n";
        let rows = rows(text, dialect, &Limits::default()).unwrap();
        assert_eq!(rows, [["id", "name"], ["1", "\"open"], ["", "\"a\" b, c"]]);
    }

    #[test]
    fn an_open_quote_does_not_swallow_the_memory() {
        let text = format!("a\n\"{}", "x\n".repeat(1_000_000));
        let error = rows(&text, BACKSLASH, &limits(1000)).unwrap_err();
        assert_eq!(error.code, Code::ArchiveLimitExceeded);
        let many = "\"ab\"\n".repeat(100_000);
        assert_eq!(rows(&many, BACKSLASH, &limits(1000)).unwrap().len(), 100_000);
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
