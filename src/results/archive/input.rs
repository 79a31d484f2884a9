//! The bytes of a vendor file on their way: buffered, counted, read once.

use std::{
    io::{self, BufRead, Read},
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::BUFFER;

/// A vendor file being read.
pub(super) struct Input<'a> {
    inner: Box<dyn Read + Send + 'a>,
    buffer: Box<[u8]>,
    /// What of the buffer is read and not yet taken.
    ready: Range<usize>,
    /// Bytes taken out so far.
    taken: Arc<AtomicU64>,
}

impl<'a> Input<'a> {
    pub(super) fn new(inner: Box<dyn Read + Send + 'a>) -> Self {
        Self::starting_at(0, inner)
    }

    /// A file of which `inner` is the rest, from `start` on.
    pub(super) fn starting_at(start: u64, inner: Box<dyn Read + Send + 'a>) -> Self {
        let buffer = vec![0; BUFFER].into_boxed_slice();
        Self { inner, buffer, ready: 0..0, taken: Arc::new(AtomicU64::new(start)) }
    }

    /// Bytes taken out so far, readable while somebody reads on.
    pub(super) fn taken(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.taken)
    }

    pub(super) fn at(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Up to `wanted` bytes that come next, without taking them; fewer only where the file ends.
    pub(super) fn head(&mut self, wanted: usize) -> io::Result<&[u8]> {
        while self.ready.len() < wanted && self.fill()? {}
        let end = self.ready.end.min(self.ready.start + wanted);
        Ok(&self.buffer[self.ready.start..end])
    }

    /// Exactly `N` bytes.
    pub(super) fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Exactly `wanted` bytes, for which memory is taken beforehand.
    pub(super) fn vec(&mut self, wanted: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; wanted];
        self.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Reads more behind what is there; answers whether anything came.
    fn fill(&mut self) -> io::Result<bool> {
        if self.ready.start > 0 {
            self.buffer.copy_within(self.ready.clone(), 0);
            self.ready = 0..self.ready.len();
        }
        let bytes = loop {
            match self.inner.read(&mut self.buffer[self.ready.end..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                outcome => break outcome?,
            }
        };
        self.ready.end += bytes;
        Ok(bytes > 0)
    }
}

impl Read for Input<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.ready.is_empty() && buffer.len() >= self.buffer.len() {
            let bytes = self.inner.read(buffer)?;
            self.taken.fetch_add(bytes as u64, Ordering::Relaxed);
            return Ok(bytes);
        }
        let bytes = self.fill_buf()?.read(buffer)?;
        self.consume(bytes);
        Ok(bytes)
    }
}

impl BufRead for Input<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.ready.is_empty() {
            self.fill()?;
        }
        Ok(&self.buffer[self.ready.clone()])
    }

    fn consume(&mut self, bytes: usize) {
        self.ready.start += bytes;
        self.taken.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}
