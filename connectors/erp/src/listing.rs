//! What is gone though no delta link tells it: on `reconcile_every` the keys of all entities are read and compared with those in the topic.
//!
//! ```text
//! known keys ─▶ hashes of what is not met ──(a page of keys at a time: met ones go, unknown ones become known)──▶ what is left ─▶ asked for
//!                                                                                                     one by one ([`crate::lookup`]) ─▶ tombstones
//! ```
//!
//! Pages and questions are read between the polls, so that changes do not wait for a large set. A comparison that fails, or is cut off by a kill, begins anew;
//! tombstones move in one batch with what is known after them, and come once.
//!
//! Memory: 8 bytes for each key, one page and the next, a piece of keys.

use crate::known::{Changes, Keys, MOST_BYTES, changes};
use crate::lookup::Fate;
use crate::pass::{Pass, Unreconciled, Visited};
use crate::reading::{Came, Mode, Reading, Trouble, skipping};
use crate::source::BACKOFF;
use millrace_contract::{Failure, SourceIo, Status};
use millrace_schemas::{Batch, Micros};
use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use tokio::time::Instant;

impl Reading {
    pub(crate) fn status(&self) -> Status {
        let is_wanted = self.set.reconcile_every.is_some();
        match self.unreconciled.as_ref().filter(|_| is_wanted) {
            Some(unreconciled) => Status::Degraded(format!("what is deleted is not seen: {}", unreconciled.why)),
            None if is_wanted && self.position.has_too_many => {
                Status::Degraded(format!("what is deleted is not seen: the keys of the set have more than {} MiB", MOST_BYTES >> 20))
            }
            None => Status::Running,
        }
    }

    /// Compares the keys, where it is time to, until the next poll is due.
    ///
    /// Errors: of the service as a whole.
    pub(crate) async fn reconcile(&mut self, io: &SourceIo, until: Instant) -> Result<(), Failure> {
        match self.compare(io, until).await {
            Ok(()) => Ok(()),
            Err(Trouble::Session(failure)) => Err(failure),
            Err(Trouble::Set { text: why, .. }) => {
                let set = self.set.name.clone();
                tracing::warn!(set = &*set, "the keys cannot be compared with those of the ERP, what is deleted is not seen: {why}");
                self.is_unreconciled(why);
                io.status(&set, self.status());
                Ok(())
            }
        }
    }

    /// A comparison failed; the next one waits ever longer.
    pub(crate) fn is_unreconciled(&mut self, why: String) {
        let wait = BACKOFF.after(self.unreconciled.as_ref().map(|last| last.wait));
        self.unreconciled = Some(Unreconciled { why, wait, not_before: Instant::now() + wait });
    }

    fn is_due(&self) -> bool {
        let Some(every) = self.set.reconcile_every else { return false };
        let position = &self.position;
        // Where each poll is a load, its rows are compared.
        let has_more_to_come =
            position.load.is_none() && position.before.is_none() && (position.delta.is_some() || position.water.is_some());
        let age = position.reconciled.map(|at| Micros::now().0.saturating_sub(at));
        // The clock was set back: better once too often.
        let is_old = age.is_none_or(|age| age < 0 || u128::from(age.unsigned_abs()) >= every.as_micros());
        has_more_to_come
            && !position.has_too_many
            && is_old
            && self.unreconciled.as_ref().is_none_or(|last| Instant::now() >= last.not_before)
    }

    async fn compare(&mut self, io: &SourceIo, until: Instant) -> Result<(), Trouble> {
        // It comes back only where all went well.
        let mut pass = match self.pass.take() {
            Some(pass) => pass,
            None if self.is_due() => self.begin(io),
            None => return Ok(()),
        };
        let mut coming = None;
        loop {
            if let Some(url) = pass.next.take() {
                let came = self.come(coming.take().unwrap_or_else(|| self.ask(&url, Mode::Water)), &url, Mode::Water).await?;
                pass.rows += came.page.rows.len() as u64;
                pass.of = pass.of.or(came.page.count);
                pass.next = match &came.page.next {
                    Some(link) => Some(self.linked(&url, link)?),
                    None => pass.of.and_then(|of| skipping(&pass.base, pass.rows, of, &came.page)),
                };
                self.leads_on(&mut pass.visited, &url, pass.next.as_ref())?;
                if Instant::now() < until {
                    coming = pass.next.as_ref().map(|next| self.ask(next, Mode::Water));
                }
                self.meet(&mut pass, &came, io).await;
                if self.position.has_too_many {
                    io.status(&self.set.name, self.status());
                    return Ok(());
                }
            } else if let Some(piece) = self.next_piece(&mut pass) {
                self.look_for(&mut pass, &piece, io).await?;
            } else {
                self.is_compared(&pass, io).await;
                return Ok(());
            }
            if Instant::now() >= until {
                self.pass = Some(pass);
                return Ok(());
            }
        }
    }

