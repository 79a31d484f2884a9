//! A new version starts while the one before still works on the same database: what that one says must go on being
//! understood. `tests/upgrade/previous.sql` holds its statements; `just upgrade-statements` writes them anew when a
//! version is released.

use std::{collections::BTreeMap, fs, path::Path};

use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, PgPool, SqlSafeStr};

use crate::{
    process::replica,
    support::{Setup, TestGateway, eventually, new_database, parse_lines},
};

const PREVIOUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/upgrade/previous.sql");
const STORE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/store");
static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!();

/// The newest migration that the statements of [`PREVIOUS`] were written for, and the statements.
fn previous() -> (i64, Vec<String>) {
    let text = fs::read_to_string(PREVIOUS).unwrap();
    let (head, statements) = text.split_once('\n').unwrap();
    let version = head.strip_prefix("-- schema ").unwrap().parse().unwrap();
    (version, statements.split(";\n").map(|each| each.trim().to_owned()).filter(|each| !each.is_empty()).collect())
}

/// A database with the schema as of a migration.
async fn database_at(version: i64) -> PgConnection {
    let mut db = PgConnection::connect(&new_database().await).await.unwrap();
    for migration in MIGRATIONS.iter().filter(|migration| migration.version <= version) {
        db.execute(sqlx::raw_sql(AssertSqlSafe(migration.sql.as_str().to_owned()))).await.unwrap();
    }
    db
}

