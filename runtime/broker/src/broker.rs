//! What the handlers share.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use millrace_log::{ReadBuf, Store, StoreError};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::group::groups::Groups;
use crate::limits::Limits;
use crate::net::security::Guard;
use crate::storage::damage::Damage;
use crate::storage::topics::Topics;
use crate::transaction::state::Transactions;
use crate::transaction::stuck::Stuck;

/// This node's id in its cluster of one.
pub const NODE: i32 = 1;
/// Partitions of a topic that a client creates by using it.
pub const DEFAULT_PARTITIONS: usize = 1;
/// Buffers kept for the next reads, and the largest that is.
const SPARE_BUFFERS: usize = 4;
const SPARE_BYTES: usize = 2 << 20;

/// A running broker. Dropped without [`Broker::stop`] it is as if the power of this process had been cut: nothing acknowledged is lost.
pub struct Broker {
    pub(crate) cluster_id: String,
    pub(crate) sync: Duration,
    pub(crate) guard: Option<Guard>,
    pub(crate) store: Store,
    pub(crate) topics: Topics,
    pub(crate) groups: Groups,
    pub(crate) transactions: Arc<Transactions>,
    pub(crate) stuck: Mutex<Stuck>,
    pub(crate) limits: Limits,
    pub(crate) listening: SocketAddr,
    pub(crate) buffers: Mutex<Vec<ReadBuf>>,
    pub(crate) stopping: watch::Sender<bool>,
    /// What serves and what tends, ended by the stop.
    pub(crate) tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Broker {
    /// Where it listens, with the port that was chosen if none was given.
    pub fn listening(&self) -> SocketAddr {
        self.listening
    }

    /// Ends the connections, saves what is known about partitions, closes the logs. Safe to call twice.
    pub async fn stop(&self) -> Result<(), StoreError> {
        self.stopping.send_replace(true);
        let tasks = std::mem::take(&mut *self.tasks.lock());
        for task in tasks {
            let _ = task.await;
        }
        if let Err(e) = self.topics.copy_if_due() {
            tracing::warn!("cannot write the copy of the topics' journal: {e}");
        }
        for (_, partition) in self.topics.opened() {
            if let Err(e) = partition.save() {
                tracing::warn!(topic = %partition.topic, partition = partition.index, "cannot save what is known about the partition: {e}");
            }
        }
        self.store.close()
    }

    /// What of the data could not be read, by where it lies: the journals, and the partitions that are open.
    pub fn damage(&self) -> Vec<(String, Damage)> {
        let journals = [("topics", self.topics.damage()), ("groups", self.groups.damage()), ("transactions", self.transactions.damage())];
        let journals = journals.into_iter().map(|(name, damage)| (format!("the journal of the {name}"), damage));
        let partitions =
            self.topics.opened().into_iter().map(|(_, one)| (format!("partition {} of topic {}", one.index, one.topic), one.damage()));
        journals.chain(partitions).filter(|(_, damage)| damage.is_any()).collect()
    }

    pub(crate) fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// Resolves when the broker stops.
    pub(crate) async fn stopped(&self) {
        // The sender lives as long as the broker: no error.
        let _ = self.stopping.subscribe().wait_for(|stopping| *stopping).await;
    }

    /// Lends a buffer for reads.
    pub(crate) fn with_buffer<T>(&self, read: impl FnOnce(&mut ReadBuf) -> T) -> T {
        let mut buffer = self.buffers.lock().pop().unwrap_or_default();
        let out = read(&mut buffer);
        let is_small = buffer.batches().map(|batch| batch.payload.len()).sum::<usize>() <= SPARE_BYTES;
        let mut buffers = self.buffers.lock();
        if buffers.len() < SPARE_BUFFERS && is_small {
            buffers.push(buffer);
        }
        out
    }
}
