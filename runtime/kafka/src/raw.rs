//! Every unsafe line of this crate but those that read the table of error codes: owned handles of librdkafka, and calls that take plain Rust values.
//!
//! Invariants: a handle is destroyed once, by the Rust value that owns it; queues, topics and lists hold the client alive that they
//! belong to; what a pointer of librdkafka shows is borrowed from the event or message that owns it. Error numbers coming out of
//! messages are read as integers, because a newer broker may send one that the bindings' enum does not know.

pub mod admin;
mod client;
mod event;
pub mod groups;
mod handles;
pub mod identity;
mod list;
mod pin;
pub mod rights;
mod text;

pub use client::{Conf, Native, Role, TopicMetadata, TransactionFault};
pub use event::{Event, RawMessage};
pub use handles::{GroupHandle, HeaderList, Queue, TopicHandle};
pub use list::List;
pub use pin::Pin;
