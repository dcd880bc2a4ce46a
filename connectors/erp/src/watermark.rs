//! How far an entity set has been read by a property that grows, and what was seen near its end.
//!
//! ```text
//!   ......seen long ago......|<------ overlap ------>|
//!                            ^ the next poll begins  ^ watermark: the largest value of all pages
//!                              here, inclusive
//! ```
//!
//! What commits late, or at the same instant, lies in the overlap and is seen by the next poll; what was seen there already is known by the
//! entity's key and ETag (its whole text, where there is none) and is not sent again.

use crate::literal;
use crate::metadata::Version;
use crate::shape::Shape;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use std::collections::HashMap;
use std::time::Duration;

/// A value of the property: a number, or microseconds since 1970.
pub type Ordinal = i64;

/// Which property, and how its values are compared.
#[derive(Clone, PartialEq, Debug)]
pub struct Watermark {
    pub name: String,
    /// Index in the record's fields.
    pub field: usize,
    pub shape: Shape,
}

const SECOND: i64 = 1_000_000;
/// A value further ahead of the clock than this does not move the watermark: `9999-12-31` would hide everything after it.
const AHEAD: Duration = Duration::from_secs(300);

impl Watermark {
    /// Whether values of a type grow: dates, moments, whole numbers.
    pub fn is_possible(shape: &Shape) -> bool {
        matches!(
            shape,
            Shape::Date
                | Shape::DateOfMoment
                | Shape::LocalTime
                | Shape::Moment(_)
                | Shape::Int
                | Shape::Long
                | Shape::Decimal(Some((..=18, 0)))
        )
    }

    const fn is_time(&self) -> bool {
        matches!(self.shape, Shape::Date | Shape::DateOfMoment | Shape::LocalTime | Shape::Moment(_))
    }

    /// The value in a document, as JSON; `None`: null, or none that can be compared.
    pub fn ordinal(&self, json: &[u8]) -> Option<Ordinal> {
        let text = std::str::from_utf8(json).ok()?.trim_matches('"');
        match self.shape {
            Shape::Date | Shape::DateOfMoment => micros(text.parse::<jiff::civil::Date>().ok()?.to_datetime(jiff::civil::Time::midnight())),
            Shape::LocalTime => micros(text.parse::<jiff::civil::DateTime>().ok()?),
            Shape::Moment(_) => Some(text.parse::<jiff::Timestamp>().ok()?.as_microsecond()),
            _ => text.parse().ok(),
        }
    }

    /// The moment of an ordinal in microseconds, where it is one.
    pub fn time(&self, ordinal: Ordinal) -> Option<i64> {
        self.is_time().then_some(ordinal)
    }

    /// What a watermark becomes by a value that was read at a moment.
    pub fn raised(&self, water: Option<Ordinal>, seen: Ordinal, now: i64) -> Option<Ordinal> {
        let is_believed = !self.is_time() || seen <= now.saturating_add(AHEAD.as_micros() as i64);
        if is_believed { Some(water.map_or(seen, |water| water.max(seen))) } else { water }
    }

    /// Where the next poll begins.
    pub fn begin(&self, water: Ordinal, overlap: Duration) -> Ordinal {
        if self.is_time() { water.saturating_sub(i64::try_from(overlap.as_micros()).unwrap_or(i64::MAX)) } else { water }
    }

    /// What can be asked for that is not later: the property may hold less than a microsecond says.
    pub fn floor(&self, at: Ordinal, version: Version) -> Ordinal {
        let unit = match self.shape {
            Shape::Moment(3..) if version == Version::V4 => 1_000,
            Shape::Moment(_) | Shape::LocalTime => SECOND,
            Shape::Date | Shape::DateOfMoment => 86_400 * SECOND,
            _ => 1,
        };
        at.div_euclid(unit) * unit
    }

    /// `modifiedAt ge 2026-07-01T08:00:00Z`, for a value that was rounded by [`floor`](Self::floor).
    pub fn filter(&self, begin: Ordinal, version: Version) -> Option<String> {
        let value = match self.shape {
            Shape::Moment(_) => Value::String(jiff::Timestamp::from_microsecond(begin).ok()?.to_string()),
            Shape::LocalTime => Value::String(civil(begin)?.to_string()),
            Shape::Date | Shape::DateOfMoment => Value::String(civil(begin)?.date().to_string()),
            _ => Value::from(begin),
        };
        Some(format!("{} ge {}", self.name, literal::of(&value, &self.shape, version)?))
    }
}

fn micros(civil: jiff::civil::DateTime) -> Option<i64> {
    Some(civil.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_microsecond())
}

fn civil(micros: i64) -> Option<jiff::civil::DateTime> {
    Some(jiff::Timestamp::from_microsecond(micros).ok()?.to_zoned(jiff::tz::TimeZone::UTC).datetime())
}

/// What was seen within the overlap: a fingerprint of key and version of each entity, and its value.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen(HashMap<u64, Ordinal>);

/// A position holds this many; of more, the newest. After a restart what is not among them may come once more.
pub const KEPT: usize = 4_096;

/// A fingerprint of an entity's key and version: the first half of half a SHA-256.
pub fn fingerprint(key: &[u8], version: &[u8]) -> u64 {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    context.update(&(key.len() as u64).to_le_bytes());
    context.update(key);
    context.update(version);
    let digest = context.finish();
    u64::from_le_bytes(digest.as_ref()[..8].try_into().expect("a digest has 32 bytes"))
}

impl Seen {
    /// Remembers an entity. `false`: it was seen already.
    pub fn insert(&mut self, entity: u64, at: Ordinal) -> bool {
        self.0.insert(entity, at).is_none()
    }

    /// Forgets what lies before the overlap.
    pub fn forget(&mut self, before: Ordinal) {
        self.0.retain(|_, at| *at >= before);
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// For a position: fingerprint and value of each that is not older than `from`, 16 bytes, in base64.
    pub fn write(&self, from: Ordinal) -> String {
        let mut all: Vec<_> = self.0.iter().filter(|(_, at)| **at >= from).map(|(entity, at)| (*at, *entity)).collect();
        if all.len() > KEPT {
            all.select_nth_unstable_by(KEPT, |a, b| b.cmp(a));
            all.truncate(KEPT);
        }
        all.sort_unstable_by(|a, b| b.cmp(a));
        let bytes: Vec<u8> = all.iter().flat_map(|(at, entity)| [entity.to_le_bytes(), at.to_le_bytes()].concat()).collect();
        STANDARD.encode(bytes)
    }

    pub fn read(text: &[u8]) -> Self {
        let bytes = STANDARD.decode(text).unwrap_or_default();
        let word = |bytes: &[u8]| bytes.try_into().map(u64::from_le_bytes).unwrap_or_default();
        Self(bytes.chunks_exact(16).map(|entry| (word(&entry[..8]), word(&entry[8..]) as i64)).collect())
    }
}
