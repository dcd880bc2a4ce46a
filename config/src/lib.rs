//! The factory's YAML: parsed with places, expanded, checked, every problem at once.

pub mod node;
pub mod problem;
pub mod units;

pub use node::{Node, Spanned};
pub use problem::{Place, Problem, Problems, Severity};
pub use units::{ByteSize, Deadband, Period, Secret};
