//! What follows when a step could not simply go on: try again, wait, fail, cancel or hand back.

use std::{collections::HashSet, time::Duration};

use chrono::{DateTime, Utc};
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::{Worker, hold::Interrupt};
use crate::{
    exports::{
        problem::{Code, Problem, VendorBlame},
        record::{AttemptRecord, ExportRecord},
        retry::MAX_RENEWALS,
        state::{Event, Phase, State},
    },
    ids::ExportId,
    operations::accounts::AccountError,
    results,
    store::{
        self, Held,
        engine::{ClaimedExport, Release},
    },
    vendors::{Exchanges, Next, VendorError, registry},
};

/// How often the vendor may begin the same export, all in all.
pub const MAX_SUBMISSIONS: i32 = 3;
/// How often a file that arrives damaged is fetched again.
pub const MAX_FETCHES: u32 = 3;
/// Pause after a failure of Headgate's own: a database that does not answer, a vault that cannot open.
pub const OWN_FAILURE_PAUSE: Duration = Duration::from_secs(5);

/// Why a step ended before its end.
#[derive(Debug)]
pub enum Stop {
    Interrupted(Interrupt),
    /// The call that begins an export failed.
    Submission(VendorError),
    /// Any later vendor call failed.
    Vendor(VendorError),
    /// The files could not be received, converted or stored.
    Results(results::Error),
    /// The destination could not be written to.
    Delivery(Box<Problem>),
    /// Nothing can help any more.
    Fail(Box<Problem>),
    Account(AccountError),
    Store(sqlx::Error),
}

impl From<Interrupt> for Stop {
    fn from(interrupt: Interrupt) -> Self {
        Self::Interrupted(interrupt)
    }
}

impl From<VendorError> for Stop {
    fn from(error: VendorError) -> Self {
        Self::Vendor(error)
    }
}

impl From<results::Error> for Stop {
    fn from(error: results::Error) -> Self {
        Self::Results(error)
    }
}

impl From<AccountError> for Stop {
    fn from(error: AccountError) -> Self {
        Self::Account(error)
    }
}

impl From<crate::vault::Error> for Stop {
    fn from(error: crate::vault::Error) -> Self {
        Self::Account(error.into())
    }
}

impl From<sqlx::Error> for Stop {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error)
    }
}

/// A write that did not happen means that the claim may be lost.
pub fn held(held: Held) -> Result<(), Stop> {
    match held {
        Held::Yes => Ok(()),
        Held::Lost => Err(Stop::Interrupted(Interrupt::Lost)),
    }
}

/// Spreads pauses by up to a tenth, so that exports submitted together are not polled together for ever.
pub fn jitter(claim: Uuid, pause: Duration) -> Duration {
    let tenth = u32::from(claim.as_bytes()[0]);
    pause + pause * tenth / 2560
}

/// Writes down what was exchanged with the vendor; evidence is kept even when the claim is lost.
pub async fn keep_exchanges(worker: &Worker, id: ExportId, exchanges: &Exchanges) {
    let rows: Vec<AttemptRecord> = exchanges
        .take()
        .into_iter()
        .map(|exchange| AttemptRecord {
            at: exchange.at,
            action: exchange.action.into(),
            method: exchange.method.into(),
            target: exchange.target,
            http_status: exchange.http_status.map(i32::from),
            duration_ms: exchange.duration_ms,
            decision: exchange.decision,
        })
        .collect();
    if rows.is_empty() {
        return;
    }
    if let Err(error) = store::engine::insert_exchanges(&worker.gateway.db, id, &rows).await {
        warn!(error = %error, "the vendor exchanges of a step could not be kept");
    }
}

