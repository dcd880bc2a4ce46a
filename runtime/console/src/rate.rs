//! How often one address may ask: what is beyond waits, told when to come again.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Requests that only look: so many at once, so many a second.
pub const LOOKS: Rate = Rate { burst: 2000.0, per_second: 400.0 };
/// Requests that change something.
pub const CHANGES: Rate = Rate { burst: 20.0, per_second: 2.0 };
/// Addresses that are remembered.
const ADDRESSES_MAX: usize = 10_000;

#[derive(Clone, Copy)]
pub struct Rate {
    burst: f64,
    per_second: f64,
}

/// A bucket per address, which fills by itself.
pub struct Buckets {
    rate: Rate,
    left: Mutex<HashMap<IpAddr, (f64, Instant)>>,
}

impl Buckets {
    pub fn new(rate: Rate) -> Self {
        Self { rate, left: Mutex::default() }
    }

    /// Takes one; an error says how long to wait for the next.
    pub fn take(&self, from: IpAddr, now: Instant) -> Result<(), Duration> {
        let Rate { burst, per_second } = self.rate;
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let filled = |(left, since): &(f64, Instant)| (left + now.saturating_duration_since(*since).as_secs_f64() * per_second).min(burst);
        if left.len() >= ADDRESSES_MAX {
            left.retain(|_, bucket| filled(bucket) < burst);
            if left.len() >= ADDRESSES_MAX && !left.contains_key(&from) {
                return Err(Duration::from_secs(1));
            }
        }
        let bucket = left.entry(from).or_insert((burst, now));
        *bucket = (filled(bucket), now);
        if bucket.0 < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - bucket.0) / per_second));
        }
        bucket.0 -= 1.0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_fills_by_itself_and_is_of_one_address() {
        let buckets = Buckets::new(Rate { burst: 3.0, per_second: 1.0 });
        let (here, there, now): (IpAddr, IpAddr, _) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), Instant::now());
        for _ in 0..3 {
            assert!(buckets.take(here, now).is_ok());
        }
        assert_eq!(buckets.take(here, now), Err(Duration::from_secs(1)));
        assert!(buckets.take(there, now).is_ok());
        assert!(buckets.take(here, now + Duration::from_secs(1)).is_ok());
        assert!(buckets.take(here, now + Duration::from_secs(1)).is_err());
        assert!(buckets.take(here, now + Duration::from_secs(1000)).is_ok());
    }
}
