//! From addresses to the node ids of this server: namespaces by its table, browse paths by looking at what it has.

use crate::address::{Address, BrowsePath, Space, Step};
use crate::session::{Refused, Session, children_of};
use millrace_schemas::StatusCode;
use opcua::types::{NodeId, ReferenceDescription};
use std::collections::HashMap;
use std::sync::Arc;

/// What is below a node.
type Children = Arc<[ReferenceDescription]>;

/// Browse paths that share levels ask for each level once.
#[derive(Default)]
pub struct Resolver {
    children: HashMap<NodeId, Result<Children, StatusCode>>,
}

impl Resolver {
    /// The node of each address; of one that is not there, the status of whoever would read it.
    pub async fn resolve(&mut self, session: &Session, addresses: &[&Address]) -> Result<Vec<Result<NodeId, StatusCode>>, Refused> {
        let space = session.space();
        let mut found = Vec::new();
        for address in addresses {
            found.push(match address {
                Address::Id(namespace, identifier) => space.node_id(namespace, identifier).ok_or(StatusCode::BAD_NODE_ID_UNKNOWN),
                Address::Path(path) => self.walk(session, &space, path).await?,
            });
        }
        Ok(found)
    }

    async fn walk(&mut self, session: &Session, space: &Space, path: &BrowsePath) -> Result<Result<NodeId, StatusCode>, Refused> {
        let mut at = path.start.node_id();
        for step in &path.steps {
            let children = match self.below(session, &at).await? {
                Ok(children) => children,
                Err(status) => return Ok(Err(status)),
            };
            let mut same = children.iter().filter(|child| is_named(child, step, space));
            match same.next() {
                Some(child) => at = child.node_id.node_id.clone(),
                None => return Ok(Err(StatusCode::BAD_NODE_ID_UNKNOWN)),
            }
        }
        Ok(Ok(at))
    }

    /// Everything below a node along hierarchical references.
    pub async fn below(&mut self, session: &Session, node: &NodeId) -> Result<Result<Children, StatusCode>, Refused> {
        if let Some(known) = self.children.get(node) {
            return Ok(known.clone());
        }
        let browsed = session.browse(&[children_of(node.clone())]).await?.pop();
        let children = match browsed {
            Some(Ok(references)) => Ok(references.into()),
            Some(Err(status)) => Err(StatusCode(status.bits())),
            None => Err(StatusCode::BAD_NODE_ID_UNKNOWN),
        };
        self.children.insert(node.clone(), children.clone());
        Ok(children)
    }

    /// Asks for several nodes at once; [`Self::below`] then knows them.
    pub async fn look_below(&mut self, session: &Session, nodes: &[NodeId]) -> Result<(), Refused> {
        let asked: Vec<&NodeId> = nodes.iter().filter(|node| !self.children.contains_key(*node)).collect();
        let descriptions: Vec<_> = asked.iter().map(|node| children_of((*node).clone())).collect();
        for (node, result) in asked.iter().zip(session.browse(&descriptions).await?) {
            let children = result.map(Into::into).map_err(|status| StatusCode(status.bits()));
            self.children.insert((*node).clone(), children);
        }
        Ok(())
    }
}

fn is_named(child: &ReferenceDescription, step: &Step, space: &Space) -> bool {
    let is_there = match &step.namespace {
        None => true,
        Some(namespace) => space.index(namespace) == Some(child.browse_name.namespace_index),
    };
    is_there && child.browse_name.name.as_ref() == step.name && child.node_id.server_index == 0
}
