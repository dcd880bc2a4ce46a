//! A record as it is at the target: under the rules of its topic, with the schema ids of the target's registry.
//!
//! ```text
//! no rules, no registry   as it lies in Kafka
//! registry                the id of its schema becomes the id that the same schema has there; its subject's versions are carried in their order
//! rules, Avro, Protobuf   rewritten by the schema it was written with; what leaves has a schema of its own, registered there
//! rules, JSON             rewritten; it leaves without a registry's prefix
//! ```
//!
//! Invariants: an id is never guessed; what can't be read under a rule stays at home; where a registry does not answer, the record waits.

use crate::fields::{Changer, KEY_ID, Keys, OfKey, Rules, avro::Projection, json, messages, parse, parse_protobuf, protobuf};
use millrace_config::Reason;
use millrace_contract::Failure;
use millrace_registry::protobuf::Protobuf;
use millrace_registry::{Client, Kind, Reference, RegistryError, Resolved, Schema, SchemaId, Settings};
use millrace_schemas::avsc::Avsc;
use millrace_schemas::{contract, headers, push_header};
use prost_reflect::{FileDescriptor, MessageDescriptor};
use std::collections::HashMap;
use std::sync::Arc;

/// Forms remembered; beyond it each costs two requests to come back.
const KEPT: usize = 10_000;

/// What is known before anything is asked.
#[derive(Debug, Default)]
pub struct Guard {
    pub rules: Vec<Rules>,
    pub keys: Keys,
    /// The factory's registry, where it has one.
    pub home: Option<Settings>,
    /// The target's, where schemas are carried.
    pub target: Option<Settings>,
    /// Schemas of topics, as they are declared.
    pub declared: Vec<(Arc<str>, Arc<contract::Schema>)>,
}

impl Guard {
    pub fn rules(&self, topic: &str) -> Option<&Rules> {
        self.rules.iter().find(|rules| rules.is_for(topic))
    }

    /// Whether records of a topic may leave other than as they are.
    pub fn concerns(&self, topic: &str) -> bool {
        self.target.is_some() || self.rules(topic).is_some()
    }
}

/// A record, borrowed.
#[derive(Clone, Copy, Debug)]
pub struct Leaver<'a> {
    pub key: Option<&'a [u8]>,
    /// As it lies in Kafka, a registry's prefix included.
    pub value: Option<&'a [u8]>,
    /// In the layout of `millrace_schemas::headers`.
    pub headers: &'a [u8],
    pub timestamp_ms: i64,
    /// The topic says that its values have a registry's prefix.
    pub is_prefixed: bool,
}

/// A record as it leaves.
#[derive(Debug, Default)]
pub struct Left {
    pub key: Vec<u8>,
    pub value: Vec<u8>,
    pub headers: Vec<u8>,
}

/// What became of it.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It leaves as it is.
    AsItIs,
    /// As [`Left`] has it; so many fields were to be changed and were not there.
    Changed(u64),
    /// It stays at home, and why.
    Stays(String),
}

/// What values of one schema become.
enum Form {
    /// Nobody gave out such an id: these bytes have no prefix.
    NoId,
    Same(SchemaId),
    Projected(SchemaId, Box<Projection>),
    Json,
    /// A file of messages; each has its form once a value of it has come.
    Messages(FileDescriptor, HashMap<Vec<usize>, Form>),
    /// One message of such a file.
    Message(SchemaId, Box<protobuf::Projection>),
    Unreadable(String),
}

/// Changes records; one per instance of the sink.
pub struct Leaving {
    guard: Arc<Guard>,
    home: Option<Client>,
    target: Option<Client>,
    forms: HashMap<(Arc<str>, SchemaId), Form>,
    /// Of topics in Avro whose values have no prefix.
    bare: HashMap<Arc<str>, Form>,
    pub left: Left,
}

impl Leaving {
    pub fn new(guard: Arc<Guard>) -> Self {
        Self { guard, home: None, target: None, forms: HashMap::new(), bare: HashMap::new(), left: Left::default() }
    }

