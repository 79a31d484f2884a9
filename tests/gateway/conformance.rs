//! The same cases over every vendor in the registry: what an export yields.

use std::collections::BTreeMap;

use headgate::vendors::{registry::VENDORS, sandbox::DemoConnection};
use serde_json::{Value, json};

use crate::support::{TestGateway, gateway};

/// Records by the vendor's id of the user: no vendor promises an order.
pub fn by_vendor_user_id(records: Vec<Value>) -> BTreeMap<String, Value> {
    let count = records.len();
    let sorted: BTreeMap<_, _> = records
        .into_iter()
        .map(|record| (record["vendor_user_id"].as_str().expect("every record has the vendor's id").to_owned(), record))
        .collect();
    assert_eq!(sorted.len(), count, "a user came twice");
    sorted
}

/// What the sandbox knows of everybody in the account's audience.
pub fn truth(gateway: &TestGateway, account: &DemoConnection) -> BTreeMap<String, Value> {
    let world = gateway.sandbox.world();
    let everybody = world.audience(1).unwrap();
    by_vendor_user_id(everybody.members().map(|index| (account.truth)(&world.person(index))).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_vendor_yields_the_sandboxs_own_truth_in_every_column() {
    let gateway = gateway().await;
    for spec in VENDORS {
        let account = gateway.connect(spec.name).await;
        let records = by_vendor_user_id(gateway.records(&TestGateway::everybody(&account)).await);
        assert_eq!(records, truth(&gateway, &account), "{}", spec.name);
        let state = gateway.sandbox_state(spec.name).await;
        assert_eq!(state["violations"], json!([]), "{}", spec.name);
        assert_eq!(state["submissions"], 1, "{}", spec.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_request_gives_the_same_columns_on_every_vendor() {
    let gateway = gateway().await;
    for spec in VENDORS {
        let account = gateway.connect(spec.name).await;
        let mut body = TestGateway::everybody(&account);
        body["parameters"]["fields"] = json!(account.fields);
        let truth = truth(&gateway, &account);
        for (id, record) in by_vendor_user_id(gateway.records(&body).await) {
            let columns: Vec<_> = record.as_object().unwrap().keys().map(String::as_str).collect();
            assert_eq!(columns, account.fields, "{}", spec.name);
            assert!(columns.iter().all(|column| record[column] == truth[&id][column]), "{record:#}");
        }
    }
}
