//! How a broker begins: options, the files that say whose data it is, everything opened in order.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use millrace_log::fs::Fs;
use millrace_log::{KeepFree, Store, StoreError, StoreOptions};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::broker::Broker;
use crate::group::groups::{GroupSettings, Groups, Now};
use crate::limits::Limits;
use crate::maintenance;
use crate::net::security::{Guard, Security, SecurityError};
use crate::net::server;
use crate::random::random_id;
use crate::storage::journal::JournalError;
use crate::storage::topics::Topics;
use crate::storage::whole::write_whole;
use crate::transaction::state::Transactions;

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

/// Written into the data directory; a later format is not touched.
const FORMAT: &str = "MILLRBROKER 1";
/// Bytes of batches that wait for their fdatasync, all partitions together.
const UNSYNCED: u64 = 16 << 20;
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
        let topics = Topics::open(&store, dir.join("topics.copy"), interval, transactions.clone())?;
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
            stuck: Mutex::default(),
            limits: Limits::default(),
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
        *broker.tasks.lock() = vec![
            tokio::spawn(server::run(broker.clone(), listener)),
            tokio::spawn(maintenance::run(broker.clone())),
            tokio::spawn(keep_groups),
        ];
        tracing::info!(listen = %listening, dir = %dir.display(), topics = broker.topics.all().len(), "the embedded broker runs");
        Ok(broker)
    }
}

/// Refuses the data of another format, and marks a new directory with ours.
///
/// Later formats carry a checksum (see [`other_format`]); what is neither ours nor such a one is damaged, and written anew: the logs beside it
/// say their own versions.
fn check_format(dir: &Path) -> Result<(), StartError> {
    let path = dir.join("format");
    let failed = |source| StartError::Io { path: path.clone(), source };
    // Nobody else's to read: what it holds is the plant's.
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    match std::fs::read(&path) {
        Ok(found) if found.trim_ascii() == FORMAT.as_bytes() => return Ok(()),
        Ok(found) => {
            if let Some(found) = other_format(&found) {
                return Err(StartError::Format { path: dir.to_path_buf(), found });
            }
            tracing::warn!("{} is damaged and is written anew", path.display());
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(failed(e)),
    }
    write_whole(&path, format!("{FORMAT}\n").as_bytes()).map_err(failed)
}

/// Another format than ours: its name, and the CRC-32C of that in a second line, in hexadecimal.
fn other_format(found: &[u8]) -> Option<String> {
    let name = checked_line(std::str::from_utf8(found).ok()?)?;
    name.starts_with("MILLRBROKER ").then(|| name.to_owned())
}

/// The first line of a text whose second is its checksum.
fn checked_line(text: &str) -> Option<&str> {
    let (line, crc) = text.trim_end().split_once('\n')?;
    (u32::from_str_radix(crc, 16) == Ok(crc32c::crc32c(line.as_bytes()))).then_some(line)
}

/// The name of this cluster, made at the first start: in `cluster`, and with a checksum in `cluster.copy`.
fn cluster_id(dir: &Path) -> Result<String, StartError> {
    let (path, copy) = (dir.join("cluster"), dir.join("cluster.copy"));
    let read = |path: &Path| match std::fs::read(path) {
        Ok(bytes) => Ok(String::from_utf8(bytes).unwrap_or_default()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(source) => Err(StartError::Io { path: path.to_path_buf(), source }),
    };
    let write = |path: &Path, text: String| {
        write_whole(path, text.as_bytes()).map_err(|source| StartError::Io { path: path.to_path_buf(), source })
    };
    let (first, second) = (read(&path)?, read(&copy)?);
    let copied = checked_line(&second);
    let is_id = |id: &&str| id.len() == ID_LEN && id.bytes().all(|byte| ID_ALPHABET.contains(&byte));
    let id = match (copied, Some(first.trim()).filter(is_id)) {
        (Some(id), _) => id.to_owned(),
        (None, Some(id)) => id.to_owned(),
        (None, None) => {
            if !first.is_empty() {
                tracing::warn!("{} is damaged, and so is its copy: the cluster gets a new id", path.display());
            }
            new_cluster_id()
        }
    };
    if first.trim() != id {
        if !first.is_empty() {
            tracing::warn!("{} is damaged and is written anew", path.display());
        }
        write(&path, format!("{id}\n"))?;
    }
    if copied != Some(&id) {
        write(&copy, format!("{id}\n{:08x}\n", crc32c::crc32c(id.as_bytes())))?;
    }
    Ok(id)
}

/// As Kafka writes its own: 16 bytes in 22 characters of base64 for URLs.
const ID_ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const ID_LEN: usize = 22;

fn new_cluster_id() -> String {
    let bits = u128::from_be_bytes(random_id());
    (0..ID_LEN).map(|i| char::from(ID_ALPHABET[(bits >> (6 * i) & 63) as usize])).collect()
}

#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod tests;
