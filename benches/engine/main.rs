//! What the job engine costs: steps per second, waiting, and claims beside finished rows; and graphile-worker on the same
//! Postgres, in the same run.
//!
//! `cargo bench --bench engine` starts a private Postgres for itself (or takes `HEADGATE_BENCH_DATABASE_URL`, whose user
//! may create databases). The vendor does nothing: a step is what the engine itself does of one, a claim and a release,
//! by the statements that workers use. Sizes: `--jobs 20000 --waiting 100000 --finished 1000000 --idle-secs 20 --reps 3`.
//! graphile-worker is run by node and installed below `target/bench`; without node its rows are left out.
#![allow(clippy::print_stdout, reason = "the table is what this program is for")]

mod peer;
mod rows;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use headgate::{
    config::{Flags, Settings},
    embedded::Embedded,
    exports::state::Phase,
    startup::{self, Roles},
    store::{
        self,
        engine::{Release, Share, claim_due, release_all},
    },
};
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool, postgres::PgPoolOptions};
use url::Url;

/// As graphile-worker is run beside it: this many jobs at once over this many connections.
const AT_ONCE: usize = 24;
const CONNECTIONS: u32 = 10;
/// Exports of one claim, where claims take many.
const BATCH: i64 = 500;
const LEASE: Duration = Duration::from_secs(30);
/// How much a claim may cost with many finished rows, against few.
const MAX_GROWTH: f64 = 1.3;
const MAX_IDLE_CPU: f64 = 0.10;
const MAX_IDLE_QUERIES: f64 = 1.0;

struct Sizes {
    jobs: u64,
    waiting: u64,
    finished: u64,
    idle: Duration,
    reps: u64,
}

