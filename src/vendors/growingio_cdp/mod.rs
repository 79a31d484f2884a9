//! GrowingIO CDP: users of tags and segments through `export_jobs`, single users, the lists of tags and segments, and
//! the results of saved analyses. Nothing is exclusive, nothing can be cancelled, and a second submission merely begins
//! a second job.
//! Start at the impl of [`Vendor`]; paths are in [`place`], JSON shapes in [`wire`], jobs in [`export_jobs`], the user
//! in [`records`].

mod analyses;
mod csv;
mod export_jobs;
mod lists;
mod pages;
mod place;
mod profiles;
mod properties;
mod records;
mod refresh;
pub mod sandbox;
mod scan;
mod wire;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::FutureExt;
use url::Url;

use self::{
    csv::CdpFiles,
    lists::Audiences,
    pages::Api,
    place::{AudienceRef, List, Place},
    profiles::Profiles,
    properties::Ask,
    records::CdpUsers,
};
use super::{
    Account, CatalogKind, CatalogPage, CatalogQuery, CredentialSpec, DatasetSpec, Download, Exchanges, Inquiry,
    Mapping, Next, Pending, Plan, PlannedCall, Progress, ReadyAfter, Submitted, Vendor, VendorData, VendorError,
    VendorFile, VendorSpec, Work, settings,
};
use crate::exports::{
    mapping::ValueMaps,
    parameters::{self, AudienceKind, Parameters},
    problem::{Code, FieldError},
    records::Records,
    request::{Dataset, ExportRequest, Format},
};

/// CDP documents no limit. Ten keep one connection from filling a deployment that serves its own console too.
const MAX_CONCURRENT: u32 = 10;
/// Users asked for at once: their queries go to the same deployment.
const QUERIES_AT_ONCE: u32 = 4;
/// The only part of a report.
const RESULT: &str = "result";

const ROWS: &[&str] = &["id", "kind", "name", "description", "status", "created_at", "updated_at", "vendor"];

pub const SPEC: VendorSpec = VendorSpec {
    name: "growingio_cdp",
    display_name: "GrowingIO CDP",
    datasets: &[
        DatasetSpec {
            dataset: Dataset::AudienceMembers,
            audience_kinds: &[AudienceKind::Tag, AudienceKind::Segment],
            filled: &["user_id", "vendor_user_id", "identities", "attributes"],
            typical_latency: "Minutes; CDP documents none",
            stall_window: Duration::from_hours(2),
            ready_after: ReadyAfter::AT_ONCE,
            poll_factor: 1,
            limits: &[
                "At most 60 identities, attributes and tags in one export",
                "Only properties that are named: by `attributes.<name>` or by the connection's mapping",
                "No documented limit of jobs at once; a connection runs at most 10",
                "A token sees what its user may see: an unknown key and one that is not granted look the same",
                "`refresh: true` has the audience computed first; one that is being computed is waited for",
                "Segments belong to a space, or to a project of an older deployment",
            ],
        },
        DatasetSpec {
            dataset: Dataset::UserProfiles,
            audience_kinds: &[],
            filled: &["user_id", "vendor_user_id", "identities", "attributes"],
            typical_latency: "Seconds; one call for each identifier",
            stall_window: Duration::from_mins(30),
            ready_after: ReadyAfter::AT_ONCE,
            poll_factor: 1,
            limits: &[
                "Identifiers of type `user_id` and `device_id`; `email` and `phone` where the connection's mapping \
                 names an identity for them",
                "One call for each identifier, at most four at once",
                "Every attribute and tag comes; `fields` narrows what is kept",
                "A user that does not exist or is not granted to the token is counted in a warning",
            ],
        },
        DatasetSpec {
            dataset: Dataset::Report,
            audience_kinds: &[],
            filled: &["metric", "time", "interval", "dimensions", "value"],
            typical_latency: "Seconds",
            stall_window: Duration::from_mins(30),
            ready_after: ReadyAfter::AT_ONCE,
            poll_factor: 1,
            limits: &[
                "Saved analyses as they are saved: no `window`, no `interval`; `chart` is an event analysis",
                "Event analyses come in pages of 50,000 rows",
                "Columns are named as people see them. The first row tells which are figures: the last columns, as far \
                 as they hold numbers",
                "`12.5%` is the value 12.5; what is no number is null",
                "Times come without a zone and are read as Beijing's",
            ],
        },
        DatasetSpec {
            dataset: Dataset::Audiences,
            audience_kinds: &[AudienceKind::Tag, AudienceKind::Segment],
            filled: ROWS,
            typical_latency: "Seconds",
            stall_window: Duration::from_mins(30),
            ready_after: ReadyAfter::AT_ONCE,
            poll_factor: 1,
            limits: &[
                "Pages of 1,000; an entry that moves to the next page while they are read comes once",
                "CDP tells no sizes",
                "The lists hold all there is: `details` changes nothing",
            ],
        },
    ],
    settings_schema: place::schema,
    credentials: &[CredentialSpec {
        name: "token",
        description: "Personal token from the token management in a user's own settings",
        required: true,
    }],
    catalogs: &[CatalogKind::Audiences],
    connect,
    sandbox: sandbox::routes,
    sandbox_connection: sandbox::demo_connection,
};

