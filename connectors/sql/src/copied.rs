//! What `COPY .. TO STDOUT (FORMAT binary)` sends, taken apart. No I/O.
//!
//! ```text
//! "PGCOPY\n\xff\r\n\0" | u32 flags | u32 length + extension | row .. | i16 -1
//! row: i16 fields | each: i32 length (-1: null) + bytes
//! ```
//!
//! Pieces need not end where rows end, though PostgreSQL's do. Source: PostgreSQL's documentation of COPY, "Binary Format".

use millrace_config::Reason;
use std::ops::Range;

const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";

/// The fields of one row, as they lie in a piece.
#[derive(Debug)]
pub struct Fields<'a> {
    bytes: &'a [u8],
    /// `None`: null.
    places: &'a [Option<Range<usize>>],
}

impl<'a> Fields<'a> {
    pub fn len(&self) -> usize {
        self.places.len()
    }

    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// A field's bytes; `None`: null.
    pub fn get(&self, index: usize) -> Option<&'a [u8]> {
        self.places.get(index)?.clone().map(|place| &self.bytes[place])
    }
}

/// Reads what is copied out, piece by piece.
#[derive(Debug, Default)]
pub struct Copied {
    has_begun: bool,
    has_ended: bool,
    /// Of a row whose end is to come.
    rest: Vec<u8>,
    places: Vec<Option<Range<usize>>>,
}

impl Copied {
    /// Hands each row that is whole by this piece to `each`.
    ///
    /// Errors: these are not bytes of a binary COPY; what `each` says.
    pub fn take(&mut self, piece: &[u8], mut each: impl FnMut(&Fields<'_>) -> Result<(), Reason>) -> Result<(), Reason> {
        let mut rest = std::mem::take(&mut self.rest);
        let is_joined = !rest.is_empty();
        if is_joined {
            rest.extend_from_slice(piece);
        }
        let bytes = if is_joined { &rest[..] } else { piece };
        let mut at = 0;
        while at < bytes.len() {
            let end = match self.has_begun {
                false => head(&bytes[at..])?.map(|length| at + length),
                true => self.places(bytes, at)?,
            };
            let Some(end) = end else { break };
            if std::mem::replace(&mut self.has_begun, true) && !self.has_ended {
                each(&Fields { bytes, places: &self.places })?;
            }
            at = end;
        }
        self.rest = match is_joined {
            true => {
                rest.drain(..at);
                rest
            }
            false => bytes[at..].to_vec(),
        };
        Ok(())
    }

    /// Whether all has come, to the end.
    pub fn is_whole(&self) -> bool {
        self.has_ended && self.rest.is_empty()
    }

    /// Finds the fields of the row that begins at `at`. Returns where it ends; `None`: it is not whole yet.
    fn places(&mut self, bytes: &[u8], mut at: usize) -> Result<Option<usize>, Reason> {
        if self.has_ended {
            return Err("there is more behind the end of the rows".into());
        }
        let Some(fields) = number(bytes, &mut at).map(i16::from_be_bytes) else { return Ok(None) };
        if fields == -1 {
            self.has_ended = true;
            return Ok(Some(at));
        }
        self.places.clear();
        for _ in 0..fields {
            let Some(length) = number(bytes, &mut at).map(i32::from_be_bytes) else { return Ok(None) };
            if length == -1 {
                self.places.push(None);
                continue;
            }
            let length = usize::try_from(length).map_err(|_| format!("a field of {length} bytes"))?;
            if bytes.len() - at < length {
                return Ok(None);
            }
            self.places.push(Some(at..at + length));
            at += length;
        }
        Ok(Some(at))
    }
}

/// The next bytes of a number.
fn number<const N: usize>(bytes: &[u8], at: &mut usize) -> Option<[u8; N]> {
    let number = bytes.get(*at..)?.first_chunk()?;
    *at += N;
    Some(*number)
}

/// How long the head is; `None`: it is not whole yet.
fn head(bytes: &[u8]) -> Result<Option<usize>, Reason> {
    let said = bytes.len().min(SIGNATURE.len());
    if bytes[..said] != SIGNATURE[..said] {
        return Err("the server does not copy in the binary form".into());
    }
    let mut at = SIGNATURE.len() + 4;
    let Some(extension) = number(bytes, &mut at).map(u32::from_be_bytes) else { return Ok(None) };
    let end = at + extension as usize;
    Ok((bytes.len() >= end).then_some(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Row = Vec<Option<Vec<u8>>>;

    fn read(pieces: &[&[u8]]) -> Result<(Vec<Row>, bool), Reason> {
        let (mut copied, mut rows) = (Copied::default(), Vec::new());
        for piece in pieces {
            copied.take(piece, |fields| {
                rows.push((0..fields.len()).map(|index| fields.get(index).map(<[u8]>::to_vec)).collect());
                Ok(())
            })?;
        }
        Ok((rows, copied.is_whole()))
    }

    /// As PostgreSQL 15 writes `COPY (VALUES (1, 'a'), (2, NULL)) TO STDOUT (FORMAT binary)`.
    const TWO: &[u8] =
        b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0\0\x02\0\0\0\x04\0\0\0\x01\0\0\0\x01a\0\x02\0\0\0\x04\0\0\0\x02\xff\xff\xff\xff\xff\xff";

    #[test]
    fn rows_are_the_same_wherever_the_pieces_end() {
        let two: [Row; 2] = [vec![Some(vec![0, 0, 0, 1]), Some(b"a".to_vec())], vec![Some(vec![0, 0, 0, 2]), None]];
        for cut in 0..=TWO.len() {
            let (rows, is_whole) = read(&[&TWO[..cut], &TWO[cut..]]).unwrap();
            assert_eq!(rows, two, "cut at {cut}");
            assert!(is_whole);
        }
        let bytes: Vec<&[u8]> = TWO.chunks(1).collect();
        assert_eq!(read(&bytes).unwrap(), (two.to_vec(), true));
    }

    #[test]
    fn what_is_cut_is_not_whole_and_what_is_no_copy_is_an_error() {
        for end in 0..TWO.len() {
            assert!(!read(&[&TWO[..end]]).unwrap().1, "cut at {end}");
        }
        assert!(read(&[b"1\ta\n"]).is_err(), "a copy as text");
        assert!(read(&[TWO, b"\0"]).is_err(), "more behind the end");
        let negative = [&TWO[..19], b"\0\x01\xff\xff\xff\xfe"].concat();
        assert!(read(&[&negative]).is_err(), "a field of -2 bytes");
    }
}
