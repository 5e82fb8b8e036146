//! Iteration over the entries of a source.

use super::super::Error;
use super::super::output::complain;
use super::{Lines, Source, Store, head};
use crate::ledger::entry::Origin;
use crate::ledger::merkle::Tree;
use crate::ledger::sealed::VisitError;
use crate::ledger::{Chain, Entry, Hash, SealedSegment};
use crate::store::{Head, OpenedSegment, SegmentRef};

/// Where a walk begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalkFrom {
    /// At the oldest stored entry.
    Oldest,
    /// This number of entries before the end. A source that is read in order begins at its first entry.
    Last(u64),
    /// At the oldest entry if there is no gap, or else at the first genesis or snapshot after the last gap, with a
    /// warning on stderr.
    AfterGaps,
}

/// Attempts at reading a segment. A concurrent merge may replace it, so the head is read again in between.
const HEAD_TRIES: u32 = 5;

/// What a walk has verified: every hash of the entries that it read, each link between them, and for a store that they
/// end where its head says.
#[derive(Clone, Debug, Default)]
pub struct Walked {
    /// Number of entries since genesis, up to the last one that was read.
    pub size: u64,
    /// Merkle root over these; `None` for JSON lines that do not begin with entry 0.
    pub root: Option<Hash>,
    /// The ledger's identity, as its segments state it; `None` for JSON lines and outside a cluster.
    pub origin: Option<Origin>,
}

/// Calls `each` with the entries of `source` in order. An entry whose index or hash does not follow from the one before
/// is an error.
///
/// # Errors
/// [`Error`] of reading, or of `each`.
pub fn walk(
    source: &mut Source,
    from: WalkFrom,
    each: &mut dyn FnMut(Entry) -> Result<(), Error>,
) -> Result<Walked, Error> {
    match source {
        Source::Store(store) => walk_store(&**store, from, each),
        Source::Lines(lines) => walk_lines(lines, each),
    }
}

fn walk_lines(lines: &mut Lines, each: &mut dyn FnMut(Entry) -> Result<(), Error>) -> Result<Walked, Error> {
    let mut chain: Option<Chain> = None;
    let mut from_genesis = true;
    while let Some((number, entry)) = lines.next_line()? {
        let wrong =
            |what: &dyn std::fmt::Display| Error::Failed(format!("{}:{number}: {what}", lines.name()));
        let entry = entry.map_err(|what| wrong(&what))?;
        from_genesis &= chain.is_some() || entry.index == 0;
        chain
            .get_or_insert_with(|| end_at(entry.index, entry.previous_hash))
            .verify_next(&entry)
            .map_err(|error| wrong(&error))?;
        each(entry)?;
    }
    Ok(chain.map_or_else(Walked::default, |chain| Walked {
        size: chain.size(),
        root: from_genesis.then(|| chain.tree().root()),
        origin: None,
    }))
}

/// A chain of `size` entries of which only the last hash is known, to check the links from there on. Unless `size` is 0,
/// its peaks are placeholders and its root is meaningless. Before entry 0 there is none that could have a hash.
#[must_use]
pub fn end_at(size: u64, last_hash: Hash) -> Chain {
    if size == 0 {
        return Chain::default();
    }
    let peaks = vec![[0; 32]; size.count_ones() as usize];
    Chain::from_parts(Tree::from_peaks(size, peaks).unwrap_or_default(), last_hash)
}

