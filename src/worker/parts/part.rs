//! One claimed part: asked for until it is there, its files fetched, converted and kept. What is kept is never fetched
//! again. An answer with many files is split into them.

use std::{panic::AssertUnwindSafe, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use futures_util::FutureExt;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};
use uuid::Uuid;

use super::{are_many, files_as_parts};
use crate::{
    exports::{
        problem::{Code, Problem},
        record::Health,
        request::ExportRequest,
        retry::{MAX_RENEWALS, Spacing},
        state::State,
    },
    operations::accounts::OpenAccount,
    results::{
        convert::{self, Conversion, StoredFile},
        kept,
        receive::Feeder,
        storage,
    },
    store::{
        self,
        connections::SealedConnection,
        parts::{ClaimedPart, Counted, LeavePart, PartFile},
    },
    vendors::{DatasetSpec, Exchanges, Inquiry, Next, Pending, Progress, VendorData, VendorError, VendorFile},
    worker::{
        Worker,
        hold::{Claim, Hold, Interrupt},
        settle::{self, MAX_FETCHES, MAX_SUBMISSIONS, OWN_FAILURE_PAUSE, Stop},
        transfer::{self, Carrier},
    },
};

/// Works on a claimed part and lets it go.
pub async fn drive(worker: &Worker, claimed: ClaimedPart, stop: CancellationToken) {
    if claimed.export.state != State::Running {
        return abandoned(worker, &claimed).await;
    }
    let deadline = (claimed.now, claimed.export.deadline_at);
    let hold = Hold::start(worker, Claim::Part(claimed.key()), deadline, stop);
    let exchanges = Exchanges::default();
    let part = Part { worker, claimed: &claimed, hold: &hold, exchanges: &exchanges };
    let outcome = AssertUnwindSafe(part.run()).catch_unwind().await.unwrap_or_else(|_| {
        error!("working on a part panicked; the export fails");
        Err(Stop::Fail(Box::new(Problem::new(Code::Internal, "a defect in Headgate ended this export"))))
    });
    settle::keep_exchanges(worker, claimed.export.export_id, &exchanges).await;
    let Err(stop) = outcome else { return };
    if let Err(error) = part.settle(stop).await {
        warn!(error = %error, "the database failed; the lease of the part will run out and it is worked on again");
    }
}

/// Lets go of a part that nobody wants any more, or not from here: it goes with its export, which has ended or is about
/// to be ended by whoever claims it.
async fn abandoned(worker: &Worker, claimed: &ClaimedPart) {
    debug!("letting go of a part that is no longer wanted from here");
    if let Err(error) = abandon(worker, claimed).await {
        warn!(error = %error, "a part that nobody wants any more could not be forgotten; trying again later");
    }
}

async fn abandon(worker: &Worker, claimed: &ClaimedPart) -> sqlx::Result<()> {
    let (db, part, run) = (&worker.gateway.db, claimed.key(), claimed.export.run());
    let mut tx = db.begin().await?;
    let has_ended = store::parts::abandon(&mut tx, part).await?;
    tx.commit().await?;
    if has_ended {
        // Also what a worker left that died while the export came to its end. Work that others share was handed on.
        if !store::sharing::is_run_shared(db, run, part.export).await? {
            let named = store::files::objects_below(db, &storage::run_prefix(run)).await?.referenced;
            let prefix = storage::part_prefix(run, part.number, part.file);
            settle::remove(worker, &prefix, named.into_iter().collect()).await;
        }
        store::parts::forget_one(db, part).await?;
    }
    Ok(())
}

/// Everything that work on a part needs.
#[derive(Clone, Copy)]
struct Part<'a> {
    worker: &'a Worker,
    claimed: &'a ClaimedPart,
    hold: &'a Hold,
    exchanges: &'a Exchanges,
}

/// What was opened for it.
struct Opened {
    account: OpenAccount,
    request: ExportRequest,
    spec: &'static DatasetSpec,
}

