//! Exports of audiences: a submission gives a job id, the job's result names files on the same host. With `refresh` a
//! computation comes first, as a stage of its own.

use reqwest::Method;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use url::Url;

use super::{
    Cdp, MAX_CONCURRENT, invalid, lists, no_plan,
    place::{AudienceRef, List},
    properties::Ask,
    refresh::{self, Before, Computation},
    wire::{self, Stage},
};
use crate::exports::{
    parameters::{Audience, Parameters},
    problem::{Code, FieldError},
    request::ExportRequest,
};
use crate::vendors::{
    Download, Exchanges, Next, Plan, PlannedCall, Progress, Submitted, Ticket, VendorError, VendorFile, Work,
    http::{Answer, Call, FileAnswer, FileCall, TRY_AGAIN, below, decided},
};

/// The action of what begins a job.
const SUBMIT: &str = "submit";

impl Cdp {
    pub(super) fn plan_job(
        &self,
        request: &ExportRequest,
        audience: &Audience,
        refresh: bool,
    ) -> Result<Plan, Vec<FieldError>> {
        let audience = self.audience(audience).map_err(|error| vec![error])?;
        let ask = self.ask(request)?;
        if refresh && !self.place.computes_anew() {
            let detail = "CDP documents no computation by the paths of the data centre";
            return Err(vec![FieldError::new("/parameters/refresh", "not_supported", detail)]);
        }
        let compute = PlannedCall { method: "POST", path: self.place.computes(&audience), body: None };
        let body = Some(wire::export_body(&ask, &self.place));
        let export = PlannedCall { method: "POST", path: self.place.export_jobs(&audience), body };
        Ok(Plan {
            calls: if refresh { vec![compute, export] } else { vec![export] },
            work: Work::Job { exclusive_key: None, max_concurrent: MAX_CONCURRENT },
            windows: Vec::new(),
            warnings: ask.warnings,
        })
    }

    fn ask(&self, request: &ExportRequest) -> Result<Ask, Vec<FieldError>> {
        Ask::of_export(&request.parameters.selection(), &self.mapping)
    }

