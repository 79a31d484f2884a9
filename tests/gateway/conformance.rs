//! The same cases over every vendor in the registry and every dataset its sandbox can show: what an export yields, and
//! what it makes of everything that can go wrong. A new vendor gets all of it by being in the registry.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;
use headgate::{
    startup::Roles,
    vendors::{
        VendorSpec,
        registry::VENDORS,
        sandbox::{DemoConnection, DemoDataset, Trouble},
    },
};
use serde_json::{Value, json};

use crate::support::{Setup, TestGateway, eventually, gateway, parse_lines};

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

/// On every vendor the same words come out, though each has its own for the same thing.
#[tokio::test(flavor = "multi_thread")]
async fn a_value_map_translates_the_same_column_on_every_vendor() {
    let gateway = gateway().await;
    for spec in VENDORS {
        let mut account = gateway.account(spec.name);
        // Without a mapping the vendor's own name of it is ours: then it is mapped onto itself.
        let source = account.body["mapping"]["gender"].as_str().unwrap_or("gender").to_owned();
        let truth = truth(&gateway, &account);
        let genders: BTreeSet<_> = truth.values().filter_map(|record| record["gender"].as_str()).collect();
        assert!(genders.len() > 1, "{}: {genders:?}", spec.name);
        // All but the last, which stays as it is.
        let values: BTreeMap<_, _> =
            genders.iter().rev().skip(1).map(|gender| (*gender, format!("{gender} in words"))).collect();
        let feed = json!({"from": source, "values": values});
        account.body["mapping"]["gender"] = feed.clone();
        account.body["mapping"]["attributes.sex"] = feed.clone();
        let answer = gateway.put(&format!("/v1/connections/{}", account.name), &account.body).await;
        assert!(answer.status.is_success(), "{answer:?}");
        assert_eq!(answer.json()["mapping"]["gender"], feed, "{}", spec.name);

        let mut body = TestGateway::everybody(&account);
        body["parameters"]["fields"] = json!(["vendor_user_id", "gender", "attributes.sex"]);
        let records = by_vendor_user_id(gateway.records(&body).await);
        assert_eq!(records.len(), truth.len(), "{}", spec.name);
        let mut translated = 0;
        for (id, record) in records {
            let theirs = truth[&id]["gender"].as_str();
            let ours = theirs.map(|theirs| values.get(theirs).map_or(theirs, String::as_str));
            translated += u32::from(ours != theirs);
            assert_eq!(record["gender"].as_str(), ours, "{} {record:#}", spec.name);
            assert_eq!(record["attributes"]["sex"].as_str(), ours, "{} {record:#}", spec.name);
        }
        assert!(translated > 0, "{}", spec.name);
    }
}

/// One dataset of one vendor, on a gateway of the vendor's own.
pub struct Case<'a> {
    pub gateway: &'a TestGateway,
    pub account: &'a DemoConnection,
    pub dataset: &'a DemoDataset,
}

impl Case<'_> {
    fn body(&self, parameters: &Value) -> Value {
        json!({
            "connection": self.account.name,
            "dataset": self.dataset.dataset,
            "parameters": parameters,
        })
    }

    /// The request that has records.
    pub fn usual(&self) -> Value {
        self.body(&(self.dataset.parameters)(self.gateway.sandbox.world()))
    }

    fn truth(&self) -> Vec<String> {
        sorted((self.dataset.truth)(self.gateway.sandbox.world()))
    }

    /// For messages.
    pub fn name(&self) -> String {
        format!("{} {} {}", self.account.vendor, self.dataset.dataset.as_str(), self.dataset.name)
    }

    /// Asserts that a succeeded export has exactly the sandbox's truth.
    async fn has_truth(&self, export: &Value, why: &str) {
        assert_eq!(export["state"], "succeeded", "{} {why}: {export:#}", self.name());
        let records = parse_lines(&self.gateway.download(export).await);
        assert_eq!(export["result"]["records"], records.len(), "{}", self.name());
        assert_eq!(export["result"]["partial"], false);
        let (got, wanted) = (sorted(records), self.truth());
        let only_in = |rows: &[String], others: &[String]| {
            let alone = rows.iter().filter(|row| others.binary_search(row).is_err());
            alone.take(3).cloned().collect::<Vec<_>>()
        };
        let (missing, odd) = (only_in(&wanted, &got), only_in(&got, &wanted));
        assert!(missing.is_empty() && odd.is_empty(), "{} {why}:\nmissing {missing:#?}\nodd {odd:#?}", self.name());
        assert_eq!(got.len(), wanted.len(), "{} {why}: a row came twice or not at all", self.name());
    }
}

