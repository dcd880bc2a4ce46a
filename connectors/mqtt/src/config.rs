//! The keys of an MQTT source in the YAML, checked and compiled without I/O.

use crate::packet::{Qos, Version};
use crate::payload::{Check, Decode, Document, Missing, Sample, Samples, Scalar, Single};
use crate::routes::{Route, check_kafka_topic};
use crate::session::KEPT_OF_OVERSIZED;
use crate::sparkplug;
use crate::topic::{Filter, Template, Variable};
use crate::transport::Endpoint;
use millrace_config::{ByteSize, Period, Place, Problems, Short, Spanned};
use millrace_contract::{Context, Model, Structure, TagDef, TagOptions, Tagged};
use millrace_kit::extract::{Extraction, Pointer, SampleConfig};
use millrace_kit::time::{Clock, TimeConfig};
use millrace_kit::{Login, Tls};
use millrace_schemas::RouteId;
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// An MQTT broker to read from.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    /// The broker: `mqtt://host:1883`, `mqtts://host:8883`, `ws://host/mqtt` or `wss://host/mqtt`.
    pub endpoint: Spanned<String>,
    /// Version of MQTT: 5 (default) or 4 (that is 3.1.1).
    #[serde(default)]
    pub version: Option<Spanned<u8>>,
    /// Under which id the broker keeps the session; default `millrace-NAME`. Two clients of one id throw each other out.
    #[serde(default)]
    pub client_id: Option<Spanned<String>>,
    /// User and password.
    #[serde(default)]
    pub login: Option<Login>,
    /// Certificates, with mqtts and wss.
    #[serde(default)]
    pub tls: Option<Spanned<Tls>>,
    /// How soon a dead connection is noticed; default 30s.
    #[serde(default)]
    pub keep_alive: Option<Spanned<Period>>,
    /// How long the broker keeps what was not acknowledged while this source is away; default 7d. `0s`: no session is kept, messages may be lost.
    /// With 3.1.1 the broker decides how long.
    #[serde(default)]
    pub session_expiry: Option<Period>,
    /// How many messages the broker may send before the first is acknowledged; default 5000. The broker may allow fewer, with 3.1.1 it alone
    /// decides: Mosquitto's `max_inflight_messages` is 20 unless raised, and bounds the throughput.
    #[serde(default)]
    pub window: Option<Spanned<u16>>,
    /// A longer message becomes a dead letter with its beginning; default 32MiB, at least 128KiB.
    #[serde(default)]
    pub max_packet: Option<Spanned<ByteSize>>,
    /// How many tags may be discovered; default 1,000,000. Messages that would make more become dead letters.
    #[serde(default)]
    pub max_tags: Option<u32>,
    /// How many connections share the messages; default 1. More want `share`.
    #[serde(default)]
    pub connections: Option<Spanned<u16>>,
    /// The name of the shared subscription (`$share/NAME/..`) that divides messages among connections, and among runtimes.
    #[serde(default)]
    pub share: Option<Spanned<String>>,
    /// Millrace as a Sparkplug host.
    #[serde(default)]
    pub host: Option<Spanned<sparkplug::HostConfig>>,
    /// What to read, and what to make of it.
    pub subscribe: Vec<Spanned<Tagged<SubscriptionConfig>>>,
}

/// One topic filter, and what becomes of its messages. Tag options may stand beside these keys.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SubscriptionConfig {
    /// The topic filter; what its wildcards match is `{1}`, `{2}`.. in the templates, the whole topic is `{topic}`.
    pub filter: Spanned<String>,
    /// Quality of service: 0, 1 (default) or 2.
    #[serde(default)]
    pub qos: Option<Spanned<u8>>,
    /// What the payload is. Default: `json`.
    #[serde(default)]
    pub payload: Option<Spanned<PayloadConfig>>,
    /// Where the tags stand, below the source's own `at`.
    #[serde(default)]
    pub at: Option<Spanned<String>>,
    /// The tag of the value (`number`, `text`, `bytes`), or a Sparkplug metric's name (default `{metric}`).
    #[serde(default)]
    pub tag: Option<Spanned<String>>,
    /// The key of documents; `{/id}` is a JSON Pointer into the payload.
    #[serde(default)]
    pub key: Option<Spanned<String>>,
    /// Tags out of a JSON payload, each by its JSON Pointer: `speed: /v/kmh`.
    #[serde(default)]
    pub samples: Option<Spanned<SamplesConfig>>,
    /// The time in a JSON payload. Without it, samples have the time they were read.
    #[serde(default)]
    pub time: Option<Spanned<TimeConfig>>,
    /// The JSON Pointer of the status: `good`, `uncertain`, `bad`, true, false or an OPC UA status code.
    #[serde(default)]
    pub status: Option<Spanned<String>>,
    /// What a pointer that isn't in a payload means: `bad` (default), a sample without value, status BadNotFound, after `bad_after`; or `skip`.
    #[serde(default)]
    pub missing: Missing,
}

