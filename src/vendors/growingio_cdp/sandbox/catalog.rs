//! What can be exported: the lists of tags, segments and projects.
//! Source: `developer-manual/open-api/cdp/space/{space-search-user-tags,space-search-segment-profiles}.md`.

use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::{Value, json};

use super::{
    PROJECT, SPACE,
    answer::{Query, answered},
    audience_key,
    computations::{Detector, detector},
    display_title,
};
use crate::vendors::sandbox::{Audience, World, people::pick};

const MAX_LIMIT: u64 = 1_000;

/// `GET …/user_tags` and `…/segment_profiles`.
pub async fn list(world: web::Data<World>, request: HttpRequest) -> HttpResponse {
    answered(&world, &request, "growingio_cdp.lists", || {
        let page = Query::read(&world, &request, &["limit", "offset"]).page(MAX_LIMIT)?;
        let prefix = if request.match_info().query("kind") == "user_tags" { "tag" } else { "seg" };
        let total = world.audiences().len() as u64;
        let rows = page.rows(&world, total, "growingio_cdp.lists.shifted_page");
        let mut answer = page.envelope(&rows, total, total);
        let stale = world.fault("growingio_cdp.lists.stale");
        let item = |number| {
            let audience = world.audience(number + 1)?;
            let now = detector(&world, prefix, audience.number);
            let shown =
                if stale { Detector { stage: "FINISH", detected_at: now.data.detected_at, ..now } } else { now };
            Some(list_item(audience, prefix, &shown))
        };
        answer["values"] = rows.filter_map(item).collect();
        Ok(answer)
    })
}

/// An entry of the list of tags or segments.
pub fn list_item(audience: Audience, prefix: &str, detector: &Detector) -> Value {
    let number = audience.number;
    let mut item = json!({
        "id": format!("Wl{number:06}"),
        "name": display_title(audience, prefix),
        "key": audience_key(prefix, number),
    });
    if prefix == "tag" {
        let types =
            ["HORIZONTAL", "AGGREGATED", "TOP_N_ATTRIBUTE", "ATTRIBUTION_ATTRIBUTE", "DATA_SET_ATTRIBUTE", "SQL"];
        item["type"] = json!(pick(&types, number));
        item["valueType"] = json!({
            "type": pick(&["STRING", "INT", "DOUBLE", "DATE"], number),
            "isArray": *pick(&types, number) == "DATA_SET_ATTRIBUTE",
        });
    } else {
        let ways = ["DIRECT", "FROM_FUNNEL", "FROM_RETENTION", "FROM_FREQUENCY", "FROM_FILES"];
        item["createdBy"] = json!(pick(&ways, number - 1));
        item["scheduler"] = json!(pick(&["DAILY", "ONCE"], number - 1));
    }
    item["description"] = match number % 5 {
        0 => Value::Null,
        3 => json!(""),
        _ => json!(format!("{}, “{}”", audience.title(), audience_key(prefix, number))),
    };
    item["detector"] = detector.json();
    for (key, value) in [
        ("creatorId", "KzpNzpkv"),
        ("creator", "管理员"),
        ("createdAt", "2026-01-01T00:00:00.123Z"),
        ("updaterId", "KzpNzpkv"),
        ("updater", "管理员"),
        ("updatedAt", "2026-01-01T01:00:00.456Z"),
    ] {
        item[key] = json!(value);
    }
    item
}

/// `GET /v1/api/projects`.
pub async fn projects(world: web::Data<World>, request: HttpRequest) -> HttpResponse {
    answered(&world, &request, "growingio_cdp.projects", || {
        Query::read(&world, &request, &[]);
        Ok(json!([{"id": PROJECT, "name": "默认项目"}, {"id": "y9pm1pme", "name": "测试项目"}]))
    })
}

/// The enterprise that the token's owner belongs to.
const ENTERPRISE: &str = "rRGoYQml";

/// `GET /v2/api/enterprise/{enterpriseId}/projects`.
pub async fn projects_of_enterprise(world: web::Data<World>, request: HttpRequest) -> HttpResponse {
    below_enterprise(&world, &request, || json!([{"id": PROJECT, "name": "默认项目", "ownerId": "KzpNzpkv"}]))
}

/// `GET /v2/api/enterprise/{enterpriseId}/projects/{projectId}/spaces`: where a space's id is found.
pub async fn spaces(world: web::Data<World>, request: HttpRequest) -> HttpResponse {
    below_enterprise(&world, &request, || json!([{"id": SPACE, "name": "默认空间", "ownerId": "KzpNzpkv"}]))
}

fn below_enterprise(world: &World, request: &HttpRequest, list: fn() -> Value) -> HttpResponse {
    answered(world, request, "growingio_cdp.projects", || {
        Query::read(world, request, &[]);
        if request.match_info().query("enterprise") == ENTERPRISE { Ok(list()) } else { Err("not_granted") }
    })
}
