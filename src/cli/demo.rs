//! `headgate demo`: a private Postgres, the vendors' sandbox and a gateway; one export from each vendor, with the
//! requests that a caller would send, and the first records of each result in the same columns.

use std::{collections::BTreeMap, path::Path, time::Duration};

use anyhow::{Context, anyhow, bail};
use chrono::Utc;
use reqwest::{Client, Method, Response};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};
use url::Url;

use super::{
    Failure, run_on_all_cores,
    token::{self, Grant},
};
use crate::{
    config::{Flags, Settings},
    startup::{self, Roles},
    vendors::{
        registry::VENDORS,
        sandbox::{self, DemoConnection, Sandbox, SandboxConfig},
    },
};

/// How many records of each result are shown.
const SHOWN: usize = 3;
/// The name comes last: emoji are as wide as the terminal pleases, and nothing follows that could be pushed aside.
const COLUMNS: &[&str] =
    &["user_id", "vendor_user_id", "email", "gender", "city", "language", "birth_date", "first_name"];
/// Longer cells are cut, so that the table fits 120 columns.
const MAX_CELL_WIDTH: usize = 20;
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
    say(&format!("The gateway listens on {gateway}\n\n   export HEADGATE={}", without_slash(&gateway)));

    let outcome = tokio::select! {
        outcome = tell_and_stay(args, &settings, &gateway, &sandbox) => outcome,
        interrupted = told_to_stop() => interrupted,
    };
    // Also after Ctrl-C: neither a database nor a folder is left behind.
    running.stop().await;
    sandbox.stop().await;
    outcome
}

async fn tell_and_stay(args: &Arguments, settings: &Settings, gateway: &Url, sandbox: &Sandbox) -> anyhow::Result<()> {
    tell(settings, gateway, sandbox).await?;
    if !args.keep {
        say("\nDone. With --keep the demo stays up to try it by hand.");
        return Ok(());
    }
    invite(settings, gateway, sandbox)?;
    std::future::pending().await
}

/// Returns when somebody asks this process to end.
async fn told_to_stop() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => {}
        interrupted = tokio::signal::ctrl_c() => interrupted?,
    }
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
        say("The platform team adds the account; the gateway seals its credentials and never shows them again:");
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
    let mut rows = vec![[&[""], COLUMNS].concat().iter().map(|name| cell(name)).collect::<Vec<_>>()];
    for record in 0..SHOWN {
        for (vendor, records) in results {
            let Some(row) = records.get(record) else { continue };
            let values = COLUMNS.iter().map(|column| row[*column].as_str().unwrap_or("–"));
            rows.push(std::iter::once(*vendor).chain(values).map(cell).collect());
        }
    }
    for line in table(&rows) {
        say(&line);
    }
}

