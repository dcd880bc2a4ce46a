//! The keys of a Sparkplug host in the YAML.

use millrace_config::Period;
use schemars::JsonSchema;
use serde::Deserialize;
use std::time::Duration;

/// Millrace as a Sparkplug host application.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HostConfig {
    /// The host's id, as edge nodes know it; in the topic of its STATE.
    pub id: Option<String>,
    /// Edge nodes wait for this host: it publishes its STATE, retained, with a will.
    pub primary: bool,
    /// Sends nothing at all: neither rebirth requests nor STATE.
    pub passive: bool,
    /// How STATE is written: `v3` (JSON under `spBv1.0/STATE/ID`), or `v2` (`ONLINE` under `STATE/ID`) for older edge nodes.
    pub state: StateStyle,
    /// A node is asked for its birth at most this often; one that doesn't answer ever more seldom.
    pub rebirth_every: Period,
    /// How long a message may be overtaken by later ones before it counts as lost.
    pub reorder: Period,
}

impl Default for HostConfig {
    fn default() -> Self {
        Self {
            id: None,
            primary: false,
            passive: false,
            state: StateStyle::V3,
            rebirth_every: Period(Duration::from_secs(10)),
            reorder: Period(Duration::from_secs(2)),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StateStyle {
    #[default]
    V3,
    V2,
}

impl HostConfig {
    /// What contradicts itself in these settings, for `check`.
    pub fn problem(&self) -> Option<String> {
        let Some(id) = &self.id else {
            return self.primary.then(|| "a primary host needs an `id`: edge nodes look for its STATE".to_owned());
        };
        if id.is_empty() || id.contains(['/', '+', '#', '\0']) {
            return Some(format!("the host's id `{id}` must be one level of a topic, without `/`, `+` and `#`"));
        }
        (self.primary && self.passive).then(|| "a passive host publishes no STATE and so can't be primary; choose one".to_owned())
    }
}
