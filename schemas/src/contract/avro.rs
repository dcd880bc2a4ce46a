//! Avro: a JSON document becomes a record, written straight from the scanned text.
//!
//! | in JSON | in Avro |
//! |---|---|
//! | null, true, a string, an array, an object | null, boolean, string, array, record or map |
//! | a number without fraction | int, long; float and double where they hold it exactly |
//! | any number | float, double; decimal where no digit is left over |
//! | `"NaN"`, `"Infinity"`, `"-Infinity"` | float, double |
//! | `"12.50"` | decimal |
//! | base64 | bytes, fixed |
//! | a number, or a text as RFC 3339 has it | date, time-*, timestamp-*, local-timestamp-* |
//! | a symbol, a UUID | enum, uuid |
//!
//! - A field that is left out gets its default, else null where its type has it; else it is missing. A key that the schema does not know is a misfit.
//! - Of a union, the branch is taken that fits the value as it is written (`5` a long, `5.0` a double, a text a string before anything else), in the
//!   order of the schema; of several records, the first that knows all keys and lacks none. `{"branch": value}`, as Avro's own JSON has it, names
//!   the branch.
//!
//! Fields may come in any order: they are written as they come and put in order at the record's end.

mod parse;
mod resolve;
mod show;

use super::number::{self, Inexact, Unscaled};
use super::time::{self, Unit};
use super::{Files, Misfit, Piece, Schema, SchemaError, Work, base64_of, insert, push_long, shown};
use crate::scan::{DEPTH, Next, Number, Scanner, Text};
use std::collections::HashMap;

type Id = usize;

/// A compiled Avro schema: its types, which name each other by number.
#[derive(Debug)]
pub struct Avro {
    types: Vec<Type>,
    root: Id,
}

#[derive(Debug)]
enum Type {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    Text,
    Fixed {
        size: usize,
        name: Box<str>,
    },
    Enum {
        symbols: HashMap<Box<str>, i64>,
        name: Box<str>,
        /// What a reader takes a symbol for that it does not know.
        default: Option<i64>,
    },
    /// `size`: of a fixed.
    Decimal {
        precision: u32,
        scale: u32,
        size: Option<usize>,
    },
    /// As text or, with 16 bytes, as fixed.
    Uuid {
        is_fixed: bool,
    },
    Date,
    Time(Unit),
    Timestamp {
        unit: Unit,
        local: bool,
    },
    Array(Id),
    Map(Id),
    Union(Vec<Id>),
    Record(Record),
    /// Of a type that is being read.
    Unknown,
}

impl Type {
    /// Its name as a branch of a union.
    fn name(&self) -> &str {
        match self {
            Self::Null => "null",
            Self::Boolean => "boolean",
            Self::Int | Self::Date | Self::Time(Unit::Millis) => "int",
            Self::Long | Self::Time(_) | Self::Timestamp { .. } => "long",
            Self::Float => "float",
            Self::Double => "double",
            Self::Bytes | Self::Decimal { size: None, .. } => "bytes",
            Self::Text | Self::Uuid { is_fixed: false } => "string",
            Self::Fixed { name, .. } | Self::Enum { name, .. } => name,
            Self::Decimal { .. } | Self::Uuid { .. } => "fixed",
            Self::Array(_) => "array",
            Self::Map(_) => "map",
            Self::Record(record) => &record.name,
            Self::Union(_) | Self::Unknown => "",
        }
    }
}

#[derive(Debug)]
struct Record {
    name: Box<str>,
    fields: Vec<Field>,
    by_name: HashMap<Box<str>, usize>,
}

impl Record {
    #[inline(never)]
    fn index_of(&self, key: &Text<'_>, s: &Scanner<'_>) -> Result<usize, Box<Misfit>> {
        let name = key.cow();
        let unknown = || Misfit::at(s, format!("key {} is not in record {}", shown(&name), self.name));
        self.by_name.get(&*name).copied().ok_or_else(unknown)
    }
}

#[derive(Debug)]
struct Field {
    name: Box<str>,
    id: Id,
    /// The default as a document has it.
    default: Option<Box<str>>,
    /// Its type has null, and this is where.
    null: Option<Option<usize>>,
}

/// The branch of a union.
enum Choice {
    Branch(usize),
    /// As the key of an object, which is read.
    Named(usize),
    /// A scalar, which is written.
    Written,
}

type Written = Result<(), Box<Misfit>>;

pub(super) fn compile(text: &str, files: &mut Files<'_>) -> Result<(Schema, Avro), SchemaError> {
    let (schema, avro) = parse::parse(text, files)?;
    avro.check_defaults()?;
    Ok((schema, avro))
}

