//! Holding a claim, of an export or of a part: a heartbeat of its own renews the lease, notes progress, and tells whoever
//! works when to stop. A transfer that moves nothing is told to stop, too: a lease is not renewed for ever for the sake
//! of a socket that hangs.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicI32, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use sqlx::PgPool;
use tokio::{sync::watch, task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::warn;
use uuid::Uuid;

use super::Worker;
use crate::{
    exports::state::State,
    ids::ExportId,
    results::Meter,
    store::{
        self,
        engine::Moved,
        parts::{Counted, PartKey},
    },
};

/// How often progress is noted and the state is looked at, also when no notification comes.
const BEAT: Duration = Duration::from_secs(1);
/// The shortest pause between two looks: an export whose parts are many changes often.
const LOOK: Duration = Duration::from_millis(200);

/// Why work must stop in the middle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interrupt {
    /// Another worker has it now.
    Lost,
    /// A caller wants it stopped.
    Cancelled,
    /// The export's time is up.
    Deadline,
    /// Nothing has moved for too long: this try is over.
    Stalled,
    /// This process shuts down.
    Shutdown,
}

/// What is held.
#[derive(Debug, Clone, Copy)]
pub enum Claim {
    Export(ExportId, Uuid),
    Part(PartKey),
}

/// A claim that is being held. Dropping it ends the heartbeat.
#[derive(Debug)]
pub struct Hold {
    interrupt: watch::Receiver<Option<Interrupt>>,
    transfer: Arc<Transfer>,
    heartbeat: JoinHandle<()>,
}

/// What work shows to the heartbeat.
#[derive(Debug, Default)]
pub struct Transfer {
    /// What counts as progress of the export.
    pub meter: Meter,
    /// What only shows that something moves.
    pub apart: Meter,
    files_total: AtomicI32,
    /// Of a part: what is counted of it besides the meter.
    kept: Mutex<Counted>,
    /// Bytes are expected to move.
    is_moving: AtomicBool,
}

impl Transfer {
    pub fn expect_files(&self, total: i32) {
        self.files_total.store(total, Ordering::Relaxed);
    }

    /// What has been moved of an export so far.
    pub fn moved(&self) -> Moved {
        let Counted { records, bytes_read, bytes_written } = self.measured();
        Moved {
            records,
            bytes_read,
            bytes_written,
            files_done: i32::try_from(self.meter.files_done()).unwrap_or(i32::MAX),
            files_total: Some(self.files_total.load(Ordering::Relaxed)),
        }
    }

    /// What has been moved of a part so far.
    pub fn counted(&self) -> Counted {
        let (now, kept) = (self.measured(), *self.kept.lock().unwrap_or_else(PoisonError::into_inner));
        Counted {
            records: kept.records + now.records,
            bytes_read: kept.bytes_read + now.bytes_read,
            bytes_written: kept.bytes_written + now.bytes_written,
        }
    }

    /// From now on a part counts from here: what was kept counts, what was received in vain does not.
    pub fn count_from(&self, counted: Counted) {
        let now = self.measured();
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Counted {
            records: counted.records - now.records,
            bytes_read: counted.bytes_read - now.bytes_read,
            bytes_written: counted.bytes_written - now.bytes_written,
        };
    }

    fn measured(&self) -> Counted {
        let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        Counted {
            records: number(self.meter.records()),
            bytes_read: number(self.meter.bytes_read()),
            bytes_written: number(self.meter.bytes_written()),
        }
    }

    /// Changes whenever something moves.
    fn pulse(&self) -> u64 {
        let of = |meter: &Meter| meter.records().wrapping_add(meter.bytes_read()).wrapping_add(meter.bytes_written());
        of(&self.meter).wrapping_add(of(&self.apart))
    }
}

impl Claim {
    const fn export(self) -> ExportId {
        match self {
            Self::Export(id, _) => id,
            Self::Part(part) => part.export,
        }
    }

    /// The state of the export; `None` means that the claim is lost.
    async fn look(self, db: &PgPool) -> sqlx::Result<Option<State>> {
        match self {
            Self::Export(id, claim) => store::engine::look(db, id, claim).await,
            Self::Part(part) => store::parts::look(db, part).await,
        }
    }

    async fn renew(self, db: &PgPool, lease: Duration) -> sqlx::Result<Option<State>> {
        match self {
            Self::Export(id, claim) => store::engine::renew(db, id, claim, lease).await,
            Self::Part(part) => store::parts::renew(db, part, lease).await,
        }
    }

    async fn renew_with_progress(
        self,
        db: &PgPool,
        lease: Duration,
        (moved, counted): (Moved, Counted),
    ) -> sqlx::Result<Option<State>> {
        match self {
            Self::Export(id, claim) => store::engine::renew_with_progress(db, id, claim, lease, moved).await,
            Self::Part(part) => {
                let mut tx = db.begin().await?;
                let Some(state) = store::parts::lock(&mut tx, part).await? else { return Ok(None) };
                store::parts::recount(&mut tx, part, counted).await?;
                store::parts::renew(&mut *tx, part, lease).await?;
                tx.commit().await?;
                Ok(Some(state))
            }
        }
    }
}

impl Hold {
    /// Begins the heartbeat of a fresh claim, made at `now` by the database's clock.
    pub fn start(
        worker: &Worker,
        claim: Claim,
        (now, deadline): (DateTime<Utc>, DateTime<Utc>),
        stop: CancellationToken,
    ) -> Self {
        let (interrupt, receiver) = watch::channel(None);
        let transfer = Arc::new(Transfer::default());
        let beats = Heartbeat { worker: worker.clone(), claim, transfer: transfer.clone(), interrupt };
        let deadline = Instant::now() + (deadline - now).to_std().unwrap_or_default();
        Self { interrupt: receiver, transfer, heartbeat: tokio::spawn(beats.beat(deadline, stop)) }
    }

