//! What a source will do, made of its YAML without I/O: endpoints, groups, tags, events.
//!
//! A tag's index in [`CompiledSource::polled`] is its client handle: what the server sends back finds its tag without a look-up.

use crate::address::{Address, Prefixes};
use crate::config::{
    BrowseConfig, DeadbandAt, EventsConfig, LoginConfig, OnStop, ReadConfig, ReadMode, SecurityConfig, SourceConfig, TagConfig, Units,
};
use crate::filter::{Condition, EventField};
use crate::pki::Pki;
use crate::security::{Accept, Mode, Policy};
use crate::target::{Identity, Target, is_loopback};
use crate::transport::host_and_port;
use globset::{GlobBuilder, GlobMatcher};
use millrace_config::{Deadband, Place, Problems, Spanned};
use millrace_contract::{Context, Model, Report, Route};
use millrace_kit::groups::{GroupConfig, NoKeys};
use millrace_kit::polled::{self, EVERY_DEFAULT};
use millrace_kit::{Addressed, Polled, Protocol, TagAt, Template};
use opcua::types::NumericRange;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// Everything a source does.
#[derive(Debug)]
pub struct CompiledSource {
    pub name: String,
    /// The path of its tags.
    pub at: String,
    /// One of each endpoint, in the order of preference.
    pub targets: Vec<Target>,
    pub sessions: usize,
    pub keep_alive: Duration,
    pub lifetime: Duration,
    /// Whether sessions are closed at a stop.
    pub closes: bool,
    /// Where connectors keep files, and every source that is in the YAML.
    pub data_dir: PathBuf,
    pub sources: Arc<[String]>,
    /// The tags of all groups, those of a group side by side. What is found by browsing comes behind them.
    pub polled: Polled<Item, Reading, NoKeys>,
    pub events: Vec<Events>,
    pub history: Option<History>,
    pub writes_allowed: bool,
    pub model: Model,
}

/// A group, and a tag.
pub type Group = polled::Group<Reading>;
pub type Tag = polled::Tag<Item>;

/// How a group is read.
#[derive(Clone, Debug)]
pub struct Reading {
    pub mode: ReadMode,
    pub deadband_at: DeadbandAt,
    pub sampling: Duration,
    pub queue: Option<u32>,
    pub browse: Option<Browse>,
}

/// What is asked of the server for a tag.
#[derive(Clone, Debug)]
pub struct Item {
    pub address: Address,
    pub sampling: Duration,
    pub queue: u32,
    pub range: NumericRange,
    /// The object of a method: it is called, not read.
    pub object: Option<Address>,
    /// A command is done when the server shows the value.
    pub read_back: bool,
}

/// Variables to find.
#[derive(Clone, Debug)]
pub struct Browse {
    pub from: Address,
    pub matcher: Option<GlobMatcher>,
    pub name: Template,
    pub units: bool,
    pub depth: usize,
    pub limit: usize,
    pub again: Option<Duration>,
}

/// Reading back what was missed.
#[derive(Clone, Copy, Debug)]
pub struct History {
    pub per_s: f64,
    pub at_most: Duration,
}

/// Events of one notifier.
#[derive(Debug)]
pub struct Events {
    /// The name of its status.
    pub part: Arc<str>,
    pub from: Address,
    pub condition: Condition,
    pub fields: Vec<EventField>,
    pub route: usize,
    pub key: Option<Template>,
}

const SECOND: Duration = Duration::from_secs(1);
const MOST_SESSIONS: u16 = 32;
const MOST_QUEUE: u32 = 1_000_000;

/// A queue for the values of ten seconds, or of two publishing intervals where that is longer.
pub fn queue_of(every: Duration, sampling: Duration) -> u32 {
    let sampling = sampling.max(Duration::from_millis(10));
    let span = (every * 2).max(Duration::from_secs(10));
    ((span.as_secs_f64() / sampling.as_secs_f64()).ceil() as u32).clamp(2, 1_000)
}

/// The server's queue for what is found by browsing.
pub fn queue_of_found(group: &Group) -> u32 {
    group.own.queue.unwrap_or_else(|| queue_of(group.every, group.own.sampling))
}

/// Whether a group's tags come by a subscription.
pub fn is_subscribed(group: &Group) -> bool {
    group.trigger.is_none() && group.own.mode == ReadMode::Subscribe
}

/// Whether a group's tags are polled.
pub fn is_polled(group: &Group) -> bool {
    group.trigger.is_none() && group.own.mode == ReadMode::Poll
}

