//! From the factory's YAML to what the engine runs: every connector compiled, every topic known, every problem found. No I/O.

mod contracts;

use crate::commands::{self, CommandRules};
use crate::frame::Lane;
use crate::intake::ClockWindow;
use crate::topics::{Format, LATEST, SampleKey, Topic, Topics, dead_letter_of};
use millrace_config::factory::{self, Connector, Factory, Shape, SinkKeys, SourceKeys};
use millrace_config::{Place, Problems, Spanned};
use millrace_contract::{Compiled, Context, Entry, Role, TagOptions};
use millrace_kafka::admin::TopicSpec;
use millrace_log::Full;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// A factory, compiled.
pub struct Works {
    /// `enterprise/site`.
    pub site: String,
    pub sources: Vec<SourceSpec>,
    pub sinks: Vec<SinkSpec>,
    pub commands: Vec<CommandRules>,
    pub topics: Topics,
    /// Topics to create where they are missing.
    pub declared: Vec<TopicSpec>,
    pub clock: ClockWindow,
}

pub struct SourceSpec {
    pub name: String,
    pub type_name: String,
    pub compiled: Box<dyn Compiled>,
    pub log_size: u64,
    pub full: Full,
}

pub struct SinkSpec {
    pub name: String,
    pub type_name: String,
    pub compiled: Box<dyn Compiled>,
    pub topics: Vec<String>,
    pub group: String,
    pub from_latest: bool,
}

/// Compiles a factory with the connectors there are. Problems are added; where there are errors, what is returned must not run.
pub fn compile(factory: &Factory, entries: &[Entry], problems: &mut Problems) -> Works {
    for problem in millrace_kafka::properties::check_properties(&plain(&factory.kafka.properties)) {
        let place = factory.kafka.properties.get(&problem.name).map_or(Place::NONE, |v| v.place);
        problems.error(place, format!("property {} {}", problem.name, problem.message));
    }
    let (topics, declared) = topics(factory, problems);
    let defaults: TagOptions = factory.defaults.as_ref().and_then(|node| node.parse(problems)).unwrap_or_default();
    let mut works = Works {
        site: factory.site.value.clone(),
        sources: Vec::new(),
        sinks: Vec::new(),
        commands: Vec::new(),
        topics,
        declared,
        clock: ClockWindow { behind: factory.clock.behind.0, ahead: factory.clock.ahead.0 },
    };
    for connector in &factory.sources {
        let (keys, own) = connector.source_keys(problems);
        let keys = keys.unwrap_or_default();
        let (options, own) = own.take(&TagOptions::KEYS);
        let options = options.parse::<TagOptions>(problems).unwrap_or_default().over(&defaults);
        let Some(entry) = entry(connector, entries, Role::Source, problems) else { continue };
        let context = context(factory, connector, &keys, options);
        let Some(compiled) = (entry.compile)(&own, &context, problems) else { continue };
        if connector.enabled {
            works.sources.push(source_spec(factory, connector, &keys, compiled));
        }
    }
    clashes(factory, &works, problems);
    formats(factory, &works, problems);
    for connector in &factory.sinks {
        let (keys, own) = connector.sink_keys(problems);
        let keys = keys.unwrap_or_default();
        if connector.type_name.value == factory::COMMANDS {
            if let Some(rules) = commands::compile(factory, connector, &keys, &own, &works, problems)
                && connector.enabled
            {
                works.commands.push(rules);
            }
            continue;
        }
        if keys.topics.is_empty() {
            problems.error(connector.place, format!("sink {} reads no topics", connector.name)).help("add `topics: [telemetry]`");
        }
        let Some(entry) = entry(connector, entries, Role::Sink, problems) else { continue };
        let mut context = context(factory, connector, &SourceKeys::default(), TagOptions::default());
        context.topics = keys.topics.iter().map(|t| t.value.clone()).collect();
        context.carries_samples = context.topics.iter().all(|name| factory.topics.get(name).is_some_and(|topic| carries_samples(topic)));
        let Some(compiled) = (entry.compile)(&own, &context, problems) else { continue };
        if connector.enabled {
            works.sinks.push(SinkSpec {
                name: connector.name.clone(),
                type_name: connector.type_name.value.clone(),
                compiled,
                topics: context.topics,
                group: group(factory, connector, &keys),
                from_latest: keys.start == Some(factory::Start::Latest),
            });
        }
    }
    works
}

