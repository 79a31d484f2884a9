use std::collections::BTreeSet;

use futures_util::TryStreamExt;
use serde_json::{Value, json};

use super::*;
use crate::{
    exports::{
        problem::Code,
        request::{Dataset, Output},
    },
    vendors::{
        Next, Vendor,
        growingio::connect,
        http::TRY_AGAIN,
        scripted::{Reply, Scripted, account, cut, part, reply},
    },
};

const DOING: &str = r#"{"id":"9f1","status":"doing"}"#;
const CHART: &str = r#"{"id":"YoX28w7R","interval":86400000,"meta":[{"name":"M","metric":true}],"data":[[7]]}"#;
const TIMEOUT: &str = r#"{"message":"Request timeout","errors":[{"code":"request_timeout","message":"Request timeout in 5000 milliseconds"}]}"#;

fn vendor(base: &str) -> Arc<dyn Vendor> {
    let settings = json!({"base_url": base, "ai": "0a1b4018cd954ec2", "project_uid": "nxog09md"});
    connect(account(settings, ("token", "token-of-test"), &[])).unwrap()
}

fn request(parameters: &Value) -> ExportRequest {
    ExportRequest::parse(Dataset::Report, parameters, Output::default()).unwrap()
}

fn chart() -> ExportRequest {
    request(&json!({"report": {"kind": "chart", "id": "YoX28w7R"}}))
}

fn may_first(parameters: &Value) -> ExportRequest {
    let mut parameters = parameters.clone();
    parameters["window"] = json!({"from": "2016-05-01T00:00:00+08:00", "to": "2016-05-02T00:00:00+08:00"});
    request(&parameters)
}

async fn poll(server: &Scripted, request: &ExportRequest) -> Result<Progress, VendorError> {
    vendor(server.url.as_str()).poll(request, &part(PART), &Exchanges::default()).await
}

async fn body(progress: Progress) -> (String, String) {
    let Progress::Data(data) = progress else { panic!("{progress:?}") };
    let chunks: Vec<_> = data.download.body.try_collect().await.unwrap();
    (data.tag.into_owned(), String::from_utf8(chunks.concat()).unwrap())
}

fn planned(parameters: &Value) -> Result<String, BTreeSet<String>> {
    let plan = vendor("https://gio.test").plan(&request(parameters));
    match plan {
        Ok(plan) => {
            assert_eq!(plan.work, Work::Parts(vec!["report".into()]));
            Ok(plan.calls.into_iter().next().unwrap().path)
        }
        Err(errors) => Err(errors.into_iter().map(|error| error.pointer).collect()),
    }
}

#[test]
fn each_kind_has_its_address_and_its_parameters() {
    let window = json!({"from": "2016-05-01T00:00:00+08:00", "to": "2016-05-02T00:00:00+08:00"});
    let times = "startTime=1462032000000&endTime=1462118399999";
    for (report, interval, path) in [
        (json!({"kind": "chart", "id": "a/b 看"}), Some("hour"), "charts/a%2Fb%20%E7%9C%8B?interval=3600000&"),
        (json!({"kind": "chart", "id": "C"}), Some("month"), "charts/C?interval=2592000000&"),
        (
            json!({"kind": "funnel", "id": "F", "conversion_window_days": 7}),
            Some("day"),
            "funnels/F?conversionWindow=7&",
        ),
        (json!({"kind": "retention", "id": "R"}), Some("week"), "retentions/R?range=week&"),
        (
            json!({"kind": "frequency", "id": "Q", "split": "[1,5]", "statistic": "0.25"}),
            Some("day"),
            "frequencies/Q?interval=day&split=%5B1%2C5%5D&statistic=0.25&",
        ),
    ] {
        let mut parameters = json!({"report": report, "window": window});
        if let Some(interval) = interval {
            parameters["interval"] = json!(interval);
        }
        assert_eq!(planned(&parameters).unwrap(), format!("/v3/exporter/projects/nxog09md/{path}{times}"));
    }
    let bare = json!({"report": {"kind": "chart", "id": "C"}});
    assert_eq!(planned(&bare).unwrap(), "/v3/exporter/projects/nxog09md/charts/C");
}

#[test]
fn what_a_kind_cannot_be_asked_is_pointed_at() {
    let report = "/parameters/report";
    for (report, interval, pointers) in [
        (json!({"kind": "funnel", "id": "F"}), Some("week"), vec!["/parameters/interval".to_owned()]),
        (json!({"kind": "retention", "id": "R"}), Some("hour"), vec!["/parameters/interval".to_owned()]),
        (json!({"kind": "frequency", "id": "Q"}), Some("hour"), vec!["/parameters/interval".to_owned()]),
        (json!({"kind": "chart", "id": ".."}), None, vec![format!("{report}/id")]),
        (
            json!({"kind": "chart", "id": "C", "conversion_window_days": 1, "split": "10", "statistic": "max"}),
            None,
            vec![format!("{report}/conversion_window_days"), format!("{report}/split"), format!("{report}/statistic")],
        ),
        (
            json!({"kind": "funnel", "id": "F", "conversion_window_days": 0}),
            None,
            vec![format!("{report}/conversion_window_days")],
        ),
        (
            json!({"kind": "frequency", "id": "Q", "split": "[1,x]", "statistic": "mode"}),
            None,
            vec![format!("{report}/split"), format!("{report}/statistic")],
        ),
    ] {
        let mut parameters = json!({"report": report});
        if let Some(interval) = interval {
            parameters["interval"] = json!(interval);
        }
        assert_eq!(planned(&parameters).unwrap_err(), pointers.into_iter().collect(), "{parameters}");
    }
}

