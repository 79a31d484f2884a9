//! Users by their ids: `POST /users/export/ids`, which answers at once. A part is one call; it is named by the positions
//! of its identifiers in the request, since identifiers are personal data and part names are not kept secret.
//! Source: `_docs/_api/endpoints/export/user_data/post_users_identifier.md`.

use std::{
    collections::BTreeSet,
    ops::RangeInclusive,
    sync::atomic::{AtomicUsize, Ordering},
};

use serde_json::{Map, Value, json};

use super::{
    api::{Api, Ask as Call, Endpoint, Pool},
    fields::Ask,
    records::BrazeUsers,
};
use crate::exports::{
    parameters::{Identifier, IdentifierKind},
    problem::Code,
    records::{BadRecord, Emit, Framing, LineRecords, Member, Record, Records},
};
use crate::vendors::{Exchanges, Next, PlannedCall, Progress, VendorData, VendorError};

const PATH: &str = "/users/export/ids";
const PERMISSION: &str = "users.export.ids";

/// The most external ids and aliases in one call; of all other ids a call takes one.
const MAX_IDS: usize = 50;
/// So many calls a plan shows.
const SHOWN: usize = 100;

/// Finding these takes Braze long, so requests for them have a smaller budget.
const SLOW: [&str; 2] = ["campaigns_received", "canvases_received"];

fn endpoint(ask: &Ask) -> Endpoint {
    let is_slow = ask.fields.iter().any(|field| SLOW.contains(field));
    Endpoint { path: PATH, permission: PERMISSION, pool: if is_slow { Pool::Profiles } else { Pool::FewFields } }
}

/// The calls that find `identifiers`, each named by their positions: `0-49`, `50-61,63`. One that is named twice is
/// asked for once.
pub fn parts(identifiers: &[Identifier]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let (mut parts, mut together) = (Vec::new(), Vec::new());
    for (position, identifier) in identifiers.iter().enumerate() {
        if !seen.insert((name(identifier.kind), &identifier.value, &identifier.label)) {
            continue;
        }
        if !matches!(identifier.kind, IdentifierKind::UserId | IdentifierKind::Alias) {
            parts.push(position.to_string());
            continue;
        }
        together.push(position);
        if together.len() == MAX_IDS {
            parts.push(spans(&together));
            together.clear();
        }
    }
    if !together.is_empty() {
        parts.push(spans(&together));
    }
    parts
}

fn spans(positions: &[usize]) -> String {
    let mut spans: Vec<RangeInclusive<usize>> = Vec::new();
    for position in positions {
        match spans.last_mut().filter(|span| *span.end() + 1 == *position) {
            Some(span) => *span = *span.start()..=*position,
            None => spans.push(*position..=*position),
        }
    }
    let written = spans.iter().map(|span| match (span.start(), span.end()) {
        (start, end) if start == end => start.to_string(),
        (start, end) => format!("{start}-{end}"),
    });
    written.collect::<Vec<_>>().join(",")
}

/// The identifiers of a part.
fn of_part<'a>(part: &str, identifiers: &'a [Identifier]) -> Option<Vec<&'a Identifier>> {
    let mut found = Vec::new();
    for span in part.split(',') {
        let (start, end) = span.split_once('-').unwrap_or((span, span));
        let span = start.parse::<usize>().ok()?..=end.parse::<usize>().ok()?;
        found.extend(identifiers.get(span)?);
    }
    Some(found)
}

/// What Braze calls an id, and in the plural what takes a list.
const fn name(kind: IdentifierKind) -> &'static str {
    match kind {
        IdentifierKind::UserId => "external_ids",
        IdentifierKind::Alias => "user_aliases",
        IdentifierKind::VendorUserId => "braze_id",
        IdentifierKind::Email => "email_address",
        IdentifierKind::Phone => "phone",
        IdentifierKind::DeviceId => "device_id",
    }
}

