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
use std::io::Write as _;

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

    pub fn int(&mut self, int: impl std::fmt::Display) {
        // Writing to memory can't fail.
        let _ = write!(self.bytes, "{int}");
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
                let _ = write!(self.bytes, "{sign}{zero}{digits}");
            }
        }
    }

    /// Seconds and microseconds of a day: `13:20:00`, `13:20:00.25`.
    pub fn time_of_day(&mut self, micros: i64) {
        self.text.clear();
        let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
        let _ = write!(self.text, "{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
        push_fraction(&mut self.text, fraction);
        json::quoted(&self.text, &mut self.bytes);
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
        object.int(u64::MAX);
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
