//! Rows from a ledger.

use std::path::Path;

use super::super::Error;
use super::super::ledger::progress::Progress;
use super::super::output::{complain, time};
use super::super::source::{self, Cluster, WalkFrom, walk};
use super::table;
use crate::training::{DataError, History, Rows};

/// Reads the rows of a ledger, with the incidents in the file at `incidents`. Returns the ledger's name, too.
pub(super) fn read(ledger: &str, incidents: &Path, cluster: &Cluster) -> Result<(String, Rows), Error> {
    if ledger == "-" && incidents == Path::new("-") {
        return Err(Error::Usage(
            "ledger and incidents cannot both come from stdin; name a file for one".into(),
        ));
    }
    let incidents = table::incidents(incidents)?;
    let count = incidents.len();
    let mut source = source::open(ledger, cluster)?;
    let name = source.name();
    let failed = |error: &DataError| Error::Failed(format!("{name}: {error}"));
    let mut history = History::new(incidents);
    let progress = Progress::new("entries derived");
    walk(&mut source, WalkFrom::AfterGaps, &mut |entry| {
        progress.add(1);
        history.feed(entry).map_err(|error| failed(&error))
    })?;
    drop(progress);
    let taken = history.finish().map_err(|error| failed(&error))?;
    let range = format!("{} to {}", time(taken.range.0), time(taken.range.1));
    if taken.outside == count {
        return Err(Error::Failed(format!(
            "{name}: no incident lies in the time of the ledger, {range}; look at the times and their zone"
        )));
    }
    if taken.outside > 0 {
        complain(&format!(
            "{name}: {} of {count} incidents lie outside of the ledger's time, {range}, and are left out",
            taken.outside
        ));
    }
    Ok((name, taken.rows))
}
