//! What becomes of each field of a message, and of the messages in it.

use super::wire::{BYTES, EIGHT, FOUR, VARINT};
use crate::fields::{Fields, How, Rule};
use millrace_config::Reason;
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

/// Forms of one schema.
const FORMS: usize = 10_000;

/// A message under rules: the fields that leave.
#[derive(Debug)]
pub(super) struct Form {
    pub message: MessageDescriptor,
    pub fields: BTreeMap<u32, (FieldDescriptor, What)>,
}

/// What becomes of a field that leaves.
#[derive(Debug)]
pub(super) enum What {
    /// It leaves as it lies there.
    Keep,
    /// A message, or each of a list, by its form.
    Message(usize),
    /// A map: the form of its entries, which leave by their keys.
    Entries(usize, Fields),
    /// With its path.
    Text(How, Arc<str>),
    /// A list or a map as a whole.
    List(How, Arc<str>),
}

/// Whether a field can lie in the bytes like this; otherwise it is one that nobody knows.
pub(super) fn fits(field: &FieldDescriptor, wire: u8) -> bool {
    let own = match field.kind() {
        Kind::Double | Kind::Fixed64 | Kind::Sfixed64 => EIGHT,
        Kind::Float | Kind::Fixed32 | Kind::Sfixed32 => FOUR,
        Kind::String | Kind::Bytes | Kind::Message(_) => BYTES,
        _ => VARINT,
    };
    // Numbers of a list may lie there one by one, or packed.
    wire == own || wire == BYTES && field.is_list()
}

/// Comes with Protobuf, so that every reader has it.
pub(super) fn is_of_protobuf(message: &MessageDescriptor) -> bool {
    message.parent_file().name().starts_with("google/protobuf/")
}

/// The forms that rules make of a message, the message's own first, and how many fields they miss in it.
pub(super) fn forms(root: MessageDescriptor, rules: &Fields) -> Result<(Vec<Form>, u64), Reason> {
    let mut building = Building::default();
    building.form(root, Some(rules))?;
    while let Some((at, rules)) = building.open.pop_front() {
        building.fill(at, rules.as_ref())?;
    }
    Ok((building.forms, building.missed))
}

#[derive(Default)]
struct Building {
    forms: Vec<Form>,
    /// Forms whose fields are not there yet, and their rules; `None`: all leave.
    open: VecDeque<(usize, Option<Fields>)>,
    /// Messages that leave whole.
    whole: HashMap<String, usize>,
    missed: u64,
}

impl Building {
    fn form(&mut self, message: MessageDescriptor, rules: Option<&Fields>) -> Result<usize, Reason> {
        let at = self.forms.len();
        if rules.is_none() {
            if let Some(known) = self.whole.get(message.full_name()) {
                return Ok(*known);
            }
            self.whole.insert(message.full_name().to_owned(), at);
        }
        if at == FORMS {
            return Err(format!("it has more than {FORMS} messages").into());
        }
        self.forms.push(Form { message, fields: BTreeMap::new() });
        self.open.push_back((at, rules.cloned()));
        Ok(at)
    }

    fn fill(&mut self, at: usize, rules: Option<&Fields>) -> Result<(), Reason> {
        let message = self.forms[at].message.clone();
        let mut fields = BTreeMap::new();
        for field in message.fields() {
            let rule = rules.map_or(&Rule::Leave, |rules| {
                let name = if rules.named.contains_key(field.name()) { field.name() } else { field.json_name() };
                rules.of(name).0
            });
            if let Some(what) = self.what(&field, rule)? {
                fields.insert(field.number(), (field, what));
            }
        }
        let known = |name: &str| message.get_field_by_name(name).is_some() || message.get_field_by_json_name(name).is_some();
        let absent = rules.into_iter().flat_map(|rules| &rules.named).filter(|(name, _)| !known(name));
        self.missed += absent.map(|(_, rule)| rule.changes()).sum::<u64>();
        self.forms[at].fields = fields;
        Ok(())
    }

    /// `None`: it stays at home.
    fn what(&mut self, field: &FieldDescriptor, rule: &Rule) -> Result<Option<What>, Reason> {
        if *rule == Rule::Stay {
            return Ok(None);
        }
        if field.is_group() {
            return Err(format!("{} is a group; let it stay at home", field.full_name()).into());
        }
        Ok(Some(match (rule, field.kind()) {
            (Rule::Change(how, path), _) if field.is_list() || field.is_map() => What::List(*how, path.clone()),
            (Rule::Change(how, path), _) => What::Text(*how, path.clone()),
            (Rule::Fields(below), Kind::Message(entry)) if field.is_map() => What::Entries(self.form(entry, None)?, below.clone()),
            (Rule::Fields(below), Kind::Message(message)) => What::Message(self.form(message, Some(below))?),
            (Rule::Fields(below), _) => {
                // No fields where some were expected: nobody said that it may leave.
                self.missed += below.changes();
                return Ok(None);
            }
            (_, Kind::Message(message)) if !is_of_protobuf(&message) => What::Message(self.form(message, None)?),
            _ => What::Keep,
        }))
    }
}
