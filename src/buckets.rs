//! Buckets of other people: opened by address and credentials, each call held to the egress policy. Two rooms meet here:
//! vendors read from such places, destinations are written to. What the gateway keeps for itself is elsewhere.

use std::{error::Error as _, fmt, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use object_store::{
    ClientOptions, ObjectStore, ObjectStoreScheme, RetryConfig,
    aws::{AmazonS3Builder, AmazonS3ConfigKey, Checksum},
    azure::{AzureConfigKey, MicrosoftAzureBuilder},
    client::{HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService},
    gcp::GoogleCloudStorageBuilder,
    path::Path,
    prefix::PrefixStore,
};
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use crate::egress::{Blocked, EgressPolicy};

/// Where Google's storage speaks S3, which is what HMAC keys are for.
const GOOGLE: &str = "https://storage.googleapis.com";

/// Who runs the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    S3,
    Google,
    Azure,
    /// A folder of this machine, mostly a mounted one.
    Folder,
}

impl Kind {
    /// The scheme of its addresses.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Google => "gs",
            Self::Azure => "az",
            Self::Folder => "file",
        }
    }

    /// The kind that a scheme stands for.
    pub fn of_scheme(scheme: &str) -> Option<Self> {
        [Self::S3, Self::Google, Self::Azure, Self::Folder].into_iter().find(|kind| kind.as_str() == scheme)
    }
}

/// A setting that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {detail}")]
pub struct Unusable {
    /// `url` or `endpoint`.
    pub field: &'static str,
    pub detail: String,
}

impl Unusable {
    pub fn new(field: &'static str, detail: impl Into<String>) -> Self {
        Self { field, detail: detail.into() }
    }
}

/// The address of a place, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub kind: Kind,
    /// The bucket or container; empty for a folder.
    pub name: String,
    /// What keys begin with; empty for a folder.
    pub prefix: Path,
    /// Absolute; set for a folder only.
    pub folder: Option<PathBuf>,
}

impl Address {
    /// Reads `s3://bucket/prefix`, `gs:`, `az:` or `file:///absolute/folder`. Touches nothing.
    ///
    /// # Errors
    /// What is wrong with the address.
    pub fn parse(url: &Url) -> Result<Self, Unusable> {
        let invalid = |detail: String| Unusable::new("url", detail);
        if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
            let detail = "credentials belong into `credentials`; a bucket's address has no query";
            return Err(invalid(detail.into()));
        }
        let Some(kind) = Kind::of_scheme(url.scheme()) else {
            return Err(invalid("`s3:`, `gs:`, `az:` or `file:`".into()));
        };
        if kind == Kind::Folder {
            let folder = url.to_file_path();
            let folder = folder.map_err(|()| invalid("an absolute path, as `file:///mnt/exports`".into()))?;
            return Ok(Self { kind, name: String::new(), prefix: Path::default(), folder: Some(folder) });
        }
        let (_, prefix) = ObjectStoreScheme::parse(url).map_err(|error| invalid(format!("cannot be used: {error}")))?;
        let Some(name) = url.host_str().filter(|name| !name.is_empty()) else {
            return Err(invalid("a bucket has a name".into()));
        };
        Ok(Self { kind, name: name.to_owned(), prefix, folder: None })
    }
}

/// An address at which a store of one's own is reached.
///
/// # Errors
/// When it is not absolute http or https, or holds credentials.
pub fn check_endpoint(endpoint: &Url) -> Result<(), Unusable> {
    let is_plain = endpoint.username().is_empty() && endpoint.password().is_none() && endpoint.query().is_none();
    if matches!(endpoint.scheme(), "http" | "https") && is_plain {
        return Ok(());
    }
    Err(Unusable::new("endpoint", "an absolute http or https address"))
}

/// The client that calls go through, and the policy they are held to.
#[derive(Clone)]
pub struct Network {
    /// Resolves names under the policy and follows no redirect.
    pub client: reqwest::Client,
    pub policy: EgressPolicy,
}

/// Who asks.
#[derive(Clone, Copy)]
pub enum Identity<'a> {
    /// Nothing is signed.
    Nobody,
    /// Whatever this process runs as: `AWS_*`, `GOOGLE_*` and `AZURE_*`, or the role of its machine. Endpoint, region and
    /// account are taken from there, too.
    Process,
    /// A key and its secret: of S3, an HMAC key of Google, or an account of Azure and its key.
    Key { id: &'a SecretString, secret: &'a SecretString, session: Option<&'a SecretString> },
    /// Google's JSON.
    ServiceAccount(&'a SecretString),
    /// Azure's signature for an account.
    Signature { account: &'a SecretString, token: &'a SecretString },
}

/// A bucket to be opened.
pub struct Place<'a> {
    pub address: &'a Address,
    pub endpoint: Option<&'a Url>,
    pub region: Option<&'a str>,
    pub identity: Identity<'a>,
    /// Has S3 check what it is given by SHA-256.
    pub checksums: bool,
    pub network: Network,
}

