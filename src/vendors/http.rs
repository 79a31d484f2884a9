//! The HTTP client of the adapters: checks every address against the egress policy, follows redirects by hand, bounds
//! time and size, records each exchange, and turns transport failures into [`VendorError`]s that hold no address.
//! API calls ([`Http::call`]) carry credentials and answer small JSON; files ([`Http::open`]) are streamed.

mod resume;

use std::{
    error::Error as StdError,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use chrono::{DateTime, Utc};
use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use reqwest::{
    Client, Method, Response, StatusCode,
    header::{
        ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RANGE, RETRY_AFTER,
    },
};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use url::Url;

use self::resume::Resume;
use super::{Download, Exchange, Exchanges, Next, VendorError, excerpt::excerpt};
use crate::egress::{Blocked, EgressPolicy};
use crate::exports::problem::Code;

/// The largest API answer that is read, in bytes.
const MAX_ANSWER: usize = 1024 * 1024;
/// Of a file answer that is an error, only this much is read, in bytes.
const MAX_FILE_ERROR: usize = 16 * 1024;
const MAX_REDIRECTS: usize = 5;
/// The longest pause a vendor's header can ask for.
const MAX_PAUSE: Duration = Duration::from_hours(1);

/// It may pass; the worker's own spacing applies.
pub const TRY_AGAIN: Next = Next::TryAgain { after: None, at_most: None };

/// How long the parts of an exchange may take.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// Name resolution, TCP and TLS together.
    pub connect: Duration,
    /// A whole API call.
    pub call: Duration,
    /// The wait for the next bytes of a file.
    pub file_idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: Duration::from_secs(10), call: Duration::from_secs(30), file_idle: Duration::from_mins(1) }
    }
}

/// The shared client. Cheap to clone.
#[derive(Clone)]
pub struct Http(Arc<Inner>);

struct Inner {
    client: Client,
    policy: EgressPolicy,
    call_timeout: Duration,
}

/// An API call with credentials.
pub struct Call<'a> {
    /// For [`Exchange::action`].
    pub action: &'static str,
    pub method: Method,
    /// Its path is recorded, its query is not.
    pub url: Url,
    pub bearer: &'a SecretString,
    pub body: Option<&'a Value>,
    /// What to do when the request was sent but no answer came: [`TRY_AGAIN`] where a repeat does no harm.
    pub when_lost: Next,
}

impl Call<'_> {
    fn own(self) -> Result<OwnCall, VendorError> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(AUTHORIZATION, bearer(self.bearer)?);
        if self.body.is_some() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let Self { action, method, url, when_lost, .. } = self;
        Ok(OwnCall { action, method, url, headers, body: self.body.map(|body| body.to_string().into()), when_lost })
    }
}

/// The answer of an API call, whatever its status.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// At most 1 MiB.
    pub body: Bytes,
}

/// An API call whose headers are the adapter's own, for vendors that take their credentials in other ways than
/// [`Call`] sends them.
pub struct OwnCall {
    /// For [`Exchange::action`].
    pub action: &'static str,
    pub method: Method,
    /// Its path is recorded, its query is not.
    pub url: Url,
    /// Mark those that hold a credential as sensitive.
    pub headers: HeaderMap,
    pub body: Option<SecretString>,
    /// What to do when the request was sent but no answer came: [`TRY_AGAIN`] where a repeat does no harm.
    pub when_lost: Next,
}

/// A GET of a file. Nothing of its address but the host is recorded.
pub struct FileCall<'a> {
    /// For [`Exchange::action`].
    pub action: &'static str,
    pub url: Url,
    /// A credential and the base address it belongs to: it is sent nowhere else.
    pub bearer: Option<(&'a SecretString, &'a Url)>,
    /// Asks for the first byte only, to see whether the file is there. Signed links are bound to GET, so never HEAD.
    pub probe: bool,
}

/// The answer of a file call, whatever its status. Dropping it closes the connection.
pub struct FileAnswer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    response: Response,
    /// Set where the server lets us go on after a break.
    resume: Option<Box<Resume>>,
}

/// A file answer whose beginning has been read.
pub struct Peeked {
    /// At most as many bytes as were asked for.
    pub beginning: Bytes,
    /// There is nothing after the beginning.
    pub is_whole: bool,
    length: Option<u64>,
    rest: BoxStream<'static, Result<Bytes, VendorError>>,
}

