//! `millrace browse mqtt URL`: what a broker says for a while, as a source to paste under `sources:`.
//!
//! Read only: a client id of its own, a clean session, QoS 0; nothing is published. Bounded: so many topics, so many fields of each, nothing of
//! the payloads but an example. A URL may end in a filter: `mqtt://broker/factory/#`.

use crate::packet::{Packet, Publish, Qos, Version, code_name, write_subscribe};
use crate::payload::excerpt;
use crate::session::{Inbound, Opening, Session, Step};
use crate::transport::Endpoint;
use millrace_config::{Reason, Secret};
use millrace_contract::found::{Entry, Shape};
use millrace_contract::plugin::Looking;
use millrace_contract::{Browse, Failure, Findings};
use millrace_kit::{Login, Tls};
use serde_json::Value as Json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Watches a broker and describes what it says.
pub fn browse(browse: Browse) -> Looking {
    Box::pin(watch(browse))
}

async fn watch(browse: Browse) -> Result<Findings, Reason> {
    let (url, filter) = split_filter(&browse.url);
    let endpoint = Endpoint::parse(url)?;
    let filter = crate::topic::Filter::parse(filter)?;
    let mut opening = Opening {
        endpoint,
        tls: Tls { ca: browse.ca.clone().map(Into::into), ..Tls::default() },
        version: Version::V5,
        client_id: format!("millrace-browse-{:08x}", fastrand::u32(..)),
        login: browse.user.clone().map(|user| Login { user, password: Secret::new(browse.password.clone().unwrap_or_default()) }),
        keep_alive: Duration::from_secs(30),
        clean_start: true,
        session_expiry: Duration::ZERO,
        receive_maximum: 1000,
        max_packet: 1 << 20,
        will: None,
        answered: Arc::default(),
    };
    let mut session = match Session::open(&opening).await {
        Ok(session) => session,
        Err(Failure::Blocked(cause)) if !cause.contains("version: 4") => return Err(cause.into()),
        Err(first) => {
            opening.version = Version::V4;
            Session::open(&opening).await.map_err(|_| first.to_string())?
        }
    };
    write_subscribe(&mut session.line.out, session.version, 1, filter.as_str(), Qos::AtMostOnce, 0);
    let mut seen = Seen { limit: browse.limit.max(1), ..Seen::default() };
    let deadline = tokio::time::sleep(browse.watch);
    tokio::pin!(deadline);
    while let Step::Read = session.alongside(true, &mut deadline).await.map_err(|failure| failure.to_string())? {
        loop {
            match session.inbox.next(session.version) {
                Ok(None) => break,
                Ok(Some(Inbound::Packet(Packet::Publish(publish)) | Inbound::Oversized { publish, .. })) => seen.take(&publish),
                Ok(Some(Inbound::Packet(Packet::Suback(suback)))) => {
                    if let Some(code) = suback.codes.first().filter(|code| **code >= 0x80) {
                        return Err(format!("{} refuses the filter `{filter}`: {}", opening.endpoint, code_name(*code)).into());
                    }
                }
                Ok(Some(Inbound::Packet(Packet::Disconnect(disconnect)))) => {
                    return Err(session.disconnected(&disconnect, &opening.client_id).to_string().into());
                }
                Ok(Some(_)) => {}
                Err(error) => return Err(session.no_mqtt(error).to_string().into()),
            }
        }
    }
    session.close(0, None).await;
    Ok(findings(&seen, url, &browse, opening.version))
}

/// The endpoint and the filter of a URL: only ws and wss have a path of their own.
fn split_filter(url: &str) -> (&str, &str) {
    let Some((scheme, rest)) = url.split_once("://") else { return (url, "#") };
    match rest.split_once('/') {
        Some((authority, filter)) if !filter.is_empty() && !scheme.starts_with("ws") => {
            (&url[..scheme.len() + 3 + authority.len()], filter)
        }
        _ => (url, "#"),
    }
}

/// How many fields of a payload are shown.
const FIELDS: usize = 100;

#[derive(Default)]
struct Seen {
    topics: BTreeMap<String, Topic>,
    messages: u64,
    limit: usize,
    is_more: bool,
}

