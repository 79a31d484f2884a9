//! Submitting, reading and stopping exports.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, Utc};
use tracing::{info, warn};

use super::{Caller, Error, Gateway, not_found};
use crate::{
    exports::{
        delivery,
        plan::EffectivePlan,
        problem::{Code, FieldError, Problem},
        record::{AttemptRecord, ConnectionRecord, DestinationRecord, EventRecord, ExportRecord, FileRecord},
        request::{Coalesce, Dataset, Delivery, ExportRequest, SubmitExport},
        state::{Event, Phase, State},
    },
    ids::{DestinationId, ExportId, ScheduleId},
    store,
    vendors::{Plan, VendorSpec, registry},
};

/// `Idempotency-Key` and what it stands for.
#[derive(Debug, Clone)]
pub struct Idempotency {
    pub key: String,
    /// SHA-256 of the canonical body.
    pub body_sha256: [u8; 32],
}

/// An accepted export.
#[derive(Debug)]
pub struct Submission {
    pub export: ExportRecord,
    /// An earlier request with the same key made it.
    pub replayed: bool,
}

/// An export and, once it has succeeded, its files.
#[derive(Debug, Clone)]
pub struct ExportWithFiles {
    pub export: ExportRecord,
    pub files: Vec<FileRecord>,
    /// While it waits for a slot: its place among those that wait for the same, from 1.
    pub queue_position: Option<i64>,
}

/// Filters of a list, newest first.
#[derive(Debug, Clone, Default)]
pub struct ListExports {
    pub state: Option<State>,
    pub connection: Option<String>,
    pub dataset: Option<Dataset>,
    pub created_after: Option<DateTime<Utc>>,
    pub created_before: Option<DateTime<Utc>>,
    pub labels: BTreeMap<String, String>,
    /// Ids smaller than this one only: where the last page ended.
    pub before: Option<ExportId>,
    pub page_size: i64,
}

/// Accepts an export. The caller's key and the export are written in one transaction.
pub async fn submit_export(
    gateway: &Gateway,
    caller: &Caller,
    body: SubmitExport,
    idempotency: Option<Idempotency>,
) -> Result<Submission, Error> {
    let mut tx = gateway.db.begin().await?;
    if let Some(Idempotency { key, body_sha256 }) = &idempotency {
        if !store::exports::try_lock_key(&mut *tx, &caller.tenant, &caller.subject, key).await? {
            return Err(Problem::new(
                Code::IdempotencyKeyInFlight,
                "a request with this key has not been answered yet",
            )
            .with_retry_after_secs(1)
            .into());
        }
        if let Some(earlier) = store::exports::key_use(&mut *tx, &caller.tenant, &caller.subject, key).await? {
            if earlier.body_sha256 != body_sha256 {
                return Err(Problem::new(Code::IdempotencyKeyReused, "this key came with another body before").into());
            }
            let export = store::exports::by_id(&mut *tx, &caller.tenant, earlier.export_id).await?;
            return Ok(Submission { export: export.ok_or_else(|| not_found("export"))?, replayed: true });
        }
    }
    let accepted = accept(gateway, &mut tx, caller, &body).await?;
    let export = insert(gateway, &mut tx, caller, &body, &accepted, None).await?;
    if let Some(Idempotency { key, body_sha256 }) = &idempotency {
        let (tenant, subject) = (&caller.tenant, &caller.subject);
        store::exports::insert_key(&mut *tx, tenant, subject, key, body_sha256, export.export_id).await?;
    }
    tx.commit().await?;
    // Nobody is notified of one more in a line; a worker of this process need not wait until it looks.
    gateway.hub.stir();
    info!(export.id = %export.export_id, connection = %export.connection, dataset = export.dataset.as_str(), "export accepted");
    Ok(Submission { export, replayed: false })
}