fn walk_store(
    store: &dyn Store,
    from: WalkFrom,
    each: &mut dyn FnMut(Entry) -> Result<(), Error>,
) -> Result<Walked, Error> {
    let mut head = head(store)?;
    let mut next = match from {
        WalkFrom::Oldest => head.floor,
        WalkFrom::Last(count) => head.floor.max(head.size.saturating_sub(count)),
        WalkFrom::AfterGaps => after_gaps(store, &mut head)?,
    };
    // Entries that are committed during the walk are left out.
    let size = head.size;
    let mut end: Option<Chain> = None;
    let mut walked = Walked::default();
    while next < size {
        let (sealed, opened) = open_at(store, &mut head, next, size)?;
        match &end {
            Some(end) if opened.before.size() == next && *end != opened.before => {
                return Err(Error::Failed(format!(
                    "{}: entry {next} does not continue the chain; run venom ledger verify",
                    store.name()
                )));
            }
            _ => {}
        }
        // Decoded once more, entry by entry: nothing is passed on before all of it is verified.
        let wanted = next..size;
        let visited = sealed.visit(|entry| if wanted.contains(&entry.index) { each(entry) } else { Ok(()) });
        visited.map_err(|error| match error {
            VisitError::Open(error) => Error::Failed(format!("{}: {error}", store.name())),
            VisitError::Each(error) => error,
        })?;
        next = opened.after.size();
        // A merge during the walk may have put the last entry into a segment that goes on after it.
        let last = opened.at_size.as_ref().unwrap_or(&opened.after);
        walked = Walked { size: last.size(), root: Some(last.tree().root()), origin: opened.origin };
        end = Some(opened.after);
    }
    if end.is_some_and(|end| end.size() == head.size && head.chain().is_none_or(|stated| stated != end)) {
        return Err(Error::Failed(format!(
            "{}: the last entry is not the one in the head; run venom ledger verify",
            store.name()
        )));
    }
    Ok(walked)
}

/// Opens the segment that contains entry `index`, and computes its chain at `size` where that lies in it. If it cannot
/// be read, tries again with a newer head.
fn open_at(
    store: &dyn Store,
    head: &mut Head,
    index: u64,
    size: u64,
) -> Result<(SealedSegment, OpenedSegment), Error> {
    let mut tries = 0;
    loop {
        let listed = segment_with(head, index).ok_or_else(|| {
            let what = "is not stored; run venom ledger verify";
            Error::Failed(format!("{}: entry {index} {what}", store.name()))
        })?;
        let read = store.load(listed).and_then(|sealed| {
            let opened = OpenedSegment::open(&sealed, Some(size))
                .map_err(|error| Error::Failed(format!("{}: {error}", store.segment_name(listed))))?;
            Ok((sealed, opened))
        });
        match read {
            Ok(opened) => return Ok(opened),
            Err(error) => {
                let newer = super::head(store)?;
                tries += 1;
                if tries == HEAD_TRIES || newer.segments == head.segments {
                    return Err(error);
                }
                *head = newer;
            }
        }
    }
}

fn segment_with(head: &Head, index: u64) -> Option<&SegmentRef> {
    head.segments.iter().find(|it| (it.first..it.end()).contains(&index))
}

/// The index of the first genesis or snapshot after the last missing segment; the floor if none is missing.
fn after_gaps(store: &dyn Store, head: &mut Head) -> Result<u64, Error> {
    let mut present = store.present(head)?;
    for _ in 0..HEAD_TRIES {
        if present.iter().all(|&it| it) {
            return Ok(head.floor);
        }
        let newer = super::head(store)?;
        if newer.segments == head.segments {
            break;
        }
        *head = newer;
        present = store.present(head)?;
    }
    let Some(gap) = present.iter().rposition(|&it| !it) else { return Ok(head.floor) };
    let (first, last) = (head.segments[gap].first, head.segments[gap].end().saturating_sub(1));
    let start = head.segments[gap + 1..].iter().find_map(|it| it.start).ok_or_else(|| {
        let what = "are missing or altered, and no snapshot follows them; restore the segment";
        Error::Failed(format!("{}: entries {first} to {last} {what}", store.name()))
    })?;
    complain(&format!(
        "{}: entries {first} to {last} are missing or altered; starting at the snapshot with index {}",
        store.name(),
        start.index
    ));
    Ok(start.index)
}
