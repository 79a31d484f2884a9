use serde_json::json;
use url::Url;

use super::*;
use crate::exports::request::{Dataset, ExportRequest, Output};
use crate::vendors::{
    Work,
    braze::tests::braze,
    scripted::{Scripted, part, reply},
};

fn request(identifiers: &Value, fields: &[&str]) -> ExportRequest {
    let parameters = json!({"identifiers": identifiers, "fields": fields});
    ExportRequest::parse(Dataset::UserProfiles, &parameters, Output::default()).unwrap()
}

fn user(id: impl Into<String>) -> Value {
    json!({"type": "user_id", "value": id.into()})
}

#[test]
fn fifty_ids_share_a_call_and_others_have_one_each() {
    let mut identifiers: Vec<Value> = (0..60).map(|number| user(format!("u{number}"))).collect();
    identifiers.insert(2, json!({"type": "email", "value": "a@example.test"}));
    identifiers.push(json!({"type": "alias", "value": "n", "label": "l"}));
    identifiers.push(user("u0"));
    identifiers.push(json!({"type": "device_id", "value": "d"}));
    let request = request(&json!(identifiers), &["user_id"]);
    let plan = braze(&Url::parse("https://rest.test").unwrap()).plan(&request).unwrap();
    let Work::Parts(parts) = plan.work else { panic!("parts") };
    assert_eq!(parts, ["2", "0-1,3-50", "63", "51-61"]);
    let bodies: Vec<_> = plan.calls.into_iter().map(|call| call.body.unwrap()).collect();
    let fields = json!(["braze_id", "external_id"]);
    assert_eq!(bodies[0], json!({"email_address": "a@example.test", "fields_to_export": fields}));
    assert_eq!(bodies[1]["external_ids"].as_array().unwrap().len(), 50);
    assert_eq!(bodies[2], json!({"device_id": "d", "fields_to_export": fields}));
    assert_eq!(bodies[3]["user_aliases"], json!([{"alias_name": "n", "alias_label": "l"}]));
    assert_eq!(bodies[3]["external_ids"].as_array().unwrap().len(), 10);
}

#[test]
fn a_part_names_nobody() {
    let request = request(&json!([{"type": "email", "value": "secret@example.test"}, user("someone")]), &[]);
    let plan = braze(&Url::parse("https://rest.test").unwrap()).plan(&request).unwrap();
    assert_eq!(plan.work, Work::Parts(vec!["0".into(), "1".into()]));
}

#[test]
fn the_faster_budget_is_for_requests_without_received_campaigns() {
    let ask = |fields: &[&'static str]| Ask { fields: fields.to_vec(), ..Ask::default() };
    assert_eq!(endpoint(&ask(&["braze_id", "email"])).pool, Pool::FewFields);
    for slow in SLOW {
        assert_eq!(endpoint(&ask(&["braze_id", slow])).pool, Pool::Profiles);
    }
}

#[tokio::test]
async fn an_answer_of_any_size_is_streamed() {
    let record = format!(r#"{{"braze_id":"b","custom_attributes":{{"text":"{}"}}}}"#, "x".repeat(100_000));
    let body = format!(r#"{{"message":"success","users":[{}]}}"#, vec![record; 40].join(","));
    let api = Scripted::start(vec![reply(201, &[], &body)]).await;
    let request = request(&json!([user("u")]), &[]);
    let progress = braze(&api.url).poll(&request, &part("0"), &Exchanges::default()).await.unwrap();
    let Progress::Data(data) = progress else { panic!("data") };
    assert_eq!(data.download.length, Some(body.len() as u64));
    let chunks: Vec<_> = futures_util::TryStreamExt::try_collect(data.download.body).await.unwrap();
    assert!(chunks.concat() == body.as_bytes());
}

#[tokio::test]
async fn a_part_of_another_request_is_refused() {
    let api = Scripted::start(vec![]).await;
    let request = request(&json!([user("u")]), &[]);
    for odd in ["1", "0-1", "x", ""] {
        let error = braze(&api.url).poll(&request, &part(odd), &Exchanges::default()).await.unwrap_err();
        assert_eq!(error.code, Code::Internal, "{odd}");
    }
}
