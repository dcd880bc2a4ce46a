//! What is made of a tag's samples: averages, values at given times, fewer points that look the same. No I/O, no clock.
//!
//! - A value holds until the next sample. A bad one ends it, as does a null: nothing bridges a gap.
//! - What was known before the range counts from its beginning; a heartbeat repeats a value and is none of its own.
//! - Uncertain values count, and the worst quality of what went in is said.

use millrace_schemas::{Batch, Columns, Origin, Quality, StatusCode, Value as Kafka, json};

/// A value as the table has it.
#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    Null,
    Bool(bool),
    Long(i64),
    /// Above 2^63 - 1.
    UInt(u64),
    Double(f64),
    Text(String),
    /// Bytes, an array or a structure, as JSON.
    Json(String),
}

impl Value {
    /// As a number; a boolean is 0 or 1.
    pub fn number(&self) -> Option<f64> {
        match self {
            Self::Bool(value) => Some(f64::from(u8::from(*value))),
            Self::Long(value) => Some(*value as f64),
            Self::UInt(value) => Some(*value as f64),
            Self::Double(value) => Some(*value).filter(|value| value.is_finite()),
            _ => None,
        }
    }
}

/// A sample out of the table.
#[derive(Clone, PartialEq, Debug)]
pub struct Sample {
    /// Microseconds since 1970.
    pub time: i64,
    pub seq: i64,
    pub value: Value,
    pub status: StatusCode,
    pub origin: Origin,
}

impl Sample {
    /// A sample that was decoded from Kafka.
    pub fn of(batch: &Batch, columns: &Columns, index: usize) -> Self {
        let row = &batch.rows[index];
        let value = match row.value {
            Kafka::Null => Value::Null,
            Kafka::Bool(value) => Value::Bool(value),
            Kafka::Int(value) => Value::Long(value),
            Kafka::UInt(value) => i64::try_from(value).map_or(Value::UInt(value), Value::Long),
            Kafka::Double(value) => Value::Double(value),
            Kafka::Text(span) => Value::Text(batch.text_of(span).to_owned()),
            Kafka::Struct(span) => Value::Json(batch.text_of(span).to_owned()),
            value @ (Kafka::Bytes(_) | Kafka::Array(..)) => {
                let mut text = Vec::new();
                json::encode_value(value, &batch.heap, &mut text);
                Value::Json(String::from_utf8(text).unwrap_or_default())
            }
        };
        Self { time: row.time.0, seq: columns.seq[index], value, status: row.status, origin: row.flags.origin }
    }

    /// The number that holds from here on; `None`: a gap begins.
    pub fn holds(&self) -> Option<f64> {
        if self.status.is_bad() { None } else { self.value.number() }
    }
}

/// Puts samples in order and takes out what repeats: heartbeats, and samples of one identity and time.
pub fn tidy(samples: &mut Vec<Sample>) {
    samples.sort_by_key(|sample| (sample.time, sample.seq));
    samples.dedup_by(|next, first| next.time == first.time && (next.seq == first.seq || next.origin == Origin::Heartbeat));
}

/// What happened in `[start, start + every)`.
#[derive(Clone, PartialEq, Debug)]
pub struct Bucket {
    pub start: i64,
    /// Samples whose time lies in it, bad ones too.
    pub count: u64,
    /// Of the values that held in it.
    pub min: Option<f64>,
    pub max: Option<f64>,
    pub last: Option<f64>,
    /// Time-weighted, over the time that a value held.
    pub mean: Option<f64>,
    /// How much of it a value held, from 0 to 1.
    pub covered: f64,
    /// How much a counter grew: a lower value is a counter that began again at 0.
    pub increase: f64,
    /// Of the samples, and of the value that held before them.
    pub worst: Quality,
}

/// Cuts a range into buckets, sample by sample.
pub struct Buckets {
    end: i64,
    every: i64,
    /// Nothing is known of what holds behind it.
    known_until: i64,
    held: Option<f64>,
    /// The last number there was, over gaps: a counter counts on.
    counted: Option<f64>,
    quality: Quality,
    /// Up to where the value that holds is summed up.
    at: i64,
    current: Bucket,
    area: f64,
    held_for: i64,
    done: Vec<Bucket>,
}

impl Buckets {
    /// The range, its cut, up to when samples are known, and the sample before it.
    pub fn new(range: std::ops::Range<i64>, every: i64, known_until: i64, before: Option<&Sample>) -> Self {
        let held = before.and_then(Sample::holds);
        let quality = before.map_or(Quality::Good, |sample| sample.status.quality());
        let mut buckets = Self {
            end: range.end,
            every: every.max(1),
            known_until,
            held,
            counted: held,
            quality,
            at: range.start,
            current: empty(range.start),
            area: 0.0,
            held_for: 0,
            done: Vec::new(),
        };
        buckets.enter();
        buckets
    }

