//! JSON Schema of a factory's file, for editors, and its reference in Markdown: both from the types that parse it.
//!
//! What the catalog's connectors take is added by whoever holds the catalog: this crate knows none.

use crate::factory::top::File;
use crate::factory::{COMMANDS, SinkKeys, SourceKeys};
use schemars::generate::SchemaSettings;
use schemars::{Schema, SchemaGenerator};
use serde_json::{Map, Value, json};
use std::fmt::Write;

/// What the holder of the catalog knows of the connectors.
pub struct Catalog<'a> {
    /// Types of sources, each with the schema of its own keys.
    pub sources: &'a [(&'a str, SchemaOf)],
    /// Types of sinks, likewise.
    pub sinks: &'a [(&'a str, SchemaOf)],
    /// The tag options (`contract::TagOptions`).
    pub tag_options: SchemaOf,
}

/// Adds a type's schema to a generator's.
pub type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

type Object = Map<String, Value>;

/// The JSON Schema of a factory's file.
///
/// Shape: `sources` and `sinks` choose by `type`; a source that uses a template is checked loosely, because the template may hold the rest.
pub fn schema(catalog: &Catalog) -> Value {
    let mut parts = Parts::of(catalog);
    let mut top = parts.top.clone();
    let sources = parts.choice("source", &["type"]);
    let sinks = parts.choice("sink", &["type", "source"]);
    let by_name = |schema: Value| json!({"type": ["object", "null"], "additionalProperties": schema});
    let paths = json!({"type": ["string", "array"], "items": {"type": "string"}});
    if let Some(keys) = top.get_mut("properties").and_then(Value::as_object_mut) {
        for (key, shape) in [
            ("sources", by_name(sources)),
            ("sinks", by_name(sinks)),
            ("templates", by_name(template())),
            ("sources_from", paths.clone()),
            ("include", paths),
            ("defaults", parts.tag_options.clone()),
        ] {
            let description = keys.get(key).and_then(|old| old.get("description")).cloned();
            let mut shape = shape;
            if let (Some(shape), Some(description)) = (shape.as_object_mut(), description) {
                shape.insert("description".into(), description);
            }
            keys.insert(key.into(), shape);
        }
    }
    top.insert("$schema".into(), "http://json-schema.org/draft-07/schema#".into());
    top.insert("title".into(), "A Millrace factory".into());
    top.insert("$defs".into(), Value::Object(parts.defs));
    // What is in an included file has no site of its own.
    top.remove("required");
    let mut top = Value::Object(top);
    allow_references(&mut top);
    top
}

/// A template: the keys that are its own. Beside them stand those of a source or of a device.
fn template() -> Value {
    json!({
        "type": "object",
        "description": "A piece of a source or of a device. `${name}`, `${site}` and the parameters stand in its texts.",
        "properties": {
            "params": {
                "type": ["object", "null"],
                "description": "Its parameters by name, each `required` or with its default: `{host: required, every: 1s}`. `${host}` is then what `with` says.",
            },
            "type": {"type": "string", "description": "The type of connector, where it is a piece of a source."},
        },
    })
}

