//! How a connector stands, in Kafka Connect's words.

use crate::connect::answer::release;
use crate::control::Declared;
use crate::shared::Console;
use millrace_engine::EngineReport;
use millrace_engine::hold::{Role, Wanted};
use millrace_engine::status::{Report, Status};
use serde_json::{Value, json};

/// A connector and its tasks.
pub struct State {
    name: String,
    role: Role,
    pub state: &'static str,
    /// Why, and what to do.
    trace: Option<String>,
    pub tasks: Vec<Task>,
    worker: String,
    version: String,
}

pub struct Task {
    /// The device or subscription; empty: the connector as a whole.
    pub part: String,
    state: &'static str,
    trace: Option<String>,
}

pub const fn kind(role: Role) -> &'static str {
    match role {
        Role::Source => "source",
        Role::Sink => "sink",
    }
}

/// Of one connector of the file, at this moment.
pub fn of(console: &Console, report: &EngineReport, one: &Declared) -> State {
    let running = match one.role {
        Role::Source => report.sources.get(&one.own).map(|source| &source.state),
        Role::Sink => report.sinks.get(&one.own).map(|sink| &sink.state),
    };
    let wanted = console.engine.wanted(one.role, &one.own);
    let (state, trace, tasks) = match (running, wanted) {
        (None, _) | (_, Wanted::Stopped) => ("STOPPED", None, Vec::new()),
        (Some(own), wanted) => judged(own, wanted, console.engine.parts(one.role, &one.own)),
    };
    let version = release(console.version).to_owned();
    State { name: one.name.clone(), role: one.role, state, trace, tasks, worker: console.worker.clone(), version }
}

fn judged(own: &Report, wanted: Wanted, parts: Vec<(String, Status)>) -> (&'static str, Option<String>, Vec<Task>) {
    let why = own.reason.clone().or_else(|| own.last_failure.clone());
    let (state, alone) = match (own.status, wanted) {
        (_, Wanted::Paused) => ("PAUSED", "PAUSED"),
        ("Blocked", _) => ("FAILED", "FAILED"),
        ("Degraded", _) => ("RUNNING", "FAILED"),
        ("Starting", _) => ("RESTARTING", "RESTARTING"),
        ("Stopped" | "Stopping", _) => ("STOPPED", "PAUSED"),
        _ => ("RUNNING", "RUNNING"),
    };
    let help = match own.status {
        "Blocked" => "it needs a human; it is tried again every minute",
        _ => "it is tried again by itself; the others are not held up",
    };
    let trace_of = |why: &Option<String>| why.as_ref().map(|why| format!("{why}\n{help}"));
    let trace = trace_of(&why).filter(|_| state == "FAILED");
    // Parts are only told apart while the session runs: what fails as a whole fails in each of them.
    let is_whole = alone != "RUNNING" && !parts.iter().any(|(_, status)| matches!(status, Status::Degraded(_) | Status::Blocked(_)));
    let task = |(part, status): (String, Status)| {
        let reason = status.reason().map(str::to_owned);
        let (state, reason) = match status {
            _ if is_whole || wanted == Wanted::Paused => (alone, why.clone()),
            Status::Degraded(_) | Status::Blocked(_) => ("FAILED", reason),
            Status::Starting => ("RESTARTING", None),
            Status::Paused => ("PAUSED", None),
            Status::Running | Status::Stopping | Status::Stopped => ("RUNNING", None),
        };
        let trace = reason.filter(|_| state == "FAILED").map(|reason| format!("{part}: {reason}\n{help}"));
        Task { part, state, trace }
    };
    let tasks = match (state, parts.is_empty()) {
        ("STOPPED", _) => Vec::new(),
        (_, true) => vec![Task { part: String::new(), state: alone, trace: trace_of(&why).filter(|_| alone == "FAILED") }],
        (_, false) => parts.into_iter().map(task).collect(),
    };
    (state, trace, tasks)
}

impl State {
    pub fn has_failed_task(&self) -> bool {
        self.tasks.iter().any(|task| task.state == "FAILED")
    }

    /// As `GET ../status` has it.
    pub fn status(&self) -> Value {
        self.said(|state| state)
    }

    /// The same, where everything begins anew.
    pub fn restarting(&self) -> Value {
        self.said(|state| if matches!(state, "PAUSED" | "STOPPED") { state } else { "RESTARTING" })
    }

    pub fn task(&self, id: usize) -> Option<Value> {
        self.tasks.get(id).map(|task| self.task_said(id, task, task.state))
    }

    fn said(&self, word: impl Fn(&'static str) -> &'static str) -> Value {
        let state = word(self.state);
        let mut connector = json!({ "state": state, "worker_id": self.worker, "version": self.version });
        if let Some(trace) = self.trace.as_ref().filter(|_| state == "FAILED") {
            connector["trace"] = trace.as_str().into();
        }
        let tasks: Vec<Value> = self.tasks.iter().enumerate().map(|(id, task)| self.task_said(id, task, word(task.state))).collect();
        json!({ "name": self.name, "connector": connector, "tasks": tasks, "type": kind(self.role) })
    }

    fn task_said(&self, id: usize, task: &Task, state: &'static str) -> Value {
        let mut said = json!({ "id": id, "state": state, "worker_id": self.worker, "version": self.version });
        if let Some(trace) = task.trace.as_ref().filter(|_| state == "FAILED") {
            said["trace"] = trace.as_str().into();
        }
        said
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(status: &'static str) -> Report {
        Report { status, reason: Some("no answer".to_owned()).filter(|_| status != "Running"), ..Report::default() }
    }

    fn words(own: &Report, wanted: Wanted, parts: Vec<(String, Status)>) -> (&'static str, Vec<&'static str>) {
        let (state, _, tasks) = judged(own, wanted, parts);
        (state, tasks.iter().map(|task| task.state).collect())
    }

    #[test]
    fn the_words_are_those_of_kafka_connect() {
        let two = || vec![("m01".to_owned(), Status::Running), ("m02".to_owned(), Status::Degraded("no answer".into()))];
        assert_eq!(words(&report("Running"), Wanted::Running, Vec::new()), ("RUNNING", vec!["RUNNING"]));
        assert_eq!(words(&report("Degraded"), Wanted::Running, two()), ("RUNNING", vec!["RUNNING", "FAILED"]));
        assert_eq!(words(&report("Degraded"), Wanted::Running, vec![("m01".to_owned(), Status::Running)]), ("RUNNING", vec!["FAILED"]));
        assert_eq!(words(&report("Blocked"), Wanted::Running, Vec::new()), ("FAILED", vec!["FAILED"]));
        assert_eq!(words(&report("Starting"), Wanted::Running, Vec::new()), ("RESTARTING", vec!["RESTARTING"]));
        assert_eq!(words(&report("Paused"), Wanted::Paused, two()), ("PAUSED", vec!["PAUSED", "PAUSED"]));
        let (_, _, tasks) = judged(&report("Degraded"), Wanted::Running, two());
        assert!(tasks[1].trace.as_deref().is_some_and(|trace| trace.starts_with("m02: no answer\n")));
    }
}