struct Cdp {
    base: Url,
    place: Place,
    api: Api,
    mapping: Mapping,
    values: ValueMaps,
}

fn connect(account: Account) -> Result<Arc<dyn Vendor>, Vec<FieldError>> {
    let mut errors = settings::check_mapping(&account.mapping);
    let token = settings::only_credential(&account, "token").map_err(|more| errors.extend(more)).ok();
    let place = Place::read(&account.settings).map_err(|more| errors.extend(more)).ok();
    let written = account.settings["base_url"].as_str().map(settings::base_url);
    let base = written.and_then(|base| base.map_err(|error| errors.push(error)).ok());
    match (token, place, base) {
        (Some(token), Some(place), Some(base)) if errors.is_empty() => {
            let api = Api { http: account.http, token };
            Ok(Arc::new(Cdp { base, place, api, mapping: account.mapping, values: account.values }))
        }
        _ => Err(errors),
    }
}

#[async_trait]
impl Vendor for Cdp {
    fn plan(&self, request: &ExportRequest) -> Result<Plan, Vec<FieldError>> {
        let get = |path: String| PlannedCall { method: "GET", path, body: None };
        let (calls, work, warnings) = match &request.parameters {
            Parameters::AudienceMembers { audience, refresh, .. } => return self.plan_job(request, audience, *refresh),
            Parameters::UserProfiles { identifiers, selection } => {
                let paths = profiles::paths(identifiers, &self.mapping, &self.place)?;
                let parts = profiles::parts(paths.len());
                let warnings = Ask::of_query(selection, &self.mapping).warnings;
                (paths.into_iter().take(1).map(get).collect(), Work::Parts(parts), warnings)
            }
            Parameters::Report(report) => {
                let paths = analyses::paths(report, &self.place)?;
                (paths.into_iter().take(1).map(get).collect(), Work::Parts(vec![RESULT.to_owned()]), Vec::new())
            }
            Parameters::Audiences(audiences) => {
                let lists = self.lists(audiences.kind).map_err(|error| vec![error])?;
                let parts = lists.iter().map(|list| list.kind().to_owned()).collect();
                let mut warnings = Vec::new();
                if audiences.details {
                    warnings.push("`details` changes nothing: CDP's lists hold all there is".to_owned());
                }
                (lists.iter().map(|list| get(self.place.list(*list))).collect(), Work::Parts(parts), warnings)
            }
            _ => return Err(vec![FieldError::new("/dataset", "not_supported", "CDP has no such export")]),
        };
        Ok(Plan { calls, work, windows: Vec::new(), warnings })
    }

    fn max_concurrent(&self) -> Option<u32> {
        Some(MAX_CONCURRENT)
    }

    fn parts_at_once(&self, request: &ExportRequest) -> u32 {
        if request.dataset == Dataset::UserProfiles { QUERIES_AT_ONCE } else { MAX_CONCURRENT }
    }

    async fn check(&self, exchanges: &Exchanges) -> Result<(), VendorError> {
        self.check_list(exchanges).await
    }

    async fn verify(&self, request: &ExportRequest, exchanges: &Exchanges) -> Result<(), VendorError> {
        let Parameters::AudienceMembers { audience, .. } = &request.parameters else { return Ok(()) };
        let audience = self.audience(audience).map_err(|error| invalid(&error))?;
        match lists::find(&self.api, &self.base, &self.place, &audience, exchanges).await? {
            lists::Found::Nowhere => Err(lists::unknown_key(&audience)),
            lists::Found::Here(_) | lists::Found::Unreadable(_) => Ok(()),
        }
    }

    /// `reconciling` changes nothing: a job that was begun without our knowing ends on its own and is never fetched.
    async fn submit(
        &self,
        request: &ExportRequest,
        _callback: Option<&Url>,
        _reconciling: bool,
        exchanges: &Exchanges,
    ) -> Result<Submitted, VendorError> {
        self.begin(request, exchanges).await
    }

    async fn poll(
        &self,
        request: &ExportRequest,
        inquiry: &Inquiry<'_>,
        exchanges: &Exchanges,
    ) -> Result<Progress, VendorError> {
        match inquiry.of {
            Pending::Job(ticket) => self.follow(request, ticket, exchanges).await,
            // Boxed: what all datasets together need would make every poll large.
            Pending::Part(part) => self.part(request, part, exchanges).boxed().await.map(Progress::Data),
        }
    }

