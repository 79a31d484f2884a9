//! Braze's wire for segment exports, simulated: `POST /users/export/segment`, the file link, cancelling, and the list
//! of segments, as `_docs/_api/endpoints/export/` documents them. Start at [`routes`].

mod activity;
mod archive;
mod order;
mod users;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use actix_web::{
    HttpRequest, HttpResponse, HttpResponseBuilder,
    http::{Method, StatusCode, header},
    web,
};
use chrono::Utc;
use serde_json::{Value, json};
use url::Url;
use uuid::Uuid;

pub use self::users::{Asked, FIELDS};
use self::{
    archive::{Contents, Damage},
    order::Order,
};
use crate::vendors::sandbox::{
    Audience, DEMO_FIELDS, DemoConnection, FaultSpec, Running, World,
    files::{SpooledFile, Transfer, hang_up},
    people::Person,
    vendor_base,
};

const NAME: &str = "braze";
/// The key that may do everything.
pub const API_KEY: &str = "sandbox-braze-key";
/// A known key without the permission `users.export.segment`.
pub const API_KEY_WITHOUT_EXPORT: &str = "sandbox-braze-key-without-export";

const SEGMENTS_PER_PAGE: usize = 100;

/// The faults this simulator can show.
pub const FAULTS: &[FaultSpec] = &[
    FaultSpec::times("braze.segment.not_ready", "the file link answers 403 although the export is done"),
    FaultSpec::times("braze.segment.unauthorized", "401"),
    FaultSpec::times("braze.segment.forbidden", "403: the key lacks the permission"),
    FaultSpec::times("braze.segment.bad_request", "400 for a good request"),
    FaultSpec::times("braze.segment.rate_limited", "429 with no budget left; it resets in two seconds"),
    FaultSpec::times("braze.segment.busy", "429 with budget left, as if the dashboard were exporting the segment"),
    FaultSpec::times("braze.segment.server_error", "500 in plain text"),
    FaultSpec::times("braze.segment.html", "502 with a proxy's HTML page"),
    FaultSpec::times("braze.segment.bad_json", "success, but the answer breaks off; no export begins"),
    FaultSpec::times("braze.segment.no_url", "success without a link: the workspace exports to its own bucket"),
    FaultSpec::times("braze.segment.lost_answer", "the export begins, but the connection closes without an answer"),
    FaultSpec::times("braze.segment.slow", "the export begins, but the answer comes 45 s later"),
    FaultSpec::times("braze.callback.lost", "no callback is sent"),
    FaultSpec::times("braze.callback.twice", "the callback is sent twice"),
    FaultSpec::times("braze.callback.early", "the callback is sent at once, long before the file is ready"),
    FaultSpec::times("braze.file.truncated", "the archive lacks its last part; Content-Length agrees"),
    FaultSpec::times("braze.file.cut", "the connection closes in the middle of the file"),
    FaultSpec::times("braze.file.drip", "the file comes at five bytes a second"),
    FaultSpec::url("braze.file.redirect", "302 to that address"),
    FaultSpec::times("braze.file.expired", "the link answers once, then 403 for good"),
    FaultSpec::times("braze.file.not_found", "404"),
    FaultSpec::times("braze.file.html", "200 with an HTML page"),
    FaultSpec::times("braze.file.server_error", "503: slow down"),
    FaultSpec::times("braze.file.empty", "the next archive has no bytes"),
    FaultSpec::times("braze.file.corrupt_crc", "the next archive's first member does not match its checksum"),
    FaultSpec::times("braze.file.bomb", "the next archive is 3 MiB that unpack to 3 GiB"),
    FaultSpec::times("braze.file.path_traversal", "the next archive has names that lead out of its folder"),
    FaultSpec::times("braze.file.nested", "the next archive holds an archive"),
    FaultSpec::times("braze.file.bad_record", "the next archive's second line breaks off"),
];

/// Adds the simulator's routes.
pub fn routes(routes: &mut web::ServiceConfig, world: Arc<World>) {
    routes
        .app_data(web::Data::from(world))
        .route("/users/export/segment", web::post().to(submit))
        .route("/users/export/segment/cancel", web::post().to(cancel))
        .route("/export/segment/cancel", web::post().to(cancel))
        .route("/segments/list", web::get().to(list_segments))
        .route("/files/{name}", web::route().to(file))
        .default_service(web::route().to(nowhere));
}

