//! The vendor is never asked to begin twice by accident, whenever a worker dies, stalls or loses an answer.

use std::time::Duration;

use reqwest::StatusCode;
use rustix::process::Signal;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

use crate::{
    conformance::{by_vendor_user_id, truth},
    process::worker,
    support::{Setup, TestGateway, eventually, parse_lines},
};

const JOBS: &[&str] = &["braze", "growingio_cdp"];
const SHORT_LEASE: &str = "3";

async fn submissions(gateway: &TestGateway, vendor: &str) -> u64 {
    gateway.sandbox_state(vendor).await["submissions"].as_u64().unwrap_or_default()
}

/// Everybody, and never two at once where the vendor forbids it.
async fn right(gateway: &TestGateway, export: &Value, vendor: &str) {
    assert_eq!(export["state"], "succeeded", "{export:#}");
    let records = by_vendor_user_id(parse_lines(&gateway.download(export).await));
    assert_eq!(records, truth(gateway, &gateway.account(vendor)));
    let state = gateway.sandbox_state(vendor).await;
    assert_eq!(state["violations"], json!([]), "{state:#}");
    if vendor == "braze" {
        assert_eq!(state["max_running_per_audience"], 1, "{state:#}");
    }
}

async fn was_reconciling(gateway: &TestGateway, export: &Value) -> bool {
    gateway.events(export).await.iter().any(|event| event["phase"] == "reconciling")
}

/// A worker died after it had written down what it was about to do, and before it did it.
#[tokio::test(flavor = "multi_thread")]
async fn killed_before_the_call() {
    for vendor in JOBS {
        let gateway = Setup::default().without_worker().start().await;
        let account = gateway.connect(vendor).await;
        let export = gateway.submit(&TestGateway::everybody(&account)).await;
        let died = "update export set state = 'running', phase = 'submitting', started_at = now(), \
                    submit_intent_at = now(), claim = gen_random_uuid(), due_at = now() + interval '1 s'";
        sqlx::query(died).execute(&gateway.db).await.unwrap();
        sqlx::query(
            "insert into vendor_slot (export_id, connection_id, exclusive_key) \
                     select export_id, connection_id, exclusive_key from export",
        )
        .execute(&gateway.db)
        .await
        .unwrap();
        let _second = worker(&gateway, SHORT_LEASE);
        let export = gateway.finished(&export).await;
        right(&gateway, &export, vendor).await;
        assert!(was_reconciling(&gateway, &export).await, "{vendor}: what nobody knows is shown");
        assert_eq!(submissions(&gateway, vendor).await, 1, "{vendor}");
    }
}

/// Holds the statement that keeps the vendor's answer until the lock is given back.
const GATE: &str = "
    create function wait_at_the_gate() returns trigger language plpgsql as $$ begin
        if current_query() like '%submissions = submissions + 1%' then
            perform pg_advisory_xact_lock_shared(4712);
        end if;
        return null;
    end $$;
    create trigger gate before update on export for each statement execute function wait_at_the_gate();";
const AT_THE_GATE: &str = "
    select count(*) from pg_locks where locktype = 'advisory' and objid = 4712 and not granted
    and database = (select oid from pg_database where datname = current_database())";

/// What becomes of the worker that has the vendor's answer in its hands, and nowhere else.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Killed,
    /// Comes back when another one has taken over.
    Stalled,
}

