//! Rows of delimited text, read as the csv crate reads them (the tests compare the two) at several times its speed: the
//! next byte that means something is searched for in 32 bytes at once, and what lies between is never looked at.

use std::{io::BufRead, ops::Range};

use wide::u8x32;

use super::{At, Each, ROOMY};
use crate::{
    exports::records::{CellPlace, Cells, Delimiter, Dialect, Record},
    results::{
        Error, Limits,
        archive::{Place, buffered, reading},
        text::EitherQuote,
    },
};

/// Bytes of a row beyond its cells: quotes, escapes and separators that are read before its length is known.
const SLACK: usize = 64 * 1024;

/// Rows of delimited text. A byte-order mark and empty lines are passed over.
///
/// # Errors
/// When reading fails, for a row beyond the limit, and what `each` fails with.
pub fn delimited(
    place: Place,
    member: &mut dyn BufRead,
    dialect: Dialect,
    limits: &Limits,
    each: &mut Each<'_>,
) -> Result<(), Error> {
    let start = member.fill_buf().map_err(|error| reading(place, error))?;
    let mark = if start.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
    let cutter = Cutter::new(dialect, delimiter(&start[mark..], dialect.delimiter));
    member.consume(mark);
    if dialect.escape == Some(b'\\') && dialect.double_quote {
        let mut doubled = EitherQuote::new(member);
        return rows(place, &mut buffered(&mut doubled), cutter, limits, each);
    }
    rows(place, member, cutter, limits, each)
}

/// What stands between cells.
fn delimiter(start: &[u8], wanted: Delimiter) -> u8 {
    let first_line = start.split(|byte| *byte == b'\n').next().unwrap_or_default();
    match wanted {
        Delimiter::Tab => b'\t',
        Delimiter::TabOrComma if first_line.contains(&b'\t') => b'\t',
        Delimiter::TabOrComma | Delimiter::Comma => b',',
    }
}

fn rows(
    place: Place,
    member: &mut dyn BufRead,
    mut cutter: Cutter,
    limits: &Limits,
    each: &mut Each<'_>,
) -> Result<(), Error> {
    let mut at = At { place, line: 1, offset: 0 };
    let max = limits.max_record_bytes;
    loop {
        let input = member.fill_buf().map_err(|error| reading(place, error))?;
        let utf8 = simdutf8::compat::from_utf8(input)
            .or_else(|error| simdutf8::compat::from_utf8(&input[..error.valid_up_to()]))
            .unwrap_or_default();
        let is_end = input.is_empty();
        cutter.block = Block::default();
        let mut cut = 0;
        while cut < input.len() || is_end {
            if cutter.is_between_rows() {
                let blank = &input[cut..][..blank_lines(&input[cut..])];
                at.line += super::newlines(blank);
                at.offset += blank.len() as u64;
                cut += blank.len();
            }
            let is_row = if is_end { cutter.end() } else { cutter.feed(input, &mut cut) };
            if cutter.bytes() > max || cutter.read > max + SLACK {
                return Err(at.long_record(limits));
            }
            if is_row {
                each(at, Record::Cells(Cells::new(input, utf8, &cutter.aside, &cutter.places)))?;
                at.line += cutter.newlines;
                at.offset += cutter.read as u64;
                cutter.forget();
            } else if is_end {
                return Ok(());
            }
        }
        cutter.keep(input);
        member.consume(cut);
    }
}

fn blank_lines(bytes: &[u8]) -> usize {
    bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or(bytes.len())
}

/// What the next byte belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Within {
    /// A row that has not begun.
    Nothing,
    /// A cell that begins with it.
    Cell,
    Plain,
    Quotes,
    /// Quotes, behind an escape.
    Escape,
    /// A cell whose quotes may have ended before it.
    EndOfQuotes,
}

/// What means something among 32 bytes: a bit for each.
#[derive(Default)]
struct Block {
    /// Where they begin in the input; nothing is known beyond `end`.
    start: usize,
    end: usize,
    /// Outside of quotes: what ends a cell.
    plain: u32,
    /// Within: a quote or an escape.
    quoted: u32,
}

/// Makes a row of bytes that come in any pieces.
struct Cutter {
    delimiter: u8,
    has_quotes: bool,
    escape: Option<u8>,
    double_quote: bool,
    within: Within,
    block: Block,
    /// Where the cells of the row are, in the input or aside.
    places: Vec<CellPlace>,
    aside: Vec<u8>,
    /// Where the cell begins aside that has not ended.
    open: Option<usize>,
    /// Of the row, up to now: bytes in all, and line ends.
    read: usize,
    newlines: u64,
}

