//! The records inside a batch: for compaction, for finding a time, and for what of a batch cannot be forwarded whole.
//!
//! ```text
//! record  length varint | attributes 1 | time delta varint | offset delta varint | key length varint, key | value length varint, value | headers
//! ```
//!
//! Varints are zigzag; a length of -1 is null. What was compressed comes out bounded: a small batch cannot become a large one.
//! Source: Kafka protocol guide, "Record".

use std::io::{self, BufRead, BufReader, Read, Write};

use crate::header::{self, HEADER, Header};

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
    /// What is behind its offset: key, value and headers.
    content: &'a [u8],
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
        let content = body;
        let key = nullable(&mut body)?;
        let is_tombstone = varint(&mut body)? < 0;
        Some(Record { offset_delta, time_delta, key, is_tombstone, raw, content })
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

/// A batch whose offsets have no holes, made of single records. Times are their own.
#[derive(Default)]
pub struct Builder {
    records: Vec<u8>,
    count: i32,
    first_time: i64,
    newest_time: i64,
    /// Of one record, used again for the next.
    one: Vec<u8>,
}

impl Builder {
    /// Appends a record without headers.
    pub fn push(&mut self, time: i64, key: Option<&[u8]>, value: Option<&[u8]>) {
        let mut content = Vec::with_capacity(key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len) + 12);
        for field in [key, value] {
            put_varint(&mut content, field.map_or(-1, |field| field.len() as i64));
            content.extend_from_slice(field.unwrap_or_default());
        }
        put_varint(&mut content, 0);
        self.push_content(time, &content);
    }

    fn push_content(&mut self, time: i64, content: &[u8]) {
        if self.count == 0 {
            (self.first_time, self.newest_time) = (time, time);
        }
        self.newest_time = self.newest_time.max(time);
        self.one.clear();
        self.one.push(0);
        put_varint(&mut self.one, time.wrapping_sub(self.first_time));
        put_varint(&mut self.one, i64::from(self.count));
        put_varint(&mut self.records, (self.one.len() + content.len()) as i64);
        self.records.extend_from_slice(&self.one);
        self.records.extend_from_slice(content);
        self.count += 1;
    }

    /// The batch, of no producer yet; compressed with lz4 if wanted. Errors: it has no record, or they are more than a batch may have.
    pub fn finish(self, compressed: bool) -> io::Result<Vec<u8>> {
        if self.count <= 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut out = vec![0; HEADER];
        out[16] = header::MAGIC as u8;
        out[21..23].copy_from_slice(&(if compressed { LZ4 } else { 0 }).to_be_bytes());
        out[23..27].copy_from_slice(&(self.count - 1).to_be_bytes());
        out[27..35].copy_from_slice(&self.first_time.to_be_bytes());
        out[35..43].copy_from_slice(&self.newest_time.to_be_bytes());
        out[43..57].fill(0xff);
        out[57..61].copy_from_slice(&self.count.to_be_bytes());
        if compressed {
            out = lz4(out, std::iter::once(&self.records[..]))?;
        } else {
            out.extend_from_slice(&self.records);
        }
        header::seal(&mut out);
        Ok(out)
    }
}

/// A batch with the records of another one from an offset on, without holes between theirs, each with the time that readers see; `None`: there are none.
/// What was compressed is so again, with lz4. Errors: they cannot be read, or not in bounded memory.
pub fn dense(header: &Header, batch: &[u8], from: i64) -> io::Result<Option<Vec<u8>>> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    let records = unpack(header, batch).ok_or_else(invalid)?;
    let mut builder = Builder::default();
    let mut read = 0;
    for record in Records(&records) {
        read += 1;
        if header.base_offset.saturating_add(i64::from(record.offset_delta)) >= from {
            // The broker's clock counts where it has overwritten the records' own times.
            let own = header.first_time.wrapping_add(record.time_delta);
            builder.push_content(if header.is_log_append_time() { header.newest_time } else { own }, record.content);
        }
    }
    if read != header.records {
        return Err(invalid());
    }
    if builder.count == 0 { Ok(None) } else { builder.finish(header.codec() != 0).map(Some) }
}

