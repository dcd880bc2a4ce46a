//! Reading from a disk that may have bad blocks.

use crate::fs::File;
use std::io;

pub const WINDOW: usize = 256 << 10;

pub const BLOCK: usize = 4096;

/// Fills `buf` from a position; blocks that the disk cannot give are zero, and so is what lies behind the file's end.
pub fn read_past_bad_blocks(file: &dyn File, pos: u64, buf: &mut [u8]) -> io::Result<()> {
    if let Ok(n) = file.read_full_at(pos, buf) {
        buf[n..].fill(0);
        return Ok(());
    }
    let mut failed = 0;
    for (i, block) in buf.chunks_mut(BLOCK).enumerate() {
        match file.read_full_at(pos + (i * BLOCK) as u64, block) {
            Ok(n) => block[n..].fill(0),
            Err(e) => {
                block.fill(0);
                failed += 1;
                if failed == i + 1 && failed == 16 {
                    return Err(e); // not a bad spot: the disk is gone
                }
            }
        }
    }
    Ok(())
}