impl Cutter {
    fn new(dialect: Dialect, delimiter: u8) -> Self {
        let is_either = dialect.escape.is_some() && dialect.double_quote;
        Self {
            delimiter,
            has_quotes: dialect.delimiter != Delimiter::Tab,
            escape: dialect.escape.filter(|_| !is_either),
            double_quote: dialect.double_quote,
            within: Within::Nothing,
            block: Block::default(),
            places: Vec::new(),
            aside: Vec::new(),
            open: None,
            read: 0,
            newlines: 0,
        }
    }

    fn is_between_rows(&self) -> bool {
        self.within == Within::Nothing
    }

    /// Of the row's cells, as far as they are known.
    fn bytes(&self) -> usize {
        let ends = self.places.iter().filter(|place| !place.is_aside).map(|place| place.range.len());
        ends.sum::<usize>() + self.aside.len()
    }

    /// Goes on in the input to the end of the row; says whether it has come.
    fn feed(&mut self, input: &[u8], at: &mut usize) -> bool {
        let begin = *at;
        let is_row = self.cells(input, at);
        self.read += *at - begin;
        is_row
    }

    fn cells(&mut self, input: &[u8], at: &mut usize) -> bool {
        while let Some(first) = input.get(*at) {
            let rest = &input[*at..];
            match self.within {
                Within::Nothing => self.within = Within::Cell,
                Within::Cell if *first == b'"' && self.has_quotes => {
                    self.within = Within::Quotes;
                    *at += 1;
                }
                Within::Cell | Within::Plain => {
                    let Some(length) = self.find(input, *at, |block| block.plain) else {
                        self.within = Within::Plain;
                        self.put_aside(rest);
                        *at = input.len();
                        return false;
                    };
                    if self.open.is_some() {
                        self.put_aside(&rest[..length]);
                    }
                    let range = *at..*at + length;
                    *at += length + 1;
                    if self.end_cell(range, rest[length]) {
                        return true;
                    }
                }
                Within::Quotes => {
                    if self.quoted(input, at) {
                        return true;
                    }
                }
                Within::Escape => {
                    self.newlines += u64::from(*first == b'\n');
                    self.put_aside(&[*first]);
                    *at += 1;
                    self.within = Within::Quotes;
                }
                Within::EndOfQuotes if *first == b'"' && self.double_quote => {
                    self.put_aside(b"\"");
                    *at += 1;
                    self.within = Within::Quotes;
                }
                // Whatever follows belongs to the cell.
                Within::EndOfQuotes => self.within = Within::Plain,
            }
        }
        false
    }

    /// Goes on within quotes to their end; says whether the row has ended behind them.
    fn quoted(&mut self, input: &[u8], at: &mut usize) -> bool {
        let begin = *at;
        // What is not put aside yet begins with `kept`; what was escaped is not looked at.
        let (mut kept, mut from) = (begin, begin);
        let end = loop {
            let Some(ahead) = self.find(input, from, |block| block.quoted) else { break None };
            let special = from + ahead;
            if input[special] == b'"' {
                break Some(special);
            }
            self.put_aside(&input[kept..special]);
            kept = special + 1;
            from = special + 2;
            if kept == input.len() {
                self.newlines += super::newlines(&input[begin..]);
                *at = input.len();
                self.within = Within::Escape;
                return false;
            }
        };
        self.newlines += super::newlines(&input[begin..end.unwrap_or(input.len())]);
        let Some(end) = end else {
            self.put_aside(&input[kept..]);
            *at = input.len();
            return false;
        };
        if self.open.is_some() {
            self.put_aside(&input[kept..end]);
        }
        match input.get(end + 1) {
            Some(after) if self.is_separator(*after) => {
                *at = end + 2;
                self.end_cell(kept..end, *after)
            }
            _ => {
                if self.open.is_none() {
                    self.put_aside(&input[kept..end]);
                }
                *at = end + 1;
                self.within = Within::EndOfQuotes;
                false
            }
        }
    }

    /// How far from `at` the next byte is that has a bit.
    fn find(&mut self, input: &[u8], at: usize, bits: impl Fn(&Block) -> u32) -> Option<usize> {
        let mut from = at;
        while from < input.len() {
            if !(self.block.start..self.block.end).contains(&from) {
                self.block = self.look(input, from);
            }
            let ahead = bits(&self.block) >> (from - self.block.start);
            if ahead != 0 {
                return Some(from - at + ahead.trailing_zeros() as usize);
            }
            from = self.block.end;
        }
        None
    }