/// What `submit_export` would do, without doing it.
pub async fn plan_export(gateway: &Gateway, caller: &Caller, body: &SubmitExport) -> Result<Plan, Error> {
    let mut db = gateway.db.acquire().await?;
    plan_with(gateway, &mut db, caller, body).await
}

/// As [`plan_export`], within a transaction.
pub(super) async fn plan_with(
    gateway: &Gateway,
    db: &mut sqlx::PgConnection,
    caller: &Caller,
    body: &SubmitExport,
) -> Result<Plan, Error> {
    Ok(accept(gateway, db, caller, body).await?.plan)
}

/// Accepts an export as a run of a schedule would make it, in the transaction that moves the schedule on.
pub(super) async fn submit_scheduled(
    gateway: &Gateway,
    tx: &mut sqlx::PgConnection,
    caller: &Caller,
    body: &SubmitExport,
    run: (ScheduleId, DateTime<Utc>),
) -> Result<ExportRecord, Error> {
    let accepted = accept(gateway, tx, caller, body).await?;
    let export = insert(gateway, tx, caller, body, &accepted, None).await?;
    store::schedules::mark_export(tx, export.export_id, run.0, run.1).await?;
    Ok(export)
}

/// A request that passed every check.
struct Accepted {
    export_id: ExportId,
    destination: Option<(DestinationId, String)>,
    connection: ConnectionRecord,
    deadline: Duration,
    plan: Plan,
}

async fn accept(
    gateway: &Gateway,
    db: &mut sqlx::PgConnection,
    caller: &Caller,
    body: &SubmitExport,
) -> Result<Accepted, Error> {
    let deadline = body.deadline();
    let connection = if caller.may_use(&body.connection) {
        store::connections::by_name(&mut *db, &body.connection).await?
    } else {
        None
    };
    let Some(connection) = connection else {
        let detail = format!("there is no connection `{}` that this token may use", body.connection);
        let error = FieldError::new("/connection", "unknown_connection", detail.clone());
        return Err(Problem::new(Code::UnknownConnection, detail).with_errors(vec![error]).into());
    };
    let spec = registry::vendor(&connection.vendor)
        .ok_or_else(|| Problem::new(Code::ServiceUnavailable, "this version does not know the connection's vendor"))?;
    require_dataset(spec, body.dataset)?;
    let destination = match &body.delivery {
        Delivery::Gateway => None,
        Delivery::Destination { destination, .. } => Some(require_destination(db, destination).await?),
    };
    let request = ExportRequest::parse(body.dataset, &body.parameters, body.output);
    let export_id = ExportId::new();
    let path = delivery_path(body, &connection, caller, export_id);
    let (deadline, request, path) = match (deadline, request, path) {
        (Ok(deadline), Ok(request), Ok(path)) => (deadline, request, path),
        (deadline, request, path) => {
            let path = path.err().into_iter().collect();
            let errors = [deadline.err().unwrap_or_default(), request.err().unwrap_or_default(), path].concat();
            return Err(Problem::invalid(errors).into());
        }
    };
    let plan = gateway
        .adapter(spec, connection.settings.clone(), BTreeMap::new(), connection.mapping.0.clone())
        .and_then(|adapter| adapter.plan(&request))
        .map_err(Problem::invalid)?;
    let destination = destination.map(|destination| destination.destination_id).zip(path);
    Ok(Accepted { export_id, destination, connection, deadline, plan })
}

/// The destination, which is then not deleted before the transaction ends.
async fn require_destination(db: &mut sqlx::PgConnection, name: &str) -> Result<DestinationRecord, Error> {
    // Nothing can have such a name, and the database could not even be asked.
    let known = if name.contains('\0') { None } else { store::destinations::keep_by_name(db, name).await? };
    known.ok_or_else(|| {
        let detail = format!("there is no destination `{name}`");
        let error = FieldError::new("/delivery/destination", "unknown_destination", detail.clone());
        Problem::new(Code::UnknownDestination, detail).with_errors(vec![error]).into()
    })
}

