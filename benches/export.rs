//! What a whole export costs: memory must stay flat and time must grow with the number of users, not faster.
//!
//! `cargo bench --bench export` starts, for each vendor and size, the vendors' sandbox in this process and a fresh
//! `headgate serve` with its private Postgres as a child. It submits an export of every column, waits for its end,
//! downloads the file, and holds every record against what the sandbox knows. Only then a row is printed. Last, a
//! plain Python script (`benches/peer.py`) converts the same Braze archive, as an application's own client would.
//!
//! Figures of the gateway's process alone, from `/proc` (so Linux only): the most memory it ever held, start-up
//! included, and the CPU time between submission and end. `docs/PERFORMANCE.md` says how to read the table.
#![allow(clippy::print_stdout, reason = "the table is what this program is for")]

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use chrono::{DateTime, TimeDelta, Utc};
use headgate::{
    cli::token::{self, Grant},
    config::{Flags, Settings},
    vendors::{
        VendorSpec,
        registry::VENDORS,
        sandbox::{self, DemoConnection, Sandbox, SandboxConfig},
    },
};
use reqwest::{Client, Method, Response};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncBufReadExt as _;
use url::Url;

/// Users of each vendor's audience, unless the command line names others.
const SIZES: [u64; 3] = [3, 25_000, 250_000];
/// No export may make the gateway's process larger than this.
const MAX_PEAK_MIB: f64 = 150.0;
/// From one size to the next, the CPU time of one user may not grow by more than this factor. Not the time on the
/// clock: that also measures who else uses the machine.
const MAX_SLOWDOWN: f64 = 1.5;
/// Below this many users, what every export costs outweighs what a user costs.
const MANY: u64 = 10_000;
/// Longer than any export here takes.
const PATIENCE: Duration = Duration::from_mins(30);
const JWT_SECRET: &str = "a-secret-of-this-benchmark-that-signs-nothing-else";
const MIB: f64 = 1024.0 * 1024.0;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // `cargo bench` adds `--bench`; everything else is a size.
    let sizes: Vec<u64> = std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let sizes = if sizes.is_empty() { SIZES.to_vec() } else { sizes };
    let largest = sizes.iter().copied().max().unwrap_or_default();

    println!(
        "{:<14} {:>8} {:>9} {:>9} {:>8} {:>8} {:>12} {:>9}",
        "vendor", "users", "result MB", "export s", "CPU s", "MB/s", "MB per CPU s", "peak MiB"
    );
    let mut broken = Vec::new();
    for spec in VENDORS {
        let mut before: Option<Figures> = None;
        for people in &sizes {
            let run = Run::start(spec, *people).await?;
            let figures = run.measure().await?;
            figures.print(spec.name);
            broken.extend(figures.broken_promises(before.as_ref()));
            if spec.name == "braze" && *people == largest {
                run.peer(&figures).await?;
            }
            run.stop().await?;
            before = Some(figures);
        }
    }
    if broken.is_empty() {
        println!(
            "\nEvery record was what the sandbox knows; memory stayed flat, and time grew no faster than the users."
        );
        return Ok(());
    }
    bail!("{}", broken.join("; "))
}

/// What one export cost.
struct Figures {
    people: u64,
    result_bytes: u64,
    /// From the moment the vendor's file was ready to the end: fetched, unpacked, converted, hashed, stored.
    export: Duration,
    cpu: Duration,
    peak_mib: f64,
}

#[expect(clippy::cast_precision_loss, reason = "sizes far below 2^52")]
impl Figures {
    fn print(&self, name: &str) {
        let (mb, export, cpu) = (self.result_bytes as f64 / 1e6, self.export.as_secs_f64(), self.cpu.as_secs_f64());
        println!(
            "{name:<14} {:>8} {mb:>9.1} {export:>9.2} {cpu:>8.2} {:>8.1} {:>12.1} {:>9.1}",
            self.people,
            mb / export,
            mb / cpu,
            self.peak_mib
        );
    }

    /// What must hold, and does not. `before` is the next smaller size.
    fn broken_promises(&self, before: Option<&Self>) -> Vec<String> {
        let mut broken = Vec::new();
        if self.peak_mib > MAX_PEAK_MIB {
            broken.push(format!("{} users took {:.0} MiB, more than {MAX_PEAK_MIB:.0}", self.people, self.peak_mib));
        }
        if let Some(before) = before.filter(|before| before.people >= MANY) {
            let slowdown = self.cpu_secs_of_one_user() / before.cpu_secs_of_one_user();
            if slowdown > MAX_SLOWDOWN {
                broken.push(format!(
                    "a user of {} took {slowdown:.2} times the CPU time of one of {}",
                    self.people, before.people
                ));
            }
        }
        broken
    }

    fn cpu_secs_of_one_user(&self) -> f64 {
        self.cpu.as_secs_f64() / self.people as f64
    }
}

/// A sandbox, a gateway beside it, and a caller.
struct Run {
    sandbox: Sandbox,
    account: DemoConnection,
    gateway: tokio::process::Child,
    base: Url,
    token: String,
    http: Client,
    folder: TempDir,
}

