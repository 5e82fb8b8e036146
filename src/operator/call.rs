//! One API call: under a timeout, with an error that names verb and object.

use std::sync::Arc;

use futures::future::BoxFuture;

use crate::store::configmap::StoreError;
use crate::store::failure::is_namespace_terminating;
use crate::store::{ApiFailure, CALL_TIMEOUT};

/// Why an API call failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The API server refused it, or it could not be sent.
    #[error("{verb} {object}: {source}")]
    Api {
        /// Its verb.
        verb: &'static str,
        /// Kind and name of its object.
        object: String,
        /// The error.
        source: Box<ApiFailure>,
    },
    /// There was no answer in time.
    #[error("{verb} {object}: no answer within {} s", CALL_TIMEOUT.as_secs())]
    TimeOut {
        /// Its verb.
        verb: &'static str,
        /// Kind and name of its object.
        object: String,
    },
    /// A call for an object of a ledger failed.
    #[error(transparent)]
    Ledger(#[from] StoreError),
    /// A call failed that was made for several.
    #[error(transparent)]
    Shared(#[from] Arc<Self>),
}

impl CallError {
    fn status(&self) -> Option<&kube::core::Status> {
        match self {
            Self::Api { source, .. } => match &source.0 {
                kube::Error::Api(status) => Some(status),
                _ => None,
            },
            Self::TimeOut { .. } | Self::Ledger(_) => None,
            Self::Shared(error) => error.status(),
        }
    }

    /// Whether the object does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.status().is_some_and(kube::core::Status::is_not_found)
    }

    /// Whether the object has changed or exists already.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.status().is_some_and(|it| it.is_conflict() || it.is_already_exists())
    }

    /// The API server's words, if it has answered.
    #[must_use]
    pub fn answer(&self) -> Option<&str> {
        self.status().map(|it| it.message.as_str())
    }

    /// Whether the namespace of the object is being deleted.
    #[must_use]
    pub fn is_namespace_terminating(&self) -> bool {
        self.status().is_some_and(is_namespace_terminating)
    }
}

/// Makes one call. Boxed: it takes kilobytes, and the tasks of each organism would keep that much for good.
///
/// # Errors
/// [`CallError`].
pub fn call<'a, T>(
    verb: &'static str,
    object: &'a str,
    call: impl Future<Output = Result<T, kube::Error>> + Send + 'a,
) -> BoxFuture<'a, Result<T, CallError>> {
    Box::pin(async move {
        match tokio::time::timeout(CALL_TIMEOUT, call).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => {
                let source = Box::new(ApiFailure(error));
                Err(CallError::Api { verb, object: object.to_owned(), source })
            }
            Err(_) => Err(CallError::TimeOut { verb, object: object.to_owned() }),
        }
    })
}
