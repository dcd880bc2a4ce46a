//! The well-known types that have a form of their own in JSON: Timestamp, Duration, Struct, Value, ListValue.

use crate::contract::misfit::{Misfit, Written};
use crate::contract::number::{self, Unscaled};
use crate::contract::protobuf::types::UNPACKED;
use crate::contract::scalars::floating;
use crate::contract::time::{self, Unit};
use crate::contract::work::insert;
use crate::scan::{Next, Scanner};
use crate::varint;

pub(in crate::contract) fn push_tag(out: &mut Vec<u8>, number: u32, wire: u32) {
    varint::push(out, u64::from(number << 3 | wire));
}

pub(in crate::contract) fn push_text(out: &mut Vec<u8>, text: &str) {
    varint::push(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

/// A length-delimited field whose content `write` appends.
fn delimited(out: &mut Vec<u8>, number: u32, write: impl FnOnce(&mut Vec<u8>) -> Written) -> Written {
    push_tag(out, number, UNPACKED);
    let start = out.len();
    write(out)?;
    let len = out.len() - start;
    insert(out, start, |out| varint::push(out, len as u64));
    Ok(())
}

/// Seconds in field 1, nanoseconds in field 2.
fn seconds_and_nanos(out: &mut Vec<u8>, seconds: i64, nanos: i64) {
    for (number, value) in [(1, seconds), (2, nanos)] {
        if value != 0 {
            push_tag(out, number, 0);
            varint::push(out, value as u64);
        }
    }
}

pub(in crate::contract) fn timestamp(s: &mut Scanner<'_>, out: &mut Vec<u8>) -> Written {
    let before = *s;
    let moment = if s.peek()? == Next::Text { time::moment(&s.text()?.cow(), false) } else { None };
    let (seconds, nanos) = moment.ok_or_else(|| Misfit::expected(&before, "a time as 2026-11-21T10:00:00Z"))?;
    seconds_and_nanos(out, seconds, nanos);
    Ok(())
}

pub(in crate::contract) fn duration(s: &mut Scanner<'_>, out: &mut Vec<u8>) -> Written {
    let before = *s;
    let wanted = || Misfit::expected(&before, "a duration as 1.5s");
    if s.peek()? != Next::Text {
        return Err(wanted());
    }
    let text = s.text()?.cow();
    let number = text.strip_suffix('s').ok_or_else(wanted)?;
    let nanos = Unscaled::read(number, 9, 21).ok().and_then(|n| n.long()).ok_or_else(wanted)?;
    let per_second = Unit::Nanos.of(1, 0).unwrap_or(1);
    seconds_and_nanos(out, nanos / per_second, nanos % per_second);
    Ok(())
}

/// The fields of a Struct: entries of a map.
pub(in crate::contract) fn any_object(s: &mut Scanner<'_>, out: &mut Vec<u8>) -> Written {
    if s.peek()? != Next::Object {
        return Err(Misfit::expected(s, "an object"));
    }
    s.open()?;
    let mut first = true;
    while let Some(key) = s.next_key(first)? {
        first = false;
        let name = key.cow();
        delimited(out, 1, |out| {
            push_tag(out, 1, UNPACKED);
            push_text(out, &name);
            delimited(out, 2, |out| any_value(s, out))
        })
        .map_err(|misfit| misfit.in_key(&name))?;
    }
    Ok(())
}

/// The values of a ListValue.
pub(in crate::contract) fn any_list(s: &mut Scanner<'_>, out: &mut Vec<u8>) -> Written {
    if s.peek()? != Next::Array {
        return Err(Misfit::expected(s, "an array"));
    }
    s.open()?;
    let mut count = 0;
    while s.next_item(count == 0)? {
        delimited(out, 1, |out| any_value(s, out)).map_err(|misfit| misfit.in_item(count))?;
        count += 1;
    }
    Ok(())
}

/// The one field of a Value that says its kind.
pub(in crate::contract) fn any_value(s: &mut Scanner<'_>, out: &mut Vec<u8>) -> Written {
    match s.peek()? {
        Next::Null => {
            s.null()?;
            push_tag(out, 1, 0);
            out.push(0);
            Ok(())
        }
        Next::Number => {
            push_tag(out, 2, 1);
            out.extend_from_slice(&floating(s, "a double", number::double, |d| d)?.to_le_bytes());
            Ok(())
        }
        Next::Text => {
            let text = s.text()?;
            push_tag(out, 3, UNPACKED);
            push_text(out, &text.cow());
            Ok(())
        }
        Next::Bool => {
            push_tag(out, 4, 0);
            out.push(s.bool()?.into());
            Ok(())
        }
        Next::Object => delimited(out, 5, |out| any_object(s, out)),
        Next::Array => delimited(out, 6, |out| any_list(s, out)),
    }
}
