//! Submitting, listing and reading exports.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{Answer, Setup, TestGateway, export_path, gateway};

fn time(value: &Value) -> DateTime<Utc> {
    value.as_str().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_accepted_export_is_202_with_its_place_a_time_to_look_and_every_key() {
    let gateway = Setup::default().without_worker().start().await;
    let mut body = TestGateway::everybody(&gateway.connect("braze").await);
    body["parameters"]["fields"] = json!(["user_id", "attributes.plan"]);
    body["labels"] = json!({"team": "growth"});
    let answer = gateway.post("/v1/exports", &body).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    let export = answer.json();
    assert_eq!(answer.header("location"), export_path(&export));
    assert!(answer.header("retry-after").parse::<u64>().unwrap() > 0);
    assert!(export["id"].as_str().unwrap().starts_with("exp_"));
    assert_eq!(time(&export["deadline_at"]) - time(&export["created_at"]), chrono::TimeDelta::hours(6));
    insta::assert_json_snapshot!(export, {
        ".id" => "[id]", ".created_at" => "[time]", ".last_progress_at" => "[time]", ".deadline_at" => "[time]",
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_export_has_every_key_of_its_result() {
    let gateway = gateway().await;
    let body = TestGateway::everybody(&gateway.connect("braze").await);
    let export = gateway.run(&body).await;
    let files = export["result"]["files"].as_array().unwrap();
    assert_eq!(export["result"]["bytes"], files.iter().map(|file| file["bytes"].as_i64().unwrap()).sum::<i64>());
    assert_eq!(time(&export["result"]["expires_at"]) - time(&export["finished_at"]), chrono::TimeDelta::days(7));
    assert!(time(&export["created_at"]) <= time(&export["started_at"]));
    assert!(time(&export["started_at"]) <= time(&export["result"]["data_as_of"]));
    assert!(time(&export["result"]["data_as_of"]) <= time(&export["finished_at"]));
    insta::assert_json_snapshot!(export, {
        ".id" => "[id]", ".**.id" => "[id]", ".**.href" => "[path]", ".**.sha256" => "[digest]",
        ".created_at" => "[time]", ".started_at" => "[time]", ".last_progress_at" => "[time]",
        ".finished_at" => "[time]", ".deadline_at" => "[time]", ".result.expires_at" => "[time]",
        ".result.data_as_of" => "[time]",
        ".**.bytes" => "[bytes]", ".**.bytes_read" => "[bytes]", ".**.bytes_written" => "[bytes]",
        ".vendor_status.reference" => "[reference]",
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn validate_only_answers_the_plan_and_does_nothing() {
    let gateway = gateway().await;
    let body = TestGateway::everybody(&gateway.connect("braze").await);
    let check = gateway.request(Method::POST, "/v1/exports?validate_only=true").header("idempotency-key", "k");
    let answer = Answer::of(check.json(&body)).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    let plan = answer.json();
    assert_eq!(plan["valid"], true);
    assert_eq!(plan["calls"][0]["method"], "POST");
    assert_eq!(plan["calls"][0]["path"], "/users/export/segment");
    assert_eq!((&plan["windows"], &plan["warnings"]), (&json!([]), &json!([])));
    assert_eq!(gateway.get("/v1/exports").await.json()["data"], json!([]));
    assert_eq!(gateway.sandbox_state("braze").await["submissions"].as_u64().unwrap_or(0), 0);
    let kept: i64 = sqlx::query_scalar("select count(*) from idempotency_key").fetch_one(&gateway.db).await.unwrap();
    assert_eq!(kept, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn validate_only_refuses_what_submitting_would_refuse() {
    let gateway = Setup::default().without_worker().start().await;
    let mut body = TestGateway::everybody(&gateway.connect("braze").await);
    body["parameters"]["fields"] = json!(["shoe_size"]);
    let really = gateway.post("/v1/exports", &body).await.problem(422, "invalid_request");
    let checked = gateway.post("/v1/exports?validate_only=true", &body).await.problem(422, "invalid_request");
    assert_eq!(really["errors"], checked["errors"]);
    gateway.post("/v1/exports?validate_only=perhaps", &body).await.problem(400, "invalid_request");
}

/// Three exports over each of two connections, oldest first.
async fn six_exports(gateway: &TestGateway) -> Vec<Value> {
    let mut exports = Vec::new();
    for vendor in ["braze", "growingio_cdp"] {
        let mut body = TestGateway::everybody(&gateway.connect(vendor).await);
        for number in 0..3 {
            body["labels"] = json!({"vendor": vendor, "number": number.to_string()});
            exports.push(gateway.submit(&body).await);
        }
    }
    exports
}

fn ids(exports: &[Value]) -> Vec<&str> {
    exports.iter().map(|export| export["id"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_newest_first_and_every_filter_narrows_it() {
    let gateway = Setup::default().without_worker().start().await;
    let exports = six_exports(&gateway).await;
    gateway.post(&format!("{}/cancel", export_path(&exports[4])), &json!({})).await;
    let (first, fourth) = (&exports[0]["created_at"], &exports[3]["created_at"]);
    for (query, expected) in [
        (String::new(), vec![5, 4, 3, 2, 1, 0]),
        ("state=queued".into(), vec![5, 3, 2, 1, 0]),
        ("state=cancelling".into(), vec![4]),
        ("state=failed".into(), vec![]),
        ("connection=demo-braze".into(), vec![2, 1, 0]),
        ("connection=other".into(), vec![]),
        ("dataset=audience_members".into(), vec![5, 4, 3, 2, 1, 0]),
        ("dataset=report".into(), vec![]),
        ("label.vendor=braze".into(), vec![2, 1, 0]),
        ("label.vendor=braze&label.number=1".into(), vec![1]),
        ("label.number=1&state=queued&connection=demo-cdp".into(), vec![]),
        (format!("created_after={}", fourth.as_str().unwrap()), vec![5, 4]),
        (format!("created_before={}", fourth.as_str().unwrap()), vec![2, 1, 0]),
        (format!("created_before={}", first.as_str().unwrap()), vec![]),
    ] {
        let answer = gateway.get(&format!("/v1/exports?{query}")).await;
        assert_eq!(answer.status, StatusCode::OK, "{query}: {answer:?}");
        let page = answer.json();
        let expected: Vec<_> =
            expected.into_iter().map(|index: usize| exports[index]["id"].as_str().unwrap()).collect();
        assert_eq!(ids(page["data"].as_array().unwrap()), expected, "{query}");
        assert_eq!(page["next_page_token"], "", "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_lead_to_the_end_without_gap_or_double_also_while_exports_are_added() {
    let gateway = Setup::default().without_worker().start().await;
    let exports = six_exports(&gateway).await;
    let body = TestGateway::everybody(&gateway.account("braze"));
    let (mut seen, mut token, mut sizes) = (Vec::new(), String::new(), Vec::new());
    loop {
        let page = gateway.get(&format!("/v1/exports?page_size=2&page_token={token}")).await.json();
        sizes.push(page["data"].as_array().unwrap().len());
        seen.extend(ids(page["data"].as_array().unwrap()).into_iter().map(str::to_owned));
        token = page["next_page_token"].as_str().unwrap().to_owned();
        if token.is_empty() {
            break;
        }
        gateway.submit(&body).await;
    }
    let mut expected = ids(&exports);
    expected.reverse();
    assert_eq!(seen, expected);
    assert_eq!(sizes, [2, 2, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_cannot_be_meant_is_refused() {
    let gateway = Setup::default().without_worker().start().await;
    for query in [
        "page_token=nonsense",
        "page_size=0",
        "page_size=many",
        "state=done",
        "dataset=shoes",
        "created_after=yesterday",
        "stat=queued",
        "state=queued&state=failed",
        "connection=%00",
        "connection=%ff",
    ] {
        gateway.get(&format!("/v1/exports?{query}")).await.problem(400, "invalid_request");
    }
    let body = TestGateway::everybody(&gateway.connect("braze").await);
    gateway.post("/v1/exports?dry_run=true", &body).await.problem(400, "invalid_request");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unchanged_export_is_304_and_a_changed_one_comes_with_a_new_tag() {
    let gateway = Setup::default().without_worker().start().await;
    let export = gateway.submit(&TestGateway::everybody(&gateway.connect("braze").await)).await;
    let path = export_path(&export);
    let read = async |tag: &str| Answer::of(gateway.request(Method::GET, &path).header("if-none-match", tag)).await;
    let first = read("\"other\"").await;
    assert_eq!(first.status, StatusCode::OK);
    assert!(first.header("retry-after").parse::<u64>().unwrap() > 0);
    let tag = first.header("etag").to_owned();
    for current in [tag.clone(), format!("W/{tag}"), format!("\"other\", {tag}"), "*".into()] {
        let again = read(&current).await;
        assert_eq!((again.status, again.body.len()), (StatusCode::NOT_MODIFIED, 0), "{current}");
        assert_eq!(again.header("etag"), tag);
    }
    gateway.post(&format!("{path}/cancel"), &json!({})).await;
    let changed = read(&tag).await;
    assert_eq!((changed.status, &changed.json()["state"]), (StatusCode::OK, &json!("cancelling")));
    assert_ne!(changed.header("etag"), tag);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_who_waits_is_answered_at_each_change() {
    let gateway = gateway().await;
    let export = gateway.submit(&TestGateway::everybody(&gateway.connect("braze").await)).await;
    let path = export_path(&export);
    let began = Instant::now();
    loop {
        let before = gateway.get(&path).await.json();
        let answer = Answer::of(gateway.request(Method::GET, &path).header("prefer", "wait=60")).await;
        assert_eq!(answer.header("preference-applied"), "wait=60");
        let after = answer.json();
        if !after["finished_at"].is_null() {
            assert_eq!(after["state"], "succeeded");
            assert_eq!(answer.header("retry-after"), "");
            break;
        }
        assert_ne!((&before["state"], &before["phase"]), (&after["state"], &after["phase"]));
    }
    assert!(began.elapsed() < Duration::from_secs(30), "somebody waited for the whole minute");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_who_waits_for_what_does_not_come_is_answered_when_the_time_is_up() {
    let gateway = Setup::default().without_worker().start().await;
    let export = gateway.submit(&TestGateway::everybody(&gateway.connect("braze").await)).await;
    let began = Instant::now();
    let answer = Answer::of(gateway.request(Method::GET, &export_path(&export)).header("prefer", "wait=1")).await;
    assert!(began.elapsed() >= Duration::from_secs(1));
    assert_eq!((answer.status, answer.header("preference-applied")), (StatusCode::OK, "wait=1"));
    assert_eq!(answer.json()["state"], "queued");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_is_counted_from_acceptance_and_ends_the_export() {
    let gateway = Setup::default().fault("braze.segment.not_ready").start().await;
    let mut body = TestGateway::everybody(&gateway.connect("braze").await);
    body["deadline"] = json!("PT2S");
    let export = gateway.run(&body).await;
    assert_eq!((&export["state"], &export["error"]["code"]), (&json!("failed"), &json!("deadline_exceeded")));
    assert_eq!(time(&export["deadline_at"]) - time(&export["created_at"]), chrono::TimeDelta::seconds(2));
    assert!(time(&export["finished_at"]) >= time(&export["deadline_at"]));
    assert_eq!((&export["result"], &export["error"]["retryable"]), (&Value::Null, &json!(true)));
}

#[tokio::test(flavor = "multi_thread")]
async fn exports_submitted_at_once_have_ids_of_their_own_and_are_all_listed() {
    let gateway = Setup::default().without_worker().start().await;
    let body = TestGateway::everybody(&gateway.connect("braze").await);
    let exports = futures_util::future::join_all((0..10).map(|_| gateway.submit(&body))).await;
    let submitted: BTreeSet<_> = ids(&exports).into_iter().collect();
    assert_eq!(submitted.len(), 10);
    let page = gateway.get("/v1/exports").await.json();
    assert_eq!(ids(page["data"].as_array().unwrap()).into_iter().collect::<BTreeSet<_>>(), submitted);
}