/// Quirk 1, and how the exporter works: the result comes with an answer, and that answer is the one that is read.
#[tokio::test]
async fn the_same_call_is_repeated_until_the_result_comes_with_it() {
    let server = Scripted::start(vec![
        reply(200, &[], DOING),
        reply(200, &[], r#"{"id":"9f1","status":"DOING"}"#),
        reply(200, &[], CHART),
    ])
    .await;
    let request = may_first(&json!({"report": {"kind": "chart", "id": "YoX28w7R"}}));
    for status in ["doing", "DOING"] {
        let progress = poll(&server, &request).await.unwrap();
        assert!(matches!(&progress, Progress::Preparing { status: s, warning: None, .. } if s == status));
    }
    assert_eq!(body(poll(&server, &request).await.unwrap()).await, ("v2".into(), CHART.into()));
    let lines = server.lines();
    assert_eq!(lines.iter().collect::<BTreeSet<_>>().len(), 1, "{lines:?}");
    assert_eq!(lines.len(), 3);
    assert!(lines[0].ends_with("/charts/YoX28w7R?startTime=1462032000000&endTime=1462118399999"));
}

#[tokio::test]
async fn json_is_json_whatever_its_content_type_says() {
    let server = Scripted::start(vec![reply(200, &[("content-type", "text/html")], CHART)]).await;
    assert_eq!(body(poll(&server, &chart()).await.unwrap()).await.1, CHART);
}

#[tokio::test]
async fn a_large_result_is_streamed_from_its_beginning_on() {
    let rows: Vec<_> = (0..20_000).map(|row| format!("[{row}]")).collect();
    let large = CHART.replace("[7]", &rows.join(","));
    assert!(large.len() > 100_000);
    let server = Scripted::start(vec![reply(200, &[], &large)]).await;
    let progress = poll(&server, &chart()).await.unwrap();
    assert!(matches!(&progress, Progress::Data(data) if data.download.length == Some(large.len() as u64)));
    assert_eq!(body(progress).await.1, large);
}

/// Quirk 1: a status nobody has documented keeps the export running.
#[tokio::test]
async fn an_unknown_status_keeps_it_running_with_a_warning() {
    let server = Scripted::start(vec![reply(200, &[], r#"{"id":"1","status":"queued"}"#)]).await;
    let Progress::Preparing { warning: Some(warning), .. } = poll(&server, &chart()).await.unwrap() else {
        panic!("not preparing")
    };
    assert!(warning.contains("queued"));
}

#[tokio::test]
async fn a_failure_of_the_exporter_is_final_unless_it_says_to_try_later() {
    let failed = |message: &str| json!({"id": "1", "status": "failed", "errorMsg": message}).to_string();
    for (message, next) in [
        ("请求参数不合法, interval", Next::GiveUp),
        ("", Next::GiveUp),
        ("下载出错，请您稍后重试", Next::TryAgain { after: None, at_most: Some(3) }),
    ] {
        let server = Scripted::start(vec![reply(200, &[], &failed(message))]).await;
        let error = poll(&server, &chart()).await.unwrap_err();
        assert_eq!((error.code, error.next), (Code::VendorRejectedRequest, next));
        assert!(error.message.contains("the chart") && error.message.contains(message), "{}", error.message);
    }
}

#[tokio::test]
async fn without_the_exporter_the_answer_comes_at_once() {
    let server = Scripted::start(vec![reply(404, &[], ""), reply(200, &[], CHART)]).await;
    let request = may_first(&json!({"report": {"kind": "retention", "id": "R"}, "interval": "week"}));
    assert_eq!(body(poll(&server, &request).await.unwrap()).await.0, "v2");
    let query = "range=week&startTime=1462032000000&endTime=1462118399999";
    assert_eq!(
        server.lines(),
        [
            format!("GET /v3/exporter/projects/nxog09md/retentions/R?{query}"),
            format!("GET /v2/projects/nxog09md/retentions/R.json?{query}")
        ]
    );
}

#[tokio::test]
async fn the_oldest_interface_has_charts_of_a_window() {
    let absent = || reply(404, &[], "Not Found");
    let server = Scripted::start(vec![absent(), absent(), reply(200, &[], CHART)]).await;
    let request = may_first(&json!({"report": {"kind": "chart", "id": "C"}}));
    assert_eq!(body(poll(&server, &request).await.unwrap()).await.0, "v1");
    assert_eq!(server.lines()[2], "GET /projects/nxog09md/charts/C.json?startTime=1462032000000&endTime=1462118399999");

    let server = Scripted::start(vec![absent(), absent()]).await;
    let error = poll(&server, &chart()).await.unwrap_err();
    assert_eq!((error.code, error.next), (Code::VendorDataNotFound, Next::GiveUp));
    assert!(error.message.contains("needs a `window`"));
}

#[tokio::test]
async fn an_id_that_is_nowhere_is_not_found() {
    for (kind, calls) in [("chart", 3), ("funnel", 2), ("retention", 2), ("frequency", 1)] {
        let server = Scripted::start((0..calls).map(|_| reply(404, &[], "")).collect()).await;
        let request = may_first(&json!({"report": {"kind": kind, "id": "X"}}));
        let error = poll(&server, &request).await.unwrap_err();
        assert_eq!((error.code, error.next, error.http_status), (Code::VendorDataNotFound, Next::GiveUp, Some(404)));
        assert_eq!(server.lines().len(), calls, "{kind}");
    }
}

/// Quirk 23: what took longer than five seconds may be ready at the exporter next time.
#[tokio::test]
async fn a_timeout_of_the_vendor_is_tried_again() {
    let server = Scripted::start(vec![
        reply(404, &[], ""),
        reply(500, &[], TIMEOUT),
        reply(200, &[], DOING),
        reply(500, &[], TIMEOUT),
    ])
    .await;
    let error = poll(&server, &chart()).await.unwrap_err();
    assert_eq!((error.code, error.next), (Code::VendorUnavailable, TRY_AGAIN));
    assert!(error.message.contains("Request timeout"));
    assert!(matches!(poll(&server, &chart()).await.unwrap(), Progress::Preparing { .. }));
    assert!(server.lines()[2].starts_with("GET /v3/"));
    assert_eq!(poll(&server, &chart()).await.unwrap_err().next, TRY_AGAIN);
}

/// Quirk 27, and quirk 11: what the wire says is read as strict JSON.
#[tokio::test]
async fn every_other_answer_is_classified() {
    use Code::*;
    const SOON: Next = Next::TryAgain { after: None, at_most: Some(5) };
    let html = [("content-type", "text/html; charset=utf-8")];
    let refused = r#"{"message":"no","errors":[{"code":"bad_request","message":"no"}]}"#;
    for (answers, code, next) in [
        (vec![reply(403, &[], "")], VendorCredentialsRejected, Next::GiveUp),
        (vec![reply(400, &[], refused)], VendorRejectedRequest, Next::GiveUp),
        (vec![reply(400, &[], r#"{"status":"fail","message":"error message"}"#)], VendorRejectedRequest, Next::GiveUp),
        (vec![reply(429, &[], "")], VendorUnavailable, Next::Wait { after: None }),
        (vec![reply(500, &[], "Internal Server Error")], VendorUnavailable, TRY_AGAIN),
        (vec![reply(502, &html, "<html>bad gateway</html>")], VendorUnavailable, TRY_AGAIN),
        (vec![reply(200, &[], "Internal Server Error")], VendorMalformedData, SOON),
        (vec![reply(200, &html, "<html>login</html>")], VendorMalformedData, SOON),
        (vec![reply(200, &[], "")], VendorMalformedData, SOON),
        (vec![reply(200, &[], "[1]")], VendorMalformedData, SOON),
        (vec![reply(200, &[], "{}")], VendorMalformedData, SOON),
        (vec![reply(200, &[], r#"{"id":"1","status":"done"}"#)], VendorMalformedData, SOON),
        (vec![reply(200, &[], "{id: \"Chart Uid\"}")], VendorMalformedData, TRY_AGAIN),
        (vec![reply(200, &[], &CHART[..60])], VendorMalformedData, TRY_AGAIN),
        (vec![cut(200, CHART)], VendorUnavailable, TRY_AGAIN),
        (vec![reply(404, &[], ""), reply(200, &[], r#"{"message":"x"}"#)], VendorMalformedData, SOON),
        (vec![Reply::Bytes(Vec::new())], VendorUnavailable, TRY_AGAIN),
    ] {
        let server = Scripted::start(answers).await;
        let error = poll(&server, &chart()).await.unwrap_err();
        assert_eq!((error.code, error.next), (code, next), "{}", error.message);
        assert!(!error.message.contains("token-of-test") && !error.message.contains("<html"), "{}", error.message);
    }
    let both = vec![reply(401, &[], r#"{"message":"Unauthorized","errors":[]}"#), reply(401, &[], "")];
    let server = Scripted::start(both).await;
    assert_eq!(poll(&server, &chart()).await.unwrap_err().code, VendorCredentialsRejected);
}

#[tokio::test]
async fn exchanges_say_what_was_made_of_them() {
    let server = Scripted::start(vec![reply(404, &[], ""), reply(200, &[], CHART)]).await;
    let exchanges = Exchanges::default();
    vendor(server.url.as_str()).poll(&chart(), &part(PART), &exchanges).await.unwrap();
    let decisions: Vec<_> = exchanges.take().into_iter().map(|exchange| exchange.decision).collect();
    assert_eq!(
        decisions,
        ["not at the exporter; asking where answers come at once", "the result came with the answer"]
    );
}
