//! Writes a schema as Java's `Schema.toString()` does: no white space, attributes in one order, names no longer than needed.

use super::types::{Avsc, Field, Kind, Name, Named, NodeId};
use serde_json::{Map, Value};
use std::collections::HashSet;

struct Writer<'a> {
    schema: &'a Avsc,
    /// Types whose definition stands already; those of references from the start.
    written: HashSet<NodeId>,
    sorted: bool,
    out: String,
}

impl Avsc {
    /// The schema in Java's form: what comes from references is named, not repeated. `sorted`: attributes in order of their names.
    pub fn canonical(&self, sorted: bool) -> String {
        // Named types of references were read before: they are only named.
        let written = self.names.values().copied().filter(|id| *id < self.own).collect();
        let mut writer = Writer { schema: self, written, sorted, out: String::new() };
        writer.node(self.root, None);
        writer.out
    }
}

impl Writer<'_> {
    fn node(&mut self, id: NodeId, space: Option<&str>) {
        let node = self.schema.node(id);
        if let Some(named) = node.named()
            && !self.written.insert(id)
        {
            self.json(&Value::String(short(&named.name, space)));
            return;
        }
        match &node.kind {
            Kind::Primitive(primitive) if node.properties.is_empty() => self.json(&Value::String(primitive.as_str().to_owned())),
            Kind::Primitive(primitive) => {
                self.out.push_str("{\"type\":");
                self.json(&Value::String(primitive.as_str().to_owned()));
                self.properties(&node.properties);
                self.out.push('}');
            }
            Kind::Union(branches) => {
                self.out.push('[');
                for (index, branch) in branches.iter().enumerate() {
                    if index > 0 {
                        self.out.push(',');
                    }
                    self.node(*branch, space);
                }
                self.out.push(']');
            }
            Kind::Array(inner) | Kind::Map(inner) => {
                let (kind, key) = if matches!(node.kind, Kind::Array(_)) { ("array", "items") } else { ("map", "values") };
                self.out.push_str(&format!("{{\"type\":\"{kind}\",\"{key}\":"));
                self.node(*inner, space);
                self.properties(&node.properties);
                self.out.push('}');
            }
            Kind::Record { named, fields, is_error } => {
                self.head(if *is_error { "error" } else { "record" }, named, space);
                self.out.push_str(",\"fields\":[");
                for (index, field) in fields.iter().enumerate() {
                    if index > 0 {
                        self.out.push(',');
                    }
                    self.field(field, named.name.space.as_deref());
                }
                self.out.push(']');
                self.tail(named, &node.properties);
            }
            Kind::Enum { named, symbols, default } => {
                self.head("enum", named, space);
                self.out.push_str(",\"symbols\":");
                self.json(&Value::from(symbols.clone()));
                if let Some(default) = default {
                    self.out.push_str(",\"default\":");
                    self.json(&Value::String(default.clone()));
                }
                self.tail(named, &node.properties);
            }
            Kind::Fixed { named, size } => {
                self.head("fixed", named, space);
                self.out.push_str(&format!(",\"size\":{size}"));
                self.tail(named, &node.properties);
            }
        }
    }

    fn head(&mut self, kind: &str, named: &Named, space: Option<&str>) {
        self.out.push_str(&format!("{{\"type\":\"{kind}\",\"name\":"));
        self.json(&Value::String(named.name.name.clone()));
        if named.name.space.as_deref() != space {
            self.out.push_str(",\"namespace\":");
            self.json(&Value::String(named.name.space.clone().unwrap_or_default()));
        }
        if let Some(doc) = &named.doc {
            self.out.push_str(",\"doc\":");
            self.json(&Value::String(doc.clone()));
        }
    }

    fn tail(&mut self, named: &Named, properties: &Map<String, Value>) {
        if !named.aliases.is_empty() {
            let aliases: Vec<String> = named.aliases.iter().map(|alias| short(alias, named.name.space.as_deref())).collect();
            self.out.push_str(",\"aliases\":");
            self.json(&Value::from(aliases));
        }
        self.properties(properties);
        self.out.push('}');
    }

    fn field(&mut self, field: &Field, space: Option<&str>) {
        self.out.push_str("{\"name\":");
        self.json(&Value::String(field.name.clone()));
        self.out.push_str(",\"type\":");
        self.node(field.node, space);
        if let Some(doc) = &field.doc {
            self.out.push_str(",\"doc\":");
            self.json(&Value::String(doc.clone()));
        }
        if let Some(default) = &field.default {
            self.out.push_str(",\"default\":");
            self.json(default);
        }
        if let Some(order) = &field.order {
            self.out.push_str(",\"order\":");
            self.json(&Value::String(order.to_lowercase()));
        }
        if !field.aliases.is_empty() {
            self.out.push_str(",\"aliases\":");
            self.json(&Value::from(field.aliases.clone()));
        }
        self.properties(&field.properties);
        self.out.push('}');
    }

    fn properties(&mut self, properties: &Map<String, Value>) {
        let mut entries: Vec<(&String, &Value)> = properties.iter().collect();
        if self.sorted {
            entries.sort_by_key(|(key, _)| *key);
        }
        for (key, value) in entries {
            self.out.push(',');
            self.json(&Value::String(key.clone()));
            self.out.push(':');
            self.json(value);
        }
    }

    fn json(&mut self, value: &Value) {
        self.out.push_str(&value.to_string());
    }
}

/// A name as it may stand where `space` is the namespace around it.
fn short(name: &Name, space: Option<&str>) -> String {
    if name.space.as_deref() == space { name.name.clone() } else { name.full() }
}