/// The connection a newcomer needs; the key is [`API_KEY`].
pub fn demo_connection(base: &Url) -> DemoConnection {
    DemoConnection {
        name: "demo-braze",
        vendor: NAME,
        body: json!({
            "vendor": NAME,
            "display_name": "Braze (sandbox)",
            "settings": {"base_url": vendor_base(base, NAME)},
            "credentials": {"api_key": API_KEY},
            "mapping": {},
        }),
        audience: json!({"kind": "segment", "id": segment_id(1)}),
        fields: DEMO_FIELDS,
        truth: without_fields,
        faults: FAULTS,
        datasets: &[],
    }
}

/// The row that an export without `fields` means: the 33 names of the documented list, where an absent member and null
/// are the same. `created_from` is in newer tables only and comes when it is named.
fn without_fields(person: &Person) -> Value {
    let mut row = person.braze_user_v1();
    if let Some(activity) = row["activity"].as_object_mut() {
        activity.retain(|name, value| name != "created_from" && !value.is_null());
    }
    row
}

/// What the simulator keeps between calls.
#[derive(Default)]
struct Workspace(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    /// Calls in the current hour, and when it began.
    hour: Option<(Instant, u64)>,
    /// By the unguessable part of the link.
    exports: HashMap<String, Export>,
}

struct Export {
    segment: u64,
    signature: String,
    /// None once it is done or cancelled.
    running: Option<Running>,
    cancelled: bool,
    /// Set once the file can be fetched.
    ready: Option<(Instant, Option<SpooledFile>)>,
    fetched: bool,
}

impl Workspace {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn running(&self) -> impl Iterator<Item = &Export> {
        self.exports.values().filter(|export| export.running.is_some())
    }
}

/// `X-RateLimit-*`, as every answer of the API carries them.
#[derive(Clone, Copy)]
struct Budget {
    limit: u64,
    remaining: u64,
    /// Unix time in seconds.
    reset: i64,
}

impl Budget {
    /// Counts one call; `None` is left when there was no budget for it.
    fn spend(world: &World) -> (Self, bool) {
        let limit = world.config.requests_per_hour;
        let workspace = world.shelf::<Workspace>();
        let mut inner = workspace.lock();
        let hour = Duration::from_hours(1);
        let (began, used) = inner.hour.filter(|(began, _)| began.elapsed() < hour).unwrap_or((Instant::now(), 0));
        let allowed = used < limit;
        let used = if allowed { used + 1 } else { used };
        inner.hour = Some((began, used));
        let left = hour.saturating_sub(began.elapsed());
        let reset = Utc::now().timestamp() + i64::try_from(left.as_secs()).unwrap_or(i64::MAX);
        (Self { limit, remaining: limit - used, reset }, allowed)
    }

    fn answer(self, status: StatusCode, body: &Value) -> HttpResponse {
        self.headers(&mut HttpResponse::build(status)).json(body)
    }

    fn headers(self, answer: &mut HttpResponseBuilder) -> &mut HttpResponseBuilder {
        answer
            .insert_header(("X-RateLimit-Limit", self.limit.to_string()))
            .insert_header(("X-RateLimit-Remaining", self.remaining.to_string()))
            .insert_header(("X-RateLimit-Reset", self.reset.to_string()))
    }
}

/// What every call of the API goes through: address, key, budget.
fn admit(world: &World, request: &HttpRequest, exports: bool) -> Result<Budget, Box<HttpResponse>> {
    let (budget, allowed) = Budget::spend(world);
    let refuse = |status, reason, message: &str| {
        world.refuse(NAME, reason);
        Err(Box::new(budget.answer(status, &json!({"message": message}))))
    };
    if request.query_string().contains("api_key") {
        world.violation(NAME, "the key was sent in the address");
    }
    let key = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    match key.and_then(|value| value.strip_prefix("Bearer ")) {
        Some(API_KEY) => {}
        Some(API_KEY_WITHOUT_EXPORT) if !exports => {}
        Some(API_KEY_WITHOUT_EXPORT) => return refuse(StatusCode::FORBIDDEN, "forbidden", "Access Denied"),
        _ => return refuse(StatusCode::UNAUTHORIZED, "unauthorized", "Unauthorized"),
    }
    if !allowed {
        return refuse(StatusCode::TOO_MANY_REQUESTS, "rate_limited", "Rate Limited");
    }
    Ok(budget)
}

