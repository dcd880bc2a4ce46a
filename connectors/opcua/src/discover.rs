//! Finding tags in the server's address space: variables below a node whose browse paths match.
//!
//! Invariants: a node is looked at once, however many ways lead to it; properties are no tags; beyond the limit none is taken, and the status says so.

use crate::compiled::{Browse, Group};
use crate::resolve::Resolver;
use crate::session::{Refused, Session, references_of, value_of};
use millrace_contract::{TagDef, TagOptions};
use opcua::types::{
    BinaryDecodable, ByteStringBody, ContextOwned, DataValue, EUInformation, NodeClass, NodeId, Range, ReferenceTypeId, Variant,
};
use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::Arc;

/// A variable that matches.
#[derive(Clone, Debug)]
pub struct Found {
    pub node: NodeId,
    pub def: TagDef,
}

/// What a look came to.
pub struct Look {
    pub found: Vec<Found>,
    /// What a person should know: too many, nothing there.
    pub complaint: Option<String>,
}

/// Nodes visited in one look, at most: a server whose folders have no end is left.
const MOST_NODES: usize = 2_000_000;

/// Looks for a group's variables, in the order of their paths.
pub async fn look(session: &Session, browse: &Browse, group: &Group, at: &str) -> Result<Look, Refused> {
    let none = |complaint: String| Look { found: Vec::new(), complaint: Some(complaint) };
    let mut resolver = Resolver::default();
    let Some(Ok(start)) = resolver.resolve(session, &[&browse.from]).await?.pop() else {
        return Ok(none("the node to browse from is not there".into()));
    };
    let mut seen = HashSet::from([start.clone()]);
    let mut level = vec![(start, String::new())];
    let mut found = Vec::new();
    for _ in 0..browse.depth {
        let nodes: Vec<NodeId> = level.iter().map(|(node, _)| node.clone()).collect();
        resolver.look_below(session, &nodes).await?;
        let mut next = Vec::new();
        for (node, path) in level {
            let Ok(children) = resolver.below(session, &node).await? else { continue };
            for child in children.iter() {
                let id = &child.node_id.node_id;
                let is_property = child.reference_type_id == ReferenceTypeId::HasProperty;
                if is_property || child.node_id.server_index != 0 || !seen.insert(id.clone()) {
                    continue;
                }
                let name = child.browse_name.name.as_ref().replace('/', "%2F");
                let below = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
                let matches = browse.matcher.as_ref().is_none_or(|matcher| matcher.is_match(&below));
                if child.node_class == NodeClass::Variable && matches {
                    let display = child.display_name.text.as_ref().replace('/', "%2F");
                    found.push((id.clone(), below.clone(), name, display));
                    if found.len() > browse.limit {
                        return Ok(none(format!("more than {} nodes match: make `match` narrower, or `limit` larger", browse.limit)));
                    }
                }
                if matches!(child.node_class, NodeClass::Variable | NodeClass::Object) {
                    next.push((id.clone(), below));
                }
            }
        }
        if seen.len() > MOST_NODES {
            return Ok(none(format!("more than {MOST_NODES} nodes are below it: begin further down with `from`, or lower `depth`")));
        }
        level = next;
    }
    let units = if browse.units {
        engineering(session, &found.iter().map(|(node, ..)| node.clone()).collect::<Vec<_>>()).await?
    } else {
        Vec::new()
    };
    let space = session.space();
    let mut paths = HashSet::new();
    let mut twice = 0;
    let mut tags = Vec::with_capacity(found.len());
    for (index, (node, path, name, display)) in found.into_iter().enumerate() {
        let mut tag = at.as_bytes().to_vec();
        if !tag.is_empty() {
            tag.push(b'/');
        }
        let rendered = browse.name.render(&mut tag, |variable, out| -> Result<(), Infallible> {
            out.extend_from_slice(match variable {
                "name" => name.as_bytes(),
                "display" => display.as_bytes(),
                _ => path.as_bytes(),
            });
            Ok(())
        });
        let Ok(()) = rendered;
        let tag = String::from_utf8_lossy(&tag).into_owned();
        if !paths.insert(tag.clone()) {
            twice += 1;
            continue;
        }
        let options = match units.get(index) {
            Some(own) => own.over(&TagOptions::default()),
            None => TagOptions::default(),
        };
        let options = Arc::new(group.options.over(&options));
        let def =
            TagDef { path: tag, address: space.write(&node), kind: None, topic: group.topic.clone(), part: group.part.clone(), options };
        tags.push(Found { node, def });
    }
    tags.sort_by(|a, b| a.def.path.cmp(&b.def.path));
    let complaint = match (tags.is_empty(), twice) {
        (true, _) => Some("no variable matches".into()),
        (_, 0) => None,
        (_, twice) => Some(format!("{twice} variables have the name of another; put `{{path}}` into `name`")),
    };
    Ok(Look { found: tags, complaint })
}

/// Unit and limits of each node, from its properties.
async fn engineering(session: &Session, nodes: &[NodeId]) -> Result<Vec<TagOptions>, Refused> {
    let asked: Vec<_> = nodes.iter().map(|node| references_of(node.clone(), ReferenceTypeId::HasProperty)).collect();
    let mut reads = Vec::new();
    for (index, properties) in session.browse(&asked).await?.into_iter().enumerate() {
        for property in properties.unwrap_or_default() {
            if matches!(property.browse_name.name.as_ref(), "EngineeringUnits" | "EURange") {
                reads.push((index, property.node_id.node_id));
            }
        }
    }
    let asked: Vec<_> = reads.iter().map(|(_, node)| value_of(node.clone())).collect();
    let mut options = vec![TagOptions::default(); nodes.len()];
    for ((index, _), value) in reads.into_iter().zip(session.read(&asked).await?) {
        apply(&mut options[index], value);
    }
    Ok(options)
}

fn apply(options: &mut TagOptions, value: DataValue) {
    let Some(Variant::ExtensionObject(object)) = value.value else { return };
    let Some(body) = object.inner_as::<ByteStringBody>() else { return };
    let context = ContextOwned::default();
    let mut bytes = body.raw_body().as_ref();
    match body.encoding_id().as_object_id() {
        Ok(opcua::types::ObjectId::EUInformation_Encoding_DefaultBinary) => {
            if let Ok(unit) = EUInformation::decode(&mut bytes, &context.context()) {
                let text = unit.display_name.text.as_ref();
                options.unit = Some(text.to_owned()).filter(|text| !text.is_empty());
            }
        }
        Ok(opcua::types::ObjectId::Range_Encoding_DefaultBinary) => {
            if let Ok(range) = Range::decode(&mut bytes, &context.context())
                && range.low < range.high
            {
                (options.min, options.max) = (Some(range.low), Some(range.high));
            }
        }
        _ => {}
    }
}
