//! Sparkplug's topics: `spBv1.0/GROUP/VERB/NODE[/DEVICE]`, and the names made of them.
//!
//! Source: Sparkplug 3.0.0, chapter 4.

use super::route::Variable;
use crate::topic::{Template, push_level};
use millrace_config::Reason;

pub const NAMESPACE: &str = "spBv1.0";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Birth,
    Data,
    Death,
    Command,
}

/// A topic's levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address<'a> {
    pub group: &'a str,
    pub node: &'a str,
    /// Empty: the node itself.
    pub device: &'a str,
    pub verb: Verb,
}

impl<'a> Address<'a> {
    /// Reads a topic. Errors: one line for a person.
    pub fn parse(topic: &'a str) -> Result<Self, Reason> {
        let mut levels = topic.split('/');
        let mut level = || levels.next().filter(|level| !level.is_empty());
        let (Some(NAMESPACE), Some(group), Some(verb), Some(node)) = (level(), level(), level(), level()) else {
            return Err(format!("topic {topic} is not {NAMESPACE}/GROUP/VERB/NODE[/DEVICE]").into());
        };
        let device = level();
        let (of_device, verb) = match verb {
            "NBIRTH" => (false, Verb::Birth),
            "NDATA" => (false, Verb::Data),
            "NDEATH" => (false, Verb::Death),
            "NCMD" => (false, Verb::Command),
            "DBIRTH" => (true, Verb::Birth),
            "DDATA" => (true, Verb::Data),
            "DDEATH" => (true, Verb::Death),
            "DCMD" => (true, Verb::Command),
            _ => return Err(format!("topic {topic} has the unknown verb {verb}").into()),
        };
        if of_device != device.is_some() || levels.next().is_some() {
            return Err(format!("topic {topic} is not {NAMESPACE}/GROUP/VERB/NODE[/DEVICE]").into());
        }
        Ok(Self { group, node, device: device.unwrap_or(""), verb })
    }

    /// Writes `GROUP/NODE[/DEVICE]`, the name of the part.
    pub fn part(&self, out: &mut String) {
        self.node_part(out);
        if !self.device.is_empty() {
            out.push('/');
            out.push_str(self.device);
        }
    }

    /// Writes `GROUP/NODE`, the name of the node's own part.
    pub fn node_part(&self, out: &mut String) {
        out.clear();
        out.push_str(self.group);
        out.push('/');
        out.push_str(self.node);
    }

    /// The address of a part by its name.
    pub fn of_part(name: &'a str) -> Option<Self> {
        let mut levels = name.splitn(3, '/');
        let (group, node) = (levels.next()?, levels.next()?);
        Some(Self { group, node, device: levels.next().unwrap_or(""), verb: Verb::Birth })
    }

    /// The topic of this part's birth.
    pub fn birth_topic(&self) -> String {
        let Self { group, node, device, .. } = self;
        if device.is_empty() { format!("{NAMESPACE}/{group}/NBIRTH/{node}") } else { format!("{NAMESPACE}/{group}/DBIRTH/{node}/{device}") }
    }
}

/// The path of a metric's tag: `at`, `tag`, and the members on the way to a leaf of a template. Empty levels are left out.
pub fn tag_path(at: &Template<Variable>, tag: &Template<Variable>, address: &Address<'_>, metric: &str, members: &[&str]) -> String {
    let mut raw = Vec::with_capacity(64);
    for template in [at, tag] {
        let rendered: Result<(), std::convert::Infallible> = template.fill(&mut raw, |variable, out| {
            match variable {
                Variable::Group => push_level(out, address.group.as_bytes()),
                Variable::Node => push_level(out, address.node.as_bytes()),
                Variable::Device => push_level(out, address.device.as_bytes()),
                Variable::Metric => push_level(out, metric.as_bytes()),
                Variable::MetricPath => out.extend_from_slice(metric.as_bytes()),
            }
            Ok(())
        });
        let Ok(()) = rendered;
        raw.push(b'/');
    }
    for member in members {
        push_level(&mut raw, member.as_bytes());
        raw.push(b'/');
    }
    let mut path = String::with_capacity(raw.len());
    for level in String::from_utf8_lossy(&raw).split('/').filter(|level| !level.is_empty()) {
        if !path.is_empty() {
            path.push('/');
        }
        path.push_str(level);
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_read_or_says_what_it_should_be() {
        let address = Address::parse("spBv1.0/pack/DDATA/edge1/filler").unwrap();
        assert_eq!(address, Address { group: "pack", node: "edge1", device: "filler", verb: Verb::Data });
        assert_eq!(Address::parse("spBv1.0/pack/NBIRTH/edge1").unwrap().device, "");
        for (topic, part) in [
            ("spBv1.0/pack/NDATA", "is not"),
            ("spBv1.0/pack/NDATA/edge1/filler", "is not"),
            ("spBv1.0/pack/DDATA/edge1", "is not"),
            ("spBv1.0/pack/DDATA/edge1/a/b", "is not"),
            ("spAv1.0/pack/NDATA/edge1", "is not"),
            ("spBv1.0//NDATA/edge1", "is not"),
            ("spBv1.0/pack/HELLO/edge1", "unknown verb HELLO"),
            ("", "is not"),
        ] {
            let error = Address::parse(topic).unwrap_err();
            assert!(error.contains(part), "{topic}: {error}");
        }
    }

    #[test]
    fn paths_leave_empty_levels_out_and_escape_what_is_substituted() {
        let path = |at: &str, tag: &str, part: &str, metric: &str, members: &[&str]| {
            let parse = |text| Template::read(text, Variable::parse).unwrap();
            tag_path(&parse(at), &parse(tag), &Address::of_part(part).unwrap(), metric, members)
        };
        assert_eq!(path("packaging/{node}/{device}", "{metric}", "g/n/d", "speed", &[]), "packaging/n/d/speed");
        assert_eq!(path("packaging/{node}/{device}", "{metric}", "g/n", "speed", &[]), "packaging/n/speed");
        assert_eq!(path("{group}/{node}", "{metric}", "g/n", "Motor/Speed", &[]), "g/n/Motor%2FSpeed");
        assert_eq!(path("{group}/{node}", "{metric_path}", "g/n", "Motor/Speed", &[]), "g/n/Motor/Speed");
        assert_eq!(path("a", "{metric}", "g/n", "pump", &["inner", "x/y"]), "a/pump/inner/x%2Fy");
        assert_eq!(path("", "{metric}", "g/n", "pump", &[]), "pump");
    }
}
