//! Unpacking a vendor file as it comes, under limits: ZIP, gzip, zstd or plain, told by its first bytes, never by its
//! name. Nothing is kept on disk and nothing is read twice; start at [`Unpacker::for_each_member`].
//!
//! A ZIP file is read from its local headers on, with or without data descriptors. Its directory, which comes last, must
//! then tell the same story ([`directory`]): an export is complete only after that, so nobody sees records of a file that
//! contradicts itself.
//!
//! Every regular entry of a ZIP file counts as records, also `__MACOSX/` and dot files: no vendor writes those, and
//! passing over an entry could lose records in silence. Only folders are passed over.

mod directory;
mod input;
mod stream;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    io::{self, BufRead, BufReader, Read},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use flate2::bufread::MultiGzDecoder;

use self::input::Input;
pub use self::stream::PackedMember;
use super::{Error, Limits, text::Utf16};

/// Read of a file and handed on in pieces of this size.
const BUFFER: usize = 128 * 1024;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// Little-endian. No UTF-8 begins so.
const UTF_16_MARK: &[u8] = b"\xff\xfe";
/// Bytes looked at before a member is read: its kind, its marks, and what stands between the cells of a first line.
const HEAD: u64 = 8 * 1024;
/// The most memory that unpacking zstd may ask for, as a power of two: what its highest ordinary level needs.
const ZSTD_WINDOW_LOG: u32 = 23;

/// What a file is, by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// No bytes at all: no records.
    Empty,
    Zip,
    Gzip,
    Zstd,
    /// Anything else, taken for text.
    Plain,
}

impl Kind {
    /// Tells what a file is that begins with `head`; four bytes are enough.
    pub fn of(head: &[u8]) -> Self {
        match head {
            [] => Self::Empty,
            // No text goes on with a control character.
            [b'P', b'K'] | [b'P', b'K', 0..=8, ..] => Self::Zip,
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            _ => Self::Plain,
        }
    }
}

/// Where reading stands, as error messages say it. Names are left out: they may tell something about users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Counts from 1, in the vendor's order.
    pub file: usize,
    /// Counts from 1, folders included; `None` for a file that is no archive.
    pub member: Option<usize>,
    /// Whether a checksum covers the bytes, so that a record that cannot be read was sent like that.
    checked: bool,
}

impl Place {
    pub(super) const fn file(file: usize, checked: bool) -> Self {
        Self { file, member: None, checked }
    }

    const fn member(self, member: usize) -> Self {
        Self { member: Some(member), ..self }
    }

    /// A record that cannot be read. Fetching again helps only where damage on the way would go unnoticed.
    pub(super) fn bad_record(self, line: u64, offset: u64, why: impl fmt::Display) -> Error {
        let message = format!("{self}, line {line} (from byte {offset}): {why}");
        if self.checked { Error::unreadable(message) } else { Error::damaged(message) }
    }

    /// A record beyond the limit.
    pub(super) fn long_record(self, line: u64, offset: u64, limits: &Limits) -> Error {
        let max = limits.max_record_bytes;
        Error::limit(format!("{self}, line {line} (from byte {offset}): the record has more than {max} bytes"))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vendor file {}", self.file)?;
        self.member.map_or(Ok(()), |member| write!(f, ", member {member}"))
    }
}

/// What all files of one export unpack to, counted by whoever unpacks.
#[derive(Debug, Default)]
pub struct Totals {
    packed: AtomicU64,
    unpacked: AtomicU64,
}

/// Unpacks the files of one export.
#[derive(Clone, Copy)]
pub struct Unpacker<'a> {
    pub limits: &'a Limits,
    pub totals: &'a Totals,
    /// Members of an archive with at most this many packed bytes are handed over as they are.
    pub small_member_bytes: u64,
    /// For the rare archive that cannot be streamed.
    pub spool_dir: &'a Path,
}

/// What takes the members of a file.
pub trait Visitor {
    /// A small member, still packed: any thread may unpack it.
    fn packed(&mut self, member: PackedMember) -> Result<(), Error>;

    /// A member to be read now and to its end: only there are checksums compared.
    fn unpacked(&mut self, place: Place, bytes: &mut dyn Read) -> Result<(), Error>;
}

impl<'a> Unpacker<'a> {
    /// Hands the members of a file to `visitor`. `number` is the file's number in messages, from 1.
    ///
    /// # Errors
    /// What the visitor fails with; `vendor_malformed_data` for damaged, encrypted or unknown data;
    /// `archive_limit_exceeded` for everything [`Limits`] names, for members that are archives themselves, for
    /// overlapping entries and for names that point outside.
    pub fn for_each_member(
        &self,
        file: Box<dyn Read + Send + 'a>,
        number: usize,
        visitor: &mut dyn Visitor,
    ) -> Result<(), Error> {
        let mut input = Input::new(file);
        let kind = Kind::of(input.head(4).map_err(|error| reading(Place::file(number, false), error))?);
        let place = Place::file(number, kind != Kind::Plain);
        let read = input.taken();
        match kind {
            Kind::Empty => Ok(()),
            Kind::Plain => self.visit(input, place, Packed::NotAtAll, visitor),
            Kind::Gzip => self.visit(MultiGzDecoder::new(input), place, Packed::SoFar(&read), visitor),
            Kind::Zstd => {
                let mut decoder = zstd::Decoder::with_buffer(input).map_err(|error| reading(place, error))?;
                decoder.window_log_max(ZSTD_WINDOW_LOG).map_err(|error| reading(place, error))?;
                self.visit(decoder, place, Packed::SoFar(&read), visitor)
            }
            Kind::Zip => stream::zip(self, input, place, visitor),
        }
    }

