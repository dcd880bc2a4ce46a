//! Protobuf: a JSON document becomes a message, written straight from the scanned text.
//!
//! The mapping is the one Protobuf's specification has for JSON (ProtoJSON): keys as `json_name` or as in the file, 64-bit integers as numbers or
//! texts, enums by name or number, bytes in base64, `Timestamp` and `Duration` as texts, wrappers as their value, `Struct`, `Value` and `ListValue`
//! as any JSON. `null` is a field left out. A key that the message does not know, a number out of its range, two members of one `oneof` are misfits.
//! Not converted, and refused where a schema uses them: `Any`, `FieldMask`, groups.

use super::avro::{floating, integer, misfit_of};
use super::number::{self, Unscaled};
use super::time::{self, Unit};
use super::{Files, Kind, Misfit, Reference, Schema, SchemaError, Work, base64_of, insert, push_long, push_varint, shown};
use crate::scan::{Next, Scanner};
use prost_reflect::{Cardinality, FileDescriptor, Kind as Of, MessageDescriptor};
use protox::Compiler;
use protox::file::{File, FileResolver, GoogleFileResolver};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

/// Files that a schema may name, one naming the next.
const FILES_MAX: usize = 200;
/// The name the schema's own text is compiled under.
const OWN: &str = "millrace/schema.proto";
const UNPACKED: u32 = 2;

/// A compiled message, and all it holds.
#[derive(Debug)]
pub struct Message {
    types: Vec<Fields>,
    root: usize,
}

#[derive(Debug)]
struct Fields {
    name: Box<str>,
    form: Form,
    fields: Vec<Field>,
    by_name: HashMap<Box<str>, usize>,
    /// Numbers of the fields that must be there.
    required: Vec<usize>,
}

/// What JSON has for a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Form {
    Object,
    Timestamp,
    Duration,
    /// Of one field, `value`.
    Wrapper,
    Struct,
    Value,
    List,
}

