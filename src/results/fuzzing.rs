//! What `fuzz/` feeds with bytes: the archive reader, both dialects of delimited text, the line splitter. Each answers
//! any bytes with records or an error, the same ones however the bytes arrive, and keeps the limits.

use std::{
    io::{self, BufReader, Read},
    path::Path,
};

use super::{
    Error, Limits,
    archive::{PackedMember, Place, Totals, Unpacker, Visitor},
    cut::{self, Lines},
};
use crate::exports::records::{Delimiter, Dialect, Record};

/// Bytes that a target may hold at once: far more than its limits come to, far less than a bomb.
pub const MOST: usize = 16 * 1024 * 1024;

const PLACE: Place = Place::file(1, false);

fn limits() -> Limits {
    Limits {
        max_unpacked_bytes: 256 * 1024,
        max_ratio: 20,
        ratio_floor_bytes: 4 * 1024,
        max_entries: 8,
        max_record_bytes: 64,
        ..Limits::default()
    }
}

/// Gives a few bytes at a time.
struct Drip<'d> {
    rest: &'d [u8],
    step: usize,
}

impl Read for Drip<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.step.min(buffer.len()).min(self.rest.len());
        let (now, rest) = self.rest.split_at(bytes);
        buffer[..bytes].copy_from_slice(now);
        self.rest = rest;
        Ok(bytes)
    }
}

/// The text of every member.
struct Members<'a> {
    unpacker: Unpacker<'a>,
    members: Vec<Vec<u8>>,
}

impl Members<'_> {
    fn read(&mut self, place: Place, bytes: &mut dyn Read) -> Result<(), Error> {
        let mut text = Vec::new();
        let mut buffer = [0; 1024];
        loop {
            match bytes.read(&mut buffer) {
                Ok(0) => break,
                Ok(bytes) => text.extend_from_slice(&buffer[..bytes]),
                Err(error) => return Err(super::archive::reading(place, error)),
            }
        }
        self.members.push(text);
        Ok(())
    }
}

impl Visitor for Members<'_> {
    fn packed(&mut self, member: PackedMember) -> Result<(), Error> {
        let unpacker = self.unpacker;
        self.read(member.place, &mut member.open(&unpacker)?)
    }

    fn unpacked(&mut self, place: Place, bytes: &mut dyn Read) -> Result<(), Error> {
        self.read(place, bytes)
    }
}

fn members(data: &[u8], step: usize, small_member_bytes: u64, limits: &Limits) -> Result<Vec<Vec<u8>>, Error> {
    let totals = Totals::default();
    let spool_dir = std::env::temp_dir();
    let unpacker = Unpacker { limits, totals: &totals, small_member_bytes, spool_dir: Path::new(&spool_dir) };
    let mut visitor = Members { unpacker, members: Vec::new() };
    let read = unpacker.for_each_member(Box::new(Drip { rest: data, step }), 1, &mut visitor);
    let bytes: usize = visitor.members.iter().map(Vec::len).sum();
    // UTF-16 grows by half when it becomes UTF-8.
    assert!(bytes as u64 <= limits.max_unpacked_bytes * 3 / 2, "more than the limit came out");
    assert!(visitor.members.len() <= limits.max_entries, "more entries than the limit came out");
    read.map(|()| visitor.members)
}

/// Any bytes as an archive: the limits hold, and how the bytes arrive or who unpacks makes no difference.
///
/// # Panics
/// When that is not so.
pub fn archive(data: &[u8]) {
    let limits = limits();
    let whole = members(data, usize::MAX, 0, &limits).ok();
    assert_eq!(whole, members(data, usize::MAX, 4 * 1024, &limits).ok(), "small members are read like large ones");
    assert_eq!(whole, members(data, 3, 4 * 1024, &limits).ok(), "a slow sender makes no difference");
    if !data.is_empty() && whole.is_some() && data.starts_with(b"PK\x03\x04") {
        assert!(members(&data[..data.len() - 1], usize::MAX, 0, &limits).is_err(), "an archive cut short is one");
    }
}

/// One row: where it begins, and its cells.
type Row = (u64, u64, Vec<Vec<u8>>);

fn rows(text: &[u8], step: usize, dialect: Dialect, limits: &Limits) -> Result<Vec<Row>, Error> {
    let mut rows = Vec::new();
    let mut reader = BufReader::with_capacity(4 * 1024, Drip { rest: text, step });
    cut::delimited(PLACE, &mut reader, dialect, limits, &mut |at, record| {
        let Record::Cells(row) = record else { panic!("a row is cells") };
        assert!(
            row.iter().map(<[u8]>::len).sum::<usize>() <= limits.max_record_bytes,
            "a row is longer than the limit"
        );
        rows.push((at.line, at.offset, row.iter().map(<[u8]>::to_vec).collect()));
        Ok(())
    })?;
    Ok(rows)
}

