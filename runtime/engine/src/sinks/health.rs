//! Whether the sink and its topics are there.

use crate::sinks::session::Session;
use millrace_contract::{Status, is_meant};
use millrace_schemas::Micros;
use std::time::{Duration, Instant};

/// How often an ailing consumer asks whether Kafka is back.
const PROBE: Duration = Duration::from_secs(5);

const LOOK_AGAIN: Duration = Duration::from_secs(30);

impl<'r> Session<'r> {
    pub(super) fn is_well(&mut self) {
        self.ailing = None;
        let board = &self.runner.options.board;
        let before = board.own();
        board.set(Status::Running, Micros::now());
        if !std::mem::replace(&mut self.has_run, true) {
            board.session_opened();
        }
        if matches!(before, Status::Degraded(_) | Status::Blocked(_)) {
            tracing::info!(sink = self.runner.options.name, "runs again");
        }
    }

    pub(super) fn is_ailing(&mut self, status: Status) {
        self.ailing = Some(Instant::now());
        let reason = status.reason().unwrap_or_default().to_owned();
        let needs_human = matches!(status, Status::Blocked(_));
        if self.runner.options.board.set(status, Micros::now()) {
            match needs_human {
                true => tracing::error!(sink = self.runner.options.name, "Kafka refuses it: {reason}"),
                false => tracing::warn!(sink = self.runner.options.name, "can't read from Kafka at the moment: {reason}"),
            }
        }
    }

    /// Says which topics do not exist: nothing comes of them, and no error either.
    pub(super) fn look_for_topics(&mut self) {
        let options = &self.runner.options;
        self.look_at = Some(Instant::now() + LOOK_AGAIN);
        let Ok(there) = self.consumer.topics(Duration::from_secs(1)) else { return };
        let mut are_all_there = true;
        for topic in &options.topics {
            let is_there = there.iter().any(|name| is_meant(topic, name));
            are_all_there &= is_there;
            let part = format!("topic {topic}");
            if !is_there {
                let reason = "it does not exist yet, or this user may not see it; the sink begins when it is there: create it, or declare it under `topics`".to_owned();
                if options.board.set_part(&part, Status::Degraded(reason.clone()), Micros::now()) {
                    tracing::warn!(sink = options.name, topic, "the sink waits for a topic: {reason}");
                }
            } else if options.board.has_part(&part) {
                options.board.set_part(&part, Status::Running, Micros::now());
            }
        }
        if are_all_there {
            self.look_at = None;
        }
    }

    /// Nothing comes: where that may be Kafka's fault, ask.
    pub(super) fn probe(&mut self) {
        if self.ailing.is_some_and(|asked| asked.elapsed() > PROBE) {
            self.ailing = Some(Instant::now());
            let known: Vec<&String> = self.runner.options.topics.iter().filter(|t| !t.contains('*')).collect();
            if let Ok(there) = self.consumer.topics(Duration::from_secs(1))
                && known.iter().all(|t| there.contains(t))
            {
                self.is_well();
            }
        }
    }
}
