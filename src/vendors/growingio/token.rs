//! The token that a signed request is answered with: the way of older projects. Each new token ends the one before,
//! so all replicas share one.
//! Source: `api/authenticate/getauth.md`, `api/authenticate/gettoken.md`.

use aws_lc_rs::hmac;
use chrono::{DateTime, TimeDelta, Utc};
use reqwest::{
    Method,
    header::{CONTENT_TYPE, HeaderMap, HeaderValue},
};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::api::{X_CLIENT_ID, secret_header};
use crate::{
    exports::problem::Code,
    vendors::{
        Exchanges, Next, VendorError,
        excerpt::excerpt,
        http::{Answer, Http, OwnCall, TRY_AGAIN, below, decided},
        shared::Issued,
    },
};

/// From its issue on.
const LIFE: TimeDelta = TimeDelta::days(30);
/// A token this close to its end is not used any more.
const MARGIN: TimeDelta = TimeDelta::hours(1);

/// Who asks for a token.
pub struct Signer<'a> {
    pub base: &'a url::Url,
    pub project: &'a str,
    pub ai: &'a str,
    pub client_id: &'a SecretString,
    pub private_key: &'a SecretString,
}

#[derive(Deserialize)]
struct Issue {
    status: Option<String>,
    code: Option<SecretString>,
}

#[derive(Deserialize)]
struct Refusal {
    message: Option<String>,
}

impl Signer<'_> {
    /// Asks for a new token, which ends the one before.
    ///
    /// # Errors
    /// `vendor_credentials_rejected` when there is none for these keys.
    pub async fn issue(&self, http: &Http, exchanges: &Exchanges) -> Result<Issued, VendorError> {
        let now = Utc::now();
        let mut headers = HeaderMap::new();
        headers.insert(X_CLIENT_ID, secret_header("", self.client_id)?);
        // The documents say "raw text", not a form.
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        let body = SecretString::from(self.body(now));
        let call = OwnCall {
            action: "token",
            method: Method::POST,
            url: below(self.base, "/auth/token"),
            headers,
            body: Some(body),
            // One that was issued without our knowing is ended by the next.
            when_lost: TRY_AGAIN,
        };
        let answer = http.call_own(call, exchanges).await?;
        decided(exchanges, self.issued(&answer, now), |_| "a new token".into())
    }

    fn issued(&self, answer: &Answer, now: DateTime<Utc>) -> Result<Issued, VendorError> {
        let status = answer.status.as_u16();
        if matches!(status, 408 | 500..) {
            let next = Next::TryAgain { after: answer.retry_after(), at_most: None };
            return Err(answer.error(Code::VendorUnavailable, next, format!("GrowingIO failed with {status}")));
        }
        if status == 429 {
            let next = Next::Wait { after: answer.retry_after() };
            return Err(answer.error(Code::VendorUnavailable, next, "GrowingIO has no room for a token request now"));
        }
        let issue = answer.status.is_success().then(|| serde_json::from_slice::<Issue>(&answer.body).ok()).flatten();
        let token = issue.and_then(|issue| {
            let success = issue.status.is_some_and(|status| status.eq_ignore_ascii_case("success"));
            issue.code.filter(|code| success && !code.expose_secret().is_empty())
        });
        if let Some(token) = token {
            return Ok(Issued { token, expires_at: now + LIFE - MARGIN });
        }
        // Never the whole answer: it may hold a code all the same.
        let why = serde_json::from_slice::<Refusal>(&answer.body).ok().and_then(|refusal| refusal.message);
        let why = why.map(|why| format!(": {}", excerpt(why.as_bytes(), &[self.private_key])));
        let message = format!(
            "GrowingIO issued no token for these keys ({status}); it may have been switched off for the project, which \
             then needs a token from its settings{}",
            why.unwrap_or_default()
        );
        Err(answer.error(Code::VendorCredentialsRejected, Next::GiveUp, message))
    }

    /// The signed request of that time.
    fn body(&self, now: DateTime<Utc>) -> String {
        let fields = format!("project={}&ai={}&tm={}", self.project, self.ai, now.timestamp_millis());
        let auth = sign(self.private_key, &format!("POST\n/auth/token\n{fields}"));
        format!("{fields}&auth={auth}")
    }
}

/// HMAC-SHA256 in lower-case hexadecimal.
fn sign(key: &SecretString, message: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key.expose_secret().as_bytes());
    let mut digits = String::with_capacity(64);
    for byte in hmac::sign(&key, message.as_bytes()).as_ref() {
        for half in [byte >> 4, byte & 0xf] {
            digits.extend(char::from_digit(half.into(), 16));
        }
    }
    digits
}

