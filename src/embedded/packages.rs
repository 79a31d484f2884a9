//! Gets pinned packages through the user's own package client and whatever registry or mirror it is set up for. No code
//! of a package runs while it is installed.

use std::{
    fmt, fs, io,
    io::Read as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::json;

use super::server::ends_with_us;

const LIMIT: Duration = Duration::from_mins(5);

/// A package client that may be on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    Pip,
    Npm,
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pip => "pip",
            Self::Npm => "npm",
        })
    }
}

/// A package of npm's, by version and hash.
#[derive(Debug, Clone, Copy)]
pub struct NpmPackage<'a> {
    pub name: &'a str,
    pub version: &'a str,
    pub integrity: &'a str,
}

/// Fills the folder `done` with what `fill` puts into another beside it: whole or not at all.
///
/// # Errors
/// Why not, in a few words.
pub fn whole(done: &Path, fill: impl FnOnce(&Path) -> Result<(), String>) -> Result<(), String> {
    let unfinished = done.with_extension("new");
    let here = |error: io::Error| format!("{}: {error}", done.display());
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished).map_err(here)?;
    }
    fs::create_dir_all(&unfinished).map_err(here)?;
    fill(&unfinished)?;
    if done.exists() {
        fs::remove_dir_all(done).map_err(here)?;
    }
    fs::rename(&unfinished, done).map_err(here)
}

/// Installs what a requirement names, with the hashes that it names, into a folder that is there.
///
/// # Errors
/// Why not, in a few words.
pub fn pip(requirement: &str, into: &Path) -> Result<(), String> {
    let file = into.join("requirement.txt");
    fs::write(&file, requirement).map_err(|error| error.to_string())?;
    let install = |program: &str, before: &[&str]| {
        let mut pip = Command::new(program);
        pip.args(before).args(["install", "--no-input", "--disable-pip-version-check", "--no-cache-dir"]);
        pip.args(["--no-deps", "--no-compile", "--only-binary", ":all:", "--require-hashes", "--timeout", "15"]);
        pip.arg("--target").arg(into).arg("-r").arg(&file);
        // Settings of the user's that do not go with --target.
        pip.env("PIP_USER", "0").env("PIP_REQUIRE_VIRTUALENV", "0").env("PIP_ROOT_USER_ACTION", "ignore");
        run(pip)
    };
    install("python3", &["-m", "pip"]).or_else(|first| install("pip3", &[]).map_err(|_| first))
}

/// Installs one package into a folder that is there; answers the package's own folder.
///
/// # Errors
/// Why not, in a few words.
pub fn npm(package: NpmPackage<'_>, into: &Path) -> Result<PathBuf, String> {
    let NpmPackage { name, version, integrity } = package;
    // A lock file without addresses: npm asks the registry it is set up for, and checks the hash of what comes.
    let project =
        json!({"name": "headgate-fetches", "version": "1.0.0", "private": true, "dependencies": {name: version}});
    let root = format!("node_modules/{name}");
    let lock = json!({
        "name": "headgate-fetches", "version": "1.0.0", "lockfileVersion": 3, "requires": true,
        "packages": {
            "": {"name": "headgate-fetches", "version": "1.0.0", "dependencies": {name: version}},
            root.clone(): {"version": version, "integrity": integrity},
        }
    });
    for (name, content) in [("package.json", project), ("package-lock.json", lock)] {
        fs::write(into.join(name), content.to_string()).map_err(|error| error.to_string())?;
    }
    let mut npm = Command::new("npm");
    npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error", "--fetch-retries=2"]);
    npm.current_dir(into);
    run(npm)?;
    Ok(into.join(root))
}

/// Runs a client to its end. The error is the last line it said, or that it is not installed.
fn run(mut command: Command) -> Result<(), String> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    ends_with_us(&mut command, Signal::KILL);
    let mut child = command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => "not installed".to_owned(),
        _ => error.to_string(),
    })?;
    let stderr = child.stderr.take();
    let reader = thread::spawn(move || {
        let mut said = Vec::new();
        if let Some(mut stderr) = stderr {
            drop(stderr.read_to_end(&mut said));
        }
        String::from_utf8_lossy(&said).into_owned()
    });
    let since = Instant::now();
    loop {
        if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
            let said = reader.join().unwrap_or_default();
            let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
            return if status.success() { Ok(()) } else { Err(format!("{status}: {last}")) };
        }
        if since.elapsed() > LIMIT {
            drop(child.kill());
            drop(child.wait());
            return Err(format!("did not end within {} s", LIMIT.as_secs()));
        }
        thread::sleep(Duration::from_millis(50));
    }
}
