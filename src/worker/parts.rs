//! Exports in parts, from the side of the export: it begins them, rests while they are worked on, and becomes its result
//! when the last is done. Any worker takes parts beside exports ([`claim`]); what is done with one is in [`part`], how
//! all become one result in [`join`].

pub mod claim;
mod join;
mod part;

use std::time::Duration;

use tracing::info;

use super::{
    settle::{self, Stop},
    step::Step,
    transfer,
};
use crate::{
    exports::{request::ExportRequest, state::Phase},
    ids::ExportId,
    operations::accounts::{AccountError, OpenAccount},
    store::{self, parts::NewPart},
    vendors::{DatasetSpec, VendorFile},
    worker::Worker,
};

/// Up to so many files are fetched one after another by one worker: a part costs a claim, a file of its own in the store
/// and one more reading.
const FEW_FILES: usize = 16;

/// Whether files are better fetched by all workers at once.
pub fn are_many(files: &[VendorFile]) -> bool {
    files.len() > FEW_FILES
}

/// The export whose parts they are, in the hands of this worker.
#[derive(Clone, Copy)]
pub struct Parts<'a> {
    pub step: &'a Step<'a>,
    pub account: &'a OpenAccount,
    pub request: &'a ExportRequest,
    pub spec: &'static DatasetSpec,
}

impl Parts<'_> {
    /// Notes what is to be asked for, and rests.
    pub async fn begin(&self, names: &[String]) -> Result<(), Stop> {
        let (id, claim) = (self.step.claimed.export.export_id, self.step.claimed.claim);
        self.step.keep_exchanges().await;
        let mut tx = self.step.worker.gateway.db.begin().await?;
        if store::parts::take_over(&mut *tx, id).await? == 0 {
            let asked = |(number, name): (i32, &String)| {
                let name = Some(name.clone());
                NewPart { number, name, ..NewPart::default() }
            };
            let parts: Vec<_> = (1..).zip(names).map(asked).collect();
            store::parts::insert(&mut *tx, id, &parts, self.at_once()).await?;
        }
        store::parts::count(&mut *tx, id).await?;
        // What the version before has done may be all there is to do.
        let rest = if store::parts::are_pending(&mut *tx, id).await? { self.spec.stall_window } else { Duration::ZERO };
        let rests = store::parts::leave_export(&mut *tx, id, claim, Phase::VendorProcessing, rest).await?;
        settle::held(rests)?;
        tx.commit().await?;
        Ok(())
    }

    /// The vendor has finished its job and made many files: each is a part.
    pub async fn begin_with_files(&self, files: &[VendorFile]) -> Result<(), Stop> {
        let (id, claim) = (self.step.claimed.export.export_id, self.step.claimed.claim);
        let parts = files_as_parts(self.step.worker, self.account, self.step.claimed.export.run(), 1, files)?;
        self.step.keep_exchanges().await;
        let mut tx = self.step.worker.gateway.db.begin().await?;
        transfer::begin(self.step, &mut tx, files.len()).await?;
        store::parts::insert(&mut *tx, id, &parts, self.at_once()).await?;
        let rests = store::parts::leave_export(&mut *tx, id, claim, Phase::Downloading, self.spec.stall_window).await?;
        settle::held(rests)?;
        tx.commit().await?;
        info!(files = files.len(), "the vendor has many files; all workers fetch them");
        Ok(())
    }

    /// Completes the export when every part is done, and ends it when one has failed or nothing moves any more; else
    /// rests again.
    pub async fn look_after(&self) -> Result<(), Stop> {
        let export = &self.step.claimed.export;
        let (db, id) = (&self.step.worker.gateway.db, export.export_id);
        if let Some(problem) = store::parts::failed(db, id).await? {
            return Err(Stop::Fail(Box::new(problem)));
        }
        if !store::parts::are_pending(db, id).await? {
            return join::finish(self).await;
        }
        // A part that only fails has a better reason to tell, and tells it first.
        let patience = self.spec.stall_window + self.step.worker.settings.spacing.max * 2;
        let silent = settle::silence(export, self.step.claimed.now);
        if silent >= patience {
            self.step.give_up_when_stalled(self.spec)?;
        }
        let (rest, phase) = (patience.saturating_sub(silent), export.phase);
        let phase = phase.unwrap_or(Phase::VendorProcessing);
        let rests = store::parts::leave_export(db, id, self.step.claimed.claim, phase, rest).await?;
        settle::held(rests)
    }

    fn at_once(&self) -> i64 {
        i64::from(self.account.vendor.parts_at_once(self.request))
    }
}

/// The vendor's files, in their order, as parts that take the place of part `number`.
fn files_as_parts(
    worker: &Worker,
    account: &OpenAccount,
    run: ExportId,
    number: i32,
    files: &[VendorFile],
) -> Result<Vec<NewPart>, AccountError> {
    let part = |(file, of): (i32, &VendorFile)| {
        let locator = Some(account.seal_file(&worker.gateway, run, of)?);
        Ok(NewPart { number, file, name: None, locator })
    };
    (1..).zip(files).map(part).collect()
}
