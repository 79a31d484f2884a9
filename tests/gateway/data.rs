//! A result as one stream.

use std::{
    fs::{self, File},
    io::{Read, Write},
};

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, prelude::BASE64_STANDARD};
use flate2::{Compression, read::MultiGzDecoder, write::GzEncoder};
use headgate::ids::{ExportId, FileId};
use reqwest::{Method, StatusCode};
use serde_json::Value;

use crate::support::{Answer, TestGateway, export_path, file_path, gateway};

/// A gateway with one finished export whose files a test chooses.
pub struct Finished {
    pub gateway: TestGateway,
    pub export: Value,
}

pub async fn finished() -> Finished {
    let gateway = gateway().await;
    let export = gateway.run(&TestGateway::everybody(&gateway.connect("braze").await)).await;
    assert_eq!(export["state"], "succeeded", "{export:#}");
    Finished { gateway, export }
}

impl Finished {
    /// Puts these files, by name, in the place of the export's own.
    pub async fn holds(&self, format: &str, files: &[(&str, Vec<u8>)]) {
        let id: ExportId = self.export["id"].as_str().unwrap().parse().unwrap();
        sqlx::query("delete from result_file where export_id = $1").bind(id).execute(&self.gateway.db).await.unwrap();
        sqlx::query(
            "update export set output = jsonb_set(output, '{format}', to_jsonb($2::text)) where export_id = $1",
        )
        .bind(id)
        .bind(format)
        .execute(&self.gateway.db)
        .await
        .unwrap();
        for (position, (name, bytes)) in (1..).zip(files) {
            let key = format!("exports/{id}/chosen/{name}");
            let path = self.path(&key);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
            let compression = match name.rsplit_once('.').unwrap().1 {
                "gz" => "gzip",
                "zst" => "zstd",
                _ => "none",
            };
            let insert = "insert into result_file (file_id, export_id, position, name, object_key, media_type, \
                          compression, bytes, sha256) values ($1, $2, $3, $4, $5, 'application/x-test', $6, $7, $8)";
            sqlx::query(insert)
                .bind(FileId::new())
                .bind(id)
                .bind(position)
                .bind(name)
                .bind(&key)
                .bind(compression)
                .bind(i64::try_from(bytes.len()).unwrap())
                .bind(digest(&SHA256, bytes).as_ref())
                .execute(&self.gateway.db)
                .await
                .unwrap();
        }
    }

    pub fn path(&self, key: &str) -> std::path::PathBuf {
        self.gateway.settings.storage_url.to_file_path().unwrap().join(key)
    }

    pub fn chosen(&self, name: &str) -> std::path::PathBuf {
        let id = self.export["id"].as_str().unwrap();
        self.path(&format!("exports/{id}/chosen/{name}"))
    }

    async fn ask(&self, method: Method, headers: &[(&str, &str)]) -> Answer {
        let request = self.gateway.request(method, &format!("{}/data", export_path(&self.export)));
        Answer::of(headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))).await
    }

    async fn get(&self, headers: &[(&str, &str)]) -> Answer {
        self.ask(Method::GET, headers).await
    }
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

fn gunzip(bytes: &[u8]) -> String {
    let mut text = String::new();
    MultiGzDecoder::new(bytes).read_to_string(&mut text).unwrap();
    text
}

fn unzstd(bytes: &[u8]) -> String {
    String::from_utf8(zstd::decode_all(bytes).unwrap()).unwrap()
}

fn lines(from: u32, to: u32) -> String {
    (from..to).fold(String::new(), |text, n| text + &format!("{{\"n\":{n}}}\n"))
}

