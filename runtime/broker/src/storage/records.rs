//! The records inside a batch: for compaction and for finding a time, nowhere else.
//!
//! ```text
//! record  length varint | attributes 1 | time delta varint | offset delta varint | key length varint, key | value length varint, value | headers
//! ```
//!
//! Varints are zigzag; a length of -1 is null. What was compressed comes out bounded: a small batch cannot become a large one.
//! Source: Kafka protocol guide, "Record".

use std::io::{self, BufRead, BufReader, Read, Write};

use crate::storage::batch::{self, HEADER, Header};

/// Bytes that a batch may have uncompressed; beyond it is left alone.
const MOST: u64 = 32 << 20;
const LZ4: i16 = 3;

/// One record, as far as anybody here looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    pub offset_delta: i32,
    pub time_delta: i64,
    pub key: Option<&'a [u8]>,
    pub is_tombstone: bool,
    /// All of it, its length in front.
    raw: &'a [u8],
}

/// The records of a batch, uncompressed; `None` if they cannot be had.
pub fn unpack(header: &Header, batch: &[u8]) -> Option<Vec<u8>> {
    let packed = batch.get(HEADER..)?;
    let bounded = |reader: &mut dyn Read| -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        reader.take(MOST + 1).read_to_end(&mut out)?;
        if out.len() as u64 > MOST { Err(io::ErrorKind::InvalidData.into()) } else { Ok(out) }
    };
    match header.codec() {
        0 => Some(packed.to_vec()),
        1 => bounded(&mut flate2::read::MultiGzDecoder::new(packed)).ok(),
        2 => unsnap(packed),
        LZ4 => bounded(&mut lz4_flex::frame::FrameDecoder::new(packed)).ok(),
        4 => bounded(&mut ruzstd::decoding::StreamingDecoder::new(packed).ok()?).ok(),
        _ => None,
    }
}

/// Whether all records of a batch have a key. It is read through once; only raw snappy is held as a whole.
pub fn all_have_keys(header: &Header, batch: &[u8]) -> bool {
    let Some(packed) = batch.get(HEADER..) else { return false };
    let read = |reader: &mut dyn Read| keys_in(&mut BufReader::new(reader.take(MOST)), header.records).is_ok();
    match header.codec() {
        0 => read(&mut &*packed),
        1 => read(&mut flate2::read::MultiGzDecoder::new(packed)),
        2 => unsnap(packed).is_some_and(|records| read(&mut &*records)),
        LZ4 => read(&mut lz4_flex::frame::FrameDecoder::new(packed)),
        4 => ruzstd::decoding::StreamingDecoder::new(packed).is_ok_and(|mut decoder| read(&mut decoder)),
        _ => false,
    }
}

/// Reads so many records with keys. Errors: one has none, or there are fewer.
fn keys_in(records: &mut dyn BufRead, count: i32) -> io::Result<()> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    for _ in 0..count {
        let len = read_varint(records, &mut 0)?;
        let mut read = 1; // attributes
        records.read_exact(&mut [0])?;
        read_varint(records, &mut read)?; // time
        read_varint(records, &mut read)?; // offset
        if read_varint(records, &mut read)? < 0 {
            return Err(invalid());
        }
        let rest = u64::try_from(len).ok().and_then(|len| len.checked_sub(read)).ok_or_else(invalid)?;
        if io::copy(&mut (&mut *records).take(rest), &mut io::sink())? < rest {
            return Err(invalid());
        }
    }
    Ok(())
}