impl Http {
    /// A client with the default timeouts.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(policy: EgressPolicy) -> reqwest::Result<Self> {
        Self::with_timeouts(policy, Timeouts::default())
    }

    /// A client with other timeouts.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn with_timeouts(policy: EgressPolicy, timeouts: Timeouts) -> reqwest::Result<Self> {
        let client = Client::builder()
            .user_agent(concat!("headgate/", env!("CARGO_PKG_VERSION")))
            .dns_resolver(policy.resolver())
            // A proxy would resolve names out of our sight.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .connect_timeout(timeouts.connect)
            .read_timeout(timeouts.file_idle)
            .build()?;
        Ok(Self(Arc::new(Inner { client, policy, call_timeout: timeouts.call })))
    }

    pub fn policy(&self) -> &EgressPolicy {
        &self.0.policy
    }

    /// Makes an API call and reads the whole answer. Redirects are followed only within the same origin, since the call
    /// carries a credential; a POST only where the redirect keeps the method.
    ///
    /// # Errors
    /// When there is no answer, or none that can be read.
    pub async fn call(&self, call: Call<'_>, exchanges: &Exchanges) -> Result<Answer, VendorError> {
        self.call_own(call.own()?, exchanges).await
    }

    /// As [`Http::call`], but the answer's body is left to be streamed, so it may be of any size.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn stream(&self, call: Call<'_>, exchanges: &Exchanges) -> Result<FileAnswer, VendorError> {
        self.stream_own(call.own()?, exchanges).await
    }

    /// As [`Http::call`], with headers of the adapter's own.
    ///
    /// # Errors
    /// As [`Http::call`].
    pub async fn call_own(&self, call: OwnCall, exchanges: &Exchanges) -> Result<Answer, VendorError> {
        let answer = self.exchange(&call, Some(self.0.call_timeout), exchanges).await?;
        let read = answer.read_within(MAX_ANSWER, call.when_lost).await;
        read.inspect_err(|error| exchanges.decide(error.message.clone()))
    }

    /// As [`Http::stream`], with headers of the adapter's own.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn stream_own(&self, call: OwnCall, exchanges: &Exchanges) -> Result<FileAnswer, VendorError> {
        self.exchange(&call, None, exchanges).await
    }

    async fn exchange(
        &self,
        call: &OwnCall,
        timeout: Option<Duration>,
        exchanges: &Exchanges,
    ) -> Result<FileAnswer, VendorError> {
        let mut url = call.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let attempt = Attempt::new(call.action, call.method.as_str(), format!("{}{}", host(&url), url.path()));
            let mut response = match self.send(call, url.clone(), timeout).await {
                Ok(response) => response,
                Err(error) => return Err(attempt.failed(exchanges, error)),
            };
            let status = response.status();
            attempt.answered(exchanges, status);
            let Some(target) = redirect(status, response.headers(), &url) else {
                let headers = std::mem::take(response.headers_mut());
                return Ok(FileAnswer { status, headers, response, resume: None });
            };
            let target = target.and_then(|target| self.permitted(call, status, &url, target));
            url = target.map_err(|error| {
                exchanges.decide(error.message.clone());
                error.with_http_status(status.as_u16())
            })?;
            exchanges.decide("followed the redirect");
        }
        Err(too_many_redirects())
    }

    /// Where a call that carries a credential may be redirected to.
    fn permitted(&self, call: &OwnCall, status: StatusCode, from: &Url, target: Url) -> Result<Url, VendorError> {
        self.0.policy.check_url(&target).map_err(|error| blocked(&error))?;
        if target.origin() != from.origin() {
            let host = host(&target);
            let message = format!("the vendor's API redirected to another address ({}://{host})", target.scheme());
            return Err(VendorError::new(Code::EgressBlocked, Next::GiveUp, message));
        }
        let keeps_method = matches!(status, StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT);
        if call.method != Method::GET && !keeps_method {
            let message = "the vendor redirected the request in a way that would change it; check the base URL";
            return Err(VendorError::new(Code::VendorRejectedRequest, Next::GiveUp, message));
        }
        Ok(target)
    }

    async fn send(&self, call: &OwnCall, url: Url, timeout: Option<Duration>) -> Result<Response, VendorError> {
        self.0.policy.check_url(&url).map_err(|error| blocked(&error))?;
        let mut request = self
            .0
            .client
            .request(call.method.clone(), url)
            .header(ACCEPT_ENCODING, "identity")
            .headers(call.headers.clone());
        if let Some(timeout) = timeout {
            request = request.timeout(timeout);
        }
        if let Some(body) = &call.body {
            request = request.body(body.expose_secret().to_owned());
        }
        request.send().await.map_err(|error| transport(error, call.when_lost))
    }

    /// The client itself, for libraries that make calls of their own. Names are resolved under the policy; addresses
    /// written as numbers must be held against [`Http::policy`] by whoever calls.
    pub fn client(&self) -> &Client {
        &self.0.client
    }

    /// Opens a file. Up to five redirects are followed, to any host the policy lets through, never from https to http.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn open(&self, call: FileCall<'_>, exchanges: &Exchanges) -> Result<FileAnswer, VendorError> {
        let mut url = call.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let attempt = Attempt::new(call.action, "GET", format!("{}/…", host(&url)));
            let mut response = match self.open_once(&call, url.clone()).await {
                Ok(response) => response,
                Err(error) => return Err(attempt.failed(exchanges, error)),
            };
            let status = response.status();
            attempt.answered(exchanges, status);
            let Some(target) = redirect(status, response.headers(), &url) else {
                let authorization = Self::authorization(&call, &url)?;
                let resume = Resume::new(self, exchanges, call.action, &url, authorization, &response);
                let headers = std::mem::take(response.headers_mut());
                return Ok(FileAnswer { status, headers, response, resume });
            };
            let target = target.and_then(|target| {
                if url.scheme() == "https" && target.scheme() == "http" && !self.0.policy.permits_by_name(&target) {
                    return Err(VendorError::new(
                        Code::EgressBlocked,
                        Next::GiveUp,
                        "the vendor's file link redirected from https to http",
                    ));
                }
                Ok(target)
            });
            url = target.map_err(|error| {
                exchanges.decide(error.message.clone());
                error.with_http_status(status.as_u16())
            })?;
            exchanges.decide("followed the redirect");
        }
        Err(too_many_redirects())
    }

    /// The credential of a call, for the origin it is meant for only.
    fn authorization(call: &FileCall<'_>, url: &Url) -> Result<Option<HeaderValue>, VendorError> {
        let Some((secret, base)) = call.bearer else { return Ok(None) };
        if base.origin() == url.origin() { bearer(secret).map(Some) } else { Ok(None) }
    }

    async fn open_once(&self, call: &FileCall<'_>, url: Url) -> Result<Response, VendorError> {
        self.0.policy.check_url(&url).map_err(|error| blocked(&error))?;
        // Without this a server may compress on its own, and the bytes would not be the file's.
        let mut request = self.0.client.get(url.clone()).header(ACCEPT_ENCODING, "identity");
        if let Some(authorization) = Self::authorization(call, &url)? {
            request = request.header(AUTHORIZATION, authorization);
        }
        if call.probe {
            request = request.header(RANGE, "bytes=0-0");
        }
        request.send().await.map_err(|error| transport(error, TRY_AGAIN))
    }
}