/// `POST /users/export/segment`.
async fn submit(world: web::Data<World>, request: HttpRequest, body: web::Bytes) -> HttpResponse {
    if let Some(answer) = edge_fault(&world) {
        return answer;
    }
    let budget = match admit(&world, &request, true) {
        Ok(budget) => budget,
        Err(answer) => return *answer,
    };
    let refuse = |status, reason, message: &str, budget: Budget| {
        world.refuse(NAME, reason);
        budget.answer(status, &json!({"message": message}))
    };
    if world.fault("braze.segment.unauthorized") {
        return refuse(StatusCode::UNAUTHORIZED, "fault", "Unauthorized", budget);
    }
    if world.fault("braze.segment.forbidden") {
        return refuse(StatusCode::FORBIDDEN, "fault", "Access Denied", budget);
    }
    if world.fault("braze.segment.bad_request") {
        return refuse(StatusCode::BAD_REQUEST, "fault", "Bad Request", budget);
    }
    if world.fault("braze.segment.rate_limited") {
        let budget = Budget { remaining: 0, reset: Utc::now().timestamp() + 2, ..budget };
        return refuse(StatusCode::TOO_MANY_REQUESTS, "fault", "Rate Limited", budget);
    }
    if world.fault("braze.segment.busy") {
        return refuse(StatusCode::TOO_MANY_REQUESTS, "fault", "This segment is already being exported", budget);
    }
    if world.fault("braze.segment.bad_json") {
        let answer = "{\"message\": \"success\", \"object_prefix\": ";
        return budget.headers(HttpResponse::Created().content_type("application/json")).body(answer);
    }
    let order = match Order::parse(&world, &request, &body) {
        Ok(order) => order,
        Err(message) => return refuse(StatusCode::BAD_REQUEST, "bad_request", &message, budget),
    };
    let (token, signature) = match begin(&world, &order) {
        Ok(begun) => begun,
        Err((reason, message)) => return refuse(StatusCode::TOO_MANY_REQUESTS, reason, message, budget),
    };
    let url = format!("{}/files/{token}.zip?X-Amz-Expires=14400&X-Amz-Signature={signature}", own_address(&request));
    prepare(world.clone(), order, token, url.clone());

    if world.fault("braze.segment.lost_answer") {
        return hang_up();
    }
    if world.fault("braze.segment.slow") {
        tokio::time::sleep(world.config.slow_answer).await;
    }
    let url = if world.fault("braze.segment.no_url") { Value::Null } else { Value::from(url) };
    let prefix = format!("{}-{}", Uuid::new_v4(), Utc::now().timestamp());
    budget.answer(StatusCode::CREATED, &json!({"message": "success", "object_prefix": prefix, "url": url}))
}

/// What a proxy or a failing server in front of the API answers.
fn edge_fault(world: &World) -> Option<HttpResponse> {
    if world.fault("braze.segment.html") {
        return Some(HttpResponse::BadGateway().content_type("text/html").body(HTML));
    }
    world
        .fault("braze.segment.server_error")
        .then(|| HttpResponse::InternalServerError().content_type("text/plain").body("Internal Server Error"))
}

const HTML: &str = "<!DOCTYPE html><html><head><title>502 Bad Gateway</title></head><body>Bad Gateway</body></html>";

/// Begins an export, unless its segment is being exported or too many run. Answers the link's two secret parts.
fn begin(world: &World, order: &Order) -> Result<(String, String), (&'static str, &'static str)> {
    let workspace = world.shelf::<Workspace>();
    let mut inner = workspace.lock();
    let life = world.config.link_life;
    inner.exports.retain(|_, export| export.ready.as_ref().is_none_or(|(since, _)| since.elapsed() < life));
    inner.exports.retain(|_, export| !export.cancelled);
    if inner.running().any(|export| export.segment == order.audience.number) {
        return Err(("segment_busy", "This segment is already being exported"));
    }
    if inner.running().count() as u64 >= world.config.max_concurrent {
        return Err(("too_many_exports", "Too many concurrent segment exports"));
    }
    let token = Uuid::new_v4().simple().to_string();
    let signature = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
    let export = Export {
        segment: order.audience.number,
        signature: signature.clone(),
        running: Some(world.running(NAME, order.audience.number.to_string())),
        cancelled: false,
        ready: None,
        fetched: false,
    };
    inner.exports.insert(token.clone(), export);
    Ok((token, signature))
}

