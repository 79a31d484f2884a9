//! The CDP's wire for export jobs, simulated: submit for tags and segments, the job's stages, the download, and the
//! lists of tags and segments, as `developer-manual/open-api/` documents them. Start at [`routes`].

mod catalog;
mod contents;
mod order;
mod users;

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use actix_web::{
    HttpRequest, HttpResponse,
    http::{StatusCode, header},
    web,
};
use chrono::{Timelike, Utc};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde_json::json;
use url::Url;
use uuid::Uuid;

pub use self::users::{GioId, MAPPING};
use self::{
    contents::Contents,
    order::{Format, Order},
};
use crate::vendors::sandbox::{
    Audience, DEMO_FIELDS, DemoConnection, FaultSpec, Running, World,
    files::{SpooledFile, Transfer, hang_up},
    vendor_base,
};

const NAME: &str = "growingio_cdp";
/// The token that works.
pub const TOKEN: &str = "4aaa22c7-679f-49be-b97d-5a2db0c0ffee";
/// The project and the workspace that the token may use.
pub const PROJECT: &str = "WlGk4Daj";
pub const SPACE: &str = "VKwkPmqX";

/// How long a file can be fetched; not documented for the API, a day in the console.
const FILE_LIFE: Duration = Duration::from_hours(24);

/// The faults this simulator can show.
pub const FAULTS: &[FaultSpec] = &[
    FaultSpec::times("growingio_cdp.export.unauthorized", "401"),
    FaultSpec::times("growingio_cdp.export.forbidden", "403"),
    FaultSpec::times("growingio_cdp.export.server_error", "500 in plain text, as for an unknown key"),
    FaultSpec::times("growingio_cdp.export.html", "502 with a proxy's HTML page"),
    FaultSpec::times("growingio_cdp.export.bad_json", "the answer breaks off; no job begins"),
    FaultSpec::times("growingio_cdp.export.lost_answer", "the job begins, but the connection closes without an answer"),
    FaultSpec::times("growingio_cdp.job.only_project_path", "404 unless the job is asked for below its project"),
    FaultSpec::times("growingio_cdp.job.only_bare_path", "404 if the job is asked for below its project"),
    FaultSpec::times("growingio_cdp.job.unknown_stage", "a stage that nobody has documented"),
    FaultSpec::times("growingio_cdp.job.error_stage", "the job has failed"),
    FaultSpec::times("growingio_cdp.job.no_uris", "finished, but without addresses of files"),
    FaultSpec::times("growingio_cdp.job.raw_uris", "finished, with addresses that are not encoded"),
    FaultSpec::times("growingio_cdp.job.gone", "404 on either path"),
    FaultSpec::times("growingio_cdp.job.server_error", "500 in plain text"),
    FaultSpec::times("growingio_cdp.job.html", "502 with a proxy's HTML page"),
    FaultSpec::times("growingio_cdp.job.stuck", "the job keeps running although it is done"),
    FaultSpec::times("growingio_cdp.file.cut", "the connection closes in the middle of the file"),
    FaultSpec::times("growingio_cdp.file.truncated", "the file lacks its last part; Content-Length agrees"),
    FaultSpec::times("growingio_cdp.file.drip", "the file comes at five bytes a second"),
    FaultSpec::url("growingio_cdp.file.redirect", "302 to that address"),
    FaultSpec::times("growingio_cdp.file.not_found", "404"),
    FaultSpec::times("growingio_cdp.file.server_error", "500 in plain text"),
    FaultSpec::times("growingio_cdp.file.html", "200 with an HTML page"),
    FaultSpec::times("growingio_cdp.file.bad_record", "the next file's second line breaks off"),
    FaultSpec::times("growingio_cdp.file.gio_id_as_text", "the next file has gio_id as text"),
    FaultSpec::times("growingio_cdp.file.empty", "the next file has no bytes"),
    FaultSpec::times("growingio_cdp.file.two_parts", "the next job has two files"),
];

