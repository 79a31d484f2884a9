//! Results of analyses, and the datasets of the demo.

use super::{analysis::ANALYSES, *};

impl Api {
    async fn chart(&self, path: &str) -> Value {
        let answer = self.get(&format!("/v1/api/projects/WlGk4Daj/analysis/{path}")).await;
        assert_eq!(answer.status(), 200, "{path}");
        answer.json().await.unwrap()
    }
}

fn rows(chart: &Value) -> &Vec<Value> {
    chart["resultRows"].as_array().unwrap()
}

#[tokio::test]
async fn every_kind_answers_text_cells_under_display_names() {
    let api = Api::start(|_| {}).await;
    for analysis in ANALYSES {
        let chart = api.chart(&format!("{}/{}/chartdata", analysis.kind, analysis.id)).await;
        assert_eq!(chart["resultHeader"], json!(analysis.header), "{}", analysis.id);
        assert_eq!(chart["paginationInfo"].is_object(), analysis.kind == "olap_event", "{}", analysis.id);
        assert!(chart["analysisInfo"]["fetchedTime"].as_str().unwrap().parse::<i64>().is_ok());
        assert_eq!(chart["analysisInfo"]["startTime"], "2026-02-01 00:00:00");
        for row in rows(&chart) {
            assert!(row.as_array().unwrap().iter().all(Value::is_string), "{row}");
        }
    }
    assert_eq!(api.activity().violation_count, 0);
}

