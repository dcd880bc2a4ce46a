//! Samples of each tag in windows of time: least, greatest, mean, count and last, for a line that cannot carry them all.
//!
//! ```text
//! sample (offset, tag, time, value) ─▶ window [start, start + every) of its tag ─ the newest time is `late` past its end ─▶ closed: one record per tag
//!                                           │ closed already
//!                                           ▼
//!                                         late: counted
//! ```
//!
//! Time is the samples' own; no clock is read, so that the same records make the same windows. A partition's position stays at the first record of its
//! oldest open window, and with it is kept up to when windows are closed: who begins there again makes the open ones anew, and no closed one twice.
//!
//! Invariants: a window is closed once, with every sample of it that came in time; a tag without a sample in it has no record; a sample that is not
//! good is counted and neither averaged nor compared; memory is bounded by [`MOST`] tags in open windows.

use indexmap::IndexMap;
use millrace_config::{Period, Problems, Spanned};
use millrace_contract::{Offset, is_meant};
use millrace_schemas::{Quality, StatusCode, Value, json};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// Instead of a topic's samples, what they were in each window of time, by tag.
#[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WindowRule {
    /// How long a window is: `1m`. They begin at whole multiples of it, in UTC.
    pub every: Spanned<Period>,
    /// What is kept of a window: `[min, max, mean, count, last]`.
    pub keep: Vec<Spanned<Keep>>,
    /// How much later than newer ones a sample may come, by its own time: a window is sent when the partition has brought a sample this much past its
    /// end. What comes later still is counted and left out.
    #[serde(default = "late")]
    pub late: Spanned<Period>,
}

/// What is kept of a window. Numbers only, but for `count` and `last`; samples that are not good are left out of all of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    Min,
    Max,
    /// Of the samples, whatever time lies between them.
    Mean,
    /// Of the good samples. Those that are not good are always counted, as `bad`.
    Count,
    /// The value of the newest.
    Last,
}

fn late() -> Spanned<Period> {
    Spanned::from(Period::from_secs(10))
}

/// Tags in the open windows of one partition.
const MOST: usize = 100_000;
const LEAST_EVERY: Duration = Duration::from_secs(1);
const LONGEST_EVERY: Duration = Duration::from_secs(86_400);

/// A rule that was checked.
#[derive(Clone, PartialEq, Debug)]
pub struct Rule {
    /// A name, or a pattern with `*`.
    pub topic: String,
    pub every: Duration,
    pub late: Duration,
    pub keep: Vec<Keep>,
}

impl Rule {
    pub fn compile(topic: &str, config: &Spanned<WindowRule>, topics: &[String], problems: &mut Problems) -> Self {
        let WindowRule { every, keep, late } = &config.value;
        if every.0 < LEAST_EVERY || every.0 > LONGEST_EVERY {
            problems.error(every.place, format!("`every: {}` must be at least 1s and at most 1d", every.value));
        }
        if late.0 > LONGEST_EVERY {
            problems.error(late.place, format!("`late: {}` must be at most 1d", late.value));
        }
        if keep.is_empty() {
            problems
                .error(config.place, format!("of the windows of topic {topic} nothing is kept"))
                .help("write `keep: [min, max, mean, last]`");
        }
        if !topics.iter().any(|read| read.contains('*') || is_meant(topic, read)) {
            problems
                .error(config.place, format!("`windows` has a rule for topic {topic}, which this sink does not read"))
                .help("correct the name");
        }
        Self { topic: topic.to_owned(), every: every.0, late: late.0, keep: keep.iter().map(|keep| keep.value).collect() }
    }

    fn keeps(&self, keep: Keep) -> bool {
        self.keep.contains(&keep)
    }

    /// For a person.
    pub fn plan(&self) -> String {
        let keep: Vec<String> = self.keep.iter().map(|keep| format!("{keep:?}").to_lowercase()).collect();
        format!(
            "sends of topic {} no samples but {} of each tag and {}, {} after its end",
            self.topic,
            keep.join(", "),
            Period(self.every),
            Period(self.late)
        )
    }
}

/// What is kept with a position.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Closed {
    /// Windows that end up to here are sent, microseconds since 1970; `None`: none was.
    pub until: Option<i64>,
    /// Records below were counted, each in its window or as late.
    pub seen: Offset,
}

/// A sample, borrowed.
#[derive(Clone, Copy, Debug)]
pub struct Sample<'a> {
    pub offset: Offset,
    pub key: Option<&'a [u8]>,
    pub tag: &'a str,
    /// Microseconds since 1970.
    pub time: i64,
    pub value: Value,
    pub status: StatusCode,
    /// Where its value points to.
    pub heap: &'a [u8],
}

