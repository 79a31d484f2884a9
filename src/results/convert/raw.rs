//! The vendor's files as they are.

use std::io::{Read, Write};

use tokio::sync::mpsc::Sender;

use super::{
    Conversion, Heading, Piece, numbered_name,
    write::{CHUNK, Sink, writing},
};
use crate::{
    exports::request::Compression,
    results::{
        Error, Meter,
        archive::{Kind, Place, reading},
        receive::{Inputs, Received},
    },
};

/// Copies each file byte by byte.
pub(super) fn copy(
    inputs: &mut Inputs,
    conversion: &Conversion,
    meter: &Meter,
    pieces: &Sender<Piece>,
) -> Result<(), Error> {
    let mut number = 0;
    while let Some(Received { mut bytes, extension, .. }) = inputs.next()? {
        number += 1;
        let file = u32::try_from(number).map_err(|_| Error::limit("there are too many vendor files"))?;
        let damaged = |error| reading(Place::file(number, false), error);
        let mut chunk = Vec::with_capacity(CHUNK);
        (&mut bytes).take(CHUNK as u64).read_to_end(&mut chunk).map_err(damaged)?;
        let (extension, media_type, compression) = match Kind::of(&chunk) {
            Kind::Zip => ("zip", "application/zip", Compression::None),
            Kind::Gzip => ("gz", "application/gzip", Compression::Gzip),
            Kind::Zstd => ("zst", "application/zstd", Compression::Zstd),
            Kind::Empty | Kind::Plain => (plain(&extension), "application/octet-stream", Compression::None),
        };
        let name = numbered_name(conversion.dataset, number, extension);
        let heading = Heading { name, media_type: media_type.into(), compression: compression.as_str() };
        let mut sink = Sink::begin(file, heading, pieces, conversion.limits.max_result_bytes)?;
        while !chunk.is_empty() {
            sink.write_all(&chunk).map_err(writing)?;
            chunk.clear();
            (&mut bytes).take(CHUNK as u64).read_to_end(&mut chunk).map_err(damaged)?;
        }
        sink.finish(None)?;
        meter.count_file();
    }
    Ok(())
}

/// The vendor's extension if it is fit for a file name.
fn plain(given: &str) -> &str {
    let is_fit = (1..=8).contains(&given.len()) && given.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if is_fit { given } else { "bin" }
}
