use std::{
    collections::BTreeMap,
    io::{Cursor, Read, Write},
    path::Path,
    sync::{Condvar, Mutex},
};

use aws_lc_rs::digest;
use flate2::read::MultiGzDecoder;
use futures_util::TryStreamExt;
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use url::Url;
use zip::{ZipWriter, write::SimpleFileOptions};

use super::{
    super::receive::{Received, connect},
    *,
};
use crate::exports::{
    fields::UserColumn,
    records::{BadRecord, LineRecords},
    request::{Compression, Format, OnBadRecord, RecordSchema},
    rows::Row,
    user::UserRow,
};

/// The vendor of these tests: `{"id": …, "email": …, "attributes": {…}}`.
struct People;

#[derive(Deserialize)]
struct Person<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow, default)]
    email: Option<Cow<'a, str>>,
    #[serde(default)]
    attributes: BTreeMap<String, Box<RawValue>>,
}

fn bad(_: serde_json::Error) -> BadRecord {
    BadRecord("not a person".into())
}

impl LineRecords for People {
    fn unified<'a>(&self, record: &'a [u8]) -> Result<Row<'a>, BadRecord> {
        let person: Person<'a> = serde_json::from_slice(record).map_err(bad)?;
        let mut row = UserRow::default();
        row.set(UserColumn::UserId, Some(person.id));
        row.set(UserColumn::Email, person.email);
        row.attributes = person.attributes.into_iter().map(|(name, value)| (name.into(), Cow::Owned(value))).collect();
        Ok(Row::User(row))
    }

    fn vendor(&self, record: &[u8], out: &mut Vec<u8>) -> Result<(), BadRecord> {
        let value: Value = serde_json::from_slice(record).map_err(bad)?;
        serde_json::to_writer(out, &value).map_err(bad)
    }
}

/// Lets some records pass, then stops until told to go on.
#[derive(Default)]
struct Gate {
    /// How many records came, whether all may pass.
    state: Mutex<(usize, bool)>,
    changed: Condvar,
}

impl Gate {
    /// Enough for a part and a little more to be on its way to the store.
    const FREE: usize = 60_000;
}

impl LineRecords for Gate {
    fn unified<'a>(&self, _: &'a [u8]) -> Result<Row<'a>, BadRecord> {
        let mut state = self.state.lock().unwrap();
        state.0 += 1;
        let _open = self.changed.wait_while(state, |(came, all)| *came > Self::FREE && !*all).unwrap();
        Ok(Row::User(UserRow::default()))
    }

    fn vendor(&self, _: &[u8], _: &mut Vec<u8>) -> Result<(), BadRecord> {
        Err(BadRecord("not asked for".into()))
    }
}

fn conversion(output: Output) -> Conversion {
    Conversion {
        prefix: "exports/e/1".into(),
        dataset: Dataset::AudienceMembers,
        output,
        selection: Selection::everything(),
        records: Arc::new(People),
        limits: Limits::default(),
        spool_dir: std::env::temp_dir(),
    }
}

fn received(bytes: &[u8]) -> Received {
    Received { bytes: Box::new(Cursor::new(bytes.to_vec())), extension: "json".into(), tag: "users".into() }
}

/// Converts files that are there.
async fn convert_files(
    files: Vec<Received>,
    conversion: Conversion,
    storage: &Storage,
    meter: &Meter,
) -> Result<Vec<StoredFile>, Error> {
    let (feeder, inputs) = connect();
    let bring = async {
        for file in files {
            // Whoever stopped reading says why.
            if feeder.file(file).await.is_err() {
                break;
            }
        }
        drop(feeder);
    };
    let (converted, ()) = futures_util::future::join(convert(inputs, conversion, storage, meter), bring).await;
    converted
}