/// What became of a sample.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Taken {
    Counted,
    /// Its window is closed.
    Late,
    /// It was late, and counted, before this instance.
    Known,
    /// There are more tags in open windows than memory is meant for.
    Full,
}

/// What one tag had in one window.
#[derive(Clone, PartialEq, Debug)]
pub struct Tally {
    /// Of the newest record.
    pub key: Option<Vec<u8>>,
    /// Of its last record.
    pub offset: Offset,
    count: u64,
    bad: u64,
    /// Of those that are numbers: how many, the mean, and the values at both ends.
    numbers: u64,
    mean: f64,
    least: Option<(f64, Value)>,
    greatest: Option<(f64, Value)>,
    /// The newest, as JSON, and its time.
    last: Option<(i64, Vec<u8>)>,
}

/// A window that is closed.
#[derive(Debug)]
pub struct Window {
    /// Microseconds since 1970.
    pub from: i64,
    pub until: i64,
    pub tags: IndexMap<Box<str>, Tally>,
}

struct Open {
    /// Its first record.
    first: Offset,
    tags: IndexMap<Box<str>, Tally>,
}

/// The windows of one partition.
pub struct Windows {
    rule: Rule,
    every: i64,
    late: i64,
    /// By their beginning.
    open: BTreeMap<i64, Open>,
    tags: usize,
    /// `None`: none was closed yet.
    closed: Option<i64>,
    /// Records below were counted before this instance.
    known: Offset,
    /// Behind the last record.
    seen: Offset,
    newest: i64,
    /// Whether records are missing before the next one, so that its window is not whole; `None`: they are, unless it is the first of its partition.
    has_gap: Option<bool>,
}

impl Windows {
    /// Of a partition of which nothing is known.
    pub fn new(rule: Rule) -> Self {
        let micros = |period: Duration| i64::try_from(period.as_micros()).unwrap_or(i64::MAX).max(1);
        Self {
            every: micros(rule.every),
            late: micros(rule.late),
            rule,
            open: BTreeMap::new(),
            tags: 0,
            closed: None,
            known: 0,
            seen: 0,
            newest: i64::MIN,
            has_gap: None,
        }
    }

    /// Where others were; `held`: what was kept with their position. `is_whole`: the next record is the one at that position.
    pub fn resume(rule: Rule, held: Option<Closed>, position: Offset, is_whole: bool) -> Self {
        let known = held.map_or(0, |held| held.seen);
        let closed = held.and_then(|held| held.until);
        Self { closed, known, seen: position.max(known), has_gap: Some(!is_whole), ..Self::new(rule) }
    }

    /// Takes a sample. What it closes is in [`Windows::next_closed`].
    pub fn take(&mut self, sample: &Sample<'_>) -> Taken {
        self.pass(sample.offset);
        let start = sample.time.div_euclid(self.every).saturating_mul(self.every);
        let until = start.saturating_add(self.every);
        if self.has_gap.replace(false) == Some(true) {
            self.closed = self.closed.max(Some(until));
        }
        let taken = if self.closed.is_some_and(|closed| start < closed) {
            if sample.offset < self.known { Taken::Known } else { Taken::Late }
        } else {
            self.add(start, sample)
        };
        self.newest = self.newest.max(sample.time);
        taken
    }

    /// Goes past a record that is no sample.
    pub fn pass(&mut self, offset: Offset) {
        self.has_gap.get_or_insert(offset > 0);
        self.seen = self.seen.max(offset + 1);
    }

    fn add(&mut self, start: i64, sample: &Sample<'_>) -> Taken {
        let is_known = self.open.get(&start).is_some_and(|open| open.tags.contains_key(sample.tag));
        if !is_known {
            if self.tags == MOST {
                return Taken::Full;
            }
            self.tags += 1;
            let open = self.open.entry(start).or_insert_with(|| Open { first: sample.offset, tags: IndexMap::new() });
            open.tags.insert(sample.tag.into(), Tally::new(sample.offset));
        }
        if let Some(tally) = self.open.get_mut(&start).and_then(|open| open.tags.get_mut(sample.tag)) {
            tally.add(sample);
        }
        Taken::Counted
    }

    /// A window that is whole, the oldest first.
    pub fn next_closed(&mut self) -> Option<Window> {
        if self.newest == i64::MIN {
            return None;
        }
        let mark = self.newest.saturating_sub(self.late);
        // Windows without a sample are closed, too.
        let until = mark.div_euclid(self.every).saturating_mul(self.every);
        self.closed = self.closed.max(Some(until));
        let (from, _) = self.open.first_key_value()?;
        let from = *from;
        if from.saturating_add(self.every) > mark {
            return None;
        }
        let open = self.open.remove(&from)?;
        self.tags -= open.tags.len();
        Some(Window { from, until: from.saturating_add(self.every), tags: open.tags })
    }

