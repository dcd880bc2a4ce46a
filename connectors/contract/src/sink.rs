//! A sink: writes what a consumer group reads from Kafka, and says below which offsets it is durable.
//!
//! ```text
//! assign(parts) -> offsets the target itself holds (else the group's)
//! loop { write(records)* ; flush(Tick) -> commit offsets below }
//! rebalance: flush(Revoke), commit, revoke(parts)          stop: flush(Stop), commit
//! Failure: the engine drops the instance, backs off, makes a new one and calls assign
//! ```

use crate::failure::Failure;
use async_trait::async_trait;
use millrace_schemas::{Batch, Span};
use std::sync::Arc;
use std::time::Duration;

#[async_trait]
pub trait Sink: Send {
    /// What the sink wants to see; samples and documents are decoded only if wanted.
    fn input(&self) -> Input;
    /// How often the engine flushes and commits.
    fn flush_every(&self) -> Duration;
    /// Takes partitions over. Returns, for each, the next offset wanted, where the target itself holds it.
    async fn assign(&mut self, parts: &[Partition]) -> Result<Vec<Option<Offset>>, Failure>;
    /// Takes records; may buffer them. What the target will never take is returned and becomes a dead letter.
    async fn write(&mut self, records: &Records) -> Result<Vec<Refused>, Failure>;
    /// Makes durable what was written, and says below which offset of each partition it is.
    async fn flush(&mut self, why: Flush) -> Result<Flushed, Failure>;
    /// Gives partitions back, after a flush.
    async fn revoke(&mut self, parts: &[Partition]) -> Result<(), Failure>;
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Input {
    /// Key, value and headers as they lie in Kafka (a registry's prefix removed).
    Raw,
    /// Samples, decoded into `Records::batch`: row i is record i.
    Samples,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flush {
    Tick,
    Revoke,
    Stop,
}

/// The offset of a record in its partition.
pub type Offset = i64;

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Partition {
    pub topic: Arc<str>,
    pub partition: i32,
}

/// One record of Kafka; spans point into [`Records::heap`].
#[derive(Clone, Copy, Debug)]
pub struct Record {
    /// Index into [`Records::parts`].
    pub part: u32,
    pub offset: Offset,
    /// Kafka's timestamp, milliseconds since 1970.
    pub timestamp_ms: i64,
    pub key: Option<Span>,
    /// `None`: a tombstone.
    pub value: Option<Span>,
    /// In the layout of `millrace_schemas::headers`.
    pub headers: Span,
    /// Bytes of a schema registry's prefix that lie in front of the value in the heap.
    pub prefix: u8,
}

#[derive(Debug, Default)]
pub struct Records {
    pub parts: Vec<Partition>,
    pub records: Vec<Record>,
    pub heap: Vec<u8>,
    /// The samples, where [`Input::Samples`] was asked for; row i belongs to record i.
    pub batch: Option<Batch>,
}

impl Records {
    pub fn of(&self, span: Span) -> &[u8] {
        span.of(&self.heap)
    }

    pub fn partition(&self, record: &Record) -> &Partition {
        &self.parts[record.part as usize]
    }
}

/// A record the target will never take.
#[derive(Clone, PartialEq, Debug)]
pub struct Refused {
    pub partition: Partition,
    pub offset: Offset,
    pub reason: String,
}

/// The outcome of a flush: each partition's next offset, below which everything is durable or refused.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Flushed {
    pub below: Vec<(Partition, Offset)>,
    pub refused: Vec<Refused>,
}
