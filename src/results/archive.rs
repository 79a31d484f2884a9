//! Unpacking a vendor file under limits: ZIP, gzip or plain, told by its first bytes, never by its name. Its members
//! come one after another as readers; start at [`Unpacker::for_each_member`].
//!
//! Every regular entry of a ZIP file counts as records, also `__MACOSX/` and dot files: no vendor writes those, and
//! passing over an entry could lose records in silence. Only folders are passed over.

mod directory;
#[cfg(test)]
mod tests;

use std::{
    cell::Cell,
    fmt,
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom},
};

use flate2::bufread::MultiGzDecoder;
use zip::result::ZipError;

use super::{Error, Limits, text::Utf16};

/// Read from disk and handed to the line splitter in pieces of this size.
const BUFFER: usize = 64 * 1024;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// Little-endian. No UTF-8 begins so.
const UTF_16_MARK: &[u8] = b"\xff\xfe";
/// Bytes looked at before a member is read: its kind, its marks, and what stands between the cells of a first line.
const HEAD: u64 = 8 * 1024;

/// What a file is, by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// No bytes at all: no records.
    Empty,
    Zip,
    Gzip,
    /// Anything else, taken for one record a line.
    Plain,
}

impl Kind {
    /// Tells what `file` is and rewinds it.
    pub fn sniff(file: &mut File) -> io::Result<Self> {
        file.rewind()?;
        let kind = Self::of(&read_head(file)?);
        file.rewind()?;
        Ok(kind)
    }

    fn of(head: &[u8]) -> Self {
        match head {
            [] => Self::Empty,
            [b'P', b'K', ..] => Self::Zip,
            [0x1f, 0x8b, ..] => Self::Gzip,
            _ => Self::Plain,
        }
    }
}

/// Where reading stands, as error messages say it. Names are left out: they may tell something about users.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Counts from 1, in the vendor's order.
    file: usize,
    /// Counts from 1, folders included; `None` for a file that is no archive.
    member: Option<usize>,
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

/// Unpacks the files of one export; the bytes unpacked add up over all of them.
pub struct Unpacker<'a> {
    limits: &'a Limits,
    /// Asked while reading; `true` ends it.
    stop: &'a dyn Fn() -> bool,
    unpacked: u64,
}

/// Reads one member to its end, or fails.
pub type Visit<'v> = dyn FnMut(Place, &mut dyn BufRead) -> Result<(), Error> + 'v;

impl<'a> Unpacker<'a> {
    pub fn new(limits: &'a Limits, stop: &'a dyn Fn() -> bool) -> Self {
        Self { limits, stop, unpacked: 0 }
    }

    /// Hands the members of a file to `visit`, which must read each to its end: only there are checksums compared.
    /// `number` is the file's number in messages, from 1.
    ///
    /// # Errors
    /// What `visit` fails with; `vendor_malformed_data` for damaged, encrypted or unknown data;
    /// `archive_limit_exceeded` for everything [`Limits`] names, for members that are archives themselves, for
    /// overlapping entries and for names that point outside.
    pub fn for_each_member(&mut self, mut file: File, number: usize, visit: &mut Visit<'_>) -> Result<(), Error> {
        let kind = Kind::sniff(&mut file).map_err(|error| reading(Place::file(number, false), error))?;
        let place = Place::file(number, kind != Kind::Plain);
        let read = Cell::new(0);
        let file = BufReader::with_capacity(BUFFER, Watched { file, read: &read, stop: self.stop });
        match kind {
            Kind::Empty => Ok(()),
            Kind::Plain => self.visit(file, place, Packed::NotAtAll, visit),
            Kind::Gzip => self.visit(MultiGzDecoder::new(file), place, Packed::SoFar(&read), visit),
            Kind::Zip => self.zip(file, place, visit),
        }
    }

    fn zip(&mut self, file: BufReader<Watched<'_>>, place: Place, visit: &mut Visit<'_>) -> Result<(), Error> {
        let unpacked_left = self.limits.max_unpacked_bytes.saturating_sub(self.unpacked);
        let mut archive = directory::open(file, place, self.limits, unpacked_left)?;
        for index in 0..archive.len() {
            let place = place.member(index + 1);
            let member = archive.by_index(index).map_err(|error| broken_zip(place, error))?;
            if member.is_dir() && member.size() == 0 {
                continue;
            }
            let packed = Packed::Whole(member.compressed_size());
            self.visit(member, place, packed, visit)?;
        }
        Ok(())
    }

    fn visit(
        &mut self,
        inner: impl Read,
        place: Place,
        packed: Packed<'_>,
        visit: &mut Visit<'_>,
    ) -> Result<(), Error> {
        let mut guarded = Guarded { inner, place, packed, limits: self.limits, member: 0, total: &mut self.unpacked };
        let head = read_head(&mut guarded).map_err(|error| reading(place, error))?;
        let is_packed = !matches!(packed, Packed::NotAtAll);
        if is_packed && matches!(Kind::of(&head), Kind::Zip | Kind::Gzip) {
            return Err(Error::limit(format!("{place}: an archive within an archive")));
        }
        if let Some(text) = head.strip_prefix(UTF_16_MARK) {
            return visit(place, &mut BufReader::with_capacity(BUFFER, Utf16::new(text.chain(guarded), place)));
        }
        let text = head.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&head);
        visit(place, &mut BufReader::with_capacity(BUFFER, text.chain(guarded)))
    }
}

/// The first bytes, enough to tell what it is.
fn read_head(reader: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    reader.take(HEAD).read_to_end(&mut head)?;
    Ok(head)
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

fn broken_zip(place: Place, error: ZipError) -> Error {
    match error {
        ZipError::Io(error) => reading(place, error),
        ZipError::UnsupportedArchive(_) | ZipError::CompressionMethodNotSupported(_) => {
            Error::unreadable(format!("{place}: it is packed in a way that is not supported"))
        }
        _ => Error::damaged(format!("{place}: the archive is damaged")),
    }
}

/// The spooled file: counts what is read of it, and ends when nobody waits any more.
struct Watched<'a> {
    file: File,
    read: &'a Cell<u64>,
    stop: &'a dyn Fn() -> bool,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if (self.stop)() {
            return Err(Error::stopped().into_io());
        }
        let bytes = self.file.read(buffer)?;
        self.read.set(self.read.get() + bytes as u64);
        Ok(bytes)
    }
}

impl Seek for Watched<'_> {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.file.seek(position)
    }
}

/// How many bytes a member has packed.
#[derive(Clone, Copy)]
enum Packed<'a> {
    NotAtAll,
    Whole(u64),
    /// Read of the file until now.
    SoFar(&'a Cell<u64>),
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
    total: &'a mut u64,
}

impl<R: Read> Read for Guarded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.limits.max_unpacked_bytes.saturating_sub(*self.total).saturating_add(1);
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let bytes = self.inner.read(&mut buffer[..wanted])?;
        self.member += bytes as u64;
        *self.total += bytes as u64;
        if *self.total > self.limits.max_unpacked_bytes {
            return Err(directory::unpacked_limit(self.place, self.limits).into_io());
        }
        let packed = match self.packed {
            Packed::NotAtAll => return Ok(bytes),
            Packed::Whole(packed) => packed,
            Packed::SoFar(read) => read.get(),
        };
        if directory::exceeds_ratio(self.limits, packed, self.member) {
            return Err(directory::ratio_limit(self.place, self.limits).into_io());
        }
        Ok(bytes)
    }
}
