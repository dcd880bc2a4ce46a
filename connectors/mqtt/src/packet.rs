//! MQTT control packets on the wire, of both versions: what a client receives, borrowed from the read buffer, and what it sends, appended to a buffer.
//!
//! ```text
//! packet   type and flags (1) | remaining length (1 to 4, seven bits each, least first) | variable header | payload
//! text     length (2, big-endian) | UTF-8, no NUL          properties (5 only)   length (variable) | (identifier, value)*
//! ```
//!
//! Reading allocates nothing and copies nothing: a PUBLISH is its topic, its property bytes and its payload, where they lie. Lengths are checked
//! against what is there before anything is believed. Packets only a server receives are not read here; `sim` does that with the same pieces.
//!
//! Source: OASIS MQTT 3.1.1 and MQTT 5.0; sections are those of 5.0.

mod code;
mod read;
mod write;

pub use code::code_name;
pub use read::*;
pub use write::*;
