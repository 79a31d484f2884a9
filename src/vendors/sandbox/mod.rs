//! The vendor simulators: both vendors' documented wire on one local address, with deterministic people and faults by
//! name. Applications are developed against it, the demo and the tests use it as the vendor. Each vendor's folder has
//! its own `sandbox.rs`, mounted under the vendor's registry name; what they share is the [`World`].
//! Written from the vendors' documentation, never from an adapter: it refuses what the vendor would refuse, and counts it.
//!
//! `GET /__sandbox/state`, `GET` and `POST /__sandbox/faults`, `GET` and `POST /__sandbox/scenario`,
//! `GET /__sandbox/connections` and `POST /__sandbox/reset` watch and steer a running sandbox. Start at [`start`].

pub mod faults;
pub mod files;
pub mod people;
mod scenario;
mod world;

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, dev::ServerHandle, web};
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use url::Url;

pub use self::{
    faults::{EndpointFault, Fault, FaultSpec},
    scenario::{BadScenario, Scenario},
    world::{Activity, Audience, Running, World},
};
use super::registry::VENDORS;
use crate::exports::request::Dataset;

/// How the sandbox behaves.
#[derive(Debug, Clone)]
pub struct SandboxConfig {
    /// How many people there are.
    pub people: u64,
    /// How many audiences (segments, tags) there are; see [`Audience`].
    pub audiences: u64,
    /// Other seeds make other people.
    pub seed: u64,
    /// How long an export takes at the vendor. Writing the files may add to it.
    pub processing: Duration,
    /// Switched on from the start.
    pub faults: Vec<Fault>,
    /// Exports that may run at once, where the vendor has such a limit.
    pub max_concurrent: u64,
    /// Calls in an hour, where the vendor has such a limit.
    pub requests_per_hour: u64,
    /// How long a file can be fetched.
    pub link_life: Duration,
    /// People in one file of an archive.
    pub records_per_file: u64,
    /// Calls in a second, where the vendor has such a limit. Real seconds, also when [`Clock::speed`] is another.
    pub requests_per_second: f64,
    /// Events of each type in an hour of raw data, roughly: some types have more, some less, some hours none.
    pub events_per_hour: u64,
    /// Events in one file of raw data; an hour with more has several files.
    pub raw_part_records: u64,
    /// Files of one job, where the vendor may make several.
    pub job_files: u64,
    /// How late a `slow` answer comes.
    pub slow_answer: Duration,
    /// What time it is at the vendors.
    pub clock: Clock,
    /// A folder that plays the Braze workspace's own bucket: exports are written there instead of behind a link.
    pub braze_bucket: Option<PathBuf>,
}

/// The vendors' clock: the real one, unless a scenario sets another.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// What it shows when the sandbox starts; `None` is the real time.
    pub start: Option<DateTime<Utc>>,
    /// How many of its seconds pass in a real one.
    pub speed: f64,
}

impl Default for Clock {
    fn default() -> Self {
        Self { start: None, speed: 1.0 }
    }
}

impl Default for SandboxConfig {
    fn default() -> Self {
        Self {
            people: 25,
            audiences: 250,
            seed: 1,
            processing: Duration::from_secs(4),
            faults: Vec::new(),
            max_concurrent: 100,
            requests_per_hour: 250_000,
            link_life: Duration::from_hours(4),
            records_per_file: 5_000,
            requests_per_second: 2.0,
            events_per_hour: 20,
            raw_part_records: 15,
            job_files: 1,
            slow_answer: Duration::from_secs(45),
            clock: Clock::default(),
            braze_bucket: None,
        }
    }
}

/// What a newcomer needs to use one vendor's simulator through Headgate.
#[derive(Debug, Clone, Serialize)]
pub struct DemoConnection {
    /// A name for the connection.
    pub name: &'static str,
    pub vendor: &'static str,
    /// The body of `PUT /v1/connections/{name}`.
    pub body: Value,
    /// `parameters.audience` of an export: everybody.
    pub audience: Value,
    /// `parameters.fields` of an export; the same for every vendor, so that the results have the same columns.
    pub fields: &'static [&'static str],
    /// The row of `user.v1` that a person of that audience must become, every column of it.
    #[serde(skip)]
    pub truth: fn(&people::Person) -> Value,
    /// The faults this simulator can show.
    #[serde(skip)]
    pub faults: &'static [FaultSpec],
    /// What else can be exported here, with what must come out.
    #[serde(skip)]
    pub datasets: &'static [DemoDataset],
}

