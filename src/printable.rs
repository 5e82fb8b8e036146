//! Text of others, made safe to show.
//!
//! Names, messages and contents that come from a cluster, a peer or a file may hold characters that steer a terminal,
//! start a new line or reorder what is read, and may be of any length. Whatever people read goes through [`line`]: the
//! lines of the command line, the log, messages of conditions, notes of Events. Data is another matter: entries as JSON
//! are canonical, which is ASCII without control characters, and nothing of them is cut.

use std::io::{self, Write};

/// Bound of a line on a terminal or in the log, in bytes.
pub const LINE: usize = 4096;
/// Bound of words that a message quotes, in bytes: what follows them in the message still fits an Event's note.
pub const QUOTE: usize = 768;
/// Kubernetes' bound of an Event's note, in bytes.
pub const NOTE: usize = 1024;
/// Kubernetes' bound of a condition's message. It counts characters; bytes are never fewer.
pub const MESSAGE: usize = 32_768;

/// Stands for what was cut.
const CUT: char = '…';
/// Bound of a line of JSON in the log, in bytes, beyond which its strings are cut.
const JSON_LINE: usize = 4 * LINE;

/// `text` as one line of at most `most` bytes. Characters that are not printed (control characters, line separators,
/// the format characters that reorder or hide text, unassigned ones) are written as in a Rust literal: `\n`, `\u{1b}`.
#[must_use]
pub fn line(text: &str, most: usize) -> String {
    let mut line = String::with_capacity(text.len().min(most));
    // The library escapes quotes and backslashes as well, which are harmless here.
    for piece in text.split_inclusive(['"', '\'', '\\']) {
        let plain = piece.strip_suffix(['"', '\'', '\\']).unwrap_or(piece);
        for char in plain.escape_debug().chain(piece[plain.len()..].chars()) {
            if line.len() + char.len_utf8() > most {
                return cut(line, most);
            }
            line.push(char);
        }
    }
    line
}

/// Shortens a line so that it ends with [`CUT`].
fn cut(mut line: String, most: usize) -> String {
    while line.len() + CUT.len_utf8() > most && line.pop().is_some() {}
    line.push(CUT);
    line
}

/// Where the log is written, an event a call, each of which becomes one line: escaped and at most [`LINE`] bytes long.
pub struct TextLog<W>(pub W);

