//! One `LISTEN` connection per process, shared by everybody who waits for an export to change. Wake-ups are hints:
//! whoever is woken reads the database again, and waits with a time limit as a fallback.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sqlx::{PgPool, postgres::PgListener};
use tokio::sync::{Notify, watch};
use tracing::warn;
use uuid::Uuid;

use crate::ids::ExportId;

/// How long a waiter sleeps at most between two looks: wake-ups can be lost when the connection breaks.
const FALLBACK: Duration = Duration::from_secs(5);
/// Pause before a broken connection is made again.
const RECONNECT: Duration = Duration::from_secs(1);

/// Hands out wake-ups; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Hub(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    watched: Mutex<HashMap<Uuid, watch::Sender<()>>>,
    due: Notify,
    deliveries: Bell,
    schedules: Bell,
}

/// Wakes the one who waits for a kind of work in this process.
#[derive(Debug, Default)]
pub struct Bell(Notify);

impl Bell {
    pub fn ring(&self) {
        self.0.notify_one();
    }

    /// Waits for the next ring, at most `limit`. One that came before counts.
    pub async fn wait(&self, limit: Duration) {
        // Time running out is as good an end as a ring.
        drop(tokio::time::timeout(limit, self.0.notified()).await);
    }
}

impl Hub {
    /// Listens until the task is dropped; a broken connection is made again and everybody is woken, since nobody knows
    /// what was missed.
    pub async fn listen(self, db: PgPool) {
        loop {
            if let Err(error) = self.listen_once(&db).await {
                warn!(error = %error, "the database connection for notifications broke; making it again");
            }
            self.wake_all();
            tokio::time::sleep(RECONNECT).await;
        }
    }

    async fn listen_once(&self, db: &PgPool) -> sqlx::Result<()> {
        let mut listener = PgListener::connect_with(db).await?;
        listener.listen_all(["headgate_export", "headgate_due", "headgate_delivery", "headgate_schedule"]).await?;
        self.wake_all();
        while let Some(notification) = listener.try_recv().await? {
            match notification.channel() {
                "headgate_due" => self.0.due.notify_one(),
                "headgate_delivery" => self.0.deliveries.ring(),
                "headgate_schedule" => self.0.schedules.ring(),
                _ => {
                    if let Ok(id) = notification.payload().parse::<Uuid>() {
                        self.wake(id);
                    }
                }
            }
        }
        Ok(())
    }

    fn wake(&self, id: Uuid) {
        if let Some(sender) = self.watched().get(&id) {
            sender.send_replace(());
        }
    }

    fn wake_all(&self) {
        for sender in self.watched().values() {
            sender.send_replace(());
        }
        self.0.due.notify_one();
        self.0.deliveries.ring();
        self.0.schedules.ring();
    }

    /// Rings when a delivery may be due.
    pub fn deliveries(&self) -> &Bell {
        &self.0.deliveries
    }

    /// Rings when a run of a schedule may be due.
    pub fn schedules(&self) -> &Bell {
        &self.0.schedules
    }

    fn watched(&self) -> MutexGuard<'_, HashMap<Uuid, watch::Sender<()>>> {
        self.0.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches one export from now on. Subscribe first, then read, or a change in between is missed.
    pub fn watch(&self, id: ExportId) -> Watch {
        let receiver = self.watched().entry(id.0).or_insert_with(|| watch::channel(()).0).subscribe();
        Watch { id: id.0, receiver, hub: self.clone() }
    }

    /// Says that an export of this process has a new due time, so that the worker loop looks when that is.
    pub fn stir(&self) {
        self.0.due.notify_one();
    }

    /// Waits until some export may be due, at most `limit`. For the one worker loop of a process.
    pub async fn due(&self, limit: Duration) {
        // Time running out is as good an end as a hint.
        drop(tokio::time::timeout(limit, self.0.due.notified()).await);
    }
}

/// Wakes when the export it watches may have changed.
#[derive(Debug)]
pub struct Watch {
    id: Uuid,
    receiver: watch::Receiver<()>,
    hub: Hub,
}

impl Watch {
    /// Waits for the next hint, at most a few seconds.
    pub async fn changed(&mut self) {
        drop(tokio::time::timeout(FALLBACK, self.receiver.changed()).await);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut watched = self.hub.watched();
        // Ours is the last one when the sender counts a single receiver.
        if watched.get(&self.id).is_some_and(|sender| sender.receiver_count() <= 1) {
            watched.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_watch_wakes_on_its_own_export_only_and_leaves_nothing_behind() {
        let hub = Hub::default();
        let id = ExportId::new();
        let (mut first, second) = (hub.watch(id), hub.watch(id));
        hub.wake(Uuid::now_v7());
        assert!(!first.receiver.has_changed().unwrap());
        hub.wake(id.0);
        first.changed().await;
        assert!(second.receiver.has_changed().unwrap());
        drop(first);
        assert_eq!(hub.watched().len(), 1);
        drop(second);
        assert_eq!(hub.watched().len(), 0);
    }
}
