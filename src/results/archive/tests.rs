use std::io::{Cursor, Write};

use flate2::{Compression, write::GzEncoder};
use proptest::prelude::*;
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

use super::*;
use crate::exports::problem::Code;

const LINES: &[u8] = b"{\"a\":1}\n{\"a\":2}\n";

/// Collects the text of every member; small ones come packed.
struct Collect<'a> {
    unpacker: Unpacker<'a>,
    members: Vec<Vec<u8>>,
    came_packed: usize,
}

impl Visitor for Collect<'_> {
    fn packed(&mut self, member: PackedMember) -> Result<(), Error> {
        self.came_packed += 1;
        let unpacker = self.unpacker;
        self.unpacked(member.place, &mut member.open(&unpacker)?)
    }

    fn unpacked(&mut self, place: Place, bytes: &mut dyn Read) -> Result<(), Error> {
        let mut text = Vec::new();
        bytes.read_to_end(&mut text).map_err(|error| reading(place, error))?;
        self.members.push(text);
        Ok(())
    }
}

/// Hands over one byte at a time, so that every boundary is met.
struct Drops<R>(R);

impl<R: Read> Read for Drops<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let first = buffer.len().min(1);
        self.0.read(&mut buffer[..first])
    }
}

/// The members of all files, and how many of them came packed.
fn collect(
    files: Vec<Box<dyn Read + Send>>,
    limits: &Limits,
    small_member_bytes: u64,
) -> Result<(Vec<Vec<u8>>, usize), Error> {
    let totals = Totals::default();
    let unpacker = Unpacker { limits, totals: &totals, small_member_bytes, spool_dir: &std::env::temp_dir() };
    let mut collect = Collect { unpacker, members: Vec::new(), came_packed: 0 };
    for (index, file) in files.into_iter().enumerate() {
        unpacker.for_each_member(file, index + 1, &mut collect)?;
    }
    Ok((collect.members, collect.came_packed))
}

fn owned(files: &[&[u8]]) -> Vec<Box<dyn Read + Send>> {
    files.iter().map(|bytes| Box::new(Cursor::new(bytes.to_vec())) as Box<dyn Read + Send>).collect()
}

/// Unpacks files that come whole, with small members packed, and again byte by byte, with none packed: the same must
/// come of it.
fn unpack_all(files: &[&[u8]], limits: &Limits) -> Result<Vec<Vec<u8>>, Error> {
    let whole = collect(owned(files), limits, 1 << 20);
    let drops = owned(files).into_iter().map(|file| Box::new(Drops(file)) as Box<dyn Read + Send>).collect();
    let dripping = collect(drops, limits, 0);
    match (whole, dripping) {
        (Ok((members, _)), Ok((again, _))) => {
            assert_eq!(members, again);
            Ok(members)
        }
        (Err(error), Err(again)) => {
            assert_eq!(error.code, again.code, "{error}; {again}");
            Err(error)
        }
        (whole, dripping) => panic!("whole: {:?}, dripping: {:?}", whole.map(|_| ()), dripping.map(|_| ())),
    }
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
        ("data before a zip", [b"PK\x03", &deflated[..]].concat()),
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
    let bomb = zip(&[("1", &vec![0; 16 << 20])]);
    let (limits, totals) = (Limits::default(), Totals::default());
    let unpacker =
        Unpacker { limits: &limits, totals: &totals, small_member_bytes: 1 << 20, spool_dir: &std::env::temp_dir() };
    let mut collect = Collect { unpacker, members: Vec::new(), came_packed: 0 };
    let outcome = unpacker.for_each_member(Box::new(Cursor::new(bomb)), 1, &mut collect);
    assert_eq!((outcome.unwrap_err().code, collect.came_packed), (Code::ArchiveLimitExceeded, 0));
}

#[test]
fn members_that_only_together_are_a_bomb_are_refused() {
    let limits = Limits { ratio_floor_bytes: 1 << 20, max_ratio: 100, ..Limits::default() };
    let zeros = vec![0; 1 << 20];
    let names: Vec<_> = (0..4).map(|n| n.to_string()).collect();
    let members: Vec<_> = names.iter().map(|name| (name.as_str(), zeros.as_slice())).collect();
    assert!(unpack_all(&[&zip(&members[..1])], &limits).is_ok());
    assert_eq!(refused(&zip(&members), &limits).code, Code::ArchiveLimitExceeded);
}

#[test]
fn a_bomb_that_lies_about_its_size_ends_at_the_size_it_claims() {
    let mut bomb = zip(&[("1", &vec![0; 4 << 20])]);
    let central = find(&bomb, CENTRAL, 0);
    bomb[central + 24..central + 28].copy_from_slice(&100u32.to_le_bytes());
    assert_eq!(refused(&bomb, &Limits::default()).code, Code::VendorMalformedData);
}

/// Counts what comes out.
struct Count(u64);
impl Visitor for Count {
    fn packed(&mut self, _: PackedMember) -> Result<(), Error> {
        unreachable!("gzip has no members of that kind")
    }

