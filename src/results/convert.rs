//! From vendor files to stored result files, as they come. A thread reads and unpacks ([`read`]), others turn records
//! into rows and rows into batches ([`work`]), one more writes the batches to result files, hashes these and cuts them
//! at their target size ([`write`](mod@write)); from there they go to the object store. Between the stages are short queues, so
//! memory stays flat and the slowest stage sets the pace for all, up to the vendor's socket.
//!
//! Memory is a few MiB for each core. Records near the limit of 16 MiB cost several times their size on top, because a
//! line, its conversion and the allocator's growth of both are in memory together.

mod raw;
mod read;
#[cfg(test)]
mod tests;
mod work;
mod write;

use std::{
    borrow::Cow,
    collections::HashMap,
    num::NonZero,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{
    Error, Limits, Meter,
    archive::Totals,
    encode::Encoding,
    receive::Inputs,
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

/// Chunks that may wait for the uploader; each has at most [`write::CHUNK`] bytes.
const CHUNKS_WAITING: usize = 8;
/// More threads for one export bring nothing: its file is written by one.
const MAX_WORKERS: usize = 8;
/// Packed members that wait or are worked on, together.
const PACKED_BYTES: u64 = 32 * 1024 * 1024;
const SMALL_MEMBER_BYTES: std::ops::RangeInclusive<u64> = 1024 * 1024..=4 * 1024 * 1024;

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
    /// For vendor files that cannot be read in one pass; must exist.
    pub spool_dir: PathBuf,
}

/// One stored result file, as the manifest shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredFile {
    pub file_id: FileId,
    pub name: String,
    pub object_key: String,
    pub media_type: Cow<'static, str>,
    /// `none`, `gzip` or `zstd`: what the file is, whoever packed it.
    pub compression: Cow<'static, str>,
    /// As stored.
    pub bytes: u64,
    /// Unknown for `raw`.
    pub records: Option<u64>,
    /// Of the bytes as stored.
    pub sha256: [u8; 32],
}

/// The file that lists the records that were left out. Its lines are no records of the export.
pub const REJECTED: &str = "rejected.ndjson";

/// Whether a result file lists records that were left out.
pub fn is_rejected(name: &str) -> bool {
    name.starts_with("rejected")
}

/// What the blocking side hands to whoever stores: for each file a beginning, its bytes and an end. Files may overlap.
pub enum Piece {
    Begin(u32, Heading),
    Bytes(u32, Bytes),
    End(u32, Footing),
}

/// What is known of a file when it begins. Names are told apart by their numbers, see [`final_name`].
pub struct Heading {
    pub name: String,
    pub media_type: Cow<'static, str>,
    pub compression: &'static str,
}

/// What is known of a file when it ends.
pub struct Footing {
    pub bytes: u64,
    pub records: Option<u64>,
    pub sha256: [u8; 32],
}

/// The name of result file `number`, from 1, while it is not known how many there will be.
pub fn numbered_name(dataset: Dataset, number: usize, extension: &str) -> String {
    format!("{}-{number:05}.{extension}", dataset.as_str())
}

/// The name of a file that turned out to be the only one.
pub fn final_name(name: &str, files: usize) -> String {
    if files == 1 { name.replacen("-00001.", ".", 1) } else { name.to_owned() }
}

