//! Reading objects: in chunks of a fixed size, and never ahead of the one who reads, so that a slow reader costs a
//! buffer and no thread.

use std::{fs::File, io, ops::Range, os::unix::fs::FileExt as _, sync::Arc};

use bytes::Bytes;
use futures_util::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use object_store::{Error, GetOptions, GetRange, GetResult, GetResultPayload, ObjectStore, Result, path::Path};

use super::{Storage, local_error};

/// The most that a chunk holds. The server's write buffer takes one whole chunk, and this is the largest that it takes
/// without being made anew each time.
pub const CHUNK_BYTES: usize = 64 * 1024;
/// How often in a row an object store may break off without having sent a byte before we believe it.
const RESUMPTIONS: u32 = 3;

/// The bytes of an object, in order; an error ends them.
pub type Chunks = BoxStream<'static, Result<Bytes>>;

impl Storage {
    /// The bytes of an object, or of `range` within it, in bounded chunks: memory does not grow with the object.
    ///
    /// # Errors
    /// `NotFound` when there is no such object; errors later on come through the stream.
    pub async fn read(&self, key: &str, range: Option<Range<u64>>) -> Result<Chunks> {
        self.open_object(key, None, range).await
    }

    /// As [`read`](Self::read), of an object that must have `bytes` bytes.
    ///
    /// # Errors
    /// Also when the object has another length; if it loses it while it is read, the stream fails before its end.
    pub async fn read_exact(&self, key: &str, bytes: u64, range: Option<Range<u64>>) -> Result<Chunks> {
        self.open_object(key, Some(bytes), range).await
    }

    async fn open_object(&self, key: &str, bytes: Option<u64>, range: Option<Range<u64>>) -> Result<Chunks> {
        if range.as_ref().is_some_and(Range::is_empty) {
            return Ok(stream::empty().boxed());
        }
        let path = Path::from(key);
        let options = GetOptions { range: range.map(GetRange::Bounded), ..GetOptions::default() };
        let result = self.store.get_opts(&path, options).await?;
        if let Some(bytes) = bytes.filter(|bytes| *bytes != result.meta.size) {
            return Err(unexpected(format!("the object has {} bytes and not {bytes}", result.meta.size)));
        }
        Ok(match result.payload {
            GetResultPayload::File(file, _) => local_chunks(file, result.range),
            GetResultPayload::Stream(_) => Remote::new(self.store.clone(), path, result).chunks(),
        })
    }
}

fn unexpected(what: String) -> Error {
    Error::Generic { store: "result files", source: what.into() }
}

fn local_chunks(file: File, range: Range<u64>) -> Chunks {
    stream::try_unfold((Arc::new(file), range), |(file, left)| async move {
        if left.is_empty() {
            return Ok(None);
        }
        let wanted = usize::try_from(left.end - left.start).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES));
        let mut chunk = vec![0; wanted];
        let read = match read_cached(&file, &mut chunk, left.start) {
            Some(read) => read,
            // Only what must come from the disk is worth a thread.
            None => {
                let file = file.clone();
                let read = move || file.read_at(&mut chunk, left.start).map(|read| (read, chunk));
                let (read, filled) = tokio::task::spawn_blocking(read).await?.map_err(local_error)?;
                chunk = filled;
                read
            }
        };
        if read == 0 {
            return Err(local_error(io::ErrorKind::UnexpectedEof.into()));
        }
        chunk.truncate(read);
        let next = left.start + read as u64..left.end;
        Ok(Some((Bytes::from(chunk), (file, next))))
    })
    .boxed()
}

/// Reads what the system has in memory, without waiting for a disk; `None` when it has nothing or cannot say.
#[cfg(target_os = "linux")]
fn read_cached(file: &File, chunk: &mut [u8], at: u64) -> Option<usize> {
    use rustix::io::{ReadWriteFlags, preadv2};
    preadv2(file, &mut [io::IoSliceMut::new(chunk)], at, ReadWriteFlags::NOWAIT).ok()
}

#[cfg(not(target_os = "linux"))]
fn read_cached(_: &File, _: &mut [u8], _: u64) -> Option<usize> {
    None
}

/// An object that comes over the network: one request for all of it, and another for the rest whenever it breaks off.
struct Remote {
    store: Arc<dyn ObjectStore>,
    path: Path,
    left: Range<u64>,
    /// What makes sure that the rest is of the same object.
    tag: Option<String>,
    body: Option<Chunks>,
    /// Received and not handed on.
    held: Bytes,
    failures: u32,
}

impl Remote {
    fn new(store: Arc<dyn ObjectStore>, path: Path, result: GetResult) -> Self {
        let (left, tag) = (result.range.clone(), result.meta.e_tag.clone());
        Self { store, path, left, tag, body: Some(result.into_stream()), held: Bytes::new(), failures: 0 }
    }

    fn chunks(self) -> Chunks {
        stream::try_unfold(self, |mut this| async move { Ok(this.next().await?.map(|chunk| (chunk, this))) }).boxed()
    }

    async fn next(&mut self) -> Result<Option<Bytes>> {
        while self.held.is_empty() {
            if self.left.is_empty() {
                return Ok(None);
            }
            let mut body = match self.body.take() {
                Some(body) => body,
                None => self.resume().await?,
            };
            match body.try_next().await {
                Ok(Some(chunk)) => {
                    self.take(chunk)?;
                    self.body = Some(body);
                }
                Ok(None) => self.broke_off(unexpected(format!("it ended {} bytes early", left_of(&self.left))))?,
                Err(error) => self.broke_off(error)?,
            }
        }
        Ok(Some(self.held.split_to(CHUNK_BYTES.min(self.held.len()))))
    }

    fn take(&mut self, chunk: Bytes) -> Result<()> {
        if chunk.len() as u64 > left_of(&self.left) {
            return Err(unexpected("more bytes came than were asked for".into()));
        }
        if !chunk.is_empty() {
            self.failures = 0;
        }
        self.left.start += chunk.len() as u64;
        self.held = chunk;
        Ok(())
    }

    /// Remembers to go on where it broke off, unless that has failed too often or could bring another object's bytes.
    fn broke_off(&mut self, error: Error) -> Result<()> {
        self.failures += 1;
        if self.tag.is_none() || self.failures > RESUMPTIONS {
            return Err(error);
        }
        tracing::info!(error = &error as &dyn std::error::Error, left = left_of(&self.left), "an object broke off");
        Ok(())
    }

    async fn resume(&mut self) -> Result<Chunks> {
        let range = Some(GetRange::Bounded(self.left.clone()));
        let options = GetOptions { range, if_match: self.tag.clone(), ..GetOptions::default() };
        Ok(self.store.get_opts(&self.path, options).await?.into_stream())
    }
}

fn left_of(range: &Range<u64>) -> u64 {
    range.end.saturating_sub(range.start)
}

#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;
