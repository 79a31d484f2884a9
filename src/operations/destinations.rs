//! Places that results are delivered to: created and changed by admins, named by callers, credentials shown to nobody.

pub mod place;

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use object_store::{ObjectStoreExt, path::Path};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tracing::{info, warn};
use uuid::Uuid;

use self::place::{OpenDestination, Settings, credentials_of, explain};
use super::{Error, Gateway, accounts::text_of, not_found};
use crate::{
    exports::{
        problem::{Code, FieldError, Problem},
        record::{DestinationRecord, Health},
    },
    ids::DestinationId,
    store::{self, destinations::SealedDestination},
    vault::DataKey,
};

/// The scope of an admin of destinations.
pub const ADMIN: &str = "destinations:admin";

/// How long a check may take.
const CHECK_TIMEOUT: Duration = Duration::from_mins(1);

/// What an admin puts. Without credentials an existing destination keeps its own, and a new one uses the process's; so
/// does one that is given an empty set.
#[derive(Debug)]
pub struct PutDestination {
    pub display_name: Option<String>,
    pub url: String,
    pub settings: Value,
    pub credentials: Option<BTreeMap<String, SecretString>>,
}

/// Creates or changes a destination; the flag says that it was created. The kind of a destination never changes.
pub async fn put_destination(
    gateway: &Gateway,
    name: &str,
    put: PutDestination,
) -> Result<(DestinationRecord, bool), Error> {
    require_name(name)?;
    let settings = Settings::parse(&put.url, &put.settings, &gateway.ground).map_err(Problem::invalid)?;
    let mut tx = gateway.db.begin().await?;
    store::destinations::lock_name(&mut *tx, name).await?;
    let existing = store::destinations::lock_sealed_by_name(&mut *tx, name).await?;
    let (record, created) = match existing {
        Some(existing) => (change(gateway, &mut tx, &existing, &settings, put).await?, false),
        None => (create(gateway, &mut tx, name, &settings, put).await?, true),
    };
    tx.commit().await?;
    info!(destination = name, kind = settings.address.kind.as_str(), created, "destination saved");
    Ok((record, created))
}

async fn create(
    gateway: &Gateway,
    tx: &mut sqlx::PgConnection,
    name: &str,
    settings: &Settings,
    put: PutDestination,
) -> Result<DestinationRecord, Error> {
    let credentials = put.credentials.unwrap_or_default();
    require_usable(gateway, settings, &credentials)?;
    let destination_id = DestinationId::new();
    let (key, sealed_key) = gateway.vault.seal_data_key()?;
    let version = i32::from(!credentials.is_empty());
    let now = chrono::Utc::now();
    let sealed = SealedDestination {
        credentials: seal(gateway, &key, destination_id, version, &credentials)?,
        key_id: sealed_key.key_id,
        sealed_data_key: sealed_key.bytes,
        record: DestinationRecord {
            destination_id,
            name: name.into(),
            display_name: put.display_name.unwrap_or_else(|| name.into()),
            url: put.url,
            settings: put.settings,
            health: Health::Unknown,
            health_detail: None,
            health_checked_at: None,
            credential_version: version,
            created_at: now,
            updated_at: now,
        },
    };
    Ok(store::destinations::insert(tx, &sealed).await?)
}

async fn change(
    gateway: &Gateway,
    tx: &mut sqlx::PgConnection,
    existing: &SealedDestination,
    settings: &Settings,
    put: PutDestination,
) -> Result<DestinationRecord, Error> {
    let old = &existing.record;
    if !settings.is_same_kind(&old.url) {
        let detail = "the kind of a destination never changes; make another one";
        return Err(Problem::invalid(vec![FieldError::new("/url", "immutable", detail)]).into());
    }
    let credentials = match &put.credentials {
        Some(credentials) => credentials.clone(),
        None => gateway.destination_credentials(existing)?,
    };
    require_usable(gateway, settings, &credentials)?;
    let display_name = put.display_name.unwrap_or_else(|| old.name.clone());
    let id = old.destination_id;
    let record = store::destinations::update(&mut *tx, id, &display_name, &put.url, &put.settings).await?;
    match put.credentials {
        Some(credentials) => replace_credentials(gateway, tx, existing, &credentials).await,
        None => Ok(record),
    }
}

async fn replace_credentials(
    gateway: &Gateway,
    tx: &mut sqlx::PgConnection,
    existing: &SealedDestination,
    credentials: &BTreeMap<String, SecretString>,
) -> Result<DestinationRecord, Error> {
    let key = gateway.destination_key(existing)?;
    let id = existing.record.destination_id;
    let version = if credentials.is_empty() { 0 } else { existing.record.credential_version + 1 };
    let sealed = seal(gateway, &key, id, version, credentials)?;
    Ok(store::destinations::set_credentials(tx, id, sealed.as_deref(), version).await?)
}

fn seal(
    gateway: &Gateway,
    key: &DataKey,
    id: DestinationId,
    version: i32,
    credentials: &BTreeMap<String, SecretString>,
) -> Result<Option<Vec<u8>>, Error> {
    if credentials.is_empty() {
        return Ok(None);
    }
    let context = place::context(id, version);
    let context: Vec<&str> = context.iter().map(String::as_str).collect();
    Ok(Some(gateway.vault.seal(key, &context, text_of(credentials).expose_secret().as_bytes())?))
}

