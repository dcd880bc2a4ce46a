//! What the engine keeps of each tag: rules shared by many tags, and at most 64 bytes of state per tag.
//!
//! ```text
//! reading -> scale -> range -> bad for less than bad_after? hold -> report filter -> sample
//! tick    -> nothing vouched for stale_after? one stale sample          -> silent for at_least_every? a heartbeat
//! ```
//!
//! Pure: no clock of its own (times come in), no I/O. What a tag is called and where it goes is `intake`'s.

mod rules;
mod value;

pub use crate::tags::rules::Rules;
use crate::tags::value::{Kept, State, changed, fingerprint, keep, last_value};
use millrace_contract::TagOptions;
use millrace_schemas::{Batch, Flags, Micros, Origin, Row, StatusCode, TagId, TimeSource, Value};
use std::collections::HashMap;
use std::hash::RandomState;
use std::sync::Arc;

/// A piece of a source that vouches for its tags: a device, a subscription.
#[derive(Debug)]
struct Part {
    name: Arc<str>,
    alive: i64,
}

/// What is known of one tag, see [`Tags::look`].
pub struct Look<'t> {
    /// The last value as a row; `None` before the first, and for what is not kept.
    pub row: Option<Row>,
    pub quality: &'static str,
    pub status: StatusCode,
    pub time: i64,
    pub sent: i64,
    pub alive: i64,
    pub bad_since: i64,
    pub stale: bool,
    pub part: &'t Arc<str>,
}

/// Every tag of one source.
#[derive(Debug, Default)]
pub struct Tags {
    states: Vec<State>,
    rules: Vec<Rules>,
    by_options: HashMap<(usize, bool), u32>,
    parts: Vec<Part>,
    by_part: HashMap<Arc<str>, u32>,
    /// Last values that lie in a heap, of tags that may have to say them again.
    kept: HashMap<u32, (Kept, Box<[u8]>)>,
    hasher: RandomState,
    any_ticks: bool,
}

/// What the report filter says of a reading.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Write it; the first one after a start has the origin `initial`.
    Report {
        first: bool,
    },
    Filter,
}

impl Tags {
    pub fn add(&mut self, options: &Arc<TagOptions>, part: &Arc<str>, now: Micros) -> TagId {
        let state = State {
            bits: 0,
            time: 0,
            sent: now.0,
            alive: now.0,
            bad_since: 0,
            status: StatusCode::GOOD,
            rules: self.rules_of(options, !part.is_empty()),
            part: self.part_of(part, now),
            kind: 0,
            time_source: TimeSource::Gateway,
            fresh: true,
            stale: false,
            retired: false,
        };
        self.states.push(state);
        TagId(self.states.len() as u32 - 1)
    }

    /// The tag's definition changed: new rules from here on, and it starts afresh.
    pub fn change(&mut self, tag: TagId, options: &Arc<TagOptions>, part: &Arc<str>, now: Micros) {
        let (rules, part) = (self.rules_of(options, !part.is_empty()), self.part_of(part, now));
        let state = &mut self.states[tag.0 as usize];
        (state.rules, state.part, state.retired, state.stale, state.alive) = (rules, part, false, false, now.0);
    }

    pub fn retire(&mut self, tag: TagId) {
        if let Some(state) = self.states.get_mut(tag.0 as usize) {
            state.retired = true;
        }
        self.kept.remove(&tag.0);
    }

    /// Tags declared so far, retired ones too.
    pub fn count(&self) -> usize {
        self.states.len()
    }

    /// What was judged may not have been written: the next reading of every tag is reported.
    pub fn forget(&mut self) {
        self.states.iter_mut().for_each(|state| state.fresh = true);
    }

    pub fn rules(&self, tag: TagId) -> Option<&Rules> {
        self.states.get(tag.0 as usize).map(|s| &self.rules[s.rules as usize])
    }

    fn rules_of(&mut self, options: &Arc<TagOptions>, has_part: bool) -> u32 {
        let key = (Arc::as_ptr(options) as usize, has_part);
        if let Some(index) = self.by_options.get(&key) {
            return *index;
        }
        let rules = Rules::new(options.clone(), has_part);
        self.any_ticks |= rules.ticks();
        self.rules.push(rules);
        let index = self.rules.len() as u32 - 1;
        self.by_options.insert(key, index);
        index
    }

