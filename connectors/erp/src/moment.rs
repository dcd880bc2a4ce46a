//! Dates and times as services write them, in the form of the document. A time that does not exist is none: it is not bent into another.
//!
//! | | V2 | V4 |
//! |---|---|---|
//! | moment | `/Date(1782892800000)/`, `/Date(1782892800000+0120)/` | `2026-07-01T08:00:00.5Z`, `2026-07-01T08:00+02:00` |
//! | date | the same | `2026-07-01` |
//! | time of day | `PT13H20M` | `13:20:00` |
//!
//! Years are 1 to 9999. SAP's initial date `0000-00-00` is null.

use crate::shape::Shape;
use millrace_schemas::json::encode_text;
use std::io::Write;

/// How a moment of V2 begins where JSON escapes its slashes; it ends with `)\/` then.
pub const ESCAPED: &str = "\\/Date(";

/// Writes a date or time; `None`: it is none, or none that exists.
pub fn write(text: &str, shape: &Shape, out: &mut Vec<u8>) -> Option<()> {
    let is_date = matches!(shape, Shape::Date | Shape::DateOfMoment);
    let is_initial = is_date && text.bytes().all(|b| b == b'0' || b == b'-');
    if is_initial || text.is_empty() {
        out.extend_from_slice(b"null");
        return Some(());
    }
    let plain = || text.strip_prefix("/Date(")?.strip_suffix(")/");
    let escaped = || text.strip_prefix(ESCAPED)?.strip_suffix(")\\/");
    if let Some(inner) = plain().or_else(escaped) {
        let civil = since_1970(inner)?;
        return match shape {
            Shape::Date | Shape::DateOfMoment => write!(out, "\"{}\"", civil.date()),
            Shape::LocalTime => write!(out, "\"{civil}\""),
            Shape::Moment(_) => write!(out, "\"{civil}Z\""),
            _ => return None,
        }
        .ok();
    }
    match shape {
        Shape::Date | Shape::DateOfMoment => {
            let (day, rest) = text.split_at_checked(10)?;
            if !is_day(day) || !(rest.is_empty() || rest.starts_with('T')) {
                return None;
            }
            encode_text(day, out);
        }
        Shape::Time | Shape::TimeOfDay if text.starts_with('P') => {
            let time = text.parse::<jiff::SignedDuration>().ok()?;
            if time.is_negative() || time.as_secs() >= 86_400 {
                return None;
            }
            encode_text(&(jiff::civil::Time::midnight() + time).to_string(), out);
        }
        Shape::Time | Shape::TimeOfDay => with_seconds(text, 0, str::is_empty, out)?,
        _ => {
            let (day, rest) = text.split_at_checked(10)?;
            if !is_day(day) || !rest.starts_with('T') {
                return None;
            }
            // What has no zone by its type is passed on with the one that it says.
            let is_end: fn(&str) -> bool = match shape {
                Shape::Moment(_) => is_zone,
                _ => |text| text.is_empty() || is_zone(text),
            };
            with_seconds(text, 11, is_end, out)?;
        }
    }
    Some(())
}

/// Milliseconds since 1970 by the calendar, not as an instant: `9999-12-31` is usual, and beyond what an instant can be in every zone. The offset behind
/// them says where the time was written down; they are UTC all the same.
fn since_1970(inner: &str) -> Option<jiff::civil::DateTime> {
    let digits = inner.strip_prefix('-').unwrap_or(inner);
    let end = digits.find(['+', '-']).unwrap_or(digits.len()) + inner.len() - digits.len();
    let civil = jiff::civil::date(1970, 1, 1).at(0, 0, 0, 0);
    let civil = civil.checked_add(jiff::SignedDuration::from_millis(inner[..end].parse().ok()?)).ok()?;
    (civil.year() >= 1).then_some(civil)
}

fn two(bytes: &[u8]) -> Option<u8> {
    match *bytes {
        [tens @ b'0'..=b'9', ones @ b'0'..=b'9'] => Some((tens - b'0') * 10 + ones - b'0'),
        _ => None,
    }
}

/// `2026-07-01`, of a year of 1 to 9999.
fn is_day(text: &str) -> bool {
    let [century @ .., y3, y4, b'-', m1, m2, b'-', d1, d2] = text.as_bytes() else { return false };
    let parts = (two(century), two(&[*y3, *y4]), two(&[*m1, *m2]), two(&[*d1, *d2]));
    let (Some(century), Some(year), Some(month), Some(day)) = parts else { return false };
    let year = i16::from(century) * 100 + i16::from(year);
    year >= 1 && jiff::civil::Date::new(year, month.cast_signed(), day.cast_signed()).is_ok()
}

/// `Z`, `+02:00`.
fn is_zone(text: &str) -> bool {
    match *text.as_bytes() {
        [b'Z' | b'z'] => true,
        [b'+' | b'-', h1, h2, b':', m1, m2] => two(&[h1, h2]).is_some_and(|h| h < 24) && two(&[m1, m2]).is_some_and(|m| m < 60),
        _ => false,
    }
}

