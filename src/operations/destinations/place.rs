//! From a stored destination to a store that can be written to: what its settings and credentials must be, and where
//! they are opened.

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use object_store::{ObjectStore, local::LocalFileSystem};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::Value;
use url::Url;

use super::super::{Gateway, OwnGround};
use crate::{
    buckets::{Address, Identity, Kind, Network, Place, Unusable, Why, check_endpoint, why},
    exports::{
        problem::FieldError,
        request::{escape_pointer, from_json},
    },
    ids::DestinationId,
    store::destinations::SealedDestination,
    vault::{DataKey, SealedDataKey},
};

/// What sealed credentials are bound to, besides the id of their row.
const CREDENTIALS: &str = "destination credentials";

/// A destination as it can be written to.
#[derive(Clone)]
pub struct OpenDestination {
    /// Keys are below the destination.
    pub store: Arc<dyn ObjectStore>,
    /// Set for a folder: its real path.
    pub folder: Option<PathBuf>,
    address: Address,
}

/// Why a stored destination cannot be opened. The texts are for admins and for callers.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the destination's credentials cannot be opened; the operator must look")]
    Vault(#[from] crate::vault::Error),
    #[error("the destination's credentials cannot be read; put them in again")]
    Unreadable,
    #[error("the destination's settings are no longer valid: {0}")]
    Settings(String),
    #[error("the folder of the destination is not there")]
    NoFolder(#[source] std::io::Error),
    #[error("the folder of the destination leads into the gateway's own")]
    OwnGround,
}

/// Settings of a destination, checked.
#[derive(Debug)]
pub struct Settings {
    pub address: Address,
    endpoint: Option<Url>,
    region: Option<String>,
    checksums: bool,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Given {
    endpoint: Option<String>,
    region: Option<String>,
    checksum: Checksum,
}

#[derive(Deserialize, Default, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum Checksum {
    #[default]
    Sha256,
    None,
}

/// Credentials of a destination's own.
#[derive(Debug, Clone)]
pub enum Own {
    S3 { id: SecretString, secret: SecretString, session: Option<SecretString> },
    ServiceAccount(SecretString),
    AzureKey { account: SecretString, key: SecretString },
    AzureSignature { account: SecretString, token: SecretString },
}

impl Settings {
    /// Checks everything that can be seen without asking anybody.
    ///
    /// # Errors
    /// Every field that is wrong, with its pointer.
    pub fn parse(url: &str, settings: &Value, ground: &OwnGround) -> Result<Self, Vec<FieldError>> {
        let mut errors = Vec::new();
        let mut kept = |error: FieldError| errors.push(error);
        let given: Option<Given> = from_json(settings.clone(), "/settings").map_err(&mut kept).ok();
        let address = address(url).map_err(&mut kept).ok();
        let (Some(given), Some(address)) = (given, address) else { return Err(errors) };
        let kind = address.kind;
        let wrong = |name: &str, detail: &str| FieldError::new(format!("/settings/{name}"), "invalid", detail);
        let endpoint = given.endpoint.as_deref().and_then(|text| {
            let endpoint = Url::parse(text).ok().filter(|endpoint| check_endpoint(endpoint).is_ok());
            if endpoint.is_none() {
                errors.push(wrong("endpoint", "an absolute http or https address without credentials"));
            }
            endpoint
        });
        let region_is_plain =
            |region: &String| !region.is_empty() && region.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        if given.region.as_ref().is_some_and(|region| !region_is_plain(region)) {
            errors.push(wrong("region", "letters, digits and `-`, as `eu-central-1`"));
        }
        let is_of_s3 = "only a destination at S3 has this";
        if kind != Kind::S3 && given.region.is_some() {
            errors.push(wrong("region", is_of_s3));
        }
        if kind != Kind::S3 && given.checksum != Checksum::Sha256 {
            errors.push(wrong("checksum", is_of_s3));
        }
        if kind == Kind::Folder && given.endpoint.is_some() {
            errors.push(wrong("endpoint", "a folder has no endpoint"));
        }
        let settings = Self { address, endpoint, region: given.region, checksums: given.checksum == Checksum::Sha256 };
        if settings.is_own_ground(ground) {
            let detail = "this is where the gateway keeps its own files";
            errors.push(FieldError::new("/url", "not_allowed", detail));
        }
        if errors.is_empty() { Ok(settings) } else { Err(errors) }
    }

    /// Whether `url` is of the same kind.
    pub fn is_same_kind(&self, url: &str) -> bool {
        Url::parse(url).is_ok_and(|url| url.scheme() == self.address.kind.as_str())
    }

    /// The process's own credentials go nowhere but where the process's own environment says.
    ///
    /// # Errors
    /// When an endpoint was given without credentials.
    pub fn require_identity(&self, own: Option<&Own>) -> Result<(), Vec<FieldError>> {
        if self.endpoint.is_some() && own.is_none() {
            let detail = "an endpoint of one's own needs credentials of one's own";
            return Err(vec![FieldError::new("/credentials", "required", detail)]);
        }
        Ok(())
    }

    /// Opens the bucket without touching it.
    ///
    /// # Errors
    /// What cannot be used.
    pub fn open_bucket(&self, own: Option<&Own>, gateway: &Gateway) -> Result<Arc<dyn ObjectStore>, FieldError> {
        let identity = match own {
            None => Identity::Process,
            Some(Own::S3 { id, secret, session }) => Identity::Key { id, secret, session: session.as_ref() },
            Some(Own::ServiceAccount(key)) => Identity::ServiceAccount(key),
            Some(Own::AzureKey { account, key }) => Identity::Key { id: account, secret: key, session: None },
            Some(Own::AzureSignature { account, token }) => Identity::Signature { account, token },
        };
        let place = Place {
            address: &self.address,
            endpoint: self.endpoint.as_ref(),
            region: self.region.as_deref(),
            identity,
            checksums: self.checksums,
            network: Network { client: gateway.http.client().clone(), policy: gateway.http.policy().clone() },
        };
        place.open().map_err(|Unusable { field, detail }| match (field, own) {
            // Google's and Azure's keys are read when the bucket is opened. The library's words may show them.
            ("url", Some(_)) => {
                let detail = "the bucket cannot be opened with these credentials: they are not in the right form";
                FieldError::new("/credentials", "invalid", detail)
            }
            ("url", _) => FieldError::new("/url", "invalid", detail),
            _ => FieldError::new(format!("/settings/{field}"), "invalid", detail),
        })
    }

    fn is_own_ground(&self, ground: &OwnGround) -> bool {
        if let Some(folder) = &self.address.folder {
            return overlaps_own(folder, ground);
        }
        let Ok(own) = Address::parse(&ground.storage_url) else { return false };
        let (one, other) = (self.address.prefix.as_ref(), own.prefix.as_ref());
        // Another endpoint is another store, where the same names mean something else.
        self.endpoint.is_none()
            && (self.address.kind, &self.address.name) == (own.kind, &own.name)
            && (is_below(one, other) || is_below(other, one))
    }
}

/// Whether a path of an object lies at or below another.
fn is_below(path: &str, above: &str) -> bool {
    above.is_empty() || path == above || path.strip_prefix(above).is_some_and(|rest| rest.starts_with('/'))
}

fn overlaps_own(folder: &Path, ground: &OwnGround) -> bool {
    let storage = ground.storage_url.to_file_path().ok().filter(|_| ground.storage_url.scheme() == "file");
    [Some(ground.data_dir.clone()), storage].into_iter().flatten().any(|own| {
        let real = std::fs::canonicalize(&own).unwrap_or_else(|_| own.clone());
        [own, real].iter().any(|own| folder.starts_with(own) || own.starts_with(folder))
    })
}

fn address(url: &str) -> Result<Address, FieldError> {
    let invalid = |detail: &str| FieldError::new("/url", "invalid", detail);
    let parsed = Url::parse(url).map_err(|_| invalid("an address such as `s3://bucket/prefix`"))?;
    let climbs = |segment: &str| matches!(segment.to_ascii_lowercase().replace("%2e", ".").as_str(), "." | "..");
    if url.split(['/', '\\']).any(climbs) {
        return Err(invalid("`.` and `..` have no place in it"));
    }
    if parsed.fragment().is_some() {
        return Err(invalid("a bucket's address has no fragment"));
    }
    let address = Address::parse(&parsed).map_err(|Unusable { detail, .. }| invalid(&detail))?;
    let shown = address.folder.as_ref().map_or(address.prefix.as_ref().into(), |folder| folder.to_string_lossy());
    if shown.len() > 255 || shown.chars().any(char::is_control) {
        return Err(invalid("at most 255 bytes below the bucket or the root, without control characters"));
    }
    Ok(address)
}

/// The credentials as their kind wants them; `None` when there are none.
///
/// # Errors
/// Every one that is unknown, missing or malformed.
pub fn credentials_of(kind: Kind, given: &BTreeMap<String, SecretString>) -> Result<Option<Own>, Vec<FieldError>> {
    if given.is_empty() {
        return Ok(None);
    }
    let at = |name: &str| format!("/credentials/{}", escape_pointer(name));
    let known: &[&str] = match kind {
        Kind::S3 => &["access_key_id", "secret_access_key", "session_token"],
        Kind::Google => &["service_account_key"],
        Kind::Azure => &["account_name", "account_key", "sas_token"],
        Kind::Folder => &[],
    };
    let mut errors = Vec::new();
    for (name, value) in given {
        let text = value.expose_secret();
        if !known.contains(&name.as_str()) {
            let detail = if known.is_empty() {
                "a folder needs no credentials".to_owned()
            } else {
                format!("no such credential; known are: {}", known.join(", "))
            };
            errors.push(FieldError::new(at(name), "unknown_field", detail));
        } else if text.trim().is_empty() || (kind != Kind::Google && text.chars().any(char::is_control)) {
            errors.push(FieldError::new(at(name), "invalid", "not empty, and without control characters"));
        }
    }
    let mut need = |name: &str| {
        let found = given.get(name).cloned();
        if found.is_none() {
            errors.push(FieldError::new(at(name), "required", "this kind of destination needs it"));
        }
        found
    };
    let own = match kind {
        Kind::S3 => need("access_key_id").zip(need("secret_access_key")).map(|(id, secret)| {
            let session = given.get("session_token").cloned();
            Own::S3 { id, secret, session }
        }),
        Kind::Google => need("service_account_key").map(Own::ServiceAccount),
        Kind::Azure => {
            let account = need("account_name");
            match (given.get("account_key").cloned(), given.get("sas_token").cloned()) {
                (Some(key), None) => account.map(|account| Own::AzureKey { account, key }),
                (None, Some(token)) => account.map(|account| Own::AzureSignature { account, token }),
                _ => {
                    let detail = "either `account_key` or `sas_token`";
                    errors.push(FieldError::new("/credentials", "invalid", detail));
                    None
                }
            }
        }
        Kind::Folder => None,
    };
    if errors.is_empty() { Ok(own) } else { Err(errors) }
}

/// What a destination's credentials of `version` are sealed under.
pub(super) fn context(id: DestinationId, version: i32) -> [String; 3] {
    [CREDENTIALS.to_owned(), id.to_string(), version.to_string()]
}

impl Gateway {
    pub(super) fn destination_key(&self, sealed: &SealedDestination) -> Result<DataKey, crate::vault::Error> {
        self.vault
            .open_data_key(&SealedDataKey { key_id: sealed.key_id.clone(), bytes: sealed.sealed_data_key.clone() })
    }

    /// The credentials in clear; empty when it has none of its own.
    pub(super) fn destination_credentials(
        &self,
        sealed: &SealedDestination,
    ) -> Result<BTreeMap<String, SecretString>, crate::vault::Error> {
        let Some(credentials) = &sealed.credentials else { return Ok(BTreeMap::new()) };
        let key = self.destination_key(sealed)?;
        let context = context(sealed.record.destination_id, sealed.record.credential_version);
        let context: Vec<&str> = context.iter().map(String::as_str).collect();
        let plain = self.vault.open(&key, &context, credentials)?;
        serde_json::from_slice(&plain).map_err(|_| crate::vault::Error::CannotOpen)
    }

    /// Opens a destination. A bucket is not touched; a folder must be there, since a file system that is not mounted must
    /// not be taken for an empty one.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub async fn open_destination(&self, sealed: &SealedDestination) -> Result<OpenDestination, OpenError> {
        let record = &sealed.record;
        let unsettled = |errors: Vec<FieldError>| {
            let first = errors.into_iter().next();
            OpenError::Settings(first.map_or_else(String::new, |error| error.detail))
        };
        let settings = Settings::parse(&record.url, &record.settings, &self.ground).map_err(unsettled)?;
        let address = settings.address.clone();
        let Some(folder) = address.folder.clone() else {
            let credentials = self.destination_credentials(sealed)?;
            let own = credentials_of(address.kind, &credentials).map_err(|_| OpenError::Unreadable)?;
            let store = settings.open_bucket(own.as_ref(), self).map_err(|error| unsettled(vec![error]))?;
            return Ok(OpenDestination { store, folder: None, address });
        };
        let root = tokio::fs::canonicalize(&folder).await.map_err(OpenError::NoFolder)?;
        if overlaps_own(&root, &self.ground) {
            return Err(OpenError::OwnGround);
        }
        let store = LocalFileSystem::new_with_prefix(&root)
            .map_err(|error| OpenError::NoFolder(std::io::Error::other(error)))?
            .with_fsync(true);
        Ok(OpenDestination { store: Arc::new(store), folder: Some(root), address })
    }
}

