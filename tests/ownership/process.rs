//! One process of the operator: its clock, what it knows of the replicas and the heads, and its actors.

use std::sync::Arc;
use std::time::Duration;

use venom::operator::members::view::{Observer, Stated, View};

use super::server::Head;

const WRITTEN: Duration = Duration::from_secs(3);

/// A round of `Members::run`.
pub struct Round {
    pub number: u64,
    /// By the clock of this machine.
    pub started: Duration,
    /// Whether it says that it takes organisms, and the others could see that already.
    pub accepts: bool,
    pub was_seen: bool,
    /// When both calls are given up.
    pub deadline: Duration,
    pub renewed: Option<bool>,
    pub listed: Option<bool>,
}

/// What `OwnLease` knows of the Lease.
pub enum Written {
    Fresh,
    Version(u64),
    Displaced(u64, Duration),
}

/// How far a process is from its start to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Starting,
    Serving,
    /// It takes no more organisms, and everything goes on so that others see it.
    Leaving,
    /// It gives back what it holds.
    Stopping,
    /// It deletes its Lease.
    Left,
    Gone,
}

/// Why an actor has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Released,
    /// A stop that marks the head, because there are others.
    Stop,
    /// A stop where nobody waits for the organism.
    Last,
}

/// The actor of one organism. It outlives a recovery that fails; each one that succeeds begins a life.
pub struct Actor {
    /// Unique in the world. The life that it leads has the same number.
    pub id: u64,
    /// The term in which the hold was confirmed last.
    pub confirmed: u64,
    pub failures: u32,
    pub life: Option<Life>,
}

/// From a take-over to its end: engine and committer.
pub struct Life {
    /// As it was written last.
    pub head: Head,
    /// The term in which it began.
    pub began: u64,
    /// Beats that are not committed.
    pub pending: u64,
    /// What is being written.
    pub next: Option<Head>,
    pub retries: u32,
    pub end: Option<End>,
}

/// What one process does about one organism.
#[derive(Default)]
pub struct Organism {
    /// What the watch has shown of its head.
    pub seen: Option<Head>,
    /// When it was last seen to change, by the clock of the machine.
    pub changed: Option<Duration>,
    /// Whether it is being reconciled, and whether it has to be again after that.
    pub busy: bool,
    pub again: bool,
    pub actor: Option<Actor>,
}

pub struct Process {
    pub name: Arc<str>,
    /// How fast its clock runs, and what it shows at the start. Both are of the machine: nobody sets this clock.
    pub rate: f64,
    pub offset: Duration,
    pub phase: Phase,
    pub paused_until: Duration,
    pub woken: Duration,
    /// Whether it cannot reach the API server.
    pub cut: bool,
    pub rounds: u64,
    pub round: Option<Round>,
    /// The Leases that it has listed in that round.
    pub found: Vec<Stated>,
    pub lease: Written,
    pub observer: Observer,
    pub view: Arc<View>,
    pub accepts: bool,
    /// Whether its Lease says so.
    pub announced: bool,
    /// Whether a round is due because of that.
    pub told: bool,
    /// Leases that it deletes after a round.
    pub expired: Vec<(Arc<str>, u64)>,
    /// `Permit`: until when it may beat, by its clock, and how often that was given again.
    pub permit: Duration,
    pub term: u64,
    pub organisms: Vec<Organism>,
}

impl Process {
    pub fn new(name: Arc<str>, rate: f64, offset: Duration, organisms: usize) -> Self {
        Self {
            rate,
            offset,
            phase: Phase::Starting,
            paused_until: Duration::ZERO,
            woken: Duration::ZERO,
            cut: false,
            rounds: 0,
            round: None,
            found: vec![],
            lease: Written::Fresh,
            observer: Observer::new(&name),
            view: Arc::new(View::unknown(&name)),
            accepts: false,
            announced: false,
            told: false,
            expired: vec![],
            permit: Duration::ZERO,
            term: 0,
            organisms: (0..organisms).map(|_| Organism::default()).collect(),
            name,
        }
    }

    /// The time since its machine booted.
    pub fn clock(&self, now: Duration) -> Duration {
        self.offset + now.mul_f64(self.rate)
    }

    pub fn is_up(&self) -> bool {
        self.phase != Phase::Gone
    }

    pub fn is_paused(&self, now: Duration) -> bool {
        now < self.paused_until
    }

    pub fn is_permitted(&self, now: Duration) -> bool {
        self.clock(now) < self.permit
    }

    /// Whether it takes organisms, and knows whom it shares them with.
    pub fn says_it_accepts(&self) -> bool {
        self.accepts && self.observer.is_acquainted()
    }

    /// Whether the holder of an organism that may be taken over as expired still writes it: private in the product.
    pub fn is_written(&self, now: Duration, organism: usize) -> bool {
        let changed = self.organisms[organism].changed;
        changed.is_some_and(|at| self.clock(now).saturating_sub(at) < WRITTEN)
    }

    /// As `Permit::extend`.
    pub fn extend(&mut self, now: Duration, until: Duration) -> bool {
        let lapsed = !self.is_permitted(now);
        self.term += u64::from(lapsed);
        self.permit = until;
        lapsed
    }

    /// As `Tenure::is_valid`.
    pub fn has_tenure(&self, now: Duration, organism: usize) -> bool {
        let actor = self.organisms[organism].actor.as_ref();
        actor.is_some_and(|it| it.confirmed == self.term) && self.is_permitted(now)
    }

    /// Its actor for an organism, unless that is another one by now.
    pub fn actor(&mut self, organism: usize, id: u64) -> Option<&mut Actor> {
        self.organisms[organism].actor.as_mut().filter(|it| it.id == id)
    }

    /// The life of an organism, if it beats.
    pub fn beating(&self, organism: usize) -> Option<(&Actor, &Life)> {
        let actor = self.organisms[organism].actor.as_ref()?;
        let life = actor.life.as_ref().filter(|it| it.end.is_none() && self.is_up())?;
        Some((actor, life))
    }
}
