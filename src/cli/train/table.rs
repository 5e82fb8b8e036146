//! Tables: files of comma-separated values.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::rc::Rc;

use csv::{ErrorKind, Reader, ReaderBuilder, StringRecord};
use k8s_openapi::jiff::Timestamp;

use super::super::Error;
use super::super::ledger::progress::Progress;
use crate::training::{Columns, DataError, Incident, Rows};

/// Longest row in bytes: a quote that is never closed makes a row of all that follows.
const LONGEST: usize = 1 << 20;
/// Bytes that are read at once.
const BUFFER: usize = 1 << 16;

/// Reads the rows of the file at `path`, or of stdin for `-`. Returns its name, too.
pub(super) fn rows(path: &Path, anoms: &str, label: &str) -> Result<(String, Rows), Error> {
    let (name, input) = open(path)?;
    let progress = Progress::new("rows read");
    let read = read_rows(input, anoms, label, &mut || progress.add(1));
    drop(progress);
    let rows = read.map_err(|error| Error::Failed(format!("{name}: {error}")))?;
    Ok((name, rows))
}

/// Reads incidents from the file at `path`.
pub(super) fn incidents(path: &Path) -> Result<Vec<Incident>, Error> {
    let (name, input) = open(path)?;
    read_incidents(input).map_err(|error| Error::Failed(format!("{name}: {error}")))
}

fn open(path: &Path) -> Result<(String, Box<dyn Read>), Error> {
    if path == Path::new("-") {
        return Ok(("stdin".into(), Box::new(io::stdin())));
    }
    let name = path.display().to_string();
    let failed = |what: &dyn std::fmt::Display| {
        Error::Failed(format!("{name}: {what}; name a file of comma-separated values, or -"))
    };
    let file = File::open(path).map_err(|error| failed(&error))?;
    if file.metadata().is_ok_and(|it| it.is_dir()) {
        return Err(failed(&"is a folder"));
    }
    Ok((name, Box::new(file)))
}

fn read_rows(input: impl Read, anoms: &str, label: &str, each: &mut dyn FnMut()) -> Result<Rows, DataError> {
    let mut table = Table::new(input);
    let header = table.header()?;
    let columns = Columns::find(&header.iter().collect::<Vec<_>>(), anoms, label)?;
    let mut rows = Rows::default();
    while let Some((row, fields)) = table.next()? {
        let (anoms, incident) = columns.read(row, |at| fields.get(at))?;
        rows.add(anoms, incident);
        each();
    }
    Ok(rows)
}

fn read_incidents(input: impl Read) -> Result<Vec<Incident>, DataError> {
    let mut table = Table::new(input);
    let header = table.header()?;
    let columns = ["start", "end"].map(|name| (header.iter().position(|it| it.trim() == name), name));
    let [(Some(start), _), (Some(end), _)] = columns else {
        return Err(DataError::Header("the columns start and end are needed, separated by a comma".into()));
    };
    let mut incidents = vec![];
    while let Some((row, fields)) = table.next()? {
        let wrong = |column: &str, what: String| DataError::Field { row, column: column.into(), what };
        let time = |at: usize, column: &str| {
            let text = fields.get(at).unwrap_or_default().trim();
            let moment = text.parse::<Timestamp>().map(|it| it.as_nanosecond() as f64 / 1e9);
            moment.map_err(|_| {
                wrong(column, format!("\"{text}\" is not a time; write one such as 2026-11-23T06:23:26Z"))
            })
        };
        let incident = Incident { start: time(start, "start")?, end: time(end, "end")? };
        if incident.end <= incident.start {
            return Err(wrong(
                "end",
                "it is not after the start; write the time at which the incident was over".into(),
            ));
        }
        incidents.push(incident);
    }
    if incidents.is_empty() {
        return Err(DataError::Header("no incident follows; write one a row".into()));
    }
    Ok(incidents)
}

