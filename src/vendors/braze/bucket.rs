//! The workspace's own cloud storage, where Braze puts exports when it has been given the means to. Read with credentials
//! of the connection's own: Braze hands none over.
//! Keys look like `segment-export/<segment>/<day it was completed>/<object_prefix>/<random>.zip`; the day cannot be known
//! beforehand, so the segment's keys are listed. Nothing marks the end: an export is there when its newest object has
//! been the newest for a while. `_docs/_partners/data_and_infrastructure_agility/cloud_storage/amazon_s3.md`.

use std::{collections::BTreeMap, error::Error as _, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures_util::{StreamExt, TryStreamExt};
use object_store::{
    ClientOptions, ObjectStore, ObjectStoreExt, ObjectStoreScheme, RetryConfig,
    aws::AmazonS3Builder,
    azure::MicrosoftAzureBuilder,
    client::{HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService},
    gcp::GoogleCloudStorageBuilder,
    local::LocalFileSystem,
    path::Path,
    prefix::PrefixStore,
};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::time::Instant;
use url::Url;

use crate::egress::Blocked;
use crate::exports::problem::{Code, FieldError};
use crate::vendors::{
    Download, Exchange, Exchanges, Next, VendorError,
    http::{Http, TRY_AGAIN},
};

/// What Braze calls the folder of all exports.
const FOLDER: &str = "segment-export";
/// Where Google's storage speaks S3, which is what HMAC keys are for.
const GOOGLE: &str = "https://storage.googleapis.com";
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
    /// Plain http, which carries records of people in clear.
    endpoint_in_clear: Option<Url>,
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
        let invalid =
            |field: &str, detail: String| FieldError::new(format!("/settings/bucket/{field}"), "invalid", detail);
        let Settings { url, endpoint, region, quiet_secs } = settings;
        if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
            return Err(invalid(
                "url",
                "credentials belong into `credentials`; a bucket's address has no query".into(),
            ));
        }
        if let Some(endpoint) = endpoint
            && (!matches!(endpoint.scheme(), "http" | "https") || !endpoint.username().is_empty())
        {
            return Err(invalid("endpoint", "an absolute http or https address".into()));
        }
        let scheme = match url.scheme() {
            "s3" => "s3",
            "gs" => "gs",
            "az" => "az",
            "file" => "file",
            _ => return Err(invalid("url", "`s3:`, `gs:`, `az:` or `file:`".into())),
        };
        let unusable = |error: object_store::Error| invalid("url", format!("cannot be used: {error}"));
        let pair = credentials.get(ACCESS_KEY_ID).zip(credentials.get(SECRET_ACCESS_KEY));
        let endpoint_in_clear = endpoint.clone().filter(|endpoint| endpoint.scheme() == "http");
        let quiet = Duration::from_secs(*quiet_secs);
        if scheme == "file" {
            let folder =
                url.to_file_path().map_err(|()| invalid("url", "an absolute path, as `file:///mnt/exports`".into()))?;
            // Not made and not looked for here: it may be mounted later.
            let store = LocalFileSystem::new();
            let prefix = Path::from_absolute_path(&folder).map_err(|error| unusable(error.into()))?;
            let store: Arc<dyn ObjectStore> = Arc::new(PrefixStore::new(store, prefix));
            return Ok(Self { store, scheme, endpoint_in_clear: None, quiet });
        }
        let (_, prefix) = ObjectStoreScheme::parse(url).map_err(|error| unusable(error.into()))?;
        let Some(name) = url.host_str().filter(|name| !name.is_empty()) else {
            return Err(invalid("url", "a bucket has a name".into()));
        };
        let place = Place { name, endpoint: endpoint.as_ref(), region: region.as_deref(), pair, http };
        let store: Arc<dyn ObjectStore> = match (scheme, pair) {
            ("s3", _) => place.s3(None).map_err(unusable)?,
            // HMAC keys, which are only good for the S3 protocol.
            ("gs", Some(_)) => place.s3(Some(GOOGLE)).map_err(unusable)?,
            ("gs", None) => place.google().map_err(unusable)?,
            _ => place.azure().map_err(unusable)?,
        };
        let store = if prefix.as_ref().is_empty() { store } else { Arc::new(PrefixStore::new(store, prefix)) };
        Ok(Self { store, scheme, endpoint_in_clear, quiet })
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
        http: &Http,
        exchanges: &Exchanges,
    ) -> Result<Vec<Found>, VendorError> {
        let folder = segment.map_or_else(|| Path::from(FOLDER), |segment| Path::from(FOLDER).join(segment));
        let wanted = format!("/{object_prefix}/");
        let listing = async {
            self.permitted(http)?;
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
    pub async fn check(&self, http: &Http, exchanges: &Exchanges) -> Result<(), VendorError> {
        let listing = async {
            self.permitted(http)?;
            let mut listing = self.store.list(Some(&Path::from(FOLDER)));
            listing.try_next().await.map(drop).map_err(|error| failed(&error))
        };
        self.recorded("check", exchanges, listing, |()| "the bucket can be listed".into()).await
    }

    /// Reads one object.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn read(&self, key: &str, http: &Http, exchanges: &Exchanges) -> Result<Download, VendorError> {
        let opening = async {
            self.permitted(http)?;
            let key = Path::parse(key)
                .map_err(|_| VendorError::new(Code::Internal, Next::GiveUp, "the object's key cannot be read"))?;
            let found = self.store.get(&key).await.map_err(|error| failed(&error))?;
            let length = Some(found.meta.size);
            let body = found.into_stream().map_err(|error| failed(&error)).boxed();
            Ok(Download { length, body })
        };
        self.recorded("download", exchanges, opening, |_| "reading".into()).await
    }

    /// Records of people do not go over plain http, unless the operator named the place.
    fn permitted(&self, http: &Http) -> Result<(), VendorError> {
        match &self.endpoint_in_clear {
            Some(endpoint) if !http.policy().permits_by_name(endpoint) => {
                let message = "the bucket's endpoint is not https; the operator can permit its host";
                Err(VendorError::new(Code::EgressBlocked, Next::GiveUp, message))
            }
            _ => Ok(()),
        }
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

/// Where a bucket is and who asks. Nothing is taken from the environment: that is where the gateway's own storage is.
struct Place<'a> {
    name: &'a str,
    endpoint: Option<&'a Url>,
    region: Option<&'a str>,
    pair: Option<(&'a SecretString, &'a SecretString)>,
    http: &'a Http,
}

impl Place<'_> {
    fn endpoint(&self) -> Option<&str> {
        self.endpoint.map(|endpoint| endpoint.as_str().trim_end_matches('/'))
    }

    fn allows_http(&self) -> bool {
        self.endpoint.is_some_and(|endpoint| endpoint.scheme() == "http")
    }

    fn guarded(&self) -> Guarded {
        Guarded(self.http.clone())
    }

    fn s3(&self, elsewhere: Option<&str>) -> object_store::Result<Arc<dyn ObjectStore>> {
        let region = self.region.unwrap_or(if elsewhere.is_some() { "auto" } else { "us-east-1" });
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(self.name)
            .with_region(region)
            .with_allow_http(self.allows_http())
            .with_http_connector(self.guarded())
            .with_retry(once_more());
        if let Some(endpoint) = self.endpoint().or(elsewhere) {
            builder = builder.with_endpoint(endpoint).with_virtual_hosted_style_request(false);
        }
        builder = match self.pair {
            Some((id, secret)) => {
                builder.with_access_key_id(id.expose_secret()).with_secret_access_key(secret.expose_secret())
            }
            None => builder.with_skip_signature(true),
        };
        Ok(Arc::new(builder.build()?))
    }

    fn google(&self) -> object_store::Result<Arc<dyn ObjectStore>> {
        let builder = GoogleCloudStorageBuilder::new()
            .with_bucket_name(self.name)
            .with_skip_signature(true)
            .with_http_connector(self.guarded())
            .with_retry(once_more());
        Ok(Arc::new(builder.build()?))
    }

    /// The key id of an Azure container is its storage account.
    fn azure(&self) -> object_store::Result<Arc<dyn ObjectStore>> {
        let mut builder = MicrosoftAzureBuilder::new()
            .with_container_name(self.name)
            .with_allow_http(self.allows_http())
            .with_http_connector(self.guarded())
            .with_retry(once_more());
        if let Some(endpoint) = self.endpoint() {
            builder = builder.with_endpoint(endpoint.to_owned());
        }
        builder = match self.pair {
            Some((account, key)) => builder.with_account(account.expose_secret()).with_access_key(key.expose_secret()),
            // Accounts are names in the endpoint; only a public container can be read so.
            None => builder.with_account("anonymous").with_skip_signature(true),
        };
        Ok(Arc::new(builder.build()?))
    }
}

