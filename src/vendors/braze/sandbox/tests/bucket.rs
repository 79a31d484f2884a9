//! Workspaces with their own cloud storage, the control group, and cancelling.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use super::*;
use crate::vendors::braze::sandbox::order::control_group;

/// A workspace with a bucket, of 25 people and ten in an object.
async fn with_bucket(names: &[&str], processing: Duration) -> (Api, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let api = Api::start(|config| {
        config.faults = faults(names);
        config.braze_bucket = Some(folder.path().to_owned());
        config.records_per_file = 10;
        config.processing = processing;
    })
    .await;
    (api, folder)
}

/// Every object below `folder`, oldest name first.
fn objects(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() { found.extend(objects(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// The objects of one export, found as the documents advise.
fn of_export(bucket: &Path, segment: &str, prefix: &str) -> Vec<PathBuf> {
    let mut found = objects(&bucket.join("segment-export").join(segment));
    found.retain(|path| path.to_string_lossy().contains(&format!("/{prefix}/")));
    found
}

async fn done(api: &Api) {
    until(|| async { (api.activity().running == 0).then_some(()) }).await;
}

#[tokio::test]
async fn a_bucket_workspace_gives_no_link_and_writes_objects_one_by_one() {
    let (api, bucket) = with_bucket(&[], Duration::from_millis(900)).await;
    let answer: Value = api.submit(&order(1)).await.json().await.unwrap();
    assert!(answer.get("url").is_none());
    let prefix = answer["object_prefix"].as_str().unwrap();
    for count in [1, 2] {
        until(|| async { (of_export(bucket.path(), &segment_id(1), prefix).len() == count).then_some(()) }).await;
    }
    done(&api).await;

    let found = of_export(bucket.path(), &segment_id(1), prefix);
    let mut lines: Vec<_> = found.iter().flat_map(|path| unpack(std::fs::read(path).unwrap()).1).collect();
    let mut expected: Vec<_> = (0..25).map(|index| api.person(index).braze(&asked())).collect();
    lines.sort();
    expected.sort();
    assert_eq!((found.len(), lines), (3, expected));
    assert_eq!(api.activity().violation_count, 0);
}

#[tokio::test]
async fn other_objects_lie_below_the_same_prefix() {
    let (api, bucket) = with_bucket(&[], Duration::ZERO).await;
    let answer: Value = api.submit(&order(1)).await.json().await.unwrap();
    done(&api).await;
    let prefix = answer["object_prefix"].as_str().unwrap();
    let all = objects(&bucket.path().join("segment-export").join(segment_id(1)));
    let others: Vec<_> = all.iter().filter(|path| !path.to_string_lossy().contains(prefix)).collect();
    assert_eq!((all.len(), others.len()), (5, 2));
    assert!(others.iter().any(|path| path.file_name().unwrap().to_string_lossy().starts_with("users-")));
    assert!(objects(&bucket.path().join("segment-export")).len() > all.len(), "another segment's exports");
}

#[tokio::test]
async fn the_url_of_a_bucket_workspace_is_missing_null_or_empty() {
    let (api, _bucket) = with_bucket(&["braze.bucket.null_url=1"], Duration::ZERO).await;
    for (fault, url) in [
        ("braze.bucket.null_url=1", Some(Value::Null)),
        ("braze.bucket.empty_url=1", Some(json!(""))),
        ("braze.callback.lost=1", None),
    ] {
        api.sandbox.world().set_faults(faults(&[fault]));
        let answer: Value = api.submit(&order(1)).await.json().await.unwrap();
        assert_eq!(answer.get("url").cloned(), url, "{fault}");
        done(&api).await;
    }
    api.sandbox.world().set_faults(faults(&["braze.bucket.off=1"]));
    assert!(!unpack(api.archive(1).await).1.is_empty(), "the mode can change between two exports");
}

#[tokio::test]
async fn a_link_is_no_proof_that_the_workspace_has_no_bucket() {
    let (api, bucket) = with_bucket(&["braze.bucket.link_too=1"], Duration::ZERO).await;
    let answer: Value = api.submit(&order(1)).await.json().await.unwrap();
    done(&api).await;
    assert_eq!(api.get(answer["url"].as_str().unwrap()).await.status(), 403);
    assert_eq!(of_export(bucket.path(), &segment_id(1), answer["object_prefix"].as_str().unwrap()).len(), 3);
}

#[tokio::test]
async fn the_last_object_can_come_long_after_the_others() {
    let processing = Duration::from_millis(600);
    let (api, bucket) = with_bucket(&["braze.bucket.late_object=1"], processing).await;
    let started = Instant::now();
    let answer: Value = api.submit(&order(1)).await.json().await.unwrap();
    let prefix = answer["object_prefix"].as_str().unwrap();
    until(|| async { (of_export(bucket.path(), &segment_id(1), prefix).len() == 3).then_some(()) }).await;
    assert!(started.elapsed() >= 2 * processing);
}

#[tokio::test]
async fn gzip_objects_are_gzip_and_the_date_folder_can_be_later() {
    let (api, bucket) = with_bucket(&["braze.bucket.later_date=1"], Duration::ZERO).await;
    let mut body = order(1);
    body["output_format"] = json!("gzip");
    let answer: Value = api.submit(&body).await.json().await.unwrap();
    done(&api).await;
    let found = of_export(bucket.path(), &segment_id(1), answer["object_prefix"].as_str().unwrap());
    assert_eq!(found.len(), 3);
    let today = Utc::now().date_naive().to_string();
    let mut lines = 0;
    for path in found {
        assert_eq!(path.extension().unwrap(), "gz");
        assert!(!path.to_string_lossy().contains(&today));
        let mut text = String::new();
        flate2::read::GzDecoder::new(std::fs::File::open(path).unwrap()).read_to_string(&mut text).unwrap();
        lines += text.lines().count();
    }
    assert_eq!(lines, 25);
}

#[tokio::test]
async fn nobody_gives_an_archive_without_members_or_no_object() {
    let (api, bucket) = with_bucket(&[], Duration::ZERO).await;
    for (fault, count) in [(&[][..], 1), (&["braze.bucket.nothing=1"], 0)] {
        api.sandbox.world().set_faults(faults(fault));
        let answer: Value = api.submit(&order(2)).await.json().await.unwrap();
        done(&api).await;
        let found = of_export(bucket.path(), &segment_id(2), answer["object_prefix"].as_str().unwrap());
        assert_eq!(found.len(), count);
        assert!(found.iter().all(|path| unpack(std::fs::read(path).unwrap()).1.is_empty()));
    }
}

#[tokio::test]
async fn a_cancelled_export_writes_no_more_objects() {
    let (api, bucket) = with_bucket(&[], Duration::from_secs(2)).await;
    let answer: Value = api.submit(&order(1)).await.json().await.unwrap();
    let prefix = answer["object_prefix"].as_str().unwrap();
    let count = || of_export(bucket.path(), &segment_id(1), prefix).len();
    until(|| async { (count() == 1).then_some(()) }).await;
    let cancelled = api.post("/export/segment/cancel", &json!({"segment_id": segment_id(1)})).send().await.unwrap();
    assert_eq!(cancelled.status(), 200);
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert!(count() < 3, "{}", count());
}

#[tokio::test]
async fn the_callback_of_a_bucket_workspace_has_no_url() {
    let received = Arc::new(Mutex::new(Vec::<Value>::new()));
    let inbox = web::Data::from(Arc::clone(&received));
    let callbacks = HttpServer::new(move || {
        App::new().app_data(inbox.clone()).default_service(web::post().to(
            |inbox: web::Data<Mutex<Vec<Value>>>, body: web::Json<Value>| async move {
                inbox.lock().unwrap().push(body.into_inner());
                HttpResponse::Ok().finish()
            },
        ))
    })
    .workers(1)
    .disable_signals()
    .bind(SocketAddr::from(([127, 0, 0, 1], 0)))
    .unwrap();
    let address = callbacks.addrs()[0];
    let callbacks = callbacks.run();
    let handle = callbacks.handle();
    tokio::spawn(callbacks);

    let (api, _bucket) = with_bucket(&[], Duration::ZERO).await;
    for (fault, with_url) in [(&[][..], false), (&["braze.callback.with_url=1"], true)] {
        api.sandbox.world().set_faults(faults(fault));
        let mut body = order(1);
        body["callback_endpoint"] = json!(format!("http://{address}/hook"));
        assert_eq!(api.submit(&body).await.status(), 201);
        let body = until(|| async { received.lock().unwrap().pop() }).await;
        assert_eq!((&body["success"], body.get("url").is_some()), (&json!(true), with_url));
    }
    handle.stop(false).await;
}

#[tokio::test]
async fn the_control_group_is_exported_with_its_own_fields_and_one_at_a_time() {
    let path = "/users/export/global_control_group";
    let api = Api::start(|config| config.processing = Duration::from_millis(400)).await;
    let body = json!({"fields_to_export": ["braze_id", "email"]});
    let answer = api.post(path, &body).send().await.unwrap();
    assert_eq!(answer.status(), 201);
    let answer: Value = answer.json().await.unwrap();
    assert_eq!(api.post(path, &body).send().await.unwrap().status(), 429);
    let file = api.ready(answer["url"].as_str().unwrap()).await;
    let (_, lines) = unpack(file.bytes().await.unwrap().into());
    assert_eq!(lines.len() as u64, control_group(api.sandbox.world()).unwrap().size());
    assert_eq!(api.activity().violation_count, 0);
    for field in order::NOT_OF_CONTROL_GROUP {
        let refused = api.post(path, &json!({"fields_to_export": [field]})).send().await.unwrap();
        assert_eq!(refused.status(), 400, "{field}");
    }
    let with_more = json!({"fields_to_export": ["email"], "custom_attributes_to_export": ["plan"]});
    assert_eq!(api.post(path, &with_more).send().await.unwrap().status(), 201);
    let violations = api.activity().violations;
    assert_eq!(violations.last().unwrap(), "`custom_attributes_to_export` is not documented");
}

#[tokio::test]
async fn the_control_groups_objects_lie_under_its_own_segment_id() {
    let (api, bucket) = with_bucket(&[], Duration::ZERO).await;
    let body = json!({"fields_to_export": ["braze_id"]});
    let answer = api.post("/users/export/global_control_group", &body).send().await.unwrap();
    let answer: Value = answer.json().await.unwrap();
    done(&api).await;
    let prefix = answer["object_prefix"].as_str().unwrap();
    assert_eq!(of_export(bucket.path(), GLOBAL_CONTROL_GROUP, prefix).len(), 1);
}

#[tokio::test]
async fn cancelling_can_need_the_rival_path_and_stops_what_runs() {
    let api = Api::start(|config| {
        config.processing = Duration::from_hours(1);
        config.faults = faults(&["braze.cancel.elsewhere"]);
    })
    .await;
    assert_eq!(api.submit(&order(1)).await.status(), 201);
    let body = json!({"segment_id": segment_id(1)});
    let cancel = |path: &'static str| api.post(path, &body).send();
    assert_eq!(cancel("/export/segment/cancel").await.unwrap().status(), 404);
    assert_eq!(api.activity().running, 1);
    assert_eq!(cancel("/users/export/segment/cancel").await.unwrap().status(), 200);
    assert_eq!((api.activity().running, api.activity().violation_count), (0, 0));

    api.sandbox.world().set_faults(faults(&["braze.cancel.forbidden=1"]));
    assert_eq!(cancel("/export/segment/cancel").await.unwrap().status(), 403);
    let unknown = api.post("/export/segment/cancel", &json!({"segment_id": "nothing"})).send().await.unwrap();
    assert_eq!((unknown.status().as_u16(), api.activity().violation_count), (400, 0));
}

#[tokio::test]
async fn a_queued_or_half_erroneous_answer_still_begins_an_export() {
    let api = Api::with(&["braze.segment.queued=1"]).await;
    let queued = api.submit(&order(1)).await;
    assert_eq!(queued.status(), 202);
    assert_eq!(queued.json::<Value>().await.unwrap(), json!({"message": "queued"}));
    api.sandbox.world().set_faults(faults(&["braze.segment.minor_errors=1"]));
    let answer: Value = api.submit(&order(3)).await.json().await.unwrap();
    assert!(answer["errors"][0].is_string() && answer["url"].is_string());
    assert_eq!(api.activity().submissions, 2);
}

#[tokio::test]
async fn a_link_gives_gzip_when_asked_and_the_workspace_does_so() {
    let api = Api::with(&["braze.file.gzip=1"]).await;
    let mut body = order(1);
    body["output_format"] = json!("gzip");
    for magic in [[0x1f, 0x8b], *b"PK"] {
        let answer: Value = api.submit(&body).await.json().await.unwrap();
        let file = api.ready(answer["url"].as_str().unwrap()).await.bytes().await.unwrap();
        assert_eq!(file[..2], magic);
    }
}
