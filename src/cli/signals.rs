//! Shutdown on SIGINT and SIGTERM.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Exit code after a second signal, that of a process ended by SIGINT.
const INTERRUPTED: i32 = 130;

/// Receives SIGINT and SIGTERM.
pub struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    /// Installs the handlers: from now on the signals no longer end the process. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// If a handler cannot be installed.
    pub fn new() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Completes at the next signal.
    pub async fn requested(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Calls `stop` at the first signal and ends the process at the second. For programs without a tokio runtime.
///
/// # Errors
/// If the handlers or the thread that waits for them cannot be created.
pub fn on_stop(stop: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let mut signals = {
        let _entered = runtime.enter();
        Stop::new()?
    };
    std::thread::Builder::new().name("venom-signals".into()).spawn(move || {
        runtime.block_on(async {
            signals.requested().await;
            stop();
            signals.requested().await;
            std::process::exit(INTERRUPTED);
        });
    })?;
    Ok(())
}