/// Lines with the cells of a column below each other, as a terminal shows them.
fn table(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.first().map_or(0, Vec::len);
    let widest = |column: usize| rows.iter().map(|row| row[column].width()).max().unwrap_or_default();
    let widths: Vec<_> = (0..columns).map(widest).collect();
    let line = |row: &Vec<String>| {
        let padded = row.iter().zip(&widths).map(|(cell, width)| format!("{cell}{}", " ".repeat(width - cell.width())));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// What a value shows in the table: on one line, and cut where it is too long.
fn cell(value: &str) -> String {
    let value = value.replace(char::is_control, " ");
    if value.width() <= MAX_CELL_WIDTH {
        return value;
    }
    let mut cut = String::new();
    for c in value.chars() {
        if cut.width() + c.width().unwrap_or(0) >= MAX_CELL_WIDTH {
            break;
        }
        cut.push(c);
    }
    cut + "…"
}

/// Says how to go on by hand.
fn invite(settings: &Settings, gateway: &Url, sandbox: &Sandbox) -> anyhow::Result<()> {
    let scope = "exports:read exports:write exports:download connections:admin";
    let token = mint(settings, "you", scope, 24 * HOUR)?;
    let base = without_slash(gateway);
    say(&format!(
        "\nEverything stays up until Ctrl-C. In another terminal, for a day:\n\n   export HEADGATE={base}\n   \
         export TOKEN={token}\n   export ADMIN_TOKEN=$TOKEN\n   \
         curl -s $HEADGATE/v1/exports -H \"authorization: Bearer $TOKEN\"\n\n\
         The requests above work there too. To click instead: {base}/docs/, where \"Authorize\" takes the token.\n\
         The vendors' sandbox: {}__sandbox/state",
        sandbox.base_url()
    ));
    Ok(())
}

/// As it is put in front of a path.
fn without_slash(base: &Url) -> &str {
    base.as_str().trim_end_matches('/')
}

fn mint(settings: &Settings, sub: &str, scope: &str, ttl: Duration) -> anyhow::Result<String> {
    let grant = Grant { sub, tenant: "growth", scope, connections: vec!["*"] };
    token::mint(settings, &grant, Utc::now().timestamp(), ttl).map_err(|failure| anyhow!("{failure:?}"))
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

    /// Prints the request as it can be pasted into a shell. The credentials are the sandbox's own, so they may be read.
    fn show(&self, method: &Method, path: &str, body: Option<&Value>, header: Option<&str>) {
        // curl sends GET by itself, and POST when there is a body.
        let by_itself = if body.is_some() { Method::POST } else { Method::GET };
        let method = if *method == by_itself { String::new() } else { format!("-X {method} ") };
        let header = header.map(|header| format!(" -H '{header}'")).unwrap_or_default();
        let body = body.map(|body| format!(" --json '{}'", in_lines(body))).unwrap_or_default();
        let token = self.variable;
        say(&format!("   curl -s {method}$HEADGATE{path} -H \"authorization: Bearer ${token}\"{header}{body}"));
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

/// JSON with a line for each member, when it is too long for one line.
fn in_lines(body: &Value) -> String {
    let line = body.to_string();
    let Some(members) = body.as_object().filter(|_| line.len() > 80) else { return line };
    let members: Vec<_> = members.iter().map(|(name, value)| format!("{}:{value}", json!(name))).collect();
    format!("{{\n      {}\n   }}", members.join(",\n      "))
}

fn text(value: &Value, key: &str) -> anyhow::Result<String> {
    Ok(value[key].as_str().with_context(|| format!("the answer has no `{key}`"))?.to_owned())
}

#[expect(clippy::print_stdout, reason = "this command is there to be read")]
fn say(line: &str) {
    println!("{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_as_wide_as_a_terminal_shows_it() {
        let rows = [["", "city", "name"], ["braze", "上海", "=1+1"], ["growingio_cdp", "Köln\n", "王"]];
        let rows: Vec<Vec<_>> = rows.iter().map(|row| row.iter().copied().map(cell).collect()).collect();
        assert_eq!(
            table(&rows),
            ["               city   name", "braze          上海   =1+1", "growingio_cdp  Köln   王"]
        );
    }

    #[test]
    fn a_long_cell_is_cut_to_its_width() {
        assert_eq!(cell("9e15117160ab35d600000000"), "9e15117160ab35d6000…");
        assert_eq!(cell("会员会员会员会员会员会员").width(), 19);
        assert_eq!(cell("9e15117160ab35d60000"), "9e15117160ab35d60000");
    }

    #[test]
    fn a_body_that_is_shown_in_lines_is_the_same_body() {
        let body = json!({"vendor": "braze", "settings": {"base_url": "http://127.0.0.1:1/braze"}, "mapping": {"a": "it's \" a quote, and long enough for lines"}});
        let shown = in_lines(&body);
        assert!(shown.lines().count() == 5);
        assert_eq!(serde_json::from_str::<Value>(&shown).unwrap(), body);
    }
}
