//! What a ledger knows of injections: the ids that a retry must not bring in again.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::super::Error;
use crate::ledger::entry::Data;
use crate::mesh::gossip::REMEMBER;
use crate::mesh::{Dose, Event, Identity, Known};
use crate::store::directory::Writer;

/// The injections of the last [`REMEMBER`], oldest first. Segments are read from the newest back, and none
/// where there never was an injection.
pub(super) fn injections(writer: &Writer) -> Result<Vec<Known>, Error> {
    let head = writer.head();
    if head.injected_total == 0 {
        return Ok(vec![]);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let nobody = Identity::operator("unknown").map_err(|error| Error::Failed(error.to_string()))?;
    let mut known = vec![];
    for listed in head.segments.iter().rev() {
        let opened = writer.folder().open(listed, None)?;
        // A clock that was set back must not make an injection older than it is.
        let newest = opened.entries.iter().fold(0.0, |newest: f64, entry| newest.max(entry.timestamp));
        for entry in opened.entries.iter().rev().filter(|entry| entry.kind() == "injection") {
            let Ok(Data::Injection(injection)) = entry.data() else { continue };
            let Ok(id) = injection.id.parse() else { continue };
            let origin = injection.from.and_then(|from| from.parse().ok()).unwrap_or_else(|| nobody.clone());
            let dose = Dose { anoms: injection.anoms, ml_weight: injection.ml_weight };
            let recorded = Duration::try_from_secs_f64(entry.timestamp).unwrap_or(now);
            let age = now.saturating_sub(recorded);
            known.push(Known { event: Event { id, origin, seq: 0, dose }, entry: entry.index, age });
        }
        if now.as_secs_f64() - newest > REMEMBER.as_secs_f64() {
            break;
        }
    }
    known.reverse();
    Ok(known)
}