fn zip(members: &[Vec<u8>]) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (index, member) in members.iter().enumerate() {
        writer.start_file(index.to_string(), SimpleFileOptions::default()).unwrap();
        writer.write_all(member).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

fn open(folder: &Path) -> Storage {
    Storage::open(&Url::from_directory_path(folder).unwrap()).unwrap()
}

fn numbered(people: u32) -> String {
    (0..people).fold(String::new(), |text, n| text + &format!("{{\"id\":\"{n}\"}}\n"))
}

/// Converts in a fresh store, checks what the manifest says of each file against its bytes, and gives both.
async fn run(files: &[&[u8]], conversion: Conversion) -> Result<Vec<(StoredFile, Vec<u8>)>, Error> {
    let folder = tempfile::tempdir().unwrap();
    let (storage, meter) = (open(folder.path()), Meter::default());
    let files: Vec<_> = files.iter().map(|bytes| received(bytes)).collect();
    let inputs = files.len();
    let outcome = convert_files(files, conversion, &storage, &meter).await;
    let Ok(stored) = outcome else {
        assert_eq!(files_below(folder.path()), 0, "a failed conversion must leave nothing");
        return Err(outcome.unwrap_err());
    };
    let mut read = Vec::new();
    for file in stored {
        let chunks: Vec<Bytes> = storage.read(&file.object_key, None).await.unwrap().try_collect().await.unwrap();
        let bytes = chunks.concat();
        assert_eq!(file.bytes, bytes.len() as u64);
        assert_eq!(file.sha256, digest::digest(&digest::SHA256, &bytes).as_ref());
        assert!(file.object_key.starts_with("exports/e/1/"), "{}", file.object_key);
        read.push((file, bytes));
    }
    assert_eq!(meter.bytes_written(), read.iter().map(|(file, _)| file.bytes).sum::<u64>());
    let results = read.iter().filter(|(file, _)| !is_rejected(&file.name));
    assert_eq!(meter.records(), results.filter_map(|(file, _)| file.records).sum::<u64>());
    assert_eq!(meter.files_done() as usize, inputs);
    Ok(read)
}

fn files_below(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.map(|path| if path.is_dir() { files_below(&path) } else { 1 }).sum()
}

fn output(format: Format, compression: Compression, schema: RecordSchema) -> Output {
    Output { format, compression, schema, ordered: true, ..Output::default() }
}

fn gzipped() -> Output {
    output(Format::Ndjson, Compression::Gzip, RecordSchema::Unified)
}

fn vendor() -> Output {
    output(Format::Ndjson, Compression::None, RecordSchema::Vendor)
}

fn raw() -> Output {
    Output { format: Format::Raw, ..Output::default() }
}

fn gunzip(bytes: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    MultiGzDecoder::new(bytes).read_to_end(&mut text).unwrap();
    text
}

#[tokio::test]
async fn lines_of_all_members_and_files_become_one_file_in_their_order() {
    let members =
        zip(&[b"{\"id\":\"1\"}\r\n\r\n  \n{\"id\":\"2\"}".to_vec(), Vec::new(), b"{\"id\":\"3\"}\n".to_vec()]);
    let plain = b"\xef\xbb\xbf{\"id\":\"4\"}\r\n{ \"id\" : \"5\" }";
    let results = run(&[&members, b"", plain], conversion(vendor())).await.unwrap();
    let [(file, bytes)] = &results[..] else { panic!("one file") };
    let expected = "{\"id\":\"1\"}\n{\"id\":\"2\"}\n{\"id\":\"3\"}\n{\"id\":\"4\"}\n{\"id\":\"5\"}\n";
    assert_eq!(String::from_utf8_lossy(bytes), expected);
    assert_eq!(
        (file.name.as_str(), &*file.media_type, &*file.compression, file.records),
        ("audience_members.ndjson", "application/x-ndjson", "none", Some(5))
    );
}

#[tokio::test]
async fn unified_rows_have_the_selected_columns_only() {
    let selection = Selection::parse(&["attributes.plan".into(), "email".into()]).unwrap();
    let people = b"{\"id\":\"1\",\"email\":\"a@example.test\",\"attributes\":{\"plan\":1e400,\"x\":2}}";
    let results = run(&[people], Conversion { selection, ..conversion(Output::default()) }).await.unwrap();
    let expected = "{\"email\":\"a@example.test\",\"attributes\":{\"plan\":1e400}}\n";
    assert_eq!(String::from_utf8_lossy(&results[0].1), expected);
}

#[tokio::test]
async fn gzip_results_unpack_to_the_same_lines() {
    let people = numbered(20_000);
    let ordered = output(Format::Ndjson, Compression::None, RecordSchema::Unified);
    let plain = run(&[people.as_bytes()], conversion(ordered)).await.unwrap();
    let packed = run(&[people.as_bytes()], conversion(gzipped())).await.unwrap();
    let (file, bytes) = &packed[0];
    assert_eq!(
        (file.name.as_str(), &*file.media_type, &*file.compression, file.records),
        ("audience_members.ndjson.gz", "application/gzip", "gzip", Some(20_000))
    );
    assert!(gunzip(bytes) == plain[0].1);
    assert!(bytes.len() * 10 < plain[0].1.len());
}

#[tokio::test]
async fn no_records_are_one_empty_file_and_no_raw_file() {
    for files in [&[][..], &[&b""[..]], &[b"\n\r\n"], &[&zip(&[])]] {
        let results = run(files, conversion(Output::default())).await.unwrap();
        assert_eq!((results[0].0.records, results[0].0.bytes, results.len()), (Some(0), 0, 1));
        let results = run(files, conversion(gzipped())).await.unwrap();
        assert_eq!((results[0].0.records, gunzip(&results[0].1).len(), results.len()), (Some(0), 0, 1));
    }
    assert!(run(&[], conversion(raw())).await.unwrap().is_empty());
}

#[tokio::test]
async fn raw_results_keep_every_byte_and_are_named_by_what_they_are() {
    let zipped = zip(&[vec![b'x'; 700_000]]);
    let files: [&[u8]; 4] = [&zipped, b"\x1f\x8bnot really", b"a,b\r\n1,2", b""];
    let results = run(&files, conversion(raw())).await.unwrap();
    let seen: Vec<_> = results
        .iter()
        .map(|(file, _)| (file.name.as_str(), &*file.media_type, &*file.compression, file.records))
        .collect();
    assert_eq!(
        seen,
        [
            ("audience_members-00001.zip", "application/zip", "none", None),
            ("audience_members-00002.gz", "application/gzip", "gzip", None),
            ("audience_members-00003.json", "application/octet-stream", "none", None),
            ("audience_members-00004.json", "application/octet-stream", "none", None),
        ]
    );
    assert!(results.iter().zip(files).all(|((_, bytes), file)| bytes == file));
}

#[tokio::test]
async fn a_vendors_extension_cannot_change_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let file = Received { extension: "../../x".into(), ..received(b"{}") };
    let stored = convert_files(vec![file], conversion(raw()), &open(folder.path()), &Meter::default()).await.unwrap();
    assert_eq!(stored[0].name, "audience_members-00001.bin");
}