/// Settings and credentials that fit together, as far as can be seen without asking anybody.
fn require_usable(
    gateway: &Gateway,
    settings: &Settings,
    credentials: &BTreeMap<String, SecretString>,
) -> Result<(), Error> {
    let own = credentials_of(settings.address.kind, credentials).map_err(Problem::invalid)?;
    settings.require_identity(own.as_ref()).map_err(Problem::invalid)?;
    if settings.address.folder.is_none() && own.is_some() {
        settings.open_bucket(own.as_ref(), gateway).map_err(|error| Problem::invalid(vec![error]))?;
    }
    Ok(())
}

/// Seals a new version of the credentials and uses it from now on. An empty set leaves it to the process's own.
pub async fn rotate_credentials(
    gateway: &Gateway,
    name: &str,
    credentials: BTreeMap<String, SecretString>,
) -> Result<DestinationRecord, Error> {
    let mut tx = gateway.db.begin().await?;
    let existing = store::destinations::lock_sealed_by_name(&mut *tx, name).await?;
    let existing = existing.ok_or_else(|| not_found("destination"))?;
    let record = &existing.record;
    let settings = Settings::parse(&record.url, &record.settings, &gateway.ground).map_err(Problem::invalid)?;
    require_usable(gateway, &settings, &credentials)?;
    let record = replace_credentials(gateway, &mut tx, &existing, &credentials).await?;
    tx.commit().await?;
    info!(destination = name, version = record.credential_version, "credentials replaced");
    Ok(record)
}

/// Seals every destination's data key under the current master key, as
/// [`connections::reseal_data_keys`](super::connections::reseal_data_keys) does.
pub async fn reseal_data_keys(gateway: &Gateway) -> Result<(), Error> {
    let current = gateway.vault.current_key_id();
    for destination in store::destinations::not_sealed_under(&gateway.db, current).await? {
        let name = &destination.record.name;
        match gateway.destination_key(&destination) {
            Ok(key) => {
                let sealed = gateway.vault.reseal_data_key(&key)?;
                let (db, key_id) = (&gateway.db, &sealed.key_id);
                store::destinations::replace_sealed_key(db, &destination, key_id, &sealed.bytes).await?;
                info!(destination = name, "sealed the destination's key under the current master key");
            }
            Err(error) => warn!(destination = name, error = %error, "the destination's key cannot be opened"),
        }
    }
    Ok(())
}

/// Writes an object, reads it back and deletes it; keeps what came of it as the destination's health.
pub async fn check_destination(gateway: &Gateway, name: &str) -> Result<DestinationRecord, Error> {
    let sealed = store::destinations::sealed_by_name(&gateway.db, name).await?;
    let sealed = sealed.ok_or_else(|| not_found("destination"))?;
    let opened = gateway.open_destination(&sealed).await;
    let outcome = match opened {
        Ok(open) => tokio::time::timeout(CHECK_TIMEOUT, probe(&open))
            .await
            .unwrap_or_else(|_| Err("the destination did not answer in time".into())),
        Err(error) => Err(error.to_string()),
    };
    let (health, detail) = match &outcome {
        Ok(()) => (Health::Healthy, None),
        Err(detail) => (Health::Unhealthy, Some(detail.as_str())),
    };
    store::destinations::set_health(&gateway.db, &sealed.record, health, detail).await?;
    store::destinations::by_name(&gateway.db, name).await?.ok_or_else(|| not_found("destination"))
}

async fn probe(open: &OpenDestination) -> Result<(), String> {
    let words = |did: &str, error: object_store::Error| {
        warn!(error = %error, "a destination was checked and failed");
        format!("{did}: {}", explain(&error))
    };
    let text = Uuid::new_v4().simple().to_string();
    let key = Path::from(format!("_headgate_check_{text}"));
    let payload = Bytes::from(text.clone()).into();
    open.store.put(&key, payload).await.map_err(|error| words("an object could not be written", error))?;
    let read = async { open.store.get(&key).await?.bytes().await }.await;
    let deleted = open.store.delete(&key).await;
    let read = read.map_err(|error| words("an object was written, but could not be read", error))?;
    if read != text.as_bytes() {
        return Err("an object was written, but another one was read".into());
    }
    deleted.map_err(|error| words("an object was written and read, but could not be deleted", error))
}

/// All, by name.
pub async fn list_destinations(gateway: &Gateway) -> Result<Vec<DestinationRecord>, Error> {
    Ok(store::destinations::list(&gateway.db).await?)
}

/// The destination of that name.
pub async fn get_destination(gateway: &Gateway, name: &str) -> Result<DestinationRecord, Error> {
    store::destinations::by_name(&gateway.db, name).await?.ok_or_else(|| not_found("destination"))
}

/// Deletes a destination and its credentials; what was delivered stays. Refused with `destination_in_use` while exports
/// are on their way to it.
pub async fn delete_destination(gateway: &Gateway, name: &str) -> Result<(), Error> {
    let mut tx = gateway.db.begin().await?;
    // Under the lock, since an export that is just being accepted must be seen.
    let existing = store::destinations::lock_sealed_by_name(&mut *tx, name).await?;
    let existing = existing.ok_or_else(|| not_found("destination"))?;
    if !store::destinations::delete_unused(&mut *tx, existing.record.destination_id).await? {
        let detail = "exports are on their way to this destination; cancel them or wait";
        return Err(Problem::new(Code::DestinationInUse, detail).into());
    }
    tx.commit().await?;
    info!(destination = name, "destination deleted");
    Ok(())
}

fn require_name(name: &str) -> Result<(), Error> {
    if super::connections::is_plain_name(name) {
        return Ok(());
    }
    let detail = "a destination's name is 1 to 63 characters of a-z 0-9 - _ . and begins with a letter or digit";
    Err(Problem::new(Code::InvalidRequest, detail).into())
}
