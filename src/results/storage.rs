//! Where result files lie: a local folder or an object store, chosen by a URL. Keys look like
//! `runs/{run}/{claim}/{name}`, so the objects of one run (the work that an export began, whoever shares it), and one
//! claim's, share a prefix.
//!
//! What survives what: on a local folder every finished file and its folders are flushed to the disk before a writer
//! says so, as object stores do by contract. A process killed while writing leaves a staging file there (`name#1`),
//! which [`Storage::sweep`] removes; at an S3-compatible store it leaves parts that no listing shows, so give the
//! bucket a life-cycle rule that ends incomplete multipart uploads.

mod connector;
mod read;
#[cfg(test)]
mod tests;

use std::{
    collections::HashSet,
    fmt,
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path as FsPath, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use object_store::{
    Attributes, ObjectStore, ObjectStoreScheme, PutMultipartOptions, PutOptions, PutPayload, WriteMultipart,
    aws::{AmazonS3Builder, AmazonS3ConfigKey},
    azure::{AzureConfigKey, MicrosoftAzureBuilder},
    gcp::GoogleCloudStorageBuilder,
    local::LocalFileSystem,
    path::Path,
    prefix::PrefixStore,
};
use url::Url;

use self::connector::Connector;
pub use self::read::{CHUNK_BYTES, Chunks};
use super::Error;
use crate::ids::ExportId;

/// One part of a multipart upload. S3 wants at least 5 MiB and takes at most 10,000 parts.
const PART_BYTES: usize = 8 * 1024 * 1024;
/// Parts on their way at once; with the one being filled this bounds a writer's memory.
const PARTS_IN_FLIGHT: usize = 2;
/// A store that takes longer than this to answer a probe is not ready.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// Everything one run keeps, named after the export that began it.
pub fn run_prefix(run: ExportId) -> String {
    format!("runs/{run}")
}

/// Everything that one claim on a run writes; `claim` sets it apart from earlier claims.
pub fn claim_prefix(run: ExportId, claim: impl fmt::Display) -> String {
    format!("runs/{run}/{claim}")
}

/// Everything that is kept of one part of a run, whoever wrote it: the part of that number, or one file of it.
pub fn part_prefix(run: ExportId, number: i32, file: i32) -> String {
    format!("runs/{run}/parts/{number:06}-{file:06}")
}

/// The store of result files; cheap to clone.
#[derive(Clone)]
pub struct Storage {
    store: Arc<dyn ObjectStore>,
    /// Set for a local folder.
    root: Option<PathBuf>,
}

impl fmt::Debug for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Storage").field("local", &self.root.is_some()).finish_non_exhaustive()
    }
}

impl Storage {
    /// Opens `file:`, `s3:`, `gs:` or `az:`; a path in the URL of a bucket is a prefix of every key. Credentials,
    /// endpoint and the rest come from `AWS_*`, `GOOGLE_*` and `AZURE_*`; a plain `http:` endpoint is allowed because
    /// somebody must have set it. A local folder is made if it is missing. Touches no network.
    ///
    /// # Errors
    /// When the URL or the environment cannot work; the message is meant for the operator.
    pub fn open(url: &Url) -> Result<Self, Error> {
        if url.scheme() == "file" {
            return Self::open_folder(url);
        }
        let unusable = |error: object_store::Error| {
            Error::storing(format!("the storage at `{}:` cannot be used: {error}", url.scheme()), error)
        };
        let (scheme, prefix) = ObjectStoreScheme::parse(url).map_err(|error| unusable(error.into()))?;
        let store: Arc<dyn ObjectStore> = match scheme {
            ObjectStoreScheme::AmazonS3 => Arc::new(s3(url).build().map_err(unusable)?),
            ObjectStoreScheme::GoogleCloudStorage => Arc::new(
                GoogleCloudStorageBuilder::from_env()
                    .with_url(url.as_str())
                    .with_http_connector(Connector)
                    .build()
                    .map_err(unusable)?,
            ),
            ObjectStoreScheme::MicrosoftAzure => Arc::new(azure(url).build().map_err(unusable)?),
            _ => {
                let scheme = url.scheme();
                return Err(Error::storing(
                    format!("results cannot be stored at `{scheme}:`; use `file:`, `s3:`, `gs:` or `az:`"),
                    "not supported",
                ));
            }
        };
        let store = if prefix.as_ref().is_empty() { store } else { Arc::new(PrefixStore::new(store, prefix)) };
        Ok(Self { store, root: None })
    }