#[cfg(test)]
mod tests {
    use secrecy::SecretString;
    use url::Url;

    use super::*;
    use crate::vendors::scripted::{Scripted, http, reply};

    const MESSAGE: &str = "POST\n/auth/token\nproject=nxog09md&ai=2a1b4018cd954ec2bcc69da5138bdb96&tm=1465020309123";

    struct Keys {
        base: Url,
        client_id: SecretString,
        private_key: SecretString,
    }

    impl Keys {
        fn new(base: &Url) -> Self {
            Self {
                base: base.clone(),
                client_id: "public-key".into(),
                private_key: "example-private-key-0123456789abcdef".into(),
            }
        }

        fn signer(&self) -> Signer<'_> {
            Signer {
                base: &self.base,
                project: "nxog09md",
                ai: "2a1b4018cd954ec2bcc69da5138bdb96",
                client_id: &self.client_id,
                private_key: &self.private_key,
            }
        }
    }

    #[test]
    fn the_documented_example_is_signed_to_the_digit() {
        let keys = Keys::new(&Url::parse("https://www.growingio.com").unwrap());
        let now = DateTime::from_timestamp_millis(1_465_020_309_123).unwrap();
        assert_eq!(MESSAGE.len(), 86);
        assert_eq!(
            keys.signer().body(now),
            "project=nxog09md&ai=2a1b4018cd954ec2bcc69da5138bdb96&tm=1465020309123\
             &auth=0f77dcf3caf58980e2f117167a3ce852af4bc565a0fc96fafea24d13c2433002"
        );
    }

    #[test]
    fn a_private_key_may_be_any_text() {
        assert_eq!(
            sign(&"私钥-密码".into(), MESSAGE),
            "7beb9cd355726c90792d50da6c26c45652b95e1da27f10b916b4e8422744137a"
        );
    }

    #[tokio::test]
    async fn a_token_is_asked_for_as_documented_and_lives_thirty_days() {
        let server = Scripted::start(vec![reply(200, &[], r#"{"status":"success","code":"issued-token"}"#)]).await;
        let keys = Keys::new(&server.url);
        let issued = keys.signer().issue(&http(), &Exchanges::default()).await.unwrap();
        assert_eq!(issued.token.expose_secret(), "issued-token");
        let life = issued.expires_at - Utc::now();
        assert!(life > TimeDelta::days(29) && life < TimeDelta::days(30), "{life}");
        let sent = &server.seen()[0];
        assert_eq!(sent.line, "POST /auth/token");
        assert_eq!(
            (sent.headers["x-client-id"].as_str(), sent.headers["content-type"].as_str()),
            ("public-key", "text/plain")
        );
        assert!(!sent.headers.contains_key("authorization"));
        assert!(sent.body.starts_with("project=nxog09md&ai=2a1b4018cd954ec2bcc69da5138bdb96&tm="), "{}", sent.body);
        let (fields, auth) = sent.body.split_once("&auth=").unwrap();
        assert_eq!(auth, sign(&keys.private_key, &format!("POST\n/auth/token\n{fields}")));
    }

    #[tokio::test]
    async fn an_exchange_that_fails_is_told_from_one_that_is_refused() {
        use Code::{VendorCredentialsRejected, VendorUnavailable};
        for (status, body, code, next) in [
            (401, r#"{"message":"Unauthorized","errors":[]}"#, VendorCredentialsRejected, Next::GiveUp),
            (403, "", VendorCredentialsRejected, Next::GiveUp),
            (404, "<html>", VendorCredentialsRejected, Next::GiveUp),
            (200, r#"{"status":"fail","message":"error message"}"#, VendorCredentialsRejected, Next::GiveUp),
            (200, r#"{"status":"fail","code":"issued-token"}"#, VendorCredentialsRejected, Next::GiveUp),
            (200, r#"{"status":"success"}"#, VendorCredentialsRejected, Next::GiveUp),
            (200, "<html>", VendorCredentialsRejected, Next::GiveUp),
            (429, "", VendorUnavailable, Next::Wait { after: None }),
            (500, "Internal Server Error", VendorUnavailable, TRY_AGAIN),
        ] {
            let server = Scripted::start(vec![reply(status, &[], body)]).await;
            let exchanges = Exchanges::default();
            let error = Keys::new(&server.url).signer().issue(&http(), &exchanges).await.unwrap_err();
            assert_eq!((error.code, error.next, error.http_status), (code, next, Some(status)), "{status} {body}");
            let kept = format!("{error} {:?}", exchanges.take());
            assert!(!kept.contains("issued-token") && !kept.contains("tm="), "{kept}");
        }
    }
}
