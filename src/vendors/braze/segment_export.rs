//! Exports of a segment or the global control group: `POST /users/export/segment` and `.../global_control_group`.
//! There is no status endpoint. Where the workspace has no storage of its own the answer holds a link that works only
//! once the archive is done, so the link itself is asked; else objects appear in the [bucket](super::bucket).
//! Which of the two it is the workspace decides, anew for each export.

use std::{borrow::Cow, time::Duration};

use reqwest::StatusCode;
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use url::Url;

use super::{
    api::{Api, Endpoint, Pool},
    bucket::{Bucket, Found},
    fields::{Ask, Place},
    lists::SEGMENT_DETAILS,
    wire::{self, Handle},
};
use crate::exports::{
    parameters::{Audience, AudienceKind},
    problem::{Code, FieldError},
};
use crate::vendors::{
    Download, Exchanges, Inquiry, Next, PlannedCall, Progress, Submitted, Ticket, VendorError, VendorFile, Work,
    http::{FileAnswer, FileCall, TRY_AGAIN, decided},
};

/// Braze allows 100 running exports per company. Other workspaces and tools of the same company count too, so one
/// connection takes at most half.
pub const MAX_CONCURRENT: u32 = 50;

/// A web page instead of a file may be a proxy's mood, but not for long.
const WEB_PAGE: Next = Next::TryAgain { after: None, at_most: Some(5) };

/// What a locator of an object begins with; a link never does.
const OBJECT: &str = "object:";

/// The documented path first, then that of Braze's OpenAPI file, which contradicts it.
const CANCEL: [Endpoint; 2] = [
    Endpoint { path: "/export/segment/cancel", permission: "segments.list", pool: Pool::Default },
    Endpoint { path: "/users/export/segment/cancel", permission: "users.export.segment", pool: Pool::Default },
];

/// Whose members are exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whom<'r> {
    Segment(&'r str),
    ControlGroup,
}

impl<'r> Whom<'r> {
    /// # Errors
    /// For an audience that Braze does not have.
    pub fn of(audience: &'r Audience) -> Result<Self, FieldError> {
        match (audience.kind, audience.id.as_deref()) {
            (AudienceKind::Segment, Some(id)) => Ok(Self::Segment(id)),
            (AudienceKind::GlobalControlGroup, None) => Ok(Self::ControlGroup),
            _ => Err(FieldError::new(
                "/parameters/audience/kind",
                "not_supported",
                "Braze exports audiences of kind `segment` and `global_control_group`",
            )),
        }
    }

    pub const fn place(self) -> Place {
        match self {
            Self::Segment(_) => Place::Segment,
            Self::ControlGroup => Place::ControlGroup,
        }
    }

    pub const fn endpoint(self) -> Endpoint {
        match self {
            Self::Segment(_) => {
                Endpoint { path: "/users/export/segment", permission: "users.export.segment", pool: Pool::Default }
            }
            Self::ControlGroup => Endpoint {
                path: "/users/export/global_control_group",
                permission: "users.export.global_control_group",
                pool: Pool::Default,
            },
        }
    }

    pub const fn segment(self) -> Option<&'r str> {
        match self {
            Self::Segment(id) => Some(id),
            Self::ControlGroup => None,
        }
    }

    fn exclusive_key(self) -> String {
        match self {
            Self::Segment(id) => format!("segment:{id}"),
            Self::ControlGroup => "global_control_group".to_owned(),
        }
    }

    pub fn work(self) -> Work {
        Work::Job { exclusive_key: Some(self.exclusive_key()), max_concurrent: MAX_CONCURRENT }
    }

    pub fn planned(self, ask: &Ask) -> Vec<PlannedCall> {
        let body = Some(wire::export_body(self, None, ask));
        vec![PlannedCall { method: "POST", path: self.endpoint().path.into(), body }]
    }
}

/// What an export is read through.
pub struct Exports<'b> {
    pub api: &'b Api,
    pub bucket: Option<&'b Bucket>,
}

