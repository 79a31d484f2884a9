//! Many exports at once: they queue at the vendor's limits, and every one of them comes through.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use serde_json::{Value, json};

use crate::support::{Setup, eventually};

const COLUMNS: [&str; 4] = ["user_id", "email", "city", "created_at"];

/// Different requests for one audience.
fn request(connection: &str, kind: &str, id: &str, column: &str) -> Value {
    json!({
        "connection": connection,
        "dataset": "audience_members",
        "parameters": {"audience": {"kind": kind, "id": id}, "fields": ["vendor_user_id", column]},
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_exports_queue_and_all_come_through() {
    let mut setup = Setup::default();
    setup.sandbox.processing = Duration::from_millis(100);
    let gateway = setup.flags(|flags| flags.worker_concurrency = Some("8".into())).start().await;
    gateway.connect("braze").await;
    gateway.connect("growingio_cdp").await;

    // 200 segments four times, and 200 jobs over 50 tags.
    let segment = |number: usize| format!("5a1b0c2d-0000-4000-8000-{:012}", number + 3);
    let braze = (0..800).map(|at| request("demo-braze", "segment", &segment(at / 4), COLUMNS[at % 4]));
    let cdp = (0..200).map(|at| request("demo-cdp", "tag", &format!("tag_{}", at / 4 + 4), COLUMNS[at % 4]));
    let began = Instant::now();
    stream::iter(braze.chain(cdp))
        .for_each_concurrent(8, |body| {
            let gateway = &gateway;
            async move { drop(gateway.submit(&body).await) }
        })
        .await;
    let submitted = began.elapsed();

    let reasons = std::sync::Mutex::new(BTreeSet::new());
    eventually("the end of every export", async || {
        let waiting: Vec<(String, i64)> = sqlx::query_as(
            "select coalesce(waiting_reason, ''), count(*) from export where finished_at is null group by 1",
        )
        .fetch_all(&gateway.db)
        .await
        .unwrap();
        let done = waiting.is_empty();
        reasons.lock().unwrap().extend(waiting.into_iter().map(|(reason, _)| reason));
        done.then_some(())
    })
    .await;
    println!("submitted in {submitted:?}, all done after {:?}", began.elapsed());

    let ends: Vec<(String, i64, i64)> =
        sqlx::query_as("select state, count(*), max(attempt)::bigint from export group by state")
            .fetch_all(&gateway.db)
            .await
            .unwrap();
    assert_eq!(ends, [("succeeded".to_owned(), 1000, 1)]);
    let reasons = reasons.into_inner().unwrap();
    assert!(reasons.contains("vendor_exclusive") && reasons.contains("vendor_concurrency"), "{reasons:?}");
    assert!(!reasons.contains("vendor_busy"), "{reasons:?}");

    for (vendor, submissions, cap) in [("braze", 800, 50), ("growingio_cdp", 200, 10)] {
        let state = gateway.sandbox_state(vendor).await;
        assert_eq!(state["submissions"], submissions, "{state:#}");
        assert_eq!((&state["refusals"], &state["violations"]), (&json!({}), &json!([])), "{state:#}");
        assert!(state["max_running"].as_u64().unwrap() <= cap, "{state:#}");
    }
    assert_eq!(gateway.sandbox_state("braze").await["max_running_per_audience"], 1);
    let slots: i64 = sqlx::query_scalar("select count(*) from vendor_slot").fetch_one(&gateway.db).await.unwrap();
    assert_eq!(slots, 0);
    assert_eq!(gateway.stored_files(), gateway.named_files().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn different_requests_for_one_segment_go_in_the_order_of_acceptance() {
    let gateway = Setup::default().start().await;
    let account = gateway.connect("braze").await;
    let id = account.audience["id"].as_str().unwrap();
    let mut exports = Vec::new();
    for at in 0..12 {
        let mut body = request(account.name, "segment", id, COLUMNS[at % 4]);
        body["labels"] = json!({"at": at.to_string()});
        body["coalesce"] = json!("none");
        exports.push(gateway.submit(&body).await);
    }
    // One in the middle never comes to its turn; those behind it move up at once.
    let cancelled = exports.remove(5);
    gateway.post(&format!("/v1/exports/{}/cancel", cancelled["id"].as_str().unwrap()), &json!({})).await;
    let began = Instant::now();
    for export in &exports {
        let export = gateway.finished(export).await;
        assert_eq!((&export["state"], &export["result"]["records"]), (&json!("succeeded"), &json!(7)), "{export:#}");
    }
    assert!(began.elapsed() < Duration::from_secs(30), "a turn was missed and found by the fallback only");
    let by_submission: Vec<String> =
        sqlx::query_scalar("select labels ->> 'at' from export where submitted_at is not null order by submitted_at")
            .fetch_all(&gateway.db)
            .await
            .unwrap();
    let accepted: Vec<_> = exports.iter().map(|export| export["labels"]["at"].as_str().unwrap()).collect();
    assert_eq!(by_submission, accepted);
    assert_eq!(gateway.sandbox_state("braze").await["max_running_per_audience"], 1);
}

/// Exports that hold no slot may end too, and whoever waited behind them must hear of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_place_in_the_queue_that_is_given_up_is_passed_on() {
    let mut setup = Setup::default();
    setup.sandbox.processing = Duration::from_secs(1);
    let gateway = setup.start().await;
    let account = gateway.connect("braze").await;
    let id = account.audience["id"].as_str().unwrap();
    let mut exports = Vec::new();
    for column in COLUMNS {
        exports.push(gateway.submit(&request(account.name, "segment", id, column)).await);
    }
    gateway.seen(&exports[3], |export| export["phase"] == "waiting_for_slot").await;
    let began = Instant::now();
    for export in &exports[..3] {
        gateway.post(&format!("/v1/exports/{}/cancel", export["id"].as_str().unwrap()), &json!({})).await;
        assert_eq!(gateway.finished(export).await["state"], "cancelled");
    }
    assert_eq!(gateway.finished(&exports[3]).await["state"], "succeeded");
    assert!(began.elapsed() < Duration::from_secs(30), "found by the fallback only");
}
