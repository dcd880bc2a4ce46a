//! Rules over a value in Avro: the bytes are rewritten by the schema they were written with, which gets a form of its own.
//!
//! A field that is masked or hashed becomes `["null", "string"]`, whatever it was; a field that stays at home is gone from the schema, too.

use super::{Changer, Fields, How, Rule};
use millrace_config::Reason;
use millrace_schemas::avsc::{Avsc, Kind, Named, NodeId, Primitive};
use millrace_schemas::varint;
use serde_json::{Map, Value, json};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// How deep values may nest.
const DEPTH: usize = 128;
/// Items that take no bytes, in one list.
const EMPTY_ITEMS: u64 = 1 << 16;

/// What rules make of one schema.
#[derive(Debug)]
pub struct Projection {
    avsc: Avsc,
    root: Vec<(NodeId, Option<Plan>)>,
    /// Fields that are to be changed and that the schema does not have.
    missed: u64,
    /// The schema of what leaves.
    pub schema: String,
}

/// What becomes of a value that leaves.
#[derive(Debug)]
enum Plan {
    Keep(NodeId),
    Text(NodeId, How, Arc<str>),
    Record(NodeId, Vec<(NodeId, Option<Plan>)>),
    Array(Box<Plan>),
    Map(NodeId, Fields),
    /// Each branch with its new index; `None`: it is null from now on.
    Union {
        branches: Vec<(NodeId, Option<(usize, Plan)>)>,
        null: usize,
    },
}

impl Projection {
    /// Errors: the schema is not that of a record.
    pub fn new(avsc: Avsc, fields: &Fields) -> Result<Self, Reason> {
        let root = avsc.root();
        let Kind::Record { .. } = &avsc.node(root).kind else {
            return Err(format!("its schema is that of a value of type {}, which has no fields", avsc.node(root).type_name()).into());
        };
        let mut missed = 0;
        let plan = record(&avsc, root, fields, &mut missed);
        let schema = Writer { avsc: &avsc, names: HashMap::new(), taken: HashSet::new() }.record(root, &plan).to_string();
        Ok(Self { avsc, root: plan, missed, schema })
    }

    /// Appends what leaves of a value. Returns how many fields were to be changed and are not there.
    ///
    /// Errors: it is not what its schema says, so that nothing of it may leave.
    pub fn apply(&self, changer: &Changer<'_>, value: &[u8], out: &mut Vec<u8>) -> Result<u64, Reason> {
        let mut rest = value;
        let done = self.record(&self.root, changer, &mut rest, out, 0);
        match done {
            Some(()) if rest.is_empty() => Ok(self.missed),
            _ => Err("its fields cannot be told apart: it is not what its schema says".into()),
        }
    }

    fn record(
        &self,
        fields: &[(NodeId, Option<Plan>)],
        changer: &Changer<'_>,
        rest: &mut &[u8],
        out: &mut Vec<u8>,
        depth: usize,
    ) -> Option<()> {
        for (node, plan) in fields {
            match plan {
                Some(plan) => self.value(plan, changer, rest, out, depth + 1)?,
                None => self.skip(*node, rest, depth + 1)?,
            }
        }
        Some(())
    }

    fn value(&self, plan: &Plan, changer: &Changer<'_>, rest: &mut &[u8], out: &mut Vec<u8>, depth: usize) -> Option<()> {
        if depth > DEPTH {
            return None;
        }
        match plan {
            Plan::Keep(node) => {
                let before = *rest;
                self.skip(*node, rest, depth)?;
                out.extend_from_slice(&before[..before.len() - rest.len()]);
            }
            Plan::Text(node, how, path) => match self.plain(*node, rest, depth)? {
                Some(plain) => {
                    long(1, out);
                    let mut changed = Vec::new();
                    changer.change(*how, path, &plain, &mut changed);
                    bytes(&changed, out);
                }
                None => long(0, out),
            },
            Plan::Record(_, fields) => self.record(fields, changer, rest, out, depth)?,
            Plan::Array(items) => {
                while let Some(count) = block(rest)? {
                    long(i64::try_from(count).ok()?, out);
                    for _ in 0..count {
                        self.value(items, changer, rest, out, depth + 1)?;
                    }
                }
                long(0, out);
            }
            Plan::Map(values, fields) => {
                let is_text = matches!(self.avsc.node(*values).kind, Kind::Primitive(Primitive::String));
                let (mut kept, mut count) = (Vec::new(), 0);
                while let Some(entries) = block(rest)? {
                    for _ in 0..entries {
                        let key = sized(rest)?;
                        let before = *rest;
                        self.skip(*values, rest, depth + 1)?;
                        let value = &before[..before.len() - rest.len()];
                        let name = std::str::from_utf8(key).ok()?;
                        let written = kept.len();
                        bytes(key, &mut kept);
                        match fields.of(name).0 {
                            Rule::Leave => kept.extend_from_slice(value),
                            Rule::Change(how, path) if is_text => {
                                let mut changed = Vec::new();
                                changer.change(*how, path, sized(&mut &*value)?, &mut changed);
                                bytes(&changed, &mut kept);
                            }
                            // What it would become is no value of this map.
                            _ => {
                                kept.truncate(written);
                                continue;
                            }
                        }
                        count += 1;
                    }
                }
                if count > 0 {
                    long(count, out);
                    out.extend_from_slice(&kept);
                }
                long(0, out);
            }
            Plan::Union { branches, null } => {
                let (node, plan) = branches.get(usize::try_from(read_long(rest)?).ok()?)?;
                match plan {
                    Some((index, plan)) => {
                        long(*index as i64, out);
                        self.value(plan, changer, rest, out, depth + 1)?;
                    }
                    None => {
                        self.skip(*node, rest, depth + 1)?;
                        long(*null as i64, out);
                    }
                }
            }
        }
        Some(())
    }