impl Part<'_> {
    async fn run(&self) -> Result<(), Stop> {
        self.hold.transfer().count_from(counted(&self.claimed.files));
        let sealed = self.connection().await?;
        let opened = self.open(&sealed)?;
        let outcome = match &self.claimed.locator {
            Some(sealed) => {
                let run = self.claimed.export.run();
                let file = opened.account.open_file(&self.worker.gateway, run, sealed)?;
                self.fetch_alone(&opened, file).await
            }
            None => self.ask(&opened).await,
        };
        if let Err(Stop::Vendor(error)) = &outcome
            && error.code == Code::VendorCredentialsRejected
            && error.next == Next::GiveUp
        {
            warn!(connection = %sealed.record.name, "the vendor rejected the credentials");
            let (db, detail) = (&self.worker.gateway.db, Some(error.message.as_str()));
            let (id, version) = (sealed.record.connection_id, sealed.record.credential_version);
            store::connections::set_health(db, id, version, Health::Unhealthy, detail).await?;
        }
        outcome
    }

    async fn connection(&self) -> Result<SealedConnection, Stop> {
        let export = &self.claimed.export;
        let sealed = store::connections::sealed_by_id(&self.worker.gateway.db, export.connection_id).await?;
        sealed.ok_or_else(|| {
            let detail = format!("the connection `{}` was deleted", export.connection);
            Stop::Fail(Box::new(Problem::new(Code::UnknownConnection, detail)))
        })
    }

    fn open(&self, sealed: &SealedConnection) -> Result<Opened, Stop> {
        let export = &self.claimed.export;
        let account = self.worker.gateway.open_account(sealed)?;
        let request = ExportRequest::parse(export.dataset, &export.parameters, export.output.0)
            .map_err(|errors| Stop::Fail(Box::new(Problem::invalid(errors))))?;
        let spec = account.spec.datasets.iter().find(|spec| spec.dataset == export.dataset).ok_or_else(|| {
            let detail = "the vendor no longer offers this dataset";
            Stop::Fail(Box::new(Problem::new(Code::DatasetNotSupported, detail)))
        })?;
        Ok(Opened { account, request, spec })
    }

    /// Asks for what the adapter named.
    async fn ask(&self, opened: &Opened) -> Result<(), Stop> {
        match self.poll(opened).await? {
            Progress::Preparing { status, ask_again_in, warning } => {
                self.warn(&warning.into_iter().collect::<Vec<_>>()).await?;
                let after = settle::jitter(self.claimed.claim, self.spacing(opened).poll(self.waited(), ask_again_in));
                self.wait(after, &status).await
            }
            Progress::Ready(files) if are_many(&files) && self.claimed.files.is_empty() => {
                self.split(opened, &files).await
            }
            Progress::Ready(files) => self.fetch(opened, files).await,
            Progress::Data(data) => {
                let files = self.receive(opened, "0", data).await?;
                self.keep(&files, true).await
            }
            Progress::NextStage(_) => {
                Err(Stop::Vendor(VendorError::new(Code::Internal, Next::GiveUp, "a part has no stages")))
            }
        }
    }

    /// Asks how far the vendor is with this part, or with the job that made its file.
    async fn poll(&self, opened: &Opened) -> Result<Progress, Stop> {
        let claimed = self.claimed;
        let ticket = match (&claimed.name, &claimed.ticket) {
            (None, Some(ticket)) => {
                Some(opened.account.open_ticket(&self.worker.gateway, claimed.export.run(), ticket)?)
            }
            _ => None,
        };
        let of = match (&ticket, &claimed.name) {
            (Some(ticket), _) => Pending::Job(ticket),
            (None, name) => Pending::Part(name.as_deref().unwrap_or_default()),
        };
        let inquiry = Inquiry {
            of,
            seen_ready: claimed.seen_ready || claimed.locator.is_some(),
            called_back: false,
            since: claimed.submitted_at.or(claimed.first_asked_at).unwrap_or(claimed.now),
            now: claimed.now,
        };
        let asked = opened.account.vendor.poll(&opened.request, &inquiry, self.exchanges);
        Ok(self.hold.race(asked).await??)
    }

    /// Many files: each becomes a part.
    async fn split(&self, opened: &Opened, files: &[VendorFile]) -> Result<(), Stop> {
        let part = self.claimed.key();
        let mut parts = files_as_parts(self.worker, &opened.account, self.claimed.export.run(), part.number, files)?;
        for each in &mut parts {
            // New links are asked for by the name.
            each.name.clone_from(&self.claimed.name);
        }
        let at_once = i64::from(opened.account.vendor.parts_at_once(&opened.request));
        let mut tx = self.lock().await?;
        store::parts::split(&mut tx, part, &parts, at_once).await?;
        tx.commit().await?;
        info!(files = files.len(), "a part has many files; all workers fetch them");
        Ok(())
    }

    /// Fetches the one file that this part is. Where its link no longer works, all files of the answer get new ones.
    async fn fetch_alone(&self, opened: &Opened, mut file: VendorFile) -> Result<(), Stop> {
        let index = usize::try_from(self.claimed.file - 1).unwrap_or_default();
        let mut renewals = 0;
        loop {
            let stop = match self.fetch_one(opened, &file.tag, &file).await {
                Ok(files) => return self.keep(&files, true).await,
                Err(stop) if renewals < MAX_FETCHES && asks_for_renewal(&stop) => stop,
                Err(stop) => return Err(stop),
            };
            renewals += 1;
            info!("a file could not be fetched whole; asking for new links");
            match self.poll(opened).await? {
                Progress::Ready(renewed) if renewed.get(index).is_some_and(|renewed| renewed.tag == file.tag) => {
                    file = renewed[index].clone();
                    self.relink(opened, &renewed).await?;
                }
                _ => return Err(stop),
            }
        }
    }

    async fn relink(&self, opened: &Opened, files: &[VendorFile]) -> Result<(), Stop> {
        let part = self.claimed.key();
        let parts = files_as_parts(self.worker, &opened.account, self.claimed.export.run(), part.number, files)?;
        let (numbers, locators): (Vec<_>, Vec<_>) =
            parts.into_iter().map(|part| (part.file, part.locator.unwrap_or_default())).unzip();
        let mut tx = self.lock().await?;
        store::parts::relink(&mut *tx, part.export, part.number, &numbers, &locators).await?;
        Ok(tx.commit().await?)
    }

    /// Fetches the files that are not kept yet, each on its own: a bad one is fetched again alone, with fresh links.
    async fn fetch(&self, opened: &Opened, mut files: Vec<VendorFile>) -> Result<(), Stop> {
        if !self.claimed.seen_ready {
            settle::held(store::parts::mark_ready(&self.worker.gateway.db, self.claimed.key()).await?)?;
        }
        let mut kept = self.claimed.files.0.clone();
        let (mut index, mut renewals) = (0, 0);
        while index < files.len() {
            let source = format!("{index}:{}", files[index].tag);
            if kept.iter().any(|file| file.source == source) {
                index += 1;
                continue;
            }
            match self.fetch_one(opened, &source, &files[index]).await {
                Ok(files) => {
                    kept.extend(files);
                    self.keep(&kept, false).await?;
                    (index, renewals) = (index + 1, 0);
                }
                Err(stop) if renewals < MAX_FETCHES && asks_for_renewal(&stop) => {
                    renewals += 1;
                    info!(file = index + 1, "a file could not be fetched whole; asking for new links");
                    match self.poll(opened).await? {
                        Progress::Ready(renewed) if same_files(&files, &renewed) => files = renewed,
                        _ => return Err(stop),
                    }
                }
                Err(stop) => return Err(stop),
            }
        }
        self.keep(&kept, true).await
    }

    async fn fetch_one(&self, opened: &Opened, source: &str, file: &VendorFile) -> Result<Vec<PartFile>, Stop> {
        let open = opened.account.vendor.open(file, self.exchanges);
        let download = self.hold.race(open).await??;
        let data = VendorData { download, extension: file.extension.clone(), tag: file.tag.clone() };
        self.receive(opened, source, data).await
    }

    /// Receives and converts one file.
    async fn receive(&self, opened: &Opened, source: &str, data: VendorData) -> Result<Vec<PartFile>, Stop> {
        // A name of its own for every try: a lost claim's file is never mistaken for ours.
        let prefix = format!("{}/{}", self.prefix(), Uuid::new_v4().simple());
        let conversion = transfer::conversion(self.worker, &opened.account, &opened.request, prefix);
        let conversion = Conversion { output: kept::kept(opened.request.output), ..conversion };
        let records = conversion.records.clone();
        let carrier = Carrier { worker: self.worker, hold: self.hold, exchanges: self.exchanges };
        let bring = async |feeder: Feeder| transfer::receive(carrier, data, &feeder).await;
        let (stored, received) = transfer::convert_brought(carrier, conversion, bring).await?;
        self.warn(&[records.warnings(), transfer::unreadable_times(self.hold)].concat()).await?;
        let kept = |(index, file): (usize, StoredFile)| PartFile {
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
        };
        Ok(stored.into_iter().enumerate().map(kept).collect())
    }

    /// Keeps the files that are stored; with `done` that is all of the part.
    async fn keep(&self, files: &[PartFile], done: bool) -> Result<(), Stop> {
        let part = self.claimed.key();
        if done {
            // Before anybody can see that the export moved on.
            settle::keep_exchanges(self.worker, part.export, self.exchanges).await;
        }
        let mut tx = self.lock().await?;
        store::parts::keep(&mut *tx, part, files).await?;
        store::parts::recount(&mut tx, part, counted(files)).await?;
        if done {
            store::parts::finish(&mut tx, part).await?;
            store::parts::make_next_due(&mut *tx, part.export).await?;
        }
        tx.commit().await?;
        self.hold.transfer().count_from(counted(files));
        Ok(())
    }

    /// A transaction with the export and its part locked; an interruption when they are no longer ours.
    async fn lock(&self) -> Result<sqlx::Transaction<'static, sqlx::Postgres>, Stop> {
        let mut tx = self.worker.gateway.db.begin().await?;
        match store::parts::lock(&mut tx, self.claimed.key()).await? {
            Some(State::Running) => Ok(tx),
            Some(_) => Err(Stop::Interrupted(Interrupt::Cancelled)),
            None => Err(Stop::Interrupted(Interrupt::Lost)),
        }
    }

    /// The vendor is at it: leaves the part for a while, and its room to the next one.
    async fn wait(&self, after: Duration, status: &str) -> Result<(), Stop> {
        let leave = LeavePart { after, failures: 0, waiting_reason: None, vendor_status: Some(status) };
        self.leave(&leave, true).await
    }

    async fn leave(&self, leave: &LeavePart<'_>, makes_room: bool) -> Result<(), Stop> {
        let part = self.claimed.key();
        settle::keep_exchanges(self.worker, part.export, self.exchanges).await;
        let mut tx = self.lock().await?;
        store::parts::recount_if_counted(&mut tx, part, counted(&self.claimed.files)).await?;
        store::parts::leave(&mut tx, part, leave).await?;
        if makes_room {
            store::parts::make_next_due(&mut *tx, part.export).await?;
        }
        Ok(tx.commit().await?)
    }

    async fn warn(&self, warnings: &[String]) -> Result<(), Stop> {
        for warning in warnings {
            let added = store::parts::add_warning(&self.worker.gateway.db, self.claimed.key(), warning).await?;
            settle::held(added)?;
        }
        Ok(())
    }

    fn prefix(&self) -> String {
        storage::part_prefix(self.claimed.export.run(), self.claimed.number, self.claimed.file)
    }

    /// How far apart the vendor wants to be asked.
    fn spacing(&self, opened: &Opened) -> Spacing {
        self.worker.settings.spacing.times(opened.spec.poll_factor)
    }

    fn waited(&self) -> Duration {
        let now = self.claimed.now;
        (now - self.claimed.first_asked_at.unwrap_or(now)).to_std().unwrap_or_default()
    }
}

