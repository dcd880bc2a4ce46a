//! From the groups and devices of the YAML to the lists of [`super`].

use super::{Ack, Addressed, Device, DeviceOf, Group, GroupOf, Polled, PolledOf, Protocol, Tag, TagAt, Trigger};
use crate::groups::{Edge, Reset, TriggerConfig};
use crate::template::Template;
use millrace_config::{Place, Problems, Short, Spanned};
use millrace_contract::plugin::tag_path;
use millrace_contract::{CommandValue, Context, Route, TagDef, TagOptions, Tagged};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// How often a group is read where nothing is said.
pub const EVERY_DEFAULT: Duration = Duration::from_secs(1);
const EVERY_MOST: Duration = Duration::from_secs(86_400);

/// Compiles the source's own groups and those of its devices.
///
/// Always returns what could be understood; whether that will do is for the caller to see: `problems.has_errors_since(mark)`.
pub fn compile<P: Protocol>(
    protocol: &P,
    groups: &[GroupOf<P>],
    devices: &BTreeMap<String, DeviceOf<P>>,
    context: &Context,
    problems: &mut Problems,
) -> PolledOf<P> {
    let polled = Polled {
        devices: Vec::new(),
        groups: Vec::new(),
        tags: Vec::new(),
        routes: Vec::new(),
        namespace: crate::shape::namespace(context),
    };
    let mut compiling = Compiling { protocol, context, by_path: HashMap::new(), polled };
    let mut triggers = Vec::new();
    for config in groups {
        compiling.group(None, config, &context.at, &context.options, &mut triggers, problems);
    }
    for (name, config) in devices.iter().filter(|(_, config)| config.own.shared.enabled) {
        compiling.device(name, config, &mut triggers, problems);
    }
    for (group, config) in triggers {
        compiling.trigger(group, config, problems);
    }
    compiling.polled
}

struct Compiling<'a, P: Protocol> {
    protocol: &'a P,
    context: &'a Context,
    by_path: HashMap<String, Place>,
    polled: PolledOf<P>,
}

/// A group's index and its YAML, where it has a trigger: whose tags may stand in later groups.
type Later<'a, P> = Vec<(usize, &'a GroupOf<P>)>;

impl<'a, P: Protocol> Compiling<'a, P> {
    fn device(&mut self, name: &str, config: &'a DeviceOf<P>, triggers: &mut Later<'a, P>, problems: &mut Problems) {
        let shared = &config.own.shared;
        let options = config.options.over(&self.context.options);
        let at = match &shared.at {
            Some(at) => at.value.trim_matches('/').to_owned(),
            None => tag_path(&self.context.at, name),
        };
        let place = shared.at.as_ref().map_or(config.place, |at| at.place);
        if at.split('/').any(str::is_empty) {
            problems.error(place, format!("the path `{at}` has an empty level"));
        }
        if shared.groups.is_empty() {
            problems
                .error(config.place, format!("the device `{name}` has no `groups`: nothing would be read"))
                .help(format!("add `groups: [{{every: 1s, tags: {{{}}}}}]`", P::EXAMPLE));
        }
        let first = self.polled.groups.len();
        let device = Device {
            name: name.into(),
            at: at.clone(),
            groups: first..first + shared.groups.len(),
            options: options.clone(),
            place: config.place,
            own: config.own.own.clone(),
        };
        self.polled.devices.push(device);
        for group in &shared.groups {
            self.group(Some((name, config)), group, &at, &options, triggers, problems);
        }
    }