    /// What holds at a bucket's beginning belongs to it.
    fn enter(&mut self) {
        if let Some(value) = self.held.filter(|_| self.at < self.known_until) {
            self.current.see(value);
        }
        if self.held.is_some() || self.quality != Quality::Good {
            self.current.worst = worse(self.current.worst, self.quality);
        }
    }

    /// Sums up what holds until `time`, bucket by bucket.
    fn pass(&mut self, time: i64) {
        while self.at < time {
            let bucket_end = self.current.start.saturating_add(self.every).min(self.end);
            let until = time.min(bucket_end);
            let known = until.min(self.known_until) - self.at;
            if let Some(value) = self.held.filter(|_| known > 0) {
                self.area += value * known as f64;
                self.held_for += known;
            }
            self.at = until;
            if until == bucket_end {
                self.close(bucket_end);
            }
        }
    }

    fn close(&mut self, end: i64) {
        let length = end - self.current.start;
        let mut bucket = std::mem::replace(&mut self.current, empty(end));
        bucket.mean = (self.held_for > 0).then(|| self.area / self.held_for as f64);
        bucket.covered = if length > 0 { self.held_for as f64 / length as f64 } else { 0.0 };
        (self.area, self.held_for) = (0.0, 0);
        self.done.push(bucket);
        if end < self.end {
            self.enter();
        }
    }

    /// Takes the next sample, in the order of time.
    pub fn push(&mut self, sample: &Sample) {
        if sample.time >= self.end || sample.time < self.at {
            return;
        }
        self.pass(sample.time);
        self.held = sample.holds();
        self.quality = sample.status.quality();
        self.current.count += 1;
        self.current.worst = worse(self.current.worst, self.quality);
        if let Some(value) = self.held {
            if let Some(before) = self.counted {
                self.current.increase += if value >= before { value - before } else { value };
            }
            self.counted = Some(value);
            self.current.see(value);
        }
    }

    pub fn finish(mut self) -> Vec<Bucket> {
        self.pass(self.end);
        self.done
    }
}

impl Bucket {
    fn see(&mut self, value: f64) {
        self.min = Some(self.min.map_or(value, |min| min.min(value)));
        self.max = Some(self.max.map_or(value, |max| max.max(value)));
        self.last = Some(value);
    }
}

const fn empty(start: i64) -> Bucket {
    Bucket { start, count: 0, min: None, max: None, last: None, mean: None, covered: 0.0, increase: 0.0, worst: Quality::Good }
}

const fn worse(a: Quality, b: Quality) -> Quality {
    if (a as u8) < (b as u8) { b } else { a }
}

/// A point of a plot; `None`: a gap.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Point {
    pub time: i64,
    pub value: Option<f64>,
    pub quality: Quality,
}

impl From<&Sample> for Point {
    fn from(sample: &Sample) -> Self {
        Self { time: sample.time, value: sample.holds(), quality: sample.status.quality() }
    }
}

/// The values at `start`, `start + every`, ... below the range's end.
///
/// `linear`: on the line between the neighbours where both are numbers and nothing lies between, with the worse quality of the two; otherwise, and where
/// no sample follows, what holds. `samples` begin with the one before the range and end with the one behind it, where there are such.
pub fn interpolate(samples: &[Sample], range: std::ops::Range<i64>, every: i64, linear: bool, known_until: i64) -> Vec<Point> {
    let mut points = Vec::new();
    let mut next = 0;
    let mut time = range.start;
    while time < range.end {
        while samples.get(next).is_some_and(|sample| sample.time <= time) {
            next += 1;
        }
        let left = next.checked_sub(1).and_then(|index| samples.get(index));
        let right = samples.get(next);
        let held = left.and_then(Sample::holds);
        let quality = left.map_or(Quality::Bad, |sample| sample.status.quality());
        let line = left.zip(right).filter(|(left, _)| linear && left.time < time);
        let (value, quality) = match line.and_then(|(left, right)| Some((left, left.holds()?, right, right.holds()?))) {
            _ if time >= known_until && right.is_none() => (None, quality),
            Some((left, a, right, b)) => {
                let part = (time - left.time) as f64 / (right.time - left.time) as f64;
                (Some((b - a).mul_add(part, a)), worse(quality, right.status.quality()))
            }
            None => (held, quality),
        };
        points.push(Point { time, value, quality });
        let Some(after) = time.checked_add(every.max(1)) else { break };
        time = after;
    }
    points
}

