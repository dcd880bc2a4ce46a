//! What a reload makes of a source that changed: whether it takes the change over with its connection, or starts anew.

use millrace_config::Node;
use millrace_config::factory::Connector;
use millrace_config::tree::Kind;
use millrace_contract::TagOptions;
use std::collections::BTreeSet;
use std::fmt;

/// What becomes of a source.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum How {
    /// It keeps its connection; these parts change.
    InPlace(Vec<String>),
    /// Why it starts anew.
    Restart(String),
}

/// So many parts are named; of more their number is said.
const NAMED: usize = 5;

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InPlace(parts) if parts.len() > NAMED => {
                write!(f, "in place: {} and {} more", parts[..NAMED].join(", "), parts.len() - NAMED)
            }
            Self::InPlace(parts) => write!(f, "in place: {}", parts.join(", ")),
            Self::Restart(why) => write!(f, "restart: {why}"),
        }
    }
}

/// Judges a change by its keys; `taken` are those that sources of this type take over.
pub fn judge(old: &Connector, new: &Connector, taken: &[&str]) -> How {
    if old.type_name.value != new.type_name.value {
        return How::Restart("it is of another type".to_owned());
    }
    let keys: BTreeSet<&str> = old.node.entries().iter().chain(new.node.entries()).map(|entry| &*entry.key).collect();
    let changed: Vec<&str> = keys.into_iter().filter(|key| old.node.get(key) != new.node.get(key)).collect();
    let is_of_tags = |key: &str| key == "at" || key == "topic" || TagOptions::KEYS.contains(&key);
    if taken.is_empty() {
        return How::Restart(format!("a source of type {} takes no change over as it is", new.type_name.value));
    }
    if let Some(key) = changed.iter().find(|key| !taken.contains(key) && !is_of_tags(key)) {
        return How::Restart(format!("`{key}` changes"));
    }
    How::InPlace(changed.iter().flat_map(|key| parts(key, old.node.get(key), new.node.get(key))).collect())
}

/// The parts of a list by their place, of a mapping by their names, that differ.
fn parts(key: &str, old: Option<&Node>, new: Option<&Node>) -> Vec<String> {
    let word = match key {
        "subscribe" => "subscription",
        key => key.strip_suffix('s').unwrap_or(key),
    };
    match new.or(old).map(|node| &node.kind) {
        Some(Kind::Seq(_)) => {
            let (old, new) = (old.map_or(&[][..], Node::items), new.map_or(&[][..], Node::items));
            let differs = |at: &usize| old.get(*at) != new.get(*at);
            (0..old.len().max(new.len())).filter(differs).map(|at| format!("{word} {}", at + 1)).collect()
        }
        Some(Kind::Map(_)) => {
            let (old_entries, new_entries) = (old.map_or(&[][..], Node::entries), new.map_or(&[][..], Node::entries));
            let names: BTreeSet<&str> = old_entries.iter().chain(new_entries).map(|entry| &*entry.key).collect();
            let of = |node: Option<&Node>, name: &str| node.and_then(|node| node.get(name)).cloned();
            names.into_iter().filter(|name| of(old, name) != of(new, name)).map(|name| format!("{word} {name}")).collect()
        }
        _ => vec![format!("`{key}`")],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_config::{Problems, Spanned};

    fn source(text: &str) -> Connector {
        let node = Node::from_yaml(text, &mut Problems::new()).expect("is YAML");
        let type_name = Spanned::from(node.get("type").and_then(Node::as_str).expect("a type").to_owned());
        Connector { name: "press".to_owned(), place: node.place, type_name, enabled: true, node }
    }

    fn said(old: &str, new: &str) -> String {
        judge(&source(old), &source(new), &["groups", "devices"]).to_string()
    }

    #[test]
    fn what_a_source_takes_over_is_named_by_its_place_or_its_name() {
        let old = "{type: x, endpoint: a, groups: [{tags: {a: 1}}, {tags: {b: 2}}], devices: {m01: {unit_id: 1}, m02: {unit_id: 2}}}";
        let tag = old.replace("b: 2", "b: 2, c: 3");
        assert_eq!(said(old, &tag), "in place: group 2");
        assert_eq!(
            said(old, &tag.replace("unit_id: 2", "unit_id: 3").replace("m01", "m03")),
            "in place: device m01, device m02, device m03, group 2"
        );
        assert_eq!(said(old, &old.replace("{type", "{unit: mm, at: hall, type")), "in place: `at`, `unit`");
        let many = (0..9).map(|n| format!("{{tags: {{t{n}: {n}}}}}")).collect::<Vec<_>>().join(", ");
        assert_eq!(
            said("{type: x}", &format!("{{type: x, groups: [{many}]}}")),
            "in place: group 1, group 2, group 3, group 4, group 5 and 4 more"
        );
    }

    #[test]
    fn what_it_can_not_take_over_starts_it_anew_and_says_why() {
        let old = "{type: x, endpoint: a, groups: [{tags: {a: 1}}]}";
        assert_eq!(said(old, &old.replace("endpoint: a", "endpoint: b").replace("a: 1", "a: 2")), "restart: `endpoint` changes");
        assert_eq!(said(old, &old.replace("type: x", "type: y")), "restart: it is of another type");
        let how = judge(&source(old), &source(&old.replace("a: 1", "a: 2")), &[]);
        assert_eq!(how.to_string(), "restart: a source of type x takes no change over as it is");
    }
}
