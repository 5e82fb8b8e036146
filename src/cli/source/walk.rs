//! The entries of a source in order.

use super::super::{Error, complain};
use super::{Lines, Source, Store, head};
use crate::ledger::merkle::Tree;
use crate::ledger::{Chain, Entry, Hash};
use crate::store::{Head, Listed, Opened};

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// At the oldest entry that is kept.
    Oldest,
    /// So many entries before the end, or sooner.
    Last(u64),
    /// Where no gap follows: at the oldest entry, or at the first genesis or snapshot after the last gap, which
    /// is told on stderr.
    AfterGaps,
}

/// A store may be merged while it is read: then the head is read again, so many times at most without any
/// entry in between.
const HEAD_TRIES: u32 = 5;

/// Calls `each` with the entries of `source` in order. Each follows from the one before: what does not is an
/// error.
///
/// # Errors
/// [`Error`]: of reading, or of `each`.
pub fn walk(
    source: &mut Source,
    from: From,
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

/// The end of a chain of `size` entries of which only the last one's hash is known: links can be checked from
/// there on. At index 0 that is all there is to know; else the tree's peaks are made up and its root means
/// nothing.
#[must_use]
pub fn end_at(size: u64, last_hash: Hash) -> Chain {
    let peaks = vec![[0; 32]; size.count_ones() as usize];
    Chain::from_parts(Tree::from_peaks(size, peaks).unwrap_or_default(), last_hash)
}

fn walk_store(
    store: &dyn Store,
    from: From,
    each: &mut dyn FnMut(Entry) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut head = head(store)?;
    let mut next = match from {
        From::Oldest => head.floor,
        From::Last(count) => head.floor.max(head.size.saturating_sub(count)),
        From::AfterGaps => after_gaps(store, &mut head)?,
    };
    // What is committed later is not waited for.
    let size = head.size;
    let mut end: Option<Chain> = None;
    while next < size {
        let opened = open_at(store, &mut head, next)?;
        match &end {
            Some(end) if opened.before.size() == next && *end != opened.before => {
                return Err(Error::Failed(format!(
                    "{}: entry {next} does not follow from the one before; run venom ledger verify",
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
    Ok(())
}

/// Opens the segment that holds entry `index`, by a newer head if this one has been overtaken.
fn open_at(store: &dyn Store, head: &mut Head, index: u64) -> Result<Opened, Error> {
    let mut tries = 0;
    loop {
        let listed = holding(head, index).ok_or_else(|| {
            let what = "is not stored any more, or was never; run venom ledger verify";
            Error::Failed(format!("{}: entry {index} {what}", store.name()))
        })?;
        let read = store.load(listed).and_then(|sealed| {
            Opened::open(&sealed)
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

fn holding(head: &Head, index: u64) -> Option<&Listed> {
    head.segments.iter().find(|it| (it.first..it.end()).contains(&index))
}

/// The first index after which no segment is missing.
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
        let what = "are missing or altered, and no snapshot stands after them; restore the segment";
        Error::Failed(format!("{}: entries {first} to {last} {what}", store.name()))
    })?;
    complain(&format!(
        "{}: entries {first} to {last} are missing or altered; what follows begins at the snapshot {}",
        store.name(),
        start.index
    ));
    Ok(start.index)
}
