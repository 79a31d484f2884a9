//! What a patient reader of the documents gets over HTTP is what the demonstrations promise.

use super::*;
use crate::vendors::{braze::sandbox::profiles::MAX_IDS, sandbox::DemoDataset};

fn demo(dataset: &str, name: &str) -> &'static DemoDataset {
    demo::DATASETS.iter().find(|demo| demo.dataset.as_str() == dataset && demo.name == name).unwrap()
}

impl Api {
    /// What the demonstration asks for, and its rows.
    fn promised(&self, dataset: &str, name: &str) -> (Value, Vec<Value>) {
        let demo = demo(dataset, name);
        ((demo.parameters)(self.sandbox.world()), (demo.truth)(self.sandbox.world()))
    }
}

#[tokio::test]
async fn a_window_over_the_limit_is_read_in_pieces() {
    let api = Api::start(|_| {}).await;
    for (name, path, member, unit, longest) in [
        ("dau", "/kpi/dau/data_series?", "dau", "day", 100),
        ("mau", "/kpi/mau/data_series?app_id=8f2c1a30-0000-4000-8000-000000000001&", "mau", "day", 100),
        (
            "sessions",
            "/sessions/data_series?unit=hour&segment_id=5a1b0c2d-0000-4000-8000-000000000001&",
            "sessions",
            "hour",
            100,
        ),
        ("custom_event", "/events/data_series?event=50%25%20%26%20more%20%2B%20extra&", "count", "day", 100),
        ("purchase_revenue", "/purchases/revenue_series?", "revenue", "day", 100),
        (
            "purchase_quantity",
            "/purchases/quantity_series?product=%E4%BC%9A%E5%91%98%E5%B9%B4%E5%8D%A1&",
            "purchase_quantity",
            "day",
            100,
        ),
        ("segment_size", "/segments/data_series?segment_id=5a1b0c2d-0000-4000-8000-000000000003&", "size", "day", 100),
    ] {
        let (parameters, truth) = api.promised("metric_series", name);
        let seconds = if unit == "day" { 86_400 } else { 3_600 };
        let at = |end| chrono::DateTime::parse_from_rfc3339(parameters["window"][end].as_str().unwrap()).unwrap();
        let mut left = usize::try_from((at("to") - at("from")).num_seconds() / seconds).unwrap();
        assert_eq!(left, truth.len(), "{name}");
        let (mut end, mut read) = (at("to"), Vec::new());
        while left > 0 {
            let length = left.min(longest);
            let ending_at = end.to_utc().format("%Y-%m-%dT%H:%M:%SZ");
            let answer = api.read(&format!("{path}length={length}&ending_at={ending_at}")).await;
            let mut points = answer["data"].as_array().unwrap().clone();
            points.append(&mut read);
            read = points;
            end -= chrono::TimeDelta::seconds(seconds * i64::try_from(length).unwrap());
            left -= length;
        }
        let promised: Vec<_> = truth.iter().map(|row| &row["value"]).collect();
        assert_eq!(read.iter().map(|point| &point[member]).collect::<Vec<_>>(), promised, "{name}");
        for (point, row) in read.iter().zip(&truth) {
            assert!(row["time"].as_str().unwrap().starts_with(&point["time"].as_str().unwrap()[..10]));
            assert_eq!((&row["metric"], &row["interval"]), (&json!(name), &json!(unit)));
            assert_eq!(row["dimensions"], parameters.get("subject").cloned().unwrap_or(json!({})));
        }
    }
    assert_eq!(api.activity().violation_count, 0);
}