    /// The offset to begin at, so that every open window is made again.
    pub fn position(&self) -> Offset {
        self.open.values().map(|open| open.first).min().unwrap_or(self.seen)
    }

    /// What is to be kept with it.
    pub fn closed(&self) -> Closed {
        Closed { until: self.closed, seen: self.seen }
    }

    pub fn rule(&self) -> &Rule {
        &self.rule
    }
}

impl Tally {
    fn new(offset: Offset) -> Self {
        Self { key: None, offset, count: 0, bad: 0, numbers: 0, mean: 0.0, least: None, greatest: None, last: None }
    }

    fn add(&mut self, sample: &Sample<'_>) {
        if sample.offset >= self.offset {
            self.offset = sample.offset;
            self.key = sample.key.map(<[u8]>::to_vec);
        }
        if sample.status.quality() != Quality::Good {
            self.bad += 1;
            return;
        }
        self.count += 1;
        if self.last.as_ref().is_none_or(|(time, _)| *time <= sample.time) {
            let mut text = Vec::new();
            if json::encode_value(sample.value, sample.heap, &mut text).is_none() {
                text.extend_from_slice(b"null");
            }
            self.last = Some((sample.time, text));
        }
        let number = match sample.value {
            Value::Int(number) => number as f64,
            Value::UInt(number) => number as f64,
            Value::Double(number) if !number.is_nan() => number,
            _ => return,
        };
        self.numbers += 1;
        self.mean += (number - self.mean) / self.numbers as f64;
        if self.least.is_none_or(|(least, _)| number < least) {
            self.least = Some((number, sample.value));
        }
        if self.greatest.is_none_or(|(greatest, _)| number > greatest) {
            self.greatest = Some((number, sample.value));
        }
    }

    /// Appends the record's value:
    /// `{"tag":"..","from":1763726880000000,"until":1763726940000000,"count":60,"bad":0,"min":1.5,"max":9,"mean":4.2,"last":3}`.
    pub fn write(&self, tag: &str, window: &Window, rule: &Rule, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"tag\":");
        json::encode_text(tag, out);
        let mut field = |name: &str, value: &dyn Fn(&mut Vec<u8>)| {
            out.extend_from_slice(format!(",\"{name}\":").as_bytes());
            value(out);
        };
        let integer = |number: i128| move |out: &mut Vec<u8>| out.extend_from_slice(number.to_string().as_bytes());
        field("from", &integer(window.from.into()));
        field("until", &integer(window.until.into()));
        if rule.keeps(Keep::Count) {
            field("count", &integer(self.count.into()));
        }
        field("bad", &integer(self.bad.into()));
        for (keep, name, end) in [(Keep::Min, "min", &self.least), (Keep::Max, "max", &self.greatest)] {
            if let Some((_, value)) = end.as_ref().filter(|_| rule.keeps(keep)) {
                // Numbers have no heap.
                field(name, &|out| _ = json::encode_value(*value, &[], out));
            }
        }
        if rule.keeps(Keep::Mean) && self.numbers > 0 {
            field("mean", &|out| json::double(self.mean, out));
        }
        if let Some((_, text)) = self.last.as_ref().filter(|_| rule.keeps(Keep::Last)) {
            field("last", &|out| out.extend_from_slice(text));
        }
        out.push(b'}');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    fn rule() -> Rule {
        let keep = vec![Keep::Min, Keep::Max, Keep::Mean, Keep::Count, Keep::Last];
        Rule { topic: "t".into(), every: Duration::from_secs(60), late: Duration::from_secs(10), keep }
    }

