//! One export in every format: what it is once somebody has loaded it. DuckDB reads here, not our own code.

use std::{fmt::Write as _, fs, path::Path};

use headgate::exports::{
    fields::ColumnType,
    request::Dataset,
    schema::{Column, USER},
};
use serde_json::{Value, json};

use crate::{
    conformance::{Case, over_all},
    duckdb,
    support::{Setup, TestGateway, file_path},
};

/// The files of one export, on this machine.
struct Loaded {
    /// Of the view; what was asked for.
    name: String,
    format: &'static str,
    paths: Vec<String>,
    records: u64,
}

impl Loaded {
    /// Runs an export and downloads every file of it.
    async fn run(gateway: &TestGateway, folder: &Path, body: &Value, output: Value) -> Self {
        let mut body = body.clone();
        body["output"] = output;
        let output = &body["output"];
        let export = gateway.run(&body).await;
        assert_eq!(export["state"], "succeeded", "{output}: {export:#}");
        let result = &export["result"];
        let format = match output["format"].as_str() {
            Some("csv") => "csv",
            Some("parquet") => "parquet",
            _ => "ndjson",
        };
        let name: String = output.to_string().chars().filter(char::is_ascii_alphanumeric).collect();
        let mut paths = Vec::new();
        for (number, file) in result["files"].as_array().unwrap().iter().enumerate() {
            let answer = gateway.get(&file_path(&export, file)).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            // DuckDB tells by the name how a file is packed: ours must say so.
            let path = folder.join(format!("{name}-{number}-{}", file["name"].as_str().unwrap()));
            fs::write(&path, answer.body).unwrap();
            paths.push(path.to_str().unwrap().to_owned());
        }
        assert!(output["single_file"] != true || paths.len() == 1, "{export:#}");
        Self { name, format, paths, records: result["records"].as_u64().unwrap() }
    }

    /// DuckDB's way to read the files.
    fn reader(&self, columns: &[&Column]) -> String {
        let paths: Vec<_> = self.paths.iter().map(|path| format!("'{path}'")).collect();
        let paths = paths.join(", ");
        let kinds = |object: &str| {
            let kind = |column: &&Column| {
                let kind = if is_json(column) { object } else { duckdb_type(column.kind) };
                format!("{}: '{kind}'", column.name)
            };
            columns.iter().map(kind).collect::<Vec<_>>().join(", ")
        };
        match self.format {
            "ndjson" => {
                format!("read_json([{paths}], format = 'newline_delimited', columns = {{{}}})", kinds("JSON"))
            }
            // Null is an empty cell, an empty text is `""`.
            "csv" => format!(
                "read_csv([{paths}], auto_detect = false, header = true, delim = ',', quote = '\"', escape = '\"', \
                 allow_quoted_nulls = false, columns = {{{}}})",
                kinds("VARCHAR")
            ),
            _ => format!("read_parquet([{paths}])"),
        }
    }

    /// The rows as a view. JSON is compared as DuckDB writes it again, so that spaces make no difference.
    fn view(&self, columns: &[&Column]) -> String {
        let cell = |column: &&Column| {
            let name = column.name;
            if is_json(column) { format!("json(t.{name})::varchar as {name}") } else { format!("t.\"{name}\"") }
        };
        let cells: Vec<_> = columns.iter().map(cell).collect();
        format!("create view {} as select {} from {} as t;\n", self.name, cells.join(", "), self.reader(columns))
    }

    /// The columns that the file itself has, with their types.
    fn described(&self, columns: &[&Column]) -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let described =
            duckdb::query(&format!("select column_name, column_type from (describe from {})", self.reader(columns)));
        described.iter().map(|row| (text(&row["column_name"]), text(&row["column_type"]))).collect()
    }
}

fn is_json(column: &Column) -> bool {
    matches!(column.kind, ColumnType::Object | ColumnType::TextLists)
}

/// How DuckDB calls the type of a column that is no object.
fn duckdb_type(kind: ColumnType) -> &'static str {
    match kind {
        ColumnType::Text | ColumnType::Object | ColumnType::TextLists => "VARCHAR",
        ColumnType::Date => "DATE",
        ColumnType::Timestamp => "TIMESTAMP WITH TIME ZONE",
        ColumnType::Number => "DOUBLE",
        ColumnType::Integer => "BIGINT",
    }
}

/// Asserts that DuckDB finds the same rows in all of them, and the documented types in Parquet.
fn assert_equal(what: &str, columns: &[&Column], all: &[Loaded]) {
    let first = &all[0];
    let mut sql: String = all.iter().map(|loaded| loaded.view(columns)).collect();
    for (number, other) in all.iter().enumerate() {
        let union = if number == 0 { "" } else { " union all " };
        write!(
            sql,
            "{union}select {number} as number, (select count(*) from {0}) as rows, \
             (select count(*) from (from {1} except all from {0})) as missing, \
             (select count(*) from (from {0} except all from {1})) as odd",
            other.name, first.name
        )
        .unwrap();
    }
    let counts = duckdb::query(&(sql + " order by number"));
    assert_eq!(counts.len(), all.len());
    for (loaded, counts) in all.iter().zip(counts) {
        assert!(loaded.records > 0, "{what}: {} has no rows to compare", loaded.name);
        let wanted = json!({"rows": first.records, "missing": 0, "odd": 0});
        let found = json!({"rows": counts["rows"], "missing": counts["missing"], "odd": counts["odd"]});
        assert_eq!(found, wanted, "{what}: {} against {}", loaded.name, first.name);
        if loaded.format == "parquet" {
            let typed = |column: &&Column| (column.name.to_owned(), duckdb_type(column.kind).to_owned());
            assert_eq!(loaded.described(columns), columns.iter().map(typed).collect::<Vec<_>>(), "{what}");
        }
    }
}

