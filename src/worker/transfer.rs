//! The vendor's files are ready: receive them, convert them, store the result, complete the export.

use std::collections::HashSet;

use tracing::{info, warn};

use super::{
    Worker, deliver,
    hold::{Hold, Interrupt},
    parts,
    settle::{self, Stop},
    step::Step,
};
use crate::{
    exports::{
        record::FileRecord,
        request::ExportRequest,
        state::{Event, Phase, State},
    },
    ids::ExportId,
    operations::accounts::OpenAccount,
    results::{
        self,
        convert::{self, Conversion, REJECTED, StoredFile},
        receive::{self, Feeder, ReceiveError},
        storage,
    },
    store::{self, engine::Moved},
    vendors::{DatasetSpec, Exchanges, VendorData, VendorFile},
};

/// What brings data under a claim, of an export or of a part of one.
#[derive(Clone, Copy)]
pub struct Carrier<'a> {
    pub worker: &'a Worker,
    pub hold: &'a Hold,
    pub exchanges: &'a Exchanges,
}

/// Fetches, converts and stores, all at the same time; the caller sees all files or none. Many files become parts, so
/// that every worker can take some.
pub async fn transfer(
    step: &Step<'_>,
    account: &OpenAccount,
    request: &ExportRequest,
    spec: &'static DatasetSpec,
    vendor_files: Vec<VendorFile>,
) -> Result<(), Stop> {
    if parts::are_many(&vendor_files) {
        return parts::Parts { step, account, request, spec }.begin_with_files(&vendor_files).await;
    }
    let mut tx = step.worker.gateway.db.begin().await?;
    begin(step, &mut tx, vendor_files.len()).await?;
    tx.commit().await?;
    let carrier = step.carrier();
    let bring = async |feeder: Feeder| {
        for file in vendor_files {
            let download = account.vendor.open(&file, step.exchanges).await?;
            receive(carrier, VendorData { download, extension: file.extension, tag: file.tag }, &feeder).await?;
        }
        all_received(step).await
    };
    convert(step, account, request, bring).await
}

/// As [`transfer`], of data that came with the vendor's answer.
pub async fn transfer_data(
    step: &Step<'_>,
    account: &OpenAccount,
    request: &ExportRequest,
    data: VendorData,
) -> Result<(), Stop> {
    let mut tx = step.worker.gateway.db.begin().await?;
    begin(step, &mut tx, 1).await?;
    tx.commit().await?;
    let bring = async |feeder: Feeder| {
        receive(step.carrier(), data, &feeder).await?;
        all_received(step).await
    };
    convert(step, account, request, bring).await
}

/// Brings one file to whoever converts it; answers how many bytes it had.
pub async fn receive(carrier: Carrier<'_>, data: VendorData, feeder: &Feeder) -> Result<u64, Stop> {
    let (limits, meter) = (&carrier.worker.settings.limits, &carrier.hold.transfer().meter);
    let VendorData { download, extension, tag } = data;
    let chunks = feeder.begin(extension, tag).await?;
    let received = receive::receive(download.length, download.body, chunks, limits, meter).await;
    let bytes = received.map_err(|error| {
        carrier.exchanges.decide(format!("broke off: {error}"));
        match error {
            ReceiveError::Vendor(error) => Stop::Vendor(error),
            ReceiveError::Results(error) => Stop::Results(error),
        }
    })?;
    carrier.exchanges.decide(format!("received {bytes} bytes"));
    Ok(bytes)
}

/// Tells callers that only our own work is left.
async fn all_received(step: &Step<'_>) -> Result<(), Stop> {
    let (db, id, claim) = (&step.worker.gateway.db, step.claimed.export.export_id, step.claimed.claim);
    settle::held(store::engine::enter_phase(db, id, claim, Phase::Transforming).await?)
}

/// Converts what `bring` brings while it does, and gives what that answers too.
///
/// # Errors
/// The reason, whichever side found it: the other side only sees that it was left alone.
pub async fn convert_brought<T>(
    carrier: Carrier<'_>,
    conversion: Conversion,
    bring: impl AsyncFnOnce(Feeder) -> Result<T, Stop>,
) -> Result<(Vec<StoredFile>, T), Stop> {
    let (feeder, inputs) = receive::connect();
    let meter = &carrier.hold.transfer().meter;
    let converted = convert::convert(inputs, conversion, &carrier.worker.gateway.storage, meter);
    let both = futures_util::future::join(converted, bring(feeder));
    let (stored, brought) = carrier.hold.race_moving(both).await?;
    match (stored, brought) {
        (Ok(stored), Ok(brought)) => Ok((stored, brought)),
        (Err(error), Ok(_)) => Err(unusable(carrier, error)),
        (Err(error), Err(Stop::Results(left_alone))) if left_alone.is_stopped() => Err(unusable(carrier, error)),
        (_, Err(why)) => Err(why),
    }
}

fn unusable(carrier: Carrier<'_>, error: results::Error) -> Stop {
    carrier.exchanges.decide(format!("received, but could not be used: {error}"));
    Stop::Results(error)
}

