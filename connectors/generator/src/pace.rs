//! How many values are due now: an even rate, and bursts besides.
//!
//! A generator that was held back (a full log) goes on at its rate and makes up for one second at most; no number is skipped, only later.

use std::time::Duration;
use tokio::time::Instant;

/// The most that is made up for after a standstill.
const MAKE_UP: Duration = Duration::from_secs(1);
/// How often a batch is made at high rates.
const TICK: Duration = Duration::from_millis(4);

/// Counts what is due since a session began.
#[derive(Debug)]
pub struct Pace {
    /// `None`: without limit.
    per_s: Option<f64>,
    bursts: Option<(Duration, u64)>,
    /// When `taken` was 0.
    from: Instant,
    taken: u64,
    next_burst: Instant,
    burst_left: u64,
}

impl Pace {
    pub fn new(per_s: Option<f64>, bursts: Option<(Duration, u64)>, now: Instant) -> Self {
        let next_burst = now + bursts.map_or(Duration::ZERO, |(every, _)| every);
        Self { per_s, bursts, from: now, taken: 0, next_burst, burst_left: 0 }
    }

    /// How many values are due, `u64::MAX` without a limit.
    pub fn due(&mut self, now: Instant) -> u64 {
        let Some(per_s) = self.per_s else { return u64::MAX };
        if let Some((every, values)) = self.bursts
            && now >= self.next_burst
        {
            self.burst_left += values;
            self.next_burst = now + every;
        }
        let behind = now.saturating_duration_since(self.from + self.at(self.taken + 1));
        if behind > MAKE_UP {
            self.from += behind - MAKE_UP;
        }
        let even = (now.saturating_duration_since(self.from).as_secs_f64() * per_s) as u64;
        even.saturating_sub(self.taken) + self.burst_left
    }

    /// So many of what was due are made.
    pub fn take(&mut self, count: u64) {
        let burst = count.min(self.burst_left);
        self.burst_left -= burst;
        self.taken += count - burst;
    }

    /// How long before now the `back`-th last value taken was due, where there is a rate: values of one batch are spread in time.
    pub fn step(&self) -> Duration {
        self.per_s.map_or(Duration::ZERO, |per_s| Duration::from_secs_f64((1.0 / per_s).min(1.0)))
    }

    /// When to look again: the next value's time, at high rates the next tick.
    pub fn next(&self, now: Instant) -> Instant {
        let value = self.from + self.at(self.taken + 1);
        let tick = value.max(now + TICK);
        if self.bursts.is_some() { tick.min(self.next_burst.max(now)) } else { tick }
    }

    fn at(&self, count: u64) -> Duration {
        self.per_s.map_or(Duration::ZERO, |per_s| Duration::try_from_secs_f64(count as f64 / per_s).unwrap_or(Duration::MAX / 4))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    #[test]
    fn the_rate_is_kept_on_average() {
        let start = Instant::now();
        let mut pace = Pace::new(Some(1000.0), None, start);
        let mut made = 0;
        for millis in (0..=10_000).step_by(7) {
            let due = pace.due(after(start, millis));
            pace.take(due);
            made += due;
        }
        assert!((9_980..=10_000).contains(&made), "{made}");
    }

    #[test]
    fn a_slow_rate_waits_for_its_value() {
        let start = Instant::now();
        let mut pace = Pace::new(Some(0.5), None, start);
        assert_eq!(pace.due(start), 0);
        assert_eq!(pace.next(start), after(start, 2000));
        assert_eq!(pace.due(after(start, 2000)), 1);
    }

    #[test]
    fn after_a_standstill_one_second_is_made_up_for() {
        let start = Instant::now();
        let mut pace = Pace::new(Some(1000.0), None, start);
        let due = pace.due(after(start, 60_000));
        assert!((1000..=1001).contains(&due), "{due}");
        pace.take(due);
        let due = pace.due(after(start, 60_100));
        assert!((99..=101).contains(&due), "{due}");
    }

    #[test]
    fn a_burst_comes_besides_the_rate() {
        let start = Instant::now();
        let mut pace = Pace::new(Some(10.0), Some((Duration::from_secs(1), 500)), start);
        assert_eq!(pace.due(after(start, 500)), 5);
        pace.take(5);
        assert_eq!(pace.due(after(start, 1000)), 505);
        pace.take(505);
        assert_eq!(pace.due(after(start, 1500)), 5);
    }

    #[test]
    fn without_a_rate_any_number_is_due() {
        let start = Instant::now();
        assert_eq!(Pace::new(None, None, start).due(start), u64::MAX);
    }
}
