use std::{
    collections::BTreeMap,
    fmt,
    sync::atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use object_store::{
    CopyOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, PutMultipartOptions, PutPayload, PutResult,
    local::LocalFileSystem, memory::InMemory,
};
use serde_json::Value;
use tokio::sync::Notify;
use url::Url;

use super::*;
use crate::ids::FileId;

const PATH: &str = "lake/2026-03-02/";

/// Hands everything on, until a certain write: there the caller dies, before it or before it hears of its success.
#[derive(Debug, Clone)]
struct Mortal {
    inner: Arc<dyn ObjectStore>,
    last: usize,
    done_first: bool,
    writes: Arc<AtomicUsize>,
    died: Arc<Notify>,
}

impl Mortal {
    async fn write<T>(&self, write: impl Future<Output = object_store::Result<T>>) -> object_store::Result<T> {
        let dies = self.writes.fetch_add(1, Ordering::Relaxed) == self.last;
        if dies && !self.done_first {
            self.died.notify_one();
            std::future::pending::<()>().await;
        }
        let outcome = write.await;
        if dies {
            self.died.notify_one();
            std::future::pending::<()>().await;
        }
        outcome
    }
}

impl fmt::Display for Mortal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mortal")
    }
}

#[async_trait]
impl ObjectStore for Mortal {
    async fn put_opts(&self, path: &Path, bytes: PutPayload, options: PutOptions) -> object_store::Result<PutResult> {
        self.write(self.inner.put_opts(path, bytes, options)).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.write(self.inner.put_multipart_opts(path, options)).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        self.inner.get_opts(path, options).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        let own = self.clone();
        let deleted = async move {
            let inner = own.inner.clone();
            own.write(async move { inner.delete_stream(paths).try_collect::<Vec<_>>().await }).await
        };
        Box::pin(
            futures_util::stream::once(deleted)
                .map_ok(|paths| futures_util::stream::iter(paths.into_iter().map(Ok)))
                .try_flatten(),
        )
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// The gateway's own store with the files of two exports, the second of which replaces the first.
struct Scene {
    storage: Storage,
    _folder: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let storage = Storage::open(&Url::from_directory_path(folder.path()).unwrap()).unwrap();
        Self { storage, _folder: folder }
    }

    async fn export(&self, id: u128, contents: &[&[u8]]) -> (Vec<FileRecord>, Manifest) {
        let export = ExportId(uuid::Uuid::from_u128(id));
        let mut files = Vec::new();
        for (index, bytes) in contents.iter().enumerate() {
            let object_key = format!("exports/{export}/{index}");
            let mut writer = self.storage.writer(&object_key);
            writer.put(Bytes::copy_from_slice(bytes)).await.unwrap();
            writer.finish().await.unwrap();
            files.push(FileRecord {
                file_id: FileId::new(),
                export_id: export,
                name: format!("part-{index:05}.ndjson"),
                object_key,
                media_type: "application/x-ndjson".into(),
                compression: "none".into(),
                bytes: i64::try_from(bytes.len()).unwrap(),
                records: Some(1),
                sha256: digest::digest(&digest::SHA256, bytes).as_ref().to_vec(),
                location: None,
            });
        }
        let manifest = Manifest {
            export,
            connection: "growth-braze".into(),
            vendor: "acme".into(),
            dataset: "audience_members".into(),
            schema: Some("user.v1".into()),
            format: "ndjson".into(),
            created_at: Utc::now(),
            data_as_of: None,
            finished_at: Utc::now(),
            records: Some(2),
            bytes: files.iter().map(|file| file.bytes).sum(),
            files: files.iter().map(ManifestFile::of).collect(),
        };
        (files, manifest)
    }
}

/// A place to deliver to: in memory as object stores are, or a folder.
fn place(local: Option<&FsPath>) -> Target {
    let store: Arc<dyn ObjectStore> = match local {
        Some(folder) => Arc::new(LocalFileSystem::new_with_prefix(folder).unwrap()),
        None => Arc::new(InMemory::new()),
    };
    Target { store, path: PATH.into(), folder: local.map(FsPath::to_owned) }
}

/// Everything that a reader sees, by name.
async fn seen(target: &Target) -> BTreeMap<String, Vec<u8>> {
    let objects: Vec<ObjectMeta> = target.store.list(None).try_collect().await.unwrap();
    let mut seen = BTreeMap::new();
    for object in objects {
        let bytes = target.store.get(&object.location).await.unwrap().bytes().await.unwrap();
        seen.insert(object.location.to_string().trim_start_matches(PATH).to_owned(), bytes.to_vec());
    }
    seen
}

/// A reader takes what the manifest names, or nothing.
fn read(seen: &BTreeMap<String, Vec<u8>>) -> Option<(String, Vec<Vec<u8>>)> {
    let manifest: Value = serde_json::from_slice(seen.get(MANIFEST)?).unwrap();
    let files = manifest["files"].as_array().unwrap().iter().map(|file| {
        let bytes = seen[file["name"].as_str().unwrap()].clone();
        assert_eq!(file["sha256"], hex(digest::digest(&digest::SHA256, &bytes).as_ref()), "{file}");
        assert_eq!(file["bytes"], bytes.len());
        bytes
    });
    Some((manifest["export"].as_str().unwrap().to_owned(), files.collect()))
}

/// Larger than a part, so that it is uploaded in several.
fn large() -> Vec<u8> {
    (0..9 << 20).map(|n: u32| u8::try_from(n % 251).unwrap()).collect()
}

#[tokio::test]
async fn files_come_first_and_the_manifest_last_and_nothing_is_copied_twice() {
    let folder = tempfile::tempdir().unwrap();
    for local in [None, Some(folder.path())] {
        let (scene, target, large) = (Scene::new(), place(local), large());
        let (files, manifest) = scene.export(1, &[b"one\n", &large, b""]).await;
        let export = manifest.export.to_string();
        let outcome = deliver(&scene.storage, &files, manifest.clone(), &target).await.unwrap();
        assert_eq!(outcome.copied, 3);
        let first = seen(&target).await;
        assert_eq!(read(&first).unwrap(), (export, vec![b"one\n".to_vec(), large, Vec::new()]));
        assert_eq!(first.len(), 4);

        // The answer of the last write was lost: nothing is written again.
        let outcome = deliver(&scene.storage, &files, manifest.clone(), &target).await.unwrap();
        assert_eq!(outcome.copied, 0);
        assert!(seen(&target).await == first);

        // One file is not what it was, with the size it had.
        let changed = target.key(&files[0].name);
        target.store.put(&changed, Bytes::from_static(b"eno\n").into()).await.unwrap();
        let outcome = deliver(&scene.storage, &files, manifest, &target).await.unwrap();
        assert_eq!(outcome.copied, 1);
        assert_eq!(seen(&target).await[&files[0].name], b"one\n");
    }
}

#[tokio::test]
async fn object_stores_are_told_the_media_type_and_the_digest() {
    let (scene, target) = (Scene::new(), place(None));
    let (files, manifest) = scene.export(1, &[b"one\n"]).await;
    deliver(&scene.storage, &files, manifest, &target).await.unwrap();
    let found = target.store.get(&target.key(&files[0].name)).await.unwrap();
    assert_eq!(found.attributes.get(&Attribute::ContentType).unwrap().as_ref(), "application/x-ndjson");
    let digest = found.attributes.get(&Attribute::Metadata(DIGEST.into())).unwrap();
    assert_eq!(digest.as_ref(), hex(&files[0].sha256));
}

#[tokio::test]
async fn whoever_dies_wherever_a_reader_sees_the_old_result_nothing_or_the_new_one() {
    for local in [false, true] {
        let mut deaths = 0;
        for last in 0.. {
            let mut survived = 0;
            for done_first in [false, true] {
                let folder = tempfile::tempdir().unwrap();
                let target = place(local.then_some(folder.path()));
                let scene = Scene::new();
                let (old_files, old) = scene.export(1, &[b"old one\n", b"old two\n"]).await;
                let (files, new) = scene.export(2, &[b"new one\n", b"new two\n"]).await;
                let (before, after) = (old.export.to_string(), new.export.to_string());
                deliver(&scene.storage, &old_files, old, &target).await.unwrap();
                let complete = (after.clone(), vec![b"new one\n".to_vec(), b"new two\n".to_vec()]);

                let died = Arc::new(Notify::new());
                let inner = target.store.clone();
                let mortal = Mortal { inner, last, done_first, writes: Arc::default(), died: died.clone() };
                let doomed = Target { store: Arc::new(mortal), ..target.clone() };
                tokio::select! {
                    outcome = deliver(&scene.storage, &files, new.clone(), &doomed) => {
                        outcome.unwrap();
                        survived += 1;
                    }
                    () = died.notified() => deaths += 1,
                }
                // `read` checks that every named file is the one that is meant.
                match read(&seen(&target).await) {
                    None => {}
                    Some(result) if result.0 == before => assert_eq!(result.1[0], b"old one\n"),
                    Some(result) => assert_eq!(result, complete),
                }
                deliver(&scene.storage, &files, new, &target).await.unwrap();
                assert_eq!(read(&seen(&target).await).unwrap(), complete, "{last} {done_first}");
                assert_eq!(seen(&target).await.len(), 3);
            }
            if survived == 2 {
                break;
            }
        }
        // The old manifest goes, two files and the new manifest come, each with its two ways to die.
        assert_eq!(deaths, 8);
    }
}

#[tokio::test]
async fn what_a_killed_process_left_half_written_in_a_folder_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let target = place(Some(folder.path()));
    let below = folder.path().join(PATH);
    fs::create_dir_all(&below).unwrap();
    for name in ["part-00000.ndjson#1", "part-00000.ndjson#12", "_manifest.json#1", "part-00000.ndjson#x", "other#1"] {
        fs::write(below.join(name), "half").unwrap();
    }
    let scene = Scene::new();
    let (files, manifest) = scene.export(1, &[b"one\n"]).await;
    deliver(&scene.storage, &files, manifest, &target).await.unwrap();
    let mut left: Vec<_> =
        fs::read_dir(&below).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    left.sort();
    assert_eq!(left, [MANIFEST, "other#1", "part-00000.ndjson", "part-00000.ndjson#x"]);
}

