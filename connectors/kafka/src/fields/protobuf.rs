//! Rules over a value in Protobuf: the bytes are rewritten by the schema they were written with, which gets a form of its own.
//!
//! ```text
//! value     the path of its message within the file (0: the first one), then fields: number and wire type, payload
//! forms     a message under rules, each field with what becomes of it; what its fields hold is a form, too
//! ```
//!
//! A field that is masked or hashed becomes a `string` of the same number; of a list, or a map, one for all of it. A field without presence is always
//! there: where it is not written it has its zero, which is hashed like any other value. Fields that the schema does not know stay at home, wherever
//! they are: nobody can say what they are called.

mod plan;
mod schema;
mod wire;

use super::{Changer, Fields, How, Rule};
use millrace_config::Reason;
use millrace_schemas::varint;
use plan::{Form, What, fits};
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use std::collections::{BTreeMap, HashSet};
use wire::{BYTES, Field};

/// How deep values may nest.
const DEPTH: usize = 100;

/// What rules make of one message.
#[derive(Debug)]
pub struct Projection {
    /// The first is the value's own.
    forms: Vec<Form>,
    /// Fields that are to be changed and that the schema does not have.
    missed: u64,
    /// The schema of what leaves.
    pub schema: String,
    /// What stands between the schema's id and the message: which of the file's messages it is.
    pub indexes: Vec<u8>,
}

impl Projection {
    /// Errors: the schema has what rules cannot be applied to.
    pub fn new(message: MessageDescriptor, fields: &Fields) -> Result<Self, Reason> {
        let (forms, missed) = plan::forms(message, fields)?;
        let (schema, path) = schema::write(&forms)?;
        let mut indexes = Vec::new();
        match &path[..] {
            [0] => indexes.push(0),
            path => {
                varint::push(&mut indexes, varint::zigzag(path.len() as i64));
                path.iter().for_each(|step| varint::push(&mut indexes, varint::zigzag(*step as i64)));
            }
        }
        Ok(Self { forms, missed, schema, indexes })
    }

    /// Appends what leaves of a message. Returns how many fields were to be changed and are not there.
    ///
    /// Errors: it is not what its schema says, so that nothing of it may leave.
    pub fn apply(&self, changer: &Changer<'_>, message: &[u8], out: &mut Vec<u8>) -> Result<u64, Reason> {
        match self.message(0, changer, message, out, 0) {
            Some(()) => Ok(self.missed),
            None => Err("its fields cannot be told apart: it is not what its schema says".into()),
        }
    }

    fn message(&self, form: usize, changer: &Changer<'_>, message: &[u8], out: &mut Vec<u8>, depth: usize) -> Option<()> {
        if depth > DEPTH {
            return None;
        }
        let form = &self.forms[form];
        let (mut seen, mut lists) = (HashSet::new(), BTreeMap::<u32, Vec<u8>>::new());
        let mut rest = message;
        while !rest.is_empty() {
            let field = wire::next(&mut rest)?;
            let Some((known, what)) = form.fields.get(&field.number).filter(|(known, _)| fits(known, field.wire)) else { continue };
            match what {
                What::Keep => out.extend_from_slice(field.raw),
                What::Message(below) => {
                    let mut inner = Vec::new();
                    self.message(*below, changer, field.payload, &mut inner, depth + 1)?;
                    wire::bytes(out, field.number, &inner);
                }
                What::Entries(below, rules) => {
                    let mut inner = Vec::new();
                    if self.entry(*below, rules, changer, field.payload, &mut inner, depth + 1)? {
                        wire::bytes(out, field.number, &inner);
                    }
                }
                What::Text(how, path) => {
                    if !known.supports_presence() {
                        seen.insert(field.number);
                    }
                    text(out, field.number, changer, *how, path, &plain(known, &field)?);
                }
                What::List(..) => {
                    let whole = lists.entry(field.number).or_default();
                    varint::push(whole, field.payload.len() as u64);
                    whole.extend_from_slice(field.payload);
                }
            }
        }
        for (number, (known, what)) in &form.fields {
            match what {
                // It has its zero.
                What::Text(how, path) if !known.supports_presence() && !seen.contains(number) => {
                    text(out, *number, changer, *how, path, &zero(known));
                }
                What::List(how, path) => {
                    if let Some(whole) = lists.get(number) {
                        text(out, *number, changer, *how, path, whole);
                    }
                }
                _ => {}
            }
        }
        Some(())
    }

