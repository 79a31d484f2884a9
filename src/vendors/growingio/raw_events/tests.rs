use bytes::Bytes;
use reqwest::{StatusCode, header::HeaderMap};
use serde_json::{Value, json};

use super::*;
use crate::{
    exports::{
        problem::Code,
        request::{Dataset, Output},
    },
    vendors::{
        Next,
        growingio::tests::api,
        http::Answer,
        scripted::{Scripted, part, reply},
    },
};

fn request(parameters: &Value) -> ExportRequest {
    ExportRequest::parse(Dataset::RawEvents, parameters, Output::default()).unwrap()
}

fn planned(settings: &Value, parameters: &Value, now: &str) -> Result<Plan, Vec<FieldError>> {
    let api = api("https://www.growingio.com", settings, &[("token", "t")]);
    let request = request(parameters);
    let Parameters::RawEvents(wanted) = &request.parameters else { panic!("other parameters") };
    plan(&api, &request, wanted, now.parse().unwrap())
}

fn window(from: &str, to: &str) -> Value {
    json!({"window": {"from": from, "to": to}})
}

const NOW: &str = "2018-07-02T10:30:00+08:00";

fn parts_of(plan: &Plan) -> &[String] {
    let Work::Parts(parts) = &plan.work else { panic!("a job") };
    parts
}

#[test]
fn a_window_is_cut_into_beijing_hours_of_all_types() {
    let plan = planned(&json!({}), &window("2018-06-30T15:00:00Z", "2018-06-30T17:00:00Z"), NOW).unwrap();
    assert_eq!(parts_of(&plan), ["hour:2018063023", "hour:2018070100"]);
    let paths: Vec<_> = plan.calls.iter().map(|call| (call.method, call.path.as_str())).collect();
    assert_eq!(
        paths,
        [
            ("GET", "/v2/insights/hour/2a1b4018cd954ec2bcc69da5138bdb96/2018063023.json"),
            ("GET", "/v2/insights/hour/2a1b4018cd954ec2bcc69da5138bdb96/2018070100.json"),
        ]
    );
    assert_eq!(plan.warnings, Vec::<String>::new());
}

#[test]
fn named_types_are_asked_for_each_on_its_own() {
    let mut parameters = window("2018-07-01T00:00:00+08:00", "2018-07-02T00:00:00+08:00");
    parameters["granularity"] = "day".into();
    parameters["event_types"] = json!(["page", "custom_event"]);
    let plan = planned(&json!({}), &parameters, NOW).unwrap();
    assert_eq!(parts_of(&plan), ["day:page:20180701", "day:custom_event:20180701"]);
    assert_eq!(plan.calls[0].path, "/v2/insights/day/page/2a1b4018cd954ec2bcc69da5138bdb96/20180701.json");
    for name in parts_of(&plan) {
        assert_eq!(Part::parse(name).unwrap().name(), *name);
    }
    let v1 = json!({"raw_data_version": "v1"});
    let plan = planned(&v1, &parameters, NOW).unwrap();
    assert_eq!(parts_of(&plan), ["day:20180701"]);
    assert_eq!(plan.calls[0].path, "/insights/2a1b4018cd954ec2bcc69da5138bdb96/20180701.json");
    parameters["event_types"] = json!(["page", "pvar"]);
    assert_eq!(planned(&v1, &parameters, NOW).unwrap_err()[0].pointer, "/parameters/event_types/1");
}

#[test]
fn what_cannot_be_had_is_refused_at_once() {
    let pointers = |parameters: &Value| {
        let errors = planned(&json!({}), parameters, NOW).unwrap_err();
        errors.into_iter().map(|error| error.pointer).collect::<Vec<_>>()
    };
    let from = "/parameters/window/from";
    assert_eq!(pointers(&window("2018-06-16T15:59:59Z", "2018-06-17T16:00:00Z")), [from]);
    assert!(planned(&json!({}), &window("2018-06-16T16:00:00Z", "2018-06-16T17:00:00Z"), NOW).is_ok());
    let to = "/parameters/window/to";
    assert_eq!(pointers(&window("2018-07-02T00:00:00+08:00", "2018-07-02T11:00:00+08:00")), [to]);
    let mut unknown = window("2018-06-01T00:00:00Z", "2018-07-03T00:00:00Z");
    unknown["event_types"] = json!(["page", "pages"]);
    assert_eq!(pointers(&unknown), [from, to, "/parameters/event_types/1"]);
}

