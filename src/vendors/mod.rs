//! The vendors: what each offers ([`VendorSpec`]) and how an export runs there ([`Vendor`]).
//! A vendor is a folder and one line in [`registry`]; nothing outside its folder knows its name.
//! An adapter keeps no state: the export keeps the [`Ticket`], so any worker can go on.

pub mod braze;
mod excerpt;
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzzing;
pub mod growingio;
pub mod growingio_cdp;
pub mod http;
mod object;
pub mod registry;
pub mod sandbox;
#[cfg(test)]
mod scripted;
mod settings;
pub mod shared;

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt,
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
    mapping::ValueMaps,
    parameters::{AudienceKind, CatalogKind, Granularity, Interval, Parameters, Window},
    problem::{Code, FieldError},
    records::Records,
    request::{Dataset, ExportRequest},
    rows::CatalogRow,
};

/// What a vendor offers. The API validates against it and publishes it; the sandbox is started from it.
pub struct VendorSpec {
    /// In URLs, rows and spans; never changes once released.
    pub name: &'static str,
    pub display_name: &'static str,
    pub datasets: &'static [DatasetSpec],
    /// JSON Schema of a connection's `settings`.
    pub settings_schema: fn() -> Value,
    /// What `credentials` may hold; every value is a string.
    pub credentials: &'static [CredentialSpec],
    /// What can be listed live.
    pub catalogs: &'static [CatalogKind],
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
    /// For a dataset of audiences.
    pub audience_kinds: &'static [AudienceKind],
    /// Columns of the dataset's schema that the vendor can fill without a mapping.
    pub filled: &'static [&'static str],
    /// For people: how long it usually takes.
    pub typical_latency: &'static str,
    /// With no sign of progress for this long, the export fails as stalled.
    pub stall_window: Duration,
    /// When the data of a window is there: schedules wait for it.
    pub ready_after: ReadyAfter,
    /// How many times further apart than usual the vendor wants to be asked.
    pub poll_factor: u32,
    /// Limits of the vendor, in words.
    pub limits: &'static [&'static str],
}

/// How long after the end of a window its data is there, as far as the vendor's documents say. An export that comes
/// earlier waits at the vendor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadyAfter {
    /// Of data by the hour.
    pub hours: Duration,
    /// Of data by the day, or longer.
    pub days: Duration,
}

impl ReadyAfter {
    /// At once, or nothing is said.
    pub const AT_ONCE: Self = Self { hours: Duration::ZERO, days: Duration::ZERO };

    /// For data as `parameters` want it.
    pub const fn of(self, parameters: &Parameters) -> Duration {
        let by_the_hour = match parameters {
            Parameters::RawEvents(raw) => matches!(raw.granularity, Granularity::Hour),
            Parameters::Report(report) => matches!(report.interval, Some(Interval::Hour)),
            Parameters::MetricSeries(series) => matches!(series.interval, Some(Interval::Hour)),
            _ => false,
        };
        if by_the_hour { self.hours } else { self.days }
    }
}

/// What of a catalog is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogQuery {
    pub kind: CatalogKind,
    /// Of `dashboards`: the charts of this one.
    pub id: Option<String>,
    /// Where the last page ended, as the adapter said.
    pub after: Option<String>,
}

/// One page of a catalog; how many rows it has is the vendor's choice.
#[derive(Debug, Default)]
pub struct CatalogPage {
    pub rows: Vec<CatalogRow<'static>>,
    /// Where the next page begins; none on the last.
    pub next: Option<String>,
}

/// A value a connection must bring to use the vendor.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub struct CredentialSpec {
    pub name: &'static str,
    pub description: &'static str,
    /// False where the vendor takes one of several.
    pub required: bool,
}

/// The column of `user.v1` → the vendor property that feeds it.
pub type Mapping = BTreeMap<String, String>;

/// One account at one vendor: what [`VendorSpec::connect`] needs.
pub struct Account {
    pub settings: Value,
    /// Empty when only the settings are to be checked.
    pub credentials: BTreeMap<String, SecretString>,
    pub mapping: Mapping,
    /// How the values of what the mapping names are translated.
    pub values: ValueMaps,
    pub http: http::Http,
    /// What all replicas share: budgets and tokens.
    pub shared: Arc<dyn shared::Shared>,
}