    /// An entry of a map, whose keys are data; `false`: it stays at home.
    fn entry(&self, form: usize, rules: &Fields, changer: &Changer<'_>, entry: &[u8], out: &mut Vec<u8>, depth: usize) -> Option<bool> {
        let (key_field, value_field) = (&self.forms[form].fields.get(&1)?.0, &self.forms[form].fields.get(&2)?.0);
        let (mut key, mut value) = (None, None);
        let mut rest = entry;
        while !rest.is_empty() {
            let field = wire::next(&mut rest)?;
            match field.number {
                1 if fits(key_field, field.wire) => key = Some(field),
                2 if fits(value_field, field.wire) => value = Some(field),
                _ => {}
            }
        }
        let name = key.as_ref().map_or_else(|| Some(zero(key_field)), |key| plain(key_field, key))?;
        match rules.of(std::str::from_utf8(&name).ok()?).0 {
            Rule::Leave => {
                self.message(form, changer, entry, out, depth)?;
                Some(true)
            }
            Rule::Change(how, path) if matches!(value_field.kind(), Kind::String) => {
                if let Some(key) = &key {
                    out.extend_from_slice(key.raw);
                }
                text(out, 2, changer, *how, path, value.as_ref().map_or(&[], |value| value.payload));
                Some(true)
            }
            // What it would become is no value of this map.
            _ => Some(false),
        }
    }
}

fn text(out: &mut Vec<u8>, number: u32, changer: &Changer<'_>, how: How, path: &str, plain: &[u8]) {
    let mut changed = Vec::new();
    changer.change(how, path, plain, &mut changed);
    wire::bytes(out, number, &changed);
}

/// A value as it is hashed: of a text its characters, of a number its digits, of an enumeration its word.
fn plain(field: &FieldDescriptor, value: &Field<'_>) -> Option<Vec<u8>> {
    let payload = value.payload;
    let number = |bytes: &[u8]| varint::read(bytes).ok().map(|(number, _)| number);
    let four = || <[u8; 4]>::try_from(payload).ok();
    let eight = || <[u8; 8]>::try_from(payload).ok();
    Some(match field.kind() {
        _ if value.wire == BYTES => payload.to_vec(),
        Kind::Bool => if number(payload)? == 0 { &b"false"[..] } else { b"true" }.to_vec(),
        Kind::Int32 => (number(payload)? as i32).to_string().into_bytes(),
        Kind::Int64 => (number(payload)? as i64).to_string().into_bytes(),
        Kind::Uint32 => (number(payload)? as u32).to_string().into_bytes(),
        Kind::Uint64 => number(payload)?.to_string().into_bytes(),
        Kind::Sint32 | Kind::Sint64 => varint::unzigzag(number(payload)?).to_string().into_bytes(),
        Kind::Fixed32 => u32::from_le_bytes(four()?).to_string().into_bytes(),
        Kind::Sfixed32 => i32::from_le_bytes(four()?).to_string().into_bytes(),
        Kind::Float => format!("{:?}", f32::from_le_bytes(four()?)).into_bytes(),
        Kind::Fixed64 => u64::from_le_bytes(eight()?).to_string().into_bytes(),
        Kind::Sfixed64 => i64::from_le_bytes(eight()?).to_string().into_bytes(),
        Kind::Double => format!("{:?}", f64::from_le_bytes(eight()?)).into_bytes(),
        Kind::Enum(of) => word(&of, number(payload)? as i32),
        Kind::String | Kind::Bytes | Kind::Message(_) => payload.to_vec(),
    })
}

/// What a field has that is not written.
fn zero(field: &FieldDescriptor) -> Vec<u8> {
    match field.kind() {
        Kind::Bool => b"false".to_vec(),
        Kind::Float | Kind::Double => b"0.0".to_vec(),
        Kind::Enum(of) => word(&of, of.default_value().number()),
        Kind::String | Kind::Bytes | Kind::Message(_) => Vec::new(),
        _ => b"0".to_vec(),
    }
}

fn word(of: &prost_reflect::EnumDescriptor, number: i32) -> Vec<u8> {
    of.get_value(number).map_or_else(|| number.to_string(), |value| value.name().to_owned()).into_bytes()
}
