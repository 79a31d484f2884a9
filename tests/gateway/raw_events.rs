//! Raw data of classic GrowingIO at scale: many slices, several workers, restarts, and a token that others kill.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use headgate::{
    startup::{self, Roles, Running},
    vendors::growingio::sandbox::{CLIENT_ID, PRIVATE_KEY, kill_token},
};
use serde_json::{Value, json};

use crate::support::{Setup, TestGateway, eventually, parse_lines};

const WORKER: Roles = Roles { api: false, worker: true };
const VENDOR: &str = "growingio";

/// Scaled together at the vendor and in the connection: a hundred times the documented two calls a second.
const CALLS_PER_SECOND: f64 = 200.0;

async fn gateway(events_per_hour: u64) -> TestGateway {
    let mut setup = Setup::default();
    setup.sandbox.requests_per_second = CALLS_PER_SECOND;
    setup.sandbox.events_per_hour = events_per_hour;
    setup.flags(|flags| flags.worker_concurrency = Some("4".into())).start().await
}

async fn connect(gateway: &TestGateway, credentials: Option<Value>) -> String {
    let mut account = gateway.account(VENDOR);
    account.body["settings"]["requests_per_second"] = json!(CALLS_PER_SECOND);
    if let Some(credentials) = credentials {
        account.body["credentials"] = credentials;
    }
    let answer = gateway.put(&format!("/v1/connections/{}", account.name), &account.body).await;
    assert!(answer.status.is_success(), "{answer:?}");
    account.name.to_owned()
}

/// A window of whole hours that ended a day before the sandbox started, so that all of it is ready.
fn hours(gateway: &TestGateway, hours: i64) -> (DateTime<Utc>, DateTime<Utc>) {
    let now = gateway.sandbox.world().started_at().duration_trunc(TimeDelta::hours(1)).unwrap();
    let to = now - TimeDelta::hours(3);
    (to - TimeDelta::hours(hours), to)
}

fn request(connection: &str, window: (DateTime<Utc>, DateTime<Utc>), types: &[&str]) -> Value {
    let mut parameters = json!({"window": {"from": window.0, "to": window.1}, "granularity": "hour"});
    if !types.is_empty() {
        parameters["event_types"] = json!(types);
    }
    json!({"connection": connection, "dataset": "raw_events", "parameters": parameters})
}

async fn replicas(gateway: &TestGateway, count: usize) -> Vec<Running> {
    let mut replicas = Vec::new();
    for _ in 0..count {
        replicas.push(startup::start(&gateway.settings, WORKER).await.unwrap());
    }
    replicas
}

