//! From the segments of a ledger to the state after its last entry. Segments are opened and replayed off the async
//! workers.

use super::RecoveryError;
use crate::api;
use crate::ledger::replay::{Decision, Replay};
use crate::ledger::sealed::{SegmentHead, VisitError};
use crate::ledger::{Chain, SealedSegment, hex};
use crate::operator::codec::Codec;
use crate::operator::committer::ledger::OwnedLedger;
use crate::operator::publisher::status;
use crate::organism::State;
use crate::organism::input::ResumeReason;
use crate::runtime::{CurrentDecision, History};
use crate::store::OpenedSegment;
use crate::store::configmap::ConfigMaps;
use crate::store::head::{Head, SegmentRef};
use crate::store::rebuild::Published;
use crate::store::recent::{Recent, RecentInputs};

/// What the entries of a ledger come to.
pub(super) enum Loaded {
    /// The state after the last one.
    State(History),
    /// A listed segment, by name, that is needed and not known to be missing.
    Missing(String),
    /// No snapshot is left whose followers are all there.
    NoStart,
    /// The segment in which the published entries end is missing; its range.
    EndLost(u64, u64),
    /// They do not extend what was published; in words.
    Contradiction(String, Published),
}

/// The state after the last entry: from the newest segment with a snapshot whose followers are all there. Where something
/// was `published`, every hash from there on is verified too, and the root and the last hash at the published size.
pub(super) async fn load(
    ledger: &OwnedLedger,
    organism: &api::Organism,
    published: Option<&Published>,
    reason: ResumeReason,
    codec: &Codec,
) -> Result<Loaded, RecoveryError> {
    let name = ledger.store.head_name();
    let Some(end) = ledger.head.chain() else {
        return match published {
            None => Err(RecoveryError::Head(name)),
            Some(it) => Ok(Loaded::Contradiction("its peaks do not give its root".into(), it.clone())),
        };
    };
    let segments = &ledger.head.segments;
    // Of an earlier generation it tells nothing about these entries.
    let published = published.filter(|it| it.generation == ledger.head.generation);
    let holds = |size: u64| move |it: &SegmentRef| (it.first + 1..=it.end()).contains(&size);
    let whole = segments.iter().rposition(|it| ledger.is_lost(it)).map_or(0, |at| at + 1);
    let anchor = match published.map(|it| (it, segments.iter().position(holds(it.size)))) {
        None => None,
        Some((it, None)) => {
            let what = "what was published last is pruned from it";
            return Ok(Loaded::Contradiction(what.into(), it.clone()));
        }
        Some((_, Some(at))) if ledger.is_lost(&segments[at]) => {
            return Ok(Loaded::EndLost(segments[at].first, segments[at].end() - 1));
        }
        Some((_, Some(at))) => Some(at),
    };
    let Some(start) = segments[whole..].iter().rposition(|it| it.start.is_some()) else {
        return Ok(Loaded::NoStart);
    };
    let start = whole + start;

    let mut read = Read { size: published.map(|it| it.size), ..Read::default() };
    // One segment at a time is held in memory.
    for (at, listed) in segments.iter().enumerate().skip(anchor.map_or(start, |anchor| anchor.min(start))) {
        if ledger.is_lost(listed) {
            // The gap is reported. What follows it cannot be shown to continue what precedes it.
            read.end = None;
            continue;
        }
        let segment = ledger.store.name_of(listed);
        let Some(sealed) = ledger.store.listed(listed).await? else {
            return Ok(Loaded::Missing(segment));
        };
        let name = name.clone();
        let next = codec.run(move || read.next(&name, segment, &sealed, at >= start)).await?;
        read = match next {
            Ok(read) => read,
            Err(error) => return contradiction(published, error),
        };
    }
    if let (Some(published), Some(found)) = (published, &read.at_size)
        && !published.is_end(found)
    {
        let root = hex(&found.tree().root());
        let what = format!("at that size its entries have the root {root}");
        return Ok(Loaded::Contradiction(what, published.clone()));
    }
    if read.end.as_ref() != Some(&end) {
        return contradiction(published, RecoveryError::End(name));
    }
    let replayed = read.replay.decision();
    let Some(state) = read.replay.finish().map_err(|mismatch| RecoveryError::Replay { name, mismatch })?
    else {
        return Ok(Loaded::NoStart);
    };
    let decision = current_decision(replayed, &state, organism);
    Ok(Loaded::State(History::Recovered { state: Box::new(state), chain: end, decision, reason }))
}

/// Entries that do not add up are forged where something was published. That a decision does not follow is no proof: it
/// may have been recorded by another version of the engine.
fn contradiction(published: Option<&Published>, error: RecoveryError) -> Result<Loaded, RecoveryError> {
    match (published, &error) {
        (Some(published), RecoveryError::Segment { .. } | RecoveryError::End(_)) => {
            Ok(Loaded::Contradiction(error.to_string(), published.clone()))
        }
        _ => Err(error),
    }
}

/// What was read of a ledger.
#[derive(Default)]
struct Read {
    replay: Replay,
    /// The chain after the last segment.
    end: Option<Chain>,
    /// The published size.
    size: Option<u64>,
    /// The chain at that size.
    at_size: Option<Chain>,
}

