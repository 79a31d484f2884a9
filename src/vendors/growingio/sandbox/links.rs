//! Links to files, as an object store signs and serves them: they work without token, until they expire, and only there.

use actix_web::{
    HttpRequest, HttpResponse,
    http::{Method, StatusCode, header},
    web,
};
use chrono::{DateTime, TimeDelta, Utc};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use uuid::Uuid;

use super::{
    AI, NAME,
    access::{html, served},
    columns::DataType,
    events::Source,
    exporter,
    raw_files::{Damage, Part, Version},
    slices::Hour,
    token::sign,
};
use crate::vendors::sandbox::{World, files::Transfer};

/// Signs the links; known to the object store alone.
const LINK_KEY: &[u8] = b"sandbox-object-store-key";

/// Lifetime of links without `expire`, and the longest that may be asked for.
pub const DEFAULT_MINUTES: i64 = 5;
pub const MAX_MINUTES: i64 = 10_080;

/// Reads `expire`, in minutes.
pub fn lifetime(expire: Option<&String>) -> Option<TimeDelta> {
    let minutes = expire.map_or(Some(DEFAULT_MINUTES), |text| text.parse().ok())?;
    (1..=MAX_MINUTES).contains(&minutes).then(|| TimeDelta::minutes(minutes))
}

/// A new link to a file of raw data.
pub fn to_part(request: &HttpRequest, part: &Part, expires: DateTime<Utc>) -> String {
    let (version, name) = match (part.version, part.data_type.version_1) {
        (Version::One, Some((name, _))) => ("1", name),
        _ => ("2", part.data_type.name),
    };
    let folder_id = part.source.draw(part.data_type, part.hour, 0, "folder") % 0x1000;
    let folder = format!("{version}{folder_id:03x}_{AI}_{name}_{}", part.hour.stamp());
    let path = format!("/objects/{folder}/part-{:05}-{}.csv.gz", part.number, Uuid::new_v4());
    let expires = expires.timestamp_millis();
    let signature = signature(&path, expires);
    format!("{}{path}?AWSAccessKeyId=SANDBOX&Expires={expires}&Signature={signature}", own_address(request))
}

/// A link to the users of a segment; `job` tells which. `name` may hold anything.
pub fn to_segment(request: &HttpRequest, job: Uuid, name: &str, now: DateTime<Utc>, expires: DateTime<Utc>) -> String {
    let (day, range) = (now.format("%Y%m%d"), now.format("%Y-%m-%d"));
    let name = utf8_percent_encode(name, NON_ALPHANUMERIC);
    let path = format!("/buckets/segment-download-jobs/{day}/{job}/{range}_{name}.csv");
    let expires = expires.timestamp_millis();
    format!("{}{path}?sign={}&expires={expires}", own_address(request), signature(&path, expires))
}

/// The address the client knows this simulator by.
fn own_address(request: &HttpRequest) -> String {
    let info = request.connection_info();
    format!("{}://{}/{NAME}", info.scheme(), info.host())
}

fn signature(path: &str, expires: i64) -> String {
    let decoded = percent_decode_str(path).decode_utf8_lossy();
    sign(LINK_KEY, &format!("GET\n{expires}\n{decoded}"))
}

/// `GET` of a link to raw data.
pub async fn raw_file(world: web::Data<World>, request: HttpRequest) -> HttpResponse {
    if let Some(refusal) = refused(&world, &request, "Expires", "Signature").or_else(|| troubled(&world)) {
        return refusal;
    }
    let Some(part) = part_of(&world, &request) else { return no_such_key() };
    let damage = Damage {
        empty: world.fault("growingio.file.empty"),
        bad_record: world.fault("growingio.file.bad_record"),
        no_header: world.fault("growingio.file.no_header"),
        bom: world.fault("growingio.file.bom"),
    };
    world.note(NAME, |activity| activity.downloads += 1);
    let version = if part.version == Version::One { "v1" } else { "v2" };
    let slice = format!("{version}/{}/{}/{}", part.data_type.name, part.hour.stamp(), part.number);
    world.count(NAME, format!("downloaded {slice}"));
    let fill = move |file: &mut _| part.write(damage, file);
    served(&request, "application/x-gzip", transfer(&world), fill).await
}