/// The body of one call. `fields_to_export` is always there: newer customers must send it, and it keeps the rest out.
fn body(identifiers: &[&Identifier], ask: &Ask) -> Value {
    let mut body = Map::new();
    for identifier in identifiers {
        let (name, value) = (name(identifier.kind), &identifier.value);
        let one = match identifier.kind {
            IdentifierKind::UserId => json!(value),
            IdentifierKind::Alias => json!({"alias_name": value, "alias_label": identifier.label}),
            _ => {
                body.insert(name.to_owned(), json!(value));
                continue;
            }
        };
        if let Value::Array(list) = body.entry(name).or_insert_with(|| json!([])) {
            list.push(one);
        }
    }
    body.insert("fields_to_export".to_owned(), json!(ask.fields));
    Value::Object(body)
}

/// The first calls, for people.
pub fn planned(parts: &[String], identifiers: &[Identifier], ask: &Ask) -> Vec<PlannedCall> {
    let bodies = parts.iter().take(SHOWN).filter_map(|part| of_part(part, identifiers));
    bodies
        .map(|identifiers| PlannedCall { method: "POST", path: PATH.into(), body: Some(body(&identifiers, ask)) })
        .collect()
}

/// Makes the call of a part.
pub async fn poll(
    api: &Api,
    part: &str,
    identifiers: &[Identifier],
    ask: &Ask,
    exchanges: &Exchanges,
) -> Result<Progress, VendorError> {
    let Some(wanted) = of_part(part, identifiers) else {
        return Err(VendorError::new(Code::Internal, Next::GiveUp, "the part is not one of this request"));
    };
    let body = body(&wanted, ask);
    let call = Call { action: "poll", endpoint: endpoint(ask), query: &[], body: Some(&body), holds: &["users"] };
    let download = api.fetch(call, exchanges).await?;
    Ok(Progress::Data(VendorData { download, extension: "json".into(), tag: "users".into() }))
}

/// Reads the users of answers, and counts the ids that Braze does not know.
pub struct Profiles {
    users: BrazeUsers,
    unknown: AtomicUsize,
}

impl Profiles {
    pub fn new(users: BrazeUsers) -> Self {
        Self { users, unknown: AtomicUsize::new(0) }
    }
}

impl Records for Profiles {
    fn framing(&self, _tag: &str) -> Framing {
        Framing::Json { records: &["users"] }
    }

    fn member<'r>(&'r self, _tag: &'r str) -> Box<dyn Member + 'r> {
        Box::new(Users(&self.users))
    }

    fn document(&self, head: &Value) {
        let unknown = head.get("invalid_user_ids").and_then(Value::as_array).map_or(0, Vec::len);
        self.unknown.fetch_add(unknown, Ordering::Relaxed);
    }

    /// Only how many: which ones would be personal data in a place that is not made for it.
    fn warnings(&self) -> Vec<String> {
        match self.unknown.load(Ordering::Relaxed) {
            0 => Vec::new(),
            1 => vec!["Braze does not know one of the identifiers".to_owned()],
            unknown => vec![format!("Braze does not know {unknown} of the identifiers of one call")],
        }
    }
}

struct Users<'r>(&'r BrazeUsers);

impl Member for Users<'_> {
    fn unified(&mut self, record: Record<'_>, emit: &mut Emit<'_>) -> Result<(), BadRecord> {
        emit(&self.0.unified(element(record)?.as_bytes())?)
    }

    fn vendor(&mut self, record: Record<'_>, out: &mut Vec<u8>) -> Result<(), BadRecord> {
        self.0.vendor(element(record)?.as_bytes(), out)
    }
}

/// The JSON of a record that is an element of a list.
pub fn element(record: Record<'_>) -> Result<&str, BadRecord> {
    match record {
        Record::Element { json, .. } => Ok(json),
        _ => Err(BadRecord("it is not an element of a list".into())),
    }
}

#[cfg(test)]
#[path = "profiles_tests.rs"]
mod tests;