#[derive(Debug)]
struct Field {
    name: Box<str>,
    number: u32,
    of: Scalar,
    shape: Shape,
    /// A zero is written like any other value.
    presence: bool,
    oneof: Option<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Shape {
    One,
    List {
        packed: bool,
    },
    /// Of entries: a key, a value.
    Map,
}

#[derive(Debug)]
enum Scalar {
    Double,
    Float,
    Int32,
    Int64,
    Uint32,
    Uint64,
    Sint32,
    Sint64,
    Fixed32,
    Fixed64,
    Sfixed32,
    Sfixed64,
    Bool,
    Text,
    Bytes,
    Enum { name: Box<str>, values: HashMap<Box<str>, i32>, is_closed: bool },
    Message(usize),
}

impl Scalar {
    const fn wire(&self) -> u32 {
        match self {
            Self::Double | Self::Fixed64 | Self::Sfixed64 => 1,
            Self::Text | Self::Bytes | Self::Message(_) => UNPACKED,
            Self::Float | Self::Fixed32 | Self::Sfixed32 => 5,
            _ => 0,
        }
    }
}

type Written = Result<(), Box<Misfit>>;

// ---- compiling ----------------------------------------------------------------------------------------------------------------

pub(super) fn compile(text: &str, name: Option<&str>, files: &mut Files<'_>) -> Result<(Schema, Message), SchemaError> {
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

// ---- writing ------------------------------------------------------------------------------------------------------------------

impl Message {
    pub(super) fn write(&self, scanner: &mut Scanner<'_>, out: &mut Vec<u8>, work: &mut Work) -> Written {
        self.message(self.root, scanner, out, work)
    }

    fn message(&self, at: usize, s: &mut Scanner<'_>, out: &mut Vec<u8>, work: &mut Work) -> Written {
        let of = &self.types[at];
        match of.form {
            Form::Object => self.object(of, s, out, work),
            Form::Wrapper => self.one(&of.fields[0], s, out, work),
            Form::Timestamp => timestamp(s, out),
            Form::Duration => duration(s, out),
            Form::Struct => any_object(s, out),
            Form::Value => any_value(s, out),
            Form::List => any_list(s, out),
        }
    }

    fn object(&self, of: &Fields, s: &mut Scanner<'_>, out: &mut Vec<u8>, work: &mut Work) -> Written {
        if s.peek()? != Next::Object {
            return Err(Misfit::expected(s, format!("an object: message {}", of.name)));
        }
        s.open()?;
        let mut seen = Seen::default();
        let mut oneofs = Seen::default();
        let mut next = 0;
        let mut first = true;
        while let Some(key) = s.next_key(first)? {
            first = false;
            let index = match of.fields.get(next) {
                Some(field) if key.is(&field.name) => next,
                _ => match of.by_name.get(&*key.cow()) {
                    Some(index) => *index,
                    None => return Err(Misfit::at(s, format!("key {} is not in message {}", shown(&key.cow()), of.name))),
                },
            };
            next = index + 1;
            let field = &of.fields[index];
            if seen.insert(index) {
                return Err(Misfit::at(s, format!("key {} is there twice", field.name)));
            }
            let takes_null = matches!(field.of, Scalar::Message(at) if self.types[at].form == Form::Value) && field.shape == Shape::One;
            if s.peek()? == Next::Null && !takes_null {
                s.null()?;
                continue;
            }
            if let Some(oneof) = field.oneof
                && oneofs.insert(oneof)
            {
                return Err(Misfit::at(s, format!("key {} and another of the same oneof", field.name)));
            }
            self.field(field, s, out, work).map_err(|misfit| misfit.in_key(&field.name))?;
        }
        match of.required.iter().find(|index| !seen.contains(**index)) {
            Some(index) => Err(Misfit::at(s, format!("{} is missing, and is required", of.fields[*index].name))),
            None => Ok(()),
        }
    }

    fn field(&self, field: &Field, s: &mut Scanner<'_>, out: &mut Vec<u8>, work: &mut Work) -> Written {
        match field.shape {
            Shape::One => self.one(field, s, out, work),
            Shape::List { packed } => {
                if s.peek()? != Next::Array {
                    return Err(Misfit::expected(s, "an array"));
                }
                s.open()?;
                let start = out.len();
                let mut count = 0;
                while s.next_item(count == 0)? {
                    if !packed {
                        push_tag(out, field.number, field.of.wire());
                    }
                    self.scalar(&field.of, s, out, work).map_err(|misfit| misfit.in_item(count))?;
                    count += 1;
                }
                if packed && count > 0 {
                    let len = out.len() - start;
                    insert(out, start, |out| {
                        push_tag(out, field.number, UNPACKED);
                        push_varint(out, len as u64);
                    });
                }
                Ok(())
            }
            Shape::Map => {
                let Scalar::Message(entry) = &field.of else { return Err(Misfit::at(s, "the schema is not complete")) };
                let [key_field, value_field] = &self.types[*entry].fields[..] else {
                    return Err(Misfit::at(s, "the schema is not complete"));
                };
                if s.peek()? != Next::Object {
                    return Err(Misfit::expected(s, "an object"));
                }
                s.open()?;
                let mut first = true;
                while let Some(key) = s.next_key(first)? {
                    first = false;
                    let name = key.cow();
                    let start = out.len();
                    // A key is a text; of a boolean it is what stands in the text.
                    let quoted = serde_json::Value::String(name.clone().into_owned()).to_string();
                    let text = if matches!(key_field.of, Scalar::Bool) { &*name } else { &quoted };
                    push_tag(out, 1, key_field.of.wire());
                    let mut inner = Scanner::new(text.as_bytes())?;
                    let key = self.scalar(&key_field.of, &mut inner, out, work).and_then(|()| Ok(inner.end()?));
                    key.map_err(|misfit| misfit.in_key(&name))?;
                    push_tag(out, 2, value_field.of.wire());
                    self.scalar(&value_field.of, s, out, work).map_err(|misfit| misfit.in_key(&name))?;
                    let len = out.len() - start;
                    insert(out, start, |out| {
                        push_tag(out, field.number, UNPACKED);
                        push_varint(out, len as u64);
                    });
                }
                Ok(())
            }
        }
    }

    fn one(&self, field: &Field, s: &mut Scanner<'_>, out: &mut Vec<u8>, work: &mut Work) -> Written {
        let start = out.len();
        push_tag(out, field.number, field.of.wire());
        let value = out.len();
        self.scalar(&field.of, s, out, work)?;
        // Where a zero says nothing it is not written: every scalar's zero is all zero bytes, an empty text is its length.
        if !field.presence && out[value..].iter().all(|b| *b == 0) {
            out.truncate(start);
        }
        Ok(())
    }

    /// Only what nests is decided here: the frames of a deep document stay small.
    fn scalar(&self, of: &Scalar, s: &mut Scanner<'_>, out: &mut Vec<u8>, work: &mut Work) -> Written {
        let Scalar::Message(at) = of else { return self.leaf(of, s, out, work) };
        let start = out.len();
        self.message(*at, s, out, work)?;
        let len = out.len() - start;
        insert(out, start, |out| push_varint(out, len as u64));
        Ok(())
    }

    #[inline(never)]
    fn leaf(&self, of: &Scalar, s: &mut Scanner<'_>, out: &mut Vec<u8>, work: &mut Work) -> Written {
        match of {
            Scalar::Double => out.extend_from_slice(&floating(s, "a double", number::double, |d| d)?.to_le_bytes()),
            Scalar::Float => out.extend_from_slice(&floating(s, "a float", number::float, |d| d as f32)?.to_le_bytes()),
            // A negative int32 takes ten bytes, as an int64 does.
            Scalar::Int32 => push_varint(out, i64::from(int32(s)?) as u64),
            Scalar::Int64 => push_varint(out, int64(s)? as u64),
            Scalar::Uint32 => push_varint(out, uint32(s)?.into()),
            Scalar::Uint64 => push_varint(out, uint64(s)?),
            Scalar::Sint32 => push_long(out, int32(s)?.into()),
            Scalar::Sint64 => push_long(out, int64(s)?),
            Scalar::Fixed32 => out.extend_from_slice(&uint32(s)?.to_le_bytes()),
            Scalar::Fixed64 => out.extend_from_slice(&uint64(s)?.to_le_bytes()),
            Scalar::Sfixed32 => out.extend_from_slice(&int32(s)?.to_le_bytes()),
            Scalar::Sfixed64 => out.extend_from_slice(&int64(s)?.to_le_bytes()),
            Scalar::Bool => {
                if s.peek()? != Next::Bool {
                    return Err(Misfit::expected(s, "a boolean"));
                }
                out.push(s.bool()?.into());
            }
            Scalar::Text => {
                if s.peek()? != Next::Text {
                    return Err(Misfit::expected(s, "a string"));
                }
                push_text(out, &s.text()?.cow());
            }
            Scalar::Bytes => {
                let bytes = base64_of(s, work, "bytes")?;
                push_varint(out, bytes.len() as u64);
                out.extend_from_slice(bytes);
            }
            Scalar::Enum { name, values, is_closed } => {
                let before = *s;
                let number = match s.peek()? {
                    Next::Text => values.get(&*s.text()?.cow()).copied(),
                    Next::Number => {
                        i32::try_from(integer(s, "a value of an enum")?).ok().filter(|n| !is_closed || values.values().any(|v| v == n))
                    }
                    _ => None,
                };
                let number = number.ok_or_else(|| Misfit::expected(&before, format!("a value of {name}")))?;
                push_varint(out, i64::from(number) as u64);
            }
            Scalar::Message(_) => return Err(Misfit::at(s, "the schema is not complete")),
        }
        Ok(())
    }
}

/// Which of the fields were there. Most messages have few.
#[derive(Default)]
struct Seen {
    low: u128,
    high: Vec<usize>,
}

impl Seen {
    /// True: it was there before.
    fn insert(&mut self, index: usize) -> bool {
        let was = self.contains(index);
        if index < 128 {
            self.low |= 1 << index;
        } else if !was {
            self.high.push(index);
        }
        was
    }

    fn contains(&self, index: usize) -> bool {
        if index < 128 { self.low >> index & 1 == 1 } else { self.high.contains(&index) }
    }
}

fn push_tag(out: &mut Vec<u8>, number: u32, wire: u32) {
    push_varint(out, u64::from(number << 3 | wire));
}

fn push_text(out: &mut Vec<u8>, text: &str) {
    push_varint(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

/// A length-delimited field whose content `write` appends.
fn delimited(out: &mut Vec<u8>, number: u32, write: impl FnOnce(&mut Vec<u8>) -> Written) -> Written {
    push_tag(out, number, UNPACKED);
    let start = out.len();
    write(out)?;
    let len = out.len() - start;
    insert(out, start, |out| push_varint(out, len as u64));
    Ok(())
}

/// An integer, as a number or in a text.
fn exact<T>(s: &mut Scanner<'_>, wanted: &str, read: impl FnOnce(&str) -> Result<T, number::Inexact>) -> Result<T, Box<Misfit>> {
    let before = *s;
    let read = match s.peek()? {
        Next::Number => read(s.number()?.text),
        Next::Text => read(&s.text()?.cow()),
        _ => Err(number::Inexact::NoNumber),
    };
    read.map_err(|why| misfit_of(&before, why, wanted))
}

fn int64(s: &mut Scanner<'_>) -> Result<i64, Box<Misfit>> {
    exact(s, "an int64", number::long)
}

fn int32(s: &mut Scanner<'_>) -> Result<i32, Box<Misfit>> {
    exact(s, "an int32", |text| i32::try_from(number::long(text)?).map_err(|_| number::Inexact::Larger))
}

fn uint64(s: &mut Scanner<'_>) -> Result<u64, Box<Misfit>> {
    exact(s, "a uint64", number::unsigned)
}

fn uint32(s: &mut Scanner<'_>) -> Result<u32, Box<Misfit>> {
    exact(s, "a uint32", |text| u32::try_from(number::unsigned(text)?).map_err(|_| number::Inexact::Larger))
}

/// Seconds in field 1, nanoseconds in field 2.
fn seconds_and_nanos(out: &mut Vec<u8>, seconds: i64, nanos: i64) {
    for (number, value) in [(1, seconds), (2, nanos)] {
        if value != 0 {
            push_tag(out, number, 0);
            push_varint(out, value as u64);
        }
    }
}

fn timestamp(s: &mut Scanner<'_>, out: &mut Vec<u8>) -> Written {
    let before = *s;
    let moment = if s.peek()? == Next::Text { time::moment(&s.text()?.cow(), false) } else { None };
    let (seconds, nanos) = moment.ok_or_else(|| Misfit::expected(&before, "a time as 2026-11-21T10:00:00Z"))?;
    seconds_and_nanos(out, seconds, nanos);
    Ok(())
}

fn duration(s: &mut Scanner<'_>, out: &mut Vec<u8>) -> Written {
    let before = *s;
    let wanted = || Misfit::expected(&before, "a duration as 1.5s");
    if s.peek()? != Next::Text {
        return Err(wanted());
    }
    let text = s.text()?.cow();
    let number = text.strip_suffix('s').ok_or_else(wanted)?;
    let nanos = Unscaled::read(number, 9, 21).ok().and_then(|n| n.long()).ok_or_else(wanted)?;
    let per_second = Unit::Nanos.of(1, 0).unwrap_or(1);
    seconds_and_nanos(out, nanos / per_second, nanos % per_second);
    Ok(())
}

// ---- any JSON -----------------------------------------------------------------------------------------------------------------

/// The fields of a Struct: entries of a map.
fn any_object(s: &mut Scanner<'_>, out: &mut Vec<u8>) -> Written {
    if s.peek()? != Next::Object {
        return Err(Misfit::expected(s, "an object"));
    }
    s.open()?;
    let mut first = true;
    while let Some(key) = s.next_key(first)? {
        first = false;
        let name = key.cow();
        delimited(out, 1, |out| {
            push_tag(out, 1, UNPACKED);
            push_text(out, &name);
            delimited(out, 2, |out| any_value(s, out))
        })
        .map_err(|misfit| misfit.in_key(&name))?;
    }
    Ok(())
}

/// The values of a ListValue.
fn any_list(s: &mut Scanner<'_>, out: &mut Vec<u8>) -> Written {
    if s.peek()? != Next::Array {
        return Err(Misfit::expected(s, "an array"));
    }
    s.open()?;
    let mut count = 0;
    while s.next_item(count == 0)? {
        delimited(out, 1, |out| any_value(s, out)).map_err(|misfit| misfit.in_item(count))?;
        count += 1;
    }
    Ok(())
}

/// The one field of a Value that says its kind.
fn any_value(s: &mut Scanner<'_>, out: &mut Vec<u8>) -> Written {
    match s.peek()? {
        Next::Null => {
            s.null()?;
            push_tag(out, 1, 0);
            out.push(0);
            Ok(())
        }
        Next::Number => {
            push_tag(out, 2, 1);
            out.extend_from_slice(&floating(s, "a double", number::double, |d| d)?.to_le_bytes());
            Ok(())
        }
        Next::Text => {
            let text = s.text()?;
            push_tag(out, 3, UNPACKED);
            push_text(out, &text.cow());
            Ok(())
        }
        Next::Bool => {
            push_tag(out, 4, 0);
            out.push(s.bool()?.into());
            Ok(())
        }
        Next::Object => delimited(out, 5, |out| any_object(s, out)),
        Next::Array => delimited(out, 6, |out| any_list(s, out)),
    }
}