/// One dataset of a simulator: requests that it can answer, and what they must yield.
#[derive(Debug)]
pub struct DemoDataset {
    pub dataset: Dataset,
    /// Tells several requests of one dataset apart, e.g. `canvas`; empty for the usual one.
    pub name: &'static str,
    /// `parameters` of an export with records.
    pub parameters: fn(&World) -> Value,
    /// `parameters` of an export without any, where the vendor can have one.
    pub empty: Option<fn(&World) -> Value>,
    /// The unified rows that come out of `parameters`, in any order.
    pub truth: fn(&World) -> Vec<Value>,
    /// Which fault shows which trouble in this dataset.
    pub troubles: &'static [(Trouble, &'static str)],
}

/// What can happen to any export at any vendor. What Headgate must make of it is the same everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Trouble {
    /// Takes a while; succeeds.
    Prepares,
    /// A status nobody has documented, for a while; succeeds with a warning.
    UnknownStatus,
    /// Complete and consistent transport of data that lack their last part; never a success.
    Partial,
    /// A link that stopped working before it was fetched.
    ExpiredLink,
    /// 401: fails, and the connection turns unhealthy.
    Unauthorized,
    /// 403: fails.
    Forbidden,
    /// 429 for the request rate, a few times; succeeds.
    RateLimited,
    /// 429 because the vendor is at work on the same thing, a few times; succeeds.
    Busy,
    /// 5xx a few times; succeeds.
    ServerError,
    /// An answer that is not what is documented.
    Malformed,
    /// The connection closes in the middle, once; succeeds.
    CutOff,
    /// Bytes come, but too slowly for ever.
    Slow,
}

/// Columns that every vendor's demo connection fills.
pub const DEMO_FIELDS: &[&str] = &[
    "user_id",
    "vendor_user_id",
    "email",
    "phone",
    "first_name",
    "last_name",
    "gender",
    "birth_date",
    "country",
    "city",
    "language",
    "time_zone",
    "created_at",
];

/// A running sandbox. Stops when dropped.
pub struct Sandbox {
    base_url: Url,
    world: Arc<World>,
    server: ServerHandle,
}

/// Starts the sandbox on `listen`; port 0 takes a free one. Needs a Tokio runtime; the server has its own threads.
///
/// # Errors
/// When the address cannot be listened on.
pub async fn start(config: SandboxConfig, listen: SocketAddr) -> io::Result<Sandbox> {
    let listener = TcpListener::bind(listen).await?.into_std()?;
    let base_url = Url::parse(&format!("http://{}/", listener.local_addr()?)).map_err(io::Error::other)?;
    let world = Arc::new(World::new(config).map_err(io::Error::other)?);
    let server = HttpServer::new({
        let world = Arc::clone(&world);
        move || App::new().configure(|routes| mount(routes, &world))
    })
    .workers(2)
    .disable_signals()
    .shutdown_timeout(1)
    .listen(listener)?
    .run();
    let handle = server.handle();
    tokio::spawn(server);
    Ok(Sandbox { base_url, world, server: handle })
}

impl Sandbox {
    /// `http://<address>/`. The address that was listened on, so `0.0.0.0` stays `0.0.0.0`.
    pub fn base_url(&self) -> &Url {
        &self.base_url
    }

    /// The base address of one vendor's API.
    pub fn vendor_url(&self, vendor: &str) -> Url {
        vendor_base(&self.base_url, vendor)
    }

    pub fn world(&self) -> &Arc<World> {
        &self.world
    }

    /// A connection for each vendor.
    pub fn connections(&self) -> Vec<DemoConnection> {
        connections_at(&self.base_url)
    }

    /// Stops at once: open answers are cut.
    pub async fn stop(self) {
        self.server.stop(false).await;
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        drop(self.server.stop(false));
    }
}

/// The base address of one vendor's API below the sandbox's `base`.
pub fn vendor_base(base: &Url, vendor: &str) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}/{vendor}", base.path().trim_end_matches('/')));
    url
}

/// One connection for each vendor, at the sandbox that is reached as `base`.
fn connections_at(base: &Url) -> Vec<DemoConnection> {
    VENDORS.iter().map(|spec| (spec.sandbox_connection)(base)).collect()
}

fn mount(routes: &mut web::ServiceConfig, world: &Arc<World>) {
    routes.app_data(web::Data::from(Arc::clone(world)));
    for spec in VENDORS {
        let scope = web::scope(&format!("/{}", spec.name));
        routes.service(scope.configure(|routes| (spec.sandbox)(routes, Arc::clone(world))));
    }
    routes
        .route("/readyz", web::get().to(HttpResponse::NoContent))
        .route("/__sandbox/state", web::get().to(state))
        .route("/__sandbox/faults", web::get().to(list_faults))
        .route("/__sandbox/faults", web::post().to(set_faults))
        .route("/__sandbox/scenario", web::get().to(show_scenario))
        .route("/__sandbox/scenario", web::post().to(set_scenario))
        .route("/__sandbox/connections", web::get().to(connections))
        .route("/__sandbox/reset", web::post().to(reset));
}

