//! The embedded registry: Confluent's REST interface over a compacted topic.
//!
//! ```text
//! request ── parsed, judged ── one writer at a time ── _schemas ── read back ── applied ── answer
//!                                                         │
//! start ── created where missing ── read to its end ──────┘
//! ```
//!
//! - [`record`]: keys and values of `_schemas`, as Confluent writes them; [`state`]: what they add up to.
//! - [`topic`]: the topic itself. - [`operations`]: what each request does. - [`rest`]: paths, bodies, status codes.
//! - [`guard`]: who is let in.
//! - [`level`]: which older versions a new one must fit, and how.
//!
//! Invariants: what is answered is what the topic says, nothing else; a write is acknowledged when Kafka has it and it was read back. One
//! registry writes to the topic. Before the topic was read, every answer is 50001, which clients take as "later". Schemas are parsed apart
//! from the runtime's threads; their size, depth, references and comparisons are bounded.
//!
//! Not here: contexts, metadata, rules and data encryption of Confluent's; a request with them is refused.

mod guard;
mod level;
mod operations;
mod record;
mod registry;
mod rest;
mod state;
mod topic;

pub use level::Level;
pub use registry::Registry;
pub(crate) use registry::bears;
pub use rest::{ServeError, router, serve};
pub use topic::TOPIC;
