use serde_json::{Value, json};

use super::*;
use crate::vendors::growingio::raw_events::tables::{TABLES, Table};
use crate::{exports::records::OwnCells, vendors::scripted::rows};

const ALL: Range<i64> = i64::MIN..i64::MAX;

fn dialect(records: &RawRows) -> Dialect {
    let Framing::Delimited(dialect) = records.framing("page") else { panic!("no rows") };
    dialect
}

fn read(records: &RawRows, tag: &str, text: &str) -> Result<Vec<Value>, BadRecord> {
    let mut member = records.member(tag);
    let mut events = Vec::new();
    for row in rows(text, dialect(records)) {
        member.unified(Record::Cells(row.cells()), &mut |row| {
            let mut line = Vec::new();
            row.write_json(&crate::exports::fields::Selection::everything(), &mut line).unwrap();
            assert!(!line.contains(&b'\n'), "a record is one line");
            events.push(serde_json::from_slice(&line).unwrap());
            Ok(())
        })?;
    }
    Ok(events)
}

fn v2() -> RawRows {
    RawRows::new(RawData::V2, Vec::new(), ALL)
}

fn events(tag: &str, text: &str) -> Vec<Value> {
    read(&v2(), tag, text).unwrap()
}

fn vendor(records: &RawRows, tag: &str, text: &str) -> Vec<String> {
    let mut member = records.member(tag);
    let mut lines = Vec::new();
    for row in rows(text, dialect(records)) {
        let mut line = Vec::new();
        member.vendor(Record::Cells(row.cells()), &mut line).unwrap();
        lines.extend((!line.is_empty()).then(|| String::from_utf8(line).unwrap()));
    }
    lines
}

#[test]
fn an_event_has_its_times_and_names_and_everything_else_as_properties() {
    let text = "eventName,time,sendTime,visitUserId,sessionId,loginUserId,eventNumber,eventVariable,pageTime\n\
                buy,1530374400123,1530374401000,v-1,s-1,u-1,2.50,\"{\\\"price\\\":\\\"50.0\\\",\\\"item\\\":\\\"101\\\"}\",1530374400000\n";
    let expected = json!({
        "event_type": "custom_event",
        "event_time": "2018-06-30T16:00:00.123Z",
        "received_at": "2018-06-30T16:00:01.000Z",
        "user_id": "u-1",
        "visitor_id": "v-1",
        "session_id": "s-1",
        "properties": {
            "eventName": "buy",
            "eventNumber": 2.5,
            "eventVariable": {"price": "50.0", "item": "101"},
            "pageTime": 1_530_374_400_000_i64,
        },
    });
    assert_eq!(events("custom_event", text), [expected]);
}

#[test]
fn tables_without_some_of_the_times_and_ids_have_null_there() {
    let tag = &events("action_tag", "sendTime,actionRequestId,ruleId\n1530374401000,wa1,r1\n")[0];
    assert_eq!((&tag["event_time"], &tag["received_at"]), (&Value::Null, &json!("2018-06-30T16:00:01.000Z")));
    assert_eq!((&tag["user_id"], &tag["visitor_id"], &tag["session_id"]), (&Value::Null, &Value::Null, &Value::Null));
    let click = &events("ads_track_click", "idfa,eventTime\nX,1530374401000\n")[0];
    assert_eq!((&click["event_time"], &click["received_at"]), (&json!("2018-06-30T16:00:01.000Z"), &Value::Null));
    assert_eq!(click["properties"], json!({"idfa": "X"}));
}

/// Quirk 14: backslash escapes, values with commas and line ends, records of odd length.
#[test]
fn backslashes_escape_and_a_row_of_odd_length_is_an_error() {
    let text = "time,title,page\n1,\"Say \\\"hello\\\", world\",/a\n2,\"two\nlines\",\"C:\\\\temp\\\\\"\n";
    let events = events("page", text);
    assert_eq!(events[0]["properties"], json!({"title": "Say \"hello\", world", "page": "/a"}));
    assert_eq!(events[1]["properties"], json!({"title": "two\nlines", "page": "C:\\temp\\"}));
    for odd in ["1,x\n", "1,x,/a,more\n"] {
        let error = read(&v2(), "page", &format!("time,title,page\n{odd}")).unwrap_err();
        assert!(error.0.contains("where the header has 3") && !error.0.contains('x'), "{error}");
    }
}

