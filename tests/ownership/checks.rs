//! What must hold, apart from the order of what is stored ([`super::server`] judges that).

use std::collections::BTreeSet;
use std::time::Duration;

use venom::operator::members::owner::{Candidate, owner};

use super::process::Phase;
use super::world::World;

/// How long a life that has lapsed and was confirmed again may overlap with the one that has taken over from it.
pub const OVERLAP: Duration = Duration::from_secs(30);

pub struct Checks {
    /// Writes of heads that were acknowledged to their writer: organism and bytes.
    pub acknowledged: Vec<(usize, u64)>,
    /// When each organism has beaten last, and the longest time that it has not since that is measured.
    pub last_beat: Vec<Duration>,
    pub gaps: Vec<Duration>,
    pub beats: u64,
    /// Beats of lives that had lapsed, which another life has replaced, and how late the latest was.
    pub late: u64,
    pub latest: Duration,
}

impl Checks {
    pub fn new(organisms: usize) -> Self {
        Self {
            acknowledged: vec![],
            last_beat: vec![Duration::ZERO; organisms],
            gaps: vec![Duration::ZERO; organisms],
            beats: 0,
            late: 0,
            latest: Duration::ZERO,
        }
    }
}

impl World {
    /// Invariants 2 and 6, at the moment in which a beat is opened.
    pub fn check_beat(&mut self, at: usize, organism: usize) -> Result<(), String> {
        let now = self.now;
        let checks = &mut self.checks;
        checks.beats += 1;
        let last = std::mem::replace(&mut checks.last_beat[organism], now);
        checks.gaps[organism] = checks.gaps[organism].max(now - last);
        let process = &self.processes[at];
        let name = &process.name;
        let Some((_, own)) = process.beating(organism) else { return Ok(()) };
        let head = self.server.heads[organism].as_ref();
        let replaced = head.is_none_or(|head| head.life != own.head.life);
        let since = now.saturating_sub(self.server.changed[organism]);
        let who = || format!("{name} ({at}) beats {organism} with epoch {}", own.head.epoch);
        if replaced {
            if process.woken > self.server.changed[organism] {
                return Err(format!("invariant 6: {}, taken over before it woke", who()));
            }
            self.checks.late += 1;
            self.checks.latest = self.checks.latest.max(since);
        }
        for (other, process) in self.processes.iter().enumerate().filter(|(other, _)| *other != at) {
            let Some((_, theirs)) = process.beating(organism) else { continue };
            if !process.has_tenure(now, organism) {
                continue;
            }
            let (older, lead) = if theirs.head.epoch < own.head.epoch {
                (process, theirs)
            } else {
                (&self.processes[at], own)
            };
            let also = format!("{} ({other}) has epoch {}", process.name, theirs.head.epoch);
            // Without a Lease, deleted by hand, it is nobody to a replica that starts.
            if older.term == lead.began && self.server.leases.contains_key(&*older.name) {
                return Err(format!("invariant 2: {} while {also}, and {} never lapsed", who(), older.name));
            }
            if since > OVERLAP {
                return Err(format!("invariant 2: {} while {also}, for {since:?}", who()));
            }
        }
        Ok(())
    }

    /// Invariant 1, the last part: what was acknowledged is stored.
    pub fn check_acknowledged(&self) -> Result<(), String> {
        let stored: Vec<BTreeSet<u64>> =
            self.server.stored.iter().map(|it| it.iter().copied().collect()).collect();
        match self.checks.acknowledged.iter().find(|(organism, bytes)| !stored[*organism].contains(bytes)) {
            Some(lost) => Err(format!("invariant 1: an acknowledged commit is lost: {lost:?}")),
            None => Ok(()),
        }
    }

    /// The replicas that run and take organisms.
    pub fn serving(&self) -> Vec<usize> {
        self.up().into_iter().filter(|at| self.processes[*at].phase == Phase::Serving).collect()
    }

    /// The process that is to hold each organism.
    pub fn owners(&self) -> Vec<Option<usize>> {
        let serving = self.serving();
        let candidates: Vec<Candidate> =
            serving.iter().map(|at| Candidate::new(self.processes[*at].name.clone())).collect();
        let place = |uid: &String| {
            let name = owner(&candidates, uid)?;
            serving.iter().copied().find(|at| self.processes[*at].name == *name)
        };
        self.uids.iter().map(place).collect()
    }

    /// Whether all replicas see the same ones, and may beat.
    pub fn agrees(&self) -> bool {
        let up = self.up();
        let names: BTreeSet<&str> = up.iter().map(|at| &*self.processes[*at].name).collect();
        up.iter().all(|at| {
            let process = &self.processes[*at];
            let (live, owners) = (process.view.live(), process.view.owners());
            process.phase == Phase::Serving
                && process.is_permitted(self.now)
                && live.iter().copied().eq(names.iter().copied())
                && owners.len() == live.len()
        })
    }

    /// What keeps an organism from being where it has to be, and beating.
    pub fn unsettled(&self) -> Option<String> {
        for (organism, owner) in self.owners().into_iter().enumerate() {
            let Some(owner) = owner else { return Some("nobody takes organisms".into()) };
            let process = &self.processes[owner];
            let head = self.server.heads[organism].as_ref();
            let holds = process
                .beating(organism)
                .is_some_and(|(actor, _)| head.is_some_and(|head| head.life == actor.id && !head.released));
            let beats = self.now.saturating_sub(self.server.committed[organism]) < Duration::from_secs(3);
            if !holds || !beats || !process.has_tenure(self.now, organism) {
                let state = match &process.organisms[organism].actor {
                    None => "runs nothing".into(),
                    Some(actor) => format!(
                        "has actor {} (confirmed {} of {}, {} failures), {}",
                        actor.id,
                        actor.confirmed,
                        process.term,
                        actor.failures,
                        actor.life.as_ref().map_or("no life".into(), |it| format!("epoch {}", it.head.epoch)),
                    ),
                };
                let seen = process.organisms[organism].seen.as_ref();
                return Some(format!(
                    "organism {organism}: {} ({owner}) is to hold it and {state}; head {head:?}, seen {:?}",
                    process.name,
                    seen.map(|it| (it.epoch, &it.holder, it.released)),
                ));
            }
        }
        None
    }

    /// The lives that beat now, by organism.
    pub fn lives(&self) -> Vec<Option<u64>> {
        self.server.heads.iter().map(|head| head.as_ref().map(|it| it.life)).collect()
    }

    /// Begins to measure anew how long organisms do not beat.
    pub fn measure(&mut self) {
        self.checks.gaps.fill(Duration::ZERO);
    }
}
