//! What of a record may leave: fields by name, kept, left at home, masked, hashed.
//!
//! ```text
//! YAML      allow, drop, mask, hash, pseudonym: names, or paths like /operator/name
//! Rule      a tree of them; what no rule names leaves, or, where `allow` is given, stays at home
//! json      the text rewritten piece by piece, numbers as they stand
//! avro, protobuf   the bytes rewritten by their schema, which gets a form of its own
//! ```
//!
//! Invariants: what cannot be read under a rule stays at home, as a whole; where a rule expects fields and finds something else, that stays at
//! home; an equal value has an equal hash, in JSON, Avro and Protobuf, as long as the key is the same.

pub mod avro;
pub mod json;
pub mod messages;
pub mod protobuf;

use indexmap::IndexMap;
use millrace_config::{Place, Problems, Reason, Secret, Spanned};
use millrace_contract::is_meant;
use millrace_schemas::avsc::{Avsc, Kind, NodeId};
use millrace_schemas::contract::{Kind as Language, Schema};
use prost_reflect::MessageDescriptor;
use ring::hmac;
use schemars::JsonSchema;
use serde::Deserialize;
use std::sync::Arc;

/// The header that says with which of `hash_keys` a record's fields were hashed.
pub const KEY_ID: &str = "millrace.hash-key";
/// What a masked value becomes.
const MASKED: &[u8] = b"***";

/// What of the records of a topic leaves the site. Fields are named as they stand in the value; `/operator/name` is a field of a field, and of
/// each item where there is a list.
#[derive(Clone, PartialEq, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FieldRules {
    /// These leave, and those that `mask`, `hash` and `pseudonym` name, and no others: a field that is new stays at home. Left out, all do.
    pub allow: Option<Vec<Spanned<String>>>,
    /// These stay at home.
    pub drop: Vec<Spanned<String>>,
    /// These leave as `***`.
    pub mask: Vec<Spanned<String>>,
    /// These leave as their HMAC-SHA256 under `hash_keys`: equal values of one field are equal, and nobody without the key finds out which they are.
    pub hash: Vec<Spanned<String>>,
    /// As `hash`, but the same value has the same name in every field and topic, so that they still join.
    pub pseudonym: Vec<Spanned<String>>,
    /// What becomes of the records' keys.
    pub key: OfKey,
    /// The headers that leave. Left out, all do.
    pub headers: Option<Vec<String>>,
}

/// What becomes of a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OfKey {
    #[default]
    Keep,
    Hash,
    Pseudonym,
}

/// A key for `hash` and `pseudonym`.
#[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HashKey {
    /// What the header `millrace.hash-key` calls it.
    pub id: Spanned<String>,
    /// At least 16 characters: `"${file:/run/secrets/hash-key}"`.
    pub secret: Secret,
    /// The day, in UTC, from which on it holds: `2027-01-01`, by the records' own time. The first has none.
    #[serde(default)]
    pub from: Option<Spanned<String>>,
}

const LEAST_SECRET: usize = 16;

/// How a value is changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    Mask,
    Hash,
    Pseudonym,
}

/// What becomes of a value.
#[derive(Clone, PartialEq, Debug)]
pub enum Rule {
    Leave,
    Stay,
    /// With the field's path.
    Change(How, Arc<str>),
    Fields(Fields),
}

/// What becomes of the fields of an object, or of a record.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Fields {
    pub named: IndexMap<String, Rule>,
    /// Whether those leave that are not named.
    pub others: bool,
}

impl Fields {
    /// The rule for a field, and its index where it has a name.
    pub fn of(&self, name: &str) -> (&Rule, Option<usize>) {
        match self.named.get_full(name) {
            Some((index, _, rule)) => (rule, Some(index)),
            None if self.others => (&Rule::Leave, None),
            None => (&Rule::Stay, None),
        }
    }

    /// How many fields below are to be changed.
    pub fn changes(&self) -> u64 {
        self.named.values().map(Rule::changes).sum()
    }
}

impl Rule {
    pub fn changes(&self) -> u64 {
        match self {
            Self::Change(..) => 1,
            Self::Fields(fields) => fields.changes(),
            Self::Leave | Self::Stay => 0,
        }
    }
}

/// The rules of one topic, or of those that a pattern means.
#[derive(Clone, PartialEq, Debug)]
pub struct Rules {
    /// A name, or a pattern with `*`.
    pub topic: String,
    pub fields: Fields,
    pub key: OfKey,
    pub headers: Option<Vec<String>>,
    /// Where each field is named, for what only a schema can tell.
    places: Vec<(Vec<String>, Place)>,
}

