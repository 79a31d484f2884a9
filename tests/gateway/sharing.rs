//! Exports that share one vendor export: each is whole, none can tell that another exists, and what one does to itself
//! does not touch the others.

use std::time::Duration;

use chrono::{DurationRound, TimeDelta};
use futures_util::future::join_all;
use headgate::{
    operations::files::sweep_results,
    startup::{self, Roles},
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use url::Url;

use crate::{
    conformance::{by_vendor_user_id, truth},
    process::worker,
    support::{ALL_SCOPES, Answer, Setup, TestGateway, eventually, export_path, gateway, parse_lines},
};

const TENANTS: [&str; 3] = ["growth", "crm", "finance"];

/// A vendor that takes a moment, so that others can join.
fn unhurried() -> Setup {
    let mut setup = Setup::default();
    setup.sandbox.processing = Duration::from_secs(2);
    setup
}

/// Requests of one tenant.
struct Tenant<'a> {
    gateway: &'a TestGateway,
    token: String,
}

impl<'a> Tenant<'a> {
    fn of(gateway: &'a TestGateway, name: &str) -> Self {
        Self { gateway, token: gateway.token_for("somebody", name, ALL_SCOPES, &["*"]) }
    }

    async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Answer {
        let request = self.gateway.anonymous(method, path).bearer_auth(&self.token);
        Answer::of(match body {
            Some(body) => request.json(body),
            None => request,
        })
        .await
    }

    async fn submit(&self, body: &Value) -> Value {
        let answer = self.ask(Method::POST, "/v1/exports", Some(body)).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
        answer.json()
    }

    async fn get(&self, export: &Value) -> Value {
        self.ask(Method::GET, &export_path(export), None).await.json()
    }

    async fn finished(&self, export: &Value) -> Value {
        eventually("the end", async || {
            let export = self.get(export).await;
            (!export["finished_at"].is_null()).then_some(export)
        })
        .await
    }

    async fn records(&self, export: &Value) -> Vec<Value> {
        let answer = self.ask(Method::GET, &format!("{}/data", export_path(export)), None).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        parse_lines(&answer.body)
    }

    /// Succeeded, with everybody.
    async fn assert_right(&self, export: &Value, vendor: &str) -> Value {
        let export = self.finished(export).await;
        assert_eq!(export["state"], "succeeded", "{export:#}");
        let account = self.gateway.account(vendor);
        assert_eq!(by_vendor_user_id(self.records(&export).await), truth(self.gateway, &account));
        export
    }

    async fn part(&self, export: &Value, part: &str) -> Vec<Value> {
        let answer = self.ask(Method::GET, &format!("{}/{part}", export_path(export)), None).await;
        answer.json()["data"].as_array().unwrap().clone()
    }
}