#[test]
fn a_window_between_borders_is_warned_of() {
    let warnings = |parameters: &Value| planned(&json!({}), parameters, NOW).unwrap().warnings;
    let across = warnings(&window("2018-07-01T00:30:00Z", "2018-07-01T01:00:00Z"));
    assert!(across.len() == 1 && across[0].contains("left out") && across[0].contains("Clicks"), "{across:?}");
    let mut typed = window("2018-07-01T00:30:00Z", "2018-07-01T01:00:00Z");
    typed["event_types"] = json!(["page"]);
    assert!(!warnings(&typed)[0].contains("Clicks"));
    let open = warnings(&window("2018-07-02T10:00:00+08:00", "2018-07-02T10:30:00+08:00"));
    assert!(open.len() == 2 && open[1].contains("2018-07-02T03:40:00Z"), "{open:?}");
}

#[test]
fn only_borders_that_cut_a_slice_are_kept_by_receipt() {
    let api = api("https://www.growingio.com", &json!({}), &[("token", "t")]);
    let kept = |from: &str, to: &str| {
        let records = records(&api, &request(&window(from, to)));
        let mut member = records.member("page");
        let mut kept = Vec::new();
        for row in [["page", "sendTime"], ["a", "1530374399999"], ["b", "1530374400000"], ["c", "1530376200000"]] {
            let row: crate::exports::records::OwnCells = row.iter().collect();
            member
                .unified(crate::exports::records::Record::Cells(row.cells()), &mut |row| {
                    let mut line = Vec::new();
                    row.write_json(&crate::exports::fields::Selection::everything(), &mut line).unwrap();
                    let row: Value = serde_json::from_slice(&line).unwrap();
                    kept.push(row["properties"]["page"].as_str().unwrap().to_owned());
                    Ok(())
                })
                .unwrap();
        }
        kept.concat()
    };
    assert_eq!(kept("2018-06-30T16:00:00Z", "2018-06-30T17:00:00Z"), "abc");
    assert_eq!(kept("2018-06-30T16:00:00Z", "2018-06-30T16:30:00Z"), "ab");
    assert_eq!(kept("2018-06-30T15:59:59.9995Z", "2018-06-30T17:00:00Z"), "bc");
}

fn asked(name: &str, body: &str, now: &str) -> Result<Progress, VendorError> {
    let answer = Answer { status: StatusCode::OK, headers: HeaderMap::new(), body: Bytes::from(body.to_owned()) };
    answer::progress(&answer, Part::parse(name).unwrap(), now.parse().unwrap())
}

fn tags(progress: Result<Progress, VendorError>) -> Vec<String> {
    let Progress::Ready(files) = progress.unwrap() else { panic!("not ready") };
    files.into_iter().map(|file| file.tag.into_owned()).collect()
}

