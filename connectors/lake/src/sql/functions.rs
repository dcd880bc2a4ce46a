//! The library of history as table functions:
//!
//! ```text
//! history('tag', from [, to])                                  time, value, text, quality, status, origin
//! resample('tag', from, to, 'every')                           time, mean, min, max, last, count, increase, covered, quality
//! interpolate('tag', from, to, 'every' [, 'step' | 'linear'])  time, value, quality
//! ```
//!
//! Times are as on the command line: `'8h'` ago, `'2026-11-28'`, `'2026-11-28T06:00:00Z'`.

use crate::ask::{Question, Series, Tail, What, ask};
use crate::config::Place;
use crate::moment::moment;
use crate::series::{Sample, Value};
use arrow_array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray, UInt64Array};
use datafusion::catalog::{MemTable, TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::{Result, ScalarValue, plan_err};
use datafusion::logical_expr::Expr;
use millrace_config::Period;
use millrace_config::Reason;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

/// How many days before the range a value may be that still holds at its beginning.
const LOOKBACK: i64 = 31;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Which {
    History,
    Resample,
    Interpolate,
}

impl Which {
    pub const ALL: [Self; 3] = [Self::History, Self::Resample, Self::Interpolate];

    pub fn name(self) -> &'static str {
        match self {
            Self::History => "history",
            Self::Resample => "resample",
            Self::Interpolate => "interpolate",
        }
    }

    fn usage(self) -> &'static str {
        match self {
            Self::History => "history('tag', 'from' [, 'to'])",
            Self::Resample => "resample('tag', 'from', 'to', 'every')",
            Self::Interpolate => "interpolate('tag', 'from', 'to', 'every' [, 'step' or 'linear'])",
        }
    }
}

pub struct Function {
    pub which: Which,
    pub place: Place,
    /// What is in Kafka only.
    pub samples: Arc<HashMap<String, Vec<Sample>>>,
    pub read_until: Option<i64>,
    pub site: Option<String>,
    pub runtime: tokio::runtime::Handle,
    pub rows: usize,
}

impl fmt::Debug for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.which.name())
    }
}

impl TableFunctionImpl for Function {
    fn call_with_args(&self, args: TableFunctionArgs) -> Result<Arc<dyn TableProvider>> {
        let usage = self.which.usage();
        let mut texts = Vec::new();
        for arg in args.exprs() {
            match arg {
                Expr::Literal(value, _) => match (value, value.try_as_str()) {
                    (_, Some(Some(text))) => texts.push(text.to_owned()),
                    (ScalarValue::TimestampMicrosecond(Some(time), _), _) => texts.push(format!("{:.6}", at(*time))),
                    (ScalarValue::TimestampNanosecond(Some(time), _), _) => texts.push(format!("{:.6}", at(time.div_euclid(1000)))),
                    _ => return plan_err!("{usage}: each is a text, and {value} is none"),
                },
                other => return plan_err!("{usage}: each is a text as it stands, and {other} is none"),
            }
        }
        let question = match self.question(&texts) {
            Ok(question) => question,
            Err(why) => return plan_err!("{usage}: {why}"),
        };
        // What reads the table blocks, and this thread runs others.
        let (place, runtime) = (&self.place, self.runtime.clone());
        let answered = std::thread::scope(|scope| scope.spawn(move || ask(place, &question, runtime)).join());
        let answer = match answered {
            Ok(Ok(answer)) => answer,
            Ok(Err(why)) => return plan_err!("{}: {why}", self.which.name()),
            Err(_) => return plan_err!("{}: the question broke off", self.which.name()),
        };
        if answer.is_cut {
            return plan_err!(
                "{}: there are more than {} samples; ask for a shorter range, or raise the bound: --limit",
                self.which.name(),
                self.rows
            );
        }
        let batch = batch(&answer.series)?;
        Ok(Arc::new(MemTable::try_new(batch.schema(), vec![vec![batch]])?))
    }
}

fn at(micros: i64) -> jiff::Timestamp {
    jiff::Timestamp::from_microsecond(micros).unwrap_or_default()
}