    fn look(&self, input: &[u8], start: usize) -> Block {
        let rest = &input[start..];
        let mut last = [0; 32];
        let bytes = rest.first_chunk().unwrap_or_else(|| {
            last[..rest.len()].copy_from_slice(rest);
            &last
        });
        let bytes = u8x32::new(*bytes);
        let is = |byte| bytes.simd_eq(u8x32::splat(byte));
        let plain = is(self.delimiter) | is(b'\n') | is(b'\r');
        let quoted = is(b'"') | is(self.escape.unwrap_or(b'"'));
        Block { start, end: start + rest.len().min(32), plain: plain.to_bitmask(), quoted: quoted.to_bitmask() }
    }

    fn is_separator(&self, byte: u8) -> bool {
        byte == self.delimiter || byte == b'\n' || byte == b'\r'
    }

    fn put_aside(&mut self, bytes: &[u8]) {
        self.open.get_or_insert(self.aside.len());
        self.aside.extend_from_slice(bytes);
    }

    /// Ends a cell, which is in that range of the input unless it was put aside; says whether its row ends too.
    fn end_cell(&mut self, range: Range<usize>, separator: u8) -> bool {
        self.places.push(match self.open.take() {
            Some(start) => CellPlace { range: start..self.aside.len(), is_aside: true },
            None => CellPlace { range, is_aside: false },
        });
        let is_row = separator != self.delimiter;
        self.newlines += u64::from(separator == b'\n');
        self.within = if is_row { Within::Nothing } else { Within::Cell };
        is_row
    }

    /// The text has ended; says whether with a row.
    fn end(&mut self) -> bool {
        self.within != Within::Nothing && self.end_cell(0..0, b'\r')
    }

    /// Another input comes: what is in this one is put aside.
    fn keep(&mut self, input: &[u8]) {
        if self.places.iter().all(|place| place.is_aside) {
            return;
        }
        // An open cell stays the last one.
        let open = self.open.map(|start| self.aside.split_off(start));
        for place in self.places.iter_mut().filter(|place| !place.is_aside) {
            let start = self.aside.len();
            self.aside.extend_from_slice(&input[place.range.clone()]);
            *place = CellPlace { range: start..self.aside.len(), is_aside: true };
        }
        if let Some(cell) = open {
            self.open = None;
            self.put_aside(&cell);
        }
    }

