//! Free SQL over tables of the lake, and over what is in Kafka only, as one view. Read only, within bounds.
//!
//! ```text
//! open      the tables, each at its newest version, and the positions that version holds
//! push      what is in Kafka behind those positions: exactly the rest
//! run       SELECT -> DataFusion -> files of the days and tags asked for -> rows, as JSON has them
//! ```
//!
//! - `database`: the session and its bounds; `scan`: a table as DataFusion reads it; `functions`: `history`, `resample`, `interpolate`; `values`: what
//!   comes out.
//!
//! The table is named as its sink; the first one is `lake`, too. A build without the feature `sql` says so.

#[cfg(feature = "sql")]
mod database;
#[cfg(feature = "sql")]
mod functions;
#[cfg(feature = "sql")]
mod scan;
#[cfg(feature = "sql")]
mod values;

#[cfg(feature = "sql")]
pub use database::Database;
#[cfg(not(feature = "sql"))]
pub use without::Database;

use std::time::Duration;

/// A question, and its bounds.
#[derive(Clone, Debug)]
pub struct Statement {
    pub sql: String,
    /// Rows of the answer, at most.
    pub rows: usize,
    /// Bytes of memory for what is sorted, joined and summed.
    pub memory: usize,
    pub patience: Duration,
    /// The answer is a Parquet file.
    pub as_parquet: bool,
}

/// What came of it.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Rows {
    pub columns: Vec<String>,
    pub rows: Vec<Vec<serde_json::Value>>,
    pub parquet: Option<Vec<u8>>,
    /// There were more than the bound.
    pub is_cut: bool,
    /// Bytes of the tables' files that were read.
    pub bytes: u64,
    pub tables: Vec<Version>,
}

/// A table as it was asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Version {
    pub name: String,
    pub version: u64,
    /// Up to when all that reached Kafka is in it, in microseconds since 1970.
    pub complete_until: i64,
}

#[cfg(not(feature = "sql"))]
mod without {
    use super::{Rows, Statement};
    use crate::config::Place;
    use millrace_config::Reason;
    use millrace_contract::{Offset, Partition, Upstream};
    use millrace_schemas::Batch;

    const WITHOUT: &str =
        "this build has no SQL; build it with the feature `lake-sql`: cargo build --release -p millrace --features lake-sql";

    /// Stands for tables that can't be asked.
    pub struct Database {}

    impl Database {
        /// Errors: this build can't.
        pub fn open(_places: Vec<(String, Place)>, _site: Option<String>, _runtime: tokio::runtime::Handle) -> Result<Self, Reason> {
            Err(WITHOUT.into())
        }

        /// Errors: this build can't.
        pub fn positions(&self, _table: usize, _upstream: &Upstream, _parts: &[Partition]) -> Result<Vec<Option<Offset>>, Reason> {
            Err(WITHOUT.into())
        }

        pub fn holds_samples(&self, _table: usize) -> bool {
            false
        }

        pub fn push(&mut self, _table: usize, _batch: &Batch) {}

        pub fn is_read_until(&mut self, _table: usize, _until: i64) {}

        /// Errors: this build can't.
        pub fn run(self, _statement: &Statement) -> Result<Rows, Reason> {
            Err(WITHOUT.into())
        }
    }
}
