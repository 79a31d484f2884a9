//! Begins the runs of schedules that are due. Any number of processes do so side by side.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::Worker;
use crate::{
    operations::{Gateway, runs},
    store,
};

/// How long to sleep at most: notifications can be lost.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// And at least: what is due may be waiting for a live run.
const IDLE_MIN: Duration = Duration::from_secs(1);
/// How often old history is looked for.
const SWEEP_EVERY: Duration = Duration::from_mins(10);

/// Begins runs until `stop`.
pub async fn begin_runs(worker: &Worker, stop: &CancellationToken) {
    tokio::select! {
        () = begin_until(&worker.gateway, stop) => {}
        () = sweep_for_ever(&worker.gateway) => {}
    }
}

async fn begin_until(gateway: &Gateway, stop: &CancellationToken) {
    while !stop.is_cancelled() {
        let pause = match runs::begin_next(gateway).await {
            Ok(true) => continue,
            Ok(false) => {
                let next = store::schedules::next_due(&gateway.db).await.ok().flatten().unwrap_or(IDLE_MAX);
                next.clamp(IDLE_MIN, IDLE_MAX)
            }
            Err(error) => {
                warn!(error = %error, "no runs could be begun; trying again");
                IDLE_MIN
            }
        };
        stop.run_until_cancelled(gateway.hub.schedules().wait(pause)).await;
    }
}

async fn sweep_for_ever(gateway: &Gateway) {
    let mut every = tokio::time::interval(SWEEP_EVERY);
    loop {
        every.tick().await;
        match runs::sweep_runs(gateway).await {
            Ok(0) => {}
            Ok(count) => debug!(lines = count, "deleted old history of schedules"),
            Err(error) => warn!(error = %error, "old history of schedules could not be deleted; trying again later"),
        }
    }
}