/// At most about `count` points that keep every peak: the least and the greatest of each of `count / 2` buckets, and one for each gap.
pub fn min_max(points: &[Point], count: usize) -> Vec<Point> {
    if points.len() <= count.max(4) {
        return points.to_vec();
    }
    let (first, last) = (points[0].time, points[points.len() - 1].time);
    let buckets = (count / 2).max(1) as i128;
    let width = i128::from(last - first) + 1;
    let bucket_of = |time: i64| i128::from(time - first) * buckets / width;
    let mut kept = Vec::new();
    for group in points.chunk_by(|a, b| bucket_of(a.time) == bucket_of(b.time)) {
        // Gaps stay gaps: each run of values gives its own peaks.
        for run in group.chunk_by(|a, b| a.value.is_some() == b.value.is_some()) {
            let by = |a: &&Point, b: &&Point| a.value.unwrap_or(0.0).total_cmp(&b.value.unwrap_or(0.0));
            let (Some(low), Some(high)) = (run.iter().min_by(by), run.iter().max_by(by)) else { continue };
            let (a, b) = if low.time <= high.time { (low, high) } else { (high, low) };
            kept.push(*a);
            if a.time != b.time && a.value.is_some() {
                kept.push(*b);
            }
        }
    }
    kept
}

/// Largest triangle three buckets (Steinarsson, 2013), run by run between gaps: `count` points that look like all.
pub fn lttb(points: &[Point], count: usize) -> Vec<Point> {
    if points.len() <= count.max(3) {
        return points.to_vec();
    }
    let mut kept = Vec::new();
    for run in points.chunk_by(|a, b| a.value.is_some() == b.value.is_some()) {
        if run[0].value.is_none() {
            kept.push(run[0]);
            continue;
        }
        let share = (count as f64 * run.len() as f64 / points.len() as f64).round() as usize;
        triangles(run, share.max(2), &mut kept);
    }
    kept
}

