//! What reports, users and lists share: the answer is the data, so only its beginning is looked at before it is
//! streamed. The exporter's answers, which are sometimes no data yet, are told apart here too.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::api::{Api, NOT_FOR_LONG};
use crate::{
    exports::problem::{Code, FieldError},
    vendors::{
        Exchanges, Next, PlannedCall, Progress, VendorData, VendorError,
        excerpt::excerpt,
        http::{Peeked, TRY_AGAIN, decided},
    },
};

/// How much of an answer is looked at, in bytes: what is no data is far shorter.
const BEGINNING: usize = 8 * 1024;
/// The longest list that a catalog reads, in bytes.
const MAX_LIST: usize = 8 * 1024 * 1024;
const PATH_PART: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
/// How the vendor says that a failure is over soon.
const TRY_LATER: &str = "稍后重试";

/// A call that gets something, without its address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Get {
    /// Percent-encoded, with a leading slash.
    pub path: String,
    /// What is none is left out.
    pub query: Vec<(&'static str, Option<String>)>,
}

/// What an answer begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    Object,
    Array,
    /// Delimited text. JSON there would be a complaint.
    Text,
}

/// How far the exporter is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// The answer says nothing of it.
    None,
    Done,
    Doing(String),
    /// One that nobody has documented.
    Unknown(String),
}

impl Get {
    pub fn new(path: String) -> Self {
        Self { path, query: Vec::new() }
    }

    /// The call as a plan shows it.
    pub fn planned(&self) -> PlannedCall {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(self.query.iter().filter_map(|(name, value)| Some((name, value.as_deref()?))));
        let query = query.finish();
        let path = if query.is_empty() { self.path.clone() } else { format!("{}?{query}", self.path) };
        PlannedCall { method: "GET", path, body: None }
    }

    /// Gets the beginning of what may be large.
    ///
    /// # Errors
    /// Everything but a success, and an answer that does not begin like what is documented.
    pub async fn open(&self, api: &Api, body: Body, exchanges: &Exchanges) -> Result<Peeked, VendorError> {
        self.begin("poll", api, body, BEGINNING, exchanges).await
    }

    /// Gets a list as a whole.
    ///
    /// # Errors
    /// As [`Get::open`]; also when it is larger than a catalog reads.
    pub async fn list(
        &self,
        action: &'static str,
        api: &Api,
        body: Body,
        exchanges: &Exchanges,
    ) -> Result<Peeked, VendorError> {
        let list = self.begin(action, api, body, MAX_LIST, exchanges).await?;
        let result = if list.is_whole {
            Ok(list)
        } else {
            let message = "GrowingIO's list is larger than can be shown; export it instead";
            Err(VendorError::new(Code::VendorMalformedData, Next::GiveUp, message))
        };
        decided(exchanges, result, |_| "listed".into())
    }

    async fn begin(
        &self,
        action: &'static str,
        api: &Api,
        body: Body,
        limit: usize,
        exchanges: &Exchanges,
    ) -> Result<Peeked, VendorError> {
        let answer = api.open(action, &self.path, &self.query, exchanges).await?;
        let peeked = match answer.peek(limit).await {
            Ok(peeked) => body.checked(peeked),
            Err(error) => Err(error),
        };
        decided(exchanges, peeked, |_| "reading".into())
    }
}

impl Body {
    /// Never assume JSON: a proxy may answer a web page, a server a line of text, both with a status of success.
    fn checked(self, peeked: Peeked) -> Result<Peeked, VendorError> {
        let first = peeked.text().first();
        let fits = match self {
            Self::Object => first == Some(&b'{'),
            Self::Array => first == Some(&b'['),
            Self::Text => !matches!(first, Some(b'<' | b'{' | b'[')),
        };
        if fits {
            return Ok(peeked);
        }
        let shown = excerpt(peeked.text(), &[]);
        Err(malformed(format!("GrowingIO answered something else than documented: {shown}")))
    }
}

/// The answer is the data.
pub fn data(peeked: Peeked, extension: &'static str, tag: &'static str) -> Progress {
    Progress::Data(VendorData { download: peeked.into_download(), extension: extension.into(), tag: tag.into() })
}

