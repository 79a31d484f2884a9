mod bucket;
mod calls;
mod lists;
mod profiles;
mod series;
mod suppressions;
mod truth;

use std::{
    io::{BufRead, BufReader, Cursor},
    net::SocketAddr,
    sync::Mutex,
    time::Duration,
};

use actix_web::{App, HttpServer};
use chrono::Utc;
use reqwest::{Client, Response};
use serde_json::Value;
use uuid::Uuid;
use zip::ZipArchive;

use super::*;
use crate::vendors::sandbox::{
    Sandbox, SandboxConfig,
    people::Person,
    tests::{faults, quick, until},
};

/// A client of the simulator.
struct Api {
    sandbox: Sandbox,
    http: Client,
}

impl Api {
    async fn start(change: impl FnOnce(&mut SandboxConfig)) -> Self {
        let http = Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        Self { sandbox: quick(change).await, http }
    }

    async fn with(names: &[&str]) -> Self {
        Self::start(|config| config.faults = faults(names)).await
    }

    /// `GET` with the key; `path` may have a query.
    async fn call(&self, path: &str) -> Response {
        self.http.get(self.at(path)).bearer_auth(API_KEY).send().await.unwrap()
    }

    /// The JSON of a `GET` that succeeds.
    async fn read(&self, path: &str) -> Value {
        let answer = self.call(path).await;
        assert_eq!(answer.status(), 200, "{path}");
        answer.json().await.unwrap()
    }

    fn at(&self, path: &str) -> String {
        format!("{}{path}", self.sandbox.vendor_url(NAME))
    }

    fn post(&self, path: &str, body: &Value) -> reqwest::RequestBuilder {
        self.http.post(self.at(path)).bearer_auth(API_KEY).json(body)
    }

    async fn submit(&self, body: &Value) -> Response {
        self.post("/users/export/segment", body).send().await.unwrap()
    }

    /// Submits an export of `segment` and answers its link.
    async fn link(&self, segment: u64) -> String {
        let answer = self.submit(&order(segment)).await;
        assert_eq!(answer.status(), 201);
        answer.json::<Value>().await.unwrap()["url"].as_str().unwrap().to_owned()
    }

    async fn get(&self, link: &str) -> Response {
        self.http.get(link).send().await.unwrap()
    }

    /// Asks for the file until the answer is no longer 403.
    async fn ready(&self, link: &str) -> Response {
        until(|| async { Some(self.get(link).await).filter(|answer| answer.status() != 403) }).await
    }

    async fn archive(&self, segment: u64) -> Vec<u8> {
        let answer = self.ready(&self.link(segment).await).await;
        assert_eq!(answer.status(), 200);
        answer.bytes().await.unwrap().into()
    }

    fn activity(&self) -> crate::vendors::sandbox::Activity {
        self.sandbox.world().activity(NAME)
    }

    fn person(&self, index: u64) -> Person {
        self.sandbox.world().person(index)
    }
}

fn order(segment: u64) -> Value {
    json!({"segment_id": segment_id(segment), "fields_to_export": ["braze_id", "email", "custom_attributes"]})
}

fn asked() -> Asked {
    Asked::new(&["braze_id", "email", "custom_attributes"].map(str::to_owned), Vec::new())
}

/// The names of the members and all their lines.
fn unpack(bytes: Vec<u8>) -> (Vec<String>, Vec<String>) {
    let mut archive = ZipArchive::new(Cursor::new(bytes)).unwrap();
    let (mut names, mut lines) = (Vec::new(), Vec::new());
    for index in 0..archive.len() {
        let member = archive.by_index(index).unwrap();
        names.push(member.name().unwrap().into_owned());
        lines.extend(BufReader::new(member).lines().map(Result::unwrap));
    }
    (names, lines)
}

