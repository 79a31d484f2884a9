//! Lists, single users, analyses, and exports with a computation before them, against prepared answers.

use super::*;
use crate::{
    exports::{
        records::{Framing, Record},
        request::Output,
    },
    vendors::scripted::{cut, part},
};

fn with(base: &Url, more: &Value) -> Arc<dyn Vendor> {
    let mut settings = json!({"base_url": base, "project_id": "WlGk4Daj"});
    for (name, value) in more.as_object().unwrap() {
        settings[name] = value.clone();
    }
    connect(account(settings, ("token", "token-of-test"), &[("gender", "usr_gender")])).unwrap()
}

fn offline(more: &Value) -> Arc<dyn Vendor> {
    with(&Url::parse("https://cdp.test").unwrap(), more)
}

fn request(dataset: Dataset, parameters: &Value) -> ExportRequest {
    ExportRequest::parse(dataset, parameters, Output::default()).unwrap()
}

fn raw(request: ExportRequest) -> ExportRequest {
    ExportRequest { output: Output { format: Format::Raw, ..Output::default() }, ..request }
}

fn pointers(cdp: &Arc<dyn Vendor>, request: &ExportRequest) -> Vec<String> {
    cdp.plan(request).unwrap_err().into_iter().map(|error| error.pointer).collect()
}

/// Polls a part and reads all of it.
async fn body(cdp: &Arc<dyn Vendor>, request: &ExportRequest, name: &str) -> Result<String, VendorError> {
    let Progress::Data(data) = cdp.poll(request, &part(name), &Exchanges::default()).await? else { panic!("no data") };
    let bytes = data.download.body.try_collect::<Vec<_>>().await?.concat();
    Ok(String::from_utf8(bytes).unwrap())
}

/// The unified rows of received data, and the warnings after it.
fn rows(cdp: &Arc<dyn Vendor>, request: &ExportRequest, tag: &str, body: &str) -> (Vec<Value>, Vec<String>) {
    let records = cdp.records(request);
    let mut member = records.member(tag);
    let mut rows = Vec::new();
    let mut take = |record: Record<'_>| {
        member
            .unified(record, &mut |row| {
                let mut json = Vec::new();
                row.write_json(&request.parameters.selection(), &mut json).unwrap();
                rows.push(serde_json::from_slice(&json).unwrap());
                Ok(())
            })
            .unwrap();
    };
    match records.framing(tag) {
        Framing::Lines => body.lines().for_each(|line| take(Record::Line(line.as_bytes()))),
        Framing::Json { records: path } => {
            let documents = serde_json::Deserializer::from_str(body).into_iter::<Value>();
            let documents: Vec<_> = documents.map(Result::unwrap).collect();
            for head in &documents {
                for element in head[path[0]].as_array().unwrap() {
                    take(Record::Element { head, json: &element.to_string() });
                }
            }
        }
        Framing::Delimited(_) => panic!("no csv here"),
    }
    drop(member);
    (rows, records.warnings())
}

fn tag_item(key: &str, stage: &str, detected_at: &str) -> Value {
    json!({
        "id": format!("Wl-{key}"), "name": format!("名 {key}"), "key": key, "type": "SQL",
        "valueType": {"type": "STRING", "isArray": false}, "description": "",
        "detector": {"stage": stage, "detectedAt": detected_at}, "creator": "管理员",
        "createdAt": "2026-01-01T00:00:00.123Z", "updatedAt": "2026-01-01T09:00:00.456+08:00",
    })
}

/// Counts are those of the page, and printed as `1000.0`.
fn page(items: &[Value], has_next: bool) -> String {
    let count = items.len();
    let values = json!(items);
    format!(
        r#"{{"offset":0.0,"limit":1000.0,"totalCount":{count}.0,"hasNextPage":{has_next},"hasPreviousPage":false,"values":{values}}}"#
    )
}

const OLD: &str = "2026-03-01T02:00:00.417Z";
const NEW: &str = "2026-03-02T02:00:00.417Z";