/// Tags by name, each by its pointer alone or with options of its own.
pub type SamplesConfig = BTreeMap<String, Spanned<Tagged<Short<SampleConfig>>>>;

/// What the payload of a message is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PayloadConfig {
    /// A JSON document as it is; with `samples`, tags out of it.
    Json,
    /// One number as text.
    Number,
    /// A text; with `tag` a sample, else a document.
    Text,
    /// Any bytes; with `tag` a sample, else a document.
    Bytes,
    /// Sparkplug B.
    Sparkplug,
}

/// How to reach a broker: what source and sink have in common.
#[derive(Clone, Debug)]
pub struct Broker {
    pub endpoint: Endpoint,
    pub version: Version,
    pub client_id: String,
    pub login: Option<Login>,
    pub tls: Tls,
    pub keep_alive: Duration,
    /// Whether it has ever answered in this version.
    pub answered: Arc<AtomicBool>,
}

/// The keys that source and sink have in common.
pub struct BrokerKeys<'a> {
    pub endpoint: &'a Spanned<String>,
    pub version: &'a Option<Spanned<u8>>,
    pub client_id: &'a Option<Spanned<String>>,
    pub login: &'a Option<Login>,
    pub tls: &'a Option<Spanned<Tls>>,
    pub keep_alive: &'a Option<Spanned<Period>>,
}

