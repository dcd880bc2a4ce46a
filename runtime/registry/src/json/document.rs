//! The documents of a schema, and where each `$ref` leads.

use millrace_config::Reason;
use serde_json::{Map, Value};
use std::collections::HashMap;

/// Where a `$ref` may lead further before it counts as a circle.
const HOPS: usize = 100;

/// A schema with what it refers to; the schema itself is the first document.
pub(crate) struct Json {
    pub(super) documents: Vec<Document>,
}

pub(super) struct Document {
    /// The name by which it is referred to; of the schema itself, empty.
    name: String,
    pub(super) value: Value,
    /// `$ref` stands alone (draft 7 and before), or beside other keywords.
    pub(super) ref_is_alone: bool,
    /// `$id` or `$anchor` -> JSON pointer.
    ids: HashMap<String, String>,
}

impl Json {
    /// Parses a schema and the documents it may refer to.
    ///
    /// Errors: one line that says what is wrong and where.
    pub fn parse(text: &str, references: &[(&str, &str)]) -> Result<Self, Reason> {
        let mut documents = vec![document(String::new(), text)?];
        for (name, text) in references {
            documents.push(document((*name).to_owned(), text).map_err(|why| format!("in the reference {name}: {why}"))?);
        }
        let schema = Self { documents };
        for index in 0..schema.documents.len() {
            schema.check_refs(index)?;
        }
        Ok(schema)
    }

    /// The text without white space; `sorted`: keys in order.
    pub fn canonical(&self, sorted: bool) -> String {
        let value = &self.documents[0].value;
        if sorted { in_order(value).to_string() } else { value.to_string() }
    }

    /// Every `$ref` leads somewhere.
    fn check_refs(&self, index: usize) -> Result<(), Reason> {
        let mut open = vec![(&self.documents[index].value, String::from("#"))];
        while let Some((value, path)) = open.pop() {
            match value {
                Value::Object(map) => {
                    if let Some(Value::String(to)) = map.get("$ref") {
                        self.follow(index, to).map_err(|why| format!("{path}: {why}"))?;
                    }
                    // What these hold are values, not schemas.
                    let is_schema = |key: &&String| !["enum", "const", "default", "examples"].contains(&key.as_str());
                    open.extend(map.keys().filter(is_schema).map(|key| (&map[key], format!("{path}/{key}"))));
                }
                Value::Array(list) => open.extend(list.iter().enumerate().map(|(at, one)| (one, format!("{path}/{at}")))),
                _ => {}
            }
        }
        Ok(())
    }

    /// The schema a `$ref` of a document means, through further ones; `None`: a meta-schema, which takes any schema.
    pub(super) fn follow(&self, document: usize, to: &str) -> Result<Option<(usize, &Value)>, Reason> {
        let (mut document, mut to) = (document, to);
        for _ in 0..HOPS {
            let Some((found, value)) = self.resolve(document, to)? else { return Ok(None) };
            match value.get("$ref") {
                Some(Value::String(next)) if self.documents[found].ref_is_alone => (document, to) = (found, next),
                _ => return Ok(Some((found, value))),
            }
        }
        Err(format!("$ref {to} leads in a circle").into())
    }

    fn resolve(&self, document: usize, to: &str) -> Result<Option<(usize, &Value)>, Reason> {
        let (base, fragment) = to.split_once('#').unwrap_or((to, ""));
        if base.starts_with("http://json-schema.org/") || base.starts_with("https://json-schema.org/") {
            return Ok(None);
        }
        let (found, root) = if base.is_empty() {
            (document, &self.documents[document].value)
        } else {
            self.by_name(document, base)
                .ok_or_else(|| format!("$ref {to} leads nowhere; give a reference of this name to the subject that holds it"))?
        };
        if fragment.is_empty() {
            return Ok(Some((found, root)));
        }
        let target = match fragment.strip_prefix('/') {
            Some(_) => root.pointer(&unescape(fragment)),
            None => self.documents[found].ids.get(&format!("#{fragment}")).and_then(|pointer| self.documents[found].value.pointer(pointer)),
        };
        target.map(|value| Some((found, value))).ok_or_else(|| format!("$ref {to} leads nowhere").into())
    }

