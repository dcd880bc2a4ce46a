//! Acknowledgements that wait for the log: what a device is told only once the batch it came in is synced.

use millrace_contract::{AckId, SourceIo};
use std::collections::VecDeque;

/// A queue of what waits for the log, in the order it came.
///
/// ```text
/// push ──> filling ──sent(id)──> waiting for id ──synced(id)──> ready
/// ```
#[derive(Clone, Debug)]
pub struct AfterSync<T> {
    /// Of the batch being filled.
    filling: Vec<T>,
    waiting: VecDeque<(AckId, T)>,
    last: AckId,
    durable: AckId,
}

impl<T> Default for AfterSync<T> {
    fn default() -> Self {
        Self { filling: Vec::new(), waiting: VecDeque::new(), last: AckId(0), durable: AckId(0) }
    }
}

impl<T> AfterSync<T> {
    /// Something of the batch being filled.
    pub fn push(&mut self, item: T) {
        self.filling.push(item);
    }

    /// The batch being filled was sent.
    pub fn sent(&mut self, id: AckId) {
        self.last = id;
        self.nothing_to_send();
    }

    /// What was filled needs no batch of its own: it waits for the last one sent.
    pub fn nothing_to_send(&mut self) {
        self.waiting.extend(self.filling.drain(..).map(|item| (self.last, item)));
    }

    /// The batch being filled is dropped: only so many of its items stay.
    pub fn truncate_filling(&mut self, len: usize) {
        self.filling.truncate(len);
    }

    /// How many items the batch being filled has.
    pub fn filling(&self) -> usize {
        self.filling.len()
    }

    /// What was sent and not taken yet.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.waiting.iter().map(|(_, item)| item)
    }

    /// Everything that was not taken yet.
    pub fn len(&self) -> usize {
        self.filling.len() + self.waiting.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What [`SourceIo::durable`] is to be asked for next; `None`: nothing that was sent waits.
    pub fn waits_after(&self) -> Option<AckId> {
        self.waiting.back().filter(|(id, _)| *id > self.durable).map(|_| self.durable)
    }

    /// The log is synced up to here.
    pub fn synced(&mut self, durable: AckId) {
        self.durable = self.durable.max(durable);
    }

    /// The next one that is ready.
    pub fn pop(&mut self) -> Option<T> {
        let is_ready = self.waiting.front().is_some_and(|(id, _)| *id <= self.durable);
        is_ready.then(|| self.waiting.pop_front()).flatten().map(|(_, item)| item)
    }

    /// Waits for the log until something is ready. Cancel-safe. Waits forever while nothing was sent.
    pub async fn next(&mut self, io: &SourceIo) -> T {
        loop {
            if let Some(item) = self.pop() {
                return item;
            }
            match self.waits_after() {
                Some(after) => self.synced(io.durable(after).await),
                None => std::future::pending().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_ready_in_its_order_once_its_batch_is_synced() {
        let mut queue = AfterSync::default();
        queue.push('a');
        queue.push('b');
        assert_eq!((queue.waits_after(), queue.len()), (None, 2));
        queue.sent(AckId(1));
        queue.push('c');
        queue.sent(AckId(2));
        queue.push('d');
        queue.nothing_to_send();
        assert_eq!((queue.pop(), queue.waits_after()), (None, Some(AckId(0))));
        queue.synced(AckId(1));
        assert_eq!([queue.pop(), queue.pop(), queue.pop()], [Some('a'), Some('b'), None]);
        assert_eq!(queue.waits_after(), Some(AckId(1)));
        queue.synced(AckId(2));
        assert_eq!([queue.pop(), queue.pop(), queue.pop()], [Some('c'), Some('d'), None]);
        assert!(queue.is_empty() && queue.waits_after().is_none());
    }

    #[test]
    fn a_batch_that_is_dropped_takes_its_acknowledgements_with_it() {
        let mut queue = AfterSync::default();
        queue.push(1);
        let mark = queue.filling();
        queue.push(2);
        queue.truncate_filling(mark);
        queue.sent(AckId(1));
        queue.synced(AckId(1));
        assert_eq!([queue.pop(), queue.pop()], [Some(1), None]);
    }
}
