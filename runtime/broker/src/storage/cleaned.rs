//! How far compaction has come, as a partition keeps it.

use crate::storage::wire::{Reader, Writer};

/// How far compaction has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// Everything below was covered by some pass.
    pub until: u64,
    /// Tombstones below have been there long enough.
    pub purged: u64,
    /// What earlier passes covered, and when (milliseconds since 1970); while its tombstones still wait.
    passes: Vec<(u64, i64)>,
}

impl Cleaned {
    /// Below which offset tombstones have waited long enough.
    pub fn purge_below(&self, retention_ms: i64, now: i64) -> u64 {
        let old = self.passes.iter().filter(|(_, when)| now.saturating_sub(*when) >= retention_ms);
        old.map(|(until, _)| *until).max().unwrap_or(0).max(self.purged)
    }

    pub fn passed(&mut self, until: u64, purged: u64, now: i64) {
        self.until = self.until.max(until);
        self.purged = purged;
        self.passes.retain(|(until, _)| *until > purged);
        // A few are enough: the newer time stands for both, and tombstones wait a little longer.
        if self.passes.len() >= 8 {
            self.passes.remove(0);
        }
        self.passes.push((self.until, now));
    }

    pub fn write(&self, out: &mut Writer) {
        out.u64(self.until).u64(self.purged).u32(self.passes.len() as u32);
        for (until, when) in &self.passes {
            out.u64(*until).i64(*when);
        }
    }

    pub fn read(from: &mut Reader<'_>) -> Option<Self> {
        Some(Self { until: from.u64()?, purged: from.u64()?, passes: from.list(|from| Some((from.u64()?, from.i64()?)))? })
    }
}
