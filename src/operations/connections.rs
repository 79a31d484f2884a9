//! Vendor accounts: created and changed by admins, named by callers, credentials shown to nobody.

use std::collections::BTreeMap;

use secrecy::SecretString;
use serde_json::Value;
use sqlx::types::Json;
use tracing::{info, warn};

use super::{Caller, Error, Gateway, not_found};
use crate::{
    exports::{
        mapping::{self, ConnectionMapping},
        problem::{Code, FieldError, Problem},
        record::{ConnectionRecord, Health},
    },
    ids::ConnectionId,
    store::{self, connections::SealedConnection},
    vendors::{CredentialSpec, Exchanges, VendorSpec, registry},
};

/// The scope of an admin of connections.
pub const ADMIN: &str = "connections:admin";

/// What an admin puts. Without credentials an existing connection keeps its own.
#[derive(Debug)]
pub struct PutConnection {
    pub vendor: String,
    pub display_name: Option<String>,
    pub settings: Value,
    pub credentials: Option<BTreeMap<String, SecretString>>,
    pub mapping: ConnectionMapping,
}

/// Creates or changes a connection; the flag says that it was created. The vendor of a connection never changes.
pub async fn put_connection(
    gateway: &Gateway,
    name: &str,
    put: PutConnection,
) -> Result<(ConnectionRecord, bool), Error> {
    require_name(name)?;
    let Some(spec) = registry::vendor(&put.vendor) else {
        let known: Vec<_> = registry::VENDORS.iter().map(|spec| spec.name).collect();
        let detail = format!("there is no vendor `{}`; use one of: {}", put.vendor, known.join(", "));
        return Err(Problem::invalid(vec![FieldError::new("/vendor", "unknown_vendor", detail)]).into());
    };
    require_all(spec, put.credentials.as_ref())?;
    let errors = mapping::check(&put.mapping);
    if !errors.is_empty() {
        return Err(Problem::invalid(errors).into());
    }
    gateway
        .adapter(spec, put.settings.clone(), put.credentials.clone().unwrap_or_default(), put.mapping.clone())
        .map_err(Problem::invalid)?;

    let mut tx = gateway.db.begin().await?;
    store::connections::lock_name(&mut *tx, name).await?;
    let existing = store::connections::lock_sealed_by_name(&mut *tx, name).await?;
    let (record, created) = match existing {
        Some(existing) => (change(gateway, &mut tx, &existing, put).await?, false),
        None => (create(gateway, &mut tx, name, spec, put).await?, true),
    };
    tx.commit().await?;
    info!(connection = name, vendor = record.vendor, created, "connection saved");
    Ok((record, created))
}

async fn create(
    gateway: &Gateway,
    tx: &mut sqlx::PgConnection,
    name: &str,
    spec: &VendorSpec,
    put: PutConnection,
) -> Result<ConnectionRecord, Error> {
    let Some(credentials) = put.credentials else {
        let error = FieldError::new("/credentials", "required", "a new connection needs credentials");
        return Err(Problem::invalid(vec![error]).into());
    };
    let connection_id = ConnectionId::new();
    let (key, sealed_key) = gateway.vault.seal_data_key()?;
    let now = chrono::Utc::now();
    let sealed = SealedConnection {
        credentials: gateway.seal_credentials(&key, connection_id, 1, &credentials)?,
        key_id: sealed_key.key_id,
        sealed_data_key: sealed_key.bytes,
        record: ConnectionRecord {
            connection_id,
            name: name.into(),
            vendor: spec.name.into(),
            display_name: put.display_name.unwrap_or_else(|| name.into()),
            settings: put.settings,
            mapping: Json(put.mapping),
            health: Health::Unknown,
            health_detail: None,
            health_checked_at: None,
            credential_version: 1,
            created_at: now,
            updated_at: now,
        },
    };
    Ok(store::connections::insert(tx, &sealed).await?)
}

async fn change(
    gateway: &Gateway,
    tx: &mut sqlx::PgConnection,
    existing: &SealedConnection,
    put: PutConnection,
) -> Result<ConnectionRecord, Error> {
    let old = &existing.record;
    if old.vendor != put.vendor {
        let detail = format!("this connection is of vendor `{}`; make another one", old.vendor);
        return Err(Problem::invalid(vec![FieldError::new("/vendor", "immutable", detail)]).into());
    }
    let display_name = put.display_name.unwrap_or_else(|| old.name.clone());
    let record =
        store::connections::update(&mut *tx, old.connection_id, &display_name, &put.settings, &Json(put.mapping))
            .await?;
    match put.credentials {
        Some(credentials) => replace_credentials(gateway, tx, existing, &credentials).await,
        None => Ok(record),
    }
}

async fn replace_credentials(
    gateway: &Gateway,
    tx: &mut sqlx::PgConnection,
    existing: &SealedConnection,
    credentials: &BTreeMap<String, SecretString>,
) -> Result<ConnectionRecord, Error> {
    let key = gateway.data_key(existing)?;
    let id = existing.record.connection_id;
    let sealed = gateway.seal_credentials(&key, id, existing.record.credential_version + 1, credentials)?;
    Ok(store::connections::set_credentials(tx, id, &sealed).await?)
}

