//! Vendor files in, result files out, streamed: nothing here holds a whole file in memory.
//! A vendor file is received ([`receive`]), its members are unpacked under limits ([`archive`]) and cut into records
//! ([`cut`]), whose rows are encoded ([`encode`]) and hashed on the way to the object store ([`storage`]), all at the same
//! time. Start at [`convert::convert`].

pub mod archive;
pub mod convert;
mod cut;
pub mod deliver;
pub mod encode;
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzzing;
pub mod joined;
pub mod kept;
pub mod receive;
mod spool;
pub mod storage;
mod text;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::exports::problem::Code;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;

/// How much of a vendor's data is taken before it is refused. The defaults lie far above what the vendors document
/// and below what would harm the machine; disk use is bounded by `max_file_bytes`, memory by `max_record_bytes`.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of one vendor file as received. 64 GiB: at 400 bytes a packed user, some 160 million users.
    pub max_file_bytes: u64,
    /// Bytes of all members of all files of one export, unpacked.
    pub max_unpacked_bytes: u64,
    /// Unpacked bytes per packed byte. Deflate can reach 1032; user records that differ only in their ids reach about
    /// 100, because each id costs its own entropy.
    pub max_ratio: u64,
    /// The ratio is judged only after this many unpacked bytes: a short run of equal records is no bomb.
    pub ratio_floor_bytes: u64,
    /// Entries of one archive, folders included. 20,000 members of 5,000 users are 100 million users; the list of
    /// entries is in memory, a few hundred bytes each.
    pub max_entries: usize,
    /// Bytes of one record, that is of one line without its end.
    pub max_record_bytes: usize,
    /// Bytes of one result file. S3 takes at most 10,000 parts and ours have 8 MiB, hence a little under 78 GiB.
    pub max_result_bytes: u64,
    /// A result is cut into files of about this size, unless one is asked for.
    pub result_file_bytes: u64,
    /// Receiving must bring at least this many bytes in each `progress_window`, or it counts as stalled: a sender
    /// that drips one byte now and then never trips a read timeout.
    pub min_progress_bytes: u64,
    pub progress_window: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_file_bytes: 64 * GIB,
            max_unpacked_bytes: 256 * GIB,
            max_ratio: 250,
            ratio_floor_bytes: 8 * MIB,
            max_entries: 20_000,
            max_record_bytes: 16 * 1024 * 1024,
            max_result_bytes: 72 * GIB,
            result_file_bytes: 256 * MIB,
            min_progress_bytes: 4 * KIB,
            progress_window: Duration::from_mins(1),
        }
    }
}

/// What has been done so far, readable while it goes on. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct Meter(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    records: AtomicU64,
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
    files_done: AtomicU32,
    unreadable_times: AtomicU64,
}

impl Meter {
    /// Records converted.
    pub fn records(&self) -> u64 {
        self.0.records.load(Ordering::Relaxed)
    }

    /// Bytes received from the vendor.
    pub fn bytes_read(&self) -> u64 {
        self.0.bytes_read.load(Ordering::Relaxed)
    }

    /// Bytes of result files handed to the object store.
    pub fn bytes_written(&self) -> u64 {
        self.0.bytes_written.load(Ordering::Relaxed)
    }

    /// Vendor files converted to their end.
    pub fn files_done(&self) -> u32 {
        self.0.files_done.load(Ordering::Relaxed)
    }

    /// Dates and times that could not be read.
    pub fn unreadable_times(&self) -> u64 {
        self.0.unreadable_times.load(Ordering::Relaxed)
    }

    fn count_unreadable_times(&self, count: u64) {
        self.0.unreadable_times.fetch_add(count, Ordering::Relaxed);
    }

    fn count_records(&self, count: u64) {
        self.0.records.fetch_add(count, Ordering::Relaxed);
    }

    fn count_read(&self, bytes: usize) {
        self.0.bytes_read.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn count_written(&self, bytes: usize) {
        self.0.bytes_written.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn count_file(&self) {
        self.0.files_done.fetch_add(1, Ordering::Relaxed);
    }
}

/// The source of [`Error::stopped`].
#[derive(Debug, thiserror::Error)]
#[error("stopped: nobody waits for the result")]
struct Stopped;

/// Why no result came out. The message may be shown to callers: it names positions, never a record, a member's name,
/// a link or a storage address. The source, if any, is for the log.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    pub code: Code,
    pub message: String,
    /// Whether fetching the vendor's file again may end better: yes for damage on the way and for our own storage,
    /// no for data that are complete and yet unreadable or beyond a limit.
    pub fetch_again: bool,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    fn new(code: Code, fetch_again: bool, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), fetch_again, source: None }
    }

    /// The data broke on the way: cut short or altered.
    fn damaged(message: impl Into<String>) -> Self {
        Self::new(Code::VendorMalformedData, true, message)
    }

    /// The data arrived as the vendor made them, and cannot be read.
    fn unreadable(message: impl Into<String>) -> Self {
        Self::new(Code::VendorMalformedData, false, message)
    }

    fn limit(message: impl Into<String>) -> Self {
        Self::new(Code::ArchiveLimitExceeded, false, message)
    }

    fn stalled(message: impl Into<String>) -> Self {
        Self::new(Code::VendorStalled, true, message)
    }

    /// Our own disk or object store failed.
    pub fn storing(message: impl Into<String>, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { source: Some(source.into()), ..Self::new(Code::DeliveryFailed, true, message) }
    }

    /// Nobody waits for the outcome any more.
    fn stopped() -> Self {
        Self { source: Some(Stopped.into()), ..Self::new(Code::Internal, true, Stopped.to_string()) }
    }

    /// Whether it only says that another thread, task or caller has ended before.
    pub fn is_stopped(&self) -> bool {
        self.source.as_ref().is_some_and(|source| source.is::<Stopped>())
    }

    /// Carries this error through code that speaks [`io::Error`]; [`Error::carried`] takes it out again.
    fn into_io(self) -> io::Error {
        io::Error::other(self)
    }

    /// The error that [`Error::into_io`] put in, or the I/O error itself.
    fn carried(error: io::Error) -> Result<Self, io::Error> {
        error.downcast::<Self>()
    }
}
