//! Groups and devices compiled into plain lists: what every polled protocol reads, with the paths and the problems of its tags.
//!
//! ```text
//! groups, devices ──compile──> devices: [m01, drive]
//!                              groups:  [every 1s of m01] [every 15m of m01] [every 500ms of drive]
//!                              tags:    [ .. of group 0 ..][.. of group 1 ..][ .. of group 2 ..]      a group's tags lie side by side
//! ```
//!
//! Invariants: a tag's path is `at/name`, where `at` is the device's own, else the source's with the device's name behind it; no path is there
//! twice; tags of a triggered group are fields of a document and no tags of the model. No I/O.

mod compile;
mod documents;

pub use compile::{EVERY_DEFAULT, compile};

use crate::groups::{DeviceConfig, Edge, GroupConfig, Reset};
use crate::shape::Shape;
use crate::template::Template;
use millrace_config::{Place, Problems, Short, Shorthand, Spanned};
use millrace_contract::{CommandValue, Model, Route, SourceIo, TagDef, TagOptions, Tagged};
use millrace_schemas::{Batch, Flags, Micros, Origin, Row, StatusCode, TagId, TimeSource, Value};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// What a polled protocol adds to groups and devices.
pub trait Protocol {
    /// The keys of a tag beside the options; written alone, a tag is its address.
    type Tag: Shorthand;
    /// The protocol's own keys of a group and of a device; [`crate::groups::NoKeys`] where there are none.
    type Group: Clone;
    type Device: Clone;
    /// A tag's address, ready to be read.
    type Address;

    /// A tag as it would be written, for errors: `speed: "holding:100"`.
    const EXAMPLE: &'static str;

    /// Checks a tag's own keys. `None` after a problem.
    fn address(&self, tag: &TagAt<'_, Self>, problems: &mut Problems) -> Option<Addressed<Self::Address>>;

    /// Whether a group may name no tags: it finds them by itself.
    fn may_be_empty(&self, _group: &Self::Group) -> bool {
        false
    }
}

/// A tag of the YAML and what stands around it.
pub struct TagAt<'a, P: Protocol + ?Sized> {
    pub name: &'a str,
    pub tag: &'a Spanned<Tagged<Short<P::Tag>>>,
    /// The options of all levels.
    pub options: &'a TagOptions,
    pub group: &'a GroupOf<P>,
    /// `None`: the group is the source's own.
    pub device: Option<&'a DeviceOf<P>>,
}

/// A checked address.
pub struct Addressed<A> {
    pub address: A,
    /// As a person writes it, for the catalog.
    pub written: String,
    /// The protocol's name of its type, where that is known without the device.
    pub kind: Option<String>,
    /// What its value is in a document, unscaled, where that is known without the device.
    pub shape: Option<Shape>,
}

/// What a polled source reads.
#[derive(Clone, Debug, Default)]
pub struct Polled<A, G = (), D = ()> {
    pub devices: Vec<Device<D>>,
    /// The source's own groups first, then those of each device.
    pub groups: Vec<Group<G>>,
    pub tags: Vec<Tag<A>>,
    /// Where the documents of triggers go; further routes of a protocol come behind them.
    pub routes: Vec<Route>,
    /// Of the schemas of the triggers' documents.
    pub namespace: String,
}

/// A device on a connection that several share.
#[derive(Clone, Debug)]
pub struct Device<D> {
    pub name: Arc<str>,
    pub at: String,
    pub groups: Range<usize>,
    pub options: TagOptions,
    pub place: Place,
    pub own: D,
}

/// Tags that are read together.
#[derive(Clone, Debug)]
pub struct Group<G> {
    /// Index of its device; `None`: the group is the source's own.
    pub device: Option<usize>,
    pub every: Duration,
    /// Cycles begin at full intervals of the clock.
    pub align: bool,
    pub tags: Range<usize>,
    /// The tags are read once per event, not every so often.
    pub trigger: Option<Trigger>,
    /// Whose keep-alive vouches for its tags: the device's name, else `group N`.
    pub part: Arc<str>,
    /// The topic of its tags; empty where there is none.
    pub topic: Arc<str>,
    /// The options of all levels down to the group's.
    pub options: TagOptions,
    pub place: Place,
    pub own: G,
}

