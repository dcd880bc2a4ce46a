//! A document's fields, written straight from the scanned text.

use crate::contract::misfit::{Misfit, Written, shown};
use crate::contract::number;
use crate::contract::protobuf::known::{any_list, any_object, any_value, duration, push_tag, push_text, timestamp};
use crate::contract::protobuf::types::{Field, Fields, Form, Message, Scalar, Shape, UNPACKED};
use crate::contract::scalars::{base64_of, floating, integer, misfit_of};
use crate::contract::work::{Work, insert, push_long};
use crate::scan::{Next, Scanner};
use crate::varint;

impl Message {
    pub(in crate::contract) fn write(&self, scanner: &mut Scanner<'_>, out: &mut Vec<u8>, work: &mut Work) -> Written {
        self.message(self.root, scanner, out, work)
    }

    pub(in crate::contract) fn message(&self, at: usize, s: &mut Scanner<'_>, out: &mut Vec<u8>, work: &mut Work) -> Written {
        let of = &self.types[at];
        match of.form {
            Form::Object => self.object(of, s, out, work),
            Form::Wrapper => self.one(&of.fields[0], s, out, work),
            Form::Timestamp => timestamp(s, out),
            Form::Duration => duration(s, out),
            Form::Struct => any_object(s, out),
            Form::Value => any_value(s, out),
            Form::List => any_list(s, out),
        }
    }

    pub(in crate::contract) fn object(&self, of: &Fields, s: &mut Scanner<'_>, out: &mut Vec<u8>, work: &mut Work) -> Written {
        if s.peek()? != Next::Object {
            return Err(Misfit::expected(s, format!("an object: message {}", of.name)));
        }
        s.open()?;
        let mut seen = Seen::default();
        let mut oneofs = Seen::default();
        let mut next = 0;
        let mut first = true;
        while let Some(key) = s.next_key(first)? {
            first = false;
            let index = match of.fields.get(next) {
                Some(field) if key.is(&field.name) => next,
                _ => match of.by_name.get(&*key.cow()) {
                    Some(index) => *index,
                    None => return Err(Misfit::at(s, format!("key {} is not in message {}", shown(&key.cow()), of.name))),
                },
            };
            next = index + 1;
            let field = &of.fields[index];
            if seen.insert(index) {
                return Err(Misfit::at(s, format!("key {} is there twice", field.name)));
            }
            let takes_null = matches!(field.of, Scalar::Message(at) if self.types[at].form == Form::Value) && field.shape == Shape::One;
            if s.peek()? == Next::Null && !takes_null {
                s.null()?;
                continue;
            }
            if let Some(oneof) = field.oneof
                && oneofs.insert(oneof)
            {
                return Err(Misfit::at(s, format!("key {} and another of the same oneof", field.name)));
            }
            self.field(field, s, out, work).map_err(|misfit| misfit.in_key(&field.name))?;
        }
        match of.required.iter().find(|index| !seen.contains(**index)) {
            Some(index) => Err(Misfit::at(s, format!("{} is missing, and is required", of.fields[*index].name))),
            None => Ok(()),
        }
    }

    pub(in crate::contract) fn field(&self, field: &Field, s: &mut Scanner<'_>, out: &mut Vec<u8>, work: &mut Work) -> Written {
        match field.shape {
            Shape::One => self.one(field, s, out, work),
            Shape::List { packed } => {
                if s.peek()? != Next::Array {
                    return Err(Misfit::expected(s, "an array"));
                }
                s.open()?;
                let start = out.len();
                let mut count = 0;
                while s.next_item(count == 0)? {
                    if !packed {
                        push_tag(out, field.number, field.of.wire());
                    }
                    self.scalar(&field.of, s, out, work).map_err(|misfit| misfit.in_item(count))?;
                    count += 1;
                }
                if packed && count > 0 {
                    let len = out.len() - start;
                    insert(out, start, |out| {
                        push_tag(out, field.number, UNPACKED);
                        varint::push(out, len as u64);
                    });
                }
                Ok(())
            }
            Shape::Map => {
                let Scalar::Message(entry) = &field.of else { return Err(Misfit::at(s, "the schema is not complete")) };
                let [key_field, value_field] = &self.types[*entry].fields[..] else {
                    return Err(Misfit::at(s, "the schema is not complete"));
                };
                if s.peek()? != Next::Object {
                    return Err(Misfit::expected(s, "an object"));
                }
                s.open()?;
                let mut first = true;
                while let Some(key) = s.next_key(first)? {
                    first = false;
                    let name = key.cow();
                    let start = out.len();
                    // A key is a text; of a boolean it is what stands in the text.
                    let quoted = serde_json::Value::String(name.clone().into_owned()).to_string();
                    let text = if matches!(key_field.of, Scalar::Bool) { &*name } else { &quoted };
                    push_tag(out, 1, key_field.of.wire());
                    let mut inner = Scanner::new(text.as_bytes())?;
                    let key = self.scalar(&key_field.of, &mut inner, out, work).and_then(|()| Ok(inner.end()?));
                    key.map_err(|misfit| misfit.in_key(&name))?;
                    push_tag(out, 2, value_field.of.wire());
                    self.scalar(&value_field.of, s, out, work).map_err(|misfit| misfit.in_key(&name))?;
                    let len = out.len() - start;
                    insert(out, start, |out| {
                        push_tag(out, field.number, UNPACKED);
                        varint::push(out, len as u64);
                    });
                }
                Ok(())
            }
        }
    }

