//! GrowingIO CDP: the users of a tag or of a segment profile, through `export_jobs`.
//! A submission gives a job id; the job's result names files on the same host. Nothing is exclusive, nothing can be
//! cancelled, and a second submission merely begins a second job.
//! Start at [`Cdp::submit`]; JSON shapes are in [`wire`], what is asked for in [`properties`], the user in [`records`].

mod properties;
mod records;
pub mod sandbox;
mod wire;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use reqwest::Method;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;

use self::{
    properties::Ask,
    records::CdpUsers,
    wire::{is_path_part, path_part},
};
use super::{
    Account, CredentialSpec, DatasetSpec, Download, Exchanges, Inquiry, Mapping, Next, Pending, Plan, PlannedCall,
    Progress, Submitted, Vendor, VendorError, VendorFile, VendorSpec, Work,
    http::{Answer, Call, FileAnswer, FileCall, Http, TRY_AGAIN, below, decided},
    settings,
};
use crate::exports::{
    parameters::{AudienceKind, Parameters},
    problem::{Code, FieldError},
    records::Records,
    request::{Dataset, ExportRequest, from_json},
};

/// CDP documents no limit. Ten keep one connection from filling a deployment that serves its own console too.
const MAX_CONCURRENT: u32 = 10;

pub const SPEC: VendorSpec = VendorSpec {
    name: "growingio_cdp",
    display_name: "GrowingIO CDP",
    datasets: &[DatasetSpec {
        dataset: Dataset::AudienceMembers,
        audience_kinds: &[AudienceKind::Tag, AudienceKind::Segment],
        filled: &["user_id", "vendor_user_id", "identities", "attributes"],
        typical_latency: "Minutes; CDP documents none",
        stall_window: Duration::from_hours(2),
        poll_factor: 1,
        limits: &[
            "At most 60 identities, attributes and tags in one export",
            "Only properties that are named: by `attributes.<name>` or by the connection's mapping",
            "No documented limit of jobs at once; a connection runs at most 10",
            "A token sees what its user may see: an unknown key and one that is not granted look the same",
        ],
    }],
    settings_schema,
    credentials: &[CredentialSpec {
        name: "token",
        description: "Personal token from the token management in a user's own settings",
        required: true,
    }],
    catalogs: &[],
    connect,
    sandbox: sandbox::routes,
    sandbox_connection: sandbox::demo_connection,
};

fn settings_schema() -> Value {
    json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["base_url", "project_id"],
        "properties": {
            "base_url": {
                "type": "string",
                "format": "uri",
                "title": "Address of the deployment",
                "description": "The API host of your own CDP deployment",
                "examples": ["https://cdp.example.com"]
            },
            "project_id": {
                "type": "string", "minLength": 1, "title": "Project", "examples": ["WlGk4Daj"]
            },
            "space_id": {
                "type": "string",
                "minLength": 1,
                "title": "Space",
                "description": "Leave out for the whole project, and on older deployments, which have no spaces in their paths",
                "examples": ["VKwkPmqX"]
            }
        }
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    base_url: String,
    project_id: String,
    #[serde(default)]
    space_id: Option<String>,
}

struct Cdp {
    base: Url,
    project: String,
    space: Option<String>,
    token: SecretString,
    mapping: Mapping,
    http: Http,
}

