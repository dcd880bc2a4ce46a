//! How many bytes the logs of one source may take together, and what happens at the bound.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::error::{AppendError, Bound};

/// What happens to a batch that does not fit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Full {
    /// The append is refused; the source is slowed.
    Block,
    /// The oldest sealed segment of the log with the lowest priority goes, and its records are counted.
    DropOldest,
    /// The append is refused; the caller counts the new batch as lost.
    DropNewest,
}

type Observer = Arc<dyn Fn() + Send + Sync>;

/// A log, as the budget that it shares has to do with it.
pub(crate) trait Member: Send + Sync {
    /// The lowest one loses segments first.
    fn priority(&self) -> u8;
    fn tell_room(&self);
    /// False: there is none that may go.
    fn drop_oldest_segment(&self) -> bool;
}

/// A bound shared by the logs (lanes) of one source.
pub struct Budget {
    limit: u64,
    full: Full,
    used: AtomicU64,
    members: Mutex<Vec<Weak<dyn Member>>>,
    refused: AtomicBool,
    observers: Mutex<Vec<Observer>>,
}

impl Budget {
    pub fn new(limit_bytes: u64, full: Full) -> Arc<Self> {
        Arc::new(Self {
            limit: limit_bytes,
            full,
            used: AtomicU64::new(0),
            members: Mutex::default(),
            refused: AtomicBool::new(false),
            observers: Mutex::default(),
        })
    }

    /// Bytes taken by the logs that share this budget.
    pub fn used(&self) -> u64 {
        self.used.load(Relaxed)
    }

    pub fn limit(&self) -> u64 {
        self.limit
    }

    pub fn full(&self) -> Full {
        self.full
    }

    /// Calls `observer` when an append was refused and bytes have become free since.
    pub fn on_room(&self, observer: impl Fn() + Send + Sync + 'static) {
        self.observers.lock().push(Arc::new(observer));
    }

    /// Segments are small beside the budget, so that what is consumed can go while the newest batch stays.
    pub(crate) fn segment_bytes(&self, wanted: u64) -> u64 {
        wanted.min((self.limit / 16).max(64 << 10))
    }

    pub(crate) fn join(&self, member: Weak<dyn Member>) {
        let mut members = self.members.lock();
        members.retain(|member| member.strong_count() > 0);
        members.push(member);
    }

    /// Takes bytes that are on the disk whatever the limit says.
    pub(crate) fn charge(&self, bytes: u64) {
        self.used.fetch_add(bytes, Relaxed);
    }

    /// Gives bytes back; the caller then calls [`Budget::tell`], holding no lock.
    pub(crate) fn release(&self, bytes: u64) {
        let _ = self.used.fetch_update(Relaxed, Relaxed, |used| Some(used.saturating_sub(bytes)));
    }

    /// Tells the observers about room, if an append was refused.
    pub(crate) fn tell(&self) {
        if self.used() >= self.limit || !self.refused.swap(false, Relaxed) {
            return;
        }
        let observers = self.observers.lock().clone();
        observers.iter().for_each(|observer| observer());
        let members: Vec<_> = self.members.lock().iter().filter_map(Weak::upgrade).collect();
        members.iter().for_each(|member| member.tell_room());
    }

    /// Takes bytes for a batch; the caller holds no log's lock, because with `DropOldest` any member may lose a segment.
    pub(crate) fn reserve(&self, bytes: u64) -> Result<(), AppendError> {
        if bytes > self.limit {
            return Err(AppendError::TooLarge { bytes, limit: self.limit });
        }
        loop {
            let fits = |used: u64| Some(used + bytes).filter(|sum| *sum <= self.limit);
            if self.used.fetch_update(Relaxed, Relaxed, fits).is_ok() {
                return Ok(());
            }
            if self.full != Full::DropOldest || !self.drop_oldest() {
                self.refused.store(true, Relaxed);
                return Err(AppendError::Full { bound: Bound::Budget, used: self.used(), limit: self.limit });
            }
        }
    }

    fn drop_oldest(&self) -> bool {
        let mut members: Vec<_> = self.members.lock().iter().filter_map(Weak::upgrade).collect();
        members.sort_by_key(|member| member.priority());
        members.iter().any(|member| member.drop_oldest_segment())
    }
}
