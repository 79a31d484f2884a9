//! One `LISTEN` connection per process, shared by everybody who waits for an export to change. Wake-ups are hints:
//! whoever is woken reads the database again. They can be lost while the connection breaks or hangs, so the versions of
//! all exports that somebody waits for are read from time to time, in one query for all who wait.

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

/// Between two looks at the versions of everything that is waited for.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How many exports one look asks for at once.
const LOOK_AT: usize = 5000;
/// Pause before a broken connection is made again.
const RECONNECT: Duration = Duration::from_secs(1);

/// Hands out wake-ups; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Hub(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    watched: Mutex<HashMap<Uuid, watch::Sender<News>>>,
    due: Notify,
    parts: Bell,
    deliveries: Bell,
    schedules: Bell,
}

/// What is known of an export that somebody waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct News {
    /// The latest version that anybody here has seen.
    version: i64,
    /// Notifications so far.
    hints: u64,
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
    /// Listens, and looks, until the task is dropped. A broken connection is made again.
    pub async fn listen(self, db: PgPool) {
        tokio::join!(self.hear_for_ever(&db), self.look_for_ever(&db));
    }

    async fn hear_for_ever(&self, db: &PgPool) {
        loop {
            if let Err(error) = self.hear(db).await {
                warn!(error = %error, "the database connection for notifications broke; making it again");
            }
            tokio::time::sleep(RECONNECT).await;
        }
    }

    async fn look_for_ever(&self, db: &PgPool) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if let Err(error) = self.look(db).await {
                warn!(error = %error, "it could not be seen whether exports that somebody waits for have changed");
            }
        }
    }

    async fn hear(&self, db: &PgPool) -> sqlx::Result<()> {
        let mut listener = PgListener::connect_with(db).await?;
        let channels = ["headgate_export", "headgate_due", "headgate_part", "headgate_delivery", "headgate_schedule"];
        listener.listen_all(channels).await?;
        // Nobody knows what was missed until now.
        self.ring_all();
        self.look(db).await?;
        while let Some(notification) = listener.try_recv().await? {
            match notification.channel() {
                "headgate_due" => self.0.due.notify_one(),
                "headgate_part" => self.0.parts.ring(),
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
            sender.send_modify(|news| news.hints += 1);
        }
    }

    /// Wakes those who have not seen the present version of what they wait for.
    async fn look(&self, db: &PgPool) -> sqlx::Result<()> {
        let ids: Vec<Uuid> = self.watched().keys().copied().collect();
        for some in ids.chunks(LOOK_AT) {
            let versions = sqlx::query_as("select export_id, version from export where export_id = any($1)");
            let versions: Vec<(Uuid, i64)> = versions.bind(some).fetch_all(db).await?;
            let watched = self.watched();
            for (id, version) in versions {
                if let Some(sender) = watched.get(&id) {
                    tell(sender, version);
                }
            }
        }
        Ok(())
    }

    fn ring_all(&self) {
        self.0.due.notify_one();
        self.0.parts.ring();
        self.0.deliveries.ring();
        self.0.schedules.ring();
    }

    /// Rings when a part of an export may be due.
    pub fn parts(&self) -> &Bell {
        &self.0.parts
    }

    /// Rings when a delivery may be due.
    pub fn deliveries(&self) -> &Bell {
        &self.0.deliveries
    }

    /// Rings when a run of a schedule may be due.
    pub fn schedules(&self) -> &Bell {
        &self.0.schedules
    }

    fn watched(&self) -> MutexGuard<'_, HashMap<Uuid, watch::Sender<News>>> {
        self.0.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches one export from now on. Subscribe first, then read, or a change in between is missed.
    pub fn watch(&self, id: ExportId) -> Watch {
        let receiver = self.watched().entry(id.0).or_insert_with(|| watch::channel(News::default()).0).subscribe();
        let told = *receiver.borrow();
        Watch { id: id.0, receiver, told: News { version: 0, ..told }, hub: self.clone() }
    }

    /// Says that an export of this process has a new due time, so that the worker loop looks when that is.
    pub fn stir(&self) {
        self.0.due.notify_one();
    }

    /// Waits until some export may be due, at most `limit`; says whether there was a hint. For the one worker loop of a
    /// process.
    pub async fn due(&self, limit: Duration) -> bool {
        tokio::time::timeout(limit, self.0.due.notified()).await.is_ok()
    }
}

fn tell(sender: &watch::Sender<News>, version: i64) {
    sender.send_if_modified(|news| {
        let is_newer = version > news.version;
        news.version = news.version.max(version);
        is_newer
    });
}

/// Wakes when the export it watches may have changed.
#[derive(Debug)]
pub struct Watch {
    id: Uuid,
    receiver: watch::Receiver<News>,
    /// What its owner knows already.
    told: News,
    hub: Hub,
}

impl Watch {
    /// Says that this version of the export was read, so that only a later one is news.
    pub fn seen(&mut self, version: i64) {
        self.told.version = self.told.version.max(version);
        // Who watches the same has perhaps seen less.
        if let Some(sender) = self.hub.watched().get(&self.id) {
            tell(sender, version);
        }
    }

    /// Waits until there may be news. A version that nobody has said was seen is news once.
    pub async fn changed(&mut self) {
        loop {
            let News { version, hints } = *self.receiver.borrow_and_update();
            if hints != self.told.hints || version > self.told.version {
                self.told = News { version: version.max(self.told.version), hints };
                return;
            }
            if self.receiver.changed().await.is_err() {
                // The sender lives as long as its last receiver, so nobody comes here; if so, nothing must spin.
                tokio::time::sleep(LOOK_EVERY).await;
                return;
            }
        }
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
    use futures_util::FutureExt;

    use super::*;

    /// Whether the watch wakes without waiting.
    fn wakes(watch: &mut Watch) -> bool {
        watch.changed().now_or_never().is_some()
    }

    #[tokio::test]
    async fn a_watch_wakes_on_its_own_export_only_and_leaves_nothing_behind() {
        let hub = Hub::default();
        let id = ExportId::new();
        let (mut first, mut second) = (hub.watch(id), hub.watch(id));
        hub.wake(Uuid::now_v7());
        assert!(!wakes(&mut first));
        hub.wake(id.0);
        assert!(wakes(&mut first) && !wakes(&mut first));
        assert!(wakes(&mut second));
        drop(first);
        assert_eq!(hub.watched().len(), 1);
        drop(second);
        assert_eq!(hub.watched().len(), 0);
    }

    #[tokio::test]
    async fn a_version_is_news_to_those_who_have_not_seen_it() {
        let hub = Hub::default();
        let id = ExportId::new();
        let look = |version| tell(&hub.watched()[&id.0], version);
        let (mut first, mut second, mut silent) = (hub.watch(id), hub.watch(id), hub.watch(id));
        first.seen(1);
        second.seen(1);
        look(1);
        assert!(!wakes(&mut first) && !wakes(&mut second));
        assert!(wakes(&mut silent) && !wakes(&mut silent), "who says nothing is woken once");
        // One of them reads a version that nobody was notified of.
        second.seen(2);
        assert!(wakes(&mut first) && !wakes(&mut first));
        assert!(!wakes(&mut second));
        look(3);
        assert!(wakes(&mut first) && wakes(&mut second) && wakes(&mut silent));
        look(2);
        assert!(!wakes(&mut first), "an old look is no news");
        // Whoever comes later begins with what it reads itself.
        let mut late = hub.watch(id);
        late.seen(3);
        assert!(!wakes(&mut late));
        hub.wake(id.0);
        assert!(wakes(&mut late) && wakes(&mut first));
    }
}
