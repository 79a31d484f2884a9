use futures_util::TryStreamExt;
use secrecy::ExposeSecret;
use serde_json::json;

use super::*;
use crate::{
    exports::problem::Code,
    vendors::{
        Next, Vendor,
        growingio::{connect, statistics},
        http::TRY_AGAIN,
        scripted::{Scripted, account, members, part, reply},
    },
};

const DOING: &str = r#"{"id":"9f1","status":"doing"}"#;

fn vendor(base: &str) -> Arc<dyn Vendor> {
    let settings = json!({"base_url": base, "ai": "0a1b4018cd954ec2", "project_uid": "nxog09md"});
    connect(account(settings, ("token", "token-of-test"), &[("gender", "gender_key")])).unwrap()
}

fn segment() -> ExportRequest {
    members(&json!({"kind": "segment", "id": "nP2lpkX9"}), &["user_id", "gender", "attributes.plan"])
}

async fn poll(server: &Scripted) -> Result<Progress, VendorError> {
    vendor(server.url.as_str()).poll(&segment(), &part(PART), &Exchanges::default()).await
}

#[test]
fn a_plan_asks_the_exporter_for_the_variables_it_needs() {
    let plan = vendor("https://gio.test").plan(&segment()).unwrap();
    assert_eq!(plan.work, Work::Parts(vec!["users".into()]));
    assert_eq!(
        plan.calls[0].path,
        "/v3/exporter/projects/nxog09md/segmentations/nP2lpkX9/users?expire=1440&parameters=gender_key%2Cplan"
    );
    let everything = vendor("https://gio.test").plan(&members(&json!({"kind": "segment", "id": "S"}), &[])).unwrap();
    assert_eq!(everything.warnings.len(), 2, "{:?}", everything.warnings);
    let ids = vendor("https://gio.test").plan(&members(&json!({"kind": "segment", "id": "S"}), &["user_id"])).unwrap();
    assert!(ids.calls[0].path.ends_with("/S/users?expire=1440") && ids.warnings.is_empty());
}

#[test]
fn what_cannot_be_exported_is_pointed_at() {
    let pointer = |request: &ExportRequest| vendor("https://gio.test").plan(request).unwrap_err()[0].pointer.clone();
    assert_eq!(pointer(&members(&json!({"kind": "tag", "id": "t"}), &[])), "/parameters/audience/kind");
    assert_eq!(pointer(&members(&json!({"kind": "segment", "id": ".."}), &[])), "/parameters/audience/id");
    let refresh = json!({"audience": {"kind": "segment", "id": "S"}, "refresh": true});
    let refresh = ExportRequest::parse(
        crate::exports::request::Dataset::AudienceMembers,
        &refresh,
        crate::exports::request::Output::default(),
    );
    assert_eq!(pointer(&refresh.unwrap()), "/parameters/refresh");
}

/// Quirks 1, 3 and 4: the link is asked for with a long life, and is nobody's identity.
#[tokio::test]
async fn the_exporter_is_asked_until_it_gives_links() {
    let link = "https://gta.growingio.test/buckets/a/20191212-20191225_%E6%B8%A0.csv?sign=R9y%2Fg%3D&expires=1";
    let done = json!({"id": "9f1", "status": "Done", "downloadLinks": [link, link], "errorMsg": ""}).to_string();
    let server = Scripted::start(vec![reply(200, &[], DOING), reply(200, &[], &done)]).await;
    assert!(matches!(poll(&server).await.unwrap(), Progress::Preparing { warning: None, .. }));
    let Progress::Ready(files) = poll(&server).await.unwrap() else { panic!("not ready") };
    assert_eq!(files.len(), 2);
    assert_eq!((files[0].locator.expose_secret(), &*files[0].tag, &*files[0].extension), (link, EXPORTED, "csv"));
    assert_eq!(server.lines()[0], server.lines()[1]);
}

