use serde_json::{Value, json};

use super::*;
use crate::exports::records::OwnCells;
use crate::{
    exports::mapping::{ConnectionMapping, Feed},
    vendors::{growingio::statistics::COMMAS, scripted},
};

fn files(fields: &[&str], mapping: &[(&str, &str)]) -> UserFiles {
    let fields: Vec<_> = fields.iter().map(ToString::to_string).collect();
    let mapping = mapping.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let selection = Selection::parse(&fields).unwrap();
    let ask = Ask::new(&selection, &mapping);
    UserFiles::new(selection, ask, ValueMaps::default())
}

/// Cuts and reads a file as the worker does.
fn read(files: &UserFiles, tag: &str, text: &str, as_vendor: bool) -> Result<Vec<Value>, BadRecord> {
    let Framing::Delimited(dialect) = files.framing(tag) else { panic!("not delimited") };
    let (mut member, mut rows) = (files.member(tag), Vec::new());
    for row in scripted::rows(text, dialect) {
        let mut out = Vec::new();
        let mut emit = |row: &Row<'_>| {
            row.write_json(&files.selection, &mut out).unwrap();
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

fn unified(files: &UserFiles, tag: &str, text: &str) -> Vec<Value> {
    read(files, tag, text, false).unwrap()
}

/// Quirk 13; the sample is the documents', with the white space at the ends of its lines.
#[test]
fn users_csv_has_tabs_and_white_space_at_the_ends_of_lines() {
    let files = files(&["user_id", "vendor_user_id", "identities", "attributes"], &[]);
    let expected = json!({"user_id": "12249", "vendor_user_id": null, "identities": {"cs1": ["12249"]},
        "attributes": {"name": "GrowingIO"}});
    for text in ["cs1\tname    \n12249\tGrowingIO", "\u{feff}cs1\tname\t  \r\n12249\tGrowingIO\t\t\r\n"] {
        assert_eq!(unified(&files, TABS, text), std::slice::from_ref(&expected), "{text:?}");
    }
}

#[test]
fn ids_are_found_by_each_of_their_names() {
    let files = files(&["user_id", "vendor_user_id", "identities"], &[]);
    for (header, row, user, visitor) in [
        ("cs1", "7", json!("7"), Value::Null),
        ("CS1", "7", json!("7"), Value::Null),
        ("登录用户ID", "7", json!("7"), Value::Null),
        ("访问用户ID", "v", Value::Null, json!("v")),
        ("u", "v", Value::Null, json!("v")),
        ("访问用户ID\t登录用户ID ", "v\t7 ", json!("7"), json!("v")),
        ("访问用户ID\t登录用户ID", "v\t", Value::Null, json!("v")),
        ("登录用户ID\t访问用户ID", "\tv", Value::Null, json!("v")),
    ] {
        let row = &unified(&files, TABS, &format!("{header}\n{row}\n"))[0];
        assert_eq!((&row["user_id"], &row["vendor_user_id"]), (&user, &visitor), "{header}");
        let names: Vec<_> = row["identities"].as_object().unwrap().keys().map(String::as_str).collect();
        let known = [("cs1", &user), ("u", &visitor)].into_iter().filter(|(_, id)| !id.is_null());
        assert_eq!(names, known.map(|(name, _)| name).collect::<Vec<_>>(), "{header}");
    }
}

#[test]
fn the_mapping_feeds_columns_and_attributes() {
    let mapping = [
        ("gender", "gender_key"),
        ("email", "邮箱"),
        ("phone", "none"),
        ("attributes.level", "Plan"),
        ("user_id", "cs1"),
    ];
    let files = files(&[], &mapping);
    let row = &unified(&files, EXPORTED, "登录用户ID,gender_key,邮箱,plan,age\n7,男,a@example.test,高,\n")[0];
    assert_eq!((&row["user_id"], &row["gender"], &row["email"]), (&json!("7"), &json!("男"), &json!("a@example.test")));
    assert_eq!((&row["phone"], &row["activity"]), (&Value::Null, &json!({})));
    assert_eq!(row["attributes"], json!({"level": "高", "age": null}));
}

#[test]
fn values_of_what_the_mapping_names_are_translated() {
    let feed = |from: &str, theirs: &str, ours: &str| Feed {
        from: from.into(),
        values: [(theirs.to_owned(), ours.to_owned())].into(),
    };
    let (mapping, values) = ValueMaps::split(ConnectionMapping::from([
        ("gender".to_owned(), feed("gender_key", "男", "male")),
        ("user_id".to_owned(), feed("cs1", "7", "seven")),
        ("attributes.level".to_owned(), feed("plan", "高", "high")),
    ]));
    let selection = Selection::everything();
    let ask = Ask::new(&selection, &mapping);
    let files = UserFiles::new(selection, ask, values);
    let rows = unified(&files, EXPORTED, "登录用户ID,gender_key,plan\n7,男,高\n8,女,\n");
    assert_eq!((&rows[0]["user_id"], &rows[0]["gender"]), (&json!("seven"), &json!("male")));
    assert_eq!((&rows[0]["identities"], &rows[0]["attributes"]), (&json!({"cs1": ["7"]}), &json!({"level": "high"})));
    assert_eq!((&rows[1]["user_id"], &rows[1]["gender"]), (&json!("8"), &json!("女")));
    assert_eq!(rows[1]["attributes"], json!({"level": null}));
}

#[test]
fn named_attributes_keep_out_the_others() {
    let files = files(&["attributes.age", "attributes.变量 plan", "attributes.gone"], &[]);
    let text = "访问用户ID,age,plan,变量 plan\nv,28,x,\n";
    assert_eq!(unified(&files, EXPORTED, text), [json!({"attributes": {"age": "28", "变量 plan": null}})]);
    assert_eq!(read(&files, EXPORTED, text, true).unwrap(), [json!({"age": "28", "变量 plan": null})]);
}

/// As in raw data: backslashes escape, values may hold commas and line ends.
#[test]
fn the_exporters_file_has_backslashes() {
    let files = files(&["user_id", "attributes"], &[]);
    let text = "cs1,note\n\"7\",\"say \\\"hi\\\", \\\\ and\ngo\"\n";
    assert_eq!(
        unified(&files, EXPORTED, text),
        [json!({"user_id": "7", "attributes": {"note": "say \"hi\", \\ and\ngo"}})]
    );
}

#[test]
fn quotes_in_tabs_are_text_unless_the_header_has_them() {
    let files = files(&["user_id", "attributes"], &[]);
    let open = unified(&files, TABS, "cs1\tnote\n7\t\"open\n8\t\"both\"\n");
    assert_eq!(
        (&open[0]["attributes"]["note"], &open[1]["attributes"]["note"]),
        (&json!("\"open"), &json!("\"both\""))
    );
    let quoted = unified(&files, TABS, "\"cs1\"\t\"note\"\n\"7\"\t\"both\"\n");
    assert_eq!(quoted, [json!({"user_id": "7", "attributes": {"note": "both"}})]);
    let commas = unified(&files, COMMAS, "cs1,note\n7,\"a \"\"b\"\", c\"\n");
    assert_eq!(commas, [json!({"user_id": "7", "attributes": {"note": "a \"b\", c"}})]);
}

/// Quirk 12.
#[test]
fn smart_quotes_are_text() {
    let files = files(&["user_id", "attributes"], &[]);
    let row = &unified(&files, EXPORTED, "cs1,性别\n7,“男”\n")[0];
    assert_eq!(row["attributes"], json!({"性别": "“男”"}));
}

/// Quirk 26.
#[test]
fn columns_with_one_name_stay_apart() {
    let files = files(&[], &[]);
    let text = "cs1,变量,变量\n7,a,b\n";
    assert_eq!(unified(&files, EXPORTED, text)[0]["attributes"], json!({"变量": "a", "变量 (2)": "b"}));
    assert_eq!(read(&files, EXPORTED, text, true).unwrap(), [json!({"cs1": "7", "变量": "a", "变量 (2)": "b"})]);
}

#[test]
fn the_vendor_schema_keeps_only_what_was_asked_for() {
    let files = files(&["user_id", "gender"], &[("gender", "sex")]);
    let text = "访问用户ID,登录用户ID,sex,age\nv,7,,28\n";
    assert_eq!(read(&files, EXPORTED, text, true).unwrap(), [json!({"登录用户ID": "7", "sex": null})]);
}

/// Quirk 14.
#[test]
fn rows_of_another_length_and_files_without_ids_are_refused() {
    let files = files(&[], &[]);
    for text in ["cs1\tname\n7\n", "cs1\tname\n7\ta\tb\n", "name\tage\na\tb\n", "Internal Server Error\n"] {
        for as_vendor in [false, true] {
            assert!(read(&files, TABS, text, as_vendor).is_err(), "{text:?}");
        }
    }
    assert!(unified(&files, TABS, "").is_empty() && unified(&files, TABS, "cs1\tname\n").is_empty());
    let mapped = self::files(&["user_id"], &[("user_id", "name")]);
    assert_eq!(unified(&mapped, TABS, "name\tage\na\tb\n"), [json!({"user_id": "a"})]);
}

/// Quirk 28.
#[test]
fn exactly_200_000_users_are_told() {
    let files = files(&["user_id"], &[]);
    let mut member = files.member(TABS);
    let mut take = |cells: &[&str]| {
        member.unified(Record::Cells(cells.iter().collect::<OwnCells>().cells()), &mut |_| Ok(())).unwrap();
    };
    take(&["cs1"]);
    assert!(files.warnings().is_empty());
    let before = MAX_USERS - 2;
    files.users.store(before, Ordering::Relaxed);
    for number in before + 1..=MAX_USERS + 1 {
        take(&["7"]);
        assert_eq!(files.warnings().len(), usize::from(number == MAX_USERS), "{number}");
    }
}
