//! Opening, replaying and encoding segments: off the async workers, at most as many at once as there are processors.
//! A start with a thousand organisms would otherwise keep every worker from answering health checks and watches.

use tokio::sync::Semaphore;
use tokio::task::JoinError;

/// Runs computations on threads of their own.
pub struct Codec(Semaphore);

impl Default for Codec {
    fn default() -> Self {
        Self(Semaphore::new(std::thread::available_parallelism().map_or(1, Into::into)))
    }
}

impl Codec {
    /// Runs `compute` when it is its turn.
    ///
    /// # Errors
    /// [`JoinError`] when it panics.
    pub async fn run<T: Send + 'static>(
        &self,
        compute: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        // Infallible: the semaphore is never closed.
        let _turn = self.0.acquire().await.ok();
        tokio::task::spawn_blocking(compute).await
    }
}
