//! From a message to rows, documents and rejects: which subscriptions want it, and what each makes of it.
//!
//! ```text
//! topic ──> what was found out about it the first time (tags declared, keys and Kafka topics rendered) ──> batch
//! ```
//!
//! What is known of a topic takes about a hundred bytes beside its name. Topics with tags are remembered up to `max_tags`, then new ones are
//! refused with a reason; topics of documents are forgotten when there are too many, and found out again.

use crate::packet::{self, Property, Publish, Qos};
use crate::payload::{self, Check, Decode, Document, Missing, Sample, Samples, Single};
use crate::sparkplug::{self, Host, Outgoing};
use crate::topic::{Filter, Template, Variable, push_level};
use millrace_contract::{SourceIo, Status, TagDef, TagOptions};
use millrace_kit::extract::Extracted;
use millrace_schemas::{Batch, Doc, Flags, Micros, Origin, Reject, RouteId, Row, Span, StatusCode, TagId, TimeSource, Value};
use std::collections::HashMap;
use std::convert::Infallible;
use std::io::Write;
use std::sync::Arc;
use std::time::Instant;

/// One subscription, compiled.
#[derive(Clone, Debug)]
pub struct Route {
    /// Where its documents and rejects go: its index in the model.
    pub id: RouteId,
    pub filter: Filter,
    pub qos: Qos,
    /// Marks its messages (MQTT 5), the same in every run.
    pub subscription_id: u32,
    /// The Kafka topic of documents and of single values.
    pub topic: Template<Variable>,
    pub decode: Decode,
}

/// How many topics of documents are remembered.
const DOCUMENT_TOPICS: usize = 100_000;
/// The longest name of a Kafka topic.
const KAFKA_TOPIC: usize = 249;
const NONE: u32 = u32::MAX;

/// Everything that decodes messages of one connection.
pub struct Intake {
    routes: Arc<[Route]>,
    /// Topics with at least one tag, and those with documents only; both lead to the first of their targets.
    tagged: Topics,
    untagged: Topics,
    /// Tags of structures' leaves, by path.
    leaves: HashMap<Box<str>, TagId>,
    max_tags: usize,
    /// How many tags were declared here.
    declared: usize,
    pub host: Option<Host>,
    /// What Sparkplug wants published.
    pub outgoing: Vec<Outgoing>,
    /// Scratch space of one message.
    extracted: Extracted,
    text: Vec<u8>,
}

#[derive(Default)]
struct Topics {
    known: HashMap<Box<str>, u32>,
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

#[derive(Default)]
struct Rendered {
    topic: Box<[u8]>,
    key: Box<[u8]>,
}

/// Why a route can't make anything of a message: the reason of its dead letter.
type Unfit = String;

/// A tag that no message had a value for yet.
const UNDECLARED: TagId = TagId(u32::MAX);

/// A message and what is needed beside it.
struct Taking<'a> {
    route: &'a Route,
    publish: &'a Publish<'a>,
    io: &'a SourceIo,
}