#[tokio::test]
async fn a_bad_record_fails_with_its_place_and_without_its_content() {
    let member = b"{\"id\":\"1\"}\n\n{\"id\":\"secret\n".to_vec();
    let error = run(&[b"", &zip(&[Vec::new(), member.clone()])], conversion(Output::default())).await.unwrap_err();
    assert_eq!((error.code, error.fetch_again), (Code::VendorMalformedData, false));
    assert_eq!(error.to_string(), "vendor file 2, member 2, line 3 (from byte 12): not a person");
    // Without a checksum the same record may have been cut on the way.
    let error = run(&[&member], conversion(vendor())).await.unwrap_err();
    assert_eq!((error.code, error.fetch_again), (Code::VendorMalformedData, true));
    assert_eq!(error.to_string(), "vendor file 1, line 3 (from byte 12): not a person");
}

#[tokio::test]
async fn a_record_may_be_as_long_as_the_limit_and_no_longer() {
    let record = |bytes: usize| format!("{{\"id\":\"{}\"}}", "x".repeat(bytes - 9));
    let limits = Limits { max_record_bytes: 1000, ..Limits::default() };
    for end in ["", "\n", "\r\n"] {
        let fits = record(1000) + end;
        let small = Conversion { limits: limits.clone(), ..conversion(vendor()) };
        assert!(run(&[fits.as_bytes()], small).await.is_ok(), "{end:?}");
        for long in [1001, 1002, 1003, 100_000] {
            let long = record(long) + end;
            let small = Conversion { limits: limits.clone(), ..conversion(vendor()) };
            let error = run(&[long.as_bytes()], small).await.unwrap_err();
            assert_eq!(error.code, Code::ArchiveLimitExceeded);
            assert!(error.to_string().starts_with("vendor file 1, line 1 (from byte 0):"), "{error}");
        }
    }
}

#[tokio::test]
async fn a_limit_hit_late_leaves_no_file_of_those_already_stored() {
    let limits = Limits { max_result_bytes: 1000, ..Limits::default() };
    let conversion = Conversion { limits, ..conversion(raw()) };
    let error = run(&[b"first", b"second", &[b'x'; 1001]], conversion).await.unwrap_err();
    assert_eq!(error.code, Code::ArchiveLimitExceeded);
}