/// What was seen of one topic.
struct Topic {
    kind: Kind,
    messages: u64,
    example: String,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Kind {
    Sparkplug,
    Number,
    /// The leaves of an object: JSON Pointer and an example.
    Json(BTreeMap<String, String>),
    Document,
    Text,
    Bytes,
}

impl Kind {
    /// Kinds that one subscription can read.
    const fn class(&self) -> u8 {
        match self {
            Self::Sparkplug => 0,
            Self::Number => 1,
            Self::Json(_) => 2,
            Self::Document => 3,
            Self::Text => 4,
            Self::Bytes => 5,
        }
    }

    fn of(topic: &str, payload: &[u8]) -> Self {
        if topic.starts_with("spBv1.0/") {
            return Self::Sparkplug;
        }
        let Ok(text) = std::str::from_utf8(payload) else { return Self::Bytes };
        if text.trim().parse::<f64>().is_ok() {
            return Self::Number;
        }
        match serde_json::from_str::<Json>(text) {
            Ok(Json::Object(fields)) => {
                let mut leaves = BTreeMap::new();
                collect(&fields, "", &mut leaves);
                if leaves.is_empty() { Self::Document } else { Self::Json(leaves) }
            }
            Ok(Json::Array(_)) => Self::Document,
            _ => Self::Text,
        }
    }
}

fn collect(fields: &serde_json::Map<String, Json>, above: &str, leaves: &mut BTreeMap<String, String>) {
    for (name, value) in fields {
        let pointer = format!("{above}/{}", name.replace('~', "~0").replace('/', "~1"));
        match value {
            Json::Object(fields) => collect(fields, &pointer, leaves),
            _ if leaves.len() < FIELDS => drop(leaves.insert(pointer, excerpt(value.to_string().as_bytes()))),
            _ => {}
        }
    }
}

impl Seen {
    fn take(&mut self, publish: &Publish<'_>) {
        self.messages += 1;
        if publish.payload.is_empty() {
            return;
        }
        if let Some(topic) = self.topics.get_mut(publish.topic) {
            topic.messages += 1;
            // Fields that come only sometimes are fields, too.
            if let (Kind::Json(known), Kind::Json(more)) = (&mut topic.kind, Kind::of(publish.topic, publish.payload)) {
                let room = FIELDS.saturating_sub(known.len());
                let new: Vec<_> = more.into_iter().filter(|(pointer, _)| !known.contains_key(pointer)).take(room).collect();
                known.extend(new);
            }
        } else if self.topics.len() < self.limit {
            let kind = Kind::of(publish.topic, publish.payload);
            let example = if kind == Kind::Sparkplug { String::new() } else { excerpt(publish.payload) };
            self.topics.insert(publish.topic.to_owned(), Topic { kind, messages: 1, example });
        } else {
            self.is_more = true;
        }
    }
}

/// Topics that one subscription reads, and its filter.
struct Group<'a> {
    filter: String,
    topics: Vec<(&'a str, &'a Topic)>,
}

/// What topics have in common that may go together: class of payload, first level, number of levels.
type Likeness<'a> = (u8, &'a str, usize);

/// Topics of one kind, one length and one first level go together; by their last level where that names what they are (`state`, `value`).
fn groups(seen: &Seen) -> Vec<Group<'_>> {
    let mut alike: BTreeMap<Likeness<'_>, Vec<_>> = BTreeMap::new();
    for (name, topic) in seen.topics.iter().filter(|(_, topic)| topic.kind != Kind::Sparkplug) {
        let first = name.split('/').next().unwrap_or("");
        alike.entry((topic.kind.class(), first, name.split('/').count())).or_default().push((name.as_str(), topic));
    }
    let mut groups = Vec::new();
    for topics in alike.into_values() {
        let last = |name: &str| name.rsplit('/').next().unwrap_or("").to_owned();
        let lasts: BTreeSet<_> = topics.iter().map(|(name, _)| last(name)).collect();
        if lasts.len() < topics.len() && lasts.len() <= 8 {
            for one in lasts {
                groups.push(group(topics.iter().filter(|(name, _)| last(name) == one).copied().collect()));
            }
        } else {
            groups.push(group(topics));
        }
    }
    groups
}

fn group<'a>(topics: Vec<(&'a str, &'a Topic)>) -> Group<'a> {
    let mut filter: Vec<_> = topics[0].0.split('/').collect();
    for (name, _) in &topics {
        for (level, other) in filter.iter_mut().zip(name.split('/')) {
            if *level != other {
                *level = "+";
            }
        }
    }
    Group { filter: filter.join("/"), topics }
}

