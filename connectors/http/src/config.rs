//! The keys of an HTTP source in the YAML, checked and compiled without I/O.

use crate::access::Access;
use crate::path::Path;
use crate::signature::{Signature, SignatureConfig};
use crate::split::Format;
use hyper::header::HeaderName;
use millrace_config::{ByteSize, Listen, Period, Place, Problems, Secret, Spanned};
use millrace_contract::{Context, Model, Route as ModelRoute, Tagged};
use millrace_kit::AllowedTopics;
use millrace_kit::groups::Beside;
use millrace_kit::records::{Compile, Making, RecordKeys};
use millrace_schemas::RouteId;
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A token of fewer characters can be guessed.
const SHORTEST_TOKEN: usize = 16;

/// Machines, apps and other systems that post what they have to say.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpConfig {
    /// Where it listens: `127.0.0.1:8090`. Anywhere but on loopback it wants `tls`, and `tokens`, `hmac` or `tls.client_ca`.
    pub listen: Spanned<Listen>,
    /// Its certificate, and whose it asks for.
    #[serde(default)]
    pub tls: Option<ListenTls>,
    /// Who may post: a name and a token for each, shown as `Authorization: Bearer TOKEN` or as the password of basic authentication.
    #[serde(default)]
    pub tokens: BTreeMap<String, Secret>,
    /// Posts may be signed instead.
    #[serde(default)]
    pub hmac: Option<Spanned<SignatureConfig>>,
    /// What is posted, and what becomes of it.
    #[serde(default)]
    pub routes: Vec<Spanned<Tagged<Beside<RecordKeys, RouteConfig>>>>,
    /// Confluent's produce interface, for clients of the REST Proxy (v2 and v3).
    #[serde(default)]
    pub rest_proxy: Option<Spanned<RestProxyConfig>>,
    /// Patterns of the Kafka topics that paths may choose (`topic: "{kind}"`); left out: any but Kafka's and Millrace's own.
    #[serde(default)]
    pub allow_topics: Option<Vec<Spanned<String>>>,
    /// Origins that may register for CloudEvents' webhooks (`OPTIONS` with `WebHook-Request-Origin`); `"*"`: any.
    #[serde(default)]
    pub webhook_origins: Vec<String>,
    /// A post is known by this header, and by `source` and `id` of a CloudEvent: posted again, it is answered again and leaves no second record.
    #[serde(default)]
    pub repeats: RepeatsConfig,
    /// A larger body is refused, with status 413. Also after it was decompressed.
    #[serde(default = "defaults::max_body")]
    pub max_body: Spanned<ByteSize>,
    /// The bodies of all posts that wait for their answers; beyond it they are answered with status 429.
    #[serde(default = "defaults::max_waiting")]
    pub max_waiting: Spanned<ByteSize>,
    /// Connections served at a time; the next ones wait.
    #[serde(default = "defaults::connections")]
    pub connections: Spanned<u32>,
    /// How long a body may take to come.
    #[serde(default = "defaults::body_within")]
    pub body_within: Period,
    /// How long a post may wait for the log; then it is answered with status 503. It may be in the log all the same.
    #[serde(default = "defaults::answer_within")]
    pub answer_within: Period,
    /// How long a connection may be idle, or take to send a request's head.
    #[serde(default = "defaults::idle")]
    pub idle: Period,
    /// Least time between two syncs of the log while senders wait. Shorter: more posts a second from senders that wait for each answer, and more wear
    /// of a flash disk. `0ms`: the next as soon as the last has ended.
    #[serde(default = "defaults::sync_apart")]
    pub sync_apart: Period,
    /// How many tags may be discovered.
    #[serde(default = "defaults::max_tags")]
    pub max_tags: u32,
}

mod defaults {
    use super::*;

    pub fn max_body() -> Spanned<ByteSize> {
        ByteSize(4 << 20).into()
    }
    pub fn max_waiting() -> Spanned<ByteSize> {
        ByteSize(64 << 20).into()
    }
    pub fn connections() -> Spanned<u32> {
        1_000.into()
    }
    pub fn body_within() -> Period {
        Period::from_secs(10)
    }
    pub fn answer_within() -> Period {
        Period::from_secs(10)
    }
    pub fn idle() -> Period {
        Period::from_secs(60)
    }
    pub fn sync_apart() -> Period {
        Period::from_millis(5)
    }
    pub fn max_tags() -> u32 {
        1_000_000
    }
}

