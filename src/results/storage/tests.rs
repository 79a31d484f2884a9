use std::ops::Range;

use object_store::memory::InMemory;

use super::*;
use crate::exports::problem::Code;

fn url(folder: &FsPath) -> Url {
    Url::from_directory_path(folder).unwrap()
}

fn local() -> (tempfile::TempDir, Storage) {
    let folder = tempfile::tempdir().unwrap();
    let storage = Storage::open(&url(folder.path())).unwrap();
    (folder, storage)
}

fn remote() -> Storage {
    Storage { store: Arc::new(InMemory::new()), root: None }
}

async fn put(storage: &Storage, key: &str, bytes: &[u8]) {
    let mut writer = storage.writer(key);
    for chunk in bytes.chunks(1 << 20) {
        writer.put(Bytes::copy_from_slice(chunk)).await.unwrap();
    }
    writer.finish().await.unwrap();
}

async fn get(storage: &Storage, key: &str, range: Option<Range<u64>>) -> object_store::Result<Vec<u8>> {
    let chunks: Vec<Bytes> = storage.read(key, range).await?.try_collect().await?;
    assert!(chunks.iter().all(|chunk| chunk.len() <= CHUNK_BYTES));
    Ok(chunks.concat())
}

/// Every file and folder below `folder`, staging files included.
fn paths(folder: &FsPath) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        found.push(path.file_name().unwrap().to_string_lossy().into_owned());
        if path.is_dir() {
            found.extend(paths(&path));
        }
    }
    found.sort();
    found
}

#[test]
fn other_users_of_the_machine_cannot_look_into_a_folder_that_is_made() {
    use std::os::unix::fs::PermissionsExt as _;
    let above = tempfile::tempdir().unwrap();
    let folder = above.path().join("files");
    Storage::open(&url(&folder)).unwrap();
    assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
}

#[tokio::test]
async fn what_is_written_is_read_back_whole_and_in_ranges() {
    let (_folder, local) = local();
    let large: Vec<u8> = (0..19 << 20).map(|n: u32| u8::try_from(n % 251).unwrap()).collect();
    for storage in [local, remote()] {
        for (key, bytes) in [("exports/e/1/empty", &[][..]), ("exports/e/1/small", b"abcdef"), ("e/large", &large)] {
            put(&storage, key, bytes).await;
            assert!(get(&storage, key, None).await.unwrap() == bytes, "{key}");
        }
        assert_eq!(get(&storage, "exports/e/1/small", Some(2..4)).await.unwrap(), b"cd");
        let middle = 8_388_000..16_800_000;
        let read = get(&storage, "e/large", Some(8_388_000..16_800_000)).await.unwrap();
        assert!(read == large[middle]);
        assert!(matches!(get(&storage, "none", None).await, Err(object_store::Error::NotFound { .. })));
        storage.probe().await.unwrap();
    }
}

#[tokio::test]
async fn an_unfinished_object_cannot_be_seen_and_is_taken_back() {
    let (folder, storage) = local();
    for is_dropped in [true, false] {
        let mut writer = storage.writer("exports/e/1/x");
        for _ in 0..9 {
            writer.put(Bytes::from(vec![0; 1 << 20])).await.unwrap();
        }
        assert!(storage.read("exports/e/1/x", None).await.is_err());
        assert!(paths(folder.path()).contains(&"x#1".to_owned()));
        if is_dropped {
            drop(writer);
            while paths(folder.path()).contains(&"x#1".to_owned()) {
                tokio::task::yield_now().await;
            }
        } else {
            writer.abort().await.unwrap();
            assert!(!paths(folder.path()).contains(&"x#1".to_owned()));
        }
    }
}

#[tokio::test]
async fn deleting_is_repeatable_and_leaves_no_empty_folder() {
    let (folder, storage) = local();
    put(&storage, "exports/e/1/x", b"x").await;
    let keys = ["exports/e/1/none".to_owned(), "exports/e/1/x".to_owned()];
    storage.delete(&keys).await.unwrap();
    storage.delete(&keys).await.unwrap();
    assert!(paths(folder.path()).is_empty());
}

#[tokio::test]
async fn a_sweep_removes_orphans_staging_files_and_empty_folders_but_nothing_else() {
    let (folder, local) = local();
    for storage in [&local, &remote()] {
        for key in ["exports/e/1/x", "exports/e/2/x", "exports/e/2/y", "exports/ee/1/x"] {
            put(storage, key, b"x").await;
        }
        if storage.root.is_some() {
            fs::write(folder.path().join("exports/e/1/x#12"), "half").unwrap();
            fs::create_dir_all(folder.path().join("exports/e/3/deep")).unwrap();
            fs::write(folder.path().join("exports/e/3/deep/z#1"), "half").unwrap();
        }
        storage.sweep("exports/e", &HashSet::from(["exports/e/2/x".to_owned()])).await.unwrap();
        for (key, is_kept) in [("exports/e/1/x", false), ("exports/e/2/x", true), ("exports/e/2/y", false)] {
            assert_eq!(get(storage, key, None).await.is_ok(), is_kept, "{key}");
        }
        assert!(get(storage, "exports/ee/1/x", None).await.is_ok());
    }
    assert_eq!(paths(folder.path()), ["1", "2", "e", "ee", "exports", "x", "x"]);
    local.sweep("exports/e", &HashSet::new()).await.unwrap();
    local.sweep("exports/e", &HashSet::new()).await.unwrap();
    assert_eq!(paths(folder.path()), ["1", "ee", "exports", "x"]);
}

#[tokio::test]
async fn a_store_that_cannot_work_says_so() {
    let (folder, storage) = local();
    fs::write(folder.path().join("file"), "").unwrap();
    for bad in ["ftp://host/x", "memory:///", "http://host/x", "file://host/x"] {
        assert_eq!(Storage::open(&bad.parse().unwrap()).unwrap_err().code, Code::DeliveryFailed, "{bad}");
    }
    assert!(Storage::open(&url(&folder.path().join("file"))).is_err());
    drop(folder);
    assert_eq!(storage.probe().await.unwrap_err().code, Code::DeliveryFailed);
}

#[test]
fn only_names_of_the_local_stores_own_making_count_as_staging() {
    for (name, is) in [("x#1", true), ("x.ndjson#120", true), ("x#", false), ("x#1a", false), ("x", false)] {
        assert_eq!(is_staging(name), is, "{name}");
    }
}
