//! Calls to GrowingIO: addresses, credentials, pace, and what answers mean that are no data.

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt;
use reqwest::{
    Method, StatusCode,
    header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue},
};
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use url::Url;

use super::{
    settings::{Credentials, Prefix, RawData, Settings},
    token::Signer,
};
use crate::{
    exports::{mapping::ValueMaps, problem::Code},
    vendors::{
        Download, Exchanges, Mapping, Next, VendorError, VendorFile,
        http::{Answer, FileAnswer, FileCall, Http, OwnCall, TRY_AGAIN, below, decided},
        shared::{Budget, Shared},
    },
};

pub const X_CLIENT_ID: HeaderName = HeaderName::from_static("x-client-id");

/// A web page, or anything else that is not what is documented, may be a proxy's mood, but not for long.
pub const NOT_FOR_LONG: Next = Next::TryAgain { after: None, at_most: Some(5) };

/// Of an answer that is kept in memory, in bytes: a day of raw data can have thousands of long links.
const MAX_LARGE: usize = 16 * 1024 * 1024;

/// New tokens asked for in one call, when those before are refused.
const MAX_REISSUES: u32 = 3;

/// One account at GrowingIO.
pub struct Api {
    settings: Settings,
    budget: Budget,
    /// Whose tokens they are.
    token_account: String,
    mapping: Mapping,
    values: ValueMaps,
    http: Http,
    shared: Arc<dyn Shared>,
}

/// A token to be sent, and which issue it is if it was issued.
struct Held {
    token: SecretString,
    generation: Option<i64>,
}

/// How much of an answer is waited for.
#[derive(Clone, Copy)]
enum Read {
    Whole,
    Head,
}

enum Reply {
    Whole(Answer),
    Head(FileAnswer),
}

impl Reply {
    const fn status(&self) -> StatusCode {
        match self {
            Self::Whole(answer) => answer.status,
            Self::Head(answer) => answer.status,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Whole(answer) => answer.retry_after(),
            Self::Head(answer) => answer.retry_after(),
        }
    }

    async fn excerpt(self, secret: &SecretString) -> String {
        match self {
            Self::Whole(answer) => answer.excerpt(secret),
            Self::Head(answer) => answer.excerpt(secret).await,
        }
    }
}

impl Api {
    pub fn new(
        settings: Settings,
        (mapping, values): (Mapping, ValueMaps),
        http: Http,
        shared: Arc<dyn Shared>,
    ) -> Self {
        let client_id = settings.credentials.client_id().map(ExposeSecret::expose_secret).unwrap_or_default();
        let token_account = format!("{} {} {} {client_id}", settings.base, settings.project, settings.ai);
        Self { budget: settings.budget(), token_account, settings, mapping, values, http, shared }
    }

    /// The project UID, as it stands in paths.
    pub fn project(&self) -> &str {
        &self.settings.project
    }

    /// The project ID, as it stands in paths of raw data.
    pub fn ai(&self) -> &str {
        &self.settings.ai
    }

    pub const fn raw_data(&self) -> RawData {
        self.settings.raw_data
    }

    pub const fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    /// How the values of what the mapping names are translated.
    pub const fn values(&self) -> &ValueMaps {
        &self.values
    }

    pub const fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Gets a small answer, at most 1 MiB. `path` is percent-encoded, with a leading slash; of `query` what is none is
    /// left out.
    ///
    /// # Errors
    /// Everything but a success; `http_status` tells which. `vendor_data_not_found` for a 404.
    pub async fn get(
        &self,
        action: &'static str,
        path: &str,
        query: &[(&str, Option<String>)],
        exchanges: &Exchanges,
    ) -> Result<Answer, VendorError> {
        match self.ask(action, self.address(path, query), Read::Whole, exchanges).await? {
            Reply::Whole(answer) => Ok(answer),
            Reply::Head(_) => Err(super::no_plan()),
        }
    }

    /// The same for an answer of at most 16 MiB.
    ///
    /// # Errors
    /// As [`Api::get`].
    pub async fn get_large(
        &self,
        action: &'static str,
        path: &str,
        query: &[(&str, Option<String>)],
        exchanges: &Exchanges,
    ) -> Result<Answer, VendorError> {
        let answer = self.open(action, path, query, exchanges).await?;
        let (status, headers) = (answer.status, answer.headers.clone());
        let read = answer.peek(MAX_LARGE).await.and_then(|read| {
            if read.is_whole {
                return Ok(read.beginning);
            }
            let message = "GrowingIO's answer is far larger than documented";
            Err(VendorError::new(Code::VendorMalformedData, NOT_FOR_LONG, message))
        });
        let body = read.inspect_err(|error| exchanges.decide(error.message.clone()))?;
        Ok(Answer { status, headers, body })
    }

