//! Letting exports go, many in one statement: whatever comes while one is on its way to the disk goes together with the
//! next. One export alone waits for nobody.

use std::time::Duration;

use sqlx::PgPool;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use crate::{
    exports::state::Phase,
    ids::ExportId,
    store::{
        self, Held,
        engine::{Release, release_all},
    },
};

/// Exports let go by one statement at most.
const AT_ONCE: usize = 500;

/// Lets exports go; cheap to clone.
#[derive(Debug, Clone)]
pub struct Releaser(mpsc::Sender<Waiting>);

#[derive(Debug)]
struct Waiting {
    id: ExportId,
    claim: Uuid,
    release: Owned,
    done: oneshot::Sender<sqlx::Result<Held>>,
}

/// A [`Release`] that can wait.
#[derive(Debug)]
struct Owned {
    after: Duration,
    phase: Phase,
    waiting_reason: Option<String>,
    vendor_status: Option<String>,
    failures: i32,
    outcome_unknown: bool,
    warning: Option<String>,
}

impl Waiting {
    fn release(&self) -> (ExportId, Uuid, Release<'_>) {
        let Owned { after, phase, waiting_reason, vendor_status, failures, outcome_unknown, warning } = &self.release;
        let release = Release {
            after: *after,
            phase: *phase,
            waiting_reason: waiting_reason.as_deref(),
            vendor_status: vendor_status.as_deref(),
            failures: *failures,
            outcome_unknown: *outcome_unknown,
            warning: warning.as_deref(),
        };
        (self.id, self.claim, release)
    }
}

impl Releaser {
    /// Works until the last clone is gone.
    pub fn start(db: PgPool) -> Self {
        let (sender, mut receiver) = mpsc::channel(AT_ONCE);
        tokio::spawn(async move {
            let mut waiting = Vec::new();
            while receiver.recv_many(&mut waiting, AT_ONCE).await > 0 {
                write(&db, std::mem::take(&mut waiting)).await;
            }
        });
        Self(sender)
    }

    /// Lets one go. It is written down when this returns.
    pub async fn release(&self, id: ExportId, claim: Uuid, release: &Release<'_>) -> sqlx::Result<Held> {
        let (done, written) = oneshot::channel();
        let release = Owned {
            after: release.after,
            phase: release.phase,
            waiting_reason: release.waiting_reason.map(str::to_owned),
            vendor_status: release.vendor_status.map(str::to_owned),
            failures: release.failures,
            outcome_unknown: release.outcome_unknown,
            warning: release.warning.map(str::to_owned),
        };
        // Its task ends only with the process, and then nobody learns whether it was written: as after a crash.
        let sent = self.0.send(Waiting { id, claim, release, done }).await;
        sent.map_err(|_| sqlx::Error::WorkerCrashed)?;
        written.await.map_err(|_| sqlx::Error::WorkerCrashed)?
    }
}

async fn write(db: &PgPool, waiting: Vec<Waiting>) {
    let releases: Vec<_> = waiting.iter().map(Waiting::release).collect();
    match release_all(db, &releases).await {
        Ok(held) => {
            for each in waiting {
                let held = if held.contains(&each.id) { Held::Yes } else { Held::Lost };
                answer(each, Ok(held));
            }
        }
        // One that the database does not take must not keep the others.
        Err(sqlx::Error::Database(_)) if waiting.len() > 1 => {
            for each in waiting {
                let (id, claim, release) = each.release();
                let outcome = store::engine::release(db, id, claim, &release).await;
                answer(each, outcome);
            }
        }
        Err(error) => {
            let said = error.to_string();
            for each in waiting {
                answer(each, Err(sqlx::Error::Protocol(said.clone())));
            }
        }
    }
}

/// Who does not wait any more has lost nothing.
fn answer(waiting: Waiting, outcome: sqlx::Result<Held>) {
    drop(waiting.done.send(outcome));
}