#[tokio::test]
async fn a_store_that_fails_is_a_failed_delivery() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("exports"), "in the way").unwrap();
    let people = numbered(100_000);
    for people in [people.as_str(), "{\"id\":\"1\"}"] {
        let files = vec![received(people.as_bytes())];
        let outcome =
            convert_files(files, conversion(Output::default()), &open(folder.path()), &Meter::default()).await;
        let error = outcome.unwrap_err();
        assert_eq!((error.code, error.fetch_again), (Code::DeliveryFailed, true));
        assert_eq!(error.to_string(), "the result could not be stored");
    }
}

#[tokio::test]
async fn dropping_the_future_ends_the_blocking_task_and_leaves_no_object() {
    let folder = tempfile::tempdir().unwrap();
    let (storage, gate) = (open(folder.path()), Arc::new(Gate::default()));
    let people = b"{}\n".repeat(1_000_000);
    let conversion = Conversion { records: gate.clone(), ..conversion(Output::default()) };
    let files = vec![received(&people)];
    let task = tokio::spawn({
        let storage = storage.clone();
        async move { convert_files(files, conversion, &storage, &Meter::default()).await }
    });
    while gate.state.lock().unwrap().0 <= Gate::FREE || files_below(folder.path()) == 0 {
        tokio::task::yield_now().await;
    }
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    gate.state.lock().unwrap().1 = true;
    gate.changed.notify_all();
    // The blocking task holds the other reference.
    while Arc::strong_count(&gate) > 1 || files_below(folder.path()) > 0 {
        tokio::task::yield_now().await;
    }
    assert!(gate.state.lock().unwrap().0 < 1_000_000, "it must not have gone through all records");
}

#[tokio::test]
async fn files_already_stored_are_deleted_when_the_rest_is_abandoned() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open(folder.path());
    let key = "exports/e/1/x".to_owned();
    storage.writer(&key).finish().await.unwrap();
    assert_eq!(files_below(folder.path()), 1);
    drop(Delivery { storage: &storage, prefix: String::new(), keys: vec![key], stored: Vec::new() });
    while files_below(folder.path()) > 0 {
        tokio::task::yield_now().await;
    }
}

fn lines(bytes: &[u8]) -> Vec<&str> {
    let mut lines: Vec<_> = std::str::from_utf8(bytes).unwrap().lines().collect();
    lines.sort_unstable();
    lines
}

#[tokio::test]
async fn records_in_any_order_are_the_same_records() {
    let members: Vec<_> = (0..20).map(|n| numbered(1 + n * 700).into_bytes()).collect();
    let zipped = zip(&members);
    let any_order = run(&[&zipped], conversion(Output { ordered: false, ..vendor() })).await.unwrap();
    let ordered = run(&[&zipped], conversion(vendor())).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&ordered[0].1), String::from_utf8_lossy(&members.concat()));
    assert_eq!(lines(&any_order[0].1), lines(&ordered[0].1));
}

#[tokio::test]
async fn a_large_result_is_several_files_unless_one_is_asked_for() {
    let people = numbered(100_000);
    let limits = Limits { result_file_bytes: 300_000, ..Limits::default() };
    for format in [Format::Ndjson, Format::Csv] {
        let small = Conversion {
            limits: limits.clone(),
            ..conversion(output(format, Compression::None, RecordSchema::Vendor))
        };
        let results = run(&[people.as_bytes()], small).await.unwrap();
        assert!(results.len() > 2, "{}", results.len());
        let names: Vec<_> = results.iter().map(|(file, _)| file.name.clone()).collect();
        assert_eq!(names[..2], [1, 2].map(|n| format!("audience_members-0000{n}.{}", format.as_str())));
        let headers = if format == Format::Csv { results.len() } else { 0 };
        let all: Vec<_> = results.iter().flat_map(|(_, bytes)| lines(bytes)).collect();
        assert_eq!(all.len(), 100_000 + headers);
        assert_eq!(results.iter().filter_map(|(file, _)| file.records).sum::<u64>(), 100_000);

        let one = Output { single_file: true, ..output(format, Compression::None, RecordSchema::Vendor) };
        let results =
            run(&[people.as_bytes()], Conversion { limits: limits.clone(), ..conversion(one) }).await.unwrap();
        assert_eq!((results.len(), results[0].0.name.as_str()), (1, &*format!("audience_members.{}", format.as_str())));
    }
}

