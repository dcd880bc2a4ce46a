//! The JSON form of a sample.

use crate::record::{Batch, Row};
use crate::sample::{DecodeError, SampleMeta};
use std::ops::Range;

/// Appends one sample to `out`. Returns where in `out` the tag's path lies as it is, for the record's key; `None` where it had to be escaped.
pub fn encode(meta: &SampleMeta<'_>, row: &Row, heap: &[u8], out: &mut Vec<u8>) -> Option<Range<usize>> {
    let _ = (meta, row, heap, out);
    todo!()
}

/// Reads one sample into a row of `batch`, with its `decoded` columns. After an error the batch is as before.
pub fn decode(bytes: &[u8], batch: &mut Batch) -> Result<(), DecodeError> {
    let _ = (bytes, batch);
    todo!()
}