/// The certificate that a listener shows, and whose certificates it asks for.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListenTls {
    /// PEM file: the certificate, and those it was signed with.
    pub certificate: PathBuf,
    /// PEM file: the certificate's key.
    pub key: PathBuf,
    /// PEM file: only senders whose certificate this authority signed may connect. It is a login by itself; with `tokens` or `hmac` both are asked
    /// for.
    #[serde(default)]
    pub client_ca: Option<PathBuf>,
}

/// A path, and what becomes of what is posted there. Tag options may stand beside these keys.
#[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteConfig {
    /// The path: `/machines/{machine}/state`. What a level in braces matches is known by its name in `at`, `tag`, `key` and `topic`.
    pub post: Spanned<String>,
    /// How the records are written.
    #[serde(default)]
    pub format: Format,
    /// A list in JSON is many records (default), or one as it is.
    #[serde(default)]
    pub lists: Lists,
    /// Headers of the post that become headers of its documents.
    #[serde(default)]
    pub headers: Vec<Spanned<String>>,
}

/// What a list in JSON is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Lists {
    /// Many records.
    #[default]
    Split,
    /// One.
    Whole,
}

/// Confluent's produce interface.
#[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RestProxyConfig {
    /// Patterns of the topics that may be written: `["orders", "machine-*"]`.
    pub topics: Vec<Spanned<String>>,
}

/// How repeats are known.
#[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RepeatsConfig {
    /// The header that names a post.
    pub header: Spanned<String>,
    /// How long a post is remembered. Not beyond a restart.
    pub within: Period,
    /// How many are remembered; beyond it the oldest are forgotten.
    pub most: u32,
}

impl Default for RepeatsConfig {
    fn default() -> Self {
        Self { header: Spanned::from("Idempotency-Key".to_owned()), within: Period::from_secs(3600), most: 100_000 }
    }
}

/// An HTTP source that knows all it will do.
#[derive(Debug)]
pub struct Settings {
    pub listen: SocketAddr,
    pub tls: Option<ListenTls>,
    pub access: Access,
    pub signature: Option<Signature>,
    pub routes: Vec<Route>,
    /// Its route in the model, and which topics may be written.
    pub rest_proxy: Option<(RouteId, AllowedTopics)>,
    pub webhook_origins: Vec<String>,
    pub repeats_header: HeaderName,
    pub repeats_within: Duration,
    pub repeats_most: usize,
    pub max_body: usize,
    pub max_waiting: u64,
    pub connections: usize,
    pub body_within: Duration,
    pub answer_within: Duration,
    pub idle: Duration,
    pub sync_apart: Duration,
    pub max_tags: usize,
    pub model: Model,
}

/// One route, compiled.
#[derive(Debug)]
pub struct Route {
    pub path: Path,
    pub making: Making,
    pub format: Format,
    pub takes_lists: bool,
    pub headers: Vec<HeaderName>,
    /// The topic as written, for people.
    pub topic: String,
}

