//! Cancelling, retrying, deleting, expiring.

use std::time::Duration;

use headgate::{operations::files::sweep_results, startup::Roles};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{Answer, Setup, TestGateway, eventually, export_path, file_path, gateway};

/// A gateway whose vendor takes longer than any test.
fn slow() -> Setup {
    let mut setup = Setup::default();
    setup.sandbox.processing = Duration::from_mins(10);
    setup
}

async fn submit(gateway: &TestGateway, vendor: &str) -> Value {
    let account = gateway.connect(vendor).await;
    gateway.submit(&TestGateway::everybody(&account)).await
}

async fn cancel(gateway: &TestGateway, export: &Value) -> Answer {
    Answer::of(gateway.request(Method::POST, &format!("{}/cancel", export_path(export)))).await
}

async fn retry(gateway: &TestGateway, export: &Value) -> Answer {
    Answer::of(gateway.request(Method::POST, &format!("{}/retry", export_path(export)))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queued_export_is_cancelled_without_the_vendor_hearing_of_it() {
    let mut gateway = Setup::default().without_worker().start().await;
    let export = submit(&gateway, "braze").await;
    let answer = cancel(&gateway, &export).await;
    assert_eq!((answer.status, &answer.json()["state"]), (StatusCode::ACCEPTED, &json!("cancelling")));
    assert_eq!(answer.header("location"), export_path(&export));
    assert!(answer.header("retry-after").parse::<u64>().unwrap() > 0);
    gateway.stop().await;
    gateway.start_again(Roles { api: true, worker: true }).await;
    let export = gateway.finished(&export).await;
    assert_eq!(
        (&export["state"], &export["error"], &export["result"]),
        (&json!("cancelled"), &json!(null), &json!(null))
    );
    assert_eq!(gateway.sandbox_state("braze").await["submissions"].as_u64().unwrap_or(0), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_the_vendor_is_preparing_is_cancelled_soon() {
    let gateway = slow().start().await;
    for vendor in ["braze", "growingio_cdp"] {
        let export = submit(&gateway, vendor).await;
        gateway.until(&export, |export| export["phase"] == "vendor_processing").await;
        assert_eq!(cancel(&gateway, &export).await.status, StatusCode::ACCEPTED);
        let export = gateway.finished(&export).await;
        assert_eq!((&export["state"], &export["phase"]), (&json!("cancelled"), &json!(null)));
        gateway.get(&format!("{}/files", export_path(&export))).await.problem(404, "not_found");
        let events = gateway.get(&format!("{}/events", export_path(&export))).await.json();
        let states: Vec<_> = events["data"].as_array().unwrap().iter().map(|event| event["state"].clone()).collect();
        assert_eq!(states[states.len() - 2..], [json!("cancelling"), json!("cancelled")]);
    }
    assert!(gateway.stored().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_twice_is_fine() {
    let mut gateway = Setup::default().without_worker().start().await;
    let export = submit(&gateway, "braze").await;
    for _ in 0..2 {
        let answer = cancel(&gateway, &export).await;
        assert_eq!((answer.status, &answer.json()["state"]), (StatusCode::ACCEPTED, &json!("cancelling")));
    }
    gateway.stop().await;
    gateway.start_again(Roles { api: true, worker: true }).await;
    gateway.finished(&export).await;
    let answer = cancel(&gateway, &export).await;
    assert_eq!((answer.status, &answer.json()["state"]), (StatusCode::OK, &json!("cancelled")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_export_cannot_be_cancelled() {
    let gateway = gateway().await;
    let export = submit(&gateway, "braze").await;
    gateway.finished(&export).await;
    cancel(&gateway, &export).await.problem(409, "export_already_finished");
    gateway.faults(&["braze.segment.bad_request"]).await;
    let failed = gateway.run(&TestGateway::everybody(&gateway.account("braze"))).await;
    assert_eq!(failed["state"], "failed");
    cancel(&gateway, &failed).await.problem(409, "export_already_finished");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_is_a_new_export_of_the_same_request() {
    let gateway = Setup::default().fault("braze.segment.bad_request=1").start().await;
    let mut body = TestGateway::everybody(&gateway.connect("braze").await);
    body["labels"] = json!({"team": "growth"});
    body["output"] = json!({"compression": "gzip"});
    body["deadline"] = json!("PT1H");
    let failed = gateway.run(&body).await;
    assert_eq!((&failed["state"], &failed["error"]["code"]), (&json!("failed"), &json!("vendor_rejected_request")));
    let answer = retry(&gateway, &failed).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    let again = answer.json();
    assert_eq!(answer.header("location"), export_path(&again));
    assert_eq!(again["retry_of"], failed["id"]);
    assert_ne!(again["id"], failed["id"]);
    for same in ["connection", "vendor", "dataset", "parameters", "output", "delivery", "labels"] {
        assert_eq!(again[same], failed[same], "{same}");
    }
    assert_eq!(gateway.finished(&again).await["state"], "succeeded");
    assert_eq!(gateway.get(&export_path(&failed)).await.json(), failed, "the first stays as it was");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_finished_export_is_retried_or_deleted() {
    let gateway = Setup::default().without_worker().start().await;
    let export = submit(&gateway, "braze").await;
    retry(&gateway, &export).await.problem(409, "export_not_finished");
    gateway.delete(&export_path(&export)).await.problem(409, "export_not_finished");
    gateway.get(&format!("{}/files", export_path(&export))).await.problem(409, "export_not_finished");
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_takes_the_files_and_leaves_the_export() {
    let gateway = gateway().await;
    let export = submit(&gateway, "braze").await;
    let export = gateway.finished(&export).await;
    let (path, file) = (export_path(&export), file_path(&export, &export["result"]["files"][0]));
    assert_eq!(gateway.stored().len(), 1);
    for _ in 0..2 {
        let answer = gateway.delete(&path).await;
        assert_eq!((answer.status, answer.body.len()), (StatusCode::NO_CONTENT, 0));
    }
    assert!(gateway.stored().is_empty());
    let deleted = gateway.get(&path).await.json();
    assert_eq!(deleted["state"], "succeeded");
    assert_eq!((&deleted["result"]["availability"], &deleted["result"]["files"]), (&json!("deleted"), &json!([])));
    assert_eq!(deleted["result"]["records"], export["result"]["records"]);
    gateway.get(&file).await.problem(410, "result_expired");
    gateway.get(&format!("{path}/files")).await.problem(410, "result_expired");
    assert_eq!(Answer::of(gateway.request(Method::HEAD, &file)).await.status, StatusCode::GONE);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_without_files_can_be_deleted_too() {
    let gateway = Setup::default().fault("braze.segment.bad_request").start().await;
    let export = submit(&gateway, "braze").await;
    let failed = gateway.finished(&export).await;
    assert_eq!(gateway.delete(&export_path(&failed)).await.status, StatusCode::NO_CONTENT);
    let after = gateway.get(&export_path(&failed)).await.json();
    assert_eq!((&after["state"], &after["result"]), (&json!("failed"), &json!(null)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_whose_life_is_over_is_gone_for_callers_and_then_from_the_store() {
    let gateway = Setup::default().flags(|flags| flags.result_ttl = Some("PT1S".into())).start().await;
    let export = submit(&gateway, "braze").await;
    let finished = gateway.finished(&export).await;
    let (path, file) = (export_path(&finished), file_path(&finished, &finished["result"]["files"][0]));
    let tag = gateway.get(&path).await.header("etag").to_owned();
    let expired = eventually("the result expires", async || {
        let read = gateway.request(Method::GET, &path).header("if-none-match", &tag);
        let answer = Answer::of(read).await;
        (answer.status == StatusCode::OK).then(|| answer.json()).filter(|e| e["result"]["availability"] == "expired")
    })
    .await;
    assert_eq!(expired["result"]["files"], json!([]));
    gateway.get(&file).await.problem(410, "result_expired");
    gateway.get(&format!("{path}/files")).await.problem(410, "result_expired");
    sweep_results(&gateway.running.as_ref().unwrap().gateway).await.unwrap();
    assert!(gateway.stored().is_empty());
    assert_eq!(sweep_results(&gateway.running.as_ref().unwrap().gateway).await.unwrap(), 0, "swept once");
    assert_eq!(gateway.get(&path).await.json()["result"]["availability"], "expired");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_lives_is_not_swept() {
    let gateway = gateway().await;
    let export = submit(&gateway, "braze").await;
    let export = gateway.finished(&export).await;
    assert_eq!(sweep_results(&gateway.running.as_ref().unwrap().gateway).await.unwrap(), 0);
    assert_eq!(gateway.download(&export).await.len() as u64, export["result"]["bytes"].as_u64().unwrap());
}
