//! CSV as RFC 4180 has it: lines end with CRLF, cells are quoted where they need it, a quote inside is doubled.
//!
//! Null is an empty cell and an empty text is `""`. In a file of one column null is `""` too, because readers take an
//! empty line for none. Objects are JSON text, numbers stand as they were written.
//!
//! Unless it is turned off, a text that a spreadsheet would run as a formula gets a `'` in front: one that begins with
//! `=`, `+`, `-`, `@`, their full-width forms, a tab or a line end, or with apostrophes and then one of these, so that
//! taking one `'` away gives every text back. A negative number (`-5`, `-1.5e3`) is none.

use crate::exports::{
    cells::{Cells, Key},
    fields::ColumnType,
    json::{below_space_in, byte_in, find},
    moments::{Day, Moment},
};

const LINE_END: &[u8] = b"\r\n";

/// The header row.
pub(super) fn header(columns: &[(&'static str, ColumnType)]) -> Vec<u8> {
    let mut header = columns.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(",").into_bytes();
    header.extend_from_slice(LINE_END);
    header
}

/// Writes one row.
pub(super) struct Line<'o> {
    out: &'o mut Vec<u8>,
    json: &'o mut Vec<u8>,
    guard_formulas: bool,
    cells: usize,
    start: usize,
}

impl<'o> Line<'o> {
    /// `json` is for what a cell's JSON text is gathered in.
    pub(super) fn begin(out: &'o mut Vec<u8>, json: &'o mut Vec<u8>, guard_formulas: bool) -> Self {
        Self { start: out.len(), out, json, guard_formulas, cells: 0 }
    }

    pub(super) fn end(self) {
        if self.out.len() == self.start {
            self.out.extend_from_slice(b"\"\"");
        }
        self.out.extend_from_slice(LINE_END);
    }

    /// A cell of JSON text, which is never a formula.
    pub(super) fn json(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        self.next();
        self.json.clear();
        write(self.json);
        cell(self.out, self.json, false);
    }

    fn next(&mut self) {
        if self.cells > 0 {
            self.out.push(b',');
        }
        self.cells += 1;
    }

    /// Text that needs no quotes, or nothing for null.
    fn plain(&mut self, text: Option<&str>) {
        self.next();
        self.out.extend_from_slice(text.unwrap_or_default().as_bytes());
    }
}

impl Cells for Line<'_> {
    fn text(&mut self, _: Key, value: Option<&str>) {
        self.next();
        if let Some(text) = value {
            cell(self.out, text.as_bytes(), self.guard_formulas && is_formula(text));
        }
    }

    fn day(&mut self, _: Key, value: Option<&Day<'_>>) {
        self.plain(value.map(|day| day.text));
    }

    fn moment(&mut self, _: Key, value: Option<&Moment<'_>>) {
        self.plain(value.map(|moment| moment.text.as_ref()));
    }

    fn number(&mut self, _: Key, value: Option<&str>) {
        self.plain(value);
    }

    fn integer(&mut self, _: Key, value: Option<i64>) {
        self.plain(value.map(|number| number.to_string()).as_deref());
    }

    fn object(&mut self, _: Key, write: impl FnOnce(&mut Vec<u8>)) {
        self.json(write);
    }
}

/// Appends a cell that is there.
fn cell(out: &mut Vec<u8>, text: &[u8], is_guarded: bool) {
    // A line that begins with `#` is a comment to some readers.
    let is_plain = !matches!(text.first(), None | Some(b'#')) && find(text, needs_quotes, needs_quotes_in).is_none();
    if is_plain {
        if is_guarded {
            out.push(b'\'');
        }
        out.extend_from_slice(text);
        return;
    }
    out.reserve(text.len() + text.len() / 4 + 3);
    out.push(b'"');
    if is_guarded {
        out.push(b'\'');
    }
    let mut rest = text;
    while let Some(at) = find(rest, |byte| byte == b'"', |word| byte_in(word, b'"')) {
        out.extend_from_slice(&rest[..=at]);
        out.push(b'"');
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

const fn needs_quotes(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b','
}

const fn needs_quotes_in(word: u64) -> u64 {
    below_space_in(word) | byte_in(word, b'"') | byte_in(word, b',')
}

fn is_formula(text: &str) -> bool {
    let begins = text.trim_start_matches('\'');
    let is_one = begins.starts_with(['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠']);
    is_one && !(text.starts_with('-') && is_number(text))
}

/// Whether it is a number as JSON writes it.
fn is_number(text: &str) -> bool {
    text.ends_with(|last: char| last.is_ascii_digit()) && serde_json::from_str::<serde_json::Number>(text).is_ok()
}
