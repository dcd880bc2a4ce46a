//! Which of what was sent is durable.

use std::collections::VecDeque;

#[derive(Default)]
pub(super) struct Acks {
    pub(super) sent: u64,
    pub(super) done: u64,
    /// Ack ids whose lanes are not all synced.
    pub(super) pending: VecDeque<Unsynced>,
    /// How many of them are held.
    pub(super) holding: usize,
}

impl Acks {
    /// Lets go of what is synced: below these heads in every lane. Not every source asks what is durable.
    pub(super) fn settle(&mut self, heads: [u64; 3]) {
        while let Some(Unsynced { id, ends, held: 0 }) = self.pending.front()
            && ends.iter().zip(heads).all(|(end, synced)| *end <= synced)
        {
            self.done = *id;
            self.pending.pop_front();
        }
    }
}

/// A batch that is not durable yet.
pub(super) struct Unsynced {
    pub(super) id: u64,
    /// Each lane's end after it.
    pub(super) ends: [u64; 3],
    /// Some of it is in a wide record's window that ends then, and in no log before; zero: nothing.
    pub(super) held: i64,
}
