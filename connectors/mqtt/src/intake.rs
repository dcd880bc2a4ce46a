//! From messages to rows, documents and rejects: which subscriptions want one, and what is known of its topic.
//!
//! ```text
//! topic ──> what was found out about it the first time (tags declared, keys and Kafka topics rendered) ──> batch
//! ```
//!
//! What is known of a topic takes about a hundred bytes beside its name. Topics with tags are remembered up to `max_tags`, then new ones are
//! refused with a reason, and a long name counts for several; topics of documents, and those that are refused, are forgotten when there are too many or
//! their names are too long together, and found out again.

use crate::command::{Order, Permission, Publishing};
use crate::packet::Publish;
use crate::payload::{self, Decode, Scalar, Single};
use crate::routes::*;
use crate::sparkplug::{self, Host, Outgoing};
use crate::topic::Filter;
use millrace_config::Reason;
use millrace_contract::{CommandValue, LONGEST_NAMES, SourceIo, Status, TagDef, TagOptions, name_weight};
use millrace_kit::Template;
use millrace_kit::extract::{
    CellType, Extracted, FirstTypes, Found as FoundValue, Item as Reading, Missing, Readings, Taken, ValueMap, senml,
};
use millrace_kit::records::{Item, Readings as ReadingList, Samples, Variable};
use millrace_schemas::{Batch, Flags, Micros, RouteId, Row, StatusCode, TagId, TimeSource, Value};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How many topics of documents are remembered.
const DOCUMENT_TOPICS: usize = 100_000;
/// What their names may have together, in bytes.
const DOCUMENT_NAMES: usize = 16 << 20;
/// So many messages in a row that become dead letters are a fault of the subscription, not of the messages.
const DEAD_IN_A_ROW: u32 = 10;
/// What is wrong with single values is said at most this often.
const SAY_EVERY: Duration = Duration::from_secs(60);
const NONE: u32 = u32::MAX;

/// Everything that decodes messages of one connection.
pub struct Intake {
    routes: Arc<[Route]>,
    /// Topics with at least one tag, and those with documents only; both lead to the first of their targets.
    tagged: Topics,
    untagged: Topics,
    /// Tags of structures' leaves and of readings, by topic and path.
    leaves: HashMap<Box<str>, TagId>,
    /// How tags are commanded.
    orders: HashMap<TagId, Order>,
    types: FirstTypes,
    /// How each route fares.
    fates: Vec<Fate>,
    /// When something about single values was said last, and how often it was not since.
    said: Option<Instant>,
    unsaid: u64,
    max_tags: usize,
    /// How many tags were declared here; one with long names counts for several.
    declared: usize,
    pub host: Option<Host>,
    /// What Sparkplug wants published.
    pub outgoing: Vec<Outgoing>,
    /// Scratch space of one message.
    extracted: Extracted,
    readings: Readings,
    text: Vec<u8>,
}

/// How a route fares.
#[derive(Clone, Default)]
struct Fate {
    messages: u64,
    dead_in_a_row: u32,
}

#[derive(Default)]
struct Topics {
    known: HashMap<Box<str>, u32>,
    /// Of the names in `known`.
    bytes: usize,
    /// How many tags they count for.
    count: usize,
    targets: Vec<Target>,
    tags: Vec<TagId>,
    reasons: Vec<String>,
}

/// What one route makes of one topic.
struct Target {
    route: u16,
    /// The next route that wants the topic, or `NONE`.
    next: u32,
    found: Found,
}

enum Found {
    /// Its tags begin here, in the order of the route's samples.
    Tags(u32),
    /// The Kafka topic and the key, as far as they depend on the topic alone.
    Document(Option<Box<Rendered>>),
    Sparkplug,
    /// Nothing can be made of messages of this topic: the index of the reason.
    Refused(u32),
}

/// A tag that no message had a value for yet.
const UNDECLARED: TagId = TagId(u32::MAX);

impl Intake {
    pub fn new(routes: Arc<[Route]>, max_tags: usize, host: Option<Host>) -> Self {
        Self {
            fates: vec![Fate::default(); routes.len()],
            types: FirstTypes::default(),
            said: None,
            unsaid: 0,
            readings: Readings::default(),
            routes,
            tagged: Topics::default(),
            untagged: Topics::default(),
            leaves: HashMap::new(),
            orders: HashMap::new(),
            max_tags,
            declared: 0,
            host,
            outgoing: Vec::new(),
            extracted: Extracted::default(),
            text: Vec::new(),
        }
    }

