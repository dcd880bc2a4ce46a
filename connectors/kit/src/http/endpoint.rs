//! Where a server is, and how to speak to it: the keys of the YAML that every connector with an HTTP client has, and what they compile to.

use super::{Client, HttpLogin, Options, Url, options};
use crate::Tls;
use crate::groups::SharedKeys;
use millrace_config::{Problems, Spanned};
use millrace_contract::Failure;
use schemars::JsonSchema;
use serde::Deserialize;

/// A server, and how to speak to it. A connector's own keys stand beside these.
#[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EndpointKeys {
    /// The server, and what all its paths begin with: `https://mes.plant/api`; of an ERP the root of an OData service, version 2 or 4:
    /// `https://erp.plant/sap/opu/odata/sap/API_PRODUCTION_ORDER_2_SRV`.
    pub endpoint: Spanned<String>,
    /// How to log in there.
    #[serde(default)]
    pub login: Option<Spanned<HttpLogin>>,
    /// Certificates.
    #[serde(default)]
    pub tls: Option<Spanned<Tls>>,
    /// How requests are sent: timeouts, rate, proxy, headers.
    #[serde(default)]
    pub http: Options,
}

impl SharedKeys for EndpointKeys {
    const KEYS: &'static [&'static str] = &["endpoint", "login", "tls", "http"];
}

/// A server that a client can be made for.
#[derive(Clone, PartialEq, Debug)]
pub struct Endpoint {
    pub url: Url,
    pub login: Option<HttpLogin>,
    pub tls: Tls,
    pub options: Options,
}

impl EndpointKeys {
    /// Checks what can be checked without I/O, each problem at its place. `None`, with a problem, where the address is not one.
    pub fn compile(&self, problems: &mut Problems) -> Option<Endpoint> {
        let url = options::endpoint(&self.endpoint, self.endpoint.place, problems);
        if let Some(login) = &self.login {
            login.check(login.place, problems);
        }
        if let Some(tls) = &self.tls {
            tls.check(tls.place, problems);
        }
        self.http.check(problems);
        let url = url?;
        if url.scheme() == "http" && self.login.is_some() && !is_loopback(&url) {
            problems.warn(self.endpoint.place, "the login goes over the network unencrypted").help("use `https`");
        }
        Some(Endpoint {
            url,
            login: self.login.as_ref().map(|login| login.value.clone()),
            tls: self.tls.as_ref().map(|tls| tls.value.clone()).unwrap_or_default(),
            options: self.http.clone(),
        })
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

impl Endpoint {
    /// A client of this server; reads certificates, sends nothing.
    ///
    /// Errors: `Blocked`, naming the file that is wrong.
    pub fn client(&self) -> Result<Client, Failure> {
        Client::new(&self.url, self.login.as_ref(), &self.tls, &self.options)
    }

    /// How it is logged in, for a plan: `as user MILLRACE`.
    pub fn login_words(&self) -> String {
        self.login.as_ref().map_or_else(|| "not at all".into(), HttpLogin::words)
    }
}
