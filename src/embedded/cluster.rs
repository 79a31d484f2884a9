//! The server's files: made once, whole or not at all, and cleared of what an earlier server left.

use std::{
    fs::{self, DirBuilder},
    io::{self, Write as _},
    os::unix::{ffi::OsStrExt as _, fs::DirBuilderExt as _},
    path::{Path, PathBuf},
    process::{Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tracing::{debug, info};

use super::{
    Error,
    binaries::Binaries,
    place::{CLUSTER, Place, hand_over},
    server::{command, ends_with_us},
};

/// How long a server that lost its gateway may take to end; it was told to when the gateway died.
const ORPHAN_LIMIT: Duration = Duration::from_secs(30);

/// A database cluster, perhaps yet to be made.
pub struct Cluster<'a> {
    place: &'a Place,
    path: PathBuf,
}

impl<'a> Cluster<'a> {
    pub fn of(place: &'a Place) -> Self {
        Self { place, path: place.base.join(CLUSTER) }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The major version that made it; `None` if it is yet to be made.
    pub fn major(&self) -> Result<Option<u32>, Error> {
        let file = self.path.join("PG_VERSION");
        match fs::read_to_string(&file) {
            Ok(text) => match text.trim().split('.').next().map(str::parse) {
                Some(Ok(major)) => Ok(Some(major)),
                _ => Err(Error::file(&file)(io::Error::other("is not a version"))),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::file(&file)(error)),
        }
    }

    /// Makes it beside its place and moves it there, so that an interrupted attempt leaves nothing that looks made.
    pub fn create(&self, binaries: &Binaries) -> Result<(), Error> {
        let unfinished = self.path.with_extension("new");
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished).map_err(Error::file(&unfinished))?;
        }
        DirBuilder::new().mode(0o700).create(&unfinished).map_err(Error::file(&unfinished))?;
        hand_over(&unfinished, self.place.account)?;

        // Not synced: a crash during set-up just means starting over. The server itself always syncs.
        let mut initdb = command(&binaries.initdb(), self.place.account);
        initdb.args(["-U", "headgate", "-A", "trust", "-E", "UTF8", "--no-locale", "-N", "-D"]).arg(&unfinished);
        ends_with_us(&mut initdb, Signal::KILL);
        finish("initdb", initdb.output())?;

        // One-user mode needs no client program, and the database is there from the first moment.
        let mut single = command(&binaries.postgres(), self.place.account);
        single.arg("--single").arg("-D").arg(&unfinished).arg("postgres");
        single.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        ends_with_us(&mut single, Signal::KILL);
        let output = single.spawn().and_then(|mut child| {
            if let Some(mut stdin) = child.stdin.take() {
                stdin.write_all(b"create database headgate;\n")?;
            }
            child.wait_with_output()
        });
        let said = finish("creating the database", output)?;
        if said.contains("ERROR:") {
            return Err(Error::Command { what: "creating the database".into(), output: last_lines(&said) });
        }

        match fs::rename(&unfinished, &self.path) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                let reason = "holds files but no Postgres database; move them away";
                Err(Error::file(&self.path)(io::Error::other(reason)))
            }
            moved => moved.map_err(Error::file(&self.path)),
        }
    }

    /// Waits for a server that lost its gateway to end, then removes what it left. Only for the holder of the lock:
    /// nobody else can have a server on these files.
    pub fn settle(&self) -> Result<(), Error> {
        if cfg!(not(target_os = "linux")) {
            return Ok(()); // Without /proc the server's own check of its pid file must do.
        }
        if let Some(pid) = self.running_server() {
            info!(pid = pid.as_raw_pid(), "an embedded Postgres without its gateway is still there; ending it");
            // A fast shutdown, which it may be at already because its parent died.
            if let Err(error) = kill_process(pid, Signal::INT) {
                debug!(%error, "the embedded Postgres took no signal");
            }
            let since = Instant::now();
            while self.running_server() == Some(pid) {
                if since.elapsed() > ORPHAN_LIMIT {
                    let reason = format!("a Postgres without its gateway (process {}) does not end", pid.as_raw_pid());
                    return Err(Error::file(&self.path)(io::Error::other(reason)));
                }
                thread::sleep(Duration::from_millis(20));
            }
        }
        // Left by a kill. Postgres would refuse to start if their process id has come to belong to another process.
        let socket = self.place.socket_path();
        for left in [self.pid_file(), socket.with_added_extension("lock"), socket] {
            match fs::remove_file(&left) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Error::file(&left)(error)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether the pid file's last line says `ready`, for `pid` or for any server: past recovery, taking queries.
    pub fn says_ready(&self, pid: Option<u32>) -> bool {
        let text = fs::read_to_string(self.pid_file()).unwrap_or_default();
        let named = text.lines().next().and_then(|line| line.trim().parse::<u32>().ok());
        text.lines().nth(7).is_some_and(|status| status.trim() == "ready") && pid.is_none_or(|pid| named == Some(pid))
    }

    fn pid_file(&self) -> PathBuf {
        self.path.join("postmaster.pid")
    }

    /// The server that the pid file names, if that process is indeed a Postgres on these files and no mere zombie.
    fn running_server(&self) -> Option<Pid> {
        let text = fs::read_to_string(self.pid_file()).ok()?;
        let pid = Pid::from_raw(text.lines().next()?.trim().parse().ok()?)?;
        // Readable for everyone, unlike its working directory. Empty for a zombie.
        let command = fs::read(format!("/proc/{}/cmdline", pid.as_raw_pid())).ok()?;
        let mut words = command.split(|byte| *byte == 0);
        let postgres = words.next()?.ends_with(b"postgres");
        (postgres && words.any(|word| word == self.path.as_os_str().as_bytes())).then_some(pid)
    }
}

fn finish(what: &str, output: io::Result<Output>) -> Result<String, Error> {
    let failed = |output: String| Error::Command { what: what.into(), output };
    let output = output.map_err(|error| failed(error.to_string()))?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    if output.status.success() { Ok(said) } else { Err(failed(format!("{}\n{}", output.status, last_lines(&said)))) }
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(10)..].join("\n")
}
