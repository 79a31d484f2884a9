//! Reading and removing result files.

use std::collections::HashSet;

use chrono::Utc;

use super::{Caller, Error, Gateway, exports, not_found};
use crate::{
    exports::{
        problem::{Code, Problem},
        record::{ExportRecord, FileRecord},
        state::State,
    },
    ids::{ExportId, FileId},
    results::storage::export_prefix,
    store,
};

/// How many results one sweep removes.
const SWEEP_BATCH: i64 = 100;

/// The manifest. Refused with `export_not_finished` until the export has succeeded, `result_expired` after its life.
pub async fn list_files(gateway: &Gateway, caller: &Caller, id: ExportId) -> Result<Vec<FileRecord>, Error> {
    let export = exports::read(gateway, caller, id).await?;
    require_available(&export)?;
    Ok(store::files::of_exports(&gateway.db, &[id]).await?)
}

/// One file, for download. Read its bytes with `gateway.storage.read(&file.object_key, range)`.
/// Refused as [`list_files`]; another export's file is not found.
pub async fn get_file(gateway: &Gateway, caller: &Caller, id: ExportId, file: FileId) -> Result<FileRecord, Error> {
    let export = exports::read(gateway, caller, id).await?;
    require_available(&export)?;
    store::files::by_id(&gateway.db, id, file).await?.ok_or_else(|| not_found("file"))
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

/// Removes every file of an export from the object store.
pub(super) async fn remove(gateway: &Gateway, id: ExportId) -> Result<(), Error> {
    gateway.storage.sweep(&export_prefix(id), &HashSet::new()).await?;
    Ok(store::files::mark_swept(&gateway.db, id).await?)
}

/// Removes the files of expired and deleted results; answers how many exports it cleaned.
pub async fn sweep_results(gateway: &Gateway) -> Result<usize, Error> {
    let due = store::files::to_sweep(&gateway.db, SWEEP_BATCH).await?;
    for id in &due {
        remove(gateway, *id).await?;
    }
    Ok(due.len())
}
