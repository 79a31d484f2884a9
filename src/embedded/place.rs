//! Where the private Postgres lives and as whom it runs.
//!
//! Postgres refuses to run as root, so root's runs as `postgres` or `nobody`, who must be able to reach its files.
//! That needs a way through the data directory (never into the keys in it, whose mode is 0600), and where a folder
//! above bars the way, the database lies under `/var/lib/headgate/clusters` instead.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, chown},
        net::UnixStream,
    },
    path::{Path, PathBuf},
};

use aws_lc_rs::{digest, rand};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tracing::info;

use super::{Error, cluster::Cluster};
use crate::data_dir;

/// The folder of the cluster.
pub const CLUSTER: &str = "postgres";
/// Also the name of the socket: `.s.PGSQL.<port>`.
pub const PORT: u16 = 5432;
/// A socket's path has at most 107 bytes on Linux and 103 on macOS.
const MAX_SOCKET_PATH: usize = 103;
/// Where root's databases lie whose data directory the server's user cannot reach.
const SHARED_BASE: &str = "/var/lib/headgate/clusters";
/// In the data directory; says where below [`SHARED_BASE`] its database is.
const ELSEWHERE_FILE: &str = "postgres.elsewhere";

/// A user that root's Postgres runs as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    pub uid: u32,
    pub gid: u32,
}

/// The folders of one private Postgres.
#[derive(Debug)]
pub struct Place {
    data_dir: PathBuf,
    /// Holds the cluster and fetched binaries; reachable for the server's user.
    pub base: PathBuf,
    /// Holds the socket; closed to everyone but the server's user and root.
    pub run: PathBuf,
    /// `None`: the server runs as we do.
    pub account: Option<Account>,
}

impl Place {
    /// Makes the folders that are missing and opens the way to them.
    pub fn prepare(data_dir: &Path) -> Result<Self, Error> {
        let data_dir = data_dir::create(data_dir).map_err(Error::file(data_dir))?;
        let account = if rustix::process::geteuid().is_root() { Some(account_for(&data_dir)?) } else { None };
        let base = match account {
            Some(account) => base_for(account, &data_dir)?,
            None => data_dir.clone(),
        };
        let run = run_dir(&base, account)?;
        Ok(Self { data_dir, base, run, account })
    }

    pub fn lock_path(&self) -> PathBuf {
        self.data_dir.join("postgres.lock")
    }

    pub fn log_path(&self) -> PathBuf {
        self.data_dir.join("postgres.log")
    }

    pub fn socket_path(&self) -> PathBuf {
        socket_in(&self.run)
    }

    /// Everything is spelled out, so that `PGPORT`, `PGHOST` or `PGSSLMODE` in our environment change nothing.
    pub fn url(&self) -> String {
        let host = utf8_percent_encode(&self.run.to_string_lossy(), NON_ALPHANUMERIC).to_string();
        format!("postgres://headgate@localhost:{PORT}/headgate?host={host}&sslmode=disable")
    }

    /// Whether the server is past its recovery and its socket answers; `pid` narrows it to that server.
    pub fn accepts_connections(&self, pid: Option<u32>) -> bool {
        Cluster::of(self).says_ready(pid) && UnixStream::connect(self.socket_path()).is_ok()
    }
}

fn socket_in(run: &Path) -> PathBuf {
    run.join(format!(".s.PGSQL.{PORT}"))
}

/// Gives `path` to the server's user, if that is not us.
pub fn hand_over(path: &Path, account: Option<Account>) -> Result<(), Error> {
    match account {
        Some(Account { uid, gid }) => chown(path, Some(uid), Some(gid)).map_err(Error::file(path)),
        None => Ok(()),
    }
}

/// Whom root's Postgres runs as. A cluster that an ordinary user made stays theirs: nobody else could read it, and
/// given to another they could not go on with it.
fn account_for(data_dir: &Path) -> Result<Account, Error> {
    let owner = fs::metadata(data_dir.join(CLUSTER)).ok().map(|meta| Account { uid: meta.uid(), gid: meta.gid() });
    owner.filter(|owner| owner.uid != 0).map_or_else(server_account, Ok)
}

fn server_account() -> Result<Account, Error> {
    let passwd = Path::new("/etc/passwd");
    account_in(&fs::read_to_string(passwd).map_err(Error::file(passwd))?).ok_or(Error::NoAccount)
}

/// `postgres`, else `nobody`, in the text of a passwd file.
fn account_in(passwd: &str) -> Option<Account> {
    let find = |wanted| {
        passwd.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
            (name == wanted && uid != 0).then_some(Account { uid, gid })
        })
    };
    find("postgres").or_else(|| find("nobody"))
}

/// Whether `account` may pass through every folder down to `path`, which is real, without symlinks.
pub fn reaches(account: Account, path: &Path) -> bool {
    path.ancestors().all(|folder| {
        fs::metadata(folder).is_ok_and(|meta| {
            let shift = if meta.uid() == account.uid {
                6
            } else if meta.gid() == account.gid {
                3
            } else {
                0
            };
            meta.mode() >> shift & 1 == 1
        })
    })
}

