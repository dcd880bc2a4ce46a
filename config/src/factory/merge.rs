//! Merging of a piece into the template or profile below it.
//!
//! Mappings key by key, the piece's own value over the template's; any other value, lists too, replaces. But `groups` are added; a tag in one of
//! the piece's own groups replaces the template's tag of that name, in whole; and null removes.

use crate::tree::node::{Entry, Kind, Node};
use crate::tree::problem::Problems;
use crate::tree::suggest;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// A source's own values over its template's.
pub fn merge(base: Node, over: Node) -> Node {
    let (Kind::Map(base_entries), Kind::Map(over_entries)) = (base.kind, over.kind) else { return Node::null(over.place) };
    let mut index: HashMap<Arc<str>, usize> = base_entries.iter().enumerate().map(|(at, entry)| (entry.key.clone(), at)).collect();
    let mut merged: Vec<Option<Entry>> = base_entries.into_iter().map(Some).collect();
    for Entry { key, value } in over_entries {
        let Some(slot) = index.remove(&key).and_then(|at| merged.get_mut(at)) else {
            merged.push(Some(Entry { key, value }));
            continue;
        };
        let Some(below) = slot.take() else { continue };
        if value.is_null() {
            continue;
        }
        let value = match (&*key, below.value, value) {
            ("groups", Node { kind: Kind::Seq(base), .. }, Node { kind: Kind::Seq(over), place }) => {
                Node::new(place, Kind::Seq(merge_groups(base, over)))
            }
            ("tags" | "samples", Node { kind: Kind::Map(base), .. }, Node { kind: Kind::Map(over), place }) => {
                Node::new(place, Kind::Map(merge_tags(base, over)))
            }
            (_, base @ Node { kind: Kind::Map(_), .. }, over @ Node { kind: Kind::Map(_), .. }) => merge(base, over),
            (_, _, over) => over,
        };
        *slot = Some(Entry { key, value });
    }
    Node::new(over.place, Kind::Map(merged.into_iter().flatten().collect()))
}

/// The template's groups, without the tags that the own groups replace or remove, then the own groups.
fn merge_groups(mut base: Vec<Node>, over: Vec<Node>) -> Vec<Node> {
    let own: HashSet<Arc<str>> =
        over.iter().filter_map(|group| group.get("tags")).flat_map(Node::entries).map(|entry| entry.key.clone()).collect();
    let mut replaced = HashSet::new();
    let mut emptied = Vec::new();
    for group in &mut base {
        let Kind::Map(entries) = &mut group.kind else { continue };
        for tags in entries.iter_mut().filter(|entry| *entry.key == *"tags") {
            if let Kind::Map(tags) = &mut tags.value.kind {
                let before = tags.len();
                tags.retain(|tag| !own.contains(&tag.key) || !replaced.insert(tag.key.clone()));
                if tags.is_empty() && before > 0 {
                    emptied.push(group.place);
                }
            }
        }
    }
    // A group that lost all its tags, and reads nothing else, is gone.
    base.retain(|group| !emptied.contains(&group.place) || group.get("browse").is_some());
    let browses = base.iter().any(|group| group.get("browse").is_some());
    for mut group in over {
        if let Kind::Map(entries) = &mut group.kind {
            for tags in entries.iter_mut().filter(|entry| *entry.key == *"tags") {
                if let Kind::Map(tags) = &mut tags.value.kind {
                    tags.retain(|tag| !tag.value.is_null() || !(replaced.contains(&tag.key) || browses));
                }
            }
        }
        let nothing_left = group.entries().iter().all(|entry| *entry.key == *"tags" && entry.value.entries().is_empty());
        if !nothing_left || group.entries().is_empty() {
            base.push(group);
        }
    }
    base
}

/// After all merging, a tag that is still null removed nothing.
pub fn tidy_groups(piece: &mut Node, problems: &mut Problems) {
    let Kind::Map(entries) = &mut piece.kind else { return };
    let Some(groups) = entries.iter_mut().find(|entry| *entry.key == *"groups") else { return };
    let Kind::Seq(groups) = &mut groups.value.kind else { return };
    let names: Vec<Arc<str>> = groups
        .iter()
        .filter_map(|group| group.get("tags"))
        .flat_map(Node::entries)
        .filter(|tag| !tag.value.is_null())
        .map(|tag| tag.key.clone())
        .collect();
    for group in groups {
        let Kind::Map(entries) = &mut group.kind else { continue };
        for tags in entries.iter_mut().filter(|entry| *entry.key == *"tags") {
            let Kind::Map(tags) = &mut tags.value.kind else { continue };
            for tag in tags.iter().filter(|tag| tag.value.is_null()) {
                let help = match suggest::nearest(&tag.key, names.iter().map(|name| &**name)) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => "write its address; null removes a tag of the template".into(),
                };
                problems.error(tag.value.place.key(), format!("the tag `{}` has no address, and no template has it", tag.key)).help(help);
            }
            tags.retain(|tag| !tag.value.is_null());
        }
    }
}

/// Tags by name: one of the same name replaces, in whole; null removes.
fn merge_tags(base: Vec<Entry>, over: Vec<Entry>) -> Vec<Entry> {
    let own: HashSet<&str> = over.iter().map(|entry| &*entry.key).collect();
    let known: HashSet<Arc<str>> = base.iter().map(|entry| entry.key.clone()).collect();
    let mut merged: Vec<Entry> = base.into_iter().filter(|entry| !own.contains(&*entry.key)).collect();
    merged.extend(over.into_iter().filter(|entry| !(entry.value.is_null() && known.contains(&entry.key))));
    merged
}
