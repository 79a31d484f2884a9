//! What can be exported: the lists of tags, segments and projects.

use std::collections::HashMap;

use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::{Value, json};

use super::{NAME, PROJECT, admit, audience_key, display_title, internal_server_error};
use crate::vendors::sandbox::{Audience, World};

const MAX_PAGE: usize = 1_000;

/// `GET …/user_tags` and `…/segment_profiles`.
pub async fn list(world: web::Data<World>, request: HttpRequest) -> HttpResponse {
    if let Err(answer) = admit(&world, &request) {
        return *answer;
    }
    let query: HashMap<String, String> =
        url::form_urlencoded::parse(request.query_string().as_bytes()).into_owned().collect();
    let number = |name: &str, default: usize| query.get(name).map_or(Some(default), |value| value.parse().ok());
    let (Some(limit @ ..=MAX_PAGE), Some(offset)) = (number("limit", MAX_PAGE), number("offset", 0)) else {
        world.violation(NAME, "`limit` and `offset` are numbers, `limit` at most 1000");
        return internal_server_error();
    };
    let prefix = if request.match_info().query("kind") == "user_tags" { "tag" } else { "seg" };
    let total = world.audiences().len();
    let values: Vec<_> =
        world.audiences().skip(offset).take(limit).map(|audience| list_item(audience, prefix)).collect();
    // Numbers are printed as `1000.0`.
    let printed = |value: usize| f64::from(u32::try_from(value).unwrap_or(u32::MAX));
    HttpResponse::Ok().json(json!({
        "offset": printed(offset),
        "limit": printed(limit),
        "totalCount": printed(total),
        "hasNextPage": offset.saturating_add(values.len()) < total,
        "hasPreviousPage": offset > 0,
        "values": values,
    }))
}

fn list_item(audience: Audience, prefix: &str) -> Value {
    let mut item = json!({
        "id": format!("{:08}", audience.number),
        "name": display_title(audience, prefix),
        "key": audience_key(prefix, audience.number),
        "description": audience.title(),
        "scheduler": "DAILY",
        "detector": {"stage": "FINISH", "detectedAt": "2026-03-01T02:00:00Z"},
        "creatorId": "kqQeWeGr",
        "creator": "sandbox",
        "createdAt": "2026-01-01T00:00:00Z",
        "updaterId": "kqQeWeGr",
        "updater": "sandbox",
        "updatedAt": "2026-01-01T00:00:00Z",
    });
    if prefix == "tag" {
        item["type"] = json!("HORIZONTAL");
        item["valueType"] = json!({"type": "STRING", "isArray": false});
    } else {
        item["createdBy"] = json!("DIRECT");
    }
    item
}

/// `GET /v1/api/projects`.
pub async fn projects(world: web::Data<World>, request: HttpRequest) -> HttpResponse {
    if let Err(answer) = admit(&world, &request) {
        return *answer;
    }
    HttpResponse::Ok().json(json!([{"id": PROJECT, "name": "Sandbox"}]))
}
