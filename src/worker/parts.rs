//! Exports that are asked for piecewise: each part is asked for on its own until it is there, its files are converted
//! and kept one by one, and what is kept is never fetched again. When all parts are done, their files become the result.

use std::{sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use futures_util::{StreamExt, TryStreamExt, stream};
use tracing::{info, warn};
use uuid::Uuid;

use super::{
    settle::{self, MAX_FETCHES, Stop},
    step::Step,
    transfer,
};
use crate::{
    exports::{
        problem::{Code, Problem},
        request::{Dataset, ExportRequest, Format},
        retry::{MAX_RENEWALS, Spacing},
        state::{Event, Phase},
    },
    operations::accounts::OpenAccount,
    results::{
        self, Meter,
        convert::{self, Conversion, StoredFile},
        kept::{self, Kept},
        receive::Feeder,
        storage,
    },
    store::{
        self,
        engine::Release,
        parts::{LeavePart, PartFile, PendingPart, Tally},
    },
    vendors::{DatasetSpec, Exchanges, Inquiry, Next, Pending, Progress, VendorData, VendorError, VendorFile},
};

/// Parts of one export that a worker is busy with at once.
const AT_ONCE: usize = 4;
/// Parts looked at before the next look for due ones.
const BATCH: i64 = 64;

/// Everything the parts of one export share.
#[derive(Clone, Copy)]
pub struct Parts<'a> {
    pub step: &'a Step<'a>,
    pub account: &'a OpenAccount,
    pub request: &'a ExportRequest,
    pub spec: &'static DatasetSpec,
}

/// Why a part is not done yet.
enum Setback {
    Vendor(VendorError),
    /// Received, but not usable.
    Results(results::Error),
    Stop(Stop),
}

impl From<Stop> for Setback {
    fn from(stop: Stop) -> Self {
        Self::Stop(stop)
    }
}

