//! When which edge node is asked for its birth.
//!
//! A request is planned, not sent: it waits until the node's last one is long enough ago (twice as long after each that was not answered),
//! and while the second's allowance is used up: a host that starts in front of a thousand nodes makes no storm. A birth in the meantime
//! cancels it. A silent node is asked a few times, as a request may be lost; after that only when it speaks.
//!
//! Source: Sparkplug 3.0.0, tck-id-operational-behavior-data-commands-rebirth-*.

use super::address::NAMESPACE;
use super::datatype::DataType;
use super::route::Outgoing;
use super::wire::write;
use millrace_schemas::Micros;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Requests a second, over all nodes.
const A_SECOND: u32 = 20;
const LONGEST: Duration = Duration::from_secs(300);
/// How often a node that says nothing is asked.
const PATIENCE: u32 = 6;

/// What was asked of one node.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    due: Option<Instant>,
    last: Option<Instant>,
    unanswered: u32,
}

/// The plan for all nodes.
pub struct Rebirths {
    passive: bool,
    every: Duration,
    due: BTreeSet<(Instant, usize)>,
    second: Option<(Instant, u32)>,
}

impl Rebirths {
    pub fn new(passive: bool, every: Duration) -> Self {
        Self { passive, every, due: BTreeSet::new(), second: None }
    }

    /// Plans a request at `at`, or as soon after as the limits allow.
    pub fn ask(&mut self, node: usize, asked: &mut Asked, at: Instant) {
        if self.passive {
            return;
        }
        let wait = self.every.saturating_mul(1 << asked.unanswered.saturating_sub(1).min(16)).min(LONGEST.max(self.every));
        let at = asked.last.map_or(at, |last| at.max(last + wait));
        match asked.due {
            Some(due) if due <= at => return,
            Some(due) => drop(self.due.remove(&(due, node))),
            None => {}
        }
        asked.due = Some(at);
        self.due.insert((at, node));
    }

    /// The node was born, or died: nothing is to be asked any more.
    pub fn answered(&mut self, node: usize, asked: &mut Asked) {
        if let Some(due) = asked.due.take() {
            self.due.remove(&(due, node));
        }
        asked.unanswered = 0;
    }

    /// The next node whose request is due; `sent` must follow.
    pub fn next(&mut self, now: Instant) -> Option<usize> {
        let (at, node) = *self.due.first()?;
        if at > now {
            return None;
        }
        match &mut self.second {
            Some((since, count)) if now.saturating_duration_since(*since) < Duration::from_secs(1) => {
                if *count >= A_SECOND {
                    return None;
                }
                *count += 1;
            }
            second => *second = Some((now, 1)),
        }
        self.due.pop_first();
        Some(node)
    }

    /// The request was sent.
    pub fn sent(&mut self, node: usize, asked: &mut Asked, now: Instant) {
        asked.due = None;
        asked.last = Some(now);
        asked.unanswered += 1;
        if asked.unanswered < PATIENCE {
            self.ask(node, asked, now);
        }
    }
}

/// The request: NCMD with the metric `Node Control/Rebirth` true.
pub fn request(part: &str, time: Micros) -> Outgoing {
    let (group, node) = part.split_once('/').unwrap_or((part, ""));
    let millis = time.as_millis().max(0) as u64;
    let mut metric = Vec::new();
    write::bytes(&mut metric, 1, b"Node Control/Rebirth");
    write::number(&mut metric, 3, millis);
    write::number(&mut metric, 4, DataType::Boolean as u64);
    write::number(&mut metric, 14, 1);
    let mut payload = Vec::new();
    write::number(&mut payload, 1, millis);
    write::bytes(&mut payload, 2, &metric);
    Outgoing { topic: format!("{NAMESPACE}/{group}/NCMD/{node}"), payload, qos: 0, retain: false }
}
