//! Exports that take a while: of a segment and of the global control group, and cancelling them.
//! `_docs/_api/endpoints/export/user_data/post_users_{segment,global_control_group}.md`,
//! `_docs/_api/endpoints/export/segments/post_cancel_export.md`.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use actix_web::{HttpRequest, HttpResponse, http::StatusCode, web};
use serde_json::{Value, json};
use url::Url;
use uuid::Uuid;

use super::{
    NAME,
    archive::{Contents, Damage},
    bucket::{self, Delivery},
    gate::{Budget, Gate, HTML, Pool, Refusal, admit},
    order::{Order, Subject},
    own_address, segment_number,
};
use crate::vendors::sandbox::{
    Running, World,
    files::{SpooledFile, hang_up},
};

/// How long a segment stays taken after its export was cancelled. Braze does not say.
const TAKEN_AFTER_CANCEL: Duration = Duration::from_millis(500);

/// What the simulator keeps between calls.
#[derive(Default)]
pub(super) struct Workspace(Mutex<Inner>);

#[derive(Default)]
pub(super) struct Inner {
    /// By the unguessable part of the link.
    pub exports: HashMap<String, Export>,
    cancelled: HashMap<Subject, Instant>,
}

pub(super) struct Export {
    subject: Subject,
    pub signature: String,
    /// None once it is done or cancelled.
    running: Option<Running>,
    pub cancelled: bool,
    /// Set once the file can be fetched.
    pub ready: Option<(Instant, Option<SpooledFile>)>,
    pub fetched: bool,
}

impl Workspace {
    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether somebody still waits for the export.
    pub fn wants(&self, token: &str) -> bool {
        self.lock().exports.get(token).is_some_and(|export| !export.cancelled)
    }
}

impl Inner {
    fn running(&self) -> impl Iterator<Item = &Export> {
        self.exports.values().filter(|export| export.running.is_some())
    }
}

/// `POST /users/export/segment`.
pub(super) async fn of_segment(world: web::Data<World>, request: HttpRequest, body: web::Bytes) -> HttpResponse {
    submit(world, &request, &body, Order::of_segment).await
}

/// `POST /users/export/global_control_group`.
pub(super) async fn of_control_group(world: web::Data<World>, request: HttpRequest, body: web::Bytes) -> HttpResponse {
    submit(world, &request, &body, Order::of_control_group).await
}