    pub(in crate::contract) fn one(&self, field: &Field, s: &mut Scanner<'_>, out: &mut Vec<u8>, work: &mut Work) -> Written {
        let start = out.len();
        push_tag(out, field.number, field.of.wire());
        let value = out.len();
        self.scalar(&field.of, s, out, work)?;
        // Where a zero says nothing it is not written: every scalar's zero is all zero bytes, an empty text is its length.
        if !field.presence && out[value..].iter().all(|b| *b == 0) {
            out.truncate(start);
        }
        Ok(())
    }

    /// Only what nests is decided here: the frames of a deep document stay small.
    pub(in crate::contract) fn scalar(&self, of: &Scalar, s: &mut Scanner<'_>, out: &mut Vec<u8>, work: &mut Work) -> Written {
        let Scalar::Message(at) = of else { return self.leaf(of, s, out, work) };
        let start = out.len();
        self.message(*at, s, out, work)?;
        let len = out.len() - start;
        insert(out, start, |out| varint::push(out, len as u64));
        Ok(())
    }

    #[inline(never)]
    pub(in crate::contract) fn leaf(&self, of: &Scalar, s: &mut Scanner<'_>, out: &mut Vec<u8>, work: &mut Work) -> Written {
        match of {
            Scalar::Double => out.extend_from_slice(&floating(s, "a double", number::double, |d| d)?.to_le_bytes()),
            Scalar::Float => out.extend_from_slice(&floating(s, "a float", number::float, |d| d as f32)?.to_le_bytes()),
            // A negative int32 takes ten bytes, as an int64 does.
            Scalar::Int32 => varint::push(out, i64::from(int32(s)?) as u64),
            Scalar::Int64 => varint::push(out, int64(s)? as u64),
            Scalar::Uint32 => varint::push(out, uint32(s)?.into()),
            Scalar::Uint64 => varint::push(out, uint64(s)?),
            Scalar::Sint32 => push_long(out, int32(s)?.into()),
            Scalar::Sint64 => push_long(out, int64(s)?),
            Scalar::Fixed32 => out.extend_from_slice(&uint32(s)?.to_le_bytes()),
            Scalar::Fixed64 => out.extend_from_slice(&uint64(s)?.to_le_bytes()),
            Scalar::Sfixed32 => out.extend_from_slice(&int32(s)?.to_le_bytes()),
            Scalar::Sfixed64 => out.extend_from_slice(&int64(s)?.to_le_bytes()),
            Scalar::Bool => {
                if s.peek()? != Next::Bool {
                    return Err(Misfit::expected(s, "a boolean"));
                }
                out.push(s.bool()?.into());
            }
            Scalar::Text => {
                if s.peek()? != Next::Text {
                    return Err(Misfit::expected(s, "a string"));
                }
                push_text(out, &s.text()?.cow());
            }
            Scalar::Bytes => {
                let bytes = base64_of(s, work, "bytes")?;
                varint::push(out, bytes.len() as u64);
                out.extend_from_slice(bytes);
            }
            Scalar::Enum { name, values, is_closed } => {
                let before = *s;
                let number = match s.peek()? {
                    Next::Text => values.get(&*s.text()?.cow()).copied(),
                    Next::Number => {
                        i32::try_from(integer(s, "a value of an enum")?).ok().filter(|n| !is_closed || values.values().any(|v| v == n))
                    }
                    _ => None,
                };
                let number = number.ok_or_else(|| Misfit::expected(&before, format!("a value of {name}")))?;
                varint::push(out, i64::from(number) as u64);
            }
            Scalar::Message(_) => return Err(Misfit::at(s, "the schema is not complete")),
        }
        Ok(())
    }
}

/// Which of the fields were there. Most messages have few.
#[derive(Default)]
struct Seen {
    low: u128,
    high: Vec<usize>,
}

impl Seen {
    /// True: it was there before.
    fn insert(&mut self, index: usize) -> bool {
        let was = self.contains(index);
        if index < 128 {
            self.low |= 1 << index;
        } else if !was {
            self.high.push(index);
        }
        was
    }

    fn contains(&self, index: usize) -> bool {
        if index < 128 { self.low >> index & 1 == 1 } else { self.high.contains(&index) }
    }
}

/// An integer, as a number or in a text.
fn exact<T>(s: &mut Scanner<'_>, wanted: &str, read: impl FnOnce(&str) -> Result<T, number::Inexact>) -> Result<T, Box<Misfit>> {
    let before = *s;
    let read = match s.peek()? {
        Next::Number => read(s.number()?.text),
        Next::Text => read(&s.text()?.cow()),
        _ => Err(number::Inexact::NoNumber),
    };
    read.map_err(|why| misfit_of(&before, why, wanted))
}

fn int64(s: &mut Scanner<'_>) -> Result<i64, Box<Misfit>> {
    exact(s, "an int64", number::long)
}

fn int32(s: &mut Scanner<'_>) -> Result<i32, Box<Misfit>> {
    exact(s, "an int32", |text| i32::try_from(number::long(text)?).map_err(|_| number::Inexact::Larger))
}

fn uint64(s: &mut Scanner<'_>) -> Result<u64, Box<Misfit>> {
    exact(s, "a uint64", number::unsigned)
}

fn uint32(s: &mut Scanner<'_>) -> Result<u32, Box<Misfit>> {
    exact(s, "a uint32", |text| u32::try_from(number::unsigned(text)?).map_err(|_| number::Inexact::Larger))
}
