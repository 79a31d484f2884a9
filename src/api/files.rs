//! Result files: the manifest, and the bytes themselves, streamed.

use std::{convert::Infallible, ops::Range};

use actix_web::{
    HttpRequest, HttpResponse, HttpResponseBuilder,
    body::SizedStream,
    get, head,
    http::header::{
        ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_RANGE, ETAG, HeaderMap, HeaderName, HeaderValue,
    },
    web,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};
use utoipa::ToSchema;

use super::{
    caller::{Authorized, ExportsDownload, ExportsRead},
    conditions::{Part, is_current, part},
    export_view::{FileView, Manifest, hex},
    exports::export_id,
    problem::{Answer, ApiError},
    responses::{Absent, Denied, NoSuchRange, NotReadable},
};
use crate::{
    exports::{
        problem::{Code, Problem},
        record::FileRecord,
    },
    ids::FileId,
    operations::{Error, Gateway, files as operation},
};

pub(super) const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");

/// The bytes of a file, in the media type that the manifest tells.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
#[expect(dead_code, reason = "stands for the stream in the document")]
pub struct FileBytes(Vec<u8>);

/// List an export's files
///
/// The manifest of a succeeded export.
#[utoipa::path(
    tag = "files",
    security(("bearer" = ["exports:read"])),
    params(("id" = String, Path, description = "The export's id.")),
    responses((status = 200, description = "The manifest.", body = Manifest), Absent, Denied, NotReadable),
)]
#[get("/v1/exports/{id}/files")]
pub async fn list_files(
    caller: Authorized<ExportsRead>,
    gateway: web::Data<Gateway>,
    path: web::Path<String>,
) -> Answer {
    let files = operation::list_files(&gateway, &caller, export_id(&path)?).await?;
    Ok(HttpResponse::Ok().json(Manifest { files: files.into_iter().map(FileView::from).collect() }))
}

/// Download a file
///
/// The bytes as they are stored (a gzip file stays one), streamed. `Range` resumes a broken download; use `If-Range`
/// with the `ETag` to be sure of the file. Check the whole against `Repr-Digest`. If reading fails midway the
/// connection breaks, so a body that is shorter than `Content-Length` is never the whole file.
#[utoipa::path(
    tag = "files",
    security(("bearer" = ["exports:download"])),
    params(
        ("id" = String, Path, description = "The export's id."),
        ("file_id" = String, Path, description = "The file's id, from the manifest."),
        ("Range" = Option<String>, Header, description = "One byte range, e.g. `bytes=1000-`; several are answered with the whole file."),
        ("If-Range" = Option<String>, Header, description = "The `ETag` the range belongs to; another file is answered whole."),
        ("If-None-Match" = Option<String>, Header, description = "An `ETag` of before: answers 304 for the same file."),
    ),
    responses(
        (status = 200, description = "The whole file.", body = FileBytes, content_type = "*/*", headers(
            ("Content-Length" = u64, description = "Bytes in this answer."),
            ("ETag" = String, description = "Strong: the SHA-256 of the file."),
            ("Accept-Ranges" = String, description = "`bytes`"),
            ("Repr-Digest" = String, description = "SHA-256 of the whole file, as in RFC 9530."),
            ("Content-Disposition" = String, description = "The file's name."),
        )),
        (status = 206, description = "The range asked for.", body = FileBytes, content_type = "*/*", headers(
            ("Content-Length" = u64, description = "Bytes in this answer."),
            ("Content-Range" = String, description = "Which bytes these are, of how many."),
            ("ETag" = String, description = "Strong: the SHA-256 of the file."),
            ("Accept-Ranges" = String, description = "`bytes`"),
            ("Repr-Digest" = String, description = "SHA-256 of the whole file, as in RFC 9530."),
            ("Content-Disposition" = String, description = "The file's name."),
        )),
        (status = 304, description = "It is the file of `If-None-Match`."),
        Absent, Denied, NotReadable, NoSuchRange,
    ),
)]
#[get("/v1/exports/{id}/files/{file_id}")]
pub async fn download_file(
    caller: Authorized<ExportsDownload>,
    gateway: web::Data<Gateway>,
    request: HttpRequest,
    path: web::Path<(String, String)>,
) -> Answer {
    let file = find(&gateway, &caller, &path).await?;
    send(&gateway, &file, request.headers()).await
}

