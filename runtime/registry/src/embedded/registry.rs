//! What the registry holds, and how a record of its topic is written, read and applied.

use super::level::Level;
use super::record::Record;
use super::state::State;
use super::topic::{TOPIC, Topic};
use crate::parsed::Parsed;
use crate::schema::SchemaId;
use millrace_config::Reason;
use millrace_kafka::Settings;
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::watch;

/// Parsed schemas kept in memory.
const PARSED: usize = 1_000;
/// Requests that parse or compare at the same time.
const AT_WORK: usize = 2;

/// Contents of known ids, to find the id of a content.
#[derive(Default)]
pub(super) struct Identities {
    pub of: HashMap<SchemaId, Arc<[u8]>>,
    pub by: HashMap<Arc<[u8]>, Vec<SchemaId>>,
}

/// The embedded registry; shared by its router and whoever starts it.
pub struct Registry {
    pub(super) state: RwLock<State>,
    pub(super) journal: Journal,
    /// Held by the one that writes, from judging to applied.
    pub(super) turn: tokio::sync::Mutex<()>,
    pub(super) work: tokio::sync::Semaphore,
    pub(super) parsed: Mutex<HashMap<SchemaId, Arc<Parsed>>>,
    pub(super) identities: Mutex<Identities>,
    pub(super) stopping: watch::Sender<bool>,
}

pub(super) enum Journal {
    Kafka(Topic),
    /// For tests: what is written is applied at once and gone with the process.
    Memory,
}

impl Registry {
    /// Starts reading the topic, and returns at once; until it is read the registry answers "later". Tries for ever.
    pub fn start(settings: Settings, default: Level) -> std::io::Result<Arc<Self>> {
        let registry = Arc::new_cyclic(|registry: &std::sync::Weak<Self>| {
            let registry = registry.clone();
            let apply = move |key: &[u8], value: Option<&[u8]>| {
                if let Some(registry) = registry.upgrade() {
                    registry.apply_bytes(key, value);
                }
            };
            let stopping = watch::Sender::new(false);
            Self::over(Journal::Kafka(Topic::new(settings, stopping.subscribe(), Box::new(apply))), default, stopping)
        });
        if let Journal::Kafka(topic) = &registry.journal {
            topic.start()?;
        }
        Ok(registry)
    }

    /// A registry without a topic, for tests.
    pub fn in_memory(default: Level) -> Arc<Self> {
        Arc::new(Self::over(Journal::Memory, default, watch::Sender::new(false)))
    }

    fn over(journal: Journal, default: Level, stopping: watch::Sender<bool>) -> Self {
        Self {
            state: RwLock::new(State::new(default)),
            journal,
            turn: tokio::sync::Mutex::new(()),
            work: tokio::sync::Semaphore::new(AT_WORK),
            parsed: Mutex::default(),
            identities: Mutex::default(),
            stopping,
        }
    }

    /// Ends what serves it, and its clients of Kafka: stop it before a broker that ends with it. What it knows it still answers.
    pub async fn stop(&self) {
        self.stopping.send_replace(true);
        if let Journal::Kafka(topic) = &self.journal {
            topic.ended().await;
        }
    }

    /// Whether the topic was read to its end; else why not.
    pub fn ready(&self) -> Result<(), Reason> {
        match &self.journal {
            Journal::Kafka(topic) => topic.ready(),
            Journal::Memory => Ok(()),
        }
    }

    fn apply_bytes(&self, key: &[u8], value: Option<&[u8]>) {
        match Record::decode(key, value) {
            Ok(record) => self.state.write().apply(record),
            Err(why) => tracing::warn!("a record of {TOPIC} can't be read and counts as not there: {why}"),
        }
    }

    /// Writes one record; it is applied when this returns.
    pub(super) async fn write(&self, record: Record) -> Result<(), Reason> {
        match &self.journal {
            Journal::Kafka(topic) => {
                let (key, value) = record.encode();
                topic.write(key, value).await
            }
            Journal::Memory => {
                self.state.write().apply(record);
                Ok(())
            }
        }
    }

    /// A registered schema, parsed once.
    pub(super) fn parsed(&self, id: SchemaId) -> Result<Arc<Parsed>, Reason> {
        if let Some(known) = self.parsed.lock().get(&id) {
            return Ok(known.clone());
        }
        let (schema, references) = {
            let state = self.state.read();
            let schema = state.schema(id).ok_or("no such schema")?;
            let references = state.references(&schema.references)?;
            (schema, references)
        };
        let parsed = Arc::new(Parsed::parse(&schema, &references)?);
        let mut cache = self.parsed.lock();
        if cache.len() >= PARSED {
            // Which go does not matter: each costs one parse to come back.
            cache.clear();
        }
        cache.insert(id, parsed.clone());
        Ok(parsed)
    }
}

/// Reads a record and, where it is one, adds it to a registry's state: what a topic holds must never end the process.
pub(crate) fn bears(key: &[u8], value: Option<&[u8]>) {
    let registry = Registry::over(Journal::Memory, Level::Backward, watch::Sender::new(false));
    registry.apply_bytes(key, value);
    registry.apply_bytes(key, None);
}
