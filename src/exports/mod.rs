//! What an export is and when it may change: types and rules that need no database, no clock and no network.
//! Start at [`request::ExportRequest`] (what a caller asks), [`state::State`] (how a job moves) and
//! [`problem::Problem`] (how anything goes wrong, for callers and for the export itself). Around it: [`schedule`] says
//! when an export is asked for again, [`webhook`] who is told that it ended.

pub mod canonical;
pub mod cells;
pub mod delivery;
pub mod fields;
pub mod json;
pub mod mapping;
pub mod moments;
pub mod parameters;
pub mod plan;
pub mod problem;
pub mod record;
pub mod records;
pub mod request;
pub mod retry;
pub mod rows;
pub mod schedule;
pub mod schema;
pub mod state;
pub mod user;
pub mod webhook;
pub mod windows;