    /// Makes of a record what leaves, in [`Leaving::left`]. `at_target`: the topic's name there.
    ///
    /// Errors: a registry can't be asked, or refuses.
    pub async fn change(&mut self, topic: &Arc<str>, at_target: &str, record: &Leaver<'_>) -> Result<Outcome, Failure> {
        let guard = self.guard.clone();
        let rules = guard.rules(topic);
        if rules.is_none() && guard.target.is_none() {
            return Ok(Outcome::AsItIs);
        }
        let key = rules.filter(|rules| rules.needs_key()).and_then(|_| guard.keys.at(record.timestamp_ms));
        let changer = Changer { topic, key };
        self.left.value.clear();
        let mut missed = 0;
        if let Some(value) = record.value {
            let id = SchemaId::split(value).filter(|_| record.is_prefixed || guard.home.is_some());
            if let Some((id, rest)) = id {
                self.learn(topic, at_target, id, rules).await?;
                if let Some(rules) = rules {
                    self.learn_message(topic, at_target, id, rest, rules).await?;
                }
            } else if let Some(rules) = rules {
                self.learn_bare(topic, at_target, rules).await?;
            }
            let out = &mut self.left.value;
            let form = match id {
                Some((id, _)) => self.forms.get(&(topic.clone(), id)),
                None => self.bare.get(topic),
            };
            let applied = match (form, id, rules) {
                (Some(Form::Same(new)), Some((_, rest)), None) => {
                    out.extend_from_slice(&new.prefix());
                    out.extend_from_slice(rest);
                    Ok(0)
                }
                (Some(Form::Projected(new, projection)), id, Some(_)) => {
                    out.extend_from_slice(&new.prefix());
                    projection.apply(&changer, id.map_or(value, |(_, rest)| rest), out)
                }
                (Some(Form::Messages(_, known)), Some((_, rest)), Some(_)) => match messages::split(rest) {
                    None => Err("it does not say which message of its schema it is".into()),
                    Some((path, rest)) => match known.get(&path) {
                        Some(Form::Message(new, projection)) => message(*new, projection, &changer, rest, out),
                        Some(Form::Unreadable(why)) => Err(why.clone().into()),
                        _ => Err("it is a message that its schema does not have".into()),
                    },
                },
                // Without a registry at home nothing stands in front of it.
                (Some(Form::Message(new, projection)), _, Some(_)) => message(*new, projection, &changer, value, out),
                (Some(Form::Json), Some((_, rest)), Some(rules)) => json::apply(&rules.fields, &changer, rest, out),
                (Some(Form::Unreadable(why)), ..) => Err(why.clone().into()),
                (Some(Form::NoId), Some((id, _)), _) if record.is_prefixed => {
                    return Err(Failure::Blocked(format!(
                        "the factory's registry does not know the schema of id {id}, which records of topic {topic} name; register it, or take the topic out"
                    )));
                }
                (_, _, Some(rules)) => json::apply(&rules.fields, &changer, value, out),
                (_, _, None) => {
                    out.extend_from_slice(value);
                    Ok(0)
                }
            };
            match applied {
                Ok(count) => missed = count,
                Err(why) => return Ok(Outcome::Stays(why.into())),
            }
        }
        self.left.key.clear();
        if let Some(key) = record.key {
            changer.key(rules.map_or(OfKey::Keep, |rules| rules.key), key, &mut self.left.key);
        }
        self.left.headers.clear();
        let allowed = rules.and_then(|rules| rules.headers.as_ref());
        for (name, value) in headers(record.headers).filter(|(name, _)| allowed.is_none_or(|allowed| allowed.iter().any(|one| one == name)))
        {
            push_header(&mut self.left.headers, name, value);
        }
        if let Some(key) = changer.key {
            push_header(&mut self.left.headers, KEY_ID, Some(key.id.as_bytes()));
        }
        Ok(Outcome::Changed(missed))
    }

