//! Places that results are delivered to: made and checked by admins; what is delivered is there completely or not at all,
//! whoever dies meanwhile.

use std::{collections::BTreeMap, path::Path, time::Duration};

use bytes::Bytes;
use chrono::Utc;
use headgate::{
    exports::record::FileRecord,
    ids::{ExportId, FileId},
    results::deliver::{Manifest, ManifestFile, Target, deliver},
    startup::Roles,
    store,
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use url::Url;

use crate::{
    bucket::{Bucket, KEY_ID, SECRET},
    process::worker,
    support::{Answer, Setup, TestGateway, eventually, export_path, file_path, gateway, hex, parse_lines},
};

const PATH: &str = "/v1/destinations/lake";
const SHORT_LEASE: &str = "3";

async fn api() -> TestGateway {
    Setup::default().without_worker().start().await
}

fn pointers(problem: &Value) -> Vec<&str> {
    problem["errors"].as_array().unwrap().iter().map(|error| error["pointer"].as_str().unwrap()).collect()
}

fn of_folder(folder: &Path) -> Value {
    json!({"url": Url::from_directory_path(folder).unwrap()})
}

/// Makes the destination `lake`.
async fn lake(gateway: &TestGateway, body: &Value) {
    let answer = gateway.put(PATH, body).await;
    assert!(answer.status.is_success(), "{answer:?}");
}

/// Everybody's records, to be delivered.
fn to_lake(mut body: Value, prefix: Option<&str>) -> Value {
    body["delivery"] = json!({"type": "destination", "destination": "lake"});
    if let Some(prefix) = prefix {
        body["delivery"]["prefix"] = json!(prefix);
    }
    body
}

/// An export whose result has two files: fifty profiles are asked for at once.
fn two_files(connection: &str) -> Value {
    let identifiers: Vec<_> = (0..60).map(|n| json!({"type": "user_id", "value": format!("user-{n}")})).collect();
    let body = json!({
        "connection": connection, "dataset": "user_profiles",
        "parameters": {"identifiers": identifiers}, "output": {"format": "raw"},
    });
    to_lake(body, Some("{id}/"))
}

/// Every file below a folder.
fn files_of(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(current) = folders.pop() {
        for entry in std::fs::read_dir(current).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_string_lossy().into_owned();
                found.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

/// What a reader finds: the manifest, and the files beside it that it names.
fn read(found: &BTreeMap<String, Vec<u8>>, prefix: &str) -> (Value, Vec<Vec<u8>>) {
    let manifest: Value = serde_json::from_slice(&found[&format!("{prefix}_manifest.json")]).unwrap();
    let files = manifest["files"].as_array().unwrap().iter().map(|file| {
        let bytes = found[&format!("{prefix}{}", file["name"].as_str().unwrap())].clone();
        let sha256 = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &bytes);
        assert_eq!((&file["bytes"], &file["sha256"]), (&json!(bytes.len()), &json!(hex(sha256.as_ref()))));
        bytes
    });
    let files = files.collect();
    (manifest, files)
}

/// Holds a delivered export against what the gateway itself keeps of it.
async fn assert_delivered(gateway: &TestGateway, export: &Value, found: &BTreeMap<String, Vec<u8>>, base: &str) {
    assert_eq!(export["state"], "succeeded", "{export:#}");
    let prefix = export["delivery"]["prefix"].as_str().unwrap();
    let (manifest, files) = read(found, prefix);
    assert_eq!(manifest["export"], export["id"]);
    assert_eq!(manifest["created_at"], export["created_at"]);
    assert_eq!(manifest["records"], export["result"]["records"]);
    assert_eq!(manifest["schema"], export["result"]["schema"]);
    let kept = export["result"]["files"].as_array().unwrap();
    assert_eq!(kept.len(), files.len());
    for (file, bytes) in kept.iter().zip(files) {
        assert_eq!(file["location"], format!("{base}{prefix}{}", file["name"].as_str().unwrap()));
        assert!(gateway.get(&file_path(export, file)).await.body == bytes, "{file:#}");
    }
    let phases: Vec<_> = gateway.events(export).await.iter().map(|event| event["phase"].clone()).collect();
    assert!(phases.contains(&json!("delivering")), "{phases:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn put_creates_then_changes() {
    let gateway = api().await;
    let mut body = json!({
        "display_name": "The lake", "url": "s3://lake/a", "settings": {"region": "eu-central-1"},
        "credentials": {"access_key_id": KEY_ID, "secret_access_key": SECRET},
    });
    let created = gateway.put(PATH, &body).await;
    assert_eq!((created.status, created.header("location")), (StatusCode::CREATED, PATH));
    let created = created.json();
    assert_eq!((&created["health"], &created["credential_version"]), (&json!("unknown"), &json!(1)));
    assert_eq!((&created["kind"], &created["url"]), (&json!("s3"), &json!("s3://lake/a")));

    body.as_object_mut().unwrap().remove("credentials");
    body["url"] = json!("s3://lake/b");
    let changed = gateway.put(PATH, &body).await;
    assert_eq!((changed.status, changed.header("location")), (StatusCode::OK, ""));
    assert_eq!(changed.json()["credential_version"], 1, "without credentials it keeps its own");
    assert_eq!(gateway.get(PATH).await.json(), changed.json());

    let renewed = json!({"credentials": {"access_key_id": KEY_ID, "secret_access_key": "another"}});
    let renewed = gateway.post(&format!("{PATH}/credentials"), &renewed).await;
    assert_eq!(renewed.json()["credential_version"], 2);
    let ambient = gateway.post(&format!("{PATH}/credentials"), &json!({"credentials": {}})).await;
    assert_eq!(ambient.json()["credential_version"], 0, "the environment's");
    let stored: bool =
        sqlx::query_scalar("select credentials is null from destination").fetch_one(&gateway.db).await.unwrap();
    assert!(stored);

    let problem = gateway.put(PATH, &json!({"url": "gs://lake/a"})).await.problem(422, "invalid_request");
    assert_eq!(pointers(&problem), ["/url"]);
    assert_eq!(gateway.delete(PATH).await.status, StatusCode::NO_CONTENT);
    gateway.get(PATH).await.problem(404, "not_found");
    gateway.delete(PATH).await.problem(404, "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_destination_is_pointed_at() {
    let gateway = api().await;
    let own = gateway.folder.path().join("files");
    for (body, pointer) in [
        (json!({}), "/url"),
        (json!({"url": "ftp://lake"}), "/url"),
        (json!({"url": "file:///mnt/../etc"}), "/url"),
        (of_folder(gateway.folder.path()), "/url"),
        (of_folder(&own.join("exports")), "/url"),
        (of_folder(Path::new("/")), "/url"),
        (json!({"url": "s3://lake", "settings": {"endpoint": "minio"}}), "/settings/endpoint"),
        (json!({"url": "s3://lake", "settings": {"endpoint": "https://minio.example.com"}}), "/credentials"),
        (json!({"url": "s3://lake", "settings": {"colour": "red"}}), "/settings/colour"),
        (json!({"url": "s3://lake", "credentials": {"access_key_id": "x"}}), "/credentials/secret_access_key"),
        (json!({"url": "gs://lake", "credentials": {"service_account_key": "not json"}}), "/credentials"),
        (json!({"url": "file:///mnt/lake", "credentials": {"password": "x"}}), "/credentials/password"),
        (json!({"url": "file:///mnt/lake", "colour": "red"}), "/colour"),
    ] {
        let problem = gateway.put(PATH, &body).await.problem(422, "invalid_request");
        assert_eq!(pointers(&problem), [pointer], "{body:#}");
    }
    for bad in ["Upper", "-first", "a%20b", &*"x".repeat(64), "a%00b"] {
        let answer = gateway.put(&format!("/v1/destinations/{bad}"), &json!({"url": "s3://lake"})).await;
        assert!(matches!(answer.status.as_u16(), 404 | 422), "{bad}: {answer:?}");
    }
    assert_eq!(gateway.get("/v1/destinations").await.json()["data"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_see_that_it_is_there_and_admins_where_and_nobody_its_secret() {
    let gateway = api().await;
    let bucket = Bucket::start();
    lake(&gateway, &bucket.destination("")).await;
    let token = gateway.token_for("crm", "growth", "exports:read connections:admin", &[]);
    let ask = async |method: Method, path: &str| {
        Answer::of(gateway.anonymous(method, path).bearer_auth(&token).json(&json!({"url": "s3://x"}))).await
    };
    let listed = ask(Method::GET, "/v1/destinations").await.json();
    let members: Vec<_> = listed["data"][0].as_object().unwrap().keys().cloned().collect();
    assert_eq!(members, ["name", "kind", "display_name", "health", "health_checked_at", "created_at", "updated_at"]);
    assert_eq!(ask(Method::GET, PATH).await.json(), listed["data"][0]);
    for (method, path) in [
        (Method::PUT, PATH.to_owned()),
        (Method::DELETE, PATH.to_owned()),
        (Method::POST, format!("{PATH}/check")),
        (Method::POST, format!("{PATH}/credentials")),
    ] {
        let problem = ask(method, &path).await.problem(403, "forbidden");
        assert!(problem["detail"].as_str().unwrap().contains("`destinations:admin`"), "{problem}");
    }
    for answer in [gateway.get(PATH).await, gateway.post(&format!("{PATH}/check"), &json!({})).await] {
        assert!(!answer.text().contains(SECRET) && !answer.text().contains(KEY_ID), "{answer:?}");
    }
    let row: String = sqlx::query_scalar("select d::text || encode(credentials, 'escape') from destination d")
        .fetch_one(&gateway.db)
        .await
        .unwrap();
    assert!(row.contains("lake") && !row.contains(SECRET) && !row.contains(KEY_ID), "{row}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_writes_reads_and_deletes() {
    let gateway = api().await;
    let check = async || gateway.post(&format!("{PATH}/check"), &json!({})).await.json();
    let bucket = Bucket::start();
    lake(&gateway, &bucket.destination("below")).await;
    let checked = check().await;
    assert_eq!(checked["health"], "healthy", "{checked:#}");
    assert_eq!((bucket.objects().len(), bucket.writes("")), (0, 1));

    let mut wrong = bucket.destination("below");
    let unhealthy = async |body: &Value, word: &str| {
        lake(&gateway, body).await;
        let checked = check().await;
        assert_eq!(checked["health"], "unhealthy", "{checked:#}");
        assert!(checked["health_detail"].as_str().unwrap().contains(word), "{checked:#}");
        assert!(!checked["health_detail"].as_str().unwrap().contains("127.0.0.1:"), "{checked:#}");
    };
    wrong["credentials"]["access_key_id"] = json!("another");
    unhealthy(&wrong, "refused its credentials").await;
    wrong = bucket.destination("below");
    wrong["url"] = json!("s3://another-bucket/below");
    unhealthy(&wrong, "is not there").await;
    wrong = bucket.destination("below");
    wrong["settings"]["checksum"] = json!("none");
    unhealthy(&wrong, "did not answer as it should").await;
    for (endpoint, word) in [
        ("https://169.254.169.254", "not a public address"),
        ("https://10.1.2.3", "not a public address"),
        ("http://store.example.com", "not https"),
    ] {
        wrong["settings"] = json!({"endpoint": endpoint});
        unhealthy(&wrong, word).await;
    }

    let folder = tempfile::tempdir().unwrap();
    gateway.delete(PATH).await;
    lake(&gateway, &of_folder(folder.path())).await;
    assert_eq!(check().await["health"], "healthy");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    lake(&gateway, &of_folder(&folder.path().join("not-mounted"))).await;
    assert_eq!(check().await["health"], "unhealthy");
    // A link that leads where nothing may be delivered.
    std::os::unix::fs::symlink(gateway.folder.path(), folder.path().join("link")).unwrap();
    lake(&gateway, &of_folder(&folder.path().join("link"))).await;
    let checked = check().await;
    assert!(checked["health_detail"].as_str().unwrap().contains("gateway's own"), "{checked:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_that_cannot_be_is_refused_at_once() {
    let gateway = api().await;
    let everybody = TestGateway::everybody(&gateway.connect("braze").await);
    let problem = gateway.post("/v1/exports", &to_lake(everybody.clone(), None)).await;
    assert_eq!(pointers(&problem.problem(422, "unknown_destination")), ["/delivery/destination"]);
    lake(&gateway, &json!({"url": "s3://lake"})).await;
    for bad in ["/a", "a/../b", "{nothing}", "{id", "a\nb", "{label.team}"] {
        let problem = gateway.post("/v1/exports", &to_lake(everybody.clone(), Some(bad))).await;
        assert_eq!(pointers(&problem.problem(422, "invalid_request")), ["/delivery/prefix"], "{bad}");
    }
    let mut body = everybody.clone();
    body["delivery"] = json!({"type": "destination"});
    let problem = gateway.post("/v1/exports", &body).await.problem(422, "invalid_request");
    assert_eq!(pointers(&problem), ["/delivery/destination"]);
    body["delivery"] = json!({"type": "destination", "destination": "lake", "colour": "red"});
    let problem = gateway.post("/v1/exports", &body).await.problem(422, "invalid_request");
    assert_eq!(pointers(&problem), ["/delivery/colour"]);

    let mut good = to_lake(everybody, Some("x/{label.team}/{tenant}/{vendor}/{id}"));
    good["labels"] = json!({"team": "a/b"});
    let planned = gateway.post("/v1/exports?validate_only=true", &good).await;
    assert_eq!(planned.status, StatusCode::OK, "{planned:?}");
    let export = gateway.submit(&good).await;
    let id = export["id"].as_str().unwrap();
    let expected = json!({
        "type": "destination", "destination": "lake", "prefix": format!("x/a%2Fb/growth/braze/{id}/"),
    });
    assert_eq!(export["delivery"], expected);
    gateway.delete(PATH).await.problem(409, "destination_in_use");
    gateway.post(&format!("{}/cancel", export_path(&export)), &json!({})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_format_is_delivered_as_it_is_kept() {
    let gateway = gateway().await;
    let (folder, account) = (tempfile::tempdir().unwrap(), gateway.connect("braze").await);
    lake(&gateway, &of_folder(folder.path())).await;
    let base = Url::from_directory_path(folder.path()).unwrap();
    for output in [
        json!({"format": "ndjson"}),
        json!({"format": "ndjson", "compression": "gzip"}),
        json!({"format": "csv"}),
        json!({"format": "parquet"}),
        json!({"format": "raw"}),
    ] {
        let mut body = to_lake(TestGateway::everybody(&account), None);
        body["output"] = output;
        let export = gateway.run(&body).await;
        assert_delivered(&gateway, &export, &files_of(folder.path()), base.as_str()).await;
        let id = export["id"].as_str().unwrap();
        let today = Utc::now().format("%Y-%m-%d");
        assert_eq!(export["delivery"]["prefix"], format!("audience_members/{today}/{id}/"));
    }
    let several = gateway.run(&two_files(account.name)).await;
    assert_eq!(several["result"]["files"].as_array().unwrap().len(), 2);
    assert_delivered(&gateway, &several, &files_of(folder.path()), base.as_str()).await;

    // The gateway's own life of a result has nothing to do with what was delivered.
    let delivered = files_of(folder.path());
    assert_eq!(gateway.delete(&export_path(&several)).await.status, StatusCode::NO_CONTENT);
    let deleted = gateway.get(&export_path(&several)).await.json();
    assert_eq!(deleted["result"]["availability"], "deleted");
    assert!(files_of(folder.path()) == delivered);
    assert_eq!(gateway.delete(PATH).await.status, StatusCode::NO_CONTENT);
    assert!(files_of(folder.path()) == delivered);
    // And a repeat needs the destination again.
    gateway.post(&format!("{}/retry", export_path(&several)), &json!({})).await.problem(422, "unknown_destination");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_gets_digests_media_types_and_locations() {
    let gateway = gateway().await;
    let (bucket, account) = (Bucket::start(), gateway.connect("braze").await);
    lake(&gateway, &bucket.destination("at/braze")).await;
    let export = gateway.run(&two_files(account.name)).await;
    let found = bucket.objects().into_iter();
    let found = found.map(|(key, bytes)| (key.strip_prefix("at/braze/").unwrap().to_owned(), bytes)).collect();
    assert_delivered(&gateway, &export, &found, "s3://lake/at/braze/").await;
    assert_eq!(bucket.writes(".json"), 3);
    let progress = &export["progress"];
    assert_eq!((&progress["files_done"], &progress["percent"]), (&json!(2), &json!(100)), "{export:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_larger_than_a_part_are_uploaded_in_parts_with_checksums() {
    let gateway = api().await;
    let bucket = Bucket::start();
    lake(&gateway, &bucket.destination("large")).await;
    let own = &gateway.running.as_ref().unwrap().gateway;
    let bytes: Vec<u8> = (0..20 << 20).map(|n: u32| u8::try_from(n % 251).unwrap()).collect();
    let mut writer = own.storage.writer("exports/large");
    writer.put(Bytes::from(bytes.clone())).await.unwrap();
    writer.finish().await.unwrap();
    let file = FileRecord {
        file_id: FileId::new(),
        export_id: ExportId::new(),
        name: "large.bin".into(),
        object_key: "exports/large".into(),
        media_type: "application/octet-stream".into(),
        compression: "none".into(),
        bytes: i64::try_from(bytes.len()).unwrap(),
        records: None,
        sha256: aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &bytes).as_ref().to_vec(),
        location: None,
    };
    let manifest = Manifest {
        export: file.export_id,
        connection: "c".into(),
        vendor: "v".into(),
        dataset: "d".into(),
        schema: None,
        format: "raw".into(),
        created_at: Utc::now(),
        data_as_of: None,
        finished_at: Utc::now(),
        records: None,
        bytes: file.bytes,
        files: vec![ManifestFile::of(&file)],
    };
    let sealed = store::destinations::sealed_by_name(&gateway.db, "lake").await.unwrap().unwrap();
    let open = own.open_destination(&sealed).await.unwrap();
    let target = Target { store: open.store, path: "x/".into(), folder: None };
    let files = [file];
    let first = deliver(&own.storage, &files, manifest.clone(), &target).await.unwrap();
    let again = deliver(&own.storage, &files, manifest, &target).await.unwrap();
    assert_eq!((first.copied, again.copied), (1, 0));
    assert!(bucket.objects()["large/x/large.bin"] == bytes);
    assert_eq!((bucket.writes("large.bin"), bucket.unfinished_uploads()), (3, 0), "20 MiB in parts of 8");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_delivery_to_the_same_folder_replaces_the_older_one() {
    let gateway = gateway().await;
    let (folder, account) = (tempfile::tempdir().unwrap(), gateway.connect("braze").await);
    lake(&gateway, &of_folder(folder.path())).await;
    let body = to_lake(TestGateway::everybody(&account), Some("latest"));
    let exports = futures_util::future::join_all((0..3).map(|_| gateway.submit(&body))).await;
    for export in &exports {
        assert_eq!(gateway.finished(export).await["state"], "succeeded");
    }
    let (manifest, files) = read(&files_of(folder.path()), "latest/");
    assert!(exports.iter().any(|export| export["id"] == manifest["export"]));
    assert_eq!(parse_lines(&files[0]).len(), 7);
    let last = gateway.run(&body).await;
    let (manifest, _) = read(&files_of(folder.path()), "latest/");
    assert_eq!(manifest["export"], last["id"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_delivery_to_the_same_folder_waits_for_the_first() {
    let gateway = gateway().await;
    let (bucket, account) = (Bucket::start(), gateway.connect("braze").await);
    lake(&gateway, &bucket.destination("")).await;
    let body = to_lake(TestGateway::everybody(&account), Some("latest"));
    bucket.hold(".ndjson");
    let first = gateway.submit(&body).await;
    bucket.is_waited_for().await;
    // The first is only delivered any more, so nobody joins it.
    let second = gateway.submit(&body).await;
    gateway.seen(&second, |export| export["waiting_reason"] == "destination_busy").await;
    assert_eq!(bucket.writes(".ndjson"), 1);
    bucket.release();
    let (first, second) = (gateway.finished(&first).await, gateway.finished(&second).await);
    assert_eq!((&first["state"], &second["state"]), (&json!("succeeded"), &json!("succeeded")));
    assert_eq!(read(&bucket.objects(), "latest/").0["export"], second["id"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_that_stays_away_fails_the_export_and_one_that_comes_back_does_not() {
    let gateway = gateway().await;
    let (folder, account) = (tempfile::tempdir().unwrap(), gateway.connect("braze").await);
    let mounted = folder.path().join("mounted-later");
    lake(&gateway, &of_folder(&mounted)).await;
    let body = to_lake(TestGateway::everybody(&account), None);
    let failed = gateway.submit(&body).await;
    gateway.seen(&failed, |export| export["attempt"].as_i64() > Some(9)).await;
    let silence = "update export set last_progress_at = now() - interval '1 day' where finished_at is null";
    sqlx::query(silence).execute(&gateway.db).await.unwrap();
    let failed = gateway.finished(&failed).await;
    assert_eq!(
        (&failed["state"], &failed["error"]["code"]),
        (&json!("failed"), &json!("delivery_failed")),
        "{failed:#}"
    );
    assert_eq!(failed["error"]["retryable"], true);
    assert!(gateway.named_files().await.is_empty());
    eventually("an empty store", async || gateway.stored_files().is_empty().then_some(())).await;
    assert_eq!(gateway.sandbox_state("braze").await["submissions"], 1, "the vendor is asked once");

    let export = gateway.submit(&body).await;
    let trying = |export: &Value| export["phase"] == "delivering" && export["attempt"].as_i64().unwrap() > 1;
    gateway.seen(&export, trying).await;
    std::fs::create_dir(&mounted).unwrap();
    let export = gateway.finished(&export).await;
    let base = Url::from_directory_path(&mounted).unwrap();
    assert_delivered(&gateway, &export, &files_of(&mounted), base.as_str()).await;
    assert_eq!(gateway.sandbox_state("braze").await["submissions"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_credentials_show_in_the_destinations_health_and_can_be_renewed_meanwhile() {
    let gateway = gateway().await;
    let (bucket, account) = (Bucket::start(), gateway.connect("braze").await);
    let mut body = bucket.destination("");
    body["credentials"]["access_key_id"] = json!("revoked");
    lake(&gateway, &body).await;
    let export = gateway.submit(&to_lake(TestGateway::everybody(&account), None)).await;
    eventually("an unhealthy destination", async || {
        (gateway.get(PATH).await.json()["health"] == "unhealthy").then_some(())
    })
    .await;
    let credentials = json!({"credentials": bucket.destination("")["credentials"]});
    gateway.post(&format!("{PATH}/credentials"), &credentials).await;
    assert_eq!(gateway.finished(&export).await["state"], "succeeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_can_be_cancelled_and_ends_at_the_deadline() {
    let gateway = gateway().await;
    let (bucket, account) = (Bucket::start(), gateway.connect("braze").await);
    lake(&gateway, &bucket.destination("")).await;
    bucket.hold("_manifest");
    let mut body = to_lake(TestGateway::everybody(&account), None);
    let cancelled = gateway.submit(&body).await;
    bucket.is_waited_for().await;
    gateway.delete(PATH).await.problem(409, "destination_in_use");
    let answer = gateway.post(&format!("{}/cancel", export_path(&cancelled)), &json!({})).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    assert_eq!(gateway.finished(&cancelled).await["state"], "cancelled");

    body["deadline"] = json!("PT5S");
    let late = gateway.submit(&body).await;
    let late = gateway.finished(&late).await;
    assert_eq!(late["error"]["code"], "deadline_exceeded", "{late:#}");
    assert!(bucket.objects().keys().all(|key| !key.ends_with("_manifest.json")));
    assert!(gateway.named_files().await.is_empty());
    // The store is tidied right after the end.
    eventually("an empty store", async || gateway.stored_files().is_empty().then_some(())).await;
    assert_eq!(gateway.delete(PATH).await.status, StatusCode::NO_CONTENT);
}

/// Kills the worker while it waits for the bucket to take `held`; another one goes on where it stopped.
async fn killed_before(held: &str, whole_before: usize) {
    let gateway = api().await;
    let (bucket, account) = (Bucket::start(), gateway.connect("braze").await);
    lake(&gateway, &bucket.destination("")).await;
    bucket.hold(held);
    let export = gateway.submit(&two_files(account.name)).await;
    let first = worker(&gateway, SHORT_LEASE);
    bucket.is_waited_for().await;
    first.kill().await;
    assert_eq!(bucket.objects().len(), whole_before);
    assert!(bucket.objects().keys().all(|key| !key.ends_with("_manifest.json")));
    let calls = gateway.sandbox_state("braze").await;
    bucket.release();
    let second = worker(&gateway, SHORT_LEASE);
    let export = gateway.finished(&export).await;
    assert_delivered(&gateway, &export, &bucket.objects(), "s3://lake/").await;
    assert_eq!(bucket.writes("00001.json"), 1, "what was there is not copied again");
    assert_eq!(gateway.sandbox_state("braze").await, calls, "nothing is asked of the vendor again");
    drop(second);
    let named = gateway.named_files().await;
    eventually("a tidy storage folder", async || (gateway.stored_files() == named).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_between_two_files() {
    killed_before("00002.json", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_between_the_last_file_and_the_manifest() {
    killed_before("_manifest.json", 2).await;
}

/// The manifest is there, and the gateway died before it could say so.
#[tokio::test(flavor = "multi_thread")]
async fn killed_between_the_manifest_and_the_success() {
    let mut gateway = api().await;
    let (bucket, account) = (Bucket::start(), gateway.connect("braze").await);
    lake(&gateway, &bucket.destination("")).await;
    let export = gateway.submit(&two_files(account.name)).await;
    // The success cannot be written.
    sqlx::query("alter table export add constraint dying check (state <> 'succeeded')")
        .execute(&gateway.db)
        .await
        .unwrap();
    let first = worker(&gateway, SHORT_LEASE);
    eventually("a manifest", async || bucket.objects().keys().any(|key| key.ends_with("_manifest.json")).then_some(()))
        .await;
    first.kill().await;
    sqlx::query("alter table export drop constraint dying").execute(&gateway.db).await.unwrap();
    let writes = bucket.writes(".json");
    gateway.stop().await;
    gateway.start_again(Roles { api: true, worker: true }).await;
    let export = gateway.finished(&export).await;
    assert_delivered(&gateway, &export, &bucket.objects(), "s3://lake/").await;
    assert_eq!(bucket.writes(".json"), writes, "nothing is written again");
    tokio::time::timeout(Duration::from_secs(10), gateway.stop()).await.unwrap();
}
