//! graphile-worker, run by node.

use std::{fs, path::Path, path::PathBuf, process::Command};

use anyhow::{Context as _, ensure};

const PACKAGES: [&str; 2] = ["graphile-worker@0.17.3", "pg@8.23.1"];

pub struct Peer {
    modules: PathBuf,
}

/// Installs it; `None` where there is no node.
pub fn install(folder: &Path) -> anyhow::Result<Option<Peer>> {
    if Command::new("node").arg("--version").output().is_err() {
        println!("node is not installed: graphile-worker is left out");
        return Ok(None);
    }
    let modules = folder.join("node");
    if !modules.join("node_modules/graphile-worker").exists() {
        fs::create_dir_all(&modules)?;
        let mut npm = Command::new("npm");
        npm.args(["install", "--silent", "--no-save", "--prefix"]).arg(&modules).args(PACKAGES);
        let mut npm = npm.current_dir(&modules).spawn().context("npm cannot be run")?;
        ensure!(npm.wait()?.success(), "npm could not install {PACKAGES:?}");
    }
    Ok(Some(Peer { modules }))
}

impl Peer {
    /// Jobs per second while a backlog is worked off.
    pub fn drain(&self, database_url: &str, mode: &str, jobs: u64) -> anyhow::Result<f64> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/engine/graphile.cjs");
        let output = Command::new("node")
            .args([script, mode, &jobs.to_string()])
            .env("DATABASE_URL", database_url)
            .env("NODE_PATH", self.modules.join("node_modules"))
            .env("NODE_NO_WARNINGS", "1")
            .output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        let rate = said.lines().find_map(|line| line.strip_prefix("rate "));
        let rate = rate.with_context(|| format!("graphile-worker: {}", String::from_utf8_lossy(&output.stderr)))?;
        Ok(rate.trim().parse()?)
    }
}
