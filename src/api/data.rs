//! An export's data as one stream, packed as the caller likes it.

use std::ops::Range;

use actix_web::{
    HttpRequest, HttpResponse, HttpResponseBuilder,
    body::{BodyStream, SizedStream},
    get, head,
    http::header::{
        ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_RANGE, ETAG, HeaderMap,
        HeaderValue, RANGE, VARY,
    },
    web,
};
use aws_lc_rs::digest;
use base64::{Engine, prelude::BASE64_STANDARD};
use futures_util::stream;

use super::{
    caller::{Authorized, ExportsDownload},
    conditions::{Coding, Codings, Part, is_current, part},
    export_view::hex,
    exports::export_id,
    files::{self, FileBytes, REPR_DIGEST, length, noted, nothing, out_of_range, plain_name},
    problem::{Answer, ApiError},
    responses::{Absent, Denied, NoSuchRange, NotOneStream},
};
use crate::{
    exports::{
        problem::{Code, Problem},
        record::FileRecord,
        request::Format,
    },
    operations::{
        Gateway,
        files::{self as operation, Data, Packing, Piece},
    },
};

/// Below this nothing is packed on the way: the packed answer would hardly be smaller.
const WORTH_PACKING: u64 = 1024;

/// Download the data
///
/// All result files as one stream, in the manifest's order; CSV has one header row. Records that were left out
/// (`rejected.ndjson`) are not in it. Parquet and `raw` are given when there is one file.
///
/// NDJSON and CSV are negotiated by `Accept-Encoding`, as `gzip`, `zstd` or plain. What is stored packed comes as it is
/// to whoever accepts that coding or says nothing. `Range` works wherever `Accept-Ranges` is `bytes`. Without a
/// `Content-Length` the body is chunked; if reading fails midway the connection breaks before the last chunk, so what
/// ends well is always whole.
#[utoipa::path(
    tag = "files",
    security(("bearer" = ["exports:download"])),
    params(
        ("id" = String, Path, description = "The export's id."),
        ("Accept-Encoding" = Option<String>, Header, description = "`gzip`, `zstd` and `identity`, with weights."),
        ("Range" = Option<String>, Header, description = "One byte range, e.g. `bytes=1000-`; several are answered with everything."),
        ("If-Range" = Option<String>, Header, description = "The `ETag` the range belongs to; other data is answered whole."),
        ("If-None-Match" = Option<String>, Header, description = "An `ETag` of before: answers 304 for the same data."),
    ),
    responses(
        (status = 200, description = "All of it.", body = FileBytes, content_type = "*/*", headers(
            ("Content-Length" = Option<u64>, description = "Bytes in this answer, where that is known."),
            ("Content-Encoding" = Option<String>, description = "How it is packed, unless it is plain."),
            ("ETag" = String, description = "Strong, and another one for each coding."),
            ("Accept-Ranges" = String, description = "`bytes`, or `none` for what is packed or unpacked on the way."),
            ("Repr-Digest" = Option<String>, description = "SHA-256 of the whole as it is sent, where that is known."),
            ("Content-Disposition" = String, description = "A name for it."),
            ("Vary" = Option<String>, description = "`Accept-Encoding` where that is negotiated."),
        )),
        (status = 206, description = "The range asked for.", body = FileBytes, content_type = "*/*", headers(
            ("Content-Length" = u64, description = "Bytes in this answer."),
            ("Content-Range" = String, description = "Which bytes these are, of how many."),
            ("Content-Encoding" = Option<String>, description = "How it is packed, unless it is plain."),
            ("ETag" = String, description = "Strong, and another one for each coding."),
            ("Repr-Digest" = Option<String>, description = "SHA-256 of the whole, where that is known."),
        )),
        (status = 304, description = "It is the data of `If-None-Match`."),
        Absent, Denied, NotOneStream, NoSuchRange,
    ),
)]
#[get("/v1/exports/{id}/data")]
pub async fn download_data(
    caller: Authorized<ExportsDownload>,
    gateway: web::Data<Gateway>,
    request: HttpRequest,
    path: web::Path<String>,
) -> Answer {
    let data = operation::get_data(&gateway, &caller, export_id(&path)?).await?;
    let headers = request.headers();
    match &data.files[..] {
        [file] if !is_text(data.format) => files::send(&gateway, file, headers).await,
        _ => send(&gateway, &Offer::new(&data, headers)?, headers, true).await,
    }
}

