//! Handles of running engines.

use std::sync::mpsc::Sender;

use tokio::sync::oneshot;

use super::{Command, EngineId};
use crate::mesh::InjectionEvent;
use crate::organism::input::Sense;
use crate::runtime::Desired;
use crate::store::head::LastEnforcement;

/// A running engine. Dropping this removes it, whatever is pending.
pub struct EngineHandle {
    pub(super) id: EngineId,
    pub(super) commands: Sender<Command>,
}

/// Hands inputs to a running engine. One for an engine that has ended is dropped.
#[derive(Clone)]
pub struct Inputs {
    pub(super) id: EngineId,
    pub(super) commands: Sender<Command>,
}

impl EngineHandle {
    /// Replaces the desired state.
    pub fn set_desired(&self, desired: Desired) {
        self.send(Command::SetDesired(self.id, Box::new(desired)));
    }

    /// Requests a snapshot as soon as one may stand.
    pub fn request_snapshot(&self) {
        self.send(Command::Snapshot(self.id));
    }

    /// Stops beating for good. Returns when everything recorded is committed, or when there is no beater.
    pub async fn flush(&self) {
        let (flushed, done) = oneshot::channel();
        self.send(Command::Flush(self.id, flushed));
        let _ = done.await;
    }

    /// A handle that can only hand in inputs. It does not keep the engine.
    #[must_use]
    pub fn inputs(&self) -> Inputs {
        Inputs { id: self.id, commands: self.commands.clone() }
    }

    pub(super) fn send(&self, command: Command) {
        // The thread has ended only after a panic: the health check reports that.
        let _ = self.commands.send(command);
    }
}

impl Drop for EngineHandle {
    fn drop(&mut self) {
        self.send(Command::Remove(self.id));
    }
}

impl Inputs {
    /// Hands in what a sensor observed. Nothing is recorded while the organism does not beat.
    pub fn sense(&self, sense: Sense) {
        let _ = self.commands.send(Command::Sense(self.id, Box::new(sense)));
    }

    /// Hands in what was done about a decision; `what` are the changes.
    pub fn enforced(&self, enforcement: LastEnforcement, what: Vec<String>) {
        let _ = self.commands.send(Command::Enforced(self.id, Box::new(enforcement), what));
    }

    /// Hands in an injection. Its nodes offer one that is dropped to the next engine.
    pub fn inject(&self, event: InjectionEvent) {
        let _ = self.commands.send(Command::Inject(self.id, Box::new(event)));
    }
}
