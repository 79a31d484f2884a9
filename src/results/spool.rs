//! Receiving one vendor file to a temporary file without a name, so that nothing is left when the process dies.
//! ZIP needs random access, hence the detour over the disk.

use std::{
    fmt,
    fs::File,
    io::Seek,
    path::Path,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{StreamExt, stream::BoxStream};
use tokio::io::{AsyncWriteExt, BufWriter};

use super::{Error, Limits, Meter};

/// Bytes collected before they go to the disk: network chunks are small, and each write is a hop to another thread.
const WRITE_BUFFER: usize = 256 * 1024;

/// A vendor file on our disk, complete as far as its sender said. It vanishes when dropped.
#[derive(Debug)]
pub struct Spooled {
    /// Positioned at its start.
    pub file: File,
    pub bytes: u64,
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

/// Receives `body` into an unnamed file in `folder`, which must exist.
///
/// # Errors
/// [`ReceiveError::Vendor`] when the body fails; else `archive_limit_exceeded` past `max_file_bytes` (before the first
/// byte if `length` says so already), `vendor_malformed_data` when the body has not exactly `length` bytes,
/// `vendor_stalled` when less than `min_progress_bytes` come within `progress_window`, `delivery_failed` when the disk
/// fails.
pub async fn spool<E: fmt::Display + fmt::Debug>(
    length: Option<u64>,
    mut body: BoxStream<'static, Result<Bytes, E>>,
    folder: &Path,
    limits: &Limits,
    meter: &Meter,
) -> Result<Spooled, ReceiveError<E>> {
    let cap = limits.max_file_bytes;
    let over = || Error::limit(format!("a vendor file has more than {cap} bytes"));
    if length.is_some_and(|length| length > cap) {
        return Err(over().into());
    }
    let mut out = BufWriter::with_capacity(WRITE_BUFFER, tokio::fs::File::from_std(create(folder).await?));
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
        out.write_all(&chunk).await.map_err(disk)?;
        pace.excuse(received.elapsed());
    }
    if let Some(length) = length.filter(|length| bytes < *length) {
        return Err(Error::damaged(format!("a vendor file ended after {bytes} of {length} bytes")).into());
    }
    out.flush().await.map_err(disk)?;
    let mut file = out.into_inner().into_std().await;
    file.rewind().map_err(disk)?;
    Ok(Spooled { file, bytes })
}

async fn create(folder: &Path) -> Result<File, Error> {
    let folder = folder.to_owned();
    tokio::task::spawn_blocking(move || tempfile::tempfile_in(folder))
        .await
        .map_err(|error| Error::storing("a temporary file could not be made", error))?
        .map_err(|error| Error::storing("a temporary file could not be made", error))
}

fn disk(error: std::io::Error) -> Error {
    Error::storing("a vendor file could not be written to the local disk", error)
}

/// Notices a sender that sends, but too little: each window must bring its minimum. Time we spend on writing is ours
/// and not counted.
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
mod tests {
    use std::io::Read;

    use futures_util::stream;

    use super::*;
    use crate::exports::problem::Code;

    fn body(chunks: &[&'static [u8]]) -> BoxStream<'static, Result<Bytes, String>> {
        let chunks: Vec<_> = chunks.iter().map(|chunk| Ok(Bytes::from_static(chunk))).collect();
        stream::iter(chunks).boxed()
    }

    async fn receive(
        length: Option<u64>,
        body: BoxStream<'static, Result<Bytes, String>>,
        limits: &Limits,
        meter: &Meter,
    ) -> Result<Spooled, ReceiveError<String>> {
        spool(length, body, &std::env::temp_dir(), limits, meter).await
    }

    fn error(outcome: Result<Spooled, ReceiveError<String>>) -> Error {
        match outcome {
            Err(ReceiveError::Results(error)) => error,
            other => panic!("expected an error of this room, got {other:?}"),
        }
    }

    #[tokio::test]
    async fn a_file_is_kept_whole_and_leaves_no_name_behind() {
        let folder = tempfile::tempdir().unwrap();
        let meter = Meter::default();
        let chunks = body(&[b"abc", b"", b"def"]);
        let mut spooled = spool(Some(6), chunks, folder.path(), &Limits::default(), &meter).await.unwrap();
        let mut text = String::new();
        spooled.file.read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), spooled.bytes, meter.bytes_read()), ("abcdef", 6, 6));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_body_shorter_or_longer_than_announced_is_damaged() {
        for length in [5, 7] {
            let outcome = receive(Some(length), body(&[b"abc", b"def"]), &Limits::default(), &Meter::default()).await;
            let error = error(outcome);
            assert_eq!((error.code, error.fetch_again), (Code::VendorMalformedData, true), "{length}");
        }
    }

    #[tokio::test]
    async fn the_size_cap_holds_with_and_without_an_announced_length() {
        let limits = Limits { max_file_bytes: 5, ..Limits::default() };
        let meter = Meter::default();
        let announced = error(receive(Some(6), body(&[b"abcdef"]), &limits, &meter).await);
        assert_eq!((announced.code, meter.bytes_read()), (Code::ArchiveLimitExceeded, 0));
        let found = error(receive(None, stream::repeat(Ok(Bytes::from_static(b"ab"))).boxed(), &limits, &meter).await);
        assert_eq!((found.code, found.fetch_again, meter.bytes_read()), (Code::ArchiveLimitExceeded, false, 6));
    }

    #[tokio::test]
    async fn the_senders_own_error_is_handed_back() {
        let chunks = stream::iter([Ok(Bytes::from_static(b"a")), Err("link expired".to_owned())]).boxed();
        let outcome = receive(None, chunks, &Limits::default(), &Meter::default()).await;
        assert!(matches!(outcome, Err(ReceiveError::Vendor(error)) if error == "link expired"));
    }

    #[tokio::test]
    async fn an_endless_drip_and_plain_silence_are_stalls() {
        let limits =
            Limits { min_progress_bytes: 1000, progress_window: Duration::from_millis(50), ..Limits::default() };
        let drip = stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            Some((Ok(Bytes::from_static(b"x")), ()))
        });
        let drip = error(receive(None, drip.boxed(), &limits, &Meter::default()).await);
        assert_eq!((drip.code, drip.fetch_again), (Code::VendorStalled, true));
        let silence = error(receive(None, stream::pending().boxed(), &limits, &Meter::default()).await);
        assert_eq!(silence.code, Code::VendorStalled);
    }

    #[test]
    fn a_slow_sender_passes_while_every_window_brings_its_minimum() {
        let start = Instant::now();
        let seconds = |n| start + Duration::from_secs(n);
        let mut pace = Pace::new(&Limits::default(), start);
        for minute in 1..=3 {
            pace.arrived(4096);
            pace.check(seconds(60 * minute)).unwrap();
        }
        pace.arrived(4095);
        pace.check(seconds(239)).unwrap();
        pace.excuse(Duration::from_secs(30));
        pace.check(seconds(269)).unwrap();
        assert_eq!(pace.check(seconds(270)).unwrap_err().code, Code::VendorStalled);
    }
}
