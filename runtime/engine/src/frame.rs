//! What the engine keeps inside one opaque batch of the log: records ready for Kafka, and what must survive with them.
//!
//! ```text
//! batch   = u8 version | u8 flags (1: body is lz4) | header | body
//! header  = u32 its length, then varints:
//!           read_time (zigzag, µs) | first offset's lane total | data records | body length, unpacked
//!           | n counts, each u64                                  the ledger's intake counts after this batch, see `ledger`
//!           | n topics, each: length name, u64 schema fingerprint (0: none)
//!           | n moved positions, each: length key, length + 1 value (0: the key is removed)
//!           | n pieces of a split batch, each: u8 lane, offset below which that lane must be delivered before the positions count
//! body    = records, each:
//!           length | offset - first | topic index | timestamp - read_time in ms (zigzag) | u8 flags
//!           | key: in the value: start, length; else: length, bytes | length headers | value (with a schema: 5 reserved bytes in front)
//! ```
//!
//! Self-contained: a batch names its own topics and schemas, so a segment can go without any other.
//! A record that is not data (a dead letter, a catalog entry) is marked `AUX` and not counted as appended.
//! Lane total: how many data records the lane ever held before this batch; a gap between two batches is a counted loss.

mod builder;
mod read;

pub use builder::{Builder, Extra};
pub use read::{Frame, FrameError, RecordView, fuzz_frame, records, stamp};

pub(super) const VERSION: u8 = 1;

pub(super) const LZ4: u8 = 1;

/// A body that claims more than this is not read.
pub(super) const BODY_MAX: usize = 256 << 20;

/// Room for a registry's prefix: magic byte and schema id.
pub const RESERVED: usize = 5;

/// The lanes of a source, first to last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(u8)]
pub enum Lane {
    First = 0,
    #[default]
    Normal = 1,
    Bulk = 2,
}

impl Lane {
    pub const ALL: [Self; 3] = [Self::First, Self::Normal, Self::Bulk];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Normal => "normal",
            Self::Bulk => "bulk",
        }
    }
}

/// Flags of a record.
pub mod flag {
    /// The key is a piece of the value.
    pub const KEY_IN_VALUE: u8 = 1;
    /// The key is null.
    pub const NO_KEY: u8 = 2;
    /// The value is null.
    pub const TOMBSTONE: u8 = 4;
    /// Not data: a dead letter made at intake, a catalog entry.
    pub const AUX: u8 = 8;
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Key<'a> {
    None,
    Bytes(&'a [u8]),
    /// A piece of the value, counted from behind the reserved bytes.
    InValue {
        start: u32,
        len: u32,
    },
}

/// What a record is, beside its key and value.
#[derive(Clone, Copy)]
pub struct Record<'a> {
    pub offset: u64,
    pub topic: &'a std::sync::Arc<str>,
    /// The fingerprint of its schema; 0: none.
    pub schema: u64,
    pub timestamp_ms: i64,
    /// [`flag::AUX`] or nothing; the other flags follow from key and value.
    pub flags: u8,
    /// In the layout of `millrace_schemas::headers`.
    pub headers: &'a [u8],
}

impl<'a> Record<'a> {
    /// A record of data, without headers.
    pub fn data(offset: u64, topic: &'a std::sync::Arc<str>, schema: u64, timestamp_ms: i64) -> Self {
        Self { offset, topic, schema, timestamp_ms, flags: 0, headers: &[] }
    }