impl HttpConfig {
    pub fn compile(&self, context: &Context, problems: &mut Problems) -> Option<Settings> {
        let mark = problems.mark();
        let listen = self.listen.0;
        let asks_for_certificates = self.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        let has_login = !self.tokens.is_empty() || self.hmac.is_some() || asks_for_certificates;
        if !listen.ip().is_loopback() && (self.tls.is_none() || !has_login) {
            problems
                .error(self.listen.place, format!("whoever reaches {listen} could post here"))
                .help("give it `tls: {certificate: .., key: ..}` and `tokens: {name: \"${file:..}\"}`, or let it listen on 127.0.0.1");
        }
        for (name, token) in &self.tokens {
            // What is not read now is a reference.
            if token.expose().len() < SHORTEST_TOKEN && !token.expose().starts_with("${") {
                problems
                    .error(self.listen.place, format!("the token `{name}` is shorter than {SHORTEST_TOKEN} characters"))
                    .help("make one with `openssl rand -hex 32`");
            }
        }
        self.check_bounds(problems);
        let signature = self.hmac.as_ref().and_then(|config| Signature::compile(config, problems));
        let allowed = Arc::new(AllowedTopics::compile(self.allow_topics.as_ref(), problems));
        let mut model = Model::default();
        let mut routes = Vec::new();
        for route in &self.routes {
            routes.extend(compile_route(route, RouteId(model.routes.len() as u32), &allowed, context, &mut model, problems));
        }
        for (index, route) in routes.iter().enumerate() {
            if let Some(other) = routes[..index].iter().find(|other| other.path.overlaps(&route.path)) {
                problems.error(
                    self.routes[index].place,
                    format!("`{}` and `{}` match the same paths", other.path.as_str(), route.path.as_str()),
                );
            }
        }
        let rest_proxy = self.rest_proxy.as_ref().map(|proxy| {
            if proxy.topics.is_empty() {
                problems
                    .error(proxy.place, "`topics` is empty: nothing could be written")
                    .help("name them, as in `topics: [orders, \"machine-*\"]`");
            }
            let route = RouteId(model.routes.len() as u32);
            model.routes.push(ModelRoute { topic: "{topic}".into(), name: "rest proxy".into(), samples: false });
            (route, AllowedTopics::compile(Some(&proxy.topics), problems))
        });
        if self.routes.is_empty() && rest_proxy.is_none() {
            problems.error(context.place, "`routes` is empty: nothing could be posted").help("add `- {post: /orders, topic: orders}`");
        }
        let repeats_header = header(&self.repeats.header, problems);
        if problems.has_errors_since(mark) {
            return None;
        }
        Some(Settings {
            listen,
            tls: self.tls.clone(),
            access: Access::new(&self.tokens, signature.is_some(), asks_for_certificates),
            signature,
            routes,
            rest_proxy,
            webhook_origins: self.webhook_origins.clone(),
            repeats_header: repeats_header?,
            repeats_within: self.repeats.within.0,
            repeats_most: self.repeats.most as usize,
            max_body: self.max_body.0 as usize,
            max_waiting: self.max_waiting.0,
            connections: self.connections.value as usize,
            body_within: self.body_within.0,
            answer_within: self.answer_within.0,
            idle: self.idle.0,
            sync_apart: self.sync_apart.0,
            max_tags: self.max_tags as usize,
            model,
        })
    }

    fn check_bounds(&self, problems: &mut Problems) {
        if !(1 << 10..=256 << 20).contains(&self.max_body.0) {
            problems.error(self.max_body.place, "`max_body` is from 1KiB to 256MiB");
        }
        if self.max_waiting.0 < 2 * self.max_body.0 || self.max_waiting.0 > 1 << 31 {
            problems.error(self.max_waiting.place, "`max_waiting` is from twice `max_body` to 2GiB");
        }
        if !(1..=100_000).contains(&self.connections.value) {
            problems.error(self.connections.place, "`connections` is from 1 to 100000");
        }
    }
}

fn header(name: &Spanned<String>, problems: &mut Problems) -> Option<HeaderName> {
    let read = HeaderName::from_bytes(name.as_bytes());
    read.map_err(|_| problems.error(name.place, format!("`{}` is no name of a header", name.value))).ok()
}

/// Whether a document's header of this name says something that no sender may say.
pub fn is_ours(name: &str) -> bool {
    ["millrace.", "__", "http."].iter().any(|with| name.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with)))
}

fn compile_route(
    route: &Spanned<Tagged<Beside<RecordKeys, RouteConfig>>>,
    id: RouteId,
    allowed: &Arc<AllowedTopics>,
    context: &Context,
    model: &mut Model,
    problems: &mut Problems,
) -> Option<Route> {
    let own = &route.own.own;
    let place: Place = route.place;
    let (path, given) = match Path::parse(&own.post) {
        Ok(read) => read,
        Err(error) => {
            problems.error(own.post.place, error);
            return None;
        }
    };
    let what = format!("post {}", path.as_str());
    let compile =
        Compile { keys: &route.own.shared, options: &route.options, place, route: id, what: &what, given: &given, allowed, context };
    let making = compile.run(problems)?;
    let mut headers = Vec::new();
    for name in &own.headers {
        if is_ours(name) {
            problems.error(name.place, format!("`{}` is a header of Millrace's own: no sender may set it", name.value));
        }
        headers.extend(header(name, problems));
    }
    let topic = making.topic_text(&given);
    model.routes.push(ModelRoute { topic: topic.as_str().into(), name: what, samples: making.is_samples() });
    making.known_tags(&mut model.tags, place, problems);
    let takes_lists = making.has_lists() || own.lists == Lists::Whole;
    Some(Route { path, making, format: own.format, takes_lists, headers, topic })
}
