//! One gzip member, its blocks deflated apart from one another: each block ends on a byte and refers to nothing before
//! it, so they are put one after another, and their checksums are combined.

use std::io::Write;

use crc32fast::Hasher;
use flate2::{Compress, Compression, FlushCompress, Status};

use super::{Error, writing};

/// CPU bounds a conversion, and level 6 of zlib-rs costs three to four times what level 1 does. Level 2 is hardly slower
/// than 1 and the first to fit its codes to the data: made-up user records pack 4.9 to 1 at level 1, 6.7 at level 2 and
/// 7.9 at level 6.
const LEVEL: u32 = 2;
/// Deflate, no flags, no time, no extra flags, no known system: equal records give equal files.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
/// A last block with nothing in it.
const LAST_BLOCK: [u8; 2] = [3, 0];

/// Deflates block by block.
pub(super) struct Deflater(Compress);

/// What one batch came to.
pub(super) struct Block {
    deflated: Vec<u8>,
    checksum: Hasher,
}

impl Block {
    pub(super) fn capacity(&self) -> usize {
        self.deflated.capacity()
    }
}

impl Deflater {
    pub(super) fn new() -> Self {
        Self(Compress::new(Compression::new(LEVEL), false))
    }

    pub(super) fn block(&mut self, plain: &[u8]) -> Result<Block, Error> {
        let mut checksum = Hasher::new();
        checksum.update(plain);
        let mut deflated = Vec::new();
        if plain.is_empty() {
            return Ok(Block { deflated, checksum });
        }
        self.0.reset();
        deflated.reserve(plain.len() / 5 + 128);
        let mut taken = 0;
        loop {
            let before = self.0.total_in();
            let status = self.0.compress_vec(&plain[taken..], &mut deflated, FlushCompress::Sync);
            let status = status.map_err(|error| Error::storing("the result could not be compressed", error))?;
            taken += usize::try_from(self.0.total_in() - before).unwrap_or(usize::MAX);
            // Room left over means that all of it was flushed.
            if status == Status::BufError || (taken == plain.len() && deflated.len() < deflated.capacity()) {
                break;
            }
            deflated.reserve((plain.len() - taken) / 4 + 128);
        }
        Ok(Block { deflated, checksum })
    }
}

/// A gzip file being written.
pub(super) struct GzipFile<W> {
    sink: W,
    checksum: Hasher,
}

impl<W: Write> GzipFile<W> {
    /// Begins the file, with `first` as its first text.
    pub(super) fn begin(mut sink: W, first: &[u8]) -> Result<Self, Error> {
        sink.write_all(&HEADER).map_err(writing)?;
        let mut file = Self { sink, checksum: Hasher::new() };
        if !first.is_empty() {
            file.write(&Deflater::new().block(first)?)?;
        }
        Ok(file)
    }

    pub(super) fn write(&mut self, block: &Block) -> Result<(), Error> {
        self.sink.write_all(&block.deflated).map_err(writing)?;
        self.checksum.combine(&block.checksum);
        Ok(())
    }

    pub(super) const fn sink(&self) -> &W {
        &self.sink
    }

    pub(super) fn finish(mut self) -> Result<W, Error> {
        // The length counts modulo 2 to the 32nd.
        let length = (self.checksum.total_len() & 0xffff_ffff) as u32;
        let mut end = LAST_BLOCK.to_vec();
        end.extend_from_slice(&self.checksum.finalize().to_le_bytes());
        end.extend_from_slice(&length.to_le_bytes());
        self.sink.write_all(&end).map_err(writing)?;
        Ok(self.sink)
    }
}
