//! When groups are read: one schedule for all groups of one wire.
//!
//! Every group keeps to its own grid, from a common start or on the clock's full intervals, so that groups of 500 ms and 1 s come due together and
//! their requests can be merged.
//!
//! ```text
//! grid      |----|----|----|----|----|----|
//! cycle     [=][=]   [===========]   [=]           the third takes too long:
//!                              ^ late, at once; one was missed whole and is counted; then the grid again
//! ```
//!
//! Invariants: never two cycles of a group without a wait between them because of a pause; what is skipped is told once.

use millrace_contract::{Loss, SourceIo};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;

/// The schedule of the groups of one wire.
pub struct Cycles {
    slots: Vec<Slot>,
    wall: Box<dyn Fn() -> SystemTime + Send + Sync>,
}

struct Slot {
    every: Duration,
    beat: Beat,
    last: Instant,
}

enum Beat {
    /// The next cycle.
    Free(Instant),
    /// The next cycle's number since 1970.
    Clock(u128),
}

/// What is to be read now.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Due {
    /// Indices of the groups, in their order.
    pub groups: Vec<usize>,
    /// Groups of which cycles were missed whole, and how many.
    pub skipped: Vec<(usize, u64)>,
}

impl Due {
    /// Counts the readings that were missed; `tags` says how many a group has.
    pub fn count_skipped(&self, io: &SourceIo, tags: impl Fn(usize) -> usize) {
        let missed: u64 = self.skipped.iter().map(|(group, cycles)| cycles * tags(*group) as u64).sum();
        if missed > 0 {
            io.lost(Loss::PollSkipped, missed);
        }
    }
}

/// A timer that ends so much before the clock's full interval counts as punctual.
const EARLY: Duration = Duration::from_millis(1);
/// The clock may be set while a long interval is waited for: it is looked at this often.
const LOOK_AT_CLOCK: Duration = Duration::from_secs(10);

impl Cycles {
    /// Of each group the interval, and whether it keeps to the clock. Those that don't are due at once.
    pub fn new(groups: impl IntoIterator<Item = (Duration, bool)>) -> Self {
        Self::with_clock(groups, SystemTime::now)
    }

    /// As [`Self::new`], with another wall clock: for tests.
    pub fn with_clock(groups: impl IntoIterator<Item = (Duration, bool)>, wall: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        let (start, now) = (Instant::now(), wall());
        let slot = |(every, align): (Duration, bool)| {
            let every = every.max(Duration::from_millis(1));
            let beat = if align { Beat::Clock(number(now, every) + 1) } else { Beat::Free(start) };
            Slot { every, beat, last: start }
        };
        Self { slots: groups.into_iter().map(slot).collect(), wall: Box::new(wall) }
    }

    /// Waits until something is due. Cancel-safe. Waits forever where there are no groups.
    pub async fn due(&mut self) -> Due {
        loop {
            let now = Instant::now();
            let due = self.take(now);
            if !due.groups.is_empty() {
                return due;
            }
            match self.next(now) {
                Some(next) => tokio::time::sleep_until(next).await,
                None => std::future::pending().await,
            }
        }
    }

    /// When [`Self::due`] has to look again.
    fn next(&self, now: Instant) -> Option<Instant> {
        let wall = (self.wall)();
        let next = |slot: &Slot| match slot.beat {
            Beat::Free(next) => next,
            Beat::Clock(number) => now + until(number, slot.every, wall).min(LOOK_AT_CLOCK),
        };
        self.slots.iter().map(next).min()
    }

    fn take(&mut self, now: Instant) -> Due {
        let wall = (self.wall)();
        let mut due = Due::default();
        for (index, slot) in self.slots.iter_mut().enumerate() {
            let Some(missed) = slot.take(now, wall) else { continue };
            due.groups.push(index);
            if missed > 0 {
                due.skipped.push((index, missed));
            }
        }
        due
    }
}

impl Slot {
    /// If it is due: takes the cycle, and says how many were missed whole.
    fn take(&mut self, now: Instant, wall: SystemTime) -> Option<u64> {
        let missed = match &mut self.beat {
            Beat::Free(next) if *next > now => return None,
            Beat::Free(next) => {
                let missed = now.duration_since(*next).as_nanos() / self.every.as_nanos();
                *next = after(*next, self.every, missed + 1);
                missed
            }
            Beat::Clock(next) => {
                let reached = number(wall + EARLY, self.every);
                if reached < *next {
                    // The clock was set back: the interval begins anew.
                    *next = (*next).min(reached + 1);
                    return None;
                }
                // A clock that was set forward missed nothing that there was.
                let missed = (reached - *next).min(now.duration_since(self.last).as_nanos() / self.every.as_nanos());
                *next = reached + 1;
                missed
            }
        };
        self.last = now;
        Some(u64::try_from(missed).unwrap_or(u64::MAX))
    }
}