async fn state(world: web::Data<World>) -> HttpResponse {
    HttpResponse::Ok().json(json!({"vendors": world.all_activity(), "faults": world.faults()}))
}

async fn list_faults(world: web::Data<World>) -> HttpResponse {
    HttpResponse::Ok().json(json!({"on": world.faults(), "known": faults::known()}))
}

async fn set_faults(world: web::Data<World>, body: web::Bytes) -> HttpResponse {
    match serde_json::from_slice(&body) {
        Ok(faults) => {
            world.set_faults(faults);
            HttpResponse::NoContent().finish()
        }
        Err(error) => HttpResponse::BadRequest().json(json!({"message": error.to_string()})),
    }
}

async fn show_scenario(world: web::Data<World>) -> HttpResponse {
    HttpResponse::Ok().json(Scenario::of(&world))
}

/// Changes what the body names, nothing else; all of it or, when something is wrong, nothing.
async fn set_scenario(world: web::Data<World>, body: web::Bytes) -> HttpResponse {
    match Scenario::from_json(&body).and_then(|scenario| scenario.set(&world)) {
        Ok(()) => HttpResponse::NoContent().finish(),
        Err(error) => HttpResponse::BadRequest().json(json!({"message": error.to_string()})),
    }
}

async fn connections(request: HttpRequest) -> HttpResponse {
    match Url::parse(&format!("http://{}/", request.connection_info().host())) {
        Ok(base) => HttpResponse::Ok().json(connections_at(&base)),
        Err(error) => HttpResponse::BadRequest().json(json!({"message": error.to_string()})),
    }
}

async fn reset(world: web::Data<World>) -> HttpResponse {
    world.reset();
    HttpResponse::NoContent().finish()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A sandbox on a free port whose exports take no time.
    pub async fn quick(change: impl FnOnce(&mut SandboxConfig)) -> Sandbox {
        let mut config = SandboxConfig { processing: Duration::ZERO, ..SandboxConfig::default() };
        change(&mut config);
        start(config, SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap()
    }

    pub fn faults(names: &[&str]) -> Vec<Fault> {
        names.iter().map(|name| Fault::parse(name).unwrap()).collect()
    }

    /// Asks until `ready` says so; fails after ten seconds.
    pub async fn until<T, F: Future<Output = Option<T>>>(mut ready: impl FnMut() -> F) -> T {
        for _ in 0..1_000 {
            if let Some(found) = ready().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("not ready after ten seconds");
    }

    #[tokio::test]
    async fn faults_are_set_and_state_is_read_while_it_runs() {
        let sandbox = quick(|_| {}).await;
        let http = reqwest::Client::new();
        let at = |path: &str| sandbox.base_url().join(path).unwrap();
        let set = |body: &'static str| http.post(at("__sandbox/faults")).body(body).send();
        assert_eq!(set(r#"["braze.segment.nonsense"]"#).await.unwrap().status(), 400);
        assert_eq!(set(r#"["braze.segment.busy=2"]"#).await.unwrap().status(), 204);
        sandbox.world().violation("braze", "something forbidden");

        let state: Value = http.get(at("__sandbox/state")).send().await.unwrap().json().await.unwrap();
        assert_eq!(state["faults"], json!(["braze.segment.busy=2"]));
        assert_eq!(state["vendors"]["braze"]["violations"], json!(["something forbidden"]));

        assert_eq!(http.post(at("__sandbox/reset")).send().await.unwrap().status(), 204);
        let state: Value = http.get(at("__sandbox/state")).send().await.unwrap().json().await.unwrap();
        assert_eq!(state["faults"], json!([]));
        assert_eq!(state["vendors"]["braze"]["violation_count"], 0);
        sandbox.stop().await;
    }

    #[tokio::test]
    async fn every_vendor_has_a_connection_with_the_same_columns() {
        let sandbox = quick(|_| {}).await;
        let connections = sandbox.connections();
        assert_eq!(connections.len(), VENDORS.len());
        for connection in connections {
            assert_eq!(connection.fields, DEMO_FIELDS);
            assert_eq!(
                connection.body["settings"]["base_url"],
                sandbox.vendor_url(connection.vendor).as_str(),
                "{}",
                connection.name
            );
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_stopped_sandbox_no_longer_listens() {
        let sandbox = quick(|_| {}).await;
        let url = sandbox.base_url().join("__sandbox/state").unwrap();
        assert_eq!(reqwest::get(url.clone()).await.unwrap().status(), 200);
        sandbox.stop().await;
        assert!(reqwest::get(url).await.unwrap_err().is_connect());
    }
}