/// Describe a file
///
/// The headers of the download, without the bytes.
#[utoipa::path(
    tag = "files",
    security(("bearer" = ["exports:download"])),
    params(
        ("id" = String, Path, description = "The export's id."),
        ("file_id" = String, Path, description = "The file's id, from the manifest."),
        ("If-None-Match" = Option<String>, Header, description = "An `ETag` of before: answers 304 for the same file."),
    ),
    responses(
        (status = 200, description = "The file is there.", headers(
            ("Content-Length" = u64, description = "Bytes of the file."),
            ("ETag" = String, description = "Strong: the SHA-256 of the file."),
            ("Accept-Ranges" = String, description = "`bytes`"),
            ("Repr-Digest" = String, description = "SHA-256 of the file, as in RFC 9530."),
            ("Content-Disposition" = String, description = "The file's name."),
        )),
        (status = 304, description = "It is the file of `If-None-Match`."),
        Absent, Denied, NotReadable,
    ),
)]
#[head("/v1/exports/{id}/files/{file_id}")]
pub async fn describe_file(
    caller: Authorized<ExportsDownload>,
    gateway: web::Data<Gateway>,
    request: HttpRequest,
    path: web::Path<(String, String)>,
) -> Answer {
    let file = find(&gateway, &caller, &path).await?;
    Ok(announce(&file, request.headers()))
}

async fn find(
    gateway: &Gateway,
    caller: &Authorized<ExportsDownload>,
    (export, file): &(String, String),
) -> Result<FileRecord, ApiError> {
    let export = export_id(export)?;
    let file: FileId = file.parse().map_err(|_| ApiError::not_found("file"))?;
    Ok(operation::get_file(gateway, caller, export, file).await?)
}

/// Status and headers of a download, and the range to send; `None` is the whole file.
fn begin(file: &FileRecord, headers: &HeaderMap) -> Result<(HttpResponseBuilder, Option<Range<u64>>), ApiError> {
    let length = length(file);
    match part(headers, &etag(file), length) {
        Part::Whole => Ok((describe(HttpResponse::Ok(), file), None)),
        Part::Bytes(range) => {
            let mut answer = describe(HttpResponse::PartialContent(), file);
            answer.insert_header((CONTENT_RANGE, format!("bytes {}-{}/{length}", range.start, range.end - 1)));
            Ok((answer, Some(range)))
        }
        Part::OutOfRange => Err(out_of_range(length)),
    }
}

/// There are no such bytes, but so many.
pub(super) fn out_of_range(length: u64) -> ApiError {
    let error = ApiError::from(Problem::new(Code::RangeNotSatisfiable, format!("there are {length} bytes")));
    match HeaderValue::from_str(&format!("bytes */{length}")) {
        Ok(value) => error.with_header(CONTENT_RANGE, value),
        Err(_) => error,
    }
}

/// The answer to a download: the file, the part that is asked for, or nothing if the caller's copy is current.
pub(super) async fn send(gateway: &Gateway, file: &FileRecord, headers: &HeaderMap) -> Answer {
    if is_current(headers, &etag(file)) {
        return Ok(describe(HttpResponse::NotModified(), file).finish());
    }
    let (mut answer, range) = begin(file, headers)?;
    let size = range.as_ref().map_or_else(|| length(file), |range| range.end - range.start);
    let bytes = gateway.storage.read_exact(&file.object_key, length(file), range).await.map_err(Error::from)?;
    // An error midway, or an object that is too short, breaks the connection: the length was promised.
    Ok(answer.body(SizedStream::new(size, noted(bytes))))
}