    /// Declares the tags that can be commanded before their first message: those of filters without wildcards.
    pub fn begin(&mut self, io: &SourceIo) {
        let routes = self.routes.clone();
        for route in routes.iter().filter(|route| route.command.is_some() && route.filter.wildcards() == 0) {
            let topic = route.filter.as_str();
            let (is_tagged, mut at) = self.targets(topic);
            let taking = Taking { route, publish: &Publish::plain(topic, b"", false), io };
            while at != NONE {
                let target = &self.topics(is_tagged).targets[at as usize];
                let (index, start) = (target.route, if let Found::Tags(start) = target.found { Some(start as usize) } else { None });
                at = target.next;
                let Some(start) = start.filter(|_| std::ptr::eq(&routes[index as usize], route)) else { continue };
                let declared = match &route.decode {
                    Decode::Value(single) => self.value_tag(&taking, single, start).map(drop),
                    Decode::Samples(samples) => {
                        let named = samples.items.iter().enumerate().filter(|(_, item)| !item.name.is_empty());
                        named
                            .map(|(n, item)| (start + n, item))
                            .try_for_each(|(n, item)| self.sample_tag(&taking, samples, item, n).map(drop))
                    }
                    _ => Ok(()),
                };
                if let Err(why) = declared {
                    tracing::warn!(topic, why, "a tag that commands may write is not known before its first message");
                }
            }
        }
    }

    /// What a command is published as. Errors: why it can't be.
    pub fn publishing(&self, tag: TagId, value: &CommandValue, permission: Permission) -> Result<Publishing, Reason> {
        if let Some(order) = self.orders.get(&tag) {
            return order.publishing(value, permission);
        }
        match self.host.as_ref().and_then(|host| host.publishing(tag, value, Micros::now(), permission)) {
            Some(publishing) => publishing,
            None => Err("nothing says where the device listens: the subscription of this tag has no `command`".into()),
        }
    }

    /// Whether the batch filled so far must be sent before this message is taken.
    pub fn ends_batch(&self, publish: &Publish<'_>) -> bool {
        self.host.as_ref().is_some_and(|host| host.ends_batch(publish.topic))
    }

    /// Takes a message in. `oversized`: the packet's length where the payload is only its beginning.
    ///
    /// Shape: returns how many routes wanted it; a message nobody wants any more (its filter went from the config) leaves no record.
    pub fn take(&mut self, publish: &Publish<'_>, oversized: Option<usize>, batch: &mut Batch, io: &SourceIo) -> usize {
        let (is_tagged, first) = self.targets(publish.topic);
        let routes = self.routes.clone();
        let mut taken = 0;
        let mut at = first;
        while at != NONE {
            let Target { route: index, next, .. } = self.topics(is_tagged).targets[at as usize];
            let route = &routes[index as usize];
            // A broker that sends a copy for each subscription marks it; one that sends a single copy marks it with all of them.
            let alone = at == first && next == NONE;
            if alone || is_marked(publish, route.subscription_id) {
                let rows = batch.rows.len();
                let done = match oversized {
                    Some(len) => Err(oversize(len, publish)),
                    None => route
                        .packing
                        .open(publish.payload)
                        .and_then(|payload| {
                            let publish = &publish.with_payload(&payload);
                            self.take_for(&Taking { route, publish, io }, is_tagged, at, batch).map_err(Reason::from)
                        })
                        .map_err(String::from),
                };
                self.fare(index as usize, done.as_ref().err(), io);
                if let Err(reason) = done {
                    reject(&Taking { route, publish, io }, batch, reason, batch.rows.len() > rows);
                }
                taken += 1;
            }
            at = next;
        }
        // The host's own STATE is a subscription, but no route.
        if let (0, Some(host)) = (taken, &mut self.host)
            && host.filters().iter().any(|filter| filter == publish.topic)
        {
            let Publish { topic, payload, retain, dup, .. } = *publish;
            let message = sparkplug::Message { topic, payload, retain, dup };
            self.outgoing.extend(host.on_message(message, Instant::now(), batch, io));
        }
        taken
    }

