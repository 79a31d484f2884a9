//! How an export looks in JSON. Every key is always there; what is not known is `null`.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::{
    exports::{
        parameters::ParametersBody,
        problem::Problem,
        record::{AttemptRecord, EventRecord, ExportRecord, FileRecord},
        request::{Dataset, Delivery, Format, Output, Priority, RecordSchema},
        state::{Phase, State},
    },
    ids::{ExportId, FileId, ScheduleId},
    operations::exports::ExportWithFiles,
};

/// One export job.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Export)]
pub struct ExportView {
    #[schema(value_type = String, example = "exp_019a5b6c7d8e7f00a1b2c3d4e5f60718")]
    pub id: ExportId,
    pub state: State,
    /// What a live export is doing. Advisory and open: accept values you don't know.
    #[schema(required = true, value_type = Option<String>, example = "vendor_processing")]
    pub phase: Option<Phase>,
    /// Why it waits, e.g. `vendor_exclusive`. Open.
    #[schema(required = true, example = "vendor_exclusive")]
    pub waiting_reason: Option<String>,
    /// Its place among the exports that wait for the same, from 1.
    #[schema(required = true, example = 2)]
    pub queue_position: Option<i64>,
    #[schema(example = "growth-braze")]
    pub connection: String,
    #[schema(example = "braze")]
    pub vendor: String,
    pub dataset: Dataset,
    /// As they were sent.
    #[schema(value_type = ParametersBody)]
    pub parameters: Value,
    pub output: Output,
    pub delivery: DeliveryView,
    pub labels: BTreeMap<String, String>,
    pub priority: Priority,
    /// The subject of the token that asked for it.
    #[schema(example = "crm-sync")]
    pub created_by: String,
    /// Which try of the current step this is, from 1. A retry inside an export keeps it `running`.
    #[schema(example = 1)]
    pub attempt: i32,
    /// When the current step is tried again.
    #[schema(required = true)]
    pub retry_at: Option<DateTime<Utc>>,
    /// The finished export this one repeats.
    #[schema(required = true, value_type = Option<String>)]
    pub retry_of: Option<ExportId>,
    /// An export of your tenant whose vendor export this one shares, or whose files it was given. Null also while it shares
    /// with exports that you cannot see.
    #[schema(required = true, value_type = Option<String>)]
    pub coalesced_with: Option<ExportId>,
    /// The schedule whose run it is.
    #[schema(required = true)]
    pub schedule: Option<ScheduleRef>,
    pub progress: ProgressView,
    pub created_at: DateTime<Utc>,
    #[schema(required = true)]
    pub started_at: Option<DateTime<Utc>>,
    pub last_progress_at: DateTime<Utc>,
    #[schema(required = true)]
    pub finished_at: Option<DateTime<Utc>>,
    /// When it fails if it has not finished.
    pub deadline_at: DateTime<Utc>,
    /// Why it failed.
    #[schema(required = true)]
    pub error: Option<Problem>,
    /// What the caller should know, in words.
    pub warnings: Vec<String>,
    pub vendor_status: VendorStatusView,
    /// Set when it succeeded.
    #[schema(required = true)]
    pub result: Option<ResultView>,
}

/// Which run of which schedule an export is.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ExportSchedule)]
pub struct ScheduleRef {
    #[schema(value_type = String, example = "sch_019a5b6c7d8e7f00a1b2c3d4e5f6071b")]
    pub id: ScheduleId,
    /// The time of the run, as the cron line says it.
    pub run_at: DateTime<Utc>,
}

/// Where result files go.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ExportDelivery)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum DeliveryView {
    /// Kept by the gateway and downloaded from it.
    Gateway,
    /// Also copied to a destination.
    Destination {
        #[schema(example = "lake")]
        destination: String,
        /// The folder below the destination, filled in for this export.
        #[schema(example = "audience_members/2026-03-02/exp_019a5b6c7d8e7f00a1b2c3d4e5f60718/")]
        prefix: String,
    },
}

