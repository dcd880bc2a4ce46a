//! How long things took that a source measures: the time from a trigger to its acknowledgement. Counted into few buckets, for the metrics.

use parking_lot::Mutex;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// Upper ends of the buckets, in seconds; what took longer is in the count alone.
pub const BOUNDS: [f64; 9] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// One thing that is measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Measured {
    pub count: u64,
    /// Seconds, of all together and of the longest.
    pub sum: f64,
    pub longest: f64,
    /// How many were within each of [`BOUNDS`].
    pub within: [u64; BOUNDS.len()],
}

#[derive(Debug, Default)]
pub struct Measures(Mutex<BTreeMap<&'static str, Measured>>);

impl Measures {
    pub fn add(&self, what: &'static str, took: Duration) {
        let took = took.as_secs_f64();
        let mut all = self.0.lock();
        let measured = all.entry(what).or_default();
        measured.count += 1;
        measured.sum += took;
        measured.longest = measured.longest.max(took);
        for (count, bound) in measured.within.iter_mut().zip(BOUNDS) {
            *count += u64::from(took <= bound);
        }
    }

    pub fn report(&self) -> BTreeMap<&'static str, Measured> {
        self.0.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bucket_counts_what_was_within_it() {
        let measures = Measures::default();
        for ms in [3, 30, 7_000] {
            measures.add("trigger_to_ack", Duration::from_millis(ms));
        }
        let measured = measures.report()["trigger_to_ack"];
        assert_eq!((measured.count, measured.within), (3, [1, 1, 1, 2, 2, 2, 2, 2, 2]));
        assert!((measured.sum - 7.033).abs() < 1e-9 && measured.longest == 7.0);
    }
}
