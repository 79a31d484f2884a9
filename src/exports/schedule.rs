//! When an export is asked for again: cron lines in a time zone, and what becomes of runs that could not begin in time.
//!
//! Where clocks change: a line that names its hours means times of the wall clock, and each runs once: a time that the
//! clock jumps over runs when it jumps, a time that it shows twice runs the first time. A line for every hour
//! (`*/15 * * * *`) means hours that pass, so it also runs in the repeated one.

#[cfg(test)]
mod tests;

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use croner::{
    Cron,
    parser::{CronParser, Seconds, Year},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::types::Json;
use utoipa::ToSchema;

use super::{
    problem::{FieldError, Problem},
    state::State,
    windows::{RelativeWindow, instant},
};
use crate::ids::{ExportId, ScheduleId};

/// The longest that a run can be held back for its data.
pub const MAX_NOT_BEFORE: Duration = Duration::from_hours(7 * 24);
/// How many missed runs are caught up; of more, the latest.
pub const MAX_CATCH_UP: usize = 100;
/// How late a run may begin and still count as in time: a restart is no reason to lose a day's run.
pub const GRACE: Duration = Duration::from_mins(10);

const MAX_CRON: usize = 255;
const MAX_NAME: usize = 120;

/// What becomes of runs that could not begin in time, because an earlier run was still live or the gateway was down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum CatchUp {
    /// They are skipped: a run that is more than ten minutes late does not begin.
    None,
    /// The last of them runs, however late.
    #[default]
    Last,
    /// All of them run, oldest first, one after the other; of more than 100 the latest 100.
    All,
}

/// What became of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum RunOutcome {
    /// It became an export.
    Started,
    /// It did not happen.
    Skipped,
    /// Its export was refused.
    Failed,
}

/// Why a run was skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum SkipReason {
    /// An earlier run was still live.
    PreviousRun,
    /// No worker was there.
    Missed,
}

/// A schedule as it is kept.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct ScheduleRecord {
    pub schedule_id: ScheduleId,
    pub tenant: String,
    pub name: String,
    pub created_by: String,
    /// Who set the export last: the runs are made as they would make them.
    pub runs_as: String,
    /// The connections that their token granted, as patterns.
    pub connections: Vec<String>,
    pub cron: String,
    pub time_zone: String,
    /// The body of a submission, whose window may be relative.
    pub export: Value,
    /// As it was sent.
    pub not_before: Option<String>,
    pub catch_up: CatchUp,
    pub paused_at: Option<DateTime<Utc>>,
    /// The oldest run that has not been dealt with.
    pub next_run_at: Option<DateTime<Utc>>,
    /// When it may begin.
    pub due_at: Option<DateTime<Utc>>,
    pub last_error: Option<Json<Problem>>,
    pub failures: i32,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

/// What became of one run, or of several that were skipped together.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct RunRecord {
    pub schedule_id: ScheduleId,
    /// As the cron line says it.
    pub run_at: DateTime<Utc>,
    /// The last of those that were skipped together; else `run_at`.
    pub through: DateTime<Utc>,
    pub outcome: RunOutcome,
    /// When that was decided.
    pub at: DateTime<Utc>,
    pub export_id: Option<ExportId>,
    /// Of its export.
    pub state: Option<State>,
    pub reason: Option<SkipReason>,
    pub error: Option<Json<Problem>>,
}

/// When runs are.
#[derive(Debug, Clone)]
pub struct Timetable {
    cron: Cron,
    zone: Tz,
    /// The line is for every hour.
    hourly: bool,
}

impl Timetable {
    /// Reads a cron line of five fields and a name of the IANA time zone database.
    ///
    /// # Errors
    /// What is wrong with them, with pointers.
    pub fn parse(cron: &str, time_zone: &str) -> Result<Self, Vec<FieldError>> {
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let parsed = if cron.len() > MAX_CRON {
            Err(format!("at most {MAX_CRON} characters"))
        } else {
            parser.parse(cron).map_err(|error| format!("no cron line of five fields such as `15 6 * * *`: {error}"))
        };
        let zone = time_zone.parse::<Tz>().map_err(|_| {
            FieldError::new("/time_zone", "invalid", "a name of the IANA time zone database such as Asia/Shanghai")
        });
        match (parsed, zone) {
            (Ok(cron), Ok(zone)) => {
                let hourly = (0..24).all(|hour| cron.pattern.hour_match(hour).unwrap_or_default());
                Ok(Self { cron, zone, hourly })
            }
            (cron, zone) => {
                let cron = cron.err().map(|detail| FieldError::new("/cron", "invalid", detail));
                Err(cron.into_iter().chain(zone.err()).collect())
            }
        }
    }

    pub fn zone(&self) -> Tz {
        self.zone
    }

    /// The first run after `after`; `None` when there is none any more.
    pub fn next_after(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let local = after.with_timezone(&self.zone);
        if self.hourly {
            return Some(self.cron.find_next_occurrence(&local, false).ok()?.to_utc());
        }
        // What the wall clock has shown until `after` has run: its first showing is never later than `after`.
        let mut shown = local.naive_local();
        loop {
            shown = self.cron.find_next_occurrence(&shown, false).ok()?;
            let run = instant(shown, self.zone)?;
            if run > after {
                return Some(run);
            }
        }
    }