impl Avro {
    pub(super) fn write(&self, scanner: &mut Scanner<'_>, out: &mut Vec<u8>, work: &mut Work) -> Written {
        self.value(self.root, scanner, out, work)
    }

    /// Every default must fit its field.
    fn check_defaults(&self) -> Result<(), SchemaError> {
        let mut work = Work::default();
        for record in self.types.iter().filter_map(|t| if let Type::Record(record) = t { Some(record) } else { None }) {
            for field in record.fields.iter().filter(|f| f.default.is_some()) {
                work.clear();
                self.missing(field, &mut Vec::new(), &mut work).map_err(|misfit| {
                    SchemaError::whole(format!("record {}: the default of field {} does not fit: {misfit}", record.name, field.name))
                })?;
            }
        }
        Ok(())
    }

    /// Only what nests is decided here: the frames of a deep document stay small.
    fn value(&self, id: Id, s: &mut Scanner<'_>, out: &mut Vec<u8>, work: &mut Work) -> Written {
        match &self.types[id] {
            Type::Array(items) => self.array(*items, s, out, work),
            Type::Map(values) => self.map(*values, s, out, work),
            Type::Union(branches) => self.union(branches, s, out, work),
            Type::Record(record) => self.record(record, s, out, work),
            leaf => self.leaf(leaf, s, out, work),
        }
    }

