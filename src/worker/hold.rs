//! Holding a claim: a heartbeat of its own renews the lease, notes progress, and tells the step when to stop.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicI32, Ordering},
    },
    time::Duration,
};

use tokio::{sync::watch, task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::Worker;
use crate::{
    exports::state::State,
    results::Meter,
    store::{
        self,
        engine::{ClaimedExport, Moved},
        parts::Tally,
    },
};

/// How often progress is looked at.
const BEAT: Duration = Duration::from_secs(1);

/// Why a step must stop in the middle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interrupt {
    /// Another worker has the export now.
    Lost,
    /// A caller wants it stopped.
    Cancelled,
    /// The export's time is up.
    Deadline,
    /// This process shuts down.
    Shutdown,
}

/// A claim that is being held. Dropping it ends the heartbeat.
#[derive(Debug)]
pub struct Hold {
    interrupt: watch::Receiver<Option<Interrupt>>,
    transfer: Arc<Transfer>,
    heartbeat: JoinHandle<()>,
}

/// What the step shows to the heartbeat.
#[derive(Debug, Default)]
pub struct Transfer {
    pub meter: Meter,
    files_total: AtomicI32,
    /// Of an export in parts: what earlier steps have moved. Files are parts there.
    before: OnceLock<Moved>,
    parts_done: AtomicI32,
}

impl Transfer {
    pub fn expect_files(&self, total: i32) {
        self.files_total.store(total, Ordering::Relaxed);
    }

    /// Goes on where earlier steps stopped.
    pub fn resume(&self, tally: &Tally) {
        let total = i32::try_from(tally.total).unwrap_or(i32::MAX);
        self.expect_files(total);
        let before = Moved {
            records: tally.records,
            bytes_read: tally.bytes_read,
            bytes_written: tally.bytes_written,
            files_done: i32::try_from(tally.done).unwrap_or(i32::MAX),
            files_total: Some(total),
        };
        self.before.get_or_init(|| before);
    }

    pub fn part_done(&self) {
        self.parts_done.fetch_add(1, Ordering::Relaxed);
    }

    /// What has been moved so far.
    pub fn moved(&self) -> Moved {
        let now = self.moved_now();
        let Some(before) = self.before.get() else { return now };
        Moved {
            records: before.records + now.records,
            bytes_read: before.bytes_read + now.bytes_read,
            bytes_written: before.bytes_written + now.bytes_written,
            files_done: before.files_done + self.parts_done.load(Ordering::Relaxed),
            files_total: now.files_total,
        }
    }

    fn moved_now(&self) -> Moved {
        Moved {
            records: i64::try_from(self.meter.records()).unwrap_or(i64::MAX),
            bytes_read: i64::try_from(self.meter.bytes_read()).unwrap_or(i64::MAX),
            bytes_written: i64::try_from(self.meter.bytes_written()).unwrap_or(i64::MAX),
            files_done: i32::try_from(self.meter.files_done()).unwrap_or(i32::MAX),
            files_total: Some(self.files_total.load(Ordering::Relaxed)),
        }
    }
}

impl Hold {
    /// Begins the heartbeat of a fresh claim.
    pub fn start(worker: &Worker, claimed: &ClaimedExport, stop: CancellationToken) -> Self {
        let (interrupt, receiver) = watch::channel(None);
        let transfer = Arc::new(Transfer::default());
        let beat = beat(worker.clone(), claimed.clone(), transfer.clone(), interrupt, stop);
        Self { interrupt: receiver, transfer, heartbeat: tokio::spawn(beat) }
    }

    pub fn transfer(&self) -> &Transfer {
        &self.transfer
    }

    /// Runs `work` until it ends or must stop; `work` is dropped then, so it must be safe to drop anywhere.
    pub async fn race<T>(&self, work: impl Future<Output = T>) -> Result<T, Interrupt> {
        let mut interrupt = self.interrupt.clone();
        let stopped = async {
            match interrupt.wait_for(Option::is_some).await {
                Ok(reason) => reason.unwrap_or(Interrupt::Lost),
                // The heartbeat ended without a word: nothing proves the claim any more.
                Err(_) => Interrupt::Lost,
            }
        };
        tokio::select! {
            biased;
            reason = stopped => Err(reason),
            done = work => Ok(done),
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.heartbeat.abort();
    }
}

/// Renews the claim until it is lost; says once why the step must stop, and goes on renewing while the step lets go.
async fn beat(
    worker: Worker,
    claimed: ClaimedExport,
    transfer: Arc<Transfer>,
    interrupt: watch::Sender<Option<Interrupt>>,
    stop: CancellationToken,
) {
    let id = claimed.export.export_id;
    let (db, lease) = (&worker.gateway.db, worker.settings.lease);
    let mut watch = worker.gateway.hub.watch(id);
    let left = (claimed.export.deadline_at - claimed.now).to_std().unwrap_or_default();
    let deadline = Instant::now() + left;
    let mut renewed = Instant::now();
    let mut noted = transfer.moved();
    let tell = |reason| {
        interrupt.send_if_modified(|current| {
            let first = current.is_none();
            *current = current.or(Some(reason));
            first
        });
    };
    loop {
        let told = interrupt.borrow().is_some();
        let hinted = tokio::select! {
            () = tokio::time::sleep(BEAT.min(lease / 3)) => false,
            () = watch.changed() => true,
            () = stop.cancelled(), if !told => { tell(Interrupt::Shutdown); false }
            () = tokio::time::sleep_until(deadline), if !told => { tell(Interrupt::Deadline); false }
        };
        let moved = transfer.moved();
        let state = if moved != noted {
            store::engine::renew_with_progress(db, id, claimed.claim, lease, moved).await
        } else if hinted || renewed.elapsed() >= lease / 3 {
            store::engine::renew(db, id, claimed.claim, lease).await
        } else {
            continue;
        };
        match state {
            Ok(Some(State::Cancelling)) => tell(Interrupt::Cancelled),
            Ok(Some(_)) => {}
            Ok(None) => return tell(Interrupt::Lost),
            Err(error) if renewed.elapsed() >= lease => {
                warn!(error = %error, "the claim could not be renewed within its lease; letting go");
                return tell(Interrupt::Lost);
            }
            Err(error) => {
                warn!(error = %error, "the claim could not be renewed; trying again");
                continue;
            }
        }
        (renewed, noted) = (Instant::now(), moved);
    }
}
