//! What happens to the replicas, by seed.

use std::time::Duration;

use super::server::Move;
use super::world::{Network, World, seconds};

/// Something that happens.
pub enum Fault {
    /// Chance decides what, and when the next one comes.
    Any {
        until: Duration,
    },
    Start(String),
    /// A process reaches the API server again.
    Mend(usize),
    /// etcd is full, or takes writes again.
    Full(bool),
    Network(Network),
}

/// Within this time after the faults have ended every organism beats where it has to.
pub const SETTLED: Duration = Duration::from_secs(40);

/// What a world came to.
#[derive(Debug, Default)]
pub struct Outcome {
    pub beats: u64,
    pub moves: usize,
    pub late: u64,
    pub latest: Duration,
    pub settled: Duration,
    pub agreed: Duration,
    /// The longest times without a beat when a replica joins, leaves, is killed.
    pub gaps: [Duration; 3],
}

impl Outcome {
    /// Sums, and the worst of what is a time.
    pub fn add(&mut self, other: &Self) {
        self.beats += other.beats;
        self.moves += other.moves;
        self.late += other.late;
        let longest = |a: &mut Duration, b: Duration| *a = (*a).max(b);
        longest(&mut self.latest, other.latest);
        longest(&mut self.settled, other.settled);
        longest(&mut self.agreed, other.agreed);
        self.gaps.iter_mut().zip(other.gaps).for_each(|(a, b)| longest(a, b));
    }
}

impl World {
    pub fn strike(&mut self, fault: Fault) {
        match fault {
            Fault::Any { until } => {
                if self.now < until {
                    self.strike_any(until);
                    let most = if self.rng.bool() { 2.0 } else { 10.0 };
                    let next = self.now + seconds(0.05 + most * self.rng.f64());
                    self.fault(next, Fault::Any { until });
                }
            }
            Fault::Start(_) if self.now < self.leases_deleted + seconds(3.0) => {}
            Fault::Start(name) => {
                // Two processes of one name are a mistake that the product only keeps from doing harm.
                let running = self.up().iter().any(|at| *self.processes[*at].name == *name);
                if !running {
                    self.start(&name);
                }
            }
            Fault::Mend(at) => self.processes[at].cut = false,
            Fault::Full(full) => {
                self.note(|| format!("etcd full: {full}"));
                self.server.full = full;
            }
            Fault::Network(network) => {
                self.note(|| format!("{network:?}"));
                self.network = network;
            }
        }
    }

    fn strike_any(&mut self, until: Duration) {
        let up = self.up();
        let any = (!up.is_empty()).then(|| up[self.rng.usize(..up.len().max(1))]);
        let rest = until - self.now;
        let share = |world: &mut Self, most: f64| seconds(most * world.rng.f64()).min(rest);
        match (self.rng.u8(..12), any) {
            (0, _) if up.len() < 5 => {
                self.strike(Fault::Start(format!("replica-{}", self.processes.len())));
            }
            (1, Some(at)) => self.leave(at),
            (2 | 3, Some(at)) => {
                self.kill(at);
                let name = match self.rng.u8(..3) {
                    0 => return,
                    1 => self.processes[at].name.to_string(),
                    _ => format!("replica-{}", self.processes.len()),
                };
                let later = self.now + seconds(0.1 + 8.0 * self.rng.f64() * self.rng.f64());
                self.fault(later.min(until), Fault::Start(name));
            }
            (4 | 5, Some(at)) => {
                let most = if self.rng.bool() { 8.0 } else { 90.0 };
                let pause = seconds(1.0) + share(self, most);
                self.pause(at, pause);
            }
            (6 | 7, Some(at)) => {
                let end = self.now + share(self, 15.0);
                self.cut(at, end);
            }
            (8, _) => {
                let end = self.now + share(self, 15.0);
                for at in up {
                    self.cut(at, end);
                }
            }
            (9, _) => {
                let slowest = [0.3, 1.5, 4.0, 12.0][self.rng.usize(..4)];
                let (lost, slow) = (self.rng.f64() * 0.3, self.rng.f64());
                self.strike(Fault::Network(Network { lost, slow: slow * slow, slowest }));
                let end = self.now + share(self, 15.0);
                self.fault(end, Fault::Network(Network::default()));
            }
            (10, _) => self.delete_leases(),
            (_, _) => {
                self.strike(Fault::Full(true));
                let end = self.now + share(self, 20.0);
                self.fault(end, Fault::Full(false));
            }
        }
    }

    /// SIGSTOP, or a machine that sleeps: its clock goes on.
    pub fn pause(&mut self, at: usize, pause: Duration) {
        let process = &mut self.processes[at];
        process.paused_until = process.paused_until.max(self.now + pause);
        process.woken = process.paused_until;
        let name = process.name.clone();
        self.note(|| format!("{name} ({at}) is paused for {pause:?}"));
    }

    pub fn cut(&mut self, at: usize, end: Duration) {
        self.processes[at].cut = true;
        self.note(|| format!("({at}) is cut off until {end:?}"));
        self.fault(end, Fault::Mend(at));
    }