impl Run {
    async fn start(spec: &VendorSpec, people: u64) -> anyhow::Result<Self> {
        let config = SandboxConfig { people, processing: Duration::ZERO, ..SandboxConfig::default() };
        let sandbox = sandbox::start(config, "127.0.0.1:0".parse()?).await?;
        let account = (spec.sandbox_connection)(sandbox.base_url());
        let folder = tempfile::tempdir()?;
        let (gateway, base) = gateway(folder.path()).await?;
        let run = Self { sandbox, account, gateway, base, token: token(folder.path())?, http: Client::new(), folder };
        run.call(Method::PUT, &format!("/v1/connections/{}", run.account.name), Some(&run.account.body)).await?;
        Ok(run)
    }

    async fn measure(&self) -> anyhow::Result<Figures> {
        let cpu_before = self.cpu()?;
        let export = self.export("ndjson").await?;
        let cpu = self.cpu()?.saturating_sub(cpu_before);
        let file = self.folder.path().join("result.ndjson");
        let result_bytes = self.download(&export, &file).await?;
        // Downloading counts too; checking happens here, in this process.
        let peak_mib = self.peak_mib()?;
        let people = self.check(&file)?;
        ensure!(export["result"]["records"] == people, "the manifest counts {}", export["result"]["records"]);
        Ok(Figures { people, result_bytes, export: self.working_time(&export).await?, cpu, peak_mib })
    }

    /// Runs an export of everybody, with every column, to its end.
    async fn export(&self, format: &str) -> anyhow::Result<Value> {
        // In order, so that each record meets its person; in one file, so that it can be one file of the peer's.
        let output = match format {
            "raw" => json!({ "format": format }),
            _ => json!({ "format": format, "ordered": true, "single_file": true }),
        };
        let body = json!({
            "connection": self.account.name,
            "dataset": "audience_members",
            "parameters": { "audience": self.account.audience },
            "output": output,
        });
        let mut export = self.call(Method::POST, "/v1/exports", Some(&body)).await?;
        let path = path_of(&export)?;
        let began = Instant::now();
        while export["finished_at"].is_null() {
            ensure!(began.elapsed() < PATIENCE, "no end after {PATIENCE:?}: {export:#}");
            let request = self.request(Method::GET, &path)?.header("prefer", "wait=60");
            export = accepted(request.send().await?).await?.json().await?;
        }
        ensure!(export["state"] == "succeeded", "{export:#}");
        Ok(export)
    }

    /// How long the gateway worked on the vendor's file: waiting for the vendor is not in it.
    async fn working_time(&self, export: &Value) -> anyhow::Result<Duration> {
        let events = self.call(Method::GET, &format!("{}/events", path_of(export)?), None).await?;
        let at = |event: &Value| event["at"].as_str().and_then(|at| at.parse::<DateTime<Utc>>().ok());
        let events = events["data"].as_array().context("no events")?;
        let ready = events.iter().find(|event| event["phase"] == "downloading").and_then(at);
        let end = events.last().and_then(at);
        let time = end.zip(ready).map_or(TimeDelta::zero(), |(end, ready)| end - ready);
        time.to_std().context("the events are out of order")
    }

    /// Downloads the export's only file to `to` and answers its size.
    async fn download(&self, export: &Value, to: &Path) -> anyhow::Result<u64> {
        let file = export["result"]["files"][0]["id"].as_str().context("no file")?;
        let path = format!("{}/files/{file}", path_of(export)?);
        let mut answer = accepted(self.request(Method::GET, &path)?.send().await?).await?;
        let mut out = File::create(to)?;
        while let Some(chunk) = answer.chunk().await? {
            out.write_all(&chunk)?;
        }
        Ok(out.metadata()?.len())
    }

    /// Holds each record against the sandbox's own person of that number; answers how many there are.
    fn check(&self, file: &Path) -> anyhow::Result<u64> {
        let world = self.sandbox.world();
        let mut lines = BufReader::new(File::open(file)?).lines();
        let mut people = 0;
        for index in world.audience(1).context("no audience")?.members() {
            let line = lines.next().with_context(|| format!("only {people} records"))??;
            let truth = (self.account.truth)(&world.person(index));
            ensure!(serde_json::from_str::<Value>(&line)? == truth, "person {index} is not what came out: {line}");
            people += 1;
        }
        ensure!(lines.next().is_none(), "more than {people} records");
        Ok(people)
    }

