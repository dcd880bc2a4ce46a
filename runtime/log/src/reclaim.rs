//! Cursors, and what goes when they have passed.
//!
//! Cursors are durable before a segment goes, so that after any crash they are in the log or behind it, and the records that were dropped are counted.

use std::time::Instant;

use crate::cursors::Cursor;
use crate::error::StoreError;
use crate::format::BatchHeader;
use crate::scan::{Found, Scanner};
use crate::segment::Segment;
use crate::state::{Inner, State};

impl Inner {
    pub fn set_cursor(&self, name: &str, offset: u64, note: &[u8]) {
        let mut state = self.state.lock();
        match state.cursors.by_name.get_mut(name) {
            Some(cursor) => {
                cursor.offset = offset;
                cursor.note.clear();
                cursor.note.extend_from_slice(note);
            }
            None => {
                state.cursors.by_name.insert(name.to_owned(), Cursor { offset, note: note.to_vec() });
            }
        }
    }

    pub fn save_cursors(&self) -> Result<(), StoreError> {
        let mut files = self.cursor_files.lock();
        let mut cursors = {
            let mut state = self.state.lock();
            if state.closed {
                return Err(StoreError::Closed);
            }
            state.cursors.synced = state.synced;
            state.cursors.total = state.synced_total();
            state.cursors.front = state.front.max(state.segments.front().map(|first| (first.header.seq, first.header.total)));
            state.cursors.clone()
        };
        self.sync_name().map_err(StoreError::io("sync", &self.dir))?;
        files.save(&*self.shared.fs, &mut cursors)
    }

    /// Segments below `offset` that may go: not the newest batch's, and nothing that a sync still has to cover.
    fn behind(state: &State, offset: u64) -> impl Iterator<Item = &Segment> {
        let newest = state.newest.map_or(u64::MAX, |newest| newest.seq);
        let (offset, sealed) = (offset.min(state.synced), state.segments.len().saturating_sub(1));
        state.segments.iter().take(sealed).take_while(move |segment| segment.next <= offset && segment.header.seq < newest)
    }

    pub fn reclaimable(&self) -> u64 {
        let state = self.state.lock();
        state.cursors.slowest().map_or(0, |slowest| Self::behind(&state, slowest).map(Segment::bytes).sum())
    }

    pub fn reclaim(&self) -> Result<u64, StoreError> {
        let slowest = {
            let mut state = self.state.lock();
            let slowest = state.cursors.slowest();
            let count = slowest.map_or(0, |slowest| Self::behind(&state, slowest).count());
            state.lets_go(count);
            slowest
        };
        // Saved even if nothing goes: that is what the caller's position after a crash depends on.
        self.save_cursors()?;
        let Some(slowest) = slowest else { return Ok(0) };
        let freed = self.delete_front(|state| Self::behind(state, slowest).count())?;
        self.roll_under_pressure(slowest);
        Ok(freed)
    }

    pub fn delete_below(&self, offset: u64) -> Result<u64, StoreError> {
        let any = {
            let mut state = self.state.lock();
            let count = if state.closed { 0 } else { Self::behind(&state, offset).count() };
            state.lets_go(count);
            count > 0
        };
        // So that the next start does not miss them. Where that can't be written, room matters more than a wrong count.
        if any && let Err(e) = self.save_cursors() {
            tracing::warn!(log = self.name, "cannot write down how far the readers are: {e}");
        }
        self.delete_front(|state| Self::behind(state, offset).count())
    }

    /// Deletes the first segments that [`State::lets_go`] has passed.
    fn delete_front(&self, count: impl FnOnce(&State) -> usize) -> Result<u64, StoreError> {
        let mut freed = 0;
        let mut failure = Ok(());
        let mut state = self.state.lock();
        let front = state.front.map_or(0, |(seq, _)| seq);
        let let_go = state.segments.partition_point(|segment| segment.header.seq < front);
        let count = if state.closed { 0 } else { count(&state).min(let_go) };
        for _ in 0..count {
            match self.delete_first(&mut state) {
                Ok(bytes) => freed += bytes,
                Err(e) => {
                    failure = Err(e);
                    break;
                }
            }
        }
        drop(state);
        if freed > 0 {
            self.shared.look_again();
            if let Some(budget) = &self.options.budget {
                budget.tell();
            }
        }
        failure.map(|()| freed)
    }