fn read_varint(from: &mut dyn BufRead, read: &mut u64) -> io::Result<i64> {
    let mut bytes = [0; 10];
    for i in 0..bytes.len() {
        from.read_exact(&mut bytes[i..=i])?;
        if bytes[i] & 0x80 == 0 {
            *read += i as u64 + 1;
            return varint(&mut &bytes[..=i]).ok_or_else(|| io::ErrorKind::InvalidData.into());
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}

/// Snappy as Java writes it, in chunks behind a head of its own, or as everybody else does.
fn unsnap(packed: &[u8]) -> Option<Vec<u8>> {
    const JAVA: &[u8] = b"\x82SNAPPY\0";
    let one = |chunk: &[u8]| {
        let len = snap::raw::decompress_len(chunk).ok().filter(|len| *len as u64 <= MOST)?;
        snap::raw::Decoder::new().decompress_vec(chunk).ok().filter(|out| out.len() == len)
    };
    if !packed.starts_with(JAVA) {
        return one(packed);
    }
    let (mut rest, mut out) = (packed.get(16..)?, Vec::new());
    while !rest.is_empty() {
        let (head, tail) = rest.split_first_chunk::<4>()?;
        let (chunk, tail) = tail.split_at_checked(u32::from_be_bytes(*head) as usize)?;
        out.extend(one(chunk)?);
        if out.len() as u64 > MOST {
            return None;
        }
        rest = tail;
    }
    Some(out)
}

/// Reads records one by one; ends at the first that is none.
pub struct Records<'a>(pub &'a [u8]);

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        let start = self.0;
        let len = usize::try_from(varint(&mut self.0)?).ok()?;
        let (mut body, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        let raw = &start[..start.len() - rest.len()];
        body = body.get(1..)?; // attributes: none are used
        let time_delta = varint(&mut body)?;
        let offset_delta = i32::try_from(varint(&mut body)?).ok()?;
        let key = nullable(&mut body)?;
        let is_tombstone = varint(&mut body)? < 0;
        Some(Record { offset_delta, time_delta, key, is_tombstone, raw })
    }
}

fn varint(bytes: &mut &[u8]) -> Option<i64> {
    let mut value = 0_u64;
    for i in 0..10 {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f).checked_shl(7 * i)?;
        if byte & 0x80 == 0 {
            return Some((value >> 1) as i64 ^ -((value & 1) as i64));
        }
    }
    None
}

fn nullable<'a>(bytes: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    let len = varint(bytes)?;
    if len < 0 {
        return Some(None);
    }
    let (taken, rest) = bytes.split_at_checked(usize::try_from(len).ok()?)?;
    *bytes = rest;
    Some(Some(taken))
}

