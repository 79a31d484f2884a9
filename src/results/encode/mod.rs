//! Rows in, the bytes of result files out. An [`Encoding`] says how; workers fill a [`RowBuffer`] each and take
//! [`Batch`]es from it, one writer puts them into a file in their order. What can be done for a batch alone is done by
//! the worker: text, deflate and its checksum, columns. Equal batches in equal order give equal bytes.

mod csv;
mod gzip;
mod parquet;
mod table;
mod text;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use std::{
    io::{self, Write},
    sync::Arc,
};

use self::{gzip::GzipFile, parquet::ParquetFile, table::Table, text::Text};
use super::Error;
use crate::exports::{
    fields::{ColumnType, Selection},
    records::BadRecord,
    request::{Compression, Dataset, Format, Output, RecordSchema},
    rows::{Row, RowKind},
};

/// Bytes that a buffer may hold when another row comes. Only one record that means very many rows comes near this.
const MAX_BUFFERED: usize = 64 * 1024 * 1024;
/// The writer packs zstd alone, so it must not be what everybody waits for.
const ZSTD_LEVEL: i32 = 1;

/// How the records of one export are written. Clones are cheap and the same.
#[derive(Clone)]
pub struct Encoding(Arc<Shape>);

struct Shape {
    dataset: Dataset,
    schema: RecordSchema,
    layout: Layout,
    selection: Selection,
    columns: Vec<(&'static str, ColumnType)>,
}

enum Layout {
    Ndjson(Compression),
    Csv { compression: Compression, guard_formulas: bool, header: Vec<u8> },
    Parquet(Box<parquet::Layout>),
}

impl Encoding {
    /// How `output` writes the records of `dataset`. A unified row has the columns of the dataset's schema, of a user
    /// those that `selection` has; a vendor's own record in CSV or Parquet is the one column `record`.
    /// None for `raw`, whose bytes are the vendor's.
    pub fn new(dataset: Dataset, output: Output, selection: Selection) -> Option<Self> {
        let columns: Vec<_> = match output.schema {
            RecordSchema::Vendor => vec![("record", ColumnType::Object)],
            RecordSchema::Unified => {
                let is_wanted = |name: &str| {
                    dataset.row_kind() != RowKind::User || selection.columns().any(|column| column.name() == name)
                };
                let columns = dataset.schema().columns.iter().filter(|column| is_wanted(column.name));
                columns.map(|column| (column.name, column.kind)).collect()
            }
        };
        let layout = match output.format {
            Format::Raw => return None,
            Format::Ndjson => Layout::Ndjson(output.compression),
            Format::Csv => Layout::Csv {
                compression: output.compression,
                guard_formulas: output.csv.guard_formulas,
                header: csv::header(&columns),
            },
            Format::Parquet => Layout::Parquet(Box::new(parquet::Layout::new(&columns))),
        };
        Some(Self(Arc::new(Shape { dataset, schema: output.schema, layout, selection, columns })))
    }

    /// Of a file as it is stored.
    pub fn media_type(&self) -> &'static str {
        match (&self.0.layout, self.compression()) {
            (Layout::Parquet(_), _) => "application/vnd.apache.parquet",
            (_, Compression::Gzip) => "application/gzip",
            (_, Compression::Zstd) => "application/zstd",
            (Layout::Ndjson(_), Compression::None) => "application/x-ndjson",
            (Layout::Csv { .. }, Compression::None) => "text/csv; charset=utf-8",
        }
    }

