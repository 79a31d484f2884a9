//! One step of a claimed export: submit it, or ask how far it is and fetch it when it is ready.

use std::{panic::AssertUnwindSafe, time::Duration};

use aws_lc_rs::rand;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use futures_util::FutureExt;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use url::Url;

use super::{
    Worker, deliver,
    hold::{Claim, Hold, Interrupt},
    parts::Parts,
    settle::{self, Stop},
    transfer::{self, Carrier},
};
use crate::{
    exports::{
        problem::{Code, Problem},
        record::{ConnectionRecord, Health},
        request::ExportRequest,
        state::{Event, Phase, State},
    },
    operations::{accounts::OpenAccount, callbacks},
    store::{
        self,
        engine::{ClaimedExport, Release},
    },
    vendors::{DatasetSpec, Exchanges, Inquiry, Next, Pending, Progress, VendorError, Work},
};

/// How long a caller who cancels waits for the vendor to hear of it.
const CANCEL_AT_VENDOR: Duration = Duration::from_secs(5);

/// Everything a step works with.
#[derive(Clone, Copy)]
pub struct Step<'a> {
    pub worker: &'a Worker,
    pub claimed: &'a ClaimedExport,
    pub hold: &'a Hold,
    pub exchanges: &'a Exchanges,
}

/// Does one step of a claimed export and lets it go. Whatever happens, the exchanges are kept, before it is let go.
pub async fn drive(worker: &Worker, claimed: ClaimedExport, stop: CancellationToken) {
    if stop.is_cancelled() {
        return settle::settle(worker, &claimed, Stop::Interrupted(Interrupt::Shutdown)).await;
    }
    let claim = Claim::Export(claimed.export.export_id, claimed.claim);
    let hold = Hold::start(worker, claim, (claimed.now, claimed.export.deadline_at), stop);
    let exchanges = Exchanges::default();
    let running = Step { worker, claimed: &claimed, hold: &hold, exchanges: &exchanges };
    let outcome = AssertUnwindSafe(running.run()).catch_unwind().await.unwrap_or_else(|_| {
        error!("the step panicked; the export fails");
        Err(Stop::Fail(Box::new(Problem::new(Code::Internal, "a defect in Headgate ended this export"))))
    });
    if let Err(Stop::Interrupted(Interrupt::Cancelled)) = outcome {
        match tokio::time::timeout(CANCEL_AT_VENDOR, running.cancel_at_vendor()).await {
            Ok(Ok(())) => {}
            Ok(Err(stop)) => info!(reason = ?stop, "the vendor could not be told to stop; nobody will fetch"),
            Err(_) => info!("the vendor does not say whether it stops; nobody will fetch"),
        }
    }
    running.keep_exchanges().await;
    if let Err(stop) = outcome {
        settle::settle(worker, &claimed, stop).await;
    }
}

impl<'a> Step<'a> {
    pub const fn carrier(&self) -> Carrier<'a> {
        Carrier { worker: self.worker, hold: self.hold, exchanges: self.exchanges }
    }
}

