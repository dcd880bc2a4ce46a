//! What several connectors need and none should write twice.
//!
//! Polled protocols (Modbus, S7, OPC UA) build on, in the order of a source's life:
//! - [`groups`]: the keys of groups, devices and triggers in the YAML; [`polled`]: those compiled into plain lists of groups and tags.
//! - [`connections`]: a session over several connections; [`cycles`]: when which groups are read; [`breaker`]: a device that does not answer;
//!   [`retry`]: an item that fails by itself; [`trigger`]: one document per event, acknowledged to the device.
//! - [`after_sync`]: what waits for the log; [`leaves`]: tags of a structure's leaves; [`fit`]: a command's value in a device's type;
//!   [`registers`]: words and registers as numbers and texts.
//!
//! Every protocol: [`endpoints`], [`tls`], [`login`], samples out of records ([`extract`]), records of JSON as samples or documents ([`records`]),
//! what documents look like whose shape a source knows ([`shape`]), and documents as rows of a table ([`documents`], [`declared`]),
//! [`time`], texts with names in braces ([`template`]); a client for servers that speak HTTP (`http`, a feature).
//!
//! Invariants: nothing here knows a protocol; nothing here does I/O before a session asks for it.

pub mod after_sync;
pub mod breaker;
pub mod connections;
pub mod cycles;
pub mod declared;
pub mod documents;
pub mod encoding;
pub mod endpoints;
pub mod extract;
pub mod fit;
pub mod groups;
#[cfg(feature = "http")]
pub mod http;
pub mod leaves;
pub mod login;
pub mod parts;
pub mod polled;
pub mod records;
pub mod registers;
pub mod retry;
pub mod shape;
pub mod template;
pub mod time;
pub mod tls;
pub mod topics;
pub mod trigger;

pub use after_sync::AfterSync;
pub use breaker::{Breaker, Permit};
pub use connections::{Connection, Connections, Others};
pub use cycles::{Cycles, Due};
pub use encoding::Encoding;
pub use endpoints::Endpoints;
pub use leaves::Leaves;
pub use login::Login;
pub use polled::{Addressed, Polled, Protocol, TagAt};
pub use retry::{Backoff, Retries};
pub use template::Template;
pub use tls::Tls;
pub use topics::AllowedTopics;
pub use trigger::Triggers;
