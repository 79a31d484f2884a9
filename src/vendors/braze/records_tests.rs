use serde_json::{Value, json};

use super::*;
use crate::{
    exports::mapping::{ConnectionMapping, Feed, ValueMaps},
    vendors::{Mapping, braze::fields::Place},
};

/// One user with every documented field, in the spellings of Braze's own sample.
const SAMPLE: &str = r#"{
    "created_at": "2020-07-10 15:00:00.000 UTC", "external_id": "A8i3mkd99",
    "user_aliases": [{"alias_name": "user_123", "alias_label": "amplitude_id"}, {"alias_name": "u9", "alias_label": "amplitude_id"}],
    "braze_id": "5fbd99bac125ca40511f2cb1", "random_bucket": 2365, "first_name": "Jane", "last_name": "Doe",
    "email": "example@braze.com", "dob": "1980-12-21", "home_city": "Chicago", "country": "US", "phone": "+442071838750",
    "language": "en", "time_zone": "Eastern Time (US & Canada)", "last_coordinates": [41.84157636433568, -87.83520818508256],
    "gender": "F", "total_revenue": 65, "attributed_campaign": null, "push_subscribe": "opted_in",
    "push_opted_in_at": "2020-01-26T22:45:53.953Z", "email_subscribe": "subscribed",
    "custom_attributes": {"loyaltyId": "37c98b9d-9a7f-4b2f-a125-d873c5152856", "loyaltyPoints": "321", "big": 12345678901234567890},
    "custom_events": [{"name": "Loyalty Acknowledgement", "first": "2021-06-28T17:02:43.032Z", "last": "2021-06-28T17:02:43.032Z", "count": 1}],
    "apps": [{"name": "MSDK", "platform": "ios", "sessions": "2"}], "field_of_tomorrow": {"x": 1}
}"#;

fn users(fields: &[&str], mapping: &[(&str, &str)]) -> BrazeUsers {
    let fields: Vec<_> = fields.iter().map(ToString::to_string).collect();
    let mapping: Mapping = mapping.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let (selection, sources) = (Selection::parse(&fields).unwrap(), Sources::read(&mapping).unwrap());
    let ask = Ask::new(&selection, &sources, false, Place::Segment).unwrap();
    BrazeUsers::new(selection, sources, ask)
}

