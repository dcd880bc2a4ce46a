//! A record batch as it stands in a request and on the disk: its header, read, checked and rewritten, its records untouched.
//!
//! ```text
//!  0  base offset 8    8  length 4 (of what follows)   12  leader epoch 4   16  magic 1   17  crc32c of 21..  4
//! 21  attributes 2    23  last offset delta 4          27  first time 8     35  newest time 8
//! 43  producer id 8   51  producer epoch 2             53  first sequence 4 57  records 4   61  records, compressed together
//! ```
//!
//! attributes: 0-2 codec, 3 log append time, 4 transactional, 5 control. Source: Kafka protocol guide, "Record Batch".

/// What is wrong with bytes that should be a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BatchFault {
    /// They are not what was written: cut, or another checksum.
    #[error("the batch is cut or its checksum does not hold")]
    Corrupt,
    /// They are what was written, and not what may be written here.
    #[error("the batch is of a kind that may not stand here")]
    Invalid,
}

pub const HEADER: usize = 61;
pub const MAGIC: i8 = 2;
pub const NO_PRODUCER: i64 = -1;

const LOG_APPEND_TIME: i16 = 8;
const TRANSACTIONAL: i16 = 16;
const CONTROL: i16 = 32;

/// What the first 61 bytes of a batch say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub base_offset: i64,
    pub attributes: i16,
    pub last_offset_delta: i32,
    pub first_time: i64,
    pub newest_time: i64,
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub first_sequence: i32,
    pub records: i32,
}

impl Header {
    /// Reads the header of a stored batch; `None` if there are not enough bytes.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.first_chunk::<HEADER>()?;
        Some(Self {
            base_offset: i64_at(bytes, 0),
            attributes: i16_at(bytes, 21),
            last_offset_delta: i32_at(bytes, 23),
            first_time: i64_at(bytes, 27),
            newest_time: i64_at(bytes, 35),
            producer_id: i64_at(bytes, 43),
            producer_epoch: i16_at(bytes, 51),
            first_sequence: i32_at(bytes, 53),
            records: i32_at(bytes, 57),
        })
    }

    /// Checks a batch that a client sent, which must be the only one in `bytes`; nothing of a batch that fails is stored.
    pub fn check(bytes: &[u8]) -> Result<Self, BatchFault> {
        let magic = *bytes.get(16).ok_or(BatchFault::Corrupt)? as i8;
        if magic != MAGIC {
            return Err(BatchFault::Invalid);
        }
        let header = Self::read(bytes).ok_or(BatchFault::Corrupt)?;
        let size = usize::try_from(i32_at(bytes, 8)).map_err(|_| BatchFault::Corrupt)?.saturating_add(12);
        if size < HEADER || size > bytes.len() {
            return Err(BatchFault::Corrupt);
        }
        if size < bytes.len() {
            return Err(BatchFault::Invalid);
        }
        if crc32c::crc32c(&bytes[21..]) != i32_at(bytes, 17) as u32 {
            return Err(BatchFault::Corrupt);
        }
        if !header.is_dense() || header.is_control() || header.codec() > 4 {
            return Err(BatchFault::Invalid);
        }
        if header.producer_id != NO_PRODUCER && (header.producer_epoch < 0 || header.first_sequence < 0)
            || header.producer_id == NO_PRODUCER && header.is_transactional()
            || header.producer_id < NO_PRODUCER
        {
            return Err(BatchFault::Invalid);
        }
        Ok(header)
    }

    pub fn codec(&self) -> i16 {
        self.attributes & 7
    }

    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL != 0
    }

    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL != 0
    }

    pub fn is_log_append_time(&self) -> bool {
        self.attributes & LOG_APPEND_TIME != 0
    }

    /// The offset of its last record, which compaction may have taken.
    pub fn last_offset(&self) -> i64 {
        self.base_offset.saturating_add(i64::from(self.last_offset_delta.max(0)))
    }

    /// Whether there is a record for each offset from the first to the last.
    pub fn is_dense(&self) -> bool {
        self.records > 0 && self.last_offset_delta.checked_add(1) == Some(self.records)
    }

    /// Whether its attributes say no more than a codec and a transaction: no clock of a broker, no mark of one, and nothing that is not known here.
    pub fn is_plain(&self) -> bool {
        self.attributes & !(7 | TRANSACTIONAL) == 0 && self.codec() <= 4
    }

    /// Sequence number of the last record; after the largest comes 0.
    pub fn last_sequence(&self) -> i32 {
        if self.first_sequence < 0 {
            return self.first_sequence;
        }
        let last = i64::from(self.first_sequence) + i64::from(self.last_offset_delta);
        (last % (i64::from(i32::MAX) + 1)) as i32
    }
}