impl Broker {
    /// Checks everything; `None` when there is no endpoint to go on with.
    pub fn compile(keys: BrokerKeys<'_>, context: &Context, problems: &mut Problems) -> Option<Self> {
        let endpoint = match Endpoint::parse(keys.endpoint) {
            Ok(endpoint) => Some(endpoint),
            Err(error) => {
                problems.error(keys.endpoint.place, error);
                None
            }
        };
        let version = match keys.version.as_ref().map(|version| (version.value, version.place)) {
            None | Some((5, _)) => Version::V5,
            Some((4, _)) => Version::V4,
            Some((other, place)) => {
                problems.error(place, format!("there is no mqtt version {other} here")).help("write 5, or 4 for mqtt 3.1.1");
                Version::V5
            }
        };
        let client_id = match keys.client_id {
            None => format!("millrace-{}", context.name),
            Some(id) => {
                if id.is_empty() || id.len() > 65_535 || id.contains('\0') {
                    problems.error(id.place, "a client id has 1 to 65535 bytes, without NUL").help("leave it out for `millrace-NAME`");
                }
                id.value.clone()
            }
        };
        let keep_alive = match keys.keep_alive {
            None => Duration::from_secs(30),
            Some(period) => {
                if !(Duration::from_secs(2)..=Duration::from_secs(65_535)).contains(&period.0) {
                    problems.error(period.place, "`keep_alive` is from 2s to 65535s");
                }
                period.0
            }
        };
        if let (Some(tls), Some(endpoint)) = (keys.tls, &endpoint) {
            tls.check(tls.place, problems);
            if !endpoint.tls {
                problems.error(tls.place, format!("`tls` has no use with {endpoint}")).help("write mqtts:// or wss:// in `endpoint`");
            }
        }
        if let (Some(_), Some(endpoint)) = (keys.login, &endpoint)
            && !endpoint.tls
            && !is_loopback(&endpoint.host)
        {
            problems.warn(keys.endpoint.place, format!("the password goes to {endpoint} in clear text")).help("use mqtts://");
        }
        let tls = keys.tls.as_ref().map(|tls| tls.value.clone()).unwrap_or_default();
        Some(Self { endpoint: endpoint?, version, client_id, login: keys.login.clone(), tls, keep_alive, answered: Arc::default() })
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// An MQTT source that knows all it will do.
#[derive(Clone, Debug)]
pub struct Compiled {
    pub broker: Broker,
    pub session_expiry: Duration,
    pub window: u16,
    pub max_packet: usize,
    pub max_tags: usize,
    /// One client id for each connection.
    pub client_ids: Vec<String>,
    pub share: Option<String>,
    pub host: Option<sparkplug::HostConfig>,
    pub routes: Arc<[Route]>,
    pub sparkplug_routes: Vec<sparkplug::Route>,
    pub model: Model,
}

impl SourceConfig {
    pub fn compile(&self, context: &Context, problems: &mut Problems) -> Option<Compiled> {
        let keys = BrokerKeys {
            endpoint: &self.endpoint,
            version: &self.version,
            client_id: &self.client_id,
            login: &self.login,
            tls: &self.tls,
            keep_alive: &self.keep_alive,
        };
        let broker = Broker::compile(keys, context, problems);
        if let Some(window) = self.window.as_ref().filter(|window| window.value == 0) {
            problems.error(window.place, "`window` is from 1 to 65535");
        }
        let max_packet = self.max_packet.as_ref().map_or(32 << 20, |max| max.0);
        if let Some(max) = self.max_packet.as_ref().filter(|max| !(KEPT_OF_OVERSIZED as u64..=256 << 20).contains(&max.0)) {
            problems.error(max.place, "`max_packet` is from 128KiB to 256MiB");
        }
        let connections = self.connections.as_ref().map_or(1, |connections| connections.value);
        if let Some(connections) = &self.connections {
            if !(1..=64).contains(&connections.value) {
                problems.error(connections.place, "`connections` is from 1 to 64");
            } else if connections.value > 1 && self.share.is_none() {
                problems
                    .error(connections.place, format!("{} connections would each get every message", connections.value))
                    .help("add `share: NAME`, so that the broker divides the messages among them");
            }
        }
        if let Some(share) = self.share.as_ref().filter(|share| share.is_empty() || share.contains(['/', '+', '#'])) {
            problems.error(share.place, format!("`{}` is no name of a shared subscription: it has no `/`, `+` or `#`", share.value));
        }
        if self.subscribe.is_empty() {
            problems.error(context.place, "`subscribe` is empty: nothing would be read").help("add `- {filter: \"some/+/topic\"}`");
        }
        let mut routes = Vec::new();
        let mut sparkplug_routes = Vec::new();
        let mut model = Model::default();
        for (index, subscription) in self.subscribe.iter().enumerate() {
            let compiling = Compiling { subscription, context, index };
            let Some((route, sparkplug)) = compiling.run(problems) else { continue };
            let samples = !matches!(route.decode, Decode::Document(_));
            let topic = compiling.topic(problems).map_or_else(String::new, |topic| topic.value);
            model.routes.push(millrace_contract::Route { topic: topic.into(), name: route.filter.to_string(), samples });
            compiling.known_tags(&route, &mut model.tags, problems);
            routes.push(route);
            sparkplug_routes.extend(sparkplug);
        }
        self.check_together(&routes, connections, &broker, problems);
        let broker = broker?;
        let client_ids = match connections {
            1 => vec![broker.client_id.clone()],
            n => (1..=n).map(|n| format!("{}-{n}", broker.client_id)).collect(),
        };
        Some(Compiled {
            session_expiry: self.session_expiry.map_or(Duration::from_secs(7 * 86_400), |period| period.0),
            window: self.window.as_ref().map_or(5000, |window| window.value),
            max_packet: max_packet as usize,
            max_tags: self.max_tags.unwrap_or(1_000_000) as usize,
            client_ids,
            share: self.share.as_ref().map(|share| share.value.clone()),
            host: (!sparkplug_routes.is_empty()).then(|| self.host.as_ref().map(|host| host.value.clone()).unwrap_or_default()),
            routes: routes.into(),
            sparkplug_routes,
            model,
            broker,
        })
    }

    fn check_together(&self, routes: &[Route], connections: u16, broker: &Option<Broker>, problems: &mut Problems) {
        let has_sparkplug = routes.iter().any(|route| matches!(route.decode, Decode::Sparkplug));
        if let Some(host) = &self.host {
            if let Some(problem) = host.problem() {
                problems.error(host.place, problem);
            }
            if !has_sparkplug {
                problems.error(host.place, "`host` has no use: no subscription has `payload: sparkplug`");
            }
        }
        if let Some(share) = self.share.as_ref().filter(|_| has_sparkplug) {
            problems
                .error(share.place, "Sparkplug cannot be shared: the messages of an edge node must come to one connection, in order")
                .help("put the Sparkplug subscriptions into a source of their own, without `share`");
        }
        let is_v4 = broker.as_ref().is_some_and(|broker| broker.version == Version::V4);
        if connections > 1 && is_v4 {
            let place = self.version.as_ref().map_or(self.endpoint.place, |version| version.place);
            problems.warn(place, "shared subscriptions are part of mqtt 5; not every broker has them with 3.1.1");
        }
        for (index, route) in routes.iter().enumerate() {
            for (earlier, other) in routes[..index].iter().enumerate() {
                let place =
                    |index: usize| self.subscribe.get(index).map_or(self.endpoint.place, |subscription| subscription.own.filter.place);
                if route.filter == other.filter {
                    problems
                        .error(place(index), format!("the filter `{}` is there twice: a broker holds each filter once", route.filter))
                        .also(place(earlier), "first here");
                } else if is_v4 && route.filter.overlaps(&other.filter) {
                    problems
                        .warn(
                            place(index),
                            format!(
                                "`{}` and `{}` can match the same topic; a broker may send a copy for each",
                                route.filter, other.filter
                            ),
                        )
                        .also(place(earlier), "the other filter")
                        .help("with `version: 5` copies are told apart");
                }
            }
        }
    }
}

/// One subscription being compiled.
struct Compiling<'a> {
    subscription: &'a Spanned<Tagged<SubscriptionConfig>>,
    context: &'a Context,
    index: usize,
}

impl Compiling<'_> {
    fn own(&self) -> &SubscriptionConfig {
        &self.subscription.own
    }