/// Adds the simulator's routes.
pub fn routes(routes: &mut web::ServiceConfig, world: Arc<World>) {
    routes.app_data(web::Data::from(world));
    for scope in ["/v1/api/projects/{project}/spaces/{space}", "/v1/api/projects/{project}", "/v1/api"] {
        routes
            .route(&format!("{scope}/{{kind:user_tags|segment_profiles}}"), web::get().to(catalog::list))
            .route(&format!("{scope}/{{kind:user_tags|segment_profiles}}/{{key}}/export_jobs"), web::post().to(submit));
    }
    routes
        .route("/v1/api/projects", web::get().to(catalog::projects))
        .route("/v1/api/projects/{project}/job/result/{id}", web::get().to(job))
        .route("/v1/api/job/result/{id}", web::get().to(job))
        .route("/download", web::get().to(download))
        .default_service(web::route().to(nowhere));
}

/// The connection a newcomer needs; the token is [`TOKEN`].
pub fn demo_connection(base: &Url) -> DemoConnection {
    let mapping: serde_json::Map<_, _> =
        MAPPING.iter().map(|(column, property)| ((*column).to_owned(), json!(property))).collect();
    DemoConnection {
        name: "demo-cdp",
        vendor: NAME,
        body: json!({
            "vendor": NAME,
            "display_name": "GrowingIO CDP (sandbox)",
            "settings": {"base_url": vendor_base(base, NAME), "project_id": PROJECT, "space_id": SPACE},
            "credentials": {"token": TOKEN},
            "mapping": mapping,
        }),
        audience: json!({"kind": "tag", "id": tag_key(1)}),
        fields: DEMO_FIELDS,
        truth: |person| {
            let mapping = MAPPING.iter().map(|(column, property)| ((*column).into(), (*property).into())).collect();
            person.cdp_user_v1(&mapping, &[])
        },
        faults: FAULTS,
        datasets: &[],
    }
}

/// What the simulator keeps between calls.
#[derive(Default)]
struct Jobs(Mutex<HashMap<String, Job>>);

struct Job {
    accepted: Instant,
    /// Paths on the server, decoded, by position of their file.
    paths: Vec<String>,
    running: Option<Running>,
    done: Option<(Instant, io::Result<Vec<SpooledFile>>)>,
}

