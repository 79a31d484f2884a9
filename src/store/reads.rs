//! Reading single exports for many callers at once. Reads that are asked for while others are at the database go there
//! together, as one statement: with many callers that costs a fraction of a statement each, and with one caller nothing.

use std::{collections::HashMap, sync::Arc};

use sqlx::PgPool;
use tokio::sync::{Mutex, mpsc, oneshot};

use crate::{exports::record::ExportRecord, ids::ExportId};

/// Statements at once. While one is on its way the next is gathered.
const READERS: usize = 2;
/// Exports of one statement.
const MOST: usize = 128;

/// Reads exports; cheap to clone, all clones share their statements. Its tasks end with the last clone.
#[derive(Clone)]
pub struct Reads {
    db: PgPool,
    wanted: mpsc::UnboundedSender<Wanted>,
}

struct Wanted {
    id: ExportId,
    answer: oneshot::Sender<Option<ExportRecord>>,
}

impl Reads {
    /// Begins on the current runtime.
    pub fn begin(db: PgPool) -> Self {
        let (wanted, receiver) = mpsc::unbounded_channel();
        let receiver = Arc::new(Mutex::new(receiver));
        for _ in 0..READERS {
            tokio::spawn(read(db.clone(), receiver.clone()));
        }
        Self { db, wanted }
    }

    /// The tenant's export, as it is at some moment after the call.
    ///
    /// # Errors
    /// The database's.
    pub async fn by_id(&self, tenant: &str, id: ExportId) -> sqlx::Result<Option<ExportRecord>> {
        let (answer, answered) = oneshot::channel();
        if self.wanted.send(Wanted { id, answer }).is_ok()
            && let Ok(found) = answered.await
        {
            return Ok(found.filter(|export| export.tenant == tenant));
        }
        // The statement failed; what is wrong is found out for each caller alone.
        super::exports::by_id(&self.db, tenant, id).await
    }
}

async fn read(db: PgPool, wanted: Arc<Mutex<mpsc::UnboundedReceiver<Wanted>>>) {
    let mut batch = Vec::with_capacity(MOST);
    // Only one reader gathers; the other's callers wait no longer for that.
    while wanted.lock().await.recv_many(&mut batch, MOST).await > 0 {
        let mut ids: Vec<_> = batch.iter().map(|wanted| wanted.id).collect();
        ids.sort_unstable();
        ids.dedup();
        let Ok(found) = super::exports::by_ids(&db, &ids).await else {
            batch.clear();
            continue;
        };
        let mut found: HashMap<_, _> = found.into_iter().map(|export| (export.export_id, export)).collect();
        // The last to ask for an export gets it, those before a copy.
        let mut asked: HashMap<ExportId, usize> = HashMap::new();
        for wanted in &batch {
            *asked.entry(wanted.id).or_default() += 1;
        }
        for Wanted { id, answer } in batch.drain(..) {
            let left = asked.entry(id).or_default();
            *left = left.saturating_sub(1);
            let export = if *left == 0 { found.remove(&id) } else { found.get(&id).cloned() };
            // Whoever asked may be gone.
            drop(answer.send(export));
        }
    }
}