/// The columns that the usual request asks for.
fn columns(case: &Case<'_>) -> Vec<&'static Column> {
    let usual = case.usual();
    let fields = usual["parameters"]["fields"].as_array();
    let asked = |name: &str| {
        fields.is_none_or(|fields| fields.iter().any(|field| field.as_str().unwrap().split('.').next() == Some(name)))
    };
    case.dataset.dataset.schema().columns.iter().filter(|column| asked(column.name)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_dataset_is_equal_rows_in_every_format() {
    over_all(
        || Setup::default().people(20),
        async |case: Case<'_>| {
            let folder = tempfile::tempdir().unwrap();
            let mut all = Vec::new();
            for output in [
                json!({"format": "ndjson"}),
                json!({"format": "csv", "csv": {"guard_formulas": false}}),
                json!({"format": "parquet", "compression": "zstd"}),
            ] {
                all.push(Loaded::run(case.gateway, folder.path(), &case.usual(), output).await);
            }
            let columns = columns(&case);
            assert_equal(&case.name(), &columns, &all);
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn packing_order_and_number_of_files_change_no_row() {
    over_all(
        || Setup::default().people(100),
        async |case: Case<'_>| {
            if !matches!(case.dataset.dataset, Dataset::AudienceMembers | Dataset::RawEvents) {
                return;
            }
            let folder = tempfile::tempdir().unwrap();
            let mut all = Vec::new();
            for output in [
                json!({"format": "ndjson", "ordered": true, "single_file": true}),
                json!({"format": "ndjson", "compression": "gzip"}),
                json!({"format": "ndjson", "compression": "zstd", "ordered": true}),
                json!({"format": "csv", "csv": {"guard_formulas": false}, "compression": "gzip", "single_file": true}),
                json!({"format": "csv", "csv": {"guard_formulas": false}, "compression": "zstd"}),
                json!({"format": "parquet", "ordered": true}),
                json!({"format": "parquet", "compression": "zstd", "single_file": true}),
            ] {
                all.push(Loaded::run(case.gateway, folder.path(), &case.usual(), output).await);
            }
            let columns = columns(&case);
            assert_equal(&case.name(), &columns, &all);
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_columns_a_caller_chose_are_those_of_every_format() {
    over_all(Setup::default, async |case: Case<'_>| {
        if case.dataset.dataset != Dataset::AudienceMembers || !case.dataset.name.is_empty() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let mut body = TestGateway::everybody(case.account);
        body["parameters"]["fields"] = json!(case.account.fields);
        let mut all = Vec::new();
        for output in [
            json!({"format": "ndjson"}),
            json!({"format": "csv", "csv": {"guard_formulas": false}}),
            json!({"format": "parquet"}),
        ] {
            all.push(Loaded::run(case.gateway, folder.path(), &body, output).await);
        }
        let chosen = |column: &&Column| case.account.fields.contains(&column.name);
        let columns: Vec<_> = USER.columns.iter().filter(chosen).collect();
        assert_eq!(columns.len(), case.account.fields.len());
        assert_equal(&case.name(), &columns, &all);
        let header = fs::read_to_string(&all[1].paths[0]).unwrap();
        assert_eq!(header.lines().next().unwrap(), case.account.fields.join(","));
    })
    .await;
}

#[test]
fn a_row_that_differs_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        Loaded {
            name: name.replace('.', "_"),
            format: if name.ends_with("csv") { "csv" } else { "ndjson" },
            paths: vec![path.to_str().unwrap().to_owned()],
            records: 2,
        }
    };
    let columns: Vec<_> =
        USER.columns.iter().filter(|column| matches!(column.name, "user_id" | "attributes")).collect();
    let rows = file("a.ndjson", "{\"user_id\":null,\"attributes\":{\"a\":1}}\n{\"user_id\":\"\",\"attributes\":{}}\n");
    let same = file("b.csv", "user_id,attributes\r\n\"\",{}\r\n,\"{\"\"a\"\": 1}\"\r\n");
    assert_equal("equal rows", &columns, &[rows, same]);
    let rows = file("c.ndjson", "{\"user_id\":null,\"attributes\":{}}\n{\"user_id\":\"\",\"attributes\":{}}\n");
    let other = file("d.csv", "user_id,attributes\r\n\"\",{}\r\n\"\",{}\r\n");
    let outcome = std::panic::catch_unwind(|| assert_equal("null is no text", &columns, &[rows, other]));
    let said = *outcome.unwrap_err().downcast::<String>().unwrap();
    assert!(said.contains("null is no text"), "{said}");
}