/// The protocol's part of groups and tags.
struct Nodes<'a> {
    prefixes: &'a Prefixes,
}

impl Protocol for Nodes<'_> {
    type Tag = TagConfig;
    type Group = ReadConfig;
    type Device = NoKeys;
    type Address = Item;
    const EXAMPLE: &'static str = "temperature: \"ns=2;s=Temp\"";

    fn address(&self, at: &TagAt<'_, Self>, problems: &mut Problems) -> Option<Addressed<Item>> {
        let (tag, group) = (&at.tag.own.0, &at.group.own);
        let address = address(&tag.node, self.prefixes, problems)?;
        let range = match tag.range.as_ref().map(|range| (NumericRange::from_str(range), range)) {
            None => NumericRange::None,
            Some((Ok(range), _)) => range,
            Some((Err(_), range)) => {
                problems
                    .error(range.place, format!("`{}` is no part of an array", range.value))
                    .help("write `3`, `0:9`, or of a matrix `1,0:2`");
                return None;
            }
        };
        let object = match &tag.object {
            None => None,
            Some(object) => Some(self::address(object, self.prefixes, problems)?),
        };
        if let Some(place) = tag.object.as_ref().map(|object| object.place) {
            if tag.range.is_some() || tag.sampling.is_some() || tag.queue.is_some() || tag.read_back {
                problems.error(place, "a method is called, not read: it has no `range`, `sampling`, `queue` or `read_back`");
            }
            if group.shared.trigger.is_some() {
                problems.error(place, "a method is no field of a trigger's document").help("put it into a group without `trigger`");
            }
        }
        for queue in [&group.own.queue, &tag.queue].into_iter().flatten().filter(|queue| !(1..=MOST_QUEUE).contains(&queue.value)) {
            problems.error(queue.place, format!("`queue` is from 1 to {MOST_QUEUE}"));
        }
        let every = group.shared.every.as_ref().map_or(EVERY_DEFAULT, |every| every.0);
        let sampling = tag.sampling.as_ref().or(group.own.sampling.as_ref()).map_or(every, |sampling| sampling.0);
        let queue = tag.queue.as_ref().or(group.own.queue.as_ref()).map_or_else(|| queue_of(every, sampling), |queue| queue.value);
        let mut written = tag.node.value.clone();
        if let Some(range) = &tag.range {
            written = format!("{written}[{}]", range.value);
        }
        Some(Addressed {
            address: Item { address, sampling, queue, range, object, read_back: tag.read_back },
            written,
            kind: None,
            shape: None,
        })
    }

    fn may_be_empty(&self, group: &ReadConfig) -> bool {
        group.browse.is_some()
    }
}

fn address(text: &Spanned<String>, prefixes: &Prefixes, problems: &mut Problems) -> Option<Address> {
    match Address::parse(text, prefixes) {
        Ok(address) => Some(address),
        Err(error) => {
            problems.error(text.place, error);
            None
        }
    }
}

