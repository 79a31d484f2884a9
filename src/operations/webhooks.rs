//! Endpoints of webhooks: a tenant's own, their addresses and secrets sealed.

use std::{collections::BTreeMap, time::Duration};

use chrono::Utc;
use sqlx::types::Json;
use tracing::{info, warn};
use url::Url;

use super::{Caller, Error, Gateway, connections, not_found};
use crate::{
    exports::{
        problem::{Code, FieldError, Problem},
        webhook::{self, DEFAULT_GRACE, DisabledReason, EndpointRecord, EventType, MAX_GRACE},
    },
    ids::WebhookEndpointId,
    store::{
        self,
        webhooks::{Changed, Sealed, SealedEndpoint},
    },
    vault::{self, DataKey, SealedDataKey, webhooks::WebhookSecret},
};

/// The most endpoints that a tenant can have: each is looked at whenever one of its exports ends.
const MAX_ENDPOINTS: i64 = 50;

/// What sealed texts are bound to, besides the endpoint's id: one cannot be put in the place of another.
const URL: &str = "webhook address";
const SECRET: &str = "webhook secret";

/// An endpoint as its owner sees it.
#[derive(Debug)]
pub struct Endpoint {
    pub record: EndpointRecord,
    pub url: Url,
}

/// What is wanted of a new endpoint.
pub struct NewEndpoint {
    pub url: String,
    pub description: String,
    pub event_types: Vec<EventType>,
    pub labels: BTreeMap<String, String>,
}

/// What is to be different; what is `None` stays.
#[derive(Default)]
pub struct ChangeEndpoint {
    pub url: Option<String>,
    pub description: Option<String>,
    pub event_types: Option<Vec<EventType>>,
    pub labels: Option<BTreeMap<String, String>>,
    pub enabled: Option<bool>,
}

/// Adds an endpoint. Its secret is told here and never again.
pub async fn create_endpoint(
    gateway: &Gateway,
    caller: &Caller,
    new: NewEndpoint,
) -> Result<(Endpoint, WebhookSecret), Error> {
    let event_types = checked(caller, new.event_types)?;
    let url = usable(gateway, &new.url, &new.description, &new.labels)?;
    let id = WebhookEndpointId::new();
    let secret = WebhookSecret::generate()?;
    let (key, sealed_key) = gateway.vault.seal_data_key()?;
    let now = Utc::now();
    let endpoint = SealedEndpoint {
        sealed: Sealed {
            key_id: sealed_key.key_id,
            sealed_data_key: sealed_key.bytes,
            url: seal_url(gateway, &key, id, &url)?,
            secret: seal_secret(gateway, &key, id, 1, &secret)?,
            previous_secret: None,
        },
        record: EndpointRecord {
            webhook_endpoint_id: id,
            tenant: caller.tenant.clone(),
            created_by: caller.subject.clone(),
            description: new.description,
            event_types,
            labels: Json(new.labels),
            host: host(&url),
            secret_version: 1,
            previous_secret_until: None,
            disabled_at: None,
            disabled_reason: None,
            failing_since: None,
            created_at: now,
            updated_at: now,
        },
    };
    let mut tx = gateway.db.begin().await?;
    store::webhooks::lock_tenant(&mut *tx, &caller.tenant).await?;
    if store::webhooks::count(&mut *tx, &caller.tenant).await? >= MAX_ENDPOINTS {
        let detail = format!("a tenant has at most {MAX_ENDPOINTS} endpoints; delete one that is not needed");
        return Err(Problem::invalid(vec![FieldError::new("", "too_many", detail)]).into());
    }
    let sealed = store::webhooks::insert(&mut *tx, &endpoint).await?;
    tx.commit().await?;
    info!(webhook.endpoint = %id, webhook.host = sealed.record.host, "webhook endpoint created");
    Ok((Endpoint { record: sealed.record, url }, secret))
}

/// One page of the tenant's endpoints, newest first, and whether more follow.
pub async fn list_endpoints(
    gateway: &Gateway,
    caller: &Caller,
    before: Option<WebhookEndpointId>,
    page_size: i64,
) -> Result<(Vec<Endpoint>, bool), Error> {
    let mut found = store::webhooks::list(&gateway.db, &caller.tenant, before, page_size + 1).await?;
    let more = super::cut_page(&mut found, page_size);
    let opened = found.into_iter().map(|sealed| opened(gateway, sealed)).collect::<Result<_, _>>()?;
    Ok((opened, more))
}

/// The tenant's endpoint.
pub async fn get_endpoint(gateway: &Gateway, caller: &Caller, id: WebhookEndpointId) -> Result<Endpoint, Error> {
    opened(gateway, read(gateway, caller, id).await?)
}

