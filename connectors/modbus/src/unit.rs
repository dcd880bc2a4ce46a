//! One unit on the line while a session lives: what is to be sent to it, what it refuses, what was learnt of it.
//!
//! ```text
//! a request for several values is refused (2, 3, 4)
//!   -> parted, and its parts asked in the same cycle, until the parts are answered or single values
//!   -> some single values are refused: each is set apart, read alone, and retried ever more slowly
//!   -> none is: the parts were refused together only, so they stay apart
//!   -> all are: nothing is learnt, the whole is asked again later
//! ```
//!
//! What was learnt is kept over restarts, and nothing is ever merged again by itself.

use crate::compiled::{Job, Unit};
use crate::pdu::{Exception, Read};
use crate::planner::{Block, Cuts, plan};
use millrace_contract::SourceIo;
use millrace_kit::breaker::{Breaker, Limits as BreakerLimits};
use millrace_kit::{Backoff, Retries};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// A request of a cycle.
#[derive(Clone, Debug)]
pub struct Work {
    /// Index of its job.
    pub job: usize,
    pub block: Arc<Block>,
    /// How often it was sent in this cycle before.
    pub attempt: u8,
    /// The refused request that it is a part of.
    pub part_of: Option<u32>,
    /// It reads an event's trigger again, after the data.
    pub is_trigger: bool,
}

/// A request that was refused, and what became of its parts.
#[derive(Debug, Default)]
struct Split {
    outstanding: usize,
    answered: Vec<Arc<Block>>,
    refused: Vec<(Arc<Block>, Exception)>,
}

/// The key of a request that is refused as it stands.
type Place = (crate::address::Table, u16, u16);

const RETRY: Backoff = Backoff::new(Duration::from_secs(10), Duration::from_secs(600));

pub struct UnitState {
    pub breaker: Breaker,
    pub queue: VecDeque<Work>,
    pub in_flight: usize,
    pub cuts: Cuts,
    pub refused: Retries<Place, Exception>,
    splits: BTreeMap<u32, Split>,
    next_split: u32,
}

const fn place(read: &Read) -> Place {
    (read.table, read.start, read.count)
}

impl UnitState {
    /// Takes up what an earlier process learnt.
    pub fn of(unit: &Unit, io: &SourceIo) -> Self {
        let learnt = io.resume(&unit.position).and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default();
        Self {
            breaker: Breaker::new(unit.name.clone(), BreakerLimits::default()),
            queue: VecDeque::new(),
            in_flight: 0,
            cuts: Cuts::from_text(&learnt),
            refused: Retries::new(RETRY),
            splits: BTreeMap::new(),
            next_split: 0,
        }
    }

    /// The requests of a job, as far as the unit is known.
    pub fn plan(&self, job: &Job, unit: &Unit) -> Vec<Arc<Block>> {
        plan(job.pieces.clone(), &unit.limits, &self.cuts).into_iter().map(Arc::new).collect()
    }

    /// Why a request is not sent now: it was refused as it stands, and not long ago.
    pub fn resting(&self, block: &Block) -> Option<Exception> {
        let place = place(&block.read);
        if self.refused.is_resting(&place) { self.refused.why(&place).copied() } else { None }
    }

    /// A request was answered. Returns whether the jobs are to be planned anew.
    pub fn answered(&mut self, work: &Work) -> bool {
        self.refused.succeeded(&place(&work.block.read));
        let Some(number) = work.part_of else { return false };
        if let Some(split) = self.splits.get_mut(&number) {
            split.outstanding -= 1;
            split.answered.push(work.block.clone());
        }
        self.learn(number)
    }

    /// A request was refused: parts it where it can be parted. `None`: it is to be tried again later; `Some` says in how many requests it goes on.
    pub fn part(&mut self, work: &Work) -> Option<usize> {
        let (left, right) = work.block.split()?;
        let number = work.part_of.unwrap_or_else(|| {
            self.next_split = self.next_split.wrapping_add(1);
            self.splits.insert(self.next_split, Split { outstanding: 1, ..Split::default() });
            self.next_split
        });
        if let Some(split) = self.splits.get_mut(&number) {
            split.outstanding += 1;
        }
        for block in [right, left] {
            self.queue.push_front(Work { block: Arc::new(block), attempt: 0, part_of: Some(number), ..work.clone() });
        }
        Some(2)
    }

    /// A request that can't be parted was refused. Returns whether the jobs are to be planned anew.
    pub fn refused(&mut self, work: &Work, exception: Exception) -> bool {
        let Some(number) = work.part_of else {
            self.refused.failed(place(&work.block.read), exception);
            return false;
        };
        if let Some(split) = self.splits.get_mut(&number) {
            split.outstanding -= 1;
            split.refused.push((work.block.clone(), exception));
        }
        self.learn(number)
    }

    /// A part had no answer: then nothing is learnt from the others.
    pub fn failed(&mut self, work: &Work) {
        if let Some(number) = work.part_of {
            self.splits.remove(&number);
        }
    }

