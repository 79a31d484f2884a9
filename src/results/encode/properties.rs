//! Rows of every schema, generated, written in every format and read back by other readers: they are equal.

use std::{borrow::Cow, collections::BTreeMap};

use ::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use arrow_array::{Array, cast::AsArray, types};
use arrow_schema::{DataType, TimeUnit};
use chrono::{DateTime, NaiveDate, SecondsFormat};
use proptest::prelude::*;
use serde_json::value::RawValue;

use super::{
    tests::{FORMATS, file, output, unpacked},
    *,
};
use crate::exports::{
    fields::UserColumn,
    moments::Time,
    parameters::Interval,
    rows::{CatalogRow, Cell as Member, EventRow, MetricRow, Object, ObjectText, SuppressionRow},
    user::UserRow,
};

/// A cell as it is put in, and what must come out.
#[derive(Debug, Clone)]
enum Cell {
    Text(Option<String>),
    /// What the vendor gave, and what is left of it in the column.
    Time(Option<(String, Option<String>)>),
    Number(Option<String>),
    Integer(Option<i64>),
    /// Names and JSON texts.
    Object(BTreeMap<String, String>),
    Lists(BTreeMap<String, Vec<String>>),
}

fn text() -> impl Strategy<Value = String> {
    let awkward = [
        "",
        "=1+1",
        "+49 171 123",
        "-5",
        "-1.5e3",
        "-x",
        "@a",
        "\t=1",
        "\r",
        "\n",
        "\r\n",
        "'=1",
        "''",
        "\"",
        "\"\"",
        "a\"b",
        "a,b",
        ",",
        "#a",
        " ",
        "null",
        "NULL",
        "\\N",
        "\u{0}",
        "\u{1f}",
        "\u{7f}",
        "\u{2028}",
        "\u{feff}x",
        "男",
        "👩‍👩‍👧",
        "e\u{301}",
        "＝1",
        "a\\",
        "\u{10ffff}",
    ];
    prop_oneof![
        "[a-z0-9@.]{0,24}",
        prop::sample::select(awkward.to_vec()).prop_map(str::to_owned),
        "\\PC{0,12}",
        "(?s:.{0,12})",
        "[=+\\-@'\"\r\n, x]{0,9}",
    ]
}

fn json() -> impl Strategy<Value = String> {
    let awkward = [
        "12345678901234567890123",
        "-98765432109876543210",
        "1e400",
        "-0.0",
        "1E+2",
        "null",
        "true",
        "{}",
        "[]",
        "{ \"x\" : [1 ,2] }",
        "[1,\n\r\n 2]",
        r#""\ud83d\ude00 \u0000 \/""#,
        "0.1000",
    ];
    let leaf = prop_oneof![
        prop::sample::select(awkward.to_vec()).prop_map(str::to_owned),
        any::<i64>().prop_map(|number| number.to_string()),
        text().prop_map(|text| serde_json::to_string(&text).unwrap()),
        (1_usize..100).prop_map(|depth| format!("{}1{}", "[".repeat(depth), "]".repeat(depth))),
    ];
    leaf.prop_recursive(4, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(|values| format!("[{}]", values.join(","))),
            prop::collection::btree_map(text(), inner, 0..3).prop_map(|members| object(&members)),
        ]
    })
}

fn object(members: &BTreeMap<String, String>) -> String {
    let members: Vec<_> =
        members.iter().map(|(name, value)| format!("{}:{value}", serde_json::to_string(name).unwrap())).collect();
    format!("{{{}}}", members.join(","))
}

fn number() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<i64>().prop_map(|number| number.to_string()),
        any::<f64>()
            .prop_filter("JSON has no others", |number| number.is_finite())
            .prop_map(|number| format!("{number:e}")),
        prop::sample::select(vec!["12345678901234567890123", "-0.0", "1e400", "-1E-9", "0.1000", "9007199254740993"])
            .prop_map(str::to_owned),
    ]
}