impl Read {
    /// Verifies the next segment, which must continue the chain, and replays it if `replay` is set.
    fn next(
        mut self,
        name: &str,
        segment: String,
        sealed: &SealedSegment,
        replay: bool,
    ) -> Result<Self, RecoveryError> {
        let wrong = |error| RecoveryError::Segment { name: segment.clone(), error };
        let before = sealed.chain_before().map_err(wrong)?;
        if self.end.as_ref().is_some_and(|end| *end != before) {
            return Err(RecoveryError::End(name.to_owned()));
        }
        let SegmentHead { first, count, .. } = sealed.head;
        let holds = self.size.is_some_and(|size| size > first && size - first <= count);
        if holds || !replay {
            let (after, at_size) = sealed.verify(self.size).map_err(wrong)?;
            self.end = Some(after);
            self.at_size = self.at_size.or(at_size);
        }
        if replay {
            let visited = sealed.visit(|entry| self.replay.feed(entry)).map_err(|error| match error {
                VisitError::Open(error) => wrong(error),
                VisitError::Each(mismatch) => RecoveryError::Replay { name: name.to_owned(), mismatch },
            });
            self.end = Some(visited?);
        }
        Ok(self)
    }
}

/// The inputs that must not be recorded again, in a ledger whose last pulse was at `end`. Segments are read from the newest back, and only those that may hold a
/// recent one.
pub(super) async fn recent_inputs(
    ledger: &OwnedLedger,
    end: Option<f64>,
    codec: &Codec,
) -> Result<Recent, RecoveryError> {
    let head = &ledger.head;
    let Some(mut recent) = RecentInputs::of(head, end) else { return Ok(Recent::default()) };
    let newest = [head.last_injection, head.last_sense].into_iter().flatten().map(|(entry, _)| entry).max();
    for listed in head.segments.iter().rev().skip_while(|it| Some(it.first) > newest) {
        // A missing segment is reported elsewhere; its ids are forgotten.
        let Some(sealed) = ledger.store.listed(listed).await? else { continue };
        let (back, read) = codec.run(move || (recent.read(&sealed), recent)).await.map(|(a, b)| (b, a))?;
        recent = back;
        match read {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => {
                let segment = ledger.store.name_of(listed);
                tracing::warn!(
                    segment,
                    %error,
                    "cannot read a segment; the inputs in it are forgotten"
                );
            }
        }
    }
    Ok(recent.known())
}

/// The head of an Organism that is gone, with the UIDs that its segments have now: a restored backup has given them
/// new ones. An object of another UID is taken for the listed one only if its every hash leads to what follows it, from the
/// head back: the head's root is the only thing that is known to be right. Before a gap nothing proves that.
pub(super) async fn adopt(store: &ConfigMaps, mut head: Head, codec: &Codec) -> Result<Head, RecoveryError> {
    let mut later = head.chain();
    for listed in head.segments.iter_mut().rev() {
        let name = store.name_of(listed);
        let opened = match store.readable_segment(&name).await? {
            Some((uid, sealed)) => {
                codec.run(move || OpenedSegment::open(&sealed, None)).await?.ok().map(|it| (uid, it))
            }
            None => None,
        };
        let fits = |(uid, it): &(String, OpenedSegment)| {
            (it.before.size(), it.after.size()) == (listed.first, listed.end())
                && later.as_ref().map_or(*uid == listed.object, |later| *later == it.after)
        };
        match opened.filter(fits) {
            Some((uid, opened)) => {
                listed.object = uid;
                later = Some(opened.before);
            }
            None => {
                later = None;
                tracing::warn!(
                    segment = name,
                    "a segment of an earlier Organism's ledger is missing or does not fit"
                );
            }
        }
    }
    Ok(head)
}

/// Whether the entries of `head` are those of `earlier` and more, which its segments have to show.
pub(super) async fn extends(
    store: &ConfigMaps,
    head: &Head,
    earlier: &Head,
    codec: &Codec,
) -> Result<bool, RecoveryError> {
    let same_ledger = (&head.uid, head.generation) == (&earlier.uid, earlier.generation);
    let (Some(mut later), Some(earlier)) = (head.chain(), earlier.chain()) else { return Ok(false) };
    let size = earlier.size();
    if !same_ledger || size > later.size() {
        return Ok(false);
    }
    for listed in head.segments.iter().rev() {
        if later.size() == size {
            break;
        }
        let Some(sealed) = store.listed(listed).await? else { return Ok(false) };
        let opened = codec.run(move || OpenedSegment::open(&sealed, Some(size))).await?;
        let Some(opened) = opened.ok().filter(|it| it.after == later) else { return Ok(false) };
        later = opened.at_size.unwrap_or(opened.before);
    }
    Ok(later == earlier)
}

/// The decision in force. Where the published one is the same, its time and entry stay: the replay may start
/// after the beat that first made it.
fn current_decision(
    replayed: Option<Decision>,
    state: &State,
    organism: &api::Organism,
) -> Option<CurrentDecision> {
    let published = organism.status.as_ref().and_then(|status| status.decision.as_ref());
    let same = published.filter(|it| it.action == status::action(state.action) && state.beat > 0);
    match (same, replayed) {
        (Some(it), replayed) if replayed.is_none_or(|replayed| it.entry <= replayed.entry) => {
            let since = it.since.0.as_microsecond() as f64 / 1e6;
            Some(CurrentDecision { action: state.action, since, entry: it.entry })
        }
        (_, replayed) => {
            replayed.map(|Decision { action, entry, since }| CurrentDecision { action, since, entry })
        }
    }
}