    fn delete_first(&self, state: &mut State) -> Result<u64, StoreError> {
        let first = state.segments.front_mut().expect("the caller counted it");
        let path = first.path(&self.dir);
        match self.shared.fs.remove(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(StoreError::io("remove", &path)(e)),
            _ => {}
        }
        self.close_segment(first);
        let bytes = first.bytes();
        state.segments.pop_front();
        state.dir_unsynced = true;
        self.schedule(state, Instant::now() + self.options.sync);
        self.discount(bytes);
        Ok(bytes)
    }

    /// When the source's logs fill more than half of their budget and all of this one is consumed, its last segment gets no more batches:
    /// then it goes with the next batch, however large it is.
    fn roll_under_pressure(&self, slowest: u64) {
        let pressed = self.options.budget.as_ref().is_some_and(|budget| budget.used() > budget.limit() / 2);
        let mut state = self.state.lock();
        if pressed && slowest >= state.end && state.segments.back().is_some_and(|last| last.batches > 0 && !last.sealed) {
            self.seal_last(&mut state);
        }
    }

    /// Drops the oldest segment though cursors may need it: counts its records, moves the cursors past it. False: none can go.
    pub fn drop_oldest_segment(&self) -> bool {
        let _one = self.drop_lock.lock(); // so that two appends do not count the same segment
        let mut state = self.state.lock();
        if state.closed || Self::behind(&state, u64::MAX).next().is_none() {
            return false;
        }
        let next = state.segments[0].next;
        state.lets_go(1);
        let needed_from = state.cursors.slowest().unwrap_or(0);
        let dropped = self.records_from(&mut state, needed_from);
        state.cursors.dropped += dropped;
        for cursor in state.cursors.by_name.values_mut().filter(|cursor| cursor.offset < next) {
            cursor.offset = next;
        }
        drop(state);
        // On a broken disk the counts stay in memory until they can be saved; the batch that comes matters more.
        if let Err(e) = self.save_cursors() {
            tracing::warn!(log = self.name, "cannot write down how far the readers are: {e}");
        }
        let mut state = self.state.lock();
        let same = state.segments.front().is_some_and(|first| first.next == next);
        let gone = !same
            || self
                .delete_first(&mut state)
                .inspect_err(|e| tracing::warn!(log = self.name, "cannot delete the oldest segment: {e}"))
                .is_ok();
        if dropped > 0 {
            tracing::error!(log = self.name, records = dropped, "the log is full: its oldest segment was dropped");
        }
        gone
    }

    /// Records of the first segment at or above an offset.
    fn records_from(&self, state: &mut State, offset: u64) -> u64 {
        let first = state.segments.front_mut().expect("the caller looked");
        if offset <= first.header.base {
            return first.records;
        }
        if offset >= first.next {
            return 0;
        }
        let Ok(open) = first.open.clone().map_or_else(|| self.open_segment(first), Ok) else { return first.records };
        let mut scanner = Scanner::new(open.file.clone(), &first.header, first.len);
        let mut records = 0;
        while let Ok(Some(found)) = scanner.next() {
            if let Found::Batch(_, header) = found {
                records += records_of_batch_from(&header, offset);
            }
        }
        records
    }
}

/// Records of a batch at or above an offset. A batch that a cursor stands in has its records at the offsets from `first` on.
fn records_of_batch_from(header: &BatchHeader, offset: u64) -> u64 {
    let passed = offset.saturating_sub(header.first);
    if offset >= header.next() { 0 } else { u64::from(header.records).saturating_sub(passed) }
}