    /// A document by the name of its reference, or any schema by its `$id`, as it stands or relative to the document's own.
    fn by_name(&self, document: usize, base: &str) -> Option<(usize, &Value)> {
        let own = self.documents[document].value.get("$id").and_then(Value::as_str).unwrap_or_default();
        let relative = own.rsplit_once('/').map(|(folder, _)| format!("{folder}/{}", base.trim_start_matches("./")));
        let names = [Some(base.to_owned()), relative];
        for name in names.into_iter().flatten() {
            if let Some(index) = self.documents.iter().position(|one| one.name == name) {
                return Some((index, &self.documents[index].value));
            }
            for (index, one) in self.documents.iter().enumerate() {
                if let Some(value) = one.ids.get(&name).and_then(|pointer| one.value.pointer(pointer)) {
                    return Some((index, value));
                }
            }
        }
        None
    }
}

fn document(name: String, text: &str) -> Result<Document, Reason> {
    let value: Value = serde_json::from_str(text).map_err(|error| format!("not JSON: {error}"))?;
    if !matches!(value, Value::Object(_) | Value::Bool(_)) {
        return Err("a JSON Schema is an object, or true or false".into());
    }
    let draft = value.get("$schema").and_then(Value::as_str).unwrap_or_default();
    let modern = draft.contains("2019-09") || draft.contains("2020-12");
    let outcome = match draft {
        draft if draft.contains("2020-12") => jsonschema::draft202012::meta::validate(&value),
        draft if draft.contains("2019-09") => jsonschema::draft201909::meta::validate(&value),
        draft if draft.contains("draft-06") => jsonschema::draft6::meta::validate(&value),
        draft if draft.contains("draft-04") => jsonschema::draft4::meta::validate(&value),
        _ => jsonschema::draft7::meta::validate(&value),
    };
    outcome.map_err(|error| {
        let words: String = error.to_string().chars().take(300).collect();
        format!("#{}: {words}", error.instance_path())
    })?;
    let mut ids = HashMap::new();
    let mut open = vec![(&value, String::new())];
    while let Some((one, pointer)) = open.pop() {
        match one {
            Value::Object(map) => {
                for (key, prefix) in [("$id", ""), ("$anchor", "#")] {
                    if let Some(Value::String(id)) = map.get(key) {
                        ids.entry(format!("{prefix}{}", id.trim_end_matches('#'))).or_insert_with(|| pointer.clone());
                    }
                }
                open.extend(map.iter().map(|(key, inner)| (inner, format!("{pointer}/{}", key.replace('~', "~0").replace('/', "~1")))));
            }
            Value::Array(list) => open.extend(list.iter().enumerate().map(|(at, inner)| (inner, format!("{pointer}/{at}")))),
            _ => {}
        }
    }
    Ok(Document { name, ref_is_alone: !modern, ids, value })
}

/// Percent-decodes a fragment; what is no UTF-8 afterwards stays as it is.
fn unescape(fragment: &str) -> String {
    if !fragment.contains('%') {
        return fragment.to_owned();
    }
    let mut bytes = Vec::with_capacity(fragment.len());
    let mut rest = fragment.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..2).filter(|_| *first == b'%').and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &after[2..] } else { after };
    }
    String::from_utf8(bytes).unwrap_or_else(|_| fragment.to_owned())
}

fn in_order(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<(&String, &Value)> = map.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            Value::Object(entries.into_iter().map(|(key, inner)| (key.clone(), in_order(inner))).collect::<Map<_, _>>())
        }
        Value::Array(list) => Value::Array(list.iter().map(in_order).collect()),
        other => other.clone(),
    }
}
