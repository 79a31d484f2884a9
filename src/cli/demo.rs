//! `headgate demo`: a private Postgres, the vendors' sandbox and a gateway; one export from each vendor, with the
//! requests that a caller would send, and the first records of each result in the same columns.

use std::{collections::BTreeMap, path::Path, time::Duration};

use anyhow::{Context, anyhow, bail};
use chrono::Utc;
use reqwest::{Client, Method, Response};
use serde_json::{Value, json};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};
use url::Url;

use super::{
    Failure, run_on_all_cores,
    token::{self, Grant},
};
use crate::{
    config::{Flags, Settings},
    startup::{self, Roles, Running},
    vendors::{
        registry::VENDORS,
        sandbox::{self, DemoConnection, Sandbox, SandboxConfig},
    },
};

/// How many records of each result are shown.
const SHOWN: usize = 3;
const COLUMNS: &[&str] =
    &["user_id", "vendor_user_id", "email", "first_name", "gender", "city", "language", "birth_date"];
const COLUMN_WIDTH: usize = 24;
const HOUR: Duration = Duration::from_hours(1);

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Stay up afterwards, and print the addresses and a token.
    #[arg(long)]
    keep: bool,
    /// Users in each vendor's audience.
    #[arg(long, default_value_t = 12)]
    people: u64,
    /// Address of the gateway.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: String,
    /// Folder with the binaries of Postgres [default: found or fetched]
    #[arg(long, env = "HEADGATE_PG_BIN", value_name = "DIR")]
    pg_bin: Option<String>,
}

pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    run_on_all_cores(demo(arguments))
}

/// Runs the demo; everything it starts is gone when it returns.
async fn demo(args: &Arguments) -> anyhow::Result<()> {
    let data_dir = tempfile::Builder::new().prefix("headgate-demo-").tempdir()?;
    let config = SandboxConfig { people: args.people, processing: Duration::from_secs(2), ..SandboxConfig::default() };
    let sandbox = sandbox::start(config, "127.0.0.1:0".parse()?).await?;
    say(&format!("The vendors' sandbox listens on {}", sandbox.base_url()));
    let settings = settings(args, data_dir.path())?;
    say("Starting a private Postgres and the gateway …");
    let running = startup::start(&settings, Roles { api: true, worker: true }).await?;
    let gateway = running.local_url().context("the gateway has no address")?;
    say(&format!("The gateway listens on {gateway}"));

    let outcome = tell(&settings, &gateway, &sandbox).await;
    if outcome.is_ok() && args.keep {
        stay(&settings, &gateway, &sandbox).await?;
    }
    stop(running, sandbox).await;
    outcome?;
    say("\nDone. `headgate demo --keep` stays up to try it by hand.");
    Ok(())
}

fn settings(args: &Arguments, data_dir: &Path) -> anyhow::Result<Settings> {
    let flags = Flags {
        listen: Some(args.listen.clone()),
        data_dir: Some(data_dir.to_string_lossy().into_owned()),
        // The sandbox is on this machine; nothing else private may be reached.
        egress_allow: Some("127.0.0.1/32".into()),
        poll_min_ms: Some("250".into()),
        pg_bin: args.pg_bin.clone(),
        ..Flags::default()
    };
    // The demo is the same wherever it runs: it reads no settings of a real gateway.
    Ok(Settings::resolve(&flags, &BTreeMap::new(), &data_dir.join("headgate.toml"))?)
}

async fn tell(settings: &Settings, gateway: &Url, sandbox: &Sandbox) -> anyhow::Result<()> {
    let platform_team = mint(settings, "platform-team", "connections:admin", HOUR)?;
    let platform_team = Caller::new("ADMIN_TOKEN", platform_team, gateway);
    let crm = mint(settings, "crm", "exports:read exports:write exports:download", HOUR)?;
    let crm = Caller::new("TOKEN", crm, gateway);
    let mut results = Vec::new();
    for spec in VENDORS {
        let connection = (spec.sandbox_connection)(sandbox.base_url());
        say(&format!("\n── {} ──", spec.display_name));
        say("The platform team adds the account; its credentials are sealed and never shown again:");
        let path = format!("/v1/connections/{}", connection.name);
        platform_team.call(Method::PUT, &path, Some(&connection.body)).await?;
        platform_team.call(Method::POST, &format!("{path}/check"), None).await?;
        results.push((spec.name, export(&crm, &connection).await?));
    }
    say("\n── The same people from each vendor, in the same columns ──\n");
    side_by_side(&results);
    Ok(())
}

/// Submits, follows and downloads one export; answers its records.
async fn export(crm: &Caller, connection: &DemoConnection) -> anyhow::Result<Vec<Value>> {
    say("An internal app submits an export:");
    let body = json!({
        "connection": connection.name,
        "dataset": "audience_members",
        "parameters": { "audience": connection.audience },
        "labels": { "purpose": "demo" },
    });
    let mut export = crm.call(Method::POST, "/v1/exports", Some(&body)).await?;
    let id = text(&export, "id")?;
    say(&format!("   accepted: {id}\nIt follows the export; the answer is held until something changes:"));
    let path = format!("/v1/exports/{id}");
    crm.show(&Method::GET, &path, None, Some("prefer: wait=30"));
    while export["finished_at"].is_null() {
        export = crm.get_waiting(&path).await?;
        let phase = export["phase"].as_str().map(|phase| format!(" ({phase})")).unwrap_or_default();
        say(&format!("   {}{phase}", text(&export, "state")?));
    }
    if export["state"] != "succeeded" {
        bail!("the export ended as {}: {}", export["state"], export["error"]);
    }
    let result = &export["result"];
    let file = &result["files"][0];
    say(&format!("   {} records, {} bytes, sha256 {}", result["records"], result["bytes"], text(file, "sha256")?));
    say("It downloads the file:");
    let download = crm.download(&format!("{path}/files/{}", text(file, "id")?)).await?;
    let records: Vec<Value> = download.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    say(&format!("   {} records received", records.len()));
    Ok(records)
}

