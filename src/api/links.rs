//! Links to files for those without a token. The link is the key: it is never logged, and no page may pass it on.

use std::net::{Ipv4Addr, Ipv6Addr};

use actix_web::{
    HttpRequest, HttpResponse, get, head,
    http::header::{CACHE_CONTROL, HeaderValue, REFERRER_POLICY},
    post, web,
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    Edge, body,
    caller::{Authorized, ExportsDownload},
    exports::export_id,
    files::{self, FileBytes},
    problem::{Answer, ApiError},
    responses::{Absent, BadBody, Denied, LinkGone, NoSuchRange, NotReadable, Unavailable},
};
use crate::{
    exports::record::FileRecord,
    ids::FileId,
    operations::{Gateway, links as operation},
};

/// How a link is made.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MakeLink {
    /// How long it works.
    #[serde(default)]
    #[schema(value_type = i64, minimum = 1, maximum = 86_400, default = 300, example = 300)]
    pub expires_in_secs: Option<i64>,
}

/// A link that lets whoever has it download one file.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Link)]
pub struct LinkView {
    /// Treat it as a password. `GET` and `HEAD`, with ranges, as the file's own address, but without a token.
    #[schema(example = "https://headgate.example/links/ASgBml…")]
    pub url: String,
    /// It works until then.
    pub expires_at: DateTime<Utc>,
}

/// Make a link to a file
///
/// For a program without a token: whoever has the link can download this one file until it expires. Nothing is kept of
/// it, so it cannot be taken back; deleting the export's files ends it. It lies below `HEADGATE_PUBLIC_URL`.
#[utoipa::path(
    tag = "files",
    security(("bearer" = ["exports:download"])),
    params(
        ("id" = String, Path, description = "The export's id."),
        ("file_id" = String, Path, description = "The file's id, from the manifest."),
    ),
    request_body(content = Option<MakeLink>, description = "Without a body it works for 300 seconds."),
    responses((status = 200, description = "The link.", body = LinkView), Absent, Denied, NotReadable, BadBody),
)]
#[post("/v1/exports/{id}/files/{file_id}/links")]
pub async fn make_link(
    caller: Authorized<ExportsDownload>,
    gateway: web::Data<Gateway>,
    edge: web::Data<Edge>,
    request: HttpRequest,
    payload: web::Payload,
    path: web::Path<(String, String)>,
) -> Answer {
    let (export, file) = path.into_inner();
    let export = export_id(&export)?;
    let file: FileId = file.parse().map_err(|_| ApiError::not_found("file"))?;
    let wanted = match body::read_optional_json(&request, payload).await? {
        Some(body) => body::fields::<MakeLink>(body)?,
        None => MakeLink::default(),
    };
    let life_secs = wanted.expires_in_secs.unwrap_or(operation::DEFAULT_LIFE_SECS);
    let link = operation::make_link(&gateway, &caller, export, file, life_secs).await?;
    // The token has no character that would need care.
    let url = format!("{}/links/{}", base(&edge, &request), link.token);
    let view = LinkView { url, expires_at: link.expires_at };
    Ok(HttpResponse::Ok().insert_header((CACHE_CONTROL, "private, no-store")).json(view))
}

/// What callers reach, without a slash at its end; if nobody said it, what this machine reaches.
fn base(edge: &Edge, request: &HttpRequest) -> String {
    if let Some(url) = &edge.public_url {
        return url.as_str().trim_end_matches('/').to_owned();
    }
    let mut address = request.app_config().local_addr();
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
    }
    format!("http://{address}")
}

/// Download a file by its link
///
/// The same bytes and headers as the file's own address gives, and the same ranges. No token is needed.
#[utoipa::path(
    tag = "files",
    security(()),
    params(
        ("token" = String, Path, description = "The last part of the link."),
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
            ("Referrer-Policy" = String, description = "`no-referrer`"),
        )),
        (status = 206, description = "The range asked for.", body = FileBytes, content_type = "*/*", headers(
            ("Content-Length" = u64, description = "Bytes in this answer."),
            ("Content-Range" = String, description = "Which bytes these are, of how many."),
            ("ETag" = String, description = "Strong: the SHA-256 of the file."),
            ("Accept-Ranges" = String, description = "`bytes`"),
            ("Repr-Digest" = String, description = "SHA-256 of the whole file, as in RFC 9530."),
            ("Content-Disposition" = String, description = "The file's name."),
            ("Referrer-Policy" = String, description = "`no-referrer`"),
        )),
        (status = 304, description = "It is the file of `If-None-Match`."),
        Absent, LinkGone, NoSuchRange, Unavailable,
    ),
)]
#[get("/links/{token}")]
pub async fn follow_link(gateway: web::Data<Gateway>, request: HttpRequest, token: web::Path<String>) -> Answer {
    let file = find(&gateway, &token).await.map_err(private)?;
    files::send(&gateway, &file, request.headers()).await.map(without_referrer).map_err(private)
}

/// Describe a file by its link
///
/// The headers of the download, without the bytes.
#[utoipa::path(
    tag = "files",
    security(()),
    params(
        ("token" = String, Path, description = "The last part of the link."),
        ("If-None-Match" = Option<String>, Header, description = "An `ETag` of before: answers 304 for the same file."),
    ),
    responses(
        (status = 200, description = "The file is there.", headers(
            ("Content-Length" = u64, description = "Bytes of the file."),
            ("ETag" = String, description = "Strong: the SHA-256 of the file."),
            ("Accept-Ranges" = String, description = "`bytes`"),
            ("Repr-Digest" = String, description = "SHA-256 of the file, as in RFC 9530."),
            ("Content-Disposition" = String, description = "The file's name."),
            ("Referrer-Policy" = String, description = "`no-referrer`"),
        )),
        (status = 304, description = "It is the file of `If-None-Match`."),
        Absent, LinkGone, Unavailable,
    ),
)]
#[head("/links/{token}")]
pub async fn describe_link(gateway: web::Data<Gateway>, request: HttpRequest, token: web::Path<String>) -> Answer {
    let file = find(&gateway, &token).await.map_err(private)?;
    Ok(without_referrer(files::announce(&file, request.headers())))
}

/// The file of a link. Who made the link is in the log of its request from here on.
async fn find(gateway: &Gateway, token: &str) -> Result<FileRecord, ApiError> {
    let claims = operation::read_link(gateway, token)?;
    let span = tracing::Span::current();
    span.record("caller.subject", claims.subject.as_str());
    span.record("caller.tenant", claims.tenant.as_str());
    Ok(operation::follow_link(gateway, &claims).await?)
}

fn without_referrer(mut answer: HttpResponse) -> HttpResponse {
    answer.headers_mut().insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    answer
}

fn private(error: ApiError) -> ApiError {
    error
        .with_header(REFERRER_POLICY, HeaderValue::from_static("no-referrer"))
        .with_header(CACHE_CONTROL, HeaderValue::from_static("private, no-store"))
}