/// What an export would do at the vendor.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The calls that ask for data, in their order. Where they page or poll, the first of each kind.
    pub calls: Vec<PlannedCall>,
    pub work: Work,
    /// The slices a window is cut into; none for datasets without a window.
    pub windows: Vec<Window>,
    /// What the caller should know, e.g. columns that stay empty.
    pub warnings: Vec<String>,
}

impl Plan {
    /// Exports of one connection with the same key must not run at the vendor at the same time.
    pub fn exclusive_key(&self) -> Option<&str> {
        match &self.work {
            Work::Job { exclusive_key, .. } => exclusive_key.as_deref(),
            Work::Parts(_) => None,
        }
    }
}

/// How an export is got from the vendor.
#[derive(Debug, Clone, PartialEq)]
pub enum Work {
    /// One job there: begun once, then followed by what the vendor gave ([`Ticket`]).
    Job {
        /// Exports of one connection with the same key must not run at the vendor at the same time.
        exclusive_key: Option<String>,
        /// How many jobs of one connection may run at the vendor at the same time.
        max_concurrent: u32,
    },
    /// Nothing to begin: each part is asked for until it is there, on its own, in any order. A part is what the
    /// adapter wants to be given back, no secret. Never empty.
    Parts(Vec<String>),
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

/// What the vendor is asked about, and what is known of it.
#[derive(Debug, Clone, Copy)]
pub struct Inquiry<'a> {
    pub of: Pending<'a>,
    /// An earlier inquiry found the files ready: what looked like "not yet" before may mean "gone" now.
    pub seen_ready: bool,
    /// The vendor has called back.
    pub called_back: bool,
    /// When the job was accepted, or the part first asked for.
    pub since: DateTime<Utc>,
    /// The database's clock, as is `since`.
    pub now: DateTime<Utc>,
}

/// What is being waited for.
#[derive(Debug, Clone, Copy)]
pub enum Pending<'a> {
    Job(&'a Ticket),
    Part(&'a str),
}

/// Where an export, or a part of it, stands at the vendor.
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
    /// The files can be fetched now. Empty means no records.
    Ready(Vec<VendorFile>),
    /// The data came with the answer.
    Data(VendorData),
    /// One stage is done and the next was begun: follow this from now on.
    NextStage(Submitted),
}

/// One file at the vendor. The locator may grant access: it lives in memory only.
#[derive(Debug, Clone)]
pub struct VendorFile {
    pub locator: SecretString,
    /// The file name extension the vendor's documentation promises, without the dot; `raw` results carry it.
    pub extension: Cow<'static, str>,
    /// What is in it, for [`Records::member`]. With its position it tells a file from the others when links are renewed.
    pub tag: Cow<'static, str>,
}

/// Data being received that have no address of their own.
#[derive(Debug)]
pub struct VendorData {
    pub download: Download,
    /// As [`VendorFile::extension`].
    pub extension: Cow<'static, str>,
    /// As [`VendorFile::tag`].
    pub tag: Cow<'static, str>,
}

/// A file being received.
pub struct Download {
    /// `Content-Length`, when the vendor said.
    pub length: Option<u64>,
    pub body: BoxStream<'static, Result<Bytes, VendorError>>,
}

impl fmt::Debug for Download {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Download").field("length", &self.length).finish_non_exhaustive()
    }
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
    /// It may pass. Tried again for as long as silence would be waited out (the dataset's stall window), or `at_most` times
    /// in a row where the vendor's documents say that more are futile; then the export fails.
    TryAgain { after: Option<Duration>, at_most: Option<u32> },
    /// The vendor is healthy but has no room now (rate limit, busy segment). Never counted as a failure.
    Wait { after: Option<Duration> },
    /// Our own budget of calls is spent for now. Never counted as a failure.
    WaitForBudget { after: Duration },
    /// The link no longer works, but asking again brings a new one.
    Renew,
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

/// Files of one export that are fetched at the same time, unless the vendor wants fewer: enough to keep three workers of
/// a usual machine busy, and few enough that an export of thousands of files leaves room for others.
const PARTS_AT_ONCE: u32 = 16;

