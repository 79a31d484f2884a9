//! What `fuzz/` feeds with bytes: users of every vendor that gives them line by line.

use std::sync::{Arc, OnceLock};

use serde_json::{Value, json};
use url::Url;

use super::{
    Account,
    http::Http,
    object::{self, Members},
    registry::VENDORS,
    shared::Alone,
};
use crate::{
    egress::EgressPolicy,
    exports::{
        fields::{Selection, UserColumn, Wanted},
        records::{Framing, Record, Records},
        request::{Dataset, ExportRequest, Output},
    },
};

/// How one request reads users.
struct Reading {
    selection: Selection,
    records: Arc<dyn Records>,
}

/// What members are asked for where single ones are.
const MEMBERS: [&str; 3] = ["attributes.plan", "attributes.a", "activity.purchases"];
/// Choices of columns; none is all of them.
const CHOICES: [&[&str]; 6] = [
    &[],
    &["user_id", "vendor_user_id", "email"],
    &["birth_date", "created_at", "attributes"],
    &["identities", "activity"],
    &["phone", MEMBERS[0], MEMBERS[1]],
    &["vendor_user_id", "gender", MEMBERS[2], MEMBERS[1]],
];

/// Every reading of users line by line: all vendors, all choices.
fn readings() -> &'static [Reading] {
    static READINGS: OnceLock<Vec<Reading>> = OnceLock::new();
    READINGS.get_or_init(|| {
        let base = Url::parse("https://vendor.test/").expect("an address");
        let http = Http::new(EgressPolicy::default()).expect("a client");
        let mut readings = Vec::new();
        for spec in VENDORS {
            let demo = (spec.sandbox_connection)(&base);
            for fields in CHOICES {
                let account = Account {
                    settings: demo.body["settings"].clone(),
                    credentials: credentials(&demo.body["credentials"]),
                    mapping: super::Mapping::default(),
                    values: crate::exports::mapping::ValueMaps::default(),
                    http: http.clone(),
                    shared: Arc::new(Alone),
                };
                let vendor = (spec.connect)(account).unwrap_or_else(|errors| panic!("{}: {errors:?}", spec.name));
                let parameters = json!({"audience": demo.audience, "fields": fields});
                let request = ExportRequest::parse(Dataset::AudienceMembers, &parameters, Output::default())
                    .unwrap_or_else(|errors| panic!("{}: {errors:?}", spec.name));
                let records = vendor.records(&request);
                // What a choice cannot be asked for at a vendor has no records there.
                if vendor.plan(&request).is_ok() && records.framing("") == Framing::Lines {
                    readings.push(Reading { selection: request.parameters.selection(), records });
                }
            }
        }
        readings
    })
}

fn credentials(body: &Value) -> std::collections::BTreeMap<String, secrecy::SecretString> {
    let members = body.as_object().into_iter().flatten();
    members.map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().into())).collect()
}

/// Lines of users as rows, as JSON: whatever the lines are, what comes out is one JSON object a line with exactly the
/// selected columns. The first byte chooses vendor and columns.
///
/// # Panics
/// When that is not so.
pub fn ndjson_select(data: &[u8]) {
    let Some((choice, lines)) = data.split_first() else { return };
    let readings = readings();
    let reading = &readings[usize::from(*choice) % readings.len()];
    let mut member = reading.records.member("");
    for line in lines.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty()) {
        let mut unified = Vec::new();
        let mut rows = 0;
        let read = member.unified(Record::Line(line), &mut |row| {
            rows += 1;
            row.write_json(&reading.selection, &mut unified).expect("a row is JSON");
            Ok(())
        });
        assert_eq!(rows, usize::from(read.is_ok()), "one line is one row or none");
        if read.is_ok() {
            check(&unified, &reading.selection);
        }
        let mut own = Vec::new();
        if member.vendor(Record::Line(line), &mut own).is_ok() && !own.is_empty() {
            object_of(&own);
        }
    }
}

/// The members of what was written.
fn object_of(json: &[u8]) -> Members<'_> {
    assert!(!json.contains(&b'\n'), "a record is one line");
    std::str::from_utf8(json).expect("a record is UTF-8");
    Members::read(json).expect("a record is a JSON object")
}

fn check(json: &[u8], selection: &Selection) {
    let members = object_of(json);
    let names: Vec<_> = members.0.iter().map(|(name, _)| name.as_ref()).collect();
    let wanted: Vec<_> = selection.columns().map(UserColumn::name).collect();
    assert_eq!(names, wanted, "a row has the selected columns, in the order of the schema");
    for (name, value) in &members.0 {
        let column = UserColumn::named(name).expect("a column");
        if column.is_text() {
            assert!(object::is_null(value) || value.get().starts_with('"'), "`{name}` is text or null");
            continue;
        }
        let inner = Members::of(value).unwrap_or_else(|| panic!("`{name}` is an object"));
        if let Wanted::Members(wanted) = selection.wants(column) {
            // A date that is none is kept here as text, if its column was asked for.
            let is_stray = |name: &str| selection.columns().any(|column| column.is_text() && column.name() == name);
            let odd = inner.0.iter().find(|(name, _)| !wanted.contains(name.as_ref()) && !is_stray(name));
            assert!(odd.is_none(), "`{name}` has a member that nobody asked for");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_one_vendor_gives_users_line_by_line() {
        assert!(readings().len() > CHOICES.len());
    }
}