/// Seals a new version of the credentials and uses it from now on.
pub async fn rotate_credentials(
    gateway: &Gateway,
    name: &str,
    credentials: BTreeMap<String, SecretString>,
) -> Result<ConnectionRecord, Error> {
    let mut tx = gateway.db.begin().await?;
    let existing = store::connections::lock_sealed_by_name(&mut *tx, name).await?;
    let existing = existing.ok_or_else(|| not_found("connection"))?;
    if let Some(spec) = registry::vendor(&existing.record.vendor) {
        require_all(spec, Some(&credentials))?;
        let (settings, mapping) = (existing.record.settings.clone(), existing.record.mapping.0.clone());
        gateway.adapter(spec, settings, credentials.clone(), mapping).map_err(Problem::invalid)?;
    }
    let record = replace_credentials(gateway, &mut tx, &existing, &credentials).await?;
    tx.commit().await?;
    info!(connection = name, version = record.credential_version, "credentials replaced");
    Ok(record)
}

/// Seals every connection's data key under the current master key, so that an older one can be taken away. What was
/// sealed with the data key stays as it is. A key that cannot be opened is left alone and told.
pub async fn reseal_data_keys(gateway: &Gateway) -> Result<(), Error> {
    let current = gateway.vault.current_key_id();
    for connection in store::connections::not_sealed_under(&gateway.db, current).await? {
        let name = &connection.record.name;
        match gateway.data_key(&connection) {
            Ok(key) => {
                let sealed = gateway.vault.reseal_data_key(&key)?;
                store::connections::replace_sealed_key(&gateway.db, &connection, &sealed.key_id, &sealed.bytes).await?;
                info!(connection = name, "sealed the connection's key under the current master key");
            }
            Err(error) => warn!(connection = name, error = %error, "the connection's key cannot be opened"),
        }
    }
    Ok(())
}

/// Asks the vendor whether address and credentials work; keeps the answer as the connection's health.
pub async fn check_connection(gateway: &Gateway, name: &str) -> Result<ConnectionRecord, Error> {
    let id =
        store::connections::by_name(&gateway.db, name).await?.ok_or_else(|| not_found("connection"))?.connection_id;
    let sealed = store::connections::sealed_by_id(&gateway.db, id).await?.ok_or_else(|| not_found("connection"))?;
    let (health, detail) = match gateway.open_account(&sealed) {
        Ok(account) => match account.vendor.check(&Exchanges::default()).await {
            Ok(()) => (Health::Healthy, None),
            Err(error) => (Health::Unhealthy, Some(error.to_string())),
        },
        Err(error) => (Health::Unhealthy, Some(error.to_string())),
    };
    let version = sealed.record.credential_version;
    store::connections::set_health(&gateway.db, id, version, health, detail.as_deref()).await?;
    store::connections::by_name(&gateway.db, name).await?.ok_or_else(|| not_found("connection"))
}

/// Those the caller may use (an admin: all), by name.
pub async fn list_connections(gateway: &Gateway, caller: &Caller) -> Result<Vec<ConnectionRecord>, Error> {
    let mut connections = store::connections::list(&gateway.db).await?;
    connections.retain(|connection| may_see(caller, &connection.name));
    Ok(connections)
}

/// One the caller may use (an admin: any).
pub async fn get_connection(gateway: &Gateway, caller: &Caller, name: &str) -> Result<ConnectionRecord, Error> {
    if !may_see(caller, name) {
        return Err(not_found("connection"));
    }
    store::connections::by_name(&gateway.db, name).await?.ok_or_else(|| not_found("connection"))
}

fn may_see(caller: &Caller, name: &str) -> bool {
    caller.has_scope(ADMIN) || caller.may_use(name)
}

/// Deletes a connection and its credentials. Refused with `connection_in_use` while exports run over it.
pub async fn delete_connection(gateway: &Gateway, name: &str) -> Result<(), Error> {
    let connection = store::connections::by_name(&gateway.db, name).await?.ok_or_else(|| not_found("connection"))?;
    if !store::connections::delete_unused(&gateway.db, connection.connection_id).await? {
        return Err(
            Problem::new(Code::ConnectionInUse, "exports still run over this connection; cancel them or wait").into()
        );
    }
    info!(connection = name, "connection deleted");
    Ok(())
}

/// A name as connections and destinations have: 1 to 63 plain characters.
pub(super) fn is_plain_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
    !name.is_empty()
        && name.len() <= 63
        && name.chars().all(plain)
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
}

fn require_name(name: &str) -> Result<(), Error> {
    if is_plain_name(name) {
        return Ok(());
    }
    let detail = "a connection's name is 1 to 63 characters of a-z 0-9 - _ . and begins with a letter or digit";
    Err(Problem::new(Code::InvalidRequest, detail).into())
}

/// An adapter takes no credentials for "check the settings only", so that they are there is seen to here.
fn require_all(spec: &VendorSpec, credentials: Option<&BTreeMap<String, SecretString>>) -> Result<(), Error> {
    if credentials.is_none_or(|credentials| !credentials.is_empty()) {
        return Ok(());
    }
    let missing =
        |known: &CredentialSpec| FieldError::new(format!("/credentials/{}", known.name), "required", known.description);
    let mut errors: Vec<_> = spec.credentials.iter().filter(|known| known.required).map(missing).collect();
    if errors.is_empty() {
        let names: Vec<_> = spec.credentials.iter().map(|known| known.name).collect();
        let detail = format!("there is none; known are: {}", names.join(", "));
        errors.push(FieldError::new("/credentials", "required", detail));
    }
    Err(Problem::invalid(errors).into())
}
