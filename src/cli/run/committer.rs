//! Commits batches on a thread of its own, so that a slow disk or a merge does not delay a beat.

use std::io;
use std::sync::mpsc::{Receiver, Sender, SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::beat_loop::Message;
use crate::runtime::Batch;
use crate::store::directory::{FolderError, Writer};

/// The thread that commits.
pub(super) struct Committer {
    batches: SyncSender<Batch>,
    thread: JoinHandle<Result<Writer, FolderError>>,
}

/// The thread has ended; [`Committer::finish`] returns its error.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stopped;

impl Committer {
    /// Starts the thread. It reports each commit, and its own end, to `messages`.
    pub(super) fn start(writer: Writer, messages: Sender<Message>) -> io::Result<Self> {
        // The engine has one batch in flight: a send never blocks.
        let (batches, receiver) = sync_channel(1);
        let thread = std::thread::Builder::new().name("venom-committer".into()).spawn(move || {
            let outcome = commit_all(writer, &receiver, &messages);
            // The beat loop may have ended before.
            let _ = messages.send(Message::CommitterEnded);
            outcome
        })?;
        Ok(Self { batches, thread })
    }

    pub(super) fn commit(&self, batch: Batch) -> Result<(), Stopped> {
        self.batches.send(batch).map_err(|_| Stopped)
    }

    /// Waits for the thread to end.
    pub(super) fn finish(self) -> Result<Writer, FolderError> {
        drop(self.batches);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

fn commit_all(
    mut writer: Writer,
    batches: &Receiver<Batch>,
    messages: &Sender<Message>,
) -> Result<Writer, FolderError> {
    for batch in batches {
        writer.commit(&batch.records, &batch.injections)?;
        let _ = messages.send(Message::Committed);
    }
    Ok(writer)
}
