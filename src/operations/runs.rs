//! The runs of schedules: each becomes an export once, over any number of replicas. The export, its line in the history
//! and the move to the next run are one transaction under a lock of the schedule; nothing outside of the database happens
//! in it, so whoever dies in it has done nothing.

use std::{panic::AssertUnwindSafe, time::Duration};

use chrono::{DateTime, Utc};
use futures_util::FutureExt;
use tracing::{error, info, warn};

use super::{
    Error, Gateway, exports,
    schedules::{connection_of, maker, release},
};
use crate::{
    exports::{
        problem::{Code, Problem},
        record::ExportRecord,
        request::{SubmitExport, from_json},
        schedule::{Release, ScheduleRecord, SkipReason, Skipped, Timetable, decide},
        windows::fill,
    },
    store::{
        self,
        schedules::{DueSchedule, Outcome},
    },
};

/// Until a run is tried again whose refusal may pass.
const TRY_AGAIN: chrono::TimeDelta = chrono::TimeDelta::minutes(1);
/// Until a schedule is looked at again that this version cannot read.
const UNREADABLE: chrono::TimeDelta = chrono::TimeDelta::hours(1);
/// Until a schedule is looked at again that failed for reasons of our own.
const PUT_OFF: Duration = Duration::from_secs(30);
/// How long it is known what became of runs.
const KEPT: Duration = Duration::from_hours(90 * 24);
/// How many one sweep deletes.
const SWEEP_BATCH: i64 = 10_000;

/// Deals with the schedule that has been due longest; `false` when there is none.
pub async fn begin_next(gateway: &Gateway) -> Result<bool, Error> {
    let mut tx = gateway.db.begin().await?;
    let Some(due) = store::schedules::lock_due(&mut *tx).await? else { return Ok(false) };
    let id = due.schedule.schedule_id;
    let dealt = AssertUnwindSafe(deal_with(gateway, &mut tx, due)).catch_unwind().await;
    let failed = match dealt {
        Ok(Ok(())) => match tx.commit().await {
            Ok(()) => {
                // As with any new export: a worker of this process need not wait until it looks.
                gateway.hub.stir();
                None
            }
            Err(failed) => Some(Error::Store(failed)),
        },
        Ok(Err(failed)) => Some(failed),
        Err(_) => {
            error!(schedule.id = %id, "dealing with the schedule panicked");
            Some(Problem::new(Code::Internal, "a defect in Headgate").into())
        }
    };
    if let Some(failed) = failed {
        warn!(schedule.id = %id, error = %failed, "the schedule could not be dealt with; trying again");
        store::schedules::put_off(&gateway.db, id, PUT_OFF).await?;
    }
    // A run that was begun is due at once.
    gateway.hub.stir();
    Ok(true)
}

async fn deal_with(gateway: &Gateway, tx: &mut sqlx::PgConnection, due: DueSchedule) -> Result<(), Error> {
    let DueSchedule { schedule, now } = due;
    let id = schedule.schedule_id;
    let standing = store::schedules::standing(&mut *tx, id).await?;
    let Some(first) = schedule.next_run_at.filter(|_| !standing.is_live) else { return Ok(()) };
    let timetable = match Timetable::parse(&schedule.cron, &schedule.time_zone) {
        Ok(timetable) => timetable,
        Err(errors) => {
            let problem = Problem::invalid(errors);
            let failures = schedule.failures + 1;
            return Ok(store::schedules::advance(
                tx,
                id,
                Some(first),
                Some(now + UNREADABLE),
                Some(&problem),
                failures,
            )
            .await?);
        }
    };
    let connection = store::connections::by_name(&mut *tx, connection_of(&schedule.export)).await?;
    let release = release(&schedule, &timetable, connection.as_ref().map(|connection| connection.vendor.as_str()));
    let decision = decide(&timetable, schedule.catch_up, first, now, |run| release.of(run));
    if let Some(skipped) = decision.skip {
        skip(tx, &schedule, &release, skipped, standing.last_end).await?;
    }
    let due_at = |next: Option<DateTime<Utc>>| next.map(|next| release.of(next));
    let Some(run_at) = decision.begin else {
        let error = schedule.last_error.as_ref().map(|error| &error.0);
        let (next, failures) = (decision.next, schedule.failures);
        return Ok(store::schedules::advance(tx, id, next, due_at(next), error, failures).await?);
    };
    match begin(gateway, tx, &schedule, &timetable, run_at).await {
        Ok(export) => {
            store::schedules::insert_run(&mut *tx, id, run_at, &Outcome::Started(export.export_id)).await?;
            store::schedules::advance(tx, id, decision.next, due_at(decision.next), None, 0).await?;
            info!(schedule.id = %id, run_at = %run_at, export.id = %export.export_id, "a run began");
        }
        Err(Error::Refused(problem)) => {
            warn!(schedule.id = %id, run_at = %run_at, code = problem.code.as_str(), "a run was refused");
            let failures = schedule.failures + 1;
            // What may pass is tried again, as long as the policy keeps the run.
            let (next, due) = if problem.retryable {
                (Some(run_at), Some(now + TRY_AGAIN))
            } else {
                store::schedules::insert_run(&mut *tx, id, run_at, &Outcome::Failed(&problem)).await?;
                (decision.next, due_at(decision.next))
            };
            store::schedules::advance(tx, id, next, due, Some(&problem), failures).await?;
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

/// The export of a run, as whoever set it would have submitted it.
async fn begin(
    gateway: &Gateway,
    tx: &mut sqlx::PgConnection,
    schedule: &ScheduleRecord,
    timetable: &Timetable,
    run_at: DateTime<Utc>,
) -> Result<ExportRecord, Error> {
    let invalid = |error| Error::from(Problem::invalid(vec![error]));
    let mut body: SubmitExport = from_json(schedule.export.clone(), "").map_err(invalid)?;
    (body.parameters, _) = fill(&body.parameters, run_at, timetable.zone()).map_err(invalid)?;
    exports::submit_scheduled(gateway, tx, &maker(schedule), &body, (schedule.schedule_id, run_at)).await
}

async fn skip(
    tx: &mut sqlx::PgConnection,
    schedule: &ScheduleRecord,
    release: &Release,
    skipped: Skipped,
    last_end: Option<DateTime<Utc>>,
) -> Result<(), Error> {
    let was_live = last_end.is_some_and(|end| end > release.of(skipped.first));
    let reason = if was_live { SkipReason::PreviousRun } else { SkipReason::Missed };
    let outcome = Outcome::Skipped { through: skipped.last, reason };
    store::schedules::insert_run(tx, schedule.schedule_id, skipped.first, &outcome).await?;
    info!(schedule.id = %schedule.schedule_id, from = %skipped.first, through = %skipped.last, reason = ?reason, "runs were skipped");
    Ok(())
}

/// Deletes what became of runs long ago; answers how many lines.
pub async fn sweep_runs(gateway: &Gateway) -> Result<u64, Error> {
    Ok(store::schedules::sweep_runs(&gateway.db, KEPT, SWEEP_BATCH).await?)
}
