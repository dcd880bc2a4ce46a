//! A row as a JSON object, its values to the last digit.
//!
//! | in the database | in the object |
//! |---|---|
//! | integers, also unsigned of 64 bits; decimals of any length | numbers, all their digits |
//! | NaN, infinity | `"NaN"`, `"Infinity"`, `"-Infinity"` |
//! | text, uuid, enum, money, interval, network addresses | texts |
//! | bytes | base64 |
//! | a time with its zone; without | `"2026-03-29T01:30:00.5Z"`; `"2026-03-29T01:30:00.5"` |
//! | a time that is none, or beyond the years 1 to 9999 | its text; in a document null, and the text stands beside it |
//! | json, arrays, composite types | JSON as it is |
//!
//! Where documents become Avro, JSON and decimals of no fixed scale are texts: Avro has no type for them.

use millrace_schemas::json;
use std::fmt::Write as _;

/// How values are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Style {
    /// The object is a document: a time that is none is null there.
    pub is_document: bool,
    /// And it becomes Avro.
    pub is_avro: bool,
}

/// Writes one row's object. Reused from row to row.
#[derive(Debug, Default)]
pub struct Object {
    pub bytes: Vec<u8>,
    /// The texts of what is null because it does not fit, as a JSON object by their columns; empty: all fits.
    pub unfit: Vec<u8>,
    style: Style,
    names: Vec<Vec<u8>>,
    at: usize,
    text: String,
}

impl Object {
    pub fn new<'n>(names: impl IntoIterator<Item = &'n str>, style: Style) -> Self {
        let quoted = |name: &str| {
            let mut out = vec![b','];
            json::quoted(name, &mut out);
            out.push(b':');
            out
        };
        Self { names: names.into_iter().map(quoted).collect(), style, ..Self::default() }
    }

    pub fn begin(&mut self) {
        self.bytes.clear();
        self.unfit.clear();
        self.bytes.push(b'{');
        self.at = 0;
    }

    /// The next column's name; its value is to be written next.
    pub fn name(&mut self) -> &mut Vec<u8> {
        let name = &self.names[self.at];
        self.bytes.extend_from_slice(if self.at == 0 { &name[1..] } else { name });
        self.at += 1;
        &mut self.bytes
    }

    pub fn end(&mut self) {
        self.bytes.push(b'}');
        if !self.unfit.is_empty() {
            self.unfit.push(b'}');
        }
    }

    /// A value that is none of its type: `infinity`, a year of five digits, a date of zeros.
    pub fn unfit(&mut self, text: &str) {
        if !self.style.is_document {
            return self.text(text);
        }
        self.null();
        let name = &self.names[self.at - 1];
        self.unfit.push(if self.unfit.is_empty() { b'{' } else { b',' });
        self.unfit.extend_from_slice(&name[1..]);
        json::quoted(text, &mut self.unfit);
    }

    pub fn null(&mut self) {
        self.bytes.extend_from_slice(b"null");
    }

    pub fn bool(&mut self, flag: bool) {
        self.bytes.extend_from_slice(if flag { b"true" } else { b"false" });
    }

    pub fn int(&mut self, int: impl Into<i64>) {
        json::integer(int.into(), &mut self.bytes);
    }

    pub fn uint(&mut self, int: u64) {
        json::integer(int, &mut self.bytes);
    }

    pub fn double(&mut self, double: f64) {
        json::double(double, &mut self.bytes);
    }

    pub fn text(&mut self, text: &str) {
        json::quoted(text, &mut self.bytes);
    }

    /// Bytes that should be text: what is not UTF-8 is base64.
    pub fn text_or_bytes(&mut self, bytes: &[u8]) {
        match std::str::from_utf8(bytes) {
            Ok(text) => self.text(text),
            Err(_) => self.binary(bytes),
        }
    }

    pub fn binary(&mut self, bytes: &[u8]) {
        json::base64(bytes, &mut self.bytes);
    }

    /// JSON as it is.
    pub fn raw(&mut self, json: &[u8]) {
        if self.style.is_avro {
            return self.text_or_bytes(json);
        }
        self.bytes.extend_from_slice(json);
    }

    /// A decimal as the database writes it; what is no number of JSON (NaN) is a text. `is_fixed`: its scale is known.
    pub fn decimal(&mut self, text: &str, is_fixed: bool) {
        match text {
            "NaN" | "Infinity" | "-Infinity" if is_fixed && self.style.is_avro => self.unfit(text),
            "NaN" | "Infinity" | "-Infinity" => self.text(text),
            _ if self.style.is_avro && !is_fixed => self.text(text),
            _ => {
                // JSON has no leading dot and no leading zeros; no database here writes them, but `.5` of an old one.
                let (sign, digits) = text.strip_prefix('-').map_or(("", text), |digits| ("-", digits));
                let zero = if digits.starts_with('.') { "0" } else { "" };
                [sign, zero, digits].into_iter().for_each(|part| self.bytes.extend_from_slice(part.as_bytes()));
            }
        }
    }

    /// Microseconds of a day: `13:20:00`, `13:20:00.25`.
    pub fn time_of_day(&mut self, micros: u64) {
        self.bytes.push(b'"');
        push_time(micros, &mut self.bytes);
        self.bytes.push(b'"');
    }

    /// A date by its days after 1970-01-01; false, and nothing written, where its year is not of 1 to 9999.
    pub fn date(&mut self, days: i64) -> bool {
        let date = date_of(days);
        let is_usual = (1..=9999).contains(&date.0);
        if is_usual {
            self.bytes.push(b'"');
            push_date(date, &mut self.bytes);
            self.bytes.push(b'"');
        }
        is_usual
    }

    /// A date and microseconds of its day; false, and nothing written, where its year is not of 1 to 9999.
    pub fn moment(&mut self, days: i64, micros: u64, suffix: &str) -> bool {
        let date = date_of(days);
        let is_usual = (1..=9999).contains(&date.0);
        if is_usual {
            self.bytes.push(b'"');
            push_date(date, &mut self.bytes);
            self.bytes.push(b'T');
            push_time(micros, &mut self.bytes);
            self.bytes.extend_from_slice(suffix.as_bytes());
            self.bytes.push(b'"');
        }
        is_usual
    }

    /// A text made of parts.
    pub fn format(&mut self, arguments: std::fmt::Arguments<'_>, micros: i64, suffix: &str) {
        self.text.clear();
        let _ = self.text.write_fmt(arguments);
        push_fraction(&mut self.text, micros);
        self.text.push_str(suffix);
        json::quoted(&self.text, &mut self.bytes);
    }
}

