//! Kafka, and the embedded broker.

use crate::tree::node::Spanned;
use crate::tree::secret::Secret;
use crate::tree::server_tls::ServerTls;
use crate::tree::units::{Listen, Period};
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Kafka: where the records go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Kafka {
    /// `host:port,host:port`, or `embedded` for the broker inside Millrace.
    pub brokers: Spanned<String>,
    /// The embedded broker's own settings.
    pub embedded: EmbeddedBroker,
    /// What Kafka's consumers see after a crash: repeats with the same identity, or each record once.
    pub delivery: Delivery,
    /// How often a transaction commits, with `exactly_once`.
    pub commit: Period,
    /// Properties of librdkafka, passed through: TLS, logins, compression.
    pub properties: IndexMap<String, Spanned<String>>,
}

impl Default for Kafka {
    fn default() -> Self {
        Self {
            brokers: Spanned::from("localhost:9092".to_owned()),
            embedded: EmbeddedBroker::default(),
            delivery: Delivery::AtLeastOnce,
            commit: Period::from_millis(100),
            properties: IndexMap::new(),
        }
    }
}

/// The embedded broker's own settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EmbeddedBroker {
    /// Where its clients connect.
    pub listen: Listen,
    /// What a power cut may take; `0s`: what is acknowledged with `acks=all` is synced before.
    pub sync: Period,
    /// The broker's certificate: wanted when it listens anywhere but on loopback.
    pub tls: Option<ServerTls>,
    /// Who may log in (PLAIN or SCRAM), and with which password: wanted when it listens anywhere but on loopback.
    pub users: IndexMap<String, Secret>,
}

impl Default for EmbeddedBroker {
    fn default() -> Self {
        Self { listen: Listen(([127, 0, 0, 1], 9092).into()), sync: Period::from_millis(200), tls: None, users: IndexMap::new() }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Delivery {
    /// After a crash a bounded tail is sent again, with the same identity.
    AtLeastOnce,
    /// A `read_committed` consumer sees each log record once.
    ExactlyOnce,
}
