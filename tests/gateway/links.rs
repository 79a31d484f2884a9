//! Links that work without a token.

use std::fs;

use chrono::{DateTime, Utc};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    data::{Finished, finished},
    process::Process,
    support::{Answer, eventually, export_path, file_path},
};

impl Finished {
    fn file(&self) -> String {
        file_path(&self.export, &self.export["result"]["files"][0])
    }

    /// Makes a link; answers its path below the gateway, and when it expires.
    async fn link(&self, body: &Value) -> (String, DateTime<Utc>) {
        let answer = self.gateway.post(&format!("{}/links", self.file()), body).await;
        assert_eq!(
            (answer.status, answer.header("cache-control")),
            (StatusCode::OK, "private, no-store"),
            "{answer:?}"
        );
        let link = answer.json();
        let url = link["url"].as_str().unwrap();
        let path = url.strip_prefix(self.gateway.base.as_str().trim_end_matches('/')).unwrap();
        (path.to_owned(), link["expires_at"].as_str().unwrap().parse().unwrap())
    }

    async fn follow(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> Answer {
        let request = self.gateway.anonymous(method, path);
        Answer::of(headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_gives_the_file_without_a_token() {
    let at = finished().await;
    let before = Utc::now();
    let (link, expires_at) = at.link(&json!({"expires_in_secs": 600})).await;
    assert!((expires_at - before).num_seconds() >= 599 && (expires_at - before).num_seconds() <= 660);
    assert!(link.starts_with("/links/"));
    let own = at.gateway.get(&at.file()).await;
    let got = at.follow(Method::GET, &link, &[]).await;
    assert_eq!((got.status, &got.body), (StatusCode::OK, &own.body));
    for name in [
        "content-length",
        "content-type",
        "etag",
        "repr-digest",
        "accept-ranges",
        "content-disposition",
        "cache-control",
    ] {
        assert_eq!(got.header(name), own.header(name), "{name}");
    }
    let head = at.follow(Method::HEAD, &link, &[]).await;
    assert_eq!((head.status, head.header("content-length")), (StatusCode::OK, own.header("content-length")));
    let part = at.follow(Method::GET, &link, &[("range", "bytes=3-8")]).await;
    assert_eq!((part.status, &part.body[..]), (StatusCode::PARTIAL_CONTENT, &own.body[3..9]));
    let current = at.follow(Method::GET, &link, &[("if-none-match", own.header("etag"))]).await;
    assert_eq!(current.status, StatusCode::NOT_MODIFIED);
    for answer in [got, head, part, current] {
        assert_eq!(answer.header("referrer-policy"), "no-referrer");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_needs_no_body_and_says_what_is_wrong_with_one() {
    let at = finished().await;
    let path = format!("{}/links", at.file());
    let answer = Answer::of(at.gateway.request(Method::POST, &path)).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    let life = answer.json()["expires_at"].as_str().unwrap().parse::<DateTime<Utc>>().unwrap() - Utc::now();
    assert!((290..=300).contains(&life.num_seconds()), "{life}");
    for wrong in [json!({"expires_in_secs": 0}), json!({"expires_in_secs": 86_401}), json!({"expires_in_secs": "5"})] {
        let problem = at.gateway.post(&path, &wrong).await.problem(422, "invalid_request");
        assert_eq!(problem["errors"][0]["pointer"], "/expires_in_secs", "{wrong}");
    }
    at.gateway.post(&path, &json!({"until": "tomorrow"})).await.problem(422, "invalid_request");
    at.gateway.post(&path, &json!([])).await.problem(422, "invalid_request");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_whoever_may_download_can_give_a_link_away() {
    let at = finished().await;
    let path = format!("{}/links", at.file());
    let reader = at.gateway.token_for("crm", "growth", "exports:read", &["*"]);
    at.gateway.ask(&reader, Method::POST, &path).await.problem(403, "forbidden");
    let stranger = at.gateway.token_for("crm", "sales", "exports:download", &["*"]);
    at.gateway.ask(&stranger, Method::POST, &path).await.problem(404, "not_found");
    Answer::of(at.gateway.anonymous(Method::POST, &path)).await.problem(401, "unauthenticated");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_made_here_is_not_found() {
    let at = finished().await;
    let (link, _) = at.link(&json!({})).await;
    let token = link.strip_prefix("/links/").unwrap();
    let mut changed = token.to_owned().into_bytes();
    changed[30] = if changed[30] == b'A' { b'B' } else { b'A' };
    let changed = String::from_utf8(changed).unwrap();
    for other in [changed.as_str(), &token[..token.len() - 4], "x", "%00", &"A".repeat(4000), &format!("{token}=")] {
        let answer = at.follow(Method::GET, &format!("/links/{other}"), &[]).await;
        answer.problem(404, "not_found");
        assert_eq!(answer.header("referrer-policy"), "no-referrer");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_ends_with_its_time_and_with_its_file() {
    let at = finished().await;
    let (short, _) = at.link(&json!({"expires_in_secs": 1})).await;
    let (long, _) = at.link(&json!({"expires_in_secs": 86_400})).await;
    let expired = eventually("the end of a link", async || {
        let answer = at.follow(Method::GET, &short, &[]).await;
        (answer.status != StatusCode::OK).then_some(answer)
    })
    .await;
    expired.problem(410, "link_expired");
    assert_eq!(at.follow(Method::HEAD, &short, &[]).await.status, StatusCode::GONE);
    at.gateway.delete(&export_path(&at.export)).await;
    at.follow(Method::GET, &long, &[]).await.problem(410, "result_expired");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_says_who_made_a_link_that_is_used_but_never_the_link() {
    let at = finished().await;
    let flags = &at.gateway.flags;
    let given = [
        ("HEADGATE_DATABASE_URL", flags.database_url.as_deref().unwrap()),
        ("HEADGATE_DATA_DIR", flags.data_dir.as_deref().unwrap()),
        ("HEADGATE_MASTER_KEY", flags.master_key.as_deref().unwrap()),
        ("HEADGATE_JWT_SECRET", flags.jwt_secret.as_deref().unwrap()),
        ("HEADGATE_LISTEN", "127.0.0.1:0"),
        ("HEADGATE_PUBLIC_URL", "https://gate.example/base/"),
        ("HEADGATE_LOG", "trace"),
        ("HEADGATE_LOG_FORMAT", "json"),
    ];
    let folder = at.gateway.folder.path();
    let _serve = Process::start("serve", folder, &given);
    let log = || -> Vec<Value> {
        let text = fs::read_to_string(folder.join("serve.log")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    };
    let address = eventually("a listener", async || {
        log().iter().find(|line| line["message"] == "the API listens").map(|line| line["address"].clone())
    })
    .await;
    let base = format!("http://{}", address.as_str().unwrap());
    let http = &at.gateway.http;
    let maker = at.gateway.token_for("crm-sync", "growth", "exports:download", &["*"]);
    let made = http.post(format!("{base}{}/links", at.file())).bearer_auth(maker);
    let link = Answer::of(made).await.json()["url"].as_str().unwrap().to_owned();
    let token = link.strip_prefix("https://gate.example/base/links/").unwrap();
    let id = ("x-request-id", "followed-by-a-stranger");
    let followed = Answer::of(http.get(format!("{base}/links/{token}")).header(id.0, id.1)).await;
    assert_eq!(followed.status, StatusCode::OK);
    Answer::of(http.get(format!("{base}/links/{token}x"))).await.problem(404, "not_found");
    let answered = eventually("the line of the request", async || {
        log().into_iter().find(|line| line["span"]["request.id"] == id.1 && line["message"] == "answered")
    })
    .await;
    assert_eq!(answered["span"]["caller.subject"], "crm-sync", "{answered:#}");
    assert_eq!(answered["span"]["caller.tenant"], "growth");
    assert_eq!(answered["span"]["http.route"], "/links/{token}");
    let text = fs::read_to_string(folder.join("serve.log")).unwrap();
    assert!(text.lines().count() > 50, "it was to be talkative");
    assert!(!text.contains(&token[..20]), "a link is in the log");
}
