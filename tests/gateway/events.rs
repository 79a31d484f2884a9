//! The life of an export: its transitions, as a list and live, and what was said to the vendor.

use std::time::Duration;

use headgate::vendors::registry::VENDORS;
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::support::{Answer, PATIENCE, Setup, TestGateway, eventually, export_path, gateway};

async fn follow(gateway: &TestGateway, export: &Value, last_event: Option<&str>) -> Response {
    let path = format!("{}/events", export_path(export));
    let mut request = gateway.request(Method::GET, &path).header("accept", "text/event-stream");
    if let Some(id) = last_event {
        request = request.header("last-event-id", id);
    }
    request.send().await.unwrap()
}

/// The events in the text of a stream, each with its id.
fn parse(text: &str) -> Vec<Value> {
    let event = |block: &str| {
        let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
        assert_eq!(field("event:"), "transition", "{block}");
        let data: Value = serde_json::from_str(field("data:")).unwrap();
        assert_eq!(field("id:"), data["id"].to_string());
        data
    };
    text.split("\n\n").filter(|block| !block.is_empty() && !block.starts_with(':')).map(event).collect()
}

/// Reads a stream to its end.
async fn to_the_end(stream: Response) -> Vec<Value> {
    assert_eq!(stream.status(), StatusCode::OK);
    assert_eq!(stream.headers()["content-type"], "text/event-stream");
    let text = tokio::time::timeout(PATIENCE, stream.text()).await.expect("the stream ends").unwrap();
    parse(&text)
}

