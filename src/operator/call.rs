//! One call of the API server: under a time limit, and named where it fails.

use crate::store::CALL_TIMEOUT;

/// Why a call did not do what it was to do.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// It failed.
    #[error("{verb} {object}: {source}")]
    Api {
        /// What was tried.
        verb: &'static str,
        /// On what.
        object: String,
        /// Why not.
        source: Box<kube::Error>,
    },
    /// It was not answered.
    #[error("{verb} {object}: no answer within {} s", CALL_TIMEOUT.as_secs())]
    TimeOut {
        /// What was tried.
        verb: &'static str,
        /// On what.
        object: String,
    },
}

impl CallError {
    fn status(&self) -> Option<&kube::core::Status> {
        match self {
            Self::Api { source, .. } => match &**source {
                kube::Error::Api(status) => Some(status),
                _ => None,
            },
            Self::TimeOut { .. } => None,
        }
    }

    /// Whether the object was not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.status().is_some_and(kube::core::Status::is_not_found)
    }

    /// Whether somebody else was first.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.status().is_some_and(|it| it.is_conflict() || it.is_already_exists())
    }

    /// What the API server says against an object, where trying the same again would not help.
    #[must_use]
    pub fn refusal(&self) -> Option<&str> {
        self.status().filter(|it| matches!(it.code, 400 | 403 | 422)).map(|it| it.message.as_str())
    }
}

/// Makes one call.
///
/// # Errors
/// [`CallError`].
pub async fn call<T>(
    verb: &'static str,
    object: &str,
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, CallError> {
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(source)) => Err(CallError::Api { verb, object: object.to_owned(), source: Box::new(source) }),
        Err(_) => Err(CallError::TimeOut { verb, object: object.to_owned() }),
    }
}
