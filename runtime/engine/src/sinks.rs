//! Sinks by consumer groups: consume, write, flush, commit below what is durable.
//!
//! ```text
//! session: join the group, make an instance
//! loop {
//!     Assigned(parts)  => instance.assign(parts); take them from the offsets the target holds, else from the group's
//!     Messages         => decode where samples are wanted; instance.write(records)
//!     held             => instance.turn(): it reads its partitions itself, and the group's are paused
//!     flush_every      => instance.flush(Tick);   dead letters in Kafka; commit
//!     Revoked(parts)   => instance.flush(Revoke); dead letters in Kafka; commit; instance.revoke(parts); give them back
//! }
//! stop:    flush(Stop); dead letters; commit; leave the group
//! failure: drop the instance and leave the group, so that another runtime may go on meanwhile; back off; the next session
//! ```
//!
//! One thread per sink: a rebalance waits for the write at hand, and nothing is written behind the back of a flush. What is not committed
//! comes again: at least once, unless the target holds the offsets itself.

mod decode;
mod health;
mod held;
mod lag;
mod letters;
mod offsets;
mod options;
mod session;
mod topics;

use crate::error::EngineError;
use crate::hold::Order;
use crate::sinks::options::Shared;
use crate::sinks::session::Runner;
pub(crate) use decode::decode_sample;
pub use options::{DeadLetterOf, SinkCounts, SinkOptions};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A running sink: its thread.
pub struct SinkTask {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl SinkTask {
    /// Starts the thread; a target or a Kafka that is away is tried again for ever.
    ///
    /// Errors: no thread can be had.
    pub fn start(options: SinkOptions, tokio: tokio::runtime::Handle) -> Result<Self, EngineError> {
        let shared = Arc::new(Shared { order: Mutex::new(options.order), ..Shared::default() });
        let name = options.name.clone();
        let runner = Runner { options, shared: shared.clone(), tokio };
        let thread = std::thread::Builder::new().name(format!("sink {name}")).spawn(move || runner.run());
        let thread = thread.map_err(|error| EngineError::Thread { what: format!("sink {name}"), error })?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    pub fn counts(&self) -> SinkCounts {
        let shared = &self.shared;
        let standing = *shared.standing.lock();
        let (bytes, open_ms) = {
            let lag = shared.lag.lock();
            (lag.bytes(), lag.open_ms())
        };
        SinkCounts {
            written: shared.written.load(Relaxed),
            dead: shared.dead.load(Relaxed),
            filtered: shared.filtered.load(Relaxed),
            lost: shared.lost.load(Relaxed),
            missed: shared.missed.load(Relaxed),
            consumed: shared.consumed.load(Relaxed),
            bytes,
            late: shared.late.load(Relaxed),
            lag: standing.records,
            lag_bytes: standing.bytes,
            oldest_ms: standing.oldest_ms.into_iter().chain(open_ms).min(),
            catch_up_seconds: standing.catch_up.map(|seconds| seconds as u64),
        }
    }

    /// Changes what it is to do; it ends what it is at, in order, and then does that.
    pub fn tell(&self, change: impl Fn(&mut Order)) {
        // Held while it changes, so that who goes to wait sees it.
        let _bound = self.shared.bound.lock();
        change(&mut self.shared.order.lock());
        self.shared.stopped.notify_all();
    }

    /// It is paused or stopped, and has left its group.
    pub fn rests(&self) -> bool {
        self.shared.rests.load(Relaxed)
    }

    /// The target holds the offsets itself, and the group's are not asked.
    pub fn is_placed_by_target(&self) -> bool {
        self.shared.is_placed_by_target.load(Relaxed)
    }

    /// Flushes, commits, leaves the group; bounded. Safe to call twice.
    pub fn stop(&self, bound: Duration) {
        let Some(thread) = self.thread.lock().take() else { return };
        {
            let mut held = self.shared.bound.lock();
            *held = bound;
            self.shared.order.lock().ends = true;
            self.shared.stopped.notify_all();
        }
        let deadline = Instant::now() + bound + Duration::from_secs(2);
        while !thread.is_finished() && Instant::now() < deadline {
            std::thread::park_timeout(Duration::from_millis(10));
        }
        if thread.is_finished() {
            let _ = thread.join();
        } else {
            tracing::warn!("a sink did not end in time; what it had not committed comes again at the next start");
        }
    }
}
