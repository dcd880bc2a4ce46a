//! The factory as the program takes it: typed where every factory is the same, nodes where the connectors know better.
//!
//! - [`environment`], [`files`]: where text comes from; [`expand`], [`merge`], [`substitute`]: templates, tables, `${..}`; [`settings`]: what the
//!   environment overrides; [`load`]: all of it, in order.
//! - [`top`], [`connector`], [`topic`] and the other types: the keys, with their defaults and their documentation.
//! - [`schema`], [`emit`]: JSON Schema and reference, made of the same types; the expanded factory as YAML.

mod alarms;
mod connector;
mod emit;
pub(crate) mod environment;
mod expand;
mod files;
mod group;
mod http;
mod intake;
mod kafka;
mod limits;
pub(crate) mod load;
mod merge;
mod opcua_server;
mod otlp;
mod registry;
pub mod schema;
pub(crate) mod settings;
mod substitute;
mod top;
mod topic;

pub use alarms::{AlarmLevel, AlarmLogin, AlarmTarget, AlarmTargets, Alarms, Maintenance};
pub use connector::{COMMANDS, Connector, SinkKeys, SourceKeys, SourceLog, Start};
pub use emit::expanded;
pub use environment::{Disk, Files, Given, Load};
pub use group::{OnIsolation, Runtime};
pub use http::{Http, Level, MessageFormat, Messages, Token, TokenRole, User};
pub use intake::{Alarm, Clock, Floor, Full, Log, LogCompression, Writes};
pub use kafka::{Delivery, EmbeddedBroker, Kafka};
pub use load::load;
pub use opcua_server::OpcUaServer;
pub use otlp::Otlp;
pub use registry::{Compatibility, RegistryLogin, RegistryTls, Schemas};
pub use schema::{Catalog, SchemaOf, reference, schema};
pub use settings::{SETTINGS, variable};
pub use top::Factory;
pub use topic::{Format, Lane, Shape, Subject, Timestamp, Topic};
