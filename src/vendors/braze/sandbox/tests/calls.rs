//! What every call has: methods, parameters, budgets and faults.

use std::time::Instant;

use super::*;
use crate::{
    exports::parameters::Parameters,
    vendors::{braze::sandbox::gate::Budget, sandbox::Fault},
};

#[tokio::test]
async fn a_wrong_method_or_an_unknown_parameter_breaks_the_rules() {
    let api = Api::start(|_| {}).await;
    let posted = api.post("/campaigns/list", &json!({})).send().await.unwrap();
    let wrong = [
        (posted.status(), 404),
        (api.call("/users/export/segment").await.status(), 404),
        (api.call("/feed/list").await.status(), 404),
        (api.call("/campaigns/list?pages=1").await.status(), 400),
        (api.call("/campaigns/list?page=1&page=2").await.status(), 400),
        (api.call("/campaigns/list?page=-1").await.status(), 400),
        (api.call("/campaigns/list?include_archived=yes").await.status(), 400),
        (api.call("/campaigns/list?sort_direction=up").await.status(), 400),
        (api.call("/kpi/dau/data_series?length=3&unit=hour").await.status(), 400),
    ];
    for (number, (status, expected)) in wrong.iter().enumerate() {
        assert_eq!(status.as_u16(), *expected, "{number}");
    }
    assert_eq!(api.activity().violation_count, wrong.len() as u64, "{:?}", api.activity().violations);
}

#[tokio::test]
async fn every_answer_has_the_headers_of_its_pool() {
    let api = Api::start(|_| {}).await;
    let left = |answer: Response| {
        let header = |name| answer.headers()[name].to_str().unwrap().parse::<i64>().unwrap();
        assert!(header("x-ratelimit-reset") >= Utc::now().timestamp());
        (header("x-ratelimit-limit"), header("x-ratelimit-remaining"))
    };
    let campaign = campaigns::listed(false)[0].id();
    assert_eq!(left(api.call("/segments/list").await), (250_000, 249_999));
    assert_eq!(left(api.call("/canvas/list").await), (250_000, 249_998));
    assert_eq!(left(api.call("/nowhere").await), (250_000, 249_997));
    assert_eq!(left(api.call("/events/list").await), (1_000, 999));
    assert_eq!(left(api.call("/events").await), (1_000, 998));
    assert_eq!(left(api.call("/custom_attributes").await), (1_000, 997));
    assert_eq!(left(api.call("/purchases/product_list").await), (1_000, 996));
    assert_eq!(left(api.call("/purchases/quantity_series?length=1").await), (1_000, 995));
    assert_eq!(left(api.call("/purchases/revenue_series?length=1").await), (1_000, 994));
    let series = format!("/campaigns/data_series?campaign_id={campaign}&length=1");
    assert_eq!(left(api.call(&series).await), (50_000, 49_999));
    assert_eq!(left(api.call("/campaigns/data_series?length=0").await), (50_000, 49_998));
}

#[tokio::test]
async fn a_pool_is_refilled_when_its_window_is_over() {
    let api = Api::start(|_| {}).await;
    let (world, start) = (api.sandbox.world(), Instant::now());
    for number in 0..40 {
        let (budget, allowed) = Budget::spend(world, Pool::FewFields, start);
        assert_eq!((budget.remaining, allowed), (39 - number, true));
    }
    assert!(!Budget::spend(world, Pool::FewFields, start + Duration::from_millis(999)).1);
    assert!(Budget::spend(world, Pool::FewFields, start + Duration::from_secs(1)).1);
    assert!(Budget::spend(world, Pool::Profiles, start).1, "the tiers are counted apart");
    for _ in 0..1_000 {
        assert!(Budget::spend(world, Pool::Names, start).1);
    }
    let refused = api.call("/events").await;
    assert_eq!((refused.status().as_u16(), &refused.headers()["x-ratelimit-remaining"]), (429, &"0".parse().unwrap()));
}

