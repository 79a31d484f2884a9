//! Cancelling and deadlines, wherever an export stands and whatever it hangs on. The worker is another process than the
//! one that hears of it.

use std::time::{Duration, Instant};

use chrono::TimeDelta;
use futures_util::{StreamExt, stream};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream};

use crate::{
    process::{Process, worker},
    support::{Answer, Setup, TestGateway, eventually, export_path},
};

/// Far longer than anything here may take: nothing waits for it to end.
const LEASE: &str = "120";
/// What a caller waits for the end of what was stopped: a second until everybody knows, and some for a busy machine.
const SOON: Duration = Duration::from_secs(6);

/// What an export hangs on.
#[derive(Debug, Clone, Copy)]
enum Hangs {
    /// The vendor takes its time.
    Processing,
    Fault(&'static str),
    /// Another export has what it needs.
    Behind,
    /// The vendor's address takes no connection and refuses none.
    Connect,
    /// It takes the connection and the request, and says nothing.
    Silence,
    /// Much has to be converted.
    Work,
}
use Hangs::{Behind, Connect, Fault, Processing, Silence, Work};

/// Where an export stands.
#[derive(Debug, Clone, Copy)]
struct Place {
    vendor: &'static str,
    phase: &'static str,
    hangs: Hangs,
}

const fn place(vendor: &'static str, phase: &'static str, hangs: Hangs) -> Place {
    Place { vendor, phase, hangs }
}

const PLACES: &[Place] = &[
    place("braze", "waiting_for_slot", Behind),
    place("braze", "submitting", Fault("braze.segment.slow")),
    place("growingio_cdp", "submitting", Connect),
    place("growingio_cdp", "submitting", Silence),
    place("braze", "reconciling", Fault("braze.segment.lost_answer=1")),
    place("braze", "vendor_processing", Processing),
    place("growingio_cdp", "vendor_processing", Fault("growingio_cdp.job.slow")),
    place("growingio", "vendor_processing", Fault("growingio.raw.running")),
    place("growingio", "vendor_processing", Fault("growingio.raw.slow")),
    place("growingio", "vendor_processing", Fault("growingio.file.drip")),
    place("braze", "downloading", Fault("braze.file.drip")),
    place("growingio_cdp", "downloading", Fault("growingio_cdp.file.drip")),
    place("growingio_cdp", "transforming", Work),
];

/// An export on its way to its place, and what keeps it there.
struct Scene {
    gateway: TestGateway,
    export: Value,
    _worker: Process,
    _deaf: Option<(tokio::net::TcpListener, Vec<TcpStream>)>,
}

impl Scene {
    async fn set(place: Place, deadline: &str) -> Self {
        let mut setup = Setup::default().without_worker();
        match place.hangs {
            Processing | Behind => setup.sandbox.processing = Duration::from_mins(10),
            Fault(fault) => setup = setup.fault(fault),
            Work => setup = setup.people(if cfg!(debug_assertions) { 40_000 } else { 1_000_000 }),
            Connect | Silence => {}
        }
        if place.phase == "reconciling" {
            // Busy with what the lost answer was about.
            setup.sandbox.processing = Duration::from_mins(10);
        }
        let gateway = setup.start().await;
        let account = gateway.connect(place.vendor).await;
        let deaf = match place.hangs {
            Connect => Some(deaf(true).await),
            Silence => Some(deaf(false).await),
            _ => None,
        };
        if let Some((listener, _)) = &deaf {
            let mut body = account.body.clone();
            body["settings"]["base_url"] = json!(format!("http://{}/", listener.local_addr().unwrap()));
            let answer = gateway.put(&format!("/v1/connections/{}", account.name), &body).await;
            assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        }
        let mut body = TestGateway::everybody(&account);
        if place.vendor == "growingio" {
            let from = gateway.sandbox.world().started_at() - TimeDelta::hours(40);
            let window = json!({"from": from, "to": from + TimeDelta::hours(2)});
            let parameters = json!({"window": window, "event_types": ["page"]});
            body = json!({"connection": account.name, "dataset": "raw_events", "parameters": parameters});
        }
        if matches!(place.hangs, Behind) {
            gateway.submit(&body).await;
            // Another request for the same segment.
            body["parameters"]["fields"] = json!(["user_id"]);
        }
        body["deadline"] = json!(deadline);
        let export = gateway.submit(&body).await;
        let worker = worker(&gateway, LEASE);
        Self { gateway, export, _worker: worker, _deaf: deaf }
    }

