use chrono::TimeZone;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::exports::parameters::{Parameters, Subject};
use crate::exports::request::Dataset;

fn series(metric: &str, from: &str, to: &str, more: &Value) -> MetricSeries {
    let mut parameters = json!({"metric": metric, "window": {"from": from, "to": to}});
    for (name, value) in more.as_object().unwrap() {
        parameters[name] = value.clone();
    }
    let Parameters::MetricSeries(series) = Parameters::parse(Dataset::MetricSeries, &parameters).unwrap() else {
        panic!("a series")
    };
    series
}

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn now() -> DateTime<Utc> {
    at("2026-11-20T12:34:56Z")
}

fn shown_calls(series: &MetricSeries) -> Vec<String> {
    let parts = parts(series, now());
    planned(series, &parts).into_iter().map(|call| call.path).collect()
}

/// Quirk 25.
#[test]
fn a_window_is_cut_into_calls_of_100_points_that_overlap_by_one() {
    let dau = series("dau", "2026-01-01T00:00:00Z", "2026-08-01T00:00:00Z", &json!({"subject": {"app_id": "a"}}));
    assert_eq!(
        shown_calls(&dau),
        [
            "/kpi/dau/data_series?app_id=a&length=100&ending_at=2026-04-10T00%3A00%3A00Z",
            "/kpi/dau/data_series?app_id=a&length=100&ending_at=2026-07-18T00%3A00%3A00Z",
            "/kpi/dau/data_series?app_id=a&length=15&ending_at=2026-08-01T00%3A00%3A00Z",
        ]
    );
}

/// Quirk 28: a canvas has no breakdown unless asked, and at most 14 days in one call.
#[test]
fn a_canvas_is_asked_for_its_variants_and_steps_14_days_at_once() {
    let canvas =
        series("canvas", "2026-11-01T00:00:00Z", "2026-11-16T00:00:00Z", &json!({"subject": {"canvas_id": "c"}}));
    let breakdown = "include_variant_breakdown=true&include_step_breakdown=true";
    assert_eq!(
        shown_calls(&canvas),
        [
            format!("/canvas/data_series?canvas_id=c&length=14&ending_at=2026-11-14T00%3A00%3A00Z&{breakdown}"),
            format!("/canvas/data_series?canvas_id=c&length=3&ending_at=2026-11-16T00%3A00%3A00Z&{breakdown}"),
        ]
    );
}

#[test]
fn hours_are_asked_for_as_such() {
    let sessions = series("sessions", "2026-11-01T00:30:00Z", "2026-11-01T03:30:00Z", &json!({"interval": "hour"}));
    assert_eq!(
        shown_calls(&sessions),
        ["/sessions/data_series?length=4&unit=hour&ending_at=2026-11-01T04%3A00%3A00Z"],
        "the hours that begin at 1, 2 and 3"
    );
}

/// Quirk 26: the current day counts as it stands; the future is not asked for.
#[test]
fn no_call_ends_after_the_current_day() {
    let dau = series("dau", "2026-11-19T00:00:00Z", "2099-01-01T00:00:00Z", &json!({}));
    assert_eq!(parts(&dau, now()), ["2026-11-19T00:00:00Z/2026-11-21T00:00:00Z"]);
    let later = series("dau", "2030-01-01T00:00:00Z", "2030-02-01T00:00:00Z", &json!({}));
    assert_eq!(parts(&later, now()), ["2030-01-01T00:00:00Z/2030-01-01T00:00:00Z"]);
}

#[test]
fn what_a_metric_does_not_have_is_pointed_at() {
    let refused = |metric: &str, more: Value| -> Vec<String> {
        let series = series(metric, "2026-11-10T00:00:00Z", "2026-11-11T00:00:00Z", &more);
        let errors = check(&series, now()).err().unwrap_or_default();
        errors.into_iter().map(|error| error.pointer).collect()
    };
    let hour = json!({"interval": "hour"});
    let subject = |subject: Value| json!({"interval": "hour", "subject": subject});
    for metric in ["dau", "mau", "new_users", "uninstalls"] {
        assert_eq!(refused(metric, hour.clone()), ["/parameters/interval"], "{metric}");
    }
    assert_eq!(refused("campaign", subject(json!({"campaign_id": "c"}))), ["/parameters/interval"]);
    assert_eq!(refused("canvas", subject(json!({"canvas_id": "c"}))), ["/parameters/interval"]);
    assert_eq!(refused("segment_size", subject(json!({"segment_id": "s"}))), ["/parameters/interval"]);
    assert_eq!(refused("send", subject(json!({"campaign_id": "c", "send_id": "s"}))), ["/parameters/interval"]);
    for metric in ["sessions", "purchase_quantity", "purchase_revenue"] {
        assert!(refused(metric, hour.clone()).is_empty(), "{metric}");
        assert_eq!(refused(metric, json!({"interval": "week"})), ["/parameters/interval"]);
    }
    assert_eq!(refused("dau", json!({"subject": {"product": "p"}})), ["/parameters/subject/product"]);
    assert_eq!(refused("sessions", json!({"subject": {"product": "p"}})), ["/parameters/subject/product"]);
}