async fn listed(gateway: &TestGateway, export: &Value) -> Vec<Value> {
    gateway.get(&format!("{}/events", export_path(export))).await.json()["data"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_numbered_from_one_and_tell_the_whole_life() {
    let gateway = gateway().await;
    let export = gateway.run(&TestGateway::everybody(&gateway.connect("braze").await)).await;
    let events = listed(&gateway, &export).await;
    let ids: Vec<_> = events.iter().map(|event| event["id"].as_i64().unwrap()).collect();
    assert_eq!(ids, (1..=i64::try_from(events.len()).unwrap()).collect::<Vec<_>>());
    let step = |event: &Value| format!("{} {}", event["state"].as_str().unwrap(), event["phase"]);
    // Transforming is told along with the next heartbeat, so a small export can be past it unseen.
    let steps: Vec<_> = events.iter().map(step).filter(|step| !step.contains("transforming")).collect();
    let expected = [
        "queued null",
        r#"running "submitting""#,
        r#"running "vendor_processing""#,
        r#"running "downloading""#,
        "succeeded null",
    ];
    assert_eq!(steps, expected);
    assert!(events.is_sorted_by_key(|event| event["at"].as_str().unwrap().to_owned()));
    let after = gateway.request(Method::GET, &format!("{}/events", export_path(&export))).header("last-event-id", "4");
    assert_eq!(Answer::of(after).await.json()["data"], json!(events[4..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_export_ends_with_the_code_of_its_problem() {
    let gateway = Setup::default().fault("braze.segment.forbidden").start().await;
    let export = gateway.run(&TestGateway::everybody(&gateway.connect("braze").await)).await;
    let last = listed(&gateway, &export).await.pop().unwrap();
    assert_eq!(last["state"], "failed");
    assert_eq!(last["detail"], export["error"]["code"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_stream_brings_every_event_once_and_ends_after_the_final_state() {
    let gateway = gateway().await;
    let export = gateway.submit(&TestGateway::everybody(&gateway.connect("braze").await)).await;
    let streamed = to_the_end(follow(&gateway, &export, None).await).await;
    assert_eq!(streamed.last().unwrap()["state"], "succeeded");
    assert_eq!(streamed, listed(&gateway, &export).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_streams_of_one_export_all_bring_the_same() {
    let gateway = gateway().await;
    let export = gateway.submit(&TestGateway::everybody(&gateway.connect("growingio_cdp").await)).await;
    let streams = (0..10).map(async |_| to_the_end(follow(&gateway, &export, None).await).await);
    let streams = futures_util::future::join_all(streams).await;
    let listed = listed(&gateway, &export).await;
    assert!(streams.iter().all(|streamed| *streamed == listed));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_stream_is_resumed_without_missing_or_repeating_an_event() {
    let gateway = gateway().await;
    let export = gateway.submit(&TestGateway::everybody(&gateway.connect("braze").await)).await;
    let (mut seen, mut last) = (Vec::new(), None::<String>);
    while seen.last().is_none_or(|event: &Value| event["state"] != "succeeded") {
        // Breaks off after the first piece, every time.
        let mut stream = follow(&gateway, &export, last.as_deref()).await;
        let piece = tokio::time::timeout(PATIENCE, stream.chunk()).await.expect("a piece comes").unwrap();
        let piece = String::from_utf8(piece.expect("more must come").to_vec()).unwrap();
        seen.extend(parse(&piece));
        last = seen.last().map(|event| event["id"].to_string());
    }
    assert_eq!(seen, listed(&gateway, &export).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_who_has_seen_the_end_is_told_to_stop() {
    let gateway = gateway().await;
    let export = gateway.run(&TestGateway::everybody(&gateway.connect("braze").await)).await;
    let events = to_the_end(follow(&gateway, &export, None).await).await;
    assert_eq!(events, listed(&gateway, &export).await, "a finished export's stream is its whole life");
    let last = events.last().unwrap()["id"].to_string();
    assert_eq!(follow(&gateway, &export, Some(&last)).await.status(), StatusCode::NO_CONTENT);
    for bad in ["-1", "last"] {
        Answer::from(follow(&gateway, &export, Some(bad)).await).await.problem(400, "invalid_request");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_stream_ends_when_the_gateway_stops() {
    let mut setup = Setup::default();
    setup.sandbox.processing = Duration::from_mins(10);
    let mut gateway = setup.start().await;
    let export = gateway.submit(&TestGateway::everybody(&gateway.connect("braze").await)).await;
    gateway.until(&export, |export| export["phase"] == "vendor_processing").await;
    let stream = follow(&gateway, &export, None).await;
    let (events, ()) = tokio::join!(to_the_end(stream), gateway.stop());
    assert_eq!(events.last().unwrap()["phase"], "vendor_processing");
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_tell_each_exchange_without_what_grants_access() {
    let gateway = gateway().await;
    for spec in VENDORS {
        let account = gateway.connect(spec.name).await;
        let export = gateway.run(&TestGateway::everybody(&account)).await;
        let answer = gateway.get(&format!("{}/attempts", export_path(&export))).await;
        let attempts = answer.json()["data"].as_array().unwrap().clone();
        let actions: Vec<_> = attempts.iter().map(|attempt| attempt["action"].as_str().unwrap()).collect();
        assert_eq!(actions.first(), Some(&"verify"), "{}", spec.name);
        assert!(actions.iter().filter(|action| **action == "submit").count() <= 1, "{}", spec.name);
        assert_eq!(actions.last(), Some(&"download"), "{}", spec.name);
        assert!(attempts.is_sorted_by_key(|attempt| attempt["at"].as_str().unwrap().to_owned()));
        for attempt in &attempts {
            let target = attempt["target"].as_str().unwrap();
            assert!(target.starts_with("127.0.0.1") && !target.contains(['?', '&', '=']), "{target}");
            let longest = target.split(|c: char| !c.is_ascii_hexdigit()).map(str::len).max().unwrap();
            assert!(longest < 32, "an unguessable part is shown: {target}");
            assert!(attempt["http_status"].is_u64() && attempt["duration_ms"].is_u64(), "{attempt}");
            assert_ne!(attempt["decision"], "");
        }
        for secret in account.body["credentials"].as_object().unwrap().values() {
            assert!(!answer.text().contains(secret.as_str().unwrap()));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_show_what_the_vendor_refused_and_what_was_made_of_it() {
    let gateway = Setup::default().fault("braze.segment.server_error=1").start().await;
    let export = gateway.run(&TestGateway::everybody(&gateway.connect("braze").await)).await;
    assert_eq!(export["state"], "succeeded", "{export:#}");
    let attempts = gateway.get(&format!("{}/attempts", export_path(&export))).await.json();
    let attempts = attempts["data"].as_array().unwrap().iter();
    let submits = attempts.filter(|attempt| attempt["action"] == "submit").map(|attempt| &attempt["http_status"]);
    assert_eq!(submits.collect::<Vec<_>>(), [500, 201]);
}

/// Every notification of a change is lost, as if the one connection for them hung.
async fn deafen(gateway: &TestGateway) {
    sqlx::query("alter table export disable trigger export_changed").execute(&gateway.db).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_hears_of_a_change_also_when_its_notification_is_lost() {
    let gateway = Setup::default().without_worker().start().await;
    let export = gateway.submit(&TestGateway::everybody(&gateway.connect("braze").await)).await;
    deafen(&gateway).await;
    let stream = follow(&gateway, &export, Some("1")).await;
    let waiting = gateway.request(Method::GET, &export_path(&export)).header("prefer", "wait=60");
    let change = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        sqlx::query("update export set state = 'cancelled', finished_at = now(), version = version + 1")
            .execute(&gateway.db)
            .await
            .unwrap();
    };
    let began = std::time::Instant::now();
    let (streamed, answer, ()) = tokio::join!(to_the_end(stream), Answer::of(waiting), change);
    assert_eq!(answer.json()["state"], "cancelled");
    assert_eq!(streamed, listed(&gateway, &export).await[1..]);
    assert!(began.elapsed() < Duration::from_secs(20), "only the end of the wait brought it: {:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_connection_for_notifications_costs_no_event() {
    let gateway = Setup::default().without_worker().start().await;
    let export = gateway.submit(&TestGateway::everybody(&gateway.connect("braze").await)).await;
    let stream = follow(&gateway, &export, None).await;
    let cut = async || {
        sqlx::query("select pg_terminate_backend(pid) from pg_stat_activity where query like 'LISTEN%' and datname = current_database()")
            .execute(&gateway.db)
            .await
            .unwrap();
    };
    let change = async {
        for phase in ["submitting", "vendor_processing", "downloading", "delivering"] {
            cut().await;
            sqlx::query("update export set state = 'running', phase = $1, version = version + 1")
                .bind(phase)
                .execute(&gateway.db)
                .await
                .unwrap();
        }
        cut().await;
        sqlx::query("update export set state = 'cancelled', phase = null, finished_at = now(), version = version + 1")
            .execute(&gateway.db)
            .await
            .unwrap();
    };
    let (streamed, ()) = tokio::join!(to_the_end(stream), change);
    assert_eq!(streamed, listed(&gateway, &export).await);
    assert_eq!(streamed.len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_who_wait_cost_one_look_and_not_one_each() {
    const WAITING: usize = 300;
    let gateway = Setup::default().without_worker().start().await;
    let body = TestGateway::everybody(&gateway.connect("braze").await);
    let mut exports = Vec::new();
    for _ in 0..WAITING {
        exports.push(gateway.submit(&body).await);
    }
    let others = async |what: &'static str| {
        let count = "select count(*) filter (where state <> 'idle') as busy, count(*) filter (where wait_event_type = 'Lock') as blocked \
                     from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'";
        let counts: (i64, i64) = sqlx::query_as(count).fetch_one(&gateway.db).await.unwrap();
        if what == "busy" { counts.0 } else { counts.1 }
    };
    let waiting = exports.iter().map(async |export| {
        let request = gateway.request(Method::GET, &export_path(export)).header("prefer", "wait=60");
        Answer::of(request).await.json()["state"].clone()
    });
    let look = async {
        let quiet = std::cell::Cell::new(0);
        eventually("all of them wait", async || {
            quiet.set(if others("busy").await == 0 { quiet.get() + 1 } else { 0 });
            (quiet.get() == 50).then_some(())
        })
        .await;
        // Whoever reads an export now has to wait, and is counted, for longer than the time between two looks.
        let mut tx = gateway.db.begin().await.unwrap();
        sqlx::query("lock table export in access exclusive mode").execute(&mut *tx).await.unwrap();
        tokio::time::sleep(Duration::from_secs(7)).await;
        let blocked = others("blocked").await;
        tx.rollback().await.unwrap();
        sqlx::query("update export set state = 'cancelled', finished_at = now(), version = version + 1")
            .execute(&gateway.db)
            .await
            .unwrap();
        blocked
    };
    let (states, readers) = tokio::join!(futures_util::future::join_all(waiting), look);
    assert!(states.iter().all(|state| state == "cancelled"), "all of them heard of it");
    assert_eq!(readers, 1);
}
