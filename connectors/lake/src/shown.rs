//! How numbers and times of an answer stand in JSON, wherever they come from.

/// JSON has no NaN and no infinity: a text, as everywhere in Millrace.
pub fn number(value: f64) -> serde_json::Value {
    let name = if value.is_nan() {
        "NaN"
    } else if value > 0.0 {
        "Infinity"
    } else {
        "-Infinity"
    };
    serde_json::Number::from_f64(value).map_or_else(|| name.into(), serde_json::Value::Number)
}

/// Microseconds since 1970, to the microsecond.
pub fn time(micros: i64) -> String {
    jiff::Timestamp::from_microsecond(micros).map_or_else(|_| format!("{micros} us"), |time| format!("{time:.6}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_json_lacks_is_a_text() {
        assert_eq!((number(f64::NAN), number(f64::NEG_INFINITY), number(0.5)), ("NaN".into(), "-Infinity".into(), 0.5.into()));
        assert_eq!((time(1), time(i64::MAX)), ("1970-01-01T00:00:00.000001Z".into(), format!("{} us", i64::MAX)));
    }
}