async fn at_the_answer(vendor: &str, fate: Fate) {
    let mut setup = Setup::default().without_worker();
    setup.sandbox.processing = Duration::from_secs(4);
    let gateway = setup.start().await;
    let account = gateway.connect(vendor).await;
    sqlx::raw_sql(GATE).execute(&gateway.db).await.unwrap();
    let mut gate = PgConnection::connect(&gateway.database_url).await.unwrap();
    sqlx::query("select pg_advisory_lock(4712)").execute(&mut gate).await.unwrap();
    let export = gateway.submit(&TestGateway::everybody(&account)).await;
    let first = worker(&gateway, SHORT_LEASE);
    eventually("the answer at the gate", async || {
        let count: i64 = sqlx::query_scalar(AT_THE_GATE).fetch_one(&gateway.db).await.unwrap();
        (count == 1).then_some(())
    })
    .await;
    assert_eq!(submissions(&gateway, vendor).await, 1);
    first.signal(if fate == Fate::Killed { Signal::KILL } else { Signal::STOP });
    // The dead worker's statement goes with it; a stalled one's is ended, as by a database that was restarted.
    let end = "select pg_terminate_backend(pid) from pg_stat_activity \
               where query like '%submissions = submissions + 1%' and pid <> pg_backend_pid()";
    sqlx::query(end).execute(&gateway.db).await.unwrap();
    sqlx::query("select pg_advisory_unlock(4712)").execute(&mut gate).await.unwrap();
    let _second = worker(&gateway, SHORT_LEASE);
    gateway.seen(&export, |export| export["phase"] == "reconciling" || export["phase"] == "vendor_processing").await;
    if fate == Fate::Stalled {
        eventually("the other worker's claim", async || was_reconciling(&gateway, &export).await.then_some(())).await;
        first.signal(Signal::CONT);
    }
    let export = gateway.finished(&export).await;
    right(&gateway, &export, vendor).await;
    assert!(was_reconciling(&gateway, &export).await, "{vendor}: what nobody knows is shown");
    // Nobody can fetch what the first one made. It was over, or does no harm, when the second was begun.
    assert_eq!(submissions(&gateway, vendor).await, 2, "{vendor}");
    let said: Vec<_> = gateway.attempts(&export).await.into_iter().filter(|at| at["action"] == "submit").collect();
    let refused = said.iter().filter(|at| at["http_status"] == 429).count();
    assert_eq!(refused > 0, vendor == "braze", "Braze says that it is busy: {said:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn killed_with_the_answer_in_its_hands() {
    for vendor in JOBS {
        at_the_answer(vendor, Fate::Killed).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn stalled_with_the_answer_in_its_hands() {
    for vendor in JOBS {
        at_the_answer(vendor, Fate::Stalled).await;
    }
}

/// A lost answer is shown as what it is, also where a second submission does no harm.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_reconciled() {
    for vendor in JOBS {
        let thing = if *vendor == "braze" { "segment" } else { "export" };
        let gateway = Setup::default().fault(&format!("{vendor}.{thing}.lost_answer=1")).start().await;
        let account = gateway.connect(vendor).await;
        let export = gateway.run(&TestGateway::everybody(&account)).await;
        right(&gateway, &export, vendor).await;
        assert!(was_reconciling(&gateway, &export).await, "{vendor}");
        assert_eq!(submissions(&gateway, vendor).await, 2, "{vendor}");
    }
}

/// What is only asked for can be asked for again: nothing is begun at this vendor, so nothing is begun twice.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_only_asked_for_is_asked_for_again() {
    let gateway = Setup::default().without_worker().fault("growingio.raw.slow").start().await;
    let account = gateway.connect("growingio").await;
    let from = gateway.sandbox.world().started_at() - chrono::TimeDelta::hours(40);
    let parameters =
        json!({"window": {"from": from, "to": from + chrono::TimeDelta::hours(2)}, "event_types": ["page"]});
    let body = json!({"connection": account.name, "dataset": "raw_events", "parameters": parameters});
    let export = gateway.submit(&body).await;
    let first = worker(&gateway, SHORT_LEASE);
    eventually("a part in hand", async || {
        let sql = "select count(*) from part where claim is not null";
        let held: i64 = sqlx::query_scalar(sql).fetch_one(&gateway.db).await.unwrap();
        (held > 0).then_some(())
    })
    .await;
    first.kill().await;
    gateway.faults(&[]).await;
    let _second = worker(&gateway, SHORT_LEASE);
    let export = gateway.finished(&export).await;
    assert_eq!(export["state"], "succeeded", "{export:#}");
    let intent = "select submissions from export where submit_intent_at is null";
    let submitted: i32 = sqlx::query_scalar(intent).fetch_one(&gateway.db).await.unwrap();
    assert_eq!(submitted, 0);
    assert_eq!(gateway.get("/healthz").await.status, StatusCode::OK);
}
