use std::time::Duration;

use serde_json::json;

use super::*;
use crate::exports::request::{Dataset, Output};
use crate::vendors::{
    PlannedCall,
    http::TRY_AGAIN,
    scripted::{Reply, Scripted, account, cut, job, members, reply},
};

/// A web page instead of a file.
const WEB_PAGE: Next = Next::TryAgain { after: None, at_most: Some(5) };

pub fn braze(base: &Url) -> Arc<dyn Vendor> {
    connect(account(json!({ "base_url": base }), ("api_key", "key-of-test"), &[])).unwrap()
}

fn request() -> ExportRequest {
    members(&json!({"kind": "segment", "id": "s-1"}), &["user_id", "attributes.plan"])
}

fn ticket(url: &str) -> Ticket {
    Ticket(json!({ "url": url }).to_string().into())
}

fn file(url: &Url) -> VendorFile {
    VendorFile { locator: url.as_str().into(), extension: "zip".into(), tag: "users".into() }
}

#[test]
fn settings_that_cannot_work_are_pointed_at() {
    let refused = |settings| {
        let errors = connect(account(settings, ("api_key", "key-of-test"), &[])).err().unwrap();
        errors.into_iter().map(|error| error.pointer).collect::<Vec<_>>()
    };
    assert_eq!(refused(json!({})), ["/settings/base_url"]);
    assert_eq!(refused(json!({"base_url": "rest.iad-01.braze.com"})), ["/settings/base_url"]);
    let bucket = |bucket| refused(json!({"base_url": "https://x.test", "bucket": bucket}));
    assert_eq!(bucket(json!({"url": "ftp://b"})), ["/settings/bucket/url"]);
    assert_eq!(bucket(json!({"url": "s3://id:secret@b"})), ["/settings/bucket/url"]);
    assert_eq!(bucket(json!({"url": "s3://b", "endpoint": "file:///x"})), ["/settings/bucket/endpoint"]);
    assert_eq!(bucket(json!({"url": "s3://b", "secret": "x"})), ["/settings/bucket/secret"]);
    assert_eq!(refused(json!({"base_url": "https://x.test", "region": "eu"})), ["/settings/region"]);
    let errors =
        connect(account(json!({"base_url": "https://x.test"}), ("token", "x"), &[("shoe", "x")])).err().unwrap();
    let pointers: Vec<_> = errors.iter().map(|error| error.pointer.as_str()).collect();
    assert_eq!(pointers, ["/mapping/shoe", "/credentials/token", "/credentials/api_key"]);
}

#[test]
fn a_buckets_credentials_come_in_a_pair() {
    let settings = json!({"base_url": "https://x.test", "bucket": {"url": "s3://b"}});
    let mut half = account(settings, ("api_key", "key-of-test"), &[]);
    half.credentials.insert("bucket_access_key_id".to_owned(), "id".into());
    let errors = connect(half).err().unwrap();
    assert_eq!(
        errors.iter().map(|error| error.pointer.as_str()).collect::<Vec<_>>(),
        ["/credentials/bucket_secret_access_key"]
    );
}

#[test]
fn only_what_braze_has_is_planned() {
    let braze = braze(&Url::parse("https://rest.test").unwrap());
    let refused = |dataset, parameters| {
        let request = ExportRequest::parse(dataset, &parameters, Output::default()).unwrap();
        let errors = braze.plan(&request).unwrap_err();
        (errors[0].pointer.clone(), errors[0].code.clone())
    };
    let not_supported = |pointer: &str| (pointer.to_owned(), "not_supported".to_owned());
    let tag = json!({"audience": {"kind": "tag", "id": "x"}});
    assert_eq!(refused(Dataset::AudienceMembers, tag), not_supported("/parameters/audience/kind"));
    let refresh = json!({"audience": {"kind": "segment", "id": "x"}, "refresh": true});
    assert_eq!(refused(Dataset::AudienceMembers, refresh), not_supported("/parameters/refresh"));
    assert_eq!(refused(Dataset::Audiences, json!({"kind": "tag"})), not_supported("/parameters/kind"));
}

#[test]
fn the_control_group_has_one_export_at_a_time_and_no_id() {
    let plan = braze(&Url::parse("https://rest.test").unwrap())
        .plan(&members(&json!({"kind": "global_control_group"}), &["user_id", "attributes.plan"]))
        .unwrap();
    assert_eq!(plan.work, Work::Job { exclusive_key: Some("global_control_group".into()), max_concurrent: 50 });
    // Single attributes cannot be named there.
    let body = json!({"fields_to_export": ["braze_id", "custom_attributes", "external_id"]});
    let path = "/users/export/global_control_group".into();
    assert_eq!(plan.calls, [PlannedCall { method: "POST", path, body: Some(body) }]);
}