impl SourceConfig {
    /// Checks everything that needs no server; `None` when it can't go on.
    pub fn compile(&self, context: &Context, problems: &mut Problems) -> Option<CompiledSource> {
        let prefixes: Prefixes = self.namespaces.iter().map(|(prefix, uri)| (prefix.clone(), Arc::from(uri.as_str()))).collect();
        for (prefix, uri) in &self.namespaces {
            let is_name = prefix.starts_with(|c: char| c.is_ascii_alphabetic()) && !prefix.contains([':', '=', ';', '/']);
            if !is_name || Address::parse(&format!("{prefix}:i=1"), &prefixes).is_err() {
                problems
                    .error(uri.place.key(), format!("`{prefix}` is no prefix: it begins with a letter and has no `:`, `=`, `;` or `/`"));
            }
        }
        let (lifetime, keep_alive) = (self.lifetime.0, self.keep_alive.0);
        if !(SECOND..=SECOND * 3600).contains(&keep_alive) {
            problems.error(self.keep_alive.place, "`keep_alive` is from 1s to 1h");
        }
        if !(SECOND * 10..=SECOND * 86_400).contains(&lifetime) {
            problems.error(self.lifetime.place, "`lifetime` is from 10s to 24h");
        }
        if !(1..=MOST_SESSIONS).contains(&self.sessions.value) {
            problems.error(self.sessions.place, format!("`sessions` is from 1 to {MOST_SESSIONS}"));
        }
        let targets = self.targets(context, keep_alive, lifetime, problems);
        let mark = problems.mark();
        let compiled = polled::compile(&Nodes { prefixes: &prefixes }, &self.groups, &BTreeMap::new(), context, problems);
        let mut making = Making { context, prefixes: &prefixes, routes: compiled.routes.clone() };
        let readings: Vec<Reading> = self.groups.iter().map(|group| making.reading(group, problems)).collect();
        let polled = compiled.with_groups(readings);
        for (group, config) in polled.groups.iter().zip(&self.groups) {
            if let (Some(trigger), Some(place)) = (&group.trigger, config.own.shared.trigger.as_ref().map(|trigger| trigger.tag.place))
                && !is_subscribed(&polled.groups[polled.tags[trigger.tag].group])
            {
                problems
                    .error(place, "a trigger's tag is one of a subscribed group")
                    .help("name a tag of a group without `trigger` and without `mode: poll`");
            }
        }
        if problems.has_errors_since(mark) {
            return None;
        }
        let events: Vec<_> = self.events.iter().enumerate().filter_map(|(index, events)| making.events(index, events, problems)).collect();
        if self.groups.is_empty() && self.events.is_empty() {
            problems
                .error(context.place, "`groups` is empty: nothing would be read")
                .help("add `groups: [{every: 1s, tags: {temperature: \"ns=2;s=Temp\"}}]`");
        }
        let history = self.history.as_ref().map(|history| History { per_s: history.rate.0, at_most: history.at_most.0 });
        let model = Model { tags: polled.model().tags, routes: making.routes };
        let sessions = usize::from(self.sessions.value).max(1);
        let writes_allowed = context.writes_allowed;
        Some(CompiledSource {
            name: context.name.clone(),
            at: context.at.clone(),
            targets: targets?,
            sessions,
            keep_alive,
            lifetime,
            closes: self.on_stop == OnStop::Close,
            data_dir: context.data_dir.clone(),
            sources: context.sources.clone(),
            polled,
            events,
            history,
            writes_allowed,
            model,
        })
    }

    fn targets(
        &self,
        context: &Context,
        answer_within: Duration,
        session_timeout: Duration,
        problems: &mut Problems,
    ) -> Option<Vec<Target>> {
        let endpoints = &self.endpoint.0;
        if endpoints.is_empty() {
            problems.error(self.endpoint.place, "`endpoint` is empty").help("write `opc.tcp://host:4840`");
            return None;
        }
        let (policy, mode, accept) = self.security(problems);
        let identity = self.login.as_ref().map_or(Identity::Anonymous, |login| identity(login, problems));
        let pki = Pki::new(context.data_dir.join("pki"));
        let mut targets = Vec::new();
        for url in endpoints {
            let Some((host, _)) = host_and_port(url) else {
                let help = if url.contains("://") { "write `opc.tcp://host:4840`" } else { "write `opc.tcp://` in front of it" };
                problems.error(url.place, format!("`{}` is no OPC UA endpoint", url.value)).help(help);
                continue;
            };
            if policy == Policy::None && !is_loopback(host) {
                let (what, help) = match identity {
                    Identity::User(..) => (
                        "whoever is on the way may read and change the values, and read the password, unless the server asks for it encrypted",
                        "add `security: {policy: Basic256Sha256, mode: SignAndEncrypt}`, and change the password",
                    ),
                    _ => (
                        "whoever is on the way may read and change the values",
                        "add `security: {policy: Basic256Sha256, mode: SignAndEncrypt}`",
                    ),
                };
                problems.warn(url.place, format!("{} is not secured: {what}", url.value)).help(help);
            }
            targets.push(Target {
                url: url.value.clone(),
                policy,
                mode,
                accept: accept.clone(),
                identity: identity.clone(),
                pki: pki.clone(),
                name: format!("millrace {}/{}", context.site, context.name),
                answer_within,
                session_timeout,
            });
        }
        Some(targets).filter(|targets| !targets.is_empty())
    }

