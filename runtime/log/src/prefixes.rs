//! The checksums of a file's prefixes, and from them that of any piece.
//!
//! Two blocks are read for a piece, whatever its length: so no bytes, however they came there, make a scan long.

use crate::blocks::{BLOCK, WINDOW, read_past_bad_blocks};
use crate::crc;
use crate::format::BatchHeader;
use crate::fs::File;
use std::io;
use std::sync::Arc;

/// The checksums of a file's prefixes, one for each block.
pub struct Prefixes {
    file: Arc<dyn File>,
    from: u64,
    limit: u64,
    marks: Vec<u32>,
    /// The blocks read last where a piece begins, and where one ends.
    begin: Block,
    end: Block,
    pub read_bytes: u64,
}

#[derive(Default)]
struct Block {
    index: Option<u64>,
    bytes: Vec<u8>,
}

impl Prefixes {
    /// Reads a file once, from a position to another.
    pub fn new(file: Arc<dyn File>, from: u64, limit: u64) -> io::Result<Self> {
        let (mut marks, mut crc, mut pos) = (vec![0], 0, from);
        let mut window = vec![0; WINDOW];
        while pos < limit {
            let window = &mut window[..WINDOW.min((limit - pos) as usize)];
            read_past_bad_blocks(&*file, pos, window)?;
            for block in window.chunks(BLOCK) {
                crc = crc32c::crc32c_append(crc, block);
                marks.push(crc);
            }
            pos += window.len() as u64;
        }
        Ok(Self { file, from, limit, marks, begin: Block::default(), end: Block::default(), read_bytes: limit - from })
    }

    /// The checksum of the bytes before `begin` and of those before `end`.
    fn before(&mut self, begin: u64, end: u64) -> io::Result<(u32, u32)> {
        let (file, from, limit, marks) = (&*self.file, self.from, self.limit, &self.marks);
        let prefix = |block: &mut Block, pos: u64| {
            let (index, rest) = ((pos - from) / BLOCK as u64, ((pos - from) % BLOCK as u64) as usize);
            if rest > 0 && block.index != Some(index) {
                let at = from + index * BLOCK as u64;
                block.bytes.resize(BLOCK.min((limit - at) as usize), 0);
                block.index = None;
                read_past_bad_blocks(file, at, &mut block.bytes)?;
                block.index = Some(index);
            }
            Ok::<_, io::Error>(crc32c::crc32c_append(marks[index as usize], &block.bytes[..rest]))
        };
        Ok((prefix(&mut self.begin, begin)?, prefix(&mut self.end, end)?))
    }

    /// Whether the batch at a position, which ends within the file, is as it was written.
    pub fn intact(&mut self, pos: u64, header: &BatchHeader, salt: u32) -> io::Result<bool> {
        let (begin, end) = (pos + 4, pos + header.size() as u64);
        let (before, behind) = self.before(begin, end)?;
        Ok(crc::of_piece(salt, before, behind, end - begin) == header.crc)
    }

    /// The salt with which the batch at a position would be intact.
    pub fn salt(&mut self, pos: u64, header: &BatchHeader) -> io::Result<u32> {
        let (begin, end) = (pos + 4, pos + header.size() as u64);
        let (before, behind) = self.before(begin, end)?;
        Ok(crc::salt_of_piece(header.crc, before, behind, end - begin))
    }
}
