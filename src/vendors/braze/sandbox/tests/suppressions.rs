//! Addresses that are not written to.

use super::*;

#[tokio::test]
async fn a_list_ends_with_a_short_page_also_when_the_last_one_is_full() {
    let api = Api::start(|_| {}).await;
    for (path, member, limit, count, calls) in [
        ("/email/unsubscribes", "emails", 500, 1_000, 3),
        ("/email/hard_bounces", "emails", 300, 740, 3),
        ("/sms/invalid_phone_numbers", "sms", 500, 820, 2),
    ] {
        let mut rows: Vec<Value> = Vec::new();
        let mut read = 0;
        loop {
            let window = "start_date=2026-01-01&end_date=2026-01-21";
            let answer = api.read(&format!("{path}?{window}&limit={limit}&offset={}", rows.len())).await;
            let more = answer[member].as_array().unwrap();
            rows.extend(more.iter().cloned());
            read += 1;
            if more.len() < limit {
                break;
            }
        }
        let distinct: std::collections::BTreeSet<_> = rows.iter().map(Value::to_string).collect();
        assert_eq!((rows.len(), distinct.len(), read), (count, count, calls), "{path}");
        let at = |row: &Value| row.as_object().unwrap().values().nth(1).unwrap().as_str().unwrap().to_owned();
        assert!(rows.windows(2).all(|two| at(&two[0]) > at(&two[1])), "newest first");
        assert!(at(&rows[0]).starts_with("2026-01-20 ") && at(&rows[0]).ends_with(" +0000"), "{}", at(&rows[0]));
        assert_eq!(at(rows.last().unwrap()), "2026-01-01 00:00:00 +0000");
        let default = api.read(&format!("{path}?start_date=2026-01-01&end_date=2026-01-21")).await;
        assert_eq!(default[member].as_array().unwrap().len(), 100);
    }
    assert_eq!(api.activity().violation_count, 0);
}

#[tokio::test]
async fn a_row_that_moves_between_two_calls_appears_twice() {
    let api = Api::with(&["braze.suppressions.row_moves=1"]).await;
    let page = |offset: u32| {
        let path = format!("/email/unsubscribes?start_date=2026-01-01&end_date=2026-01-21&limit=10&offset={offset}");
        let api = &api;
        async move { api.read(&path).await["emails"].as_array().unwrap().clone() }
    };
    let (first, second) = (page(0).await, page(10).await);
    assert_eq!(first[9], second[0]);
    assert_ne!(first[9], page(20).await[0]);
}

#[tokio::test]
async fn unsubscribes_are_sorted_and_looked_up() {
    let api = Api::start(|_| {}).await;
    let window = "start_date=2026-01-01&end_date=2026-01-02";
    let rows = api.read(&format!("/email/unsubscribes?{window}&sort_direction=asc")).await["emails"].clone();
    let address = rows[0]["email"].as_str().unwrap().replace('+', "%2B");
    let one = api.read(&format!("/email/unsubscribes?end_date=2026-02-01&email={address}")).await;
    assert_eq!(one["emails"], json!([rows[0]]));
    let skipped = api.read(&format!("/email/unsubscribes?end_date=2026-02-01&email={address}&offset=1")).await;
    assert_eq!(skipped["emails"], json!([]), "an offset leaves nothing");
    let nobody = api.read("/email/hard_bounces?end_date=2026-02-01&email=nobody@example.test").await;
    assert_eq!(nobody["emails"], json!([]));
}

#[tokio::test]
async fn phone_numbers_win_over_dates_and_reasons_filter() {
    let api = Api::start(|_| {}).await;
    let window = "start_date=2026-01-01&end_date=2026-01-02";
    let rows = api.read(&format!("/sms/invalid_phone_numbers?{window}")).await["sms"].as_array().unwrap().clone();
    let deactivated = api.read(&format!("/sms/invalid_phone_numbers?{window}&reason=deactivated")).await;
    let deactivated = deactivated["sms"].as_array().unwrap();
    assert!(!deactivated.is_empty() && deactivated.len() < rows.len());
    assert!(deactivated.iter().all(|row| row["reason"] == "deactivated"));
    let number = rows[3]["phone"].as_str().unwrap().replace('+', "%2B");
    let path = format!("/sms/invalid_phone_numbers?start_date=2020-01-01&end_date=2020-01-02&phone_numbers[]={number}");
    assert_eq!(api.read(&path).await["sms"], json!([rows[3]]));
    assert_eq!(api.activity().violation_count, 0);
}

#[tokio::test]
async fn every_parameter_of_a_list_is_checked() {
    let api = Api::start(|_| {}).await;
    let forbidden = [
        "/email/unsubscribes?start_date=2026-01-01",
        "/email/unsubscribes?end_date=2026-01-01",
        "/email/hard_bounces?start_date=2026-01-01&end_date=2026-01-02&limit=501",
        "/email/hard_bounces?start_date=2026-01-01&end_date=2026-01-02&sort_direction=asc",
        "/email/hard_bounces?start_date=2026-1-1&end_date=2026-01-02",
        "/email/hard_bounces?start_date=2026-01-02&end_date=2026-01-02",
        "/sms/invalid_phone_numbers?start_date=2026-01-01",
        "/sms/invalid_phone_numbers?start_date=2026-01-01T00:00:00Z&end_date=2026-01-02",
        "/sms/invalid_phone_numbers?start_date=2026-01-01&end_date=2026-01-02&reason=other",
    ];
    for (number, path) in forbidden.iter().enumerate() {
        assert_eq!(api.call(path).await.status(), 400, "{path}");
        assert_eq!(api.activity().violation_count, number as u64 + 1, "{path}");
    }
}