/// What stands between the cells of a text, as a tag: the documents say tabs of files that have commas.
pub fn separator(peeked: &Peeked) -> &'static str {
    let first_line = peeked.beginning.split(|byte| *byte == b'\n').next().unwrap_or_default();
    if first_line.contains(&b'\t') { TABS } else { COMMAS }
}

pub const TABS: &str = "tabs";
pub const COMMAS: &str = "commas";

impl Status {
    /// Reads `status`, whatever its case: each of the vendor's interfaces has words of its own.
    ///
    /// # Errors
    /// When it says that the exporter failed.
    pub fn of(answer: &Value, what: &str) -> Result<Self, VendorError> {
        let status = match answer.get("status") {
            None | Some(Value::Null) => return Ok(Self::None),
            Some(Value::String(status)) => status.trim().to_owned(),
            Some(other) => other.to_string(),
        };
        Ok(match status.to_ascii_lowercase().as_str() {
            "" => Self::None,
            "doing" | "running" => Self::Doing(status),
            "done" | "finish" | "finished" => Self::Done,
            "failed" | "fail" | "error" => return Err(failed(answer, what)),
            _ => Self::Unknown(status),
        })
    }

    /// What it means where there is no result.
    ///
    /// # Errors
    /// When there should be one.
    pub fn preparing(self) -> Result<Progress, VendorError> {
        let (status, warning) = match self {
            Self::Doing(status) => (status, None),
            Self::Unknown(status) => {
                // The vendor's text, so it may hold anything.
                let status = excerpt(status.as_bytes(), &[]);
                let warning = format!("GrowingIO answered a status that is not documented: {status}");
                (status, Some(warning))
            }
            Self::Done => return Err(malformed("GrowingIO says that it is done, but gave no result".into())),
            Self::None => return Err(malformed("GrowingIO answered neither a result nor a status".into())),
        };
        Ok(Progress::Preparing { status, ask_again_in: None, warning })
    }
}

/// Only a failure that the vendor itself calls passing is asked for again.
fn failed(answer: &Value, what: &str) -> VendorError {
    let message = ["errorMsg", "message"].iter().find_map(|name| answer.get(name)?.as_str()).unwrap_or_default();
    let next =
        if message.contains(TRY_LATER) { Next::TryAgain { after: None, at_most: Some(3) } } else { Next::GiveUp };
    let shown = excerpt(message.as_bytes(), &[]);
    let said = if shown.is_empty() { String::new() } else { format!(": {shown}") };
    VendorError::new(Code::VendorRejectedRequest, next, format!("GrowingIO could not export {what}{said}"))
}

/// An answer that is not what the documents promise.
pub fn malformed(message: String) -> VendorError {
    VendorError::new(Code::VendorMalformedData, NOT_FOR_LONG, message)
}

/// Nothing of that id, wherever it was looked for.
pub fn not_found(message: impl Into<String>) -> VendorError {
    VendorError::new(Code::VendorDataNotFound, Next::GiveUp, message).with_http_status(404)
}

/// Whether an answer says that its address does not exist: an unknown id, or an interface that is not switched on.
pub fn is_absent(error: &VendorError) -> bool {
    error.http_status == Some(404)
}

/// An id as a part of a path.
///
/// # Errors
/// When it would mean another path.
pub fn path_part(id: &str, pointer: &str) -> Result<String, FieldError> {
    if matches!(id, "." | "..") {
        return Err(FieldError::new(pointer, "invalid", "the id that GrowingIO shows"));
    }
    Ok(utf8_percent_encode(id, PATH_PART).to_string())
}

/// What stood in a small document.
///
/// # Errors
/// When it is not JSON.
pub fn parsed(peeked: &Peeked) -> Result<Value, VendorError> {
    serde_json::from_slice(peeked.text()).map_err(|_| {
        // The vendor answers whole documents: what cannot be read may have been cut on the way.
        VendorError::new(Code::VendorMalformedData, TRY_AGAIN, "GrowingIO's answer is not whole JSON")
    })
}
