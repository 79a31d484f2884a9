use futures_util::TryStreamExt;

use super::*;
use crate::vendors::scripted::{Reply, Scripted, cut, http, impatient, reply};

fn key() -> SecretString {
    "key-of-test".into()
}

async fn get(base: &Url, exchanges: &Exchanges) -> Result<Answer, VendorError> {
    send(Method::GET, base, None, TRY_AGAIN, exchanges).await
}

async fn post(base: &Url, exchanges: &Exchanges) -> Result<Answer, VendorError> {
    send(Method::POST, base, Some(&serde_json::json!({"a": 1})), Next::OutcomeUnknown, exchanges).await
}

async fn send(
    method: Method,
    base: &Url,
    body: Option<&Value>,
    when_lost: Next,
    exchanges: &Exchanges,
) -> Result<Answer, VendorError> {
    let mut url = below(base, "/things");
    url.set_query(Some("token=secret"));
    http().call(Call { action: "submit", method, url, bearer: &key(), body, when_lost }, exchanges).await
}

async fn open(url: Url, exchanges: &Exchanges) -> Result<FileAnswer, VendorError> {
    http().open(FileCall { action: "download", url, bearer: None, probe: false }, exchanges).await
}

#[tokio::test]
async fn a_call_sends_the_bearer_and_records_no_query() {
    let server = Scripted::start(vec![reply(201, &[("retry-after", "7")], "{}")]).await;
    let exchanges = Exchanges::default();
    let answer = post(&server.url, &exchanges).await.unwrap();
    assert_eq!((answer.status.as_u16(), &answer.body[..]), (201, &b"{}"[..]));
    assert_eq!(answer.retry_after(), Some(Duration::from_secs(7)));
    let seen = &server.seen()[0];
    assert_eq!((seen.line.as_str(), seen.body.as_str()), ("POST /things?token=secret", r#"{"a":1}"#));
    assert_eq!(seen.headers["authorization"], "Bearer key-of-test");
    assert_eq!(seen.headers["content-type"], "application/json");
    assert!(seen.headers["user-agent"].starts_with("headgate/"));
    let exchange = &exchanges.take()[0];
    let target = format!("127.0.0.1:{}/things", server.url.port().unwrap());
    assert_eq!((exchange.method, &exchange.target, exchange.http_status), ("POST", &target, Some(201)));
}

#[tokio::test]
async fn an_address_the_policy_blocks_is_never_called() {
    let exchanges = Exchanges::default();
    for url in ["http://169.254.169.254/", "http://127.0.0.2/", "http://[::1]/", "http://user@127.0.0.1/"] {
        let url = Url::parse(url).unwrap();
        for error in [get(&url, &exchanges).await.unwrap_err(), open(url, &exchanges).await.err().unwrap()] {
            assert_eq!((error.code, error.next), (Code::EgressBlocked, Next::GiveUp));
        }
    }
    assert!(exchanges.take().iter().all(|exchange| exchange.http_status.is_none() && !exchange.decision.is_empty()));
}

#[tokio::test]
async fn a_name_that_resolves_to_a_blocked_address_is_never_called() {
    let http = Http::new(EgressPolicy::default()).unwrap();
    let url = Url::parse("http://localhost:1/").unwrap();
    let error = http.open(FileCall { action: "poll", url, bearer: None, probe: true }, &Exchanges::default()).await;
    assert_eq!(error.err().unwrap().code, Code::EgressBlocked);
}

#[tokio::test]
async fn before_a_connection_stands_a_repeat_is_safe() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = Url::parse(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
    drop(listener);
    let exchanges = Exchanges::default();
    let error = post(&url, &exchanges).await.unwrap_err();
    assert_eq!((error.code, error.next), (Code::VendorUnavailable, TRY_AGAIN));
    assert_eq!(exchanges.take().len(), 1);
}

#[tokio::test]
async fn a_lost_answer_leaves_the_outcome_unknown() {
    for (http, lost) in [(impatient(), Reply::Silence), (http(), Reply::Bytes(Vec::new())), (http(), cut(200, "{"))] {
        let server = Scripted::start(vec![lost]).await;
        let url = server.url.join("?token=secret").unwrap();
        let (bearer, when_lost) = (key(), Next::OutcomeUnknown);
        let call = Call { action: "submit", method: Method::POST, url, bearer: &bearer, body: None, when_lost };
        let error = http.call(call, &Exchanges::default()).await.unwrap_err();
        assert_eq!((error.code, error.next), (Code::VendorUnavailable, Next::OutcomeUnknown), "{}", error.message);
        assert!(!error.message.contains("127.0.0.1") && !error.message.contains("secret"), "{}", error.message);
    }
    let server = Scripted::start(vec![Reply::Bytes(Vec::new())]).await;
    assert_eq!(get(&server.url, &Exchanges::default()).await.unwrap_err().next, TRY_AGAIN);
}

#[tokio::test]
async fn a_call_follows_redirects_within_its_origin_only() {
    let server = Scripted::start(vec![
        reply(302, &[("location", "/moved")], ""),
        reply(200, &[], "{}"),
        reply(308, &[("location", "/moved")], ""),
        reply(200, &[], "{}"),
        reply(303, &[("location", "/moved")], ""),
    ])
    .await;
    let exchanges = Exchanges::default();
    assert!(get(&server.url, &exchanges).await.is_ok());
    assert!(post(&server.url, &exchanges).await.is_ok());
    let error = post(&server.url, &exchanges).await.unwrap_err();
    assert_eq!((error.code, error.http_status), (Code::VendorRejectedRequest, Some(303)));
    let things = |method: &str| format!("{method} /things?token=secret");
    assert_eq!(
        server.lines(),
        [things("GET"), "GET /moved".into(), things("POST"), "POST /moved".into(), things("POST")]
    );
    assert_eq!(server.seen()[3].body, r#"{"a":1}"#);
    assert_eq!(exchanges.take().len(), 5);
}

#[tokio::test]
async fn a_call_never_takes_its_credential_elsewhere() {
    let other = Scripted::start(vec![]).await;
    for location in [other.url.as_str(), "http://169.254.169.254/", "https://127.0.0.1/", "ftp://127.0.0.1/"] {
        let server = Scripted::start(vec![reply(307, &[("location", location)], "")]).await;
        let error = get(&server.url, &Exchanges::default()).await.unwrap_err();
        assert_eq!((error.code, error.next), (Code::EgressBlocked, Next::GiveUp), "{location}");
    }
    assert!(other.seen().is_empty());
}

#[tokio::test]
async fn redirects_end() {
    let circle = || (0..10).map(|_| reply(302, &[("location", "/things")], "")).collect();
    let server = Scripted::start(circle()).await;
    assert_eq!(get(&server.url, &Exchanges::default()).await.unwrap_err().next, TRY_AGAIN);
    assert_eq!(server.seen().len(), MAX_REDIRECTS + 1);
    let server = Scripted::start(circle()).await;
    assert!(open(server.url.clone(), &Exchanges::default()).await.is_err());
}

#[tokio::test]
async fn an_answer_is_bounded() {
    let large = "x".repeat(MAX_ANSWER + 1);
    let server = Scripted::start(vec![reply(200, &[], &large), reply(500, &[], &large)]).await;
    let error = post(&server.url, &Exchanges::default()).await.unwrap_err();
    assert_eq!((error.code, error.next), (Code::VendorMalformedData, Next::GiveUp));
    assert_eq!(post(&server.url, &Exchanges::default()).await.unwrap().body.len(), MAX_ANSWER);
}

#[tokio::test]
async fn a_file_is_streamed_and_its_address_is_not_recorded() {
    let server = Scripted::start(vec![reply(200, &[], "abc")]).await;
    let exchanges = Exchanges::default();
    let download = open(server.url.join("a/b?sig=1").unwrap(), &exchanges).await.unwrap().into_download();
    assert_eq!(download.length, Some(3));
    let bytes: Vec<Bytes> = download.body.try_collect().await.unwrap();
    assert_eq!(bytes.concat(), b"abc");
    assert_eq!(server.lines(), ["GET /a/b?sig=1"]);
    assert!(!server.seen()[0].headers.contains_key("authorization"));
    assert_eq!(exchanges.take()[0].target, format!("127.0.0.1:{}/…", server.url.port().unwrap()));
}

#[tokio::test]
async fn a_cut_or_silent_file_asks_for_another_try() {
    let server = Scripted::start(vec![cut(200, "abc"), Reply::Silence]).await;
    let download = open(server.url.clone(), &Exchanges::default()).await.unwrap().into_download();
    let error = download.body.try_collect::<Vec<_>>().await.unwrap_err();
    assert_eq!((error.code, error.next), (Code::VendorUnavailable, TRY_AGAIN));
    let call = FileCall { action: "download", url: server.url.clone(), bearer: None, probe: false };
    assert_eq!(impatient().open(call, &Exchanges::default()).await.err().unwrap().next, TRY_AGAIN);
}

#[tokio::test]
async fn looking_at_the_beginning_loses_nothing() {
    let text = "0123456789".repeat(10_000);
    for (limit, is_whole) in [(0, false), (7, false), (99_999, false), (100_000, true), (1_000_000, true)] {
        let server = Scripted::start(vec![reply(200, &[], &text)]).await;
        let peeked = open(server.url.clone(), &Exchanges::default()).await.unwrap().peek(limit).await.unwrap();
        assert_eq!((peeked.beginning.len(), peeked.is_whole), (limit.min(text.len()), is_whole));
        let download = peeked.into_download();
        assert_eq!(download.length, Some(100_000));
        assert_eq!(download.body.try_collect::<Vec<_>>().await.unwrap().concat(), text.as_bytes(), "{limit}");
    }
    let server = Scripted::start(vec![cut(200, "abc"), cut(200, "abc")]).await;
    let peeked = open(server.url.clone(), &Exchanges::default()).await.unwrap().peek(10).await;
    assert_eq!(peeked.err().unwrap().next, TRY_AGAIN);
    let download = open(server.url.clone(), &Exchanges::default()).await.unwrap().peek(2).await.unwrap();
    assert_eq!(download.into_download().body.try_collect::<Vec<_>>().await.unwrap_err().next, TRY_AGAIN);
}

#[tokio::test]
async fn a_file_follows_redirects_but_leaves_the_credential_at_home() {
    let store = Scripted::start(vec![reply(200, &[], "abc")]).await;
    let home = Scripted::start(vec![
        reply(302, &[("location", "/next")], ""),
        reply(302, &[("location", store.url.as_str())], ""),
        reply(302, &[("location", "http://10.0.0.1/")], ""),
    ])
    .await;
    let key = key();
    let call = || FileCall { action: "download", url: home.url.clone(), bearer: Some((&key, &home.url)), probe: true };
    let exchanges = Exchanges::default();
    assert_eq!(http().open(call(), &exchanges).await.unwrap().status.as_u16(), 200);
    assert!(home.seen().iter().all(|seen| seen.headers["authorization"] == "Bearer key-of-test"));
    assert!(home.seen().iter().all(|seen| seen.headers["range"] == "bytes=0-0"));
    assert!(!store.seen()[0].headers.contains_key("authorization"));
    assert_eq!(exchanges.take().len(), 3);
    let error = http().open(call(), &exchanges).await.err().unwrap();
    assert_eq!((error.code, error.next), (Code::EgressBlocked, Next::GiveUp));
}

#[test]
fn a_base_keeps_its_path() {
    for (base, expected) in [
        ("https://x.test", "https://x.test/v1/a%24b"),
        ("https://x.test/", "https://x.test/v1/a%24b"),
        ("https://x.test/braze/eu", "https://x.test/braze/eu/v1/a%24b"),
        ("https://x.test/braze/eu/", "https://x.test/braze/eu/v1/a%24b"),
    ] {
        assert_eq!(below(&Url::parse(base).unwrap(), "/v1/a%24b").as_str(), expected);
    }
}

#[test]
fn retry_after_is_seconds_or_a_date_within_reason() {
    let now = DateTime::parse_from_rfc3339("2026-01-01T00:00:00Z").unwrap().with_timezone(&Utc);
    for (text, secs) in [
        ("120", Some(120)),
        ("0", Some(1)),
        ("999999999999999999", Some(3600)),
        ("Thu, 01 Jan 2026 00:00:30 GMT", Some(30)),
        ("Wed, 31 Dec 2025 00:00:00 GMT", Some(1)),
        ("soon", None),
        ("-5", None),
    ] {
        let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(text))]);
        assert_eq!(retry_after(&headers, now).map(|pause| pause.as_secs()), secs, "{text}");
    }
}

