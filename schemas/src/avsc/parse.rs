//! Which types does an Avro schema's text declare?
//!
//! Avro 1.12, with references to named types in files of their own: `acme.Address` is looked for in `acme.Address.avsc`, then `Address.avsc`.
//! Recursive types are fine.

use super::types::{Avsc, Field, Kind, Name, Named, NamedFile, Node, NodeId, Primitive};
use crate::schema_error::{Files, SchemaError, cut};
use serde_json::{Map, Value};
use std::collections::{HashMap, HashSet};

/// Types in one schema, its references included.
const TYPES_MAX: usize = 100_000;

impl Avsc {
    /// Parses a schema after those it refers to (name and text), which must come in the order of their use. `files` is asked for what is not
    /// declared in any of them.
    ///
    /// Errors: the place, and what is wrong there.
    pub fn parse(text: &str, references: &[(&str, &str)], files: Option<&mut Files<'_>>) -> Result<Self, SchemaError> {
        let mut parser = Parser {
            nodes: Vec::new(),
            names: HashMap::new(),
            ask: files,
            files: Vec::new(),
            loaded: HashMap::new(),
            references: Vec::new(),
            open: Vec::new(),
        };
        for (name, text) in references {
            parser.text(text).map_err(|error| error.within(name))?;
        }
        let own = parser.nodes.len();
        let root = parser.text(text)?;
        Ok(Self { nodes: parser.nodes, names: parser.names, root, own, files: parser.files, references: parser.references })
    }
}

/// What is wrong, and at which place of the schema's own tree.
struct Fault {
    /// Innermost first.
    path: Vec<String>,
    error: SchemaError,
}

impl Fault {
    fn new(what: impl Into<String>) -> Self {
        SchemaError::whole(what).into()
    }

    fn at(mut self, step: impl Into<String>) -> Self {
        self.path.push(step.into());
        self
    }

    fn into_error(mut self) -> SchemaError {
        if !self.path.is_empty() {
            self.path.reverse();
            self.error.what = format!("{}: {}", self.path.join(", "), self.error.what);
        }
        self.error
    }
}

impl From<SchemaError> for Fault {
    fn from(error: SchemaError) -> Self {
        Self { path: Vec::new(), error }
    }
}

type Parsed<T> = Result<T, Fault>;

struct Parser<'f, 'g> {
    nodes: Vec<Node>,
    names: HashMap<String, NodeId>,
    ask: Option<&'f mut Files<'g>>,
    files: Vec<NamedFile>,
    /// Files that were read, by the name they were asked for.
    loaded: HashMap<String, usize>,
    /// Files that the text at hand names.
    references: Vec<usize>,
    /// Names whose files are being read.
    open: Vec<String>,
}

impl Parser<'_, '_> {
    fn text(&mut self, text: &str) -> Result<NodeId, SchemaError> {
        let value: Value = match serde_json::from_str(text) {
            Ok(value) => value,
            // A bare name is a schema too, as Java has it.
            Err(_) if Primitive::named(text.trim()).is_some() => Value::String(text.trim().to_owned()),
            Err(error) => return Err(SchemaError::json(&error)),
        };
        self.any(&value, None).map_err(Fault::into_error)
    }

    fn add(&mut self, kind: Kind, properties: Map<String, Value>) -> Parsed<NodeId> {
        if self.nodes.len() >= TYPES_MAX {
            return Err(Fault::new(format!("more than {TYPES_MAX} types")));
        }
        self.nodes.push(Node { kind, properties });
        Ok(self.nodes.len() - 1)
    }

    /// `space`: the enclosing namespace. The depth is bounded by the JSON parser.
    fn any(&mut self, value: &Value, space: Option<&str>) -> Parsed<NodeId> {
        match value {
            Value::String(name) => match Primitive::named(name) {
                Some(primitive) => self.add(Kind::Primitive(primitive), Map::new()),
                None => self.by_name(name, space),
            },
            Value::Array(branches) => self.union(branches, space),
            Value::Object(map) => self.object(map, space),
            other => Err(Fault::new(format!("{} is no type", cut(&other.to_string())))),
        }
    }

    /// A named type: of the texts read so far, or of a file of its own.
    fn by_name(&mut self, name: &str, space: Option<&str>) -> Parsed<NodeId> {
        let full = resolve(name, space).full();
        // Java looks into the null namespace too.
        if let Some((known, id)) = self.names.get_key_value(&full).or_else(|| self.names.get_key_value(name)) {
            if let Some(file) = self.loaded.get(known)
                && !self.references.contains(file)
            {
                self.references.push(*file);
            }
            return Ok(*id);
        }
        if self.open.contains(&full) {
            return Err(Fault::new(format!("the file of {full} names it, but does not declare it")));
        }
        let name = cut(&full);
        let Some(ask) = &mut self.ask else {
            return Err(Fault::new(format!(
                "undefined name: \"{name}\"; define it before its use, or give a reference to the subject that does"
            )));
        };
        let short = full.rsplit('.').next().unwrap_or(&full);
        let text = [full.as_str(), short].into_iter().find_map(|name| ask(&format!("{name}.avsc")));
        let text = text.ok_or_else(|| {
            Fault::new(format!("type {name} is not there: neither declared before, nor in a file {name}.avsc or {}.avsc", cut(short)))
        })?;
        self.file(full, text)
    }