    /// The row was taken.
    fn forget(&mut self) {
        self.places.clear();
        self.aside.clear();
        if self.aside.capacity() > ROOMY {
            self.aside = Vec::new();
        }
        (self.read, self.newlines) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use proptest::prelude::*;

    use super::*;
    use crate::exports::problem::Code;

    const DIALECTS: [Dialect; 3] = [
        Dialect { delimiter: Delimiter::Comma, escape: Some(b'\\'), double_quote: false },
        Dialect { delimiter: Delimiter::Comma, escape: None, double_quote: true },
        Dialect { delimiter: Delimiter::Tab, escape: None, double_quote: false },
    ];

    type Rows = Vec<(u64, Vec<Vec<u8>>)>;

    fn ours(text: &[u8], dialect: Dialect, cuts: [usize; 2]) -> Rows {
        let mut rows = Vec::new();
        let (first, rest) = text.split_at(cuts[0].min(text.len()));
        let (second, third) = rest.split_at(cuts[1].min(rest.len()));
        let mut member = first.chain(second).chain(third);
        delimited(Place::file(1, false), &mut member, dialect, &Limits::default(), &mut |at, record| {
            let Record::Cells(row) = record else { panic!("a row is cells") };
            rows.push((at.offset, row.iter().map(<[u8]>::to_vec).collect()));
            Ok(())
        })
        .unwrap();
        rows
    }

    fn theirs(text: &[u8], dialect: Dialect) -> Vec<Vec<Vec<u8>>> {
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        let mut reader = csv::ReaderBuilder::new();
        reader.has_headers(false).flexible(true).delimiter(delimiter(text, dialect.delimiter));
        reader.quoting(dialect.delimiter != Delimiter::Tab).double_quote(dialect.double_quote);
        let rows = reader.escape(dialect.escape).from_reader(text).into_byte_records();
        rows.map(|row| row.unwrap().iter().map(<[u8]>::to_vec).collect()).collect()
    }

    proptest! {
        #[test]
        fn rows_are_those_of_the_csv_crate(
            text in "[ab,\"\\\\\n\r\té]{0,60}",
            cuts in prop::array::uniform2(0..40_usize),
        ) {
            for dialect in DIALECTS {
                let rows = ours(text.as_bytes(), dialect, cuts);
                let cells: Vec<_> = rows.iter().map(|(_, cells)| cells.clone()).collect();
                prop_assert_eq!(&cells, &theirs(text.as_bytes(), dialect), "{:?}", dialect);
                for (offset, _) in rows {
                    let at = usize::try_from(offset).unwrap();
                    prop_assert!(!matches!(text.as_bytes()[at], b'\n' | b'\r'), "a row begins where it says");
                }
            }
        }
    }

    #[test]
    fn a_row_says_where_it_begins() {
        let text = b"a,b\r\n\r\n\"1\n2\",c\nd,e";
        let mut found = Vec::new();
        delimited(Place::file(1, false), &mut &text[..], DIALECTS[1], &Limits::default(), &mut |at, _| {
            found.push((at.line, at.offset));
            Ok(())
        })
        .unwrap();
        assert_eq!(found, [(1, 0), (3, 7), (5, 15)]);
    }

    const BACKSLASH: Dialect = DIALECTS[0];

    fn limits(max_record_bytes: usize) -> Limits {
        Limits { max_record_bytes, ..Limits::default() }
    }

    fn texts(text: &str, dialect: Dialect, limits: &Limits) -> Result<Vec<Vec<String>>, Error> {
        let mut rows = Vec::new();
        delimited(Place::file(1, false), &mut text.as_bytes(), dialect, limits, &mut |_, record| {
            let Record::Cells(row) = record else { panic!("{record:?}") };
            rows.push(row.iter().map(|cell| String::from_utf8(cell.to_vec()).unwrap()).collect());
            Ok(())
        })?;
        Ok(rows)
    }

    #[test]
    fn backslashes_escape_and_quoted_values_may_hold_commas_and_newlines() {
        let text = "\u{feff}a,b\r\n\"x,\\\"y\\\"\\\\\",\"1\n2\"\n\"{\\\"city\\\"->\\\"beijing\\\"}\",";
        assert_eq!(
            texts(text, BACKSLASH, &Limits::default()).unwrap(),
            [["a", "b"], ["x,\"y\"\\", "1\n2"], ["{\"city\"->\"beijing\"}", ""]]
        );
    }

    #[test]
    fn where_either_escape_may_be_used_the_text_tells_which() {
        let either = Dialect { double_quote: true, ..BACKSLASH };
        let doubled = texts("\"a \"\"b\"\"\",\"C:\\dir\\\",\n\"1\n2\",,x\n", either, &Limits::default()).unwrap();
        assert_eq!(doubled, [["a \"b\"", "C:\\dir\\", ""], ["1\n2", "", "x"]]);
        let escaped = texts("\"a \\\"b\\\", c\",\"C:\\\\\"\n", either, &Limits::default()).unwrap();
        assert_eq!(escaped, [["a \"b\", c", "C:\\"]]);
    }

    #[test]
    fn a_tab_in_the_first_line_beats_commas() {
        let dialect = Dialect { delimiter: Delimiter::TabOrComma, escape: None, double_quote: true };
        let tab = texts("id\tname, full\n1\t\"a\"\"b\"\n", dialect, &Limits::default()).unwrap();
        assert_eq!(tab, [["id", "name, full"], ["1", "a\"b"]]);
        assert_eq!(texts("id,name\n1,\ta\n", dialect, &Limits::default()).unwrap(), [["id", "name"], ["1", "\ta"]]);
    }

    #[test]
    fn text_that_quotes_nothing_may_hold_quotes() {
        let dialect = Dialect { delimiter: Delimiter::Tab, escape: None, double_quote: false };
        let text = "\u{feff}id\tname\n1\t\"open\r\n\t\"a\" b, c\n";
        let texts = texts(text, dialect, &Limits::default()).unwrap();
        assert_eq!(texts, [["id", "name"], ["1", "\"open"], ["", "\"a\" b, c"]]);
    }

    #[test]
    fn an_open_quote_does_not_swallow_the_memory() {
        let text = format!("a\n\"{}", "x\n".repeat(1_000_000));
        let error = texts(&text, BACKSLASH, &limits(1000)).unwrap_err();
        assert_eq!(error.code, Code::ArchiveLimitExceeded);
        let many = "\"ab\"\n".repeat(100_000);
        assert_eq!(texts(&many, BACKSLASH, &limits(1000)).unwrap().len(), 100_000);
    }
}
