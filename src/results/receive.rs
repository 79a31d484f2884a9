//! Receiving vendor files: what comes over the network goes through a short queue to the thread that reads it. When that
//! is slow the queue is full, and the vendor's socket waits.

use std::{
    borrow::Cow,
    fmt,
    io::{self, Read},
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes};
use futures_util::{StreamExt, stream::BoxStream};
use tokio::{runtime::Handle, sync::mpsc};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Error, Limits, Meter};

/// Chunks of a file that wait for their reader; each is what one read from the network brought, or [`CHUNK`].
const CHUNKS_WAITING: usize = 8;
/// The largest chunk.
const CHUNK: usize = 256 * 1024;

/// One vendor file to be read.
pub struct Received {
    pub bytes: Box<dyn Read + Send>,
    /// The extension the vendor promises, without the dot. What the bytes say beats it.
    pub extension: Cow<'static, str>,
    /// What is in it, for [`Records::member`](crate::exports::records::Records::member).
    pub tag: Cow<'static, str>,
}

/// The files of an export, for the thread that reads them.
pub struct Inputs {
    files: mpsc::Receiver<Received>,
    wait: Wait,
}

/// Brings the files of an export, one after another. Dropped, it says that there are no more.
pub struct Feeder {
    files: mpsc::Sender<Received>,
    wait: Wait,
}

/// Waits for what comes through a queue, on a thread that may block, until nobody is interested any more.
#[derive(Clone)]
struct Wait {
    runtime: Handle,
    stop: CancellationToken,
}

impl Wait {
    fn next<T>(&self, queue: &mut mpsc::Receiver<T>) -> Result<Option<T>, Error> {
        if let Ok(next) = queue.try_recv() {
            return Ok(Some(next));
        }
        let next = self.runtime.block_on(self.stop.run_until_cancelled(queue.recv()));
        next.ok_or_else(Error::stopped)
    }
}

/// Connects one who brings files with one who reads them. Call it in a runtime.
pub fn connect() -> (Feeder, Inputs) {
    let (sender, receiver) = mpsc::channel(1);
    let wait = Wait { runtime: Handle::current(), stop: CancellationToken::new() };
    (Feeder { files: sender, wait: wait.clone() }, Inputs { files: receiver, wait })
}

impl Inputs {
    /// The next file; blocks until it is there.
    pub(super) fn next(&mut self) -> Result<Option<Received>, Error> {
        self.wait.next(&mut self.files)
    }

    /// Ends every wait of whoever reads when it is dropped.
    pub(super) fn stop_when_dropped(&self) -> DropGuard {
        self.wait.stop.clone().drop_guard()
    }
}

impl Feeder {
    /// Hands over a file that is there already.
    ///
    /// # Errors
    /// When nobody reads any more.
    pub async fn file(&self, file: Received) -> Result<(), Error> {
        self.files.send(file).await.map_err(|_| Error::stopped())
    }

    /// Hands over a file that is yet to come, see [`receive`].
    ///
    /// # Errors
    /// When nobody reads any more.
    pub async fn begin(&self, extension: Cow<'static, str>, tag: Cow<'static, str>) -> Result<Chunks, Error> {
        let (sender, receiver) = mpsc::channel(CHUNKS_WAITING);
        let incoming = Incoming { chunks: receiver, current: Bytes::new(), ended: false, wait: self.wait.clone() };
        self.file(Received { bytes: Box::new(incoming), extension, tag }).await?;
        Ok(Chunks(sender))
    }
}

/// Where the chunks of one file go. Its end has to be said: dropped before, the file is broken.
pub struct Chunks(mpsc::Sender<Option<Bytes>>);

impl Chunks {
    /// # Errors
    /// When nobody reads any more.
    pub async fn send(&self, mut chunk: Bytes) -> Result<(), Error> {
        while !chunk.is_empty() {
            let piece = chunk.split_to(chunk.len().min(CHUNK));
            self.0.send(Some(piece)).await.map_err(|_| Error::stopped())?;
        }
        Ok(())
    }

