//! Every fault that a vendor's simulator can show: how an export ends, what the evidence says, and that the gateway
//! works as before once the fault is gone.

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use headgate::vendors::{
    registry::VENDORS,
    sandbox::{DemoConnection, SandboxConfig},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::{
    conformance::{by_vendor_user_id, truth},
    support::{Setup, TestGateway, eventually, gateway, parse_lines},
};

/// How an export ends.
#[derive(Debug, Clone, Copy)]
enum Ends {
    /// With everybody, every column right.
    Right,
    Empty,
    /// With this code.
    Failed(&'static str),
}
use Ends::{Empty, Failed, Right};

/// Exchanges that must be in the evidence: action, status, how many. Polls may be more, and so may those of an export that
/// goes on until its deadline.
type Evidence = &'static [(&'static str, u16, usize)];

struct Case {
    fault: &'static str,
    ends: Ends,
    evidence: Evidence,
    /// In the error, a decision or a warning.
    says: &'static str,
    /// Exports that the vendor began.
    submissions: u64,
    deadline: &'static str,
}

const fn case(fault: &'static str, ends: Ends, submissions: u64, evidence: Evidence, says: &'static str) -> Case {
    Case { fault, ends, evidence, says, submissions, deadline: "PT2M" }
}

impl Case {
    const fn within(self, deadline: &'static str) -> Self {
        Self { deadline, ..self }
    }
}

const BRAZE: &[Case] = &[
    case("braze.segment.not_ready=3", Right, 1, &[("poll", 403, 3)], "not ready yet"),
    case("braze.segment.unauthorized", Failed("vendor_credentials_rejected"), 0, &[("submit", 401, 1)], "rejected"),
    case("braze.segment.forbidden", Failed("vendor_permission_denied"), 0, &[("submit", 403, 1)], "permission"),
    case("braze.segment.bad_request", Failed("vendor_rejected_request"), 0, &[("submit", 400, 1)], "Bad Request"),
    case("braze.segment.rate_limited=1", Right, 1, &[("submit", 429, 1), ("submit", 201, 1)], "rate limit"),
    case("braze.segment.busy=2", Right, 1, &[("submit", 429, 2), ("submit", 201, 1)], "no room"),
    case("braze.segment.server_error=2", Right, 1, &[("submit", 500, 2), ("submit", 201, 1)], "may or may not"),
    case("braze.segment.server_error", Failed("deadline_exceeded"), 0, &[("submit", 500, 9)], "may or may not")
        .within("PT2S"),
    case("braze.segment.html=1", Right, 1, &[("submit", 502, 1), ("submit", 201, 1)], "may or may not"),
    case("braze.segment.html", Failed("deadline_exceeded"), 0, &[("submit", 502, 9)], "Braze failed with 502")
        .within("PT2S"),
    case("braze.segment.bad_json", Failed("vendor_malformed_data"), 0, &[("submit", 201, 1)], "documented JSON"),
    case("braze.segment.no_url", Failed("vendor_rejected_request"), 1, &[("submit", 201, 1)], "cloud storage"),
    case("braze.segment.lost_answer=1", Right, 2, &[("submit", 201, 1)], "broke"),
    case("braze.segment.slow=1", Right, 1, &[("submit", 201, 1)], "accepted"),
    case("braze.file.cut=2", Right, 1, &[("download", 200, 1), ("download", 206, 1)], "broke off"),
    case("braze.file.truncated", Failed("vendor_malformed_data"), 1, &[("download", 200, 3)], "cut short"),
    case("braze.file.drip", Failed("deadline_exceeded"), 1, &[("download", 200, 1)], "deadline").within("PT2S"),
    case("braze.file.expired", Failed("vendor_link_expired"), 1, &[("download", 403, 1)], "no longer works"),
    case("braze.file.not_found=2", Right, 1, &[("poll", 404, 2)], "not ready yet"),
    case("braze.file.not_found", Failed("deadline_exceeded"), 1, &[("poll", 404, 1)], "deadline").within("PT2S"),
    case("braze.file.html=2", Right, 1, &[("poll", 206, 1)], "web page"),
    case("braze.file.html", Failed("vendor_malformed_data"), 1, &[("poll", 200, 5), ("download", 200, 0)], "web page"),
    case("braze.file.server_error=2", Right, 1, &[("poll", 503, 2)], "the file store failed"),
    case("braze.file.server_error", Failed("deadline_exceeded"), 1, &[("poll", 503, 9)], "the file store failed")
        .within("PT2S"),
    case("braze.file.empty", Empty, 1, &[("download", 200, 1)], "received 0 bytes"),
    case("braze.file.corrupt_crc", Failed("vendor_malformed_data"), 1, &[("download", 200, 3)], "member 1"),
    case("braze.file.bomb", Failed("archive_limit_exceeded"), 1, &[("download", 200, 1)], "unpacks to more than"),
    case("braze.file.path_traversal", Failed("archive_limit_exceeded"), 1, &[("download", 200, 1)], "outside"),
    case("braze.file.nested", Failed("archive_limit_exceeded"), 1, &[("download", 200, 1)], "within an archive"),
    case("braze.file.bad_record", Failed("vendor_malformed_data"), 1, &[("download", 200, 1)], "line 2"),
];

