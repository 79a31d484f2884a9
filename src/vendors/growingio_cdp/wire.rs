//! CDP's JSON: the body of an export job, what the answers mean, how paths are encoded.

use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    place::{FileFormat, Place},
    properties::Ask,
};
use crate::exports::problem::Code;
use crate::vendors::{
    Next, Progress, Submitted, Ticket, VendorError, VendorFile,
    http::{Answer, TRY_AGAIN},
};

/// For what may be a proxy's mood or a permanent fault: tried a few times.
const NOT_OFTEN: Next = Next::TryAgain { after: None, at_most: Some(5) };

/// CDP answers an unknown or ungranted key with a bare 500, so more tries than this are futile.
const KEY_FAULT: Next = Next::TryAgain { after: None, at_most: Some(2) };

/// The same for what is asked for by its id and costs the vendor little.
const ID_FAULT: Next = Next::TryAgain { after: None, at_most: Some(3) };

/// What a [`Ticket`] holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Stage {
    /// An export job, by its id.
    Export { id: String },
    /// A computation that was asked for; the export comes after it.
    Compute { computing: super::refresh::Before },
}

impl Stage {
    pub fn ticket(&self) -> Ticket {
        Ticket(json!(self).to_string().into())
    }

    /// # Errors
    /// When the ticket is not one of ours.
    pub fn read(ticket: &Ticket) -> Result<Self, VendorError> {
        serde_json::from_str(ticket.0.expose_secret())
            .map_err(|_| VendorError::new(Code::Internal, Next::GiveUp, "the kept ticket cannot be read"))
    }
}

/// What a call asks about, for its errors.
#[derive(Debug, Clone, Copy)]
pub struct About {
    /// What a 404 means.
    pub not_found: &'static str,
    /// The path names something that may be unknown or not granted, which CDP answers as a fault of the server.
    pub by_key: bool,
}

/// Percent-encodes one part of a path. `$` is encoded too, which every server decodes.
pub fn path_part(text: &str) -> String {
    const KEEP: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
    utf8_percent_encode(text, KEEP).to_string()
}

/// Whether a text can be a part of a path: `.` and `..` would move to another address.
pub fn is_path_part(text: &str) -> bool {
    !matches!(text, "" | "." | "..")
}

/// The query of a download. CDP gives file paths already encoded, slashes included, and encoding them again breaks them;
/// some releases give them plain.
pub fn download_query(uri: &str) -> String {
    const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
    const ENCODED: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'&').add(b'<').add(b'>').add(b'\'');
    let encoded = uri.get(..3).is_some_and(|start| start.eq_ignore_ascii_case("%2F"));
    format!("file={}", utf8_percent_encode(uri, if encoded { ENCODED } else { PLAIN }))
}

/// The body of a submission.
pub fn export_body(ask: &Ask, place: &Place) -> Value {
    let mut body = json!({ "properties": ask.properties, "fileFormat": place.file_format.as_str() });
    if place.file_format == FileFormat::Csv {
        body["csvHeaderType"] = json!(place.csv_header.as_str());
    }
    body
}

/// What CDP made of a submission. A lost or doubtful answer may be submitted again: CDP then begins another job beside
/// the first, which does no harm.
///
/// # Errors
/// Everything but an accepted job.
pub fn submitted(answer: &Answer, token: &SecretString) -> Result<Submitted, VendorError> {
    if is_bare_fault(answer) {
        return Err(answer.error(
            Code::VendorRejectedRequest,
            KEY_FAULT,
            "CDP answered `Internal Server Error`: the key is missing, or not granted to the token, or the server is at fault",
        ));
    }
    if !answer.status.is_success() {
        return Err(failure(answer, token, "CDP has no such address; check `base_url`, project, space and audience"));
    }
    let job = serde_json::from_slice::<Value>(&answer.body).ok();
    let id = match job.as_ref().map(|job| &job["id"]) {
        Some(Value::String(id)) => Some(id.clone()),
        Some(Value::Number(id)) => Some(id.to_string()),
        _ => None,
    };
    let Some(id) = id.filter(|id| is_path_part(id) && id.len() <= 255) else {
        let message = format!("CDP accepted something but named no job: {}", answer.excerpt(token));
        return Err(answer.error(Code::VendorMalformedData, Next::GiveUp, message));
    };
    Ok(Submitted { ticket: Stage::Export { id: id.clone() }.ticket(), reference: Some(id) })
}

