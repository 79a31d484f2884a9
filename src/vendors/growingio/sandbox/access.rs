//! What every call goes through: token, public key, rate, parameters, and what may go wrong at any endpoint.

use std::{
    collections::{BTreeMap, VecDeque},
    fs::File,
    io::{self, BufWriter, Write},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use actix_web::{HttpRequest, HttpResponse, http::header, web};
use serde_json::{Value, json};

use super::{AI, CLIENT_ID, NAME, PROJECT_UID, TOKEN, token::Tokens};
use crate::vendors::sandbox::{
    EndpointFault, World,
    files::{SpooledFile, Transfer},
};

/// The answer to a call that does not get what it asked for.
pub struct Refusal(Box<HttpResponse>);

impl From<HttpResponse> for Refusal {
    fn from(answer: HttpResponse) -> Self {
        Self(Box::new(answer))
    }
}

/// Calls on their way are delayed unevenly: this share of a second is forgiven.
const NETWORK_JITTER: f64 = 0.05;

const HTML: &str = "<html><head><title>502 Bad Gateway</title></head><body><center>nginx</center></body></html>";

/// One admitted call.
pub struct Call {
    pub world: web::Data<World>,
    pub request: HttpRequest,
    fault: Option<EndpointFault>,
}

impl Call {
    /// Admits a call to the endpoint that the faults know as `thing`; the path's project must be the one there is.
    pub fn admit(world: &web::Data<World>, request: &HttpRequest, thing: &str) -> Result<Self, Refusal> {
        let fault = edge_fault(world, thing)?;
        if fault == Some(EndpointFault::Unauthorized) {
            world.refuse(NAME, "fault");
            return Err(unauthorized());
        }
        check_headers(world, request)?;
        if fault == Some(EndpointFault::Forbidden) {
            world.refuse(NAME, "fault");
            return Err(forbidden());
        }
        if fault == Some(EndpointFault::RateLimited) {
            world.refuse(NAME, "fault");
            return Err(too_many());
        }
        spend(world)?;
        check_project(world, request)?;
        Ok(Self { world: world.clone(), request: request.clone(), fault })
    }

    /// The part of the path with that name, decoded.
    pub fn path(&self, name: &str) -> String {
        let raw = self.request.match_info().query(name);
        percent_encoding::percent_decode_str(raw).decode_utf8_lossy().into_owned()
    }

    /// The query. What is not among `known`, or comes twice, is a violation.
    pub fn query(&self, known: &[&str]) -> BTreeMap<String, String> {
        let mut query = BTreeMap::new();
        for (name, value) in url::form_urlencoded::parse(self.request.query_string().as_bytes()).into_owned() {
            if !known.contains(&name.as_str()) {
                self.world.violation(NAME, format!("the query parameter {name:?} is not documented here"));
            } else if query.insert(name.clone(), value).is_some() {
                self.world.violation(NAME, format!("the query parameter {name:?} came twice"));
            }
        }
        query
    }

    /// 400, with a violation.
    pub fn bad_request(&self, message: &str) -> Refusal {
        self.world.violation(NAME, message);
        self.refused(message)
    }

    /// 400 for what is possible to ask but not here.
    pub fn refused(&self, message: &str) -> Refusal {
        self.world.refuse(NAME, "bad_request");
        let body = json!({"message": message, "errors": [{"code": "bad_request", "message": message}]});
        Refusal::from(HttpResponse::BadRequest().json(body))
    }

    /// 404 for an id that the project does not have.
    pub fn unknown_id(&self) -> Refusal {
        self.world.refuse(NAME, "unknown_id");
        Refusal::from(not_found())
    }

    /// Whether the answer is to break off, consistent with its length; [`Call::text`] leaves that to its writer.
    pub fn breaks_off(&self) -> bool {
        self.fault == Some(EndpointFault::BadJson)
    }

    /// Whether the client will see the whole answer.
    pub fn is_whole(&self) -> bool {
        self.fault.is_none()
    }

    pub async fn json(&self, body: Value) -> HttpResponse {
        self.json_from(move |file| Ok(serde_json::to_writer(file, &body)?)).await
    }

    /// A JSON answer that may be too large for memory.
    pub async fn json_from(
        &self,
        fill: impl FnOnce(&mut BufWriter<File>) -> io::Result<()> + Send + 'static,
    ) -> HttpResponse {
        let transfer = if self.breaks_off() { Transfer::Truncated } else { self.transfer() };
        self.answer("application/json;charset=UTF-8", transfer, fill).await
    }

    /// An answer in plain text.
    pub async fn text(
        &self,
        content_type: &'static str,
        fill: impl FnOnce(&mut BufWriter<File>) -> io::Result<()> + Send + 'static,
    ) -> HttpResponse {
        self.answer(content_type, self.transfer(), fill).await
    }

    fn transfer(&self) -> Transfer {
        match self.fault {
            Some(EndpointFault::Cut) => Transfer::Cut,
            Some(EndpointFault::Slow) => Transfer::Drip,
            _ => Transfer::Whole,
        }
    }

    async fn answer(
        &self,
        content_type: &'static str,
        transfer: Transfer,
        fill: impl FnOnce(&mut BufWriter<File>) -> io::Result<()> + Send + 'static,
    ) -> HttpResponse {
        served(&self.request, content_type, transfer, fill).await
    }
}

/// Writes an answer to disk and serves it.
pub async fn served(
    request: &HttpRequest,
    content_type: &'static str,
    transfer: Transfer,
    fill: impl FnOnce(&mut BufWriter<File>) -> io::Result<()> + Send + 'static,
) -> HttpResponse {
    match SpooledFile::write(fill).await {
        Ok(written) => written.serve(request, content_type, transfer),
        Err(error) => {
            tracing::error!(%error, "the sandbox could not write an answer");
            server_error()
        }
    }
}

/// The answer, whether the call was admitted or not.
pub fn either(answer: Result<HttpResponse, Refusal>) -> HttpResponse {
    answer.unwrap_or_else(|refusal| *refusal.0)
}

/// What a proxy or a failing server answers before anything is checked; else the fault that shows later.
pub fn edge_fault(world: &World, thing: &str) -> Result<Option<EndpointFault>, Refusal> {
    match world.endpoint_fault(thing) {
        Some(EndpointFault::ServerError) => Err(Refusal::from(server_error())),
        Some(EndpointFault::Html) => Err(Refusal::from(html())),
        fault => Ok(fault),
    }
}

pub fn html() -> HttpResponse {
    HttpResponse::Ok().content_type("text/html").body(HTML)
}

pub fn server_error() -> HttpResponse {
    HttpResponse::InternalServerError().content_type("text/plain;charset=UTF-8").body("Internal Server Error")
}

pub fn not_found() -> HttpResponse {
    HttpResponse::NotFound().json(json!({"message": "Not Found", "errors": []}))
}

pub fn unauthorized() -> Refusal {
    Refusal::from(HttpResponse::Unauthorized().json(json!({"message": "Unauthorized", "errors": []})))
}

/// The neighbouring APIs answer failed authorization with a bare 403.
pub fn forbidden() -> Refusal {
    Refusal::from(HttpResponse::Forbidden().finish())
}

/// The answer to too many calls is not documented.
pub fn too_many() -> Refusal {
    Refusal::from(HttpResponse::TooManyRequests().content_type("text/plain;charset=UTF-8").body("Too Many Requests"))
}

/// Both spellings of `Authorization` are documented: the bare token, and in older pages `Token XXXX`.
fn check_headers(world: &World, request: &HttpRequest) -> Result<(), Refusal> {
    if world.fault("growingio.token.kill") {
        super::kill_token(world);
    }
    let refuse = |reason: &str| {
        world.refuse(NAME, reason);
        Err(unauthorized())
    };
    let value = |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap_or_default());
    let sent = value(header::AUTHORIZATION.as_str()).unwrap_or_default();
    if sent.starts_with("Bearer ") || sent.starts_with("Basic ") {
        world.violation(NAME, "`Authorization` is the token alone, or `Token` and the token");
        return refuse("unauthorized");
    }
    let prefixed = sent.strip_prefix("Token ");
    if prefixed.is_none() && world.fault("growingio.auth.token_prefix") {
        return refuse("token_prefix");
    }
    let token = prefixed.unwrap_or(sent);
    if token != TOKEN && !world.shelf::<Tokens>().is_valid(token, world.now()) {
        return refuse("unauthorized");
    }
    match value("X-Client-Id") {
        Some(CLIENT_ID) => Ok(()),
        Some(_) => {
            world.violation(NAME, "`X-Client-Id` is not the project's public key");
            refuse("client_id")
        }
        None if world.fault("growingio.auth.client_id_required") => refuse("client_id"),
        None => Ok(()),
    }
}