impl Intake {
    pub fn new(routes: Arc<[Route]>, max_tags: usize, host: Option<Host>) -> Self {
        Self {
            routes,
            tagged: Topics::default(),
            untagged: Topics::default(),
            leaves: HashMap::new(),
            max_tags,
            declared: 0,
            host,
            outgoing: Vec::new(),
            extracted: Extracted::default(),
            text: Vec::new(),
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
        let (is_tagged, first) = match (self.tagged.known.get(publish.topic), self.untagged.known.get(publish.topic)) {
            (Some(first), _) => (true, *first),
            (None, Some(first)) => (false, *first),
            (None, None) => self.find_out(publish.topic),
        };
        let routes = self.routes.clone();
        let mut taken = 0;
        let mut at = first;
        while at != NONE {
            let Target { route, next, .. } = self.topics(is_tagged).targets[at as usize];
            let route = &routes[route as usize];
            // A broker that sends a copy for each subscription marks it; one that sends a single copy marks it with all of them.
            let alone = at == first && next == NONE;
            if alone || is_marked(publish, route.subscription_id) {
                let taking = Taking { route, publish, io };
                if let Err(reason) = self.take_for(&taking, oversized, is_tagged, at, batch) {
                    reject(&taking, batch, reason);
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

    fn topics(&mut self, is_tagged: bool) -> &mut Topics {
        if is_tagged { &mut self.tagged } else { &mut self.untagged }
    }

    /// Finds out which routes want a topic, and what each knows of it from the topic alone.
    fn find_out(&mut self, topic: &str) -> (bool, u32) {
        let routes = self.routes.clone();
        let wanting: Vec<_> =
            routes.iter().enumerate().filter_map(|(index, route)| Some((index, route, route.filter.captures(topic)?))).collect();
        let has_tags = |route: &Route| matches!(route.decode, Decode::Samples(_) | Decode::Value(_));
        let is_tagged = wanting.iter().any(|(_, route, _)| has_tags(route));
        let refused = is_tagged && self.declared >= self.max_tags;
        let max_tags = self.max_tags;
        let is_remembered_as_tagged = is_tagged && !refused;
        if !is_remembered_as_tagged && self.untagged.known.len() >= DOCUMENT_TOPICS {
            self.untagged = Topics::default();
        }
        let topics = self.topics(is_remembered_as_tagged);
        let mut first = NONE;
        for (index, route, captures) in wanting.into_iter().rev() {
            let found = match &route.decode {
                Decode::Sparkplug => Found::Sparkplug,
                _ if refused && has_tags(route) => {
                    topics.refuse(format!("{max_tags} tags are discovered, and topic {topic} would be another; raise `max_tags`"))
                }
                Decode::Document(document) => match rendered(route, document, topic, &captures) {
                    Ok(rendered) => Found::Document(rendered.map(Box::new)),
                    Err(reason) => topics.refuse(reason),
                },
                Decode::Samples(samples) => topics.reserve_tags(samples.items.len()),
                Decode::Value(_) => topics.reserve_tags(1),
            };
            topics.targets.push(Target { route: index as u16, next: first, found });
            first = topics.targets.len() as u32 - 1;
        }
        topics.known.insert(topic.into(), first);
        (is_remembered_as_tagged, first)
    }

    fn take_for(
        &mut self,
        taking: &Taking<'_>,
        oversized: Option<usize>,
        is_tagged: bool,
        at: u32,
        batch: &mut Batch,
    ) -> Result<(), Unfit> {
        if let Some(len) = oversized {
            return Err(format!(
                "the message has {len} bytes, more than `max_packet`; its first {} are here",
                taking.publish.payload.len()
            ));
        }
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
            Decode::Samples(samples) => self.take_samples(taking, samples, tags, batch),
            _ => Ok(()),
        }
    }

    fn take_value(&mut self, taking: &Taking<'_>, single: &Single, index: usize, batch: &mut Batch) -> Result<(), Unfit> {
        let value = payload::scalar(single.kind, taking.publish.payload, batch)?;
        let mut tag = self.tagged.tags[index];
        if tag == UNDECLARED {
            let path = path(&single.path, None, taking)?;
            tag = self.declare(taking, path, taking.publish.topic.into(), &taking.route.topic, &single.options)?;
            self.tagged.tags[index] = tag;
        }
        batch.rows.push(Row {
            time: batch.read_time,
            server_time: Micros::NONE,
            value,
            tag,
            status: StatusCode::GOOD,
            flags: Flags::new(origin(taking.publish), TimeSource::Gateway),
        });
        Ok(())
    }

    fn take_samples(&mut self, taking: &Taking<'_>, samples: &Samples, start: usize, batch: &mut Batch) -> Result<(), Unfit> {
        samples.extraction.read(taking.publish.payload, batch, &mut self.extracted)?;
        let extracted = std::mem::take(&mut self.extracted);
        let (time, time_source) = match extracted.time {
            Some(stamp) => (stamp.time, TimeSource::Device),
            None => (batch.read_time, TimeSource::Gateway),
        };
        let flags = Flags::new(origin(taking.publish), time_source);
        let mut unfit = None;
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
                Ok(tag) => batch.rows.push(Row { time, server_time: Micros::NONE, value: found.value, tag, status: found.status, flags }),
                Err(reason) => drop(unfit.get_or_insert(reason)),
            }
        }
        self.extracted = extracted;
        unfit.map_or(Ok(()), Err)
    }

    fn sample_tag(&mut self, taking: &Taking<'_>, samples: &Samples, item: &Sample, index: usize) -> Result<TagId, Unfit> {
        let known = self.tagged.tags[index];
        if known != UNDECLARED {
            return Ok(known);
        }
        let path = path(&samples.at, Some(&item.name), taking)?;
        let address = format!("{}#{}", taking.publish.topic, item.pointer.as_str());
        let tag = self.declare(taking, path, address, &item.topic, &item.options)?;
        self.tagged.tags[index] = tag;
        Ok(tag)
    }

    /// The tag of a structure's leaf, `leaf` being its path below the sample.
    fn leaf_tag(&mut self, taking: &Taking<'_>, samples: &Samples, item: &Sample, leaf: &str) -> Result<TagId, Unfit> {
        let mut path = path(&samples.at, Some(&item.name), taking)?;
        if !path.is_empty() {
            path.push('/');
        }
        path.push_str(leaf);
        if let Some(tag) = self.leaves.get(&*path) {
            return Ok(*tag);
        }
        let address = format!("{}#{}/{leaf}", taking.publish.topic, item.pointer.as_str());
        let tag = self.declare(taking, path.clone(), address, &item.topic, &item.options)?;
        self.leaves.insert(path.into(), tag);
        Ok(tag)
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
        if path.is_empty() || path.split('/').any(str::is_empty) {
            return Err(format!("the tag path `{path}` has an empty level; change `at` or `tag` of filter `{}`", taking.route.filter));
        }
        let captures = taking.captures();
        let topic = kafka_topic(topic, taking.publish.topic, &captures)?;
        let tag = TagDef { path, address, kind: None, topic: topic.into(), part: Arc::from(""), options: options.clone() };
        let id = taking.io.declare(tag).map_err(|clash| {
            let reason = format!("{clash}; topic {} comes to the same path, change `at` or `tag`", taking.publish.topic);
            taking.io.status(taking.route.filter.as_str(), Status::Degraded(reason.clone()));
            reason
        })?;
        self.declared += 1;
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

impl Taking<'_> {
    fn captures(&self) -> Vec<&str> {
        self.route.filter.captures(self.publish.topic).unwrap_or_default()
    }
}

fn origin(publish: &Publish<'_>) -> Origin {
    if publish.retain { Origin::Initial } else { Origin::Change }
}

/// Whether the broker says that a message is for this subscription, or says nothing.
fn is_marked(publish: &Publish<'_>, subscription_id: u32) -> bool {
    let mut marks = publish.properties().filter_map(|property| match property {
        Property::Var(packet::SUBSCRIPTION_ID, id) => Some(id),
        _ => None,
    });
    match marks.next() {
        None => true,
        Some(id) => id == subscription_id || marks.any(|id| id == subscription_id),
    }
}

/// A tag's path: a template, and a name below it.
fn path(template: &Template<Variable>, name: Option<&str>, taking: &Taking<'_>) -> Result<String, Unfit> {
    let captures = taking.captures();
    let mut out = Vec::new();
    template
        .render(&mut out, |variable, out| {
            match variable {
                Variable::Topic => out.extend_from_slice(taking.publish.topic.as_bytes()),
                Variable::Capture(n) => push_level(out, captures[*n].as_bytes()),
                Variable::Pointer(_) => {}
            }
            Ok::<_, Infallible>(())
        })
        .unwrap_or_else(|never| match never {});
    if let Some(name) = name.filter(|name| !name.is_empty()) {
        if !out.is_empty() {
            out.push(b'/');
        }
        out.extend_from_slice(name.as_bytes());
    }
    String::from_utf8(out).map_err(|_| "the tag path is no UTF-8".into())
}

/// The name of the Kafka topic: a `/` becomes `.`.
fn kafka_topic(template: &Template<Variable>, topic: &str, captures: &[&str]) -> Result<String, Unfit> {
    let mut out = Vec::new();
    template
        .render(&mut out, |variable, out| {
            let value = match variable {
                Variable::Topic => topic,
                Variable::Capture(n) => captures[*n],
                Variable::Pointer(_) => "",
            };
            out.extend(value.bytes().map(|byte| if byte == b'/' { b'.' } else { byte }));
            Ok::<_, Infallible>(())
        })
        .unwrap_or_else(|never| match never {});
    let name = String::from_utf8(out).unwrap_or_default();
    check_kafka_topic(&name).map(|()| name)
}

/// Whether Kafka takes this name of a topic. Errors: why not.
pub fn check_kafka_topic(name: &str) -> Result<(), String> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if name.is_empty() || name == "." || name == ".." {
        Err(format!("`{name}` is no name of a Kafka topic"))
    } else if let Some(c) = name.chars().find(|c| !c.is_ascii() || !is_allowed(*c as u8)) {
        Err(format!("`{}` is no name of a Kafka topic: `{c}` is not allowed in it", payload::excerpt(name.as_bytes())))
    } else if name.len() > KAFKA_TOPIC {
        Err(format!("`{}` is no name of a Kafka topic: longer than {KAFKA_TOPIC} characters", payload::excerpt(name.as_bytes())))
    } else {
        Ok(())
    }
}

/// What of a document's Kafka topic and key depends on the MQTT topic; `None` where neither does.
fn rendered(route: &Route, document: &Document, topic: &str, captures: &[&str]) -> Result<Option<Rendered>, Unfit> {
    let kafka = match route.topic.constant() {
        Some(_) => String::new(),
        None => kafka_topic(&route.topic, topic, captures)?,
    };
    let mut key = Vec::new();
    if let Some(template) = document.key.as_ref().filter(|template| !document.key_in_payload && template.constant().is_none()) {
        render_key(template, topic, captures, None, &mut key)?;
    }
    let is_empty = kafka.is_empty() && key.is_empty();
    Ok((!is_empty).then(|| Rendered { topic: kafka.into_bytes().into(), key: key.into() }))
}

/// Appends a key. `pointers` are what the key's JSON pointers found, in their order, with the heap their texts lie in.
fn render_key(
    template: &Template<Variable>,
    topic: &str,
    captures: &[&str],
    pointers: Option<(&Extracted, &[u8])>,
    out: &mut Vec<u8>,
) -> Result<(), Unfit> {
    let mut found = pointers.iter().flat_map(|(extracted, _)| extracted.iter());
    template.render(out, |variable, out| {
        match variable {
            Variable::Topic => out.extend_from_slice(topic.as_bytes()),
            Variable::Capture(n) => out.extend_from_slice(captures[*n].as_bytes()),
            Variable::Pointer(pointer) => match (found.next().map(|found| found.value), pointers) {
                (Some(Value::Text(span)), Some((_, heap))) => out.extend_from_slice(span.of(heap)),
                (Some(Value::Int(int)), _) => drop(write!(out, "{int}")),
                (Some(Value::UInt(uint)), _) => drop(write!(out, "{uint}")),
                (Some(Value::Double(double)), _) => drop(write!(out, "{double}")),
                (Some(Value::Bool(flag)), _) => drop(write!(out, "{flag}")),
                (Some(Value::Array(..) | Value::Struct(_)), _) => return Err(format!("the key's {pointer} is not one value")),
                _ => return Err(format!("the key's {pointer} is not in the payload")),
            },
        }
        Ok(())
    })
}

fn take_document(
    taking: &Taking<'_>,
    document: &Document,
    rendered: Option<&Rendered>,
    extracted: &mut Extracted,
    key: &mut Vec<u8>,
    batch: &mut Batch,
) -> Result<(), Unfit> {
    let Taking { route, publish, .. } = taking;
    let mut time = batch.read_time;
    // An empty payload is how MQTT clears a retained message: with a key it deletes here, too.
    let is_tombstone =
        publish.payload.is_empty() && matches!(document.check, Check::Json(_)) && document.key.is_some() && !document.key_in_payload;
    match &document.check {
        Check::Json(extraction) if !is_tombstone => {
            extraction.read(publish.payload, batch, extracted)?;
            time = extracted.time.map_or(time, |stamp| stamp.time);
        }
        Check::Text if std::str::from_utf8(publish.payload).is_err() => {
            return Err("the payload is no UTF-8 text; declare `payload: bytes`".into());
        }
        Check::Json(_) | Check::Text | Check::Nothing => {}
    }
    key.clear();
    match (&document.key, rendered) {
        (Some(template), _) if document.key_in_payload => {
            render_key(template, publish.topic, &taking.captures(), Some((extracted, &batch.heap)), key)?;
        }
        (Some(template), _) if template.constant().is_some() => key.extend_from_slice(template.constant().unwrap_or_default().as_bytes()),
        (Some(_), Some(rendered)) => key.extend_from_slice(&rendered.key),
        _ => {}
    }
    let key = batch.push_bytes(key);
    let topic = match rendered {
        Some(rendered) if !rendered.topic.is_empty() => batch.push_bytes(&rendered.topic),
        _ => Span::EMPTY,
    };
    let headers = push_headers(publish, batch);
    let payload = (!is_tombstone).then(|| batch.push_bytes(publish.payload));
    batch.docs.push(Doc { route: route.id, time, key, headers, payload, topic });
    Ok(())
}

/// The topic, the flags and the properties of a message as headers: its user properties under their own names.
fn push_headers(publish: &Publish<'_>, batch: &mut Batch) -> Span {
    let start = batch.heap.len();
    batch.push_header("mqtt.topic", Some(publish.topic.as_bytes()));
    if publish.retain {
        batch.push_header("mqtt.retain", Some(b"true"));
    }
    if publish.dup {
        batch.push_header("mqtt.dup", Some(b"true"));
    }
    if publish.has_properties() {
        for property in publish.properties() {
            match property {
                Property::User(key, value) => batch.push_header(key, Some(value.as_bytes())),
                Property::Text(packet::CONTENT_TYPE, text) => batch.push_header("content-type", Some(text.as_bytes())),
                Property::Text(packet::RESPONSE_TOPIC, text) => batch.push_header("mqtt.response-topic", Some(text.as_bytes())),
                Property::Bytes(packet::CORRELATION_DATA, data) => batch.push_header("mqtt.correlation-data", Some(data)),
                Property::Four(packet::MESSAGE_EXPIRY, seconds) => {
                    batch.push_header("mqtt.message-expiry", Some(seconds.to_string().as_bytes()));
                }
                Property::One(packet::PAYLOAD_FORMAT, format) => {
                    batch.push_header("mqtt.payload-format", Some(format.to_string().as_bytes()));
                }
                _ => {}
            }
        }
    }
    batch.span_from(start)
}

fn reject(taking: &Taking<'_>, batch: &mut Batch, reason: Unfit) {
    let headers = push_headers(taking.publish, batch);
    let payload = batch.push_bytes(taking.publish.payload);
    let reason = format!("{reason} (topic {}, filter {})", taking.publish.topic, taking.route.filter);
    batch.rejects.push(Reject { route: taking.route.id, key: Span::EMPTY, headers, payload, reason });
}