    fn security(&self, problems: &mut Problems) -> (Policy, Mode, Arc<[Accept]>) {
        let Some(security) = &self.security else { return (Policy::None, Mode::None, [].into()) };
        let SecurityConfig { policy, mode, accept } = &security.value;
        if *policy == Policy::None && !accept.is_empty() {
            problems.error(security.place, "`accept` has no use here: without a policy no certificate is looked at");
        }
        for accept in accept {
            problems
                .warn(security.place, format!("`{}` is accepted: {}", accept.name(), accept.risk()))
                .help("give the server a new certificate, then take it out of `accept`");
        }
        let accept: Arc<[Accept]> = accept.as_slice().into();
        match (policy, mode) {
            (Policy::None, None | Some(Mode::None)) => (Policy::None, Mode::None, accept),
            (Policy::None, Some(_)) => {
                problems.error(security.place, "without a policy nothing can be signed").help("add `policy: Basic256Sha256`");
                (Policy::None, Mode::None, accept)
            }
            (policy, Some(Mode::None)) => {
                problems
                    .error(security.place, format!("the policy {policy:?} with mode None secures nothing"))
                    .help("write `mode: SignAndEncrypt`, or `policy: None`");
                (*policy, Mode::SignAndEncrypt, accept)
            }
            (policy, mode) => (*policy, mode.unwrap_or(Mode::SignAndEncrypt), accept),
        }
    }
}

fn identity(login: &Spanned<LoginConfig>, problems: &mut Problems) -> Identity {
    match &login.value {
        LoginConfig { user: Some(user), password, certificate: None, key: None } => {
            Identity::User(user.clone(), password.clone().unwrap_or_else(|| millrace_config::Secret::new("")))
        }
        LoginConfig { user: None, password: None, certificate: Some(certificate), key: Some(key) } => {
            Identity::Certificate(certificate.clone(), key.clone())
        }
        _ => {
            problems.error(login.place, "a login is a `user` with a `password`, or a `certificate` with its `key`");
            Identity::Anonymous
        }
    }
}

/// The state of a compile.
struct Making<'a> {
    context: &'a Context,
    prefixes: &'a Prefixes,
    routes: Vec<Route>,
}

impl Making<'_> {
    /// How a group is read.
    fn reading(&self, group: &Spanned<GroupConfig<TagConfig, ReadConfig>>, problems: &mut Problems) -> Reading {
        let (shared, own) = (&group.own.shared, &group.own.own);
        let mut refuse = |place: Option<Place>, key: &str, why: &str| {
            if let Some(place) = place {
                problems.error(place, format!("`{key}` has no use here: {why}"));
            }
        };
        if own.mode == ReadMode::Poll {
            refuse(own.sampling.as_ref().map(|s| s.place), "sampling", "a polled group has no sampling interval");
            refuse(own.queue.as_ref().map(|s| s.place), "queue", "a polled group has no queue");
        } else {
            refuse(shared.align.as_ref().map(|a| a.place), "align", "only polls can be aligned; add `mode: poll`");
        }
        if shared.trigger.is_some() {
            refuse(own.browse.as_ref().map(|b| b.place), "browse", "the tags of a trigger are named");
        }
        let every = shared.every.as_ref().map_or(EVERY_DEFAULT, |every| every.0);
        Reading {
            mode: own.mode,
            deadband_at: own.deadband_at,
            sampling: own.sampling.as_ref().map_or(every, |sampling| sampling.0),
            queue: own.queue.as_ref().map(|queue| queue.value),
            browse: own.browse.as_ref().and_then(|browse| self.browse(browse, problems)),
        }
    }

    fn browse(&self, browse: &Spanned<BrowseConfig>, problems: &mut Problems) -> Option<Browse> {
        let objects = Spanned { value: "Objects".to_owned(), place: browse.place };
        let from = address(browse.from.as_ref().unwrap_or(&objects), self.prefixes, problems);
        let matcher = match &browse.pattern {
            None => None,
            Some(pattern) => match GlobBuilder::new(pattern).literal_separator(true).build() {
                Ok(glob) => Some(glob.compile_matcher()),
                Err(error) => {
                    problems.error(pattern.place, format!("`{}` is no pattern: {error}", pattern.value)).help("write `**/Motor*/*`");
                    return None;
                }
            },
        };
        let name = browse.name.clone().unwrap_or_else(|| Spanned { value: "{path}".into(), place: browse.place });
        let known = |name: &str| match name {
            "path" | "name" | "display" => Ok(()),
            _ => Err("known are path, name and display".into()),
        };
        let name = Template::parse(&name, name.place, problems, known);
        if !(1..=100).contains(&browse.depth.value) {
            problems.error(browse.depth.place, "`depth` is from 1 to 100");
        }
        if !(1..=1_000_000).contains(&browse.limit.value) {
            problems.error(browse.limit.place, "`limit` is from 1 to 1000000");
        }
        Some(Browse {
            from: from?,
            matcher,
            name: name?,
            units: browse.units == Some(Units::Server),
            depth: browse.depth.value as usize,
            limit: browse.limit.value as usize,
            again: Some(browse.again.0).filter(|again| !again.is_zero()),
        })
    }

    fn route(&mut self, topic: &str, place: Place, name: String, problems: &mut Problems) -> usize {
        let topic = match millrace_config::name::topic(topic) {
            Ok(topic) => topic,
            Err(error) => {
                problems.error(place, error);
                String::new()
            }
        };
        self.routes.push(Route { topic: topic.into(), name, samples: false });
        self.routes.len() - 1
    }

    fn events(&mut self, index: usize, events: &Spanned<EventsConfig>, problems: &mut Problems) -> Option<Events> {
        let server = Spanned { value: "Server".to_owned(), place: events.place };
        let from = address(events.from.as_ref().unwrap_or(&server), self.prefixes, problems);
        let condition = match &events.condition {
            None => Some(Condition::default()),
            Some(text) => match Condition::parse(text, self.prefixes) {
                Ok(condition) => Some(condition),
                Err(error) => {
                    problems.error(text.place, error);
                    None
                }
            },
        };
        let mut fields = Vec::new();
        for field in &events.fields {
            match crate::address::steps(field, self.prefixes) {
                Ok(path) => fields.push(EventField { name: field.as_str().into(), path }),
                Err(error) => {
                    problems.error(field.place, error);
                }
            }
        }
        if events.fields.is_empty() {
            problems
                .error(events.place, "`fields` is empty: the document would be, too")
                .help("write `fields: [Time, SourceName, Message, Severity]`");
        }
        let topic = match (&events.topic, &self.context.topic) {
            (Some(topic), _) => topic.clone(),
            (None, Some(topic)) => Spanned { value: topic.to_string(), place: events.place },
            (None, None) => {
                problems.error(events.place, "no topic for these events").help("add `topic: press-events`");
                return None;
            }
        };
        let names: Vec<Arc<str>> = fields.iter().map(|field| field.name.clone()).collect();
        let key = events.key.as_ref().and_then(|key| template(key, &names, problems));
        let name = format!("events of {}", events.from.as_ref().map_or("Server", |from| from.as_str()));
        let part = format!("events {}", index + 1).into();
        let route = self.route(&topic, topic.place, name, problems);
        Some(Events { part, from: from?, condition: condition?, fields, route, key })
    }
}