#[tokio::test]
async fn every_figure_of_a_canvas_is_a_row() {
    let api = Api::start(|_| {}).await;
    let (parameters, truth) = api.promised("metric_series", "canvas");
    let to = parameters["window"]["to"].as_str().unwrap();
    let id = parameters["subject"]["canvas_id"].as_str().unwrap();
    let flags = "include_variant_breakdown=true&include_step_breakdown=true";
    let answer = api.read(&format!("/canvas/data_series?canvas_id={id}&length=14&ending_at={to}&{flags}")).await;
    let day = &answer["data"]["stats"][13];
    let time = format!("{}T00:00:00Z", day["time"].as_str().unwrap());
    let value = |metric: &str, dimensions: Value| {
        let mut rows = truth.iter().filter(|row| row["time"] == time.as_str() && row["metric"] == metric);
        rows.find(|row| row["dimensions"] == dimensions).map(|row| row["value"].clone())
    };
    let total = value("canvas.total_stats.entries", json!({"canvas_id": id}));
    assert_eq!(total.as_ref(), Some(&day["total_stats"]["entries"]));
    for (variant, stats) in day["variant_stats"].as_object().unwrap() {
        let row = value("canvas.variant_stats.conversions", json!({"canvas_id": id, "variant_id": variant}));
        assert_eq!(row.as_ref(), Some(&stats["conversions"]));
    }
    let mut sent = 0;
    for (step, stats) in day["step_stats"].as_object().unwrap() {
        let dimensions = json!({"canvas_id": id, "step_id": step});
        let row = value("canvas.step_stats.revenue", dimensions.clone());
        assert_eq!(row.as_ref(), Some(&stats["revenue"]));
        for (channel, messages) in stats["messages"].as_object().unwrap() {
            let row = value(&format!("canvas.step_stats.messages.{channel}.sent"), dimensions.clone());
            assert_eq!(row.as_ref(), Some(&messages[0]["sent"]));
            sent += 1;
        }
    }
    assert_eq!(sent, 2);
    // 33 - 2 days of 4 totals, 2 x 4 of variants, 3 x 4 of steps, 9 + 5 of messages.
    assert_eq!(truth.len(), 31 * (4 + 8 + 12 + 14));
}

#[tokio::test]
async fn every_figure_of_a_message_is_a_row() {
    let api = Api::start(|_| {}).await;
    for (name, path) in [
        ("campaign", "/campaigns/data_series"),
        ("campaign, multivariate", "/campaigns/data_series"),
        ("send", "/sends/data_series"),
    ] {
        let (parameters, truth) = api.promised("metric_series", name);
        let subject = parameters["subject"].as_object().unwrap();
        let query: Vec<_> = subject.iter().map(|(name, id)| format!("{name}={}", id.as_str().unwrap())).collect();
        let to = parameters["window"]["to"].as_str().unwrap();
        let answer = api.read(&format!("{path}?{}&length=1&ending_at={to}", query.join("&"))).await;
        let point = &answer["data"][0];
        let time = format!("{}T00:00:00Z", point["time"].as_str().unwrap());
        let of_day: Vec<_> = truth.iter().filter(|row| row["time"] == time.as_str()).collect();
        let mut figures = point.as_object().unwrap().values().filter(|value| value.is_number()).count();
        let metric = parameters["metric"].as_str().unwrap();
        for (channel, messages) in point["messages"].as_object().unwrap() {
            for message in messages.as_array().unwrap() {
                let (texts, numbers): (Vec<_>, Vec<_>) =
                    message.as_object().unwrap().iter().partition(|(_, value)| value.is_string());
                let mut dimensions = subject.clone();
                dimensions.extend(texts.into_iter().map(|(name, value)| (name.clone(), value.clone())));
                for (statistic, value) in numbers {
                    let metric = format!("{metric}.messages.{channel}.{statistic}");
                    let row = of_day.iter().find(|row| {
                        row["metric"] == metric.as_str() && row["dimensions"] == Value::Object(dimensions.clone())
                    });
                    assert_eq!(row.map(|row| &row["value"]), Some(value), "{metric}");
                    figures += 1;
                }
            }
        }
        assert_eq!(of_day.len(), figures, "{name}");
    }
}

#[tokio::test]
async fn catalogs_hold_every_object_of_the_lists() {
    let api = Api::start(|_| {}).await;
    for (dataset, path, member) in [
        ("audiences", "/segments/list", "segments"),
        ("campaigns", "/campaigns/list", "campaigns"),
        ("canvases", "/canvas/list", "canvases"),
    ] {
        let (_, rows) = api.promised(dataset, "");
        let item = api.read(path).await[member][3].clone();
        let row = &rows[3];
        assert_eq!((&row["id"], &row["name"]), (&item["id"], &item["name"]), "{dataset}");
        assert_eq!(row["vendor"].get("tags"), item.get("tags"));
        let names: Vec<_> = row.as_object().unwrap().keys().map(String::as_str).collect();
        let columns = ["id", "kind", "name", "description", "size", "status", "created_at", "updated_at", "vendor"];
        assert_eq!(names, columns);
    }
    let (_, rows) = api.promised("campaigns", "details");
    assert_eq!(rows.len(), 260);
    let row = &rows[11];
    let details = api.read(&format!("/campaigns/details?campaign_id={}", row["id"].as_str().unwrap())).await;
    assert_eq!((&row["vendor"]["messages"], &row["description"]), (&details["messages"], &details["description"]));
    let mut statuses: Vec<_> = rows.iter().map(|row| row["status"].as_str().unwrap()).collect();
    statuses.sort_unstable();
    statuses.dedup();
    assert_eq!(statuses, ["archived", "draft", "enabled", "stopped"]);
    let (_, rows) = api.promised("events", "details");
    let first = api.read("/events").await["events"][0].clone();
    assert_eq!((&rows[0]["id"], &rows[0]["status"]), (&first["name"], &first["status"]));
    assert_eq!(api.promised("events", "").1[0]["vendor"], json!({}));
}

