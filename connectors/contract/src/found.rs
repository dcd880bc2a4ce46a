//! What `browse` and `probe` found, as data, and the ways to show it: YAML to paste, a table for `tags_from`, JSON, lines.

use serde_json::{Map, Value};
use std::fmt::Write;

/// What a device, a server or a broker has, and what it says of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Findings {
    /// A name for the source: `server`, `broker`.
    pub name: &'static str,
    /// What a person should know first: how much was seen.
    pub notes: Vec<String>,
    /// The keys of a source that would read it, in order, without `type`: `endpoint`, `namespaces`, `subscribe`. Empty: there is none.
    pub source: Vec<Entry>,
    /// The tags of that source.
    pub tags: Option<Vec<FoundTag>>,
    /// The key of a tag's address: `node`, `address`.
    pub address: &'static str,
    /// What a person should know last: there is more than is listed.
    pub more: Option<String>,
    /// What a device says of itself, by headings.
    pub facts: Vec<(String, Facts)>,
    /// What was found of each device, as YAML that `profile:` of a device takes: a name for the file, and its text.
    pub profiles: Vec<(String, String)>,
}

/// A key of the YAML.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub key: String,
    pub value: Shape,
    /// A remark for a person, behind it.
    pub remark: Option<String>,
}

/// What stands under a key.
#[derive(Clone, Debug, PartialEq)]
pub enum Shape {
    /// A scalar; a text is written in quotes.
    Value(Value),
    /// A word of the grammar, written without quotes.
    Word(String),
    /// A mapping on one line.
    Inline(Vec<Entry>),
    /// A mapping, each key on a line of its own.
    Keys(Vec<Entry>),
    /// Mappings, each with a remark above it; on one line where all of its values are.
    List(Vec<(Option<String>, Vec<Entry>)>),
}

impl Entry {
    pub fn new(key: impl Into<String>, value: Shape) -> Self {
        Self { key: key.into(), value, remark: None }
    }

    pub fn value(key: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::new(key, Shape::Value(value.into()))
    }

    pub fn word(key: impl Into<String>, word: impl Into<String>) -> Self {
        Self::new(key, Shape::Word(word.into()))
    }

    /// With a remark behind it.
    pub fn remark(mut self, remark: impl Into<String>) -> Self {
        self.remark = Some(remark.into());
        self
    }
}

/// What is said under a heading.
#[derive(Clone, Debug, PartialEq)]
pub enum Facts {
    /// One sentence or value.
    One(Value),
    /// Names and values, in order.
    Named(Vec<(String, Value)>),
    /// Items, each on a line: texts, or mappings of which the values are shown.
    Items(Vec<Value>),
}

/// A value that can be read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FoundTag {
    /// A name for it, unique among what was found; levels are separated by `/`.
    pub name: String,
    /// Where it stands in the device's own tree, for headings.
    pub under: Vec<String>,
    /// The address, as the YAML beside [`Findings::source`] would have it.
    pub address: String,
    /// The address as a table has it, which knows nothing of the source; empty: the same.
    pub address_alone: String,
    /// The device's name of its type.
    pub kind: String,
    /// Commands could write it.
    pub writable: Option<bool>,
    /// Its value, as short as a person needs it.
    pub value: String,
    /// More keys of the tag, in order: `unit`, `min`, `max`, `description`.
    pub options: Vec<(&'static str, Value)>,
}

/// Columns that every table has behind name and address.
const COLUMNS: [&str; 4] = ["unit", "min", "max", "description"];

impl Findings {
    /// A source to paste, as a type of connector reads it. Of facts alone: lines.
    pub fn yaml(&self, type_name: &str) -> String {
        let mut out = String::new();
        for note in &self.notes {
            let _ = writeln!(out, "# {}", one_line(note));
        }
        if !self.source.is_empty() {
            let _ = writeln!(out, "sources:\n  {}:\n    type: {type_name}", self.name);
            block(&self.source, 4, &mut out);
            if let Some(tags) = &self.tags {
                self.group(tags, &mut out);
            }
        }
        if let Some(more) = &self.more {
            let _ = writeln!(out, "# {}", one_line(more));
        }
        out + &self.lines()
    }

    fn group(&self, tags: &[FoundTag], out: &mut String) {
        *out += "    groups:\n      - every: 1s\n        tags:\n";
        if tags.is_empty() {
            *out += "          # nothing found\n";
        }
        let mut under: &[String] = &[];
        for tag in tags {
            if tag.under != under {
                let _ = writeln!(out, "          # {}", one_line(&tag.under.join(" / ")));
                under = &tag.under;
            }
            let _ = write!(out, "          {}: {{{}: {}", key(&tag.name), self.address, quoted(&tag.address));
            for (option, value) in &tag.options {
                let _ = write!(out, ", {option}: {value}");
            }
            let _ = writeln!(out, "}}   # {} {}", tag.kind, one_line(&tag.value));
        }
    }

