//! Millrace's own state as an OPC UA server, for a SCADA system: what runs, what is wrong, how full the logs are. Nothing can be written.
//!
//! ```text
//! Objects/Millrace    Site, Version, Started, Status, Trouble, Alarms
//!   Kafka             Status, Reason, InFlight
//!   Disk              Free, Low
//!   Sources/NAME      Status, Reason, Since, Received, PerSecond, Waiting, Dead, Lost, LogFill, Tags, NewestAge
//!   Sinks/NAME        Status, Reason, Since, Written, Dead, Lag
//! ```
//!
//! - [`nodes`]: what there is, out of the report that the console shows. [`space`]: the nodes as they come and go. [`server`]: who may look, and how many.
//!
//! Invariants: a node id is its path (`Sources/press/Status`), the same after every start; off loopback nobody looks without a trusted certificate and a
//! password; sessions and what each may ask for are bounded.

pub mod nodes;
pub mod server;
pub mod space;

pub use nodes::Snapshot;
pub use server::{Error, Options, Server};

/// The namespace of every node.
pub const NAMESPACE: &str = "http://millrace.dev/status";
