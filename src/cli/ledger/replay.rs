//! `venom ledger replay`: re-derives every number from the recorded inputs.

use super::super::source::{self, Source, WalkFrom, walk};
use super::super::{Error, output};
use super::progress::Progress;
use crate::ledger::replay::Replay;
use crate::organism::Action;

/// Arguments of `venom ledger replay`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    source: source::Args,
}

/// Replays the ledger and prints a summary.
///
/// # Errors
/// [`Error`] with the first entry that differs from its re-derivation.
pub fn run(args: &Args) -> Result<(), Error> {
    let mut source = args.source.open()?;
    let name = source.name();
    let failed = |what: &dyn std::fmt::Display| Error::Failed(format!("{name}: {what}"));
    let mut replay = Replay::default();
    let progress = Progress::new("entries derived");
    let mut last = 0;
    walk(&mut source, WalkFrom::AfterGaps, &mut |entry| {
        last = entry.index;
        replay.feed(entry).map_err(|mismatch| failed(&mismatch))?;
        progress.add(1);
        Ok(())
    })?;
    drop(progress);
    let Some(from) = replay.from() else {
        return Err(failed(&"no genesis and no snapshot to replay from"));
    };
    let beats = replay.beats();
    let decisions = replay.decided();
    replay.finish().map_err(|mismatch| failed(&mismatch))?;

    let mut out = output::text();
    out.line(format_args!(
        "replayed: {beats} beats from entry {from} to entry {last}, every number follows"
    ))?;
    for (action, count) in Action::ALL.iter().zip(decisions) {
        out.line(format_args!("  {:<15}{count:>12}", action.as_str()))?;
    }
    if matches!(source, Source::Lines(_)) {
        out.line(format_args!(
            "end not anchored: nothing here shows whether entries are missing after entry {last}; see venom ledger verify --help"
        ))?;
    }
    out.finish()
}
