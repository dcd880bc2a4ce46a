//! What does a topic's declaration say of its values? Format, schema and subject, the schema's file read and compiled.

use crate::commands::compile::role_of;
use crate::commands::request::schema_named;
use crate::sample_key::SampleKey;
use crate::topics::{Format, LATEST, Subject, Topic};
use crate::wide_layout::Shape;
use millrace_config::factory::{self, Factory};
use millrace_config::{Place, Problems, Spanned};
use millrace_schemas::contract::{Contract, Kind, Schema, SchemaError};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How long an asset's record collects, unless it is said.
const WINDOW: Duration = Duration::from_secs(1);
/// The schema of the samples.
const TELEMETRY: &str = "telemetry";
/// The schema that the source's own device gives: `$metadata` of an ERP.
const FROM_SOURCE: &str = "source";

/// The topic with its format, schema, contract and subject; after a problem, without a schema.
pub(super) fn of(factory: &Factory, name: &str, topic: &Spanned<factory::Topic>, problems: &mut Problems) -> Topic {
    let format = match topic.format {
        factory::Format::Avro => Format::Avro,
        factory::Format::Json => Format::Json,
        factory::Format::Protobuf => Format::Protobuf,
        factory::Format::Raw => Format::Raw,
    };
    let subject = match topic.subject {
        factory::Subject::TopicName => Subject::TopicName,
        factory::Subject::RecordName => Subject::RecordName,
        factory::Subject::TopicRecordName => Subject::TopicRecordName,
    };
    let shape = match topic.shape {
        factory::Shape::Sample => None,
        factory::Shape::Asset => Some(Shape::Asset(i64::try_from(topic.window.map_or(WINDOW, |w| w.0).as_micros()).unwrap_or(i64::MAX))),
        factory::Shape::Scan => Some(Shape::Scan),
    };
    let declared = Topic { format, subject, shape, latest: topic.latest, ..Topic::undeclared(name) };
    if let Some(shape) = shape {
        wide(name, topic, problems);
        // A triggered reading is a scan, too: one record, whose fields its source knows.
        return Topic { from_source: shape == Shape::Scan, ..declared };
    }
    if topic.latest && (format == Format::Raw || topic.schema.as_ref().is_some_and(|schema| schema.value != TELEMETRY)) {
        problems
            .error(topic.place, format!("topic {name}: `latest` keeps samples, and its records are documents"))
            .help("leave `latest` out");
    }
    let declared = match (format.kind(), &topic.schema) {
        (Some(kind), Some(schema)) if schema.value == TELEMETRY => declared.with_schema(Schema::telemetry(kind)),
        (Some(Kind::Avro), Some(schema)) if schema_named(&schema.value).is_some() => of_commands(declared, &schema.value),
        (Some(Kind::Json), Some(schema)) if schema.value == FROM_SOURCE => Topic { from_source: true, ..declared },
        (Some(Kind::Avro), Some(schema)) if schema.value == FROM_SOURCE => {
            Topic { from_source: true, ..declared.with_schema(Schema::telemetry(Kind::Avro)) }
        }
        (Some(kind), Some(file)) => match contract(factory, name, kind, file, problems) {
            Some(contract) => {
                let declared = declared.with_schema(contract.schema().clone());
                Topic { contract: Some(Arc::new(contract)), ..declared }
            }
            None => declared,
        },
        (None, Some(schema)) => {
            problems
                .error(schema.place, format!("topic {name} is raw and has a schema"))
                .help("use avro, json or protobuf, or leave `schema` out");
            declared
        }
        (Some(Kind::Avro), None) if let Some(role) = role_of(factory, name) => of_commands(declared, role),
        // Samples are as samples are; of documents the source may know more.
        (Some(Kind::Avro), None) => Topic { from_source: true, ..declared.with_schema(Schema::telemetry(Kind::Avro)) },
        (Some(Kind::Protobuf), None) => declared.with_schema(Schema::telemetry(Kind::Protobuf)),
        (_, None) => declared,
    };
    if subject != Subject::TopicName && declared.schema.as_ref().is_some_and(|schema| schema.name.is_empty()) {
        problems
            .error(topic.place, format!("topic {name}: its subject is named after its schema, which has no name"))
            .help("give the JSON Schema a `title`, or use `subject: topic_name`");
    }
    declared
}

/// A topic of commands or answers, with the schema that the engine has for it.
fn of_commands(declared: Topic, role: &str) -> Topic {
    let contract = schema_named(role).and_then(|text| Contract::compile(Kind::Avro, text, None, &mut |_| None).ok());
    let contract = contract.expect("the engine's own schemas are ones");
    let declared = declared.with_schema(contract.schema().clone());
    Topic { contract: Some(Arc::new(contract)), ..declared }
}