impl Parts<'_> {
    /// Notes what is to be asked for; the first part can be asked for at once.
    pub async fn begin(&self, parts: &[String]) -> Result<(), Stop> {
        let export = &self.step.claimed.export;
        let (id, claim) = (export.export_id, self.step.claimed.claim);
        let transition =
            export.state.transition(Event::Started).map_err(|_| Stop::Interrupted(super::hold::Interrupt::Lost))?;
        let mut tx = self.step.worker.gateway.db.begin().await?;
        settle::held(store::engine::begin_parts(&mut *tx, id, claim, transition).await?)?;
        store::parts::insert(&mut *tx, id, parts).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Asks for every part that is due; completes the export when none is left, else lets go until the next is due.
    pub async fn follow(&self) -> Result<(), Stop> {
        let (db, id) = (&self.step.worker.gateway.db, self.step.claimed.export.export_id);
        let before = store::parts::tally(db, id).await?;
        self.step.hold.transfer().resume(&before);
        loop {
            let due = store::parts::pending(db, id, BATCH).await?;
            if due.is_empty() {
                break;
            }
            let done = stream::iter(due).map(|part| self.part(part)).buffer_unordered(AT_ONCE);
            done.try_collect::<()>().await?;
            self.step.keep_exchanges().await;
        }
        let tally = store::parts::tally(db, id).await?;
        if tally.done == tally.total {
            return self.finish().await;
        }
        self.let_go(&tally, tally.done > before.done).await
    }

    async fn let_go(&self, tally: &Tally, has_moved: bool) -> Result<(), Stop> {
        let export = &self.step.claimed.export;
        if has_moved {
            let (db, id, claim) = self.place();
            let (lease, moved) = (self.step.worker.settings.lease, self.step.hold.transfer().moved());
            store::engine::renew_with_progress(db, id, claim, lease, moved).await?;
        } else if tally.failures == 0 && export.vendor_status == tally.vendor_status {
            self.step.give_up_when_stalled(self.spec)?;
        }
        let release = Release {
            after: Duration::from_secs_f64(tally.next_due_secs.unwrap_or_default().clamp(0.0, 3600.0)),
            phase: Phase::VendorProcessing,
            waiting_reason: None,
            vendor_status: tally.vendor_status.as_deref(),
            failures: tally.failures,
            outcome_unknown: false,
            warning: None,
        };
        let (id, claim) = (export.export_id, self.step.claimed.claim);
        self.step.keep_exchanges().await;
        settle::held(store::engine::release(&self.step.worker.gateway.db, id, claim, &release).await?)
    }

    /// Asks for one part; whatever is not the end of the export is written down with the part.
    async fn part(&self, part: PendingPart) -> Result<(), Stop> {
        // What is said of the newest exchange must be about this part's.
        let exchanges = Exchanges::default();
        let step = Step { exchanges: &exchanges, ..*self.step };
        let asked = Parts { step: &step, ..*self }.ask(&part).await;
        self.step.exchanges.append(&exchanges);
        let Err(setback) = asked else { return Ok(()) };
        let spacing = self.spacing();
        let failures = u32::try_from(part.failures).unwrap_or_default() + 1;
        match setback {
            Setback::Stop(end) => Err(end),
            Setback::Results(error) if error.fetch_again => {
                // Trouble of the gateway's own store says nothing about the data.
                let at_most = (error.code != Code::DeliveryFailed).then_some(MAX_FETCHES);
                if self.is_last_try(failures, at_most) {
                    return Err(Stop::Fail(Box::new(Problem::new(error.code, error.message))));
                }
                info!(part = part.part, reason = %error, failures, "a part could not be used; fetching it again");
                self.leave(&part, spacing.backoff(failures, None), failures, None).await
            }
            Setback::Results(error) => Err(Stop::Results(error)),
            Setback::Vendor(error) => match error.next {
                Next::GiveUp | Next::WaitForBudget { .. } => Err(Stop::Vendor(error)),
                Next::Wait { after } => {
                    let waited = self.waited(&part);
                    self.leave(&part, spacing.poll(waited, after), failures - 1, Some(&error.message)).await
                }
                Next::TryAgain { at_most, .. } if self.is_last_try(failures, at_most) => {
                    Err(Stop::Vendor(VendorError { next: Next::GiveUp, ..error }))
                }
                Next::Renew | Next::Resubmit | Next::OutcomeUnknown if failures >= MAX_RENEWALS => {
                    Err(Stop::Vendor(VendorError { next: Next::GiveUp, ..error }))
                }
                Next::TryAgain { after, .. } => {
                    info!(part = part.part, reason = %error, failures, "a part failed; it is tried again");
                    self.leave(&part, spacing.backoff(failures, after), failures, Some(&error.message)).await
                }
                Next::Renew | Next::Resubmit | Next::OutcomeUnknown => {
                    self.leave(&part, spacing.backoff(failures, None), failures, Some(&error.message)).await
                }
            },
        }
    }

    /// Whether a part that has failed so often in a row fails the export. Without a limit it is tried for as long as
    /// anything moves.
    fn is_last_try(&self, failures: u32, at_most: Option<u32>) -> bool {
        at_most.map_or_else(|| settle::is_stalled(self.step.claimed), |at_most| failures >= at_most)
    }

    async fn ask(&self, part: &PendingPart) -> Result<(), Setback> {
        match self.poll(part).await? {
            Progress::Preparing { status, ask_again_in, warning } => {
                if let Some(warning) = warning {
                    self.step.warn(&[warning]).await?;
                }
                let after = self.step.jitter(self.spacing().poll(self.waited(part), ask_again_in));
                Ok(self.leave(part, after, 0, Some(&status)).await?)
            }
            Progress::Ready(files) => self.fetch(part, files).await,
            Progress::Data(data) => {
                let files = self.receive(part, "0", data).await?;
                self.keep(part, &files, true).await
            }
            Progress::NextStage(_) => {
                let message = "a part has no stages";
                Err(Setback::Vendor(VendorError::new(Code::Internal, Next::GiveUp, message)))
            }
        }
    }

    async fn poll(&self, part: &PendingPart) -> Result<Progress, Setback> {
        let now = self.step.claimed.now;
        let inquiry = Inquiry {
            of: Pending::Part(&part.part),
            seen_ready: part.seen_ready,
            called_back: false,
            since: part.first_asked_at.unwrap_or(now),
            now,
        };
        let asked = self.account.vendor.poll(self.request, &inquiry, self.step.exchanges);
        self.step.hold.race(asked).await.map_err(Stop::Interrupted)?.map_err(Setback::Vendor)
    }

    /// Fetches the files that are not kept yet, each on its own: a bad one is fetched again alone, with fresh links.
    async fn fetch(&self, part: &PendingPart, mut files: Vec<VendorFile>) -> Result<(), Setback> {
        if !part.seen_ready {
            let (db, id, claim) = self.place();
            settle::held(store::parts::mark_ready(db, id, claim, part.number).await.map_err(Stop::from)?)?;
        }
        let mut kept = part.files.0.clone();
        let mut index = 0;
        let mut renewals = 0;
        while index < files.len() {
            let source = format!("{index}:{}", files[index].tag);
            if kept.iter().any(|file| file.source == source) {
                index += 1;
                continue;
            }
            match self.fetch_one(part, &source, &files[index]).await {
                Ok(files) => {
                    kept.extend(files);
                    self.keep(part, &kept, false).await?;
                    (index, renewals) = (index + 1, 0);
                }
                Err(setback) if renewals < MAX_FETCHES && asks_for_renewal(&setback) => {
                    renewals += 1;
                    info!(
                        part = part.part,
                        file = index + 1,
                        "a file could not be fetched whole; asking for new links"
                    );
                    match self.poll(part).await? {
                        Progress::Ready(renewed) if same_files(&files, &renewed) => files = renewed,
                        _ => return Err(setback),
                    }
                }
                Err(setback) => return Err(setback),
            }
        }
        self.keep(part, &kept, true).await
    }

    async fn fetch_one(&self, part: &PendingPart, source: &str, file: &VendorFile) -> Result<Vec<PartFile>, Setback> {
        let opened = self.account.vendor.open(file, self.step.exchanges);
        let download = self.step.hold.race(opened).await.map_err(Stop::Interrupted)?.map_err(Setback::Vendor)?;
        let data = VendorData { download, extension: file.extension.clone(), tag: file.tag.clone() };
        self.receive(part, source, data).await
    }

    /// Receives and converts one file.
    async fn receive(&self, part: &PendingPart, source: &str, data: VendorData) -> Result<Vec<PartFile>, Setback> {
        // A name of its own for every try: a lost claim's file is never mistaken for ours.
        let prefix = format!(
            "{}/{}",
            storage::part_prefix(self.step.claimed.export.run(), part.number),
            Uuid::new_v4().simple()
        );
        let conversion = transfer::conversion(self.step, self.account, self.request, prefix);
        let conversion = Conversion { output: kept::kept(self.request.output), ..conversion };
        let records = conversion.records.clone();
        let bring = async |feeder: Feeder| transfer::receive(self.step, data, &feeder).await;
        let converted = transfer::convert_brought(self.step, conversion, bring).await;
        let (stored, received) = converted.map_err(|stop| match stop {
            Stop::Vendor(error) => Setback::Vendor(error),
            Stop::Results(error) => Setback::Results(error),
            stop => Setback::Stop(stop),
        })?;
        self.step.warn(&[records.warnings(), transfer::unreadable_times(self.step)].concat()).await?;
        let files = stored.into_iter().enumerate().map(|(index, file)| PartFile {
            source: source.to_owned(),
            file_id: file.file_id,
            name: file.name,
            object_key: file.object_key,
            media_type: file.media_type.into(),
            compression: file.compression.into(),
            bytes: file.bytes,
            records: file.records,
            sha256: BASE64_STANDARD.encode(file.sha256),
            received: if index == 0 { received } else { 0 },
        });
        Ok(files.collect())
    }

    async fn keep(&self, part: &PendingPart, files: &[PartFile], done: bool) -> Result<(), Setback> {
        let (db, id, claim) = self.place();
        let kept = store::parts::keep(db, id, claim, part.number, files, done).await;
        settle::held(kept.map_err(Stop::from)?)?;
        if done {
            self.step.hold.transfer().part_done();
        }
        Ok(())
    }

    async fn leave(
        &self,
        part: &PendingPart,
        after: Duration,
        failures: u32,
        vendor_status: Option<&str>,
    ) -> Result<(), Stop> {
        let (db, id, claim) = self.place();
        let failures = i32::try_from(failures).unwrap_or(i32::MAX);
        let leave = LeavePart { after, failures, vendor_status };
        settle::held(store::parts::leave(db, id, claim, part.number, &leave).await?)
    }

    /// How far apart the vendor wants to be asked.
    fn spacing(&self) -> Spacing {
        self.step.worker.settings.spacing.times(self.spec.poll_factor)
    }

    fn waited(&self, part: &PendingPart) -> Duration {
        let now = self.step.claimed.now;
        (now - part.first_asked_at.unwrap_or(now)).to_std().unwrap_or_default()
    }

    fn place(&self) -> (&sqlx::PgPool, crate::ids::ExportId, Uuid) {
        (&self.step.worker.gateway.db, self.step.claimed.export.export_id, self.step.claimed.claim)
    }

    /// Every part is done: their files become the result.
    async fn finish(&self) -> Result<(), Stop> {
        let (db, id, claim) = self.place();
        settle::held(store::engine::enter_phase(db, id, claim, Phase::Transforming).await?)?;
        let files = store::parts::files(db, id).await?;
        let tally = store::parts::tally(db, id).await?;
        let moved = store::engine::Moved {
            records: tally.records,
            bytes_read: tally.bytes_read,
            bytes_written: tally.bytes_written,
            files_done: i32::try_from(tally.done).unwrap_or(i32::MAX),
            files_total: Some(i32::try_from(tally.total).unwrap_or(i32::MAX)),
        };
        let kept = files.iter().map(stored).collect::<Option<Vec<_>>>().ok_or_else(|| {
            warn!("the kept files of the parts cannot be read");
            Stop::Fail(Box::new(Problem::new(Code::Internal, "the kept files of the parts cannot be read")))
        })?;
        let result = if self.request.output.format == Format::Raw {
            numbered(self.request.dataset, kept)
        } else {
            self.join(kept).await?
        };
        let written = result.iter().map(|file| i64::try_from(file.bytes).unwrap_or(i64::MAX)).sum();
        transfer::complete(self.step, result, store::engine::Moved { bytes_written: written, ..moved }).await
    }

    /// Makes the result of what was kept.
    async fn join(&self, kept: Vec<StoredFile>) -> Result<Vec<StoredFile>, Stop> {
        let (run, claim) = (self.step.claimed.export.run(), self.step.claimed.claim);
        let (mut rejected, lines): (Vec<_>, Vec<_>) =
            kept.into_iter().partition(|file| convert::is_rejected(&file.name));
        let prefix = storage::claim_prefix(run, claim.simple());
        let conversion = transfer::conversion(self.step, self.account, self.request, prefix);
        let conversion = Conversion {
            output: kept::read_back(self.request.output),
            records: Arc::new(Kept(self.request.dataset)),
            ..conversion
        };
        let storage = &self.step.worker.gateway.storage;
        let (feeder, inputs) = results::receive::connect();
        let bring = async {
            for file in lines.iter().filter(|file| file.records != Some(0)) {
                let body = storage.read(&file.object_key, None).await.map_err(not_read_back)?;
                let mut body = body.map_err(not_read_back);
                let chunks = feeder.begin("ndjson".into(), "kept".into()).await?;
                while let Some(chunk) = body.try_next().await? {
                    chunks.send(chunk).await?;
                }
                chunks.end().await?;
            }
            drop(feeder);
            Ok::<_, results::Error>(())
        };
        // It was counted when it came from the vendor.
        let uncounted = Meter::default();
        let converted = convert::convert(inputs, conversion, storage, &uncounted);
        let (converted, brought) = self.step.hold.race(futures_util::future::join(converted, bring)).await?;
        if let Err(error) = brought
            && !error.is_stopped()
        {
            return Err(Stop::Results(error));
        }
        let mut result = converted?;
        self.step.warn(&transfer::rejections(&rejected)).await?;
        // Each part has told its own.
        if rejected.len() > 1 {
            for (index, file) in rejected.iter_mut().enumerate() {
                file.name = format!("rejected-{:05}.ndjson", index + 1);
            }
        }
        result.append(&mut rejected);
        Ok(result)
    }
}

