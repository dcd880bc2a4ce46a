//! A subscription, and what it makes of one message: tag paths, Kafka topics and keys, documents, dead letters.
//!
//! A level of a topic that is empty (`/a`, `a//b`) is left out of a tag's path.

use crate::command::Rule;
use crate::packet::{self, Property, Publish, Qos};
use crate::payload::{Check, Decode, Document, Packing};
use crate::topic::{Filter, TOPIC};
use millrace_contract::{Late, SourceIo};
use millrace_kit::extract::{Extracted, Item, Name, mend};
use millrace_kit::records::Variable;
use millrace_kit::template::push_level;
use millrace_kit::topics::check_name;
use millrace_kit::{AllowedTopics, Template};
use millrace_schemas::{Batch, Doc, Origin, Reject, RouteId, Span, Value};
use std::convert::Infallible;
use std::io::Write;
use std::sync::Arc;

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
    /// What is between the bytes of a message and its payload.
    pub packing: Packing,
    /// Which names of Kafka topics a message may choose.
    pub allowed: Arc<AllowedTopics>,
    pub decode: Decode,
    /// How its tags are commanded, where that is said.
    pub command: Option<Arc<Rule>>,
}

/// User properties of a message that take more are no properties: it becomes a dead letter.
const PROPERTIES_BYTES: usize = 64 * 1024;

#[derive(Default)]
pub(crate) struct Rendered {
    pub topic: Box<[u8]>,
    pub key: Box<[u8]>,
}

/// Why a route can't make anything of a message: the reason of its dead letter.
pub(crate) type Unfit = String;

/// A message and what is needed beside it.
pub(crate) struct Taking<'a> {
    pub route: &'a Route,
    pub publish: &'a Publish<'a>,
    pub io: &'a SourceIo,
}

impl Taking<'_> {
    pub fn captures(&self) -> Vec<&str> {
        self.route.filter.captures(self.publish.topic).unwrap_or_default()
    }
}

pub(crate) fn origin(publish: &Publish<'_>) -> Origin {
    if publish.retain { Origin::Initial } else { Origin::Change }
}

/// Whether the broker says that a message is for this subscription, or says nothing.
pub(crate) fn is_marked(publish: &Publish<'_>, subscription_id: u32) -> bool {
    let mut marks = publish.properties().filter_map(|property| match property {
        Property::Var(packet::SUBSCRIPTION_ID, id) => Some(id),
        _ => None,
    });
    match marks.next() {
        None => true,
        Some(id) => id == subscription_id || marks.any(|id| id == subscription_id),
    }
}

/// Why a message that was not kept whole is refused.
pub(crate) fn oversize(len: usize, publish: &Publish<'_>) -> Unfit {
    format!("the message has {len} bytes, more than `max_packet`; its first {} are here", publish.payload.len())
}

/// Takes a payload as it is, else as what small devices mean by it, document by document.
pub(crate) fn mended(payload: &[u8], mut take: impl FnMut(&[u8]) -> Result<(), Unfit>) -> Result<(), Unfit> {
    let Err(reason) = take(payload) else { return Ok(()) };
    match std::str::from_utf8(payload).ok().and_then(mend) {
        None => Err(reason),
        Some(documents) => documents.iter().try_for_each(|document| take(document.as_bytes())),
    }
}