fn time() -> impl Strategy<Value = (String, Option<String>)> {
    let edges = [
        ("0001-01-01T00:00:00Z", Some("0001-01-01T00:00:00Z")),
        ("9999-12-31T23:59:59.999999Z", Some("9999-12-31T23:59:59.999999Z")),
        ("9999-12-31T23:59:59.9999999Z", Some("9999-12-31T23:59:59.999999Z")),
        ("1969-12-31T23:59:59.9999999Z", Some("1969-12-31T23:59:59.999999Z")),
        ("2000-02-29T00:00:00.1Z", Some("2000-02-29T00:00:00.1Z")),
        ("2026-03-02T08:00:00+08:00", Some("2026-03-02T00:00:00Z")),
        ("0000-12-31T00:00:00Z", None),
        ("1900-02-29T00:00:00Z", None),
        ("+10000-01-01T00:00:00Z", None),
        ("2026-03-02 08:00:00", None),
        ("=now()", None),
    ];
    let range = -62_135_596_800_000_000_i64..253_402_300_800_000_000;
    prop_oneof![
        prop::sample::select(edges.to_vec()).prop_map(|(given, left)| (given.to_owned(), left.map(str::to_owned))),
        range.prop_map(|micros| {
            let text = DateTime::from_timestamp_micros(micros).unwrap().to_rfc3339_opts(SecondsFormat::AutoSi, true);
            (text.clone(), Some(text))
        }),
    ]
}

fn day() -> impl Strategy<Value = (String, Option<String>)> {
    let edges = [
        ("0001-01-01", Some("0001-01-01")),
        ("9999-12-31", Some("9999-12-31")),
        ("2000-02-29T23:00:00-08:00", Some("2000-02-29")),
        ("1900-02-29", None),
        ("0000-01-01", None),
        ("31.12.1999", None),
        ("\"", None),
    ];
    prop_oneof![
        prop::sample::select(edges.to_vec()).prop_map(|(given, left)| (given.to_owned(), left.map(str::to_owned))),
        (-719_162_i32..2_932_897).prop_map(|days| {
            let text = NaiveDate::from_num_days_from_ce_opt(days + 719_163).unwrap().to_string();
            (text.clone(), Some(text))
        }),
    ]
}

fn cell(name: &str, kind: ColumnType) -> BoxedStrategy<Cell> {
    // Also names of columns, which a text that cannot be read must not hide.
    let names = || prop_oneof![text(), prop::sample::select(UserColumn::NAMES.to_vec()).prop_map(str::to_owned)];
    match (name, kind) {
        ("event_type" | "metric" | "id" | "kind", _) => text().prop_map(|text| Cell::Text(Some(text))).boxed(),
        ("interval", _) => prop::option::of(prop::sample::select(vec!["hour", "month"]))
            .prop_map(|name| Cell::Text(name.map(str::to_owned)))
            .boxed(),
        (_, ColumnType::Text) => prop::option::of(text()).prop_map(Cell::Text).boxed(),
        (_, ColumnType::Date) => prop::option::of(day()).prop_map(Cell::Time).boxed(),
        (_, ColumnType::Timestamp) => prop::option::of(time()).prop_map(Cell::Time).boxed(),
        (_, ColumnType::Number) => prop::option::of(number()).prop_map(Cell::Number).boxed(),
        (_, ColumnType::Integer) => prop::option::of(any::<i64>()).prop_map(Cell::Integer).boxed(),
        (_, ColumnType::Object) => prop::collection::btree_map(names(), json(), 0..4).prop_map(Cell::Object).boxed(),
        (_, ColumnType::TextLists) => {
            let lists = prop::collection::btree_map(text(), prop::collection::vec(text(), 0..3), 0..3);
            lists.prop_map(Cell::Lists).boxed()
        }
    }
}

