use serde_json::{Value, json};

use super::*;
use crate::exports::{fields::Selection, parameters::Parameters, request::Dataset};

const PART: &str = "2026-11-19T00:00:00Z/2026-11-21T00:00:00Z";

fn points(metric: &str, subject: &Value) -> Points {
    let window = json!({"from": "2026-11-19T00:00:00Z", "to": "2026-11-21T00:00:00Z"});
    let parameters = json!({"metric": metric, "window": window, "subject": subject});
    let Parameters::MetricSeries(series) = Parameters::parse(Dataset::MetricSeries, &parameters).unwrap() else {
        panic!("a series")
    };
    Points::new(series)
}

fn rows(points: &Points, json: &str) -> Result<Vec<String>, BadRecord> {
    let mut rows = Vec::new();
    points.member(PART).unified(Record::Element { head: &Value::Null, json }, &mut |row| {
        let mut json = Vec::new();
        row.write_json(&Selection::everything(), &mut json).unwrap();
        rows.push(String::from_utf8(json).unwrap());
        Ok(())
    })?;
    Ok(rows)
}

/// Quirks 20 and 24: a figure stays as it was written.
#[test]
fn a_simple_point_is_one_row_with_its_subject() {
    let revenue = points("purchase_revenue", &json!({"product": "p", "app_id": "a"}));
    assert_eq!(
        rows(&revenue, r#"{"time": "2026-11-20", "revenue": 10.50}"#).unwrap(),
        [
            r#"{"metric":"purchase_revenue","time":"2026-11-20T00:00:00Z","interval":"day","dimensions":{"app_id":"a","product":"p"},"value":10.50}"#
        ]
    );
    for odd in [r#"{"time": "2026-11-20"}"#, r#"{"time": "2026-11-20", "revenue": null}"#] {
        assert!(rows(&revenue, odd).unwrap()[0].ends_with(r#""value":null}"#), "{odd}");
    }
}

#[test]
fn points_outside_of_the_part_belong_to_its_neighbours() {
    let dau = points("dau", &json!({}));
    for (time, own) in [
        ("2026-11-18", false),
        ("2026-11-19", true),
        ("2026-11-20T23:00:00+00:00", true),
        ("2026-11-21T00:00:00+01:00", true),
        ("2026-11-21", false),
    ] {
        let point = json!({"time": time, "dau": 1}).to_string();
        assert_eq!(rows(&dau, &point).unwrap().len(), usize::from(own), "{time}");
        let mut vendor = Vec::new();
        dau.member(PART).vendor(Record::Element { head: &Value::Null, json: &point }, &mut vendor).unwrap();
        assert_eq!(!vendor.is_empty(), own, "{time}");
    }
    assert!(rows(&dau, r#"{"dau": 1}"#).is_err());
    assert!(rows(&dau, r#"{"time": "yesterday", "dau": 1}"#).is_err());
    assert!(rows(&dau, "[1]").is_err());
}

#[test]
fn a_campaign_has_a_row_for_each_figure_and_texts_tell_messages_apart() {
    let campaign = points("campaign", &json!({"campaign_id": "c"}));
    let point = r#"{"time": "2026-11-20", "unique_recipients": 3, "revenue": 1.0, "conversions": null, "messages": {
        "email": [{"variation_api_id": "v1", "sent": 5, "opens": 2}],
        "channel_of_tomorrow": [{"variation_name": "Control", "enrolled": 7}]}}"#;
    let found: Vec<Value> =
        rows(&campaign, point).unwrap().iter().map(|row| serde_json::from_str(row).unwrap()).collect();
    let found: Vec<_> = found
        .iter()
        .map(|row| (row["metric"].as_str().unwrap(), row["dimensions"].to_string(), &row["value"]))
        .collect();
    let own = r#"{"campaign_id":"c"}"#.to_owned();
    let v1 = r#"{"campaign_id":"c","variation_api_id":"v1"}"#.to_owned();
    let control = r#"{"campaign_id":"c","variation_name":"Control"}"#.to_owned();
    assert_eq!(
        found,
        [
            ("campaign.unique_recipients", own.clone(), &json!(3)),
            ("campaign.revenue", own, &json!(1.0)),
            ("campaign.messages.email.sent", v1.clone(), &json!(5)),
            ("campaign.messages.email.opens", v1, &json!(2)),
            ("campaign.messages.channel_of_tomorrow.enrolled", control, &json!(7)),
        ]
    );
}

#[test]
fn a_canvas_has_variants_and_steps_as_dimensions() {
    let canvas = points("canvas", &json!({"canvas_id": "c"}));
    let point = r#"{"time": "2026-11-20", "total_stats": {"entries": 9},
        "variant_stats": {"v": {"name": "Variant 1", "entries": 4}},
        "step_stats": {"s": {"name": "Welcome", "revenue": 0, "messages": {"email": [{"sent": 2}]}}}}"#;
    let found: Vec<Value> =
        rows(&canvas, point).unwrap().iter().map(|row| serde_json::from_str(row).unwrap()).collect();
    let found: Vec<_> =
        found.iter().map(|row| (row["metric"].as_str().unwrap(), row["dimensions"].to_string())).collect();
    assert_eq!(
        found,
        [
            ("canvas.total_stats.entries", r#"{"canvas_id":"c"}"#.to_owned()),
            ("canvas.variant_stats.entries", r#"{"canvas_id":"c","variant_id":"v"}"#.to_owned()),
            ("canvas.step_stats.revenue", r#"{"canvas_id":"c","step_id":"s"}"#.to_owned()),
            ("canvas.step_stats.messages.email.sent", r#"{"canvas_id":"c","step_id":"s"}"#.to_owned()),
        ]
    );
}
