//! What the ledgers alone must prove about everything that was seen.
use std::collections::BTreeMap;
use std::convert::Infallible;

use serde_json::Value;
use venom::ledger::merkle::Tree;
use venom::ledger::replay::Replay;
use venom::ledger::{Entry, Hash, SealedSegment, hex};
use venom::store::Head;
use venom::store::configmap::ConfigMaps;

use crate::evidence::{End, Facts};
use crate::rederive::{Before, rederive};
use crate::user::{SPARED, names};
use crate::world::{World, condition, message};

/// What was proven.
#[derive(Debug, Default)]
pub struct Figures {
    pub generations: u64,
    /// Entries whose hashes, links and numbers were derived again.
    pub entries: u64,
    /// Ends that were seen and whose entries are still there.
    pub ends: u64,
    /// Ends whose entries are pruned or were destroyed, and which the trees after them extend.
    pub ends_extended: u64,
    pub injections: u64,
    /// First and last index of segments that the harness destroyed and that are still listed.
    pub gaps: u64,
}

/// Proves all of it, or panics with what does not hold.
pub async fn prove(world: &World, facts: &Facts) -> Figures {
    assert!(facts.wrong.is_empty(), "{:#?}", facts.wrong);
    let mut figures = Figures::default();
    let mut injections: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for name in names() {
        organism(world, name, facts, &mut figures, &mut injections).await;
    }
    for (id, entry) in &facts.injections {
        let found = injections.get(id).cloned().unwrap_or_default();
        let wanted: Vec<u64> = entry.iter().copied().collect();
        assert_eq!(found, wanted, "entries of the injection {id}");
    }
    figures.injections = facts.injections.values().flatten().count() as u64;
    figures
}

/// The heads of all generations of a name, the newest last. Where one was destroyed, the last one that was seen.
async fn heads(store: &ConfigMaps, name: &str, facts: &Facts) -> Vec<Head> {
    let newest = store.head().await.unwrap().expect("no head").head.expect("no head of ours");
    let mut heads = vec![];
    for generation in 1..newest.generation {
        heads.push(match store.archived_head(generation).await.unwrap().and_then(|it| it.head) {
            Some(head) => head,
            None => {
                assert!(
                    facts.has_destroyed_head(name, generation),
                    "{name}: generation {generation} has no head, and nobody destroyed it"
                );
                facts.heads.get(&(name.to_owned(), generation)).expect("never seen").clone()
            }
        });
    }
    heads.push(newest);
    heads
}

async fn organism(
    world: &World,
    name: &str,
    facts: &Facts,
    figures: &mut Figures,
    injections: &mut BTreeMap<String, Vec<u64>>,
) {
    let store = ConfigMaps::new(world.client.clone(), &world.namespace, name, "");
    let heads = heads(&store, name, facts).await;
    let newest = heads.last().unwrap();
    let later = facts.ends.keys().find(|(it, generation)| it == name && *generation > newest.generation);
    assert_eq!(later, None, "a generation was seen that is gone");

    // The newest first: its genesis says how the one before ended.
    let mut continues = None;
    let mut newest_gaps = vec![];
    for (at, head) in heads.iter().enumerate().rev() {
        figures.generations += 1;
        let what = format!("{name}, generation {}", head.generation);
        let mut ledger = Ledger::read(&store, head, &what, facts).await;
        if let Some((size, root)) = continues.take() {
            let root_only = End { root, last_hash: Hash::default(), peaks: None };
            ledger.check_end(size, &root_only, true);
        }
        let ends = facts.ends.get(&(name.to_owned(), head.generation));
        for (size, end) in ends.into_iter().flatten() {
            match ledger.check_end(*size, end, false) {
                true => figures.ends += 1,
                false => figures.ends_extended += 1,
            }
        }
        for entry in ledger.runs.iter().flat_map(|run| &run.entries) {
            if entry.data.contains("\"type\":\"injection\"") {
                let data: Value = serde_json::from_str(&entry.data).unwrap();
                let id = data["id"].as_str().unwrap().to_owned();
                injections.entry(id).or_default().push(entry.index);
            }
        }
        figures.entries += ledger.runs.iter().map(|run| run.entries.len() as u64).sum::<u64>();
        figures.gaps += ledger.gaps.len() as u64;
        if at + 1 == heads.len() {
            newest_gaps.clone_from(&ledger.gaps);
        }
        let before = at.checked_sub(1).map(|at| &heads[at]);
        continues = ledger.genesis().and_then(|genesis| begins(&genesis, head, before, &what, facts, name));
    }
    status(world, name, newest, &newest_gaps).await;
}