impl Answer {
    /// What may be shown of the body.
    pub fn excerpt(&self, secret: &SecretString) -> String {
        excerpt(&self.body, &[secret])
    }

    /// The vendor's own pause, if it gave one.
    pub fn retry_after(&self) -> Option<Duration> {
        retry_after(&self.headers, Utc::now())
    }

    /// An error that blames this answer.
    pub fn error(&self, code: Code, next: Next, message: impl Into<String>) -> VendorError {
        VendorError::new(code, next, message).with_http_status(self.status.as_u16())
    }
}

impl FileAnswer {
    /// What may be shown of the body of an error; empty when it cannot be read.
    pub async fn excerpt(mut self, secret: &SecretString) -> String {
        let read = read_up_to(&mut self.response, MAX_FILE_ERROR).await;
        read.map(|(body, _)| excerpt(&body, &[secret])).unwrap_or_default()
    }

    /// The vendor's own pause, if it gave one.
    pub fn retry_after(&self) -> Option<Duration> {
        retry_after(&self.headers, Utc::now())
    }

    /// A web page where a file should be: a login or an error page with the wrong status.
    pub fn is_web_page(&self) -> bool {
        let kind = self.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        kind.trim_start().to_ascii_lowercase().starts_with("text/html")
    }

    /// Reads up to `limit` bytes of the body, to see what it is; nothing is lost for [`Peeked::into_download`].
    ///
    /// # Errors
    /// When the connection breaks before that.
    pub async fn peek(mut self, limit: usize) -> Result<Peeked, VendorError> {
        let length = self.response.content_length();
        let mut read = BytesMut::new();
        let is_whole = loop {
            match self.response.chunk().await.map_err(|error| transport(error, TRY_AGAIN))? {
                None => break true,
                Some(chunk) => read.extend_from_slice(&chunk),
            }
            if read.len() > limit {
                break false;
            }
        };
        let beginning = read.split_to(read.len().min(limit)).freeze();
        // What came with the chunk that went over the limit.
        let over = read.freeze();
        let at = (beginning.len() + over.len()) as u64;
        let rest = resume::body(self.response, at, self.resume);
        let rest = stream::iter((!over.is_empty()).then_some(Ok(over))).chain(rest).boxed();
        Ok(Peeked { beginning, is_whole, length, rest })
    }

