//! Keeping bytes in a temporary file without a name, so that nothing is left when the process dies: for the few formats
//! that cannot be read in one pass.

use std::{
    fs::File,
    io::{self, Read, Seek},
    path::Path,
};

use super::Error;

/// Copies everything that comes to an unnamed file in `folder`, which must exist; rewinds it.
///
/// # Errors
/// An error of this room that the reader carried; else `delivery_failed` when the disk fails.
pub fn spool(bytes: &mut dyn Read, folder: &Path) -> Result<File, Error> {
    let mut file =
        tempfile::tempfile_in(folder).map_err(|error| Error::storing("a temporary file could not be made", error))?;
    io::copy(bytes, &mut file).and_then(|_| file.rewind()).map_err(failed)?;
    Ok(file)
}

fn failed(error: io::Error) -> Error {
    Error::carried(error)
        .unwrap_or_else(|error| Error::storing("a vendor file could not be kept on the local disk", error))
}
