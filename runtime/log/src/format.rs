//! The bytes of a segment file.
//!
//! A log is a directory of segments, `BASE-SEQ.seg`, in order of SEQ. Integers are little-endian.
//!
//! ```text
//! segment   header 64 | batch | batch | ... | footer 76 when sealed
//!
//! header    0  magic "MILLRSEG"   8      8  version      4     12  salt        4     16  seq           8
//!          24  base               8     32  follows      8     40  synced      8     48  total         8
//!          56  zero               4     60  crc32c of 0..60  4
//!
//! batch     0  crc32c of 4..      4      4  payload len  4      8  first       8     16  span          4
//!          20  behind             4     24  total        8     32  appended    8     40  records       4
//!          44  payload
//!
//! footer    a batch with span 0: `first` is the segment's end, `records` 0, and the payload
//!           0  newest position    8      8  first append 8     16  records     8     24  batches       4    28  "SEAL"  4
//! ```
//!
//! - A batch's checksum starts from the segment's `salt`, so that bytes of another file never pass for a batch of this one.
//! - `base`: lowest offset the segment may hold. Batches at or above it in an *earlier* segment are void: after a failed fdatasync they were written again.
//! - `follows`: the log's end when the segment was begun; an earlier segment that ends below it has lost batches.
//! - `synced` and `first - behind` say that everything below was on the disk when this was written (`behind` `u32::MAX`: no claim). Recovery tells by them
//!   the torn tail of a power cut (nothing claims it) from corruption (something does).
//! - `total`: records appended to the log before this; the difference across a hole is what was lost in it.
//! - In every version to come, magic, version and the header's checksum keep their places.

use crate::fs::File;
use std::io;

pub const MAGIC: [u8; 8] = *b"MILLRSEG";
pub const VERSION: u32 = 1;
pub const SEGMENT_HEADER: usize = 64;
pub const BATCH_HEADER: usize = 44;
pub const FOOTER_PAYLOAD: usize = 32;
pub const FOOTER: usize = BATCH_HEADER + FOOTER_PAYLOAD;
const SEAL: [u8; 4] = *b"SEAL";
/// No log has more records.
const MOST_RECORDS: u64 = 1 << 53;
/// No batch is appended at this time or later, in microseconds since 1970: the year 2255.
pub const LAST_APPEND: i64 = 1 << 53;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentHeader {
    pub salt: u32,
    pub seq: u64,
    pub base: u64,
    pub follows: u64,
    pub synced: u64,
    pub total: u64,
}

/// Why bytes are no segment header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadHeader {
    /// Written by a later release.
    Newer(u32),
    /// Its end never came to the disk.
    Torn,
    Corrupt,
}

