//! What a sink's task is made with, and what it tells of itself.

use crate::hold::Order;
use crate::sinks::lag::{Lag, Standing};
use crate::status::Board;
use crate::topics::Topics;
use millrace_contract::Sink;
use millrace_kafka::{Settings, TopicPartition};
use millrace_registry::Client;
use parking_lot::{Condvar, Mutex};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

/// Names the dead-letter topic of a topic.
pub type DeadLetterOf = Box<dyn Fn(&str) -> Arc<str> + Send + Sync>;

/// What one sink runs with.
pub struct SinkOptions {
    pub name: String,
    pub settings: Settings,
    pub group: String,
    /// The name in the group: the same again after a restart, so that what a killed process read is read on at once.
    pub member: String,
    /// After how long of silence the group gives its partitions to other runtimes; `None`: as the client has it.
    pub session: Option<Duration>,
    /// Names, or patterns with `*`.
    pub topics: Vec<String>,
    pub from_latest: bool,
    /// `enterprise/site/name`, for the dead letters' headers.
    pub connector: String,
    /// The dead-letter topic of a topic.
    pub dead_letter: DeadLetterOf,
    /// What is known of the topics: their formats.
    pub known: Topics,
    /// Where there is one, values of topics with a schema begin with its prefix.
    pub registry: Option<Arc<Client>>,
    /// Makes a new instance: at start, and after a failure.
    pub make: Box<dyn Fn() -> Box<dyn Sink> + Send + Sync>,
    pub board: Arc<Board>,
    /// What it is to do at first.
    pub order: Order,
}

/// Counts of a sink: `consumed = written + dead + filtered + in flight`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct SinkCounts {
    pub consumed: u64,
    /// Of their keys, values and headers.
    pub bytes: u64,
    pub written: u64,
    pub dead: u64,
    /// Taken and, by rule, not written.
    pub filtered: u64,
    /// Gone from Kafka before the sink could read them; counted when the position has passed them.
    pub lost: u64,
    /// Fields that a rule was to change and that were not in their records.
    pub missed: u64,
    /// Samples that came when their window of time was closed; they are among `filtered`, too.
    pub late: u64,
    /// Records in Kafka behind what was consumed, as of the last flush.
    pub lag: u64,
    /// Their bytes, by the mean of those that were read.
    pub lag_bytes: u64,
    /// When the oldest of them was written, or since when something is read and not durable, milliseconds since 1970; `None`: neither, or nobody knows.
    pub oldest_ms: Option<i64>,
    /// Seconds until none waits, at the rate of the last minutes; `None`: never at this one.
    pub catch_up_seconds: Option<u64>,
}

impl SinkCounts {
    /// How long the oldest record waits that the sink has not read and made durable, in seconds.
    pub fn lag_seconds(&self, now_ms: i64) -> f64 {
        self.oldest_ms.map_or(0.0, |oldest| (now_ms - oldest).max(0) as f64 / 1e3)
    }
}

/// Records that were deleted before they were read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Gap {
    pub(super) from: i64,
    /// The first that is there.
    pub(super) to: i64,
}

#[derive(Default)]
pub(super) struct Shared {
    pub(super) order: Mutex<Order>,
    /// It is paused or stopped, and has left its group.
    pub(super) rests: AtomicBool,
    /// The target said where it was, the last time that it was asked.
    pub(super) is_placed_by_target: AtomicBool,
    /// How long the last flush may take.
    pub(super) bound: Mutex<Duration>,
    pub(super) stopped: Condvar,
    pub(super) consumed: AtomicU64,
    pub(super) written: AtomicU64,
    pub(super) dead: AtomicU64,
    pub(super) filtered: AtomicU64,
    pub(super) lost: AtomicU64,
    /// Gaps that were named in this run, so that each is named once while the target is away.
    pub(super) named: Mutex<HashMap<TopicPartition, Gap>>,
    pub(super) missed: AtomicU64,
    pub(super) late: AtomicU64,
    pub(super) lag: Mutex<Lag>,
    pub(super) standing: Mutex<Standing>,
}