    fn file(&mut self, name: String, text: String) -> Parsed<NodeId> {
        let outer = std::mem::take(&mut self.references);
        self.open.push(name.clone());
        let parsed = self.text(&text).map_err(|error| error.within(&name));
        self.open.pop();
        let references = std::mem::replace(&mut self.references, outer);
        parsed?;
        let declared = self.names.get(&name).copied();
        let id = declared.ok_or_else(|| Fault::new(format!("the file of {name} declares another type")))?;
        self.loaded.insert(name.clone(), self.files.len());
        self.references.push(self.files.len());
        self.files.push(NamedFile { name, text, references });
        Ok(id)
    }

    fn union(&mut self, branches: &[Value], space: Option<&str>) -> Parsed<NodeId> {
        let mut ids = Vec::with_capacity(branches.len());
        let mut seen = HashSet::new();
        for branch in branches {
            let id = self.any(branch, space)?;
            let node = &self.nodes[id];
            if matches!(node.kind, Kind::Union(_)) {
                return Err(Fault::new("a union in a union"));
            }
            let name = node.named().map_or_else(|| node.type_name().to_owned(), |named| named.name.full());
            if !seen.insert(name) {
                return Err(Fault::new(format!("a union with two branches of one type: {}", cut(&branch.to_string()))));
            }
            ids.push(id);
        }
        self.add(Kind::Union(ids), Map::new())
    }

    fn object(&mut self, map: &Map<String, Value>, space: Option<&str>) -> Parsed<NodeId> {
        let type_name = match map.get("type") {
            Some(Value::String(name)) => name.as_str(),
            // {"type": {"type": ..}}: the inner one counts.
            Some(inner @ (Value::Object(_) | Value::Array(_))) => return self.any(inner, space),
            Some(other) => return Err(Fault::new(format!("type {} is no type", cut(&other.to_string())))),
            None => return Err(Fault::new("an object without `type` is no type")),
        };
        match type_name {
            "record" | "error" => self.record(map, type_name == "error", space),
            "enum" => self.enumeration(map, space),
            "fixed" => self.fixed(map, space),
            "array" => {
                let items = map.get("items").ok_or_else(|| Fault::new("an array without `items`"))?;
                let items = self.any(items, space).map_err(|fault| fault.at("items"))?;
                self.add(Kind::Array(items), rest(map, &["type", "items"]))
            }
            "map" => {
                let values = map.get("values").ok_or_else(|| Fault::new("a map without `values`"))?;
                let values = self.any(values, space).map_err(|fault| fault.at("values"))?;
                self.add(Kind::Map(values), rest(map, &["type", "values"]))
            }
            name => match Primitive::named(name) {
                Some(primitive) => self.add(Kind::Primitive(primitive), rest(map, &["type"])),
                None => self.by_name(name, space),
            },
        }
    }

    fn named(&self, map: &Map<String, Value>, space: Option<&str>) -> Parsed<Named> {
        let name = text(map, "name")?.ok_or_else(|| Fault::new("a named type without `name`"))?;
        let name = match text(map, "namespace")? {
            Some(own) => resolve(name, (!own.is_empty()).then_some(own)),
            None => resolve(name, space),
        };
        for part in name.space.iter().flat_map(|space| space.split('.')).chain([name.name.as_str()]) {
            is_name(part)?;
        }
        if Primitive::named(&name.full()).is_some() {
            return Err(Fault::new(format!("{} is the name of a primitive type", name.full())));
        }
        let aliases = texts(map, "aliases")?.iter().map(|alias| resolve(alias, name.space.as_deref())).collect();
        Ok(Named { name, doc: map.get("doc").and_then(Value::as_str).map(str::to_owned), aliases })
    }

    /// Adds a named type before its parts, so that they can use it.
    fn define(&mut self, named: &Named, kind: Kind, properties: Map<String, Value>) -> Parsed<NodeId> {
        let full = named.name.full();
        if self.names.contains_key(&full) {
            return Err(Fault::new(format!("type {full} is declared twice")));
        }
        let id = self.add(kind, properties)?;
        self.names.insert(full, id);
        Ok(id)
    }