/// One account at one vendor. Keeps nothing between calls.
#[async_trait]
pub trait Vendor: Send + Sync {
    /// What `request` would do, without doing it.
    ///
    /// # Errors
    /// Fields that this vendor cannot serve, with pointers into the request body.
    fn plan(&self, request: &ExportRequest) -> Result<Plan, Vec<FieldError>>;

    /// The budgets of calls that this account keeps to.
    fn budgets(&self) -> Vec<shared::Budget> {
        Vec::new()
    }

    /// How many jobs of one connection may run at the vendor at the same time, where that is limited.
    fn max_concurrent(&self) -> Option<u32> {
        None
    }

    /// How many parts of one export may be asked for or fetched at the same time, by all workers together.
    fn parts_at_once(&self, _request: &ExportRequest) -> u32 {
        PARTS_AT_ONCE
    }

    /// A cheap call that shows whether address and credentials work. A missing permission is an error too.
    async fn check(&self, exchanges: &Exchanges) -> Result<(), VendorError>;

    /// Whether the ids in `request` exist, as far as the vendor lets us know. Asked once, before anything begins.
    ///
    /// # Errors
    /// `vendor_data_not_found` for an id that is known not to exist; whatever stands in the way of asking.
    async fn verify(&self, _request: &ExportRequest, _exchanges: &Exchanges) -> Result<(), VendorError> {
        Ok(())
    }

    /// Asks the vendor to begin a [`Work::Job`]. `callback` is where the vendor may report the end.
    /// `reconciling` says that an earlier answer was lost, so the vendor may be at it already: the adapter must not
    /// begin a second one beside it (it answers [`Next::Wait`] while the first may still be running).
    async fn submit(
        &self,
        _request: &ExportRequest,
        _callback: Option<&Url>,
        _reconciling: bool,
        _exchanges: &Exchanges,
    ) -> Result<Submitted, VendorError> {
        Err(VendorError::new(Code::Internal, Next::GiveUp, "this vendor has no jobs to begin"))
    }

    /// Asks how far the vendor is. For a part of a dataset that comes at once, this is the call that gets it.
    async fn poll(
        &self,
        request: &ExportRequest,
        inquiry: &Inquiry<'_>,
        exchanges: &Exchanges,
    ) -> Result<Progress, VendorError>;

    /// Opens one file for reading.
    async fn open(&self, file: &VendorFile, exchanges: &Exchanges) -> Result<Download, VendorError>;

    /// Stops a job at the vendor. Called only when no other live export hangs on the same exclusive key; `ticket` is
    /// none when the answer to the submission was lost. The export is cancelled whatever comes of it.
    async fn cancel(
        &self,
        _request: &ExportRequest,
        _ticket: Option<&Ticket>,
        _exchanges: &Exchanges,
    ) -> Result<(), VendorError> {
        Ok(())
    }

    /// How the records of `request` are read.
    fn records(&self, request: &ExportRequest) -> Arc<dyn Records>;

    /// One page of what can be exported, live.
    ///
    /// # Errors
    /// What the call fails with; `not_found` for an id that does not exist.
    async fn catalog(&self, _query: &CatalogQuery, _exchanges: &Exchanges) -> Result<CatalogPage, VendorError> {
        Err(VendorError::new(Code::NotFound, Next::GiveUp, "this vendor has no such catalog"))
    }
}

/// One exchange with a vendor, as `GET /v1/exports/{id}/attempts` shows it: no query string, no body, no credential.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Exchange {
    pub at: DateTime<Utc>,
    /// `submit`, `poll`, `download`, `check`, `verify`, `cancel`, `token`, `catalog`.
    pub action: &'static str,
    pub method: &'static str,
    /// Host and path; parts that grant access are replaced by `…`.
    pub target: String,
    pub http_status: Option<u16>,
    pub duration_ms: i64,
    /// What the adapter made of it.
    pub decision: String,
}

/// Collects the exchanges of one step, so that they are kept even when the step fails. Clones collect together.
#[derive(Debug, Clone, Default)]
pub struct Exchanges(Arc<Mutex<Vec<Exchange>>>);

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

    /// Takes over what another collected.
    pub fn append(&self, other: &Self) {
        let others = other.take();
        self.lock().extend(others);
    }

    /// Everything collected so far; leaves none behind.
    pub fn take(&self) -> Vec<Exchange> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Exchange>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
