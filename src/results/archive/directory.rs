//! What the end of a ZIP file claims about its entries, held against what was read of them. Readers that trust the
//! directory and readers that trust the entries can be made to see different members; a file in which the two differ is
//! refused.

use std::{
    collections::HashMap,
    fs::File,
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Read, Seek, SeekFrom},
};

use super::{
    Place, Unpacker,
    input::Input,
    reading,
    stream::{CENTRAL, END, END64},
};
use crate::results::{Error, Limits};

const END_REST: usize = 18;
const END64_REST: usize = 52;
const LOCATOR: [u8; 4] = *b"PK\x06\x07";
const LOCATOR_REST: usize = 16;
const CENTRAL_REST: usize = 42;
/// Names, extra fields and comments of all entries together. 8 MiB are 400 bytes for each of 20,000 entries.
const MAX_DIRECTORY_BYTES: u64 = 8 * 1024 * 1024;
/// The extra field with sizes of eight bytes.
const ZIP64_EXTRA: u16 = 1;
/// Systems whose attributes hold Unix modes, and the mode of a symbolic link.
const UNIX: u8 = 3;
const SYMLINK: u32 = 0o120_000;

/// One entry: what its local header, its directory entry and its bytes must agree on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    /// Where its local header begins.
    pub(super) offset: u64,
    pub(super) name_hash: u64,
    pub(super) method: u16,
    pub(super) crc32: u32,
    pub(super) packed: u64,
    pub(super) unpacked: u64,
}

/// A directory that was read before the entries.
pub(super) struct Listed(HashMap<u64, Entry>);

impl Listed {
    pub(super) fn at(&self, offset: u64) -> Option<Entry> {
        self.0.get(&offset).copied()
    }

    /// Reads the directory of an archive of which `rest` holds everything from `start` on; rewinds `rest`.
    pub(super) fn read(rest: &mut File, start: u64, limits: &Limits, place: Place) -> Result<Self, Error> {
        let damaged = |error| reading(place, error);
        let found = find(rest).map_err(damaged)?.and_then(|offset| offset.checked_sub(start));
        let Some(at) = found else {
            return Err(Error::damaged(format!("{place}: the archive has no directory at its end")));
        };
        rest.seek(SeekFrom::Start(at)).map_err(damaged)?;
        let mut input = Input::starting_at(start + at, Box::new(&*rest));
        let mut listed = HashMap::new();
        while input.array().map_err(damaged)? == CENTRAL {
            let entry = central(&mut input, place)?;
            if listed.insert(entry.offset, entry).is_some() || listed.len() > limits.max_entries {
                return Err(contradiction(place));
            }
        }
        drop(input);
        rest.rewind().map_err(damaged)?;
        Ok(Self(listed))
    }
}

/// Where the directory begins, as the end record of the file says.
fn find(file: &mut File) -> io::Result<Option<u64>> {
    let bytes = file.seek(SeekFrom::End(0))?;
    let tail_bytes = bytes.min(4 + END_REST as u64 + u64::from(u16::MAX));
    let mut tail = Vec::new();
    file.seek(SeekFrom::Start(bytes - tail_bytes))?;
    file.read_to_end(&mut tail)?;
    let Some(end) = tail.windows(4).rposition(|bytes| bytes == END).map(|at| &tail[at + 4..]) else { return Ok(None) };
    let directory = end.get(12..16).map(|bytes| u32_at(bytes, 0));
    if directory != Some(u32::MAX) {
        return Ok(directory.map(u64::from));
    }
    let end64 = tail.windows(4).rposition(|bytes| bytes == END64).map(|at| &tail[at + 4..]);
    Ok(end64.and_then(|end64| end64.get(44..52)).map(|bytes| u64_at(bytes, 0)))
}

/// Reads the directory, whose first signature is read already, and everything behind it.
///
/// # Errors
/// When it does not list exactly the entries that were read.
pub(super) fn compare(
    input: &mut Input<'_>,
    mut signature: [u8; 4],
    start: u64,
    seen: &[Entry],
    unpacker: &Unpacker<'_>,
    place: Place,
) -> Result<(), Error> {
    let damaged = |error| reading(place, error);
    let mut matched = vec![false; seen.len()];
    let mut names = Vec::with_capacity(seen.len());
    let mut count = 0;
    while signature == CENTRAL {
        count += 1;
        let entry = central(input, place.member(count))?;
        if count > unpacker.limits.max_entries || input.at() - start > MAX_DIRECTORY_BYTES {
            return Err(too_many(place, unpacker.limits));
        }
        let index = seen.binary_search_by_key(&entry.offset, |seen| seen.offset);
        match index {
            Ok(index) if !matched[index] => {
                matched[index] = true;
                if seen[index] != entry {
                    return Err(contradiction(place));
                }
            }
            _ => return Err(Error::limit(format!("{place}: entries of the archive overlap"))),
        }
        names.push(entry.name_hash);
        signature = input.array().map_err(damaged)?;
    }
    names.sort_unstable();
    if names.windows(2).any(|two| two[0] == two[1]) {
        return Err(contradiction(place));
    }
    let directory_end = input.at() - 4;
    let mut claims = Claims::default();
    if signature == END64 {
        let rest: [u8; END64_REST] = input.array().map_err(damaged)?;
        // Without room for private extensions, which nobody writes.
        if u64_at(&rest, 0) != END64_REST as u64 - 8 {
            return Err(contradiction(place));
        }
        claims = Claims { entries: u64_at(&rest, 28), bytes: u64_at(&rest, 36), start: u64_at(&rest, 44) };
        claims.check(count, start, directory_end, unpacker.limits, place)?;
        if input.array().map_err(damaged)? != LOCATOR {
            return Err(contradiction(place));
        }
        let locator: [u8; LOCATOR_REST] = input.array().map_err(damaged)?;
        if u64_at(&locator, 4) != directory_end {
            return Err(contradiction(place));
        }
        signature = input.array().map_err(damaged)?;
    }
    if signature != END {
        return Err(Error::damaged(format!("{place}: the archive's directory does not end where it should")));
    }
    let end: [u8; END_REST] = input.array().map_err(damaged)?;
    let short = Claims {
        entries: u64::from(u16_at(&end, 6)),
        bytes: u64::from(u32_at(&end, 8)),
        start: u64::from(u32_at(&end, 12)),
    };
    short.or(&claims).check(count, start, directory_end, unpacker.limits, place)?;
    if count != seen.len() {
        return Err(contradiction(place));
    }
    input.vec(usize::from(u16_at(&end, 16))).map_err(damaged)?;
    if !input.head(1).map_err(damaged)?.is_empty() {
        return Err(Error::damaged(format!("{place}: something follows the archive")));
    }
    Ok(())
}

