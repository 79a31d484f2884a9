//! Nothing that grants access, and nobody's data, is in the log, in the database or in an answer: the real program
//! with everything logged, and then a search.

use std::{fs, path::Path};

use headgate::vendors::registry::{self, VENDORS};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgPool};
use url::Url;

use crate::{
    process::Process,
    receiver::Receiver,
    recorder::Recorder,
    support::{Answer, JWT_SECRET, MASTER_KEY, Setup, TestGateway, eventually, export_path, file_path, hex},
};

/// `headgate serve` on the gateway's database and files, with everything logged.
fn serve(gateway: &TestGateway, public_url: &str) -> Process {
    let folder = gateway.folder.path();
    let settings = [
        ("HEADGATE_LISTEN", "127.0.0.1:0"),
        ("HEADGATE_PUBLIC_URL", public_url),
        ("HEADGATE_DATABASE_URL", &gateway.database_url),
        ("HEADGATE_DATABASE_MAX_CONNECTIONS", "8"),
        ("HEADGATE_DATA_DIR", folder.to_str().unwrap()),
        ("HEADGATE_MASTER_KEY", MASTER_KEY),
        ("HEADGATE_JWT_SECRET", JWT_SECRET),
        ("HEADGATE_EGRESS_ALLOW", "127.0.0.1/32"),
        ("HEADGATE_POLL_MIN_MS", "50"),
        ("HEADGATE_POLL_MAX_MS", "300"),
        ("HEADGATE_LOG", "trace"),
        ("HEADGATE_LOG_FORMAT", "json"),
    ];
    Process::start("serve", folder, &settings)
}

/// What the process has said so far.
fn log(gateway: &TestGateway) -> String {
    String::from_utf8_lossy(&fs::read(gateway.folder.path().join("serve.log")).unwrap()).into_owned()
}

/// The address of the process, once it listens.
async fn base(gateway: &TestGateway) -> Url {
    let address = eventually("the process listens", async || {
        let line = log(gateway).lines().find(|line| line.contains("the API listens")).map(str::to_owned)?;
        Some(serde_json::from_str::<Value>(&line).unwrap()["address"].as_str().unwrap().to_owned())
    });
    Url::parse(&format!("http://{}/", address.await)).unwrap()
}

/// Every row of every table, as text.
async fn dump(db: &PgPool) -> Vec<(String, String)> {
    let tables: Vec<String> = sqlx::query_scalar(
        "select table_name::text from information_schema.tables where table_schema = 'public' and table_type = 'BASE TABLE'",
    )
    .fetch_all(db)
    .await
    .unwrap();
    let mut rows = Vec::new();
    for table in tables {
        let query = format!("select t::text from \"{table}\" t");
        let texts: Vec<String> = sqlx::query_scalar(AssertSqlSafe(query)).fetch_all(db).await.unwrap();
        rows.extend(texts.into_iter().map(|text| (table.clone(), text)));
    }
    rows
}