impl Exports<'_> {
    /// Begins an export. After a lost answer no call of its own is needed to find out: while an earlier export of the
    /// segment runs, Braze answers this POST with 429, which is [`Next::Wait`]; once it is accepted, the earlier one is
    /// known to be over.
    pub async fn submit(
        &self,
        whom: Whom<'_>,
        callback: Option<&Url>,
        ask: &Ask,
        exchanges: &Exchanges,
    ) -> Result<Submitted, VendorError> {
        let body = wire::export_body(whom, callback, ask);
        let answer = self.api.post("submit", whom.endpoint(), &body, Next::OutcomeUnknown, exchanges).await?;
        let submitted = wire::submitted(&answer, self.api.key(), whom.endpoint().permission, self.bucket.is_some())
            .and_then(|submitted| match handle(&submitted.ticket)? {
                Handle::Url(url) | Handle::Either { url, .. } => self.permitted(&url).map(|_| submitted),
                Handle::ObjectPrefix(_) => Ok(submitted),
            });
        decided(exchanges, submitted, |submitted| match handle(&submitted.ticket) {
            Ok(Handle::ObjectPrefix(_)) => "accepted; it will appear in the bucket".into(),
            _ => "accepted".into(),
        })
    }

    pub async fn poll(
        &self,
        whom: Whom<'_>,
        ticket: &Ticket,
        inquiry: &Inquiry<'_>,
        exchanges: &Exchanges,
    ) -> Result<Progress, VendorError> {
        match handle(ticket)? {
            Handle::Url(url) => self.ask_link(&url, inquiry, exchanges).await,
            Handle::Either { url, object_prefix } => {
                let bucket = self.bucket()?;
                let found = bucket.list(whom.segment(), &object_prefix, exchanges).await?;
                if found.is_empty() {
                    return self.ask_link(&url, inquiry, exchanges).await;
                }
                Ok(complete(found, bucket.quiet(inquiry.called_back), inquiry))
            }
            Handle::ObjectPrefix(prefix) => {
                let bucket = self.bucket()?;
                let found = bucket.list(whom.segment(), &prefix, exchanges).await?;
                Ok(complete(found, bucket.quiet(inquiry.called_back), inquiry))
            }
        }
    }

    async fn ask_link(
        &self,
        link: &str,
        inquiry: &Inquiry<'_>,
        exchanges: &Exchanges,
    ) -> Result<Progress, VendorError> {
        let url = self.permitted(link)?;
        let locator = SecretString::from(url.as_str());
        let call = FileCall { action: "poll", url, bearer: None, probe: true };
        let answer = self.api.http().open(call, exchanges).await?;
        let progress = asked(answer, inquiry.seen_ready, self.api.key()).await.map(|state| match state {
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

    pub async fn open(&self, file: &VendorFile, exchanges: &Exchanges) -> Result<Download, VendorError> {
        let locator = file.locator.expose_secret();
        if let Some(key) = locator.strip_prefix(OBJECT) {
            return self.bucket()?.read(key, exchanges).await;
        }
        let url = self.permitted(locator)?;
        let call = FileCall { action: "download", url, bearer: None, probe: false };
        let answer = self.api.http().open(call, exchanges).await?;
        decided(exchanges, opened(answer, self.api.key()).await, |_| "reading".into())
    }

    /// Cancels every running export of a segment; Braze has no narrower way. Of the control group there is none.
    pub async fn cancel(&self, whom: Whom<'_>, exchanges: &Exchanges) -> Result<(), VendorError> {
        let Whom::Segment(segment) = whom else { return Ok(()) };
        let body = json!({ "segment_id": segment });
        for (index, endpoint) in CANCEL.into_iter().enumerate() {
            let answer = self.api.post("cancel", endpoint, &body, TRY_AGAIN, exchanges).await?;
            if answer.status == StatusCode::NOT_FOUND && index + 1 < CANCEL.len() {
                exchanges.decide("not here; trying the other documented path");
                continue;
            }
            let shown = answer.excerpt(self.api.key());
            let (code, message) = match answer.status.as_u16() {
                200..=299 => {
                    exchanges.decide("cancelled at Braze");
                    return Ok(());
                }
                403 => (
                    Code::VendorPermissionDenied,
                    format!(
                        "the key may not cancel (`segments.list` or `users.export.segment`); Braze goes on: {shown}"
                    ),
                ),
                status => (Code::VendorRejectedRequest, format!("not cancelled at Braze ({status}): {shown}")),
            };
            exchanges.decide(message.clone());
            return Err(answer.error(code, Next::GiveUp, message));
        }
        Ok(())
    }

    /// Asks whether a segment exists. Only an answer that says so clearly is believed.
    pub async fn verify(&self, whom: Whom<'_>, exchanges: &Exchanges) -> Result<(), VendorError> {
        let Whom::Segment(segment) = whom else { return Ok(()) };
        let query = [("segment_id", segment.to_owned())];
        let answer = match self.api.get("verify", SEGMENT_DETAILS, &query, exchanges).await {
            Ok(answer) => answer,
            Err(error) if matches!(error.next, Next::WaitForBudget { .. }) => return Err(error),
            // The submission will meet the same trouble, and knows what to do.
            Err(_) => return Ok(()),
        };
        match answer.status.as_u16() {
            200..=299 => {
                exchanges.decide("the segment exists");
                Ok(())
            }
            // A 404 is an address that is wrong, which the submission will find out. Source: `_docs/_api/errors.md`.
            400 => {
                let message = format!("Braze does not know the segment: {}", answer.excerpt(self.api.key()));
                exchanges.decide(message.clone());
                Err(answer.error(Code::VendorDataNotFound, Next::GiveUp, message))
            }
            status => {
                exchanges.decide(format!("whether the segment exists cannot be known ({status}); going on"));
                Ok(())
            }
        }
    }

    fn bucket(&self) -> Result<&Bucket, VendorError> {
        self.bucket.ok_or_else(|| {
            let message = "the export lies in the workspace's own storage, which the connection no longer knows; set \
                           `settings.bucket`";
            VendorError::new(Code::VendorRejectedRequest, Next::GiveUp, message)
        })
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
        let policy = self.api.http().policy();
        policy.check_url(&url).map_err(|blocked| {
            VendorError::new(Code::EgressBlocked, Next::GiveUp, format!("Braze's link: {blocked}"))
        })?;
        if url.scheme() == "http" && self.api.base().scheme() != "http" && !policy.permits_by_name(&url) {
            return Err(VendorError::new(Code::EgressBlocked, Next::GiveUp, "Braze's download link is not https"));
        }
        Ok(url)
    }
}

/// What a ticket holds.
fn handle(ticket: &Ticket) -> Result<Handle, VendorError> {
    serde_json::from_str(ticket.0.expose_secret())
        .map_err(|_| VendorError::new(Code::Internal, Next::GiveUp, "the kept ticket cannot be read"))
}

/// Whether all objects are there. Nothing says so, and they come one by one: no news for a while is taken for it. Without
/// any object nothing is known, however long it takes.
fn complete(found: Vec<Found>, quiet: Duration, inquiry: &Inquiry<'_>) -> Progress {
    let Some(newest) = found.iter().map(|object| object.added_at).max() else {
        return Progress::Preparing { status: "no objects yet".into(), ask_again_in: None, warning: None };
    };
    let silent = (inquiry.now - newest).to_std().unwrap_or_default();
    if silent < quiet {
        let status = format!("{} objects so far", found.len());
        return Progress::Preparing { status, ask_again_in: None, warning: None };
    }
    let file = |object: Found| VendorFile {
        extension: if object.key.rsplit_once('.').is_some_and(|(_, end)| end == "gz") { "gz" } else { "zip" }.into(),
        locator: format!("{OBJECT}{}", object.key).into(),
        tag: Cow::Borrowed("users"),
    };
    Progress::Ready(found.into_iter().map(file).collect())
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
#[path = "segment_export_tests.rs"]
mod tests;