fn not_read_back(error: object_store::Error) -> results::Error {
    results::Error::storing("what was kept of the parts could not be read", error)
}

/// The vendor's files as they are, with names that number them all.
fn numbered(dataset: Dataset, files: Vec<StoredFile>) -> Vec<StoredFile> {
    let renamed = |(index, file): (usize, StoredFile)| {
        let extension = file.name.rsplit_once('.').map_or("bin", |(_, extension)| extension);
        StoredFile { name: convert::numbered_name(dataset, index + 1, extension), ..file }
    };
    files.into_iter().enumerate().map(renamed).collect()
}

/// Damage on the way, and links that no longer work: new links may help at once.
fn asks_for_renewal(setback: &Setback) -> bool {
    match setback {
        Setback::Vendor(error) => error.next == Next::Renew,
        Setback::Results(error) => error.fetch_again && error.code == Code::VendorMalformedData,
        Setback::Stop(_) => false,
    }
}

/// Whether renewed links lead to the same files as before.
fn same_files(before: &[VendorFile], after: &[VendorFile]) -> bool {
    before.len() == after.len() && before.iter().zip(after).all(|(before, after)| before.tag == after.tag)
}

fn stored(file: &PartFile) -> Option<StoredFile> {
    Some(StoredFile {
        file_id: file.file_id,
        name: file.name.clone(),
        object_key: file.object_key.clone(),
        media_type: file.media_type.clone().into(),
        compression: file.compression.clone().into(),
        bytes: file.bytes,
        records: file.records,
        sha256: BASE64_STANDARD.decode(&file.sha256).ok()?.try_into().ok()?,
    })
}
