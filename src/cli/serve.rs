//! `headgate serve` and `headgate worker`: run until SIGTERM or Ctrl-C, then drain.

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use super::{Failure, run_on_all_cores};
use crate::{
    config::{Flags, Settings},
    startup::{self, Roles},
    telemetry,
};

#[derive(clap::Args)]
pub struct ServeArguments {
    /// Serve the API only; exports are driven by workers elsewhere
    #[arg(long)]
    no_worker: bool,
    #[command(flatten)]
    settings: Flags,
}

#[derive(clap::Args)]
pub struct WorkerArguments {
    #[command(flatten)]
    settings: Flags,
}

pub fn serve(arguments: &ServeArguments) -> Result<(), Failure> {
    run(&arguments.settings, Roles { api: true, worker: !arguments.no_worker })
}

pub fn worker(arguments: &WorkerArguments) -> Result<(), Failure> {
    run(&arguments.settings, Roles { api: false, worker: true })
}

/// Runs the given roles until a signal asks to stop.
fn run(flags: &Flags, roles: Roles) -> Result<(), Failure> {
    let settings = Settings::load(flags)?;
    let _telemetry = telemetry::init(&settings).context("logging cannot be set up")?;
    for warning in &settings.warnings {
        warn!("{warning}");
    }
    run_on_all_cores(until_told(&settings, roles))
}

async fn until_told(settings: &Settings, roles: Roles) -> anyhow::Result<()> {
    // Before anything is started: a signal during the start must end it in order, too.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let running = tokio::select! {
        running = startup::start(settings, roles) => running?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    info!("stopping: no new claims, running steps are handed back, open downloads get the grace period");
    running.stop().await;
    info!("stopped");
    Ok(())
}
