//! A ZIP file from its first byte to its last. Source of the layout: PKWARE's APPNOTE.TXT 6.3.10, sections 4.3 and 4.5.

use std::{
    io::{self, Read},
    sync::atomic::Ordering,
};

use crc32fast::Hasher;
use flate2::bufread::DeflateDecoder;

use super::{
    Packed, Place, Unpacker, Visitor,
    directory::{self, Entry, Listed, u16_at, u32_at},
    exceeds_ratio,
    input::Input,
    ratio_limit, reading, unpacked_limit,
};
use crate::results::{Error, spool};

pub(super) const LOCAL: [u8; 4] = *b"PK\x03\x04";
pub(super) const CENTRAL: [u8; 4] = *b"PK\x01\x02";
pub(super) const END: [u8; 4] = *b"PK\x05\x06";
pub(super) const END64: [u8; 4] = *b"PK\x06\x06";
const DESCRIPTOR: [u8; 4] = *b"PK\x07\x08";
const HEADER_REST: usize = 26;
const ENCRYPTED: u16 = 0x2041;
const HAS_DESCRIPTOR: u16 = 0x8;
const STORED: u16 = 0;
const DEFLATED: u16 = 8;

/// A member whose packed bytes are in memory.
#[derive(Debug)]
pub struct PackedMember {
    pub place: Place,
    bytes: Vec<u8>,
    entry: Entry,
}

impl PackedMember {
    /// Its text. Reading to the end compares length and checksum.
    ///
    /// # Errors
    /// As [`Unpacker::for_each_member`].
    pub fn open<'r>(&'r self, unpacker: &'r Unpacker<'_>) -> Result<impl Read + 'r, Error> {
        let bytes = self.bytes.as_slice();
        let inner = match self.entry.method {
            STORED => Checked::new(Inflater::Stored(bytes), self.place, Some(self.entry)),
            _ => Checked::new(Inflater::Deflated(DeflateDecoder::new(bytes)), self.place, Some(self.entry)),
        };
        unpacker.open(inner, self.place, Packed::Whole(self.entry.packed))
    }
}

/// Reads all entries of a ZIP file, then its directory.
pub(super) fn zip(
    unpacker: &Unpacker<'_>,
    mut input: Input<'_>,
    place: Place,
    visitor: &mut dyn Visitor,
) -> Result<(), Error> {
    let damaged = |error| reading(place, error);
    let mut seen: Vec<Entry> = Vec::new();
    // Known beforehand only where the rest of the file had to be kept.
    let mut listed: Option<Listed> = None;
    loop {
        let offset = input.at();
        let signature = input.array().map_err(damaged)?;
        match signature {
            LOCAL => {}
            CENTRAL | END | END64 => return directory::compare(&mut input, signature, offset, &seen, unpacker, place),
            _ => return Err(Error::damaged(format!("{place}: no entry begins where one should"))),
        }
        let place = place.member(seen.len() + 1);
        if seen.len() == unpacker.limits.max_entries {
            return Err(directory::too_many(place, unpacker.limits));
        }
        let header = Header::read(&mut input, offset, place)?;
        let mut entry = header.entry;
        if let Some(known) = listed.as_ref().and_then(|listed| listed.at(offset)) {
            if (known.method, known.name_hash) != (entry.method, entry.name_hash) {
                return Err(directory::contradiction(place));
            }
            entry = known;
        } else if header.has_descriptor && entry.method == STORED {
            // Nothing in the stream tells where its bytes end, so the rest is kept, and its directory asked.
            let start = input.at();
            let mut rest = spool::spool(&mut input, unpacker.spool_dir)?;
            let directory = Listed::read(&mut rest, start, unpacker.limits, place)?;
            entry = directory.at(offset).ok_or_else(|| directory::contradiction(place))?;
            listed = Some(directory);
            input = Input::starting_at(start, Box::new(rest));
        }
        if header.has_descriptor && entry.method == DEFLATED {
            entry = inflate_unknown(unpacker, &mut input, &header, place, visitor)?;
        } else {
            known_member(unpacker, &mut input, entry, place, header.is_folder, visitor)?;
            if header.has_descriptor {
                check_descriptor(&mut input, entry, place)?;
            }
        }
        seen.push(entry);
    }
}