/// The folder below the destination, if the result goes to one.
fn delivery_path(
    body: &SubmitExport,
    connection: &ConnectionRecord,
    caller: &Caller,
    export_id: ExportId,
) -> Result<Option<String>, FieldError> {
    let Delivery::Destination { prefix, .. } = &body.delivery else { return Ok(None) };
    let facts = delivery::Facts {
        id: export_id,
        dataset: body.dataset,
        connection: &connection.name,
        vendor: &connection.vendor,
        tenant: &caller.tenant,
        labels: &body.labels,
        accepted_at: Utc::now(),
    };
    delivery::render(prefix.as_deref().unwrap_or(delivery::DEFAULT_PREFIX), &facts)
        .map(Some)
        .map_err(|why| FieldError::new("/delivery/prefix", "invalid", why))
}

fn require_dataset(spec: &VendorSpec, dataset: Dataset) -> Result<(), Error> {
    let offers = |spec: &VendorSpec| spec.datasets.iter().any(|offered| offered.dataset == dataset);
    if offers(spec) {
        return Ok(());
    }
    let others: Vec<_> = registry::VENDORS.iter().filter(|spec| offers(spec)).map(|spec| spec.name).collect();
    let others = if others.is_empty() { "no vendor".to_owned() } else { others.join(", ") };
    let detail = format!("{} has no dataset `{}`; it is offered by: {others}", spec.name, dataset.as_str());
    let error = FieldError::new("/dataset", "dataset_not_supported", detail.clone());
    Err(Problem::new(Code::DatasetNotSupported, detail).with_errors(vec![error]).into())
}

/// Adds the export: with the files of a finished one, as a follower of a live one, or with work of its own.
async fn insert(
    gateway: &Gateway,
    tx: &mut sqlx::PgConnection,
    caller: &Caller,
    body: &SubmitExport,
    accepted: &Accepted,
    retry_of: Option<ExportId>,
) -> Result<ExportRecord, Error> {
    let plan = EffectivePlan {
        connection: &accepted.connection,
        dataset: body.dataset,
        parameters: &body.parameters,
        output: body.output,
    };
    let plan_sha256 = (body.coalesce == Coalesce::InFlight).then(|| plan.sha256());
    let finished = match plan_sha256 {
        Some(plan) if !body.max_age().is_zero() => {
            store::sharing::finished(&mut *tx, &plan, &caller.tenant, body.max_age()).await?
        }
        _ => None,
    };
    let live = match plan_sha256 {
        Some(plan) if finished.is_none() => {
            store::sharing::lock_plan_to_join(&mut *tx, &plan).await?;
            store::sharing::live(&mut *tx, &plan, &caller.tenant).await?
        }
        _ => None,
    };
    let work = finished.or(live);
    let new = store::exports::NewExport {
        export_id: accepted.export_id,
        tenant: &caller.tenant,
        created_by: &caller.subject,
        connection_id: accepted.connection.connection_id,
        connection: &accepted.connection.name,
        vendor: &accepted.connection.vendor,
        dataset: body.dataset,
        parameters: &body.parameters,
        output: body.output,
        delivery: &body.delivery,
        destination: accepted.destination.as_ref().map(|(id, _)| *id),
        delivery_path: accepted.destination.as_ref().map(|(_, path)| path.as_str()),
        labels: &body.labels,
        deadline: accepted.deadline,
        warnings: &accepted.plan.warnings,
        // Who waits for another's work stands in no queue.
        exclusive_key: accepted.plan.exclusive_key().filter(|_| work.is_none()),
        retry_of,
        priority: body.priority,
        plan_sha256: plan_sha256.as_ref().map(<[u8; 32]>::as_slice),
        follows: live.map(|live| live.by),
        run: work.map(|work| work.run),
        coalesced_with: work.and_then(|work| work.shown),
    };
    let export = store::exports::insert(&mut *tx, &new).await?;
    Ok(match (finished, live) {
        (Some(finished), _) => store::sharing::reuse(tx, export.export_id, finished.by, gateway.result_ttl).await?,
        (None, Some(_)) => store::sharing::join(tx, export.export_id).await?,
        (None, None) => export,
    })
}