    /// Reads the whole body, which must not be larger than `limit` bytes. Of a failure the status says enough, so its
    /// body may be cut.
    ///
    /// # Errors
    /// When the body cannot be read.
    pub async fn read(self, limit: usize) -> Result<Answer, VendorError> {
        self.read_within(limit, TRY_AGAIN).await
    }

    async fn read_within(mut self, limit: usize, when_lost: Next) -> Result<Answer, VendorError> {
        let (status, headers) = (self.status, std::mem::take(&mut self.headers));
        match read_up_to(&mut self.response, limit).await {
            Ok((body, false)) => Ok(Answer { status, headers, body }),
            Ok((body, true)) if !status.is_success() => Ok(Answer { status, headers, body }),
            Err(_) if !status.is_success() => Ok(Answer { status, headers, body: Bytes::new() }),
            Ok(_) => {
                let next = if when_lost == Next::OutcomeUnknown { Next::GiveUp } else { when_lost };
                let message = "the vendor's answer is far larger than documented";
                Err(VendorError::new(Code::VendorMalformedData, next, message).with_http_status(status.as_u16()))
            }
            Err(error) => Err(transport(error, when_lost).with_http_status(status.as_u16())),
        }
    }

    /// The file's bytes, over several connections where they break and the server lets us go on. A cut that stays one is
    /// an error of the stream that asks for another try.
    pub fn into_download(self) -> Download {
        Download { length: self.response.content_length(), body: resume::body(self.response, 0, self.resume) }
    }
}

impl Peeked {
    /// The beginning of a text, without what may stand before its first character.
    pub fn text(&self) -> &[u8] {
        self.beginning.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&self.beginning).trim_ascii_start()
    }

    /// All of the bytes, the beginning too.
    pub fn into_download(self) -> Download {
        let beginning = stream::iter([Ok(self.beginning)]);
        Download { length: self.length, body: beginning.chain(self.rest).boxed() }
    }
}

/// The address of `path` (already percent-encoded, with a leading slash) below a base that may have a path of its own.
pub fn below(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}{path}", base.path().trim_end_matches('/')));
    url
}

/// `Retry-After` in either form, at least 1 s and at most 1 h.
pub fn retry_after(headers: &HeaderMap, now: DateTime<Utc>) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let secs = match text.parse::<u64>() {
        Ok(secs) => i64::try_from(secs).unwrap_or(i64::MAX),
        Err(_) => (DateTime::parse_from_rfc2822(text).ok()?.with_timezone(&Utc) - now).num_seconds(),
    };
    Some(pause(secs))
}

