//! Parses the JSON of a schema.

use super::{Avro, Field, Kind, Name, Named, Node, NodeId, Primitive};
use serde_json::{Map, Value};
use std::collections::{HashMap, HashSet};

/// Types in one schema, its references included.
const NODES: usize = 100_000;

struct Parser {
    nodes: Vec<Node>,
    names: HashMap<String, NodeId>,
}

pub(super) fn parse(text: &str, references: &[&str]) -> Result<Avro, String> {
    let mut parser = Parser { nodes: Vec::new(), names: HashMap::new() };
    for reference in references {
        parser.text(reference).map_err(|why| format!("in a referenced schema: {why}"))?;
    }
    let own = parser.nodes.len();
    let root = parser.text(text)?;
    let schema = Avro { nodes: parser.nodes, names: parser.names, root, own };
    schema.check_defaults()?;
    Ok(schema)
}

impl Parser {
    fn text(&mut self, text: &str) -> Result<NodeId, String> {
        let value: Value = match serde_json::from_str(text) {
            Ok(value) => value,
            // A bare name is a schema too, as Java has it.
            Err(_) if Primitive::named(text.trim()).is_some() => Value::String(text.trim().to_owned()),
            Err(error) => return Err(format!("not JSON: {error}")),
        };
        self.schema(&value, None, "")
    }

    fn add(&mut self, kind: Kind, properties: Map<String, Value>) -> Result<NodeId, String> {
        if self.nodes.len() >= NODES {
            return Err(format!("more than {NODES} types"));
        }
        self.nodes.push(Node { kind, properties });
        Ok(self.nodes.len() - 1)
    }

    /// `space`: the enclosing namespace. The depth is bounded by the JSON parser.
    fn schema(&mut self, value: &Value, space: Option<&str>, path: &str) -> Result<NodeId, String> {
        match value {
            Value::String(name) => self.by_name(name, space, path),
            Value::Array(branches) => self.union(branches, space, path),
            Value::Object(map) => self.object(map, space, path),
            other => Err(format!("{}: {other} is no schema", place(path))),
        }
    }

    fn by_name(&mut self, name: &str, space: Option<&str>, path: &str) -> Result<NodeId, String> {
        if let Some(primitive) = Primitive::named(name) {
            return self.add(Kind::Primitive(primitive), Map::new());
        }
        let full = resolve(name, space);
        // Java looks into the null namespace too.
        self.names.get(&full.full()).or_else(|| self.names.get(name)).copied().ok_or_else(|| {
            format!(
                "{}: undefined name: \"{}\"; define it before its use, or give a reference to the subject that does",
                place(path),
                full.full()
            )
        })
    }

    fn union(&mut self, branches: &[Value], space: Option<&str>, path: &str) -> Result<NodeId, String> {
        let mut ids = Vec::with_capacity(branches.len());
        let mut seen = HashSet::new();
        for (index, branch) in branches.iter().enumerate() {
            let path = format!("{path}/{index}");
            let id = self.schema(branch, space, &path)?;
            let node = &self.nodes[id];
            if matches!(node.kind, Kind::Union(_)) {
                return Err(format!("{}: a union in a union", place(&path)));
            }
            let name = node.named().map_or_else(|| node.type_name().to_owned(), |named| named.name.full());
            if !seen.insert(name.clone()) {
                return Err(format!("{}: duplicate in union: {name}", place(&path)));
            }
            ids.push(id);
        }
        self.add(Kind::Union(ids), Map::new())
    }

    fn object(&mut self, map: &Map<String, Value>, space: Option<&str>, path: &str) -> Result<NodeId, String> {
        let type_name = match map.get("type") {
            Some(Value::String(name)) => name.as_str(),
            // {"type": {"type": ..}}: the inner one counts.
            Some(inner @ (Value::Object(_) | Value::Array(_))) => return self.schema(inner, space, &format!("{path}/type")),
            Some(other) => return Err(format!("{}: type {other} is no name of a type", place(path))),
            None => return Err(format!("{}: no type", place(path))),
        };
        match type_name {
            "record" | "error" => self.record(map, type_name == "error", space, path),
            "enum" => self.enumeration(map, space, path),
            "fixed" => self.fixed(map, space, path),
            "array" => {
                let items = map.get("items").ok_or_else(|| format!("{}: array has no items", place(path)))?;
                let items = self.schema(items, space, &format!("{path}/items"))?;
                self.add(Kind::Array(items), rest(map, &["type", "items"]))
            }
            "map" => {
                let values = map.get("values").ok_or_else(|| format!("{}: map has no values", place(path)))?;
                let values = self.schema(values, space, &format!("{path}/values"))?;
                self.add(Kind::Map(values), rest(map, &["type", "values"]))
            }
            name => match Primitive::named(name) {
                Some(primitive) => self.add(Kind::Primitive(primitive), rest(map, &["type"])),
                None => self.by_name(name, space, path),
            },
        }
    }

