//! What a partition knows about each producer: which batches it has had already, and which transaction is open.
//!
//! Pure state: offsets and times are parameters. It is rebuilt from the batches of the log, from the last checkpoint on.
//! Source: KIP-98, "Idempotent Producer Guarantees"; the last five batches of a producer can be told from new ones.

use std::collections::{BTreeMap, HashMap, VecDeque};

use kafka_protocol::ResponseError;

use crate::storage::batch::{Header, NO_PRODUCER};
use crate::storage::wire::{Reader, Writer};

/// Producers remembered; beyond it those that were silent longest are forgotten, as if their time were over.
const MOST: usize = 10_000;
/// Batches remembered for each producer: as many as a client may have in flight.
const REMEMBERED: usize = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sent {
    first_sequence: i32,
    last_sequence: i32,
    base: u64,
    time: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Producer {
    epoch: i16,
    sent: VecDeque<Sent>,
    /// First offset of the transaction that is open.
    open: Option<u64>,
    /// Milliseconds since 1970 of its last batch or marker.
    used: i64,
}

/// A transaction that was aborted: its records are there and count for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aborted {
    pub producer_id: i64,
    pub first: u64,
    /// Offset of the marker.
    pub last: u64,
}

/// What becomes of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    New,
    /// It was stored before, at `base`.
    Duplicate {
        base: u64,
        time: i64,
    },
}

/// A producer as tools see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub producer_id: i64,
    pub epoch: i16,
    pub last_sequence: i32,
    pub used: i64,
    pub open: Option<u64>,
}

/// The producers of one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Producers {
    by_id: HashMap<i64, Producer>,
    /// Open transactions by their first offset.
    open: BTreeMap<u64, i64>,
}

impl Producers {
    /// Whether a batch may be appended.
    ///
    /// Errors: `InvalidProducerEpoch` if a newer incarnation of the producer has been here; `OutOfOrderSequenceNumber` if a batch is missing before it.
    pub fn check(&self, header: &Header) -> Result<Verdict, ResponseError> {
        if header.producer_id == NO_PRODUCER {
            return Ok(Verdict::New);
        }
        let Some(producer) = self.by_id.get(&header.producer_id) else { return Ok(Verdict::New) };
        if header.producer_epoch < producer.epoch {
            return Err(ResponseError::InvalidProducerEpoch);
        }
        if header.producer_epoch > producer.epoch {
            return if header.first_sequence == 0 { Ok(Verdict::New) } else { Err(ResponseError::OutOfOrderSequenceNumber) };
        }
        let (first, last) = (header.first_sequence, header.last_sequence());
        if let Some(sent) = producer.sent.iter().find(|sent| sent.first_sequence == first && sent.last_sequence == last) {
            return Ok(Verdict::Duplicate { base: sent.base, time: sent.time });
        }
        let expected = match producer.sent.back() {
            Some(sent) if sent.last_sequence == i32::MAX => 0,
            Some(sent) => sent.last_sequence + 1,
            None => 0,
        };
        if first == expected {
            return Ok(Verdict::New);
        }
        // All of it was stored, but longer ago than is remembered.
        let old = producer.sent.front().is_some_and(|oldest| last < oldest.first_sequence);
        Err(if old { ResponseError::DuplicateSequenceNumber } else { ResponseError::OutOfOrderSequenceNumber })
    }

    /// Whether the producer's transaction has records here.
    pub fn is_open(&self, producer_id: i64) -> bool {
        self.by_id.get(&producer_id).is_some_and(|producer| producer.open.is_some())
    }

    /// A batch of data stands at `base` now.
    pub fn appended(&mut self, header: &Header, base: u64, time: i64) {
        if header.producer_id == NO_PRODUCER {
            return;
        }
        self.make_room(header.producer_id);
        let producer = self.producer(header.producer_id, header.producer_epoch);
        if producer.sent.len() == REMEMBERED {
            producer.sent.pop_front();
        }
        producer.sent.push_back(Sent { first_sequence: header.first_sequence, last_sequence: header.last_sequence(), base, time });
        producer.used = time;
        if header.is_transactional() && producer.open.is_none() {
            producer.open = Some(base);
            self.open.insert(base, header.producer_id);
        }
    }

    /// Forgets the older half when one more would be too many.
    fn make_room(&mut self, id: i64) {
        if self.by_id.len() < MOST || self.by_id.contains_key(&id) {
            return;
        }
        let mut used: Vec<i64> = self.by_id.values().map(|producer| producer.used).collect();
        used.sort_unstable();
        // One moment may be everybody's: then all that are idle go.
        self.expire(used[used.len() / 2] + 1);
    }

    /// A marker stands at `offset` now; returns the transaction if it was aborted.
    pub fn marked(&mut self, producer_id: i64, epoch: i16, committed: bool, offset: u64, time: i64) -> Option<Aborted> {
        let producer = self.producer(producer_id, epoch);
        producer.used = time;
        let first = producer.open.take()?;
        self.open.remove(&first);
        (!committed).then_some(Aborted { producer_id, first, last: offset })
    }

    fn producer(&mut self, id: i64, epoch: i16) -> &mut Producer {
        let producer = self.by_id.entry(id).or_insert_with(|| Producer { epoch, sent: VecDeque::new(), open: None, used: 0 });
        if epoch > producer.epoch {
            producer.epoch = epoch;
            producer.sent.clear();
        }
        producer
    }

    /// First offset of the oldest open transaction.
    pub fn first_open(&self) -> Option<u64> {
        self.open.first_key_value().map(|(first, _)| *first)
    }