#[tokio::test]
async fn an_export_is_accepted_prepared_and_fetched() {
    let api = Api::start(|config| config.processing = Duration::from_millis(300)).await;
    let answer = api.submit(&order(1)).await;
    assert_eq!(answer.status(), 201);
    assert_eq!(answer.headers()["x-ratelimit-limit"], "250000");
    assert_eq!(answer.headers()["x-ratelimit-remaining"], "249999");
    let reset: i64 = answer.headers()["x-ratelimit-reset"].to_str().unwrap().parse().unwrap();
    assert!((Utc::now().timestamp() + 3_590..=Utc::now().timestamp() + 3_600).contains(&reset));
    let answer: Value = answer.json().await.unwrap();
    assert_eq!(answer["message"], "success");
    let (uuid, seconds) = answer["object_prefix"].as_str().unwrap().rsplit_once('-').unwrap();
    assert!(Uuid::parse_str(uuid).is_ok() && seconds.parse::<i64>().is_ok());
    let link = answer["url"].as_str().unwrap();
    assert!(link.starts_with(&api.at("/files/")), "{link}");

    let early = api.get(link).await;
    assert_eq!(early.status(), 403);
    assert_eq!(early.headers()["content-type"], "application/xml");
    assert!(early.text().await.unwrap().contains("<Code>AccessDenied</Code>"));

    let file = api.ready(link).await;
    assert_eq!(file.headers()["content-type"], "application/zip");
    let (_, lines) = unpack(file.bytes().await.unwrap().into());
    let expected: Vec<_> = (0..25).map(|index| api.person(index).braze(&asked())).collect();
    assert_eq!(lines, expected);
    let activity = api.activity();
    assert_eq!((activity.submissions, activity.downloads, activity.violation_count), (1, 1, 0));
    assert!(activity.polls > 1);
    assert_eq!((activity.running, activity.max_running), (0, 1));
}

#[tokio::test]
async fn keys_are_checked_as_documented() {
    let api = Api::start(|_| {}).await;
    let status = |key: &'static str| {
        let request = api.http.post(api.at("/users/export/segment")).bearer_auth(key).json(&order(1));
        async move { request.send().await.unwrap().status() }
    };
    assert_eq!(status("\"sandbox-braze-key\"").await, 401);
    assert_eq!(status("wrong").await, 401);
    assert_eq!(status(API_KEY_WITHOUT_EXPORT).await, 403);
    let bare = api.http.post(api.at("/users/export/segment")).json(&order(1)).send().await.unwrap();
    assert_eq!(bare.status(), 401);
    assert!(bare.headers().contains_key("x-ratelimit-remaining"));
    assert_eq!(api.activity().refusals["unauthorized"], 3);
    assert_eq!(api.activity().submissions, 0);
    let list = api.http.get(api.at("/segments/list")).bearer_auth(API_KEY_WITHOUT_EXPORT).send().await.unwrap();
    assert_eq!(list.status(), 200);
}

#[tokio::test]
async fn requests_that_braze_would_refuse_are_refused_and_counted() {
    let api = Api::start(|_| {}).await;
    let segment = segment_id(1);
    let many = vec!["plan"; 501];
    let bad = [
        json!({"fields_to_export": ["email"]}),
        json!({"segment_id": 1, "fields_to_export": ["email"]}),
        json!({"segment_id": segment}),
        json!({"segment_id": segment, "fields_to_export": []}),
        json!({"segment_id": segment, "fields_to_export": "email"}),
        json!({"segment_id": segment, "fields_to_export": ["email", "shoe_size"]}),
        json!({"segment_id": segment, "fields_to_export": ["email"], "output_format": "csv"}),
        json!({"segment_id": segment, "fields_to_export": ["email"], "callback_endpoint": "example_endpoint"}),
        json!({"segment_id": segment, "fields_to_export": ["email"], "custom_attributes_to_export": many}),
        json!([]),
    ];
    for (count, body) in bad.iter().enumerate() {
        assert_eq!(api.submit(body).await.status(), 400, "{body}");
        assert_eq!(api.activity().violation_count, count as u64 + 1, "{body}");
    }
    let unknown = json!({"segment_id": "no-such-segment", "fields_to_export": ["email"]});
    assert_eq!(api.submit(&unknown).await.status(), 400);
    let text = api.http.post(api.at("/users/export/segment")).bearer_auth(API_KEY).body(order(1).to_string());
    assert_eq!(text.send().await.unwrap().status(), 400);
    assert_eq!(api.activity().refusals["bad_request"], bad.len() as u64 + 2);

    let with_more = json!({"segment_id": segment, "fields_to_export": ["email"], "priority": 1, "api_key": "x"});
    assert_eq!(api.submit(&with_more).await.status(), 201);
    let violations = api.activity().violations;
    assert_eq!(violations[violations.len() - 2..], ["`priority` is not documented", "the key was sent in the body"]);
    assert_eq!(api.http.get(api.at("/users/export")).send().await.unwrap().status(), 404);
}

