//! The body of `POST /users/export/segment`, checked as Braze would.

use actix_web::{HttpRequest, http::header};
use serde_json::Value;
use url::Url;

use super::{Asked, FIELDS, NAME, segment_number};
use crate::vendors::sandbox::{Audience, World};

const MAX_CUSTOM_ATTRIBUTES: usize = 500;

/// A request for an export, checked.
pub struct Order {
    pub audience: Audience,
    pub asked: Asked,
    pub callback: Option<Url>,
}

impl Order {
    /// # Errors
    /// The vendor's message for a request that it would refuse.
    pub fn parse(world: &World, request: &HttpRequest, body: &[u8]) -> Result<Self, String> {
        let forbidden = |text: &str| {
            world.violation(NAME, text);
            text.to_owned()
        };
        let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        if content_type.is_none_or(|value| value.split(';').next().map(str::trim) != Some("application/json")) {
            return Err(forbidden("Content-Type must be application/json"));
        }
        let Ok(Value::Object(body)) = serde_json::from_slice(body) else {
            return Err(forbidden("the body must be a JSON object"));
        };
        for key in body.keys() {
            match key.as_str() {
                "segment_id"
                | "callback_endpoint"
                | "fields_to_export"
                | "custom_attributes_to_export"
                | "output_format" => {}
                "api_key" => world.violation(NAME, "the key was sent in the body"),
                key => world.violation(NAME, format!("`{key}` is not documented")),
            }
        }
        let Some(segment) = body.get("segment_id").and_then(Value::as_str) else {
            return Err(forbidden("segment_id must be a string of the segment api identifier"));
        };
        let fields = texts(body.get("fields_to_export"))
            .filter(|fields| !fields.is_empty())
            .ok_or_else(|| forbidden("fields_to_export must be a non-empty array of strings"))?;
        if let Some(unknown) = fields.iter().find(|field| !FIELDS.contains(&field.as_str())) {
            return Err(forbidden(&format!("fields_to_export: {unknown:?} is not a field")));
        }
        let custom_attributes = match body.get("custom_attributes_to_export") {
            None => Vec::new(),
            named => texts(named)
                .filter(|names| names.len() <= MAX_CUSTOM_ATTRIBUTES)
                .ok_or_else(|| forbidden("custom_attributes_to_export must be an array of at most 500 strings"))?,
        };
        if body.get("output_format").is_some_and(|format| !matches!(format.as_str(), Some("zip" | "gzip"))) {
            return Err(forbidden("output_format must be zip or gzip"));
        }
        let callback = match body.get("callback_endpoint") {
            None => None,
            Some(url) => Some(
                url.as_str()
                    .and_then(|url| Url::parse(url).ok())
                    .filter(|url| matches!(url.scheme(), "http" | "https"))
                    .ok_or_else(|| forbidden("callback_endpoint must be a URL"))?,
            ),
        };
        let audience = segment_number(segment).and_then(|number| world.audience(number));
        let audience =
            audience.ok_or_else(|| "segment_id must be a string of the segment api identifier".to_owned())?;
        Ok(Self { audience, asked: Asked::new(&fields, custom_attributes), callback })
    }
}

fn texts(value: Option<&Value>) -> Option<Vec<String>> {
    value?.as_array()?.iter().map(|text| text.as_str().map(str::to_owned)).collect()
}