/// UID and ID are different values of one project and easily mixed up.
fn check_project(world: &World, request: &HttpRequest) -> Result<(), Refusal> {
    for (name, right, other, text) in [
        ("project", PROJECT_UID, AI, "the project's ID was sent where its UID is wanted"),
        ("ai", AI, PROJECT_UID, "the project's UID was sent where its ID is wanted"),
    ] {
        let Some(sent) = request.match_info().get(name).filter(|sent| *sent != right) else { continue };
        if sent == other {
            world.violation(NAME, text);
        }
        world.refuse(NAME, "wrong_project");
        return Err(forbidden());
    }
    Ok(())
}

/// When the latest calls were admitted.
#[derive(Default)]
struct Calls(Mutex<VecDeque<Instant>>);

fn spend(world: &World) -> Result<(), Refusal> {
    let per_second = world.config.requests_per_second;
    if !per_second.is_finite() || per_second <= 0.0 {
        return Ok(());
    }
    let burst = per_second.floor().max(1.0);
    let window = Duration::try_from_secs_f64(burst / per_second * (1.0 - NETWORK_JITTER)).unwrap_or(Duration::MAX);
    let calls = world.shelf::<Calls>();
    let mut calls = calls.0.lock().unwrap_or_else(PoisonError::into_inner);
    while calls.front().is_some_and(|at| at.elapsed() >= window) {
        calls.pop_front();
    }
    #[expect(clippy::cast_precision_loss, reason = "a handful of calls")]
    if calls.len() as f64 >= burst {
        world.refuse(NAME, "rate");
        world.violation(NAME, format!("more than {per_second} calls in a second"));
        return Err(too_many());
    }
    calls.push_back(Instant::now());
    Ok(())
}

/// Writes lines; when the text is to break off, the last one stops after its first cell's first characters.
pub fn write_lines(
    out: &mut impl Write,
    lines: impl Iterator<Item = String>,
    break_off_after: Option<u64>,
) -> io::Result<()> {
    for (written, line) in (0..).zip(lines) {
        if break_off_after.is_some_and(|after| written >= after) {
            let cell: String = line.chars().take_while(|c| c.is_alphanumeric()).take(3).collect();
            return write!(out, "{cell}");
        }
        writeln!(out, "{line}")?;
    }
    Ok(())
}
