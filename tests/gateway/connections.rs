//! Vendor accounts: made, changed, checked and deleted by admins.

use std::{collections::BTreeMap, sync::Arc};

use headgate::{
    config::{Flags, Settings},
    startup::Roles,
    vendors::registry::{self, VENDORS},
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt as _, net::TcpListener};

use crate::support::{Answer, MASTER_KEY, Setup, TestGateway, export_path, gateway};

const PATH: &str = "/v1/connections/demo-braze";

async fn api() -> TestGateway {
    Setup::default().without_worker().start().await
}

fn pointers(problem: &Value) -> Vec<&str> {
    problem["errors"].as_array().unwrap().iter().map(|error| error["pointer"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn put_creates_then_changes() {
    let gateway = api().await;
    let mut body = gateway.account("braze").body;
    let created = gateway.put(PATH, &body).await;
    assert_eq!((created.status, created.header("location")), (StatusCode::CREATED, PATH));
    let created = created.json();
    assert_eq!((&created["health"], &created["credential_version"]), (&json!("unknown"), &json!(1)));
    assert_eq!(created["datasets"][0], "audience_members");
    assert_eq!(created["datasets"].as_array().unwrap().len(), registry::vendor("braze").unwrap().datasets.len());
    body["display_name"] = json!("Another name");
    body.as_object_mut().unwrap().remove("credentials");
    let changed = gateway.put(PATH, &body).await;
    assert_eq!((changed.status, changed.header("location")), (StatusCode::OK, ""));
    let changed = changed.json();
    assert_eq!(changed["display_name"], "Another name");
    assert_eq!(changed["credential_version"], 1, "without credentials it keeps its own");
    assert_eq!(changed["created_at"], created["created_at"]);
    assert_eq!(gateway.get(PATH).await.json(), changed);
}

#[tokio::test(flavor = "multi_thread")]
async fn five_who_make_one_connection_at_once_make_one() {
    let gateway = api().await;
    let body = gateway.account("braze").body;
    let answers = futures_util::future::join_all((0..5).map(|_| gateway.put(PATH, &body))).await;
    let mut statuses: Vec<_> = answers.iter().map(|answer| answer.status.as_u16()).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 200, 200, 201]);
    assert_eq!(gateway.get("/v1/connections").await.json()["data"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_never_changes_its_vendor() {
    let gateway = api().await;
    gateway.connect("braze").await;
    let problem = gateway.put(PATH, &gateway.account("growingio_cdp").body).await.problem(422, "invalid_request");
    assert_eq!(pointers(&problem), ["/vendor"]);
    assert_eq!(gateway.get(PATH).await.json()["vendor"], "braze");
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_wrong_with_a_connection_is_pointed_at() {
    let gateway = api().await;
    let braze = gateway.account("braze").body;
    let with = |pointer: &str, value: Value| {
        let mut body = braze.clone();
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        body.pointer_mut(parent).unwrap()[name] = value;
        body
    };
    for (body, pointer) in [
        (with("/vendor", json!("salesforce")), "/vendor"),
        (with("/settings/base_url", json!("no address")), "/settings/base_url"),
        (with("/settings/base_url", json!("ftp://example.com")), "/settings/base_url"),
        (with("/settings/base_url", json!("https://key:secret@example.com")), "/settings/base_url"),
        (with("/settings/region", json!("eu")), "/settings/region"),
        (with("/settings", json!({})), "/settings/base_url"),
        (with("/credentials/token", json!("x")), "/credentials/token"),
        (with("/credentials/api_key", json!("")), "/credentials/api_key"),
        (with("/credentials/api_key", json!("a\nb")), "/credentials/api_key"),
        (with("/credentials", json!({})), "/credentials/api_key"),
        (with("/credentials", Value::Null), "/credentials"),
        (with("/mapping/shoe_size", json!("usr_shoes")), "/mapping/shoe_size"),
        (with("/mapping/gender", json!("")), "/mapping/gender"),
        (with("/mapping/gender", json!(7)), "/mapping/gender"),
        (with("/mapping/gender", json!({"values": {}})), "/mapping/gender/from"),
        (with("/mapping/gender", json!({"from": "gender"})), "/mapping/gender/values"),
        (with("/mapping/gender", json!({"from": " ", "values": {"男": "male"}})), "/mapping/gender/from"),
        (with("/mapping/gender", json!({"from": "gender", "values": {"男": 1}})), "/mapping/gender/values/男"),
        (
            with("/mapping/gender", json!({"from": "gender", "values": {"男": "x".repeat(256)}})),
            "/mapping/gender/values/男",
        ),
        (with("/mapping/gender", json!({"from": "gender", "values": many_values(1_001)})), "/mapping/gender/values"),
        (
            with("/mapping/gender", json!({"from": "gender", "values": {}, "otherwise": "x"})),
            "/mapping/gender/otherwise",
        ),
        (with("/mapping/shoe", json!({"from": "gender", "values": {"1": "2"}})), "/mapping/shoe"),
        (with("/colour", json!("red")), "/colour"),
    ] {
        let problem = gateway.put(PATH, &body).await.problem(422, "invalid_request");
        assert_eq!(pointers(&problem), [pointer], "{body:#}");
    }
    gateway.get(PATH).await.problem(404, "not_found");
    let cdp = "/v1/connections/cdp";
    let problem =
        gateway.put(cdp, &json!({"vendor": "growingio_cdp", "settings": {"base_url": "https://cdp.example"}})).await;
    let problem = problem.problem(422, "invalid_request");
    assert!(pointers(&problem).contains(&"/settings/project_id"), "{problem:#}");
}

fn many_values(count: usize) -> Value {
    (0..count).map(|value| (value.to_string(), json!("x"))).collect::<serde_json::Map<_, _>>().into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mapping_is_shown_to_admins_as_it_was_put() {
    let gateway = api().await;
    let mut body = gateway.account("braze").body;
    let mapping = json!({
        "email": "work_email",
        "gender": {"from": "gender", "values": {"F": "female", "M": "male"}},
        "attributes.plan": {"from": "Plan Name", "values": many_values(1_000)},
    });
    body["mapping"] = mapping.clone();
    assert_eq!(gateway.put(PATH, &body).await.json()["mapping"], mapping);
    assert_eq!(gateway.get(PATH).await.json()["mapping"], mapping);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_plain() {
    let gateway = api().await;
    let body = gateway.account("braze").body;
    for bad in ["Upper", "-first", "a%20b", "%2e%2e%2fx", &*"x".repeat(64), "a%00b", "%C3%BC"] {
        let answer = gateway.put(&format!("/v1/connections/{bad}"), &body).await;
        assert!(matches!(answer.status.as_u16(), 404 | 422), "{bad}: {answer:?}");
        assert_eq!(answer.header("content-type"), "application/problem+json");
    }
    assert_eq!(gateway.get("/v1/connections").await.json()["data"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_in_no_answer() {
    let gateway = api().await;
    for spec in VENDORS {
        let account = gateway.account(spec.name);
        let path = format!("/v1/connections/{}", account.name);
        let mut half_right = account.body.clone();
        half_right["settings"]["base_url"] = json!("nowhere");
        let next = json!({"credentials": account.body["credentials"]});
        let mut odd = next.clone();
        odd["credentials"]["more"] = json!("than-needed");
        let answers = [
            gateway.put(&path, &half_right).await,
            gateway.put(&path, &account.body).await,
            gateway.put(&path, &account.body).await,
            gateway.get(&path).await,
            gateway.get("/v1/connections").await,
            gateway.post(&format!("{path}/credentials"), &next).await,
            gateway.post(&format!("{path}/credentials"), &odd).await,
            gateway.post(&format!("{path}/check"), &json!({})).await,
        ];
        for answer in answers {
            for secret in account.body["credentials"].as_object().unwrap().values() {
                assert!(!answer.text().contains(secret.as_str().unwrap()), "{}", answer.text());
            }
            assert!(!answer.text().contains("than-needed"), "{}", answer.text());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_admins_see_settings() {
    let gateway = api().await;
    gateway.connect("braze").await;
    let token = gateway.token_for("crm", "growth", "exports:read", &["*"]);
    let listed = gateway.ask(&token, Method::GET, "/v1/connections").await.json()["data"][0].clone();
    let read = gateway.ask(&token, Method::GET, PATH).await.json();
    assert_eq!(listed, read);
    let mut keys: Vec<_> = read.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    let public =
        ["created_at", "datasets", "display_name", "health", "health_checked_at", "name", "updated_at", "vendor"];
    assert_eq!(keys, public);
    let admin = gateway.get(PATH).await.json();
    assert_eq!(admin["settings"], gateway.account("braze").body["settings"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn new_credentials_are_a_new_version_and_the_next_check_uses_them() {
    let gateway = api().await;
    let account = gateway.connect("braze").await;
    let rotate = async |body: Value| gateway.post(&format!("{PATH}/credentials"), &body).await;
    let check = async || gateway.post(&format!("{PATH}/check"), &json!({})).await;
    assert_eq!(check().await.json()["health"], "healthy");

    let wrong = rotate(json!({"credentials": {"api_key": "a-key-of-somebody-else"}})).await;
    assert_eq!((wrong.status, &wrong.json()["credential_version"]), (StatusCode::OK, &json!(2)));
    let checked = check().await;
    assert_eq!(checked.status, StatusCode::OK);
    let checked = checked.json();
    assert_eq!(checked["health"], "unhealthy");
    assert!(!checked["health_checked_at"].is_null());
    assert!(!checked.to_string().contains("a-key-of-somebody-else"), "{checked:#}");

    let right = rotate(json!({"credentials": account.body["credentials"]})).await.json();
    assert_eq!(right["credential_version"], 3);
    assert_eq!(check().await.json()["health"], "healthy");
    for (body, pointer) in [
        (json!({"credentials": {"api_key": "two\nlines"}}), "/credentials/api_key"),
        (json!({"credentials": {}}), "/credentials/api_key"),
        (json!({}), "/credentials"),
    ] {
        let problem = rotate(body).await.problem(422, "invalid_request");
        assert_eq!(pointers(&problem), [pointer]);
    }
    assert_eq!(gateway.get(PATH).await.json()["credential_version"], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_asks_every_vendor_for_real() {
    let gateway = api().await;
    for spec in VENDORS {
        let account = gateway.connect(spec.name).await;
        let path = format!("/v1/connections/{}/check", account.name);
        let checked = gateway.post(&path, &json!({})).await.json();
        assert_eq!((&checked["health"], &checked["name"]), (&json!("healthy"), &json!(account.name)));
    }
    let mut elsewhere = gateway.account("braze").body;
    elsewhere["settings"]["base_url"] = json!("http://10.1.2.3:9/");
    gateway.put(PATH, &elsewhere).await;
    let checked = gateway.post(&format!("{PATH}/check"), &json!({})).await.json();
    assert_eq!(checked["health"], "unhealthy", "a private address is not reached");
}

#[tokio::test(flavor = "multi_thread")]
async fn rejected_credentials_fail_the_export_and_turn_the_connection_unhealthy() {
    let gateway = gateway().await;
    for spec in VENDORS {
        let mut account = gateway.account(spec.name);
        for secret in account.body["credentials"].as_object_mut().unwrap().values_mut() {
            *secret = json!("not-the-right-one");
        }
        let path = format!("/v1/connections/{}", account.name);
        gateway.put(&path, &account.body).await;
        let export = gateway.run(&TestGateway::everybody(&account)).await;
        assert_eq!(export["error"]["code"], "vendor_credentials_rejected", "{export:#}");
        assert_eq!(export["error"]["vendor"]["name"], spec.name);
        assert_eq!(export["error"]["vendor"]["http_status"], 401);
        assert_eq!(gateway.get(&path).await.json()["health"], "unhealthy");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_in_use_is_not_deleted_and_a_deleted_one_is_gone() {
    let gateway = api().await;
    let account = gateway.connect("braze").await;
    let body = TestGateway::everybody(&account);
    let export = gateway.submit(&body).await;
    gateway.delete(PATH).await.problem(409, "connection_in_use");
    sqlx::query("update export set state = 'cancelled', finished_at = now()").execute(&gateway.db).await.unwrap();
    assert_eq!(gateway.delete(PATH).await.status, StatusCode::NO_CONTENT);
    gateway.get(PATH).await.problem(404, "not_found");
    gateway.delete(PATH).await.problem(404, "not_found");
    gateway.post(&format!("{PATH}/check"), &json!({})).await.problem(404, "not_found");
    gateway.post("/v1/exports", &body).await.problem(422, "unknown_connection");
    let read = gateway.get(&export_path(&export)).await.json();
    assert_eq!(read["connection"], "demo-braze", "its exports keep its name");
    let retry = gateway.request(Method::POST, &format!("{}/retry", export_path(&export)));
    Answer::of(retry).await.problem(422, "unknown_connection");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_whose_connection_vanished_fails_and_says_so() {
    let mut gateway = api().await;
    let export = gateway.submit(&TestGateway::everybody(&gateway.connect("braze").await)).await;
    sqlx::query("delete from connection").execute(&gateway.db).await.unwrap();
    gateway.stop().await;
    gateway.start_again(Roles { api: true, worker: true }).await;
    let export = gateway.finished(&export).await;
    assert_eq!((&export["state"], &export["error"]["code"]), (&json!("failed"), &json!("unknown_connection")));
    assert!(export["error"]["detail"].as_str().unwrap().contains("demo-braze"));
}

#[tokio::test(flavor = "multi_thread")]
async fn vendors_are_described_well_enough_to_make_a_connection_and_an_export() {
    let gateway = api().await;
    let vendors = gateway.get("/v1/vendors").await.json();
    let names: Vec<_> = vendors["data"].as_array().unwrap().iter().map(|vendor| vendor["name"].clone()).collect();
    assert_eq!(names, VENDORS.iter().map(|spec| json!(spec.name)).collect::<Vec<_>>());
    for vendor in vendors["data"].as_array().unwrap() {
        let name = vendor["name"].as_str().unwrap();
        assert_eq!(gateway.get(&format!("/v1/vendors/{name}")).await.json(), *vendor);
        let account = (registry::vendor(name).unwrap().sandbox_connection)(gateway.sandbox.base_url());
        for setting in account.body["settings"].as_object().unwrap().keys() {
            assert!(!vendor["settings_schema"]["properties"][setting].is_null(), "{name}: {setting}");
        }
        let credentials: Vec<_> =
            vendor["credentials"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
        for given in account.body["credentials"].as_object().unwrap().keys() {
            assert!(credentials.contains(&given.as_str()), "{name}: {given}");
        }
        let datasets = vendor["datasets"].as_array().unwrap();
        let dataset = datasets.iter().find(|dataset| dataset["dataset"] == "audience_members").unwrap();
        assert_eq!(dataset["schema"], "user.v1");
        let columns: Vec<_> = dataset["columns"].as_array().unwrap().iter().map(|column| &column["name"]).collect();
        assert!(account.fields.iter().all(|field| columns.contains(&&json!(field))));
    }
    gateway.get("/v1/vendors/salesforce").await.problem(404, "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_key_is_changed_without_losing_an_account() {
    const NEW_KEY: &str = "//79/Pv6+fj39vX08/Lx8O/u7ezr6uno5+bl5OPi4eA=";
    let mut gateway = gateway().await;
    let account = gateway.connect("braze").await;
    let both = format!("{NEW_KEY},{MASTER_KEY}");
    for keys in [both.as_str(), NEW_KEY] {
        gateway.stop().await;
        let flags = Flags { master_key: Some(keys.into()), ..gateway.flags.clone() };
        let file = gateway.folder.path().join("headgate.toml");
        gateway.settings = Arc::new(Settings::resolve(&flags, &BTreeMap::new(), &file).unwrap());
        gateway.start_again(Roles { api: true, worker: true }).await;
        assert_eq!(gateway.records(&TestGateway::everybody(&account)).await.len(), 7);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_rejection_of_the_old_credentials_says_nothing_about_the_new_ones() {
    let vendor = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gateway = gateway().await;
    let mut account = gateway.account("braze");
    account.body["settings"]["base_url"] = json!(format!("http://{}/", vendor.local_addr().unwrap()));
    assert_eq!(gateway.put(PATH, &account.body).await.status, StatusCode::CREATED);
    let export = gateway.submit(&TestGateway::everybody(&account)).await;
    // What is asked beforehand tells nothing.
    let (mut verifying, _) = vendor.accept().await.unwrap();
    verifying.write_all(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await.unwrap();
    let (mut call, _) = vendor.accept().await.unwrap();
    // The call with the old key is on its way; now the key is replaced, and only then the vendor answers.
    let renewed = gateway.post(&format!("{PATH}/credentials"), &json!({"credentials": {"api_key": "a-new-key"}})).await;
    assert_eq!(renewed.json()["credential_version"], 2);
    call.write_all(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}").await.unwrap();
    let export = gateway.finished(&export).await;
    assert_eq!(export["error"]["code"], "vendor_credentials_rejected", "{export:#}");
    assert_eq!(gateway.get(PATH).await.json()["health"], "unknown");
}