    /// The Kafka topic that holds here, and where it was said.
    fn topic(&self, problems: &mut Problems) -> Option<Spanned<String>> {
        let place = self.subscription.place;
        let said = self.subscription.options.topic.as_deref().or(self.context.topic.as_deref());
        if said.is_none() {
            problems
                .error(place, format!("no `topic` for the messages of `{}`", self.own().filter.value))
                .help("add `topic: NAME`, here or at the source");
        }
        Some(Spanned { value: said?.to_owned(), place })
    }

    fn run(&self, problems: &mut Problems) -> Option<(Route, Option<sparkplug::Route>)> {
        let own = self.own();
        let qos = match own.qos.as_ref().map(|qos| (qos.value, qos.place)) {
            None => Qos::AtLeastOnce,
            Some((bits, place)) => Qos::from_bits(bits).unwrap_or_else(|| {
                problems.error(place, format!("there is no QoS {bits}; there are 0, 1 and 2"));
                Qos::AtLeastOnce
            }),
        };
        let filter = match Filter::parse(&own.filter) {
            Ok(filter) => filter,
            Err(error) => {
                problems.error(own.filter.place, error);
                return None;
            }
        };
        let topic = self.topic(problems)?;
        let topic = self.kafka_topic(&topic, &filter, problems)?;
        let id = RouteId(self.index as u32);
        self.refuse_unused(problems);
        let mut sparkplug = None;
        let decode = match (self.payload(), &own.samples) {
            (PayloadConfig::Sparkplug, _) => {
                sparkplug = Some(self.sparkplug(id, &filter, problems)?);
                Decode::Sparkplug
            }
            (PayloadConfig::Json, Some(samples)) => Decode::Samples(self.samples(samples, &filter, &topic, problems)?),
            (PayloadConfig::Json, None) => Decode::Document(self.document(&filter, problems)?),
            (PayloadConfig::Number, _) => Decode::Value(self.single(Scalar::Number, &filter, problems)?),
            (PayloadConfig::Text, _) if own.tag.is_some() => Decode::Value(self.single(Scalar::Text, &filter, problems)?),
            (PayloadConfig::Bytes, _) if own.tag.is_some() => Decode::Value(self.single(Scalar::Bytes, &filter, problems)?),
            (PayloadConfig::Text | PayloadConfig::Bytes, _) => Decode::Document(self.document(&filter, problems)?),
        };
        let subscription_id = subscription_id(filter.as_str());
        Some((Route { id, filter, qos, subscription_id, topic, decode }, sparkplug))
    }

