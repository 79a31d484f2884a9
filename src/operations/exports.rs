//! Submitting, reading and stopping exports.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, Utc};

use super::{Caller, Error, Gateway};
use crate::{
    exports::{
        record::{AttemptRecord, EventRecord, ExportRecord, FileRecord},
        request::{Dataset, SubmitExport},
        state::State,
    },
    ids::ExportId,
    vendors::Plan,
};

/// `Idempotency-Key` and what it stands for.
#[derive(Debug, Clone)]
pub struct Idempotency {
    pub key: String,
    /// SHA-256 of the canonical body.
    pub body_sha256: [u8; 32],
}

/// An accepted export.
#[derive(Debug)]
pub struct Submission {
    pub export: ExportRecord,
    /// An earlier request with the same key made it.
    pub replayed: bool,
}

/// An export and, once it has succeeded, its files.
#[derive(Debug, Clone)]
pub struct ExportWithFiles {
    pub export: ExportRecord,
    pub files: Vec<FileRecord>,
}

/// Filters of a list, newest first.
#[derive(Debug, Clone, Default)]
pub struct ListExports {
    pub state: Option<State>,
    pub connection: Option<String>,
    pub dataset: Option<Dataset>,
    pub created_after: Option<DateTime<Utc>>,
    pub created_before: Option<DateTime<Utc>>,
    pub labels: BTreeMap<String, String>,
    /// Ids smaller than this one only: where the last page ended.
    pub before: Option<ExportId>,
    pub page_size: i64,
}

/// Accepts an export. The caller's key and the export are written in one transaction.
pub async fn submit_export(
    gateway: &Gateway,
    caller: &Caller,
    body: SubmitExport,
    idempotency: Option<Idempotency>,
) -> Result<Submission, Error> {
    todo!()
}

/// What `submit_export` would do, without doing it.
pub async fn plan_export(gateway: &Gateway, caller: &Caller, body: &SubmitExport) -> Result<Plan, Error> {
    todo!()
}

/// One page, newest first, and whether more follow.
pub async fn list_exports(
    gateway: &Gateway,
    caller: &Caller,
    filter: &ListExports,
) -> Result<(Vec<ExportWithFiles>, bool), Error> {
    todo!()
}

/// The export, in whatever state.
pub async fn get_export(gateway: &Gateway, caller: &Caller, id: ExportId) -> Result<ExportWithFiles, Error> {
    todo!()
}

/// As [`get_export`], but holds the answer until `state` or `phase` differ from now, the export is finished, or `timeout` is up.
pub async fn wait_for_change(
    gateway: &Gateway,
    caller: &Caller,
    id: ExportId,
    timeout: Duration,
) -> Result<ExportWithFiles, Error> {
    todo!()
}

/// Asks for the export to stop. Answers the export: `cancelling`, or `cancelled` when it already was.
/// Refused with `export_already_finished` when it succeeded or failed.
pub async fn cancel_export(gateway: &Gateway, caller: &Caller, id: ExportId) -> Result<ExportRecord, Error> {
    todo!()
}

/// A new export with the same request as a finished one. Refused with `export_not_finished`.
pub async fn retry_export(gateway: &Gateway, caller: &Caller, id: ExportId) -> Result<ExportRecord, Error> {
    todo!()
}

/// Deletes the files of a finished export; a second time is fine. Refused with `export_not_finished`.
pub async fn delete_export(gateway: &Gateway, caller: &Caller, id: ExportId) -> Result<(), Error> {
    todo!()
}

/// The transitions after the one numbered `after`, oldest first.
pub async fn list_events(
    gateway: &Gateway,
    caller: &Caller,
    id: ExportId,
    after: i64,
) -> Result<Vec<EventRecord>, Error> {
    todo!()
}

/// The vendor exchanges, oldest first.
pub async fn list_attempts(gateway: &Gateway, caller: &Caller, id: ExportId) -> Result<Vec<AttemptRecord>, Error> {
    todo!()
}
