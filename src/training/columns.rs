//! From the fields of a table to a row.

use super::rows::{DataError, MOST_ANOMS};
use crate::printable::line;

/// Longest text that a message quotes, in bytes.
const QUOTED: usize = 48;
/// Most names of a header that a message lists.
const LISTED: usize = 12;

/// Where a table has what a row needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Columns {
    anoms: (usize, String),
    label: (usize, String),
}

impl Columns {
    /// Finds the columns with these names in a header. Space around a name does not count.
    ///
    /// # Errors
    /// [`DataError::Header`] if one is missing or there twice.
    pub fn find(header: &[&str], anoms: &str, label: &str) -> Result<Self, DataError> {
        if header.iter().all(|name| name.trim().is_empty()) {
            return Err(DataError::Empty);
        }
        let find = |wanted: &str, flag: &str| {
            let mut found = (0..header.len()).filter(|at| header[*at].trim() == wanted);
            match (found.next(), found.next()) {
                (Some(at), None) => Ok((at, wanted.to_owned())),
                (Some(_), Some(_)) => {
                    Err(DataError::Header(format!("there are two columns {wanted}; rename one of them")))
                }
                _ => {
                    let more = if header.len() > LISTED { ", …" } else { "" };
                    let names: Vec<String> =
                        header.iter().take(LISTED).map(|name| quoted(name.trim())).collect();
                    Err(DataError::Header(format!(
                        "no column {wanted}; the header has {}{more}, separated by commas; name one with {flag}",
                        names.join(", ")
                    )))
                }
            }
        };
        Ok(Self { anoms: find(anoms, "--anoms")?, label: find(label, "--label")? })
    }

    /// Reads a row: its number of anomalies, and whether there was an incident. `row` is its line in the file.
    ///
    /// # Errors
    /// [`DataError::Field`] if a field is missing or no such value.
    pub fn read<'a>(
        &self,
        row: u64,
        field: impl Fn(usize) -> Option<&'a str>,
    ) -> Result<(u32, bool), DataError> {
        let wrong = |(_, column): &(usize, String), what: String| DataError::Field {
            row,
            column: column.clone(),
            what,
        };
        let text = |column: &(usize, String)| field(column.0).unwrap_or_default().trim();
        let anoms = anomalies(text(&self.anoms)).map_err(|what| wrong(&self.anoms, what))?;
        let label = label(text(&self.label)).map_err(|what| wrong(&self.label, what))?;
        Ok((anoms, label))
    }
}

/// A number of anomalies: a whole number. Some programs write 3.0 for 3.
fn anomalies(text: &str) -> Result<u32, String> {
    let range = format!("write a whole number, 0 to {MOST_ANOMS}");
    if text.is_empty() {
        return Err(format!("empty; {range}"));
    }
    let whole = match text.parse::<u32>() {
        Ok(whole) => f64::from(whole),
        Err(_) => text.parse::<f64>().map_err(|_| format!("{} is not a number; {range}", quoted(text)))?,
    };
    let wrong = |why: &str| Err(format!("{} {why}; {range}", quoted(text)));
    match whole {
        it if it.is_nan() => wrong("is not a number"),
        it if it < 0.0 => wrong("is negative"),
        it if it > f64::from(MOST_ANOMS) => wrong("is too many"),
        it if it.fract() != 0.0 => wrong("is not whole"),
        it => Ok(it as u32),
    }
}

/// Whether there was an incident.
fn label(text: &str) -> Result<bool, String> {
    let is = |words: [&str; 3]| words.iter().any(|word| text.eq_ignore_ascii_case(word));
    match text {
        _ if is(["0", "false", "no"]) => Ok(false),
        _ if is(["1", "true", "yes"]) => Ok(true),
        "" => Err("empty; write 0 or 1".into()),
        _ => Err(format!("{} is not a label; write 0 or 1, false or true, no or yes", quoted(text))),
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", line(text, QUOTED))
}
