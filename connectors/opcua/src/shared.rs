//! What the tasks of one session share: readings, types, nodes, triggers.

use crate::compiled::CompiledSource;
use crate::readings::Readings;
use crate::resolve::Resolver;
use crate::session::{Refused, Session, attribute_of};
use crate::types::Types;
use crate::wire::builtin;
use millrace_contract::SourceIo;
use millrace_kit::Triggers;
use millrace_schemas::StatusCode;
use opcua::types::{AttributeId, NodeId, Variant};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// A node, or why there is none; and when that was found out.
type Known = (Result<NodeId, StatusCode>, Instant);

/// What the tasks of one session have in common. No lock is held while anything is waited for.
pub struct Shared {
    pub job: Arc<CompiledSource>,
    pub io: SourceIo,
    pub readings: parking_lot::Mutex<Readings>,
    /// What is known of the server's types; replaced as a whole when it said more.
    types: parking_lot::RwLock<Arc<Types>>,
    pub triggers: parking_lot::Mutex<Triggers>,
    /// Ticks when there may be something to acknowledge to the device.
    pub acknowledge: Notify,
    /// Node ids of this connection, by handle.
    nodes: parking_lot::Mutex<HashMap<usize, Known>>,
    url: String,
    /// Ticks when the server says that its address space changed.
    pub model: watch::Sender<()>,
    pub at: String,
}

/// What was not there is looked for again after this.
const MISSING_FOR: Duration = Duration::from_secs(5);
impl Shared {
    pub fn new(job: Arc<CompiledSource>, io: SourceIo) -> Self {
        let at = job.at.clone();
        Self {
            job,
            io,
            readings: parking_lot::Mutex::default(),
            types: parking_lot::RwLock::default(),
            triggers: parking_lot::Mutex::default(),
            acknowledge: Notify::new(),
            nodes: parking_lot::Mutex::default(),
            url: String::new(),
            model: watch::Sender::new(()),
            at,
        }
    }

    /// Another connection, to this server.
    pub fn connected(&mut self, io: SourceIo, url: String) {
        (self.io, self.url) = (io, url);
    }

    /// Node ids and types were those of another table of namespaces.
    pub fn forget(&self) {
        self.nodes.lock().clear();
        *self.types.write() = Arc::default();
    }

    /// A node that was found by browsing.
    pub fn is_at(&self, handle: usize, node: NodeId) {
        self.nodes.lock().insert(handle, (Ok(node), Instant::now()));
    }

    /// What is known of the server's types now.
    pub fn types(&self) -> Arc<Types> {
        self.types.read().clone()
    }

    /// Asks the server how values with these encodings are laid out.
    pub async fn learn(&self, session: &Session, encodings: &[Vec<u8>]) -> Result<(), Refused> {
        let mut types = Types::clone(&self.types());
        for encoding in encodings {
            types.learn_encoding(session, encoding).await?;
        }
        *self.types.write() = Arc::new(types);
        Ok(())
    }

    /// Asks the server about data types.
    pub async fn learn_types(&self, session: &Session, ids: &[NodeId]) -> Result<Arc<Types>, Refused> {
        let known = self.types();
        if ids.iter().all(|id| known.known(id).is_some()) {
            return Ok(known);
        }
        let mut types = Types::clone(&known);
        types.learn(session, ids).await?;
        let types = Arc::new(types);
        *self.types.write() = types.clone();
        Ok(types)
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// The server says that nodes came or went.
    pub fn model_changed(&self) {
        self.model.send_replace(());
    }

    /// The node of each item.
    pub async fn resolve(&self, session: &Session, handles: &[usize]) -> Result<Vec<Result<NodeId, StatusCode>>, Refused> {
        let unknown: Vec<usize> = {
            let nodes = self.nodes.lock();
            let is_unknown = |handle: &usize| match nodes.get(handle) {
                None => true,
                Some((node, since)) => node.is_err() && since.elapsed() > MISSING_FOR,
            };
            handles.iter().copied().filter(is_unknown).collect()
        };
        if !unknown.is_empty() {
            let indices: Vec<Option<usize>> = {
                let readings = self.readings.lock();
                unknown.iter().map(|handle| readings.item(*handle).index).collect()
            };
            let named: Vec<_> = unknown
                .iter()
                .zip(&indices)
                .filter_map(|(handle, index)| index.map(|index| (*handle, &self.job.polled.tags[index].address.address)))
                .collect();
            let addresses: Vec<_> = named.iter().map(|(_, address)| *address).collect();
            let found = Resolver::default().resolve(session, &addresses).await?;
            let mut nodes = self.nodes.lock();
            for ((handle, _), node) in named.into_iter().zip(found) {
                nodes.insert(handle, (node, Instant::now()));
            }
        }
        let nodes = self.nodes.lock();
        let node = |handle: &usize| nodes.get(handle).map_or(Err(StatusCode::BAD_NODE_ID_UNKNOWN), |(node, _)| node.clone());
        Ok(handles.iter().map(node).collect())
    }

    /// The built-in type of a variable.
    pub async fn builtin_of(&self, session: &Session, node: &NodeId) -> Result<u8, Refused> {
        let value = session.read(&[attribute_of(node.clone(), AttributeId::DataType)]).await?.pop();
        let Some(Some(Variant::NodeId(id))) = value.map(|value| value.value) else { return Ok(builtin::VARIANT) };
        let types = self.learn_types(session, std::slice::from_ref(&*id)).await?;
        Ok(types.known(&id).map_or(builtin::VARIANT, |known| known.builtin))
    }
}
