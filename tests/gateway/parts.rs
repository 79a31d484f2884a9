//! Exports of many files: all workers fetch them, each file once, and what comes out is the same whoever fetched what and
//! whoever died meanwhile.

use std::time::{Duration, Instant};

use headgate::startup::{self, Roles, Running};
use reqwest::Method;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    conformance::{by_vendor_user_id, truth},
    process::{Process, worker},
    support::{Answer, Setup, TestGateway, eventually, export_path, file_path, parse_lines},
};

const WORKER: Roles = Roles { api: false, worker: true };
const FILES: u64 = 60;
const PEOPLE: u64 = 600;
/// The shortest there is.
const SHORT_LEASE: &str = "3";

/// A vendor whose jobs have many files, and nobody who fetches them yet.
fn many_files() -> Setup {
    let mut setup = Setup::default().without_worker().people(PEOPLE);
    setup.sandbox.job_files = FILES;
    setup
}

async fn submit(gateway: &TestGateway) -> Value {
    let account = gateway.connect("growingio_cdp").await;
    gateway.submit(&TestGateway::everybody(&account)).await
}

async fn worker_in_process(gateway: &TestGateway) -> Running {
    startup::start(&gateway.settings, WORKER).await.unwrap()
}

async fn downloads(gateway: &TestGateway) -> u64 {
    gateway.sandbox_state("growingio_cdp").await["downloads"].as_u64().unwrap()
}

/// Waits until `workers` hold `parts` parts together, or more.
async fn held(gateway: &TestGateway, workers: i64, parts: i64) {
    let sql = "select count(distinct claimed_by), count(*) from part where claim is not null";
    eventually("parts in hand", async || {
        let now: (i64, i64) = sqlx::query_as(sql).fetch_one(&gateway.db).await.unwrap();
        (now.0 >= workers && now.1 >= parts).then_some(())
    })
    .await;
}

/// Nobody holds a part any more, and nothing is stored, soon after `since`.
async fn everybody_lets_go(gateway: &TestGateway, since: Instant) {
    eventually("nobody holds a part", async || {
        let left: i64 = sqlx::query_scalar("select count(*) from part").fetch_one(&gateway.db).await.unwrap();
        (left == 0 && gateway.stored_files().is_empty()).then_some(())
    })
    .await;
    assert!(since.elapsed() < Duration::from_secs(3), "it took {:?}", since.elapsed());
}

/// Writes down which worker claimed which part.
async fn note_claims(gateway: &TestGateway) {
    let note = "
        create table noted (worker text, number integer, file integer);
        create function note() returns trigger language plpgsql as $$ begin
            insert into noted values (new.claimed_by, new.number, new.file);
            return null;
        end $$;
        create trigger note after update on part for each row
            when (new.claim is not null and new.claim is distinct from old.claim) execute function note();";
    sqlx::raw_sql(note).execute(&gateway.db).await.unwrap();
}

