//! What the producer's polling thread tells the drain: tallies of delivered messages, and what failed.

use super::shared::Signal;
use millrace_kafka::{Connection, Deliveries, KafkaError, Report};
use parking_lot::Mutex;
use std::sync::Arc;

/// Consecutive reports of one unit.
#[derive(Debug)]
pub(super) struct Tally {
    pub opaque: u64,
    pub count: u32,
    /// `None`: delivered.
    pub error: Option<Box<KafkaError>>,
}

/// Reports on their way from the polling thread to the drain.
pub(super) struct Mailbox {
    tallies: Mutex<Vec<Tally>>,
    connection: Mutex<Option<Connection>>,
    signal: Arc<Signal>,
}

impl Mailbox {
    pub fn new(signal: Arc<Signal>) -> Self {
        Self { tallies: Mutex::default(), connection: Mutex::default(), signal }
    }

    /// Takes what has come, into an empty list.
    pub fn take(&self, into: &mut Vec<Tally>) {
        debug_assert!(into.is_empty());
        std::mem::swap(&mut *self.tallies.lock(), into);
    }

    /// The connection's state, if it changed.
    pub fn take_connection(&self) -> Option<Connection> {
        self.connection.lock().take()
    }
}

impl Deliveries for Mailbox {
    fn reports(&self, reports: &[Report]) {
        let mut tallies = self.tallies.lock();
        for report in reports {
            match tallies.last_mut() {
                Some(last) if last.opaque == report.opaque && last.error.is_none() && report.error.is_none() => last.count += 1,
                _ => tallies.push(Tally { opaque: report.opaque, count: 1, error: report.error.clone() }),
            }
        }
        drop(tallies);
        self.signal.wake();
    }

    fn connection(&self, state: Connection) {
        *self.connection.lock() = Some(state);
        self.signal.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_kafka::Class;

    #[test]
    fn deliveries_of_one_unit_are_one_tally_and_a_failure_is_its_own() {
        let mailbox = Mailbox::new(Arc::default());
        let fine = |opaque| Report { opaque, partition: 0, offset: 1, error: None };
        let error = Box::new(KafkaError { code: 10, class: Class::Retry, text: "x".into() });
        let failed = Report { error: Some(error), ..fine(7) };
        mailbox.reports(&[fine(7), fine(7), failed.clone(), failed, fine(7), fine(8)]);
        let mut tallies = Vec::new();
        mailbox.take(&mut tallies);
        let seen: Vec<_> = tallies.iter().map(|t| (t.opaque, t.count, t.error.is_some())).collect();
        assert_eq!(seen, [(7, 2, false), (7, 1, true), (7, 1, true), (7, 1, false), (8, 1, false)]);
    }
}
