//! Reading result files.

use super::{Caller, Error, Gateway};
use crate::{
    exports::record::FileRecord,
    ids::{ExportId, FileId},
};

/// The manifest. Refused with `export_not_finished` until the export has succeeded, `result_expired` after its life.
pub async fn list_files(gateway: &Gateway, caller: &Caller, id: ExportId) -> Result<Vec<FileRecord>, Error> {
    todo!()
}

/// One file, for download. Read its bytes with `gateway.storage.read(&file.object_key, range)`.
/// Refused as [`list_files`]; another export's file is not found.
pub async fn get_file(gateway: &Gateway, caller: &Caller, id: ExportId, file: FileId) -> Result<FileRecord, Error> {
    todo!()
}
