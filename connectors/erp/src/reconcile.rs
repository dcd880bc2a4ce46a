//! What is gone after a load: what was known before it and is not among its rows. A load follows a delta link that the ERP has forgotten, or is each poll
//! of a set that has nothing to go on from.
//!
//! Where the service follows changes, a row that another one shifted out of sight in the middle is in the delta that comes next, so a tombstone too many
//! is followed by the row. Otherwise, and where there is a filter or a row whose key cannot be read, what is missing is asked for by its key before
//! anything is told ([`crate::lookup`]).
//!
//! After a crash in the middle the comparison goes on. No keys are kept where they are too many, and nothing is told where the ERP does not answer; what it
//! was asked for then stays known, for the next comparison. Both are said, and counted as `delta_expired`, or as `not_reconciled` where
//! `reconcile_every` is set.

use crate::known::{Changes, Keys, MOST_BYTES, Newest, PIECE};
use crate::lookup::Fate;
use crate::position::{Load, Position};
use crate::reading::{Mode, Reading, Trouble};
use crate::set::LeftFilter;
use millrace_contract::{Failure, Loss, SourceIo};
use millrace_schemas::record::Doc;
use millrace_schemas::{Batch, Micros, Span};

impl Reading {
    /// All is to be read anew.
    pub(crate) fn start_over(&mut self) {
        self.pass = None;
        let given_up = self.position.load.take().map(|load| load.keys);
        self.unneeded.extend(given_up.iter().flat_map(|keys| keys.names(&self.set.name)));
        let keys = Keys::after(self.position.known.iter().chain(&given_up));
        self.position.delta = None;
        self.position.load = Some(Load { keys, ..Load::default() });
    }

    /// A link that was kept is not valid any more.
    pub(crate) fn link_is_gone(&self, mode: Mode, text: &str, io: &SourceIo) {
        let set = &*self.set.name;
        if mode != Mode::Delta {
            tracing::warn!(set, "a link to the next page is not valid any more, all is read again: {text}");
        } else if self.position.known.is_some() {
            tracing::warn!(set, "a delta link is not valid any more, all is read again and compared with what was known: {text}");
        } else {
            io.lost(Loss::Other("delta_expired"), 1);
            tracing::warn!(set, "a delta link is not valid any more, all is read again and deletions since are not seen: {text}");
        }
    }

    pub(crate) fn deletions_are_not_seen(&self, text: &str, io: &SourceIo) {
        io.lost(Loss::Other(if self.set.reconcile_every.is_some() { "not_reconciled" } else { "delta_expired" }), 1);
        let set = &*self.set.name;
        tracing::warn!(set, "what is gone since the last load cannot be told: {text}");
    }

    /// Whether the keys of a page are kept.
    pub(crate) fn keeps_keys(&self, mode: Mode) -> bool {
        let is_followed = match mode {
            Mode::Load => self.position.load.as_ref().is_some_and(|load| self.compares(load)),
            Mode::Delta | Mode::Water => self.position.known.is_some(),
        };
        is_followed && !self.position.has_too_many
    }

    /// Whether the keys of a load are compared with those of another one some time.
    fn compares(&self, load: &Load) -> bool {
        self.set.reconcile_every.is_some() || self.set.wants_delta && load.is_tracked
    }

    /// The positions that move with the keys of a page; those that are not needed any more go.
    pub(crate) fn kept(&mut self, mode: Mode) -> Vec<(String, Vec<u8>)> {
        let mut moved = Vec::new();
        let keys = match mode {
            Mode::Load => self.position.load.as_mut().map(|load| &mut load.keys),
            _ => self.position.known.as_mut(),
        };
        if let (Some(mut changes), Some(keys)) = (self.changes.take(), keys) {
            if keys.bytes + changes.len() as u64 > MOST_BYTES {
                self.give_up(&mut moved);
            } else {
                moved = changes.moved(&self.set.name, keys);
            }
        }
        for name in self.unneeded.drain(..) {
            if !moved.iter().any(|(written, _)| *written == name) {
                moved.push((name, Vec::new()));
            }
        }
        moved
    }

    /// There are too many keys.
    fn give_up(&mut self, moved: &mut Vec<(String, Vec<u8>)>) {
        let Position { known, before, load, has_too_many, .. } = &mut self.position;
        *has_too_many = true;
        let written = load.as_mut().map(|load| std::mem::take(&mut load.keys));
        let all = [known.take(), before.take(), written];
        moved.extend(all.iter().flatten().flat_map(|keys| keys.names(&self.set.name)).map(|name| (name, Vec::new())));
        let most = MOST_BYTES >> 20;
        tracing::warn!(
            set = &*self.set.name,
            "the keys of the set have more than {most} MiB and are not kept: what is deleted will not be seen where no delta link tells it"
        );
    }

    /// The last row of a load was read.
    pub(crate) fn load_is_complete(&mut self, io: &SourceIo) {
        let Some(load) = self.position.load.take() else { return };
        let before = self.position.known.take();
        if self.compares(&load) && !self.position.has_too_many {
            self.position.known = Some(Keys { base: load.keys.bytes, ..load.keys });
        }
        self.position.reconciled = self.set.reconcile_every.map(|_| Micros::now().0);
        let Some(before) = before else { return };
        let is_doubted = load.is_blind || !load.is_tracked || self.set.filter.is_some();
        if self.position.known.is_none() || is_doubted && self.asking.is_none() {
            self.unneeded.extend(before.names(&self.set.name));
            self.deletions_are_not_seen(
                "there are too many, the service does not follow changes any more, or the key of a row can be neither read nor asked for",
                io,
            );
        } else {
            (self.position.before, self.position.is_doubted) = (Some(before), is_doubted);
        }
    }

