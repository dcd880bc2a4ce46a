//! How many bytes the logs of one source may take together, and what happens at the bound.

use std::sync::Arc;

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

/// A bound shared by the logs (lanes) of one source.
pub struct Budget {}

impl Budget {
    pub fn new(_limit_bytes: u64, _full: Full) -> Arc<Self> {
        todo!()
    }

    /// Bytes taken by the logs that share this budget.
    pub fn used(&self) -> u64 {
        todo!()
    }

    pub fn limit(&self) -> u64 {
        todo!()
    }

    pub fn full(&self) -> Full {
        todo!()
    }

    /// Calls `observer` when an append was refused and bytes have become free since.
    pub fn on_room(&self, _observer: impl Fn() + Send + Sync + 'static) {
        todo!()
    }
}
