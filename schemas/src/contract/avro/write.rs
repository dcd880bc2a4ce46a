//! A document's fields, written straight from the scanned text.
//!
//! Fields may come in any order: they are written as they come and put in order at the record's end.

use crate::contract::avro::types::{Avro, Field, Id, Record, Type};
use crate::contract::misfit::{Misfit, Written};
use crate::contract::work::{Piece, Work, insert, push_long};
use crate::scan::{DEPTH, Next, Scanner};
use crate::schema_error::SchemaError;

impl Avro {
    pub(in crate::contract) fn write(&self, scanner: &mut Scanner<'_>, out: &mut Vec<u8>, work: &mut Work) -> Written {
        self.value(self.root, scanner, out, work)
    }

    /// Every default must fit its field.
    pub(in crate::contract) fn check_defaults(&self) -> Result<(), SchemaError> {
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
    pub(in crate::contract) fn value(&self, id: Id, s: &mut Scanner<'_>, out: &mut Vec<u8>, work: &mut Work) -> Written {
        match &self.types[id] {
            Type::Array(items) => self.array(*items, s, out, work),
            Type::Map(values) => self.map(*values, s, out, work),
            Type::Union(branches) => self.union(branches, s, out, work),
            Type::Record(record) => self.record(record, s, out, work),
            leaf => self.leaf(leaf, s, out, work),
        }
    }

    pub(in crate::contract) fn array(&self, items: Id, s: &mut Scanner<'_>, out: &mut Vec<u8>, work: &mut Work) -> Written {
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

    pub(in crate::contract) fn map(&self, values: Id, s: &mut Scanner<'_>, out: &mut Vec<u8>, work: &mut Work) -> Written {
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

    pub(in crate::contract) fn record(&self, record: &Record, s: &mut Scanner<'_>, out: &mut Vec<u8>, work: &mut Work) -> Written {
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
    pub(in crate::contract) fn rearrange(
        &self,
        record: &Record,
        s: &Scanner<'_>,
        start: usize,
        first_piece: usize,
        out: &mut Vec<u8>,
        work: &mut Work,
    ) -> Written {
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
    pub(in crate::contract) fn missing(&self, field: &Field, out: &mut Vec<u8>, work: &mut Work) -> Written {
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
}

/// The count goes in front of the items, a zero behind them.
fn end_blocks(out: &mut Vec<u8>, start: usize, count: usize) {
    if count > 0 {
        insert(out, start, |out| push_long(out, count as i64));
    }
    out.push(0);
}
