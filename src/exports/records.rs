//! How vendor records are read: a file is cut into records by its [`Framing`], a [`Member`] makes unified rows or the
//! vendor's own JSON of each. Vendors implement this; nothing here knows a vendor.

use std::{borrow::Cow, ops::Range};

use serde_json::Value;

use super::rows::Row;

/// A record that cannot be read. Says why, never what stood in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadRecord(pub Cow<'static, str>);

/// How the bytes of a vendor file are cut into records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// One record a line; blank lines are passed over.
    Lines,
    /// Delimited text. The header row, if any, is a record like all others.
    Delimited(Dialect),
    /// JSON documents one after another. The elements of the array at this path are the records; `&[]` is the
    /// document itself, which must then be an array.
    Json { records: &'static [&'static str] },
}

/// A way of writing delimited text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dialect {
    pub delimiter: Delimiter,
    /// Takes the meaning from the character after it, inside quotes. A backslash together with `double_quote` means that
    /// nobody knows which of the two the vendor writes: the text is looked at.
    pub escape: Option<u8>,
    /// Whether `""` inside quotes is one quote.
    pub double_quote: bool,
}

/// What stands between two cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delimiter {
    Comma,
    /// A tab, in text that quotes nothing: a quote is a character like others.
    Tab,
    /// A tab if the first line has one, else a comma.
    TabOrComma,
}

/// One record as it was cut out.
#[derive(Debug, Clone, Copy)]
pub enum Record<'a> {
    /// A line without its line end and without white space around it.
    Line(&'a [u8]),
    /// The cells of a row, unquoted; not checked to be UTF-8.
    Cells(Cells<'a>),
    /// An element of a document's array, and the rest of the document with that array left out.
    Element { head: &'a Value, json: &'a str },
}

/// The cells of one row of delimited text. Most of them lie in the text as it came; what had to be unescaped or put
/// together lies aside.
#[derive(Debug, Clone, Copy)]
pub struct Cells<'a> {
    text: &'a [u8],
    /// As much of `text` as is known to be UTF-8.
    utf8: &'a str,
    aside: &'a [u8],
    places: &'a [CellPlace],
}

/// Where a cell lies.
#[derive(Debug, Clone)]
pub struct CellPlace {
    pub range: Range<usize>,
    pub is_aside: bool,
}

impl<'a> Cells<'a> {
    /// The cells at these places of `text` and of what lies `aside`; `utf8` is the beginning of `text` or all of it.
    pub const fn new(text: &'a [u8], utf8: &'a str, aside: &'a [u8], places: &'a [CellPlace]) -> Self {
        Self { text, utf8, aside, places }
    }

    pub const fn len(&self) -> usize {
        self.places.len()
    }

    pub const fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    pub fn get(&self, number: usize) -> Option<&'a [u8]> {
        self.places.get(number).map(|place| self.bytes(place))
    }

    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> {
        let cells = *self;
        cells.places.iter().map(move |place| cells.bytes(place))
    }

    /// Each cell as text, or as it is where it is no UTF-8.
    pub fn texts(&self) -> impl Iterator<Item = Result<&'a str, &'a [u8]>> {
        let cells = *self;
        cells.places.iter().map(move |place| {
            if !place.is_aside
                && let Some(text) = cells.utf8.get(place.range.clone())
            {
                return Ok(text);
            }
            let bytes = cells.bytes(place);
            str::from_utf8(bytes).map_err(|_| bytes)
        })
    }

    fn bytes(&self, place: &CellPlace) -> &'a [u8] {
        let bytes = if place.is_aside { self.aside } else { self.text };
        bytes.get(place.range.clone()).unwrap_or_default()
    }
}

/// Takes the rows that one record means.
pub type Emit<'e> = dyn FnMut(&Row<'_>) -> Result<(), BadRecord> + 'e;

/// How the records of one export are read.
pub trait Records: Send + Sync {
    /// How files of that tag ([`VendorFile::tag`](crate::vendors::VendorFile)) are cut into records.
    fn framing(&self, tag: &str) -> Framing;

    /// Reads one file, or one member of an archive, from its first record on.
    fn member<'r>(&'r self, tag: &'r str) -> Box<dyn Member + 'r>;

    /// Told of each JSON document before its records are read: what it holds beside them.
    fn document(&self, _head: &Value) {}

    /// What a caller should know, after all was read.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }
}

/// One file being read.
pub trait Member {
    /// Reads one record; hands its unified rows to `emit`. A header row has none.
    ///
    /// # Errors
    /// When the record is not what the vendor documents.
    fn unified(&mut self, record: Record<'_>, emit: &mut Emit<'_>) -> Result<(), BadRecord>;

    /// Appends the vendor's own record to `out` as one line of JSON without a line end, with only what was selected;
    /// nothing for a header row.
    ///
    /// # Errors
    /// When the record is not what the vendor documents.
    fn vendor(&mut self, record: Record<'_>, out: &mut Vec<u8>) -> Result<(), BadRecord>;
}

/// Records that are lines, each of which is one row: the common case.
pub trait LineRecords: Send + Sync {
    /// Reads one line as a row.
    ///
    /// # Errors
    /// When the record is not what the vendor documents.
    fn unified<'a>(&self, line: &'a [u8]) -> Result<Row<'a>, BadRecord>;

    /// As [`Member::vendor`].
    ///
    /// # Errors
    /// When the record is not what the vendor documents.
    fn vendor(&self, line: &[u8], out: &mut Vec<u8>) -> Result<(), BadRecord>;
}

impl<T: LineRecords> Records for T {
    fn framing(&self, _tag: &str) -> Framing {
        Framing::Lines
    }

    fn member<'r>(&'r self, _tag: &'r str) -> Box<dyn Member + 'r> {
        Box::new(Lines(self))
    }
}

struct Lines<'r, T>(&'r T);

impl<T: LineRecords> Member for Lines<'_, T> {
    fn unified(&mut self, record: Record<'_>, emit: &mut Emit<'_>) -> Result<(), BadRecord> {
        emit(&self.0.unified(line(record)?)?)
    }

    fn vendor(&mut self, record: Record<'_>, out: &mut Vec<u8>) -> Result<(), BadRecord> {
        self.0.vendor(line(record)?, out)
    }
}

/// The line of a record that is one.
///
/// # Errors
/// For any other record, which no file of such a framing has.
pub fn line(record: Record<'_>) -> Result<&[u8], BadRecord> {
    match record {
        Record::Line(line) => Ok(line),
        _ => Err(BadRecord("it is not a line".into())),
    }
}

/// Cells that were not cut out of a text.
#[cfg(test)]
pub struct OwnCells {
    text: Vec<u8>,
    places: Vec<CellPlace>,
}

#[cfg(test)]
impl OwnCells {
    pub fn cells(&self) -> Cells<'_> {
        Cells::new(&[], "", &self.text, &self.places)
    }
}

#[cfg(test)]
impl<C: AsRef<[u8]>> FromIterator<C> for OwnCells {
    fn from_iter<I: IntoIterator<Item = C>>(cells: I) -> Self {
        let mut own = Self { text: Vec::new(), places: Vec::new() };
        for cell in cells {
            let start = own.text.len();
            own.text.extend_from_slice(cell.as_ref());
            own.places.push(CellPlace { range: start..own.text.len(), is_aside: true });
        }
        own
    }
}