/// A member whose sizes stand before it.
fn known_member(
    unpacker: &Unpacker<'_>,
    input: &mut Input<'_>,
    entry: Entry,
    place: Place,
    is_folder: bool,
    visitor: &mut dyn Visitor,
) -> Result<(), Error> {
    let (limits, totals) = (unpacker.limits, unpacker.totals);
    if is_folder && entry.unpacked == 0 && entry.packed == 0 {
        return Ok(());
    }
    if exceeds_ratio(limits, entry.packed, entry.unpacked) {
        return Err(ratio_limit(place, limits));
    }
    if totals.unpacked.load(Ordering::Relaxed).saturating_add(entry.unpacked) > limits.max_unpacked_bytes {
        return Err(unpacked_limit(place, limits));
    }
    totals.packed.fetch_add(entry.packed, Ordering::Relaxed);
    if entry.packed <= unpacker.small_member_bytes {
        let bytes = input.vec(usize::try_from(entry.packed).unwrap_or(usize::MAX));
        let bytes = bytes.map_err(|error| reading(place, error))?;
        return visitor.packed(PackedMember { place, bytes, entry });
    }
    let mut packed = io::BufReader::with_capacity(super::BUFFER, input.take(entry.packed));
    let inner = match entry.method {
        STORED => Checked::new(Inflater::Stored(&mut packed), place, Some(entry)),
        _ => Checked::new(Inflater::Deflated(DeflateDecoder::new(&mut packed)), place, Some(entry)),
    };
    unpacker.visit(inner, place, Packed::Whole(entry.packed), visitor)
}

/// A member whose sizes stand behind it.
fn inflate_unknown(
    unpacker: &Unpacker<'_>,
    input: &mut Input<'_>,
    header: &Header,
    place: Place,
    visitor: &mut dyn Visitor,
) -> Result<Entry, Error> {
    let start = input.at();
    let read = input.taken();
    let before = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let packed = Since { start, read: &read, bytes: &before, inner: DeflateDecoder::new(&mut *input) };
    let mut checked = Checked::new(packed, place, None);
    unpacker.visit(&mut checked, place, Packed::SoFar(&before), visitor)?;
    let (crc32, length) = checked.found();
    let entry = Entry { crc32, unpacked: length, packed: input.at() - start, ..header.entry };
    unpacker.totals.packed.fetch_add(entry.packed, Ordering::Relaxed);
    check_descriptor(input, entry, place)?;
    Ok(entry)
}

/// Keeps count of what a member has packed so far.
struct Since<'a, R> {
    start: u64,
    read: &'a std::sync::atomic::AtomicU64,
    bytes: &'a std::sync::atomic::AtomicU64,
    inner: R,
}

impl<R: Read> Read for Since<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.inner.read(buffer)?;
        self.bytes.store(self.read.load(Ordering::Relaxed) - self.start, Ordering::Relaxed);
        Ok(bytes)
    }
}

/// Takes a data descriptor: with or without its signature, with sizes of four or eight bytes, as long as it says what
/// was found.
fn check_descriptor(input: &mut Input<'_>, entry: Entry, place: Place) -> Result<(), Error> {
    let damaged = |error| reading(place, error);
    let head = input.head(4).map_err(damaged)?;
    if head == DESCRIPTOR && entry.crc32.to_le_bytes() != DESCRIPTOR {
        input.array::<4>().map_err(damaged)?;
    }
    let crc32 = entry.crc32.to_le_bytes();
    let long = [&crc32[..], &entry.packed.to_le_bytes(), &entry.unpacked.to_le_bytes()].concat();
    #[expect(clippy::cast_possible_truncation, reason = "the short form has the low half")]
    let short = [&crc32[..], &(entry.packed as u32).to_le_bytes(), &(entry.unpacked as u32).to_le_bytes()].concat();
    let head = input.head(long.len()).map_err(damaged)?;
    let bytes = if head == long {
        long.len()
    } else if head.starts_with(&short) {
        short.len()
    } else if head.len() < short.len() {
        return Err(reading(place, io::ErrorKind::UnexpectedEof.into()));
    } else {
        return Err(Error::damaged(format!("{place}: its checksum or size is wrong")));
    };
    input.vec(bytes).map_err(damaged).map(drop)
}

