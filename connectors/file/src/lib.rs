//! Files as a source and as a sink: NDJSON and CSV, for test stands, for archives, for air gaps and data diodes.
//!
//! ```text
//! source  watch  ->  records  ->  content  ->  batch, with the file's position
//! sink    records of Kafka  ->  envelope | samples | CSV  ->  archive: files on disk, with the offsets they hold
//! ```
//!
//! - [`watch`]: which files there are to read, through rotations; [`position`]: whether a file is still the one that was read.
//! - [`records`]: bytes cut into records; [`csv`]: fields of one; [`content`]: a record into a document; [`samples`]: into samples.
//! - [`envelope`]: a record of Kafka as a line, there and back.
//! - [`config`]: the keys of the YAML; [`reading`]: one file being read; [`source`]: the session.
//! - [`archive`]: files being written, and what is durable in them; [`sink`]: lines and their files.
//!
//! Invariants: a position moves only with the records it covers; memory does not grow with a file; a bad record costs itself.

pub mod archive;
pub mod config;
pub mod content;
pub mod csv;
pub mod envelope;
pub mod position;
mod reading;
pub mod records;
pub mod samples;
pub mod sink;
pub mod source;
pub mod watch;

pub use config::FileSourceConfig;
pub use position::ReadUpTo;
pub use records::head;
pub use sink::{FileSinkConfig, FileSinkPlugin};
pub use source::FileSourcePlugin;