impl Jobs {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Job>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The vendor's answer to nearly everything that is wrong.
fn internal_server_error() -> HttpResponse {
    HttpResponse::InternalServerError().content_type("text/plain;charset=UTF-8").body("Internal Server Error")
}

const HTML: &str = "<html><head><title>502 Bad Gateway</title></head><body><center>nginx</center></body></html>";

fn proxy_page() -> HttpResponse {
    HttpResponse::BadGateway().content_type("text/html").body(HTML)
}

fn not_found() -> HttpResponse {
    HttpResponse::NotFound().content_type("text/plain;charset=UTF-8").body("Not Found")
}

/// The token, and project and workspace where the path has them. What is not granted looks like a fault of the server.
fn admit(world: &World, request: &HttpRequest) -> Result<(), Box<HttpResponse>> {
    let token = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if token.and_then(|value| value.strip_prefix("Bearer ")) != Some(TOKEN) {
        world.refuse(NAME, "unauthorized");
        return Err(Box::new(HttpResponse::Unauthorized().finish()));
    }
    let place = request.match_info();
    let granted = |name, granted| place.get(name).is_none_or(|asked| asked == granted);
    if !granted("project", PROJECT) || !granted("space", SPACE) {
        world.refuse(NAME, "not_granted");
        return Err(Box::new(internal_server_error()));
    }
    Ok(())
}

/// `POST …/user_tags/{key}/export_jobs` and `…/segment_profiles/{key}/export_jobs`.
async fn submit(world: web::Data<World>, request: HttpRequest, body: web::Bytes) -> HttpResponse {
    if world.fault("growingio_cdp.export.html") {
        return proxy_page();
    }
    if world.fault("growingio_cdp.export.server_error") {
        return internal_server_error();
    }
    if let Err(answer) = admit(&world, &request) {
        return *answer;
    }
    if world.fault("growingio_cdp.export.unauthorized") {
        world.refuse(NAME, "fault");
        return HttpResponse::Unauthorized().finish();
    }
    if world.fault("growingio_cdp.export.forbidden") {
        world.refuse(NAME, "fault");
        return HttpResponse::Forbidden().finish();
    }
    let order = match Order::parse(&world, &request, &body) {
        Ok(order) => order,
        Err(reason) => {
            world.refuse(NAME, reason);
            return internal_server_error();
        }
    };
    if world.fault("growingio_cdp.export.bad_json") {
        return HttpResponse::Ok().content_type("application/json").body("{\"id\":\"kqQe");
    }
    let (id, name) = begin(&world, order);
    if world.fault("growingio_cdp.export.lost_answer") {
        return hang_up();
    }
    HttpResponse::Ok().json(json!({"id": id, "name": name}))
}

/// Begins a job; answers its id and name.
fn begin(world: &web::Data<World>, order: Order) -> (String, String) {
    let now = Utc::now();
    let nanoseconds = u64::from(now.num_seconds_from_midnight()) * 1_000_000_000 + u64::from(now.nanosecond());
    let kind = if order.title.starts_with("标签") { "DET" } else { "DES" };
    let name = format!("{kind}-{}-{nanoseconds}", now.format("%Y%m%d%H%M"));
    let id = hash_id();
    let parts = if world.fault("growingio_cdp.file.two_parts") { 2 } else { 1 };
    let ending = if order.format == Format::Json { "json" } else { "csv" };
    let path = |part: u64| {
        let numbered = if part > 0 { format!("_{}", part + 1) } else { String::new() };
        format!("/jobs/results/{name}/{}_{}_UserList{numbered}.{ending}", order.title, now.format("%Y-%m-%d"))
    };
    let job = Job {
        accepted: Instant::now(),
        paths: (0..parts).map(path).collect(),
        running: Some(world.running(NAME, order.title.clone())),
        done: None,
    };
    let jobs = world.shelf::<Jobs>();
    {
        let mut jobs = jobs.lock();
        jobs.retain(|_, job| job.done.as_ref().is_none_or(|(since, _)| since.elapsed() < FILE_LIFE));
        jobs.insert(id.clone(), job);
    }

    let contents = Contents {
        audience: order.audience,
        seed: world.config.seed,
        properties: order.properties,
        format: order.format,
        parts,
        gio_id: if world.fault("growingio_cdp.file.gio_id_as_text") { GioId::Text } else { GioId::Number },
        bad_record: world.fault("growingio_cdp.file.bad_record"),
        empty: world.fault("growingio_cdp.file.empty"),
    };
    let (processing, own_id) = (world.config.processing, id.clone());
    actix_web::rt::spawn(async move {
        let (files, ()) = tokio::join!(contents.write(), tokio::time::sleep(processing));
        if let Some(job) = jobs.lock().get_mut(&own_id) {
            job.done = Some((Instant::now(), files));
            job.running = None;
        }
    });
    (id, name)
}

/// `GET /v1/api/job/result/{id}` and `GET /v1/api/projects/{project}/job/result/{id}`.
async fn job(world: web::Data<World>, request: HttpRequest) -> HttpResponse {
    if let Err(answer) = admit(&world, &request) {
        return *answer;
    }
    world.note(NAME, |activity| activity.polls += 1);
    let below_project = request.match_info().get("project").is_some();
    if (!below_project && world.fault("growingio_cdp.job.only_project_path"))
        || (below_project && world.fault("growingio_cdp.job.only_bare_path"))
        || world.fault("growingio_cdp.job.gone")
    {
        return not_found();
    }
    if world.fault("growingio_cdp.job.server_error") {
        return internal_server_error();
    }
    if world.fault("growingio_cdp.job.html") {
        return proxy_page();
    }
    if world.fault("growingio_cdp.job.unknown_stage") {
        return stage("PUBLISHING");
    }
    if world.fault("growingio_cdp.job.error_stage") {
        return stage("ERROR");
    }
    let jobs = world.shelf::<Jobs>();
    let jobs = jobs.lock();
    let Some(job) = jobs.get(request.match_info().query("id")) else { return not_found() };
    let paths = match &job.done {
        Some((_, Ok(_))) if world.fault("growingio_cdp.job.stuck") => return stage("RUNNING"),
        Some((_, Ok(_))) => job.paths.clone(),
        Some((_, Err(_))) => return stage("ERROR"),
        _ => return stage(running_stage(job.accepted.elapsed(), world.config.processing)),
    };
    drop(jobs);
    if world.fault("growingio_cdp.job.no_uris") {
        return HttpResponse::Ok().json(json!({"stage": "FINISH", "uris": null}));
    }
    let raw = world.fault("growingio_cdp.job.raw_uris");
    let uris: Vec<_> = paths.into_iter().map(|path| if raw { path } else { encoded(&path) }).collect();
    HttpResponse::Ok().json(json!({"stage": "FINISH", "uris": uris}))
}

fn stage(stage: &str) -> HttpResponse {
    HttpResponse::Ok().json(json!({"stage": stage}))
}

/// The documented stages before `FINISH`, spread over the time a job takes.
fn running_stage(elapsed: Duration, processing: Duration) -> &'static str {
    if elapsed < processing / 4 {
        "READY"
    } else if elapsed < processing * 3 / 4 {
        "RUNNING"
    } else {
        "DATA_READY"
    }
}

