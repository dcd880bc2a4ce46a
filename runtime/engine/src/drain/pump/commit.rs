//! How far the logs are, told to Kafka: behind the data where there are no transactions, with it where there are.

use crate::cursors;
use crate::drain::client::begin;
use crate::drain::lane::{Lane, Room, State};
use crate::drain::pump::owning::Fenced;
use crate::drain::pump::{CURSORS_EVERY, IN_FLIGHT, Pump, QUANTUM, Spent, gone};
use crate::drain::source::Right;
use crate::source_logs::CursorMetadata;
use millrace_kafka::{KafkaError, Outgoing, SendError, TransactionError};
use millrace_schemas::Micros;
use std::time::{Duration, Instant};

/// A call that waits for Kafka comes back this often, to look whether it should stop.
const PATIENCE: Duration = Duration::from_secs(5);

/// What became of a source's cursor records and positions.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Wrote {
    All,
    /// The queue is full.
    Some,
    /// The transaction can only be aborted.
    Doomed,
}

impl Pump {
    pub(super) fn write_cursors_behind(&mut self) -> Result<(), Spent> {
        let now = Instant::now();
        if now < self.cursors_at {
            return Ok(());
        }
        for id in 0..self.sources.len() {
            let lanes: Vec<u32> = self.lanes.values().filter(|l| l.source == id && l.is_unwritten).map(|l| l.id).collect();
            let behind = self.ready_positions(id, |lane, offset| lane.has_delivered(offset));
            if lanes.is_empty() && behind.is_none() {
                continue;
            }
            if self.write_cursors(id, &lanes, behind, |lane| (lane.cursor, lane.note))? != Wrote::All {
                break; // the queue is full: next time
            }
            self.written(id, behind);
            for lane in lanes {
                if let Some(lane) = self.lanes.get_mut(&lane) {
                    lane.is_unwritten = false;
                }
            }
            self.cursors_at = now + CURSORS_EVERY;
        }
        Ok(())
    }

    /// Up to where the source's positions may be written: every lane has delivered what lies below.
    pub(super) fn ready_positions(&self, source: usize, has: impl Fn(&Lane, u64) -> bool) -> Option<u64> {
        let pending = &self.sources.get(source).filter(|source| source.right != Right::Remains)?.pending;
        let lanes: Vec<&Lane> = self.lanes.values().filter(|l| l.source == source).collect();
        pending.keys().copied().take_while(|behind| lanes.iter().all(|l| has(l, *behind))).last()
    }

    /// Sends cursor records, and positions up to `behind`.
    pub(super) fn write_cursors(
        &self,
        source: usize,
        lanes: &[u32],
        behind: Option<u64>,
        at: impl Fn(&Lane) -> (u64, CursorMetadata),
    ) -> Result<Wrote, Spent> {
        let (Some(client), Some(source)) = (&self.client, self.sources.get(source)) else { return Ok(Wrote::Some) };
        let topic = client.producer.topic(cursors::TOPIC)?;
        let name = &source.source_logs.source;
        let runtime = self.options.seat.as_ref().map(|seat| seat.runtime.as_str());
        let send = |key: &[u8], value: Option<&[u8]>| {
            let message = Outgoing { partition: Some(0), key: Some(key), value, timestamp_ms: 0, opaque: 0 };
            match client.producer.send(&topic, &message, std::iter::empty()) {
                Ok(()) => Ok(Wrote::All),
                Err(SendError::QueueFull) => Ok(Wrote::Some),
                Err(SendError::Doomed(_)) => Ok(Wrote::Doomed),
                Err(SendError::Refused(error)) => Err(error),
            }
        };
        for lane in lanes.iter().filter_map(|id| self.lanes.get(id)) {
            let (offset, note) = at(lane);
            let wrote = send(&cursors::cursor_key(name, lane.name, runtime), Some(&cursors::cursor_value(offset, &note)))?;
            if wrote != Wrote::All {
                return Ok(wrote);
            }
        }
        for (_, keys) in source.pending.range(..=behind.unwrap_or(0)) {
            for (key, value) in keys {
                let wrote = send(&cursors::position_key(name, key), (!value.is_empty()).then_some(value.as_slice()))?;
                if wrote != Wrote::All {
                    return Ok(wrote);
                }
            }
        }
        Ok(Wrote::All)
    }

    /// Positions up to `behind` are in Kafka.
    pub(super) fn written(&mut self, source: usize, behind: Option<u64>) {
        if let (Some(behind), Some(source)) = (behind, self.sources.get_mut(source)) {
            source.pending = source.pending.split_off(&(behind + 1));
        }
    }

