//! The tree with places: what a connector needs of its configuration.
//!
//! - [`yaml`], [`table`]: text to nodes; [`node`], [`place`]: values that know where they stand; [`de`]: nodes to types, every problem at once.
//! - [`problem`]: what is wrong, collected; [`render`]: for a person and for a program.
//! - [`units`], [`secret`], [`name`], [`server_tls`]: values that many keys have.
//!
//! Knows no factory: neither what its keys are nor where files come from.

pub(crate) mod de;
pub mod name;
pub(crate) mod node;
pub(crate) mod place;
pub(crate) mod problem;
pub(crate) mod reason;
mod render;
pub(crate) mod scalar;
pub(crate) mod secret;
pub(crate) mod server_tls;
pub mod suggest;
pub(crate) mod table;
pub(crate) mod text;
pub mod units;
pub(crate) mod yaml;

pub use de::{parse_halves, parse_within};
pub use node::{Entry, Kind, Node, Short, Shorthand, Spanned};
pub use place::{Location, Place};
pub use problem::{Problem, Problems, Severity};
pub use reason::Reason;
pub use secret::Secret;
pub use server_tls::ServerTls;
pub use text::Text;
pub use units::{ByteRate, ByteSize, Deadband, KeepFree, Listen, Percent, Period, Rate};
