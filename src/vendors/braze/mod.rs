//! Braze: the users of a segment, through `POST /users/export/segment` in URL mode.
//! The answer holds a link that works only once the archive is done; there is no status endpoint, so [`Braze::poll`]
//! asks the link itself. Braze runs one export per segment at a time and refuses a second one: that is what makes it
//! possible to find out what became of a submission whose answer was lost.
//! Start at [`Braze::submit`]; JSON shapes are in [`wire`], the field list in [`fields`], the user object in [`records`].

mod fields;
mod records;
pub mod sandbox;
mod wire;

use std::{borrow::Cow, sync::Arc, time::Duration};

use async_trait::async_trait;
use reqwest::Method;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;

use self::{
    fields::{Ask, Sources},
    records::BrazeUsers,
};
use super::{
    Account, CredentialSpec, DatasetSpec, Download, Exchanges, Inquiry, Next, Pending, Plan, PlannedCall, Progress,
    Submitted, Ticket, Vendor, VendorError, VendorFile, VendorSpec, Work,
    http::{Call, FileAnswer, FileCall, Http, TRY_AGAIN, below, decided},
    settings,
};
use crate::exports::{
    fields::{Selection, UserColumn},
    parameters::{Audience, AudienceKind, Parameters},
    problem::{Code, FieldError},
    records::Records,
    request::{Dataset, ExportRequest, Format, from_json},
};

const SEGMENT_EXPORT: &str = "/users/export/segment";

/// Braze allows 100 running exports per company. Other workspaces and tools of the same company count too, so one
/// connection takes at most half.
const MAX_CONCURRENT: u32 = 50;

/// A web page instead of a file may be a proxy's mood, but not for long.
const WEB_PAGE: Next = Next::TryAgain { after: None, at_most: Some(5) };

