//! Buffers of a conversion, and what is put into its output.

use crate::varint;

/// Buffers of a conversion, used again and again.
#[derive(Default)]
pub struct Work {
    /// Where the fields of the records at hand lie in the output.
    pub(super) pieces: Vec<Piece>,
    /// What is put into another order.
    pub(super) spare: Vec<u8>,
    /// Unescaped texts, decoded bytes.
    pub(super) text: Vec<u8>,
    /// How many records, arrays and defaults the writer is in.
    pub(super) depth: u16,
}

#[derive(Clone, Copy)]
pub(super) struct Piece {
    pub(super) field: u32,
    pub(super) start: usize,
    pub(super) end: usize,
}

impl Work {
    pub(super) fn clear(&mut self) {
        self.pieces.clear();
        self.spare.clear();
        self.text.clear();
        self.depth = 0;
    }
}

pub(super) fn push_long(out: &mut Vec<u8>, value: i64) {
    varint::push(out, varint::zigzag(value));
}

/// Puts in front of what was written from `start` on what `write` appends.
pub(super) fn insert(out: &mut Vec<u8>, start: usize, write: impl FnOnce(&mut Vec<u8>)) {
    let end = out.len();
    write(out);
    let len = out.len() - end;
    out[start..].rotate_right(len);
}
