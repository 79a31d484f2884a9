//! `GET /v2/insights/…` and `GET /insights/…`: the state of an hour's or a day's files, and links to them.
//! There is nothing to submit: the vendor makes the files by itself (`api/originaldata-export-v2/definition/`).

use actix_web::{HttpRequest, HttpResponse, web};
use chrono::TimeDelta;
use serde_json::{Map, Value, json};

use super::{
    NAME,
    access::{Call, Refusal, either},
    columns::{DATA_TYPES, DataType},
    events::Source,
    links,
    raw_files::{Part, Version},
    slices::{Granularity, Slice, State},
};
use crate::vendors::sandbox::World;

/// `GET /v2/insights/{export_type}/{data_type}/{ai}/{date}.json`.
pub async fn one_type(world: web::Data<World>, request: HttpRequest) -> HttpResponse {
    either(version_2(&world, &request, true).await)
}

/// `GET /v2/insights/{export_type}/{ai}/{date}.json`.
pub async fn all_types(world: web::Data<World>, request: HttpRequest) -> HttpResponse {
    either(version_2(&world, &request, false).await)
}

async fn version_2(world: &web::Data<World>, request: &HttpRequest, typed: bool) -> Result<HttpResponse, Refusal> {
    let call = Call::admit(world, request, "growingio.raw")?;
    world.note(NAME, |activity| activity.polls += 1);
    let life = lifetime(&call)?;
    let Some(granularity) = Granularity::named(&call.path("export_type")) else {
        return Err(call.bad_request("`export_type` is hour or day"));
    };
    let data_type = DataType::named(&call.path("data_type"));
    if typed && data_type.is_none() {
        return Err(call.bad_request("`data_type` is none of the ten that are documented"));
    }
    if world.fault("growingio.raw.all_empty") {
        let mut answer = json!({
            "status": "", "downloadLinks": [], "exportType": "", "dataType": "", "exportDate": "",
            "exportVersion": "", "requestTime": "", "errorMsg": ""
        });
        if !typed {
            without_data_type(&mut answer);
        }
        return Ok(call.json(answer).await);
    }
    let slice = slice(&call, granularity);
    let status = status(world, slice);
    let links = |data_type| match slice.filter(|_| status == "FINISHED") {
        Some(slice) => minted(&call, Version::Two, data_type, slice, life),
        None => Vec::new(),
    };
    let download_links = match data_type {
        Some(data_type) => json!(links(data_type)),
        None => DATA_TYPES.iter().map(|all| (all.name.to_owned(), json!(links(all)))).collect::<Map<_, _>>().into(),
    };
    if let Some(slice) = slice.filter(|_| status == "FINISHED") {
        let name = data_type.map_or("*", |data_type| data_type.name);
        world.count(NAME, format!("finished v2/{}/{name}/{}", granularity.name(), slice.date()));
    }
    let mut answer = json!({
        "status": status,
        "downloadLinks": download_links,
        "exportType": granularity.name(),
        "dataType": data_type.map(|data_type| data_type.name),
        "exportDate": slice.map_or_else(|| call.path("date"), Slice::date),
        "exportVersion": "v2",
        "requestTime": world.now().format("%Y-%m-%d %H:%M").to_string(),
        "errorMsg": if status == "ERROR" { "export task failed" } else { "" },
    });
    if !typed {
        without_data_type(&mut answer);
    }
    Ok(call.json(answer).await)
}

/// `GET /insights/{ai}/{date}.json`: seven tables in one list, which only the links tell apart.
pub async fn version_1(world: web::Data<World>, request: HttpRequest) -> HttpResponse {
    either(all_of_version_1(&world, &request).await)
}

async fn all_of_version_1(world: &web::Data<World>, request: &HttpRequest) -> Result<HttpResponse, Refusal> {
    let call = Call::admit(world, request, "growingio.raw")?;
    world.note(NAME, |activity| activity.polls += 1);
    let life = lifetime(&call)?;
    let granularity = if call.path("date").len() == 8 { Granularity::Day } else { Granularity::Hour };
    let slice = slice(&call, granularity);
    let status = match status(world, slice) {
        // v1 has three statuses.
        "ERROR" => "NOT_EXISTS",
        status => status,
    };
    let Some(slice) = slice.filter(|_| status == "FINISHED") else {
        return Ok(call.json(json!({"status": status, "downlinks": []})).await);
    };
    world.count(NAME, format!("finished v1/{}/*/{}", granularity.name(), slice.date()));
    let tables = DATA_TYPES.iter().filter(|data_type| data_type.version_1.is_some());
    let links: Vec<_> = tables.flat_map(|table| minted(&call, Version::One, table, slice, life)).collect();
    Ok(call.json(json!({"status": status, "downlinks": links})).await)
}

/// The answer for all types names none.
fn without_data_type(answer: &mut Value) {
    if let Some(members) = answer.as_object_mut() {
        members.shift_remove("dataType");
    }
}

fn lifetime(call: &Call) -> Result<TimeDelta, Refusal> {
    let query = call.query(&["expire"]);
    links::lifetime(query.get("expire"))
        .ok_or_else(|| call.bad_request("`expire` is a number of minutes, at most 10080"))
}

/// A date that cannot be read is a slice that does not exist.
fn slice(call: &Call, granularity: Granularity) -> Option<Slice> {
    let slice = Slice::parse(granularity, &call.path("date"));
    if slice.is_none() {
        call.world.violation(NAME, "the date is no yyyyMMdd, yyyyMMddHH or yyyyMMddHHmm that fits");
    }
    slice
}

fn status(world: &World, slice: Option<Slice>) -> &'static str {
    match slice.map_or(State::NotExists, |slice| slice.state(world.now())) {
        State::NotExists => "NOT_EXISTS",
        State::Running => "RUNNING",
        State::Finished => [
            ("growingio.raw.running", "RUNNING"),
            ("growingio.raw.not_exists", "NOT_EXISTS"),
            ("growingio.raw.error", "ERROR"),
            ("growingio.raw.unknown_status", "ARCHIVING"),
        ]
        .into_iter()
        .find(|(name, _)| world.fault(name))
        .map_or("FINISHED", |(_, status)| status),
    }
}

/// New links to every file of one type in the slice.
fn minted(call: &Call, version: Version, data_type: &'static DataType, slice: Slice, life: TimeDelta) -> Vec<Value> {
    let world = &call.world;
    let (source, max_records) = (Source::of(world), world.config.raw_part_records.max(1));
    let expires = if world.fault("growingio.raw.dead_links") { world.now() } else { world.now() + life };
    let parts = slice.hours().flat_map(|hour| {
        let count = Part::count(source, data_type, hour, max_records);
        (0..count).map(move |number| Part { source, version, data_type, hour, number, max_records })
    });
    parts.map(|part| json!(links::to_part(&call.request, &part, expires))).collect()
}
