//! Places that results are delivered to. Callers see that they exist; admins see and change their settings; nobody sees
//! credentials.

use std::collections::BTreeMap;

use actix_web::{HttpRequest, HttpResponse, delete, get, http::header::LOCATION, post, put, web};
use chrono::{DateTime, Utc};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    body,
    caller::{AnyScope, Authorized, DestinationsAdmin},
    connections::PutCredentials,
    problem::{Answer, ApiError},
    responses::{Absent, BadBody, Denied, DestinationBusy, Unauthenticated},
};
use crate::{
    exports::record::{DestinationRecord, Health},
    operations::{Gateway, destinations as operation},
};

/// A named place that results are delivered to.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Destination)]
pub struct DestinationView {
    #[schema(example = "lake")]
    pub name: String,
    /// `s3`, `gs`, `az` or `file`.
    #[schema(example = "s3")]
    pub kind: String,
    #[schema(example = "Data lake, marketing")]
    pub display_name: String,
    pub health: Health,
    /// When it was last tried.
    #[schema(required = true)]
    pub health_checked_at: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    /// For admins: what the last check or delivery learned.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub health_detail: Option<String>,
    /// For admins: which version of its own credentials is in force, from 1; 0 when the gateway's environment has them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = 1)]
    pub credential_version: Option<i32>,
    /// For admins.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "s3://our-lake/marketing")]
    pub url: Option<String>,
    /// For admins.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Object, required = false)]
    pub settings: Option<Value>,
}

/// Every destination, by name.
#[derive(Debug, Serialize, ToSchema)]
pub struct DestinationList {
    pub data: Vec<DestinationView>,
    /// Always empty: all of them come at once.
    pub next_page_token: String,
}

/// What an admin puts.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PutDestination {
    /// For people; the destination's name unless given.
    #[serde(default)]
    #[schema(example = "Data lake, marketing")]
    display_name: Option<String>,
    /// `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix` or `file:///absolute/folder`. Its kind never
    /// changes once the destination exists.
    #[schema(example = "s3://our-lake/marketing")]
    url: String,
    /// `endpoint` of a store of one's own, `region` of S3, and `checksum: "none"` for an S3 that knows no SHA-256.
    #[serde(default = "empty_object")]
    #[schema(value_type = Object)]
    settings: Value,
    /// Write-only. S3: `access_key_id`, `secret_access_key`, `session_token`; Google: `service_account_key`, the JSON as
    /// text; Azure: `account_name` with `account_key` or `sas_token`. A destination that exists keeps its own when they
    /// are left out; a new one, or one that is given `{}`, uses what the gateway's environment has.
    #[serde(default)]
    #[schema(value_type = Option<BTreeMap<String, String>>, write_only)]
    credentials: Option<BTreeMap<String, SecretString>>,
}

fn empty_object() -> Value {
    Value::Object(serde_json::Map::new())
}

/// List destinations
///
/// All of them, by name; admins see their settings.
#[utoipa::path(
    tag = "destinations",
    security(("bearer" = [])),
    responses((status = 200, description = "The destinations.", body = DestinationList), Unauthenticated),
)]
#[get("/v1/destinations")]
pub async fn list_destinations(caller: Authorized<AnyScope>, gateway: web::Data<Gateway>) -> Answer {
    let is_admin = caller.has_scope(operation::ADMIN);
    let destinations = operation::list_destinations(&gateway).await?;
    let data = destinations.into_iter().map(|destination| view(destination, is_admin)).collect();
    Ok(HttpResponse::Ok().json(DestinationList { data, next_page_token: String::new() }))
}

/// Read a destination
#[utoipa::path(
    tag = "destinations",
    security(("bearer" = [])),
    params(("name" = String, Path, description = "The destination's name.")),
    responses((status = 200, description = "The destination.", body = DestinationView), Unauthenticated, Absent),
)]
#[get("/v1/destinations/{name}")]
pub async fn get_destination(
    caller: Authorized<AnyScope>,
    gateway: web::Data<Gateway>,
    name: web::Path<String>,
) -> Answer {
    let destination = operation::get_destination(&gateway, possible(&name)?).await?;
    Ok(HttpResponse::Ok().json(view(destination, caller.has_scope(operation::ADMIN))))
}

/// Create or change a destination
///
/// Settings are checked at once, the place itself with `POST /v1/destinations/{name}/check`. Exports on their way go to
/// the changed place.
#[utoipa::path(
    tag = "destinations",
    security(("bearer" = ["destinations:admin"])),
    params(("name" = String, Path, description = "The destination's name; callers use it in `delivery.destination`.")),
    request_body = PutDestination,
    responses(
        (status = 201, description = "Created.", body = DestinationView, headers(
            ("Location" = String, description = "Where the destination is."),
        )),
        (status = 200, description = "Changed.", body = DestinationView),
        BadBody, Absent, Denied,
    ),
)]
#[put("/v1/destinations/{name}")]
pub async fn put_destination(
    _caller: Authorized<DestinationsAdmin>,
    gateway: web::Data<Gateway>,
    request: HttpRequest,
    payload: web::Payload,
    name: web::Path<String>,
) -> Answer {
    let name = possible(&name)?;
    let PutDestination { display_name, url, settings, credentials } =
        body::fields(body::read_json(&request, payload).await?)?;
    let put = operation::PutDestination { display_name, url, settings, credentials };
    let (destination, created) = operation::put_destination(&gateway, name, put).await?;
    let mut answer = HttpResponse::Ok();
    if created {
        answer = HttpResponse::Created();
        answer.insert_header((LOCATION, format!("/v1/destinations/{}", destination.name)));
    }
    Ok(answer.json(view(destination, true)))
}

