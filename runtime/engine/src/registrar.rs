//! Under which id does a registry know the schema of a topic?
//!
//! ```text
//! drain ── id(topic, mark) ──> known: the id                    intake: never asks
//!                          ──> not known: asked in the background; wait, and be woken
//!                          ──> refused: the registry's words; asked again slowly
//! ```
//!
//! A registry that is away is asked again for ever, with back-off; what was answered is not asked again. Schemas that a schema names are
//! registered before it, each under its own name as the subject.

use crate::schema_store::SchemaStore;
use crate::topics::{Subject, Topics};
use millrace_registry::{Client, Reference as RegistryReference, RegistryError, Schema as Registered, SchemaId};
use millrace_schemas::contract::Schema;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

const BACKOFF_FIRST: Duration = Duration::from_millis(500);
const BACKOFF_LAST: Duration = Duration::from_secs(30);
/// A refusal may be mended by a human: asked again this often.
const REFUSED_FOR: Duration = Duration::from_secs(30);

/// What is known of a topic's schema in the registry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    Id(SchemaId),
    /// It is being asked for.
    Wait,
    /// It needs a human.
    Refused(String),
}

#[derive(Debug)]
enum State {
    /// Since the first try, and why it did not come.
    Asking(Option<String>),
    Known(SchemaId),
    Refused(String, Instant),
}

type Key = (Arc<str>, u64);

pub struct Registrar {
    client: Arc<Client>,
    schema_store: Arc<SchemaStore>,
    topics: Topics,
    tokio: tokio::runtime::Handle,
    states: Mutex<HashMap<Key, State>>,
    /// Called when an answer has come.
    wake: Mutex<Box<dyn Fn() + Send + Sync>>,
}

impl Registrar {
    pub fn new(client: Arc<Client>, schema_store: Arc<SchemaStore>, topics: Topics, tokio: tokio::runtime::Handle) -> Arc<Self> {
        Arc::new(Self { client, schema_store, topics, tokio, states: Mutex::default(), wake: Mutex::new(Box::new(|| {})) })
    }

    pub fn on_answer(&self, wake: impl Fn() + Send + Sync + 'static) {
        *self.wake.lock() = Box::new(wake);
    }

    /// Does not wait.
    pub fn id(self: &Arc<Self>, topic: &str, mark: u64) -> Answer {
        let mut states = self.states.lock();
        let key: Key = (topic.into(), mark);
        match states.get(&key) {
            Some(State::Known(id)) => return Answer::Id(*id),
            Some(State::Asking(_)) => return Answer::Wait,
            Some(State::Refused(why, since)) if since.elapsed() < REFUSED_FOR => return Answer::Refused(why.clone()),
            _ => {}
        }
        let refused_before = matches!(states.get(&key), Some(State::Refused(..)));
        let Some(schema) = self.schema_store.get(mark) else {
            return Answer::Refused(format!(
                "records of topic {topic} were written with the schema {mark:016x}, whose file in the data directory's folder schemas is gone or changed; put it back"
            ));
        };
        states.insert(key.clone(), State::Asking(None));
        drop(states);
        let me = self.clone();
        let subject = self.topics.get(topic).subject;
        self.tokio.spawn(async move { me.ask(key, subject, &schema, refused_before).await });
        Answer::Wait
    }

    /// Why records wait for the registry; `None`: they don't.
    pub fn away(&self) -> Option<String> {
        self.states.lock().values().find_map(|state| if let State::Asking(why) = state { why.clone() } else { None })
    }

    async fn ask(&self, key: Key, subject: Subject, schema: &Arc<Schema>, refused_before: bool) {
        let subject = subject.of(&key.0, &schema.name);
        let mut backoff = BACKOFF_FIRST;
        let state = loop {
            match register(&self.client, &subject, schema).await {
                Ok(id) => {
                    tracing::info!(topic = &*key.0, subject, id = id.0, "the registry knows the schema");
                    break State::Known(id);
                }
                Err(RegistryError::Away(why)) => {
                    let is_news = {
                        let mut states = self.states.lock();
                        let before = states.insert(key.clone(), State::Asking(Some(why.clone())));
                        !matches!(before, Some(State::Asking(Some(_))))
                    };
                    if is_news {
                        tracing::warn!(topic = &*key.0, "the schema registry is away; records wait in the log: {why}");
                    }
                    tokio::time::sleep(backoff.mul_f64(0.5 + fastrand::f64())).await;
                    backoff = (backoff * 2).min(BACKOFF_LAST);
                }
                Err(RegistryError::Refused(why) | RegistryError::NotFound(why)) => {
                    if !refused_before {
                        tracing::error!(topic = &*key.0, subject, "the schema registry refuses the schema: {why}");
                    }
                    let what = format!("the schema registry refuses the schema of topic {}: {why}", key.0);
                    break State::Refused(what, Instant::now());
                }
            }
        };
        self.states.lock().insert(key, state);
        (self.wake.lock())();
    }
}

/// Registers what the schema names, innermost first, then the schema.
pub async fn register(client: &Client, subject: &str, schema: &Arc<Schema>) -> Result<SchemaId, RegistryError> {
    let done = references(client, schema, true).await?;
    client.register(subject, &registered(schema, &done)).await
}

/// The schema as a registry takes it, with the versions that it holds of what the schema names. Registers nothing.
///
/// Errors: `NotFound` where it does not hold one of them.
pub async fn as_registered(client: &Client, schema: &Arc<Schema>) -> Result<Registered, RegistryError> {
    Ok(registered(schema, &references(client, schema, false).await?))
}

/// Everything a schema names, innermost first, each with its version; `registers`: what is not there yet is registered.
async fn references(
    client: &Client,
    schema: &Arc<Schema>,
    registers: bool,
) -> Result<BTreeMap<Arc<str>, RegistryReference>, RegistryError> {
    let mut done: BTreeMap<Arc<str>, RegistryReference> = BTreeMap::new();
    let mut open: Vec<(Arc<str>, Arc<Schema>)> = schema.references.iter().map(|r| (r.name.clone(), r.schema.clone())).collect();
    while let Some((name, inner)) = open.pop() {
        if done.contains_key(&name) {
            continue;
        }
        let needs: Vec<_> = inner.references.iter().filter(|r| !done.contains_key(&r.name)).collect();
        if !needs.is_empty() {
            open.push((name, inner.clone()));
            open.extend(needs.iter().map(|r| (r.name.clone(), r.schema.clone())));
            continue;
        }
        let form = registered(&inner, &done);
        if registers {
            client.register(&name, &form).await?;
        }
        let version = client.lookup(&name, &form).await?.version;
        let reference = RegistryReference { name: name.to_string(), subject: name.to_string(), version };
        done.insert(name, reference);
    }
    Ok(done)
}

fn registered(schema: &Schema, done: &BTreeMap<Arc<str>, RegistryReference>) -> Registered {
    let references = schema.references.iter().filter_map(|r| done.get(&r.name).cloned()).collect();
    Registered { kind: schema.kind, text: schema.text.to_string(), references }
}
