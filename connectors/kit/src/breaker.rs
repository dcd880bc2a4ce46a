//! A circuit breaker per device or unit: one that does not answer costs its neighbours on the wire one request now and then, not a timeout each.
//!
//! ```text
//! closed ──failures in a row──> open ──wait is over──> half open: one request
//!    ^                            ^                         │
//!    └──────── it answers ────────┼───── it does not: the wait doubles
//! ```
//!
//! What a connector does: ask [`Breaker::permit`] before a device's requests; on [`Permit::Probe`] send the smallest one only, and the rest of the
//! cycle after it was answered; on [`Permit::Skip`] send nothing, [`crate::polled::push_bad`] the device's tags (the engine writes one bad sample
//! each, after `bad_after`) and count the cycle as skipped. An answer that says "no" (an exception, a bad address) is an answer.

use millrace_contract::{SourceIo, Status};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// When a breaker opens, and how long it stays open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Failures in a row that open it.
    pub failures: u32,
    /// The first wait; it doubles with every failed probe.
    pub first: Duration,
    pub most: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { failures: 3, first: Duration::from_secs(1), most: Duration::from_secs(60) }
    }
}

/// What may be sent to a device now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Permit {
    Go,
    /// One request, to see whether it answers again.
    Probe,
    Skip,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// So many failures in a row.
    Closed(u32),
    Open {
        until: Instant,
        wait: Duration,
    },
}

/// The breaker of one device.
#[derive(Clone, Debug)]
pub struct Breaker {
    /// The name of its status and its keep-alive.
    part: Arc<str>,
    limits: Limits,
    state: State,
    /// The status was told.
    is_told: bool,
}

impl Breaker {
    pub fn new(part: Arc<str>, limits: Limits) -> Self {
        Self { part, limits, state: State::Closed(0), is_told: false }
    }

    pub fn part(&self) -> &str {
        &self.part
    }

    /// What may be sent now. A probe that was permitted is to be reported as [`Self::answered`] or [`Self::failed`].
    pub fn permit(&self, now: Instant) -> Permit {
        match self.state {
            State::Closed(_) => Permit::Go,
            State::Open { until, .. } if until <= now => Permit::Probe,
            State::Open { .. } => Permit::Skip,
        }
    }

    /// When it may be probed next, while it is open.
    pub fn probe_at(&self) -> Option<Instant> {
        match self.state {
            State::Closed(_) => None,
            State::Open { until, .. } => Some(until),
        }
    }

    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open { .. })
    }

    /// It answered: closed again. Vouches for the device's tags.
    pub fn answered(&mut self, io: &SourceIo) {
        if self.state != State::Closed(0) || !self.is_told {
            if self.is_open() {
                tracing::info!(part = %self.part, "answers again");
            }
            io.status(&self.part, Status::Running);
            self.is_told = true;
        }
        self.state = State::Closed(0);
        io.alive(&self.part);
    }

    /// It did not answer; `why` names what was asked and what came of it: `no answer to holding:100..125 within 800ms`.
    pub fn failed(&mut self, why: &str, io: &SourceIo) {
        let wait = match self.state {
            State::Closed(failures) if failures + 1 < self.limits.failures => {
                self.state = State::Closed(failures + 1);
                return;
            }
            State::Closed(_) => self.limits.first,
            State::Open { wait, .. } => (wait * 2).min(self.limits.most),
        };
        if !self.is_open() {
            tracing::warn!(part = %self.part, why, "does not answer; others are read without waiting for it");
        }
        self.state = State::Open { until: Instant::now() + wait, wait };
        self.is_told = true;
        io.status(&self.part, Status::Degraded(format!("{why}; asked again in {wait:?}")));
    }

    /// A new connection: every device is asked at once, none has failed yet.
    pub fn reset(&mut self) {
        self.state = State::Closed(0);
        self.is_told = false;
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use async_trait::async_trait;
    use millrace_contract::{AckId, Clash, Command, Loss, SourceHost, TagDef};
    use millrace_schemas::{Batch, TagId};
    use parking_lot::Mutex;

    /// Keeps statuses and keep-alives.
    #[derive(Default)]
    pub(crate) struct Told(Mutex<Vec<String>>);

    #[async_trait]
    impl SourceHost for Told {
        fn resume(&self, _: &str) -> Option<Vec<u8>> {
            None
        }
        fn positions(&self, _: &str) -> Vec<(String, Vec<u8>)> {
            Vec::new()
        }
        fn declare(&self, _: TagDef) -> Result<TagId, Clash> {
            Ok(TagId(0))
        }
        fn retire(&self, _: TagId) {}
        async fn batch(&self) -> Batch {
            Batch::new()
        }
        async fn send(&self, _: Batch, _: &[(&str, &[u8])]) -> AckId {
            AckId(0)
        }
        async fn durable(&self, _: AckId) -> AckId {
            std::future::pending().await
        }
        async fn command(&self) -> Command {
            std::future::pending().await
        }
        fn lost(&self, _: Loss, _: u64) {}
        fn alive(&self, part: &str) {
            self.0.lock().push(format!("{part} alive"));
        }
        fn gone(&self, _: &str) {}
        fn status(&self, part: &str, status: Status) {
            self.0.lock().push(format!("{part} {}", status.word()));
        }
        async fn stopping(&self) {
            std::future::pending().await
        }
        fn is_stopping(&self) -> bool {
            false
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_device_that_does_not_answer_is_probed_ever_more_rarely_and_closed_by_one_answer() {
        let told = Arc::new(Told::default());
        let io = SourceIo::new(told.clone());
        let mut breaker = Breaker::new("m01".into(), Limits { most: Duration::from_secs(3), ..Limits::default() });
        breaker.answered(&io);
        for _ in 0..2 {
            assert_eq!(breaker.permit(Instant::now()), Permit::Go);
            breaker.failed("no answer", &io);
        }
        breaker.answered(&io);
        for _ in 0..3 {
            assert_eq!(breaker.permit(Instant::now()), Permit::Go);
            breaker.failed("no answer", &io);
        }
        for wait in [1, 2, 3, 3] {
            assert_eq!(breaker.permit(Instant::now()), Permit::Skip);
            tokio::time::advance(Duration::from_millis(wait * 1000 - 1)).await;
            assert_eq!(breaker.permit(Instant::now()), Permit::Skip);
            tokio::time::advance(Duration::from_millis(1)).await;
            assert_eq!(breaker.permit(Instant::now()), Permit::Probe);
            breaker.failed("no answer", &io);
        }
        breaker.answered(&io);
        assert_eq!(breaker.permit(Instant::now()), Permit::Go);
        let told = told.0.lock().clone();
        let statuses: Vec<_> = told.iter().filter(|told| !told.ends_with("alive")).map(String::as_str).collect();
        let degraded = ["m01 Degraded"; 5];
        assert_eq!(statuses, [&["m01 Running", "m01 Running"], &degraded[..], &["m01 Running"]].concat());
    }
}
