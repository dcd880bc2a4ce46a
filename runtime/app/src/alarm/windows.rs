//! Maintenance: when nobody is to be told of anything.

use jiff::civil::{DateTime, Time, Weekday};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan, Zoned};
use millrace_config::Problems;
use millrace_config::factory::Maintenance;

/// One window.
#[derive(Clone, Debug, PartialEq)]
pub enum Window {
    Once(Timestamp, Timestamp),
    /// Each of these days from one time to another, of the next day where that is earlier.
    Daily(Time, Time, Vec<Weekday>),
}

impl Window {
    /// Each problem is added at its place.
    pub fn compile(one: &Maintenance, problems: &mut Problems) -> Option<Self> {
        let moment = |text: &str| text.parse::<Timestamp>().ok();
        let time = |text: &str| Time::strptime("%H:%M", text).ok();
        let (from, until) = (one.from.as_str(), one.until.as_str());
        match (moment(from), moment(until), time(from), time(until)) {
            (Some(begin), Some(end), ..) if begin < end && one.days.is_empty() => Some(Self::Once(begin, end)),
            (Some(begin), Some(end), ..) => {
                let why = if begin < end { "`days` goes with times of day only" } else { "the window ends before it begins" };
                problems.error(one.until.place, why);
                None
            }
            (_, _, Some(from), Some(until)) => {
                let days: Vec<Option<Weekday>> = one.days.iter().map(|day| weekday(day)).collect();
                for (day, known) in one.days.iter().zip(&days) {
                    if known.is_none() {
                        problems.error(day.place, format!("`{}` is no day", day.value)).help("write mon, tue, wed, thu, fri, sat or sun");
                    }
                }
                Some(Self::Daily(from, until, days.into_iter().flatten().collect()))
            }
            _ => {
                problems
                    .error(one.from.place, format!("`{from}` and `{until}` are neither two moments nor two times of day"))
                    .help("write `2026-12-24T18:00:00+01:00`, or `22:00`, in both");
                None
            }
        }
    }

    pub fn holds(&self, now: &Zoned) -> bool {
        match self {
            Self::Once(from, until) => (*from..*until).contains(&now.timestamp()),
            Self::Daily(from, until, days) => [0, 1].into_iter().any(|ago: i64| {
                let Ok(day) = now.date().checked_sub(ago.days()) else { return false };
                let begin = day.to_datetime(*from);
                let end = if until > from { Ok(day) } else { day.tomorrow() }.map(|day| day.to_datetime(*until));
                let is_meant = days.is_empty() || days.contains(&day.weekday());
                is_meant && end.is_ok_and(|end: DateTime| (begin..end).contains(&now.datetime()))
            }),
        }
    }
}

fn weekday(name: &str) -> Option<Weekday> {
    let known = [
        ("mon", Weekday::Monday),
        ("tue", Weekday::Tuesday),
        ("wed", Weekday::Wednesday),
        ("thu", Weekday::Thursday),
        ("fri", Weekday::Friday),
        ("sat", Weekday::Saturday),
        ("sun", Weekday::Sunday),
    ];
    known.into_iter().find(|(known, _)| *known == name).map(|(_, day)| day)
}

/// This machine's time.
pub fn now() -> Zoned {
    Zoned::now().with_time_zone(TimeZone::system())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(from: &str, until: &str, days: &[&str]) -> Option<Window> {
        let one = Maintenance {
            from: from.to_owned().into(),
            until: until.to_owned().into(),
            days: days.iter().map(|day| (*day).to_owned().into()).collect(),
        };
        let mut problems = Problems::new();
        let window = Window::compile(&one, &mut problems);
        window.filter(|_| !problems.has_errors())
    }

    fn at(text: &str) -> Zoned {
        text.parse().expect("a time")
    }

    #[test]
    fn a_night_reaches_into_the_next_day_and_a_weekend_is_two_days() {
        let night = window("22:00", "06:00", &["fri"]).expect("a window");
        // 2026-11-27 is a Friday.
        assert!(night.holds(&at("2026-11-27T23:00[Europe/Berlin]")) && night.holds(&at("2026-11-28T05:59[Europe/Berlin]")));
        assert!(!night.holds(&at("2026-11-28T06:00[Europe/Berlin]")) && !night.holds(&at("2026-11-28T23:00[Europe/Berlin]")));
        assert!(!night.holds(&at("2026-11-27T05:00[Europe/Berlin]")), "the night of Thursday");
        let once = window("2026-12-24T18:00:00+01:00", "2026-12-25T06:00:00+01:00", &[]).expect("a window");
        assert!(once.holds(&at("2026-12-24T17:30[UTC]")) && !once.holds(&at("2026-12-25T05:30[UTC]")));
    }

    #[test]
    fn what_is_no_window_is_refused() {
        for (from, until, days) in
            [("22:00", "x", &[][..]), ("2026-12-24T18:00:00Z", "2026-12-24T17:00:00Z", &[]), ("22:00", "06:00", &["Freitag"])]
        {
            assert_eq!(window(from, until, days), None, "{from} {until}");
        }
    }
}
