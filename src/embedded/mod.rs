//! The private Postgres: a plain server under the data directory, reached over a Unix socket only, that starts and
//! ends with the gateway.
//!
//! The process that holds `postgres.lock` runs the server; others on the same data directory connect to its socket,
//! and one of them takes over when the holder ends, however it ends. Start at [`Embedded::start`]; where things lie
//! is in `place`, the server's files in `cluster`, the process in `server`, its binaries in `binaries`.

mod binaries;
mod cluster;
mod fetch;
pub mod packages;
mod place;
mod server;
#[cfg(test)]
mod tests;

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tracing::{error, info, warn};

use self::{binaries::Search, cluster::Cluster, place::Place, server::Server};

/// How often the holder looks after its server, and the others after the lock.
const WATCH_EVERY: Duration = Duration::from_millis(200);
/// How long another process may take to bring the server up; it may be fetching binaries.
const FOLLOW_LIMIT: Duration = Duration::from_mins(5);
/// How long to wait before a server that ended by itself is started again: at first, and at most.
const RESTART_AFTER: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// Why there is no private Postgres. Each message says what to do or shows what the server said.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path}: {source}", path = path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{0}")]
    NoBinaries(String),
    #[error(
        "the database in {path} was made by Postgres {cluster}, but only {found} is here: install Postgres {cluster}, \
         or point HEADGATE_PG_BIN at its folder",
        path = path.display()
    )]
    OtherMajor { path: PathBuf, cluster: u32, found: String },
    #[error("root runs Postgres as the user `postgres` or `nobody`, and /etc/passwd has neither")]
    NoAccount,
    #[error("{what} failed: {output}")]
    Command { what: String, output: String },
    #[error("Postgres did not start: {reason}; the end of {log}:\n{tail}", log = log.display())]
    NotStarted { reason: String, log: PathBuf, tail: String },
    #[error("another process holds {path} but its Postgres accepts no connections", path = path.display())]
    HolderSilent { path: PathBuf },
    #[error("the thread that watches over Postgres ended")]
    ThreadEnded,
}

impl Error {
    fn file(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { path, source }
    }
}

/// A running private Postgres, run by this process or by another on the same data directory. Dropping it stops it.
#[derive(Debug)]
pub struct Embedded {
    url: String,
    stop: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Embedded {
    /// Brings up the Postgres of `data_dir`, making whatever is missing, or joins the one that another process runs.
    /// Blocks until it accepts connections: a second or so the first time, much less afterwards, more if its
    /// binaries must be fetched.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn start(data_dir: &Path, pg_bin: Option<&Path>) -> Result<Self, Error> {
        let place = Place::prepare(data_dir)?;
        let url = place.url();
        let lock = open_lock(&place)?;
        let keeper = Keeper { place, pg_bin: pg_bin.map(Path::to_owned), lock };
        let (ready, started) = mpsc::channel();
        let (stop, stopped) = mpsc::channel();
        // A thread that lives as long as the server: the signal that ends the server when we are killed is sent when
        // the thread that spawned it ends, not the process.
        let thread = thread::Builder::new()
            .name("embedded-postgres".into())
            .spawn(move || keeper.run(&ready, &stopped))
            .map_err(Error::file(data_dir))?;
        let embedded = Self { url, stop: Some((stop, thread)) };
        started.recv().map_err(|_| Error::ThreadEnded)??;
        Ok(embedded)
    }

    /// For sqlx: the database `headgate` over the server's socket.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Stops the server, if this process runs it. Blocks for about a tenth of a second; open connections are cut.
    pub fn stop(mut self) {
        self.stop_now();
    }

    fn stop_now(&mut self) {
        if let Some((stop, thread)) = self.stop.take() {
            drop(stop);
            if thread.join().is_err() {
                warn!("the thread that watches over Postgres panicked");
            }
        }
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.stop_now();
    }
}