    fn open_folder(url: &Url) -> Result<Self, Error> {
        let folder = url
            .to_file_path()
            .map_err(|()| Error::storing("the storage URL names no folder of this machine", "no absolute path"))?;
        let unusable = |error: String| {
            Error::storing(format!("the storage folder {} cannot be used: {error}", folder.display()), error)
        };
        // Results are records of people: on a machine with other users, none of them may look in.
        DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(|error| unusable(error.to_string()))?;
        let root = fs::canonicalize(&folder).map_err(|error| unusable(error.to_string()))?;
        let store = LocalFileSystem::new_with_prefix(&root)
            .map_err(|error| unusable(error.to_string()))?
            .with_automatic_cleanup(true)
            .with_fsync(true);
        Ok(Self { store: Arc::new(store), root: Some(root) })
    }

    /// Whether the store answers, for readiness: lists a prefix that nobody writes to. Writes nothing.
    ///
    /// # Errors
    /// When the folder is gone, the bucket is missing, credentials fail or no answer comes within five seconds.
    pub async fn probe(&self) -> Result<(), Error> {
        let look = async {
            match &self.root {
                Some(root) => tokio::fs::read_dir(root).await.map(drop).map_err(|error| not_ready(error.into())),
                // A listing, since asking for one object does not tell a missing bucket from a missing object.
                None => match self.store.list(Some(&Path::from("exports/probe"))).try_next().await {
                    Ok(_) => Ok(()),
                    Err(error) => Err(not_ready(error.into())),
                },
            }
        };
        tokio::time::timeout(PROBE_TIMEOUT, look).await.map_err(|error| not_ready(error.into()))?
    }

    /// Begins an object. It can be seen only after [`Writer::finish`].
    pub fn writer(&self, key: &str) -> Writer {
        Writer::new(self.store.clone(), Path::from(key))
    }

    /// Deletes objects; one that is not there is fine. Goes on after an error and returns the first.
    pub async fn delete(&self, keys: &[String]) -> object_store::Result<()> {
        let paths: Vec<_> = keys.iter().map(|key| Ok(Path::from(key.as_str()))).collect();
        self.delete_all(stream::iter(paths).boxed()).await
    }

    async fn delete_all(&self, paths: BoxStream<'static, object_store::Result<Path>>) -> object_store::Result<()> {
        let mut outcome = Ok(());
        let mut deleted = self.store.delete_stream(paths);
        while let Some(each) = deleted.next().await {
            match each {
                Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => outcome = outcome.and(Err(error)),
            }
        }
        outcome
    }

    /// Deletes everything below `prefix` that is not in `keep`: what earlier claims left behind. On a local folder
    /// also staging files, which no listing shows, and folders that became empty. Do not run it while the export's
    /// own claim is writing below `prefix`.
    pub async fn sweep(&self, prefix: &str, keep: &HashSet<String>) -> object_store::Result<()> {
        let listed: Vec<Path> = self
            .store
            .list(Some(&Path::from(prefix)))
            .map_ok(|object| object.location)
            .try_filter(|path| std::future::ready(!keep.contains(path.as_ref())))
            .try_collect()
            .await?;
        self.delete_all(stream::iter(listed.into_iter().map(Ok)).boxed()).await?;
        if let Some(root) = &self.root {
            let folder = Path::from(prefix).parts().fold(root.clone(), |folder, part| folder.join(part.as_ref()));
            tokio::task::spawn_blocking(move || sweep_folder(&folder)).await?.map_err(local_error)?;
        }
        Ok(())
    }
}

fn not_ready(error: Box<dyn std::error::Error + Send + Sync>) -> Error {
    Error::storing("the store of result files does not answer", error)
}

fn s3(url: &Url) -> AmazonS3Builder {
    let builder = AmazonS3Builder::from_env().with_url(url.as_str()).with_http_connector(Connector);
    let endpoint = builder
        .get_config_value(&AmazonS3ConfigKey::S3Endpoint)
        .or_else(|| builder.get_config_value(&AmazonS3ConfigKey::Endpoint));
    if is_http(endpoint) { builder.with_allow_http(true) } else { builder }
}