fn cells(text: &[u8], dialect: Dialect) -> Vec<Vec<Vec<u8>>> {
    let rows = rows(text, usize::MAX, dialect, &Limits::default()).unwrap_or_else(|error| panic!("{error}"));
    rows.into_iter().map(|(_, _, cells)| cells).collect()
}

/// Any bytes as delimited text; then the cells that they could be, written down and read again.
fn delimited(data: &[u8], dialect: Dialect, ways: &[(&[u8], Quoting)]) {
    // A mark belongs to whoever opens the member.
    if !data.starts_with(b"\xef") {
        let limits = limits();
        let whole = rows(data, usize::MAX, dialect, &limits).ok();
        assert_eq!(whole, rows(data, 3, dialect, &limits).ok(), "a slow sender makes no difference");
    }
    let wanted: Vec<Vec<Vec<u8>>> =
        data.split(|byte| *byte == 1).map(|row| row.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect()).collect();
    for (first_row, quoting) in ways {
        let (mut text, mut wanted) = (first_row.to_vec(), wanted.clone());
        for cell in wanted.iter_mut().flatten() {
            // Where nobody knows what a backslash means, what is written has none.
            if *quoting == Quoting::Doubled && dialect.escape.is_some() {
                cell.retain(|byte| *byte != b'\\');
            }
        }
        for row in &wanted {
            let cells: Vec<_> = row.iter().map(|cell| quoting.write(cell)).collect();
            text.extend_from_slice(&cells.join(&b','));
            text.push(b'\n');
        }
        let found = cells(&text, dialect);
        let found = if first_row.is_empty() { &found[..] } else { &found[1..] };
        assert_eq!(found, wanted, "{quoting:?}: what was written is what is read");
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quoting {
    Backslash,
    Doubled,
}

impl Quoting {
    fn write(self, cell: &[u8]) -> Vec<u8> {
        let mut written = vec![b'"'];
        for byte in cell {
            match (self, *byte) {
                (Self::Backslash, b'"' | b'\\') => written.push(b'\\'),
                (Self::Doubled, b'"') => written.push(b'"'),
                _ => {}
            }
            written.push(*byte);
        }
        written.push(b'"');
        written
    }
}

/// Delimited text with backslash escapes.
///
/// # Panics
/// When what was written is not what is read.
pub fn csv_backslash(data: &[u8]) {
    let dialect = Dialect { delimiter: Delimiter::Comma, escape: Some(b'\\'), double_quote: false };
    delimited(data, dialect, &[(b"", Quoting::Backslash)]);
}

/// Delimited text of which nobody knows how it escapes quotes.
///
/// # Panics
/// When what was written is not what is read, for cells that can be told.
pub fn csv_either(data: &[u8]) {
    let dialect = Dialect { delimiter: Delimiter::Comma, escape: Some(b'\\'), double_quote: true };
    // A first row that shows what a backslash does.
    delimited(data, dialect, &[(b"", Quoting::Doubled), (b"\"\\\"shown\"\n", Quoting::Backslash)]);
}

/// Lines: all blocks joined are the member, all records are its lines, and each says where it begins.
///
/// # Panics
/// When that is not so.
pub fn raw_lines(data: &[u8]) {
    let limits = limits();
    let (mut joined, mut records) = (Vec::new(), Vec::new());
    let mut take = |block: Lines| {
        let newlines = |bytes: &[u8]| memchr::memchr_iter(b'\n', bytes).count() as u64;
        assert!(!block.bytes.is_empty(), "a block is not empty");
        assert!(joined.is_empty() || joined.ends_with(b"\n"), "a block begins with a line");
        assert_eq!((block.at.line, block.at.offset), (1 + newlines(&joined), joined.len() as u64));
        joined.extend_from_slice(&block.bytes);
        block.each(&limits, &mut |at, record| {
            let Record::Line(line) = record else { panic!("a line is a line") };
            records.push((at.line, at.offset, line.to_vec()));
            Ok(())
        })
    };
    let cut = cut::blocks(PLACE, &mut Drip { rest: data, step: 7 }, &limits, &mut take);
    let mut expected = Vec::new();
    let (mut offset, mut has_long) = (0, false);
    for (number, line) in data.split(|byte| *byte == b'\n').enumerate() {
        has_long |= line.len() > limits.max_record_bytes;
        if !line.trim_ascii().is_empty() {
            expected.push((number as u64 + 1, offset, line.trim_ascii().to_vec()));
        }
        offset += line.len() as u64 + 1;
    }
    if let Ok(()) = cut {
        assert_eq!(joined, data, "every byte is in a block");
        assert_eq!(records, expected, "every line is a record");
        assert!(records.iter().all(|(_, _, line)| line.len() <= limits.max_record_bytes), "a long line came out");
    } else {
        assert!(has_long, "only a long line is refused");
        assert!(expected.starts_with(&records), "what came before it are lines");
    }
}
