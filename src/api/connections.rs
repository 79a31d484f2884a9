//! Vendor accounts. Callers see that they exist; admins see and change their settings; nobody sees credentials.

use std::collections::BTreeMap;

use actix_web::{HttpRequest, HttpResponse, delete, get, http::header::LOCATION, post, put, web};
use chrono::{DateTime, Utc};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    body,
    caller::{AnyScope, Authorized, ConnectionsAdmin},
    problem::{Answer, ApiError},
    responses::{Absent, BadBody, Denied, InUse, Unauthenticated, VendorAtFault},
    vendors::dataset_names,
};
use crate::{
    exports::{
        mapping::{ConnectionMapping, Feed},
        record::{ConnectionRecord, Health},
        request::Dataset,
    },
    operations::{Gateway, connections as operation},
};

/// A named account at a vendor.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Connection)]
pub struct ConnectionView {
    #[schema(example = "growth-braze")]
    pub name: String,
    #[schema(example = "braze")]
    pub vendor: String,
    #[schema(example = "Braze, growth workspace")]
    pub display_name: String,
    pub health: Health,
    /// When the credentials were last tried.
    #[schema(required = true)]
    pub health_checked_at: Option<DateTime<Utc>>,
    /// What can be exported over it.
    pub datasets: Vec<Dataset>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    /// For admins: what the last check or export learned.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub health_detail: Option<String>,
    /// For admins: which version of the credentials is in force, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = 1)]
    pub credential_version: Option<i32>,
    /// For admins: as the vendor's `settings_schema` says.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Object, required = false)]
    pub settings: Option<Value>,
    /// For admins: the column of the unified schema → the vendor property that feeds it, perhaps with other values.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Option<BTreeMap<String, Feed>>)]
    pub mapping: Option<ConnectionMapping>,
}

/// The connections a token may use, by name.
#[derive(Debug, Serialize, ToSchema)]
pub struct ConnectionList {
    pub data: Vec<ConnectionView>,
    /// Always empty: all of them come at once.
    pub next_page_token: String,
}

/// What an admin puts.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PutConnection {
    /// Never changes once the connection exists.
    #[schema(example = "braze")]
    vendor: String,
    /// For people; the connection's name unless given.
    #[serde(default)]
    #[schema(example = "Braze, growth workspace")]
    display_name: Option<String>,
    /// As the vendor's `settings_schema` says.
    #[schema(value_type = Object)]
    settings: Value,
    /// Write-only. Needed for a new connection; an existing one keeps its own when they are left out.
    #[serde(default)]
    #[schema(value_type = Option<BTreeMap<String, String>>, write_only)]
    credentials: Option<BTreeMap<String, SecretString>>,
    /// The column of the unified schema → the vendor property that feeds it, or `{"from": …, "values": {…}}`, which
    /// translates its values; what is not in `values` stays as it is.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, Feed>)]
    mapping: ConnectionMapping,
}

/// A new version of the credentials.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PutCredentials {
    /// Every value that is needed: by the names `GET /v1/vendors/{vendor}` tells, or those of the destination's kind.
    #[schema(value_type = BTreeMap<String, String>, write_only)]
    pub(super) credentials: BTreeMap<String, SecretString>,
}

/// List connections
///
/// Those your token may use, by name; admins see all, with their settings.
#[utoipa::path(
    tag = "connections",
    security(("bearer" = [])),
    responses((status = 200, description = "The connections.", body = ConnectionList), Unauthenticated),
)]
#[get("/v1/connections")]
pub async fn list_connections(caller: Authorized<AnyScope>, gateway: web::Data<Gateway>) -> Answer {
    let connections = operation::list_connections(&gateway, &caller).await?;
    let data = connections.into_iter().map(|connection| view(connection, caller.is_admin())).collect();
    Ok(HttpResponse::Ok().json(ConnectionList { data, next_page_token: String::new() }))
}

/// Read a connection
#[utoipa::path(
    tag = "connections",
    security(("bearer" = [])),
    params(("name" = String, Path, description = "The connection's name.")),
    responses((status = 200, description = "The connection.", body = ConnectionView), Unauthenticated, Absent),
)]
#[get("/v1/connections/{name}")]
pub async fn get_connection(
    caller: Authorized<AnyScope>,
    gateway: web::Data<Gateway>,
    name: web::Path<String>,
) -> Answer {
    let connection = operation::get_connection(&gateway, &caller, possible(&name)?).await?;
    Ok(HttpResponse::Ok().json(view(connection, caller.is_admin())))
}

