//! What was acknowledged, noted as it is seen by a client that talks to the API server directly.
//!
//! Some claims are checked at once, for the order in which things are seen is known only now: epochs never go back, sizes
//! of a generation neither, and no size of a generation has two roots. The rest is left to `proof`.
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource, ResourceExt};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use venom::api::labels::{ORGANISM_LABEL, UID_LABEL};
use venom::api::{LedgerStatus, Organism};
use venom::ledger::{Hash, hex, parse_hash};
use venom::store::Head;

use crate::world::World;

/// An end of a ledger that was acknowledged: a head, or what a status has published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    pub root: Hash,
    pub last_hash: Hash,
    /// Of the tree, where they are known.
    pub peaks: Option<Vec<Hash>>,
}

impl End {
    fn of(head: &Head) -> Self {
        let peaks = head.peaks.iter().map(|peak| peak.0).collect();
        Self { root: head.root.0, last_hash: head.last_hash.0, peaks: Some(peaks) }
    }
}

/// What the harness has destroyed, or tried to: an answer may have been lost.
#[derive(Clone, Debug)]
pub struct Destroyed {
    pub organism: String,
    pub generation: u64,
    /// First and last index of a segment; `None` for the head.
    pub range: Option<(u64, u64)>,
}

/// Everything that was seen.
#[derive(Clone, Default)]
pub struct Facts {
    /// Ends by Organism and generation, then by size.
    pub ends: BTreeMap<(String, u64), BTreeMap<u64, End>>,
    /// The last head of each generation.
    pub heads: BTreeMap<(String, u64), Head>,
    /// The newest head of each Organism, and what its status published last, with its UID.
    newest: BTreeMap<String, Head>,
    published: BTreeMap<String, (String, u64, u64)>,
    /// By UID of the object.
    pub destroyed: BTreeMap<String, Destroyed>,
    /// The entry of each acknowledged injection by its id; `None` if it was refused.
    pub injections: BTreeMap<String, Option<u64>>,
    /// Number of each fault.
    pub faults: BTreeMap<&'static str, u64>,
    /// Number of heads and statuses that were seen.
    pub heads_seen: u64,
    pub statuses_seen: u64,
    /// Claims that did not hold.
    pub wrong: Vec<String>,
}

impl Facts {
    /// Whether the harness has destroyed something of this generation.
    pub fn has_destroyed(&self, organism: &str, generation: u64) -> bool {
        self.destroyed.values().any(|it| it.organism == organism && it.generation == generation)
    }

    /// Whether the harness has destroyed a head of this generation.
    pub fn has_destroyed_head(&self, organism: &str, generation: u64) -> bool {
        let of_it = |it: &&Destroyed| it.organism == organism && it.generation == generation;
        self.destroyed.values().filter(of_it).any(|it| it.range.is_none())
    }
}

/// The facts, and the file in which each of them is noted.
#[derive(Clone)]
pub struct Evidence {
    facts: Arc<Mutex<Facts>>,
    file: Arc<File>,
    began: Instant,
    /// What this run leaves behind if it fails.
    pub folder: PathBuf,
}

impl Evidence {
    pub fn new(folder: &Path) -> Self {
        let _ = std::fs::remove_dir_all(folder); // of an earlier run
        std::fs::create_dir_all(folder).unwrap();
        let file = Arc::new(File::create(folder.join("evidence.jsonl")).unwrap());
        Self { facts: Arc::default(), file, began: Instant::now(), folder: folder.to_owned() }
    }