const CDP: &[Case] = &[
    case(
        "growingio_cdp.export.unauthorized",
        Failed("vendor_credentials_rejected"),
        0,
        &[("submit", 401, 1)],
        "rejected the token",
    ),
    case("growingio_cdp.export.forbidden", Failed("vendor_permission_denied"), 0, &[("submit", 403, 1)], "may not use"),
    case("growingio_cdp.export.server_error=1", Right, 1, &[("submit", 500, 1), ("submit", 200, 1)], "not granted"),
    case(
        "growingio_cdp.export.server_error",
        Failed("vendor_rejected_request"),
        0,
        &[("submit", 500, 2)],
        "the key is missing, or not granted",
    ),
    case("growingio_cdp.export.html=2", Right, 1, &[("submit", 502, 2), ("submit", 200, 1)], "failed with 502"),
    case("growingio_cdp.export.html", Failed("deadline_exceeded"), 0, &[("submit", 502, 9)], "failed with 502")
        .within("PT2S"),
    case("growingio_cdp.export.bad_json", Failed("vendor_malformed_data"), 0, &[("submit", 200, 1)], "named no job"),
    case("growingio_cdp.export.lost_answer=1", Right, 2, &[], "broke"),
    case("growingio_cdp.job.only_project_path", Right, 1, &[("poll", 404, 1)], "asking below the project"),
    case("growingio_cdp.job.only_bare_path", Right, 1, &[("poll", 404, 0)], "ready"),
    case("growingio_cdp.job.unknown_stage=2", Right, 1, &[("poll", 200, 3)], "PUBLISHING"),
    case("growingio_cdp.job.error_stage", Failed("vendor_rejected_request"), 1, &[("poll", 200, 1)], "failed"),
    case("growingio_cdp.job.no_uris=2", Right, 1, &[("poll", 200, 3)], "names no file yet"),
    case("growingio_cdp.job.raw_uris", Right, 1, &[("download", 200, 1)], "ready"),
    case("growingio_cdp.job.gone=2", Right, 2, &[("poll", 404, 2)], "no longer knows"),
    case("growingio_cdp.job.gone", Failed("vendor_data_not_found"), 3, &[("submit", 200, 3)], "no longer knows"),
    case("growingio_cdp.job.server_error=2", Right, 1, &[("poll", 500, 2)], "failed with 500"),
    case("growingio_cdp.job.server_error", Failed("deadline_exceeded"), 1, &[("poll", 500, 9)], "failed with 500")
        .within("PT2S"),
    case("growingio_cdp.job.html=1", Right, 1, &[("poll", 502, 1)], "failed with 502"),
    case("growingio_cdp.job.stuck", Failed("deadline_exceeded"), 1, &[("poll", 200, 1)], "deadline").within("PT2S"),
    case("growingio_cdp.job.unauthorized", Failed("vendor_credentials_rejected"), 1, &[("poll", 401, 1)], "rejected"),
    case("growingio_cdp.job.forbidden", Failed("vendor_permission_denied"), 1, &[("poll", 403, 1)], "may not use"),
    case("growingio_cdp.job.rate_limited=2", Right, 1, &[("poll", 429, 2)], "pause"),
    case("growingio_cdp.job.bad_json", Failed("vendor_malformed_data"), 1, &[("poll", 200, 5)], "documented JSON"),
    case("growingio_cdp.job.cut=1", Right, 1, &[], "broke"),
    case("growingio_cdp.job.slow", Failed("deadline_exceeded"), 1, &[], "deadline").within("PT2S"),
    case("growingio_cdp.file.cut=1", Right, 1, &[("download", 200, 1), ("download", 206, 1)], "broke off"),
    case("growingio_cdp.file.truncated", Failed("vendor_malformed_data"), 1, &[("download", 200, 3)], "line "),
    case("growingio_cdp.file.drip", Failed("deadline_exceeded"), 1, &[("download", 200, 1)], "deadline").within("PT2S"),
    case("growingio_cdp.file.not_found=1", Right, 2, &[("download", 404, 1)], "no longer has the file"),
    case("growingio_cdp.file.not_found", Failed("vendor_link_expired"), 3, &[("download", 404, 3)], "no longer has"),
    case("growingio_cdp.file.server_error=2", Right, 1, &[("download", 500, 2), ("download", 200, 1)], "failed"),
    case("growingio_cdp.file.server_error", Failed("deadline_exceeded"), 1, &[("download", 500, 9)], "last: ")
        .within("PT2S"),
    case("growingio_cdp.file.html=1", Right, 1, &[("download", 200, 2)], "web page"),
    case("growingio_cdp.file.html", Failed("vendor_malformed_data"), 1, &[("download", 200, 5)], "web page"),
    case("growingio_cdp.file.bad_record", Failed("vendor_malformed_data"), 1, &[("download", 200, 3)], "line 2"),
    case("growingio_cdp.file.gio_id_as_text", Right, 1, &[("download", 200, 1)], "received"),
    case("growingio_cdp.file.empty", Empty, 1, &[("download", 200, 1)], "received 0 bytes"),
    case("growingio_cdp.file.two_parts", Right, 1, &[("download", 200, 2)], "files: 2"),
];