/// A table that is read row by row. No more than one row is in memory.
struct Table<R> {
    reader: Reader<Limited<R>>,
    left: Rc<Cell<usize>>,
    record: StringRecord,
    /// Line of the last row.
    line: u64,
}

impl<R: Read> Table<R> {
    fn new(input: R) -> Self {
        let left = Rc::new(Cell::new(LONGEST));
        let input = Limited { input, left: left.clone() };
        let reader = ReaderBuilder::new().buffer_capacity(BUFFER).from_reader(input);
        Self { reader, left, record: StringRecord::new(), line: 0 }
    }

    fn header(&mut self) -> Result<StringRecord, DataError> {
        let header = self.reader.headers().cloned();
        header.map_err(|error| self.wrong(error))
    }

    /// The next row, and its line in the file.
    fn next(&mut self) -> Result<Option<(u64, &StringRecord)>, DataError> {
        self.left.set(LONGEST);
        match self.reader.read_record(&mut self.record) {
            Ok(false) => Ok(None),
            Ok(true) => {
                self.line = self.record.position().map_or(self.line + 1, csv::Position::line);
                Ok(Some((self.line, &self.record)))
            }
            Err(error) => Err(self.wrong(error)),
        }
    }

    /// The error in one line.
    fn wrong(&self, error: csv::Error) -> DataError {
        let line = error.position().map_or(self.line + 1, csv::Position::line);
        let what = match error.into_kind() {
            ErrorKind::Utf8 { .. } => "not UTF-8; save the file as UTF-8".into(),
            ErrorKind::UnequalLengths { expected_len, len, .. } => {
                format!("{len} instead of {expected_len} fields; quote fields that contain a comma")
            }
            ErrorKind::Io(error) => error.to_string(),
            kind => format!("{kind:?}"),
        };
        DataError::Row { row: line, what }
    }
}

