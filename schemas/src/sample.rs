//! A sample as a record of Kafka: what its row does not know, and what can be wrong with its bytes.

use crate::record::Micros;
use std::fmt;

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
