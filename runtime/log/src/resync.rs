//! Finds the way again in a damaged segment: the next batch behind a hole, and the header of a segment that has lost its own.
//!
//! Every place whose bytes could be a batch's header is judged by its checksum, and the checksum of what it claims to cover is computed from
//! those of the file's prefixes: two blocks are read for it, whatever length it claims. So no bytes, however they came there, hide a valid batch
//! behind them or make a scan long.
//!
//! A header is a hint. Base and sequence number are in the file's name; one wrong byte is found by trying (its checksum says which); of a header that is
//! gone only the salt matters, and every batch gives its own salt back: two that agree, or one and the footer, or one and what is left of the
//! header, prove it.

use crate::blocks::{WINDOW, read_past_bad_blocks};
use crate::format::{BATCH_HEADER, BadHeader, BatchHeader, FOOTER, FOOTER_PAYLOAD, Footer, SEGMENT_HEADER, SegmentHeader, u32_at};
use crate::fs::File;
use crate::prefixes::Prefixes;
use crate::scan::{Found, Scanner};
use std::collections::HashMap;
use std::io;
use std::sync::Arc;

/// Where a header has its salt.
const SALT: usize = 12;
/// Places remembered that could be batches: few, so that two do not agree by chance.
const MOST_SEEN: usize = 1000;

/// The header of a segment whose own is damaged; `None`: nothing in the file proves one. What it says of the log before the segment
/// (`follows`, `synced`, `total`) is 0 where only the salt was found.
///
/// Errors: `Newer` in the inner result, where one wrong byte is all that is wrong with a header of a later release.
pub fn rebuild_header(file: &Arc<dyn File>, len: u64, base: u64, seq: u64) -> io::Result<Option<Result<SegmentHeader, BadHeader>>> {
    let mut bytes = [0; SEGMENT_HEADER];
    let n = file.read_full_at(0, &mut bytes).unwrap_or(0);
    match (n == SEGMENT_HEADER).then(|| without_one_wrong_byte(&bytes)).flatten() {
        Some(Ok(header)) if (header.base, header.seq) == (base, seq) => return Ok(Some(Ok(header))),
        Some(Err(newer @ BadHeader::Newer(_))) => return Ok(Some(Err(newer))),
        _ => {}
    }
    let salt = find_salt(file, len, base, &bytes)?;
    Ok(salt.map(|salt| Ok(SegmentHeader { salt, seq, base, follows: 0, synced: 0, total: 0 })))
}

/// Tries every value of every byte.
fn without_one_wrong_byte(bytes: &[u8; SEGMENT_HEADER]) -> Option<Result<SegmentHeader, BadHeader>> {
    (0..SEGMENT_HEADER).find_map(|at| {
        let mut tried = *bytes;
        (1..=255).find_map(|mask| {
            tried[at] = bytes[at] ^ mask;
            match SegmentHeader::decode(&tried) {
                Err(BadHeader::Torn | BadHeader::Corrupt) => None,
                found => Some(found),
            }
        })
    })
}

/// Whether nothing but its salt is wrong with a header: one that only resembles it proves nothing, for a damaged batch gives some salt back, too.
fn completes(header: &[u8; SEGMENT_HEADER], salt: u32) -> bool {
    let mut whole = *header;
    whole[SALT..SALT + 4].copy_from_slice(&salt.to_le_bytes());
    SegmentHeader::decode(&whole).is_ok()
}

/// The salt that the batches of a file agree on, or one of them and the rest of the damaged header.
fn find_salt(file: &Arc<dyn File>, len: u64, base: u64, damaged: &[u8; SEGMENT_HEADER]) -> io::Result<Option<u32>> {
    let hint = u32_at(damaged, SALT);
    let Some(body) = len.checked_sub(SEGMENT_HEADER as u64).filter(|body| *body >= BATCH_HEADER as u64) else { return Ok(None) };
    let first_with = |salt| {
        let header = SegmentHeader { salt, seq: 0, base, follows: 0, synced: 0, total: 0 };
        Scanner::new(file.clone(), &header, len).next_found()
    };
    if matches!(first_with(hint)?, Some(Found::Batch(..) | Found::Footer(..))) {
        return Ok(Some(hint));
    }
    let mut prefixes = Prefixes::new(file.clone(), SEGMENT_HEADER as u64, len)?;
    let header_at = |pos: u64| {
        let mut bytes = [0; BATCH_HEADER];
        read_past_bad_blocks(&**file, pos, &mut bytes)?;
        let header = BatchHeader::decode(&bytes);
        Ok::<_, io::Error>(Some(header).filter(|header| header.plausible(len - pos, base)))
    };
    if let Some(pos) = len.checked_sub(FOOTER as u64).filter(|pos| *pos >= SEGMENT_HEADER as u64)
        && let Some(footer) = header_at(pos)?.filter(BatchHeader::is_footer)
    {
        let mut payload = [0; FOOTER_PAYLOAD];
        read_past_bad_blocks(&**file, pos + BATCH_HEADER as u64, &mut payload)?;
        let salt = prefixes.salt(pos, &footer)?;
        // A footer alone agrees with itself, whatever is in it.
        if Footer::decode(&footer, &payload).is_some() && matches!(first_with(salt)?, Some(Found::Batch(..))) {
            return Ok(Some(salt));
        }
    }
    // Salts, each with the end of the first place that gave it.
    let mut seen: HashMap<u32, u64> = HashMap::new();
    let mut window = vec![0; WINDOW.min(body as usize)];
    let mut pos = SEGMENT_HEADER as u64;
    while pos + BATCH_HEADER as u64 <= len {
        let part = &mut window[..WINDOW.min((len - pos) as usize)];
        read_past_bad_blocks(&**file, pos, part)?;
        let places = part.len() - BATCH_HEADER + 1;
        for at in 0..places {
            let header = BatchHeader::decode(part[at..].first_chunk().expect("a header fits"));
            let here = pos + at as u64;
            if header.is_footer() || !header.plausible(len - here, base) {
                continue;
            }
            let salt = prefixes.salt(here, &header)?;
            let behind = here + header.size() as u64;
            let next = if behind + BATCH_HEADER as u64 <= len { header_at(behind)? } else { None };
            let agrees_with_next = match next.filter(|next| next.first >= header.next()) {
                Some(next) => prefixes.salt(behind, &next)? == salt,
                None => false,
            };
            // Places of the same bytes, zeros with a flipped bit say, give the same salt and prove nothing; batches of one segment follow each other.
            let agrees_with_other = seen.get(&salt).is_some_and(|end| *end <= header.first);
            if seen.len() < MOST_SEEN {
                seen.entry(salt).or_insert(header.next());
            }
            if agrees_with_next || agrees_with_other || completes(damaged, salt) {
                return Ok(Some(salt));
            }
        }
        pos += places as u64;
    }
    Ok(None)
}
