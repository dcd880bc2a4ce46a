//! Questions to a table, and its upkeep, for the program: plain types, in every build. One without the feature `tables` says so.

use crate::config::Place;
use crate::series::{Bucket, Point, Sample};
use millrace_contract::{Offset, Partition, Upstream};
use std::ops::Range;
use std::time::Duration;

/// What is asked about a tag in a range of microseconds since 1970.
#[derive(Clone, PartialEq, Debug)]
pub struct Question {
    /// The whole path.
    pub tag: String,
    pub range: Range<i64>,
    pub what: What,
    /// How many days before the range a value may be that still holds at its beginning, and how many behind it the one to which the last line leads.
    pub lookback_days: i64,
    /// Raw samples, at most.
    pub limit: usize,
    /// Bytes of the table, at most.
    pub budget: u64,
    /// What is in Kafka only.
    pub tail: Tail,
}

/// Samples that the table may lack.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Tail {
    /// Of the tag; some may be in the table, too.
    pub samples: Vec<Sample>,
    /// When all that was in Kafka was read, in microseconds since 1970; `None`: it was not.
    pub read_at: Option<i64>,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum What {
    /// Each sample as it is.
    Samples,
    /// The last sample before the range's end.
    Last,
    /// Least, greatest, last and time-weighted mean of each piece of time, in microseconds.
    Buckets { every: i64 },
    /// The value at times so far apart: what holds, or on the line between its neighbours.
    At { every: i64, linear: bool },
    /// Fewer points that look the same.
    Points { count: usize, triangles: bool },
}

#[derive(Clone, PartialEq, Debug)]
pub enum Series {
    Samples(Vec<Sample>),
    Buckets(Vec<Bucket>),
    Points(Vec<Point>),
}

/// An answer, and how far it can be trusted.
#[derive(Clone, PartialEq, Debug)]
pub struct Answer {
    pub series: Series,
    /// There were more than the question's limit.
    pub is_cut: bool,
    /// The sample that held at the range's beginning.
    pub before: Option<Sample>,
    /// The table's version.
    pub version: u64,
    /// Up to when all that reached Kafka is in the answer, in microseconds since 1970: the last commit, or when Kafka was read.
    pub complete_until: i64,
    /// Files and bytes read.
    pub files: u64,
    pub bytes: u64,
}

/// What can be done for a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Upkeep {
    /// Hold the log against the store.
    Check,
    /// Merge small files; `all`: those of today, too.
    Compact { all: bool },
    /// Delete what the log does not name, once it is so old; `dry`: only say what.
    Vacuum { keep: Duration, dry: bool },
}

/// What the upkeep found or did: names and numbers, and whether all is well.
#[derive(Clone, PartialEq, Debug)]
pub struct Report {
    pub facts: serde_json::Value,
    pub is_well: bool,
}

#[cfg(not(feature = "tables"))]
mod answers {
    use super::{Answer, Offset, Partition, Place, Question, Range, Report, Upkeep, Upstream};
    use crate::mark::{Each, Mark};
    use millrace_config::Reason;

    const WITHOUT: &str =
        "this build can't read tables; build it with the feature `lake`: cargo build --release -p millrace --features lake";

    /// Errors: this build can't.
    pub fn ask(_place: &Place, _question: &Question, _runtime: tokio::runtime::Handle) -> Result<Answer, Reason> {
        Err(WITHOUT.into())
    }

    /// Errors: this build can't.
    pub fn positions(
        _place: &Place,
        _upstream: &Upstream,
        _parts: &[Partition],
        _runtime: tokio::runtime::Handle,
    ) -> Result<Vec<Option<Offset>>, Reason> {
        Err(WITHOUT.into())
    }

    /// Errors: this build can't.
    pub fn walk(
        _place: &Place,
        _range: &Range<i64>,
        _after: Option<&Mark>,
        _runtime: tokio::runtime::Handle,
        _each: &mut Each<'_>,
    ) -> Result<(), Reason> {
        Err(WITHOUT.into())
    }

