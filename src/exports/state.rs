//! The state machine. [`State::on`] is the only way an export changes state; the database refuses the rest.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Where an export stands. Closed: clients may match on it exhaustively. The last three are final.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum State {
    /// Accepted; nothing has been asked of the vendor yet.
    Queued,
    /// A worker drives it; see `phase`.
    Running,
    /// A caller asked to stop; the worker is letting go.
    Cancelling,
    /// The files are complete and can be downloaded.
    Succeeded,
    /// It ended without files; `error` says why.
    Failed,
    /// A caller stopped it.
    Cancelled,
}

/// What happens to an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A worker begins to ask the vendor.
    Started,
    /// Every file is stored and named by the manifest.
    Completed,
    /// No further try can help, or time is up.
    GaveUp,
    /// A caller wants it stopped.
    CancelRequested,
    /// The worker has stopped.
    CancelDone,
}

/// The event makes no sense in that state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{event:?} is not possible in state {from:?}")]
pub struct IllegalTransition {
    pub from: State,
    pub event: Event,
}

/// A legal change of state; only [`State::transition`] makes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transition {
    from: State,
    to: State,
}

impl Transition {
    pub const fn from(self) -> State {
        self.from
    }

    pub const fn to(self) -> State {
        self.to
    }
}

impl State {
    /// Every state, in the order of a life.
    pub const ALL: [Self; 6] =
        [Self::Queued, Self::Running, Self::Cancelling, Self::Succeeded, Self::Failed, Self::Cancelled];

    /// The only way an export changes state. A retry inside an export is not here: it keeps the state.
    pub fn on(self, event: Event) -> Result<Self, IllegalTransition> {
        use Event::{CancelDone, CancelRequested, Completed, GaveUp, Started};
        use State::{Cancelled, Cancelling, Failed, Queued, Running, Succeeded};
        match (self, event) {
            (Queued | Running, Started) => Ok(Running),
            (Running, Completed) => Ok(Succeeded),
            (Queued | Running, GaveUp) => Ok(Failed),
            (Queued | Running | Cancelling, CancelRequested) => Ok(Cancelling),
            (Cancelling, CancelDone) => Ok(Cancelled),
            _ => Err(IllegalTransition { from: self, event }),
        }
    }

    /// [`State::on`] with both ends, for a write that must not happen from any other state.
    pub fn transition(self, event: Event) -> Result<Transition, IllegalTransition> {
        self.on(event).map(|to| Transition { from: self, to })
    }

    /// True when nothing changes any more.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }

    /// The name in JSON and in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Cancelling => "cancelling",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// What a live export is doing. Advisory and open: clients must accept values they don't know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Phase {
    /// The vendor allows no further export now; see `waiting_reason`.
    WaitingForSlot,
    /// The vendor is being asked.
    Submitting,
    /// The vendor was asked, but the answer was lost; finding out what became of it.
    Reconciling,
    /// The vendor prepares the files.
    VendorProcessing,
    /// The vendor's files are being fetched.
    Downloading,
    /// Records are being converted.
    Transforming,
    /// Result files are being written to their place.
    Delivering,
}

impl Phase {
    /// The name in JSON and in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WaitingForSlot => "waiting_for_slot",
            Self::Submitting => "submitting",
            Self::Reconciling => "reconciling",
            Self::VendorProcessing => "vendor_processing",
            Self::Downloading => "downloading",
            Self::Transforming => "transforming",
            Self::Delivering => "delivering",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_transition_table() {
        use Event::{CancelDone, CancelRequested, Completed, GaveUp, Started};
        let events = [Started, Completed, GaveUp, CancelRequested, CancelDone];
        let pairs = State::ALL.into_iter().flat_map(|from| events.map(|event| (from, event)));
        let table: Vec<_> = pairs
            .filter_map(|(from, event)| {
                let to = from.on(event).ok()?;
                Some(format!("{} + {event:?} -> {}", from.as_str(), to.as_str()))
            })
            .collect();
        insta::assert_snapshot!(table.join("\n"), @r"
        queued + Started -> running
        queued + GaveUp -> failed
        queued + CancelRequested -> cancelling
        running + Started -> running
        running + Completed -> succeeded
        running + GaveUp -> failed
        running + CancelRequested -> cancelling
        cancelling + CancelRequested -> cancelling
        cancelling + CancelDone -> cancelled
        ");
    }
}