/// Writes a text whose time of day begins at a byte, with the seconds that OData lets a service leave out. `None`: the time of day is none, or what is behind
/// it is not.
fn with_seconds(text: &str, at: usize, is_end: impl Fn(&str) -> bool, out: &mut Vec<u8>) -> Option<()> {
    let (clock, rest) = text.get(at..)?.split_at_checked(5)?;
    let [h1, h2, b':', m1, m2] = *clock.as_bytes() else { return None };
    if two(&[h1, h2])? > 23 || two(&[m1, m2])? > 59 {
        return None;
    }
    let Some(seconds) = rest.strip_prefix(':') else {
        is_end(rest).then_some(())?;
        encode_text(&format!("{}:00{rest}", &text[..at + 5]), out);
        return Some(());
    };
    let (whole, mut rest) = seconds.split_at_checked(2)?;
    if two(whole.as_bytes())? > 59 {
        return None;
    }
    if let Some(fraction) = rest.strip_prefix('.') {
        let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
        rest = &fraction[digits..];
        if digits == 0 {
            return None;
        }
    }
    is_end(rest).then(|| encode_text(text, out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_or_time_is_kept_to_the_digit_or_it_is_none() {
        let moment = &Shape::Moment(3);
        let table: &[(&Shape, &str, Option<&str>)] = &[
            (&Shape::Date, "2026-07-01", Some("\"2026-07-01\"")),
            (&Shape::Date, "9999-12-31", Some("\"9999-12-31\"")),
            (&Shape::Date, "0001-01-01", Some("\"0001-01-01\"")),
            (&Shape::Date, "0000-00-00", Some("null")),
            (&Shape::Date, "00000000", Some("null")),
            (&Shape::Date, "", Some("null")),
            (&Shape::Date, "0000-01-01", None),
            (&Shape::Date, "2026-02-29", None),
            (&Shape::Date, "2026-13-01", None),
            (&Shape::Date, "20000-01-01", None),
            (&Shape::Date, "2026-07-01 and more", None),
            (&Shape::Date, "2026-07-0é", None),
            (&Shape::DateOfMoment, "2026-07-01T00:00:00", Some("\"2026-07-01\"")),
            (&Shape::DateOfMoment, "/Date(253402214400000)/", Some("\"9999-12-31\"")),
            (&Shape::DateOfMoment, "/Date(253402300800000)/", None),
            (&Shape::LocalTime, "/Date(253402300799999)/", Some("\"9999-12-31T23:59:59.999\"")),
            (&Shape::LocalTime, "/Date(-62135596800000)/", Some("\"0001-01-01T00:00:00\"")),
            (&Shape::LocalTime, "/Date(-62135596800001)/", None),
            (&Shape::LocalTime, "/Date(9223372036854775807)/", None),
            (&Shape::LocalTime, "/Date(99999999999999999999)/", None),
            (&Shape::LocalTime, "/Date()/", None),
            (&Shape::LocalTime, "/Date(é)/", None),
            (&Shape::LocalTime, "2026-07-01T08:00:00", Some("\"2026-07-01T08:00:00\"")),
            (&Shape::LocalTime, "2026-07-01T25:00:00", None),
            (moment, "/Date(1782892800000+0120)/", Some("\"2026-07-01T08:00:00Z\"")),
            (moment, "/Date(-1)/", Some("\"1969-12-31T23:59:59.999Z\"")),
            (moment, "9999-12-31T23:59:59Z", Some("\"9999-12-31T23:59:59Z\"")),
            (moment, "2026-07-01T08:00:00.125+02:00", Some("\"2026-07-01T08:00:00.125+02:00\"")),
            (moment, "2026-07-01T08:00Z", Some("\"2026-07-01T08:00:00Z\"")),
            (moment, "2026-07-01T08:00:00", None),
            (moment, "2026-07-01T24:00:00Z", None),
            (moment, "2026-07-01T08:60:00Z", None),
            (moment, "2026-07-01T08:00:00.Z", None),
            (moment, "2026-07-01T08:00:00+25:00", None),
            (moment, "10000-01-01T00:00:00Z", None),
            (moment, "-0044-03-15T00:00:00Z", None),
            (moment, "infinity", None),
            (&Shape::TimeOfDay, "13:20", Some("\"13:20:00\"")),
            (&Shape::TimeOfDay, "13:20:00.5", Some("\"13:20:00.5\"")),
            (&Shape::TimeOfDay, "24:00:00", None),
            (&Shape::Time, "PT13H20M", Some("\"13:20:00\"")),
            (&Shape::Time, "PT24H", None),
            (&Shape::Time, "-PT1H", None),
            (&Shape::Time, "PT99999999999999999999H", None),
        ];
        for (shape, text, wanted) in table {
            let mut out = Vec::new();
            let done = write(text, shape, &mut out);
            assert_eq!(done.map(|()| std::str::from_utf8(&out).unwrap()), *wanted, "{shape:?} {text}");
        }
    }
}
