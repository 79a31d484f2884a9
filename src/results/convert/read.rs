//! The reading thread: takes the vendor's files as they come and cuts them into work for others.

use std::{borrow::Cow, io::Read, sync::mpsc};

use super::{
    Job,
    work::{Task, Tasks, What},
    write::Results,
};
use crate::{
    exports::records::Framing,
    results::{
        Error,
        archive::{PackedMember, Place, Unpacker, Visitor, reading},
        cut,
        receive::{Inputs, Received},
        spool,
    },
};

/// Pieces of a text that may wait.
const PIECES_WAITING: usize = 4;

/// Reads every file to its end. Ends early when nobody takes the work.
pub(super) fn read(job: &Job<'_>, inputs: &mut Inputs, tasks: &Tasks, results: &mut Results) -> Result<(), Error> {
    let conversion = job.conversion;
    let unpacker = job.unpacker();
    let mut number = 0;
    while let Some(Received { mut bytes, tag, .. }) = inputs.next()? {
        number += 1;
        let framing = conversion.records.framing(&tag);
        let mut cutter = Cutter { framing, tag: &tag, tasks, results, job };
        if let Framing::Json { .. } = framing {
            // What stands beside the records may come after them, so such a file is read twice.
            let file = spool::spool(&mut *bytes, &conversion.spool_dir)?;
            cutter.hand_over(What::Document { number, file })?;
        } else {
            unpacker.for_each_member(bytes, number, &mut cutter)?;
        }
        job.meter.count_file();
    }
    Ok(())
}

impl<'a> Job<'a> {
    pub(super) fn unpacker<'u>(&'u self) -> Unpacker<'u>
    where
        'a: 'u,
    {
        Unpacker {
            limits: &self.conversion.limits,
            totals: &self.totals,
            small_member_bytes: self.small_member_bytes,
            spool_dir: &self.conversion.spool_dir,
        }
    }
}

/// Makes tasks of the members of a file.
struct Cutter<'a, 'j> {
    framing: Framing,
    tag: &'a Cow<'static, str>,
    tasks: &'a Tasks,
    results: &'a mut Results,
    job: &'a Job<'j>,
}

impl Cutter<'_, '_> {
    fn hand_over(&mut self, what: What) -> Result<(), Error> {
        self.tasks.send(Task { what, tag: self.tag.clone(), results: self.results.next()? })
    }
}

impl Visitor for Cutter<'_, '_> {
    fn packed(&mut self, member: PackedMember) -> Result<(), Error> {
        self.hand_over(What::Packed(member))
    }

    fn unpacked(&mut self, place: Place, bytes: &mut dyn Read) -> Result<(), Error> {
        if self.framing == Framing::Lines {
            let limits = &self.job.conversion.limits;
            return cut::blocks(place, bytes, limits, &mut |lines| self.hand_over(What::Lines(lines)));
        }
        // Records of other texts cannot be told apart from the middle on: one worker has them all.
        let (sender, receiver) = mpsc::sync_channel(PIECES_WAITING);
        self.hand_over(What::Text { place, pieces: receiver })?;
        let mut carried = Vec::new();
        loop {
            let mut piece = std::mem::take(&mut carried);
            let is_last = !cut::read_on(bytes, &mut piece).map_err(|error| reading(place, error))?;
            // What ends with a line is a whole number of rows, mostly, and can stay where it is when it is cut.
            if !is_last && let Some(end) = memchr::memrchr(b'\n', &piece) {
                carried.extend_from_slice(&piece[end + 1..]);
                piece.truncate(end + 1);
            }
            if !piece.is_empty() {
                sender.send(Some(piece)).map_err(|_| Error::stopped())?;
            }
            if is_last {
                return sender.send(None).map_err(|_| Error::stopped());
            }
        }
    }
}