    fn part_of(&mut self, name: &Arc<str>, now: Micros) -> u32 {
        if let Some(index) = self.by_part.get(name) {
            return *index;
        }
        self.parts.push(Part { name: name.clone(), alive: now.0 });
        let index = self.parts.len() as u32 - 1;
        self.by_part.insert(name.clone(), index);
        index
    }

    /// Decides on a reading that was scaled and range-checked, and remembers it if it is reported.
    pub fn judge(&mut self, row: &Row, heap: &[u8], read_time: Micros) -> Verdict {
        let state = &mut self.states[row.tag.0 as usize];
        let rules = &self.rules[state.rules as usize];
        let now = read_time.0;
        let unreadable = row.status.is_bad() && row.flags.origin == Origin::Poll;
        if row.flags.origin == Origin::Backfill {
            // The past says nothing about now.
            return Verdict::Report { first: false };
        }
        if unreadable {
            if state.bad_since == 0 {
                state.bad_since = now;
            }
            if !state.fresh && !state.status.is_bad() && now - state.bad_since < rules.bad_after {
                return Verdict::Filter;
            }
        } else {
            state.bad_since = 0;
            state.alive = now;
        }
        let (kind, bits) = fingerprint(row.value, heap, &self.hasher);
        let same_status = state.status == row.status && !state.stale;
        let always = matches!(row.flags.origin, Origin::Initial | Origin::Event | Origin::Trigger | Origin::Status | Origin::Replay);
        let report = state.fresh
            || !same_status
            || always
            || if unreadable { false } else { rules.report_all || changed(state.kind, state.bits, kind, bits, row.value, rules.deadband) };
        if !report {
            return Verdict::Filter;
        }
        let first = state.fresh;
        state.fresh = false;
        state.stale = false;
        (state.kind, state.bits, state.status) = (kind, bits, row.status);
        (state.time, state.time_source, state.sent) = (row.time.0, row.flags.time_source, now);
        if rules.keeps_value() {
            keep(&mut self.kept, row, heap);
        }
        Verdict::Report { first }
    }