    /// Commits the open transaction with the cursors of all it touched.
    pub(super) fn commit(&mut self) -> Result<(), Spent> {
        let touched: Vec<u32> = self.lanes.values().filter(|l| !l.window.is_empty() || l.is_unwritten).map(|l| l.id).collect();
        let mut sources: Vec<usize> = touched.iter().filter_map(|id| self.lanes.get(id)).map(|l| l.source).collect();
        sources.sort_unstable();
        sources.dedup();
        // What the windows carry counts from this commit on: the positions that are ready by then go with it.
        for lane in self.lanes.values_mut().filter(|l| !l.window.is_empty()) {
            if let Some(source) = self.sources.get_mut(lane.source) {
                lane.window.iter_mut().filter_map(|u| u.moved.take()).for_each(|m| source.push(m));
            }
        }
        let tentative = |lane: &Lane| lane.window.back().map_or((lane.cursor, lane.note), |u| (u.next, u.note));
        let mut ready = Vec::new();
        for id in sources {
            let lanes: Vec<u32> = touched.iter().copied().filter(|l| self.lanes.get(l).is_some_and(|l| l.source == id)).collect();
            let behind = self
                .ready_positions(id, |lane, offset| tentative(lane).0 >= offset || lane.window.is_empty() && lane.has_delivered(offset));
            loop {
                match self.write_cursors(id, &lanes, behind, tentative)? {
                    Wrote::All => break,
                    Wrote::Some => self.flush()?,
                    Wrote::Doomed => return self.abort(),
                }
            }
            ready.push((id, behind));
        }
        match self.fence(&touched)? {
            Fenced::No => {}
            Fenced::Refused => return self.abort(),
        }
        loop {
            let Some(client) = &self.client else { return Ok(()) };
            match client.producer.commit(PATIENCE) {
                Ok(()) => break,
                Err(TransactionError::Retriable(error)) => {
                    self.watch()?;
                    self.may_wait(&error)?;
                }
                Err(TransactionError::Abortable(error)) => {
                    tracing::warn!("a transaction is aborted and repeated: {error}");
                    self.take_reports()?;
                    return self.abort();
                }
                Err(TransactionError::Fenced(error) | TransactionError::Fatal(error)) => return Err(error),
            }
        }
        self.open = None;
        self.take_reports()?;
        let now = Micros::now();
        for id in touched {
            if let Some(lane) = self.lanes.get_mut(&id) {
                for unit in lane.committed() {
                    if let Some(source) = self.sources.get(lane.source) {
                        source.source_logs.pace.delivered(unit.records, unit.read_time, now);
                    }
                }
                lane.is_unwritten = false;
            }
        }
        for (source, behind) in ready {
            self.written(source, behind);
            self.count(source);
            self.unblock(source);
        }
        self.shared.report.lock().transactions_committed += 1;
        Ok(())
    }

    /// Aborts the open transaction; every lane goes back to its cursor, and the one at fault goes on alone.
    pub(super) fn abort(&mut self) -> Result<(), Spent> {
        if self.open.is_some() {
            loop {
                let Some(client) = &self.client else { return Ok(()) };
                match client.producer.abort(PATIENCE) {
                    Ok(()) => break,
                    Err(TransactionError::Retriable(error)) => self.may_wait(&error)?,
                    Err(error) => return Err(error.error().clone()),
                }
            }
            self.open = None;
            self.shared.report.lock().transactions_aborted += 1;
        }
        self.take_reports()?;
        self.back_to_cursors();
        Ok(())
    }

    /// Nothing is in flight any more: every lane goes back to its cursor, and the one at fault decides how to go on.
    pub(super) fn back_to_cursors(&mut self) {
        for lane in self.lanes.values_mut() {
            match self.sources.get(lane.source) {
                Some(source) if lane.state == State::Failing => {
                    for topic in lane.recover(source) {
                        self.client.iter_mut().for_each(|client| client.forget(&topic));
                    }
                }
                _ => lane.back_to_cursor(),
            }
        }
        // Positions that were on their way stay pending: they wait for the offset behind which they count, as before.
    }

    /// A lane in trouble that may go on alone.
    pub(super) fn next_careful(&self) -> Option<u32> {
        let now = Instant::now();
        let may = |lane: &&Lane| {
            lane.is_careful()
                && lane.is_ready(now)
                && self.sources.get(lane.source).is_some_and(|s| s.may_send(self.fenced_until.is_some()))
        };
        self.lanes.values().find(may).map(|lane| lane.id)
    }

    /// Small transactions of the lanes that are in trouble, each alone, for about this long.
    pub(super) fn careful_transactions(&mut self, budget: Duration) -> Result<(), Spent> {
        let begun = Instant::now();
        while begun.elapsed() < budget && self.open.is_none() {
            let now = Instant::now();
            let Some(id) = self.next_careful() else { return Ok(()) };
            let (Some(client), Some(lane)) = (&mut self.client, self.lanes.get_mut(&id)) else { return Ok(()) };
            let Some(source) = self.sources.get(lane.source) else { return Ok(()) };
            begin(client)?;
            self.open = Some(now);
            let sent = lane.send(client, &self.options, source, Room { records: IN_FLIGHT, bytes: QUANTUM });
            if sent.is_spent {
                return Err(client.producer.fatal().unwrap_or_else(|| gone("the producer takes no more records")));
            }
            if sent.is_doomed || lane.window.is_empty() {
                self.abort()?;
            } else {
                self.commit()?;
            }
        }
        Ok(())
    }

    pub(super) fn flush(&mut self) -> Result<(), Spent> {
        let Some(client) = &self.client else { return Ok(()) };
        match client.producer.flush(PATIENCE) {
            Ok(()) => Ok(()),
            Err(error) => self.may_wait(&error),
        }
    }

    /// Whether a call that waits for Kafka may be repeated: not beyond the time to stop.
    pub(super) fn may_wait(&self, error: &KafkaError) -> Result<(), Spent> {
        let is_over = self.shared.stop.lock().is_some_and(|at| Instant::now() >= at);
        if is_over { Err(error.clone()) } else { Ok(()) }
    }
}