async fn submit(
    world: web::Data<World>,
    request: &HttpRequest,
    body: &[u8],
    read: fn(&World, &HttpRequest, &[u8]) -> Result<Order, Refusal>,
) -> HttpResponse {
    if let Some(answer) = edge_fault(&world) {
        return answer;
    }
    let budget = match admit(&world, request, Pool::Default, true) {
        Ok(budget) => budget,
        Err(answer) => return *answer,
    };
    if let Some(answer) = refused_by_fault(&world, budget) {
        return answer;
    }
    let order = match read(&world, request, body) {
        Ok(order) => order,
        Err(refusal) => return refusal.answer(&world, budget),
    };
    let (token, signature) = match begin(&world, order.subject) {
        Ok(begun) => begun,
        Err((reason, message)) => {
            let refusal = Refusal { status: StatusCode::TOO_MANY_REQUESTS, reason, message: message.to_owned() };
            return refusal.answer(&world, budget);
        }
    };
    let prefix = format!("{}-{}", Uuid::new_v4(), world.now().timestamp());
    let url = format!("{}/files/{token}.zip?X-Amz-Expires=14400&X-Amz-Signature={signature}", own_address(request));
    let to_bucket = world.config.braze_bucket.is_some() && !world.fault("braze.bucket.off");
    prepare(world.clone(), order, token, to_bucket.then(|| prefix.clone()), url.clone());

    if world.fault("braze.segment.lost_answer") {
        return hang_up();
    }
    if world.fault("braze.segment.slow") {
        tokio::time::sleep(world.config.slow_answer).await;
    }
    if world.fault("braze.segment.queued") {
        return budget.answer(StatusCode::ACCEPTED, &json!({"message": "queued"}));
    }
    let mut answer = json!({"message": "success", "object_prefix": prefix});
    if world.fault("braze.segment.no_url") || (to_bucket && world.fault("braze.bucket.null_url")) {
        answer["url"] = Value::Null;
    } else if to_bucket && world.fault("braze.bucket.empty_url") {
        answer["url"] = json!("");
    } else if !to_bucket || world.fault("braze.bucket.link_too") {
        answer["url"] = json!(url);
    }
    if world.fault("braze.segment.minor_errors") {
        answer["errors"] = json!(["a minor error that did not keep the export from beginning"]);
    }
    budget.answer(StatusCode::CREATED, &answer)
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

fn refused_by_fault(world: &World, budget: Budget) -> Option<HttpResponse> {
    let busy = "This segment is already being exported";
    let refusals = [
        ("braze.segment.unauthorized", StatusCode::UNAUTHORIZED, "Unauthorized", budget),
        ("braze.segment.forbidden", StatusCode::FORBIDDEN, "Access Denied", budget),
        ("braze.segment.bad_request", StatusCode::BAD_REQUEST, "Bad Request", budget),
        ("braze.segment.rate_limited", StatusCode::TOO_MANY_REQUESTS, "Rate Limited", budget.used_up()),
        ("braze.segment.busy", StatusCode::TOO_MANY_REQUESTS, busy, budget),
    ];
    let shown = refusals.into_iter().find(|(name, ..)| world.fault(name));
    if let Some((_, status, message, budget)) = shown {
        return Some(Refusal { status, reason: "fault", message: message.to_owned() }.answer(world, budget));
    }
    world.fault("braze.segment.bad_json").then(|| {
        let answer = "{\"message\": \"success\", \"object_prefix\": ";
        budget.headers(HttpResponse::Created().content_type("application/json")).body(answer)
    })
}

/// Begins an export, unless the same is being exported or too many run. Answers the link's two secret parts.
fn begin(world: &World, subject: Subject) -> Result<(String, String), (&'static str, &'static str)> {
    let workspace = world.shelf::<Workspace>();
    let mut inner = workspace.lock();
    let life = world.config.link_life;
    inner.exports.retain(|_, export| export.ready.as_ref().is_none_or(|(since, _)| since.elapsed() < life));
    inner.exports.retain(|_, export| !export.cancelled);
    inner.cancelled.retain(|_, since| since.elapsed() < TAKEN_AFTER_CANCEL);
    if inner.cancelled.contains_key(&subject) || inner.running().any(|export| export.subject == subject) {
        return Err(("segment_busy", "This segment is already being exported"));
    }
    if inner.running().count() as u64 >= world.config.max_concurrent {
        return Err(("too_many_exports", "Too many concurrent segment exports"));
    }
    let token = Uuid::new_v4().simple().to_string();
    let signature = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
    let export = Export {
        subject,
        signature: signature.clone(),
        running: Some(world.running(NAME, subject.id())),
        cancelled: false,
        ready: None,
        fetched: false,
    };
    inner.exports.insert(token.clone(), export);
    Ok((token, signature))
}

/// Prepares the file, or with a `prefix` the objects, in the background and reports the end.
fn prepare(world: web::Data<World>, order: Order, token: String, prefix: Option<String>, url: String) {
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
        part: None,
        gzip: order.gzip && (prefix.is_some() || world.fault("braze.file.gzip")),
    };
    // In a bucket workspace only a fault makes the callback carry a link.
    let reported = (prefix.is_none() || world.fault("braze.callback.with_url")).then_some(url);
    let workspace = world.shelf::<Workspace>();
    actix_web::rt::spawn(async move {
        if let Some(callback) = order.callback.clone().filter(|_| world.fault("braze.callback.early")) {
            report(&world, callback, reported.as_deref()).await;
        }
        let made = if let Some(prefix) = prefix {
            let delivery = Delivery { contents, damage, folder: order.subject.id(), prefix };
            bucket::deliver(&world, delivery, || workspace.wants(&token)).await.map(|()| None)
        } else {
            let processing = tokio::time::sleep(world.config.processing);
            tokio::join!(SpooledFile::write(move |file| contents.write(damage, file)), processing).0.map(Some)
        };
        // A real export that cannot be built tells people by e-mail and the API nothing: the link never works.
        let failed = made.is_err();
        let file = made.inspect_err(|error| tracing::error!(%error, "the sandbox could not write an export"));
        {
            let mut inner = workspace.lock();
            let Some(export) = inner.exports.get_mut(&token).filter(|export| !export.cancelled) else { return };
            export.ready = Some((Instant::now(), file.ok().flatten()));
            export.running = None;
        }
        let Some(callback) = order.callback.filter(|_| !failed) else { return };
        let times = match () {
            () if world.fault("braze.callback.lost") => 0,
            () if world.fault("braze.callback.twice") => 2,
            () => 1,
        };
        for _ in 0..times {
            report(&world, callback.clone(), reported.as_deref()).await;
        }
    });
}