/// Checks why a generation began. Returns size and root of the one before, as its genesis states them.
fn begins(
    genesis: &Value,
    head: &Head,
    before: Option<&Head>,
    what: &str,
    facts: &Facts,
    name: &str,
) -> Option<(u64, Hash)> {
    let Some(before) = before else {
        assert_eq!(genesis["continues"], Value::Null, "{what} is the first");
        assert_eq!((head.lost_tail, &head.forged), (None, &None), "{what} is the first");
        return None;
    };
    let cause = facts.has_destroyed(name, before.generation);
    if head.uid == before.uid || head.lost_tail.is_some() || head.forged.is_some() {
        assert!(
            cause,
            "{what} began although nobody had destroyed anything: {:?} {:?}",
            head.lost_tail, head.forged
        );
        assert!(!SPARED.contains(&name), "{what}: a spared one");
    }
    let continues = &genesis["continues"];
    if continues.is_null() {
        assert!(cause || before.size == 0, "{what} continues nothing");
        return None;
    }
    let root = venom::ledger::parse_hash(continues["root"].as_str().unwrap()).unwrap();
    let size = continues["size"].as_u64().unwrap();
    assert_eq!(continues["origin"]["generation"].as_u64(), Some(before.generation), "{what} continues");
    if !cause {
        assert_eq!((size, hex(&root)), (before.size, before.root_hex()), "{what} continues");
    }
    Some((size, root))
}

/// The status says what is missing, and the command line agrees.
async fn status(world: &World, name: &str, head: &Head, gaps: &[(u64, u64)]) {
    let status = world.status(name).await;
    let (found, says) = (condition(&status, "LedgerIntact"), message(&status, "LedgerIntact"));
    let range = match (&head.forged, gaps, head.lost_tail) {
        (Some(_), ..) => ("Forged", None),
        (None, [first, .., last], _) => ("SegmentLost", Some((first.0, last.1))),
        (None, [only], _) => ("SegmentLost", Some(*only)),
        (None, [], Some(tail)) => ("TailLost", Some(tail)),
        (None, [], None) => {
            assert_eq!(found.0, "True", "{name}: {found:?} {says}");
            ("", None)
        }
    };
    if let (reason @ ("Forged" | "SegmentLost" | "TailLost"), range) = range {
        assert_eq!(found, ("False".to_owned(), reason.to_owned()), "{name}: {says}");
        if let Some((from, to)) = range {
            assert!(says.starts_with(&format!("Entries {from} to {to} ")), "{name}: {from} {to}: {says}");
        }
    }
    let verified = world.venom_ledger("verify", name);
    if gaps.is_empty() {
        verified.unwrap();
        world.venom_ledger("replay", name).unwrap();
    } else {
        // It reads a forged segment like a restored one, and then finds that the next does not continue it.
        verified.expect_err("verify does not see a gap");
    }
}

/// Entries without a gap.
struct Run {
    /// The tree before them.
    before: Tree,
    /// Hash of the entry before them.
    previous: Hash,
    entries: Vec<Entry>,
}

/// A ledger as its head lists it.
struct Ledger<'a> {
    what: &'a str,
    head: &'a Head,
    runs: Vec<Run>,
    gaps: Vec<(u64, u64)>,
    /// Every size at which the tree is known, with its state.
    known: BTreeMap<u64, Tree>,
}

impl<'a> Ledger<'a> {
    /// Reads and verifies it: every segment is there unless the harness has destroyed it; every hash, link, root and
    /// number follows, by the library and by `rederive`.
    async fn read(store: &ConfigMaps, head: &'a Head, what: &'a str, facts: &Facts) -> Self {
        let (mut runs, mut gaps): (Vec<Run>, Vec<(u64, u64)>) = (vec![], vec![]);
        let mut whole = false;
        assert_eq!(head.floor, head.segments.first().map_or(head.size, |it| it.first), "{what}: floor");
        assert!(head.segments.windows(2).all(|pair| pair[0].end() == pair[1].first), "{what}: side by side");
        assert_eq!(head.segments.last().map_or(head.floor, |it| it.end()), head.size, "{what}: size");
        for listed in &head.segments {
            let Some(sealed) = store.listed(listed).await.unwrap() else {
                let (first, last) = (listed.first, listed.end() - 1);
                assert!(
                    facts.destroyed.contains_key(&listed.object),
                    "{what}: entries {first} to {last} are missing, and nobody destroyed them ({})",
                    store.name_of(listed)
                );
                gaps.push((first, last));
                whole = false;
                continue;
            };
            if !whole {
                runs.push(Run::before(&sealed));
                whole = true;
            }
            let run = runs.last_mut().unwrap();
            let each = |entry| {
                run.entries.push(entry);
                Ok::<_, Infallible>(())
            };
            sealed.visit(each).unwrap();
        }
        let mut ledger = Self { what, head, runs, gaps, known: BTreeMap::new() };
        ledger.verify();
        ledger
    }

