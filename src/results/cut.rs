//! Cutting the bytes of a vendor file into records, one at a time and none larger than the limit.

mod delimited;
mod elements;

use std::io::{self, Read};

pub use self::{
    delimited::delimited,
    elements::{elements, heads},
};
use super::{
    Error, Limits,
    archive::{Place, reading},
};
use crate::exports::records::{BadRecord, Record};

/// A buffer that grew beyond this for one long record is given back.
pub const ROOMY: usize = 1024 * 1024;

/// Where a record begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At {
    pub place: Place,
    /// From 1; of JSON documents, the number of the element.
    pub line: u64,
    /// In bytes, from 0; of JSON documents, roughly.
    pub offset: u64,
}

impl At {
    /// A record here that cannot be read.
    pub fn bad_record(self, BadRecord(why): &BadRecord) -> Error {
        self.place.bad_record(self.line, self.offset, why)
    }

    fn long_record(self, limits: &Limits) -> Error {
        self.place.long_record(self.line, self.offset, limits)
    }
}

/// Takes each record as it is cut out.
pub type Each<'e> = dyn FnMut(At, Record<'_>) -> Result<(), Error> + 'e;

/// Bytes read at once for lines. The fuzzer's inputs are small, and shall span blocks too.
const BLOCK: usize = if cfg!(fuzzing) { 32 } else { 256 * 1024 };

/// Whole lines out of the middle of a member.
#[derive(Debug)]
pub struct Lines {
    /// Where the first one begins.
    pub at: At,
    pub bytes: Vec<u8>,
}

impl Lines {
    /// Each of the lines, as [`lines`].
    ///
    /// # Errors
    /// For a line beyond the limit, and what `each` fails with.
    pub fn each(&self, limits: &Limits, each: &mut Each<'_>) -> Result<(), Error> {
        let mut at = self.at;
        let mut rest = self.bytes.as_slice();
        while !rest.is_empty() {
            let bytes = memchr::memchr(b'\n', rest).map_or(rest.len(), |end| end + 1);
            let (line, behind) = rest.split_at(bytes);
            let record = line.trim_ascii();
            if record.len() > limits.max_record_bytes {
                return Err(at.long_record(limits));
            }
            if !record.is_empty() {
                each(at, Record::Line(record))?;
            }
            at = At { line: at.line + 1, offset: at.offset + bytes as u64, ..at };
            rest = behind;
        }
        Ok(())
    }
}

/// Whole lines at a time: their ends may be `\n` or `\r\n`, the last may be missing. The lines of all blocks are the
/// lines of the member.
///
/// # Errors
/// When reading fails, for a line far beyond the limit, and what `take` fails with.
pub fn blocks(
    place: Place,
    member: &mut dyn Read,
    limits: &Limits,
    take: &mut dyn FnMut(Lines) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut at = At { place, line: 1, offset: 0 };
    let mut carried = Vec::new();
    loop {
        let mut bytes = std::mem::take(&mut carried);
        let is_last = !read_on(member, &mut bytes).map_err(|error| reading(place, error))?;
        let end = if is_last { bytes.len() } else { memchr::memrchr(b'\n', &bytes).map_or(0, |end| end + 1) };
        carried.extend_from_slice(&bytes[end..]);
        bytes.truncate(end);
        // Room for white space around the longest record allowed.
        if carried.len() > limits.max_record_bytes + BLOCK {
            return Err(
                At { line: at.line + newlines(&bytes), offset: at.offset + end as u64, ..at }.long_record(limits)
            );
        }
        let next = At { line: at.line + newlines(&bytes), offset: at.offset + end as u64, ..at };
        if !bytes.is_empty() {
            take(Lines { at, bytes })?;
        }
        if is_last {
            return Ok(());
        }
        at = next;
    }
}

/// Appends a block's worth of bytes; says whether there may be more. Whoever inflates is asked for many bytes at once:
/// each call costs him a copy of his window.
pub fn read_on(member: &mut dyn Read, bytes: &mut Vec<u8>) -> io::Result<bool> {
    let mut filled = bytes.len();
    let wanted = BLOCK.saturating_sub(filled).max(BLOCK / 2);
    bytes.reserve_exact(wanted);
    bytes.resize(filled + wanted, 0);
    while filled < bytes.len() {
        match member.read(&mut bytes[filled..]) {
            Ok(0) => {
                bytes.truncate(filled);
                return Ok(false);
            }
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

fn newlines(bytes: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', bytes).count() as u64
}

/// Lines, one record each: white space around them is no part of them, blank ones are passed over.
///
/// # Errors
/// As [`blocks`] and [`Lines::each`].
pub fn lines(place: Place, member: &mut dyn Read, limits: &Limits, each: &mut Each<'_>) -> Result<(), Error> {
    blocks(place, member, limits, &mut |block| block.each(limits, each))
}
