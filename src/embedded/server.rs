//! The server's process: started so that it ends with us, watched, and stopped politely.

use std::{
    fs::{self, File},
    io,
    os::unix::{fs::OpenOptionsExt as _, process::CommandExt as _},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, getpid, getppid, kill_process, set_parent_process_death_signal};
use tracing::warn;

use super::{
    Error,
    binaries::Binaries,
    cluster::Cluster,
    place::{Account, PORT, Place},
    tail,
};

/// How long the server may take to accept connections; recovery after a power cut is the slow case.
const START_LIMIT: Duration = Duration::from_mins(1);
/// How long a fast shutdown may take, then an immediate one.
const STOP_LIMITS: [(Signal, Duration); 2] =
    [(Signal::INT, Duration::from_secs(20)), (Signal::QUIT, Duration::from_secs(5))];
/// The log is set aside, once, when it has grown past this size.
const MAX_LOG_BYTES: u64 = 10 * 1024 * 1024;

/// A running server. Dropping it stops it.
pub struct Server {
    child: Child,
}

impl Server {
    /// Starts the server and waits until it takes queries.
    pub fn start(place: &Place, cluster: &Cluster<'_>, binaries: &Binaries) -> Result<Self, Error> {
        let log = open_log(&place.log_path())?;
        let log_too = log.try_clone().map_err(Error::file(&place.log_path()))?;
        let mut postgres = command(&binaries.postgres(), place.account);
        postgres.arg("-D").arg(cluster.path()).arg("-k").arg(&place.run).args(["-p", &PORT.to_string()]);
        for setting in [
            "listen_addresses=",
            "unix_socket_permissions=0700",
            "shared_buffers=32MB",
            "max_connections=100",
            "timezone=UTC",
            "log_timezone=UTC",
        ] {
            postgres.args(["-c", setting]);
        }
        // A group of its own: Ctrl-C must not stop it before our own work has drained.
        postgres.stdout(log_too).stderr(log).process_group(0);
        ends_with_us(&mut postgres, Signal::INT);
        let child = postgres.spawn().map_err(Error::file(&binaries.postgres()))?;
        let mut server = Self { child };
        server.wait_ready(place)?;
        Ok(server)
    }

    fn wait_ready(&mut self, place: &Place) -> Result<(), Error> {
        let not_started = |reason: String| {
            let log = place.log_path();
            let tail = tail(&log);
            Err(Error::NotStarted { reason, log, tail })
        };
        let since = Instant::now();
        while !place.accepts_connections(Some(self.child.id())) {
            if let Some(status) = self.ended() {
                return not_started(format!("it ended with {status}"));
            }
            if since.elapsed() > START_LIMIT {
                return not_started(format!("it took no connections for {} s", START_LIMIT.as_secs()));
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// How the server ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Ends the server: open transactions are rolled back, everything committed is on disk.
    pub fn stop(&mut self) {
        for (signal, limit) in STOP_LIMITS {
            if self.ended().is_some() {
                return;
            }
            // Ours and unreaped, so it cannot be another process's id.
            if let Err(error) = kill_process(Pid::from_child(&self.child), signal) {
                warn!(%error, "the embedded Postgres took no signal");
            }
            let since = Instant::now();
            while since.elapsed() < limit {
                if self.ended().is_some() {
                    return;
                }
                thread::sleep(Duration::from_millis(10));
            }
        }
        warn!(pid = self.child.id(), "the embedded Postgres does not stop; leaving it");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A command as the server's user, in an environment that cannot change what Postgres does.
pub fn command(program: &Path, account: Option<Account>) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("LC_ALL", "C").env("TZ", "UTC").current_dir("/").stdin(Stdio::null());
    for name in ["PATH", "LD_LIBRARY_PATH"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    if let Some(Account { uid, gid }) = account {
        command.uid(uid).gid(gid); // also drops root's other groups
    }
    command
}

/// Has the kernel send `signal` to the child when the thread that spawns it ends, be it by `kill -9` of this process.
/// Only Linux can; elsewhere the next start ends what was left.
#[expect(unsafe_code, reason = "std has no safe way to run code between fork and exec")]
pub fn ends_with_us(command: &mut Command, signal: Signal) {
    if cfg!(not(target_os = "linux")) {
        return;
    }
    let us = getpid();
    // SAFETY: the closure runs in the child between fork and exec, where only async-signal-safe calls are allowed:
    // it makes two plain system calls, takes no lock and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            set_parent_process_death_signal(Some(signal))?;
            // We may have died before that call: then the signal will never come.
            if getppid() == Some(us) { Ok(()) } else { Err(io::Error::from(io::ErrorKind::Interrupted)) }
        });
    }
}

fn open_log(path: &Path) -> Result<File, Error> {
    if fs::metadata(path).is_ok_and(|meta| meta.len() > MAX_LOG_BYTES) {
        fs::rename(path, path.with_added_extension("1")).map_err(Error::file(path))?;
    }
    File::options().create(true).append(true).mode(0o600).open(path).map_err(Error::file(path))
}
