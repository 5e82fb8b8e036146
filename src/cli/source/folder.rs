//! A folder as a source.

use super::super::Error;
use super::Store;
use crate::ledger::SealedSegment;
use crate::store::directory::{Folder, Stray};
use crate::store::{Head, Listed};

impl Store for Folder {
    fn name(&self) -> String {
        self.path().display().to_string()
    }

    fn head(&self) -> Result<Head, Error> {
        Ok(Folder::head(self)?)
    }

    fn load(&self, listed: &Listed) -> Result<SealedSegment, Error> {
        Ok(Folder::load(self, listed)?)
    }

    fn segment_name(&self, listed: &Listed) -> String {
        self.segment_path(listed).display().to_string()
    }

    fn present(&self, head: &Head) -> Result<Vec<bool>, Error> {
        // Reading and hashing a file is little beside decoding it.
        Ok(head.segments.iter().map(|listed| Folder::load(self, listed).is_ok()).collect())
    }

    /// What a writer at work has not committed yet, or not removed yet, is its own business.
    fn strays(&self, head: &Head) -> Result<Vec<String>, Error> {
        let written = self.is_written();
        let told = |stray: Stray| match stray {
            Stray::Leftover(_) if written => None,
            Stray::Leftover(path) => Some(format!(
                "{}: no part of the ledger, left by a writer that was killed; remove it, or the next venom run will",
                path.display()
            )),
            Stray::Foreign(path) => Some(format!("{}: no part of a ledger; move it away", path.display())),
        };
        Ok(Folder::strays(self, head)?.into_iter().filter_map(told).collect())
    }
}