/// The bytes of the first batch in `bytes`; `None`: it is not whole. Those of an older format are as long as they say, too.
pub fn whole(bytes: &[u8]) -> Option<usize> {
    bytes.get(16)?;
    let size = usize::try_from(i32_at(bytes, 8)).ok()?.checked_add(12)?;
    (size > 16 && size <= bytes.len()).then_some(size)
}

/// The format of a batch that is [`whole`]; before 2 there was no header like this one.
pub fn magic(batch: &[u8]) -> i8 {
    batch.get(16).map_or(0, |magic| *magic as i8)
}

/// Who writes a batch into another log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sender {
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub first_sequence: i32,
    pub is_transactional: bool,
}

/// The header of a batch for another log. What is behind it goes as it is, and is held against the checksum that it came with: what was damaged on
/// its way must not get one that fits. It is read once for both.
pub fn forwarded(batch: &[u8], sender: &Sender) -> Result<[u8; HEADER], BatchFault> {
    let mut head = *batch.first_chunk::<HEADER>().ok_or(BatchFault::Corrupt)?;
    if whole(batch) != Some(batch.len()) {
        return Err(BatchFault::Corrupt);
    }
    if magic(batch) != MAGIC {
        return Err(BatchFault::Invalid);
    }
    let (records, len) = (crc32c::crc32c(&batch[HEADER..]), batch.len() - HEADER);
    let checksum = |head: &[u8; HEADER]| crc32c::crc32c_combine(crc32c::crc32c(&head[21..]), records, len);
    if checksum(&head) != i32_at(batch, 17) as u32 {
        return Err(BatchFault::Corrupt);
    }
    let attributes = i16_at(batch, 21) & !TRANSACTIONAL | if sender.is_transactional { TRANSACTIONAL } else { 0 };
    head[..8].fill(0);
    head[12..16].copy_from_slice(&(-1_i32).to_be_bytes());
    head[21..23].copy_from_slice(&attributes.to_be_bytes());
    head[43..51].copy_from_slice(&sender.producer_id.to_be_bytes());
    head[51..53].copy_from_slice(&sender.producer_epoch.to_be_bytes());
    head[53..57].copy_from_slice(&sender.first_sequence.to_be_bytes());
    let checksum = checksum(&head);
    head[17..21].copy_from_slice(&checksum.to_be_bytes());
    Ok(head)
}

/// The first 16 bytes of a batch that stands at `base`; the rest is stored as it came.
pub fn placed(base: u64, leader_epoch: i32, batch: &[u8]) -> [u8; 16] {
    let mut head: [u8; 16] = batch[..16].try_into().expect("a checked batch has a header");
    head[..8].copy_from_slice(&(base as i64).to_be_bytes());
    head[12..].copy_from_slice(&leader_epoch.to_be_bytes());
    head
}

/// The batch with the time of its arrival instead of its records' own.
pub fn with_append_time(batch: &[u8], now: i64) -> Vec<u8> {
    let mut out = batch.to_vec();
    let attributes = i16_at(&out, 21) | LOG_APPEND_TIME;
    out[21..23].copy_from_slice(&attributes.to_be_bytes());
    out[35..43].copy_from_slice(&now.to_be_bytes());
    seal(&mut out);
    out
}

/// A marker: the batch that ends a producer's transaction in a partition.
pub fn marker(producer_id: i64, producer_epoch: i16, committed: bool, coordinator_epoch: i32, now: i64) -> Vec<u8> {
    let mut out = vec![0; HEADER];
    out[16] = MAGIC as u8;
    out[21..23].copy_from_slice(&(TRANSACTIONAL | CONTROL).to_be_bytes());
    out[27..35].copy_from_slice(&now.to_be_bytes());
    out[35..43].copy_from_slice(&now.to_be_bytes());
    out[43..51].copy_from_slice(&producer_id.to_be_bytes());
    out[51..53].copy_from_slice(&producer_epoch.to_be_bytes());
    out[53..57].copy_from_slice(&(-1_i32).to_be_bytes());
    out[57..61].copy_from_slice(&1_i32.to_be_bytes());
    // Zigzag lengths: record 16, attributes, time 0, offset 0, key 4 (version 0, type), value 6 (version 0, coordinator epoch), no headers.
    out.extend_from_slice(&[32, 0, 0, 0, 8, 0, 0, 0, u8::from(committed), 12, 0, 0]);
    out.extend_from_slice(&coordinator_epoch.to_be_bytes());
    out.push(0);
    seal(&mut out);
    out
}

