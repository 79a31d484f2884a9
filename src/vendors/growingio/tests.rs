use std::collections::BTreeMap;

use secrecy::SecretString;
use serde_json::{Value, json};
use url::Url;

use super::*;
use crate::vendors::{
    http::TRY_AGAIN,
    scripted::{Reply, Scripted, account, reply},
    shared::{Issue, Permit, Shared, Token},
};

/// The account of the documents at that address.
pub fn account_at(base: &str, settings: &Value, credentials: &[(&str, &str)]) -> Account {
    let mut all = json!({"base_url": base, "ai": "2a1b4018cd954ec2bcc69da5138bdb96", "project_uid": "nxog09md"});
    for (name, value) in settings.as_object().unwrap() {
        all[name] = value.clone();
    }
    let mut account = account(all, ("token", "t"), &[]);
    account.credentials =
        credentials.iter().map(|(name, value)| ((*name).to_owned(), SecretString::from(*value))).collect();
    account
}

pub fn api(base: &str, settings: &Value, credentials: &[(&str, &str)]) -> Api {
    from(account_at(base, settings, credentials))
}

fn from(account: Account) -> Api {
    let settings = Settings::read(&account).map_err(|errors| format!("{errors:?}")).unwrap();
    Api::new(settings, (account.mapping, account.values), account.http, account.shared)
}

const KEYS: &[(&str, &str)] = &[("client_id", "public-key"), ("private_key", "private-key-of-test")];

fn issued(code: &str) -> Reply {
    reply(200, &[], &json!({"status": "success", "code": code}).to_string())
}

fn unauthorized() -> Reply {
    reply(401, &[], r#"{"message":"Unauthorized","errors":[]}"#)
}

async fn get(api: &Api) -> Result<crate::vendors::http::Answer, VendorError> {
    api.get("poll", "/projects/nxog09md/dashboards.json", &[], &Exchanges::default()).await
}

/// Quirk 21: the bare token is documented, the prefix too.
#[tokio::test]
async fn a_console_token_is_tried_in_the_other_spelling_once() {
    for (settings, spellings) in [
        (json!({}), ["console-token", "Token console-token"]),
        (json!({"authorization_prefix": "Token "}), ["Token console-token", "console-token"]),
    ] {
        let server = Scripted::start(vec![unauthorized(), reply(200, &[], "[]"), unauthorized(), unauthorized()]).await;
        let api = api(server.url.as_str(), &settings, &[("token", "console-token"), ("client_id", "public-key")]);
        get(&api).await.unwrap();
        let error = get(&api).await.unwrap_err();
        assert_eq!((error.code, error.next), (Code::VendorCredentialsRejected, Next::GiveUp));
        let seen = server.seen();
        let sent: Vec<_> = seen.iter().map(|seen| seen.headers["authorization"].as_str()).collect();
        assert_eq!(sent, [spellings, spellings].concat());
        assert!(seen.iter().all(|seen| seen.headers["x-client-id"] == "public-key"));
    }
    let server = Scripted::start(vec![reply(403, &[], "")]).await;
    let api = api(server.url.as_str(), &json!({}), &[("token", "console-token")]);
    assert_eq!(get(&api).await.unwrap_err().code, Code::VendorCredentialsRejected);
    assert!(!server.seen()[0].headers.contains_key("x-client-id"));
}

/// Quirk 22: each new token ends the one before, whoever has it issued.
#[tokio::test]
async fn a_token_that_was_ended_is_issued_anew_up_to_three_times() {
    let mut replies = vec![issued("first"), unauthorized(), issued("second"), reply(403, &[], ""), issued("third")];
    replies.push(reply(200, &[], "[]"));
    let server = Scripted::start(replies).await;
    get(&api(server.url.as_str(), &json!({}), KEYS)).await.unwrap();
    let sent: Vec<_> = server.seen().iter().filter_map(|seen| seen.headers.get("authorization").cloned()).collect();
    assert_eq!(sent, ["first", "second", "third"]);

    let replies = (0..4).flat_map(|_| [issued("ended"), unauthorized()]).collect();
    let server = Scripted::start(replies).await;
    let error = get(&api(server.url.as_str(), &json!({}), KEYS)).await.unwrap_err();
    assert_eq!((error.code, error.next), (Code::VendorUnavailable, Next::TryAgain { after: None, at_most: Some(5) }));
    assert_eq!(server.seen().len(), 8);

    let server = Scripted::start(vec![reply(403, &[], "")]).await;
    let error = get(&api(server.url.as_str(), &json!({}), KEYS)).await.unwrap_err();
    assert_eq!((error.code, error.next), (Code::VendorCredentialsRejected, Next::GiveUp), "of the exchange itself");
}

/// What was asked of it.
#[derive(Default)]
struct Asked(std::sync::Mutex<Vec<String>>);

#[async_trait]
impl Shared for Asked {
    async fn take(&self, budget: &Budget) -> Result<Permit, VendorError> {
        self.0.lock().unwrap().push(format!("take {} {:?}", budget.limit, budget.window));
        Ok(Permit::free())
    }

    async fn learn(&self, _budget: &Budget, _seen: crate::vendors::shared::Seen) {}

    async fn token<'a>(&self, account: &str, rejected: Option<i64>, _issue: Issue<'a>) -> Result<Token, VendorError> {
        self.0.lock().unwrap().push(format!("token of {account}, rejected {rejected:?}"));
        Ok(Token { token: "shared-token".into(), generation: rejected.map_or(7, |generation| generation + 1) })
    }
}