fn findings(seen: &Seen, url: &str, browse: &Browse, version: Version) -> Findings {
    let mut found = Findings { name: "broker", ..Findings::default() };
    found.notes.push(format!("{} messages of {} topics in {:?}", seen.messages, seen.topics.len(), browse.watch));
    if seen.is_more {
        let limit = seen.limit;
        found.notes.push(format!("there are more topics: only the first {limit} are here, raise the limit or give a filter: {url}/some/#"));
    }
    if seen.topics.is_empty() {
        found.notes.push("nothing was said: watch longer, or look whether the broker lets this user read".into());
        return found;
    }
    let source = &mut found.source;
    source.push(Entry::value("endpoint", url));
    if version == Version::V4 {
        source.push(Entry::value("version", 4));
    }
    if let Some(user) = &browse.user {
        let login = vec![Entry::value("user", user.as_str()), Entry::value("password", "${env:MQTT_PASSWORD}")];
        source.push(Entry::new("login", Shape::Inline(login)));
    }
    if let Some(ca) = &browse.ca {
        source.push(Entry::new("tls", Shape::Inline(vec![Entry::value("ca", ca.as_str())])));
    }
    source.push(Entry::word("topic", "telemetry"));
    let mut subscribe: Vec<_> = groups(seen).iter().map(|group| subscription(group, browse.watch)).collect();
    subscribe.extend(sparkplug(seen));
    source.push(Entry::new("subscribe", Shape::List(subscribe)));
    found
}

fn subscription(group: &Group<'_>, watched: Duration) -> (Option<String>, Vec<Entry>) {
    let (name, topic) = group.topics[0];
    let messages: u64 = group.topics.iter().map(|(_, topic)| topic.messages).sum();
    let rate = messages as f64 / watched.as_secs_f64().max(0.001);
    let remark = format!("{} topics, {rate:.1} messages/s, as {name}: {}", group.topics.len(), topic.example);
    let mut keys = vec![Entry::value("filter", group.filter.as_str())];
    let plain = |payload: &str, last: &[Entry]| [&[Entry::word("payload", payload)], last].concat();
    let (tag, key) = (Entry::value("tag", "{topic}"), Entry::value("key", "{topic}"));
    let documents = [Entry::word("topic", "documents"), key];
    keys.extend(match &topic.kind {
        Kind::Number => plain("number", &[tag]),
        Kind::Text => plain("text", &[tag]),
        Kind::Document => plain("json", &documents),
        Kind::Bytes => plain("bytes", &documents),
        Kind::Json(_) => samples(group),
        Kind::Sparkplug => plain("sparkplug", &[]),
    });
    (Some(remark), keys)
}

fn samples(group: &Group<'_>) -> Vec<Entry> {
    let mut fields = BTreeMap::new();
    for (_, topic) in &group.topics {
        if let Kind::Json(leaves) = &topic.kind {
            for (pointer, example) in leaves {
                if fields.len() < FIELDS {
                    fields.entry(pointer.as_str()).or_insert(example.as_str());
                }
            }
        }
    }
    let mut keys = vec![Entry::word("payload", "json"), Entry::value("at", "{topic}")];
    if let Some((pointer, unit)) = fields.iter().find_map(|(pointer, example)| Some((*pointer, time_unit(pointer, example)?))) {
        let mut time = vec![Entry::value("at", pointer)];
        if !unit.is_empty() {
            time.push(Entry::word("unit", unit));
        }
        keys.push(Entry::new("time", Shape::Inline(time)));
        fields.remove(pointer);
    }
    let sample =
        |(pointer, example): (&str, &str)| Entry::value(pointer[1..].replace("~1", "%2F").replace("~0", "~"), pointer).remark(example);
    keys.push(Entry::new("samples", Shape::Keys(fields.into_iter().map(sample).collect())));
    keys
}

/// Whether a field is a time: by its name and its value. Of a text the unit is empty.
fn time_unit(pointer: &str, example: &str) -> Option<&'static str> {
    let name = pointer.rsplit('/').next().unwrap_or("").to_ascii_lowercase();
    if !["ts", "t", "time", "timestamp", "datetime", "date"].contains(&name.as_str()) {
        return None;
    }
    if example.starts_with('"') {
        return (example.len() > 18 && example.contains('T') && example.contains(':')).then_some("");
    }
    match example.parse::<f64>().ok()? {
        n if (1e9..1e10).contains(&n) => Some("s"),
        n if (1e12..1e13).contains(&n) => Some("ms"),
        n if (1e15..1e16).contains(&n) => Some("us"),
        n if (1e18..1e19).contains(&n) => Some("ns"),
        _ => None,
    }
}

