//! A server to be reached, and as whom.

use crate::pki::Pki;
use crate::security::{Accept, Mode, Policy};
use std::sync::Arc;
use std::time::Duration;

/// Who Millrace is to the server.
#[derive(Clone, PartialEq, Debug, Default)]
pub enum Identity {
    #[default]
    Anonymous,
    User(String, millrace_config::Secret),
    /// Paths of a certificate and its private key.
    Certificate(String, String),
}

/// Everything needed to reach one server.
#[derive(Clone, Debug)]
pub struct Target {
    pub url: String,
    pub policy: Policy,
    pub mode: Mode,
    /// What may be wrong with the server's certificate.
    pub accept: Arc<[Accept]>,
    pub identity: Identity,
    pub pki: Pki,
    /// The session's name, for the server's diagnostics.
    pub name: String,
    /// How long any answer may take.
    pub answer_within: Duration,
    /// How long the server keeps the session while nobody talks to it.
    pub session_timeout: Duration,
}

impl Target {
    /// Whether nobody is on the way to it.
    pub fn is_on_this_machine(&self) -> bool {
        crate::transport::host_and_port(&self.url).is_some_and(|(host, _)| is_loopback(host))
    }
}

/// Whether a host is this machine.
pub fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
