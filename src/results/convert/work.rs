//! The working threads: unpack what is packed, read records, make rows and batches of them.

use std::{
    borrow::Cow,
    fs::File,
    io::{self, BufRead, Read, Seek},
    sync::{Arc, Mutex, PoisonError, mpsc},
};

use serde_json::Value;

use super::{
    Job,
    write::{Message, Rejected, ResultsOfTask},
};
use crate::{
    exports::{
        records::{BadRecord, Framing, Member, Record},
        request::{OnBadRecord, RecordSchema},
    },
    results::{
        Error,
        archive::{PackedMember, Place, Visitor, buffered},
        cut::{self, At},
        encode::RowBuffer,
    },
};

/// Work for one thread.
pub(super) struct Task {
    pub(super) what: What,
    pub(super) tag: Cow<'static, str>,
    pub(super) results: ResultsOfTask,
}

pub(super) enum What {
    /// A small member of an archive.
    Packed(PackedMember),
    /// Some lines of a large one.
    Lines(cut::Lines),
    /// A text that has to be read from its beginning, while it comes. `None` is its end.
    Text { place: Place, pieces: mpsc::Receiver<Option<Vec<u8>>> },
    /// JSON documents, packed or not.
    Document { number: usize, file: File },
}

/// Where the reading thread puts tasks.
pub(super) struct Tasks(mpsc::SyncSender<Task>);

/// Where the working threads find them.
#[derive(Clone)]
pub(super) struct Todo(Arc<Mutex<mpsc::Receiver<Task>>>);

/// A queue of tasks, which are taken in their order.
pub(super) fn queue(workers: usize) -> (Tasks, Todo) {
    let (sender, receiver) = mpsc::sync_channel(workers);
    (Tasks(sender), Todo(Arc::new(Mutex::new(receiver))))
}

impl Tasks {
    pub(super) fn send(&self, task: Task) -> Result<(), Error> {
        self.0.send(task).map_err(|_| Error::stopped())
    }
}

impl Todo {
    fn next(&self) -> Option<Task> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
    }
}

/// Does what there is to do, to the end.
pub(super) fn work(job: &Job<'_>, todo: &Todo) -> Result<(), Error> {
    let mut worker = Worker { job, rows: job.encoding.buffer(), line: Vec::new() };
    let mut last = None;
    while let Some(Task { what, tag, results }) = todo.next() {
        let done = Reader { worker: &mut worker, member: None, tag: &tag, results: &results, job }.task(what);
        if let Err(error) = done {
            // Noted before the writer can see that nothing more comes.
            job.note(Err(error));
            return Ok(());
        }
        if job.conversion.output.ordered {
            worker.hand_over(&results)?;
        } else {
            // Few rows go with those of the next task.
            last = Some(results);
        }
    }
    last.map_or(Ok(()), |results| worker.hand_over(&results))
}

struct Worker<'a> {
    job: &'a Job<'a>,
    rows: RowBuffer,
    /// A vendor's own record.
    line: Vec<u8>,
}

impl Worker<'_> {
    fn hand_over(&mut self, results: &ResultsOfTask) -> Result<(), Error> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let batch = self.rows.take()?;
        self.job.meter.count_records(batch.records);
        self.job.meter.count_unreadable_times(batch.unreadable_times);
        results.send(Message::Batch(batch))
    }
}

/// Reads the records of one task.
struct Reader<'w, 'j, 't> {
    worker: &'w mut Worker<'j>,
    /// The file that is being read.
    member: Option<Box<dyn Member + 't>>,
    tag: &'t str,
    results: &'t ResultsOfTask,
    job: &'t Job<'t>,
}