/// What to make of the files of `request`.
pub fn conversion(worker: &Worker, account: &OpenAccount, request: &ExportRequest, prefix: String) -> Conversion {
    Conversion {
        prefix,
        dataset: request.dataset,
        output: request.output,
        selection: request.parameters.selection(),
        records: account.vendor.records(request),
        limits: worker.settings.limits.clone(),
        spool_dir: worker.settings.spool_dir.clone(),
    }
}

async fn convert(
    step: &Step<'_>,
    account: &OpenAccount,
    request: &ExportRequest,
    bring: impl AsyncFnOnce(Feeder) -> Result<(), Stop>,
) -> Result<(), Stop> {
    let prefix = storage::claim_prefix(step.claimed.export.run(), step.claimed.claim.simple());
    let conversion = conversion(step.worker, account, request, prefix);
    let records = conversion.records.clone();
    let (stored, ()) = convert_brought(step.carrier(), conversion, bring).await?;
    step.warn(&[records.warnings(), unreadable_times(step.hold), rejections(&stored)].concat()).await?;
    complete(step, stored, step.hold.transfer().moved()).await
}

/// What a caller should know of times that are null.
pub fn unreadable_times(hold: &Hold) -> Vec<String> {
    if hold.transfer().meter.unreadable_times() == 0 {
        return Vec::new();
    }
    vec![
        "there are dates or times that cannot be read; their columns are null and their text is in the row's object"
            .into(),
    ]
}

/// What a caller should know of records that were left out.
pub fn rejections(stored: &[StoredFile]) -> Vec<String> {
    let lists = stored.iter().filter(|file| convert::is_rejected(&file.name));
    let rejected: u64 = lists.filter_map(|file| file.records).sum();
    if rejected == 0 {
        return Vec::new();
    }
    vec![format!("{rejected} records could not be read and were left out; `{REJECTED}` tells where they were")]
}

/// Notes that the vendor is done and gives its slot to the next export.
pub async fn begin(step: &Step<'_>, tx: &mut sqlx::PgConnection, count: usize) -> Result<(), Stop> {
    let export = &step.claimed.export;
    let count = i32::try_from(count).unwrap_or(i32::MAX);
    step.hold.transfer().expect_files(count);
    store::slots::lock_connection(&mut *tx, export.connection_id).await?;
    settle::held(store::engine::begin_transfer(&mut *tx, export.export_id, step.claimed.claim, count).await?)?;
    if store::slots::give_back(&mut *tx, export.export_id).await? {
        store::slots::wake_next(&mut *tx, export.connection_id).await?;
    }
    Ok(())
}

/// Names the files and ends the export in one transaction, then removes what dead tries left behind. An export that goes
/// to a destination is not ended but left to be [delivered](deliver).
pub async fn complete(step: &Step<'_>, stored: Vec<StoredFile>, moved: Moved) -> Result<(), Stop> {
    if let Some(destination) = step.claimed.destination_id {
        return deliver::stage(step, destination, &stored, moved).await;
    }
    let export = &step.claimed.export;
    let (id, claim) = (export.export_id, step.claimed.claim);
    // Not as it was claimed: it may have begun in this very step.
    let transition = State::Running.transition(Event::Completed).map_err(|_| Stop::Interrupted(Interrupt::Lost))?;
    step.keep_exchanges().await;
    let mut tx = step.worker.gateway.db.begin().await?;
    let ttl = step.worker.gateway.result_ttl;
    settle::lock_for_end(&mut tx, step.claimed).await?;
    settle::held(store::engine::complete(&mut *tx, id, claim, transition, moved, ttl).await?)?;
    name_files(&mut tx, id, &stored).await?;
    store::parts::forget(&mut *tx, id).await?;
    store::sharing::succeed_followers(&mut tx, id, ttl).await?;
    settle::wake_after_end(&mut tx, step.claimed).await?;
    tx.commit().await?;
    info!(records = moved.records, bytes = moved.bytes_written, files = stored.len(), "the export succeeded");

    sweep_but(step, &stored).await;
    Ok(())
}

/// Writes down what the result consists of.
pub async fn name_files(tx: &mut sqlx::PgConnection, id: ExportId, stored: &[StoredFile]) -> sqlx::Result<()> {
    for (position, file) in stored.iter().enumerate() {
        let record = FileRecord {
            file_id: file.file_id,
            export_id: id,
            name: file.name.clone(),
            object_key: file.object_key.clone(),
            media_type: file.media_type.clone().into_owned(),
            compression: file.compression.clone().into_owned(),
            bytes: i64::try_from(file.bytes).unwrap_or(i64::MAX),
            records: file.records.map(|records| i64::try_from(records).unwrap_or(i64::MAX)),
            sha256: file.sha256.to_vec(),
            location: None,
        };
        store::files::insert(&mut *tx, i32::try_from(position).unwrap_or(i32::MAX), &record).await?;
    }
    Ok(())
}

/// Removes what earlier tries left in the object store, as far as that is possible.
pub async fn sweep_but(step: &Step<'_>, stored: &[StoredFile]) {
    let run = step.claimed.export.run();
    let keep: HashSet<String> = stored.iter().map(|file| file.object_key.clone()).collect();
    if let Err(error) = step.worker.gateway.storage.sweep(&storage::run_prefix(run), &keep).await {
        warn!(error = %error, "what earlier tries left in the object store could not be removed");
    }
}
