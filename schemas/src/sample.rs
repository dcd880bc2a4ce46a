//! A sample as a record of Kafka: what its row does not know, and what can be wrong with its bytes.

use crate::record::{Batch, Micros, Row, Span};
use std::fmt;
use std::ops::Range;

/// What the engine knows about a row beyond the row itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SampleMeta<'a> {
    /// The whole path: `enterprise/site/at/name`.
    pub tag: &'a str,
    /// Revision of the tag's definition in the catalog.
    pub def: i32,
    pub read_time: Micros,
    /// The device's claim, where it was not believed.
    pub device_time: Option<Micros>,
    /// `enterprise/site/name` of the source.
    pub source: &'a str,
    /// With `source`: the identity.
    pub seq: i64,
}

/// Why bytes are not a sample: the field, the byte, and what stands there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeError {
    pub field: &'static str,
    /// Offset into the record's bytes.
    pub at: usize,
    pub what: String,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot read `{}` of a sample at byte {}: {}", self.field, self.at, self.what)
    }
}

impl std::error::Error for DecodeError {}

/// A sample as read, before it becomes a row.
pub(crate) struct Decoded {
    pub row: Row,
    pub tag: Span,
    pub def: i32,
    pub read_time: Micros,
    pub device_time: Micros,
    pub source: Span,
    pub seq: i64,
}

impl Decoded {
    /// Heap spans are 32 bits wide: refuses what could outgrow them, nine bytes of heap for each byte of input at most.
    pub fn check_room(bytes: &[u8], batch: &Batch) -> Result<(), DecodeError> {
        if batch.heap.len() + bytes.len().saturating_mul(9) <= u32::MAX as usize {
            return Ok(());
        }
        let what = format!("{} bytes do not fit into a batch that holds {}", bytes.len(), batch.heap.len());
        Err(DecodeError { field: "tag", at: 0, what })
    }

    /// Pushes the sample that `read` finds, its texts on the batch's heap. After an error the batch is as before.
    pub fn push(batch: &mut Batch, read: impl FnOnce(&mut Batch) -> Result<Self, DecodeError>) -> Result<(), DecodeError> {
        let heap = batch.heap.len();
        read(batch).map(|decoded| decoded.push_to(batch)).inspect_err(|_| batch.heap.truncate(heap))
    }

    fn push_to(self, batch: &mut Batch) {
        batch.rows.push(self.row);
        let columns = batch.decoded.get_or_insert_default();
        columns.tag_path.push(self.tag);
        columns.source.push(self.source);
        columns.read_time.push(self.read_time);
        columns.device_time.push(self.device_time);
        columns.def.push(self.def);
        columns.seq.push(self.seq);
    }
}

type Encode = fn(&SampleMeta<'_>, &Row, &[u8], &mut Vec<u8>) -> Option<Range<usize>>;
type Decode = fn(&[u8], &mut Batch) -> Result<(), DecodeError>;

/// What must hold for any bytes: refused with the batch as before, or read, written and read again to the same bytes.
pub(crate) fn fuzz_sample(bytes: &[u8], encode: Encode, decode: Decode) {
    let write = |batch: &Batch| {
        let columns = batch.decoded.as_ref().expect("a decoded batch has columns");
        let meta = SampleMeta {
            tag: batch.text_of(columns.tag_path[0]),
            def: columns.def[0],
            read_time: columns.read_time[0],
            device_time: Some(columns.device_time[0]),
            source: batch.text_of(columns.source[0]),
            seq: columns.seq[0],
        };
        let mut out = Vec::new();
        encode(&meta, &batch.rows[0], &batch.heap, &mut out);
        out
    };
    let (mut first, mut second) = (Batch::new(), Batch::new());
    if decode(bytes, &mut first).is_err() {
        assert!(first.is_empty() && first.heap.is_empty(), "a refused sample leaves the batch as it was");
        return;
    }
    let written = write(&first);
    decode(&written, &mut second).expect("what we write we can read");
    assert_eq!(written, write(&second), "a sample comes back from its own encoding");
}