    /// The tags as a table for `tags_from`.
    pub fn table(&self) -> String {
        let tags = self.tags.as_deref().unwrap_or_default();
        let mut columns: Vec<&str> = COLUMNS.to_vec();
        for (option, _) in tags.iter().flat_map(|tag| &tag.options) {
            if !columns.contains(option) {
                columns.push(option);
            }
        }
        let mut out = format!("name,{},{}\n", self.address, columns.join(","));
        for tag in tags {
            let address = if tag.address_alone.is_empty() { &tag.address } else { &tag.address_alone };
            let _ = write!(out, "{},{}", cell(&tag.name), cell(address));
            for column in &columns {
                let value = tag.options.iter().find(|(option, _)| option == column);
                let _ = write!(out, ",{}", value.map_or_else(String::new, |(_, value)| cell(&said(value))));
            }
            out.push('\n');
        }
        out
    }

    /// Everything, for a program.
    pub fn json(&self, type_name: &str) -> Value {
        let mut all = Map::new();
        for (heading, facts) in &self.facts {
            let value = match facts {
                Facts::One(value) => value.clone(),
                Facts::Named(named) => Value::Object(named.iter().cloned().collect()),
                Facts::Items(items) => Value::Array(items.clone()),
            };
            all.insert(heading.clone(), value);
        }
        if !self.source.is_empty() {
            let mut source = object(&self.source);
            source.insert("type".into(), type_name.into());
            all.insert("source".into(), source.into());
        }
        if let Some(tags) = &self.tags {
            let tag = |tag: &FoundTag| {
                let mut fields = Map::new();
                fields.insert("name".into(), tag.name.as_str().into());
                fields.insert(self.address.into(), tag.address.as_str().into());
                fields.insert("type".into(), tag.kind.as_str().into());
                fields.insert("value".into(), tag.value.as_str().into());
                fields.extend(tag.writable.map(|writable| ("writable".to_owned(), writable.into())));
                fields.extend(tag.options.iter().map(|(option, value)| ((*option).to_owned(), value.clone())));
                Value::Object(fields)
            };
            all.insert("tags".into(), tags.iter().map(tag).collect());
        }
        if !self.profiles.is_empty() {
            let profiles = self.profiles.iter().map(|(name, text)| (name.clone(), text.as_str().into()));
            all.insert("profiles".into(), Value::Object(profiles.collect()));
        }
        let notes: Vec<_> = self.notes.iter().chain(&self.more).map(|note| Value::from(note.as_str())).collect();
        if !notes.is_empty() {
            all.insert("notes".into(), notes.into());
        }
        all.into()
    }

    /// The facts, one a line; a limit of 0 is none.
    pub fn lines(&self) -> String {
        let mut out = String::new();
        for (heading, facts) in &self.facts {
            match facts {
                Facts::One(value) => _ = writeln!(out, "{heading}  {}", said(value)),
                Facts::Named(named) => {
                    let _ = writeln!(out, "{heading}");
                    for (name, value) in named {
                        let is_none = heading == "limits" && value.as_f64() == Some(0.0);
                        let _ = writeln!(out, "  {name:<26}{}", if is_none { "no limit".into() } else { said(value) });
                    }
                }
                Facts::Items(items) => {
                    let _ = writeln!(out, "{heading}");
                    for item in items {
                        let line = match item.as_object() {
                            Some(fields) => fields.values().map(said).filter(|text| !text.is_empty()).collect::<Vec<_>>().join("  "),
                            None => said(item),
                        };
                        let _ = writeln!(out, "  {line}");
                    }
                }
            }
        }
        out
    }
}

fn object(entries: &[Entry]) -> Map<String, Value> {
    let value = |shape: &Shape| match shape {
        Shape::Value(value) => value.clone(),
        Shape::Word(word) => word.as_str().into(),
        Shape::Inline(keys) | Shape::Keys(keys) => object(keys).into(),
        Shape::List(items) => items.iter().map(|(_, keys)| Value::from(object(keys))).collect(),
    };
    entries.iter().map(|entry| (entry.key.clone(), value(&entry.value))).collect()
}

fn block(entries: &[Entry], depth: usize, out: &mut String) {
    for entry in entries {
        let _ = write!(out, "{:depth$}{}:", "", key(&entry.key));
        under(entry, depth, out);
    }
}

/// What stands behind a key and its colon.
fn under(entry: &Entry, depth: usize, out: &mut String) {
    match &entry.value {
        Shape::Keys(keys) => {
            out.push('\n');
            block(keys, depth + 2, out);
        }
        Shape::List(items) => {
            out.push('\n');
            for (remark, keys) in items {
                if let Some(remark) = remark {
                    let _ = writeln!(out, "{:depth$}  # {}", "", one_line(remark));
                }
                let _ = write!(out, "{:depth$}  - ", "");
                if keys.iter().all(|key| inline(&key.value).is_some()) {
                    let _ = writeln!(out, "{}", inline(&Shape::Inline(keys.clone())).unwrap_or_default());
                    continue;
                }
                for (index, entry) in keys.iter().enumerate() {
                    if index > 0 {
                        let _ = write!(out, "{:depth$}    ", "");
                    }
                    let _ = write!(out, "{}:", key(&entry.key));
                    under(entry, depth + 4, out);
                }
            }
        }
        shape => {
            let _ = write!(out, " {}", inline(shape).unwrap_or_default());
            if let Some(remark) = &entry.remark {
                let _ = write!(out, "   # {}", one_line(remark));
            }
            out.push('\n');
        }
    }
}

