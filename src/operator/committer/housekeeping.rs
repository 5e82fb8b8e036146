//! Housekeeping beside the commits. Segments leave the head before they leave the cluster.

use super::merge::{Merge, MergeError};
use super::{Committer, Exit};
use crate::mesh::INJECTION_RETENTION;
use crate::operator::committer::ledger::OwnedLedger;
use crate::store::head::{SegmentRef, largest_merge};

impl Committer {
    /// Starts merging adjacent segments beside the commits, unless a merge is in progress.
    pub(super) fn start_merge(&mut self) {
        if self.merging.is_some() {
            return;
        }
        let retain = self.retain_now();
        let exists = |it: &SegmentRef| {
            !self.ledger.is_lost(it) && !self.unmergeable.contains(&self.ledger.store.name_of(it))
        };
        let Some(range) = self.ledger.head.mergeable(largest_merge(retain), exists) else { return };
        let parts = self.ledger.head.segments[range].to_vec();
        let OwnedLedger { store, origin, head, .. } = &self.ledger;
        self.merging =
            Some(Merge::start(self.resources.clone(), store.clone(), origin.clone(), head.epoch, parts));
    }

    /// Lists the merged segment in place of its parts, then deletes these.
    pub(super) async fn finish_merge(
        &mut self,
        parts: Vec<SegmentRef>,
        merged: Result<SegmentRef, MergeError>,
    ) -> Result<(), Exit> {
        let listed = match merged {
            Ok(listed) => listed,
            Err(error) => {
                tracing::warn!(organism = %self.key, %error, "cannot merge segments");
                if matches!(error, MergeError::Merge(_)) {
                    self.unmergeable.extend(parts.iter().map(|it| self.ledger.store.name_of(it)));
                }
                return Ok(());
            }
        };
        let mut head = self.ledger.head.clone();
        let Some(at) = head.segments.windows(parts.len()).position(|window| window == parts) else {
            // They were pruned meanwhile: the next take-over deletes the merged segment.
            return Ok(());
        };
        let bytes = listed.bytes;
        head.segments.splice(at..at + parts.len(), [listed]);
        let bytes = bytes + self.put_head(head, None).await?;
        self.account.wrote(bytes);
        self.delete(&parts).await;
        self.report(None);
        Ok(())
    }

    /// Bytes that the ledger may keep.
    pub(super) fn retain_now(&self) -> u64 {
        let oldest = self.ledger.head.segments.first().map_or(0, |it| it.bytes);
        keep(self.retain, self.account.retain(), self.held, oldest)
    }

    /// Notes what the ledger holds.
    pub(super) fn note_held(&mut self) {
        self.held = held(self.held, self.account.retain(), self.ledger.head.bytes());
    }

    /// Takes the oldest segments beyond the bound of bytes off the head, then deletes them.
    pub(super) async fn prune(&mut self) -> Result<(), Exit> {
        let retain = self.retain_now();
        while self.injections.front().is_some_and(|(_, recorded)| recorded.elapsed() > INJECTION_RETENTION) {
            self.injections.pop_front();
        }
        let keep = self.injections.front().map_or(u64::MAX, |&(entry, _)| entry);
        let head = &self.ledger.head;
        // The entry before the published end shows the next recovery that this is the published ledger. But a status that
        // cannot be written must not let the ledger grow without end.
        let published = self.ledger.published.size(head.generation).saturating_sub(1);
        let keep = if head.bytes() > retain.saturating_mul(2) { keep } else { keep.min(published) };
        let count = head.prunable(retain, keep);
        if count == 0 {
            return Ok(());
        }
        let mut head = self.ledger.head.clone();
        let parts = head.prune(count);
        let bytes = self.put_head(head, None).await?;
        self.account.wrote(bytes);
        self.delete(&parts).await;
        self.ledger.forget(&parts);
        self.report(None);
        Ok(())
    }

    /// Deletes segments that the head no longer lists. The next take-over deletes those that stay.
    async fn delete(&mut self, parts: &[SegmentRef]) {
        for part in parts {
            let name = self.ledger.store.name_of(part);
            if let Err(error) = self.ledger.store.delete(&name, &part.object).await {
                tracing::warn!(organism = %self.key, %error, "cannot delete a segment that is no longer listed");
            }
        }
    }
}

/// Bytes that a ledger may keep: its share, but at most what its spec asks for. One that already `held` more when its
/// share shrank keeps that, for others that came must not delete what it has. Its oldest segment has `oldest` bytes:
/// pruning takes whole segments, and with this margin it ends at what was held, not below.
fn keep(spec: u64, share: u64, held: u64, oldest: u64) -> u64 {
    spec.min(if held > share { held.saturating_add(oldest) } else { share })
}

/// What a ledger with `bytes` holds by right: all of it within its share, else what it held before.
fn held(before: u64, share: u64, bytes: u64) -> u64 {
    if bytes <= share { bytes } else { before.min(bytes) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{held, keep};

    /// Appends segments under shares that change, and prunes whole ones. Returns the bytes after each step.
    fn run(spec: u64, steps: &[(u64, u64)]) -> Vec<u64> {
        let (mut segments, mut by_right) = (Vec::<u64>::new(), 0);
        let step = |&(share, bytes): &(u64, u64)| {
            segments.push(bytes);
            while segments.len() > 1
                && segments.iter().sum::<u64>() > keep(spec, share, by_right, segments[0])
            {
                segments.remove(0);
            }
            let bytes = segments.iter().sum();
            by_right = held(by_right, share, bytes);
            bytes
        };
        steps.iter().map(step).collect()
    }

    proptest! {
        #[test]
        fn a_share_that_shrinks_prunes_nothing_and_lets_nothing_grow(
            sizes in prop::collection::vec(1..200_u64, 2..200), shares in prop::collection::vec(0..4_000_u64, 200),
        ) {
            let spec = 4_000;
            let before: Vec<_> = sizes.iter().map(|bytes| (spec, *bytes)).collect();
            let full = *run(spec, &before).last().unwrap();
            let after = sizes.iter().zip(&shares).map(|(bytes, share)| ((full / 2).min(*share), *bytes));
            let steps: Vec<_> = before.iter().copied().chain(after).collect();
            for bytes in &run(spec, &steps)[before.len()..] {
                let by_spec = full.min(spec - 200);
                prop_assert!((by_spec..=full + 2 * 200).contains(bytes), "{bytes} where {full} were held");
            }
        }

        #[test]
        fn within_its_share_a_ledger_stays_within_it(
            share in 200..4_000_u64, sizes in prop::collection::vec(1..200_u64, 2..200),
        ) {
            let steps: Vec<_> = sizes.iter().map(|bytes| (share, *bytes)).collect();
            prop_assert!(run(8_000, &steps).iter().all(|bytes| *bytes <= share));
        }
    }
}