    /// Takes the payload of a dead letter in, for the route that it died on. Errors: why it is one still.
    pub fn take_again(&mut self, id: RouteId, publish: &Publish<'_>, batch: &mut Batch, io: &SourceIo) -> Result<(), Unfit> {
        let (is_tagged, mut at) = self.targets(publish.topic);
        let routes = self.routes.clone();
        while at != NONE {
            let Target { route, next, .. } = self.topics(is_tagged).targets[at as usize];
            let route = &routes[route as usize];
            if route.id == id {
                if let Decode::Sparkplug = route.decode {
                    return Err(
                        "a payload of Sparkplug means nothing without its node's birth: the node sends its values again at the next one"
                            .into(),
                    );
                }
                let payload = route.packing.open(publish.payload)?;
                let publish = &publish.with_payload(&payload);
                return self.take_for(&Taking { route, publish, io }, is_tagged, at, batch);
            }
            at = next;
        }
        Err(format!("no filter of today brings the topic {}", publish.topic))
    }

    /// Where what is known of a topic begins.
    fn targets(&mut self, topic: &str) -> (bool, u32) {
        match (self.tagged.known.get(topic), self.untagged.known.get(topic)) {
            (Some(first), _) => (true, *first),
            (None, Some(first)) => (false, *first),
            (None, None) => self.find_out(topic),
        }
    }

    /// The filters that no message has matched yet.
    pub fn unmatched(&self) -> impl Iterator<Item = &Filter> {
        self.routes.iter().zip(&self.fates).filter(|(_, fate)| fate.messages == 0).map(|(route, _)| &route.filter)
    }

    /// Counts what became of a message; a route whose messages all die says so in the status.
    fn fare(&mut self, index: usize, reason: Option<&Unfit>, io: &SourceIo) {
        let fate = &mut self.fates[index];
        let filter = self.routes[index].filter.as_str();
        fate.messages += 1;
        let Some(reason) = reason else {
            if std::mem::take(&mut fate.dead_in_a_row) >= DEAD_IN_A_ROW {
                io.status(filter, Status::Running);
            }
            return;
        };
        fate.dead_in_a_row = fate.dead_in_a_row.saturating_add(1);
        if fate.dead_in_a_row == DEAD_IN_A_ROW {
            io.status(filter, Status::Degraded(format!("the last {DEAD_IN_A_ROW} messages of `{filter}` became dead letters: {reason}")));
        }
    }

    /// Says what is wrong with a single value: it is in its topic, but not good.
    fn complain(&mut self, taking: &Taking<'_>, why: &str) {
        if self.said.is_some_and(|said| said.elapsed() < SAY_EVERY) {
            self.unsaid += 1;
            return;
        }
        tracing::warn!(topic = taking.publish.topic, filter = %taking.route.filter, not_said = self.unsaid, "a value is not good: {why}");
        (self.said, self.unsaid) = (Some(Instant::now()), 0);
    }

    fn topics(&mut self, is_tagged: bool) -> &mut Topics {
        if is_tagged { &mut self.tagged } else { &mut self.untagged }
    }