/// The consumer group of a sink.
pub(crate) fn group(factory: &Factory, connector: &Connector, keys: &SinkKeys) -> String {
    keys.group.as_ref().map_or_else(
        || format!("millrace-{}-{}", factory.site.value.replace('/', "-"), connector.name.replace('/', "-")),
        |g| g.value.clone(),
    )
}

/// Whether a topic is declared to hold one sample per record.
fn carries_samples(topic: &factory::Topic) -> bool {
    topic.shape == Shape::Sample && topic.schema.as_ref().is_some_and(|schema| schema.value == "telemetry")
}

fn context(factory: &Factory, connector: &Connector, keys: &SourceKeys, options: TagOptions) -> Context {
    Context {
        name: connector.name.clone(),
        place: connector.place,
        site: factory.site.value.clone(),
        at: keys.at.clone(),
        topic: keys.topic.as_ref().map(|t| t.value.as_str().into()),
        options,
        topics: Vec::new(),
        carries_samples: false,
        writes_allowed: factory.floor.writes.value == factory::Writes::Allowed,
        data_dir: factory.data_dir.clone(),
    }
}

fn source_spec(factory: &Factory, connector: &Connector, keys: &SourceKeys, compiled: Box<dyn Compiled>) -> SourceSpec {
    let own = keys.log.clone().unwrap_or_default();
    SourceSpec {
        name: connector.name.clone(),
        type_name: connector.type_name.value.clone(),
        compiled,
        log_size: own.size.unwrap_or(factory.log.size).0,
        full: match own.full.unwrap_or(factory.log.full) {
            factory::Full::Block => Full::Block,
            factory::Full::DropOldest => Full::DropOldest,
            factory::Full::DropNewest => Full::DropNewest,
        },
    }
}

fn entry<'e>(connector: &Connector, entries: &'e [Entry], role: Role, problems: &mut Problems) -> Option<&'e Entry> {
    let found = entries.iter().find(|e| e.role == role && e.type_name == connector.type_name.value);
    if found.is_none() {
        let mut known: Vec<&str> = entries.iter().filter(|e| e.role == role).map(|e| e.type_name).collect();
        known.sort_unstable();
        let word = if role == Role::Source { "source" } else { "sink" };
        problems
            .error(connector.type_name.place, format!("there is no {word} of type `{}`", connector.type_name.value))
            .help(format!("this build has {}", known.join(", ")));
    }
    found
}

fn plain(properties: &indexmap::IndexMap<String, Spanned<String>>) -> BTreeMap<String, String> {
    properties.iter().map(|(k, v)| (k.clone(), v.value.clone())).collect()
}

fn topics(factory: &Factory, problems: &mut Problems) -> (Topics, Vec<TopicSpec>) {
    let mut declared = Vec::new();
    let mut topics = Vec::new();
    for (name, topic) in &factory.topics {
        let t = &topic.value;
        let key = match t.key.as_ref().map(|k| k.value.as_str()) {
            None | Some("tag") => SampleKey::Tag,
            Some("asset") => SampleKey::Asset,
            Some("none") => SampleKey::None,
            Some(template) => {
                let place = t.key.as_ref().map_or(topic.place, |k| k.place);
                check_key(template, place, problems);
                SampleKey::Template(template.into())
            }
        };
        let dead_letter = t.dead_letter.as_ref().map_or_else(|| dead_letter_of(name), |d| d.value.as_str().into());
        let mut properties: BTreeMap<String, String> = plain(&t.properties);
        if let Some(retention) = t.retention {
            properties.entry("retention.ms".to_owned()).or_insert_with(|| retention.0.as_millis().to_string());
        }
        if t.compacted || name == LATEST {
            properties.entry("cleanup.policy".to_owned()).or_insert_with(|| "compact".to_owned());
        }
        let behind = match (t.compacted, t.retention) {
            (true, _) => i64::MAX,
            (_, Some(retention)) => i64::try_from(retention.0.as_micros()).unwrap_or(i64::MAX),
            _ => Topic::undeclared(name).behind,
        };
        let declared_as = contracts::of(factory, name, topic, problems);
        topics.push(Topic {
            name: name.as_str().into(),
            key,
            lane: match t.lane {
                factory::Lane::First => Lane::First,
                factory::Lane::Normal => Lane::Normal,
                factory::Lane::Bulk => Lane::Bulk,
            },
            dead_letter,
            behind,
            ..declared_as
        });
        declared.push(TopicSpec {
            name: name.clone(),
            partitions: t.partitions.map(|p| i32::try_from(p).unwrap_or(i32::MAX)),
            replication: t.replication.map(i32::from),
            configs: properties,
        });
    }
    topics.extend(contracts::latest(factory, &topics, problems));
    (Topics::new(topics), declared)
}

