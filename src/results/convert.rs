//! From received vendor files to stored result files. One blocking task unpacks, converts, compresses and hashes;
//! it hands chunks through a bounded channel to the uploader, so memory stays flat and the slower side sets the pace:
//! about 20 MiB for a call with ordinary records. Records near the limit of 16 MiB cost several times their size on
//! top, because a line, its conversion and the allocator's growth of both are in memory together.

mod produce;
#[cfg(test)]
mod tests;

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{
    Error, Limits, Meter,
    spool::Spooled,
    storage::{Storage, Writer},
};
use crate::{
    exports::{
        fields::Selection,
        problem::Code,
        records::Records,
        request::{Dataset, Output},
    },
    ids::FileId,
};

/// Chunks that may wait for the uploader; each has at most [`produce::CHUNK`] bytes.
const CHUNKS_WAITING: usize = 8;

/// What to make of an export's files.
pub struct Conversion {
    /// Where the results go: [`claim_prefix`](super::storage::claim_prefix).
    pub prefix: String,
    pub dataset: Dataset,
    pub output: Output,
    /// The columns of unified records. Vendor records are narrowed by `records` itself.
    pub selection: Selection,
    pub records: Arc<dyn Records>,
    pub limits: Limits,
}

/// One received vendor file.
pub struct Received {
    pub spooled: Spooled,
    /// The extension the vendor promises, without the dot. What the bytes say beats it.
    pub extension: Cow<'static, str>,
    /// What is in it, for [`Records::member`].
    pub tag: Cow<'static, str>,
}

/// One stored result file, as the manifest shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredFile {
    pub file_id: FileId,
    pub name: String,
    pub object_key: String,
    pub media_type: Cow<'static, str>,
    /// `none` or `gzip`: what the file is, whoever packed it.
    pub compression: Cow<'static, str>,
    /// As stored.
    pub bytes: u64,
    /// Unknown for `raw`.
    pub records: Option<u64>,
    /// Of the bytes as stored.
    pub sha256: [u8; 32],
}

/// What the blocking side hands to the uploader: for each file a beginning, its bytes and an end.
enum Piece {
    Begin(Heading),
    Bytes(Bytes),
    End(Footing),
}

struct Heading {
    name: String,
    media_type: &'static str,
    compression: &'static str,
}

struct Footing {
    bytes: u64,
    records: Option<u64>,
    sha256: [u8; 32],
}

/// Converts `files`, in their order, and stores the results: one NDJSON file, empty when there are no records; or for
/// `raw` one file for each vendor file, byte by byte.
///
/// On an error, and when the future is dropped, the blocking task ends within moments and what was stored already is
/// deleted as far as possible. A crash can leave objects behind: sweep the export's prefix before the next try.
///
/// # Errors
/// `vendor_malformed_data` and `archive_limit_exceeded` with the position of what is wrong, `delivery_failed` when the
/// store or the local disk fails.
pub async fn convert(
    files: Vec<Received>,
    conversion: Conversion,
    storage: &Storage,
    meter: &Meter,
) -> Result<Vec<StoredFile>, Error> {
    let (pieces, received) = mpsc::channel(CHUNKS_WAITING);
    let mut delivery = Delivery { storage, prefix: conversion.prefix.clone(), keys: Vec::new(), stored: Vec::new() };
    let counts = meter.clone();
    let blocking = tokio::task::spawn_blocking(move || produce::produce(files, &conversion, &counts, &pieces));
    let uploaded = delivery.upload(received, meter).await;
    let produced = blocking
        .await
        .unwrap_or_else(|_| Err(Error::new(Code::Internal, true, "converting the records failed unexpectedly")));
    // When uploading failed, the producer was stopped by that and has nothing to add.
    match uploaded.and(produced) {
        Ok(()) => Ok(delivery.done()),
        Err(error) => {
            delivery.take_back().await;
            Err(error)
        }
    }
}

/// The uploading side. Dropped before [`Delivery::done`], it deletes what it stored.
struct Delivery<'a> {
    storage: &'a Storage,
    prefix: String,
    /// Begun or finished.
    keys: Vec<String>,
    stored: Vec<StoredFile>,
}

impl Delivery<'_> {
    /// Stores what comes until the producer ends. A file without its end is never finished, so never visible.
    async fn upload(&mut self, mut pieces: mpsc::Receiver<Piece>, meter: &Meter) -> Result<(), Error> {
        let mut open: Option<(Heading, Writer)> = None;
        while let Some(piece) = pieces.recv().await {
            match (piece, &mut open) {
                (Piece::Begin(heading), _) => {
                    let key = self.key(&heading.name);
                    open = Some((heading, self.storage.writer(&key)));
                    self.keys.push(key);
                }
                (Piece::Bytes(chunk), Some((_, writer))) => {
                    let bytes = chunk.len();
                    writer.put(chunk).await.map_err(not_stored)?;
                    meter.count_written(bytes);
                }
                (Piece::End(footing), open) => {
                    let Some((heading, writer)) = open.take() else { continue };
                    writer.finish().await.map_err(not_stored)?;
                    self.stored.push(StoredFile {
                        file_id: FileId::new(),
                        object_key: self.key(&heading.name),
                        name: heading.name,
                        media_type: heading.media_type.into(),
                        compression: heading.compression.into(),
                        bytes: footing.bytes,
                        records: footing.records,
                        sha256: footing.sha256,
                    });
                }
                (Piece::Bytes(_), None) => {}
            }
        }
        if let Some((_, writer)) = open {
            self.ignore(writer.abort().await);
        }
        Ok(())
    }

    fn key(&self, name: &str) -> String {
        format!("{}/{name}", self.prefix)
    }

    fn done(mut self) -> Vec<StoredFile> {
        self.keys.clear();
        std::mem::take(&mut self.stored)
    }

    async fn take_back(mut self) {
        let keys = std::mem::take(&mut self.keys);
        self.ignore(self.storage.delete(&keys).await);
    }

    #[expect(clippy::unused_self, reason = "only a delivery may shrug off a failure: a later sweep does it again")]
    fn ignore(&self, outcome: object_store::Result<()>) {
        if let Err(error) = outcome {
            tracing::debug!(%error, "an unfinished result could not be taken back");
        }
    }
}

impl Drop for Delivery<'_> {
    fn drop(&mut self) {
        let keys = std::mem::take(&mut self.keys);
        if keys.is_empty() {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let storage = self.storage.clone();
            runtime.spawn(async move {
                if let Err(error) = storage.delete(&keys).await {
                    tracing::debug!(%error, "an abandoned result could not be taken back");
                }
            });
        }
    }
}

fn not_stored(error: object_store::Error) -> Error {
    Error::storing("the result could not be stored", error)
}