/// Brings an interrupted or failed step to its end. What cannot be written now is done by whoever claims next.
pub async fn settle(worker: &Worker, claimed: &ClaimedExport, stop: Stop) {
    let settled = match stop {
        Stop::Interrupted(Interrupt::Lost) => after_lost_write(worker, claimed).await,
        Stop::Interrupted(Interrupt::Cancelled) => cancel(worker, claimed).await,
        Stop::Interrupted(Interrupt::Shutdown) => hand_back(worker, claimed).await,
        Stop::Interrupted(Interrupt::Deadline) => {
            info!("the deadline has passed");
            end(worker, claimed, End::Expired(&after_deadline(claimed))).await
        }
        Stop::Interrupted(Interrupt::Stalled) => {
            let after = worker.settings.spacing.backoff(u32::try_from(claimed.failures).unwrap_or_default() + 1, None);
            try_again(worker, claimed, after, standstill(worker), Some(MAX_FETCHES), false).await
        }
        Stop::Submission(error) => vendor_error(worker, claimed, error, true).await,
        Stop::Vendor(error) => vendor_error(worker, claimed, error, false).await,
        Stop::Results(error) => results_error(worker, claimed, error).await,
        Stop::Delivery(problem) if is_stalled(&claimed.export, claimed.now) => {
            fail(worker, claimed, stalled(&claimed.export, claimed.now, &problem)).await
        }
        Stop::Delivery(problem) => {
            let failures = u32::try_from(claimed.failures).unwrap_or_default() + 1;
            let after = worker.settings.spacing.backoff(failures, None);
            try_again(worker, claimed, after, *problem, None, false).await
        }
        Stop::Fail(problem) => fail(worker, claimed, *problem).await,
        Stop::Account(error) => {
            warn!(error = %error, "the connection cannot be opened");
            let detail = "the connection's credentials cannot be opened; the operator must look";
            try_again(worker, claimed, OWN_FAILURE_PAUSE, Problem::new(Code::Internal, detail), None, false).await
        }
        Stop::Store(error) => Err(error),
    };
    if let Err(error) = settled {
        warn!(error = %error, "the database failed in a step; its lease will run out and the step is done again");
    }
}

/// What came of a transfer in which nothing moved.
pub fn standstill(worker: &Worker) -> Problem {
    let detail = format!("nothing has moved in the transfer for {} s", worker.settings.stall.as_secs());
    Problem::new(Code::VendorStalled, detail)
}

/// A write that named our claim and our state touched nothing: either the claim is gone, or a caller cancelled.
async fn after_lost_write(worker: &Worker, claimed: &ClaimedExport) -> sqlx::Result<()> {
    let id = claimed.export.export_id;
    match store::engine::renew(&worker.gateway.db, id, claimed.claim, worker.settings.lease).await? {
        None => {
            debug!("the claim is lost; another worker goes on");
            // Nobody else writes below our claim, and no manifest will name what we wrote.
            let own = results::storage::claim_prefix(claimed.export.run(), claimed.claim.simple());
            remove(worker, &own, HashSet::new()).await;
        }
        Some(State::Cancelling) => return cancel(worker, claimed).await,
        Some(_) => return hand_back(worker, claimed).await,
    }
    Ok(())
}

async fn hand_back(worker: &Worker, claimed: &ClaimedExport) -> sqlx::Result<()> {
    let held = store::engine::hand_back(&worker.gateway.db, claimed.export.export_id, claimed.claim).await?;
    debug!(held = held == Held::Yes, "handed the export back");
    Ok(())
}

async fn vendor_error(
    worker: &Worker,
    claimed: &ClaimedExport,
    error: VendorError,
    submitting: bool,
) -> sqlx::Result<()> {
    let spacing = worker.settings.spacing;
    let failures = u32::try_from(claimed.failures).unwrap_or_default() + 1;
    let problem = blame(&claimed.export.vendor, &error);
    match error.next {
        Next::GiveUp => fail(worker, claimed, problem).await,
        // The vendor has said nothing of the export: that goes on for as long as silence would.
        Next::TryAgain { at_most: None, .. } | Next::OutcomeUnknown if is_stalled(&claimed.export, claimed.now) => {
            fail(worker, claimed, stalled(&claimed.export, claimed.now, &problem)).await
        }
        Next::TryAgain { after, at_most } => {
            try_again(worker, claimed, spacing.backoff(failures, after), problem, at_most, false).await
        }
        Next::Renew => {
            try_again(worker, claimed, spacing.backoff(failures, None), problem, Some(MAX_RENEWALS), false).await
        }
        Next::WaitForBudget { after } => {
            let release = Release {
                after: jitter(claimed.claim, after),
                phase: phase_after(claimed, submitting, claimed.submit_intent_at.is_some()),
                waiting_reason: Some("vendor_rate_limit"),
                vendor_status: None,
                failures: 0,
                outcome_unknown: claimed.submit_intent_at.is_some(),
                warning: None,
            };
            debug!(reason = %error, "waiting for a budget of calls");
            release_with(worker, claimed, &release).await
        }
        Next::OutcomeUnknown => {
            try_again(worker, claimed, spacing.backoff(failures, None), problem, None, submitting).await
        }
        Next::Wait { after } => {
            let waited = (claimed.now - claimed.export.last_progress_at).to_std().unwrap_or_default();
            let release = Release {
                after: jitter(claimed.claim, spacing.poll(waited, after)),
                phase: phase_after(claimed, submitting, claimed.submit_intent_at.is_some()),
                waiting_reason: Some("vendor_busy"),
                vendor_status: Some(&error.message),
                failures: 0,
                // A refusal is an answer: nothing new was begun. An older unanswered call stays unanswered.
                outcome_unknown: claimed.submit_intent_at.is_some(),
                warning: None,
            };
            info!(reason = %error, "the vendor has no room; waiting");
            release_with(worker, claimed, &release).await
        }
        Next::Resubmit if claimed.submissions >= MAX_SUBMISSIONS => fail(worker, claimed, problem).await,
        Next::Resubmit => {
            info!(reason = %error, "the vendor no longer has the export; asking again");
            let (id, claim) = (claimed.export.export_id, claimed.claim);
            store::engine::forget_ticket(&worker.gateway.db, id, claim, &error.message).await.map(drop_held)
        }
    }
}