    /// What a file's name ends with, without the first dot.
    pub fn extension(&self) -> &'static str {
        match (&self.0.layout, self.compression()) {
            (Layout::Parquet(_), _) => "parquet",
            (Layout::Ndjson(_), Compression::None) => "ndjson",
            (Layout::Ndjson(_), Compression::Gzip) => "ndjson.gz",
            (Layout::Ndjson(_), Compression::Zstd) => "ndjson.zst",
            (Layout::Csv { .. }, Compression::None) => "csv",
            (Layout::Csv { .. }, Compression::Gzip) => "csv.gz",
            (Layout::Csv { .. }, Compression::Zstd) => "csv.zst",
        }
    }

    /// Of the file as a whole: none for Parquet, which packs its columns itself.
    pub fn compression(&self) -> Compression {
        match self.0.layout {
            Layout::Ndjson(compression) | Layout::Csv { compression, .. } => compression,
            Layout::Parquet(_) => Compression::None,
        }
    }

    /// A buffer for one worker, for as many batches as it makes.
    pub fn buffer(&self) -> RowBuffer {
        let rows = match &self.0.layout {
            Layout::Ndjson(_) | Layout::Csv { .. } => Rows::Text(Text::new(self.compression())),
            Layout::Parquet(layout) => Rows::Table(Box::new(Table::new(layout.schema(), &self.0.columns))),
        };
        RowBuffer { encoding: self.clone(), records: 0, unreadable: 0, rows }
    }

    /// Begins a file; its bytes go to `sink`, in pieces of any size. An error that the sink carries
    /// (`Error::into_io`) comes out as itself.
    ///
    /// # Errors
    /// The sink's.
    pub fn file<W: Write + Send>(&self, sink: W) -> Result<FileEncoder<W>, Error> {
        let header = match &self.0.layout {
            Layout::Ndjson(_) => &[][..],
            Layout::Csv { header, .. } => header,
            Layout::Parquet(layout) => {
                return Ok(FileEncoder(Kind::Parquet(Box::new(ParquetFile::begin(layout, sink)?))));
            }
        };
        let mut sink = Counted { sink, bytes: 0 };
        let kind = match self.compression() {
            Compression::None => {
                sink.write_all(header).map_err(writing)?;
                Kind::Plain(sink)
            }
            Compression::Gzip => Kind::Gzip(GzipFile::begin(sink, header)?),
            Compression::Zstd => {
                let mut encoder = zstd::Encoder::new(sink, ZSTD_LEVEL).map_err(writing)?;
                encoder.include_checksum(true).map_err(writing)?;
                encoder.write_all(header).map_err(writing)?;
                Kind::Zstd(encoder)
            }
        };
        Ok(FileEncoder(kind))
    }
}

/// Rows on their way into a batch.
pub struct RowBuffer {
    encoding: Encoding,
    records: u64,
    unreadable: u64,
    rows: Rows,
}

enum Rows {
    Text(Text),
    Table(Box<Table>),
}

#[cfg(test)]
impl Rows {
    /// Bytes of memory that a buffer holds.
    fn held(&self) -> usize {
        match self {
            Self::Text(text) => text.held(),
            Self::Table(table) => table.held(),
        }
    }
}

/// Where a buffer stood; see [`RowBuffer::mark`].
#[derive(Debug, Clone, Copy)]
pub struct Mark {
    records: u64,
    unreadable: u64,
    bytes: usize,
}

impl RowBuffer {
    /// Adds a row.
    ///
    /// # Errors
    /// When the row is of another schema, or comes on top of more than fits in memory. Nothing of it is kept.
    pub fn push(&mut self, row: &Row<'_>) -> Result<(), BadRecord> {
        let shape = &*self.encoding.0;
        if shape.schema != RecordSchema::Unified || row.kind() != shape.dataset.row_kind() {
            return Err(BadRecord("it is not of the dataset's schema".into()));
        }
        room(&self.rows)?;
        self.unreadable += match (&mut self.rows, &shape.layout) {
            (Rows::Table(table), _) => table.push(row, &shape.selection),
            (Rows::Text(text), Layout::Csv { guard_formulas, .. }) => {
                text.push_csv(row, &shape.selection, *guard_formulas)
            }
            (Rows::Text(text), _) => text.push_json(row, &shape.selection),
        };
        self.records += 1;
        Ok(())
    }

    /// Adds a vendor's own record: JSON text, also of more than one line.
    ///
    /// # Errors
    /// When it is not UTF-8, when the export wants unified rows, or when it comes on top of more than fits in memory.
    /// Nothing of it is kept.
    pub fn push_vendor(&mut self, json: &[u8]) -> Result<(), BadRecord> {
        let shape = &*self.encoding.0;
        if shape.schema != RecordSchema::Vendor {
            return Err(BadRecord("it is not of the dataset's schema".into()));
        }
        let json = str::from_utf8(json).map_err(|_| BadRecord("it is not UTF-8".into()))?;
        room(&self.rows)?;
        match (&mut self.rows, &shape.layout) {
            (Rows::Table(table), _) => table.push_vendor(json),
            (Rows::Text(text), Layout::Csv { .. }) => text.push_vendor_csv(json),
            (Rows::Text(text), _) => text.push_vendor_json(json),
        }
        self.records += 1;
        Ok(())
    }

    /// Where the buffer stands now, for [`RowBuffer::undo`]. Good until the next [`RowBuffer::take`].
    pub fn mark(&self) -> Mark {
        let bytes = match &self.rows {
            Rows::Text(text) => text.len(),
            Rows::Table(table) => table.bytes(),
        };
        Mark { records: self.records, unreadable: self.unreadable, bytes }
    }

