//! The simulated API server: Leases and heads with resourceVersions, and what it has committed.
//!
//! A write takes effect at one moment or never, and a list shows all that took effect before it was answered: what
//! etcd promises. Here the ledgers are judged, for what is stored is all that counts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use venom::operator::members::view::Stated;

/// The Lease of a replica. Its timestamps are for people, so it has none here: no wall clock can matter.
#[derive(Clone, Debug)]
pub struct Lease {
    pub version: u64,
    /// The process that has written it last.
    pub process: usize,
    pub accepts: bool,
}

/// The head of a ledger.
#[derive(Clone, Debug)]
pub struct Head {
    pub version: u64,
    pub epoch: u64,
    pub holder: Arc<str>,
    pub released: bool,
    /// Beats that are committed.
    pub size: u64,
    /// The life that has written it.
    pub life: u64,
    /// Stands for its bytes: a retry sends the same ones.
    pub bytes: u64,
}

#[derive(Clone, Debug)]
pub enum Request {
    GetLease(Arc<str>),
    /// Replaces it where it has this version; without one it is created.
    PutLease(Arc<str>, Option<u64>, bool),
    DeleteLease(Arc<str>, Option<u64>),
    ListLeases,
    GetHead(usize),
    /// Replaces it where it has this version; without one it is created.
    PutHead(usize, Option<u64>, Head),
    ListHeads,
}

#[derive(Clone, Debug)]
pub enum Reply {
    Lease(Option<Lease>),
    Leases(Vec<Stated>),
    Head(Option<Head>),
    Heads(Vec<Option<Head>>),
    Written(u64),
    Deleted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    Conflict,
    NotFound,
    /// etcd is full, or the connection was refused: nothing took effect.
    Refused,
    /// Whether it took effect is not known.
    TimeOut,
}

pub type Answer = Result<Reply, Refusal>;

/// A head that has changed hands.
#[derive(Clone, Debug)]
pub struct Move {
    pub at: Duration,
    pub organism: usize,
}

pub struct Server {
    /// Whether etcd is full: it refuses writes; deletions and reads work.
    pub full: bool,
    pub leases: BTreeMap<Arc<str>, Lease>,
    pub heads: Vec<Option<Head>>,
    /// When the head of each organism was taken over, or given back, the last time.
    pub changed: Vec<Duration>,
    /// When each organism has committed last.
    pub committed: Vec<Duration>,
    /// All that was ever stored of each ledger: the bytes of each head.
    pub stored: Vec<Vec<u64>>,
    pub moves: Vec<Move>,
    version: u64,
}

impl Server {
    pub fn new(organisms: usize) -> Self {
        Self {
            full: false,
            leases: BTreeMap::new(),
            heads: vec![None; organisms],
            changed: vec![Duration::ZERO; organisms],
            committed: vec![Duration::ZERO; organisms],
            stored: vec![vec![]; organisms],
            moves: vec![],
            version: 0,
        }
    }

    /// Handles a request of this process at this moment.
    ///
    /// # Errors
    /// What is wrong with the ledger then.
    pub fn handle(&mut self, now: Duration, process: usize, request: Request) -> Result<Answer, String> {
        Ok(match request {
            Request::GetLease(name) => Ok(Reply::Lease(self.leases.get(&name).cloned())),
            Request::ListLeases => Ok(Reply::Leases(self.leases.iter().map(stated).collect())),
            Request::GetHead(organism) => Ok(Reply::Head(self.heads[organism].clone())),
            Request::ListHeads => Ok(Reply::Heads(self.heads.clone())),
            Request::DeleteLease(name, version) => match self.leases.get(&name) {
                None => Err(Refusal::NotFound),
                Some(lease) if version.is_some_and(|it| it != lease.version) => Err(Refusal::Conflict),
                Some(_) => {
                    self.leases.remove(&name);
                    Ok(Reply::Deleted)
                }
            },
            Request::PutLease(..) | Request::PutHead(..) if self.full => Err(Refusal::Refused),
            Request::PutLease(name, version, accepts) => {
                let found = self.leases.get(&name).map(|it| it.version);
                self.next_version(found, version).map(|version| {
                    self.leases.insert(name, Lease { version, process, accepts });
                    Reply::Written(version)
                })
            }
            Request::PutHead(organism, version, head) => {
                let found = self.heads[organism].as_ref().map(|it| it.version);
                match self.next_version(found, version) {
                    Err(refusal) => Err(refusal),
                    Ok(version) => {
                        self.store(now, organism, Head { version, ..head })?;
                        Ok(Reply::Written(version))
                    }
                }
            }
        })
    }

    fn next_version(&mut self, found: Option<u64>, expected: Option<u64>) -> Result<u64, Refusal> {
        match (found, expected) {
            (None, Some(_)) => return Err(Refusal::NotFound),
            (found, expected) if found != expected => return Err(Refusal::Conflict),
            _ => {}
        }
        self.version += 1;
        Ok(self.version)
    }

    /// Invariant 1: epochs never go back, each is of one life, and what follows a commit has seen it.
    fn store(&mut self, now: Duration, organism: usize, head: Head) -> Result<(), String> {
        let before = self.heads[organism].as_ref();
        if let Some(before) = before {
            let same_life = head.life == before.life && head.holder == before.holder;
            let next = head.epoch == before.epoch + 1 && head.size == before.size;
            let goes_on = head.epoch == before.epoch && same_life && !before.released;
            if !(next || goes_on) || head.size < before.size {
                return Err(format!("ledger {organism}: {before:?} was followed by {head:?}"));
            }
        }
        let hands = |it: &Head| (it.holder.clone(), it.released);
        if before.map(hands) != Some(hands(&head)) || before.is_some_and(|it| it.epoch != head.epoch) {
            self.changed[organism] = now;
        }
        if before.is_none_or(|it| it.size < head.size) {
            self.committed[organism] = now;
        }
        let from = before.map(|it| it.holder.clone());
        if from.as_ref() != Some(&head.holder) {
            self.moves.push(Move { at: now, organism });
        }
        self.stored[organism].push(head.bytes);
        self.heads[organism] = Some(head);
        Ok(())
    }
}

fn stated((name, lease): (&Arc<str>, &Lease)) -> Stated {
    Stated { identity: name.clone(), version: lease.version.to_string(), accepts: lease.accepts }
}