fn drop_held(_: Held) {}

async fn results_error(worker: &Worker, claimed: &ClaimedExport, error: results::Error) -> sqlx::Result<()> {
    let problem = Problem::new(error.code, error.message.clone());
    if !error.fetch_again {
        return fail(worker, claimed, problem).await;
    }
    let failures = u32::try_from(claimed.failures).unwrap_or_default() + 1;
    // Trouble of the gateway's own store says nothing about the data, and may last as long as the vendor's own.
    if error.code == Code::DeliveryFailed && is_stalled(&claimed.export, claimed.now) {
        return fail(worker, claimed, stalled(&claimed.export, claimed.now, &problem)).await;
    }
    let at_most = (error.code != Code::DeliveryFailed).then_some(MAX_FETCHES);
    warn!(error = %error, cause = ?std::error::Error::source(&error), "the files could not be fetched whole");
    try_again(worker, claimed, worker.settings.spacing.backoff(failures, None), problem, at_most, false).await
}

/// Lets go for `after`, or fails when this was the last try. Without `at_most` the deadline ends it.
async fn try_again(
    worker: &Worker,
    claimed: &ClaimedExport,
    after: Duration,
    problem: Problem,
    at_most: Option<u32>,
    outcome_unknown: bool,
) -> sqlx::Result<()> {
    let failures = claimed.failures.saturating_add(1);
    if at_most.is_some_and(|at_most| u32::try_from(failures).unwrap_or(u32::MAX) >= at_most) {
        return fail(worker, claimed, problem).await;
    }
    let submitting = claimed.ticket.is_none();
    let release = Release {
        after: jitter(claimed.claim, after),
        phase: phase_after(claimed, submitting, outcome_unknown),
        waiting_reason: None,
        vendor_status: problem.vendor.as_ref().and_then(|vendor| vendor.message.as_deref()),
        failures,
        outcome_unknown: outcome_unknown || claimed.submit_intent_at.is_some(),
        warning: None,
    };
    info!(reason = %problem, failures, "a step failed; it is tried again");
    release_with(worker, claimed, &release).await
}

fn phase_after(claimed: &ClaimedExport, submitting: bool, outcome_unknown: bool) -> Phase {
    if claimed.staged_at.is_some() {
        return Phase::Delivering;
    }
    match (submitting, outcome_unknown || claimed.submit_intent_at.is_some()) {
        (true, true) => Phase::Reconciling,
        (true, false) => Phase::Submitting,
        (false, _) => Phase::VendorProcessing,
    }
}

async fn release_with(worker: &Worker, claimed: &ClaimedExport, release: &Release<'_>) -> sqlx::Result<()> {
    let (id, claim) = (claimed.export.export_id, claimed.claim);
    worker.releaser.release(id, claim, release).await.map(drop_held)
}

/// The vendor's part in a failure, for the caller.
pub fn blame(vendor: &str, error: &VendorError) -> Problem {
    let vendor =
        VendorBlame { name: vendor.to_owned(), http_status: error.http_status, message: Some(error.message.clone()) };
    Problem::new(error.code, error.message.clone()).with_vendor(vendor)
}

async fn fail(worker: &Worker, claimed: &ClaimedExport, problem: Problem) -> sqlx::Result<()> {
    info!(reason = %problem, "the export failed");
    end(worker, claimed, End::Failed(&problem)).await
}

async fn cancel(worker: &Worker, claimed: &ClaimedExport) -> sqlx::Result<()> {
    info!("the export is cancelled");
    end(worker, claimed, End::Cancelled).await
}

