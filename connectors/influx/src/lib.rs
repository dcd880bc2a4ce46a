//! Samples to InfluxDB and QuestDB, as lines of the line protocol over HTTP.
//!
//! ```text
//! sample ─ line ─▶ waiting ─ 5,000 lines, or flush_every ─▶ POST, gzip ─┬─ 2xx ─────────────────────▶ offsets are committed
//!                                                                       ├─ 400, 413, 422 ─▶ smaller pieces; a line alone ─▶ dead letter
//!                                                                       └─ anything else ─▶ a failure; all of it is sent again
//! ```
//!
//! - [`config`]: the keys of the YAML, checked without I/O. [`line`]: a sample as a line; pure. [`answer`]: which lines an answer is about; pure.
//! - [`sink`]: the session.
//!
//! Invariants: a line is a function of tag, time, value and status alone, so that sending it again changes nothing; a value keeps its type, in a field of
//! its own for each type; a line that is refused spares its neighbours; what is sent is bounded, and what waits, too.

pub mod answer;
pub mod config;
pub mod line;
pub mod sink;

pub use sink::InfluxSink;