#[tokio::test]
async fn budget_and_token_are_shared_by_account() {
    let server = Scripted::start(vec![unauthorized(), reply(200, &[], "[]")]).await;
    let shared = Arc::new(Asked::default());
    let account = Account { shared: shared.clone(), ..account_at(server.url.as_str(), &json!({}), KEYS) };
    get(&from(account)).await.unwrap();
    let whose = format!("{} nxog09md 2a1b4018cd954ec2bcc69da5138bdb96 public-key", server.url);
    let asked = shared.0.lock().unwrap().clone();
    let token = |rejected: &str| format!("token of {whose}, rejected {rejected}");
    assert_eq!(asked, [token("None"), "take 2 1s".into(), token("Some(7)"), "take 2 1s".into()]);
}

/// Quirk 23 and 27: what is worth another try, whatever the body is.
#[tokio::test]
async fn failures_are_classified_by_their_status() {
    use Code::{VendorDataNotFound, VendorMalformedData, VendorRejectedRequest, VendorUnavailable};
    let timeout = r#"{"message":"Request timeout","errors":[{"code":"request_timeout","message":"Request timeout in 5000 milliseconds"}]}"#;
    let after = Some(Duration::from_secs(9));
    for (status, headers, body, code, next) in [
        (500, &[][..], timeout, VendorUnavailable, TRY_AGAIN),
        (500, &[], "Internal Server Error", VendorUnavailable, TRY_AGAIN),
        (503, &[("retry-after", "9")], "<html>", VendorUnavailable, Next::TryAgain { after, at_most: None }),
        (429, &[("retry-after", "9")], "", VendorUnavailable, Next::Wait { after }),
        (400, &[], r#"{"message":"x","errors":[{"code":"bad_request"}]}"#, VendorRejectedRequest, Next::GiveUp),
        (404, &[], "", VendorDataNotFound, Next::GiveUp),
        (304, &[], "", VendorMalformedData, api::NOT_FOR_LONG),
    ] {
        let server = Scripted::start(vec![reply(status, headers, body)]).await;
        let api = api(server.url.as_str(), &json!({}), &[("token", "t")]);
        let error = get(&api).await.unwrap_err();
        assert_eq!((error.code, error.next, error.http_status), (code, next, Some(status)), "{status} {body}");
    }
}

/// Quirk 4 and 21: a link is opened as it is, without credentials; a new one is asked for when it no longer works.
#[tokio::test]
async fn links_are_opened_without_credentials() {
    use Code::{VendorLinkExpired, VendorMalformedData, VendorUnavailable};
    let html = [("content-type", "text/html; charset=utf-8")];
    for (status, headers, expected) in [
        (200, &[][..], None),
        (400, &[], Some((VendorLinkExpired, Next::Renew))),
        (403, &[], Some((VendorLinkExpired, Next::Renew))),
        (404, &[], Some((VendorLinkExpired, Next::Renew))),
        (410, &[], Some((VendorLinkExpired, Next::Renew))),
        (200, &html, Some((VendorMalformedData, api::NOT_FOR_LONG))),
        (204, &[], Some((VendorMalformedData, api::NOT_FOR_LONG))),
        (503, &[], Some((VendorUnavailable, TRY_AGAIN))),
    ] {
        let server = Scripted::start(vec![reply(status, headers, "")]).await;
        let growingio = connect(account_at(server.url.as_str(), &json!({}), &[("token", "t"), ("client_id", "c")]));
        let locator = server.url.join("a/b%2Fc?sign=%2F").unwrap();
        let file = VendorFile { locator: locator.as_str().into(), extension: "gz".into(), tag: "page".into() };
        let exchanges = Exchanges::default();
        let opened = growingio.map_err(|errors| format!("{errors:?}")).unwrap().open(&file, &exchanges).await;
        assert_eq!(opened.err().map(|error| (error.code, error.next)), expected, "{status}");
        let seen = &server.seen()[0];
        assert_eq!(seen.line, "GET /a/b%2Fc?sign=%2F");
        assert!(!seen.headers.contains_key("authorization") && !seen.headers.contains_key("x-client-id"));
        assert!(!format!("{:?}", exchanges.take()).contains("sign="));
    }
}

#[tokio::test]
async fn a_link_into_the_operators_network_or_in_clear_is_not_followed() {
    let open = |base: &'static str, link: &'static str| async move {
        let file = VendorFile { locator: link.into(), extension: "gz".into(), tag: "page".into() };
        api(base, &json!({}), &[("token", "t")]).open_link(&file, &Exchanges::default()).await.unwrap_err()
    };
    for link in ["http://169.254.169.254/latest", "file:///etc/passwd", "https://u:p@127.0.0.1/"] {
        assert_eq!(open("http://127.0.0.1:9", link).await.code, Code::EgressBlocked, "{link}");
    }
    let error = open("https://www.growingio.com", "http://files.test/a?sign=x").await;
    assert_eq!((error.code, error.next), (Code::EgressBlocked, Next::GiveUp));
    assert!(!error.message.contains("sign="));
    assert_eq!(open("http://127.0.0.1:9", "no link").await.code, Code::VendorMalformedData);
}

#[tokio::test]
async fn a_check_asks_for_the_dashboards() {
    let html = [("content-type", "text/html")];
    let replies = vec![reply(200, &[], "[]"), reply(403, &[], ""), reply(404, &[], ""), reply(200, &html, "<html>")];
    let server = Scripted::start(replies).await;
    let account = account_at(server.url.join("eu/").unwrap().as_str(), &json!({}), &[("token", "t")]);
    let growingio = connect(account).map_err(|errors| format!("{errors:?}")).unwrap();
    let exchanges = Exchanges::default();
    growingio.check(&exchanges).await.unwrap();
    assert_eq!(exchanges.take()[0].decision, "address, project and credentials work");
    let codes = [Code::VendorCredentialsRejected, Code::VendorRejectedRequest, Code::VendorRejectedRequest];
    for code in codes {
        assert_eq!(growingio.check(&exchanges).await.unwrap_err().code, code);
    }
    assert_eq!(server.lines(), ["GET /eu/projects/nxog09md/dashboards.json"; 4]);
}

#[test]
fn every_dataset_is_offered_with_its_one_budget() {
    let account = account_at("https://www.growingio.com", &json!({"requests_per_second": 5}), &[("token", "t")]);
    let growingio = connect(account).map_err(|errors| format!("{errors:?}")).unwrap();
    let budgets = growingio.budgets();
    assert_eq!((budgets.len(), budgets[0].limit, budgets[0].window), (1, 5, Duration::from_secs(1)));
    let bases: BTreeMap<_, _> = SPEC.datasets.iter().map(|spec| (spec.dataset.as_str(), spec.poll_factor)).collect();
    assert_eq!((bases.len(), bases["raw_events"]), (6, 5));
    assert!(Url::parse(settings::BASE_URL).is_ok());
}
