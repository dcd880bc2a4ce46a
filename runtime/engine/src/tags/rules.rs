//! What a tag's options do with a value: scale, range, deadband.

use millrace_config::{Deadband, Period, Reason};
use millrace_contract::{OutOfRange, Report, Structure, TagOptions};
use millrace_schemas::{Row, StatusCode, Value};
use std::sync::Arc;

/// The options of a tag, compiled: what happens to each of its readings.
#[derive(Debug)]
pub struct Rules {
    /// Keeps the options alive: tags find their rules by this pointer.
    pub options: Arc<TagOptions>,
    pub(super) report_all: bool,
    /// Absolute, in engineering units; zero: any change.
    pub(super) deadband: f64,
    pub(super) scale: Option<(f64, f64)>,
    pub(super) range: Option<(f64, f64)>,
    pub(super) out_of_range: OutOfRange,
    pub structure: Structure,
    /// Microseconds; zero: never.
    pub(super) heartbeat: i64,
    pub(super) stale: i64,
    pub(super) bad_after: i64,
    /// Bit number and the tag that stands for it.
    pub bits: bool,
}

impl Rules {
    /// `has_part`: keep-alives vouch for the tag, not only its own values; then staleness is on unless it is set.
    pub fn new(options: Arc<TagOptions>, has_part: bool) -> Self {
        let micros = |period: Option<Period>| period.map_or(0, |p| i64::try_from(p.0.as_micros()).unwrap_or(i64::MAX));
        let scale = match (options.raw, options.eu, options.scale, options.offset) {
            (Some([r0, r1]), Some([e0, e1]), ..) if r1 != r0 => {
                let factor = (e1 - e0) / (r1 - r0);
                Some((factor, e0 - r0 * factor))
            }
            (_, _, None, None) => None,
            (_, _, scale, offset) => Some((scale.unwrap_or(1.0), offset.unwrap_or(0.0))),
        };
        let range = match (options.min, options.max) {
            (None, None) => None,
            (min, max) => Some((min.unwrap_or(f64::NEG_INFINITY), max.unwrap_or(f64::INFINITY))),
        };
        let span = match (options.min, options.max, options.eu) {
            (Some(min), Some(max), _) => max - min,
            (_, _, Some([e0, e1])) => (e1 - e0).abs(),
            _ => 0.0,
        };
        let deadband = match options.deadband {
            None => 0.0,
            Some(Deadband::Absolute(width)) => width,
            Some(Deadband::Percent(percent)) => span * percent / 100.0,
        };
        Self {
            report_all: options.report.unwrap_or_default() == Report::All,
            deadband,
            scale,
            range,
            out_of_range: options.out_of_range.unwrap_or_default(),
            structure: options.structure.unwrap_or_default(),
            heartbeat: micros(options.at_least_every),
            stale: micros(options.stale_after.or(has_part.then_some(TagOptions::STALE_AFTER))),
            bad_after: micros(options.bad_after.or(Some(TagOptions::BAD_AFTER))),
            bits: options.bits.is_some(),
            options,
        }
    }

    /// Applies scale and range to a reading. `Err`: out of range, and declared to be a dead letter then.
    pub fn apply(&self, row: &mut Row) -> Result<(), Reason> {
        let number = |value| match value {
            Value::Int(v) => Some(v as f64),
            Value::UInt(v) => Some(v as f64),
            Value::Double(v) => Some(v),
            _ => None,
        };
        if let (Some((factor, offset)), Some(raw)) = (self.scale, number(row.value)) {
            row.value = Value::Double(raw * factor + offset);
        }
        if let (Some((min, max)), Some(v)) = (self.range, number(row.value))
            && !(min..=max).contains(&v)
            && !v.is_nan()
        {
            let status = match self.out_of_range {
                OutOfRange::Uncertain => StatusCode::UNCERTAIN_ENGINEERING_UNITS_EXCEEDED,
                OutOfRange::Bad => StatusCode::BAD_OUT_OF_RANGE,
                OutOfRange::Dead => return Err(format!("value {v} is outside {min}..{max}, and out_of_range is dead").into()),
            };
            if (row.status.quality() as u8) < status.quality() as u8 {
                row.status = status;
            }
        }
        Ok(())
    }

    pub(super) fn ticks(&self) -> bool {
        self.heartbeat != 0 || self.stale != 0
    }

    /// Whether a silent tag's last value must be kept to be said again.
    pub(super) fn keeps_value(&self) -> bool {
        self.ticks()
    }
}
