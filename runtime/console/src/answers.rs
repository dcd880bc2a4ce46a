//! The answers at 3 a.m., as JSON: what is wrong, since when, what to do; why a tag does not arrive; what was lost.

use crate::pattern::matches;
use crate::supplied::Damaged;
use millrace_engine::EngineReport;
use millrace_engine::engine::SinkReport;
use millrace_engine::intake::TagReport;
use millrace_engine::lease::report::GroupReport;
use millrace_engine::tags::Look;
use millrace_engine::trace::{Found, Trace};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};

/// One thing that is not as it should be.
#[derive(Debug, Serialize)]
pub struct Trouble {
    /// `kafka`, `disk`, `embedded broker`, `source NAME`, `sink NAME`.
    pub what: String,
    pub status: String,
    /// Microseconds since 1970, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<i64>,
    pub reason: String,
    /// What to do.
    pub help: String,
}

/// How bad a status word is; what needs a human first.
fn rank(status: &str) -> u8 {
    match status {
        "Blocked" => 0,
        "Degraded" => 1,
        "Starting" | "Stopping" => 2,
        "Stopped" | "Paused" => 3,
        _ => 4,
    }
}

/// What is wrong, worst first.
pub fn troubles(report: &EngineReport, damage: &[Damaged]) -> Vec<Trouble> {
    let mut found = Vec::new();
    for one in damage {
        found.push(Trouble {
            what: "embedded broker".into(),
            status: "Degraded".into(),
            since: None,
            reason: format!(
                "{}: {} records in {} places could not be read and were set aside ({} bytes)",
                one.place, one.records, one.pieces, one.bytes
            ),
            help: "everything else is served; look after the disk, and keep the files `*.quarantined`: said until the next start".into(),
        });
    }
    if report.kafka.status != "Running" {
        found.push(Trouble {
            what: "kafka".into(),
            status: report.kafka.status.into(),
            since: None,
            reason: report.kafka.reason.clone().unwrap_or_else(|| "not reached yet".into()),
            help: "records wait in the log and follow by themselves; is the broker up, is `kafka.brokers` right?".into(),
        });
    }
    if report.disk.low {
        found.push(Trouble {
            what: "disk".into(),
            status: "Blocked".into(),
            since: None,
            reason: "no space is left beyond `log.keep_free`: nothing is taken in".into(),
            help: "make room in the data directory's file system (with the embedded broker, also by deleting records or topics); it goes on by itself".into(),
        });
    }
    if let Some(group) = &report.group {
        found.extend(of_group(group));
    }
    for (name, source) in &report.sources {
        let state = &source.state;
        // Another runtime reads it; what is wrong there is said there.
        if source.elsewhere.is_some() && state.status == "Stopped" {
            continue;
        }
        let held = source.log_held.as_ref().map(|held| format!("its log takes nothing: {held}"));
        if state.status != "Running" || held.is_some() {
            let reason = state.reason.clone().or(held).or_else(|| state.last_failure.clone()).unwrap_or_default();
            found.push(Trouble {
                what: format!("source {name}"),
                status: state.status.into(),
                since: Some(state.since).filter(|since| *since > 0),
                reason,
                help: match state.status {
                    "Blocked" => "it needs a human; it is tried again every minute, and at once where the cause is a file".into(),
                    "Degraded" => "it is tried again by itself; the other sources are not held up".into(),
                    _ => "wait, or look at the messages".into(),
                },
            });
        }
    }
    for (name, sink) in &report.sinks {
        if sink.state.status != "Running" {
            found.push(Trouble {
                what: format!("sink {name}"),
                status: sink.state.status.into(),
                since: Some(sink.state.since).filter(|since| *since > 0),
                reason: sink.state.reason.clone().or_else(|| sink.state.last_failure.clone()).unwrap_or_default(),
                help: "its offsets stay in Kafka: nothing is passed over".into(),
            });
        }
    }
    found.sort_by_key(|trouble| rank(&trouble.status));
    found
}

