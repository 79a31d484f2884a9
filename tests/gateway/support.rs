//! A whole gateway for one test: its own database in a shared private Postgres, its own sandbox, files in a folder of
//! its own. Nothing is mocked; requests go over HTTP.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use headgate::{
    cli::token::{self, Grant},
    config::{Flags, Settings},
    embedded::Embedded,
    startup::{self, Roles, Running},
    vendors::{
        registry,
        sandbox::{self, DemoConnection, Fault, Sandbox, SandboxConfig},
    },
};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, header::HeaderMap};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};
use tempfile::TempDir;
use url::Url;

pub const ALL_SCOPES: &str = "exports:read exports:write exports:download connections:admin destinations:admin \
                              schedules:read schedules:write webhooks:read webhooks:write";
pub const MASTER_KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
pub const JWT_SECRET: &str = "a-secret-of-these-tests-that-signs-nothing-else";
/// Longer than anything here takes; a test that waits this long has failed.
pub const PATIENCE: Duration = Duration::from_mins(2);

/// One Postgres for all tests of this process, kept between runs so that only the first pays for `initdb`.
fn postgres() -> &'static Embedded {
    static POSTGRES: OnceLock<Embedded> = OnceLock::new();
    POSTGRES.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("gateway-tests");
        Embedded::start(&folder, None).expect("a private Postgres for the tests")
    })
}

/// An empty database of its own.
pub async fn new_database() -> String {
    let admin = tokio::task::spawn_blocking(|| postgres().url().to_owned()).await.unwrap();
    let name = format!("test_{}", uuid::Uuid::new_v4().simple());
    let mut connection = PgConnection::connect(&admin).await.unwrap();
    sqlx::query(AssertSqlSafe(format!("create database {name}"))).execute(&mut connection).await.unwrap();
    let mut url = Url::parse(&admin).unwrap();
    url.set_path(&name);
    url.into()
}

/// What a test wants to be different.
pub struct Setup {
    pub sandbox: SandboxConfig,
    pub flags: Flags,
    pub roles: Roles,
}

impl Default for Setup {
    fn default() -> Self {
        let sandbox = SandboxConfig { people: 7, processing: Duration::from_millis(150), ..SandboxConfig::default() };
        let flags = Flags {
            egress_allow: Some("127.0.0.1/32".into()),
            poll_min_ms: Some("50".into()),
            poll_max_ms: Some("300".into()),
            ..Flags::default()
        };
        Self { sandbox, flags, roles: Roles { api: true, worker: true } }
    }
}

impl Setup {
    pub fn people(mut self, people: u64) -> Self {
        self.sandbox.people = people;
        self
    }

    pub fn fault(mut self, fault: &str) -> Self {
        self.sandbox.faults.push(Fault::parse(fault).unwrap());
        self
    }

    pub fn flags(mut self, change: impl FnOnce(&mut Flags)) -> Self {
        change(&mut self.flags);
        self
    }

    /// The API alone: what is submitted stays queued.
    pub fn without_worker(mut self) -> Self {
        self.roles.worker = false;
        self
    }

    pub async fn start(self) -> TestGateway {
        let folder = tempfile::tempdir().unwrap();
        let database_url = new_database().await;
        let jwt_secret = self.flags.jwks_url.is_none().then(|| JWT_SECRET.to_owned());
        let flags = Flags {
            listen: Some(self.flags.listen.clone().unwrap_or_else(|| "127.0.0.1:0".into())),
            data_dir: Some(folder.path().to_string_lossy().into_owned()),
            database_url: Some(database_url.clone()),
            database_max_connections: Some("8".into()),
            master_key: Some(MASTER_KEY.into()),
            jwt_secret,
            shutdown_grace_secs: Some("5".into()),
            ..self.flags
        };
        let settings = Settings::resolve(&flags, &BTreeMap::new(), &folder.path().join("headgate.toml")).unwrap();
        let sandbox = sandbox::start(self.sandbox, SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let running = startup::start(&settings, self.roles).await.unwrap();
        let db = running.gateway.db.clone();
        let base = running.local_url().unwrap();
        TestGateway {
            base,
            settings: Arc::new(settings),
            flags,
            sandbox,
            db,
            database_url,
            running: Some(running),
            folder,
            http: Client::new(),
        }
    }
}

pub struct TestGateway {
    pub base: Url,
    pub settings: Arc<Settings>,
    pub flags: Flags,
    pub sandbox: Sandbox,
    pub db: PgPool,
    pub database_url: String,
    pub running: Option<Running>,
    pub folder: TempDir,
    pub http: Client,
}

/// The usual gateway.
pub async fn gateway() -> TestGateway {
    Setup::default().start().await
}

impl TestGateway {
    /// A token of tenant `growth` that may do everything.
    pub fn token(&self) -> String {
        self.token_for("tester", "growth", ALL_SCOPES, &["*"])
    }

