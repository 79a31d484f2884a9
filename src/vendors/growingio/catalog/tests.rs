use futures_util::TryStreamExt;
use serde_json::{Value, json};

use super::*;
use crate::{
    exports::request::{Dataset, Output},
    vendors::{
        Vendor,
        growingio::{connect, statistics},
        http::TRY_AGAIN,
        scripted::{Scripted, account, part, reply},
    },
};

const SEGMENTS: &str =
    r#"[{"id":"S1","name":"高活跃","userType":"u","userNum":1230,"updatedAt":"2016-08-03"},{"id":"S2","name":"b"}]"#;
const DASHBOARD: &str =
    r#"{"id":"D1","name":"看板","charts":[{"id":"C1","name":"图","createor":"王芳","createdAt":"2019-10-22"}]}"#;
const RULES: &str = "ruleId,eventName,eventType\nf2503720,元素_注册按钮,clck\n";

fn vendor(base: &str) -> Arc<dyn Vendor> {
    let settings = json!({"base_url": base, "ai": "0a1b4018cd954ec2", "project_uid": "nxog09md"});
    connect(account(settings, ("token", "token-of-test"), &[])).unwrap()
}

fn request(dataset: Dataset, parameters: &Value) -> ExportRequest {
    ExportRequest::parse(dataset, parameters, Output::default()).unwrap()
}

#[tokio::test]
async fn each_list_is_one_answer() {
    for (dataset, parameters, path, answer, tag) in [
        (Dataset::Audiences, json!({"kind": "segment"}), "segmentations.json", SEGMENTS, ""),
        (Dataset::Dashboards, json!({}), "dashboards.json", "[]", ""),
        (Dataset::Dashboards, json!({"id": "D/1"}), "dashboards/D%2F1.json", DASHBOARD, ""),
        (Dataset::EventRules, json!({}), "rules.csv", RULES, statistics::COMMAS),
        (Dataset::EventRules, json!({}), "rules.csv", "ruleId\teventName\n", statistics::TABS),
        (Dataset::EventRules, json!({}), "rules.csv", "", statistics::COMMAS),
    ] {
        let server = Scripted::start(vec![reply(200, &[], answer)]).await;
        let (vendor, request) = (vendor(server.url.as_str()), request(dataset, &parameters));
        let plan = vendor.plan(&request).unwrap();
        assert_eq!((plan.work, plan.warnings), (Work::Parts(vec!["list".into()]), Vec::new()));
        assert_eq!(plan.calls[0].path, format!("/projects/nxog09md/{path}"));
        let progress = vendor.poll(&request, &part(PART), &Exchanges::default()).await.unwrap();
        let Progress::Data(data) = progress else { panic!("{progress:?}") };
        assert_eq!(data.tag, tag);
        let chunks: Vec<_> = data.download.body.try_collect().await.unwrap();
        assert_eq!(chunks.concat(), answer.as_bytes());
        assert_eq!(server.lines(), [format!("GET /projects/nxog09md/{path}")]);
    }
}

#[test]
fn what_cannot_be_listed_is_pointed_at() {
    let vendor = vendor("https://gio.test");
    let tags = request(Dataset::Audiences, &json!({"kind": "tag"}));
    assert_eq!(vendor.plan(&tags).unwrap_err()[0].pointer, "/parameters/kind");
    let parent = request(Dataset::Dashboards, &json!({"id": ".."}));
    assert_eq!(vendor.plan(&parent).unwrap_err()[0].pointer, "/parameters/id");
    let details = request(Dataset::Audiences, &json!({"details": true}));
    assert_eq!(vendor.plan(&details).unwrap().warnings.len(), 1);
    let campaigns = request(Dataset::Campaigns, &json!({}));
    assert_eq!(vendor.plan(&campaigns).unwrap_err()[0].pointer, "/dataset");
}

