//! The log of operator and nodes.

use std::io::Write;

use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

use crate::printable::{JsonLog, TextLog};

/// Format of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Human-readable lines.
    Text,
    /// One JSON object per line.
    Json,
}

/// Starts logging to stderr. `RUST_LOG` sets the filter. Failed calls and watches are logged by the operator, once; the
/// libraries would log each attempt.
pub(super) fn start(format: LogFormat) {
    subscriber(format, std::io::stderr).init();
}

fn subscriber<W: Write + 'static>(
    format: LogFormat,
    output: impl Fn() -> W + Send + Sync + 'static,
) -> Box<dyn Subscriber + Send + Sync> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| {
        EnvFilter::new("info,kube=warn,kube_runtime::watcher=error,kube_client::client::builder=off")
    });
    let lines = tracing_subscriber::fmt().with_env_filter(filter);
    match format {
        // Of an event, tracing-subscriber escapes the message only, and neither line breaks nor text direction. Colours
        // would be escaped with the rest.
        LogFormat::Text => Box::new(lines.with_ansi(false).with_writer(move || TextLog(output())).finish()),
        LogFormat::Json => Box::new(lines.json().with_writer(move || JsonLog(output())).finish()),
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// One event with hostile text at every place where text of others can stand.
    fn logged(format: LogFormat) -> String {
        let captured = Captured::default();
        let output = captured.clone();
        const TEXT: &str = "\x1b[2J\rWARN\nfake \u{9b}31m \u{202e}\x07";
        tracing::subscriber::with_default(subscriber(format, move || output.clone()), || {
            let error = io::Error::other(TEXT);
            let cause: &(dyn std::error::Error + 'static) = &error;
            tracing::warn!(%error, cause, shown = %TEXT, debug = ?TEXT, plain = TEXT, "a message: {TEXT}");
        });
        let bytes = captured.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn an_event_is_one_line_that_steers_no_terminal() {
        for format in [LogFormat::Text, LogFormat::Json] {
            let logged = logged(format);
            let line = logged.strip_suffix('\n').unwrap();
            assert!(line.contains("a message") && line.contains("shown"), "{line}");
            assert!(!line.chars().any(|it| it.is_control() || it == '\u{202e}'), "{line:?}");
        }
        let json: serde_json::Value = serde_json::from_str(&logged(LogFormat::Json)).unwrap();
        assert_eq!(json["fields"]["plain"], "\x1b[2J\rWARN\nfake \u{9b}31m \u{202e}\x07");
    }
}