    /// Finds out which routes want a topic, and what each knows of it from the topic alone.
    fn find_out(&mut self, topic: &str) -> (bool, u32) {
        let routes = self.routes.clone();
        let wanting: Vec<_> =
            routes.iter().enumerate().filter_map(|(index, route)| Some((index, route, route.filter.captures(topic)?))).collect();
        let has_tags =
            |route: &Route| matches!(route.decode, Decode::Samples(_) | Decode::Readings(_) | Decode::Senml(_) | Decode::Value(_));
        let is_tagged = wanting.iter().any(|(_, route, _)| has_tags(route));
        let refused = is_tagged
            && (self.declared >= self.max_tags
                || self.tagged.count + name_weight(topic.len()) > self.max_tags
                || topic.len() > LONGEST_NAMES);
        let max_tags = self.max_tags;
        let is_remembered_as_tagged = is_tagged && !refused;
        if !is_remembered_as_tagged && (self.untagged.known.len() >= DOCUMENT_TOPICS || self.untagged.bytes >= DOCUMENT_NAMES) {
            self.untagged = Topics::default();
        }
        let topics = self.topics(is_remembered_as_tagged);
        let mut first = NONE;
        for (index, route, captures) in wanting.into_iter().rev() {
            let found = match &route.decode {
                Decode::Sparkplug => Found::Sparkplug,
                _ if refused && has_tags(route) && topic.len() > LONGEST_NAMES => topics.refuse(format!(
                    "the topic has {} bytes; one that makes tags has {LONGEST_NAMES} at most, take it as a document",
                    topic.len()
                )),
                _ if refused && has_tags(route) => topics.refuse(format!(
                    "{max_tags} tags are discovered (one with a long name counts for several), and this topic would be another; raise `max_tags`"
                )),
                Decode::Document(document) => match rendered(route, document, topic, &captures) {
                    Ok(rendered) => Found::Document(rendered.map(Box::new)),
                    Err(reason) => topics.refuse(reason),
                },
                Decode::Samples(samples) => topics.reserve_tags(samples.items.len()),
                Decode::Value(_) => topics.reserve_tags(1),
                Decode::Readings(_) | Decode::Senml(_) => topics.reserve_tags(0),
            };
            topics.targets.push(Target { route: index as u16, next: first, found });
            first = topics.targets.len() as u32 - 1;
        }
        topics.known.insert(topic.into(), first);
        topics.bytes += topic.len();
        topics.count += name_weight(topic.len());
        (is_remembered_as_tagged, first)
    }

    fn take_for(&mut self, taking: &Taking<'_>, is_tagged: bool, at: u32, batch: &mut Batch) -> Result<(), Unfit> {
        let topics = if is_tagged { &self.tagged } else { &self.untagged };
        let tags = match &topics.targets[at as usize].found {
            Found::Refused(reason) => return Err(topics.reasons[*reason as usize].clone()),
            Found::Document(rendered) => {
                let Decode::Document(document) = &taking.route.decode else { return Ok(()) };
                return take_document(taking, document, rendered.as_deref(), &mut self.extracted, &mut self.text, batch);
            }
            Found::Sparkplug => {
                if let Some(host) = &mut self.host {
                    let Publish { topic, payload, retain, dup, .. } = *taking.publish;
                    let message = sparkplug::Message { topic, payload, retain, dup };
                    self.outgoing.extend(host.on_message(message, Instant::now(), batch, taking.io));
                }
                return Ok(());
            }
            Found::Tags(start) => *start as usize,
        };
        match &taking.route.decode {
            Decode::Value(single) => self.take_value(taking, single, tags, batch),
            Decode::Samples(samples) => mended(taking.publish.payload, |payload| self.take_samples(taking, samples, tags, payload, batch)),
            Decode::Readings(list) => mended(taking.publish.payload, |payload| self.take_readings(taking, list, payload, batch)),
            Decode::Senml(list) => mended(taking.publish.payload, |payload| {
                let resolved = senml(payload, batch.read_time.0 as f64 / 1e6)?;
                self.take_readings(taking, list, &resolved, batch)
            }),
            _ => Ok(()),
        }
    }

    fn take_value(&mut self, taking: &Taking<'_>, single: &Single, index: usize, batch: &mut Batch) -> Result<(), Unfit> {
        let (mut value, mut status) = payload::scalar(single, taking.publish.payload, batch)?;
        let tag = self.value_tag(taking, single, index)?;
        // Words that stand for values make the type of a text uncertain.
        if !single.rules.map.is_empty()
            && let Err(why) = self.types.hold(tag, value)
        {
            self.complain(taking, &why);
            (value, status) = (Value::Null, StatusCode::BAD_TYPE_MISMATCH);
        }
        batch.rows.push(Row {
            time: batch.read_time,
            server_time: Micros::NONE,
            value,
            tag,
            status,
            flags: Flags::new(origin(taking.publish), TimeSource::Gateway),
        });
        Ok(())
    }