impl Function {
    fn question(&self, texts: &[String]) -> std::result::Result<Question, Reason> {
        let now = jiff::Timestamp::now().as_microsecond();
        let (tag, from, to, every, way) = match (self.which, texts) {
            (Which::History, [tag, from]) => (tag, from, None, None, None),
            (Which::History, [tag, from, to]) => (tag, from, Some(to), None, None),
            (Which::Resample | Which::Interpolate, [tag, from, to, every]) => (tag, from, Some(to), Some(every), None),
            (Which::Interpolate, [tag, from, to, every, way]) => (tag, from, Some(to), Some(every), Some(way)),
            _ => return Err(format!("{} came", texts.len()).into()),
        };
        let range = moment(from, now)?..to.map_or(Ok(now), |to| moment(to, now))?;
        if range.start >= range.end {
            return Err("the range is empty".into());
        }
        let every = every.map_or(Ok(0), |every| {
            let period: Period = every.parse().map_err(|_| format!("`{every}` is no period: write `1m`"))?;
            let micros = i64::try_from(period.0.as_micros()).unwrap_or(i64::MAX);
            if micros == 0 { Err(format!("`{every}` is no time at all")) } else { Ok(micros) }
        })?;
        let linear = match way.map(String::as_str) {
            None | Some("step") => false,
            Some("linear") => true,
            Some(other) => return Err(format!("`{other}` is neither `step` nor `linear`").into()),
        };
        let what = match self.which {
            Which::History => What::Samples,
            Which::Resample => What::Buckets { every },
            Which::Interpolate => What::At { every, linear },
        };
        let tag = match &self.site {
            Some(site) if !tag.starts_with(&format!("{site}/")) => format!("{site}/{}", tag.trim_start_matches('/')),
            _ => tag.clone(),
        };
        let tail = Tail { samples: self.samples.get(&tag).cloned().unwrap_or_default(), read_at: self.read_until };
        Ok(Question { tag, range, what, lookback_days: LOOKBACK, limit: self.rows, budget: u64::MAX, tail })
    }
}

fn batch(series: &Series) -> Result<RecordBatch> {
    let times = |times: Vec<i64>| -> ArrayRef { Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC")) };
    let columns: Vec<(&str, ArrayRef)> = match series {
        Series::Samples(samples) => {
            let text = |sample: &Sample| match &sample.value {
                Value::Text(text) | Value::Json(text) => Some(text.clone()),
                Value::UInt(value) => Some(value.to_string()),
                _ => None,
            };
            let number = |sample: &Sample| match &sample.value {
                Value::Double(value) => Some(*value),
                other => other.number(),
            };
            vec![
                ("time", times(samples.iter().map(|sample| sample.time).collect())),
                ("value", Arc::new(samples.iter().map(number).collect::<Float64Array>())),
                ("text", Arc::new(samples.iter().map(text).collect::<StringArray>())),
                ("quality", Arc::new(samples.iter().map(|sample| Some(sample.status.quality().as_str())).collect::<StringArray>())),
                ("status", Arc::new(samples.iter().map(|sample| Some(i64::from(sample.status.0))).collect::<Int64Array>())),
                ("origin", Arc::new(samples.iter().map(|sample| Some(sample.origin.as_str())).collect::<StringArray>())),
            ]
        }
        Series::Buckets(buckets) => vec![
            ("time", times(buckets.iter().map(|bucket| bucket.start).collect())),
            ("mean", Arc::new(buckets.iter().map(|bucket| bucket.mean).collect::<Float64Array>())),
            ("min", Arc::new(buckets.iter().map(|bucket| bucket.min).collect::<Float64Array>())),
            ("max", Arc::new(buckets.iter().map(|bucket| bucket.max).collect::<Float64Array>())),
            ("last", Arc::new(buckets.iter().map(|bucket| bucket.last).collect::<Float64Array>())),
            ("count", Arc::new(buckets.iter().map(|bucket| Some(bucket.count)).collect::<UInt64Array>())),
            ("increase", Arc::new(buckets.iter().map(|bucket| Some(bucket.increase)).collect::<Float64Array>())),
            ("covered", Arc::new(buckets.iter().map(|bucket| Some(bucket.covered)).collect::<Float64Array>())),
            ("quality", Arc::new(buckets.iter().map(|bucket| Some(bucket.worst.as_str())).collect::<StringArray>())),
        ],
        Series::Points(points) => vec![
            ("time", times(points.iter().map(|point| point.time).collect())),
            ("value", Arc::new(points.iter().map(|point| point.value).collect::<Float64Array>())),
            ("quality", Arc::new(points.iter().map(|point| Some(point.quality.as_str())).collect::<StringArray>())),
        ],
    };
    Ok(RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true)))?)
}
