//! What the handlers share, and how a broker begins and ends.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use millrace_log::fs::Fs;
use millrace_log::{KeepFree, ReadBuf, Store, StoreError, StoreOptions};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::connection;
use crate::fetch;
use crate::groups::{GroupSettings, Groups, Now};
use crate::journal::JournalError;
use crate::room::Room;
use crate::security::{Guard, Security, SecurityError};
use crate::server;
use crate::tend;
use crate::topics::Topics;
use crate::transactions::Transactions;

/// This node's id in its cluster of one.
pub const NODE: i32 = 1;
/// Partitions of a topic that a client creates by using it.
pub const DEFAULT_PARTITIONS: usize = 1;
/// Written into the data directory; a later format is not touched.
const FORMAT: &str = "MILLRBROKER 1";
/// Bytes of batches that wait for their fdatasync, all partitions together.
const UNSYNCED: u64 = 16 << 20;
/// Buffers kept for the next reads.
const SPARE_BUFFERS: usize = 4;

/// How a broker is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where it keeps its data; one process at a time.
    pub dir: PathBuf,
    pub listen: SocketAddr,
    /// What a power cut may take; zero: an `acks=all` write is answered when it is synced.
    pub sync: Duration,
    pub keep_free: KeepFree,
    /// TLS and logins; off loopback they are wanted.
    pub security: Option<Security>,
}

/// Why a broker did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot listen on {addr}; if another program has the port, choose one with `listen`")]
    Listen { addr: SocketAddr, source: io::Error },
    #[error("{0} can be reached from elsewhere: TLS (`tls`) and logins (`users`) are needed there, or listen on 127.0.0.1")]
    Unguarded(SocketAddr),
    #[error(transparent)]
    Security(#[from] SecurityError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error("{} holds the data of another format ({found}); this program reads {FORMAT}", path.display())]
    Format { path: PathBuf, found: String },
    #[error("cannot use {}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// A running broker. Dropped without [`Broker::stop`] it is as if the power of this process had been cut: nothing acknowledged is lost.
pub struct Broker {
    pub(crate) cluster_id: String,
    pub(crate) sync: Duration,
    pub(crate) guard: Option<Guard>,
    pub(crate) store: Store,
    pub(crate) topics: Topics,
    pub(crate) groups: Groups,
    pub(crate) transactions: Arc<Transactions>,
    /// For large requests, and for answers with records.
    pub(crate) requests: Room,
    pub(crate) answers: Room,
    listening: SocketAddr,
    buffers: Mutex<Vec<ReadBuf>>,
    stopping: watch::Sender<bool>,
    /// What serves and what tends, ended by the stop.
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Broker {
    /// Opens the data directory and listens; partitions are opened as they are asked for.
    pub async fn start(options: Options) -> Result<Arc<Self>, StartError> {
        let StoreOptions { fs, .. } = StoreOptions::default();
        Self::start_on(fs, options).await
    }

    /// As [`Broker::start`], with the logs on a disk of the caller's.
    pub(crate) async fn start_on(fs: Arc<dyn Fs>, options: Options) -> Result<Arc<Self>, StartError> {
        if options.security.is_none() && !options.listen.ip().is_loopback() {
            return Err(StartError::Unguarded(options.listen));
        }
        let guard = options.security.as_ref().map(Guard::new).transpose()?;
        let dir = options.dir.clone();
        check_format(&dir)?;
        let store_options = StoreOptions { keep_free: options.keep_free, unsynced: UNSYNCED, fs, ..StoreOptions::default() };
        let store = Store::open(dir.join("logs"), store_options)?;
        let listener = TcpListener::bind(options.listen).await.map_err(|source| StartError::Listen { addr: options.listen, source })?;
        let listening = listener.local_addr().map_err(|source| StartError::Listen { addr: options.listen, source })?;
        // Group commit when someone waits; otherwise no fdatasync is needed sooner than a second.
        let interval = if options.sync.is_zero() { Duration::from_millis(200) } else { options.sync };
        let transactions = Arc::new(Transactions::open(&store)?);
        let topics = Topics::open(&store, interval, transactions.clone())?;
        let settings = GroupSettings { sync_commits: options.sync.is_zero(), ..GroupSettings::default() };
        let groups = Groups::open(&store, settings, Now::new())?;
        let broker = Arc::new(Self {
            cluster_id: cluster_id(&dir)?,
            sync: options.sync,
            guard,
            store,
            topics,
            groups,
            transactions,
            requests: Room::new(connection::REQUESTS),
            answers: Room::new(fetch::ANSWERS),
            listening,
            buffers: Mutex::default(),
            stopping: watch::channel(false).0,
            tasks: Mutex::default(),
        });
        broker.recover_transactions();
        let keep_groups = {
            let broker = broker.clone();
            async move {
                tokio::select! {
                    () = broker.groups.run() => {}
                    () = broker.stopped() => {}
                }
            }
        };
        *broker.tasks.lock() =
            vec![tokio::spawn(server::run(broker.clone(), listener)), tokio::spawn(tend::run(broker.clone())), tokio::spawn(keep_groups)];
        tracing::info!(listen = %listening, dir = %dir.display(), topics = broker.topics.all().len(), "the embedded broker runs");
        Ok(broker)
    }

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
        for (_, partition) in self.topics.opened() {
            if let Err(e) = partition.save() {
                tracing::warn!(topic = %partition.topic, partition = partition.index, "{e}");
            }
        }
        self.store.close()
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
        let mut buffers = self.buffers.lock();
        if buffers.len() < SPARE_BUFFERS {
            buffers.push(buffer);
        }
        out
    }
}

/// Milliseconds since 1970.
pub fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
}