impl Reader<'_, '_, '_> {
    fn task(&mut self, what: What) -> Result<(), Error> {
        match what {
            What::Packed(member) => {
                let unpacker = self.job.unpacker();
                let mut text = member.open(&unpacker)?;
                self.text(member.place, &mut buffered(&mut text))
            }
            What::Lines(lines) => {
                self.begin();
                lines.each(&self.job.conversion.limits, &mut |at, record| self.record(at, record))
            }
            What::Text { place, pieces } => self.text(place, &mut Pieces { pieces, current: io::Cursor::default() }),
            What::Document { number, file } => self.document(number, file),
        }
    }

    /// A member from its first record on.
    fn begin(&mut self) {
        self.member = Some(self.job.conversion.records.member(self.tag));
    }

    fn text(&mut self, place: Place, text: &mut dyn BufRead) -> Result<(), Error> {
        self.begin();
        let limits = &self.job.conversion.limits;
        match self.job.conversion.records.framing(self.tag) {
            Framing::Delimited(dialect) => {
                cut::delimited(place, text, dialect, limits, &mut |at, record| self.record(at, record))
            }
            Framing::Lines | Framing::Json { .. } => {
                cut::lines(place, &mut *text, limits, &mut |at, record| self.record(at, record))
            }
        }
    }

    /// JSON documents: first what stands beside their records, then these.
    fn document(&mut self, number: usize, mut file: File) -> Result<(), Error> {
        let records = &self.job.conversion.records;
        let Framing::Json { records: path } = records.framing(self.tag) else { return Ok(()) };
        let limits = &self.job.conversion.limits;
        let mut heads: Vec<Vec<Value>> = Vec::new();
        let again = file.try_clone().map_err(unreadable)?;
        // Counted once, when the records are read.
        let uncounted = crate::results::archive::Totals::default();
        let unpacker = crate::results::archive::Unpacker { totals: &uncounted, ..self.job.unpacker() };
        unpacker.for_each_member(
            Box::new(again),
            number,
            &mut Texts {
                unpacker: &unpacker,
                each: &mut |place, text| {
                    heads.push(cut::heads(place, &mut buffered(text), path, limits)?);
                    Ok(())
                },
            },
        )?;
        file.rewind().map_err(unreadable)?;
        let mut heads = heads.into_iter();
        let unpacker = self.job.unpacker();
        unpacker.for_each_member(
            Box::new(file),
            number,
            &mut Texts {
                unpacker: &unpacker,
                each: &mut |place, text| {
                    self.begin();
                    let heads = heads.next().unwrap_or_default();
                    for head in &heads {
                        records.document(head);
                    }
                    let mut each = |at: At, record: Record<'_>| self.record(at, record);
                    cut::elements(place, &mut buffered(text), path, &heads, limits, &mut each)
                },
            },
        )
    }

    fn record(&mut self, at: At, record: Record<'_>) -> Result<(), Error> {
        let before = self.worker.rows.mark();
        let Err(bad) = self.rows_of(record) else {
            return if self.worker.rows.is_full() { self.worker.hand_over(self.results) } else { Ok(()) };
        };
        self.worker.rows.undo(before)?;
        match self.job.conversion.output.on_bad_record {
            OnBadRecord::Fail => Err(at.bad_record(&bad)),
            OnBadRecord::Skip => self.results.send(Message::Rejected(Rejected { at, why: bad })),
        }
    }

    fn rows_of(&mut self, record: Record<'_>) -> Result<(), BadRecord> {
        let Some(member) = &mut self.member else { return Ok(()) };
        let Worker { rows, line, .. } = &mut *self.worker;
        match self.job.conversion.output.schema {
            RecordSchema::Unified => member.unified(record, &mut |row| rows.push(row)),
            RecordSchema::Vendor => {
                line.clear();
                member.vendor(record, line)?;
                if !line.is_empty() {
                    rows.push_vendor(line)?;
                }
                if line.capacity() > cut::ROOMY {
                    *line = Vec::new();
                }
                Ok(())
            }
        }
    }
}

fn unreadable(error: io::Error) -> Error {
    Error::storing("a vendor file could not be read from the local disk", error)
}

/// Reads each member's text here and now.
struct Texts<'a, 'u> {
    unpacker: &'a crate::results::archive::Unpacker<'u>,
    each: &'a mut dyn FnMut(Place, &mut dyn Read) -> Result<(), Error>,
}

impl Visitor for Texts<'_, '_> {
    fn packed(&mut self, member: PackedMember) -> Result<(), Error> {
        (self.each)(member.place, &mut member.open(self.unpacker)?)
    }

    fn unpacked(&mut self, place: Place, bytes: &mut dyn Read) -> Result<(), Error> {
        (self.each)(place, bytes)
    }
}

/// A text that comes in pieces.
struct Pieces {
    pieces: mpsc::Receiver<Option<Vec<u8>>>,
    current: io::Cursor<Vec<u8>>,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.fill_buf()?.read(buffer)?;
        self.consume(bytes);
        Ok(bytes)
    }
}

impl BufRead for Pieces {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.current.fill_buf()?.is_empty() {
            match self.pieces.recv() {
                Ok(Some(piece)) => self.current = io::Cursor::new(piece),
                // It stays ended, as its sender is gone or will say the same.
                Ok(None) => {}
                Err(_) => return Err(Error::stopped().into_io()),
            }
        }
        self.current.fill_buf()
    }

    fn consume(&mut self, bytes: usize) {
        self.current.consume(bytes);
    }
}