/// One value to read.
#[derive(Clone, Debug)]
pub struct Tag<A> {
    pub address: A,
    pub group: usize,
    /// The name without the path: a field's name in a document.
    pub name: Arc<str>,
    pub place: Place,
    pub def: TagDef,
    /// As [`Addressed::shape`].
    pub shape: Option<Shape>,
}

/// One document per event.
#[derive(Clone, PartialEq, Debug)]
pub struct Trigger {
    /// Index of the tag that triggers.
    pub tag: usize,
    pub edge: Edge,
    pub ack: Option<Ack>,
    /// Index of its route.
    pub route: usize,
    pub key: Option<Template>,
    /// Indices of the tags that make up the document: the group's, without the one that acknowledges.
    pub fields: Vec<usize>,
    /// The key of its position: which event was recorded last.
    pub position: Arc<str>,
}

/// How an event is acknowledged.
#[derive(Clone, PartialEq, Debug)]
pub struct Ack {
    /// Index of the tag that is written.
    pub tag: usize,
    /// `None`: the counter's value.
    pub set: Option<CommandValue>,
    pub reset: Reset,
}

impl Ack {
    /// What takes the acknowledgement back.
    pub fn back(&self) -> CommandValue {
        match self.set {
            Some(CommandValue::Int(_) | CommandValue::UInt(_) | CommandValue::Double(_)) => CommandValue::Int(0),
            _ => CommandValue::Bool(false),
        }
    }
}

impl Trigger {
    /// What it waits for, for a person: `DB1.DBX4.1 rises`.
    pub fn describe<A>(&self, tags: &[Tag<A>]) -> String {
        let path = &tags[self.tag].def.path;
        match self.edge {
            Edge::Rising => format!("{path} rises"),
            Edge::Falling => format!("{path} falls"),
            Edge::Change => format!("{path} changes"),
            Edge::Counter => format!("{path} counts on"),
        }
    }
}

/// A protocol's groups and devices in the YAML, and what they are compiled into.
pub type GroupOf<P> = Spanned<GroupConfig<<P as Protocol>::Tag, <P as Protocol>::Group>>;
pub type DeviceOf<P> = Spanned<DeviceConfig<<P as Protocol>::Tag, <P as Protocol>::Device, <P as Protocol>::Group>>;
pub type PolledOf<P> = Polled<<P as Protocol>::Address, <P as Protocol>::Group, <P as Protocol>::Device>;

impl<A, G, D> Polled<A, G, D> {
    /// The same with what a protocol makes of its groups' own keys, one for each group.
    pub fn with_groups<H>(self, own: impl IntoIterator<Item = H>) -> Polled<A, H, D> {
        let groups = self.groups.into_iter().zip(own).map(|(group, own)| {
            let Group { device, every, align, tags, trigger, part, topic, options, place, own: _ } = group;
            Group { device, every, align, tags, trigger, part, topic, options, place, own }
        });
        Polled { devices: self.devices, groups: groups.collect(), tags: self.tags, routes: self.routes, namespace: self.namespace }
    }

    /// The tags of the model: those that are read every so often.
    pub fn model(&self) -> Model {
        let tags = self.tags.iter().filter(|tag| !self.is_field(tag)).map(|tag| tag.def.clone()).collect();
        Model { tags, routes: self.routes.clone() }
    }

    /// Whether a tag is a field of a document and no tag of the model.
    pub fn is_field(&self, tag: &Tag<A>) -> bool {
        self.groups[tag.group].trigger.is_some()
    }

    /// Values per second, without those of triggers.
    pub fn rate(&self) -> f64 {
        let rate = |group: &Group<G>| group.tags.len() as f64 / group.every.as_secs_f64();
        self.groups.iter().filter(|group| group.trigger.is_none()).map(rate).sum()
    }

    /// The name of a group's device; empty where the group is the source's own.
    pub fn device_of(&self, group: usize) -> &str {
        self.groups[group].device.map_or("", |device| &self.devices[device].name)
    }

