//! From the factory's YAML to what the engine runs: every connector compiled, every topic known, every problem found. No I/O.

mod contracts;

use crate::commands;
pub use crate::compiled::{CompiledFactory, Sharing, SinkSpec, SourceSpec, group};
use crate::frame::Lane;
use crate::intake::ClockWindow;
use crate::lease::plan::Wish;
use crate::sample_key::{SampleKey, TemplateError};
use crate::topics::{Format, LATEST, Topic, Topics, dead_letter_of};
use millrace_config::factory::{self, Connector, Factory, Shape, SourceKeys};
use millrace_config::{Deadband, Place, Problems, Spanned, suggest};
use millrace_contract::{Carries, Cluster, Compiled, Context, Entry, Role, TagDef, TagOptions};
use millrace_kafka::admin::TopicSpec;
use millrace_log::Full;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// Compiles a factory with the connectors there are. Problems are added; where there are errors, what is returned must not run.
pub fn compile(factory: &Factory, entries: &[Entry], problems: &mut Problems) -> CompiledFactory {
    for problem in millrace_kafka::properties::check_properties(&plain(&factory.kafka.properties)) {
        let place = factory.kafka.properties.get(&problem.name).map_or(Place::NONE, |v| v.place);
        problems.error(place, format!("property {} {}", problem.name, problem.message));
    }
    let (topics, declared) = topics(factory, problems);
    let defaults: TagOptions = factory.defaults.as_ref().and_then(|node| node.parse(problems)).unwrap_or_default();
    let mut works = CompiledFactory {
        site: factory.site.value.clone(),
        sources: Vec::new(),
        sinks: Vec::new(),
        commands: Vec::new(),
        topics,
        declared,
        clock: ClockWindow { behind: factory.clock.behind.0, ahead: factory.clock.ahead.0 },
        sharing: sharing(factory),
        wishes: BTreeMap::new(),
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
            let runs_on = keys.runs_on.iter().map(|host| host.value.clone()).collect();
            works.wishes.insert(connector.name.clone(), Wish { prefer: keys.prefer.as_ref().map(|id| id.value.clone()), runs_on });
            works.sources.push(source_spec(factory, connector, &keys, compiled));
        }
    }
    clashes(factory, &works, problems);
    formats(factory, &works, problems);
    deadbands(factory, &works, problems);
    read_by_sinks(factory, &works, problems);
    for connector in &factory.sinks {
        let (keys, own) = connector.sink_keys(problems);
        let keys = keys.unwrap_or_default();
        if connector.type_name.value == factory::COMMANDS {
            if let Some(rules) = commands::compile::compile(factory, connector, &keys, &own, &works, problems)
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
        let context = sink_context(factory, connector, &keys, &works.topics);
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

/// With whom the sources are shared.
fn sharing(factory: &Factory) -> Option<Sharing> {
    let runtime = &factory.runtime;
    let (id, group) = runtime.id.as_ref().zip(runtime.group.as_ref())?;
    Some(Sharing {
        id: id.value.clone(),
        group: group.value.clone(),
        host: runtime.host.as_ref().map(|host| host.value.clone()),
        session: runtime.session.0,
        keeps: runtime.on_isolation == factory::OnIsolation::Keep,
        transactional: format!("millrace-{}", factory.site.value.replace('/', "-")),
        config: checksum(&millrace_config::expanded(factory)),
    })
}

/// A checksum of a file, but for the sections that may differ between machines.
fn checksum(expanded: &str) -> String {
    let mut sum = 0;
    let mut counts = true;
    for line in expanded.lines() {
        if line.starts_with(|first: char| first.is_ascii_lowercase()) {
            counts = !["runtime:", "data_dir:", "http:", "messages:"].iter().any(|section| line.starts_with(section));
        }
        if counts {
            sum = crc32c::crc32c_append(sum, line.as_bytes());
        }
    }
    format!("{sum:08x}")
}

/// What stands around a sink.
pub fn sink_context(factory: &Factory, connector: &Connector, keys: &factory::SinkKeys, topics: &Topics) -> Context {
    let names: Vec<String> = keys.topics.iter().map(|topic| topic.value.clone()).collect();
    let declared = topics.all().into_iter().filter_map(|topic| Some((topic.name.clone(), topic.schema.clone()?))).collect();
    Context {
        carries: carries(factory, &names),
        schemas: names.iter().filter_map(|name| topics.get(name).contract.as_ref().map(|contract| contract.schema().clone())).collect(),
        topics: names,
        declared,
        ..context(factory, connector, &SourceKeys::default(), TagOptions::default())
    }
}

/// What topics are declared to hold. A pattern says nothing.
fn carries(factory: &Factory, topics: &[String]) -> Carries {
    let samples = topics.iter().filter(|name| factory.topics.get(*name).is_some_and(|topic| carries_samples(topic))).count();
    match samples {
        0 if topics.iter().all(|name| !name.contains('*')) => Carries::Documents,
        count if count == topics.len() => Carries::Samples,
        _ => Carries::Both,
    }
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
        levels: factory.levels.iter().map(|level| level.to_string()).collect(),
        at: keys.at.clone(),
        topic: keys.topic.as_ref().map(|t| t.value.as_str().into()),
        options,
        topics: Vec::new(),
        carries: Carries::default(),
        schemas: Vec::new(),
        declared: Vec::new(),
        writes_allowed: factory.floor.writes.value == factory::Writes::Allowed,
        data_dir: factory.data_dir.clone(),
        sources: factory.sources.iter().filter(|source| source.enabled).map(|source| source.name.clone()).collect(),
        cluster: {
            let settings = crate::cluster::settings(factory);
            let runtime = sharing(factory).map(|sharing| sharing.id);
            Cluster { brokers: settings.brokers, properties: settings.properties, registry: crate::cluster::registry(factory), runtime }
        },
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
        problems.error(connector.type_name.place, format!("there is no {word} of type `{}`", connector.type_name.value)).help(
            match suggest::nearest(&connector.type_name.value, known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("this build has {}", known.join(", ")),
            },
        );
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
        let key = t.key.as_ref().and_then(|key| match SampleKey::parse(&key.value, &factory.levels) {
            Ok(parsed) => Some(parsed),
            Err(error) => {
                let problem = problems.error(key.place, error.to_string());
                if let TemplateError::Unknown { known, .. } = &error {
                    let known: Vec<String> = known.iter().map(|name| format!("{{{name}}}")).collect();
                    problem.help(format!("a topic's key knows {}; a document's key is said where the document is read", known.join(", ")));
                }
                None
            }
        });
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
            key: key.unwrap_or_default(),
            lane: match t.lane {
                factory::Lane::First => Lane::First,
                factory::Lane::Normal => Lane::Normal,
                factory::Lane::Bulk => Lane::Bulk,
            },
            dead_letter,
            by_read_time: t.timestamp == factory::Timestamp::ReadTime,
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
    (Topics::new(topics).with_levels(&factory.levels), declared)
}

/// Two tags of one path are an error.
fn clashes(factory: &Factory, works: &CompiledFactory, problems: &mut Problems) {
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
fn formats(factory: &Factory, works: &CompiledFactory, problems: &mut Problems) {
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
                (true, ..) if topic.from_source && source.compiled.describes() => None,
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
        let problem = problems.warn(place, format!("topic {topic} is not declared under `topics`: it is json, without a schema"));
        match suggest::nearest(&topic, factory.topics.keys().map(String::as_str)) {
            Some(near) => problem.help(format!("did you mean `{near}`?")),
            None => problem.help(format!("add `topics: {{{topic}: {{format: json}}}}`, with partitions and retention")),
        };
    }
}

/// A sink that reads what nobody here declares or writes waits for somebody else's topic, or for one whose name is mistyped.
fn read_by_sinks(factory: &Factory, works: &CompiledFactory, problems: &mut Problems) {
    let mut known: BTreeSet<&str> = factory.topics.keys().map(String::as_str).collect();
    known.extend([crate::catalog::TOPIC, LATEST, crate::cursors::TOPIC, crate::commands::AUDIT]);
    let dead: Vec<Arc<str>> = works.topics.all().iter().map(|topic| topic.dead_letter.clone()).collect();
    known.extend(dead.iter().map(|name| &**name));
    let mut is_open = false;
    for source in &works.sources {
        let model = source.compiled.model();
        known.extend(model.routes.iter().map(|route| &*route.topic));
        known.extend(model.tags.iter().map(|tag| tag.options.topic.as_deref().unwrap_or(&tag.topic)));
        is_open |= model.routes.iter().any(|route| route.topic.contains('{'));
    }
    for connector in &factory.sinks {
        // What is wrong with its keys was said before.
        let keys = connector.sink_keys(&mut Problems::new()).0.unwrap_or_default();
        for topic in keys.topics {
            let name = topic.value.as_str();
            let fits = match name.strip_suffix('*') {
                Some(prefix) => known.iter().any(|known| known.starts_with(prefix)),
                None => known.contains(name),
            };
            if fits || is_open {
                continue;
            }
            let problem = problems.warn(
                topic.place,
                format!("sink {} reads topic {name}, which is not declared under `topics` and no source writes to", connector.name),
            );
            match suggest::nearest(name, known.iter().copied()) {
                Some(near) => problem.help(format!("did you mean `{near}`?")),
                None => problem.help("declare it, or leave it so if another program writes it"),
            };
        }
    }
}

/// A deadband in percent is a share of a range: without one it would hold nothing back.
fn deadbands(factory: &Factory, works: &CompiledFactory, problems: &mut Problems) {
    for source in &works.sources {
        let without = |tag: &&TagDef| {
            let o = &tag.options;
            matches!(o.deadband, Some(Deadband::Percent(_))) && o.eu.is_none() && (o.min.is_none() || o.max.is_none())
        };
        let mut tags = source.compiled.model().tags.iter().filter(without);
        let Some(first) = tags.next() else { continue };
        let others = tags.count();
        let Some(connector) = factory.sources.iter().find(|connector| connector.name == source.name) else { continue };
        let inherited = connector.node.get("deadband").or(factory.defaults.as_ref().and_then(|defaults| defaults.get("deadband")));
        let more = if others > 0 { format!(" (and {others} more)") } else { String::new() };
        let message = format!("tag {}{more} has a deadband in percent and no range to take it of", first.path);
        // Where it is set for a whole source, the tags that have a range are meant.
        let problem = match inherited {
            Some(node) => problems.warn(node.place, message),
            None => problems.error(connector.place, message),
        };
        problem.help("give the tag `min` and `max`, or `eu`, or an absolute deadband");
    }
}
