//! The mailbox of an actor.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::api;
use crate::operator::committer::LedgerEvent;
use crate::operator::publisher::report::NotReady;
use crate::runtime::Desired;

/// What an actor is sent.
pub enum Message {
    /// The Organism as it was reconciled.
    Organism(Arc<api::Organism>),
    /// Its Genome is bound: the desired state, and the Genome's name.
    Desired(Box<Desired>, String),
    /// It cannot get as far as beating.
    NotReady(NotReady),
    /// An object of its body has changed.
    BodyChanged,
    /// A pod of its body has changed.
    PodsChanged,
    /// An object of its ledger was deleted, or all were listed again.
    LedgerObjects(LedgerEvent),
    /// End, and answer when nothing of it runs any more.
    End(End, oneshot::Sender<()>),
}

/// Why an actor has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The operator is stopping: commit what is pending and write the last status.
    Stop,
    /// Another replica is to hold the organism: commit what is pending, and give its ledger back.
    Released,
    /// Another replica holds the organism: nothing more is written.
    Lost,
    /// The Organism is deleted: nothing more is committed, unless its ledger stays.
    Deleted,
}

/// Sends to an actor. Unbounded, because a watch must not wait for an actor; what it holds is bounded by the
/// number of changes to the objects of one organism.
#[derive(Clone, Debug)]
pub struct Mailbox {
    uid: Arc<str>,
    messages: mpsc::UnboundedSender<Message>,
}

impl Mailbox {
    /// The mailbox of the actor for the Organism with this UID, and its receiving end.
    #[must_use]
    pub fn new(uid: &str) -> (Self, mpsc::UnboundedReceiver<Message>) {
        let (messages, receiver) = mpsc::unbounded_channel();
        (Self { uid: uid.into(), messages }, receiver)
    }

    /// UID of the Organism.
    #[must_use]
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// Whether `other` sends to the same actor.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.messages.same_channel(&other.messages)
    }

    /// Sends a message. One for an actor that is gone is dropped.
    pub fn send(&self, message: Message) {
        let _ = self.messages.send(message);
    }

    /// Asks the actor to end and does not wait for it.
    pub fn request_end(&self, end: End) {
        self.send(Message::End(end, oneshot::channel().0));
    }

    /// Ends the actor. Returns when it is gone.
    pub async fn end(&self, end: End) {
        let (done, gone) = oneshot::channel();
        self.send(Message::End(end, done));
        // An error means that it was gone already, or went without an answer.
        let _ = gone.await;
        self.messages.closed().await;
    }
}