async fn report(world: &World, callback: Url, url: Option<&str>) {
    let mut body = json!({"success": true});
    if let Some(url) = url {
        body["url"] = json!(url);
    }
    let sent = world.http().post(callback).json(&body).send().await;
    let delivered = sent.is_ok_and(|answer| answer.status().is_success());
    world.note(NAME, |activity| {
        activity.callbacks += 1;
        activity.callbacks_failed += u64::from(!delivered);
    });
}

/// `POST /export/segment/cancel`, the path of the documentation page.
pub(super) async fn cancel(world: web::Data<World>, request: HttpRequest, body: web::Bytes) -> HttpResponse {
    if world.fault("braze.cancel.elsewhere") {
        let refusal = Refusal { status: StatusCode::NOT_FOUND, reason: "not_found", message: "Not Found".to_owned() };
        return refusal.answer(&world, Budget::spend(&world, Pool::Default, Instant::now()).0);
    }
    cancel_exports(&world, &request, &body).await
}

/// `POST /users/export/segment/cancel`, the path of the vendor's OpenAPI file.
pub(super) async fn cancel_elsewhere(world: web::Data<World>, request: HttpRequest, body: web::Bytes) -> HttpResponse {
    cancel_exports(&world, &request, &body).await
}

/// Stops every export of the segment.
async fn cancel_exports(world: &World, request: &HttpRequest, body: &[u8]) -> HttpResponse {
    let gate = match Gate::open(world, request, "braze.cancel", Pool::Default, false) {
        Ok(gate) => gate,
        Err(answer) => return *answer,
    };
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    for name in body.as_object().into_iter().flat_map(|body| body.keys()).filter(|name| *name != "segment_id") {
        world.violation(NAME, format!("`{name}` is not documented"));
    }
    let number = body.get("segment_id").and_then(Value::as_str).map(segment_number);
    let reply = match number {
        None => Err(Refusal::forbidden(world, "segment_id must be a string of the segment api identifier")),
        Some(None) => Err(Refusal::bad("segment_id must be a string of the segment api identifier")),
        Some(Some(number)) => {
            let workspace = world.shelf::<Workspace>();
            let mut inner = workspace.lock();
            let subject = Subject::Segment(number);
            let mut stopped = false;
            for export in inner.exports.values_mut().filter(|export| export.subject == subject) {
                if export.running.take().is_some() {
                    export.cancelled = true;
                    stopped = true;
                }
            }
            if stopped {
                inner.cancelled.insert(subject, Instant::now());
            }
            Ok(json!({}).into())
        }
    };
    gate.answer(world, request, reply).await
}
