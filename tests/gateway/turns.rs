//! Nobody waits for nothing: tenants take turns wherever exports wait, and limits hold.

use std::time::Duration;

use headgate::store::engine::{Share, claim_due};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{ALL_SCOPES, Answer, Setup, TestGateway, eventually};

const COLUMNS: [&str; 6] = ["user_id", "email", "city", "created_at", "phone", "country"];

async fn submit(gateway: &TestGateway, tenant: &str, body: &Value) -> Value {
    let token = gateway.token_for("somebody", tenant, ALL_SCOPES, &["*"]);
    let request = gateway.anonymous(Method::POST, "/v1/exports").bearer_auth(token).json(body);
    let answer = Answer::of(request).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
    answer.json()
}

/// A request like no other.
fn request(connection: &str, tag: usize, column: &str) -> Value {
    json!({
        "connection": connection,
        "dataset": "audience_members",
        "parameters": {"audience": {"kind": "tag", "id": format!("tag_{tag}")}, "fields": ["vendor_user_id", column]},
    })
}

/// The tenants and priorities of the next claims, one export each.
async fn claims(gateway: &TestGateway, count: usize) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for _ in 0..count {
        let claimed =
            claim_due(&gateway.db, "test", Duration::from_mins(5), Share { limit: 1, fresh: 1 }).await.unwrap();
        for claimed in claimed {
            let priority = serde_json::to_value(claimed.export.priority).unwrap();
            found.push((claimed.export.tenant, priority.as_str().unwrap().to_owned()));
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_exports_of_one_tenant_do_not_hold_up_anothers_one() {
    let gateway = Setup::default().without_worker().start().await;
    let account = gateway.connect("growingio_cdp").await;
    submit(&gateway, "many", &request(account.name, 4, "email")).await;
    // The same again and again, each behind the one before, as if it had been submitted.
    sqlx::query(
        "insert into export (export_id, tenant, created_by, connection_id, connection, vendor, dataset, parameters, \
         output, delivery, labels, deadline_at, due_at, unclaimed, turn) \
         select gen_random_uuid(), tenant, created_by, connection_id, connection, vendor, dataset, parameters, output, \
         delivery, labels, deadline_at, due_at, unclaimed, turn + i from export, generate_series(1, 10000) i",
    )
    .execute(&gateway.db)
    .await
    .unwrap();
    let more = submit(&gateway, "many", &request(account.name, 5, "email")).await;
    assert_eq!(claims(&gateway, 50).await.len(), 50);
    submit(&gateway, "one", &request(account.name, 6, "email")).await;
    let next = claims(&gateway, 3).await;
    assert!(next.iter().any(|(tenant, _)| tenant == "one"), "{next:?}");
    let behind: i64 = sqlx::query_scalar("select count(*) from export where tenant = 'many' and turn > $1")
        .bind(sqlx::query_scalar::<_, i64>("select max(turn) from export").fetch_one(&gateway.db).await.unwrap() - 1)
        .fetch_one(&gateway.db)
        .await
        .unwrap();
    assert_eq!(behind, 1, "{more:#} is the last of its tenant");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_interactive_goes_first_and_what_is_batch_goes_too() {
    let gateway = Setup::default().without_worker().start().await;
    let account = gateway.connect("growingio_cdp").await;
    for tag in 4..7 {
        let mut body = request(account.name, tag, "email");
        body["priority"] = json!("batch");
        assert_eq!(submit(&gateway, "crm", &body).await["priority"], "batch");
    }
    // A line that never gets shorter: whenever one goes, another comes.
    let mut order = Vec::new();
    for tag in 7..17 {
        assert_eq!(submit(&gateway, "crm", &request(account.name, tag, "email")).await["priority"], "interactive");
    }
    for tag in 17..47 {
        submit(&gateway, if tag % 2 == 0 { "crm" } else { "growth" }, &request(account.name, tag, "email")).await;
        order.extend(claims(&gateway, 1).await);
    }
    let batch: Vec<_> = order.iter().map(|(_, priority)| priority == "batch").collect();
    // One was at the front before the others came; each next one lets eight of every tenant go first.
    let waited = batch.iter().skip(1).position(|is_batch| *is_batch);
    assert!(batch[0] && waited.is_some_and(|waited| (8..=20).contains(&waited)), "{order:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_of_running_exports_holds_and_room_is_passed_on_at_once() {
    let mut setup = Setup::default();
    setup.sandbox.processing = Duration::from_millis(300);
    let setup = setup.flags(|flags| {
        flags.tenant_concurrency = Some("2".into());
        flags.connection_concurrency = Some("3".into());
        flags.worker_concurrency = Some("8".into());
    });
    let gateway = setup.start().await;
    let account = gateway.connect("growingio_cdp").await;
    for tag in 4..14 {
        submit(&gateway, if tag < 10 { "crm" } else { "growth" }, &request(account.name, tag, "email")).await;
    }
    let mut reasons = std::collections::BTreeSet::new();
    let mut most = (0, 0);
    let began = std::time::Instant::now();
    loop {
        let rows: Vec<(String, String, Option<String>)> =
            sqlx::query_as("select tenant, state, waiting_reason from export where finished_at is null")
                .fetch_all(&gateway.db)
                .await
                .unwrap();
        if rows.is_empty() {
            break;
        }
        let running: Vec<_> = rows.iter().filter(|(_, state, _)| state == "running").collect();
        let of_one = running.iter().filter(|(tenant, ..)| tenant == "crm").count();
        most = (most.0.max(of_one), most.1.max(running.len()));
        reasons.extend(rows.into_iter().filter_map(|(.., reason)| reason));
        assert!(began.elapsed() < Duration::from_secs(40), "room was not passed on");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(most, (2, 3));
    assert!(reasons.contains("tenant_concurrency") && reasons.contains("connection_concurrency"), "{reasons:?}");
    let ends: Vec<(String, i64)> =
        sqlx::query_as("select state, count(*) from export group by state").fetch_all(&gateway.db).await.unwrap();
    assert_eq!(ends, [("succeeded".to_owned(), 10)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_take_turns_at_one_segment() {
    let mut setup = Setup::default();
    setup.sandbox.processing = Duration::from_millis(500);
    let gateway = setup.start().await;
    let account = gateway.connect("braze").await;
    let body = |column: &str| {
        let mut body = TestGateway::everybody(&account);
        body["parameters"]["fields"] = json!(["vendor_user_id", column]);
        body
    };
    for column in COLUMNS {
        submit(&gateway, "many", &body(column)).await;
    }
    gateway_waits(&gateway, 5).await;
    submit(&gateway, "one", &body("city")).await;
    submit(&gateway, "one", &body("last_name")).await;
    eventually("the end of all", async || {
        let live: i64 = sqlx::query_scalar("select count(*) from export where finished_at is null")
            .fetch_one(&gateway.db)
            .await
            .unwrap();
        (live == 0).then_some(())
    })
    .await;
    let order: Vec<String> =
        sqlx::query_scalar("select tenant from export where submitted_at is not null order by submitted_at")
            .fetch_all(&gateway.db)
            .await
            .unwrap();
    let first = order.iter().position(|tenant| tenant == "one");
    // `city` is asked for already, and shared; the other has one of `many` before it, besides the one at the vendor.
    assert!(first.is_some_and(|first| first <= 3), "{order:?}");
    assert_eq!(order.len(), COLUMNS.len() + 1);
    assert_eq!(gateway.sandbox_state("braze").await["max_running_per_audience"], 1);
}

async fn gateway_waits(gateway: &TestGateway, count: i64) {
    eventually("the line", async || {
        let waiting: i64 = sqlx::query_scalar("select count(*) from export where phase = 'waiting_for_slot'")
            .fetch_one(&gateway.db)
            .await
            .unwrap();
        (waiting == count).then_some(())
    })
    .await;
}
