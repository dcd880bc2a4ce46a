//! What a node or device declared in its birth: names, aliases, types, and the tags they became.
//!
//! A part is a node (`GROUP/NODE`) or a device (`GROUP/NODE/DEVICE`). Aliases are looked up within their part: the specification wants them
//! unique within the node, encoders don't. A template is expanded into one tag per leaf (`metric/member`), known under the names on its way.
//! `is_transient` asks hosts not to keep a value; it changes nothing here: a log keeps what it is told.
//!
//! Invariants: a birth replaces everything: what it doesn't name any more is retired. A metric whose path is taken has no tag, and is
//! counted each time it comes. The number of metrics over all parts is bounded.

use super::address::{Address, tag_path};
use super::datatype::{DataType, Mismatch, Typed, typed};
use super::json::DEEPEST;
use super::properties;
use super::route::Route;
use super::store::store;
use super::wire::{Malformed, Member, Metric, Template};
use millrace_contract::{SourceIo, Structure, TagDef, TagOptions, name_weight};
use millrace_schemas::{Batch, Flags, Micros, Origin, Row, StatusCode, TagId, TimeSource, Value};
use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Instant;

/// Divides a metric's name from those of its members in a key; no encoder has it in a name.
const MEMBER: char = '\u{1f}';

/// Protocol, not values: the session's number, and the command that asks for a rebirth.
pub fn is_bookkeeping(name: &str) -> bool {
    name == "bdSeq" || name == "Node Control/Rebirth"
}

/// A node or a device.
pub struct Part {
    /// `GROUP/NODE[/DEVICE]`.
    pub name: Arc<str>,
    pub node: usize,
    pub route: usize,
    /// Its aliases mean what its last birth said.
    pub trusted: bool,
    pub online: bool,
    /// A birth came since the start.
    pub born: bool,
    /// A device whose node was born again: until when its own birth must come.
    pub awaited: Option<Instant>,
    /// The hash of the birth in the positions, and in how many pieces it lies there.
    pub kept: (u64, usize),
    known: Known,
}

#[derive(Default)]
struct Known {
    metrics: Vec<KnownMetric>,
    names: HashMap<Arc<str>, u32>,
    aliases: HashMap<u64, u32>,
}

struct KnownMetric {
    place: Place,
    datatype: DataType,
    /// The metric's name, and those of its members behind it.
    key: Arc<str>,
    /// A hash of the properties it was declared with.
    properties: u64,
    /// Of an expanded template: its leaves.
    leaves: Vec<u32>,
}

/// What a command needs to know of a metric.
pub struct Commanded<'a> {
    pub name: &'a str,
    pub alias: Option<u64>,
    pub datatype: DataType,
    /// Of an expanded template.
    pub is_member: bool,
}

/// Where a metric's values go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Tag(TagId),
    /// Its path is another tag's.
    Taken,
    /// A template that is expanded: its leaves have tags.
    Leaves,
}

/// What went wrong in one message: it goes to the dead letters once, with the first complaint and their number.
#[derive(Default)]
pub struct Complaints {
    first: Option<String>,
    count: u32,
    pub clashed: u64,
}

impl Complaints {
    pub fn add(&mut self, text: impl FnOnce() -> String) {
        self.first.get_or_insert_with(text);
        self.count += 1;
    }

    /// One line for a person; `None` when there is nothing to complain about.
    pub fn text(&self) -> Option<String> {
        let first = self.first.as_ref()?;
        Some(if self.count == 1 { first.clone() } else { format!("{first} (and {} more)", self.count - 1) })
    }
}

/// What a message is decoded with.
pub struct Context<'a> {
    pub io: &'a SourceIo,
    pub route: &'a Route,
    /// The route's options, shared by all tags that add nothing to them.
    pub options: &'a Arc<TagOptions>,
    /// How many metrics may still become known.
    pub room: &'a mut usize,
    pub complaints: &'a mut Complaints,
    /// Milliseconds since 1970; 0: none.
    pub timestamp: u64,
    pub origin: Origin,
}

