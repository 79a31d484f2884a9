//! The vendors: what each offers ([`VendorSpec`]) and how an export runs there ([`Vendor`]).
//! A vendor is a folder and one line in [`registry`]; nothing outside its folder knows its name.
//! An adapter keeps no state: the export keeps the [`Ticket`], so any worker can go on.

pub mod braze;
mod excerpt;
pub mod growingio;
pub mod growingio_cdp;
pub mod http;
mod object;
pub mod registry;
pub mod sandbox;
#[cfg(test)]
mod scripted;
mod settings;

use std::{
    borrow::Cow,
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::stream::BoxStream;
use secrecy::SecretString;
use serde::Serialize;
use serde_json::Value;
use url::Url;
use utoipa::ToSchema;

use crate::exports::{
    fields::UserColumn,
    problem::{Code, FieldError},
    request::{AudienceKind, Dataset, ExportRequest},
    user::UserRecords,
};

/// What a vendor offers. The API validates against it and publishes it; the sandbox is started from it.
pub struct VendorSpec {
    /// In URLs, rows and spans; never changes once released.
    pub name: &'static str,
    pub display_name: &'static str,
    pub datasets: &'static [DatasetSpec],
    /// JSON Schema of a connection's `settings`.
    pub settings_schema: fn() -> Value,
    /// What `credentials` must hold; every value is a string.
    pub credentials: &'static [CredentialSpec],
    /// Builds an adapter; refuses settings that cannot work, with pointers below `/settings`.
    pub connect: Connect,
    /// Adds the simulator's routes.
    pub sandbox: fn(&mut actix_web::web::ServiceConfig, Arc<sandbox::World>),
    /// The connection a newcomer needs to use the simulator at the given base address.
    pub sandbox_connection: fn(&Url) -> sandbox::DemoConnection,
}

/// How an adapter is built.
pub type Connect = fn(Account) -> Result<Arc<dyn Vendor>, Vec<FieldError>>;

/// One dataset of a vendor.
pub struct DatasetSpec {
    pub dataset: Dataset,
    /// The unified schema of its records.
    pub schema: &'static str,
    pub audience_kinds: &'static [AudienceKind],
    /// Columns the vendor can fill without a mapping.
    pub columns: &'static [UserColumn],
    /// For people: how long it usually takes.
    pub typical_latency: &'static str,
    /// With no sign of progress for this long, the export fails as stalled.
    pub stall_window: Duration,
    /// Limits of the vendor, in words.
    pub limits: &'static [&'static str],
}

/// A value a connection must bring to use the vendor.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub struct CredentialSpec {
    pub name: &'static str,
    pub description: &'static str,
}

/// The column of `user.v1` → the vendor property that feeds it.
pub type Mapping = BTreeMap<String, String>;

/// One account at one vendor: what [`VendorSpec::connect`] needs.
pub struct Account {
    pub settings: Value,
    /// Empty when only the settings are to be checked.
    pub credentials: BTreeMap<String, SecretString>,
    pub mapping: Mapping,
    pub http: http::Http,
}

/// What an export would do at the vendor.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    pub calls: Vec<PlannedCall>,
    /// Exports of one connection with the same key must not run at the vendor at the same time.
    pub exclusive_key: Option<String>,
    /// How many exports of one connection may run at the vendor at the same time.
    pub max_concurrent: u32,
    /// What the caller should know, e.g. columns that stay empty.
    pub warnings: Vec<String>,
}

/// One vendor call of a plan. Shows no host and no credential.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct PlannedCall {
    #[schema(example = "POST")]
    pub method: &'static str,
    #[schema(example = "/users/export/segment")]
    pub path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<Value>,
}

/// What the vendor gave to follow an export by. May hold links that grant access, so it is sealed at rest.
#[derive(Debug, Clone)]
pub struct Ticket(pub SecretString);

/// The vendor accepted an export.
#[derive(Debug, Clone)]
pub struct Submitted {
    pub ticket: Ticket,
    /// The vendor's own id of the export, safe to show: it grants nothing.
    pub reference: Option<String>,
}

/// Where an export stands at the vendor.
#[derive(Debug)]
pub enum Progress {
    Preparing {
        /// The vendor's words, for `vendor_status.last`.
        status: String,
        /// The vendor's own pause (`Retry-After`), if it gave one.
        ask_again_in: Option<Duration>,
        /// What a caller should know, e.g. a status nobody has documented.
        warning: Option<String>,
    },
    /// The files can be fetched now. Empty means an export without records.
    Ready(Vec<VendorFile>),
}