    pub fn token_for(&self, subject: &str, tenant: &str, scope: &str, connections: &[&str]) -> String {
        let grant = Grant { sub: subject, tenant, scope, connections: connections.to_vec() };
        let now = chrono::Utc::now().timestamp();
        token::mint(&self.settings, &grant, now, Duration::from_mins(10)).unwrap()
    }

    /// A request without a token.
    pub fn anonymous(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, self.base.join(path).unwrap())
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.anonymous(method, path).bearer_auth(self.token())
    }

    pub async fn get(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::GET, path)).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        Answer::of(self.request(Method::POST, path).json(body)).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        Answer::of(self.request(Method::PUT, path).json(body)).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::DELETE, path)).await
    }

    /// The sandbox's account at a vendor.
    pub fn account(&self, vendor: &str) -> DemoConnection {
        let spec = registry::vendor(vendor).unwrap();
        (spec.sandbox_connection)(self.sandbox.base_url())
    }

    /// Adds the sandbox's account at a vendor as a connection.
    pub async fn connect(&self, vendor: &str) -> DemoConnection {
        let account = self.account(vendor);
        let answer = self.put(&format!("/v1/connections/{}", account.name), &account.body).await;
        assert!(answer.status.is_success(), "{answer:?}");
        account
    }

    /// The smallest request for everybody in the account's audience.
    pub fn everybody(account: &DemoConnection) -> Value {
        json!({
            "connection": account.name,
            "dataset": "audience_members",
            "parameters": { "audience": account.audience },
        })
    }

    /// Submits and answers the export.
    pub async fn submit(&self, body: &Value) -> Value {
        let answer = self.post("/v1/exports", body).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
        answer.json()
    }

    /// Follows an export to its end, as a caller would.
    pub async fn finished(&self, export: &Value) -> Value {
        self.until(export, |export| !export["finished_at"].is_null()).await
    }

    /// Follows an export until `done` says so.
    pub async fn until(&self, export: &Value, done: impl Fn(&Value) -> bool) -> Value {
        let path = format!("/v1/exports/{}", export["id"].as_str().unwrap());
        let began = Instant::now();
        loop {
            let answer = Answer::of(self.request(Method::GET, &path).header("prefer", "wait=5")).await;
            assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
            let export = answer.json();
            if done(&export) {
                return export;
            }
            assert!(began.elapsed() < PATIENCE && export["finished_at"].is_null(), "never got there: {export:#}");
        }
    }

    /// Submits and follows to the end.
    pub async fn run(&self, body: &Value) -> Value {
        let export = self.submit(body).await;
        self.finished(&export).await
    }

    /// Runs an export that must succeed and answers its records.
    pub async fn records(&self, body: &Value) -> Vec<Value> {
        let export = self.run(body).await;
        assert_eq!(export["state"], "succeeded", "{export:#}");
        parse_lines(&self.download(&export).await)
    }

    /// The bytes of an export's only file.
    pub async fn download(&self, export: &Value) -> Vec<u8> {
        let files = export["result"]["files"].as_array().unwrap();
        assert_eq!(files.len(), 1, "{export:#}");
        let path = file_path(export, &files[0]);
        let answer = self.get(&path).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        answer.body
    }

    /// What the sandbox counted for a vendor.
    pub async fn sandbox_state(&self, vendor: &str) -> Value {
        let url = self.sandbox.base_url().join("/__sandbox/state").unwrap();
        let state: Value = self.http.get(url).send().await.unwrap().json().await.unwrap();
        state["vendors"][vendor].clone()
    }

    /// Ends the gateway's process part; the database and the files stay.
    pub async fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop().await;
        }
    }

    /// Starts the gateway again on the same database and files.
    pub async fn start_again(&mut self, roles: Roles) {
        assert!(self.running.is_none(), "stop it first");
        let running = startup::start(&self.settings, roles).await.unwrap();
        (self.base, self.db) = (running.local_url().unwrap(), running.gateway.db.clone());
        // The new one may listen where the old one did; connections to that one are of no use.
        self.http = Client::new();
        self.running = Some(running);
    }
}