/// Prepares the file in the background and reports its end.
fn prepare(world: web::Data<World>, order: Order, token: String, url: String) {
    let damage = [
        ("braze.file.empty", Damage::Empty),
        ("braze.file.corrupt_crc", Damage::CorruptCrc),
        ("braze.file.bomb", Damage::Bomb),
        ("braze.file.path_traversal", Damage::PathTraversal),
        ("braze.file.nested", Damage::Nested),
        ("braze.file.bad_record", Damage::BadRecord),
    ]
    .into_iter()
    .find(|(name, _)| world.fault(name))
    .map_or(Damage::None, |(_, damage)| damage);
    let contents = Contents {
        audience: order.audience,
        seed: world.config.seed,
        asked: order.asked,
        users_per_member: world.config.records_per_file,
    };
    let workspace = world.shelf::<Workspace>();
    actix_web::rt::spawn(async move {
        if let Some(callback) = order.callback.clone().filter(|_| world.fault("braze.callback.early")) {
            report(&world, callback, &url).await;
        }
        let processing = tokio::time::sleep(world.config.processing);
        let (file, ()) = tokio::join!(SpooledFile::write(move |file| contents.write(damage, file)), processing);
        // A real export that cannot be built tells people by e-mail and the API nothing: the link never works.
        let file = file.inspect_err(|error| tracing::error!(%error, "the sandbox could not write an archive")).ok();
        {
            let mut inner = workspace.lock();
            let Some(export) = inner.exports.get_mut(&token).filter(|export| !export.cancelled) else { return };
            export.ready = Some((Instant::now(), file));
            export.running = None;
        }
        let Some(callback) = order.callback else { return };
        let times = match () {
            () if world.fault("braze.callback.lost") => 0,
            () if world.fault("braze.callback.twice") => 2,
            () => 1,
        };
        for _ in 0..times {
            report(&world, callback.clone(), &url).await;
        }
    });
}

async fn report(world: &World, callback: Url, url: &str) {
    let sent = world.http().post(callback).json(&json!({"success": true, "url": url})).send().await;
    let delivered = sent.is_ok_and(|answer| answer.status().is_success());
    world.note(NAME, |activity| {
        activity.callbacks += 1;
        activity.callbacks_failed += u64::from(!delivered);
    });
}