    /// Reads over a value.
    fn skip(&self, node: NodeId, rest: &mut &[u8], depth: usize) -> Option<()> {
        if depth > DEPTH {
            return None;
        }
        match &self.avsc.node(node).kind {
            Kind::Primitive(Primitive::Null) => {}
            Kind::Primitive(Primitive::Boolean) => _ = take(rest, 1)?,
            Kind::Primitive(Primitive::Int | Primitive::Long) | Kind::Enum { .. } => _ = read_long(rest)?,
            Kind::Primitive(Primitive::Float) => _ = take(rest, 4)?,
            Kind::Primitive(Primitive::Double) => _ = take(rest, 8)?,
            Kind::Primitive(Primitive::Bytes | Primitive::String) => _ = sized(rest)?,
            Kind::Fixed { size, .. } => _ = take(rest, usize::try_from(*size).ok()?)?,
            Kind::Array(items) => {
                while let Some(count) = block(rest)? {
                    for _ in 0..count {
                        self.skip(*items, rest, depth + 1)?;
                    }
                }
            }
            Kind::Map(values) => {
                while let Some(count) = block(rest)? {
                    for _ in 0..count {
                        sized(rest)?;
                        self.skip(*values, rest, depth + 1)?;
                    }
                }
            }
            Kind::Union(branches) => {
                let branch = *branches.get(usize::try_from(read_long(rest)?).ok()?)?;
                self.skip(branch, rest, depth + 1)?;
            }
            Kind::Record { fields, .. } => {
                for field in fields {
                    self.skip(field.node, rest, depth + 1)?;
                }
            }
        }
        Some(())
    }

    /// A value as it is hashed: of a text its characters, of a number its digits, of bytes themselves; `None` inside: null.
    fn plain(&self, node: NodeId, rest: &mut &[u8], depth: usize) -> Option<Option<Vec<u8>>> {
        Some(Some(match &self.avsc.node(node).kind {
            Kind::Primitive(Primitive::Null) => return Some(None),
            Kind::Primitive(Primitive::Boolean) => if take(rest, 1)? == [1] { &b"true"[..] } else { b"false" }.to_vec(),
            Kind::Primitive(Primitive::Int | Primitive::Long) => read_long(rest)?.to_string().into_bytes(),
            Kind::Primitive(Primitive::Float) => format!("{:?}", f32::from_le_bytes(take(rest, 4)?.try_into().ok()?)).into_bytes(),
            Kind::Primitive(Primitive::Double) => format!("{:?}", f64::from_le_bytes(take(rest, 8)?.try_into().ok()?)).into_bytes(),
            Kind::Primitive(Primitive::Bytes | Primitive::String) => sized(rest)?.to_vec(),
            Kind::Enum { symbols, .. } => symbols.get(usize::try_from(read_long(rest)?).ok()?)?.clone().into_bytes(),
            Kind::Union(branches) if depth <= DEPTH => {
                let branch = *branches.get(usize::try_from(read_long(rest)?).ok()?)?;
                return self.plain(branch, rest, depth + 1);
            }
            _ => {
                let before = *rest;
                self.skip(node, rest, depth)?;
                before[..before.len() - rest.len()].to_vec()
            }
        }))
    }
}

