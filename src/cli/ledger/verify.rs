//! `venom ledger verify`: checks every hash and link, the Merkle root, and that no file is missing or unexpected.
//!
//! Whether entries are missing at the end is known only from outside the entries: from a head, or from the size or root
//! that the user expects. Without them the result says that the end is not anchored.

use rayon::prelude::*;
use serde::Serialize;

use super::super::output::Format;
use super::super::source::{self, Lines, Source, Store};
use super::super::{Error, output};
use super::progress::Progress;
use crate::ledger::{Chain, Entry, Hash, hex, parse_hash};
use crate::store::{Head, OpenedSegment, SegmentRef};

/// Arguments of `venom ledger verify`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_STATUS)]
pub struct Args {
    #[command(flatten)]
    source: source::Args,
    /// Format of the result
    #[arg(long, short, value_name = "FORMAT", value_enum, default_value_t = Format::Text)]
    output: Format,
    /// The expected Merkle root, from a source that you trust
    #[arg(long, value_name = "HEX", value_parser = root)]
    root: Option<Hash>,
    /// The expected number of entries; with --root, the number of entries that the root covers
    #[arg(long, value_name = "N")]
    size: Option<u64>,
}

/// What the exit status means.
const EXIT_STATUS: &str = "\
Exit status:
  0  All that could be checked is right. JSON lines have no head: unless --size or --root is given, entries may be
     missing at the end, and the result says so (\"end not anchored\"; in JSON, endAnchoredBy is null)
  1  At least one finding, or the ledger cannot be read
  2  Wrong usage";

fn root(text: &str) -> Result<Hash, String> {
    parse_hash(text).ok_or_else(|| "write 64 hexadecimal digits in lower case".into())
}

/// Expectations about a ledger, from the user.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    /// The Merkle root.
    pub root: Option<Hash>,
    /// The number of entries; if there is a root, the number of entries that it covers.
    pub size: Option<u64>,
}

/// What says that no entry is missing at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Anchor {
    /// The ledger's own head.
    Head,
    /// `--size`.
    Size,
    /// `--root`.
    Root,
}

/// The result of a verification. Serialized, it is the JSON that the command prints.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// One line for each problem.
    pub findings: Vec<String>,
    /// Index of the first verified entry.
    pub floor: u64,
    /// Number of entries since genesis.
    pub size: u64,
    /// Merkle root over all of them; `None` if it cannot be computed.
    #[serde(serialize_with = "as_hex")]
    pub root: Option<Hash>,
    /// What says that no entry follows those found; `None` if nothing does.
    pub end_anchored_by: Option<Anchor>,
    /// Number of entries that are covered by the anchor.
    pub anchored_size: u64,
}

fn as_hex<S: serde::Serializer>(hash: &Option<Hash>, serializer: S) -> Result<S::Ok, S::Error> {
    hash.as_ref().map(hex).serialize(serializer)
}

impl Report {
    /// The report, or an error if it has findings.
    ///
    /// # Errors
    /// [`Error::Failed`] with the number of findings.
    pub fn into_result(self, name: &str) -> Result<Self, Error> {
        match self.findings.len() {
            0 => Ok(self),
            1 => Err(Error::Failed(format!("{name} does not verify: 1 finding"))),
            count => Err(Error::Failed(format!("{name} does not verify: {count} findings"))),
        }
    }
}

/// Verification of JSON lines stops at this number of findings, because an altered line can cause many.
const FINDINGS: usize = 20;
/// Attempts at a ledger whose head changes during the verification.
const TRIES: u32 = 5;

/// Verifies the ledger and prints the findings or a summary.
///
/// # Errors
/// [`Error`] if the ledger cannot be read or does not verify.
pub fn run(args: &Args) -> Result<(), Error> {
    let expected = Expected { root: args.root, size: args.size };
    let mut source = args.source.open()?;
    let name = source.name();
    let report = match &mut source {
        Source::Store(it) => store(&**it, &expected)?,
        Source::Lines(it) => lines(it, &expected)?,
    };
    let printed = match args.output {
        Format::Text => print(&report),
        Format::Json => print_json(&name, &report),
    };
    // The findings determine the exit code even if stdout was closed.
    report.into_result(&name)?;
    printed
}