fn triangles(run: &[Point], count: usize, kept: &mut Vec<Point>) {
    if run.len() <= count || count < 3 {
        kept.extend(if run.len() <= count { run } else { &run[..1] });
        if run.len() > count {
            kept.push(run[run.len() - 1]);
        }
        return;
    }
    let of = |point: &Point| (point.time as f64, point.value.unwrap_or(0.0));
    let edge = |index: usize| 1 + index * (run.len() - 2) / (count - 2);
    let mut chosen = 0;
    kept.push(run[0]);
    for index in 0..count - 2 {
        let (begin, end) = (edge(index), edge(index + 1));
        let after = &run[end..edge(index + 2).min(run.len()).max(end + 1)];
        let (sum_t, sum_v) = after.iter().map(of).fold((0.0, 0.0), |(t, v), (time, value)| (t + time, v + value));
        let (mean_t, mean_v) = (sum_t / after.len() as f64, sum_v / after.len() as f64);
        let (at, av) = of(&run[chosen]);
        let area = |index: &usize| {
            let (time, value) = of(&run[*index]);
            ((at - mean_t) * (value - av) - (at - time) * (mean_v - av)).abs()
        };
        chosen = (begin..end).max_by(|a, b| area(a).total_cmp(&area(b))).unwrap_or(begin);
        kept.push(run[chosen]);
    }
    kept.push(run[run.len() - 1]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(time: i64, value: f64) -> Sample {
        Sample { time, seq: time, value: Value::Double(value), status: StatusCode::GOOD, origin: Origin::Change }
    }

    fn bad(time: i64) -> Sample {
        Sample { value: Value::Null, status: StatusCode::BAD_NO_COMMUNICATION, ..sample(time, 0.0) }
    }

    fn buckets(samples: &[Sample], known_until: i64, before: Option<&Sample>) -> Vec<Bucket> {
        let mut buckets = Buckets::new(0..30, 10, known_until, before);
        samples.iter().for_each(|sample| buckets.push(sample));
        buckets.finish()
    }

    #[test]
    fn a_mean_weighs_each_value_by_how_long_it_held() {
        let all = buckets(&[sample(4, 10.0), sample(9, 0.0)], 30, Some(&sample(-100, 20.0)));
        // 4 at 20, 5 at 10, 1 at 0.
        assert_eq!(all[0].mean, Some(13.0));
        assert_eq!((all[0].min, all[0].max, all[0].last, all[0].count, all[0].covered), (Some(0.0), Some(20.0), Some(0.0), 2, 1.0));
        // Nothing came: what held before still holds.
        assert_eq!((all[1].mean, all[1].count, all[1].min), (Some(0.0), 0, Some(0.0)));
        assert_eq!(all.len(), 3);
    }

    #[test]
    fn nothing_bridges_a_gap_and_nothing_holds_beyond_what_is_known() {
        let all = buckets(&[sample(0, 5.0), bad(5), sample(12, 7.0)], 25, None);
        assert_eq!((all[0].mean, all[0].covered, all[0].worst), (Some(5.0), 0.5, Quality::Bad));
        assert_eq!((all[1].mean, all[1].covered, all[1].worst), (Some(7.0), 0.8, Quality::Bad));
        assert_eq!((all[2].mean, all[2].covered, all[2].worst), (Some(7.0), 0.5, Quality::Good));
    }

    #[test]
    fn a_counter_that_begins_again_goes_on_counting() {
        let all = buckets(&[sample(1, 100.0), sample(3, 130.0), bad(4), sample(6, 5.0), sample(15, 6.0)], 30, Some(&sample(-1, 90.0)));
        assert_eq!((all[0].increase, all[1].increase), (10.0 + 30.0 + 5.0, 1.0));
    }

    #[test]
    fn a_line_is_drawn_between_neighbours_only() {
        let samples = [sample(0, 0.0), sample(10, 10.0), bad(20), sample(30, 30.0)];
        let values = |linear| interpolate(&samples, 0..40, 5, linear, 36).iter().map(|point| point.value).collect::<Vec<_>>();
        let some = |values: &[f64]| values.iter().map(|value| Some(*value)).collect::<Vec<_>>();
        assert_eq!(values(true), [&some(&[0.0, 5.0, 10.0, 10.0])[..], &[None, None], &some(&[30.0, 30.0])].concat());
        assert_eq!(values(false), [&some(&[0.0, 0.0, 10.0, 10.0])[..], &[None, None], &some(&[30.0, 30.0])].concat());
        assert_eq!(interpolate(&samples, 30..40, 5, false, 33)[1].value, None, "35 is beyond what is known");
    }

    #[test]
    fn the_last_line_of_a_range_leads_to_the_sample_behind_it() {
        let uncertain = Sample { status: StatusCode::UNCERTAIN, ..sample(20, 20.0) };
        let at = |samples: &[Sample], known_until| {
            interpolate(samples, 0..20, 8, true, known_until).iter().map(|point| (point.value, point.quality)).collect::<Vec<_>>()
        };
        let good = |value| (Some(value), Quality::Good);
        assert_eq!(at(&[sample(0, 0.0), sample(20, 20.0)], 30), [good(0.0), good(8.0), good(16.0)]);
        // On the way to an uncertain value, a point is uncertain; at the good one itself it is not.
        assert_eq!(at(&[sample(0, 0.0), uncertain], 30), [good(0.0), (Some(8.0), Quality::Uncertain), (Some(16.0), Quality::Uncertain)]);
        // To a bad one leads no line, and where none follows the last one holds, as far as is known.
        assert_eq!(at(&[sample(0, 5.0), bad(20)], 30), [good(5.0), good(5.0), good(5.0)]);
        assert_eq!(at(&[sample(0, 5.0)], 10), [good(5.0), good(5.0), (None, Quality::Good)]);
    }

    #[test]
    fn fewer_points_keep_the_peak_and_the_gap() {
        let mut points: Vec<Point> = (0..10_000).map(|time| Point::from(&sample(time, f64::from(time as i32 % 7)))).collect();
        points[5_001].value = Some(1_000.0);
        points[7_777].value = None;
        for fewer in [min_max(&points, 200), lttb(&points, 200)] {
            assert!(fewer.len() < 260, "{}", fewer.len());
            assert!(fewer.iter().any(|point| point.value == Some(1_000.0)));
            assert!(fewer.iter().any(|point| point.value.is_none()));
            assert!(fewer.is_sorted_by_key(|point| point.time));
        }
        assert_eq!(lttb(&points[..100], 10).len(), 10);
    }

    #[test]
    fn a_heartbeat_is_no_value_of_its_own() {
        let beat = Sample { seq: 9, origin: Origin::Heartbeat, ..sample(1, 5.0) };
        let mut samples = vec![sample(2, 6.0), beat, sample(1, 5.0), sample(2, 6.0)];
        tidy(&mut samples);
        assert_eq!(samples, [sample(1, 5.0), sample(2, 6.0)]);
    }
}
