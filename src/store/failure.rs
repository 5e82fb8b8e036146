//! What the API server said, in one sentence.

use std::error::Error;
use std::fmt;

use crate::printable::{QUOTE, line};

/// An error of a call. Its text is the API server's message, or the causes of a failed connection; that of
/// [`kube::Error`] repeats a whole Status in its debug form.
#[derive(Debug)]
pub struct ApiFailure(pub kube::Error);

impl fmt::Display for ApiFailure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&words(&self.0))
    }
}

/// The text of an [`ApiFailure`], in one line. A webhook, or whoever answers in the API server's place, may send anything.
#[must_use]
pub fn words(error: &kube::Error) -> String {
    line(&full_text(error), QUOTE)
}

fn full_text(error: &kube::Error) -> String {
    let error: &(dyn Error + 'static) = match error {
        kube::Error::Api(status) if !status.message.is_empty() => return status.message.clone(),
        kube::Error::Api(status) => return format!("{} ({})", status.reason, status.code),
        // The name of the variant says nothing to a reader.
        kube::Error::Service(error) => &**error,
        error => error,
    };
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

impl Error for ApiFailure {}

/// Whether a write was refused because its namespace is being deleted.
#[must_use]
pub fn is_namespace_terminating(status: &kube::core::Status) -> bool {
    let mut causes = status.details.iter().flat_map(|details| &details.causes);
    causes.any(|cause| cause.reason == "NamespaceTerminating")
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn the_text_is_one_sentence() {
        let refused =
            Status::failure("configmaps \"a\" is forbidden: exceeded quota", "Forbidden").with_code(403);
        let failure = ApiFailure(kube::Error::Api(refused.boxed()));
        assert_eq!(failure.to_string(), "configmaps \"a\" is forbidden: exceeded quota");
        let empty = ApiFailure(kube::Error::Api(Status::failure("", "Gone").with_code(410).boxed()));
        assert_eq!(empty.to_string(), "Gone (410)");
        let io = std::io::Error::other("connection refused");
        let failure = ApiFailure(kube::Error::Service(Box::new(io)));
        assert_eq!(failure.to_string(), "connection refused");
    }

    #[test]
    fn whatever_a_webhook_answers_is_one_bounded_line() {
        let text = "\x1b[2J\ndenied: ".to_owned() + &"x".repeat(1 << 20);
        let failure = ApiFailure(kube::Error::Api(Status::failure(&text, "Forbidden").boxed())).to_string();
        assert!(failure.starts_with(r"\u{1b}[2J\ndenied: x") && failure.len() <= QUOTE, "{}", failure.len());
    }
}