    /// Takes back every row since `mark`: those of a record that turned out to be bad after its first rows.
    ///
    /// # Errors
    /// None that can be met; kept because Arrow's signatures have them.
    pub fn undo(&mut self, mark: Mark) -> Result<(), Error> {
        if self.records == mark.records {
            return Ok(());
        }
        match &mut self.rows {
            Rows::Text(text) => text.truncate(mark.bytes),
            Rows::Table(table) => table.truncate(mark.records, mark.bytes)?,
        }
        (self.records, self.unreadable) = (mark.records, mark.unreadable);
        Ok(())
    }

    /// Whether it is time to take a batch.
    pub fn is_full(&self) -> bool {
        match &self.rows {
            Rows::Text(text) => text.is_full(),
            Rows::Table(table) => table.is_full(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Everything that is in it so far; the buffer is empty then. Deflates, where the file is a gzip one.
    ///
    /// # Errors
    /// None that can be met; kept because Arrow's and zlib's signatures have them.
    pub fn take(&mut self) -> Result<Batch, Error> {
        let body = match &mut self.rows {
            Rows::Text(text) => text.take()?,
            Rows::Table(table) => Body::Table(table.take()?),
        };
        Ok(Batch {
            records: std::mem::take(&mut self.records),
            unreadable_times: std::mem::take(&mut self.unreadable),
            body,
        })
    }
}

fn room(rows: &Rows) -> Result<(), BadRecord> {
    let bytes = match rows {
        Rows::Text(text) => text.len(),
        Rows::Table(table) => table.bytes(),
    };
    if bytes > MAX_BUFFERED {
        return Err(BadRecord("it means more rows than fit in memory".into()));
    }
    Ok(())
}

/// Rows as they go into a file.
pub struct Batch {
    pub records: u64,
    /// Dates and times among them that could not be read.
    pub unreadable_times: u64,
    body: Body,
}

enum Body {
    Plain(Vec<u8>),
    Deflated(gzip::Block),
    Table(Vec<arrow_array::RecordBatch>),
}

impl Batch {
    /// Bytes of memory it holds.
    pub fn bytes(&self) -> usize {
        match &self.body {
            Body::Plain(text) => text.capacity(),
            Body::Deflated(block) => block.capacity(),
            Body::Table(batches) => batches.iter().map(arrow_array::RecordBatch::get_array_memory_size).sum(),
        }
    }
}

/// One result file being written.
pub struct FileEncoder<W: Write + Send>(Kind<W>);

enum Kind<W: Write + Send> {
    Plain(Counted<W>),
    Gzip(GzipFile<Counted<W>>),
    Zstd(zstd::Encoder<'static, Counted<W>>),
    Parquet(Box<ParquetFile<W>>),
}

impl<W: Write + Send> FileEncoder<W> {
    /// Appends a batch of the same [`Encoding`].
    ///
    /// # Errors
    /// The sink's. The file is of no use then.
    pub fn write(&mut self, batch: Batch) -> Result<(), Error> {
        match (&mut self.0, batch.body) {
            (Kind::Plain(sink), Body::Plain(text)) => sink.write_all(&text).map_err(writing),
            (Kind::Gzip(file), Body::Deflated(block)) => file.write(&block),
            (Kind::Zstd(encoder), Body::Plain(text)) => encoder.write_all(&text).map_err(writing),
            (Kind::Parquet(file), Body::Table(batches)) => batches.iter().try_for_each(|batch| file.write(batch)),
            _ => Err(writing(io::Error::other("a batch of another encoding"))),
        }
    }

    /// Bytes of the file so far, as nearly as is known: what zstd holds back is not counted, what a row group of
    /// Parquet will come to is estimated.
    pub fn bytes(&self) -> u64 {
        match &self.0 {
            Kind::Plain(sink) => sink.bytes,
            Kind::Gzip(file) => file.sink().bytes,
            Kind::Zstd(encoder) => encoder.get_ref().bytes,
            Kind::Parquet(file) => file.bytes(),
        }
    }

    /// Ends the file and gives the sink back, not flushed.
    ///
    /// # Errors
    /// The sink's.
    pub fn finish(self) -> Result<W, Error> {
        match self.0 {
            Kind::Plain(sink) => Ok(sink.sink),
            Kind::Gzip(file) => Ok(file.finish()?.sink),
            Kind::Zstd(encoder) => Ok(encoder.finish().map_err(writing)?.sink),
            Kind::Parquet(file) => file.finish(),
        }
    }
}

/// Counts what goes through it.
struct Counted<W> {
    sink: W,
    bytes: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.sink.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

/// The error that the sink carried, or one that says the file could not be written.
fn writing(error: io::Error) -> Error {
    Error::carried(error).unwrap_or_else(|error| Error::storing("the result could not be written", error))
}