#[tokio::test]
async fn a_segment_is_exported_once_at_a_time() {
    let api = Api::start(|config| config.processing = Duration::from_hours(1)).await;
    assert_eq!(api.submit(&order(1)).await.status(), 201);
    let busy = api.submit(&order(1)).await;
    assert_eq!(busy.status(), 429);
    assert_ne!(busy.headers()["x-ratelimit-remaining"], "0");
    assert_eq!(api.submit(&order(2)).await.status(), 201);
    assert_eq!(api.activity().refusals["segment_busy"], 1);
    assert_eq!((api.activity().running, api.activity().max_running_per_audience), (2, 1));

    for path in ["/users/export/segment/cancel", "/export/segment/cancel"] {
        let cancelled = api.post(path, &json!({"segment_id": segment_id(1)})).send().await.unwrap();
        assert_eq!(cancelled.json::<Value>().await.unwrap(), json!({"message": "success"}));
        assert_eq!(api.submit(&order(1)).await.status(), 429, "the segment stays taken for a while");
        until(|| async { (api.submit(&order(1)).await.status() == 201).then_some(()) }).await;
    }
    assert_eq!(api.post("/export/segment/cancel", &json!({})).send().await.unwrap().status(), 400);
}

#[tokio::test]
async fn no_more_exports_run_than_the_company_may() {
    let api = Api::start(|config| {
        config.processing = Duration::from_hours(1);
        config.max_concurrent = 2;
    })
    .await;
    let mut statuses = Vec::new();
    for segment in 1..4 {
        statuses.push(api.submit(&order(segment)).await.status().as_u16());
    }
    assert_eq!(statuses, [201, 201, 429]);
    assert_eq!(api.activity().refusals["too_many_exports"], 1);
}

#[tokio::test]
async fn the_hourly_budget_is_one_pool_for_every_call() {
    let api = Api::start(|config| config.requests_per_hour = 2).await;
    let list = || async { api.http.get(api.at("/segments/list")).bearer_auth(API_KEY).send().await.unwrap() };
    assert_eq!(list().await.headers()["x-ratelimit-remaining"], "1");
    assert_eq!(api.submit(&order(1)).await.headers()["x-ratelimit-remaining"], "0");
    let refused = list().await;
    assert_eq!((refused.status().as_u16(), refused.headers()["x-ratelimit-remaining"].to_str().unwrap()), (429, "0"));
    assert_eq!(api.activity().refusals["rate_limited"], 1);
}

#[tokio::test]
async fn the_file_host_wants_no_key_and_answers_only_signed_gets() {
    let api = Api::start(|_| {}).await;
    let link = api.link(1).await;
    let whole = api.ready(&link).await.bytes().await.unwrap();
    let with_key = api.http.get(&link).bearer_auth(API_KEY).send().await.unwrap();
    assert_eq!(with_key.status(), 400);
    assert_eq!(api.activity().violations, ["the key was sent to the file host"]);
    assert_eq!(api.http.head(&link).send().await.unwrap().status(), 403);
    let (unsigned, _) = link.split_once('?').unwrap();
    assert!(api.get(unsigned).await.text().await.unwrap().contains("SignatureDoesNotMatch"));
    assert_eq!(api.get(&api.at("/files/0123.zip?X-Amz-Signature=0")).await.status(), 403);

    let range = |range: &'static str| api.http.get(&link).header("range", range).send();
    let first = range("bytes=0-0").await.unwrap();
    assert_eq!(first.status(), 206);
    assert_eq!(first.headers()["content-range"], format!("bytes 0-0/{}", whole.len()));
    assert_eq!(first.bytes().await.unwrap(), whole[..1]);
    assert_eq!(range("bytes=-22").await.unwrap().bytes().await.unwrap(), whole[whole.len() - 22..]);
    assert_eq!(range("bytes=99999999-").await.unwrap().status(), 416);
}