/// The file link: plays the object store, which knows nothing of the API's keys.
async fn file(world: web::Data<World>, request: HttpRequest, name: web::Path<String>) -> HttpResponse {
    if request.method() == Method::HEAD {
        return HttpResponse::Forbidden().content_type("application/xml").finish();
    }
    if request.method() != Method::GET {
        return xml(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", "The specified method is not allowed");
    }
    world.note(NAME, |activity| activity.polls += 1);
    if request.headers().contains_key(header::AUTHORIZATION) {
        world.violation(NAME, "the key was sent to the file host");
        return xml(StatusCode::BAD_REQUEST, "InvalidArgument", "Only one auth mechanism allowed");
    }
    let denied = || xml(StatusCode::FORBIDDEN, "AccessDenied", "Access Denied");
    let token = name.strip_suffix(".zip").unwrap_or_default();
    let workspace = world.shelf::<Workspace>();
    let (file, fetched) = {
        let inner = workspace.lock();
        let Some(export) = inner.exports.get(token).filter(|export| !export.cancelled) else { return denied() };
        if !request.query_string().ends_with(&format!("X-Amz-Signature={}", export.signature)) {
            return xml(StatusCode::FORBIDDEN, "SignatureDoesNotMatch", "The request signature does not match");
        }
        match &export.ready {
            Some((since, Some(file))) if since.elapsed() < world.config.link_life => (file.clone(), export.fetched),
            _ => return denied(),
        }
    };
    if world.fault("braze.segment.not_ready") || (fetched && world.fault("braze.file.expired")) {
        return denied();
    }
    if let Some(elsewhere) = world.fault_url("braze.file.redirect") {
        return HttpResponse::Found().insert_header((header::LOCATION, elsewhere)).finish();
    }
    if world.fault("braze.file.not_found") {
        return xml(StatusCode::NOT_FOUND, "NoSuchKey", "The specified key does not exist.");
    }
    if world.fault("braze.file.server_error") {
        return xml(StatusCode::SERVICE_UNAVAILABLE, "SlowDown", "Please reduce your request rate.");
    }
    if world.fault("braze.file.html") {
        return HttpResponse::Ok().content_type("text/html").body(HTML);
    }
    let transfer = [
        ("braze.file.cut", Transfer::Cut),
        ("braze.file.truncated", Transfer::Truncated),
        ("braze.file.drip", Transfer::Drip),
    ]
    .into_iter()
    .find(|(name, _)| world.fault(name))
    .map_or(Transfer::Whole, |(_, transfer)| transfer);
    if let Some(export) = workspace.lock().exports.get_mut(token) {
        export.fetched = true;
    }
    world.note(NAME, |activity| activity.downloads += 1);
    file.serve(&request, "application/zip", transfer)
}

/// `POST /users/export/segment/cancel`, also known as `/export/segment/cancel`: stops every export of the segment.
async fn cancel(world: web::Data<World>, request: HttpRequest, body: web::Bytes) -> HttpResponse {
    let budget = match admit(&world, &request, false) {
        Ok(budget) => budget,
        Err(answer) => return *answer,
    };
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let Some(number) = body.get("segment_id").and_then(Value::as_str).and_then(segment_number) else {
        world.refuse(NAME, "bad_request");
        let message = "segment_id must be a string of the segment api identifier";
        return budget.answer(StatusCode::BAD_REQUEST, &json!({"message": message}));
    };
    let workspace = world.shelf::<Workspace>();
    for export in workspace.lock().exports.values_mut() {
        if export.segment == number && export.running.take().is_some() {
            export.cancelled = true;
        }
    }
    budget.answer(StatusCode::OK, &json!({"message": "success"}))
}

/// `GET /segments/list`.
async fn list_segments(world: web::Data<World>, request: HttpRequest) -> HttpResponse {
    let budget = match admit(&world, &request, false) {
        Ok(budget) => budget,
        Err(answer) => return *answer,
    };
    let query: HashMap<String, String> =
        url::form_urlencoded::parse(request.query_string().as_bytes()).into_owned().collect();
    let page: usize = query.get("page").and_then(|page| page.parse().ok()).unwrap_or(0);
    let row = |audience: Audience| {
        json!({
            "id": segment_id(audience.number),
            "name": audience.title(),
            "analytics_tracking_enabled": audience.number % 2 == 1,
            "tags": if audience.number == 1 { json!(["demo"]) } else { json!([]) },
        })
    };
    let start = page.saturating_mul(SEGMENTS_PER_PAGE);
    let segments: Vec<Value> = if query.get("sort_direction").is_some_and(|direction| direction == "desc") {
        let mut all: Vec<_> = world.audiences().collect();
        all.reverse();
        all.into_iter().skip(start).take(SEGMENTS_PER_PAGE).map(row).collect()
    } else {
        world.audiences().skip(start).take(SEGMENTS_PER_PAGE).map(row).collect()
    };
    budget.answer(StatusCode::OK, &json!({"message": "success", "segments": segments}))
}

async fn nowhere(world: web::Data<World>, request: HttpRequest) -> HttpResponse {
    world.violation(NAME, format!("{} {} is not documented", request.method(), request.path()));
    HttpResponse::NotFound().json(json!({"message": "Not Found"}))
}

fn xml(status: StatusCode, code: &str, message: &str) -> HttpResponse {
    HttpResponse::build(status).content_type("application/xml").body(format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{message}</Message><RequestId>{}</RequestId></Error>",
        Uuid::new_v4().simple()
    ))
}

/// The address the client knows this simulator by.
fn own_address(request: &HttpRequest) -> String {
    let info = request.connection_info();
    format!("{}://{}/{NAME}", info.scheme(), info.host())
}

/// The API identifier of the segment of that number.
pub fn segment_id(number: u64) -> String {
    format!("5a1b0c2d-0000-4000-8000-{number:012}")
}

fn segment_number(id: &str) -> Option<u64> {
    let digits = id.strip_prefix("5a1b0c2d-0000-4000-8000-")?;
    let number = digits.parse().ok()?;
    (segment_id(number) == id).then_some(number)
}

#[cfg(test)]
mod tests;