/// How often each slice was answered as finished and each file was fetched.
fn counts(gateway: &TestGateway, what: &str) -> BTreeMap<String, u64> {
    let counts = gateway.sandbox.world().activity(VENDOR).counts;
    counts.into_iter().filter(|(name, _)| name.starts_with(what)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fourteen_days_of_every_type_survive_restarts_and_fetch_nothing_twice() {
    let mut gateway = gateway(1).await;
    gateway.stop().await;
    gateway.start_again(Roles { api: true, worker: false }).await;
    let connection = connect(&gateway, None).await;
    let window = hours(&gateway, 14 * 24);
    let export = gateway.submit(&request(&connection, window, &[])).await;
    let mut finished_before = BTreeMap::new();
    for stop_at in [40, 150, 290] {
        let replicas = replicas(&gateway, 3).await;
        gateway.seen(&export, |export| export["progress"]["files_done"].as_i64().unwrap() >= stop_at).await;
        for replica in replicas {
            replica.stop().await;
        }
        let done: Vec<String> =
            sqlx::query_scalar("select name from part where done_at is not null").fetch_all(&gateway.db).await.unwrap();
        assert!(i64::try_from(done.len()).unwrap() >= stop_at, "{}", done.len());
        let finished = counts(&gateway, "finished ");
        for part in done {
            let slice = part.rsplit(':').next().unwrap().to_owned();
            let count = finished.iter().find(|(name, _)| name.ends_with(&slice)).map(|(_, count)| *count).unwrap();
            let earlier = *finished_before.entry(slice.clone()).or_insert(count);
            assert_eq!(earlier, count, "{slice} was finished and was asked for again");
        }
    }
    let replicas = replicas(&gateway, 3).await;
    let ended = gateway.finished(&export).await;
    assert_eq!(ended["state"], "succeeded", "{ended:#}");
    let progress = &ended["progress"];
    assert_eq!((&progress["files_done"], &progress["files_total"]), (&json!(336), &json!(336)));
    let left: i64 = sqlx::query_scalar("select count(*) from part").fetch_one(&gateway.db).await.unwrap();
    assert_eq!(left, 0);
    let finished = counts(&gateway, "finished ");
    for (slice, count) in &finished_before {
        let now = finished.iter().find(|(name, _)| name.ends_with(slice)).map(|(_, count)| *count);
        assert_eq!(now, Some(*count), "{slice} was finished and was asked for again");
    }
    assert_eq!(finished.len(), 336);
    // What was under way at a stop is fetched again, four slices of each worker at most.
    let again = counts(&gateway, "downloaded ").values().filter(|count| **count > 1).count();
    assert!(again <= 3 * 4 * 10, "{again} files were fetched again");

    let records = parse_lines(&gateway.download(&ended).await);
    assert_eq!(ended["result"]["records"], records.len());
    let named = |record: &Value| record["event_type"].as_str().unwrap().to_owned();
    let mut types: Vec<_> = records.iter().map(named).collect();
    types.sort();
    types.dedup();
    assert_eq!(types.len(), 10, "{types:?}");
    let state = gateway.sandbox_state(VENDOR).await;
    assert_eq!(state["violations"], json!([]));
    eventually("only the result is left", async || {
        (gateway.stored_files() == gateway.named_files().await).then_some(())
    })
    .await;
    drop(replicas);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn three_replicas_together_keep_to_the_vendors_two_calls_a_second() {
    let mut setup = Setup::default();
    // As documented, not scaled.
    setup.sandbox.requests_per_second = 2.0;
    setup.sandbox.events_per_hour = 1;
    let gateway = setup.start().await;
    let account = gateway.connect(VENDOR).await;
    let replicas = replicas(&gateway, 2).await;
    let mut exports = Vec::new();
    for day in 0..3 {
        let (from, _) = hours(&gateway, 24 * (day + 2));
        let window = (from, from + TimeDelta::hours(4));
        exports.push(gateway.submit(&request(account.name, window, &["page"])).await);
    }
    for export in &exports {
        let ended = gateway.finished(export).await;
        assert_eq!(ended["state"], "succeeded", "{ended:#}");
    }
    let state = gateway.sandbox_state(VENDOR).await;
    assert_eq!((&state["violations"], &state["refusals"]), (&json!([]), &json!({})), "{state:#}");
    assert_eq!(counts(&gateway, "finished ").len(), 12);
    drop(replicas);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_token_killed_from_outside_every_moment_fails_no_export() {
    let gateway = gateway(1).await;
    let credentials = json!({"client_id": CLIENT_ID, "private_key": PRIVATE_KEY});
    let connection = connect(&gateway, Some(credentials)).await;
    let replicas = replicas(&gateway, 2).await;
    let mut exports = Vec::new();
    for number in 0..10 {
        let (from, _) = hours(&gateway, 300 - number * 10);
        let window = (from, from + TimeDelta::hours(100));
        exports.push(gateway.submit(&request(&connection, window, &["custom_event"])).await);
    }
    let (over, kills) = (AtomicBool::new(false), AtomicU64::new(0));
    let killing = async {
        while !over.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(700)).await;
            kill_token(gateway.sandbox.world());
            kills.fetch_add(1, Ordering::Relaxed);
        }
    };
    let following = async {
        let mut calls = 0;
        for export in &exports {
            let ended = gateway.finished(export).await;
            assert_eq!(ended["state"], "succeeded", "{ended:#}");
            calls += ended["progress"]["files_total"].as_u64().unwrap();
        }
        over.store(true, Ordering::Relaxed);
        calls
    };
    let ((), calls) = tokio::join!(killing, following);
    assert_eq!(calls, 1000);
    let (issued, kills) = (gateway.sandbox.world().activity(VENDOR).tokens_issued, kills.load(Ordering::Relaxed));
    assert!(kills >= 3, "only {kills} kills: the test proves nothing");
    assert!((2..=kills + 1).contains(&issued), "{issued} tokens for {kills} kills");
    let health = gateway.get(&format!("/v1/connections/{connection}")).await.json();
    assert_ne!(health["health"], "unhealthy", "{health:#}");
    drop(replicas);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slice_that_ought_to_be_there_and_does_not_exist_fails_its_export() {
    let gateway = gateway(1).await;
    let connection = connect(&gateway, None).await;
    gateway.faults(&["growingio.raw.not_exists"]).await;
    let (from, _) = hours(&gateway, 40);
    let ended = gateway.run(&request(&connection, (from, from + TimeDelta::hours(2)), &["page"])).await;
    assert_eq!((&ended["state"], &ended["error"]["code"]), (&json!("failed"), &json!("vendor_data_not_found")));
    eventually("no file is left", async || gateway.stored_files().is_empty().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_past_what_the_vendor_keeps_is_refused_at_once() {
    let gateway = gateway(1).await;
    let connection = connect(&gateway, None).await;
    let now = Utc::now().duration_trunc(TimeDelta::hours(1)).unwrap();
    let old = request(&connection, (now - TimeDelta::days(16), now - TimeDelta::days(2)), &[]);
    let problem = gateway.post("/v1/exports", &old).await.problem(422, "invalid_request");
    assert_eq!(problem["errors"][0]["pointer"], "/parameters/window/from", "{problem:#}");
    let polls = gateway.sandbox_state(VENDOR).await["polls"].as_u64().unwrap_or_default();
    assert_eq!(polls, 0);
    let planned = request(&connection, hours(&gateway, 14 * 24), &[]);
    let plan = gateway.post("/v1/exports?validate_only=true", &planned).await.json();
    assert_eq!((plan["calls"].as_array().unwrap().len(), plan["windows"].as_array().unwrap().len()), (336, 336));
    let types = [
        "visit",
        "page",
        "action",
        "action_tag",
        "custom_event",
        "ads_track_activation",
        "ads_track_click",
        "pvar",
        "evar",
        "vstr",
    ];
    let planned = request(&connection, hours(&gateway, 14 * 24), &types);
    let plan = gateway.post("/v1/exports?validate_only=true", &planned).await.json();
    assert_eq!((plan["calls"].as_array().unwrap().len(), plan["windows"].as_array().unwrap().len()), (3360, 336));
}