    /// Declares every tag, and what the documents of triggers are. The id of a field, or of a tag whose path clashes, is [`TagId::NONE`]; the clash is
    /// logged.
    pub fn declare(&self, io: &SourceIo) -> Vec<TagId> {
        self.tell_documents(io);
        let declare = |tag: &Tag<A>| {
            if self.is_field(tag) {
                return TagId::NONE;
            }
            io.declare(tag.def.clone()).unwrap_or_else(|clash| {
                tracing::error!(%clash, "a tag is not read");
                TagId::NONE
            })
        };
        self.tags.iter().map(declare).collect()
    }
}

/// Appends a sample without value for each tag that could not be read. The engine holds them back for `bad_after` and writes one each.
pub fn push_bad(tags: &[TagId], status: StatusCode, batch: &mut Batch) {
    let row = |tag: &TagId| Row {
        time: batch.read_time,
        server_time: Micros::NONE,
        value: Value::Null,
        tag: *tag,
        status,
        flags: Flags::new(Origin::Poll, TimeSource::Gateway),
    };
    batch.rows.extend(tags.iter().filter(|tag| **tag != TagId::NONE).map(row));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::groups::NoKeys;
    use millrace_config::Node;
    use millrace_contract::Context;
    use schemars::JsonSchema;
    use serde::Deserialize;
    use std::collections::BTreeMap;

    #[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Register {
        /// The register.
        address: Spanned<String>,
    }

    impl Shorthand for Register {
        const KEY: &'static str = "address";
    }

    #[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Unit {
        /// The unit.
        unit_id: u8,
    }

    #[derive(Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Config {
        #[serde(default)]
        groups: Vec<GroupOf<Registers>>,
        #[serde(default)]
        devices: BTreeMap<String, DeviceOf<Registers>>,
    }

    struct Registers;

    impl Protocol for Registers {
        type Tag = Register;
        type Group = NoKeys;
        type Device = Unit;
        type Address = u16;
        const EXAMPLE: &'static str = "speed: 100";

        fn address(&self, tag: &TagAt<'_, Self>, problems: &mut Problems) -> Option<Addressed<u16>> {
            let written = &tag.tag.own.address;
            match written.parse() {
                Ok(address) => Some(Addressed { address, written: written.value.clone(), kind: Some("i16".into()), shape: None }),
                Err(_) => {
                    problems.error(written.place, format!("`{}` is no register", written.value));
                    None
                }
            }
        }
    }

    /// The lists, and line and message of each problem.
    fn compiled(yaml: &str, writes_allowed: bool) -> (PolledOf<Registers>, Vec<String>) {
        let mut problems = Problems::new();
        let config: Option<Config> = Node::from_yaml(yaml, &mut problems).expect("is YAML").parse(&mut problems);
        let context = Context {
            name: "line".into(),
            place: Place::default(),
            site: "acme/lab".into(),
            levels: Vec::new(),
            at: "hall".into(),
            topic: Some("telemetry".into()),
            options: TagOptions { unit: Some("A".into()), ..TagOptions::default() },
            topics: Vec::new(),
            carries: millrace_contract::Carries::default(),
            schemas: Vec::new(),
            cluster: millrace_contract::Cluster::default(),
            writes_allowed,
            data_dir: "d".into(),
            sources: [].into(),
            declared: Vec::new(),
        };
        let polled = config.map(|config| compile(&Registers, &config.groups, &config.devices, &context, &mut problems));
        let told = problems.iter().map(|p| format!("{}: {}", problems.locate(p.place).line, p.message)).collect();
        (
            polled.unwrap_or_else(|| Polled {
                devices: Vec::new(),
                groups: Vec::new(),
                tags: Vec::new(),
                routes: Vec::new(),
                namespace: String::new(),
            }),
            told,
        )
    }

    #[test]
    fn devices_and_groups_become_plain_lists_with_paths_parts_and_merged_options() {
        let (polled, told) = compiled(
            "groups: [{every: 500ms, tags: {speed: 100, state: {address: 7, unit: V}}}]\n\
             devices:\n  m01: {unit_id: 1, at: meters/m01, labels: {cost: '7'}, groups: [{tags: {u: 1}}, {every: 15m, align: clock, tags: {kwh: 2}}]}\n  \
             m02: {unit_id: 2, groups: [{tags: {u: 1}}]}\n  m03: {unit_id: 3, enabled: false, groups: [{tags: {u: 1}}]}\n",
            false,
        );
        assert_eq!(told, [""; 0]);
        let paths: Vec<_> = polled.tags.iter().map(|tag| (tag.def.path.as_str(), tag.address, &*tag.def.part)).collect();
        let expected = [
            ("hall/speed", 100, "group 1"),
            ("hall/state", 7, "group 1"),
            ("meters/m01/u", 1, "m01"),
            ("meters/m01/kwh", 2, "m01"),
            ("hall/m02/u", 1, "m02"),
        ];
        assert_eq!(paths, expected);
        let units: Vec<_> = polled.tags.iter().map(|tag| tag.def.options.unit.as_deref().unwrap_or_default()).collect();
        assert_eq!(units, ["A", "V", "A", "A", "A"]);
        assert!(polled.tags[2].def.options.labels.is_some() && polled.tags[4].def.options.labels.is_none());
        assert_eq!(polled.devices.iter().map(|d| (d.own.unit_id, d.groups.clone())).collect::<Vec<_>>(), [(1, 1..3), (2, 3..4)]);
        assert_eq!((polled.groups[2].every, polled.groups[2].align), (Duration::from_secs(900), true));
    }

    #[test]
    fn a_trigger_finds_its_tag_in_another_group_of_its_device_and_its_acknowledgement() {
        let yaml = "devices:\n  oven:\n    unit_id: 1\n    groups:\n    - tags: {done: 1}\n    - trigger: {tag: done, ack: taken}\n      \
                    record: {topic: parts, key: '{serial}'}\n      tags: {serial: 2, peak: 3, taken: 4}\n";
        let (polled, told) = compiled(yaml, true);
        assert_eq!(told, [""; 0]);
        let trigger = polled.groups[1].trigger.clone().unwrap();
        let ack = Ack { tag: 3, set: Some(CommandValue::Bool(true)), reset: Reset::OnTriggerDown };
        assert_eq!((trigger.tag, trigger.fields, trigger.ack), (0, vec![1, 2], Some(ack)));
        assert_eq!(&*trigger.position, "trigger/hall/oven/done/parts");
        let model = polled.model();
        assert_eq!((model.tags.len(), model.routes.len()), (1, 1));
        let (_, told) = compiled(yaml, false);
        assert_eq!(told, ["6: an `ack` writes to the device, and writes are forbidden"]);
    }

    #[test]
    fn every_problem_is_told_at_its_place() {
        let (_, told) = compiled(
            "groups:\n- {every: 0s, tags: {a: x}}\n- {tags: {}}\n- {record: {topic: t}, tags: {b: 1, 'c//d': 2}}\n- {tags: {b: 3}}\n\
             - {trigger: {tag: nope}, tags: {e: 4}}\n- {trigger: {tag: b, edge: counter, ack: {tag: f, reset: on_trigger_down}}, tags: {f: 5}}\n",
            true,
        );
        let expected = [
            "2: `every` is from 1ms to 24h",
            "2: `x` is no register",
            "3: the group has no `tags`",
            "4: `record` has no use here: it goes with `trigger`",
            "4: the name `c//d` has an empty level",
            "5: two tags have the path `hall/b`",
            "6: no other group has a tag `nope`",
            "7: `reset: on_trigger_down` goes with `edge: rising` or `falling`: this trigger has no down",
            "7: the document has no fields: the group has no tag but the one that acknowledges",
        ];
        assert_eq!(told, expected);
        let (_, told) = compiled("devices:\n  m: {unit_id: 1, unti: 3, evry: 2, groups: [{evry: 1s, unitt: V, tags: {a: 1}}]}\n", true);
        assert_eq!(told.len(), 4, "{told:?}");
        let (_, told) = compiled("groups: [{tags: {a: 1}, trigger: {tag: a, ack: {tag: a, reset: soon}}}]\n", true);
        assert_eq!(told, ["1: `soon` is not one of `on_trigger_down`, `never`, `after 500ms`"]);
    }

    #[test]
    fn the_schema_has_the_keys_of_all_that_stand_beside_each_other() {
        let schema = schemars::schema_for!(Config).to_value().to_string();
        for key in ["unit_id", "every", "trigger", "deadband", "address", "enabled"] {
            assert!(schema.contains(&format!("\"{key}\"")), "{key} is not in {schema}");
        }
    }
}
