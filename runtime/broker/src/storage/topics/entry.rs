//! A topic: what the journal says of it, and its partitions.

use crate::storage::partition::Partition;
use crate::storage::topic_config::TopicConfig;
use crate::storage::wire::{Reader, Writer};
use parking_lot::{Mutex, RwLock};
use std::collections::BTreeMap;
use std::sync::Arc;
use uuid::Uuid;

pub(super) const ENTRY_VERSION: u8 = 1;

pub struct Topic {
    pub name: Arc<str>,
    pub id: Uuid,
    pub(super) config: RwLock<Arc<TopicConfig>>,
    pub(super) partitions: RwLock<Vec<Arc<Slot>>>,
}

/// A partition that may not be open yet.
#[derive(Default)]
pub(super) struct Slot(pub(super) Mutex<State>);

#[derive(Default)]
pub(super) enum State {
    #[default]
    Closed,
    Open(Arc<Partition>),
    /// The topic is gone.
    Deleted,
}

impl Topic {
    pub fn config(&self) -> Arc<TopicConfig> {
        self.config.read().clone()
    }

    pub fn partition_count(&self) -> usize {
        self.partitions.read().len()
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        encode(&self.id, self.partition_count(), &self.config().given)
    }
}

pub(super) fn encode(id: &Uuid, partitions: usize, given: &BTreeMap<String, String>) -> Vec<u8> {
    let mut out = Writer::default();
    out.u8(ENTRY_VERSION).bytes(id.as_bytes()).u32(partitions as u32).u32(given.len() as u32);
    for (name, value) in given {
        out.str(name).str(value);
    }
    out.0
}

pub(super) fn decode(name: &str, entry: &[u8]) -> Option<Topic> {
    let mut from = Reader(entry);
    if from.u8()? != ENTRY_VERSION {
        return None;
    }
    let id = Uuid::from_slice(from.bytes()?).ok()?;
    let partitions = from.u32()? as usize;
    let given = from.list(|from| Some((from.str()?.to_owned(), from.str()?.to_owned())))?;
    let config = TopicConfig::new(given.into_iter().collect()).ok()?;
    Some(Topic::new(name, id, config, partitions))
}

impl Topic {
    pub(super) fn new(name: &str, id: Uuid, config: TopicConfig, partitions: usize) -> Self {
        let partitions = (0..partitions).map(|_| Arc::default()).collect();
        Self { name: name.into(), id, config: RwLock::new(Arc::new(config)), partitions: RwLock::new(partitions) }
    }
}
