//! What an answer about a slice means.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use secrecy::SecretString;
use serde_json::{Map, Value};

use super::{Part, tables};
use crate::{
    exports::problem::Code,
    vendors::{
        Next, Progress, VendorError, VendorFile,
        excerpt::excerpt,
        growingio::api::{NOT_FOR_LONG, json},
        http::Answer,
    },
};

/// A task that failed is tried again by the vendor, it says, but not for ever.
const FAILED_TASK: Next = Next::TryAgain { after: None, at_most: Some(5) };
/// The tag of files whose table only their header tells.
pub const UNTOLD: &str = "untold";

/// Where a slice stands.
///
/// # Errors
/// When its files will never come, or the answer cannot be read.
pub fn progress(answer: &Answer, part: Part, now: DateTime<Utc>) -> Result<Progress, VendorError> {
    let body: Map<String, Value> = json(answer)?;
    let text = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default().trim();
    let status = text("status");
    let preparing = |status: &str, warning| Progress::Preparing {
        status: status.to_owned(),
        ask_again_in: part.slice.pause(now),
        warning,
    };
    match status.to_ascii_uppercase().as_str() {
        "FINISHED" => files(answer, &body, part).map(Progress::Ready),
        "RUNNING" => Ok(preparing("RUNNING", None)),
        "NOT_EXISTS" if now < part.slice.overdue() => Ok(preparing("NOT_EXISTS", None)),
        "NOT_EXISTS" => {
            let message = format!(
                "GrowingIO has no raw data of {}: the feature was not on then, or the data are no longer kept",
                part.name()
            );
            Err(answer.error(Code::VendorDataNotFound, Next::GiveUp, message))
        }
        "ERROR" => {
            let why = excerpt(text("errorMsg").as_bytes(), &[]);
            let message = format!("GrowingIO could not make the raw data of {}: {why}", part.name());
            Err(answer.error(Code::VendorRejectedRequest, FAILED_TASK, message))
        }
        _ => {
            let shown: String = excerpt(status.as_bytes(), &[]).chars().take(40).collect();
            let warning = format!("GrowingIO gave raw data a status that it does not document: `{shown}`");
            Ok(preparing(if shown.is_empty() { "no status" } else { &shown }, Some(warning)))
        }
    }
}

/// The files of a finished slice: of one table a list, of all an object of lists; v1 has one list of everything. The
/// order is our own, so that a file has the same place in every answer.
fn files(answer: &Answer, body: &Map<String, Value>, part: Part) -> Result<Vec<VendorFile>, VendorError> {
    let malformed = || {
        let message = "GrowingIO says that raw data are there, but gives no list of them";
        answer.error(Code::VendorMalformedData, NOT_FOR_LONG, message)
    };
    let lists = body.get("downloadLinks").or_else(|| body.get("downlinks")).ok_or_else(malformed)?;
    let mut files = Vec::new();
    let mut add = |tag: Cow<'static, str>, links: &Value| {
        let links = match links {
            Value::Null => return Ok(()),
            Value::Array(links) => links,
            _ => return Err(malformed()),
        };
        for link in links {
            match link.as_str() {
                Some(link) if !link.is_empty() => files.push(VendorFile {
                    locator: SecretString::from(link),
                    extension: "gz".into(),
                    tag: tag.clone(),
                }),
                _ => return Err(malformed()),
            }
        }
        Ok(())
    };
    match lists {
        Value::Object(by_table) => {
            let mut by_table: Vec<_> = by_table.iter().collect();
            by_table.sort_by_key(|(name, _)| (tables::position(name), *name));
            // Tables that nobody knows yet have headers too.
            let wanted = by_table.into_iter().filter(|(name, _)| part.table.is_none_or(|table| table.name == *name));
            for (name, links) in wanted {
                add(Cow::Owned(name.clone()), links)?;
            }
        }
        list => add(part.table.map_or(UNTOLD, |table| table.name).into(), list)?,
    }
    Ok(files)
}
