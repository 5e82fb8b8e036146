//! Commits on a thread of its own, so that a slow disk or a merge does not hold up a beat.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::heart::Recorded;
use crate::ledger::entry::Record;
use crate::mesh::{Outcome, OutcomeSender};
use crate::store::directory::{FolderError, Writer};

/// At most so many commits wait; then the heart waits, and skips beats. No entry is ever dropped.
const WAITING: usize = 2;

/// What is to be committed at once.
#[derive(Default)]
pub(super) struct Job {
    pub(super) records: Vec<Record>,
    /// The injections among them.
    pub(super) injections: Vec<Recorded>,
}

/// The thread that commits.
pub(super) struct Keeper {
    jobs: SyncSender<Job>,
    thread: JoinHandle<Result<Writer, FolderError>>,
}

/// The keeper has stopped: [`Keeper::finish`] says why.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stopped;

impl Keeper {
    /// Starts the thread. What injections became is said in `answers`, once they are committed.
    pub(super) fn start(writer: Writer, answers: Option<OutcomeSender>) -> io::Result<Self> {
        let (jobs, receiver) = sync_channel(WAITING);
        let thread = std::thread::Builder::new()
            .name("venom-keeper".into())
            .spawn(move || keep(writer, &receiver, answers))?;
        Ok(Self { jobs, thread })
    }

    /// Hands records over to be committed.
    pub(super) fn commit(&mut self, job: Job) -> Result<(), Stopped> {
        self.jobs.send(job).map_err(|_| Stopped)
    }

    /// Waits until all is committed.
    pub(super) fn finish(self) -> Result<Writer, FolderError> {
        drop(self.jobs);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

fn keep(
    mut writer: Writer,
    jobs: &Receiver<Job>,
    answers: Option<OutcomeSender>,
) -> Result<Writer, FolderError> {
    for Job { records, injections } in jobs {
        let entries: Vec<_> = injections.iter().map(|it| (it.entry, it.time)).collect();
        writer.commit(&records, &entries)?;
        for Recorded { event, entry, .. } in injections {
            if let Some(answers) = &answers {
                answers.send(event, Outcome::Committed { entry });
            }
        }
    }
    Ok(writer)
}
