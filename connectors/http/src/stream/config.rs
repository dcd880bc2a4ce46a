//! The keys of sources that listen to a server, checked and compiled without I/O.

use millrace_config::{Problems, Spanned};
use millrace_contract::{Context, Model, Route, Tagged};
use millrace_kit::AllowedTopics;
use millrace_kit::groups::{Beside, SharedKeys};
use millrace_kit::http::{Endpoint, EndpointKeys, Url};
use millrace_kit::records::polling::max_tags;
use millrace_kit::records::{Compile, Making, RecordKeys};
use millrace_schemas::RouteId;
use schemars::JsonSchema;
use serde::Deserialize;
use std::sync::Arc;

/// A stream in the YAML: tag options, what becomes of its records, where it is, and the keys `K` of its protocol.
pub type StreamConfig<K> = Tagged<Beside<RecordKeys, Beside<StreamKeys, K>>>;

/// What is listened to on a server, each stream on a connection of its own.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, bound(deserialize = "K: serde::de::DeserializeOwned"))]
#[schemars(bound = "K: JsonSchema")]
pub struct StreamsConfig<K> {
    /// The streams.
    pub streams: Vec<Spanned<StreamConfig<K>>>,
    /// How many tags may be discovered.
    #[serde(default = "max_tags")]
    pub max_tags: u32,
}

/// Where a stream is.
#[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StreamKeys {
    /// The path behind the endpoint: `/events`.
    pub get: Spanned<String>,
    /// Under which name it is shown, and its position kept. Default: `get` as written.
    #[serde(default)]
    pub name: Option<Spanned<String>>,
}

impl SharedKeys for StreamKeys {
    const KEYS: &'static [&'static str] = &["get", "name"];
}

/// A stream of server-sent events.
#[derive(Clone, PartialEq, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SseKeys {
    /// The types of events that are taken; others are passed over. Left out: all. `{event}` in `topic`, `at` and `tag` is an event's type.
    pub events: Vec<String>,
    /// The id to begin behind the first time, where the server keeps what it said.
    pub start: Option<String>,
}

/// A WebSocket.
#[derive(Clone, PartialEq, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WebSocketKeys {
    /// Texts that are sent once it is open: `['{"op": "subscribe", "channel": "oven"}']`.
    pub send: Vec<String>,
    /// The subprotocol that is asked for.
    pub protocol: Option<Spanned<String>>,
}

/// Streams of one server that know all they will do.
#[derive(Debug)]
pub struct Settings<K> {
    pub endpoint: Endpoint,
    pub streams: Vec<Arc<Stream<K>>>,
    pub max_tags: usize,
    pub model: Model,
}

/// One stream, compiled.
#[derive(Debug)]
pub struct Stream<K> {
    pub name: String,
    pub url: Url,
    pub making: Making,
    pub topic: String,
    pub own: K,
}

impl<K: Clone> StreamsConfig<K> {
    /// `given`: names in braces that each record has values for.
    pub fn compile(&self, at: &EndpointKeys, given: &[&str], context: &Context, problems: &mut Problems) -> Option<Settings<K>> {
        let mark = problems.mark();
        let endpoint = at.compile(problems);
        if self.streams.is_empty() {
            problems.error(context.place, "`streams` is empty: nothing would be listened to").help("add `- {get: /events, topic: events}`");
        }
        let given: Vec<String> = given.iter().map(|name| (*name).to_owned()).collect();
        let mut model = Model::default();
        let mut streams: Vec<Arc<Stream<K>>> = Vec::new();
        for config in &self.streams {
            let (keys, place) = (&config.own.own.shared, config.place);
            let url = endpoint.as_ref().and_then(|endpoint| {
                let url = Url::parse(&format!("{}{}", endpoint.url.as_str().trim_end_matches('/'), keys.get.value));
                url.ok().filter(|url| keys.get.starts_with('/') && url.origin() == endpoint.url.origin())
            });
            if endpoint.is_some() && url.is_none() {
                problems.error(keys.get.place, format!("`{}` is not a path behind the endpoint", keys.get.value)).help("write `/events`");
            }
            let what = format!("get {}", keys.get.value);
            let route = RouteId(model.routes.len() as u32);
            let allowed = Arc::new(AllowedTopics::default());
            let shared = &config.own.shared;
            let compile =
                Compile { keys: shared, options: &config.options, place, route, what: &what, given: &given, allowed: &allowed, context };
            let Some(making) = compile.run(problems) else { continue };
            let topic = making.topic_text(&given);
            model.routes.push(Route { topic: topic.as_str().into(), name: what, samples: making.is_samples() });
            making.known_tags(&mut model.tags, place, problems);
            let name = keys.name.as_ref().unwrap_or(&keys.get).value.clone();
            if streams.iter().any(|other| other.name == name) {
                problems.error(place, format!("two streams are called `{name}`")).help("give one of them a `name`");
            }
            if let Some(url) = url {
                streams.push(Arc::new(Stream { name, url, making, topic, own: config.own.own.own.clone() }));
            }
        }
        if problems.has_errors_since(mark) {
            return None;
        }
        Some(Settings { endpoint: endpoint?, streams, max_tags: self.max_tags as usize, model })
    }
}

impl<K> Stream<K> {
    /// One line of a plan.
    pub fn line(&self) -> String {
        let kind = if self.making.is_samples() { "samples" } else { "documents" };
        format!("listens to {} -> {kind} in {}", self.url, self.topic)
    }
}
