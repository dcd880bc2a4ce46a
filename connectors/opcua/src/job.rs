//! What a source will do, made of its YAML without I/O: endpoints, groups, tags, events.
//!
//! A tag's index in [`Job::tags`] is its client handle: what the server sends back finds its tag without a look-up.

use crate::address::{Address, Prefixes};
use crate::config::{
    Align, BrowseConfig, DeadbandAt, Edge, EventsConfig, GroupConfig, LoginConfig, ReadMode, SecurityConfig, SourceConfig, TagConfig, Units,
};
use crate::connect::{Identity, Mode, Policy, Target, host_and_port};
use crate::filter::Condition;
use crate::pki::Pki;
use globset::{GlobBuilder, GlobMatcher};
use millrace_config::{Deadband, Period, Place, Problems, Short, Spanned};
use millrace_contract::{Context, Model, Report, Route, TagDef, TagOptions, Tagged};
use millrace_kit::Template;
use opcua::types::NumericRange;
use std::collections::{BTreeMap, HashMap};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// Everything a source does.
#[derive(Debug)]
pub struct Job {
    pub name: String,
    /// The path of its tags.
    pub at: String,
    /// One of each endpoint, in the order of preference.
    pub targets: Vec<Target>,
    pub sessions: usize,
    pub keep_alive: Duration,
    pub lifetime: Duration,
    pub groups: Vec<Group>,
    /// The tags of all groups, those of a group side by side. What is found by browsing comes behind them.
    pub tags: Vec<Tag>,
    pub events: Vec<Events>,
    pub history: Option<History>,
    pub writes_allowed: bool,
    pub model: Model,
}

/// Tags that are read in one way.
#[derive(Debug)]
pub struct Group {
    pub every: Duration,
    pub align: bool,
    pub how: How,
    pub deadband_at: DeadbandAt,
    pub sampling: Duration,
    pub queue: Option<u32>,
    pub tags: std::ops::Range<usize>,
    pub browse: Option<Browse>,
    /// Whose keep-alive vouches for its tags.
    pub part: Arc<str>,
    pub topic: Arc<str>,
    pub options: TagOptions,
}

/// How a group is read.
#[derive(Debug)]
pub enum How {
    Subscribe,
    Poll,
    Trigger(Trigger),
}

/// One document per event.
#[derive(Debug)]
pub struct Trigger {
    /// The index of the tag that triggers.
    pub tag: usize,
    pub edge: Edge,
    /// The index of the tag that acknowledges.
    pub ack: Option<usize>,
    /// The index of its route.
    pub route: usize,
    pub key: Option<Template>,
}