    fn unpacked(&mut self, place: Place, bytes: &mut dyn Read) -> Result<(), Error> {
        let mut buffer = [0; 4096];
        loop {
            match bytes.read(&mut buffer).map_err(|error| reading(place, error))? {
                0 => return Ok(()),
                read => self.0 += read as u64,
            }
        }
    }
}

#[test]
fn a_gzip_bomb_ends_soon_after_the_ratio_is_judged() {
    let bomb = gzip(&vec![0; 16 << 20]);
    let (limits, totals) =
        (Limits { ratio_floor_bytes: 1 << 20, max_ratio: 10, ..Limits::default() }, Totals::default());
    let unpacker =
        Unpacker { limits: &limits, totals: &totals, small_member_bytes: 0, spool_dir: &std::env::temp_dir() };
    let mut count = Count(0);
    let outcome = unpacker.for_each_member(Box::new(Cursor::new(bomb)), 1, &mut count);
    assert_eq!(outcome.unwrap_err().code, Code::ArchiveLimitExceeded);
    assert!(count.0 <= 1_153_433, "{} is more than a tenth over the floor", count.0);
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

/// A ZIP file whose member is stored, with its sizes behind it.
fn stored_with_descriptor(members: &[(&str, &[u8])]) -> Vec<u8> {
    let plain = zip_with(CompressionMethod::Stored, members);
    let mut bytes = Vec::new();
    let (mut offsets, mut rest) = (Vec::new(), &plain[..]);
    for (name, text) in members {
        offsets.push(u32::try_from(bytes.len()).unwrap());
        let header = 30 + name.len();
        let mut local = rest[..header].to_vec();
        local[6] |= 8;
        let sums = local[14..26].to_vec();
        local[14..26].fill(0);
        bytes.extend([&local[..], text, b"PK\x07\x08", &sums].concat());
        rest = &rest[header + text.len()..];
    }
    let directory = u32::try_from(bytes.len()).unwrap();
    let mut rest = rest.to_vec();
    for (n, offset) in offsets.into_iter().enumerate() {
        let central = find(&rest, CENTRAL, n);
        rest[central + 8] |= 8;
        rest[central + 42..central + 46].copy_from_slice(&offset.to_le_bytes());
    }
    let end = find(&rest, END, 0);
    rest[end + 16..end + 20].copy_from_slice(&directory.to_le_bytes());
    bytes.extend(rest);
    bytes
}

#[test]
fn stored_members_with_data_descriptors_are_read_with_the_help_of_the_directory() {
    // The text looks like what would follow it.
    let tricky = b"{}\nPK\x07\x08\0\0\0\0\0\0\0\0\0\0\0\0PK\x01\x02\n".as_slice();
    let bytes = stored_with_descriptor(&[("1", tricky), ("2", LINES), ("3", b"")]);
    assert_eq!(unpack(&bytes).unwrap(), [tricky, LINES, b""]);
    for cut in 1..bytes.len() {
        assert!(cut < 3 || unpack(&bytes[..cut]).is_err(), "{cut}");
    }
}

#[test]
fn zstd_is_read_and_its_frames_are_joined() {
    let two =
        [zstd::encode_all(&b"{\"a\":1}\n{\"a\""[..], 3).unwrap(), zstd::encode_all(&b":2}\n"[..], 3).unwrap()].concat();
    assert_eq!(unpack(&two).unwrap(), [LINES]);
    let cut = refused(&two[..two.len() - 3], &Limits::default());
    assert_eq!((cut.code, cut.fetch_again), (Code::VendorMalformedData, true));
}

#[test]
fn a_plain_file_may_begin_with_the_letters_of_a_zip() {
    assert_eq!(unpack(b"PK_ID,name\n1,x\n").unwrap(), [b"PK_ID,name\n1,x\n"]);
}

#[test]
fn large_members_are_unpacked_by_the_reader_and_small_ones_by_others() {
    let bytes = zip(&[("1", LINES), ("2", LINES)]);
    assert_eq!(collect(owned(&[&bytes]), &Limits::default(), 1000).unwrap().1, 2);
    assert_eq!(collect(owned(&[&bytes]), &Limits::default(), 3).unwrap().1, 0);
}

proptest! {
    #[test]
    fn a_changed_byte_never_changes_what_is_read(at in 0usize..1000, bits in 1u8..) {
        let members: [(&str, &[u8]); 3] = [("1", LINES), ("2", b"{}\n"), ("3", LINES)];
        let mut bytes = zip(&members);
        let at = at % bytes.len();
        bytes[at] ^= bits;
        // The first four bytes decide what the file is; without them it is one plain member.
        if let Ok(read) = unpack(&bytes) && at > 3 {
            prop_assert_eq!(read, members.map(|(_, bytes)| bytes.to_vec()));
        }
    }

    #[test]
    fn no_bytes_make_it_panic(kind in 0usize..5, bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let head: &[u8] = [&b"PK\x05\x06"[..], b"\x1f\x8b\x08", b"", b"PK\x03\x04", b"PK\x01\x02"][kind];
        let _outcome = unpack(&[head, &bytes].concat());
    }
}
