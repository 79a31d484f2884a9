//! Headgate: one REST gateway for export jobs over Braze and GrowingIO.
//!
//! The rooms, from the edge inwards; arrows point down only and `tests/architecture.rs` keeps them true:
//!
//! | room | does |
//! |---|---|
//! | [`cli`] | one file per command: arguments in, exit code out |
//! | [`startup`] | the only place that builds things |
//! | [`api`] | the HTTP edge: extract, authorise, call one operation, shape the view |
//! | [`worker`] | drives exports: claim, one step, record |
//! | [`operations`] | what a caller can ask for, as short stories; owns transactions |
//! | [`store`] | all SQL, one function per statement |
//! | [`vault`] | the only code that sees credentials in clear, besides the request that uses them |
//! | [`vendors`] | everything peculiar to a vendor, a folder each |
//! | [`egress`] | where outbound calls may go |
//! | [`buckets`] | other people's object stores, opened under that guard |
//! | [`results`] | vendor files in, result files out, streamed |
//! | [`embedded`] | the private Postgres |
//! | [`exports`] | what an export is and when it may change; no I/O |
//! | `fuzzing` | what the fuzzer calls; not in ordinary builds |
//! | [`ids`], [`config`], [`data_dir`], [`telemetry`] | identifiers, settings, the folder that is ours, logs and traces |

pub mod api;
pub mod buckets;
pub mod cli;
pub mod config;
pub mod data_dir;
pub mod egress;
pub mod embedded;
pub mod exports;
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
pub mod ids;
pub mod operations;
pub mod results;
pub mod startup;
pub mod store;
pub mod telemetry;
pub mod vault;
pub mod vendors;
pub mod worker;