#[test]
fn figures_of_a_send_older_than_14_days_are_refused_at_once() {
    let send = |from: &str| {
        let subject = json!({"subject": {"campaign_id": "c", "send_id": "s"}});
        check(&series("send", from, "2026-11-20T00:00:00Z", &subject), now()).err().unwrap_or_default()
    };
    assert!(send("2026-11-06T00:00:00Z").is_empty());
    assert_eq!(send("2026-11-05T23:00:00Z")[0].pointer, "/parameters/window/from");
}

#[test]
fn every_metric_has_its_documented_endpoint_and_pool() {
    let endpoints: Vec<_> = Metric::ALL
        .into_iter()
        .map(|metric| format!("{:?} {} {}", of(metric).endpoint.pool, of(metric).endpoint.path, of(metric).max_length))
        .collect();
    assert_eq!(
        endpoints,
        [
            "Default /kpi/dau/data_series 100",
            "Default /kpi/mau/data_series 100",
            "Default /kpi/new_users/data_series 100",
            "Default /kpi/uninstalls/data_series 100",
            "Default /sessions/data_series 100",
            "Default /events/data_series 100",
            "Names /purchases/quantity_series 100",
            "Names /purchases/revenue_series 100",
            "CampaignSeries /campaigns/data_series 100",
            "Default /canvas/data_series 14",
            "Default /segments/data_series 100",
            "Default /sends/data_series 14",
        ]
    );
}

#[tokio::test]
async fn a_window_in_which_no_point_begins_needs_no_call() {
    use crate::vendors::{
        scripted::{Scripted, http},
        shared::Alone,
    };
    let server = Scripted::start(vec![]).await;
    let api = Api::new(server.url.clone(), "key-of-test".into(), http(), std::sync::Arc::new(Alone));
    let dau = series("dau", "2026-11-10T06:00:00Z", "2026-11-10T18:00:00Z", &json!({}));
    let parts = parts(&dau, now());
    assert_eq!(parts.len(), 1);
    let progress = poll(&api, &parts[0], &dau, &Exchanges::default()).await.unwrap();
    assert!(matches!(progress, Progress::Ready(files) if files.is_empty()));
    assert_eq!(server.lines(), Vec::<String>::new());
}

proptest! {
    /// Quirk 27: whichever of a call's ends count, its answer holds every point of its part, and the parts together hold
    /// every point of the window once.
    #[test]
    fn parts_meet_and_every_call_covers_its_part(
        start in 0i64..2_000_000, length in 1i64..40_000_000, hourly in any::<bool>(), canvas in any::<bool>(),
    ) {
        let from = Utc.timestamp_opt(1_700_000_000 + start, 0).unwrap();
        let to = from + TimeDelta::seconds(length);
        let (metric, interval) = match (canvas, hourly) {
            (true, _) => (Metric::Canvas, Interval::Day),
            (false, true) => (Metric::Sessions, Interval::Hour),
            (false, false) => (Metric::Dau, Interval::Day),
        };
        let request = MetricSeries {
            metric, window: Window { from, to }, interval: Some(interval), subject: Subject::default(),
        };
        let unit = unit(&request);
        let windows: Vec<_> = parts(&request, now()).iter().map(|part| window(part).unwrap()).collect();
        let mut expected = ceiling(from, unit);
        for part in windows {
            prop_assert_eq!(part.from, expected);
            let query = query(&request, part);
            let find = |name: &str| &query.iter().find(|(known, _)| *known == name).unwrap().1;
            let (ending_at, points) = (at(find("ending_at")), find("length").parse::<i32>().unwrap());
            prop_assert!((1..=of(metric).max_length).contains(&points));
            // The unit of `ending_at` does not count; it counts in addition; it counts as the last of `length`.
            for (first, last) in [(-points, -1), (-points, 0), (1 - points, 0)] {
                if part.from < part.to {
                    prop_assert!(ending_at + unit * first <= part.from);
                    prop_assert!(ending_at + unit * last >= part.to - unit);
                }
            }
            expected = part.to;
        }
        prop_assert_eq!(expected, ceiling(to, unit).max(ceiling(from, unit)));
    }
}
