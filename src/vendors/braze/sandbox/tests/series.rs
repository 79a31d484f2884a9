//! Series of every kind.

use super::*;

fn times(answer: &Value) -> Vec<&str> {
    answer["data"].as_array().unwrap().iter().map(|point| point["time"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_series_has_the_units_before_its_end() {
    let api = Api::start(|_| {}).await;
    let days = |end: &'static str| {
        let path = format!("/kpi/dau/data_series?length=3&ending_at={end}");
        let api = &api;
        async move { times(&api.read(&path).await).iter().map(ToString::to_string).collect::<Vec<_>>() }
    };
    assert_eq!(days("2026-03-01T00:00:00Z").await, ["2026-02-26", "2026-02-27", "2026-02-28"]);
    assert_eq!(days("2026-03-01T23:59:59Z").await, ["2026-02-27", "2026-02-28", "2026-03-01"]);
    // Midnight in UTC.
    assert_eq!(days("2026-03-01T02:00:00%2B02:00").await, ["2026-02-26", "2026-02-27", "2026-02-28"]);
    let hours = api.read("/sessions/data_series?length=2&unit=hour&ending_at=2026-03-01T00:00:00Z").await;
    assert_eq!(times(&hours), ["2026-02-28T22:00:00+00:00", "2026-02-28T23:00:00+00:00"]);
    assert_eq!(times(&api.read("/kpi/mau/data_series?length=100").await).len(), 100);

    api.sandbox.world().set_faults(faults(&["braze.series.inclusive_end=1"]));
    assert_eq!(days("2026-03-01T00:00:00Z").await.last().unwrap(), "2026-03-01");
    assert_eq!(api.activity().violation_count, 0);
}

#[tokio::test]
async fn windows_that_overlap_agree() {
    let api = Api::start(|_| {}).await;
    let canvas = canvases::listed(false)[0].id();
    let campaign = campaigns::listed(false)[0].id();
    let paths = [
        "/kpi/new_users/data_series?".to_owned(),
        "/kpi/uninstalls/data_series?app_id=8f2c1a30-0000-4000-8000-000000000001&".to_owned(),
        "/events/data_series?event=viewed_product&".to_owned(),
        "/purchases/revenue_series?product=sku-1&".to_owned(),
        format!("/segments/data_series?segment_id={}&", segment_id(3)),
        format!("/campaigns/data_series?campaign_id={campaign}&"),
        format!("/canvas/data_series?canvas_id={canvas}&include_step_breakdown=true&"),
    ];
    for path in paths {
        let read = |window: &'static str| {
            let path = format!("{path}{window}");
            let api = &api;
            async move {
                let data = api.read(&path).await["data"].clone();
                data.get("stats").unwrap_or(&data).as_array().unwrap().clone()
            }
        };
        let one = read("length=10&ending_at=2026-05-20T00:00:00Z").await;
        let other = read("length=4&ending_at=2026-05-18T00:00:00Z").await;
        assert_eq!(one[4..8], other, "{path}");
        assert!(one.windows(2).any(|two| two[0].to_string()[22..] != two[1].to_string()[22..]), "{path}");
    }
}

#[tokio::test]
async fn every_parameter_of_a_series_is_checked() {
    let api = Api::start(|_| {}).await;
    let canvas = format!("/canvas/data_series?canvas_id={}", canvases::listed(false)[0].id());
    let forbidden = [
        "/kpi/dau/data_series".to_owned(),
        "/kpi/dau/data_series?length=0".to_owned(),
        "/kpi/dau/data_series?length=101".to_owned(),
        "/kpi/dau/data_series?length=ten".to_owned(),
        "/kpi/dau/data_series?length=1&ending_at=2026-03-01".to_owned(),
        "/kpi/dau/data_series?length=1&ending_at=2026-03-01T00:00:00".to_owned(),
        "/kpi/dau/data_series?length=1&ending_at=2026-03-01T00:00:00-5:00".to_owned(),
        // An unencoded + is a space.
        "/kpi/dau/data_series?length=1&ending_at=2026-03-01T00:00:00+01:00".to_owned(),
        "/sessions/data_series?length=1&unit=week".to_owned(),
        "/events/data_series?length=1".to_owned(),
        "/segments/data_series?length=1".to_owned(),
        format!("{canvas}&length=14"),
        format!("{canvas}&ending_at=2026-03-01T00:00:00Z"),
        format!("{canvas}&length=15&ending_at=2026-03-01T00:00:00Z"),
        format!("{canvas}&starting_at=2026-02-01T00:00:00Z&ending_at=2026-03-01T00:00:00Z"),
        format!("{canvas}&length=1&ending_at=2026-03-01T00:00:00Z&include_step_breakdown=1"),
    ];
    for (number, path) in forbidden.iter().enumerate() {
        assert_eq!(api.call(path).await.status(), 400, "{path}");
        assert_eq!(api.activity().violation_count, number as u64 + 1, "{path}");
    }
    for path in [
        "/events/data_series?event=nothing&length=1",
        "/purchases/quantity_series?product=nothing&length=1",
        "/kpi/dau/data_series?app_id=nothing&length=1",
        "/campaigns/data_series?campaign_id=nothing&length=1",
        "/sessions/data_series?segment_id=5a1b0c2d-0000-4000-8000-000000000002&length=1",
    ] {
        assert_eq!(api.call(path).await.status(), 400, "{path}");
    }
    assert_eq!(api.activity().violation_count, forbidden.len() as u64, "an unknown id is no violation");
}

#[tokio::test]
async fn a_segment_without_tracking_has_no_sizes() {
    let api = Api::start(|_| {}).await;
    let size = |number| format!("/segments/data_series?segment_id={}&length=5", segment_id(number));
    assert_eq!(api.read(&size(2)).await["data"], json!([]));
    assert_eq!(api.read(&size(3)).await["data"].as_array().unwrap().len(), 5);
}

#[tokio::test]
async fn campaigns_tell_their_messages_apart_by_id_or_by_name() {
    let api = Api::start(|_| {}).await;
    let series = |multivariate: bool| {
        let listed = campaigns::listed(false);
        let campaign = listed.into_iter().find(|campaign| campaign.is_multivariate() == multivariate).unwrap();
        let path = format!("/campaigns/data_series?campaign_id={}&length=1", campaign.id());
        let api = &api;
        async move { api.read(&path).await }
    };
    let messages = |answer: &Value| -> Vec<Value> {
        let channels = answer["data"][0]["messages"].as_object().unwrap();
        channels.values().flat_map(|messages| messages.as_array().unwrap().clone()).collect()
    };
    let multichannel = series(false).await;
    assert_eq!(multichannel["message"], "success");
    assert_eq!(messages(&multichannel).len(), 3);
    assert!(messages(&multichannel).iter().all(|message| message["variation_api_id"].is_string()));
    let multivariate = series(true).await;
    assert_eq!(multivariate.get("message"), None, "as in the documented sample");
    assert_eq!(messages(&multivariate).len(), 3);
    assert!(messages(&multivariate).iter().all(|message| message["variation_name"].is_string()));
}

#[tokio::test]
async fn a_send_is_forgotten_after_fourteen_days() {
    let api = Api::start(|_| {}).await;
    let of = |campaign: campaigns::Campaign, send: &str| {
        format!("/sends/data_series?campaign_id={}&send_id={send}&length=3", campaign.id())
    };
    let listed = campaigns::listed(false);
    let triggered = *listed.iter().find(|campaign| campaign.is_api()).unwrap();
    assert_eq!(api.read(&of(triggered, "send-13")).await["data"].as_array().unwrap().len(), 3);
    assert_eq!(api.read(&of(triggered, "send-15")).await["data"], json!([]));
    let other = *listed.iter().find(|campaign| !campaign.is_api()).unwrap();
    assert_eq!(api.call(&of(other, "send-13")).await.status(), 400, "only API campaigns have sends");
    assert_eq!(api.call(&of(triggered, "send-x")).await.status(), 400);
}

#[tokio::test]
async fn a_canvas_is_broken_down_only_when_asked() {
    let api = Api::start(|_| {}).await;
    let of = |path: &str, flags: &str| {
        let id = canvases::listed(false)[0].id();
        format!("/canvas/{path}?canvas_id={id}&ending_at=2026-03-15T00:00:00Z{flags}")
    };
    let plain = api.read(&of("data_series", "&starting_at=2026-03-01T00:00:00Z")).await["data"].clone();
    assert!(plain["name"].is_string());
    assert_eq!(plain["stats"].as_array().unwrap().len(), 14);
    assert_eq!(plain["stats"][0]["time"], "2026-03-01");
    assert_eq!(plain["stats"][0].as_object().unwrap().keys().collect::<Vec<_>>(), ["time", "total_stats"]);

    let flags = "&length=2&include_variant_breakdown=true&include_step_breakdown=true";
    let broken_down = api.read(&of("data_series", flags)).await["data"].clone();
    let day = &broken_down["stats"][1];
    assert_eq!((day["variant_stats"].as_object().unwrap().len(), day["step_stats"].as_object().unwrap().len()), (2, 3));
    let with_deleted = format!("{flags}&include_deleted_step_data=true");
    let with_deleted = api.read(&of("data_series", &with_deleted)).await;
    assert_eq!(with_deleted["data"]["stats"][1]["step_stats"].as_object().unwrap().len(), 4);

    let summary = api.read(&of("data_summary", flags)).await["data"].clone();
    assert!(summary.get("time").is_none());
    let entries = |stats: &Value| stats["total_stats"]["entries"].as_u64().unwrap();
    let days = broken_down["stats"].as_array().unwrap();
    assert_eq!(entries(&summary), days.iter().map(entries).sum::<u64>());
    assert_eq!(summary["step_stats"].as_object().unwrap().len(), 3);
}
