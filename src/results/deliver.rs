//! Copies the stored files of a result to somebody else's store, and says so at the end: `_manifest.json` is written
//! last, so whoever waits for it sees the whole result or nothing. Everything can be done again from the beginning: what
//! is there already is recognized and not copied twice.

#[cfg(test)]
mod tests;

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path as FsPath, PathBuf},
    sync::Arc,
};

use aws_lc_rs::digest;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::TryStreamExt;
use object_store::{Attribute, Attributes, GetOptions, ObjectStore, ObjectStoreExt, PutOptions, path::Path};
use serde::{Deserialize, Serialize};

use super::storage::{Storage, Writer, is_staging_of};
use crate::{exports::record::FileRecord, ids::ExportId};

/// The last object of a delivery.
pub const MANIFEST: &str = "_manifest.json";
/// Metadata of a delivered object: the SHA-256 of its bytes. Azure takes letters and digits only.
const DIGEST: &str = "headgatesha256";
/// A manifest that is larger is none of ours.
const MAX_MANIFEST: u64 = 64 * 1024 * 1024;
/// What one read of a local file brings, in bytes.
const CHUNK: usize = 256 * 1024;

/// Where the files of one export go.
#[derive(Clone)]
pub struct Target {
    pub store: Arc<dyn ObjectStore>,
    /// Below the store's root; with or without a slash at the end.
    pub path: String,
    /// The store's root, if it is a folder of this machine. Folders keep no metadata.
    pub folder: Option<PathBuf>,
}

/// What `_manifest.json` says.
#[derive(Debug, Clone, Serialize)]
pub struct Manifest {
    pub export: ExportId,
    pub connection: String,
    pub vendor: String,
    pub dataset: String,
    /// Of the unified records; `null` for the vendor's own and for `raw`.
    pub schema: Option<String>,
    pub format: String,
    pub created_at: DateTime<Utc>,
    pub data_as_of: Option<DateTime<Utc>>,
    /// When the last file was there.
    pub finished_at: DateTime<Utc>,
    /// Unknown for `raw`.
    pub records: Option<i64>,
    pub bytes: i64,
    pub files: Vec<ManifestFile>,
}

/// One delivered file; it lies beside the manifest.
#[derive(Debug, Clone, Serialize)]
pub struct ManifestFile {
    pub name: String,
    pub bytes: i64,
    pub records: Option<i64>,
    pub sha256: String,
    pub media_type: String,
    pub compression: String,
}

impl ManifestFile {
    pub fn of(file: &FileRecord) -> Self {
        Self {
            name: file.name.clone(),
            bytes: file.bytes,
            records: file.records,
            sha256: hex(&file.sha256),
            media_type: file.media_type.clone(),
            compression: file.compression.clone(),
        }
    }
}

/// What is read of a manifest that is there.
#[derive(Deserialize)]
struct Earlier {
    export: ExportId,
}

/// Why a result is not delivered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The gateway's own store failed.
    #[error("the stored result could not be read")]
    Source(#[source] object_store::Error),
    /// A stored file is not what it was.
    #[error("a stored file of the result is damaged")]
    Damaged,
    /// The destination failed.
    #[error("the destination failed")]
    Destination(#[source] object_store::Error),
    /// It was written, and yet the destination shows something else.
    #[error("the destination shows another size than was written")]
    NotAsWritten,
}

/// What a delivery did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Outcome {
    /// Files copied now, not before.
    pub copied: usize,
}

/// Brings `files` to `target` and writes `manifest` after them, with the time at which it does so.
///
/// An older manifest goes first, unless it is this export's own. Dropped anywhere, it can be done again.
///
/// # Errors
/// Which side failed. No manifest is there then, unless it is the manifest's own writing whose answer was lost.
pub async fn deliver(
    storage: &Storage,
    files: &[FileRecord],
    mut manifest: Manifest,
    target: &Target,
) -> Result<Outcome, Error> {
    let mut outcome = Outcome::default();
    match target.earlier().await? {
        Some(Earlier { export }) if export == manifest.export => {
            if target.has_all(files).await? {
                return Ok(outcome);
            }
            target.delete(MANIFEST).await?;
        }
        Some(_) => target.delete(MANIFEST).await?,
        None => {}
    }
    target.tidy(files).await?;
    for file in files {
        if !target.has(file).await? {
            target.copy(storage, file).await?;
            outcome.copied += 1;
        }
    }
    manifest.finished_at = Utc::now();
    target.say(&manifest).await?;
    Ok(outcome)
}

impl Target {
    fn key(&self, name: &str) -> Path {
        // Not `Path::from`, which would encode what is encoded already.
        self.path.split_terminator('/').map(raw).chain([raw(name)]).collect()
    }

