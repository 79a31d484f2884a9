//! The OpenAPI documents: 3.1 made from the handlers, 3.0.3 made from 3.1. Both are committed under `openapi/`.

use actix_web::App;
use serde_json::{Map, Value, json};
use utoipa::{
    IntoResponses, OpenApi,
    openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
};
use utoipa_actix_web::AppExt;

use super::{
    docs::BROWSER_PATHS,
    examples, openapi_30,
    responses::{Failed, Unavailable},
    routes::RouteTable,
};
use crate::exports::{
    problem::Problem,
    webhook::{EventType, WebhookMessage},
};

const DESCRIPTION: &str = "\
One REST API for export jobs over several marketing clouds. Submit an export, follow it, download its files: the \
same way for every vendor, in the same columns.

* Every failing answer is an `application/problem+json` object (RFC 9457); `code` is stable, `type` leads to a page \
that explains it.
* Times are RFC 3339 in UTC, durations ISO 8601, sizes bytes. Ids are opaque.
* Unknown request fields are refused; unknown response fields and `phase`s must be ignored. `state` is closed.
* Every answer carries `X-Request-Id`: the caller's own, or a new one.";

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Headgate",
        description = DESCRIPTION,
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    servers((url = "/", description = "This gateway")),
    components(schemas(Problem, WebhookMessage)),
    tags(
        (name = "exports", description = "Export jobs"),
        (name = "files", description = "Result files"),
        (name = "vendors", description = "What can be exported from where"),
        (name = "connections", description = "Accounts at vendors"),
        (name = "destinations", description = "Places that results are delivered to"),
        (name = "schedules", description = "Exports that are asked for again and again"),
        (name = "webhooks", description = "Being told what happened"),
        (name = "service", description = "The gateway itself"),
    ),
)]
struct Base;

/// Everything that is published, made once.
pub struct Published {
    pub(super) text_31: String,
    pub(super) text_30: String,
    pub(super) routes: RouteTable,
}

impl Published {
    pub(super) fn new() -> Self {
        let document = document();
        Self {
            routes: RouteTable::new(&document, BROWSER_PATHS),
            text_30: text(&openapi_30::convert(document.clone())),
            text_31: text(&document),
        }
    }
}

/// The OpenAPI 3.1 document of exactly the routes that are served.
pub fn document() -> Value {
    let mut base = Base::openapi();
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format("JWT")
        .description(Some("A token of your identity provider; `scope` says what it may do."))
        .build();
    if let Some(components) = base.components.as_mut() {
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
    }
    let (_, document) = App::new().into_utoipa_app().openapi(base).configure(super::routes).split_for_parts();
    // A document that cannot be written is a mistake in this file, which the tests would find.
    let mut document = serde_json::to_value(document).unwrap_or_default();
    for (path, item) in members(&mut document["paths"]) {
        for (_, operation) in members(item) {
            complete(operation, path.starts_with("/v1/"));
        }
    }
    document["webhooks"] = webhooks();
    document
}

/// What the gateway sends, by type of event.
fn webhooks() -> Value {
    let header = |name: &str, description: &str| json!({"name": name, "in": "header", "required": true, "description": description, "schema": {"type": "string"}});
    let message = |event: EventType| {
        let example = examples::message(event);
        let operation = json!({
            "tags": ["webhooks"],
            "summary": event.as_str(),
            "description": "A POST to each endpoint that wants to know, signed as Standard Webhooks 1.0 says. An answer of \
                2xx within 15 seconds takes it; any other is tried again, ten times over about 75 hours. 410 disables the \
                endpoint. It can come more than once, and in any order.",
            "parameters": [
                header("webhook-id", "The event; the same for every try and replay."),
                header("webhook-timestamp", "When this try was made, in seconds since 1970."),
                header("webhook-signature", "`v1,` and base64 of an HMAC-SHA256, one for each secret in force, separated by spaces."),
            ],
            "requestBody": {
                "required": true,
                "content": {
                    "application/json": {"schema": {"$ref": "#/components/schemas/WebhookMessage"}, "example": example},
                },
            },
            "responses": {"2XX": {"description": "Taken."}, "410": {"description": "Tells to disable the endpoint."}},
        });
        (event.as_str().to_owned(), json!({"post": operation}))
    };
    EventType::ALL.into_iter().map(message).collect()
}

/// The OpenAPI 3.0.3 twin of [`document`].
pub fn document_30() -> Value {
    openapi_30::convert(document())
}

/// A document as it is committed and served.
pub fn text(document: &Value) -> String {
    format!("{document:#}\n")
}

/// Adds what every operation has, and its examples.
fn complete(operation: &mut Value, needs_database: bool) {
    let id = operation["operationId"].as_str().unwrap_or_default().to_owned();
    let mut common = Failed::responses();
    if needs_database {
        common.extend(Unavailable::responses());
    }
    for (status, response) in common {
        if operation["responses"].get(&status).is_none() {
            operation["responses"][status] = serde_json::to_value(response).unwrap_or_default();
        }
    }
    if let Some(responses) = operation["responses"].as_object_mut() {
        responses.sort_keys();
    }
    for (status, response) in members(&mut operation["responses"]) {
        response["headers"]["X-Request-Id"] =
            json!({"description": "The id of this request.", "schema": {"type": "string"}});
        if let Some(content) = response.pointer_mut("/content/application~1json")
            && let Some(example) = examples::response(&id, status)
        {
            content["example"] = example;
        }
    }
    if let Some(content) = operation.pointer_mut("/requestBody/content/application~1json")
        && let Some(example) = examples::request(&id)
    {
        content["example"] = example;
    }
}

