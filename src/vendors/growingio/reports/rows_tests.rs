use serde_json::json;

use super::*;
use crate::exports::fields::Selection;

/// Reads an answer as it would be cut.
fn read(form: Form, answer: &Value) -> Result<Vec<Value>, BadRecord> {
    let rows = ReportRows::new(None);
    read_with(&rows, form, answer)
}

fn read_with(rows: &ReportRows, form: Form, answer: &Value) -> Result<Vec<Value>, BadRecord> {
    let mut member = rows.member(form.tag());
    let mut found = Vec::new();
    for json in elements(answer) {
        let record = Record::Element { head: answer, json: &json };
        member.unified(record, &mut |row| {
            let mut out = Vec::new();
            row.write_json(&Selection::everything(), &mut out).unwrap();
            found.push(serde_json::from_slice(&out).unwrap());
            Ok(())
        })?;
    }
    Ok(found)
}

fn vendor(form: Form, answer: &Value) -> Vec<String> {
    let rows = ReportRows::new(None);
    let mut member = rows.member(form.tag());
    let read = |json: &String| {
        let mut out = Vec::new();
        member.vendor(Record::Element { head: answer, json }, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    };
    elements(answer).iter().map(read).collect()
}

fn elements(answer: &Value) -> Vec<String> {
    answer["data"].as_array().unwrap().iter().map(ToString::to_string).collect()
}

fn chart(meta: &[(&str, &str)], data: &Value) -> Value {
    let meta: Vec<_> = meta.iter().map(|(name, role)| json!({"name": name, *role: true})).collect();
    json!({"id": "c", "name": "C", "startTime": T, "endTime": T + DAY - 1, "interval": DAY, "meta": meta, "data": data})
}

fn row(metric: &str, time: Option<&str>, dimensions: &Value, value: &Value) -> Value {
    let interval = time.map(|_| "day");
    json!({"metric": metric, "time": time, "interval": interval, "dimensions": dimensions, "value": value})
}

const DAY: i64 = 86_400_000;
/// Midnight in Beijing.
const T: i64 = 1_462_118_400_000;
const T_UTC: &str = "2016-05-01T16:00:00Z";

/// Line, vertical bar, horizontal bar, table and big number of the first API.
#[test]
fn every_layout_of_the_first_api_is_read() {
    let line = chart(&[("浏览量", "metric"), ("访问量", "metric")], &json!([[T, 1, 2.50]]));
    assert_eq!(
        read(Form::First, &line).unwrap(),
        [row("浏览量", Some(T_UTC), &json!({}), &json!(1)), row("访问量", Some(T_UTC), &json!({}), &json!(2.5))]
    );
    let vertical = chart(&[("时间", "dimension"), ("访问量", "metric")], &json!([[T, 7]]));
    assert_eq!(read(Form::First, &vertical).unwrap(), [row("访问量", Some(T_UTC), &json!({}), &json!(7))]);
    let horizontal = chart(&[("城市", "dimension"), ("访问量", "metric")], &json!([["北京", 7]]));
    assert_eq!(read(Form::First, &horizontal).unwrap(), [row("访问量", None, &json!({"城市": "北京"}), &json!(7))]);
    let table =
        chart(&[("城市", "dimension"), ("浏览器", "dimension"), ("M", "metric")], &json!([["北京", "Chrome", 7]]));
    let dimensions = json!({"城市": "北京", "浏览器": "Chrome"});
    assert_eq!(read(Form::First, &table).unwrap(), [row("M", None, &dimensions, &json!(7))]);
    let number = chart(&[("M", "metric")], &json!([[7]]));
    assert_eq!(read(Form::First, &number).unwrap(), [row("M", None, &json!({}), &json!(7))]);
}

/// The same of `/v2` and the exporter, and bubbles, which are only there.
#[test]
fn every_layout_of_the_later_apis_is_read() {
    let all = json!({"目标用户": "全部"});
    let line = chart(&[("目标用户", "dimension"), ("M", "metric")], &json!([["全部", T, 7]]));
    assert_eq!(read(Form::Later, &line).unwrap(), [row("M", Some(T_UTC), &all, &json!(7))]);
    let listed = chart(&[("目标用户", "dimension"), ("时间", "dimension"), ("M", "metric")], &json!([["全部", T, 7]]));
    assert_eq!(read(Form::Later, &listed).unwrap(), [row("M", Some(T_UTC), &all, &json!(7))]);
    let bars =
        chart(&[("目标用户", "dimension"), ("城市", "dimension"), ("M", "metric")], &json!([["全部", "北京", 7]]));
    let dimensions = json!({"目标用户": "全部", "城市": "北京"});
    assert_eq!(read(Form::Later, &bars).unwrap(), [row("M", None, &dimensions, &json!(7))]);
    let meta =
        [("目标用户", "dimension"), ("城市", "dimension"), ("浏览器", "dimension"), ("A", "metric"), ("B", "metric")];
    let bubble = chart(&meta, &json!([["全部", "北京", "Chrome", 7, 8]]));
    let dimensions = json!({"目标用户": "全部", "城市": "北京", "浏览器": "Chrome"});
    assert_eq!(
        read(Form::Later, &bubble).unwrap(),
        [row("A", None, &dimensions, &json!(7)), row("B", None, &dimensions, &json!(8))]
    );
    let mut number = chart(&[("目标用户", "dimension"), ("M", "metric")], &json!([["全部", T, 27557]]));
    number["aggregator"] = json!({"values": [27557, 25409]});
    assert_eq!(read(Form::Later, &number).unwrap(), [row("M", Some(T_UTC), &all, &json!(27557))]);
}

#[test]
fn rows_longer_than_meta_carry_what_meta_leaves_out() {
    let metric_only = |data: &Value| chart(&[("M", "metric")], data);
    assert_eq!(
        read(Form::Later, &metric_only(&json!([["全部", T, 7]]))).unwrap(),
        [row("M", Some(T_UTC), &json!({"目标用户": "全部"}), &json!(7))]
    );
    assert_eq!(
        read(Form::Later, &metric_only(&json!([["全部", 7]]))).unwrap(),
        [row("M", None, &json!({"目标用户": "全部"}), &json!(7))]
    );
    assert_eq!(
        read(Form::Later, &metric_only(&json!([[T, 7]]))).unwrap(),
        [row("M", Some(T_UTC), &json!({}), &json!(7))]
    );
    for (form, data) in [(Form::First, json!([[T, 1, 7]])), (Form::Later, json!([["a", "b", "c", 7]]))] {
        assert!(read(form, &metric_only(&data)).unwrap_err().0.contains("more cells"), "{data}");
    }
    let told = chart(&[("时间", "dimension"), ("M", "metric")], &json!([[T, 1, 7]]));
    assert!(read(Form::First, &told).is_err() && read(Form::Later, &chart(&[], &json!([[1]]))).is_ok());
}

#[test]
fn a_funnel_has_pairs_of_count_and_rate() {
    let meta = [
        ("目标用户", "dimension"),
        ("时间", "dimension"),
        ("总转化率", "metric"),
        ("第一步人数", "metric"),
        ("第一步转化率", "metric"),
    ];
    let funnel = chart(&meta, &json!([["全部", T, 0.5, 120, 1.0], ["全部", "合计", 0.25, 120, "-"]]));
    let (day, total) = (json!({"目标用户": "全部"}), json!({"目标用户": "全部", "时间": "合计"}));
    assert_eq!(
        read(Form::Later, &funnel).unwrap(),
        [
            row("总转化率", Some(T_UTC), &day, &json!(0.5)),
            row("第一步人数", Some(T_UTC), &day, &json!(120)),
            row("第一步转化率", Some(T_UTC), &day, &json!(1.0)),
            row("总转化率", None, &total, &json!(0.25)),
            row("第一步人数", None, &total, &json!(120)),
            row("第一步转化率", None, &total, &Value::Null),
        ]
    );
}

#[test]
fn a_retention_names_its_days_and_may_end_early() {
    let meta = [
        ("目标用户", "dimension"),
        ("对比值", "dimension"),
        ("用户行为", "dimension"),
        ("时间", "dimension"),
        ("留存人数", "metric"),
        ("当日", "metric"),
        ("次日", "metric"),
    ];
    let mut retention = chart(&meta, &json!([["新", "全部", "任意", T, 10, 1, 2], ["新", "全部", "任意", T + DAY, 5]]));
    retention["range"] = json!("week");
    let rows = read(Form::Later, &retention).unwrap();
    let shown: Vec<_> = rows.iter().map(|row| (row["metric"].as_str().unwrap(), row["value"].clone())).collect();
    assert_eq!(
        shown,
        [
            ("留存人数", json!(10)),
            ("当日", json!(1)),
            ("次日", json!(2)),
            ("留存人数", json!(5)),
            ("当日", Value::Null),
            ("次日", Value::Null)
        ]
    );
    assert!(rows.iter().all(|row| row["interval"] == "week"));
    assert_eq!(rows[3]["dimensions"], json!({"目标用户": "新", "对比值": "全部", "用户行为": "任意"}));
    assert!(vendor(Form::Later, &retention)[1].ends_with(r#""留存人数":5,"当日":null,"次日":null}"#));
}

/// Quirk 26.
#[test]
fn columns_with_one_name_stay_apart() {
    let meta = [("目标用户", "dimension"), ("访问", "metric"), ("访问", "metric")];
    let twice = chart(&meta, &json!([["全部", T, 1, 2]]));
    let rows = read(Form::Later, &twice).unwrap();
    assert_eq!((&rows[0]["metric"], &rows[1]["metric"]), (&json!("访问"), &json!("访问 (2)")));
    assert_eq!(vendor(Form::Later, &twice), [format!(r#"{{"目标用户":"全部","时间":{T},"访问":1,"访问 (2)":2}}"#)]);
}

#[test]
fn figures_keep_their_digits_and_words_are_none() {
    let meta = json!([{"name": "M", "metric": true}]);
    let figure = |cell: &str| {
        let rows = ReportRows::new(None);
        let (head, json) = (json!({"meta": meta}), format!("[{cell}]"));
        let mut out = Vec::new();
        let mut member = rows.member("v1");
        let record = Record::Element { head: &head, json: &json };
        member
            .unified(record, &mut |row| {
                row.write_json(&Selection::everything(), &mut out).unwrap();
                Ok(())
            })
            .unwrap();
        String::from_utf8(out).unwrap().rsplit_once(':').unwrap().1.trim_end_matches('}').to_owned()
    };
    for (cell, value) in [
        ("12345678901234567890123", "12345678901234567890123"),
        ("1000.0", "1000.0"),
        (r#""0.25""#, "0.25"),
        (r#""-""#, "null"),
        (r#""12%""#, "null"),
        (r#""1,234""#, "null"),
        (r#""""#, "null"),
        ("null", "null"),
        ("true", "null"),
    ] {
        assert_eq!(figure(cell), value, "{cell}");
    }
}

/// Quirk 19: plain dates are Beijing's.
#[test]
fn times_are_milliseconds_or_dates_of_beijing() {
    let raw = |json: &str| read_time(serde_json::from_str(json).unwrap());
    for (cell, time) in [
        ("1462118400000", Some(T_UTC)),
        ("1462118400000.0", Some(T_UTC)),
        (r#""1462118400000""#, Some(T_UTC)),
        (r#""2016-05-02""#, Some(T_UTC)),
        (r#""2016-05-02 08:30:00""#, Some("2016-05-02T00:30:00Z")),
        (r#""2016-05-02T00:00:00+02:00""#, Some("2016-05-01T22:00:00Z")),
        (r#""合计""#, None),
        ("17", None),
        ("null", None),
    ] {
        assert_eq!(raw(cell).as_deref(), time, "{cell}");
    }
}

#[test]
fn a_dimension_of_milliseconds_is_the_time() {
    let unnamed = chart(&[("目标用户", "dimension"), ("日期", "dimension"), ("M", "metric")], &json!([["全部", T, T]]));
    assert_eq!(read(Form::Later, &unnamed).unwrap(), [row("M", Some(T_UTC), &json!({"目标用户": "全部"}), &json!(T))]);
}

#[test]
fn the_interval_is_the_answers_or_what_was_asked_for() {
    let rows = ReportRows::new(Some(Interval::Month));
    let mut answer = chart(&[("M", "metric")], &json!([[T, 7]]));
    for (interval, expected) in [
        (json!(3_600_000), "hour"),
        (json!("604800000"), "week"),
        (json!(2_592_000_000.0), "month"),
        (json!("Week"), "week"),
        (json!(1), "month"),
        (Value::Null, "month"),
    ] {
        answer["interval"] = interval;
        assert_eq!(read_with(&rows, Form::First, &answer).unwrap()[0]["interval"], expected);
    }
}

/// Quirk 28.
#[test]
fn exactly_200_000_rows_are_told() {
    let answer = chart(&[("M", "metric")], &json!([]));
    let rows = ReportRows::new(None);
    let mut member = rows.member("v1");
    let before = MAX_ROWS - 2;
    rows.rows.store(before, Ordering::Relaxed);
    for number in before + 1..=MAX_ROWS + 1 {
        member.unified(Record::Element { head: &answer, json: "[7]" }, &mut |_| Ok(())).unwrap();
        assert_eq!(rows.warnings().len(), usize::from(number == MAX_ROWS), "{number}");
    }
}

#[test]
fn what_is_not_documented_is_refused() {
    for (head, json) in [
        (json!({}), "[1]"),
        (json!({"meta": "x"}), "[1]"),
        (json!({"meta": [{"name": "M", "metric": true}]}), "{}"),
        (json!({"meta": [{"name": "M", "metric": true}]}), "7"),
    ] {
        let rows = ReportRows::new(None);
        let record = Record::Element { head: &head, json };
        assert!(rows.member("v2").unified(record, &mut |_| Ok(())).is_err(), "{head} {json}");
    }
    assert!(ReportRows::new(None).member("v2").vendor(Record::Line(b"[1]"), &mut Vec::new()).is_err());
}