/// Where a job stands.
///
/// # Errors
/// A failed job, and every answer that says nothing about it.
pub fn progress(answer: &Answer, token: &SecretString, format: FileFormat) -> Result<Progress, VendorError> {
    if !answer.status.is_success() {
        return Err(match answer.status.as_u16() {
            404 | 410 => answer.error(Code::VendorDataNotFound, Next::Resubmit, "CDP no longer knows the job"),
            _ => failure(answer, token, ""),
        });
    }
    let Ok(Value::Object(result)) = serde_json::from_slice::<Value>(&answer.body) else {
        let message = format!("CDP answered something that is not its documented JSON: {}", answer.excerpt(token));
        return Err(answer.error(Code::VendorMalformedData, NOT_OFTEN, message));
    };
    let stage = result.get("stage").and_then(Value::as_str).unwrap_or_default();
    let preparing = |warning: Option<String>| Progress::Preparing {
        status: if stage.is_empty() { "no stage".to_owned() } else { shown(stage) },
        ask_again_in: answer.retry_after(),
        warning,
    };
    match stage.to_ascii_uppercase().as_str() {
        "FINISH" | "FINISHED" | "DONE" => match result.get("uris") {
            None | Some(Value::Null) => {
                Ok(preparing(Some("CDP calls the job finished but names no file yet".to_owned())))
            }
            Some(Value::Array(uris)) if uris.is_empty() => {
                Ok(preparing(Some("CDP calls the job finished but names no file yet".to_owned())))
            }
            Some(Value::Array(uris)) if uris.iter().all(is_uri) => Ok(Progress::Ready(files(uris, format))),
            Some(_) => {
                Err(answer.error(Code::VendorMalformedData, NOT_OFTEN, "CDP's `uris` is not a list of file paths"))
            }
        },
        "ERROR" | "FAILED" => {
            let message = format!("CDP reports that the export job failed (stage {})", shown(stage));
            Err(answer.error(Code::VendorRejectedRequest, Next::GiveUp, message))
        }
        "NONE" | "READY" | "RUNNING" | "DATA_READY" => Ok(preparing(None)),
        "" => Ok(preparing(Some("CDP's answer names no stage".to_owned()))),
        _ => Ok(preparing(Some(format!("CDP names the stage `{}`, which nobody has documented", shown(stage))))),
    }
}

fn is_uri(uri: &Value) -> bool {
    uri.as_str().is_some_and(|uri| !uri.is_empty())
}

/// The connection may have changed since the job was begun, so a file's own name says how it is written.
fn files(uris: &[Value], wanted: FileFormat) -> Vec<VendorFile> {
    let file = |uri: &str| {
        let lower = uri.to_ascii_lowercase();
        let named = [FileFormat::Json, FileFormat::Csv].into_iter().find(|format| lower.ends_with(format.as_str()));
        let extension = named.unwrap_or(wanted).as_str();
        VendorFile { locator: uri.into(), extension: extension.into(), tag: extension.into() }
    };
    uris.iter().filter_map(Value::as_str).map(file).collect()
}

/// A stage as it may be shown.
pub fn shown(stage: &str) -> String {
    stage.chars().filter(|c| !c.is_control()).take(40).collect()
}

/// What the answer of a listing says about address, project and token.
///
/// # Errors
/// When one of them cannot work.
pub fn checked(answer: &Answer, token: &SecretString) -> Result<(), VendorError> {
    if !answer.status.is_success() {
        return Err(failure(answer, token, "CDP has no such project or space, or this is not its address"));
    }
    if serde_json::from_slice::<Value>(&answer.body).is_ok() {
        return Ok(());
    }
    let message = format!("this is not a CDP address: {}", answer.excerpt(token));
    Err(answer.error(Code::VendorRejectedRequest, Next::GiveUp, message))
}

/// An answer that should have been JSON of a documented shape.
pub fn refused(answer: &Answer, token: &SecretString, about: About) -> VendorError {
    if about.by_key && is_bare_fault(answer) {
        let message = "CDP answered `Internal Server Error`: what was asked for is missing, or not granted to the token, \
                       or the server is at fault";
        return answer.error(Code::VendorRejectedRequest, ID_FAULT, message);
    }
    if !answer.status.is_success() {
        return failure(answer, token, about.not_found);
    }
    let message = format!("CDP answered something that is not its documented JSON: {}", answer.excerpt(token));
    answer.error(Code::VendorMalformedData, NOT_OFTEN, message)
}