/// What is wrong between the runtimes that share the sources.
fn of_group(group: &GroupReport) -> Vec<Trouble> {
    let trouble = |status: &str, reason: String, help: &str| Trouble {
        what: format!("group {}", group.group),
        status: status.into(),
        since: None,
        reason,
        help: help.into(),
    };
    let mut found = Vec::new();
    if matches!(group.status, "Blocked" | "Degraded") {
        let help = match group.status {
            "Blocked" => "it needs a human: give each runtime a `runtime.id` of its own, and the rights in Kafka that a group needs",
            _ => "the sources go on as `runtime.on_isolation` says, and are shared again by themselves once Kafka answers",
        };
        found.push(trouble(group.status, group.reason.clone().unwrap_or_default(), help));
    }
    let told = |reason: &String| {
        trouble("Degraded", reason.clone(), "give all runtimes the same file: `millrace status` shows each one's checksum")
    };
    found.extend(group.troubles.iter().map(told));
    if !group.unread.is_empty() && group.status == "Running" {
        let reason = format!("no runtime reads {}", group.unread.join(", "));
        found.push(trouble(
            "Degraded",
            reason,
            "is one of the machines in `runs_on` there? a source that just changes hands is read within seconds",
        ));
    }
    found
}

/// The whole report, what is wrong in front.
pub fn status(report: &EngineReport, damage: &[Damaged]) -> Value {
    let troubles = troubles(report, damage);
    let word = troubles.iter().map(|trouble| trouble.status.as_str()).min_by_key(|status| rank(status)).unwrap_or("Running");
    let mut all = json!({ "status": word, "troubles": troubles, "damage": damage });
    if let (Some(all), Ok(Value::Object(report))) = (all.as_object_mut(), serde_json::to_value(report)) {
        all.extend(report);
    }
    all
}

/// The hops of a tag from its address to the sinks, and the first one that is broken. `trace`: what Kafka says of its last sample, where it was asked.
pub fn why(report: &EngineReport, tag: &TagReport, trace: Option<&Trace>, now: i64) -> Value {
    let name = tag.source.rsplit('/').next().unwrap_or(&tag.source);
    let age = |time: i64| if time > 0 { format!("{:.1} s ago", (now - time).max(0) as f64 / 1e6) } else { "never".into() };
    let mut hops = Hops::default();
    hops.add("address", true, tag.address.clone(), "");
    if let Some(source) = report.sources.get(name) {
        let state = &source.state;
        let says = state.reason.as_ref().map_or_else(|| state.status.to_owned(), |reason| format!("{}: {reason}", state.status));
        let is_open = matches!(state.status, "Running" | "Degraded") && state.reason.as_deref().is_none_or(|_| state.status != "Blocked");
        hops.add("source", is_open, says, "the source itself does not run: `millrace status` says why");
        if !tag.part.is_empty() {
            let ailing = state.parts.get(&*tag.part);
            let says = ailing.cloned().unwrap_or_else(|| "Running".into());
            hops.add(
                "part",
                ailing.is_none(),
                format!("{}: {says}", tag.part),
                "this device or subscription does not answer; the others do",
            );
        }
    }
    let is_read = tag.quality != "none" && !tag.stale && tag.bad_since == 0;
    let says = match (tag.quality, tag.stale, tag.bad_since) {
        (_, true, _) => format!("stale: nothing has vouched for it since {}", age(tag.alive)),
        ("none", ..) => "not read yet".to_owned(),
        (_, _, since) if since > 0 => format!("can't be read since {}", age(since)),
        _ => format!("last value {}, vouched for {}", age(tag.time), age(tag.alive)),
    };
    hops.add(
        "last answer",
        is_read,
        says,
        "the device does not give it: does the address exist there, may this login read it, is the device on?",
    );
    let says = format!("{}, status 0x{:08X}", tag.quality, tag.status);
    hops.add(
        "quality",
        tag.quality == "good",
        says,
        "the device (or `min`/`max`) says that the value is not to be trusted; it is in Kafka with this status",
    );
    if let Some(source) = report.sources.get(name) {
        let held = source.log_held.clone();
        let mut says = held.clone().unwrap_or_else(|| format!("{} bytes of {}", source.log_bytes, source.log_limit));
        if let Some(trace) = trace {
            says += &format!("; sent below offset {} of {}", trace.sent, trace.end);
        }
        hops.add("log", held.is_none(), says, "the log takes nothing: make room on the disk, or let Kafka take what waits");
        let waiting = source.ledger.waiting;
        let kafka =
            report.kafka.reason.as_ref().map_or_else(|| report.kafka.status.to_owned(), |why| format!("{}: {why}", report.kafka.status));
        hops.add(
            "kafka",
            report.kafka.status == "Running" && source.state.status != "Blocked",
            format!("{kafka}; {waiting} records of this source wait; topic {}", tag.topic),
            "records wait in the log and follow by themselves once Kafka takes them",
        );
        behind_the_log(&mut hops, report, tag, trace, waiting);
    }
    if trace.is_none() {
        for (name, sink) in &report.sinks {
            sink_hop(&mut hops, name, sink, format!("{} records behind", sink.counts.lag));
        }
    }
    let (broken, help) = hops.broken.unzip();
    json!({ "tag": tag.tag, "broken": broken, "help": help, "hops": hops.all, "trace": trace, "value": tag })
}

