//! The replicas of the operator: which there are, and which of them is to hold an organism.
//!
//! | module | contents |
//! |---|---|
//! | [`view`] | which replicas are alive, from what their Leases show (pure) |
//! | [`owner`] | the replica that is to hold an organism (pure) |
//! | [`transfer`] | what follows for one organism (pure) |
//! | [`permit`] | until when this replica may beat |
//! | [`lease`] | the Lease of this replica, and the list of all |
//!
//! There is no leader. Each replica renews one Lease of its own, and compares those of the others with what it saw a
//! second before: whose Lease has not changed for its duration, by the clock of this machine, is gone. Timestamps in
//! Leases are for people. A replica that cannot renew its Lease stops beating before others may take over from it.
//!
//! All this only saves work. Two replicas that disagree about everything still never fork a ledger: the head's epoch
//! decides ([`super::committer`]).

pub mod lease;
pub mod owner;
pub mod permit;
pub mod transfer;
pub mod view;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};

use self::lease::{LeaseError, Leases, OwnLease};
use self::permit::{Permit, boot_time};
use self::view::{Observer, View};
use super::call::CallError;
use super::failure_log::FailureLog;

/// How often a Lease is renewed, and the Leases are listed.
pub const RENEW_PERIOD: Duration = Duration::from_secs(1);
/// How long a Lease is good for after it was last seen to change.
pub const LEASE_DURATION: Duration = Duration::from_secs(5);
/// How long a replica beats after the start of its last renewal: less than [`LEASE_DURATION`].
pub const PERMIT_DURATION: Duration = Duration::from_secs(4);
/// Upper bound on the two calls of a round, which are made side by side.
const ROUND_TIMEOUT: Duration = Duration::from_secs(2);

/// This replica among the others.
pub struct Members {
    identity: Arc<str>,
    /// Until when this replica may beat.
    pub permit: Arc<Permit>,
    view: watch::Sender<Arc<View>>,
    accepts: watch::Sender<bool>,
    /// Why the last round failed.
    failure: Mutex<Option<String>>,
    /// Every replica that was alive at a time. A Deployment names a few with each rollout: they are never forgotten.
    seen: Mutex<BTreeSet<Box<str>>>,
}

impl Members {
    /// A replica that holds nothing yet.
    #[must_use]
    pub fn new(identity: &str) -> Self {
        Self {
            identity: identity.into(),
            permit: Arc::default(),
            view: watch::Sender::new(Arc::new(View::unknown(identity))),
            accepts: watch::Sender::new(false),
            failure: Mutex::default(),
            seen: Mutex::default(),
        }
    }

    /// The only replica, which may beat for good: for tests.
    #[cfg(test)]
    pub(super) fn alone(identity: &str) -> Arc<Self> {
        let members = Self { permit: Arc::new(Permit::unlimited()), ..Self::new(identity) };
        let seen = Observer::new(identity).observe(Duration::ZERO, Duration::ZERO, true, &[]);
        members.show(seen.view(true));
        Arc::new(members)
    }

    /// The name of this replica.
    #[must_use]
    pub fn identity(&self) -> &Arc<str> {
        &self.identity
    }

    /// The replicas as they were seen last.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        self.view.borrow().clone()
    }

    /// Whether this replica has ever been alive, to the knowledge of this one.
    #[must_use]
    pub fn has_seen(&self, identity: &str) -> bool {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).contains(identity)
    }

    /// Changes whenever a replica comes, goes, or no longer takes organisms.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Arc<View>> {
        self.view.subscribe()
    }

    /// Whether this replica takes organisms: it does once it sees what there is, and until it stops.
    pub fn set_accepts(&self, accepts: bool) {
        self.accepts.send_replace(accepts);
    }

    /// Why this replica may not beat; none while it may.
    #[must_use]
    pub fn lapsed(&self) -> Option<String> {
        if self.permit.is_valid() {
            return None;
        }
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Some(failure.unwrap_or_else(|| "its Lease is not written yet".into()))
    }

    /// Renews the Lease of this replica and watches those of the others. Never returns. `told` hears after each round
    /// why it failed, if it did.
    pub async fn run(&self, mut own: OwnLease, leases: Leases, told: impl Fn(Option<&str>)) {
        let mut ticks = interval(RENEW_PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut accepts = self.accepts.subscribe();
        let mut observer = Observer::new(&self.identity);
        let mut log = FailureLog::default();
        let mut expired = vec![];
        // What the Lease says, as far as that is known.
        let mut announced = false;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                // Infallible: this holds the sender.
                Ok(()) = accepts.changed() => {}
            }
            let accepts = *accepts.borrow_and_update() && observer.is_acquainted();
            let started = boot_time();
            // Of two replicas that begin side by side at least one sees the other: each has announced itself before the list
            // by which it takes its first organisms.
            let was_seen = announced && self.permit.is_valid();
            let list = async {
                let found = leases.list().await;
                (found, boot_time())
            };
            let (renewed, listed, _) = tokio::join!(
                timeout(ROUND_TIMEOUT, own.renew(accepts, started)),
                timeout(ROUND_TIMEOUT, list),
                timeout(ROUND_TIMEOUT, leases.delete_expired(&expired)),
            );
            let renewed = renewed.unwrap_or(Err(LeaseError::TimeOut("renew")));
            let (listed, answered) =
                listed.unwrap_or_else(|_| (Err(LeaseError::TimeOut("list")), boot_time()));
            let failure = renewed.as_ref().err().or(listed.as_ref().err()).map(ToString::to_string);
            if let Some(failure) = &failure
                && let Some(times) = log.failed(failure, std::time::Instant::now())
            {
                tracing::warn!(failure, times, "the replicas cannot be counted; retrying");
            }
            if failure.is_none() {
                log.succeeded();
            }
            told(failure.as_deref());
            *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = failure;
            let renewed = renewed.is_ok();
            if !renewed {
                // Sooner: until its permit ends this replica has to see that nobody else renews either.
                ticks.reset_after(RENEW_PERIOD / 2);
            } else if std::mem::replace(&mut announced, accepts) != accepts {
                ticks.reset_immediately();
            }
            let seen = listed.as_ref().ok().map(|found| observer.observe(started, answered, renewed, found));
            if renewed {
                self.permit.extend(started + PERMIT_DURATION);
            } else if seen.as_ref().is_some_and(|seen| seen.nobody_moves) {
                // Until the lists after the next one at most: somebody may begin to move.
                self.permit.extend_from_now_on(started + 2 * RENEW_PERIOD);
            }
            if let Some(seen) = seen {
                self.show(seen.view(accepts && was_seen && self.permit.is_valid()));
            }
            expired = match listed {
                Ok(found) if renewed => observer.expired(started, found),
                _ => vec![],
            };
        }
    }

    /// Deletes the Lease of this replica, so that nobody waits for it.
    ///
    /// # Errors
    /// [`CallError`]. Others then wait until it has expired.
    pub async fn leave(&self, leases: &Leases) -> Result<(), CallError> {
        self.permit.end();
        leases.delete(&self.identity).await
    }

    fn show(&self, view: View) {
        self.view.send_if_modified(|before| {
            let changed = **before != view;
            if changed {
                let (live, owners) = (view.live().join(", "), view.owners().join(", "));
                tracing::info!(live, taking_organisms = owners, "replicas");
                let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
                seen.extend(view.live().into_iter().map(Box::from));
                *before = Arc::new(view);
            }
            changed
        });
    }
}
