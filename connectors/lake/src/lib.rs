//! The lake: the years behind Kafka's weeks, as Parquet files in a Delta or an Iceberg table, on local disk or in a cloud's store.
//!
//! ```text
//! samples of Kafka -> rows (one buffer per day and area) -> sorted by tag and time -> Parquet -> store
//!                                                                                        flush: one commit of files and positions
//! table -> files of the days asked for -> row groups and pages of the tag -> samples in order -> averages, buckets, plots
//! ```
//!
//! - [`config`]: the keys of the YAML, checked without I/O. All else is behind the feature `tables`, whose dependencies take minutes to compile.
//! - [`store`]: local disk, clouds and HDFS, by one interface; what is asked of a store before it is trusted.
//! - [`layout`]: the columns of a sample; [`rows`]: samples in memory until they are written; [`encode`]: rows to Parquet.
//! - [`encode_documents`]: documents, which the kit takes apart, to Parquet.
//! - [`table`]: the Delta table: made, opened, checked, committed to; [`intents`]: what plain Parquet needs besides.
//! - `iceberg`: the Iceberg table, a feature; the commits are in a crate of their own; `vended`: credentials from its catalog; `iceberg_upkeep`: its upkeep. [`target`]: a table of either kind.
//! - [`sink`]: the session.
//! - [`upkeep`]: checking, compaction of small files, deletion of those that nobody needs; [`tending`]: by the sink itself.
//! - [`object`]: a file of it; [`history`]: samples of a tag out of the table; [`series`]: what is made of them; [`plot`], [`png`]: how it looks; [`shown`]: in JSON; [`export`]: an answer as Parquet; [`again`]: all samples of
//!   a range, as they were in Kafka, with a [`mark`] for each; [`ask`]: all that for the program. [`sql`]: free SQL, a feature. [`moment`]: when.
//!
//! Invariants: files and positions move in one commit, and every commit compares the positions it begins at; a value keeps its type, in a column of
//! its own; nothing that was committed is changed, save by a commit that says so.

pub mod ask;
pub mod config;
pub mod export;
pub mod mark;
pub mod moment;
pub mod plot;
pub mod plugin;
pub mod png;
pub mod series;
pub mod shown;
pub mod sql;

#[cfg(feature = "tables")]
pub mod again;
#[cfg(feature = "tables")]
pub mod encode;
#[cfg(feature = "tables")]
pub mod encode_documents;
#[cfg(feature = "tables")]
pub mod history;
#[cfg(feature = "iceberg")]
pub mod iceberg;
#[cfg(feature = "iceberg")]
pub mod iceberg_upkeep;
#[cfg(feature = "tables")]
pub mod intents;
#[cfg(feature = "tables")]
pub mod layout;
#[cfg(feature = "tables")]
pub mod object;
#[cfg(feature = "tables")]
pub mod rows;
#[cfg(feature = "tables")]
pub mod sink;
#[cfg(feature = "tables")]
pub mod store;
#[cfg(feature = "tables")]
pub mod table;
#[cfg(feature = "tables")]
pub mod target;
#[cfg(feature = "tables")]
pub mod tending;
#[cfg(feature = "tables")]
pub mod upkeep;
#[cfg(feature = "iceberg")]
pub mod vended;

/// Whether this build writes and reads tables.
pub const HAS_TABLES: bool = cfg!(feature = "tables");

pub use ask::{Answer, Question, Report, Series, Tail, Upkeep, What, ask, positions, tend, walk};
pub use config::{LakeConfig, Place};
pub use mark::Mark;
pub use moment::moment;
pub use plugin::LakeSink;