    #[inline(never)]
    fn leaf(&self, of: &Type, s: &mut Scanner<'_>, out: &mut Vec<u8>, work: &mut Work) -> Written {
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

    fn scalar(
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

    fn array(&self, items: Id, s: &mut Scanner<'_>, out: &mut Vec<u8>, work: &mut Work) -> Written {
        if s.peek()? != Next::Array {
            return Err(Misfit::expected(s, "an array"));
        }
        s.open()?;
        let start = out.len();
        let mut count = 0;
        while s.next_item(count == 0)? {
            self.value(items, s, out, work).map_err(|misfit| misfit.in_item(count))?;
            count += 1;
        }
        end_blocks(out, start, count);
        Ok(())
    }

    fn map(&self, values: Id, s: &mut Scanner<'_>, out: &mut Vec<u8>, work: &mut Work) -> Written {
        if s.peek()? != Next::Object {
            return Err(Misfit::expected(s, "an object"));
        }
        s.open()?;
        let start = out.len();
        let mut count = 0;
        while let Some(key) = s.next_key(count == 0)? {
            let name = key.cow();
            push_long(out, name.len() as i64);
            out.extend_from_slice(name.as_bytes());
            self.value(values, s, out, work).map_err(|misfit| misfit.in_key(&name))?;
            count += 1;
        }
        end_blocks(out, start, count);
        Ok(())
    }

    fn record(&self, record: &Record, s: &mut Scanner<'_>, out: &mut Vec<u8>, work: &mut Work) -> Written {
        if s.peek()? != Next::Object {
            return Err(Misfit::expected(s, format!("an object: record {}", record.name)));
        }
        s.open()?;
        let start = out.len();
        let first_piece = work.pieces.len();
        let fields = &record.fields;
        let mut count = 0; // keys read; while they come in order, the next field, too
        let mut in_order = true;
        while let Some(key) = s.next_key(count == 0)? {
            let index = match fields.get(count) {
                Some(field) if in_order && key.is(&field.name) => count,
                _ => {
                    in_order = false;
                    record.index_of(&key, s)?
                }
            };
            let field = &fields[index];
            let begin = out.len();
            self.value(field.id, s, out, work).map_err(|misfit| misfit.in_key(&field.name))?;
            work.pieces.push(Piece { field: index as u32, start: begin, end: out.len() });
            count += 1;
        }
        if in_order {
            for field in &fields[count..] {
                self.missing(field, out, work).map_err(|misfit| misfit.in_key(&field.name))?;
            }
            work.pieces.truncate(first_piece);
            return Ok(());
        }
        self.rearrange(record, s, start, first_piece, out, work)
    }

    /// What was written is set aside and written again in the schema's order.
    #[inline(never)]
    fn rearrange(&self, record: &Record, s: &Scanner<'_>, start: usize, first_piece: usize, out: &mut Vec<u8>, work: &mut Work) -> Written {
        let aside = work.spare.len();
        work.spare.extend_from_slice(&out[start..]);
        out.truncate(start);
        work.pieces[first_piece..].sort_by_key(|piece| piece.field);
        let mut next = first_piece;
        let last_piece = work.pieces.len();
        for (index, field) in record.fields.iter().enumerate() {
            let piece = work.pieces[next..last_piece].first().copied().filter(|piece| piece.field as usize == index);
            match piece {
                Some(Piece { start: from, end, .. }) => {
                    out.extend_from_slice(&work.spare[aside + from - start..aside + end - start]);
                    next += 1;
                }
                None => self.missing(field, out, work).map_err(|misfit| misfit.in_key(&field.name))?,
            }
            if work.pieces[next..last_piece].first().is_some_and(|piece| piece.field as usize == index) {
                return Err(Misfit::at(s, format!("key {} is there twice", field.name)));
            }
        }
        work.pieces.truncate(first_piece);
        work.spare.truncate(aside);
        Ok(())
    }

    /// What a field is that the document leaves out.
    fn missing(&self, field: &Field, out: &mut Vec<u8>, work: &mut Work) -> Written {
        if let Some(default) = &field.default {
            // Defaults may lead to defaults; documents are bounded by the scanner.
            if work.depth >= DEPTH as u16 {
                return Err(Misfit::new("defaults lead to each other without an end"));
            }
            work.depth += 1;
            let mut scanner = Scanner::new(default.as_bytes())?;
            let written = self.value(field.id, &mut scanner, out, work);
            work.depth -= 1;
            return written;
        }
        match field.null {
            Some(Some(branch)) => push_long(out, branch as i64),
            Some(None) => {}
            None => return Err(Misfit::new("is missing, and has no default")),
        }
        Ok(())
    }

    // ---- unions ---------------------------------------------------------------------------------------------------------------

    fn union(&self, branches: &[Id], s: &mut Scanner<'_>, out: &mut Vec<u8>, work: &mut Work) -> Written {
        match self.choose(branches, s, out, work)? {
            Choice::Written => Ok(()),
            Choice::Branch(branch) => self.branch(branches, branch, s, out, work),
            Choice::Named(branch) => {
                // The scanner stands behind the key that names the branch.
                let name = self.types[branches[branch]].name();
                self.branch(branches, branch, s, out, work).map_err(|misfit| misfit.in_key(name))?;
                match s.next_key(false)? {
                    None => Ok(()),
                    Some(_) => Err(Misfit::at(s, format!("a second key beside {name}, which names the branch of a union"))),
                }
            }
        }
    }

    fn branch(&self, branches: &[Id], branch: usize, s: &mut Scanner<'_>, out: &mut Vec<u8>, work: &mut Work) -> Written {
        push_long(out, branch as i64);
        self.value(branches[branch], s, out, work)
    }

    #[inline(never)]
    fn choose(&self, branches: &[Id], s: &mut Scanner<'_>, out: &mut Vec<u8>, work: &mut Work) -> Result<Choice, Box<Misfit>> {
        let next = s.peek()?;
        if next == Next::Object {
            return self.choose_object(branches, s);
        }
        let mut candidates = (0..branches.len()).filter(|branch| self.suits(branches[*branch], next));
        let Some(first) = candidates.next() else { return Err(Misfit::expected(s, self.any_of(branches))) };
        let Some(second) = candidates.next() else { return Ok(Choice::Branch(first)) };
        // Scalars only: no branch is tried that goes deeper.
        let is_integer = next == Next::Number && {
            let mut probe = *s;
            probe.number()?.integer
        };
        let rank = |branch: usize| match (&self.types[branches[branch]], next) {
            (Type::Text, _) => 0,
            (Type::Float | Type::Double | Type::Decimal { .. }, Next::Number) if is_integer => 2,
            (Type::Float | Type::Double | Type::Decimal { .. }, _) => 1,
            (_, Next::Number) if !is_integer => 2,
            _ => 1,
        };
        for wanted in 0..=2 {
            for branch in [first, second].into_iter().chain(candidates.clone()).filter(|branch| rank(*branch) == wanted) {
                let (before, start) = (*s, out.len());
                push_long(out, branch as i64);
                if self.leaf(&self.types[branches[branch]], s, out, work).is_ok() {
                    return Ok(Choice::Written);
                }
                *s = before;
                out.truncate(start);
            }
        }
        Err(Misfit::expected(s, self.any_of(branches)))
    }

    /// Decided by the keys alone, so that a union in a union in a union is read once.
    fn choose_object(&self, branches: &[Id], s: &mut Scanner<'_>) -> Result<Choice, Box<Misfit>> {
        let objects = || (0..branches.len()).filter(|b| matches!(self.types[branches[*b]], Type::Record(_) | Type::Map(_)));
        let mut probe = *s;
        probe.open()?;
        if let Some(key) = probe.next_key(true)? {
            let is_field = |b: usize| match &self.types[branches[b]] {
                Type::Record(record) => record.by_name.contains_key(&*key.cow()),
                _ => true,
            };
            let named = (0..branches.len()).find(|b| key.is(self.types[branches[*b]].name()));
            if let Some(branch) = named
                && !objects().any(is_field)
            {
                *s = probe;
                return Ok(Choice::Named(branch));
            }
        }
        let mut candidates = objects();
        let Some(first) = candidates.next() else { return Err(Misfit::expected(s, self.any_of(branches))) };
        if candidates.next().is_none() {
            return Ok(Choice::Branch(first));
        }
        let mut keys = Vec::new();
        let mut probe = *s;
        probe.open()?;
        while let Some(key) = probe.next_key(keys.is_empty())? {
            keys.push(key.cow());
            probe.skip()?;
        }
        let fits = |b: usize| match &self.types[branches[b]] {
            Type::Record(record) => {
                let known = keys.iter().all(|key| record.by_name.contains_key(&**key));
                let needed = |field: &&Field| field.default.is_none() && field.null.is_none();
                known && record.fields.iter().filter(needed).all(|field| keys.iter().any(|key| **key == *field.name))
            }
            _ => true,
        };
        match objects().find(|b| fits(*b)) {
            Some(branch) => Ok(Choice::Branch(branch)),
            None => Err(Misfit::at(s, format!("its keys fit none of {}", self.any_of(branches)))),
        }
    }

    /// Whether a type may take what starts like this.
    fn suits(&self, id: Id, next: Next) -> bool {
        match &self.types[id] {
            Type::Null => next == Next::Null,
            Type::Boolean => next == Next::Bool,
            Type::Int | Type::Long => next == Next::Number,
            Type::Float | Type::Double | Type::Decimal { .. } | Type::Date | Type::Time(_) | Type::Timestamp { .. } => {
                matches!(next, Next::Number | Next::Text)
            }
            Type::Bytes | Type::Text | Type::Fixed { .. } | Type::Enum { .. } | Type::Uuid { .. } => next == Next::Text,
            Type::Array(_) => next == Next::Array,
            Type::Map(_) | Type::Record(_) => next == Next::Object,
            Type::Union(_) | Type::Unknown => false,
        }
    }

    fn any_of(&self, branches: &[Id]) -> String {
        branches.iter().map(|b| self.types[*b].name()).collect::<Vec<_>>().join(" or ")
    }
}

/// The count goes in front of the items, a zero behind them.
fn end_blocks(out: &mut Vec<u8>, start: usize, count: usize) {
    if count > 0 {
        insert(out, start, |out| push_long(out, count as i64));
    }
    out.push(0);
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

pub(super) fn integer(s: &mut Scanner<'_>, wanted: &str) -> Result<i64, Box<Misfit>> {
    if s.peek()? != Next::Number {
        return Err(Misfit::expected(s, wanted));
    }
    let before = *s;
    let Number { text, .. } = s.number()?;
    number::long(text).map_err(|why| misfit_of(&before, why, wanted))
}

pub(super) fn misfit_of(before: &Scanner<'_>, why: Inexact, wanted: &str) -> Box<Misfit> {
    let why = match why {
        Inexact::Finer => "without a fraction",
        Inexact::Larger => "which holds it exactly",
        Inexact::NoNumber => "and a number",
    };
    Misfit::expected(before, format!("{wanted} {why}"))
}

/// A floating-point number; a text where JSON has no number for it.
pub(super) fn floating<T>(
    s: &mut Scanner<'_>,
    wanted: &str,
    read: impl FnOnce(&str, bool) -> Result<T, Inexact>,
    special: impl FnOnce(f64) -> T,
) -> Result<T, Box<Misfit>> {
    let before = *s;
    match s.peek()? {
        Next::Number => {
            let number = s.number()?;
            read(number.text, number.integer).map_err(|why| misfit_of(&before, why, wanted))
        }
        Next::Text => match &*s.text()?.cow() {
            "NaN" => Ok(special(f64::NAN)),
            "Infinity" => Ok(special(f64::INFINITY)),
            "-Infinity" => Ok(special(f64::NEG_INFINITY)),
            _ => Err(Misfit::expected(&before, wanted)),
        },
        _ => Err(Misfit::expected(s, wanted)),
    }
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