/// Delete a destination
///
/// Refused while exports are on their way to it. What was delivered stays.
#[utoipa::path(
    tag = "destinations",
    security(("bearer" = ["destinations:admin"])),
    params(("name" = String, Path, description = "The destination's name.")),
    responses((status = 204, description = "It is gone, with its credentials."), Absent, Denied, DestinationBusy),
)]
#[delete("/v1/destinations/{name}")]
pub async fn delete_destination(
    _caller: Authorized<DestinationsAdmin>,
    gateway: web::Data<Gateway>,
    name: web::Path<String>,
) -> Answer {
    operation::delete_destination(&gateway, possible(&name)?).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Renew a destination's credentials
///
/// Seals a new version, used from now on, also by exports that are running. An empty set leaves it to the gateway's
/// environment.
#[utoipa::path(
    tag = "destinations",
    security(("bearer" = ["destinations:admin"])),
    params(("name" = String, Path, description = "The destination's name.")),
    request_body = PutCredentials,
    responses(
        (status = 200, description = "The new version is in force.", body = DestinationView),
        BadBody, Absent, Denied,
    ),
)]
#[post("/v1/destinations/{name}/credentials")]
pub async fn rotate_destination_credentials(
    _caller: Authorized<DestinationsAdmin>,
    gateway: web::Data<Gateway>,
    request: HttpRequest,
    payload: web::Payload,
    name: web::Path<String>,
) -> Answer {
    let name = possible(&name)?;
    let put: PutCredentials = body::fields(body::read_json(&request, payload).await?)?;
    let destination = operation::rotate_credentials(&gateway, name, put.credentials).await?;
    Ok(HttpResponse::Ok().json(view(destination, true)))
}

/// Check a destination
///
/// Writes an object, reads it back and deletes it, and keeps what came of it as the destination's health.
#[utoipa::path(
    tag = "destinations",
    security(("bearer" = ["destinations:admin"])),
    params(("name" = String, Path, description = "The destination's name.")),
    responses(
        (status = 200, description = "It was tried; `health` says what came of it.", body = DestinationView),
        Absent, Denied,
    ),
)]
#[post("/v1/destinations/{name}/check")]
pub async fn check_destination(
    _caller: Authorized<DestinationsAdmin>,
    gateway: web::Data<Gateway>,
    name: web::Path<String>,
) -> Answer {
    let destination = operation::check_destination(&gateway, possible(&name)?).await?;
    Ok(HttpResponse::Ok().json(view(destination, true)))
}

/// A name that a destination could have; nothing can be at the others, and the database could not even be asked.
fn possible(name: &str) -> Result<&str, ApiError> {
    if name.len() > 255 || name.chars().any(char::is_control) {
        return Err(ApiError::not_found("destination"));
    }
    Ok(name)
}

/// The destination as `for_admin` may see it.
pub fn view(destination: DestinationRecord, for_admin: bool) -> DestinationView {
    DestinationView {
        kind: destination.url.split(':').next().unwrap_or_default().to_owned(),
        name: destination.name,
        display_name: destination.display_name,
        health: destination.health,
        health_checked_at: destination.health_checked_at,
        created_at: destination.created_at,
        updated_at: destination.updated_at,
        health_detail: destination.health_detail.filter(|_| for_admin),
        credential_version: for_admin.then_some(destination.credential_version),
        url: for_admin.then_some(destination.url),
        settings: for_admin.then_some(destination.settings),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{json, to_value};

    use super::{super::examples, *};

    #[test]
    fn only_admins_see_where_a_destination_is() {
        let public = to_value(view(examples::destination(), false)).unwrap();
        let members: Vec<_> = public.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(
            members,
            ["name", "kind", "display_name", "health", "health_checked_at", "created_at", "updated_at"]
        );
        assert_eq!(public["kind"], "s3");
        let admin = to_value(view(examples::destination(), true)).unwrap();
        assert_eq!(admin["url"], "s3://our-lake/marketing");
        assert!(admin.get("credentials").is_none());
    }

    #[test]
    fn credentials_are_read_as_secrets() {
        let value = json!({"url": "s3://lake", "credentials": {"secret_access_key": "k-123"}});
        let put: PutDestination = body::fields(value).unwrap();
        assert!(!format!("{put:?}").contains("k-123"));
    }
}