    /// # Errors
    /// When nobody reads any more.
    pub async fn end(self) -> Result<(), Error> {
        self.0.send(None).await.map_err(|_| Error::stopped())
    }
}

struct Incoming {
    chunks: mpsc::Receiver<Option<Bytes>>,
    current: Bytes,
    ended: bool,
    wait: Wait,
}

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() && !self.ended {
            match self.wait.next(&mut self.chunks).map_err(Error::into_io)? {
                Some(Some(chunk)) => self.current = chunk,
                Some(None) => self.ended = true,
                None => return Err(Error::stopped().into_io()),
            }
        }
        let bytes = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..bytes]);
        Ok(bytes)
    }
}

/// Why a file could not be received.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError<E: fmt::Display + fmt::Debug> {
    /// The stream itself failed; the sender's error as it came.
    #[error("{0}")]
    Vendor(E),
    #[error(transparent)]
    Results(#[from] Error),
}

/// Receives `body` into `chunks`; answers how many bytes it had.
///
/// # Errors
/// [`ReceiveError::Vendor`] when the body fails; else `archive_limit_exceeded` past `max_file_bytes` (before the first
/// byte if `length` says so already), `vendor_malformed_data` when the body has not exactly `length` bytes,
/// `vendor_stalled` when less than `min_progress_bytes` come within `progress_window`.
pub async fn receive<E: fmt::Display + fmt::Debug>(
    length: Option<u64>,
    mut body: BoxStream<'static, Result<Bytes, E>>,
    chunks: Chunks,
    limits: &Limits,
    meter: &Meter,
) -> Result<u64, ReceiveError<E>> {
    let cap = limits.max_file_bytes;
    let over = || Error::limit(format!("a vendor file has more than {cap} bytes"));
    if length.is_some_and(|length| length > cap) {
        return Err(over().into());
    }
    let mut pace = Pace::new(limits, Instant::now());
    let mut bytes = 0u64;
    loop {
        let Ok(next) = tokio::time::timeout_at(pace.window_end.into(), body.next()).await else {
            pace.check(Instant::now())?;
            continue;
        };
        let Some(chunk) = next else { break };
        let chunk = chunk.map_err(ReceiveError::Vendor)?;
        bytes += chunk.len() as u64;
        meter.count_read(chunk.len());
        if bytes > cap {
            return Err(over().into());
        }
        if let Some(length) = length.filter(|length| bytes > *length) {
            return Err(Error::damaged(format!("a vendor file is longer than the {length} bytes announced")).into());
        }
        pace.arrived(chunk.len());
        let received = Instant::now();
        pace.check(received)?;
        chunks.send(chunk).await?;
        pace.excuse(received.elapsed());
    }
    if let Some(length) = length.filter(|length| bytes < *length) {
        return Err(Error::damaged(format!("a vendor file ended after {bytes} of {length} bytes")).into());
    }
    chunks.end().await?;
    Ok(bytes)
}

/// Notices a sender that sends, but too little: each window must bring its minimum. Time we spend on reading is
/// ours and not counted.
struct Pace {
    min_bytes: u64,
    window: Duration,
    window_end: Instant,
    in_window: u64,
}

impl Pace {
    fn new(limits: &Limits, now: Instant) -> Self {
        let window = limits.progress_window;
        Self { min_bytes: limits.min_progress_bytes, window, window_end: now + window, in_window: 0 }
    }

    fn arrived(&mut self, bytes: usize) {
        self.in_window += bytes as u64;
    }

    fn excuse(&mut self, pause: Duration) {
        self.window_end += pause;
    }

    /// Opens the next window when this one is over.
    fn check(&mut self, now: Instant) -> Result<(), Error> {
        if now < self.window_end {
            return Ok(());
        }
        if self.in_window < self.min_bytes {
            return Err(Error::stalled(format!(
                "a vendor file came too slowly: {} bytes in {} s",
                self.in_window,
                self.window.as_secs_f32()
            )));
        }
        self.window_end = now + self.window;
        self.in_window = 0;
        Ok(())
    }
}

#[cfg(test)]
#[path = "receive_tests.rs"]
mod tests;