impl OpenDestination {
    /// What the name of a file in the folder `path` comes after, for people and for other programs.
    pub fn location(&self, path: &str) -> String {
        if let Some(folder) = &self.address.folder {
            let folder = path.split_terminator('/').fold(folder.clone(), |folder, name| folder.join(name));
            return Url::from_directory_path(folder).map_or_else(|()| String::new(), String::from);
        }
        let Address { kind, name, prefix, .. } = &self.address;
        let separator = if prefix.as_ref().is_empty() { "" } else { "/" };
        format!("{}://{name}/{prefix}{separator}{path}", kind.as_str())
    }
}

/// What a failure of a destination means, in words that show no address and no key.
pub fn explain(error: &object_store::Error) -> String {
    match why(error) {
        Why::Blocked(blocked) => format!("the destination: {blocked}"),
        Why::InClear => {
            "the destination's endpoint is not https; the operator can permit its host in HEADGATE_EGRESS_ALLOW".into()
        }
        Why::Refused(_) => {
            "the destination refused its credentials; they need to list, get, put and delete objects".into()
        }
        Why::Missing => "the bucket or the folder of the destination is not there".into(),
        Why::Other => "the destination did not answer as it should; see its address, region and endpoint".into(),
    }
}

/// Whether a failure is the credentials'.
pub fn is_refused(error: &object_store::Error) -> bool {
    matches!(why(error), Why::Refused(_))
}

/// Whether a failure is the egress policy's, which no repeat changes.
pub fn is_blocked(error: &object_store::Error) -> bool {
    matches!(why(error), Why::Blocked(_) | Why::InClear)
}
