use std::time::Duration;

use reqwest::{Client, Response};
use serde_json::Value;

use super::{computations::Computation, jobs::running_stage, users::Member, *};
use crate::vendors::sandbox::{
    Activity, Sandbox, SandboxConfig,
    tests::{faults, quick, until},
};

mod queries;
mod reports;
mod variations;

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

    fn at(&self, path: &str) -> String {
        format!("{}{path}", self.sandbox.vendor_url(NAME))
    }

    async fn get(&self, path: &str) -> Response {
        self.http.get(self.at(path)).bearer_auth(TOKEN).send().await.unwrap()
    }

    fn post(&self, path: &str, body: &Value) -> reqwest::RequestBuilder {
        self.http.post(self.at(path)).bearer_auth(TOKEN).json(body)
    }

    /// Begins a job and answers its id.
    async fn begin(&self, body: &Value) -> String {
        let answer = self.post(EXPORT, body).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.json::<Value>().await.unwrap()["id"].as_str().unwrap().to_owned()
    }

    async fn result(&self, id: &str) -> Value {
        self.get(&format!("/v1/api/job/result/{id}")).await.json().await.unwrap()
    }

    async fn uris(&self, id: &str) -> Vec<String> {
        let ready = || async { Some(self.result(id).await).filter(|result| result["stage"] == "FINISH") };
        serde_json::from_value(until(ready).await["uris"].clone()).unwrap()
    }

    /// Begins a job and answers the path of its first file.
    async fn file(&self, body: &Value) -> String {
        let id = self.begin(body).await;
        format!("/download?file={}", self.uris(&id).await[0])
    }

    fn activity(&self) -> Activity {
        self.sandbox.world().activity(NAME)
    }

    fn expected(&self, gio_id: GioId) -> Vec<String> {
        (0..25).map(|index| line(&self.sandbox, index, gio_id)).collect()
    }
}

const EXPORT: &str = "/v1/api/projects/WlGk4Daj/spaces/VKwkPmqX/user_tags/tag_rfm/export_jobs";

fn properties() -> Vec<String> {
    ["ids_$basic_userId", "usr_gender", "usr_note", "tag_rfm"].map(str::to_owned).into()
}

/// The line of a user in the `json` file of an audience that was computed by schedule.
fn line(sandbox: &Sandbox, index: u64, gio_id: GioId) -> String {
    Member { person: &sandbox.world().person(index), computation: &Computation::nightly() }.json(&properties(), gio_id)
}

fn order() -> Value {
    json!({"properties": properties(), "fileFormat": "json"})
}

