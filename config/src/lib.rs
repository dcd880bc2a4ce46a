//! The factory's YAML: parsed with places, expanded, checked, every problem at once.

mod de;
pub mod factory;
pub mod load;
pub mod node;
pub mod place;
pub mod problem;
pub mod schema;
pub mod units;
mod yaml;

pub use de::parse_within;
pub use factory::{Connector, Factory};
pub use load::{Load, load};
pub use node::{Entry, Kind, Node, Short, Shorthand, Spanned, Text};
pub use place::{Location, Place};
pub use problem::{Problem, Problems, Severity};
pub use units::{ByteSize, Deadband, KeepFree, Listen, Percent, Period, Rate, Secret};