    /// Finds out what becomes of values with this id.
    async fn learn(&mut self, topic: &Arc<str>, at_target: &str, id: SchemaId, rules: Option<&Rules>) -> Result<(), Failure> {
        if self.forms.contains_key(&(topic.clone(), id)) {
            return Ok(());
        }
        let Some(home) = &self.guard.home else {
            // Without a registry at home nobody knows what the bytes are.
            let why = "its value names a schema, and the factory has no registry to ask for it".to_owned();
            self.forms.insert((topic.clone(), id), Form::Unreadable(why));
            return Ok(());
        };
        if self.home.is_none() {
            self.home = Some(Client::new(home.clone()).map_err(|error| told("the factory's schema registry", error))?);
        }
        let Some(home) = &self.home else { return Ok(()) };
        let form = match home.schema(id).await {
            Err(RegistryError::NotFound(_)) => Form::NoId,
            Err(error) => return Err(told(&format!("the factory's schema registry for id {id}"), error)),
            Ok(resolved) => match rules {
                None => {
                    let target = client(&mut self.target, &self.guard)?;
                    carry_versions(home, target, topic, at_target).await?;
                    let resolved = carry(target, &subject(at_target), &resolved).await?;
                    tracing::info!(%topic, %id, there = %resolved, "a schema was carried to the target's registry");
                    Form::Same(resolved)
                }
                Some(rules) => match resolved.schema.kind {
                    Kind::Json => Form::Json,
                    Kind::Protobuf => match Protobuf::parse(&resolved.schema.text, &named(&resolved)).map(|schema| schema.descriptor()) {
                        Ok(Some(file)) => Form::Messages(file, HashMap::new()),
                        Ok(None) => Form::Unreadable("its schema has no file".into()),
                        Err(why) => Form::Unreadable(format!("its schema cannot be used: {why}")),
                    },
                    Kind::Avro => {
                        let references = named(&resolved);
                        let avsc = Avsc::parse(&resolved.schema.text, &references, None).map_err(|error| error.to_string());
                        self.project(at_target, avsc.map_err(Reason::from), rules).await?
                    }
                },
            },
        };
        if self.forms.len() >= KEPT {
            self.forms.clear();
        }
        self.forms.insert((topic.clone(), id), form);
        Ok(())
    }

    /// Finds out what becomes of a message of a file that is known.
    async fn learn_message(&mut self, topic: &Arc<str>, at_target: &str, id: SchemaId, rest: &[u8], rules: &Rules) -> Result<(), Failure> {
        let key = (topic.clone(), id);
        let Some(Form::Messages(file, known)) = self.forms.get(&key) else { return Ok(()) };
        let Some((path, _)) = messages::split(rest) else { return Ok(()) };
        let Some(message) = messages::message_at(file, &path).filter(|_| !known.contains_key(&path)) else { return Ok(()) };
        let form = self.project_message(at_target, message, rules).await?;
        if let Some(Form::Messages(_, known)) = self.forms.get_mut(&key) {
            known.insert(path, form);
        }
        Ok(())
    }

    /// The same of values without an id, by what the topic is declared to hold.
    async fn learn_bare(&mut self, topic: &Arc<str>, at_target: &str, rules: &Rules) -> Result<(), Failure> {
        if self.bare.contains_key(topic) {
            return Ok(());
        }
        let guard = self.guard.clone();
        let form = match guard.declared.iter().find(|(name, _)| name == topic) {
            Some((_, schema)) if schema.kind == Kind::Avro => self.project(at_target, parse(schema), rules).await?,
            Some((_, schema)) if schema.kind == Kind::Protobuf => match parse_protobuf(schema) {
                Ok(message) => self.project_message(at_target, message, rules).await?,
                Err(why) => Form::Unreadable(format!("its schema cannot be used: {why}")),
            },
            _ => Form::Json,
        };
        self.bare.insert(topic.clone(), form);
        Ok(())
    }

    async fn project(&mut self, at_target: &str, avsc: Result<Avsc, Reason>, rules: &Rules) -> Result<Form, Failure> {
        let projection = match avsc.and_then(|avsc| Projection::new(avsc, &rules.fields)) {
            Ok(projection) => projection,
            Err(why) => return Ok(Form::Unreadable(format!("its schema cannot be used: {why}"))),
        };
        let id = self.register(at_target, Kind::Avro, &projection.schema).await?;
        Ok(Form::Projected(id, Box::new(projection)))
    }

    async fn project_message(&mut self, at_target: &str, message: MessageDescriptor, rules: &Rules) -> Result<Form, Failure> {
        let projection = match protobuf::Projection::new(message, &rules.fields) {
            Ok(projection) => projection,
            Err(why) => return Ok(Form::Unreadable(format!("its schema cannot be used: {why}"))),
        };
        let id = self.register(at_target, Kind::Protobuf, &projection.schema).await?;
        Ok(Form::Message(id, Box::new(projection)))
    }

