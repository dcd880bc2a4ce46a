//! What is appended next: one builder per lane, with what moves the ledger and the positions.

use crate::frame::{Builder, Lane};
use crate::ledger::{Intake as IntakeCounts, Ledger};
use millrace_log::Log;
use millrace_schemas::contract::Work;
use millrace_schemas::{Micros, Row};
use std::collections::VecDeque;
use std::sync::Arc;

/// Lanes are appended when one of them holds this many bytes; a batch of a plugin may be larger.
pub(super) const PIECE_BYTES: usize = 1 << 20;
/// But what has a position with it stays in one piece up to here, and up to an eighth of the log: a kill between two pieces would leave the first without
/// its position, and it would be read again.
pub(super) const WHOLE_BYTES: usize = 8 << 20;

/// What is appended next, in order.
pub(super) struct Pipe {
    pub lanes: Vec<LanePipe>,
    pub next_seq: u64,
    /// Positions of batches that were dropped, to go with the next one.
    pub owed: Vec<(String, Vec<u8>)>,
    pub headers: Vec<u8>,
    pub key: Vec<u8>,
    /// A document in its topic's format, and what the conversion needs.
    pub value: Vec<u8>,
    pub work: Work,
    /// Positions of what is in an open window: until when, key, value.
    pub held: VecDeque<(i64, String, Vec<u8>)>,
    /// Samples that are still to be shown to those who watch.
    pub watched: Vec<Watched>,
}

pub(super) struct LanePipe {
    pub lane: Lane,
    pub log: Log,
    pub builder: Builder,
    /// Data records the lane ever held.
    pub total: u64,
}

/// What one `send` adds to the ledger, committed piece by piece.
#[derive(Default, Clone, Copy)]
pub(super) struct LedgerDelta {
    pub filtered: u64,
    pub dropped: u64,
    pub dead: u64,
    pub clock_refused: u64,
    pub timestamp_replaced: u64,
    /// The end of the last window that something went into.
    pub held: i64,
}

impl Pipe {
    /// The sequence number of the record that is added next.
    pub fn number(&mut self) -> u64 {
        self.next_seq += 1;
        self.next_seq - 1
    }

    /// Whether a lane's next piece has so many bytes.
    pub fn holds(&self, bytes: usize) -> bool {
        self.lanes.iter().any(|l| l.builder.body_len() >= bytes)
    }

    pub fn lane(&mut self, lane: Lane) -> &mut LanePipe {
        lane_of(&mut self.lanes, lane)
    }
}

/// The lane of that name; the first there is where it was not opened.
pub(super) fn lane_of(lanes: &mut [LanePipe], lane: Lane) -> &mut LanePipe {
    let at = lanes.iter().position(|l| l.lane == lane).unwrap_or(0);
    &mut lanes[at]
}

/// Takes the counts over from the newest batch. What a power cut took from the logs was never appended; what was synced and is corrupt was.
pub(super) fn restore_counts(ledger: &Ledger, mut counts: Vec<u64>, appended: u64) {
    counts.resize(IntakeCounts::LEN, 0);
    counts[4] = appended;
    counts[0] = counts[1] + counts[2] + counts[3] + appended;
    ledger.intake.set(&counts);
}

/// A sample for those who watch, encoded once the tags are free again.
pub(super) struct Watched {
    pub(super) path: Arc<str>,
    pub(super) def: i32,
    pub(super) seq: u64,
    pub(super) row: Row,
    pub(super) device_time: Option<Micros>,
}
