//! Exports that are asked for again and again: each run becomes an export once, and what became of it is told.

use std::{collections::BTreeMap, sync::OnceLock, time::Duration};

use chrono::{DateTime, TimeDelta, Timelike, Utc};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    process::worker,
    support::{ALL_SCOPES, Answer, Setup, TestGateway, eventually, export_path, gateway},
};

const SCHEDULES: &str = "/v1/schedules";

async fn create(gateway: &TestGateway, body: &Value) -> Value {
    let answer = gateway.post(SCHEDULES, body).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
    assert_eq!(answer.header("location"), path(&answer.json()));
    answer.json()
}

fn path(schedule: &Value) -> String {
    format!("{SCHEDULES}/{}", schedule["id"].as_str().unwrap())
}

async fn read(gateway: &TestGateway, schedule: &Value) -> Value {
    gateway.get(&path(schedule)).await.json()
}

async fn patch(gateway: &TestGateway, schedule: &Value, body: &Value) -> Answer {
    Answer::of(gateway.request(Method::PATCH, &path(schedule)).json(body)).await
}

/// The history, latest first.
async fn runs(gateway: &TestGateway, schedule: &Value) -> Vec<Value> {
    gateway.get(&format!("{}/runs", path(schedule))).await.json()["data"].as_array().unwrap().clone()
}

fn time(value: &Value) -> DateTime<Utc> {
    value.as_str().unwrap().parse().unwrap()
}

/// A minute of the hour that is half an hour away, so that no run becomes due while a test runs.
fn minute() -> u32 {
    static MINUTE: OnceLock<u32> = OnceLock::new();
    *MINUTE.get_or_init(|| (Utc::now().minute() + 30) % 60)
}

/// The last time of an hourly schedule, or one that lies so many hours further back.
fn hour(back: i64) -> DateTime<Utc> {
    let now = Utc::now();
    let time = now.with_minute(minute()).unwrap().with_second(0).unwrap().with_nanosecond(0).unwrap();
    let last = if time > now { time - TimeDelta::hours(1) } else { time };
    last - TimeDelta::hours(back)
}

/// As if nobody had looked at an hourly schedule since then.
async fn set_back(gateway: &TestGateway, schedule: &Value, to: DateTime<Utc>) {
    let id = schedule["id"].as_str().unwrap().trim_start_matches("sch_");
    sqlx::query("update schedule set next_run_at = $2, due_at = $2 where schedule_id = $1::uuid")
        .bind(id)
        .bind(to)
        .execute(&gateway.db)
        .await
        .unwrap();
}

fn hourly(name: &str, export: &Value, catch_up: &str) -> Value {
    json!({"name": name, "cron": format!("{} * * * *", minute()), "export": export, "catch_up": catch_up})
}