    /// The same for an answer of any size: its body is left to be streamed.
    ///
    /// # Errors
    /// As [`Api::get`].
    pub async fn open(
        &self,
        action: &'static str,
        path: &str,
        query: &[(&str, Option<String>)],
        exchanges: &Exchanges,
    ) -> Result<FileAnswer, VendorError> {
        match self.ask(action, self.address(path, query), Read::Head, exchanges).await? {
            Reply::Head(answer) => Ok(answer),
            Reply::Whole(_) => Err(super::no_plan()),
        }
    }

    /// Opens a signed link. It grants access by itself, so no credential goes with it.
    ///
    /// # Errors
    /// [`Next::Renew`] when the link no longer works.
    pub async fn open_link(&self, file: &VendorFile, exchanges: &Exchanges) -> Result<Download, VendorError> {
        let url = self.permitted(file.locator.expose_secret())?;
        let call = FileCall { action: "download", url, bearer: None, probe: false };
        let answer = self.http.open(call, exchanges).await?;
        decided(exchanges, opened(answer).await, |_| "reading".into())
    }

    /// A cheap call that shows whether address, project and credentials work.
    ///
    /// # Errors
    /// When one of them does not.
    pub async fn check(&self, exchanges: &Exchanges) -> Result<(), VendorError> {
        let path = format!("/projects/{}/dashboards.json", self.project());
        let checked = self.open("check", &path, &[], exchanges).await.map_err(|error| match error.http_status {
            Some(404) => {
                let message = "GrowingIO has no such project; check `settings.project_uid` and `settings.base_url`";
                VendorError { code: Code::VendorRejectedRequest, message: message.into(), ..error }
            }
            _ => error,
        });
        let checked = checked.and_then(|answer| {
            if !answer.is_web_page() {
                return Ok(());
            }
            let message = "this is not GrowingIO's API: it answered a web page; check `settings.base_url`";
            Err(VendorError::new(Code::VendorRejectedRequest, Next::GiveUp, message))
        });
        decided(exchanges, checked, |()| "address, project and credentials work".into())
    }

    /// A link of GrowingIO's, unless it would carry the file in clear. A connection that is itself plain http, as to a
    /// simulator, may have such links.
    fn permitted(&self, link: &str) -> Result<Url, VendorError> {
        let Ok(url) = Url::parse(link) else {
            let message = "GrowingIO's download link is no address";
            return Err(VendorError::new(Code::VendorMalformedData, Next::GiveUp, message));
        };
        let policy = self.http.policy();
        policy.check_url(&url).map_err(|blocked| {
            VendorError::new(Code::EgressBlocked, Next::GiveUp, format!("GrowingIO's link: {blocked}"))
        })?;
        if url.scheme() == "http" && self.settings.base.scheme() != "http" && !policy.permits_by_name(&url) {
            let message = "GrowingIO's download link is not https";
            return Err(VendorError::new(Code::EgressBlocked, Next::GiveUp, message));
        }
        Ok(url)
    }

    fn address(&self, path: &str, query: &[(&str, Option<String>)]) -> Url {
        let mut url = below(&self.settings.base, path);
        let given = query.iter().filter_map(|(name, value)| Some((name, value.as_deref()?)));
        if given.clone().next().is_some() {
            url.query_pairs_mut().extend_pairs(given);
        }
        url
    }

