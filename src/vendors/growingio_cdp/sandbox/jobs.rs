//! Export jobs: submit, the job's stages, the download.
//! Source: `developer-manual/open-api/cdp/space/space-download-user-tag-users.md` and its kin.

use std::{
    collections::HashMap,
    io,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use actix_web::{
    HttpRequest, HttpResponse,
    http::{StatusCode, header},
    web,
};
use chrono::{DateTime, TimeDelta, Timelike, Utc};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde_json::json;
use uuid::Uuid;

use super::{
    NAME, TOKEN,
    answer::{
        HTML, admit, denied, internal_server_error, json_answer, not_found, proxy_page, spoiled, too_many_requests,
    },
    contents::{Contents, Oddities},
    order::{Format, Order},
};
use crate::vendors::sandbox::{
    Running, World,
    files::{SpooledFile, Transfer, hang_up},
};

/// How long a finished job is known and its files can be fetched, by the vendor's clock; not documented for the API, a
/// day in the console (`product-manual/customer-data-platform/customer-segment/segment-export.md`).
const JOB_LIFE: TimeDelta = TimeDelta::hours(24);

/// What the simulator keeps between calls.
#[derive(Default)]
struct Jobs(Mutex<HashMap<String, Job>>);

struct Job {
    accepted: Instant,
    /// Paths on the server, decoded, by position of their file.
    paths: Vec<String>,
    running: Option<Running>,
    done: Option<(DateTime<Utc>, io::Result<Vec<SpooledFile>>)>,
}

impl Job {
    fn is_alive(&self, now: DateTime<Utc>) -> bool {
        self.done.as_ref().is_none_or(|(since, _)| now - since < JOB_LIFE)
    }
}

impl Jobs {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Job>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `POST …/user_tags/{key}/export_jobs` and `…/segment_profiles/{key}/export_jobs`.
pub async fn submit(world: web::Data<World>, request: HttpRequest, body: web::Bytes) -> HttpResponse {
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
        return denied(&world, StatusCode::UNAUTHORIZED);
    }
    if world.fault("growingio_cdp.export.forbidden") {
        return denied(&world, StatusCode::FORBIDDEN);
    }
    if world.fault("growingio_cdp.export.rate_limited") {
        return too_many_requests(&world);
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
    let slow = world.fault("growingio_cdp.export.slow");
    json_answer(&json!({"id": id, "name": name}), if slow { Transfer::Drip } else { Transfer::Whole })
}

/// Begins a job; answers its id and name.
fn begin(world: &web::Data<World>, order: Order) -> (String, String) {
    let now = world.now();
    let nanoseconds = u64::from(now.num_seconds_from_midnight()) * 1_000_000_000 + u64::from(now.nanosecond());
    let kind = if order.title.starts_with("标签") { "DET" } else { "DES" };
    let name = format!("{kind}-{}-{nanoseconds}", now.format("%Y%m%d%H%M"));
    let id = hash_id();
    let oddities = Oddities::drawn(world);
    let ending = if order.format == Format::Json { "json" } else { "csv" };
    let path = |part: u64| {
        let numbered = if part > 0 { format!("_{}", part + 1) } else { String::new() };
        format!("/jobs/results/{name}/{}_{}_UserList{numbered}.{ending}", order.title, now.format("%Y-%m-%d"))
    };
    let job = Job {
        accepted: Instant::now(),
        paths: (0..oddities.parts).map(path).collect(),
        running: Some(world.running(NAME, order.title.clone())),
        done: None,
    };
    let jobs = world.shelf::<Jobs>();
    {
        let mut jobs = jobs.lock();
        jobs.retain(|_, job| job.is_alive(now));
        jobs.insert(id.clone(), job);
    }

    let contents = Contents {
        audience: order.audience,
        seed: world.config.seed,
        computation: order.computation,
        properties: order.properties,
        format: order.format,
        oddities,
    };
    let (processing, own_id, world) = (world.config.processing, id.clone(), world.clone());
    actix_web::rt::spawn(async move {
        let (files, ()) = tokio::join!(contents.write(), tokio::time::sleep(processing));
        if let Some(job) = jobs.lock().get_mut(&own_id) {
            job.done = Some((world.now(), files));
            job.running = None;
        }
    });
    (id, name)
}

/// `GET /v1/api/job/result/{id}` and `GET /v1/api/projects/{project}/job/result/{id}`.
pub async fn job(world: web::Data<World>, request: HttpRequest) -> HttpResponse {
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
    let transfer = match spoiled(&world, "growingio_cdp.job", proxy_page) {
        Ok(transfer) => transfer,
        Err(answer) => return *answer,
    };
    let stage = |stage: &str| json_answer(&json!({"stage": stage}), transfer);
    if world.fault("growingio_cdp.job.unknown_stage") {
        return stage("PUBLISHING");
    }
    if world.fault("growingio_cdp.job.error_stage") {
        return stage("ERROR");
    }
    let jobs = world.shelf::<Jobs>();
    let jobs = jobs.lock();
    let now = world.now();
    let job = jobs.get(request.match_info().query("id")).filter(|job| job.is_alive(now));
    let Some(job) = job else { return not_found() };
    let paths = match &job.done {
        Some((_, Ok(_))) if world.fault("growingio_cdp.job.stuck") => return stage("RUNNING"),
        Some((_, Ok(_))) => job.paths.clone(),
        Some((_, Err(_))) => return stage("ERROR"),
        _ => return stage(running_stage(job.accepted.elapsed(), world.config.processing)),
    };
    drop(jobs);
    if world.fault("growingio_cdp.job.no_uris") {
        return json_answer(&json!({"stage": "FINISH", "uris": null}), transfer);
    }
    let raw = world.fault("growingio_cdp.job.raw_uris");
    let uris: Vec<_> = paths.into_iter().map(|path| if raw { path } else { encoded(&path) }).collect();
    json_answer(&json!({"stage": "FINISH", "uris": uris}), transfer)
}

/// The documented stages before `FINISH`, spread over the time a job takes.
pub fn running_stage(elapsed: Duration, processing: Duration) -> &'static str {
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
pub async fn download(world: web::Data<World>, request: HttpRequest) -> HttpResponse {
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
        let (jobs, now) = (jobs.lock(), world.now());
        let mut done = jobs.values().filter_map(|job| match &job.done {
            Some((_, Ok(files))) if job.is_alive(now) => Some((&job.paths, files)),
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

/// Eight letters and digits.
fn hash_id() -> String {
    const LETTERS: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let random = Uuid::new_v4();
    random.as_bytes()[8..].iter().map(|byte| char::from(LETTERS[usize::from(*byte) % 62])).collect()
}
