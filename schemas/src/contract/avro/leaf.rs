//! Scalars: what nests no further.

use crate::contract::avro::types::{Avro, Type};
use crate::contract::misfit::{Misfit, Written};
use crate::contract::number::{self, Inexact, Unscaled};
use crate::contract::scalars::{base64_of, floating, integer};
use crate::contract::time;
use crate::contract::work::{Work, insert, push_long};
use crate::scan::{Next, Scanner};
use std::collections::HashMap;

impl Avro {
    #[inline(never)]
    pub(in crate::contract) fn leaf(&self, of: &Type, s: &mut Scanner<'_>, out: &mut Vec<u8>, work: &mut Work) -> Written {
        match of {
            Type::Null => self.scalar(s, Next::Null, "null", |s| s.null()),
            Type::Boolean => self.scalar(s, Next::Bool, "a boolean", |s| {
                out.push(s.bool()?.into());
                Ok(())
            }),
            Type::Int => {
                let before = *s;
                let value = integer(s, "an int")?;
                let value = i32::try_from(value).map_err(|_| Misfit::expected(&before, "an int of 32 bits"))?;
                push_long(out, value.into());
                Ok(())
            }
            Type::Long => {
                push_long(out, integer(s, "a long")?);
                Ok(())
            }
            Type::Float => {
                out.extend_from_slice(&floating(s, "a float", number::float, |d| d as f32)?.to_le_bytes());
                Ok(())
            }
            Type::Double => {
                out.extend_from_slice(&floating(s, "a double", number::double, |d| d)?.to_le_bytes());
                Ok(())
            }
            Type::Bytes => {
                let bytes = base64_of(s, work, "bytes")?;
                push_long(out, bytes.len() as i64);
                out.extend_from_slice(bytes);
                Ok(())
            }
            Type::Fixed { size, name } => {
                let before = *s;
                let bytes = base64_of(s, work, "bytes")?;
                if bytes.len() != *size {
                    return Err(Misfit::expected(&before, format!("the {size} bytes of {name} in base64")));
                }
                out.extend_from_slice(bytes);
                Ok(())
            }
            Type::Text => text(s, out, "a string"),
            Type::Enum { symbols, name, .. } => {
                let before = *s;
                let symbol = if s.peek()? == Next::Text { symbols.get(&*s.text()?.cow()) } else { None };
                let symbol = symbol.ok_or_else(|| Misfit::expected(&before, format!("a symbol of {name}: {}", listed(symbols))))?;
                push_long(out, *symbol);
                Ok(())
            }
            Type::Decimal { precision, scale, size } => decimal(s, out, *precision, *scale, *size),
            Type::Uuid { is_fixed } => uuid(s, out, *is_fixed),
            Type::Date => {
                let before = *s;
                let days = match s.peek()? {
                    Next::Text => time::date(&s.text()?.cow()),
                    Next::Number => Some(integer(s, "a date")?),
                    _ => None,
                };
                let days = days.and_then(|days| i32::try_from(days).ok());
                push_long(out, days.ok_or_else(|| Misfit::expected(&before, "a date as 2026-11-21, or days since 1970"))?.into());
                Ok(())
            }
            Type::Time(unit) => {
                let before = *s;
                let count = match s.peek()? {
                    Next::Text => time::time_of_day(&s.text()?.cow()).and_then(|(seconds, nanos)| unit.of(seconds, nanos)),
                    Next::Number => Some(integer(s, "a time of day")?),
                    _ => None,
                };
                let count = count.filter(|count| unit.of(86_400, 0).is_some_and(|day| (0..day).contains(count)));
                let wanted = || Misfit::expected(&before, format!("a time of day as 10:00:00, or {} since midnight", unit.words()));
                push_long(out, count.ok_or_else(wanted)?);
                Ok(())
            }
            Type::Timestamp { unit, local } => {
                let before = *s;
                let count = match s.peek()? {
                    Next::Text => time::moment(&s.text()?.cow(), *local).and_then(|(seconds, nanos)| unit.of(seconds, nanos)),
                    Next::Number => Some(integer(s, "a timestamp")?),
                    _ => None,
                };
                let form = if *local { "2026-11-21T10:00:00" } else { "2026-11-21T10:00:00Z" };
                let wanted =
                    || Misfit::expected(&before, format!("a time as {form} and no finer than {0}, or {0} since 1970", unit.words()));
                push_long(out, count.ok_or_else(wanted)?);
                Ok(())
            }
            _ => Err(Misfit::at(s, "the schema is not complete")),
        }
    }