    /// Forgets producers that were silent since `before` and have no transaction open.
    pub fn expire(&mut self, before: i64) {
        self.by_id.retain(|_, producer| producer.open.is_some() || producer.used >= before);
    }

    pub fn list(&self) -> Vec<Seen> {
        let seen = |(id, producer): (&i64, &Producer)| Seen {
            producer_id: *id,
            epoch: producer.epoch,
            last_sequence: producer.sent.back().map_or(-1, |sent| sent.last_sequence),
            used: producer.used,
            open: producer.open,
        };
        let mut list: Vec<_> = self.by_id.iter().map(seen).collect();
        list.sort_unstable_by_key(|seen| seen.producer_id);
        list
    }

    pub fn write(&self, out: &mut Writer) {
        out.u32(self.by_id.len() as u32);
        for (id, producer) in &self.by_id {
            out.i64(*id).i16(producer.epoch).i64(producer.used).u64(producer.open.unwrap_or(u64::MAX));
            out.u32(producer.sent.len() as u32);
            for sent in &producer.sent {
                out.i32(sent.first_sequence).i32(sent.last_sequence).u64(sent.base).i64(sent.time);
            }
        }
    }

    pub fn read(from: &mut Reader<'_>) -> Option<Self> {
        let mut producers = Self::default();
        let list = from.list(|from| {
            let (id, epoch, used) = (from.i64()?, from.i16()?, from.i64()?);
            let open = Some(from.u64()?).filter(|first| *first != u64::MAX);
            let sent = from.list(|from| {
                Some(Sent { first_sequence: from.i32()?, last_sequence: from.i32()?, base: from.u64()?, time: from.i64()? })
            })?;
            Some((id, Producer { epoch, sent: sent.into(), open, used }))
        })?;
        for (id, producer) in list {
            producer.open.map(|first| producers.open.insert(first, id));
            producers.by_id.insert(id, producer);
        }
        Some(producers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::batch::sample;
    use ResponseError::{DuplicateSequenceNumber, InvalidProducerEpoch, OutOfOrderSequenceNumber};

    fn header(epoch: i16, sequence: i32, records: i32) -> Header {
        Header::check(&sample(records, (9, epoch, sequence), true)).unwrap()
    }

    #[test]
    fn a_batch_sent_again_is_known_and_a_missing_one_is_noticed() {
        let mut producers = Producers::default();
        for i in 0..7 {
            let batch = header(0, 2 * i, 2);
            assert_eq!(producers.check(&batch), Ok(Verdict::New));
            producers.appended(&batch, 100 + 2 * i as u64, 50);
        }
        assert_eq!(producers.check(&header(0, 12, 2)), Ok(Verdict::Duplicate { base: 112, time: 50 }));
        assert_eq!(producers.check(&header(0, 4, 2)), Ok(Verdict::Duplicate { base: 104, time: 50 }), "the fifth from the end");
        assert_eq!(producers.check(&header(0, 2, 2)), Err(DuplicateSequenceNumber), "too long ago");
        assert_eq!(producers.check(&header(0, 16, 2)), Err(OutOfOrderSequenceNumber), "14 is missing");
        assert_eq!(producers.check(&header(0, 13, 2)), Err(OutOfOrderSequenceNumber), "it overlaps");
    }

    #[test]
    fn a_newer_epoch_fences_the_old_one_and_begins_at_zero() {
        let mut producers = Producers::default();
        producers.appended(&header(3, 0, 1), 10, 0);
        assert_eq!(producers.check(&header(2, 1, 1)), Err(InvalidProducerEpoch));
        assert_eq!(producers.check(&header(4, 1, 1)), Err(OutOfOrderSequenceNumber));
        assert_eq!(producers.check(&header(4, 0, 1)), Ok(Verdict::New));
        producers.marked(9, 4, false, 11, 0);
        assert_eq!(producers.check(&header(3, 1, 1)), Err(InvalidProducerEpoch), "a marker fences, too");
        assert_eq!(producers.check(&header(4, 0, 1)), Ok(Verdict::New));
    }

    #[test]
    fn the_oldest_open_transaction_holds_back_what_is_stable() {
        let mut producers = Producers::default();
        producers.appended(&header(0, 0, 1), 10, 0);
        producers.appended(&header(0, 1, 1), 20, 0);
        assert_eq!(producers.first_open(), Some(10));
        assert_eq!(producers.marked(9, 0, false, 21, 0), Some(Aborted { producer_id: 9, first: 10, last: 21 }));
        assert_eq!(producers.first_open(), None);
        assert_eq!(producers.marked(9, 0, false, 22, 0), None, "nothing was open");
    }

    #[test]
    fn however_many_producers_come_a_bounded_number_is_remembered() {
        let mut producers = Producers::default();
        for id in 0..25_000 {
            let batch = Header::check(&sample(1, (id, 0, 0), id == 3)).unwrap();
            producers.appended(&batch, id as u64, id);
        }
        assert!(producers.by_id.len() <= MOST);
        assert!(producers.is_open(3), "an open transaction is not forgotten");
        assert!(producers.by_id.contains_key(&24_999));
    }

    #[test]
    fn producers_come_back_as_they_were_written() {
        let mut producers = Producers::default();
        producers.appended(&header(1, 0, 3), 10, 5);
        let mut out = Writer::default();
        producers.write(&mut out);
        assert_eq!(Producers::read(&mut Reader(&out.0)), Some(producers.clone()));
        for len in 0..out.0.len() {
            assert_eq!(Producers::read(&mut Reader(&out.0[..len])), None, "{len} bytes");
        }
        producers.expire(6);
        assert!(producers.is_open(9), "a transaction keeps its producer");
    }
}