/// A batch with some of its records, in their places: offsets, times, producer and sequence numbers stay. What was compressed is so again, with lz4.
pub fn repack(batch: &[u8], header: &Header, kept: &[Record<'_>]) -> io::Result<Vec<u8>> {
    let mut out = batch[..HEADER].to_vec();
    if header.codec() == 0 {
        kept.iter().for_each(|record| out.extend_from_slice(record.raw));
    } else {
        // Java reads independent blocks only.
        let info = lz4_flex::frame::FrameInfo::new().block_mode(lz4_flex::frame::BlockMode::Independent);
        let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, out);
        for record in kept {
            encoder.write_all(record.raw)?;
        }
        out = encoder.finish()?;
        let attributes = header.attributes & !7 | LZ4;
        out[21..23].copy_from_slice(&attributes.to_be_bytes());
    }
    out[57..61].copy_from_slice(&(kept.len() as i32).to_be_bytes());
    batch::seal(&mut out);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::batch::tests::sample;

    fn packed(codec: i16, pack: impl FnOnce(&[u8]) -> Vec<u8>) -> Vec<u8> {
        let mut batch = sample(3, (-1, -1, -1), false);
        let records = batch.split_off(HEADER);
        batch[21..23].copy_from_slice(&codec.to_be_bytes());
        batch.extend(pack(&records));
        batch::seal(&mut batch);
        batch
    }

    fn java_snappy(records: &[u8]) -> Vec<u8> {
        let mut out = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01".to_vec();
        for part in records.chunks(7) {
            let chunk = snap::raw::Encoder::new().compress_vec(part).unwrap();
            out.extend((chunk.len() as u32).to_be_bytes());
            out.extend(chunk);
        }
        out
    }

    #[test]
    fn records_of_every_codec_are_read_and_packed_again_in_their_places() {
        let gzip = |records: &[u8]| {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(records).unwrap();
            encoder.finish().unwrap()
        };
        let lz4 = |records: &[u8]| {
            let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
            encoder.write_all(records).unwrap();
            encoder.finish().unwrap()
        };
        let zstd = |records: &[u8]| ruzstd::encoding::compress_to_vec(records, ruzstd::encoding::CompressionLevel::Fastest);
        let batches = [
            packed(0, <[u8]>::to_vec),
            packed(1, gzip),
            packed(2, |records| snap::raw::Encoder::new().compress_vec(records).unwrap()),
            packed(2, java_snappy),
            packed(3, lz4),
            packed(4, zstd),
        ];
        for batch in batches {
            let header = Header::check(&batch).unwrap();
            let unpacked = unpack(&header, &batch).unwrap_or_else(|| panic!("codec {}", header.codec()));
            let records: Vec<_> = Records(&unpacked).collect();
            assert_eq!(records.len(), 3);
            assert!(!all_have_keys(&header, &batch), "codec {}", header.codec());
            assert_eq!((records[2].offset_delta, records[2].time_delta, records[2].key), (2, 2, None));
            let again = repack(&batch, &header, &records[1..2]).unwrap();
            let header = Header::read(&again).unwrap();
            assert_eq!((header.records, header.last_offset_delta), (1, 2));
            let unpacked = unpack(&header, &again).unwrap();
            assert_eq!(Records(&unpacked).collect::<Vec<_>>(), records[1..2]);
        }
    }

    #[test]
    fn records_with_keys_are_told_from_those_without_in_every_codec() {
        // Length 8, attributes, time, offset, a key of one byte, a value of one byte, no headers.
        let with_key = [16, 0, 0, 0, 2, b'k', 2, b'v', 0];
        let without = [14, 0, 0, 0, 1, 2, b'v', 0];
        let lz4 = |records: &[u8]| {
            let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
            encoder.write_all(records).unwrap();
            encoder.finish().unwrap()
        };
        let zstd = |records: &[u8]| ruzstd::encoding::compress_to_vec(records, ruzstd::encoding::CompressionLevel::Fastest);
        for (records, expected) in [([with_key, with_key].concat(), true), ([&with_key[..], &without[..]].concat(), false)] {
            let pack = |codec: i16, pack: &dyn Fn(&[u8]) -> Vec<u8>| {
                let mut batch = sample(2, (-1, -1, -1), false)[..HEADER].to_vec();
                batch[21..23].copy_from_slice(&codec.to_be_bytes());
                batch.extend(pack(&records));
                batch::seal(&mut batch);
                batch
            };
            let batches = [pack(0, &<[u8]>::to_vec), pack(2, &java_snappy), pack(3, &lz4), pack(4, &zstd)];
            for batch in batches {
                let header = Header::check(&batch).unwrap();
                assert_eq!(all_have_keys(&header, &batch), expected, "codec {}", header.codec());
                let more = Header { records: 3, ..header };
                assert!(!all_have_keys(&more, &batch), "codec {}: a record is missing", header.codec());
            }
        }
    }

    #[test]
    fn garbage_is_no_record() {
        for bytes in [&[][..], &[0xff; 20], &[2, 0], &[200, 1, 0], &[8, 0, 0, 0, 40]] {
            assert_eq!(Records(bytes).next(), None, "{bytes:?}");
        }
        let mut bomb = sample(1, (-1, -1, -1), false);
        bomb.truncate(HEADER);
        bomb[22] = 2;
        bomb.extend([0xff, 0xff, 0xff, 0xff, 0x0f]);
        assert_eq!(unpack(&Header::read(&bomb).unwrap(), &bomb), None);
    }
}