pub fn file_path(export: &Value, file: &Value) -> String {
    format!("/v1/exports/{}/files/{}", export["id"].as_str().unwrap(), file["id"].as_str().unwrap())
}

pub fn parse_lines(bytes: &[u8]) -> Vec<Value> {
    std::str::from_utf8(bytes).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub async fn of(request: RequestBuilder) -> Self {
        Self::from(request.send().await.unwrap()).await
    }

    pub async fn from(response: Response) -> Self {
        let (status, headers) = (response.status(), response.headers().clone());
        Self { status, headers, body: response.bytes().await.unwrap().to_vec() }
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }

    /// Asserts an RFC 9457 answer and gives it.
    #[track_caller]
    pub fn problem(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text());
        assert_eq!(self.header("content-type"), "application/problem+json", "{}", self.text());
        let problem = self.json();
        assert_eq!(problem["code"], code, "{problem:#}");
        assert_eq!(problem["type"], format!("/problems/{code}"));
        assert_eq!(problem["status"], status);
        assert_eq!(problem["instance"], self.header("x-request-id"));
        problem
    }
}

/// Faults, evidence and what lies on the disk.
impl TestGateway {
    /// Switches on exactly these faults.
    pub async fn faults(&self, faults: &[&str]) {
        let url = self.sandbox.base_url().join("/__sandbox/faults").unwrap();
        let answer = self.http.post(url).json(faults).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::NO_CONTENT, "{faults:?}");
    }

    /// Looks at a live export, without holding answers, until `wanted` says so: a held answer comes with the next
    /// change of state or phase only.
    pub async fn seen(&self, export: &Value, wanted: impl Fn(&Value) -> bool) -> Value {
        let path = format!("/v1/exports/{}", export["id"].as_str().unwrap());
        eventually("the export as wanted", async || {
            let export = self.get(&path).await.json();
            let found = wanted(&export);
            assert!(found || export["finished_at"].is_null(), "it ended first: {export:#}");
            found.then_some(export)
        })
        .await
    }

    /// The vendor exchanges of an export.
    pub async fn attempts(&self, export: &Value) -> Vec<Value> {
        self.part(export, "attempts").await
    }

    /// The transitions of an export.
    pub async fn events(&self, export: &Value) -> Vec<Value> {
        self.part(export, "events").await
    }

    async fn part(&self, export: &Value, part: &str) -> Vec<Value> {
        let answer = self.get(&format!("/v1/exports/{}/{part}", export["id"].as_str().unwrap())).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        answer.json()["data"].as_array().unwrap().clone()
    }

    /// Every file below the storage folder, staging files too, as keys.
    pub fn stored_files(&self) -> Vec<String> {
        let root = self.settings.storage_url.to_file_path().unwrap();
        let mut keys = Vec::new();
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop() {
            // A folder may be removed while we look.
            for entry in std::fs::read_dir(folder).into_iter().flatten().map_while(Result::ok) {
                match entry.path() {
                    path if path.is_dir() => folders.push(path),
                    path => keys.push(path.strip_prefix(&root).unwrap().to_string_lossy().into_owned()),
                }
            }
        }
        keys.sort();
        keys
    }

    /// The objects that the manifests name.
    pub async fn named_files(&self) -> Vec<String> {
        sqlx::query_scalar("select object_key from result_file order by object_key").fetch_all(&self.db).await.unwrap()
    }
}

/// Looks every few milliseconds until `look` finds something.
pub async fn eventually<T>(what: &str, look: impl AsyncFn() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "never came: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Other callers, and the bytes on the disk.
impl TestGateway {
    /// A request with somebody's token, answered.
    pub async fn ask(&self, token: &str, method: Method, path: &str) -> Answer {
        Answer::of(self.anonymous(method, path).bearer_auth(token)).await
    }

    /// Every object in the store: its key and its bytes.
    pub fn stored(&self) -> Vec<(String, Vec<u8>)> {
        let root = self.settings.storage_url.to_file_path().unwrap();
        let with_bytes = |key: String| {
            let bytes = std::fs::read(root.join(&key)).unwrap();
            (key, bytes)
        };
        self.stored_files().into_iter().map(with_bytes).collect()
    }
}

/// Bytes in lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.map(|digit| char::from(b"0123456789abcdef"[usize::from(digit)])).collect()
}

pub fn export_path(export: &Value) -> String {
    format!("/v1/exports/{}", export["id"].as_str().unwrap())
}
