//! A proxy that writes down what passes through it, for tests that must know what was really said.

use std::{
    net::TcpListener,
    sync::{Arc, Mutex},
};

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, dev::ServerHandle, http::StatusCode, web};
use reqwest::{Client, Method, redirect::Policy};
use url::Url;

/// One request and its answer.
#[derive(Debug, Clone)]
pub struct Passed {
    /// Path and query.
    pub target: String,
    pub status: u16,
    pub answer: Vec<u8>,
}

pub struct Recorder {
    pub url: Url,
    route: Arc<Route>,
    server: ServerHandle,
}

struct Route {
    /// Where requests go on to; they end here while there is none.
    to: Mutex<Option<Url>>,
    passed: Mutex<Vec<Passed>>,
    client: Client,
}

/// Said for one connection only, or made anew for the other one.
const NOT_PASSED_ON: &[&str] = &["connection", "content-length", "transfer-encoding", "keep-alive"];

impl Recorder {
    /// Starts a proxy in front of `to`. Links made from the address that was asked lead through it again.
    pub fn start(to: Option<Url>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = Url::parse(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
        let client = Client::builder().no_proxy().redirect(Policy::none()).build().unwrap();
        let route = Arc::new(Route { to: Mutex::new(to), passed: Mutex::default(), client });
        let data = web::Data::from(Arc::clone(&route));
        let server = HttpServer::new(move || App::new().app_data(data.clone()).default_service(web::to(pass)))
            .workers(1)
            .disable_signals()
            .listen(listener)
            .unwrap()
            .run();
        let handle = server.handle();
        tokio::spawn(server);
        Self { url, route, server: handle }
    }

    pub fn lead_to(&self, to: Url) {
        *self.route.to.lock().unwrap() = Some(to);
    }

    pub fn passed(&self) -> Vec<Passed> {
        self.route.passed.lock().unwrap().clone()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        drop(self.server.stop(false));
    }
}

async fn pass(route: web::Data<Route>, request: HttpRequest, body: web::Bytes) -> HttpResponse {
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str()).to_owned();
    let to = route.to.lock().unwrap().clone();
    let Some(to) = to else {
        route.passed.lock().unwrap().push(Passed { target, status: 204, answer: Vec::new() });
        return HttpResponse::NoContent().finish();
    };
    let method: Method = request.method().as_str().parse().unwrap();
    let mut onward = route.client.request(method, format!("{}{target}", to.as_str().trim_end_matches('/')));
    for (name, value) in request.headers().iter().filter(|(name, _)| !NOT_PASSED_ON.contains(&name.as_str())) {
        onward = onward.header(name.as_str(), value.as_bytes());
    }
    let Ok(answer) = onward.body(body.clone()).send().await else { return HttpResponse::BadGateway().finish() };
    let status = answer.status().as_u16();
    let mut back = HttpResponse::build(StatusCode::from_u16(status).unwrap());
    for (name, value) in answer.headers().iter().filter(|(name, _)| !NOT_PASSED_ON.contains(&name.as_str())) {
        back.append_header((name.as_str(), value.as_bytes()));
    }
    let Ok(bytes) = answer.bytes().await else { return HttpResponse::BadGateway().finish() };
    route.passed.lock().unwrap().push(Passed { target, status, answer: bytes.to_vec() });
    back.body(bytes)
}
