//! From the kept files of an export's parts to its result: one file, joined byte by byte. Lines follow lines, and gzip
//! streams follow gzip streams (RFC 1952, 2.2), so nothing is unpacked or read again.

use aws_lc_rs::digest;
use futures_util::TryStreamExt;

use super::{
    Error, Meter,
    convert::{self, Conversion, StoredFile},
    storage::Storage,
};
use crate::{exports::problem::Code, ids::FileId};

/// One file of all `pieces`, in their order. Pieces without records are left out; a single one is the result as it is.
///
/// # Errors
/// `delivery_failed` when the store fails, `archive_limit_exceeded` when the result is larger than allowed.
pub async fn one(pieces: Vec<StoredFile>, conversion: Conversion, storage: &Storage) -> Result<Vec<StoredFile>, Error> {
    let max_bytes = conversion.limits.max_result_bytes;
    let mut full: Vec<_> = pieces.into_iter().filter(|piece| piece.records != Some(0)).collect();
    if full.len() == 1 {
        return Ok(full);
    }
    let prefix = conversion.prefix.clone();
    // Also what a result without records looks like.
    let mut result = convert::convert(Vec::new(), conversion, storage, &Meter::default()).await?;
    let Some(file) = result.first_mut().filter(|_| !full.is_empty()) else { return Ok(result) };

    let mut writer = storage.writer(&format!("{prefix}/joined-{}", file.name));
    let mut digest = digest::Context::new(&digest::SHA256);
    let mut bytes = 0;
    for piece in &full {
        let mut chunks = storage.read(&piece.object_key, None).await.map_err(not_joined)?;
        while let Some(chunk) = chunks.try_next().await.map_err(not_joined)? {
            bytes += chunk.len() as u64;
            if bytes > max_bytes {
                return Err(Error::new(
                    Code::ArchiveLimitExceeded,
                    false,
                    format!("a result file has more than {max_bytes} bytes"),
                ));
            }
            digest.update(&chunk);
            writer.put(chunk).await.map_err(not_joined)?;
        }
    }
    writer.finish().await.map_err(not_joined)?;
    let mut sha256 = [0; 32];
    sha256.copy_from_slice(digest.finish().as_ref());
    let records = full.iter().map(|piece| piece.records.unwrap_or_default()).sum();
    full.clear();
    Ok(vec![StoredFile {
        file_id: FileId::new(),
        object_key: format!("{prefix}/joined-{}", file.name),
        name: std::mem::take(&mut file.name),
        bytes,
        records: Some(records),
        sha256,
        ..file.clone()
    }])
}

/// The pieces as they are, with names that number them all.
pub fn numbered(dataset: &str, pieces: Vec<StoredFile>) -> Vec<StoredFile> {
    let name = |index: usize, piece: &StoredFile| {
        let extension = piece.name.rsplit_once('.').map_or("bin", |(_, extension)| extension);
        format!("{dataset}-{:05}.{extension}", index + 1)
    };
    let renamed = |(index, piece): (usize, StoredFile)| StoredFile { name: name(index, &piece), ..piece };
    pieces.into_iter().enumerate().map(renamed).collect()
}

fn not_joined(error: object_store::Error) -> Error {
    Error::storing("the files of the parts could not be joined", error)
}
