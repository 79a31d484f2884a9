//! Drives exports: claims what is due under a lease, does one step, records it. Any number of workers in any number of
//! processes share the work through Postgres alone. Start at [`Worker::run`]; a claimed export goes through
//! [`step::drive`]. Beside that, [`webhooks`] tells endpoints what happened and [`schedules`] begins runs.

mod deliver;
mod hold;
mod parts;
mod release;
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
    store::{
        self,
        engine::{ClaimedExport, Share},
    },
};
use release::Releaser;

/// How long a worker sleeps at most when nothing is due: notifications can be lost, and not everything is notified.
const IDLE_FALLBACK: Duration = Duration::from_secs(1);
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
    /// Exports of one tenant, and over one connection, that run at once over all replicas.
    pub max_running_of_tenant: u32,
    pub max_running_over_connection: u32,
    pub limits: Limits,
    /// A transfer in which nothing moves for so long is broken off and tried again.
    pub stall: Duration,
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
    releaser: Releaser,
}

impl Worker {
    /// Call within a runtime.
    pub fn new(gateway: Gateway, settings: WorkerSettings) -> Self {
        let name = format!("worker-{}", Uuid::new_v4().simple());
        let releaser = Releaser::start(gateway.db.clone());
        Self { gateway, settings: Arc::new(settings), name: name.into(), releaser }
    }

    /// Works until `stop`; then claims nothing more, hands back what it holds, and returns.
    pub async fn run(self, stop: CancellationToken) {
        info!(worker.name = %self.name, concurrency = self.settings.concurrency, "worker started");
        let steps = TaskTracker::new();
        let permits = Arc::new(Semaphore::new(self.settings.concurrency));
        let claiming = async {
            tokio::join!(
                self.claim_until(&permits, &stop, &steps),
                parts::claim::claim_until(&self, &permits, &stop, &steps),
                webhooks::send(&self, &stop, &steps),
                schedules::begin_runs(&self, &stop)
            )
        };
        tokio::select! {
            ((), (), (), ()) = claiming => {}
            () = self.sweep_for_ever() => {}
        }
        steps.close();
        steps.wait().await;
        info!(worker.name = %self.name, "worker stopped");
    }

    async fn claim_until(&self, permits: &Arc<Semaphore>, stop: &CancellationToken, steps: &TaskTracker) {
        let mut odd = false;
        loop {
            let Some(Ok(first)) = stop.run_until_cancelled(permits.clone().acquire_owned()).await else { return };
            let mut free = vec![first];
            while let Ok(permit) = permits.clone().try_acquire_owned() {
                free.push(permit);
            }
            odd = !odd;
            // Runs to its end also when told to stop: a claim whose answer nobody reads would hold until its lease ends.
            match self.claim(free.len(), odd).await {
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

    /// Claims half of those that nobody has had in hand and half of those that are due again, so that neither keeps the
    /// other waiting, or more of one kind where there are fewer of the other. Of an odd number, `odd` says who gets one more.
    async fn claim(&self, limit: usize, odd: bool) -> sqlx::Result<Vec<ClaimedExport>> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let half = Share { limit, fresh: limit / 2 + i64::from(odd && limit % 2 == 1) };
        let (db, lease) = (&self.gateway.db, self.settings.lease);
        let claimed = store::engine::claim_due(db, &self.name, lease, half).await?;
        if claimed.is_empty() && half.fresh == 0 {
            return store::engine::claim_due(db, &self.name, lease, Share { limit, fresh: limit }).await;
        }
        Ok(claimed)
    }

    /// Waits until something may be due. While nothing is, that costs one small query a second.
    async fn idle(&self) {
        loop {
            let next = store::engine::next_due(&self.gateway.db).await.ok().flatten().unwrap_or(Duration::MAX);
            let hinted = self.gateway.hub.due(next.clamp(IDLE_MIN, IDLE_FALLBACK)).await;
            if hinted || next <= IDLE_FALLBACK {
                return;
            }
        }
    }

    async fn sweep_for_ever(&self) {
        let mut every = tokio::time::interval(SWEEP_EVERY);
        loop {
            every.tick().await;
            if let Err(error) = store::slots::wake_all_next(&self.gateway.db).await {
                warn!(error = %error, "exports that wait for room could not be looked at; trying again later");
            }
            match files::sweep_results(&self.gateway).await {
                Ok(0) => {}
                Ok(count) => debug!(results = count, "removed the files of results whose life is over"),
                Err(error) => warn!(error = %error, "expired results could not be removed; trying again later"),
            }
        }
    }
}
