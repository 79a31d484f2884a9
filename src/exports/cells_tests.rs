use serde_json::value::to_raw_value;

use super::*;
use crate::exports::{
    fields::ColumnType,
    rows::{Object, ObjectText},
    schema::{ALL, Schema},
};

/// Every cell as its column's name, its type and its JSON text.
#[derive(Default)]
struct Seen(Vec<(&'static str, ColumnType, Option<String>)>);

impl Cells for Seen {
    fn text(&mut self, key: Key, value: Option<&str>) {
        self.0.push((key.name(), ColumnType::Text, value.map(str::to_owned)));
    }

    fn day(&mut self, key: Key, value: Option<&Day<'_>>) {
        self.0.push((key.name(), ColumnType::Date, value.map(|day| day.text.to_owned())));
    }

    fn moment(&mut self, key: Key, value: Option<&Moment<'_>>) {
        self.0.push((key.name(), ColumnType::Timestamp, value.map(|moment| moment.text.clone().into_owned())));
    }

    fn number(&mut self, key: Key, value: Option<&str>) {
        self.0.push((key.name(), ColumnType::Number, value.map(str::to_owned)));
    }

    fn integer(&mut self, key: Key, value: Option<i64>) {
        self.0.push((key.name(), ColumnType::Integer, value.map(|number| number.to_string())));
    }

    fn object(&mut self, key: Key, write: impl FnOnce(&mut Vec<u8>)) {
        let mut json = Vec::new();
        write(&mut json);
        let kind = if key.name() == "identities" { ColumnType::TextLists } else { ColumnType::Object };
        self.0.push((key.name(), kind, Some(String::from_utf8(json).unwrap())));
    }
}

fn seen(row: &Row<'_>, fields: &[&str]) -> Vec<(&'static str, ColumnType, Option<String>)> {
    let fields: Vec<_> = fields.iter().map(ToString::to_string).collect();
    let mut seen = Seen::default();
    row.cells(&Selection::parse(&fields).unwrap(), &mut seen);
    seen.0
}

fn json(row: &Row<'_>, fields: &[&str]) -> (String, u64) {
    let fields: Vec<_> = fields.iter().map(ToString::to_string).collect();
    let mut out = Vec::new();
    let unreadable = row.append_json(&Selection::parse(&fields).unwrap(), &mut out);
    (String::from_utf8(out).unwrap(), unreadable)
}

#[test]
fn a_row_has_exactly_the_columns_of_its_schema() {
    let bare = |schema: &Schema| match schema.name {
        "user.v1" => Row::User(UserRow::default()),
        "event.v1" => Row::Event(EventRow::default()),
        "metric.v1" => Row::Metric(MetricRow::default()),
        "suppression.v1" => Row::Suppression(SuppressionRow::default()),
        _ => Row::Catalog(CatalogRow::default()),
    };
    for schema in ALL {
        let columns: Vec<_> = schema.columns.iter().map(|column| (column.name, column.kind)).collect();
        let row = bare(schema);
        let cells: Vec<_> = seen(&row, &[]).into_iter().map(|(name, kind, _)| (name, kind)).collect();
        assert_eq!(cells, columns, "{}", schema.name);
        let object: serde_json::Map<_, _> = serde_json::from_str(&json(&row, &[]).0).unwrap();
        assert_eq!(object.keys().collect::<Vec<_>>(), columns.iter().map(|(name, _)| name).collect::<Vec<_>>());
    }
}

#[test]
fn a_time_that_cannot_be_read_is_null_and_kept_as_text() {
    let event = EventRow {
        event_type: "vst".into(),
        event_time: Some("yesterday".into()),
        received_at: Some("2026-03-02T16:00:00+08:00".into()),
        properties: ObjectText(r#"{"a":"\""}"#.into()),
        ..EventRow::default()
    };
    let expected = r#"{"event_type":"vst","event_time":null,"received_at":"2026-03-02T08:00:00Z","user_id":null,"visitor_id":null,"session_id":null,"properties":{"a":"\"","event_time":"yesterday"}}"#;
    assert_eq!(json(&Row::Event(event), &[]), (expected.to_owned(), 1));

    let metric = MetricRow { metric: "dau".into(), time: Some("week 3".into()), ..MetricRow::default() };
    let expected = r#"{"metric":"dau","time":null,"interval":null,"dimensions":{"time":"week 3"},"value":null}"#;
    assert_eq!(json(&Row::Metric(metric), &[]), (expected.to_owned(), 1));

    let row = CatalogRow { created_at: Some("a".into()), updated_at: Some("b".into()), ..CatalogRow::default() };
    let (found, unreadable) = json(&Row::Catalog(row), &[]);
    assert!(found.ends_with(r#""vendor":{"created_at":"a","updated_at":"b"}}"#), "{found}");
    assert_eq!(unreadable, 2);

    let row = SuppressionRow { suppressed_at: Some("soon".into()), ..SuppressionRow::default() };
    assert!(json(&Row::Suppression(row), &[]).0.ends_with(r#""vendor":{"suppressed_at":"soon"}}"#));
}

#[test]
fn a_kept_text_never_hides_what_the_vendor_named_alike() {
    let mut user = UserRow::default();
    user.set(UserColumn::BirthDate, Some("10.01.1989".into()));
    user.set(UserColumn::CreatedAt, Some("1772438400".into()));
    user.activity.push(("created_at".into(), Cow::Owned(to_raw_value(&7).unwrap())));
    let row = Row::User(user);
    let expected = r#"{"birth_date":null,"created_at":null,"activity":{"created_at":7,"birth_date":"10.01.1989","created_at_as_given":"1772438400"}}"#;
    assert_eq!(json(&row, &["birth_date", "created_at", "activity"]), (expected.to_owned(), 2));
    // What the caller left out stays out.
    assert_eq!(json(&row, &["birth_date"]), (r#"{"birth_date":null}"#.to_owned(), 1));
    assert_eq!(json(&row, &["email", "activity"]), (r#"{"email":null,"activity":{"created_at":7}}"#.to_owned(), 0));
    let narrowed = r#"{"birth_date":null,"activity":{"birth_date":"10.01.1989"}}"#;
    assert_eq!(json(&row, &["birth_date", "activity.birth_date"]), (narrowed.to_owned(), 1));
}

#[test]
fn an_empty_date_is_unknown_and_nothing_to_keep() {
    let mut user = UserRow::default();
    user.set(UserColumn::BirthDate, Some("".into()));
    let expected = r#"{"birth_date":null,"activity":{}}"#;
    assert_eq!(json(&Row::User(user), &["birth_date", "activity"]), (expected.to_owned(), 0));
}

#[test]
fn values_of_many_lines_stay_on_one() {
    let number = RawValue::from_string("{\"a\":\n[1,\r\n2]}".to_owned()).unwrap();
    let row = MetricRow {
        dimensions: Object(vec![("a".into(), Cell::Json(Cow::Owned(number)))]),
        value: Some(Cow::Owned(RawValue::from_string("12345678901234567890123".to_owned()).unwrap())),
        ..MetricRow::default()
    };
    let expected =
        r#"{"metric":"","time":null,"interval":null,"dimensions":{"a":{"a":[1,2]}},"value":12345678901234567890123}"#;
    assert_eq!(json(&Row::Metric(row), &[]).0, expected);
}