/// What became of the metrics of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resolved {
    /// Metrics whose alias or name nobody declared with a type.
    pub unknown: u32,
    /// Metrics that were named with their type, but are in no birth; they are tags now.
    pub undeclared: u32,
}

/// Options of metrics with the same properties, shared within one message.
#[derive(Default)]
struct Shared<'a>(HashMap<&'a [u8], Arc<TagOptions>>);

impl Part {
    pub fn new(name: Arc<str>, node: usize, route: usize) -> Self {
        Self { name, node, route, trusted: false, online: false, born: false, awaited: None, kept: (0, 0), known: Known::default() }
    }

    /// Takes a birth's metrics over; their values into the batch, where there is one.
    pub fn birth(&mut self, metrics: &[Metric<'_>], context: &mut Context<'_>, mut batch: Option<&mut Batch>) {
        let mut before = std::mem::take(&mut self.known);
        self.known.names.reserve(metrics.len());
        self.known.metrics.reserve(metrics.len());
        let mut shared = Shared::default();
        let mut key = String::new();
        for metric in metrics {
            let Some(name) = metric.name.filter(|name| !name.is_empty()) else {
                context.complaints.add(|| format!("birth of {}: a metric has no name", self.name));
                continue;
            };
            if is_bookkeeping(name) || is_definition(metric) {
                continue;
            }
            key.clear();
            key.push_str(name);
            let index = self.enter(&key, metric, &[], context, &mut shared, Some(&mut before));
            let Some(index) = index else { break };
            if let Some(alias) = metric.alias {
                let first = *self.known.aliases.entry(alias).or_insert(index);
                if first != index {
                    context.complaints.add(|| format!("birth of {}: alias {alias} of {name} is another metric's already", self.name));
                }
            }
            self.value(index, metric, &mut key, context, &mut shared, Some(&mut before), batch.as_deref_mut());
        }
        for (key, index) in before.names {
            *context.room += name_weight(key.len());
            if let Place::Tag(tag) = before.metrics[index as usize].place {
                context.io.retire(tag);
            }
        }
    }

    /// Resolves a message's metrics and puts their values into the batch.
    pub fn data(&mut self, metrics: &[Metric<'_>], context: &mut Context<'_>, batch: &mut Batch) -> Resolved {
        let mut resolved = Resolved::default();
        let mut shared = Shared::default();
        let mut key = String::new();
        for metric in metrics {
            let datatype = DataType::of(metric.datatype);
            let name = metric.name.filter(|name| !name.is_empty());
            if name.is_some_and(is_bookkeeping) || is_definition(metric) {
                continue;
            }
            let known = match name {
                Some(name) => self.known.names.get(name).copied(),
                None => metric.alias.filter(|_| self.trusted).and_then(|alias| self.known.aliases.get(&alias).copied()).filter(|index| {
                    // Another type than the one declared: the alias is not what it was.
                    let declared = self.known.metrics[*index as usize].datatype;
                    datatype == DataType::Unknown || declared == DataType::Unknown || declared == datatype
                }),
            };
            key.clear();
            let index = match (known, name) {
                (Some(index), _) => index,
                (None, Some(name)) if datatype != DataType::Unknown => {
                    resolved.undeclared += 1;
                    key.push_str(name);
                    match self.enter(&key, metric, &[], context, &mut shared, None) {
                        Some(index) => index,
                        None => continue,
                    }
                }
                _ => {
                    resolved.unknown += 1;
                    context.complaints.add(|| match (name, metric.alias) {
                        (Some(name), _) => format!("{}: metric {name} is in no birth and has no datatype", self.name),
                        (None, Some(alias)) => format!("{}: alias {alias} is in no birth that is known", self.name),
                        (None, None) => format!("{}: a metric has neither name nor alias", self.name),
                    });
                    continue;
                }
            };
            if let Member::Template(_) = metric.value {
                key.clear();
                key.push_str(&self.known.metrics[index as usize].key);
            }
            self.value(index, metric, &mut key, context, &mut shared, None, Some(batch));
        }
        resolved
    }

    /// The metric of a tag.
    pub fn metric_of(&self, tag: TagId) -> Option<Commanded<'_>> {
        let index = self.known.metrics.iter().position(|metric| metric.place == Place::Tag(tag))?;
        let KnownMetric { key, datatype, .. } = &self.known.metrics[index];
        let alias = self.known.aliases.iter().find(|(_, known)| **known as usize == index).map(|(alias, _)| *alias);
        Some(Commanded { name: key, alias, datatype: *datatype, is_member: key.contains(MEMBER) })
    }

    pub fn len(&self) -> usize {
        self.known.metrics.len()
    }

    /// Makes a metric known under `key`: as it was before, or declared anew. `None` when there is no room left.
    fn enter<'m>(
        &mut self,
        key: &str,
        metric: &Metric<'m>,
        members: &[&str],
        context: &mut Context<'_>,
        shared: &mut Shared<'m>,
        before: Option<&mut Known>,
    ) -> Option<u32> {
        if let Some(index) = self.known.names.get(key) {
            return Some(*index);
        }
        let datatype = DataType::of(metric.datatype);
        let properties = if metric.properties.is_empty() { 0 } else { hash_of(metric.properties) };
        let old = before.and_then(|before| {
            let (key, index) = before.names.remove_entry(key)?;
            Some((key, &before.metrics[index as usize]))
        });
        let is_expanded = (datatype == DataType::Template || matches!(metric.value, Member::Template(_))) && !is_whole(context);
        let (key, place) = match old {
            Some((key, old)) if old.datatype == datatype && old.properties == properties && (old.place == Place::Leaves) == is_expanded => {
                (key, old.place)
            }
            other => {
                if other.is_none() {
                    let weight = name_weight(key.len());
                    if *context.room < weight {
                        context.complaints.add(|| format!("{}: too many metrics are known already; the rest is left out", self.name));
                        return None;
                    }
                    *context.room -= weight;
                }
                let place = if is_expanded { Place::Leaves } else { self.declare(key, metric, datatype, members, context, shared) };
                (other.map_or_else(|| Arc::from(key), |(key, _)| key), place)
            }
        };
        let index = self.known.metrics.len() as u32;
        self.known.names.insert(key.clone(), index);
        self.known.metrics.push(KnownMetric { place, datatype, key, properties, leaves: Vec::new() });
        Some(index)
    }

