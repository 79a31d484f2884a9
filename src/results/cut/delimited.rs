//! Rows of delimited text, read as the csv crate reads them (the tests compare the two) at several times its speed: the
//! next byte that means something is searched for, and what lies between is never looked at one by one.

use std::io::BufRead;

use super::{At, Each, ROOMY};
use crate::{
    exports::records::{Delimiter, Dialect, Record},
    results::{
        Error, Limits,
        archive::{Place, buffered, reading},
        text::EitherQuote,
    },
};

/// Bytes of a row beyond its cells: quotes, escapes and separators that are read before its length is known.
const SLACK: u64 = 64 * 1024;

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
    // Where the text that was not cut yet begins, and where the row does.
    let (mut now, mut at) = (Position::START, Position::START);
    let max = limits.max_record_bytes;
    loop {
        let input = member.fill_buf().map_err(|error| reading(place, error))?;
        let is_end = input.is_empty();
        let mut cut = 0;
        while cut < input.len() || is_end {
            if cutter.is_between_rows() {
                let blank = blank_lines(&input[cut..]);
                now.pass(&input[cut..cut + blank]);
                cut += blank;
                at = now;
            }
            let (used, is_row) = if is_end { (0, cutter.end()) } else { cutter.feed(&input[cut..]) };
            now.pass(&input[cut..cut + used]);
            cut += used;
            let begun = At { place, line: at.line, offset: at.offset };
            if cutter.row.as_slice().len() > max || now.offset - at.offset > max as u64 + SLACK {
                return Err(begun.long_record(limits));
            }
            if is_row {
                each(begun, Record::Cells(&cutter.row))?;
                cutter.forget();
            } else if is_end {
                return Ok(());
            }
        }
        member.consume(cut);
    }
}

#[derive(Clone, Copy)]
struct Position {
    line: u64,
    offset: u64,
}

impl Position {
    const START: Self = Self { line: 1, offset: 0 };

    fn pass(&mut self, bytes: &[u8]) {
        self.line += super::newlines(bytes);
        self.offset += bytes.len() as u64;
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

/// Makes a row of bytes that come in any pieces.
struct Cutter {
    delimiter: u8,
    has_quotes: bool,
    escape: Option<u8>,
    double_quote: bool,
    within: Within,
    row: csv::ByteRecord,
    /// The beginning of a cell whose text is not in one piece.
    cell: Vec<u8>,
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
            row: csv::ByteRecord::new(),
            cell: Vec::new(),
        }
    }

    fn is_between_rows(&self) -> bool {
        self.within == Within::Nothing
    }

    /// Takes bytes up to the end of the row; says how many, and whether the row has ended with them.
    fn feed(&mut self, input: &[u8]) -> (usize, bool) {
        let mut at = 0;
        while let Some(first) = input.get(at) {
            match self.within {
                Within::Nothing => self.within = Within::Cell,
                Within::Cell if *first == b'"' && self.has_quotes => {
                    self.within = Within::Quotes;
                    at += 1;
                }
                Within::Cell | Within::Plain => {
                    let rest = &input[at..];
                    let Some(length) = memchr::memchr3(self.delimiter, b'\n', b'\r', rest) else {
                        self.within = Within::Plain;
                        self.cell.extend_from_slice(rest);
                        return (input.len(), false);
                    };
                    at += length + 1;
                    if self.end_cell(&rest[..length], rest[length]) {
                        return (at, true);
                    }
                }
                Within::Quotes => {
                    let rest = &input[at..];
                    let found = match self.escape {
                        Some(escape) => memchr::memchr2(b'"', escape, rest),
                        None => memchr::memchr(b'"', rest),
                    };
                    let Some(length) = found else {
                        self.cell.extend_from_slice(rest);
                        return (input.len(), false);
                    };
                    at += length + 1;
                    self.cell.extend_from_slice(&rest[..length]);
                    self.within = if rest[length] == b'"' { Within::EndOfQuotes } else { Within::Escape };
                }
                Within::Escape => {
                    self.cell.push(*first);
                    at += 1;
                    self.within = Within::Quotes;
                }
                Within::EndOfQuotes if *first == b'"' && self.double_quote => {
                    self.cell.push(b'"');
                    at += 1;
                    self.within = Within::Quotes;
                }
                // Whatever follows belongs to the cell.
                Within::EndOfQuotes => self.within = Within::Plain,
            }
        }
        (input.len(), false)
    }

    /// Ends a cell before `separator`; says whether its row ends too.
    fn end_cell(&mut self, rest: &[u8], separator: u8) -> bool {
        if self.cell.is_empty() {
            self.row.push_field(rest);
        } else {
            self.cell.extend_from_slice(rest);
            self.row.push_field(&self.cell);
            self.cell.clear();
        }
        let is_row = separator != self.delimiter;
        self.within = if is_row { Within::Nothing } else { Within::Cell };
        is_row
    }

    /// The text has ended; says whether with a row.
    fn end(&mut self) -> bool {
        self.within != Within::Nothing && self.end_cell(&[], b'\n')
    }

    /// The row was taken.
    fn forget(&mut self) {
        if self.row.as_slice().len() > ROOMY {
            self.row = csv::ByteRecord::new();
            self.cell = Vec::new();
        }
        self.row.clear();
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
