//! What could not be read of a log: said once, counted until the broker ends.

use millrace_log::{Faults, Recovery};

/// Places set aside because they could not be read, and what was in them as far as that is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Damage {
    pub places: u64,
    pub records: u64,
    pub bytes: u64,
}

impl Damage {
    /// What opening a log found.
    pub fn found(recovery: &Recovery) -> Self {
        Self {
            places: recovery.quarantined.len() as u64,
            records: recovery.records_lost.unwrap_or(0),
            bytes: recovery.quarantined.iter().map(|place| place.bytes).sum(),
        }
    }

    /// What was met since it was opened.
    pub fn met(faults: &Faults) -> Self {
        Self {
            places: faults.quarantined.len() as u64,
            records: faults.records_lost,
            bytes: faults.quarantined.iter().map(|place| place.bytes).sum(),
        }
    }

    pub fn is_any(&self) -> bool {
        *self != Self::default()
    }
}

impl std::ops::Add for Damage {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { places: self.places + other.places, records: self.records + other.records, bytes: self.bytes + other.bytes }
    }
}

impl std::iter::Sum for Damage {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), std::ops::Add::add)
    }
}