/// Create or change a connection
///
/// Settings are checked at once, credentials with `POST /v1/connections/{name}/check`.
#[utoipa::path(
    tag = "connections",
    security(("bearer" = ["connections:admin"])),
    params(("name" = String, Path, description = "The connection's name; callers use it in `connection`.")),
    request_body = PutConnection,
    responses(
        (status = 201, description = "Created.", body = ConnectionView, headers(
            ("Location" = String, description = "Where the connection is."),
        )),
        (status = 200, description = "Changed.", body = ConnectionView),
        BadBody, Absent, Denied, InUse,
    ),
)]
#[put("/v1/connections/{name}")]
pub async fn put_connection(
    _caller: Authorized<ConnectionsAdmin>,
    gateway: web::Data<Gateway>,
    request: HttpRequest,
    payload: web::Payload,
    name: web::Path<String>,
) -> Answer {
    let name = possible(&name)?;
    let PutConnection { vendor, display_name, settings, credentials, mapping } =
        body::fields(body::read_json(&request, payload).await?)?;
    let put = operation::PutConnection { vendor, display_name, settings, credentials, mapping };
    let (connection, created) = operation::put_connection(&gateway, name, put).await?;
    let mut answer = HttpResponse::Ok();
    if created {
        answer = HttpResponse::Created();
        answer.insert_header((LOCATION, format!("/v1/connections/{}", connection.name)));
    }
    Ok(answer.json(view(connection, true)))
}

/// Delete a connection
///
/// Refused while exports run over it. Finished exports and their files stay.
#[utoipa::path(
    tag = "connections",
    security(("bearer" = ["connections:admin"])),
    params(("name" = String, Path, description = "The connection's name.")),
    responses((status = 204, description = "It is gone, with its credentials."), Absent, Denied, InUse),
)]
#[delete("/v1/connections/{name}")]
pub async fn delete_connection(
    _caller: Authorized<ConnectionsAdmin>,
    gateway: web::Data<Gateway>,
    name: web::Path<String>,
) -> Answer {
    operation::delete_connection(&gateway, possible(&name)?).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Renew credentials
///
/// Seals a new version, used from now on, also by exports that are running.
#[utoipa::path(
    tag = "connections",
    security(("bearer" = ["connections:admin"])),
    params(("name" = String, Path, description = "The connection's name.")),
    request_body = PutCredentials,
    responses(
        (status = 200, description = "The new version is in force.", body = ConnectionView),
        BadBody, Absent, Denied,
    ),
)]
#[post("/v1/connections/{name}/credentials")]
pub async fn rotate_credentials(
    _caller: Authorized<ConnectionsAdmin>,
    gateway: web::Data<Gateway>,
    request: HttpRequest,
    payload: web::Payload,
    name: web::Path<String>,
) -> Answer {
    let name = possible(&name)?;
    let PutCredentials { credentials } = body::fields(body::read_json(&request, payload).await?)?;
    let connection = operation::rotate_credentials(&gateway, name, credentials).await?;
    Ok(HttpResponse::Ok().json(view(connection, true)))
}

/// Check a connection
///
/// Asks the vendor whether address and credentials work and keeps the answer as the connection's health.
#[utoipa::path(
    tag = "connections",
    security(("bearer" = ["connections:admin"])),
    params(("name" = String, Path, description = "The connection's name.")),
    responses(
        (status = 200, description = "The vendor answered; `health` says what.", body = ConnectionView),
        Absent, Denied, VendorAtFault,
    ),
)]
#[post("/v1/connections/{name}/check")]
pub async fn check_connection(
    _caller: Authorized<ConnectionsAdmin>,
    gateway: web::Data<Gateway>,
    name: web::Path<String>,
) -> Answer {
    let connection = operation::check_connection(&gateway, possible(&name)?).await?;
    Ok(HttpResponse::Ok().json(view(connection, true)))
}

/// A name that a connection could have; nothing can be at the others, and the database could not even be asked.
pub fn possible(name: &str) -> Result<&str, ApiError> {
    if name.len() > 255 || name.chars().any(char::is_control) {
        return Err(ApiError::not_found("connection"));
    }
    Ok(name)
}

/// The connection as `for_admin` may see it.
pub fn view(connection: ConnectionRecord, for_admin: bool) -> ConnectionView {
    ConnectionView {
        datasets: dataset_names(&connection.vendor),
        name: connection.name,
        vendor: connection.vendor,
        display_name: connection.display_name,
        health: connection.health,
        health_checked_at: connection.health_checked_at,
        created_at: connection.created_at,
        updated_at: connection.updated_at,
        health_detail: connection.health_detail.filter(|_| for_admin),
        credential_version: for_admin.then_some(connection.credential_version),
        settings: for_admin.then_some(connection.settings),
        mapping: for_admin.then_some(connection.mapping.0),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{json, to_value};

    use super::{super::examples, *};

    #[test]
    fn only_admins_see_settings_and_nobody_sees_credentials() {
        let public = to_value(view(examples::connection(), false)).unwrap();
        assert!(public.get("settings").is_none() && public.get("mapping").is_none());
        assert_eq!(public["health"], "healthy");
        let admin = to_value(view(examples::connection(), true)).unwrap();
        assert_eq!(admin["settings"]["base_url"], "https://rest.fra-01.braze.eu");
        assert!(admin.get("credentials").is_none());
    }

    #[test]
    fn credentials_are_read_as_secrets() {
        let value = json!({"vendor": "braze", "settings": {}, "credentials": {"api_key": "k-123"}});
        let put: PutConnection = body::fields(value).unwrap();
        assert!(!format!("{put:?}").contains("k-123"));
        let error = body::fields::<PutConnection>(json!({"vendor": "braze", "settings": {}, "creds": 1})).unwrap_err();
        assert_eq!(error.problem().errors[0].pointer, "/creds");
    }
}
