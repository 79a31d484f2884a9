//! Against a small object store over HTTP that breaks off where a test wants it to.

use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use object_store::aws::AmazonS3Builder;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::{super::connector::Connector, *};

/// What one request to the store gets.
#[derive(Clone, Copy)]
struct Script {
    tag: &'static str,
    /// It sends so much of what was asked for, then breaks off.
    sends: usize,
}

#[derive(Default)]
struct Seen {
    ranges: Mutex<Vec<Option<String>>>,
    /// The most that was sent without being read.
    sent: AtomicUsize,
}

/// A store with one object, of `object`'s bytes; the last line of the script goes for all further requests.
async fn store(object: Arc<Vec<u8>>, script: Vec<Script>) -> (Storage, Arc<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let seen = Arc::new(Seen::default());
    let server = seen.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") {
                if stream.read(&mut byte).await.unwrap() == 0 {
                    break;
                }
                request.push(byte[0]);
            }
            let request = String::from_utf8(request).unwrap().to_lowercase();
            let header = |name: &str| {
                let line = request.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
                line.map(str::to_owned)
            };
            let range = header("range");
            let asked = {
                let mut ranges = server.ranges.lock().unwrap();
                ranges.push(range.clone());
                ranges.len()
            };
            let Script { tag, sends } = script[(asked - 1).min(script.len() - 1)];
            if header("if-match").is_some_and(|wanted| wanted != tag) {
                stream.write_all(b"HTTP/1.1 412 Precondition Failed\r\ncontent-length: 0\r\n\r\n").await.unwrap();
                continue;
            }
            let size = object.len();
            let (first, last) = range.map_or((0, size - 1), |range| {
                let (first, last) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
                (first.parse().unwrap(), last.parse().unwrap())
            });
            let status = if first == 0 && last == size - 1 && header("range").is_none() {
                "200 OK".to_owned()
            } else {
                format!("206 Partial Content\r\ncontent-range: bytes {first}-{last}/{size}")
            };
            let length = last + 1 - first;
            let head = format!(
                "HTTP/1.1 {status}\r\ncontent-length: {length}\r\netag: {tag}\r\n\
                 last-modified: Mon, 02 Mar 2026 08:00:00 GMT\r\n\r\n"
            );
            let mut answer = head.into_bytes();
            answer.extend_from_slice(&object[first..first + length.min(sends)]);
            let server = server.clone();
            tokio::spawn(async move {
                for piece in answer.chunks(16 * 1024) {
                    if stream.write_all(piece).await.is_err() {
                        return;
                    }
                    server.sent.fetch_add(piece.len(), Ordering::Relaxed);
                }
            });
        }
    });
    let store = AmazonS3Builder::new()
        .with_http_connector(Connector)
        .with_endpoint(endpoint)
        .with_allow_http(true)
        .with_region("none")
        .with_bucket_name("bucket")
        .with_access_key_id("none")
        .with_secret_access_key("none")
        .build()
        .unwrap();
    (Storage { store: Arc::new(store), root: None }, seen)
}

fn object(bytes: usize) -> Arc<Vec<u8>> {
    Arc::new((0..bytes).map(|n| u8::try_from(n % 251).unwrap()).collect())
}

async fn all(chunks: Chunks) -> Result<Vec<u8>> {
    let chunks: Vec<_> = chunks.try_collect().await?;
    assert!(chunks.iter().all(|chunk| chunk.len() <= CHUNK_BYTES));
    Ok(chunks.concat())
}

const A: &str = "\"a\"";
const WHOLE: usize = usize::MAX;

#[tokio::test]
async fn an_object_comes_in_one_request_and_bounded_chunks() {
    let bytes = object(3_000_001);
    let (storage, seen) = store(bytes.clone(), vec![Script { tag: A, sends: WHOLE }]).await;
    assert!(all(storage.read("x", None).await.unwrap()).await.unwrap() == *bytes);
    let part = storage.read_exact("x", 3_000_001, Some(1_000_000..2_500_000)).await.unwrap();
    assert!(all(part).await.unwrap() == bytes[1_000_000..2_500_000]);
    assert_eq!(*seen.ranges.lock().unwrap(), [None, Some("bytes=1000000-2499999".to_owned())]);
    assert!(storage.read_exact("x", 3_000_000, None).await.is_err(), "it has another length");
}

#[tokio::test]
async fn what_breaks_off_goes_on_where_it_was() {
    let bytes = object(2_000_000);
    let breaks = Script { tag: A, sends: 700_000 };
    let (storage, seen) = store(bytes.clone(), vec![breaks, breaks, Script { tag: A, sends: WHOLE }]).await;
    assert!(all(storage.read("x", None).await.unwrap()).await.unwrap() == *bytes);
    let ranges = seen.ranges.lock().unwrap().clone();
    assert_eq!(ranges[1..], [Some("bytes=700000-1999999".to_owned()), Some("bytes=1400000-1999999".to_owned())]);
}

#[tokio::test]
async fn the_rest_of_another_object_is_never_taken_for_the_rest_of_this() {
    let bytes = object(2_000_000);
    let script = vec![Script { tag: A, sends: 700_000 }, Script { tag: "\"b\"", sends: WHOLE }];
    let (storage, _) = store(bytes, script).await;
    assert!(all(storage.read("x", None).await.unwrap()).await.is_err());
}

#[tokio::test]
async fn nothing_is_read_ahead_of_the_reader() {
    let bytes = object(64 << 20);
    let (storage, seen) = store(bytes, vec![Script { tag: A, sends: WHOLE }]).await;
    let mut chunks = storage.read("x", None).await.unwrap();
    chunks.try_next().await.unwrap().unwrap();
    // Sockets hold some megabytes; whoever read on without being asked would soon have it all.
    let mut sent = 0;
    loop {
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        let now = seen.sent.load(Ordering::Relaxed);
        if now == sent {
            break;
        }
        sent = now;
    }
    assert!(sent < 32 << 20, "{sent} bytes were taken for one chunk");
}

#[tokio::test]
async fn a_local_file_that_gets_shorter_is_an_error_and_no_end() {
    let folder = tempfile::tempdir().unwrap();
    let storage = Storage::open(&url::Url::from_directory_path(folder.path()).unwrap()).unwrap();
    std::fs::write(folder.path().join("x"), vec![b'x'; 300_000]).unwrap();
    let mut chunks = storage.read_exact("x", 300_000, None).await.unwrap();
    assert_eq!(chunks.try_next().await.unwrap().unwrap().len(), CHUNK_BYTES);
    File::options().write(true).open(folder.path().join("x")).unwrap().set_len(100_000).unwrap();
    let rest = all(chunks).await;
    assert!(rest.is_err());
    assert!(storage.read_exact("x", 300_000, None).await.is_err());
    assert_eq!(all(storage.read("x", None).await.unwrap()).await.unwrap().len(), 100_000);
}