#[tokio::test]
async fn answers_of_the_faults_of_a_group() {
    let mut seen = Vec::new();
    for name in ["unauthorized", "forbidden", "rate_limited", "server_error", "html", "bad_json", "cut"] {
        let api = Api::with(&[&format!("braze.lists.{name}=1")]).await;
        let answer = api.call("/campaigns/list").await;
        let header = |name| answer.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        let (left, kind) = (header("x-ratelimit-remaining"), header("content-type"));
        if name == "rate_limited" {
            let reset: i64 = header("x-ratelimit-reset").unwrap().parse().unwrap();
            assert!((0..=2).contains(&(reset - Utc::now().timestamp())));
        }
        let (status, length) = (answer.status().as_u16(), answer.content_length());
        let body = answer.bytes().await.ok();
        let read = body.as_ref().map(|body| serde_json::from_slice::<Value>(body).is_ok());
        assert_eq!(
            name == "bad_json",
            status == 200 && body.is_some_and(|body| Some(body.len() as u64) == length) && left.is_some()
        );
        seen.push(format!("{name}: {status} {left:?} {kind:?} {read:?}"));
        assert!(api.read("/campaigns/list").await["campaigns"].is_array(), "{name} shows once");
        assert!(api.activity().violations.is_empty());
    }
    insta::assert_snapshot!(seen.join("\n"), @r#"
    unauthorized: 401 Some("249999") Some("application/json") Some(true)
    forbidden: 403 Some("249999") Some("application/json") Some(true)
    rate_limited: 429 Some("0") Some("application/json") Some(true)
    server_error: 500 None Some("text/plain") Some(false)
    html: 200 None Some("text/html") Some(false)
    bad_json: 200 Some("249999") Some("application/json") Some(false)
    cut: 200 Some("249999") Some("application/json") None
    "#);
}

#[tokio::test]
async fn minor_errors_and_a_queued_answer_come_with_success() {
    let api = Api::with(&["braze.answer.minor_errors=1"]).await;
    let answer = api.read("/canvas/list").await;
    assert_eq!((&answer["message"], answer["errors"].as_array().map(Vec::len)), (&json!("success"), Some(1)));
    assert_eq!(answer["canvases"].as_array().unwrap().len(), 100);
    api.sandbox.world().set_faults(faults(&["braze.answer.queued=1"]));
    let answer = api.call("/canvas/list").await;
    assert_eq!(answer.status(), 202);
    assert_eq!(answer.json::<Value>().await.unwrap(), json!({"message": "queued"}));
}

#[tokio::test]
async fn every_demonstration_has_rows_and_names_faults_that_exist() {
    let api = Api::start(|config| config.people = 7).await;
    let world = api.sandbox.world();
    let mut names = std::collections::BTreeSet::new();
    for demo in demo::DATASETS {
        assert!(names.insert((demo.dataset.as_str(), demo.name)), "{} {}", demo.dataset.as_str(), demo.name);
        let rows = (demo.truth)(world);
        assert!(!rows.is_empty(), "{} {}", demo.dataset.as_str(), demo.name);
        for parameters in [Some(demo.parameters), demo.empty].into_iter().flatten() {
            Parameters::parse(demo.dataset, &parameters(world)).unwrap();
        }
        assert_ne!(demo.empty.map(|empty| empty(world)), Some((demo.parameters)(world)));
        for (_, fault) in demo.troubles {
            Fault::parse(fault).unwrap();
        }
        // A row that came twice would mean the same thing twice.
        let distinct: std::collections::BTreeSet<_> = rows.iter().map(Value::to_string).collect();
        assert_eq!(distinct.len(), rows.len(), "{} {}", demo.dataset.as_str(), demo.name);
    }
    let metrics = demo::DATASETS.iter().filter(|demo| demo.dataset.as_str() == "metric_series");
    let metrics: std::collections::BTreeSet<_> =
        metrics.map(|demo| (demo.parameters)(world)["metric"].as_str().unwrap().to_owned()).collect();
    assert_eq!(metrics.len(), 12, "{metrics:?}");
}