/// How far an export is.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Progress)]
pub struct ProgressView {
    /// Records written so far.
    #[schema(example = 15000)]
    pub records: i64,
    /// Bytes received from the vendor.
    #[schema(example = 22_800_000)]
    pub bytes_read: i64,
    #[schema(example = 9_100_000)]
    pub bytes_written: i64,
    /// Vendor files done.
    #[schema(example = 3)]
    pub files_done: i32,
    /// Vendor files there are, once known.
    #[schema(required = true, example = 4)]
    pub files_total: Option<i32>,
    /// Share of the vendor's files that is done, once their number is known.
    #[schema(required = true, example = 75, minimum = 0, maximum = 100)]
    pub percent: Option<i32>,
}

/// What the vendor says of the export.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = VendorStatus)]
pub struct VendorStatusView {
    /// Its last words, sanitized.
    #[schema(required = true, example = "403 not ready")]
    pub last: Option<String>,
    /// Its own id of the export; grants nothing.
    #[schema(required = true, example = "bb8e2a91-0000-4000-8000-000000000001")]
    pub reference: Option<String>,
}

/// Whether result files can be fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Availability {
    Available,
    /// Their time is over.
    Expired,
    /// A caller deleted them.
    Deleted,
}

/// What a finished export brought.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ExportResult)]
pub struct ResultView {
    pub availability: Availability,
    /// When the files are deleted.
    #[schema(required = true)]
    pub expires_at: Option<DateTime<Utc>>,
    /// Unknown for `raw`.
    #[schema(required = true, example = 15000)]
    pub records: Option<i64>,
    #[schema(example = 9_100_000)]
    pub bytes: i64,
    /// Always false: partial data is never a success.
    pub partial: bool,
    /// When the vendor's data was taken.
    #[schema(required = true)]
    pub data_as_of: Option<DateTime<Utc>>,
    /// The unified schema of the records; null for the vendor's own records and for `raw`.
    #[schema(required = true, example = "user.v1")]
    pub schema: Option<&'static str>,
    /// None when they are no longer available.
    pub files: Vec<FileView>,
}

/// One result file.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ExportFile)]
pub struct FileView {
    #[schema(value_type = String, example = "fil_019a5b6c7d8e7f00a1b2c3d4e5f60719")]
    pub id: FileId,
    #[schema(example = "part-00001.ndjson.gz")]
    pub name: String,
    #[schema(example = "application/gzip")]
    pub media_type: String,
    /// `none` or `gzip`; a download comes as it is stored.
    #[schema(example = "gzip")]
    pub compression: String,
    #[schema(example = 9_100_000)]
    pub bytes: i64,
    /// Unknown for `raw`.
    #[schema(required = true, example = 15000)]
    pub records: Option<i64>,
    /// Of the bytes as downloaded, in lower-case hexadecimal.
    #[schema(example = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08")]
    pub sha256: String,
    /// Where to download it, relative to the gateway.
    #[schema(example = "/v1/exports/exp_019a5b6c7d8e7f00a1b2c3d4e5f60718/files/fil_019a5b6c7d8e7f00a1b2c3d4e5f60719")]
    pub href: String,
    /// Where it was delivered to; null when it was not, see `delivery`.
    #[schema(required = true, example = "s3://our-lake/marketing/audience_members/2026-03-02/part-00001.ndjson.gz")]
    pub location: Option<String>,
}

/// The files of an export.
#[derive(Debug, Serialize, ToSchema)]
pub struct Manifest {
    pub files: Vec<FileView>,
}

/// One page of exports, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct ExportList {
    pub data: Vec<ExportView>,
    /// Give it back as `page_token` for the next page; empty on the last.
    pub next_page_token: String,
}

/// One step in the life of an export.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ExportEvent)]
pub struct EventView {
    /// Counts from 1 within the export; the `id` of the live stream.
    #[schema(example = 2)]
    pub id: i64,
    pub at: DateTime<Utc>,
    pub state: State,
    /// Open: accept values you don't know.
    #[schema(required = true, value_type = Option<String>, example = "submitting")]
    pub phase: Option<Phase>,
    #[schema(required = true)]
    pub detail: Option<String>,
}