/// Registry, record and sinks.
fn behind_the_log(hops: &mut Hops, report: &EngineReport, tag: &TagReport, trace: Option<&Trace>, waiting: u64) {
    if let Some(why) = &report.kafka.registry {
        let help = "records wait for the id of their schema: is the registry up, is `schemas.registry` right, may this login register?";
        hops.add("registry", false, why.clone(), help);
    }
    let Some(trace) = trace else { return };
    if let Found::There { schema: Some(id), .. } = trace.record {
        hops.add("registry", report.kafka.registry.is_none(), format!("it is written with the schema of id {id}"), "");
    }
    let topic = &tag.topic;
    let (ok, says, help) = match &trace.record {
        Found::There { partition, offset, seq, .. } => {
            (true, format!("topic {topic}, partition {partition}, offset {offset}; offset {seq} in the log"), "")
        }
        Found::Deleted { .. } => (true, format!("older than the oldest record in topic {topic}: retention took it"), ""),
        Found::OnItsWay => (true, format!("read a moment ago, and not in topic {topic} yet"), ""),
        Found::NotThere { .. } if waiting > 0 => {
            (report.kafka.status == "Running", "it waits in the log".to_owned(), "it follows by itself once Kafka takes records again")
        }
        Found::NotThere { read } => (
            false,
            format!("not in topic {topic}, nor in {read} records since"),
            "it was sent and is not there: was the topic made anew, or emptied by hand? `millrace lost` says what was dropped, `millrace dead list` what was refused",
        ),
        Found::TooFar { read } => {
            (true, format!("topic {topic} has more records since than are read for one question: it is in none of {read}"), "")
        }
        Found::NoRecord => (true, format!("no record of its own in topic {topic}"), ""),
        Found::Unknown { why } => (false, why.clone(), "Kafka is not asked: does it answer, may this login read the topic?"),
    };
    hops.add("record", ok, says, help);
    for reader in &trace.sinks {
        let Some(sink) = report.sinks.get(&reader.sink) else { continue };
        let offset = if let Found::There { offset, .. } = trace.record { Some(offset) } else { None };
        let place = match (offset, reader.committed) {
            (Some(offset), Some(next)) if next > offset => format!("is past this record: it reads offset {next} next"),
            (Some(offset), Some(next)) => format!("this record comes in {}: it reads offset {next} next", offset - next + 1),
            (Some(_), None) => "has committed nothing of this partition yet".to_owned(),
            (None, _) => format!("{} records behind", sink.counts.lag),
        };
        let behind = reader.behind.map_or(String::new(), |behind| format!(", {behind} behind in this partition"));
        sink_hop(hops, &reader.sink, sink, place + &behind);
    }
}

fn sink_hop(hops: &mut Hops, name: &str, sink: &SinkReport, place: String) {
    let state = &sink.state;
    let why = state.reason.as_ref().map_or(String::new(), |reason| format!(" ({reason})"));
    let help = "this sink does not run, and its offsets stay in Kafka: `millrace status` says why";
    hops.add("sink", state.status == "Running", format!("{name}: {}{why}, {place}", state.status), help);
}

/// What was looked at on the way, and where it is broken first.
#[derive(Default)]
struct Hops {
    all: Vec<Value>,
    /// The hop, and what to do.
    broken: Option<(String, String)>,
}

impl Hops {
    fn add(&mut self, what: &str, ok: bool, says: String, help: &str) {
        if !ok && self.broken.is_none() {
            self.broken = Some((what.to_owned(), help.to_owned()));
        }
        self.all.push(json!({ "hop": what, "ok": ok, "says": says }));
    }
}

/// Which tags are wanted.
pub struct Wanted<'a> {
    pub pattern: &'a str,
    pub stale: bool,
    pub bad: bool,
}

