//! Commands: from a Kafka topic to a device, through the device's own source, at most once.
//!
//! ```text
//! record ─ [`check`]ed (known tag, type, range, rate, expiry, id) ─ intent to millrace.audit, synced ─ offset committed ─ run by the source
//!                                                                                     answer to `reply` and millrace.audit <─┘
//! ```
//!
//! The sink of a `source:` entry is the engine's own: [`sink`]. Nothing runs while `floor: {writes: allowed}` is missing: the program's `check` refuses
//! the file. [`request`]: what a command and an answer look like, in JSON and in Avro. [`seen`]: no id is carried out twice.

mod check;
pub(crate) mod compile;
pub mod request;
pub mod rules;
mod seen;
pub mod sink;
pub use self::rules::{Allow, Allowed, CommandConfig, CommandRules};
pub use self::sink::{CommandParts, CommandSink};

use millrace_contract::{Model, Route};
use millrace_schemas::RouteId;

/// The topic of every attempt, refused ones too.
pub const AUDIT: &str = "millrace.audit";

/// Its place in [`model`].
const AUDIT_ROUTE: RouteId = RouteId(0);

/// Where the engine's own records go: audit, and one route per reply topic.
pub fn model(commands: &[CommandRules]) -> Model {
    let route = |topic: &str| Route { topic: topic.into(), name: "commands".to_owned(), samples: false };
    let mut routes = vec![route(AUDIT)];
    routes.extend(commands.iter().map(|c| route(c.reply.as_deref().unwrap_or(AUDIT))));
    Model { tags: Vec::new(), routes }
}
