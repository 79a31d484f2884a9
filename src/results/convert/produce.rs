//! The blocking side of [`convert`](super::convert()): vendor files to pieces of result files.

use std::{
    fs::File,
    io::{self, Read, Seek, Write},
};

use aws_lc_rs::digest;
use bytes::Bytes;
use flate2::{Compression as Level, write::GzEncoder};
use serde_json::Value;
use tokio::sync::mpsc;

use super::{Conversion, Footing, Heading, Piece, Received};
use crate::{
    exports::{
        records::{BadRecord, Framing, Member, Record},
        request::{Compression, Format, RecordSchema},
    },
    results::{
        Error, Meter,
        archive::{Kind, Unpacker},
        cut,
    },
};

/// Bytes handed over at once.
pub(super) const CHUNK: usize = 256 * 1024;
/// CPU bounds a conversion, and level 6 of zlib-rs costs three to four times what level 1 does. Level 2 is hardly slower
/// than 1 and the first to fit its codes to the data: made-up user records pack 4.9 to 1 at level 1, 6.7 at level 2 and
/// 7.9 at level 6.
const GZIP_LEVEL: u32 = 2;

/// Makes every result file, in order. Ends with an error soon after the receiver of `pieces` is gone.
pub(super) fn produce(
    files: Vec<Received>,
    conversion: &Conversion,
    meter: &Meter,
    pieces: &mpsc::Sender<Piece>,
) -> Result<(), Error> {
    match conversion.output.format {
        Format::Ndjson | Format::Csv | Format::Parquet => ndjson(files, conversion, meter, pieces),
        Format::Raw => raw(files, conversion, meter, pieces),
    }
}

fn ndjson(
    files: Vec<Received>,
    conversion: &Conversion,
    meter: &Meter,
    pieces: &mpsc::Sender<Piece>,
) -> Result<(), Error> {
    let dataset = conversion.dataset.as_str();
    let compression = conversion.output.compression;
    let (name, media_type) = match compression {
        Compression::None => (format!("{dataset}.ndjson"), "application/x-ndjson"),
        Compression::Gzip | Compression::Zstd => (format!("{dataset}.ndjson.gz"), "application/gzip"),
    };
    send(pieces, Piece::Begin(Heading { name, media_type, compression: compression.as_str() }))?;
    let mut out = Lines::new(Sink::new(pieces, conversion.limits.max_result_bytes), compression);
    let mut records = 0;
    let stop = || pieces.is_closed();
    let mut unpacker = Unpacker::new(&conversion.limits, &stop);
    for (index, received) in files.into_iter().enumerate() {
        let framing = conversion.records.framing(&received.tag);
        let mut heads = heads(&received, index + 1, framing, conversion, &stop)?.into_iter();
        unpacker.for_each_member(received.spooled.file, index + 1, &mut |place, bytes| {
            let mut member = conversion.records.member(&received.tag);
            let mut json = Vec::new();
            let mut each = |record: Record<'_>| {
                json.clear();
                let written = convert_record(record, &mut *member, conversion, &mut json)?;
                out.write_all(&json).map_err(writing)?;
                records += written;
                meter.count_records(written);
                if json.capacity() > cut::ROOMY {
                    json = Vec::new();
                }
                Ok(())
            };
            match framing {
                Framing::Lines => cut::lines(place, bytes, &conversion.limits, &mut each),
                Framing::Delimited(dialect) => cut::delimited(place, bytes, dialect, &conversion.limits, &mut each),
                Framing::Json { records } => {
                    let heads = heads.next().unwrap_or_default();
                    for head in &heads {
                        conversion.records.document(head);
                    }
                    cut::elements(place, bytes, records, &heads, &conversion.limits, &mut each)
                }
            }
        })?;
        meter.count_file();
    }
    out.finish(Some(records))
}

/// The heads of the documents of each member of a file, where its framing has any: read beforehand.
fn heads(
    received: &Received,
    number: usize,
    framing: Framing,
    conversion: &Conversion,
    stop: &dyn Fn() -> bool,
) -> Result<Vec<Vec<Value>>, Error> {
    let Framing::Json { records } = framing else { return Ok(Vec::new()) };
    let file = received.spooled.file.try_clone().map_err(unreadable_spool)?;
    let mut heads = Vec::new();
    Unpacker::new(&conversion.limits, stop).for_each_member(file, number, &mut |place, bytes| {
        heads.push(cut::heads(place, bytes, records, &conversion.limits)?);
        Ok(())
    })?;
    Ok(heads)
}

/// Appends what a record means to `out`, a line each, and answers how many those are.
fn convert_record(
    record: Record<'_>,
    member: &mut dyn Member,
    conversion: &Conversion,
    out: &mut Vec<u8>,
) -> Result<u64, BadRecord> {
    match conversion.output.schema {
        RecordSchema::Unified => {
            let mut rows = 0;
            member.unified(record, &mut |row| {
                row.write_json(&conversion.selection, out)
                    .map_err(|_| BadRecord("it cannot be written as JSON".into()))?;
                out.push(b'\n');
                rows += 1;
                Ok(())
            })?;
            Ok(rows)
        }
        RecordSchema::Vendor => {
            member.vendor(record, out)?;
            if out.is_empty() {
                return Ok(0);
            }
            out.push(b'\n');
            Ok(1)
        }
    }
}

