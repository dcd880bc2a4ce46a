//! What became of the records that the producer took.
//!
//! The number that travels with a record through the producer says which it was: 16 bits of the partition's index, 48 bits of the offset.

use crate::pairs::Pair;
use millrace_contract::Offset;
use millrace_kafka::{Connection, Deliveries, KafkaError, Report};
use parking_lot::{Condvar, Mutex};
use std::collections::HashMap;
use std::time::Duration;

const OFFSET_BITS: u32 = 48;
/// A record of our own, not a copy: a position.
pub const OWN: u64 = u64::MAX;
/// How many partitions one instance can tell apart.
pub const MAX_PARTS: usize = 0xFFFF;

/// The number of a record; `None` beyond 2^48 records in one partition.
pub fn opaque(part: usize, offset: Offset) -> Option<u64> {
    let offset = u64::try_from(offset).ok().filter(|offset| offset >> OFFSET_BITS == 0)?;
    let part = u64::try_from(part).ok().filter(|part| *part < MAX_PARTS as u64)?;
    Some(part << OFFSET_BITS | offset)
}

/// The partition's index and the offset of a record, by its number.
const fn place(opaque: u64) -> (usize, Offset) {
    ((opaque >> OFFSET_BITS) as usize, (opaque & ((1 << OFFSET_BITS) - 1)) as Offset)
}

/// A record that was not delivered.
#[derive(Clone, Debug)]
pub struct Failed {
    /// The partition's index and the offset; `None`: a record of our own.
    pub record: Option<(usize, Offset)>,
    pub error: KafkaError,
}

/// Reports, as they come in on the producer's thread.
#[derive(Default)]
pub struct Outcomes {
    failed: Mutex<Vec<Failed>>,
    /// Of each partition, by its index, the last record that was delivered: offset at home and at the target. Where somebody asks for it.
    delivered: Option<Mutex<HashMap<usize, Pair>>>,
    /// The last word on the connection; `None`: nothing is wrong with it.
    trouble: Mutex<Option<Connection>>,
    reported: Mutex<u64>,
    news: Condvar,
}

impl Outcomes {
    /// `notes`: whether it is noted where records lie at the target.
    pub fn new(notes: bool) -> Self {
        Self { delivered: notes.then(Mutex::default), ..Self::default() }
    }

    /// Where the last record of each partition lies, since the last call.
    pub fn take_delivered(&self) -> HashMap<usize, Pair> {
        self.delivered.as_ref().map(|delivered| std::mem::take(&mut *delivered.lock())).unwrap_or_default()
    }

    /// What failed since the last call.
    pub fn take_failed(&self) -> Vec<Failed> {
        std::mem::take(&mut *self.failed.lock())
    }

    /// Why the target can't be reached, if it can't.
    pub fn trouble(&self) -> Option<Connection> {
        self.trouble.lock().clone()
    }

    /// Waits for reports, no longer than `bound`.
    pub fn wait(&self, bound: Duration) {
        let mut reported = self.reported.lock();
        self.news.wait_for(&mut reported, bound);
    }
}

impl Deliveries for Outcomes {
    fn reports(&self, reports: &[Report]) {
        if let Some(delivered) = &self.delivered {
            let mut delivered = delivered.lock();
            for report in reports.iter().filter(|report| report.error.is_none() && report.opaque != OWN && report.offset >= 0) {
                let (part, home) = place(report.opaque);
                let last = delivered.entry(part).or_insert((home, report.offset));
                *last = (*last).max((home, report.offset));
            }
        }
        let failed = reports.iter().filter_map(|report| {
            let error = report.error.as_deref()?.clone();
            let record = (report.opaque != OWN).then(|| place(report.opaque));
            Some(Failed { record, error })
        });
        self.failed.lock().extend(failed);
        *self.reported.lock() += reports.len() as u64;
        self.news.notify_all();
    }

    fn connection(&self, state: Connection) {
        *self.trouble.lock() = Some(state).filter(|state| *state != Connection::Up);
        self.news.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_finds_its_record() {
        let outcomes = Outcomes::default();
        let failed = |opaque| Report {
            opaque,
            partition: 0,
            offset: -1,
            error: Some(Box::new(KafkaError { code: 10, class: millrace_kafka::Class::Retry, text: "x".into() })),
        };
        let good = Report { opaque: 7, partition: 0, offset: 3, error: None };
        outcomes.reports(&[failed(opaque(5, (1 << 48) - 1).unwrap()), good, failed(OWN)]);
        let found: Vec<_> = outcomes.take_failed().into_iter().map(|f| f.record).collect();
        assert_eq!(found, [Some((5, (1 << 48) - 1)), None]);
        assert!(outcomes.take_failed().is_empty());
        assert_eq!((opaque(0, 1 << 48), opaque(MAX_PARTS, 0), opaque(0, -1)), (None, None, None));
    }
}
