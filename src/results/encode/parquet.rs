//! Parquet: typed columns, each packed with zstd, in row groups that are closed as they fill.

use std::{io, io::Write, sync::Arc};

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
    writer: ArrowWriter<W>,
    /// Of the row group that is open, not packed.
    group_bytes: usize,
}

impl<W: Write + Send> ParquetFile<W> {
    pub(super) fn begin(layout: &Layout, sink: W) -> Result<Self, Error> {
        let options =
            ArrowWriterOptions::new().with_properties(layout.properties.clone()).with_skip_arrow_metadata(true);
        let writer = ArrowWriter::try_new_with_options(sink, layout.schema(), options).map_err(failed)?;
        Ok(Self { writer, group_bytes: 0 })
    }

    pub(super) fn write(&mut self, batch: &RecordBatch) -> Result<(), Error> {
        self.writer.write(batch).map_err(failed)?;
        self.group_bytes += batch.get_array_memory_size();
        if self.group_bytes >= ROW_GROUP_BYTES || self.writer.memory_size() >= ROW_GROUP_MEMORY {
            self.writer.flush().map_err(failed)?;
            self.group_bytes = 0;
        }
        Ok(())
    }

    pub(super) fn bytes(&self) -> u64 {
        (self.writer.bytes_written() + self.writer.in_progress_size()) as u64
    }

    pub(super) fn finish(self) -> Result<W, Error> {
        self.writer.into_inner().map_err(failed)
    }
}

/// The error of the sink that is inside, or one that says the file could not be written.
fn failed(error: ParquetError) -> Error {
    let error = match error {
        ParquetError::External(source) => source.downcast::<io::Error>().map_or_else(io::Error::other, |error| *error),
        error => io::Error::other(error),
    };
    writing(error)
}
