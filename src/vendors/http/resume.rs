//! Going on with a file where its connection broke, from a server that lets us: one that takes ranges and names the
//! version of what it sends, so that the rest is surely of the same file (RFC 9110, 13.1.5 and 14.2).

use std::time::Duration;

use bytes::Bytes;
use futures_util::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use reqwest::{
    Response, StatusCode,
    header::{
        ACCEPT_ENCODING, ACCEPT_RANGES, AUTHORIZATION, CONTENT_RANGE, ETAG, HeaderMap, HeaderValue, IF_RANGE, RANGE,
    },
};
use url::Url;

use super::{Attempt, Http, TRY_AGAIN, host, transport};
use crate::{
    exports::problem::Code,
    vendors::{Exchanges, VendorError},
};

/// How often in a row a connection may break without bringing a byte.
const MAX_IN_VAIN: u32 = 4;
/// Before the second try in a row; each later one waits twice as long.
const PAUSE: Duration = Duration::from_millis(250);

/// How to ask for the rest of a file.
pub(super) struct Resume {
    http: Http,
    exchanges: Exchanges,
    action: &'static str,
    url: Url,
    authorization: Option<HeaderValue>,
    /// A strong entity tag.
    version: HeaderValue,
    /// Bytes of the whole file.
    length: u64,
}

impl Resume {
    /// What the head of an answer with a whole file tells; none when its server cannot go on with it.
    pub(super) fn new(
        http: &Http,
        exchanges: &Exchanges,
        action: &'static str,
        url: &Url,
        authorization: Option<HeaderValue>,
        response: &Response,
    ) -> Option<Box<Self>> {
        let header = |name| response.headers().get(name);
        let is_strong = |version: &&HeaderValue| version.as_bytes().starts_with(b"\"");
        if response.status() != StatusCode::OK || header(ACCEPT_RANGES)? != "bytes" {
            return None;
        }
        Some(Box::new(Self {
            http: http.clone(),
            exchanges: exchanges.clone(),
            action,
            url: url.clone(),
            authorization,
            version: header(ETAG).filter(is_strong)?.clone(),
            length: response.content_length()?,
        }))
    }

    /// Asks for everything from `start` on.
    async fn from(&self, start: u64) -> Result<Response, VendorError> {
        let attempt = Attempt::new(self.action, "GET", format!("{}/…", host(&self.url)));
        let mut headers = HeaderMap::from_iter([
            (ACCEPT_ENCODING, HeaderValue::from_static("identity")),
            (IF_RANGE, self.version.clone()),
        ]);
        if let Ok(range) = HeaderValue::from_str(&format!("bytes={start}-")) {
            headers.insert(RANGE, range);
        }
        if let Some(authorization) = &self.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        let asked = self.http.client().get(self.url.clone()).headers(headers).send().await;
        let response = asked.map_err(|error| attempt.clone().failed(&self.exchanges, transport(error, TRY_AGAIN)))?;
        attempt.answered(&self.exchanges, response.status());
        let wanted = format!("bytes {start}-{}/{}", self.length - 1, self.length);
        let is_rest = response.headers().get(CONTENT_RANGE).is_some_and(|range| range.as_bytes() == wanted.as_bytes());
        if response.status() != StatusCode::PARTIAL_CONTENT || !is_rest {
            let message = "the vendor does not go on with a file that broke off";
            let error = VendorError::new(Code::VendorUnavailable, TRY_AGAIN, message);
            return Err(error.with_http_status(response.status().as_u16()));
        }
        Ok(response)
    }
}

/// The rest of an answer's body, of which `at` bytes were taken already; over as many connections as it takes.
pub(super) fn body(
    response: Response,
    at: u64,
    resume: Option<Box<Resume>>,
) -> BoxStream<'static, Result<Bytes, VendorError>> {
    let Some(resume) = resume else { return bytes(response) };
    let reading = Reading { resume, body: bytes(response), at, in_vain: 0 };
    stream::try_unfold(reading, |mut reading| async move {
        let chunk = reading.next().await?;
        Ok(chunk.map(|chunk| (chunk, reading)))
    })
    .boxed()
}

fn bytes(response: Response) -> BoxStream<'static, Result<Bytes, VendorError>> {
    response.bytes_stream().map_err(|error| transport(error, TRY_AGAIN)).boxed()
}

struct Reading {
    resume: Box<Resume>,
    body: BoxStream<'static, Result<Bytes, VendorError>>,
    at: u64,
    in_vain: u32,
}

impl Reading {
    async fn next(&mut self) -> Result<Option<Bytes>, VendorError> {
        loop {
            match self.body.next().await {
                Some(Ok(chunk)) => {
                    self.at += chunk.len() as u64;
                    self.in_vain = 0;
                    return Ok(Some(chunk));
                }
                None => return Ok(None),
                Some(Err(error)) if self.at >= self.resume.length || self.in_vain >= MAX_IN_VAIN => return Err(error),
                Some(Err(error)) => {
                    self.resume.exchanges.decide(format!("broke off after {} bytes: {error}", self.at));
                    self.go_on().await?;
                }
            }
        }
    }

    /// Opens the rest; a failure to do so counts as another break.
    async fn go_on(&mut self) -> Result<(), VendorError> {
        loop {
            if self.in_vain > 0 {
                tokio::time::sleep(PAUSE * 2u32.pow(self.in_vain - 1)).await;
            }
            self.in_vain += 1;
            match self.resume.from(self.at).await {
                Ok(response) => {
                    self.body = bytes(response);
                    return Ok(());
                }
                // An answer that is not the rest is an answer: the link has expired, or the file is another.
                Err(error) if error.http_status.is_some_and(|status| status < 500) => return Err(error),
                Err(error) if self.in_vain >= MAX_IN_VAIN => return Err(error),
                Err(_) => {}
            }
        }
    }
}
