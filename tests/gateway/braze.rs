//! What only Braze has: workspaces that export to a bucket of their own, and exports that can be stopped there.

use std::time::Duration;

use headgate::vendors::braze::sandbox::segment_id;
use reqwest::StatusCode;
use serde_json::{Value, json};
use url::Url;

use crate::{
    conformance::{by_vendor_user_id, truth},
    support::{Setup, TestGateway, eventually},
};

/// A workspace that exports to a folder, which stands for a bucket, and a connection that can read it.
async fn with_bucket(folder: &std::path::Path, faults: &[&str]) -> (TestGateway, Value) {
    let mut setup = Setup::default();
    setup.sandbox.braze_bucket = Some(folder.to_owned());
    setup.sandbox.records_per_file = 2;
    let gateway = setup.start().await;
    let mut account = gateway.account("braze");
    account.body["settings"]["bucket"] = json!({"url": Url::from_directory_path(folder).unwrap(), "quiet_secs": 1});
    let answer = gateway.put(&format!("/v1/connections/{}", account.name), &account.body).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
    gateway.faults(faults).await;
    let body = TestGateway::everybody(&account);
    (gateway, body)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_with_a_bucket_of_its_own_yields_the_same_truth() {
    for faults in [
        &[][..],
        &["braze.bucket.null_url"],
        &["braze.bucket.empty_url"],
        &["braze.bucket.later_date"],
        &["braze.callback.with_url"],
        // A link that never works, beside the bucket that has the data.
        &["braze.bucket.link_too"],
        &["braze.file.gzip"],
        // The workspace's bucket was taken away between two exports: the same connection reads the link.
        &["braze.bucket.off"],
    ] {
        let folder = tempfile::tempdir().unwrap();
        let (gateway, body) = with_bucket(folder.path(), faults).await;
        let account = gateway.account("braze");
        // Twice, so that another export's objects lie in the same folder.
        for _ in 0..2 {
            let records = by_vendor_user_id(gateway.records(&body).await);
            assert_eq!(records, truth(&gateway, &account), "{faults:?}");
        }
        assert_eq!(gateway.sandbox_state("braze").await["violations"], json!([]), "{faults:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_stays_empty_ends_at_the_deadline_and_never_as_an_empty_success() {
    let folder = tempfile::tempdir().unwrap();
    let (gateway, mut body) = with_bucket(folder.path(), &["braze.bucket.nothing"]).await;
    body["parameters"]["audience"]["id"] = json!(segment_id(2));
    body["deadline"] = json!("PT4S");
    let ended = gateway.run(&body).await;
    assert_eq!(ended["error"]["code"], "deadline_exceeded", "{ended:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_with_a_bucket_that_the_connection_does_not_know_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let mut setup = Setup::default();
    setup.sandbox.braze_bucket = Some(folder.path().to_owned());
    let gateway = setup.start().await;
    let account = gateway.connect("braze").await;
    let ended = gateway.run(&TestGateway::everybody(&account)).await;
    assert_eq!(ended["state"], "failed", "{ended:#}");
    assert!(ended["error"]["detail"].as_str().unwrap().contains("bucket"), "{ended:#}");
}

/// Cancels an export that Braze is at; answers what was exchanged.
async fn cancelled_under(faults: &[&str]) -> (TestGateway, Vec<Value>) {
    let mut setup = Setup::default();
    setup.sandbox.processing = Duration::from_mins(1);
    let gateway = setup.start().await;
    let account = gateway.connect("braze").await;
    let export = gateway.submit(&TestGateway::everybody(&account)).await;
    gateway.seen(&export, |export| export["phase"] == "vendor_processing").await;
    gateway.faults(faults).await;
    let path = format!("/v1/exports/{}/cancel", export["id"].as_str().unwrap());
    assert!(gateway.post(&path, &json!({})).await.status.is_success());
    assert_eq!(gateway.finished(&export).await["state"], "cancelled");
    let cancels = gateway.attempts(&export).await.into_iter().filter(|attempt| attempt["action"] == "cancel");
    let cancels = cancels.collect();
    (gateway, cancels)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_export_is_stopped_at_braze_by_either_documented_path() {
    for (faults, statuses) in [(&[][..], &[200][..]), (&["braze.cancel.elsewhere"], &[404, 200])] {
        let (gateway, cancels) = cancelled_under(faults).await;
        let seen: Vec<_> = cancels.iter().map(|attempt| attempt["http_status"].as_u64().unwrap()).collect();
        assert_eq!(seen, statuses, "{cancels:#?}");
        eventually("Braze has stopped", async || (gateway.sandbox_state("braze").await["running"] == 0).then_some(()))
            .await;
        // The segment is free again: the next export of it comes through.
        gateway.faults(&[]).await;
        let account = gateway.account("braze");
        let next = gateway.submit(&TestGateway::everybody(&account)).await;
        gateway.seen(&next, |export| export["phase"] == "vendor_processing").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_may_not_cancel_leaves_braze_at_work_and_the_export_is_cancelled_all_the_same() {
    let (gateway, cancels) = cancelled_under(&["braze.cancel.forbidden"]).await;
    assert_eq!(cancels.len(), 1, "{cancels:#?}");
    assert_eq!(cancels[0]["http_status"], 403);
    assert_eq!(gateway.sandbox_state("braze").await["running"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_segment_is_refused_before_an_export_is_begun() {
    let gateway = crate::support::gateway().await;
    let account = gateway.connect("braze").await;
    let mut body = TestGateway::everybody(&account);
    body["parameters"]["audience"]["id"] = json!("00000000-0000-4000-8000-00000000dead");
    let ended = gateway.run(&body).await;
    assert_eq!(ended["error"]["code"], "vendor_data_not_found", "{ended:#}");
    assert_eq!(gateway.sandbox_state("braze").await["submissions"], 0);
}