impl Place<'_> {
    /// Opens the bucket without touching it; keys are below the address's prefix.
    ///
    /// # Errors
    /// Settings that cannot work. A folder is not opened here.
    pub fn open(&self) -> Result<Arc<dyn ObjectStore>, Unusable> {
        let unusable = |error: object_store::Error| Unusable::new("url", format!("cannot be used: {error}"));
        let store = match (self.address.kind, self.identity) {
            (Kind::S3, _) => self.s3(None).map_err(unusable)?,
            // HMAC keys, which are only good for the S3 protocol.
            (Kind::Google, Identity::Key { .. }) => self.s3(Some(GOOGLE)).map_err(unusable)?,
            (Kind::Google, _) => self.google().map_err(unusable)?,
            (Kind::Azure, _) => self.azure().map_err(unusable)?,
            (Kind::Folder, _) => return Err(Unusable::new("url", "a folder is no bucket")),
        };
        let prefix = &self.address.prefix;
        Ok(if prefix.as_ref().is_empty() { store } else { Arc::new(PrefixStore::new(store, prefix.clone())) })
    }

    fn endpoint(&self) -> Option<String> {
        self.endpoint.map(|endpoint| endpoint.as_str().trim_end_matches('/').to_owned())
    }

    fn guarded(&self) -> Guarded {
        Guarded(self.network.clone())
    }

    fn s3(&self, elsewhere: Option<&str>) -> object_store::Result<Arc<dyn ObjectStore>> {
        let name = &self.address.name;
        let mut endpoint = self.endpoint().or(elsewhere.map(str::to_owned));
        let mut region = self.region.map(str::to_owned);
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(name)
            // Guarded decides on plain http.
            .with_allow_http(true)
            // Every S3 store can delete one object; few besides Amazon's know the other way.
            .with_disable_bulk_delete(true)
            .with_http_connector(self.guarded())
            .with_retry(once_more());
        match self.identity {
            Identity::Key { id, secret, session } => {
                builder = builder.with_access_key_id(id.expose_secret()).with_secret_access_key(secret.expose_secret());
                if let Some(session) = session {
                    builder = builder.with_token(session.expose_secret());
                }
            }
            Identity::Process => {
                let ambient = AmazonS3Builder::from_env().with_bucket_name(name);
                let known = |key: AmazonS3ConfigKey| ambient.get_config_value(&key);
                endpoint = endpoint
                    .or_else(|| known(AmazonS3ConfigKey::S3Endpoint))
                    .or_else(|| known(AmazonS3ConfigKey::Endpoint));
                region = region
                    .or_else(|| known(AmazonS3ConfigKey::Region))
                    .or_else(|| known(AmazonS3ConfigKey::DefaultRegion));
                // Built apart: a role's credentials come from the machine's own, private, address.
                builder = builder.with_credentials(ambient.build()?.credentials().clone());
            }
            _ => builder = builder.with_skip_signature(true),
        }
        if let Some(endpoint) = endpoint {
            builder = builder.with_endpoint(endpoint).with_virtual_hosted_style_request(false);
        }
        if self.checksums && elsewhere.is_none() {
            builder = builder.with_checksum_algorithm(Checksum::SHA256);
        }
        let usual = if elsewhere.is_some() { "auto" } else { "us-east-1" };
        Ok(Arc::new(builder.with_region(region.as_deref().unwrap_or(usual)).build()?))
    }

    fn google(&self) -> object_store::Result<Arc<dyn ObjectStore>> {
        let name = &self.address.name;
        let mut builder = GoogleCloudStorageBuilder::new()
            .with_bucket_name(name)
            .with_http_connector(self.guarded())
            .with_retry(once_more());
        if let Some(endpoint) = self.endpoint() {
            builder = builder.with_base_url(&endpoint);
        }
        builder = match self.identity {
            Identity::ServiceAccount(key) => builder.with_service_account_key(key.expose_secret()),
            Identity::Process => {
                let ambient = GoogleCloudStorageBuilder::from_env().with_bucket_name(name).build()?;
                builder.with_credentials(ambient.credentials().clone())
            }
            _ => builder.with_skip_signature(true),
        };
        Ok(Arc::new(builder.build()?))
    }

    /// The key id of an Azure container is its storage account.
    fn azure(&self) -> object_store::Result<Arc<dyn ObjectStore>> {
        let name = &self.address.name;
        let mut endpoint = self.endpoint();
        let mut builder = MicrosoftAzureBuilder::new()
            .with_container_name(name)
            .with_allow_http(true)
            .with_http_connector(self.guarded())
            .with_retry(once_more());
        builder = match self.identity {
            Identity::Key { id, secret, .. } => {
                builder.with_account(id.expose_secret()).with_access_key(secret.expose_secret())
            }
            Identity::Signature { account, token } => {
                let token = token.expose_secret().trim_start_matches('?');
                builder.with_account(account.expose_secret()).with_config(AzureConfigKey::SasKey, token)
            }
            Identity::Process => {
                let ambient = MicrosoftAzureBuilder::from_env().with_container_name(name);
                endpoint = endpoint.or_else(|| ambient.get_config_value(&AzureConfigKey::Endpoint));
                let account = ambient.get_config_value(&AzureConfigKey::AccountName).unwrap_or_default();
                builder.with_account(account).with_credentials(ambient.build()?.credentials().clone())
            }
            // Accounts are names in the endpoint; only a public container can be read so.
            _ => builder.with_account("anonymous").with_skip_signature(true),
        };
        if let Some(endpoint) = endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        Ok(Arc::new(builder.build()?))
    }
}

