//! The ledger of one source: what came in, what became of it. It adds up, and survives a kill.
//!
//! ```text
//! received = filtered + dropped at intake + dead at intake + appended
//! appended = produced + dead at send + dropped from the log + waiting
//! ```
//!
//! The intake's counts live in each batch of the log (`frame`), the drain's in the cursor records; both are read back at start.
//! `received` counts what entered the pipeline: readings and documents of the device, and what the engine itself says of a tag
//! (heartbeats, stale marks, the leaves of a structure). `lost` counts readings that existed and never came in.

use parking_lot::Mutex;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counts of one source; cheap to read at any time.
#[derive(Default, Debug)]
pub struct Ledger {
    pub intake: Intake,
    pub outgoing: Outgoing,
    /// Readings that existed and never came in, by reason.
    lost: Mutex<BTreeMap<&'static str, u64>>,
    /// What the intake dropped in this run, and what the log ever lost, by reason.
    dropped: Mutex<BTreeMap<&'static str, u64>>,
}

macro_rules! counts {
    ($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Default, Debug)]
        pub struct $name { $($(#[$field_meta])* pub $field: AtomicU64),* }

        impl $name {
            pub const LEN: usize = [$(stringify!($field)),*].len();

            pub fn get(&self) -> [u64; Self::LEN] {
                [$(self.$field.load(Relaxed)),*]
            }

            /// Counts that are missing (an older release wrote fewer) stay zero.
            pub fn set(&self, counts: &[u64]) {
                let mut counts = counts.iter().copied();
                $(self.$field.store(counts.next().unwrap_or(0), Relaxed);)*
            }
        }
    };
}

counts! {
    /// The intake's half, written into every batch of the log, in this order.
    Intake {
        received,
        /// Held back by the report filter.
        filtered,
        /// Dropped because the log was full, or because it could not be written.
        dropped,
        /// Became dead letters before they were appended.
        dead,
        appended,
        /// Times of devices that were not believed.
        clock_refused,
        /// Kafka timestamps that were replaced by read_time, by what the topic's declaration says.
        timestamp_replaced,
    }
}

counts! {
    /// The drain's half, written into every cursor, in this order: sums over the lanes.
    Outgoing {
        produced,
        dead,
        /// Dropped from the log: `drop_oldest`, or a quarantined segment.
        dropped,
        /// Kafka timestamps that were replaced by read_time, by what the topic takes.
        timestamp_replaced,
    }
}

impl Ledger {
    pub fn lost(&self, reason: &'static str, count: u64) {
        *self.lost.lock().entry(reason).or_default() += count;
    }

    pub fn dropped(&self, reason: &'static str, count: u64) {
        *self.dropped.lock().entry(reason).or_default() += count;
    }

    /// Records that came in and became nothing.
    pub fn dropped_at_intake(&self, reason: &'static str, count: u64) {
        self.intake.received.fetch_add(count, Relaxed);
        self.intake.dropped.fetch_add(count, Relaxed);
        self.dropped(reason, count);
    }

    /// Records that are in the log and never go to Kafka, in all: those that `drop_oldest` removed, those that another runtime has read again, and
    /// those in corrupt places.
    pub fn lost_by_log(&self, dropped: u64, oldest: u64, superseded: u64) {
        let mut reasons = self.dropped.lock();
        let superseded = superseded.min(dropped);
        let lost = dropped - superseded;
        for (reason, count) in [("dropped_oldest", lost.min(oldest)), ("corrupt", lost.saturating_sub(oldest)), ("superseded", superseded)]
        {
            if count > 0 {
                reasons.insert(reason, count);
            }
        }
    }

    pub fn snapshot(&self) -> Snapshot {
        // The outgoing half first: what it counts was appended before.
        let [produced, dead_at_send, dropped_from_log, replaced_at_send] = self.outgoing.get();
        let [received, filtered, dropped_at_intake, dead_at_intake, appended, clock_refused, replaced_at_intake] = self.intake.get();
        Snapshot {
            received,
            filtered,
            dropped_at_intake,
            dead_at_intake,
            appended,
            produced,
            dead_at_send,
            dropped_from_log,
            waiting: appended.saturating_sub(produced + dead_at_send + dropped_from_log),
            clock_refused,
            timestamp_replaced: replaced_at_intake + replaced_at_send,
            lost: self.lost.lock().clone(),
            dropped: self.dropped.lock().clone(),
        }
    }
}

/// The ledger at one moment, as REST, metrics and tests see it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    pub received: u64,
    pub filtered: u64,
    pub dropped_at_intake: u64,
    pub dead_at_intake: u64,
    pub appended: u64,
    pub produced: u64,
    pub dead_at_send: u64,
    pub dropped_from_log: u64,
    pub waiting: u64,
    pub clock_refused: u64,
    pub timestamp_replaced: u64,
    pub lost: BTreeMap<&'static str, u64>,
    pub dropped: BTreeMap<&'static str, u64>,
}

impl Snapshot {
    /// Whether both equations hold.
    pub fn adds_up(&self) -> bool {
        self.received == self.filtered + self.dropped_at_intake + self.dead_at_intake + self.appended
            && self.appended == self.produced + self.dead_at_send + self.dropped_from_log + self.waiting
    }
}