/// The folder of the Postgres that an embedded one in `data_dir` would run, fetched into `data_dir` if there is none
/// on this machine. For whoever starts many, such as tests: each then gets it as its `pg_bin`. Blocks while another
/// process looks for one there, or runs one.
///
/// # Errors
/// See [`Error`].
pub fn provide_binaries(data_dir: &Path) -> Result<PathBuf, Error> {
    let place = Place::prepare(data_dir)?;
    let lock = open_lock(&place)?;
    lock.lock().map_err(Error::file(&place.lock_path()))?; // two must not fetch at once
    Ok(Search::new(&place, None).find()?.dir)
}

fn open_lock(place: &Place) -> Result<File, Error> {
    let path = place.lock_path();
    File::options().create(true).truncate(false).write(true).open(&path).map_err(Error::file(&path))
}

/// What the thread works with.
struct Keeper {
    place: Place,
    pg_bin: Option<PathBuf>,
    lock: File,
}

impl Keeper {
    fn run(self, ready: &Sender<Result<(), Error>>, stopped: &Receiver<()>) {
        let mut joined = false;
        let since = Instant::now();
        loop {
            match self.lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::Error(source)) => {
                    report(ready, Err(Error::File { path: self.place.lock_path(), source }));
                    return;
                }
                Err(TryLockError::WouldBlock) => {}
            }
            if !joined && self.place.accepts_connections(None) {
                info!("another process runs the embedded Postgres; sharing it");
                report(ready, Ok(()));
                joined = true;
            }
            if !joined && since.elapsed() > FOLLOW_LIMIT {
                report(ready, Err(Error::HolderSilent { path: self.place.lock_path() }));
                return;
            }
            let pause = if joined { WATCH_EVERY } else { WATCH_EVERY / 10 };
            if stopped.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
        match self.launch() {
            Ok(server) => {
                if joined {
                    info!("took over running the embedded Postgres");
                }
                report(ready, Ok(()));
                self.watch(Some(server), stopped);
            }
            Err(failure) if joined => {
                error!(error = %failure, "could not take over running the embedded Postgres");
                self.watch(None, stopped);
            }
            Err(failure) => report(ready, Err(failure)),
        }
        // The lock goes with `self`, after the server.
    }

    /// Keeps the server up until we are told to stop.
    fn watch(&self, mut server: Option<Server>, stopped: &Receiver<()>) {
        let (first, most) = RESTART_AFTER;
        let mut pause = first;
        loop {
            let wait = if server.is_some() { WATCH_EVERY } else { pause };
            if stopped.recv_timeout(wait) != Err(RecvTimeoutError::Timeout) {
                break;
            }
            match &mut server {
                Some(running) => {
                    if let Some(status) = running.ended() {
                        error!(%status, log = %self.place.log_path().display(), "the embedded Postgres ended; starting it again");
                        server = None;
                        pause = first;
                    }
                }
                None => match self.launch() {
                    Ok(started) => server = Some(started),
                    Err(failure) => {
                        error!(error = %failure, "the embedded Postgres does not start");
                        pause = (pause * 2).min(most);
                    }
                },
            }
        }
        if let Some(mut running) = server {
            running.stop();
        }
    }

    /// Starts the server on its files; only for the holder of the lock.
    fn launch(&self) -> Result<Server, Error> {
        let cluster = Cluster::of(&self.place);
        cluster.settle()?;
        let major = cluster.major()?;
        let binaries = Search { explicit: self.pg_bin.as_deref(), ..Search::new(&self.place, major) }.find()?;
        if major.is_none() {
            cluster.create(&binaries)?;
            info!(path = %cluster.path().display(), postgres.major = binaries.major, "made the embedded database");
        }
        Server::start(&self.place, &cluster, &binaries)
    }
}

/// The receiver waits for the first word only, so a later one finds nobody.
fn report(ready: &Sender<Result<(), Error>>, outcome: Result<(), Error>) {
    drop(ready.send(outcome));
}

/// The end of a text file, for an error message.
fn tail(path: &Path) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text[text.len().saturating_sub(8192)..]);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}
