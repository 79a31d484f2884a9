//! From a stored connection to a working vendor adapter: where credentials of vendors are opened.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Error, Gateway, shared::SharedInPostgres};
use crate::{
    exports::{
        mapping::{ConnectionMapping, ValueMaps},
        problem::{FieldError, Problem},
    },
    ids::{ConnectionId, ExportId},
    store::connections::SealedConnection,
    vault::{DataKey, SealedDataKey},
    vendors::{Account, Ticket, Vendor, VendorFile, VendorSpec, registry},
};

/// What sealed texts are bound to, besides the ids of their rows: one cannot be put in the place of another.
const CREDENTIALS: &str = "credentials";
const TICKET: &str = "ticket";
const FILE: &str = "file";

/// Why a stored connection cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    #[error("no vendor `{0}` in this version")]
    UnknownVendor(String),
    #[error(transparent)]
    Vault(#[from] crate::vault::Error),
    #[error("the sealed credentials are not readable")]
    Unreadable,
    #[error("the connection's settings are not valid: {0}")]
    Settings(String),
}

/// One open account: the adapter, and the key that seals what its exports keep.
pub struct OpenAccount {
    pub spec: &'static VendorSpec,
    pub vendor: Arc<dyn Vendor>,
    key: DataKey,
}

impl Gateway {
    /// Opens the credentials of a connection and builds its adapter.
    pub fn open_account(&self, sealed: &SealedConnection) -> Result<OpenAccount, AccountError> {
        let record = &sealed.record;
        let spec =
            registry::vendor(&record.vendor).ok_or_else(|| AccountError::UnknownVendor(record.vendor.clone()))?;
        let key = self.data_key(sealed)?;
        let (id, version) = (record.connection_id.to_string(), record.credential_version.to_string());
        let plain = self.vault.open(&key, &[CREDENTIALS, &id, &version], &sealed.credentials)?;
        let credentials: BTreeMap<String, SecretString> =
            serde_json::from_slice(&plain).map_err(|_| AccountError::Unreadable)?;
        let vendor = self
            .adapter(spec, record.settings.clone(), credentials, record.mapping.0.clone())
            .map_err(|errors| AccountError::Settings(Problem::invalid(errors).to_string()))?;
        Ok(OpenAccount { spec, vendor, key })
    }

    /// Builds an adapter; without credentials it can plan and check settings, nothing else.
    pub(super) fn adapter(
        &self,
        spec: &VendorSpec,
        settings: Value,
        credentials: BTreeMap<String, SecretString>,
        mapping: ConnectionMapping,
    ) -> Result<Arc<dyn Vendor>, Vec<FieldError>> {
        let shared = SharedInPostgres { db: self.db.clone(), vault: self.vault.clone(), vendor: spec.name };
        let (mapping, values) = ValueMaps::split(mapping);
        let (http, shared) = (self.http.clone(), Arc::new(shared));
        (spec.connect)(Account { settings, credentials, mapping, values, http, shared })
    }

    pub(super) fn data_key(&self, sealed: &SealedConnection) -> Result<DataKey, crate::vault::Error> {
        self.vault
            .open_data_key(&SealedDataKey { key_id: sealed.key_id.clone(), bytes: sealed.sealed_data_key.clone() })
    }

    pub(super) fn seal_credentials(
        &self,
        key: &DataKey,
        id: ConnectionId,
        version: i32,
        credentials: &BTreeMap<String, SecretString>,
    ) -> Result<Vec<u8>, Error> {
        let context = [CREDENTIALS, &id.to_string(), &version.to_string()];
        Ok(self.vault.seal(key, &context, text_of(credentials).expose_secret().as_bytes())?)
    }
}

/// Credentials as the text that is sealed.
pub(super) fn text_of(credentials: &BTreeMap<String, SecretString>) -> SecretString {
    let plain: BTreeMap<&str, &str> =
        credentials.iter().map(|(name, value)| (name.as_str(), value.expose_secret())).collect();
    SecretString::from(serde_json::to_string(&plain).unwrap_or_default())
}

impl OpenAccount {
    /// Seals what the vendor gave, for a run: it stays readable when the run's work is handed on to another export.
    pub fn seal_ticket(
        &self,
        gateway: &Gateway,
        run: ExportId,
        ticket: &Ticket,
    ) -> Result<Vec<u8>, crate::vault::Error> {
        gateway.vault.seal(&self.key, &[TICKET, &run.to_string()], ticket.0.expose_secret().as_bytes())
    }

    /// Opens what the vendor gave.
    pub fn open_ticket(&self, gateway: &Gateway, run: ExportId, sealed: &[u8]) -> Result<Ticket, AccountError> {
        let plain = gateway.vault.open(&self.key, &[TICKET, &run.to_string()], sealed)?;
        let text = std::str::from_utf8(&plain).map_err(|_| AccountError::Unreadable)?;
        Ok(Ticket(SecretString::from(text)))
    }

    /// Seals where one of the vendor's files is, for a run.
    pub fn seal_file(&self, gateway: &Gateway, run: ExportId, file: &VendorFile) -> Result<Vec<u8>, AccountError> {
        let kept = KeptFile {
            locator: file.locator.expose_secret().into(),
            extension: file.extension.as_ref().into(),
            tag: file.tag.as_ref().into(),
        };
        let plain = SecretString::from(serde_json::to_string(&kept).map_err(|_| AccountError::Unreadable)?);
        Ok(gateway.vault.seal(&self.key, &[FILE, &run.to_string()], plain.expose_secret().as_bytes())?)
    }

    /// Opens where one of the vendor's files is.
    pub fn open_file(&self, gateway: &Gateway, run: ExportId, sealed: &[u8]) -> Result<VendorFile, AccountError> {
        let plain = gateway.vault.open(&self.key, &[FILE, &run.to_string()], sealed)?;
        let kept: KeptFile<'_> = serde_json::from_slice(&plain).map_err(|_| AccountError::Unreadable)?;
        Ok(VendorFile {
            locator: SecretString::from(kept.locator.into_owned()),
            extension: kept.extension.into_owned().into(),
            tag: kept.tag.into_owned().into(),
        })
    }
}

/// A [`VendorFile`] as the text that is sealed.
#[derive(Serialize, Deserialize)]
struct KeptFile<'a> {
    locator: Cow<'a, str>,
    extension: Cow<'a, str>,
    tag: Cow<'a, str>,
}
