use serde_json::json;

use super::*;
use crate::{
    exports::fields::Selection,
    vendors::{growingio::statistics::COMMAS, scripted},
};

fn unified(items: &Items, head: &Value, item: &Value) -> Result<Value, BadRecord> {
    let rows = ListRows::new(items.clone());
    let mut out = Vec::new();
    let json = item.to_string();
    rows.member("").unified(Record::Element { head, json: &json }, &mut |row| {
        row.write_json(&Selection::everything(), &mut out).unwrap();
        Ok(())
    })?;
    Ok(serde_json::from_slice(&out).unwrap())
}

fn rules(tag: &str, text: &str, as_vendor: bool) -> Result<Vec<Value>, BadRecord> {
    let records = ListRows::new(Items::Rules);
    let Framing::Delimited(dialect) = records.framing(tag) else { panic!("not delimited") };
    let (mut member, mut rows) = (records.member(tag), Vec::new());
    for row in scripted::rows(text, dialect) {
        let mut out = Vec::new();
        let mut emit = |row: &Row<'_>| {
            row.write_json(&Selection::everything(), &mut out).unwrap();
            Ok(())
        };
        if as_vendor {
            member.vendor(Record::Cells(row.cells()), &mut out)?;
        } else {
            member.unified(Record::Cells(row.cells()), &mut emit)?;
        }
        if !out.is_empty() {
            rows.push(serde_json::from_slice(&out).unwrap());
        }
    }
    Ok(rows)
}

fn row(id: &str, kind: &str, name: &str, more: &Value) -> Value {
    let mut row = json!({"id": id, "kind": kind, "name": name, "description": null, "size": null, "status": null,
        "created_at": null, "updated_at": null, "vendor": {}});
    row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    row
}

#[test]
fn the_documented_segment() {
    let item = json!({"id": "S", "name": "高活跃", "userType": "cs1", "userNum": 1230, "updatedAt": "2016-08-03"});
    let more = json!({"size": 1230, "updated_at": "2016-08-02T16:00:00Z", "vendor": {"userType": "cs1"}});
    assert_eq!(unified(&Items::Segments, &Value::Null, &item).unwrap(), row("S", "segment", "高活跃", &more));
    for (size, expected) in [(json!("12"), json!(12)), (json!(1000.0), json!(1000)), (json!("many"), Value::Null)] {
        let item = json!({"id": 7, "name": "x", "userNum": size});
        let row = unified(&Items::Segments, &Value::Null, &item).unwrap();
        assert_eq!((&row["id"], &row["size"]), (&json!("7"), &expected), "{size}");
    }
}

#[test]
fn the_documented_dashboard() {
    let item = json!({"id": "D", "name": "看板", "type": "realtimeV2", "createdAt": "2019-01-01",
        "updatedAt": "2019-01-02T08:00:00+08:00", "scope": "user", "updater": "a", "creator": "b"});
    let vendor = json!({"type": "realtimeV2", "scope": "user", "updater": "a", "creator": "b"});
    let more = json!({"created_at": "2018-12-31T16:00:00Z", "updated_at": "2019-01-02T00:00:00Z", "vendor": vendor});
    assert_eq!(unified(&Items::Dashboards, &Value::Null, &item).unwrap(), row("D", "dashboard", "看板", &more));
}

/// Quirk 10.
#[test]
fn the_creator_of_a_chart_is_spelled_in_two_ways() {
    let items = Items::Charts { dashboard: "asked".into() };
    let head = json!({"id": "D", "name": "看板"});
    for (member, kind) in [("createor", None), ("creator", Some("funnel"))] {
        let mut item = json!({"id": "C", "name": "图", member: "王芳", "createdAt": "2019-10-22"});
        if let Some(kind) = kind {
            item["resource_type"] = json!(kind);
        }
        let vendor = json!({"creator": "王芳", "dashboard_id": "D", "dashboard_name": "看板"});
        let more = json!({"created_at": "2019-10-21T16:00:00Z", "vendor": vendor});
        assert_eq!(unified(&items, &head, &item).unwrap(), row("C", kind.unwrap_or("chart"), "图", &more));
    }
    let bare = unified(&items, &json!({}), &json!({"id": "C"})).unwrap();
    assert_eq!(bare["vendor"], json!({"dashboard_id": "asked"}));
}

/// Quirks 13 and 18.
#[test]
fn rules_csv_has_tabs_or_commas_and_two_headers() {
    let expected = [row("f2503720", "clck", "元素_注册按钮", &json!({}))];
    for (tag, text) in [
        (COMMAS, "ruleId,eventName,eventType\nf2503720,元素_注册按钮,clck\n"),
        (COMMAS, "\u{feff}rule_id,name,ruleType\r\nf2503720,元素_注册按钮,clck\r\n"),
        (TABS, "ruleId\teventName\teventType\nf2503720\t元素_注册按钮\tclck\n"),
        (TABS, "eventType \teventName\truleId\t \nclck\t元素_注册按钮\tf2503720  \n"),
    ] {
        assert_eq!(rules(tag, text, false).unwrap(), expected, "{text:?}");
    }
    assert_eq!(
        rules(COMMAS, "ruleId,eventName,eventType\nf,\"Buy, \"\"now\"\"\",clck\n", true).unwrap(),
        [json!({"ruleId": "f", "eventName": "Buy, \"now\"", "eventType": "clck"})]
    );
    assert_eq!(
        rules(COMMAS, "ruleId,eventName,eventType,x\nf,Buy \"now\",clck,1\n", false).unwrap(),
        [row("f", "clck", "Buy \"now\"", &json!({"vendor": {"x": "1"}}))]
    );
}

#[test]
fn what_is_no_list_is_refused() {
    for item in [json!(7), json!({"name": "x"}), json!({"id": null}), json!([])] {
        assert!(unified(&Items::Segments, &Value::Null, &item).is_err(), "{item}");
    }
    for text in ["ruleId,eventName,eventType\nf,x\n", "id,x\n1,2\n", "Internal Server Error"] {
        assert!(rules(COMMAS, text, false).is_err() && rules(COMMAS, text, true).is_err(), "{text:?}");
    }
    assert!(rules(COMMAS, "", false).unwrap().is_empty());
}
