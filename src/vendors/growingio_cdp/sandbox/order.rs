//! The body of an `export_jobs` call, checked as the CDP would.

use actix_web::{HttpRequest, http::header};
use serde_json::Value;

use super::{
    NAME,
    answer::{Refusal, audience_of},
    computations::{Computation, detector},
    display_title,
};
use crate::vendors::sandbox::{Audience, World, people::Person};

const MAX_PROPERTIES: usize = 60;

/// A request for an export, checked.
pub struct Order {
    pub audience: Audience,
    /// Whose data the export has.
    pub computation: Computation,
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
    pub fn parse(world: &World, request: &HttpRequest, body: &[u8]) -> Result<Self, Refusal> {
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
        // Only the names of properties are data of the deployment; a record holds null for an unknown one.
        for name in properties.iter().filter(|name| !is_property(name)) {
            world.violation(NAME, format!("there is no property {name:?}"));
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
        let (audience, prefix) = audience_of(world, request)?;
        let computation = detector(world, prefix, audience.number).data;
        Ok(Self { audience, computation, title: display_title(audience, prefix), properties, format })
    }
}

/// Whether the deployment has a property of that name.
pub fn is_property(name: &str) -> bool {
    Computation::nightly().property(name).is_some() || Person::new(0, 0).property(name).is_some()
}