    /// The first `count` runs after `after`.
    pub fn upcoming(&self, after: DateTime<Utc>, count: usize) -> Vec<DateTime<Utc>> {
        std::iter::successors(self.next_after(after), |run| self.next_after(*run)).take(count).collect()
    }

    /// The latest runs from `first` on, a run itself, that are due, oldest first: [`MAX_CATCH_UP`] at most, and
    /// whether there are older ones.
    fn overdue(&self, first: DateTime<Utc>, is_due: impl Fn(DateTime<Utc>) -> bool) -> (Vec<DateTime<Utc>>, bool) {
        let latest = |from: DateTime<Utc>| {
            let mut runs = std::collections::VecDeque::new();
            let mut seen = 0_usize;
            for run in std::iter::successors(Some(from), |run| self.next_after(*run)).take_while(|run| is_due(*run)) {
                seen += 1;
                runs.push_back(run);
                if runs.len() > MAX_CATCH_UP {
                    runs.pop_front();
                }
            }
            (Vec::from(runs), seen > MAX_CATCH_UP)
        };
        if !is_due(first) {
            return (Vec::new(), false);
        }
        // After a long time there can be a million: look back no further than needed, twice as far each time.
        let (mut low, mut back) = (first, TimeDelta::hours(2));
        // The last moment that is due, to the minute, found by doubling and halving.
        let mut step = TimeDelta::minutes(1);
        while is_due(low + step) {
            low += step;
            step = step * 2;
        }
        while step > TimeDelta::minutes(1) {
            step = step / 2;
            if is_due(low + step) {
                low += step;
            }
        }
        loop {
            let from = low - back;
            if from <= first {
                return latest(first);
            }
            if let Some(run) = self.next_after(from) {
                let (runs, more) = latest(run);
                if more || runs.len() == MAX_CATCH_UP {
                    return (runs, true);
                }
            }
            back = back * 2;
        }
    }
}

/// When runs may begin: not before the data of their window is there.
#[derive(Debug, Clone, Copy)]
pub struct Release {
    /// If it is relative; else the run's own time counts.
    pub window: Option<RelativeWindow>,
    pub zone: Tz,
    /// From the end of the window, or from the run's time without one.
    pub not_before: TimeDelta,
}

impl Release {
    /// From when on the run of `run_at` may begin.
    pub fn of(&self, run_at: DateTime<Utc>) -> DateTime<Utc> {
        let end = self.window.and_then(|window| window.resolve(run_at, self.zone)).map_or(run_at, |window| window.to);
        run_at.max(end + self.not_before)
    }
}

/// Several runs that are skipped together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Skipped {
    pub first: DateTime<Utc>,
    pub last: DateTime<Utc>,
}

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub skip: Option<Skipped>,
    /// The run to begin.
    pub begin: Option<DateTime<Utc>>,
    /// The oldest run that is then not dealt with.
    pub next: Option<DateTime<Utc>>,
}

/// What to do at `now` with the runs from `first` on, when no earlier run is live. `due` says from when on a run may begin;
/// of a later run never an earlier time.
pub fn decide(
    timetable: &Timetable,
    catch_up: CatchUp,
    first: DateTime<Utc>,
    now: DateTime<Utc>,
    due: impl Fn(DateTime<Utc>) -> DateTime<Utc>,
) -> Decision {
    let (runs, has_older) = timetable.overdue(first, |run| due(run) <= now);
    let Some(last) = runs.last().copied() else { return Decision { skip: None, begin: None, next: Some(first) } };
    let begin = match catch_up {
        CatchUp::None => {
            Some(last).filter(|last| now - due(*last) <= TimeDelta::seconds(GRACE.as_secs().cast_signed()))
        }
        CatchUp::Last => Some(last),
        CatchUp::All => runs.first().copied(),
    };
    let skipped_until = match catch_up {
        // Everything before the run that begins, or everything.
        CatchUp::None | CatchUp::Last => match begin {
            Some(_) if runs.len() > 1 => Some(runs[runs.len() - 2]),
            Some(_) => None,
            None => Some(last),
        },
        // Those that are too many; which is the last of them is not worth a search.
        CatchUp::All if has_older => begin.map(|begin| begin - TimeDelta::seconds(1)),
        CatchUp::All => None,
    };
    let next = match (catch_up, runs.get(1)) {
        (CatchUp::All, Some(second)) => Some(*second),
        _ => timetable.next_after(last),
    };
    Decision { skip: skipped_until.map(|last| Skipped { first, last }), begin, next }
}

/// What is wrong with a schedule's name.
pub fn check_name(name: &str) -> Option<FieldError> {
    let fits = !name.trim().is_empty() && name.chars().count() <= MAX_NAME && !name.chars().any(char::is_control);
    let detail = format!("1 to {MAX_NAME} printable characters");
    (!fits).then(|| FieldError::new("/name", "invalid", detail))
}