    /// What is known of a tag; `None` for one that is gone. A text that is kept goes into the batch's heap.
    pub fn look(&self, tag: TagId, batch: &mut Batch) -> Option<Look<'_>> {
        let state = self.states.get(tag.0 as usize).filter(|state| !state.retired)?;
        let part = &self.parts[state.part as usize];
        let vouched = if part.name.is_empty() { state.alive } else { state.alive.max(part.alive) };
        let value = if state.stale { Some(Value::Null) } else { last_value(state, self.kept.get(&tag.0), batch) };
        let status = if state.stale { StatusCode::BAD_NO_COMMUNICATION } else { state.status };
        let row = value.filter(|_| !state.fresh).map(|value| Row {
            time: Micros(state.time),
            server_time: Micros::NONE,
            value,
            tag,
            status,
            flags: Flags::new(Origin::Change, state.time_source),
        });
        Some(Look {
            row,
            quality: match (state.fresh && !state.stale, status.is_bad(), status.quality() as u8) {
                (true, ..) => "none",
                (_, true, _) => "bad",
                (_, _, 0) => "good",
                _ => "uncertain",
            },
            status,
            time: if state.fresh { 0 } else { state.time },
            sent: state.sent,
            alive: vouched,
            bad_since: state.bad_since,
            stale: state.stale,
            part: &part.name,
        })
    }

    /// Something vouched for every tag of a part.
    pub fn alive(&mut self, part: &str, now: Micros) {
        if let Some(index) = self.by_part.get(part) {
            self.parts[*index as usize].alive = now.0;
        }
    }

    /// Makes one stale sample for each tag of a part that is known to be gone.
    pub fn gone(&mut self, part: &str, now: Micros, mut emit: impl FnMut(Row)) {
        let Some(&index) = self.by_part.get(part) else { return };
        for (i, state) in self.states.iter_mut().enumerate() {
            if state.part == index && !state.stale && !state.retired {
                emit(stale(state, TagId(i as u32), now));
            }
        }
    }

    /// The clock was set by `step` microseconds: what was remembered by the old clock moves with it, and nothing lies in the future.
    pub fn shift(&mut self, step: i64, now: Micros) {
        let shifted = |at: i64| if at == 0 { 0 } else { at.saturating_add(step).min(now.0) };
        for state in &mut self.states {
            (state.sent, state.alive, state.bad_since) = (shifted(state.sent), shifted(state.alive), shifted(state.bad_since));
        }
        self.parts.iter_mut().for_each(|part| part.alive = shifted(part.alive));
    }

    /// Makes stale samples and heartbeats that are due. `batch`'s heap takes the texts of heartbeats.
    pub fn tick(&mut self, now: Micros, batch: &mut Batch) {
        if !self.any_ticks {
            return;
        }
        for (i, state) in self.states.iter_mut().enumerate() {
            let rules = &self.rules[state.rules as usize];
            if !rules.ticks() || state.retired {
                continue;
            }
            let vouched = state.alive.max(if self.parts[state.part as usize].name.is_empty() {
                i64::MIN
            } else {
                self.parts[state.part as usize].alive
            });
            let tag = TagId(i as u32);
            if rules.stale != 0 && now.0 - vouched >= rules.stale {
                if !state.stale {
                    batch.rows.push(stale(state, tag, now));
                }
                continue;
            }
            let is_due = rules.heartbeat != 0 && now.0 - state.sent >= rules.heartbeat;
            // Vouched for again without a new value: the last one holds.
            let is_back = state.stale && vouched > state.sent;
            if (is_due || is_back) && !state.fresh && (!state.stale || is_back) {
                let Some(value) = last_value(state, self.kept.get(&tag.0), batch) else { continue };
                state.stale = false;
                state.sent = now.0;
                batch.rows.push(Row {
                    time: Micros(state.time),
                    server_time: Micros::NONE,
                    value,
                    tag,
                    status: state.status,
                    flags: Flags::new(Origin::Heartbeat, state.time_source),
                });
            }
        }
    }
}