fn check_key(template: &str, place: Place, problems: &mut Problems) {
    let mut rest = template;
    while let Some((_, after)) = rest.split_once('{') {
        let Some((name, tail)) = after.split_once('}') else {
            problems.error(place, format!("key template {template} has a {{ without a }}"));
            return;
        };
        if !["tag", "asset", "source"].contains(&name) {
            problems
                .error(place, format!("key template {template} names {{{name}}}"))
                .help("a topic's key knows {tag}, {asset} and {source}; a document's key is said where the document is read");
        }
        rest = tail;
    }
}

/// Two tags of one path are an error.
fn clashes(factory: &Factory, works: &Works, problems: &mut Problems) {
    let mut seen: HashMap<&str, &str> = HashMap::new();
    for source in &works.sources {
        for tag in &source.compiled.model().tags {
            if let Some(other) = seen.insert(&tag.path, &source.name) {
                let place = |name: &str| factory.sources.iter().find(|c| c.name == name).map_or(Place::NONE, |c| c.place);
                problems
                    .error(place(&source.name), format!("tag {}/{} of source {} exists already", works.site, tag.path, source.name))
                    .help("give one of them another `at` or name")
                    .also(place(other), format!("source {other} has it, too"));
            }
        }
    }
}

/// Documents and samples go only to topics whose values may be such. A topic that is not declared is listed.
fn formats(factory: &Factory, works: &Works, problems: &mut Problems) {
    let mut undeclared: BTreeMap<Arc<str>, Place> = BTreeMap::new();
    for source in &works.sources {
        let place = factory.sources.iter().find(|c| c.name == source.name).map_or(Place::NONE, |c| c.place);
        let model = source.compiled.model();
        let routes = model.routes.iter().map(|r| (&r.topic, !r.samples));
        let tags = model.tags.iter().map(|t| (t.options.topic.as_deref().map_or_else(|| t.topic.clone(), Arc::from), false));
        let mut topics: Vec<(Arc<str>, bool)> = routes.map(|(topic, docs)| (topic.clone(), docs)).chain(tags).collect();
        topics.sort_unstable();
        topics.dedup();
        for (name, is_document) in topics {
            if !factory.topics.contains_key(&*name) && !name.contains('{') {
                undeclared.entry(name.clone()).or_insert(place);
            }
            let topic = works.topics.get(&name);
            let also = factory.topics.get(&*name).map_or(Place::NONE, |t| t.place);
            let found = match (is_document, topic.format, &topic.contract) {
                (true, Format::Avro | Format::Protobuf, None) | (true, Format::Json, None) if topic.schema.is_some() => Some((
                    format!("source {} sends documents to topic {name}, which holds samples", source.name),
                    "give the topic a schema of theirs, `schema: file`, or send them to another topic",
                )),
                (true, ..) if topic.shape.is_some() => Some((
                    format!("source {} sends documents to topic {name}, which holds wide records of tags", source.name),
                    "send them to another topic",
                )),
                (false, _, Some(_)) => Some((
                    format!("source {} sends samples to topic {name}, whose schema is that of other documents", source.name),
                    "send them to a topic with `schema: telemetry`",
                )),
                (false, Format::Raw, None) => Some((
                    format!("source {} sends samples to topic {name}, which is raw", source.name),
                    "samples are avro, json or protobuf",
                )),
                _ => None,
            };
            if let Some((message, help)) = found {
                problems.error(place, message).help(help).also(also, "the topic");
            }
        }
    }
    for (topic, place) in undeclared {
        problems
            .warn(place, format!("topic {topic} is not declared under `topics`: it is json, without a schema"))
            .help(format!("add `topics: {{{topic}: {{format: json}}}}`, with partitions and retention"));
    }
}