/// Quirk 9: the list is followed by its flag, whatever its counts are and however they are printed.
#[tokio::test]
async fn a_key_is_looked_for_on_every_page() {
    let first = page(&[tag_item("tag_a", "FINISH", OLD), tag_item("tag_b", "FINISH", OLD)], true);
    let last = page(&[tag_item("tag_rfm", "FINISH", OLD)], false);
    let server = Scripted::start(vec![
        reply(200, &[], &first),
        reply(200, &[], &last),
        reply(200, &[], &first),
        reply(200, &[], &last),
    ])
    .await;
    let cdp = cdp(&server.url, Some("VKwkPmqX"));
    cdp.verify(&tag("tag_rfm"), &Exchanges::default()).await.unwrap();
    let error = cdp.verify(&tag("tag_none"), &Exchanges::default()).await.unwrap_err();
    assert_eq!((error.code, error.next), (Code::VendorDataNotFound, Next::GiveUp));
    let asked = "GET /v1/api/projects/WlGk4Daj/spaces/VKwkPmqX/user_tags?limit=1000&offset=";
    assert_eq!(server.lines()[..2], [format!("{asked}0"), format!("{asked}2")]);
}

/// Quirk 27: a list may be plain text or a proxy's page; that says nothing about the key.
#[tokio::test]
async fn a_list_that_cannot_be_read_hinders_nothing_but_a_rejected_token_does() {
    for (status, body, expected) in [
        (403, "", None),
        (500, "Internal Server Error", None),
        (404, "", None),
        (200, "<html>", None),
        (200, "Internal Server Error", None),
        (401, "", Some((Code::VendorCredentialsRejected, Next::GiveUp))),
        (429, "", Some((Code::VendorUnavailable, Next::Wait { after: None }))),
    ] {
        let server = Scripted::start(vec![reply(status, &[], body)]).await;
        let verified = cdp(&server.url, None).verify(&tag("tag_rfm"), &Exchanges::default()).await;
        assert_eq!(verified.err().map(|error| (error.code, error.next)), expected, "{status} {body}");
    }
}

/// Quirk 23: the plain 500 of an unknown key is tried once more, that of an analysis twice, and neither for ever.
#[tokio::test]
async fn a_plain_500_on_a_key_is_repeated_once_or_twice() {
    let report = request(Dataset::Report, &json!({"report": {"kind": "funnel", "id": "J1GlMVDj"}}));
    let server = Scripted::start(vec![
        reply(500, &[], "Internal Server Error"),
        reply(500, &[], "Internal Server Error"),
        reply(500, &[], "Internal Server Error"),
    ])
    .await;
    let cdp = cdp(&server.url, None);
    let tries = |tries| Next::TryAgain { after: None, at_most: Some(tries) };
    let submitted = cdp.submit(&tag("tag_none"), None, false, &Exchanges::default()).await.unwrap_err();
    assert_eq!((submitted.code, submitted.next), (Code::VendorRejectedRequest, tries(2)));
    let read = body(&cdp, &report, "result").await.unwrap_err();
    assert_eq!((read.code, read.next), (Code::VendorRejectedRequest, tries(3)));
    // A list is there whatever is in it, so this is the server's fault.
    let list = request(Dataset::Audiences, &json!({"kind": "tag"}));
    assert_eq!(body(&cdp, &list, "tag").await.unwrap_err().next, TRY_AGAIN);
}

fn refreshed() -> ExportRequest {
    let parameters = json!({"audience": {"kind": "tag", "id": "tag_rfm"}, "fields": ["user_id"], "refresh": true});
    request(Dataset::AudienceMembers, &parameters)
}

fn list_of(stage: &str, detected_at: &str) -> Reply {
    reply(200, &[], &page(&[tag_item("tag_rfm", stage, detected_at)], false))
}

