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
//!
//! A changed configuration that a source takes over ([`Compiled::hand_to`](crate::Compiled::hand_to)) comes between two sessions, and the connection
//! stays in the source:
//!
//! ```text
//! stopping(), hands_over() ─> what is under way is finished ─> session() returns ─> hand_to(source) ─> session() on the same connection
//! ```
//! Batches of one source are appended in the order of `send`.

use crate::command::Command;
use crate::failure::{Failure, Loss, Status};
use crate::tag::TagDef;
use async_trait::async_trait;
use millrace_schemas::contract::{Kind, SchemaError};
use millrace_schemas::{Batch, RouteId, TagId};
use std::any::Any;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::RwLock;

#[async_trait]
pub trait Source: Any + Send {
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

/// What the path and the address of a tag may have together, in bytes: what a device names without end takes no memory without end.
pub const LONGEST_NAMES: usize = 8192;
/// A name of so many bytes counts for one tag where tags are limited by number, twice as many for two.
const NAME_BYTES: usize = 512;
/// What is shown of a path that is too long, in characters.
const SHOWN: usize = 200;

/// How many tags a name of so many bytes counts for, where they are limited by number.
pub fn name_weight(bytes: usize) -> usize {
    1 + bytes / NAME_BYTES
}

/// Why a tag could not be declared.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Clash {
    /// Its path is another tag's already.
    #[error("tag {path} is declared already, by {by}")]
    Taken { path: String, by: String },
    #[error("the path and the address of a tag have {bytes} bytes, more than {LONGEST_NAMES}; the path begins with {shown}")]
    TooLong { shown: String, bytes: usize },
}

/// The text of a schema in a language, where there is one.
pub type SchemaIn<'s> = dyn Fn(Kind) -> Option<String> + Sync + 's;

/// What a session does with the engine. Clone it for several connections; every method is cancel-safe.
///
/// Invariant: once a session has [ended](Self::end) nothing is sent by it, whatever task of it still runs. So the next session begins with
/// [`resume`](Self::resume) behind all that was sent.
#[derive(Clone)]
pub struct SourceIo(Arc<Session>);

struct Session {
    host: Arc<dyn SourceHost>,
    /// Whether it goes on; held while something is sent.
    goes_on: RwLock<bool>,
}

/// The engine's side of [`SourceIo`]; the testkit has another.
#[async_trait]
pub trait SourceHost: Send + Sync {
    fn resume(&self, key: &str) -> Option<Vec<u8>>;
    fn positions(&self, prefix: &str) -> Vec<(String, Vec<u8>)>;
    fn declare(&self, tag: TagDef) -> Result<TagId, Clash>;
    fn describe(&self, _route: RouteId, _schema: &SchemaIn<'_>) -> Result<(), SchemaError> {
        Ok(())
    }
    fn retire(&self, tag: TagId);
    async fn batch(&self) -> Batch;
    async fn send(&self, batch: Batch, moved: &[(&str, &[u8])]) -> AckId;
    async fn durable(&self, after: AckId) -> AckId;
    async fn durable_within(&self, after: AckId, _apart: Duration) -> AckId {
        self.durable(after).await
    }
    async fn command(&self) -> Command;
    fn lost(&self, reason: Loss, count: u64);
    fn dropped(&self, _reason: Loss, _count: u64) {}
    fn alive(&self, part: &str);
    fn gone(&self, part: &str);
    fn status(&self, part: &str, status: Status);
    fn measure(&self, _what: &'static str, _took: Duration) {}
    async fn stopping(&self);
    fn is_stopping(&self) -> bool;
    async fn closing(&self) {
        self.stopping().await;
    }
    fn hands_over(&self) -> bool {
        false
    }
}

impl SourceIo {
    /// Of a session that begins.
    pub fn new(host: Arc<dyn SourceHost>) -> Self {
        Self(Arc::new(Session { host, goes_on: RwLock::new(true) }))
    }

    /// The engine ends the session, once its future is dropped: a task that was told to end and still runs sends nothing more. Resolves when nothing
    /// is being sent.
    pub async fn end(&self) {
        *self.0.goes_on.write().await = false;
    }

    /// Where to go on: the position that was sent last under one of the plugin's own keys, by this session or an earlier one. After a crash, the last
    /// one that is in the log with what it stands behind.
    pub fn resume(&self, key: &str) -> Option<Vec<u8>> {
        self.0.host.resume(key)
    }

    /// All positions whose key starts with `prefix`, as [`resume`](Self::resume) gives them.
    pub fn positions(&self, prefix: &str) -> Vec<(String, Vec<u8>)> {
        self.0.host.positions(prefix)
    }