/// Whether a control batch commits; `None` if it is no end of a transaction.
pub fn marker_commits(batch: &[u8]) -> Option<bool> {
    match batch.get(HEADER + 7..HEADER + 9)? {
        [0, 0] => Some(false),
        [0, 1] => Some(true),
        _ => None,
    }
}

/// Writes length and checksum of a batch that is complete otherwise.
pub fn seal(batch: &mut [u8]) {
    let length = (batch.len() - 12) as i32;
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    let crc = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
}

fn i16_at(bytes: &[u8], at: usize) -> i16 {
    i16::from_be_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

fn i32_at(bytes: &[u8], at: usize) -> i32 {
    i32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn i64_at(bytes: &[u8], at: usize) -> i64 {
    i64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// A batch of records without keys, for tests: one byte of value each.
pub fn sample(records: i32, producer: (i64, i16, i32), transactional: bool) -> Vec<u8> {
    let mut out = vec![0; HEADER];
    out[16] = MAGIC as u8;
    let attributes = if transactional { TRANSACTIONAL } else { 0 };
    out[21..23].copy_from_slice(&attributes.to_be_bytes());
    out[23..27].copy_from_slice(&(records - 1).to_be_bytes());
    out[27..35].copy_from_slice(&1_000_i64.to_be_bytes());
    out[35..43].copy_from_slice(&(1_000 + i64::from(records) - 1).to_be_bytes());
    out[43..51].copy_from_slice(&producer.0.to_be_bytes());
    out[51..53].copy_from_slice(&producer.1.to_be_bytes());
    out[53..57].copy_from_slice(&producer.2.to_be_bytes());
    out[57..61].copy_from_slice(&records.to_be_bytes());
    for i in 0..records as u8 {
        out.extend_from_slice(&[14, 0, 2 * i, 2 * i, 1, 2, b'a' + i, 0]);
    }
    seal(&mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_says_what_it_is() {
        for committed in [false, true] {
            let batch = marker(7, 3, committed, 0, 1_000);
            let header = Header::read(&batch).unwrap();
            assert!(header.is_control() && header.is_transactional());
            assert_eq!((header.producer_id, header.producer_epoch, header.records), (7, 3, 1));
            assert_eq!(marker_commits(&batch), Some(committed));
            // A client cannot send one.
            assert_eq!(Header::check(&batch), Err(BatchFault::Invalid));
        }
    }

    #[test]
    fn no_flipped_bit_of_a_batch_passes_its_check() {
        let batch = sample(3, (-1, -1, -1), false);
        assert_eq!(Header::check(&batch).unwrap().records, 3);
        for bit in 64..batch.len() * 8 {
            let mut flipped = batch.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            // The leader epoch is the broker's and not covered.
            assert_eq!(Header::check(&flipped).is_ok(), (12..16).contains(&(bit / 8)), "bit {bit}");
        }
    }

    #[test]
    fn a_batch_at_its_place_keeps_its_checksum() {
        let mut batch = sample(2, (5, 0, 0), true);
        let head = placed(77, 0, &batch);
        batch[..16].copy_from_slice(&head);
        let header = Header::check(&batch).unwrap();
        assert_eq!((header.base_offset, header.last_offset_delta), (77, 1));
        let stamped = with_append_time(&batch, 5_000);
        let header = Header::check(&stamped).unwrap();
        assert!(header.is_log_append_time());
        assert_eq!(header.newest_time, 5_000);
    }

    #[test]
    fn sequence_numbers_begin_again_after_the_largest() {
        let batch = sample(3, (5, 0, i32::MAX - 1), false);
        assert_eq!(Header::check(&batch).unwrap().last_sequence(), 0);
    }
}