    fn payload(&self) -> PayloadConfig {
        self.own().payload.as_ref().map_or(PayloadConfig::Json, |payload| payload.value)
    }

    /// Keys that this kind of payload would leave unread are an error, not a surprise.
    fn refuse_unused(&self, problems: &mut Problems) {
        let own = self.own();
        let is_json = self.payload() == PayloadConfig::Json;
        let has_tag = matches!(self.payload(), PayloadConfig::Number | PayloadConfig::Sparkplug) || own.tag.is_some();
        let mut refuse = |place: Option<Place>, key: &str, why: &str| {
            if let Some(place) = place {
                problems.error(place, format!("`{key}` has no use here: {why}"));
            }
        };
        let samples = own.samples.as_ref().map(|samples| samples.place);
        if !is_json {
            refuse(samples, "samples", "only JSON payloads have samples by pointer");
            refuse(own.time.as_ref().map(|time| time.place), "time", "only JSON payloads carry a time");
        }
        if samples.is_none() || !is_json {
            refuse(own.status.as_ref().map(|status| status.place), "status", "it goes with `samples`");
        }
        let tag = own.tag.as_ref().map(|tag| tag.place);
        if is_json {
            let why = if samples.is_some() {
                "samples have names; put the levels into `at`"
            } else {
                "a document has no tag; add `samples`, or give its `payload`"
            };
            refuse(tag, "tag", why);
        }
        if is_json && samples.is_none() || !is_json && !has_tag {
            refuse(own.at.as_ref().map(|at| at.place), "at", "a document has no tag path; add `samples` or `tag`");
        }
        if samples.is_some() && is_json || !is_json && has_tag {
            refuse(own.key.as_ref().map(|key| key.place), "key", "samples have the key their topic says");
        }
    }

    fn kafka_topic(&self, topic: &Spanned<String>, filter: &Filter, problems: &mut Problems) -> Option<Template<Variable>> {
        let template = self.template(topic, filter, false, problems)?;
        if let Some(name) = template.constant()
            && let Err(error) = check_kafka_topic(name)
        {
            problems.error(topic.place, error).help("letters, digits, `.`, `_` and `-`");
        }
        Some(template)
    }

    fn template(&self, text: &Spanned<String>, filter: &Filter, pointers: bool, problems: &mut Problems) -> Option<Template<Variable>> {
        let variable = |name: &str| match Variable::parse(name, filter)? {
            Variable::Pointer(pointer) if !pointers => Err(format!("`{{{pointer}}}`: only `key` takes JSON pointers")),
            Variable::Pointer(pointer) => Pointer::parse(&pointer).map(|_| Variable::Pointer(pointer)),
            variable => Ok(variable),
        };
        match Template::parse(text, variable) {
            Ok(template) => Some(template),
            Err(error) => {
                problems.error(text.place, error);
                None
            }
        }
    }

    /// The path made of the source's `at`, the subscription's and a tag's name.
    fn path(&self, tag: Option<&Spanned<String>>, filter: &Filter, problems: &mut Problems) -> Option<Template<Variable>> {
        let parts = [Some(self.context.at.as_str()), self.own().at.as_ref().map(|at| at.as_str()), tag.map(|tag| tag.as_str())];
        let text: Vec<_> = parts.into_iter().flatten().filter(|part| !part.is_empty()).collect();
        let place = tag.or(self.own().at.as_ref()).map_or(self.subscription.place, |said| said.place);
        let path = Spanned { value: text.join("/"), place };
        if path.split('/').any(str::is_empty) && !path.is_empty() {
            problems.error(place, format!("the tag path `{}` has an empty level", path.value));
        }
        self.template(&path, filter, false, problems)
    }

