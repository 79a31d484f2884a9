use std::time::Duration;

use super::*;
use crate::vendors::{
    growingio::sandbox::{catalog, reports, segments::segment_id},
    sandbox::{Fault, faults::known},
};

#[tokio::test]
async fn every_endpoint_shows_every_fault() {
    let segment = segment_id(1);
    let endpoints = [
        ("raw", format!("/v2/insights/day/page/{AI}/20180701.json")),
        ("dashboards", "/projects/nxog09md/dashboards.json".to_owned()),
        ("dashboard", format!("/projects/nxog09md/dashboards/{}.json", catalog::DASHBOARD)),
        ("rules", "/projects/nxog09md/rules.csv".to_owned()),
        ("segmentations", "/projects/nxog09md/segmentations.json".to_owned()),
        ("users", format!("/projects/nxog09md/segmentations/{segment}/users.csv")),
        ("variables", "/v1/api/projects/nxog09md/vars/visitors".to_owned()),
        ("chart", format!("/v2/projects/nxog09md/charts/{}.json", reports::TABLE)),
        ("exporter", format!("/v3/exporter/projects/nxog09md/charts/{}", reports::TABLE)),
    ];
    let api = Api::start(|_| {}).await;
    for (endpoint, path) in &endpoints {
        let fault = |name: &str| api.set_faults(&[&format!("growingio.{endpoint}.{name}=1")]);
        for (name, status) in [("unauthorized", 401), ("forbidden", 403), ("rate_limited", 429), ("server_error", 500)]
        {
            fault(name);
            assert_eq!(api.get(path).await.status(), status, "{endpoint} {name}");
            assert_eq!(api.get(path).await.status(), 200, "{endpoint} {name} shows once");
        }
        fault("html");
        assert_eq!(api.get(path).await.headers()["content-type"], "text/html", "{endpoint}");
        fault("cut");
        assert!(api.get(path).await.bytes().await.is_err(), "{endpoint}");
        fault("slow");
        let mut slow = api.get(path).await;
        let first = tokio::time::timeout(Duration::from_secs(5), slow.chunk()).await.unwrap();
        assert_eq!(first.unwrap().unwrap().len(), 1, "{endpoint}");
        fault("bad_json");
        let broken = api.get(path).await;
        let length = broken.content_length();
        let text = broken.bytes().await.unwrap();
        assert_eq!(length, Some(text.len() as u64));
        let text = String::from_utf8_lossy(&text);
        assert!(!text.ends_with('\n') && serde_json::from_str::<Value>(&text).is_err(), "{endpoint}: {text}");
    }
    assert_eq!(api.activity().violation_count, 0);
}

#[tokio::test]
async fn the_demo_names_faults_that_exist_and_truths_that_are_right() {
    let api = Api::start(|_| {}).await;
    let connection = demo_connection(api.sandbox.base_url());
    let names: Vec<_> = known().into_iter().map(|spec| spec.name).collect();
    for dataset in connection.datasets {
        for (trouble, fault) in dataset.troubles {
            assert!(names.iter().any(|name| name == fault), "{trouble:?} {fault}");
            assert!(Fault::parse(&format!("{fault}=2")).is_ok());
        }
        let truth = (dataset.truth)(api.world());
        assert!(!truth.is_empty(), "{:?} {}", dataset.dataset, dataset.name);
        assert_eq!(truth, (dataset.truth)(api.world()));
        let members: Vec<_> = truth[0].as_object().unwrap().keys().collect();
        assert!(truth.iter().all(|row| row.as_object().unwrap().keys().eq(members.iter().copied())));
        assert!((dataset.parameters)(api.world()).is_object());
        assert!(dataset.empty.is_none_or(|empty| empty(api.world()).is_object()));
    }
}

#[tokio::test]
async fn the_demo_connection_lets_its_holder_in() {
    let api = Api::start(|_| {}).await;
    let connection = demo_connection(api.sandbox.base_url());
    let (settings, token) = (&connection.body["settings"], connection.body["credentials"]["token"].as_str().unwrap());
    let project = settings["project_uid"].as_str().unwrap();
    assert_eq!(settings["ai"], AI);
    let url = format!("{}/projects/{project}/segmentations.json", settings["base_url"].as_str().unwrap());
    let list = api.http.get(url).header("authorization", token).send().await.unwrap();
    assert_eq!(list.json::<Value>().await.unwrap()[0]["id"], connection.audience["id"]);
    api.assert_no_violations();
}