async fn stream(base: &Url, exchanges: &Exchanges) -> Result<FileAnswer, VendorError> {
    let mut url = below(base, "/things");
    url.set_query(Some("token=secret"));
    let (key, when_lost) = (key(), TRY_AGAIN);
    let call = Call { action: "poll", method: Method::GET, url, bearer: &key, body: None, when_lost };
    http().stream(call, exchanges).await
}

#[tokio::test]
async fn a_streamed_answer_may_be_larger_than_a_call_reads() {
    let large = "x".repeat(MAX_ANSWER + 1);
    let server = Scripted::start(vec![
        reply(302, &[("location", "/moved")], ""),
        reply(200, &[], &large),
        reply(200, &[], &large),
        reply(500, &[], &large),
        reply(302, &[("location", "http://127.0.0.2/")], ""),
    ])
    .await;
    let exchanges = Exchanges::default();
    let body = stream(&server.url, &exchanges).await.unwrap().into_download().body;
    assert_eq!(body.try_collect::<Vec<_>>().await.unwrap().concat().len(), large.len());
    let seen = &server.seen()[1];
    assert_eq!((seen.line.as_str(), seen.headers["authorization"].as_str()), ("GET /moved", "Bearer key-of-test"));
    assert!(exchanges.take()[0].target.ends_with("/things"), "no query");

    let error = stream(&server.url, &exchanges).await.unwrap().read(MAX_ANSWER).await.unwrap_err();
    assert_eq!((error.code, error.http_status), (Code::VendorMalformedData, Some(200)));
    let failed = stream(&server.url, &exchanges).await.unwrap().read(10).await.unwrap();
    assert_eq!((failed.status.as_u16(), failed.body.len()), (500, 10));
    assert_eq!(stream(&server.url, &exchanges).await.err().unwrap().code, Code::EgressBlocked);
}