fn raw(
    files: Vec<Received>,
    conversion: &Conversion,
    meter: &Meter,
    pieces: &mpsc::Sender<Piece>,
) -> Result<(), Error> {
    for (index, received) in files.into_iter().enumerate() {
        let mut file = received.spooled.file;
        let kind = Kind::sniff(&mut file).map_err(unreadable_spool)?;
        let (extension, media_type, compression) = match kind {
            Kind::Zip => ("zip", "application/zip", Compression::None),
            Kind::Gzip => ("gz", "application/gzip", Compression::Gzip),
            Kind::Empty | Kind::Plain => {
                (plain_extension(&received.extension), "application/octet-stream", Compression::None)
            }
        };
        let name = format!("{}-{:05}.{extension}", conversion.dataset.as_str(), index + 1);
        send(pieces, Piece::Begin(Heading { name, media_type, compression: compression.as_str() }))?;
        let mut sink = Sink::new(pieces, conversion.limits.max_result_bytes);
        copy(file, &mut sink)?;
        sink.finish(None)?;
        meter.count_file();
    }
    Ok(())
}

/// The vendor's extension if it is fit for a file name.
fn plain_extension(given: &str) -> &str {
    let is_fit = (1..=8).contains(&given.len()) && given.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if is_fit { given } else { "bin" }
}

fn copy(mut file: File, sink: &mut Sink<'_>) -> Result<(), Error> {
    file.rewind().map_err(unreadable_spool)?;
    let mut buffer = vec![0; CHUNK];
    loop {
        match file.read(&mut buffer).map_err(unreadable_spool)? {
            0 => return Ok(()),
            bytes => sink.write_all(&buffer[..bytes]).map_err(writing)?,
        }
    }
}

fn unreadable_spool(error: io::Error) -> Error {
    Error::storing("a vendor file could not be read from the local disk", error)
}

fn writing(error: io::Error) -> Error {
    Error::carried(error).unwrap_or_else(|error| Error::storing("the result could not be compressed", error))
}

fn send(pieces: &mpsc::Sender<Piece>, piece: Piece) -> Result<(), Error> {
    pieces.blocking_send(piece).map_err(|_| Error::stopped())
}

/// Lines on their way into a result file.
enum Lines<'a> {
    Plain(Sink<'a>),
    Gzip(Box<GzEncoder<Sink<'a>>>),
}

impl<'a> Lines<'a> {
    fn new(sink: Sink<'a>, compression: Compression) -> Self {
        match compression {
            Compression::None => Self::Plain(sink),
            // No name and no time in the header: equal records give equal files.
            Compression::Gzip | Compression::Zstd => Self::Gzip(Box::new(GzEncoder::new(sink, Level::new(GZIP_LEVEL)))),
        }
    }

    fn write_all(&mut self, line: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(sink) => sink.write_all(line),
            Self::Gzip(encoder) => encoder.write_all(line),
        }
    }

    fn finish(self, records: Option<u64>) -> Result<(), Error> {
        match self {
            Self::Plain(sink) => sink.finish(records),
            Self::Gzip(encoder) => encoder.finish().map_err(writing)?.finish(records),
        }
    }
}

/// The bytes of one result file: hashed, counted and sent in chunks.
struct Sink<'a> {
    pieces: &'a mpsc::Sender<Piece>,
    chunk: Vec<u8>,
    digest: digest::Context,
    bytes: u64,
    max_bytes: u64,
}

impl<'a> Sink<'a> {
    fn new(pieces: &'a mpsc::Sender<Piece>, max_bytes: u64) -> Self {
        let digest = digest::Context::new(&digest::SHA256);
        Self { pieces, chunk: Vec::with_capacity(CHUNK), digest, bytes: 0, max_bytes }
    }

    fn hand_over(&mut self, next: Vec<u8>) -> Result<(), Error> {
        let chunk = std::mem::replace(&mut self.chunk, next);
        if chunk.is_empty() {
            return Ok(());
        }
        self.digest.update(&chunk);
        self.bytes += chunk.len() as u64;
        if self.bytes > self.max_bytes {
            return Err(Error::limit(format!("a result file has more than {} bytes", self.max_bytes)));
        }
        send(self.pieces, Piece::Bytes(Bytes::from(chunk)))
    }

    fn finish(mut self, records: Option<u64>) -> Result<(), Error> {
        self.hand_over(Vec::new())?;
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(self.digest.finish().as_ref());
        send(self.pieces, Piece::End(Footing { bytes: self.bytes, records, sha256 }))
    }
}

impl Write for Sink<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let taken = data.len().min(CHUNK - self.chunk.len());
        self.chunk.extend_from_slice(&data[..taken]);
        if self.chunk.len() == CHUNK {
            self.hand_over(Vec::with_capacity(CHUNK)).map_err(Error::into_io)?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
