//! The registry of actors: keys to mailboxes, and nothing else.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::{mpsc, watch};

use super::actor::mailbox::{End, Mailbox, Message};
use super::key::Key;

/// Wait before everything is reconciled again.
const AGAIN: Duration = Duration::from_secs(1);

/// The actors of this process.
pub struct Registry {
    mailboxes: Mutex<BTreeMap<Key, Mailbox>>,
    /// Counts actors that panicked or lost their organism; the controllers reconcile everything when it changes.
    losses: watch::Sender<u64>,
}

impl Default for Registry {
    fn default() -> Self {
        Self { mailboxes: Mutex::default(), losses: watch::Sender::new(0) }
    }
}

impl Registry {
    /// The mailbox of the actor for `key` and `uid`. Where there is none, `start` makes the actor's future, which returns
    /// whether its Organism is to be reconciled again.
    ///
    /// # Errors
    /// The mailbox of an actor that has this key and another UID: it has to end first.
    pub fn get_or_start<F>(
        self: &Arc<Self>,
        key: &Key,
        uid: &str,
        start: impl FnOnce(mpsc::UnboundedReceiver<Message>) -> F,
    ) -> Result<Mailbox, Mailbox>
    where
        F: Future<Output = bool> + Send + 'static,
    {
        let mut mailboxes = self.lock();
        if let Some(mailbox) = mailboxes.get(key) {
            let mailbox = mailbox.clone();
            return if mailbox.uid() == uid { Ok(mailbox) } else { Err(mailbox) };
        }
        let (mailbox, receiver) = Mailbox::new(uid);
        mailboxes.insert(key.clone(), mailbox.clone());
        let (registry, key, own) = (self.clone(), key.clone(), mailbox.clone());
        let actor = tokio::spawn(start(receiver));
        tokio::spawn(async move {
            let ended = actor.await;
            registry.remove(&key, &own);
            if let Err(error) = &ended {
                tracing::error!(organism = %key, %error, "an actor panicked; its Organism is reconciled again");
            }
            if ended.unwrap_or(true) {
                // Not at once: what the watches show may be older than what has ended it.
                tokio::time::sleep(AGAIN).await;
                registry.losses.send_modify(|count| *count += 1);
            }
        });
        Ok(mailbox)
    }

    /// The mailbox of the actor for `key`.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<Mailbox> {
        self.lock().get(key).cloned()
    }

    /// UID of the Organism that has an actor for `key`.
    #[must_use]
    pub fn uid(&self, key: &Key) -> Option<String> {
        self.lock().get(key).map(|mailbox| mailbox.uid().to_owned())
    }

    /// All keys that have an actor.
    #[must_use]
    pub fn keys(&self) -> Vec<Key> {
        self.lock().keys().cloned().collect()
    }

    /// Sends to the actor for `key`, if there is one.
    pub fn send(&self, key: &Key, message: Message) {
        if let Some(mailbox) = self.get(key) {
            mailbox.send(message);
        }
    }

    /// Changes a moment after an actor has panicked or lost its organism.
    #[must_use]
    pub fn losses(&self) -> watch::Receiver<u64> {
        self.losses.subscribe()
    }

    /// Ends all actors side by side. Returns false if `limit` was too short for some.
    pub async fn end_all(&self, limit: Duration) -> bool {
        let mailboxes: Vec<Mailbox> = self.lock().values().cloned().collect();
        let ended = join_all(mailboxes.iter().map(|mailbox| mailbox.end(End::Stop)));
        tokio::time::timeout(limit, ended).await.is_ok()
    }

    fn remove(&self, key: &Key, own: &Mailbox) {
        let mut mailboxes = self.lock();
        if mailboxes.get(key).is_some_and(|mailbox| mailbox.is_same(own)) {
            mailboxes.remove(key);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Mailbox>> {
        // A panic while it is held leaves the map itself whole.
        self.mailboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(registry: &Arc<Registry>, uid: &str) -> Result<Mailbox, Mailbox> {
        registry.get_or_start(&Key::new("a", "venom"), uid, |mut mailbox| async move {
            while let Some(message) = mailbox.recv().await {
                if let Message::End(_, done) = message {
                    let _ = done.send(());
                    return false;
                }
            }
            false
        })
    }

    async fn until_gone(registry: &Registry) {
        while registry.uid(&Key::new("a", "venom")).is_some() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn an_actor_of_an_earlier_uid_has_to_end_first_and_takes_only_its_own_entry_along() {
        let registry = Arc::new(Registry::default());
        let first = start(&registry, "1").unwrap();
        assert!(start(&registry, "1").unwrap().is_same(&first));
        let earlier = start(&registry, "2").unwrap_err();
        assert!(earlier.is_same(&first));
        earlier.end(End::Deleted).await;
        until_gone(&registry).await;
        assert!(start(&registry, "2").is_ok());
        // The end of the first actor is long over; its entry is not the second's.
        registry.remove(&Key::new("a", "venom"), &first);
        assert_eq!(registry.uid(&Key::new("a", "venom")).as_deref(), Some("2"));
    }

    #[tokio::test]
    async fn an_actor_that_panics_is_removed_and_counted() {
        let registry = Arc::new(Registry::default());
        let mut losses = registry.losses();
        let started =
            registry.get_or_start(&Key::new("a", "venom"), "1", |_| async { panic!("out of order") });
        assert!(started.is_ok());
        losses.changed().await.unwrap();
        assert_eq!((*losses.borrow(), registry.keys()), (1, vec![]));
    }

    #[tokio::test]
    async fn an_actor_that_does_not_end_keeps_no_other_from_ending() {
        let registry = Arc::new(Registry::default());
        let stuck = registry.get_or_start(&Key::new("a", "stuck"), "1", |mailbox| async move {
            let _mailbox = mailbox;
            std::future::pending().await
        });
        assert!(stuck.is_ok() && start(&registry, "1").is_ok());
        assert!(!registry.end_all(Duration::from_millis(300)).await);
        assert_eq!(registry.keys(), [Key::new("a", "stuck")]);
    }
}