impl Sizes {
    fn read() -> anyhow::Result<Self> {
        let mut sizes =
            Self { jobs: 20_000, waiting: 100_000, finished: 1_000_000, idle: Duration::from_secs(20), reps: 3 };
        // `cargo bench` adds `--bench`.
        let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
        while let Some(name) = arguments.next() {
            let value = arguments.next().with_context(|| format!("{name} needs a number"))?.parse()?;
            match name.as_str() {
                "--jobs" => sizes.jobs = value,
                "--waiting" => sizes.waiting = value,
                "--finished" => sizes.finished = value,
                "--idle-secs" => sizes.idle = Duration::from_secs(value),
                "--reps" => sizes.reps = value,
                _ => bail!("{name} is not known"),
            }
        }
        Ok(sizes)
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let sizes = Sizes::read()?;
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("engine-bench");
    let (url, embedded) = if let Ok(url) = std::env::var("HEADGATE_BENCH_DATABASE_URL") {
        (url, None)
    } else {
        let folder = folder.clone();
        let embedded = tokio::task::spawn_blocking(move || Embedded::start(&folder, None)).await??;
        (embedded.url().to_owned(), Some(embedded))
    };
    let broken = measure(&url, &folder, &sizes).await?;
    if let Some(embedded) = embedded {
        tokio::task::spawn_blocking(move || embedded.stop()).await?;
    }
    ensure!(broken.is_empty(), "{}", broken.join("; "));
    println!("\nEverything that is promised held.");
    Ok(())
}

/// Answers what did not hold.
async fn measure(url: &str, folder: &Path, sizes: &Sizes) -> anyhow::Result<Vec<String>> {
    let mut broken = Vec::new();
    println!("{:<44} {:>12}", "steps per second, median", "");
    let (mut single, mut batched) = (Vec::new(), Vec::new());
    let (mut peer_single, mut peer_batched) = (Vec::new(), Vec::new());
    let peer = peer::install(folder)?;
    for _ in 0..sizes.reps {
        // Turn by turn, so that what is compared ran at nearly the same time.
        single.push(steps(url, sizes.jobs, 1).await?);
        if let Some(peer) = &peer {
            peer_single.push(peer.drain(&fresh(url, "engine_peer").await?, "default", sizes.jobs)?);
        }
        batched.push(steps(url, sizes.jobs, BATCH).await?);
        if let Some(peer) = &peer {
            peer_batched.push(peer.drain(&fresh(url, "engine_peer").await?, "localQueue", sizes.jobs)?);
        }
    }
    for (name, mut ours, mut theirs) in [("one by one", single, peer_single), ("many at a time", batched, peer_batched)]
    {
        let ours = median(&mut ours);
        println!("{:<44} {ours:>12.0}", format!("headgate, {name}"));
        if peer.is_some() {
            let theirs = median(&mut theirs);
            println!("{:<44} {theirs:>12.0}   {:.2} times", format!("graphile-worker, {name}"), ours / theirs);
            if ours < theirs {
                broken.push(format!("{name}: {ours:.0} steps/s, graphile-worker does {theirs:.0}"));
            }
        }
    }
    broken.extend(idle(url, folder, sizes).await?);
    broken.extend(growth(url, sizes).await?);
    Ok(broken)
}

/// An empty database of that name.
async fn fresh(url: &str, name: &str) -> anyhow::Result<String> {
    let mut admin = PgConnection::connect(url).await?;
    for statement in [format!("drop database if exists {name} with (force)"), format!("create database {name}")] {
        sqlx::query(AssertSqlSafe(statement)).execute(&mut admin).await?;
    }
    let mut url = Url::parse(url)?;
    url.set_path(name);
    Ok(url.into())
}

async fn gateway_database(url: &str) -> anyhow::Result<(String, PgPool)> {
    let url = fresh(url, "engine_headgate").await?;
    let db = PgPoolOptions::new().max_connections(CONNECTIONS).connect(&url).await?;
    store::migrate(&db).await?;
    Ok((url, db))
}

/// Steps per second while a backlog of `jobs` is worked off, `batch` of them by each claim.
async fn steps(url: &str, jobs: u64, batch: i64) -> anyhow::Result<f64> {
    let (_, db) = gateway_database(url).await?;
    rows::live(&db, jobs, "now()").await?;
    let done = Arc::new(AtomicU64::new(0));
    let workers = if batch == 1 { AT_ONCE } else { 4 };
    let (began, cpu, postgres) = (Instant::now(), rows::own_cpu()?, rows::postgres_cpu()?);
    let tasks: Vec<_> = (0..workers)
        .map(|_| {
            let (db, done) = (db.clone(), done.clone());
            tokio::spawn(async move {
                loop {
                    let stepped = step(&db, batch).await?;
                    if done.fetch_add(stepped, Ordering::Relaxed) + stepped >= jobs || stepped == 0 {
                        return Ok::<_, sqlx::Error>(());
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    let took = began.elapsed();
    let of_each = |spent: Duration| spent.as_micros() / u128::from(jobs);
    let (cpu, postgres) =
        (of_each(rows::own_cpu()?.saturating_sub(cpu)), of_each(rows::postgres_cpu()?.saturating_sub(postgres)));
    println!("  {jobs} steps, {batch} a claim: {took:.2?}, CPU for each {cpu} us, Postgres {postgres} us");
    let left: i64 = sqlx::query_scalar("select count(*) from export where due_at < now() + interval '1 hour'")
        .fetch_one(&db)
        .await?;
    ensure!(left == 0, "{left} exports were left over");
    db.close().await;
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    Ok(jobs as f64 / took.as_secs_f64())
}

/// Claims up to `batch`, finds that the vendor says what it said before, and lets go; answers how many.
async fn step(db: &PgPool, batch: i64) -> sqlx::Result<u64> {
    let claimed = claim_due(db, "bench", LEASE, Share { limit: batch, fresh: 0 }).await?;
    let release = Release {
        after: Duration::from_hours(24),
        phase: Phase::VendorProcessing,
        waiting_reason: None,
        vendor_status: Some("not ready"),
        failures: 0,
        outcome_unknown: false,
        warning: None,
    };
    let releases: Vec<_> =
        claimed.iter().map(|claimed| (claimed.export.export_id, claimed.claim, release.clone())).collect();
    Ok(release_all(db, &releases).await?.len() as u64)
}

/// What one replica costs while nothing is due.
async fn idle(url: &str, folder: &Path, sizes: &Sizes) -> anyhow::Result<Vec<String>> {
    let (url, db) = gateway_database(url).await?;
    rows::live(&db, sizes.waiting, "now() + interval '1 day'").await?;
    let flags = Flags {
        database_url: Some(url),
        data_dir: Some(folder.join("headgate").to_string_lossy().into_owned()),
        master_key: Some("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=".into()),
        jwt_secret: Some("a-secret-of-this-benchmark-that-signs-nothing-else".into()),
        ..Flags::default()
    };
    let settings = Settings::resolve(&flags, &std::collections::BTreeMap::new(), &folder.join("headgate.toml"))?;
    let running = startup::start(&settings, Roles { api: false, worker: true }).await?;
    // The first look around is no waiting.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (began, cpu, transactions) = (Instant::now(), rows::own_cpu()?, rows::transactions(&db).await?);
    tokio::time::sleep(sizes.idle).await;
    let transactions = rows::transactions(&db).await? - transactions;
    let secs = began.elapsed().as_secs_f64();
    let cpu = rows::own_cpu()?.saturating_sub(cpu).as_secs_f64() / secs;
    // The pool tries a connection before each query, which counts as one too; and there are the looks at the figure.
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let queries = (transactions / 2 - 1).max(0) as f64 / secs;
    running.stop().await;
    db.close().await;
    println!("\n{} exports that are not due, {secs:.0} s", sizes.waiting);
    println!("{:<44} {:>11.1}%", "core of the replica", cpu * 100.0);
    println!("{:<44} {queries:>12.2}", "queries per second");
    let mut broken = Vec::new();
    if cpu > MAX_IDLE_CPU {
        broken.push(format!("waiting took {:.0} % of a core", cpu * 100.0));
    }
    // The sweep of each minute is no polling.
    if queries > MAX_IDLE_QUERIES + 5.0 / secs {
        broken.push(format!("waiting took {queries:.2} queries a second"));
    }
    Ok(broken)
}

/// What a step costs with few and with many finished rows beside the live ones.
async fn growth(url: &str, sizes: &Sizes) -> anyhow::Result<Vec<String>> {
    let (_, db) = gateway_database(url).await?;
    let few = (sizes.finished / 1000).max(1);
    println!("\nmilliseconds of a step, median");
    let mut costs = Vec::new();
    let mut there = 0;
    for finished in [few, sizes.finished] {
        rows::finished(&db, finished - there).await?;
        there = finished;
        // One by one, each due again at once, as many times as there are live rows.
        rows::live(&db, 2000, "now()").await?;
        sqlx::query("vacuum analyze export").execute(&db).await?;
        let mut took = Vec::new();
        for _ in 0..1000 {
            let began = Instant::now();
            ensure!(step(&db, 1).await? == 1, "nothing was due");
            took.push(began.elapsed().as_secs_f64() * 1e3);
        }
        let cost = median(&mut took);
        println!("{:<44} {cost:>12.3}", format!("{finished} finished rows"));
        sqlx::query("delete from export where finished_at is null").execute(&db).await?;
        costs.push(cost);
    }
    db.close().await;
    let growth = costs[1] / costs[0];
    println!("{:<44} {growth:>12.2}", "times");
    Ok(if growth > MAX_GROWTH { vec![format!("a step costs {growth:.2} times as much")] } else { Vec::new() })
}

fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}