fn stale(state: &mut State, tag: TagId, now: Micros) -> Row {
    state.stale = true;
    state.fresh = false;
    state.sent = now.0;
    Row {
        time: now,
        server_time: Micros::NONE,
        value: Value::Null,
        tag,
        status: StatusCode::BAD_NO_COMMUNICATION,
        flags: Flags::new(Origin::Status, TimeSource::Gateway),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_config::Deadband;
    use millrace_config::Period;
    use millrace_contract::OutOfRange;
    use std::time::Duration;

    const SECOND: i64 = 1_000_000;

    fn row(tag: TagId, value: Value) -> Row {
        Row {
            time: Micros(5),
            server_time: Micros::NONE,
            value,
            tag,
            status: StatusCode::GOOD,
            flags: Flags::new(Origin::Change, TimeSource::Device),
        }
    }

    fn one(options: TagOptions, part: &str) -> (Tags, TagId) {
        let mut tags = Tags::default();
        let tag = tags.add(&Arc::new(options), &part.into(), Micros(0));
        (tags, tag)
    }

    fn seconds(n: u64) -> Option<Period> {
        Some(Period(Duration::from_secs(n)))
    }

    #[test]
    fn a_tags_state_is_at_most_64_bytes() {
        assert!(size_of::<State>() <= 64, "{}", size_of::<State>());
    }

    #[test]
    fn the_first_value_is_initial_and_a_repeat_is_filtered() {
        let (mut tags, tag) = one(TagOptions::default(), "");
        assert_eq!(tags.judge(&row(tag, Value::Int(1)), &[], Micros(1)), Verdict::Report { first: true });
        assert_eq!(tags.judge(&row(tag, Value::Int(1)), &[], Micros(2)), Verdict::Filter);
        assert_eq!(tags.judge(&row(tag, Value::Int(2)), &[], Micros(3)), Verdict::Report { first: false });
        assert_eq!(tags.judge(&row(tag, Value::Double(2.0)), &[], Micros(4)), Verdict::Report { first: false }, "another type is a change");
        let bad = Row { status: StatusCode::BAD, ..row(tag, Value::Double(2.0)) };
        assert_eq!(tags.judge(&bad, &[], Micros(5)), Verdict::Report { first: false }, "a changed status is a change");
        assert_eq!(tags.judge(&bad, &[], Micros(6)), Verdict::Filter);
    }

    #[test]
    fn a_clock_that_is_set_makes_no_tag_stale_and_keeps_none_from_it() {
        for step in [3_600 * SECOND, -3_600 * SECOND] {
            let (mut tags, tag) = one(TagOptions { stale_after: seconds(60), ..Default::default() }, "plc");
            let start = 10_000 * SECOND;
            tags.judge(&row(tag, Value::Int(1)), &[], Micros(start));
            let stale_at = |tags: &mut Tags, now: i64| {
                let mut batch = Batch::new();
                tags.tick(Micros(now), &mut batch);
                batch.rows.len()
            };
            let set = start + 10 * SECOND + step;
            tags.shift(step, Micros(set));
            assert_eq!(stale_at(&mut tags, set), 0, "ten seconds have passed, not an hour");
            assert_eq!(stale_at(&mut tags, set + 49 * SECOND), 0);
            assert_eq!(stale_at(&mut tags, set + 51 * SECOND), 1);
        }
    }

    #[test]
    fn a_deadband_holds_small_changes_back_and_a_nan_passes() {
        let (mut tags, tag) =
            one(TagOptions { deadband: Some(Deadband::Percent(1.0)), min: Some(0.0), max: Some(100.0), ..Default::default() }, "");
        let mut judge = |v: f64| tags.judge(&row(tag, Value::Double(v)), &[], Micros(1)) != Verdict::Filter;
        assert!(judge(50.0));
        assert!(!judge(50.9));
        assert!(judge(51.0));
        assert!(judge(f64::NAN));
        assert!(!judge(f64::NAN));
        assert!(judge(51.0));
    }

    #[test]
    fn texts_are_compared_by_what_they_say() {
        let (mut tags, tag) = one(TagOptions::default(), "");
        let mut batch = Batch::new();
        let (a, b, c) = (batch.text("run"), batch.text("run"), batch.text("stop"));
        assert_ne!(tags.judge(&row(tag, a), &batch.heap, Micros(1)), Verdict::Filter);
        assert_eq!(tags.judge(&row(tag, b), &batch.heap, Micros(1)), Verdict::Filter);
        assert_ne!(tags.judge(&row(tag, c), &batch.heap, Micros(1)), Verdict::Filter);
    }

    #[test]
    fn a_poll_that_fails_turns_bad_once_and_only_after_bad_after() {
        let (mut tags, tag) = one(TagOptions::default(), "unit-1");
        let good = Row { flags: Flags::new(Origin::Poll, TimeSource::Gateway), ..row(tag, Value::Int(1)) };
        let bad = Row { status: StatusCode::BAD_TIMEOUT, value: Value::Null, ..good };
        assert_ne!(tags.judge(&good, &[], Micros(SECOND)), Verdict::Filter);
        assert_eq!(tags.judge(&bad, &[], Micros(2 * SECOND)), Verdict::Filter);
        assert_eq!(tags.judge(&bad, &[], Micros(6 * SECOND)), Verdict::Filter);
        assert_ne!(tags.judge(&bad, &[], Micros(7 * SECOND)), Verdict::Filter);
        assert_eq!(tags.judge(&bad, &[], Micros(99 * SECOND)), Verdict::Filter);
        assert_ne!(tags.judge(&good, &[], Micros(100 * SECOND)), Verdict::Filter, "good again");
    }

    #[test]
    fn a_tag_nothing_vouches_for_turns_stale_once_and_comes_back() {
        let (mut tags, tag) = one(TagOptions { stale_after: seconds(10), ..Default::default() }, "sub");
        let mut batch = Batch::new();
        tags.judge(&row(tag, Value::Int(7)), &[], Micros(SECOND));
        tags.alive("sub", Micros(5 * SECOND));
        tags.tick(Micros(14 * SECOND), &mut batch);
        assert!(batch.rows.is_empty(), "the part vouched for it");
        tags.tick(Micros(15 * SECOND), &mut batch);
        tags.tick(Micros(16 * SECOND), &mut batch);
        assert_eq!(batch.rows.len(), 1);
        assert_eq!((batch.rows[0].value, batch.rows[0].status), (Value::Null, StatusCode::BAD_NO_COMMUNICATION));
        batch.clear();
        tags.alive("sub", Micros(20 * SECOND));
        tags.tick(Micros(21 * SECOND), &mut batch);
        assert_eq!((batch.rows[0].value, batch.rows[0].time, batch.rows[0].flags.origin), (Value::Int(7), Micros(5), Origin::Heartbeat));
    }

    #[test]
    fn a_heartbeat_repeats_the_value_with_its_own_time_while_it_is_vouched_for() {
        let (mut tags, tag) = one(TagOptions { at_least_every: seconds(10), stale_after: seconds(25), ..Default::default() }, "");
        let mut batch = Batch::new();
        let value = batch.text("idle");
        tags.judge(&row(tag, value), &batch.heap.clone(), Micros(SECOND));
        batch.clear();
        tags.tick(Micros(10 * SECOND), &mut batch);
        assert!(batch.rows.is_empty());
        tags.tick(Micros(11 * SECOND), &mut batch);
        let Value::Text(span) = batch.rows[0].value else { panic!() };
        assert_eq!((batch.text_of(span), batch.rows[0].time), ("idle", Micros(5)));
        batch.clear();
        tags.tick(Micros(26 * SECOND), &mut batch);
        assert_eq!(batch.rows[0].status, StatusCode::BAD_NO_COMMUNICATION, "no heartbeat of a tag nothing vouches for");
        batch.clear();
        tags.tick(Micros(90 * SECOND), &mut batch);
        assert!(batch.rows.is_empty());
    }

    #[test]
    fn a_tag_without_a_part_never_turns_stale_by_itself() {
        let (mut tags, tag) = one(TagOptions::default(), "");
        let mut batch = Batch::new();
        tags.judge(&row(tag, Value::Int(7)), &[], Micros(SECOND));
        tags.tick(Micros(1_000_000 * SECOND), &mut batch);
        assert!(batch.rows.is_empty());
    }

    #[test]
    fn a_part_that_is_gone_turns_its_tags_bad_at_once() {
        let mut tags = Tags::default();
        let options = Arc::new(TagOptions::default());
        let a = tags.add(&options, &"press".into(), Micros(0));
        tags.add(&options, &"oven".into(), Micros(0));
        let mut rows = Vec::new();
        tags.gone("press", Micros(SECOND), |row| rows.push(row));
        tags.gone("press", Micros(SECOND), |row| rows.push(row));
        assert_eq!(rows.iter().map(|r| r.tag).collect::<Vec<_>>(), [a]);
    }

    #[test]
    fn scale_and_range_follow_the_options() {
        let options = TagOptions { raw: Some([0.0, 27648.0]), eu: Some([0.0, 400.0]), max: Some(300.0), ..Default::default() };
        let rules = Rules::new(Arc::new(options), false);
        let mut reading = row(TagId(0), Value::Int(13824));
        rules.apply(&mut reading).unwrap();
        assert_eq!((reading.value, reading.status), (Value::Double(200.0), StatusCode::GOOD));
        let mut reading = row(TagId(0), Value::Int(27648));
        rules.apply(&mut reading).unwrap();
        assert_eq!((reading.value, reading.status), (Value::Double(400.0), StatusCode::UNCERTAIN_ENGINEERING_UNITS_EXCEEDED));
        let dead = TagOptions { min: Some(0.0), out_of_range: Some(OutOfRange::Dead), ..Default::default() };
        let rules = Rules::new(Arc::new(dead), false);
        assert_eq!(rules.apply(&mut row(TagId(0), Value::Int(-1))).unwrap_err(), "value -1 is outside 0..inf, and out_of_range is dead");
    }
}
