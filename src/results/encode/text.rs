//! Rows as text: NDJSON and CSV, plain or deflated.

use super::{Body, Error, csv, gzip::Deflater};
use crate::exports::{fields::Selection, json, request::Compression, rows::Row};

/// Bytes at which a batch is taken: enough for deflate and zstd to find what repeats, little enough for the caches.
const FULL: usize = 256 * 1024;
/// Room for the row that fills a batch.
const SLACK: usize = 16 * 1024;

/// Text of whole rows.
pub(super) struct Text {
    lines: Vec<u8>,
    /// JSON text of one cell, on its way into CSV.
    cell: Vec<u8>,
    deflater: Option<Deflater>,
}

impl Text {
    pub(super) fn new(compression: Compression) -> Self {
        let deflater = (compression == Compression::Gzip).then(Deflater::new);
        Self { lines: Vec::new(), cell: Vec::new(), deflater }
    }

    pub(super) fn push_json(&mut self, row: &Row<'_>, selection: &Selection) -> u64 {
        self.make_room();
        let unreadable = row.append_json(selection, &mut self.lines);
        self.lines.push(b'\n');
        unreadable
    }

    pub(super) fn push_vendor_json(&mut self, json: &str) {
        self.make_room();
        json::one_line(&mut self.lines, json);
        self.lines.push(b'\n');
    }

    pub(super) fn push_csv(&mut self, row: &Row<'_>, selection: &Selection, guard_formulas: bool) -> u64 {
        self.make_room();
        let mut line = csv::Line::begin(&mut self.lines, &mut self.cell, guard_formulas);
        let unreadable = row.cells(selection, &mut line);
        line.end();
        self.forget_large_cell();
        unreadable
    }

    pub(super) fn push_vendor_csv(&mut self, json: &str) {
        self.make_room();
        let mut line = csv::Line::begin(&mut self.lines, &mut self.cell, false);
        line.json(|cell| json::one_line(cell, json));
        line.end();
        self.forget_large_cell();
    }

    pub(super) fn len(&self) -> usize {
        self.lines.len()
    }

    pub(super) fn truncate(&mut self, len: usize) {
        self.lines.truncate(len);
    }

    pub(super) fn is_full(&self) -> bool {
        self.lines.len() >= FULL
    }

    pub(super) fn take(&mut self) -> Result<Body, Error> {
        let Some(deflater) = &mut self.deflater else { return Ok(Body::Plain(std::mem::take(&mut self.lines))) };
        let block = deflater.block(&self.lines)?;
        // The text stays here: it is used again, unless one record made it large.
        self.lines.clear();
        self.lines.shrink_to(FULL + SLACK);
        Ok(Body::Deflated(block))
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.lines.capacity() + self.cell.capacity()
    }

    fn make_room(&mut self) {
        if self.lines.capacity() == 0 {
            self.lines.reserve_exact(FULL + SLACK);
        }
    }

    fn forget_large_cell(&mut self) {
        self.cell.clear();
        self.cell.shrink_to(FULL);
    }
}
