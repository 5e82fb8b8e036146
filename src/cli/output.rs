//! What commands print: lines for people, and data.

use std::fmt::Display;
use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};

use k8s_openapi::jiff::Timestamp;

use super::Error;
use crate::printable::{LINE, ascii_json, line};

/// Format of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Lines for people.
    Text,
    /// One JSON object.
    Json,
}

/// Buffered stdout for people. Unlike with `println!`, a closed pipe is an [`Error::Output`] and not a panic.
pub struct Text(Data);

/// Buffered stdout for data, which is printed as it is.
pub type Data = BufWriter<StdoutLock<'static>>;

/// Locks stdout for lines.
#[must_use]
pub fn text() -> Text {
    Text(data())
}

/// Locks stdout for data. The caller must flush it.
#[must_use]
pub fn data() -> Data {
    BufWriter::new(io::stdout().lock())
}

impl Text {
    /// Prints one line, whatever `content` contains.
    ///
    /// # Errors
    /// [`Error::Output`].
    pub fn line(&mut self, content: impl Display) -> Result<(), Error> {
        Ok(writeln!(self.0, "{}", line(&content.to_string(), LINE))?)
    }

    /// Prints what is buffered.
    ///
    /// # Errors
    /// [`Error::Output`].
    pub fn finish(mut self) -> Result<(), Error> {
        Ok(self.0.flush()?)
    }
}

/// Prints one JSON object: the same data, without characters that steer a terminal.
///
/// # Errors
/// [`Error::Output`].
pub fn json(value: &serde_json::Value) -> Result<(), Error> {
    let mut out = data();
    writeln!(out, "{}", ascii_json(&value.to_string()))?;
    Ok(out.flush()?)
}

/// `seconds` since 1970 in RFC 3339 with milliseconds, or the bare number if it is out of range.
#[must_use]
pub fn time(seconds: f64) -> String {
    let moment = Timestamp::from_millisecond((seconds * 1000.0).floor() as i64);
    moment.map_or_else(|_| seconds.to_string(), |moment| format!("{moment:.3}"))
}

/// Writes one line to stderr. An error is ignored: there is no other place to report it.
pub fn complain(content: &str) {
    let _ = writeln!(io::stderr(), "{}", line(content, LINE));
}

/// Asks `question` on the terminal.
///
/// # Errors
/// [`Error::Failed`], which begins with `nothing` (such as "nothing was written"), unless the answer is yes.
pub fn confirm(question: &str, nothing: &str) -> Result<(), Error> {
    if !io::stdin().is_terminal() {
        let why = "stdin is not a terminal; read the above and add --yes";
        return Err(Error::Failed(format!("{nothing}: {why}")));
    }
    write!(io::stderr(), "{question} [y/N] ").and_then(|()| io::stderr().flush())?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Error::Failed(format!("{nothing}: the answer was not yes"))),
    }
}