    /// Learns from a refused request once all its parts are done.
    fn learn(&mut self, number: u32) -> bool {
        if self.splits.get(&number).is_none_or(|split| split.outstanding > 0) {
            return false;
        }
        let Some(split) = self.splits.remove(&number) else { return false };
        if split.answered.is_empty() {
            // It refuses everything: a device that is starting up, or another than was thought. The whole is asked again later.
            let all: Vec<_> = split.refused.iter().flat_map(|(block, _)| block.pieces.clone()).collect();
            if let Some((block, exception)) = split.refused.first() {
                let whole = Block::of(all, block.read.register_bytes);
                self.refused.failed(place(&whole.read), *exception);
            }
            return false;
        }
        let mut is_new = false;
        if split.refused.is_empty() {
            let first = split.answered.iter().map(|block| block.read.start).min();
            for block in &split.answered {
                if Some(block.read.start) != first {
                    is_new |= self.cuts.add(block.read.table, block.read.start);
                }
            }
        }
        for (block, exception) in &split.refused {
            self.refused.failed(place(&block.read), *exception);
            for piece in &block.pieces {
                is_new |= self.cuts.set_apart(piece);
            }
        }
        is_new
    }

    /// The tags that are refused, for a status: how many, and the first.
    pub fn refusals(&self) -> Option<String> {
        let (first, exception) = self.refused.iter().next()?;
        let read = Read { table: first.0, start: first.1, count: first.2, register_bytes: 2 };
        let more = self.refused.len() - 1;
        let others = if more == 0 { String::new() } else { format!(", and {more} more") };
        Some(format!("{read} is refused with {exception}{others}; check the address in the device's manual"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Table;
    use crate::planner::{Limits, Piece};
    use millrace_testkit::TestHost;

    const LIMITS: Limits = Limits { registers: 125, bits: 2000, max_gap: 8, register_bytes: 2 };

    fn pieces() -> Vec<Piece> {
        (0..8).map(|n| Piece { table: Table::Holding, start: n * 4, count: 2, tag: n.into() }).collect()
    }

    fn unit() -> Unit {
        Unit {
            name: "m01".into(),
            id: 1,
            is_named: true,
            limits: LIMITS,
            any_unit: false,
            write_with: None,
            bit_write: Default::default(),
            position: "learnt/m01".into(),
        }
    }

    fn job() -> Job {
        Job { unit: 0, groups: vec![0], every: Duration::from_secs(1), align: false, is_triggered: false, pieces: pieces() }
    }

    /// Asks a device that answers as told until every part is done; returns how many requests that took.
    fn ask(state: &mut UnitState, refuses: impl Fn(&Read) -> bool) -> usize {
        for block in state.plan(&job(), &unit()) {
            if state.resting(&block).is_none() {
                state.queue.push_back(Work { job: 0, block, attempt: 0, part_of: None, is_trigger: false });
            }
        }
        let mut requests = 0;
        while let Some(work) = state.queue.pop_front() {
            requests += 1;
            if !refuses(&work.block.read) {
                state.answered(&work);
            } else if state.part(&work).is_none() {
                state.refused(&work, Exception::ADDRESS);
            }
        }
        requests
    }

    fn reads(state: &UnitState) -> Vec<String> {
        state.plan(&job(), &unit()).iter().map(|block| block.read.to_string()).collect()
    }

    #[tokio::test]
    async fn a_refused_request_is_parted_until_the_bad_tag_stands_alone_and_that_is_kept() {
        let mut state = UnitState::of(&unit(), &TestHost::new().io());
        let touches = |read: &Read| read.start <= 13 && read.end() > 12;
        ask(&mut state, touches);
        assert_eq!(reads(&state), ["holding:0..9", "holding:12..13", "holding:16..29"]);
        assert!(state.refusals().unwrap().starts_with("holding:12..13 is refused with exception 2"));
        // The bad one rests, the others are two requests.
        assert_eq!(ask(&mut state, touches), 2);
        let kept = UnitState { cuts: Cuts::from_text(&state.cuts.to_text()), ..UnitState::of(&unit(), &TestHost::new().io()) };
        assert_eq!(reads(&kept), reads(&state));
    }

    #[tokio::test]
    async fn a_device_that_takes_only_short_requests_is_learnt_and_no_tag_is_blamed() {
        let mut state = UnitState::of(&unit(), &TestHost::new().io());
        let too_long = |read: &Read| read.count > 16;
        ask(&mut state, too_long);
        assert_eq!((ask(&mut state, too_long), state.refused.len()), (2, 0));
    }

    #[tokio::test]
    async fn a_hole_between_two_tags_is_learnt_and_no_tag_is_blamed() {
        let mut state = UnitState::of(&unit(), &TestHost::new().io());
        let hole = |read: &Read| read.start <= 14 && read.end() > 14;
        ask(&mut state, hole);
        assert_eq!(state.refused.len(), 0);
        assert!(reads(&state).iter().all(|read| !read.contains("12..17")), "{:?}", reads(&state));
        assert!(ask(&mut state, hole) <= 4);
    }

    #[tokio::test]
    async fn a_device_that_refuses_everything_teaches_nothing() {
        let mut state = UnitState::of(&unit(), &TestHost::new().io());
        ask(&mut state, |_| true);
        assert!(state.cuts.is_empty());
        assert_eq!((reads(&state).len(), ask(&mut state, |_| true)), (1, 0));
    }
}
