//! From the entries of a batch to segments.

use std::sync::Arc;

use super::{Committer, Exit};
use crate::ledger::entry::{Origin, Record};
use crate::ledger::sealed::SealError;
use crate::ledger::{Chain, SealedSegment};
use crate::runtime::Batch;

impl Committer {
    /// The entries of a batch as one segment, or as several where one would be too large, each with the end of the
    /// chain after it.
    pub(super) async fn seal(&self, batch: &Arc<Batch>) -> Result<Vec<(SealedSegment, Chain)>, Exit> {
        let (origin, batch) = (self.ledger.origin.clone(), batch.clone());
        let sealed = self.resources.codec.run(move || {
            let Batch { before, after, records, .. } = &*batch;
            seal(&origin, before, after, records)
        });
        match sealed.await {
            Ok(Ok(parts)) => Ok(parts),
            Ok(Err(error)) => Err(Exit::Failed(format!("cannot seal a segment: {error}"))),
            Err(error) => Err(Exit::Failed(format!("cannot seal a segment: {error}"))),
        }
    }
}

/// The records between two ends of the chain, in halves where one segment would be too large.
fn seal(
    origin: &Origin,
    before: &Chain,
    after: &Chain,
    records: &[Record],
) -> Result<Vec<(SealedSegment, Chain)>, SealError> {
    match SealedSegment::seal(Some(origin), before, after, records) {
        Ok(sealed) => Ok(vec![(sealed, after.clone())]),
        Err(SealError::Encode(_)) if records.len() > 1 => {
            let (left, right) = records.split_at(records.len() / 2);
            let mut middle = before.clone();
            for record in left {
                // Infallible: the engine has recorded each of them before.
                let _ = middle.record(record);
            }
            let mut parts = seal(origin, before, &middle, left)?;
            parts.extend(seal(origin, &middle, after, right)?);
            Ok(parts)
        }
        Err(error) => Err(error),
    }
}