/// The transitions of an export, oldest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct EventList {
    pub data: Vec<EventView>,
    /// Always empty: all of them come at once.
    pub next_page_token: String,
}

/// One exchange with the vendor, sanitized: no query string, no body, no credential.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Attempt)]
pub struct AttemptView {
    pub at: DateTime<Utc>,
    /// `submit`, `poll` or `download`. Open.
    #[schema(example = "submit")]
    pub action: String,
    #[schema(example = "POST")]
    pub method: String,
    /// Host and path; parts that grant access are replaced by `…`.
    #[schema(example = "rest.fra-01.braze.eu/users/export/segment")]
    pub target: String,
    /// Absent when there was no answer.
    #[schema(required = true, example = 201)]
    pub http_status: Option<i32>,
    #[schema(example = 182)]
    pub duration_ms: i64,
    /// What was made of it.
    #[schema(example = "accepted")]
    pub decision: String,
}

/// The vendor exchanges of an export, oldest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct AttemptList {
    pub data: Vec<AttemptView>,
    /// Always empty: all of them come at once.
    pub next_page_token: String,
}

impl ExportView {
    /// The export as it is at `now`.
    pub fn new(ExportWithFiles { export, files, queue_position }: ExportWithFiles, now: DateTime<Utc>) -> Self {
        Self {
            result: (export.state == State::Succeeded).then(|| ResultView::new(&export, files, now)),
            id: export.export_id,
            state: export.state,
            phase: export.phase,
            waiting_reason: export.waiting_reason,
            queue_position,
            connection: export.connection,
            vendor: export.vendor,
            dataset: export.dataset,
            parameters: export.parameters,
            output: export.output.0,
            delivery: DeliveryView::new(export.delivery.0, export.delivery_path),
            labels: export.labels.0,
            priority: export.priority,
            created_by: export.created_by,
            attempt: export.attempt,
            retry_at: export.retry_at,
            retry_of: export.retry_of,
            coalesced_with: export.coalesced_with,
            schedule: export.schedule_id.zip(export.scheduled_for).map(|(id, run_at)| ScheduleRef { id, run_at }),
            progress: ProgressView {
                records: export.records,
                bytes_read: export.bytes_read,
                bytes_written: export.bytes_written,
                files_done: export.files_done,
                files_total: export.files_total,
                percent: export.files_total.and_then(|total| percent(export.files_done, total)),
            },
            created_at: export.created_at,
            started_at: export.started_at,
            last_progress_at: export.last_progress_at,
            finished_at: export.finished_at,
            deadline_at: export.deadline_at,
            error: export.error.map(|error| error.0),
            warnings: export.warnings.0,
            vendor_status: VendorStatusView { last: export.vendor_status, reference: export.vendor_reference },
        }
    }
}

impl DeliveryView {
    fn new(asked: Delivery, path: Option<String>) -> Self {
        match asked {
            Delivery::Gateway => Self::Gateway,
            Delivery::Destination { destination, .. } => {
                Self::Destination { destination, prefix: path.unwrap_or_default() }
            }
        }
    }
}

impl ResultView {
    fn new(export: &ExportRecord, files: Vec<FileRecord>, now: DateTime<Utc>) -> Self {
        let availability = availability(export, now);
        let is_raw = export.output.format == Format::Raw;
        let is_unified = !is_raw && export.output.schema == RecordSchema::Unified;
        Self {
            availability,
            expires_at: export.result_expires_at,
            records: (!is_raw).then_some(export.records),
            bytes: export.bytes_written,
            partial: false,
            data_as_of: export.data_as_of,
            schema: is_unified.then(|| export.dataset.schema().name),
            files: if availability == Availability::Available {
                files.into_iter().map(FileView::from).collect()
            } else {
                Vec::new()
            },
        }
    }
}

impl From<FileRecord> for FileView {
    fn from(file: FileRecord) -> Self {
        Self {
            id: file.file_id,
            href: format!("/v1/exports/{}/files/{}", file.export_id, file.file_id),
            name: file.name,
            media_type: file.media_type,
            compression: file.compression,
            bytes: file.bytes,
            records: file.records,
            sha256: hex(&file.sha256),
            location: file.location,
        }
    }
}

