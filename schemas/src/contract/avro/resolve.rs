//! What one schema wrote, as another one has it: fields and symbols by their names, branches by their types, defaults for what is not there.
//!
//! Source: Apache Avro 1.12 specification, "Schema Resolution". Not here: aliases, and times of another unit, which are refused.

use super::show::{long, sized, take};
use super::types::{Avro, Id, Record, Type};
use crate::contract::work::{Work, push_long};
use crate::scan::DEPTH;

impl Avro {
    /// Appends what `writer` wrote as a value of this schema; `None` where the bytes are none of the writer's, or mean nothing here.
    pub(in crate::contract) fn resolve(&self, writer: &Self, bytes: &[u8], out: &mut Vec<u8>) -> Option<()> {
        let mut rest = bytes;
        Resolution { reader: self, writer }.value((writer.root, self.root), &mut rest, out, 0)?;
        rest.is_empty().then_some(())
    }
}

struct Resolution<'a> {
    reader: &'a Avro,
    writer: &'a Avro,
}

impl Resolution<'_> {
    fn value(&self, (from, to): (Id, Id), rest: &mut &[u8], out: &mut Vec<u8>, depth: i16) -> Option<()> {
        if depth > DEPTH {
            return None;
        }
        match (&self.writer.types[from], &self.reader.types[to]) {
            (Type::Union(branches), _) => {
                let branch = *branches.get(usize::try_from(long(rest)?).ok()?)?;
                self.value((branch, to), rest, out, depth + 1)
            }
            (of, Type::Union(branches)) => {
                let is_same = |branch: &Id| of.name() == self.reader.types[*branch].name();
                let is_wider = |branch: &Id| is_promoted(of.name(), self.reader.types[*branch].name());
                let at = branches.iter().position(is_same).or_else(|| branches.iter().position(is_wider))?;
                push_long(out, at as i64);
                self.value((from, branches[at]), rest, out, depth + 1)
            }
            (Type::Record(of), Type::Record(to)) => self.record(of, to, rest, out, depth),
            (Type::Array(of), Type::Array(to)) => self.blocks(rest, out, |rest, out| self.value((*of, *to), rest, out, depth + 1)),
            (Type::Map(of), Type::Map(to)) => self.blocks(rest, out, |rest, out| {
                let key = sized(rest)?;
                push_long(out, key.len() as i64);
                out.extend_from_slice(key);
                self.value((*of, *to), rest, out, depth + 1)
            }),
            (Type::Enum { symbols, .. }, Type::Enum { symbols: known, default, .. }) => {
                let written = long(rest)?;
                let (symbol, _) = symbols.iter().find(|(_, at)| **at == written)?;
                push_long(out, known.get(symbol).copied().or(*default)?);
                Some(())
            }
            (of, to) => self.leaf(of, to, from, rest, out),
        }
    }

    /// The writer's fields in its order, then put in the reader's.
    fn record(&self, of: &Record, to: &Record, rest: &mut &[u8], out: &mut Vec<u8>, depth: i16) -> Option<()> {
        let mut found: Vec<Option<Vec<u8>>> = vec![None; to.fields.len()];
        for field in &of.fields {
            match to.by_name.get(&field.name) {
                Some(&at) => {
                    let mut piece = Vec::new();
                    self.value((field.id, to.fields[at].id), rest, &mut piece, depth + 1)?;
                    found[at] = Some(piece);
                }
                None => drop(self.passed(field.id, rest, depth + 1)?),
            }
        }
        for (field, piece) in to.fields.iter().zip(found) {
            match piece {
                Some(piece) => out.extend_from_slice(&piece),
                None => self.reader.missing(field, out, &mut Work::default()).ok()?,
            }
        }
        Some(())
    }

    fn blocks(&self, rest: &mut &[u8], out: &mut Vec<u8>, mut item: impl FnMut(&mut &[u8], &mut Vec<u8>) -> Option<()>) -> Option<()> {
        loop {
            let count = long(rest)?;
            if count < 0 {
                long(rest)?;
            }
            let count = i64::try_from(count.unsigned_abs()).ok()?;
            push_long(out, count);
            if count == 0 {
                return Some(());
            }
            for _ in 0..count {
                let before = rest.len();
                item(rest, out)?;
                // Items of no bytes at all would let a short text announce endless ones.
                if rest.len() == before && count > 1 << 20 {
                    return None;
                }
            }
        }
    }

    fn leaf(&self, of: &Type, to: &Type, from: Id, rest: &mut &[u8], out: &mut Vec<u8>) -> Option<()> {
        let fits = match (of, to) {
            (Type::Timestamp { unit: a, .. }, Type::Timestamp { unit: b, .. }) | (Type::Time(a), Type::Time(b)) => a == b,
            (Type::Decimal { scale: a, size: of, .. }, Type::Decimal { scale: b, size: to, .. }) => a == b && of == to,
            (Type::Fixed { size: a, name: of }, Type::Fixed { size: b, name: to }) => a == b && of == to,
            (Type::Uuid { is_fixed: a }, Type::Uuid { is_fixed: b }) => a == b,
            _ => of.name() == to.name() && of.name() != "fixed" || is_promoted(of.name(), to.name()),
        };
        if !fits {
            return None;
        }
        let bytes = self.passed(from, rest, 0)?;
        match (of.name(), to.name()) {
            ("int" | "long", "float") => out.extend_from_slice(&(long(&mut &*bytes)? as f32).to_le_bytes()),
            ("int" | "long", "double") => out.extend_from_slice(&(long(&mut &*bytes)? as f64).to_le_bytes()),
            ("float", "double") => {
                out.extend_from_slice(&f64::from(f32::from_le_bytes(take(&mut &*bytes, 4)?.try_into().ok()?)).to_le_bytes())
            }
            _ => out.extend_from_slice(bytes),
        }
        Some(())
    }

    /// Passes over a value of the writer's, and returns its bytes.
    fn passed<'b>(&self, id: Id, rest: &mut &'b [u8], depth: i16) -> Option<&'b [u8]> {
        let before = *rest;
        self.writer.shown(id, rest, &mut Vec::new(), depth)?;
        Some(&before[..before.len() - rest.len()])
    }
}

/// Whether every value of one primitive type is a value of the other.
fn is_promoted(of: &str, to: &str) -> bool {
    matches!(
        (of, to),
        ("int", "long" | "float" | "double")
            | ("long", "float" | "double")
            | ("float", "double")
            | ("string", "bytes")
            | ("bytes", "string")
    )
}
