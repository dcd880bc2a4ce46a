//! How to reach a broker: the keys that source and sink have in common.

use crate::packet::Version;
use crate::transport::Endpoint;
use millrace_config::{Period, Problems, Spanned};
use millrace_contract::Context;
use millrace_kit::groups::SharedKeys;
use millrace_kit::{Login, Tls};
use schemars::JsonSchema;
use serde::Deserialize;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// How to reach a broker: what source and sink have in common.
#[derive(Clone, Debug)]
pub struct Broker {
    pub endpoint: Endpoint,
    pub version: Version,
    pub client_id: String,
    pub login: Option<Login>,
    pub tls: Tls,
    pub keep_alive: Duration,
    /// Whether it has ever answered in this version.
    pub answered: Arc<AtomicBool>,
}

/// How to reach a broker: keys of sources and sinks.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BrokerKeys {
    /// The broker: `mqtt://host:1883`, `mqtts://host:8883`, `ws://host/mqtt` or `wss://host/mqtt`.
    pub endpoint: Spanned<String>,
    /// Version of MQTT: 5 or 4 (that is 3.1.1).
    #[serde(default = "version")]
    pub version: Spanned<u8>,
    /// Under which id the broker keeps the session; default `millrace-NAME`, of a sink with a random number behind it. Two clients of one id throw
    /// each other out.
    #[serde(default)]
    pub client_id: Option<Spanned<String>>,
    /// User and password.
    #[serde(default)]
    pub login: Option<Login>,
    /// Certificates, with mqtts and wss.
    #[serde(default)]
    pub tls: Option<Spanned<Tls>>,
    /// How soon a dead connection is noticed.
    #[serde(default = "keep_alive")]
    pub keep_alive: Spanned<Period>,
}

fn version() -> Spanned<u8> {
    5.into()
}

fn keep_alive() -> Spanned<Period> {
    Period::from_secs(30).into()
}

impl SharedKeys for BrokerKeys {
    const KEYS: &'static [&'static str] = &["endpoint", "version", "client_id", "login", "tls", "keep_alive"];
}

impl BrokerKeys {
    /// Checks everything; `None` when there is no endpoint to go on with.
    pub fn compile(&self, context: &Context, problems: &mut Problems) -> Option<Broker> {
        let endpoint = match Endpoint::parse(&self.endpoint) {
            Ok(endpoint) => Some(endpoint),
            Err(error) => {
                problems.error(self.endpoint.place, error);
                None
            }
        };
        let version = match self.version.value {
            5 => Version::V5,
            4 => Version::V4,
            other => {
                problems.error(self.version.place, format!("there is no mqtt version {other} here")).help("write 5, or 4 for mqtt 3.1.1");
                Version::V5
            }
        };
        let client_id = match &self.client_id {
            None => format!("millrace-{}", context.name),
            Some(id) => {
                if id.is_empty() || id.len() > 65_535 || id.contains('\0') {
                    problems.error(id.place, "a client id has 1 to 65535 bytes, without NUL").help("leave it out for `millrace-NAME`");
                }
                id.value.clone()
            }
        };
        let keep_alive = self.keep_alive.0;
        if !(Duration::from_secs(2)..=Duration::from_secs(65_535)).contains(&keep_alive) {
            problems.error(self.keep_alive.place, "`keep_alive` is from 2s to 65535s");
        }
        if let (Some(tls), Some(endpoint)) = (&self.tls, &endpoint) {
            tls.check(tls.place, problems);
            if !endpoint.tls {
                problems.error(tls.place, format!("`tls` has no use with {endpoint}")).help("write mqtts:// or wss:// in `endpoint`");
            }
        }
        if let (Some(_), Some(endpoint)) = (&self.login, &endpoint)
            && !endpoint.tls
            && !is_loopback(&endpoint.host)
        {
            problems.warn(self.endpoint.place, format!("the password goes to {endpoint} in clear text")).help("use mqtts://");
        }
        let tls = self.tls.as_ref().map(|tls| tls.value.clone()).unwrap_or_default();
        Some(Broker { endpoint: endpoint?, version, client_id, login: self.login.clone(), tls, keep_alive, answered: Arc::default() })
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