    fn declare<'m>(
        &self,
        key: &str,
        metric: &Metric<'m>,
        datatype: DataType,
        members: &[&str],
        context: &mut Context<'_>,
        shared: &mut Shared<'m>,
    ) -> Place {
        let Some(address) = Address::of_part(&self.name) else { return Place::Taken };
        let name = key.split(MEMBER).next().unwrap_or(key);
        let path = tag_path(&context.route.at, &context.route.tag, &address, name, members);
        let options = if metric.properties.is_empty() {
            context.options.clone()
        } else {
            let known =
                shared.0.entry(metric.properties).or_insert_with(|| match properties::options(metric.properties, context.options) {
                    Ok(Some(options)) => Arc::new(options),
                    Ok(None) | Err(_) => context.options.clone(),
                });
            known.clone()
        };
        let def = TagDef {
            path,
            address: format!("{}:{}", self.name, key.replace(MEMBER, ".")),
            kind: (datatype != DataType::Unknown).then(|| datatype.as_str().to_owned()),
            topic: options.topic.as_deref().map_or_else(|| context.route.topic.clone(), Arc::from),
            part: self.name.clone(),
            options,
        };
        match context.io.declare(def) {
            Ok(tag) => Place::Tag(tag),
            Err(clash) => {
                context.complaints.add(|| format!("{}: metric {name}: {clash}; set `at` and `tag` so that paths differ", self.name));
                Place::Taken
            }
        }
    }

    /// Puts the value of a known metric into the batch; a template's member by member.
    #[expect(clippy::too_many_arguments, reason = "one recursion's state")]
    fn value<'m>(
        &mut self,
        index: u32,
        metric: &Metric<'m>,
        key: &mut String,
        context: &mut Context<'_>,
        shared: &mut Shared<'m>,
        mut before: Option<&mut Known>,
        mut batch: Option<&mut Batch>,
    ) {
        let known = &self.known.metrics[index as usize];
        if known.place == Place::Leaves {
            if let (false, Member::Template(bytes)) = (metric.null, metric.value) {
                let mut walk = Walk { top: index, members: Vec::new(), key, metric };
                if let Err(malformed) = self.expand(bytes, &mut walk, context, shared, &mut before, &mut batch) {
                    context.complaints.add(|| format!("{}: template {}: {malformed}", self.name, self.known.metrics[index as usize].key));
                }
            } else if !metric.null && metric.value != Member::None {
                context.complaints.add(|| format!("{}: the value of {} is no Template", self.name, known.key));
            } else if let Some(batch) = batch {
                for leaf in &known.leaves {
                    push_row(self.known.metrics[*leaf as usize].place, Ok(Typed::Null), metric, metric, context, batch);
                }
            }
            return;
        }
        let Some(batch) = batch else { return };
        let datatype = if metric.datatype == 0 { known.datatype } else { DataType::of(metric.datatype) };
        let value = if metric.null { Ok(Typed::Null) } else { typed(datatype, metric.value) };
        if !push_row(known.place, value, metric, metric, context, batch) {
            context.complaints.add(|| format!("{}: the value of {} is no {}", self.name, known.key, datatype.as_str()));
        }
    }

    /// Walks a template's members and parameters: each leaf is a tag of its own.
    fn expand<'m>(
        &mut self,
        bytes: &'m [u8],
        walk: &mut Walk<'_, 'm>,
        context: &mut Context<'_>,
        shared: &mut Shared<'m>,
        before: &mut Option<&mut Known>,
        batch: &mut Option<&mut Batch>,
    ) -> Result<(), Malformed> {
        if walk.members.len() >= DEEPEST as usize {
            return Err(Malformed::TooDeep);
        }
        let template = Template::read(bytes)?;
        let parameters = template.parameters.iter().map(|parameter| Metric {
            name: Some(parameter.name),
            datatype: parameter.datatype,
            value: parameter.value,
            ..Metric::default()
        });
        let length = walk.key.len();
        for leaf in template.metrics.iter().copied().chain(parameters) {
            let Some(name) = leaf.name.filter(|name| !name.is_empty()) else {
                // After the birth a member may come by its alias alone.
                match leaf.alias.filter(|_| self.trusted).and_then(|alias| self.known.aliases.get(&alias).copied()) {
                    Some(index) => self.member(index, &leaf, walk.metric, context, batch.as_deref_mut()),
                    None => {
                        let what = leaf
                            .alias
                            .map_or_else(|| "no name".to_owned(), |alias| format!("the alias {alias}, which is in no birth that is known"));
                        context.complaints.add(|| format!("{}: a member of template {} has {what}", self.name, walk.key));
                    }
                }
                continue;
            };
            walk.key.push(MEMBER);
            walk.key.push_str(name);
            walk.members.push(name);
            if let Member::Template(inner) = leaf.value {
                let result = self.expand(inner, walk, context, shared, before, batch);
                walk.key.truncate(length);
                walk.members.pop();
                result?;
                continue;
            }
            let index = self.enter(walk.key, &leaf, &walk.members, context, shared, before.as_deref_mut());
            walk.key.truncate(length);
            walk.members.pop();
            let Some(index) = index else { return Ok(()) };
            let leaves = &mut self.known.metrics[walk.top as usize].leaves;
            if leaves.last().is_none_or(|last| *last < index) {
                leaves.push(index);
            }
            if let Some(alias) = leaf.alias {
                self.known.aliases.entry(alias).or_insert(index);
            }
            self.member(index, &leaf, walk.metric, context, batch.as_deref_mut());
        }
        Ok(())
    }

    /// Puts the value of a template's leaf into the batch.
    fn member(&self, index: u32, leaf: &Metric<'_>, top: &Metric<'_>, context: &mut Context<'_>, batch: Option<&mut Batch>) {
        let Some(batch) = batch else { return };
        let known = &self.known.metrics[index as usize];
        let datatype = if leaf.datatype == 0 { known.datatype } else { DataType::of(leaf.datatype) };
        let value = if leaf.null { Ok(Typed::Null) } else { typed(datatype, leaf.value) };
        if !push_row(known.place, value, leaf, top, context, batch) {
            let key = known.key.replace(MEMBER, ".");
            context.complaints.add(|| format!("{}: the value of {key} is no {}", self.name, datatype.as_str()));
        }
    }
}

