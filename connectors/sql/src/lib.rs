//! SQL databases: as a source, tables of an MES, a LIMS, an old historian, read again and again from where the last reading ended; as a sink, samples
//! and documents in a table, each once.
//!
//! ```text
//! every 10s ─▶ statement: rows after the position, in its order, a page at a time ─▶ row as a JSON object ─▶ kit::records ─▶ batch, with the position
//! ```
//!
//! - [`config`]: the keys of the YAML. [`statement`]: the SQL of a page, in each dialect; pure. [`progress`]: what was read, and which rows of the
//!   overlap; pure.
//! - [`object`]: values as JSON. [`postgres`] (with [`copied`], [`selected`] and [`postgres_tls`]), [`mysql`], [`sqlserver`]: connections and their rows. [`taking`]: rows into batches.
//! - [`source`]: the session.
//!
//! The sink: [`sink_config`]: its keys; [`sink_rows`]: what waits; [`sink_table`]: rows and positions in one transaction, which [`sink_postgres`] and
//! [`sink_mysql`] write in their own way; [`sink`]: the session.
//!
//! Invariants: a source writes nothing to a database; a cursor is the server's own text of a value, never a float or a date of ours; the position moves with
//! the rows, in the log; memory does not grow with a table.

pub mod config;
pub mod copied;
pub mod mysql;
pub mod object;
pub mod postgres;
mod postgres_tls;
pub mod progress;
mod selected;
pub mod sink;
pub mod sink_config;
pub mod sink_mysql;
pub mod sink_postgres;
pub mod sink_rows;
pub mod sink_table;
pub mod source;
pub mod sqlserver;
pub mod statement;
pub mod taking;

pub use sink::SqlSink;
pub use source::SqlSource;
