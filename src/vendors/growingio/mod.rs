//! GrowingIO, classic: raw data and statistics at `www.growingio.com`.
//! Nothing is begun there: every export is a GET that is asked again until the data are there, so every export is one
//! of parts. Each group of datasets has its file; what they share of address, credentials and pace is in [`api`].
//! Start at [`GrowingIo`]; the token that a private key signs for is in [`token`].

mod api;
mod catalog;
mod raw_events;
mod reports;
pub mod sandbox;
mod settings;
mod statistics;
mod table;
mod token;
mod users;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use self::{api::Api, settings::Settings};
use super::{
    Account, CatalogKind, CatalogPage, CatalogQuery, CredentialSpec, DatasetSpec, Download, Exchanges, Inquiry, Next,
    Pending, Plan, Progress, ReadyAfter, Vendor, VendorError, VendorFile, VendorSpec, shared::Budget,
};
use crate::exports::{
    parameters::AudienceKind,
    problem::{Code, FieldError},
    records::Records,
    request::{Dataset, ExportRequest},
};

const ONE_RATE: &str = "2 calls a second for all of a project's API calls together";

pub const SPEC: VendorSpec = VendorSpec {
    name: "growingio",
    display_name: "GrowingIO",
    datasets: &[
        DatasetSpec {
            dataset: Dataset::RawEvents,
            audience_kinds: &[],
            filled: &["event_type", "event_time", "received_at", "user_id", "visitor_id", "session_id", "properties"],
            typical_latency: "An hour is there 40 minutes after its end, 60 minutes between 23:00 and 02:00 in Beijing; \
                a day by 06:00 in Beijing",
            // A day that is asked for when it begins is there 30 hours later.
            stall_window: Duration::from_hours(36),
            ready_after: ReadyAfter { hours: Duration::from_hours(1), days: Duration::from_hours(6) },
            // The documents ask for five minutes between two calls about files that are being made.
            poll_factor: 5,
            limits: &[
                "A paid feature: the last 15 days, and nothing from before it was switched on",
                ONE_RATE,
                "Slices are hours or days of Beijing time; events outside of the window are left out, by the time \
                 GrowingIO received them. Clicks on ads have no such time: of a slice that is only partly in the \
                 window all of them come",
                "A window's slices are whole hours or days there, so a window of other borders fetches more than it keeps",
            ],
        },
        DatasetSpec {
            dataset: Dataset::AudienceMembers,
            audience_kinds: &[AudienceKind::Segment],
            filled: &["user_id", "vendor_user_id", "identities", "attributes"],
            typical_latency: "Minutes",
            stall_window: Duration::from_hours(2),
            ready_after: ReadyAfter::AT_ONCE,
            poll_factor: 2,
            limits: &[ONE_RATE, "At most 200,000 users in one export of a segment"],
        },
        DatasetSpec {
            dataset: Dataset::Report,
            audience_kinds: &[],
            filled: &["metric", "time", "interval", "dimensions", "value"],
            typical_latency: "Seconds to minutes; figures of an hour are there 30 minutes after its end, those of a day \
                by 06:00 in Beijing",
            stall_window: Duration::from_hours(1),
            ready_after: ReadyAfter { hours: Duration::from_mins(30), days: Duration::from_hours(6) },
            poll_factor: 2,
            limits: &[ONE_RATE, "At most 200,000 rows in one report"],
        },
        DatasetSpec {
            dataset: Dataset::Audiences,
            audience_kinds: &[],
            filled: &["id", "kind", "name", "size", "updated_at", "vendor"],
            typical_latency: "Seconds",
            stall_window: Duration::from_hours(1),
            ready_after: ReadyAfter::AT_ONCE,
            poll_factor: 1,
            limits: &[ONE_RATE],
        },
        DatasetSpec {
            dataset: Dataset::Dashboards,
            audience_kinds: &[],
            filled: &["id", "kind", "name", "created_at", "updated_at", "vendor"],
            typical_latency: "Seconds",
            stall_window: Duration::from_hours(1),
            ready_after: ReadyAfter::AT_ONCE,
            poll_factor: 1,
            limits: &[ONE_RATE],
        },
        DatasetSpec {
            dataset: Dataset::EventRules,
            audience_kinds: &[],
            filled: &["id", "kind", "name"],
            typical_latency: "Seconds",
            stall_window: Duration::from_hours(1),
            ready_after: ReadyAfter::AT_ONCE,
            poll_factor: 1,
            limits: &[ONE_RATE],
        },
    ],
    settings_schema: settings::schema,
    credentials: &[
        CredentialSpec {
            name: "token",
            description: "API token from the project's settings. The recommended way: it never expires",
            required: false,
        },
        CredentialSpec {
            name: "client_id",
            description: "The project's public key: with `private_key`, or with a token of an older project that wants it",
            required: false,
        },
        CredentialSpec {
            name: "private_key",
            description: "The project's private key, to have tokens issued. Each new one ends the one before, whoever \
                uses it",
            required: false,
        },
    ],
    catalogs: &[CatalogKind::Audiences, CatalogKind::Dashboards],
    connect,
    sandbox: sandbox::routes,
    sandbox_connection: sandbox::demo_connection,
};

