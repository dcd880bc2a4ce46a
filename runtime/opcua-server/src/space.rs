//! The nodes of the server: made when there is something new to see, gone with what they showed, changed where a value is another.

use crate::NAMESPACE;
use crate::nodes::Node;
use opcua::nodes::{ObjectBuilder, VariableBuilder};
use opcua::server::SubscriptionCache;
use opcua::server::address_space::AddressSpace;
use opcua::server::diagnostics::NamespaceMetadata;
use opcua::server::node_manager::ServerContext;
use opcua::server::node_manager::memory::{InMemoryNodeManager, InMemoryNodeManagerImpl};
use opcua::types::{
    DataValue, DateTime, LocalizedText, NodeId, ObjectId, ObjectTypeId, QualifiedName, StatusCode, VariableTypeId, Variant,
};
use std::collections::{BTreeMap, BTreeSet};

pub type Manager = InMemoryNodeManager<Face>;

/// The node on top.
const TOP: &str = "Millrace";

/// A node manager that has one namespace, and takes no writes: the library refuses what nobody implements.
pub struct Face {
    namespace: u16,
}

impl Face {
    pub fn new(context: &ServerContext, space: &mut AddressSpace) -> Self {
        let namespace = context.type_tree.write().namespaces_mut().add_namespace(NAMESPACE);
        space.add_namespace(NAMESPACE, namespace);
        Self { namespace }
    }
}

#[async_trait::async_trait]
impl InMemoryNodeManagerImpl for Face {
    async fn init(&self, _: &mut AddressSpace, _: ServerContext) {}

    fn name(&self) -> &str {
        "millrace"
    }

    fn namespaces(&self) -> Vec<NamespaceMetadata> {
        vec![NamespaceMetadata { namespace_uri: NAMESPACE.to_owned(), namespace_index: self.namespace, ..NamespaceMetadata::default() }]
    }
}

/// What the server shows now, by path: a variable's value, or that it is a folder.
#[derive(Default)]
pub struct Shown(BTreeMap<String, Option<Variant>>);

impl Shown {
    /// Shows these nodes, and no others.
    pub fn show(
        &mut self,
        manager: &Manager,
        subscriptions: &SubscriptionCache,
        nodes: Vec<Node>,
        now: DateTime,
    ) -> Result<(), StatusCode> {
        let namespace = manager.inner().namespace;
        let wanted: BTreeSet<&str> = nodes.iter().map(|node| node.path.as_str()).collect();
        let gone: Vec<String> = self.0.keys().filter(|path| !wanted.contains(path.as_str())).cloned().collect();
        {
            let mut space = manager.address_space().write();
            for path in gone {
                space.delete(&node_id(namespace, &path), true);
                self.0.remove(&path);
            }
            for node in nodes.iter().filter(|node| !self.0.contains_key(&node.path)) {
                add(&mut space, namespace, node);
            }
        }
        let mut changed = Vec::new();
        for Node { path, value, .. } in nodes {
            let value = value.map(|(_, value)| value);
            if self.0.get(&path) != Some(&value)
                && let Some(value) = &value
            {
                changed.push((node_id(namespace, &path), DataValue::new_at(value.clone(), now)));
            }
            self.0.insert(path, value);
        }
        manager.set_values(subscriptions, changed.iter().map(|(id, value)| (id, None, value.clone())))
    }
}

fn node_id(namespace: u16, path: &str) -> NodeId {
    NodeId::new(namespace, if path.is_empty() { TOP } else { path })
}

fn add(space: &mut AddressSpace, namespace: u16, node: &Node) {
    let id = node_id(namespace, &node.path);
    let (parent, name) = match node.path.rsplit_once('/') {
        Some((parent, name)) => (node_id(namespace, parent), name),
        None if node.path.is_empty() => (ObjectId::ObjectsFolder.into(), TOP),
        None => (node_id(namespace, ""), node.path.as_str()),
    };
    let (browse_name, about) = (QualifiedName::new(namespace, name), LocalizedText::new("en", node.about));
    let Some((kind, value)) = &node.value else {
        let object = ObjectBuilder::new(&id, browse_name, name).description(about).has_type_definition(ObjectTypeId::FolderType);
        object.organized_by(parent).insert(space);
        return;
    };
    let mut variable = VariableBuilder::new(&id, browse_name, name)
        .description(about)
        .data_type(*kind)
        .component_of(parent)
        .has_type_definition(VariableTypeId::BaseDataVariableType);
    if matches!(value, Variant::Array(_)) {
        variable = variable.value_rank(1);
    }
    variable.value(value.clone()).insert(space);
}