    /// Lets the Python script make the same file from the same archive.
    async fn peer(&self, ours: &Figures) -> anyhow::Result<()> {
        let (archive, result) = (self.folder.path().join("archive.zip"), self.folder.path().join("peer.ndjson"));
        self.download(&self.export("raw").await?, &archive).await?;
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peer.py");
        let python = tokio::process::Command::new("python3").arg(script).arg(&archive).arg(&result).output().await;
        let Ok(python) = python else {
            println!("{:<14} not measured: there is no python3", "  python");
            return Ok(());
        };
        ensure!(python.status.success(), "{}", String::from_utf8_lossy(&python.stderr));
        let told: Value = serde_json::from_slice(&python.stdout)?;
        let secs = |name: &str| Duration::from_secs_f64(told[name].as_f64().unwrap_or_default());
        let people = self.check(&result).context("the script's result")?;
        let peak_mib = told["peak_kib"].as_f64().unwrap_or_default() / 1024.0;
        // Both made the same records; their spelling differs, so the script's own bytes are not a measure.
        let result_bytes = ours.result_bytes;
        Figures { people, result_bytes, export: secs("wall_s"), cpu: secs("cpu_s"), peak_mib }.print("  python");
        Ok(())
    }

    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        let request = self.request(method, path)?;
        let request = if let Some(body) = body { request.json(body) } else { request };
        Ok(accepted(request.send().await?).await?.json().await?)
    }

    fn request(&self, method: Method, path: &str) -> anyhow::Result<reqwest::RequestBuilder> {
        Ok(self.http.request(method, self.base.join(path)?).bearer_auth(&self.token))
    }

    /// The most memory the gateway's process ever held.
    fn peak_mib(&self) -> anyhow::Result<f64> {
        let status = self.proc("status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? * 1024.0 / MIB)
    }

    /// User and system time of the gateway's process so far.
    fn cpu(&self) -> anyhow::Result<Duration> {
        // Fields 14 and 15; the second field, the name in parentheses, may hold spaces. See proc_pid_stat(5).
        let stat = self.proc("stat")?;
        let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |field: usize| fields.get(field - 3).and_then(|ticks| ticks.parse::<u64>().ok());
        let (user, system) = ticks(14).zip(ticks(15)).context("no times in /proc/*/stat")?;
        // Linux counts 100 ticks a second in this file on every architecture in use.
        Ok(Duration::from_millis((user + system) * 10))
    }

    fn proc(&self, file: &str) -> anyhow::Result<String> {
        let id = self.gateway.id().context("the gateway has ended")?;
        Ok(std::fs::read_to_string(format!("/proc/{id}/{file}"))?)
    }

    async fn stop(mut self) -> anyhow::Result<()> {
        let id = self.gateway.id().and_then(|id| rustix::process::Pid::from_raw(id.try_into().ok()?));
        rustix::process::kill_process(id.context("the gateway has ended")?, rustix::process::Signal::TERM)?;
        ensure!(self.gateway.wait().await?.success(), "the gateway did not end well");
        self.sandbox.stop().await;
        Ok(())
    }
}

/// Starts `headgate serve` and waits until it says where it listens.
async fn gateway(folder: &Path) -> anyhow::Result<(tokio::process::Child, Url)> {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_headgate"));
    // No settings of whoever runs this, but for the place of Postgres.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("HEADGATE_") && name != "HEADGATE_PG_BIN") {
            command.env_remove(name);
        }
    }
    let mut child = command
        .args(["serve", "--listen", "127.0.0.1:0", "--egress-allow", "127.0.0.1/32"])
        .args(["--poll-min-ms", "100", "--poll-max-ms", "500", "--log-format", "json", "--data-dir"])
        .arg(folder.join("data"))
        .current_dir(folder)
        .env("HEADGATE_JWT_SECRET", JWT_SECRET)
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut log = tokio::io::BufReader::new(child.stderr.take().context("no log")?).lines();
    while let Some(line) = log.next_line().await? {
        let line: Value = serde_json::from_str(&line).with_context(|| line.clone())?;
        if let Some(address) = line["address"].as_str() {
            let base = Url::parse(&format!("http://{address}"))?;
            tokio::spawn(async move {
                while let Ok(Some(line)) = log.next_line().await {
                    if line.contains("\"WARN\"") || line.contains("\"ERROR\"") {
                        eprintln!("{line}");
                    }
                }
            });
            return Ok((child, base));
        }
    }
    bail!("the gateway ended while it started")
}

fn token(folder: &Path) -> anyhow::Result<String> {
    let flags = Flags {
        data_dir: Some(folder.join("data").to_string_lossy().into_owned()),
        jwt_secret: Some(JWT_SECRET.into()),
        ..Flags::default()
    };
    let settings = Settings::resolve(&flags, &std::collections::BTreeMap::new(), &folder.join("headgate.toml"))?;
    let scope = "exports:read exports:write exports:download connections:admin";
    let grant = Grant { sub: "bench", tenant: "bench", scope, connections: vec!["*"] };
    token::mint(&settings, &grant, Utc::now().timestamp(), Duration::from_hours(2))
        .map_err(|failure| anyhow::anyhow!("{failure:?}"))
}

fn path_of(export: &Value) -> anyhow::Result<String> {
    Ok(format!("/v1/exports/{}", export["id"].as_str().context("no id")?))
}

async fn accepted(response: Response) -> anyhow::Result<Response> {
    let status = response.status();
    ensure!(status.is_success(), "{status}: {}", response.text().await?);
    Ok(response)
}