    pub fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a fact with its time.
    fn note(&self, what: &str, fact: &Value) {
        let at = (self.began.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
        let line = json!({"at": at, "what": what, "fact": fact});
        writeln!(&*self.file, "{line}").unwrap();
    }

    /// Counts a fault, notes it and prints it.
    pub fn fault(&self, kind: &'static str, detail: &str) {
        *self.facts().faults.entry(kind).or_default() += 1;
        self.note(kind, &json!(detail));
        println!("{:9.3} {kind} {detail}", self.began.elapsed().as_secs_f64());
    }

    /// Notes what is about to be destroyed.
    pub fn destroys(&self, object: &str, destroyed: Destroyed) {
        self.note("destroys", &json!([object, format!("{destroyed:?}")]));
        self.facts().destroyed.insert(object.to_owned(), destroyed);
    }

    pub fn injected(&self, id: &str, entry: Option<u64>) {
        self.note("injection", &json!([id, entry]));
        self.facts().injections.insert(id.to_owned(), entry);
    }

    pub fn wrong(&self, what: String) {
        self.note("wrong", &json!(what));
        println!("{:9.3} WRONG {what}", self.began.elapsed().as_secs_f64());
        self.facts().wrong.push(what);
    }

    /// Notes an end. No size of a generation may have two.
    fn end(&self, organism: &str, generation: u64, size: u64, end: End) {
        let mut facts = self.facts();
        let ends = facts.ends.entry((organism.to_owned(), generation)).or_default();
        let known = ends.entry(size).or_insert_with(|| end.clone());
        let same = (known.root, known.last_hash) == (end.root, end.last_hash);
        known.peaks = known.peaks.take().or(end.peaks);
        let known = hex(&known.root);
        drop(facts);
        if !same {
            let root = hex(&end.root);
            self.wrong(format!(
                "a fork: {organism}, generation {generation}, size {size} has the roots {known} and {root}"
            ));
        }
    }

    /// Notes a head, in the order in which the API server has stored them.
    pub fn head(&self, organism: &str, head: &Head) {
        let Head { generation, epoch, size, .. } = *head;
        self.note("head", &json!([organism, generation, epoch, size, head.root_hex(), head.holder]));
        let before = {
            let mut facts = self.facts();
            facts.heads_seen += 1;
            facts.heads.insert((organism.to_owned(), generation), head.clone());
            facts.newest.insert(organism.to_owned(), head.clone())
        };
        if let Some(before) = before {
            let state = |head: &Head| (head.generation, head.epoch, head.size);
            let (was, is) = (state(&before), state(head));
            // A head that was destroyed may be made again by an earlier writer, if no later one has committed anything.
            let unseen = before.segments.iter().all(|it| it.epoch <= head.epoch);
            let epoch_back = is.1 < was.1 && !(unseen && self.facts().has_destroyed_head(organism, was.0));
            // The size starts again with a generation.
            if is.0 < was.0 || epoch_back || (is.0 == was.0 && is.2 < was.2) {
                self.wrong(format!(
                    "{organism}: (generation, epoch, size) went back from {was:?} to {is:?}, held by {} and then {}",
                    before.holder, head.holder
                ));
            }
        }
        self.end(organism, generation, size, End::of(head));
    }

    /// Notes what a status has published.
    fn status(&self, organism: &Organism) {
        let (name, uid) = (organism.name_any(), organism.uid().unwrap_or_default());
        let Some(ledger) = organism.status.as_ref().and_then(|status| status.ledger.as_ref()) else { return };
        let LedgerStatus { generation, size, .. } = *ledger;
        let is = (uid, generation, size);
        let before = {
            let mut facts = self.facts();
            facts.statuses_seen += 1;
            facts.published.insert(name.clone(), is.clone())
        };
        if before.as_ref() == Some(&is) {
            return;
        }
        self.note("status", &json!([name, generation, size, ledger.merkle_root]));
        if let Some(was) = before.filter(|was| was.0 == is.0 && (was.1, was.2) > (is.1, is.2)) {
            self.wrong(format!("{name}: the status went back from {was:?} to {is:?}"));
        }
        if size > 0 {
            let hash = |text| parse_hash(text).expect("no hash");
            let (root, last_hash) = (hash(&ledger.merkle_root), hash(&ledger.last_hash));
            self.end(&name, generation, size, End { root, last_hash, peaks: None });
        }
    }

    /// Watches heads and statuses until the set is dropped.
    pub fn watch(&self, world: &World) -> JoinSet<()> {
        let mut watches = JoinSet::new();
        let evidence = self.clone();
        watches.spawn(follow(world.maps.clone(), UID_LABEL, move |map: ConfigMap| {
            let organism = map.labels().get(ORGANISM_LABEL).cloned().unwrap_or_default();
            if map.name_any() == format!("{organism}-ledger") {
                match Head::parse(&map.data.unwrap_or_default()["head"]) {
                    Ok(head) => evidence.head(&organism, &head),
                    Err(error) => evidence.wrong(format!("{organism}: a head that cannot be read: {error}")),
                }
            }
        }));
        let evidence = self.clone();
        watches.spawn(follow(world.organisms.clone(), "", move |it| evidence.status(&it)));
        watches
    }
}

/// Calls `each` with every state of the objects with this label that a watch shows, for ever.
async fn follow<K>(api: Api<K>, label: &str, each: impl Fn(K))
where
    K: Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
{
    let mut events = std::pin::pin!(watcher(api, watcher::Config::default().labels(label)));
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Apply(object) | Event::InitApply(object)) => each(object),
            Ok(_) => {}
            // The watcher begins anew with the next poll.
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(200)).await,
        }
    }
}
