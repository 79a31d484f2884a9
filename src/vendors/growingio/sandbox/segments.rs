//! Segments: the list, the users of one at once, and the variables that users have.

use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::{Value, json};

use super::{
    NAME,
    access::{Call, Refusal, either},
    catalog::beginning,
    users::{Separator, UserType, Users, VARIABLES},
};
use crate::vendors::sandbox::{Audience, World, people::Person};

/// The server gives up after this long.
const PATIENCE: Duration = Duration::from_secs(5);
/// The people's oddities, and with them who has an id, come round after so many.
const ROUND: u64 = 16;

/// The segment of that number: its id in paths.
pub fn segment_id(number: u64) -> String {
    format!("Sg{number:06}")
}

/// The segment with that id.
pub fn segment(world: &World, id: &str) -> Option<Audience> {
    let number = id.strip_prefix("Sg")?.parse().ok()?;
    world.audience(number).filter(|_| segment_id(number) == id)
}

/// Odd numbers are made of visitors, even ones of login users.
pub fn user_type(audience: Audience) -> UserType {
    if audience.number % 2 == 1 { UserType::Visitor } else { UserType::Login }
}

/// `GET /projects/{project}/segmentations.json`.
pub async fn list(world: web::Data<World>, request: HttpRequest) -> HttpResponse {
    either(listed(&world, &request).await)
}

async fn listed(world: &web::Data<World>, request: &HttpRequest) -> Result<HttpResponse, Refusal> {
    let call = Call::admit(world, request, "growingio.segmentations")?;
    call.query(&[]);
    let items: Vec<_> = world.audiences().map(|audience| item(world, audience)).collect();
    Ok(call.json(json!(items)).await)
}

fn item(world: &World, audience: Audience) -> Value {
    json!({
        "id": segment_id(audience.number),
        "name": audience.title(),
        "userType": user_type(audience).name(),
        "userNum": size(world, audience),
        "updatedAt": format!("2026-0{}-{:02}", 1 + audience.number % 9, 1 + audience.number % 28),
    })
}

/// The row of `audience.v1` that a list item means.
pub fn audience_v1(world: &World, audience: Audience) -> Value {
    let item = item(world, audience);
    json!({
        "id": item["id"],
        "kind": "segment",
        "name": item["name"],
        "description": null,
        "size": item["userNum"],
        "status": null,
        "created_at": null,
        "updated_at": beginning(&item["updatedAt"]),
        "vendor": {"userType": item["userType"]},
    })
}

/// How many of its people the segment counts, without going through all of them.
fn size(world: &World, audience: Audience) -> u64 {
    let members = audience.size();
    if user_type(audience) == UserType::Visitor {
        return members;
    }
    let has_id = |position: u64| {
        let index = audience.members().nth(usize::try_from(position).unwrap_or(usize::MAX));
        index.is_some_and(|index| Person::new(world.config.seed, index).user_id.is_some())
    };
    let of_position = |position: u64| if has_id(position) { (members - position).div_ceil(ROUND) } else { 0 };
    (0..ROUND.min(members)).map(of_position).sum()
}

/// `GET /projects/{project}/segmentations/{id}/users.csv`: separated by tabs, whatever its name says.
pub async fn users(world: web::Data<World>, request: HttpRequest) -> HttpResponse {
    either(all_users(&world, &request).await)
}

async fn all_users(world: &web::Data<World>, request: &HttpRequest) -> Result<HttpResponse, Refusal> {
    let call = Call::admit(world, request, "growingio.users")?;
    call.query(&[]);
    let audience = segment(world, &call.path("id")).ok_or_else(|| call.unknown_id())?;
    if world.fault("growingio.users.timeout") {
        return Err(request_timeout(world).await);
    }
    world.note(NAME, |activity| activity.submissions += 1);
    let users = Users {
        audience,
        seed: world.config.seed,
        user_type: user_type(audience),
        variables: VARIABLES.map(str::to_owned).into(),
        separator: Separator::Tab,
        display_header: world.fault("growingio.users.display_header"),
        empty: false,
        bad_record: false,
        bom: false,
        break_off: call.breaks_off(),
    };
    Ok(call.text("text/csv;charset=UTF-8", move |file| users.write(file)).await)
}

/// What heavy questions get, once the server's patience is over.
pub async fn request_timeout(world: &World) -> Refusal {
    let patience = PATIENCE.div_f64(world.config.clock.speed.max(1.0));
    tokio::time::sleep(patience).await;
    world.refuse(NAME, "request_timeout");
    let error = json!({"code": "request_timeout", "message": "Request timeout in 5000 milliseconds"});
    Refusal::from(HttpResponse::InternalServerError().json(json!({"message": "Request timeout", "errors": [error]})))
}

/// `GET /v1/api/projects/{project}/vars/peoples` and `…/visitors`.
pub async fn variables(world: web::Data<World>, request: HttpRequest) -> HttpResponse {
    either(all_variables(&world, &request).await)
}

async fn all_variables(world: &web::Data<World>, request: &HttpRequest) -> Result<HttpResponse, Refusal> {
    let call = Call::admit(world, request, "growingio.variables")?;
    call.query(&[]);
    let items: Vec<_> = VARIABLES.iter().map(|key| json!({"key": key, "name": format!("变量 {key}")})).collect();
    Ok(call.json(json!(items)).await)
}
