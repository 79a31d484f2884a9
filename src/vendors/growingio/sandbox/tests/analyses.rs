use chrono::{DateTime, Utc};
use serde_json::json;

use super::*;
use crate::vendors::growingio::sandbox::{
    reports::{self, Asked},
    segments::segment_id,
    users::{UserType, VARIABLES},
};

const V1: &str = "/projects/nxog09md";
const V2: &str = "/v2/projects/nxog09md";
const V3: &str = "/v3/exporter/projects/nxog09md";
/// Two days in Beijing, the last millisecond included.
const WINDOW: &str = "startTime=1569686400000&endTime=1569859199999";

fn asked() -> Asked {
    Asked {
        start_ms: 1_569_686_400_000,
        end_ms: 1_569_859_199_999,
        interval_ms: 86_400_000,
        repeated: serde_json::Map::new(),
    }
}

/// Repeats the call until the answer is no longer `doing`.
async fn done(api: &Api, path: &str) -> Value {
    let first = api.json(path).await;
    assert_eq!(first["status"], "doing", "the first answer always says so");
    until(|| async { Some(api.json(path).await).filter(|answer| answer["status"] != "doing") }).await
}

#[tokio::test]
async fn each_layout_has_its_rows() {
    let api = Api::start(|_| {}).await;
    let mut seen = Vec::new();
    for (name, id) in [
        ("line", reports::LINE),
        ("vertical", reports::VERTICAL_BAR),
        ("horizontal", reports::HORIZONTAL_BAR),
        ("table", reports::TABLE),
        ("big number", reports::BIG_NUMBER),
        ("bubble", reports::BUBBLE),
    ] {
        let answer = api.json(&format!("{V2}/charts/{id}.json?{WINDOW}")).await;
        let cells = |row: &Value| row.as_array().unwrap().len();
        let (rows, meta) = (answer["data"].as_array().unwrap(), answer["meta"].as_array().unwrap());
        seen.push(format!("{name}: {} columns, {} rows of {}", meta.len(), rows.len(), cells(&rows[0])));
        assert_eq!(answer.get("aggregator").is_some(), name == "big number");
        let old = api.get(&format!("{V1}/charts/{id}.json?{WINDOW}")).await;
        if name == "bubble" {
            assert_eq!(old.status(), 400);
        } else {
            let old: Value = old.json().await.unwrap();
            seen.push(format!(
                "{name} in v1: {} rows of {}",
                old["data"].as_array().unwrap().len(),
                cells(&old["data"][0])
            ));
        }
    }
    insta::assert_snapshot!(seen.join("\n"), @r"
    line: 4 columns, 4 rows of 5
    line in v1: 2 rows of 4
    vertical: 3 columns, 4 rows of 3
    vertical in v1: 2 rows of 2
    horizontal: 3 columns, 10 rows of 3
    horizontal in v1: 5 rows of 2
    table: 5 columns, 30 rows of 5
    table in v1: 15 rows of 4
    big number: 2 columns, 1 rows of 3
    big number in v1: 1 rows of 1
    bubble: 5 columns, 30 rows of 5
    ");
    api.assert_no_violations();
}

#[tokio::test]
async fn a_line_chart_means_a_row_for_each_figure_and_numbers_a_repeated_name() {
    let api = Api::start(|_| {}).await;
    let answer = api.json(&format!("{V2}/charts/{}.json?{WINDOW}", reports::LINE)).await;
    let report = Report::named("chart", reports::LINE).unwrap();
    let truth = report.metric_v1(Form::Two, &asked(), 1);
    assert_eq!(truth.len(), 12);
    let names: Vec<_> = truth[..3].iter().map(|row| row["metric"].as_str().unwrap()).collect();
    assert_eq!(names, ["页面浏览量", "访问量", "页面浏览量 (2)"]);
    assert_eq!(truth[0]["time"], "2019-09-28T16:00:00Z");
    assert_eq!(truth[0]["dimensions"], json!({"目标用户": "全部访问用户"}));
    for (at, row) in truth.iter().enumerate() {
        let cell = &answer["data"][at / 3][2 + at % 3];
        assert_eq!(row["value"], if cell.is_number() { cell.clone() } else { Value::Null });
        let time: DateTime<Utc> = row["time"].as_str().unwrap().parse().unwrap();
        assert_eq!(answer["data"][at / 3][1], time.timestamp_millis());
    }
}

#[tokio::test]
async fn times_come_as_a_pair_of_milliseconds_and_v1_demands_them() {
    let api = Api::start(|_| {}).await;
    let chart = |version: &str, query: &str| format!("{version}/charts/{}.json{query}", reports::TABLE);
    for bad in [
        chart(V1, ""),
        chart(V1, "?startTime=1569686400000"),
        chart(V2, "?startTime=1569686400000"),
        chart(V2, "?startTime=1569686400&endTime=1569859199"),
        chart(V2, "?startTime=1569859199999&endTime=1569686400000"),
        chart(V2, "?startTime=a&endTime=b"),
        chart(V2, "?interval=5"),
        format!("{V2}/retentions/{}.json?range=hour", reports::RETENTION),
        format!("{V2}/funnels/{}.json?conversionWindow=x", reports::FUNNEL),
    ] {
        let before = api.activity().violation_count;
        assert_eq!(api.get(&bad).await.status(), 400, "{bad}");
        assert_eq!(api.activity().violation_count, before + 1, "{bad}");
    }
    assert_eq!(api.json(&chart(V2, "")).await["interval"], 86_400_000);
    assert_eq!(api.get(&chart(V2, "?range=day")).await.status(), 200);
    assert!(api.activity().violations.last().unwrap().contains("\"range\""));
}

#[tokio::test]
async fn funnels_and_retentions_repeat_what_was_asked() {
    let api = Api::start(|_| {}).await;
    let funnel = api.json(&format!("{V2}/funnels/{}.json?conversionWindow=3&{WINDOW}", reports::FUNNEL)).await;
    assert_eq!((&funnel["conversionWindow"], funnel["data"].as_array().unwrap().len()), (&json!(3), 4));
    assert_eq!(funnel["meta"][2], json!({"name": "总转化率", "metric": true}));
    let retention = api.json(&format!("{V2}/retentions/{}.json?range=week&{WINDOW}", reports::RETENTION)).await;
    assert_eq!((&retention["range"], &retention["interval"]), (&json!("week"), &json!(604_800_000)));
    assert_eq!(api.get(&format!("{V2}/funnels/{}.json", reports::TABLE)).await.status(), 404, "a chart is no funnel");
}

#[tokio::test]
async fn a_heavy_chart_times_out_at_once_and_comes_from_the_exporter() {
    let api = Api::start(|config| config.clock.speed = 50.0).await;
    let late = api.get(&format!("{V2}/charts/{}.json?{WINDOW}", reports::HEAVY)).await;
    assert_eq!(late.status(), 500);
    insta::assert_snapshot!(late.text().await.unwrap(), @r#"{"message":"Request timeout","errors":[{"code":"request_timeout","message":"Request timeout in 5000 milliseconds"}]}"#);
    let answer = done(&api, &format!("{V3}/charts/{}?{WINDOW}", reports::HEAVY)).await;
    assert!(answer.get("status").is_none() && answer["data"].is_array());
    api.assert_no_violations();
}

#[tokio::test]
async fn one_chart_has_exactly_as_many_rows_as_an_answer_may_have() {
    let api = Api::start(|_| {}).await;
    let answer = api.json(&format!("{V2}/charts/{}.json?{WINDOW}", reports::FULL)).await;
    assert_eq!(answer["data"].as_array().unwrap().len(), 200_000);
}

#[tokio::test]
async fn the_exporter_begins_anew_once_a_result_was_taken() {
    let api = Api::start(|_| {}).await;
    for (kind, id) in [
        ("charts", reports::TABLE),
        ("funnels", reports::FUNNEL),
        ("retentions", reports::RETENTION),
        ("frequencies", reports::FREQUENCY),
    ] {
        let path = format!("{V3}/{kind}/{id}?{WINDOW}");
        let first = done(&api, &path).await;
        assert!(first["meta"].is_array(), "{kind}");
        assert_eq!(done(&api, &path).await, first, "{kind}");
    }
    assert_eq!((api.activity().submissions, api.activity().running), (8, 0));
    let other = format!("{V3}/charts/{}?interval=86400000&{WINDOW}", reports::TABLE);
    assert_eq!(api.json(&other).await["status"], "doing", "another address is another export");
    api.assert_no_violations();
}

#[tokio::test]
async fn users_come_as_a_link_that_is_the_same_while_it_lives() {
    let api = Api::start(|_| {}).await;
    let path = format!("{V3}/segmentations/{}/users?expire=5&parameters=email,note", segment_id(1));
    let answer = done(&api, &path).await;
    assert_eq!((&answer["status"], &answer["errorMsg"]), (&json!("done"), &json!("")));
    assert_eq!(api.json(&path).await["downloadLinks"], answer["downloadLinks"], "a link cannot be prolonged");
    let link = answer["downloadLinks"][0].as_str().unwrap();
    let rows = parse_csv(&api.open(link).await.text().await.unwrap());
    assert_eq!(rows[0], ["访问用户ID", "登录用户ID", "email", "note"]);
    assert_eq!(rows.len(), 26);
    for (index, row) in rows[1..].iter().enumerate() {
        let person = api.world().person(index as u64);
        let truth = person.classic_user_v1(UserType::Visitor, &[("email".into(), "email".into())].into(), &["note"]);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let expected = [&truth["vendor_user_id"], &truth["user_id"], &truth["email"], &truth["attributes"]["note"]];
        assert_eq!(*row, expected.map(text));
    }
    let with_token = api.http.get(link).header("authorization", TOKEN).send().await.unwrap();
    assert_eq!((with_token.status().as_u16(), api.activity().violation_count), (400, 1));
    assert_eq!(api.activity().submissions, 1);
}

#[tokio::test]
async fn an_expired_link_is_followed_by_a_new_export() {
    let api = Api::start(|config| config.clock.speed = 6_000.0).await;
    let path = format!("{V3}/segmentations/{}/users", segment_id(3));
    let link = done(&api, &path).await["downloadLinks"][0].as_str().unwrap().to_owned();
    until(|| async { Some(api.open(&link).await).filter(|answer| answer.status() == 403) }).await;
    let renewed = done(&api, &path).await;
    assert_ne!(renewed["downloadLinks"][0], link);
    assert_eq!(api.activity().submissions, 2);
}

#[tokio::test]
async fn the_exporter_says_what_is_illegal_and_may_fail_or_be_absent() {
    let api = Api::start(|_| {}).await;
    let users = format!("{V3}/segmentations/{}/users", segment_id(1));
    for bad in [
        format!("{users}?expire=10081"),
        format!("{users}?parameters=shoe_size"),
        format!("{V3}/charts/{}?interval=1", reports::TABLE),
        format!("{V3}/frequencies/{}?interval=3600000", reports::FREQUENCY),
        format!("{V3}/frequencies/{}?statistic=mode", reports::FREQUENCY),
        format!("{V3}/frequencies/{}?split=[1,x]", reports::FREQUENCY),
    ] {
        let answer = api.json(&bad).await;
        assert_eq!(answer["status"], "failed", "{bad}");
        assert!(!answer["errorMsg"].as_str().unwrap().is_empty());
    }
    assert_eq!(api.activity().violation_count, 6);
    assert_eq!(api.json(&users).await["status"], "doing");
    api.set_faults(&["growingio.exporter.unknown_status=1"]);
    assert_eq!(api.json(&users).await["status"], "queued");
    api.set_faults(&["growingio.exporter.doing=2", "growingio.exporter.failed=1"]);
    assert_eq!(api.json(&users).await["status"], "failed");
    assert_eq!(api.json(&users).await["status"], "doing", "a failed export is begun anew");
    api.set_faults(&["growingio.exporter.not_enabled"]);
    assert_eq!(api.get(&users).await.status(), 404);
    assert_eq!(api.get(&format!("{V1}/segmentations/{}/users.csv", segment_id(1))).await.status(), 200);
}

#[tokio::test]
async fn a_truncated_list_of_users_breaks_off_in_a_record() {
    let api = Api::start(|_| {}).await;
    let path = format!("{V3}/segmentations/{}/users?parameters=email", segment_id(1));
    let link = done(&api, &path).await["downloadLinks"][0].as_str().unwrap().to_owned();
    api.set_faults(&["growingio.file.truncated=1"]);
    let text = api.open(&link).await.text().await.unwrap();
    let (whole, rest) = text.rsplit_once('\n').unwrap();
    assert!(whole.lines().count() < 26 && !rest.is_empty() && !rest.contains(','), "{rest:?}");
    api.set_faults(&["growingio.users.bad_json=1"]);
    let text = api.get(&format!("{V1}/segmentations/{}/users.csv", segment_id(1))).await.text().await.unwrap();
    assert!(!text.ends_with('\n') && text.lines().last().unwrap().split('\t').count() < VARIABLES.len());
}
