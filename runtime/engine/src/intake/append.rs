//! A batch on its way to the logs: judged, encoded, appended piece by piece.

use crate::frame::{Extra, Lane};
use crate::intake::Intake;
use crate::intake::acks::Acks;
use crate::intake::core::Core;
use crate::intake::pipe::{LanePipe, LedgerDelta, PIECE_BYTES, Pipe, WHOLE_BYTES};
use millrace_log::{AppendError, Full};
use millrace_schemas::{Batch, Micros};
use parking_lot::Mutex;
use std::sync::atomic::Ordering::Relaxed;

/// Forgets what the report filter remembers, unless it is disarmed.
struct Undo<'a> {
    core: &'a Mutex<Core>,
    is_armed: bool,
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if self.is_armed {
            self.core.lock().tags.forget();
        }
    }
}

impl Intake {
    pub(super) async fn append(&self, pipe: &mut Pipe, batch: &Batch, moved: &[(&str, &[u8])]) -> i64 {
        self.append_until(pipe, batch, moved, batch.read_time).await
    }

    /// Appends a batch; wide records whose window ends until `windows` go with it. Returns until when some of the batch is held in a window.
    pub(super) async fn append_until(&self, pipe: &mut Pipe, batch: &Batch, moved: &[(&str, &[u8])], windows: Micros) -> i64 {
        // Dropped in a wait, what was judged is not written: it must not be filtered when it comes again.
        let mut undo = Undo { core: &self.core, is_armed: true };
        let mut delta = LedgerDelta::default();
        let most = if moved.is_empty() { PIECE_BYTES } else { WHOLE_BYTES.min(self.budget.limit() as usize / 8).max(PIECE_BYTES) };
        for lane in &mut pipe.lanes {
            lane.builder.begin(batch.read_time);
        }
        // What the engine owes comes first: a death before the birth that follows it.
        let owed = {
            let mut core = self.core.lock();
            let owed = std::mem::take(&mut core.pending);
            for row in &owed {
                self.sample(&mut core, pipe, &mut delta, row, &[], batch.read_time);
            }
            core.catalog.take_pending()
        };
        self.show_watchers(pipe, &[], batch.read_time);
        for entry in owed {
            self.entry(pipe, &entry, batch.read_time);
            if pipe.holds(most) {
                self.flush(pipe, &mut delta, &[]).await;
            }
        }
        for rows in batch.rows.chunks(1024) {
            {
                let mut core = self.core.lock();
                for row in rows {
                    self.reading(&mut core, pipe, &mut delta, row, &batch.heap, batch.read_time);
                }
            }
            self.show_watchers(pipe, &batch.heap, batch.read_time);
            if pipe.holds(most) {
                self.flush(pipe, &mut delta, &[]).await;
            }
        }
        for doc in &batch.docs {
            self.document(pipe, &mut delta, doc, batch);
            if pipe.holds(most) {
                self.flush(pipe, &mut delta, &[]).await;
            }
        }
        for reject in &batch.rejects {
            self.reject(pipe, &mut delta, reject, batch);
            if pipe.holds(most) {
                self.flush(pipe, &mut delta, &[]).await;
            }
        }
        let written_until = if self.wide_records(pipe, &mut delta, batch.read_time, windows) { windows.0 } else { 0 };
        // Positions wait with what they stand behind, and behind one that waits.
        let held = delta.held;
        let until = held.max(pipe.held.back().map_or(0, |(until, ..)| *until));
        if until != 0 {
            pipe.held.extend(moved.iter().map(|(key, value)| (until, (*key).to_owned(), value.to_vec())));
        }
        let free = pipe.held.iter().take_while(|(until, ..)| *until <= written_until).count();
        pipe.owed.extend(pipe.held.drain(..free).map(|(_, key, value)| (key, value)));
        self.flush(pipe, &mut delta, if until == 0 { moved } else { &[] }).await;
        if until != 0 {
            self.positions.hold(moved);
        }
        let Acks { pending, holding, .. } = &mut *self.acks.lock();
        if *holding > 0 {
            let ends = self.positions.ends();
            for waiting in pending.iter_mut().filter(|w| w.held != 0 && w.held <= written_until) {
                (waiting.held, waiting.ends) = (0, ends);
                *holding -= 1;
            }
        }
        undo.is_armed = false;
        held
    }
}

impl Intake {
    /// Appends what the builders hold, lane by lane; the last piece carries the positions and the rest of the counts.
    pub(super) async fn flush(&self, pipe: &mut Pipe, delta: &mut LedgerDelta, moved: &[(&str, &[u8])]) {
        let owed = std::mem::take(&mut pipe.owed);
        let moved: Vec<(&str, &[u8])> = owed.iter().map(|(k, v)| (k.as_str(), v.as_slice())).chain(moved.iter().copied()).collect();
        if pipe.lanes.iter().all(|l| l.builder.is_empty()) {
            if moved.is_empty() {
                return self.commit(delta, 0);
            }
            let seq = pipe.number();
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
                let mut none = LedgerDelta::default();
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
        delta: &LedgerDelta,
        is_home: bool,
        moved: &[(&str, &[u8])],
        split: &[(Lane, u64)],
    ) -> bool {
        let data = u64::from(lane.builder.data_records());
        let mut counts = self.ledger.intake.get();
        let rest = if is_home { *delta } else { LedgerDelta::default() };
        counts[0] += data + rest.filtered + rest.dropped + rest.dead;
        counts[1] += rest.filtered;
        counts[2] += rest.dropped;
        counts[3] += rest.dead;
        counts[4] += data;
        counts[5] += rest.clock_refused;
        counts[6] += rest.timestamp_replaced;
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
                    if records > 0 {
                        self.source_logs.pace.newest.fetch_max(lane.builder.read_time().0, Relaxed);
                    }
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

    fn commit(&self, delta: &mut LedgerDelta, appended: u64) {
        let counts = &self.ledger.intake;
        counts.appended.fetch_add(appended, Relaxed);
        counts.filtered.fetch_add(delta.filtered, Relaxed);
        counts.dropped.fetch_add(delta.dropped, Relaxed);
        counts.dead.fetch_add(delta.dead, Relaxed);
        counts.clock_refused.fetch_add(delta.clock_refused, Relaxed);
        counts.timestamp_replaced.fetch_add(delta.timestamp_replaced, Relaxed);
        counts.received.fetch_add(appended + delta.filtered + delta.dropped + delta.dead, Relaxed);
        *delta = LedgerDelta::default();
    }
}
