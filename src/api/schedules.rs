//! `/v1/schedules`: exports that are asked for again and again.

use actix_web::{HttpRequest, HttpResponse, delete, get, http::header::LOCATION, patch, post, web};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    body,
    caller::{Authorized, SchedulesRead, SchedulesWrite},
    paging,
    problem::{Answer, ApiError},
    query::Query,
    responses::{Absent, BadBody, BadQuery, Denied, NameInUse},
    vendors::duration,
};
use crate::{
    exports::{
        parameters::Window,
        problem::Problem,
        schedule::{CatchUp, RunOutcome, RunRecord, SkipReason},
        state::State,
    },
    ids::{ExportId, ScheduleId},
    operations::{
        Gateway,
        schedules::{self as operation, ChangeSchedule, NewSchedule, Schedule, Upcoming},
    },
};

/// An export that is asked for again and again.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Schedule)]
pub struct ScheduleView {
    #[schema(value_type = String, example = "sch_019a5b6c7d8e7f00a1b2c3d4e5f6071b")]
    pub id: ScheduleId,
    #[schema(example = "Events of yesterday")]
    pub name: String,
    #[schema(example = "30 6 * * *")]
    pub cron: String,
    #[schema(example = "Asia/Shanghai")]
    pub time_zone: String,
    /// The body of `POST /v1/exports`, as it was sent.
    #[schema(value_type = Object)]
    pub export: Value,
    /// ISO 8601 duration, in force: runs begin no earlier after the end of their window.
    #[schema(example = "PT6H")]
    pub not_before: String,
    pub catch_up: CatchUp,
    pub paused: bool,
    /// The next five; none while it is paused.
    pub next_runs: Vec<UpcomingView>,
    #[schema(required = true)]
    pub last_run: Option<RunView>,
    /// Why the last run could not begin; null once one could.
    #[schema(required = true)]
    pub last_error: Option<Problem>,
    /// How many runs in a row could not begin.
    #[schema(example = 0)]
    pub failures: i32,
    /// The subject of the token that made it.
    #[schema(example = "crm-sync")]
    pub created_by: String,
    /// The subject that its exports are made as, with the connections that its token granted: whoever set `export` last.
    #[schema(example = "crm-sync")]
    pub runs_as: String,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

/// A run to come.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = UpcomingRun)]
pub struct UpcomingView {
    /// As the cron line says it.
    pub run_at: DateTime<Utc>,
    /// When its data is expected to be there; it begins no earlier.
    pub begins_at: DateTime<Utc>,
    /// What a relative window is then; null when there is none.
    #[schema(required = true)]
    pub window: Option<Window>,
}

/// What became of a run, or of several that were skipped together.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ScheduleRun)]
pub struct RunView {
    /// As the cron line says it.
    pub run_at: DateTime<Utc>,
    /// Of runs that were skipped together, the end; else the same as `run_at`.
    pub through: DateTime<Utc>,
    pub outcome: RunOutcome,
    /// When that was decided.
    pub at: DateTime<Utc>,
    /// What it became.
    #[schema(required = true, value_type = Option<String>, example = "exp_019a5b6c7d8e7f00a1b2c3d4e5f60718")]
    pub export_id: Option<ExportId>,
    /// Of its export, now.
    #[schema(required = true)]
    pub state: Option<State>,
    /// Why it was skipped.
    #[schema(required = true)]
    pub reason: Option<SkipReason>,
    /// Why it could not begin.
    #[schema(required = true)]
    pub error: Option<Problem>,
}

/// One page of schedules, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct ScheduleList {
    pub data: Vec<ScheduleView>,
    /// Give it back as `page_token` for the next page; empty on the last.
    pub next_page_token: String,
}

/// One page of runs, latest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct ScheduleRunList {
    pub data: Vec<RunView>,
    /// Give it back as `page_token` for the next page; empty on the last.
    pub next_page_token: String,
}

