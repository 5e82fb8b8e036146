//! What is done to the operators, to the API server, to etcd and to the network between them.
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use fastrand::Rng;
use tokio::time::sleep;

use crate::evidence::Evidence;
use crate::harness::free_port;
use crate::machine::{Etcd, Process};
use crate::operator::Operator;
use crate::proxy::{Proxy, Trouble};
use crate::user::User;
use crate::world::World;

/// How often it is looked whether an operator has ended by itself.
const LOOK: Duration = Duration::from_millis(200);

/// When faults end, and how long the longest of them may take.
#[derive(Clone, Copy)]
pub struct Schedule {
    pub end: Instant,
    pub longest: Duration,
}

impl Schedule {
    pub fn goes_on(&self) -> bool {
        Instant::now() < self.end
    }

    /// A random time: short ones are as frequent as long ones.
    pub fn some_time(&self, rng: &mut Rng) -> Duration {
        let longest = self.longest.as_secs_f64();
        Duration::from_secs_f64(0.1 * (longest / 0.1).powf(rng.f64()))
    }

    /// Waits, at most until the end.
    pub async fn pause(&self, time: Duration) {
        sleep(time.min(self.end.saturating_duration_since(Instant::now()))).await;
    }
}

/// An operator that runs, with the port of its issuer.
struct Running {
    operator: Operator,
    identity: String,
    port: u16,
}

/// The operators. Each is started again when it ends, as a kubelet does.
pub struct Operators {
    world: Arc<World>,
    evidence: Evidence,
    running: Vec<Running>,
    free_ports: Vec<u16>,
    started: u32,
}

impl Operators {
    /// Starts `count` operators.
    pub fn start(world: Arc<World>, evidence: Evidence, count: usize) -> Self {
        // One more, for an operator that is started while another is stopped.
        let free_ports = (0..=count).map(|_| free_port()).collect();
        let mut all = Self { world, evidence, running: vec![], free_ports, started: 0 };
        for number in 0..count {
            let operator = all.run(&format!("operator-{number}"));
            all.running.push(operator);
        }
        all
    }

    fn run(&mut self, identity: &str) -> Running {
        self.started += 1;
        let port = self.free_ports.pop().unwrap();
        let url = format!("https://127.0.0.1:{port}/v1/certificates");
        let bodies = ["--node-image", "localhost/venom:test", "--issuer-url", &*url];
        let operator = self.world.operator_with(identity, &bodies);
        Running { operator, identity: identity.to_owned(), port }
    }

    /// Keeps the log of an operator that has ended.
    fn ended(&mut self, ended: Running) {
        let name = format!("{:04}-{}.log", self.started, ended.identity);
        std::fs::write(self.evidence.folder.join(name), ended.operator.log()).unwrap();
        self.free_ports.push(ended.port);
    }

