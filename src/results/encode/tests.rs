use std::io::{Read, Write};

use super::*;
use crate::exports::{
    fields::UserColumn,
    problem::Code,
    request::CsvOptions,
    rows::{EventRow, MetricRow},
    user::UserRow,
};

pub(super) const FORMATS: [(Format, Compression); 7] = [
    (Format::Ndjson, Compression::None),
    (Format::Ndjson, Compression::Gzip),
    (Format::Ndjson, Compression::Zstd),
    (Format::Csv, Compression::None),
    (Format::Csv, Compression::Gzip),
    (Format::Csv, Compression::Zstd),
    (Format::Parquet, Compression::Zstd),
];

pub(super) fn output(format: Format, compression: Compression) -> Output {
    Output { format, compression, ..Output::default() }
}

fn users(output: Output, fields: &[&str]) -> Encoding {
    let fields: Vec<_> = fields.iter().map(ToString::to_string).collect();
    Encoding::new(Dataset::AudienceMembers, output, Selection::parse(&fields).unwrap()).unwrap()
}

fn user<'a>(values: &[(UserColumn, &'a str)]) -> Row<'a> {
    let mut user = UserRow::default();
    for (column, value) in values {
        user.set(*column, Some((*value).into()));
    }
    Row::User(user)
}

/// The file that batches of so many rows make.
pub(super) fn file(encoding: &Encoding, rows: &[Row<'_>], batch: usize) -> Vec<u8> {
    let mut buffer = encoding.buffer();
    let mut file = encoding.file(Vec::new()).unwrap();
    for rows in rows.chunks(batch) {
        for row in rows {
            buffer.push(row).unwrap();
        }
        let taken = buffer.take().unwrap();
        assert_eq!(taken.records, rows.len() as u64);
        assert!(buffer.is_empty());
        file.write(taken).unwrap();
    }
    file.finish().unwrap()
}

/// Without its compression, which must be one member or frame and nothing behind it.
pub(super) fn unpacked(bytes: &[u8], compression: Compression) -> Vec<u8> {
    let mut plain = Vec::new();
    let mut rest = bytes;
    match compression {
        Compression::None => return bytes.to_vec(),
        Compression::Gzip => {
            flate2::bufread::GzDecoder::new(&mut rest).read_to_end(&mut plain).unwrap();
        }
        Compression::Zstd => {
            let decoder = zstd::stream::read::Decoder::with_buffer(&mut rest).unwrap();
            decoder.single_frame().read_to_end(&mut plain).unwrap();
        }
    }
    assert!(rest.is_empty(), "{} bytes behind the end", rest.len());
    plain
}

fn csv(guard_formulas: bool, fields: &[&str], rows: &[Row<'_>]) -> String {
    let output = Output { csv: CsvOptions { guard_formulas }, ..output(Format::Csv, Compression::None) };
    String::from_utf8(file(&users(output, fields), rows, 3)).unwrap()
}

#[test]
fn a_file_says_what_it_is() {
    let told = FORMATS.map(|(format, compression)| {
        let encoding = users(output(format, compression), &[]);
        (encoding.extension(), encoding.media_type(), encoding.compression())
    });
    assert_eq!(
        told,
        [
            ("ndjson", "application/x-ndjson", Compression::None),
            ("ndjson.gz", "application/gzip", Compression::Gzip),
            ("ndjson.zst", "application/zstd", Compression::Zstd),
            ("csv", "text/csv; charset=utf-8", Compression::None),
            ("csv.gz", "application/gzip", Compression::Gzip),
            ("csv.zst", "application/zstd", Compression::Zstd),
            ("parquet", "application/vnd.apache.parquet", Compression::None),
        ]
    );
    let raw = output(Format::Raw, Compression::None);
    assert!(Encoding::new(Dataset::AudienceMembers, raw, Selection::everything()).is_none());
}

#[test]
fn csv_tells_null_from_an_empty_text_and_quotes_what_needs_it() {
    use UserColumn::{City, Email, FirstName};
    let rows = [
        user(&[(Email, ""), (FirstName, "a\"b")]),
        user(&[(Email, "a,b"), (FirstName, "a\nb"), (City, "a\rb")]),
        user(&[(FirstName, "#no comment"), (City, " Zürich ")]),
    ];
    let expected =
        "email,first_name,city\r\n\"\",\"a\"\"b\",\r\n\"a,b\",\"a\nb\",\"a\rb\"\r\n,\"#no comment\", Zürich \r\n";
    assert_eq!(csv(true, &["email", "first_name", "city"], &rows), expected);
}

#[test]
fn csv_of_one_column_has_no_empty_line() {
    let rows = [user(&[]), user(&[(UserColumn::Email, "a")])];
    assert_eq!(csv(true, &["email"], &rows), "email\r\n\"\"\r\na\r\n");
}

#[test]
fn a_formula_is_guarded_unless_it_is_a_number_or_nobody_wants_that() {
    for (text, guarded) in [
        ("=1+1", "'=1+1"),
        ("+49 171 1234567", "'+49 171 1234567"),
        ("+49171", "'+49171"),
        ("-1+1", "'-1+1"),
        ("-5", "-5"),
        ("-1.5e3", "-1.5e3"),
        ("-05", "'-05"),
        ("-5 ", "'-5 "),
        ("-", "'-"),
        ("@sum(a1)", "'@sum(a1)"),
        ("\t=1", "\"'\t=1\""),
        ("\r=1", "\"'\r=1\""),
        ("\n=1", "\"'\n=1\""),
        ("=a,b", "\"'=a,b\""),
        ("=\"x\"", "\"'=\"\"x\"\"\""),
        ("'=1", "''=1"),
        ("'-5", "''-5"),
        ("'tis", "'tis"),
        ("＝1", "'＝1"),
        ("a=1", "a=1"),
    ] {
        let row = [user(&[(UserColumn::Phone, text), (UserColumn::City, "x")])];
        assert_eq!(csv(true, &["phone", "city"], &row), format!("phone,city\r\n{guarded},x\r\n"), "{text}");
        let plain = csv(false, &["phone", "city"], &row);
        assert_eq!(plain.trim_matches('"').contains("''"), text.starts_with("''"), "{text}");
        assert!(!plain.contains("'=") || text.contains("'="), "{text}");
    }
}

#[test]
fn a_negative_figure_is_no_formula() {
    let encoding =
        Encoding::new(Dataset::Report, output(Format::Csv, Compression::None), Selection::everything()).unwrap();
    let value = serde_json::from_str("-12345678901234567890123.5").unwrap();
    let row = MetricRow { metric: "-x".into(), value: Some(std::borrow::Cow::Borrowed(value)), ..MetricRow::default() };
    let text = String::from_utf8(file(&encoding, &[Row::Metric(row)], 1)).unwrap();
    assert_eq!(text, "metric,time,interval,dimensions,value\r\n'-x,,,{},-12345678901234567890123.5\r\n");
}

#[test]
fn a_vendors_record_is_one_column_of_json() {
    let json = b"{\"a\":\n\"x,\\\"y\\\"\"}";
    for (format, compression) in FORMATS {
        let output = Output { schema: RecordSchema::Vendor, ..output(format, compression) };
        let encoding = users(output, &["email"]);
        let mut buffer = encoding.buffer();
        buffer.push_vendor(json).unwrap();
        assert!(buffer.push_vendor(b"\xff").is_err());
        assert!(buffer.push(&user(&[])).is_err(), "a unified row");
        let mut file = encoding.file(Vec::new()).unwrap();
        file.write(buffer.take().unwrap()).unwrap();
        let bytes = file.finish().unwrap();
        match format {
            Format::Parquet => {
                let rows = properties::parquet_rows(bytes);
                assert_eq!(rows, [[Some(r#"{"a":"x,\"y\""}"#.to_owned())]]);
            }
            Format::Csv => {
                let plain = String::from_utf8(unpacked(&bytes, compression)).unwrap();
                assert_eq!(plain, "record\r\n\"{\"\"a\"\":\"\"x,\\\"\"y\\\"\"\"\"}\"\r\n");
            }
            _ => assert_eq!(unpacked(&bytes, compression), b"{\"a\":\"x,\\\"y\\\"\"}\n"),
        }
    }
}

#[test]
fn a_row_of_another_schema_is_refused() {
    for (format, compression) in FORMATS {
        let mut buffer = users(output(format, compression), &[]).buffer();
        assert!(buffer.push(&Row::Event(EventRow::default())).is_err());
        assert!(buffer.push_vendor(b"{}").is_err());
        assert!(buffer.is_empty());
    }
}

#[test]
fn what_is_taken_back_leaves_nothing() {
    let row = |name| user(&[(UserColumn::FirstName, name), (UserColumn::CreatedAt, "soon")]);
    for (format, compression) in FORMATS {
        let encoding = users(output(format, compression), &["first_name", "created_at"]);
        let mut buffer = encoding.buffer();
        buffer.push(&row("a")).unwrap();
        let mark = buffer.mark();
        buffer.push(&row("b")).unwrap();
        buffer.push(&row("c")).unwrap();
        buffer.undo(mark).unwrap();
        buffer.undo(mark).unwrap();
        buffer.push(&row("d")).unwrap();
        let (mark, before) = (buffer.mark(), buffer.is_full());
        buffer.push(&row("e")).unwrap();
        buffer.undo(mark).unwrap();
        assert_eq!(buffer.is_full(), before);
        let batch = buffer.take().unwrap();
        assert_eq!((batch.records, batch.unreadable_times), (2, 2));
        let mut found = encoding.file(Vec::new()).unwrap();
        found.write(batch).unwrap();
        let (found, expected) = (found.finish().unwrap(), file(&encoding, &[row("a"), row("d")], 2));
        match format {
            Format::Parquet => {
                assert_eq!(properties::parquet_rows(found), properties::parquet_rows(expected));
            }
            _ => assert_eq!(unpacked(&found, compression), unpacked(&expected, compression)),
        }
    }
}

#[test]
fn everything_taken_back_is_an_empty_buffer() {
    for (format, compression) in FORMATS {
        let encoding = users(output(format, compression), &["email"]);
        let mut buffer = encoding.buffer();
        let mark = buffer.mark();
        buffer.push(&user(&[(UserColumn::Email, "a")])).unwrap();
        buffer.undo(mark).unwrap();
        assert!(buffer.is_empty());
        let mut found = encoding.file(Vec::new()).unwrap();
        found.write(buffer.take().unwrap()).unwrap();
        assert_eq!(found.finish().unwrap(), file(&encoding, &[], 1), "{format:?} {compression:?}");
    }
}

#[test]
fn equal_rows_give_equal_bytes_and_an_empty_file_is_a_file() {
    let names: Vec<_> = (0..5_000).map(|index| format!("name {}", index * 7_919 % 5_003)).collect();
    let rows: Vec<_> = names.iter().map(|name| user(&[(UserColumn::FirstName, name)])).collect();
    for (format, compression) in FORMATS {
        let encoding = users(output(format, compression), &[]);
        let same = users(output(format, compression), &[]);
        assert_eq!(file(&encoding, &rows, 700), file(&same, &rows, 700), "{format:?} {compression:?}");
        let empty = file(&encoding, &[], 1);
        match format {
            Format::Parquet => assert!(properties::parquet_rows(empty).is_empty()),
            Format::Csv => assert_eq!(unpacked(&empty, compression).split(|byte| *byte == b'\n').count(), 2),
            _ => assert!(unpacked(&empty, compression).is_empty()),
        }
    }
}

#[test]
fn a_buffer_fills_up_and_a_large_record_does_not_leave_it_large() {
    let large = "x\u{e9}\n".repeat(4 * 1024 * 1024);
    for (format, compression) in FORMATS {
        let encoding = users(output(format, compression), &["email"]);
        let mut buffer = encoding.buffer();
        let mut rows = 0;
        while !buffer.is_full() {
            buffer.push(&user(&[(UserColumn::Email, "someone@example.test")])).unwrap();
            rows += 1;
        }
        assert!((1_000..50_000).contains(&rows), "{rows}");
        buffer.take().unwrap();
        buffer.push(&user(&[(UserColumn::Email, &large)])).unwrap();
        assert!(buffer.is_full());
        let batch = buffer.take().unwrap();
        let mut file = encoding.file(Vec::new()).unwrap();
        file.write(batch).unwrap();
        let bytes = file.finish().unwrap();
        if format == Format::Parquet {
            assert_eq!(properties::parquet_rows(bytes), [[Some(large.clone())]]);
        } else {
            assert!(unpacked(&bytes, compression).len() > large.len());
        }
        buffer.push(&user(&[(UserColumn::Email, "a")])).unwrap();
        let held = buffer.rows.held();
        assert!(held < 2 * 1024 * 1024, "{format:?} {compression:?} holds {held} bytes");
        assert!(buffer.take().unwrap().bytes() < 2 * 1024 * 1024);
    }
}

#[test]
fn a_record_that_means_very_many_rows_is_refused_in_time() {
    let large = "x".repeat(8 * 1024 * 1024);
    for format in [Format::Ndjson, Format::Csv, Format::Parquet] {
        let mut buffer = users(output(format, Compression::None), &["email"]).buffer();
        let row = user(&[(UserColumn::Email, &large)]);
        let taken = (0..20).take_while(|_| buffer.push(&row).is_ok()).count();
        assert!((8..=9).contains(&taken), "{taken}");
        assert_eq!(buffer.take().unwrap().records, taken as u64);
    }
}

#[test]
fn a_gzip_file_of_many_blocks_is_one_member_for_every_reader() {
    // Noise and repetition: blocks that deflate cannot shrink, and ones that it shrinks to almost nothing.
    let mut state = 1_u64;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b' ' + u8::try_from(state >> 33 & 0x3f).unwrap())
    };
    let texts: Vec<String> = (0..40)
        .map(|index| if index % 2 == 0 { (0..20_000).map(|_| noise()).collect() } else { "a".repeat(30_000) })
        .collect();
    let rows: Vec<_> = texts.iter().map(|text| user(&[(UserColumn::Email, text)])).collect();
    let plain = file(&users(output(Format::Ndjson, Compression::None), &["email"]), &rows, 7);
    let packed = file(&users(output(Format::Ndjson, Compression::Gzip), &["email"]), &rows, 7);
    assert_eq!(unpacked(&packed, Compression::Gzip), plain);
    assert_eq!(packed[packed.len() - 4..], u32::try_from(plain.len()).unwrap().to_le_bytes());
    assert_eq!(packed[..10], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff]);
}

/// A sink that takes so many bytes, then fails as one of ours does.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0 == 0 {
            return Err(Error::limit("enough").into_io());
        }
        let taken = bytes.len().min(self.0);
        self.0 -= taken;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn the_error_that_a_sink_carries_comes_out_as_itself() {
    for (format, compression) in FORMATS {
        for room in [0, 3, 12, 40] {
            let encoding = users(output(format, compression), &[]);
            let mut buffer = encoding.buffer();
            buffer.push(&user(&[(UserColumn::Email, "someone@example.test")])).unwrap();
            let batch = buffer.take().unwrap();
            let written = encoding.file(Full(room)).and_then(|mut file| {
                file.write(batch)?;
                file.finish()
            });
            let error = written.err().expect("more bytes than there is room for");
            assert_eq!(error.code, Code::ArchiveLimitExceeded, "{format:?} {compression:?} {room}: {error:?}");
        }
    }
}

#[test]
fn the_bytes_of_a_file_are_counted() {
    let names: Vec<_> =
        (0..20_000_u64).map(|index| format!("{:x}", index.wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect();
    let rows: Vec<_> = names.iter().map(|name| user(&[(UserColumn::UserId, name)])).collect();
    for (format, compression) in FORMATS {
        let encoding = users(output(format, compression), &["user_id"]);
        let mut buffer = encoding.buffer();
        let mut file = encoding.file(Vec::new()).unwrap();
        for row in &rows {
            buffer.push(row).unwrap();
        }
        file.write(buffer.take().unwrap()).unwrap();
        let counted = file.bytes();
        let real = file.finish().unwrap().len() as u64;
        assert!(counted > real / 3 && counted < real * 3, "{format:?} {compression:?}: {counted} of {real}");
    }
}

#[test]
fn parquet_has_types_and_closes_row_groups_as_they_fill() {
    use ::parquet::file::reader::{FileReader, SerializedFileReader};
    let blob = |index: u64| -> String {
        (0..40_u64).fold(String::new(), |text, part| {
            text + &format!("{:016x}", (index * 41 + part + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
        })
    };
    let texts: Vec<_> = (0..4_000).map(|index| blob(index).repeat(10)).collect();
    let rows: Vec<_> = texts
        .iter()
        .map(|text| {
            user(&[(UserColumn::Email, text), (UserColumn::City, "Paris"), (UserColumn::BirthDate, "1989-01-10")])
        })
        .collect();
    let encoding = users(output(Format::Parquet, Compression::None), &[]);
    let mut file = encoding.file(Vec::new()).unwrap();
    let mut buffer = encoding.buffer();
    // 25 MB of text a round, 3 MB packed.
    for _ in 0..6 {
        for row in &rows {
            buffer.push(row).unwrap();
            if buffer.is_full() {
                file.write(buffer.take().unwrap()).unwrap();
            }
        }
    }
    file.write(buffer.take().unwrap()).unwrap();
    let reader = SerializedFileReader::new(bytes::Bytes::from(file.finish().unwrap())).unwrap();
    let metadata = reader.metadata();
    assert!(metadata.num_row_groups() >= 2);
    for group in metadata.row_groups() {
        assert!(group.total_byte_size() <= 128 * 1024 * 1024);
        assert!(group.compressed_size() <= 24 * 1024 * 1024);
    }
    let total: i64 = metadata.row_groups().iter().map(::parquet::file::metadata::RowGroupMetaData::num_rows).sum();
    assert_eq!(total, 6 * 4_000);
    assert_eq!(metadata.file_metadata().created_by(), Some(concat!("headgate version ", env!("CARGO_PKG_VERSION"))));
    let types: Vec<_> = metadata
        .file_metadata()
        .schema_descr()
        .columns()
        .iter()
        .map(|column| format!("{} {} {:?}", column.name(), column.physical_type(), column.logical_type_ref()))
        .collect();
    assert!(types.contains(&"birth_date INT32 Some(Date)".to_owned()), "{types:?}");
    assert!(types.contains(&"email BYTE_ARRAY Some(String)".to_owned()), "{types:?}");
    let time = types.iter().find(|column| column.starts_with("created_at INT64")).unwrap();
    assert!(time.contains("is_adjusted_to_u_t_c: true") || time.contains("is_adjusted_to_utc: true"), "{time}");
}