/// What a topic of wide records can't be.
fn wide(name: &str, topic: &Spanned<factory::Topic>, problems: &mut Problems) {
    if !matches!(topic.format, factory::Format::Avro | factory::Format::Json) {
        problems.error(topic.place, format!("topic {name}: wide records are avro or json")).help("use `format: avro`");
    }
    if let Some(schema) = &topic.schema {
        problems
            .error(schema.place, format!("topic {name}: the schema of wide records is made from its tags"))
            .help("leave `schema` out, or leave `shape` out");
    }
    if topic.latest {
        problems.error(topic.place, format!("topic {name}: `latest` keeps samples, and its records are wide")).help("leave `latest` out");
    }
}

/// The topic of last samples, where it is not declared: as the topics are whose last samples it keeps.
pub(super) fn latest(factory: &Factory, topics: &[Topic], problems: &mut Problems) -> Option<Topic> {
    let place = |topic: &Topic| factory.topics.get(&*topic.name).map_or(Place::NONE, |declared| declared.place);
    if let Some(declared) = topics.iter().find(|topic| &*topic.name == LATEST) {
        let holds_samples = declared.format != Format::Raw && declared.contract.is_none() && declared.shape.is_none() && !declared.latest;
        if !holds_samples || declared.key != SampleKey::Tag {
            problems
                .error(place(declared), format!("topic {LATEST} keeps the last sample of each tag, by the tag's path"))
                .help("of it, say the format, partitions and properties");
        }
        return None;
    }
    let mut keepers = topics.iter().filter(|topic| topic.latest);
    let first = keepers.next()?;
    if let Some(other) = keepers.find(|other| (other.format, other.mark) != (first.format, first.mark)) {
        problems
            .error(
                place(other),
                format!("topics {} and {} both keep their last samples in {LATEST}, and have two formats", first.name, other.name),
            )
            .help(format!("say which format it has: `topics: {{{LATEST}: {{format: avro}}}}`"))
            .also(place(first), "the first one");
    }
    Some(Topic { format: first.format, schema: first.schema.clone(), mark: first.mark, ..Topic::undeclared(LATEST) })
}

/// Reads and compiles a schema's file. `orders.proto#acme.Order` chooses a message.
fn contract(factory: &Factory, topic: &str, kind: Kind, file: &Spanned<String>, problems: &mut Problems) -> Option<Contract> {
    let (name, message) = file.value.split_once('#').map_or((file.value.as_str(), None), |(name, message)| (name, Some(message)));
    let language = match Path::new(name).extension().and_then(|e| e.to_str()) {
        Some("avsc") => Kind::Avro,
        Some("json") => Kind::Json,
        Some("proto") => Kind::Protobuf,
        _ => {
            problems
                .error(
                    file.place,
                    format!("topic {topic}: `{}` is neither `{TELEMETRY}` nor `{FROM_SOURCE}` nor the file of a schema", file.value),
                )
                .help("schemas are in files *.avsc (Avro), *.json (JSON Schema) or *.proto (Protobuf)");
            return None;
        }
    };
    if language != kind {
        let format = match language {
            Kind::Avro => "avro",
            Kind::Json => "json",
            Kind::Protobuf => "protobuf",
        };
        problems
            .error(file.place, format!("topic {topic}: {name} is a schema for another format"))
            .help(format!("use `format: {format}`, or a schema in the language of the topic's format"));
        return None;
    }
    let (path, text) = match factory.read_named(file.place, name, problems) {
        Ok(read) => read,
        Err(error) => {
            problems.error(file.place, format!("topic {topic}: {error}"));
            return None;
        }
    };
    // A file that the schema names lies beside it; an import may be counted from a folder above.
    let folders: Vec<_> = Path::new(name).ancestors().skip(1).collect();
    let mut beside = |named: &str| {
        let read = |folder: &&Path| factory.read_named(file.place, folder.join(named).to_str()?, problems).ok();
        folders.iter().find_map(read).map(|(_, text)| text)
    };
    match Contract::compile(kind, &text, message, &mut beside) {
        Ok(contract) => Some(contract),
        Err(error) => {
            let SchemaError { file: inner, line, column, what } = error;
            let place = match inner {
                None if line > 0 => problems.place_in(&path.to_string_lossy(), &text, line, column),
                _ => file.place,
            };
            let at = match (&inner, line) {
                (Some(inner), 0) => format!("{inner}: "),
                (Some(inner), line) => format!("{inner}, line {line}, column {column}: "),
                (None, _) => String::new(),
            };
            problems.error(place, format!("topic {topic}: the schema {}: {at}{what}", path.display())).also(file.place, "named here");
            None
        }
    }
}