    pub fn transfer(&self) -> &Transfer {
        &self.transfer
    }

    /// Runs `work` until it ends or must stop; `work` is dropped then, so it must be safe to drop anywhere.
    pub async fn race<T>(&self, work: impl Future<Output = T>) -> Result<T, Interrupt> {
        self.race_but(None, work).await
    }

    /// As [`Hold::race`], of a transfer: it must also stop when nothing moves for too long.
    pub async fn race_moving<T>(&self, work: impl Future<Output = T>) -> Result<T, Interrupt> {
        self.transfer.is_moving.store(true, Ordering::Relaxed);
        let done = self.race_but(None, work).await;
        self.transfer.is_moving.store(false, Ordering::Relaxed);
        done
    }

    /// As [`Hold::race`], but not told to stop by `but`, whose time has to be taken.
    pub async fn race_but<T>(&self, but: Option<Interrupt>, work: impl Future<Output = T>) -> Result<T, Interrupt> {
        let mut interrupt = self.interrupt.clone();
        let stopped = async {
            match interrupt.wait_for(|reason| reason.is_some() && *reason != but).await {
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

struct Heartbeat {
    worker: Worker,
    claim: Claim,
    transfer: Arc<Transfer>,
    interrupt: watch::Sender<Option<Interrupt>>,
}

impl Heartbeat {
    /// Says why work must stop. The first reason stays, unless a caller cancelled meanwhile or the claim is lost.
    fn tell(&self, reason: Interrupt) {
        self.interrupt.send_if_modified(|current| {
            let is_news = match current {
                None => true,
                Some(Interrupt::Lost) => false,
                Some(Interrupt::Shutdown) => reason != Interrupt::Shutdown,
                Some(_) => reason == Interrupt::Lost,
            };
            if is_news {
                *current = Some(reason);
            }
            is_news
        });
    }

    /// Renews the claim until it is lost, and goes on renewing while whoever works lets go.
    async fn beat(self, deadline: Instant, stop: CancellationToken) {
        let (db, lease) = (&self.worker.gateway.db, self.worker.settings.lease);
        let mut watch = self.worker.gateway.hub.watch(self.claim.export());
        let beat = BEAT.min(lease / 3);
        let (mut renewed, mut next_look, mut next_note) = (Instant::now(), Instant::now(), Instant::now() + beat);
        let mut noted = (self.transfer.moved(), self.transfer.counted());
        let mut standstill = Standstill::new(self.worker.settings.stall, Instant::now());
        let (mut stopping, mut overdue) = (false, false);
        loop {
            tokio::select! {
                () = tokio::time::sleep(beat) => {}
                () = async { tokio::time::sleep_until(next_look).await; watch.changed().await } => {}
                () = stop.cancelled(), if !stopping => { stopping = true; self.tell(Interrupt::Shutdown); }
                () = tokio::time::sleep_until(deadline), if !overdue => { overdue = true; self.tell(Interrupt::Deadline); }
            }
            next_look = Instant::now() + LOOK;
            let is_moving = self.transfer.is_moving.load(Ordering::Relaxed);
            if standstill.is_over(self.transfer.pulse(), is_moving, Instant::now()) {
                self.tell(Interrupt::Stalled);
            }
            let moved = (self.transfer.moved(), self.transfer.counted());
            let progressed = moved != noted && Instant::now() >= next_note;
            let renews = progressed || renewed.elapsed() >= lease / 3;
            let asked = async {
                match (progressed, renews) {
                    (true, _) => self.claim.renew_with_progress(db, lease, moved).await,
                    (false, true) => self.claim.renew(db, lease).await,
                    (false, false) => self.claim.look(db).await,
                }
            };
            // A database that says nothing proves no claim either.
            let Ok(state) = tokio::time::timeout_at(renewed + lease, asked).await else {
                warn!("the database did not answer within the lease; letting go");
                return self.tell(Interrupt::Lost);
            };
            match state {
                Ok(Some(state)) => {
                    if state == State::Cancelling {
                        self.tell(Interrupt::Cancelled);
                    }
                    if progressed {
                        (noted, next_note) = (moved, Instant::now() + beat);
                    }
                    if renews {
                        renewed = Instant::now();
                    }
                }
                Ok(None) => return self.tell(Interrupt::Lost),
                Err(error) => warn!(error = %error, "the claim could not be renewed; trying again"),
            }
        }
    }
}

/// Notices that nothing moves where something should.
#[derive(Debug)]
struct Standstill {
    limit: Duration,
    pulse: u64,
    since: Instant,
}

impl Standstill {
    const fn new(limit: Duration, now: Instant) -> Self {
        Self { limit, pulse: 0, since: now }
    }

    /// Whether it has lasted for the limit.
    fn is_over(&mut self, pulse: u64, is_moving: bool, now: Instant) -> bool {
        if pulse != self.pulse || !is_moving {
            (self.pulse, self.since) = (pulse, now);
        }
        now - self.since >= self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_transfer_that_brings_nothing_for_the_whole_time_is_at_a_standstill() {
        let begin = Instant::now();
        let at = |secs| begin + Duration::from_secs(secs);
        let mut standstill = Standstill::new(Duration::from_mins(1), begin);
        assert!(!standstill.is_over(0, false, at(100)), "nothing was expected to move");
        assert!(!standstill.is_over(0, true, at(159)));
        assert!(!standstill.is_over(1, true, at(160)), "a byte came in time");
        assert!(!standstill.is_over(1, true, at(219)));
        assert!(standstill.is_over(1, true, at(220)));
        assert!(!standstill.is_over(2, true, at(221)), "it goes on");
    }
}