    /// Asks until the credentials are taken or known to be bad.
    async fn ask(
        &self,
        action: &'static str,
        url: Url,
        read: Read,
        exchanges: &Exchanges,
    ) -> Result<Reply, VendorError> {
        let mut prefix = self.settings.prefix;
        let (mut rejected, mut reissues) = (None, 0);
        loop {
            let held = self.token(rejected, exchanges).await?;
            let reply = self.call(action, &url, &held.token, prefix, read, exchanges).await?;
            let status = reply.status();
            if !matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
                return self.answered(reply, &held.token, exchanges).await;
            }
            match held.generation {
                // Two spellings are documented, and which of them a project takes is not.
                None if status == StatusCode::UNAUTHORIZED && prefix == self.settings.prefix => {
                    exchanges.decide("refused; trying the other spelling of `Authorization`");
                    prefix = prefix.other();
                }
                Some(generation) if reissues < MAX_REISSUES => {
                    exchanges.decide("refused; asking for a new token");
                    (rejected, reissues) = (Some(generation), reissues + 1);
                }
                Some(_) => {
                    let message = "GrowingIO refuses tokens it has just issued: somebody else may be having tokens \
                                   issued for this project, each of which ends the one before";
                    exchanges.decide(message);
                    return Err(VendorError::new(Code::VendorUnavailable, NOT_FOR_LONG, message)
                        .with_http_status(status.as_u16()));
                }
                None => return self.answered(reply, &held.token, exchanges).await,
            }
        }
    }

    async fn token(&self, rejected: Option<i64>, exchanges: &Exchanges) -> Result<Held, VendorError> {
        let (client_id, private_key) = match &self.settings.credentials {
            Credentials::Console { token, .. } => return Ok(Held { token: token.clone(), generation: None }),
            Credentials::Signed { client_id, private_key } => (client_id, private_key),
        };
        let Settings { base, ai, project, .. } = &self.settings;
        let signer = Signer { base, project, ai, client_id, private_key };
        let issue = || signer.issue(&self.http, exchanges).boxed();
        let token = self.shared.token(&self.token_account, rejected, &issue).await?;
        Ok(Held { token: token.token, generation: Some(token.generation) })
    }

    async fn call(
        &self,
        action: &'static str,
        url: &Url,
        token: &SecretString,
        prefix: Prefix,
        read: Read,
        exchanges: &Exchanges,
    ) -> Result<Reply, VendorError> {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, secret_header(prefix.as_str(), token)?);
        if let Some(client_id) = self.settings.credentials.client_id() {
            headers.insert(X_CLIENT_ID, secret_header("", client_id)?);
        }
        let call = OwnCall { action, method: Method::GET, url: url.clone(), headers, body: None, when_lost: TRY_AGAIN };
        let mut permit = self.shared.take(&self.budget).await?;
        let reply = match read {
            Read::Whole => Reply::Whole(self.http.call_own(call, exchanges).await?),
            Read::Head => Reply::Head(self.http.stream_own(call, exchanges).await?),
        };
        permit.answered();
        Ok(reply)
    }

    /// Lets a success through and says what anything else means.
    async fn answered(&self, reply: Reply, token: &SecretString, exchanges: &Exchanges) -> Result<Reply, VendorError> {
        let (status, after) = (reply.status().as_u16(), reply.retry_after());
        let (code, next, what) = match status {
            200..=299 => return Ok(reply),
            401 | 403 => (Code::VendorCredentialsRejected, Next::GiveUp, "GrowingIO rejected the token"),
            404 => (Code::VendorDataNotFound, Next::GiveUp, "GrowingIO has no such thing"),
            429 => (Code::VendorUnavailable, Next::Wait { after }, "GrowingIO's rate limit is used up"),
            408 | 500.. => (Code::VendorUnavailable, Next::TryAgain { after, at_most: None }, "GrowingIO failed"),
            400..=499 => (Code::VendorRejectedRequest, Next::GiveUp, "GrowingIO refused the request"),
            _ => (Code::VendorMalformedData, NOT_FOR_LONG, "GrowingIO answered something else than documented"),
        };
        let message = format!("{what} ({status}): {}", reply.excerpt(token).await);
        exchanges.decide(message.clone());
        Err(VendorError::new(code, next, message).with_http_status(status))
    }
}

/// The JSON of an answer.
///
/// # Errors
/// When it is none, or not the documented one.
pub fn json<T: DeserializeOwned>(answer: &Answer) -> Result<T, VendorError> {
    serde_json::from_slice(&answer.body).map_err(|_| {
        let shown = answer.excerpt(&SecretString::default());
        let message = format!("GrowingIO answered something that is not its documented JSON: {shown}");
        answer.error(Code::VendorMalformedData, NOT_FOR_LONG, message)
    })
}

/// A header that no log shows.
///
/// # Errors
/// When the credential cannot be sent in a header.
pub fn secret_header(prefix: &str, secret: &SecretString) -> Result<HeaderValue, VendorError> {
    let mut value = HeaderValue::from_str(&format!("{prefix}{}", secret.expose_secret())).map_err(|_| {
        VendorError::new(Code::VendorCredentialsRejected, Next::GiveUp, "the credential cannot be sent in a header")
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// What a link answers. Object stores answer 403, 404 or 400 to a signature that is over, and say no more.
async fn opened(answer: FileAnswer) -> Result<Download, VendorError> {
    let (status, after) = (answer.status.as_u16(), answer.retry_after());
    let (code, next, what) = match status {
        200 if answer.is_web_page() => {
            (Code::VendorMalformedData, NOT_FOR_LONG, "the download link answered a web page")
        }
        200 => return Ok(answer.into_download()),
        408 | 429 | 500.. => {
            (Code::VendorUnavailable, Next::TryAgain { after, at_most: None }, "the file store failed")
        }
        400..=499 => (Code::VendorLinkExpired, Next::Renew, "GrowingIO's download link no longer works"),
        _ => (Code::VendorMalformedData, NOT_FOR_LONG, "the download link answered no file"),
    };
    let message = format!("{what} ({status}): {}", answer.excerpt(&SecretString::default()).await);
    Err(VendorError::new(code, next, message).with_http_status(status))
}