/// Describe the data
///
/// The headers of the download, without the bytes.
#[utoipa::path(
    tag = "files",
    security(("bearer" = ["exports:download"])),
    params(
        ("id" = String, Path, description = "The export's id."),
        ("Accept-Encoding" = Option<String>, Header, description = "`gzip`, `zstd` and `identity`, with weights."),
        ("If-None-Match" = Option<String>, Header, description = "An `ETag` of before: answers 304 for the same data."),
    ),
    responses(
        (status = 200, description = "It is there.", headers(
            ("Content-Length" = Option<u64>, description = "Bytes of all of it, where that is known."),
            ("Content-Encoding" = Option<String>, description = "How it is packed, unless it is plain."),
            ("ETag" = String, description = "Strong, and another one for each coding."),
            ("Accept-Ranges" = String, description = "`bytes`, or `none` for what is packed or unpacked on the way."),
            ("Repr-Digest" = Option<String>, description = "SHA-256 of the whole as it is sent, where that is known."),
            ("Content-Disposition" = String, description = "A name for it."),
            ("Vary" = Option<String>, description = "`Accept-Encoding` where that is negotiated."),
        )),
        (status = 304, description = "It is the data of `If-None-Match`."),
        Absent, Denied, NotOneStream,
    ),
)]
#[head("/v1/exports/{id}/data")]
pub async fn describe_data(
    caller: Authorized<ExportsDownload>,
    gateway: web::Data<Gateway>,
    request: HttpRequest,
    path: web::Path<String>,
) -> Answer {
    let data = operation::get_data(&gateway, &caller, export_id(&path)?).await?;
    let headers = request.headers();
    match &data.files[..] {
        [file] if !is_text(data.format) => Ok(files::announce(file, headers)),
        _ => send(&gateway, &Offer::new(&data, headers)?, headers, false).await,
    }
}

fn is_text(format: Format) -> bool {
    matches!(format, Format::Ndjson | Format::Csv)
}

/// What bytes are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Body {
    /// Those of the one file, as stored.
    Stored,
    /// Those of plain files, joined.
    Joined,
    /// Unpacked if they were packed, joined, and packed as the answer says.
    Repacked,
}

/// How a text is answered: everything that follows from the manifest and `Accept-Encoding`.
struct Offer {
    body: Body,
    /// As in `Content-Encoding`.
    coding: Option<Coding>,
    has_header: bool,
    media_type: &'static str,
    name: String,
    tag: String,
    /// SHA-256 of what is sent.
    digest: Option<Vec<u8>>,
    pieces: Vec<Piece>,
}

impl Offer {
    fn new(data: &Data, headers: &HeaderMap) -> Result<Self, ApiError> {
        let pieces: Vec<_> = data.files.iter().map(piece).collect();
        let codings = Codings::of(headers);
        let (body, coding) = choose(&pieces, codings, headers.contains_key(RANGE)).ok_or_else(|| {
            let problem = Problem::new(Code::NotAcceptable, "this can be had as gzip, zstd or identity");
            ApiError::from(problem).with_header(VARY, HeaderValue::from_static("Accept-Encoding"))
        })?;
        let digest = match (&data.files[..], body) {
            ([file], Body::Stored | Body::Joined) => Some(file.sha256.clone()),
            ([], Body::Joined) => Some(digest::digest(&digest::SHA256, b"").as_ref().to_vec()),
            _ => None,
        };
        let extension = data.format.as_str();
        Ok(Self {
            body,
            coding,
            has_header: data.format == Format::Csv,
            media_type: if data.format == Format::Csv { "text/csv; charset=utf-8" } else { "application/x-ndjson" },
            name: plain_name(&format!("{}.{extension}", data.dataset.as_str())),
            tag: tag(&data.files, coding),
            digest,
            pieces,
        })
    }

