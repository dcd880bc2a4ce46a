//! Partitions that the sink reads itself: the group's, held for it and paused here.

use crate::sinks::session::{Session, failure};
use millrace_contract::{Failure, Offset, Partition, Taken};
use millrace_kafka::TopicPartition;
use millrace_schemas::Micros;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

impl<'r> Session<'r> {
    /// Tells the sink where its partitions begin, and leaves them to it where it reads them itself.
    pub(super) fn hand_over(&mut self, placed: &[(TopicPartition, Option<i64>)]) -> Result<(), Failure> {
        let at =
            |(name, at): &(TopicPartition, Option<i64>)| Some((Partition { topic: name.topic.clone(), partition: name.partition }, (*at)?));
        let places: Vec<(Partition, Offset)> = placed.iter().filter_map(at).collect();
        self.sink.placed(&places);
        match self.is_held {
            true => self.pause(placed.iter().map(|(name, _)| name.clone()).collect()),
            false => self.hand_over_all(),
        }
    }

    /// The sink may have begun to read its partitions itself.
    pub(super) fn hand_over_all(&mut self) -> Result<(), Failure> {
        if self.is_held == self.sink.reads_itself() {
            return Ok(());
        }
        self.pause(self.parts.keys().cloned().collect())
    }

    fn pause(&mut self, parts: Vec<TopicPartition>) -> Result<(), Failure> {
        self.is_held = self.sink.reads_itself();
        if !self.is_held || parts.is_empty() {
            return Ok(());
        }
        self.consumer.pause(&parts).map_err(|e| failure("cannot leave partitions to the sink", &e))
    }

    /// Has the sink read and write, and notes what it took.
    pub(super) fn turn(&mut self, wait: Duration) -> Result<(), Failure> {
        let taken = self.runner.tokio.block_on(self.sink.turn(wait))?;
        if taken.is_empty() {
            return Ok(());
        }
        self.is_well();
        let shared = &self.runner.shared;
        let mut lag = shared.lag.lock();
        let (mut records, mut bytes) = (0, 0);
        for Taken { partition, records: count, bytes: size, next, end, newest_ms } in taken {
            let name = TopicPartition::new(partition.topic, partition.partition);
            if let Some(part) = self.parts.get_mut(&name).filter(|part| part.given < next) {
                (part.seen, part.given) = (next, next);
            }
            if count > 0 {
                lag.read(&name, next, newest_ms);
            }
            if next >= end {
                lag.at_end(&name, next);
            } else {
                lag.ends(&name, end);
            }
            (records, bytes) = (records + count, bytes + size);
        }
        if records > 0 {
            lag.counted(records, bytes, Micros::now().0 / 1_000);
            shared.consumed.fetch_add(records, Relaxed);
            shared.written.fetch_add(records, Relaxed);
        }
        drop(lag);
        if self.sink.is_full() {
            self.flush_at = Instant::now();
        }
        Ok(())
    }
}
