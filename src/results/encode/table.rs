//! Rows as columns: what a worker makes of them for Parquet.

use std::{mem, sync::Arc};

use arrow_array::{
    ArrayRef, RecordBatch,
    builder::{Date32Builder, Float64Builder, Int64Builder, StringBuilder, TimestampMicrosecondBuilder},
};
use arrow_schema::{ArrowError, SchemaRef};

use super::Error;
use crate::exports::{
    cells::{Cells, Key},
    fields::{ColumnType, Selection},
    json,
    moments::{Day, Moment},
    rows::Row,
};

/// A batch is taken at this many bytes of values, or rows.
const FULL_BYTES: usize = 512 * 1024;
const FULL_ROWS: u64 = 8 * 1024;
/// Counted for a value besides its text.
const VALUE_BYTES: usize = 8;

pub(super) struct Table {
    schema: SchemaRef,
    columns: Vec<Column>,
    /// JSON text of one cell, on its way into its column.
    cell: Vec<u8>,
    rows: u64,
    bytes: usize,
    /// Rows that were closed early because some after them were taken back.
    closed: Vec<RecordBatch>,
    closed_rows: u64,
}

enum Column {
    Text(StringBuilder),
    Day(Date32Builder),
    Moment(TimestampMicrosecondBuilder),
    Number(Float64Builder),
    Integer(Int64Builder),
}

impl Column {
    fn new(kind: ColumnType) -> Self {
        match kind {
            ColumnType::Text | ColumnType::TextLists | ColumnType::Object => Self::Text(StringBuilder::new()),
            ColumnType::Date => Self::Day(Date32Builder::new()),
            ColumnType::Timestamp => Self::Moment(TimestampMicrosecondBuilder::new().with_timezone("UTC")),
            ColumnType::Number => Self::Number(Float64Builder::new()),
            ColumnType::Integer => Self::Integer(Int64Builder::new()),
        }
    }

    /// The values so far; room for as many stays, but not for more than an ordinary batch has.
    fn take(&mut self) -> ArrayRef {
        match self {
            Self::Text(values) => {
                let (rows, bytes) = (values.offsets_slice().len(), values.values_slice().len().min(FULL_BYTES));
                Arc::new(mem::replace(values, StringBuilder::with_capacity(rows, bytes + bytes / 8)).finish())
            }
            Self::Day(values) => Arc::new(values.finish()),
            Self::Moment(values) => Arc::new(values.finish()),
            Self::Number(values) => Arc::new(values.finish()),
            Self::Integer(values) => Arc::new(values.finish()),
        }
    }
}

impl Table {
    pub(super) fn new(schema: SchemaRef, columns: &[(&'static str, ColumnType)]) -> Self {
        let columns = columns.iter().map(|(_, kind)| Column::new(*kind)).collect();
        Self { schema, columns, cell: Vec::new(), rows: 0, bytes: 0, closed: Vec::new(), closed_rows: 0 }
    }

    pub(super) fn push(&mut self, row: &Row<'_>, selection: &Selection) -> u64 {
        let mut line = Line { columns: self.columns.iter_mut(), cell: &mut self.cell, bytes: 0 };
        let unreadable = row.cells(selection, &mut line);
        self.bytes += line.bytes;
        self.rows += 1;
        self.forget_large_cell();
        unreadable
    }

    pub(super) fn push_vendor(&mut self, json: &str) {
        let mut line = Line { columns: self.columns.iter_mut(), cell: &mut self.cell, bytes: 0 };
        line.json(|cell| json::one_line(cell, json));
        self.bytes += line.bytes;
        self.rows += 1;
        self.forget_large_cell();
    }

    fn forget_large_cell(&mut self) {
        self.cell.clear();
        self.cell.shrink_to(FULL_BYTES);
    }

    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) const fn is_full(&self) -> bool {
        self.bytes >= FULL_BYTES || self.rows >= FULL_ROWS
    }

    /// Keeps the first rows only. `bytes` is what they came to.
    pub(super) fn truncate(&mut self, rows: u64, bytes: usize) -> Result<(), Error> {
        self.close()?;
        let mut left = usize::try_from(rows).unwrap_or(usize::MAX);
        for batch in &mut self.closed {
            let kept = left.min(batch.num_rows());
            if kept < batch.num_rows() {
                *batch = batch.slice(0, kept);
            }
            left -= kept;
        }
        self.closed.retain(|batch| batch.num_rows() > 0);
        (self.rows, self.closed_rows, self.bytes) = (rows, rows, bytes);
        Ok(())
    }

    pub(super) fn take(&mut self) -> Result<Vec<RecordBatch>, Error> {
        self.close()?;
        (self.rows, self.closed_rows, self.bytes) = (0, 0, 0);
        Ok(mem::take(&mut self.closed))
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        let texts = self.columns.iter().map(|column| match column {
            Column::Text(values) => values.values_capacity(),
            _ => 0,
        });
        texts.sum::<usize>() + self.cell.capacity()
    }

    fn close(&mut self) -> Result<(), Error> {
        if self.rows > self.closed_rows {
            let columns = self.columns.iter_mut().map(Column::take).collect();
            self.closed.push(RecordBatch::try_new(self.schema.clone(), columns).map_err(|error| failed(&error))?);
            self.closed_rows = self.rows;
        }
        Ok(())
    }
}

fn failed(error: &ArrowError) -> Error {
    Error::storing("the rows could not be put into columns", error.to_string())
}

/// Appends one row, a value to each column.
struct Line<'t> {
    columns: std::slice::IterMut<'t, Column>,
    cell: &'t mut Vec<u8>,
    bytes: usize,
}

impl Line<'_> {
    fn json(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        self.cell.clear();
        write(self.cell);
        // What is written from text and for JSON is UTF-8.
        let text = str::from_utf8(self.cell).ok();
        self.bytes += VALUE_BYTES + self.cell.len();
        if let Some(Column::Text(values)) = self.columns.next() {
            values.append_option(text);
        }
    }
}

impl Cells for Line<'_> {
    fn text(&mut self, _: Key, value: Option<&str>) {
        self.bytes += VALUE_BYTES + value.map_or(0, str::len);
        if let Some(Column::Text(values)) = self.columns.next() {
            values.append_option(value);
        }
    }

    fn day(&mut self, _: Key, value: Option<&Day<'_>>) {
        self.bytes += VALUE_BYTES;
        if let Some(Column::Day(values)) = self.columns.next() {
            values.append_option(value.map(|day| day.days));
        }
    }

    fn moment(&mut self, _: Key, value: Option<&Moment<'_>>) {
        self.bytes += VALUE_BYTES;
        if let Some(Column::Moment(values)) = self.columns.next() {
            values.append_option(value.map(|moment| moment.micros));
        }
    }

    fn number(&mut self, _: Key, value: Option<&str>) {
        self.bytes += VALUE_BYTES;
        if let Some(Column::Number(values)) = self.columns.next() {
            values.append_option(value.and_then(|number| number.parse().ok()));
        }
    }

    fn integer(&mut self, _: Key, value: Option<i64>) {
        self.bytes += VALUE_BYTES;
        if let Some(Column::Integer(values)) = self.columns.next() {
            values.append_option(value);
        }
    }

    fn object(&mut self, _: Key, write: impl FnOnce(&mut Vec<u8>)) {
        self.json(write);
    }

    fn object_text(&mut self, key: Key, json: &str) {
        self.text(key, Some(json));
    }
}