    fn document(&self, filter: &Filter, problems: &mut Problems) -> Option<Document> {
        let is_json = self.payload() == PayloadConfig::Json;
        let key = match &self.own().key {
            None => None,
            Some(key) => Some(self.template(key, filter, is_json, problems)?),
        };
        let pointers: Vec<_> = key
            .iter()
            .flat_map(Template::variables)
            .filter_map(|variable| match variable {
                Variable::Pointer(pointer) => Pointer::parse(pointer).ok(),
                _ => None,
            })
            .collect();
        let check = match self.payload() {
            PayloadConfig::Json => {
                Check::Json(Extraction::new(pointers.iter().map(|pointer| (pointer, Some(Structure::Json))), self.clock(problems)?, None))
            }
            PayloadConfig::Text => Check::Text,
            _ => Check::Nothing,
        };
        Some(Document { check, key, key_in_payload: !pointers.is_empty() })
    }

    /// The outer `None`: there is one, and it is wrong.
    #[allow(clippy::option_option)]
    fn clock(&self, problems: &mut Problems) -> Option<Option<(Pointer, Clock)>> {
        let Some(time) = &self.own().time else { return Some(None) };
        let pointer = self.pointer(&time.at, problems);
        let clock = Clock::compile(time, problems);
        Some(Some((pointer?, clock?)))
    }

    fn pointer(&self, text: &Spanned<String>, problems: &mut Problems) -> Option<Pointer> {
        match Pointer::parse(text) {
            Ok(pointer) => Some(pointer),
            Err(error) => {
                problems.error(text.place, error);
                None
            }
        }
    }

    fn samples(
        &self,
        samples: &Spanned<SamplesConfig>,
        filter: &Filter,
        topic: &Template<Variable>,
        problems: &mut Problems,
    ) -> Option<Samples> {
        if samples.is_empty() {
            problems.error(samples.place, "`samples` is empty").help("name a tag and its JSON pointer: `speed: /v/kmh`");
        }
        let outer = self.subscription.options.over(&self.context.options);
        let items: Vec<_> = samples
            .iter()
            .filter_map(|(name, sample)| {
                if name.split('/').any(str::is_empty) && !name.is_empty() {
                    problems.error(sample.place, format!("the name `{name}` has an empty level"));
                }
                let topic = match &sample.options.topic {
                    None => topic.clone(),
                    Some(topic) => self.kafka_topic(&Spanned { value: topic.clone(), place: sample.place }, filter, problems)?,
                };
                let pointer = self.pointer(&sample.own.at, problems)?;
                Some(Sample { name: name.as_str().into(), pointer, topic, options: Arc::new(sample.options.over(&outer)) })
            })
            .collect();
        let status = match &self.own().status {
            None => None,
            Some(status) => Some(self.pointer(status, problems)?),
        };
        let wanted = items.iter().map(|item: &Sample| (&item.pointer, item.options.structure));
        let extraction = Extraction::new(wanted, self.clock(problems)?, status);
        Some(Samples { at: self.path(None, filter, problems)?, items, extraction, missing: self.own().missing })
    }

    fn single(&self, kind: Scalar, filter: &Filter, problems: &mut Problems) -> Option<Single> {
        let Some(tag) = &self.own().tag else {
            problems.error(self.subscription.place, format!("no `tag` for the values of `{filter}`")).help(if filter.wildcards() > 0 {
                "add `tag: \"{1}\"`, or `tag: \"{topic}\"`"
            } else {
                "add `tag: NAME`"
            });
            return None;
        };
        let path = self.path(Some(tag), filter, problems)?;
        Some(Single { kind, path, options: Arc::new(self.subscription.options.over(&self.context.options)) })
    }

