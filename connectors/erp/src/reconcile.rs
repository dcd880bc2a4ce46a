//! What is gone, after a delta link that the ERP has forgotten: a load is compared with the keys that were known before it.
//!
//! Only a load whose changes the service follows is compared: a row that another one shifted out of sight in the middle is in the delta that comes next, so
//! a tombstone too many is followed by the row.
//!
//! A crash in the middle of the comparison tells what is gone once more, never less. No keys are kept where they are too many, and nothing is
//! compared where one of them cannot be read: that is said, and counted as `delta_expired`.

use crate::known::{Changes, Keys, MOST_BYTES, Newest, PIECE};
use crate::position::{Load, Position};
use crate::reading::{BATCH_BYTES, Mode, Reading};
use millrace_contract::{Loss, SourceIo};
use millrace_schemas::Span;
use millrace_schemas::record::Doc;

impl Reading {
    /// All is to be read anew.
    pub(crate) fn start_over(&mut self) {
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
            self.deletions_are_not_seen(text, io);
        }
    }

    fn deletions_are_not_seen(&self, text: &str, io: &SourceIo) {
        io.lost(Loss::Other("delta_expired"), 1);
        let set = &*self.set.name;
        tracing::warn!(set, "a delta link is not valid any more, all is read again and deletions since are not seen: {text}");
    }

    /// Whether the keys of a page are kept.
    pub(crate) fn keeps_keys(&self, mode: Mode) -> bool {
        let is_followed = match mode {
            Mode::Load => self.set.wants_delta && self.position.load.as_ref().is_some_and(|load| load.is_tracked),
            Mode::Delta => self.position.known.is_some(),
            Mode::Water => false,
        };
        is_followed && !self.position.has_too_many
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
            "the keys of the set have more than {most} MiB and are not kept: what is deleted while a delta link is not valid will not be seen"
        );
    }

    /// The last row of a load was read.
    pub(crate) fn load_is_complete(&mut self, io: &SourceIo) {
        let Some(load) = self.position.load.take() else { return };
        let before = self.position.known.take();
        if load.is_tracked && self.set.wants_delta && !self.position.has_too_many {
            self.position.known = Some(Keys { base: load.keys.bytes, ..load.keys });
        }
        if let Some(before) = before {
            if load.is_blind || self.position.known.is_none() {
                self.unneeded.extend(before.names(&self.set.name));
                self.deletions_are_not_seen(
                    "a row of the load has no key that can be read, or the service does not follow changes any more",
                    io,
                );
            } else {
                self.position.before = Some(before);
            }
        }
    }

    /// Tells what a load has not met though it was known before.
    pub(crate) async fn sweep(&mut self, io: &SourceIo) {
        let (Some(before), Some(known)) = (self.position.before.take(), &self.position.known) else { return };
        let set = self.set.name.clone();
        let (mut newest, mut bytes) = (Newest::default(), 0);
        for name in known.names(&set) {
            let piece = io.resume(&name).unwrap_or_default();
            bytes += piece.len() as u64;
            newest.take(&piece, |_| ());
        }
        let mut batch = io.batch().await;
        let mut gone = 0_u64;
        if bytes == known.bytes {
            for name in before.names(&set) {
                newest.take(&io.resume(&name).unwrap_or_default(), |key| {
                    let (time, key) = (batch.read_time, batch.push_bytes(key));
                    batch.docs.push(Doc { route: self.route, time, key, headers: Span::EMPTY, payload: None, topic: Span::EMPTY });
                    gone += 1;
                });
                if batch.heap.len() >= BATCH_BYTES {
                    io.send(std::mem::replace(&mut batch, io.batch().await), &[]).await;
                }
            }
            tracing::info!(set = &*set, gone, "all was read again and compared; what is gone has its tombstone");
        } else {
            self.deletions_are_not_seen("positions of its keys are lost", io);
        }
        let moved = before.names(&set).map(|name| (name, Vec::new())).collect();
        self.move_on(batch, moved, io).await;
    }

    /// Writes the keys anew, once most changes came to nothing.
    pub(crate) async fn rewrite(&mut self, io: &SourceIo) {
        let Some(worn) = self.position.known.clone().filter(Keys::is_worn) else { return };
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
    async fn move_on(&mut self, batch: millrace_schemas::Batch, mut moved: Vec<(String, Vec<u8>)>, io: &SourceIo) {
        self.written = self.position.write();
        moved.push((Position::key(&self.set.name), self.written.clone()));
        let moved: Vec<(&str, &[u8])> = moved.iter().map(|(key, value)| (key.as_str(), value.as_slice())).collect();
        io.send(batch, &moved).await;
    }
}
