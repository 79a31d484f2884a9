use std::io::{Read as _, Write as _};

use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use proptest::prelude::*;
use url::Url;

use super::*;

fn storage() -> (tempfile::TempDir, Storage) {
    let folder = tempfile::tempdir().unwrap();
    let storage = Storage::open(&Url::from_directory_path(folder.path()).unwrap()).unwrap();
    (folder, storage)
}

async fn put(storage: &Storage, key: &str, text: &[u8], packing: Option<Packing>) -> Piece {
    let bytes = match packing {
        None => text.to_vec(),
        Some(Packing::Gzip) => {
            // Two members, as joined files have them.
            let (one, two) = text.split_at(text.len() / 2);
            let member = |part: &[u8]| {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
                encoder.write_all(part).unwrap();
                encoder.finish().unwrap()
            };
            [member(one), member(two)].concat()
        }
        Some(Packing::Zstd) => zstd::encode_all(text, 1).unwrap(),
    };
    let mut writer = storage.writer(key);
    writer.put(Bytes::copy_from_slice(&bytes)).await.unwrap();
    writer.finish().await.unwrap();
    Piece { key: key.into(), bytes: bytes.len() as u64, packing }
}

async fn all(chunks: Chunks) -> Result<Vec<u8>> {
    let chunks: Vec<_> = chunks.try_collect().await?;
    Ok(chunks.concat())
}

/// Three CSV files of one table, the middle one with its header alone, and the table.
fn table() -> (Vec<String>, String) {
    let rows = |from: usize, to: usize| (from..to).fold(String::new(), |text, n| text + &format!("{n},\"a\nb\"\r\n"));
    let head = "id,text\r\n".to_owned();
    let files = vec![head.clone() + &rows(0, 9000), head.clone(), head.clone() + &rows(9000, 9003)];
    (files, head + &rows(0, 9003))
}

#[tokio::test]
async fn files_of_one_table_have_one_header_however_they_are_packed() {
    let (_folder, storage) = storage();
    let (files, whole) = table();
    for packing in [None, Some(Packing::Gzip), Some(Packing::Zstd)] {
        let mut pieces = Vec::new();
        for (index, file) in files.iter().enumerate() {
            pieces.push(put(&storage, &format!("{packing:?}/{index}"), file.as_bytes(), packing).await);
        }
        assert!(all(read_unpacked(storage.clone(), pieces.clone(), true)).await.unwrap() == whole.as_bytes());
        if packing.is_none() {
            let segments = segments(&storage, &pieces, true).await.unwrap();
            assert!(all(read(storage.clone(), segments)).await.unwrap() == whole.as_bytes());
        }
    }
}

#[tokio::test]
async fn a_header_longer_than_one_look_is_found() {
    let (_folder, storage) = storage();
    let text = format!("{}\n1\n", "x".repeat(40_000));
    let piece = put(&storage, "a", text.as_bytes(), None).await;
    assert_eq!(header_bytes(&storage, &piece).await.unwrap(), 40_001);
    let piece = put(&storage, "b", &vec![b'x'; 20_000], None).await;
    assert_eq!(header_bytes(&storage, &piece).await.unwrap(), 20_000);
}

#[tokio::test]
async fn what_is_packed_on_the_way_unpacks_to_the_same() {
    let (_folder, storage) = storage();
    let text = "{\"n\":1}\n".repeat(50_000);
    for (name, text) in [("long", text.as_str()), ("short", "x"), ("empty", "")] {
        let piece = put(&storage, name, text.as_bytes(), None).await;
        let chunks = || read_unpacked(storage.clone(), vec![piece.clone()], false);
        let gzip = all(pack(chunks(), Packing::Gzip)).await.unwrap();
        let mut unpacked = String::new();
        GzDecoder::new(&gzip[..]).read_to_string(&mut unpacked).unwrap();
        assert!(unpacked == text, "{name}");
        let zstd = all(pack(chunks(), Packing::Zstd)).await.unwrap();
        assert!(zstd::decode_all(&zstd[..]).unwrap() == text.as_bytes(), "{name}");
    }
}

#[tokio::test]
async fn cut_or_broken_data_is_an_error_and_no_end() {
    let (_folder, storage) = storage();
    let text: String = (0..20_000).fold(String::new(), |text, n| text + &format!("{{\"n\":{n}}}\n"));
    for packing in [Packing::Gzip, Packing::Zstd] {
        let whole = put(&storage, "whole", text.as_bytes(), Some(packing)).await;
        let bytes = all(storage.read("whole", None).await.unwrap()).await.unwrap();
        for length in [1, bytes.len() / 2 - 1, bytes.len() - 1] {
            let cut = put(&storage, "cut", &bytes[..length], None).await;
            let cut = Piece { packing: Some(packing), ..cut };
            assert!(all(read_unpacked(storage.clone(), vec![cut, whole.clone()], false)).await.is_err(), "{length}");
        }
        // The manifest knows another length.
        let longer = Piece { bytes: whole.bytes + 1, ..whole.clone() };
        assert!(begun(read_unpacked(storage.clone(), vec![longer], false)).await.is_err());
    }
}

proptest! {
    #[test]
    fn a_cut_of_segments_is_the_cut_of_their_text(
        lengths in prop::collection::vec((0u64..20, 0u64..5), 0..6),
        from in 0u64..120,
        length in 0u64..120,
    ) {
        let mut segments = Vec::new();
        let mut text = Vec::new();
        for (index, (length, skipped)) in lengths.iter().enumerate() {
            let bytes = length + skipped;
            segments.push(Segment { key: index.to_string(), bytes, range: *skipped..bytes });
            text.extend((*skipped..bytes).map(|at| (index.to_string(), at)));
        }
        let within = cut(segments, &(from..from + length));
        prop_assert!(within.iter().all(|segment| !segment.range.is_empty()));
        let got: Vec<_> = within.into_iter().flat_map(|s| s.range.clone().map(move |at| (s.key.clone(), at))).collect();
        let wanted: Vec<_> =
            text.into_iter().skip(usize::try_from(from).unwrap()).take(usize::try_from(length).unwrap()).collect();
        prop_assert_eq!(got, wanted);
    }
}
