//! Schedules: a tenant's own. Their runs are made by [`runs`](super::runs).

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use glob::Pattern;
use serde_json::Value;
use tracing::info;

use super::{Caller, Error, Gateway, exports, not_found};
use crate::{
    exports::{
        parameters::{Parameters, Window},
        problem::{Code, FieldError, Problem},
        request::{SubmitExport, from_json, parse_duration},
        schedule::{CatchUp, MAX_NOT_BEFORE, Release, RunRecord, ScheduleRecord, Timetable, check_name},
        windows::{RelativeWindow, fill},
    },
    ids::ScheduleId,
    store,
    vendors::registry,
};

/// The most schedules that a tenant can have.
const MAX_SCHEDULES: i64 = 1000;
/// How many runs to come are shown.
const UPCOMING: usize = 5;
/// Who has it can make exports, and so can make a schedule do so.
const EXPORTS_WRITE: &str = "exports:write";

/// A schedule as its owner sees it.
#[derive(Debug)]
pub struct Schedule {
    pub record: ScheduleRecord,
    /// In force: as was sent, or as is known of the dataset.
    pub not_before: Duration,
    /// The runs to come; none while it is paused.
    pub upcoming: Vec<Upcoming>,
    pub last_run: Option<RunRecord>,
}

/// A run to come.
#[derive(Debug)]
pub struct Upcoming {
    pub run_at: DateTime<Utc>,
    /// Not earlier.
    pub begins_at: DateTime<Utc>,
    /// What a relative window is then.
    pub window: Option<Window>,
}

/// What is wanted of a new schedule.
pub struct NewSchedule {
    pub name: String,
    pub cron: String,
    pub time_zone: String,
    pub export: Value,
    pub not_before: Option<String>,
    pub catch_up: CatchUp,
    pub paused: bool,
}

/// What is to be different; what is `None` stays.
#[derive(Default)]
pub struct ChangeSchedule {
    pub name: Option<String>,
    pub cron: Option<String>,
    pub time_zone: Option<String>,
    pub export: Option<Value>,
    /// `Some(None)`: what is known of the dataset.
    pub not_before: Option<Option<String>>,
    pub catch_up: Option<CatchUp>,
    pub paused: Option<bool>,
}

/// Adds a schedule. Its runs are made as the caller would make them, with the connections that the caller's token grants
/// now. Refused with `name_taken`, and as a submission of the export would be.
pub async fn create_schedule(gateway: &Gateway, caller: &Caller, new: NewSchedule) -> Result<Schedule, Error> {
    let now = Utc::now();
    let NewSchedule { name, cron, time_zone, export, not_before, catch_up, paused } = new;
    let mut record = ScheduleRecord {
        schedule_id: ScheduleId::new(),
        tenant: caller.tenant.clone(),
        name,
        created_by: caller.subject.clone(),
        runs_as: String::new(),
        connections: Vec::new(),
        cron,
        time_zone,
        export: Value::Null,
        not_before,
        catch_up,
        paused_at: paused.then_some(now),
        next_run_at: None,
        due_at: None,
        last_error: None,
        failures: 0,
        created_at: now,
        updated_at: now,
    };
    let mut tx = gateway.db.begin().await?;
    let timetable = check(&record)?;
    set_export(gateway, &mut tx, caller, &mut record, &timetable, export).await?;
    store::schedules::lock_tenant(&mut *tx, &caller.tenant).await?;
    if store::schedules::count(&mut *tx, &caller.tenant).await? >= MAX_SCHEDULES {
        let detail = format!("a tenant has at most {MAX_SCHEDULES} schedules; delete one that is not needed");
        return Err(Problem::invalid(vec![FieldError::new("", "too_many", detail)]).into());
    }
    require_free_name(&mut tx, &record).await?;
    start_over(&mut tx, &mut record, &timetable, now).await?;
    let record = store::schedules::insert(&mut *tx, &record).await?;
    tx.commit().await?;
    info!(schedule.id = %record.schedule_id, "schedule created");
    shown_one(gateway, record).await
}