    fn sparkplug(&self, id: RouteId, filter: &Filter, problems: &mut Problems) -> Option<sparkplug::Route> {
        if filter.literal(0) != Some("spBv1.0") {
            problems
                .error(self.own().filter.place, format!("`{filter}` does not begin with `spBv1.0/`, as Sparkplug's topics do"))
                .help("for all groups: `spBv1.0/#`");
        }
        let topic = self.topic(problems)?;
        if let Err(error) = check_kafka_topic(&topic) {
            problems.error(topic.place, error).help("the topic of Sparkplug metrics has no variables");
        }
        let mut template = |text: &str, place: Place| match Template::parse(text, sparkplug::Variable::parse) {
            Ok(template) => Some(template),
            Err(error) => {
                problems.error(place, error);
                None
            }
        };
        let own = self.own();
        let place = |said: &Option<Spanned<String>>| said.as_ref().map_or(self.subscription.place, |said| said.place);
        let parts = [self.context.at.as_str(), own.at.as_ref().map_or("{group}/{node}/{device}", |at| at.as_str())];
        let at: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        let at = template(&at.join("/"), place(&own.at));
        let tag = template(own.tag.as_ref().map_or("{metric}", |tag| tag.as_str()), place(&own.tag));
        let options = self.subscription.options.over(&self.context.options);
        Some(sparkplug::Route { id, filter: filter.clone(), topic: topic.value.into(), at: at?, tag: tag?, options })
    }

    /// Tags that are known before the first message: those whose paths have no variables. Two of one path are an error.
    fn known_tags(&self, route: &Route, tags: &mut Vec<TagDef>, problems: &mut Problems) {
        let mut add = |path: String, address: String, topic: &Template<Variable>, options: &Arc<TagOptions>, place: Place| {
            if let Some(earlier) = tags.iter().find(|tag| tag.path == path) {
                problems
                    .error(place, format!("two tags have the path `{path}`: {address} and {}", earlier.address))
                    .help("change `at` or the name");
            } else if let Some(topic) = topic.constant() {
                tags.push(TagDef { path, address, kind: None, topic: topic.into(), part: Arc::from(""), options: options.clone() });
            }
        };
        let constant = |template: &Template<Variable>| template.constant().map(str::to_owned);
        match &route.decode {
            Decode::Value(single) if route.filter.wildcards() == 0 => {
                let path = render_fixed(&single.path, route.filter.as_str());
                add(path, route.filter.to_string(), &route.topic, &single.options, self.subscription.place);
            }
            Decode::Samples(samples) if route.filter.wildcards() == 0 => {
                let at = render_fixed(&samples.at, route.filter.as_str());
                for item in samples.items.iter().filter(|item| !item.name.is_empty()) {
                    let path = if at.is_empty() { item.name.to_string() } else { format!("{at}/{}", item.name) };
                    let address = format!("{}#{}", route.filter, item.pointer.as_str());
                    add(path, address, &item.topic, &item.options, self.subscription.place);
                }
            }
            // Every topic would come to this one path.
            Decode::Value(single) => {
                if let Some(path) = constant(&single.path) {
                    problems
                        .error(self.subscription.place, format!("every topic of `{}` would be the tag `{path}`", route.filter))
                        .help("put `{1}` or `{topic}` into `tag` or `at`");
                }
            }
            Decode::Samples(samples) => {
                if let Some(path) = constant(&samples.at) {
                    problems
                        .error(
                            self.subscription.place,
                            format!("the samples of every topic of `{}` would be the same tags, in `{path}`", route.filter),
                        )
                        .help("put `{1}` or `{topic}` into `at`");
                }
            }
            Decode::Document(_) | Decode::Sparkplug => {}
        }
    }
}

/// A path of a filter without wildcards: its topic is the filter.
fn render_fixed(template: &Template<Variable>, topic: &str) -> String {
    let mut out = Vec::new();
    template
        .render(&mut out, |_, out| {
            out.extend_from_slice(topic.as_bytes());
            Ok::<_, Infallible>(())
        })
        .unwrap_or_else(|never| match never {});
    String::from_utf8_lossy(&out).into_owned()
}

/// The subscription identifier of a filter: FNV-1a, so that a kept session's queued messages carry the same one in the next run.
fn subscription_id(filter: &str) -> u32 {
    let hash = filter.bytes().fold(0x811C_9DC5_u32, |hash, byte| (hash ^ byte as u32).wrapping_mul(0x0100_0193));
    hash % 268_435_455 + 1
}