/// One page, newest first, and whether more follow.
pub async fn list_exports(
    gateway: &Gateway,
    caller: &Caller,
    filter: &ListExports,
) -> Result<(Vec<ExportWithFiles>, bool), Error> {
    let page = store::exports::Page {
        tenant: &caller.tenant,
        state: filter.state,
        connection: filter.connection.as_deref(),
        dataset: filter.dataset,
        created_after: filter.created_after,
        created_before: filter.created_before,
        labels: &filter.labels,
        before: filter.before,
        limit: filter.page_size + 1,
    };
    let mut exports = store::exports::list(&gateway.db, &page).await?;
    let page_size = usize::try_from(filter.page_size).unwrap_or_default();
    let more = exports.len() > page_size;
    exports.truncate(page_size);
    Ok((with_files(gateway, exports).await?, more))
}

async fn with_files(gateway: &Gateway, exports: Vec<ExportRecord>) -> Result<Vec<ExportWithFiles>, Error> {
    let succeeded: Vec<_> =
        exports.iter().filter(|export| export.state == State::Succeeded).map(|export| export.export_id).collect();
    let mut files: BTreeMap<ExportId, Vec<FileRecord>> = BTreeMap::new();
    if !succeeded.is_empty() {
        for file in store::files::of_exports(&gateway.db, &succeeded).await? {
            files.entry(file.export_id).or_default().push(file);
        }
    }
    let waiting: Vec<_> = exports
        .iter()
        .filter(|export| export.phase == Some(Phase::WaitingForSlot))
        .map(|export| export.export_id)
        .collect();
    let mut positions = BTreeMap::new();
    if !waiting.is_empty() {
        positions.extend(store::slots::queue_positions(&gateway.db, &waiting).await?);
    }
    let own = |export: ExportRecord| {
        let files = files.remove(&export.export_id).unwrap_or_default();
        let queue_position = positions.remove(&export.export_id);
        ExportWithFiles { export, files, queue_position }
    };
    Ok(exports.into_iter().map(own).collect())
}

/// The export, in whatever state.
pub async fn get_export(gateway: &Gateway, caller: &Caller, id: ExportId) -> Result<ExportWithFiles, Error> {
    let export = read(gateway, caller, id).await?;
    with_files(gateway, vec![export]).await?.pop().ok_or_else(|| not_found("export"))
}

pub(super) async fn read(gateway: &Gateway, caller: &Caller, id: ExportId) -> Result<ExportRecord, Error> {
    gateway.reads.by_id(&caller.tenant, id).await?.ok_or_else(|| not_found("export"))
}

/// As [`get_export`], but holds the answer until `state` or `phase` differ from now, the export is finished, or
/// `timeout` is up.
pub async fn wait_for_change(
    gateway: &Gateway,
    caller: &Caller,
    id: ExportId,
    timeout: Duration,
) -> Result<ExportWithFiles, Error> {
    let mut watch = gateway.hub.watch(id);
    let first = read(gateway, caller, id).await?;
    watch.seen(first.version);
    let changed = async {
        let mut export = first.clone();
        while !export.state.is_final() && (export.state, export.phase) == (first.state, first.phase) {
            watch.changed().await;
            export = read(gateway, caller, id).await?;
            watch.seen(export.version);
        }
        Ok::<_, Error>(())
    };
    if let Ok(result) = tokio::time::timeout(timeout, changed).await {
        result?;
    }
    get_export(gateway, caller, id).await
}

