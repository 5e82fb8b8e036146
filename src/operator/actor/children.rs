//! The tasks that an actor supervises.

use std::collections::HashMap;

use tokio::task::{AbortHandle, Id, JoinSet};

use crate::operator::committer::ledger::OwnedLedger;
use crate::operator::recovery::RecoveryError;
use crate::operator::recovery::lists::ListError;
use crate::operator::{committer, publisher};
use crate::runtime::History;
use crate::store::objects::Objects;

/// What a task is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Child {
    Publisher,
    Body,
    Recovery,
    Committer,
    Collector,
    Response,
    Sensors,
    Adoption,
    Confirmation,
    List,
}

/// What a task returns.
pub(super) enum Exit {
    Publisher(publisher::Exit),
    Recovery(Box<Result<(OwnedLedger, History), RecoveryError>>),
    Committer(committer::Exit),
    /// Whether the organism is still held.
    Confirmed(bool),
    /// The objects of the ledger.
    Listed(Result<Objects, ListError>),
    Other,
}

/// How a task ended.
pub(super) enum Ended {
    Exit(Exit),
    Panic(Child),
    /// It was aborted, so nobody waits for its result.
    Aborted,
}

/// A set of tasks by what they are for. Dropping it aborts them.
#[derive(Default)]
pub(super) struct Children {
    set: JoinSet<Exit>,
    running: HashMap<Id, (Child, AbortHandle)>,
}

impl Children {
    pub(super) fn spawn(&mut self, child: Child, task: impl Future<Output = Exit> + Send + 'static) {
        let handle = self.set.spawn(task);
        self.running.insert(handle.id(), (child, handle));
    }

    /// Waits for the next task to end; none when there is no task. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<Ended> {
        let ended = self.set.join_next_with_id().await?;
        let id = ended.as_ref().map_or_else(tokio::task::JoinError::id, |(id, _)| *id);
        let child = self.running.remove(&id);
        Some(match (child, ended) {
            (Some(_), Ok((_, exit))) => Ended::Exit(exit),
            (Some((child, _)), Err(error)) if error.is_panic() => Ended::Panic(child),
            _ => Ended::Aborted,
        })
    }

    pub(super) fn is_running(&self, child: Child) -> bool {
        self.running.values().any(|(it, _)| *it == child)
    }

    /// Aborts a task.
    pub(super) fn abort(&mut self, child: Child) {
        self.running.retain(|_, (it, handle)| {
            if *it == child {
                handle.abort();
            }
            *it != child
        });
    }

    /// Returns when no task of this kind runs.
    pub(super) async fn wait_for(&mut self, child: Child) {
        while self.is_running(child) && self.next().await.is_some() {}
    }

    /// Aborts all tasks and waits until they are dropped.
    pub(super) async fn shutdown(&mut self) {
        self.running.clear();
        self.set.shutdown().await;
    }
}