    async fn open(&self, file: &VendorFile, exchanges: &Exchanges) -> Result<Download, VendorError> {
        self.download(file, exchanges).await
    }

    fn records(&self, request: &ExportRequest) -> Arc<dyn Records> {
        match &request.parameters {
            Parameters::Report(_) => Arc::new(analyses::Results::default()),
            Parameters::Audiences(_) => Arc::new(Audiences),
            Parameters::UserProfiles { selection, .. } => {
                let ask = Ask::of_query(selection, &self.mapping);
                Arc::new(Profiles::new(CdpUsers::new(selection.clone(), ask).with_values(self.values.clone())))
            }
            // A request that cannot be planned is never submitted, so it has no records to read.
            parameters => {
                let selection = parameters.selection();
                let ask = Ask::of_export(&selection, &self.mapping).unwrap_or_default();
                Arc::new(CdpFiles(CdpUsers::new(selection, ask).with_values(self.values.clone())))
            }
        }
    }

    async fn catalog(&self, query: &CatalogQuery, exchanges: &Exchanges) -> Result<CatalogPage, VendorError> {
        if query.kind != CatalogKind::Audiences || query.id.is_some() {
            return Err(VendorError::new(Code::NotFound, Next::GiveUp, "CDP has no such catalog"));
        }
        lists::catalog(&self.api, &self.base, &self.place, query.after.as_deref(), exchanges).await
    }
}

impl Cdp {
    /// The tag or segment that is meant, if the connection's paths have such.
    fn audience<'a>(&self, audience: &'a parameters::Audience) -> Result<AudienceRef<'a>, FieldError> {
        let list = self.list_of(audience.kind, "/parameters/audience/kind")?;
        match audience.id.as_deref().filter(|id| wire::is_path_part(id)) {
            Some(key) => Ok(AudienceRef { list, key }),
            None => Err(FieldError::new("/parameters/audience/id", "invalid", "the key of a tag or segment")),
        }
    }

    fn list_of(&self, kind: AudienceKind, pointer: &str) -> Result<List, FieldError> {
        let detail = match kind {
            AudienceKind::Tag => return Ok(List::Tags),
            AudienceKind::Segment if self.place.has_segments() => return Ok(List::Segments),
            AudienceKind::Segment => "the connection's paths are the data centre's, which has tags only",
            AudienceKind::GlobalControlGroup => "CDP has audiences of kind `tag` and `segment`",
        };
        Err(FieldError::new(pointer, "not_supported", detail))
    }

    /// The lists that are asked for. Without a kind those there are.
    fn lists(&self, kind: Option<AudienceKind>) -> Result<Vec<List>, FieldError> {
        match kind {
            Some(kind) => self.list_of(kind, "/parameters/kind").map(|list| vec![list]),
            None if self.place.has_segments() => Ok(vec![List::Tags, List::Segments]),
            None => Ok(vec![List::Tags]),
        }
    }

    /// Gets a part of a dataset that comes with the answer.
    async fn part(
        &self,
        request: &ExportRequest,
        part: &str,
        exchanges: &Exchanges,
    ) -> Result<VendorData, VendorError> {
        let of_plan = |errors: Vec<FieldError>| errors.first().map_or_else(no_plan, invalid);
        let api = self.api.clone();
        let download = match &request.parameters {
            Parameters::UserProfiles { identifiers, .. } => {
                let paths = profiles::paths(identifiers, &self.mapping, &self.place).map_err(of_plan)?;
                let paths = profiles::paths_of(&paths, part).ok_or_else(no_plan)?;
                let is_raw = request.output.format == Format::Raw;
                profiles::read(api, &self.base, paths, is_raw, exchanges).await?
            }
            Parameters::Report(report) => {
                let paths = analyses::paths(report, &self.place).map_err(of_plan)?;
                let read = analyses::read(&api, &self.base, report.report.kind, &paths, exchanges).await?;
                read.ok_or_else(no_plan)?
            }
            Parameters::Audiences(_) => {
                let list = List::of_kind(part).ok_or_else(no_plan)?;
                let read = lists::listing(&self.base, &self.place, list).read(api, exchanges).await;
                read.inspect_err(|error| exchanges.decide(error.message.clone()))?
            }
            _ => return Err(no_plan()),
        };
        Ok(VendorData { download, extension: "json".into(), tag: part.to_owned().into() })
    }
}

/// The request was checked when it was accepted, but the connection may have changed since.
fn invalid(error: &FieldError) -> VendorError {
    VendorError::new(Code::InvalidRequest, Next::GiveUp, format!("{}: {}", error.pointer, error.detail))
}

fn no_plan() -> VendorError {
    VendorError::new(Code::Internal, Next::GiveUp, "the request cannot be planned")
}

#[cfg(test)]
mod tests;