#[test]
fn a_plan_shows_the_call_and_holds_the_segment_alone() {
    let plan = braze(&Url::parse("https://rest.test").unwrap()).plan(&request()).unwrap();
    assert_eq!(plan.work, Work::Job { exclusive_key: Some("segment:s-1".into()), max_concurrent: 50 });
    let body = json!({
        "segment_id": "s-1",
        "fields_to_export": ["braze_id", "external_id"],
        "custom_attributes_to_export": ["plan"],
    });
    assert_eq!(plan.calls, [PlannedCall { method: "POST", path: "/users/export/segment".into(), body: Some(body) }]);
}

#[tokio::test]
async fn an_export_runs_from_submission_to_bytes() {
    let files = Scripted::start(vec![
        reply(403, &[], "<Error><Code>AccessDenied</Code></Error>"),
        reply(404, &[], ""),
        reply(206, &[], "P"),
        reply(200, &[], "PK"),
    ])
    .await;
    let link = files.url.join("a.zip?sig=1").unwrap();
    let accepted = json!({"message": "success", "object_prefix": "p-1", "url": link}).to_string();
    let api = Scripted::start(vec![reply(201, &[], &accepted)]).await;
    let (braze, request, exchanges) = (braze(&api.url.join("eu/").unwrap()), request(), Exchanges::default());

    let callback = Url::parse("https://gate.test/callbacks/x").unwrap();
    let submitted = braze.submit(&request, Some(&callback), false, &exchanges).await.unwrap();
    assert_eq!(submitted.reference.as_deref(), Some("p-1"));
    let sent = &api.seen()[0];
    assert_eq!(sent.line, "POST /eu/users/export/segment");
    assert_eq!(sent.headers["authorization"], "Bearer key-of-test");
    assert_eq!(
        sent.body,
        r#"{"segment_id":"s-1","callback_endpoint":"https://gate.test/callbacks/x","fields_to_export":["braze_id","external_id"],"custom_attributes_to_export":["plan"]}"#
    );

    for expected in ["403 not ready", "404 not ready"] {
        let progress = braze.poll(&request, &job(&submitted.ticket, false), &exchanges).await.unwrap();
        assert!(matches!(progress, Progress::Preparing { status, warning: None, .. } if status == expected));
    }
    let Progress::Ready(ready) = braze.poll(&request, &job(&submitted.ticket, false), &exchanges).await.unwrap() else {
        panic!("the archive is there")
    };
    assert_eq!((ready.len(), ready[0].extension.as_ref()), (1, "zip"));
    braze.open(&ready[0], &exchanges).await.unwrap();
    assert!(files.seen().iter().all(|seen| seen.line == "GET /a.zip?sig=1"));
    assert!(files.seen().iter().all(|seen| !seen.headers.contains_key("authorization")));
    assert_eq!(files.seen()[0].headers["range"], "bytes=0-0");
    assert!(!files.seen()[3].headers.contains_key("range"));

    let exchanges = exchanges.take();
    let decisions: Vec<_> = exchanges.iter().map(|exchange| exchange.decision.as_str()).collect();
    assert_eq!(decisions, ["accepted", "not ready yet", "not ready yet", "ready", "reading"]);
    assert!(exchanges.iter().all(|exchange| !format!("{exchange:?}").contains("sig=")));
}

#[tokio::test]
async fn a_lost_answer_is_never_simply_repeated() {
    for lost in [Reply::Bytes(Vec::new()), cut(200, "{\"message\":"), reply(502, &[], "")] {
        let api = Scripted::start(vec![lost, reply(429, &[], "")]).await;
        let braze = braze(&api.url);
        let error = braze.submit(&request(), None, false, &Exchanges::default()).await.unwrap_err();
        assert_eq!(error.next, Next::OutcomeUnknown);
        let error = braze.submit(&request(), None, true, &Exchanges::default()).await.unwrap_err();
        assert_eq!(error.next, Next::Wait { after: None });
        assert_eq!(api.seen().len(), 2);
    }
}