fn sparkplug(seen: &Seen) -> impl Iterator<Item = (Option<String>, Vec<Entry>)> {
    let mut sources: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (name, _) in seen.topics.iter().filter(|(_, topic)| topic.kind == Kind::Sparkplug) {
        let levels: Vec<_> = name.split('/').collect();
        if let [_, group, verb, rest @ ..] = &levels[..]
            && *group != "STATE"
            && verb.len() > 1
        {
            sources.entry(group).or_default().insert(rest.join("/"));
        }
    }
    sources.into_iter().map(|(group, nodes)| {
        let shown: Vec<_> = nodes.iter().take(20).map(String::as_str).collect();
        let remark = format!("Sparkplug group of {} nodes and devices: {}", nodes.len(), shown.join(", "));
        (Some(remark), vec![Entry::value("filter", format!("spBv1.0/{group}/#")), Entry::word("payload", "sparkplug")])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(messages: &[(&str, &str)]) -> Seen {
        let mut seen = Seen { limit: 100, ..Seen::default() };
        for (topic, payload) in messages {
            seen.take(&Publish::plain(topic, payload.as_bytes(), false));
        }
        seen
    }

    fn rendered(seen: &Seen) -> String {
        let browse = Browse {
            url: String::new(),
            user: None,
            password: None,
            ca: None,
            watch: Duration::from_secs(10),
            limit: seen.limit,
            ..Browse::default()
        };
        findings(seen, "mqtt://broker", &browse, Version::V5).yaml("mqtt")
    }

    #[test]
    fn a_broker_is_described_as_a_source_to_paste() {
        let text = rendered(&seen(&[
            ("f/a/value", "1"),
            ("f/b/value", "2.5"),
            ("f/a/state", "on"),
            ("f/b/state", "off"),
            ("car/7/t", r#"{"ts":1750000000123,"v":{"kmh":81.5},"a/b":1}"#),
            ("spBv1.0/pack/DDATA/edge/dev", "x"),
            ("spBv1.0/pack/NBIRTH/edge", "x"),
            ("list", "[1,2]"),
        ]));
        let expected = r##"# 8 messages of 8 topics in 10s
sources:
  broker:
    type: mqtt
    endpoint: "mqtt://broker"
    topic: telemetry
    subscribe:
      # 2 topics, 0.2 messages/s, as f/a/value: 1
      - {filter: "f/+/value", payload: number, tag: "{topic}"}
      # 1 topics, 0.1 messages/s, as car/7/t: {"ts":1750000000123,"v":{"kmh":81.5},"a/b":1}
      - filter: "car/7/t"
        payload: json
        at: "{topic}"
        time: {at: "/ts", unit: ms}
        samples:
          "a%2Fb": "/a~1b"   # 1
          v/kmh: "/v/kmh"   # 81.5
      # 1 topics, 0.1 messages/s, as list: [1,2]
      - {filter: "list", payload: json, topic: documents, key: "{topic}"}
      # 2 topics, 0.2 messages/s, as f/a/state: on
      - {filter: "f/+/state", payload: text, tag: "{topic}"}
      # Sparkplug group of 2 nodes and devices: edge, edge/dev
      - {filter: "spBv1.0/pack/#", payload: sparkplug}
"##;
        assert_eq!(text, expected);
    }

    #[test]
    fn what_is_not_shown_is_said() {
        let mut many = seen(&[]);
        many.limit = 2;
        for n in 0..5 {
            many.take(&Publish::plain(&format!("t/{n}"), b"1", false));
        }
        let text = rendered(&many);
        assert!(text.contains("only the first 2 are here"), "{text}");
        assert!(rendered(&seen(&[])).contains("nothing was said"));
    }

    #[test]
    fn a_url_may_end_in_a_filter() {
        assert_eq!(split_filter("mqtt://b:1883/f/+/#"), ("mqtt://b:1883", "f/+/#"));
        assert_eq!(split_filter("mqtt://b/"), ("mqtt://b/", "#"));
        assert_eq!(split_filter("ws://b/mqtt"), ("ws://b/mqtt", "#"));
    }
}