    fn group(
        &mut self,
        device: Option<(&str, &'a DeviceOf<P>)>,
        config: &'a GroupOf<P>,
        at: &str,
        outer: &TagOptions,
        triggers: &mut Later<'a, P>,
        problems: &mut Problems,
    ) {
        let (shared, own) = (&config.own.shared, &config.own.own);
        let index = self.polled.groups.len();
        let options = config.options.over(outer);
        let every = shared.every.as_ref().map_or(EVERY_DEFAULT, |every| every.0);
        if let Some(place) = shared.every.as_ref().filter(|every| every.0.is_zero() || every.0 > EVERY_MOST).map(|every| every.place) {
            problems.error(place, "`every` is from 1ms to 24h");
        }
        match (&shared.trigger, &shared.record) {
            (Some(_), _) => triggers.push((index, config)),
            (None, Some(record)) => _ = problems.error(record.place, "`record` has no use here: it goes with `trigger`"),
            (None, None) => {}
        }
        let topic = self.context.topic_of(&options);
        if topic.is_none() && shared.trigger.is_none() && shared.tags.values().any(|tag| tag.options.topic.is_none()) {
            problems.error(config.place, "no topic for these tags").help("add `topic: telemetry` to the source");
        }
        if shared.tags.is_empty() && !self.protocol.may_be_empty(own) {
            problems.error(config.place, "the group has no `tags`").help(format!("add `tags: {{{}}}`", P::EXAMPLE));
        }
        let group = Group {
            device: device.map(|_| self.polled.devices.len() - 1),
            every,
            align: shared.align.is_some(),
            tags: self.polled.tags.len()..self.polled.tags.len(),
            trigger: None,
            part: device.map_or_else(|| format!("group {}", index + 1).into(), |(name, _)| name.into()),
            topic: topic.unwrap_or_else(|| "".into()),
            options,
            place: config.place,
            own: own.clone(),
        };
        self.polled.groups.push(group);
        for (name, tag) in &shared.tags {
            self.tag(name, tag, config, device.map(|(_, config)| config), at, problems);
        }
        self.polled.groups[index].tags.end = self.polled.tags.len();
    }

    fn tag(
        &mut self,
        name: &str,
        tag: &Spanned<Tagged<Short<P::Tag>>>,
        config: &GroupOf<P>,
        device: Option<&DeviceOf<P>>,
        at: &str,
        problems: &mut Problems,
    ) {
        let number = self.polled.groups.len() - 1;
        let group = &self.polled.groups[number];
        let options = tag.options.over(&group.options);
        let found = self.protocol.address(&TagAt { name, tag, options: &options, group: config, device }, problems);
        let Some(Addressed { address, written, kind, shape }) = found else { return };
        if name.split('/').any(str::is_empty) {
            problems.error(tag.place, format!("the name `{name}` has an empty level"));
            return;
        }
        let path = tag_path(at, name);
        if let Some(earlier) = self.by_path.insert(path.clone(), tag.place) {
            problems
                .error(tag.place, format!("two tags have the path `{path}`"))
                .also(earlier, "the other is here")
                .help("change one's name");
            return;
        }
        let topic = options.topic.as_deref().map_or_else(|| group.topic.clone(), Arc::from);
        let def = TagDef { path, address: written, kind, topic, part: group.part.clone(), options: Arc::new(options) };
        self.polled.tags.push(Tag { address, group: number, name: name.into(), place: tag.place, def, shape });
    }

    fn trigger(&mut self, number: usize, config: &GroupOf<P>, problems: &mut Problems) {
        let (Some(trigger), record) = (&config.own.shared.trigger, &config.own.shared.record) else { return };
        let group = &self.polled.groups[number];
        let tags = &self.polled.tags;
        let is_near = |index: usize| self.polled.groups[tags[index].group].device == group.device;
        let is_triggered = |index: usize| {
            let of = &self.polled.groups[tags[index].group];
            of.trigger.is_some() || group.tags.contains(&index)
        };
        let is_wanted = |index: &usize| *tags[*index].name == *trigger.tag.value && is_near(*index) && !is_triggered(*index);
        let Some(tag) = (0..tags.len()).find(is_wanted) else {
            problems
                .error(trigger.tag.place, format!("no other group has a tag `{}`", trigger.tag.value))
                .help("name a tag of a group without `trigger`, of the same device");
            return;
        };
        let ack = self.ack(number, trigger, problems);
        let topic = match record {
            Some(record) => Some((record.topic.value.as_str(), record.topic.place)),
            None if !group.topic.is_empty() => Some((&*group.topic, config.place)),
            None => None,
        };
        let Some((topic, place)) = topic else {
            problems.error(trigger.tag.place, "no topic for the document").help("add `record: {topic: part-results}`");
            return;
        };
        let topic: Arc<str> = match millrace_config::name::topic(topic) {
            Ok(topic) => topic.into(),
            Err(error) => {
                problems.error(place, error);
                return;
            }
        };
        let fields: Vec<usize> = group.tags.clone().filter(|index| ack.as_ref().is_none_or(|ack| ack.tag != *index)).collect();
        if fields.is_empty() {
            problems.error(config.place, "the document has no fields: the group has no tag but the one that acknowledges");
        }
        let names: Vec<&str> = fields.iter().map(|index| &*tags[*index].name).collect();
        let key = record.as_ref().and_then(|record| record.key.as_ref()).and_then(|key| {
            let known = |name: &str| if names.contains(&name) { Ok(()) } else { Err(format!("there are {}", names.join(", ")).into()) };
            Template::parse(key, key.place, problems, known)
        });
        let mut position = format!("trigger/{}/{topic}", tags[tag].def.path);
        let is_taken =
            |position: &str| self.polled.groups.iter().any(|group| group.trigger.as_ref().is_some_and(|t| *t.position == *position));
        if is_taken(&position) {
            position = format!("{position}/{number}");
        }
        let name = match group.device {
            None => format!("trigger {}", trigger.tag.value),
            Some(_) => format!("trigger {}", tags[tag].def.path),
        };
        self.polled.routes.push(Route { topic, name, samples: false });
        let route = self.polled.routes.len() - 1;
        let made = Trigger { tag, edge: trigger.edge, ack, route, key, fields, position: position.into() };
        self.polled.groups[number].trigger = Some(made);
    }

    fn ack(&self, number: usize, trigger: &TriggerConfig, problems: &mut Problems) -> Option<Ack> {
        let config = trigger.ack.as_ref()?;
        let (group, tags) = (&self.polled.groups[number], &self.polled.tags);
        let is_named =
            |index: &usize| *tags[*index].name == *config.tag.value && self.polled.groups[tags[*index].group].device == group.device;
        let found = group.tags.clone().find(is_named).or_else(|| (0..tags.len()).find(is_named));
        if found.is_none() {
            problems.error(config.tag.place, format!("there is no tag `{}` to acknowledge with", config.tag.value));
        }
        if !self.context.writes_allowed {
            problems
                .error(config.tag.place, "an `ack` writes to the device, and writes are forbidden")
                .help("add `floor: {writes: allowed}` to the local file, or leave `ack` out");
        }
        let is_level = matches!(trigger.edge, Edge::Rising | Edge::Falling);
        let reset = config.reset.unwrap_or(if is_level { Reset::OnTriggerDown } else { Reset::Never });
        if reset == Reset::OnTriggerDown && !is_level {
            problems
                .error(config.place, "`reset: on_trigger_down` goes with `edge: rising` or `falling`: this trigger has no down")
                .help("write `reset: never` or `reset: after 500ms`");
        }
        let set = match (&config.set, trigger.edge) {
            (Some(set), _) => Some(set.0.clone()),
            (None, Edge::Counter) => None,
            (None, _) => Some(CommandValue::Bool(true)),
        };
        Some(Ack { tag: found?, set, reset })
    }
}
