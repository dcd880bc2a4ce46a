//! Opening and closing: of a log, and of the files of its segments.

use crate::budget::Member;
use crate::error::StoreError;
use crate::fs::Mode;
use crate::recover::recover;
use crate::report::{Faults, Recovery};
use crate::segment::{Open, Segment};
use crate::shared::OpenLog;
use crate::shared::Shared;
use crate::state::{Inner, LogOptions, Observers, State};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Weak;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Instant;

impl Inner {
    pub fn open(id: u64, name: &str, dir: PathBuf, options: LogOptions, shared: Arc<Shared>) -> Result<(Arc<Self>, Recovery), StoreError> {
        let found = recover(&*shared.fs, &dir, options.start, shared.power_cut)?;
        let bytes: u64 = found.segments.iter().map(Segment::bytes).sum();
        let state = State {
            next_seq: found.next_seq,
            end: found.end,
            synced: found.end,
            total: found.total,
            newest: found.newest,
            held: VecDeque::new(),
            held_bytes: 0,
            roll: false,
            // A name may have been created just before a crash and its segment be in use again now.
            dir_unsynced: true,
            syncing: false,
            wanted: None,
            scheduled: None,
            last_sync: None,
            trouble: None,
            faults: Faults::default(),
            cursors: found.cursors,
            front: None,
            closed: false,
            segments: found.segments,
        };
        let budget = options.budget.clone();
        let inner = Arc::new_cyclic(|this| Self {
            id,
            name: name.to_owned(),
            dir,
            segment_bytes: budget.as_ref().map_or(options.segment_bytes, |budget| budget.segment_bytes(options.segment_bytes)),
            options,
            shared,
            this: this.clone(),
            end: AtomicU64::new(state.end),
            synced: AtomicU64::new(state.synced),
            bytes: AtomicU64::new(bytes),
            closed: AtomicBool::new(false),
            name_unsynced: AtomicBool::new(true),
            refused: AtomicBool::new(false),
            state: Mutex::new(state),
            sync_lock: Mutex::new(()),
            drop_lock: Mutex::new(()),
            cursor_files: Mutex::new(found.cursor_files),
            on_append: Observers::none(),
            on_sync: Observers::none(),
            on_room: Observers::none(),
        });
        if let Some(budget) = budget {
            budget.charge(bytes);
            let member: Weak<Inner> = Arc::downgrade(&inner);
            budget.join(member);
        }
        // After a power cut segments may be gone that the cursors still speak of.
        if inner.shared.power_cut
            && let Err(e) = inner.save_cursors()
        {
            tracing::warn!(log = inner.name, "cannot write down how far the readers are: {e}");
        }
        Ok((inner, found.report))
    }

    /// Opens a segment's file and keeps it open.
    pub fn open_segment(&self, segment: &mut Segment) -> io::Result<Arc<Open>> {
        self.shared.make_room_for_open();
        let open = Open::new(self.shared.fs.open(&segment.path(&self.dir), Mode::Write)?, self.shared.tick());
        self.shared.open.fetch_add(1, Relaxed);
        segment.open = Some(open.clone());
        Ok(open)
    }

    pub fn close_segment(&self, segment: &mut Segment) {
        if segment.open.take().is_some() {
            self.shared.open.fetch_sub(1, Relaxed);
        }
    }

    /// Makes the name of the log's directory durable, once.
    pub fn sync_name(&self) -> io::Result<()> {
        if self.name_unsynced.load(Relaxed) {
            self.shared.fs.sync_dir(self.dir.parent().unwrap_or(Path::new(".")))?;
            self.name_unsynced.store(false, Relaxed);
        }
        Ok(())
    }

    /// Tells those who were refused that it is worth another try.
    pub fn tell_room(&self) {
        if self.refused.swap(false, Relaxed) {
            self.on_room.each(|observer| observer());
        }
    }

    pub fn is_closed(&self) -> bool {
        self.closed.load(Relaxed)
    }

    /// Closes what is synced when more files are open than should be.
    pub fn close_if_crowded(&self, state: &mut State) {
        if self.shared.is_crowded() {
            for i in closable(state) {
                self.close_segment(&mut state.segments[i]);
            }
        }
    }

    /// When each open segment that could be closed was used last.
    pub fn ages(&self, ages: &mut Vec<u64>) {
        let Some(state) = self.state.try_lock() else { return };
        ages.extend(closable(&state).filter_map(|i| state.segments[i].open.as_ref()).map(|open| open.used.load(Relaxed)));
    }

    /// Closes synced segments that were not used since a tick. A log that is busy is not idle.
    pub fn close_idle(&self, not_since: u64) {
        let Some(mut state) = self.state.try_lock() else { return };
        for i in closable(&state) {
            if state.segments[i].open.as_ref().is_some_and(|open| open.used.load(Relaxed) <= not_since) {
                self.close_segment(&mut state.segments[i]);
            }
        }
    }

    /// Syncs, saves the cursors, takes no more batches.
    pub fn close(&self) -> Result<(), StoreError> {
        let synced = self.sync();
        let saved = self.save_cursors();
        self.close_and_forget();
        synced.and(saved)
    }

    /// Takes no more batches, and lets go of the files.
    pub fn close_and_forget(&self) {
        let mut state = self.state.lock();
        self.closed.store(true, Relaxed);
        if !std::mem::replace(&mut state.closed, true) {
            for segment in &mut state.segments {
                self.close_segment(segment);
            }
            if let Some(budget) = &self.options.budget {
                budget.release(self.bytes.load(Relaxed));
            }
        }
        drop(state);
        if let Some(budget) = &self.options.budget {
            budget.tell();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        let open = state.segments.iter().filter(|segment| segment.open.is_some()).count();
        self.shared.open.fetch_sub(open, Relaxed);
        self.shared.held.fetch_sub(state.held_bytes, Relaxed);
        if !state.closed && !state.held.is_empty() {
            self.shared.left_unsynced();
        }
        if let Some(budget) = self.options.budget.as_ref().filter(|_| !state.closed) {
            budget.release(self.bytes.load(Relaxed));
        }
    }
}

/// Segments whose file nobody needs open: those before the first one that holds something unsynced.
fn closable(state: &State) -> std::ops::Range<usize> {
    let busy = state.held.front().map_or(u64::MAX, |held| held.seq);
    0..state.segments.partition_point(|segment| segment.header.seq < busy)
}

impl Member for Inner {
    fn priority(&self) -> u8 {
        self.options.priority
    }

    fn tell_room(&self) {
        self.tell_room();
    }

    fn drop_oldest_segment(&self) -> bool {
        self.drop_oldest_segment()
    }
}

impl OpenLog for Inner {
    fn sync_if_scheduled(&self, at: Instant) {
        self.sync_if_scheduled(at);
    }

    fn tell_room(&self) {
        self.tell_room();
    }

    fn ages(&self, ages: &mut Vec<u64>) {
        self.ages(ages);
    }

    fn close_idle(&self, not_since: u64) {
        self.close_idle(not_since);
    }

    fn is_closed(&self) -> bool {
        self.is_closed()
    }

    fn close(&self) -> Result<(), StoreError> {
        self.close()
    }

    fn close_and_forget(&self) {
        self.close_and_forget();
    }
}