/// One row a vendor and record, the same columns for all.
fn side_by_side(results: &[(&str, Vec<Value>)]) {
    let cells = |first: &str, cells: Vec<String>| {
        let cells: Vec<_> = cells.iter().map(|cell| fit(cell)).collect();
        say(format!("{first:<15}{}", cells.join(" ")).trim_end());
    };
    cells("", COLUMNS.iter().map(ToString::to_string).collect());
    for record in 0..SHOWN {
        for (vendor, records) in results {
            let Some(row) = records.get(record) else { continue };
            cells(vendor, COLUMNS.iter().map(|column| row[*column].as_str().unwrap_or("–").to_owned()).collect());
        }
    }
}

/// Cuts or pads a cell to the column's width as a terminal shows it.
fn fit(cell: &str) -> String {
    let cell = cell.replace(char::is_control, " ");
    let mut out = String::new();
    for c in cell.chars() {
        if out.width() + c.width().unwrap_or(0) >= COLUMN_WIDTH {
            out.push('…');
            break;
        }
        out.push(c);
    }
    let padding = COLUMN_WIDTH.saturating_sub(out.width());
    out + &" ".repeat(padding)
}

async fn stay(settings: &Settings, gateway: &Url, sandbox: &Sandbox) -> anyhow::Result<()> {
    let scope = "exports:read exports:write exports:download connections:admin";
    let token = mint(settings, "you", scope, 24 * HOUR)?;
    say(&format!(
        "\nGateway:  {gateway}  (API explorer: {gateway}docs)\nSandbox:  {}\nFor a day, in another terminal:\n\n   export TOKEN={token}\n   \
         curl -s {gateway}v1/exports -H \"authorization: Bearer $TOKEN\"\n\nCtrl-C ends it.",
        sandbox.base_url()
    ));
    tokio::signal::ctrl_c().await?;
    Ok(())
}

fn mint(settings: &Settings, sub: &str, scope: &str, ttl: Duration) -> anyhow::Result<String> {
    let grant = Grant { sub, tenant: "growth", scope, connections: vec!["*"] };
    token::mint(settings, &grant, Utc::now().timestamp(), ttl).map_err(|failure| anyhow!("{failure:?}"))
}

async fn stop(running: Running, sandbox: Sandbox) {
    running.stop().await;
    sandbox.stop().await;
}

/// Someone who calls the API and shows each request as curl.
struct Caller {
    variable: &'static str,
    token: String,
    base: Url,
    http: Client,
}

impl Caller {
    fn new(variable: &'static str, token: String, base: &Url) -> Self {
        Self { variable, token, base: base.clone(), http: Client::new() }
    }

    /// Prints the request; a credential in its body is shown as what a reader would put there.
    fn show(&self, method: &Method, path: &str, body: Option<&Value>, header: Option<&str>) {
        let mut line =
            format!("   $ curl -s -X {method} $HEADGATE{path} -H \"authorization: Bearer ${}\"", self.variable);
        if let Some(header) = header {
            line += &format!(" -H '{header}'");
        }
        if let Some(body) = body {
            let mut body = body.clone();
            if let Some(credentials) = body.get_mut("credentials").and_then(Value::as_object_mut) {
                credentials.values_mut().for_each(|value| *value = "…".into());
            }
            line += &format!(" --json '{body}'");
        }
        say(&line);
    }

    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        self.show(&method, path, body, None);
        let mut request = self.http.request(method, self.base.join(path)?).bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(body);
        }
        Ok(accepted(request.send().await?).await?.json().await?)
    }

    async fn get_waiting(&self, path: &str) -> anyhow::Result<Value> {
        let request = self.http.get(self.base.join(path)?).bearer_auth(&self.token).header("prefer", "wait=30");
        Ok(accepted(request.send().await?).await?.json().await?)
    }

    async fn download(&self, path: &str) -> anyhow::Result<String> {
        self.show(&Method::GET, path, None, None);
        let request = self.http.get(self.base.join(path)?).bearer_auth(&self.token);
        Ok(accepted(request.send().await?).await?.text().await?)
    }
}

async fn accepted(response: Response) -> anyhow::Result<Response> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    bail!("the gateway answered {status}: {}", response.text().await.unwrap_or_default())
}

fn text(value: &Value, key: &str) -> anyhow::Result<String> {
    Ok(value[key].as_str().with_context(|| format!("the answer has no `{key}`"))?.to_owned())
}

#[expect(clippy::print_stdout, reason = "this command is there to be read")]
fn say(line: &str) {
    println!("{line}");
}
