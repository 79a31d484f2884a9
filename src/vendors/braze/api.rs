//! Calls of Braze's REST API: the key, the budgets they are counted against, and what their answers mean.
//! Answers are judged by status alone, since Braze's texts are undocumented; `_docs/_api/{errors,api_limits}.md`.

use std::{borrow::Cow, sync::Arc, time::Duration};

use aws_lc_rs::digest;
use bytes::{Bytes, BytesMut};
use chrono::{DateTime, TimeDelta, Utc};
use futures_util::{StreamExt, TryStreamExt, stream};
use reqwest::{
    Method, StatusCode,
    header::{HeaderMap, LINK},
};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use url::Url;

use crate::exports::problem::Code;
use crate::vendors::{
    Download, Exchanges, Next, VendorError,
    http::{Answer, Call, Http, TRY_AGAIN, below, decided, pause},
    object::{Members, text},
    shared::{Budget, Pace, Permit, Seen, Shared},
};

/// An answer up to this size is looked at as a whole before it is handed on, in bytes.
const SMALL: usize = 1024 * 1024;
/// The largest page of a list, and the largest details of one thing, in bytes: they may hold whole messages.
const LARGEST: usize = 16 * 1024 * 1024;

/// Garbage instead of an answer may be a proxy's mood, but not for long.
pub const BROKEN: Next = Next::TryAgain { after: None, at_most: Some(5) };

/// Requests that share one limit. Source: `_docs/_api/api_limits.md`; the headers of an answer beat these numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pool {
    /// What most endpoints share.
    Default,
    /// Lists of events, attributes and products. The pages of the purchase series say so too, the table of limits does
    /// not: the smaller reading is kept.
    Names,
    CampaignSeries,
    /// Users by their ids.
    Profiles,
    /// The same with named fields, but neither `campaigns_received` nor `canvases_received`.
    FewFields,
}

impl Pool {
    pub const ALL: [Self; 5] = [Self::Default, Self::Names, Self::CampaignSeries, Self::Profiles, Self::FewFields];

    fn budget(self, account: &str) -> Budget {
        let (name, says, limit, window, pace) = match self {
            Self::Default => ("requests", "Most calls", 250_000, Duration::from_hours(1), Pace::Counted),
            Self::Names => ("names", "Lists of events, purchase series", 1_000, Duration::from_hours(1), Pace::Counted),
            Self::CampaignSeries => {
                ("campaign_series", "Figures of campaigns", 50_000, Duration::from_mins(1), Pace::Counted)
            }
            Self::Profiles => ("user_profiles", "Users by their ids", 250, Duration::from_mins(1), Pace::Counted),
            Self::FewFields => (
                "user_profiles_few_fields",
                "Users by their ids, without received campaigns and canvases",
                40,
                Duration::from_secs(1),
                Pace::Spaced,
            ),
        };
        Budget { account: Cow::Owned(account.to_owned()), name, says, limit, window, pace }
    }
}

/// One path of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    pub path: &'static str,
    /// What the key needs to call it.
    pub permission: &'static str,
    pub pool: Pool,
}

/// The parameters of a GET, in their order.
pub type Query = Vec<(&'static str, String)>;

/// One workspace, called with its key. Cheap to clone.
#[derive(Clone)]
pub struct Api {
    base: Url,
    key: SecretString,
    http: Http,
    shared: Arc<dyn Shared>,
    account: String,
}

/// A call for data.
pub struct Ask<'a> {
    /// For [`Exchange::action`](crate::vendors::Exchange).
    pub action: &'static str,
    pub endpoint: Endpoint,
    pub query: &'a [(&'static str, String)],
    /// A POST has one.
    pub body: Option<&'a Value>,
    /// What a good answer holds: the path of member names to it.
    pub holds: &'static [&'static str],
}

/// An answer with a good status.
struct Begun {
    /// Kept until the answer is read.
    permit: Permit,
    download: Download,
    /// The `Link` header.
    link: Option<String>,
}

impl Api {
    pub fn new(base: Url, key: SecretString, http: Http, shared: Arc<dyn Shared>) -> Self {
        let account = account(&base, &key);
        Self { base, key, http, shared, account }
    }