fn azure(url: &Url) -> MicrosoftAzureBuilder {
    let builder = MicrosoftAzureBuilder::from_env().with_url(url.as_str()).with_http_connector(Connector);
    if is_http(builder.get_config_value(&AzureConfigKey::Endpoint)) { builder.with_allow_http(true) } else { builder }
}

fn is_http(endpoint: Option<String>) -> bool {
    endpoint.is_some_and(|endpoint| endpoint.starts_with("http:"))
}

/// Removes staging files below `folder`, then every folder that is empty, `folder` included.
fn sweep_folder(folder: &FsPath) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sweep_folder(&entry.path())?;
        } else if is_staging(&entry.file_name().to_string_lossy()) {
            gone(fs::remove_file(entry.path()))?;
        }
    }
    match fs::remove_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
        outcome => gone(outcome),
    }
}

fn gone(outcome: io::Result<()>) -> io::Result<()> {
    outcome.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

/// The local store writes `name#1` first and renames it when it is complete.
fn is_staging(name: &str) -> bool {
    name.rsplit_once('#').is_some_and(|(_, n)| !n.is_empty() && n.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Whether `name` is a half-written `of` of the local store.
pub(super) fn is_staging_of(name: &str, of: &str) -> bool {
    is_staging(name) && name.rsplit_once('#').is_some_and(|(stem, _)| stem == of)
}

fn local_error(error: io::Error) -> object_store::Error {
    object_store::Error::Generic { store: "LocalFileSystem", source: error.into() }
}

/// One object being written: in one request if it stays below a part's size, else in parts. Dropped unfinished, it
/// takes back what it sent, as far as it can.
pub struct Writer {
    store: Arc<dyn ObjectStore>,
    path: Path,
    head: Vec<Bytes>,
    head_bytes: usize,
    upload: Option<WriteMultipart>,
    attributes: Attributes,
}

impl Writer {
    /// Begins an object in any store.
    pub fn new(store: Arc<dyn ObjectStore>, path: Path) -> Self {
        Self { store, path, head: Vec::new(), head_bytes: 0, upload: None, attributes: Attributes::new() }
    }

    /// What the store keeps beside the bytes; a local folder refuses any.
    #[must_use]
    pub fn with_attributes(mut self, attributes: Attributes) -> Self {
        self.attributes = attributes;
        self
    }

    /// Adds a chunk; waits while too many parts are on their way.
    pub async fn put(&mut self, chunk: Bytes) -> object_store::Result<()> {
        if let Some(upload) = &mut self.upload {
            upload.wait_for_capacity(PARTS_IN_FLIGHT).await?;
            upload.put(chunk);
            return Ok(());
        }
        self.head_bytes += chunk.len();
        self.head.push(chunk);
        if self.head_bytes >= PART_BYTES {
            let attributes = self.attributes.clone();
            let options = PutMultipartOptions { attributes, ..PutMultipartOptions::default() };
            let parts = self.store.put_multipart_opts(&self.path, options).await?;
            let mut upload = WriteMultipart::new_with_chunk_size(parts, PART_BYTES);
            self.head.drain(..).for_each(|chunk| upload.put(chunk));
            self.upload = Some(upload);
        }
        Ok(())
    }

    /// Makes the object visible, whole.
    pub async fn finish(mut self) -> object_store::Result<()> {
        if let Some(upload) = self.upload.take() {
            return upload.finish().await.map(drop);
        }
        let payload: PutPayload = std::mem::take(&mut self.head).into_iter().collect();
        let attributes = std::mem::take(&mut self.attributes);
        let options = PutOptions { attributes, ..PutOptions::default() };
        self.store.put_opts(&self.path, payload, options).await.map(drop)
    }

    /// Takes back what was sent.
    pub async fn abort(mut self) -> object_store::Result<()> {
        match self.upload.take() {
            Some(upload) => upload.abort().await,
            None => Ok(()),
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let Some(upload) = self.upload.take() else { return };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Err(error) = upload.abort().await {
                    tracing::debug!(%error, "an unfinished upload could not be taken back");
                }
            });
        }
    }
}