    fn verify(&mut self) {
        let Self { what, head, runs, known, .. } = self;
        let peaks = head.peaks.iter().map(|peak| peak.0).collect();
        let end = Tree::from_peaks(head.size, peaks).unwrap();
        assert_eq!(end.root(), head.root.0, "{what}: the head's peaks");
        for run in runs {
            let summary = run.verify(what);
            let last = run.entries.last().unwrap();
            let mut tree = run.before.clone();
            known.insert(tree.size(), tree.clone());
            for entry in &run.entries {
                tree.push(&entry.hash);
            }
            assert_eq!(hex(&tree.root()), summary, "{what}: rederive and the library differ");
            if tree.size() == head.size {
                assert_eq!(last.hash, head.last_hash.0, "{what}: the head's last hash");
            }
            known.insert(tree.size(), tree);
        }
        if let Some(tree) = known.insert(head.size, end.clone()) {
            assert_eq!(tree, end, "{what}: the head's root");
        }
        // Each of them is a prefix of the next, over gaps too.
        let states: Vec<&Tree> = known.values().collect();
        for pair in states.windows(2) {
            assert!(extends(pair[0].size(), pair[0].peaks(), pair[1]), "{what}: a gap is not covered");
        }
    }

    /// Checks that an end that was seen is a prefix. Returns whether its entries are there.
    fn check_end(&mut self, size: u64, end: &End, root_only: bool) -> bool {
        let (what, all) = (self.what, self.head.size);
        assert!(size <= all, "LOST: {what} was seen with {size} entries and has {all}");
        let run = self.runs.iter().find(|run| (run.before.size()..=run.end()).contains(&size));
        if let Some(run) = run {
            let (&from, tree) = self.known.range(..=size).next_back().unwrap();
            let skip = |index: u64| usize::try_from(index - run.before.size()).unwrap();
            let mut tree = tree.clone();
            run.entries[skip(from)..skip(size)].iter().for_each(|entry| tree.push(&entry.hash));
            let last = skip(size).checked_sub(1).map_or(run.previous, |at| run.entries[at].hash);
            assert_eq!(
                hex(&tree.root()),
                hex(&end.root),
                "LOST: {what} was seen with {size} entries and another root"
            );
            assert!(root_only || last == end.last_hash, "{what}: last hash at {size}");
            self.known.insert(size, tree);
            return true;
        }
        let (_, next) = self.known.range(size..).next().unwrap();
        if let Some(peaks) = &end.peaks {
            assert!(
                extends(size, peaks, next),
                "LOST: {what} was seen with {size} entries, which it does not extend"
            );
        }
        false
    }

    fn genesis(&self) -> Option<Value> {
        let first = self.runs.first()?.entries.first().filter(|it| it.index == 0)?;
        Some(serde_json::from_str(&first.data).unwrap())
    }
}

impl Run {
    fn before(sealed: &SealedSegment) -> Self {
        let chain = sealed.chain_before().unwrap();
        Self { before: chain.tree().clone(), previous: *chain.last_hash(), entries: vec![] }
    }

    fn end(&self) -> u64 {
        self.before.size() + self.entries.len() as u64
    }

    /// Derives every number again. Returns the root at the end.
    fn verify(&self, what: &str) -> String {
        let before = Before {
            size: self.before.size(),
            previous_hash: hex(&self.previous),
            peaks: self.before.peaks().iter().map(hex).collect(),
        };
        let lines: Vec<String> = self.entries.iter().map(Entry::to_line).collect();
        let summary = rederive(&before, lines.iter().map(String::as_str))
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        // Each writer has an epoch of its own. Within it, beating may pause and go on.
        let resumes = summary.inputs_of("resume");
        let epoch = |data: &Value| data["epoch"].as_u64().unwrap();
        let another = |data: &Value| ["restart", "takeover"].map(Value::from).contains(&data["reason"]);
        let follows = |a: &&Value, b: &&Value| epoch(a) < epoch(b) || epoch(a) == epoch(b) && !another(b);
        assert!(resumes.is_sorted_by(follows), "{what}: {resumes:?}");
        let mut replay = Replay::default();
        for entry in &self.entries {
            replay.feed(entry.clone()).unwrap_or_else(|mismatch| panic!("{what}: {mismatch}"));
        }
        replay.finish().unwrap_or_else(|mismatch| panic!("{what}: {mismatch}"));
        summary.root
    }
}

/// Whether the tree of `size` leaves with these peaks can be a prefix of `later`: the subtrees that both consist of are
/// the same.
fn extends(size: u64, peaks: &[Hash], later: &Tree) -> bool {
    let differing = u64::BITS - (size ^ later.size()).leading_zeros();
    let common = (size >> differing).count_ones() as usize;
    size <= later.size() && peaks.get(..common) == later.peaks().get(..common)
}
