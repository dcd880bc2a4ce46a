//! What was found in one record: a value for each sample, and for each leaf of a structure.

use crate::time::Stamp;
use millrace_config::Reason;
use millrace_schemas::{Span, StatusCode, Value};

/// How many leaves the structures of one payload may have.
pub const LEAVES: usize = 65_536;
/// How long the path of a leaf may be, in bytes.
pub const PATH: usize = 1024;

/// What was found in one record. Reused: once warm, nothing is allocated.
#[derive(Debug, Default)]
pub struct Extracted {
    /// The record's time, where the extraction has one.
    pub time: Option<Stamp>,
    /// The record's status, where the extraction has one; else good.
    pub status: StatusCode,
    /// Why the status is uncertain, where it could not be read.
    pub note: Option<Reason>,
    pub(super) time_error: Option<Reason>,
    /// Of a time that stands in several places.
    pub(super) time_parts: Vec<String>,
    pub(super) has_status: bool,
    pub(super) slots: Vec<Slot>,
    pub(super) leaves: Vec<Leaf>,
    pub(super) paths: Vec<u8>,
    pub(super) order: Vec<u32>,
}

#[derive(Debug)]
pub(super) struct Slot {
    pub(super) state: State,
    /// Grows when a key stands twice and what was found below the first is void.
    pub(super) generation: u32,
}

#[derive(Debug)]
pub(super) enum State {
    Missing,
    Expanded,
    Value(Own),
}

/// A value with its own status.
#[derive(Debug)]
pub(super) struct Own {
    pub(super) value: Value,
    pub(super) status: StatusCode,
    pub(super) why: Option<Box<str>>,
}

impl Own {
    pub(super) const fn good(value: Value) -> Self {
        Self { value, status: StatusCode::GOOD, why: None }
    }

    pub(super) const fn null() -> Self {
        Self { value: Value::Null, status: StatusCode::BAD_NO_DATA, why: None }
    }
}

#[derive(Debug)]
pub(super) struct Leaf {
    pub(super) sample: u32,
    pub(super) generation: u32,
    pub(super) path: Span,
    pub(super) own: Own,
}

/// One value of one sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Found<'a> {
    /// Which of the extraction's samples, counted from zero.
    pub sample: usize,
    /// Of a structure's leaf: the path below the sample, `field/field`, a `/` in a name as %2F. Else empty.
    pub leaf: &'a str,
    pub value: Value,
    pub status: StatusCode,
    /// What is wrong with the value, for a person.
    pub why: Option<&'a str>,
}

impl Found<'_> {
    /// The record has nothing at the sample's place.
    pub fn is_missing(&self) -> bool {
        self.value == Value::Null && self.status == StatusCode::BAD_NOT_FOUND
    }
}

impl Extracted {
    pub(super) fn begin(&mut self, samples: usize) {
        self.time = None;
        self.time_error = None;
        self.time_parts.clear();
        self.status = StatusCode::GOOD;
        self.has_status = false;
        self.note = None;
        self.slots.clear();
        self.slots.resize_with(samples, || Slot { state: State::Missing, generation: 0 });
        self.leaves.clear();
        self.paths.clear();
    }

    /// Every sample of the extraction, found or not; of an expanded structure its leaves.
    pub fn iter(&self) -> impl Iterator<Item = Found<'_>> {
        let slots = self.slots.iter().enumerate().filter_map(|(sample, slot)| match &slot.state {
            State::Expanded => None,
            State::Missing => Some(Found { sample, leaf: "", value: Value::Null, status: StatusCode::BAD_NOT_FOUND, why: None }),
            State::Value(own) => Some(self.found(sample, "", own)),
        });
        let leaves = self.leaves.iter().filter_map(|leaf| {
            let sample = leaf.sample as usize;
            let counts = leaf.generation == self.slots[sample].generation;
            let path = std::str::from_utf8(leaf.path.of(&self.paths)).unwrap_or("");
            counts.then(|| self.found(sample, path, &leaf.own))
        });
        slots.chain(leaves)
    }

    pub(super) fn found<'a>(&self, sample: usize, leaf: &'a str, own: &'a Own) -> Found<'a> {
        let mut status = if own.status.0 >> 30 >= self.status.0 >> 30 { own.status } else { self.status };
        if status.is_good() && self.time.is_some_and(|time| time.uncertain) {
            status = StatusCode::UNCERTAIN;
        }
        Found { sample, leaf, value: own.value, status, why: own.why.as_deref() }
    }

    /// Of a structure's field that stands twice the last counts.
    pub(super) fn drop_doubles(&mut self) {
        if self.leaves.len() < 2 {
            return;
        }
        let Self { leaves, paths, order, .. } = self;
        order.clear();
        order.extend(0..leaves.len() as u32);
        let key = |n: u32| {
            let leaf = &leaves[n as usize];
            (leaf.sample, leaf.generation, leaf.path.of(paths))
        };
        order.sort_unstable_by(|a, b| key(*a).cmp(&key(*b)).then(a.cmp(b)));
        order.dedup_by(|later, earlier| {
            let double = key(*later) == key(*earlier);
            if double {
                std::mem::swap(later, earlier); // `later` is what goes
            }
            double
        });
        if order.len() < leaves.len() {
            order.sort_unstable();
            let mut kept = order.iter().peekable();
            let mut n = 0;
            leaves.retain(|_| {
                let keep = kept.next_if(|next| **next == n).is_some();
                n += 1;
                keep
            });
        }
    }

    pub(super) fn set_status(&mut self, read: Result<StatusCode, Reason>) {
        self.has_status = true;
        (self.status, self.note) = match read {
            Ok(status) => (status, None),
            Err(note) => (StatusCode::UNCERTAIN, Some(note)),
        };
    }

    pub(super) fn set_time(&mut self, read: Result<Stamp, Reason>) {
        (self.time, self.time_error) = match read {
            Ok(stamp) => (Some(stamp), None),
            Err(error) => (None, Some(error)),
        };
    }
}
