//! Who sees whose exports and connections.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{ALL_SCOPES, Answer, Setup, TestGateway, export_path, file_path, gateway};

const CALLER: &str = "exports:read exports:write exports:download";

#[tokio::test(flavor = "multi_thread")]
async fn another_tenants_export_is_nowhere() {
    let gateway = gateway().await;
    let export = gateway.run(&TestGateway::everybody(&gateway.connect("braze").await)).await;
    let stranger = gateway.token_for("tester", "finance", ALL_SCOPES, &["*"]);
    let (path, file) = (export_path(&export), file_path(&export, &export["result"]["files"][0]));
    for (method, path) in [
        (Method::GET, path.clone()),
        (Method::DELETE, path.clone()),
        (Method::POST, format!("{path}/cancel")),
        (Method::POST, format!("{path}/retry")),
        (Method::GET, format!("{path}/events")),
        (Method::GET, format!("{path}/attempts")),
        (Method::GET, format!("{path}/files")),
        (Method::GET, file.clone()),
    ] {
        gateway.ask(&stranger, method, &path).await.problem(404, "not_found");
    }
    assert_eq!(gateway.ask(&stranger, Method::HEAD, &file).await.status, StatusCode::NOT_FOUND);
    let live = gateway.anonymous(Method::GET, &format!("{path}/events")).bearer_auth(&stranger);
    Answer::of(live.header("accept", "text/event-stream")).await.problem(404, "not_found");
    let waiting = gateway.anonymous(Method::GET, &path).bearer_auth(&stranger).header("prefer", "wait=60");
    Answer::of(waiting).await.problem(404, "not_found");
    assert_eq!(gateway.ask(&stranger, Method::GET, "/v1/exports").await.json()["data"], json!([]));
    assert_eq!(gateway.get(&path).await.json(), export, "and nothing happened to it");
}