/// How an export ends without files.
enum End<'a> {
    Failed(&'a Problem),
    /// Its own time is up, which says nothing about the work.
    Expired(&'a Problem),
    Cancelled,
}

/// Ends an export without files: the state, the slot and whoever waits for it in one transaction. Who follows it fails
/// with it, or goes on with the work when only this one stops. A caller who cancelled in the very moment of a failure
/// gets a cancelled export.
async fn end(worker: &Worker, claimed: &ClaimedExport, end: End<'_>) -> sqlx::Result<()> {
    let export = &claimed.export;
    let (id, claim) = (export.export_id, claimed.claim);
    let mut tx = worker.gateway.db.begin().await?;
    lock_for_end(&mut tx, claimed).await?;
    let Some(state) = store::engine::lock_claimed(&mut *tx, id, claim).await? else {
        debug!("the claim is lost; another worker ends the export");
        return Ok(());
    };
    let written = match (state.transition(Event::GaveUp), &end) {
        (Ok(transition), End::Failed(problem)) => {
            store::sharing::fail_followers(&mut *tx, id, problem).await?;
            store::engine::fail(&mut *tx, id, claim, transition, problem).await?
        }
        (Ok(transition), End::Expired(problem)) => {
            store::sharing::hand_on(&mut tx, id).await?;
            store::engine::fail(&mut *tx, id, claim, transition, problem).await?
        }
        _ => match state.transition(Event::CancelDone) {
            Ok(transition) => {
                store::sharing::hand_on(&mut tx, id).await?;
                store::engine::cancelled(&mut *tx, id, claim, transition).await?
            }
            Err(_) => Held::Lost,
        },
    };
    if written == Held::Lost {
        return Ok(());
    }
    store::files::forget(&mut *tx, id).await?;
    store::parts::forget(&mut *tx, id).await?;
    store::slots::give_back(&mut *tx, id).await?;
    wake_after_end(&mut tx, claimed).await?;
    tx.commit().await?;
    if !store::sharing::is_run_shared(&worker.gateway.db, export.run(), id).await? {
        let prefix = results::storage::run_prefix(export.run());
        let named = store::files::objects_below(&worker.gateway.db, &prefix).await?.referenced;
        remove(worker, &prefix, named.into_iter().collect()).await;
    }
    Ok(())
}

/// Takes every lock that ending an export takes besides its own row's: nobody joins its work, and nobody begins to wait
/// for the room that it gives up, before the transaction ends.
pub async fn lock_for_end(tx: &mut sqlx::PgConnection, claimed: &ClaimedExport) -> sqlx::Result<()> {
    if let Some(plan) = &claimed.plan_sha256 {
        store::sharing::lock_plan(&mut *tx, plan).await?;
    }
    store::slots::lock_connection(&mut *tx, claimed.export.connection_id).await?;
    store::slots::lock_tenant(&mut *tx, &claimed.export.tenant).await
}

/// Has those looked at who may have waited for an export that has ended. Also when it held no slot: another may have
/// waited for its turn, or for one more that runs.
pub async fn wake_after_end(tx: &mut sqlx::PgConnection, claimed: &ClaimedExport) -> sqlx::Result<()> {
    store::slots::wake_next(&mut *tx, claimed.export.connection_id).await?;
    store::slots::wake_next_of_tenant(tx, &claimed.export.tenant).await
}

/// For how long nothing has moved.
pub fn silence(export: &ExportRecord, now: DateTime<Utc>) -> Duration {
    (now - export.last_progress_at).to_std().unwrap_or_default()
}

/// Whether nothing has moved for the stall window of the dataset.
pub fn is_stalled(export: &ExportRecord, now: DateTime<Utc>) -> bool {
    let spec = registry::vendor(&export.vendor);
    let spec = spec.and_then(|spec| spec.datasets.iter().find(|spec| spec.dataset == export.dataset));
    spec.is_some_and(|spec| silence(export, now) >= spec.stall_window)
}

/// Failures, and nothing else, for the whole stall window: the last one's code, so that an outage can be told from a vendor
/// that is slow.
pub fn stalled(export: &ExportRecord, now: DateTime<Utc>, last: &Problem) -> Problem {
    let minutes = silence(export, now).as_secs() / 60;
    let said = last.detail.as_deref().unwrap_or(&last.title);
    Problem { detail: Some(format!("nothing has moved for {minutes} minutes; last: {said}")), ..last.clone() }
}

fn after_deadline(claimed: &ClaimedExport) -> Problem {
    let detail = "the export did not finish before its deadline";
    match (&claimed.export.vendor_status, claimed.failures) {
        (Some(last), 1..) => {
            let vendor =
                VendorBlame { name: claimed.export.vendor.clone(), http_status: None, message: Some(last.clone()) };
            Problem::new(Code::DeadlineExceeded, format!("{detail}; last: {last}")).with_vendor(vendor)
        }
        _ => Problem::new(Code::DeadlineExceeded, detail),
    }
}

/// Removes everything below `prefix` from the object store but `keep`, as far as that is possible now.
pub async fn remove(worker: &Worker, prefix: &str, keep: HashSet<String>) {
    if let Err(error) = worker.gateway.storage.sweep(prefix, &keep).await {
        warn!(error = %error, "what an unfinished export left in the object store could not be removed");
    }
}