/// The date so many days after 1970-01-01, for every year that PostgreSQL knows, which are more than jiff does.
///
/// Source: H. Hinnant, chrono-compatible low-level date algorithms, `civil_from_days`.
pub fn date_of(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

fn push_two(number: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(&[b'0' + (number / 10 % 10) as u8, b'0' + (number % 10) as u8]);
}

fn push_date((year, month, day): (i64, i64, i64), out: &mut Vec<u8>) {
    push_two(year.unsigned_abs() / 100, out);
    push_two(year.unsigned_abs() % 100, out);
    for part in [month, day] {
        out.push(b'-');
        push_two(part.unsigned_abs(), out);
    }
}

fn push_time(micros: u64, out: &mut Vec<u8>) {
    let (seconds, mut fraction) = (micros / 1_000_000, micros % 1_000_000);
    push_two(seconds / 3600, out);
    for part in [seconds / 60 % 60, seconds % 60] {
        out.push(b':');
        push_two(part, out);
    }
    if fraction > 0 {
        out.push(b'.');
        while fraction > 0 {
            out.push(b'0' + (fraction / 100_000) as u8);
            fraction = fraction % 100_000 * 10;
        }
    }
}

fn push_fraction(text: &mut String, micros: i64) {
    if micros > 0 {
        let _ = write!(text, ".{micros:06}");
        text.truncate(text.trim_end_matches('0').len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_keep_their_digits() {
        let mut object = Object::new(["a", "b\"", "c", "d", "e", "f", "g"], Style::default());
        object.begin();
        object.name();
        object.uint(u64::MAX);
        object.name();
        object.decimal("-.50", true);
        object.name();
        object.decimal("123456789012345678901234567890.120", false);
        object.name();
        object.double(f64::NAN);
        object.name();
        object.time_of_day(48_000_250_000);
        object.name();
        object.text_or_bytes(&[0xFF, 0]);
        object.name();
        object.format(format_args!("2026-01-0{}", 1), 0, "");
        object.end();
        assert_eq!(
            std::str::from_utf8(&object.bytes).unwrap(),
            r#"{"a":18446744073709551615,"b\"":-0.50,"c":123456789012345678901234567890.120,"d":"NaN","e":"13:20:00.25","f":"/wA=","g":"2026-01-01"}"#
        );
    }

    #[test]
    fn dates_are_right_in_every_year_that_postgresql_knows() {
        for day in (-719_162..2_932_897).step_by(997) {
            let date = jiff::civil::date(1970, 1, 1).checked_add(jiff::Span::new().days(day)).unwrap();
            assert_eq!(date_of(day), (date.year().into(), date.month().into(), date.day().into()));
        }
        // The first day that PostgreSQL knows is 4714-11-24 BC, the Julian day 0; the year before 1 is 0.
        assert_eq!(date_of(-2_440_588), (-4713, 11, 24));
        assert_eq!(date_of(2_932_896), (9999, 12, 31));
        assert_eq!(date_of(2_932_897), (10_000, 1, 1));
    }

    #[test]
    fn in_a_document_what_is_no_time_is_null_with_its_text_beside_it_and_in_avro_json_is_a_text() {
        let style = Style { is_document: true, is_avro: true };
        let mut object = Object::new(["until", "since", "extra", "sum"], style);
        object.begin();
        object.name();
        object.unfit("infinity");
        object.name();
        object.unfit("0000-00-00");
        object.name();
        object.raw(br#"{"a":1}"#);
        object.name();
        object.decimal("1.50", false);
        object.end();
        assert_eq!(std::str::from_utf8(&object.bytes).unwrap(), r#"{"until":null,"since":null,"extra":"{\"a\":1}","sum":"1.50"}"#);
        assert_eq!(std::str::from_utf8(&object.unfit).unwrap(), r#"{"until":"infinity","since":"0000-00-00"}"#);
        object.begin();
        assert_eq!(object.unfit, b"", "of the row before");
    }
}