/// The data directory itself if the server's user can reach it, with a way opened through it where it is ours.
fn base_for(account: Account, data_dir: &Path) -> Result<PathBuf, Error> {
    let elsewhere = data_dir.join(ELSEWHERE_FILE);
    if !elsewhere.exists() {
        if reaches(account, data_dir) {
            return Ok(data_dir.to_owned());
        }
        if data_dir.parent().is_none_or(|above| reaches(account, above)) && open_way(data_dir)? {
            return Ok(data_dir.to_owned());
        }
    }
    let shared = Path::new(SHARED_BASE);
    for folder in [shared.parent().unwrap_or(shared), shared] {
        make_passable(folder)?;
    }
    let fresh = || {
        let mut bytes = [0; 8];
        rand::fill(&mut bytes).map_err(|_| io::Error::other("the system gives no randomness"))?;
        Ok(format!("{SHARED_BASE}/{:016x}", u64::from_be_bytes(bytes)))
    };
    let base = data_dir::keep(data_dir, ELSEWHERE_FILE, fresh).map_err(Error::file(&elsewhere))?;
    let base = PathBuf::from(base);
    make_passable(&base)?;
    let base = base.canonicalize().map_err(Error::file(&base))?;
    info!(
        database = %base.display(),
        data_dir = %data_dir.display(),
        "the embedded database lies apart: the user it runs as cannot reach the data directory"
    );
    Ok(base)
}

/// Lets others pass through `folder`, without letting them list it; false if it is not ours to open.
fn open_way(folder: &Path) -> Result<bool, Error> {
    let meta = fs::metadata(folder).map_err(Error::file(folder))?;
    if meta.uid() != rustix::process::geteuid().as_raw() {
        return Ok(false);
    }
    fs::set_permissions(folder, Permissions::from_mode(meta.mode() & 0o7777 | 0o011)).map_err(Error::file(folder))?;
    Ok(true)
}

/// Makes `folder` if it is missing, and passable whatever the umask is.
fn make_passable(folder: &Path) -> Result<(), Error> {
    fs::create_dir_all(folder).map_err(Error::file(folder))?;
    open_way(folder).map(drop)
}

/// The socket's folder: beside the cluster, or a short one in `/tmp` where the path is too long for a socket or has
/// letters that Postgres reads as a list.
fn run_dir(base: &Path, account: Option<Account>) -> Result<PathBuf, Error> {
    let near = base.join("run");
    let plain =
        near.to_str().is_some_and(|text| text.chars().all(|c| c.is_ascii_alphanumeric() || "/._-+".contains(c)));
    if plain && socket_in(&near).as_os_str().len() <= MAX_SOCKET_PATH {
        match DirBuilder::new().mode(0o700).create(&near) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made.map_err(Error::file(&near))?,
        }
        fs::set_permissions(&near, Permissions::from_mode(0o700)).map_err(Error::file(&near))?;
        hand_over(&near, account)?;
        return Ok(near);
    }
    let hash = digest::digest(&digest::SHA256, base.as_os_str().as_bytes());
    let name: String = URL_SAFE_NO_PAD.encode(hash).chars().take(16).collect();
    let far = Path::new("/tmp").join(format!("headgate-{name}"));
    match DirBuilder::new().mode(0o700).create(&far) {
        Ok(()) => hand_over(&far, account)?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => refuse_foreign(&far, account)?,
        Err(error) => return Err(Error::file(&far)(error)),
    }
    Ok(far)
}

/// In `/tmp` anyone may have made the folder first, and would then see every query.
fn refuse_foreign(folder: &Path, account: Option<Account>) -> Result<(), Error> {
    let meta = fs::symlink_metadata(folder).map_err(Error::file(folder))?;
    let owner = account.map_or_else(|| rustix::process::geteuid().as_raw(), |account| account.uid);
    if meta.is_dir() && meta.uid() == owner && meta.mode() & 0o777 == 0o700 {
        return Ok(());
    }
    let reason = io::Error::other("exists and is not ours alone; remove it, or choose a shorter HEADGATE_DATA_DIR");
    Err(Error::file(folder)(reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_runs_postgres_as_postgres_else_nobody_and_never_as_root() {
        let postgres = "root:x:0:0::/:/bin/sh\nnobody:x:65534:65533::/:/x\npostgres:x:101:104:,,,:/var:/bin/sh\n";
        assert_eq!(account_in(postgres), Some(Account { uid: 101, gid: 104 }));
        assert_eq!(account_in("nobody:x:65534:65533::/:/x"), Some(Account { uid: 65534, gid: 65533 }));
        assert_eq!(account_in("postgres:x:0:0::/:/x\nbroken\n"), None);
    }

    #[test]
    fn a_long_or_odd_path_gets_a_short_socket_folder_that_is_always_the_same() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["x".repeat(100), "a,b".into(), "a b".into()] {
            let base = dir.path().join(name);
            fs::create_dir(&base).unwrap();
            let run = run_dir(&base, None).unwrap();
            assert!(run.starts_with("/tmp/") && socket_in(&run).as_os_str().len() <= MAX_SOCKET_PATH);
            assert_eq!(run_dir(&base, None).unwrap(), run);
            fs::set_permissions(&run, Permissions::from_mode(0o755)).unwrap();
            assert!(run_dir(&base, None).is_err(), "a folder open to others is refused");
            fs::remove_dir(&run).unwrap();
        }
        let near = run_dir(dir.path(), None).unwrap();
        assert_eq!(near, dir.path().join("run"));
        assert_eq!(fs::metadata(near).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_user_reaches_a_folder_only_if_every_folder_above_lets_them_through() {
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        let inner = dir.path().join("inner");
        fs::create_dir(&inner).unwrap();
        let mode = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        let stranger = Account { uid: 4_000_000, gid: 4_000_000 };
        let owner = Account { uid: rustix::process::geteuid().as_raw(), gid: 4_000_000 };
        mode(&inner, 0o711);
        mode(dir.path(), 0o700);
        assert!(reaches(owner, &inner) && !reaches(stranger, &inner));
        mode(dir.path(), 0o711);
        assert!(reaches(stranger, &inner));
        mode(&inner, 0o710);
        assert!(!reaches(stranger, &inner));
    }
}