impl Rules {
    /// Checks what needs no schema.
    pub fn compile(topic: &str, config: &FieldRules, problems: &mut Problems) -> Self {
        let mut fields = Fields { named: IndexMap::new(), others: config.allow.is_none() };
        let mut places = Vec::new();
        let mut take = |names: &[Spanned<String>], leaf: &dyn Fn(Arc<str>) -> Rule, problems: &mut Problems| {
            for name in names {
                let Some(path) = path(name) else {
                    problems.error(name.place, format!("`{}` names no field", name.value)).help("write `operator`, or `/operator/name`");
                    continue;
                };
                let whole: Arc<str> = path.join("/").into();
                match insert(&mut fields, &path, leaf(whole)) {
                    Ok(()) => places.push((path, name.place)),
                    Err(why) => _ = problems.error(name.place, format!("field {} of topic {topic} {why}", name.value)),
                }
            }
        };
        take(config.allow.as_deref().unwrap_or_default(), &|_| Rule::Leave, problems);
        take(&config.drop, &|_| Rule::Stay, problems);
        take(&config.mask, &|path| Rule::Change(How::Mask, path), problems);
        take(&config.hash, &|path| Rule::Change(How::Hash, path), problems);
        take(&config.pseudonym, &|path| Rule::Change(How::Pseudonym, path), problems);
        Self { topic: topic.to_owned(), fields, key: config.key, headers: config.headers.clone(), places }
    }

    pub fn is_for(&self, topic: &str) -> bool {
        is_meant(&self.topic, topic)
    }

    /// Whether something of it is hashed.
    pub fn needs_key(&self) -> bool {
        fn hashes(fields: &Fields) -> bool {
            fields.named.values().any(|rule| match rule {
                Rule::Change(how, _) => *how != How::Mask,
                Rule::Fields(fields) => hashes(fields),
                Rule::Leave | Rule::Stay => false,
            })
        }
        self.key != OfKey::Keep || hashes(&self.fields)
    }

    /// What is done, for a person.
    pub fn plan(&self) -> Vec<String> {
        fn list(fields: &Fields, prefix: &str, out: &mut [Vec<String>; 5]) {
            for (name, rule) in &fields.named {
                let name = format!("{prefix}{name}");
                match rule {
                    Rule::Leave => out[0].push(name),
                    Rule::Stay => out[1].push(name),
                    Rule::Change(How::Mask, _) => out[2].push(name),
                    Rule::Change(How::Hash, _) => out[3].push(name),
                    Rule::Change(How::Pseudonym, _) => out[4].push(name),
                    Rule::Fields(below) => list(below, &format!("{name}/"), out),
                }
            }
        }
        let mut by_word: [Vec<String>; 5] = Default::default();
        list(&self.fields, "", &mut by_word);
        let words = ["as they are", "not at all", "masked", "hashed", "as pseudonyms"];
        let rest = if self.fields.others { "all others as they are" } else { "no others" };
        let parts =
            words.iter().zip(by_word).filter(|(_, names)| !names.is_empty()).map(|(word, names)| format!("{} {word}", names.join(", ")));
        let mut lines = vec![format!("of topic {} lets out: {}; {rest}", self.topic, parts.collect::<Vec<_>>().join("; "))];
        lines.push(match self.key {
            OfKey::Keep => format!("keys of topic {} leave as they are", self.topic),
            OfKey::Hash => format!("keys of topic {} leave hashed", self.topic),
            OfKey::Pseudonym => format!("keys of topic {} leave as pseudonyms", self.topic),
        });
        if let Some(headers) = &self.headers {
            lines.push(format!("headers of topic {} that leave: {}", self.topic, headers.join(", ")));
        }
        lines
    }

    /// Holds the names against a schema: a field that is not there is a mistake, or will be one.
    pub fn hold_against(&self, topic: &str, schema: &Schema, problems: &mut Problems) {
        for (path, place) in &self.places {
            let name = path.join("/");
            let missing = match schema.kind {
                Language::Avro => {
                    let Ok(avsc) = parse(schema) else { return };
                    !has_avro(&avsc, avsc.root(), path, 0)
                }
                Language::Json => {
                    let Ok(tree) = serde_json::from_str::<serde_json::Value>(&schema.text) else { return };
                    !has_json(&tree, path)
                }
                Language::Protobuf => {
                    let Ok(message) = parse_protobuf(schema) else { return };
                    !messages::has(&message, path)
                }
            };
            if missing && schema.kind != Language::Json {
                problems
                    .error(*place, format!("topic {topic} has no field {name}: its schema {} does not know it", schema.name))
                    .help("correct the name, or take it out: a rule for a field that is not there protects nothing");
            } else if missing {
                problems.warn(*place, format!("topic {topic} has no field {name} that its schema {} knows of", schema.name));
            }
        }
    }
}