/// The worker repeats what fails, so the store's client hardly needs to.
fn once_more() -> RetryConfig {
    RetryConfig { max_retries: 1, retry_timeout: Duration::from_secs(20), ..RetryConfig::default() }
}

/// Calls of the store's client, held to the egress policy: names are resolved by the gateway's client, addresses written
/// as numbers are judged here, and plain http is for hosts that the operator named.
#[derive(Clone)]
struct Guarded(Network);

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
        let Network { client, policy } = &self.0;
        let url = Url::parse(&request.uri().to_string()).map_err(|_| refused(Blocked::NoHost))?;
        policy.check_url(&url).map_err(refused)?;
        if url.scheme() == "http" && !policy.permits_by_name(&url) {
            return Err(HttpError::new(HttpErrorKind::Unknown, InClear));
        }
        let answer = HttpService::call(client, request).await?;
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

#[derive(Debug, thiserror::Error)]
#[error("records of people do not go over plain http")]
struct InClear;

/// What a failure of a store's client means. Its own texts hold keys and addresses, so they are for the log alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    Blocked(Blocked),
    /// Plain http, to a host that the operator has not named.
    InClear,
    /// The credentials do not suffice; with the status of the answer, if there was one.
    Refused(Option<u16>),
    /// The bucket or the object is not there.
    Missing,
    Other,
}

/// Looks behind an error of a store that [`Place::open`] opened, or of a folder.
pub fn why(error: &object_store::Error) -> Why {
    let causes = || std::iter::successors(error.source(), |cause| (*cause).source());
    if let Some(blocked) = causes().find_map(|cause| cause.downcast_ref::<Blocked>()) {
        return Why::Blocked(blocked.clone());
    }
    if causes().any(<dyn std::error::Error>::is::<InClear>) {
        return Why::InClear;
    }
    if let Some(NotAllowed(status)) = causes().find_map(|cause| cause.downcast_ref::<NotAllowed>()) {
        return Why::Refused(Some(*status));
    }
    let denied = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
    };
    match error {
        object_store::Error::Unauthenticated { .. } | object_store::Error::PermissionDenied { .. } => {
            Why::Refused(None)
        }
        object_store::Error::NotFound { .. } => Why::Missing,
        _ if causes().any(denied) => Why::Refused(None),
        _ => Why::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(url: &str) -> Result<Address, Unusable> {
        Address::parse(&Url::parse(url).unwrap())
    }

    #[test]
    fn an_address_is_a_bucket_with_a_prefix_or_an_absolute_folder() {
        let lake = address("s3://lake/a/b/").unwrap();
        assert_eq!((lake.kind, lake.name.as_str(), lake.prefix.as_ref()), (Kind::S3, "lake", "a/b"));
        assert_eq!(address("gs://lake").unwrap().kind, Kind::Google);
        assert_eq!(address("az://lake").unwrap().kind, Kind::Azure);
        assert_eq!(address("file:///mnt/lake").unwrap().folder, Some("/mnt/lake".into()));
        for bad in ["https://lake", "s3://key:secret@lake", "s3://lake?x=1", "s3:///prefix", "file://host/x", "s3:x"] {
            assert_eq!(address(bad).unwrap_err().field, "url", "{bad}");
        }
    }

    #[test]
    fn an_endpoint_is_http_without_credentials() {
        let check = |url: &str| check_endpoint(&Url::parse(url).unwrap());
        assert!(check("https://minio.example.com:9000/").is_ok() && check("http://minio/x").is_ok());
        for bad in ["ftp://x", "file:///x", "https://a:b@x", "https://x/?token=1"] {
            assert_eq!(check(bad).unwrap_err().field, "endpoint", "{bad}");
        }
    }
}
