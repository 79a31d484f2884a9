//! Several result files as one stream, packed or not, without a byte of one that the others would not fit to.

use std::ops::Range;

use async_compression::{
    Level,
    tokio::bufread::{GzipDecoder, GzipEncoder, ZstdDecoder, ZstdEncoder},
};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, future::ready, stream};
use object_store::Result;
use tokio::io::AsyncRead;
use tokio_util::io::{ReaderStream, StreamReader};

use super::storage::{CHUNK_BYTES, Chunks, Storage};

/// How the head of a file is looked for, in bytes at a time.
const HEAD_BYTES: u64 = 16 * 1024;
/// Heads looked for at once.
const HEADS_AT_ONCE: usize = 8;

/// How bytes are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    Gzip,
    Zstd,
}

/// One result file.
#[derive(Debug, Clone)]
pub struct Piece {
    pub key: String,
    /// As stored.
    pub bytes: u64,
    pub packing: Option<Packing>,
}

/// A part of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    pub key: String,
    /// Of the whole object.
    pub bytes: u64,
    pub range: Range<u64>,
}

/// The plain pieces as parts of one text, those after the first without their header line if they have one.
///
/// # Errors
/// When a header cannot be read.
pub async fn segments(storage: &Storage, pieces: &[Piece], has_header: bool) -> Result<Vec<Segment>> {
    let heads = pieces.iter().enumerate().map(|(index, piece)| {
        let (storage, piece) = (storage.clone(), piece.clone());
        async move {
            let start = if has_header && index > 0 { header_bytes(&storage, &piece).await? } else { 0 };
            Ok(Segment { range: start..piece.bytes, key: piece.key, bytes: piece.bytes })
        }
    });
    let heads: Vec<_> = heads.collect();
    stream::iter(heads).buffered(HEADS_AT_ONCE).try_collect().await
}

/// The bytes up to and with the first line feed; all of them when there is none.
async fn header_bytes(storage: &Storage, piece: &Piece) -> Result<u64> {
    let mut at = 0;
    while at < piece.bytes {
        let window = at..piece.bytes.min(at + HEAD_BYTES);
        let mut chunks = storage.read_exact(&piece.key, piece.bytes, Some(window)).await?;
        while let Some(chunk) = chunks.try_next().await? {
            if let Some(end) = memchr(&chunk) {
                return Ok(at + end as u64 + 1);
            }
            at += chunk.len() as u64;
        }
    }
    Ok(piece.bytes)
}

/// Where the first line feed is.
fn memchr(chunk: &[u8]) -> Option<usize> {
    chunk.iter().position(|byte| *byte == b'\n')
}

/// The segments that make up `range` of the joined text.
pub fn cut(segments: Vec<Segment>, range: &Range<u64>) -> Vec<Segment> {
    let mut before = 0;
    let mut within = Vec::new();
    for Segment { key, bytes, range: own } in segments {
        let length = own.end.saturating_sub(own.start);
        let start = range.start.clamp(before, before + length) - before;
        let end = range.end.clamp(before, before + length) - before;
        if start < end {
            within.push(Segment { key, bytes, range: own.start + start..own.start + end });
        }
        before += length;
    }
    within
}

/// The segments' bytes, one after the other. Each object is opened when its turn comes.
pub fn read(storage: Storage, segments: Vec<Segment>) -> Chunks {
    stream::iter(segments)
        .then(move |Segment { key, bytes, range }| {
            let storage = storage.clone();
            async move { storage.read_exact(&key, bytes, Some(range)).await }
        })
        .try_flatten()
        .boxed()
}

/// The unpacked text of all pieces, those after the first without their header line if they have one.
pub fn read_unpacked(storage: Storage, pieces: Vec<Piece>, has_header: bool) -> Chunks {
    stream::iter(pieces.into_iter().enumerate())
        .then(move |(index, piece)| {
            let storage = storage.clone();
            async move {
                let chunks = storage.read_exact(&piece.key, piece.bytes, None).await?;
                let chunks = match piece.packing {
                    Some(packing) if piece.bytes > 0 => unpack(chunks, packing),
                    _ => chunks,
                };
                Ok::<_, object_store::Error>(if has_header && index > 0 { without_first_line(chunks) } else { chunks })
            }
        })
        .try_flatten()
        .boxed()
}

fn without_first_line(chunks: Chunks) -> Chunks {
    let mut is_behind = false;
    chunks
        .try_filter_map(move |chunk| {
            let rest = if is_behind {
                Some(chunk)
            } else {
                memchr(&chunk).map(|end| {
                    is_behind = true;
                    chunk.slice(end + 1..)
                })
            };
            ready(Ok(rest.filter(|rest| !rest.is_empty())))
        })
        .boxed()
}

/// The unpacked bytes of one packed stream. Broken or cut data is an error, never an end.
fn unpack(chunks: Chunks, packing: Packing) -> Chunks {
    let packed = StreamReader::new(chunks.map_err(std::io::Error::other));
    match packing {
        Packing::Gzip => {
            let mut unpacked = GzipDecoder::new(packed);
            unpacked.multiple_members(true);
            in_chunks(unpacked)
        }
        Packing::Zstd => {
            let mut unpacked = ZstdDecoder::new(packed);
            unpacked.multiple_members(true);
            in_chunks(unpacked)
        }
    }
}

/// Packs on the way, lightly: whoever wants it small asks for it when exporting.
pub fn pack(chunks: Chunks, packing: Packing) -> Chunks {
    let plain = StreamReader::new(chunks.map_err(std::io::Error::other));
    match packing {
        Packing::Gzip => in_chunks(GzipEncoder::with_quality(plain, Level::Fastest)),
        Packing::Zstd => in_chunks(ZstdEncoder::with_quality(plain, Level::Fastest)),
    }
}

fn in_chunks(reader: impl AsyncRead + Send + 'static) -> Chunks {
    ReaderStream::with_capacity(reader, CHUNK_BYTES)
        .map_err(|error| object_store::Error::Generic { store: "result files", source: error.into() })
        .boxed()
}

/// Waits for the first chunk, so that what cannot be read at all fails before an answer has begun.
///
/// # Errors
/// Those of the first chunk.
pub async fn begun(mut chunks: Chunks) -> Result<Chunks> {
    let first: Option<Bytes> = chunks.try_next().await?;
    Ok(stream::iter(first.map(Ok)).chain(chunks).boxed())
}

#[cfg(test)]
#[path = "joined_tests.rs"]
mod tests;