    fn record(&mut self, map: &Map<String, Value>, is_error: bool, space: Option<&str>) -> Parsed<NodeId> {
        let named = self.named(map, space)?;
        let properties = rest(map, &["type", "name", "namespace", "doc", "aliases", "fields"]);
        let id = self.define(&named, Kind::Record { named: named.clone(), fields: Vec::new(), is_error }, properties)?;
        let full = named.name.full();
        let Some(Value::Array(list)) = map.get("fields") else { return Err(Fault::new(format!("record {full} has no fields"))) };
        let mut fields: Vec<Field> = Vec::with_capacity(list.len());
        let mut seen = HashSet::new();
        for value in list {
            let field = self.field(value, named.name.space.as_deref()).map_err(|fault| fault.at(format!("record {full}")))?;
            if !seen.insert(field.name.clone()) {
                return Err(Fault::new("is there twice").at(format!("field {}", field.name)).at(format!("record {full}")));
            }
            fields.push(field);
        }
        self.nodes[id].kind = Kind::Record { named, fields, is_error };
        Ok(id)
    }

    fn field(&mut self, value: &Value, space: Option<&str>) -> Parsed<Field> {
        let Value::Object(map) = value else { return Err(Fault::new(format!("{} is no field", cut(&value.to_string())))) };
        let name = text(map, "name")?.ok_or_else(|| Fault::new(format!("a field without a name: {}", cut(&value.to_string()))))?;
        is_name(name)?;
        self.named_field(name, map, space).map_err(|fault| fault.at(format!("field {name}")))
    }

    fn named_field(&mut self, name: &str, map: &Map<String, Value>, space: Option<&str>) -> Parsed<Field> {
        let node = self.any(map.get("type").ok_or_else(|| Fault::new("has no type"))?, space)?;
        let order = text(map, "order")?.map(str::to_owned);
        if let Some(order) = &order
            && !["ascending", "descending", "ignore"].contains(&order.to_lowercase().as_str())
        {
            return Err(Fault::new(format!("order {}; it is ascending, descending or ignore", cut(order))));
        }
        Ok(Field {
            name: name.to_owned(),
            doc: map.get("doc").and_then(Value::as_str).map(str::to_owned),
            aliases: texts(map, "aliases")?,
            node,
            default: map.get("default").cloned(),
            order: order.filter(|order| order != "ascending"),
            properties: rest(map, &["name", "type", "doc", "default", "order", "aliases"]),
        })
    }

    fn enumeration(&mut self, map: &Map<String, Value>, space: Option<&str>) -> Parsed<NodeId> {
        let named = self.named(map, space)?;
        let wrong = |what: String| Fault::new(format!("enum {} {what}", named.name.full()));
        let Some(Value::Array(_)) = map.get("symbols") else { return Err(wrong("has no symbols".into())) };
        let symbols = texts(map, "symbols")?;
        let mut seen = HashSet::new();
        for symbol in &symbols {
            is_name(symbol).map_err(|fault| fault.at(format!("enum {}", named.name.full())))?;
            if !seen.insert(symbol.as_str()) {
                return Err(wrong(format!("has {symbol} twice")));
            }
        }
        let default = text(map, "default")?.map(str::to_owned);
        if let Some(default) = default.as_ref().filter(|default| !symbols.contains(default)) {
            return Err(wrong(format!("has the default {}, which is none of its symbols", cut(default))));
        }
        let properties = rest(map, &["type", "name", "namespace", "doc", "aliases", "symbols", "default"]);
        self.define(&named.clone(), Kind::Enum { named, symbols, default }, properties)
    }

    fn fixed(&mut self, map: &Map<String, Value>, space: Option<&str>) -> Parsed<NodeId> {
        let named = self.named(map, space)?;
        let size = map.get("size").and_then(Value::as_u64).filter(|size| i32::try_from(*size).is_ok());
        let size = size.ok_or_else(|| Fault::new(format!("fixed {} has no valid size", named.name.full())))?;
        let properties = rest(map, &["type", "name", "namespace", "doc", "aliases", "size"]);
        self.define(&named.clone(), Kind::Fixed { named, size }, properties)
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

fn is_name(name: &str) -> Parsed<()> {
    let mut bytes = name.bytes();
    let begins = bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_');
    if begins && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return Ok(());
    }
    Err(Fault::new(format!("`{}` is no name: letters, digits and _, not beginning with a digit", cut(name))))
}

fn text<'a>(map: &'a Map<String, Value>, key: &str) -> Parsed<Option<&'a str>> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(Fault::new(format!("{key} is {}, not a text", cut(&other.to_string())))),
    }
}

fn texts(map: &Map<String, Value>, key: &str) -> Parsed<Vec<String>> {
    let wrong = || Fault::new(format!("{key} is not a list of texts"));
    match map.get(key) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(list)) => list.iter().map(|one| one.as_str().map(str::to_owned).ok_or_else(wrong)).collect(),
        Some(_) => Err(wrong()),
    }
}

fn rest(map: &Map<String, Value>, reserved: &[&str]) -> Map<String, Value> {
    map.iter().filter(|(key, _)| !reserved.contains(&key.as_str())).map(|(key, value)| (key.clone(), value.clone())).collect()
}