impl SegmentHeader {
    pub fn encode(&self) -> [u8; SEGMENT_HEADER] {
        let mut out = [0; SEGMENT_HEADER];
        out[..8].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        out[12..16].copy_from_slice(&self.salt.to_le_bytes());
        for (i, field) in [self.seq, self.base, self.follows, self.synced, self.total].into_iter().enumerate() {
            out[16 + 8 * i..24 + 8 * i].copy_from_slice(&field.to_le_bytes());
        }
        let crc = crc32c::crc32c(&out[..60]);
        out[60..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, BadHeader> {
        let Some(bytes) = bytes.first_chunk::<SEGMENT_HEADER>() else { return Err(BadHeader::Torn) };
        if bytes[..8] != MAGIC || crc32c::crc32c(&bytes[..60]) != u32_at(bytes, 60) {
            return Err(if bytes[SEGMENT_HEADER - 1] == 0 { BadHeader::Torn } else { BadHeader::Corrupt });
        }
        match u32_at(bytes, 8) {
            VERSION => Ok(Self {
                salt: u32_at(bytes, 12),
                seq: u64_at(bytes, 16),
                base: u64_at(bytes, 24),
                follows: u64_at(bytes, 32),
                synced: u64_at(bytes, 40),
                total: u64_at(bytes, 48),
            }),
            version if version > VERSION => Err(BadHeader::Newer(version)),
            _ => Err(BadHeader::Corrupt),
        }
    }

    /// Reads a file's header; a file too short for one is `Torn`.
    pub fn read(file: &dyn File) -> io::Result<Result<Self, BadHeader>> {
        let mut bytes = [0; SEGMENT_HEADER];
        let n = file.read_full_at(0, &mut bytes)?;
        Ok(Self::decode(&bytes[..n]))
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchHeader {
    pub crc: u32,
    pub len: u32,
    pub first: u64,
    pub span: u32,
    pub behind: u32,
    pub total: u64,
    pub appended: i64,
    pub records: u32,
}

impl BatchHeader {
    pub fn decode(bytes: &[u8; BATCH_HEADER]) -> Self {
        Self {
            crc: u32_at(bytes, 0),
            len: u32_at(bytes, 4),
            first: u64_at(bytes, 8),
            span: u32_at(bytes, 16),
            behind: u32_at(bytes, 20),
            total: u64_at(bytes, 24),
            appended: u64_at(bytes, 32) as i64,
            records: u32_at(bytes, 40),
        }
    }

    /// Writes the header into the first bytes of `batch`, whose payload is in place, and seals both with a checksum.
    pub fn seal(&self, batch: &mut [u8], salt: u32) {
        batch[4..8].copy_from_slice(&self.len.to_le_bytes());
        batch[8..16].copy_from_slice(&self.first.to_le_bytes());
        batch[16..20].copy_from_slice(&self.span.to_le_bytes());
        batch[20..24].copy_from_slice(&self.behind.to_le_bytes());
        batch[24..32].copy_from_slice(&self.total.to_le_bytes());
        batch[32..40].copy_from_slice(&self.appended.to_le_bytes());
        batch[40..44].copy_from_slice(&self.records.to_le_bytes());
        let crc = crc32c::crc32c_append(salt, &batch[4..]);
        batch[..4].copy_from_slice(&crc.to_le_bytes());
    }

    pub fn next(&self) -> u64 {
        self.first.saturating_add(self.span.into())
    }

    /// Bytes with the header.
    pub fn size(&self) -> usize {
        BATCH_HEADER + self.len as usize
    }

    pub fn is_footer(&self) -> bool {
        self.span == 0
    }

    /// Everything below this was on the disk when the batch was written; 0: no claim.
    pub fn synced(&self) -> u64 {
        if self.behind == u32::MAX { 0 } else { self.first.saturating_sub(self.behind.into()) }
    }

    pub fn behind(first: u64, synced: u64) -> u32 {
        u32::try_from(first.saturating_sub(synced)).unwrap_or(u32::MAX)
    }

    /// Cheap checks of a header whose checksum is not known to hold: may it stand at this place?
    pub fn plausible(&self, room: u64, end: u64) -> bool {
        self.size() as u64 <= room
            && self.first >= end
            && self.first.checked_add(self.span.into()).is_some()
            && (self.behind == u32::MAX || u64::from(self.behind) <= self.first)
            && self.total < MOST_RECORDS
            && (0..LAST_APPEND).contains(&self.appended)
            && (!self.is_footer() || self.len as usize == FOOTER_PAYLOAD)
    }

    /// Whether `batch`, header and payload, is as it was written.
    pub fn intact(&self, batch: &[u8], salt: u32) -> bool {
        crc32c::crc32c_append(salt, &batch[4..]) == self.crc
    }
}

/// What a sealed segment says about itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Footer {
    pub next: u64,
    pub total: u64,
    /// Position of the newest batch; 0: the segment is empty.
    pub newest: u64,
    pub first_append: i64,
    pub last_append: i64,
    pub records: u64,
    pub batches: u32,
}

impl Footer {
    pub fn encode(&self, salt: u32) -> [u8; FOOTER] {
        let mut out = [0; FOOTER];
        let payload = &mut out[BATCH_HEADER..];
        payload[..8].copy_from_slice(&self.newest.to_le_bytes());
        payload[8..16].copy_from_slice(&self.first_append.to_le_bytes());
        payload[16..24].copy_from_slice(&self.records.to_le_bytes());
        payload[24..28].copy_from_slice(&self.batches.to_le_bytes());
        payload[28..].copy_from_slice(&SEAL);
        let header = BatchHeader {
            crc: 0,
            len: FOOTER_PAYLOAD as u32,
            first: self.next,
            span: 0,
            behind: u32::MAX,
            total: self.total,
            appended: self.last_append,
            records: 0,
        };
        header.seal(&mut out, salt);
        out
    }

    /// The footer behind `header`, whose checksum holds.
    pub fn decode(header: &BatchHeader, payload: &[u8]) -> Option<Self> {
        let payload = payload.first_chunk::<FOOTER_PAYLOAD>()?;
        (payload[28..] == SEAL).then(|| Self {
            next: header.first,
            total: header.total,
            newest: u64_at(payload, 0),
            first_append: u64_at(payload, 8) as i64,
            last_append: header.appended,
            records: u64_at(payload, 16),
            batches: u32_at(payload, 24),
        })
    }

    /// Reads the footer at the end of a file of `len` bytes; `None` if there is no valid one.
    pub fn read(file: &dyn File, len: u64, salt: u32) -> io::Result<Option<Self>> {
        let Some(pos) = len.checked_sub(FOOTER as u64).filter(|pos| *pos >= SEGMENT_HEADER as u64) else { return Ok(None) };
        let mut bytes = [0; FOOTER];
        if file.read_full_at(pos, &mut bytes)? < FOOTER {
            return Ok(None);
        }
        let header = BatchHeader::decode(bytes.first_chunk().expect("a footer begins with a header"));
        let whole = header.is_footer() && header.len as usize == FOOTER_PAYLOAD && header.intact(&bytes, salt);
        Ok(whole.then(|| Self::decode(&header, &bytes[BATCH_HEADER..])).flatten())
    }
}

/// Name of a segment's file.
pub fn segment_name(base: u64, seq: u64) -> String {
    format!("{base:020}-{seq:08}.seg")
}

/// Base and sequence number out of a file's name.
pub fn parse_segment_name(name: &str) -> Option<(u64, u64)> {
    let (base, seq) = name.strip_suffix(".seg")?.split_once('-')?;
    let digits = |text: &str| (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok()).flatten();
    Some((digits(base)?, digits(seq)?))
}

pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_header_comes_back_and_a_flipped_bit_does_not() {
        let header = SegmentHeader { salt: 7, seq: 1, base: 2, follows: 3, synced: 4, total: 5 };
        let bytes = header.encode();
        assert_eq!(SegmentHeader::decode(&bytes), Ok(header));
        for bit in 0..SEGMENT_HEADER * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(SegmentHeader::decode(&flipped), Err(BadHeader::Corrupt | BadHeader::Torn)), "bit {bit}");
        }
    }