impl Step<'_> {
    async fn run(&self) -> Result<(), Stop> {
        let export = &self.claimed.export;
        if export.state == State::Cancelling {
            return Err(Stop::Interrupted(Interrupt::Cancelled));
        }
        if self.claimed.now >= export.deadline_at {
            return Err(Stop::Interrupted(Interrupt::Deadline));
        }
        if self.claimed.staged_at.is_some() {
            return deliver::deliver(self).await;
        }
        if let (Some(_), Some(destination)) = (self.claimed.stored_at, self.claimed.destination_id) {
            return deliver::stage_given(self, destination).await;
        }
        if export.follows.is_some() {
            let (id, claim) = (export.export_id, self.claimed.claim);
            return settle::held(store::sharing::follow_on(&self.worker.gateway.db, id, claim).await?);
        }
        let sealed = store::connections::sealed_by_id(&self.worker.gateway.db, export.connection_id).await?;
        let Some(sealed) = sealed else {
            let detail = format!("the connection `{}` was deleted", export.connection);
            return Err(Stop::Fail(Box::new(Problem::new(Code::UnknownConnection, detail))));
        };
        let account = self.worker.gateway.open_account(&sealed)?;
        let request = ExportRequest::parse(export.dataset, &export.parameters, export.output.0)
            .map_err(|errors| Stop::Fail(Box::new(Problem::invalid(errors))))?;
        let spec = account.spec.datasets.iter().find(|spec| spec.dataset == export.dataset);
        let Some(spec) = spec else {
            let problem = Problem::new(Code::DatasetNotSupported, "the vendor no longer offers this dataset");
            return Err(Stop::Fail(Box::new(problem)));
        };
        let outcome = match &self.claimed.ticket {
            None => self.begin_or_go_on(&account, &request, spec).await,
            Some(ticket) => self.follow(&account, &request, spec, ticket).await,
        };
        if let Err(Stop::Submission(error) | Stop::Vendor(error)) = &outcome
            && error.code == Code::VendorCredentialsRejected
            // A token that somebody else keeps killing is got anew; that says nothing about the credentials.
            && error.next == Next::GiveUp
        {
            self.mark_unhealthy(&sealed.record, error).await?;
        }
        outcome
    }

    /// Notes that the credentials this step used do not work; newer ones may.
    async fn mark_unhealthy(&self, used: &ConnectionRecord, error: &VendorError) -> Result<(), Stop> {
        warn!(connection = %used.name, "the vendor rejected the credentials");
        let (db, detail) = (&self.worker.gateway.db, Some(error.message.as_str()));
        let (id, version) = (used.connection_id, used.credential_version);
        Ok(store::connections::set_health(db, id, version, Health::Unhealthy, detail).await?)
    }

    /// Begins a job at the vendor, or asks for the parts of an export that has no job.
    async fn begin_or_go_on(
        &self,
        account: &OpenAccount,
        request: &ExportRequest,
        spec: &'static DatasetSpec,
    ) -> Result<(), Stop> {
        let parts = Parts { step: self, account, request, spec };
        let (db, id) = (&self.worker.gateway.db, self.claimed.export.export_id);
        // A plan may depend on the time; parts once begun stay as they are.
        if self.claimed.export.state == State::Running && store::parts::exist(db, id).await? {
            return parts.look_after().await;
        }
        let plan = account.vendor.plan(request).map_err(|errors| Stop::Fail(Box::new(Problem::invalid(errors))))?;
        match plan.work {
            Work::Job { exclusive_key, max_concurrent } => {
                self.submit(account, request, spec, exclusive_key.as_deref(), max_concurrent).await
            }
            Work::Parts(each) => {
                if !self.begin_parts().await? {
                    return Ok(());
                }
                let verified = self.hold.race(account.vendor.verify(request, self.exchanges)).await?;
                verified.map_err(Stop::Submission)?;
                parts.begin(&each).await
            }
        }
    }

    /// Asks the vendor to begin, once there is room for one more export.
    async fn submit(
        &self,
        account: &OpenAccount,
        request: &ExportRequest,
        spec: &DatasetSpec,
        exclusive_key: Option<&str>,
        max_concurrent: u32,
    ) -> Result<(), Stop> {
        let export = &self.claimed.export;
        let reconciling = self.claimed.submit_intent_at.is_some();
        // After a failure the next answer decides.
        if reconciling && self.claimed.failures == 0 {
            self.give_up_when_stalled(spec)?;
        }
        let callback = self.worker.settings.callback_base.as_ref().and_then(callback);
        let token_sha256 = callback.as_ref().map(|(_, sha256)| sha256.as_slice());
        let phase = if reconciling { Phase::Reconciling } else { Phase::Submitting };
        if !self.begin(exclusive_key, max_concurrent, phase, token_sha256).await? {
            return Ok(());
        }
        if !reconciling && self.claimed.submissions == 0 {
            let verified = self.hold.race(account.vendor.verify(request, self.exchanges)).await?;
            verified.map_err(Stop::Submission)?;
        }
        // A process that shuts down waits for the answer, which is of use to the next one. The call has a time limit.
        let url = callback.as_ref().map(|(url, _)| url);
        let submitted = account.vendor.submit(request, url, reconciling, self.exchanges);
        let submitted = self.hold.race_but(Some(Interrupt::Shutdown), submitted).await?.map_err(Stop::Submission)?;

        let db = &self.worker.gateway.db;
        let ticket = account.seal_ticket(&self.worker.gateway, export.run(), &submitted.ticket)?;
        let reference = submitted.reference.as_deref();
        let (id, claim) = (export.export_id, self.claimed.claim);
        settle::held(store::engine::record_ticket(db, id, claim, &ticket, reference).await?)?;
        info!("the vendor accepted the export");
        self.look_again(self.worker.settings.spacing.min, Phase::VendorProcessing, None, None).await
    }

    /// Takes a slot and commits the intent to submit, or lets go until there is room. Answers whether to submit.
    async fn begin(
        &self,
        key: Option<&str>,
        max_concurrent: u32,
        phase: Phase,
        token_sha256: Option<&[u8]>,
    ) -> Result<bool, Stop> {
        let export = &self.claimed.export;
        let (id, connection, claim) = (export.export_id, export.connection_id, self.claimed.claim);
        let mut tx = self.worker.gateway.db.begin().await?;
        if !self.has_room(&mut tx, key, max_concurrent).await? {
            tx.commit().await?;
            return Ok(false);
        }
        let transition = export.state.transition(Event::Started).map_err(|_| Stop::Interrupted(Interrupt::Lost))?;
        let begun = store::engine::begin_submission(&mut *tx, id, claim, transition, phase, token_sha256).await?;
        settle::held(begun)?;
        store::slots::take(&mut *tx, connection, id, key).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// As [`Self::begin`], for an export without a job: it takes no slot.
    async fn begin_parts(&self) -> Result<bool, Stop> {
        let export = &self.claimed.export;
        let mut tx = self.worker.gateway.db.begin().await?;
        let has_room = self.has_room(&mut tx, None, u32::MAX).await?;
        if has_room {
            let transition = export.state.transition(Event::Started).map_err(|_| Stop::Interrupted(Interrupt::Lost))?;
            let (id, claim) = (export.export_id, self.claimed.claim);
            settle::held(store::engine::begin_parts(&mut *tx, id, claim, transition).await?)?;
        }
        tx.commit().await?;
        Ok(has_room)
    }

    /// Whether there is room for one more export: at the vendor, over the connection, for the tenant. Without room it is
    /// let go until somebody makes some; room stays until the transaction ends.
    async fn has_room(
        &self,
        tx: &mut sqlx::PgConnection,
        key: Option<&str>,
        max_concurrent: u32,
    ) -> Result<bool, Stop> {
        let (export, settings) = (&self.claimed.export, &self.worker.settings);
        let (id, connection, claim) = (export.export_id, export.connection_id, self.claimed.claim);
        store::slots::lock_connection(&mut *tx, connection).await?;
        store::slots::lock_tenant(&mut *tx, &export.tenant).await?;
        let room = store::slots::room(&mut *tx, connection, &export.tenant, id, key).await?;
        let is_new = export.state == State::Queued;
        let reason = if room.key_taken {
            "vendor_exclusive"
        } else if room.taken + room.ahead >= i64::from(max_concurrent) {
            "vendor_concurrency"
        } else if is_new && room.running_over_connection + room.ahead >= i64::from(settings.max_running_over_connection)
        {
            "connection_concurrency"
        } else if is_new && room.running_of_tenant >= i64::from(settings.max_running_of_tenant) {
            "tenant_concurrency"
        } else {
            return Ok(true);
        };
        settle::held(store::engine::wait_for_slot(&mut *tx, id, claim, reason, key).await?)?;
        if reason == "tenant_concurrency" {
            // It may have been woken for room that another can use.
            store::slots::wake_next(&mut *tx, connection).await?;
        }
        Ok(false)
    }

    /// Asks how far the vendor is; fetches the files when they are ready.
    async fn follow(
        &self,
        account: &OpenAccount,
        request: &ExportRequest,
        spec: &'static DatasetSpec,
        ticket: &[u8],
    ) -> Result<(), Stop> {
        let export = &self.claimed.export;
        if export.data_as_of.is_some() && store::parts::exist(&self.worker.gateway.db, export.export_id).await? {
            return Parts { step: self, account, request, spec }.look_after().await;
        }
        let ticket = account.open_ticket(&self.worker.gateway, export.run(), ticket)?;
        let inquiry = Inquiry {
            of: Pending::Job(&ticket),
            seen_ready: export.data_as_of.is_some(),
            called_back: self.claimed.called_back_at.is_some(),
            since: self.claimed.submitted_at.unwrap_or(self.claimed.now),
            now: self.claimed.now,
        };
        let progress = self.hold.race(account.vendor.poll(request, &inquiry, self.exchanges)).await??;
        match progress {
            Progress::Preparing { status, ask_again_in, warning } => {
                let same = export.vendor_status.as_deref() == Some(status.as_str());
                if same {
                    self.give_up_when_stalled(spec)?;
                }
                let waited = (inquiry.now - inquiry.since).to_std().unwrap_or_default();
                let spacing = self.worker.settings.spacing.times(spec.poll_factor);
                let after = self.jitter(spacing.poll(waited, ask_again_in));
                self.look_again(after, Phase::VendorProcessing, Some(&status), warning.as_deref()).await
            }
            Progress::Ready(files) => transfer::transfer(self, account, request, spec, files).await,
            Progress::Data(data) => transfer::transfer_data(self, account, request, data).await,
            Progress::NextStage(submitted) => {
                let db = &self.worker.gateway.db;
                let (id, claim) = (export.export_id, self.claimed.claim);
                let ticket = account.seal_ticket(&self.worker.gateway, export.run(), &submitted.ticket)?;
                let reference = submitted.reference.as_deref();
                settle::held(store::engine::replace_ticket(db, id, claim, &ticket, reference).await?)?;
                self.look_again(self.worker.settings.spacing.min, Phase::VendorProcessing, None, None).await
            }
        }
    }

    /// Adds warnings to the export.
    pub async fn warn(&self, warnings: &[String]) -> Result<(), Stop> {
        let (db, id, claim) = (&self.worker.gateway.db, self.claimed.export.export_id, self.claimed.claim);
        for warning in warnings {
            settle::held(store::engine::add_warning(db, id, claim, warning).await?)?;
        }
        Ok(())
    }

    /// Stops the job of a cancelled export at the vendor, if there is one and no other export hangs on it. The export
    /// is cancelled whatever comes of it.
    async fn cancel_at_vendor(&self) -> Result<(), Stop> {
        let export = &self.claimed.export;
        let db = &self.worker.gateway.db;
        // Not as it was claimed: it may have begun in this very step.
        let is_begun = store::engine::is_begun(db, export.export_id).await?;
        let key = store::exports::exclusive_key(db, export.export_id).await?;
        let Some(key) = key.filter(|_| is_begun && export.data_as_of.is_none()) else { return Ok(()) };
        if store::sharing::is_followed(db, export.export_id).await?
            || store::slots::is_shared(db, &export.vendor, export.export_id, &key).await?
        {
            return Ok(());
        }
        let Some(sealed) = store::connections::sealed_by_id(db, export.connection_id).await? else { return Ok(()) };
        let account = self.worker.gateway.open_account(&sealed)?;
        let request = ExportRequest::parse(export.dataset, &export.parameters, export.output.0)
            .map_err(|errors| Stop::Fail(Box::new(Problem::invalid(errors))))?;
        let ticket = match &self.claimed.ticket {
            Some(ticket) => Some(account.open_ticket(&self.worker.gateway, export.run(), ticket)?),
            None => None,
        };
        account.vendor.cancel(&request, ticket.as_ref(), self.exchanges).await.map_err(Stop::Vendor)
    }

    pub fn give_up_when_stalled(&self, spec: &DatasetSpec) -> Result<(), Stop> {
        let silent = settle::silence(&self.claimed.export, self.claimed.now);
        if silent < spec.stall_window {
            return Ok(());
        }
        let detail = format!("nothing has moved at the vendor for {} minutes", silent.as_secs() / 60);
        Err(Stop::Fail(Box::new(Problem::new(Code::VendorStalled, detail))))
    }

    async fn look_again(
        &self,
        after: Duration,
        phase: Phase,
        vendor_status: Option<&str>,
        warning: Option<&str>,
    ) -> Result<(), Stop> {
        let release =
            Release { after, phase, waiting_reason: None, vendor_status, failures: 0, outcome_unknown: false, warning };
        let id = self.claimed.export.export_id;
        self.keep_exchanges().await;
        settle::held(self.worker.releaser.release(id, self.claimed.claim, &release).await?)
    }

    /// Writes down what was exchanged so far. Done before the export is let go: whoever sees it move on, or holds it
    /// next, finds the exchanges that moved it.
    pub async fn keep_exchanges(&self) {
        settle::keep_exchanges(self.worker, self.claimed.export.export_id, self.exchanges).await;
    }

    pub fn jitter(&self, pause: Duration) -> Duration {
        settle::jitter(self.claimed.claim, pause)
    }
}

/// A callback address with a fresh token, and what the database keeps of the token.
fn callback(base: &Url) -> Option<(Url, Vec<u8>)> {
    let mut random = [0u8; 32];
    rand::fill(&mut random).ok()?;
    let token = URL_SAFE_NO_PAD.encode(random);
    let mut url = base.clone();
    url.path_segments_mut().ok()?.pop_if_empty().extend(["callbacks", &token]);
    Some((url, callbacks::token_sha256(&token)))
}