/// One page of the tenant's schedules, newest first, and whether more follow.
pub async fn list_schedules(
    gateway: &Gateway,
    caller: &Caller,
    before: Option<ScheduleId>,
    page_size: i64,
) -> Result<(Vec<Schedule>, bool), Error> {
    let mut found = store::schedules::list(&gateway.db, &caller.tenant, before, page_size + 1).await?;
    let more = super::cut_page(&mut found, page_size);
    Ok((shown(gateway, found).await?, more))
}

/// The tenant's schedule.
pub async fn get_schedule(gateway: &Gateway, caller: &Caller, id: ScheduleId) -> Result<Schedule, Error> {
    shown_one(gateway, read(gateway, caller, id).await?).await
}

async fn read(gateway: &Gateway, caller: &Caller, id: ScheduleId) -> Result<ScheduleRecord, Error> {
    store::schedules::by_id(&gateway.db, &caller.tenant, id).await?.ok_or_else(no_schedule)
}

fn no_schedule() -> Error {
    not_found("schedule")
}

/// Changes a schedule. Whoever sets the export is whom the runs are made as from then on, so nobody reaches through it what
/// their own token does not. A new cron line or time zone, or an end of a pause, begins with the next run from now.
pub async fn change_schedule(
    gateway: &Gateway,
    caller: &Caller,
    id: ScheduleId,
    change: ChangeSchedule,
) -> Result<Schedule, Error> {
    let mut tx = gateway.db.begin().await?;
    store::schedules::lock_tenant(&mut *tx, &caller.tenant).await?;
    let mut record = store::schedules::lock(&mut *tx, &caller.tenant, id).await?.ok_or_else(no_schedule)?;
    // Clocks differ; what has run must not run again.
    let now = store::schedules::dealt_with_until(&mut *tx, id).await?;
    let is_new_time = change.cron.as_ref().is_some_and(|cron| *cron != record.cron)
        || change.time_zone.as_ref().is_some_and(|zone| *zone != record.time_zone)
        || (change.paused == Some(false) && record.paused_at.is_some());
    let ChangeSchedule { name, cron, time_zone, export, not_before, catch_up, paused } = change;
    record.name = name.unwrap_or(record.name);
    record.cron = cron.unwrap_or(record.cron);
    record.time_zone = time_zone.unwrap_or(record.time_zone);
    record.not_before = not_before.unwrap_or(record.not_before);
    record.catch_up = catch_up.unwrap_or(record.catch_up);
    record.paused_at = match paused {
        Some(true) => record.paused_at.or(Some(now)),
        Some(false) => None,
        None => record.paused_at,
    };
    let timetable = check(&record)?;
    if let Some(export) = export {
        set_export(gateway, &mut tx, caller, &mut record, &timetable, export).await?;
        (record.last_error, record.failures) = (None, 0);
    }
    require_free_name(&mut tx, &record).await?;
    let from = if is_new_time { None } else { record.next_run_at };
    match from {
        Some(next) => set_due(&mut tx, &mut record, &timetable, Some(next)).await?,
        None => start_over(&mut tx, &mut record, &timetable, now).await?,
    }
    let record = store::schedules::update(&mut *tx, &record).await?;
    tx.commit().await?;
    info!(schedule.id = %id, "schedule changed");
    shown_one(gateway, record).await
}

/// Deletes a schedule. Its exports stay, also one that is running.
pub async fn delete_schedule(gateway: &Gateway, caller: &Caller, id: ScheduleId) -> Result<(), Error> {
    if !store::schedules::delete(&gateway.db, &caller.tenant, id).await? {
        return Err(no_schedule());
    }
    info!(schedule.id = %id, "schedule deleted");
    Ok(())
}