#[tokio::test]
async fn the_ids_of_the_demonstration_take_several_calls_and_find_everybody_once() {
    let api = Api::start(|_| {}).await;
    let (parameters, truth) = api.promised("user_profiles", "");
    let identifiers = parameters["identifiers"].as_array().unwrap();
    let of = |kind: &str| identifiers.iter().filter(|one| one["type"] == kind).cloned().collect::<Vec<_>>();
    let (ids, aliases) = (of("user_id"), of("alias"));
    assert!(ids.len() > MAX_IDS);
    let mut found = 0;
    let count =
        |answer: Response| async move { answer.json::<Value>().await.unwrap()["users"].as_array().unwrap().len() };
    for ids in ids.chunks(50) {
        let ids: Vec<_> = ids.iter().map(|one| &one["value"]).collect();
        let body = json!({"external_ids": ids, "fields_to_export": ["braze_id"]});
        found += count(api.post("/users/export/ids", &body).send().await.unwrap()).await;
    }
    for alias in aliases {
        let alias = json!([{"alias_label": alias["label"], "alias_name": alias["value"]}]);
        let body = json!({"user_aliases": alias, "fields_to_export": ["braze_id"]});
        found += count(api.post("/users/export/ids", &body).send().await.unwrap()).await;
    }
    for (kind, member) in
        [("vendor_user_id", "braze_id"), ("email", "email_address"), ("phone", "phone"), ("device_id", "device_id")]
    {
        for one in of(kind) {
            let body = json!({member: one["value"], "fields_to_export": ["braze_id"]});
            found += count(api.post("/users/export/ids", &body).send().await.unwrap()).await;
        }
        assert!(!of(kind).is_empty(), "{kind}");
    }
    assert_eq!((found, truth.len()), (25, 25));
    assert_eq!(api.activity().violation_count, 0);
}

#[tokio::test]
async fn suppressions_of_a_window_are_the_rows() {
    let api = Api::start(|_| {}).await;
    for (kind, path, member, address) in [
        ("unsubscribed", "/email/unsubscribes", "emails", "email"),
        ("hard_bounced", "/email/hard_bounces", "emails", "email"),
        ("invalid_phone", "/sms/invalid_phone_numbers", "sms", "phone"),
    ] {
        let (parameters, truth) = api.promised("suppressions", kind);
        let date = |end: &str| parameters["window"][end].as_str().unwrap()[..10].to_owned();
        let window = format!("start_date={}&end_date={}", date("from"), date("to"));
        let mut rows = Vec::new();
        loop {
            let answer = api.read(&format!("{path}?{window}&limit=500&offset={}", rows.len())).await;
            let more = answer[member].as_array().unwrap();
            rows.extend(more.iter().cloned());
            if more.len() < 500 {
                break;
            }
        }
        rows.reverse();
        assert!(rows.len() > 500, "{kind}");
        let promised: Vec<_> = truth.iter().map(|row| (&row["address"], row["reason"].clone())).collect();
        let read = rows.iter().map(|row| (&row[address], row.get("reason").cloned().unwrap_or_default()));
        assert_eq!(read.collect::<Vec<_>>(), promised, "{kind}");
        let empty = demo("suppressions", kind).empty.unwrap()(api.sandbox.world());
        let window = format!("start_date={}&end_date=2019-02-01", &empty["window"]["from"].as_str().unwrap()[..10]);
        assert_eq!(api.read(&format!("{path}?{window}")).await[member], json!([]));
    }
}