/// Input of which only so much can be read before more is allowed.
struct Limited<R> {
    input: R,
    left: Rc<Cell<usize>>,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let most = into.len().min(self.left.get());
        if most == 0 && !into.is_empty() {
            return Err(io::Error::other(format!(
                "longer than {LONGEST} bytes; look for a quote that is never closed"
            )));
        }
        let read = self.input.read(&mut into[..most])?;
        self.left.set(self.left.get() - read);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &[u8]) -> Result<Rows, String> {
        read_rows(text, "anoms", "label", &mut || ()).map_err(|error| error.to_string())
    }

    fn rows(each: &[(u32, bool)]) -> Rows {
        let mut rows = Rows::default();
        each.iter().for_each(|(anoms, incident)| rows.add(*anoms, *incident));
        rows
    }

    #[test]
    fn tables_of_all_manners_are_read() {
        let wanted = rows(&[(0, false), (12, true)]);
        for text in [
            "anoms,label\n0,0\n12,1\n",
            "anoms,label\r\n0,0\r\n12,1",
            "\u{feff}anoms,label\n0,0\n12,1\n",
            "label,anoms\n0,0\n1,12\n",
            "\"label\",\"a \"\"note\"\", with\na comma\",\"anoms\"\n\"0\",\"x\ny\",\"0\"\n1,,12\n",
            " anoms , label \n\n 0 , no \n\n 12 , yes \n",
        ] {
            assert_eq!(read(text.as_bytes()), Ok(wanted.clone()), "{text:?}");
        }
    }

    #[test]
    fn a_table_that_cannot_be_read_is_refused_in_one_line() {
        let long = format!("anoms,label\n0,0\n1,\"{}", "0,1\n".repeat(LONGEST));
        for (text, told) in [
            (&b""[..], "no rows; a header and at least two rows are needed"),
            (b"\n\n", "no rows;"),
            (b"0,0\n12,1\n", "row 1: no column anoms; the header has \"0\", \"0\""),
            (b"anoms,label\n0,0\n12\n", "row 3: 1 instead of 2 fields; quote fields"),
            (b"anoms,label\n0,0\nx,1\n", "row 3, column anoms: \"x\" is not a number;"),
            (b"anoms,label,note\n0,0,\xff\n", "row 2: not UTF-8; save the file as UTF-8"),
            (b"\xff\xfea\0n\0o\0m\0s\0\n\0", "row 1: not UTF-8;"),
            (b"\x1f\x8b\x08\0\0", "row 1: not UTF-8;"),
            (long.as_bytes(), "row 3: longer than 1048576 bytes; look for a quote that is never closed"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(told) && error.lines().count() == 1, "{told}: {error}");
        }
        // The header alone is no error of the table.
        assert_eq!(read(b"anoms,label\n"), Ok(Rows::default()));
    }

    /// Many rows are not one long one.
    #[test]
    fn a_table_may_be_longer_than_its_longest_row() {
        let text = "anoms,label\n".to_owned() + &"3,1\n".repeat(LONGEST);
        assert_eq!(read(text.as_bytes()).unwrap().total().incident, LONGEST as u64);
    }

    #[test]
    fn incidents_are_read_or_refused() {
        let read = |text: &str| read_incidents(text.as_bytes()).map_err(|error| error.to_string());
        let text = "what,start,end\ndisk,2026-11-23T06:00:00Z,2026-11-23T08:30:00.5+02:00\n";
        let [incident] = read(text).unwrap()[..] else { panic!("{text}") };
        assert_eq!(incident.end - incident.start, 1800.5);
        for (text, told) in [
            ("start\n", "row 1: the columns start and end are needed"),
            ("start,end\n", "row 1: no incident follows"),
            (
                "start,end\nyesterday,today\n",
                "row 2, column start: \"yesterday\" is not a time; write one such as",
            ),
            (
                "start,end\n2026-11-23T06:00:00Z,2026-11-23\n",
                "row 2, column end: \"2026-11-23\" is not a time;",
            ),
            (
                "start,end\n2026-11-23T06:00:00Z,2026-11-23T06:00:00Z\n",
                "row 2, column end: it is not after the start",
            ),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(told) && error.lines().count() == 1, "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            each in prop::collection::vec((0_u32..=1_000_000, any::<bool>(), "[ -~\n]{0,8}"), 0..40),
            order in 0_usize..3,
            ends in prop::sample::select(vec!["\n", "\r\n"]),
        ) {
            let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
            let line = |mut fields: [String; 3]| {
                fields.rotate_left(order);
                fields.join(",") + ends
            };
            let mut text = line(["anoms".into(), "label".into(), quoted("a note")]);
            for (at, (anoms, label, note)) in each.iter().enumerate() {
                let label = if *label { ["1", "yes", "True"] } else { ["0", "no", "False"] }[at % 3];
                text += &line([anoms.to_string(), quoted(label), quoted(note)]);
            }
            let wanted: Vec<(u32, bool)> = each.iter().map(|(anoms, label, _)| (*anoms, *label)).collect();
            prop_assert_eq!(read(text.as_bytes()), Ok(rows(&wanted)));
        }

        #[test]
        fn whatever_is_read_gives_rows_or_one_line(text in prop::collection::vec(any::<u8>(), 0..200)) {
            let text = [&b"anoms,label\n"[..], &text].concat();
            if let Err(error) = read(&text) {
                prop_assert_eq!(error.lines().count(), 1, "{}", error);
                prop_assert!(!error.chars().any(char::is_control), "{:?}", error);
            }
        }

        #[test]
        fn rows_with_one_wrong_field_are_named(
            before in prop::collection::vec(0_u32..50, 0..20),
            wrong in prop::sample::select(vec!["-1", "NaN", "2.5", "", "1000001", "abc"]),
        ) {
            let mut text = "anoms,label\n".to_owned();
            before.iter().for_each(|anoms| text += &format!("{anoms},0\n"));
            text += &format!("{wrong},1\n3,1\n");
            let error = read(text.as_bytes()).unwrap_err();
            let told = format!("row {}, column anoms: ", before.len() + 2);
            prop_assert!(error.starts_with(&told), "{}", error);
        }
    }
}
