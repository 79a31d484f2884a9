//! Parquet: typed columns, each packed with zstd, in row groups that are closed as they fill.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex, PoisonError},
};

use ::parquet::{
    arrow::{ArrowWriter, arrow_writer::ArrowWriterOptions},
    basic::{Compression, ZstdLevel},
    errors::ParquetError,
    file::properties::{EnabledStatistics, WriterProperties},
    schema::types::ColumnPath,
};
use arrow_array::RecordBatch;
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};

use super::{Error, writing};
use crate::exports::fields::ColumnType;

/// The packed columns of a row group stay in memory until it is closed.
const ROW_GROUP_MEMORY: usize = 16 * 1024 * 1024;
/// What a reader unpacks for one row group.
const ROW_GROUP_BYTES: usize = 96 * 1024 * 1024;
const CREATED_BY: &str = concat!("headgate version ", env!("CARGO_PKG_VERSION"));

/// Columns whose values come again and again: kept once in each row group, and pointed at. In all others a dictionary
/// would be filled for nothing.
const REPEATING: &[&str] = &[
    "first_name",
    "last_name",
    "gender",
    "birth_date",
    "country",
    "city",
    "language",
    "time_zone",
    "event_type",
    "metric",
    "time",
    "interval",
    "dimensions",
    "kind",
    "status",
    "reason",
];

/// The columns and how they are packed.
pub(super) struct Layout {
    schema: SchemaRef,
    properties: WriterProperties,
}

impl Layout {
    pub(super) fn new(columns: &[(&'static str, ColumnType)]) -> Self {
        let fields: Vec<_> = columns.iter().map(|(name, kind)| Field::new(*name, data_type(*kind), true)).collect();
        let mut properties = WriterProperties::builder()
            .set_created_by(CREATED_BY.to_owned())
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(super::ZSTD_LEVEL).unwrap_or_default()))
            .set_statistics_enabled(EnabledStatistics::Chunk)
            .set_dictionary_enabled(false)
            .set_max_row_group_row_count(None);
        for (name, kind) in columns {
            let path = ColumnPath::from(*name);
            if REPEATING.contains(name) {
                properties = properties.set_column_dictionary_enabled(path.clone(), true);
            }
            // The least and the greatest JSON text help nobody.
            if matches!(kind, ColumnType::Object | ColumnType::TextLists) {
                properties = properties.set_column_statistics_enabled(path, EnabledStatistics::None);
            }
        }
        Self { schema: Arc::new(Schema::new(fields)), properties: properties.build() }
    }

    pub(super) fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
}

fn data_type(kind: ColumnType) -> DataType {
    match kind {
        ColumnType::Text | ColumnType::TextLists | ColumnType::Object => DataType::Utf8,
        ColumnType::Date => DataType::Date32,
        ColumnType::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        ColumnType::Number => DataType::Float64,
        ColumnType::Integer => DataType::Int64,
    }
}

/// A Parquet file being written.
pub(super) struct ParquetFile<W: Write + Send> {
    writer: ArrowWriter<Watched<W>>,
    failure: Failure,
    /// Of the row group that is open, not packed.
    group_bytes: usize,
}

impl<W: Write + Send> ParquetFile<W> {
    pub(super) fn begin(layout: &Layout, sink: W) -> Result<Self, Error> {
        let failure = Failure::default();
        let sink = Watched { sink, failure: failure.clone() };
        let options =
            ArrowWriterOptions::new().with_properties(layout.properties.clone()).with_skip_arrow_metadata(true);
        let writer = ArrowWriter::try_new_with_options(sink, layout.schema(), options);
        let writer = writer.map_err(|error| failure.or(error))?;
        Ok(Self { writer, failure, group_bytes: 0 })
    }

    pub(super) fn write(&mut self, batch: &RecordBatch) -> Result<(), Error> {
        self.writer.write(batch).map_err(|error| self.failure.or(error))?;
        self.group_bytes += batch.get_array_memory_size();
        if self.group_bytes >= ROW_GROUP_BYTES || self.writer.memory_size() >= ROW_GROUP_MEMORY {
            self.writer.flush().map_err(|error| self.failure.or(error))?;
            self.group_bytes = 0;
        }
        Ok(())
    }

    pub(super) fn bytes(&self) -> u64 {
        (self.writer.bytes_written() + self.writer.in_progress_size()) as u64
    }

    pub(super) fn finish(self) -> Result<W, Error> {
        let Self { writer, failure, .. } = self;
        writer.into_inner().map(|watched| watched.sink).map_err(|error| failure.or(error))
    }
}

/// The sink's error: the writer passes some on as text only.
#[derive(Clone, Default)]
struct Failure(Arc<Mutex<Option<io::Error>>>);

impl Failure {
    fn or(&self, error: ParquetError) -> Error {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        writing(kept.take().unwrap_or_else(|| io::Error::other(error)))
    }
}

/// Keeps the sink's error.
struct Watched<W> {
    sink: W,
    failure: Failure,
}

impl<W> Watched<W> {
    fn keep<T>(&self, result: io::Result<T>) -> io::Result<T> {
        result.map_err(|error| match error.kind() {
            io::ErrorKind::Interrupted => error,
            kind => {
                let said = io::Error::new(kind, error.to_string());
                self.failure.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                said
            }
        })
    }
}

impl<W: Write> Write for Watched<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let result = self.sink.write(bytes);
        self.keep(result)
    }

    fn flush(&mut self) -> io::Result<()> {
        let result = self.sink.flush();
        self.keep(result)
    }
}
