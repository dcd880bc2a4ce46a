//! For tests only: what a connector is tested against.
//!
//! - [`host`]: the engine's side of a source, in memory; the test decides when data is durable, when the log is full, when to stop or crash.
//! - [`conformance`]: the suite that every source and every sink runs.
//! - [`databases`]: PostgreSQL and MariaDB of Debian, each with data of its own; [`influx`]: InfluxDB of Debian.
//! - [`proxy`]: a TCP connection that can be cut, slowed, delayed, silenced, refused and corrupted.
//! - [`memory`]: an allocator that knows how much is held.
//! - [`yaml`]: a connector compiled from its YAML, as the runtime does it.
//!
//! Invariants: only ever a dev-dependency; no test waits for a time, only for an event, with a generous deadline.

pub mod cases;
pub mod conformance;
pub mod databases;
pub mod host;
pub mod influx;
pub mod memory;
pub mod proxy;
pub mod yaml;

pub use databases::Database;
pub use host::{Document, Owned, Received, Rejected, Sample, TestHost};
pub use influx::Influx;
pub use memory::CountingAllocator;
pub use proxy::FaultProxy;

use std::future::Future;
use std::time::Duration;

/// How long a test waits for what must happen. Only a test that fails ever waits so long.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// Awaits what must happen before [`DEADLINE`].
pub async fn soon<T>(what: &str, event: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, event).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: did not happen within {DEADLINE:?}"),
    }
}
