use serde_json::{Value, json};

use super::*;
use crate::exports::fields::Selection;

fn window(from: &str, to: &str) -> Window {
    Window { from: from.parse().unwrap(), to: to.parse().unwrap() }
}

fn paths(kind: SuppressionKind, from: &str, to: &str) -> Vec<String> {
    planned(kind, &parts(window(from, to))).into_iter().map(|call| call.path).collect()
}

#[test]
fn days_are_utc_and_the_last_one_is_asked_for_whole() {
    assert_eq!(
        paths(SuppressionKind::HardBounced, "2026-11-01T08:00:00+08:00", "2026-11-02T00:00:00Z"),
        ["/email/hard_bounces?start_date=2026-11-01&end_date=2026-11-02&limit=500&offset=0"]
    );
    assert_eq!(
        paths(SuppressionKind::InvalidPhone, "2026-11-01T07:00:00+08:00", "2026-11-02T00:00:01Z"),
        ["/sms/invalid_phone_numbers?start_date=2026-10-31&end_date=2026-11-03&limit=500&offset=0"]
    );
    assert_eq!(
        paths(SuppressionKind::Unsubscribed, "2026-11-01T00:00:00Z", "2026-11-01T00:00:00.000000001Z"),
        ["/email/unsubscribes?start_date=2026-11-01&end_date=2026-11-02&sort_direction=asc&limit=500&offset=0"]
    );
}

#[test]
fn a_wide_window_is_cut_at_midnights_that_meet() {
    let parts = parts(window("2026-01-01T12:00:00Z", "2026-03-10T06:00:00Z"));
    assert_eq!(
        parts,
        [
            "2026-01-01T12:00:00Z/2026-02-01T00:00:00Z",
            "2026-02-01T00:00:00Z/2026-03-04T00:00:00Z",
            "2026-03-04T00:00:00Z/2026-03-10T06:00:00Z",
        ]
    );
}

#[tokio::test]
async fn rows_outside_of_the_window_are_dropped_and_odd_times_are_not() {
    use crate::vendors::scripted::{Scripted, http, reply};
    let body = json!({"emails": [
        {"email": "before@example.test", "hard_bounced_at": "2026-11-01 05:59:59 +0000"},
        {"email": "first@example.test", "hard_bounced_at": "2026-11-01 06:00:00 +0000"},
        {"email": "odd@example.test", "hard_bounced_at": "some day"},
        {"email": "after@example.test", "hard_bounced_at": "2026-11-02 00:00:00 +0000"},
    ]});
    let server = Scripted::start(vec![reply(200, &[], &body.to_string())]).await;
    let api = Api::new(server.url.clone(), "key-of-test".into(), http(), Arc::new(crate::vendors::shared::Alone));
    let window = window("2026-11-01T06:00:00Z", "2026-11-02T00:00:00Z");
    let wanted = Suppressions { kind: SuppressionKind::HardBounced, window };
    let progress = poll(&api, &parts(window)[0], wanted, false, &Exchanges::default()).await.unwrap();
    let Progress::Data(data) = progress else { panic!("data") };
    let chunks: Vec<_> = futures_util::TryStreamExt::try_collect(data.download.body).await.unwrap();
    let read = String::from_utf8(chunks.concat()).unwrap();
    let rows: Vec<Value> = read
        .lines()
        .map(|line| {
            let mut json = Vec::new();
            let row = Addresses(SuppressionKind::HardBounced);
            row.unified(line.as_bytes()).unwrap().write_json(&Selection::everything(), &mut json).unwrap();
            serde_json::from_slice(&json).unwrap()
        })
        .collect();
    let row = |address: &str, at: Option<&str>, vendor: Value| json!({"kind": "hard_bounced", "address": address, "suppressed_at": at, "reason": null, "vendor": vendor});
    let odd = row("odd@example.test", None, json!({"suppressed_at": "some day"}));
    assert_eq!(rows, [row("first@example.test", Some("2026-11-01T06:00:00Z"), json!({})), odd]);
}
