//! What a change does on the wire: fields are their numbers, names are nothing, a number must keep its kind.
//!
//! As Confluent judges, with one rule more: a numeric field of proto3 that becomes repeated, or no longer is, changes its encoding
//! (packed), so it counts as a changed label there too.

use super::Protobuf;
use crate::difference::{Difference, Differences, Pairs, append};
use millrace_config::Reason;
use prost_reflect::prost_types::field_descriptor_proto::{Label, Type};
use prost_reflect::prost_types::{DescriptorProto, FieldDescriptorProto};
use prost_reflect::{DescriptorPool, MessageDescriptor};
use std::collections::{BTreeMap, BTreeSet};

type Known = Pairs<(String, String)>;

struct Side<'a> {
    pool: &'a DescriptorPool,
    package: &'a str,
}

impl Side<'_> {
    /// `.package.Outer.Inner` -> `Outer.Inner`.
    fn local<'n>(&self, full: &'n str) -> &'n str {
        let name = full.trim_start_matches('.');
        name.strip_prefix(self.package).and_then(|rest| rest.strip_prefix('.')).unwrap_or(name)
    }

    fn message(&self, full: &str) -> Option<MessageDescriptor> {
        self.pool.get_message_by_name(full.trim_start_matches('.'))
    }
}

/// What keeps `reader` from reading what `writer` wrote; empty: nothing. Errors: the schemas are too large to compare.
pub(crate) fn incompatibilities(reader: &Protobuf, writer: &Protobuf) -> Result<Differences, Reason> {
    let (was, is) = (&writer.file, &reader.file);
    let old = Side { pool: &writer.pool, package: was.package() };
    let new = Side { pool: &reader.pool, package: is.package() };
    let found = Pairs::settle(|known| {
        let mut found = Vec::new();
        if was.package != is.package {
            let words = "The package at '%p' in the %r schema does not match the package in the %w schema";
            say(&mut found, "PACKAGE_CHANGED", "", words);
        }
        messages(known, (&old, &was.message_type), (&new, &is.message_type), "", &mut found)?;
        Ok(found)
    })?;
    Ok(found.into_iter().map(|one| Difference { path: format!("#/{}", one.path.trim_start_matches('/')), ..one }).collect())
}