/// The fields of a record, each with what becomes of it.
fn record(avsc: &Avsc, id: NodeId, rules: &Fields, missed: &mut u64) -> Vec<(NodeId, Option<Plan>)> {
    let Kind::Record { fields, .. } = &avsc.node(id).kind else { return Vec::new() };
    let absent = rules.named.iter().filter(|(name, _)| !fields.iter().any(|field| field.name == **name));
    *missed += absent.map(|(_, rule)| rule.changes()).sum::<u64>();
    fields.iter().map(|field| (field.node, plan(avsc, field.node, rules.of(&field.name).0, missed))).collect()
}

/// What becomes of a value; `None`: it stays at home. Goes no deeper than the rules.
fn plan(avsc: &Avsc, id: NodeId, rule: &Rule, missed: &mut u64) -> Option<Plan> {
    let fields = match rule {
        Rule::Leave => return Some(Plan::Keep(id)),
        Rule::Stay => return None,
        Rule::Change(how, path) => return Some(Plan::Text(id, *how, path.clone())),
        Rule::Fields(fields) => fields,
    };
    match &avsc.node(id).kind {
        Kind::Record { .. } => Some(Plan::Record(id, record(avsc, id, fields, missed))),
        Kind::Array(items) => plan(avsc, *items, rule, missed).map(|items| Plan::Array(Box::new(items))),
        Kind::Map(values) => Some(Plan::Map(*values, fields.clone())),
        Kind::Union(branches) => {
            let is_null = |id: &NodeId| matches!(avsc.node(*id).kind, Kind::Primitive(Primitive::Null));
            let mut index = 0;
            let mut planned = Vec::new();
            for branch in branches {
                let plan = if is_null(branch) { Some(Plan::Keep(*branch)) } else { plan(avsc, *branch, rule, missed) };
                planned.push((
                    *branch,
                    plan.map(|plan| {
                        index += 1;
                        (index - 1, plan)
                    }),
                ));
            }
            let null = planned.iter().find(|(branch, _)| is_null(branch)).and_then(|(_, plan)| plan.as_ref()).map(|(at, _)| *at);
            let leaves = planned.iter().any(|(branch, plan)| plan.is_some() && !is_null(branch));
            leaves.then_some(Plan::Union { branches: planned, null: null.unwrap_or(index) })
        }
        // No fields where some were expected: nobody said that it may leave.
        _ => {
            *missed += fields.changes();
            None
        }
    }
}

/// Writes the schema of what leaves.
struct Writer<'a> {
    avsc: &'a Avsc,
    /// Types that leave as they are, and what they are called.
    names: HashMap<NodeId, String>,
    taken: HashSet<String>,
}

