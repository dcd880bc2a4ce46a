//! From the keys of an MQTT source to what it does: checked without I/O.

use crate::broker::{Broker, BrokerKeys};
use crate::config::SourceKeys;
use crate::inbox::KEPT_OF_OVERSIZED;
use crate::packet::Version;
use crate::payload::Decode;
use crate::routes::Route;
use crate::sparkplug;
use crate::subscription::Compiling;
use crate::topic::Filter;
use millrace_config::Problems;
use millrace_contract::{Context, Model};
use millrace_kit::AllowedTopics;
use std::sync::Arc;
use std::time::Duration;

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
    /// `floor: {writes: allowed}`.
    pub writes_allowed: bool,
    pub model: Model,
}

impl SourceKeys {
    pub fn compile(&self, keys: &BrokerKeys, context: &Context, problems: &mut Problems) -> Option<Compiled> {
        let broker = keys.compile(context, problems);
        if self.window.value == 0 {
            problems.error(self.window.place, "`window` is from 1 to 65535");
        }
        let max_packet = self.max_packet.0;
        if !(KEPT_OF_OVERSIZED as u64..=256 << 20).contains(&max_packet) {
            problems.error(self.max_packet.place, "`max_packet` is from 128KiB to 256MiB");
        }
        let connections = self.connections.value;
        if !(1..=64).contains(&connections) {
            problems.error(self.connections.place, "`connections` is from 1 to 64");
        } else if connections > 1 && self.share.is_none() {
            problems
                .error(self.connections.place, format!("{connections} connections would each get every message"))
                .help("add `share: NAME`, so that the broker divides the messages among them");
        }
        if let Some(share) = self.share.as_ref().filter(|share| share.is_empty() || share.contains(['/', '+', '#'])) {
            problems.error(share.place, format!("`{}` is no name of a shared subscription: it has no `/`, `+` or `#`", share.value));
        }
        if self.subscribe.is_empty() {
            problems.error(context.place, "`subscribe` is empty: nothing would be read").help("add `- {filter: \"some/+/topic\"}`");
        }
        let allowed = Arc::new(AllowedTopics::compile(self.allow_topics.as_ref(), problems));
        let mut routes = Vec::new();
        let mut sparkplug_routes = Vec::new();
        let mut model = Model::default();
        for (index, subscription) in self.subscribe.iter().enumerate() {
            let compiling = Compiling { subscription, context, index, allowed: allowed.clone(), max_packet: max_packet as usize };
            let Some((route, sparkplug)) = compiling.run(problems) else { continue };
            let samples = !matches!(route.decode, Decode::Document(_));
            let topic = compiling.topic(problems).map_or_else(String::new, |topic| topic.value);
            model.routes.push(millrace_contract::Route { topic: topic.into(), name: route.filter.to_string(), samples });
            compiling.known_tags(&route, &mut model.tags, problems);
            routes.push(route);
            sparkplug_routes.extend(sparkplug);
        }
        self.check_together(keys, &routes, connections, &broker, problems);
        let broker = broker?;
        let client_ids = match connections {
            1 => vec![broker.client_id.clone()],
            n => (1..=n).map(|n| format!("{}-{n}", broker.client_id)).collect(),
        };
        Some(Compiled {
            session_expiry: self.session_expiry.0,
            window: self.window.value,
            max_packet: max_packet as usize,
            max_tags: self.max_tags as usize,
            client_ids,
            share: self.share.as_ref().map(|share| share.value.clone()),
            host: (!sparkplug_routes.is_empty()).then(|| self.host.as_ref().map(|host| host.value.clone()).unwrap_or_default()),
            routes: routes.into(),
            sparkplug_routes,
            writes_allowed: context.writes_allowed,
            model,
            broker,
        })
    }

    fn check_together(&self, keys: &BrokerKeys, routes: &[Route], connections: u16, broker: &Option<Broker>, problems: &mut Problems) {
        let has_sparkplug = routes.iter().any(|route| matches!(route.decode, Decode::Sparkplug));
        if let Some(host) = &self.host {
            if let Some(problem) = host.problem() {
                problems.error(host.place, problem);
            }
            if !has_sparkplug {
                problems.error(host.place, "`host` has no use: no subscription has `payload: sparkplug`");
            }
        }
        self.check_births(keys, routes, problems);
        if let Some(share) = self.share.as_ref().filter(|_| has_sparkplug) {
            problems
                .error(share.place, "Sparkplug cannot be shared: the messages of an edge node must come to one connection, in order")
                .help("put the Sparkplug subscriptions into a source of their own, without `share`");
        }
        if let Some(route) = routes.iter().find(|route| route.command.is_some()).filter(|_| connections > 1) {
            problems
                .error(
                    self.connections.place,
                    format!("the tags of `{}` take commands, and each of several connections knows only a part of the tags", route.filter),
                )
                .help("put what takes commands into a source of its own, with one connection");
        }
        let is_v4 = broker.as_ref().is_some_and(|broker| broker.version == Version::V4);
        if connections > 1 && is_v4 {
            problems.warn(keys.version.place, "shared subscriptions are part of mqtt 5; not every broker has them with 3.1.1");
        }
        for (index, route) in routes.iter().enumerate() {
            for (earlier, other) in routes[..index].iter().enumerate() {
                let place =
                    |index: usize| self.subscribe.get(index).map_or(keys.endpoint.place, |subscription| subscription.own.filter.place);
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

impl SourceKeys {
    /// Sparkplug without births is numbers without names: each group that is read wants its NBIRTH, and DBIRTH where devices are read.
    fn check_births(&self, keys: &BrokerKeys, routes: &[Route], problems: &mut Problems) {
        let sparkplug = |route: &&Route| matches!(route.decode, Decode::Sparkplug);
        let brings = |verb: &str| {
            let birth = Filter::parse(&format!("{}/+/{verb}/#", sparkplug::NAMESPACE));
            birth.is_ok_and(|birth| routes.iter().filter(sparkplug).any(|route| route.filter.overlaps(&birth)))
        };
        let lacks_births = !brings("NBIRTH") && !brings("DBIRTH");
        if let Some(route) =
            routes.iter().find(sparkplug).filter(|route| lacks_births && route.filter.literal(0) == Some(sparkplug::NAMESPACE))
        {
            let place = self.subscribe.get(route.id.0 as usize).map_or(keys.endpoint.place, |subscription| subscription.own.filter.place);
            let group = route.filter.literal(1).unwrap_or("+");
            problems
                .error(place, format!("`{}` brings no births (NBIRTH, DBIRTH), and only they say which metric an alias is", route.filter))
                .help(format!("read all of the group: `{}/{group}/#`", sparkplug::NAMESPACE));
        }
    }
}