/// Rows as text, in an order of our own: no vendor promises one, neither of rows nor of the members of an object column.
fn sorted(rows: Vec<Value>) -> Vec<String> {
    let row = |row: Value| {
        let Value::Object(columns) = row else { panic!("a row is an object") };
        let columns = columns.into_iter().map(|(name, mut value)| {
            value.sort_all_objects();
            format!("{name}: {value}")
        });
        columns.collect::<Vec<_>>().join(", ")
    };
    let mut rows: Vec<_> = rows.into_iter().map(row).collect();
    rows.sort();
    rows
}

/// Calls a second where a vendor documents very few: scaled in the sandbox and the connection together, because the
/// pace is not what these tests are about.
const CALLS_PER_SECOND: f64 = 300.0;

/// A gateway with a connection to the sandbox's account.
async fn connected(mut setup: Setup, spec: &VendorSpec) -> (TestGateway, DemoConnection) {
    setup.sandbox.requests_per_second = CALLS_PER_SECOND;
    let gateway = setup.start().await;
    let mut account = gateway.account(spec.name);
    if (spec.settings_schema)()["properties"]["requests_per_second"].is_object() {
        account.body["settings"]["requests_per_second"] = json!(CALLS_PER_SECOND);
    }
    let answer = gateway.put(&format!("/v1/connections/{}", account.name), &account.body).await;
    assert!(answer.status.is_success(), "{answer:?}");
    (gateway, account)
}

