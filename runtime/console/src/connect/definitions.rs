//! The types of connectors as Kafka Connect's plugins, with a definition of each key, out of the JSON Schema of the file.
//!
//! A nested key is dotted: `login.user`. What is a list or a map of names has one definition; its items are `tags.0.name`.

use super::state;
use crate::control::Wrong;
use millrace_engine::hold::Role;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// How deep keys are nested in one definition's name.
const DEEPEST: usize = 6;

pub struct Plugins(Value);

impl Plugins {
    /// `schema`: that of the whole file.
    pub fn new(schema: Value) -> Self {
        Self(schema)
    }

    /// Every class, sinks first, as Kafka Connect has them.
    pub fn classes(&self) -> impl Iterator<Item = (String, Role)> {
        let names = self.0["$defs"].as_object().into_iter().flat_map(Map::keys);
        let found = names.filter_map(|name| {
            let (role, type_name) = name.split_once('_')?;
            let role = match role {
                "source" => Role::Source,
                "sink" => Role::Sink,
                _ => return None,
            };
            Some((class(role, type_name), role))
        });
        let sorted: BTreeSet<(&str, String)> = found.map(|(class, role)| (state::kind(role), class)).collect();
        sorted.into_iter().map(|(kind, class)| (class, if kind == "sink" { Role::Sink } else { Role::Source }))
    }

    /// Role and type of a class.
    pub fn find<'c>(&self, class: &'c str) -> Option<(Role, &'c str)> {
        let (type_name, role) = class.strip_prefix("millrace.")?.rsplit_once('.')?;
        let role = match role {
            "Source" => Role::Source,
            "Sink" => Role::Sink,
            _ => return None,
        };
        self.shape(role, type_name).map(|_| (role, type_name))
    }

    fn shape(&self, role: Role, type_name: &str) -> Option<&Value> {
        self.0["$defs"].get(format!("{}_{type_name}", state::kind(role)))
    }

    /// The definitions of a class; `None`: there is no such class.
    pub fn definitions(&self, class: &str) -> Option<Vec<Value>> {
        let (role, type_name) = self.find(class)?;
        let shape = self.shape(role, type_name)?;
        let mut all = Vec::new();
        let common = [
            ("name", "The name of the connector, as it stands in the file under `sources` or `sinks`."),
            ("connector.class", "The type of connector: `millrace.TYPE.Source` or `millrace.TYPE.Sink`."),
        ];
        for (order, (name, told)) in common.into_iter().enumerate() {
            all.push(definition(name, "STRING", true, Value::Null, told, "Common", order + 1));
        }
        self.walk(shape, "", 0, &mut all);
        Some(all)
    }

    fn walk(&self, shape: &Value, prefix: &str, depth: usize, all: &mut Vec<Value>) {
        let required: Vec<&str> = shape["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        for (key, key_shape) in properties(shape) {
            // The class says the type; templates are expanded before anything is shown here.
            if depth == 0 && matches!(key.as_str(), "type" | "use" | "with") {
                continue;
            }
            let at = self.resolved(&key_shape);
            let name = format!("{prefix}{}", escaped(&key));
            let told = at["description"].as_str().or_else(|| key_shape["description"].as_str()).unwrap_or_default();
            if !properties(&at).is_empty() && depth < DEEPEST {
                self.walk(&at, &format!("{name}."), depth + 1, all);
                continue;
            }
            let is_required = depth == 0 && required.contains(&key.as_str());
            let default = match at.get("default").or_else(|| key_shape.get("default")) {
                None | Some(Value::Null | Value::Object(_)) => Value::Null,
                Some(Value::String(text)) => json!(text),
                Some(Value::Array(items)) => json!(items.iter().map(plain).collect::<Vec<_>>().join(",")),
                Some(other) => json!(plain(other)),
            };
            let group = name.split('.').next().filter(|_| depth > 0).map_or("Connector", |group| group);
            let order = all.len() + 1;
            all.push(definition(&name, type_of(&at), is_required, default, told.trim(), group, order));
        }
    }

    /// Follows references and a choice with one real branch.
    fn resolved(&self, shape: &Value) -> Value {
        let mut at = shape.clone();
        for _ in 0..8 {
            let next = match at["$ref"].as_str() {
                Some(reference) => self.0.pointer(reference.trim_start_matches('#')).cloned(),
                None => ["anyOf", "oneOf", "allOf"].iter().find_map(|choice| {
                    let shapes: Vec<&Value> = at[*choice].as_array()?.iter().filter(|shape| shape["type"] != "null").collect();
                    (shapes.len() == 1).then(|| shapes[0].clone())
                }),
            };
            let Some(mut next) = next else { break };
            for kept in ["description", "default"] {
                if let (Some(value), Some(next)) = (at.get(kept), next.as_object_mut()) {
                    next.insert(kept.to_owned(), value.clone());
                }
            }
            at = next;
        }
        at
    }

    /// The answer to a validation: every key with its value and what is wrong with it. Keys that are not known stand at the end.
    pub fn validated(&self, class: &str, config: &BTreeMap<String, String>, wrong: &[Wrong]) -> Value {
        let definitions = self.definitions(class).unwrap_or_default();
        let name_of = |definition: &Value| definition["name"].as_str().unwrap_or_default().to_owned();
        // What is wrong inside of a list or a map is said at its definition.
        let known: Vec<String> = definitions.iter().map(name_of).collect();
        let place = |one: &Wrong| match one.key.as_str() {
            "" => "connector.class".to_owned(),
            key if config.contains_key(key) || known.iter().any(|known| known == key) => key.to_owned(),
            key => {
                let holds = |known: &&String| key.strip_prefix(known.as_str()).is_some_and(|rest| rest.starts_with('.'));
                known.iter().filter(holds).max_by_key(|known| known.len()).map_or_else(|| key.to_owned(), String::clone)
            }
        };
        let mut errors: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for one in wrong {
            errors.entry(place(one)).or_default().push(&one.says);
        }
        let value = |name: &str, value: Value, errors: &[&str]| json!({ "name": name, "value": value, "recommended_values": [], "errors": errors, "visible": true });
        let mut configs = Vec::new();
        for definition in &definitions {
            let name = name_of(definition);
            let given = config.get(&name).map_or_else(|| definition["default_value"].clone(), |given| json!(given));
            configs.push(json!({ "definition": definition, "value": value(&name, given, &errors.remove(&name).unwrap_or_default()) }));
        }
        for (name, errors) in &errors {
            let given = config.get(name).map_or(Value::Null, |given| json!(given));
            configs.push(json!({ "definition": null, "value": value(name, given, errors) }));
        }
        let mut groups: Vec<&str> = Vec::new();
        for group in definitions.iter().filter_map(|definition| definition["group"].as_str()) {
            if !groups.contains(&group) {
                groups.push(group);
            }
        }
        json!({ "name": class, "error_count": wrong.len(), "groups": groups, "configs": configs })
    }
}

