//! When: as people write it on a command line or in SQL.

use jiff::Timestamp;
use millrace_config::Period;
use millrace_config::Reason;

/// A time, a day, or how long before `now`; microseconds since 1970.
///
/// Errors: it is none of them.
pub fn moment(text: &str, now: i64) -> Result<i64, Reason> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time.as_microsecond());
    }
    if let Ok(day) = text.parse::<jiff::civil::Date>() {
        return day
            .to_zoned(jiff::tz::TimeZone::UTC)
            .map(|day| day.timestamp().as_microsecond())
            .map_err(|error| error.to_string())
            .map_err(Reason::from);
    }
    match text.parse::<Period>() {
        Ok(period) => Ok(now.saturating_sub(i64::try_from(period.0.as_micros()).unwrap_or(i64::MAX))),
        Err(_) => Err(format!("`{text}` is no time: write 2026-11-28T06:00:00Z, 2026-11-28, or how long ago: `8h`").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_time_a_day_or_how_long_ago() {
        let now = 1_800_000_000_000_000;
        assert_eq!(moment("1970-01-02", now).unwrap(), 86_400_000_000);
        assert_eq!(moment("1970-01-01T01:00:00+01:00", now).unwrap(), 0);
        assert_eq!(moment("2h", now).unwrap(), now - 7_200_000_000);
        assert!(moment("yesterday", now).unwrap_err().contains("is no time"));
    }
}