#[tokio::test]
async fn the_link_is_read_before_and_after_it_was_ready() {
    use Code::{VendorLinkExpired, VendorMalformedData, VendorUnavailable};
    const AGAIN: Next = TRY_AGAIN;
    let html = [("content-type", "text/html; charset=utf-8")];
    let slow = Next::TryAgain { after: Some(Duration::from_secs(9)), at_most: None };
    for (status, headers, polled, opened) in [
        (403, &[][..], None, Some((VendorLinkExpired, Next::GiveUp))),
        (404, &[], None, Some((VendorLinkExpired, Next::GiveUp))),
        (400, &[], Some((VendorLinkExpired, Next::GiveUp)), Some((VendorLinkExpired, Next::GiveUp))),
        (410, &[], Some((VendorLinkExpired, Next::GiveUp)), Some((VendorLinkExpired, Next::GiveUp))),
        (401, &[], Some((VendorLinkExpired, Next::GiveUp)), Some((VendorLinkExpired, Next::GiveUp))),
        (429, &[("retry-after", "9")], Some((VendorUnavailable, slow)), Some((VendorUnavailable, slow))),
        (503, &[], Some((VendorUnavailable, AGAIN)), Some((VendorUnavailable, AGAIN))),
        (500, &[], Some((VendorUnavailable, AGAIN)), Some((VendorUnavailable, AGAIN))),
        (200, &html, Some((VendorMalformedData, WEB_PAGE)), Some((VendorMalformedData, WEB_PAGE))),
        (200, &[], None, None),
        (204, &[], None, Some((VendorMalformedData, AGAIN))),
    ] {
        let server = Scripted::start(vec![reply(status, headers, ""), reply(status, headers, "")]).await;
        let (braze, exchanges) = (braze(&server.url), Exchanges::default());
        let progress = braze.poll(&request(), &job(&ticket(server.url.as_str()), false), &exchanges).await;
        assert_eq!(progress.err().map(|error| (error.code, error.next)), polled, "poll {status}");
        let download = braze.open(&file(&server.url), &exchanges).await;
        assert_eq!(download.err().map(|error| (error.code, error.next)), opened, "open {status}");
    }
    for status in [403, 404] {
        let server = Scripted::start(vec![reply(status, &[], "")]).await;
        let seen =
            braze(&server.url).poll(&request(), &job(&ticket(server.url.as_str()), true), &Exchanges::default()).await;
        assert_eq!(seen.unwrap_err().code, VendorLinkExpired, "{status} after the archive was there");
    }
    let empty = Scripted::start(vec![reply(416, &[], "")]).await;
    let progress =
        braze(&empty.url).poll(&request(), &job(&ticket(empty.url.as_str()), false), &Exchanges::default()).await;
    assert!(matches!(progress, Ok(Progress::Ready(_))));
}

#[tokio::test]
async fn a_link_into_the_operators_network_is_not_followed() {
    for link in ["http://169.254.169.254/latest", "http://10.0.0.1/x", "file:///etc/passwd", "https://u:p@127.0.0.1/"] {
        let body = json!({"message": "success", "url": link}).to_string();
        let api = Scripted::start(vec![reply(200, &[], &body)]).await;
        let exchanges = Exchanges::default();
        let error = braze(&api.url).submit(&request(), None, false, &exchanges).await.unwrap_err();
        assert_eq!((error.code, error.next), (Code::EgressBlocked, Next::GiveUp), "{link}");
        let error = braze(&api.url).poll(&request(), &job(&ticket(link), false), &exchanges).await.unwrap_err();
        assert_eq!(error.code, Code::EgressBlocked, "{link}");
    }
    let https = braze(&Url::parse("https://rest.test").unwrap());
    let error =
        https.poll(&request(), &job(&ticket("http://files.test/a"), false), &Exchanges::default()).await.unwrap_err();
    assert_eq!((error.code, error.message.as_str()), (Code::EgressBlocked, "Braze's download link is not https"));
    let api = Scripted::start(vec![reply(200, &[], r#"{"message":"success","url":"not a link"}"#)]).await;
    let error = braze(&api.url).submit(&request(), None, false, &Exchanges::default()).await.unwrap_err();
    assert_eq!(error.code, Code::VendorMalformedData);
}

#[tokio::test]
async fn a_check_lists_one_page_of_segments() {
    let api = Scripted::start(vec![reply(200, &[], "{}"), reply(401, &[], "{}"), reply(403, &[], "{}")]).await;
    let (braze, exchanges) = (braze(&api.url), Exchanges::default());
    braze.check(&exchanges).await.unwrap();
    assert_eq!(braze.check(&exchanges).await.unwrap_err().code, Code::VendorCredentialsRejected);
    braze.check(&exchanges).await.unwrap();
    assert_eq!(api.lines(), ["GET /segments/list?page=0"; 3]);
}

pub fn with_bucket(base: &Url, folder: &std::path::Path) -> Arc<dyn Vendor> {
    let url = Url::from_directory_path(folder).unwrap();
    let settings = json!({ "base_url": base, "bucket": {"url": url} });
    connect(account(settings, ("api_key", "key-of-test"), &[])).unwrap()
}