    /// Somebody deletes one Lease by hand, or all. A replica that has never seen it takes its replica for none, and the fence
    /// alone keeps the ledgers from harm: not while one starts or stops, nor while nobody can write it again.
    pub fn delete_leases(&mut self) {
        let up = self.up();
        let sees_all = |at: &usize| {
            let view = &self.processes[*at].view;
            up.iter().all(|other| view.is_live(&self.processes[*other].name))
        };
        let serve = self.serving().len() == up.len();
        if self.server.full || !serve || !up.iter().all(sees_all) {
            return;
        }
        self.leases_deleted = self.now;
        let all = self.rng.bool();
        let names: Vec<_> = self.server.leases.keys().cloned().collect();
        if names.is_empty() {
            return;
        }
        let one = self.rng.usize(..names.len());
        for (place, name) in names.into_iter().enumerate() {
            if all || place == one {
                self.note(|| format!("the Lease of {name} is deleted by hand"));
                self.server.leases.remove(&name);
            }
        }
    }

    /// All faults, then none: everything settles. Then replicas come and go in a calm.
    pub fn run(&mut self) -> Result<Outcome, String> {
        let replicas = self.rng.usize(1..=4);
        for number in 0..replicas {
            let at = seconds(self.rng.f64() * 3.0);
            self.fault(at, Fault::Start(format!("replica-{number}")));
        }
        let until = seconds(20.0 + 70.0 * self.rng.f64());
        let first = seconds(self.rng.f64() * 10.0);
        self.fault(first, Fault::Any { until });
        self.run_until(until)?;
        let mut outcome = self.settle()?;
        outcome.gaps = [self.join()?, self.leaves()?, self.dies()?];
        self.check_acknowledged()?;
        (outcome.beats, outcome.moves) = (self.checks.beats, self.server.moves.len());
        (outcome.late, outcome.latest) = (self.checks.late, self.checks.latest);
        Ok(outcome)
    }

    /// Invariant 3: once the faults have ended, every organism beats at its owner, and nothing moves twice.
    fn settle(&mut self) -> Result<Outcome, String> {
        self.note(|| "the faults have ended".into());
        let end = self.now;
        (self.network, self.server.full) = (Network::default(), false);
        for process in &mut self.processes {
            process.cut = false;
            (process.paused_until, process.woken) = (process.paused_until.min(end), process.woken.min(end));
        }
        if self.serving().is_empty() {
            let name = format!("replica-{}", self.processes.len());
            self.start(&name);
        }
        let mut outcome = Outcome::default();
        let mut agreed = None;
        loop {
            self.run_until(self.now + seconds(0.1))?;
            let took = self.now - end;
            if !self.agrees() {
                agreed = None;
            } else if agreed.is_none() {
                agreed = Some(self.now);
                outcome.agreed = took;
            }
            match self.unsettled() {
                None if agreed.is_some() => {
                    outcome.settled = took;
                    break;
                }
                open if took > SETTLED => {
                    return Err(format!("invariant 3: not settled: {open:?}, views agree {agreed:?}"));
                }
                _ => {}
            }
        }
        // Calls that were slow may still be under way.
        self.run_until(self.now + seconds(8.0))?;
        let agreed = agreed.unwrap_or_default();
        for organism in 0..self.uids.len() {
            let moves: Vec<&Move> =
                self.server.moves.iter().filter(|it| it.organism == organism && it.at > agreed).collect();
            if moves.len() > 1 {
                return Err(format!("invariant 3: moved back and forth: {moves:?}"));
            }
        }
        Ok(outcome)
    }

    /// Invariant 4: what changes only moves what it has to. Returns the longest time without a beat.
    fn only_moves(
        &mut self,
        change: &str,
        patience: f64,
        moves: impl Fn(&Option<usize>, &Option<usize>) -> bool,
        act: impl FnOnce(&mut Self),
    ) -> Result<Duration, String> {
        let (owners, lives) = (self.owners(), self.lives());
        self.measure();
        let began = self.now;
        act(self);
        self.run_until(self.now + seconds(patience))?;
        if let Some(open) = self.unsettled() {
            return Err(format!("invariant 3: {change}: not settled after {patience} s: {open}"));
        }
        let (new_owners, new_lives) = (self.owners(), self.lives());
        for organism in 0..self.uids.len() {
            let moved =
                self.server.moves.iter().filter(|it| it.organism == organism && it.at > began).count();
            let expected = usize::from(moves(&owners[organism], &new_owners[organism]));
            if moved != expected || (expected == 0 && lives[organism] != new_lives[organism]) {
                return Err(format!(
                    "invariant 4: {change}: organism {organism} of {:?}, now of {:?}, moved {moved} times, life {:?} -> {:?}",
                    owners[organism], new_owners[organism], lives[organism], new_lives[organism],
                ));
            }
        }
        Ok(self.checks.gaps.iter().copied().max().unwrap_or_default())
    }

    fn join(&mut self) -> Result<Duration, String> {
        let newcomer = self.processes.len();
        self.only_moves(
            "one joins",
            // It first waits whether those that were killed before it came renew their Leases.
            9.0,
            |_, owner| *owner == Some(newcomer),
            |world| {
                world.start(&format!("replica-{newcomer}"));
            },
        )
    }

    fn leaves(&mut self) -> Result<Duration, String> {
        let serving = self.serving();
        let leaver = serving[self.rng.usize(..serving.len())];
        self.only_moves("one leaves", 9.0, |owner, _| *owner == Some(leaver), |world| world.leave(leaver))
    }

    fn dies(&mut self) -> Result<Duration, String> {
        let serving = self.serving();
        if serving.len() < 2 {
            return Ok(Duration::ZERO);
        }
        let victim = serving[self.rng.usize(..serving.len())];
        self.only_moves("one is killed", 12.0, |owner, _| *owner == Some(victim), |world| world.kill(victim))
    }
}
