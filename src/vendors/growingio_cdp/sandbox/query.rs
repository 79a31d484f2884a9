//! Users without a job: the pages of a tag's or segment's users, and the query for one user.
//! Source: `developer-manual/open-api/cdp/space/{space-search-segment-profile-users,space-search-user}.md`.

use actix_web::{HttpRequest, HttpResponse, web};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use super::{
    NAME,
    answer::{Query, answered, audience_of},
    computations::detector,
    order::is_property,
    users::{Member, USER_ID},
};
use crate::vendors::sandbox::{World, people::Person};

const MAX_LIMIT: u64 = 1_000;
const MAX_PROPERTIES: usize = 20;

/// `GET …/user_tags/{key}/users` and `…/segment_profiles/{key}/users`. `totalCount` is that of the page.
pub async fn users(world: web::Data<World>, request: HttpRequest) -> HttpResponse {
    answered(&world, &request, "growingio_cdp.users", || {
        let query = Query::read(&world, &request, &["limit", "offset", "properties[]"]);
        let page = query.page(MAX_LIMIT)?;
        let properties = query.all("properties[]");
        if properties.len() > MAX_PROPERTIES {
            return query.bad(format!("`properties[]` may come at most {MAX_PROPERTIES} times"));
        }
        for name in properties.iter().filter(|name| !is_property(name)) {
            world.violation(NAME, format!("there is no property {name:?}"));
        }
        let (audience, prefix) = audience_of(&world, &request)?;
        let computation = detector(&world, prefix, audience.number).data;
        let rows = page.rows(&world, audience.size(), "growingio_cdp.users.shifted_page");
        let mut answer = page.envelope(&rows, audience.size(), rows.end.saturating_sub(rows.start));
        let item = |row| {
            let index = audience.members().nth(usize::try_from(row).ok()?)?;
            Some(Member { person: &world.person(index), computation: &computation }.item(properties))
        };
        answer["values"] = rows.filter_map(item).collect();
        Ok(answer)
    })
}

/// `GET …/users/{identityKey}/{identityValue}`. Who is not there is a user with the id `0`.
pub async fn user(world: web::Data<World>, request: HttpRequest) -> HttpResponse {
    answered(&world, &request, "growingio_cdp.user", || {
        Query::read(&world, &request, &[]);
        // As it was sent: the router has decoded its own copy in part.
        let mut segments = request.uri().path().rsplit('/').map(|segment| percent_decode_str(segment).decode_utf8());
        let (Some(Ok(value)), Some(Ok(key))) = (segments.next(), segments.next()) else {
            world.violation(NAME, "the path is not UTF-8");
            return Err("bad_request");
        };
        // The parameter table says `$basic_userId`, answers `ids_$basic_userId`, files `id_$basic_userId`.
        let name = key.split_once("_$").map_or(&*key, |(_, name)| name).trim_start_matches('$');
        let person = match name {
            "basic_userId" => find(&world, USER_ID, &value),
            "anonymous_user" => find(&world, "id_$anonymous_user", &value),
            _ => {
                world.violation(NAME, format!("there is no identity {key:?}"));
                None
            }
        };
        Ok(person.map_or_else(nobody, |person| person.cdp_single()))
    })
}

fn nobody() -> Value {
    json!({"gioId": "0", "identifications": {}, "properties": {}})
}

/// The person with this identity. Every identity has the person's number in it.
fn find(world: &World, property: &str, value: &str) -> Option<Person> {
    let numbers = value.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse::<u64>().ok());
    let people = numbers.filter(|index| *index < world.config.people).map(|index| world.person(index));
    people.into_iter().find(|person| person.property(property).flatten().as_deref() == Some(value))
}
