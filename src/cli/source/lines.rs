//! A ledger as JSON lines, one entry per line.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, stdin};
use std::path::Path;

use super::super::Error;
use super::INDEX_BOUND;
use crate::ledger::Entry;
use crate::ledger::segment::MAX_ENTRY_BYTES;

/// The longest entry, and room for its other fields. No more of a line is read into memory.
const LONGEST_LINE: u64 = MAX_ENTRY_BYTES as u64 + 1024;

/// Reads entries from a file or from stdin.
pub struct Lines {
    name: String,
    input: Box<dyn BufRead>,
    number: u64,
    line: Vec<u8>,
}

/// The number of a line, from 1, and its entry or the reason why it is invalid.
pub type Line = (u64, Result<Entry, String>);

impl Lines {
    /// Reads from stdin.
    #[must_use]
    pub fn stdin() -> Self {
        Self::new("stdin".into(), Box::new(BufReader::new(stdin())))
    }

    /// Reads from the file at `path`.
    ///
    /// # Errors
    /// [`Error`] if the file cannot be opened.
    pub fn file(path: &Path) -> Result<Self, Error> {
        let name = path.display().to_string();
        let file = File::open(path).map_err(|error| Error::Failed(format!("{name}: {error}")))?;
        Ok(Self::new(name, Box::new(BufReader::with_capacity(1 << 16, file))))
    }

    fn new(name: String, input: Box<dyn BufRead>) -> Self {
        Self { name, input, number: 0, line: vec![] }
    }

    /// The name of the source in messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reads the next line; `None` at the end.
    ///
    /// # Errors
    /// [`Error`] if the source cannot be read.
    pub fn next_line(&mut self) -> Result<Option<Line>, Error> {
        self.line.clear();
        let read = self.input.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut self.line);
        let read = read.map_err(|error| Error::Failed(format!("{}: {error}", self.name)))?;
        if read == 0 {
            return Ok(None);
        }
        self.number += 1;
        if read as u64 == LONGEST_LINE {
            self.skip_line()?;
            return Ok(Some((self.number, Err(format!("not an entry: longer than {LONGEST_LINE} bytes")))));
        }
        // A carriage return is part of the line, because an entry has a single valid text.
        let line = self.line.strip_suffix(b"\n").unwrap_or(&self.line);
        let entry = match std::str::from_utf8(line) {
            Ok(line) => match Entry::from_line(line) {
                Ok(entry) if entry.index >= INDEX_BOUND => {
                    Err(format!("entry {}: index out of range", entry.index))
                }
                read => read.map_err(|error| error.to_string()),
            },
            Err(_) => Err("not an entry: not UTF-8".into()),
        };
        Ok(Some((self.number, entry)))
    }

    /// Reads to the end of a line, without keeping it.
    fn skip_line(&mut self) -> Result<(), Error> {
        while self.line.last() != Some(&b'\n') {
            self.line.clear();
            let read = self.input.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut self.line);
            if read.map_err(|error| Error::Failed(format!("{}: {error}", self.name)))? == 0 {
                break;
            }
        }
        Ok(())
    }
}