fn connect(account: Account) -> Result<Arc<dyn Vendor>, Vec<FieldError>> {
    let mut errors = settings::check_mapping(&account.mapping);
    let token = settings::only_credential(&account, "token").map_err(|more| errors.extend(more)).ok();
    let settings =
        from_json::<Settings>(account.settings.clone(), "/settings").map_err(|error| errors.push(error)).ok();
    let (Some(token), Some(settings)) = (token, settings) else { return Err(errors) };
    let ids = [("project_id", Some(&settings.project_id)), ("space_id", settings.space_id.as_ref())];
    for (name, id) in ids {
        if id.is_some_and(|id| !is_path_part(id.trim()) || id.trim() != id || id.len() > 255) {
            let detail = "an id of 1 to 255 characters without spaces around it";
            errors.push(FieldError::new(format!("/settings/{name}"), "invalid", detail));
        }
    }
    let base = settings::base_url(&settings.base_url).map_err(|error| errors.push(error)).ok();
    match base {
        Some(base) if errors.is_empty() => Ok(Arc::new(Cdp {
            base,
            project: settings.project_id,
            space: settings.space_id,
            token,
            mapping: account.mapping,
            http: account.http,
        })),
        _ => Err(errors),
    }
}

#[async_trait]
impl Vendor for Cdp {
    fn plan(&self, request: &ExportRequest) -> Result<Plan, Vec<FieldError>> {
        let path = self.export_jobs(request).map_err(|error| vec![error])?;
        let ask = self.ask(request)?;
        Ok(Plan {
            calls: vec![PlannedCall { method: "POST", path, body: Some(wire::export_body(&ask)) }],
            work: Work::Job { exclusive_key: None, max_concurrent: MAX_CONCURRENT },
            windows: Vec::new(),
            warnings: ask.warnings,
        })
    }

    async fn check(&self, exchanges: &Exchanges) -> Result<(), VendorError> {
        let mut url = below(&self.base, &format!("{}/user_tags", self.scope()));
        url.set_query(Some("limit=1"));
        let answer = self.call("check", Method::GET, url, None, exchanges).await?;
        decided(exchanges, wire::checked(&answer, &self.token), |()| "address and token work".into())
    }

    /// `reconciling` changes nothing: a job that was begun without our knowing ends on its own and is never fetched.
    async fn submit(
        &self,
        request: &ExportRequest,
        _callback: Option<&Url>,
        _reconciling: bool,
        exchanges: &Exchanges,
    ) -> Result<Submitted, VendorError> {
        let path = self.export_jobs(request).map_err(|error| invalid(&error))?;
        let ask = self.ask(request).map_err(|errors| errors.first().map_or_else(no_plan, invalid))?;
        let body = wire::export_body(&ask);
        let answer = self.call("submit", Method::POST, below(&self.base, &path), Some(&body), exchanges).await?;
        decided(exchanges, wire::submitted(&answer, &self.token), |_| "accepted".into())
    }

    /// Two addresses of a job's result are documented, sometimes on one page: the second is asked when the first is
    /// unknown.
    async fn poll(
        &self,
        _request: &ExportRequest,
        inquiry: &Inquiry<'_>,
        exchanges: &Exchanges,
    ) -> Result<Progress, VendorError> {
        let Pending::Job(ticket) = inquiry.of else { return Err(no_plan()) };
        let id = path_part(&wire::job(ticket)?.id);
        let url = below(&self.base, &format!("/v1/api/job/result/{id}"));
        let mut answer = self.call("poll", Method::GET, url, None, exchanges).await?;
        if answer.status == reqwest::StatusCode::NOT_FOUND {
            exchanges.decide("not here; asking below the project");
            let path = format!("/v1/api/projects/{}/job/result/{id}", path_part(&self.project));
            answer = self.call("poll", Method::GET, below(&self.base, &path), None, exchanges).await?;
        }
        decided(exchanges, wire::progress(&answer, &self.token), |progress| match progress {
            Progress::Ready(files) => format!("ready, files: {}", files.len()),
            Progress::Preparing { status, .. } => format!("preparing, stage {status}"),
            Progress::Data(_) | Progress::NextStage(_) => "went on".into(),
        })
    }

    async fn open(&self, file: &VendorFile, exchanges: &Exchanges) -> Result<Download, VendorError> {
        let mut url = below(&self.base, "/download");
        url.set_query(Some(&wire::download_query(file.locator.expose_secret())));
        let bearer = Some((&self.token, &self.base));
        let answer = self.http.open(FileCall { action: "download", url, bearer, probe: false }, exchanges).await?;
        decided(exchanges, opened(answer, &self.token).await, |_| "reading".into())
    }

