//! A sample as a line of the line protocol. No I/O.
//!
//! ```text
//! telemetry,tag=acme/detroit/press-1/force value_double=212.5,status=0i,quality="good" 1763726880000000000
//! telemetry,tag=acme/detroit/press-1/force,nth=2 ...     a second, other sample of the tag at the same time
//! ```
//!
//! | in the sample | field |
//! |---|---|
//! | double | `value_double=1.5`; NaN and infinite: there is none, the sample is refused |
//! | long | `value_long=42i`; above 2^63 - 1 `value_ulong=18446744073709551615u`, which QuestDB has not: refused |
//! | boolean, text | `value_bool=t`, `value_text="red"` |
//! | bytes, array, structure | `value_json="[1,2]"`: as it stands in a sample in JSON |
//! | null | no value; status and quality say why |
//!
//! Sources: docs.influxdata.com, "Line protocol"; questdb.com, "ILP". The two differ in what a backslash means in a tag, and QuestDB wants one in front of a
//! line break.

use millrace_config::Reason;
use millrace_schemas::{Row, Span, Value, json};
use std::io::Write;

/// How a server reads what both write the same way, nearly.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dialect {
    Influx,
    Quest,
}

/// Appends the value, the status and the quality of a sample.
///
/// Errors: why no field can hold its value.
pub fn fields(row: &Row, heap: &[u8], dialect: Dialect, out: &mut Vec<u8>) -> Result<(), Reason> {
    match row.value {
        Value::Null => {}
        Value::Double(value) if value.is_finite() => {
            out.extend_from_slice(b"value_double=");
            json::double(value, out);
            out.push(b',');
        }
        Value::Double(value) => return Err(format!("its value is {value}, which the line protocol has no number for").into()),
        Value::Int(value) => put(out, format_args!("value_long={value}i,")),
        Value::UInt(value) if i64::try_from(value).is_ok() => put(out, format_args!("value_long={value}i,")),
        Value::UInt(value) if dialect == Dialect::Quest => {
            return Err(format!("its value is {value}, which is above 2^63 - 1, and QuestDB has no unsigned numbers").into());
        }
        Value::UInt(value) => put(out, format_args!("value_ulong={value}u,")),
        Value::Bool(value) => put(out, format_args!("value_bool={},", if value { 't' } else { 'f' })),
        Value::Text(span) => quoted("value_text", text(span, heap, "value")?, dialect, out),
        Value::Struct(span) => quoted("value_json", text(span, heap, "value")?, dialect, out),
        Value::Bytes(_) | Value::Array(..) => {
            let mut shown = Vec::new();
            json::encode_value(row.value, heap, &mut shown).ok_or("its value is not whole")?;
            quoted("value_json", std::str::from_utf8(&shown).map_err(|_| "its value is not UTF-8")?, dialect, out);
        }
    }
    put(out, format_args!("status={}i,quality=\"{}\"", row.status.0, row.status.quality().as_str()));
    Ok(())
}

/// Appends a line with its end. `nth`: of the samples of the tag at this time, from 1.
///
/// Errors: why no line can hold it.
pub fn line(measurement: &str, tag: &str, nth: u32, fields: &[u8], micros: i64, dialect: Dialect, out: &mut Vec<u8>) -> Result<(), Reason> {
    let Some(nanos) = micros.checked_mul(1000) else {
        return Err(format!("its time is {micros} microseconds since 1970, which is not between the years 1677 and 2262").into());
    };
    let start = out.len();
    put(out, format_args!("{measurement},tag="));
    if let Err(reason) = tag_value(tag, dialect, out) {
        out.truncate(start);
        return Err(reason);
    }
    if nth > 1 {
        put(out, format_args!(",nth={nth}"));
    }
    out.push(b' ');
    out.extend_from_slice(fields);
    put(out, format_args!(" {nanos}\n"));
    Ok(())
}

/// A text of the batch.
///
/// Errors: it is outside the heap, or not UTF-8.
pub fn text<'h>(span: Span, heap: &'h [u8], what: &str) -> Result<&'h str, Reason> {
    std::str::from_utf8(span.get(heap).unwrap_or_default()).map_err(|_| format!("its {what} is not UTF-8").into())
}

fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("memory takes everything");
}

/// The value of a tag: what would end it stands behind a backslash.
fn tag_value(tag: &str, dialect: Dialect, out: &mut Vec<u8>) -> Result<(), Reason> {
    if tag.is_empty() {
        return Err("its tag is empty".into());
    }
    let mut rest = tag.bytes().peekable();
    while let Some(byte) = rest.next() {
        match byte {
            0..=0x1f | 0x7f => {
                return Err(format!("its tag {tag:?} has a control character in it, which the line protocol can't hold").into());
            }
            b',' | b'=' | b' ' => out.push(b'\\'),
            b'\\' if dialect == Dialect::Quest => out.push(b'\\'),
            // InfluxDB has no way to write a backslash before these: it would belong to what follows.
            b'\\' if matches!(rest.peek(), None | Some(b',' | b'=' | b' ' | b'\\')) => {
                return Err(format!("its tag {tag:?} has a backslash where InfluxDB takes it for an escape").into());
            }
            _ => {}
        }
        out.push(byte);
    }
    Ok(())
}

fn quoted(name: &str, text: &str, dialect: Dialect, out: &mut Vec<u8>) {
    put(out, format_args!("{name}=\""));
    for byte in text.bytes() {
        if matches!(byte, b'"' | b'\\') || (byte == b'\n' && dialect == Dialect::Quest) {
            out.push(b'\\');
        }
        out.push(byte);
    }
    out.extend_from_slice(b"\",");
}

/// InfluxData's own parser, which InfluxDB 3 reads requests with, is the judge.
#[cfg(test)]
mod tests {
    use super::*;
    use influxdb_line_protocol::{FieldValue, parse_lines};
    use millrace_schemas::{Batch, Flags, Kind, Micros, StatusCode, TagId};
    use proptest::prelude::*;

    fn row(value: Value) -> Row {
        let (time, status) = (Micros(1), StatusCode::GOOD);
        Row { time, server_time: Micros::NONE, value, tag: TagId(0), status, flags: Flags::default() }
    }