/// Quirk 15: map columns are JSON as a rule.
#[test]
fn maps_that_are_no_json_stay_text() {
    for (cell, expected) in [
        (r#""{\"a\":\"1\"}""#, json!({"a": "1"})),
        (r#""{\"city\"->\"beijing\"}""#, json!("{\"city\"->\"beijing\"}")),
        (r#""{\"keyword\",\"retention\"}""#, json!("{\"keyword\",\"retention\"}")),
        ("{}", json!({})),
        ("plain", json!("plain")),
        ("[1]", json!("[1]")),
        ("\"{\n\\\"a\\\": 12345678901234567890.10\n}\"", json!({"a": 12_345_678_901_234_567_890.10_f64})),
        ("\"{\nno json\"", json!("{\nno json")),
    ] {
        let text = format!("adsVariable,time\n{cell},1\n");
        assert_eq!(events("ads_track_activation", &text)[0]["properties"]["adsVariable"], expected, "{cell}");
    }
}

/// Quirk 16: the case of names varies, columns come and go.
#[test]
fn columns_are_found_in_any_case_and_order_and_unknown_ones_are_kept() {
    let activation = "CHANNELID,IMEI,oaid,newColumn,sendtime\nc,i,o,n,1530374401000\n";
    let event = &events("ads_track_activation", activation)[0];
    assert_eq!(event["properties"], json!({"channelID": "c", "imei": "i", "OAID": "o", "newColumn": "n"}));
    assert_eq!(event["received_at"], "2018-06-30T16:00:01.000Z");
    let click = &events("ads_track_click", "imei,channelID,eventtime\ni,c,1530374401000\n")[0];
    assert_eq!(click["properties"], json!({"IMEI": "i", "channelId": "c"}));
    let unknown = &events("heatmap", "x,SENDTIME,loginUserId,time\n1,1530374401000,u,2\n")[0];
    assert_eq!((&unknown["event_type"], &unknown["user_id"]), (&json!("heatmap"), &json!("u")));
    assert_eq!(unknown["properties"], json!({"x": "1"}));
    let twice = &events("visit", "page,Page,time\na,b,1\n")[0];
    assert_eq!(twice["properties"], json!({"page": "a", "page (2)": "b"}));
    let odd_name = &events("visit", "visitUserId,time,新列\na,1,b\n")[0];
    assert_eq!(odd_name["properties"], json!({"新列": "b"}));
}

/// Quirk 17: `deviceType` means what the vendor's page of the day says, and lengths are not enforced.
#[test]
fn values_are_neither_interpreted_nor_cut() {
    let long = "鞋".repeat(3000);
    let text = format!("visitUserId,deviceType,page,time\n{long},1,{long},1\n");
    let event = &events("visit", &text)[0];
    assert_eq!(event["visitor_id"], long.as_str());
    assert_eq!(event["properties"], json!({"deviceType": "1", "page": long}));
}

#[test]
fn absent_values_are_left_out_however_they_are_written() {
    let text = "time,sendTime,loginUserId,href,info,index\n1,2,null,,null,\n";
    let event = &events("action", text)[0];
    assert_eq!((&event["user_id"], &event["properties"]), (&Value::Null, &json!({})));
}

#[test]
fn numbers_keep_their_digits_and_what_is_no_number_is_text() {
    for (column, cell, written) in [
        ("index", "7", "7"),
        ("index", "-7", "-7"),
        ("index", "007", "7"),
        ("index", "+7", "7"),
        ("index", "7.0", "\"7.0\""),
        ("index", "99999999999999999999", "\"99999999999999999999\""),
        ("latitude", "39.90400000000000001", "39.90400000000000001"),
        ("latitude", "1E-7", "1E-7"),
        ("latitude", "-.5", "-0.5"),
        ("latitude", "N/A", "\"N/A\""),
        ("latitude", "NaN", "\"NaN\""),
        ("latitude", "1-2", "\"1-2\""),
        ("screenWidth", "640", "\"640\""),
    ] {
        let records = v2();
        let mut member = records.member("action");
        let mut line = Vec::new();
        for row in rows(&format!("{column},time\n{cell},1\n"), V2) {
            let everything = crate::exports::fields::Selection::everything();
            member
                .unified(Record::Cells(row.cells()), &mut |row| {
                    row.write_json(&everything, &mut line).unwrap();
                    Ok(())
                })
                .unwrap();
        }
        let line = String::from_utf8(line).unwrap();
        assert!(line.ends_with(&format!("\"properties\":{{\"{column}\":{written}}}}}")), "{line}");
    }
}

/// Quirk 20: device clocks are wrong, so nothing but the time of receipt decides.
#[test]
fn a_window_is_half_open_and_kept_by_the_time_of_receipt() {
    let records = RawRows::new(RawData::V2, Vec::new(), 1000..2000);
    let text = "time,sendTime,page\n1500,999,a\n4102444800789,1000,b\n0,1999,c\n1500,2000,d\n1500,,e\n";
    let kept = |rows: Vec<Value>| rows.iter().map(|row| row["properties"]["page"].clone()).collect::<Vec<_>>();
    assert_eq!(kept(read(&records, "page", text).unwrap()), ["b", "c", "e"]);
    assert_eq!(vendor(&records, "page", text).len(), 3);
    let clicks = "eventTime,page\n999,a\n1500,b\n2000,c\n";
    assert_eq!(read(&records, "ads_track_click", clicks).unwrap().len(), 3, "clicks have no time of receipt");
    let far = &events("page", "time,sendTime\n99999999999999999,1000\n")[0];
    assert_eq!((&far["event_time"], &far["properties"]), (&Value::Null, &json!({"time": 99_999_999_999_999_999_i64})));
}

#[test]
fn without_a_header_the_documented_order_counts_and_is_warned_of() {
    let records = v2();
    let rows = read(&records, "action_tag", "1530374401000,wa1,r1\n1530374402000,wa2,r2\n").unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0]["properties"], json!({"actionRequestId": "wa1", "ruleId": "r1"}));
    assert_eq!(records.warnings().len(), 1);
    assert!(read(&v2(), "action_tag", "1530374401000,wa1\n").is_err());
    assert!(read(&v2(), "untold", "1530374401000,wa1,r1\n").is_err());
    assert_eq!(v2().warnings(), Vec::<String>::new());
    for table in TABLES {
        let header = table.columns().collect::<Vec<_>>().join(",");
        let records = v2();
        assert!(read(&records, table.name, &header).unwrap().is_empty(), "{header}");
        assert_eq!(records.warnings(), Vec::<String>::new());
    }
}

#[test]
fn a_text_that_was_cut_within_a_character_is_kept_and_warned_of() {
    let records = v2();
    let mut member = records.member("page");
    let header: OwnCells = ["time", "title"].into_iter().collect();
    member.unified(Record::Cells(header.cells()), &mut |_| Ok(())).unwrap();
    let row: OwnCells = [b"1", &"首".as_bytes()[..2]].into_iter().collect();
    let mut line = Vec::new();
    member.vendor(Record::Cells(row.cells()), &mut line).unwrap();
    assert_eq!(String::from_utf8(line).unwrap(), "{\"time\":\"1\",\"title\":\"\u{fffd}\"}");
    assert_eq!(records.warnings().len(), 1);
}

#[test]
fn the_vendors_own_record_has_every_cell_as_text_by_the_files_names() {
    let text = "TIME,href,a\"b,index\n1,null,,\"say \\\"hi\\\"\"\n";
    assert_eq!(
        vendor(&v2(), "action", text.replace("a\"b", "info").as_str()),
        [r#"{"TIME":"1","href":"null","info":null,"index":"say \"hi\""}"#]
    );
}

/// Quirk 2 and 1.7: raw data v1 has one list of everything.
#[test]
fn a_file_of_v1_is_known_by_its_header_and_its_columns_are_renamed() {
    let v1 = |types: &[&str]| RawRows::new(RawData::V1, types.iter().map(ToString::to_string).collect(), ALL);
    let page = "userId,sessionId,sendTime,eventTime,eventType,path,query,refer,title,cs1,cs2,id,visit_id,pagegroup,ps10\n\
                v,s,1530374401000,1530374400123,page,/a,q,r,\"Say \"\"hi\"\", C:\\\",u,two,p1,v1,g,ten\n";
    let event = &read(&v1(&[]), "untold", page).unwrap()[0];
    assert_eq!((&event["event_type"], &event["event_time"]), (&json!("page"), &json!("2018-06-30T16:00:00.123Z")));
    assert_eq!((&event["user_id"], &event["visitor_id"]), (&json!("u"), &json!("v")));
    assert_eq!(
        event["properties"],
        json!({
            "eventType": "page", "page": "/a", "queryParameters": "q", "referrer": "r", "title": "Say \"hi\", C:\\",
            "customerAttributes2": "two", "pageRequestId": "p1", "vstRequestId": "v1", "pageGroup": "g",
            "pageAttributes10": "ten",
        })
    );
    for (header, event_type) in [
        (
            "userId,sessionId,sendTime,eventTime,eventType,ip,countryName,region,city,domain,path,refer,userAgent,id",
            "visit",
        ),
        (
            "userId,sessionId,sendTime,eventTime,eventType,eventValue,domain,path,href,page_id,action_id,index,info",
            "action",
        ),
        ("sendTime,action_id,rule_id", "action_tag"),
        ("sendTime,eventname,attribute", "custom_event"),
        ("userId,idfa,imei,uuid,androidid,ip,useragent,platform,osversion,sendTime,link_id", "ads_track_activation"),
        ("idfa,imei,uuid,androidid,ip,useragent,platform,eventTime,link_id,campaign_id", "ads_track_click"),
    ] {
        let cells = vec!["1"; header.split(',').count()].join(",");
        let rows = read(&v1(&[]), "untold", &format!("{header}\n{cells}\n")).unwrap();
        assert_eq!(rows[0]["event_type"], event_type, "{header}");
        assert!(Table::named(event_type).unwrap().in_v1);
    }
    assert!(read(&v1(&["visit"]), "untold", page).unwrap().is_empty(), "only what was asked for");
    assert!(read(&v1(&[]), "untold", "v,s,1530374401000\n").is_err());
}
