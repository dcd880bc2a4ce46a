//! The sequence numbers of an edge node: what is in order, what is late, what is missing.
//!
//! ```text
//! 0 1 2 5        5 is a gap: 3 and 4 are missing, the reorder time starts; 5's values are taken as they came
//! 0 1 2 5 4 3    late: nothing is missing any more, nothing was lost
//! 0 1 2 5 ...    the time passed: 2 lost, a rebirth is due
//! ```
//!
//! Values carry their own times, so a message is handled when it comes, not held back until those before it came: what is acknowledged is in
//! the log. A loss of 256 messages at once, or a multiple, can't be seen: one byte is all there is.

use std::time::{Duration, Instant};

/// What a sequence number said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The next one, or the first one seen.
    Next,
    /// One that was missing.
    Late,
    /// The one before once more: a redelivery.
    Repeat,
    /// So many before it are missing.
    Gap(u32),
}

#[derive(Clone, Debug, Default)]
pub struct Sequence {
    next: Option<u8>,
    missing: [u64; 4],
    count: u32,
    since: Option<Instant>,
}

impl Sequence {
    /// A birth starts anew. Returns how many were still missing: they are lost.
    pub fn restart(&mut self, seq: Option<u64>) -> u32 {
        let lost = self.count;
        *self = Self { next: seq.map(|seq| (seq as u8).wrapping_add(1)), ..Self::default() };
        lost
    }

    /// Whether it is known what comes next.
    pub fn is_known(&self) -> bool {
        self.next.is_some()
    }

    /// Takes the next message's number. Returns what it said, and how many are lost for sure.
    pub fn take(&mut self, seq: u8, dup: bool, now: Instant) -> (Order, u32) {
        let Some(next) = self.next else {
            self.next = Some(seq.wrapping_add(1));
            return (Order::Next, 0);
        };
        let ahead = seq.wrapping_sub(next);
        if ahead >= 128 {
            if self.clear(seq) {
                return (Order::Late, 0);
            }
            if dup {
                return (Order::Repeat, 0);
            }
        }
        // A number that is still missing from 256 messages ago never comes any more.
        let mut lost = u32::from(self.clear(seq));
        for offset in 0..ahead {
            let missing = next.wrapping_add(offset);
            lost += u32::from(self.clear(missing));
            self.missing[missing as usize / 64] |= 1 << (missing % 64);
            self.count += 1;
        }
        self.next = Some(seq.wrapping_add(1));
        if ahead == 0 {
            return (Order::Next, lost);
        }
        self.since.get_or_insert(now);
        (Order::Gap(u32::from(ahead)), lost)
    }

    /// Gives up what has been missing for longer than `patience`: returns how many are lost.
    pub fn expire(&mut self, patience: Duration, now: Instant) -> u32 {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) < patience) {
            return 0;
        }
        self.missing = [0; 4];
        self.since = None;
        std::mem::take(&mut self.count)
    }

    fn clear(&mut self, seq: u8) -> bool {
        let (word, bit) = (&mut self.missing[seq as usize / 64], 1 << (seq % 64));
        let was = *word & bit != 0;
        *word &= !bit;
        self.count -= u32::from(was);
        if self.count == 0 {
            self.since = None;
        }
        was
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn fed(numbers: &[u8]) -> (Sequence, Vec<Order>) {
        let now = Instant::now();
        let mut sequence = Sequence::default();
        let orders = numbers.iter().map(|seq| sequence.take(*seq, false, now).0).collect();
        (sequence, orders)
    }

    #[test]
    fn a_gap_that_heals_in_time_loses_nothing() {
        let (mut sequence, orders) = fed(&[0, 1, 4, 3, 2, 5]);
        assert_eq!(orders, [Order::Next, Order::Next, Order::Gap(2), Order::Late, Order::Late, Order::Next]);
        assert_eq!(sequence.expire(SECOND, Instant::now() + 2 * SECOND), 0);
    }

    #[test]
    fn a_gap_that_does_not_heal_is_lost_once() {
        let (mut sequence, _) = fed(&[254, 255, 0, 3, 1]);
        assert_eq!(sequence.expire(SECOND, Instant::now()), 0, "not yet");
        assert_eq!(sequence.expire(SECOND, Instant::now() + 2 * SECOND), 1);
        assert_eq!(sequence.expire(SECOND, Instant::now() + 4 * SECOND), 0);
    }

    #[test]
    fn a_birth_ends_the_waiting() {
        let (mut sequence, _) = fed(&[0, 5]);
        assert_eq!(sequence.restart(Some(0)), 4);
        assert_eq!(sequence.take(1, false, Instant::now()), (Order::Next, 0));
    }

    #[test]
    fn a_redelivered_message_is_no_gap() {
        let now = Instant::now();
        let (mut sequence, _) = fed(&[0, 1, 2]);
        assert_eq!(sequence.take(2, true, now), (Order::Repeat, 0));
        assert_eq!(sequence.take(1, true, now), (Order::Repeat, 0));
        assert_eq!(sequence.take(3, false, now), (Order::Next, 0));
    }

    proptest! {
        /// Whatever is dropped in runs shorter than half the circle is counted, to the message.
        #[test]
        fn what_is_dropped_is_counted(runs in proptest::collection::vec((1u32..50, 0u32..120), 1..40), start: u8) {
            let now = Instant::now();
            let mut sequence = Sequence::default();
            let (mut at, mut dropped, mut lost) = (u32::from(start), 0, 0);
            let mut last_run = 0;
            for (kept, gap) in runs {
                for _ in 0..kept {
                    lost += sequence.take(at as u8, false, now).1;
                    at += 1;
                }
                dropped += last_run;
                at += gap;
                last_run = gap;
            }
            lost += sequence.expire(Duration::ZERO, now);
            prop_assert_eq!(lost, dropped);
        }

        /// Any order of any numbers: no panic, and never more missing than there are numbers.
        #[test]
        fn any_numbers_are_survived(numbers in proptest::collection::vec((any::<u8>(), any::<bool>()), 0..600)) {
            let now = Instant::now();
            let mut sequence = Sequence::default();
            for (seq, dup) in numbers {
                sequence.take(seq, dup, now);
                let bits: u32 = sequence.missing.iter().map(|word| word.count_ones()).sum();
                prop_assert_eq!(bits, sequence.count);
                prop_assert_eq!(sequence.count > 0, sequence.since.is_some());
            }
        }
    }
}
