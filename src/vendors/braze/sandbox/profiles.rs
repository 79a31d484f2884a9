//! Users by their ids, at once: `_docs/_api/endpoints/export/user_data/post_users_identifier.md`.

use std::collections::BTreeSet;

use actix_web::{HttpRequest, HttpResponse, http::StatusCode, web};
use serde_json::{Map, Value, json, value::RawValue};

use super::{
    Asked, FIELDS,
    gate::{Gate, Pool, Refusal, Reply},
    order::{fields, object, texts},
};
use crate::vendors::sandbox::{
    World,
    people::{Oddity, Person},
};

/// External ids and aliases in one call.
pub const MAX_IDS: usize = 50;

const MEMBERS: [&str; 7] =
    ["external_ids", "user_aliases", "device_id", "braze_id", "email_address", "phone", "fields_to_export"];

/// Somebody who is asked for.
enum Wanted {
    ExternalId(String),
    Alias { label: String, name: String },
    BrazeId(String),
    DeviceId(String),
    Email(String),
    Phone(String),
}

type Kind = fn(String) -> Wanted;

/// `POST /users/export/ids`.
pub(super) async fn by_ids(world: web::Data<World>, request: HttpRequest, body: web::Bytes) -> HttpResponse {
    let gate = match Gate::open(&world, &request, "braze.ids", pool(&body), true) {
        Ok(gate) => gate,
        Err(answer) => return *answer,
    };
    let reply = answer(&world, &request, &body);
    gate.answer(&world, &request, reply).await
}

/// The faster tier is for requests that name fields and leave out what is slow to find.
fn pool(body: &[u8]) -> Pool {
    let fields = serde_json::from_slice::<Value>(body).ok().and_then(|body| texts(body.get("fields_to_export")));
    let slow = |field: &String| matches!(field.as_str(), "campaigns_received" | "canvases_received");
    if fields.is_some_and(|fields| !fields.iter().any(slow)) { Pool::FewFields } else { Pool::Profiles }
}

fn answer(world: &World, request: &HttpRequest, body: &[u8]) -> Result<Reply, Refusal> {
    let body = object(world, request, body, &MEMBERS)?;
    let asked = Asked::new(&fields(world, &body, |field| FIELDS.contains(&field))?, Vec::new());
    let wanted = wanted(world, &body)?;
    let (mut people, mut unknown) = (BTreeSet::new(), Vec::new());
    for wanted in &wanted {
        let found = wanted.find(world);
        if found.is_empty() {
            unknown.push(wanted.text());
        }
        people.extend(found);
    }
    // As text, because a record's numbers may be too large for a parsed value.
    let records = people.into_iter().map(|index| RawValue::from_string(world.person(index).braze(&asked)));
    let users: Vec<Box<RawValue>> =
        records.collect::<Result<_, _>>().map_err(|error| Refusal::bad(error.to_string()))?;
    let mut answer = json!({});
    if !unknown.is_empty() {
        answer["invalid_user_ids"] = json!(unknown);
    }
    Ok(Reply { status: StatusCode::CREATED, raw: Some(("users", users)), ..answer.into() })
}

fn wanted(world: &World, body: &Map<String, Value>) -> Result<Vec<Wanted>, Refusal> {
    let forbidden = |message: &str| Refusal::forbidden(world, message);
    let mut wanted = Vec::new();
    if let Some(ids) = body.get("external_ids") {
        let ids = texts(Some(ids)).ok_or_else(|| forbidden("external_ids must be an array of strings"))?;
        wanted.extend(ids.into_iter().map(Wanted::ExternalId));
    }
    if let Some(aliases) = body.get("user_aliases") {
        let alias = |alias: &Value| {
            let text = |name| alias.get(name).and_then(Value::as_str).map(str::to_owned);
            Some(Wanted::Alias { label: text("alias_label")?, name: text("alias_name")? })
        };
        let aliases = aliases.as_array().and_then(|aliases| aliases.iter().map(alias).collect::<Option<Vec<_>>>());
        wanted.extend(aliases.ok_or_else(|| forbidden("user_aliases must be objects of alias_name and alias_label"))?);
    }
    if wanted.len() > MAX_IDS {
        return Err(forbidden("The max number of external_ids and aliases per request was exceeded"));
    }
    let kinds: [(&str, Kind); 4] = [
        ("braze_id", Wanted::BrazeId),
        ("device_id", Wanted::DeviceId),
        ("email_address", Wanted::Email),
        ("phone", Wanted::Phone),
    ];
    let mut exclusive = 0;
    for (name, kind) in kinds {
        let Some(value) = body.get(name) else { continue };
        let text = value.as_str().ok_or_else(|| forbidden(&format!("{name} must be a string")))?;
        exclusive += usize::from(name != "braze_id");
        wanted.push(kind(text.to_owned()));
    }
    if exclusive > 1 {
        return Err(forbidden("only one of device_id, email_address and phone per request"));
    }
    if wanted.is_empty() {
        return Err(forbidden("no user was named"));
    }
    Ok(wanted)
}

impl Wanted {
    fn text(&self) -> &str {
        match self {
            Self::Alias { name, .. } => name,
            Self::ExternalId(id) | Self::BrazeId(id) | Self::DeviceId(id) | Self::Email(id) | Self::Phone(id) => id,
        }
    }

    /// The numbers of the people meant. Every id but a phone number tells where to look.
    fn find(&self, world: &World) -> Vec<u64> {
        let people = world.config.people;
        let is = |index: &u64| self.means(&world.person(*index));
        match self {
            Self::Phone(_) => (0..people).filter(is).collect(),
            Self::BrazeId(id) => {
                let tail = id.get(id.len().saturating_sub(8)..).and_then(|tail| u64::from_str_radix(tail, 16).ok());
                tail.into_iter().filter(|index| *index < people).filter(is).collect()
            }
            _ => {
                let runs = self.text().split(|c: char| !c.is_ascii_digit()).filter_map(|run| run.parse().ok());
                let found: BTreeSet<u64> = runs.filter(|index| *index < people).filter(is).collect();
                found.into_iter().collect()
            }
        }
    }

    fn means(&self, person: &Person) -> bool {
        match self {
            Self::ExternalId(id) => person.user_id.as_ref() == Some(id),
            Self::Alias { label, name } => person.aliases.iter().any(|(l, n)| l == label && n == name),
            Self::BrazeId(id) => person.braze_id() == *id,
            Self::DeviceId(id) => person.oddity == Oddity::Devices && *id == device_id(person),
            Self::Email(address) => person.email.as_ref() == Some(address),
            Self::Phone(number) => person.phone.as_ref() == Some(number),
        }
    }
}

/// As in the person's push token; only those with several devices have one.
pub(super) fn device_id(person: &Person) -> String {
    format!("d-{}", person.index)
}
