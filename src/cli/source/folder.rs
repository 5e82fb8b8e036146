//! A ledger in a folder.

use super::super::Error;
use super::Store;
use crate::ledger::SealedSegment;
use crate::store::directory::{Folder, Stray};
use crate::store::{Head, SegmentRef};

impl Store for Folder {
    fn name(&self) -> String {
        self.path().display().to_string()
    }

    fn head(&self) -> Result<Head, Error> {
        Ok(Folder::head(self)?)
    }

    fn load(&self, listed: &SegmentRef) -> Result<SealedSegment, Error> {
        Ok(Folder::load(self, listed)?)
    }

    fn segment_name(&self, listed: &SegmentRef) -> String {
        self.segment_path(listed).display().to_string()
    }

    fn present(&self, head: &Head) -> Result<Vec<bool>, Error> {
        // Reading and hashing a file costs little compared to decoding it.
        Ok(head.segments.iter().map(|listed| Folder::load(self, listed).is_ok()).collect())
    }

    /// Leftovers are ignored while a writer is active: it may be about to list or to remove them.
    fn strays(&self, head: &Head) -> Result<Vec<String>, Error> {
        let written = self.is_written();
        let describe = |stray: Stray| match stray {
            Stray::Leftover(_) if written => None,
            Stray::Leftover(path) => Some(format!(
                "{}: not part of the ledger, left by a writer that was killed; remove it, or let the next venom run remove it",
                path.display()
            )),
            Stray::Foreign(path) => {
                Some(format!("{}: not part of a ledger; move it elsewhere", path.display()))
            }
        };
        Ok(Folder::strays(self, head)?.into_iter().filter_map(describe).collect())
    }
}