type Cells = Vec<(&'static str, Cell)>;

#[derive(Debug, Clone)]
struct Case {
    dataset: Dataset,
    fields: Vec<String>,
    columns: Vec<(&'static str, ColumnType)>,
    rows: Vec<Cells>,
    batch: usize,
    guard_formulas: bool,
}

fn case() -> impl Strategy<Value = Case> {
    let datasets =
        [Dataset::AudienceMembers, Dataset::RawEvents, Dataset::Report, Dataset::Audiences, Dataset::Suppressions];
    (prop::sample::select(datasets.to_vec()), any::<u16>()).prop_flat_map(|(dataset, chosen)| {
        let is_user = dataset == Dataset::AudienceMembers && chosen % 4 != 0;
        let columns: Vec<_> = dataset.schema().columns.iter().map(|column| (column.name, column.kind)).collect();
        let columns: Vec<_> = columns
            .into_iter()
            .enumerate()
            .filter(|(index, (name, _))| !is_user || chosen >> index & 1 == 1 || *name == "activity")
            .map(|(_, column)| column)
            .collect();
        let fields = if is_user { columns.iter().map(|(name, _)| (*name).to_owned()).collect() } else { Vec::new() };
        let row: Vec<_> = columns.iter().map(|(name, kind)| (Just(*name), cell(name, *kind))).collect();
        let rows = prop::collection::vec(row, 0..12);
        (rows, 1_usize..7, any::<bool>()).prop_map(move |(rows, batch, guard_formulas)| {
            let (fields, columns) = (fields.clone(), columns.clone());
            Case { dataset, fields, columns, rows, batch, guard_formulas }
        })
    })
}

fn raw(json: &str) -> Cow<'static, RawValue> {
    Cow::Owned(RawValue::from_string(json.to_owned()).unwrap())
}

/// The row that has these cells.
fn row(dataset: Dataset, cells: &Cells) -> Row<'_> {
    let find = |wanted: &str| cells.iter().find(|(name, _)| *name == wanted).map(|(_, cell)| cell);
    let text = |name: &str| match find(name) {
        Some(Cell::Text(text)) => text.as_deref().map(Cow::Borrowed),
        Some(Cell::Time(time)) => time.as_ref().map(|(given, _)| Cow::Borrowed(given.as_str())),
        _ => None,
    };
    let members = |name: &str| match find(name) {
        Some(Cell::Object(members)) => {
            members.iter().map(|(name, json)| (Cow::Borrowed(name.as_str()), raw(json))).collect()
        }
        _ => Vec::new(),
    };
    // A text is one either way.
    let object = |name: &str| {
        let cell = |json: Cow<'static, RawValue>| match serde_json::from_str::<String>(json.get()) {
            Ok(text) if serde_json::to_string(&text).unwrap() == json.get() => Member::Text(text.into()),
            _ => Member::Json(json),
        };
        Object(members(name).into_iter().map(|(name, json)| (name, cell(json))).collect())
    };
    match dataset {
        Dataset::AudienceMembers => {
            let mut user = UserRow::default();
            for column in UserColumn::ALL.iter().filter(|column| column.is_text()) {
                user.set(*column, text(column.name()));
            }
            if let Some(Cell::Lists(lists)) = find("identities") {
                user.identities = lists
                    .iter()
                    .map(|(name, values)| {
                        (name.as_str().into(), values.iter().map(|value| value.as_str().into()).collect())
                    })
                    .collect();
            }
            (user.attributes, user.activity) = (members("attributes"), members("activity"));
            Row::User(user)
        }
        Dataset::RawEvents => Row::Event(EventRow {
            event_type: text("event_type").unwrap(),
            event_time: text("event_time").map(Time::Text),
            received_at: text("received_at").map(Time::Text),
            user_id: text("user_id"),
            visitor_id: text("visitor_id"),
            session_id: text("session_id"),
            // On one line, as it must be.
            properties: ObjectText(
                serde_json::to_string(&object("properties")).unwrap().replace(['\n', '\r'], "").into(),
            ),
        }),
        Dataset::Report => Row::Metric(MetricRow {
            metric: text("metric").unwrap(),
            time: text("time"),
            interval: text("interval").map(|name| if name == "hour" { Interval::Hour } else { Interval::Month }),
            dimensions: object("dimensions"),
            value: match find("value") {
                Some(Cell::Number(Some(number))) => Some(raw(number)),
                _ => None,
            },
        }),
        Dataset::Audiences => Row::Catalog(CatalogRow {
            id: text("id").unwrap(),
            kind: text("kind").unwrap(),
            name: text("name"),
            description: text("description"),
            size: match find("size") {
                Some(Cell::Integer(size)) => *size,
                _ => None,
            },
            status: text("status"),
            created_at: text("created_at"),
            updated_at: text("updated_at"),
            vendor: object("vendor"),
        }),
        _ => Row::Suppression(SuppressionRow {
            kind: text("kind").unwrap(),
            address: text("address"),
            suppressed_at: text("suppressed_at"),
            reason: text("reason"),
            vendor: object("vendor"),
        }),
    }
}

