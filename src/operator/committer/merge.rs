//! Merging: adjacent segments become one, beside the commits. What comes out is listed by the committer.

use std::sync::Arc;

use tokio::task::JoinHandle;

use super::Shared;
use crate::ledger::entry::Origin;
use crate::ledger::{SealedSegment, sealed};
use crate::store::configmap::{ConfigMaps, StoreError};
use crate::store::head::Listed;

/// Why segments stay as they are.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// A call failed: try again later.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// They cannot be one segment.
    #[error(transparent)]
    Merge(#[from] sealed::MergeError),
    /// The task failed.
    #[error("the task failed: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// A merge under way.
pub struct Merge {
    parts: Vec<Listed>,
    task: JoinHandle<Result<Listed, MergeError>>,
}

impl Merge {
    /// Starts to read `parts` and to store them as one segment of the writer of `epoch`.
    pub fn start(
        shared: Arc<Shared>,
        store: ConfigMaps,
        origin: Origin,
        epoch: u64,
        parts: Vec<Listed>,
    ) -> Self {
        let task = tokio::spawn(merge(shared, store, origin, epoch, parts.clone()));
        Self { parts, task }
    }

    /// Waits for its end. Whatever it stores after that would be garbage that nobody expects.
    pub async fn end(self) {
        let _ = self.task.await;
    }
}

/// Comes back with the parts and what was made of them when the merge under way has ended; never where there
/// is none. May be cancelled.
pub async fn finished(merging: &mut Option<Merge>) -> (Vec<Listed>, Result<Listed, MergeError>) {
    let Some(merge) = merging else { return std::future::pending().await };
    let outcome = (&mut merge.task).await.unwrap_or_else(|error| Err(error.into()));
    let parts = std::mem::take(&mut merge.parts);
    *merging = None;
    (parts, outcome)
}

async fn merge(
    shared: Arc<Shared>,
    store: ConfigMaps,
    origin: Origin,
    epoch: u64,
    parts: Vec<Listed>,
) -> Result<Listed, MergeError> {
    // Decoding takes memory: one merge at a time. The semaphore is never closed.
    let _turn = shared.merging.acquire().await.ok();
    let mut sealed = Vec::with_capacity(parts.len());
    for part in &parts {
        let segment = store.listed(part).await?;
        sealed.push(segment.ok_or_else(|| store.missing(&store.name_of(part)))?);
    }
    let merged = tokio::task::spawn_blocking(move || SealedSegment::merge(Some(&origin), &sealed)).await??;
    let object = store.create_segment(&merged, epoch).await?;
    let level = parts.iter().map(|it| it.level).max().unwrap_or_default().saturating_add(1);
    Ok(Listed::new(&merged, epoch, object, level))
}
