//! Vendors that report a finished export: a hint to look, and nothing more.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use headgate::operations::callbacks::token_sha256;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{Answer, Setup, TestGateway, eventually};

/// Far longer than an export takes here: whatever ends sooner was not found by polling.
const POLL: Duration = Duration::from_secs(20);

fn rarely_polled() -> Setup {
    Setup::default().flags(|flags| {
        let millis = POLL.as_millis().to_string();
        (flags.poll_min_ms, flags.poll_max_ms) = (Some(millis.clone()), Some(millis));
    })
}

/// A gateway that vendors reach.
async fn reachable(setup: Setup) -> TestGateway {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let setup = setup.flags(|flags| {
        flags.listen = Some(format!("127.0.0.1:{port}"));
        flags.public_url = Some(format!("http://127.0.0.1:{port}/"));
    });
    setup.start().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callback_makes_the_gateway_look_at_once() {
    for fault in ["", "braze.callback.twice", "braze.callback.early"] {
        let setup = if fault.is_empty() { rarely_polled() } else { rarely_polled().fault(fault) };
        let gateway = reachable(setup).await;
        let account = gateway.connect("braze").await;
        let began = Instant::now();
        let export = gateway.run(&TestGateway::everybody(&account)).await;
        assert_eq!((&export["state"], &export["result"]["records"]), (&json!("succeeded"), &json!(7)), "{export:#}");
        assert!(began.elapsed() < POLL / 2, "{fault}: found by polling");
        let times = if fault.is_empty() { 1 } else { 2 };
        eventually("every callback", async || (calls(&gateway).await >= times).then_some(())).await;
        let state = gateway.sandbox_state("braze").await;
        assert_eq!((&state["callbacks"], &state["callbacks_failed"]), (&json!(times), &json!(0)), "{fault}");
    }
}

async fn calls(gateway: &TestGateway) -> u64 {
    gateway.sandbox_state("braze").await["callbacks"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_callback_costs_time_only() {
    let gateway = reachable(Setup::default().fault("braze.callback.lost")).await;
    let account = gateway.connect("braze").await;
    assert_eq!(gateway.run(&TestGateway::everybody(&account)).await["state"], "succeeded");
    assert_eq!(calls(&gateway).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_public_url_no_callback_is_asked_for() {
    let gateway = Setup::default().start().await;
    let account = gateway.connect("braze").await;
    assert_eq!(gateway.run(&TestGateway::everybody(&account)).await["state"], "succeeded");
    assert_eq!(calls(&gateway).await, 0);
    let hashes: Vec<Option<Vec<u8>>> =
        sqlx::query_scalar("select callback_token_sha256 from export").fetch_all(&gateway.db).await.unwrap();
    assert_eq!(hashes, [None]);
}

/// Stands where the vendor believes the gateway to be, keeps the tokens and tells the gateway nothing.
fn interceptor() -> (String, Arc<Mutex<Vec<String>>>) {
    let tokens = Arc::new(Mutex::new(Vec::new()));
    let seen = tokens.clone();
    let server = HttpServer::new(move || {
        let seen = seen.clone();
        let keep = move |request: HttpRequest| {
            seen.lock().unwrap().push(request.match_info().query("token").to_owned());
            async { HttpResponse::NoContent().finish() }
        };
        App::new().route("/below/callbacks/{token}", web::post().to(keep))
    });
    let server = server.workers(1).disable_signals().bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/below/", server.addrs()[0]);
    tokio::spawn(server.run());
    (url, tokens)
}

async fn call_back(gateway: &TestGateway, token: &str, body: &str) -> Answer {
    let request = gateway.anonymous(Method::POST, &format!("/callbacks/{token}")).body(body.to_owned());
    Answer::of(request).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callback_is_a_hint_that_nobody_can_forge_or_wear_out() {
    let (url, tokens) = interceptor();
    let gateway = rarely_polled().flags(|flags| flags.public_url = Some(url)).start().await;
    let account = gateway.connect("braze").await;
    let began = Instant::now();
    let export = gateway.submit(&TestGateway::everybody(&account)).await;
    let token = eventually("the vendor's callback", async || tokens.lock().unwrap().first().cloned()).await;
    assert!(token.len() >= 43, "256 bits at least: {token}");

    for forged in [Uuid::new_v4().simple().to_string(), token[1..].to_owned(), format!("{token}x"), "%00".into()] {
        call_back(&gateway, &forged, r#"{"success":true}"#).await.problem(404, "not_found");
    }
    let get = Answer::of(gateway.anonymous(Method::GET, &format!("/callbacks/{token}"))).await;
    assert_eq!(get.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(
        gateway.get(&format!("/v1/exports/{}", export["id"].as_str().unwrap())).await.json()["state"],
        "running"
    );
    only_a_hash_is_kept(&gateway, &token).await;

    // What is sent with it is not believed, and any number of them do no harm.
    let lies = r#"{"success":false,"url":"http://169.254.169.254/"}"#;
    for _ in 0..5 {
        assert_eq!(call_back(&gateway, &token, lies).await.status, StatusCode::NO_CONTENT);
    }
    let export = gateway.finished(&export).await;
    assert!(began.elapsed() < POLL / 2, "found by polling");
    assert_eq!((&export["state"], &export["result"]["records"]), (&json!("succeeded"), &json!(7)), "{export:#}");

    let before = frozen(&gateway, &export).await;
    for _ in 0..3 {
        assert_eq!(call_back(&gateway, &token, lies).await.status, StatusCode::NO_CONTENT);
    }
    assert_eq!(frozen(&gateway, &export).await, before);
    let live: i64 = sqlx::query_scalar("select count(*) from export where wake or claim is not null")
        .fetch_one(&gateway.db)
        .await
        .unwrap();
    assert_eq!(live, 0);
}

async fn only_a_hash_is_kept(gateway: &TestGateway, token: &str) {
    let (hash, row): (Vec<u8>, String) =
        sqlx::query_as("select callback_token_sha256, export::text from export").fetch_one(&gateway.db).await.unwrap();
    assert_eq!(hash, token_sha256(token));
    let attempts: Vec<String> =
        sqlx::query_scalar("select vendor_exchange::text from vendor_exchange").fetch_all(&gateway.db).await.unwrap();
    assert!(!row.contains(token) && !attempts.concat().contains(token));
}

/// What a caller sees of a finished export.
async fn frozen(gateway: &TestGateway, export: &Value) -> (String, Vec<Value>, Vec<Value>) {
    let answer = gateway.get(&format!("/v1/exports/{}", export["id"].as_str().unwrap())).await;
    (answer.header("etag").to_owned(), gateway.events(export).await, gateway.attempts(export).await)
}
