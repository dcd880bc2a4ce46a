//! From the text of a `.proto` file, and of those it imports, to a message.

use crate::contract::protobuf::types::{Field, Fields, Form, Message, OWN, Scalar, Shape};
use crate::contract::schema::{Kind, Reference, Schema};
use crate::contract::work::push_long;
use crate::schema_error::{Files, SchemaError};
use prost_reflect::{Cardinality, FileDescriptor, Kind as Of, MessageDescriptor};
use protox::Compiler;
use protox::file::{File, FileResolver, GoogleFileResolver};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

/// Files that a schema may name, one naming the next.
const FILES_MAX: usize = 200;

pub(in crate::contract) fn compile(text: &str, name: Option<&str>, files: &mut Files<'_>) -> Result<(Schema, Message), SchemaError> {
    let mut texts = BTreeMap::new();
    let references = load(OWN, text, files, &mut texts, &mut Vec::new())?;
    let sources =
        Sources { texts: texts.iter().map(|(name, (text, _))| (name.clone(), text.clone())).collect(), google: GoogleFileResolver::new() };
    let compiled =
        Compiler::with_file_resolver(Given(Mutex::new(sources))).include_imports(true).open_file(OWN).map(|c| c.descriptor_pool());
    let pool = compiled.map_err(|error| fault(&error, text))?;
    let file = pool.get_file_by_name(OWN).ok_or_else(|| SchemaError::whole("is not compiled"))?;
    let root = message_of(&file, name)?;
    let mut types = Types::default();
    let at = types.message(&root)?;
    let indexes = indexes(&root);
    let schema = Schema { kind: Kind::Protobuf, text: text.into(), name: root.full_name().into(), references, indexes };
    Ok((schema, Message { types: types.types, root: at }))
}

fn message_of(file: &FileDescriptor, name: Option<&str>) -> Result<MessageDescriptor, SchemaError> {
    let Some(name) = name else {
        return file.messages().next().ok_or_else(|| SchemaError::whole("declares no message"));
    };
    let mut rest: Vec<MessageDescriptor> = file.messages().collect();
    while let Some(message) = rest.pop() {
        if message.full_name() == name || message.name() == name {
            return Ok(message);
        }
        rest.extend(message.child_messages());
    }
    Err(SchemaError::whole(format!("declares no message {name}")))
}

/// Which message of the file: its index, within which, and so on outward; `[0]` is a single zero.
fn indexes(message: &MessageDescriptor) -> Box<[u8]> {
    // A descriptor's path alternates field numbers of its container with indexes.
    let path: Vec<i64> = message.path().iter().skip(1).step_by(2).map(|index| i64::from(*index)).collect();
    let mut out = Vec::new();
    if path == [0] {
        out.push(0);
    } else {
        push_long(&mut out, path.len() as i64);
        path.iter().for_each(|index| push_long(&mut out, *index));
    }
    out.into()
}

type Texts = BTreeMap<String, (String, Arc<Schema>)>;

/// Loads what a file imports, and what that imports; what comes with Protobuf is known.
fn load(file: &str, text: &str, files: &mut Files<'_>, texts: &mut Texts, open: &mut Vec<String>) -> Result<Vec<Reference>, SchemaError> {
    let parsed = File::from_source(file, text).map_err(|error| fault(&error, text))?;
    if file == OWN {
        let schema = Schema { kind: Kind::Protobuf, text: text.into(), name: "".into(), references: Vec::new(), indexes: Box::default() };
        texts.insert(OWN.to_owned(), (text.to_owned(), Arc::new(schema)));
    }
    let mut references = Vec::new();
    for name in parsed.file_descriptor_proto().dependency.clone() {
        if name.starts_with("google/protobuf/") && GoogleFileResolver::new().open_file(&name).is_ok() {
            continue;
        }
        if open.contains(&name) {
            return Err(SchemaError::whole(format!("imports {name}, which imports it again")));
        }
        if !texts.contains_key(&name) {
            if texts.len() + open.len() >= FILES_MAX {
                return Err(SchemaError::whole(format!("names more than {FILES_MAX} files")));
            }
            let inner = files(&name).ok_or_else(|| SchemaError::whole(format!("imports {name}, which is not there")))?;
            open.push(name.clone());
            let below = load(&name, &inner, files, texts, open).map_err(|e| e.within(&name))?;
            open.pop();
            let schema =
                Schema { kind: Kind::Protobuf, text: inner.as_str().into(), name: "".into(), references: below, indexes: Box::new([0]) };
            texts.insert(name.clone(), (inner, Arc::new(schema)));
        }
        references.push(Reference { name: name.as_str().into(), schema: texts[&name].1.clone() });
    }
    Ok(references)
}