/// A schema in Avro with those it names.
pub fn parse(schema: &Schema) -> Result<Avsc, Reason> {
    Avsc::parse(&schema.text, &references(schema), None).map_err(|error| error.to_string().into())
}

/// A message in Protobuf, of a file with those it imports.
pub fn parse_protobuf(schema: &Schema) -> Result<MessageDescriptor, Reason> {
    messages::parse(&schema.text, &references(schema), &schema.indexes).map_err(|why| format!("{}: {why}", schema.name).into())
}

/// The schemas that one names, those first that the others need.
fn references(schema: &Schema) -> Vec<(&str, &str)> {
    fn add<'s>(schema: &'s Schema, found: &mut Vec<(&'s str, &'s str)>) {
        for reference in &schema.references {
            if !found.iter().any(|(name, _)| *name == &*reference.name) {
                add(&reference.schema, found);
                found.push((&reference.name, &reference.schema.text));
            }
        }
    }
    let mut found = Vec::new();
    add(schema, &mut found);
    found
}

fn has_avro(avsc: &Avsc, id: NodeId, path: &[String], depth: usize) -> bool {
    let Some((first, rest)) = path.split_first() else { return true };
    if depth > 200 {
        return false;
    }
    match &avsc.node(id).kind {
        Kind::Record { fields, .. } => fields.iter().any(|field| field.name == *first && has_avro(avsc, field.node, rest, depth + 1)),
        Kind::Array(items) => has_avro(avsc, *items, path, depth + 1),
        Kind::Union(branches) => branches.iter().any(|branch| has_avro(avsc, *branch, path, depth + 1)),
        // Its keys are data.
        Kind::Map(_) => true,
        _ => false,
    }
}

/// Only what is said outright counts: `$ref`, `allOf` and their like may add fields.
fn has_json(tree: &serde_json::Value, path: &[String]) -> bool {
    let Some((first, rest)) = path.split_first() else { return true };
    if let Some(items) = tree.get("items") {
        return has_json(items, path);
    }
    let is_open = ["$ref", "allOf", "anyOf", "oneOf", "patternProperties"].iter().any(|word| tree.get(word).is_some());
    match tree.get("properties") {
        Some(properties) => is_open || properties.get(first).is_some_and(|below| has_json(below, rest)),
        None => true,
    }
}

/// The steps of a name: `operator` is one, `/operator/name` two.
fn path(name: &str) -> Option<Vec<String>> {
    let steps: Vec<String> = match name.strip_prefix('/') {
        Some(rest) => rest.split('/').map(str::to_owned).collect(),
        None => vec![name.to_owned()],
    };
    steps.iter().all(|step| !step.is_empty()).then_some(steps)
}

fn insert(fields: &mut Fields, path: &[String], leaf: Rule) -> Result<(), Reason> {
    let Some((first, rest)) = path.split_first() else { return Ok(()) };
    // What lies beside a field that is allowed stays; what lies beside one that is changed goes where its parent goes.
    let others = fields.others && leaf != Rule::Leave;
    if rest.is_empty() {
        return match (fields.named.get_mut(first), leaf) {
            (None, leaf) => {
                fields.named.insert(first.clone(), leaf);
                Ok(())
            }
            // A field of it was allowed before: now all of it is.
            (Some(Rule::Fields(below)), Rule::Leave) => {
                below.others = true;
                Ok(())
            }
            // It was allowed before, and is now said how.
            (Some(before @ Rule::Leave), leaf) if leaf != Rule::Leave && leaf != Rule::Stay => {
                *before = leaf;
                Ok(())
            }
            (Some(_), _) => Err("has two rules that contradict each other".into()),
        };
    }
    let below = fields.named.entry(first.clone()).or_insert_with(|| Rule::Fields(Fields { named: IndexMap::new(), others }));
    if *below == Rule::Leave {
        *below = Rule::Fields(Fields { named: IndexMap::new(), others: true });
    }
    match below {
        Rule::Fields(below) => insert(below, rest, leaf),
        Rule::Stay => Err(format!("is part of {first}, which stays at home").into()),
        Rule::Change(..) | Rule::Leave => Err(format!("is part of {first}, which has a rule of its own").into()),
    }
}