    /// Registers the schema of what leaves.
    async fn register(&mut self, at_target: &str, kind: Kind, schema: &str) -> Result<SchemaId, Failure> {
        if self.guard.target.is_none() {
            return Err(Failure::Blocked(format!(
                "topic {at_target} is in {}, and what `fields` lets out has a schema of its own: name the target's `registry`",
                if kind == Kind::Avro { "Avro" } else { "Protobuf" }
            )));
        }
        let target = client(&mut self.target, &self.guard)?;
        target.register(&subject(at_target), &Schema::new(kind, schema)).await.map_err(|error| told("the target's schema registry", error))
    }
}

/// The schemas that a schema names.
fn named(resolved: &Resolved) -> Vec<(&str, &str)> {
    resolved.references.iter().map(|(name, schema)| (name.as_str(), schema.text.as_str())).collect()
}

/// Appends what leaves of a message, behind the id of its schema.
fn message(
    id: SchemaId,
    projection: &protobuf::Projection,
    changer: &Changer<'_>,
    message: &[u8],
    out: &mut Vec<u8>,
) -> Result<u64, Reason> {
    out.extend_from_slice(&id.prefix());
    out.extend_from_slice(&projection.indexes);
    projection.apply(changer, message, out)
}

fn client<'c>(client: &'c mut Option<Client>, guard: &Guard) -> Result<&'c Client, Failure> {
    if client.is_none() {
        let settings = guard.target.clone().ok_or_else(|| Failure::Blocked("no registry of the target is named".into()))?;
        *client = Some(Client::new(settings).map_err(|error| told("the target's schema registry", error))?);
    }
    client.as_ref().ok_or(Failure::Stopped)
}

fn subject(topic: &str) -> String {
    format!("{topic}-value")
}

fn told(whom: &str, error: RegistryError) -> Failure {
    match error {
        RegistryError::Away(why) => Failure::Reconnect(format!("cannot ask {whom}: {why}")),
        RegistryError::Refused(why) | RegistryError::NotFound(why) => Failure::Blocked(format!("{whom} refuses it: {why}")),
    }
}

/// Registers the versions of the topic's own subject, in their order: a registry that compares a version with the ones before it takes no other.
async fn carry_versions(home: &Client, target: &Client, topic: &str, at_target: &str) -> Result<(), Failure> {
    let subject_at_home = subject(topic);
    let versions = match home.versions(&subject_at_home).await {
        Ok(versions) => versions,
        // Its schemas lie under other subjects.
        Err(RegistryError::NotFound(_)) => return Ok(()),
        Err(error) => return Err(told("the factory's schema registry", error)),
    };
    for version in versions {
        let version = home.version(&subject_at_home, Some(version)).await.map_err(|error| told("the factory's schema registry", error))?;
        let references = home.references(&version.schema).await.map_err(|error| told("the factory's schema registry", error))?;
        carry(target, &subject(at_target), &Resolved { schema: version.schema, references }).await?;
    }
    Ok(())
}

/// Registers a schema, after everything that it names. Returns its id there.
async fn carry(target: &Client, subject: &str, resolved: &Resolved) -> Result<SchemaId, Failure> {
    let mut placed: HashMap<String, Reference> = HashMap::new();
    let all = std::iter::once(&resolved.schema).chain(resolved.references.iter().map(|(_, schema)| schema));
    let subjects: HashMap<&str, &str> =
        all.flat_map(|schema| &schema.references).map(|reference| (reference.name.as_str(), reference.subject.as_str())).collect();
    let rewritten = |schema: &Schema, placed: &HashMap<String, Reference>| {
        let there = |reference: &Reference| placed.get(&reference.name).unwrap_or(reference).clone();
        Schema { references: schema.references.iter().map(there).collect(), ..schema.clone() }
    };
    let refuses = |error| told("the target's schema registry", error);
    for (name, schema) in &resolved.references {
        let subject = subjects.get(name.as_str()).copied().unwrap_or(name);
        let schema = rewritten(schema, &placed);
        target.register(subject, &schema).await.map_err(refuses)?;
        let version = target.lookup(subject, &schema).await.map_err(refuses)?.version;
        placed.insert(name.clone(), Reference { name: name.clone(), subject: subject.to_owned(), version });
    }
    target.register(subject, &rewritten(&resolved.schema, &placed)).await.map_err(refuses)
}
