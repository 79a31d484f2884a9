//! The real program as processes of their own, to be killed, stopped and stalled.

use std::{
    fs::File,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use url::Url;

use crate::support::{TestGateway, eventually};

/// A process; killed when dropped.
pub struct Process(Child);

impl Process {
    /// Runs `headgate` with nothing in its environment but `settings`; what it says goes to a file in `folder`.
    pub fn start(command: &str, folder: &Path, settings: &[(&str, &str)]) -> Self {
        Self::start_program(env!("CARGO_BIN_EXE_headgate"), command, folder, settings)
    }

    fn start_program(program: &str, command: &str, folder: &Path, settings: &[(&str, &str)]) -> Self {
        let log = File::options().create(true).append(true).open(folder.join(format!("{command}.log"))).unwrap();
        let child = Command::new(program)
            .arg(command)
            .current_dir(folder)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self(child)
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    /// Waits for its end.
    pub async fn ended(self) -> ExitStatus {
        let process = std::sync::Mutex::new(self);
        eventually("the end of a process", async || process.lock().unwrap().0.try_wait().unwrap()).await
    }

    /// As `kill -9`: it gets no chance to tidy up.
    pub async fn kill(self) {
        self.signal(Signal::KILL);
        self.ended().await;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A worker process on the database and the files of `gateway`.
pub fn worker(gateway: &TestGateway, lease_secs: &str) -> Process {
    start_beside(env!("CARGO_BIN_EXE_headgate"), "worker", gateway, &[("HEADGATE_LEASE_SECS", lease_secs)])
}

/// A whole replica beside `gateway`, and its address once it is ready.
pub async fn replica(gateway: &TestGateway, program: &str) -> (Process, Url) {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let listen = format!("127.0.0.1:{port}");
    let process =
        start_beside(program, "serve", gateway, &[("HEADGATE_LISTEN", &listen), ("HEADGATE_LEASE_SECS", "3")]);
    let url: Url = format!("http://{listen}/").parse().unwrap();
    eventually("a ready replica", async || {
        let answer = gateway.http.get(url.join("readyz").unwrap()).send().await.ok()?;
        answer.status().is_success().then_some(())
    })
    .await;
    (process, url)
}

fn start_beside(program: &str, command: &str, gateway: &TestGateway, more: &[(&str, &str)]) -> Process {
    let flags = &gateway.flags;
    let given = [
        ("HEADGATE_DATABASE_URL", &flags.database_url),
        ("HEADGATE_DATA_DIR", &flags.data_dir),
        ("HEADGATE_MASTER_KEY", &flags.master_key),
        ("HEADGATE_JWT_SECRET", &flags.jwt_secret),
        ("HEADGATE_EGRESS_ALLOW", &flags.egress_allow),
        ("HEADGATE_POLL_MIN_MS", &flags.poll_min_ms),
        ("HEADGATE_POLL_MAX_MS", &flags.poll_max_ms),
    ];
    let mut settings: Vec<_> = given.iter().map(|(name, value)| (*name, value.as_deref().unwrap())).collect();
    settings.push(("HEADGATE_SHUTDOWN_GRACE_SECS", "10"));
    settings.extend(more);
    Process::start_program(program, command, gateway.folder.path(), &settings)
}
