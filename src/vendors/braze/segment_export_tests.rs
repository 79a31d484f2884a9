use chrono::{TimeDelta, Utc};
use serde_json::json;

use super::*;
use crate::exports::request::ExportRequest;
use crate::vendors::{
    Pending,
    braze::tests::{braze, with_bucket},
    scripted::{Scripted, job, members, reply},
};

fn segment() -> ExportRequest {
    members(&json!({"kind": "segment", "id": "s-1"}), &[])
}

fn found(key: &str, seconds_ago: i64) -> Found {
    Found { key: key.to_owned(), added_at: Utc::now() - TimeDelta::seconds(seconds_ago) }
}

/// Quirk 8: cancelling is per segment, and its path is disputed.
#[tokio::test]
async fn cancel_tries_the_other_path_when_the_first_is_not_there() {
    let api = Scripted::start(vec![reply(404, &[], "{}"), reply(200, &[], r#"{"message":"success"}"#)]).await;
    let exchanges = Exchanges::default();
    braze(&api.url).cancel(&segment(), None, &exchanges).await.unwrap();
    assert_eq!(api.lines(), ["POST /export/segment/cancel", "POST /users/export/segment/cancel"]);
    assert!(api.seen().iter().all(|seen| seen.body == r#"{"segment_id":"s-1"}"#));
    assert_eq!(exchanges.take()[1].decision, "cancelled at Braze");
}

#[tokio::test]
async fn a_key_that_may_not_cancel_is_named_in_the_exchange() {
    let api = Scripted::start(vec![reply(403, &[], r#"{"message":"Access Denied"}"#)]).await;
    let exchanges = Exchanges::default();
    let error = braze(&api.url).cancel(&segment(), None, &exchanges).await.unwrap_err();
    assert_eq!((error.code, error.next), (Code::VendorPermissionDenied, Next::GiveUp));
    assert_eq!(api.lines().len(), 1);
    assert!(exchanges.take()[0].decision.contains("segments.list"));
}

#[tokio::test]
async fn the_control_group_is_not_cancelled_at_braze() {
    let api = Scripted::start(vec![]).await;
    let group = members(&json!({"kind": "global_control_group"}), &[]);
    braze(&api.url).cancel(&group, None, &Exchanges::default()).await.unwrap();
    assert_eq!(api.lines(), Vec::<String>::new());
}

#[tokio::test]
async fn only_a_clear_answer_says_that_a_segment_does_not_exist() {
    for (status, expected) in [
        (200, None),
        (400, Some(Code::VendorDataNotFound)),
        (404, None),
        (401, None),
        (403, None),
        (429, None),
        (500, None),
        (302, None),
    ] {
        let api = Scripted::start(vec![reply(status, &[], "{}")]).await;
        let exchanges = Exchanges::default();
        let verified = braze(&api.url).verify(&segment(), &exchanges).await;
        assert_eq!(verified.err().map(|error| error.code), expected, "{status}");
        assert_eq!(api.lines(), ["GET /segments/details?segment_id=s-1"]);
        let decision = exchanges.take().pop().unwrap().decision;
        assert_eq!(decision.contains("cannot be known"), expected.is_none() && status != 200, "{status} {decision}");
    }
    let gone = Scripted::start(vec![]).await;
    assert!(braze(&gone.url).verify(&segment(), &Exchanges::default()).await.is_ok());
}

/// Quirk 4: 429 is the request rate as well as a busy segment.
#[tokio::test]
async fn a_429_says_which_limit_it_is_and_waits_accordingly() {
    let reset = (Utc::now().timestamp() + 90).to_string();
    for (remaining, words, waits) in [("0", "rate limit", true), ("249999", "exported already", false)] {
        let headers = [("X-RateLimit-Remaining", remaining), ("X-RateLimit-Reset", reset.as_str())];
        let api = Scripted::start(vec![reply(429, &headers, "{}")]).await;
        let error = braze(&api.url).submit(&segment(), None, false, &Exchanges::default()).await.unwrap_err();
        let Next::Wait { after } = error.next else { panic!("{error:?}") };
        assert_eq!(after.is_some(), waits);
        assert!(error.message.contains(words), "{}", error.message);
    }
}

/// Quirks 7 and 10: taken without a handle is neither a failure nor a reason to ask again blindly.
#[tokio::test]
async fn a_queued_submission_is_not_lost() {
    let api = Scripted::start(vec![reply(202, &[], r#"{"message":"queued"}"#), reply(429, &[], "{}")]).await;
    let braze = braze(&api.url);
    let error = braze.submit(&segment(), None, false, &Exchanges::default()).await.unwrap_err();
    assert_eq!(error.next, Next::OutcomeUnknown);
    assert!(error.message.contains("queued"));
    let again = braze.submit(&segment(), None, true, &Exchanges::default()).await.unwrap_err();
    assert_eq!(again.next, Next::Wait { after: None });
}

/// Quirk 2: without a bucket there is nothing to read, and the message says what to do.
#[tokio::test]
async fn without_a_link_and_without_a_bucket_the_export_fails_clearly() {
    let accepted = r#"{"message":"success","object_prefix":"p-1","url":null}"#;
    let api = Scripted::start(vec![reply(201, &[], accepted)]).await;
    let error = braze(&api.url).submit(&segment(), None, false, &Exchanges::default()).await.unwrap_err();
    assert_eq!((error.code, error.next), (Code::VendorRejectedRequest, Next::GiveUp));
    assert!(error.message.contains("settings.bucket"), "{}", error.message);
}

/// Quirk 3: the mode of a job is what its own answer said, whatever the connection knows by now.
#[tokio::test]
async fn a_job_in_the_bucket_needs_the_bucket_it_began_with() {
    let accepted = r#"{"message":"success","object_prefix":"p-1"}"#;
    let api = Scripted::start(vec![reply(201, &[], accepted)]).await;
    let folder = tempfile::tempdir().unwrap();
    let submitted =
        with_bucket(&api.url, folder.path()).submit(&segment(), None, false, &Exchanges::default()).await.unwrap();
    assert_eq!(submitted.reference.as_deref(), Some("p-1"));
    let error =
        braze(&api.url).poll(&segment(), &job(&submitted.ticket, false), &Exchanges::default()).await.unwrap_err();
    assert_eq!(error.code, Code::VendorRejectedRequest);
}

#[test]
fn objects_are_complete_when_nothing_was_added_for_a_while() {
    let ticket = Ticket("{}".into());
    let ask = |found, quiet| complete(found, Duration::from_secs(quiet), &job(&ticket, false));
    let status = |progress| match progress {
        Progress::Preparing { status, .. } => status,
        progress => panic!("{progress:?}"),
    };
    assert_eq!(status(ask(Vec::new(), 0)), "no objects yet", "nothing there is never complete");
    assert_eq!(status(ask(vec![found("b", 100), found("a", 10)], 60)), "2 objects so far");
    let Progress::Ready(files) = ask(vec![found("a.zip", 100), found("b.gz", 61)], 60) else { panic!("is ready") };
    let files: Vec<_> = files.iter().map(|file| (file.locator.expose_secret(), file.extension.as_ref())).collect();
    assert_eq!(files, [("object:a.zip", "zip"), ("object:b.gz", "gz")]);
}

/// A callback may come early, or twice, or from anybody who learned its address: it never makes a part a whole.
#[tokio::test]
async fn a_callback_shortens_the_wait_but_does_not_end_it() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("segment-export/s-1/2026-11-20/p-1");
    std::fs::create_dir_all(&place).unwrap();
    std::fs::write(place.join("one.zip"), "PK").unwrap();
    let api = Scripted::start(vec![]).await;
    let braze = with_bucket(&api.url, folder.path());
    let ticket = Ticket(json!({"object_prefix": "p-1"}).to_string().into());
    for (called_back, seconds, ready) in [(true, 0, false), (true, 6, true), (false, 6, false), (false, 61, true)] {
        let now = Utc::now() + TimeDelta::seconds(seconds);
        let inquiry = Inquiry { of: Pending::Job(&ticket), seen_ready: false, called_back, since: now, now };
        let progress = braze.poll(&segment(), &inquiry, &Exchanges::default()).await.unwrap();
        assert_eq!(matches!(progress, Progress::Ready(_)), ready, "{called_back} after {seconds} s: {progress:?}");
    }
}