/// Why the database does not understand a statement. That it cannot tell the type of a parameter is no reason: the
/// program says it.
async fn refused(db: &mut PgConnection, statement: &str) -> Option<String> {
    match db.prepare(AssertSqlSafe(statement.to_owned()).into_sql_str()).await {
        Ok(_) => None,
        Err(error) => {
            let code = error.as_database_error().and_then(|error| error.code().map(std::borrow::Cow::into_owned));
            let untold = matches!(code.as_deref(), Some("42P18" | "42P08"));
            (!untold).then(|| format!("{error}: {statement}"))
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_version_before_is_understood_by_the_newest_schema() {
    let (version, statements) = previous();
    assert!(statements.len() > 50, "{} statements", statements.len());
    let (mut before, mut now) = (database_at(version).await, database_at(i64::MAX).await);
    let mut broken = Vec::new();
    for statement in &statements {
        assert_eq!(refused(&mut before, statement).await, None, "it was never understood");
        broken.extend(refused(&mut now, statement).await);
    }
    assert!(broken.is_empty(), "a migration breaks the version before:\n{}", broken.join("\n"));
}

/// Table and column, type, whether null is possible, whether something stands in where nothing is given.
type Columns = BTreeMap<(String, String), (String, bool, bool)>;

async fn columns(db: &mut PgConnection) -> Columns {
    let columns: Vec<(String, String, String, bool, bool)> = sqlx::query_as(
        "select table_name::text, column_name::text, udt_name::text, is_nullable = 'YES', \
         column_default is not null or is_nullable = 'YES' or is_generated = 'ALWAYS' or is_identity = 'YES' \
         from information_schema.columns where table_schema = 'public'",
    )
    .fetch_all(db)
    .await
    .unwrap();
    columns.into_iter().map(|(table, column, kind, null, given)| ((table, column), (kind, null, given))).collect()
}

/// Check and unique constraints that touch a column.
async fn constraints(db: &mut PgConnection) -> Vec<(String, String, Vec<String>)> {
    sqlx::query_as(
        "select conname::text, conrelid::regclass::text, array(select attname::text from pg_attribute \
         where attrelid = conrelid and attnum = any(conkey)) from pg_constraint \
         where contype in ('c', 'u', 'f', 'x') and connamespace = 'public'::regnamespace",
    )
    .fetch_all(db)
    .await
    .unwrap()
}

/// Expand, then contract: what the version before reads is there, what it writes is taken.
#[tokio::test(flavor = "multi_thread")]
async fn migrations_only_add() {
    let (version, _) = previous();
    let (mut old, mut new) = (database_at(version).await, database_at(i64::MAX).await);
    let (before, now) = (columns(&mut old).await, columns(&mut new).await);
    let mut wrong = Vec::new();
    for (column, (kind, null, given)) in &before {
        match now.get(column) {
            None => wrong.push(format!("{column:?} is gone")),
            Some((changed, _, _)) if changed != kind => wrong.push(format!("{column:?} is a {changed} now")),
            Some((_, null_now, _)) if *null && !null_now => wrong.push(format!("{column:?} no longer takes null")),
            Some((_, _, given_now)) if *given && !given_now => wrong.push(format!("{column:?} has lost its default")),
            Some(_) => {}
        }
    }
    let is_old_table = |table: &str| before.keys().any(|(known, _)| known == table);
    for ((table, column), (_, _, given)) in &now {
        if is_old_table(table) && !before.contains_key(&(table.clone(), column.clone())) && !given {
            wrong.push(format!("{table}.{column} is wanted of those who do not know it"));
        }
    }
    let known = constraints(&mut old).await;
    for (name, table, touched) in constraints(&mut new).await {
        let is_new = !known.iter().any(|(known, of, _)| (known, of) == (&name, &table));
        let touches_old = touched.iter().any(|column| before.contains_key(&(table.clone(), column.clone())));
        if is_new && touches_old {
            wrong.push(format!("{table} has a new constraint `{name}` on columns that are written already"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The same test must be able to fail.
#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_is_no_longer_understood_is_found() {
    let mut db = database_at(i64::MAX).await;
    db.execute("alter table connection rename column health to mood").await.unwrap();
    let (_, statements) = previous();
    let mut broken = 0;
    for statement in &statements {
        broken += usize::from(refused(&mut db, statement).await.is_some());
    }
    assert!(broken > 0);
}

/// Two versions over one database: `just upgrade-test PATH` names the older program.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "needs an older program: `just upgrade-test PATH`"]
async fn two_versions_work_side_by_side() {
    let old = std::env::var("UPGRADE_FROM").expect("UPGRADE_FROM is the path of an older program");
    let mut setup = Setup::default().people(300);
    (setup.sandbox.job_files, setup.sandbox.requests_per_second) = (40, 200.0);
    let mut gateway = setup.start().await;
    gateway.stop().await;
    // The older one comes first, with its schema.
    let database_url = new_database().await;
    gateway.db = PgPool::connect(&database_url).await.unwrap();
    (gateway.flags.database_url, gateway.database_url) = (Some(database_url.clone()), database_url);
    let (older, at_older) = replica(&gateway, &old).await;
    gateway.base = at_older.clone();
    let mut accounts = Vec::new();
    for vendor in ["braze", "growingio", "growingio_cdp"] {
        let mut account = gateway.account(vendor);
        if vendor == "growingio" {
            account.body["settings"]["requests_per_second"] = json!(200.0);
        }
        let answer = gateway.put(&format!("/v1/connections/{}", account.name), &account.body).await;
        assert!(answer.status.is_success(), "{answer:?}");
        accounts.push(account);
    }
    let from = gateway.sandbox.world().started_at() - chrono::TimeDelta::hours(60);
    let window = json!({"from": from, "to": from + chrono::TimeDelta::hours(12)});
    let raw = json!({"connection": accounts[1].name, "dataset": "raw_events",
                     "parameters": {"window": window, "event_types": ["page"]}});
    let mut exports = Vec::new();
    let mut submit_all = async |gateway: &TestGateway| {
        for body in [TestGateway::everybody(&accounts[0]), raw.clone(), TestGateway::everybody(&accounts[2])] {
            exports.push(gateway.submit(&body).await);
        }
    };
    submit_all(&gateway).await;
    // The new one brings its schema while the older one is at work.
    let (newer, at_newer) = replica(&gateway, env!("CARGO_BIN_EXE_headgate")).await;
    for round in 0..3 {
        for at in [&at_older, &at_newer] {
            gateway.base = at.clone();
            submit_all(&gateway).await;
        }
        if round == 1 {
            // What either of them leaves in the middle, the other takes up.
            gateway.base = at_newer.clone();
            eventually("something in hand", async || {
                let sql = "select count(*) from export where claim is not null";
                let held: i64 = sqlx::query_scalar(sql).fetch_one(&gateway.db).await.unwrap();
                (held > 0).then_some(())
            })
            .await;
        }
    }
    older.kill().await;
    gateway.base = at_newer;
    let mut records: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for export in &exports {
        let export = gateway.finished(export).await;
        assert_eq!(export["state"], "succeeded", "{export:#}");
        let count = parse_lines(&gateway.download(&export).await).len();
        assert_eq!(export["result"]["records"], count, "{export:#}");
        records.entry(export["dataset"].as_str().unwrap().to_owned()).or_default().push(count);
    }
    for (dataset, counts) in records {
        assert!(counts.windows(2).all(|pair| pair[0] == pair[1]), "{dataset}: {counts:?}");
    }
    drop(newer);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "writes a file: `just upgrade-statements`, when a version is released"]
async fn write_the_statements_of_this_version() {
    assert!(std::env::var_os("UPGRADE_WRITE").is_some(), "it writes {PREVIOUS}; UPGRADE_WRITE=1 says that it shall");
    let newest = MIGRATIONS.iter().map(|migration| migration.version).max().unwrap();
    let mut db = database_at(newest).await;
    let mut statements = Vec::new();
    for statement in statements_below(Path::new(STORE)) {
        match refused(&mut db, &statement).await {
            None => statements.push(statement),
            // It is put together by a macro with parameters, or more than one type of a parameter would do.
            Some(why) => println!("left out: {why}"),
        }
    }
    fs::write(PREVIOUS, format!("-- schema {newest}\n{};\n", statements.join(";\n"))).unwrap();
}

/// Every SQL statement of the source files in `folder`: texts that begin as statements do, and those that `concat!` puts
/// together with macros of their file, or of `exports.rs`.
fn statements_below(folder: &Path) -> Vec<String> {
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let shared = fs::read_to_string(folder.join("exports.rs")).unwrap();
    let mut statements = Vec::new();
    for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "rs")) {
        let text = fs::read_to_string(file).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        let macros: BTreeMap<_, _> = macros(&shared).into_iter().chain(macros(code)).collect();
        for literal in expressions(code, &macros) {
            let verb = literal.split_whitespace().next().unwrap_or_default();
            if ["select", "insert", "update", "delete", "with"].contains(&verb) && literal.contains(' ') {
                statements.push(literal.split_whitespace().collect::<Vec<_>>().join(" "));
            }
        }
    }
    statements.sort();
    statements.dedup();
    statements
}

/// What each macro without parameters stands for, where it stands for a text.
fn macros(code: &str) -> Vec<(String, String)> {
    let defined = code.split("macro_rules! ").skip(1);
    let read = |defined: &str| {
        let (name, rest) = defined.split_once(" {")?;
        let body = &rest[rest.find("=> {")?..rest.find("\n    };\n").or_else(|| rest.find("\n}"))?];
        Some((name.to_owned(), literals(body).concat()))
    };
    defined.filter_map(read).collect()
}

/// Every text in the code, those inside one `concat!` put together.
fn expressions(code: &str, macros: &BTreeMap<String, String>) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = code;
    while let Some(at) = rest.find("concat!(") {
        found.extend(literals(&rest[..at]));
        let inside = &rest[at + "concat!(".len()..];
        let end = end_of_group(inside);
        let mut whole = String::new();
        let mut group = &inside[..end];
        while let Some(start) = group.find(['"', '!']) {
            if group.as_bytes()[start] == b'"' {
                let (text, behind) = literal(&group[start + 1..]);
                whole.push_str(&text);
                group = behind;
            } else {
                let name = group[..start].rsplit(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap();
                whole.push_str(macros.get(name).map_or("", String::as_str));
                group = &group[start + 1..];
            }
        }
        found.push(whole);
        rest = &inside[end..];
    }
    found.extend(literals(rest));
    found
}

/// Where the parenthesis that was opened before `code` is closed.
fn end_of_group(code: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < code.len() {
        match code.as_bytes()[at] {
            b'(' => depth += 1,
            b')' if depth == 0 => return at,
            b')' => depth -= 1,
            b'"' => at += code[at + 1..].len() - literal(&code[at + 1..]).1.len(),
            _ => {}
        }
        at += 1;
    }
    at
}

fn literals(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = code;
    while let Some(start) = rest.find(['"', '/', '\'']) {
        rest = match (rest.as_bytes()[start], &rest[start..]) {
            (b'"', _) => {
                let (text, behind) = literal(&rest[start + 1..]);
                found.push(text);
                behind
            }
            // What stands in a comment is no statement, and a quote in one is no beginning.
            (b'/', comment) if comment.starts_with("//") => comment.find('\n').map_or("", |end| &comment[end..]),
            (b'\'', quoted) if quoted.starts_with("'\"'") => &quoted[3..],
            _ => &rest[start + 1..],
        };
    }
    found
}

/// The text that begins at `code`, behind its quote, and what follows its end.
fn literal(code: &str) -> (String, &str) {
    let mut text = String::new();
    let mut chars = code.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (text, &code[at + 1..]),
            '\\' => match chars.next() {
                // The line goes on; white space is folded later anyway.
                Some((_, '\n')) => text.push(' '),
                Some((_, 'n')) => text.push('\n'),
                Some((_, escaped)) => text.push(escaped),
                None => break,
            },
            c => text.push(c),
        }
    }
    (text, "")
}

#[test]
fn statements_are_found_in_code() {
    let code = r#"
macro_rules! columns {
    () => {
        "a, \
         b"
    };
}
// "select comment"
fn x() { query("select 1 from \"t\" \
    where x = '1'").bind('"'); query_as(concat!("update t set a = (1) ", "returning ", columns!())); f("word") }
"#;
    let macros: BTreeMap<_, _> = macros(code).into_iter().collect();
    let found: Vec<_> = expressions(&code[code.find("// ").unwrap()..], &macros)
        .iter()
        .map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(found, ["select 1 from \"t\" where x = '1'", "update t set a = (1) returning a, b", "word"]);
}
