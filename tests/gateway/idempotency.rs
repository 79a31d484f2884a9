//! `Idempotency-Key`: the same request twice is one export.

use std::collections::BTreeSet;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    process::replica,
    support::{ALL_SCOPES, Answer, Setup, TestGateway, gateway},
};

async fn submit(gateway: &TestGateway, key: &str, body: &Value) -> Answer {
    submit_as(gateway, &gateway.token(), key, body).await
}

async fn submit_as(gateway: &TestGateway, token: &str, key: &str, body: &Value) -> Answer {
    let request = gateway.anonymous(Method::POST, "/v1/exports").bearer_auth(token);
    Answer::of(request.header("idempotency-key", key).json(body)).await
}

async fn count(gateway: &TestGateway) -> i64 {
    sqlx::query_scalar("select count(*) from export").fetch_one(&gateway.db).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_and_body_answer_the_same_export() {
    let gateway = Setup::default().without_worker().start().await;
    let body = TestGateway::everybody(&gateway.connect("braze").await);
    let first = submit(&gateway, "k", &body).await;
    assert_eq!((first.status, first.header("idempotency-replayed")), (StatusCode::ACCEPTED, ""));
    let second = submit(&gateway, "k", &body).await;
    assert_eq!((second.status, second.header("idempotency-replayed")), (StatusCode::ACCEPTED, "true"));
    assert_eq!(second.header("location"), first.header("location"));
    assert_eq!(second.json(), first.json());
    assert_eq!(count(&gateway).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_shows_the_export_as_it_is_now() {
    let gateway = gateway().await;
    let body = TestGateway::everybody(&gateway.connect("braze").await);
    let first = submit(&gateway, "k", &body).await.json();
    let finished = gateway.finished(&first).await;
    let replay = submit(&gateway, "k", &body).await;
    assert_eq!(replay.status, StatusCode::ACCEPTED);
    assert_eq!(replay.header("retry-after"), "", "there is nothing to wait for");
    assert_eq!(replay.json(), finished);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_written_in_another_order_is_the_same_body() {
    let gateway = Setup::default().without_worker().start().await;
    let account = gateway.connect("braze").await;
    let audience = account.audience.to_string();
    let send = async |body: String| {
        let request = gateway.request(Method::POST, "/v1/exports").header("idempotency-key", "k");
        Answer::of(request.header("content-type", "application/json").body(body)).await
    };
    let name = account.name;
    let first = send(format!(
        r#"{{"connection":"{name}","dataset":"audience_members","parameters":{{"audience":{audience}}}}}"#
    ));
    let second = send(format!(
        r#"{{ "parameters" : {{"audience": {audience}}}, "dataset":"audience_members", "connection" : "{name}"}}"#
    ));
    let (first, second) = (first.await, second.await);
    assert_eq!((first.status, second.status), (StatusCode::ACCEPTED, StatusCode::ACCEPTED), "{second:?}");
    assert_eq!(first.json()["id"], second.json()["id"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_with_another_body_is_refused() {
    let gateway = Setup::default().without_worker().start().await;
    let mut body = TestGateway::everybody(&gateway.connect("braze").await);
    submit(&gateway, "k", &body).await;
    body["labels"] = json!({"team": "other"});
    submit(&gateway, "k", &body).await.problem(422, "idempotency_key_reused");
    assert_eq!(count(&gateway).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_whose_first_request_is_not_answered_yet_is_409() {
    let gateway = Setup::default().without_worker().start().await;
    let body = TestGateway::everybody(&gateway.connect("braze").await);
    // Whoever comes first stops at this lock; the other must not wait with it.
    let mut held = gateway.db.begin().await.unwrap();
    sqlx::query("lock table idempotency_key in access exclusive mode").execute(&mut *held).await.unwrap();
    let (one, other) = (submit(&gateway, "k", &body), submit(&gateway, "k", &body));
    let (one, other) = (std::pin::pin!(one), std::pin::pin!(other));
    let (refused, stopped) = futures_util::future::select(one, other).await.into_inner();
    refused.problem(409, "idempotency_key_in_flight");
    assert_eq!(refused.header("retry-after"), "1");
    held.rollback().await.unwrap();
    let accepted = stopped.await;
    assert_eq!(accepted.status, StatusCode::ACCEPTED);
    let again = submit(&gateway, "k", &body).await;
    assert_eq!((again.status, &again.json()["id"]), (StatusCode::ACCEPTED, &accepted.json()["id"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_requests_at_once_with_one_key_make_one_export() {
    let gateway = Setup::default().without_worker().start().await;
    let body = TestGateway::everybody(&gateway.connect("braze").await);
    let answers = futures_util::future::join_all((0..20).map(|_| submit(&gateway, "k", &body))).await;
    let mut ids = BTreeSet::new();
    for answer in &answers {
        match answer.status {
            StatusCode::ACCEPTED => drop(ids.insert(answer.json()["id"].to_string())),
            _ => drop(answer.problem(409, "idempotency_key_in_flight")),
        }
    }
    assert_eq!(ids.len(), 1);
    assert_eq!(count(&gateway).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_belongs_to_its_tenant_and_subject() {
    let gateway = Setup::default().without_worker().start().await;
    let body = TestGateway::everybody(&gateway.connect("braze").await);
    let mut ids = BTreeSet::new();
    for (subject, tenant) in [("one", "growth"), ("other", "growth"), ("one", "finance")] {
        let token = gateway.token_for(subject, tenant, ALL_SCOPES, &["*"]);
        let answer = submit_as(&gateway, &token, "k", &body).await;
        assert_eq!((answer.status, answer.header("idempotency-replayed")), (StatusCode::ACCEPTED, ""));
        ids.insert(answer.json()["id"].to_string());
    }
    assert_eq!(ids.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_does_not_use_the_key_up() {
    let gateway = Setup::default().without_worker().start().await;
    let body = TestGateway::everybody(&gateway.account("braze"));
    submit(&gateway, "k", &body).await.problem(422, "unknown_connection");
    gateway.connect("braze").await;
    let answer = submit(&gateway, "k", &body).await;
    assert_eq!((answer.status, answer.header("idempotency-replayed")), (StatusCode::ACCEPTED, ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_up_to_255_visible_characters() {
    let gateway = Setup::default().without_worker().start().await;
    let body = TestGateway::everybody(&gateway.connect("braze").await);
    assert_eq!(submit(&gateway, &"k".repeat(255), &body).await.status, StatusCode::ACCEPTED);
    for bad in [&*"k".repeat(256), "", "two words"] {
        submit(&gateway, bad, &body).await.problem(400, "invalid_request");
    }
}

/// The contract under load: a hundred callers with one key and one body, over three replicas of their own processes.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hundred_equal_requests_over_three_replicas_are_one_export() {
    let gateway = Setup::default().without_worker().start().await;
    let account = gateway.connect("braze").await;
    let program = env!("CARGO_BIN_EXE_headgate");
    let replicas =
        [replica(&gateway, program).await, replica(&gateway, program).await, replica(&gateway, program).await];
    let body = TestGateway::everybody(&account);
    let token = gateway.token();
    let send = async |number: usize| {
        let url = replicas[number % replicas.len()].1.join("v1/exports").unwrap();
        let request = gateway.http.post(url).bearer_auth(&token).header("idempotency-key", "one");
        Answer::of(request.json(&body)).await
    };
    let all_at_once = async || futures_util::future::join_all((0..100).map(&send)).await;
    let mut ids = BTreeSet::new();
    let mut firsts = 0;
    let mut record = |answer: &Answer| {
        let accepted = answer.status == StatusCode::ACCEPTED;
        if accepted {
            ids.insert(answer.json()["id"].as_str().unwrap().to_owned());
            firsts += usize::from(answer.header("idempotency-replayed").is_empty());
        } else {
            answer.problem(409, "idempotency_key_in_flight");
            assert_eq!(answer.header("retry-after"), "1");
        }
        accepted
    };
    let first: Vec<_> = all_at_once().await.iter().map(&mut record).collect();
    assert!(first.contains(&true), "nobody was answered");
    // Whoever was told to come back gets the same export, too.
    for number in 0..100 {
        while !record(&send(number).await) {}
    }
    assert_eq!((ids.len(), firsts), (1, 1));
    assert_eq!(count(&gateway).await, 1);
    let keys: i64 = sqlx::query_scalar("select count(*) from idempotency_key").fetch_one(&gateway.db).await.unwrap();
    assert_eq!(keys, 1);
    let export = gateway.finished(&json!({"id": ids.first()})).await;
    assert_eq!(export["state"], "succeeded", "{export:#}");
    assert_eq!(gateway.sandbox_state("braze").await["submissions"], 1);
}