/// A new schedule.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateSchedule {
    /// Unlike those of your tenant's other schedules.
    #[schema(max_length = 120, example = "Events of yesterday")]
    name: String,
    /// Five fields: minute, hour, day of the month, month, day of the week (0 is Sunday); also `@daily` and the like, `L`,
    /// `W` and `#`.
    #[schema(max_length = 255, example = "30 6 * * *")]
    cron: String,
    /// A name of the IANA time zone database. Cron line and relative windows are read in it.
    #[serde(default = "utc")]
    #[schema(default = "UTC", example = "Asia/Shanghai")]
    time_zone: String,
    /// The body of `POST /v1/exports`. `parameters.window` can also be `last_hour`, `last_<n>_hours`, `yesterday`,
    /// `last_<n>_days`, `last_week` or `last_month`: it ends with the last whole one before the run.
    #[schema(value_type = Object)]
    export: Value,
    /// ISO 8601 duration, at most `P7D`: how long after the end of its window (without a relative window: after its own time)
    /// a run begins at the earliest. Unless given, what the vendor's documents say: `ready_after` of `GET /v1/vendors`.
    #[serde(default)]
    #[schema(example = "PT6H")]
    not_before: Option<String>,
    #[serde(default)]
    catch_up: CatchUp,
    /// Begins as paused.
    #[serde(default)]
    paused: bool,
}

fn utc() -> String {
    "UTC".into()
}

/// What is to be different; what is left out stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeScheduleBody {
    #[serde(default)]
    #[schema(nullable = false, max_length = 120)]
    name: Option<String>,
    #[serde(default)]
    #[schema(nullable = false, max_length = 255)]
    cron: Option<String>,
    #[serde(default)]
    #[schema(nullable = false)]
    time_zone: Option<String>,
    /// The whole body. Whoever sets it is whom the runs are made as.
    #[serde(default)]
    #[schema(value_type = Object, required = false)]
    export: Option<Value>,
    /// `null`: what the vendor's documents say.
    #[serde(default, deserialize_with = "some")]
    #[schema(value_type = Option<String>)]
    #[expect(clippy::option_option, reason = "left out, null and a duration are three things")]
    not_before: Option<Option<String>>,
    #[serde(default)]
    #[schema(nullable = false)]
    catch_up: Option<CatchUp>,
    #[serde(default)]
    #[schema(nullable = false)]
    paused: Option<bool>,
}

/// A member that is there, be it null.
fn some<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// Create a schedule
///
/// Each run is an export as you would submit it yourself, with the connections that your token grants now; so the token
/// needs `exports:write` too. One run lives at a time: what becomes of those that would begin meanwhile says `catch_up`.
#[utoipa::path(
    tag = "schedules",
    security(("bearer" = ["schedules:write", "exports:write"])),
    request_body = CreateSchedule,
    responses(
        (status = 201, description = "Created.", body = ScheduleView, headers(
            ("Location" = String, description = "Where the schedule is."),
        )),
        BadBody, Denied, NameInUse,
    ),
)]
#[post("/v1/schedules")]
pub async fn create_schedule(
    caller: Authorized<SchedulesWrite>,
    gateway: web::Data<Gateway>,
    request: HttpRequest,
    payload: web::Payload,
) -> Answer {
    let CreateSchedule { name, cron, time_zone, export, not_before, catch_up, paused } =
        body::fields(body::read_json(&request, payload).await?)?;
    let new = NewSchedule { name, cron, time_zone, export, not_before, catch_up, paused };
    let schedule = operation::create_schedule(&gateway, &caller, new).await?;
    let at = format!("/v1/schedules/{}", schedule.record.schedule_id);
    Ok(HttpResponse::Created().insert_header((LOCATION, at)).json(view(schedule)))
}