    pub fn http(&self) -> &Http {
        &self.http
    }

    pub fn base(&self) -> &Url {
        &self.base
    }

    pub fn key(&self) -> &SecretString {
        &self.key
    }

    pub fn budgets(&self) -> Vec<Budget> {
        Pool::ALL.iter().map(|pool| pool.budget(&self.account)).collect()
    }

    /// A GET whose answer is small, whatever its status.
    ///
    /// # Errors
    /// When there is no answer, or no budget for the call.
    pub async fn get(
        &self,
        action: &'static str,
        endpoint: Endpoint,
        query: &[(&'static str, String)],
        exchanges: &Exchanges,
    ) -> Result<Answer, VendorError> {
        let url = self.address(endpoint, query);
        self.call(action, Method::GET, endpoint, url, None, TRY_AGAIN, exchanges).await
    }

    /// A POST whose answer is small, whatever its status.
    ///
    /// # Errors
    /// When there is no answer (`when_lost`), or no budget for the call.
    pub async fn post(
        &self,
        action: &'static str,
        endpoint: Endpoint,
        body: &Value,
        when_lost: Next,
        exchanges: &Exchanges,
    ) -> Result<Answer, VendorError> {
        let url = self.address(endpoint, &[]);
        self.call(action, Method::POST, endpoint, url, Some(body), when_lost, exchanges).await
    }

    #[expect(clippy::too_many_arguments, reason = "the two callers above give them names")]
    async fn call(
        &self,
        action: &'static str,
        method: Method,
        endpoint: Endpoint,
        url: Url,
        body: Option<&Value>,
        when_lost: Next,
        exchanges: &Exchanges,
    ) -> Result<Answer, VendorError> {
        let budget = endpoint.pool.budget(&self.account);
        let mut permit = self.shared.take(&budget).await?;
        let call = Call { action, method, url, bearer: &self.key, body, when_lost };
        let answer = self.http.call(call, exchanges).await?;
        permit.answered();
        self.learn(&budget, &answer.headers).await;
        Ok(answer)
    }

    /// Asks for data of any size. A small answer is known to be good when this returns; of a large one only its status
    /// and its beginning, the rest is judged by whoever reads it.
    ///
    /// # Errors
    /// Every answer that is not the data.
    pub async fn fetch(&self, ask: Ask<'_>, exchanges: &Exchanges) -> Result<Download, VendorError> {
        let fetched = match self.begin(&ask, exchanges).await? {
            Ok(begun) => self.looked_at(&ask, begun).await,
            Err(refusal) => Err(refusal),
        };
        decided(exchanges, fetched, |_| "reading".into())
    }

    /// As [`Api::fetch`], as a whole.
    ///
    /// # Errors
    /// Every answer that is not the data.
    pub async fn fetch_whole(&self, ask: Ask<'_>, exchanges: &Exchanges) -> Result<Bytes, VendorError> {
        self.fetch_page(ask, exchanges).await.map(|(body, _)| body)
    }

    /// As [`Api::fetch_whole`], with the `Link` header.
    ///
    /// # Errors
    /// Every answer that is not the data.
    pub async fn fetch_page(
        &self,
        ask: Ask<'_>,
        exchanges: &Exchanges,
    ) -> Result<(Bytes, Option<String>), VendorError> {
        let mut link = None;
        let fetched = match self.begin(&ask, exchanges).await? {
            Ok(Begun { permit: _permit, mut download, link: found }) => {
                match read_up_to(&mut download, LARGEST).await {
                    Ok((whole, true)) => {
                        link = found;
                        judged(&whole, ask.holds, &self.key).map(|()| whole)
                    }
                    Ok((_, false)) => {
                        let message = "Braze's answer is far larger than documented";
                        Err(VendorError::new(Code::VendorMalformedData, Next::GiveUp, message))
                    }
                    Err(error) => Err(error),
                }
            }
            Err(refusal) => Err(refusal),
        };
        decided(exchanges, fetched, |whole| format!("received {} bytes", whole.len())).map(|whole| (whole, link))
    }

    /// Makes the call. The outer error is of a call without an answer, which is recorded already.
    async fn begin(&self, ask: &Ask<'_>, exchanges: &Exchanges) -> Result<Result<Begun, VendorError>, VendorError> {
        let budget = ask.endpoint.pool.budget(&self.account);
        let mut permit = self.shared.take(&budget).await?;
        let method = if ask.body.is_some() { Method::POST } else { Method::GET };
        let url = self.address(ask.endpoint, ask.query);
        let call = Call { action: ask.action, method, url, bearer: &self.key, body: ask.body, when_lost: TRY_AGAIN };
        let answer = self.http.stream(call, exchanges).await?;
        permit.answered();
        self.learn(&budget, &answer.headers).await;
        let (status, wait) = (answer.status, busy_pause(answer.retry_after(), &answer.headers, Utc::now()));
        // Taken during maintenance, to be worked on later; there is no way to get at what it brings.
        if status == StatusCode::ACCEPTED {
            return Ok(Err(queued()));
        }
        if !status.is_success() {
            let shown = answer.excerpt(&self.key).await;
            return Ok(Err(refused(status, wait, ask.endpoint.permission, &shown)));
        }
        if answer.is_web_page() {
            let message = "Braze answered a web page where data are documented";
            let error = VendorError::new(Code::VendorMalformedData, BROKEN, message);
            return Ok(Err(error.with_http_status(status.as_u16())));
        }
        let links = answer.headers.get_all(LINK).iter().filter_map(|link| link.to_str().ok());
        let link = links.collect::<Vec<_>>().join(",");
        Ok(Ok(Begun { permit, link: Some(link).filter(|link| !link.is_empty()), download: answer.into_download() }))
    }

    async fn looked_at(&self, ask: &Ask<'_>, begun: Begun) -> Result<Download, VendorError> {
        let Begun { permit, mut download, .. } = begun;
        let (beginning, is_whole) = read_up_to(&mut download, SMALL).await?;
        if is_whole {
            judged(&beginning, ask.holds, &self.key)?;
            return Ok(whole(beginning));
        }
        // The permit lives as long as the answer is being read.
        let rest = download.body.inspect(move |_| {
            let _kept = &permit;
        });
        Ok(Download { length: download.length, body: stream::iter([Ok(beginning)]).chain(rest).boxed() })
    }

    /// Believes the headers, which every answer carries. Source: `_docs/_api/api_limits.md`: epoch seconds, so the window
    /// may end up to a second later than they say.
    async fn learn(&self, budget: &Budget, headers: &HeaderMap) {
        let count = |name| number(headers, name).and_then(|count| u32::try_from(count).ok());
        let reset = number(headers, "x-ratelimit-reset").and_then(|secs| DateTime::from_timestamp(secs, 0));
        let (Some(limit), Some(remaining), Some(reset)) =
            (count("x-ratelimit-limit"), count("x-ratelimit-remaining"), reset)
        else {
            return;
        };
        let left = reset - Utc::now();
        let believable = left > TimeDelta::zero() && left <= TimeDelta::hours(2) && limit > 0 && remaining <= limit;
        if budget.pace == Pace::Counted && believable {
            let seen = Seen { limit, remaining, resets_at: reset + TimeDelta::seconds(1) };
            self.shared.learn(budget, seen).await;
        }
    }

    fn address(&self, endpoint: Endpoint, query: &[(&'static str, String)]) -> Url {
        let mut url = below(&self.base, endpoint.path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }
}

/// The path and query of a GET, as a plan shows them.
pub fn shown(endpoint: Endpoint, query: &[(&'static str, String)]) -> String {
    if query.is_empty() {
        return endpoint.path.to_owned();
    }
    let query = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish();
    format!("{}?{query}", endpoint.path)
}

/// Data that are here already.
pub fn whole(bytes: Bytes) -> Download {
    Download { length: Some(bytes.len() as u64), body: stream::iter([Ok(bytes)]).boxed() }
}

/// Limits are kept for each workspace. Its key is all that names it here; a digest of a random key tells nothing of it.
fn account(base: &Url, key: &SecretString) -> String {
    let digest = digest::digest(&digest::SHA256, key.expose_secret().as_bytes());
    let beginning = digest.as_ref().first_chunk().copied().map(u64::from_be_bytes).unwrap_or_default();
    format!("{}#{beginning:016x}", base.host_str().unwrap_or_default())
}

/// Reads at most about `limit` bytes; the flag says that there is no more.
async fn read_up_to(download: &mut Download, limit: usize) -> Result<(Bytes, bool), VendorError> {
    let mut read = BytesMut::new();
    while let Some(chunk) = download.body.try_next().await? {
        read.extend_from_slice(&chunk);
        if read.len() > limit {
            return Ok((read.freeze(), false));
        }
    }
    Ok((read.freeze(), true))
}

/// Whether a 2xx answer is what was asked for. Its `message` may be missing, as in one documented sample.
fn judged(body: &[u8], holds: &[&str], key: &SecretString) -> Result<(), VendorError> {
    let broken = |message: &str| VendorError::new(Code::VendorMalformedData, BROKEN, message);
    let Ok(members) = Members::read(body) else {
        return Err(broken("Braze answered something that is not its documented JSON"));
    };
    let message = members.get("message").and_then(text).unwrap_or_default();
    if message.eq_ignore_ascii_case("queued") {
        return Err(queued());
    }
    if !message.is_empty() && !message.eq_ignore_ascii_case("success") {
        let shown = crate::vendors::excerpt::excerpt(body, &[key]);
        let message = format!("Braze did not answer the request: {shown}");
        return Err(VendorError::new(Code::VendorRejectedRequest, Next::GiveUp, message));
    }
    let Some((first, rest)) = holds.split_first() else { return Ok(()) };
    let mut found = members.get(first);
    for name in rest {
        found = found.and_then(Members::of).and_then(|members| members.get(name));
    }
    if found.is_some() { Ok(()) } else { Err(broken(&format!("Braze's answer has no `{}`", holds.join(".")))) }
}

fn queued() -> VendorError {
    VendorError::new(Code::VendorUnavailable, TRY_AGAIN, "Braze is in maintenance and queued the request")
        .with_http_status(StatusCode::ACCEPTED.as_u16())
}

/// What a status that is no success means for a call that asks for data.
fn refused(status: StatusCode, wait: Option<Duration>, permission: &str, shown: &str) -> VendorError {
    let (code, next, message) = match status.as_u16() {
        401 => (
            Code::VendorCredentialsRejected,
            Next::GiveUp,
            format!("Braze rejected the API key; a key works only on its own instance: {shown}"),
        ),
        403 => (
            Code::VendorPermissionDenied,
            Next::GiveUp,
            format!("the API key lacks the permission `{permission}`: {shown}"),
        ),
        404 => (
            Code::VendorRejectedRequest,
            Next::GiveUp,
            format!("Braze has no such address; check `settings.base_url`: {shown}"),
        ),
        429 => (Code::VendorUnavailable, Next::Wait { after: wait }, "Braze's rate limit is used up".to_owned()),
        408 | 500.. => (
            Code::VendorUnavailable,
            Next::TryAgain { after: wait, at_most: None },
            format!("Braze failed with {}: {shown}", status.as_u16()),
        ),
        status => {
            (Code::VendorRejectedRequest, Next::GiveUp, format!("Braze refused the request with {status}: {shown}"))
        }
    };
    VendorError::new(code, next, message).with_http_status(status.as_u16())
}

/// How long to wait after a refusal: what the vendor says, or until the rate limit starts anew when it is used up. None
/// where the limit is not the reason.
pub fn busy_pause(retry_after: Option<Duration>, headers: &HeaderMap, now: DateTime<Utc>) -> Option<Duration> {
    retry_after.or_else(|| {
        if !is_used_up(headers) {
            return None;
        }
        Some(pause(number(headers, "x-ratelimit-reset")?.saturating_sub(now.timestamp())))
    })
}

/// Whether the headers say that the rate limit is used up.
pub fn is_used_up(headers: &HeaderMap) -> bool {
    number(headers, "x-ratelimit-remaining").is_some_and(|remaining| remaining <= 0)
}

fn number(headers: &HeaderMap, name: &str) -> Option<i64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

#[cfg(test)]
#[path = "api_tests.rs"]
mod tests;
