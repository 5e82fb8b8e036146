//! How the pace of the beats compares with what the spec asks for. It is what a driver observes now, not what was
//! committed.

use std::time::{Duration, Instant};

/// The pace is judged over this time.
const WINDOW: Duration = Duration::from_secs(10);
/// Share of missed deadlines from which on an organism is overrun.
const OVERRUN: f64 = 0.05;
/// Slowdown from which on an organism is throttled.
const THROTTLED: f64 = 1.05;
/// Beats that are skipped for this long because too much is pending are worth a report.
const BLOCKED_AFTER: Duration = Duration::from_secs(1);

/// How an organism keeps its pace.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Pace {
    /// It beats as often as its spec asks.
    #[default]
    OnTime,
    /// A limit of the operator makes its periods longer.
    Throttled,
    /// It misses more than 5 % of its deadlines. Both in beats a second.
    Overrun {
        /// What the spec asks for.
        wanted: f64,
        /// What it reaches.
        real: f64,
    },
    /// Beats are skipped: too many entries wait to be committed.
    Blocked,
}

/// Counts beats and missed deadlines.
pub(super) struct PaceMeter {
    since: Instant,
    beats: u64,
    missed: u64,
    throttled: bool,
    /// Since when every beat was skipped because too much is pending.
    blocked_since: Option<Instant>,
    judged: Pace,
}

impl PaceMeter {
    pub(super) fn new(now: Instant) -> Self {
        let (judged, blocked_since) = (Pace::OnTime, None);
        Self { since: now, beats: 0, missed: 0, throttled: false, blocked_since, judged }
    }

    /// The pace in force.
    pub(super) fn pace(&self, now: Instant) -> Pace {
        match self.blocked_since {
            Some(since) if now.saturating_duration_since(since) >= BLOCKED_AFTER => Pace::Blocked,
            _ => self.judged,
        }
    }

    /// Counts a beat that was due, and the deadlines `missed` before it. `period` is that of the spec.
    pub(super) fn beat(&mut self, now: Instant, missed: u64, slowdown: f64, period: Duration) {
        self.blocked_since = None;
        self.beats += 1;
        self.count(now, missed, slowdown, period);
    }

    /// Counts a beat that was due and skipped because too much is pending.
    pub(super) fn blocked(&mut self, now: Instant, missed: u64, slowdown: f64, period: Duration) {
        self.blocked_since.get_or_insert(now);
        self.count(now, missed, slowdown, period);
    }

    fn count(&mut self, now: Instant, missed: u64, slowdown: f64, period: Duration) {
        self.missed += missed;
        if slowdown >= THROTTLED {
            self.throttled = true;
            if self.judged == Pace::OnTime {
                self.judged = Pace::Throttled;
            }
        }
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed >= WINDOW {
            self.judged = self.judge(elapsed, period);
            (self.since, self.beats, self.missed, self.throttled) = (now, 0, 0, false);
        }
    }

    fn judge(&self, elapsed: Duration, period: Duration) -> Pace {
        let due = (self.beats + self.missed) as f64;
        if self.missed as f64 > OVERRUN * due {
            let wanted = three_digits(1.0 / period.as_secs_f64());
            let real = three_digits(self.beats as f64 / elapsed.as_secs_f64());
            return match self.judged {
                // A figure that moves a little is not worth a write of the status.
                Pace::Overrun { wanted: before, real: it }
                    if before == wanted && (real - it).abs() < 0.1 * it =>
                {
                    self.judged
                }
                _ => Pace::Overrun { wanted, real },
            };
        }
        if self.throttled { Pace::Throttled } else { Pace::OnTime }
    }
}

fn three_digits(number: f64) -> f64 {
    if number <= 0.0 || !number.is_finite() {
        return 0.0;
    }
    let unit = 10f64.powf(number.log10().floor() - 2.0);
    (number / unit).round() * unit
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_millis(100);

    /// A second of ten deadlines, `missed` of them missed.
    fn second(meter: &mut PaceMeter, now: &mut Instant, missed: u64, slowdown: f64) -> Pace {
        for at in 0..10 {
            *now += PERIOD;
            if at >= missed {
                meter.beat(*now, if at == missed { missed } else { 0 }, slowdown, PERIOD);
            }
        }
        meter.pace(*now)
    }

    #[test]
    fn an_organism_that_misses_deadlines_for_ten_seconds_is_overrun() {
        let mut now = Instant::now();
        let mut meter = PaceMeter::new(now);
        for _ in 0..9 {
            assert_eq!(second(&mut meter, &mut now, 5, 1.0), Pace::OnTime);
        }
        assert_eq!(second(&mut meter, &mut now, 5, 1.0), Pace::Overrun { wanted: 10.0, real: 5.0 });
        for _ in 0..10 {
            second(&mut meter, &mut now, 0, 1.0);
        }
        assert_eq!(meter.pace(now), Pace::OnTime, "it goes by itself");
    }

    #[test]
    fn one_late_beat_is_no_overrun() {
        let mut now = Instant::now();
        let mut meter = PaceMeter::new(now);
        second(&mut meter, &mut now, 3, 1.0);
        for _ in 0..9 {
            second(&mut meter, &mut now, 0, 1.0);
        }
        assert_eq!(meter.pace(now), Pace::OnTime);
    }

    #[test]
    fn a_slowed_organism_is_throttled_until_it_beats_ten_seconds_at_its_own_pace() {
        let mut now = Instant::now();
        let mut meter = PaceMeter::new(now);
        assert_eq!(second(&mut meter, &mut now, 0, 2.0), Pace::Throttled);
        for _ in 0..19 {
            second(&mut meter, &mut now, 0, 1.0);
        }
        assert_eq!(meter.pace(now), Pace::OnTime);
    }

    #[test]
    fn beats_that_are_skipped_for_a_second_block() {
        let mut now = Instant::now();
        let mut meter = PaceMeter::new(now);
        for at in 0..=10 {
            assert_eq!(meter.pace(now) == Pace::Blocked, at >= 10);
            meter.blocked(now, 1, 1.0, PERIOD);
            now += PERIOD;
        }
        assert_eq!(meter.pace(now), Pace::Blocked);
        meter.beat(now, 0, 1.0, PERIOD);
        assert_eq!(meter.pace(now), Pace::OnTime);
    }
}