/// One value to read.
#[derive(Clone, Debug)]
pub struct Tag {
    pub address: Address,
    pub group: usize,
    pub sampling: Duration,
    pub queue: u32,
    pub range: NumericRange,
    /// For a document: the name without the path.
    pub name: Arc<str>,
    pub def: TagDef,
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

/// A field of an event's document.
#[derive(Clone, Debug)]
pub struct EventField {
    pub name: Arc<str>,
    pub path: Vec<crate::address::Step>,
}

const SECOND: Duration = Duration::from_secs(1);
const MOST_SESSIONS: u16 = 32;
const MOST_QUEUE: u32 = 1_000_000;

/// A queue for the values of ten seconds, or of two publishing intervals where that is longer.
fn queue_of(every: Duration, sampling: Duration) -> u32 {
    let sampling = sampling.max(Duration::from_millis(10));
    let span = (every * 2).max(Duration::from_secs(10));
    ((span.as_secs_f64() / sampling.as_secs_f64()).ceil() as u32).clamp(2, 1_000)
}

impl Group {
    /// The server's queue for what is found by browsing.
    pub fn queue_of_found(&self) -> u32 {
        self.queue.unwrap_or_else(|| queue_of(self.every, self.sampling))
    }
}

impl SourceConfig {
    /// Checks everything that needs no server; `None` when it can't go on.
    pub fn compile(&self, context: &Context, problems: &mut Problems) -> Option<Job> {
        let prefixes: Prefixes = self.namespaces.iter().map(|(prefix, uri)| (prefix.clone(), Arc::from(uri.as_str()))).collect();
        for (prefix, uri) in &self.namespaces {
            let is_name = prefix.starts_with(|c: char| c.is_ascii_alphabetic()) && !prefix.contains([':', '=', ';', '/']);
            if !is_name || Address::parse(&format!("{prefix}:i=1"), &prefixes).is_err() {
                problems
                    .error(uri.place.key(), format!("`{prefix}` is no prefix: it begins with a letter and has no `:`, `=`, `;` or `/`"));
            }
        }
        let lifetime = self.lifetime.as_ref().map_or(Duration::from_secs(3600), |lifetime| lifetime.0);
        let keep_alive = self.keep_alive.as_ref().map_or(Duration::from_secs(10), |period| period.0);
        if let Some(place) = self.keep_alive.as_ref().filter(|p| p.0 < SECOND || p.0 > SECOND * 3600).map(|p| p.place) {
            problems.error(place, "`keep_alive` is from 1s to 1h");
        }
        if let Some(place) = self.lifetime.as_ref().filter(|p| p.0 < SECOND * 10 || p.0 > SECOND * 86_400).map(|p| p.place) {
            problems.error(place, "`lifetime` is from 10s to 24h");
        }
        if let Some(sessions) = self.sessions.as_ref().filter(|s| !(1..=MOST_SESSIONS).contains(&s.value)) {
            problems.error(sessions.place, format!("`sessions` is from 1 to {MOST_SESSIONS}"));
        }
        let targets = self.targets(context, keep_alive, lifetime, problems);
        let mut making = Making { context, prefixes: &prefixes, tags: Vec::new(), by_path: HashMap::new(), model: Model::default() };
        let mut groups = Vec::new();
        for (index, group) in self.groups.iter().enumerate() {
            groups.push(making.group(index, group, problems));
        }
        for (group, config) in groups.iter_mut().zip(&self.groups) {
            making.trigger(group, config, problems);
        }
        for (group, config) in groups.iter().zip(&self.groups) {
            if let (How::Trigger(trigger), Some(place)) = (&group.how, config.own.trigger.as_ref().map(|trigger| trigger.tag.place))
                && !matches!(groups[making.tags[trigger.tag].group].how, How::Subscribe)
            {
                problems
                    .error(place, "a trigger's tag is one of a subscribed group")
                    .help("name a tag of a group without `trigger` and without `mode: poll`");
                return None;
            }
        }
        let events: Vec<_> = self.events.iter().enumerate().filter_map(|(index, events)| making.events(index, events, problems)).collect();
        if self.groups.is_empty() && self.events.is_empty() {
            problems
                .error(context.place, "`groups` is empty: nothing would be read")
                .help("add `groups: [{every: 1s, tags: {temperature: \"ns=2;s=Temp\"}}]`");
        }
        let history = self.history.as_ref().map(|history| History {
            per_s: history.rate.as_ref().map_or(5_000.0, |rate| rate.0),
            at_most: history.at_most.as_ref().map_or(SECOND * 7 * 86_400, |period| period.0),
        });
        let Making { tags, mut model, .. } = making;
        model.tags = tags.iter().filter(|tag| !matches!(groups[tag.group].how, How::Trigger(_))).map(|tag| tag.def.clone()).collect();
        let sessions = self.sessions.as_ref().map_or(1, |sessions| sessions.value as usize).max(1);
        let writes_allowed = context.writes_allowed;
        Some(Job {
            name: context.name.clone(),
            at: context.at.clone(),
            targets: targets?,
            sessions,
            keep_alive,
            lifetime,
            groups,
            tags,
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
        let (policy, mode) = self.security(problems);
        let identity = self.login.as_ref().map_or(Identity::Anonymous, |login| identity(login, problems));
        let pki = Pki::new(context.data_dir.join("pki"));
        let mut targets = Vec::new();
        for url in endpoints {
            let Some((host, _)) = host_and_port(url) else {
                let help = if url.contains("://") { "write `opc.tcp://host:4840`" } else { "write `opc.tcp://` in front of it" };
                problems.error(url.place, format!("`{}` is no OPC UA endpoint", url.value)).help(help);
                continue;
            };
            let is_local = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
            if policy == Policy::None && !is_local {
                let what = if matches!(identity, Identity::User(..)) {
                    "whoever is on the way may read the password and the values"
                } else {
                    "whoever is on the way may read and change the values"
                };
                problems
                    .warn(url.place, format!("{} is not secured: {what}", url.value))
                    .help("add `security: {policy: Basic256Sha256, mode: SignAndEncrypt}`");
            }
            targets.push(Target {
                url: url.value.clone(),
                policy,
                mode,
                identity: identity.clone(),
                pki: pki.clone(),
                name: format!("millrace {}/{}", context.site, context.name),
                answer_within,
                session_timeout,
            });
        }
        Some(targets).filter(|targets| !targets.is_empty())
    }

    fn security(&self, problems: &mut Problems) -> (Policy, Mode) {
        let Some(security) = &self.security else { return (Policy::None, Mode::None) };
        match security.value {
            SecurityConfig { policy: Policy::None, mode: None | Some(Mode::None) } => (Policy::None, Mode::None),
            SecurityConfig { policy: Policy::None, mode: Some(_) } => {
                problems.error(security.place, "without a policy nothing can be signed").help("add `policy: Basic256Sha256`");
                (Policy::None, Mode::None)
            }
            SecurityConfig { policy, mode: Some(Mode::None) } => {
                problems
                    .error(security.place, format!("the policy {policy:?} with mode None secures nothing"))
                    .help("write `mode: SignAndEncrypt`, or `policy: None`");
                (policy, Mode::SignAndEncrypt)
            }
            SecurityConfig { policy, mode } => (policy, mode.unwrap_or(Mode::SignAndEncrypt)),
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
    tags: Vec<Tag>,
    by_path: HashMap<String, Place>,
    model: Model,
}

impl Making<'_> {
    fn group(&mut self, index: usize, group: &Spanned<Tagged<GroupConfig>>, problems: &mut Problems) -> Group {
        let own = &group.own;
        let options = group.options.over(&self.context.options);
        let every = own.every.as_ref().map_or(SECOND, |every| every.0);
        if let Some(place) = own.every.as_ref().filter(|e| e.0.is_zero() || e.0 > SECOND * 86_400).map(|e| e.place) {
            problems.error(place, "`every` is from 1ms to 24h");
        }
        let how = match own.mode {
            ReadMode::Subscribe => How::Subscribe,
            ReadMode::Poll => How::Poll,
        };
        let mut refuse = |place: Option<Place>, key: &str, why: &str| {
            if let Some(place) = place {
                problems.error(place, format!("`{key}` has no use here: {why}"));
            }
        };
        if matches!(how, How::Poll) {
            refuse(own.sampling.as_ref().map(|s| s.place), "sampling", "a polled group has no sampling interval");
            refuse(own.queue.as_ref().map(|s| s.place), "queue", "a polled group has no queue");
        } else if own.align.is_some() {
            refuse(Some(group.place), "align", "only polls can be aligned; add `mode: poll`");
        }
        if own.trigger.is_none() {
            refuse(own.record.as_ref().map(|r| r.place), "record", "it goes with `trigger`");
        } else {
            refuse(own.browse.as_ref().map(|b| b.place), "browse", "the tags of a trigger are named");
        }
        let sampling = own.sampling.as_ref().map_or(every, |sampling| sampling.0);
        let topic = self.topic(group, own, &options, problems);
        let part: Arc<str> = format!("group {}", index + 1).into();
        let first = self.tags.len();
        for (name, tag) in &own.tags {
            self.tag(name, tag, index, own, &options, (every, sampling), &topic, &part, problems);
        }
        let browse = own.browse.as_ref().and_then(|browse| self.browse(browse, problems));
        if own.tags.is_empty() && own.browse.is_none() {
            problems
                .error(group.place, "the group has no `tags`")
                .help("add `tags: {temperature: \"ns=2;s=Temp\"}`, or `browse: {from: Objects}`");
        }
        Group {
            every,
            align: own.align == Some(Align::Clock),
            how,
            deadband_at: own.deadband_at,
            sampling,
            queue: own.queue.as_ref().map(|queue| queue.value),
            tags: first..self.tags.len(),
            browse,
            part,
            topic,
            options,
        }
    }

    fn topic(&self, group: &Spanned<Tagged<GroupConfig>>, own: &GroupConfig, options: &TagOptions, problems: &mut Problems) -> Arc<str> {
        let topic = options.topic.as_deref().map(Arc::from).or_else(|| self.context.topic.clone());
        if topic.is_none() && own.trigger.is_none() && own.tags.values().any(|tag| tag.options.topic.is_none()) {
            problems.error(group.place, "no topic for these tags").help("add `topic: telemetry` to the source");
        }
        topic.unwrap_or_else(|| "".into())
    }

    #[allow(clippy::too_many_arguments)]
    fn tag(
        &mut self,
        name: &str,
        tag: &Spanned<Tagged<Short<TagConfig>>>,
        group: usize,
        config: &GroupConfig,
        outer: &TagOptions,
        (every, group_sampling): (Duration, Duration),
        topic: &Arc<str>,
        part: &Arc<str>,
        problems: &mut Problems,
    ) {
        let own = &tag.own.0;
        let options = tag.options.over(outer);
        let Some(address) = self.address(&own.node, problems) else { return };
        let range = match own.range.as_ref().map(|range| (NumericRange::from_str(range), range)) {
            None => NumericRange::None,
            Some((Ok(range), _)) => range,
            Some((Err(_), range)) => {
                problems
                    .error(range.place, format!("`{}` is no part of an array", range.value))
                    .help("write `3`, `0:9`, or of a matrix `1,0:2`");
                return;
            }
        };
        if name.split('/').any(str::is_empty) {
            problems.error(tag.place, format!("the name `{name}` has an empty level"));
            return;
        }
        let path = if self.context.at.is_empty() { name.to_owned() } else { format!("{}/{name}", self.context.at) };
        if let Some(earlier) = self.by_path.insert(path.clone(), tag.place) {
            problems
                .error(tag.place, format!("two tags have the path `{path}`"))
                .also(earlier, "the other is here")
                .help("change one's name");
            return;
        }
        for (key, queue) in [("queue", &config.queue), ("queue", &own.queue)] {
            if let Some(queue) = queue.as_ref().filter(|queue| !(1..=MOST_QUEUE).contains(&queue.value)) {
                problems.error(queue.place, format!("`{key}` is from 1 to {MOST_QUEUE}"));
            }
        }
        let sampling = own.sampling.as_ref().map_or(group_sampling, |sampling| sampling.0);
        let queue = own.queue.as_ref().or(config.queue.as_ref()).map_or_else(|| queue_of(every, sampling), |queue| queue.value);
        let mut written = own.node.value.clone();
        if let Some(range) = &own.range {
            written = format!("{written}[{}]", range.value);
        }
        let topic = options.topic.as_deref().map_or_else(|| topic.clone(), Arc::from);
        let def = TagDef { path, address: written, kind: None, topic, part: part.clone(), options: Arc::new(options) };
        self.tags.push(Tag { address, group, sampling, queue, range, name: name.into(), def });
    }

    fn address(&self, text: &Spanned<String>, problems: &mut Problems) -> Option<Address> {
        match Address::parse(text, self.prefixes) {
            Ok(address) => Some(address),
            Err(error) => {
                problems.error(text.place, error);
                None
            }
        }
    }

    fn browse(&self, browse: &Spanned<BrowseConfig>, problems: &mut Problems) -> Option<Browse> {
        let objects = Spanned { value: "Objects".to_owned(), place: browse.place };
        let from = self.address(browse.from.as_ref().unwrap_or(&objects), problems);
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
        if let Some(depth) = browse.depth.as_ref().filter(|depth| !(1..=100).contains(&depth.value)) {
            problems.error(depth.place, "`depth` is from 1 to 100");
        }
        if let Some(limit) = browse.limit.as_ref().filter(|limit| !(1..=1_000_000).contains(&limit.value)) {
            problems.error(limit.place, "`limit` is from 1 to 1000000");
        }
        Some(Browse {
            from: from?,
            matcher,
            name: name?,
            units: browse.units == Some(Units::Server),
            depth: browse.depth.as_ref().map_or(10, |depth| depth.value as usize),
            limit: browse.limit.as_ref().map_or(10_000, |limit| limit.value as usize),
            again: Some(browse.again.as_ref().map_or(SECOND * 900, |Spanned { value: Period(again), .. }| *again))
                .filter(|again| !again.is_zero()),
        })
    }

    /// A group with a trigger: looks its tags up, which may stand in later groups.
    fn trigger(&mut self, group: &mut Group, config: &Spanned<Tagged<GroupConfig>>, problems: &mut Problems) {
        let Some(trigger) = &config.own.trigger else { return };
        let at = |name: &str| if self.context.at.is_empty() { name.to_owned() } else { format!("{}/{name}", self.context.at) };
        let wanted = at(&trigger.tag);
        let found = self.tags.iter().enumerate().find(|(index, tag)| tag.def.path == wanted && !group.tags.contains(index));
        let Some((tag, _)) = found else {
            problems
                .error(trigger.tag.place, format!("no other group has a tag `{}`", trigger.tag.value))
                .help("name a tag of a subscribed group of this source");
            return;
        };
        let ack = match &trigger.ack {
            None => None,
            Some(ack) => {
                let wanted = at(ack);
                let found = group.tags.clone().find(|index| self.tags[*index].def.path == wanted);
                if found.is_none() {
                    problems.error(ack.place, format!("this group has no tag `{}` to acknowledge with", ack.value));
                }
                if !self.context.writes_allowed {
                    problems
                        .error(ack.place, "an `ack` writes to the device, and writes are forbidden")
                        .help("add `floor: {writes: allowed}` to the local file, or leave `ack` out");
                }
                found
            }
        };
        let record = config.own.record.as_ref();
        let topic = match record.map(|record| &record.topic) {
            Some(topic) => Some((topic.value.as_str(), topic.place)),
            None if !group.topic.is_empty() => Some((&*group.topic, config.place)),
            None => None,
        };
        let Some((topic, place)) = topic else {
            problems.error(trigger.tag.place, "no topic for the document").help("add `record: {topic: part-results}`");
            return;
        };
        let names: Vec<Arc<str>> = group.tags.clone().map(|index| self.tags[index].name.clone()).collect();
        let key = record.and_then(|record| record.key.as_ref()).and_then(|key| template(key, &names, problems));
        let route = self.route(topic, place, format!("trigger {}", trigger.tag.value), problems);
        group.how = How::Trigger(Trigger { tag, edge: trigger.edge, ack, route, key });
    }

    fn route(&mut self, topic: &str, place: Place, name: String, problems: &mut Problems) -> usize {
        let topic = match millrace_config::name::topic(topic) {
            Ok(topic) => topic,
            Err(error) => {
                problems.error(place, error);
                String::new()
            }
        };
        self.model.routes.push(Route { topic: topic.into(), name, samples: false });
        self.model.routes.len() - 1
    }

    fn events(&mut self, index: usize, events: &Spanned<EventsConfig>, problems: &mut Problems) -> Option<Events> {
        let server = Spanned { value: "Server".to_owned(), place: events.place };
        let from = self.address(events.from.as_ref().unwrap_or(&server), problems);
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
        false => Err(format!("there are {}", names.iter().map(|name| &**name).collect::<Vec<_>>().join(", "))),
    };
    Template::parse(key, key.place, problems, known)
}

impl Tag {
    /// The absolute deadband in what the server counts in: before `scale`.
    pub fn raw_deadband(&self) -> Option<f64> {
        let Some(Deadband::Absolute(deadband)) = self.def.options.deadband else { return None };
        let options = &self.def.options;
        let factor = match (options.raw, options.eu) {
            (Some([raw_low, raw_high]), Some([low, high])) if raw_high != raw_low => (high - low) / (raw_high - raw_low),
            _ => options.scale.unwrap_or(1.0),
        };
        Some(deadband / factor.abs()).filter(|deadband| deadband.is_finite() && *deadband > 0.0)
    }

    /// Whether every reading counts, not only changed ones.
    pub fn wants_all(&self) -> bool {
        self.def.options.report == Some(Report::All)
    }
}

impl Job {
    /// How many values per second can come at most, where nothing is discovered.
    pub fn rate(&self) -> Option<f64> {
        if self.groups.iter().any(|group| group.browse.is_some()) {
            return None;
        }
        let of = |tag: &Tag| match self.groups[tag.group].how {
            How::Trigger(_) => 0.0,
            How::Poll => 1.0 / self.groups[tag.group].every.as_secs_f64(),
            How::Subscribe => 1.0 / tag.sampling.max(Duration::from_millis(10)).as_secs_f64(),
        };
        Some(self.tags.iter().map(of).sum())
    }

    /// Tags by their names, for documents.
    pub fn names(&self, group: &Group) -> BTreeMap<&str, usize> {
        group.tags.clone().map(|index| (&*self.tags[index].name, index)).collect()
    }
}
