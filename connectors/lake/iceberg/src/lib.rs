//! Iceberg tables by a REST catalog: appended to, widened, listed. Plain data go in and out, since Iceberg's crate brings an Arrow of its own: the files
//! are written by `millrace-lake`, as for every other table.
//!
//! ```text
//! commit: the newest metadata -> positions there = those we began at? -> manifest, manifest list -> catalog: main is still that snapshot? -> done
//!           |                      | no: a snapshot has our batch: it was our own commit, whose answer was lost
//!           |                      | no: somebody else moved them: fenced
//!           +-- 409, answer lost, 5xx: again from the newest metadata
//! ```
//!
//! - [`catalog`]: the REST catalog's requests, and what became of a commit; [`given`]: what it gives for a table's store; [`schema`]: columns, both ways.
//! - [`table`]: a table at one moment, and the commits; [`snapshot`]: the files of one commit, out of [`data_file`]; [`live`]: the data files of the newest snapshot;
//!   [`rewrite`]: one file in the place of several, and snapshots that nobody needs any more.
//!
//! Invariants: positions are in the table's properties and in the snapshot's summary, moved by the same commit as the files; the catalog compares the
//! snapshot that the positions were read beside, so that between the comparison and the commit nobody moves them; every commit makes a snapshot, one
//! without files too.

pub mod catalog;
pub mod data_file;
pub mod given;
pub mod live;
pub mod rewrite;
pub mod schema;
pub mod snapshot;
pub mod table;

pub use catalog::{Catalog, Name};
pub use data_file::{DataFile, Metrics};
pub use given::Given;
pub use live::Live;
pub use rewrite::before;
pub use schema::{Field, Of};
pub use table::{Committed, Found, Layout, Table};

use async_trait::async_trait;
use bytes::Bytes;
use millrace_kit::parts::TargetError;

/// Where a table's files lie: whole locations, as the metadata have them.
#[async_trait]
pub trait Files: Send + Sync {
    async fn read(&self, location: &str) -> Result<Bytes, TargetError>;
    /// Whole or not at all.
    async fn write(&self, location: &str, bytes: Bytes) -> Result<(), TargetError>;
    /// One that is gone already is as good.
    async fn delete(&self, location: &str) -> Result<(), TargetError>;
}