fn messages(
    known: &mut Known,
    (old, was): (&Side<'_>, &[DescriptorProto]),
    (new, is): (&Side<'_>, &[DescriptorProto]),
    within: &str,
    found: &mut Differences,
) -> Result<(), Reason> {
    for message in was.iter().filter(|message| !is_map(message)) {
        let path = format!("{within}/{}", message.name());
        match is.iter().find(|one| one.name() == message.name()) {
            Some(now) => {
                let names = (format!("{}{path}", old.package), format!("{}{path}", new.package));
                let wrong = known.pair(names, |known| {
                    let mut found = Vec::new();
                    fields(known, (old, message), (new, now), &mut found)?;
                    Ok(found)
                })?;
                append(found, &wrong, &path);
                messages(known, (old, &message.nested_type), (new, &now.nested_type), &path, found)?;
            }
            // Moved into an import it is still there.
            None if new.message(&format!("{}.{}", new.package, path.trim_start_matches('/').replace('/', "."))).is_some() => {}
            None => {
                let words = "The %r schema is missing a MESSAGE type at path '%p' in the %w schema";
                say(found, "MESSAGE_REMOVED", &path, words);
            }
        }
    }
    Ok(())
}

fn is_map(message: &DescriptorProto) -> bool {
    message.options.as_ref().is_some_and(|options| options.map_entry())
}

/// The fields of a message by number, each with the oneof it belongs to.
type Fields<'a> = BTreeMap<i32, (&'a FieldDescriptorProto, Option<&'a str>)>;

fn by_number(message: &DescriptorProto) -> Fields<'_> {
    let oneof = |field: &FieldDescriptorProto| {
        // An `optional` of proto3 is a oneof of its own that nobody wrote.
        let index = field.oneof_index.filter(|_| !field.proto3_optional())?;
        message.oneof_decl.get(usize::try_from(index).ok()?).map(|oneof| oneof.name())
    };
    message.field.iter().map(|field| (field.number(), (field, oneof(field)))).collect()
}

fn fields(
    known: &mut Known,
    (old, was): (&Side<'_>, &DescriptorProto),
    (new, is): (&Side<'_>, &DescriptorProto),
    found: &mut Differences,
) -> Result<(), Reason> {
    let (had, has) = (by_number(was), by_number(is));
    exclusive(&had, &has, found);
    for (number, (field, oneof)) in &had {
        let path = format!("/{number}");
        match (has.get(number), oneof) {
            (Some((now, _)), _) => compare(known, (old, field), (new, now), &path, found)?,
            (None, Some(oneof)) => {
                // A oneof that goes as a whole takes its fields with it.
                let survives = had.iter().any(|(number, (_, other))| other == &Some(*oneof) && has.contains_key(number));
                if survives || has.values().any(|(_, other)| other == &Some(*oneof)) {
                    let words = "The %r schema is missing a oneof field at path '%p' in the %w schema";
                    say(found, "ONEOF_FIELD_REMOVED", &format!("/{oneof}/{number}"), words);
                }
            }
            (None, None) if field.label() == Label::Required => {
                say(found, "REQUIRED_FIELD_REMOVED", &path, "The %r schema is missing a required field at path: '%p' in the %w schema");
            }
            (None, None) => {}
        }
    }
    for (number, (field, _)) in has.iter().filter(|(number, _)| !had.contains_key(number)) {
        if field.label() == Label::Required {
            let words = "A required field  at path '%p' in the %r schema is missing in the %w schema";
            say(found, "REQUIRED_FIELD_ADDED", &format!("/{number}"), words);
        }
    }
    Ok(())
}

/// Fields that could be set together, and no longer can.
fn exclusive(had: &Fields<'_>, has: &Fields<'_>, found: &mut Differences) {
    let oneofs: BTreeSet<&str> = has.values().filter_map(|(_, oneof)| *oneof).collect();
    for oneof in oneofs {
        let mut origins = BTreeSet::new();
        let mut moved = 0;
        for number in has.iter().filter(|(_, (_, other))| *other == Some(oneof)).map(|(number, _)| number) {
            match had.get(number) {
                Some((_, Some(before))) => {
                    origins.insert((*before).to_owned());
                }
                Some((_, None)) => {
                    origins.insert(format!("#{number}"));
                    moved += 1;
                }
                None => {}
            }
        }
        let path = format!("/{oneof}");
        if origins.len() > 1 && moved > 1 {
            let words = "Multiple fields in the oneof at path '%p' in the %r schema are outside a oneof in the %w schema";
            say(found, "MULTIPLE_FIELDS_MOVED_TO_ONEOF", &path, words);
        } else if origins.len() > 1 {
            let words = "A field in the oneof at path '%p' in the %r schema is outside an existing oneof in the %w schema";
            say(found, "FIELD_MOVED_TO_EXISTING_ONEOF", &path, words);
        }
    }
}

/// A field and its schema.
type Of<'a> = (&'a Side<'a>, &'a FieldDescriptorProto);

fn compare(known: &mut Known, (old, was): Of<'_>, (new, is): Of<'_>, path: &str, found: &mut Differences) -> Result<(), Reason> {
    match (map_of(old, was), map_of(new, is)) {
        (Some(was), Some(is)) => {
            for (was_part, is_part) in was.field.iter().zip(&is.field) {
                compare(known, (old, was_part), (new, is_part), path, found)?;
            }
            return Ok(());
        }
        (None, None) => {}
        _ => {
            say(found, "FIELD_KIND_CHANGED", path, KIND);
            return Ok(());
        }
    }
    match (encoding(was.r#type()), encoding(is.r#type())) {
        (Encoding::Message, Encoding::Message) => named(known, (old, was), (new, is), path, found)?,
        (Encoding::Message, _) | (_, Encoding::Message) => say(found, "FIELD_KIND_CHANGED", path, KIND),
        (before, after) if before != after => {
            let words = "The kind of a SCALAR field at path '%p' in the %r schema does not match its kind in the %w schema";
            say(found, "FIELD_SCALAR_KIND_CHANGED", path, words);
        }
        (Encoding::Text, _) => {}
        _ => {
            if was.label() != is.label() {
                let words = "The label for a NUMERIC field at path '%p' in the %r schema does not match its label in the %w schema";
                say(found, "FIELD_NUMERIC_LABEL_CHANGED", path, words);
            }
        }
    }
    Ok(())
}

const KIND: &str = "The type of a field at path '%p' in the %r schema does not match the %w schema";

/// Two fields of messages: the same name in its package, and where it comes from elsewhere, the same on the wire.
fn named(
    known: &mut Known,
    (old, was): (&Side<'_>, &FieldDescriptorProto),
    (new, is): (&Side<'_>, &FieldDescriptorProto),
    path: &str,
    found: &mut Differences,
) -> Result<(), Reason> {
    const WORDS: &str = "The type of a MESSAGE field at path '%p' in the %r schema does not match its type in the %w schema";
    let (Some(before), Some(after)) = (old.message(was.type_name()), new.message(is.type_name())) else { return Ok(()) };
    // Each file has its package: names are compared without them.
    let (was_side, is_side) =
        (Side { pool: old.pool, package: before.package_name() }, Side { pool: new.pool, package: after.package_name() });
    if was_side.local(was.type_name()) != is_side.local(is.type_name()) {
        say(found, "FIELD_NAMED_TYPE_CHANGED", path, WORDS);
        return Ok(());
    }
    let names = (before.full_name().to_owned(), after.full_name().to_owned());
    let wrong = known.pair(names, |known| {
        let mut found = Vec::new();
        fields(known, (&was_side, before.descriptor_proto()), (&is_side, after.descriptor_proto()), &mut found)?;
        Ok(found)
    })?;
    if !wrong.is_empty() {
        say(found, "FIELD_NAMED_TYPE_CHANGED", path, WORDS);
    }
    Ok(())
}

/// The entry of a map field: its key and its value.
fn map_of(side: &Side<'_>, field: &FieldDescriptorProto) -> Option<DescriptorProto> {
    if field.label() != Label::Repeated || field.r#type() != Type::Message {
        return None;
    }
    side.message(field.type_name()).filter(MessageDescriptor::is_map_entry).map(|entry| entry.descriptor_proto().clone())
}

/// Types whose values are the same bytes on the wire.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Varint,
    ZigZag,
    Fixed32,
    Fixed64,
    Float,
    Double,
    Text,
    Message,
}

const fn encoding(kind: Type) -> Encoding {
    match kind {
        Type::Int32 | Type::Int64 | Type::Uint32 | Type::Uint64 | Type::Bool | Type::Enum => Encoding::Varint,
        Type::Sint32 | Type::Sint64 => Encoding::ZigZag,
        Type::Fixed32 | Type::Sfixed32 => Encoding::Fixed32,
        Type::Fixed64 | Type::Sfixed64 => Encoding::Fixed64,
        Type::Float => Encoding::Float,
        Type::Double => Encoding::Double,
        Type::String | Type::Bytes => Encoding::Text,
        Type::Message | Type::Group => Encoding::Message,
    }
}

fn say(found: &mut Differences, kind: &'static str, path: &str, words: &str) {
    found.push(Difference { kind, path: path.to_owned(), words: words.to_owned(), detail: None });
}
