//! A sink: writes what a consumer group reads from Kafka, and says below which offsets it is durable.
//!
//! ```text
//! upstream(cluster, topic ids), where wanted
//! assign(parts) -> offsets the target itself holds (else the group's)      skip(below), where Kafka has less than that
//! loop { write(records)* ; flush(Tick) -> commit offsets below -> committed(below) }
//!        or, where it reads its partitions itself: placed(offsets) ; loop { turn()* ; flush(Tick) .. }
//! rebalance: flush(Revoke), commit, revoke(parts)          stop: flush(Stop), commit
//! Failure: the engine drops the instance, backs off, makes a new one and calls assign
//! ```

use crate::failure::Failure;
use async_trait::async_trait;
use millrace_schemas::{Batch, Span};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

#[async_trait]
pub trait Sink: Send {
    /// What the sink wants to see; samples and documents are decoded only if wanted.
    fn input(&self) -> Input;
    /// How often the engine flushes and commits.
    fn flush_every(&self) -> Duration;
    /// Whether it wants [`Sink::upstream`] before its partitions.
    fn wants_upstream(&self) -> bool {
        false
    }
    /// Bytes that may be read ahead of what it has written, where some of them must not wait behind many others; `None`: as many as go.
    fn reads_ahead(&self) -> Option<u64> {
        None
    }
    /// Whether it wants the samples of this topic, too, where it takes records raw: then what is none becomes a dead letter.
    fn wants_samples(&self, _topic: &str) -> bool {
        false
    }
    /// Where the partitions of the next [`Sink::assign`] are from. A target that holds offsets itself keeps them under this, so that a topic made
    /// anew, whose offsets begin at 0 again, is not taken for the old one.
    fn upstream(&mut self, _upstream: Upstream) {}
    /// Takes partitions over. Returns, for each, the next offset wanted, where the target itself holds it.
    async fn assign(&mut self, parts: &[Partition]) -> Result<Vec<Option<Offset>>, Failure>;
    /// What lies below these offsets is gone from Kafka, and was not read: the next flush moves the target's positions there, though nothing else be
    /// written. What is lost counts when [`Flushed::below`] has passed it: once, however often the sink is restarted meanwhile. For those that hold
    /// offsets at the target.
    fn skip(&mut self, _below: &[(Partition, Offset)]) {}
    /// Takes records; may buffer them. What the target will never take is returned and becomes a dead letter.
    async fn write(&mut self, records: &Records) -> Result<Vec<Refused>, Failure>;
    /// Whether it reads its partitions itself: the engine only holds them for it then, and has it [`Sink::turn`] instead of [`Sink::write`]. It may begin to
    /// with a flush; to end it takes another instance.
    fn reads_itself(&self) -> bool {
        false
    }
    /// Where each of these partitions begins, as it came out of [`Sink::assign`], of the group, or of what Kafka still has.
    fn placed(&mut self, _at: &[(Partition, Offset)]) {}
    /// Takes what has come of the partitions that it reads itself, waiting for it no longer than so. It is durable with the next flush.
    async fn turn(&mut self, _wait: Duration) -> Result<Vec<Taken>, Failure> {
        Ok(Vec::new())
    }
    /// Whether it holds as much as it may: the engine flushes before it writes more.
    fn is_full(&self) -> bool {
        false
    }
    /// Makes durable what was written, and says below which offset of each partition it is.
    async fn flush(&mut self, why: Flush) -> Result<Flushed, Failure>;
    /// Kafka has taken these offsets: what lies below them never comes again. A flush alone does not say so: its commit may fail, and is tried again
    /// with the next one.
    fn committed(&mut self, _below: &[(Partition, Offset)]) {}
    /// Gives partitions back, after a flush.
    async fn revoke(&mut self, parts: &[Partition]) -> Result<(), Failure>;
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Input {
    /// Key, value and headers as they lie in Kafka (a registry's prefix removed).
    Raw,
    /// Samples, decoded into `Records::batch`: row i is record i.
    Samples,
    /// Documents as JSON, in `Records::documents`: those in Avro are read by the schema they were written with.
    Documents,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flush {
    Tick,
    Revoke,
    Stop,
}

/// The cluster and the group that a sink reads by, and which of the topics of one name it reads.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Upstream {
    /// The cluster's own id; empty where it has none.
    pub cluster: String,
    pub group: String,
    /// The id that Kafka gave each topic when it was made.
    pub topic_ids: HashMap<Arc<str>, String>,
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
    /// Of each record the row of its sample in `batch`, where [`Sink::wants_samples`] of some topics; `None` of a tombstone and of the other topics.
    pub rows: Vec<Option<u32>>,
    /// The documents as JSON, where [`Input::Documents`] was asked for; `None` of a tombstone.
    pub documents: Vec<Option<Span>>,
}

impl Records {
    pub fn of(&self, span: Span) -> &[u8] {
        span.of(&self.heap)
    }

    pub fn partition(&self, record: &Record) -> &Partition {
        &self.parts[record.part as usize]
    }
}

/// What a sink took of a partition that it reads itself.
#[derive(Clone, PartialEq, Debug)]
pub struct Taken {
    pub partition: Partition,
    pub records: u64,
    /// As they lie in Kafka.
    pub bytes: u64,
    /// The offset behind them.
    pub next: Offset,
    /// The offset behind what is decided in Kafka.
    pub end: Offset,
    /// The timestamp of the newest of them, milliseconds since 1970; 0: there is none.
    pub newest_ms: i64,
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
    /// Records that were taken and, by rule, not written, since the last flush: the copies of a loop, a topic that stays at home.
    pub filtered: u64,
    /// Fields that a rule was to change and that were not in their records, since the last flush.
    pub missed: u64,
    /// Samples that came when the window of time they belong to was closed, since the last flush; they are among `filtered`, too.
    pub late: u64,
    /// What the target answered, for other topics; in Kafka before the offsets are committed, so at least once.
    pub replies: Vec<Reply>,
}

/// A record that a sink answers with: JSON, without a schema.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Reply {
    pub topic: String,
    pub key: Option<Vec<u8>>,
    pub value: Vec<u8>,
}

/// Whether a sink's topic, a name or a pattern with `*`, means this one.
pub fn is_meant(topic: &str, name: &str) -> bool {
    let Some((first, rest)) = topic.split_once('*') else { return topic == name };
    let Some(mut left) = name.strip_prefix(first) else { return false };
    let mut pieces = rest.split('*').peekable();
    while let Some(piece) = pieces.next() {
        if pieces.peek().is_none() {
            return left.ends_with(piece);
        }
        let Some(at) = left.find(piece) else { return false };
        left = &left[at + piece.len()..];
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_means_what_its_regular_expression_matches() {
        for (topic, means, not) in [
            ("orders", &["orders"][..], &["orders2", "order"][..]),
            ("machine-*", &["machine-", "machine-7"], &["machine", "a-machine-7"]),
            ("*", &["", "anything"], &[]),
            ("a*b*c", &["abc", "a1b2c", "abbc"], &["ab", "acb", "abcd"]),
        ] {
            assert!(means.iter().all(|name| is_meant(topic, name)), "{topic}");
            assert!(!not.iter().any(|name| is_meant(topic, name)), "{topic}");
        }
    }
}
