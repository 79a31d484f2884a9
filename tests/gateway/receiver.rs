//! A receiver of webhooks that writes down what it gets and answers as it is told.

use std::{
    net::TcpListener,
    sync::{Arc, Mutex},
    time::Duration,
};

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, dev::ServerHandle, http::StatusCode, web};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;
use standardwebhooks::Webhook;
use url::Url;

use crate::support::eventually;

/// One message.
#[derive(Debug, Clone)]
pub struct Received {
    pub path: String,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Received {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }

    /// What the standard's own library says of it.
    pub fn is_signed_with(&self, secret: &str) -> bool {
        Webhook::new(secret).unwrap().verify(&self.body, &self.headers).is_ok()
    }
}

/// How the next messages are answered.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    /// How long it takes.
    pub after: Duration,
}

impl Reply {
    pub fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), after: Duration::ZERO }
    }
}

struct Shared {
    received: Mutex<Vec<Received>>,
    reply: Mutex<Reply>,
}

pub struct Receiver {
    pub url: Url,
    shared: Arc<Shared>,
    server: ServerHandle,
}

impl Receiver {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url =
            Url::parse(&format!("http://{}/hook/s3cr3t-path-of-a-receiver", listener.local_addr().unwrap())).unwrap();
        let shared = Arc::new(Shared { received: Mutex::default(), reply: Mutex::new(Reply::status(204)) });
        let data = web::Data::from(Arc::clone(&shared));
        let server = HttpServer::new(move || App::new().app_data(data.clone()).default_service(web::to(receive)))
            .workers(1)
            .disable_signals()
            .listen(listener)
            .unwrap()
            .run();
        let handle = server.handle();
        tokio::spawn(server);
        Self { url, shared, server: handle }
    }

    pub fn answer(&self, reply: Reply) {
        *self.shared.reply.lock().unwrap() = reply;
    }

    pub fn received(&self) -> Vec<Received> {
        self.shared.received.lock().unwrap().clone()
    }

    /// Waits until this many messages have come in all.
    pub async fn wait_for(&self, count: usize) -> Vec<Received> {
        eventually("as many messages", async || Some(self.received()).filter(|received| received.len() >= count)).await
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        drop(self.server.stop(false));
    }
}

async fn receive(shared: web::Data<Shared>, request: HttpRequest, body: web::Bytes) -> HttpResponse {
    let headers = request.headers().iter().map(|(name, value)| {
        let name = HeaderName::from_bytes(name.as_str().as_bytes()).unwrap();
        (name, HeaderValue::from_bytes(value.as_bytes()).unwrap())
    });
    let received = Received { path: request.path().to_owned(), headers: headers.collect(), body: body.to_vec() };
    shared.received.lock().unwrap().push(received);
    let reply = shared.reply.lock().unwrap().clone();
    tokio::time::sleep(reply.after).await;
    let mut answer = HttpResponse::build(StatusCode::from_u16(reply.status).unwrap());
    for (name, value) in reply.headers {
        answer.insert_header((name, value));
    }
    answer.finish()
}
