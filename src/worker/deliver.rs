//! The last step of an export that goes to a destination: its files lie in the gateway's own store and are named, so
//! nothing is asked of the vendor or converted again, however often the copying begins anew.

use chrono::Utc;
use tracing::{info, warn};

use super::{
    hold::Interrupt,
    settle::{self, Stop},
    step::Step,
    transfer,
};
use crate::{
    exports::{
        problem::{Code, Problem},
        record::{ExportRecord, FileRecord, Health},
        request::{Format, RecordSchema},
        state::{Event, Phase, State},
    },
    ids::DestinationId,
    operations::destinations::place::{OpenError, explain, is_blocked, is_refused},
    results::{
        convert::StoredFile,
        deliver::{self as copies, Error, Manifest, ManifestFile, Target},
    },
    store::{
        self,
        destinations::SealedDestination,
        engine::{Moved, Release},
    },
};

/// Why an export waits whose folder another one is being delivered to.
const BUSY: &str = "destination_busy";

/// Everything is stored: names the files and lets go, so that any worker can deliver them.
pub async fn stage(
    step: &Step<'_>,
    destination: DestinationId,
    stored: &[StoredFile],
    moved: Moved,
) -> Result<(), Stop> {
    let (id, claim) = (step.claimed.export.export_id, step.claimed.claim);
    step.keep_exchanges().await;
    let mut tx = step.worker.gateway.db.begin().await?;
    store::destinations::lock(&mut *tx, destination).await?;
    settle::lock_for_end(&mut tx, step.claimed).await?;
    settle::held(store::engine::stage(&mut *tx, id, claim, moved).await?)?;
    transfer::name_files(&mut tx, id, stored).await?;
    store::sharing::succeed_followers(&mut tx, id, step.worker.gateway.result_ttl).await?;
    store::parts::forget(&mut *tx, id).await?;
    tx.commit().await?;
    info!(records = moved.records, files = stored.len(), "everything is stored; the delivery is left");
    transfer::sweep_but(step, stored).await;
    Ok(())
}

/// Another export's files are this one's too: lets go, so that any worker can deliver them.
pub async fn stage_given(step: &Step<'_>, destination: DestinationId) -> Result<(), Stop> {
    let (id, claim) = (step.claimed.export.export_id, step.claimed.claim);
    let mut tx = step.worker.gateway.db.begin().await?;
    store::destinations::lock(&mut *tx, destination).await?;
    let moved = counted(&step.claimed.export);
    settle::held(store::engine::stage(&mut *tx, id, claim, moved).await?)?;
    tx.commit().await?;
    Ok(())
}

/// What was counted when the files were stored.
fn counted(export: &ExportRecord) -> Moved {
    Moved {
        records: export.records,
        bytes_read: export.bytes_read,
        bytes_written: export.bytes_written,
        files_done: export.files_done,
        files_total: export.files_total,
    }
}

/// Copies the files to the destination and ends the export. What is there already is not copied again.
pub async fn deliver(step: &Step<'_>) -> Result<(), Stop> {
    let export = &step.claimed.export;
    let (db, id) = (&step.worker.gateway.db, export.export_id);
    if store::engine::goes_after_another(db, id).await? {
        return wait(step).await;
    }
    let sealed = match step.claimed.destination_id {
        Some(destination) => store::destinations::sealed_by_id(db, destination).await?,
        None => None,
    };
    let Some(sealed) = sealed else {
        let problem = Problem::new(Code::UnknownDestination, "the destination was deleted");
        return Err(Stop::Fail(Box::new(problem)));
    };
    let opened = step.worker.gateway.open_destination(&sealed).await.map_err(|error| unopened(&error))?;
    let files = store::files::of_exports(db, &[id]).await?;
    let path = export.delivery_path.clone().unwrap_or_default();
    let location = opened.location(&path);
    let target = Target { store: opened.store, path, folder: opened.folder };
    let manifest = manifest(export, &files);
    let copying = copies::deliver(&step.worker.gateway.storage, &files, manifest, &target);
    match step.hold.race(copying).await? {
        Ok(outcome) => info!(copied = outcome.copied, files = files.len(), "delivered"),
        Err(error) => return Err(undelivered(step, &sealed, &error).await?),
    }
    complete(step, &location).await
}