pub(super) async fn read(gateway: &Gateway, caller: &Caller, id: WebhookEndpointId) -> Result<SealedEndpoint, Error> {
    store::webhooks::by_id(&gateway.db, &caller.tenant, id).await?.ok_or_else(no_endpoint)
}

pub(super) fn no_endpoint() -> Error {
    not_found("webhook endpoint")
}

/// Changes an endpoint. Enabling one forgets its failures; what it was not told meanwhile comes only by a replay.
pub async fn change_endpoint(
    gateway: &Gateway,
    caller: &Caller,
    id: WebhookEndpointId,
    change: ChangeEndpoint,
) -> Result<Endpoint, Error> {
    let mut tx = gateway.db.begin().await?;
    let old = lock(&mut tx, caller, id).await?;
    let ChangeEndpoint { url, description, event_types, labels, enabled } = change;
    let event_types = match event_types {
        Some(event_types) => checked(caller, event_types)?,
        None => old.record.event_types.clone(),
    };
    let description = description.unwrap_or_else(|| old.record.description.clone());
    let labels = labels.unwrap_or_else(|| old.record.labels.0.clone());
    let key = data_key(gateway, &old.sealed)?;
    let url = if let Some(url) = url {
        usable(gateway, &url, &description, &labels)?
    } else {
        let errors = webhook::check(&description, &labels);
        if !errors.is_empty() {
            return Err(Problem::invalid(errors).into());
        }
        open_url(gateway, &key, id, &old.sealed.url)?
    };
    let sealed_url = seal_url(gateway, &key, id, &url)?;
    let host = host(&url);
    let changed = Changed {
        description: &description,
        event_types: &event_types,
        labels: &labels,
        url: &sealed_url,
        host: &host,
    };
    let mut sealed = store::webhooks::update(&mut *tx, id, &changed).await?;
    match (enabled, sealed.record.disabled_at) {
        (Some(true), Some(_)) => sealed = store::webhooks::enable(&mut *tx, id).await?,
        (Some(false), None) => {
            sealed = store::webhooks::disable(&mut *tx, id, DisabledReason::Requested).await?;
            store::deliveries::give_up(&mut *tx, id).await?;
        }
        _ => {}
    }
    tx.commit().await?;
    info!(webhook.endpoint = %id, webhook.host = host, "webhook endpoint changed");
    Ok(Endpoint { record: sealed.record, url })
}

/// Puts a new secret in force, and tells it this once. For `grace`, a day unless given, messages are signed with the one
/// before as well.
pub async fn rotate_secret(
    gateway: &Gateway,
    caller: &Caller,
    id: WebhookEndpointId,
    grace: Option<Duration>,
) -> Result<(Endpoint, WebhookSecret), Error> {
    let grace = grace.unwrap_or(DEFAULT_GRACE);
    if grace > MAX_GRACE {
        return Err(Problem::invalid(vec![FieldError::new("/grace", "out_of_range", "at most P7D")]).into());
    }
    let mut tx = gateway.db.begin().await?;
    let old = lock(&mut tx, caller, id).await?;
    let key = data_key(gateway, &old.sealed)?;
    let secret = WebhookSecret::generate()?;
    let sealed = seal_secret(gateway, &key, id, old.record.secret_version + 1, &secret)?;
    let sealed = store::webhooks::rotate(&mut *tx, id, &sealed, grace).await?;
    tx.commit().await?;
    info!(webhook.endpoint = %id, version = sealed.record.secret_version, "webhook secret replaced");
    Ok((opened(gateway, sealed)?, secret))
}

/// Deletes an endpoint with its deliveries.
pub async fn delete_endpoint(gateway: &Gateway, caller: &Caller, id: WebhookEndpointId) -> Result<(), Error> {
    let mut tx = gateway.db.begin().await?;
    lock(&mut tx, caller, id).await?;
    store::webhooks::delete(&mut *tx, &caller.tenant, id).await?;
    tx.commit().await?;
    info!(webhook.endpoint = %id, "webhook endpoint deleted");
    Ok(())
}

/// The endpoint, locked. One that is told of connections is only for admins of connections to change.
async fn lock(tx: &mut sqlx::PgConnection, caller: &Caller, id: WebhookEndpointId) -> Result<SealedEndpoint, Error> {
    let found = store::webhooks::lock(tx, &caller.tenant, id).await?.ok_or_else(no_endpoint)?;
    require_allowed(caller, &found.record.event_types)?;
    Ok(found)
}

/// Event types that the caller may have, each once.
fn checked(caller: &Caller, mut event_types: Vec<EventType>) -> Result<Vec<EventType>, Error> {
    event_types.sort_unstable();
    event_types.dedup();
    if event_types.is_empty() {
        let error =
            FieldError::new("/event_types", "required", "at least one; leave it out for every end of an export");
        return Err(Problem::invalid(vec![error]).into());
    }
    require_allowed(caller, &event_types)?;
    Ok(event_types)
}

