//! The value with number n: a function of n and the seed, of nothing else.
//!
//! ```text
//! number   0 1 2 | 3 4 5 | 6 7 8      three tags
//! tag      0 1 2 | 0 1 2 | 0 1 2      number % tags
//! round    0     | 1     | 2          number / tags: what the `counter` shape shows
//! ```

use millrace_schemas::{Batch, Doc, Flags, Micros, Origin, RouteId, Row, Span, StatusCode, TagId, TimeSource, Value};
use schemars::JsonSchema;
use serde::Deserialize;
use std::f64::consts::TAU;
use std::io::Write;

/// How a tag's values look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// 0 to 100 and back, each tag with its own phase.
    Sine,
    /// 0, 1, 2, ...: the n-th value of its tag.
    Counter,
    /// Even between 0 and 100.
    Random,
    /// 0 and 100 in turn, half a period each.
    Square,
    /// A text with the n-th value's number.
    Text,
    /// True and false in turn, half a period each.
    Bool,
    /// Eight floating-point numbers.
    Array,
}

impl Shape {
    pub fn name(self) -> &'static str {
        match self {
            Self::Sine => "sine",
            Self::Counter => "counter",
            Self::Random => "random",
            Self::Square => "square",
            Self::Text => "text",
            Self::Bool => "bool",
            Self::Array => "array",
        }
    }

    pub fn kind(self) -> &'static str {
        match self {
            Self::Sine | Self::Random | Self::Square => "f64",
            Self::Counter => "u64",
            Self::Text => "text",
            Self::Bool => "bool",
            Self::Array => "f64[8]",
        }
    }
}

/// What the values are made of. Shares are 0 to 1.
#[derive(Clone, PartialEq, Debug)]
pub struct Recipe {
    pub seed: u64,
    pub tags: u32,
    pub shapes: Vec<Shape>,
    pub rounds_per_period: f64,
    pub bad: f64,
    pub nan: f64,
    pub out_of_window: f64,
    pub duplicates: f64,
}

/// What a share of the values is drawn for; each has its own dice.
#[derive(Clone, Copy)]
enum Draw {
    Value = 1,
    Bad,
    Nan,
    OutOfWindow,
    Duplicate,
}

const DAY_MICROS: i64 = 86_400_000_000;

impl Recipe {
    /// Appends the sample with this number to the batch, twice where the dice say so.
    pub fn sample(&self, number: u64, time: Micros, ids: &[TagId], batch: &mut Batch) {
        let index = (number % u64::from(self.tags)) as usize;
        let round = number / u64::from(self.tags);
        let bad = self.hit(number, Draw::Bad, self.bad);
        let (value, status) =
            if bad { (Value::Null, StatusCode::BAD_DEVICE_FAILURE) } else { (self.value(number, index, round, batch), StatusCode::GOOD) };
        let origin = if round == 0 { Origin::Initial } else { Origin::Change };
        let row = Row {
            time: self.time(number, time),
            server_time: Micros::NONE,
            value,
            tag: ids[index],
            status,
            flags: Flags::new(origin, TimeSource::Device),
        };
        batch.rows.push(row);
        if self.hit(number, Draw::Duplicate, self.duplicates) {
            batch.rows.push(row);
        }
    }

