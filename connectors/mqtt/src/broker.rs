//! How to reach a broker: the keys that source and sink have in common.

use crate::packet::Version;
use crate::transport::Endpoint;
use millrace_config::{Period, Problems, Spanned};
use millrace_contract::Context;
use millrace_kit::{Login, Tls};
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

/// The keys that source and sink have in common.
pub struct BrokerKeys<'a> {
    pub endpoint: &'a Spanned<String>,
    pub version: &'a Option<Spanned<u8>>,
    pub client_id: &'a Option<Spanned<String>>,
    pub login: &'a Option<Login>,
    pub tls: &'a Option<Spanned<Tls>>,
    pub keep_alive: &'a Option<Spanned<Period>>,
}

impl Broker {
    /// Checks everything; `None` when there is no endpoint to go on with.
    pub fn compile(keys: BrokerKeys<'_>, context: &Context, problems: &mut Problems) -> Option<Self> {
        let endpoint = match Endpoint::parse(keys.endpoint) {
            Ok(endpoint) => Some(endpoint),
            Err(error) => {
                problems.error(keys.endpoint.place, error);
                None
            }
        };
        let version = match keys.version.as_ref().map(|version| (version.value, version.place)) {
            None | Some((5, _)) => Version::V5,
            Some((4, _)) => Version::V4,
            Some((other, place)) => {
                problems.error(place, format!("there is no mqtt version {other} here")).help("write 5, or 4 for mqtt 3.1.1");
                Version::V5
            }
        };
        let client_id = match keys.client_id {
            None => format!("millrace-{}", context.name),
            Some(id) => {
                if id.is_empty() || id.len() > 65_535 || id.contains('\0') {
                    problems.error(id.place, "a client id has 1 to 65535 bytes, without NUL").help("leave it out for `millrace-NAME`");
                }
                id.value.clone()
            }
        };
        let keep_alive = match keys.keep_alive {
            None => Duration::from_secs(30),
            Some(period) => {
                if !(Duration::from_secs(2)..=Duration::from_secs(65_535)).contains(&period.0) {
                    problems.error(period.place, "`keep_alive` is from 2s to 65535s");
                }
                period.0
            }
        };
        if let (Some(tls), Some(endpoint)) = (keys.tls, &endpoint) {
            tls.check(tls.place, problems);
            if !endpoint.tls {
                problems.error(tls.place, format!("`tls` has no use with {endpoint}")).help("write mqtts:// or wss:// in `endpoint`");
            }
        }
        if let (Some(_), Some(endpoint)) = (keys.login, &endpoint)
            && !endpoint.tls
            && !is_loopback(&endpoint.host)
        {
            problems.warn(keys.endpoint.place, format!("the password goes to {endpoint} in clear text")).help("use mqtts://");
        }
        let tls = keys.tls.as_ref().map(|tls| tls.value.clone()).unwrap_or_default();
        Some(Self { endpoint: endpoint?, version, client_id, login: keys.login.clone(), tls, keep_alive, answered: Arc::default() })
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