/// `millrace.mqtt.Source`.
pub fn class(role: Role, type_name: &str) -> String {
    let role = match role {
        Role::Source => "Source",
        Role::Sink => "Sink",
    };
    format!("millrace.{type_name}.{role}")
}

/// A key as it stands in a dotted name: its own dots are marked.
fn escaped(key: &str) -> String {
    key.replace('\\', "\\\\").replace('.', "\\.")
}

fn definition(name: &str, kind: &str, required: bool, default: Value, told: &str, group: &str, order: usize) -> Value {
    json!({
        "name": name, "type": kind, "required": required, "default_value": default, "importance": if required { "HIGH" } else { "MEDIUM" },
        "documentation": told, "group": group, "width": "MEDIUM", "display_name": name, "dependents": [], "order": order,
    })
}

fn type_of(shape: &Value) -> &'static str {
    let is = |name: &str| match &shape["type"] {
        Value::String(kind) => kind == name,
        Value::Array(kinds) => kinds.iter().any(|kind| kind == name),
        _ => false,
    };
    match () {
        () if is("array") => "LIST",
        () if is("boolean") => "BOOLEAN",
        () if is("integer") => "LONG",
        () if is("number") => "DOUBLE",
        () => "STRING",
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Keys of a mapping; of a choice of mappings, of all.
fn properties(shape: &Value) -> Map<String, Value> {
    let mut keys = shape["properties"].as_object().cloned().unwrap_or_default();
    for choice in ["oneOf", "anyOf", "allOf"] {
        for shape in shape[choice].as_array().into_iter().flatten() {
            keys.extend(properties(shape));
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plugins() -> Plugins {
        Plugins::new(json!({ "$defs": {
            "source_mqtt": {
                "required": ["broker"],
                "properties": {
                    "type": { "const": "mqtt" },
                    "broker": { "type": "string", "description": "Where it is." },
                    "keep_alive": { "anyOf": [{ "$ref": "#/$defs/Period" }, { "type": "null" }], "default": "30s" },
                    "login": { "$ref": "#/$defs/Login" },
                    "tags": { "type": "array", "items": { "$ref": "#/$defs/Tag" } },
                },
            },
            "sink_lake": { "properties": {} },
            "Login": { "properties": { "user": { "type": "string" } } },
            "Period": { "type": "string" },
            "Tag": { "properties": { "name": { "type": "string" } } },
        } }))
    }

    #[test]
    fn a_type_is_a_class_and_its_keys_are_definitions() {
        let classes: Vec<String> = plugins().classes().map(|(class, _)| class).collect();
        assert_eq!(classes, ["millrace.lake.Sink", "millrace.mqtt.Source"]);
        let all = plugins().definitions("millrace.mqtt.Source").unwrap();
        let names: Vec<&str> = all.iter().map(|one| one["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["name", "connector.class", "broker", "keep_alive", "login.user", "tags"]);
        assert_eq!((&all[2]["required"], &all[3]["default_value"], &all[5]["type"]), (&json!(true), &json!("30s"), &json!("LIST")));
        assert!(plugins().definitions("millrace.nope.Source").is_none() && plugins().definitions("FileStreamSource").is_none());
    }

    #[test]
    fn what_is_wrong_stands_at_its_key() {
        let config = [("connector.class", "millrace.mqtt.Source"), ("brocker", "x")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        let wrong = [("broker", "is missing"), ("tags.0.name", "is empty"), ("brocker", "unknown key"), ("", "no")];
        let wrong = wrong.map(|(key, says)| Wrong { key: key.to_owned(), says: says.to_owned() });
        let answer = plugins().validated("millrace.mqtt.Source", &config.into(), &wrong);
        assert_eq!(answer["error_count"], 4);
        let at = |name: &str| {
            let all = answer["configs"].as_array().unwrap();
            all.iter().find(|one| one["value"]["name"] == name).unwrap_or_else(|| panic!("no {name}"))["value"]["errors"].clone()
        };
        assert_eq!(at("broker"), json!(["is missing"]));
        assert_eq!(at("tags"), json!(["is empty"]));
        assert_eq!(at("brocker"), json!(["unknown key"]));
        assert_eq!(at("connector.class"), json!(["no"]));
    }
}