/// An answer that is no success, by its status.
pub fn failure(answer: &Answer, token: &SecretString, not_found: &str) -> VendorError {
    let shown = answer.excerpt(token);
    let status = answer.status.as_u16();
    let after = answer.retry_after();
    let (code, next, message) = match status {
        401 => (Code::VendorCredentialsRejected, Next::GiveUp, format!("CDP rejected the token: {shown}")),
        403 => (
            Code::VendorPermissionDenied,
            Next::GiveUp,
            format!("the token's user may not use this project, space or audience: {shown}"),
        ),
        404 => (Code::VendorRejectedRequest, Next::GiveUp, format!("{not_found}: {shown}")),
        429 => (Code::VendorUnavailable, Next::Wait { after }, "CDP asks for a pause".to_owned()),
        408 | 500.. => (
            Code::VendorUnavailable,
            Next::TryAgain { after, at_most: None },
            format!("CDP failed with {status}: {shown}"),
        ),
        300..=399 => (Code::VendorUnavailable, TRY_AGAIN, format!("CDP redirected to nowhere ({status})")),
        _ => (Code::VendorRejectedRequest, Next::GiveUp, format!("CDP refused the request with {status}: {shown}")),
    };
    answer.error(code, next, message)
}

/// The plain text CDP answers for a key it does not know or does not grant; its status is undocumented.
fn is_bare_fault(answer: &Answer) -> bool {
    (answer.status.is_success() || answer.status.as_u16() == 500)
        && answer.body.trim_ascii().eq_ignore_ascii_case(b"Internal Server Error")
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use reqwest::{StatusCode, header::HeaderMap};

    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        Answer {
            status: StatusCode::from_u16(status).unwrap(),
            headers: HeaderMap::new(),
            body: Bytes::from(body.to_owned()),
        }
    }

    fn token() -> SecretString {
        "4aaa22c7-679f-49be-b97d-073dad5dfc15".into()
    }

    #[test]
    fn the_request_body_to_the_letter() {
        let body = |ask: &Ask, more: &str| {
            let settings = format!(r#"{{"base_url":"https://x.test","project_id":"p"{more}}}"#);
            let place = Place::read(&serde_json::from_str(&settings).unwrap()).unwrap();
            export_body(ask, &place).to_string()
        };
        let ask = Ask { properties: vec!["id_$basic_userId".into(), "tag_rfm".into()], ..Ask::default() };
        assert_eq!(body(&ask, ""), r#"{"properties":["id_$basic_userId","tag_rfm"],"fileFormat":"json"}"#);
        assert_eq!(
            body(&Ask::default(), r#","file_format":"csv","csv_header":"name""#),
            r#"{"properties":[],"fileFormat":"csv","csvHeaderType":"name"}"#
        );
    }

    #[test]
    fn path_parts_and_file_queries_are_encoded_once() {
        assert_eq!(path_part("tag_$a b/../c?é"), "tag_%24a%20b%2F..%2Fc%3F%C3%A9");
        assert!(!is_path_part("..") && !is_path_part(".") && !is_path_part("") && is_path_part("..."));
        assert_eq!(
            download_query("%2Fjobs%2Fresults%2Fzxm_%E7%94%A8_UserList.json"),
            "file=%2Fjobs%2Fresults%2Fzxm_%E7%94%A8_UserList.json"
        );
        assert_eq!(download_query("%2fjobs%2Fa+b"), "file=%2fjobs%2Fa+b");
        assert_eq!(download_query("%2Fa&x=1#y"), "file=%2Fa%26x=1%23y");
        assert_eq!(download_query("/jobs/results/用户 1.json"), "file=%2Fjobs%2Fresults%2F%E7%94%A8%E6%88%B7%201.json");
        assert_eq!(download_query("jobs%20x"), "file=jobs%2520x");
    }

    #[test]
    fn an_accepted_job_is_followed_by_its_id() {
        for (status, body, id) in [
            (200, r#"{"id":"kqQeWeGr","name":"DES-202205240136-5818534160000"}"#, "kqQeWeGr"),
            (201, r#"{"id":42}"#, "42"),
        ] {
            let submitted = submitted(&answer(status, body), &token()).unwrap();
            assert_eq!(submitted.reference.as_deref(), Some(id));
            assert_eq!(Stage::read(&submitted.ticket).unwrap(), Stage::Export { id: id.into() });
        }
    }

    #[test]
    fn every_other_answer_to_a_submission_is_classified() {
        use Code::*;
        use Next::*;
        for (status, body, code, next) in [
            (500, "Internal Server Error", VendorRejectedRequest, KEY_FAULT),
            (200, "Internal Server Error\n", VendorRejectedRequest, KEY_FAULT),
            (500, "<html>", VendorUnavailable, TRY_AGAIN),
            (502, "Internal Server Error", VendorUnavailable, TRY_AGAIN),
            (503, "", VendorUnavailable, TRY_AGAIN),
            (401, "", VendorCredentialsRejected, GiveUp),
            (403, "", VendorPermissionDenied, GiveUp),
            (400, "", VendorRejectedRequest, GiveUp),
            (404, "", VendorRejectedRequest, GiveUp),
            (429, "", VendorUnavailable, Wait { after: None }),
            (200, "<html>", VendorMalformedData, GiveUp),
            (200, "{}", VendorMalformedData, GiveUp),
            (200, r#"{"id":null}"#, VendorMalformedData, GiveUp),
            (200, r#"{"id":".."}"#, VendorMalformedData, GiveUp),
            (200, "[]", VendorMalformedData, GiveUp),
        ] {
            let error = submitted(&answer(status, body), &token()).unwrap_err();
            assert_eq!((error.code, error.next, error.http_status), (code, next, Some(status)), "{status} {body}");
        }
    }

    fn preparing(body: &str) -> (String, bool) {
        match progress(&answer(200, body), &token(), FileFormat::Json).unwrap() {
            Progress::Preparing { status, warning, .. } => (status, warning.is_some()),
            _ => panic!("{body} is not ready"),
        }
    }

    #[test]
    fn every_stage_is_read() {
        for (body, status, warns) in [
            (r#"{"stage":"NONE"}"#, "NONE", false),
            (r#"{"stage":"ready","uris":[]}"#, "ready", false),
            (r#"{"stage":"RUNNING","uris":null}"#, "RUNNING", false),
            (r#"{"stage":"DATA_READY","uris":["%2Fx"]}"#, "DATA_READY", false),
            (r#"{"stage":"PAUSED"}"#, "PAUSED", true),
            (r#"{"stage":7}"#, "no stage", true),
            (r#"{"uris":["%2Fx"]}"#, "no stage", true),
            (r#"{"stage":"FINISH"}"#, "FINISH", true),
            (r#"{"stage":"FINISH","uris":null}"#, "FINISH", true),
            (r#"{"stage":"FINISH","uris":[]}"#, "FINISH", true),
        ] {
            assert_eq!(preparing(body), (status.to_owned(), warns), "{body}");
        }
        for stage in ["FINISH", "finished", "Done"] {
            let body = json!({"stage": stage, "uris": ["%2Fa", "/b"]}).to_string();
            let Progress::Ready(files) = progress(&answer(200, &body), &token(), FileFormat::Json).unwrap() else {
                panic!("{stage}")
            };
            let locators: Vec<_> = files.iter().map(|file| file.locator.expose_secret()).collect();
            assert_eq!(locators, ["%2Fa", "/b"]);
            assert_eq!(files[0].extension, "json");
        }
    }

    #[test]
    fn a_file_is_what_its_name_says() {
        let body = r#"{"stage":"FINISH","uris":["%2Fa_UserList.csv","/b.JSON","%2Fc"]}"#;
        let Progress::Ready(files) = progress(&answer(200, body), &token(), FileFormat::Csv).unwrap() else {
            panic!("not ready")
        };
        let told: Vec<_> = files.iter().map(|file| (&*file.extension, &*file.tag)).collect();
        assert_eq!(told, [("csv", "csv"), ("json", "json"), ("csv", "csv")]);
    }

    #[test]
    fn only_a_clear_answer_ends_a_job() {
        use Code::*;
        use Next::*;
        for (status, body, code, next) in [
            (200, r#"{"stage":"ERROR"}"#, VendorRejectedRequest, GiveUp),
            (200, r#"{"stage":"failed"}"#, VendorRejectedRequest, GiveUp),
            (200, r#"{"stage":"FINISH","uris":"x"}"#, VendorMalformedData, NOT_OFTEN),
            (200, r#"{"stage":"FINISH","uris":[1]}"#, VendorMalformedData, NOT_OFTEN),
            (200, "<html>", VendorMalformedData, NOT_OFTEN),
            (200, "[]", VendorMalformedData, NOT_OFTEN),
            (404, "", VendorDataNotFound, Resubmit),
            (401, "", VendorCredentialsRejected, GiveUp),
            (403, "", VendorPermissionDenied, GiveUp),
            (500, "Internal Server Error", VendorUnavailable, TRY_AGAIN),
            (429, "", VendorUnavailable, Wait { after: None }),
        ] {
            let error = progress(&answer(status, body), &token(), FileFormat::Json).unwrap_err();
            assert_eq!((error.code, error.next, error.http_status), (code, next, Some(status)), "{status} {body}");
        }
    }
}