/// The worker repeats what fails, so the store's client hardly needs to.
fn once_more() -> RetryConfig {
    RetryConfig { max_retries: 1, retry_timeout: Duration::from_secs(20), ..RetryConfig::default() }
}

/// Calls of the store's client, held to the egress policy: names are resolved by the gateway's client, addresses written
/// as numbers are judged here.
#[derive(Clone)]
struct Guarded(Http);

impl fmt::Debug for Guarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Guarded")
    }
}

impl HttpConnector for Guarded {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait]
impl HttpService for Guarded {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let refused = |error| HttpError::new(HttpErrorKind::Unknown, error);
        let url = Url::parse(&request.uri().to_string()).map_err(|_| refused(Blocked::NoHost))?;
        self.0.policy().check_url(&url).map_err(refused)?;
        let answer = HttpService::call(self.0.client(), request).await?;
        match answer.status().as_u16() {
            status @ (401 | 403) => Err(HttpError::new(HttpErrorKind::Unknown, NotAllowed(status))),
            _ => Ok(answer),
        }
    }
}

/// The store's client hides the status of a listing that was refused, and that is not one to try again.
#[derive(Debug, thiserror::Error)]
#[error("the store refused its credentials")]
struct NotAllowed(u16);

/// What a failure of the store's client means. Its texts hold keys and addresses, so they are not shown.
fn failed(error: &object_store::Error) -> VendorError {
    let causes = || std::iter::successors(error.source(), |cause| (*cause).source());
    if let Some(blocked) = causes().find_map(|cause| cause.downcast_ref::<Blocked>()) {
        return VendorError::new(Code::EgressBlocked, Next::GiveUp, format!("the bucket: {blocked}"));
    }
    if let Some(NotAllowed(status)) = causes().find_map(|cause| cause.downcast_ref::<NotAllowed>()) {
        let message = "the bucket refused its credentials; they need to list and to get objects";
        return VendorError::new(Code::VendorPermissionDenied, Next::GiveUp, message).with_http_status(*status);
    }
    match error {
        object_store::Error::Unauthenticated { .. } | object_store::Error::PermissionDenied { .. } => {
            let message = "the folder of the bucket may not be read";
            VendorError::new(Code::VendorPermissionDenied, Next::GiveUp, message)
        }
        object_store::Error::NotFound { .. } => {
            let message = "the bucket, or an object of the export, is not there";
            VendorError::new(Code::VendorUnavailable, TRY_AGAIN, message)
        }
        _ => VendorError::new(Code::VendorUnavailable, TRY_AGAIN, "the bucket did not answer as it should"),
    }
}

#[cfg(test)]
#[path = "bucket_tests.rs"]
mod tests;
