//! What happens to a ledger's objects: someone deletes them, or spec.ledger.onDelete changes who owns them.

use std::time::Duration;

use tokio::time::Instant;

use super::garbage::delete_unlisted;
use super::merge::finished;
use super::{Committer, Exit, LedgerEvent, Mark};
use crate::api::OnDelete;
use crate::operator::publisher::report::Listed;
use crate::store::configmap::StoreError;
use crate::store::objects::Objects;

/// Wait before ownerReferences that could not be written are tried again.
const OWNERS_RETRY: Duration = Duration::from_secs(10);

impl Committer {
    /// 1. Create a deleted head again, and report segments that someone else deleted.
    /// 2. Follow spec.ledger.onDelete.
    /// 3. After a list, delete what earlier writers have left behind.
    pub(super) async fn ledger_event(&mut self, event: LedgerEvent) -> Result<(), Exit> {
        let head_name = self.ledger.store.head_name();
        let head_is_gone = match &event {
            LedgerEvent::Deleted { name, .. } => *name == head_name,
            LedgerEvent::Listed(existing) => !existing.contains_key(&head_name),
            LedgerEvent::NotListed(why) => {
                if self.ledger.listed != Listed::Yes {
                    self.ledger.listed = Listed::Failed(why.clone());
                    self.report(None);
                }
                return Ok(());
            }
            LedgerEvent::OnDelete(on_delete) => return self.set_on_delete(*on_delete).await,
            LedgerEvent::Retain | LedgerEvent::Release => {
                self.mark = event.mark();
                return Ok(());
            }
        };
        if head_is_gone {
            // At once, not with the next commit: there may be none before this process ends.
            self.put_head(self.ledger.head.clone(), None).await?;
        }
        let missing = self.missing(&event).await;
        let fresh = self.ledger.mark_lost(missing);
        if fresh > 0 {
            self.resources.metrics.lost(fresh);
            let integrity = &self.ledger.integrity;
            tracing::error!(organism = %self.key, segments = fresh, ?integrity, "segments are missing");
            self.report(None);
            self.snapshot_needed.notify_one();
        }
        if let LedgerEvent::Listed(existing) = &event {
            self.listed(existing).await;
        }
        Ok(())
    }

    /// What a list shows besides missing objects.
    async fn listed(&mut self, existing: &Objects) {
        let first = self.ledger.listed != Listed::Yes;
        self.ledger.listed(existing);
        if self.ledger.misowned && self.owners_due.is_none() {
            self.owners_due = Some(Instant::now());
        }
        if first {
            self.report(None);
            self.report_on_delete();
        }
        delete_unlisted(&self.ledger, existing).await;
    }

    /// Names of listed segments that are missing after `event`.
    async fn missing(&self, event: &LedgerEvent) -> Vec<String> {
        let mut missing = vec![];
        for segment in &self.ledger.head.segments {
            let name = self.ledger.store.name_of(segment);
            let is_missing = match event {
                LedgerEvent::Deleted { name: deleted, uid } => *deleted == name && *uid == segment.object,
                LedgerEvent::NotListed(_)
                | LedgerEvent::OnDelete(_)
                | LedgerEvent::Retain
                | LedgerEvent::Release => false,
                // The list may be older than the segment: a GET decides.
                LedgerEvent::Listed(existing) => {
                    existing.get(&name).is_none_or(|it| it.uid != segment.object)
                        && matches!(self.ledger.store.listed(segment).await, Ok(None))
                }
            };
            if is_missing {
                missing.push(name);
            }
        }
        missing
    }

    /// Objects written from now on have the ownerReference that is asked for; those that exist follow.
    async fn set_on_delete(&mut self, on_delete: OnDelete) -> Result<(), Exit> {
        let owned = on_delete == OnDelete::Delete;
        if self.ledger.store.is_owned() == owned {
            return Ok(());
        }
        if self.merging.is_some() {
            // The merged segment is written with the old one.
            let (parts, merged) = finished(&mut self.merging).await;
            self.finish_merge(parts, merged).await?;
        }
        self.ledger.store.set_owned(owned);
        self.owners_due = Some(Instant::now());
        self.report_on_delete();
        Ok(())
    }

    /// Brings the ownerReferences of all objects of this ledger in line with spec.ledger.onDelete, one at a time and
    /// in turn with the commits of other organisms. The head gets its own with the next write.
    pub(super) async fn write_owners(&mut self) -> Result<(), Exit> {
        self.put_head(self.ledger.head.clone(), None).await?;
        self.owners_due = match self.try_write_owners().await {
            Ok(()) => None,
            Err(error) => {
                tracing::warn!(organism = %self.key, %error, "cannot follow spec.ledger.onDelete; retrying");
                Some(Instant::now() + OWNERS_RETRY)
            }
        };
        self.report_on_delete();
        Ok(())
    }

    async fn try_write_owners(&self) -> Result<(), StoreError> {
        let objects = self.ledger.store.list().await?;
        for (name, uid) in self.ledger.misowned_among(&objects) {
            let _turn = self.faults.turn(false).await;
            self.ledger.store.write_owner(&name, &uid).await?;
        }
        Ok(())
    }

    /// Reports what becomes of the ledger when the Organism is deleted; nothing while objects of both kinds exist.
    pub(super) fn report_on_delete(&self) {
        let in_force = match self.ledger.store.is_owned() {
            _ if self.owners_due.is_some() => None,
            true => Some(OnDelete::Delete),
            false => Some(OnDelete::Retain),
        };
        self.report.send_if_modified(|report| {
            let changed = report.on_delete != in_force;
            report.on_delete = in_force;
            changed
        });
    }

    /// Marks the head of an Organism that is gone, or of a ledger that is given back.
    pub(super) async fn mark_head(&mut self, mark: Mark) -> Result<(), Exit> {
        let mut head = self.ledger.head.clone();
        mark.set(&mut head);
        self.put_head(head, None).await.map(|_| ())
    }
}