    /// Errors: this build can't.
    pub fn tend(_place: &Place, _what: Upkeep, _runtime: tokio::runtime::Handle) -> Result<Report, Reason> {
        Err(WITHOUT.into())
    }
}

#[cfg(feature = "tables")]
mod answers {
    use super::{Answer, Offset, Partition, Place, Question, Range, Report, Series, Upkeep, Upstream, What};
    use crate::config::TableFormat;
    use crate::history::History;
    #[cfg(feature = "iceberg")]
    use crate::iceberg_upkeep;
    use crate::mark::{Each, Mark};
    use crate::series::{Buckets, Point, Sample, interpolate, lttb, min_max};
    use crate::target::Target;
    use crate::upkeep::{self, Bound};
    use millrace_config::Reason;
    use millrace_kit::parts::TargetError;

    /// Buckets or points of one answer.
    const MOST: i64 = 1_000_000;

    /// Answers a question. Blocks: call it on a thread that may.
    ///
    /// Errors: the table can't be read, or the answer would be too long.
    pub fn ask(place: &Place, question: &Question, runtime: tokio::runtime::Handle) -> Result<Answer, Reason> {
        answer(place, question, runtime).map_err(|error| error.to_string().into())
    }

    fn answer(place: &Place, question: &Question, runtime: tokio::runtime::Handle) -> Result<Answer, TargetError> {
        let Question { tag, range, what, lookback_days, limit, budget, tail } = question;
        let history = History::new(Target::open(place, false, runtime)?, tail.samples.clone(), *budget);
        let (version, committed) = history.table.committed()?;
        let complete_until = tail.read_at.unwrap_or(committed);
        if let What::Buckets { every } | What::At { every, .. } = what
            && (range.end - range.start) / every.max(&1) > MOST
        {
            return Err(TargetError::Refused(format!(
                "the answer would have more than {MOST} lines; ask for a shorter range or a longer step"
            )));
        }
        let mut before = match what {
            What::Samples | What::Last => None,
            _ => history.before(tag, range.start, *lookback_days)?,
        };
        let mut is_cut = false;
        let series = match what {
            What::Last => {
                before = history.before(tag, range.end, *lookback_days)?;
                Series::Samples(before.clone().into_iter().collect())
            }
            What::Samples => {
                let mut samples = Vec::new();
                history.each_day(tag, range.clone(), |day| {
                    is_cut |= samples.len() + day.len() > *limit;
                    let room = limit.saturating_sub(samples.len());
                    samples.extend(day.into_iter().take(room));
                    Ok(())
                })?;
                Series::Samples(samples)
            }
            What::Buckets { every } => {
                let mut buckets = Buckets::new(range.clone(), *every, complete_until, before.as_ref());
                history.each_day(tag, range.clone(), |day| {
                    day.iter().for_each(|sample| buckets.push(sample));
                    Ok(())
                })?;
                Series::Buckets(buckets.finish())
            }
            What::At { every, linear } => {
                let mut samples: Vec<Sample> = before.clone().into_iter().collect();
                history.each_day(tag, range.clone(), |day| {
                    samples.extend(day);
                    if samples.len() > *limit {
                        return Err(TargetError::Refused(format!("there are more than {limit} samples; ask for a shorter range")));
                    }
                    Ok(())
                })?;
                // The last line of the range ends behind it.
                if *linear && samples.last().is_some_and(|last| last.holds().is_some()) {
                    samples.extend(history.after(tag, range.end, *lookback_days)?);
                }
                Series::Points(interpolate(&samples, range.clone(), *every, *linear, complete_until))
            }
            What::Points { count, triangles } => {
                let mut points: Vec<Point> = Vec::new();
                history.each_day(tag, range.clone(), |day| {
                    // Day by day where that keeps what is wanted; triangles need their neighbours.
                    points.extend(day.iter().map(Point::from));
                    if !triangles && points.len() > 4 * count {
                        points = min_max(&points, *count);
                    }
                    if points.len() > (*limit).max(4 * count) {
                        return Err(TargetError::Refused(format!(
                            "there are more than {limit} samples; ask for a shorter range, or for min and max"
                        )));
                    }
                    Ok(())
                })?;
                Series::Points(if *triangles { lttb(&points, *count) } else { min_max(&points, *count) })
            }
        };
        let cost = history.cost();
        Ok(Answer { series, is_cut, before, version, complete_until, files: cost.files, bytes: cost.bytes })
    }