    fn value_tag(&mut self, taking: &Taking<'_>, single: &Single, index: usize) -> Result<TagId, Unfit> {
        let known = self.tagged.tags[index];
        if known != UNDECLARED {
            return Ok(known);
        }
        let path = path(&single.path, None, taking, None)?;
        let tag = self.declare(taking, path, taking.publish.topic.into(), &taking.route.topic, &single.options)?;
        self.tagged.tags[index] = tag;
        let wants = if single.kind == Scalar::Number { CellType::Number } else { CellType::String };
        let wants = single.rules.map.is_empty().then_some(wants);
        self.may_be_commanded(taking, tag, "", (wants, &single.rules.map), &single.options);
        Ok(tag)
    }

    fn may_be_commanded(
        &mut self,
        taking: &Taking<'_>,
        tag: TagId,
        name: &str,
        (wants, map): (Option<CellType>, &ValueMap),
        options: &Arc<TagOptions>,
    ) {
        if let Some(rule) = &taking.route.command {
            let order = Order {
                rule: rule.clone(),
                topic: taking.publish.topic.into(),
                name: name.into(),
                wants,
                map: map.clone(),
                options: options.clone(),
            };
            self.orders.insert(tag, order);
        }
    }

    fn take_samples(
        &mut self,
        taking: &Taking<'_>,
        samples: &Samples,
        start: usize,
        payload: &[u8],
        batch: &mut Batch,
    ) -> Result<(), Unfit> {
        samples.extraction.read(payload, batch, &mut self.extracted)?;
        let extracted = std::mem::take(&mut self.extracted);
        let mut unfit = None;
        if let Some(note) = &extracted.note {
            self.complain(taking, note);
        }
        for found in extracted.iter() {
            if found.is_missing() && samples.missing == Missing::Skip {
                continue;
            }
            let item = &samples.items[found.sample];
            let tag = match found.leaf {
                "" => self.sample_tag(taking, samples, item, start + found.sample),
                leaf => self.leaf_tag(taking, samples, item, leaf),
            };
            match tag {
                Ok(tag) => self.push(taking, item, tag, found, &extracted, batch),
                Err(reason) => drop(unfit.get_or_insert(reason)),
            }
        }
        self.extracted = extracted;
        unfit.map_or(Ok(()), Err)
    }

    /// Appends one value.
    fn push(&mut self, taking: &Taking<'_>, item: &Item, tag: TagId, found: FoundValue<'_>, extracted: &Extracted, batch: &mut Batch) {
        let (mut value, mut status) = (found.value, found.status);
        if let Some(why) = found.why {
            self.complain(taking, why);
        }
        if item.declared.is_none()
            && let Err(why) = self.types.hold(tag, value)
        {
            self.complain(taking, &format!("{}: {why}", item.place));
            status = StatusCode::BAD_TYPE_MISMATCH;
            if let Value::Text(_) = value {
                value = Value::Null;
            }
        }
        let (time, time_source) = match extracted.time {
            Some(stamp) => (stamp.time, TimeSource::Device),
            None => (batch.read_time, TimeSource::Gateway),
        };
        let flags = Flags::new(origin(taking.publish), time_source);
        batch.rows.push(Row { time, server_time: Micros::NONE, value, tag, status, flags });
    }