/// Those for the same folder go one after the other, or their files would be mixed.
async fn wait(step: &Step<'_>) -> Result<(), Stop> {
    let release = Release {
        after: step.jitter(step.worker.settings.spacing.min),
        phase: Phase::Delivering,
        waiting_reason: Some(BUSY),
        vendor_status: None,
        failures: 0,
        outcome_unknown: false,
        warning: None,
    };
    let (id, claim) = (step.claimed.export.export_id, step.claimed.claim);
    settle::held(store::engine::release(&step.worker.gateway.db, id, claim, &release).await?)
}

fn unopened(error: &OpenError) -> Stop {
    warn!(error = %error, cause = ?std::error::Error::source(error), "the destination cannot be opened");
    Stop::Delivery(Box::new(Problem::new(Code::DeliveryFailed, error.to_string())))
}

/// What to do about a delivery that broke off. Refused credentials show in the destination's health, too.
async fn undelivered(step: &Step<'_>, used: &SealedDestination, error: &Error) -> Result<Stop, Stop> {
    warn!(error = %error, cause = ?std::error::Error::source(error), "the delivery broke off");
    let Error::Destination(cause) = error else {
        return Ok(Stop::Delivery(Box::new(Problem::new(Code::DeliveryFailed, error.to_string()))));
    };
    let detail = explain(cause);
    if is_blocked(cause) {
        return Ok(Stop::Fail(Box::new(Problem::new(Code::EgressBlocked, detail))));
    }
    if is_refused(cause) {
        let db = &step.worker.gateway.db;
        store::destinations::set_health(db, &used.record, Health::Unhealthy, Some(&detail)).await?;
    }
    Ok(Stop::Delivery(Box::new(Problem::new(Code::DeliveryFailed, detail))))
}

/// Ends the export, with what was counted when it was stored.
async fn complete(step: &Step<'_>, location: &str) -> Result<(), Stop> {
    let export = &step.claimed.export;
    let (id, claim) = (export.export_id, step.claimed.claim);
    let transition = State::Running.transition(Event::Completed).map_err(|_| Stop::Interrupted(Interrupt::Lost))?;
    let moved = counted(export);
    let mut tx = step.worker.gateway.db.begin().await?;
    let ttl = step.worker.gateway.result_ttl;
    settle::lock_for_end(&mut tx, step.claimed).await?;
    settle::held(store::engine::complete(&mut *tx, id, claim, transition, moved, ttl).await?)?;
    store::files::set_locations(&mut *tx, id, location).await?;
    settle::wake_after_end(&mut tx, step.claimed).await?;
    tx.commit().await?;
    info!(records = moved.records, bytes = moved.bytes_written, "the export succeeded");
    Ok(())
}

fn manifest(export: &ExportRecord, files: &[FileRecord]) -> Manifest {
    let is_raw = export.output.format == Format::Raw;
    let is_unified = !is_raw && export.output.schema == RecordSchema::Unified;
    Manifest {
        export: export.export_id,
        connection: export.connection.clone(),
        vendor: export.vendor.clone(),
        dataset: export.dataset.as_str().into(),
        schema: is_unified.then(|| export.dataset.schema().name.into()),
        format: export.output.format.as_str().into(),
        created_at: export.created_at,
        data_as_of: export.data_as_of,
        finished_at: Utc::now(),
        records: (!is_raw).then_some(export.records),
        bytes: files.iter().map(|file| file.bytes).sum(),
        files: files.iter().map(ManifestFile::of).collect(),
    }
}
