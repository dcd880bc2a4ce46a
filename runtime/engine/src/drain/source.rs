//! A source, as the drain keeps it.

use crate::source_logs::SourceLogs;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Positions of a source that wait for a slow lane, at most; beyond that neighbours are folded.
pub(super) const PENDING: usize = 256;

/// A source, as the drain keeps it.
pub(super) struct Source {
    pub(super) source_logs: Arc<SourceLogs>,
    /// Positions that moved and are not in Kafka yet, by the offset behind which they count.
    pub(super) pending: BTreeMap<u64, Vec<(String, Vec<u8>)>>,
    pub(super) right: Right,
}

/// What may be sent of a source, where runtimes share their sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Right {
    /// Nothing is shared, or it is the engine's own: all of it.
    All,
    /// This runtime is its owner: all of it, fenced.
    Owner,
    /// Another may be: its records, as far as the other does not read them again, but no positions.
    Remains,
}

impl Source {
    /// Whether its records may go: not those that their next owner reads again, and of those that are fenced none while the fence does not hold.
    pub(super) fn may_send(&self, is_fence_broken: bool) -> bool {
        match self.right {
            Right::All => true,
            Right::Owner => !is_fence_broken,
            Right::Remains => !self.source_logs.reads_again.load(Relaxed),
        }
    }

    pub(super) fn push(&mut self, moved: Moved) {
        self.pending.insert(moved.behind, moved.keys);
        if self.pending.len() > PENDING
            && let Some((_, older)) = self.pending.pop_first()
            && let Some(mut next) = self.pending.first_entry()
        {
            let newer = next.get_mut();
            let kept: Vec<_> = older.into_iter().filter(|(key, _)| newer.iter().all(|(k, _)| k != key)).collect();
            newer.splice(0..0, kept);
        }
    }
}

pub(super) struct Moved {
    /// Every lane of the source must have delivered what lies below.
    pub behind: u64,
    pub keys: Vec<(String, Vec<u8>)>,
}