/// List schedules
///
/// Your tenant's, newest first.
#[utoipa::path(
    tag = "schedules",
    security(("bearer" = ["schedules:read"])),
    params(
        ("page_size" = Option<i64>, Query, minimum = 1, description = "How many at most: 50 unless given; more than 200 counts as 200."),
        ("page_token" = Option<String>, Query, description = "`next_page_token` of the page before."),
    ),
    responses((status = 200, description = "One page.", body = ScheduleList), BadQuery, Denied),
)]
#[get("/v1/schedules")]
pub async fn list_schedules(
    caller: Authorized<SchedulesRead>,
    gateway: web::Data<Gateway>,
    request: HttpRequest,
) -> Answer {
    let query = Query::read(&request, &["page_size", "page_token"])?;
    let (before, size) = (paging::before(&query)?.map(ScheduleId), paging::size(&query)?);
    let (schedules, more) = operation::list_schedules(&gateway, &caller, before, size).await?;
    let last = schedules.last().filter(|_| more).map(|last| last.record.schedule_id.0);
    Ok(HttpResponse::Ok().json(ScheduleList {
        data: schedules.into_iter().map(view).collect(),
        next_page_token: last.map_or_else(String::new, paging::token),
    }))
}

/// Read a schedule
#[utoipa::path(
    tag = "schedules",
    security(("bearer" = ["schedules:read"])),
    params(("id" = String, Path, description = "The schedule's id.")),
    responses((status = 200, description = "The schedule.", body = ScheduleView), Absent, Denied),
)]
#[get("/v1/schedules/{id}")]
pub async fn get_schedule(
    caller: Authorized<SchedulesRead>,
    gateway: web::Data<Gateway>,
    path: web::Path<String>,
) -> Answer {
    let schedule = operation::get_schedule(&gateway, &caller, schedule_id(&path)?).await?;
    Ok(HttpResponse::Ok().json(view(schedule)))
}

/// Change a schedule
///
/// With a new cron line or time zone it goes on with the next run from now. To set `export` the token needs
/// `exports:write`, and whatever the export itself needs.
#[utoipa::path(
    tag = "schedules",
    security(("bearer" = ["schedules:write"])),
    params(("id" = String, Path, description = "The schedule's id.")),
    request_body = ChangeScheduleBody,
    responses((status = 200, description = "Changed.", body = ScheduleView), BadBody, Absent, Denied, NameInUse),
)]
#[patch("/v1/schedules/{id}")]
pub async fn change_schedule(
    caller: Authorized<SchedulesWrite>,
    gateway: web::Data<Gateway>,
    request: HttpRequest,
    payload: web::Payload,
    path: web::Path<String>,
) -> Answer {
    let id = schedule_id(&path)?;
    let ChangeScheduleBody { name, cron, time_zone, export, not_before, catch_up, paused } =
        body::fields(body::read_json(&request, payload).await?)?;
    let change = ChangeSchedule { name, cron, time_zone, export, not_before, catch_up, paused };
    let schedule = operation::change_schedule(&gateway, &caller, id, change).await?;
    Ok(HttpResponse::Ok().json(view(schedule)))
}

/// Delete a schedule
///
/// With its history. Its exports stay, also one that is running.
#[utoipa::path(
    tag = "schedules",
    security(("bearer" = ["schedules:write"])),
    params(("id" = String, Path, description = "The schedule's id.")),
    responses((status = 204, description = "It is gone."), Absent, Denied),
)]
#[delete("/v1/schedules/{id}")]
pub async fn delete_schedule(
    caller: Authorized<SchedulesWrite>,
    gateway: web::Data<Gateway>,
    path: web::Path<String>,
) -> Answer {
    operation::delete_schedule(&gateway, &caller, schedule_id(&path)?).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Pause a schedule
///
/// No run begins until it is resumed; a live one goes on. Runs of the time between are not caught up. Pausing twice is fine.
#[utoipa::path(
    tag = "schedules",
    security(("bearer" = ["schedules:write"])),
    params(("id" = String, Path, description = "The schedule's id.")),
    responses((status = 200, description = "It is paused.", body = ScheduleView), Absent, Denied),
)]
#[post("/v1/schedules/{id}/pause")]
pub async fn pause_schedule(
    caller: Authorized<SchedulesWrite>,
    gateway: web::Data<Gateway>,
    path: web::Path<String>,
) -> Answer {
    set_paused(&caller, &gateway, &path, true).await
}

