//! `refresh: true`: the tag or segment is computed anew, and exported when its list says that a newer computation has
//! ended. Source: `developer-manual/open-api/cdp/project/project-compute-user-tag.md`,
//! `cdp/space/space-compute-segment-profile.md`: only what is not waiting or running can be computed.

use chrono::DateTime;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{lists::Entry, wire};
use crate::exports::problem::Code;
use crate::vendors::{Next, Progress, VendorError, http::Answer};

/// What the list said before a computation was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Before {
    #[serde(default)]
    pub stage: Option<String>,
    #[serde(default)]
    pub detected_at: Option<String>,
}

impl From<Entry> for Before {
    fn from(entry: Entry) -> Self {
        Self { stage: entry.stage, detected_at: entry.detected_at }
    }
}

/// Where a computation stands.
#[derive(Debug)]
pub enum Computation {
    Running(Progress),
    Done,
}

fn stage(entry: Option<&str>) -> String {
    entry.unwrap_or_default().to_ascii_uppercase()
}

/// Whether CDP is at it, or about to be.
pub fn is_under_way(entry: &Entry) -> bool {
    matches!(stage(entry.stage.as_deref()).as_str(), "NONE" | "READY" | "RUNNING")
}

/// Whether CDP began to compute. It refuses while a computation waits or runs.
///
/// # Errors
/// An answer that is neither.
pub fn triggered(answer: &Answer, token: &secrecy::SecretString) -> Result<bool, VendorError> {
    let about = wire::About { not_found: "CDP has no such audience, or cannot compute it", by_key: true };
    let refused = || wire::refused(answer, token, about);
    if !answer.status.is_success() {
        return Err(refused());
    }
    match serde_json::from_slice::<Value>(&answer.body).ok().as_ref().map(|answer| &answer["value"]) {
        Some(Value::Bool(begun)) => Ok(*begun),
        Some(Value::String(begun)) => Ok(begun.eq_ignore_ascii_case("true")),
        _ => Err(refused()),
    }
}

/// CDP refused to compute although nothing seems to run.
pub fn not_triggered() -> VendorError {
    let next = Next::TryAgain { after: None, at_most: Some(5) };
    VendorError::new(Code::VendorRejectedRequest, next, "CDP refused to compute the audience anew")
}

/// What the list says now, compared with before.
///
/// # Errors
/// When the computation failed.
pub fn progress(before: &Before, now: &Entry) -> Result<Computation, VendorError> {
    let is_newer = is_newer(now.detected_at.as_deref(), before.detected_at.as_deref());
    let shown = wire::shown(now.stage.as_deref().unwrap_or("none"));
    let preparing = |warning| {
        Ok(Computation::Running(Progress::Preparing {
            status: format!("computing, {shown}"),
            ask_again_in: None,
            warning,
        }))
    };
    match stage(now.stage.as_deref()).as_str() {
        "FINISH" | "FINISHED" if is_newer => Ok(Computation::Done),
        "ERROR" if is_newer || stage(before.stage.as_deref()) != "ERROR" => {
            let message = "CDP reports that computing the audience failed (stage ERROR)";
            Err(VendorError::new(Code::VendorRejectedRequest, Next::GiveUp, message))
        }
        // Under way; or the list is behind, or nothing has begun yet.
        "FINISH" | "FINISHED" | "NONE" | "READY" | "RUNNING" | "ERROR" => preparing(None),
        _ => preparing(Some(format!("CDP names the stage `{shown}` of a computation, which nobody has documented"))),
    }
}

/// Times are compared as such where both can be read.
fn is_newer(now: Option<&str>, before: Option<&str>) -> bool {
    let time = |text: Option<&str>| text.and_then(|text| DateTime::parse_from_rfc3339(text).ok());
    match (time(now), time(before)) {
        (Some(now), Some(before)) => now > before,
        _ => now.is_some() && now != before,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(before: (&str, &str), now: (&str, &str)) -> &'static str {
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let before = Before { stage: text(before.0), detected_at: text(before.1) };
        match progress(&before, &Entry { stage: text(now.0), detected_at: text(now.1) }) {
            Ok(Computation::Done) => "done",
            Ok(Computation::Running(Progress::Preparing { warning: None, .. })) => "running",
            Ok(Computation::Running(_)) => "odd",
            Err(_) => "failed",
        }
    }

    #[test]
    fn only_a_newer_computation_counts() {
        let (old, new) = ("2026-03-01T02:00:00.417Z", "2026-03-01T10:30:00+08:00");
        for (before, now, expected) in [
            (("FINISH", old), ("FINISH", old), "running"),
            (("FINISH", old), ("NONE", old), "running"),
            (("FINISH", old), ("running", old), "running"),
            (("FINISH", old), ("FINISH", new), "done"),
            (("RUNNING", old), ("finish", new), "done"),
            (("FINISH", new), ("FINISH", old), "running"),
            (("", ""), ("FINISH", old), "done"),
            (("FINISH", old), ("ERROR", old), "failed"),
            (("ERROR", old), ("ERROR", old), "running"),
            (("ERROR", old), ("ERROR", new), "failed"),
            (("FINISH", old), ("PAUSED", old), "odd"),
        ] {
            assert_eq!(told(before, now), expected, "{before:?} {now:?}");
        }
    }
}
