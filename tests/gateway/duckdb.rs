//! DuckDB as those who load results use it: its command line, found on this machine or fetched once.

use std::{
    env,
    fs::File,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use headgate::embedded::packages;
use serde_json::Value;

/// The PyPI package `duckdb-cli`: Linux (glibc 2.17) and macOS 12, each on x86_64 and arm64; 21 MB.
const REQUIREMENT: &str = "duckdb-cli==1.5.6 \
    --hash=sha256:9797555bd39095d730eb0d0b3bf29e95e148c96a4cdce1e363f01c7bf7003a44 \
    --hash=sha256:9b03301a14310a4ef7f86386e87b36954fe099ed762c8a81f94f7bd0ba073542 \
    --hash=sha256:9bcad8efb4bf3fc9ceacb226e557976446fa19930f8714f59d18d9acc1b9a35b \
    --hash=sha256:239b7a1af956931b6f91fe62b23912c4afdcb3538d0c00853126425067a4afe4\n";

fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let path = env::var_os("PATH").unwrap_or_default();
        let installed = env::split_paths(&path).map(|folder| folder.join("duckdb")).find(|program| program.is_file());
        installed.unwrap_or_else(fetched)
    })
}

fn fetched() -> PathBuf {
    let base = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let program = base.join("duckdb/duckdb_cli/duckdb");
    // Another run of these tests may be at it.
    let lock = File::create(base.join("duckdb.lock")).unwrap();
    lock.lock().unwrap();
    if !program.is_file() {
        let fetched = packages::whole(&base.join("duckdb"), |folder| packages::pip(REQUIREMENT, folder));
        fetched.unwrap_or_else(|why| panic!("these tests need a `duckdb`, or a pip that can fetch one: {why}"));
    }
    program
}

/// Runs statements of which the last is a query; answers its rows.
///
/// # Panics
/// With what DuckDB said, when one fails.
pub fn query(sql: &str) -> Vec<Value> {
    let output = Command::new(program())
        .args(["-no-init", "-batch", "-bail", "-json", "-cmd", "set TimeZone = 'UTC'", "-c", sql])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}\n{sql}");
    if output.stdout.trim_ascii().is_empty() {
        return Vec::new();
    }
    let Ok(Value::Array(rows)) = serde_json::from_slice(&output.stdout) else {
        panic!("{}\n{sql}", String::from_utf8_lossy(&output.stdout));
    };
    rows
}
