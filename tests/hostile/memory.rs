//! How much memory a computation takes.

use std::fs;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A measurement would count what other tests allocate.
static ALONE: Mutex<()> = Mutex::new(());

/// Most memory that anything hostile may take, in KiB.
pub const BOUND: u64 = 64 << 10;

/// To be held by each test: no other one runs meanwhile.
pub fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `compute`, and asserts that the process grows by at most [`BOUND`].
pub fn bounded<T>(what: &str, compute: impl FnOnce() -> T) -> T {
    // Resets the peak.
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = status("VmRSS:");
    let result = compute();
    let grown = status("VmHWM:").saturating_sub(before);
    println!("{what}: {} KiB", grown);
    assert!(grown <= BOUND, "{what}: grew by {grown} KiB, at most {BOUND} are allowed");
    result
}

fn status(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|it| it.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
