//! Merging: adjacent segments become one, beside the commits. The committer lists the merged segment.

use std::sync::Arc;

use tokio::task::JoinHandle;

use super::Resources;
use crate::ledger::entry::Origin;
use crate::ledger::{SealedSegment, sealed};
use crate::store::configmap::{ConfigMaps, StoreError};
use crate::store::head::SegmentRef;

/// Why segments were not merged.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// A call failed; a later merge may succeed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// They do not fit into one segment.
    #[error(transparent)]
    Merge(#[from] sealed::MergeError),
    /// The task panicked or was cancelled.
    #[error("the merge task failed: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// A merge in progress.
pub struct Merge {
    parts: Vec<SegmentRef>,
    task: JoinHandle<Result<SegmentRef, MergeError>>,
}

impl Merge {
    /// Starts to read `parts` and to store them as one segment written in `epoch`.
    pub fn start(
        resources: Arc<Resources>,
        store: ConfigMaps,
        origin: Origin,
        epoch: u64,
        parts: Vec<SegmentRef>,
    ) -> Self {
        let task = tokio::spawn(merge(resources, store, origin, epoch, parts.clone()));
        Self { parts, task }
    }

    /// Waits for its end, so that no segment is created after the ledger has changed hands.
    pub async fn end(self) {
        let _ = self.task.await;
    }
}

/// Returns the parts and the merged segment when the merge in progress ends; never returns where there is none.
/// Cancel safe.
pub async fn finished(merging: &mut Option<Merge>) -> (Vec<SegmentRef>, Result<SegmentRef, MergeError>) {
    let Some(merge) = merging else { return std::future::pending().await };
    let outcome = (&mut merge.task).await.unwrap_or_else(|error| Err(error.into()));
    let parts = std::mem::take(&mut merge.parts);
    *merging = None;
    (parts, outcome)
}

async fn merge(
    resources: Arc<Resources>,
    store: ConfigMaps,
    origin: Origin,
    epoch: u64,
    parts: Vec<SegmentRef>,
) -> Result<SegmentRef, MergeError> {
    // Decoding whole segments takes memory: one merge at a time. The semaphore is never closed.
    let _permit = resources.merges.acquire().await.ok();
    let mut sealed = Vec::with_capacity(parts.len());
    for part in &parts {
        let segment = store.listed(part).await?;
        sealed.push(segment.ok_or_else(|| store.missing(&store.name_of(part)))?);
    }
    let merged = tokio::task::spawn_blocking(move || SealedSegment::merge(Some(&origin), &sealed)).await??;
    let object = store.create_segment(&merged, epoch).await?;
    let level = parts.iter().map(|it| it.level).max().unwrap_or_default().saturating_add(1);
    Ok(SegmentRef::new(&merged, epoch, object, level))
}
