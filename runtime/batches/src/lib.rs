//! Record batches of Kafka as they stand on the wire and on the disk: for the broker that stores them, and for the client that forwards them whole.
//!
//! - [`header`]: the first 61 bytes, read, checked, and rewritten for another log.
//! - [`records`]: what is behind them, for those who must look: unpacked, read one by one, packed again.
//!
//! Invariants: no byte of a batch is believed before its checksum is; nothing is allocated on the word of a length; no crate of ours is known here.

pub mod header;
pub mod records;

pub use header::{BatchFault, HEADER, Header, Sender};
