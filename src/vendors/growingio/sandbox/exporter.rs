//! The V3 exporter: the same `GET` is repeated until the result comes instead of `doing`
//! (`api/statistics-api-v3/overview.md`). Analyses come inline, users as a link that cannot be prolonged.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use actix_web::{HttpRequest, HttpResponse, web};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    NAME,
    access::{Call, Refusal, either, not_found},
    links,
    reports::{Form, Report},
    segments::{segment, user_type},
    statistics::{asked, parameters},
    users::{Separator, Users, VARIABLES},
};
use crate::vendors::sandbox::{Running, World};

/// Exports that are remembered; the documents name no limit.
const MAX_EXPORTS: usize = 1_000;

/// `GET /v3/exporter/projects/{project}/charts/{id}`.
pub async fn chart(world: web::Data<World>, request: HttpRequest) -> HttpResponse {
    either(analysis(&world, &request, "chart").await)
}

/// `GET …/funnels/{id}`.
pub async fn funnel(world: web::Data<World>, request: HttpRequest) -> HttpResponse {
    either(analysis(&world, &request, "funnel").await)
}

/// `GET …/retentions/{id}`.
pub async fn retention(world: web::Data<World>, request: HttpRequest) -> HttpResponse {
    either(analysis(&world, &request, "retention").await)
}

/// `GET …/frequencies/{id}`.
pub async fn frequency(world: web::Data<World>, request: HttpRequest) -> HttpResponse {
    either(analysis(&world, &request, "frequency").await)
}

/// `GET …/segmentations/{id}/users`.
pub async fn segment_users(world: web::Data<World>, request: HttpRequest) -> HttpResponse {
    either(users(&world, &request).await)
}

/// What the exporter keeps between calls, by the address that was asked.
#[derive(Default)]
struct Exports(Mutex<HashMap<String, Export>>);

struct Export {
    id: Uuid,
    running: Option<Running>,
    done: bool,
    /// Of users: the list, and once it is done its link and when that expires.
    users: Option<Users>,
    link: Option<(String, DateTime<Utc>)>,
}