impl From<EventRecord> for EventView {
    fn from(event: EventRecord) -> Self {
        Self { id: event.seq, at: event.at, state: event.state, phase: event.phase, detail: event.detail }
    }
}

impl From<AttemptRecord> for AttemptView {
    fn from(attempt: AttemptRecord) -> Self {
        let AttemptRecord { at, action, method, target, http_status, duration_ms, decision } = attempt;
        Self { at, action, method, target, http_status, duration_ms, decision }
    }
}

/// Whether the result of a succeeded export can be fetched at `now`.
pub fn availability(export: &ExportRecord, now: DateTime<Utc>) -> Availability {
    if export.result_deleted_at.is_some() {
        Availability::Deleted
    } else if export.result_expires_at.is_some_and(|expires_at| expires_at <= now) {
        Availability::Expired
    } else {
        Availability::Available
    }
}

/// The entity tag of an export, quoted. A result expires without a change of the row, so that is in it too.
pub fn etag(export: &ExportRecord, now: DateTime<Utc>) -> String {
    match availability(export, now) {
        Availability::Expired => format!("\"{}-expired\"", export.version),
        Availability::Available | Availability::Deleted => format!("\"{}\"", export.version),
    }
}

fn percent(done: i32, total: i32) -> Option<i32> {
    let share = i64::from(done.max(0)) * 100 / i64::from((total > 0).then_some(total)?);
    i32::try_from(share.min(100)).ok()
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.filter_map(|digit| char::from_digit(u32::from(digit), 16)).collect()
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use serde_json::to_value;

    use super::{super::examples, *};

    #[test]
    fn every_key_is_there_also_when_nothing_is_known() {
        let mut export = examples::finished_export();
        export.export.state = State::Queued;
        export.export.vendor_status = None;
        let view = to_value(ExportView::new(export, examples::time(0))).unwrap();
        insta::assert_snapshot!(
            view.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" "),
            @"id state phase waiting_reason queue_position connection vendor dataset parameters output delivery labels priority created_by attempt retry_at retry_of coalesced_with schedule progress created_at started_at last_progress_at finished_at deadline_at error warnings vendor_status result"
        );
        assert!(view["result"].is_null() && view["vendor_status"]["last"].is_null());
    }

    #[test]
    fn times_end_in_z() {
        let view = to_value(ExportView::new(examples::finished_export(), examples::time(0))).unwrap();
        assert_eq!(view["created_at"], "2026-03-02T08:00:00Z");
    }

    #[test]
    fn an_expired_or_deleted_result_names_no_files_and_changes_the_tag() {
        let export = examples::finished_export();
        let before = examples::time(0);
        let after = export.export.result_expires_at.unwrap() + TimeDelta::seconds(1);
        let tags = [etag(&export.export, before), etag(&export.export, after)];
        assert_ne!(tags[0], tags[1]);
        let live = ExportView::new(export.clone(), before).result.unwrap();
        assert_eq!((live.availability, live.files.len()), (Availability::Available, 1));
        let expired = ExportView::new(export.clone(), after).result.unwrap();
        assert_eq!((expired.availability, expired.files.len()), (Availability::Expired, 0));
        let mut deleted = export;
        deleted.export.result_deleted_at = Some(before);
        let deleted = ExportView::new(deleted, after).result.unwrap();
        assert_eq!((deleted.availability, deleted.files.len()), (Availability::Deleted, 0));
    }

    #[test]
    fn raw_results_have_no_count_and_no_schema() {
        let mut export = examples::finished_export();
        export.export.output.format = Format::Raw;
        let result = ExportView::new(export, examples::time(0)).result.unwrap();
        assert_eq!((result.records, result.schema), (None, None));
    }

    #[test]
    fn percent_needs_a_known_total_and_stays_within_100() {
        assert_eq!(percent(3, 4), Some(75));
        assert_eq!(percent(5, 4), Some(100));
        assert_eq!(percent(0, 0), None);
    }
}
