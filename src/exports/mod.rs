//! What an export is and when it may change: types and rules that need no database, no clock and no network.
//! Start at [`request::ExportRequest`] (what a caller asks), [`state::State`] (how a job moves) and
//! [`problem::Problem`] (how anything goes wrong, for callers and for the export itself).

pub mod fields;
pub mod problem;
pub mod record;
pub mod request;
pub mod retry;
pub mod state;
pub mod user;