#[tokio::test]
async fn a_stored_file_that_is_not_what_it_was_is_not_delivered() {
    let (scene, target) = (Scene::new(), place(None));
    let (mut files, manifest) = scene.export(1, &[b"one\n"]).await;
    files[0].sha256[0] ^= 1;
    let error = deliver(&scene.storage, &files, manifest.clone(), &target).await.unwrap_err();
    assert!(matches!(error, Error::Damaged), "{error:?}");
    assert!(seen(&target).await.is_empty());
    files[0].object_key.push('x');
    let error = deliver(&scene.storage, &files, manifest, &target).await.unwrap_err();
    assert!(matches!(error, Error::Source(_)), "{error:?}");
}

#[tokio::test]
async fn whatever_lies_in_the_manifests_place_is_replaced() {
    let (scene, target) = (Scene::new(), place(None));
    target.store.put(&target.key(MANIFEST), Bytes::from_static(b"not json").into()).await.unwrap();
    let (files, manifest) = scene.export(1, &[b"one\n"]).await;
    deliver(&scene.storage, &files, manifest, &target).await.unwrap();
    assert!(read(&seen(&target).await).is_some());
}

#[tokio::test]
async fn encoded_characters_of_a_folder_are_kept_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    for local in [None, Some(folder.path())] {
        let scene = Scene::new();
        let target = Target { path: "a%2F..%2Fb/用户/".into(), ..place(local) };
        let (files, manifest) = scene.export(1, &[b"one\n"]).await;
        deliver(&scene.storage, &files, manifest, &target).await.unwrap();
        assert!(seen(&target).await.contains_key("a%2F..%2Fb/用户/_manifest.json"));
    }
    assert!(folder.path().join("a%2F..%2Fb").join("用户").join(MANIFEST).is_file());
}