/// Converts what `inputs` brings and stores the results: files of about the target size, or one; one without records
/// when there are none. For `raw` one file for each vendor file, byte by byte.
///
/// On an error, and when the future is dropped, the threads end within moments and what was stored already is deleted as
/// far as possible. A crash can leave objects behind: sweep the export's prefix before the next try.
///
/// # Errors
/// `vendor_malformed_data` and `archive_limit_exceeded` with the position of what is wrong, `delivery_failed` when the
/// store or the local disk fails.
pub async fn convert(
    inputs: Inputs,
    conversion: Conversion,
    storage: &Storage,
    meter: &Meter,
) -> Result<Vec<StoredFile>, Error> {
    let (pieces, received) = mpsc::channel(CHUNKS_WAITING);
    let mut delivery = Delivery { storage, prefix: conversion.prefix.clone(), keys: Vec::new(), stored: Vec::new() };
    let counts = meter.clone();
    let stop = inputs.stop_when_dropped();
    let blocking = tokio::task::spawn_blocking(move || produce(inputs, &conversion, &counts, &pieces));
    let uploaded = delivery.upload(received, meter).await;
    drop(stop);
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

/// The blocking side: makes every result file. Ends with an error soon after the receiver of `pieces` is gone.
///
/// # Errors
/// As [`convert`].
pub fn produce(
    mut inputs: Inputs,
    conversion: &Conversion,
    meter: &Meter,
    pieces: &mpsc::Sender<Piece>,
) -> Result<(), Error> {
    let workers = std::thread::available_parallelism().map_or(1, NonZero::get).min(MAX_WORKERS);
    let encoding = Encoding::new(conversion.dataset, conversion.output, conversion.selection.clone());
    let Some(encoding) = encoding else { return raw::copy(&mut inputs, conversion, meter, pieces) };
    let job = Job {
        conversion,
        encoding: &encoding,
        meter,
        totals: Totals::default(),
        small_member_bytes: (PACKED_BYTES / (2 * workers as u64 + 1))
            .clamp(*SMALL_MEMBER_BYTES.start(), *SMALL_MEMBER_BYTES.end()),
        fault: Mutex::new(None),
    };
    let (tasks, todo) = work::queue(workers);
    let (results, batches) = write::queue(conversion.output.ordered);
    let stop = inputs.stop_when_dropped();
    std::thread::scope(|scope| {
        let job = &job;
        scope.spawn(move || {
            let (mut inputs, mut results) = (inputs, results);
            // Noted before the writer can see that nothing more comes.
            job.note(read::read(job, &mut inputs, &tasks, &mut results));
        });
        for _ in 0..workers {
            let todo = todo.clone();
            scope.spawn(move || job.note(work::work(job, &todo)));
        }
        drop(todo);
        job.note(write::write(job, batches, pieces));
        // Whoever still waits for input waits in vain.
        drop(stop);
    });
    job.fault.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

/// Everything the threads of one conversion share.
struct Job<'a> {
    conversion: &'a Conversion,
    encoding: &'a Encoding,
    meter: &'a Meter,
    totals: Totals,
    small_member_bytes: u64,
    /// The first real one.
    fault: Mutex<Option<Error>>,
}

impl Job<'_> {
    fn has_failed(&self) -> bool {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Keeps an error. One thread that fails stops the others, and what they say of that is of no interest.
    fn note(&self, outcome: Result<(), Error>) {
        let Err(error) = outcome else { return };
        let mut fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        if fault.as_ref().is_none_or(Error::is_stopped) {
            *fault = Some(error);
        }
    }
}

/// The uploading side. Dropped before [`Delivery::done`], it deletes what it stored.
struct Delivery<'a> {
    storage: &'a Storage,
    prefix: String,
    /// Begun or finished.
    keys: Vec<String>,
    stored: Vec<(u32, StoredFile)>,
}

impl Delivery<'_> {
    /// Stores what comes until the producer ends. A file without its end is never finished, so never visible.
    async fn upload(&mut self, mut pieces: mpsc::Receiver<Piece>, meter: &Meter) -> Result<(), Error> {
        let mut open: HashMap<u32, (Heading, Writer)> = HashMap::new();
        while let Some(piece) = pieces.recv().await {
            match piece {
                Piece::Begin(file, heading) => {
                    let key = self.key(&heading.name);
                    open.insert(file, (heading, self.storage.writer(&key)));
                    self.keys.push(key);
                }
                Piece::Bytes(file, chunk) => {
                    let Some((_, writer)) = open.get_mut(&file) else { continue };
                    let bytes = chunk.len();
                    writer.put(chunk).await.map_err(not_stored)?;
                    meter.count_written(bytes);
                }
                Piece::End(file, footing) => {
                    let Some((heading, writer)) = open.remove(&file) else { continue };
                    writer.finish().await.map_err(not_stored)?;
                    let stored = StoredFile {
                        file_id: FileId::new(),
                        object_key: self.key(&heading.name),
                        name: heading.name,
                        media_type: heading.media_type,
                        compression: heading.compression.into(),
                        bytes: footing.bytes,
                        records: footing.records,
                        sha256: footing.sha256,
                    };
                    self.stored.push((file, stored));
                }
            }
        }
        for (_, writer) in open.into_values() {
            self.ignore(writer.abort().await);
        }
        Ok(())
    }

    fn key(&self, name: &str) -> String {
        format!("{}/{name}", self.prefix)
    }

    fn done(mut self) -> Vec<StoredFile> {
        self.keys.clear();
        let mut stored = std::mem::take(&mut self.stored);
        stored.sort_by_key(|(file, _)| *file);
        let mut files: Vec<_> = stored.into_iter().map(|(_, file)| file).collect();
        let results = files.iter().filter(|file| !is_rejected(&file.name)).count();
        for file in files.iter_mut().filter(|file| file.records.is_some()) {
            file.name = final_name(&file.name, results);
        }
        files
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