/// Resume a schedule
///
/// It goes on with the next run from now.
#[utoipa::path(
    tag = "schedules",
    security(("bearer" = ["schedules:write"])),
    params(("id" = String, Path, description = "The schedule's id.")),
    responses((status = 200, description = "It runs again.", body = ScheduleView), Absent, Denied),
)]
#[post("/v1/schedules/{id}/resume")]
pub async fn resume_schedule(
    caller: Authorized<SchedulesWrite>,
    gateway: web::Data<Gateway>,
    path: web::Path<String>,
) -> Answer {
    set_paused(&caller, &gateway, &path, false).await
}

async fn set_paused(caller: &Authorized<SchedulesWrite>, gateway: &Gateway, path: &str, paused: bool) -> Answer {
    let change = ChangeSchedule { paused: Some(paused), ..ChangeSchedule::default() };
    let schedule = operation::change_schedule(gateway, caller, schedule_id(path)?, change).await?;
    Ok(HttpResponse::Ok().json(view(schedule)))
}

/// List the runs of a schedule
///
/// What became of each, latest first: the export it began, why it was skipped, or why it could not begin. Kept for 90 days.
#[utoipa::path(
    tag = "schedules",
    security(("bearer" = ["schedules:read"])),
    params(
        ("id" = String, Path, description = "The schedule's id."),
        ("page_size" = Option<i64>, Query, minimum = 1, description = "How many at most: 50 unless given; more than 200 counts as 200."),
        ("page_token" = Option<String>, Query, description = "`next_page_token` of the page before."),
    ),
    responses((status = 200, description = "One page.", body = ScheduleRunList), BadQuery, Absent, Denied),
)]
#[get("/v1/schedules/{id}/runs")]
pub async fn list_runs(
    caller: Authorized<SchedulesRead>,
    gateway: web::Data<Gateway>,
    request: HttpRequest,
    path: web::Path<String>,
) -> Answer {
    let query = Query::read(&request, &["page_size", "page_token"])?;
    let before = query.text("page_token").map(from_token).transpose()?;
    let id = schedule_id(&path)?;
    let (runs, more) = operation::list_runs(&gateway, &caller, id, before, paging::size(&query)?).await?;
    let last = runs.last().filter(|_| more).map(|last| token(last.run_at));
    Ok(HttpResponse::Ok().json(ScheduleRunList {
        data: runs.into_iter().map(RunView::from).collect(),
        next_page_token: last.unwrap_or_default(),
    }))
}

/// Opaque to callers: where a page of runs ended.
fn token(last: DateTime<Utc>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(last.timestamp_micros().to_be_bytes())
}

fn from_token(token: &str) -> Result<DateTime<Utc>, ApiError> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(token).ok();
    let micros = bytes.and_then(|bytes| bytes.try_into().ok()).map(i64::from_be_bytes);
    micros
        .and_then(DateTime::from_timestamp_micros)
        .ok_or_else(|| ApiError::malformed("`page_token` is not one that a page gave"))
}

/// The id in a path. What is no id names nothing.
fn schedule_id(text: &str) -> Result<ScheduleId, ApiError> {
    text.parse().map_err(|_| ApiError::not_found("schedule"))
}

/// The schedule as its tenant sees it.
pub fn view(schedule: Schedule) -> ScheduleView {
    let Schedule { record, not_before, upcoming, last_run } = schedule;
    let upcoming = upcoming.into_iter().map(|run| {
        let Upcoming { run_at, begins_at, window } = run;
        UpcomingView { run_at, begins_at, window }
    });
    ScheduleView {
        id: record.schedule_id,
        name: record.name,
        cron: record.cron,
        time_zone: record.time_zone,
        export: record.export,
        not_before: duration(not_before),
        catch_up: record.catch_up,
        paused: record.paused_at.is_some(),
        next_runs: upcoming.collect(),
        last_run: last_run.map(RunView::from),
        last_error: record.last_error.map(|error| error.0),
        failures: record.failures,
        created_by: record.created_by,
        runs_as: record.runs_as,
        created_at: record.created_at,
        updated_at: record.updated_at,
    }
}

impl From<RunRecord> for RunView {
    fn from(run: RunRecord) -> Self {
        let RunRecord { run_at, through, outcome, at, export_id, state, reason, error, .. } = run;
        Self { run_at, through, outcome, at, export_id, state, reason, error: error.map(|error| error.0) }
    }
}
