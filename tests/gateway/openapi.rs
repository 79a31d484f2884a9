//! The published document against the server: what it says is there is there, and looks as it says.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use headgate::operations::callbacks::token_sha256;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{Answer, Setup, TestGateway, eventually, gateway};

const COMMITTED: [(&str, &str); 2] = [
    ("/openapi.json", include_str!("../../openapi/headgate.json")),
    ("/openapi-3.0.json", include_str!("../../openapi/headgate-3.0.json")),
];

fn document() -> Value {
    serde_json::from_str(COMMITTED[0].1).unwrap()
}

/// Every operation: method, path, and what the document says.
fn operations(document: &Value) -> Vec<(Method, &str, &Value)> {
    let paths = document["paths"].as_object().unwrap().iter();
    paths
        .flat_map(|(path, item)| {
            let methods = item.as_object().unwrap().iter();
            methods.map(move |(method, says)| (method.to_uppercase().parse().unwrap(), path.as_str(), says))
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_served_documents_are_the_committed_ones() {
    let gateway = Setup::default().without_worker().start().await;
    for (path, committed) in COMMITTED {
        let answer = Answer::of(gateway.anonymous(Method::GET, path)).await;
        assert_eq!((answer.status, answer.header("content-type")), (StatusCode::OK, "application/json"));
        assert!(answer.text() == committed, "{path} differs: run `headgate openapi --write`");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_documented_export_request_is_accepted() {
    let gateway = Setup::default().without_worker().start().await;
    let document = document();
    let content = &document["paths"]["/v1/exports"]["post"]["requestBody"]["content"]["application/json"];
    let named = content["examples"].as_object().into_iter().flatten().map(|(_, example)| &example["value"]);
    let examples: Vec<_> = content.get("example").into_iter().chain(named).collect();
    assert!(!examples.is_empty());
    let account = gateway.account("braze");
    for example in examples {
        let connection = example["connection"].as_str().unwrap();
        gateway.put(&format!("/v1/connections/{connection}"), &account.body).await;
        let answer = gateway.post("/v1/exports?validate_only=true", example).await;
        assert_eq!(answer.status, StatusCode::OK, "{example:#}: {answer:?}");
        assert_eq!(gateway.post("/v1/exports", example).await.status, StatusCode::ACCEPTED);
    }
}

/// Asks the server and holds each answer against the document.
struct Auditor<'a> {
    gateway: &'a TestGateway,
    document: &'a Value,
    /// Statuses seen, by operation.
    seen: RefCell<BTreeMap<String, BTreeSet<u16>>>,
}

impl Auditor<'_> {
    /// Calls an operation with its path's parameters filled in.
    async fn call(&self, id: &str, values: &[(&str, &str)], change: impl FnOnce(Call) -> Call) -> Answer {
        let operations = operations(self.document);
        let (method, path, says) = operations.iter().find(|(_, _, says)| says["operationId"] == id).unwrap();
        let path =
            values.iter().fold((*path).to_owned(), |path, (name, value)| path.replace(&format!("{{{name}}}"), value));
        assert!(!path.contains('{'), "{path}");
        let answer = Answer::of(change(self.gateway.request(method.clone(), &path))).await;
        let status = answer.status.as_u16();
        self.seen.borrow_mut().entry(id.into()).or_default().insert(status);
        let response = &says["responses"][status.to_string()];
        assert!(!response.is_null(), "{id} answered {status}, which is not documented: {answer:?}");
        self.check(id, method, response, &answer);
        answer
    }

    fn check(&self, id: &str, method: &Method, response: &Value, answer: &Answer) {
        for (name, header) in response["headers"].as_object().into_iter().flatten() {
            let optional = header["schema"]["type"].as_array().is_some_and(|types| types.contains(&json!("null")));
            assert!(optional || answer.headers.contains_key(name), "{id} {}: no {name}", answer.status);
        }
        let content_type = answer.header("content-type").split(';').next().unwrap().to_owned();
        let Some(content) = response["content"].as_object() else {
            assert!(answer.body.is_empty(), "{id}: {answer:?}");
            return;
        };
        if *method == Method::HEAD {
            return;
        }
        let said = content.get(&content_type).or_else(|| content.get("*/*"));
        let said = said.unwrap_or_else(|| panic!("{id} answered {content_type}, which is not documented"));
        if content_type.ends_with("json") && content.contains_key(&content_type) {
            let mut faults = Vec::new();
            self.fits(&said["schema"], &answer.json(), "", &mut faults);
            assert!(faults.is_empty(), "{id} {}: {faults:#?}\n{}", answer.status, answer.text());
        }
    }

    /// Notes where a value does not fit its schema: the parts of JSON Schema that the document uses.
    fn fits(&self, schema: &Value, value: &Value, at: &str, faults: &mut Vec<String>) {
        if let Some(name) = schema["$ref"].as_str() {
            let schema = self.document.pointer(name.trim_start_matches('#')).unwrap();
            return self.fits(schema, value, at, faults);
        }
        if let Some(choices) = schema["oneOf"].as_array() {
            let fitting = choices.iter().filter(|choice| {
                let mut faults = Vec::new();
                self.fits(choice, value, at, &mut faults);
                faults.is_empty()
            });
            let count = fitting.count();
            if count != 1 {
                faults.push(format!("{at}: fits {count} of its schemas"));
            }
        }
        let kinds: Vec<_> = match &schema["type"] {
            Value::Null => Vec::new(),
            Value::Array(kinds) => kinds.iter().map(|kind| kind.as_str().unwrap()).collect(),
            kind => vec![kind.as_str().unwrap()],
        };
        let is = |kind: &str| match kind {
            "integer" => value.is_i64() || value.is_u64(),
            "number" => value.is_number(),
            "string" => value.is_string(),
            "boolean" => value.is_boolean(),
            "array" => value.is_array(),
            "object" => value.is_object(),
            "null" => value.is_null(),
            other => panic!("{at}: unknown type {other}"),
        };
        if !kinds.is_empty() && !kinds.iter().any(|kind| is(kind)) {
            faults.push(format!("{at}: {value} is no {kinds:?}"));
        }
        if schema["enum"].as_array().is_some_and(|choices| !choices.contains(value)) {
            faults.push(format!("{at}: {value} is not in {}", schema["enum"]));
        }
        if schema["format"] == "date-time" && value.as_str().is_some_and(|text| !is_utc_time(text)) {
            faults.push(format!("{at}: {value} is no UTC time"));
        }
        for name in schema["required"].as_array().into_iter().flatten() {
            if value.get(name.as_str().unwrap()).is_none() && value.is_object() {
                faults.push(format!("{at}: no {name}"));
            }
        }
        for (name, member) in value.as_object().into_iter().flatten() {
            let at = format!("{at}/{name}");
            match (schema["properties"].get(name), schema.get("additionalProperties")) {
                (Some(schema), _) => self.fits(schema, member, &at, faults),
                (None, Some(schema)) if schema.is_object() => self.fits(schema, member, &at, faults),
                // An object whose members are documented shows no others.
                (None, _) if schema["properties"].is_object() => faults.push(format!("{at}: not documented")),
                (None, _) => {}
            }
        }
        for (index, item) in value.as_array().into_iter().flatten().enumerate() {
            self.fits(&schema["items"], item, &format!("{at}/{index}"), faults);
        }
    }
}

type Call = reqwest::RequestBuilder;

fn as_is(call: Call) -> Call {
    call
}

fn is_utc_time(text: &str) -> bool {
    text.ends_with('Z') && chrono::DateTime::parse_from_rfc3339(text).is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_documented_operation_answers_as_documented() {
    let gateway = gateway().await;
    let document = document();
    let auditor = Auditor { gateway: &gateway, document: &document, seen: RefCell::default() };
    let account = gateway.account("braze");
    let body = TestGateway::everybody(&account);
    let connection = [("name", account.name)];

    for id in ["index", "healthz", "readyz", "openapi_31", "openapi_30", "list_problems", "list_vendors"] {
        auditor.call(id, &[], as_is).await;
    }
    for accept in ["text/html", "application/json", "text/markdown"] {
        auditor.call("explain_problem", &[("code", "not_found")], |call| call.header("accept", accept)).await;
    }
    auditor.call("explain_problem", &[("code", "nothing")], as_is).await;
    auditor.call("get_vendor", &[("vendor", "braze")], as_is).await;
    auditor.call("get_vendor", &[("vendor", "nobody")], as_is).await;

    auditor.call("put_connection", &connection, |call| call.json(&json!({}))).await;
    for _ in 0..2 {
        auditor.call("put_connection", &connection, |call| call.json(&account.body)).await;
    }
    auditor.call("list_connections", &[], as_is).await;
    auditor.call("get_connection", &connection, as_is).await;
    auditor.call("get_connection", &[("name", "nobody")], as_is).await;
    let credentials = json!({"credentials": account.body["credentials"]});
    auditor.call("rotate_credentials", &connection, |call| call.json(&credentials)).await;
    auditor.call("check_connection", &connection, as_is).await;
    auditor.call("get_quota", &connection, as_is).await;
    auditor.call("list_catalog", &[("name", account.name), ("kind", "audiences")], as_is).await;
    auditor.call("list_catalog", &[("name", account.name), ("kind", "moods")], as_is).await;
    let classic = gateway.connect("growingio").await;
    let dashboards = [("name", classic.name), ("kind", "dashboards")];
    let listed = auditor.call("list_catalog", &dashboards, as_is).await.json();
    let dashboard = listed["data"][0]["id"].as_str().unwrap().to_owned();
    auditor.call("list_dashboard", &[("name", classic.name), ("id", &dashboard)], as_is).await;

    let lake = [("name", "lake")];
    let folder = tempfile::tempdir().unwrap();
    let place = json!({"url": url::Url::from_directory_path(folder.path()).unwrap()});
    auditor.call("put_destination", &lake, |call| call.json(&json!({}))).await;
    for _ in 0..2 {
        auditor.call("put_destination", &lake, |call| call.json(&place)).await;
    }
    auditor.call("list_destinations", &[], as_is).await;
    auditor.call("get_destination", &lake, as_is).await;
    auditor.call("get_destination", &[("name", "nobody")], as_is).await;
    let none = json!({"credentials": {}});
    auditor.call("rotate_destination_credentials", &lake, |call| call.json(&none)).await;
    auditor.call("check_destination", &lake, as_is).await;

    let endpoint = json!({"url": "https://hooks.example/"});
    auditor.call("create_webhook_endpoint", &[], |call| call.json(&json!({}))).await;
    let endpoint = auditor.call("create_webhook_endpoint", &[], |call| call.json(&endpoint)).await.json();
    let endpoint = [("id", endpoint["id"].as_str().unwrap())];
    auditor.call("list_webhook_endpoints", &[], as_is).await;
    auditor.call("get_webhook_endpoint", &endpoint, as_is).await;
    auditor.call("rotate_webhook_secret", &endpoint, as_is).await;

    let planned = auditor.call("submit_export", &[], |call| call.query(&[("validate_only", "true")]).json(&body)).await;
    assert_eq!(planned.json()["valid"], true);
    auditor.call("submit_export", &[], |call| call.json(&json!({}))).await;
    auditor.call("submit_export", &[], |call| call.body("{")).await;
    auditor.call("submit_export", &[], |call| call.header("content-type", "application/json").body("{")).await;
    let submitted = auditor.call("submit_export", &[], |call| call.json(&body)).await.json();
    let finished = gateway.finished(&submitted).await;
    let (id, file_id) = (finished["id"].as_str().unwrap(), finished["result"]["files"][0]["id"].as_str().unwrap());
    let (export, file) = ([("id", id)], [("id", id), ("file_id", file_id)]);

    let read = auditor.call("get_export", &export, |call| call.header("prefer", "wait=1")).await;
    auditor.call("get_export", &export, |call| call.header("if-none-match", read.header("etag"))).await;
    auditor.call("get_export", &[("id", "exp_0")], as_is).await;
    auditor.call("list_exports", &[], as_is).await;
    auditor.call("list_exports", &[], |call| call.query(&[("page_token", "x")])).await;
    auditor.call("list_events", &export, as_is).await;
    auditor.call("list_events", &export, |call| call.header("accept", "text/event-stream")).await;
    let seen_all = |call: Call| call.header("accept", "text/event-stream").header("last-event-id", "999");
    auditor.call("list_events", &export, seen_all).await;
    auditor.call("list_attempts", &export, as_is).await;
    auditor.call("list_files", &export, as_is).await;
    let whole = auditor.call("download_file", &file, as_is).await;
    auditor.call("download_file", &file, |call| call.header("range", "bytes=1-2")).await;
    auditor.call("download_file", &file, |call| call.header("range", "bytes=99999999-")).await;
    auditor.call("download_file", &file, |call| call.header("if-none-match", whole.header("etag"))).await;
    auditor.call("describe_file", &file, as_is).await;
    auditor.call("describe_file", &file, |call| call.header("if-none-match", whole.header("etag"))).await;
    for id in ["download_data", "describe_data"] {
        let whole = auditor.call(id, &export, as_is).await;
        auditor.call(id, &export, |call| call.header("accept-encoding", "zstd")).await;
        auditor.call(id, &export, |call| call.header("accept-encoding", "identity;q=0")).await;
        auditor.call(id, &export, |call| call.header("if-none-match", whole.header("etag"))).await;
    }
    auditor.call("download_data", &export, |call| call.header("range", "bytes=1-2")).await;
    auditor.call("make_link", &file, |call| call.json(&json!({"expires_in_secs": 0}))).await;
    let link = auditor.call("make_link", &file, |call| call.json(&json!({"expires_in_secs": 600}))).await.json();
    let token = link["url"].as_str().unwrap().rsplit_once('/').unwrap().1;
    let link = [("token", token)];
    auditor.call("follow_link", &link, as_is).await;
    auditor.call("follow_link", &link, |call| call.header("range", "bytes=1-2")).await;
    auditor.call("follow_link", &link, |call| call.header("range", "bytes=99999999-")).await;
    auditor.call("follow_link", &[("token", "x")], as_is).await;
    auditor.call("describe_link", &link, as_is).await;
    for id in ["follow_link", "describe_link"] {
        auditor.call(id, &link, |call| call.header("if-none-match", whole.header("etag"))).await;
    }
    auditor.call("cancel_export", &export, as_is).await;

    let told = auditor.call("list_deliveries", &endpoint, as_is).await.json();
    let delivery = [endpoint[0], ("delivery_id", told["data"][0]["id"].as_str().unwrap())];
    auditor.call("replay_delivery", &delivery, as_is).await;
    let since = json!({"since": "2026-01-01T00:00:00Z"});
    auditor.call("replay_deliveries", &endpoint, |call| call.json(&since)).await;
    auditor.call("change_webhook_endpoint", &endpoint, |call| call.json(&json!({"enabled": false}))).await;
    auditor.call("replay_deliveries", &endpoint, |call| call.json(&since)).await;
    auditor.call("delete_webhook_endpoint", &endpoint, as_is).await;
    auditor.call("delete_webhook_endpoint", &endpoint, as_is).await;

    let hourly = json!({"name": "hourly", "cron": "0 * * * *", "export": body});
    let schedule = auditor.call("create_schedule", &[], |call| call.json(&hourly)).await.json();
    auditor.call("create_schedule", &[], |call| call.json(&hourly)).await;
    let schedule = [("id", schedule["id"].as_str().unwrap())];
    auditor.call("change_schedule", &schedule, |call| call.json(&json!({"cron": "* * *"}))).await;
    auditor.call("change_schedule", &schedule, |call| call.json(&json!({"cron": "30 * * * *"}))).await;
    sqlx::query("update schedule set next_run_at = now() - interval '1 minute', due_at = now()")
        .execute(&gateway.db)
        .await
        .unwrap();
    eventually("a run", async || {
        let runs = auditor.call("list_runs", &schedule, as_is).await.json();
        (!runs["data"].as_array().unwrap().is_empty()).then_some(())
    })
    .await;
    for id in ["list_schedules", "get_schedule", "pause_schedule", "resume_schedule", "delete_schedule", "get_schedule"]
    {
        let values = if id == "list_schedules" { &[][..] } else { &schedule };
        auditor.call(id, values, as_is).await;
    }

    gateway.faults(&["braze.segment.not_ready"]).await;
    let retried = auditor.call("retry_export", &export, as_is).await.json();
    let live = [("id", retried["id"].as_str().unwrap())];
    auditor.call("retry_export", &live, as_is).await;
    auditor.call("delete_export", &live, as_is).await;
    auditor.call("delete_connection", &connection, as_is).await;
    let mut delivered = body.clone();
    delivered["delivery"] = json!({"type": "destination", "destination": "lake"});
    let on_its_way = auditor.call("submit_export", &[], |call| call.json(&delivered)).await.json();
    auditor.call("delete_destination", &lake, as_is).await;
    auditor.call("cancel_export", &[("id", on_its_way["id"].as_str().unwrap())], as_is).await;
    gateway.finished(&on_its_way).await;
    auditor.call("delete_destination", &lake, as_is).await;
    auditor.call("list_files", &live, as_is).await;
    sqlx::query("update export set callback_token_sha256 = $1 where export_id = (select min(export_id::text)::uuid from export)")
        .bind(token_sha256("a-token"))
        .execute(&gateway.db)
        .await
        .unwrap();
    auditor.call("vendor_callback", &[("token", "a-token")], |call| call.body("done")).await;
    auditor.call("vendor_callback", &[("token", "another")], |call| call.body("done")).await;
    auditor.call("cancel_export", &live, as_is).await;
    gateway.finished(&retried).await;
    auditor.call("cancel_export", &live, as_is).await;
    gateway.faults(&["braze.segment.forbidden"]).await;
    let failed = gateway.run(&body).await;
    auditor.call("get_export", &[("id", failed["id"].as_str().unwrap())], as_is).await;
    auditor.call("delete_export", &export, as_is).await;
    auditor.call("list_files", &export, as_is).await;
    auditor.call("download_file", &file, as_is).await;
    auditor.call("download_data", &export, as_is).await;
    auditor.call("make_link", &file, as_is).await;
    auditor.call("follow_link", &link, as_is).await;
    auditor.call("get_export", &export, as_is).await;
    auditor.call("delete_connection", &connection, as_is).await;
    auditor.call("retry_export", &export, as_is).await;

    let seen = auditor.seen.into_inner();
    for (method, path, says) in operations(&document) {
        let id = says["operationId"].as_str().unwrap();
        let statuses = seen.get(id).unwrap_or_else(|| panic!("{method} {path} was not asked"));
        assert!(statuses.iter().any(|status| *status < 400), "{method} {path} never succeeded: {statuses:?}");
        let documented = says["responses"].as_object().unwrap().keys().map(|status| status.parse::<u16>().unwrap());
        let unseen: Vec<_> = documented.filter(|status| *status < 400 && !statuses.contains(status)).collect();
        assert!(unseen.is_empty(), "{method} {path} never answered {unseen:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_asks_for_a_token_exactly_where_the_document_says_so() {
    let gateway = Setup::default().without_worker().start().await;
    for (method, path, says) in operations(&document()) {
        let path = path.replace(['{', '}'], "");
        let answer = Answer::of(gateway.anonymous(method.clone(), &path)).await;
        let open = says["security"].as_array().is_some_and(|ways| ways.contains(&json!({})));
        assert_eq!(answer.status == StatusCode::UNAUTHORIZED, !open, "{method} {path}: {}", answer.status);
        assert_ne!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
    }
}