fn after(from: Instant, every: Duration, times: u128) -> Instant {
    let nanos = u64::try_from(every.as_nanos().saturating_mul(times)).unwrap_or(u64::MAX);
    from + Duration::from_nanos(nanos)
}

/// How many full intervals the clock counts since 1970.
fn number(wall: SystemTime, every: Duration) -> u128 {
    wall.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() / every.as_nanos()
}

/// How long it is until the clock reaches a full interval.
fn until(number: u128, every: Duration, wall: SystemTime) -> Duration {
    let at = number.saturating_mul(every.as_nanos());
    let now = wall.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    Duration::from_nanos(u64::try_from(at.saturating_sub(now)).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI64, Ordering};

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn due(groups: &[usize], skipped: &[(usize, u64)]) -> Due {
        Due { groups: groups.into(), skipped: skipped.into() }
    }

    #[tokio::test(start_paused = true)]
    async fn groups_of_one_wire_come_due_together_where_their_intervals_meet() {
        let mut cycles = Cycles::new([(ms(500), false), (ms(1000), false)]);
        let start = Instant::now();
        assert_eq!(cycles.due().await, due(&[0, 1], &[]));
        assert_eq!((cycles.due().await, start.elapsed()), (due(&[0], &[]), ms(500)));
        assert_eq!((cycles.due().await, start.elapsed()), (due(&[0, 1], &[]), ms(1000)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_cycle_that_takes_too_long_is_followed_by_one_at_once_and_what_was_missed_is_told_once() {
        let mut cycles = Cycles::new([(ms(100), false)]);
        let start = Instant::now();
        cycles.due().await;
        tokio::time::sleep(ms(350)).await;
        assert_eq!((cycles.due().await, start.elapsed()), (due(&[0], &[(0, 2)]), ms(350)));
        assert_eq!((cycles.due().await, start.elapsed()), (due(&[0], &[]), ms(400)));
        tokio::time::sleep(ms(3_600_000)).await;
        assert_eq!(cycles.due().await, due(&[0], &[(0, 35_999)]));
        let now = Instant::now();
        cycles.due().await;
        assert_eq!(now.elapsed(), ms(100));
    }

    /// A wall clock that goes with tokio's, and can be set.
    fn clock(start_ms: u64) -> (Arc<AtomicI64>, impl Fn() -> SystemTime + Send + Sync + 'static) {
        let (set, start) = (Arc::new(AtomicI64::new(0)), Instant::now());
        let shift = set.clone();
        let wall = move || {
            let shift = shift.load(Ordering::Relaxed);
            UNIX_EPOCH + Duration::from_millis((start_ms as i64 + start.elapsed().as_millis() as i64 + shift) as u64)
        };
        (set, wall)
    }

    #[tokio::test(start_paused = true)]
    async fn an_aligned_group_is_read_at_the_clocks_full_interval() {
        let (_, wall) = clock(119_500);
        let mut cycles = Cycles::with_clock([(ms(60_000), true)], wall);
        let start = Instant::now();
        assert_eq!((cycles.due().await, start.elapsed()), (due(&[0], &[]), ms(500)));
        tokio::time::sleep(ms(61_000)).await;
        assert_eq!((cycles.due().await, start.elapsed()), (due(&[0], &[]), ms(61_500)));
        assert_eq!((cycles.due().await, start.elapsed()), (due(&[0], &[]), ms(120_500)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_set_moves_the_interval_and_counts_nothing() {
        let (set, wall) = clock(0);
        let mut cycles = Cycles::with_clock([(ms(60_000), true)], wall);
        cycles.due().await;
        set.store(86_400_000, Ordering::Relaxed);
        let start = Instant::now();
        assert_eq!(cycles.due().await, due(&[0], &[]));
        set.store(-30_000, Ordering::Relaxed);
        cycles.due().await;
        assert!(start.elapsed() <= ms(120_000), "{:?}", start.elapsed());
    }
}
