//! Drives exports: claims what is due under a lease, does one step, records it. Any number of workers in any number of
//! processes share the work through Postgres alone. Start at [`Worker::run`]; a claimed export goes through
//! [`step::drive`]. Beside that, [`webhooks`] tells endpoints what happened and [`schedules`] begins runs.

mod deliver;
mod hold;
mod parts;
mod schedules;
mod settle;
mod step;
mod transfer;
mod webhooks;

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, debug, info, info_span, warn};
use url::Url;
use uuid::Uuid;

use crate::{
    exports::retry::Spacing,
    operations::{Gateway, files},
    results::Limits,
    store,
};

/// How long a worker sleeps at most when nothing is due: notifications can be lost.
const IDLE_FALLBACK: Duration = Duration::from_secs(5);
/// The shortest sleep, for exports that are due but in other hands.
const IDLE_MIN: Duration = Duration::from_millis(20);
/// How often expired results are looked for.
const SWEEP_EVERY: Duration = Duration::from_mins(1);

/// How a worker works.
#[derive(Debug, Clone)]
pub struct WorkerSettings {
    /// Steps at once in this process.
    pub concurrency: usize,
    /// How long a claim holds without a heartbeat.
    pub lease: Duration,
    /// Spacing of polls and of tries after a failure.
    pub spacing: Spacing,
    /// How long results are kept.
    pub result_ttl: Duration,
    pub limits: Limits,
    /// Where vendor files are received; must exist.
    pub spool_dir: PathBuf,
    /// What vendors reach us by; callbacks are offered only when it is set.
    pub callback_base: Option<Url>,
}

/// One worker process.
#[derive(Clone)]
pub struct Worker {
    gateway: Gateway,
    settings: Arc<WorkerSettings>,
    /// Random per process; only for people who look into the database.
    name: Arc<str>,
}

impl Worker {
    pub fn new(gateway: Gateway, settings: WorkerSettings) -> Self {
        let name = format!("worker-{}", Uuid::new_v4().simple());
        Self { gateway, settings: Arc::new(settings), name: name.into() }
    }

    /// Works until `stop`; then claims nothing more, hands back what it holds, and returns.
    pub async fn run(self, stop: CancellationToken) {
        info!(worker.name = %self.name, concurrency = self.settings.concurrency, "worker started");
        let steps = TaskTracker::new();
        let exports = async {
            tokio::select! {
                () = self.claim_until(&stop, &steps) => {}
                () = self.sweep_for_ever() => {}
            }
        };
        tokio::join!(exports, webhooks::send(&self, &stop, &steps), schedules::begin_runs(&self, &stop));
        steps.close();
        steps.wait().await;
        info!(worker.name = %self.name, "worker stopped");
    }

    async fn claim_until(&self, stop: &CancellationToken, steps: &TaskTracker) {
        let permits = Arc::new(Semaphore::new(self.settings.concurrency));
        loop {
            let Some(Ok(first)) = stop.run_until_cancelled(permits.clone().acquire_owned()).await else { return };
            let mut free = vec![first];
            while let Ok(permit) = permits.clone().try_acquire_owned() {
                free.push(permit);
            }
            let limit = i64::try_from(free.len()).unwrap_or(i64::MAX);
            // Runs to its end also when told to stop: a claim whose answer nobody reads would hold until its lease ends.
            match store::engine::claim_due(&self.gateway.db, &self.name, self.settings.lease, limit).await {
                Ok(claimed) if claimed.is_empty() => {
                    drop(free);
                    stop.run_until_cancelled(self.idle()).await;
                }
                Ok(claimed) => {
                    for (export, permit) in claimed.into_iter().zip(free) {
                        let (worker, stop) = (self.clone(), stop.clone());
                        let span = info_span!("export.step", export.id = %export.export.export_id, vendor.name = %export.export.vendor);
                        steps.spawn(
                            async move {
                                step::drive(&worker, export, stop).await;
                                drop(permit);
                                // Nobody is notified of a due time that lies ahead.
                                worker.gateway.hub.stir();
                            }
                            .instrument(span),
                        );
                    }
                }
                Err(error) => {
                    warn!(error = %error, "no exports could be claimed; trying again");
                    drop(free);
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    async fn idle(&self) {
        let next = store::engine::next_due(&self.gateway.db).await.ok().flatten().unwrap_or(IDLE_FALLBACK);
        self.gateway.hub.due(next.clamp(IDLE_MIN, IDLE_FALLBACK)).await;
    }

    async fn sweep_for_ever(&self) {
        let mut every = tokio::time::interval(SWEEP_EVERY);
        loop {
            every.tick().await;
            match files::sweep_results(&self.gateway).await {
                Ok(0) => {}
                Ok(count) => debug!(results = count, "removed the files of results whose life is over"),
                Err(error) => warn!(error = %error, "expired results could not be removed; trying again later"),
            }
        }
    }
}