/// What an end record says of the directory.
#[derive(Default)]
struct Claims {
    entries: u64,
    bytes: u64,
    start: u64,
}

impl Claims {
    /// With the long form's numbers where these are too large for the short form.
    fn or(self, long: &Self) -> Self {
        let pick = |short: u64, marker: u64, long: u64| if short == marker && long > 0 { long } else { short };
        Self {
            entries: pick(self.entries, u64::from(u16::MAX), long.entries),
            bytes: pick(self.bytes, u64::from(u32::MAX), long.bytes),
            start: pick(self.start, u64::from(u32::MAX), long.start),
        }
    }

    fn check(&self, count: usize, start: u64, end: u64, limits: &Limits, place: Place) -> Result<(), Error> {
        if self.entries > limits.max_entries as u64 {
            return Err(too_many(place, limits));
        }
        if (self.entries, self.bytes) != (count as u64, end - start) || (self.start != start && count > 0) {
            return Err(contradiction(place));
        }
        Ok(())
    }
}

/// Reads a directory entry after its signature.
fn central(input: &mut Input<'_>, place: Place) -> Result<Entry, Error> {
    let damaged = |error| reading(place, error);
    let fixed: [u8; CENTRAL_REST] = input.array().map_err(damaged)?;
    let name = input.vec(usize::from(u16_at(&fixed, 24))).map_err(damaged)?;
    let extra = input.vec(usize::from(u16_at(&fixed, 26))).map_err(damaged)?;
    input.vec(usize::from(u16_at(&fixed, 28))).map_err(damaged)?;
    check_name(&name, place)?;
    if fixed[1] == UNIX && (u32_at(&fixed, 34) >> 16) & 0o170_000 == SYMLINK {
        return Err(outside(place));
    }
    let (mut packed, mut unpacked) = (u64::from(u32_at(&fixed, 16)), u64::from(u32_at(&fixed, 20)));
    let mut offset = u64::from(u32_at(&fixed, 38));
    widen(&extra, &mut [&mut unpacked, &mut packed, &mut offset]);
    let (method, crc32) = (u16_at(&fixed, 6), u32_at(&fixed, 12));
    Ok(Entry { offset, name_hash: hash(&name), method, crc32, packed, unpacked })
}

/// Replaces numbers that did not fit into four bytes by those of the extra field, which has them in this order.
pub(super) fn widen(mut extra: &[u8], numbers: &mut [&mut u64]) {
    while let [a, b, c, d, rest @ ..] = extra {
        let (id, bytes) = (u16::from_le_bytes([*a, *b]), usize::from(u16::from_le_bytes([*c, *d])));
        let Some((mut field, behind)) = rest.split_at_checked(bytes) else { return };
        if id == ZIP64_EXTRA {
            for number in numbers.iter_mut().filter(|number| ***number == u64::from(u32::MAX)) {
                let Some((long, behind)) = field.split_first_chunk() else { return };
                **number = u64::from_le_bytes(*long);
                field = behind;
            }
            return;
        }
        extra = behind;
    }
}

/// Names are never used as paths here; one that would escape a folder says that somebody tries something.
pub(super) fn check_name(name: &[u8], place: Place) -> Result<(), Error> {
    let is_suspicious = name.is_empty()
        || name.starts_with(b"/")
        || name.get(1) == Some(&b':')
        || name.iter().any(|byte| matches!(byte, b'\\' | 0))
        || name.split(|byte| *byte == b'/').any(|part| part == b"..");
    if is_suspicious { Err(outside(place)) } else { Ok(()) }
}

fn outside(place: Place) -> Error {
    Error::limit(format!("{place}: the member's name points outside the archive"))
}

pub(super) fn too_many(place: Place, limits: &Limits) -> Error {
    Error::limit(format!("{place}: the archive has more than {} entries", limits.max_entries))
}

pub(super) fn contradiction(place: Place) -> Error {
    Error::damaged(format!("{place}: the archive contradicts its directory"))
}

/// Tells names apart without keeping them.
pub(super) fn hash(name: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

/// The little-endian number at `at`; zero where the bytes end.
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|slice| slice.try_into().ok()).map_or(0, u64::from_le_bytes)
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|slice| slice.try_into().ok()).map_or(0, u32::from_le_bytes)
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|slice| slice.try_into().ok()).map_or(0, u16::from_le_bytes)
}
