//! The manifest and the bytes.

use std::io::Read;

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, prelude::BASE64_STANDARD};
use flate2::read::GzDecoder;
use headgate::vendors::registry::{self, VENDORS};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::{
    recorder::Recorder,
    support::{Answer, Setup, TestGateway, eventually, export_path, file_path, gateway, hex, parse_lines},
};

/// A gateway with one finished export of one file.
struct Finished {
    gateway: TestGateway,
    export: Value,
    path: String,
    bytes: Vec<u8>,
}

async fn finished() -> Finished {
    let gateway = gateway().await;
    let export = gateway.run(&TestGateway::everybody(&gateway.connect("braze").await)).await;
    let (path, bytes) = (file_path(&export, &export["result"]["files"][0]), gateway.download(&export).await);
    Finished { gateway, export, path, bytes }
}

impl Finished {
    async fn with(&self, headers: &[(&str, &str)]) -> Answer {
        let request = self.gateway.request(Method::GET, &self.path);
        Answer::of(headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))).await
    }
}

fn sorted(bytes: &[u8]) -> Vec<String> {
    let mut lines: Vec<_> = String::from_utf8(bytes.to_vec()).unwrap().lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[tokio::test(flavor = "multi_thread")]
async fn the_manifest_describes_the_file_as_it_comes() {
    let at = finished().await;
    let manifest = at.gateway.get(&format!("{}/files", export_path(&at.export))).await.json();
    assert_eq!(manifest["files"], at.export["result"]["files"]);
    let file = &manifest["files"][0];
    assert_eq!(file["href"], at.path);
    assert_eq!(file["bytes"], at.bytes.len());
    assert_eq!(file["records"], parse_lines(&at.bytes).len());
    assert_eq!(file["sha256"], hex(digest(&SHA256, &at.bytes).as_ref()));
    assert_eq!((&file["media_type"], &file["compression"]), (&json!("application/x-ndjson"), &json!("none")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_says_what_it_is_and_matches_its_digest() {
    let at = finished().await;
    let answer = at.with(&[]).await;
    let sha256 = digest(&SHA256, &answer.body);
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.header("repr-digest"), format!("sha-256=:{}:", BASE64_STANDARD.encode(sha256)));
    assert_eq!(answer.header("content-length"), answer.body.len().to_string());
    assert_eq!(answer.header("content-type"), "application/x-ndjson");
    assert_eq!(answer.header("accept-ranges"), "bytes");
    assert_eq!(answer.header("cache-control"), "private, no-store");
    let name = at.export["result"]["files"][0]["name"].as_str().unwrap();
    assert_eq!(answer.header("content-disposition"), format!("attachment; filename=\"{name}\""));
    let tag = answer.header("etag");
    assert!(tag.starts_with('"') && tag.ends_with('"') && tag.len() > 2, "not strong: {tag}");
}

#[tokio::test(flavor = "multi_thread")]
async fn head_says_the_same_without_the_bytes() {
    let at = finished().await;
    let got = at.with(&[]).await;
    let head = Answer::of(at.gateway.request(Method::HEAD, &at.path)).await;
    assert_eq!((head.status, head.body.len()), (StatusCode::OK, 0));
    for name in ["content-length", "content-type", "etag", "repr-digest", "accept-ranges", "content-disposition"] {
        assert_eq!(head.header(name), got.header(name), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_current_copy_is_304() {
    let at = finished().await;
    let tag = at.with(&[]).await.header("etag").to_owned();
    let answer = at.with(&[("if-none-match", &tag)]).await;
    assert_eq!((answer.status, answer.body.len()), (StatusCode::NOT_MODIFIED, 0));
    assert_eq!(answer.header("etag"), tag);
    let head = at.gateway.request(Method::HEAD, &at.path).header("if-none-match", &tag);
    assert_eq!(Answer::of(head).await.status, StatusCode::NOT_MODIFIED);
    assert_eq!(at.with(&[("if-none-match", "\"other\"")]).await.body, at.bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_brings_just_those_bytes() {
    let at = finished().await;
    let size = at.bytes.len();
    for (range, start, end) in [
        ("bytes=0-0".to_owned(), 0, 1),
        ("bytes=0-99".into(), 0, 100),
        ("bytes=100-".into(), 100, size),
        ("bytes=-50".into(), size - 50, size),
        (format!("bytes=-{}", size + 1), 0, size),
        (format!("bytes={}-{}", size - 1, size + 10), size - 1, size),
        ("Bytes=7-9".into(), 7, 10),
    ] {
        let answer = at.with(&[("range", &range)]).await;
        assert_eq!(answer.status, StatusCode::PARTIAL_CONTENT, "{range}");
        assert_eq!(answer.header("content-range"), format!("bytes {start}-{}/{size}", end - 1), "{range}");
        assert_eq!(answer.header("content-length"), (end - start).to_string(), "{range}");
        assert_eq!(answer.body, at.bytes[start..end], "{range}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_past_the_end_is_416_with_the_size() {
    let at = finished().await;
    for range in [format!("bytes={}-", at.bytes.len()), "bytes=999999999999999999999-".into(), "bytes=-0".into()] {
        let answer = at.with(&[("range", &range)]).await;
        answer.problem(416, "range_not_satisfiable");
        assert_eq!(answer.header("content-range"), format!("bytes */{}", at.bytes.len()), "{range}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_ranges_and_nonsense_bring_the_whole_file() {
    let at = finished().await;
    for range in ["bytes=0-1,5-6", "lines=0-1", "bytes=9-3", "bytes=a-b", "bytes", "bytes=-"] {
        let answer = at.with(&[("range", range)]).await;
        assert_eq!((answer.status, answer.header("content-range")), (StatusCode::OK, ""), "{range}");
        assert_eq!(answer.body, at.bytes, "{range}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_of_another_file_brings_the_whole_one() {
    let at = finished().await;
    let tag = at.with(&[]).await.header("etag").to_owned();
    let same = at.with(&[("range", "bytes=5-"), ("if-range", &tag)]).await;
    assert_eq!((same.status, &same.body[..]), (StatusCode::PARTIAL_CONTENT, &at.bytes[5..]));
    for other in ["\"other\"", &format!("W/{tag}"), "Tue, 03 Mar 2026 08:00:00 GMT"] {
        let answer = at.with(&[("range", "bytes=5-"), ("if-range", other)]).await;
        assert_eq!((answer.status, &answer.body[..]), (StatusCode::OK, &at.bytes[..]), "{other}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_in_pieces_is_the_file() {
    let at = finished().await;
    let mut got = Vec::new();
    while got.len() < at.bytes.len() {
        let range = format!("bytes={}-{}", got.len(), got.len() + 999);
        got.extend(at.with(&[("range", &range)]).await.body);
    }
    assert_eq!(got, at.bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_exports_is_not_enough_to_download_them() {
    let at = finished().await;
    let reader = at.gateway.token_for("crm", "growth", "exports:read exports:write", &["*"]);
    at.gateway.ask(&reader, Method::GET, &at.path).await.problem(403, "forbidden");
    assert_eq!(Answer::of(at.gateway.anonymous(Method::GET, &at.path)).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread")]
async fn gzip_holds_the_same_lines() {
    let gateway = gateway().await;
    for spec in VENDORS {
        let mut body = TestGateway::everybody(&gateway.connect(spec.name).await);
        let plain = gateway.run(&body).await;
        body["output"] = json!({"compression": "gzip"});
        let packed = gateway.run(&body).await;
        let file = &packed["result"]["files"][0];
        assert_eq!(file["compression"], "gzip");
        assert!(file["name"].as_str().unwrap().ends_with(".ndjson.gz"), "{file}");
        let answer = gateway.get(&file_path(&packed, file)).await;
        assert_eq!(answer.header("content-encoding"), "", "it comes as it is stored");
        let mut unpacked = Vec::new();
        GzDecoder::new(&answer.body[..]).read_to_end(&mut unpacked).unwrap();
        assert_eq!(sorted(&unpacked), sorted(&gateway.download(&plain).await), "{}", spec.name);
        assert_eq!(file["records"], plain["result"]["files"][0]["records"]);
    }
}

/// A recorder in front of the sandbox, and the vendor's account as it is reached through it.
async fn recorded(gateway: &TestGateway, vendor: &str) -> (Recorder, Value) {
    let recorder = Recorder::start(Some(gateway.sandbox.base_url().clone()));
    let account = (registry::vendor(vendor).unwrap().sandbox_connection)(&recorder.url);
    let answer = gateway.put(&format!("/v1/connections/{}", account.name), &account.body).await;
    assert!(answer.status.is_success(), "{answer:?}");
    (recorder, TestGateway::everybody(&account))
}

/// The whole files that the vendor sent through the recorder.
fn sent(recorder: &Recorder) -> Vec<Vec<u8>> {
    let is_file = |target: &str| ["/files/", "/download?", "/buckets/"].iter().any(|part| target.contains(part));
    recorder
        .passed()
        .into_iter()
        .filter(|passed| is_file(&passed.target) && passed.status == 200)
        .map(|passed| passed.answer)
        .collect()
}

/// Every JSON line in a vendor's file, whether it is an archive or not, sorted.
fn records_of(file: &[u8]) -> Vec<String> {
    let mut lines = Vec::new();
    let mut keep = |text: &str| {
        let values = text.lines().filter(|line| !line.is_empty());
        lines.extend(values.map(|line| serde_json::from_str::<Value>(line).unwrap().to_string()));
    };
    match zip::ZipArchive::new(std::io::Cursor::new(file)) {
        Err(_) => keep(std::str::from_utf8(file).unwrap()),
        Ok(mut archive) => {
            for index in 0..archive.len() {
                let mut text = String::new();
                archive.by_index(index).unwrap().read_to_string(&mut text).unwrap();
                keep(&text);
            }
        }
    }
    lines.sort();
    lines
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_is_the_vendors_file_byte_for_byte() {
    for spec in VENDORS {
        let gateway = gateway().await;
        let (recorder, mut body) = recorded(&gateway, spec.name).await;
        body["output"] = json!({"format": "raw"});
        let export = gateway.run(&body).await;
        assert_eq!(export["state"], "succeeded", "{export:#}");
        assert_eq!(sent(&recorder), [gateway.download(&export).await], "{}", spec.name);
        let result = &export["result"];
        assert_eq!((&result["records"], &result["schema"]), (&Value::Null, &Value::Null), "{}", spec.name);
        assert!(!sent(&recorder)[0].is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_keeps_each_of_the_vendors_files() {
    let gateway = Setup::default().fault("growingio_cdp.file.two_parts").start().await;
    let (recorder, mut body) = recorded(&gateway, "growingio_cdp").await;
    body["output"] = json!({"format": "raw"});
    let export = gateway.run(&body).await;
    let mut got = Vec::new();
    for file in export["result"]["files"].as_array().unwrap() {
        got.push(gateway.get(&file_path(&export, file)).await.body);
    }
    assert_eq!(got.len(), 2);
    assert_eq!(got, sent(&recorder));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_vendors_schema_is_the_vendors_own_record() {
    // Of classic GrowingIO, whose files are CSV, the conformance suite looks at the records.
    for spec in VENDORS.iter().filter(|spec| spec.name != "growingio") {
        let gateway = gateway().await;
        let (recorder, mut body) = recorded(&gateway, spec.name).await;
        body["output"] = json!({"schema": "vendor"});
        let export = gateway.run(&body).await;
        assert_eq!(export["state"], "succeeded", "{export:#}");
        let sent: Vec<_> = sent(&recorder).iter().flat_map(|file| records_of(file)).collect();
        assert_eq!(records_of(&gateway.download(&export).await), sent, "{}", spec.name);
        assert_eq!(export["result"]["schema"], Value::Null);
        assert_eq!(export["result"]["records"], 7);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_was_not_selected_is_stored() {
    let gateway = gateway().await;
    for spec in VENDORS {
        let account = gateway.connect(spec.name).await;
        let mut body = TestGateway::everybody(&account);
        body["parameters"]["fields"] = json!(["user_id", "country"]);
        for record in gateway.records(&body).await {
            assert_eq!(record.as_object().unwrap().keys().collect::<Vec<_>>(), ["user_id", "country"]);
        }
        let world = gateway.sandbox.world();
        let people = world.audience(1).unwrap().members().map(|index| (account.truth)(&world.person(index)));
        let truths: Vec<_> = people.collect();
        for (key, bytes) in gateway.stored() {
            let text = String::from_utf8_lossy(&bytes);
            for truth in &truths {
                for column in ["email", "phone", "first_name", "last_name", "birth_date", "vendor_user_id"] {
                    let Some(secret) = truth[column].as_str() else { continue };
                    assert!(!text.contains(secret), "{key} holds {column}");
                }
            }
        }
    }
    assert_eq!(gateway.stored().len(), VENDORS.len());
    let spooled: Vec<_> = std::fs::read_dir(gateway.folder.path().join("spool")).unwrap().collect();
    assert!(spooled.is_empty(), "the vendor's file stayed: {spooled:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_audience_is_a_success_without_records() {
    let gateway = Setup::default().people(0).start().await;
    for spec in VENDORS {
        let export = gateway.run(&TestGateway::everybody(&gateway.connect(spec.name).await)).await;
        assert_eq!(export["state"], "succeeded", "{export:#}");
        assert_eq!(export["result"]["records"], 0, "{}", spec.name);
        for file in export["result"]["files"].as_array().unwrap() {
            let answer = gateway.get(&file_path(&export, file)).await;
            assert_eq!((answer.status, answer.body.len()), (StatusCode::OK, 0));
            assert_eq!(answer.header("content-length"), "0");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_under_way_ends_whole_while_the_gateway_stops() {
    // More than the sockets between us buffer, so that most of it is still to be sent when the gateway is told to stop.
    let mut gateway = Setup::default().people(12_000).start().await;
    let account = gateway.connect("braze").await;
    let export = gateway.run(&TestGateway::everybody(&account)).await;
    let file = &export["result"]["files"][0];
    let mut download = gateway.request(Method::GET, &file_path(&export, file)).send().await.unwrap();
    let mut received = download.chunk().await.unwrap().unwrap().len();
    let stopping = tokio::spawn(gateway.running.take().unwrap().stop());
    // Nobody new is let in: the gateway has begun to stop.
    eventually("a closed door", async || TcpStream::connect(gateway.base.authority()).await.is_err().then_some(()))
        .await;
    assert!(!stopping.is_finished());
    while let Some(chunk) = download.chunk().await.unwrap() {
        received += chunk.len();
    }
    assert!(received > 15_000_000);
    assert_eq!(json!(received), file["bytes"]);
    stopping.await.unwrap();
}