/// Where a walk through a template stands.
struct Walk<'w, 'm> {
    top: u32,
    members: Vec<&'m str>,
    key: &'w mut String,
    /// The metric at the top: its time and quality are those of leaves without their own.
    metric: &'w Metric<'m>,
}

/// Whether templates stay whole, as JSON.
fn is_whole(context: &Context<'_>) -> bool {
    context.options.structure == Some(Structure::Json)
}

/// A template's definition describes a type: it has no value.
fn is_definition(metric: &Metric<'_>) -> bool {
    match metric.value {
        Member::Template(bytes) => Template::read(bytes).is_ok_and(|template| template.is_definition),
        _ => false,
    }
}

/// Puts a row into the batch; false if the value is not one of its datatype.
///
/// A null without a reason is BadNoData. A value of the wrong type is null, BadTypeMismatch.
fn push_row(
    place: Place,
    value: Result<Typed<'_>, Mismatch>,
    metric: &Metric<'_>,
    top: &Metric<'_>,
    context: &mut Context<'_>,
    batch: &mut Batch,
) -> bool {
    let Place::Tag(tag) = place else {
        context.complaints.clashed += 1;
        return true;
    };
    let quality = |of: &Metric<'_>| properties::quality(of.properties).unwrap_or(StatusCode::GOOD);
    let mut status = quality(metric);
    if status.is_good() && !std::ptr::eq(metric, top) {
        status = quality(top);
    }
    let (value, fits) = match value.and_then(|value| store(value, batch)) {
        Ok(Value::Null) => {
            if !status.is_bad() {
                status = StatusCode::BAD_NO_DATA;
            }
            (Value::Null, true)
        }
        Ok(value) => (value, true),
        Err(Mismatch) => {
            status = StatusCode::BAD_TYPE_MISMATCH;
            (Value::Null, false)
        }
    };
    let timestamp = [metric.timestamp, top.timestamp, context.timestamp].into_iter().find(|millis| *millis != 0);
    let (time, time_source) = match timestamp {
        // Later than any clock: the engine won't believe it, and keeps the claim.
        Some(millis) => (Micros(super::datatype::micros(millis).unwrap_or(LATEST)), TimeSource::Device),
        None => (batch.read_time, TimeSource::Gateway),
    };
    let origin = if metric.historical || top.historical { Origin::Backfill } else { context.origin };
    batch.rows.push(Row { time, server_time: Micros::NONE, value, tag, status, flags: Flags::new(origin, time_source) });
    fits
}

/// The end of the year 9999.
const LATEST: i64 = 253_402_300_799_999_000;

pub fn hash_of(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}