    fn named(&mut self, map: &Map<String, Value>, space: Option<&str>, path: &str) -> Result<Named, String> {
        let name = text(map, "name", path)?.ok_or_else(|| format!("{}: no name", place(path)))?;
        let own = text(map, "namespace", path)?;
        let name = match own {
            Some(own) => resolve(name, (!own.is_empty()).then_some(own)),
            None => resolve(name, space),
        };
        for part in name.space.iter().flat_map(|space| space.split('.')).chain([name.name.as_str()]) {
            is_name(part).map_err(|why| format!("{}: {why}", place(path)))?;
        }
        if Primitive::named(&name.full()).is_some() {
            return Err(format!("{}: {} is the name of a primitive type", place(path), name.full()));
        }
        let aliases = texts(map, "aliases", path)?.iter().map(|alias| resolve(alias, name.space.as_deref())).collect();
        let doc = map.get("doc").and_then(Value::as_str).map(str::to_owned);
        Ok(Named { name, doc, aliases })
    }

    /// Adds a named type before its parts, so that they can use it.
    fn define(&mut self, named: &Named, kind: Kind, properties: Map<String, Value>, path: &str) -> Result<NodeId, String> {
        let full = named.name.full();
        if self.names.contains_key(&full) {
            return Err(format!("{}: can't redefine: {full}", place(path)));
        }
        let id = self.add(kind, properties)?;
        self.names.insert(full, id);
        Ok(id)
    }

    fn record(&mut self, map: &Map<String, Value>, is_error: bool, space: Option<&str>, path: &str) -> Result<NodeId, String> {
        let named = self.named(map, space, path)?;
        let properties = rest(map, &["type", "name", "namespace", "doc", "aliases", "fields"]);
        let kind = Kind::Record { named: named.clone(), fields: Vec::new(), is_error };
        let id = self.define(&named, kind, properties, path)?;
        let Some(Value::Array(list)) = map.get("fields") else {
            return Err(format!("{}: record {} has no fields", place(path), named.name.full()));
        };
        let mut fields = Vec::with_capacity(list.len());
        let mut seen = HashSet::new();
        for (index, field) in list.iter().enumerate() {
            let path = format!("{path}/fields/{index}");
            let Value::Object(field) = field else { return Err(format!("{}: a field is an object", place(&path))) };
            let name = text(field, "name", &path)?.ok_or_else(|| format!("{}: a field without a name", place(&path)))?;
            is_name(name).map_err(|why| format!("{}: {why}", place(&path)))?;
            if !seen.insert(name) {
                return Err(format!("{}: duplicate field {name} in record {}", place(&path), named.name.full()));
            }
            let value = field.get("type").ok_or_else(|| format!("{}: field {name} has no type", place(&path)))?;
            let node = self.schema(value, named.name.space.as_deref(), &format!("{path}/type"))?;
            let order = text(field, "order", &path)?.map(str::to_owned);
            if let Some(order) = &order
                && !["ascending", "descending", "ignore"].contains(&order.to_lowercase().as_str())
            {
                return Err(format!("{}: order {order} of field {name}; it is ascending, descending or ignore", place(&path)));
            }
            fields.push(Field {
                name: name.to_owned(),
                doc: field.get("doc").and_then(Value::as_str).map(str::to_owned),
                aliases: texts(field, "aliases", &path)?,
                node,
                default: field.get("default").cloned(),
                order: order.filter(|order| order != "ascending"),
                properties: rest(field, &["name", "type", "doc", "default", "order", "aliases"]),
            });
        }
        self.nodes[id].kind = Kind::Record { named, fields, is_error };
        Ok(id)
    }

    fn enumeration(&mut self, map: &Map<String, Value>, space: Option<&str>, path: &str) -> Result<NodeId, String> {
        let named = self.named(map, space, path)?;
        let Some(Value::Array(_)) = map.get("symbols") else {
            return Err(format!("{}: enum {} has no symbols", place(path), named.name.full()));
        };
        let symbols = texts(map, "symbols", path)?;
        let mut seen = HashSet::new();
        for symbol in &symbols {
            is_name(symbol).map_err(|why| format!("{}: symbol: {why}", place(path)))?;
            if !seen.insert(symbol.as_str()) {
                return Err(format!("{}: duplicate enum symbol: {symbol}", place(path)));
            }
        }
        let default = text(map, "default", path)?.map(str::to_owned);
        if let Some(default) = &default
            && !symbols.contains(default)
        {
            return Err(format!("{}: the enum default {default} is no symbol of {}", place(path), named.name.full()));
        }
        let properties = rest(map, &["type", "name", "namespace", "doc", "aliases", "symbols", "default"]);
        self.define(&named.clone(), Kind::Enum { named, symbols, default }, properties, path)
    }