    fn take_readings(&mut self, taking: &Taking<'_>, list: &ReadingList, payload: &[u8], batch: &mut Batch) -> Result<(), Unfit> {
        let mut readings = std::mem::take(&mut self.readings);
        let mut take = |taken: Taken<'_>, batch: &mut Batch| match taken {
            Ok(item) => {
                if let Err(reason) = self.take_item(taking, list, &item, batch) {
                    reject(taking, batch, reason, true);
                }
            }
            Err((text, reason)) => {
                let part = taking.publish.with_payload(text.as_bytes());
                reject(&Taking { publish: &part, ..*taking }, batch, format!("a reading cannot be read: {reason}"), true);
            }
        };
        let done = list.each.read(payload, batch, &mut readings, &mut take);
        self.readings = readings;
        done.map_err(String::from)
    }

    /// Appends the values of one reading. Errors: the first that has no tag.
    fn take_item(&mut self, taking: &Taking<'_>, list: &ReadingList, item: &Reading<'_>, batch: &mut Batch) -> Result<(), Unfit> {
        let of = path(&list.path, None, taking, Some(item))?;
        if let Some(note) = &item.extracted.note {
            self.complain(taking, note);
        }
        let mut unfit = None;
        let mut path = String::with_capacity(of.len() + 16);
        for found in item.values() {
            if found.is_missing() && list.missing == Missing::Skip {
                continue;
            }
            let sample = &list.items[found.sample];
            path.clear();
            path.push_str(&of);
            for level in [&*sample.name, found.leaf].into_iter().filter(|level| !level.is_empty()) {
                path.push('/');
                path.push_str(level);
            }
            match self.tag_at(taking, &path, sample) {
                Ok(tag) => self.push(taking, sample, tag, found, item.extracted, batch),
                Err(reason) => drop(unfit.get_or_insert(reason)),
            }
        }
        unfit.map_or(Ok(()), Err)
    }

    /// The tag of a path that a payload makes.
    fn tag_at(&mut self, taking: &Taking<'_>, path: &str, sample: &Item) -> Result<TagId, Unfit> {
        let mut key = std::mem::take(&mut self.text);
        key.clear();
        key.extend_from_slice(taking.publish.topic.as_bytes());
        key.push(0);
        key.extend_from_slice(path.as_bytes());
        let known = std::str::from_utf8(&key).ok().and_then(|key| self.leaves.get(key)).copied();
        let tag = match known {
            Some(tag) => Ok(tag),
            None => {
                let address = format!("{}#{path}", taking.publish.topic);
                let declared = self.declare(taking, path.to_owned(), address, &sample.topic, &sample.options);
                if let Ok(tag) = declared {
                    self.leaves.insert(String::from_utf8_lossy(&key).into(), tag);
                }
                declared
            }
        };
        self.text = key;
        tag
    }

    fn sample_tag(&mut self, taking: &Taking<'_>, samples: &Samples, item: &Item, index: usize) -> Result<TagId, Unfit> {
        let known = self.tagged.tags[index];
        if known != UNDECLARED {
            return Ok(known);
        }
        let path = path(&samples.at, Some(&item.name), taking, None)?;
        let address = format!("{}#{}", taking.publish.topic, item.place);
        let tag = self.declare(taking, path, address, &item.topic, &item.options)?;
        self.tagged.tags[index] = tag;
        self.may_be_commanded(taking, tag, &item.name, (item.declared, &item.map), &item.options);
        Ok(tag)
    }

    /// The tag of a structure's leaf, `leaf` being its path below the sample.
    fn leaf_tag(&mut self, taking: &Taking<'_>, samples: &Samples, item: &Item, leaf: &str) -> Result<TagId, Unfit> {
        let mut path = path(&samples.at, Some(&item.name), taking, None)?;
        if !path.is_empty() {
            path.push('/');
        }
        path.push_str(leaf);
        self.tag_at(taking, &path, item)
    }

    fn declare(
        &mut self,
        taking: &Taking<'_>,
        path: String,
        address: String,
        topic: &Template<Variable>,
        options: &Arc<TagOptions>,
    ) -> Result<TagId, Unfit> {
        if self.declared >= self.max_tags {
            return Err(format!("{} tags are discovered, and {path} would be another; raise `max_tags`", self.max_tags));
        }
        let weight = name_weight(path.len() + address.len());
        if path.is_empty() || path.split('/').any(str::is_empty) {
            return Err(format!("the tag path `{path}` has an empty level; change `at` or `tag` of filter `{}`", taking.route.filter));
        }
        let captures = taking.captures();
        let topic = kafka_topic(topic, taking.route, taking.publish.topic, &captures)?;
        let tag = TagDef { path, address, kind: None, topic: topic.into(), part: Arc::from(""), options: options.clone() };
        let id = taking.io.declare(tag).map_err(|clash| {
            let reason = format!("{clash}; topic {} comes to the same path, change `at` or `tag`", taking.publish.topic);
            taking.io.status(taking.route.filter.as_str(), Status::Degraded(reason.clone()));
            reason
        })?;
        self.declared += weight;
        Ok(id)
    }
}

impl Topics {
    fn refuse(&mut self, reason: String) -> Found {
        self.reasons.push(reason);
        Found::Refused(self.reasons.len() as u32 - 1)
    }

    fn reserve_tags(&mut self, count: usize) -> Found {
        let start = self.tags.len() as u32;
        self.tags.resize(self.tags.len() + count, UNDECLARED);
        Found::Tags(start)
    }
}
