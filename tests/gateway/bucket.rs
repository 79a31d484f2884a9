//! A store that speaks as much S3 as deliveries need, in memory. Strict: it takes only what is signed with its key and
//! carries the right checksum. Writes can be held up, to see what dies meanwhile.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, body::SizedStream, http::Method, web};
use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::support::eventually;

pub const KEY_ID: &str = "the-id-of-a-key";
pub const SECRET: &str = "the-secret-of-a-key";
const NAME: &str = "lake";

#[derive(Clone, Default)]
struct Object {
    bytes: Vec<u8>,
    /// `content-type` and `x-amz-meta-*`.
    headers: Vec<(String, String)>,
}

#[derive(Default)]
struct Upload {
    key: String,
    headers: Vec<(String, String)>,
    parts: BTreeMap<u32, Vec<u8>>,
}

#[derive(Default)]
struct Stock {
    objects: BTreeMap<String, Object>,
    uploads: BTreeMap<String, Upload>,
    /// `PUT key`, in order, held up or not.
    log: Vec<String>,
    waiting: usize,
}

struct State {
    stock: Mutex<Stock>,
    /// Writes to keys with this in them wait.
    held: watch::Sender<Option<String>>,
}

/// A running store with one bucket.
pub struct Bucket {
    endpoint: String,
    state: Arc<State>,
}

impl Bucket {
    pub fn start() -> Self {
        let state = Arc::new(State { stock: Mutex::default(), held: watch::Sender::new(None) });
        let own = state.clone();
        let server = HttpServer::new(move || {
            App::new()
                .app_data(web::Data::new(own.clone()))
                .app_data(web::PayloadConfig::new(64 << 20))
                .default_service(web::to(serve))
        });
        let server = server.workers(1).disable_signals().bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", server.addrs()[0]);
        tokio::spawn(server.run());
        Self { endpoint, state }
    }

    /// What an admin puts for a folder of it.
    pub fn destination(&self, prefix: &str) -> Value {
        json!({
            "url": format!("s3://{NAME}/{prefix}"),
            "settings": {"endpoint": self.endpoint},
            "credentials": {"access_key_id": KEY_ID, "secret_access_key": SECRET},
        })
    }

    /// Everything in the bucket.
    pub fn objects(&self) -> BTreeMap<String, Vec<u8>> {
        let stock = self.state.stock.lock().unwrap();
        stock.objects.iter().map(|(key, object)| (key.clone(), object.bytes.clone())).collect()
    }

    /// How often something was written to a key that ends so.
    pub fn writes(&self, ending: &str) -> usize {
        let stock = self.state.stock.lock().unwrap();
        stock.log.iter().filter(|line| line.starts_with("PUT ") && line.ends_with(ending)).count()
    }

    pub fn unfinished_uploads(&self) -> usize {
        self.state.stock.lock().unwrap().uploads.len()
    }

    /// From now on writes to keys that hold `part` wait.
    pub fn hold(&self, part: &str) {
        self.state.held.send_replace(Some(part.to_owned()));
    }

    /// Waits for the first write that is held up.
    pub async fn is_waited_for(&self) {
        eventually("a write that is held up", async || (self.state.stock.lock().unwrap().waiting > 0).then_some(()))
            .await;
    }

    /// Lets later writes through; those that were held up fail, since they may be a dead one's.
    pub fn release(&self) {
        self.state.held.send_replace(None);
    }
}