/// Where the compiler found something, as lines and columns.
fn fault(error: &protox::Error, text: &str) -> SchemaError {
    let own = error.file().is_none_or(|file| file == OWN);
    let what = error.to_string();
    // The compiler's own form is `file:line:column: what`.
    let shown = format!("{error:?}");
    let place = shown.split_once(':').map_or("", |(_, rest)| rest);
    let mut parts = place.splitn(3, ':').map(str::trim);
    let mut number = || parts.next().and_then(|p| p.parse().ok()).unwrap_or(0_usize);
    let (line, column) = (number(), number());
    let line = if line <= text.lines().count() + 1 { line } else { 0 };
    SchemaError { file: (!own).then(|| error.file().unwrap_or_default().to_owned()), line, column, what }
}

struct Sources {
    texts: HashMap<String, String>,
    google: GoogleFileResolver,
}

/// Gives out the files that were loaded.
struct Given(Mutex<Sources>);

impl FileResolver for Given {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        let sources = self.0.lock().map_err(|_| protox::Error::file_not_found(name))?;
        match sources.texts.get(name) {
            Some(text) => File::from_source(name, text),
            None => sources.google.open_file(name),
        }
    }
}

#[derive(Default)]
struct Types {
    types: Vec<Fields>,
    known: HashMap<String, usize>,
}

impl Types {
    fn message(&mut self, message: &MessageDescriptor) -> Result<usize, SchemaError> {
        if let Some(at) = self.known.get(message.full_name()) {
            return Ok(*at);
        }
        let form = match message.full_name() {
            "google.protobuf.Timestamp" => Form::Timestamp,
            "google.protobuf.Duration" => Form::Duration,
            "google.protobuf.Struct" => Form::Struct,
            "google.protobuf.Value" => Form::Value,
            "google.protobuf.ListValue" => Form::List,
            "google.protobuf.Any" | "google.protobuf.FieldMask" => {
                return Err(SchemaError::whole(format!("{} is not converted from JSON", message.full_name())));
            }
            name if name.starts_with("google.protobuf.") && name.ends_with("Value") && message.fields().len() == 1 => Form::Wrapper,
            _ => Form::Object,
        };
        let at = self.types.len();
        self.known.insert(message.full_name().to_owned(), at);
        self.types.push(Fields {
            name: message.full_name().into(),
            form,
            fields: Vec::new(),
            by_name: HashMap::new(),
            required: Vec::new(),
        });
        if matches!(form, Form::Struct | Form::Value | Form::List) {
            return Ok(at); // written as JSON has them
        }
        let (mut fields, mut by_name, mut required) = (Vec::new(), HashMap::new(), Vec::new());
        let oneofs: Vec<String> = message.oneofs().map(|o| o.full_name().to_owned()).collect();
        for field in message.fields() {
            if field.is_group() {
                return Err(SchemaError::whole(format!("{} is a group, which JSON has no form for", field.full_name())));
            }
            let shape = if field.is_map() {
                Shape::Map
            } else if field.is_list() {
                Shape::List { packed: field.is_packed() }
            } else {
                Shape::One
            };
            by_name.insert(field.name().into(), fields.len());
            by_name.insert(field.json_name().into(), fields.len());
            if field.cardinality() == Cardinality::Required {
                required.push(fields.len());
            }
            let oneof = field.containing_oneof().filter(|o| !o.is_synthetic());
            fields.push(Field {
                name: field.json_name().into(),
                number: field.number(),
                of: self.scalar(&field.kind())?,
                shape,
                presence: field.supports_presence(),
                oneof: oneof.and_then(|o| oneofs.iter().position(|name| name == o.full_name())),
            });
        }
        let known = &mut self.types[at];
        (known.fields, known.by_name, known.required) = (fields, by_name, required);
        Ok(at)
    }

    fn scalar(&mut self, kind: &Of) -> Result<Scalar, SchemaError> {
        Ok(match kind {
            Of::Double => Scalar::Double,
            Of::Float => Scalar::Float,
            Of::Int32 => Scalar::Int32,
            Of::Int64 => Scalar::Int64,
            Of::Uint32 => Scalar::Uint32,
            Of::Uint64 => Scalar::Uint64,
            Of::Sint32 => Scalar::Sint32,
            Of::Sint64 => Scalar::Sint64,
            Of::Fixed32 => Scalar::Fixed32,
            Of::Fixed64 => Scalar::Fixed64,
            Of::Sfixed32 => Scalar::Sfixed32,
            Of::Sfixed64 => Scalar::Sfixed64,
            Of::Bool => Scalar::Bool,
            Of::String => Scalar::Text,
            Of::Bytes => Scalar::Bytes,
            Of::Enum(of) => Scalar::Enum {
                name: of.full_name().into(),
                values: of.values().map(|v| (v.name().into(), v.number())).collect(),
                is_closed: of.parent_file().syntax() == prost_reflect::Syntax::Proto2,
            },
            Of::Message(message) => Scalar::Message(self.message(message)?),
        })
    }
}
