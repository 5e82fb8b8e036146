//! SIGINT and SIGTERM.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Exit code of a process that was asked to stop a second time.
const INTERRUPTED: i32 = 130;

/// SIGINT and SIGTERM, to be waited for.
pub struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    /// From here on the signals no longer end the process by themselves. Needs a tokio runtime.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn new() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Ends when the process is asked to stop.
    pub async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// For loops without a runtime: `told` is called when the process is asked to stop. Asked twice, it ends at
/// once.
///
/// # Errors
/// When the system gives no thread or no signals.
pub fn on_stop(told: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let mut stop = {
        let _entered = runtime.enter();
        Stop::new()?
    };
    std::thread::Builder::new().name("venom-signals".into()).spawn(move || {
        runtime.block_on(async {
            stop.asked().await;
            told();
            stop.asked().await;
            std::process::exit(INTERRUPTED);
        });
    })?;
    Ok(())
}
