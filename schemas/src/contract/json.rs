//! JSON Schema, 2020-12 and older: does a document fit?
//!
//! The fast path asks only whether it is valid; faults are looked for where it is not.

use crate::contract::misfit::{Misfit, Step, shown};
use crate::contract::schema::{Kind, Reference, Schema};
use crate::schema_error::{Files, SHOWN, SchemaError, cut};
use jsonschema::{Retrieve, Uri, Validator};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Where a schema without an `$id` is said to lie, so that `address.json` beside it can be found.
const BASE: &str = "file:///schema/";
/// Files that a schema may name, one naming the next.
const FILES_MAX: usize = 200;
/// So many faults of a document are told.
const FAULTS: usize = 3;

/// A compiled JSON Schema.
#[derive(Debug)]
pub struct JsonSchema(Validator);

impl JsonSchema {
    pub(super) fn check(&self, document: &[u8]) -> Result<(), Box<Misfit>> {
        let value: Value = serde_json::from_slice(document).map_err(|e| Misfit::new(format!("is not JSON: {e}")))?;
        if self.0.is_valid(&value) {
            return Ok(());
        }
        let mut faults = self.0.iter_errors(&value);
        let Some(first) = faults.next() else { return Ok(()) };
        let mut what = say(&first);
        for fault in faults.by_ref().take(FAULTS - 1) {
            what.push_str(&format!("; {}: {}", path(&fault), say(&fault)));
        }
        if faults.next().is_some() {
            what.push_str("; and more");
        }
        let steps = path(&first);
        let mut misfit = Misfit::new(what);
        misfit.path = steps.split('/').skip(1).map(|s| Step::Key(cut(&s.replace("~1", "/").replace("~0", "~")).into())).collect();
        misfit.path.reverse();
        Err(misfit)
    }
}

fn path(fault: &jsonschema::ValidationError<'_>) -> String {
    fault.instance_path().to_string()
}

/// A fault in a line: a whole document is not repeated in it.
fn say(fault: &jsonschema::ValidationError<'_>) -> String {
    let found = fault.instance().to_string();
    let message = if found.len() > SHOWN { fault.masked_with(shown(&found)).to_string() } else { fault.to_string() };
    format!("{message} (schema: {})", fault.schema_path())
}

pub(super) fn compile(text: &str, files: &mut Files<'_>) -> Result<(Schema, JsonSchema), SchemaError> {
    let value: Value = serde_json::from_str(text).map_err(|e| SchemaError::json(&e))?;
    let mut loaded = BTreeMap::new();
    let references = load(&value, files, &mut loaded, &mut Vec::new())?;
    let name = value.get("title").and_then(Value::as_str).unwrap_or_default().into();
    let documents = loaded.iter().map(|(name, (value, _))| (name.clone(), value.clone())).collect();
    let options = jsonschema::options().with_base_uri(format!("{BASE}self")).with_retriever(Beside(documents));
    let validator = options.build(&value).map_err(|error| {
        let path = error.instance_path().to_string();
        let place = if path.is_empty() { String::new() } else { format!("{path}: ") };
        SchemaError::whole(format!("{place}{}", shown(&error.to_string())))
    })?;
    let schema = Schema { kind: Kind::Json, text: text.into(), name, references, indexes: Box::default() };
    Ok((schema, JsonSchema(validator)))
}

type Loaded = BTreeMap<String, (Value, Arc<Schema>)>;

/// Loads every file that is named below `value`, and what those name.
fn load(value: &Value, files: &mut Files<'_>, loaded: &mut Loaded, open: &mut Vec<String>) -> Result<Vec<Reference>, SchemaError> {
    let mut names = Vec::new();
    named(value, &mut names);
    names.sort_unstable();
    names.dedup();
    let mut references = Vec::new();
    for name in names {
        if open.contains(&name) {
            continue; // two files that name each other: the outer one is being loaded
        }
        if !loaded.contains_key(&name) {
            if loaded.len() + open.len() >= FILES_MAX {
                return Err(SchemaError::whole(format!("names more than {FILES_MAX} files")));
            }
            let text = files(&name).ok_or_else(|| SchemaError::whole(format!("names {name}, which is not there")))?;
            let inner: Value = serde_json::from_str(&text).map_err(|e| SchemaError::json(&e).within(&name))?;
            open.push(name.clone());
            let below = load(&inner, files, loaded, open).map_err(|e| e.within(&name))?;
            open.pop();
            let title = inner.get("title").and_then(Value::as_str).unwrap_or_default().into();
            let schema = Schema { kind: Kind::Json, text: text.into(), name: title, references: below, indexes: Box::default() };
            loaded.insert(name.clone(), (inner, Arc::new(schema)));
        }
        let schema = loaded[&name].1.clone();
        references.push(Reference { name: name.as_str().into(), schema });
    }
    Ok(references)
}

/// The files named by `$ref`, without what is within them; a schema that carries an `$id` of its own is not looked for.
fn named(value: &Value, names: &mut Vec<String>) {
    let mut ids = Vec::new();
    let mut rest = vec![value];
    while let Some(value) = rest.pop() {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(target)) = map.get("$ref") {
                    let file = target.split('#').next().unwrap_or_default();
                    if !file.is_empty() && !file.contains("json-schema.org/") {
                        names.push(file.to_owned());
                    }
                }
                if let Some(Value::String(id)) = map.get("$id").or_else(|| map.get("id")) {
                    ids.push(id.trim_end_matches('#').to_owned());
                }
                rest.extend(map.values());
            }
            Value::Array(items) => rest.extend(items),
            _ => {}
        }
    }
    names.retain(|name| !ids.contains(name));
}

/// Gives out the files that were loaded.
struct Beside(BTreeMap<String, Value>);

impl Retrieve for Beside {
    fn retrieve(&self, uri: &Uri<String>) -> Result<Value, Box<dyn std::error::Error + Send + Sync>> {
        let uri = uri.as_str();
        let name = uri.strip_prefix(BASE).unwrap_or(uri);
        let found = self.0.get(name).or_else(|| {
            // Under an `$id` of `https://acme.example/a.json` the file `b.json` is `https://acme.example/b.json`.
            self.0.iter().find(|(key, _)| uri.strip_suffix(key.as_str()).is_some_and(|rest| rest.ends_with('/'))).map(|(_, value)| value)
        });
        found.cloned().ok_or_else(|| format!("{uri} is not there").into())
    }
}
