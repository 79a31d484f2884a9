//! What is kept of exports and connections: rows as the store reads them and the API shows them.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::types::Json;

use super::{
    problem::Problem,
    request::{Dataset, Delivery, Output, Priority},
    state::{Phase, State},
};
use crate::ids::{ConnectionId, DestinationId, ExportId, FileId, ScheduleId};

/// One export.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct ExportRecord {
    pub export_id: ExportId,
    pub tenant: String,
    pub created_by: String,
    pub connection_id: ConnectionId,
    pub connection: String,
    pub vendor: String,
    pub dataset: Dataset,
    /// As the caller sent them, after validation.
    pub parameters: Value,
    pub output: Json<Output>,
    /// As it was sent.
    pub delivery: Json<Delivery>,
    /// The folder below the destination that the files go to, if they do.
    pub delivery_path: Option<String>,
    pub labels: Json<std::collections::BTreeMap<String, String>>,
    pub priority: Priority,
    /// An export of the same tenant whose vendor export this one shares.
    pub coalesced_with: Option<ExportId>,
    /// While live: the export that does the work for this one, of whatever tenant. Never shown.
    pub follows: Option<ExportId>,
    /// See [`ExportRecord::run`]. Never shown.
    pub run_id: Option<ExportId>,
    pub state: State,
    pub phase: Option<Phase>,
    pub waiting_reason: Option<String>,
    /// Which try of the current step this is, from 1.
    pub attempt: i32,
    pub retry_at: Option<DateTime<Utc>>,
    pub retry_of: Option<ExportId>,
    pub records: i64,
    pub bytes_read: i64,
    pub bytes_written: i64,
    pub files_done: i32,
    pub files_total: Option<i32>,
    pub created_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub last_progress_at: DateTime<Utc>,
    pub finished_at: Option<DateTime<Utc>>,
    pub deadline_at: DateTime<Utc>,
    pub error: Option<Json<Problem>>,
    pub warnings: Json<Vec<String>>,
    pub vendor_status: Option<String>,
    pub vendor_reference: Option<String>,
    /// Set when it succeeded.
    pub result_expires_at: Option<DateTime<Utc>>,
    /// When the vendor's data was taken.
    pub data_as_of: Option<DateTime<Utc>>,
    /// Set when a caller deleted the files.
    pub result_deleted_at: Option<DateTime<Utc>>,
    /// Grows with every change a caller can see.
    pub version: i64,
    /// The schedule that asked for it, and the time it was for.
    pub schedule_id: Option<ScheduleId>,
    pub scheduled_for: Option<DateTime<Utc>>,
}

impl ExportRecord {
    /// The work this export has part in, by the export that began it. It stays when the work is handed on.
    pub fn run(&self) -> ExportId {
        self.run_id.unwrap_or(self.export_id)
    }
}

/// One result file. Visible only when its export has succeeded.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct FileRecord {
    pub file_id: FileId,
    pub export_id: ExportId,
    pub name: String,
    /// Where it lies in the object store.
    pub object_key: String,
    pub media_type: String,
    pub compression: String,
    pub bytes: i64,
    /// Unknown for `raw`.
    pub records: Option<i64>,
    /// Of the bytes as stored and served.
    pub sha256: Vec<u8>,
    /// Where it was delivered to.
    pub location: Option<String>,
}

/// One step in the life of an export.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct EventRecord {
    /// Counts from 1 within the export.
    pub seq: i64,
    pub at: DateTime<Utc>,
    pub state: State,
    pub phase: Option<Phase>,
    pub detail: Option<String>,
}

/// One vendor exchange.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct AttemptRecord {
    pub at: DateTime<Utc>,
    pub action: String,
    pub method: String,
    pub target: String,
    pub http_status: Option<i32>,
    pub duration_ms: i64,
    pub decision: String,
}

/// Whether a connection's credentials work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, sqlx::Type, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Health {
    /// Not tried yet.
    Unknown,
    Healthy,
    /// The vendor rejected the credentials.
    Unhealthy,
}

/// One vendor account. Credentials are not here: the vault keeps them.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct ConnectionRecord {
    pub connection_id: ConnectionId,
    pub name: String,
    pub vendor: String,
    pub display_name: String,
    pub settings: Value,
    pub mapping: Json<super::mapping::ConnectionMapping>,
    pub health: Health,
    pub health_detail: Option<String>,
    pub health_checked_at: Option<DateTime<Utc>>,
    /// Which version of the credentials is in force.
    pub credential_version: i32,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

/// One place that results are delivered to. Credentials are not here: the vault keeps them.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct DestinationRecord {
    pub destination_id: DestinationId,
    pub name: String,
    pub display_name: String,
    pub url: String,
    pub settings: Value,
    pub health: Health,
    pub health_detail: Option<String>,
    pub health_checked_at: Option<DateTime<Utc>>,
    /// Which version of its own credentials is in force; 0 when it has none.
    pub credential_version: i32,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}