fn template(key: &Spanned<String>, names: &[Arc<str>], problems: &mut Problems) -> Option<Template> {
    let known = |name: &str| match names.iter().any(|known| **known == *name) {
        true => Ok(()),
        false => Err(format!("there are {}", names.iter().map(|name| &**name).collect::<Vec<_>>().join(", ")).into()),
    };
    Template::parse(key, key.place, problems, known)
}

/// The absolute deadband in what the server counts in: before `scale`.
pub fn raw_deadband(tag: &Tag) -> Option<f64> {
    let options = &tag.def.options;
    let Some(Deadband::Absolute(deadband)) = options.deadband else { return None };
    let factor = options.scaling().map_or(1.0, |(factor, _)| factor);
    Some(deadband / factor.abs()).filter(|deadband| deadband.is_finite() && *deadband > 0.0)
}

/// Whether every reading counts, not only changed ones.
pub fn wants_all(tag: &Tag) -> bool {
    tag.def.options.report == Some(Report::All)
}

impl CompiledSource {
    /// Whether a tag, by its index, is called and not read.
    pub fn is_method(&self, index: Option<usize>) -> bool {
        index.is_some_and(|index| self.polled.tags[index].address.object.is_some())
    }

    /// How many values per second can come at most, where nothing is discovered.
    pub fn rate(&self) -> Option<f64> {
        if self.polled.groups.iter().any(|group| group.own.browse.is_some()) {
            return None;
        }
        let of = |tag: &Tag| match &self.polled.groups[tag.group] {
            _ if tag.address.object.is_some() => 0.0,
            group if is_subscribed(group) => 1.0 / tag.address.sampling.max(Duration::from_millis(10)).as_secs_f64(),
            group if is_polled(group) => 1.0 / group.every.as_secs_f64(),
            _ => 0.0,
        };
        Some(self.polled.tags.iter().map(of).sum())
    }
}