/// Keys that are resolved before a connector sees them: tables beside tags and devices, templates of devices.
fn add_resolved(schema: &mut Value) {
    let text = |description: &str| json!({"type": "string", "description": description});
    match schema {
        Value::Object(object) => {
            object.values_mut().for_each(add_resolved);
            let Some(keys) = object.get_mut("properties").and_then(Value::as_object_mut) else { return };
            if keys.contains_key("tags") && keys.contains_key("every") {
                let told = "A CSV table of tags, beside `tags`. Columns: `name`, the address under its key (`node`, `address`), and any key of a tag.";
                keys.entry("tags_from").or_insert_with(|| text(told));
            }
            if keys.contains_key("devices") {
                let told = "A CSV table of devices, beside `devices`. Columns: `name`, `use`, one per parameter of the template, and any key of a device.";
                keys.entry("devices_from").or_insert_with(|| text(told));
            }
            if keys.contains_key("groups") && keys.contains_key("enabled") {
                keys.entry("use").or_insert_with(|| text("A template, merged under what is written here."));
                keys.entry("with").or_insert_with(|| json!({"type": "object", "description": "The template's parameters."}));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(add_resolved),
        _ => {}
    }
}

/// The pieces a schema and a reference are made of, each with its doc comments.
struct Parts {
    top: Object,
    tag_options: Value,
    /// Of a source, of a sink: keys of every type.
    common: [Object; 2],
    /// Role, type, own keys.
    connectors: Vec<(&'static str, String, Value)>,
    defs: Object,
}

impl Parts {
    fn of(catalog: &Catalog) -> Self {
        let mut generator = SchemaSettings::draft07().with(|settings| settings.definitions_path = "/$defs".into()).into_generator();
        let top = object(generator.root_schema_for::<File>());
        let tag_options = inline((catalog.tag_options)(&mut generator), &generator);
        let common =
            [generator.root_schema_for::<SourceKeys>(), generator.root_schema_for::<SinkKeys>()].map(|keys| properties(&keys.to_value()));
        let mut connectors = Vec::new();
        for (role, types) in [("source", catalog.sources), ("sink", catalog.sinks)] {
            for (type_name, schema_of) in types {
                let own = inline(schema_of(&mut generator), &generator);
                connectors.push((role, (*type_name).to_owned(), own));
            }
        }
        let mut top = top;
        for meta in ["$defs", "$schema", "title"] {
            top.remove(meta);
        }
        let mut defs = generator.take_definitions(true);
        connectors.iter_mut().map(|(.., own)| own).chain(defs.values_mut()).for_each(add_resolved);
        Self { top, tag_options, common, connectors, defs }
    }

    /// The schema of one source or sink: by its type.
    fn choice(&mut self, role: &'static str, one_of: &[&str]) -> Value {
        let mut keys = self.common_keys(role);
        let mut branches = Vec::new();
        let mut types = Vec::new();
        for (_, type_name, own) in self.connectors.iter().filter(|(of, ..)| *of == role) {
            // A sink of commands has the source it goes through instead of a type.
            let commands = type_name == COMMANDS;
            let mut full = keys.clone();
            if commands {
                full.remove("type");
            } else {
                full.remove("source");
                full.insert("type".into(), json!({"const": type_name}));
            }
            full.extend(properties(own));
            let name = format!("{role}_{type_name}");
            let mut schema = json!({"type": "object", "properties": full, "additionalProperties": false});
            for key in ["required", "description"] {
                if let Some(value) = own.get(key) {
                    schema[key] = value.clone();
                }
            }
            self.defs.insert(name.clone(), schema);
            let chosen = match commands {
                true => json!({"required": ["source"], "not": {"required": ["use"]}}),
                false => json!({"properties": {"type": {"const": type_name}}, "required": ["type"], "not": {"required": ["use"]}}),
            };
            if !commands {
                types.push(json!(type_name));
            }
            branches.push(json!({"if": chosen, "then": {"$ref": format!("#/$defs/{name}")}}));
        }
        let mut type_key = keys.get("type").cloned().unwrap_or_default();
        // A type of a connector that this build doesn't have is reported by `millrace check`.
        type_key["examples"] = Value::Array(types);
        keys.insert("type".into(), type_key);
        let required: Vec<Value> = one_of.iter().chain(&["use"]).map(|key| json!({"required": [key]})).collect();
        json!({"type": "object", "properties": keys, "anyOf": required, "allOf": branches})
    }

    /// Keys of every source or every sink, whatever its type.
    fn common_keys(&self, role: &str) -> Object {
        let mut keys = Object::new();
        let text = |description: &str| json!({"type": "string", "description": description});
        keys.insert("type".into(), text("The type of connector."));
        keys.insert("enabled".into(), json!({"type": "boolean", "description": "`false`: checked, but not started.", "default": true}));
        keys.insert("use".into(), text("A template, merged under what is written here."));
        keys.insert("with".into(), json!({"type": "object", "description": "The template's parameters."}));
        let [source, sink] = &self.common;
        match role {
            "source" => {
                keys.extend(source.clone());
                let options = properties(&self.tag_options);
                keys.extend(options.into_iter().filter(|(key, _)| !source.contains_key(key)));
            }
            _ => {
                keys.extend(sink.clone());
                keys.insert("source".into(), text("Instead of `type`: sends commands through this source's own connection."));
            }
        }
        keys
    }
}

fn object(schema: Schema) -> Object {
    match schema.to_value() {
        Value::Object(object) => object,
        _ => Object::new(),
    }
}

/// The schema itself, where the generator answers with a reference to it.
fn inline(schema: Schema, generator: &SchemaGenerator) -> Value {
    let value = schema.to_value();
    let name = value.get("$ref").and_then(Value::as_str).and_then(|reference| reference.rsplit('/').next()).map(unescaped);
    match name.and_then(|name| generator.definitions().get(&name).cloned()) {
        Some(definition) => definition,
        None => value,
    }
}

/// A name as it stands in a JSON Pointer.
fn unescaped(name: &str) -> String {
    name.replace("~1", "/").replace("~0", "~")
}

/// Keys of a mapping; of a choice of mappings, of all.
fn properties(schema: &Value) -> Object {
    let mut keys = schema.get("properties").and_then(Value::as_object).cloned().unwrap_or_default();
    for choice in ["oneOf", "anyOf", "allOf"] {
        for shape in schema.get(choice).and_then(Value::as_array).into_iter().flatten() {
            keys.extend(properties(shape));
        }
    }
    keys
}

/// A number or a truth may be a reference: `${env:PORT}`, `${unit}`.
fn allow_references(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            object.values_mut().for_each(allow_references);
            let Some(types) = object.get("type").cloned() else { return };
            let types = match types {
                Value::Array(types) => types,
                single => vec![single],
            };
            let is = |name: &str| types.iter().any(|of| of == name);
            if (is("integer") || is("number") || is("boolean")) && !is("string") && !object.contains_key("enum") {
                let types: Vec<Value> = types.into_iter().chain([json!("string")]).collect();
                object.insert("type".into(), Value::Array(types));
                object.insert("pattern".into(), r"\$\{".into());
            } else if let Some(pattern) = object.get("pattern").and_then(Value::as_str).filter(|pattern| !pattern.contains(r"\$\{")) {
                let pattern = format!(r"{pattern}|\$\{{");
                object.insert("pattern".into(), pattern.into());
            }
        }
        Value::Array(items) => items.iter_mut().for_each(allow_references),
        _ => {}
    }
}

/// The reference of a factory's file, in Markdown: every key, its type, its default, what it means.
pub fn reference(catalog: &Catalog) -> String {
    let mut parts = Parts::of(catalog);
    let connectors = std::mem::take(&mut parts.connectors);
    let mut text = String::from(
        "# Configuration reference\n\n\
         Generated from the types that parse the file: `millrace config reference`. Examples are in `config/examples/`.\n\n\
         - Durations have a unit: `250ms`, `1s`, `15m`, `4h`, `7d`. So have sizes: `64KiB`, `4GiB`.\n\
         - `${env:NAME}`, `${file:/path}`, `${parameter}`, `${name}` and `${site}` are resolved when the file is loaded, `{..}` per record. `$${` is a `${` as it stands.\n\
         - Secrets stand in the file by reference only.\n",
    );
    let _ = writeln!(text, "\n## Top level\n");
    parts.table(&Value::Object(parts.top.clone()), "", 0, &mut text);
    let _ = writeln!(text, "\nSettings that the environment may override: {}.", overridable());
    let _ = writeln!(text, "\n## `templates.NAME`\n\nBeside these, any key of a source or of a device.\n");
    parts.table(&template(), "", 1, &mut text);
    for (key, shape) in properties(&Value::Object(parts.top.clone())) {
        let shape = parts.resolved(&shape);
        let below = match key.as_str() {
            "topics" => shape.get("additionalProperties").map(|topic| parts.resolved(topic)).unwrap_or_default(),
            _ => shape,
        };
        if !properties(&below).is_empty() {
            let name = if key == "topics" { "topics.NAME".to_owned() } else { key };
            let _ = writeln!(text, "\n## `{name}`\n");
            parts.table(&below, "", 1, &mut text);
        }
    }
    let _ = writeln!(text, "\n## Every source\n");
    parts.table(&json!({"properties": source_keys(&parts)}), "", 1, &mut text);
    let _ = writeln!(text, "\n## Tag options\n\nAt every level: `defaults` < template < source < device < group < tag.\n");
    parts.table(&parts.tag_options, "", 1, &mut text);
    let _ = writeln!(text, "\n## Every sink\n");
    parts.table(&json!({"properties": parts.common_keys("sink")}), "", 1, &mut text);
    for (role, type_name, own) in &connectors {
        let _ = match (*role, type_name.as_str()) {
            (_, COMMANDS) => writeln!(text, "\n## Sink of commands, `source: NAME`\n"),
            ("source", name) => writeln!(text, "\n## Source, `type: {name}`\n"),
            (_, name) => writeln!(text, "\n## Sink, `type: {name}`\n"),
        };
        if let Some(description) = own.get("description").and_then(Value::as_str) {
            let _ = writeln!(text, "{description}\n");
        }
        parts.table(own, "", 1, &mut text);
    }
    text
}

/// A source's common keys without the tag options, which have a table of their own.
fn source_keys(parts: &Parts) -> Object {
    let options = properties(&parts.tag_options);
    let mut keys = parts.common_keys("source");
    keys.retain(|key, _| parts.common[0].contains_key(key) || !options.contains_key(key));
    keys
}

fn overridable() -> String {
    let list: Vec<String> = crate::factory::settings::SETTINGS
        .iter()
        .map(|path| format!("`{}` (`{path}`)", crate::factory::settings::variable(path)))
        .collect();
    list.join(", ")
}

impl Parts {
    /// Follows references and choices to the shape itself, keeping the description nearest to the key.
    fn resolved(&self, schema: &Value) -> Value {
        let mut at = schema.clone();
        for _ in 0..8 {
            let target = at.get("$ref").and_then(Value::as_str).and_then(|reference| reference.rsplit('/').next()).map(unescaped);
            let next = match target {
                Some(name) => self.defs.get(&name).cloned(),
                None => ["anyOf", "oneOf", "allOf"].iter().find_map(|choice| {
                    let shapes: Vec<&Value> =
                        at.get(choice)?.as_array()?.iter().filter(|shape| shape.get("type") != Some(&json!("null"))).collect();
                    (shapes.len() == 1).then(|| shapes[0].clone())
                }),
            };
            let Some(mut next) = next else { break };
            for kept in ["description", "default"] {
                if let (Some(value), Some(object)) = (at.get(kept), next.as_object_mut()) {
                    object.insert(kept.into(), value.clone());
                }
            }
            at = next;
        }
        at
    }

    /// A row per key; keys of small mappings and of items follow their own.
    fn table(&self, schema: &Value, prefix: &str, depth: usize, text: &mut String) {
        let _ = writeln!(text, "| Key | Type | Default | |\n|---|---|---|---|");
        self.rows(schema, prefix, depth, text);
    }

    fn rows(&self, schema: &Value, prefix: &str, depth: usize, text: &mut String) {
        let required: Vec<&str> =
            schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
        let mut keys = properties(schema);
        let options = properties(&self.tag_options);
        // Where a connector takes tag options beside its own keys, they are told once, in their own table.
        let takes_options = !prefix.is_empty() && !options.is_empty() && options.keys().all(|option| keys.contains_key(option));
        if takes_options {
            keys.retain(|key, _| !options.contains_key(key));
        }
        for (key, shape) in keys {
            let resolved = self.resolved(&shape);
            let default = match resolved.get("default").filter(|default| !default.is_null() && !default.is_object()) {
                Some(Value::Array(items)) if items.is_empty() => String::new(),
                Some(Value::String(text)) if text.is_empty() => String::new(),
                Some(Value::String(text)) => format!("`{text}`"),
                Some(default) => format!("`{default}`"),
                None if required.contains(&key.as_str()) => "required".into(),
                None => String::new(),
            };
            let mut description = first_paragraph(resolved.get("description").and_then(Value::as_str).unwrap_or_default());
            for choice in resolved.get("oneOf").and_then(Value::as_array).into_iter().flatten() {
                if let (Some(name), Some(told)) = (choice.get("const"), choice.get("description").and_then(Value::as_str)) {
                    let _ = write!(description, " {}: {}", said(name), lowercase(&first_paragraph(told)));
                }
            }
            let cells = [self.type_name(&resolved), default, description].map(|cell| cell.replace('|', "\\|").replace('\n', " "));
            let _ = writeln!(text, "| `{prefix}{key}` | {} | {} | {} |", cells[0], cells[1], cells[2]);
            // Below the top level, a key's own keys are told in the same table.
            if depth > 0 && depth < 6 {
                let (below, step) = self.below(&resolved);
                if !properties(&below).is_empty() {
                    self.rows(&below, &format!("{prefix}{key}{step}"), depth + 1, text);
                }
            }
        }
        if takes_options {
            let _ = writeln!(text, "| `{prefix}`.. | | | [Tag options](#tag-options) may stand here. |");
        }
    }

    /// The mapping inside of a shape: itself, its items, or the values of its names.
    fn below(&self, shape: &Value) -> (Value, &'static str) {
        if let Some(items) = shape.get("items") {
            return (self.resolved(items), "[].");
        }
        match shape.get("additionalProperties").filter(|values| values.is_object()) {
            Some(values) => (self.resolved(values), ".NAME."),
            None => (shape.clone(), "."),
        }
    }

    fn type_name(&self, shape: &Value) -> String {
        if let Some(names) = shape.get("enum").and_then(Value::as_array) {
            return names.iter().filter(|name| !name.is_null()).map(said).collect::<Vec<_>>().join(", ");
        }
        if let Some(name) = shape.get("const") {
            return said(name);
        }
        for choice in ["oneOf", "anyOf"] {
            if let Some(shapes) = shape.get(choice).and_then(Value::as_array) {
                let shapes = shapes
                    .iter()
                    .filter(|shape| shape.get("type") != Some(&json!("null")))
                    .map(|shape| self.type_name(&self.resolved(shape)));
                let mut names: Vec<String> = shapes.collect();
                names.dedup();
                return names.join(if choice == "oneOf" { ", " } else { " or " });
            }
        }
        if let Some(example) =
            shape.get("examples").and_then(Value::as_array).and_then(|examples| examples.first()).filter(|_| shape.get("pattern").is_some())
        {
            return format!("like {}", said(example));
        }
        let of = |name: &str| match name {
            "string" => "text".to_owned(),
            "integer" => "whole number".to_owned(),
            "boolean" => "`true`, `false`".to_owned(),
            "array" => match shape.get("items") {
                Some(items) => format!("list of {}", self.type_name(&self.resolved(items))),
                None => "list".to_owned(),
            },
            "object" => "mapping".to_owned(),
            name => name.to_owned(),
        };
        match shape.get("type") {
            Some(Value::String(name)) => of(name),
            Some(Value::Array(names)) => {
                names.iter().filter_map(Value::as_str).filter(|name| *name != "null").map(of).collect::<Vec<_>>().join(" or ")
            }
            _ => String::new(),
        }
    }
}

fn said(value: &Value) -> String {
    match value {
        Value::String(text) => format!("`{text}`"),
        value => format!("`{value}`"),
    }
}

fn first_paragraph(description: &str) -> String {
    description.split("\n\n").next().unwrap_or_default().to_owned()
}

/// A sentence as it goes on after a colon.
fn lowercase(sentence: &str) -> String {
    let mut chars = sentence.chars();
    match (chars.next(), chars.as_str()) {
        (Some(first), rest) if !rest.starts_with(char::is_uppercase) => first.to_lowercase().chain(rest.chars()).collect(),
        _ => sentence.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use schemars::JsonSchema;
    use serde::Deserialize;

    /// A connector for the test.
    #[derive(Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "its schema is what is looked at")]
    struct Demo {
        /// Where the device is.
        endpoint: String,
        /// How often it is read.
        every: Option<crate::tree::units::Period>,
        /// What is read.
        #[serde(default)]
        groups: Vec<Group>,
    }

    #[derive(Deserialize, JsonSchema)]
    #[allow(dead_code, reason = "as above")]
    struct Group {
        /// Its own period.
        every: crate::tree::units::Period,
        /// What is read.
        #[serde(default)]
        tags: std::collections::BTreeMap<String, String>,
    }

    /// Stands for the tag options.
    #[derive(Deserialize, JsonSchema)]
    #[allow(dead_code, reason = "as above")]
    struct Options {
        /// The smallest change reported.
        deadband: Option<crate::tree::units::Deadband>,
    }

    const CATALOG: Catalog = Catalog {
        sources: &[("demo", |generator| generator.subschema_for::<Demo>())],
        sinks: &[("demo", |generator| generator.subschema_for::<Demo>())],
        tag_options: |generator| generator.subschema_for::<Options>(),
    };

    #[test]
    fn the_schema_has_every_key_of_the_top_level_and_no_other() {
        let schema = schema(&CATALOG);
        let keys: Vec<&str> = schema["properties"].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, File::KEYS);
    }

    #[test]
    fn a_source_is_chosen_by_its_type_and_has_common_and_own_keys() {
        let schema = schema(&CATALOG);
        let demo = &schema["$defs"]["source_demo"];
        for key in ["type", "at", "topic", "log", "enabled", "deadband", "endpoint", "every"] {
            assert!(demo["properties"].get(key).is_some(), "{key} in {demo:#}");
        }
        assert_eq!(demo["required"], json!(["endpoint"]));
        assert!(schema["$defs"]["Group"]["properties"].get("tags_from").is_some(), "{schema:#}");
        let choice = &schema["properties"]["sources"]["additionalProperties"];
        assert_eq!(choice["allOf"][0]["then"]["$ref"], "#/$defs/source_demo");
        let text = schema.to_string();
        for reference in text.split("\"$ref\":\"#/$defs/").skip(1).map(|rest| rest.split('"').next().unwrap()) {
            assert!(schema["$defs"].get(reference).is_some(), "{reference} is not defined");
        }
    }

    #[test]
    fn the_reference_tells_type_default_and_meaning_of_every_key() {
        let text = reference(&CATALOG);
        for row in [
            "| `site` | text | required | Enterprise and site",
            "| `delivery` | `at_least_once`, `exactly_once` | `at_least_once` |",
            "| `alarm.left` | like `250ms` | `4h` |",
            "| `keep_free` | like `10%` | `10%` |",
            "| `groups[].every` | like `250ms` | required | Its own period. |",
            "| `groups[].tags_from` | text |  | A CSV table of tags",
            "| `params` | mapping |  | Its parameters by name",
            "| `deadband` |",
        ] {
            assert!(text.contains(row), "no {row} in\n{text}");
        }
    }

    #[test]
    fn every_key_is_told_in_the_reference() {
        let text = reference(&CATALOG);
        for row in text.lines().filter(|line| line.starts_with("| `")) {
            let told = row.trim_end_matches(" |").rsplit('|').next().unwrap().trim();
            assert!(!told.is_empty(), "no doc comment: {row}");
        }
    }
}