    fn fixed(&mut self, map: &Map<String, Value>, space: Option<&str>, path: &str) -> Result<NodeId, String> {
        let named = self.named(map, space, path)?;
        let size = map
            .get("size")
            .and_then(Value::as_u64)
            .filter(|size| i32::try_from(*size).is_ok())
            .ok_or_else(|| format!("{}: fixed {} has no valid size", place(path), named.name.full()))?;
        let properties = rest(map, &["type", "name", "namespace", "doc", "aliases", "size"]);
        self.define(&named.clone(), Kind::Fixed { named, size }, properties, path)
    }
}

impl Avro {
    /// Every default is a value of its field's type.
    fn check_defaults(&self) -> Result<(), String> {
        for node in &self.nodes {
            let Kind::Record { named, fields, .. } = &node.kind else { continue };
            for field in fields {
                if let Some(default) = &field.default
                    && !self.is_valid(field.node, default, 0)
                {
                    let type_name = self.nodes[field.node].type_name();
                    return Err(format!("invalid default for field {} of {}: {default} not a {type_name}", field.name, named.name.full()));
                }
            }
        }
        Ok(())
    }

    fn is_valid(&self, id: NodeId, value: &Value, depth: usize) -> bool {
        // A default can't be deeper than the JSON it stands in; what recurses without taking from it is a record of defaults.
        if depth > 200 {
            return false;
        }
        match (&self.nodes[id].kind, value) {
            (Kind::Primitive(Primitive::Null), Value::Null)
            | (Kind::Primitive(Primitive::Boolean), Value::Bool(_))
            | (Kind::Primitive(Primitive::Float | Primitive::Double), Value::Number(_))
            | (Kind::Primitive(Primitive::Bytes | Primitive::String), Value::String(_))
            | (Kind::Fixed { .. } | Kind::Enum { .. }, Value::String(_)) => true,
            (Kind::Primitive(Primitive::Int), Value::Number(number)) => number.as_i64().is_some_and(|n| i32::try_from(n).is_ok()),
            (Kind::Primitive(Primitive::Long), Value::Number(number)) => number.as_i64().is_some(),
            (Kind::Array(items), Value::Array(list)) => list.iter().all(|one| self.is_valid(*items, one, depth + 1)),
            (Kind::Map(values), Value::Object(map)) => map.values().all(|one| self.is_valid(*values, one, depth + 1)),
            (Kind::Union(branches), value) => branches.iter().any(|branch| self.is_valid(*branch, value, depth + 1)),
            (Kind::Record { fields, .. }, Value::Object(map)) => fields.iter().all(|field| match map.get(&field.name) {
                Some(value) => self.is_valid(field.node, value, depth + 1),
                None => field.default.is_some(),
            }),
            _ => false,
        }
    }
}

/// A name as it stands, and the namespace around it, as a full name.
fn resolve(name: &str, space: Option<&str>) -> Name {
    match name.rsplit_once('.') {
        Some(("", name)) => Name { space: None, name: name.to_owned() },
        Some((space, name)) => Name { space: Some(space.to_owned()), name: name.to_owned() },
        None => Name { space: space.map(str::to_owned), name: name.to_owned() },
    }
}

fn is_name(name: &str) -> Result<(), String> {
    let mut bytes = name.bytes();
    let begins = bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_');
    if begins && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return Ok(());
    }
    Err(format!("`{name}` is no name: letters, digits and _, not beginning with a digit"))
}

fn text<'a>(map: &'a Map<String, Value>, key: &str, path: &str) -> Result<Option<&'a str>, String> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(format!("{}: {key} is {other}, not a text", place(path))),
    }
}

fn texts(map: &Map<String, Value>, key: &str, path: &str) -> Result<Vec<String>, String> {
    let wrong = || format!("{}: {key} is not a list of texts", place(path));
    match map.get(key) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(list)) => list.iter().map(|one| one.as_str().map(str::to_owned).ok_or_else(wrong)).collect(),
        Some(_) => Err(wrong()),
    }
}

fn rest(map: &Map<String, Value>, reserved: &[&str]) -> Map<String, Value> {
    map.iter().filter(|(key, _)| !reserved.contains(&key.as_str())).map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn place(path: &str) -> &str {
    if path.is_empty() { "/" } else { path }
}