pub const SPEC: VendorSpec = VendorSpec {
    name: "braze",
    display_name: "Braze",
    datasets: &[DatasetSpec {
        dataset: Dataset::AudienceMembers,
        audience_kinds: &[AudienceKind::Segment],
        filled: UserColumn::NAMES,
        typical_latency: "Minutes; an app with 20 million users can take an hour or more",
        // Braze reports a failed build only by e-mail to people. Its slowest documented export takes "an hour or more".
        stall_window: Duration::from_hours(3),
        poll_factor: 1,
        limits: &[
            "One running export per segment; another one waits",
            "100 running exports per company, shared with every other tool; a connection takes at most 50",
            "250,000 requests an hour, shared with most of Braze's other endpoints",
            "At most 500 single custom attributes; ask for `attributes` to get all",
            "Custom events, purchases, campaigns and canvases that happened in the last 90 days",
            "Braze builds one archive, whose size is limited; fewer fields are faster and fail less often. \
             A larger segment has to be split in Braze, for example by random bucket number",
            "Braze's download link works for about 4 hours once the archive is done",
            "Only workspaces without cloud storage credentials: with them Braze gives no link",
        ],
    }],
    settings_schema,
    credentials: &[CredentialSpec {
        name: "api_key",
        description: "REST API key with the permission users.export.segment",
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
        "required": ["base_url"],
        "properties": {
            "base_url": {
                "type": "string",
                "format": "uri",
                "title": "REST endpoint",
                "description": "The REST endpoint of the instance the key belongs to, not its dashboard or SDK endpoint",
                "examples": ["https://rest.iad-01.braze.com", "https://rest.fra-01.braze.eu"]
            }
        }
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    base_url: String,
    /// Known, so that the refusal can say what it is about.
    bucket: Option<Value>,
}

struct Braze {
    base: Url,
    key: SecretString,
    sources: Sources,
    http: Http,
}

fn connect(account: Account) -> Result<Arc<dyn Vendor>, Vec<FieldError>> {
    let mut errors = settings::check_mapping(&account.mapping);
    let mut kept = |error: FieldError| errors.push(error);
    let base = match from_json::<Settings>(account.settings.clone(), "/settings") {
        Ok(settings) => {
            if settings.bucket.is_some() {
                let detail = "exports to the workspace's own cloud storage cannot be read yet";
                kept(FieldError::new("/settings/bucket", "not_supported", detail));
            }
            settings::base_url(&settings.base_url).map_err(&mut kept).ok()
        }
        Err(error) => {
            kept(error);
            None
        }
    };
    let mut all_kept = |more: Vec<FieldError>| errors.extend(more);
    let key = settings::only_credential(&account, "api_key").map_err(&mut all_kept).ok();
    let sources = Sources::read(&account.mapping).map_err(&mut all_kept).ok();
    match (base, key, sources) {
        (Some(base), Some(key), Some(sources)) if errors.is_empty() => {
            Ok(Arc::new(Braze { base, key, sources, http: account.http }))
        }
        _ => Err(errors),
    }
}

#[async_trait]
impl Vendor for Braze {
    fn plan(&self, request: &ExportRequest) -> Result<Plan, Vec<FieldError>> {
        let (segment, selection) = segment(request).map_err(|error| vec![error])?;
        let ask = self.ask(request, selection)?;
        Ok(Plan {
            calls: vec![PlannedCall {
                method: "POST",
                path: SEGMENT_EXPORT.into(),
                body: Some(wire::segment_body(segment, None, &ask)),
            }],
            work: Work::Job { exclusive_key: Some(format!("segment:{segment}")), max_concurrent: MAX_CONCURRENT },
            windows: Vec::new(),
            warnings: Vec::new(),
        })
    }

    async fn check(&self, exchanges: &Exchanges) -> Result<(), VendorError> {
        let mut url = below(&self.base, "/segments/list");
        url.set_query(Some("page=0"));
        let call =
            Call { action: "check", method: Method::GET, url, bearer: &self.key, body: None, when_lost: TRY_AGAIN };
        let answer = self.http.call(call, exchanges).await?;
        decided(exchanges, wire::checked(&answer, &self.key), |note| (*note).to_owned()).map(drop)
    }

    /// `reconciling` needs no call of its own: while an earlier export of the segment runs, Braze answers this POST with
    /// 429, which is [`Next::Wait`]; once it is accepted, the earlier one is known to be over.
    async fn submit(
        &self,
        request: &ExportRequest,
        callback: Option<&Url>,
        _reconciling: bool,
        exchanges: &Exchanges,
    ) -> Result<Submitted, VendorError> {
        let (segment, selection) = segment(request).map_err(|error| invalid(&error))?;
        let ask = self.ask(request, selection).map_err(|errors| errors.first().map_or_else(no_plan, invalid))?;
        let body = wire::segment_body(segment, callback, &ask);
        let call = Call {
            action: "submit",
            method: Method::POST,
            url: below(&self.base, SEGMENT_EXPORT),
            bearer: &self.key,
            body: Some(&body),
            when_lost: Next::OutcomeUnknown,
        };
        let answer = self.http.call(call, exchanges).await?;
        let submitted = wire::submitted(&answer, &self.key)
            .and_then(|submitted| link(&submitted.ticket).and_then(|link| self.permitted(&link)).map(|_| submitted));
        decided(exchanges, submitted, |_| "accepted".into())
    }

    async fn poll(
        &self,
        _request: &ExportRequest,
        inquiry: &Inquiry<'_>,
        exchanges: &Exchanges,
    ) -> Result<Progress, VendorError> {
        let Pending::Job(ticket) = inquiry.of else { return Err(no_plan()) };
        let url = self.permitted(&link(ticket)?)?;
        let locator = SecretString::from(url.as_str());
        let answer = self.http.open(FileCall { action: "poll", url, bearer: None, probe: true }, exchanges).await?;
        let progress = asked(answer, inquiry.seen_ready, &self.key).await.map(|state| match state {
            Archive::Done => Progress::Ready(vec![VendorFile {
                locator,
                extension: Cow::Borrowed("zip"),
                tag: Cow::Borrowed("users"),
            }]),
            Archive::NotYet { status, ask_again_in, warning } => Progress::Preparing { status, ask_again_in, warning },
        });
        decided(exchanges, progress, |progress| match progress {
            Progress::Ready(_) => "ready".into(),
            _ => "not ready yet".into(),
        })
    }

    async fn open(&self, file: &VendorFile, exchanges: &Exchanges) -> Result<Download, VendorError> {
        let url = self.permitted(file.locator.expose_secret())?;
        let answer =
            self.http.open(FileCall { action: "download", url, bearer: None, probe: false }, exchanges).await?;
        decided(exchanges, opened(answer, &self.key).await, |_| "reading".into())
    }

    fn records(&self, request: &ExportRequest) -> Arc<dyn Records> {
        let selection = request.parameters.selection();
        // A request that cannot be planned is never submitted, so it has no records to read.
        let ask = self.ask(request, &selection).unwrap_or_default();
        Arc::new(BrazeUsers::new(selection, self.sources.clone(), ask))
    }
}

impl Braze {
    fn ask(&self, request: &ExportRequest, selection: &Selection) -> Result<Ask, Vec<FieldError>> {
        Ask::new(selection, &self.sources, request.output.format == Format::Raw)
    }

    /// A link of Braze's, unless it would carry the archive in clear. A connection that is itself plain http, as to a
    /// simulator, may have such links.
    fn permitted(&self, link: &str) -> Result<Url, VendorError> {
        let Ok(url) = Url::parse(link) else {
            return Err(VendorError::new(
                Code::VendorMalformedData,
                Next::GiveUp,
                "Braze's download link is no address",
            ));
        };
        self.http.policy().check_url(&url).map_err(|blocked| {
            VendorError::new(Code::EgressBlocked, Next::GiveUp, format!("Braze's link: {blocked}"))
        })?;
        if url.scheme() == "http" && self.base.scheme() != "http" && !self.http.policy().permits_by_name(&url) {
            return Err(VendorError::new(Code::EgressBlocked, Next::GiveUp, "Braze's download link is not https"));
        }
        Ok(url)
    }
}

/// The link kept in a ticket.
fn link(ticket: &Ticket) -> Result<String, VendorError> {
    serde_json::from_str::<wire::Link>(ticket.0.expose_secret())
        .map(|link| link.url)
        .map_err(|_| VendorError::new(Code::Internal, Next::GiveUp, "the kept ticket cannot be read"))
}

/// The segment a request is about.
fn segment(request: &ExportRequest) -> Result<(&str, &Selection), FieldError> {
    match &request.parameters {
        Parameters::AudienceMembers {
            audience: Audience { kind: AudienceKind::Segment, id: Some(id) },
            selection,
            ..
        } => Ok((id, selection)),
        _ => Err(FieldError::new(
            "/parameters/audience/kind",
            "not_supported",
            "Braze exports audiences of kind `segment`",
        )),
    }
}

/// The request was checked when it was accepted, but the connection's mapping may have changed since.
fn invalid(error: &FieldError) -> VendorError {
    VendorError::new(Code::InvalidRequest, Next::GiveUp, format!("{}: {}", error.pointer, error.detail))
}

fn no_plan() -> VendorError {
    VendorError::new(Code::Internal, Next::GiveUp, "the request cannot be planned")
}

enum Archive {
    Done,
    NotYet { status: String, ask_again_in: Option<Duration>, warning: Option<String> },
}

/// What the link says. Object stores answer 403 and 404 for a file that does not exist yet, and the same after it
/// expired; only whether it was there before tells the two apart. A 400 is an outdated signature.
async fn asked(answer: FileAnswer, seen_ready: bool, key: &SecretString) -> Result<Archive, VendorError> {
    let status = answer.status.as_u16();
    match status {
        200 | 206 if answer.is_web_page() => Err(web_page(status)),
        // 416: an empty file has no first byte.
        200 | 206 | 416 => Ok(Archive::Done),
        403 | 404 if !seen_ready => Ok(Archive::NotYet {
            status: format!("{status} not ready"),
            ask_again_in: answer.retry_after(),
            warning: None,
        }),
        408 | 429 | 500.. => Err(busy_store(answer, key).await),
        400..=499 => Err(expired(answer, key).await),
        _ => Ok(Archive::NotYet {
            status: format!("{status} unexpected"),
            ask_again_in: answer.retry_after(),
            warning: Some(format!("the download link answered {status}, which Braze does not document")),
        }),
    }
}

/// What the link says after the archive was there.
async fn opened(answer: FileAnswer, key: &SecretString) -> Result<Download, VendorError> {
    let status = answer.status.as_u16();
    match status {
        200 if answer.is_web_page() => Err(web_page(status)),
        200 => Ok(answer.into_download()),
        408 | 429 | 500.. => Err(busy_store(answer, key).await),
        400..=499 => Err(expired(answer, key).await),
        _ => Err(VendorError::new(Code::VendorMalformedData, TRY_AGAIN, "the download link answered no file")
            .with_http_status(status)),
    }
}

fn web_page(status: u16) -> VendorError {
    VendorError::new(Code::VendorMalformedData, WEB_PAGE, "the download link answered a web page")
        .with_http_status(status)
}

async fn busy_store(answer: FileAnswer, key: &SecretString) -> VendorError {
    let (status, after) = (answer.status.as_u16(), answer.retry_after());
    let message = format!("the file store failed with {status}: {}", answer.excerpt(key).await);
    VendorError::new(Code::VendorUnavailable, Next::TryAgain { after, at_most: None }, message).with_http_status(status)
}

async fn expired(answer: FileAnswer, key: &SecretString) -> VendorError {
    let status = answer.status.as_u16();
    let message = format!("Braze's download link no longer works ({status}): {}", answer.excerpt(key).await);
    VendorError::new(Code::VendorLinkExpired, Next::GiveUp, message).with_http_status(status)
}

#[cfg(test)]
mod tests;