/// The keys, in the order in which they hold.
#[derive(Debug, Default)]
pub struct Keys(Vec<(i64, String, Option<hmac::Key>)>);

impl Keys {
    pub fn compile(config: &[HashKey], problems: &mut Problems) -> Self {
        let mut keys: Vec<(i64, String, Option<hmac::Key>)> = Vec::new();
        for (index, key) in config.iter().enumerate() {
            let from = match (&key.from, index) {
                (None, 0) => i64::MIN,
                (None, _) => {
                    problems.error(key.id.place, format!("hash key {} has no `from`, and is not the first", key.id.value));
                    continue;
                }
                (Some(from), _) => match day(from) {
                    Some(_) if index == 0 => {
                        problems
                            .error(from.place, format!("hash key {} is the first, and holds from the beginning", key.id.value))
                            .help("leave `from` out");
                        continue;
                    }
                    Some(from) => from,
                    None => {
                        problems.error(from.place, format!("`{}` is no day", from.value)).help("write it as `2027-01-01`");
                        continue;
                    }
                },
            };
            if keys.last().is_some_and(|(before, ..)| *before >= from) {
                problems.error(key.id.place, format!("hash key {} does not begin after the one before it", key.id.value));
            }
            if keys.iter().any(|(_, id, _)| *id == key.id.value) {
                problems.error(key.id.place, format!("there are two hash keys with the id {}", key.id.value));
            }
            // Where files are only checked, secrets may be absent.
            let secret = key.secret.expose();
            if !secret.is_empty() && !secret.starts_with("${") && secret.len() < LEAST_SECRET {
                problems.error(
                    key.id.place,
                    format!("the secret of hash key {} has less than {LEAST_SECRET} characters: it can be guessed", key.id.value),
                );
            }
            let hmac = (!secret.is_empty()).then(|| hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()));
            keys.push((from, key.id.value.clone(), hmac));
        }
        Self(keys)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The key that holds for a record of this time.
    pub fn at(&self, timestamp_ms: i64) -> Option<Key<'_>> {
        let (_, id, key) = self.0.iter().rev().find(|(from, ..)| *from <= timestamp_ms).or(self.0.first())?;
        Some(Key { id, hmac: key.as_ref()? })
    }
}

fn day(text: &str) -> Option<i64> {
    let date: jiff::civil::Date = text.parse().ok()?;
    Some(date.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_millisecond())
}

/// One of them.
#[derive(Clone, Copy, Debug)]
pub struct Key<'k> {
    pub id: &'k str,
    hmac: &'k hmac::Key,
}

/// What changes values of one record.
#[derive(Clone, Copy, Debug)]
pub struct Changer<'k> {
    /// The topic at home.
    pub topic: &'k str,
    /// `None`: nothing is hashed.
    pub key: Option<Key<'k>>,
}

impl Changer<'_> {
    /// Appends what a value becomes, without quotes: of a text its characters, of a number its digits.
    pub fn change(&self, how: How, path: &str, value: &[u8], out: &mut Vec<u8>) {
        let tag = |context: &[&[u8]]| {
            // Without a key nothing is let out: `check` saw to it that there is one.
            let key = self.key?;
            let mut signing = hmac::Context::with_key(key.hmac);
            for part in context {
                signing.update(&(part.len() as u64).to_le_bytes());
                signing.update(part);
            }
            Some(signing.sign())
        };
        match how {
            How::Mask => out.extend_from_slice(MASKED),
            How::Hash => match tag(&[b"hash", self.topic.as_bytes(), path.as_bytes(), value]) {
                Some(tag) => hex(tag.as_ref(), out),
                None => out.extend_from_slice(MASKED),
            },
            How::Pseudonym => match tag(&[b"pseudonym", value]) {
                Some(tag) => {
                    out.extend_from_slice(b"p-");
                    hex(&tag.as_ref()[..16], out);
                }
                None => out.extend_from_slice(MASKED),
            },
        }
    }

    /// What a record's key becomes.
    pub fn key(&self, rule: OfKey, key: &[u8], out: &mut Vec<u8>) {
        match rule {
            OfKey::Keep => out.extend_from_slice(key),
            OfKey::Hash => self.change(How::Hash, "", key, out),
            OfKey::Pseudonym => self.change(How::Pseudonym, "", key, out),
        }
    }
}

fn hex(bytes: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.extend(bytes.iter().flat_map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]));
}
