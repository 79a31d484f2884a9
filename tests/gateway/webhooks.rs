//! Endpoints are told what happened: signed as the standard's own library verifies it, at least once, whatever dies.

use std::{collections::BTreeSet, time::Duration};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    process::worker,
    receiver::{Receiver, Reply},
    support::{ALL_SCOPES, Answer, Setup, TestGateway, eventually, export_path, gateway},
};

const ENDPOINTS: &str = "/v1/webhook-endpoints";

/// Adds an endpoint for every end of an export, unless `more` says otherwise.
async fn endpoint(gateway: &TestGateway, receiver: &Receiver, more: Value) -> Value {
    let mut body = json!({"url": receiver.url});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let answer = gateway.post(ENDPOINTS, &body).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
    answer.json()
}

fn path(endpoint: &Value) -> String {
    format!("{ENDPOINTS}/{}", endpoint["id"].as_str().unwrap())
}

fn secret(endpoint: &Value) -> &str {
    endpoint["secret"].as_str().unwrap()
}

async fn deliveries(gateway: &TestGateway, endpoint: &Value) -> Vec<Value> {
    let answer = gateway.get(&format!("{}/deliveries", path(endpoint))).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    answer.json()["data"].as_array().unwrap().clone()
}

/// Waits until the only delivery is as wanted.
async fn delivery(gateway: &TestGateway, endpoint: &Value, wanted: impl Fn(&Value) -> bool) -> Value {
    eventually("the delivery as wanted", async || {
        let deliveries = deliveries(gateway, endpoint).await;
        assert!(deliveries.len() <= 1, "{deliveries:#?}");
        deliveries.into_iter().next().filter(|delivery| wanted(delivery))
    })
    .await
}

async fn exec(gateway: &TestGateway, statement: &'static str) {
    sqlx::query(statement).execute(&gateway.db).await.unwrap();
}

/// Has what waits for its next try wait no longer.
async fn hurry(gateway: &TestGateway) {
    exec(gateway, "update webhook_delivery set due_at = now() where state = 'pending' and claim is null").await;
    exec(gateway, "select pg_notify('headgate_delivery', '')").await;
}

/// An export that ends as it is told to, without a vendor: what matters here is that it ends.
async fn end(gateway: &TestGateway, export: &Value, state: &str) {
    let id = export["id"].as_str().unwrap().trim_start_matches("exp_");
    sqlx::query(
        "update export set state = $2, finished_at = now(), claim = null, version = version + 1, phase = null, \
         error = case when $2 = 'failed' then '{}'::jsonb end, \
         result_expires_at = case when $2 = 'succeeded' then now() + interval '1 day' end where export_id = $1::uuid",
    )
    .bind(id)
    .bind(state)
    .execute(&gateway.db)
    .await
    .unwrap();
}