#[tokio::test]
async fn the_quirks_of_the_samples_are_there() {
    let api = Api::start(|_| {}).await;
    let event = api.chart("olap_event/KzpN2opk/chartdata").await;
    assert_eq!(event["resultHeader"][2], event["resultHeader"][3], "names repeat");
    assert_eq!(event["analysisInfo"]["granularity"], "DAY");
    assert!(rows(&event).iter().any(|row| row[4] == "-"), "a figure that is no number");

    let funnel = api.chart("funnel/J1GlMVDj/chartdata").await;
    assert_eq!(funnel["resultHeader"][2], funnel["resultHeader"][4]);
    assert_eq!(rows(&funnel)[0][0], "全部");
    assert!(rows(&funnel)[0][2].as_str().unwrap().ends_with(".0"), "totals are printed as doubles");
    let text = api.get("/v1/api/projects/WlGk4Daj/analysis/funnel/J1GlMVDj/chartdata").await.text().await.unwrap();
    assert!(text.contains(r#""conversionWindow":1.0,"windowGranularity":"day""#), "{text}");

    let retention = api.chart("retention/wWDrYwGM/chartdata").await;
    let widths: Vec<_> = rows(&retention).iter().map(|row| row.as_array().unwrap().len()).collect();
    assert_eq!(widths, [16, 16, 14, 12, 10, 8, 6, 4], "the later the day, the shorter the row");

    let frequency = api.chart("frequency/xRpYk8Qe/chartdata").await;
    assert_eq!(frequency["analysisInfo"]["granularity"], "");
    assert_eq!(rows(&frequency)[0][0], "[0.0,0.0]");
}

#[tokio::test]
async fn an_analysis_with_more_rows_than_one_call_may_ask_for() {
    let api = Api::start(|_| {}).await;
    let all = "olap_event/mRpK9XvD/chartdata";
    let first = api.chart(&format!("{all}?limit=50000")).await;
    let text = first["paginationInfo"].to_string();
    assert_eq!(
        text,
        r#"{"offset":0.0,"limit":50000.0,"totalCount":50123.0,"hasNextPage":true,"hasPreviousPage":false}"#
    );
    let second = api.chart(&format!("{all}?limit=50000&offset=50000")).await;
    assert_eq!(second["paginationInfo"]["hasNextPage"], false);
    let goods: std::collections::BTreeSet<_> =
        rows(&first).iter().chain(rows(&second)).map(|row| row[2].as_str().unwrap()).collect();
    assert_eq!((rows(&first).len(), rows(&second).len(), goods.len()), (50_000, 123, 50_123));
    assert_eq!(rows(&api.chart(all).await).len(), 1_000, "the default");

    api.sandbox.world().set_faults(faults(&["growingio_cdp.analysis.shifted_page=1"]));
    let shifted = api.chart(&format!("{all}?limit=50000&offset=50000")).await;
    assert_eq!(rows(&shifted)[0], rows(&first)[49_999]);
}

#[tokio::test]
async fn what_is_unknown_or_not_documented_is_refused() {
    let api = Api::start(|_| {}).await;
    for (path, violations) in [
        ("WlGk4Daj/analysis/funnel/KzpN2opk/chartdata", 0),
        ("WlGk4Daj/analysis/olap_event/Nowhere1/chartdata", 0),
        ("Elsewhere/analysis/funnel/J1GlMVDj/chartdata", 0),
        ("VKwkPmqX/analysis/funnel/J1GlMVDj/chartdata", 0),
        ("WlGk4Daj/analysis/olap_event/KzpN2opk/chartdata?limit=50001", 1),
        ("WlGk4Daj/analysis/olap_event/KzpN2opk/chartdata?forceRefresh=yes", 1),
    ] {
        let before = api.activity().violation_count;
        let answer = api.get(&format!("/v1/api/projects/{path}")).await;
        assert_eq!(answer.status(), 500, "{path}");
        assert_eq!(answer.text().await.unwrap(), "Internal Server Error", "{path}");
        assert_eq!(api.activity().violation_count - before, violations, "{path}");
    }
    let before = api.activity().violation_count;
    api.chart("funnel/J1GlMVDj/chartdata?limit=10").await;
    let hyphen = api.get("/v1/api/projects/WlGk4Daj/analysis/olap-event/KzpN2opk/chartdata").await;
    assert_eq!((hyphen.status().as_u16(), api.activity().violation_count - before), (404, 2));
    // The retention's page says that its path has the space's id.
    assert_eq!(api.get("/v1/api/projects/VKwkPmqX/analysis/retention/wWDrYwGM/chartdata").await.status(), 200);
}

#[tokio::test]
async fn a_result_stays_cached_until_it_is_refreshed() {
    let api = Api::start(|config| config.clock.speed = 1_000_000.0).await;
    let fetched = async |query: &str| {
        let chart = api.chart(&format!("frequency/xRpYk8Qe/chartdata{query}")).await;
        chart["analysisInfo"]["fetchedTime"].as_str().unwrap().to_owned()
    };
    let first = fetched("").await;
    assert_eq!(fetched("?forceRefresh=false").await, first);
    let refreshed = fetched("?forceRefresh=true").await;
    assert!(refreshed > first);
    assert_eq!(fetched("").await, refreshed);
}

#[tokio::test]
async fn every_dataset_of_the_demo_has_rows_and_faults_that_exist() {
    let api = Api::start(|_| {}).await;
    let world = api.sandbox.world();
    let demo = api.sandbox.connections().into_iter().find(|connection| connection.vendor == NAME).unwrap();
    for dataset in demo.datasets {
        let name = format!("{:?} {}", dataset.dataset, dataset.name);
        assert!((dataset.parameters)(world).is_object(), "{name}");
        assert!(!(dataset.truth)(world).is_empty(), "{name}");
        for (trouble, fault) in dataset.troubles {
            assert!(crate::vendors::sandbox::Fault::parse(fault).is_ok(), "{name} {trouble:?}");
        }
    }
    let truth = |name: &str| {
        let dataset = demo.datasets.iter().find(|dataset| dataset.name == name).unwrap();
        (dataset.truth)(world)
    };
    assert_eq!(truth("chart_of_many_rows").len(), 50_123);
    assert_eq!(
        truth("retention").iter().filter(|row| row["metric"] == "6日后留存率").count(),
        2,
        "cells that are not there are no rows"
    );
    insta::assert_snapshot!(
        [truth("chart")[0..3].to_vec(), truth("funnel")[1..4].to_vec(), truth("frequency")[..1].to_vec()]
            .concat()
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("\n"),
        @r#"
    {"metric":"任意事件的总人数","time":"2026-01-31T16:00:00Z","interval":"day","dimensions":{"目标用户":"全部用户"},"value":7633}
    {"metric":"任意事件的总人数 (2)","time":"2026-01-31T16:00:00Z","interval":"day","dimensions":{"目标用户":"全部用户"},"value":9035}
    {"metric":"跳出率","time":"2026-01-31T16:00:00Z","interval":"day","dimensions":{"目标用户":"全部用户"},"value":0.12}
    {"metric":"访问","time":null,"interval":null,"dimensions":{"时间":"全部"},"value":367.0}
    {"metric":"第 1 步转化率","time":null,"interval":null,"dimensions":{"时间":"全部"},"value":0.1608}
    {"metric":"访问 (2)","time":null,"interval":null,"dimensions":{"时间":"全部"},"value":59.0}
    {"metric":"用户量","time":null,"interval":null,"dimensions":{"活跃天数 区间范围":"[0.0,0.0]"},"value":698}
    "#
    );
    let audience = &truth("tag")[0];
    assert_eq!(
        audience.as_object().unwrap().keys().map(String::as_str).collect::<Vec<_>>(),
        ["id", "kind", "name", "description", "size", "status", "created_at", "updated_at", "vendor"]
    );
    assert_eq!((&audience["id"], &audience["vendor"]["detector"]["stage"]), (&json!("tag_rfm"), &json!("FINISH")));
}