/// The sources in which a fault may be switched on: everything but the lists of faults themselves.
fn tests_of_faults() -> String {
    fn read(folder: &Path, text: &mut String) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                read(&path, text);
            } else if path.extension().is_some_and(|extension| extension == "rs") && name != "faults.rs" {
                text.push_str(&std::fs::read_to_string(&path).unwrap());
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut text = include_str!("faults.rs").to_owned();
    read(&root.join("tests"), &mut text);
    read(&root.join("src/vendors"), &mut text);
    text
}

#[test]
fn every_fault_is_switched_on_by_some_test() {
    let text = tests_of_faults();
    let anywhere = "http://127.0.0.1/".parse().unwrap();
    for spec in VENDORS {
        for fault in (spec.sandbox_connection)(&anywhere).faults {
            assert!(text.contains(fault.name.as_ref()), "no test switches on `{}`", fault.name);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_of_braze_ends_as_it_must_and_leaves_nothing_behind() {
    every_case("braze", BRAZE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_of_the_cdp_ends_as_it_must_and_leaves_nothing_behind() {
    every_case("growingio_cdp", CDP).await;
}

async fn every_case(vendor: &str, cases: &[Case]) {
    let sandbox = SandboxConfig {
        people: 7,
        processing: Duration::from_millis(60),
        slow_answer: Duration::from_millis(700),
        ..SandboxConfig::default()
    };
    let setup = Setup { sandbox, ..Setup::default() };
    let gateway = setup.flags(|flags| (flags.poll_min_ms, flags.poll_max_ms) = (Some("20".into()), Some("100".into())));
    let gateway = gateway.start().await;
    let account = gateway.connect(vendor).await;
    for case in cases {
        one_case(&gateway, &account, case).await;
        gateway.faults(&[]).await;
        assert_right(&gateway, &account, &gateway.run(&TestGateway::everybody(&account)).await, case.fault).await;
    }
    let state = gateway.sandbox_state(vendor).await;
    assert_eq!(state["violations"], json!([]));
    if vendor == "braze" {
        assert_eq!(state["max_running_per_audience"], 1, "an export was begun beside another");
    }
    assert_eq!(gateway.stored_files(), gateway.named_files().await);
}

async fn one_case(gateway: &TestGateway, account: &DemoConnection, case: &Case) {
    let fault = case.fault;
    let before = gateway.sandbox_state(account.vendor).await["submissions"].as_u64().unwrap_or_default();
    gateway.faults(&[fault]).await;
    let mut body = TestGateway::everybody(account);
    body["deadline"] = json!(case.deadline);
    let export = gateway.run(&body).await;
    let attempts = gateway.attempts(&export).await;
    let shown = json!({"fault": fault, "export": export, "attempts": attempts});

    match case.ends {
        Right => assert_right(gateway, account, &export, fault).await,
        Empty => {
            assert_eq!((&export["state"], &export["result"]["records"]), (&json!("succeeded"), &json!(0)), "{shown:#}");
        }
        Failed(code) => {
            assert_eq!((&export["state"], &export["error"]["code"]), (&json!("failed"), &json!(code)), "{shown:#}");
            assert!(export["result"].is_null() && export["finished_at"].is_string(), "{shown:#}");
        }
    }
    for (action, status, times) in case.evidence {
        let found = attempts.iter().filter(|at| at["action"] == *action && at["http_status"] == *status).count();
        let may_be_more = *action == "poll" || matches!(case.ends, Failed("deadline_exceeded"));
        let fits = if may_be_more && *times > 0 { found >= *times } else { found == *times };
        assert!(fits, "{action} {status}: {found} times: {shown:#}");
    }
    assert!(attempts.iter().all(|at| at["decision"] != ""), "an exchange without a decision: {shown:#}");
    let said = json!([export["error"]["detail"], export["warnings"], attempts]).to_string();
    assert!(said.contains(case.says), "{shown:#}");
    assert_tells_nothing_secret(gateway, &shown);
    let after = gateway.sandbox_state(account.vendor).await["submissions"].as_u64().unwrap_or_default();
    assert_eq!(after - before, case.submissions, "{shown:#}");
    if export["error"]["code"] == "vendor_credentials_rejected" {
        connection_is_unhealthy_until_checked(gateway, account).await;
    }
}

async fn assert_right(gateway: &TestGateway, account: &DemoConnection, export: &Value, fault: &str) {
    assert_eq!(export["state"], "succeeded", "{fault}: {export:#}");
    let records = by_vendor_user_id(parse_lines(&gateway.download(export).await));
    assert_eq!(records, truth(gateway, account), "{fault}");
}

/// No record, no credential, no signed link in what callers see.
fn assert_tells_nothing_secret(gateway: &TestGateway, shown: &Value) {
    let text = shown.to_string();
    let people = (0..7).map(|index| gateway.sandbox.world().person(index));
    let personal = people.flat_map(|person| [person.email, person.phone, person.last_name]).flatten();
    let secrets = ["X-Amz-Signature", ".zip?", "sandbox-braze-key", "4aaa22c7-679f"].map(String::from);
    for secret in personal.chain(secrets) {
        assert!(!text.contains(&secret), "`{secret}` in {shown:#}");
    }
}

async fn connection_is_unhealthy_until_checked(gateway: &TestGateway, account: &DemoConnection) {
    let path = format!("/v1/connections/{}", account.name);
    assert_eq!(gateway.get(&path).await.json()["health"], "unhealthy");
    gateway.faults(&[]).await;
    assert_eq!(gateway.post(&format!("{path}/check"), &json!({})).await.json()["health"], "healthy");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_vendor_is_waited_for_and_counts_as_no_failure() {
    let gateway = Setup::default().fault("braze.segment.busy").start().await;
    let account = gateway.connect("braze").await;
    let export = gateway.submit(&TestGateway::everybody(&account)).await;
    let waiting = gateway.seen(&export, |export| export["waiting_reason"] == "vendor_busy").await;
    assert_eq!((&waiting["state"], &waiting["attempt"]), (&json!("running"), &json!(1)), "{waiting:#}");
    assert!(waiting["retry_at"].is_null(), "{waiting:#}");
    // More refusals than failures are allowed.
    eventually("ten refusals", async || (gateway.attempts(&export).await.len() >= 10).then_some(())).await;
    gateway.faults(&[]).await;
    let export = gateway.finished(&export).await;
    assert_eq!((&export["state"], &export["attempt"]), (&json!("succeeded"), &json!(1)), "{export:#}");
    assert_eq!(gateway.sandbox_state("braze").await["submissions"], 1);
}

/// An outage is no answer: the export goes on for as long as it would wait for a silent vendor.
#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_waited_out_and_only_the_stall_window_ends_it() {
    let gateway = Setup::default().fault("growingio_cdp.job.server_error").start().await;
    let account = gateway.connect("growingio_cdp").await;
    let waiting = gateway.submit(&TestGateway::everybody(&account)).await;
    let failing = gateway.seen(&waiting, |export| export["attempt"].as_i64() > Some(12)).await;
    assert!(failing["retry_at"].is_string() && failing["state"] == "running", "{failing:#}");
    gateway.faults(&[]).await;
    assert_right(&gateway, &account, &gateway.finished(&waiting).await, "outage").await;
    assert_eq!(gateway.sandbox_state("growingio_cdp").await["submissions"], 1);

    gateway.faults(&["growingio_cdp.job.server_error"]).await;
    let lost = gateway.submit(&TestGateway::everybody(&account)).await;
    gateway.seen(&lost, |export| export["attempt"].as_i64() > Some(2)).await;
    let silence = "update export set last_progress_at = now() - interval '1 day' where finished_at is null";
    sqlx::query(silence).execute(&gateway.db).await.unwrap();
    let lost = gateway.finished(&lost).await;
    assert_eq!(lost["error"]["code"], "vendor_unavailable", "{lost:#}");
    let detail = lost["error"]["detail"].as_str().unwrap();
    assert!(detail.contains("1440 minutes") && detail.contains("500"), "{detail}");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_lost_answer_no_second_export_is_begun_beside_the_first() {
    let mut setup = Setup::default().fault("braze.segment.lost_answer=1");
    setup.sandbox.processing = Duration::from_secs(3);
    let gateway = setup.start().await;
    let account = gateway.connect("braze").await;
    let export = gateway.submit(&TestGateway::everybody(&account)).await;
    let guarded = |export: &Value| export["phase"] == "reconciling" && export["waiting_reason"] == "vendor_busy";
    gateway.seen(&export, guarded).await;
    assert_eq!(gateway.sandbox_state("braze").await["submissions"], 1);
    let export = gateway.finished(&export).await;
    assert_right(&gateway, &account, &export, "lost_answer").await;
    let state = gateway.sandbox_state("braze").await;
    assert_eq!((&state["submissions"], &state["max_running_per_audience"]), (&json!(2), &json!(1)), "{state:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_submissions_do_not_count_against_asking_again() {
    let faults = ["growingio_cdp.export.html=4", "growingio_cdp.job.gone=4"];
    let setup = faults.iter().fold(Setup::default(), |setup, fault| setup.fault(fault));
    let gateway = setup.start().await;
    let account = gateway.connect("growingio_cdp").await;
    let export = gateway.run(&TestGateway::everybody(&account)).await;
    assert_right(&gateway, &account, &export, "gone").await;
    assert_eq!(gateway.sandbox_state("growingio_cdp").await["submissions"], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deadline_holds_while_an_export_waits_for_its_turn() {
    let mut setup = Setup::default();
    setup.sandbox.processing = Duration::from_hours(1);
    let gateway = setup.start().await;
    let account = gateway.connect("braze").await;
    let first = gateway.submit(&TestGateway::everybody(&account)).await;
    gateway.until(&first, |export| export["phase"] == "vendor_processing").await;
    let mut body = TestGateway::everybody(&account);
    body["parameters"]["fields"] = json!(["user_id"]);
    body["deadline"] = json!("PT1S");
    let second = gateway.run(&body).await;
    assert_eq!(second["error"]["code"], "deadline_exceeded", "{second:#}");
    assert_eq!(gateway.attempts(&second).await, Vec::<Value>::new());
    let events = gateway.events(&second).await;
    assert!(events.iter().any(|event| event["phase"] == "waiting_for_slot"), "{events:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_into_the_own_network_is_blocked() {
    let gateway = gateway().await;
    for vendor in ["braze", "growingio_cdp"] {
        let account = gateway.connect(vendor).await;
        for target in ["http://169.254.169.254/latest", "http://10.0.0.1/", "http://[::1]:9/", "http://2852039166/x"] {
            gateway.faults(&[&format!("{vendor}.file.redirect={target}")]).await;
            let export = gateway.run(&TestGateway::everybody(&account)).await;
            assert_eq!(export["error"]["code"], "egress_blocked", "{target}: {export:#}");
            let attempts = gateway.attempts(&export).await;
            assert!(attempts.iter().any(|at| at["http_status"] == 302), "{attempts:#?}");
        }
        gateway.faults(&[]).await;
        let export = gateway.run(&TestGateway::everybody(&account)).await;
        assert_right(&gateway, &account, &export, "redirect").await;
    }
}

/// `localhost` is judged by what it resolves to, of which 127.0.0.1 is permitted here.
#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_to_another_permitted_host_is_followed_without_the_credential() {
    let gateway = gateway().await;
    for vendor in ["braze", "growingio_cdp"] {
        let account = gateway.connect(vendor).await;
        for host in ["127.0.0.1", "localhost"] {
            let (port, requests) = empty_files().await;
            gateway.faults(&[&format!("{vendor}.file.redirect=http://{host}:{port}/elsewhere?x=1")]).await;
            let export = gateway.run(&TestGateway::everybody(&account)).await;
            assert_eq!(export["result"]["records"], 0, "{export:#}");
            let requests = requests.lock().unwrap().clone();
            assert!(!requests.is_empty(), "{vendor} {host}");
            for request in requests {
                assert!(request.starts_with("get /elsewhere?x=1 http/1.1"), "{request}");
                assert!(!request.contains("authorization") && !request.contains("sandbox-braze-key"), "{request}");
                assert!(!request.contains("referer") && !request.contains("x-amz-signature"), "{request}");
            }
        }
    }
}

/// A server on 127.0.0.1 that answers everything with an empty file and keeps the requests' heads in lower case.
async fn empty_files() -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let requests = Arc::new(Mutex::new(Vec::new()));
    let seen = requests.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            let mut chunk = [0; 1024];
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read(&mut chunk).await {
                    Ok(0) | Err(_) => break,
                    Ok(bytes) => head.extend_from_slice(&chunk[..bytes]),
                }
            }
            seen.lock().unwrap().push(String::from_utf8_lossy(&head).to_lowercase());
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            drop(stream.write_all(answer).await);
        }
    });
    (port, requests)
}