    pub(in crate::contract) fn scalar(
        &self,
        s: &mut Scanner<'_>,
        wanted: Next,
        words: &str,
        read: impl FnOnce(&mut Scanner<'_>) -> Result<(), crate::scan::ScanError>,
    ) -> Written {
        if s.peek()? != wanted {
            return Err(Misfit::expected(s, words));
        }
        Ok(read(s)?)
    }
}

fn listed(symbols: &HashMap<Box<str>, i64>) -> String {
    let mut symbols: Vec<_> = symbols.iter().collect();
    symbols.sort_by_key(|(_, at)| **at);
    let mut list: Vec<&str> = symbols.iter().take(10).map(|(name, _)| &***name).collect();
    if symbols.len() > 10 {
        list.push("...");
    }
    list.join(", ")
}

fn text(s: &mut Scanner<'_>, out: &mut Vec<u8>, wanted: &str) -> Written {
    if s.peek()? != Next::Text {
        return Err(Misfit::expected(s, wanted));
    }
    let text = s.text()?;
    match text.plain() {
        Some(plain) => {
            push_long(out, plain.len() as i64);
            out.extend_from_slice(plain.as_bytes());
        }
        None => {
            let start = out.len();
            text.push_to(out);
            let len = out.len() - start;
            insert(out, start, |out| push_long(out, len as i64));
        }
    }
    Ok(())
}

fn decimal(s: &mut Scanner<'_>, out: &mut Vec<u8>, precision: u32, scale: u32, size: Option<usize>) -> Written {
    let before = *s;
    let wanted = || format!("a decimal of {precision} digits, {scale} of them behind the point");
    let number = match s.peek()? {
        Next::Number => Unscaled::read(s.number()?.text, scale, precision),
        Next::Text => Unscaled::read(&s.text()?.cow(), scale, precision),
        _ => Err(Inexact::NoNumber),
    };
    let number = number.map_err(|_| Misfit::expected(&before, wanted()))?;
    let bytes = number.bytes();
    match size {
        None => {
            push_long(out, bytes as i64);
            number.push_to(bytes, out);
        }
        Some(size) if bytes <= size => number.push_to(size, out),
        Some(size) => return Err(Misfit::expected(&before, format!("{} in {size} bytes", wanted()))),
    }
    Ok(())
}

fn uuid(s: &mut Scanner<'_>, out: &mut Vec<u8>, is_fixed: bool) -> Written {
    let before = *s;
    let wanted = || Misfit::expected(&before, "a UUID");
    if s.peek()? != Next::Text {
        return Err(wanted());
    }
    let text = s.text()?.cow();
    let is_hyphen = |at: usize| matches!(at, 8 | 13 | 18 | 23);
    let fits = text.len() == 36 && text.bytes().enumerate().all(|(at, b)| if is_hyphen(at) { b == b'-' } else { b.is_ascii_hexdigit() });
    if !fits {
        return Err(wanted());
    }
    if is_fixed {
        let mut digits = text.chars().filter_map(|c| c.to_digit(16));
        while let (Some(high), Some(low)) = (digits.next(), digits.next()) {
            out.push((high << 4 | low) as u8);
        }
    } else {
        push_long(out, 36);
        out.extend_from_slice(text.as_bytes());
    }
    Ok(())
}
