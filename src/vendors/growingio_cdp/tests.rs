mod datasets;

use futures_util::TryStreamExt;
use serde_json::{Value, json};

use super::*;
use crate::vendors::{
    Ticket,
    http::TRY_AGAIN,
    scripted::{Reply, Scripted, account, job, members, reply},
};

fn cdp(base: &Url, space: Option<&str>) -> Arc<dyn Vendor> {
    let mut settings = json!({"base_url": base, "project_id": "WlGk4Daj"});
    if let Some(space) = space {
        settings["space_id"] = json!(space);
    }
    connect(account(settings, ("token", "token-of-test"), &[("gender", "usr_gender")])).unwrap()
}

fn tag(id: &str) -> ExportRequest {
    members(&json!({"kind": "tag", "id": id}), &["user_id", "gender", "attributes.tag_rfm"])
}

fn ticket() -> Ticket {
    Ticket(r#"{"id":"kqQeWeGr"}"#.into())
}

#[test]
fn settings_that_cannot_work_are_pointed_at() {
    let refused = |settings| {
        let errors = connect(account(settings, ("token", "token-of-test"), &[])).err().unwrap();
        errors.into_iter().map(|error| error.pointer).collect::<Vec<_>>()
    };
    assert_eq!(refused(json!({"base_url": "https://x.test"})), ["/settings/project_id"]);
    assert_eq!(refused(json!({"base_url": "https://x.test", "project_id": "p", "ai": 1})), ["/settings/ai"]);
    assert_eq!(refused(json!({"project_id": "p"})), ["/settings/base_url"]);
    assert_eq!(
        refused(json!({"base_url": "x", "project_id": "..", "space_id": ""})),
        ["/settings/project_id", "/settings/space_id", "/settings/base_url"]
    );
}

#[test]
fn the_path_follows_kind_and_space_and_is_encoded() {
    let base = Url::parse("https://cdp.test").unwrap();
    let path = |space, request: &ExportRequest| cdp(&base, space).plan(request).unwrap().calls.remove(0).path;
    let segment = members(&json!({"kind": "segment", "id": "seg/1"}), &[]);
    assert_eq!(
        path(Some("VKwkPmqX"), &tag("tag_rfm")),
        "/v1/api/projects/WlGk4Daj/spaces/VKwkPmqX/user_tags/tag_rfm/export_jobs"
    );
    assert_eq!(path(None, &tag("tag_$rfm")), "/v1/api/projects/WlGk4Daj/user_tags/tag_%24rfm/export_jobs");
    assert_eq!(
        path(Some("VKwkPmqX"), &segment),
        "/v1/api/projects/WlGk4Daj/spaces/VKwkPmqX/segment_profiles/seg%2F1/export_jobs"
    );
    assert_eq!(path(None, &segment), "/v1/api/projects/WlGk4Daj/segment_profiles/seg%2F1/export_jobs");
    for (audience, pointer) in [
        (json!({"kind": "global_control_group"}), "/parameters/audience/kind"),
        (json!({"kind": "tag", "id": ".."}), "/parameters/audience/id"),
    ] {
        assert_eq!(cdp(&base, None).plan(&members(&audience, &[])).unwrap_err()[0].pointer, pointer);
    }
}

#[test]
fn a_plan_warns_and_holds_nothing_alone() {
    let base = Url::parse("https://cdp.test").unwrap();
    let plan = cdp(&base, None).plan(&members(&json!({"kind": "tag", "id": "t"}), &["email", "user_id"])).unwrap();
    assert_eq!(plan.work, Work::Job { exclusive_key: None, max_concurrent: 10 });
    assert_eq!(plan.calls[0].body, Some(json!({"properties": ["id_$basic_userId"], "fileFormat": "json"})));
    assert!(plan.warnings[0].ends_with("for them: email"), "{:?}", plan.warnings);
}

/// Quirks 1, 2, 5 and 25: `FINISH`, `uris` that are encoded already, and an id that is kept before polling.
#[tokio::test]
async fn an_export_runs_from_submission_to_bytes() {
    let line = r#"{"gio_id":603542}"#;
    let server = Scripted::start(vec![
        reply(200, &[], r#"{"id":"kqQeWeGr","name":"DES-202205240136-5818534160000"}"#),
        reply(200, &[], r#"{"stage":"RUNNING"}"#),
        reply(404, &[], ""),
        reply(200, &[], r#"{"stage":"FINISH","uris":["%2Fjobs%2Fa_%E7%94%A8.json"]}"#),
        reply(200, &[], line),
    ])
    .await;
    let base = server.url.join("cdp").unwrap();
    let (cdp, request, exchanges) = (cdp(&base, Some("VKwkPmqX")), tag("tag_rfm"), Exchanges::default());
    let submitted = cdp.submit(&request, None, false, &exchanges).await.unwrap();
    assert_eq!(submitted.reference.as_deref(), Some("kqQeWeGr"));
    assert_eq!(
        server.seen()[0].body,
        r#"{"properties":["id_$basic_userId","usr_gender","tag_rfm"],"fileFormat":"json"}"#
    );
    let progress = cdp.poll(&request, &job(&submitted.ticket, false), &exchanges).await.unwrap();
    assert!(matches!(progress, Progress::Preparing { status, warning: None, .. } if status == "RUNNING"));
    let Progress::Ready(files) = cdp.poll(&request, &job(&submitted.ticket, false), &exchanges).await.unwrap() else {
        panic!("the file is there")
    };
    let download = cdp.open(&files[0], &exchanges).await.unwrap();
    assert_eq!(download.body.try_collect::<Vec<_>>().await.unwrap().concat(), line.as_bytes());
    assert_eq!(
        server.lines(),
        [
            "POST /cdp/v1/api/projects/WlGk4Daj/spaces/VKwkPmqX/user_tags/tag_rfm/export_jobs",
            "GET /cdp/v1/api/job/result/kqQeWeGr",
            "GET /cdp/v1/api/job/result/kqQeWeGr",
            "GET /cdp/v1/api/projects/WlGk4Daj/job/result/kqQeWeGr",
            "GET /cdp/download?file=%2Fjobs%2Fa_%E7%94%A8.json",
        ]
    );
    assert!(server.seen().iter().all(|seen| seen.headers["authorization"] == "Bearer token-of-test"));
    let decisions: Vec<_> = exchanges.take().into_iter().map(|exchange| exchange.decision).collect();
    assert_eq!(
        decisions,
        ["accepted", "preparing, stage RUNNING", "not here; asking below the project", "ready, files: 1", "reading"]
    );
}

#[tokio::test]
async fn a_job_unknown_at_both_addresses_is_submitted_again() {
    let server = Scripted::start(vec![reply(404, &[], ""), reply(404, &[], "")]).await;
    let error =
        cdp(&server.url, None).poll(&tag("t"), &job(&ticket(), false), &Exchanges::default()).await.unwrap_err();
    assert_eq!(error.next, Next::Resubmit);
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn a_lost_submission_is_known_as_lost_and_may_be_repeated() {
    let server = Scripted::start(vec![Reply::Bytes(Vec::new()), reply(200, &[], r#"{"id":"b"}"#)]).await;
    let (cdp, exchanges) = (cdp(&server.url, None), Exchanges::default());
    assert_eq!(cdp.submit(&tag("t"), None, false, &exchanges).await.unwrap_err().next, Next::OutcomeUnknown);
    assert!(cdp.submit(&tag("t"), None, true, &exchanges).await.is_ok());
}

#[tokio::test]
async fn every_answer_to_a_download_is_classified() {
    let html = [("content-type", "text/html")];
    for (status, headers, code, next) in [
        (404, &[][..], Code::VendorLinkExpired, Next::Resubmit),
        (410, &[], Code::VendorLinkExpired, Next::Resubmit),
        (401, &[], Code::VendorCredentialsRejected, Next::GiveUp),
        (403, &[], Code::VendorPermissionDenied, Next::GiveUp),
        (400, &[], Code::VendorRejectedRequest, Next::GiveUp),
        (500, &[], Code::VendorUnavailable, TRY_AGAIN),
        (200, &html, Code::VendorMalformedData, Next::TryAgain { after: None, at_most: Some(5) }),
        (206, &[], Code::VendorMalformedData, TRY_AGAIN),
    ] {
        let server = Scripted::start(vec![reply(status, headers, "bad token-of-test")]).await;
        let file = VendorFile { locator: "/a b".into(), extension: "json".into(), tag: "json".into() };
        let error = cdp(&server.url, None).open(&file, &Exchanges::default()).await.err().unwrap();
        assert_eq!((error.code, error.next, error.http_status), (code, next, Some(status)), "{status}");
        assert!(error.message.ends_with(": bad [redacted]"), "{}", error.message);
        assert_eq!(server.lines(), ["GET /download?file=%2Fa%20b"]);
    }
}

#[tokio::test]
async fn a_check_lists_one_tag() {
    let server = Scripted::start(vec![
        reply(200, &[], r#"{"values":[]}"#),
        reply(200, &[], "{}"),
        reply(401, &[], ""),
        reply(403, &[], ""),
        reply(404, &[], ""),
        reply(200, &[], "<html>"),
    ])
    .await;
    let exchanges = Exchanges::default();
    cdp(&server.url, None).check(&exchanges).await.unwrap();
    let cdp = cdp(&server.url, Some("VKwkPmqX"));
    cdp.check(&exchanges).await.unwrap();
    for code in [
        Code::VendorCredentialsRejected,
        Code::VendorPermissionDenied,
        Code::VendorRejectedRequest,
        Code::VendorRejectedRequest,
    ] {
        assert_eq!(cdp.check(&exchanges).await.unwrap_err().code, code);
    }
    assert_eq!(
        server.lines()[..2],
        [
            "GET /v1/api/projects/WlGk4Daj/user_tags?limit=1",
            "GET /v1/api/projects/WlGk4Daj/spaces/VKwkPmqX/user_tags?limit=1"
        ]
    );
}
