//! The workspace's own cloud storage, where Braze puts exports when it has been given the means to. Read with credentials
//! of the connection's own: Braze hands none over.
//! Keys look like `segment-export/<segment>/<day it was completed>/<object_prefix>/<random>.zip`; the day cannot be known
//! beforehand, so the segment's keys are listed. Nothing marks the end: an export is there when its newest object has
//! been the newest for a while. `_docs/_partners/data_and_infrastructure_agility/cloud_storage/amazon_s3.md`.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use futures_util::{StreamExt, TryStreamExt};
use object_store::{ObjectStore, ObjectStoreExt, local::LocalFileSystem, path::Path, prefix::PrefixStore};
use secrecy::SecretString;
use serde::Deserialize;
use tokio::time::Instant;
use url::Url;

use crate::buckets::{Address, Identity, Network, Place, Unusable, Why, check_endpoint, why};
use crate::exports::problem::{Code, FieldError};
use crate::vendors::{
    Download, Exchange, Exchanges, Next, VendorError,
    http::{Http, TRY_AGAIN},
};

/// What Braze calls the folder of all exports.
const FOLDER: &str = "segment-export";
/// Once Braze has called back, no more is waited for than a store may need to list what it has.
const QUIET_AFTER_CALLBACK: Duration = Duration::from_secs(5);

pub const ACCESS_KEY_ID: &str = "bucket_access_key_id";
pub const SECRET_ACCESS_KEY: &str = "bucket_secret_access_key";

/// `settings.bucket`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    url: Url,
    endpoint: Option<Url>,
    region: Option<String>,
    /// How long no object may have been added before an export counts as complete, in seconds.
    #[serde(default = "quiet_secs")]
    quiet_secs: u64,
}

const fn quiet_secs() -> u64 {
    60
}

/// The bucket of a workspace. Cheap to clone.
#[derive(Clone)]
pub struct Bucket {
    store: Arc<dyn ObjectStore>,
    scheme: &'static str,
    quiet: Duration,
}

/// One object of an export.
#[derive(Debug, Clone)]
pub struct Found {
    pub key: String,
    pub added_at: DateTime<Utc>,
}

impl Bucket {
    /// Opens a bucket without touching it.
    ///
    /// # Errors
    /// Settings that cannot work, with pointers below `/settings/bucket`.
    pub fn open(
        settings: &Settings,
        credentials: &BTreeMap<String, SecretString>,
        http: &Http,
    ) -> Result<Self, FieldError> {
        let unusable =
            |Unusable { field, detail }| FieldError::new(format!("/settings/bucket/{field}"), "invalid", detail);
        let Settings { url, endpoint, region, quiet_secs } = settings;
        let address = Address::parse(url).map_err(unusable)?;
        if let Some(endpoint) = endpoint {
            check_endpoint(endpoint).map_err(unusable)?;
        }
        let pair = credentials.get(ACCESS_KEY_ID).zip(credentials.get(SECRET_ACCESS_KEY));
        let store: Arc<dyn ObjectStore> = if let Some(folder) = &address.folder {
            // Not made and not looked for here: it may be mounted later.
            let prefix = Path::from_absolute_path(folder);
            let prefix = prefix.map_err(|error| unusable(Unusable::new("url", format!("cannot be used: {error}"))))?;
            Arc::new(PrefixStore::new(LocalFileSystem::new(), prefix))
        } else {
            let place = Place {
                address: &address,
                endpoint: endpoint.as_ref(),
                region: region.as_deref(),
                // Nothing is taken from the environment: that is where the gateway's own storage is.
                identity: pair.map_or(Identity::Nobody, |(id, secret)| Identity::Key { id, secret, session: None }),
                checksums: false,
                network: Network { client: http.client().clone(), policy: http.policy().clone() },
            };
            place.open().map_err(unusable)?
        };
        Ok(Self { store, scheme: address.kind.as_str(), quiet: Duration::from_secs(*quiet_secs) })
    }

    /// How long the newest object must have been the newest.
    pub fn quiet(&self, called_back: bool) -> Duration {
        if called_back { self.quiet.min(QUIET_AFTER_CALLBACK) } else { self.quiet }
    }