/// What stands before a member.
struct Header {
    entry: Entry,
    has_descriptor: bool,
    is_folder: bool,
}

impl Header {
    /// Reads the rest of a local header, after its signature.
    fn read(input: &mut Input<'_>, offset: u64, place: Place) -> Result<Self, Error> {
        let damaged = |error| reading(place, error);
        let fixed: [u8; HEADER_REST] = input.array().map_err(damaged)?;
        let (flags, method) = (u16_at(&fixed, 2), u16_at(&fixed, 4));
        let name = input.vec(usize::from(u16_at(&fixed, 22))).map_err(damaged)?;
        let extra = input.vec(usize::from(u16_at(&fixed, 24))).map_err(damaged)?;
        directory::check_name(&name, place)?;
        if flags & ENCRYPTED != 0 {
            return Err(Error::unreadable(format!("{place}: the member is encrypted")));
        }
        if ![STORED, DEFLATED].contains(&method) {
            return Err(Error::unreadable(format!("{place}: it is packed in a way that is not supported")));
        }
        let (mut packed, mut unpacked) = (u64::from(u32_at(&fixed, 14)), u64::from(u32_at(&fixed, 18)));
        directory::widen(&extra, &mut [&mut unpacked, &mut packed]);
        let name_hash = directory::hash(&name);
        let entry = Entry { offset, name_hash, method, crc32: u32_at(&fixed, 10), packed, unpacked };
        Ok(Self { entry, has_descriptor: flags & HAS_DESCRIPTOR != 0, is_folder: name.ends_with(b"/") })
    }
}

/// The bytes of a member that has these packed bytes and no more.
enum Inflater<R: io::BufRead> {
    Stored(R),
    Deflated(DeflateDecoder<R>),
}

impl<R: io::BufRead> Read for Inflater<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Stored(bytes) => bytes.read(buffer),
            Self::Deflated(decoder) => match decoder.read(buffer)? {
                0 if !buffer.is_empty() && !decoder.get_mut().fill_buf()?.is_empty() => {
                    Err(io::Error::new(io::ErrorKind::InvalidData, "the data end before the member does"))
                }
                bytes => Ok(bytes),
            },
        }
    }
}

/// Computes the checksum and counts; at the end compares both with what was announced, if anything was.
struct Checked<R> {
    inner: R,
    place: Place,
    announced: Option<Entry>,
    hasher: Hasher,
    bytes: u64,
}

impl<R> Checked<R> {
    fn new(inner: R, place: Place, announced: Option<Entry>) -> Self {
        Self { inner, place, announced, hasher: Hasher::new(), bytes: 0 }
    }

    /// Checksum and length so far.
    fn found(self) -> (u32, u64) {
        (self.hasher.finalize(), self.bytes)
    }
}

impl<R: Read> Read for Checked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..bytes]);
        self.bytes += bytes as u64;
        let Some(announced) = self.announced else { return Ok(bytes) };
        let is_over = self.bytes > announced.unpacked;
        let is_end = bytes == 0 && !buffer.is_empty();
        if is_over || (is_end && (self.hasher.clone().finalize(), self.bytes) != (announced.crc32, announced.unpacked))
        {
            return Err(Error::damaged(format!("{}: its checksum or size is wrong", self.place)).into_io());
        }
        Ok(bytes)
    }
}
