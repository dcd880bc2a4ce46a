//! Consumer groups' offsets, translated to the target: who reads there goes on where they were at home.
//!
//! ```text
//! each commit of the sink      a pair (offset at home, offset at the target) of the last record of each partition, kept with its position
//! every so often               offsets of the groups at home -> the nearest pair at or below -> the groups at the target,
//!                              and {origin}.checkpoints.internal, as MirrorMaker 2 writes it
//! ```
//!
//! Invariants: a translation may repeat records and skips none; it never passes what is copied, nor moves a group backwards; a group that has
//! members at the target is left alone; where there is no pair, nothing is said.

use crate::names::Names;
use crate::pairs::{Pair, translate};
use crate::target::failure;
use millrace_contract::{Failure, Offset, Partition, is_meant};
use millrace_kafka::{Admin, Deliveries, Outgoing, Producer, Report, Settings, TopicSpec};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(15);
/// What is to be copied, and how often.
#[derive(Clone, Debug, PartialEq)]
pub struct Copying {
    /// Names, or patterns with `*`.
    pub groups: Vec<String>,
    pub every: Duration,
}

/// Pairs of committed transactions, for the thread below.
pub type Shared = Arc<Mutex<HashMap<Partition, Vec<Pair>>>>;

/// The thread that translates; it ends with this.
pub struct Task {
    _stop: Sender<()>,
}

/// What it works with.
pub struct Means {
    /// `enterprise/site/sink`, for messages.
    pub sink: String,
    pub names: Names,
    pub home: Settings,
    pub target: Settings,
    pub copying: Copying,
    pub pairs: Shared,
}

impl Task {
    /// `None`: no thread can be had; the next instance tries again.
    pub fn start(means: Means) -> Option<Self> {
        let (stop, stopped) = channel();
        std::thread::Builder::new().name("groups".into()).spawn(move || means.run(&stopped)).ok()?;
        Some(Self { _stop: stop })
    }
}

impl Means {
    fn run(&self, stopped: &Receiver<()>) {
        let mut failed = HashSet::new();
        while stopped.recv_timeout(self.copying.every) == Err(RecvTimeoutError::Timeout) {
            let outcome = self.turn(&mut failed);
            if let Err(why) = outcome
                && failed.insert(String::new())
            {
                tracing::warn!(sink = self.sink, "offsets of consumer groups cannot be translated at the moment: {why}");
            }
        }
    }

    /// One round over all groups. `failed`: those that were told of, and the empty name for all.
    fn turn(&self, failed: &mut HashSet<String>) -> Result<(), Failure> {
        let home = Admin::new(&self.home, PATIENCE).map_err(|e| failure("cannot ask the factory's Kafka", &e))?;
        let target = Admin::new(&self.target, PATIENCE).map_err(|e| failure("cannot reach the target", &e))?;
        let names = home.groups().map_err(|e| failure("cannot list the groups at home", &e))?;
        let mut checkpoints = Vec::new();
        for group in names.into_iter().filter(|name| self.copying.groups.iter().any(|pattern| is_meant(pattern, name))) {
            let committed = home.group_offsets(&group).map_err(|e| failure("cannot read the offsets of a group at home", &e))?;
            let wanted = self.wanted(&committed);
            if wanted.is_empty() {
                continue;
            }
            // A group that is not there has committed nothing.
            let there = target.group_offsets(&group).unwrap_or_default();
            let moved = forward(&wanted, &there);
            let set: Vec<(&str, i32, Offset)> = moved.iter().map(|one| (one.topic.as_str(), one.partition, one.there)).collect();
            if !set.is_empty() {
                match target.set_group_offsets(&group, &set) {
                    Ok(()) => _ = failed.remove(&group),
                    // It has members there, and goes its own way.
                    Err(error) if error.is_group_in_use() => {}
                    Err(error) => {
                        if failed.insert(group.clone()) {
                            tracing::warn!(sink = self.sink, group, "offsets of a consumer group cannot be set at the target: {error}");
                        }
                    }
                }
            }
            checkpoints.extend(wanted.into_iter().map(|one| (group.clone(), one)));
        }
        self.write(&target, &checkpoints)?;
        failed.remove("");
        Ok(())
    }