async fn submissions(gateway: &TestGateway, vendor: &str) -> u64 {
    gateway.sandbox_state(vendor).await["submissions"].as_u64().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn identical_live_exports_of_several_tenants_make_one_vendor_export() {
    let gateway = unhurried().start().await;
    let body = TestGateway::everybody(&gateway.connect("braze").await);
    let tenants = TENANTS.map(|name| Tenant::of(&gateway, name));
    let mut exports = Vec::new();
    for (number, tenant) in tenants.iter().enumerate() {
        for twice in 0..2 {
            let mut body = body.clone();
            body["labels"] = json!({"number": number.to_string()});
            let export = tenant.submit(&body).await;
            // Of another tenant's nothing is shown, of one's own the first.
            let first = exports.get(number * 2).map(|(_, export): &(&Tenant<'_>, Value)| export["id"].clone());
            assert_eq!(export["coalesced_with"], first.filter(|_| twice == 1).unwrap_or_default(), "{export:#}");
            exports.push((tenant, export));
        }
    }
    gateway.seen(&exports[1].1, |export| export["phase"] == "vendor_processing").await;
    let mut files = Vec::new();
    for (number, (tenant, export)) in exports.iter().enumerate() {
        let ended = tenant.assert_right(export, "braze").await;
        assert_eq!(ended["labels"]["number"], (number / 2).to_string());
        assert!(ended["started_at"].as_str() >= ended["created_at"].as_str(), "{ended:#}");
        files.push(ended["result"]["files"][0]["id"].clone());
        let shown = [tenant.part(export, "events").await, tenant.part(export, "attempts").await];
        let phases: Vec<_> = shown[0].iter().map(|event| &event["phase"]).collect();
        assert!(phases.contains(&&json!("vendor_processing")) && shown[0].last().unwrap()["state"] == "succeeded");
        assert!(shown[1].iter().any(|attempt| attempt["action"] == "download"), "{shown:#?}");
        let text = json!([ended, shown]).to_string();
        let foreign = exports.iter().enumerate().filter(|(other, _)| other / 2 != number / 2);
        for (_, (_, other)) in foreign {
            assert!(!text.contains(other["id"].as_str().unwrap()), "{text}");
        }
        for name in TENANTS {
            assert!(!text.contains(&format!("\"{name}\"")), "{text}");
        }
    }
    files.sort_by_key(ToString::to_string);
    files.dedup();
    assert_eq!(files.len(), exports.len(), "each has its own files");
    assert_eq!(submissions(&gateway, "braze").await, 1);
    assert_eq!(gateway.stored_files().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_parallel_submissions_over_two_replicas_make_one_vendor_export() {
    let gateway = unhurried().start().await;
    let body = TestGateway::everybody(&gateway.connect("braze").await);
    let second = startup::start(&gateway.settings, Roles { api: true, worker: true }).await.unwrap();
    let places = [gateway.base.clone(), second.local_url().unwrap()];
    let submitted = join_all((0..100).map(|number| {
        let tenant = gateway.token_for("somebody", TENANTS[number % 3], ALL_SCOPES, &["*"]);
        let url = places[number % 2].join("/v1/exports").unwrap();
        Answer::of(gateway.http.post(url).bearer_auth(tenant).json(&body))
    }))
    .await;
    for (number, answer) in submitted.into_iter().enumerate() {
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
        Tenant::of(&gateway, TENANTS[number % 3]).assert_right(&answer.json(), "braze").await;
    }
    assert_eq!(submissions(&gateway, "braze").await, 1);
    let named: i64 = sqlx::query_scalar("select count(*) from result_file").fetch_one(&gateway.db).await.unwrap();
    assert_eq!((named, gateway.stored_files().len()), (100, 1));
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_same_plan_is_shared() {
    let gateway = unhurried().start().await;
    let account = gateway.connect("growingio_cdp").await;
    let body = TestGateway::everybody(&account);
    let with = |field: &str, value: Value| {
        let mut body = body.clone();
        body[field] = value;
        body
    };
    let first = gateway.submit(&body).await;
    let mut others = Vec::new();
    for other in [
        with("output", json!({"format": "csv"})),
        with("output", json!({"compression": "gzip"})),
        with("parameters", json!({"audience": account.audience, "fields": ["user_id"]})),
        with("coalesce", json!("none")),
    ] {
        others.push(gateway.submit(&other).await);
    }
    // What another mapping would show is another result.
    let mut changed = account.body.clone();
    changed["mapping"]["email"] = json!("usr_other_address");
    let path = format!("/v1/connections/{}", account.name);
    assert!(gateway.put(&path, &changed).await.status.is_success());
    others.push(gateway.submit(&body).await);
    let same = gateway.submit(&with("deadline", json!("PT1H"))).await;
    assert_eq!(same["coalesced_with"], others.last().unwrap()["id"], "the deadline is one's own");
    for other in &others {
        assert_eq!(
            (&other["coalesced_with"], &gateway.finished(other).await["state"]),
            (&json!(null), &json!("succeeded"))
        );
    }
    assert_eq!(gateway.finished(&first).await["state"], "succeeded");
    assert_eq!(gateway.finished(&same).await["state"], "succeeded");
    assert_eq!(submissions(&gateway, "growingio_cdp").await, 1 + others.len() as u64);
}

/// Cancels the one that leads, in a phase of its life; the others hardly notice.
async fn cancelled_in(phase: &'static str, vendor: &str, setup: Setup) {
    let gateway = setup.start().await;
    let body = TestGateway::everybody(&gateway.connect(vendor).await);
    let tenants = TENANTS.map(|name| Tenant::of(&gateway, name));
    let mut exports = Vec::new();
    for tenant in &tenants {
        exports.push(tenant.submit(&body).await);
    }
    eventually("the phase", async || (tenants[1].get(&exports[1]).await["phase"] == phase).then_some(())).await;
    gateway.faults(&[]).await;
    for first in 0..2 {
        let path = format!("{}/cancel", export_path(&exports[first]));
        assert_eq!(tenants[first].ask(Method::POST, &path, None).await.status, StatusCode::ACCEPTED);
        assert_eq!(tenants[first].finished(&exports[first]).await["state"], "cancelled");
    }
    tenants[2].assert_right(&exports[2], vendor).await;
    assert_eq!(submissions(&gateway, vendor).await, 1, "{phase}");
    let events = tenants[2].part(&exports[2], "events").await;
    assert!(events.iter().all(|event| event["state"] != "cancelling"), "{events:#?}");
    eventually("a tidy folder", async || (gateway.stored_files() == gateway.named_files().await).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_the_leader_hands_its_job_on() {
    cancelled_in("vendor_processing", "braze", unhurried()).await;
    cancelled_in("vendor_processing", "growingio_cdp", unhurried()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_the_leader_in_the_middle_of_its_download_hands_the_job_on() {
    cancelled_in("downloading", "braze", Setup::default().fault("braze.file.drip")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_the_last_one_ends_it_all() {
    let gateway = Setup::default().fault("braze.file.drip").start().await;
    let body = TestGateway::everybody(&gateway.connect("braze").await);
    let exports = [gateway.submit(&body).await, gateway.submit(&body).await];
    gateway.seen(&exports[1], |export| export["phase"] == "downloading").await;
    for export in &exports {
        gateway.post(&format!("{}/cancel", export_path(export)), &json!({})).await;
        assert_eq!(gateway.finished(export).await["state"], "cancelled");
    }
    eventually("an empty folder", async || gateway.stored_files().is_empty().then_some(())).await;
    let held: i64 = sqlx::query_scalar("select count(*) from vendor_slot").fetch_one(&gateway.db).await.unwrap();
    assert_eq!(held, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_that_are_done_stay_done_when_they_are_handed_on() {
    let mut setup = Setup::default();
    setup.sandbox.requests_per_second = 20.0;
    let gateway = setup.start().await;
    let mut account = gateway.account("growingio");
    account.body["settings"]["requests_per_second"] = json!(20.0);
    let answer = gateway.put(&format!("/v1/connections/{}", account.name), &account.body).await;
    assert!(answer.status.is_success(), "{answer:?}");
    let now = gateway.sandbox.world().started_at().duration_trunc(TimeDelta::hours(1)).unwrap();
    let window = json!({"from": now - TimeDelta::hours(27), "to": now - TimeDelta::hours(3)});
    let body = json!({"connection": account.name, "dataset": "raw_events",
        "parameters": {"window": window, "granularity": "hour", "event_types": ["visit"]}});
    let first = gateway.submit(&body).await;
    let second = gateway.submit(&body).await;
    assert_eq!(second["coalesced_with"], first["id"]);
    gateway.seen(&first, |export| export["progress"]["files_done"].as_i64() > Some(3)).await;
    gateway.post(&format!("{}/cancel", export_path(&first)), &json!({})).await;
    assert_eq!(gateway.finished(&first).await["state"], "cancelled");
    let done: i64 =
        sqlx::query_scalar("select count(*) from part where done_at is not null").fetch_one(&gateway.db).await.unwrap();
    assert!(done > 3);
    let second = gateway.finished(&second).await;
    assert_eq!((&second["state"], &second["progress"]["files_done"]), (&json!("succeeded"), &json!(24)), "{second:#}");
    let fetched = gateway.sandbox.world().activity("growingio").counts;
    let twice = fetched.iter().filter(|(name, count)| name.starts_with("fetched ") && **count > 1).count();
    assert!(twice <= 4, "only what was under way is fetched again: {fetched:#?}");
    eventually("a tidy folder", async || (gateway.stored_files() == gateway.named_files().await).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deadline_of_the_leader_is_its_own() {
    let gateway = unhurried().start().await;
    let mut body = TestGateway::everybody(&gateway.connect("braze").await);
    body["deadline"] = json!("PT1S");
    let short = gateway.submit(&body).await;
    body["deadline"] = json!("PT2M");
    let long = gateway.submit(&body).await;
    let short = gateway.finished(&short).await;
    assert_eq!(short["error"]["code"], "deadline_exceeded", "{short:#}");
    let tenant = Tenant::of(&gateway, "growth");
    tenant.assert_right(&long, "braze").await;
    assert_eq!(submissions(&gateway, "braze").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deadline_of_a_follower_is_its_own_too() {
    let gateway = unhurried().start().await;
    let mut body = TestGateway::everybody(&gateway.connect("braze").await);
    let long = gateway.submit(&body).await;
    body["deadline"] = json!("PT1S");
    let short = gateway.submit(&body).await;
    assert_eq!(gateway.finished(&short).await["error"]["code"], "deadline_exceeded");
    Tenant::of(&gateway, "growth").assert_right(&long, "braze").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_vendor_refuses_fails_for_all() {
    let mut setup = Setup::default().fault("growingio_cdp.job.error_stage");
    setup.sandbox.processing = Duration::from_secs(1);
    let gateway = setup.start().await;
    let body = TestGateway::everybody(&gateway.connect("growingio_cdp").await);
    let tenants = TENANTS.map(|name| Tenant::of(&gateway, name));
    let mut errors = Vec::new();
    let exports = join_all(tenants.iter().map(|tenant| tenant.submit(&body))).await;
    for (tenant, export) in tenants.iter().zip(&exports) {
        let export = tenant.finished(export).await;
        assert_eq!(export["state"], "failed");
        errors.push(export["error"].clone());
    }
    assert!(
        errors[0]["code"] == "vendor_rejected_request" && errors.iter().all(|error| *error == errors[0]),
        "{errors:#?}"
    );
    assert_eq!(submissions(&gateway, "growingio_cdp").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_stay_until_the_last_one_gives_them_up() {
    let gateway = unhurried().start().await;
    let body = TestGateway::everybody(&gateway.connect("braze").await);
    let tenants = TENANTS.map(|name| Tenant::of(&gateway, name));
    let exports = join_all(tenants.iter().map(|tenant| tenant.submit(&body))).await;
    for (tenant, export) in tenants.iter().zip(&exports) {
        tenant.assert_right(export, "braze").await;
    }
    // One is deleted by its owner, one expires.
    let deleted = tenants[0].ask(Method::DELETE, &export_path(&exports[0]), None).await;
    assert_eq!(deleted.status, StatusCode::NO_CONTENT);
    let expire = "update export set result_expires_at = now() where tenant = 'crm'";
    sqlx::query(expire).execute(&gateway.db).await.unwrap();
    let inside = &gateway.running.as_ref().unwrap().gateway;
    assert_eq!(sweep_results(inside).await.unwrap(), 1);
    for (gone, availability) in [(0, "deleted"), (1, "expired")] {
        assert_eq!(tenants[gone].get(&exports[gone]).await["result"]["availability"], availability);
        let data = tenants[gone].ask(Method::GET, &format!("{}/data", export_path(&exports[gone])), None).await;
        data.problem(410, "result_expired");
    }
    assert_eq!(gateway.stored_files().len(), 1);
    tenants[2].assert_right(&exports[2], "braze").await;
    tenants[2].ask(Method::DELETE, &export_path(&exports[2]), None).await;
    assert!(gateway.stored_files().is_empty());
    let known: i64 = sqlx::query_scalar("select count(*) from result_object").fetch_one(&gateway.db).await.unwrap();
    assert_eq!(known, 0);
}

/// Whoever dies between giving files up and removing them leaves them to the next sweep.
#[tokio::test(flavor = "multi_thread")]
async fn files_that_were_given_up_but_not_removed_are_swept() {
    let gateway = gateway().await;
    let export = gateway.run(&TestGateway::everybody(&gateway.connect("braze").await)).await;
    assert_eq!(export["state"], "succeeded");
    let given_up = "update export set result_deleted_at = now(), result_swept_at = now()";
    sqlx::query(given_up).execute(&gateway.db).await.unwrap();
    assert_eq!(gateway.stored_files().len(), 1);
    sweep_results(&gateway.running.as_ref().unwrap().gateway).await.unwrap();
    assert!(gateway.stored_files().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_young_enough_finished_export_is_answered_again() {
    let gateway = gateway().await;
    let mut body = TestGateway::everybody(&gateway.connect("braze").await);
    let tenants = TENANTS.map(|name| Tenant::of(&gateway, name));
    let first = tenants[0].assert_right(&tenants[0].submit(&body).await, "braze").await;
    body["max_age"] = json!("PT5M");
    let own = tenants[0].submit(&body).await;
    assert_eq!((&own["state"], &own["coalesced_with"]), (&json!("succeeded"), &first["id"]), "{own:#}");
    assert_eq!(own["result"]["data_as_of"], first["result"]["data_as_of"]);
    assert_ne!(own["result"]["files"][0]["id"], first["result"]["files"][0]["id"]);
    let foreign = tenants[1].submit(&body).await;
    assert_eq!((&foreign["state"], &foreign["coalesced_with"]), (&json!("succeeded"), &json!(null)), "{foreign:#}");
    let states: Vec<_> = tenants[1].part(&foreign, "events").await.iter().map(|event| event["state"].clone()).collect();
    assert_eq!(states, ["queued", "running", "succeeded"]);
    assert_eq!(submissions(&gateway, "braze").await, 1);

    // The files outlive the export that made them; what was deleted is no longer given.
    for (tenant, export) in [(&tenants[0], &first), (&tenants[0], &own)] {
        assert_eq!(tenant.ask(Method::DELETE, &export_path(export), None).await.status, StatusCode::NO_CONTENT);
    }
    tenants[1].assert_right(&foreign, "braze").await;
    let again = tenants[2].submit(&body).await;
    assert_eq!(again["state"], "succeeded", "given by the one that is left");
    for (tenant, export) in [(&tenants[1], &foreign), (&tenants[2], &again)] {
        assert_eq!(tenant.ask(Method::DELETE, &export_path(export), None).await.status, StatusCode::NO_CONTENT);
    }
    assert!(gateway.stored_files().is_empty());
    let fresh = tenants[2].submit(&body).await;
    assert_ne!(fresh["state"], "succeeded");
    tenants[2].assert_right(&fresh, "braze").await;
    assert_eq!(submissions(&gateway, "braze").await, 2);

    // Age is that of the data, not of the answer.
    sqlx::query("update export set data_as_of = now() - interval '6 minutes'").execute(&gateway.db).await.unwrap();
    tenants[0].assert_right(&tenants[0].submit(&body).await, "braze").await;
    assert_eq!(submissions(&gateway, "braze").await, 3);
    body["coalesce"] = json!("none");
    let refused = tenants[0].ask(Method::POST, "/v1/exports", Some(&body)).await;
    assert_eq!(refused.problem(422, "invalid_request")["errors"][0]["pointer"], "/max_age");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_is_delivered_to_its_own_destination() {
    let gateway = unhurried().start().await;
    let mut body = TestGateway::everybody(&gateway.connect("braze").await);
    let folder = tempfile::tempdir().unwrap();
    let lake = json!({"url": Url::from_directory_path(folder.path()).unwrap()});
    assert!(gateway.put("/v1/destinations/lake", &lake).await.status.is_success());
    let kept = gateway.submit(&body).await;
    body["delivery"] = json!({"type": "destination", "destination": "lake", "prefix": "{id}/"});
    let mut exports = vec![gateway.submit(&body).await, gateway.submit(&body).await];
    let tenant = Tenant::of(&gateway, "growth");
    tenant.assert_right(&kept, "braze").await;
    for export in &exports {
        tenant.assert_right(export, "braze").await;
    }
    body["max_age"] = json!("PT5M");
    exports.push(gateway.submit(&body).await);
    for export in &exports {
        let export = tenant.assert_right(export, "braze").await;
        let manifest = folder.path().join(format!("{}/_manifest.json", export["id"].as_str().unwrap()));
        let manifest: Value = serde_json::from_slice(&std::fs::read(manifest).unwrap()).unwrap();
        assert_eq!((&manifest["export"], &manifest["records"]), (&export["id"], &export["result"]["records"]));
        assert!(export["result"]["files"][0]["location"].is_string(), "{export:#}");
    }
    assert!(tenant.get(&kept).await["result"]["files"][0]["location"].is_null());
    assert_eq!(submissions(&gateway, "braze").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_takes_nobody_with_it() {
    let gateway = Setup::default().without_worker().fault("braze.file.drip").start().await;
    let body = TestGateway::everybody(&gateway.connect("braze").await);
    let tenants = TENANTS.map(|name| Tenant::of(&gateway, name));
    let exports = join_all(tenants.iter().map(|tenant| tenant.submit(&body))).await;
    let first = worker(&gateway, "3");
    eventually("the download", async || (tenants[1].get(&exports[1]).await["phase"] == "downloading").then_some(()))
        .await;
    first.kill().await;
    gateway.faults(&[]).await;
    let _second = worker(&gateway, "3");
    for (tenant, export) in tenants.iter().zip(&exports) {
        tenant.assert_right(export, "braze").await;
    }
    assert_eq!(submissions(&gateway, "braze").await, 1);
}

/// An export of a version that does not know of followers may end beside them.
#[tokio::test(flavor = "multi_thread")]
async fn who_follows_nobody_any_more_goes_its_own_way() {
    let gateway = unhurried().start().await;
    let body = TestGateway::everybody(&gateway.connect("braze").await);
    let leader = gateway.submit(&body).await;
    let follower = gateway.submit(&body).await;
    gateway.seen(&follower, |export| export["phase"] == "vendor_processing").await;
    let unknowing = "update export set plan_sha256 = null where follows is null";
    sqlx::query(unknowing).execute(&gateway.db).await.unwrap();
    sqlx::query("update export set follows = gen_random_uuid(), due_at = now() where follows is not null")
        .execute(&gateway.db)
        .await
        .unwrap();
    let tenant = Tenant::of(&gateway, "growth");
    tenant.assert_right(&leader, "braze").await;
    tenant.assert_right(&follower, "braze").await;
    assert_eq!(submissions(&gateway, "braze").await, 2);
}