/// Asks for the export to stop. Answers the export: `cancelling`, or `cancelled` when it already was.
/// Refused with `export_already_finished` when it succeeded or failed.
pub async fn cancel_export(gateway: &Gateway, caller: &Caller, id: ExportId) -> Result<ExportRecord, Error> {
    let mut tx = gateway.db.begin().await?;
    if let Some(plan) = store::sharing::plan_of(&mut *tx, &caller.tenant, id).await? {
        store::sharing::lock_plan(&mut *tx, &plan).await?;
    }
    let export = store::exports::lock(&mut *tx, &caller.tenant, id).await?.ok_or_else(|| not_found("export"))?;
    if matches!(export.state, State::Cancelled | State::Cancelling) {
        return Ok(export);
    }
    let Ok(transition) = export.state.transition(Event::CancelRequested) else {
        let detail = format!("the export has {} already", export.state.as_str());
        return Err(Problem::new(Code::ExportAlreadyFinished, detail).into());
    };
    // Others that wait for its work go on with it at once.
    let is_free = store::sharing::hand_on(&mut tx, id).await?.is_some();
    let export = store::exports::request_cancel(&mut *tx, id, transition, is_free).await?;
    tx.commit().await?;
    info!(export.id = %id, "cancellation requested");
    Ok(export)
}

/// A new export with the same request as a finished one. Refused with `export_not_finished`.
pub async fn retry_export(gateway: &Gateway, caller: &Caller, id: ExportId) -> Result<ExportRecord, Error> {
    let old = read(gateway, caller, id).await?;
    require_finished(&old)?;
    let life = (old.deadline_at - old.created_at).num_seconds();
    let body = SubmitExport {
        connection: old.connection,
        dataset: old.dataset,
        parameters: old.parameters,
        output: old.output.0,
        delivery: old.delivery.0,
        labels: old.labels.0,
        deadline: Some(format!("PT{life}S")),
        priority: old.priority,
        coalesce: Coalesce::default(),
        max_age: None,
    };
    let mut tx = gateway.db.begin().await?;
    let accepted = accept(gateway, &mut tx, caller, &body).await?;
    let export = insert(gateway, &mut tx, caller, &body, &accepted, Some(id)).await?;
    tx.commit().await?;
    Ok(export)
}

fn require_finished(export: &ExportRecord) -> Result<(), Error> {
    if export.state.is_final() {
        return Ok(());
    }
    let detail = format!("the export is {}", export.state.as_str());
    Err(Problem::new(Code::ExportNotFinished, detail).with_retry_after_secs(2).into())
}

/// Deletes the files of a finished export; a second time is fine. Refused with `export_not_finished`.
pub async fn delete_export(gateway: &Gateway, caller: &Caller, id: ExportId) -> Result<(), Error> {
    let mut tx = gateway.db.begin().await?;
    let export = store::exports::lock(&mut *tx, &caller.tenant, id).await?.ok_or_else(|| not_found("export"))?;
    require_finished(&export)?;
    store::exports::mark_deleted(&mut *tx, id).await?;
    tx.commit().await?;
    info!(export.id = %id, "result deleted");
    // The mark hides the files at once; what cannot be removed now is removed by the sweep.
    if let Err(error) = super::files::remove(gateway, id).await {
        warn!(export.id = %id, error = %error, "the files of a deleted result could not be removed yet");
    }
    Ok(())
}

/// The transitions after the one numbered `after`, oldest first.
pub async fn list_events(
    gateway: &Gateway,
    caller: &Caller,
    id: ExportId,
    after: i64,
) -> Result<Vec<EventRecord>, Error> {
    read(gateway, caller, id).await?;
    Ok(store::exports::events(&gateway.db, id, after).await?)
}

/// The vendor exchanges, oldest first.
pub async fn list_attempts(gateway: &Gateway, caller: &Caller, id: ExportId) -> Result<Vec<AttemptRecord>, Error> {
    read(gateway, caller, id).await?;
    Ok(store::exports::attempts(&gateway.db, id).await?)
}
