//! Bytes per second, by the hour, as a bucket that fills while nothing is sent; and which topics go first.

use jiff::civil::Time;
use millrace_config::{ByteRate, Problems, Spanned};
use millrace_contract::is_meant;
use schemars::JsonSchema;
use serde::Deserialize;
use std::time::{Duration, Instant};

/// Limits of the line to the target.
#[derive(Clone, PartialEq, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limit {
    /// Bytes per second of keys, values and headers, before compression: `2MiB/s`.
    pub bandwidth: Option<Spanned<ByteRate>>,
    /// Other rates at other times of the day: the first that holds.
    pub schedule: Vec<Hours>,
    /// Topics whose records go before all others, by name or pattern: `[alarms]`.
    pub first: Vec<Spanned<String>>,
}

/// A rate for some hours of each day, by this machine's clock.
#[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Hours {
    /// `22:00`.
    pub from: Spanned<String>,
    /// `06:00`; of the next day, where it is earlier than `from`.
    pub until: Spanned<String>,
    /// Bytes per second: `20MiB/s`.
    pub bandwidth: Spanned<ByteRate>,
}

/// A batch of 4 MiB must pass well within Kafka's `max.poll.interval.ms` of five minutes.
const LEAST_BANDWIDTH: u64 = 32 << 10;
/// A bucket holds what the line carries in this time: short bursts go out at once.
const BURST: Duration = Duration::from_millis(250);
/// How often the schedule is looked at.
const LOOK: Duration = Duration::from_secs(10);
/// What may wait in front of a record that goes first, at least and at most.
const AHEAD: (u64, u64) = (64 << 10, 1 << 20);

/// Limits that were checked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Limits {
    always: Option<u64>,
    hours: Vec<(Time, Time, u64)>,
    first: Vec<String>,
}

impl Limits {
    pub fn compile(config: &Limit, topics: &[String], problems: &mut Problems) -> Self {
        let check = |rate: &Spanned<ByteRate>, problems: &mut Problems| {
            if rate.0 < LEAST_BANDWIDTH {
                let message = format!("`bandwidth: {}` is less than 32KiB/s, with which no batch would pass in time", rate.value);
                problems.error(rate.place, message);
            }
            rate.0
        };
        let always = config.bandwidth.as_ref().map(|rate| check(rate, problems));
        let mut hours = Vec::new();
        for one in &config.schedule {
            let rate = check(&one.bandwidth, problems);
            let time = |text: &Spanned<String>, problems: &mut Problems| {
                let time = Time::strptime("%H:%M", text.as_str()).ok();
                if time.is_none() {
                    problems.error(text.place, format!("`{}` is no time of day", text.value)).help("write `22:00`");
                }
                time
            };
            if let (Some(from), Some(until)) = (time(&one.from, problems), time(&one.until, problems)) {
                hours.push((from, until, rate));
            }
        }
        for first in &config.first {
            if !topics.iter().any(|topic| topic.contains('*') || is_meant(&first.value, topic)) {
                problems.error(first.place, format!("`first` names topic {}, which this sink does not read", first.value));
            }
        }
        Self { always, hours, first: config.first.iter().map(|topic| topic.value.clone()).collect() }
    }

    /// The rate that holds at this time of day; `None`: there is none.
    pub fn at(&self, now: Time) -> Option<u64> {
        let holds = |from: Time, until: Time| if from < until { (from..until).contains(&now) } else { now >= from || now < until };
        self.hours.iter().find(|(from, until, _)| holds(*from, *until)).map(|(.., rate)| *rate).or(self.always)
    }

    pub fn is_limited(&self) -> bool {
        self.always.is_some() || !self.hours.is_empty()
    }

    pub fn is_first(&self, topic: &str) -> bool {
        self.first.iter().any(|first| is_meant(first, topic))
    }

    /// Bytes that may be read ahead of what is sent, where some topics go first: what the line carries in a second.
    pub fn ahead(&self) -> Option<u64> {
        let slowest = self.hours.iter().map(|(.., rate)| *rate).chain(self.always).min()?;
        (!self.first.is_empty()).then(|| slowest.clamp(AHEAD.0, AHEAD.1))
    }