impl Exports {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Export>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The users behind a link.
pub fn users_of(world: &World, job: Uuid) -> Option<Users> {
    world.shelf::<Exports>().lock().values().find(|export| export.id == job)?.users.clone()
}

async fn analysis(world: &web::Data<World>, request: &HttpRequest, kind: &str) -> Result<HttpResponse, Refusal> {
    let call = admit(world, request)?;
    let query = call.query(parameters(kind));
    let asked = match asked(world, kind, &query) {
        Ok(asked) => asked,
        Err(message) => return Ok(illegal(&call, &message).await),
    };
    let report = Report::named(kind, &call.path("id")).ok_or_else(|| call.unknown_id())?;
    let key = key(request);
    match state(&call, &key, report.id, || None) {
        State::Is { id, status, message } => Ok(call.json(answer(id, status, message)).await),
        State::Done(_) => {
            // The next one who asks begins anew; one whose answer broke asks for this result.
            if call.is_whole() {
                world.shelf::<Exports>().lock().remove(&key);
            }
            let seed = world.config.seed;
            Ok(call.json_from(move |file| report.write(Form::Two, &asked, seed, file)).await)
        }
    }
}

async fn users(world: &web::Data<World>, request: &HttpRequest) -> Result<HttpResponse, Refusal> {
    let call = admit(world, request)?;
    let query = call.query(&["expire", "parameters"]);
    let Some(life) = links::lifetime(query.get("expire")) else {
        return Ok(illegal(&call, "过期时间必须小于7天").await);
    };
    let asked = query.get("parameters").map(String::as_str).unwrap_or_default();
    let variables: Vec<_> =
        asked.split(',').filter(|key| !key.is_empty() && *key != "cs1").map(str::to_owned).collect();
    if let Some(unknown) = variables.iter().find(|key| !VARIABLES.contains(&key.as_str())) {
        return Ok(illegal(&call, &format!("非法参数 parameters: {unknown}")).await);
    }
    let audience = segment(world, &call.path("id")).ok_or_else(|| call.unknown_id())?;
    let list = || {
        Some(Users {
            audience,
            seed: world.config.seed,
            user_type: user_type(audience),
            variables,
            separator: Separator::Comma,
            display_header: true,
            empty: false,
            bad_record: false,
            bom: false,
            break_off: false,
        })
    };
    let key = key(request);
    match state(&call, &key, &audience.number.to_string(), list) {
        State::Is { id, status, message } => {
            let mut answer = answer(id, status, message);
            if status == "failed" {
                answer["downloadLinks"] = json!([]);
            }
            Ok(call.json(answer).await)
        }
        State::Done(id) => {
            let exports = world.shelf::<Exports>();
            let link = {
                let mut exports = exports.lock();
                let now = world.now();
                let new = || {
                    let expires = now + life;
                    (links::to_segment(request, id, &audience.title(), now, expires), expires)
                };
                match exports.get_mut(&key) {
                    Some(export) => export.link.get_or_insert_with(new).0.clone(),
                    None => new().0,
                }
            };
            Ok(call.json(json!({"id": id, "status": "done", "downloadLinks": [link], "errorMsg": ""})).await)
        }
    }
}

fn admit(world: &web::Data<World>, request: &HttpRequest) -> Result<Call, Refusal> {
    let call = Call::admit(world, request, "growingio.exporter")?;
    if world.fault("growingio.exporter.not_enabled") {
        world.refuse(NAME, "not_enabled");
        return Err(Refusal::from(not_found()));
    }
    Ok(call)
}

/// Identical requests ask for the same result.
fn key(request: &HttpRequest) -> String {
    format!("{}?{}", request.path(), request.query_string())
}

async fn illegal(call: &Call, message: &str) -> HttpResponse {
    call.world.refuse(NAME, "bad_request");
    call.world.violation(NAME, message);
    call.json(answer(Uuid::new_v4(), "failed", message)).await
}

fn answer(id: Uuid, status: &str, message: &str) -> Value {
    if status == "failed" {
        json!({"id": id, "status": status, "errorMsg": message})
    } else {
        json!({"id": id, "status": status})
    }
}

enum State {
    Is { id: Uuid, status: &'static str, message: &'static str },
    Done(Uuid),
}

/// Begins an export, or says how far it is.
fn state(call: &Call, key: &str, audience: &str, users: impl FnOnce() -> Option<Users>) -> State {
    let world = &call.world;
    let exports = world.shelf::<Exports>();
    let mut all = exports.lock();
    let now = world.now();
    all.retain(|_, export| export.link.as_ref().is_none_or(|(_, expires)| *expires > now));
    let doing = |id| State::Is { id, status: "doing", message: "" };
    let Some(export) = all.get(key) else {
        if all.len() >= MAX_EXPORTS {
            all.retain(|_, export| !export.done);
        }
        let id = Uuid::new_v4();
        let running = Some(world.running(NAME, audience.to_owned()));
        all.insert(key.to_owned(), Export { id, running, done: false, users: users(), link: None });
        drop(all);
        finish_later(world, key.to_owned(), id);
        return doing(id);
    };
    world.note(NAME, |activity| activity.polls += 1);
    let id = export.id;
    if world.fault("growingio.exporter.failed") {
        all.remove(key);
        return State::Is { id, status: "failed", message: "下载失败，请稍后重试" };
    }
    if world.fault("growingio.exporter.unknown_status") {
        return State::Is { id, status: "queued", message: "" };
    }
    if !export.done || world.fault("growingio.exporter.doing") {
        return doing(id);
    }
    State::Done(id)
}

fn finish_later(world: &web::Data<World>, key: String, id: Uuid) {
    let (exports, processing) = (world.shelf::<Exports>(), world.config.processing);
    actix_web::rt::spawn(async move {
        tokio::time::sleep(processing).await;
        if let Some(export) = exports.lock().get_mut(&key).filter(|export| export.id == id) {
            export.done = true;
            export.running = None;
        }
    });
}