#[tokio::test(flavor = "multi_thread")]
async fn subjects_of_one_tenant_share_their_exports() {
    let gateway = Setup::default().without_worker().start().await;
    let export = gateway.submit(&TestGateway::everybody(&gateway.connect("braze").await)).await;
    let colleague = gateway.token_for("colleague", "growth", ALL_SCOPES, &[]);
    assert_eq!(gateway.ask(&colleague, Method::GET, &export_path(&export)).await.json(), export);
    assert_eq!(export["created_by"], "tester");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_found_below_its_own_export_only() {
    let gateway = gateway().await;
    let body = TestGateway::everybody(&gateway.connect("braze").await);
    let (one, other) = (gateway.run(&body).await, gateway.run(&body).await);
    gateway.get(&file_path(&one, &other["result"]["files"][0])).await.problem(404, "not_found");
    for path in [
        "/v1/exports/exp_00000000000070008000000000000000".to_owned(),
        "/v1/exports/nonsense".into(),
        "/v1/exports/fil_00000000000070008000000000000000/events".into(),
        format!("{}/files/nonsense", export_path(&one)),
        format!("{}/files/%00", export_path(&one)),
    ] {
        gateway.get(&path).await.problem(404, "not_found");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_the_token_does_not_grant_is_as_good_as_unknown() {
    let gateway = Setup::default().without_worker().start().await;
    let body = TestGateway::everybody(&gateway.connect("braze").await);
    gateway.connect("growingio_cdp").await;
    for granted in [&["demo-cdp"][..], &["braze*"], &[]] {
        let token = gateway.token_for("crm", "growth", CALLER, granted);
        let submit = gateway.anonymous(Method::POST, "/v1/exports").bearer_auth(&token).json(&body);
        let problem = Answer::of(submit).await.problem(422, "unknown_connection");
        assert_eq!(problem["errors"][0]["pointer"], "/connection");
        gateway.ask(&token, Method::GET, "/v1/connections/demo-braze").await.problem(404, "not_found");
    }
    let token = gateway.token_for("crm", "growth", CALLER, &["demo-b*"]);
    let submit = gateway.anonymous(Method::POST, "/v1/exports").bearer_auth(&token).json(&body);
    assert_eq!(Answer::of(submit).await.status, StatusCode::ACCEPTED);
    let list = gateway.ask(&token, Method::GET, "/v1/connections").await.json();
    let names: Vec<_> = list["data"].as_array().unwrap().iter().map(|connection| &connection["name"]).collect();
    assert_eq!(names, ["demo-braze"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_needs_the_connection_granted_again() {
    let gateway = Setup::default().fault("braze.segment.bad_request").start().await;
    let failed = gateway.run(&TestGateway::everybody(&gateway.connect("braze").await)).await;
    let token = gateway.token_for("crm", "growth", CALLER, &["demo-cdp"]);
    let answer = gateway.ask(&token, Method::POST, &format!("{}/retry", export_path(&failed))).await;
    answer.problem(422, "unknown_connection");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_operation_asks_for_its_own_scope() {
    let gateway = gateway().await;
    let export = gateway.run(&TestGateway::everybody(&gateway.connect("braze").await)).await;
    let (path, file) = (export_path(&export), file_path(&export, &export["result"]["files"][0]));
    let connection = "/v1/connections/demo-braze";
    let destination = "/v1/destinations/lake";
    let schedule = "/v1/schedules/sch_00000000000070008000000000000000";
    let endpoint = "/v1/webhook-endpoints/whe_00000000000070008000000000000000";
    for (method, path, scope) in [
        (Method::POST, "/v1/exports".to_owned(), "exports:write"),
        (Method::GET, "/v1/exports".into(), "exports:read"),
        (Method::GET, path.clone(), "exports:read"),
        (Method::DELETE, path.clone(), "exports:write"),
        (Method::POST, format!("{path}/cancel"), "exports:write"),
        (Method::POST, format!("{path}/retry"), "exports:write"),
        (Method::GET, format!("{path}/events"), "exports:read"),
        (Method::GET, format!("{path}/attempts"), "exports:read"),
        (Method::GET, format!("{path}/files"), "exports:read"),
        (Method::GET, file, "exports:download"),
        (Method::PUT, connection.into(), "connections:admin"),
        (Method::DELETE, connection.into(), "connections:admin"),
        (Method::POST, format!("{connection}/credentials"), "connections:admin"),
        (Method::POST, format!("{connection}/check"), "connections:admin"),
        (Method::PUT, destination.into(), "destinations:admin"),
        (Method::DELETE, destination.into(), "destinations:admin"),
        (Method::POST, format!("{destination}/credentials"), "destinations:admin"),
        (Method::POST, format!("{destination}/check"), "destinations:admin"),
        (Method::POST, "/v1/schedules".into(), "schedules:write"),
        (Method::GET, "/v1/schedules".into(), "schedules:read"),
        (Method::GET, schedule.into(), "schedules:read"),
        (Method::DELETE, schedule.into(), "schedules:write"),
        (Method::POST, format!("{schedule}/pause"), "schedules:write"),
        (Method::POST, format!("{schedule}/resume"), "schedules:write"),
        (Method::GET, format!("{schedule}/runs"), "schedules:read"),
        (Method::POST, "/v1/webhook-endpoints".into(), "webhooks:write"),
        (Method::GET, "/v1/webhook-endpoints".into(), "webhooks:read"),
        (Method::GET, endpoint.into(), "webhooks:read"),
        (Method::DELETE, endpoint.into(), "webhooks:write"),
        (Method::POST, format!("{endpoint}/secret"), "webhooks:write"),
        (Method::GET, format!("{endpoint}/deliveries"), "webhooks:read"),
        (Method::POST, format!("{endpoint}/replay"), "webhooks:write"),
    ] {
        let others: Vec<_> = ALL_SCOPES.split(' ').filter(|other| *other != scope).collect();
        let token = gateway.token_for("crm", "growth", &others.join(" "), &["*"]);
        let answer = gateway.ask(&token, method.clone(), &path).await;
        let problem: Value = answer.problem(403, "forbidden");
        assert!(problem["detail"].as_str().unwrap().contains(&format!("`{scope}`")), "{method} {path}: {problem}");
        let challenge = answer.header("www-authenticate");
        assert!(challenge.contains("insufficient_scope") && challenge.contains(scope), "{challenge}");
    }
}