    fn begin(&mut self, io: &SourceIo) -> Pass {
        let (state, mut unmet, mut bytes) = (RandomState::new(), HashSet::new(), 0);
        // Nothing is known where an earlier release read the rows, or they were read without `reconcile_every`.
        let known = self.position.known.get_or_insert_with(|| Keys::after([]));
        let mut names: Vec<String> = known.names(&self.set.name).collect();
        names.reverse();
        for name in &names {
            let piece = io.resume(name).unwrap_or_default();
            bytes += piece.len() as u64;
            for (is_there, key) in changes(&piece) {
                let hash = state.hash_one(key);
                if is_there {
                    unmet.insert(hash)
                } else {
                    unmet.remove(&hash)
                };
            }
        }
        if bytes != known.bytes {
            *known = Keys::after([&*known]);
            self.unneeded.extend(names);
            unmet.clear();
            self.deletions_are_not_seen("positions of its keys are lost", io);
        }
        let base = self.keys_url(self.set.filter.as_deref(), true);
        Pass { state, unmet, next: Some(base.clone()), base, visited: Visited::default(), rows: 0, of: None, pieces: None, told: 0 }
    }

    /// A page of keys that are there.
    async fn meet(&mut self, pass: &mut Pass, came: &Came, io: &SourceIo) {
        let (mut unknown, mut scratch) = (Changes::default(), Batch::new());
        for row in came.page.rows(&came.text) {
            scratch.clear();
            // One whose key cannot be read is not met, but asked for.
            if let Some(key) = self.key_of(row, &mut scratch) {
                let key = scratch.bytes_of(key);
                if !pass.unmet.remove(&pass.state.hash_one(key)) {
                    unknown.there(key);
                }
            }
        }
        if !unknown.is_empty() {
            self.changes = Some(unknown);
            let moved = self.kept(Mode::Water);
            self.move_on(io.batch().await, moved, io).await;
        }
    }

    fn next_piece(&self, pass: &mut Pass) -> Option<String> {
        if pass.unmet.is_empty() {
            return None;
        }
        let known = self.position.known.as_ref()?;
        let pieces = pass.pieces.get_or_insert_with(|| {
            let mut names: Vec<String> = known.names(&self.set.name).collect();
            names.reverse();
            names
        });
        pieces.pop()
    }

    /// Asks for what of a piece was not met, and tells what is gone.
    async fn look_for(&mut self, pass: &mut Pass, piece: &str, io: &SourceIo) -> Result<(), Trouble> {
        let piece = io.resume(piece).unwrap_or_default();
        // From the newest change to the oldest: the first that is met is the last word on its key.
        let mut missing = Vec::new();
        for (is_there, key) in changes(&piece).into_iter().rev() {
            if pass.unmet.remove(&pass.state.hash_one(key)) && is_there {
                missing.push(key.to_vec());
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let fates = self.fates(&missing).await?;
        let mut gone = Changes::default();
        missing.iter().zip(&fates).filter(|(_, fate)| **fate != Fate::There).for_each(|(key, _)| gone.gone(key));
        let mut batch = io.batch().await;
        pass.told += self.tell(&missing, &fates, &mut batch, io);
        self.changes = Some(gone);
        let moved = self.kept(Mode::Water);
        self.move_on(batch, moved, io).await;
        Ok(())
    }

    async fn is_compared(&mut self, pass: &Pass, io: &SourceIo) {
        tracing::info!(set = &*self.set.name, keys = pass.rows, gone = pass.told, "the keys were compared; what is gone has its tombstone");
        self.unreconciled = None;
        self.position.reconciled = Some(Micros::now().0);
        io.status(&self.set.name, self.status());
        self.move_on(io.batch().await, Vec::new(), io).await;
    }
}
