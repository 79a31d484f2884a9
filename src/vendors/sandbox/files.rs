//! The files the simulators hand out: written once to an unnamed file on disk, served in pieces.

use std::{
    fs::File,
    io::{self, BufWriter},
    os::unix::fs::FileExt,
    sync::Arc,
    time::Duration,
};

use actix_web::{HttpRequest, HttpResponse, body::SizedStream, http::header};
use bytes::Bytes;
use futures_util::stream;

/// Read and sent at once.
const CHUNK_BYTES: u64 = 64 * 1024;
/// Between two bytes of a dripping answer.
const DRIP_PAUSE: Duration = Duration::from_millis(200);
/// Lets the part before a cut reach the client, so that it is really cut in the middle.
const CUT_PAUSE: Duration = Duration::from_millis(100);

/// A file without a name; gone when the last handle is dropped.
#[derive(Debug, Clone)]
pub struct SpooledFile {
    file: Arc<File>,
    len: u64,
}

/// How an answer with a file goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transfer {
    /// It does not.
    Whole,
    /// The connection is closed half-way.
    Cut,
    /// The answer is complete and consistent, but the file in it lacks its last part.
    Truncated,
    /// Five bytes a second.
    Drip,
}

impl SpooledFile {
    /// Writes a file on a thread that may block.
    pub async fn write(fill: impl FnOnce(&mut BufWriter<File>) -> io::Result<()> + Send + 'static) -> io::Result<Self> {
        let written = tokio::task::spawn_blocking(move || {
            let mut writer = BufWriter::with_capacity(256 * 1024, tempfile::tempfile()?);
            fill(&mut writer)?;
            let written = writer.into_inner().map_err(io::IntoInnerError::into_error)?;
            let len = written.metadata()?.len();
            Ok(Self { file: Arc::new(written), len })
        });
        written.await.map_err(io::Error::other)?
    }

    /// Its size in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The file, or the `Range` of it that was asked for.
    pub fn serve(&self, request: &HttpRequest, content_type: &'static str, transfer: Transfer) -> HttpResponse {
        let total = if transfer == Transfer::Truncated { self.len * 3 / 5 } else { self.len };
        let range = match request.headers().get(header::RANGE).map(|range| range.to_str().map(|r| parse(r, total))) {
            None | Some(Err(_) | Ok(Asked::Everything)) => None,
            Some(Ok(Asked::Part(first, last))) => Some((first, last)),
            Some(Ok(Asked::Unsatisfiable)) => {
                return HttpResponse::RangeNotSatisfiable()
                    .insert_header((header::CONTENT_RANGE, format!("bytes */{total}")))
                    .finish();
            }
        };
        let (start, end) = range.map_or((0, total), |(first, last)| (first, last + 1));
        let mut answer = if range.is_some() { HttpResponse::PartialContent() } else { HttpResponse::Ok() };
        if let Some((first, last)) = range {
            answer.insert_header((header::CONTENT_RANGE, format!("bytes {first}-{last}/{total}")));
        }
        let version = format!("\"{:x}\"", self.len);
        answer.content_type(content_type).insert_header((header::ACCEPT_RANGES, "bytes"));
        answer.insert_header((header::ETAG, version));
        answer.body(SizedStream::new(end - start, self.pieces(start, end, transfer)))
    }