impl Writer<'_> {
    /// A full name that is free: the type's own, where no other form of it has it.
    fn free(&mut self, named: &Named) -> (String, String, String) {
        let space = named.name.space.clone().unwrap_or_default();
        let mut number = 1;
        loop {
            let short = if number == 1 { named.name.name.clone() } else { format!("{}_{number}", named.name.name) };
            let full = if space.is_empty() { short.clone() } else { format!("{space}.{short}") };
            if self.taken.insert(full.clone()) {
                return (short, space, full);
            }
            number += 1;
        }
    }

    fn record(&mut self, id: NodeId, plan: &[(NodeId, Option<Plan>)]) -> Value {
        let node = self.avsc.node(id);
        let (Kind::Record { fields, .. }, Some(named)) = (&node.kind, node.named()) else { return Value::Null };
        let (short, space, _) = self.free(named);
        let mut written = Vec::new();
        for (field, (_, plan)) in fields.iter().zip(plan) {
            let Some(plan) = plan else { continue };
            let mut one = Map::new();
            one.insert("name".into(), field.name.clone().into());
            one.insert("type".into(), self.plan(plan));
            if let Some(doc) = &field.doc {
                one.insert("doc".into(), doc.clone().into());
            }
            match (plan, &field.default) {
                (Plan::Keep(_), Some(default)) => _ = one.insert("default".into(), default.clone()),
                (Plan::Text(..), _) => _ = one.insert("default".into(), Value::Null),
                (Plan::Union { null: 0, .. }, Some(Value::Null)) => _ = one.insert("default".into(), Value::Null),
                _ => {}
            }
            written.push(Value::Object(one));
        }
        let mut out = json!({"type": "record", "name": short, "namespace": space, "fields": written});
        self.about(named, &node.properties, &mut out);
        out
    }

    fn about(&self, named: &Named, properties: &Map<String, Value>, out: &mut Value) {
        let Value::Object(out) = out else { return };
        if let Some(doc) = &named.doc {
            out.insert("doc".into(), doc.clone().into());
        }
        out.extend(properties.clone());
    }

    fn plan(&mut self, plan: &Plan) -> Value {
        match plan {
            Plan::Keep(id) => self.whole(*id),
            Plan::Text(..) => json!(["null", "string"]),
            Plan::Record(id, fields) => self.record(*id, fields),
            Plan::Array(items) => json!({"type": "array", "items": self.plan(items)}),
            Plan::Map(values, _) => json!({"type": "map", "values": self.whole(*values)}),
            Plan::Union { branches, null } => {
                let mut out: Vec<Value> = branches.iter().filter_map(|(_, plan)| plan.as_ref()).map(|(_, plan)| self.plan(plan)).collect();
                if *null == out.len() {
                    out.push("null".into());
                }
                Value::Array(out)
            }
        }
    }

    fn whole(&mut self, id: NodeId) -> Value {
        let avsc = self.avsc;
        let node = avsc.node(id);
        if let Some(name) = self.names.get(&id) {
            return name.clone().into();
        }
        let head = |writer: &mut Self, named: &Named| {
            let (short, space, full) = writer.free(named);
            writer.names.insert(id, full);
            (short, space)
        };
        match &node.kind {
            Kind::Primitive(primitive) if node.properties.is_empty() => primitive.as_str().into(),
            Kind::Primitive(primitive) => with(json!({"type": primitive.as_str()}), &node.properties),
            Kind::Array(items) => with(json!({"type": "array", "items": self.whole(*items)}), &node.properties),
            Kind::Map(values) => with(json!({"type": "map", "values": self.whole(*values)}), &node.properties),
            Kind::Union(branches) => Value::Array(branches.iter().map(|branch| self.whole(*branch)).collect()),
            Kind::Enum { named, symbols, default } => {
                let (short, space) = head(self, named);
                let mut out = json!({"type": "enum", "name": short, "namespace": space, "symbols": symbols});
                if let (Some(default), Value::Object(out)) = (default, &mut out) {
                    out.insert("default".into(), default.clone().into());
                }
                self.about(named, &node.properties, &mut out);
                out
            }
            Kind::Fixed { named, size } => {
                let (short, space) = head(self, named);
                let mut out = json!({"type": "fixed", "name": short, "namespace": space, "size": size});
                self.about(named, &node.properties, &mut out);
                out
            }
            Kind::Record { named, fields, .. } => {
                let (short, space) = head(self, named);
                let mut written = Vec::new();
                for field in fields {
                    let mut one = Map::new();
                    one.insert("name".into(), field.name.clone().into());
                    one.insert("type".into(), self.whole(field.node));
                    if let Some(doc) = &field.doc {
                        one.insert("doc".into(), doc.clone().into());
                    }
                    if let Some(default) = &field.default {
                        one.insert("default".into(), default.clone());
                    }
                    one.extend(field.properties.clone());
                    written.push(Value::Object(one));
                }
                let mut out = json!({"type": "record", "name": short, "namespace": space, "fields": written});
                self.about(named, &node.properties, &mut out);
                out
            }
        }
    }
}

fn with(mut out: Value, properties: &Map<String, Value>) -> Value {
    if let Value::Object(out) = &mut out {
        out.extend(properties.clone());
    }
    out
}

fn take<'b>(rest: &mut &'b [u8], len: usize) -> Option<&'b [u8]> {
    let (taken, left) = rest.split_at_checked(len)?;
    *rest = left;
    Some(taken)
}

fn read_long(rest: &mut &[u8]) -> Option<i64> {
    let (value, len) = varint::read(rest).ok()?;
    *rest = &rest[len..];
    Some(varint::unzigzag(value))
}

fn sized<'b>(rest: &mut &'b [u8]) -> Option<&'b [u8]> {
    let len = usize::try_from(read_long(rest)?).ok()?;
    take(rest, len)
}

/// The items of the next block; `None` inside: the end. Nothing may announce more items than bytes, but for a few that have none.
fn block(rest: &mut &[u8]) -> Option<Option<u64>> {
    let count = read_long(rest)?;
    if count < 0 {
        read_long(rest)?;
    }
    let count = count.unsigned_abs();
    if count > rest.len() as u64 && count > EMPTY_ITEMS {
        return None;
    }
    Some((count > 0).then_some(count))
}

fn long(value: i64, out: &mut Vec<u8>) {
    varint::push(out, varint::zigzag(value));
}

fn bytes(value: &[u8], out: &mut Vec<u8>) {
    long(value.len() as i64, out);
    out.extend_from_slice(value);
}