/// A value on one line; `None`: it needs several.
fn inline(shape: &Shape) -> Option<String> {
    match shape {
        // JSON is YAML.
        Shape::Value(value) => Some(value.to_string()),
        Shape::Word(word) => Some(word.clone()),
        Shape::Inline(keys) => {
            let pair = |entry: &Entry| Some(format!("{}: {}", key(&entry.key), inline(&entry.value)?));
            Some(format!("{{{}}}", keys.iter().map(pair).collect::<Option<Vec<_>>>()?.join(", ")))
        }
        Shape::Keys(_) | Shape::List(_) => None,
    }
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

fn key(text: &str) -> String {
    let is_plain =
        text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.chars().all(|c| c.is_ascii_alphanumeric() || "_/.-".contains(c));
    if is_plain && !["true", "false", "null", "yes", "no", "on", "off"].contains(&text.to_ascii_lowercase().as_str()) {
        text.to_owned()
    } else {
        quoted(text)
    }
}

fn cell(text: &str) -> String {
    // A line that begins with `#` is left out.
    if text.contains([',', '"', '\n', '\r']) || text.starts_with('#') {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

fn said(value: &Value) -> String {
    match value {
        Value::String(text) => text.replace(char::is_control, " "),
        other => other.to_string(),
    }
}

fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn facts_read_as_lines() {
        let endpoints = vec![json!({"url": "opc.tcp://h", "policy": "None", "login": "anonymous", "certificate": ""})];
        let findings = Findings {
            facts: vec![
                ("endpoints".into(), Facts::Items(endpoints)),
                ("limits".into(), Facts::Named(vec![("nodes_per_read".into(), json!(0)), ("queue".into(), json!(10))])),
                ("namespaces".into(), Facts::Items(vec!["http://opcfoundation.org/UA/".into()])),
                ("no_session".into(), Facts::One("denied".into())),
            ],
            ..Findings::default()
        };
        let lines: Vec<String> = findings.lines().lines().map(str::to_owned).collect();
        assert!(lines[1].contains("opc.tcp://h") && !lines[1].contains("\"\""), "{lines:?}");
        let expected = ["limits", "  nodes_per_read            no limit", "  queue                     10", "namespaces"];
        assert_eq!(lines[2..6], expected);
        assert_eq!(lines[7], "no_session  denied");
        assert_eq!(findings.json("opcua")["limits"]["queue"], 10);
    }

    #[test]
    fn what_was_found_is_a_source_to_paste_a_table_and_json() {
        let tag = FoundTag {
            name: "a b".into(),
            under: vec!["Press".into()],
            address: "p:s=a".into(),
            address_alone: "nsu=urn:p;s=a".into(),
            kind: "Double".into(),
            value: "1.5".into(),
            options: vec![("unit", "°C".into()), ("max", json!(9.5)), ("description", "top, \"left\"".into())],
            ..FoundTag::default()
        };
        let mut findings = Findings {
            name: "server",
            source: vec![
                Entry::value("endpoint", "opc.tcp://h"),
                Entry::new("namespaces", Shape::Inline(vec![Entry::value("p", "urn:p")])),
                Entry::word("topic", "telemetry"),
            ],
            tags: Some(vec![tag]),
            address: "node",
            more: Some("there is more".into()),
            ..Findings::default()
        };
        let expected = "sources:\n  server:\n    type: opcua\n    endpoint: \"opc.tcp://h\"\n    namespaces: {p: \"urn:p\"}\n    topic: telemetry\n    \
                        groups:\n      - every: 1s\n        tags:\n          # Press\n          \"a b\": {node: \"p:s=a\", unit: \"°C\", max: 9.5, \
                        description: \"top, \\\"left\\\"\"}   # Double 1.5\n# there is more\n";
        assert_eq!(findings.yaml("opcua"), expected);
        let table = "name,node,unit,min,max,description\na b,nsu=urn:p;s=a,°C,,9.5,\"top, \"\"left\"\"\"\n";
        assert_eq!(findings.table(), table);
        assert_eq!(findings.json("opcua")["tags"][0]["unit"], "°C");
        findings.source = vec![Entry::new(
            "subscribe",
            Shape::List(vec![
                (Some("two\ntopics".into()), vec![Entry::value("filter", "a/+"), Entry::word("payload", "number")]),
                (None, vec![Entry::value("filter", "b"), Entry::new("samples", Shape::Keys(vec![Entry::value("v", "/v").remark("1")]))]),
            ]),
        )];
        findings.tags = None;
        let expected = "sources:\n  server:\n    type: mqtt\n    subscribe:\n      # two topics\n      - {filter: \"a/+\", payload: number}\n      \
                        - filter: \"b\"\n        samples:\n          v: \"/v\"   # 1\n# there is more\n";
        assert_eq!(findings.yaml("mqtt"), expected);
    }
}