    /// Appends the document with this number: `{"number":7,"key":"key-7","filling":"..."}`.
    pub fn document(&self, number: u64, time: Micros, bytes: usize, batch: &mut Batch) {
        let index = number % u64::from(self.tags);
        let key = written(batch, |heap| write!(heap, "key-{index}"));
        let payload = written(batch, |heap| {
            let start = heap.len();
            write!(heap, r#"{{"number":{number},"key":"key-{index}","filling":""#)?;
            let filling = bytes.saturating_sub(heap.len() - start + br#""}"#.len());
            heap.resize(heap.len() + filling, b'.');
            heap.write_all(br#""}"#)
        });
        let time = self.time(number, time);
        let doc = Doc { route: RouteId(0), time, key, headers: Span::EMPTY, payload: Some(payload), topic: Span::EMPTY };
        batch.docs.push(doc);
        if self.hit(number, Draw::Duplicate, self.duplicates) {
            batch.docs.push(doc);
        }
    }

    fn value(&self, number: u64, index: usize, round: u64, batch: &mut Batch) -> Value {
        let phase = || (round as f64 / self.rounds_per_period + index as f64 / f64::from(self.tags)).fract();
        let float = |value: f64| Value::Double(if self.hit(number, Draw::Nan, self.nan) { f64::NAN } else { value });
        match self.shapes[index % self.shapes.len()] {
            Shape::Sine => float(50.0 + 50.0 * (phase() * TAU).sin()),
            Shape::Counter => Value::UInt(round),
            Shape::Random => float(self.even(number, Draw::Value) * 100.0),
            Shape::Square => float(if phase() < 0.5 { 0.0 } else { 100.0 }),
            Shape::Bool => Value::Bool(phase() >= 0.5),
            Shape::Text => Value::Text(written(batch, |heap| write!(heap, "value {round} of tag {index}"))),
            Shape::Array => batch.doubles((0..8).map(|i| round as f64 + f64::from(i) / 8.0), &[]),
        }
    }

    fn time(&self, number: u64, time: Micros) -> Micros {
        if !self.hit(number, Draw::OutOfWindow, self.out_of_window) {
            time
        } else if number.is_multiple_of(2) {
            Micros(time.0 - 10 * DAY_MICROS)
        } else {
            Micros(time.0 + 365 * DAY_MICROS)
        }
    }

    fn hit(&self, number: u64, draw: Draw, share: f64) -> bool {
        share > 0.0 && self.even(number, draw) < share
    }

    /// A number in 0..1, the same for the same seed, number and draw: SplitMix64.
    fn even(&self, number: u64, draw: Draw) -> f64 {
        let mut x = self.seed.wrapping_mul(0xD1B5_4A32_D192_ED03) ^ (draw as u64) << 56;
        x = x.wrapping_add(number.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((x ^ (x >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// What `write` appends to the heap. Writing to memory can't fail.
fn written(batch: &mut Batch, write: impl FnOnce(&mut Vec<u8>) -> std::io::Result<()>) -> Span {
    let start = batch.heap.len();
    let _ = write(&mut batch.heap);
    batch.span_from(start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_schemas::{Kind, record::Array};

    fn recipe(shapes: &[Shape]) -> Recipe {
        Recipe {
            seed: 7,
            tags: shapes.len() as u32,
            shapes: shapes.to_vec(),
            rounds_per_period: 4.0,
            bad: 0.0,
            nan: 0.0,
            out_of_window: 0.0,
            duplicates: 0.0,
        }
    }

    fn rows(recipe: &Recipe, count: u64) -> Batch {
        let ids: Vec<_> = (0..recipe.tags).map(TagId).collect();
        let mut batch = Batch::new();
        for number in 0..count {
            recipe.sample(number, Micros(1_000_000), &ids, &mut batch);
        }
        batch
    }

    #[test]
    fn a_counter_counts_per_tag() {
        let batch = rows(&recipe(&[Shape::Counter, Shape::Counter]), 6);
        let got: Vec<_> = batch.rows.iter().map(|row| (row.tag.0, row.value)).collect();
        let count = |n| Value::UInt(n);
        assert_eq!(got, [(0, count(0)), (1, count(0)), (0, count(1)), (1, count(1)), (0, count(2)), (1, count(2))]);
    }

    #[test]
    fn every_shape_has_its_type() {
        let all = [Shape::Sine, Shape::Counter, Shape::Random, Shape::Square, Shape::Text, Shape::Bool, Shape::Array];
        let batch = rows(&recipe(&all), 700);
        for row in &batch.rows {
            match (all[row.tag.0 as usize], row.value) {
                (Shape::Sine | Shape::Random | Shape::Square, Value::Double(x)) => assert!((0.0..=100.0).contains(&x)),
                (Shape::Counter, Value::UInt(_)) | (Shape::Bool, Value::Bool(_)) => {}
                (Shape::Text, Value::Text(span)) => assert!(batch.text_of(span).ends_with("of tag 4")),
                (Shape::Array, Value::Array(Kind::Double, span)) => {
                    assert_eq!(Array::read(Kind::Double, span, &batch.heap).unwrap().len(), 8)
                }
                (shape, value) => panic!("{shape:?} gave {value:?}"),
            }
        }
    }

    #[test]
    fn the_seed_alone_decides() {
        let (a, b) = (recipe(&[Shape::Random]), Recipe { seed: 8, ..recipe(&[Shape::Random]) });
        assert_eq!(rows(&a, 100).rows, rows(&a, 100).rows);
        assert_ne!(rows(&a, 100).rows, rows(&b, 100).rows);
    }

    #[test]
    fn faults_come_in_their_share() {
        let faulty = Recipe { bad: 0.1, nan: 0.2, out_of_window: 0.3, duplicates: 0.4, ..recipe(&[Shape::Sine]) };
        let batch = rows(&faulty, 10_000);
        let share = |n: usize| n as f64 / batch.rows.len() as f64;
        let count = |f: &dyn Fn(&Row) -> bool| share(batch.rows.iter().filter(|row| f(row)).count());
        assert!((0.08..0.12).contains(&count(&|row| row.status.is_bad() && row.value == Value::Null)));
        assert!((0.15..0.21).contains(&count(&|row| matches!(row.value, Value::Double(x) if x.is_nan()))));
        assert!((0.27..0.33).contains(&count(&|row| row.time != Micros(1_000_000))));
        assert!((13_700..14_300).contains(&batch.rows.len()));
    }

    #[test]
    fn a_document_has_its_size_and_is_json_to_look_at() {
        let mut batch = Batch::new();
        recipe(&[Shape::Counter]).document(12, Micros(5), 200, &mut batch);
        recipe(&[Shape::Counter]).document(13, Micros(5), 1, &mut batch);
        let text = |i: usize| batch.text_of(batch.docs[i].payload.unwrap());
        assert_eq!(text(0).len(), 200);
        assert!(text(0).starts_with(r#"{"number":12,"key":"key-0","filling":"..."#) && text(0).ends_with(r#"."}"#));
        assert_eq!(text(1), r#"{"number":13,"key":"key-0","filling":""}"#);
    }
}
