//! ERP systems by OData, versions 2 and 4, as SAP serves them: entity sets into Kafka, and records of Kafka posted back.
//!
//! - [`metadata`], [`shape`]: what a service has, and what that is in Kafka; [`values`], [`page`]: entities and pages of them.
//! - [`config`], [`source_plugin`], [`posting`], [`sink_plugin`]: the keys, and what they compile to.
//! - [`source`], [`set`], [`reading`]: all of a set, then what changes; [`watermark`], [`position`]: how far; [`known`], [`reconcile`], [`listing`],
//!   [`pass`], [`lookup`], [`asking`]: the keys, and what of them is gone.
//! - [`sink`], [`pending`], [`operation`]: each record as a request, once; [`outgoing`], [`batch`], [`session`]: how it is written.
//! - [`service`], [`literal`], [`refusal`]: the conversation.
//!
//! Invariants: no value goes through a float; a position never runs ahead of its rows.

mod asking;
pub mod batch;
pub mod config;
pub mod fuzz;
pub mod known;
mod listing;
pub mod literal;
mod lookup;
pub mod metadata;
mod moment;
pub mod operation;
pub mod outgoing;
pub mod page;
mod pass;
pub mod pending;
pub mod position;
pub mod posting;
pub mod reading;
mod reconcile;
pub mod refusal;
mod rows;
pub mod service;
pub mod session;
pub mod set;
pub mod shape;
pub mod sink;
pub mod sink_plugin;
pub mod source;
pub mod source_plugin;
pub mod values;
pub mod watermark;

pub use sink_plugin::ErpSinkPlugin;
pub use source_plugin::ErpSourcePlugin;