impl Wanted<'_> {
    pub fn path(&self, path: &str) -> bool {
        self.pattern.is_empty() || matches(path, self.pattern)
    }

    pub fn state(&self, tag: &Look<'_>) -> bool {
        match (self.stale, self.bad) {
            (false, false) => true,
            (stale, bad) => stale && tag.stale || bad && (tag.quality == "bad" || tag.bad_since > 0),
        }
    }
}

type Counts = BTreeMap<(String, &'static str, String), u64>;

/// Counts of what did not arrive, as they were: so that a person can ask since when.
#[derive(Default)]
pub struct History(VecDeque<(i64, Counts)>);

/// Kept so many changes: at one a minute, a day.
const KEPT: usize = 1440;

/// Everything that is not in Kafka as it came, by source, where, and reason.
fn counts(report: &EngineReport) -> Counts {
    let mut counts = Counts::new();
    for (name, source) in &report.sources {
        let ledger = &source.ledger;
        for (reason, count) in &ledger.lost {
            counts.insert((name.clone(), "lost before it came in", (*reason).to_owned()), *count);
        }
        for (reason, count) in &ledger.dropped {
            counts.insert((name.clone(), "dropped", (*reason).to_owned()), *count);
        }
        for (what, count) in [("dead letter before the log", ledger.dead_at_intake), ("dead letter of Kafka", ledger.dead_at_send)] {
            if count > 0 {
                counts.insert((name.clone(), what, "see `millrace dead list`".into()), count);
            }
        }
    }
    counts
}

impl History {
    /// Notes how it stands; what has not changed costs nothing.
    pub fn note(&mut self, report: &EngineReport, now: i64) {
        let now_counts = counts(report);
        if self.0.back().is_some_and(|(_, last)| *last == now_counts) {
            return;
        }
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back((now, now_counts));
    }

    /// What was lost since a time; before this run began nothing is known but the totals.
    pub fn lost(&self, report: &EngineReport, since: Option<i64>, now: i64) -> Value {
        let before = since.and_then(|since| self.0.iter().rev().find(|(at, _)| *at <= since).or(self.0.front()));
        let nothing = Counts::new();
        let (from, base) = before.map_or((None, &nothing), |(at, counts)| (Some(*at), counts));
        let rows: Vec<Value> = counts(report)
            .into_iter()
            .filter_map(|(key, count)| {
                let more = count.saturating_sub(base.get(&key).copied().unwrap_or(0));
                // When it was last seen to grow.
                let last = self.0.iter().rev().zip(self.0.iter().rev().skip(1)).find(|((_, new), (_, old))| new.get(&key) != old.get(&key));
                let (source, what, reason) = key;
                (more > 0)
                    .then(|| json!({"source": source, "what": what, "reason": reason, "count": more, "last": last.map(|((at, _), _)| at)}))
            })
            .collect();
        json!({ "from": since.map(|since| from.unwrap_or(report.started).max(since)), "to": now, "lost": rows })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_engine::engine::{DiskReport, SourceReport};
    use millrace_engine::trace::Reader;
    use std::sync::Arc;

    fn report(status: &'static str) -> EngineReport {
        let mut source = SourceReport {
            r#type: "mqtt".into(),
            state: millrace_engine::status::Report { status, reason: Some("why".into()), ..Default::default() },
            guarantee: None,
            ledger: Default::default(),
            adds_up: true,
            tags: 1,
            log_bytes: 0,
            log_limit: 10,
            log_held: None,
            log_fills: None,
            elsewhere: None,
            pace: Default::default(),
            measured: Default::default(),
        };
        if status == "Running" {
            source.state.reason = None;
        }
        let kafka = millrace_engine::drain::DrainReport { status: "Running", ..Default::default() };
        EngineReport {
            site: "acme/plant".into(),
            started: 1,
            kafka,
            group: None,
            sources: [("cells".to_owned(), source)].into(),
            sinks: Default::default(),
            disk: DiskReport::default(),
        }
    }

    fn tag() -> TagReport {
        TagReport {
            tag: "acme/plant/a/b".into(),
            source: "acme/plant/cells".into(),
            address: "a".into(),
            topic: "telemetry".into(),
            sample: None,
            quality: "good",
            status: 0,
            time: 1,
            sent: 1,
            alive: 1,
            bad_since: 0,
            stale: false,
            part: Arc::from(""),
        }
    }

    #[test]
    fn the_first_broken_hop_is_named() {
        let broken = |report: &EngineReport, tag: &TagReport| why(report, tag, None, 2)["broken"].clone();
        assert_eq!(broken(&report("Running"), &tag()), Value::Null);
        assert_eq!(broken(&report("Blocked"), &tag()), "source");
        assert_eq!(broken(&report("Running"), &TagReport { stale: true, ..tag() }), "last answer");
        assert_eq!(broken(&report("Running"), &TagReport { quality: "uncertain", ..tag() }), "quality");
        let mut away = report("Running");
        away.kafka.status = "Degraded";
        assert_eq!(broken(&away, &tag()), "kafka");
    }

    #[test]
    fn a_tag_is_followed_to_the_sinks_that_read_its_topic() {
        let mut report = report("Running");
        let sink = |status| SinkReport {
            r#type: "file".into(),
            state: millrace_engine::status::Report { status, ..Default::default() },
            counts: Default::default(),
        };
        report.sinks.insert("archive".into(), sink("Running"));
        report.sinks.insert("other".into(), sink("Blocked"));
        let there = Found::There { partition: 2, offset: 17, seq: 40, schema: Some(3) };
        let reader = Reader { sink: "archive".into(), committed: Some(15), behind: Some(9) };
        let mut trace = Trace { sent: 41, end: 41, record: there, sinks: vec![reader] };
        let told = |report: &EngineReport, trace: &Trace| {
            let answer = why(report, &tag(), Some(trace), 2);
            let says = answer["hops"]
                .as_array()
                .unwrap()
                .iter()
                .map(|hop| format!("{}: {}", hop["hop"].as_str().unwrap(), hop["says"].as_str().unwrap()));
            (answer["broken"].clone(), says.collect::<Vec<_>>().join("\n"))
        };
        let (broken, says) = told(&report, &trace);
        assert_eq!(broken, Value::Null, "a sink of another topic does not matter: {says}");
        for part in [
            "topic telemetry, partition 2, offset 17; offset 40 in the log",
            "schema of id 3",
            "comes in 3",
            "9 behind",
            "sent below offset 41",
        ] {
            assert!(says.contains(part), "{part}: {says}");
        }
        trace.sinks[0].committed = Some(18);
        assert!(told(&report, &trace).1.contains("archive: Running, is past this record"));
        trace.record = Found::NotThere { read: 5 };
        assert_eq!(told(&report, &trace).0, "record");
        report.sinks.insert("archive".into(), sink("Blocked"));
        trace.record = Found::Deleted { oldest_ms: 1 };
        assert_eq!(told(&report, &trace).0, "sink");
        report.kafka.registry = Some("away".into());
        assert_eq!(told(&report, &trace).0, "registry");
    }

    #[test]
    fn what_needs_a_human_stands_first() {
        let mut report = report("Blocked");
        report.kafka.status = "Degraded";
        let troubles = troubles(&report, &[]);
        assert_eq!(troubles[0].what, "source cells");
        assert_eq!(status(&report, &[])["status"], "Blocked");
    }

    #[test]
    fn what_the_embedded_broker_could_not_read_is_said_with_its_counts() {
        let damaged = Damaged { place: "partition 0 of topic orders".into(), pieces: 2, records: 7, bytes: 100 };
        let all = status(&report("Running"), &[damaged]);
        assert_eq!((&all["status"], &all["damage"][0]["records"]), (&json!("Degraded"), &json!(7)));
        let reason = all["troubles"][0]["reason"].as_str().unwrap();
        assert_eq!(reason, "partition 0 of topic orders: 7 records in 2 places could not be read and were set aside (100 bytes)");
        assert_eq!(status(&report("Running"), &[])["status"], "Running");
    }

    #[test]
    fn what_was_lost_is_told_since_a_time() {
        let mut now = report("Running");
        let mut history = History::default();
        let lose = |report: &mut EngineReport, count| {
            report.sources.get_mut("cells").unwrap().ledger.lost.insert("poll_skipped", count);
        };
        lose(&mut now, 5);
        history.note(&now, 100);
        lose(&mut now, 8);
        history.note(&now, 200);
        assert_eq!(history.lost(&now, None, 300)["lost"][0]["count"], 8);
        assert_eq!(history.lost(&now, Some(150), 300)["lost"][0]["count"], 3);
        assert_eq!(history.lost(&now, Some(250), 300)["lost"], json!([]));
    }
}
