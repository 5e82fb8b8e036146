//! Iteration over the entries of a source.

use super::super::{Error, complain};
use super::{Lines, Source, Store, head};
use crate::ledger::merkle::Tree;
use crate::ledger::{Chain, Entry, Hash};
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

/// Calls `each` with the entries of `source` in order. An entry whose index or hash does not follow from the one before
/// is an error.
///
/// # Errors
/// [`Error`] of reading, or of `each`.
pub fn walk(
    source: &mut Source,
    from: WalkFrom,
    each: &mut dyn FnMut(Entry) -> Result<(), Error>,
) -> Result<(), Error> {
    match source {
        Source::Store(store) => walk_store(&**store, from, each),
        Source::Lines(lines) => walk_lines(lines, each),
    }
}

fn walk_lines(lines: &mut Lines, each: &mut dyn FnMut(Entry) -> Result<(), Error>) -> Result<(), Error> {
    let mut chain: Option<Chain> = None;
    while let Some((number, entry)) = lines.next_line()? {
        let wrong =
            |what: &dyn std::fmt::Display| Error::Failed(format!("{}:{number}: {what}", lines.name()));
        let entry = entry.map_err(|what| wrong(&what))?;
        chain
            .get_or_insert_with(|| end_at(entry.index, entry.previous_hash))
            .verify_next(&entry)
            .map_err(|error| wrong(&error))?;
        each(entry)?;
    }
    Ok(())
}

/// A chain of `size` entries of which only the last hash is known, to check the links from there on. Unless `size` is 0,
/// its peaks are placeholders and its root is meaningless.
#[must_use]
pub fn end_at(size: u64, last_hash: Hash) -> Chain {
    let peaks = vec![[0; 32]; size.count_ones() as usize];
    Chain::from_parts(Tree::from_peaks(size, peaks).unwrap_or_default(), last_hash)
}

fn walk_store(
    store: &dyn Store,
    from: WalkFrom,
    each: &mut dyn FnMut(Entry) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut head = head(store)?;
    let mut next = match from {
        WalkFrom::Oldest => head.floor,
        WalkFrom::Last(count) => head.floor.max(head.size.saturating_sub(count)),
        WalkFrom::AfterGaps => after_gaps(store, &mut head)?,
    };
    // Entries that are committed during the walk are left out.
    let size = head.size;
    let mut end: Option<Chain> = None;
    while next < size {
        let opened = open_at(store, &mut head, next)?;
        match &end {
            Some(end) if opened.before.size() == next && *end != opened.before => {
                return Err(Error::Failed(format!(
                    "{}: entry {next} does not continue the chain; run venom ledger verify",
                    store.name()
                )));
            }
            _ => {}
        }
        for entry in opened.entries.into_iter().filter(|entry| (next..size).contains(&entry.index)) {
            each(entry)?;
        }
        next = opened.after.size();
        end = Some(opened.after);
    }
    if end.is_some_and(|end| end.size() == head.size && head.chain().is_none_or(|stated| stated != end)) {
        return Err(Error::Failed(format!(
            "{}: the last entry is not the one in the head; run venom ledger verify",
            store.name()
        )));
    }
    Ok(())
}

/// Opens the segment that contains entry `index`. If it cannot be read, tries again with a newer head.
fn open_at(store: &dyn Store, head: &mut Head, index: u64) -> Result<OpenedSegment, Error> {
    let mut tries = 0;
    loop {
        let listed = segment_with(head, index).ok_or_else(|| {
            let what = "is not stored; run venom ledger verify";
            Error::Failed(format!("{}: entry {index} {what}", store.name()))
        })?;
        let read = store.load(listed).and_then(|sealed| {
            OpenedSegment::open(&sealed)
                .map_err(|error| Error::Failed(format!("{}: {error}", store.segment_name(listed))))
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
