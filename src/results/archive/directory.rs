//! What a ZIP file claims about itself, judged before anything is inflated and before the list of entries is read
//! into memory: a directory that claims a billion entries would else be allocated for.

use std::io::{self, Read, Seek, SeekFrom};

use zip::{
    ZipArchive,
    read::{ArchiveOffset, Config},
};

use super::{super::Error, Limits, Place, broken_zip, reading};

const END_SIGNATURE: u32 = 0x0605_4b50;
const END_SIZE: usize = 22;
const LOCATOR_SIGNATURE: u32 = 0x0706_4b50;
const LOCATOR_SIZE: u64 = 20;
const END64_SIGNATURE: u32 = 0x0606_4b50;
const END64_SIZE: usize = 56;
/// Names, extra fields and comments of all entries together. 8 MiB are 400 bytes for each of 20,000 entries.
const MAX_DIRECTORY_BYTES: u64 = 8 * 1024 * 1024;

/// Opens the archive when its directory, its names and its sizes are within `limits`. `unpacked_left` is what the
/// export may still unpack.
///
/// The end record must end the file and the directory must abut it. Readers that search for another end record in
/// trailing data can be made to see different members; such files are refused as unreadable.
pub(super) fn open<R: Read + Seek>(
    mut reader: R,
    place: Place,
    limits: &Limits,
    unpacked_left: u64,
) -> Result<ZipArchive<R>, Error> {
    let claims = Claims::read(&mut reader)
        .map_err(|error| reading(place, error))?
        .ok_or_else(|| Error::damaged(format!("{place}: the archive has no directory at its end")))?;
    if claims.entries > limits.max_entries as u64 || claims.directory_bytes > MAX_DIRECTORY_BYTES {
        return Err(Error::limit(format!("{place}: the archive has more than {} entries", limits.max_entries)));
    }
    if claims.directory_start.checked_add(claims.directory_bytes) != Some(claims.directory_end) {
        return Err(Error::damaged(format!("{place}: the archive's directory does not end where the archive ends")));
    }
    let config = Config { archive_offset: ArchiveOffset::Known(0) };
    let mut archive = ZipArchive::with_config(config, reader).map_err(|error| broken_zip(place, error))?;
    if archive.has_duplicate_names() || archive.len() as u64 != claims.entries {
        return Err(Error::unreadable(format!("{place}: the archive's directory contradicts itself")));
    }
    check_entries(&archive, place, limits, unpacked_left)?;
    if archive.has_overlapping_entries().map_err(|error| broken_zip(place, error))? {
        return Err(Error::limit(format!("{place}: entries of the archive overlap")));
    }
    Ok(archive)
}

/// Names, kinds and declared sizes. Inflating more than declared fails later, so the declared sizes do bound it.
fn check_entries<R>(archive: &ZipArchive<R>, place: Place, limits: &Limits, unpacked_left: u64) -> Result<(), Error>
where
    R: Read + Seek,
{
    let metadata = archive.metadata();
    let (mut packed, mut unpacked) = (0u64, 0u64);
    for index in 0..metadata.len() {
        let entry = metadata.entry(index).map_err(|error| broken_zip(place, error))?;
        let place = place.member(index + 1);
        if is_suspicious(entry.name_raw()) || entry.is_symlink() {
            return Err(Error::limit(format!("{place}: the member's name points outside the archive")));
        }
        if entry.encrypted() {
            return Err(Error::unreadable(format!("{place}: the member is encrypted")));
        }
        packed = packed.saturating_add(entry.compressed_size());
        unpacked = unpacked.saturating_add(entry.size());
        if unpacked > unpacked_left {
            return Err(unpacked_limit(place, limits));
        }
        if exceeds_ratio(limits, entry.compressed_size(), entry.size()) {
            return Err(ratio_limit(place, limits));
        }
    }
    if exceeds_ratio(limits, packed, unpacked) {
        return Err(ratio_limit(place, limits));
    }
    Ok(())
}

pub(super) fn exceeds_ratio(limits: &Limits, packed: u64, unpacked: u64) -> bool {
    unpacked > limits.ratio_floor_bytes && unpacked / limits.max_ratio.max(1) > packed
}