/// `GET` of a link to the users of a segment.
pub async fn segment_file(world: web::Data<World>, request: HttpRequest) -> HttpResponse {
    if let Some(refusal) = refused(&world, &request, "expires", "sign").or_else(|| troubled(&world)) {
        return refusal;
    }
    let job = request.match_info().query("job").parse().ok();
    let Some(mut users) = job.and_then(|job| exporter::users_of(&world, job)) else { return no_such_key() };
    users.empty = world.fault("growingio.file.empty");
    users.bad_record = world.fault("growingio.file.bad_record");
    users.bom = world.fault("growingio.file.bom");
    let mut transfer = transfer(&world);
    if transfer == Transfer::Truncated {
        // Plain text: it breaks off in the middle of a record.
        users.break_off = true;
        transfer = Transfer::Whole;
    }
    world.note(NAME, |activity| activity.downloads += 1);
    world.count(NAME, format!("downloaded segment {}", users.audience.number));
    served(&request, "text/csv", transfer, move |file| users.write(file)).await
}

/// What a store that checks the link answers, if it does not like it.
fn refused(world: &World, request: &HttpRequest, expires_name: &str, signature_name: &str) -> Option<HttpResponse> {
    let headers = request.headers();
    if headers.contains_key(header::AUTHORIZATION) || headers.contains_key("X-Client-Id") {
        world.refuse(NAME, "credentials_at_file_host");
        world.violation(NAME, "the token or the public key was sent to the file host");
        let text = "Only one auth mechanism allowed";
        return Some(xml(StatusCode::BAD_REQUEST, "InvalidArgument", text));
    }
    if request.method() != Method::GET {
        world.refuse(NAME, "link_method");
        world.violation(NAME, format!("{} of a link that is signed for GET", request.method()));
        return Some(xml(StatusCode::FORBIDDEN, "SignatureDoesNotMatch", "The signature does not match"));
    }
    let query: Vec<_> = url::form_urlencoded::parse(request.query_string().as_bytes()).collect();
    let value = |name: &str| query.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_ref());
    let expires: i64 = value(expires_name).and_then(|text| text.parse().ok()).unwrap_or_default();
    let path = request.uri().path();
    let path = path.strip_prefix(&format!("/{NAME}")).unwrap_or(path);
    if value(signature_name) != Some(&signature(path, expires)) {
        world.refuse(NAME, "link_signature");
        return Some(xml(StatusCode::FORBIDDEN, "SignatureDoesNotMatch", "The signature does not match"));
    }
    if world.now().timestamp_millis() >= expires || world.fault("growingio.file.expired") {
        world.refuse(NAME, "link_expired");
        return Some(xml(StatusCode::FORBIDDEN, "AccessDenied", "Request has expired"));
    }
    None
}

fn troubled(world: &World) -> Option<HttpResponse> {
    if let Some(elsewhere) = world.fault_url("growingio.file.redirect") {
        return Some(HttpResponse::Found().insert_header((header::LOCATION, elsewhere)).finish());
    }
    if world.fault("growingio.file.not_found") {
        return Some(no_such_key());
    }
    if world.fault("growingio.file.server_error") {
        return Some(xml(StatusCode::SERVICE_UNAVAILABLE, "SlowDown", "Please reduce your request rate."));
    }
    world.fault("growingio.file.html").then(html)
}

fn transfer(world: &World) -> Transfer {
    [
        ("growingio.file.cut", Transfer::Cut),
        ("growingio.file.truncated", Transfer::Truncated),
        ("growingio.file.drip", Transfer::Drip),
    ]
    .into_iter()
    .find(|(name, _)| world.fault(name))
    .map_or(Transfer::Whole, |(_, transfer)| transfer)
}

/// The part a path names; its signature was checked.
fn part_of(world: &World, request: &HttpRequest) -> Option<Part> {
    let path = request.match_info();
    let (head, stamp) = path.query("folder").rsplit_once('_')?;
    let (id, name) = head.split_once(&format!("_{AI}_"))?;
    let version = if id.starts_with('1') { Version::One } else { Version::Two };
    let data_type = match version {
        Version::One => DataType::named_in_version_1(name)?,
        Version::Two => DataType::named(name)?,
    };
    let hour = Hour::from_stamp(stamp)?;
    let number = path.query("file").strip_prefix("part-")?.split('-').next()?.parse().ok()?;
    let max_records = world.config.raw_part_records.max(1);
    Some(Part { source: Source::of(world), version, data_type, hour, number, max_records })
}

fn no_such_key() -> HttpResponse {
    xml(StatusCode::NOT_FOUND, "NoSuchKey", "The specified key does not exist.")
}

fn xml(status: StatusCode, code: &str, message: &str) -> HttpResponse {
    HttpResponse::build(status).content_type("application/xml").body(format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    ))
}
