//! The writing thread: batches to result files, in the order they come or in that of the records.

use std::{
    io::{self, Write},
    sync::mpsc,
};

use aws_lc_rs::digest;
use bytes::Bytes;
use serde_json::json;
use tokio::sync::mpsc::Sender;

use super::{Footing, Heading, Job, Piece, REJECTED, numbered_name};
use crate::{
    exports::records::BadRecord,
    results::{
        Error,
        cut::At,
        encode::{Batch, FileEncoder},
    },
};

/// Bytes handed over at once.
pub(super) const CHUNK: usize = 256 * 1024;
/// Batches that may wait for the writer.
const BATCHES_WAITING: usize = 4;
/// Tasks whose results are waited for in their order.
const TASKS_WAITING: usize = 64;

/// What a worker has to say.
pub(super) enum Message {
    Batch(Batch),
    Rejected(Rejected),
}

/// A record that was left out.
pub(super) struct Rejected {
    pub(super) at: At,
    pub(super) why: BadRecord,
}

/// Gives each task its way to the writer.
pub(super) enum Results {
    /// One for all.
    Shared(mpsc::SyncSender<Message>),
    /// One for each, in the order of tasks.
    Ordered(mpsc::SyncSender<mpsc::Receiver<Message>>),
}

impl Results {
    pub(super) fn next(&mut self) -> Result<ResultsOfTask, Error> {
        match self {
            Self::Shared(sender) => Ok(ResultsOfTask(sender.clone())),
            Self::Ordered(tasks) => {
                let (sender, receiver) = mpsc::sync_channel(BATCHES_WAITING);
                tasks.send(receiver).map_err(|_| Error::stopped())?;
                Ok(ResultsOfTask(sender))
            }
        }
    }
}

/// Where the results of one task go. Dropped when the task is done.
pub(super) struct ResultsOfTask(mpsc::SyncSender<Message>);

impl ResultsOfTask {
    pub(super) fn send(&self, message: Message) -> Result<(), Error> {
        self.0.send(message).map_err(|_| Error::stopped())
    }
}

/// What the writer waits for.
pub(super) enum Messages {
    Shared(mpsc::Receiver<Message>),
    Ordered { tasks: mpsc::Receiver<mpsc::Receiver<Message>>, current: Option<mpsc::Receiver<Message>> },
}

impl Messages {
    fn next(&mut self) -> Option<Message> {
        match self {
            Self::Shared(messages) => messages.recv().ok(),
            Self::Ordered { tasks, current } => loop {
                if let Some(message) = current.as_ref().and_then(|messages| messages.recv().ok()) {
                    return Some(message);
                }
                *current = Some(tasks.recv().ok()?);
            },
        }
    }
}

/// The way from the workers to the writer.
pub(super) fn queue(ordered: bool) -> (Results, Messages) {
    if ordered {
        let (sender, receiver) = mpsc::sync_channel(TASKS_WAITING);
        return (Results::Ordered(sender), Messages::Ordered { tasks: receiver, current: None });
    }
    let (sender, receiver) = mpsc::sync_channel(BATCHES_WAITING);
    (Results::Shared(sender), Messages::Shared(receiver))
}

/// Writes every batch, and at the end at least one file. Files are told apart by numbers; the rejected records are 0.
pub(super) fn write(job: &Job<'_>, mut messages: Messages, pieces: &Sender<Piece>) -> Result<(), Error> {
    let mut files = Files { job, pieces, begun: 0, open: None };
    let mut rejected: Option<Sink<'_>> = None;
    let mut rejections = 0;
    while let Some(message) = messages.next() {
        match message {
            Message::Batch(batch) => files.write(batch)?,
            Message::Rejected(record) => {
                let sink = match &mut rejected {
                    Some(sink) => sink,
                    none => none.insert(begin_rejected(job, pieces)?),
                };
                rejections += 1;
                let mut line = record.line();
                line.push('\n');
                sink.write_all(line.as_bytes()).map_err(writing)?;
            }
        }
    }
    // A thread that failed has nothing more to send; then no file must look whole.
    if job.has_failed() {
        return Err(Error::stopped());
    }
    files.finish()?;
    rejected.map_or(Ok(()), |sink| sink.finish(Some(rejections)))
}