#[tokio::test]
async fn an_empty_segment_has_no_links() {
    let server = Scripted::start(vec![reply(200, &[], r#"{"status":"done","downloadLinks":[]}"#)]).await;
    assert!(matches!(poll(&server).await.unwrap(), Progress::Ready(files) if files.is_empty()));
}

/// Quirk 13.
#[tokio::test]
async fn without_the_exporter_users_csv_comes_at_once() {
    for (text, tag) in [("cs1\tname\n12249\tGrowingIO", statistics::TABS), ("cs1,name\n1,a\n", statistics::COMMAS)] {
        let server = Scripted::start(vec![reply(404, &[], "Not Found"), reply(200, &[], text)]).await;
        let Progress::Data(data) = poll(&server).await.unwrap() else { panic!("no data") };
        assert_eq!((&*data.tag, &*data.extension), (tag, "csv"));
        let chunks: Vec<_> = data.download.body.try_collect().await.unwrap();
        assert_eq!(chunks.concat(), text.as_bytes());
        assert_eq!(server.lines()[1], "GET /projects/nxog09md/segmentations/nP2lpkX9/users.csv");
    }
}

/// Quirks 23 and 27.
#[tokio::test]
async fn every_other_answer_is_classified() {
    use Code::*;
    const SOON: Next = Next::TryAgain { after: None, at_most: Some(5) };
    let absent = || reply(404, &[], "");
    let timeout = r#"{"message":"Request timeout","errors":[{"code":"request_timeout","message":"x"}]}"#;
    let html = [("content-type", "text/html")];
    for (answers, code, next) in [
        (vec![absent(), absent()], VendorDataNotFound, Next::GiveUp),
        (vec![absent(), reply(500, &[], timeout)], VendorUnavailable, TRY_AGAIN),
        (vec![absent(), reply(200, &html, "<html>")], VendorMalformedData, SOON),
        (vec![absent(), reply(200, &[], r#"{"message":"x"}"#)], VendorMalformedData, SOON),
        (vec![reply(403, &[], "")], VendorCredentialsRejected, Next::GiveUp),
        (vec![reply(429, &[], "")], VendorUnavailable, Next::Wait { after: None }),
        (vec![reply(500, &[], "Internal Server Error")], VendorUnavailable, TRY_AGAIN),
        (vec![reply(200, &html, "<html>")], VendorMalformedData, SOON),
        (vec![reply(200, &[], "Internal Server Error")], VendorMalformedData, SOON),
        (vec![reply(200, &[], "{}")], VendorMalformedData, SOON),
        (vec![reply(200, &[], r#"{"status":"done"}"#)], VendorMalformedData, SOON),
        (vec![reply(200, &[], r#"{"status":"done","downloadLinks":[7]}"#)], VendorMalformedData, SOON),
        (
            vec![reply(200, &[], r#"{"status":"failed","errorMsg":"过期时间应小于7天"}"#)],
            VendorRejectedRequest,
            Next::GiveUp,
        ),
    ] {
        let server = Scripted::start(answers).await;
        let error = poll(&server).await.unwrap_err();
        assert_eq!((error.code, error.next), (code, next), "{}", error.message);
    }
    let server = Scripted::start(vec![reply(200, &[], r#"{"status":"paused"}"#)]).await;
    assert!(matches!(poll(&server).await.unwrap(), Progress::Preparing { warning: Some(_), .. }));
}

#[tokio::test]
async fn a_segment_that_is_not_listed_is_not_found() {
    let verify = async |answer| {
        let server = Scripted::start(vec![answer]).await;
        let verified = vendor(server.url.as_str()).verify(&segment(), &Exchanges::default()).await;
        assert_eq!(server.lines(), ["GET /projects/nxog09md/segmentations.json"]);
        verified
    };
    let listed = r#"[{"id":"other","name":"x"},{"id":"nP2lpkX9","name":"y","userType":"u","userNum":1}]"#;
    verify(reply(200, &[], listed)).await.unwrap();
    for unlisted in ["[]", r#"[{"id":"other"},{"name":"nP2lpkX9"}]"#] {
        let error = verify(reply(200, &[], unlisted)).await.unwrap_err();
        assert_eq!((error.code, error.next), (Code::VendorDataNotFound, Next::GiveUp));
    }
    for unknown in [reply(403, &[], ""), reply(500, &[], ""), reply(404, &[], ""), reply(200, &[], "[{")] {
        verify(unknown).await.unwrap();
    }
}