/// Refuses the data of another format, and marks a new directory with ours.
fn check_format(dir: &Path) -> Result<(), StartError> {
    let path = dir.join("format");
    let failed = |source| StartError::Io { path: path.clone(), source };
    std::fs::create_dir_all(dir).map_err(failed)?;
    match std::fs::read_to_string(&path) {
        Ok(found) if found.trim() == FORMAT => Ok(()),
        Ok(found) => Err(StartError::Format { path: dir.to_path_buf(), found: found.trim().chars().take(40).collect() }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => write_whole(&path, FORMAT).map_err(failed),
        Err(e) if e.kind() == io::ErrorKind::InvalidData => {
            Err(StartError::Format { path: dir.to_path_buf(), found: "not text".to_owned() })
        }
        Err(e) => Err(failed(e)),
    }
}

/// The name of this cluster, made at the first start.
fn cluster_id(dir: &Path) -> Result<String, StartError> {
    let path = dir.join("cluster");
    let failed = |source| StartError::Io { path: path.clone(), source };
    match std::fs::read_to_string(&path) {
        Ok(id) if !id.trim().is_empty() => Ok(id.trim().to_owned()),
        Ok(_) => new_cluster_id(&path).map_err(failed),
        Err(e) if e.kind() == io::ErrorKind::NotFound => new_cluster_id(&path).map_err(failed),
        Err(e) => Err(failed(e)),
    }
}

fn new_cluster_id(path: &Path) -> io::Result<String> {
    // As Kafka writes its own: 16 bytes in 22 characters of base64 for URLs.
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bits = u128::from_be_bytes(crate::topics::random_id());
    let id: String = (0..22).map(|i| char::from(ALPHABET[(bits >> (6 * i) & 63) as usize])).collect();
    write_whole(path, &id)?;
    Ok(id)
}

/// Writes a small file so that it is there whole or not at all.
fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    std::fs::write(&temporary, format!("{text}\n"))?;
    std::fs::File::open(&temporary)?.sync_all()?;
    std::fs::rename(&temporary, path)?;
    path.parent().map_or(Ok(()), |dir| std::fs::File::open(dir)?.sync_all())
}

#[cfg(test)]
mod tests;