/// One file at the vendor. The locator may grant access: it lives in memory only.
#[derive(Debug, Clone)]
pub struct VendorFile {
    pub locator: SecretString,
    /// The file name extension the vendor's documentation promises, without the dot; `raw` results carry it.
    pub extension: Cow<'static, str>,
}

/// A file being received.
pub struct Download {
    /// `Content-Length`, when the vendor said.
    pub length: Option<u64>,
    pub body: BoxStream<'static, Result<Bytes, VendorError>>,
}

/// Why a vendor call did not do what was wanted, and what to do next. Holds no secret, no link, no record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", code.as_str())]
pub struct VendorError {
    pub code: Code,
    pub http_status: Option<u16>,
    pub message: String,
    pub next: Next,
}

/// What a failed call asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Only an explicit answer says this: the export fails now.
    GiveUp,
    /// It may pass. Counted; after [`MAX_FAILURES`](crate::exports::retry::MAX_FAILURES) in a row, or after `at_most`
    /// where the vendor's documents say that more tries are futile, the export fails.
    TryAgain { after: Option<Duration>, at_most: Option<u32> },
    /// The vendor is healthy but has no room now (rate limit, busy segment). Never counted as a failure.
    Wait { after: Option<Duration> },
    /// The vendor may or may not have begun the export: the answer was lost. Never a plain repeat.
    OutcomeUnknown,
    /// The vendor's copy is gone for good; a new submission is needed.
    Resubmit,
}

impl VendorError {
    pub fn new(code: Code, next: Next, message: impl Into<String>) -> Self {
        Self { code, http_status: None, message: message.into(), next }
    }

    #[must_use]
    pub fn with_http_status(self, status: u16) -> Self {
        Self { http_status: Some(status), ..self }
    }
}

/// One account at one vendor. Three steps without state: submit, ask, open.
#[async_trait]
pub trait Vendor: Send + Sync {
    /// What `request` would do, without doing it.
    ///
    /// # Errors
    /// Fields that this vendor cannot serve, with pointers into the request body.
    fn plan(&self, request: &ExportRequest) -> Result<Plan, Vec<FieldError>>;

    /// A cheap call that shows whether address and credentials work. A missing permission is an error too.
    async fn check(&self, exchanges: &Exchanges) -> Result<(), VendorError>;

    /// Asks the vendor to begin. `callback` is where the vendor may report the end.
    /// `reconciling` says that an earlier answer was lost, so the vendor may be at it already: the adapter must not
    /// begin a second one beside it (it answers [`Next::Wait`] while the first may still be running).
    async fn submit(
        &self,
        request: &ExportRequest,
        callback: Option<&Url>,
        reconciling: bool,
        exchanges: &Exchanges,
    ) -> Result<Submitted, VendorError>;

    /// Asks how far the vendor is. `seen_ready` says that an earlier poll of this ticket found the files ready: what
    /// looked like "not yet" before may mean "gone" now.
    async fn poll(
        &self,
        request: &ExportRequest,
        ticket: &Ticket,
        seen_ready: bool,
        exchanges: &Exchanges,
    ) -> Result<Progress, VendorError>;

    /// Opens one file for reading.
    async fn open(&self, file: &VendorFile, exchanges: &Exchanges) -> Result<Download, VendorError>;

    /// How the records of `request` are read.
    fn user_records(&self, request: &ExportRequest) -> Arc<dyn UserRecords>;
}

/// One exchange with a vendor, as `GET /v1/exports/{id}/attempts` shows it: no query string, no body, no credential.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Exchange {
    pub at: DateTime<Utc>,
    /// `submit`, `poll`, `download`, `check`.
    pub action: &'static str,
    pub method: &'static str,
    /// Host and path; parts that grant access are replaced by `…`.
    pub target: String,
    pub http_status: Option<u16>,
    pub duration_ms: i64,
    /// What the adapter made of it.
    pub decision: String,
}

/// Collects the exchanges of one step, so that they are kept even when the step fails.
#[derive(Debug, Default)]
pub struct Exchanges(Mutex<Vec<Exchange>>);

impl Exchanges {
    /// Adds an exchange.
    pub fn push(&self, exchange: Exchange) {
        self.lock().push(exchange);
    }

    /// Says what was made of the newest exchange.
    pub fn decide(&self, decision: impl Into<String>) {
        if let Some(last) = self.lock().last_mut() {
            last.decision = decision.into();
        }
    }

    /// Everything collected so far; leaves none behind.
    pub fn take(&self) -> Vec<Exchange> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Exchange>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
