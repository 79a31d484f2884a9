//! Lists that come in pages, as one stream of the vendor's bodies: page after page is asked for as it is read.
//! An API of CDP can answer more than is read at once, so nothing here holds a page.

use bytes::Bytes;
use futures_util::{StreamExt, stream, stream::BoxStream};
use reqwest::Method;
use secrecy::SecretString;
use url::Url;

use super::{
    scan::Scan,
    wire::{self, About},
};
use crate::exports::problem::Code;
use crate::vendors::{
    Download, Exchanges, Next, VendorError,
    http::{Answer, Call, Http, TRY_AGAIN},
};

/// Of an answer that cannot be used, this much is read, in bytes.
const MAX_EXCERPT: usize = 16 * 1024;

type Body = BoxStream<'static, Result<Bytes, VendorError>>;

/// Calls the API of one connection.
#[derive(Clone)]
pub struct Api {
    pub http: Http,
    pub token: SecretString,
}

impl Api {
    /// Makes a call whose answer is small, or at least no larger than `limit` bytes.
    ///
    /// # Errors
    /// When there is no answer that can be read; the status is not looked at.
    pub async fn get(
        &self,
        action: &'static str,
        url: Url,
        limit: usize,
        exchanges: &Exchanges,
    ) -> Result<Answer, VendorError> {
        let (method, bearer, when_lost) = (Method::GET, &self.token, TRY_AGAIN);
        let call = Call { action, method, url, bearer, body: None, when_lost };
        self.http.stream(call, exchanges).await?.read(limit).await
    }

    /// Asks for a JSON object and leaves it to be read; whatever else comes is an error.
    ///
    /// # Errors
    /// Also a success that is no JSON object: its status says little at CDP.
    pub async fn object(&self, url: Url, about: About, exchanges: &Exchanges) -> Result<Body, VendorError> {
        let (method, bearer, when_lost) = (Method::GET, &self.token, TRY_AGAIN);
        let call = Call { action: "poll", method, url, bearer, body: None, when_lost };
        let answer = self.http.stream(call, exchanges).await?;
        if !answer.status.is_success() {
            let answer = answer.read(MAX_EXCERPT).await?;
            return Err(wire::refused(&answer, &self.token, about));
        }
        let (status, headers) = (answer.status, answer.headers.clone());
        let mut body = answer.into_download().body;
        let mut start = Vec::new();
        while start.trim_ascii_start().is_empty() {
            match body.next().await {
                Some(piece) => start.extend_from_slice(&piece?),
                None => break,
            }
        }
        if start.trim_ascii_start().first() == Some(&b'{') {
            return Ok(stream::iter([Ok(Bytes::from(start))]).chain(body).boxed());
        }
        start.truncate(MAX_EXCERPT);
        Err(wire::refused(&Answer { status, headers, body: start.into() }, &self.token, about))
    }
}

/// What is listed.
#[derive(Clone)]
pub struct Listing {
    /// Without `limit` and `offset`.
    pub url: Url,
    /// Records asked for at once; none where the answer has no pages.
    pub limit: Option<u64>,
    /// The member of an answer whose elements are the records.
    pub records: &'static str,
    pub about: About,
}

impl Listing {
    fn page(&self, offset: u64) -> Url {
        let mut url = self.url.clone();
        if let Some(limit) = self.limit {
            url.set_query(Some(&format!("limit={limit}&offset={offset}")));
        }
        url
    }

    /// Asks for the first page; the stream asks for the others. A line end stands between two bodies.
    ///
    /// # Errors
    /// What the first call fails with.
    pub async fn read(self, api: Api, exchanges: &Exchanges) -> Result<Download, VendorError> {
        let body = api.object(self.page(0), self.about, exchanges).await?;
        exchanges.decide("reading");
        let scan = Scan::new(self.records);
        let reading = Reading { listing: self, api, exchanges: exchanges.clone(), body, scan, offset: 0 };
        Ok(Download { length: None, body: stream::try_unfold(reading, Reading::step).boxed() })
    }
}

struct Reading {
    listing: Listing,
    api: Api,
    exchanges: Exchanges,
    body: Body,
    scan: Scan,
    /// Of the first record of this page.
    offset: u64,
}

impl Reading {
    async fn step(mut self) -> Result<Option<(Bytes, Self)>, VendorError> {
        if let Some(piece) = self.body.next().await {
            let piece = piece?;
            self.scan.feed(&piece);
            return Ok(Some((piece, self)));
        }
        if !self.scan.is_whole() {
            return Err(malformed("CDP's answer breaks off"));
        }
        let rows = self.scan.rows();
        // The count in the answer is sometimes that of the page, so only the flag counts.
        let goes_on = match (self.listing.limit, self.scan.has_next()) {
            (None, _) => false,
            (Some(_), Some(has_next)) => has_next,
            (Some(limit), None) => rows >= limit,
        };
        if !goes_on {
            return Ok(None);
        }
        if rows == 0 {
            return Err(malformed("CDP announces another page after one without records"));
        }
        self.offset += rows;
        let url = self.listing.page(self.offset);
        self.body = self.api.object(url, self.listing.about, &self.exchanges).await.inspect_err(|error| {
            self.exchanges.decide(error.message.clone());
        })?;
        self.exchanges.decide(format!("reading from record {}", self.offset + 1));
        self.scan = Scan::new(self.listing.records);
        Ok(Some((Bytes::from_static(b"\n"), self)))
    }
}

fn malformed(message: &str) -> VendorError {
    VendorError::new(Code::VendorMalformedData, Next::TryAgain { after: None, at_most: Some(5) }, message)
}
