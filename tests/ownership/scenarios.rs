//! Two schedules of their own: a cluster that takes no writes, and a replica that sleeps.

use std::time::Duration;

use super::schedule::Fault;
use super::world::{World, seconds};

impl World {
    /// Two to four replicas that share the organisms, before anything happens.
    fn in_calm(&mut self) -> Result<(), String> {
        for number in 0..self.rng.usize(2..=4) {
            self.start(&format!("replica-{number}"));
        }
        self.run_until(seconds(20.0))?;
        match self.unsettled() {
            Some(open) => Err(format!("invariant 3: a start in calm: {open}")),
            None => Ok(()),
        }
    }

    /// Invariant 5: while etcd is full nobody lapses, and nobody takes anything from anybody.
    pub fn full(&mut self) -> Result<(), String> {
        self.in_calm()?;
        let (lives, moves) = (self.lives(), self.server.moves.len());
        self.measure();
        let full = self.now + seconds(self.rng.f64());
        let room = full + seconds(5.0 + 120.0 * self.rng.f64());
        self.fault(full, Fault::Full(true));
        self.fault(room, Fault::Full(false));
        while self.now < room + seconds(20.0) {
            self.run_until(self.now + seconds(0.05))?;
            for process in &self.processes {
                if !process.is_permitted(self.now) || process.view.live().len() != self.processes.len() {
                    let (name, view) = (&process.name, &process.view);
                    return Err(format!("invariant 5: {name} has lapsed, or sees somebody gone: {view:?}"));
                }
            }
        }
        if self.server.moves.len() != moves || self.lives() != lives {
            return Err("invariant 5: something has moved".into());
        }
        let gap = self.checks.gaps.iter().max().copied().unwrap_or_default();
        if gap > self.pace.mul_f64(1.2) {
            return Err(format!("invariant 5: an organism has not beaten for {gap:?}"));
        }
        self.unsettled().map_or(Ok(()), |open| Err(format!("invariant 5: not as before: {open}")))
    }

    /// Invariant 6: a replica that wakes after a minute opens no beat and writes nothing of what was taken over. The
    /// others may come and go meanwhile.
    pub fn sleep(&mut self) -> Result<(), String> {
        self.in_calm()?;
        let sleeper = self.rng.usize(..self.processes.len());
        let wakes = self.now + seconds(40.0 + 40.0 * self.rng.f64());
        self.pause(sleeper, wakes - self.now);
        while self.now < wakes - seconds(2.0) {
            let next = self.now + seconds(2.0 + 20.0 * self.rng.f64());
            self.run_until(next.min(wakes - seconds(1.0)))?;
            let others: Vec<usize> = self.serving().into_iter().filter(|at| *at != sleeper).collect();
            let other = others.get(self.rng.usize(..others.len().max(1))).copied();
            match self.rng.u8(..4) {
                0 => {
                    let name = format!("replica-{}", self.processes.len());
                    self.start(&name);
                }
                1 => other.into_iter().for_each(|it| self.kill(it)),
                2 => other.into_iter().for_each(|it| self.leave(it)),
                _ => {}
            }
        }
        while self.now < wakes + seconds(40.0) {
            self.run_until(self.now + seconds(0.01))?;
            self.check_sleeper(sleeper)?;
        }
        self.check_acknowledged()?;
        self.unsettled().map_or(Ok(()), |open| Err(format!("invariant 3: after a sleep: {open}")))
    }

    /// Statuses, bodies and claims are written within a tenure: there must be none of what others have taken over.
    fn check_sleeper(&self, sleeper: usize) -> Result<(), String> {
        let process = &self.processes[sleeper];
        for (organism, changed) in self.server.changed.iter().enumerate() {
            let Some((actor, life)) = process.beating(organism) else { continue };
            let taken = self.server.heads[organism].as_ref().is_some_and(|head| head.life != actor.id);
            let before: Duration = process.woken;
            if taken && *changed < before && process.has_tenure(self.now, organism) {
                return Err(format!(
                    "invariant 6: {} may write organism {organism} with epoch {}, which was taken over at {changed:?}, before it woke at {before:?}",
                    process.name, life.head.epoch,
                ));
            }
        }
        Ok(())
    }
}
