//! One `LISTEN` connection per process, shared by everybody who waits for an export to change.

use crate::ids::ExportId;

/// Hands out wake-ups. A wake-up is a hint: read the database again. Waiters still poll slowly as a fallback.
#[derive(Clone, Debug)]
pub struct Hub;

/// Wakes when the export it watches may have changed.
#[derive(Debug)]
pub struct Watch;

impl Hub {
    /// Watches one export from now on. Subscribe first, then read, or a change in between is missed.
    pub fn watch(&self, id: ExportId) -> Watch {
        todo!()
    }
}

impl Watch {
    /// Waits for the next hint, at most a few seconds.
    pub async fn changed(&mut self) {
        todo!()
    }
}
