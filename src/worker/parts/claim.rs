//! Claims due parts beside exports, in every worker.

use std::{sync::Arc, time::Duration};

use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, info_span, warn};

use super::part;
use crate::{
    store,
    worker::{IDLE_FALLBACK, IDLE_MIN, Worker},
};

/// Claims parts until `stop`. Parts take long and exports' steps are short, so a quarter of `permits` is left to these.
pub async fn claim_until(worker: &Worker, permits: &Arc<Semaphore>, stop: &CancellationToken, steps: &TaskTracker) {
    let concurrency = worker.settings.concurrency;
    let own = Arc::new(Semaphore::new((concurrency - concurrency / 4).max(1)));
    loop {
        let both = async { (own.clone().acquire_owned().await, permits.clone().acquire_owned().await) };
        let Some((Ok(own_first), Ok(first))) = stop.run_until_cancelled(both).await else { return };
        let mut free = vec![(own_first, first)];
        while let Ok(own) = own.clone().try_acquire_owned()
            && let Ok(permit) = permits.clone().try_acquire_owned()
        {
            free.push((own, permit));
        }
        let limit = i64::try_from(free.len()).unwrap_or(i64::MAX);
        // Runs to its end also when told to stop: a claim whose answer nobody reads would hold until its lease ends.
        let claimed = store::parts::claim_due(&worker.gateway.db, &worker.name, worker.settings.lease, limit).await;
        match claimed {
            Ok(claimed) if claimed.is_empty() => {
                drop(free);
                stop.run_until_cancelled(idle(worker)).await;
            }
            Ok(claimed) => {
                for (part, permit) in claimed.into_iter().zip(free) {
                    let (worker, stop) = (worker.clone(), stop.clone());
                    let export = &part.export;
                    let span = info_span!(
                        "export.part", export.id = %export.export_id, vendor.name = %export.vendor,
                        part.number = part.number, part.file = part.file
                    );
                    let driven = async move {
                        part::drive(&worker, part, stop).await;
                        drop(permit);
                        // Nobody is notified of a due time that lies ahead.
                        worker.gateway.hub.parts().ring();
                    };
                    steps.spawn(driven.instrument(span));
                }
            }
            Err(error) => {
                warn!(error = %error, "no parts could be claimed; trying again");
                drop(free);
                stop.run_until_cancelled(tokio::time::sleep(Duration::from_secs(1))).await;
            }
        }
    }
}

async fn idle(worker: &Worker) {
    let next = store::parts::next_due(&worker.gateway.db).await.ok().flatten().unwrap_or(IDLE_FALLBACK);
    worker.gateway.hub.parts().wait(next.clamp(IDLE_MIN, IDLE_FALLBACK)).await;
}
