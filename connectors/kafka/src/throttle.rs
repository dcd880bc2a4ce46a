//! Bytes per second, as a bucket that fills while nothing is sent.

use std::time::{Duration, Instant};

/// A bucket holds what the line carries in this time: short bursts go out at once.
const BURST: Duration = Duration::from_millis(250);

/// Limits a stream of bytes to a rate.
#[derive(Debug)]
pub struct Throttle {
    bytes_per_s: f64,
    /// May be negative: what was sent ahead of its time.
    left: f64,
    at: Instant,
}

impl Throttle {
    pub fn new(bytes_per_s: u64, now: Instant) -> Self {
        let bytes_per_s = bytes_per_s as f64;
        Self { bytes_per_s, left: bytes_per_s * BURST.as_secs_f64(), at: now }
    }

    /// Takes bytes, and says how long to wait before sending them.
    pub fn take(&mut self, bytes: usize, now: Instant) -> Duration {
        let full = self.bytes_per_s * BURST.as_secs_f64();
        self.left = (self.left + self.bytes_per_s * now.saturating_duration_since(self.at).as_secs_f64()).min(full) - bytes as f64;
        self.at = now;
        if self.left >= 0.0 { Duration::ZERO } else { Duration::from_secs_f64(-self.left / self.bytes_per_s) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_keeps_to_its_rate_after_a_first_burst() {
        let mut now = Instant::now();
        let start = now;
        let mut throttle = Throttle::new(1_000_000, now);
        for _ in 0..1_000 {
            now += throttle.take(10_000, now);
        }
        // 10 MB at 1 MB/s, of which a quarter of a second is burst.
        let took = (now - start).as_secs_f64();
        assert!((9.7..=10.0).contains(&took), "{took}");
    }
}
