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
        let retain = self.resources.budget.retain(self.retain);
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
        let bytes = bytes + self.put_head(head).await?;
        self.resources.budget.wrote(bytes);
        self.delete(&parts).await;
        self.report(None);
        Ok(())
    }

    /// Takes the oldest segments beyond the bound of bytes off the head, then deletes them.
    pub(super) async fn prune(&mut self) -> Result<(), Exit> {
        let retain = self.resources.budget.retain(self.retain);
        while self.injections.front().is_some_and(|(_, recorded)| recorded.elapsed() > INJECTION_RETENTION) {
            self.injections.pop_front();
        }
        let keep = self.injections.front().map_or(u64::MAX, |&(entry, _)| entry);
        let count = self.ledger.head.prunable(retain, keep);
        if count == 0 {
            return Ok(());
        }
        let mut head = self.ledger.head.clone();
        let parts = head.prune(count);
        let bytes = self.put_head(head).await?;
        self.resources.budget.wrote(bytes);
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