/// Appends records, compressed together. Java reads independent blocks only.
fn lz4<'a>(out: Vec<u8>, records: impl Iterator<Item = &'a [u8]>) -> io::Result<Vec<u8>> {
    let info = lz4_flex::frame::FrameInfo::new().block_mode(lz4_flex::frame::BlockMode::Independent);
    let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, out);
    for record in records {
        encoder.write_all(record)?;
    }
    Ok(encoder.finish()?)
}

fn put_varint(out: &mut Vec<u8>, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// A batch with some of its records, in their places: offsets, times, producer and sequence numbers stay. What was compressed is so again, with lz4.
pub fn repack(batch: &[u8], header: &Header, kept: &[Record<'_>]) -> io::Result<Vec<u8>> {
    let mut out = batch[..HEADER].to_vec();
    if header.codec() == 0 {
        kept.iter().for_each(|record| out.extend_from_slice(record.raw));
    } else {
        out = lz4(out, kept.iter().map(|record| record.raw))?;
        let attributes = header.attributes & !7 | LZ4;
        out[21..23].copy_from_slice(&attributes.to_be_bytes());
    }
    out[57..61].copy_from_slice(&(kept.len() as i32).to_be_bytes());
    header::seal(&mut out);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::header::sample;
    use bytes::{Bytes, BytesMut};
    use indexmap::IndexMap;
    use kafka_protocol::protocol::StrBytes;
    use kafka_protocol::records::{Compression, RecordBatchDecoder, RecordBatchEncoder, RecordEncodeOptions, TimestampType};

    fn packed(codec: i16, pack: impl FnOnce(&[u8]) -> Vec<u8>) -> Vec<u8> {
        let mut batch = sample(3, (-1, -1, -1), false);
        let records = batch.split_off(HEADER);
        batch[21..23].copy_from_slice(&codec.to_be_bytes());
        batch.extend(pack(&records));
        header::seal(&mut batch);
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
                header::seal(&mut batch);
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

    /// A batch as a foreign encoder writes it.
    fn foreign(compression: Compression, transactional: bool) -> Vec<u8> {
        let record = |n: i64| kafka_protocol::records::Record {
            transactional,
            control: false,
            delete_horizon: false,
            partition_leader_epoch: 3,
            producer_id: 9,
            producer_epoch: 1,
            timestamp_type: TimestampType::Creation,
            offset: 40 + n,
            sequence: n as i32,
            timestamp: 1_000 - n,
            key: (n != 1).then(|| format!("k{n}").into()),
            value: (n != 2).then(|| Bytes::from("v".repeat(n as usize))),
            headers: IndexMap::from([("h".into(), (n > 0).then(|| n.to_string().into()))]),
        };
        let records: Vec<_> = (0..4).map(record).collect();
        let mut out = BytesMut::new();
        RecordBatchEncoder::encode(&mut out, &records, &RecordEncodeOptions { version: 2, compression }).unwrap();
        out.to_vec()
    }

    /// What a foreign decoder finds: sequence, time, key, value, headers.
    type Found = Vec<(i64, i32, i64, Option<Bytes>, Option<Bytes>, Vec<(String, Option<Bytes>)>)>;

    fn found(batch: &[u8]) -> Found {
        let mut bytes = Bytes::copy_from_slice(batch);
        let set = RecordBatchDecoder::decode(&mut bytes).expect("a foreign decoder reads it");
        let headers = |all: IndexMap<_, _>| all.into_iter().map(|(name, value): (StrBytes, _)| (name.to_string(), value)).collect();
        set.records.into_iter().map(|r| (r.producer_id, r.sequence, r.timestamp, r.key, r.value, headers(r.headers))).collect()
    }

    #[test]
    fn a_forwarded_batch_is_another_producers_and_the_same_records_to_a_foreign_decoder() {
        let batch = foreign(Compression::None, false);
        let sender = header::Sender { producer_id: 77, producer_epoch: 5, first_sequence: 1_000, is_transactional: true };
        let head = header::forwarded(&batch, &sender).unwrap();
        let sent = [&head[..], &batch[HEADER..]].concat();
        let header = Header::check(&sent).unwrap();
        assert_eq!((header.base_offset, header.records, header.is_transactional()), (0, 4, true));
        assert_eq!((header.producer_id, header.producer_epoch, header.first_sequence), (77, 5, 1_000));
        let moved: Found = found(&batch).into_iter().map(|r| (77, r.1 + 1_000, r.2, r.3, r.4, r.5)).collect();
        assert_eq!(found(&sent), moved);
        // Out of a transaction at home into none.
        let committed = foreign(Compression::None, true);
        let head = header::forwarded(&committed, &header::Sender { is_transactional: false, ..sender }).unwrap();
        assert!(!Header::check(&[&head[..], &committed[HEADER..]].concat()).unwrap().is_transactional());
        // What was damaged gets no checksum that fits.
        for at in 16..batch.len() {
            let mut damaged = batch.clone();
            damaged[at] ^= 1;
            assert!(header::forwarded(&damaged, &sender).is_err(), "{at}");
        }
        assert_eq!(header::forwarded(&batch[..batch.len() - 1], &sender), Err(header::BatchFault::Corrupt));
    }

    #[test]
    fn of_a_batch_with_holes_or_from_its_middle_on_the_records_are_left_without_holes() {
        let batch = foreign(Compression::None, false);
        let header = Header::read(&batch).unwrap();
        let unpacked = unpack(&header, &batch).unwrap();
        let kept: Vec<_> = Records(&unpacked).filter(|record| record.offset_delta % 2 == 1).collect();
        let holes = repack(&batch, &header, &kept).unwrap();
        let header = Header::read(&holes).unwrap();
        assert!(!header.is_dense());
        let all = found(&batch);
        let of = |records: &[usize]| -> Found {
            records
                .iter()
                .enumerate()
                .map(|(n, i)| {
                    let r = all[*i].clone();
                    (-1, n as i32 - 1, r.2, r.3, r.4, r.5)
                })
                .collect()
        };
        let packed = dense(&header, &holes, 0).unwrap().unwrap();
        Header::check(&packed).unwrap();
        assert_eq!(found(&packed), of(&[1, 3]));
        let packed = dense(&header, &holes, 42).unwrap().unwrap();
        assert_eq!(found(&packed), of(&[3]));
        assert_eq!(dense(&header, &holes, 44).unwrap(), None);
        assert!(dense(&Header { records: 3, ..header }, &holes, 0).is_err(), "a record is missing");
        // By the clock of the broker.
        let stamped = header::with_append_time(&batch, 5_000);
        let packed = dense(&Header::read(&stamped).unwrap(), &stamped, 0).unwrap().unwrap();
        assert!(found(&packed).iter().all(|record| record.2 == 5_000));
        assert!(!Header::check(&packed).unwrap().is_log_append_time());
    }

    #[test]
    fn a_batch_of_single_records_is_one_to_a_foreign_decoder() {
        let mut builder = Builder::default();
        builder.push(7, Some(b"k"), Some(b"v"));
        builder.push(6, None, Some(b""));
        builder.push(300, Some(b""), None);
        let batch = builder.finish(false).unwrap();
        Header::check(&batch).unwrap();
        let plain: Vec<_> = found(&batch).into_iter().map(|r| (r.2, r.3, r.4)).collect();
        let some = |text: &'static str| Some(Bytes::from(text));
        assert_eq!(plain, [(7, some("k"), some("v")), (6, None, some("")), (300, some(""), None)]);
        assert!(Builder::default().finish(true).is_err());
    }
}
