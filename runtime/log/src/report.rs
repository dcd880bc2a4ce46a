//! What a log tells of itself.

use std::path::PathBuf;

/// What opening a log found.
#[derive(Clone, Debug, Default)]
pub struct Recovery {
    /// The directory held no log yet.
    pub created: bool,
    /// Bytes of a torn tail that were cut off; nothing of it was synced.
    pub truncated_bytes: u64,
    pub quarantined: Vec<Quarantined>,
    /// Segments whose damaged header was rebuilt; nothing is lost by that.
    pub rebuilt_headers: u32,
    /// Records of the quarantined places; `None`: unknown.
    pub records_lost: Option<u64>,
    /// Bytes read to recover.
    pub scanned_bytes: u64,
    /// [`repair`](crate::offline::repair) only: what files set aside earlier gave back.
    pub salvaged: Salvaged,
}

/// A segment file set aside because a part of it is corrupt.
#[derive(Clone, Debug)]
pub struct Quarantined {
    pub path: PathBuf,
    pub reason: String,
    /// Bytes that could not be used.
    pub bytes: u64,
    /// Records in them; `None`: unknown.
    pub records: Option<u64>,
}

/// Where a batch went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Appended {
    pub first: u64,
    /// The log's new end.
    pub next: u64,
    /// Bytes on disk with the batch's header.
    pub bytes: u64,
}

/// A segment as retention sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentInfo {
    pub base: u64,
    pub next: u64,
    pub bytes: u64,
    pub records: u64,
    /// Microseconds since 1970 of the first batch; 0 in an empty segment.
    pub first_append: i64,
    pub last_append: i64,
    pub sealed: bool,
}

/// What went wrong with a log's disk since it was opened.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    pub failed_writes: u64,
    pub failed_syncs: u64,
    /// The last failure, while it lasts.
    pub now: Option<String>,
    pub quarantined: Vec<Quarantined>,
    /// Records in quarantined places found since the log was opened.
    pub records_lost: u64,
}

/// What files set aside earlier gave back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Salvaged {
    pub batches: u64,
    pub records: u64,
    /// Intact, and left where they are: every reader of the log has passed them.
    pub passed: u64,
}