/// Whether a call failed because the egress policy lets nobody reach the address.
pub fn was_blocked(error: &reqwest::Error) -> bool {
    let mut causes = std::iter::successors(error.source(), |cause| (*cause).source());
    causes.any(<dyn StdError + 'static>::is::<Blocked>)
}

/// A pause a vendor asked for, kept within reason.
pub fn pause(secs: i64) -> Duration {
    Duration::from_secs(u64::try_from(secs.max(1)).unwrap_or(1)).min(MAX_PAUSE)
}

/// Notes on the newest exchange what was made of it.
pub fn decided<T>(
    exchanges: &Exchanges,
    result: Result<T, VendorError>,
    note: impl FnOnce(&T) -> String,
) -> Result<T, VendorError> {
    exchanges.decide(result.as_ref().map_or_else(|error| error.message.clone(), note));
    result
}

/// Host and, where it is not the scheme's own, port.
fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

fn bearer(secret: &SecretString) -> Result<HeaderValue, VendorError> {
    let mut value = HeaderValue::from_str(&format!("Bearer {}", secret.expose_secret())).map_err(|_| {
        VendorError::new(Code::VendorCredentialsRejected, Next::GiveUp, "the credential cannot be sent in a header")
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// Where an answer redirects to, if it does.
fn redirect(status: StatusCode, headers: &HeaderMap, from: &Url) -> Option<Result<Url, VendorError>> {
    if !matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let location = headers.get(LOCATION)?;
    let target = location.to_str().ok().and_then(|location| from.join(location).ok());
    Some(target.ok_or_else(|| {
        VendorError::new(Code::VendorMalformedData, TRY_AGAIN, "the vendor redirected to something that is no address")
    }))
}

fn too_many_redirects() -> VendorError {
    VendorError::new(Code::VendorUnavailable, TRY_AGAIN, "the vendor redirects in circles")
}

fn blocked(blocked: &Blocked) -> VendorError {
    VendorError::new(Code::EgressBlocked, Next::GiveUp, blocked.to_string())
}

/// A failure without an answer. Before a connection stands nothing was sent, so a repeat is safe; after it, `when_lost`.
fn transport(error: reqwest::Error, when_lost: Next) -> VendorError {
    let error = error.without_url();
    let mut causes = std::iter::successors(error.source(), |cause| (*cause).source());
    if let Some(refused) = causes.clone().find_map(|cause| cause.downcast_ref::<Blocked>()) {
        return blocked(refused);
    }
    let cause = causes.by_ref().last().map_or_else(|| error.to_string(), ToString::to_string);
    let cause = excerpt(cause.as_bytes(), &[]);
    let (next, message) = if error.is_connect() {
        (TRY_AGAIN, format!("the vendor could not be reached: {cause}"))
    } else if error.is_timeout() {
        (when_lost, "the vendor did not answer in time".to_owned())
    } else {
        (when_lost, format!("the connection to the vendor broke: {cause}"))
    };
    VendorError::new(Code::VendorUnavailable, next, message)
}

/// Reads at most `limit` bytes; the flag says that there was more.
async fn read_up_to(response: &mut Response, limit: usize) -> reqwest::Result<(Bytes, bool)> {
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await? {
        let room = limit - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if chunk.len() > room {
            return Ok((body.freeze(), true));
        }
    }
    Ok((body.freeze(), false))
}

/// An exchange under way.
#[derive(Clone)]
struct Attempt {
    started: Instant,
    exchange: Exchange,
}

impl Attempt {
    fn new(action: &'static str, method: &str, target: String) -> Self {
        let method = if method == "POST" { "POST" } else { "GET" };
        let exchange = Exchange {
            at: Utc::now(),
            action,
            method,
            target,
            http_status: None,
            duration_ms: 0,
            decision: String::new(),
        };
        Self { started: Instant::now(), exchange }
    }

    fn answered(self, exchanges: &Exchanges, status: StatusCode) {
        self.push(exchanges, Some(status.as_u16()), "answered, but not read to the end".to_owned());
    }

    fn failed(self, exchanges: &Exchanges, error: VendorError) -> VendorError {
        self.push(exchanges, error.http_status, error.message.clone());
        error
    }

    fn push(mut self, exchanges: &Exchanges, status: Option<u16>, decision: String) {
        self.exchange.http_status = status;
        self.exchange.duration_ms = i64::try_from(self.started.elapsed().as_millis()).unwrap_or(i64::MAX);
        self.exchange.decision = decision;
        exchanges.push(self.exchange);
    }
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
