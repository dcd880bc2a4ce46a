//! Which moment, day or time of day does a text say? RFC 3339, exactly: what is finer than the unit is refused.

/// How many of them make a second.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    Millis,
    Micros,
    Nanos,
}

impl Unit {
    pub const fn words(self) -> &'static str {
        match self {
            Self::Millis => "milliseconds",
            Self::Micros => "microseconds",
            Self::Nanos => "nanoseconds",
        }
    }

    const fn per_second(self) -> i64 {
        match self {
            Self::Millis => 1_000,
            Self::Micros => 1_000_000,
            Self::Nanos => 1_000_000_000,
        }
    }

    /// The moment in this unit; `None` where it is finer, or beyond 64 bits.
    pub fn of(self, seconds: i64, nanos: i64) -> Option<i64> {
        let step = 1_000_000_000 / self.per_second();
        if nanos % step != 0 {
            return None;
        }
        seconds.checked_mul(self.per_second())?.checked_add(nanos / step)
    }
}

/// `2026-11-21T10:00:00.5+01:00` as seconds since 1970 and nanoseconds. `local`: the text carries no offset, and is taken as it stands.
pub fn moment(text: &str, local: bool) -> Option<(i64, i64)> {
    let (day, time) = text.split_at_checked(10)?;
    let rest = time.strip_prefix(['T', 't', ' '])?;
    let (seconds, nanos, rest) = clock(rest)?;
    let offset = match (local, rest) {
        (true, "") | (false, "Z" | "z") => 0,
        (false, _) => {
            let sign = match rest.as_bytes().first()? {
                b'+' => 1,
                b'-' => -1,
                _ => return None,
            };
            let [h1, h2, b':', m1, m2] = *rest.as_bytes().get(1..)? else { return None };
            let (hours, minutes) = (two(h1, h2)?, two(m1, m2)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            sign * (hours * 3600 + minutes * 60)
        }
        _ => return None,
    };
    Some((date(day)? * 86_400 + seconds - offset, nanos))
}

/// `2026-11-21` as days since 1970.
pub fn date(text: &str) -> Option<i64> {
    let [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2] = *text.as_bytes() else { return None };
    let (year, month, day) = (two(y1, y2)? * 100 + two(y3, y4)?, two(m1, m2)?, two(d1, d2)?);
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 => 28 + i64::from(is_leap),
        _ => return None,
    };
    if !(1..=length).contains(&day) {
        return None;
    }
    // Years begin in March, so that the leap day is the last: 400 of them are 146,097 days.
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    Some(era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468)
}

/// `10:00:00.5` as seconds since midnight and nanoseconds.
pub fn time_of_day(text: &str) -> Option<(i64, i64)> {
    let (seconds, nanos, rest) = clock(text)?;
    rest.is_empty().then_some((seconds, nanos))
}

/// A time of day, and what stands behind it.
fn clock(text: &str) -> Option<(i64, i64, &str)> {
    let (hms, mut rest) = text.split_at_checked(8)?;
    let [h1, h2, b':', m1, m2, b':', s1, s2] = *hms.as_bytes() else { return None };
    let (hours, minutes, seconds) = (two(h1, h2)?, two(m1, m2)?, two(s1, s2)?);
    if hours > 23 || minutes > 59 || seconds > 59 {
        return None;
    }
    let mut nanos = 0;
    if let Some(fraction) = rest.strip_prefix('.') {
        let len = fraction.bytes().take_while(u8::is_ascii_digit).count();
        if len == 0 || len > 9 {
            return None;
        }
        nanos = fraction[..len].parse::<i64>().ok()? * 10_i64.pow(9 - len as u32);
        rest = &fraction[len..];
    }
    Some((hours * 3600 + minutes * 60 + seconds, nanos, rest))
}

fn two(tens: u8, ones: u8) -> Option<i64> {
    (tens.is_ascii_digit() && ones.is_ascii_digit()).then(|| i64::from(tens - b'0') * 10 + i64::from(ones - b'0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_with_their_offset() {
        assert_eq!(moment("1970-01-01T00:00:00Z", false), Some((0, 0)));
        assert_eq!(moment("2026-11-21T10:00:00.5+01:00", false), Some((1_795_251_600, 500_000_000)));
        assert_eq!(moment("2026-11-21 09:00:00z", false), Some((1_795_251_600, 0)));
        assert_eq!(moment("1969-12-31T23:59:59.999999999Z", false), Some((-1, 999_999_999)));
        assert_eq!(moment("2026-11-21T09:00:00", true), Some((1_795_251_600, 0)));
        for wrong in ["2026-11-21", "2026-11-21T09:00:00", "2026-02-29T00:00:00Z", "2026-11-21T24:00:00Z", "2026-11-21T09:00:00.Z", "", "é"]
        {
            assert_eq!(moment(wrong, false), None, "{wrong}");
        }
        assert_eq!(moment("2026-11-21T09:00:00Z", true), None);
    }

    #[test]
    fn days_count_from_1970() {
        assert_eq!(date("1970-01-01"), Some(0));
        assert_eq!(date("2000-02-29"), Some(11_016));
        assert_eq!(date("1900-03-01"), Some(-25_508));
        assert_eq!(date("9999-12-31"), Some(2_932_896));
        assert_eq!(date("1900-02-29"), None);
    }

    #[test]
    fn what_is_finer_than_the_unit_is_refused() {
        assert_eq!(Unit::Millis.of(1, 5_000_000), Some(1005));
        assert_eq!(Unit::Millis.of(1, 5_000_001), None);
        assert_eq!(Unit::Nanos.of(i64::MAX, 0), None);
        assert_eq!(time_of_day("23:59:59.25"), Some((86_399, 250_000_000)));
    }
}