/// Runs `check` over every dataset of every vendor; the vendors side by side, each on a gateway of its own.
pub async fn over_all(setup: impl Fn() -> Setup, check: impl AsyncFn(Case<'_>)) {
    let vendors = VENDORS.iter().map(async |spec: &&VendorSpec| {
        let (gateway, account) = connected(setup(), spec).await;
        assert!(!account.datasets.is_empty(), "{}", spec.name);
        for dataset in account.datasets {
            check(Case { gateway: &gateway, account: &account, dataset }).await;
        }
        let state = gateway.sandbox_state(spec.name).await;
        assert_eq!(state["violations"], json!([]), "{} was asked what it does not document", spec.name);
    });
    join_all(vendors).await;
}

#[test]
fn every_offered_dataset_is_shown_by_its_sandbox() {
    let anywhere = "http://127.0.0.1/".parse().unwrap();
    for spec in VENDORS {
        let account = (spec.sandbox_connection)(&anywhere);
        for offered in spec.datasets {
            let shown = account.datasets.iter().any(|shown| shown.dataset == offered.dataset);
            assert!(shown, "{} {}", spec.name, offered.dataset.as_str());
        }
        for shown in account.datasets {
            let offered = spec.datasets.iter().any(|offered| offered.dataset == shown.dataset);
            assert!(offered, "{} {}", spec.name, shown.dataset.as_str());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_dataset_of_every_vendor_yields_the_sandboxs_own_truth() {
    over_all(Setup::default, async |case| {
        let planned = case.gateway.post("/v1/exports?validate_only=true", &case.usual()).await;
        assert_eq!(planned.status, 200, "{}: {planned:?}", case.name());
        assert!(!planned.json()["calls"].as_array().unwrap().is_empty(), "{}", case.name());
        let export = case.gateway.run(&case.usual()).await;
        case.has_truth(&export, "as usual").await;
        assert!(!case.gateway.attempts(&export).await.is_empty(), "{}", case.name());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_data_is_a_success_with_no_records() {
    over_all(Setup::default, async |case| {
        let Some(empty) = case.dataset.empty else { return };
        let export = case.gateway.run(&case.body(&empty(case.gateway.sandbox.world()))).await;
        assert_eq!(export["state"], "succeeded", "{}: {export:#}", case.name());
        assert_eq!(export["result"]["records"], 0, "{}: {export:#}", case.name());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_vendors_own_records_and_bytes_come_out_where_they_are_asked_for() {
    over_all(Setup::default, async |case| {
        let mut body = case.usual();
        body["output"] = json!({"schema": "vendor"});
        let vendor = case.gateway.run(&body).await;
        assert_eq!(vendor["state"], "succeeded", "{}: {vendor:#}", case.name());
        assert!(vendor["result"]["records"].as_i64().unwrap() > 0, "{}: {vendor:#}", case.name());
        let records = parse_lines(&case.gateway.download(&vendor).await);
        assert!(records.iter().all(|record| record.is_object() || record.is_string()), "{}", case.name());
        assert_eq!(vendor["result"]["schema"], Value::Null);

        body["output"] = json!({"format": "raw"});
        let raw = case.gateway.run(&body).await;
        assert_eq!(raw["state"], "succeeded", "{}: {raw:#}", case.name());
        assert!(raw["result"]["bytes"].as_i64().unwrap() > 0, "{}: {raw:#}", case.name());
    })
    .await;
}

/// How an export may end under a trouble.
enum End {
    /// Only well.
    Well,
    /// Only badly, with one of these codes.
    Badly(&'static [&'static str]),
    /// Well, or badly with one of these codes: what helps is the vendor's to say.
    Either(&'static [&'static str]),
}

/// The same for every vendor. `times` is how often the fault shows; none is always.
fn expected(trouble: Trouble) -> (Option<u32>, End) {
    match trouble {
        Trouble::Prepares | Trouble::RateLimited | Trouble::Busy | Trouble::ServerError => (Some(2), End::Well),
        Trouble::UnknownStatus | Trouble::CutOff => (Some(1), End::Well),
        // What looks like an outage is waited out, to the deadline.
        Trouble::Partial => (None, End::Badly(&["vendor_malformed_data", "deadline_exceeded"])),
        Trouble::Malformed => {
            (None, End::Badly(&["vendor_malformed_data", "vendor_rejected_request", "deadline_exceeded"]))
        }
        Trouble::Unauthorized => (None, End::Badly(&["vendor_credentials_rejected"])),
        Trouble::Forbidden => (None, End::Badly(&["vendor_permission_denied", "vendor_credentials_rejected"])),
        Trouble::ExpiredLink => (Some(1), End::Either(&["vendor_link_expired"])),
        Trouble::Slow => (None, End::Either(&[])),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_trouble_of_every_dataset_ends_as_it_must() {
    over_all(Setup::default, async |case| {
        for (trouble, fault) in case.dataset.troubles {
            if *trouble == Trouble::Slow {
                continue;
            }
            let (times, end) = expected(*trouble);
            let shown = times.map_or_else(|| (*fault).to_owned(), |times| format!("{fault}={times}"));
            case.gateway.faults(&[&shown]).await;
            let mut body = case.usual();
            if matches!(end, End::Badly(codes) if codes.contains(&"deadline_exceeded")) {
                body["deadline"] = json!("PT4S");
            }
            let export = case.gateway.run(&body).await;
            let left = case.gateway.sandbox.world().faults();
            case.gateway.faults(&[]).await;
            let why = format!("{trouble:?} by {shown}");
            let failed = export["state"] == "failed";
            let code = export["error"]["code"].as_str().unwrap_or_default().to_owned();
            match end {
                End::Badly(codes) => {
                    assert!(failed && codes.contains(&code.as_str()), "{} {why}: {export:#}", case.name());
                }
                End::Either(codes) if failed => {
                    assert!(codes.contains(&code.as_str()), "{} {why}: {export:#}", case.name());
                }
                End::Well | End::Either(_) => case.has_truth(&export, &why).await,
            }
            assert!(times.is_none() || left.is_empty(), "{} {why}: the fault was not met", case.name());
            if *trouble == Trouble::UnknownStatus {
                assert_ne!(export["warnings"], json!([]), "{} {why}", case.name());
            }
            if *trouble == Trouble::Unauthorized {
                let path = format!("/v1/connections/{}", case.account.name);
                assert_eq!(case.gateway.get(&path).await.json()["health"], "unhealthy", "{} {why}", case.name());
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_can_be_cancelled_while_the_vendor_drips() {
    over_all(Setup::default, async |case| {
        let Some((_, fault)) = case.dataset.troubles.iter().find(|(trouble, _)| *trouble == Trouble::Slow) else {
            return;
        };
        case.gateway.faults(&[&format!("{fault}=50")]).await;
        let left = || format!("{:?}", case.gateway.sandbox.world().faults());
        let all = left();
        let export = case.gateway.submit(&case.usual()).await;
        eventually("an answer that drips", async || (left() != all).then_some(())).await;
        let path = format!("/v1/exports/{}/cancel", export["id"].as_str().unwrap());
        let answer = case.gateway.post(&path, &json!({})).await;
        assert!(answer.status.is_success(), "{}: {answer:?}", case.name());
        let ended = case.gateway.finished(&export).await;
        assert_eq!(ended["state"], "cancelled", "{}: {ended:#}", case.name());
        case.gateway.faults(&[]).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_survives_a_restart_in_every_phase() {
    let vendors = VENDORS.iter().map(async |spec: &&VendorSpec| {
        let (mut gateway, account) = connected(Setup::default(), spec).await;
        for dataset in account.datasets {
            for phase in ["submitting", "vendor_processing", "downloading", "transforming"] {
                let case = Case { gateway: &gateway, account: &account, dataset };
                let export = gateway.submit(&case.usual()).await;
                let path = format!("/v1/exports/{}", export["id"].as_str().unwrap());
                // A phase may pass unseen: then the export is simply further.
                for _ in 0..50 {
                    let seen = gateway.get(&path).await.json();
                    if seen["phase"] == phase || !seen["finished_at"].is_null() {
                        break;
                    }
                }
                gateway.stop().await;
                gateway.start_again(Roles { api: true, worker: true }).await;
                let case = Case { gateway: &gateway, account: &account, dataset };
                let ended = gateway.finished(&export).await;
                case.has_truth(&ended, &format!("restarted in {phase}")).await;
            }
        }
    });
    join_all(vendors).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn catalogs_list_the_ids_that_exports_want_and_quotas_tell_the_budgets() {
    let gateway = gateway().await;
    for spec in VENDORS {
        let account = gateway.connect(spec.name).await;
        for kind in spec.catalogs {
            let kind = serde_json::to_value(kind).unwrap();
            let path = format!("/v1/connections/{}/catalog/{}", account.name, kind.as_str().unwrap());
            let mut ids = Vec::new();
            let mut token = String::new();
            loop {
                let page = gateway.get(&format!("{path}?page_size=30&page_token={token}")).await;
                assert_eq!(page.status, 200, "{path}: {page:?}");
                let page = page.json();
                let rows = page["data"].as_array().unwrap();
                assert!(rows.len() <= 30, "{path}");
                ids.extend(rows.iter().map(|row| format!("{} {}", row["kind"], row["id"])));
                token = page["next_page_token"].as_str().unwrap().to_owned();
                if token.is_empty() {
                    break;
                }
            }
            let count = ids.len();
            assert!(count > 0, "{path}");
            ids.sort();
            ids.dedup();
            assert_eq!(ids.len(), count, "{path} lists something twice");
            let audience = format!("{} {}", account.audience["kind"], account.audience["id"]);
            assert!(kind != "audiences" || ids.contains(&audience), "{path} lacks {audience}");
        }
        let quota = gateway.get(&format!("/v1/connections/{}/quota", account.name)).await;
        assert_eq!(quota.status, 200, "{quota:?}");
        for budget in quota.json()["data"].as_array().unwrap() {
            let (limit, used) = (budget["limit"].as_i64().unwrap(), budget["used"].as_i64().unwrap());
            assert!(limit > 0 && used >= 0 && budget["remaining"] == limit - used, "{budget:#}");
        }
    }
}
