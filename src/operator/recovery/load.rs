//! From the segments of a ledger to the state after its last entry. Segments are opened and replayed off the async
//! workers.

use super::RecoveryError;
use crate::api;
use crate::ledger::Chain;
use crate::ledger::SealedSegment;
use crate::ledger::replay::{Decision, Replay};
use crate::mesh::CommittedInjection;
use crate::operator::codec::Codec;
use crate::operator::committer::ledger::OwnedLedger;
use crate::operator::publisher::status;
use crate::organism::State;
use crate::organism::input::ResumeReason;
use crate::runtime::{CurrentDecision, History};
use crate::store::OpenedSegment;
use crate::store::configmap::ConfigMaps;
use crate::store::head::Head;
use crate::store::injections::RecentInjections;

/// The state after the last entry: from the newest segment with a snapshot whose followers are all there.
pub(super) async fn load(
    ledger: &OwnedLedger,
    organism: &api::Organism,
    reason: ResumeReason,
    codec: &Codec,
) -> Result<Option<History>, RecoveryError> {
    let name = ledger.store.head_name();
    let end = ledger.head.chain().ok_or_else(|| RecoveryError::Head(name.clone()))?;
    let segments = &ledger.head.segments;
    let whole = segments.iter().rposition(|it| ledger.is_lost(it)).map_or(0, |at| at + 1);
    let Some(from) = segments[whole..].iter().rposition(|it| it.start.is_some()) else { return Ok(None) };

    let mut sealed = vec![];
    for listed in &segments[whole + from..] {
        let segment = ledger.store.name_of(listed);
        let Some(found) = ledger.store.listed(listed).await? else {
            return Err(ledger.store.missing(&segment).into());
        };
        sealed.push((segment, found));
    }
    let chain = end.clone();
    let (replayed, state) = codec.run(move || replay(&name, &sealed, &chain)).await??;
    Ok(state.map(|state| {
        let decision = current_decision(replayed, &state, organism);
        History::Recovered { state: Box::new(state), chain: end, decision, reason }
    }))
}

/// Verifies and replays adjacent segments that must end at `end`.
fn replay(
    name: &str,
    segments: &[(String, SealedSegment)],
    end: &Chain,
) -> Result<(Option<Decision>, Option<State>), RecoveryError> {
    let mismatch = |mismatch| RecoveryError::Replay { name: name.to_owned(), mismatch };
    let mut replay = Replay::default();
    let mut chain: Option<Chain> = None;
    for (segment, sealed) in segments {
        let wrong = |error| RecoveryError::Segment { name: segment.clone(), error };
        let OpenedSegment { before, entries, after, .. } = OpenedSegment::open(sealed).map_err(wrong)?;
        if chain.is_some_and(|chain| chain != before) {
            return Err(RecoveryError::End(name.to_owned()));
        }
        for entry in entries {
            replay.feed(entry).map_err(mismatch)?;
        }
        chain = Some(after);
    }
    if chain.as_ref() != Some(end) {
        return Err(RecoveryError::End(name.to_owned()));
    }
    Ok((replay.decision(), replay.finish().map_err(mismatch)?))
}

/// The injections that retries must not record again. Segments are read from the newest back, and only those that
/// may hold a recent injection.
pub(super) async fn recent_injections(
    ledger: &OwnedLedger,
    codec: &Codec,
) -> Result<Vec<CommittedInjection>, RecoveryError> {
    let head = &ledger.head;
    let Some(mut recent) = RecentInjections::of(head) else { return Ok(vec![]) };
    let newest = head.last_injection.map_or(0, |(entry, _)| entry);
    for listed in head.segments.iter().rev().skip_while(|it| it.first > newest) {
        // A missing segment is reported elsewhere; its ids are forgotten.
        let Some(sealed) = ledger.store.listed(listed).await? else { continue };
        match codec.run(move || sealed.open()).await? {
            Ok(entries) if recent.read(&entries) => {}
            Ok(_) => break,
            Err(error) => {
                let segment = ledger.store.name_of(listed);
                tracing::warn!(
                    segment,
                    %error,
                    "cannot read a segment; ids of injections in it are forgotten"
                );
            }
        }
    }
    Ok(recent.known())
}

/// The head of an Organism that is gone, with the UIDs that its segments have now: a restored backup has given them
/// new ones. Only a segment whose every hash fits between its neighbours is taken for the listed one.
pub(super) async fn adopt(store: &ConfigMaps, mut head: Head, codec: &Codec) -> Result<Head, RecoveryError> {
    let mut end: Option<Chain> = None;
    for at in 0..head.segments.len() {
        let listed = &head.segments[at];
        let name = store.name_of(listed);
        let (first, past) = (listed.first, listed.end());
        let opened = match store.segment(&name).await? {
            Some((uid, sealed)) => {
                codec.run(move || OpenedSegment::open(&sealed)).await?.ok().map(|it| (uid, it))
            }
            None => None,
        };
        let last = at + 1 == head.segments.len();
        let fits = |it: &OpenedSegment| {
            (it.before.size(), it.after.size()) == (first, past)
                && end.as_ref().is_none_or(|end| *end == it.before)
                && (!last || head.chain().is_some_and(|chain| chain == it.after))
        };
        match opened.filter(|(_, it)| fits(it)) {
            Some((uid, opened)) => {
                head.segments[at].object = uid;
                end = Some(opened.after);
            }
            None => {
                tracing::warn!(
                    segment = name,
                    "a segment of an earlier Organism's ledger is missing or does not fit"
                );
                end = None;
            }
        }
    }
    Ok(head)
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
