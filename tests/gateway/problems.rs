//! What goes wrong is told the same way everywhere, and explained.

use headgate::exports::problem::Code;
use reqwest::{Body, Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};

use crate::support::{Answer, Setup, TestGateway};

async fn api() -> TestGateway {
    Setup::default().without_worker().start().await
}

fn submit(gateway: &TestGateway) -> RequestBuilder {
    gateway.request(Method::POST, "/v1/exports")
}

fn json_text(request: RequestBuilder, body: impl Into<Body>) -> RequestBuilder {
    request.header("content-type", "application/json").body(body)
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_paths_are_404_with_or_without_a_token() {
    let gateway = api().await;
    for path in ["/nowhere", "/v1", "/v1/export", "/v1/exports/", "/v2/exports", "/v1/exports/x/y/z/a"] {
        gateway.get(path).await.problem(404, "not_found");
        Answer::of(gateway.anonymous(Method::GET, path)).await.problem(404, "not_found");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_methods_are_405_and_allow_tells_the_right_ones() {
    let gateway = api().await;
    for (method, path, allowed) in [
        (Method::PUT, "/v1/exports", "GET, HEAD, POST"),
        (Method::PATCH, "/v1/exports/exp_1", "DELETE, GET, HEAD"),
        (Method::GET, "/v1/exports/exp_1/cancel", "POST"),
        (Method::POST, "/v1/exports/exp_1/files/fil_1", "GET, HEAD"),
        (Method::DELETE, "/v1/vendors", "GET, HEAD"),
        (Method::POST, "/v1/connections/x", "DELETE, GET, HEAD, PUT"),
        (Method::DELETE, "/healthz", "GET, HEAD"),
        (Method::OPTIONS, "/callbacks/x", "POST"),
    ] {
        let answer = Answer::of(gateway.request(method.clone(), path)).await;
        answer.problem(405, "method_not_allowed");
        assert_eq!(answer.header("allow"), allowed, "{method} {path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_no_json_is_400() {
    let gateway = api().await;
    let nested = "[".repeat(200_000);
    for body in [&b"{"[..], b"", b"{} {}", b"{\"connection\": \"\xff\xfe\"}", b"\xff", b"'x'", nested.as_bytes()] {
        let answer = Answer::of(json_text(submit(&gateway), body.to_vec())).await;
        answer.problem(400, "invalid_request");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_two_mebibytes_is_413_announced_or_not() {
    let gateway = api().await;
    let spaces = || vec![b' '; 2 << 20];
    let announced = json_text(submit(&gateway), spaces());
    let pieces = (0..32).map(|_| Ok::<_, std::io::Error>(vec![b' '; 1 << 16]));
    let unannounced = json_text(submit(&gateway), Body::wrap_stream(futures_util::stream::iter(pieces)));
    let connection = json_text(gateway.request(Method::PUT, "/v1/connections/x"), spaces());
    for request in [announced, unannounced, connection] {
        Answer::of(request).await.problem(413, "payload_too_large");
    }
    assert_eq!(gateway.get("/healthz").await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_just_below_the_limit_is_read() {
    let gateway = api().await;
    let mut body = TestGateway::everybody(&gateway.connect("braze").await).to_string();
    body.push_str(&" ".repeat((1 << 20) - body.len()));
    assert_eq!(Answer::of(json_text(submit(&gateway), body.clone())).await.status, StatusCode::ACCEPTED);
    Answer::of(json_text(submit(&gateway), body + " ")).await.problem(413, "payload_too_large");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_another_type_is_415() {
    let gateway = api().await;
    let body = TestGateway::everybody(&gateway.connect("braze").await).to_string();
    for content_type in ["text/plain", "application/xml", "application/x-www-form-urlencoded", "application/jsonx"] {
        let request = submit(&gateway).header("content-type", content_type).body(body.clone());
        Answer::of(request).await.problem(415, "unsupported_media_type");
    }
    Answer::of(submit(&gateway).body(body.clone())).await.problem(415, "unsupported_media_type");
    let packed = json_text(submit(&gateway), body.clone()).header("content-encoding", "gzip");
    Answer::of(packed).await.problem(415, "unsupported_media_type");
    let request = submit(&gateway).header("content-type", "Application/JSON; charset=utf-8").body(body);
    assert_eq!(Answer::of(request).await.status, StatusCode::ACCEPTED);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_wrong_field_is_pointed_at() {
    let gateway = api().await;
    let good = TestGateway::everybody(&gateway.connect("braze").await);
    let with = |pointer: &str, value: Value| {
        let mut body = good.clone();
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        body.pointer_mut(parent).unwrap()[name] = value;
        body
    };
    for (body, pointer) in [
        (json!([]), ""),
        (with("/colour", json!("red")), "/colour"),
        (with("/dataset", json!("shoes")), "/dataset"),
        (with("/parameters/window", json!({})), "/parameters/window"),
        (with("/parameters/fields", json!(["email", "shoe_size"])), "/parameters/fields/1"),
        (with("/parameters/audience", json!({"kind": "segment"})), "/parameters/audience/id"),
        (with("/parameters/audience/kind", json!("crowd")), "/parameters/audience/kind"),
        (with("/parameters/audience/kind", json!("tag")), "/parameters/audience/kind"),
        (with("/output", json!({"format": "pdf"})), "/output/format"),
        (with("/output", json!({"format": "raw", "compression": "gzip"})), "/output/compression"),
        (with("/output", json!({"colour": "red"})), "/output/colour"),
        (with("/delivery", json!({"type": "carrier_pigeon"})), "/delivery/type"),
        (with("/labels", json!({"a b": "c"})), "/labels/a b"),
        (with("/labels", json!({"team": 7})), "/labels/team"),
        (with("/deadline", json!("tomorrow")), "/deadline"),
        (with("/deadline", json!("P3D")), "/deadline"),
        (with("/max_age", json!("P31D")), "/max_age"),
        (with("/coalesce", json!("always")), "/coalesce"),
        (with("/parameters/audience/id", json!("a\u{0}b")), "/parameters/audience/id"),
    ] {
        let problem = gateway.post("/v1/exports", &body).await.problem(422, "invalid_request");
        let pointers: Vec<_> = problem["errors"].as_array().unwrap().iter().map(|error| &error["pointer"]).collect();
        assert_eq!(pointers, [pointer], "{body}");
        assert_eq!((&problem["category"], &problem["retryable"]), (&json!("request"), &json!(false)));
    }
    let listed = gateway.get("/v1/exports").await.json();
    assert_eq!(listed["data"], json!([]), "nothing was accepted");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_wrong_fields_are_told_at_once() {
    let gateway = api().await;
    let mut body = TestGateway::everybody(&gateway.connect("braze").await);
    body["deadline"] = json!("never");
    body["parameters"]["fields"] = json!(["shoe_size", "email", "hat_size"]);
    let problem = gateway.post("/v1/exports", &body).await.problem(422, "invalid_request");
    let pointers: Vec<_> = problem["errors"].as_array().unwrap().iter().map(|error| &error["pointer"]).collect();
    assert_eq!(pointers, ["/deadline", "/parameters/fields/0", "/parameters/fields/2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_connection_and_a_dataset_the_vendor_lacks_have_their_own_codes() {
    let gateway = api().await;
    let mut body = TestGateway::everybody(&gateway.connect("braze").await);
    body["dataset"] = json!("raw_events");
    let problem = gateway.post("/v1/exports", &body).await.problem(422, "dataset_not_supported");
    assert_eq!(problem["errors"][0]["pointer"], "/dataset");
    assert!(problem["detail"].as_str().unwrap().contains("offered by"), "{problem}");
    body["connection"] = json!("nobody-made-this");
    let problem = gateway.post("/v1/exports", &body).await.problem(422, "unknown_connection");
    assert_eq!(problem["errors"][0]["pointer"], "/connection");
    assert!(problem["detail"].as_str().unwrap().contains("nobody-made-this"));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_problem_has_a_page_for_people_and_one_for_machines() {
    let gateway = api().await;
    let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
    for code in Code::ALL {
        let path = format!("/problems/{}", code.as_str());
        let page = Answer::of(gateway.anonymous(Method::GET, &path).header("accept", browser)).await;
        assert_eq!((page.status, page.header("content-type")), (StatusCode::OK, "text/html; charset=utf-8"), "{path}");
        assert!(page.text().contains(&format!("<h1>{}</h1>", code.title())), "{path}");
        assert!(page.header("content-security-policy").contains("default-src 'none'"));
        let data = Answer::of(gateway.anonymous(Method::GET, &path).header("accept", "application/json")).await.json();
        assert_eq!((&data["code"], &data["status"]), (&json!(code.as_str()), &json!(code.status())));
    }
    let listed = Answer::of(gateway.anonymous(Method::GET, "/problems")).await.json();
    assert_eq!(listed["data"].as_array().unwrap().len(), Code::ALL.len());
    gateway.get("/problems/bad_mood").await.problem(404, "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_keeps_the_id_it_came_with() {
    let gateway = api().await;
    let named = gateway.request(Method::GET, "/v1/exports/none").header("x-request-id", "from-the-caller-7");
    assert_eq!(Answer::of(named).await.problem(404, "not_found")["instance"], "from-the-caller-7");
    let (one, other) = (gateway.get("/healthz").await, gateway.get("/healthz").await);
    assert!(one.header("x-request-id").starts_with("req_"));
    assert_ne!(one.header("x-request-id"), other.header("x-request-id"));
    let bad = gateway.request(Method::GET, "/healthz").header("x-request-id", "two words");
    assert!(Answer::of(bad).await.header("x-request-id").starts_with("req_"));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_database_it_lives_but_is_not_ready() {
    let gateway = api().await;
    for path in ["/healthz", "/readyz"] {
        let answer = Answer::of(gateway.anonymous(Method::GET, path)).await;
        assert_eq!((answer.status, answer.json()), (StatusCode::OK, json!({"status": "ok"})), "{path}");
    }
    gateway.db.close().await;
    assert_eq!(gateway.get("/healthz").await.status, StatusCode::OK);
    for path in ["/readyz", "/v1/exports", "/v1/connections"] {
        let answer = gateway.get(path).await;
        let problem = answer.problem(503, "service_unavailable");
        assert_eq!((&problem["retryable"], &problem["category"]), (&json!(true), &json!("gateway")));
        assert_eq!(answer.header("retry-after"), "5", "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_object_store_it_is_not_ready() {
    let gateway = api().await;
    assert_eq!(gateway.get("/readyz").await.status, StatusCode::OK);
    let files = gateway.folder.path().join("files");
    std::fs::remove_dir_all(&files).unwrap_or_default();
    std::fs::write(&files, "a file where the folder was").unwrap();
    let problem = gateway.get("/readyz").await.problem(503, "service_unavailable");
    assert!(problem["detail"].as_str().unwrap().contains("object store"), "{problem}");
}