    fn wanted(&self, committed: &[(String, i32, Offset)]) -> Vec<Translated> {
        let pairs = self.pairs.lock();
        committed
            .iter()
            .filter_map(|(topic, partition, home)| {
                let part = Partition { topic: topic.as_str().into(), partition: *partition };
                let there = translate(pairs.get(&part)?, *home)?;
                Some(Translated { topic: self.names.at_target(topic), partition: *partition, home: *home, there })
            })
            .collect()
    }

    /// Writes MirrorMaker 2's checkpoints, which its tools read.
    fn write(&self, admin: &Admin, checkpoints: &[(String, Translated)]) -> Result<(), Failure> {
        if checkpoints.is_empty() {
            return Ok(());
        }
        let name = format!("{}.checkpoints.internal", self.names.origin);
        let configs = BTreeMap::from([("cleanup.policy".to_owned(), "compact".to_owned())]);
        let spec = TopicSpec { name: name.clone(), partitions: Some(1), replication: None, configs };
        admin.ensure(&[spec]).map_err(|e| failure("cannot make the topic of checkpoints", &e))?;
        let cannot = |e: &millrace_kafka::KafkaError| failure("cannot write checkpoints", e);
        let producer = Producer::new(&self.target, Arc::new(Unheard)).map_err(|e| cannot(&e))?;
        let topic = producer.topic(&name).map_err(|e| cannot(&e))?;
        for (group, one) in checkpoints {
            let (key, value) = checkpoint(group, one);
            let message = Outgoing { partition: Some(0), key: Some(&key), value: Some(&value), timestamp_ms: 0, opaque: 0 };
            // One that is not taken now is written in the next round.
            let _ = producer.send(&topic, &message, std::iter::empty());
        }
        producer.flush(PATIENCE).map_err(|e| cannot(&e))
    }
}

/// What becomes of checkpoints nobody needs to hear: the next round writes them again.
struct Unheard;

impl Deliveries for Unheard {
    fn reports(&self, _reports: &[Report]) {}
}

/// A group's place in a partition of the target.
#[derive(Clone, Debug, PartialEq)]
pub struct Translated {
    /// The topic's name at the target.
    pub topic: String,
    pub partition: i32,
    pub home: Offset,
    pub there: Offset,
}

/// Those that are ahead of what the group has at the target.
fn forward<'w>(wanted: &'w [Translated], there: &[(String, i32, Offset)]) -> Vec<&'w Translated> {
    let has = |one: &Translated| {
        there
            .iter()
            .find(|(topic, partition, _)| *topic == one.topic && *partition == one.partition)
            .is_some_and(|(.., at)| *at >= one.there)
    };
    wanted.iter().filter(|one| !has(one)).collect()
}

/// Key and value as `org.apache.kafka.connect.mirror.Checkpoint` writes them: version 0, Kafka's own types.
fn checkpoint(group: &str, one: &Translated) -> (Vec<u8>, Vec<u8>) {
    fn text(text: &str, out: &mut Vec<u8>) {
        let len = text.len().min(i16::MAX as usize);
        out.extend_from_slice(&(len as i16).to_be_bytes());
        out.extend_from_slice(&text.as_bytes()[..len]);
    }
    let (mut key, mut value) = (Vec::new(), Vec::new());
    text(group, &mut key);
    text(&one.topic, &mut key);
    key.extend_from_slice(&one.partition.to_be_bytes());
    value.extend_from_slice(&0_i16.to_be_bytes());
    value.extend_from_slice(&one.home.to_be_bytes());
    value.extend_from_slice(&one.there.to_be_bytes());
    text("", &mut value);
    (key, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_never_moves_backwards() {
        let one = |there| Translated { topic: "t".into(), partition: 0, home: 0, there };
        let has = [("t".to_owned(), 0, 10), ("u".to_owned(), 0, 99)];
        assert!(forward(&[one(9), one(10)], &has).is_empty());
        assert_eq!(forward(&[one(11)], &has), [&one(11)]);
        assert_eq!(forward(&[one(0)], &[]), [&one(0)]);
    }

    #[test]
    fn a_checkpoint_is_written_as_mirrormaker_reads_it() {
        let (key, value) = checkpoint("g", &Translated { topic: "a.t".into(), partition: 3, home: 258, there: 7 });
        assert_eq!(key, b"\0\x01g\0\x03a.t\0\0\0\x03");
        assert_eq!(value, b"\0\0\0\0\0\0\0\0\x01\x02\0\0\0\0\0\0\0\x07\0\0");
    }
}
