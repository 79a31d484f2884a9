use std::sync::Arc;

use futures_util::TryStreamExt;

use super::{super::api::Pool, *};
use crate::vendors::{
    scripted::{Scripted, http, reply},
    shared::Alone,
};

const ENDPOINT: Endpoint = Endpoint { path: "/things", permission: "things.list", pool: Pool::Default };

fn list(turn: Turn) -> List {
    List { endpoint: ENDPOINT, rows: &["things"], query: vec![("a", "b".to_owned())], turn }
}

fn api(server: &Scripted) -> Api {
    Api::new(server.url.clone(), "key-of-test".into(), http(), Arc::new(Alone))
}

fn rows(verbatim: bool) -> Rows {
    Rows { verbatim, key: |row| member(row, "id"), keep: Arc::new(|_| true), details: None }
}

async fn read_all(server: &Scripted, turn: Turn, rows: Rows) -> Result<String, VendorError> {
    let (api, list, exchanges) = (api(server), list(turn), Exchanges::default());
    let first = list.page(&api, "poll", None, &exchanges).await?;
    let chunks: Vec<_> = read(api, list, rows, first, exchanges).body.try_collect().await?;
    Ok(String::from_utf8(chunks.concat()).unwrap())
}

fn page(ids: &[&str]) -> crate::vendors::scripted::Reply {
    let rows: Vec<_> = ids.iter().map(|id| format!("{{\"id\":\n\"{id}\"}}")).collect();
    reply(200, &[], &format!(r#"{{"message":"success","things":[{}]}}"#, rows.join(",")))
}

#[tokio::test]
async fn a_short_page_is_the_last_and_a_row_that_slipped_comes_once() {
    let server = Scripted::start(vec![page(&["1", "2"]), page(&["2", "3"]), page(&["4"])]).await;
    let read = read_all(&server, Turn::Number { size: 2 }, rows(false)).await.unwrap();
    assert_eq!(read, "{\"id\": \"1\"}\n{\"id\": \"2\"}\n{\"id\": \"3\"}\n{\"id\": \"4\"}\n");
    assert_eq!(server.lines(), ["GET /things?a=b&page=0", "GET /things?a=b&page=1", "GET /things?a=b&page=2"]);
}

#[tokio::test]
async fn a_full_last_page_is_followed_by_an_empty_one() {
    let server = Scripted::start(vec![page(&["1", "2"]), page(&[])]).await;
    read_all(&server, Turn::Offset { limit: 2 }, rows(false)).await.unwrap();
    assert_eq!(server.lines(), ["GET /things?a=b&limit=2&offset=0", "GET /things?a=b&limit=2&offset=2"]);
}

#[tokio::test]
async fn a_list_that_never_ends_is_left() {
    let server = Scripted::start(vec![page(&["1", "2"]), page(&["1", "2"]), page(&["1", "2"])]).await;
    let error = read_all(&server, Turn::Number { size: 2 }, rows(false)).await.unwrap_err();
    assert_eq!((error.code, error.next), (Code::VendorMalformedData, Next::GiveUp));
    assert_eq!(server.lines().len(), 2);
}

#[tokio::test]
async fn a_failure_in_the_middle_is_no_end() {
    let server = Scripted::start(vec![page(&["1", "2"]), reply(503, &[], "")]).await;
    let error = read_all(&server, Turn::Number { size: 2 }, rows(false)).await.unwrap_err();
    assert_eq!(error.code, Code::VendorUnavailable);
}

/// Quirk 30.
#[test]
fn a_cursor_is_taken_from_the_next_link_and_nothing_else() {
    let next = |header| next_cursor(header).unwrap();
    assert_eq!(next(r#"<https://rest.test/events?cursor=a%3D%3D>; rel="next""#).as_deref(), Some("a=="));
    assert_eq!(next(r#"</events?cursor=p>; rel="prev",</events?x=1&cursor=n#f>; rel="next""#).as_deref(), Some("n"));
    assert_eq!(next(r#"</events?cursor=p>; rel=prev, </events?cursor=n>; title="a"; rel=next"#).as_deref(), Some("n"));
    assert_eq!(next(r#"</events?cursor=p>; rel="prev""#), None);
    assert_eq!(next(""), None);
    assert!(next_cursor(r#"</events>; rel="next""#).is_err());
}

#[tokio::test]
async fn a_cursor_is_sent_back_encoded_and_one_that_repeats_is_refused() {
    let linked = |cursor: &str| {
        let link = format!("<https://elsewhere.test/things?cursor={cursor}>; rel=\"next\"");
        reply(200, &[("Link", &link)], r#"{"things":[]}"#)
    };
    let server = Scripted::start(vec![linked("a%3D%2B"), linked("b"), linked("b")]).await;
    let error = read_all(&server, Turn::Cursor, rows(false)).await.unwrap_err();
    assert_eq!(error.code, Code::VendorMalformedData);
    assert_eq!(server.lines(), ["GET /things?a=b", "GET /things?a=b&cursor=a%3D%2B", "GET /things?a=b&cursor=b"]);
}

#[tokio::test]
async fn details_win_over_the_list_and_bytes_stay_brazes_own_when_wanted() {
    let answers = || {
        vec![
            reply(200, &[], r#"{"things":[{"id":"1","name":"old","big":12345678901234567890123}]}"#),
            reply(200, &[], "{\"message\":\"success\",\n\"name\":\"new\"}"),
        ]
    };
    let details = Details { endpoint: Endpoint { path: "/details", ..ENDPOINT }, parameter: "thing_id" };
    let server = Scripted::start(answers()).await;
    let merged = read_all(&server, Turn::Number { size: 2 }, Rows { details: Some(details), ..rows(false) }).await;
    assert_eq!(merged.unwrap(), "{\"id\":\"1\",\"big\":12345678901234567890123,\"name\":\"new\"}\n");
    assert_eq!(server.lines()[1], "GET /details?thing_id=1");

    let server = Scripted::start(answers()).await;
    let raw = read_all(&server, Turn::Number { size: 2 }, Rows { details: Some(details), ..rows(true) }).await.unwrap();
    assert_eq!(
        raw,
        "{\"things\":[{\"id\":\"1\",\"name\":\"old\",\"big\":12345678901234567890123}]}\n\
         {\"message\":\"success\",\n\"name\":\"new\"}\n"
    );
}
