use chrono::Utc;

use super::*;
use crate::vendors::growingio::sandbox::token::sign;

const LIST: &str = "/projects/nxog09md/dashboards.json";

fn body(tm: i64, newline: &str) -> String {
    let fields = format!("project={PROJECT_UID}&ai={AI}&tm={tm}");
    let auth = sign(PRIVATE_KEY.as_bytes(), &["POST", "/auth/token", &fields].join(newline));
    format!("{fields}&auth={auth}")
}

async fn ask(api: &Api, body: String) -> Response {
    let request =
        api.http.post(api.at("/auth/token")).header("x-client-id", CLIENT_ID).header("content-type", "text/plain");
    request.body(body).send().await.unwrap()
}

async fn code(api: &Api) -> String {
    let answer: Value = ask(api, body(Utc::now().timestamp_millis(), "\n")).await.json().await.unwrap();
    assert_eq!(answer["status"], "success");
    answer["code"].as_str().unwrap().to_owned()
}

async fn status(api: &Api, authorization: &str) -> u16 {
    let request = api.http.get(api.at(LIST)).header("authorization", authorization);
    request.send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn a_new_code_ends_the_one_before() {
    let api = Api::start(|_| {}).await;
    let first = code(&api).await;
    assert_eq!((first.len(), status(&api, &first).await), (64, 200));
    let second = code(&api).await;
    assert_eq!((status(&api, &first).await, status(&api, &second).await, status(&api, TOKEN).await), (401, 200, 200));
    assert_eq!(api.activity().tokens_issued, 2);
    api.assert_no_violations();
}

#[tokio::test]
async fn a_token_can_be_killed_from_outside_and_the_consoles_cannot() {
    let api = Api::start(|_| {}).await;
    let token = code(&api).await;
    api.set_faults(&["growingio.token.kill=1"]);
    assert_eq!((status(&api, &token).await, status(&api, TOKEN).await), (401, 200));
    let token = code(&api).await;
    assert_eq!(status(&api, &token).await, 200);
    kill_token(api.world());
    assert_eq!(status(&api, &token).await, 401);
    let answer = api.http.get(api.at(LIST)).send().await.unwrap();
    assert_eq!(answer.text().await.unwrap(), r#"{"message":"Unauthorized","errors":[]}"#);
}

#[tokio::test]
async fn a_token_request_is_signed_raw_text_of_now_in_milliseconds() {
    let api = Api::start(|_| {}).await;
    let now = Utc::now().timestamp_millis();
    let good = body(now, "\n");
    let (crlf, hour_ago) = (body(now, "\r\n"), body(now - 3_600_000, "\n"));
    for (bad, expected) in [
        (crlf, 401),
        (hour_ago, 400),
        (body(now / 1_000, "\n"), 400),
        (good.to_uppercase(), 400),
        (format!("{good}&x=y"), 400),
        (String::new(), 400),
    ] {
        let before = api.activity().violation_count;
        assert_eq!(ask(&api, bad.clone()).await.status(), expected, "{bad}");
        assert_eq!(api.activity().violation_count, before + 1, "{bad}");
    }
    let post = || api.http.post(api.at("/auth/token")).body(good.clone());
    let form = post().header("x-client-id", CLIENT_ID).header("content-type", "application/x-www-form-urlencoded");
    assert_eq!(form.send().await.unwrap().status(), 400);
    assert_eq!(post().send().await.unwrap().status(), 401, "without the public key");
    assert_eq!(api.activity().tokens_issued, 0);
    assert_eq!(ask(&api, good).await.status(), 200);
}

#[tokio::test]
async fn both_spellings_of_the_header_work_until_one_is_demanded() {
    let api = Api::start(|_| {}).await;
    assert_eq!((status(&api, TOKEN).await, status(&api, &format!("Token {TOKEN}")).await), (200, 200));
    api.assert_no_violations();
    assert_eq!(status(&api, &format!("Bearer {TOKEN}")).await, 401);
    assert_eq!(api.activity().violation_count, 1);
    api.set_faults(&["growingio.auth.token_prefix"]);
    assert_eq!((status(&api, TOKEN).await, status(&api, &format!("Token {TOKEN}")).await), (401, 200));
    api.set_faults(&["growingio.auth.client_id_required"]);
    assert_eq!((status(&api, TOKEN).await, api.get(LIST).await.status().as_u16()), (401, 200));
    let other = api.http.get(api.at(LIST)).header("authorization", TOKEN).header("x-client-id", "other");
    assert_eq!(other.send().await.unwrap().status(), 401);
    assert!(api.activity().violations.contains(&"`X-Client-Id` is not the project's public key".to_owned()));
}

#[tokio::test]
async fn issuing_may_be_switched_off_or_fail_with_success() {
    let api = Api::with(&["growingio.auth.disabled=1", "growingio.auth.fail=1"]).await;
    let good = || body(Utc::now().timestamp_millis(), "\n");
    assert_eq!(ask(&api, good()).await.status(), 400);
    let failed = ask(&api, good()).await;
    assert_eq!(failed.status(), 200);
    assert_eq!(failed.json::<Value>().await.unwrap()["status"], "fail");
    code(&api).await;
}