/// Everybody once, in the right number of files, and nothing else in the store. Answers the digests of the files.
async fn right(gateway: &TestGateway, export: &Value) -> Vec<String> {
    assert_eq!(export["state"], "succeeded", "{export:#}");
    let progress = &export["progress"];
    assert_eq!((&progress["files_done"], &progress["files_total"]), (&json!(FILES), &json!(FILES)), "{export:#}");
    assert_eq!((&progress["records"], &export["result"]["records"]), (&json!(PEOPLE), &json!(PEOPLE)));
    let records = by_vendor_user_id(parse_lines(&gateway.download(export).await));
    assert!(records == truth(gateway, &gateway.account("growingio_cdp")), "{} records", records.len());
    eventually("only the result is left", async || {
        let files = gateway.stored_files();
        (gateway.named_files().await.iter().all(|named| files.contains(named)) && files.len() == 1).then_some(())
    })
    .await;
    let left: i64 = sqlx::query_scalar("select count(*) from part").fetch_one(&gateway.db).await.unwrap();
    assert_eq!(left, 0);
    let files = export["result"]["files"].as_array().unwrap();
    files.iter().map(|file| file["sha256"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_files_are_fetched_by_all_workers_and_each_of_them_once() {
    let gateway = many_files().start().await;
    note_claims(&gateway).await;
    let export = submit(&gateway).await;
    let _workers = [worker(&gateway, "30"), worker(&gateway, "30"), worker(&gateway, "30")];
    let export = gateway.finished(&export).await;
    right(&gateway, &export).await;
    let phases: Vec<_> = gateway.events(&export).await.iter().map(|event| event["phase"].clone()).collect();
    assert!(phases.contains(&json!("downloading")) && phases.contains(&json!("transforming")), "{phases:?}");
    let claims: Vec<(String, i64)> =
        sqlx::query_as("select worker, count(*) from noted group by worker").fetch_all(&gateway.db).await.unwrap();
    assert_eq!(claims.len(), 3, "{claims:?}");
    assert_eq!(claims.iter().map(|(_, count)| *count).sum::<i64>(), i64::try_from(FILES).unwrap(), "{claims:?}");
    assert_eq!(downloads(&gateway).await, FILES);
    let slots: i64 = sqlx::query_scalar("select count(*) from vendor_slot").fetch_one(&gateway.db).await.unwrap();
    assert_eq!(slots, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn few_files_stay_one_stream() {
    let mut setup = many_files();
    setup.sandbox.job_files = 3;
    let gateway = setup.start().await;
    note_claims(&gateway).await;
    let export = submit(&gateway).await;
    let replica = worker_in_process(&gateway).await;
    let export = gateway.finished(&export).await;
    assert_eq!((&export["state"], &export["result"]["records"]), (&json!("succeeded"), &json!(PEOPLE)), "{export:#}");
    let parts: i64 = sqlx::query_scalar("select count(*) from noted").fetch_one(&gateway.db).await.unwrap();
    assert_eq!((parts, downloads(&gateway).await), (0, 3));
    replica.stop().await;
}

/// The result of a disturbed run has the digest of an undisturbed one, in every format; what was done is not done again.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn killed_and_stalled_workers_leave_no_trace_in_the_result() {
    let gateway = many_files().start().await;
    let account = gateway.connect("growingio_cdp").await;
    for output in [json!({"compression": "gzip"}), json!({"format": "parquet"})] {
        let mut body = TestGateway::everybody(&account);
        body["output"] = output.clone();
        let undisturbed = {
            let export = gateway.submit(&body).await;
            let replica = worker_in_process(&gateway).await;
            let export = gateway.finished(&export).await;
            replica.stop().await;
            export
        };
        let before = downloads(&gateway).await;
        body["coalesce"] = json!("none");
        let export = gateway.submit(&body).await;
        // Slow enough to be met in the middle.
        gateway.faults(&["growingio_cdp.file.drip"]).await;
        let (killed, stalled) = (worker(&gateway, SHORT_LEASE), worker(&gateway, SHORT_LEASE));
        held(&gateway, 2, 2).await;
        gateway.faults(&[]).await;
        killed.kill().await;
        stalled.signal(Signal::STOP);
        let third = worker(&gateway, SHORT_LEASE);
        let export = gateway.finished(&export).await;
        let digests = |export: &Value| {
            let files = export["result"]["files"].as_array().unwrap();
            files.iter().map(|file| file["sha256"].clone()).collect::<Vec<_>>()
        };
        assert_eq!(export["state"], "succeeded", "{export:#}");
        assert_eq!(digests(&export), digests(&undisturbed), "{output}");
        assert_eq!(export["progress"]["records"], json!(PEOPLE));
        // Only what was in the hands of the two at that moment.
        let (again, hands) = (downloads(&gateway).await - before - FILES, 16);
        assert!(again <= hands, "{again} files were fetched again");

        stalled.signal(Signal::CONT);
        stalled.signal(Signal::TERM);
        assert_eq!(stalled.ended().await.code(), Some(0));
        third.signal(Signal::TERM);
        third.ended().await;
        let seen = gateway.get(&export_path(&export)).await.json();
        assert_eq!(seen, export, "a stalled worker changed something when it woke");
    }
    eventually("only results are left", async || (gateway.stored_files() == gateway.named_files().await).then_some(()))
        .await;
}

async fn cancel(gateway: &TestGateway, export: &Value) {
    Answer::of(gateway.request(Method::POST, &format!("{}/cancel", export_path(export)))).await;
}

/// Two workers hold parts that will never end; a third one's part fails for good.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_part_that_fails_for_good_fails_the_export_and_everybody_lets_go() {
    let gateway = many_files().fault("growingio_cdp.file.drip").start().await;
    let export = submit(&gateway).await;
    let hanging = [worker(&gateway, "120"), worker(&gateway, "120")];
    held(&gateway, 2, 6).await;
    gateway.faults(&["growingio_cdp.file.redirect=http://10.0.0.1/elsewhere"]).await;
    let _third = worker(&gateway, "120");
    let failed = gateway.finished(&export).await;
    assert_eq!(
        (&failed["state"], &failed["error"]["code"]),
        (&json!("failed"), &json!("egress_blocked")),
        "{failed:#}"
    );
    everybody_lets_go(&gateway, Instant::now()).await;
    drop(hanging);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_cancel_reaches_every_worker_that_holds_a_part() {
    let gateway = many_files().fault("growingio_cdp.file.drip").start().await;
    let export = submit(&gateway).await;
    let _workers = [worker(&gateway, "120"), worker(&gateway, "120")];
    held(&gateway, 2, 2).await;
    let began = Instant::now();
    cancel(&gateway, &export).await;
    let cancelled = gateway.finished(&export).await;
    assert_eq!(cancelled["state"], "cancelled", "{cancelled:#}");
    everybody_lets_go(&gateway, began).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn files_that_the_vendor_no_longer_has_are_exported_anew() {
    let gateway = many_files().fault("growingio_cdp.file.not_found=1").start().await;
    let export = submit(&gateway).await;
    let replica = worker_in_process(&gateway).await;
    let export = gateway.finished(&export).await;
    right(&gateway, &export).await;
    assert_eq!(gateway.sandbox_state("growingio_cdp").await["submissions"], 2);
    replica.stop().await;
}

/// A part that fails now and then is tried again, and what it brought in vain is not counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_damaged_file_is_fetched_again_alone() {
    let gateway =
        many_files().fault("growingio_cdp.file.truncated=2").fault("growingio_cdp.file.server_error=3").start().await;
    let export = submit(&gateway).await;
    let replica = worker_in_process(&gateway).await;
    let export = gateway.finished(&export).await;
    right(&gateway, &export).await;
    assert_eq!(gateway.sandbox_state("growingio_cdp").await["submissions"], 1);
    assert_eq!(downloads(&gateway).await, FILES + 2);
    replica.stop().await;
}

/// A sender that drips keeps its connection for ever; the time limit of a transfer ends the try.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_transfer_that_brings_nothing_is_broken_off_and_tried_again() {
    for files in [1, FILES] {
        let mut setup = many_files().fault("growingio_cdp.file.drip=1");
        setup.sandbox.job_files = files;
        let setup = setup.flags(|flags| flags.transfer_stall_secs = Some("1".into()));
        let gateway = setup.start().await;
        let export = submit(&gateway).await;
        let replica = worker_in_process(&gateway).await;
        let export = gateway.finished(&export).await;
        assert_eq!(
            (&export["state"], &export["result"]["records"]),
            (&json!("succeeded"), &json!(PEOPLE)),
            "{export:#}"
        );
        let said = json!(gateway.attempts(&export).await).to_string();
        assert!(said.contains("came too slowly"), "{said}");
        replica.stop().await;
    }
}

/// One export of many files leaves room for others.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_export_of_many_files_does_not_hold_up_a_small_one() {
    let gateway = many_files().fault("growingio_cdp.file.drip").start().await;
    let big = submit(&gateway).await;
    let braze = gateway.connect("braze").await;
    let replica = worker_in_process(&gateway).await;
    gateway.seen(&big, |export| export["phase"] == "downloading").await;
    held(&gateway, 1, 3).await;
    let began = Instant::now();
    let small = gateway.run(&TestGateway::everybody(&braze)).await;
    assert_eq!(small["state"], "succeeded", "{small:#}");
    assert!(began.elapsed() < Duration::from_secs(20), "it took {:?}", began.elapsed());
    cancel(&gateway, &big).await;
    gateway.finished(&big).await;
    replica.stop().await;
}

/// What the version before has begun in its own table is taken over: what it has done is not asked for again.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn parts_of_the_version_before_are_taken_over() {
    let mut setup = Setup::default().without_worker();
    setup.sandbox.requests_per_second = 200.0;
    let gateway = setup.start().await;
    let mut account = gateway.account("growingio");
    account.body["settings"]["requests_per_second"] = json!(200.0);
    gateway.put(&format!("/v1/connections/{}", account.name), &account.body).await;
    let now = gateway.sandbox.world().started_at();
    let from = now - chrono::TimeDelta::hours(40);
    let parameters =
        json!({"window": {"from": from, "to": from + chrono::TimeDelta::hours(3)}, "event_types": ["page"]});
    let body = json!({"connection": account.name, "dataset": "raw_events", "parameters": parameters});
    let replica = worker_in_process(&gateway).await;
    let whole = gateway.run(&body).await;
    assert_eq!(whole["state"], "succeeded", "{whole:#}");
    replica.stop().await;
    let asked = |gateway: &TestGateway| gateway.sandbox.world().activity("growingio").counts;
    let before = asked(&gateway);

    let mut again = body.clone();
    again["coalesce"] = json!("none");
    let export = gateway.submit(&again).await;
    let id = uuid::Uuid::parse_str(export["id"].as_str().unwrap().trim_start_matches("exp_")).unwrap();
    // Two of its parts are there, without a record; a third one is left.
    let insert = "insert into export_part (export_id, number, part, done_at) \
                  select $1, number, name, case when number <> 2 then now() end \
                  from unnest($2::text[]) with ordinality as given (name, number)";
    let dates: Vec<_> = before.keys().filter_map(|name| name.strip_prefix("finished ")).map(str::to_owned).collect();
    assert!(dates.len() >= 3, "{before:#?}");
    let names: Vec<_> =
        dates.iter().map(|date| format!("hour:page:{}", date.rsplit([' ', ':', '/']).next().unwrap())).collect();
    sqlx::query(insert).bind(id).bind(&names).execute(&gateway.db).await.unwrap();
    let replica = worker_in_process(&gateway).await;
    let export = gateway.finished(&export).await;
    assert_eq!(export["state"], "succeeded", "{export:#}");
    assert_eq!(export["progress"]["files_done"], json!(names.len()));
    let after = asked(&gateway);
    let more: Vec<_> =
        dates.iter().filter(|date| after[&format!("finished {date}")] > before[&format!("finished {date}")]).collect();
    assert_eq!(more, [&dates[1]], "only what was left is asked for");
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn raw_files_of_parts_come_in_their_order() {
    let gateway = many_files().start().await;
    let account = gateway.connect("growingio_cdp").await;
    let mut body = TestGateway::everybody(&account);
    body["output"] = json!({"format": "raw"});
    let export = gateway.submit(&body).await;
    let _workers: Vec<Process> = (0..2).map(|_| worker(&gateway, "30")).collect();
    let export = gateway.finished(&export).await;
    assert_eq!(export["state"], "succeeded", "{export:#}");
    let files = export["result"]["files"].as_array().unwrap();
    assert_eq!(files.len() as u64, FILES);
    for (index, file) in files.iter().enumerate() {
        assert_eq!(file["name"], format!("audience_members-{:05}.json", index + 1));
        // The sandbox deals its people out to the files in turn.
        let first = &parse_lines(&gateway.get(&file_path(&export, file)).await.body)[0];
        let audience = gateway.sandbox.world().audience(1).unwrap();
        let expected = gateway.sandbox.world().person(audience.members().nth(index).unwrap());
        let email = json!(expected.email);
        assert!(email.is_null() || first.to_string().contains(email.as_str().unwrap()), "file {index}: {first}");
    }
    eventually("nothing else is stored", async || {
        let (mut stored, mut named) = (gateway.stored_files(), gateway.named_files().await);
        stored.sort();
        named.sort();
        (stored == named).then_some(())
    })
    .await;
}