/// What became of a schedule's runs, latest first, and whether more follow.
pub async fn list_runs(
    gateway: &Gateway,
    caller: &Caller,
    id: ScheduleId,
    before: Option<DateTime<Utc>>,
    page_size: i64,
) -> Result<(Vec<RunRecord>, bool), Error> {
    read(gateway, caller, id).await?;
    let mut runs = store::schedules::runs(&gateway.db, id, before, page_size + 1).await?;
    let more = super::cut_page(&mut runs, page_size);
    Ok((runs, more))
}

/// Checks what needs no knowledge of the export.
fn check(record: &ScheduleRecord) -> Result<Timetable, Error> {
    let mut errors: Vec<_> = check_name(&record.name).into_iter().collect();
    if record.not_before.as_deref().is_some_and(|text| parse_duration(text).is_none_or(|wait| wait > MAX_NOT_BEFORE)) {
        errors.push(FieldError::new("/not_before", "invalid", "an ISO 8601 duration such as PT1H, at most P7D"));
    }
    match Timetable::parse(&record.cron, &record.time_zone) {
        Ok(timetable) if timetable.next_after(Utc::now()).is_none() => {
            errors.push(FieldError::new("/cron", "invalid", "this never comes"));
            Err(Problem::invalid(errors).into())
        }
        Ok(timetable) if errors.is_empty() => Ok(timetable),
        timetable => {
            errors.extend(timetable.err().unwrap_or_default());
            Err(Problem::invalid(errors).into())
        }
    }
}

/// Sets the export, if the caller could submit it now.
async fn set_export(
    gateway: &Gateway,
    tx: &mut sqlx::PgConnection,
    caller: &Caller,
    record: &mut ScheduleRecord,
    timetable: &Timetable,
    export: Value,
) -> Result<(), Error> {
    if !caller.has_scope(EXPORTS_WRITE) {
        let detail = format!("the runs of a schedule are exports, so the token needs the scope `{EXPORTS_WRITE}` too");
        return Err(Problem::new(Code::Forbidden, detail).into());
    }
    let mut body: SubmitExport = from_json(export, "/export").map_err(|error| Problem::invalid(vec![error]))?;
    record.export = serde_json::to_value(&body).unwrap_or_default();
    let (parameters, _) = fill(&body.parameters, Utc::now(), timetable.zone())
        .map_err(|error| Problem::invalid(vec![within_export(error)]))?;
    body.parameters = parameters;
    exports::plan_with(gateway, tx, caller, &body).await.map_err(|error| match error {
        Error::Refused(problem) => {
            let errors = problem.errors.iter().cloned().map(within_export).collect();
            problem.with_errors(errors).into()
        }
        error => error,
    })?;
    record.runs_as.clone_from(&caller.subject);
    record.connections = caller.connections.iter().map(|pattern| pattern.as_str().to_owned()).collect();
    Ok(())
}

fn within_export(error: FieldError) -> FieldError {
    FieldError { pointer: format!("/export{}", error.pointer), ..error }
}

async fn require_free_name(tx: &mut sqlx::PgConnection, record: &ScheduleRecord) -> Result<(), Error> {
    if !store::schedules::is_name_taken(tx, &record.tenant, &record.name, record.schedule_id).await? {
        return Ok(());
    }
    let detail = format!("there is a schedule `{}` already", record.name);
    let error = FieldError::new("/name", "taken", detail.clone());
    Err(Problem::new(Code::NameTaken, detail).with_errors(vec![error]).into())
}

/// Begins with the next run from now.
async fn start_over(
    tx: &mut sqlx::PgConnection,
    record: &mut ScheduleRecord,
    timetable: &Timetable,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    set_due(tx, record, timetable, timetable.next_after(now)).await
}

async fn set_due(
    tx: &mut sqlx::PgConnection,
    record: &mut ScheduleRecord,
    timetable: &Timetable,
    next: Option<DateTime<Utc>>,
) -> Result<(), Error> {
    let connection = connection_of(&record.export);
    let vendor = store::connections::by_name(tx, connection).await?.map(|connection| connection.vendor);
    let release = release(record, timetable, vendor.as_deref());
    record.next_run_at = next;
    record.due_at = next.filter(|_| record.paused_at.is_none()).map(|next| release.of(next));
    Ok(())
}