    fn written(value: Value, heap: &[u8], tag: &str, nth: u32, micros: i64) -> Result<String, Reason> {
        let (mut said, mut out) = (Vec::new(), Vec::new());
        fields(&row(value), heap, Dialect::Influx, &mut said)?;
        line("plant\\ a", tag, nth, &said, micros, Dialect::Influx, &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    /// The one line of a text, by its parser: tag, nth, fields, time.
    fn read(text: &str) -> (String, Option<String>, Vec<(String, FieldValue<'_>)>, i64) {
        let lines: Vec<_> = parse_lines(text).map(Result::unwrap).collect();
        let [line] = &lines[..] else { panic!("{} lines in {text:?}", lines.len()) };
        assert_eq!(line.series.measurement, "plant a");
        let of = |name: &str| line.series.tag_set.iter().flatten().find(|(key, _)| *key == name).map(|(_, value)| value.to_string());
        let fields = line.field_set.iter().map(|(name, value)| (name.to_string(), value.clone())).collect();
        (of("tag").unwrap(), of("nth"), fields, line.timestamp.unwrap())
    }

    #[test]
    fn every_value_comes_back_as_it_was() {
        let mut batch = Batch::new();
        let odd = "a \"b\" \\c\\\" \\, =\n\tü\u{0}\\";
        let cases = [
            (Value::Double(-1.5e300), "value_double", FieldValue::F64(-1.5e300)),
            (Value::Double(5e-324), "value_double", FieldValue::F64(5e-324)),
            (Value::Double(3.0), "value_double", FieldValue::F64(3.0)),
            (Value::Int(i64::MIN), "value_long", FieldValue::I64(i64::MIN)),
            (Value::UInt(7), "value_long", FieldValue::I64(7)),
            (Value::UInt(u64::MAX), "value_ulong", FieldValue::U64(u64::MAX)),
            (Value::Bool(true), "value_bool", FieldValue::Boolean(true)),
            (Value::Bool(false), "value_bool", FieldValue::Boolean(false)),
            (batch.text(odd), "value_text", FieldValue::String(odd.into())),
            (batch.text(""), "value_text", FieldValue::String("".into())),
            (Value::Struct(batch.push_bytes(b"{\"a\":\"\\n\"}")), "value_json", FieldValue::String("{\"a\":\"\\n\"}".into())),
            (Value::Bytes(batch.push_bytes(b"\x00\xff")), "value_json", FieldValue::String("{\"bytes\":\"AP8=\"}".into())),
        ];
        for (value, name, expected) in cases {
            let text = written(value, &batch.heap, "a/b", 1, -1).unwrap();
            let (tag, nth, fields, time) = read(&text);
            assert_eq!((tag.as_str(), nth, time), ("a/b", None, -1000));
            let names: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!(names, [name, "status", "quality"]);
            assert_eq!(fields[0].1, expected, "{text}");
        }
        let null = written(Value::Null, &[], "a/b", 3, i64::MAX / 1000).unwrap();
        let (_, nth, fields, time) = read(&null);
        assert_eq!((nth.as_deref(), fields.len(), time), (Some("3"), 2, i64::MAX / 1000 * 1000));
        assert_eq!(fields[0].1, FieldValue::I64(0));
        assert_eq!(fields[1].1, FieldValue::String("good".into()));
    }

    #[test]
    fn what_no_line_holds_is_refused_with_the_value() {
        for (value, said) in [(f64::NAN, "NaN"), (f64::INFINITY, "inf"), (f64::NEG_INFINITY, "-inf")] {
            let reason = written(Value::Double(value), &[], "a", 1, 0).unwrap_err();
            assert!(reason.contains(said), "{reason}");
        }
        for (tag, said) in [("a\nb", "control character"), ("a\\", "backslash"), ("a\\,b", "backslash"), ("", "is empty")] {
            let reason = written(Value::Null, &[], tag, 1, 0).unwrap_err();
            assert!(reason.contains(said), "{reason}");
        }
        let reason = written(Value::Null, &[], "a", 1, i64::MAX / 1000 + 1).unwrap_err();
        assert!(reason.contains("1677 and 2262"), "{reason}");
        let broken = written(Value::Array(Kind::Int, Span { start: 9, len: 9 }), &[], "a", 1, 0).unwrap_err();
        assert!(broken.contains("not whole"), "{broken}");
        let mut out = Vec::new();
        let reason = fields(&row(Value::UInt(u64::MAX)), &[], Dialect::Quest, &mut out).unwrap_err();
        assert!(reason.contains("18446744073709551615"), "{reason}");
    }

    #[test]
    fn questdb_has_a_backslash_before_each_of_its_own_and_before_a_line_break() {
        let mut batch = Batch::new();
        let value = batch.text("a\\\n\"");
        let (mut said, mut out) = (Vec::new(), Vec::new());
        fields(&row(value), &batch.heap, Dialect::Quest, &mut said).unwrap();
        line("t", "c:\\x, y", 1, &said, 1, Dialect::Quest, &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "t,tag=c:\\\\x\\,\\ y value_text=\"a\\\\\\\n\\\"\",status=0i,quality=\"good\" 1000\n");
    }

    proptest! {
        #[test]
        fn any_tag_and_text_that_is_written_comes_back(tag in "[ -~ü]{1,12}", text in any::<String>(), micros in -1_i64 << 53..1_i64 << 53) {
            let mut batch = Batch::new();
            let value = batch.text(&text);
            if let Ok(line) = written(value, &batch.heap, &tag, 1, micros) {
                let (read_tag, _, fields, time) = read(&line);
                prop_assert_eq!(read_tag, tag);
                prop_assert_eq!(&fields[0].1, &FieldValue::String(text.as_str().into()));
                prop_assert_eq!(time, micros * 1000);
            } else {
                prop_assert!(tag.contains('\\'));
            }
        }
    }
}
