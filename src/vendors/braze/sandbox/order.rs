//! The body of a request for an export, as the vendor would check it.

use actix_web::{HttpRequest, http::header};
use serde_json::{Map, Value};
use url::Url;

use super::{Asked, FIELDS, GLOBAL_CONTROL_GROUP, NAME, gate::Refusal, segment_id, segment_number};
use crate::vendors::sandbox::{Audience, World};

const MAX_CUSTOM_ATTRIBUTES: usize = 500;
/// What exports of the global control group do not have.
pub(super) const NOT_OF_CONTROL_GROUP: [&str; 6] =
    ["campaigns_received", "canvases_received", "cards_clicked", "email_subscribe", "push_subscribe", "push_tokens"];

/// What is exported; one export of each at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Subject {
    Segment(u64),
    ControlGroup,
}

impl Subject {
    /// The API identifier; the control group has one that only the dashboard shows.
    pub fn id(self) -> String {
        match self {
            Self::Segment(number) => segment_id(number),
            Self::ControlGroup => GLOBAL_CONTROL_GROUP.to_owned(),
        }
    }
}

/// A request for an export, checked.
pub struct Order {
    pub subject: Subject,
    pub audience: Audience,
    pub asked: Asked,
    pub callback: Option<Url>,
    /// `output_format` is `gzip`.
    pub gzip: bool,
}

impl Order {
    /// # Errors
    /// The vendor's message for a request that it would refuse.
    pub fn of_segment(world: &World, request: &HttpRequest, body: &[u8]) -> Result<Self, Refusal> {
        let allowed =
            ["segment_id", "callback_endpoint", "fields_to_export", "custom_attributes_to_export", "output_format"];
        let body = object(world, request, body, &allowed)?;
        let Some(segment) = body.get("segment_id").and_then(Value::as_str) else {
            return Err(Refusal::forbidden(world, "segment_id must be a string of the segment api identifier"));
        };
        let fields = fields(world, &body, |field| FIELDS.contains(&field))?;
        let custom_attributes = match body.get("custom_attributes_to_export") {
            None => Vec::new(),
            named => texts(named).filter(|names| names.len() <= MAX_CUSTOM_ATTRIBUTES).ok_or_else(|| {
                Refusal::forbidden(world, "custom_attributes_to_export must be an array of at most 500 strings")
            })?,
        };
        let (gzip, callback) = (gzip(world, &body)?, callback(world, &body)?);
        let number = segment_number(segment);
        let audience = number.and_then(|number| world.audience(number));
        let audience =
            audience.ok_or_else(|| Refusal::bad("segment_id must be a string of the segment api identifier"))?;
        let subject = Subject::Segment(audience.number);
        Ok(Self { subject, audience, asked: Asked::new(&fields, custom_attributes), callback, gzip })
    }

    /// # Errors
    /// The vendor's message for a request that it would refuse.
    pub fn of_control_group(world: &World, request: &HttpRequest, body: &[u8]) -> Result<Self, Refusal> {
        let body = object(world, request, body, &["callback_endpoint", "fields_to_export", "output_format"])?;
        let known = |field: &str| FIELDS.contains(&field) && !NOT_OF_CONTROL_GROUP.contains(&field);
        let fields = fields(world, &body, known)?;
        let (gzip, callback) = (gzip(world, &body)?, callback(world, &body)?);
        let Some(audience) = control_group(world) else { return Err(Refusal::bad("there is no control group")) };
        let asked = Asked::new(&fields, Vec::new());
        Ok(Self { subject: Subject::ControlGroup, audience, asked, callback, gzip })
    }
}

/// Its members: every fifth person.
pub(super) fn control_group(world: &World) -> Option<Audience> {
    world.audience(5).or_else(|| world.audience(1))
}

/// The body as JSON, sent as JSON. Members that are not documented are violations, no errors.
pub(super) fn object(
    world: &World,
    request: &HttpRequest,
    body: &[u8],
    allowed: &[&str],
) -> Result<Map<String, Value>, Refusal> {
    let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    if content_type.is_none_or(|value| value.split(';').next().map(str::trim) != Some("application/json")) {
        return Err(Refusal::forbidden(world, "Content-Type must be application/json"));
    }
    let Ok(Value::Object(body)) = serde_json::from_slice(body) else {
        return Err(Refusal::forbidden(world, "the body must be a JSON object"));
    };
    for key in body.keys().filter(|key| !allowed.contains(&key.as_str())) {
        match key.as_str() {
            "api_key" => world.violation(NAME, "the key was sent in the body"),
            key => world.violation(NAME, format!("`{key}` is not documented")),
        }
    }
    Ok(body)
}

/// `fields_to_export`, which must name something.
pub(super) fn fields(
    world: &World,
    body: &Map<String, Value>,
    known: impl Fn(&str) -> bool,
) -> Result<Vec<String>, Refusal> {
    let fields = texts(body.get("fields_to_export"))
        .filter(|fields| !fields.is_empty())
        .ok_or_else(|| Refusal::forbidden(world, "fields_to_export must be a non-empty array of strings"))?;
    match fields.iter().find(|field| !known(field)) {
        Some(unknown) => Err(Refusal::forbidden(world, format!("fields_to_export: {unknown:?} is not a field"))),
        None => Ok(fields),
    }
}

fn gzip(world: &World, body: &Map<String, Value>) -> Result<bool, Refusal> {
    match body.get("output_format").map(Value::as_str) {
        None | Some(Some("zip")) => Ok(false),
        Some(Some("gzip")) => Ok(true),
        Some(_) => Err(Refusal::forbidden(world, "output_format must be zip or gzip")),
    }
}

fn callback(world: &World, body: &Map<String, Value>) -> Result<Option<Url>, Refusal> {
    let Some(url) = body.get("callback_endpoint") else { return Ok(None) };
    url.as_str()
        .and_then(|url| Url::parse(url).ok())
        .filter(|url| matches!(url.scheme(), "http" | "https"))
        .map(Some)
        .ok_or_else(|| Refusal::forbidden(world, "callback_endpoint must be a URL"))
}

pub(super) fn texts(value: Option<&Value>) -> Option<Vec<String>> {
    value?.as_array()?.iter().map(|text| text.as_str().map(str::to_owned)).collect()
}