    fn sample(offset: Offset, tag: &str, seconds: f64, value: Value) -> Sample<'_> {
        let time = (seconds * SECOND as f64) as i64;
        Sample { offset, key: Some(tag.as_bytes()), tag, time, value, status: StatusCode(0), heap: &[] }
    }

    fn closed(windows: &mut Windows) -> Vec<String> {
        let mut all = Vec::new();
        while let Some(window) = windows.next_closed() {
            for (tag, tally) in &window.tags {
                let mut out = Vec::new();
                tally.write(tag, &window, &windows.rule, &mut out);
                all.push(String::from_utf8(out).expect("JSON is text"));
            }
        }
        all
    }

    #[test]
    fn a_window_is_sent_when_it_is_whole_with_what_was_good_in_it() {
        let mut windows = Windows::new(rule());
        let bad = Sample { status: StatusCode(0x8000_0000), ..sample(2, "a", 30.0, Value::Double(99.0)) };
        for sample in
            [sample(0, "a", 1.0, Value::Int(5)), sample(1, "a", 59.9, Value::Double(-2.5)), bad, sample(3, "a", 40.0, Value::Int(2))]
        {
            assert_eq!(windows.take(&sample), Taken::Counted);
        }
        windows.take(&sample(4, "b", 69.9, Value::Bool(true)));
        assert!(closed(&mut windows).is_empty(), "a sample of it may still come");
        assert_eq!((windows.position(), windows.closed()), (0, Closed { until: Some(0), seen: 5 }));
        windows.take(&sample(5, "b", 190.0, Value::Null));
        assert_eq!(
            closed(&mut windows),
            [
                r#"{"tag":"a","from":0,"until":60000000,"count":3,"bad":1,"min":-2.5,"max":5,"mean":1.5,"last":-2.5}"#,
                // No number, so nothing to compare; and the minute in between has no record.
                r#"{"tag":"b","from":60000000,"until":120000000,"count":1,"bad":0,"last":true}"#,
            ]
        );
        assert_eq!(windows.take(&sample(6, "a", 100.0, Value::Int(1))), Taken::Late);
        assert_eq!((windows.position(), windows.closed()), (5, Closed { until: Some(180 * SECOND), seen: 7 }));
    }

    #[test]
    fn who_goes_on_sends_what_one_without_a_break_would_have_sent() {
        let mut random = fastrand::Rng::with_seed(3);
        for round in 0..200 {
            let samples: Vec<(f64, &str, i64)> = (0..400)
                .map(|n| (f64::from(n) * 2.0 + random.f64() * 30.0, ["a", "b", "c"][random.usize(..3)], random.i64(..100)))
                .collect();
            let take = |windows: &mut Windows, offset: usize, late: &mut u64, out: &mut Vec<String>| {
                let (time, tag, value) = samples[offset];
                *late += u64::from(windows.take(&sample(offset as i64, tag, time, Value::Int(value))) == Taken::Late);
                out.extend(closed(windows));
            };
            let (mut whole, mut expected, mut late) = (Windows::new(rule()), Vec::new(), 0);
            for offset in 0..samples.len() {
                take(&mut whole, offset, &mut late, &mut expected);
            }
            assert!(late > 0, "some are late");
            // What was sent and counted since the last commit is gone with it.
            let (mut windows, mut sent, mut counted) = (Windows::new(rule()), Vec::new(), 0);
            let (mut held, mut at, mut open, mut open_late) = ((windows.closed(), 0), 0, Vec::new(), 0);
            while at < samples.len() {
                take(&mut windows, at, &mut open_late, &mut open);
                at += 1;
                if random.u8(..20) == 0 || at == samples.len() {
                    held = (windows.closed(), windows.position());
                    sent.append(&mut open);
                    counted += std::mem::take(&mut open_late);
                }
                if random.u8(..30) == 0 && at < samples.len() {
                    (open, open_late) = (Vec::new(), 0);
                    windows = Windows::resume(rule(), Some(held.0), held.1, true);
                    at = held.1 as usize;
                }
            }
            assert_eq!((sent, counted), (expected, late), "round {round}");
        }
    }

    #[test]
    fn a_window_of_which_some_is_missing_is_not_sent() {
        let mut windows = Windows::new(rule());
        // The first that is there is not the first of its partition.
        assert_eq!(windows.take(&sample(7, "a", 30.0, Value::Int(1))), Taken::Late);
        assert_eq!(windows.take(&sample(8, "a", 61.0, Value::Int(1))), Taken::Counted);
        let mut windows = Windows::resume(rule(), Some(Closed { until: Some(60 * SECOND), seen: 9 }), 20, false);
        assert_eq!(windows.take(&sample(20, "a", 130.0, Value::Int(1))), Taken::Late);
        windows.take(&sample(21, "a", 200.0, Value::Int(1)));
        windows.take(&sample(22, "a", 400.0, Value::Int(1)));
        assert_eq!(closed(&mut windows).len(), 1);
    }

    #[test]
    fn memory_is_bounded_and_no_time_is_too_far_away() {
        let mut windows = Windows::new(rule());
        let tags: Vec<String> = (0..=MOST).map(|n| n.to_string()).collect();
        for (offset, tag) in tags.iter().enumerate() {
            let expected = if offset < MOST { Taken::Counted } else { Taken::Full };
            assert_eq!(windows.take(&sample(offset as i64, tag, 1.0, Value::Int(1))), expected);
        }
        for time in [i64::MIN, i64::MAX, 0] {
            windows.take(&Sample { time, ..sample(200_000, "a", 0.0, Value::Double(f64::NAN)) });
            closed(&mut windows);
        }
    }
}
