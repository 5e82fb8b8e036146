//! Commits on a thread of its own, so that a slow disk or a merge does not hold up a beat.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use crate::ledger::entry::Record;
use crate::store::directory::{FolderError, Writer};

/// At most so many commits wait; then the heart waits, and skips beats. No entry is ever dropped.
const WAITING: usize = 2;

/// The thread that commits.
pub(super) struct Keeper {
    jobs: SyncSender<Vec<Record>>,
    thread: JoinHandle<Result<Writer, FolderError>>,
}

/// The keeper has stopped: [`Keeper::finish`] says why.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stopped;

impl Keeper {
    /// Starts the thread.
    pub(super) fn start(writer: Writer) -> io::Result<Self> {
        let (jobs, receiver) = sync_channel(WAITING);
        let thread =
            std::thread::Builder::new().name("venom-keeper".into()).spawn(move || keep(writer, &receiver))?;
        Ok(Self { jobs, thread })
    }

    /// Hands records over to be committed. None of them is an injection.
    pub(super) fn commit(&mut self, records: Vec<Record>) -> Result<(), Stopped> {
        self.jobs.send(records).map_err(|_| Stopped)
    }

    /// Waits until all is committed.
    pub(super) fn finish(self) -> Result<Writer, FolderError> {
        drop(self.jobs);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

fn keep(mut writer: Writer, jobs: &Receiver<Vec<Record>>) -> Result<Writer, FolderError> {
    for records in jobs {
        writer.commit(&records, 0)?;
    }
    Ok(writer)
}