/// One account.
struct GrowingIo {
    api: Api,
}

fn connect(account: Account) -> Result<Arc<dyn Vendor>, Vec<FieldError>> {
    let settings = Settings::read(&account)?;
    Ok(Arc::new(GrowingIo { api: Api::new(settings, (account.mapping, account.values), account.http, account.shared) }))
}

#[async_trait]
impl Vendor for GrowingIo {
    fn plan(&self, request: &ExportRequest) -> Result<Plan, Vec<FieldError>> {
        match request.dataset {
            Dataset::RawEvents => raw_events::parts(&self.api, request),
            Dataset::Report => reports::parts(&self.api, request),
            Dataset::AudienceMembers => users::parts(&self.api, request),
            _ => catalog::parts(&self.api, request),
        }
    }

    fn budgets(&self) -> Vec<Budget> {
        vec![self.api.budget().clone()]
    }

    async fn check(&self, exchanges: &Exchanges) -> Result<(), VendorError> {
        self.api.check(exchanges).await
    }

    async fn verify(&self, request: &ExportRequest, exchanges: &Exchanges) -> Result<(), VendorError> {
        match request.dataset {
            Dataset::AudienceMembers => users::verify(&self.api, request, exchanges).await,
            // What is asked for is got with the first call, or no list knows it: not every chart is on a dashboard.
            _ => Ok(()),
        }
    }

    async fn poll(
        &self,
        request: &ExportRequest,
        inquiry: &Inquiry<'_>,
        exchanges: &Exchanges,
    ) -> Result<Progress, VendorError> {
        let Pending::Part(part) = inquiry.of else { return Err(no_plan()) };
        match request.dataset {
            Dataset::RawEvents => raw_events::poll(&self.api, request, part, inquiry, exchanges).await,
            Dataset::Report => reports::poll(&self.api, request, part, inquiry, exchanges).await,
            Dataset::AudienceMembers => users::poll(&self.api, request, part, inquiry, exchanges).await,
            _ => catalog::poll(&self.api, request, part, inquiry, exchanges).await,
        }
    }

    async fn open(&self, file: &VendorFile, exchanges: &Exchanges) -> Result<Download, VendorError> {
        self.api.open_link(file, exchanges).await
    }

    fn records(&self, request: &ExportRequest) -> Arc<dyn Records> {
        match request.dataset {
            Dataset::RawEvents => raw_events::records(&self.api, request),
            Dataset::Report => reports::records(&self.api, request),
            Dataset::AudienceMembers => users::records(&self.api, request),
            _ => catalog::records(&self.api, request),
        }
    }

    async fn catalog(&self, query: &CatalogQuery, exchanges: &Exchanges) -> Result<CatalogPage, VendorError> {
        catalog::page(&self.api, query, exchanges).await
    }
}

/// The request was checked when it was accepted, but the connection may have changed since.
fn no_plan() -> VendorError {
    VendorError::new(Code::Internal, Next::GiveUp, "the request cannot be planned")
}

/// A dataset that this file does not serve.
fn not_supported() -> Vec<FieldError> {
    vec![FieldError::new("/dataset", "not_supported", "GrowingIO has no such export")]
}

#[cfg(test)]
mod tests;