type Texts = Vec<Vec<Option<String>>>;

/// What every reader must find: a cell's text, an object's JSON text.
fn expected(case: &Case) -> Texts {
    let one_line = |json: &str| json.replace(['\n', '\r'], "");
    let row = |cells: &Cells| {
        let last = cells.len() - 1;
        let cell = |(index, (_, cell)): (usize, &(&str, Cell))| match cell {
            Cell::Text(text) => text.clone(),
            Cell::Time(time) => time.as_ref().and_then(|(_, left)| left.clone()),
            Cell::Number(number) => number.clone(),
            Cell::Integer(number) => number.map(|number| number.to_string()),
            Cell::Lists(lists) => Some(serde_json::to_string(lists).unwrap()),
            // The last object takes what could not be read.
            Cell::Object(members) => {
                let mut json = object(members);
                for (name, given) in
                    cells.iter().filter(|_| index == last || case.dataset == Dataset::Report).filter_map(stray)
                {
                    let mut name = name.to_owned();
                    while members.contains_key(&name) {
                        name += "_as_given";
                    }
                    let comma = if json.len() > 2 { "," } else { "" };
                    let member = format!("{comma}{}:{}}}", quoted(&name), quoted(given));
                    json.replace_range(json.len() - 1.., &member);
                }
                Some(one_line(&json))
            }
        };
        cells.iter().enumerate().map(cell).collect()
    };
    case.rows.iter().map(row).collect()
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap()
}

fn stray<'c>((name, cell): &'c (&'static str, Cell)) -> Option<(&'static str, &'c str)> {
    match cell {
        Cell::Time(Some((given, None))) => Some((name, given)),
        _ => None,
    }
}

fn ndjson_rows(text: &[u8], columns: &[(&str, ColumnType)]) -> Texts {
    let text = std::str::from_utf8(text).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'));
    let row = |line: &str| {
        let members: BTreeMap<String, Box<RawValue>> = serde_json::from_str(line).unwrap();
        assert_eq!(members.len(), columns.len());
        let cell = |(name, kind): &(&str, ColumnType)| match kind {
            ColumnType::Text | ColumnType::Date | ColumnType::Timestamp => {
                serde_json::from_str(members[*name].get()).unwrap()
            }
            _ => Some(members[*name].get().to_owned()).filter(|json| json != "null"),
        };
        columns.iter().map(cell).collect()
    };
    text.split_terminator('\n').map(row).collect()
}