/// Waits until a schedule has begun, skipped or failed so many runs, and gives the history, oldest first.
async fn dealt_with(gateway: &TestGateway, schedule: &Value, lines: usize) -> Vec<Value> {
    eventually("as many runs", async || {
        let mut runs = runs(gateway, schedule).await;
        runs.reverse();
        Some(runs).filter(|runs| runs.len() >= lines)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_an_export_of_its_window_and_the_next_ones_are_shown() {
    let gateway = gateway().await;
    let account = gateway.connect("braze").await;
    let export = json!({
        "connection": account.name,
        "dataset": "metric_series",
        "parameters": {"metric": "dau", "window": "yesterday"},
        "labels": {"team": "growth"},
    });
    // Half a day away from now.
    let hour = (Utc::now().hour() + 8 + 12) % 24;
    let body = json!({"name": "Users of yesterday", "cron": format!("30 {hour} * * *"), "time_zone": "Asia/Shanghai", "export": export});
    let schedule = create(&gateway, &body).await;
    assert_eq!(
        (&schedule["catch_up"], &schedule["not_before"], &schedule["last_run"]),
        (&json!("last"), &json!("PT0S"), &Value::Null)
    );
    assert_eq!((&schedule["created_by"], &schedule["runs_as"]), (&json!("tester"), &json!("tester")));
    let next = schedule["next_runs"].as_array().unwrap();
    assert_eq!(next.len(), 5);
    for (run, following) in next.iter().zip(&next[1..]) {
        let at = time(&run["run_at"]) + TimeDelta::hours(8);
        assert_eq!((at.hour(), at.minute()), (hour, 30), "in Shanghai");
        assert_eq!(run["window"]["to"], following["window"]["from"]);
    }
    let due = time(&next[0]["run_at"]) - TimeDelta::days(1);
    set_back(&gateway, &schedule, due).await;
    let run = dealt_with(&gateway, &schedule, 1).await.remove(0);
    assert_eq!((&run["outcome"], time(&run["run_at"])), (&json!("started"), due));
    let export = gateway.get(&format!("/v1/exports/{}", run["export_id"].as_str().unwrap())).await.json();
    let export = gateway.finished(&export).await;
    assert_eq!(export["state"], "succeeded", "{export:#}");
    assert_eq!(export["schedule"]["id"], schedule["id"]);
    assert_eq!(time(&export["schedule"]["run_at"]), due);
    assert_eq!((&export["created_by"], &export["labels"]), (&json!("tester"), &json!({"team": "growth"})));
    let window = &export["parameters"]["window"];
    // 16:00 in UTC is midnight in Shanghai.
    assert_eq!((time(&window["to"]) - time(&window["from"]), time(&window["to"]).hour()), (TimeDelta::days(1), 16));
    assert!(time(&window["to"]) <= due && due - time(&window["to"]) < TimeDelta::days(1));
    let now = read(&gateway, &schedule).await;
    assert_eq!(now["next_runs"], schedule["next_runs"]);
    assert_eq!((&now["last_run"]["export_id"], &now["last_run"]["state"]), (&export["id"], &json!("succeeded")));
}

#[tokio::test(flavor = "multi_thread")]
async fn any_number_of_replicas_begin_each_run_once_and_one_at_a_time() {
    const HOURS: usize = 4;
    let gateway = gateway().await;
    let body = TestGateway::everybody(&gateway.connect("growingio_cdp").await);
    let first = worker(&gateway, "3");
    let _others = [worker(&gateway, "3"), worker(&gateway, "3")];
    let mut schedules = Vec::new();
    for number in 0..6 {
        schedules.push(create(&gateway, &hourly(&format!("number {number}"), &body, "all")).await);
    }
    let from = hour(i64::try_from(HOURS).unwrap() - 1);
    for schedule in &schedules {
        set_back(&gateway, schedule, from).await;
    }
    dealt_with(&gateway, &schedules[0], 2).await;
    first.kill().await;
    for schedule in &schedules {
        let runs = dealt_with(&gateway, schedule, HOURS).await;
        let begun: Vec<_> = runs.iter().map(|run| time(&run["run_at"])).collect();
        let expected: Vec<_> = (0..HOURS).map(|hours| from + TimeDelta::hours(i64::try_from(hours).unwrap())).collect();
        assert_eq!(begun, expected);
        let mut exports = Vec::new();
        for run in &runs {
            assert_eq!(run["outcome"], "started");
            let export = gateway.get(&format!("/v1/exports/{}", run["export_id"].as_str().unwrap())).await.json();
            exports.push(gateway.finished(&export).await);
        }
        for (export, next) in exports.iter().zip(&exports[1..]) {
            assert!(time(&export["finished_at"]) <= time(&next["created_at"]), "two were live: {export:#} {next:#}");
        }
    }
    let exports: i64 = sqlx::query_scalar("select count(*) from export").fetch_one(&gateway.db).await.unwrap();
    assert_eq!(exports, i64::try_from(HOURS * schedules.len()).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_due_while_a_run_lives_or_nobody_works_is_caught_up_as_asked() {
    let mut setup = Setup::default();
    setup.sandbox.processing = Duration::from_hours(1);
    let gateway = setup.start().await;
    let body = TestGateway::everybody(&gateway.connect("growingio_cdp").await);
    let mut schedules = BTreeMap::new();
    for policy in ["none", "last", "all"] {
        schedules.insert(policy, create(&gateway, &hourly(policy, &body, policy)).await);
    }
    for schedule in schedules.values() {
        set_back(&gateway, schedule, hour(5)).await;
    }
    let outcomes = async |policy: &str, lines| {
        let runs = dealt_with(&gateway, &schedules[policy], lines).await;
        let told = |run: &Value| {
            (
                run["outcome"].as_str().unwrap().to_owned(),
                time(&run["run_at"]),
                time(&run["through"]),
                run["reason"].clone(),
            )
        };
        runs.iter().map(told).collect::<Vec<_>>()
    };
    let started = |back| ("started".to_owned(), hour(back), hour(back), Value::Null);
    let skipped = |from, to, why: &str| ("skipped".to_owned(), hour(from), hour(to), json!(why));
    assert_eq!(outcomes("all", 1).await, [started(5)]);
    assert_eq!(outcomes("last", 2).await, [skipped(5, 1, "missed"), started(0)]);
    assert_eq!(outcomes("none", 1).await, [skipped(5, 0, "missed")], "the last one is half an hour late");
    // While the run of five hours ago lives, no other begins; those that it kept waiting blame it.
    let live = runs(&gateway, &schedules["all"]).await[0]["export_id"].as_str().unwrap().to_owned();
    let answer = patch(&gateway, &schedules["all"], &json!({"catch_up": "last"})).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    let cancelled = gateway.post(&format!("/v1/exports/{live}/cancel"), &json!({})).await;
    assert_eq!(cancelled.status, StatusCode::ACCEPTED);
    assert_eq!(outcomes("all", 3).await, [started(5), skipped(4, 1, "previous_run"), started(0)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_whose_request_is_no_longer_possible_says_so_and_goes_on() {
    let gateway = gateway().await;
    let account = gateway.connect("braze").await;
    let schedule = create(&gateway, &hourly("daily", &TestGateway::everybody(&account), "all")).await;
    let connection = format!("/v1/connections/{}", account.name);
    assert_eq!(gateway.delete(&connection).await.status, StatusCode::NO_CONTENT);
    set_back(&gateway, &schedule, hour(1)).await;
    let runs = dealt_with(&gateway, &schedule, 2).await;
    for run in &runs {
        assert_eq!((&run["outcome"], &run["error"]["code"]), (&json!("failed"), &json!("unknown_connection")));
    }
    let failing = read(&gateway, &schedule).await;
    assert_eq!((&failing["last_error"]["code"], &failing["failures"]), (&json!("unknown_connection"), &json!(2)));
    assert_eq!(failing["next_runs"].as_array().unwrap().len(), 5);
    gateway.connect("braze").await;
    sqlx::query("delete from schedule_run").execute(&gateway.db).await.unwrap();
    set_back(&gateway, &schedule, hour(0)).await;
    let run = dealt_with(&gateway, &schedule, 1).await.remove(0);
    assert_eq!(run["outcome"], "started");
    let well = read(&gateway, &schedule).await;
    assert_eq!((&well["last_error"], &well["failures"]), (&Value::Null, &json!(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_schedule_begins_nothing_and_catches_up_nothing() {
    let gateway = gateway().await;
    let body = TestGateway::everybody(&gateway.connect("braze").await);
    let mut wanted = hourly("daily", &body, "all");
    wanted["paused"] = json!(true);
    let schedule = create(&gateway, &wanted).await;
    assert_eq!((&schedule["paused"], &schedule["next_runs"]), (&json!(true), &json!([])));
    let resumed = gateway.post(&format!("{}/resume", path(&schedule)), &json!({})).await.json();
    assert_eq!((&resumed["paused"], resumed["next_runs"].as_array().unwrap().len()), (&json!(false), 5));
    for _ in 0..2 {
        let paused = gateway.post(&format!("{}/pause", path(&schedule)), &json!({})).await.json();
        assert_eq!(paused["next_runs"], json!([]));
    }
    sqlx::query("update schedule set next_run_at = $1").bind(hour(7)).execute(&gateway.db).await.unwrap();
    let resumed = gateway.post(&format!("{}/resume", path(&schedule)), &json!({})).await.json();
    assert_eq!(time(&resumed["next_runs"][0]["run_at"]), hour(-1));
    assert_eq!(runs(&gateway, &schedule).await, Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_wait_until_the_data_of_their_window_is_there() {
    let gateway = Setup::default().without_worker().start().await;
    let account = gateway.connect("growingio").await;
    let export = json!({"connection": account.name, "dataset": "raw_events", "parameters": {"window": "last_hour"}});
    let mut body = json!({"name": "events", "cron": "5 * * * *", "export": export});
    let waits = |schedule: &Value| {
        let next = &schedule["next_runs"][0];
        (schedule["not_before"].clone(), time(&next["begins_at"]) - time(&next["run_at"]))
    };
    // An hour is there 60 minutes after its end at the latest; the run comes 5 minutes after it.
    let schedule = create(&gateway, &body).await;
    assert_eq!(waits(&schedule), (json!("PT1H"), TimeDelta::minutes(55)));
    let said = patch(&gateway, &schedule, &json!({"not_before": "PT20M"})).await.json();
    assert_eq!(waits(&said), (json!("PT20M"), TimeDelta::minutes(15)));
    let none = patch(&gateway, &schedule, &json!({"not_before": "PT0S"})).await.json();
    assert_eq!(waits(&none), (json!("PT0S"), TimeDelta::zero()));
    let known = patch(&gateway, &schedule, &json!({"not_before": null, "name": "hourly events"})).await.json();
    assert_eq!((waits(&known).0, &known["name"]), (json!("PT1H"), &json!("hourly events")));
    body["name"] = json!("daily events");
    body["export"]["parameters"] = json!({"window": "yesterday", "granularity": "day"});
    assert_eq!(create(&gateway, &body).await["not_before"], "PT6H");
    let vendor = gateway.get("/v1/vendors/growingio").await.json();
    let datasets = vendor["datasets"].as_array().unwrap();
    let raw = datasets.iter().find(|dataset| dataset["dataset"] == "raw_events").unwrap();
    assert_eq!(raw["ready_after"], json!({"hours": "PT1H", "days": "PT6H"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_sets_the_export_is_whom_the_runs_are_made_as() {
    let gateway = gateway().await;
    let (braze, cdp) = (gateway.connect("braze").await, gateway.connect("growingio_cdp").await);
    let schedule = create(&gateway, &hourly("daily", &TestGateway::everybody(&braze), "all")).await;
    let scopes = "schedules:write schedules:read exports:write exports:read";
    let colleague = gateway.token_for("colleague", "growth", scopes, &[cdp.name]);
    let change = async |token: &str, body: &Value| {
        let request = gateway.anonymous(Method::PATCH, &path(&schedule)).bearer_auth(token);
        Answer::of(request.json(body)).await
    };
    // The schedule's owner could; the colleague could not.
    let problem =
        change(&colleague, &json!({"export": TestGateway::everybody(&braze)})).await.problem(422, "unknown_connection");
    assert_eq!(problem["errors"][0]["pointer"], "/export/connection");
    let renamed = change(&colleague, &json!({"name": "hourly"})).await.json();
    assert_eq!((&renamed["name"], &renamed["runs_as"]), (&json!("hourly"), &json!("tester")));
    let own = change(&colleague, &json!({"export": TestGateway::everybody(&cdp)})).await.json();
    assert_eq!((&own["created_by"], &own["runs_as"]), (&json!("tester"), &json!("colleague")));
    set_back(&gateway, &schedule, hour(0)).await;
    let run = dealt_with(&gateway, &schedule, 1).await.remove(0);
    let export = gateway.get(&format!("/v1/exports/{}", run["export_id"].as_str().unwrap())).await.json();
    assert_eq!((&export["created_by"], &export["connection"]), (&json!("colleague"), &json!(cdp.name)));
    let without = gateway.token_for("colleague", "growth", "schedules:write", &["*"]);
    change(&without, &json!({"export": TestGateway::everybody(&cdp)})).await.problem(403, "forbidden");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_is_checked_as_its_export_would_be_and_belongs_to_a_tenant() {
    let gateway = Setup::default().without_worker().start().await;
    let account = gateway.connect("braze").await;
    let good = hourly("daily", &TestGateway::everybody(&account), "last");
    for (member, value, pointer) in [
        ("cron", json!("every hour"), "/cron"),
        ("cron", json!("0 0 31 2 *"), "/cron"),
        ("time_zone", json!("Mars/Olympus"), "/time_zone"),
        ("name", json!(" "), "/name"),
        ("not_before", json!("P8D"), "/not_before"),
        ("catch_up", json!("some"), "/catch_up"),
        ("export", json!({"connection": account.name}), "/export/dataset"),
        (
            "export",
            json!({"connection": account.name, "dataset": "metric_series", "parameters": {"metric": "dau", "window": "today"}}),
            "/export/parameters/window",
        ),
        (
            "export",
            json!({"connection": account.name, "dataset": "audience_members", "parameters": {}}),
            "/export/parameters/audience",
        ),
        ("colour", json!("red"), "/colour"),
    ] {
        let mut body = good.clone();
        body[member] = value;
        let problem = gateway.post(SCHEDULES, &body).await.problem(422, "invalid_request");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{problem:#}");
    }
    let schedule = create(&gateway, &good).await;
    gateway.post(SCHEDULES, &good).await.problem(409, "name_taken");
    let other = create(&gateway, &hourly("other", &good["export"], "last")).await;
    patch(&gateway, &other, &json!({"name": "daily"})).await.problem(409, "name_taken");
    let page = gateway.get(&format!("{SCHEDULES}?page_size=1")).await.json();
    assert_eq!(page["data"][0]["id"], other["id"]);
    let next = format!("{SCHEDULES}?page_size=1&page_token={}", page["next_page_token"].as_str().unwrap());
    assert_eq!(gateway.get(&next).await.json()["data"][0]["id"], schedule["id"]);
    let stranger = gateway.token_for("tester", "finance", ALL_SCOPES, &["*"]);
    for (method, path) in [
        (Method::GET, path(&schedule)),
        (Method::DELETE, path(&schedule)),
        (Method::POST, format!("{}/pause", path(&schedule))),
        (Method::GET, format!("{}/runs", path(&schedule))),
    ] {
        gateway.ask(&stranger, method, &path).await.problem(404, "not_found");
    }
    assert_eq!(gateway.ask(&stranger, Method::GET, SCHEDULES).await.json()["data"], json!([]));
    let reader = gateway.token_for("tester", "growth", "schedules:read", &[]);
    gateway.ask(&reader, Method::DELETE, &path(&schedule)).await.problem(403, "forbidden");
    assert_eq!(gateway.delete(&path(&schedule)).await.status, StatusCode::NO_CONTENT);
    gateway.get(&path(&schedule)).await.problem(404, "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn exports_outlive_their_schedule() {
    let gateway = gateway().await;
    let body = TestGateway::everybody(&gateway.connect("braze").await);
    let schedule = create(&gateway, &hourly("daily", &body, "last")).await;
    set_back(&gateway, &schedule, hour(0)).await;
    let run = dealt_with(&gateway, &schedule, 1).await.remove(0);
    assert_eq!(gateway.delete(&path(&schedule)).await.status, StatusCode::NO_CONTENT);
    let export = gateway.get(&format!("/v1/exports/{}", run["export_id"].as_str().unwrap())).await.json();
    let export = gateway.finished(&export).await;
    assert_eq!((&export["state"], &export["schedule"]["id"]), (&json!("succeeded"), &schedule["id"]));
    let retried = gateway.post(&format!("{}/retry", export_path(&export)), &json!({})).await.json();
    assert_eq!(retried["schedule"], Value::Null, "a retry is no run");
}