/// Part of a file of `whole`, from a server that can go on with it.
fn part(status: u16, range: &str, sent: &str, length: usize) -> Reply {
    let range = if range.is_empty() { String::new() } else { format!("content-range: bytes {range}\r\n") };
    let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\naccept-ranges: bytes\r\netag: \"v1\"\r\n");
    Reply::Bytes(format!("{head}{range}\r\n{sent}").into_bytes())
}

async fn read_on(replies: Vec<Reply>) -> (Result<Vec<u8>, VendorError>, Vec<crate::vendors::scripted::Seen>) {
    let server = Scripted::start(replies).await;
    let (exchanges, key) = (Exchanges::default(), key());
    let call =
        FileCall { action: "download", url: server.url.clone(), bearer: Some((&key, &server.url)), probe: false };
    let download = http().open(call, &exchanges).await.unwrap().into_download();
    let read = download.body.try_collect::<Vec<_>>().await.map(|chunks| chunks.concat());
    assert_eq!(exchanges.take().len(), server.seen().len(), "every request is written down");
    (read, server.seen())
}

#[tokio::test]
async fn a_file_that_breaks_off_goes_on_where_it_broke() {
    let replies = vec![part(200, "", "0123", 10), part(206, "4-9/10", "45", 6), part(206, "6-9/10", "6789", 4)];
    let (read, seen) = read_on(replies).await;
    assert_eq!(read.unwrap(), b"0123456789");
    let asked: Vec<_> = seen.iter().map(|seen| seen.headers.get("range").map(String::as_str)).collect();
    assert_eq!(asked, [None, Some("bytes=4-"), Some("bytes=6-")]);
    for again in &seen[1..] {
        assert_eq!(again.headers["if-range"], "\"v1\"");
        assert_eq!(again.headers["authorization"], "Bearer key-of-test");
        assert_eq!(again.headers["accept-encoding"], "identity");
    }
}