/// What follows when a part could not simply be done.
impl Part<'_> {
    async fn settle(&self, stop: Stop) -> sqlx::Result<()> {
        match self.follow_up(stop).await {
            Ok(()) => Ok(()),
            Err(Stop::Store(error)) => Err(error),
            Err(Stop::Interrupted(interrupt)) => match self.follow_up(Stop::Interrupted(interrupt)).await {
                Err(Stop::Store(error)) => Err(error),
                _ => Ok(()),
            },
            Err(other) => {
                warn!(reason = ?other, "a part could not be let go; its lease will run out");
                Ok(())
            }
        }
    }

    async fn follow_up(&self, stop: Stop) -> Result<(), Stop> {
        match stop {
            Stop::Interrupted(Interrupt::Shutdown) => {
                let held = store::parts::hand_back(&self.worker.gateway.db, self.claimed.key()).await?;
                settle::held(held)
            }
            Stop::Interrupted(Interrupt::Lost | Interrupt::Cancelled | Interrupt::Deadline) => {
                abandoned(self.worker, self.claimed).await;
                Ok(())
            }
            Stop::Interrupted(Interrupt::Stalled) => {
                self.try_again(settle::standstill(self.worker), None, Some(MAX_FETCHES)).await
            }
            Stop::Results(error) if error.fetch_again => {
                warn!(error = %error, cause = ?std::error::Error::source(&error), "a part could not be used");
                // Trouble of the gateway's own store says nothing about the data, and may last.
                let at_most = (error.code != Code::DeliveryFailed).then_some(MAX_FETCHES);
                self.try_again(Problem::new(error.code, error.message), None, at_most).await
            }
            Stop::Results(error) => self.fail(&Problem::new(error.code, error.message)).await,
            Stop::Submission(error) | Stop::Vendor(error) => self.vendor_error(error).await,
            Stop::Fail(problem) | Stop::Delivery(problem) => self.fail(&problem).await,
            Stop::Account(error) => {
                warn!(error = %error, "the connection cannot be opened");
                let detail = "the connection's credentials cannot be opened; the operator must look";
                self.try_again(Problem::new(Code::Internal, detail), Some(OWN_FAILURE_PAUSE), None).await
            }
            Stop::Store(error) => Err(Stop::Store(error)),
        }
    }

    async fn vendor_error(&self, error: VendorError) -> Result<(), Stop> {
        let problem = settle::blame(&self.claimed.export.vendor, &error);
        match error.next {
            Next::GiveUp => self.fail(&problem).await,
            Next::WaitForBudget { after } => {
                let (after, reason) = (settle::jitter(self.claimed.claim, after), Some("vendor_rate_limit"));
                let failures = self.claimed.failures;
                let leave = LeavePart { after, failures, waiting_reason: reason, vendor_status: None };
                self.leave(&leave, false).await
            }
            Next::Wait { after } => {
                let after = self.worker.settings.spacing.poll(self.waited(), after);
                let leave = LeavePart {
                    after: settle::jitter(self.claimed.claim, after),
                    failures: 0,
                    waiting_reason: Some("vendor_busy"),
                    vendor_status: Some(&error.message),
                };
                self.leave(&leave, true).await
            }
            Next::Resubmit if self.claimed.name.is_none() => self.begin_anew(&problem, &error).await,
            Next::TryAgain { after, at_most } => self.try_again(problem, after, at_most).await,
            Next::OutcomeUnknown => self.try_again(problem, None, None).await,
            Next::Renew | Next::Resubmit => self.try_again(problem, None, Some(MAX_RENEWALS)).await,
        }
    }

    /// Leaves the part for a while, or fails when this was the last try. Without `at_most` it is tried for as long as
    /// anything moves in its export: nobody has said anything of the data.
    async fn try_again(&self, problem: Problem, after: Option<Duration>, at_most: Option<u32>) -> Result<(), Stop> {
        let failures = u32::try_from(self.claimed.failures).unwrap_or_default().saturating_add(1);
        let (export, now) = (&self.claimed.export, self.claimed.now);
        match at_most {
            Some(at_most) if failures >= at_most => return self.fail(&problem).await,
            None if settle::is_stalled(export, now) => {
                return self.fail(&settle::stalled(export, now, &problem)).await;
            }
            _ => {}
        }
        info!(reason = %problem, failures, "a part failed; it is tried again");
        let leave = LeavePart {
            after: settle::jitter(self.claimed.claim, self.worker.settings.spacing.backoff(failures, after)),
            failures: i32::try_from(failures).unwrap_or(i32::MAX),
            waiting_reason: None,
            vendor_status: problem.vendor.as_ref().and_then(|vendor| vendor.message.as_deref()),
        };
        self.leave(&leave, false).await
    }

    async fn fail(&self, problem: &Problem) -> Result<(), Stop> {
        info!(reason = %problem, "a part can never be done; its export fails");
        let part = self.claimed.key();
        settle::keep_exchanges(self.worker, part.export, self.exchanges).await;
        let mut tx = self.lock().await?;
        store::parts::fail(&mut tx, part, problem).await?;
        Ok(tx.commit().await?)
    }

    /// The vendor no longer has what its job made, so none of it can be had any more.
    async fn begin_anew(&self, problem: &Problem, error: &VendorError) -> Result<(), Stop> {
        let part = self.claimed.key();
        settle::keep_exchanges(self.worker, part.export, self.exchanges).await;
        let mut tx = self.lock().await?;
        if store::parts::submissions(&mut *tx, part.export).await? >= MAX_SUBMISSIONS {
            store::parts::fail(&mut tx, part, problem).await?;
        } else {
            info!(reason = %error, "the vendor no longer has the export; asking again");
            store::parts::begin_anew(&mut tx, part.export, &error.message).await?;
        }
        Ok(tx.commit().await?)
    }
}

/// What stored files count for.
fn counted(files: &[PartFile]) -> Counted {
    let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let records = files.iter().filter(|file| !convert::is_rejected(&file.name)).filter_map(|file| file.records);
    Counted {
        records: number(records.sum()),
        bytes_read: number(files.iter().map(|file| file.received).sum()),
        bytes_written: number(files.iter().map(|file| file.bytes).sum()),
    }
}

/// Damage on the way, and links that no longer work: new links may help at once.
fn asks_for_renewal(stop: &Stop) -> bool {
    match stop {
        Stop::Vendor(error) => error.next == Next::Renew,
        Stop::Results(error) => error.fetch_again && error.code == Code::VendorMalformedData,
        _ => false,
    }
}

/// Whether renewed links lead to the same files as before.
fn same_files(before: &[VendorFile], after: &[VendorFile]) -> bool {
    before.len() == after.len() && before.iter().zip(after).all(|(before, after)| before.tag == after.tag)
}
