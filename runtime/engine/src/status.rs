//! The status board of a connector: its word, the words of its parts, since when and why.

pub use millrace_contract::Status;
use millrace_schemas::Micros;
use parking_lot::Mutex;
use serde::Serialize;
use std::collections::BTreeMap;

/// Parts beyond this are counted, not kept: a birth may name thousands.
const PARTS_MAX: usize = 10_000;

#[derive(Debug, Default)]
pub struct Board(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    own: Status,
    since: Micros,
    parts: BTreeMap<String, Status>,
    sessions: u64,
    last_failure: Option<(Micros, String)>,
}

/// A connector at one moment, for REST and for people.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// Starting, Running, Degraded, Blocked, Paused, Stopping or Stopped.
    pub status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Microseconds since 1970.
    pub since: i64,
    /// Sessions so far that came to run.
    pub sessions: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<String>,
    /// Parts that are not running, with their reasons.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub parts: BTreeMap<String, String>,
    pub parts_total: usize,
}

impl Board {
    /// Sets the connector's own status. True when the word or the reason changed.
    pub fn set(&self, status: Status, now: Micros) -> bool {
        let mut inner = self.0.lock();
        if inner.own == status {
            return false;
        }
        if inner.own.word() != status.word() {
            inner.since = now;
        }
        inner.own = status;
        true
    }

    pub fn set_part(&self, part: &str, status: Status, now: Micros) -> bool {
        if part.is_empty() {
            return self.set(status, now);
        }
        let mut inner = self.0.lock();
        if let Some(old) = inner.parts.get_mut(part) {
            let is_new = *old != status;
            *old = status;
            return is_new;
        }
        if inner.parts.len() < PARTS_MAX {
            inner.parts.insert(part.to_owned(), status);
        }
        true
    }

    pub fn has_part(&self, part: &str) -> bool {
        self.0.lock().parts.contains_key(part)
    }

    /// What the connector tells apart is not as it was: each part says how it is when it is there.
    pub fn forget_parts(&self) {
        self.0.lock().parts.clear();
    }

    /// Every part with its status, by name.
    pub fn parts(&self) -> Vec<(String, Status)> {
        self.0.lock().parts.iter().map(|(name, status)| (name.clone(), status.clone())).collect()
    }

    pub fn session_opened(&self) {
        self.0.lock().sessions += 1;
    }

    pub fn failed(&self, cause: &str, now: Micros) {
        self.0.lock().last_failure = Some((now, cause.to_owned()));
    }

    pub fn own(&self) -> Status {
        self.0.lock().own.clone()
    }

    /// The connector's word: its own, or Degraded where a part is not running; `blocked` is the drain's reason.
    pub fn report(&self, blocked: Option<String>) -> Report {
        let inner = self.0.lock();
        let ailing: BTreeMap<String, String> =
            inner.parts.iter().filter_map(|(name, s)| s.reason().map(|reason| (name.clone(), format!("{}: {reason}", s.word())))).collect();
        let (status, reason) = match (&blocked, &inner.own) {
            // Also where the source itself has ended: what it left in the log still waits for somebody to act.
            (Some(reason), _) => ("Blocked", Some(reason.clone())),
            (_, Status::Running) if !ailing.is_empty() => {
                let (name, reason) = ailing.iter().next().expect("not empty");
                ("Degraded", Some(format!("{} of {} parts: {name}: {reason}", ailing.len(), inner.parts.len())))
            }
            (_, own) => (own.word(), own.reason().map(str::to_owned)),
        };
        Report {
            status,
            reason,
            since: inner.since.0,
            sessions: inner.sessions,
            last_failure: inner.last_failure.as_ref().map(|(_, cause)| cause.clone()),
            parts: ailing.into_iter().take(100).collect(),
            parts_total: inner.parts.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_ailing_part_degrades_a_running_connector_and_the_drain_blocks_it() {
        let board = Board::default();
        assert_eq!(board.report(None).status, "Starting");
        board.set(Status::Running, Micros(1));
        board.set_part("m01", Status::Running, Micros(1));
        assert_eq!(board.report(None).status, "Running");
        board.set_part("m02", Status::Degraded("no answer".into()), Micros(2));
        let report = board.report(None);
        assert_eq!((report.status, report.reason.as_deref()), ("Degraded", Some("1 of 2 parts: m02: Degraded: no answer")));
        assert_eq!(board.report(Some("topic refused".into())).status, "Blocked");
    }

    #[test]
    fn a_source_that_has_ended_still_says_that_its_records_are_blocked() {
        let board = Board::default();
        board.set(Status::Stopped, Micros(1));
        let report = board.report(Some("topic refused".into()));
        assert_eq!((report.status, report.reason.as_deref()), ("Blocked", Some("topic refused")));
        assert_eq!(board.report(None).status, "Stopped");
    }
}