    #[test]
    fn a_later_version_is_told_from_corruption() {
        let mut bytes = SegmentHeader { salt: 7, seq: 1, base: 2, follows: 3, synced: 4, total: 5 }.encode();
        bytes[8] = 9;
        let crc = crc32c::crc32c(&bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(SegmentHeader::decode(&bytes), Err(BadHeader::Newer(9)));
    }

    #[test]
    fn the_salt_keeps_batches_of_another_segment_out() {
        let mut batch = vec![0; BATCH_HEADER + 3];
        batch[BATCH_HEADER..].copy_from_slice(b"abc");
        let header = BatchHeader { crc: 0, len: 3, first: 5, span: 2, behind: 1, total: 0, appended: -1, records: 2 };
        header.seal(&mut batch, 42);
        let read = BatchHeader::decode(batch.first_chunk().unwrap());
        assert!(read.intact(&batch, 42));
        assert!(!read.intact(&batch, 43));
        assert_eq!((read.first, read.next(), read.synced(), read.appended), (5, 7, 4, -1));
    }

    #[test]
    fn names_of_other_files_are_no_segments() {
        assert_eq!(parse_segment_name(&segment_name(u64::MAX, 3)), Some((u64::MAX, 3)));
        for name in ["cursors.0", "1-2.seg.tmp", "-1.seg", "+1-2.seg", "99999999999999999999-1.seg", "1-2.quarantined"] {
            assert_eq!(parse_segment_name(name), None, "{name}");
        }
    }
}
