//! Rebuilding a lost head from the segments and from what was published. Pure.
//!
//! 1. The anchor: the segment in which the published size lies, if the root and the last hash there are the published
//!    ones. So everything before it is proven by hashes alone.
//! 2. Backwards from there: of the segments that end in exactly the chain before the last one found, the longest. Where
//!    none does, a gap is listed, as if its segment had been lost while the organism was beating.
//! 3. Forwards from there: the segments that continue the chain. Nothing published covers them.

use super::head::{Contents, Forged, Head, SegmentRef};
use super::objects::{Objects, parse_segment_name};
use crate::api::LedgerStatus;
use crate::ledger::entry::{Data, Origin};
use crate::ledger::merkle::MAX_SIZE;
use crate::ledger::sealed::{OpenError, VisitError};
use crate::ledger::{Chain, Hash, SealedSegment, hex, parse_hash};

/// How far the epoch of a new head is above all that are known, if the old head does not tell its own: a writer may have
/// taken the ledger over and not committed yet.
pub const UNKNOWN_EPOCHS: u64 = 1000;
/// Holder of a rebuilt head. Any operator may take it over.
pub const HOLDER: &str = "venom ledger repair";
/// No writer has reached a higher epoch, and heads with a few more can still be read.
pub const LARGEST_EPOCH: u64 = MAX_SIZE / 8;

/// A segment that was found, decoded and checked by itself.
#[derive(Debug)]
pub struct Candidate {
    name: String,
    origin: Origin,
    listed: SegmentRef,
    before: Chain,
    after: Chain,
    /// The chain at the published size, if that lies within or at the end.
    at_published: Option<Chain>,
    /// What the head says of its entries.
    contents: Contents,
}

impl Candidate {
    /// Decodes a segment and checks its hashes. `object` is the UID of its ConfigMap, `epoch` that in its name.
    ///
    /// # Errors
    /// What is wrong with the segment.
    pub fn open(
        name: String,
        object: String,
        epoch: u64,
        sealed: &SealedSegment,
        published: Option<&Published>,
    ) -> Result<Self, String> {
        let wrong = |error: OpenError| error.to_string();
        let origin = sealed.head.origin.clone().ok_or("it does not say to which ledger it belongs")?;
        let before = sealed.chain_before().map_err(wrong)?;
        let (mut at, mut at_published, mut contents) = (before.clone(), None, Contents::default());
        let start = sealed.head.start;
        let mut starts = start.is_none();
        let visited = sealed.visit(|entry| {
            starts |= start.is_some_and(|start| {
                (entry.index, entry.timestamp) == (start.index, start.time)
                    && ["genesis", "snapshot"].contains(&&*entry.kind())
            });
            at.push_hash(entry.hash);
            if published.is_some_and(|it| it.size == at.size()) {
                at_published = Some(at.clone());
            }
            let may_be = ["injection", "sense"]
                .iter()
                .any(|kind| entry.data.contains(&format!("\"type\":\"{kind}\"")));
            match may_be.then(|| entry.data()) {
                Some(Ok(Data::Injection(_))) => contents.injections.push((entry.index, entry.timestamp)),
                Some(Ok(Data::Sense(_))) => contents.senses.push((entry.index, entry.timestamp)),
                _ => {}
            }
            Ok(())
        });
        let after = visited.map_err(VisitError::open).map_err(wrong)?;
        if let Some(start) = start.filter(|_| !starts) {
            return Err(format!("entry {} is not the snapshot that its head states", start.index));
        }
        let listed = SegmentRef::new(sealed, epoch, object, 0);
        Ok(Self { name, origin, listed, before, after, at_published, contents })
    }

    fn rank(&self) -> (u64, u64) {
        (self.listed.epoch, self.listed.end())
    }
}

/// The end of a ledger that a status has published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Number of the ledger among those of its name.
    pub generation: u64,
    /// Number of entries.
    pub size: u64,
    /// Merkle root over them.
    pub root: Hash,
    /// Hash of the last one.
    pub last_hash: Hash,
}

impl Published {
    /// What a status says of the ledger; `None` where it has published no entry.
    #[must_use]
    pub fn of(status: &LedgerStatus) -> Option<Self> {
        let LedgerStatus { generation, size, .. } = *status;
        let (root, last_hash) = (parse_hash(&status.merkle_root)?, parse_hash(&status.last_hash)?);
        (size > 0).then_some(Self { generation, size, root, last_hash })
    }

    /// Whether `chain` ends as the published entries do.
    #[must_use]
    pub fn is_end(&self, chain: &Chain) -> bool {
        chain.size() == self.size && chain.tree().root() == self.root && *chain.last_hash() == self.last_hash
    }
}