/// Quirk 27.
#[tokio::test]
async fn every_other_answer_is_classified() {
    use Code::*;
    const SOON: Next = Next::TryAgain { after: None, at_most: Some(5) };
    let one = || request(Dataset::Dashboards, &json!({"id": "D"}));
    let all = || request(Dataset::Audiences, &json!({}));
    let rules = || request(Dataset::EventRules, &json!({}));
    let timeout = r#"{"message":"Request timeout","errors":[{"code":"request_timeout","message":"x"}]}"#;
    for (request, answer, code, next) in [
        (one(), reply(404, &[], ""), VendorDataNotFound, Next::GiveUp),
        (all(), reply(404, &[], ""), VendorDataNotFound, Next::GiveUp),
        (all(), reply(403, &[], ""), VendorCredentialsRejected, Next::GiveUp),
        (rules(), reply(500, &[], timeout), VendorUnavailable, TRY_AGAIN),
        (rules(), reply(503, &[], "<html>"), VendorUnavailable, TRY_AGAIN),
        (
            rules(),
            reply(429, &[("retry-after", "7")], ""),
            VendorUnavailable,
            Next::Wait { after: Some(std::time::Duration::from_secs(7)) },
        ),
        (rules(), reply(200, &[], "<html>"), VendorMalformedData, SOON),
        (rules(), reply(200, &[], r#"{"message":"x"}"#), VendorMalformedData, SOON),
        (all(), reply(200, &[], "Internal Server Error"), VendorMalformedData, SOON),
        (all(), reply(200, &[], r#"{"message":"x"}"#), VendorMalformedData, SOON),
        (all(), reply(200, &[], &SEGMENTS[..50]), VendorMalformedData, TRY_AGAIN),
        (one(), reply(200, &[], "[]"), VendorMalformedData, SOON),
        (one(), reply(200, &[], r#"{"id":"D"}"#), VendorMalformedData, SOON),
    ] {
        let server = Scripted::start(vec![answer]).await;
        let error = vendor(server.url.as_str()).poll(&request, &part(PART), &Exchanges::default()).await.unwrap_err();
        assert_eq!((error.code, error.next), (code, next), "{}", error.message);
    }
}

async fn shown(kind: CatalogKind, id: Option<&str>, status: u16, answer: &str) -> Result<Value, VendorError> {
    let server = Scripted::start(vec![reply(status, &[], answer)]).await;
    let query = CatalogQuery { kind, id: id.map(str::to_owned), after: None };
    let page = vendor(server.url.as_str()).catalog(&query, &Exchanges::default()).await?;
    assert_eq!(page.next, None);
    Ok(serde_json::to_value(page.rows).unwrap())
}

#[tokio::test]
async fn a_catalog_shows_the_rows_of_the_export() {
    let segments = shown(CatalogKind::Audiences, None, 200, SEGMENTS).await.unwrap();
    assert_eq!(
        segments[0],
        json!({"id": "S1", "kind": "segment", "name": "高活跃", "description": null, "size": 1230,
        "status": null, "created_at": null, "updated_at": "2016-08-02T16:00:00Z", "vendor": {"userType": "u"}})
    );
    assert_eq!(segments[1]["id"], "S2");
    let charts = shown(CatalogKind::Dashboards, Some("D1"), 200, DASHBOARD).await.unwrap();
    let vendor = json!({"creator": "王芳", "dashboard_id": "D1", "dashboard_name": "看板"});
    assert_eq!((charts[0]["id"].as_str(), &charts[0]["vendor"]), (Some("C1"), &vendor));
    assert_eq!(shown(CatalogKind::Dashboards, None, 200, " []").await.unwrap(), json!([]));
    let none = r#"{"id":"D1","name":"x","charts":null}"#;
    assert_eq!(shown(CatalogKind::Dashboards, Some("D1"), 200, none).await.unwrap(), json!([]));
}

#[tokio::test]
async fn a_large_catalog_is_read_whole() {
    let items: Vec<_> = (0..20_000).map(|number| json!({"id": number, "name": "高活跃用户", "userNum": 7})).collect();
    let list = json!(items).to_string();
    assert!(list.len() > 1024 * 1024 / 2);
    let rows = shown(CatalogKind::Audiences, None, 200, &list).await.unwrap();
    assert_eq!((rows.as_array().unwrap().len(), &rows[19_999]["id"]), (20_000, &json!("19999")));
}

#[tokio::test]
async fn what_a_catalog_does_not_have_is_not_found() {
    let missing = shown(CatalogKind::Dashboards, Some("X"), 404, "").await.unwrap_err();
    assert_eq!((missing.code, missing.next), (Code::NotFound, Next::GiveUp));
    assert_eq!(shown(CatalogKind::Campaigns, None, 200, "[]").await.unwrap_err().code, Code::NotFound);
    for odd in ["[{}]", "[7]", "{}"] {
        let error = shown(CatalogKind::Audiences, None, 200, odd).await.unwrap_err();
        assert_eq!(error.code, Code::VendorMalformedData, "{odd}");
    }
}