    /// The objects of one export in the order of their keys. `segment` is none for the global control group, which has a
    /// segment of its own that nothing names.
    ///
    /// # Errors
    /// When the bucket cannot be listed.
    pub async fn list(
        &self,
        segment: Option<&str>,
        object_prefix: &str,
        exchanges: &Exchanges,
    ) -> Result<Vec<Found>, VendorError> {
        let folder = segment.map_or_else(|| Path::from(FOLDER), |segment| Path::from(FOLDER).join(segment));
        let wanted = format!("/{object_prefix}/");
        let listing = async {
            let found = self
                .store
                .list(Some(&folder))
                .try_filter(|object| std::future::ready(object.location.as_ref().contains(&wanted)))
                .map_ok(|object| Found { key: object.location.to_string(), added_at: object.last_modified });
            let mut found: Vec<_> = found.try_collect().await.map_err(|error| failed(&error))?;
            found.sort_by(|one, other| one.key.cmp(&other.key));
            Ok(found)
        };
        self.recorded("poll", exchanges, listing, |found: &Vec<Found>| format!("{} objects", found.len())).await
    }

    /// Whether the bucket can be listed at all.
    ///
    /// # Errors
    /// When it cannot.
    pub async fn check(&self, exchanges: &Exchanges) -> Result<(), VendorError> {
        let listing = async {
            let mut listing = self.store.list(Some(&Path::from(FOLDER)));
            listing.try_next().await.map(drop).map_err(|error| failed(&error))
        };
        self.recorded("check", exchanges, listing, |()| "the bucket can be listed".into()).await
    }

    /// Reads one object.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn read(&self, key: &str, exchanges: &Exchanges) -> Result<Download, VendorError> {
        let opening = async {
            let key = Path::parse(key)
                .map_err(|_| VendorError::new(Code::Internal, Next::GiveUp, "the object's key cannot be read"))?;
            let found = self.store.get(&key).await.map_err(|error| failed(&error))?;
            let length = Some(found.meta.size);
            let body = found.into_stream().map_err(|error| failed(&error)).boxed();
            Ok(Download { length, body })
        };
        self.recorded("download", exchanges, opening, |_| "reading".into()).await
    }

    /// Neither the bucket's name nor a key is shown: settings are for administrators.
    async fn recorded<T>(
        &self,
        action: &'static str,
        exchanges: &Exchanges,
        call: impl Future<Output = Result<T, VendorError>>,
        note: impl FnOnce(&T) -> String,
    ) -> Result<T, VendorError> {
        let (at, started) = (Utc::now(), Instant::now());
        let outcome = call.await;
        exchanges.push(Exchange {
            at,
            action,
            method: "GET",
            target: format!("{}://…/{FOLDER}/…", self.scheme),
            http_status: outcome.as_ref().err().and_then(|error| error.http_status),
            duration_ms: i64::try_from(started.elapsed().as_millis()).unwrap_or(i64::MAX),
            decision: outcome.as_ref().map_or_else(|error| error.message.clone(), note),
        });
        outcome
    }
}

/// What a failure of the store's client means. Its texts hold keys and addresses, so they are not shown.
fn failed(error: &object_store::Error) -> VendorError {
    match why(error) {
        Why::Blocked(blocked) => VendorError::new(Code::EgressBlocked, Next::GiveUp, format!("the bucket: {blocked}")),
        Why::InClear => {
            let message = "the bucket's endpoint is not https; the operator can permit its host";
            VendorError::new(Code::EgressBlocked, Next::GiveUp, message)
        }
        Why::Refused(Some(status)) => {
            let message = "the bucket refused its credentials; they need to list and to get objects";
            VendorError::new(Code::VendorPermissionDenied, Next::GiveUp, message).with_http_status(status)
        }
        Why::Refused(None) => {
            let message = "the folder of the bucket may not be read";
            VendorError::new(Code::VendorPermissionDenied, Next::GiveUp, message)
        }
        Why::Missing => {
            let message = "the bucket, or an object of the export, is not there";
            VendorError::new(Code::VendorUnavailable, TRY_AGAIN, message)
        }
        Why::Other => VendorError::new(Code::VendorUnavailable, TRY_AGAIN, "the bucket did not answer as it should"),
    }
}

#[cfg(test)]
#[path = "bucket_tests.rs"]
mod tests;
