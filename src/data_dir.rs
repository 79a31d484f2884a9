//! The data directory: made with the right modes, and files in it that are written once and read ever after.

use std::{
    fs::{self, DirBuilder},
    io::{self, Write as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

/// Makes `path` and the folders above it where they are missing, and gives its real path, without symlinks.
///
/// A folder made here is ours alone, except that root's may be passed through by others: root's Postgres runs as
/// another user. Folders that exist keep their mode.
pub fn create(path: &Path) -> io::Result<PathBuf> {
    if !path.is_dir() {
        if let Some(above) = path.parent() {
            fs::create_dir_all(above)?;
        }
        let mode = if rustix::process::geteuid().is_root() { 0o711 } else { 0o700 };
        match DirBuilder::new().mode(mode).create(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            outcome => outcome?,
        }
    }
    fs::canonicalize(path)
}

/// The text of `dir/name`, made by `make` the first time.
///
/// The file has mode 0600, appears whole or not at all, and never replaces one that is there: of two processes that
/// start together, both read what the first wrote.
pub fn keep(dir: &Path, name: &str, make: impl FnOnce() -> io::Result<String>) -> io::Result<String> {
    let path = dir.join(name);
    match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        read => return read.map(|text| trimmed(&text).to_owned()),
    }
    let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(dir)?; // mode 0600
    writeln!(file, "{}", make()?)?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(&path) {
        Ok(_) => fs::File::open(dir)?.sync_all()?,
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error.error),
    }
    fs::read_to_string(&path).map(|text| trimmed(&text).to_owned())
}

/// Without the line ends that editors and `echo` leave behind.
pub fn trimmed(text: &str) -> &str {
    text.trim_end_matches(['\r', '\n'])
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_kept_file_is_private_and_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let first = keep(dir.path(), "key", || Ok("one".into())).unwrap();
        let second = keep(dir.path(), "key", || Ok("two".into())).unwrap();
        assert_eq!((first.as_str(), second.as_str()), ("one", "one"));
        let mode = fs::metadata(dir.path().join("key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing half-made stays");
    }
}
