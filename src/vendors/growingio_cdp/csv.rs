//! The csv files of an export: every row becomes the JSON line that a `json` file has for the user, so both make the
//! same rows. Source: `developer-manual/open-api/cdp/space/space-download-user-tag-users.md`: cells in quotes, null an
//! empty cell without them; `gio_id` first, then what was asked for in its order. Encoding and the escape of a quote
//! are not documented, so both ways are read. An empty text cannot be told from null.

use super::{
    properties::{Ask, identity_name, is_identity},
    records::CdpUsers,
};
use crate::exports::{
    records::{BadRecord, Delimiter, Dialect, Emit, Framing, LineRecords, Member, Record, Records},
    rows::Row,
};

/// The first column, however a file's header is written.
const GIO_ID: &str = "gio_id";
const DIALECT: Dialect = Dialect { delimiter: Delimiter::Comma, escape: Some(b'\\'), double_quote: true };

/// Reads the files of an audience export; the tag of a file is its extension.
pub struct CdpFiles(pub CdpUsers);

impl Records for CdpFiles {
    fn framing(&self, tag: &str) -> Framing {
        if tag == "csv" { Framing::Delimited(DIALECT) } else { Framing::Lines }
    }

    fn member<'r>(&'r self, tag: &'r str) -> Box<dyn Member + 'r> {
        if tag == "csv" {
            Box::new(CsvFile { users: &self.0, columns: None, line: Vec::new() })
        } else {
            self.0.member(tag)
        }
    }
}

/// Where a cell goes.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Column {
    GioId,
    /// An identity, by its key as JSON text.
    Identity(String),
    /// An attribute or a tag, by its key as JSON text.
    Property(String),
    /// A key that came before.
    Repeated,
}

struct CsvFile<'r> {
    users: &'r CdpUsers,
    /// After the header.
    columns: Option<Vec<Column>>,
    line: Vec<u8>,
}

impl CsvFile<'_> {
    /// Reads a row into `line`; answers whether it is a user's.
    fn read(&mut self, record: Record<'_>) -> Result<bool, BadRecord> {
        let Record::Cells(cells) = record else { return Err(BadRecord("it is no row of a csv file".into())) };
        let cells = cells.texts().collect::<Result<Vec<_>, _>>().map_err(|_| BadRecord("it is not UTF-8".into()))?;
        let Some(columns) = &self.columns else {
            self.columns = Some(columns(&cells, self.users.ask())?);
            return Ok(false);
        };
        if cells.len() != columns.len() {
            let why = format!("it has {} cells, the header has {}", cells.len(), columns.len());
            return Err(BadRecord(why.into()));
        }
        self.line.clear();
        write(columns, &cells, &mut self.line).map_err(|_| BadRecord("it cannot be written as JSON".into()))?;
        Ok(true)
    }
}

impl Member for CsvFile<'_> {
    fn unified(&mut self, record: Record<'_>, emit: &mut Emit<'_>) -> Result<(), BadRecord> {
        if !self.read(record)? {
            return Ok(());
        }
        let row: Row<'_> = self.users.unified(&self.line)?;
        emit(&row)
    }

    fn vendor(&mut self, record: Record<'_>, out: &mut Vec<u8>) -> Result<(), BadRecord> {
        if self.read(record)? { self.users.vendor(&self.line, out) } else { Ok(()) }
    }
}

/// What the columns of a file are: by their keys, or by their order where the header has display names, which repeat
/// and which nobody can look up.
fn columns(header: &[&str], ask: &Ask) -> Result<Vec<Column>, BadRecord> {
    let mut names = header.iter().map(|name| name.trim());
    if !names.next().is_some_and(|name| name.eq_ignore_ascii_case(GIO_ID)) {
        return Err(BadRecord("the first column is not `gio_id`".into()));
    }
    let names: Vec<_> = names.collect();
    let is_asked = |name: &&str| ask.properties.iter().any(|asked| is_same(asked, name));
    let keys: Vec<&str> = if names.iter().all(is_asked) {
        names
    } else if names.len() == ask.properties.len() {
        ask.properties.iter().map(String::as_str).collect()
    } else {
        let why = format!("the header has {} columns, {} were asked for", names.len(), ask.properties.len());
        return Err(BadRecord(why.into()));
    };
    let mut columns = vec![Column::GioId];
    for (index, key) in keys.iter().enumerate() {
        columns.push(match serde_json::to_string(key) {
            _ if keys[..index].iter().any(|before| is_same(before, key)) => Column::Repeated,
            Ok(json) if is_identity(key) => Column::Identity(json),
            Ok(json) => Column::Property(json),
            Err(_) => return Err(BadRecord("the header cannot be read".into())),
        });
    }
    Ok(columns)
}

/// Whether two keys mean one property: identities are spelled in several ways.
fn is_same(one: &str, other: &str) -> bool {
    one == other || (is_identity(one) && is_identity(other) && identity_name(one) == identity_name(other))
}

/// Writes a row as `{"gio_id": …, "identifications": {…}, "properties": {…}}`.
fn write(columns: &[Column], cells: &[&str], line: &mut Vec<u8>) -> serde_json::Result<()> {
    let pairs = || columns.iter().zip(cells);
    line.extend_from_slice(b"{\"gio_id\":");
    cell(cells.first().copied().unwrap_or_default(), line)?;
    let identities = pairs().filter_map(|(column, cell)| match column {
        Column::Identity(key) => Some((key, *cell)),
        _ => None,
    });
    let properties = pairs().filter_map(|(column, cell)| match column {
        Column::Property(key) => Some((key, *cell)),
        _ => None,
    });
    object(b",\"identifications\":{", identities, line)?;
    object(b",\"properties\":{", properties, line)?;
    line.push(b'}');
    Ok(())
}

