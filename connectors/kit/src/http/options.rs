//! The keys of a connector that speaks HTTP, beside its endpoint: limits, a proxy, headers of its own.

use super::Url;
use crate::Login;
use millrace_config::{ByteSize, Period, Place, Problems, Rate, Shorthand, Spanned};
use reqwest::header::{HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// How requests are sent.
#[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// How long the server may be silent: before its answer, and between two pieces of it.
    pub timeout: Spanned<Period>,
    /// How long a whole answer may take.
    pub longest: Spanned<Period>,
    /// Requests per second at most, `5/s`, `30/m`. Left out: as many as there are.
    pub rate: Option<Spanned<Rate>>,
    /// The largest body that is taken; a larger one is an error.
    pub max_body: ByteSize,
    /// A proxy between here and the server. Left out: none; the environment's `HTTP_PROXY` is not read.
    pub proxy: Option<millrace_config::Short<Proxy>>,
    /// Headers on every request.
    pub headers: BTreeMap<String, Spanned<String>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            timeout: Period::from_secs(60).into(),
            longest: Period::from_secs(600).into(),
            rate: None,
            max_body: ByteSize(64 << 20),
            proxy: None,
            headers: BTreeMap::new(),
        }
    }
}

/// A proxy, or its URL alone.
#[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Proxy {
    /// `http://proxy.plant:3128`.
    pub url: Spanned<String>,
    /// A login at the proxy.
    #[serde(default)]
    pub login: Option<Login>,
}

impl Shorthand for Proxy {
    const KEY: &'static str = "url";
}

/// Headers that the client writes itself.
const OURS: [&str; 6] = ["authorization", "content-length", "cookie", "host", "transfer-encoding", "connection"];

impl Options {
    /// Checks what can be checked without I/O, each problem at its place.
    pub fn check(&self, problems: &mut Problems) {
        for (name, period) in [("timeout", &self.timeout), ("longest", &self.longest)] {
            if period.0 < Duration::from_millis(10) {
                problems.error(period.place, format!("`{name}: {}` is too short for any server", period.value)).help("write `60s`");
            }
        }
        if self.longest.0 < self.timeout.0 {
            problems
                .error(self.longest.place, format!("`longest: {}` is shorter than `timeout: {}`", self.longest.value, self.timeout.value));
        }
        if let Some(rate) = &self.rate
            && rate.0 <= 0.0
        {
            problems.error(rate.place, "a rate of 0 sends nothing").help("leave `rate` out, or write `5/s`");
        }
        if let Some(proxy) = &self.proxy {
            let is_good = Url::parse(&proxy.url).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
            if !is_good {
                problems
                    .error(proxy.url.place, format!("`{}` is not the address of a proxy", proxy.url.value))
                    .help("write `http://proxy.plant:3128`");
            }
        }
        for (name, value) in &self.headers {
            if HeaderName::from_bytes(name.as_bytes()).is_err() || HeaderValue::from_str(value).is_err() {
                problems.error(value.place, format!("`{name}` is not a header, or its value cannot stand in one"));
            } else if OURS.contains(&name.to_ascii_lowercase().as_str()) {
                let problem = problems.error(value.place, format!("header `{name}` is written by the client"));
                if name.eq_ignore_ascii_case("authorization") {
                    problem.help("write it under `login`");
                }
            }
        }
    }
}

/// Checks the URL of a server. `None`, with a problem, where it is not one.
pub fn endpoint(text: &str, place: Place, problems: &mut Problems) -> Option<Url> {
    match Url::parse(text) {
        Ok(url) if !url.username().is_empty() || url.password().is_some() => {
            problems.error(place, "a login stands in the URL, where it would be shown").help("write it under `login`");
            None
        }
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Some(url),
        _ => {
            problems.error(place, format!("`{text}` is not the URL of a server")).help("write `https://host/path`");
            None
        }
    }
}