    /// A record that is not data, without schema and headers.
    pub fn aux(offset: u64, topic: &'a std::sync::Arc<str>, timestamp_ms: i64) -> Self {
        Self { flags: flag::AUX, ..Self::data(offset, topic, 0, timestamp_ms) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_schemas::Micros;
    use proptest::prelude::*;
    use std::sync::Arc;

    fn sample_batch(builder: &mut Builder, n: u64) -> Vec<u8> {
        let topic: Arc<str> = "telemetry".into();
        let docs: Arc<str> = "docs".into();
        builder.begin(Micros(1_700_000_000_123_456));
        for i in 0..n {
            let record = Record {
                offset: 100 + 2 * i,
                topic: &topic,
                schema: 7,
                timestamp_ms: 1_700_000_000_000 + i as i64,
                flags: 0,
                headers: b"",
            };
            builder.push(
                &record,
                Some(|out: &mut Vec<u8>| {
                    out.extend_from_slice(b"..plant/line/temperature..");
                    Key::InValue { start: 2, len: 22 }
                }),
                Key::None,
            );
        }
        let gone = Record { offset: 5000, topic: &docs, schema: 0, timestamp_ms: 0, flags: flag::AUX, headers: b"hh" };
        builder.push(&gone, None::<fn(&mut Vec<u8>) -> Key<'static>>, Key::Bytes(b"gone"));
        let extra = Extra { lane_total: 42, counts: &[1, 2, 3], moved: &[("a", b"1"), ("b", b"")], split: &[(Lane::First, 9)] };
        builder.finish(extra, true).concat()
    }

    #[test]
    fn a_batch_comes_back_as_built() {
        for n in [0, 1, 200] {
            let mut builder = Builder::default();
            let bytes = sample_batch(&mut builder, n);
            let frame = Frame::read(&bytes).unwrap();
            assert_eq!((frame.lane_total, frame.data_records), (42, n));
            assert_eq!(frame.counts, [1, 2, 3]);
            assert_eq!(frame.moved, [("a", &b"1"[..]), ("b", &b""[..])]);
            assert_eq!(frame.split, [(Lane::First, 9)]);
            let mut body = Vec::new();
            frame.unpack(&mut body).unwrap();
            let got: Vec<_> = records(&body, &frame.topics).map(Result::unwrap).collect();
            assert_eq!(got.len() as u64, n + 1);
            for (i, record) in got[..n as usize].iter().enumerate() {
                assert_eq!(record.delta, 2 * i as u64);
                assert_eq!(&body[record.key.clone().unwrap()], b"plant/line/temperature");
                assert_eq!(&body[record.value.clone().unwrap()], b"..plant/line/temperature..");
                assert!(record.reserved);
                assert_eq!(record.timestamp_delta_ms, i as i64 - 123);
            }
            let last = &got[n as usize];
            assert_eq!(last.value, None);
            assert_eq!(&body[last.key.clone().unwrap()], b"gone");
            assert_eq!(&body[last.headers.clone()], b"hh");
            assert_eq!(last.flags & flag::AUX, flag::AUX);
        }
    }

    #[test]
    fn an_unknown_version_is_named() {
        let mut bytes = sample_batch(&mut Builder::default(), 1);
        bytes[0] = 9;
        assert_eq!(Frame::read(&bytes).unwrap_err(), FrameError::Version(9));
    }

    #[test]
    fn a_prefix_stands_in_the_reserved_bytes_and_nothing_else_has_changed() {
        let bytes = sample_batch(&mut Builder::default(), 3);
        let frame = Frame::read(&bytes).unwrap();
        let mut body = Vec::new();
        frame.unpack(&mut body).unwrap();
        let before = body.clone();
        stamp(&mut body, &frame.topics, &[Some([0, 1, 2, 3, 4]), Some([9; 5])]);
        let views: Vec<_> = records(&before, &frame.topics).map(Result::unwrap).collect();
        for value in views.iter().filter_map(|v| v.value.clone()) {
            assert_eq!(&body[value.start - RESERVED..value.start], [0, 1, 2, 3, 4]);
        }
        let changed = before.iter().zip(&body).filter(|(a, b)| a != b).count();
        assert_eq!(changed, 3 * 4, "the magic byte is zero already");
        assert_eq!(records(&body, &frame.topics).map(Result::unwrap).collect::<Vec<_>>(), views);
    }

    proptest! {
        #[test]
        fn flipped_bytes_never_panic(at in 0usize..400, flip in 1u8..=255) {
            let mut bytes = sample_batch(&mut Builder::default(), 8);
            let at = at % bytes.len();
            bytes[at] ^= flip;
            fuzz_frame(&bytes);
        }

        #[test]
        fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            fuzz_frame(&bytes);
            let mut with_version = vec![1, 0];
            with_version.extend_from_slice(&bytes);
            fuzz_frame(&with_version);
        }
    }
}