    /// Tells what a load has not met though it was known before. Where the ERP does not say what became of it, it stays known, for the next comparison.
    ///
    /// Errors: of the service as a whole; it is to be called again.
    pub(crate) async fn sweep(&mut self, io: &SourceIo) -> Result<(), Failure> {
        let (Some(before), Some(known)) = (self.position.before.clone(), &self.position.known) else { return Ok(()) };
        let set = self.set.name.clone();
        let (mut newest, mut bytes) = (Newest::default(), 0);
        for name in known.names(&set) {
            let piece = io.resume(&name).unwrap_or_default();
            bytes += piece.len() as u64;
            newest.take(&piece, |_| ());
        }
        let (mut told, mut refused) = (0, None);
        let is_whole = bytes == known.bytes;
        if !is_whole {
            refused = Some("positions of its keys are lost".to_owned());
        }
        for name in before.names(&set).take_while(|_| is_whole) {
            let mut missing = Vec::new();
            newest.take(&io.resume(&name).unwrap_or_default(), |key| missing.push(key.to_vec()));
            if missing.is_empty() {
                continue;
            }
            let fates = match (self.position.is_doubted, refused.is_some()) {
                (false, _) => vec![Fate::Gone; missing.len()],
                (true, true) => vec![Fate::There; missing.len()],
                (true, false) => match self.fates(&missing).await {
                    Ok(fates) => fates,
                    Err(Trouble::Session(failure)) => return Err(failure),
                    Err(Trouble::Set { text, .. }) => {
                        refused = Some(text);
                        vec![Fate::There; missing.len()]
                    }
                },
            };
            // What is said of a key moves with it: after a crash it is not missing any more.
            let mut said = Changes::default();
            for (key, fate) in missing.iter().zip(&fates) {
                if *fate == Fate::There { said.there(key) } else { said.gone(key) }
            }
            let mut batch = io.batch().await;
            told += self.tell(&missing, &fates, &mut batch, io);
            self.changes = Some(said);
            let moved = self.kept(Mode::Delta);
            self.move_on(batch, moved, io).await;
        }
        match refused {
            Some(why) => {
                self.deletions_are_not_seen(&why, io);
                self.is_unreconciled(why);
            }
            None => {
                self.unreconciled = None;
                tracing::info!(set = &*set, gone = told, "all was read again and compared; what is gone has its tombstone");
            }
        }
        (self.position.before, self.position.is_doubted) = (None, false);
        let moved = before.names(&set).map(|name| (name, Vec::new())).collect();
        self.move_on(io.batch().await, moved, io).await;
        Ok(())
    }

    /// Makes tombstones of what is gone; returns how many.
    pub(crate) fn tell(&self, keys: &[Vec<u8>], fates: &[Fate], batch: &mut Batch, io: &SourceIo) -> u64 {
        let mut told = 0;
        for (key, fate) in keys.iter().zip(fates) {
            match (fate, self.set.left_filter) {
                (Fate::There, _) => {}
                (Fate::LeftFilter, LeftFilter::Count) => io.lost(Loss::Other("left_filter"), 1),
                (Fate::LeftFilter, LeftFilter::Tombstone) | (Fate::Gone, _) => {
                    let (time, key) = (batch.read_time, batch.push_bytes(key));
                    batch.docs.push(Doc { route: self.route, time, key, headers: Span::EMPTY, payload: None, topic: Span::EMPTY });
                    told += 1;
                }
            }
        }
        told
    }

    /// Writes the keys anew, once most changes came to nothing.
    pub(crate) async fn rewrite(&mut self, io: &SourceIo) {
        // A comparison under way goes through the pieces as they are.
        let Some(worn) = self.position.known.clone().filter(|keys| keys.is_worn() && self.pass.is_none()) else { return };
        let set = self.set.name.clone();
        let mut keys = Keys::after([&worn]);
        let (mut newest, mut changes) = (Newest::default(), Changes::default());
        for name in worn.names(&set) {
            newest.take(&io.resume(&name).unwrap_or_default(), |key| changes.there(key));
            if changes.len() >= PIECE {
                let moved = changes.moved(&set, &mut keys);
                let moved: Vec<(&str, &[u8])> = moved.iter().map(|(key, value)| (key.as_str(), value.as_slice())).collect();
                io.send(io.batch().await, &moved).await;
            }
        }
        let mut moved = changes.moved(&set, &mut keys);
        moved.extend(worn.names(&set).map(|name| (name, Vec::new())));
        keys.base = keys.bytes;
        self.position.known = Some(keys);
        self.move_on(io.batch().await, moved, io).await;
    }

    /// Sends a batch with the position and others.
    pub(crate) async fn move_on(&mut self, batch: Batch, mut moved: Vec<(String, Vec<u8>)>, io: &SourceIo) {
        self.written = self.position.write();
        moved.push((Position::key(&self.set.name), self.written.clone()));
        let moved: Vec<(&str, &[u8])> = moved.iter().map(|(key, value)| (key.as_str(), value.as_slice())).collect();
        io.send(batch, &moved).await;
    }
}
