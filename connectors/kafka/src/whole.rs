//! The two ends of forwarding: a reader of batches at home, a sender of them at the target.

use crate::pairs::Pair;
use millrace_kafka::wire::{Access, Delivered, Fetcher, Reading, Sender};
use millrace_kafka::{KafkaError, Settings, TopicPartition};
use std::collections::HashMap;
use std::time::Duration;

/// How much is read at once, and how long the factory's Kafka waits for something to answer with.
const READING: Reading = Reading { bytes: 8 << 20, wait: Duration::from_millis(500) };

/// Reads batches here and sends them there.
pub struct Whole {
    pub fetcher: Fetcher,
    pub sender: Sender,
    /// Partitions of the target, by their index.
    pub index: HashMap<TopicPartition, usize>,
}

impl Whole {
    /// Reaches both clusters; with a transactional id, whoever had it before is refused from now on.
    pub fn open(
        home: &Settings,
        target: &Settings,
        transactional: Option<(&str, Duration)>,
        patience: Duration,
    ) -> Result<Self, KafkaError> {
        Ok(Self {
            fetcher: Fetcher::open(Access::new(home)?, READING)?,
            sender: Sender::open(Access::new(target)?, transactional, patience)?,
            index: HashMap::new(),
        })
    }

    /// Where the last records of partitions lie, by the partitions' indices.
    pub fn take_delivered(&mut self) -> HashMap<usize, Pair> {
        let pair = |one: Delivered| Some((*self.index.get(&one.part)?, (one.last, one.offset)));
        self.sender.take_delivered().into_iter().filter_map(pair).collect()
    }
}
