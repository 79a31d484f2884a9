//! The body of an `export_jobs` call, checked as the CDP would.

use actix_web::{HttpRequest, http::header};
use percent_encoding::percent_decode_str;
use serde_json::Value;

use super::{NAME, audience_number, display_title};
use crate::vendors::sandbox::{Audience, World, people::Person};

const MAX_PROPERTIES: usize = 60;

/// A request for an export, checked.
pub struct Order {
    pub audience: Audience,
    pub title: String,
    pub properties: Vec<String>,
    pub format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Json,
    Csv { display_names: bool },
}

impl Order {
    /// The error is the reason to count; the client never learns it.
    pub fn parse(world: &World, request: &HttpRequest, body: &[u8]) -> Result<Self, &'static str> {
        let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        if content_type.is_none_or(|value| value.split(';').next().map(str::trim) != Some("application/json")) {
            world.violation(NAME, "Content-Type must be application/json");
            return Err("bad_request");
        }
        let Ok(Value::Object(body)) = serde_json::from_slice(body) else {
            world.violation(NAME, "the body must be a JSON object");
            return Err("bad_request");
        };
        for key in body.keys().filter(|key| !["properties", "fileFormat", "csvHeaderType"].contains(&key.as_str())) {
            world.violation(NAME, format!("`{key}` is not documented"));
        }
        let properties: Option<Vec<String>> = match body.get("properties") {
            None => Some(Vec::new()),
            Some(Value::Array(names)) => names.iter().map(|name| name.as_str().map(str::to_owned)).collect(),
            Some(_) => None,
        };
        let Some(properties) = properties.filter(|names| names.len() <= MAX_PROPERTIES) else {
            world.violation(NAME, "`properties` must be at most 60 strings");
            return Err("bad_request");
        };
        for name in &properties {
            // Only the names of properties are data of the deployment; a record holds null for an unknown one.
            if Person::new(0, 0).property(name).is_none() {
                world.violation(NAME, format!("there is no property {name:?}"));
            }
        }
        let text = |key: &str| body.get(key).map(|value| value.as_str().unwrap_or("?"));
        let format = match (text("fileFormat"), text("csvHeaderType")) {
            (Some("json"), None | Some("key" | "name")) => Format::Json,
            (None | Some("csv"), None | Some("key")) => Format::Csv { display_names: false },
            (None | Some("csv"), Some("name")) => Format::Csv { display_names: true },
            _ => {
                world.violation(NAME, "`fileFormat` is csv or json, `csvHeaderType` is key or name");
                return Err("bad_request");
            }
        };
        let place = request.match_info();
        let key = percent_decode_str(place.query("key")).decode_utf8_lossy();
        let prefix = if place.query("kind") == "user_tags" { "tag" } else { "seg" };
        let audience = audience_number(&key, prefix).and_then(|number| world.audience(number));
        let audience = audience.ok_or("unknown_key")?;
        Ok(Self { audience, title: display_title(audience, prefix), properties, format })
    }
}