    fn records(&self, request: &ExportRequest) -> Arc<dyn Records> {
        // A request that cannot be planned is never submitted, so it has no records to read.
        Arc::new(CdpUsers::new(request.parameters.selection(), self.ask(request).unwrap_or_default()))
    }
}

impl Cdp {
    fn ask(&self, request: &ExportRequest) -> Result<Ask, Vec<FieldError>> {
        Ask::new(&request.parameters.selection(), &self.mapping)
    }

    /// The path of the project or, when one is set, of the space.
    fn scope(&self) -> String {
        let project = format!("/v1/api/projects/{}", path_part(&self.project));
        match &self.space {
            Some(space) => format!("{project}/spaces/{}", path_part(space)),
            None => project,
        }
    }

    fn export_jobs(&self, request: &ExportRequest) -> Result<String, FieldError> {
        let Parameters::AudienceMembers { audience, .. } = &request.parameters else {
            return Err(FieldError::new("/dataset", "not_supported", "CDP has no such export"));
        };
        let list = match audience.kind {
            AudienceKind::Tag => "user_tags",
            AudienceKind::Segment => "segment_profiles",
            AudienceKind::GlobalControlGroup => {
                let detail = "CDP exports audiences of kind `tag` and `segment`";
                return Err(FieldError::new("/parameters/audience/kind", "not_supported", detail));
            }
        };
        match audience.id.as_deref().filter(|id| is_path_part(id)) {
            Some(id) => Ok(format!("{}/{list}/{}/export_jobs", self.scope(), path_part(id))),
            None => Err(FieldError::new("/parameters/audience/id", "invalid", "the key of a tag or segment")),
        }
    }

    async fn call(
        &self,
        action: &'static str,
        method: Method,
        url: Url,
        body: Option<&Value>,
        exchanges: &Exchanges,
    ) -> Result<Answer, VendorError> {
        let call = Call { action, method, url, bearer: &self.token, body, when_lost: TRY_AGAIN };
        self.http.call(call, exchanges).await
    }
}

/// The request was checked when it was accepted, but the connection may have changed since.
fn invalid(error: &FieldError) -> VendorError {
    VendorError::new(Code::InvalidRequest, Next::GiveUp, format!("{}: {}", error.pointer, error.detail))
}

fn no_plan() -> VendorError {
    VendorError::new(Code::Internal, Next::GiveUp, "the request cannot be planned")
}

/// What the download address answers. CDP does not say how long files last; its console's last a day.
async fn opened(answer: FileAnswer, token: &SecretString) -> Result<Download, VendorError> {
    let (status, after) = (answer.status.as_u16(), answer.retry_after());
    let (code, next, what) = match status {
        200 if answer.is_web_page() => {
            let next = Next::TryAgain { after: None, at_most: Some(5) };
            (Code::VendorMalformedData, next, "CDP answered a web page instead of the file")
        }
        200 => return Ok(answer.into_download()),
        404 | 410 => (Code::VendorLinkExpired, Next::Resubmit, "CDP no longer has the file"),
        401 => (Code::VendorCredentialsRejected, Next::GiveUp, "CDP rejected the token"),
        403 => (Code::VendorPermissionDenied, Next::GiveUp, "the token's user may not download the file"),
        408 | 429 | 500.. => (Code::VendorUnavailable, Next::TryAgain { after, at_most: None }, "CDP failed"),
        400..=499 => (Code::VendorRejectedRequest, Next::GiveUp, "CDP refused the download"),
        _ => (Code::VendorMalformedData, TRY_AGAIN, "CDP answered no file"),
    };
    let message = format!("{what} ({status}): {}", answer.excerpt(token).await);
    Err(VendorError::new(code, next, message).with_http_status(status))
}

#[cfg(test)]
mod tests;