fn members(value: &mut Value) -> impl Iterator<Item = (&String, &mut Value)> {
    value.as_object_mut().into_iter().flat_map(Map::iter_mut)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{
        super::{body, connections, deliveries, links, schedules, webhooks},
        *,
    };
    use crate::exports::request::{ExportRequest, SubmitExport};

    fn operations(document: &Value) -> Vec<(String, String, Value)> {
        let paths = document["paths"].as_object().unwrap();
        let of = |path: &String, item: &Value| {
            let item = item.as_object().unwrap().clone();
            let path = path.clone();
            item.into_iter().map(move |(method, operation)| (path.clone(), method, operation))
        };
        paths.iter().flat_map(|(path, item)| of(path, item)).collect()
    }

    #[test]
    fn the_committed_documents_are_those_of_the_routes() {
        for (file, document) in [
            (include_str!("../../openapi/headgate.json"), document()),
            (include_str!("../../openapi/headgate-3.0.json"), document_30()),
        ] {
            assert!(file == text(&document), "run `headgate openapi --write`");
        }
    }

    #[test]
    fn every_operation_says_what_it_is_who_may_and_how_it_can_fail() {
        let mut ids = BTreeSet::new();
        for (path, method, operation) in operations(&document()) {
            let place = format!("{method} {path}");
            assert!(operation["summary"].as_str().is_some_and(|summary| !summary.is_empty()), "{place}");
            assert!(operation["tags"].as_array().is_some_and(|tags| tags.len() == 1), "{place}");
            assert!(ids.insert(operation["operationId"].as_str().unwrap().to_owned()), "{place}");
            let is_open = operation["security"] == json!([{}]);
            assert_eq!(is_open, !path.starts_with("/v1/"), "{place}");
            assert_eq!(operation["responses"].get("401").is_some(), !is_open, "{place}");
            let responses = operation["responses"].as_object().unwrap();
            assert!(responses.contains_key("500"), "{place}");
            assert_eq!(path.contains('{'), responses.contains_key("404"), "{place}");
            for (status, response) in responses {
                assert!(!response["description"].as_str().unwrap().is_empty(), "{place} {status}");
                if status.starts_with(['4', '5']) {
                    let content = &response["content"]["application/problem+json"];
                    assert_eq!(content["schema"]["$ref"], "#/components/schemas/Problem", "{place} {status}");
                    assert_eq!(content["example"]["status"].to_string(), *status, "{place} {status}");
                }
            }
        }
    }

    #[test]
    fn every_json_body_has_an_example() {
        // These are long and served live, or say nothing more than their schema.
        let without =
            ["openapi_31", "openapi_30", "list_vendors", "get_vendor", "list_problems", "explain_problem", "index"];
        for (path, method, operation) in operations(&document()) {
            let id = operation["operationId"].as_str().unwrap();
            if let Some(content) = operation.pointer("/requestBody/content/application~1json") {
                assert!(content.get("example").is_some(), "{method} {path}");
            }
            for (status, response) in operation["responses"].as_object().unwrap() {
                if let Some(content) = response.pointer("/content/application~1json") {
                    assert_eq!(content.get("example").is_some(), !without.contains(&id), "{method} {path} {status}");
                }
            }
        }
    }

    #[test]
    fn the_request_examples_are_ones_the_server_accepts() {
        let export: SubmitExport = body::fields(examples::request("submit_export").unwrap()).unwrap();
        export.deadline().unwrap();
        ExportRequest::parse(export.dataset, &export.parameters, export.output).unwrap();
        body::fields::<connections::PutConnection>(examples::request("put_connection").unwrap()).unwrap();
        body::fields::<connections::PutCredentials>(examples::request("rotate_credentials").unwrap()).unwrap();
        body::fields::<links::MakeLink>(examples::request("make_link").unwrap()).unwrap();
        body::fields::<schedules::CreateSchedule>(examples::request("create_schedule").unwrap()).unwrap();
        body::fields::<schedules::ChangeScheduleBody>(examples::request("change_schedule").unwrap()).unwrap();
        body::fields::<webhooks::CreateWebhookEndpoint>(examples::request("create_webhook_endpoint").unwrap()).unwrap();
        body::fields::<webhooks::ChangeWebhookEndpoint>(examples::request("change_webhook_endpoint").unwrap()).unwrap();
        body::fields::<webhooks::RotateWebhookSecret>(examples::request("rotate_webhook_secret").unwrap()).unwrap();
        body::fields::<deliveries::ReplayDeliveries>(examples::request("replay_deliveries").unwrap()).unwrap();
    }

    #[test]
    fn every_type_of_event_is_published_with_its_message() {
        let webhooks = document()["webhooks"].clone();
        assert_eq!(webhooks.as_object().unwrap().len(), EventType::ALL.len());
        for event in EventType::ALL {
            let content = &webhooks[event.as_str()]["post"]["requestBody"]["content"]["application/json"];
            assert_eq!(content["example"]["type"], event.as_str());
            assert_eq!(event.as_str().split_once('.').unwrap().1, content["example"]["data"]["state"]);
        }
        assert_eq!(document_30().get("webhooks"), None);
    }

    #[test]
    fn every_reference_leads_somewhere() {
        for document in [document(), document_30()] {
            let text = document.to_string();
            for reference in text.split("\"$ref\":\"#").skip(1) {
                let pointer = reference.split('"').next().unwrap();
                assert!(document.pointer(pointer).is_some(), "{pointer}");
            }
        }
    }
}