fn print(report: &Report) -> Result<(), Error> {
    let mut out = output::text();
    for finding in &report.findings {
        out.line(finding)?;
    }
    if report.findings.is_empty() {
        let Report { floor, size, root, .. } = report;
        let root = match root {
            Some(root) => format!("root {}", hex(root)),
            None => {
                format!(
                    "no root: it also covers entries 0 to {}, which are missing here",
                    floor.saturating_sub(1)
                )
            }
        };
        let verdict = if report.end_anchored_by.is_some() {
            "verified"
        } else {
            out.line(format_args!("end not anchored: {}", not_anchored(report.anchored_size)))?;
            "verified but for that"
        };
        out.line(format_args!(
            "{verdict}: {} entries from index {floor}, size {size}, {root}",
            size - floor
        ))?;
    }
    out.finish()
}

/// What a missing anchor means. Entries before `anchored` are covered by one.
fn not_anchored(anchored: u64) -> String {
    let after = match anchored {
        0 => "at the end".to_owned(),
        covered => format!("after entry {}", covered - 1),
    };
    format!(
        "nothing here shows whether entries are missing {after}; compare --size or --root with those in \
         status.ledger, or with what you kept elsewhere"
    )
}

fn print_json(name: &str, report: &Report) -> Result<(), Error> {
    let mut value =
        serde_json::to_value(report).map_err(|error| Error::Failed(format!("{name}: {error}")))?;
    value["source"] = name.into();
    value["verified"] = report.findings.is_empty().into();
    output::json(&value)
}

/// Verifies a head and its segments.
///
/// # Errors
/// [`Error`] if the head cannot be read.
pub fn store(store: &dyn Store, expected: &Expected) -> Result<Report, Error> {
    let mut head = source::head(store)?;
    let mut tries = 0;
    loop {
        let report = check(store, &head, expected)?;
        tries += 1;
        if report.findings.is_empty() || tries == TRIES {
            return Ok(report);
        }
        let newer = source::head(store)?;
        if newer == head {
            return Ok(report);
        }
        head = newer;
    }
}

fn check(store: &dyn Store, head: &Head, expected: &Expected) -> Result<Report, Error> {
    let mut report = Report {
        floor: head.floor,
        size: head.size,
        anchored_size: head.size,
        end_anchored_by: Some(Anchor::Head),
        ..Report::default()
    };
    let name = store.name();
    check_ranges(&name, head, &mut report.findings);

    let progress = Progress::new("entries verified");
    let checked: Vec<Result<OpenedSegment, String>> = head
        .segments
        .par_iter()
        .map(|listed| {
            let checked = segment(store, listed, expected.size).map_err(|error| error.to_string());
            progress.add(listed.count);
            checked
        })
        .collect();
    drop(progress);

    // After an invalid segment the end of the chain is unknown until the next valid one.
    let mut end = (head.floor == 0).then(Chain::default);
    let mut at_size = end.clone().filter(|_| expected.size == Some(0));
    for (listed, checked) in head.segments.iter().zip(checked) {
        match checked {
            Ok(checked) => {
                if end.is_some_and(|end| end != checked.before) {
                    report.findings.push(format!(
                        "{}: does not continue the chain of the segment before it",
                        store.segment_name(listed)
                    ));
                }
                at_size = at_size.or(checked.at_size);
                end = Some(checked.after);
            }
            Err(error) => {
                report.findings.push(format!(
                    "{error} (entries {} to {})",
                    listed.first,
                    listed.end().saturating_sub(1)
                ));
                end = None;
            }
        }
    }
    match (head.chain(), end) {
        (None, _) => {
            report.findings.push(format!("{name}: the head's peaks, size and root are inconsistent"))
        }
        (Some(stated), Some(end)) if stated != end => {
            report.findings.push(format!("{name}: the last entry is not the one in the head"));
        }
        (Some(stated), _) => {
            report.root = Some(stated.tree().root());
            if expected.size == Some(head.size) {
                at_size = Some(stated);
            }
        }
    }
    report.findings.extend(store.strays(head)?);
    let at_size = at_size.map(|chain| chain.tree().root());
    report.findings.extend(unexpected(&name, expected, head.floor, head.size, report.root, at_size));
    Ok(report)
}

