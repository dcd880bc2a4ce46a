//! A record that waits to be posted, and what became of it.

use millrace_contract::{Failure, Offset, Partition};
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};

/// Notes about single records that are kept.
pub(crate) const FORGOTTEN: usize = 10_000;

/// What became of a record.
#[derive(Debug, PartialEq)]
pub enum Verdict {
    /// `already`: by an earlier try.
    Done {
        status: u16,
        location: String,
        already: bool,
    },
    /// The ERP says no, and will say so again.
    Refused {
        status: u16,
        text: String,
    },
    Later(Failure),
}

/// What outlives an instance, and not a crash.
#[derive(Debug, Default)]
pub struct Memory {
    /// Ids of requests whose answer was lost.
    pub(crate) doubtful: Mutex<HashSet<String>>,
    /// How often the service failed on a record with an error of its own.
    pub(crate) failed: Mutex<HashMap<String, u32>>,
    /// The service has said that it keeps ids.
    keeps_ids: AtomicBool,
}

impl Memory {
    pub fn keeps_ids(&self) -> bool {
        self.keeps_ids.load(Ordering::Relaxed)
    }

    pub fn it_keeps_ids(&self) {
        self.keeps_ids.store(true, Ordering::Relaxed);
    }

    /// How often a record failed, with this time.
    pub fn fails(&self, id: &str) -> u32 {
        let mut failed = self.failed.lock();
        if failed.len() > FORGOTTEN {
            failed.clear();
        }
        let times = failed.entry(id.to_owned()).or_default();
        *times += 1;
        *times
    }
}

/// A record that waits for its turn.
#[derive(Debug)]
pub struct Pending {
    pub partition: Partition,
    pub offset: Offset,
    pub timestamp_ms: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    /// 32 hexadecimal digits.
    pub id: String,
    /// What became of it, while an earlier one has to wait.
    pub(crate) verdict: Option<Verdict>,
}
