use std::{io::Read, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use flate2::read::MultiGzDecoder;
use serde_json::json;

use super::*;
use crate::vendors::growingio::sandbox::{
    columns::{DATA_TYPES, DataType},
    events::{QUIET_HOUR, Source},
    raw_files::{Part, Version},
    slices::Hour,
};

/// A day whose files are ready.
fn day(api: &Api) -> Slice {
    Slice::at(Granularity::Day, api.world().started_at() - TimeDelta::days(2))
}

/// `yyyyMMddHH` of an hour of that day.
fn hour(api: &Api, hour: i64) -> String {
    format!("{}{hour:02}", day(api).date())
}

fn typed(data_type: &str, date: &str) -> String {
    format!("/v2/insights/hour/{data_type}/{AI}/{date}.json")
}

fn links(answer: &Value) -> Vec<String> {
    serde_json::from_value(answer.clone()).unwrap()
}

async fn unpacked(answer: Response) -> Vec<Vec<String>> {
    assert_eq!(answer.status(), 200);
    let length = answer.content_length();
    let bytes = answer.bytes().await.unwrap();
    assert_eq!(length, Some(bytes.len() as u64));
    let mut text = String::new();
    MultiGzDecoder::new(&bytes[..]).read_to_string(&mut text).unwrap();
    parse_csv(&text)
}

/// An hour after nine with events of the type, and a link to its first file.
async fn a_link(api: &Api, data_type: &str) -> (String, String) {
    for number in 9..24 {
        let date = hour(api, number);
        if let Some(link) = links(&api.json(&typed(data_type, &date)).await["downloadLinks"]).into_iter().next() {
            return (date, link);
        }
    }
    panic!("no hour has events");
}

#[tokio::test]
async fn one_type_answers_an_array_and_all_types_an_object() {
    let api = Api::start(|config| config.raw_part_records = 7).await;
    let (date, _) = a_link(&api, "page").await;
    let mut answer = api.json(&format!("{}?expire=60", typed("page", &format!("{date}45")))).await;
    let page = links(&answer["downloadLinks"]);
    assert!(page.len() > 1, "several parts");
    answer["downloadLinks"] = json!([]);
    let time = answer["requestTime"].take();
    assert_eq!(time.as_str().unwrap().len(), "2018-07-18 02:37".len());
    assert_eq!(
        answer,
        json!({
            "status": "FINISHED", "downloadLinks": [], "exportType": "hour", "dataType": "page", "exportDate": date,
            "exportVersion": "v2", "requestTime": null, "errorMsg": ""
        })
    );
    let all = api.json(&format!("/v2/insights/hour/{AI}/{date}.json")).await;
    assert!(all.get("dataType").is_none());
    let by_type = all["downloadLinks"].as_object().unwrap();
    assert!(by_type.keys().map(String::as_str).eq(event_types()));
    assert_eq!(links(&by_type["page"]).len(), page.len());
    let quiet = api.json(&typed("page", &hour(&api, QUIET_HOUR))).await;
    assert_eq!((&quiet["status"], &quiet["downloadLinks"]), (&json!("FINISHED"), &json!([])));

    let whole_day = api.json(&format!("/v2/insights/day/page/{AI}/{date}.json")).await;
    assert_eq!(whole_day["exportDate"], day(&api).date());
    let source = Source::of(api.world());
    let data_type = DataType::named("page").unwrap();
    let parts: u64 = day(&api).hours().map(|hour| Part::count(source, data_type, hour, 7)).sum();
    assert_eq!(links(&whole_day["downloadLinks"]).len() as u64, parts);
    api.assert_no_violations();
}

#[tokio::test]
async fn status_follows_the_clock() {
    for (minutes, status) in [(-5, "NOT_EXISTS"), (5, "NOT_EXISTS"), (30, "RUNNING"), (45, "FINISHED")] {
        let api = Api::start(|config| {
            let closed: DateTime<Utc> = "2018-07-01T03:00:00Z".parse().unwrap();
            config.clock.start = Some(closed + TimeDelta::minutes(minutes));
        })
        .await;
        let answer = api.json(&typed("visit", "2018070110")).await;
        assert_eq!(answer["status"], status, "{minutes}");
        let old = api.json(&typed("visit", "2018061510")).await;
        assert_eq!((&old["status"], &old["downloadLinks"]), (&json!("NOT_EXISTS"), &json!([])), "not kept");
        let version_1 = api.json(&format!("/insights/{AI}/2018070110.json")).await;
        assert_eq!(version_1["status"], status);
    }
}

#[tokio::test]
async fn files_hold_the_events_by_name_of_column() {
    let api = Api::start(|config| config.raw_part_records = 6).await;
    let (mut orders, mut records) = (std::collections::BTreeSet::new(), 0);
    for data_type in DATA_TYPES {
        let source = Source::of(api.world());
        for hour in day(&api).hours().skip(12).take(2) {
            let date = Slice::at(Granularity::Hour, hour.start()).date();
            let answer = api.json(&typed(data_type.name, &date)).await;
            for (number, link) in links(&answer["downloadLinks"]).iter().enumerate() {
                let rows = unpacked(api.open(link).await).await;
                let part =
                    Part { source, version: Version::Two, data_type, hour, number: number as u64, max_records: 6 };
                let truth: Vec<_> = part.rows().collect();
                assert_eq!(rows.len(), truth.len() + 1);
                orders.insert(format!("{:?}", rows[0]));
                records += truth.len();
                for (row, truth) in rows[1..].iter().zip(&truth) {
                    assert_same(data_type, &rows[0], row, truth, hour);
                }
            }
        }
    }
    assert!(orders.len() > DATA_TYPES.len() && records > 100, "{} {records}", orders.len());
    api.assert_no_violations();
}

/// Every cell is in the truth, and nothing else is.
fn assert_same(data_type: &DataType, header: &[String], row: &[String], truth: &Value, hour: Hour) {
    assert_eq!(header.len(), row.len());
    let mut properties = truth["properties"].as_object().unwrap().clone();
    for (name, cell) in header.iter().zip(row) {
        let known = data_type.columns.iter().map(|(known, _)| *known).find(|known| known.eq_ignore_ascii_case(name));
        let absent = cell.is_empty() || cell == "null";
        let millis = |member: &str| {
            let time = truth[member].as_str().map(|text| text.parse::<DateTime<Utc>>().unwrap());
            assert_eq!(time.map(|time| time.timestamp_millis().to_string()).as_ref(), Some(cell), "{name}");
            time.unwrap()
        };
        let text = |member: &str| assert_eq!(truth[member].as_str(), (!absent).then_some(cell.as_str()), "{name}");
        match known {
            Some("sendTime") => assert_eq!(Hour::of(millis("received_at")), hour),
            Some("time" | "eventTime") => drop(millis("event_time")),
            Some("loginUserId") => text("user_id"),
            Some("visitUserId") => text("visitor_id"),
            Some("sessionId") => text("session_id"),
            _ => {
                let value = properties.remove(known.unwrap_or(name));
                match value {
                    None => assert!(absent, "{name}: {cell}"),
                    Some(Value::String(text)) => assert_eq!(text, *cell, "{name}"),
                    Some(other) => assert_eq!(other, serde_json::from_str::<Value>(cell).unwrap(), "{name}"),
                }
            }
        }
    }
    assert_eq!(properties, serde_json::Map::new());
}

#[tokio::test]
async fn a_renewed_link_is_another_and_a_link_expires_by_the_clock() {
    let api = Api::start(|_| {}).await;
    let (date, first) = a_link(&api, "action").await;
    let again = links(&api.json(&typed("action", &date)).await["downloadLinks"]).remove(0);
    assert_ne!(first, again);
    assert_eq!(unpacked(api.open(&first).await).await, unpacked(api.open(&again).await).await);
    let forged = first.replace("Signature=", "Signature=0");
    assert_eq!(api.open(&forged).await.status(), 403);

    // A thousand minutes in a real second.
    let api = Api::start(|config| config.clock.speed = 60_000.0).await;
    let (date, link) = a_link(&api, "action").await;
    let expired = until(|| async { Some(api.open(&link).await).filter(|answer| answer.status() == 403) }).await;
    assert!(expired.text().await.unwrap().contains("Request has expired"));
    let long = links(&api.json(&format!("{}?expire=10080", typed("action", &date))).await["downloadLinks"]).remove(0);
    assert_eq!(api.open(&long).await.status(), 200);
    assert!(api.activity().refusals["link_expired"] > 0);
}

#[tokio::test]
async fn requests_that_are_not_documented_are_refused_and_counted() {
    let api = Api::start(|_| {}).await;
    let date = hour(&api, 10);
    for (path, status) in [
        (format!("{}?expire=10081", typed("visit", &date)), 400),
        (format!("{}?expire=soon", typed("visit", &date)), 400),
        (format!("{}?minutes=5", typed("visit", &date)), 200),
        (typed("impression", &date), 400),
        (format!("/v2/insights/minute/visit/{AI}/{date}.json"), 400),
        (format!("/v2/insights/hour/visit/{PROJECT_UID}/{date}.json"), 403),
        (format!("/projects/{AI}/dashboards.json"), 403),
        (typed("visit", "2018-07-01"), 200),
        (typed("visit", "20180701"), 200),
        ("/v2/insights".to_owned(), 404),
    ] {
        let before = api.activity().violation_count;
        assert_eq!(api.get(&path).await.status(), status, "{path}");
        assert_eq!(api.activity().violation_count, before + 1, "{path}");
    }
    assert_eq!(api.json(&typed("visit", "2018070124")).await["status"], "NOT_EXISTS");
}

#[tokio::test]
async fn token_and_public_key_never_reach_the_file_host() {
    let api = Api::start(|_| {}).await;
    let (_, link) = a_link(&api, "page").await;
    for (name, value) in [("authorization", TOKEN), ("x-client-id", CLIENT_ID)] {
        let answer = api.http.get(&link).header(name, value).send().await.unwrap();
        assert_eq!(answer.status(), 400, "{name}");
    }
    assert_eq!(api.http.head(&link).send().await.unwrap().status(), 403);
    assert_eq!(api.activity().violation_count, 3);
    assert_eq!(api.activity().downloads, 0);
}

#[tokio::test]
async fn more_than_two_calls_in_a_second_are_refused() {
    let api = Api::start(|config| config.requests_per_second = 2.0).await;
    let path = typed("page", &hour(&api, 10));
    let statuses = [(); 3].map(|()| api.get(&path));
    let mut seen = Vec::new();
    for answer in statuses {
        seen.push(answer.await.status().as_u16());
    }
    assert_eq!(seen, [200, 200, 429]);
    let lists = api.get("/projects/nxog09md/dashboards.json").await;
    assert_eq!(lists.status(), 429, "one budget for the whole project");
    assert_eq!(api.activity().refusals["rate"], 2);
    assert_eq!(api.activity().violations[0], "more than 2 calls in a second");
    let allowed = || async { Some(api.get(&path).await).filter(|answer| answer.status() == 200) };
    until(allowed).await;
}

#[tokio::test]
async fn slices_and_files_that_were_handed_out_are_counted() {
    let api = Api::start(|_| {}).await;
    let (date, link) = a_link(&api, "pvar").await;
    for _ in 0..2 {
        unpacked(api.open(&link).await).await;
    }
    let counts = api.activity().counts;
    assert_eq!(counts[&format!("finished v2/hour/pvar/{date}")], 1);
    let slice = Slice::parse(Granularity::Hour, &date).unwrap();
    let file = format!("downloaded v2/pvar/{}/0", Hour::of(slice.start()).stamp());
    assert_eq!(counts[&file], 2);
}

#[tokio::test]
async fn answers_of_the_status_faults() {
    let mut seen = Vec::new();
    for name in ["running", "not_exists", "error", "unknown_status", "all_empty"] {
        let api = Api::with(&[&format!("growingio.raw.{name}=1")]).await;
        let answer = api.json(&typed("page", &hour(&api, 10))).await;
        assert_eq!(answer["downloadLinks"], json!([]));
        seen.push(format!("{name}: {} {}", answer["status"], answer["errorMsg"]));
        assert_eq!(api.json(&typed("page", &hour(&api, 10))).await["status"], "FINISHED", "{name} shows once");
    }
    insta::assert_snapshot!(seen.join("\n"), @r#"
    running: "RUNNING" ""
    not_exists: "NOT_EXISTS" ""
    error: "ERROR" "export task failed"
    unknown_status: "ARCHIVING" ""
    all_empty: "" ""
    "#);
}

#[tokio::test]
async fn files_differ_as_the_fault_says() {
    let api = Api::start(|_| {}).await;
    let (_, link) = a_link(&api, "page").await;
    let whole = api.open(&link).await.bytes().await.unwrap();
    let rows = unpacked(api.open(&link).await).await;

    api.set_faults(&["growingio.file.truncated=1"]);
    let truncated = api.open(&link).await;
    assert_eq!(truncated.content_length(), Some(whole.len() as u64 * 3 / 5));
    let bytes = truncated.bytes().await.unwrap();
    assert!(MultiGzDecoder::new(&bytes[..]).read_to_end(&mut Vec::new()).is_err());
    api.set_faults(&["growingio.file.cut=1"]);
    assert!(api.open(&link).await.bytes().await.is_err());
    api.set_faults(&["growingio.file.empty=1"]);
    assert!(api.open(&link).await.bytes().await.unwrap().is_empty());
    api.set_faults(&["growingio.file.bad_record=1"]);
    let bad = unpacked(api.open(&link).await).await;
    assert_eq!((bad[1].len(), bad[2].len() * 2 <= rows[2].len()), (rows[1].len(), true));
    api.set_faults(&["growingio.file.bom=1"]);
    assert!(unpacked(api.open(&link).await).await[0][0].starts_with('\u{feff}'));
    api.set_faults(&["growingio.file.no_header=1"]);
    let bare = unpacked(api.open(&link).await).await;
    assert_eq!((bare.len(), bare[0].len()), (rows.len() - 1, 36));
    api.set_faults(&["growingio.file.drip"]);
    let first = tokio::time::timeout(Duration::from_secs(5), async { api.open(&link).await.chunk().await }).await;
    assert_eq!(first.unwrap().unwrap().unwrap().len(), 1);

    for (name, status) in [
        ("expired=1", 403),
        ("not_found=1", 404),
        ("server_error=1", 503),
        ("html=1", 200),
        ("redirect=http://169.254.169.254/", 302),
    ] {
        api.set_faults(&[&format!("growingio.file.{name}")]);
        assert_eq!(api.open(&link).await.status(), status, "{name}");
    }
}

#[tokio::test]
async fn links_may_be_dead_when_they_come() {
    let api = Api::with(&["growingio.raw.dead_links"]).await;
    let (_, link) = a_link(&api, "page").await;
    assert_eq!(api.open(&link).await.status(), 403);
}

#[tokio::test]
async fn version_1_mixes_its_tables_in_one_list() {
    let api = Api::start(|_| {}).await;
    let (date, _) = a_link(&api, "custom_event").await;
    let answer = api.json(&format!("/insights/{AI}/{date}.json")).await;
    assert_eq!(answer["status"], "FINISHED");
    let mut widths = std::collections::BTreeSet::new();
    for link in links(&answer["downlinks"]) {
        let bytes = api.open(&link).await.bytes().await.unwrap();
        let mut text = String::new();
        MultiGzDecoder::new(&bytes[..]).read_to_string(&mut text).unwrap();
        let header: Vec<_> = text.lines().next().unwrap().split(',').collect();
        widths.insert(header.len());
        if header == ["sendTime", "eventname", "attribute"] {
            assert!(text.contains(r#""{""_userId"":"#), "quotes are doubled: {text}");
        }
    }
    assert!(widths.contains(&3) && widths.contains(&34), "{widths:?}");
    api.assert_no_violations();
}