    fn pieces(
        &self,
        start: u64,
        end: u64,
        transfer: Transfer,
    ) -> impl stream::Stream<Item = io::Result<Bytes>> + 'static {
        let cut_at = (transfer == Transfer::Cut).then_some(start + (end - start) / 2);
        let piece = if transfer == Transfer::Drip { 1 } else { CHUNK_BYTES };
        let file = Arc::clone(&self.file);
        stream::try_unfold(start, move |at| {
            let file = Arc::clone(&file);
            async move {
                if cut_at == Some(at) {
                    tokio::time::sleep(CUT_PAUSE).await;
                    return Err(io::Error::from(io::ErrorKind::ConnectionAborted));
                }
                let until = cut_at.unwrap_or(end).min(at + piece);
                if until == at {
                    return Ok(None);
                }
                if transfer == Transfer::Drip {
                    tokio::time::sleep(DRIP_PAUSE).await;
                }
                let read = tokio::task::spawn_blocking(move || {
                    let mut bytes = vec![0; usize::try_from(until - at).map_err(io::Error::other)?];
                    file.read_exact_at(&mut bytes, at)?;
                    Ok::<_, io::Error>(Bytes::from(bytes))
                });
                Ok(Some((read.await.map_err(io::Error::other)??, until)))
            }
        })
    }
}

/// 200 with a body from memory, which may go wrong as a file does.
pub fn answer_in_pieces(content_type: &'static str, body: Bytes, transfer: Transfer) -> HttpResponse {
    let whole = body.len();
    let (promised, sent, pause) = match transfer {
        Transfer::Whole => return HttpResponse::Ok().content_type(content_type).body(body),
        Transfer::Truncated => (whole * 3 / 5, whole * 3 / 5, Duration::ZERO),
        Transfer::Cut => (whole, whole / 2, CUT_PAUSE),
        Transfer::Drip => (whole, whole, DRIP_PAUSE),
    };
    let piece = if transfer == Transfer::Drip { 1 } else { whole.max(1) };
    let pieces = stream::try_unfold(0, move |at| {
        let part = body.slice(at..(at + piece).min(sent));
        async move {
            if transfer == Transfer::Drip || (transfer == Transfer::Cut && part.is_empty()) {
                tokio::time::sleep(pause).await;
            }
            match part.is_empty() {
                true if transfer == Transfer::Cut => Err(io::Error::from(io::ErrorKind::ConnectionAborted)),
                true => Ok(None),
                false => Ok(Some((part.clone(), at + part.len()))),
            }
        }
    });
    HttpResponse::Ok().content_type(content_type).body(SizedStream::new(promised as u64, pieces))
}

/// Takes the request and closes the connection without an answer.
pub fn hang_up() -> HttpResponse {
    let gone = stream::once(async { Err::<Bytes, _>(io::Error::from(io::ErrorKind::ConnectionAborted)) });
    HttpResponse::Ok().body(SizedStream::new(1, Box::pin(gone)))
}

#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Everything,
    /// First and last byte, both included.
    Part(u64, u64),
    Unsatisfiable,
}

/// Reads a `Range` header with one range; anything else is ignored, as RFC 9110 allows.
fn parse(range: &str, total: u64) -> Asked {
    let Some((first, last)) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-')) else {
        return Asked::Everything;
    };
    let (first, last) = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) if first <= last => (first, last.min(total.saturating_sub(1))),
        (Ok(first), Err(_)) if last.is_empty() => (first, total.saturating_sub(1)),
        (Err(_), Ok(suffix)) if first.is_empty() && suffix > 0 => {
            (total.saturating_sub(suffix), total.saturating_sub(1))
        }
        _ => return Asked::Everything,
    };
    if first < total { Asked::Part(first, last) } else { Asked::Unsatisfiable }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_the_http_standard_says() {
        assert_eq!(parse("bytes=0-0", 10), Asked::Part(0, 0));
        assert_eq!(parse("bytes=4-", 10), Asked::Part(4, 9));
        assert_eq!(parse("bytes=4-99", 10), Asked::Part(4, 9));
        assert_eq!(parse("bytes=-3", 10), Asked::Part(7, 9));
        assert_eq!(parse("bytes=10-", 10), Asked::Unsatisfiable);
        assert_eq!(parse("bytes=0-0", 0), Asked::Unsatisfiable);
        assert_eq!(parse("bytes=1-2,4-5", 10), Asked::Everything);
        assert_eq!(parse("lines=1-2", 10), Asked::Everything);
    }
}