    /// The audience of a request for its members, and whether it is to be computed anew.
    fn order<'r>(&self, request: &'r ExportRequest) -> Result<(AudienceRef<'r>, bool), VendorError> {
        let Parameters::AudienceMembers { audience, refresh, .. } = &request.parameters else { return Err(no_plan()) };
        Ok((self.audience(audience).map_err(|error| invalid(&error))?, *refresh))
    }

    /// Lists one tag, which shows whether address, project and token work.
    pub(super) async fn check_list(&self, exchanges: &Exchanges) -> Result<(), VendorError> {
        let mut url = below(&self.base, &self.place.list(List::Tags));
        url.set_query(Some("limit=1"));
        let answer = self.call("check", Method::GET, url, None, exchanges).await?;
        decided(exchanges, wire::checked(&answer, &self.api.token), |()| "address and token work".into())
    }

    /// Begins the export, or the computation before it.
    pub(super) async fn begin(&self, request: &ExportRequest, exchanges: &Exchanges) -> Result<Submitted, VendorError> {
        match self.order(request)? {
            (audience, true) => self.compute(&audience, exchanges).await,
            (audience, false) => self.export(request, &audience, exchanges).await,
        }
    }

    async fn export(
        &self,
        request: &ExportRequest,
        audience: &AudienceRef<'_>,
        exchanges: &Exchanges,
    ) -> Result<Submitted, VendorError> {
        let ask = self.ask(request).map_err(|errors| errors.first().map_or_else(no_plan, invalid))?;
        let body = wire::export_body(&ask, &self.place);
        let url = below(&self.base, &self.place.export_jobs(audience));
        let answer = self.call(SUBMIT, Method::POST, url, Some(&body), exchanges).await?;
        decided(exchanges, wire::submitted(&answer, &self.api.token), |_| "accepted".into())
    }

    /// Has the audience computed; when that is under way already, it is waited for.
    async fn compute(&self, audience: &AudienceRef<'_>, exchanges: &Exchanges) -> Result<Submitted, VendorError> {
        let before = self.entry(audience, exchanges).await?;
        let url = below(&self.base, &self.place.computes(audience));
        let answer = self.call(SUBMIT, Method::POST, url, None, exchanges).await?;
        let begun = decided(exchanges, refresh::triggered(&answer, &self.api.token), |begun| match begun {
            true => "CDP computes the audience".into(),
            false => "CDP does not compute the audience now".into(),
        })?;
        if !begun && !refresh::is_under_way(&before) {
            let now = self.entry(audience, exchanges).await?;
            if !refresh::is_under_way(&now) {
                return Err(refresh::not_triggered());
            }
        }
        Ok(Submitted { ticket: Stage::Compute { computing: Before::from(before) }.ticket(), reference: None })
    }

    /// What the list says of an audience.
    async fn entry(&self, audience: &AudienceRef<'_>, exchanges: &Exchanges) -> Result<lists::Entry, VendorError> {
        match lists::find(&self.api, &self.base, &self.place, audience, exchanges).await? {
            lists::Found::Here(entry) => Ok(entry),
            lists::Found::Nowhere => Err(lists::unknown_key(audience)),
            lists::Found::Unreadable(error) => Err(error),
        }
    }

    pub(super) async fn follow(
        &self,
        request: &ExportRequest,
        ticket: &Ticket,
        exchanges: &Exchanges,
    ) -> Result<Progress, VendorError> {
        let before = match Stage::read(ticket)? {
            Stage::Export { id } => return self.result(&id, exchanges).await,
            Stage::Compute { computing } => computing,
        };
        let (audience, _) = self.order(request)?;
        let now = self.entry(&audience, exchanges).await?;
        let computation = decided(exchanges, refresh::progress(&before, &now), |computation| match computation {
            Computation::Done => "computed".into(),
            Computation::Running(_) => "not computed yet".into(),
        })?;
        match computation {
            Computation::Running(progress) => Ok(progress),
            Computation::Done => self.export(request, &audience, exchanges).await.map(Progress::NextStage),
        }
    }

    /// Asks at both addresses of a job's result: the second when the first does not know it.
    async fn result(&self, id: &str, exchanges: &Exchanges) -> Result<Progress, VendorError> {
        let [bare, of_project] = self.place.job_results(id);
        let mut answer = self.call("poll", Method::GET, below(&self.base, &bare), None, exchanges).await?;
        if answer.status == reqwest::StatusCode::NOT_FOUND {
            exchanges.decide("not here; asking below the project");
            answer = self.call("poll", Method::GET, below(&self.base, &of_project), None, exchanges).await?;
        }
        let progress = wire::progress(&answer, &self.api.token, self.place.file_format);
        decided(exchanges, progress, |progress| match progress {
            Progress::Ready(files) => format!("ready, files: {}", files.len()),
            Progress::Preparing { status, .. } => format!("preparing, stage {status}"),
            Progress::Data(_) | Progress::NextStage(_) => "went on".into(),
        })
    }

    pub(super) async fn download(&self, file: &VendorFile, exchanges: &Exchanges) -> Result<Download, VendorError> {
        let mut url = below(&self.base, "/download");
        url.set_query(Some(&wire::download_query(file.locator.expose_secret())));
        let bearer = Some((&self.api.token, &self.base));
        let answer = self.api.http.open(FileCall { action: "download", url, bearer, probe: false }, exchanges).await?;
        decided(exchanges, opened(answer, &self.api.token).await, |_| "reading".into())
    }

    async fn call(
        &self,
        action: &'static str,
        method: Method,
        url: Url,
        body: Option<&Value>,
        exchanges: &Exchanges,
    ) -> Result<Answer, VendorError> {
        // A submission may be made again, but that there may be two is said.
        let when_lost = if action == SUBMIT { Next::OutcomeUnknown } else { TRY_AGAIN };
        let call = Call { action, method, url, bearer: &self.api.token, body, when_lost };
        self.api.http.call(call, exchanges).await
    }
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
