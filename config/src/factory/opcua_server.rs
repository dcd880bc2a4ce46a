//! Millrace's own state as an OPC UA server.

use crate::tree::node::Spanned;
use crate::tree::secret::Secret;
use crate::tree::units::Listen;
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What Millrace says of itself as an OPC UA server, for a SCADA system: status, rates, how full the logs are, alarms. Nothing can be written there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OpcUaServer {
    /// Where it listens: `127.0.0.1:4841`. Anywhere but on loopback it wants `users`. Without it there is no such server.
    pub listen: Option<Listen>,
    /// Who may look: names with their passwords, by reference. With any, a connection has to be encrypted or signed, with a certificate that is trusted;
    /// without any, whoever is on this machine.
    pub users: IndexMap<String, Secret>,
    /// Sessions at a time, from 1 to 100.
    pub sessions: Spanned<u16>,
}

impl Default for OpcUaServer {
    fn default() -> Self {
        Self { listen: None, users: IndexMap::new(), sessions: 10.into() }
    }
}