fn object<'p>(
    begin: &[u8],
    pairs: impl Iterator<Item = (&'p String, &'p str)>,
    line: &mut Vec<u8>,
) -> serde_json::Result<()> {
    let mut is_first = true;
    for (key, value) in pairs {
        line.extend_from_slice(if is_first { begin } else { b"," });
        is_first = false;
        line.extend_from_slice(key.as_bytes());
        line.push(b':');
        cell(value, line)?;
    }
    if !is_first {
        line.push(b'}');
    }
    Ok(())
}

fn cell(value: &str, line: &mut Vec<u8>) -> serde_json::Result<()> {
    if value.is_empty() {
        line.extend_from_slice(b"null");
        return Ok(());
    }
    serde_json::to_writer(line, value)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::exports::fields::Selection;
    use crate::exports::records::OwnCells;

    fn files(fields: &[&str]) -> (Selection, CdpFiles) {
        let fields: Vec<_> = fields.iter().map(ToString::to_string).collect();
        let selection = Selection::parse(&fields).unwrap();
        let mapping = [("gender".to_owned(), "usr_gender".to_owned())].into();
        let ask = Ask::of_export(&selection, &mapping).unwrap();
        (selection.clone(), CdpFiles(CdpUsers::new(selection, ask)))
    }

    const FIELDS: [&str; 5] = ["user_id", "vendor_user_id", "identities", "gender", "attributes.tag_rfm"];

    fn read(fields: &[&str], rows: &[&[&str]]) -> Result<Vec<Value>, BadRecord> {
        let (selection, files) = files(fields);
        let mut member = files.member("csv");
        let mut out = Vec::new();
        for row in rows {
            let row: OwnCells = row.iter().collect();
            member.unified(Record::Cells(row.cells()), &mut |row| {
                let mut json = Vec::new();
                row.write_json(&selection, &mut json).unwrap();
                out.push(serde_json::from_slice(&json).unwrap());
                Ok(())
            })?;
        }
        Ok(out)
    }

    #[test]
    fn a_csv_row_is_the_same_user_as_its_json_line() {
        let header = ["gio_id", "id_$basic_userId", "usr_gender", "tag_rfm"];
        let rows = read(&FIELDS, &[&header, &["603542", "C001", "男", ""], &["605419", "", "", "低"]]).unwrap();
        let (selection, files) = files(&FIELDS);
        let line = |json: Value| {
            let (line, mut out) = (json.to_string(), Vec::new());
            files.0.unified(line.as_bytes()).unwrap().write_json(&selection, &mut out).unwrap();
            serde_json::from_slice::<Value>(&out).unwrap()
        };
        let first = json!({"gio_id": 603_542, "identifications": {"id_$basic_userId": "C001"}, "properties": {"usr_gender": "男", "tag_rfm": null}});
        let second =
            json!({"gio_id": 605_419, "identifications": {}, "properties": {"usr_gender": null, "tag_rfm": "低"}});
        assert_eq!(rows, [line(first), line(second)]);
        assert_eq!(rows[0]["vendor_user_id"], "603542");
        assert_eq!(read(&["vendor_user_id"], &[&["gio_id"], &["1"]]).unwrap(), [json!({"vendor_user_id": "1"})]);
    }

    /// Quirk 26.
    #[test]
    fn columns_under_display_names_are_known_by_their_order() {
        let names = ["gio_id", "用户属性", "用户属性", "用户属性"];
        let keys = ["gio_id", "ids_$basic_userId", "usr_gender", "tag_rfm"];
        let row = ["1", "C001", "女", "高"];
        let by_name = read(&FIELDS, &[&names, &row]).unwrap();
        assert_eq!(by_name[0]["attributes"], json!({"tag_rfm": "高"}));
        assert_eq!(by_name, read(&FIELDS, &[&keys, &row]).unwrap());
    }

    #[test]
    fn columns_in_another_order_are_known_by_their_keys() {
        let rows = read(&FIELDS, &[&["gio_id", "tag_rfm", "usr_gender"], &["1", "高", "女"]]).unwrap();
        assert_eq!((&rows[0]["gender"], &rows[0]["user_id"]), (&json!("女"), &Value::Null));
    }

    #[test]
    fn what_is_not_the_file_asked_for_is_refused() {
        let header = ["gio_id", "id_$basic_userId", "usr_gender", "tag_rfm"];
        assert!(read(&FIELDS, &[&["id", "usr_gender"]]).is_err());
        assert!(read(&FIELDS, &[&["gio_id", "性别"]]).is_err(), "too few columns to go by their order");
        assert!(read(&FIELDS, &[&header, &["1", "C001"]]).is_err());
        // Quirk 12: a typesetter's quote is no quote.
        assert!(read(&FIELDS, &[&["“gio_id\"", "id_$basic_userId", "usr_gender", "tag_rfm"]]).is_err());
    }

    #[test]
    fn the_vendor_schema_has_one_shape_for_both_formats() {
        let (_, files) = files(&[]);
        let (mut member, mut out) = (files.member("csv"), Vec::new());
        for row in [["gio_id", "id_$basic_userId", "usr_gender"], ["1", "C\"1", ""]] {
            member.vendor(Record::Cells(row.iter().collect::<OwnCells>().cells()), &mut out).unwrap();
        }
        assert_eq!(
            String::from_utf8(out).unwrap(),
            r#"{"gio_id":"1","identifications":{"id_$basic_userId":"C\"1"},"properties":{"usr_gender":null}}"#
        );
    }
}