fn unified(users: &BrazeUsers, record: &str) -> String {
    let mut out = Vec::new();
    users.unified(record.as_bytes()).unwrap().write_json(&users.selection, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn vendor(users: &BrazeUsers, record: &str) -> Value {
    let mut out = Vec::new();
    users.vendor(record.as_bytes(), &mut out).unwrap();
    serde_json::from_slice(&out).unwrap()
}

#[test]
fn the_documented_sample_as_user_v1() {
    let row: Value = serde_json::from_str(&unified(&users(&[], &[]), SAMPLE)).unwrap();
    insta::assert_json_snapshot!(row, @r#"
    {
      "user_id": "A8i3mkd99",
      "vendor_user_id": "5fbd99bac125ca40511f2cb1",
      "identities": {
        "external_id": [
          "A8i3mkd99"
        ],
        "alias:amplitude_id": [
          "user_123",
          "u9"
        ],
        "braze_id": [
          "5fbd99bac125ca40511f2cb1"
        ]
      },
      "email": "example@braze.com",
      "phone": "+442071838750",
      "first_name": "Jane",
      "last_name": "Doe",
      "gender": "F",
      "birth_date": "1980-12-21",
      "country": "US",
      "city": "Chicago",
      "language": "en",
      "time_zone": "Eastern Time (US & Canada)",
      "created_at": "2020-07-10T15:00:00Z",
      "attributes": {
        "loyaltyId": "37c98b9d-9a7f-4b2f-a125-d873c5152856",
        "loyaltyPoints": "321",
        "big": 12345678901234567890
      },
      "activity": {
        "random_bucket": 2365,
        "last_coordinates": [
          41.84157636433568,
          -87.83520818508256
        ],
        "total_revenue": 65,
        "push_subscribe": "opted_in",
        "push_opted_in_at": "2020-01-26T22:45:53.953Z",
        "email_subscribe": "subscribed",
        "custom_events": [
          {
            "name": "Loyalty Acknowledgement",
            "first": "2021-06-28T17:02:43.032Z",
            "last": "2021-06-28T17:02:43.032Z",
            "count": 1
          }
        ],
        "apps": [
          {
            "name": "MSDK",
            "platform": "ios",
            "sessions": "2"
          }
        ],
        "field_of_tomorrow": {
          "x": 1
        }
      }
    }
    "#);
}

#[test]
fn missing_and_null_are_the_same() {
    let users = users(&[], &[]);
    let missing = unified(&users, "{}");
    let null = r#"{"external_id":null,"user_aliases":null,"custom_attributes":null,"apps":null,"created_at":null}"#;
    assert_eq!(unified(&users, null), missing);
    assert!(missing.starts_with(r#"{"user_id":null,"vendor_user_id":null,"identities":{},"email":null"#));
    assert!(missing.ends_with(r#""attributes":{},"activity":{}}"#));
}

#[test]
fn values_keep_every_digit_and_ids_are_text() {
    let users = users(&["user_id", "attributes", "activity.total_revenue"], &[]);
    let record = r#"{"external_id":12345678901234567890123,"custom_attributes":{"n":12345678901234567890123,"f":1.10},"total_revenue":65.00}"#;
    assert_eq!(
        unified(&users, record),
        r#"{"user_id":"12345678901234567890123","attributes":{"n":12345678901234567890123,"f":1.10},"activity":{"total_revenue":65.00}}"#
    );
}

#[test]
fn times_come_as_rfc_3339_and_what_cannot_be_read_is_kept_aside() {
    for (text, expected) in [
        ("2021-06-28T17:02:43.032Z", "2021-06-28T17:02:43.032Z"),
        ("2021-07-07T20:45:24.000+00:00", "2021-07-07T20:45:24Z"),
        ("2021-07-07T20:45:24+02:00", "2021-07-07T18:45:24Z"),
        ("2020-07-10 15:00:00.000 UTC", "2020-07-10T15:00:00Z"),
        ("2020-07-10 15:00:00 +0200", "2020-07-10T13:00:00Z"),
        ("1980-12-21", "1980-12-21T00:00:00Z"),
    ] {
        let record = json!({ "created_at": text }).to_string();
        assert_eq!(unified(&users(&["created_at"], &[]), &record), json!({ "created_at": expected }).to_string());
    }
    for (text, activity) in [("last Tuesday", json!({ "created_at": "last Tuesday" })), ("", json!({}))] {
        let record = json!({ "created_at": text }).to_string();
        let expected = json!({ "created_at": null, "activity": activity }).to_string();
        assert_eq!(unified(&users(&["created_at", "activity"], &[]), &record), expected);
    }
    for (text, expected) in [
        ("1980-12-21", json!("1980-12-21")),
        ("1980-12-21T23:00:00-08:00", json!("1980-12-21")),
        ("1980-13-21", Value::Null),
        ("21.12.1980", Value::Null),
        ("1980-12-é", Value::Null),
    ] {
        let record = json!({ "dob": text }).to_string();
        assert_eq!(unified(&users(&["birth_date"], &[]), &record), json!({ "birth_date": expected }).to_string());
    }
}

#[test]
fn a_mapping_moves_attributes_and_fields() {
    let mapping = [("email", "work_email"), ("attributes.plan", "Plan Name"), ("attributes.bucket", "random_bucket")];
    let record = r#"{"email":"a@b.test","random_bucket":7,"custom_attributes":{"work_email":"w@b.test","Plan Name":"gold","plan":"old","x":1}}"#;
    let row: Value = serde_json::from_str(&unified(&users(&[], &mapping), record)).unwrap();
    assert_eq!(row["email"], "w@b.test");
    assert_eq!(row["attributes"], json!({"bucket": 7, "plan": "gold", "x": 1}));
    assert_eq!(row["activity"], json!({"email": "a@b.test", "random_bucket": 7}));
    assert_eq!(
        unified(&users(&["attributes.plan", "attributes.x"], &mapping), record),
        r#"{"attributes":{"plan":"gold","x":1}}"#
    );
}

#[test]
fn values_are_looked_up_as_braze_wrote_them_and_a_field_may_be_mapped_onto_its_own_column() {
    let feed = |from: &str, values: &[(&str, &str)]| Feed {
        from: from.into(),
        values: values.iter().map(|(theirs, ours)| ((*theirs).to_owned(), (*ours).to_owned())).collect(),
    };
    let mapping = ConnectionMapping::from([
        ("gender".to_owned(), feed("gender", &[("F", "female")])),
        ("birth_date".to_owned(), feed("dob", &[("1980-12-21T00:00:00Z", "2000-01-01T10:00"), ("?", "none")])),
        ("attributes.tier".to_owned(), feed("tier", &[("3", "gold")])),
    ]);
    let (mapping, values) = ValueMaps::split(mapping);
    let sources = Sources { values, ..Sources::read(&mapping).unwrap() };
    let selection = Selection::everything();
    let ask = Ask::new(&selection, &sources, false, Place::Segment).unwrap();
    let users = BrazeUsers::new(selection, sources, ask);
    let read = |record: &str| serde_json::from_str::<Value>(&unified(&users, record)).unwrap();
    let row = read(r#"{"gender":"F","dob":"1980-12-21T00:00:00Z","custom_attributes":{"tier":3,"gender":"F"}}"#);
    assert_eq!((&row["gender"], &row["birth_date"]), (&json!("female"), &json!("2000-01-01")));
    assert_eq!((&row["attributes"], &row["activity"]), (&json!({"tier": "gold", "gender": "F"}), &json!({})));
    let row = read(r#"{"gender":"O","dob":"?","custom_attributes":{"tier":4}}"#);
    assert_eq!((&row["gender"], &row["birth_date"]), (&json!("O"), &Value::Null));
    assert_eq!(row["activity"], json!({"birth_date": "none"}));
    assert_eq!(row["attributes"], json!({"tier": 4}));
    assert_eq!(vendor(&users, r#"{"gender":"F"}"#), json!({"gender": "F"}));
}

#[test]
fn of_repeated_fields_the_last_one_counts() {
    let record = r#"{"apps":1,"external_id":"a","custom_attributes":{"x":1},"apps":2,"external_id":"b","custom_attributes":{"y":1,"y":2}}"#;
    assert_eq!(
        unified(&users(&["user_id", "identities", "attributes", "activity"], &[]), record),
        r#"{"user_id":"b","identities":{"external_id":["b"]},"attributes":{"y":2},"activity":{"apps":2}}"#
    );
    let mut out = Vec::new();
    users(&["user_id", "activity"], &[]).vendor(record.as_bytes(), &mut out).unwrap();
    assert_eq!(String::from_utf8(out).unwrap(), r#"{"apps":2,"external_id":"b"}"#);
}

#[test]
fn what_is_not_asked_for_must_be_json_too() {
    let users = users(&["email"], &[]);
    for bad in [r#"{"email":"a","apps":[1,]}"#, r#"{"apps":tru,"email":"a"}"#, "{\"email\":\"a\",\"x\":\"\u{1}\"}"] {
        assert!(users.unified(bad.as_bytes()).is_err() && users.vendor(bad.as_bytes(), &mut Vec::new()).is_err());
    }
    assert!(users.unified(b"{\"email\":\"a\",\"apps\":\"\xff\"}").is_err());
}

#[test]
fn the_vendor_schema_keeps_only_what_was_asked() {
    let record = r#"{"braze_id":"b","email":"e","email_opted_in_at":"t","email_subscribe":"s","country":"US","new":1,"custom_attributes":{"plan":"gold","x":1}}"#;
    let kept = |fields: &[&str]| vendor(&users(fields, &[]), record);
    assert_eq!(kept(&[]), serde_json::from_str::<Value>(record).unwrap());
    assert_eq!(kept(&["email"]), json!({"email": "e"}));
    assert_eq!(kept(&["vendor_user_id"]), json!({"braze_id": "b"}));
    assert_eq!(kept(&["attributes.plan"]), json!({"custom_attributes": {"plan": "gold"}}));
    assert_eq!(kept(&["activity.email_subscribe"]), json!({"email_subscribe": "s"}));
    assert_eq!(kept(&["activity"]), json!({"email_opted_in_at": "t", "email_subscribe": "s", "new": 1}));
    assert_eq!(kept(&["attributes"]), json!({"custom_attributes": {"plan": "gold", "x": 1}}));
}

#[test]
fn odd_shapes_survive_and_broken_records_are_refused() {
    let users = users(&["identities", "activity"], &[]);
    let one = r#"{"user_aliases":{"alias_name":"n","alias_label":"l"},"custom_attributes":[1]}"#;
    assert_eq!(unified(&users, one), r#"{"identities":{"alias:l":["n"]},"activity":{"custom_attributes":[1]}}"#);
    assert_eq!(unified(&users, r#"{"user_aliases":"odd"}"#), r#"{"identities":{},"activity":{"user_aliases":"odd"}}"#);
    for bad in ["", "[]", "{\"external_id\":", "{} {}", "PK\u{3}\u{4}"] {
        assert!(users.unified(bad.as_bytes()).is_err() && users.vendor(bad.as_bytes(), &mut Vec::new()).is_err());
    }
}
