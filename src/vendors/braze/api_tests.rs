use std::sync::Mutex;

use async_trait::async_trait;
use serde_json::json;

use super::*;
use crate::vendors::{
    http::pause,
    scripted::{Scripted, cut, http, reply},
    shared::{Alone, Issue, Token},
};

const SERIES: Endpoint = Endpoint { path: "/kpi/dau/data_series", permission: "kpi.dau", pool: Pool::Default };

fn api(base: &Url, shared: Arc<dyn Shared>) -> Api {
    Api::new(base.clone(), "key-of-test".into(), http(), shared)
}

fn ask() -> Ask<'static> {
    Ask { action: "poll", endpoint: SERIES, query: &[], body: None, holds: &["data"] }
}

async fn asked(answer: crate::vendors::scripted::Reply) -> Result<Download, VendorError> {
    let server = Scripted::start(vec![answer]).await;
    api(&server.url, Arc::new(Alone)).fetch(ask(), &Exchanges::default()).await
}

#[tokio::test]
async fn every_answer_that_is_no_data_is_classified() {
    use Code::*;
    let again = TRY_AGAIN;
    let html = [("content-type", "text/html")];
    let reset = (Utc::now().timestamp() + 100_000).to_string();
    let used_up = [("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", reset.as_str())];
    for (answer, code, next) in [
        (reply(400, &[], "{}"), VendorRejectedRequest, Next::GiveUp),
        (reply(401, &[], "{}"), VendorCredentialsRejected, Next::GiveUp),
        (reply(403, &[], "{}"), VendorPermissionDenied, Next::GiveUp),
        (reply(404, &[], "{}"), VendorRejectedRequest, Next::GiveUp),
        (reply(302, &[], ""), VendorRejectedRequest, Next::GiveUp),
        (reply(429, &used_up, "{}"), VendorUnavailable, Next::Wait { after: Some(pause(3600)) }),
        (reply(429, &[], "{}"), VendorUnavailable, Next::Wait { after: None }),
        (reply(500, &[], "oops"), VendorUnavailable, again),
        (reply(503, &[], "oops"), VendorUnavailable, again),
        (reply(200, &html, "<html>"), VendorMalformedData, BROKEN),
        (reply(200, &[], "<html>"), VendorMalformedData, BROKEN),
        (reply(200, &[], r#"{"message":"success","data":[{"time":"20"#), VendorMalformedData, BROKEN),
        (reply(200, &[], r#"{"message":"success"}"#), VendorMalformedData, BROKEN),
        (reply(200, &[], r#"["data"]"#), VendorMalformedData, BROKEN),
        (reply(202, &[], r#"{"message":"queued"}"#), VendorUnavailable, again),
        (reply(200, &[], r#"{"message":"queued"}"#), VendorUnavailable, again),
        (reply(200, &[], r#"{"message":"no such app"}"#), VendorRejectedRequest, Next::GiveUp),
        (cut(200, r#"{"message":"success","#), VendorUnavailable, again),
    ] {
        let error = asked(answer).await.unwrap_err();
        assert_eq!((error.code, error.next), (code, next), "{error}");
        assert!(!error.message.contains("key-of-test"));
    }
    // Minor errors beside success, and a sample without `message`.
    for body in [r#"{"message":"success","errors":["minor"],"data":[]}"#, r#"{"data":[]}"#] {
        assert!(asked(reply(200, &[], body)).await.is_ok(), "{body}");
    }
}

/// What was taken and learned.
#[derive(Default)]
struct Noted(Mutex<Vec<String>>);

#[async_trait]
impl Shared for Noted {
    async fn take(&self, budget: &Budget) -> Result<Permit, VendorError> {
        self.0.lock().unwrap().push(format!("take {}", budget.name));
        Ok(Permit::free())
    }

    async fn learn(&self, budget: &Budget, seen: Seen) {
        self.0.lock().unwrap().push(format!("{} {}/{}", budget.name, seen.remaining, seen.limit));
    }

    async fn token<'a>(&self, _: &str, _: Option<i64>, _: Issue<'a>) -> Result<Token, VendorError> {
        unreachable!("Braze has keys, not tokens")
    }
}

#[tokio::test]
async fn a_call_is_counted_before_it_is_made_and_the_headers_are_believed() {
    let soon = (Utc::now().timestamp() + 60).to_string();
    let past = (Utc::now().timestamp() - 60).to_string();
    let headers = |remaining, reset| {
        [("X-RateLimit-Limit", "2500"), ("X-RateLimit-Remaining", remaining), ("X-RateLimit-Reset", reset)]
    };
    let server = Scripted::start(vec![
        reply(200, &headers("2499", &soon), r#"{"data":[]}"#),
        reply(429, &headers("0", &soon), "{}"),
        reply(200, &headers("2498", &past), r#"{"data":[]}"#),
        reply(200, &headers("9999", &soon), r#"{"data":[]}"#),
        reply(200, &headers("many", &soon), r#"{"data":[]}"#),
    ])
    .await;
    let noted = Arc::new(Noted::default());
    let api = api(&server.url, noted.clone());
    for _ in 0..5 {
        drop(api.fetch(ask(), &Exchanges::default()).await);
    }
    let noted = std::mem::take(&mut *noted.0.lock().unwrap());
    let take = "take requests";
    assert_eq!(noted, [take, "requests 2499/2500", take, "requests 0/2500", take, take, take]);
}

#[test]
fn budgets_are_those_of_the_documents_and_tell_nothing_of_the_key() {
    let api = api(&Url::parse("https://rest.iad-01.braze.com").unwrap(), Arc::new(Alone));
    let budgets: Vec<_> =
        api.budgets().iter().map(|budget| (budget.name, budget.limit, budget.window.as_secs())).collect();
    assert_eq!(
        budgets,
        [
            ("requests", 250_000, 3600),
            ("names", 1_000, 3600),
            ("campaign_series", 50_000, 60),
            ("user_profiles", 250, 60),
            ("user_profiles_few_fields", 40, 1),
        ]
    );
    let account = &api.budgets()[0].account;
    assert!(account.starts_with("rest.iad-01.braze.com#") && !account.contains("key-of-test"));
    let other = Api::new(api.base().clone(), "another".into(), http(), Arc::new(Alone));
    assert_ne!(account, &other.budgets()[0].account);
}

#[tokio::test]
async fn the_key_goes_into_the_header_and_parameters_are_encoded() {
    let server = Scripted::start(vec![reply(200, &[], r#"{"data":[]}"#)]).await;
    let api = api(&server.url.join("eu/").unwrap(), Arc::new(Alone));
    let query = [("event", "50% & more+".to_owned()), ("ending_at", "2026-11-20T00:00:00Z".to_owned())];
    api.fetch(Ask { query: &query, ..ask() }, &Exchanges::default()).await.unwrap();
    let seen = &server.seen()[0];
    assert_eq!(seen.line, "GET /eu/kpi/dau/data_series?event=50%25+%26+more%2B&ending_at=2026-11-20T00%3A00%3A00Z");
    assert_eq!(seen.headers["authorization"], "Bearer key-of-test");
    assert_eq!(json!(shown(SERIES, &[])), json!("/kpi/dau/data_series"));
}