/// Quirk 1: statuses in any case, unknown ones mean that it is going on.
#[test]
fn every_status_is_understood() {
    let hour = "hour:2018070110";
    for status in ["RUNNING", "running", "Archiving", "", " "] {
        let body = json!({"status": status, "downloadLinks": []}).to_string();
        let progress = asked(hour, &body, NOW).unwrap();
        let Progress::Preparing { warning, .. } = progress else { panic!("{status}") };
        assert_eq!(warning.is_some(), !status.eq_ignore_ascii_case("running"), "{status}");
    }
    let nothing = r#"{"status":"","downloadLinks":[],"exportType":"","dataType":"","exportDate":"","errorMsg":""}"#;
    assert!(matches!(asked(hour, nothing, NOW), Ok(Progress::Preparing { warning: Some(_), .. })));
    assert!(matches!(asked(hour, "{}", NOW), Ok(Progress::Preparing { warning: Some(_), .. })));
    assert!(matches!(asked(hour, r#"{"status":"finished","downloadLinks":[]}"#, NOW), Ok(Progress::Ready(_))));
    for odd in ["<html>", "[]", "", "\"FINISHED\""] {
        let error = asked(hour, odd, NOW).unwrap_err();
        assert_eq!(error.code, Code::VendorMalformedData, "{odd}");
    }
}

/// Quirk 2: the links' name and shape depend on version and form.
#[test]
fn links_are_found_in_every_shape() {
    let links = json!(["https://files.test/1?sign=a", "https://files.test/2?sign=b"]);
    let of = |name: &str, body: &Value| tags(asked(name, &body.to_string(), NOW));
    assert_eq!(of("hour:page:2018070110", &json!({"status": "FINISHED", "downloadLinks": links})), ["page", "page"]);
    let all = json!({"visit": links, "page": [], "action": null, "heatmap": links, "action_tag": links});
    let expected = ["visit", "visit", "action_tag", "action_tag", "heatmap", "heatmap"];
    assert_eq!(of("hour:2018070110", &json!({"status": "FINISHED", "downloadLinks": all})), expected);
    let turned = json!({"heatmap": links, "action_tag": links, "visit": links});
    assert_eq!(of("hour:2018070110", &json!({"status": "FINISHED", "downloadLinks": turned})), expected);
    assert_eq!(of("hour:visit:2018070110", &json!({"status": "FINISHED", "downloadLinks": all})), ["visit", "visit"]);
    assert_eq!(of("hour:2018070110", &json!({"status": "FINISHED", "downlinks": links})), ["untold", "untold"]);
    assert_eq!(of("hour:page:2018070110", &json!({"status": "FINISHED", "downloadLinks": []})), Vec::<String>::new());
    assert_eq!(of("hour:page:2018070110", &json!({"status": "FINISHED", "downloadLinks": null})), Vec::<String>::new());
    for odd in [json!({"status": "FINISHED"}), json!({"status": "FINISHED", "downloadLinks": [1]})] {
        assert_eq!(
            asked("hour:2018070110", &odd.to_string(), NOW).unwrap_err().next,
            Next::TryAgain { after: None, at_most: Some(5) }
        );
    }
}

/// Quirk 23: what is young may still come; what is old, or failed again and again, will not.
#[test]
fn only_young_slices_that_do_not_exist_may_still_come() {
    let missing = r#"{"status":"NOT_EXISTS","downloadLinks":[]}"#;
    let young =
        |name: &str, now: &str| matches!(asked(name, missing, now), Ok(Progress::Preparing { warning: None, .. }));
    assert!(young("hour:2018070209", NOW));
    // It ended at 08:00 and was due at 08:40.
    assert!(young("hour:2018070207", NOW));
    assert!(young("day:20180701", "2018-07-02T11:59:00+08:00"));
    for (name, now) in [("hour:2018070206", NOW), ("day:20180701", "2018-07-02T12:00:00+08:00")] {
        let error = asked(name, missing, now).unwrap_err();
        assert_eq!((error.code, error.next), (Code::VendorDataNotFound, Next::GiveUp), "{name}");
    }
    let failed = r#"{"status":"ERROR","downloadLinks":[],"errorMsg":"see https://files.test/?sign=x for a@b.test"}"#;
    let error = asked("hour:2018070110", failed, NOW).unwrap_err();
    assert_eq!(error.code, Code::VendorRejectedRequest);
    assert!(matches!(error.next, Next::TryAgain { at_most: Some(5), .. }));
    assert!(error.message.contains("see [redacted] for [redacted]"), "{}", error.message);
}

/// Quirks 3, 4 and 24: the same GET again, with a long life for its links, which are shown nowhere.
#[tokio::test]
async fn the_same_call_is_made_until_links_come_that_live_long() {
    let link = "https://files.test/p/part-00000.gz?sign=s3cr3t";
    let finished = json!({"status": "FINISHED", "downloadLinks": [link]}).to_string();
    let server = Scripted::start(vec![reply(200, &[], r#"{"status":"RUNNING"}"#), reply(200, &[], &finished)]).await;
    let api = api(server.url.as_str(), &json!({}), &[("token", "t")]);
    let request = request(&window("2018-07-01T00:00:00Z", "2018-07-01T01:00:00Z"));
    let exchanges = Exchanges::default();
    let page = "hour:page:2018070108";
    let first = poll(&api, &request, page, &part(page), &exchanges).await.unwrap();
    assert!(matches!(first, Progress::Preparing { .. }));
    let Progress::Ready(files) = poll(&api, &request, page, &part(page), &exchanges).await.unwrap() else {
        panic!("not ready")
    };
    assert_eq!((files.len(), files[0].tag.as_ref()), (1, "page"));
    let asked_for = "GET /v2/insights/hour/page/2a1b4018cd954ec2bcc69da5138bdb96/2018070108.json?expire=120";
    assert_eq!(server.lines(), [asked_for, asked_for]);
    let kept = format!("{:?} {files:?}", exchanges.take());
    assert!(
        !kept.contains("s3cr3t") && kept.contains("preparing, status RUNNING") && kept.contains("files: 1"),
        "{kept}"
    );
}

#[tokio::test]
async fn a_day_may_have_thousands_of_files() {
    let link = format!("https://files.test/{}", "x".repeat(700));
    let finished = json!({"status": "FINISHED", "downloadLinks": {"page": vec![link; 3000]}}).to_string();
    assert!(finished.len() > 1024 * 1024);
    let server = Scripted::start(vec![reply(200, &[], &finished)]).await;
    let api = api(server.url.as_str(), &json!({}), &[("token", "t")]);
    let mut parameters = window("2018-07-01T00:00:00+08:00", "2018-07-02T00:00:00+08:00");
    parameters["granularity"] = "day".into();
    let name = "day:20180701";
    let answered = poll(&api, &request(&parameters), name, &part(name), &Exchanges::default()).await;
    assert_eq!(tags(answered).len(), 3000);
}