/// What is known besides the segments.
#[derive(Debug, Default)]
pub struct Known {
    /// UID of the Organism; `None` if there is none of this name.
    pub uid: Option<String>,
    /// What its status has published.
    pub published: Option<Published>,
    /// Injections of this generation, as the Genome's status has published them.
    pub injected_total: u64,
    /// Heads of earlier generations.
    pub archived: Vec<Head>,
    /// Epoch of the old head, if it can be made out.
    pub old_epoch: Option<u64>,
    /// Highest epoch in the name of any segment.
    pub highest_epoch: u64,
    /// [`Head::lost_tail`] of the old head, as far as it can be made out.
    pub lost_tail: Option<(u64, u64)>,
    /// [`Head::forged`] of the old head, as far as it can be made out.
    pub forged: Option<Forged>,
}

/// A rebuilt head and what is to be said about it.
#[derive(Debug)]
pub struct Rebuilt {
    /// The head.
    pub head: Head,
    /// One line for each thing that the hashes prove.
    pub proven: Vec<String>,
    /// One line for each thing that nothing proves.
    pub not_proven: Vec<String>,
    /// Name and object UID of segments of this ledger that have no place in the head.
    pub left_out: Vec<(String, String)>,
}

/// Rebuilds the head of the newest ledger among `candidates`.
///
/// # Errors
/// Why there is nothing to rebuild it from, or why what was published contradicts the segments.
pub fn rebuild(candidates: Vec<Candidate>, known: &Known) -> Result<Rebuilt, String> {
    let (uid, generation) = ledger_of(&candidates, known)?;
    let own = |it: &Candidate| it.origin.generation == generation && it.origin.uid == uid;
    let mut rest: Vec<Candidate> = candidates.into_iter().filter(own).collect();
    let published = known
        .published
        .as_ref()
        .filter(|it| it.generation == generation && it.size > 0 && known.uid.as_ref() == Some(&uid));
    let (mut proven, mut not_proven) = (vec![], vec![]);

    let anchor = match published {
        Some(published) => anchor(&mut rest, published)?,
        None => {
            not_proven.push(format!(
                "that no entry is missing at the end: no status has published generation {generation}"
            ));
            take(&mut rest, |_| true, Candidate::rank).ok_or("no segment is left")?
        }
    };
    let (mut segments, floor) = backwards(anchor, &mut rest, &mut not_proven);
    let anchored = published.map(|it| it.size);
    forwards(&mut segments, &mut rest);

    let mut head = Head::empty(&uid, generation, epoch(known), HOLDER);
    head.floor = floor;
    head.lost_tail = known.lost_tail.filter(|_| floor == 0);
    head.forged = known.forged.clone().filter(|_| floor == 0);
    let (mut complete, mut end) = (floor == 0, floor);
    for segment in segments {
        let Candidate { listed, before, after, contents, .. } = segment;
        if listed.first > end {
            complete = false;
            let what = "missing; the head lists them as lost";
            not_proven.push(format!("entries {end} to {}: {what}", listed.first - 1));
            head.segments.push(gap(end, &before));
        }
        end = listed.end();
        // The next response records what it finds in force once more.
        head.append(listed, &after, contents);
    }
    if !complete {
        head.injected_total = head.injected_total.max(known.injected_total);
        not_proven.push(format!("the number of injections since genesis: {} are known", head.injected_total));
    }
    if floor > 0 {
        not_proven.push(format!("entries 0 to {}: not stored, pruned or lost", floor - 1));
    }
    let size = anchored.unwrap_or(head.size);
    let root = match published {
        Some(it) => format!("their Merkle root is the published one, {}", hex(&it.root)),
        None => format!("their Merkle root is {}", head.root_hex()),
    };
    let (first, last) = (floor.min(size), size.saturating_sub(1));
    proven.push(format!("entries {first} to {last}, as far as they are stored: every hash; {root}"));
    if head.size > size {
        let what = "they continue the chain, but nothing published covers them";
        not_proven.push(format!("entries {size} to {}: {what}", head.size - 1));
    }
    let left_out: Vec<_> = rest.into_iter().map(|it| (it.name, it.listed.object)).collect();
    Ok(Rebuilt { head, proven, not_proven, left_out })
}

/// UID and generation of the newest ledger.
fn ledger_of(candidates: &[Candidate], known: &Known) -> Result<(String, u64), String> {
    let is_ours = |it: &&Candidate| known.uid.as_ref().is_none_or(|uid| *uid == it.origin.uid);
    let newest = |all: &mut dyn Iterator<Item = &Candidate>| {
        all.map(|it| (it.origin.generation, it.origin.uid.clone())).max()
    };
    // After a restore from a backup all segments have the UID of an Organism that is gone.
    let found = newest(&mut candidates.iter().filter(is_ours)).or_else(|| newest(&mut candidates.iter()));
    let (generation, uid) =
        found.ok_or("no readable segment is left: there is nothing to rebuild a head from")?;
    let archived = known.archived.iter().filter(|it| it.uid == uid).map(|it| it.generation).max();
    let published = known.published.as_ref().map(|it| it.generation);
    let newer = archived.map(|it| it + 1).max(published).filter(|newer| *newer > generation);
    match newer {
        Some(newer) if known.uid.as_ref() == Some(&uid) => Err(format!(
            "no readable segment of generation {newer} is left, only of generation {generation}; delete the head's \
             ConfigMap, and the operator starts a generation that continues what was published"
        )),
        _ => Ok((uid, generation)),
    }
}