    /// The next offsets that the table holds. Blocks: call it on a thread that may.
    ///
    /// Errors: the table can't be read.
    pub fn positions(
        place: &Place,
        upstream: &Upstream,
        parts: &[Partition],
        runtime: tokio::runtime::Handle,
    ) -> Result<Vec<Option<Offset>>, Reason> {
        let table = Target::open(place, false, runtime).map_err(|error| error.to_string())?;
        let ids: Vec<String> = parts.iter().map(|part| crate::sink::app_id(upstream, part)).collect();
        table.positions(ids.iter().map(String::as_str)).map_err(|error| error.to_string().into())
    }

    /// Hands on every sample of a range behind a mark, as it was in Kafka. Blocks: call it on a thread that may.
    ///
    /// Errors: the table can't be read, or what `each` says.
    pub fn walk(
        place: &Place,
        range: &Range<i64>,
        after: Option<&Mark>,
        runtime: tokio::runtime::Handle,
        each: &mut Each<'_>,
    ) -> Result<(), Reason> {
        let mut table = Target::open(place, false, runtime).map_err(|error| error.to_string())?;
        crate::again::walk(&mut table, range, after, each).map_err(|error| error.to_string().into())
    }

    /// Tends a table. Blocks: call it on a thread that may.
    ///
    /// Errors: the table can't be read or written.
    pub fn tend(place: &Place, what: Upkeep, runtime: tokio::runtime::Handle) -> Result<Report, Reason> {
        tended(place, what, runtime).map_err(|error| error.to_string().into())
    }

    fn tended(place: &Place, what: Upkeep, runtime: tokio::runtime::Handle) -> Result<Report, TargetError> {
        let as_json = |facts: Result<serde_json::Value, serde_json::Error>| facts.map_err(|error| TargetError::Refused(error.to_string()));
        let mut table = match Target::open(place, false, runtime)? {
            Target::Delta(table) => table,
            #[cfg(feature = "iceberg")]
            Target::Iceberg(mut table) => {
                let (facts, is_well) = match what {
                    Upkeep::Check => {
                        let checked = iceberg_upkeep::check(&table)?;
                        let is_well = checked.missing.is_empty();
                        (serde_json::to_value(checked), is_well)
                    }
                    Upkeep::Compact { all } => (serde_json::to_value(iceberg_upkeep::compact(&mut table, all, &Bound::default())?), true),
                    Upkeep::Vacuum { keep, dry } => (serde_json::to_value(iceberg_upkeep::vacuum(&mut table, keep, dry)?), true),
                };
                return Ok(Report { facts: as_json(facts)?, is_well });
            }
        };
        Ok(match what {
            Upkeep::Check => {
                let checked = upkeep::check(&table)?;
                Report { is_well: checked.missing.is_empty(), facts: as_json(serde_json::to_value(&checked))? }
            }
            Upkeep::Compact { all } => {
                table.prepare()?;
                let done = upkeep::compact(&mut table, all, place.format == TableFormat::Parquet, &Bound::default())?;
                Report { is_well: true, facts: as_json(serde_json::to_value(&done))? }
            }
            Upkeep::Vacuum { keep, dry } => {
                let done = upkeep::vacuum(&mut table, keep, dry)?;
                Report { is_well: true, facts: as_json(serde_json::to_value(&done))? }
            }
        })
    }
}

pub use answers::{ask, positions, tend, walk};