#[tokio::test]
async fn a_link_ends_with_its_life() {
    let api = Api::start(|config| config.link_life = Duration::ZERO).await;
    let link = api.link(1).await;
    until(|| async { (api.activity().running == 0).then_some(()) }).await;
    assert_eq!(api.get(&link).await.status(), 403);
}

#[tokio::test]
async fn the_end_is_reported_to_the_callback() {
    let received = Arc::new(Mutex::new(Vec::new()));
    let inbox = web::Data::from(Arc::clone(&received));
    let callbacks = HttpServer::new(move || {
        App::new().app_data(inbox.clone()).default_service(web::post().to(
            |inbox: web::Data<Mutex<Vec<Value>>>, body: web::Json<Value>| async move {
                inbox.lock().unwrap().push(body.into_inner());
                HttpResponse::Ok().finish()
            },
        ))
    })
    .workers(1)
    .disable_signals()
    .bind(SocketAddr::from(([127, 0, 0, 1], 0)))
    .unwrap();
    let address = callbacks.addrs()[0];
    let callbacks = callbacks.run();
    let handle = callbacks.handle();
    tokio::spawn(callbacks);

    let api = Api::start(|_| {}).await;
    let mut body = order(1);
    body["callback_endpoint"] = json!(format!("http://{address}/hook"));
    let mut sent = 0;
    for (fault, times) in [(&[][..], 1), (&["braze.callback.twice"], 2), (&["braze.callback.lost"], 0)] {
        api.sandbox.world().set_faults(faults(fault));
        let answer: Value = api.submit(&body).await.json().await.unwrap();
        api.ready(answer["url"].as_str().unwrap()).await;
        sent += times;
        until(|| async { (api.activity().callbacks == sent).then_some(()) }).await;
        if times > 0 {
            let last = received.lock().unwrap().last().cloned();
            assert_eq!(last, Some(json!({"success": true, "url": answer["url"]})));
        }
    }
    assert_eq!(received.lock().unwrap().len(), 3);
    assert_eq!(api.activity().callbacks_failed, 0);
    handle.stop(false).await;
}

#[tokio::test]
async fn an_early_callback_comes_before_the_file() {
    let api = Api::start(|config| {
        config.faults = faults(&["braze.callback.early"]);
        config.processing = Duration::from_hours(1);
    })
    .await;
    let mut body = order(1);
    // Nothing takes callbacks there; that it was tried is what counts.
    body["callback_endpoint"] = json!(api.at("/nowhere"));
    assert_eq!(api.submit(&body).await.status(), 201);
    until(|| async { (api.activity().callbacks == 1).then_some(()) }).await;
    assert_eq!((api.activity().running, api.activity().callbacks_failed), (1, 1));
}

#[tokio::test]
async fn segments_are_listed_a_hundred_a_page() {
    let api = Api::start(|_| {}).await;
    let page = |query: &'static str| {
        let request = api.http.get(api.at(&format!("/segments/list{query}"))).bearer_auth(API_KEY);
        async move { request.send().await.unwrap().json::<Value>().await.unwrap()["segments"].clone() }
    };
    let first = page("").await;
    assert_eq!(first.as_array().unwrap().len(), 100);
    let expected = json!({
        "id": "5a1b0c2d-0000-4000-8000-000000000001",
        "name": "Everybody",
        "analytics_tracking_enabled": true,
        "tags": ["demo"],
    });
    assert_eq!(first[0], expected);
    assert_eq!(page("?page=2").await.as_array().unwrap().len(), 50);
    assert_eq!(page("?page=3").await, json!([]));
    assert_eq!(page("?sort_direction=desc").await[0]["id"], segment_id(250));
}