    fn visit(
        &self,
        inner: impl Read,
        place: Place,
        packed: Packed<'_>,
        visitor: &mut dyn Visitor,
    ) -> Result<(), Error> {
        visitor.unpacked(place, &mut self.open(inner, place, packed)?)
    }

    /// The text of a member: guarded, without its mark, as UTF-8.
    fn open<'r>(&'r self, inner: impl Read + 'r, place: Place, packed: Packed<'r>) -> Result<impl Read + 'r, Error> {
        let mut guarded = Guarded { inner, place, packed, limits: self.limits, member: 0, totals: self.totals };
        let mut head = Vec::new();
        (&mut guarded).take(HEAD).read_to_end(&mut head).map_err(|error| reading(place, error))?;
        let is_packed = !matches!(packed, Packed::NotAtAll);
        if is_packed && matches!(Kind::of(&head), Kind::Zip | Kind::Gzip | Kind::Zstd) {
            return Err(Error::limit(format!("{place}: an archive within an archive")));
        }
        Ok(if head.starts_with(UTF_16_MARK) {
            head.drain(..UTF_16_MARK.len());
            Text::Utf16(Box::new(Utf16::new(io::Cursor::new(head).chain(guarded), place)))
        } else {
            if head.starts_with(BYTE_ORDER_MARK) {
                head.drain(..BYTE_ORDER_MARK.len());
            }
            Text::Utf8(io::Cursor::new(head).chain(guarded))
        })
    }
}

/// The text of a member.
enum Text<R> {
    Utf8(io::Chain<io::Cursor<Vec<u8>>, R>),
    Utf16(Box<Utf16<io::Chain<io::Cursor<Vec<u8>>, R>>>),
}

impl<R: Read> Read for Text<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Utf8(text) => text.read(buffer),
            Self::Utf16(text) => text.read(buffer),
        }
    }
}

/// Says what a failed read means; `place` is where it happened.
pub(super) fn reading(place: Place, error: io::Error) -> Error {
    match Error::carried(error) {
        Ok(own) => own,
        Err(error) if error.raw_os_error().is_some() => {
            Error::storing("a vendor file could not be read from the local disk", error)
        }
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Error::damaged(format!("{place}: it is cut short"))
        }
        Err(_) => Error::damaged(format!("{place}: the packed data are damaged")),
    }
}

/// A reader that is looked ahead of.
pub(super) fn buffered(bytes: &mut dyn Read) -> impl BufRead {
    BufReader::with_capacity(BUFFER, bytes)
}

/// How many bytes a member has packed.
#[derive(Clone, Copy)]
enum Packed<'a> {
    NotAtAll,
    Whole(u64),
    /// Read of the file until now.
    SoFar(&'a Arc<AtomicU64>),
}

/// Counts what comes out and fails at the first byte beyond a limit.
struct Guarded<'a, R> {
    inner: R,
    place: Place,
    packed: Packed<'a>,
    limits: &'a Limits,
    /// Unpacked of this member.
    member: u64,
    /// Unpacked of the whole export.
    totals: &'a Totals,
}

impl<R: Read> Read for Guarded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.limits.max_unpacked_bytes.saturating_sub(self.totals.unpacked.load(Ordering::Relaxed));
        let wanted = usize::try_from(left.saturating_add(1)).unwrap_or(usize::MAX).min(buffer.len());
        let bytes = self.inner.read(&mut buffer[..wanted])?;
        self.member += bytes as u64;
        let unpacked = self.totals.unpacked.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
        if unpacked > self.limits.max_unpacked_bytes {
            return Err(unpacked_limit(self.place, self.limits).into_io());
        }
        let exceeds = match self.packed {
            Packed::NotAtAll => false,
            Packed::SoFar(read) => exceeds_ratio(self.limits, read.load(Ordering::Relaxed), self.member),
            // Also all members together: each of many may stay below the floor.
            Packed::Whole(packed) => {
                let all = self.totals.packed.load(Ordering::Relaxed);
                exceeds_ratio(self.limits, packed, self.member) || exceeds_ratio(self.limits, all, unpacked)
            }
        };
        if exceeds {
            return Err(ratio_limit(self.place, self.limits).into_io());
        }
        Ok(bytes)
    }
}

fn exceeds_ratio(limits: &Limits, packed: u64, unpacked: u64) -> bool {
    unpacked > limits.ratio_floor_bytes && unpacked / limits.max_ratio.max(1) > packed
}

fn ratio_limit(place: Place, limits: &Limits) -> Error {
    Error::limit(format!("{place}: it unpacks to more than {} times its size", limits.max_ratio))
}

fn unpacked_limit(place: Place, limits: &Limits) -> Error {
    Error::limit(format!("{place}: the export unpacks to more than {} bytes", limits.max_unpacked_bytes))
}
