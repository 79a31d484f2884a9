//! Workers that die, are told to end, or stall, in each phase of an export: it ends right all the same, once, with one
//! set of files.

use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use rustix::process::Signal;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tokio::net::TcpListener;

use crate::{
    conformance::{by_vendor_user_id, truth},
    process::{Process, worker},
    support::{Setup, TestGateway, eventually, parse_lines},
};

const BOTH: &[&str] = &["braze", "growingio_cdp"];
/// Enough that converting them takes a second or so; a CDP record is the quicker one.
fn many(vendor: &str) -> u64 {
    let people = if vendor == "braze" { 8_000 } else { 20_000 };
    if cfg!(debug_assertions) { people } else { people * 30 }
}
/// The shortest there is.
const SHORT_LEASE: &str = "3";
/// Far longer than these tests wait: whoever goes on earlier did not wait for it.
const LONG_LEASE: &str = "120";
const GRACE: Duration = Duration::from_secs(10);

/// A gateway without a worker of its own, and exports that a worker process has brought to a phase.
struct Scene {
    gateway: TestGateway,
    exports: Vec<Value>,
    vendors: &'static [&'static str],
}

impl Scene {
    async fn at(phase: &'static str, vendors: &'static [&'static str], lease_secs: &str) -> (Self, Process) {
        let mut setup = Setup::default().without_worker();
        match phase {
            "submitting" => {
                setup = setup.fault("braze.segment.slow=1");
                setup.sandbox.slow_answer = Duration::from_secs(2);
            }
            "vendor_processing" => setup.sandbox.processing = Duration::from_secs(3),
            "downloading" => setup = setup.fault("braze.file.drip").fault("growingio_cdp.file.drip"),
            _ => setup = setup.people(many(vendors[0])),
        }
        let gateway = setup.start().await;
        let mut exports = Vec::new();
        for vendor in vendors {
            let account = gateway.connect(vendor).await;
            exports.push(gateway.submit(&TestGateway::everybody(&account)).await);
        }
        let worker = worker(&gateway, lease_secs);
        let scene = Self { gateway, exports, vendors };
        for (export, vendor) in scene.exports.iter().zip(vendors) {
            scene.gateway.seen(export, |export| export["phase"] == phase).await;
            eventually("the vendor's beginning", async || (scene.submissions(vendor).await == 1).then_some(())).await;
        }
        (scene, worker)
    }

    async fn submissions(&self, vendor: &str) -> u64 {
        self.gateway.sandbox_state(vendor).await["submissions"].as_u64().unwrap_or_default()
    }

    /// Waits for the ends and holds what came out against the sandbox.
    async fn ends_right(&self) {
        for (export, vendor) in self.exports.iter().zip(self.vendors) {
            let export = self.gateway.finished(export).await;
            assert_right(&self.gateway, &export, vendor).await;
            let state = self.gateway.sandbox_state(vendor).await;
            assert_eq!((&state["max_running"], &state["violations"]), (&json!(1), &json!([])), "{state:#}");
        }
        only_named_files_remain(&self.gateway, self.exports.len()).await;
    }
}

/// Everybody, once, and one end.
async fn assert_right(gateway: &TestGateway, export: &Value, vendor: &str) {
    assert_eq!(export["state"], "succeeded", "{export:#}");
    let account = gateway.account(vendor);
    let records = by_vendor_user_id(parse_lines(&gateway.download(export).await));
    assert_eq!(export["result"]["records"], records.len());
    let truth = truth(gateway, &account);
    // Not assert_eq: it would print thousands of records.
    assert!(records == truth, "{vendor}: {} records of {}", records.len(), truth.len());
    let states: Vec<_> = gateway.events(export).await.iter().map(|event| event["state"].clone()).collect();
    assert_eq!(states.iter().filter(|state| *state == "succeeded").count(), 1, "{states:?}");
    assert_eq!(states.last().unwrap(), "succeeded");
}

/// What dead workers left is swept right after the success.
async fn only_named_files_remain(gateway: &TestGateway, count: usize) {
    let named = gateway.named_files().await;
    assert_eq!(named.len(), count);
    eventually("a tidy storage folder", async || (gateway.stored_files() == named).then_some(())).await;
    let spool = std::fs::read_dir(gateway.folder.path().join("spool")).unwrap();
    assert_eq!(spool.count(), 0);
}

/// Kills the worker in `phase`; another one goes on when the lease is over.
async fn killed(phase: &'static str, vendors: &'static [&'static str]) {
    let (scene, first) = Scene::at(phase, vendors, SHORT_LEASE).await;
    first.kill().await;
    scene.gateway.faults(&[]).await;
    let _second = worker(&scene.gateway, SHORT_LEASE);
    scene.ends_right().await;
    // Only an answer that died with the worker is asked for again.
    let expected = if phase == "submitting" { 2 } else { 1 };
    for vendor in vendors {
        assert_eq!(scene.submissions(vendor).await, expected, "{vendor}");
    }
}

/// Ends the worker in order: it hands back what it holds, and nobody waits for the lease.
async fn told_to_end(phase: &'static str, vendors: &'static [&'static str]) {
    let (scene, first) = Scene::at(phase, vendors, LONG_LEASE).await;
    let told = Instant::now();
    first.signal(Signal::TERM);
    assert_eq!(first.ended().await.code(), Some(0));
    assert!(told.elapsed() < GRACE, "{:?}", told.elapsed());
    let held: i64 = sqlx::query_scalar("select count(*) from export where claim is not null")
        .fetch_one(&scene.gateway.db)
        .await
        .unwrap();
    assert_eq!(held, 0);
    scene.gateway.faults(&[]).await;
    let _second = worker(&scene.gateway, LONG_LEASE);
    scene.ends_right().await;
    assert!(told.elapsed() < Duration::from_mins(1), "waited for the lease: {:?}", told.elapsed());
    for vendor in vendors {
        assert_eq!(scene.submissions(vendor).await, 1, "{vendor}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_submitting() {
    killed("submitting", &["braze"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_the_vendor_prepares() {
    killed("vendor_processing", BOTH).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_downloading() {
    killed("downloading", BOTH).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_transforming_from_braze() {
    killed("transforming", &["braze"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_transforming_from_the_cdp() {
    killed("transforming", &["growingio_cdp"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn told_to_end_while_submitting() {
    told_to_end("submitting", &["braze"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn told_to_end_while_the_vendor_prepares() {
    told_to_end("vendor_processing", BOTH).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn told_to_end_while_downloading() {
    told_to_end("downloading", BOTH).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn told_to_end_while_transforming_from_braze() {
    told_to_end("transforming", &["braze"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn told_to_end_while_transforming_from_the_cdp() {
    told_to_end("transforming", &["growingio_cdp"]).await;
}

/// The vendor takes the request and says nothing: the worker dies not knowing whether it began.
#[tokio::test(flavor = "multi_thread")]
async fn killed_while_a_vendor_is_silent() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for vendor in BOTH {
        let gateway = Setup::default().without_worker().start().await;
        let account = gateway.connect(vendor).await;
        let mut body = account.body.clone();
        body["settings"]["base_url"] = json!(format!("http://{}/", silent.local_addr().unwrap()));
        let path = format!("/v1/connections/{}", account.name);
        assert_eq!(gateway.put(&path, &body).await.status, StatusCode::OK);
        let export = gateway.submit(&TestGateway::everybody(&account)).await;
        let first = worker(&gateway, SHORT_LEASE);
        let _held_open = silent.accept().await.unwrap();
        first.kill().await;
        assert_eq!(gateway.put(&path, &account.body).await.status, StatusCode::OK);
        let _second = worker(&gateway, SHORT_LEASE);
        let export = gateway.finished(&export).await;
        assert_right(&gateway, &export, vendor).await;
        let events = gateway.events(&export).await;
        assert!(events.iter().any(|event| event["phase"] == "reconciling"), "{events:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_stalls_past_its_lease_changes_nothing_when_it_wakes() {
    let (scene, stalled) = Scene::at("downloading", BOTH, SHORT_LEASE).await;
    stalled.signal(Signal::STOP);
    scene.gateway.faults(&[]).await;
    let second = worker(&scene.gateway, SHORT_LEASE);
    scene.ends_right().await;
    second.signal(Signal::TERM);
    assert_eq!(second.ended().await.code(), Some(0));

    let before = seen_by_callers(&scene).await;
    let exchanges = exchanges(&scene).await;
    stalled.signal(Signal::CONT);
    // It keeps the evidence of its step, which shows that it has let go.
    let woken = async || (self::exchanges(&scene).await >= exchanges + BOTH.len()).then_some(());
    eventually("the stalled worker's evidence", woken).await;
    stalled.signal(Signal::TERM);
    assert_eq!(stalled.ended().await.code(), Some(0));
    assert_eq!(seen_by_callers(&scene).await, before);
    only_named_files_remain(&scene.gateway, BOTH.len()).await;
}

/// The exports with their entity tags and events.
async fn seen_by_callers(scene: &Scene) -> Vec<(String, Value, Vec<Value>)> {
    let mut all = Vec::new();
    for export in &scene.exports {
        let answer = scene.gateway.get(&format!("/v1/exports/{}", export["id"].as_str().unwrap())).await;
        all.push((answer.header("etag").to_owned(), answer.json(), scene.gateway.events(export).await));
    }
    all
}

async fn exchanges(scene: &Scene) -> usize {
    let mut count = 0;
    for export in &scene.exports {
        count += scene.gateway.attempts(export).await.len();
    }
    count
}

/// Holds the statement that completes an export until the lock is given back.
const GATE: &str = "
    create function wait_at_the_gate() returns trigger language plpgsql as $$ begin
        if current_query() like '%result_expires_at = now()%' then
            perform pg_advisory_xact_lock_shared(4711);
        end if;
        return null;
    end $$;
    create trigger gate before update on export for each statement execute function wait_at_the_gate();";
const AT_THE_GATE: &str = "
    select count(*) from pg_locks where locktype = 'advisory' and objid = 4711 and not granted
    and database = (select oid from pg_database where datname = current_database())";

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_loses_its_claim_at_the_last_moment_takes_its_files_back() {
    let gateway = Setup::default().start().await;
    let account = gateway.connect("growingio_cdp").await;
    sqlx::raw_sql(GATE).execute(&gateway.db).await.unwrap();
    let mut gate = PgConnection::connect(&gateway.database_url).await.unwrap();
    sqlx::query("select pg_advisory_lock(4711)").execute(&mut gate).await.unwrap();
    let export = gateway.submit(&TestGateway::everybody(&account)).await;
    let waiting = async || {
        let count: i64 = sqlx::query_scalar(AT_THE_GATE).fetch_one(&gateway.db).await.unwrap();
        (count == 1).then_some(())
    };
    eventually("the completing statement", waiting).await;
    assert_eq!(gateway.stored_files().len(), 1);

    // Another worker takes over, as after a stall.
    let steal = "update export set claim = gen_random_uuid(), due_at = now() + interval '1 hour'";
    sqlx::query(steal).execute(&gateway.db).await.unwrap();
    sqlx::query("select pg_advisory_unlock(4711)").execute(&mut gate).await.unwrap();
    eventually("an empty storage folder", async || gateway.stored_files().is_empty().then_some(())).await;
    assert_eq!(gateway.seen(&export, |_| true).await["state"], "running");

    // And dies, too.
    sqlx::query("update export set due_at = now()").execute(&gateway.db).await.unwrap();
    let export = gateway.finished(&export).await;
    assert_right(&gateway, &export, "growingio_cdp").await;
    only_named_files_remain(&gateway, 1).await;
}

/// `headgate serve` processes on one data directory, with the private database in it; `gateway` talks to them.
struct Served {
    gateway: TestGateway,
}

impl Served {
    async fn new() -> Self {
        let mut setup = Setup::default();
        setup.sandbox.processing = Duration::from_secs(3);
        let mut gateway = setup.start().await;
        gateway.stop().await;
        Self { gateway }
    }

    /// Starts one and has the gateway talk to it.
    async fn serve(&mut self) -> Process {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let folder = self.gateway.folder.path();
        let data_dir = folder.join("own");
        let process = Process::start(
            "serve",
            folder,
            &[
                ("HEADGATE_LISTEN", &format!("127.0.0.1:{port}")),
                ("HEADGATE_DATA_DIR", data_dir.to_str().unwrap()),
                ("HEADGATE_JWT_SECRET", self.gateway.flags.jwt_secret.as_deref().unwrap()),
                ("HEADGATE_EGRESS_ALLOW", "127.0.0.1/32"),
                ("HEADGATE_POLL_MIN_MS", "50"),
                ("HEADGATE_POLL_MAX_MS", "300"),
                ("HEADGATE_LEASE_SECS", SHORT_LEASE),
            ],
        );
        self.gateway.base = format!("http://127.0.0.1:{port}/").parse().unwrap();
        eventually("a ready gateway", async || {
            let answer = self.gateway.anonymous(Method::GET, "/readyz").send().await.ok()?;
            (answer.status() == StatusCode::OK).then_some(())
        })
        .await;
        process
    }

    /// Follows an export while the gateway may fail now and then.
    async fn finished(&self, export: &Value) -> Value {
        let path = format!("/v1/exports/{}", export["id"].as_str().unwrap());
        eventually("the end", async || {
            let answer = self.gateway.request(Method::GET, &path).send().await.ok()?;
            let export: Value =
                if answer.status() == StatusCode::OK { answer.json().await.ok()? } else { return None };
            export["finished_at"].is_string().then_some(export)
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_gateway_with_its_private_database_goes_on_after_a_restart() {
    let mut served = Served::new().await;
    let first = served.serve().await;
    let mut exports = Vec::new();
    for vendor in BOTH {
        let account = served.gateway.connect(vendor).await;
        exports.push(served.gateway.submit(&TestGateway::everybody(&account)).await);
    }
    for export in &exports {
        served.gateway.seen(export, |export| export["phase"] == "vendor_processing").await;
    }
    first.kill().await;
    let _second = served.serve().await;
    for (export, vendor) in exports.iter().zip(BOTH) {
        assert_right(&served.gateway, &served.finished(export).await, vendor).await;
        assert_eq!(served.gateway.sandbox_state(vendor).await["submissions"], 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_gateways_share_a_data_directory_and_one_outlives_the_other() {
    let mut served = Served::new().await;
    let first = served.serve().await;
    let account = served.gateway.connect("braze").await;
    let _second = served.serve().await;
    let export = served.gateway.submit(&TestGateway::everybody(&account)).await;
    served.gateway.seen(&export, |export| export["phase"] == "vendor_processing").await;
    // The database ends with the one that runs it; the other takes it over.
    first.kill().await;
    assert_right(&served.gateway, &served.finished(&export).await, "braze").await;
    assert_eq!(served.gateway.sandbox_state("braze").await["submissions"], 1);
}
