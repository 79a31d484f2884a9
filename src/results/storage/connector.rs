//! How the object store is spoken to. Over TLS that is the store client's own HTTP client. A store in the clear, as
//! they stand inside a cluster, fills that client's buffers up to 400 KiB for each reader; there the socket is read in
//! pieces of [`CHUNK_BYTES`], which is faster too.
//!
//! Either way a request must have its answer, and a reader its next bytes, within [`SILENCE`]; there is no limit on how
//! long a whole body may take, since whoever downloads it may be slow.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector as Dial},
    rt::{TokioExecutor, TokioTimer},
};
use object_store::{
    ClientConfigKey, ClientOptions,
    client::{
        HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse,
        HttpResponseBody, HttpService, ReqwestConnector,
    },
};
use tokio::time::{Sleep, sleep, timeout};

use super::read::CHUNK_BYTES;

/// The store says nothing for so long: it is taken for dead. The same as the store client's limit on whole requests.
const SILENCE: Duration = Duration::from_secs(30);
const CONNECT: Duration = Duration::from_secs(5);
/// Idle connections are given up after this long.
const IDLE: Duration = Duration::from_secs(60);

/// Makes the clients of all stores.
#[derive(Debug)]
pub struct Connector;

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let as_by_default = |key| options.get_config_value(&key) == ClientOptions::new().get_config_value(&key);
        // Whoever set a time-out of their own gets exactly that.
        if ![ClientConfigKey::Timeout, ClientConfigKey::ReadTimeout].into_iter().all(as_by_default) {
            return ReqwestConnector::default().connect(options);
        }
        let options = options.clone().with_timeout_disabled().with_read_timeout(SILENCE);
        let encrypted = ReqwestConnector::default().connect(&options)?;
        let is_allowed = options.get_config_value(&ClientConfigKey::AllowHttp).is_some_and(|value| value == "true");
        if !is_allowed || !as_by_default(ClientConfigKey::ConnectTimeout) || is_proxied(&options) {
            return Ok(encrypted);
        }
        let mut dial = Dial::new();
        dial.set_connect_timeout(Some(CONNECT));
        dial.set_nodelay(true);
        let plain = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .http1_read_buf_exact_size(CHUNK_BYTES)
            .build(dial);
        Ok(HttpClient::new(Clients { plain, encrypted }))
    }
}

/// Whether a proxy stands between us and the store: the store client's own client knows how to use one.
fn is_proxied(options: &ClientOptions) -> bool {
    let variables = ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"];
    options.get_config_value(&ClientConfigKey::ProxyUrl).is_some()
        || variables.iter().any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
}

#[derive(Debug)]
struct Clients {
    plain: Client<Dial, HttpRequestBody>,
    encrypted: HttpClient,
}

#[async_trait]
impl HttpService for Clients {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        if request.uri().scheme_str() != Some("http") {
            return self.encrypted.execute(request).await;
        }
        let answer = timeout(SILENCE, self.plain.request(request)).await;
        let answer = answer.map_err(|error| HttpError::new(HttpErrorKind::Timeout, error))?;
        let answer = answer.map_err(|error| {
            let kind = if error.is_connect() { HttpErrorKind::Connect } else { HttpErrorKind::Interrupted };
            HttpError::new(kind, error)
        })?;
        Ok(answer.map(|body| HttpResponseBody::new(Watched { body, patience: None })))
    }
}

/// A body that fails when it is waited for too long. Time in which nobody asks for more does not count.
struct Watched<B> {
    body: B,
    patience: Option<Pin<Box<Sleep>>>,
}

impl<B> Body for Watched<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let this = self.get_mut();
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) {
            this.patience = None;
            return Poll::Ready(
                frame.map(|frame| frame.map_err(|error| HttpError::new(HttpErrorKind::Interrupted, error))),
            );
        }
        ready!(this.patience.get_or_insert_with(|| Box::pin(sleep(SILENCE))).as_mut().poll(cx));
        let silent = std::io::Error::from(std::io::ErrorKind::TimedOut);
        Poll::Ready(Some(Err(HttpError::new(HttpErrorKind::Timeout, silent))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
