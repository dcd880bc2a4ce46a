//! Which number does a new incarnation of a log begin with?

use millrace_schemas::Micros;

/// No clock older than this program is used to number a new incarnation: 2026-11-01.
const PROGRAM_BUILT: u64 = 1_793_491_200;

/// Offsets left out above those that may have been used: more than any source sends between two cursors.
pub(super) const APART: u64 = 1 << 20;

/// Offsets left out where a source is taken over: more than a runtime that is cut off reads of it in a month, at a thousand a second.
pub(super) const TAKEN_OVER_APART: u64 = 1 << 32;

/// The first offset of a new incarnation: from the clock, unless it is not believed. The microseconds count, so that one that
/// follows another within a second is above it.
pub(super) fn incarnation(now: Micros) -> u64 {
    let now = now.0.max(0) as u64;
    (now / 1_000_000).max(PROGRAM_BUILT) << 20 | (now % 1_000_000)
}

/// Whether a clock may number a new incarnation: it is not older than the program.
pub fn is_believed(now: Micros) -> bool {
    now.0 / 1_000_000 >= PROGRAM_BUILT as i64
}