    /// Looks for operators that have ended by themselves, for `time`: none may, whatever fails around it.
    async fn watch_for(&mut self, time: Duration) {
        let end = Instant::now() + time;
        loop {
            for at in 0..self.running.len() {
                if !self.running[at].operator.runs() {
                    let ended = &self.running[at];
                    let log = ended.operator.log();
                    let last = log.lines().last().unwrap_or_default();
                    self.evidence.wrong(format!("{} has ended by itself: {last}", ended.identity));
                    self.replace(at);
                }
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            sleep(left.min(LOOK)).await;
        }
    }

    /// Starts the operator at `at`, which has ended, again.
    fn replace(&mut self, at: usize) {
        let old = self.running.swap_remove(at);
        let identity = old.identity.clone();
        self.ended(old);
        let new = self.run(&identity);
        self.running.push(new);
    }

    fn kill(&mut self, at: usize) {
        self.running[at].operator.kill();
        self.evidence.fault("operator-killed", &self.running[at].identity);
    }

    /// Random faults, one after the other.
    pub async fn suffer(&mut self, schedule: Schedule, mut rng: Rng, user: Arc<User>) {
        while schedule.goes_on() {
            self.watch_for(schedule.some_time(&mut rng)).await;
            let at = rng.usize(..self.running.len());
            match rng.u32(..10) {
                0..4 => {
                    self.kill(at);
                    self.replace(at);
                }
                4 => {
                    self.evidence.fault("operator-terminated", &self.running[at].identity);
                    self.running[at].operator.terminate().await;
                    self.replace(at);
                }
                5..7 => {
                    let time = schedule.some_time(&mut rng);
                    self.evidence
                        .fault("operator-stopped", &format!("{} {time:.1?}", self.running[at].identity));
                    self.running[at].operator.signal("STOP");
                    sleep(time).await;
                    self.running[at].operator.signal("CONT");
                }
                _ => self.overlap(at, schedule, &mut rng, &user).await,
            }
        }
    }

    /// Another operator takes over while one is stopped, which then goes on for a while.
    async fn overlap(&mut self, at: usize, schedule: Schedule, rng: &mut Rng, user: &User) {
        let stopped = self.running[at].identity.clone();
        let identity = format!("operator-{}", rng.u32(10..100));
        self.running[at].operator.signal("STOP");
        self.evidence.fault("operator-overlap", &format!("{stopped} is stopped, {identity} takes over"));
        let mut second = self.run(&identity);
        sleep(Duration::from_secs(1) + schedule.some_time(rng)).await;
        let alone = rng.bool();
        if alone {
            // The stopped one goes on alone: it must not take its time for the present.
            second.operator.kill();
            self.evidence.fault("operator-killed", &format!("{identity}, before {stopped} goes on"));
            if rng.bool() {
                user.delete_a_head(rng).await;
            }
        }
        self.running[at].operator.signal("CONT");
        sleep(schedule.some_time(rng)).await;
        self.kill(at);
        let first = std::mem::replace(&mut self.running[at], second);
        self.ended(first);
        if alone {
            self.replace(at);
        }
    }

    /// Every operator runs and none is stopped.
    pub async fn heal(&mut self) {
        for it in &mut self.running {
            if it.operator.runs() {
                it.operator.signal("CONT");
            }
        }
        self.watch_for(Duration::from_secs(2)).await;
    }

    /// Ends all, so that nothing is written any more.
    pub async fn end(mut self) {
        for it in &mut self.running {
            it.operator.terminate().await;
        }
    }

    /// Keeps operators running until the future ends.
    pub async fn while_running<T>(&mut self, what: impl Future<Output = T>) -> T {
        let mut what = std::pin::pin!(what);
        loop {
            tokio::select! {
                done = &mut what => return done,
                () = self.watch_for(LOOK) => {}
            }
        }
    }
}

/// What the operators depend on.
pub struct Surroundings {
    pub api_server: Process,
    pub etcd: Process,
    pub database: Etcd,
    pub proxy: Proxy,
    pub evidence: Evidence,
}

impl Surroundings {
    /// Random faults, one after the other.
    pub async fn suffer(&mut self, schedule: Schedule, mut rng: Rng) {
        while schedule.goes_on() {
            for process in [&mut self.etcd, &mut self.api_server] {
                if !process.runs() {
                    self.evidence.fault("process-ended-by-itself", "");
                    process.start();
                }
            }
            // The others need time in between to do something.
            schedule.pause(Duration::from_secs(2) + schedule.some_time(&mut rng)).await;
            let time = schedule.some_time(&mut rng);
            let lasting = format!("{time:.1?}");
            match rng.u32(..12) {
                0 => {
                    self.evidence.fault("api-server-killed", "");
                    self.api_server.kill_and_start();
                }
                1 => {
                    self.evidence.fault("etcd-killed", "");
                    self.etcd.kill_and_start();
                }
                2 => {
                    self.evidence.fault("api-server-stopped", &lasting);
                    self.api_server.signal("STOP");
                    sleep(time).await;
                    self.api_server.signal("CONT");
                }
                3 => {
                    self.evidence.fault("etcd-stopped", &lasting);
                    self.etcd.signal("STOP");
                    sleep(time).await;
                    self.etcd.signal("CONT");
                }
                4 => {
                    if self.database.set_full(true).is_ok() {
                        self.evidence.fault("etcd-full", &lasting);
                        sleep(time).await;
                    }
                    self.room().await;
                }
                5..7 => {
                    let late = Duration::from_millis(rng.u64(20..1500));
                    self.trouble("network-late", Trouble::Late(late), 100, time).await;
                }
                7 => self.trouble("network-cut", Trouble::Cut, share(&mut rng), time).await,
                8..10 => self.trouble("network-unanswered", Trouble::Unanswered, share(&mut rng), time).await,
                _ => {
                    let codes = [StatusCode::TOO_MANY_REQUESTS, StatusCode::INTERNAL_SERVER_ERROR];
                    let code = codes[rng.usize(..codes.len())];
                    self.trouble("network-refused", Trouble::Refused(code), share(&mut rng), time).await;
                }
            }
        }
    }

    async fn trouble(&self, name: &'static str, trouble: Trouble, share: u8, time: Duration) {
        self.evidence.fault(name, &format!("{trouble:?} {share} % {time:.1?}"));
        self.proxy.trouble(trouble, share);
        sleep(time).await;
        self.proxy.trouble(Trouble::None, 0);
    }

    /// Disarms etcd's alarm, however long that takes.
    async fn room(&self) {
        while self.database.set_full(false).is_err() {
            sleep(LOOK).await;
        }
    }

    /// Everything runs and answers.
    pub async fn heal(&mut self) {
        self.proxy.trouble(Trouble::None, 0);
        for process in [&mut self.etcd, &mut self.api_server] {
            process.signal("CONT");
            if !process.runs() {
                // It gave up by itself, as without an answer of etcd.
                process.start();
            }
        }
        self.room().await;
    }
}

fn share(rng: &mut Rng) -> u8 {
    [20, 50, 100][rng.usize(..3)]
}