#[tokio::test]
async fn bad_records_are_left_out_when_asked_for_and_listed_without_their_content() {
    let members = zip(&[b"{\"id\":\"1\"}\nsecret\n{\"id\":\"2\"}\n{\"secret".to_vec(), b"no\n".to_vec()]);
    let skip = Output { on_bad_record: OnBadRecord::Skip, ..vendor() };
    let results = run(&[b"{\"id\":\"0\"}", &members], conversion(skip)).await.unwrap();
    let [(file, bytes), (rejected, list)] = &results[..] else { panic!("two files: {}", results.len()) };
    assert_eq!((file.name.as_str(), file.records), ("audience_members.ndjson", Some(3)));
    assert_eq!(lines(bytes), ["{\"id\":\"0\"}", "{\"id\":\"1\"}", "{\"id\":\"2\"}"]);
    assert_eq!((rejected.name.as_str(), rejected.records), (REJECTED, Some(3)));
    let listed: Vec<Value> = lines(list).into_iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let place = |member: u64, line: u64, offset: u64| json!({"file": 2, "member": member, "line": line, "offset": offset, "reason": "not a person"});
    assert_eq!(listed, [place(1, 2, 11), place(1, 4, 29), place(2, 1, 0)]);
}

#[tokio::test]
async fn a_single_thread_that_fails_ends_all_others() {
    let members: Vec<_> =
        (0..200).map(|n| if n == 3 { b"bad\n".to_vec() } else { numbered(2000).into_bytes() }).collect();
    for ordered in [false, true] {
        let output = Output { ordered, ..vendor() };
        let error = run(&[&zip(&members)], conversion(output)).await.unwrap_err();
        assert_eq!(error.to_string(), "vendor file 1, member 4, line 1 (from byte 0): not a person");
    }
}

fn people() -> impl Strategy<Value = Vec<Value>> {
    let text = "[a-zA-Z0-9äß中\"\\\\/ \u{1}\u{7f}\u{2028}]{0,12}";
    let attribute = prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::from),
        text.prop_map(Value::from),
        proptest::collection::vec(any::<bool>(), 0..3).prop_map(Value::from),
    ];
    let attributes = proptest::collection::btree_map("[a-z]{1,8}", attribute, 0..4);
    let person = (text, proptest::option::of(text), attributes)
        .prop_map(|(id, email, attributes)| json!({"id": id, "email": email, "attributes": attributes}));
    proptest::collection::vec(person, 0..40)
}

/// What `user.v1` says of a person of these tests, told without the code under test.
fn expected(person: &Value) -> Value {
    json!({
        "user_id": person["id"], "vendor_user_id": null, "identities": {}, "email": person["email"], "phone": null,
        "first_name": null, "last_name": null, "gender": null, "birth_date": null, "country": null, "city": null,
        "language": null, "time_zone": null, "created_at": null, "attributes": person["attributes"], "activity": {}
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn every_record_comes_out_once_in_order_and_as_computed_by_hand(
        people in people(),
        crlf in any::<bool>(),
        blank in any::<bool>(),
        cut in 1usize..20,
        is_zipped in any::<bool>(),
        compression in prop_oneof![Just(Compression::None), Just(Compression::Gzip)],
        schema in prop_oneof![Just(RecordSchema::Unified), Just(RecordSchema::Vendor)],
    ) {
        let end = format!("{}\n{}", if crlf { "\r" } else { "" }, if blank { " \n" } else { "" });
        let members: Vec<Vec<u8>> = people
            .chunks(cut)
            .map(|people| people.iter().map(Value::to_string).collect::<Vec<_>>().join(&end).into_bytes())
            .collect();
        let files = if is_zipped { vec![zip(&members)] } else { members };
        let files: Vec<&[u8]> = files.iter().map(Vec::as_slice).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let output = output(Format::Ndjson, compression, schema);
        let results = runtime.block_on(run(&files, conversion(output))).unwrap();
        let text = if compression == Compression::Gzip { gunzip(&results[0].1) } else { results[0].1.clone() };
        let lines: Vec<Value> = text
            .split_inclusive(|byte| *byte == b'\n')
            .map(|line| serde_json::from_slice(line.strip_suffix(b"\n").unwrap()).unwrap())
            .collect();
        let wanted: Vec<Value> = match schema {
            RecordSchema::Unified => people.iter().map(expected).collect(),
            RecordSchema::Vendor => people,
        };
        let wanted_count = wanted.len() as u64;
        prop_assert_eq!(lines, wanted);
        prop_assert_eq!(results[0].0.records, Some(wanted_count));
    }
}
