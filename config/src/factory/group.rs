//! More than one runtime with the same file: who this one is, and with whom it shares the sources.

use crate::tree::node::{Node, Spanned};
use crate::tree::problem::Problems;
use crate::tree::units::Period;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// More than one runtime with the same file: the sources are shared out through Kafka's group protocol, each to one runtime.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Runtime {
    /// This runtime's own name, no other's in the group. With one file for all, say it in the environment: `MILLRACE_RUNTIME_ID`.
    pub id: Option<Spanned<String>>,
    /// The group of runtimes that share the sources. Left out: this runtime reads all of them.
    pub group: Option<Spanned<String>>,
    /// The name of this machine, for `runs_on`. Left out: as the machine names itself.
    pub host: Option<Spanned<String>>,
    /// What becomes of the sources that it reads when Kafka can't be reached any more.
    pub on_isolation: OnIsolation,
    /// A runtime that is silent for so long has lost its sources to the others; 6s to 30m, as far as the brokers allow it.
    pub session: Spanned<Period>,
}

impl Default for Runtime {
    fn default() -> Self {
        let session = Spanned::from(Period(Duration::from_secs(10)));
        Self { id: None, group: None, host: None, on_isolation: OnIsolation::Keep, session }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnIsolation {
    /// It goes on reading into its log, until it hears that another runtime reads them. For a while both may.
    Keep,
    /// It stops reading them at once. If Kafka is away for all, nobody reads.
    Release,
}

/// What a name may hold that becomes part of names in Kafka.
const LONGEST: usize = 64;

impl Runtime {
    /// What can't work, each at its place.
    pub(crate) fn check(&self, node: Option<&Node>, problems: &mut Problems) {
        for (what, name) in [("id", &self.id), ("group", &self.group)] {
            let Some(name) = name else { continue };
            let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
            if name.is_empty() || name.len() > LONGEST || !is_plain {
                problems
                    .error(name.place, format!("`runtime.{what}` is `{}`, which can't be part of a name in Kafka", name.value))
                    .help(format!("use letters, digits, `-`, `_` and `.`, at most {LONGEST}"));
            }
        }
        match (&self.id, &self.group) {
            (None, Some(group)) => {
                problems
                    .error(group.place, "`runtime.group` is said, but not `runtime.id`: in a group every runtime has a name of its own")
                    .help("add `id`, or set MILLRACE_RUNTIME_ID on each machine");
            }
            (_, None) if node.is_some_and(|node| node.get("session").or(node.get("on_isolation")).is_some()) => {
                let place = node.map_or(crate::tree::place::Place::NONE, |node| node.place);
                problems.warn(place, "without `runtime.group` this runtime reads every source, and nothing is shared");
            }
            _ => {}
        }
        let session = self.session.0;
        if !(Duration::from_secs(6)..=Duration::from_secs(1800)).contains(&session) {
            problems
                .error(self.session.place, format!("`runtime.session` is {}", self.session.value))
                .help("write 6s to 30m: Kafka's brokers refuse others, unless they are told otherwise");
        }
    }
}
