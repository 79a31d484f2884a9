//! `headgate serve` and `headgate worker`: run until SIGTERM or Ctrl-C, then drain.

use tokio::signal::unix::{SignalKind, signal};
use tracing::info;

use crate::{
    config::Settings,
    startup::{self, Roles},
};

/// Runs the given roles until a signal asks to stop.
pub async fn run(settings: &Settings, roles: Roles) -> anyhow::Result<()> {
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
