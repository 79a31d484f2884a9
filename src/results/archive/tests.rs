use std::io::{Cursor, Write};

use flate2::{Compression, write::GzEncoder};
use proptest::prelude::*;
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

use super::*;
use crate::exports::problem::Code;

const LINES: &[u8] = b"{\"a\":1}\n{\"a\":2}\n";

fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn unpack_all(files: &[&[u8]], limits: &Limits) -> Result<Vec<Vec<u8>>, Error> {
    let mut unpacker = Unpacker::new(limits, &|| false);
    let mut members = Vec::new();
    for (index, bytes) in files.iter().enumerate() {
        unpacker.for_each_member(file(bytes), index + 1, &mut |place, reader| {
            let mut text = Vec::new();
            reader.read_to_end(&mut text).map_err(|error| reading(place, error))?;
            members.push(text);
            Ok(())
        })?;
    }
    Ok(members)
}

fn unpack(bytes: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
    unpack_all(&[bytes], &Limits::default())
}

fn refused(bytes: &[u8], limits: &Limits) -> Error {
    unpack_all(&[bytes], limits).expect_err("it must be refused")
}

fn options(method: CompressionMethod) -> SimpleFileOptions {
    SimpleFileOptions::default().compression_method(method)
}

fn zip_with(method: CompressionMethod, members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in members {
        writer.start_file(*name, options(method)).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

fn zip(members: &[(&str, &[u8])]) -> Vec<u8> {
    zip_with(CompressionMethod::Deflated, members)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Where the n-th record with that signature begins.
fn find(bytes: &[u8], signature: &[u8], n: usize) -> usize {
    (0..bytes.len()).filter(|at| bytes[*at..].starts_with(signature)).nth(n).unwrap()
}

const CENTRAL: &[u8] = b"PK\x01\x02";
const END: &[u8] = b"PK\x05\x06";

#[test]
fn a_zip_gives_its_members_in_order_without_its_folders() {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    writer.add_directory("users/", options(CompressionMethod::Stored)).unwrap();
    for (name, method) in [("users/b.txt", CompressionMethod::Deflated), ("a.json", CompressionMethod::Stored)] {
        writer.start_file(name, options(method)).unwrap();
        writer.write_all(name.as_bytes()).unwrap();
    }
    writer.start_file("empty", options(CompressionMethod::Deflated)).unwrap();
    let bytes = writer.finish().unwrap().into_inner();
    assert_eq!(unpack(&bytes).unwrap(), [&b"users/b.txt"[..], b"a.json", b""]);
}

#[test]
fn members_with_data_descriptors_are_read() {
    let mut writer = ZipWriter::new_stream(Vec::new());
    for name in ["1", "2"] {
        writer.start_file(name, options(CompressionMethod::Deflated)).unwrap();
        writer.write_all(LINES).unwrap();
    }
    let bytes = writer.finish().unwrap().into_inner();
    assert!(bytes[6] & 0b1000 != 0, "the writer must have left the sizes to descriptors");
    assert_eq!(unpack(&bytes).unwrap(), [LINES, LINES]);
}

#[test]
fn a_zip64_directory_is_read_and_its_claims_are_judged() {
    let small = zip(&[("1", LINES), ("2", LINES)]);
    let end = find(&small, END, 0);
    let start = u64::from(u32::from_le_bytes(small[end + 16..end + 20].try_into().unwrap()));
    let zip64 = |entries: u64| {
        let mut bytes = small[..end].to_vec();
        bytes.extend(b"PK\x06\x06");
        bytes.extend(44u64.to_le_bytes());
        bytes.extend([45, 0, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        for number in [entries, entries, end as u64 - start, start] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(b"PK\x06\x07\0\0\0\0");
        bytes.extend((end as u64).to_le_bytes());
        bytes.extend(1u32.to_le_bytes());
        bytes.extend(b"PK\x05\x06\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0");
        bytes
    };
    assert_eq!(unpack(&zip64(2)).unwrap(), [LINES, LINES]);
    for entries in [20_001, u64::MAX] {
        assert_eq!(refused(&zip64(entries), &Limits::default()).code, Code::ArchiveLimitExceeded);
    }
    assert_eq!(refused(&zip64(3), &Limits::default()).code, Code::VendorMalformedData);
}

#[test]
fn gzip_members_are_joined_and_a_plain_file_loses_its_byte_order_mark() {
    let two = [gzip(b"{\"a\":1}\n{\"a\""), gzip(b":2}\n")].concat();
    assert_eq!(unpack(&two).unwrap(), [LINES]);
    assert_eq!(unpack(&[BYTE_ORDER_MARK, LINES].concat()).unwrap(), [LINES]);
    assert_eq!(unpack(&zip(&[("1", &[BYTE_ORDER_MARK, LINES].concat())])).unwrap(), [LINES]);
    assert_eq!(unpack(BYTE_ORDER_MARK).unwrap(), [b""]);
    assert_eq!(unpack(LINES).unwrap(), [LINES]);
    assert_eq!(unpack(b"").unwrap(), Vec::<Vec<u8>>::new());
}

#[test]
fn damage_is_noticed_and_worth_another_fetch() {
    let stored = zip_with(CompressionMethod::Stored, &[("1", LINES)]);
    let mut wrong_crc = stored.clone();
    wrong_crc[find(&stored, LINES, 0) + 5] ^= 1;
    let deflated = zip(&[("1", LINES), ("2", LINES)]);
    let packed = gzip(LINES);
    let mut wrong_gzip_crc = packed.clone();
    let crc = packed.len() - 8;
    wrong_gzip_crc[crc] ^= 1;
    for (what, bytes) in [
        ("wrong checksum", wrong_crc),
        ("cut zip", deflated[..deflated.len() - 1].to_vec()),
        ("half a zip", deflated[..deflated.len() / 2].to_vec()),
        ("two bytes of a zip", b"PK".to_vec()),
        ("data after a zip", [&deflated[..], b"\0"].concat()),
        ("data before a zip", [b"PK", &deflated[..]].concat()),
        ("cut gzip", packed[..packed.len() - 4].to_vec()),
        ("half a gzip", packed[..packed.len() / 2].to_vec()),
        ("gzip with a wrong checksum", wrong_gzip_crc),
        ("data after a gzip", [&packed[..], b"more"].concat()),
    ] {
        let error = refused(&bytes, &Limits::default());
        assert_eq!((error.code, error.fetch_again), (Code::VendorMalformedData, true), "{what}: {error}");
    }
}

#[test]
fn an_encrypted_member_is_unreadable() {
    let mut bytes = zip(&[("1", LINES)]);
    let central = find(&bytes, CENTRAL, 0);
    bytes[6] |= 1;
    bytes[central + 8] |= 1;
    let error = refused(&bytes, &Limits::default());
    assert_eq!((error.code, error.fetch_again), (Code::VendorMalformedData, false));
}

#[test]
fn a_bomb_is_refused_before_a_byte_of_it_is_inflated() {
    let bomb = zip(&[("1", LINES), ("2", &vec![0; 16 << 20])]);
    let mut visited = 0;
    let limits = Limits::default();
    let mut unpacker = Unpacker::new(&limits, &|| false);
    let outcome = unpacker.for_each_member(file(&bomb), 1, &mut |_, _| {
        visited += 1;
        Ok(())
    });
    assert_eq!((outcome.unwrap_err().code, visited), (Code::ArchiveLimitExceeded, 0));
}

#[test]
fn a_bomb_that_lies_about_its_size_ends_at_the_size_it_claims() {
    let mut bomb = zip(&[("1", &vec![0; 4 << 20])]);
    let central = find(&bomb, CENTRAL, 0);
    bomb[central + 24..central + 28].copy_from_slice(&100u32.to_le_bytes());
    assert_eq!(refused(&bomb, &Limits::default()).code, Code::VendorMalformedData);
}

#[test]
fn a_gzip_bomb_ends_soon_after_the_ratio_is_judged() {
    let bomb = gzip(&vec![0; 16 << 20]);
    let limits = Limits { ratio_floor_bytes: 1 << 20, max_ratio: 10, ..Limits::default() };
    let mut bytes_out = 0;
    let mut unpacker = Unpacker::new(&limits, &|| false);
    let outcome = unpacker.for_each_member(file(&bomb), 1, &mut |place, reader| {
        loop {
            let bytes = reader.fill_buf().map_err(|error| reading(place, error))?.len();
            reader.consume(bytes);
            bytes_out += bytes;
        }
    });
    assert_eq!(outcome.unwrap_err().code, Code::ArchiveLimitExceeded);
    assert!(bytes_out <= 1_153_433, "{bytes_out} is more than a tenth over the floor");
}

#[test]
fn what_an_export_unpacks_adds_up_over_its_files() {
    let limits = Limits { max_unpacked_bytes: 3 * LINES.len() as u64, ..Limits::default() };
    let (zipped, gzipped) = (zip(&[("1", LINES)]), gzip(LINES));
    assert!(unpack_all(&[&zipped, &gzipped, LINES], &limits).is_ok());
    for last in [&zipped[..], &gzipped, LINES] {
        let error = unpack_all(&[LINES, LINES, LINES, last], &limits).unwrap_err();
        assert_eq!((error.code, error.fetch_again), (Code::ArchiveLimitExceeded, false));
    }
}

#[test]
fn too_many_entries_are_refused() {
    let limits = Limits { max_entries: 2, ..Limits::default() };
    assert!(unpack_all(&[&zip(&[("1", b""), ("2", b"")])], &limits).is_ok());
    assert_eq!(refused(&zip(&[("1", b""), ("2", b""), ("3", b"")]), &limits).code, Code::ArchiveLimitExceeded);
}

#[test]
fn names_that_point_outside_are_refused() {
    for name in ["../x", "a/../../x", "..", "/etc/passwd", "a\\b", "C:x", "a\0b"] {
        let error = refused(&zip(&[("ok", LINES), (name, LINES)]), &Limits::default());
        assert_eq!(error.code, Code::ArchiveLimitExceeded, "{name:?}");
        assert!(error.message.starts_with("vendor file 1, member 2:"), "{error}");
        assert!(!error.message.contains("passwd"));
    }
    assert!(unpack(&zip(&[("a..b/...c", LINES)])).is_ok());
}

#[test]
fn overlapping_and_repeated_entries_are_refused() {
    let bytes = zip(&[("1", LINES), ("2", LINES)]);
    let second = find(&bytes, CENTRAL, 1);
    let mut overlapping = bytes.clone();
    overlapping[second + 42..second + 46].copy_from_slice(&[0; 4]);
    assert_eq!(refused(&overlapping, &Limits::default()).code, Code::ArchiveLimitExceeded);
    let mut repeated = bytes;
    repeated[second + 46] = b'1';
    assert_eq!(refused(&repeated, &Limits::default()).code, Code::VendorMalformedData);
}

#[test]
fn an_archive_within_an_archive_is_refused() {
    let inner = zip(&[("1", LINES)]);
    for bytes in [zip(&[("x.json", &inner)]), zip(&[("x", &gzip(LINES))]), gzip(&inner), gzip(&gzip(LINES))] {
        assert_eq!(refused(&bytes, &Limits::default()).code, Code::ArchiveLimitExceeded);
    }
}

#[test]
fn reading_ends_when_nobody_waits() {
    let limits = Limits::default();
    let mut unpacker = Unpacker::new(&limits, &|| true);
    let outcome = unpacker.for_each_member(file(LINES), 1, &mut |place, reader| {
        reader.read_to_end(&mut Vec::new()).map(drop).map_err(|error| reading(place, error))
    });
    assert_eq!(outcome.unwrap_err().code, Code::Internal);
}

proptest! {
    #[test]
    fn a_changed_byte_never_changes_what_is_read(at in 0usize..1000, bits in 1u8..) {
        let members: [(&str, &[u8]); 3] = [("1", LINES), ("2", b"{}\n"), ("3", LINES)];
        let mut bytes = zip(&members);
        let at = at % bytes.len();
        bytes[at] ^= bits;
        // The first two bytes decide what the file is; without them it is one plain member.
        if let Ok(read) = unpack(&bytes) && at > 1 {
            prop_assert_eq!(read, members.map(|(_, bytes)| bytes.to_vec()));
        }
    }

    #[test]
    fn no_bytes_make_it_panic(kind in 0usize..3, bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let head: &[u8] = [&b"PK\x05\x06"[..], b"\x1f\x8b\x08", b""][kind];
        let _outcome = unpack(&[head, &bytes].concat());
    }
}