/// A vendor, its faults, and the code of the failure they cause.
type Failure = (&'static str, &'static [&'static str], &'static str);
/// Something that must be nowhere: what it is, and the text.
type Secret = (&'static str, String);

/// What passed between gateway and vendor that grants access to something.
fn links(vendor_side: &Recorder) -> Vec<Secret> {
    let mut secrets = Vec::new();
    for passed in vendor_side.passed() {
        if let Some((_, signature)) = passed.target.split_once("X-Amz-Signature=") {
            secrets.push(("a link's signature", signature.to_owned()));
        }
        if let Some((_, name)) = passed.target.split_once("/files/") {
            secrets.push(("a link's unguessable path", name.split('?').next().unwrap().to_owned()));
        }
        if let Some((_, file)) = passed.target.split_once("/download?file=") {
            secrets.push(("a file's address", file.to_owned()));
            let path = percent_encoding::percent_decode_str(file).decode_utf8().unwrap();
            secrets.push(("a file's path", path.into_owned()));
        }
    }
    secrets
}

fn personal(gateway: &TestGateway) -> Vec<Secret> {
    let world = gateway.sandbox.world();
    let mut secrets = Vec::new();
    for spec in VENDORS {
        let account = gateway.account(spec.name);
        for index in world.audience(1).unwrap().members() {
            let truth = (account.truth)(&world.person(index));
            for (column, what) in [("email", "an e-mail address"), ("phone", "a phone number")] {
                secrets.extend(truth[column].as_str().map(|text| (what, text.to_owned())));
            }
        }
    }
    assert!(secrets.iter().any(|(what, _)| *what == "an e-mail address"));
    secrets
}

fn assert_nowhere(place: &str, text: &str, secrets: &[Secret]) {
    for (what, secret) in secrets {
        assert!(secret.len() >= 6, "too short to search for: {what} {secret}");
        for form in [secret, &hex(secret.as_bytes())] {
            if let Some(position) = text.find(form.as_str()) {
                let start = text[..position].char_indices().rev().nth(200).map_or(0, |(start, _)| start);
                let around: String = text[start..].chars().take(400).collect();
                panic!("{what} is in {place}: …{around}…");
            }
        }
    }
}

/// Follows one export through the process, reads everything about it, and answers the export.
async fn run_and_read(gateway: &TestGateway, answers: &mut Vec<Answer>, body: &Value) -> Value {
    let submitted = gateway.post("/v1/exports", body).await;
    assert_eq!(submitted.status, StatusCode::ACCEPTED, "{submitted:?}");
    let export = gateway.finished(&submitted.json()).await;
    answers.push(submitted);
    for part in ["", "/events", "/attempts", "/files"] {
        answers.push(gateway.get(&format!("{}{part}", export_path(&export))).await);
    }
    export
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_and_nobodys_data_is_logged_stored_or_answered() {
    let mut gateway = Setup::default().start().await;
    gateway.stop().await;
    let (vendor_side, callbacks) = (Recorder::start(Some(gateway.sandbox.base_url().clone())), Recorder::start(None));
    let _process = serve(&gateway, callbacks.url.as_str());
    gateway.base = base(&gateway).await;
    callbacks.lead_to(gateway.base.clone());

    let mut answers = Vec::new();
    let mut secrets: Vec<Secret> = vec![
        ("the master key", MASTER_KEY.into()),
        ("the token secret", JWT_SECRET.into()),
        ("the signature in a faulty redirect", "c0ffee5ec2e7".into()),
    ];
    let receiver = Receiver::start();
    let endpoint = gateway.post("/v1/webhook-endpoints", &json!({"url": receiver.url})).await.json();
    let endpoint_path = format!("/v1/webhook-endpoints/{}", endpoint["id"].as_str().unwrap());
    secrets.push(("a receiver's address", receiver.url.path_segments().unwrap().next_back().unwrap().to_owned()));
    secrets.push(("a webhook's secret", endpoint["secret"].as_str().unwrap().trim_start_matches("whsec_").to_owned()));
    let faults: &[Failure] = &[
        ("braze", &["braze.segment.unauthorized"], "vendor_credentials_rejected"),
        ("braze", &["braze.file.redirect=http://10.9.8.7/x?X-Amz-Signature=c0ffee5ec2e7"], "egress_blocked"),
        ("braze", &["braze.file.bad_record"], "vendor_malformed_data"),
        ("growingio_cdp", &["growingio_cdp.export.unauthorized"], "vendor_credentials_rejected"),
        ("growingio_cdp", &["growingio_cdp.file.redirect=http://10.9.8.7/x?s=c0ffee5ec2e7"], "egress_blocked"),
        ("growingio_cdp", &["growingio_cdp.file.bad_record"], "vendor_malformed_data"),
    ];
    for spec in VENDORS {
        let account = (registry::vendor(spec.name).unwrap().sandbox_connection)(&vendor_side.url);
        let credentials = account.body["credentials"].as_object().unwrap().values();
        secrets.extend(credentials.map(|value| ("a credential", value.as_str().unwrap().to_owned())));
        let path = format!("/v1/connections/{}", account.name);
        answers.push(gateway.put(&path, &account.body).await);
        answers.push(gateway.post(&format!("{path}/check"), &json!({})).await);
        let body = TestGateway::everybody(&account);
        let export = run_and_read(&gateway, &mut answers, &body).await;
        assert_eq!(export["state"], "succeeded", "{export:#}");
        let mut file = gateway.get(&file_path(&export, &export["result"]["files"][0])).await;
        assert!(file.text().contains('@'), "the records themselves are what the caller came for");
        file.body.clear();
        answers.push(file);
        for (_, faults, code) in faults.iter().filter(|(vendor, ..)| *vendor == spec.name) {
            gateway.faults(faults).await;
            let export = run_and_read(&gateway, &mut answers, &body).await;
            assert_eq!(export["error"]["code"], *code, "{faults:?}: {export:#}");
            gateway.faults(&[]).await;
        }
        answers.push(gateway.get(&path).await);
    }
    answers.push(gateway.get("/v1/exports").await);
    let told = receiver.wait_for(1).await;
    secrets.push(("a webhook's signature", told[0].header("webhook-signature").trim_start_matches("v1,").to_owned()));
    answers.push(gateway.get(&format!("{endpoint_path}/deliveries")).await);
    let token = gateway.token();
    answers.push(gateway.ask(&token, Method::GET, "/v1/connections").await);
    secrets.push(("a bearer token", token.rsplit_once('.').unwrap().1.to_owned()));

    secrets.extend(links(&vendor_side));
    assert!(secrets.iter().any(|(what, _)| *what == "a link's signature"));
    assert!(secrets.iter().any(|(what, _)| *what == "a file's address"));
    secrets.extend(personal(&gateway));
    let tokens: Vec<_> = callbacks
        .passed()
        .into_iter()
        .filter_map(|passed| Some(passed.target.strip_prefix("/callbacks/")?.to_owned()))
        .collect();
    assert!(!tokens.is_empty(), "the vendor called back");
    secrets.extend(tokens.into_iter().map(|token| ("a callback token", token)));

    for answer in &answers {
        assert_nowhere("an answer", &format!("{:?} {}", answer.headers, answer.text()), &secrets);
    }
    let db = PgPool::connect(&gateway.database_url).await.unwrap();
    let rows = dump(&db).await;
    db.close().await;
    for table in [
        "connection",
        "export",
        "export_event",
        "vendor_exchange",
        "result_file",
        "webhook_endpoint",
        "webhook_delivery",
    ] {
        assert!(rows.iter().any(|(name, _)| name == table), "nothing was read from {table}");
    }
    for (table, row) in rows {
        assert_nowhere(&table, &row, &secrets);
    }
    let log = log(&gateway);
    assert!(log.contains("\"TRACE\"") && log.contains("the export succeeded"), "not everything was logged");
    for line in log.lines() {
        assert_nowhere("the log", line, &secrets);
    }
    assert_spooled_nothing(gateway.folder.path());
}

fn assert_spooled_nothing(folder: &Path) {
    let left: Vec<_> = fs::read_dir(folder.join("spool")).unwrap().collect();
    assert!(left.is_empty(), "vendor files stayed: {left:?}");
}