/// The segment that ends at the published size, or contains it.
fn anchor(rest: &mut Vec<Candidate>, published: &Published) -> Result<Candidate, String> {
    let anchors = |it: &Candidate| {
        it.at_published.as_ref().is_some_and(|chain| published.is_end(chain)) || published.is_end(&it.before)
    };
    let contradicts = rest.iter().any(|it| it.at_published.is_some());
    take(rest, anchors, Candidate::rank).ok_or_else(|| {
        let Published { generation, size, root, .. } = published;
        let root = hex(root);
        let what = if contradicts {
            "the segments give another one"
        } else {
            "no readable segment reaches that size"
        };
        format!(
            "generation {generation} was published with {size} entries and root {root}, but {what}; restore the \
             segments from a backup, or delete the head's ConfigMap: the operator then starts a generation that \
             continues what was published"
        )
    })
}

/// The segments up to `anchor`, and the index of the first entry.
fn backwards(
    anchor: Candidate,
    rest: &mut Vec<Candidate>,
    not_proven: &mut Vec<String>,
) -> (Vec<Candidate>, u64) {
    let mut segments = vec![anchor];
    while let Some(first) = segments.last().map(|it| it.before.clone()).filter(|it| it.size() > 0) {
        let longest = |it: &Candidate| (it.listed.count, it.listed.epoch);
        let found = take(rest, |it| it.after == first, longest).or_else(|| {
            let before_gap = |it: &Candidate| it.listed.end() < first.size() && agree(&it.after, &first);
            let found = take(rest, before_gap, |it| (it.listed.end(), it.listed.epoch))?;
            not_proven.push(format!(
                "entries up to {}: their hashes are right, but a gap separates them from what was published",
                found.listed.end() - 1
            ));
            Some(found)
        });
        let Some(found) = found else { break };
        segments.push(found);
    }
    segments.reverse();
    let floor = segments.first().map_or(0, |it| it.listed.first);
    (segments, floor)
}

/// Appends the segments that continue the chain. Of several the one of the newest writer: it has fenced the others.
fn forwards(segments: &mut Vec<Candidate>, rest: &mut Vec<Candidate>) {
    while let Some(end) = segments.last().map(|it| it.after.clone()) {
        let Some(next) = take(rest, |it| it.before == end, Candidate::rank) else { break };
        segments.push(next);
    }
}

/// Takes the highest of those that are wanted.
fn take<R: Ord>(
    rest: &mut Vec<Candidate>,
    wanted: impl Fn(&Candidate) -> bool,
    rank: impl Fn(&Candidate) -> R,
) -> Option<Candidate> {
    let best = (0..rest.len()).filter(|&at| wanted(&rest[at])).max_by_key(|&at| rank(&rest[at]))?;
    Some(rest.swap_remove(best))
}

/// The highest epoch in the names of `objects` that are segments of `organism`. Names that no writer can have given do not
/// count.
#[must_use]
pub fn newest_epoch(organism: &str, objects: &Objects) -> Option<u64> {
    let epochs =
        objects.keys().filter_map(|name| parse_segment_name(organism, name)).map(|(epoch, ..)| epoch);
    epochs.filter(|epoch| *epoch <= LARGEST_EPOCH).max()
}

/// Whether an earlier end of a chain can be a prefix of a later one: the subtrees that both are made of are the same.
fn agree(earlier: &Chain, later: &Chain) -> bool {
    let differing = u64::BITS - (earlier.size() ^ later.size()).leading_zeros();
    let common = (earlier.size() >> differing).count_ones() as usize;
    earlier.tree().peaks().get(..common) == later.tree().peaks().get(..common)
}

/// The entries from `first` up to the chain `after`, of which no object is left.
fn gap(first: u64, after: &Chain) -> SegmentRef {
    let count = after.size() - first;
    SegmentRef { first, count, epoch: 0, object: String::new(), bytes: 0, level: 0, start: None }
}

/// An epoch that fences every writer of the old head.
fn epoch(known: &Known) -> u64 {
    let archived = known.archived.iter().map(|it| it.epoch).filter(|epoch| *epoch <= LARGEST_EPOCH).max();
    let seen = known.highest_epoch.max(archived.unwrap_or_default());
    let old = known.old_epoch.filter(|old| *old <= LARGEST_EPOCH);
    old.map_or(seen + UNKNOWN_EPOCHS, |old| old.max(seen) + 1)
}

#[cfg(test)]
mod tests;
