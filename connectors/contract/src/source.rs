//! A source: one session after another on one device, broker or folder.
//!
//! ```text
//! loop {                                   // the engine
//!     match source.session(io).await {     // the plugin: connect, then read -> batch -> send, and acknowledge what is durable
//!         Reconnect   => back off with jitter
//!         RetryAfter  => wait as told
//!         Blocked     => status Blocked, try again slowly, or as soon as unblocked() resolves
//!         Stopped     => done
//!     }
//! }
//! ```
//!
//! A session is cancelled by dropping its future only after `stopping()` resolved and the stop's bound passed.
//! Batches of one source are appended in the order of `send`.

use crate::failure::{Failure, Loss, Status};
use crate::tag::TagDef;
use async_trait::async_trait;
use millrace_schemas::{Batch, Micros, TagId};
use std::sync::Arc;

#[async_trait]
pub trait Source: Send {
    /// Talks to the device until it fails or the engine stops. Connects itself; leaves nothing open behind it.
    async fn session(&mut self, io: SourceIo) -> Result<(), Failure>;

    /// After `Blocked`: resolves when a person has done something about it, as far as that shows from here (a certificate is trusted now).
    /// The engine drops it when it tries again anyhow.
    async fn unblocked(&mut self) {
        std::future::pending().await
    }
}

/// The number of a sent batch: grows in the order of `send`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct AckId(pub u64);

/// Why a tag could not be declared: its path is another tag's already.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("tag {path} is declared already, by {by}")]
pub struct Clash {
    pub path: String,
    pub by: String,
}

/// What a session does with the engine. Clone it for several connections; every method is cancel-safe.
#[derive(Clone)]
pub struct SourceIo(Arc<dyn SourceHost>);

/// The engine's side of [`SourceIo`]; the testkit has another.
#[async_trait]
pub trait SourceHost: Send + Sync {
    fn resume(&self, key: &str) -> Option<Vec<u8>>;
    fn positions(&self, prefix: &str) -> Vec<(String, Vec<u8>)>;
    fn declare(&self, tag: TagDef) -> Result<TagId, Clash>;
    fn retire(&self, tag: TagId);
    async fn batch(&self) -> Batch;
    async fn send(&self, batch: Batch, moved: &[(&str, &[u8])]) -> AckId;
    async fn durable(&self, after: AckId) -> AckId;
    async fn command(&self) -> Command;
    fn lost(&self, reason: Loss, count: u64);
    fn alive(&self, part: &str);
    fn gone(&self, part: &str);
    fn status(&self, part: &str, status: Status);
    async fn stopping(&self);
    fn is_stopping(&self) -> bool;
}

impl SourceIo {
    pub fn new(host: Arc<dyn SourceHost>) -> Self {
        Self(host)
    }

    /// The last durable position under one of the plugin's own keys.
    pub fn resume(&self, key: &str) -> Option<Vec<u8>> {
        self.0.resume(key)
    }

    /// All durable positions whose key starts with `prefix`.
    pub fn positions(&self, prefix: &str) -> Vec<(String, Vec<u8>)> {
        self.0.positions(prefix)
    }

    /// Declares a tag, known at compile time or discovered. Declaring the same path again with the same address
    /// returns the same id (and takes over the changed definition).
    pub fn declare(&self, tag: TagDef) -> Result<TagId, Clash> {
        self.0.declare(tag)
    }

    /// A discovered tag is gone for good: its catalog entry is retired, it never turns stale again.
    pub fn retire(&self, tag: TagId) {
        self.0.retire(tag)
    }

    /// A recycled, empty batch with `read_time` set. Waits while the log is full: back-pressure.
    pub async fn batch(&self) -> Batch {
        self.0.batch().await
    }

    /// Hands a batch over, with the positions that moved with it (`&[]` as value removes a key).
    ///
    /// An empty batch may carry a position. Returns when it is in the log, not yet synced.
    pub async fn send(&self, batch: Batch, moved: &[(&str, &[u8])]) -> AckId {
        self.0.send(batch, moved).await
    }

    /// The synced head, once it has passed `after`: acknowledge to the device up to there.
    /// `durable(AckId(n))` resolves with an id greater than n.
    pub async fn durable(&self, after: AckId) -> AckId {
        self.0.durable(after).await
    }

    /// The next command for this source; waits for ever where none can come.
    pub async fn command(&self) -> Command {
        self.0.command().await
    }

    /// Counts readings that existed and never came in.
    pub fn lost(&self, reason: Loss, count: u64) {
        self.0.lost(reason, count)
    }

    /// Something vouched for every tag of this part: a keep-alive, a good poll. Parts are the plugin's: a device, a subscription.
    pub fn alive(&self, part: &str) {
        self.0.alive(part)
    }

    /// The part's device is known to be gone (a death certificate): every tag of it turns bad at once, BadNoCommunication.
    pub fn gone(&self, part: &str) {
        self.0.gone(part)
    }

    /// The status of a part; of the connector itself with an empty part. `Running` with an empty part resets the back-off.
    pub fn status(&self, part: &str, status: Status) {
        self.0.status(part, status)
    }

    /// Resolves when the engine wants the session to end: send the last acknowledgements, close cleanly, return.
    pub async fn stopping(&self) {
        self.0.stopping().await
    }

    pub fn is_stopping(&self) -> bool {
        self.0.is_stopping()
    }
}

/// A command to a device: typed, checked by the engine, expiring, answered.
#[derive(Debug)]
pub struct Command {
    pub id: String,
    pub tag: TagId,
    pub value: CommandValue,
    pub expires: Micros,
    pub answer: Answer,
}

#[derive(Clone, PartialEq, Debug)]
pub enum CommandValue {
    Bool(bool),
    Int(i64),
    UInt(u64),
    Double(f64),
    Text(String),
}

/// What became of a command.
#[derive(Clone, PartialEq, Debug)]
pub enum Outcome {
    Done,
    Refused(String),
    Failed(String),
    Expired,
    Unknown,
}

/// The way back of a command's answer. Dropped unanswered it says `Unknown`.
#[derive(Debug)]
pub struct Answer(Option<tokio::sync::oneshot::Sender<Outcome>>);

impl Answer {
    pub fn new() -> (Self, tokio::sync::oneshot::Receiver<Outcome>) {
        let (tx, rx) = tokio::sync::oneshot::channel();
        (Self(Some(tx)), rx)
    }

    pub fn send(mut self, outcome: Outcome) {
        if let Some(tx) = self.0.take() {
            let _ = tx.send(outcome);
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(tx) = self.0.take() {
            let _ = tx.send(Outcome::Unknown);
        }
    }
}
