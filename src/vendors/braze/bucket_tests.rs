use futures_util::TryStreamExt;
use serde_json::json;

use super::*;
use crate::egress::EgressPolicy;
use crate::vendors::scripted::{Scripted, http, reply};

fn open(settings: serde_json::Value, http: &Http) -> Bucket {
    let settings: Settings = serde_json::from_value(settings).unwrap();
    let pair = [(ACCESS_KEY_ID, "id-of-test"), (SECRET_ACCESS_KEY, "c2VjcmV0")];
    let credentials = pair.map(|(name, value)| (name.to_owned(), SecretString::from(value)));
    Bucket::open(&settings, &BTreeMap::from(credentials), http).unwrap()
}

fn strict() -> Http {
    Http::new(EgressPolicy::default()).unwrap()
}

const LISTED: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult><Name>exports</Name><Prefix>at/braze/segment-export/s-1/</Prefix><KeyCount>3</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated>
<Contents><Key>at/braze/segment-export/s-1/2026-11-20/p-1/b.zip</Key><LastModified>2026-11-20T10:00:01.000Z</LastModified><ETag>"1"</ETag><Size>2</Size></Contents>
<Contents><Key>at/braze/segment-export/s-1/2026-11-20/p-2/x.zip</Key><LastModified>2026-11-20T10:00:00.000Z</LastModified><ETag>"2"</ETag><Size>2</Size></Contents>
<Contents><Key>at/braze/segment-export/s-1/2026-11-20/users-p-1.zip</Key><LastModified>2026-11-20T10:00:00.000Z</LastModified><ETag>"3"</ETag><Size>2</Size></Contents>
</ListBucketResult>"#;

#[tokio::test]
async fn objects_are_listed_below_the_segment_and_kept_by_their_prefix() {
    let file = reply(200, &[("Last-Modified", "Fri, 20 Nov 2026 10:00:01 GMT"), ("ETag", "\"1\"")], "PK");
    let store = Scripted::start(vec![reply(200, &[], LISTED), file]).await;
    let (http, exchanges) = (http(), Exchanges::default());
    let bucket = open(json!({"url": "s3://exports/at/braze", "endpoint": store.url, "region": "eu-central-1"}), &http);
    let found = bucket.list(Some("s-1"), "p-1", &exchanges).await.unwrap();
    let keys: Vec<_> = found.iter().map(|object| object.key.as_str()).collect();
    assert_eq!(keys, ["segment-export/s-1/2026-11-20/p-1/b.zip"]);
    let read = bucket.read(keys[0], &exchanges).await.unwrap();
    assert_eq!(read.length, Some(2));
    let bytes: Vec<_> = read.body.try_collect().await.unwrap();
    assert_eq!(bytes.concat(), b"PK");

    let seen = store.seen();
    assert!(seen[0].line.starts_with("GET /exports?list-type=2"), "{}", seen[0].line);
    assert!(seen[0].line.contains("prefix=at%2Fbraze%2Fsegment-export%2Fs-1%2F"), "{}", seen[0].line);
    assert_eq!(seen[1].line, "GET /exports/at/braze/segment-export/s-1/2026-11-20/p-1/b.zip");
    for seen in &seen {
        assert!(seen.headers["authorization"].starts_with("AWS4-HMAC-SHA256 Credential=id-of-test/"));
    }
    for exchange in exchanges.take() {
        assert_eq!(exchange.target, "s3://…/segment-export/…");
    }
}

#[tokio::test]
async fn google_is_spoken_to_as_s3_and_azure_as_itself() {
    let store = Scripted::start(vec![reply(403, &[], ""), reply(403, &[], "")]).await;
    let http = http();
    for url in ["gs://exports", "az://exports"] {
        let bucket = open(json!({"url": url, "endpoint": store.url}), &http);
        let error = bucket.list(Some("s-1"), "p-1", &Exchanges::default()).await.unwrap_err();
        assert_eq!((error.code, error.next), (Code::VendorPermissionDenied, Next::GiveUp), "{url}");
    }
    let seen = store.seen();
    assert!(seen[0].headers["authorization"].starts_with("AWS4-HMAC-SHA256"), "{seen:?}");
    assert!(seen[1].headers["authorization"].starts_with("SharedKey id-of-test:"), "{seen:?}");
}

#[tokio::test]
async fn a_bucket_in_the_operators_network_is_not_reached() {
    for (endpoint, message) in [
        ("https://169.254.169.254/", "169.254.169.254"),
        ("https://127.0.0.1:1/", "127.0.0.1"),
        // A name that leads to a private address.
        ("https://localhost:1/", "localhost"),
        ("http://store.example.test/", "not https"),
    ] {
        let bucket = open(json!({"url": "s3://exports", "endpoint": endpoint}), &strict());
        let error = bucket.list(Some("s-1"), "p-1", &Exchanges::default()).await.unwrap_err();
        assert_eq!((error.code, error.next), (Code::EgressBlocked, Next::GiveUp), "{endpoint}: {error}");
        assert!(error.message.contains(message), "{endpoint}: {error}");
    }
}

#[tokio::test]
async fn a_store_that_fails_is_asked_again_and_its_words_are_not_shown() {
    let broken = || reply(500, &[], "<Error><Key>segment-export/secret</Key></Error>");
    let store = Scripted::start(vec![broken(), broken(), broken()]).await;
    let http = http();
    let bucket = open(json!({"url": "s3://exports", "endpoint": store.url}), &http);
    let error = bucket.list(Some("s-1"), "p-1", &Exchanges::default()).await.unwrap_err();
    assert_eq!((error.code, error.next), (Code::VendorUnavailable, TRY_AGAIN));
    assert!(!error.message.contains("secret"));
}

#[tokio::test]
async fn without_credentials_nothing_is_signed_and_none_are_looked_for() {
    let store = Scripted::start(vec![reply(200, &[], LISTED)]).await;
    let http = http();
    let settings: Settings = serde_json::from_value(json!({"url": "s3://exports", "endpoint": store.url})).unwrap();
    let bucket = Bucket::open(&settings, &BTreeMap::new(), &http).unwrap();
    bucket.check(&Exchanges::default()).await.unwrap();
    let seen = store.seen();
    assert_eq!(seen.len(), 1);
    assert!(!seen[0].headers.contains_key("authorization"));
}