async fn serve(request: HttpRequest, body: Bytes, state: web::Data<Arc<State>>) -> HttpResponse {
    let header = |name: &str| {
        let value = request.headers().get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    if !header("authorization").starts_with(&format!("AWS4-HMAC-SHA256 Credential={KEY_ID}/")) {
        return failed(403, "InvalidAccessKeyId");
    }
    let path = percent_encoding::percent_decode_str(request.path()).decode_utf8().unwrap().into_owned();
    let (bucket, key) = path.trim_start_matches('/').split_once('/').unwrap_or((path.trim_start_matches('/'), ""));
    if bucket != NAME {
        return failed(404, "NoSuchBucket");
    }
    let query: BTreeMap<String, String> =
        web::Query::<BTreeMap<String, String>>::from_query(request.query_string()).unwrap().into_inner();
    let method = request.method().clone();
    state.stock.lock().unwrap().log.push(format!("{method} {key}"));
    let is_held = |held: &Option<String>| held.as_ref().is_some_and(|part| key.contains(part.as_str()));
    if method == Method::PUT && is_held(&state.held.borrow()) {
        state.stock.lock().unwrap().waiting += 1;
        let mut held = state.held.subscribe();
        held.wait_for(|held| !is_held(held)).await.unwrap();
        return failed(500, "InternalError");
    }
    if method == Method::PUT && header("x-amz-checksum-sha256") != BASE64_STANDARD.encode(digest(&SHA256, &body)) {
        return failed(400, "BadDigest");
    }
    let mut stock = state.stock.lock().unwrap();
    let kept = || {
        let names = request.headers().keys().map(ToString::to_string);
        let names = names.filter(|name| name == "content-type" || name.starts_with("x-amz-meta-"));
        names.map(|name| (name.clone(), header(&name))).collect::<Vec<_>>()
    };
    match (method.as_str(), query.get("uploadId")) {
        ("PUT", None) => {
            stock.objects.insert(key.to_owned(), Object { bytes: body.to_vec(), headers: kept() });
            HttpResponse::Ok().insert_header(("etag", "\"1\"")).finish()
        }
        ("PUT", Some(id)) => {
            let Some(upload) = stock.uploads.get_mut(id) else { return failed(404, "NoSuchUpload") };
            upload.parts.insert(query["partNumber"].parse().unwrap(), body.to_vec());
            let checksum = ("x-amz-checksum-sha256", header("x-amz-checksum-sha256"));
            HttpResponse::Ok().insert_header(("etag", "\"1\"")).insert_header(checksum).finish()
        }
        ("POST", None) if query.contains_key("uploads") => {
            let id = format!("upload-{}", stock.log.len());
            stock.uploads.insert(id.clone(), Upload { key: key.to_owned(), headers: kept(), parts: BTreeMap::new() });
            xml(&format!("<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"))
        }
        ("POST", Some(id)) => {
            let Some(upload) = stock.uploads.remove(id) else { return failed(404, "NoSuchUpload") };
            let bytes = upload.parts.into_values().collect::<Vec<_>>().concat();
            stock.objects.insert(upload.key, Object { bytes, headers: upload.headers });
            xml("<CompleteMultipartUploadResult><ETag>\"1\"</ETag></CompleteMultipartUploadResult>")
        }
        ("DELETE", None) => {
            stock.objects.remove(key);
            HttpResponse::NoContent().finish()
        }
        ("DELETE", Some(id)) => {
            stock.uploads.remove(id);
            HttpResponse::NoContent().finish()
        }
        ("GET" | "HEAD", None) => {
            let Some(object) = stock.objects.get(key).cloned() else { return failed(404, "NoSuchKey") };
            let mut answer = HttpResponse::Ok();
            answer.insert_header(("etag", "\"1\"")).insert_header(("last-modified", "Fri, 20 Nov 2026 10:00:01 GMT"));
            for (name, value) in object.headers {
                answer.insert_header((name, value));
            }
            let size = object.bytes.len() as u64;
            let bytes = futures_util::stream::iter([Ok::<_, std::io::Error>(Bytes::from(object.bytes))]);
            answer.body(SizedStream::new(size, bytes))
        }
        _ => failed(405, "MethodNotAllowed"),
    }
}

fn xml(text: &str) -> HttpResponse {
    HttpResponse::Ok().content_type("application/xml").body(format!("<?xml version=\"1.0\"?>{text}"))
}

fn failed(status: u16, code: &str) -> HttpResponse {
    let status = actix_web::http::StatusCode::from_u16(status).unwrap();
    HttpResponse::build(status).content_type("application/xml").body(format!("<Error><Code>{code}</Code></Error>"))
}