/// By the letter of RFC 4180, with an eye on quotes: an empty cell without them is null.
fn csv_rows(text: &[u8], case: &Case) -> Texts {
    let text = std::str::from_utf8(text).unwrap();
    let mut rows = vec![vec![]];
    let mut rest = text;
    while !rest.is_empty() {
        let cell = if let Some(mut quoted) = rest.strip_prefix('"') {
            let mut cell = String::new();
            loop {
                let (part, after) = quoted.split_once('"').unwrap();
                cell += part;
                match after.strip_prefix('"') {
                    Some(after) => (cell, quoted) = (cell + "\"", after),
                    None => break rest = after,
                }
            }
            Some(cell)
        } else {
            let end = rest.find([',', '\r', '\n', '"']).unwrap();
            let cell = &rest[..end];
            rest = &rest[end..];
            Some(cell.to_owned()).filter(|cell| !cell.is_empty())
        };
        rows.last_mut().unwrap().push(cell);
        if let Some(after) = rest.strip_prefix(',') {
            rest = after;
        } else {
            rest = rest.strip_prefix("\r\n").unwrap();
            rows.push(vec![]);
        }
    }
    assert_eq!(rows.pop().unwrap(), Vec::<Option<String>>::new());
    let mut reader = ::csv::ReaderBuilder::new().has_headers(false).from_reader(text.as_bytes());
    let read: Vec<Vec<String>> =
        reader.records().map(|record| record.unwrap().iter().map(str::to_owned).collect()).collect();
    let plain = |row: &Vec<Option<String>>| row.iter().map(|cell| cell.clone().unwrap_or_default()).collect::<Vec<_>>();
    assert_eq!(read, rows.iter().map(plain).collect::<Vec<_>>());
    let header: Vec<_> = rows.remove(0).into_iter().flatten().collect();
    assert_eq!(header, case.columns.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    for row in &mut rows {
        for (cell, (_, kind)) in row.iter_mut().zip(&case.columns) {
            let text = cell.clone().unwrap_or_default();
            let bare = text.trim_start_matches('\'');
            let is_guarded = case.guard_formulas && *kind == ColumnType::Text && bare.len() < text.len();
            if is_guarded && bare.starts_with(['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠']) {
                *cell = Some(text[1..].to_owned());
            }
        }
    }
    rows
}

pub(super) fn parquet_rows(bytes: Vec<u8>) -> Texts {
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(bytes)).unwrap().build().unwrap();
    let mut rows = Texts::new();
    for batch in reader {
        let batch = batch.unwrap();
        for index in 0..batch.num_rows() {
            let cell = |column: &arrow_array::ArrayRef| {
                (!column.is_null(index)).then(|| match column.data_type() {
                    DataType::Utf8 => column.as_string::<i32>().value(index).to_owned(),
                    DataType::Date32 => {
                        let days = column.as_primitive::<types::Date32Type>().value(index);
                        NaiveDate::from_num_days_from_ce_opt(days + 719_163).unwrap().to_string()
                    }
                    DataType::Timestamp(TimeUnit::Microsecond, Some(zone)) if zone.as_ref() == "UTC" => {
                        let micros = column.as_primitive::<types::TimestampMicrosecondType>().value(index);
                        let time = DateTime::from_timestamp_micros(micros).unwrap();
                        time.to_rfc3339_opts(SecondsFormat::AutoSi, true)
                    }
                    DataType::Float64 => column.as_primitive::<types::Float64Type>().value(index).to_string(),
                    DataType::Int64 => column.as_primitive::<types::Int64Type>().value(index).to_string(),
                    other => panic!("a column of {other}"),
                })
            };
            rows.push(batch.columns().iter().map(cell).collect());
        }
    }
    rows
}

/// What Parquet makes of a text: numbers are doubles, fractions of a second have three or six digits.
fn typed(rows: &Texts, columns: &[(&str, ColumnType)]) -> Texts {
    let cell = |(cell, (_, kind)): (&Option<String>, &(&str, ColumnType))| {
        cell.as_ref().map(|text| match kind {
            ColumnType::Number => text.parse::<f64>().unwrap().to_string(),
            ColumnType::Timestamp => {
                DateTime::parse_from_rfc3339(text).unwrap().to_utc().to_rfc3339_opts(SecondsFormat::AutoSi, true)
            }
            _ => text.clone(),
        })
    };
    rows.iter().map(|row| row.iter().zip(columns).map(cell).collect()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn equal_rows_come_back_from_every_format(case in case()) {
        let expected = expected(&case);
        let rows: Vec<_> = case.rows.iter().map(|cells| row(case.dataset, cells)).collect();
        for (format, compression) in FORMATS {
            let output = Output {
                csv: crate::exports::request::CsvOptions { guard_formulas: case.guard_formulas },
                ..output(format, compression)
            };
            let encoding = Encoding::new(case.dataset, output, Selection::parse(&case.fields).unwrap()).unwrap();
            let bytes = file(&encoding, &rows, case.batch);
            match format {
                Format::Parquet => prop_assert_eq!(parquet_rows(bytes), typed(&expected, &case.columns)),
                Format::Csv => {
                    let mut expected = expected.clone();
                    if case.columns.len() == 1 {
                        for row in &mut expected {
                            row[0] = Some(row[0].take().unwrap_or_default());
                        }
                    }
                    prop_assert_eq!(csv_rows(&unpacked(&bytes, compression), &case), expected);
                }
                _ => prop_assert_eq!(&ndjson_rows(&unpacked(&bytes, compression), &case.columns), &expected),
            }
        }
    }
}