/// Checks that the segments of the head cover all indices from its floor to its size.
fn check_ranges(name: &str, head: &Head, findings: &mut Vec<String>) {
    let mut next = head.floor;
    for listed in &head.segments {
        if listed.first != next || listed.count == 0 {
            findings.push(format!("{name}: the head lists entries from {} instead of {next}", listed.first));
        }
        next = listed.end();
    }
    if next != head.size {
        findings.push(format!("{name}: the head lists entries up to {next}, but its size is {}", head.size));
    }
}

fn segment(store: &dyn Store, listed: &SegmentRef, size: Option<u64>) -> Result<OpenedSegment, Error> {
    OpenedSegment::open(&store.load(listed)?, size)
        .map_err(|error| Error::Failed(format!("{}: {error}", store.segment_name(listed))))
}

/// Verifies JSON lines.
///
/// # Errors
/// [`Error`] if the lines cannot be read.
pub fn lines(lines: &mut Lines, expected: &Expected) -> Result<Report, Error> {
    let mut report = Report::default();
    let mut chain: Option<Chain> = None;
    let mut first: Option<u64> = None;
    let mut at_size = None;
    let progress = Progress::new("entries verified");
    while let Some((number, entry)) = lines.next_line()? {
        progress.add(1);
        let wrong = match &entry {
            Err(what) => Some(what.clone()),
            Ok(entry) => {
                first.get_or_insert(entry.index);
                follow(&mut chain, entry)
            }
        };
        if let Some(what) = wrong {
            report.findings.push(format!("{}:{number}: {what}", lines.name()));
        }
        if report.findings.len() == FINDINGS {
            report.findings.push(format!("{}: too many findings; the rest is not verified", lines.name()));
            return Ok(report);
        }
        if chain.as_ref().is_some_and(|chain| expected.size == Some(chain.size())) {
            at_size = chain.as_ref().map(|chain| chain.tree().root());
        }
    }
    drop(progress);
    let Some(chain) = chain else {
        report.findings.push(format!("{}: contains no entry", lines.name()));
        return Ok(report);
    };
    report.floor = first.unwrap_or_default();
    report.size = chain.size();
    // Only a ledger from index 0 on has known peaks.
    let known = report.floor == 0 && report.findings.is_empty();
    report.root = known.then(|| chain.tree().root());
    at_size = at_size.filter(|_| known);
    let name = lines.name().to_owned();
    report.findings.extend(unexpected(&name, expected, report.floor, report.size, report.root, at_size));
    // What is expected was found, or is a finding.
    report.anchored_size = match (expected.root, expected.size) {
        (None, None) => 0,
        (Some(_), None) => report.size,
        (_, Some(size)) => size,
    };
    report.end_anchored_by = (report.findings.is_empty() && report.anchored_size == report.size)
        .then_some(if expected.root.is_some() { Anchor::Root } else { Anchor::Size });
    Ok(report)
}

/// Advances `chain` to `entry`. Returns the problem, if any. The next entry is checked against this one as it is, so that
/// one problem is reported once.
fn follow(chain: &mut Option<Chain>, entry: &Entry) -> Option<String> {
    let at = chain.get_or_insert_with(|| source::end_at(entry.index, entry.previous_hash));
    let wrong = at.verify_next(entry).err()?;
    *at = source::end_at(entry.index + 1, entry.hash);
    Some(wrong.to_string())
}

/// The finding if size or root differ from the expected ones.
fn unexpected(
    name: &str,
    expected: &Expected,
    floor: u64,
    size: u64,
    root: Option<Hash>,
    at_size: Option<Hash>,
) -> Option<String> {
    let (what, found) = match (expected.root, expected.size) {
        (None, None) => return None,
        (None, Some(wanted)) if wanted == size => return None,
        (None, Some(wanted)) => {
            return Some(format!("{name}: expected {wanted} entries, found {size}"));
        }
        (Some(_), Some(wanted)) if wanted > size => {
            return Some(format!("{name}: --root covers {wanted} entries, found {size}"));
        }
        (Some(_), Some(wanted)) => (format!("the root of the first {wanted} entries"), at_size),
        (Some(_), None) => ("the root".to_owned(), root),
    };
    match (expected.root, found) {
        (Some(wanted), Some(found)) if wanted == found => None,
        (Some(wanted), Some(found)) => {
            Some(format!("{name}: {what} is {}, expected {}", hex(&found), hex(&wanted)))
        }
        _ => {
            Some(format!("{name}: {what} cannot be computed: entries before {floor} are missing or invalid"))
        }
    }
}
