//! How far each tag was read, kept for the next process: the source time of the last value of every item of a subscription.
//!
//! ```text
//! "s0/1/read/0"   plan of the subscription: 8 bytes, little-endian
//!                 then for each of its items, in their order, as far as 1,000 go: the difference to the one before, zigzag, 7 bits a byte;
//!                 0 as a time: never read
//! ```
//!
//! A subscription's own position (`subscribe.rs`) moves with every message and says when that was published. That is no watermark of its tags: a
//! device's clock may be behind the server's or ahead of it, and what lies between is a hole or a repeat. Nor can the position carry a time per tag:
//! it goes with every batch. So the times are written when a session ends, and every [`EVERY`] while it lives, only those pieces that changed. The
//! memory has them all the time (`readings.rs`), so within one process a gap begins exactly where its tag ended.
//!
//! Invariants: what is written down is in the log already, or goes there with it; so a gap begins too early, never too late. After a kill -9 of the
//! runtime whose server forgot the subscription as well, values of the last [`EVERY`] may be read back again; nothing is missing.
//! Written only where `history` is asked for. A subscription of other items than those written down begins its gaps at its last message.

use crate::readings::Readings;
use crate::subscribe::Subscription;
use millrace_contract::SourceIo;
use millrace_schemas::Micros;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;
use tokio::time::Instant;

/// How often they are written while a session lives.
const EVERY: Duration = Duration::from_secs(5);
/// Items of one position.
const PIECE: usize = 1_000;

/// What was written, and when it is time again.
#[derive(Debug)]
pub struct Watermarks {
    written: HashMap<String, u64>,
    hash: RandomState,
    due: Instant,
}

impl Default for Watermarks {
    fn default() -> Self {
        Self { written: HashMap::new(), hash: RandomState::new(), due: Instant::now() + EVERY }
    }
}

impl Watermarks {
    pub fn is_due(&self) -> bool {
        Instant::now() >= self.due
    }

    /// The positions that changed since they were written; they count as written now.
    pub fn changed<'s>(&mut self, subscriptions: impl Iterator<Item = &'s Subscription>, readings: &Readings) -> Vec<(String, Vec<u8>)> {
        self.due = Instant::now() + EVERY;
        let mut changed = Vec::new();
        for subscription in subscriptions {
            for (number, handles) in subscription.handles.chunks(PIECE).enumerate() {
                let times = handles.iter().map(|handle| readings.watermark(*handle));
                let (key, text) = (key(subscription, number), write(subscription.plan, times));
                let hash = self.hash.hash_one(&text);
                if self.written.get(&key) != Some(&hash) {
                    self.written.insert(key.clone(), hash);
                    changed.push((key, text));
                }
            }
        }
        changed
    }
}

/// Takes up what an earlier process wrote down of a subscription whose plan is made.
pub fn resume(subscription: &Subscription, io: &SourceIo, readings: &mut Readings) {
    for (number, handles) in subscription.handles.chunks(PIECE).enumerate() {
        let times = io.resume(&key(subscription, number)).and_then(|text| read(subscription.plan, &text)).unwrap_or_default();
        for (handle, time) in handles.iter().zip(times) {
            readings.was_read(*handle, time);
        }
    }
}

fn key(subscription: &Subscription, number: usize) -> String {
    format!("{}/read/{number}", subscription.key)
}

fn write(plan: u64, times: impl Iterator<Item = Micros>) -> Vec<u8> {
    let mut text = plan.to_le_bytes().to_vec();
    let mut before = 0;
    for Micros(time) in times {
        let difference = time.wrapping_sub(before);
        before = time;
        let mut rest = ((difference << 1) ^ (difference >> 63)) as u64;
        while rest > 0x7F {
            text.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        text.push(rest as u8);
    }
    text
}

/// `None`: it is of other items.
fn read(plan: u64, text: &[u8]) -> Option<Vec<Micros>> {
    let (of, text) = text.split_first_chunk()?;
    if u64::from_le_bytes(*of) != plan {
        return None;
    }
    let (mut times, mut time) = (Vec::new(), 0i64);
    let (mut zigzag, mut shift) = (0u64, 0);
    for byte in text {
        zigzag |= u64::from(byte & 0x7F).checked_shl(shift).unwrap_or(0);
        shift += 7;
        if byte & 0x80 == 0 {
            time = time.wrapping_add((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64));
            times.push(Micros(time));
            (zigzag, shift) = (0, 0);
        }
    }
    Some(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_per_tag_is_read_as_it_was_written_and_only_for_the_same_items() {
        let times = [0, 1_767_323_045_678_901, 1_767_323_045_678_900, 0, -5, i64::MAX, i64::MIN, 7].map(Micros);
        let text = write(7, times.into_iter());
        assert_eq!(read(7, &text), Some(times.to_vec()));
        assert_eq!(read(8, &text), None);
        assert_eq!(read(7, b"short"), None);
        let endless = [&7u64.to_le_bytes()[..], &[0xFF; 30]].concat();
        assert_eq!(read(7, &endless), Some(Vec::new()));
    }

    #[test]
    fn ten_thousand_tags_that_change_together_take_few_bytes() {
        let times = (0..1_000).map(|tag| Micros(1_767_323_045_678_901 + tag % 7));
        assert!(write(7, times).len() < 1_100);
    }
}