    async fn leaves_nothing(&self, place: Place) {
        let id = uuid::Uuid::parse_str(self.export["id"].as_str().unwrap().trim_start_matches("exp_")).unwrap();
        let left = "select (select count(*) from vendor_slot where export_id = $1), \
                    (select count(*) from part where export_id = $1)";
        eventually(&format!("nothing left of {place:?}"), async || {
            let left: (i64, i64) = sqlx::query_as(left).bind(id).fetch_one(&self.gateway.db).await.unwrap();
            (left == (0, 0) && self.gateway.stored_files().is_empty()).then_some(())
        })
        .await;
        let state = self.gateway.sandbox_state(place.vendor).await;
        assert!(state.is_null() || state["violations"] == json!([]), "{place:?}: {state:#}");
    }
}

/// An address that takes requests and never answers, or with `full` does not even take connections: those that wait to
/// be taken are as many as the system allows.
async fn deaf(full: bool) -> (tokio::net::TcpListener, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(if full { 1 } else { 100 }).unwrap();
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    if full {
        while let Ok(connected) = tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
            waiting.push(connected.unwrap());
            assert!(waiting.len() < 100, "the system takes every connection");
        }
    }
    (listener, waiting)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_cancel_reaches_an_export_wherever_it_stands() {
    stream::iter(PLACES.iter().copied())
        .for_each_concurrent(3, async |place| {
            let scene = Scene::set(place, "PT1H").await;
            let (gateway, export) = (&scene.gateway, &scene.export);
            gateway.seen(export, |export| export["phase"] == place.phase).await;
            let told = Instant::now();
            let cancel = gateway.request(Method::POST, &format!("{}/cancel", export_path(export)));
            let answer = Answer::of(cancel).await;
            assert_eq!(answer.status, StatusCode::ACCEPTED, "{place:?}: {answer:?}");
            let cancelled = gateway.finished(export).await;
            let took = told.elapsed();
            assert_eq!(cancelled["state"], "cancelled", "{place:?}: {cancelled:#}");
            assert!(took < SOON, "{place:?}: it took {took:?}");
            scene.leaves_nothing(place).await;
            // A caller's retry is a new export of the same request.
            let retry = Answer::of(gateway.request(Method::POST, &format!("{}/retry", export_path(export)))).await;
            assert_eq!((retry.status, &retry.json()["retry_of"]), (StatusCode::ACCEPTED, &export["id"]), "{place:?}");
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_deadline_ends_an_export_wherever_it_stands() {
    // Work is not here: nobody can tell how long it takes.
    stream::iter(PLACES.iter().copied().filter(|place| !matches!(place.hangs, Work)))
        .for_each_concurrent(3, async |place| {
            let scene = Scene::set(place, "PT5S").await;
            let began = Instant::now();
            let late = scene.gateway.finished(&scene.export).await;
            let took = began.elapsed();
            assert_eq!(late["error"]["code"], "deadline_exceeded", "{place:?}: {late:#}");
            assert!(took < Duration::from_secs(5) + SOON, "{place:?}: it took {took:?}");
            scene.leaves_nothing(place).await;
        })
        .await;
}

/// The vendor says the same for ever: once nothing has moved for the dataset's stall window, the export ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn silence_ends_an_export_at_the_stall_window() {
    for place in [
        place("braze", "vendor_processing", Processing),
        place("growingio", "vendor_processing", Fault("growingio.raw.running")),
    ] {
        let scene = Scene::set(place, "P2D").await;
        let (gateway, export) = (&scene.gateway, &scene.export);
        gateway.seen(export, |export| export["phase"] == place.phase).await;
        let asked = async || (gateway.attempts(export).await.len() >= 4).then_some(());
        eventually("several answers", asked).await;
        // As if a month had gone by.
        let aged = "update export set last_progress_at = now() - interval '30 days', \
                    due_at = case when claim is null then now() else due_at end where finished_at is null";
        eventually("an export that is looked at", async || {
            sqlx::query(aged).execute(&gateway.db).await.unwrap();
            let now = gateway.get(&export_path(export)).await.json();
            (!now["finished_at"].is_null()).then_some(())
        })
        .await;
        let stalled = gateway.finished(export).await;
        assert_eq!(stalled["error"]["code"], "vendor_stalled", "{place:?}: {stalled:#}");
        scene.leaves_nothing(place).await;
    }
}