/// A gateway with an account, and a body whose exports never end by themselves.
async fn with_account() -> (TestGateway, Value) {
    let mut setup = Setup::default();
    setup.sandbox.processing = Duration::from_hours(1);
    let gateway = setup.start().await;
    let body = TestGateway::everybody(&gateway.connect("braze").await);
    (gateway, body)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_an_export_is_told_as_the_standards_library_verifies_it() {
    let (gateway, receiver) = (gateway().await, Receiver::start());
    let endpoint = endpoint(&gateway, &receiver, json!({})).await;
    let export = gateway.run(&TestGateway::everybody(&gateway.connect("braze").await)).await;
    let message = receiver.wait_for(1).await.remove(0);
    assert!(message.is_signed_with(secret(&endpoint)));
    assert!(!message.is_signed_with("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"));
    assert_eq!((message.path.as_str(), message.header("content-type")), (receiver.url.path(), "application/json"));
    let delivery = delivery(&gateway, &endpoint, |delivery| delivery["state"] == "delivered").await;
    assert_eq!(message.header("webhook-id"), delivery["event_id"]);
    let told = message.json();
    assert_eq!(told["type"], "export.succeeded");
    assert_eq!(told["data"], json!({"id": export["id"], "state": "succeeded", "href": export_path(&export)}));
    assert_eq!(told.as_object().unwrap().len(), 3);
    let attempts = delivery["attempts"].as_array().unwrap();
    assert_eq!((attempts.len(), &attempts[0]["http_status"]), (1, &json!(204)));
    assert_eq!((&delivery["data"], &delivery["next_attempt_at"]), (&told["data"], &Value::Null));
    assert_eq!(receiver.received().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_hear_of_their_own_tenants_events_of_the_types_and_labels_they_want() {
    let (gateway, body) = with_account().await;
    let receivers: Vec<_> = (0..4).map(|_| Receiver::start()).collect();
    endpoint(&gateway, &receivers[0], json!({})).await;
    endpoint(&gateway, &receivers[1], json!({"event_types": ["export.failed", "export.failed"]})).await;
    endpoint(&gateway, &receivers[2], json!({"labels": {"team": "growth"}})).await;
    let stranger = gateway.token_for("tester", "finance", ALL_SCOPES, &["*"]);
    let foreign = gateway.anonymous(Method::POST, ENDPOINTS).bearer_auth(stranger);
    let foreign = Answer::of(foreign.json(&json!({"url": receivers[3].url}))).await;
    assert_eq!(foreign.status, StatusCode::CREATED);
    for (state, labels) in [
        ("succeeded", json!({})),
        ("failed", json!({"team": "growth", "kind": "daily"})),
        ("cancelled", json!({"team": "sales"})),
    ] {
        let mut body = body.clone();
        body["labels"] = labels;
        let export = gateway.submit(&body).await;
        end(&gateway, &export, state).await;
    }
    let types = async |receiver: &Receiver, count| {
        let messages = receiver.wait_for(count).await;
        messages.iter().map(|one| one.json()["type"].as_str().unwrap().to_owned()).collect::<BTreeSet<_>>()
    };
    assert_eq!(types(&receivers[0], 3).await.len(), 3);
    for receiver in [&receivers[1], &receivers[2]] {
        assert_eq!(types(receiver, 1).await, BTreeSet::from(["export.failed".to_owned()]));
    }
    assert_eq!(receivers[3].received().len(), 0);
    let ids: BTreeSet<_> =
        receivers.iter().flat_map(Receiver::received).map(|one| one.header("webhook-id").to_owned()).collect();
    assert_eq!(ids.len(), 3, "an event has one id, whoever is told");
}

#[tokio::test(flavor = "multi_thread")]
async fn admins_of_connections_hear_of_unhealthy_ones_and_nobody_else_can_ask_to() {
    let (gateway, receiver) = (Setup::default().fault("braze.segment.unauthorized").start().await, Receiver::start());
    let account = gateway.connect("braze").await;
    let wanted = json!({"url": receiver.url, "event_types": ["connection.unhealthy"]});
    let caller = gateway.token_for("crm", "growth", "webhooks:write webhooks:read", &["*"]);
    let ask = |method, path: &str| gateway.anonymous(method, path).bearer_auth(&caller);
    let problem = Answer::of(ask(Method::POST, ENDPOINTS).json(&wanted)).await.problem(403, "forbidden");
    assert_eq!(problem["errors"][0]["pointer"], "/event_types");
    let admins = endpoint(&gateway, &receiver, json!({"event_types": ["connection.unhealthy"]})).await;
    let elsewhere = json!({"url": "https://elsewhere.example/"});
    Answer::of(ask(Method::PATCH, &path(&admins)).json(&elsewhere)).await.problem(403, "forbidden");
    gateway.run(&TestGateway::everybody(&account)).await;
    let message = receiver.wait_for(1).await.remove(0);
    assert!(message.is_signed_with(secret(&admins)));
    let data = json!({"id": account.name, "state": "unhealthy", "href": format!("/v1/connections/{}", account.name)});
    assert_eq!((&message.json()["type"], &message.json()["data"]), (&json!("connection.unhealthy"), &data));
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_secret_is_replaced_messages_are_signed_with_both() {
    let ((gateway, body), receiver) = (with_account().await, Receiver::start());
    let first = endpoint(&gateway, &receiver, json!({})).await;
    let rotate = async |body: Value| {
        let answer = gateway.post(&format!("{}/secret", path(&first)), &body).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        answer.json()
    };
    let second = rotate(json!({})).await;
    assert_eq!(second["secret_version"], 2);
    assert!(second["previous_secret_until"].is_string());
    let told = async |count| {
        let export = gateway.submit(&body).await;
        end(&gateway, &export, "succeeded").await;
        receiver.wait_for(count).await.pop().unwrap()
    };
    let message = told(1).await;
    assert!(message.is_signed_with(secret(&first)) && message.is_signed_with(secret(&second)));
    exec(&gateway, "update webhook_endpoint set previous_secret_until = now()").await;
    let message = told(2).await;
    assert!(!message.is_signed_with(secret(&first)) && message.is_signed_with(secret(&second)));
    let third = rotate(json!({"grace": "PT0S"})).await;
    let message = told(3).await;
    assert!(!message.is_signed_with(secret(&second)) && message.is_signed_with(secret(&third)));
    for endpoint in [gateway.get(&path(&first)).await.json(), gateway.get(ENDPOINTS).await.json()["data"][0].clone()] {
        assert_eq!((endpoint.get("secret"), &endpoint["url"]), (None, &json!(receiver.url)));
    }
    gateway.post(&format!("{}/secret", path(&first)), &json!({"grace": "P8D"})).await.problem(422, "invalid_request");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_message_is_tried_ten_times_and_then_given_up_until_it_is_replayed() {
    let ((gateway, body), receiver) = (with_account().await, Receiver::start());
    let endpoint = endpoint(&gateway, &receiver, json!({})).await;
    receiver.answer(Reply { headers: vec![("retry-after", "1800".into())], ..Reply::status(503) });
    let export = gateway.submit(&body).await;
    end(&gateway, &export, "succeeded").await;
    for tries in 1..=10 {
        let tried =
            delivery(&gateway, &endpoint, |delivery| delivery["attempts"].as_array().unwrap().len() == tries).await;
        assert_eq!(tried["attempts"][tries - 1]["http_status"], 503);
        assert_eq!(tried["state"], if tries < 10 { "pending" } else { "failed" });
        if tries == 1 {
            let next: chrono::DateTime<chrono::Utc> = tried["next_attempt_at"].as_str().unwrap().parse().unwrap();
            let pause = next - chrono::Utc::now();
            assert!((1700..=1800).contains(&pause.num_seconds()), "what the receiver asked for: {pause}");
        }
        hurry(&gateway).await;
    }
    assert!(gateway.get(&path(&endpoint)).await.json()["failing_since"].is_string());
    receiver.answer(Reply::status(200));
    let id = deliveries(&gateway, &endpoint).await[0]["id"].as_str().unwrap().to_owned();
    let replayed = gateway.post(&format!("{}/deliveries/{id}/replay", path(&endpoint)), &json!({})).await;
    assert_eq!((replayed.status, &replayed.json()["state"]), (StatusCode::ACCEPTED, &json!("pending")));
    let done = delivery(&gateway, &endpoint, |delivery| delivery["state"] == "delivered").await;
    assert_eq!(done["attempts"].as_array().unwrap().len(), 11);
    assert_eq!(gateway.get(&path(&endpoint)).await.json()["failing_since"], Value::Null);
    let messages = receiver.received();
    let ids: BTreeSet<_> = messages.iter().map(|one| one.header("webhook-id")).collect();
    assert_eq!((messages.len(), ids.len()), (11, 1), "one event, one id");
    assert!(messages.iter().all(|one| one.is_signed_with(secret(&endpoint)) && one.body == messages[0].body));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_is_gone_or_fails_for_days_is_disabled_and_can_catch_up() {
    let ((gateway, body), receiver) = (with_account().await, Receiver::start());
    let endpoint = endpoint(&gateway, &receiver, json!({})).await;
    let finish = async || {
        let export = gateway.submit(&body).await;
        end(&gateway, &export, "succeeded").await;
    };
    let disabled = async |reason: &str| {
        let endpoint = eventually("the endpoint is disabled", async || {
            Some(gateway.get(&path(&endpoint)).await.json()).filter(|endpoint| endpoint["enabled"] == false)
        });
        assert_eq!(endpoint.await["disabled_reason"], reason);
    };
    let enable = async |enabled: bool| {
        let answer = gateway.request(Method::PATCH, &path(&endpoint)).json(&json!({"enabled": enabled}));
        assert_eq!(Answer::of(answer).await.json()["enabled"], enabled);
    };
    receiver.answer(Reply::status(410));
    finish().await;
    disabled("gone").await;
    finish().await;
    enable(true).await;
    receiver.answer(Reply::status(500));
    finish().await;
    receiver.wait_for(2).await;
    eventually("the failure is written down", async || {
        gateway.get(&path(&endpoint)).await.json()["failing_since"].is_string().then_some(())
    })
    .await;
    exec(&gateway, "update webhook_endpoint set failing_since = now() - interval '73 hours'").await;
    exec(&gateway, "update webhook_delivery set tries = 9 where state = 'pending'").await;
    hurry(&gateway).await;
    disabled("failing").await;
    finish().await;
    let states: Vec<_> = deliveries(&gateway, &endpoint).await.iter().map(|one| one["state"].clone()).collect();
    assert_eq!(states, ["failed", "failed", "failed", "failed"]);
    let replay = format!("{}/replay", path(&endpoint));
    let since = json!({"since": "2026-01-01T00:00:00Z"});
    gateway.post(&replay, &since).await.problem(409, "endpoint_disabled");
    enable(true).await;
    receiver.answer(Reply::status(200));
    let before = receiver.received().len();
    let past = json!({"since": "2020-01-01T00:00:00Z", "until": "2020-01-02T00:00:00Z"});
    assert_eq!(gateway.post(&replay, &past).await.json(), json!({"deliveries": 0}));
    assert_eq!(gateway.post(&replay, &since).await.json(), json!({"deliveries": 4}));
    let messages = receiver.wait_for(before + 4).await;
    let ids: BTreeSet<_> = messages[before..].iter().map(|one| one.header("webhook-id").to_owned()).collect();
    assert_eq!(ids.len(), 4);
    eventually("all are delivered", async || {
        deliveries(&gateway, &endpoint).await.iter().all(|one| one["state"] == "delivered").then_some(())
    })
    .await;
    assert_eq!(gateway.post(&replay, &since).await.json(), json!({"deliveries": 0}));
    let all = json!({"since": "2026-01-01T00:00:00Z", "include_delivered": true});
    assert_eq!(gateway.post(&replay, &all).await.json(), json!({"deliveries": 4}));
    enable(false).await;
    assert_eq!(gateway.get(&path(&endpoint)).await.json()["disabled_reason"], "requested");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hanging_endpoint_with_a_long_queue_does_not_hold_up_another() {
    let (gateway, body) = with_account().await;
    let (slow, quick) = (Receiver::start(), Receiver::start());
    slow.answer(Reply { after: Duration::from_mins(5), ..Reply::status(204) });
    let hanging = endpoint(&gateway, &slow, json!({"labels": {"for": "slow"}})).await;
    let mut to_slow = body.clone();
    to_slow["labels"] = json!({"for": "slow"});
    let export = gateway.submit(&to_slow).await;
    end(&gateway, &export, "succeeded").await;
    // As if a thousand had ended.
    exec(
        &gateway,
        "insert into webhook_delivery (webhook_endpoint_id, event_id, event_type, object_id, object_state, object_href, due_at) \
         select webhook_endpoint_id, headgate_uuid_v7(), event_type, object_id, object_state, object_href, now() - interval '1 hour' \
         from webhook_delivery, generate_series(1, 1000)",
    )
    .await;
    slow.wait_for(4).await;
    endpoint(&gateway, &quick, json!({})).await;
    let export = gateway.submit(&body).await;
    end(&gateway, &export, "succeeded").await;
    let began = std::time::Instant::now();
    quick.wait_for(1).await;
    assert!(began.elapsed() < Duration::from_secs(10), "it waited for the other: {:?}", began.elapsed());
    assert_eq!(slow.received().len(), 4, "more than its share is in hand");
    let in_time = delivered_or_tried(&gateway, &hanging).await;
    assert_eq!(in_time["attempts"][0]["error"], "no answer in time");
}

/// The first delivery of an endpoint that was tried.
async fn delivered_or_tried(gateway: &TestGateway, endpoint: &Value) -> Value {
    eventually("a try that ended", async || {
        let answer = gateway.get(&format!("{}/deliveries?page_size=200", path(endpoint))).await.json();
        let tried = sqlx::query_scalar::<_, i64>("select count(*) from webhook_attempt").fetch_one(&gateway.db).await;
        if tried.unwrap() == 0 {
            return None;
        }
        let mut page = answer;
        loop {
            let data = page["data"].as_array().unwrap().clone();
            if let Some(found) = data.into_iter().find(|one| !one["attempts"].as_array().unwrap().is_empty()) {
                return Some(found);
            }
            let token = page["next_page_token"].as_str().filter(|token| !token.is_empty())?.to_owned();
            let next = format!("{}/deliveries?page_size=200&page_token={token}", path(endpoint));
            page = gateway.get(&next).await.json();
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_are_not_followed_and_private_addresses_not_reached() {
    let ((gateway, body), receiver, inner) = (with_account().await, Receiver::start(), Receiver::start());
    let redirected = endpoint(&gateway, &receiver, json!({})).await;
    receiver.answer(Reply { headers: vec![("location", inner.url.to_string())], ..Reply::status(307) });
    let export = gateway.submit(&body).await;
    end(&gateway, &export, "failed").await;
    let tried = delivery(&gateway, &redirected, |one| !one["attempts"].as_array().unwrap().is_empty()).await;
    assert_eq!((&tried["state"], &tried["attempts"][0]["http_status"]), (&json!("pending"), &json!(307)));
    assert_eq!(inner.received().len(), 0);
    for (url, code) in [
        ("https://10.1.2.3/", "egress_blocked"),
        ("https://169.254.169.254/latest", "egress_blocked"),
        ("http://hooks.example/", "invalid"),
        ("https://user:pw@hooks.example/", "invalid"),
        ("file:///etc/passwd", "invalid"),
        ("hooks.example", "invalid"),
    ] {
        let problem = gateway.post(ENDPOINTS, &json!({"url": url})).await.problem(422, "invalid_request");
        assert_eq!((&problem["errors"][0]["pointer"], &problem["errors"][0]["code"]), (&json!("/url"), &json!(code)));
    }
    // A name is judged by what it resolves to, when it is called.
    let answer = gateway.request(Method::PATCH, &path(&redirected)).json(&json!({"url": "https://localhost/"}));
    assert_eq!(Answer::of(answer).await.status, StatusCode::OK);
    hurry(&gateway).await;
    let tried = delivery(&gateway, &redirected, |one| one["attempts"].as_array().unwrap().len() == 2).await;
    // Where 127.0.0.1 is permitted, a name may lead there: nobody speaks TLS on the port.
    assert!(tried["attempts"][1]["http_status"].is_null(), "{tried:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_dies_while_sending_is_followed_by_another_who_sends_again() {
    let (mut setup, receiver) = (Setup::default().without_worker(), Receiver::start());
    setup.sandbox.processing = Duration::from_hours(1);
    let gateway = setup.start().await;
    let body = TestGateway::everybody(&gateway.connect("braze").await);
    let endpoint = endpoint(&gateway, &receiver, json!({})).await;
    receiver.answer(Reply { after: Duration::from_mins(5), ..Reply::status(204) });
    let first = worker(&gateway, "3");
    let export = gateway.submit(&body).await;
    end(&gateway, &export, "succeeded").await;
    receiver.wait_for(1).await;
    first.kill().await;
    receiver.answer(Reply::status(204));
    let _second = worker(&gateway, "3");
    // Its lease runs out after a minute; that is too long for a test.
    exec(&gateway, "update webhook_delivery set due_at = now()").await;
    exec(&gateway, "select pg_notify('headgate_delivery', '')").await;
    let messages = receiver.wait_for(2).await;
    let done = delivery(&gateway, &endpoint, |delivery| delivery["state"] == "delivered").await;
    assert_eq!(messages[0].header("webhook-id"), messages[1].header("webhook-id"));
    assert_eq!(done["attempts"].as_array().unwrap().len(), 1, "the dead one wrote nothing down");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_lost_a_delivery_while_it_was_on_its_way_writes_nothing() {
    let ((gateway, body), receiver) = (with_account().await, Receiver::start());
    let endpoint = endpoint(&gateway, &receiver, json!({})).await;
    receiver.answer(Reply { after: Duration::from_secs(1), ..Reply::status(500) });
    let export = gateway.submit(&body).await;
    end(&gateway, &export, "succeeded").await;
    receiver.wait_for(1).await;
    // As if its lease had run out and somebody else were at it.
    exec(&gateway, "update webhook_delivery set claim = gen_random_uuid(), due_at = now() + interval '4 seconds'")
        .await;
    let messages = receiver.wait_for(2).await;
    assert_eq!(deliveries(&gateway, &endpoint).await[0]["attempts"], json!([]), "the first answer was written down");
    assert_eq!(gateway.get(&path(&endpoint)).await.json()["failing_since"], Value::Null);
    assert_eq!(messages[0].header("webhook-id"), messages[1].header("webhook-id"));
    delivery(&gateway, &endpoint, |delivery| delivery["attempts"].as_array().unwrap().len() == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_kept_or_rolled_back_with_what_happened() {
    let ((gateway, body), receiver) = (with_account().await, Receiver::start());
    let endpoint = endpoint(&gateway, &receiver, json!({})).await;
    let export = gateway.submit(&body).await;
    let mut tx = gateway.db.begin().await.unwrap();
    sqlx::query("update export set state = 'cancelled', finished_at = now()").execute(&mut *tx).await.unwrap();
    let written: i64 = sqlx::query_scalar("select count(*) from webhook_delivery").fetch_one(&mut *tx).await.unwrap();
    assert_eq!(written, 1);
    tx.rollback().await.unwrap();
    assert_eq!(deliveries(&gateway, &endpoint).await, Vec::<Value>::new());
    let cancelled = gateway.post(&format!("{}/cancel", export_path(&export)), &json!({})).await;
    assert_eq!(cancelled.status, StatusCode::ACCEPTED);
    let message = receiver.wait_for(1).await.remove(0);
    assert_eq!(message.json()["type"], "export.cancelled");
}

#[tokio::test(flavor = "multi_thread")]
async fn old_deliveries_are_swept_with_their_tries() {
    let ((mut gateway, body), receiver) = (with_account().await, Receiver::start());
    let endpoint = endpoint(&gateway, &receiver, json!({})).await;
    for _ in 0..2 {
        let export = gateway.submit(&body).await;
        end(&gateway, &export, "succeeded").await;
    }
    eventually("both are delivered", async || {
        let all = deliveries(&gateway, &endpoint).await;
        (all.len() == 2 && all.iter().all(|one| one["state"] == "delivered")).then_some(())
    })
    .await;
    exec(
        &gateway,
        "update webhook_delivery set occurred_at = now() - interval '31 days' where webhook_delivery_id = \
         (select webhook_delivery_id from webhook_delivery order by occurred_at limit 1)",
    )
    .await;
    // Whoever starts looks at once.
    gateway.stop().await;
    gateway.start_again(headgate::startup::Roles { api: true, worker: true }).await;
    eventually("one is swept", async || (deliveries(&gateway, &endpoint).await.len() == 1).then_some(())).await;
    let tries: i64 = sqlx::query_scalar("select count(*) from webhook_attempt").fetch_one(&gateway.db).await.unwrap();
    assert_eq!(tries, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_belong_to_a_tenant_and_are_listed_by_pages() {
    let (gateway, receiver) = (Setup::default().without_worker().start().await, Receiver::start());
    let made = [
        endpoint(&gateway, &receiver, json!({"description": "one"})).await,
        endpoint(&gateway, &receiver, json!({"description": "two"})).await,
    ];
    let page = gateway.get(&format!("{ENDPOINTS}?page_size=1")).await.json();
    assert_eq!(page["data"][0]["id"], made[1]["id"]);
    let next = format!("{ENDPOINTS}?page_size=1&page_token={}", page["next_page_token"].as_str().unwrap());
    let page = gateway.get(&next).await.json();
    assert_eq!((&page["data"][0]["id"], &page["next_page_token"]), (&made[0]["id"], &json!("")));
    let stranger = gateway.token_for("tester", "finance", ALL_SCOPES, &["*"]);
    let own = path(&made[0]);
    for (method, path) in [
        (Method::GET, own.clone()),
        (Method::DELETE, own.clone()),
        (Method::POST, format!("{own}/secret")),
        (Method::GET, format!("{own}/deliveries")),
        (Method::POST, format!("{own}/deliveries/dlv_00000000000070008000000000000000/replay")),
    ] {
        gateway.ask(&stranger, method, &path).await.problem(404, "not_found");
    }
    assert_eq!(gateway.ask(&stranger, Method::GET, ENDPOINTS).await.json()["data"], json!([]));
    let reader = gateway.token_for("tester", "growth", "webhooks:read", &[]);
    assert_eq!(gateway.ask(&reader, Method::GET, &own).await.status, StatusCode::OK);
    gateway.ask(&reader, Method::DELETE, &own).await.problem(403, "forbidden");
    for body in [
        json!({"url": receiver.url, "event_types": []}),
        json!({"url": receiver.url, "event_types": ["export.begun"]}),
        json!({"url": receiver.url, "labels": {"a b": "x"}}),
        json!({"url": receiver.url, "secret": "whsec_mine"}),
    ] {
        gateway.post(ENDPOINTS, &body).await.problem(422, "invalid_request");
    }
    assert_eq!(gateway.delete(&own).await.status, StatusCode::NO_CONTENT);
    gateway.get(&own).await.problem(404, "not_found");
}