/// A tag's path: a template, and a name below it. Empty levels of a topic are left out.
pub(crate) fn path(
    template: &Template<Variable>,
    name: Option<&str>,
    taking: &Taking<'_>,
    item: Option<&Item<'_>>,
) -> Result<String, Unfit> {
    let captures = taking.captures();
    let mut out = Vec::new();
    template
        .fill(&mut out, |variable, out| {
            match variable {
                Variable::Given(TOPIC) => out.extend_from_slice(taking.publish.topic.as_bytes()),
                Variable::Given(n) => push_level(out, captures[n - 1].as_bytes()),
                Variable::Name(name) => push_level(out, item.map_or("", |item| item.name(name)).as_bytes()),
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
    let path = String::from_utf8(out).map_err(|_| "the tag path is not UTF-8".to_owned())?;
    if path.split('/').any(str::is_empty) {
        return Ok(path.split('/').filter(|level| !level.is_empty()).collect::<Vec<_>>().join("/"));
    }
    Ok(path)
}

/// The name of the Kafka topic: a `/` becomes `.`.
pub(crate) fn kafka_topic(template: &Template<Variable>, route: &Route, topic: &str, captures: &[&str]) -> Result<String, Unfit> {
    let mut out = Vec::new();
    template
        .fill(&mut out, |variable, out| {
            let value = match variable {
                Variable::Given(TOPIC) => topic,
                Variable::Given(n) => captures[n - 1],
                Variable::Name(_) => "",
            };
            out.extend(value.bytes().map(|byte| if byte == b'/' { b'.' } else { byte }));
            Ok::<_, Infallible>(())
        })
        .unwrap_or_else(|never| match never {});
    let name = String::from_utf8(out).unwrap_or_default();
    match template.constant() {
        Some(_) => check_name(&name)?,
        None => route.allowed.check(&name)?,
    }
    Ok(name)
}

/// What of a document's Kafka topic and key depends on the MQTT topic; `None` where neither does.
pub(crate) fn rendered(route: &Route, document: &Document, topic: &str, captures: &[&str]) -> Result<Option<Rendered>, Unfit> {
    let kafka = match route.topic.constant() {
        Some(_) => String::new(),
        None => kafka_topic(&route.topic, route, topic, captures)?,
    };
    let mut key = Vec::new();
    if let Some(template) = document.key.as_ref().filter(|template| !document.key_in_payload && template.constant().is_none()) {
        render_key(template, topic, captures, None, &mut key)?;
    }
    let is_empty = kafka.is_empty() && key.is_empty();
    Ok((!is_empty).then(|| Rendered { topic: kafka.into_bytes().into(), key: key.into() }))
}

/// Appends a key. `pointers` are what the key's JSON pointers found, in their order, with the heap their texts lie in.
pub(crate) fn render_key(
    template: &Template<Variable>,
    topic: &str,
    captures: &[&str],
    pointers: Option<(&Extracted, &[u8])>,
    out: &mut Vec<u8>,
) -> Result<(), Unfit> {
    let mut found = pointers.iter().flat_map(|(extracted, _)| extracted.iter());
    template.fill(out, |variable, out| {
        match variable {
            Variable::Given(TOPIC) => out.extend_from_slice(topic.as_bytes()),
            Variable::Given(n) => out.extend_from_slice(captures[n - 1].as_bytes()),
            Variable::Name(Name::Key) => {}
            Variable::Name(Name::Pointer(pointer)) => match (found.next().map(|found| found.value), pointers) {
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

pub(crate) fn take_document(
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
    if publish.property_bytes().len() > PROPERTIES_BYTES {
        return Err(format!("the properties take {} bytes, more than {PROPERTIES_BYTES}", publish.property_bytes().len()));
    }
    match &document.check {
        Check::Json(extraction) if !is_tombstone => {
            if let Err(reason) = extraction.read(publish.payload, batch, extracted) {
                let documents = std::str::from_utf8(publish.payload).ok().and_then(mend).ok_or(reason)?;
                return documents.iter().try_for_each(|text| {
                    extraction.read(text.as_bytes(), batch, extracted)?;
                    let part = publish.with_payload(text.as_bytes());
                    take_document(&Taking { publish: &part, ..*taking }, document, rendered, extracted, key, batch)
                });
            }
            time = extracted.time.map_or(time, |stamp| stamp.time);
        }
        Check::Text if std::str::from_utf8(publish.payload).is_err() => {
            return Err("the payload is not UTF-8 text; declare its `encoding`, or `payload: bytes`".into());
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
    if key.len() > PROPERTIES_BYTES {
        return Err(format!("the key has {} bytes, more than {PROPERTIES_BYTES}", key.len()));
    }
    let key = batch.push_bytes(key);
    let topic = match rendered {
        Some(rendered) if !rendered.topic.is_empty() => batch.push_bytes(&rendered.topic),
        _ => Span::EMPTY,
    };
    let headers = push_headers(publish, false, batch);
    let payload = (!is_tombstone).then(|| batch.push_bytes(publish.payload));
    batch.docs.push(Doc { route: route.id, time, key, headers, payload, topic });
    Ok(())
}

/// The topic, the flags and the properties of a message as headers. Its user properties go under their own names, but those that are Millrace's,
/// Kafka Connect's or this connector's: they go under `mqtt.user.NAME`, so that no device can speak for either.
pub(crate) fn push_headers(publish: &Publish<'_>, is_partly: bool, batch: &mut Batch) -> Span {
    let start = batch.heap.len();
    batch.push_header("mqtt.topic", Some(publish.topic.as_bytes()));
    if is_partly {
        batch.push_header(Late::PARTLY, Some(b"true"));
    }
    if publish.retain {
        batch.push_header("mqtt.retain", Some(b"true"));
    }
    if publish.dup {
        batch.push_header("mqtt.dup", Some(b"true"));
    }
    if publish.has_properties() && publish.property_bytes().len() <= PROPERTIES_BYTES {
        for property in publish.properties() {
            match property {
                Property::User(key, value) if is_ours(key) => batch.push_header(&format!("mqtt.user.{key}"), Some(value.as_bytes())),
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

/// Whether a header of this name says something that a device may not say.
pub(crate) fn is_ours(name: &str) -> bool {
    let starts = |with: &str| name.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with));
    starts("millrace.") || starts("__connect.") || starts("mqtt.") || starts("__")
}

/// Makes a message a dead letter. `is_partly`: some of its values are in the batch.
pub(crate) fn reject(taking: &Taking<'_>, batch: &mut Batch, reason: Unfit, is_partly: bool) {
    let headers = push_headers(taking.publish, is_partly, batch);
    let payload = batch.push_bytes(taking.publish.payload);
    let reason = format!("{reason} (topic {}, filter {})", taking.publish.topic, taking.route.filter);
    batch.rejects.push(Reject { route: taking.route.id, key: Span::EMPTY, headers, payload, reason });
}