/// The same without the bytes.
pub(super) fn announce(file: &FileRecord, headers: &HeaderMap) -> HttpResponse {
    if is_current(headers, &etag(file)) {
        return describe(HttpResponse::NotModified(), file).finish();
    }
    describe(HttpResponse::Ok(), file).body(nothing(length(file)))
}

/// For `HEAD`: the server announces the length and sends no body.
pub(super) fn nothing(length: u64) -> SizedStream<impl Stream<Item = Result<Bytes, Infallible>>> {
    SizedStream::new(length, futures_util::stream::empty())
}

/// The same bytes. When they break off, the answer has long begun, so the log is the only place to tell it.
pub(super) fn noted<E: std::error::Error + 'static>(
    bytes: impl Stream<Item = Result<Bytes, E>>,
) -> impl Stream<Item = Result<Bytes, E>> {
    let span = tracing::Span::current();
    bytes.inspect_err(move |error| {
        let error: &dyn std::error::Error = error;
        span.in_scope(|| tracing::error!(error, "a download broke off"));
    })
}

/// The headers every answer about the file has.
fn describe(mut answer: HttpResponseBuilder, file: &FileRecord) -> HttpResponseBuilder {
    answer
        .content_type(file.media_type.as_str())
        .insert_header((ETAG, etag(file)))
        .insert_header((ACCEPT_RANGES, "bytes"))
        .insert_header((REPR_DIGEST, format!("sha-256=:{}:", BASE64_STANDARD.encode(&file.sha256))))
        .insert_header((CONTENT_DISPOSITION, format!("attachment; filename=\"{}\"", plain_name(&file.name))))
        .insert_header((CACHE_CONTROL, "private, no-store"));
    answer
}

fn etag(file: &FileRecord) -> String {
    format!("\"{}\"", hex(&file.sha256))
}

/// Bytes as stored.
pub(super) fn length(file: &FileRecord) -> u64 {
    u64::try_from(file.bytes).unwrap_or_default()
}

/// A name that no client and no file system reads as anything but a name.
pub(super) fn plain_name(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use super::{super::examples, *};

    #[test]
    fn a_file_is_described_by_its_digest() {
        let file = examples::finished_export().files.remove(0);
        let answer = describe(HttpResponse::Ok(), &file).finish();
        let header = |name: HeaderName| answer.headers().get(name).unwrap().to_str().unwrap().to_owned();
        assert_eq!(header(ETAG), "\"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\"");
        assert_eq!(header(REPR_DIGEST), "sha-256=:n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg=:");
        assert_eq!(header(CACHE_CONTROL), "private, no-store");
        assert_eq!(header(CONTENT_DISPOSITION), "attachment; filename=\"part-00001.ndjson\"");
    }

    #[test]
    fn a_range_is_answered_with_its_place_and_an_impossible_one_with_the_size() {
        use actix_web::{ResponseError, http::header::RANGE};
        let file = examples::finished_export().files.remove(0);
        let ask = |range| begin(&file, &[(RANGE, HeaderValue::from_static(range))].into_iter().collect());
        let (mut answer, range) = ask("bytes=1-").unwrap();
        let answer = answer.finish();
        assert_eq!((answer.status().as_u16(), range), (206, Some(1..4)));
        assert_eq!(answer.headers().get(CONTENT_RANGE).unwrap(), "bytes 1-3/4");
        let (mut answer, range) = ask("bytes=0-1,3-3").unwrap();
        assert_eq!((answer.finish().status().as_u16(), range), (200, None));
        let refused = ask("bytes=4-").err().unwrap().error_response();
        assert_eq!(refused.status(), 416);
        assert_eq!(refused.headers().get(CONTENT_RANGE).unwrap(), "bytes */4");
    }

    #[test]
    fn a_name_cannot_break_out_of_its_header() {
        assert_eq!(plain_name("a\"; x=\r\nb/../ü.gz"), "a___x___b_..__.gz");
    }
}