    /// Declares a tag, known at compile time or discovered. Declaring the same path again with the same address
    /// returns the same id (and takes over the changed definition).
    ///
    /// Errors: the path is another tag's, or path and address have more than [`LONGEST_NAMES`] bytes.
    pub fn declare(&self, tag: TagDef) -> Result<TagId, Clash> {
        let bytes = tag.path.len() + tag.address.len();
        if bytes > LONGEST_NAMES {
            return Err(Clash::TooLong { shown: tag.path.chars().take(SHOWN).collect(), bytes });
        }
        self.0.host.declare(tag)
    }

    /// Says what the documents of a route are, as the device itself knows it: a topic whose declaration has no schema of its own is written with
    /// this one. `schema` gives it in a language, or `None`. Say it before the first document; a later one holds from then on.
    ///
    /// Errors: the schema cannot be compiled or kept.
    pub fn describe(&self, route: RouteId, schema: &SchemaIn<'_>) -> Result<(), SchemaError> {
        self.0.host.describe(route, schema)
    }

    /// A discovered tag is gone for good: its catalog entry is retired, it never turns stale again.
    pub fn retire(&self, tag: TagId) {
        self.0.host.retire(tag)
    }

    /// A recycled, empty batch with `read_time` set. Waits while the log is full: back-pressure.
    pub async fn batch(&self) -> Batch {
        self.0.host.batch().await
    }

    /// Hands a batch over, with the positions that moved with it (`&[]` as value removes a key).
    ///
    /// An empty batch may carry a position. Returns when it is in the log, not yet synced. Of a batch whose records take no more than 8 MiB in the
    /// log (and no more than an eighth of it), records and positions are there together or not at all, through a kill, too.
    pub async fn send(&self, batch: Batch, moved: &[(&str, &[u8])]) -> AckId {
        let goes_on = self.0.goes_on.read().await;
        if !*goes_on {
            drop(goes_on);
            return std::future::pending().await;
        }
        self.0.host.send(batch, moved).await
    }

    /// The synced head, once it has passed `after`: acknowledge to the device up to there.
    /// `durable(AckId(n))` resolves with an id greater than n.
    pub async fn durable(&self, after: AckId) -> AckId {
        self.0.host.durable(after).await
    }

    /// As [`durable`](Self::durable), with another least time between two syncs than the log's own: shorter for senders that each wait for an
    /// answer before they go on, where the rests would add up.
    pub async fn durable_within(&self, after: AckId, apart: Duration) -> AckId {
        self.0.host.durable_within(after, apart).await
    }

    /// The next command for this source; waits for ever where none can come.
    pub async fn command(&self) -> Command {
        self.0.host.command().await
    }

    /// Counts readings that existed and never came in.
    pub fn lost(&self, reason: Loss, count: u64) {
        self.0.host.lost(reason, count)
    }

    /// Counts records that came and that nothing can be made of, where they are too many to be dead letters: received, and dropped with the reason.
    pub fn dropped(&self, reason: Loss, count: u64) {
        self.0.host.dropped(reason, count)
    }

    /// Something vouched for every tag of this part: a keep-alive, a good poll. Parts are the plugin's: a device, a subscription.
    pub fn alive(&self, part: &str) {
        self.0.host.alive(part)
    }

    /// The part's device is known to be gone (a death certificate): every tag of it turns bad at once, BadNoCommunication.
    pub fn gone(&self, part: &str) {
        self.0.host.gone(part)
    }

    /// The status of a part; of the connector itself with an empty part. `Running` with an empty part resets the back-off.
    pub fn status(&self, part: &str, status: Status) {
        self.0.host.status(part, status)
    }

    /// How long something took, for the metrics; `what` is a label in snake_case: `trigger_to_ack`.
    pub fn measure(&self, what: &'static str, took: Duration) {
        self.0.host.measure(what, took)
    }

    /// Resolves when the engine wants the session to end: send the last acknowledgements, close cleanly, return.
    pub async fn stopping(&self) {
        self.0.host.stopping().await
    }

    pub fn is_stopping(&self) -> bool {
        self.0.host.is_stopping()
    }

    /// As [`stopping`](Self::stopping), but not where the session [hands over](Self::hands_over): the connection is to be closed.
    pub async fn closing(&self) {
        self.0.host.closing().await
    }

    /// The session is to end because this source takes over a changed configuration: the next one follows at once, and goes on with the connection
    /// that this one leaves in the source. Of a source that keeps none it is a stop like any other.
    pub fn hands_over(&self) -> bool {
        self.0.host.hands_over()
    }
}