    async fn earlier(&self) -> Result<Option<Earlier>, Error> {
        let found = match self.store.get(&self.key(MANIFEST)).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(Error::Destination(error)),
        };
        // Whatever else it is, it must not stay beside new files.
        let foreign = Earlier { export: ExportId(uuid::Uuid::nil()) };
        if found.meta.size > MAX_MANIFEST {
            return Ok(Some(foreign));
        }
        let text = found.bytes().await.map_err(Error::Destination)?;
        Ok(Some(serde_json::from_slice(&text).unwrap_or(foreign)))
    }

    async fn delete(&self, name: &str) -> Result<(), Error> {
        match self.store.delete(&self.key(name)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(Error::Destination(error)),
        }
    }

    async fn has_all(&self, files: &[FileRecord]) -> Result<bool, Error> {
        for file in files {
            if !self.has(file).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether the very bytes are there.
    async fn has(&self, file: &FileRecord) -> Result<bool, Error> {
        let key = self.key(&file.name);
        let options = GetOptions { head: true, ..GetOptions::default() };
        let found = match self.store.get_opts(&key, options).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Ok(false),
            Err(error) => return Err(Error::Destination(error)),
        };
        if i64::try_from(found.meta.size).ok() != Some(file.bytes) {
            return Ok(false);
        }
        let Some(folder) = &self.folder else {
            let digest = found.attributes.get(&Attribute::Metadata(DIGEST.into()));
            return Ok(digest.is_some_and(|digest| digest.as_ref() == hex(&file.sha256)));
        };
        let local = key.parts().fold(folder.clone(), |path, part| path.join(part.as_ref()));
        let hashed = tokio::task::spawn_blocking(move || sha256_of(&local)).await;
        let hashed = hashed.map_err(|error| local_error(io::Error::other(error)))?.map_err(local_error)?;
        Ok(hashed == file.sha256)
    }

    async fn copy(&self, storage: &Storage, file: &FileRecord) -> Result<(), Error> {
        let key = self.key(&file.name);
        let sha256 = hex(&file.sha256);
        let attributes = self.attributes(file.media_type.clone(), Some(sha256));
        let mut writer = Writer::new(self.store.clone(), key.clone()).with_attributes(attributes);
        let mut digest = digest::Context::new(&digest::SHA256);
        let mut chunks = storage.read(&file.object_key, None).await.map_err(Error::Source)?;
        while let Some(chunk) = chunks.try_next().await.map_err(Error::Source)? {
            digest.update(&chunk);
            writer.put(chunk).await.map_err(Error::Destination)?;
        }
        if digest.finish().as_ref() != file.sha256 {
            // Nothing is visible of it yet; what cannot be taken back is left to the store's own rules.
            if let Err(error) = writer.abort().await {
                tracing::debug!(%error, "an unfinished delivery could not be taken back");
            }
            return Err(Error::Damaged);
        }
        writer.finish().await.map_err(Error::Destination)?;
        let written = self.store.head(&key).await.map_err(Error::Destination)?;
        if i64::try_from(written.size).ok() == Some(file.bytes) { Ok(()) } else { Err(Error::NotAsWritten) }
    }

    async fn say(&self, manifest: &Manifest) -> Result<(), Error> {
        let mut text = serde_json::to_vec_pretty(manifest).unwrap_or_default();
        text.push(b'\n');
        let attributes = self.attributes("application/json".into(), None);
        let options = PutOptions { attributes, ..PutOptions::default() };
        let key = self.key(MANIFEST);
        let put = self.store.put_opts(&key, Bytes::from(text).into(), options);
        put.await.map(drop).map_err(Error::Destination)
    }

    fn attributes(&self, media_type: String, sha256: Option<String>) -> Attributes {
        let mut attributes = Attributes::new();
        if self.folder.is_none() {
            attributes.insert(Attribute::ContentType, media_type.into());
            if let Some(sha256) = sha256 {
                attributes.insert(Attribute::Metadata(DIGEST.into()), sha256.into());
            }
        }
        attributes
    }

    /// Removes what an earlier try left half-written in a folder. Object stores show nothing of that.
    async fn tidy(&self, files: &[FileRecord]) -> Result<(), Error> {
        let Some(root) = &self.folder else { return Ok(()) };
        let folder = self.path.split_terminator('/').fold(root.clone(), |path, part| path.join(part));
        let names: Vec<String> = files.iter().map(|file| file.name.clone()).chain([MANIFEST.to_owned()]).collect();
        let tidied = tokio::task::spawn_blocking(move || remove_staging(&folder, &names)).await;
        tidied.map_err(|error| local_error(io::Error::other(error)))?.map_err(local_error)
    }
}

/// A folder's or a file's name as it is. What is checked beforehand can be parsed.
fn raw(name: &str) -> object_store::path::PathPart<'_> {
    object_store::path::PathPart::parse(name).unwrap_or_else(|_| name.into())
}

fn local_error(source: io::Error) -> Error {
    Error::Destination(object_store::Error::Generic { store: "LocalFileSystem", source: source.into() })
}

fn sha256_of(path: &FsPath) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let mut digest = digest::Context::new(&digest::SHA256);
    let mut chunk = vec![0; CHUNK];
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(digest.finish().as_ref().to_vec()),
            bytes => digest.update(&chunk[..bytes]),
        }
    }
}

fn remove_staging(folder: &FsPath, names: &[String]) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        if names.iter().any(|of| is_staging_of(&name.to_string_lossy(), of)) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Lower-case hexadecimal.
fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.filter_map(|digit| char::from_digit(u32::from(digit), 16)).collect()
}