fn begin_rejected<'p>(job: &Job<'_>, pieces: &'p Sender<Piece>) -> Result<Sink<'p>, Error> {
    let heading = Heading { name: REJECTED.into(), media_type: "application/x-ndjson".into(), compression: "none" };
    Sink::begin(u32::MAX, heading, pieces, job.conversion.limits.max_result_bytes)
}

impl Rejected {
    /// Where the record was and why it was left out; never what stood in it.
    fn line(&self) -> String {
        let At { place, line, offset } = self.at;
        let (file, member, reason) = (place.file, place.member, &self.why.0);
        json!({"file": file, "member": member, "line": line, "offset": offset, "reason": reason}).to_string()
    }
}

/// The result files, one after another.
struct Files<'a, 'p> {
    job: &'a Job<'a>,
    pieces: &'p Sender<Piece>,
    begun: usize,
    open: Option<(FileEncoder<Sink<'p>>, u64)>,
}

impl Files<'_, '_> {
    fn write(&mut self, batch: Batch) -> Result<(), Error> {
        let (file, records) = match &mut self.open {
            Some(open) => open,
            none => none.insert((begin(self.job, &mut self.begun, self.pieces)?, 0)),
        };
        *records += batch.records;
        file.write(batch)?;
        let output = self.job.conversion.output;
        if !output.single_file && file.bytes() >= self.job.conversion.limits.result_file_bytes {
            return self.end();
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), Error> {
        let Some((file, records)) = self.open.take() else { return Ok(()) };
        file.finish()?.finish(Some(records))
    }

    fn finish(mut self) -> Result<(), Error> {
        if self.begun == 0 {
            self.open = Some((begin(self.job, &mut self.begun, self.pieces)?, 0));
        }
        self.end()
    }
}

fn begin<'p>(job: &Job<'_>, begun: &mut usize, pieces: &'p Sender<Piece>) -> Result<FileEncoder<Sink<'p>>, Error> {
    *begun += 1;
    let encoding = job.encoding;
    let heading = Heading {
        name: numbered_name(job.conversion.dataset, *begun, encoding.extension()),
        media_type: encoding.media_type().into(),
        compression: encoding.compression().as_str(),
    };
    let file = u32::try_from(*begun).map_err(|_| Error::limit("there are too many result files"))?;
    encoding.file(Sink::begin(file, heading, pieces, job.conversion.limits.max_result_bytes)?)
}

pub(super) fn writing(error: io::Error) -> Error {
    Error::carried(error).unwrap_or_else(|error| Error::storing("the result could not be written", error))
}

/// The bytes of one result file: hashed, counted and sent in chunks.
pub(super) struct Sink<'a> {
    file: u32,
    pieces: &'a Sender<Piece>,
    chunk: Vec<u8>,
    digest: digest::Context,
    bytes: u64,
    max_bytes: u64,
}

impl<'a> Sink<'a> {
    pub(super) fn begin(file: u32, heading: Heading, pieces: &'a Sender<Piece>, max_bytes: u64) -> Result<Self, Error> {
        let digest = digest::Context::new(&digest::SHA256);
        let sink = Self { file, pieces, chunk: Vec::with_capacity(CHUNK), digest, bytes: 0, max_bytes };
        sink.send(Piece::Begin(file, heading))?;
        Ok(sink)
    }

    fn send(&self, piece: Piece) -> Result<(), Error> {
        self.pieces.blocking_send(piece).map_err(|_| Error::stopped())
    }

    fn hand_over(&mut self, next: Vec<u8>) -> Result<(), Error> {
        let chunk = std::mem::replace(&mut self.chunk, next);
        if chunk.is_empty() {
            return Ok(());
        }
        self.digest.update(&chunk);
        self.bytes += chunk.len() as u64;
        if self.bytes > self.max_bytes {
            return Err(Error::limit(format!("a result file has more than {} bytes", self.max_bytes)));
        }
        self.send(Piece::Bytes(self.file, Bytes::from(chunk)))
    }

    pub(super) fn finish(mut self, records: Option<u64>) -> Result<(), Error> {
        self.hand_over(Vec::new())?;
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(self.digest.clone().finish().as_ref());
        self.send(Piece::End(self.file, Footing { bytes: self.bytes, records, sha256 }))
    }
}

impl Write for Sink<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let taken = data.len().min(CHUNK - self.chunk.len());
        self.chunk.extend_from_slice(&data[..taken]);
        if self.chunk.len() == CHUNK {
            self.hand_over(Vec::with_capacity(CHUNK)).map_err(Error::into_io)?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