    /// The headers of every answer.
    fn describe(&self, mut answer: HttpResponseBuilder) -> HttpResponseBuilder {
        answer
            .content_type(self.media_type)
            .insert_header((ETAG, self.tag.as_str()))
            .insert_header((VARY, "Accept-Encoding"))
            .insert_header((ACCEPT_RANGES, if self.body == Body::Repacked { "none" } else { "bytes" }))
            .insert_header((CONTENT_DISPOSITION, format!("attachment; filename=\"{}\"", self.name)))
            .insert_header((CACHE_CONTROL, "private, no-store"));
        if let Some(coding) = self.coding {
            answer.insert_header((CONTENT_ENCODING, coding.as_str()));
        }
        if let Some(digest) = &self.digest {
            answer.insert_header((REPR_DIGEST, format!("sha-256=:{}:", BASE64_STANDARD.encode(digest))));
        }
        answer
    }
}

fn piece(file: &FileRecord) -> Piece {
    let packing = match file.compression.as_str() {
        "gzip" => Some(Packing::Gzip),
        "zstd" => Some(Packing::Zstd),
        _ => None,
    };
    Piece { key: file.object_key.clone(), bytes: length(file), packing }
}

const fn coding(packing: Packing) -> Coding {
    match packing {
        Packing::Gzip => Coding::Gzip,
        Packing::Zstd => Coding::Zstd,
    }
}

const fn packing(coding: Coding) -> Packing {
    match coding {
        Coding::Gzip => Packing::Gzip,
        Coding::Zstd => Packing::Zstd,
    }
}

/// What is sent, and how it is packed then; `None` when nothing of what can be had is acceptable.
fn choose(pieces: &[Piece], codings: Codings, is_ranged: bool) -> Option<(Body, Option<Coding>)> {
    if let [Piece { packing: Some(packing), .. }] = pieces
        && codings.accepts(coding(*packing))
    {
        return Some((Body::Stored, Some(coding(*packing))));
    }
    let is_plain = pieces.iter().all(|piece| piece.packing.is_none());
    let plain = if is_plain { Body::Joined } else { Body::Repacked };
    let is_worth_it = !is_plain || pieces.iter().map(|piece| piece.bytes).sum::<u64>() >= WORTH_PACKING;
    let preferred = codings.preferred();
    if codings.accepts_identity() && (preferred.is_none() || is_ranged || !is_worth_it) {
        return Some((plain, None));
    }
    preferred.map(|coding| (Body::Repacked, Some(coding)))
}

/// Strong: of the files' digests, and of the coding.
fn tag(files: &[FileRecord], coding: Option<Coding>) -> String {
    let base = match files {
        [file] => hex(&file.sha256),
        files => {
            let mut all = digest::Context::new(&digest::SHA256);
            files.iter().for_each(|file| all.update(&file.sha256));
            hex(all.finish().as_ref())
        }
    };
    coding.map_or_else(|| format!("\"{base}\""), |coding| format!("\"{base}-{}\"", coding.as_str()))
}