/// The length that was announced is that of the body, and `HEAD` says the same as `GET`.
async fn head_agrees(at: &Finished, headers: &[(&str, &str)], got: &Answer) {
    let head = at.ask(Method::HEAD, headers).await;
    assert_eq!((head.status, head.body.len()), (got.status, 0));
    for name in ["content-length", "content-encoding", "content-type", "etag", "repr-digest", "accept-ranges", "vary"] {
        assert_eq!(head.header(name), got.header(name), "{name}");
    }
    if !got.header("content-length").is_empty() {
        assert_eq!(got.header("content-length"), got.body.len().to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_data_of_one_plain_file_is_that_file() {
    let at = finished().await;
    let got = at.get(&[]).await;
    assert_eq!(got.status, StatusCode::OK, "{got:?}");
    assert_eq!(got.body, at.gateway.download(&at.export).await);
    assert_eq!(got.header("content-type"), "application/x-ndjson");
    assert_eq!(got.header("content-disposition"), "attachment; filename=\"audience_members.ndjson\"");
    assert_eq!((got.header("vary"), got.header("accept-ranges")), ("Accept-Encoding", "bytes"));
    assert_eq!(got.header("cache-control"), "private, no-store");
    let sha256 = BASE64_STANDARD.encode(digest(&SHA256, &got.body));
    assert_eq!(got.header("repr-digest"), format!("sha-256=:{sha256}:"));
    head_agrees(&at, &[], &got).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_plain_files_are_joined_and_ranges_go_across_them() {
    let at = finished().await;
    let parts = [lines(0, 500), String::new(), lines(500, 501), lines(501, 2000)];
    let files: Vec<_> = ["a.ndjson", "b.ndjson", "c.ndjson", "d.ndjson"]
        .into_iter()
        .zip(&parts)
        .map(|(name, part)| (name, part.clone().into_bytes()))
        .chain([("rejected.ndjson", b"{\"line\":7}\n".to_vec())])
        .collect();
    at.holds("ndjson", &files).await;
    let whole = parts.concat();
    let got = at.get(&[]).await;
    assert_eq!((got.status, got.text() == whole), (StatusCode::OK, true));
    assert_eq!(got.header("content-length"), whole.len().to_string());
    head_agrees(&at, &[], &got).await;
    let first = parts[0].len();
    for (from, to) in [(0, 1), (first - 3, first + 2), (10, whole.len()), (first, first + 9), (first + 1, first + 30)] {
        let range = format!("bytes={from}-{}", to - 1);
        let answer = at.get(&[("range", &range), ("if-range", got.header("etag")), ("accept-encoding", "gzip")]).await;
        assert_eq!((answer.status, answer.text().as_str()), (StatusCode::PARTIAL_CONTENT, &whole[from..to]), "{range}");
        assert_eq!(answer.header("content-range"), format!("bytes {from}-{}/{}", to - 1, whole.len()));
    }
    let answer = at.get(&[("range", "bytes=999999-")]).await;
    answer.problem(416, "range_not_satisfiable");
    assert_eq!(answer.header("content-range"), format!("bytes */{}", whole.len()));
    let answer = at.get(&[("if-none-match", got.header("etag"))]).await;
    assert_eq!((answer.status, answer.body.len()), (StatusCode::NOT_MODIFIED, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn several_csv_files_have_one_header_row() {
    let at = finished().await;
    let rows = "1,\"a\nb\"\r\n".repeat(300);
    let file = format!("id,text\r\n{rows}");
    let whole = format!("id,text\r\n{rows}{rows}");
    let header_only = b"id,text\r\n".to_vec();
    let plain = file.clone().into_bytes();
    at.holds("csv", &[("a.csv", plain.clone()), ("b.csv", header_only.clone()), ("c.csv", plain.clone())]).await;
    let got = at.get(&[]).await;
    assert_eq!((got.text() == whole, got.header("content-type")), (true, "text/csv; charset=utf-8"));
    assert_eq!(got.header("content-length"), whole.len().to_string());
    let range = format!("bytes={}-{}", file.len() - 2, file.len() + 2);
    let part = at.get(&[("range", &range)]).await;
    assert_eq!(part.text(), whole[file.len() - 2..=file.len() + 2]);

    at.holds("csv", &[("a.csv.gz", gzip(&file)), ("b.csv.zst", zstd::encode_all(&plain[..], 3).unwrap())]).await;
    let got = at.get(&[]).await;
    assert_eq!((got.text() == whole, got.header("content-encoding")), (true, ""));
    assert_eq!((got.header("content-length"), got.header("accept-ranges")), ("", "none"));
    head_agrees(&at, &[], &got).await;

    at.holds("csv", &[("a.csv", header_only)]).await;
    assert_eq!(at.get(&[]).await.text(), "id,text\r\n");
    at.holds("ndjson", &[]).await;
    let got = at.get(&[]).await;
    assert_eq!((got.status, got.header("content-length")), (StatusCode::OK, "0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_packed_comes_packed_to_whoever_takes_it() {
    let at = finished().await;
    let text = lines(0, 3000);
    let packed = gzip(&text);
    at.holds("ndjson", &[("a.ndjson.gz", packed.clone())]).await;
    let mut tags = Vec::new();
    for accept in [&[][..], &[("accept-encoding", "gzip")], &[("accept-encoding", "br;q=0.9, gzip;q=0.1")]] {
        let got = at.get(accept).await;
        assert_eq!((got.header("content-encoding"), got.body == packed), ("gzip", true), "{accept:?}");
        assert_eq!(got.header("content-type"), "application/x-ndjson");
        let sha256 = BASE64_STANDARD.encode(digest(&SHA256, &packed));
        assert_eq!(got.header("repr-digest"), format!("sha-256=:{sha256}:"));
        head_agrees(&at, accept, &got).await;
        tags.push(got.header("etag").to_owned());
    }
    let part = at.get(&[("range", "bytes=5-9")]).await;
    assert_eq!((part.status, &part.body[..]), (StatusCode::PARTIAL_CONTENT, &packed[5..10]));
    let plain = at.get(&[("accept-encoding", "identity"), ("range", "bytes=5-9")]).await;
    assert_eq!((plain.status, plain.text() == text), (StatusCode::OK, true), "no ranges of what is made on the way");
    tags.push(plain.header("etag").to_owned());
    let zstd = at.get(&[("accept-encoding", "zstd")]).await;
    assert_eq!((zstd.header("content-encoding"), unzstd(&zstd.body) == text), ("zstd", true));
    tags.push(zstd.header("etag").to_owned());
    tags.dedup();
    assert_eq!(tags.len(), 3, "one tag for each coding: {tags:?}");
    assert!(tags.iter().all(|tag| tag.starts_with('"') && tag.ends_with('"')));
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_files_are_packed_on_the_way_for_whoever_likes_that_better() {
    let at = finished().await;
    let text = lines(0, 20_000);
    at.holds("ndjson", &[("a.ndjson", text.clone().into_bytes()), ("b.ndjson", text.clone().into_bytes())]).await;
    let whole = text.repeat(2);
    let got = at.get(&[("accept-encoding", "gzip, deflate")]).await;
    assert_eq!((got.header("content-encoding"), gunzip(&got.body) == whole), ("gzip", true));
    assert_eq!((got.header("content-length"), got.header("vary")), ("", "Accept-Encoding"));
    head_agrees(&at, &[("accept-encoding", "gzip, deflate")], &got).await;
    let current = [("accept-encoding", "gzip"), ("if-none-match", got.header("etag"))];
    assert_eq!(at.get(&current).await.status, StatusCode::NOT_MODIFIED);
    assert_eq!(at.get(&[("if-none-match", got.header("etag"))]).await.status, StatusCode::OK, "another coding");
    let got = at.get(&[("accept-encoding", "gzip, zstd")]).await;
    assert_eq!((got.header("content-encoding"), unzstd(&got.body) == whole), ("zstd", true));
    for accept in ["identity, gzip;q=0.5", "identity", "*", "br"] {
        let got = at.get(&[("accept-encoding", accept)]).await;
        assert_eq!((got.header("content-encoding"), got.text() == whole), ("", true), "{accept}");
    }
    let refused = at.get(&[("accept-encoding", "br, identity;q=0")]).await;
    refused.problem(406, "not_acceptable");
    assert_eq!(refused.header("vary"), "Accept-Encoding");
}

#[tokio::test(flavor = "multi_thread")]
async fn parquet_and_raw_are_given_when_there_is_one_file() {
    let at = finished().await;
    let one = ("a.parquet", b"PAR1 one".to_vec());
    let rejected = ("rejected.ndjson", b"{}\n".to_vec());
    for format in ["parquet", "raw"] {
        at.holds(format, &[one.clone(), rejected.clone()]).await;
        let got = at.get(&[("accept-encoding", "gzip")]).await;
        assert_eq!((&got.body[..], got.header("content-type")), (&one.1[..], "application/x-test"), "{format}");
        assert_eq!(got.header("content-disposition"), "attachment; filename=\"a.parquet\"");
        assert_eq!(at.get(&[("range", "bytes=0-3")]).await.body, b"PAR1");
        at.holds(format, &[one.clone(), ("b.parquet", b"PAR1 two".to_vec())]).await;
        at.get(&[]).await.problem(409, "multiple_files");
        assert_eq!(at.ask(Method::HEAD, &[]).await.status, StatusCode::CONFLICT);
        at.holds(format, &[]).await;
        at.get(&[]).await.problem(404, "not_found");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_data_is_there_only_for_whoever_may_and_only_while_it_is_kept() {
    let at = finished().await;
    let path = format!("{}/data", export_path(&at.export));
    let reader = at.gateway.token_for("crm", "growth", "exports:read exports:write", &["*"]);
    at.gateway.ask(&reader, Method::GET, &path).await.problem(403, "forbidden");
    let stranger = at.gateway.token_for("crm", "sales", "exports:download", &["*"]);
    at.gateway.ask(&stranger, Method::GET, &path).await.problem(404, "not_found");
    at.gateway.faults(&["braze.segment.not_ready"]).await;
    let live = at.gateway.submit(&TestGateway::everybody(&at.gateway.account("braze"))).await;
    at.gateway.get(&format!("{}/data", export_path(&live))).await.problem(409, "export_not_finished");
    at.gateway.delete(&export_path(&at.export)).await;
    at.get(&[]).await.problem(410, "result_expired");
}

/// Text that hardly shrinks, of about so many bytes.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut text = Vec::with_capacity(bytes + 16);
    while text.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        text.extend_from_slice(&state.to_le_bytes());
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_is_cut_while_it_is_read_breaks_the_connection() {
    let at = finished().await;
    // Far more than the sockets between us hold.
    let large = noise(48 << 20);
    let whole = format!("{}/data", export_path(&at.export));
    for (what, name, accept) in [
        ("one file", "a.ndjson", "identity"),
        ("packed on the way", "a.ndjson", "gzip"),
        ("unpacked on the way", "a.ndjson.zst", "identity"),
        ("the file itself", "a.ndjson", "identity"),
    ] {
        let bytes = if is_zstd(name) { zstd::encode_all(&large[..], 1).unwrap() } else { large.clone() };
        at.holds("ndjson", &[(name, bytes), ("b.ndjson", large[..1 << 20].to_vec())]).await;
        let manifest = at.gateway.get(&format!("{}/files", export_path(&at.export))).await.json();
        let path = if what == "the file itself" { file_path(&at.export, &manifest["files"][0]) } else { whole.clone() };
        let request = at.gateway.request(Method::GET, &path).header("accept-encoding", accept);
        let mut download = request.send().await.unwrap();
        assert_eq!(download.status(), StatusCode::OK, "{what}");
        assert_eq!(download.headers().contains_key("content-length"), accept == "identity" && !is_zstd(name));
        let mut received = download.chunk().await.unwrap().unwrap().len();
        File::options().write(true).open(at.chosen(name)).unwrap().set_len(40 << 20).unwrap();
        let broken = loop {
            match download.chunk().await {
                Ok(Some(chunk)) => received += chunk.len(),
                Ok(None) => break false,
                Err(_) => break true,
            }
        };
        assert!(broken, "{what}: it ended cleanly after {received} bytes");
    }
    // Found out before the answer begins, it is a failure like any other.
    at.holds("ndjson", &[("a.ndjson", lines(0, 100).into_bytes())]).await;
    File::options().write(true).open(at.chosen("a.ndjson")).unwrap().set_len(10).unwrap();
    at.get(&[]).await.problem(500, "internal");
    fs::remove_file(at.chosen("a.ndjson")).unwrap();
    at.get(&[("accept-encoding", "identity;q=0, zstd")]).await.problem(500, "internal");
}

fn is_zstd(name: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(_, extension)| extension == "zst")
}