pub(super) fn connection_of(export: &Value) -> &str {
    export["connection"].as_str().unwrap_or_default()
}

/// When the runs of a schedule may begin. `vendor` is that of its connection, if there is one.
pub(super) fn release(record: &ScheduleRecord, timetable: &Timetable, vendor: Option<&str>) -> Release {
    let window = record.export["parameters"]["window"].as_str().and_then(|words| words.parse::<RelativeWindow>().ok());
    let not_before = match record.not_before.as_deref().and_then(parse_duration) {
        Some(said) => said,
        // Without a window there is nothing that could not be there yet.
        None if window.is_none() => Duration::ZERO,
        None => known_latency(record, timetable, vendor).unwrap_or_default(),
    };
    let not_before = TimeDelta::from_std(not_before).unwrap_or_default();
    Release { window, zone: timetable.zone(), not_before }
}

/// What the vendor's documents say of the dataset.
fn known_latency(record: &ScheduleRecord, timetable: &Timetable, vendor: Option<&str>) -> Option<Duration> {
    let body: SubmitExport = from_json(record.export.clone(), "").ok()?;
    let (parameters, _) = fill(&body.parameters, Utc::now(), timetable.zone()).ok()?;
    let parameters = Parameters::parse(body.dataset, &parameters).ok()?;
    let spec = registry::vendor(vendor?)?.datasets.iter().find(|spec| spec.dataset == body.dataset)?;
    Some(spec.ready_after.of(&parameters))
}

/// Whom the runs of a schedule are made as.
pub(super) fn maker(record: &ScheduleRecord) -> Caller {
    Caller {
        subject: record.runs_as.clone(),
        tenant: record.tenant.clone(),
        scopes: Vec::new(),
        connections: record.connections.iter().filter_map(|pattern| Pattern::new(pattern).ok()).collect(),
    }
}

async fn shown_one(gateway: &Gateway, record: ScheduleRecord) -> Result<Schedule, Error> {
    shown(gateway, vec![record]).await?.pop().ok_or_else(no_schedule)
}

async fn shown(gateway: &Gateway, records: Vec<ScheduleRecord>) -> Result<Vec<Schedule>, Error> {
    let ids: Vec<_> = records.iter().map(|record| record.schedule_id).collect();
    let last_runs = store::schedules::last_runs(&gateway.db, &ids).await?;
    let mut last_runs: BTreeMap<_, _> = last_runs.into_iter().map(|run| (run.schedule_id, run)).collect();
    let connections = store::connections::list(&gateway.db).await?;
    let vendors: BTreeMap<_, _> =
        connections.iter().map(|connection| (connection.name.as_str(), connection.vendor.as_str())).collect();
    let own = |record: ScheduleRecord| {
        let vendor = vendors.get(connection_of(&record.export)).copied();
        let last_run = last_runs.remove(&record.schedule_id);
        let (mut not_before, mut upcoming) = (Duration::ZERO, Vec::new());
        // Time zones of other versions may be unknown to this one.
        if let Ok(timetable) = Timetable::parse(&record.cron, &record.time_zone) {
            let release = release(&record, &timetable, vendor);
            not_before = release.not_before.to_std().unwrap_or_default();
            let first = record.next_run_at.filter(|_| record.paused_at.is_none());
            let runs = std::iter::successors(first, |run| timetable.next_after(*run)).take(UPCOMING);
            upcoming.extend(runs.map(|run_at| Upcoming {
                run_at,
                begins_at: release.of(run_at),
                window: release.window.and_then(|window| window.resolve(run_at, release.zone)),
            }));
        }
        Schedule { record, not_before, upcoming, last_run }
    };
    Ok(records.into_iter().map(own).collect())
}