async fn send(gateway: &Gateway, offer: &Offer, headers: &HeaderMap, with_body: bool) -> Answer {
    if is_current(headers, &offer.tag) {
        return Ok(offer.describe(HttpResponse::NotModified()).finish());
    }
    if offer.body == Body::Repacked {
        let mut answer = offer.describe(HttpResponse::Ok());
        if !with_body {
            return Ok(answer.body(BodyStream::new(stream::empty::<Result<_, std::convert::Infallible>>())));
        }
        let pieces = offer.pieces.clone();
        let chunks = operation::read_repacked(gateway, pieces, offer.has_header, offer.coding.map(packing)).await?;
        // No length was promised: an error midway leaves out the end of the chunked body.
        return Ok(answer.body(BodyStream::new(noted(chunks))));
    }
    // Of one file nothing is cut off, so its bytes are the same, packed or not.
    let segments = operation::segments(gateway, &offer.pieces, offer.has_header).await?;
    let length = segments.iter().map(|segment| segment.range.end - segment.range.start).sum();
    let all = 0..length;
    // A range is defined for GET alone.
    let wanted = if with_body { part(headers, &offer.tag, length) } else { Part::Whole };
    let (mut answer, range): (_, Range<u64>) = match wanted {
        Part::Whole => (offer.describe(HttpResponse::Ok()), all),
        Part::Bytes(range) => {
            let mut answer = offer.describe(HttpResponse::PartialContent());
            answer.insert_header((CONTENT_RANGE, format!("bytes {}-{}/{length}", range.start, range.end - 1)));
            (answer, range)
        }
        Part::OutOfRange => {
            return Err(out_of_range(length).with_header(VARY, HeaderValue::from_static("Accept-Encoding")));
        }
    };
    if !with_body {
        return Ok(answer.body(nothing(length)));
    }
    let size = range.end - range.start;
    let chunks = operation::read_segments(gateway, segments, &range).await?;
    Ok(answer.body(SizedStream::new(size, noted(chunks))))
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::ACCEPT_ENCODING;

    use super::*;

    fn chosen(stored: &[Option<Packing>], accept: Option<&'static str>) -> Option<(Body, Option<Coding>)> {
        let headers = accept.map(|line| (ACCEPT_ENCODING, HeaderValue::from_static(line))).into_iter().collect();
        let piece = |packing: &Option<Packing>| Piece { key: String::new(), bytes: 5000, packing: *packing };
        let pieces: Vec<_> = stored.iter().map(piece).collect();
        choose(&pieces, Codings::of(&headers), false)
    }

    #[test]
    fn one_packed_file_is_sent_as_it_is_to_whoever_takes_it() {
        let stored = &[Some(Packing::Gzip)][..];
        let as_it_is = Some((Body::Stored, Some(Coding::Gzip)));
        for accept in [None, Some("gzip"), Some("zstd, gzip;q=0.1"), Some("*")] {
            assert_eq!(chosen(stored, accept), as_it_is, "{accept:?}");
        }
        assert_eq!(chosen(stored, Some("identity")), Some((Body::Repacked, None)));
        assert_eq!(chosen(stored, Some("br")), Some((Body::Repacked, None)));
        assert_eq!(chosen(stored, Some("zstd")), Some((Body::Repacked, Some(Coding::Zstd))));
        assert_eq!(chosen(stored, Some("identity;q=0, gzip;q=0")), None);
    }

    #[test]
    fn plain_files_are_packed_only_for_whoever_asks_for_it() {
        for stored in [&[None][..], &[None, None], &[]] {
            assert_eq!(chosen(stored, None), Some((Body::Joined, None)));
            assert_eq!(chosen(stored, Some("identity, gzip")), Some((Body::Joined, None)));
            assert_eq!(chosen(stored, Some("gzip, identity;q=0")), Some((Body::Repacked, Some(Coding::Gzip))));
            assert_eq!(chosen(stored, Some("identity;q=0")), None);
        }
        assert_eq!(chosen(&[None], Some("gzip, zstd")), Some((Body::Repacked, Some(Coding::Zstd))));
        assert_eq!(chosen(&[], Some("gzip")), Some((Body::Joined, None)), "nothing is not worth packing");
    }

    #[test]
    fn several_packed_files_are_unpacked_to_be_joined() {
        let stored = &[Some(Packing::Gzip), Some(Packing::Gzip)][..];
        assert_eq!(chosen(stored, None), Some((Body::Repacked, None)));
        assert_eq!(chosen(stored, Some("gzip")), Some((Body::Repacked, Some(Coding::Gzip))));
    }

    #[test]
    fn a_range_is_one_of_plain_bytes_where_those_will_do() {
        let piece = Piece { key: String::new(), bytes: 5000, packing: None };
        let headers = [(ACCEPT_ENCODING, HeaderValue::from_static("gzip"))].into_iter().collect();
        assert_eq!(choose(&[piece], Codings::of(&headers), true), Some((Body::Joined, None)));
    }
}