#[tokio::test]
async fn another_file_or_another_range_is_never_joined() {
    let other = [
        part(200, "", "0123456789", 10),
        part(206, "0-9/10", "0123456789", 10),
        part(206, "4-9/11", "456789", 6),
        part(206, "", "456789", 6),
        reply(403, &[], "expired"),
    ];
    for rest in other {
        let (read, seen) = read_on(vec![part(200, "", "0123", 10), rest]).await;
        let error = read.unwrap_err();
        assert_eq!((error.code, error.next, seen.len()), (Code::VendorUnavailable, TRY_AGAIN, 2));
    }
}

#[tokio::test]
async fn a_file_that_breaks_off_again_and_again_without_a_byte_is_given_up() {
    let mut replies = vec![part(200, "", "0123", 10)];
    replies.extend((0..20).map(|_| part(206, "4-9/10", "", 6)));
    let (read, seen) = read_on(replies).await;
    assert_eq!((read.unwrap_err().next, seen.len()), (TRY_AGAIN, 5));
}

#[tokio::test]
async fn without_a_strong_version_nothing_is_asked_for_again() {
    for header in ["etag: W/\"v1\"\r\naccept-ranges: bytes", "etag: \"v1\"", "accept-ranges: bytes"] {
        let broken = format!("HTTP/1.1 200 X\r\ncontent-length: 10\r\n{header}\r\n\r\n0123");
        let (read, seen) = read_on(vec![Reply::Bytes(broken.into_bytes())]).await;
        assert_eq!((read.unwrap_err().next, seen.len()), (TRY_AGAIN, 1), "{header}");
    }
}