    /// For a person.
    pub fn plan(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(rate) = self.always {
            lines.push(format!("sends at most {}", ByteRate(rate)));
        }
        for (from, until, rate) in &self.hours {
            lines.push(format!("sends at most {} from {} to {}", ByteRate(*rate), from.strftime("%H:%M"), until.strftime("%H:%M")));
        }
        if !self.first.is_empty() {
            lines.push(format!("sends {} before all others", self.first.join(", ")));
        }
        lines
    }
}

/// Limits a stream of bytes to a rate, by the schedule.
#[derive(Debug)]
pub struct Throttle {
    limits: Limits,
    bytes_per_s: Option<f64>,
    /// May be negative: what was sent ahead of its time.
    left: f64,
    at: Instant,
    look_at: Instant,
}

impl Throttle {
    /// `clock`: the time of day.
    pub fn new(limits: Limits, now: Instant, clock: Time) -> Self {
        let bytes_per_s = limits.at(clock).map(|rate| rate as f64);
        Self { limits, bytes_per_s, left: bytes_per_s.unwrap_or(0.0) * BURST.as_secs_f64(), at: now, look_at: now + LOOK }
    }

    /// Takes bytes, and says how long to wait before sending them. `clock` is asked for the time of day, now and then.
    pub fn take(&mut self, bytes: usize, now: Instant, clock: impl FnOnce() -> Time) -> Duration {
        if now >= self.look_at && !self.limits.hours.is_empty() {
            self.look_at = now + LOOK;
            self.bytes_per_s = self.limits.at(clock()).map(|rate| rate as f64);
        }
        let Some(rate) = self.bytes_per_s else {
            (self.left, self.at) = (0.0, now);
            return Duration::ZERO;
        };
        let full = rate * BURST.as_secs_f64();
        self.left = (self.left + rate * now.saturating_duration_since(self.at).as_secs_f64()).min(full) - bytes as f64;
        self.at = now;
        if self.left >= 0.0 { Duration::ZERO } else { Duration::from_secs_f64(-self.left / rate) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> Time {
        Time::strptime("%H:%M", text).unwrap()
    }

    fn seconds(throttle: &mut Throttle, start: Instant, clock: Time) -> f64 {
        let mut now = start;
        for _ in 0..1_000 {
            now += throttle.take(10_000, now, || clock);
        }
        (now - start).as_secs_f64()
    }

    #[test]
    fn a_stream_keeps_to_its_rate_after_a_first_burst() {
        let start = Instant::now();
        let limits = Limits { always: Some(1_000_000), ..Limits::default() };
        // 10 MB at 1 MB/s, of which a quarter of a second is burst.
        let took = seconds(&mut Throttle::new(limits, start, time("12:00")), start, time("12:00"));
        assert!((9.7..=10.0).contains(&took), "{took}");
    }

    #[test]
    fn a_schedule_changes_the_rate_while_it_runs_over_midnight_too() {
        let start = Instant::now();
        let limits = Limits { always: Some(1_000_000), hours: vec![(time("22:00"), time("06:00"), 10_000_000)], first: Vec::new() };
        for (at, rate) in [("21:59", 1_000_000), ("22:00", 10_000_000), ("05:59", 10_000_000), ("06:00", 1_000_000)] {
            assert_eq!(limits.at(time(at)), Some(rate), "{at}");
        }
        let mut throttle = Throttle::new(limits, start, time("21:59"));
        let later = start + LOOK;
        let took = seconds(&mut throttle, later, time("22:01"));
        assert!((0.7..=1.0).contains(&took), "{took}");
    }

    #[test]
    fn little_is_read_ahead_of_a_thin_line_where_something_goes_first() {
        let thin = Limits { always: Some(100_000), first: vec!["alarm*".into()], ..Limits::default() };
        assert_eq!((thin.ahead(), thin.is_first("alarms"), thin.is_first("telemetry")), (Some(100_000), true, false));
        assert_eq!(Limits { first: Vec::new(), ..thin }.ahead(), None);
    }
}
