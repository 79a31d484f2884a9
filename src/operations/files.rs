//! Reading and removing result files.

use std::ops::Range;

use chrono::Utc;

use super::{Caller, Error, Gateway, exports, not_found};
use crate::{
    exports::{
        problem::{Code, Problem},
        record::{ExportRecord, FileRecord},
        request::{Dataset, Format},
        state::State,
    },
    ids::{ExportId, FileId},
    results::{
        convert::is_rejected,
        joined::{self, Segment},
        storage::Chunks,
    },
    store,
};

pub use crate::results::joined::{Packing, Piece};

/// How many results one sweep removes.
const SWEEP_BATCH: i64 = 100;

/// The manifest. Refused with `export_not_finished` until the export has succeeded, `result_expired` after its life.
pub async fn list_files(gateway: &Gateway, caller: &Caller, id: ExportId) -> Result<Vec<FileRecord>, Error> {
    let export = exports::read(gateway, caller, id).await?;
    require_available(&export)?;
    Ok(store::files::of_exports(&gateway.db, &[id]).await?)
}

/// One file, for download. Read its bytes with `gateway.storage.read_exact`.
/// Refused as [`list_files`]; another export's file is not found.
pub async fn get_file(gateway: &Gateway, caller: &Caller, id: ExportId, file: FileId) -> Result<FileRecord, Error> {
    let export = exports::read(gateway, caller, id).await?;
    require_available(&export)?;
    store::files::by_id(&gateway.db, id, file).await?.ok_or_else(|| not_found("file"))
}

/// A result that can be given as one stream.
#[derive(Debug)]
pub struct Data {
    pub dataset: Dataset,
    pub format: Format,
    /// In order. One, unless the format can be joined.
    pub files: Vec<FileRecord>,
}

/// The files that hold an export's data. Refused as [`list_files`], and with `multiple_files` when they cannot be
/// joined.
pub async fn get_data(gateway: &Gateway, caller: &Caller, id: ExportId) -> Result<Data, Error> {
    let export = exports::read(gateway, caller, id).await?;
    require_available(&export)?;
    let mut files = store::files::of_exports(&gateway.db, &[id]).await?;
    // Lists of records that were left out are in the manifest and no part of the data.
    files.retain(|file| !is_rejected(&file.name));
    let format = export.output.format;
    match (format, files.len()) {
        (Format::Ndjson | Format::Csv, _) | (_, 1) => Ok(Data { dataset: export.dataset, format, files }),
        (_, 0) => Err(not_found("file: the vendor gave none")),
        (_, count) => {
            let detail = format!("the result has {count} {} files, which cannot be joined", format.as_str());
            Err(Problem::new(Code::MultipleFiles, detail).into())
        }
    }
}

/// The plain files as parts of one text.
pub async fn segments(gateway: &Gateway, pieces: &[Piece], has_header: bool) -> Result<Vec<Segment>, Error> {
    Ok(joined::segments(&gateway.storage, pieces, has_header).await?)
}

/// The bytes of `range` of the joined text. What cannot be read at all fails here, the rest through the stream.
pub async fn read_segments(gateway: &Gateway, segments: Vec<Segment>, range: &Range<u64>) -> Result<Chunks, Error> {
    Ok(joined::begun(joined::read(gateway.storage.clone(), joined::cut(segments, range))).await?)
}

/// The files' text, unpacked, joined and packed again. Fails as [`read_segments`].
pub async fn read_repacked(
    gateway: &Gateway,
    pieces: Vec<Piece>,
    has_header: bool,
    packing: Option<Packing>,
) -> Result<Chunks, Error> {
    let text = joined::read_unpacked(gateway.storage.clone(), pieces, has_header);
    let text = joined::begun(text).await?;
    Ok(match packing {
        Some(packing) => joined::pack(text, packing),
        None => text,
    })
}

fn require_available(export: &ExportRecord) -> Result<(), Error> {
    match export.state {
        State::Succeeded => {}
        State::Failed | State::Cancelled => {
            return Err(Problem::new(
                Code::NotFound,
                format!("the export has {} and has no files", export.state.as_str()),
            )
            .into());
        }
        State::Queued | State::Running | State::Cancelling => {
            let detail = format!("the export is {}", export.state.as_str());
            return Err(Problem::new(Code::ExportNotFinished, detail).with_retry_after_secs(2).into());
        }
    }
    if export.result_deleted_at.is_some() {
        return Err(Problem::new(Code::ResultExpired, "the result was deleted").into());
    }
    if export.result_expires_at.is_some_and(|expires_at| expires_at <= Utc::now()) {
        return Err(Problem::new(Code::ResultExpired, "the result's life is over; submit the export again").into());
    }
    Ok(())
}

/// Gives up an export's files, and removes from the object store those that no other export has.
pub(super) async fn remove(gateway: &Gateway, id: ExportId) -> Result<(), Error> {
    let folders = store::files::folders_of(&gateway.db, id).await?;
    store::files::mark_swept(&gateway.db, id).await?;
    for folder in folders {
        sweep_folder(gateway, &folder).await?;
    }
    Ok(())
}

/// Gives up the files of expired and deleted results, and removes all that nobody has any more; answers how many exports
/// it cleaned.
pub async fn sweep_results(gateway: &Gateway) -> Result<usize, Error> {
    let due = store::files::to_sweep(&gateway.db, SWEEP_BATCH).await?;
    for id in &due {
        store::files::mark_swept(&gateway.db, *id).await?;
    }
    for folder in store::files::folders_to_sweep(&gateway.db, SWEEP_BATCH).await? {
        sweep_folder(gateway, &folder).await?;
    }
    Ok(due.len())
}

/// Removes what no manifest names from the folder of a run that has ended. An object is forgotten only after it is gone,
/// so whoever dies in between leaves it to the next sweep.
async fn sweep_folder(gateway: &Gateway, folder: &str) -> Result<(), Error> {
    let objects = store::files::objects_below(&gateway.db, folder).await?;
    if objects.unreferenced.is_empty() {
        return Ok(());
    }
    gateway.storage.sweep(folder, &objects.referenced.into_iter().collect()).await?;
    Ok(store::files::forget_objects(&gateway.db, &objects.unreferenced).await?)
}