pub(super) fn ratio_limit(place: Place, limits: &Limits) -> Error {
    Error::limit(format!("{place}: it unpacks to more than {} times its size", limits.max_ratio))
}

pub(super) fn unpacked_limit(place: Place, limits: &Limits) -> Error {
    Error::limit(format!("{place}: the export unpacks to more than {} bytes", limits.max_unpacked_bytes))
}

/// Names are never used as paths here; one that would escape a folder says that somebody tries something.
fn is_suspicious(name: &[u8]) -> bool {
    name.is_empty()
        || name.starts_with(b"/")
        || name.get(1) == Some(&b':')
        || name.iter().any(|byte| matches!(byte, b'\\' | 0))
        || name.split(|byte| *byte == b'/').any(|part| part == b"..")
}

/// What the records at the end of a ZIP file say about its directory.
struct Claims {
    entries: u64,
    directory_start: u64,
    directory_bytes: u64,
    /// Where the first end record begins.
    directory_end: u64,
}

impl Claims {
    /// `None` when the file does not end in an end record.
    fn read(reader: &mut (impl Read + Seek)) -> io::Result<Option<Self>> {
        let file_bytes = reader.seek(SeekFrom::End(0))?;
        let tail_bytes = file_bytes.min((END_SIZE + usize::from(u16::MAX)) as u64);
        let tail_start = file_bytes - tail_bytes;
        let tail = read_at(reader, tail_start, tail_bytes)?;
        // The last signature in the file, as the reader behind us looks for it; its comment must end the file.
        let Some(at) = (0..=tail.len().saturating_sub(END_SIZE)).rev().find(|at| u32_at(&tail, *at) == END_SIGNATURE)
        else {
            return Ok(None);
        };
        let end = &tail[at..];
        if end.len() != END_SIZE + usize::from(u16_at(end, 20)) {
            return Ok(None);
        }
        let end_start = tail_start + at as u64;
        let claims = Self {
            entries: u64::from(u16_at(end, 10)),
            directory_start: u64::from(u32_at(end, 16)),
            directory_bytes: u64::from(u32_at(end, 12)),
            directory_end: end_start,
        };
        let may_be_zip64 = claims.entries == u64::from(u16::MAX)
            || claims.directory_bytes == u64::from(u32::MAX)
            || claims.directory_start == u64::from(u32::MAX);
        if !may_be_zip64 || end_start < LOCATOR_SIZE {
            return Ok(Some(claims));
        }
        let locator_start = end_start - LOCATOR_SIZE;
        let locator = read_at(reader, locator_start, LOCATOR_SIZE)?;
        if u32_at(&locator, 0) == LOCATOR_SIGNATURE {
            return Self::read_zip64(reader, u64_at(&locator, 8), locator_start);
        }
        Ok(Some(claims))
    }

    fn read_zip64(reader: &mut (impl Read + Seek), start: u64, locator_start: u64) -> io::Result<Option<Self>> {
        // Without room for private extensions, which nobody writes.
        if start.checked_add(END64_SIZE as u64) != Some(locator_start) {
            return Ok(None);
        }
        let end = read_at(reader, start, END64_SIZE as u64)?;
        if u32_at(&end, 0) != END64_SIGNATURE {
            return Ok(None);
        }
        Ok(Some(Self {
            entries: u64_at(&end, 32),
            directory_start: u64_at(&end, 48),
            directory_bytes: u64_at(&end, 40),
            directory_end: start,
        }))
    }
}

fn read_at(reader: &mut (impl Read + Seek), start: u64, bytes: u64) -> io::Result<Vec<u8>> {
    reader.seek(SeekFrom::Start(start))?;
    let mut read = Vec::new();
    reader.take(bytes).read_to_end(&mut read)?;
    Ok(read)
}

/// The little-endian number at `at`; zero where the bytes end, which is no signature.
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|slice| slice.try_into().ok()).map_or(0, u64::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|slice| slice.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|slice| slice.try_into().ok()).map_or(0, u16::from_le_bytes)
}