impl<W: Write> Write for TextLog<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        self.0.write_all((line(text.trim_end_matches('\n'), LINE) + "\n").as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Where the log is written as JSON, an event a call. The line means the same with every character beyond printable
/// ASCII escaped; only the strings of a very long one are cut.
pub struct JsonLog<W>(pub W);

impl<W: Write> Write for JsonLog<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let mut text = String::from_utf8_lossy(event).trim_end_matches('\n').to_owned();
        if text.len() > JSON_LINE {
            let mut value = serde_json::from_str(&text).unwrap_or(serde_json::Value::Null);
            shorten(&mut value);
            text = value.to_string();
        }
        self.0.write_all((ascii_json(&text) + "\n").as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// The same JSON without a character that is not printable ASCII. Such a character stands within a string only.
#[must_use]
pub fn ascii_json(json: &str) -> String {
    let mut ascii = String::with_capacity(json.len());
    for char in json.chars() {
        if matches!(char, ' '..='~') {
            ascii.push(char);
        } else {
            for unit in char.encode_utf16(&mut [0; 2]) {
                ascii += &format!("\\u{unit:04x}");
            }
        }
    }
    ascii
}

/// Cuts all strings.
fn shorten(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::String(text) => *text = line(text, QUOTE),
        serde_json::Value::Object(fields) => fields.values_mut().for_each(shorten),
        serde_json::Value::Array(items) => items.iter_mut().for_each(shorten),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a terminal or a reader may not get from others, one of each kind.
    const HOSTILE: [(&str, &str); 16] = [
        ("a\x1b[2Jb", r"a\u{1b}[2Jb"),
        ("\x1b]0;title\x07", r"\u{1b}]0;title\u{7}"),
        ("real\rfake", r"real\rfake"),
        ("one\ntwo", r"one\ntwo"),
        ("one\ttwo", r"one\ttwo"),
        ("\x08\x08", r"\u{8}\u{8}"),
        ("\0", r"\0"),
        ("\x7f", r"\u{7f}"),
        ("\u{9b}31m", r"\u{9b}31m"),
        ("\u{85}", r"\u{85}"),
        ("\u{202e}txt.exe", r"\u{202e}txt.exe"),
        ("\u{2066}a\u{2069}", r"\u{2066}a\u{2069}"),
        ("\u{200b}\u{200f}\u{feff}", r"\u{200b}\u{200f}\u{feff}"),
        ("\u{2028}\u{2029}", r"\u{2028}\u{2029}"),
        ("\u{e0041}\u{ad}", r"\u{e0041}\u{ad}"),
        ("\u{301}", r"\u{301}"),
    ];

    #[test]
    fn what_steers_a_terminal_is_escaped() {
        for (text, shown) in HOSTILE {
            assert_eq!(line(text, LINE), shown);
        }
        for byte in (0..0x20).chain(0x7f..0xa0) {
            let char = char::from(byte);
            assert!(!line(&format!("a{char}b"), LINE).contains(char), "{byte:#x}");
        }
    }

    #[test]
    fn what_people_write_stays_as_it_is() {
        for text in ["", r#"T_Λ 0.0042 s → "it's" \ 5 % ✓ …"#, "名前 имя शक्ति e\u{301}"]
        {
            assert_eq!(line(text, LINE), text);
        }
    }

    #[test]
    fn a_long_text_is_cut() {
        assert_eq!(line("abcdef", 6), "abcdef");
        assert_eq!(line("abcdefg", 6), "abc…");
        assert_eq!(line("ΛΛΛΛ", 6), "Λ…");
        assert_eq!(line(&"\x1b".repeat(1 << 20), NOTE).len(), NOTE);
    }

    #[test]
    fn an_event_of_the_log_is_one_line() {
        let mut log = vec![];
        TextLog(&mut log).write_all("WARN a\nWARN forged \u{9b}2J\n".as_bytes()).unwrap();
        TextLog(&mut log).write_all(&[b'x'; 1 << 20]).unwrap();
        let log = String::from_utf8(log).unwrap();
        let lines: Vec<&str> = log.lines().collect();
        assert_eq!((lines.len(), lines[0]), (2, r"WARN a\nWARN forged \u{9b}2J"));
        assert!(lines[1].len() <= LINE);
    }

    #[test]
    fn an_event_of_the_json_log_means_the_same() {
        let event = serde_json::json!({"fields": {"error": HOSTILE.map(|it| it.0).concat(), "n": 1e300}});
        let mut log = vec![];
        JsonLog(&mut log).write_all(format!("{event}\n").as_bytes()).unwrap();
        let text = log.strip_suffix(b"\n").unwrap();
        assert!(text.iter().all(|byte| matches!(byte, b' '..=b'~')), "{text:?}");
        assert_eq!(serde_json::from_slice::<serde_json::Value>(text).unwrap(), event);
        let long = serde_json::json!({"fields": {"error": "\u{9b}x".repeat(1 << 20)}, "level": "WARN"});
        let mut log = vec![];
        JsonLog(&mut log).write_all(format!("{long}\n").as_bytes()).unwrap();
        assert!(log.len() < JSON_LINE, "{}", log.len());
        let cut: serde_json::Value = serde_json::from_slice(&log).unwrap();
        assert_eq!(cut["level"], "WARN");
    }

    proptest! {
        #[test]
        fn every_text_becomes_one_printable_bounded_line(text in any::<String>(), most in 3_usize..64) {
            let line = line(&text, most);
            prop_assert!(line.len() <= most);
            let steers = |it: char| it.is_control() || ('\u{2028}'..='\u{202e}').contains(&it);
            prop_assert!(!line.chars().any(steers));
        }
    }
}
