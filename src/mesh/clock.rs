//! Waiting for a time of the wall clock.

use std::time::{Duration, SystemTime};

use tokio::time::sleep;

/// Longest sleep before the clock is read again. A sleep does not count the time in which the machine was suspended, and
/// does not follow a clock that was set.
const STEP: Duration = Duration::from_secs(10);

/// Returns when `due` says so of the current time, at most 10 s late. It returns the time that is left.
pub async fn wait_until(due: impl Fn(SystemTime) -> Result<(), Duration>) {
    while let Err(left) = due(SystemTime::now()) {
        sleep(left.min(STEP)).await;
    }
}

/// Whether `time` is reached at `now`, or else how long that takes.
///
/// # Errors
/// The time that is left.
pub fn reached(time: SystemTime, now: SystemTime) -> Result<(), Duration> {
    match time.duration_since(now) {
        Ok(left) if !left.is_zero() => Err(left),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::time::Instant;

    use super::*;

    /// A clock that steps, as that of a machine that was suspended, is followed within seconds.
    #[tokio::test(start_paused = true)]
    async fn a_clock_that_steps_is_followed() {
        let (start, wall) = (Instant::now(), Mutex::new(Duration::ZERO));
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        let step = async {
            sleep(Duration::from_secs(65)).await;
            *wall.lock().unwrap() = hours(8);
        };
        let due = |_| match hours(8).checked_sub(*wall.lock().unwrap()) {
            Some(left) if !left.is_zero() => Err(left),
            _ => Ok(()),
        };
        tokio::join!(wait_until(due), step);
        assert!(start.elapsed() <= Duration::from_secs(75), "{:?}", start.elapsed());
        // Without a step it is exact.
        let end = SystemTime::now();
        assert_eq!(reached(end, end), Ok(()));
        assert_eq!(reached(end, end - hours(1)), Err(hours(1)));
        assert_eq!(reached(end, end + hours(1)), Ok(()));
    }
}