async fn lines(answer: Response) -> Vec<String> {
    assert_eq!(answer.status(), 200);
    answer.text().await.unwrap().lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn a_job_goes_through_its_stages_to_an_encoded_address() {
    let api = Api::start(|config| config.processing = Duration::from_millis(400)).await;
    let answer: Value = api.post(EXPORT, &order()).send().await.unwrap().json().await.unwrap();
    let (id, name) = (answer["id"].as_str().unwrap(), answer["name"].as_str().unwrap());
    assert_eq!(id.len(), 8);
    assert!(name.starts_with("DET-20"), "{name}");
    let mut stages = Vec::new();
    let uris = until(|| async { Some(api.result(id).await) }).await;
    stages.push(uris["stage"].as_str().unwrap().to_owned());
    let uris = api.uris(id).await;
    assert_eq!(stages, ["READY"]);
    assert_eq!(uris.len(), 1);
    let prefix = format!("%2Fjobs%2Fresults%2F{name}%2F%E6%A0%87%E7%AD%BE_Everybody_");
    assert!(uris[0].starts_with(&prefix) && uris[0].ends_with("_UserList.json"), "{}", uris[0]);

    let below_project: Value =
        api.get(&format!("/v1/api/projects/WlGk4Daj/job/result/{id}")).await.json().await.unwrap();
    assert_eq!(below_project["uris"][0], uris[0]);
    let file = api.get(&format!("/download?file={}", uris[0])).await;
    assert_eq!(lines(file).await, api.expected(GioId::Number));
    let activity = api.activity();
    assert_eq!((activity.submissions, activity.downloads, activity.violation_count), (1, 1, 0));
    assert_eq!((activity.running, activity.max_running), (0, 1));
}

#[test]
fn stages_follow_the_time_a_job_takes() {
    let stages = [0, 9, 10, 29, 30, 39].map(|at| running_stage(Duration::from_secs(at), Duration::from_secs(40)));
    assert_eq!(stages, ["READY", "READY", "RUNNING", "RUNNING", "DATA_READY", "DATA_READY"]);
}

#[tokio::test]
async fn an_address_works_encoded_once_and_no_other_way() {
    let api = Api::start(|_| {}).await;
    let path = api.file(&order()).await;
    let twice = path.replace("%2F", "%252F").replace("%E", "%25E");
    assert_eq!(api.get(&twice).await.status(), 404);
    assert_eq!(api.activity().violations, ["the file's address was encoded twice"]);
    assert_eq!(api.http.get(api.at(&path)).send().await.unwrap().status(), 200, "without a token");
    assert_eq!(api.http.get(api.at(&path)).bearer_auth("wrong").send().await.unwrap().status(), 401);
    assert_eq!(api.get("/download?file=%2Fjobs%2Fresults%2Fother.json").await.status(), 404);
    assert_eq!(api.get("/download").await.status(), 404);
}

#[tokio::test]
async fn what_is_wrong_or_not_granted_answers_500_in_plain_text() {
    let api = Api::start(|_| {}).await;
    let many: Vec<_> = (0..61).map(|_| "usr_email").collect();
    let cases = [
        (EXPORT.replace("tag_rfm", "tag_unknown"), order()),
        (EXPORT.replace("tag_rfm", "seg_rfm"), order()),
        (EXPORT.replace("VKwkPmqX", "Elsewhere"), order()),
        (EXPORT.to_owned(), json!({"properties": many})),
        (EXPORT.to_owned(), json!({"properties": "usr_email"})),
        (EXPORT.to_owned(), json!({"fileFormat": "xlsx"})),
        (EXPORT.to_owned(), json!({"csvHeaderType": "title"})),
    ];
    for (path, body) in cases {
        let answer = api.post(&path, &body).send().await.unwrap();
        assert_eq!(answer.status(), 500, "{path} {body}");
        assert!(answer.headers()["content-type"].to_str().unwrap().starts_with("text/plain"));
        assert_eq!(answer.text().await.unwrap(), "Internal Server Error");
    }
    assert_eq!(api.activity().submissions, 0);
    assert_eq!(api.activity().refused(), 7);
    let wrong = api.http.post(api.at(EXPORT)).bearer_auth("wrong").json(&order()).send().await.unwrap();
    assert_eq!(wrong.status(), 401);
    let odd = json!({"properties": ["usr_shoe_size"], "fileformat": "json"});
    assert_eq!(api.post(EXPORT, &odd).send().await.unwrap().status(), 200);
    let violations = api.activity().violations;
    let last = &violations[violations.len() - 2..];
    assert_eq!(last, ["`fileformat` is not documented", "there is no property \"usr_shoe_size\""]);
}

#[tokio::test]
async fn every_documented_path_submits() {
    let api = Api::start(|_| {}).await;
    for path in [
        "/v1/api/projects/WlGk4Daj/spaces/VKwkPmqX/segment_profiles/seg_rfm/export_jobs",
        "/v1/api/projects/WlGk4Daj/segment_profiles/seg_3/export_jobs",
        "/v1/api/projects/WlGk4Daj/user_tags/tag_4/export_jobs",
        "/v1/api/user_tags/tag_5/export_jobs",
    ] {
        assert_eq!(api.post(path, &order()).send().await.unwrap().status(), 200, "{path}");
    }
    assert_eq!(api.activity().submissions, 4);
    let sneaky = api.post("/v1/api/user_tags/tag_5/export_job", &order()).send().await.unwrap();
    assert_eq!(sneaky.status(), 404);
}

#[tokio::test]
async fn csv_is_the_default_and_its_header_has_keys_or_names() {
    let api = Api::start(|_| {}).await;
    let header = |body: Value| {
        let api = &api;
        async move { lines(api.get(&api.file(&body).await).await).await[0].clone() }
    };
    let keys = header(json!({"properties": properties()})).await;
    assert_eq!(keys, r#""gio_id","id_$basic_userId","usr_gender","usr_note","tag_rfm""#);
    let names = header(json!({"properties": properties(), "fileFormat": "csv", "csvHeaderType": "name"})).await;
    assert_eq!(names, r#""gio_id","用户ID","性别","备注","会员等级""#);
    assert_eq!(header(json!({})).await, r#""gio_id""#);
}

#[tokio::test]
async fn lists_are_paged_with_numbers_as_the_vendor_prints_them() {
    let api = Api::start(|_| {}).await;
    let list = "/v1/api/projects/WlGk4Daj/spaces/VKwkPmqX/user_tags?limit=2&offset=248";
    let text = api.get(list).await.text().await.unwrap();
    assert!(text.contains(r#""offset":248.0,"limit":2.0,"totalCount":250.0"#), "{text}");
    let page: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&page["hasNextPage"], &page["hasPreviousPage"]), (&json!(false), &json!(true)));
    assert_eq!(page["values"][1]["key"], tag_key(250));
    let segments: Value =
        api.get("/v1/api/projects/WlGk4Daj/spaces/VKwkPmqX/segment_profiles").await.json().await.unwrap();
    assert_eq!(segments["values"][0]["key"], segment_key(1));
    assert_eq!(segments["values"][0]["createdBy"], "DIRECT");
    assert_eq!(api.get(&list.replace("limit=2", "limit=1001")).await.status(), 500);
}

#[tokio::test]
async fn answers_of_the_export_faults() {
    let mut seen = Vec::new();
    for name in ["unauthorized", "forbidden", "rate_limited", "server_error", "html", "bad_json"] {
        let api = Api::with(&[&format!("growingio_cdp.export.{name}=1")]).await;
        let answer = api.post(EXPORT, &order()).send().await.unwrap();
        let status = answer.status();
        seen.push(format!("{name}: {} {:?}", status.as_u16(), answer.text().await.unwrap()));
        assert_eq!(api.activity().submissions, 0, "{name}");
        assert_eq!(api.post(EXPORT, &order()).send().await.unwrap().status(), 200, "{name} shows once");
    }
    insta::assert_snapshot!(seen.join("\n"), @r#"
    unauthorized: 401 ""
    forbidden: 403 ""
    rate_limited: 429 "Too Many Requests"
    server_error: 500 "Internal Server Error"
    html: 502 "<html><head><title>502 Bad Gateway</title></head><body><center>nginx</center></body></html>"
    bad_json: 200 "{\"id\":\"kqQe"
    "#);

    let api = Api::with(&["growingio_cdp.export.lost_answer=1"]).await;
    let error = api.post(EXPORT, &order()).send().await.unwrap_err();
    assert!(error.is_request() && !error.is_connect(), "{error:?}");
    assert_eq!(api.activity().submissions, 1);
}

#[tokio::test]
async fn answers_of_the_job_faults() {
    let mut seen = Vec::new();
    for name in [
        "unknown_stage",
        "error_stage",
        "no_uris",
        "gone",
        "unauthorized",
        "forbidden",
        "rate_limited",
        "server_error",
        "html",
        "stuck",
    ] {
        let api = Api::start(|_| {}).await;
        let id = api.begin(&order()).await;
        api.uris(&id).await;
        api.sandbox.world().set_faults(faults(&[&format!("growingio_cdp.job.{name}=1")]));
        let answer = api.get(&format!("/v1/api/job/result/{id}")).await;
        seen.push(format!("{name}: {} {}", answer.status().as_u16(), answer.text().await.unwrap()));
        assert_eq!(api.result(&id).await["stage"], "FINISH", "{name} shows once");
    }
    insta::assert_snapshot!(seen.join("\n"), @r#"
    unknown_stage: 200 {"stage":"PUBLISHING"}
    error_stage: 200 {"stage":"ERROR"}
    no_uris: 200 {"stage":"FINISH","uris":null}
    gone: 404 Not Found
    unauthorized: 401 
    forbidden: 403 
    rate_limited: 429 Too Many Requests
    server_error: 500 Internal Server Error
    html: 502 <html><head><title>502 Bad Gateway</title></head><body><center>nginx</center></body></html>
    stuck: 200 {"stage":"RUNNING"}
    "#);
}

#[tokio::test]
async fn an_answer_about_a_job_breaks_off_or_drips() {
    let api = Api::start(|_| {}).await;
    let id = api.begin(&order()).await;
    api.uris(&id).await;
    let path = format!("/v1/api/job/result/{id}");
    let whole = api.get(&path).await.content_length();
    let spoiled = async |fault: &str| {
        api.sandbox.world().set_faults(faults(&[&format!("growingio_cdp.{fault}=1")]));
        api.get(&path).await
    };
    assert_eq!(spoiled("job.bad_json").await.bytes().await.unwrap().len() as u64, whole.unwrap() * 3 / 5);
    let cut = spoiled("job.cut").await;
    assert_eq!(cut.content_length(), whole);
    assert!(cut.bytes().await.is_err());
    assert_eq!(spoiled("job.slow").await.chunk().await.unwrap().unwrap().len(), 1);
    api.sandbox.world().set_faults(faults(&["growingio_cdp.export.slow=1"]));
    let mut slow = api.post(EXPORT, &order()).send().await.unwrap();
    assert_eq!(slow.chunk().await.unwrap().unwrap().len(), 1);
}

#[tokio::test]
async fn a_server_may_know_one_of_the_two_job_paths_only() {
    for (fault, bare, below_project) in [("only_project_path", 404, 200), ("only_bare_path", 200, 404)] {
        let api = Api::with(&[&format!("growingio_cdp.job.{fault}")]).await;
        let id = api.begin(&order()).await;
        assert_eq!(api.get(&format!("/v1/api/job/result/{id}")).await.status(), bare, "{fault}");
        let path = format!("/v1/api/projects/WlGk4Daj/job/result/{id}");
        assert_eq!(api.get(&path).await.status(), below_project, "{fault}");
    }
    let api = Api::start(|_| {}).await;
    assert_eq!(api.get("/v1/api/job/result/AbQ3XApY").await.status(), 404);
}

#[tokio::test]
async fn raw_addresses_are_plain_paths_that_work_once_encoded() {
    let api = Api::with(&["growingio_cdp.job.raw_uris"]).await;
    let id = api.begin(&order()).await;
    let uri = api.uris(&id).await.remove(0);
    assert!(uri.starts_with("/jobs/results/DET-") && uri.contains("/标签_Everybody_"), "{uri}");
    let url = Url::parse_with_params(&api.at("/download"), [("file", &uri)]).unwrap();
    assert_eq!(api.http.get(url).bearer_auth(TOKEN).send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn answers_of_the_file_faults() {
    let mut seen = Vec::new();
    for name in ["not_found=1", "server_error=1", "html=1", "redirect=http://169.254.169.254/"] {
        let api = Api::with(&[&format!("growingio_cdp.file.{name}")]).await;
        let path = api.file(&order()).await;
        let answer = api.get(&path).await;
        let header = |name| answer.headers().get(name).map(|value| value.to_str().unwrap());
        seen.push(format!("{name}: {} {:?} {:?}", answer.status(), header("content-type"), header("location")));
        if !name.starts_with("redirect") {
            assert_eq!(lines(api.get(&path).await).await.len(), 25, "{name} shows once");
        }
    }
    insta::assert_snapshot!(seen.join("\n"), @r#"
    not_found=1: 404 Not Found Some("text/plain;charset=UTF-8") None
    server_error=1: 500 Internal Server Error Some("text/plain;charset=UTF-8") None
    html=1: 200 OK Some("text/html") None
    redirect=http://169.254.169.254/: 302 Found None Some("http://169.254.169.254/")
    "#);
}

#[tokio::test]
async fn a_file_is_cut_truncated_or_drips() {
    let api = Api::with(&["growingio_cdp.file.cut=1", "growingio_cdp.file.truncated=1"]).await;
    let path = api.file(&order()).await;
    let whole = api.expected(GioId::Number).join("\n").len() + 1;
    let cut = api.get(&path).await;
    assert_eq!(cut.content_length(), Some(whole as u64));
    assert!(cut.bytes().await.is_err());
    assert_eq!(api.get(&path).await.bytes().await.unwrap().len(), whole * 3 / 5);
    assert_eq!(api.get(&path).await.bytes().await.unwrap().len(), whole);
    api.sandbox.world().set_faults(faults(&["growingio_cdp.file.drip"]));
    assert_eq!(api.get(&path).await.chunk().await.unwrap().unwrap().len(), 1);
}

#[tokio::test]
async fn files_differ_as_the_fault_says() {
    let file = |fault: &'static str| async move {
        let api = Api::with(&[fault]).await;
        let path = api.file(&order()).await;
        (lines(api.get(&path).await).await, api)
    };
    let (text, api) = file("growingio_cdp.file.gio_id_as_text=1").await;
    assert!(text[0].starts_with(r#"{"gio_id":"600000","#));
    assert_eq!(text, api.expected(GioId::Text));

    let (bad, _) = file("growingio_cdp.file.bad_record=1").await;
    let unreadable = bad.iter().enumerate().filter(|(_, line)| serde_json::from_str::<Value>(line).is_err());
    assert_eq!(unreadable.map(|(at, _)| at).collect::<Vec<_>>(), [1]);

    let (empty, _) = file("growingio_cdp.file.empty=1").await;
    assert!(empty.is_empty());

    let api = Api::with(&["growingio_cdp.file.two_parts=1"]).await;
    let id = api.begin(&order()).await;
    let mut all = Vec::new();
    for uri in api.uris(&id).await {
        all.push(lines(api.get(&format!("/download?file={uri}")).await).await);
    }
    assert_eq!(all.iter().map(Vec::len).collect::<Vec<_>>(), [13, 12]);
    let mut all = all.concat();
    let mut expected = api.expected(GioId::Number);
    all.sort();
    expected.sort();
    assert_eq!(all, expected);
}

#[tokio::test]
async fn ten_thousand_users_stream_and_equal_the_truth() {
    let api = Api::start(|config| config.people = 10_000).await;
    let received = lines(api.get(&api.file(&order()).await).await).await;
    assert_eq!(received.len(), 10_000);
    for (index, received) in received.iter().enumerate() {
        assert_eq!(*received, line(&api.sandbox, index as u64, GioId::Number));
    }
}