#[tokio::test]
async fn a_refreshed_audience_is_exported_after_a_newer_computation() {
    let server = Scripted::start(vec![
        list_of("FINISH", OLD),
        reply(200, &[], r#"{"value":true,"message":"触发计算成功"}"#),
        list_of("FINISH", OLD),
        list_of("RUNNING", OLD),
        list_of("FINISH", NEW),
        reply(200, &[], r#"{"id":"kqQeWeGr"}"#),
        reply(200, &[], r#"{"stage":"FINISH","uris":["%2Fa.json"]}"#),
    ])
    .await;
    let (cdp, request, exchanges) = (cdp(&server.url, Some("VKwkPmqX")), refreshed(), Exchanges::default());
    let paths: Vec<_> = cdp.plan(&request).unwrap().calls.into_iter().map(|call| call.path).collect();
    let submitted = cdp.submit(&request, None, false, &exchanges).await.unwrap();
    assert_eq!(submitted.reference, None);
    for _ in 0..2 {
        let progress = cdp.poll(&request, &job(&submitted.ticket, false), &exchanges).await.unwrap();
        assert!(matches!(progress, Progress::Preparing { warning: None, .. }), "{progress:?}");
    }
    let progress = cdp.poll(&request, &job(&submitted.ticket, false), &exchanges).await.unwrap();
    let Progress::NextStage(next) = progress else { panic!("{progress:?}") };
    assert_eq!(next.reference.as_deref(), Some("kqQeWeGr"));
    assert!(matches!(cdp.poll(&request, &job(&next.ticket, false), &exchanges).await, Ok(Progress::Ready(_))));
    let lines = server.lines();
    assert_eq!([&lines[1], &lines[5]], [&format!("POST {}", paths[0]), &format!("POST {}", paths[1])]);
    assert_eq!(paths[0], "/v1/api/projects/WlGk4Daj/user_tags/tag_rfm/computes");
    assert_eq!(server.seen()[1].body, "");
}

#[tokio::test]
async fn a_computation_under_way_is_waited_for() {
    let refused = || reply(200, &[], r#"{"value":false,"message":"触发计算失败"}"#);
    let server = Scripted::start(vec![
        list_of("RUNNING", OLD),
        refused(),
        // It began between the two calls.
        list_of("FINISH", OLD),
        refused(),
        list_of("NONE", OLD),
        // Nothing runs.
        list_of("FINISH", OLD),
        refused(),
        list_of("FINISH", OLD),
    ])
    .await;
    let (cdp, exchanges) = (cdp(&server.url, None), Exchanges::default());
    assert!(cdp.submit(&refreshed(), None, false, &exchanges).await.is_ok());
    assert!(cdp.submit(&refreshed(), None, true, &exchanges).await.is_ok());
    let error = cdp.submit(&refreshed(), None, false, &exchanges).await.unwrap_err();
    assert_eq!(error.next, Next::TryAgain { after: None, at_most: Some(5) });
}

#[tokio::test]
async fn a_failed_computation_fails_the_export() {
    let server = Scripted::start(vec![
        list_of("FINISH", OLD),
        reply(200, &[], r#"{"value":true}"#),
        list_of("ERROR", NEW),
        list_of("FINISH", OLD),
        reply(500, &[], "Internal Server Error"),
        list_of("FINISH", OLD),
        reply(200, &[], "<html>"),
        reply(403, &[], ""),
    ])
    .await;
    let (cdp, exchanges) = (cdp(&server.url, None), Exchanges::default());
    let submitted = cdp.submit(&refreshed(), None, false, &exchanges).await.unwrap();
    let error = cdp.poll(&refreshed(), &job(&submitted.ticket, false), &exchanges).await.unwrap_err();
    assert_eq!((error.code, error.next), (Code::VendorRejectedRequest, Next::GiveUp));
    for code in [Code::VendorRejectedRequest, Code::VendorMalformedData, Code::VendorPermissionDenied] {
        assert_eq!(cdp.submit(&refreshed(), None, false, &exchanges).await.unwrap_err().code, code);
    }
}

#[tokio::test]
async fn a_list_is_read_page_by_page_and_a_shifted_entry_comes_once() {
    let one = tag_item("tag_a", "FINISH", OLD);
    let server = Scripted::start(vec![
        reply(200, &[], &page(&[one.clone(), tag_item("tag_b", "ERROR", OLD)], true)),
        reply(200, &[], &page(&[tag_item("tag_b", "ERROR", OLD), tag_item("tag_c", "NONE", OLD)], true)),
        reply(200, &[], &page(&[], false)),
    ])
    .await;
    let (cdp, exchanges) = (cdp(&server.url, None), Exchanges::default());
    let request = request(Dataset::Audiences, &json!({"kind": "tag"}));
    let Progress::Data(data) = cdp.poll(&request, &part("tag"), &exchanges).await.unwrap() else { panic!("no data") };
    assert_eq!((server.lines().len(), &*data.tag, &*data.extension), (1, "tag", "json"), "one page at a time");
    let body = data.download.body.try_collect::<Vec<_>>().await.unwrap().concat();
    let list = "GET /v1/api/projects/WlGk4Daj/user_tags?limit=1000&offset=";
    assert_eq!(server.lines(), [format!("{list}0"), format!("{list}2"), format!("{list}4")]);
    let (rows, _) = rows(&cdp, &request, "tag", std::str::from_utf8(&body).unwrap());
    let told: Vec<_> = rows.iter().map(|row| (&row["id"], &row["status"])).collect();
    assert_eq!(
        told,
        [(&json!("tag_a"), &json!("FINISH")), (&json!("tag_b"), &json!("ERROR")), (&json!("tag_c"), &json!("NONE"))]
    );
    assert_eq!(
        rows[0],
        json!({
            "id": "tag_a", "kind": "tag", "name": "名 tag_a", "description": "", "size": null, "status": "FINISH",
            "created_at": "2026-01-01T00:00:00.123Z", "updated_at": "2026-01-01T01:00:00.456Z",
            "vendor": {
                "id": one["id"], "type": "SQL", "valueType": one["valueType"], "detector": one["detector"],
                "creator": "管理员",
            },
        })
    );
}

#[tokio::test]
async fn a_raw_list_is_the_vendors_bodies_one_after_the_other() {
    let pages =
        ["{\n \"values\": [{\"key\": \"a\"}],\n \"hasNextPage\": true}", r#"{"hasNextPage":false,"values":[]}"#];
    let server = Scripted::start(pages.iter().map(|page| reply(200, &[], page)).collect()).await;
    let request = raw(request(Dataset::Audiences, &json!({"kind": "segment"})));
    let body = body(&cdp(&server.url, Some("s")), &request, "segment").await.unwrap();
    assert_eq!(body, pages.join("\n"));
    assert!(server.lines()[0].starts_with("GET /v1/api/projects/WlGk4Daj/spaces/s/segment_profiles?"));
}

#[tokio::test]
async fn a_list_that_breaks_off_or_never_ends_is_no_list() {
    let whole = page(&[tag_item("tag_a", "FINISH", OLD)], true);
    for (replies, code) in [
        (vec![reply(200, &[], &whole[..whole.len() - 3])], Code::VendorMalformedData),
        (vec![cut(200, &whole)], Code::VendorUnavailable),
        (vec![reply(200, &[], &page(&[], true))], Code::VendorMalformedData),
        (vec![reply(200, &[], &whole), reply(502, &[], "<html>")], Code::VendorUnavailable),
        (vec![reply(200, &[], &whole), reply(200, &[], "<html>")], Code::VendorMalformedData),
        (vec![reply(200, &[], "[]")], Code::VendorMalformedData),
        (vec![reply(200, &[], "")], Code::VendorMalformedData),
        (vec![reply(401, &[], "")], Code::VendorCredentialsRejected),
        (vec![reply(403, &[], "")], Code::VendorPermissionDenied),
        (vec![reply(404, &[], "")], Code::VendorRejectedRequest),
        (vec![reply(429, &[], "")], Code::VendorUnavailable),
    ] {
        let server = Scripted::start(replies).await;
        let request = request(Dataset::Audiences, &json!({"kind": "tag"}));
        let error = body(&cdp(&server.url, None), &request, "tag").await.unwrap_err();
        assert_eq!(error.code, code, "{error}");
    }
}

#[test]
fn lists_and_audiences_follow_the_paths_there_are() {
    let parts = |cdp: &Arc<dyn Vendor>, parameters: &Value| match cdp
        .plan(&request(Dataset::Audiences, parameters))
        .unwrap()
        .work
    {
        Work::Parts(parts) => parts,
        Work::Job { .. } => panic!("no parts"),
    };
    let (old, new) = (offline(&json!({"path_family": "data_center"})), offline(&json!({"space_id": "s"})));
    assert_eq!(parts(&new, &json!({})), ["tag", "segment"]);
    assert_eq!(parts(&new, &json!({"kind": "segment"})), ["segment"]);
    assert_eq!(parts(&old, &json!({})), ["tag"]);
    let segments = request(Dataset::Audiences, &json!({"kind": "segment"}));
    assert_eq!(pointers(&old, &segments), ["/parameters/kind"]);
    let nobody = request(Dataset::Audiences, &json!({"kind": "global_control_group"}));
    assert_eq!(pointers(&new, &nobody), ["/parameters/kind"]);
    assert_eq!(pointers(&old, &members(&json!({"kind": "segment", "id": "x"}), &[])), ["/parameters/audience/kind"]);
    assert_eq!(pointers(&old, &refreshed()), ["/parameters/refresh"]);
    let export = old.plan(&tag("tag_rfm")).unwrap().calls.remove(0);
    assert_eq!(export.path, "/v1/api/user_tags/tag_rfm/export_jobs");
}

#[test]
fn a_csv_export_asks_for_csv() {
    let plan = offline(&json!({"file_format": "csv", "csv_header": "name"})).plan(&tag("tag_rfm")).unwrap();
    assert_eq!(
        plan.calls[0].body,
        Some(json!({
            "properties": ["id_$basic_userId", "usr_gender", "tag_rfm"], "fileFormat": "csv", "csvHeaderType": "name",
        }))
    );
}

#[tokio::test]
async fn the_catalog_goes_from_tags_to_segments_page_by_page() {
    let server = Scripted::start(vec![
        reply(200, &[], &page(&[tag_item("tag_a", "FINISH", OLD)], true)),
        reply(200, &[], &page(&[tag_item("tag_b", "FINISH", OLD)], false)),
        reply(200, &[], &page(&[tag_item("seg_a", "FINISH", OLD)], false)),
        reply(500, &[], "Internal Server Error"),
    ])
    .await;
    let (cdp, exchanges) = (cdp(&server.url, None), Exchanges::default());
    let ask = |after: Option<String>| CatalogQuery { kind: CatalogKind::Audiences, id: None, after };
    let (mut after, mut ids) = (None, Vec::new());
    loop {
        let page = cdp.catalog(&ask(after), &exchanges).await.unwrap();
        ids.extend(page.rows.into_iter().map(|row| format!("{} {}", row.kind, row.id)));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(ids, ["tag tag_a", "tag tag_b", "segment seg_a"]);
    assert_eq!(server.lines()[1], "GET /v1/api/projects/WlGk4Daj/user_tags?limit=200&offset=1");
    assert_eq!(cdp.catalog(&ask(None), &exchanges).await.unwrap_err().code, Code::VendorUnavailable);
    let odd = cdp.catalog(&ask(Some("x:1".into())), &exchanges).await.unwrap_err();
    assert_eq!(odd.code, Code::InvalidRequest);
    let dashboards = CatalogQuery { kind: CatalogKind::Dashboards, id: None, after: None };
    assert_eq!(cdp.catalog(&dashboards, &exchanges).await.unwrap_err().code, Code::NotFound);
}

fn chart(header: &Value, rows: &Value, more: &Value) -> String {
    let mut chart = json!({
        "analysisInfo": {"name": "n", "granularity": "DAY", "fetchedTime": "1646879291229"},
        "resultHeader": header,
        "resultRows": rows,
    });
    for (name, value) in more.as_object().unwrap() {
        chart[name] = value.clone();
    }
    chart.to_string()
}

fn metrics(header: &Value, result: &Value, more: &Value) -> Vec<(String, Value, Value, Value)> {
    let cdp = offline(&json!({}));
    let request = request(Dataset::Report, &json!({"report": {"kind": "chart", "id": "x"}}));
    let (rows, _) = rows(&cdp, &request, "result", &chart(header, result, more));
    let told = |row: Value| {
        let metric = row["metric"].as_str().unwrap().to_owned();
        (metric, row["time"].clone(), row["dimensions"].clone(), row["value"].clone())
    };
    rows.into_iter().map(told).collect()
}

/// Quirk 19: a day of the console begins at 16:00 UTC of the day before.
#[test]
fn times_are_read_as_beijings() {
    for (cell, expected) in [
        ("2022-02-28", json!("2022-02-27T16:00:00Z")),
        ("2022-02-08 09:30:00", json!("2022-02-08T01:30:00Z")),
        ("2022/02/08 09:30", json!("2022-02-08T01:30:00Z")),
        ("2022-02", json!("2022-01-31T16:00:00Z")),
        ("20220208", json!("2022-02-07T16:00:00Z")),
        ("2022-02-08T00:00:00Z", json!("2022-02-08T00:00:00Z")),
        ("第一周", Value::Null),
    ] {
        let rows = metrics(&json!(["目标用户", "时间", "人数"]), &json!([["全部用户", cell, "10"]]), &json!({}));
        assert_eq!((&rows[0].1, &rows[0].3), (&expected, &json!(10)), "{cell}");
        assert_eq!(rows[0].2.get("时间").is_some(), expected.is_null(), "what is no time is still told");
    }
    let by_form = metrics(&json!(["Zeit", "n"]), &json!([["2022-02-28", "1"], ["2022-03-01", "2"]]), &json!({}));
    assert_eq!((&by_form[1].1, &by_form[1].2), (&json!("2022-02-28T16:00:00Z"), &json!({})));
}

/// Quirk 26: names repeat; a row of totals has `全部` where others have their time.
#[test]
fn a_funnel_has_names_that_repeat_and_a_row_of_totals() {
    let header = json!(["时间", "总转化率", "访问", "第 1 步转化率", "访问"]);
    let rows = metrics(
        &header,
        &json!([["全部", "0.5", "10.0", "12.5%", "5.0"], ["2022-03-03", "-", "0", "0", "0"]]),
        &json!({}),
    );
    let total = json!({"时间": "全部"});
    assert_eq!(
        rows[..4],
        [
            ("总转化率".to_owned(), Value::Null, total.clone(), json!(0.5)),
            ("访问".to_owned(), Value::Null, total.clone(), json!(10.0)),
            ("第 1 步转化率".to_owned(), Value::Null, total.clone(), json!(12.5)),
            ("访问 (2)".to_owned(), Value::Null, total, json!(5.0)),
        ]
    );
    assert_eq!(rows[4], ("总转化率".to_owned(), json!("2022-03-02T16:00:00Z"), json!({}), Value::Null));
    assert_eq!(rows.len(), 8);
}

#[test]
fn a_retention_has_rows_that_get_shorter() {
    let header = json!(["时间", "留存人数", "当日", "当日留存率", "次日", "次日留存率"]);
    let rows =
        metrics(&header, &json!([["全部", "3", "3", "1.0", "1", "0.3"], ["2022-03-03", "3", "3", "1.0"]]), &json!({}));
    let names: Vec<_> = rows[5..].iter().map(|row| row.0.as_str()).collect();
    assert_eq!(names, ["留存人数", "当日", "当日留存率"]);
    assert!(rows[5..].iter().all(|row| row.1 == json!("2022-03-02T16:00:00Z")));
    let short_first = metrics(&header, &json!([["2022-03-03", "3"]]), &json!({}));
    assert_eq!(short_first.len(), 1);
}

#[test]
fn figures_are_the_last_columns_as_far_as_they_hold_numbers() {
    let range = metrics(
        &json!(["活跃天数 区间范围", "用户量", "用户量占比"]),
        &json!([["5", "7", "0.2"], ["[0.0,0.0]", "1,234", "0.0"]]),
        &json!({}),
    );
    assert_eq!(range[0], ("用户量".to_owned(), Value::Null, json!({"活跃天数 区间范围": "5"}), json!(7)));
    assert_eq!(range[2].3, Value::Null, "a figure that is no number");
    // A dimension whose cells look like numbers later, or like no figure at first.
    let city = metrics(
        &json!(["城市", "渠道", "次数", "跳出率"]),
        &json!([["-", "-", "10", "--"], ["上海", "42", "11", "0.5"]]),
        &json!({}),
    );
    assert_eq!(city.len(), 4);
    assert_eq!(city[1], ("跳出率".to_owned(), Value::Null, json!({"城市": "-", "渠道": "-"}), Value::Null));
    assert_eq!(city[3].2, json!({"城市": "上海", "渠道": "42"}));
    assert_eq!(metrics(&json!(["n"]), &json!([["10"]]), &json!({}))[0].3, json!(10));
    assert_eq!(metrics(&json!(["x"]), &json!([["many"]]), &json!({}))[0].3, Value::Null);
}

#[test]
fn the_interval_is_the_granularity() {
    let request = request(Dataset::Report, &json!({"report": {"kind": "retention", "id": "x"}}));
    for (granularity, expected) in
        [("DAY", json!("day")), ("hour", json!("hour")), ("Week", json!("week")), ("", json!(null)), ("x", json!(null))]
    {
        let more = json!({"analysisInfo": {"granularity": granularity, "conversionWindow": 1.0}});
        let body = chart(&json!(["时间", "n"]), &json!([["2022-03-03", "123456789012345678901234567890"]]), &more);
        let cdp = offline(&json!({}));
        assert_eq!(rows(&cdp, &request, "result", &body).0[0]["interval"], expected);
        let records = cdp.records(&request);
        let (head, mut out) = (serde_json::from_str::<Value>(&body).unwrap(), Vec::new());
        let row = r#"["2022-03-03","123456789012345678901234567890","x"]"#;
        records.member("result").vendor(Record::Element { head: &head, json: row }, &mut out).unwrap();
        let told = String::from_utf8(out).unwrap();
        assert_eq!(told, r#"{"时间":"2022-03-03","n":"123456789012345678901234567890","column 3":"x"}"#);
    }
}

#[tokio::test]
async fn an_event_analysis_comes_in_pages_of_the_largest_size() {
    let info = |has_next: bool, fetched: &str| {
        json!({
            "paginationInfo": {"offset": 0.0, "totalCount": 2.0, "hasNextPage": has_next},
            "analysisInfo": {"granularity": "DAY", "fetchedTime": fetched},
        })
    };
    let header = json!(["目标用户", "时间", "次数"]);
    let row = |day: &str, count: &str| json!(["全部用户", day, count]);
    let first = chart(&header, &json!([row("2022-02-01", "1"), row("2022-02-02", "2")]), &info(true, "1"));
    let last = chart(&header, &json!([row("2022-02-02", "2"), row("2022-02-03", "-")]), &info(false, "2"));
    let server = Scripted::start(vec![reply(200, &[], &first), reply(200, &[], &last)]).await;
    let cdp = cdp(&server.url, Some("VKwkPmqX"));
    let request = request(Dataset::Report, &json!({"report": {"kind": "chart", "id": "KzpN2opk"}}));
    let body = body(&cdp, &request, "result").await.unwrap();
    let path = "GET /v1/api/projects/WlGk4Daj/analysis/olap_event/KzpN2opk/chartdata?limit=50000&offset=";
    assert_eq!(server.lines(), [format!("{path}0"), format!("{path}2")]);
    let (rows, warnings) = rows(&cdp, &request, "result", &body);
    let values: Vec<_> = rows.iter().map(|row| row["value"].clone()).collect();
    assert_eq!(values, [json!(1), json!(2), Value::Null], "the row that came twice is passed over");
    assert_eq!(warnings.len(), 1, "the pages are of different computations");
}

#[tokio::test]
async fn a_retention_is_looked_for_in_the_space_and_then_in_the_project() {
    let answer = chart(&json!(["时间", "n"]), &json!([]), &json!({}));
    let server =
        Scripted::start(vec![reply(500, &[], "Internal Server Error"), reply(200, &[], &answer), reply(401, &[], "")])
            .await;
    let cdp = cdp(&server.url, Some("VKwkPmqX"));
    let request = request(Dataset::Report, &json!({"report": {"kind": "retention", "id": "wWDrYwGM"}}));
    assert_eq!(body(&cdp, &request, "result").await.unwrap(), answer);
    let path = |owner: &str| format!("GET /v1/api/projects/{owner}/analysis/retention/wWDrYwGM/chartdata");
    assert_eq!(server.lines(), [path("VKwkPmqX"), path("WlGk4Daj")]);
    let error = body(&cdp, &request, "result").await.unwrap_err();
    assert_eq!((error.code, server.lines().len()), (Code::VendorCredentialsRejected, 3), "no second try");
}

#[test]
fn a_report_comes_as_it_is_saved() {
    let window = json!({"from": "2026-01-01T00:00:00Z", "to": "2026-01-02T00:00:00Z"});
    let asked = request(
        Dataset::Report,
        &json!({
            "report": {"kind": "funnel", "id": "..", "conversion_window_days": 3, "split": "10", "statistic": "max"},
            "window": window, "interval": "day",
        }),
    );
    assert_eq!(
        pointers(&offline(&json!({})), &asked),
        [
            "/parameters/window",
            "/parameters/interval",
            "/parameters/report/conversion_window_days",
            "/parameters/report/split",
            "/parameters/report/statistic",
            "/parameters/report/id"
        ]
    );
}

fn profiles(identifiers: &Value) -> ExportRequest {
    let fields = ["user_id", "vendor_user_id", "identities", "gender", "attributes.usr_age"];
    request(Dataset::UserProfiles, &json!({"identifiers": identifiers, "fields": fields}))
}

/// Quirks 6 to 8: identities of a query are `ids_…` and lists, the id is text, and `0` is nobody.
#[tokio::test]
async fn users_are_asked_for_one_by_one_and_nobody_is_no_record() {
    let someone = "{\n  \"gioId\": \"13831\",\n  \"identifications\": {\"ids_$basic_userId\": [\"U 1\"]},\n  \
                   \"properties\": {\"usr_gender\": \"女\", \"usr_age\": \"28\", \"usr_x\": \"1\"}\n}";
    let nobody = r#"{"gioId":"0","identifications":{},"properties":{}}"#;
    let answers = || vec![reply(200, &[], someone), reply(200, &[], nobody)];
    let request = profiles(&json!([{"type": "user_id", "value": "U 1"}, {"type": "device_id", "value": "a/b"}]));
    let server = Scripted::start(answers().into_iter().chain(answers()).collect()).await;
    let cdp = cdp(&server.url, Some("VKwkPmqX"));
    let plan = cdp.plan(&request).unwrap();
    assert_eq!(plan.work, Work::Parts(vec!["0..2".into()]));
    let lines = body(&cdp, &request, "0..2").await.unwrap();
    let scope = "GET /v1/api/projects/WlGk4Daj/spaces/VKwkPmqX/users";
    assert_eq!(server.lines(), [format!("{scope}/%24basic_userId/U%201"), format!("{scope}/%24anonymous_user/a%2Fb")]);
    let (rows, warnings) = rows(&cdp, &request, "0..2", &lines);
    assert_eq!(
        rows,
        [json!({
            "user_id": "U 1", "vendor_user_id": "13831",
            "identities": {"gio_id": ["13831"], "id_$basic_userId": ["U 1"]},
            "gender": "女", "attributes": {"usr_age": "28"},
        })]
    );
    assert!(warnings.len() == 1 && warnings[0].contains(" 1 of the identifiers"), "{warnings:?}");
    let untouched = body(&cdp, &raw(request), "0..2").await.unwrap();
    assert_eq!(untouched, format!("{someone}\n{nobody}\n"));
}

#[tokio::test]
async fn an_answer_that_is_no_user_is_an_error_wherever_it_comes() {
    let nobody = r#"{"gioId":"0"}"#;
    for (replies, code) in [
        (vec![reply(200, &[], nobody), reply(500, &[], "Internal Server Error")], Code::VendorUnavailable),
        (vec![reply(200, &[], "<html>")], Code::VendorMalformedData),
        (vec![reply(200, &[], "{\"gioId\":\"1")], Code::VendorMalformedData),
        (vec![reply(200, &[], "{}")], Code::VendorMalformedData),
        (vec![reply(403, &[], "")], Code::VendorPermissionDenied),
    ] {
        let server = Scripted::start(replies).await;
        let users = json!([{"type": "user_id", "value": "a"}, {"type": "user_id", "value": "b"}]);
        let error = body(&cdp(&server.url, None), &profiles(&users), "0..2").await.unwrap_err();
        assert_eq!(error.code, code, "{error}");
    }
}

#[test]
fn identifiers_that_no_query_takes_are_pointed_at() {
    let asked = profiles(&json!([
        {"type": "user_id", "value": "a"},
        {"type": "vendor_user_id", "value": "a"},
        {"type": "alias", "value": "a", "label": "b"},
        {"type": "email", "value": "a@example.test"},
        {"type": "device_id", "value": ".."},
    ]));
    assert_eq!(
        pointers(&offline(&json!({})), &asked),
        [
            "/parameters/identifiers/1/type",
            "/parameters/identifiers/2/type",
            "/parameters/identifiers/3/type",
            "/parameters/identifiers/4/value"
        ]
    );
    let settings = json!({"base_url": "https://cdp.test", "project_id": "p"});
    let mapped = connect(account(settings, ("token", "t"), &[("email", "id_mail"), ("user_id", "usr_x")])).unwrap();
    let by_mail = profiles(&json!([{"type": "email", "value": "a@example.test"}]));
    assert_eq!(mapped.plan(&by_mail).unwrap().calls[0].path, "/v1/api/projects/p/users/mail/a%40example.test");
    let by_attribute = profiles(&json!([{"type": "user_id", "value": "a"}]));
    assert_eq!(pointers(&mapped, &by_attribute), ["/parameters/identifiers/0/type"]);
}