#[tokio::test]
async fn answers_of_the_segment_faults() {
    let names =
        ["unauthorized", "forbidden", "bad_request", "rate_limited", "busy", "server_error", "html", "bad_json"];
    let mut seen = Vec::new();
    for name in names {
        let api = Api::with(&[&format!("braze.segment.{name}=1")]).await;
        let answer = api.submit(&order(1)).await;
        let header = |name| answer.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        let (left, kind) = (header("x-ratelimit-remaining"), header("content-type"));
        seen.push(format!("{name}: {} {left:?} {kind:?}", answer.status().as_u16()));
        if name == "rate_limited" {
            let reset: i64 = header("x-ratelimit-reset").unwrap().parse().unwrap();
            assert!((0..=2).contains(&(reset - Utc::now().timestamp())));
        }
        let parsed = answer.json::<Value>().await;
        assert_eq!(parsed.is_err(), ["server_error", "html", "bad_json"].contains(&name), "{name}");
        assert_eq!(api.activity().submissions, 0, "{name}");
        assert_eq!(api.submit(&order(1)).await.status(), 201, "{name} shows once");
    }
    insta::assert_snapshot!(seen.join("\n"), @r#"
    unauthorized: 401 Some("249999") Some("application/json")
    forbidden: 403 Some("249999") Some("application/json")
    bad_request: 400 Some("249999") Some("application/json")
    rate_limited: 429 Some("0") Some("application/json")
    busy: 429 Some("249999") Some("application/json")
    server_error: 500 None Some("text/plain")
    html: 502 None Some("text/html")
    bad_json: 201 Some("249999") Some("application/json")
    "#);
}

#[tokio::test]
async fn a_lost_answer_leaves_an_export_behind() {
    let api = Api::start(|config| {
        config.faults = faults(&["braze.segment.lost_answer=1"]);
        config.processing = Duration::from_hours(1);
    })
    .await;
    let error = api.post("/users/export/segment", &order(1)).send().await.unwrap_err();
    assert!(error.is_request() && !error.is_connect(), "{error:?}");
    assert_eq!(api.activity().submissions, 1);
    assert_eq!(api.submit(&order(1)).await.status(), 429);
}

#[tokio::test]
async fn a_slow_answer_comes_late_and_a_bucket_workspace_gives_no_link() {
    let api = Api::start(|config| {
        config.faults = faults(&["braze.segment.slow=1", "braze.segment.no_url=1"]);
        config.slow_answer = Duration::from_millis(200);
    })
    .await;
    let started = Instant::now();
    let answer: Value = api.submit(&order(1)).await.json().await.unwrap();
    assert!(started.elapsed() >= Duration::from_millis(200));
    assert_eq!(answer["url"], Value::Null);
    assert!(answer["object_prefix"].is_string());
}

#[tokio::test]
async fn answers_of_the_file_faults() {
    let mut seen = Vec::new();
    for name in ["not_found=1", "server_error=1", "html=1", "redirect=http://169.254.169.254/"] {
        let api = Api::with(&[&format!("braze.file.{name}")]).await;
        let link = api.link(1).await;
        let answer = api.ready(&link).await;
        let header = |name| answer.headers().get(name).map(|value| value.to_str().unwrap());
        seen.push(format!("{name}: {} {:?} {:?}", answer.status(), header("content-type"), header("location")));
        if !name.starts_with("redirect") {
            assert_eq!(api.get(&link).await.headers()["content-type"], "application/zip", "{name} shows once");
        }
    }
    insta::assert_snapshot!(seen.join("\n"), @r#"
    not_found=1: 404 Not Found Some("application/xml") None
    server_error=1: 503 Service Unavailable Some("application/xml") None
    html=1: 200 OK Some("text/html") None
    redirect=http://169.254.169.254/: 302 Found None Some("http://169.254.169.254/")
    "#);
}

#[tokio::test]
async fn a_link_can_stay_unready_and_can_expire_after_the_first_answer() {
    let api = Api::with(&["braze.segment.not_ready=3"]).await;
    let link = api.link(1).await;
    until(|| async { (api.activity().running == 0).then_some(()) }).await;
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(api.get(&link).await.status().as_u16());
    }
    assert_eq!(statuses, [403, 403, 403, 200]);

    let api = Api::with(&["braze.file.expired"]).await;
    let link = api.link(1).await;
    until(|| async { (api.activity().running == 0).then_some(()) }).await;
    assert_eq!(api.http.get(&link).header("range", "bytes=0-0").send().await.unwrap().status(), 206);
    assert_eq!(api.get(&link).await.status(), 403);
}

#[tokio::test]
async fn a_file_is_cut_truncated_or_drips() {
    let api = Api::start(|config| {
        config.people = 2_000;
        config.faults = faults(&["braze.file.cut=1", "braze.file.truncated=1"]);
    })
    .await;
    let link = api.link(1).await;
    let mut cut = api.ready(&link).await;
    let length = cut.content_length().unwrap();
    let mut received = 0;
    let broken = loop {
        match cut.chunk().await {
            Ok(Some(bytes)) => received += bytes.len() as u64,
            Ok(None) => break false,
            Err(_) => break true,
        }
    };
    assert!(broken && received == length / 2, "{received} of {length}");

    let truncated = api.get(&link).await.bytes().await.unwrap();
    assert_eq!(truncated.len() as u64, length * 3 / 5);
    assert!(ZipArchive::new(Cursor::new(truncated)).is_err());
    assert_eq!(api.get(&link).await.bytes().await.unwrap().len() as u64, length);

    api.sandbox.world().set_faults(faults(&["braze.file.drip"]));
    let mut drip = api.get(&link).await;
    assert_eq!(drip.content_length(), Some(length));
    assert_eq!(drip.chunk().await.unwrap().unwrap().len(), 1);
}

#[tokio::test]
async fn damaged_archives_are_damaged_as_their_name_says() {
    let archive = |fault: &'static str| async move { Api::with(&[fault]).await.archive(1).await };

    assert!(archive("braze.file.empty=1").await.is_empty());

    let mut corrupt = ZipArchive::new(Cursor::new(archive("braze.file.corrupt_crc=1").await)).unwrap();
    let error = std::io::read_to_string(corrupt.by_index(0).unwrap()).unwrap_err();
    assert!(error.to_string().contains("checksum"), "{error}");

    let mut bomb = ZipArchive::new(Cursor::new(archive("braze.file.bomb=1").await)).unwrap();
    assert_eq!(bomb.by_index(0).unwrap().size(), archive::BOMB_BYTES);

    let (names, lines) = unpack(archive("braze.file.path_traversal=1").await);
    assert!(names[0].starts_with("../../"));
    assert_eq!(lines.len(), 25);

    let mut outer = ZipArchive::new(Cursor::new(archive("braze.file.nested=1").await)).unwrap();
    let mut inner = Vec::new();
    std::io::copy(&mut outer.by_index(0).unwrap(), &mut inner).unwrap();
    assert_eq!(unpack(inner).1.len(), 25);

    let (_, lines) = unpack(archive("braze.file.bad_record=1").await);
    let unreadable = lines.iter().enumerate().filter(|(_, line)| serde_json::from_str::<Value>(line).is_err());
    assert_eq!(unreadable.map(|(at, _)| at).collect::<Vec<_>>(), [1]);
}

#[tokio::test]
async fn an_empty_segment_gives_an_archive_without_members() {
    let api = Api::start(|_| {}).await;
    assert_eq!(unpack(api.archive(2).await), (Vec::new(), Vec::new()));
}

#[tokio::test]
async fn fifty_thousand_users_come_as_ten_members_and_equal_the_truth() {
    let api = Api::start(|config| config.people = 50_000).await;
    let (names, lines) = unpack(api.archive(1).await);
    assert_eq!(names.len(), 10);
    for (name, ending) in names.iter().zip([".json", ".txt"].into_iter().cycle()) {
        let random = name.strip_suffix(ending).unwrap();
        assert!(random.len() == 32 && random.chars().all(|c| c.is_ascii_hexdigit()), "{name}");
    }
    assert_eq!(lines.len(), 50_000);
    for (index, line) in lines.iter().enumerate() {
        assert_eq!(*line, api.person(index as u64).braze(&asked()));
    }
}

/// Run by hand: how long a large archive takes, and that memory does not grow with it.
#[tokio::test]
#[ignore = "takes long in a debug build"]
async fn a_quarter_of_a_million_users_do_not_fill_the_memory() {
    let peak_kib = || -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let api = Api::start(|config| config.people = 250_000).await;
    let body = json!({"segment_id": segment_id(1), "fields_to_export": &FIELDS[..]});
    let started = Instant::now();
    let answer: Value = api.submit(&body).await.json().await.unwrap();
    let before = peak_kib();
    while api.activity().running > 0 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut file = api.ready(answer["url"].as_str().unwrap()).await;
    while file.chunk().await.unwrap().is_some() {}
    let grown = peak_kib() - before;
    println!("{:?}, {grown} KiB more", started.elapsed());
    assert!(grown < 32 * 1024, "{grown} KiB");
}