/// As the vendor gives paths: all but unreserved characters encoded, slashes included.
fn encoded(path: &str) -> String {
    const ENCODED: &percent_encoding::AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
    utf8_percent_encode(path, ENCODED).to_string()
}

/// `GET /download?file=`. The documents do not say whether the token is wanted; a wrong one is refused.
async fn download(world: web::Data<World>, request: HttpRequest) -> HttpResponse {
    let token = request.headers().get(header::AUTHORIZATION).map(header::HeaderValue::as_bytes);
    if token.is_some_and(|value| value != format!("Bearer {TOKEN}").as_bytes()) {
        world.refuse(NAME, "unauthorized");
        return HttpResponse::Unauthorized().finish();
    }
    let Some(asked) = request.query_string().strip_prefix("file=") else { return not_found() };
    let path = percent_decode_str(asked).decode_utf8_lossy();
    if path.starts_with("%2F") {
        world.violation(NAME, "the file's address was encoded twice");
        return not_found();
    }
    let file = {
        let jobs = world.shelf::<Jobs>();
        let jobs = jobs.lock();
        let mut done = jobs.values().filter_map(|job| match &job.done {
            Some((since, Ok(files))) if since.elapsed() < FILE_LIFE => Some((&job.paths, files)),
            _ => None,
        });
        done.find_map(|(paths, files)| Some(files.get(paths.iter().position(|known| *known == path)?)?.clone()))
    };
    let Some(file) = file else { return not_found() };
    if let Some(elsewhere) = world.fault_url("growingio_cdp.file.redirect") {
        return HttpResponse::Found().insert_header((header::LOCATION, elsewhere)).finish();
    }
    if world.fault("growingio_cdp.file.not_found") {
        return not_found();
    }
    if world.fault("growingio_cdp.file.server_error") {
        return internal_server_error();
    }
    if world.fault("growingio_cdp.file.html") {
        return HttpResponse::Ok().content_type("text/html").body(HTML);
    }
    let transfer = [
        ("growingio_cdp.file.cut", Transfer::Cut),
        ("growingio_cdp.file.truncated", Transfer::Truncated),
        ("growingio_cdp.file.drip", Transfer::Drip),
    ]
    .into_iter()
    .find(|(name, _)| world.fault(name))
    .map_or(Transfer::Whole, |(_, transfer)| transfer);
    world.note(NAME, |activity| activity.downloads += 1);
    file.serve(&request, "application/octet-stream", transfer)
}

async fn nowhere(world: web::Data<World>, request: HttpRequest) -> HttpResponse {
    world.violation(NAME, format!("{} {} is not documented", request.method(), request.path()));
    HttpResponse::build(StatusCode::NOT_FOUND).content_type("text/plain;charset=UTF-8").body("Not Found")
}

/// The key of the tag of that number; `tag_rfm` is everybody.
pub fn tag_key(number: u64) -> String {
    audience_key("tag", number)
}

/// The key of the segment of that number; `seg_rfm` is everybody.
pub fn segment_key(number: u64) -> String {
    audience_key("seg", number)
}

fn audience_key(prefix: &str, number: u64) -> String {
    if number == 1 { format!("{prefix}_rfm") } else { format!("{prefix}_{number}") }
}

fn audience_number(key: &str, prefix: &str) -> Option<u64> {
    let rest = key.strip_prefix(prefix)?.strip_prefix('_')?;
    let number = if rest == "rfm" { 1 } else { rest.parse().ok()? };
    (audience_key(prefix, number) == key).then_some(number)
}

fn display_title(audience: Audience, prefix: &str) -> String {
    let kind = if prefix == "tag" { "标签" } else { "分群" };
    format!("{kind}_{}", audience.title())
}

/// Eight letters and digits.
fn hash_id() -> String {
    const LETTERS: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let random = Uuid::new_v4();
    random.as_bytes()[8..].iter().map(|byte| char::from(LETTERS[usize::from(*byte) % 62])).collect()
}

#[cfg(test)]
mod tests;
