//! What is appended next: one builder per lane, cut into pieces, with what moves the ledger and the positions.

use super::{Intake, PIECE_BYTES};
use crate::frame::{Builder, Extra, Lane};
use crate::ledger::{Intake as IntakeCounts, Ledger};
use millrace_log::{AppendError, Full, Log};
use millrace_schemas::Micros;
use millrace_schemas::contract::Work;
use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;

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
pub(super) struct Delta {
    pub filtered: u64,
    pub dropped: u64,
    pub dead: u64,
    pub clock_refused: u64,
    /// The end of the last window that something went into.
    pub held: i64,
}

impl Pipe {
    pub fn is_full(&self) -> bool {
        self.lanes.iter().any(|l| l.builder.body_len() >= PIECE_BYTES)
    }

    pub fn lane(&mut self, lane: Lane) -> &mut LanePipe {
        lane_of(&mut self.lanes, lane)
    }
}

impl Intake {
    /// Appends what the builders hold, lane by lane; the last piece carries the positions and the rest of the counts.
    pub(super) async fn flush(&self, pipe: &mut Pipe, delta: &mut Delta, moved: &[(&str, &[u8])]) {
        let owed = std::mem::take(&mut pipe.owed);
        let moved: Vec<(&str, &[u8])> = owed.iter().map(|(k, v)| (k.as_str(), v.as_slice())).chain(moved.iter().copied()).collect();
        if pipe.lanes.iter().all(|l| l.builder.is_empty()) {
            if moved.is_empty() {
                return self.commit(delta, 0);
            }
            let seq = pipe.next_seq;
            pipe.next_seq += 1;
            pipe.lane(Lane::Normal).builder.empty_at(seq);
        }
        let home = pipe.lanes.iter().rposition(|l| l.builder.next() > 0).expect("one lane holds something");
        let mut split: Vec<(Lane, u64)> = Vec::new();
        for at in 0..=home {
            if pipe.lanes[at].builder.next() == 0 {
                continue;
            }
            let is_home = at == home;
            let is_appended = self.append_piece(&mut pipe.lanes[at], delta, is_home, &moved, &split).await;
            let lane = &mut pipe.lanes[at];
            let data = u64::from(lane.builder.data_records());
            if is_appended {
                lane.total += data;
                split.push((lane.lane, lane.builder.next()));
                let mut none = Delta::default();
                self.commit(if is_home { delta } else { &mut none }, data);
            } else {
                self.core.lock().tags.forget();
                self.ledger.intake.received.fetch_add(data, Relaxed);
                self.ledger.intake.dropped.fetch_add(data, Relaxed);
                if is_home {
                    self.commit(delta, 0);
                    pipe.owed = moved.iter().map(|(k, v)| ((*k).to_owned(), v.to_vec())).collect();
                }
            }
            let lane = &mut pipe.lanes[at];
            lane.builder.begin(Micros::NONE);
        }
        if pipe.owed.is_empty() {
            self.positions.moved(&moved);
        }
    }

    /// Appends one piece; waits while the log has no room, unless the policy is to drop. False: dropped.
    async fn append_piece(
        &self,
        lane: &mut LanePipe,
        delta: &Delta,
        is_home: bool,
        moved: &[(&str, &[u8])],
        split: &[(Lane, u64)],
    ) -> bool {
        let data = u64::from(lane.builder.data_records());
        let mut counts = self.ledger.intake.get();
        let rest = if is_home { *delta } else { Delta::default() };
        counts[0] += data + rest.filtered + rest.dropped + rest.dead;
        counts[1] += rest.filtered;
        counts[2] += rest.dropped;
        counts[3] += rest.dead;
        counts[4] += data;
        counts[5] += rest.clock_refused;
        let extra = if is_home {
            Extra { lane_total: lane.total, counts: &counts, moved, split }
        } else {
            Extra { lane_total: lane.total, counts: &counts, moved: &[], split: &[] }
        };
        let (first, next, records) = (lane.builder.first(), lane.builder.next(), lane.builder.data_records());
        let parts = lane.builder.finish(extra, self.compress);
        let bytes = parts.iter().map(|p| p.len() as u64).sum();
        loop {
            let error = match lane.log.append(first, next, records, &parts) {
                Ok(_) => {
                    self.hold(None);
                    self.positions.appended(bytes);
                    return true;
                }
                Err(error) => error,
            };
            match error {
                AppendError::TooLarge { .. } => {
                    tracing::error!(source = %self.source, records, bytes, "a batch is lost: {error}");
                    self.ledger.dropped("too_large", data);
                    return false;
                }
                AppendError::Full { .. } | AppendError::NoSpace { .. } if self.full == Full::DropNewest => {
                    self.ledger.dropped("dropped_newest", data);
                    self.hold(Some(&error.to_string()));
                    return false;
                }
                error => self.wait_for_room(&error.to_string()).await,
            }
        }
    }

    fn commit(&self, delta: &mut Delta, appended: u64) {
        let counts = &self.ledger.intake;
        counts.appended.fetch_add(appended, Relaxed);
        counts.filtered.fetch_add(delta.filtered, Relaxed);
        counts.dropped.fetch_add(delta.dropped, Relaxed);
        counts.dead.fetch_add(delta.dead, Relaxed);
        counts.clock_refused.fetch_add(delta.clock_refused, Relaxed);
        counts.received.fetch_add(appended + delta.filtered + delta.dropped + delta.dead, Relaxed);
        *delta = Delta::default();
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