fn require_allowed(caller: &Caller, event_types: &[EventType]) -> Result<(), Error> {
    if !event_types.contains(&EventType::ConnectionUnhealthy) || caller.has_scope(connections::ADMIN) {
        return Ok(());
    }
    let detail = format!("`connection.unhealthy` is only for tokens with the scope `{}`", connections::ADMIN);
    let error = FieldError::new("/event_types", "forbidden", detail.clone());
    Err(Problem::new(Code::Forbidden, detail).with_errors(vec![error]).into())
}

/// The address of an endpoint whose fields are all right.
fn usable(gateway: &Gateway, url: &str, description: &str, labels: &BTreeMap<String, String>) -> Result<Url, Error> {
    let mut errors = webhook::check(description, labels);
    let policy = gateway.http.policy();
    let url = webhook::parse_url(url).and_then(|url| {
        if url.scheme() == "http" && !policy.permits_by_name(&url) {
            let why = "an https address; http only to hosts that the operator permits in HEADGATE_EGRESS_ALLOW";
            return Err(FieldError::new("/url", "invalid", why));
        }
        policy.check_url(&url).map_err(|blocked| FieldError::new("/url", "egress_blocked", blocked.to_string()))?;
        Ok(url)
    });
    match url {
        Ok(url) if errors.is_empty() => Ok(url),
        url => {
            errors.extend(url.err());
            Err(Problem::invalid(errors).into())
        }
    }
}

/// What of an address may be in a log.
fn host(url: &Url) -> String {
    url.host_str().unwrap_or_default().to_owned()
}

fn opened(gateway: &Gateway, endpoint: SealedEndpoint) -> Result<Endpoint, Error> {
    let SealedEndpoint { record, sealed } = endpoint;
    let url = open_url(gateway, &data_key(gateway, &sealed)?, record.webhook_endpoint_id, &sealed.url)?;
    Ok(Endpoint { record, url })
}

pub(super) fn data_key(gateway: &Gateway, sealed: &Sealed) -> Result<DataKey, vault::Error> {
    let (key_id, bytes) = (sealed.key_id.clone(), sealed.sealed_data_key.clone());
    gateway.vault.open_data_key(&SealedDataKey { key_id, bytes })
}

fn seal_url(gateway: &Gateway, key: &DataKey, id: WebhookEndpointId, url: &Url) -> Result<Vec<u8>, vault::Error> {
    gateway.vault.seal(key, &[URL, &id.to_string()], url.as_str().as_bytes())
}

pub(super) fn open_url(
    gateway: &Gateway,
    key: &DataKey,
    id: WebhookEndpointId,
    sealed: &[u8],
) -> Result<Url, vault::Error> {
    let plain = gateway.vault.open(key, &[URL, &id.to_string()], sealed)?;
    std::str::from_utf8(&plain).ok().and_then(|text| Url::parse(text).ok()).ok_or(vault::Error::CannotOpen)
}

fn seal_secret(
    gateway: &Gateway,
    key: &DataKey,
    id: WebhookEndpointId,
    version: i32,
    secret: &WebhookSecret,
) -> Result<Vec<u8>, vault::Error> {
    gateway.vault.seal(key, &[SECRET, &id.to_string(), &version.to_string()], secret.expose_secret().as_bytes())
}

pub(super) fn open_secret(
    gateway: &Gateway,
    key: &DataKey,
    id: WebhookEndpointId,
    version: i32,
    sealed: &[u8],
) -> Result<WebhookSecret, vault::Error> {
    let plain = gateway.vault.open(key, &[SECRET, &id.to_string(), &version.to_string()], sealed)?;
    std::str::from_utf8(&plain).map(WebhookSecret::from_text).map_err(|_| vault::Error::CannotOpen)
}

/// Seals every endpoint's data key under the current master key, as
/// [`connections::reseal_data_keys`] does.
pub async fn reseal_data_keys(gateway: &Gateway) -> Result<(), Error> {
    let current = gateway.vault.current_key_id();
    for endpoint in store::webhooks::not_sealed_under(&gateway.db, current).await? {
        let id = endpoint.record.webhook_endpoint_id;
        match data_key(gateway, &endpoint.sealed) {
            Ok(key) => {
                let sealed = gateway.vault.reseal_data_key(&key)?;
                store::webhooks::replace_sealed_key(&gateway.db, &endpoint, &sealed.key_id, &sealed.bytes).await?;
                info!(webhook.endpoint = %id, "sealed the endpoint's key under the current master key");
            }
            Err(error) => warn!(webhook.endpoint = %id, error = %error, "the endpoint's key cannot be opened"),
        }
    }
    Ok(())
}
