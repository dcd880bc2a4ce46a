//! HMAC over the body as it came: who signs shows that he knows the secret, without sending it.
//!
//! ```text
//! signs: "{timestamp}.{body}"     the text that is signed, out of {body}, {timestamp}, {method}, {path} and header names in braces
//! header: X-Signature             its signature, hex or base64 behind `prefix`; several with commas, so that a sender can change its key
//! timestamp: X-Timestamp          seconds, milliseconds or RFC 3339; outside `window` the post is refused
//! ```
//!
//! Invariants: compared in constant time; nothing of the body is parsed before; within the window a signature counts once
//! (see [`crate::intake`]: a second post of it is a repeat, and leaves no second record).

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hyper::HeaderMap;
use hyper::header::HeaderName;
use millrace_config::{Period, Problems, Reason, Secret, Spanned};
use millrace_kit::Template;
use millrace_kit::time::Clock;
use ring::hmac;
use schemars::JsonSchema;
use serde::Deserialize;
use std::time::Duration;

/// How posts are signed.
#[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SignatureConfig {
    /// The secrets, each by reference: `${env:NAME}` or `${file:/path}`. While one replaces another, both.
    pub secrets: Vec<Secret>,
    /// The header of the signature. Default `X-Signature`.
    #[serde(default)]
    pub header: Option<Spanned<String>>,
    /// What stands in front of a signature in its header: `sha256=`, `v1=`.
    #[serde(default)]
    pub prefix: String,
    /// How the signature is written.
    #[serde(default)]
    pub encoding: SignatureEncoding,
    /// The digest.
    #[serde(default)]
    pub digest: Digest,
    /// The header of the time of signing: seconds or milliseconds since 1970, or as in RFC 3339. Without it, a post may be sent again by whoever has
    /// seen it, once it is no longer remembered.
    #[serde(default)]
    pub timestamp: Option<Spanned<String>>,
    /// How far the time of signing may be from this machine's. Default 5m.
    #[serde(default)]
    pub window: Option<Period>,
    /// The text that is signed: `{body}`, `{timestamp}`, `{method}`, `{path}` and headers by their names. Default `{timestamp}.{body}`; without
    /// `timestamp` `{body}`.
    #[serde(default)]
    pub signs: Option<Spanned<String>>,
}

/// How a signature is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SignatureEncoding {
    #[default]
    Hex,
    /// With or without its padding.
    Base64,
}

/// The digest of an HMAC.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Digest {
    #[default]
    Sha256,
    Sha512,
    /// For senders that know nothing better.
    Sha1,
}

#[derive(Clone, PartialEq, Debug)]
enum Signed {
    Body,
    Timestamp,
    Method,
    Path,
    Header(HeaderName),
}

/// What checks signatures.
#[derive(Debug)]
pub struct Signature {
    keys: Vec<hmac::Key>,
    header: HeaderName,
    prefix: String,
    encoding: SignatureEncoding,
    timestamp: Option<HeaderName>,
    window: Duration,
    signs: Template<Signed>,
}

impl Signature {
    pub fn compile(config: &Spanned<SignatureConfig>, problems: &mut Problems) -> Option<Self> {
        let mut name = |said: Option<&Spanned<String>>| {
            let said = said?;
            let name = HeaderName::from_bytes(said.as_bytes());
            name.map_err(|_| problems.error(said.place, format!("`{}` is no name of a header", said.value))).ok()
        };
        let header = name(config.header.as_ref()).unwrap_or(HeaderName::from_static("x-signature"));
        let timestamp = name(config.timestamp.as_ref());
        if config.secrets.is_empty() {
            problems.error(config.place, "`secrets` is empty: nobody could sign").help("add `secrets: [\"${file:/run/secrets/hook}\"]`");
        }
        if config.secrets.iter().any(|secret| secret.expose().is_empty()) {
            problems.error(config.place, "a secret is empty: anybody could sign");
        }
        if config.timestamp.is_none() {
            problems
                .warn(config.place, "signatures without `timestamp`: a post that somebody has seen can be sent again later")
                .help("name the header with the time of signing, where the sender has one");
        }
        let default = if timestamp.is_some() { "{timestamp}.{body}" } else { "{body}" };
        let (text, place) = config.signs.as_ref().map_or((default, config.place), |signs| (signs.as_str(), signs.place));
        let signs = Template::compile(text, place, problems, |name| match name {
            "body" => Ok(Signed::Body),
            "timestamp" if timestamp.is_some() => Ok(Signed::Timestamp),
            "timestamp" => Err("`timestamp` names no header".into()),
            "method" => Ok(Signed::Method),
            "path" => Ok(Signed::Path),
            header => HeaderName::from_bytes(header.as_bytes()).map(Signed::Header).map_err(|_| "it is no name of a header".into()),
        })?;
        if !signs.variables().any(|signed| *signed == Signed::Body) {
            problems.error(place, format!("`{text}` signs no `{{body}}`: any body would do"));
        }
        if timestamp.is_some() && !signs.variables().any(|signed| *signed == Signed::Timestamp) {
            problems.error(place, format!("`{text}` signs no `{{timestamp}}`: anybody could change it"));
        }
        let algorithm = match config.digest {
            Digest::Sha256 => hmac::HMAC_SHA256,
            Digest::Sha512 => hmac::HMAC_SHA512,
            Digest::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
        };
        Some(Self {
            keys: config.secrets.iter().map(|secret| hmac::Key::new(algorithm, secret.expose().as_bytes())).collect(),
            header,
            prefix: config.prefix.clone(),
            encoding: config.encoding,
            timestamp,
            window: config.window.map_or(Duration::from_secs(300), |window| window.0),
            signs,
        })
    }

    /// How long a signature is good for, twice the window; without a time of signing, forever.
    pub fn life(&self) -> Option<Duration> {
        self.timestamp.is_some().then_some(self.window * 2)
    }

    /// Checks the signature of a post; returns what a repeat is known by. Errors: why it is not good, for the sender.
    pub fn check(&self, method: &str, path: &str, headers: &HeaderMap, body: &[u8], now_micros: i64) -> Result<Vec<u8>, Reason> {
        let of = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let Some(given) = of(&self.header) else { return Err(format!("the header `{}` is missing", self.header).into()) };
        let mut timestamp = "";
        if let Some(name) = &self.timestamp {
            timestamp = of(name).ok_or_else(|| format!("the header `{name}` is missing"))?;
            let read = read_time(timestamp).ok_or_else(|| format!("the header `{name}` is no time: seconds or milliseconds since 1970"))?;
            let apart = Duration::from_micros(read.abs_diff(now_micros));
            if apart > self.window {
                return Err(format!("signed {} s from now, more than the window of {} s", apart.as_secs(), self.window.as_secs()).into());
            }
        }
        let mut text = Vec::with_capacity(body.len() + timestamp.len() + 1);
        self.signs.fill(&mut text, |signed, out| {
            match signed {
                Signed::Body => out.extend_from_slice(body),
                Signed::Timestamp => out.extend_from_slice(timestamp.as_bytes()),
                Signed::Method => out.extend_from_slice(method.as_bytes()),
                Signed::Path => out.extend_from_slice(path.as_bytes()),
                Signed::Header(name) => {
                    let value = headers.get(name).ok_or_else(|| format!("the header `{name}`, which is signed, is missing"))?;
                    out.extend_from_slice(value.as_bytes());
                }
            }
            Ok::<_, String>(())
        })?;
        let given = given.split(',').map(str::trim).filter_map(|one| one.strip_prefix(self.prefix.as_str())).take(8);
        for signature in given.filter_map(|one| self.decode(one)) {
            if let Some(key) = self.keys.iter().find(|key| hmac::verify(key, &text, &signature).is_ok()) {
                // Known by what is signed, not by how the signature is written.
                return Ok(hmac::sign(key, &text).as_ref().to_vec());
            }
        }
        Err("the signature does not fit the body".into())
    }

    fn decode(&self, text: &str) -> Option<Vec<u8>> {
        match self.encoding {
            SignatureEncoding::Base64 => STANDARD.decode(text).or_else(|_| URL_SAFE_NO_PAD.decode(text.trim_end_matches('='))).ok(),
            SignatureEncoding::Hex => {
                let pairs = text.as_bytes().chunks(2);
                pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?, 16).ok()).collect()
            }
        }
    }
}

/// Microseconds since 1970.
fn read_time(text: &str) -> Option<i64> {
    let text = text.trim();
    if let Ok(number) = text.parse::<i64>() {
        // Milliseconds from 2001 on are more than seconds until the year 5138.
        return if number.abs() >= 100_000_000_000 { number.checked_mul(1_000) } else { number.checked_mul(1_000_000) };
    }
    Clock::default().text(text).ok().map(|stamp| stamp.time.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_config::Node;

    fn signature(yaml: &str) -> Result<Signature, String> {
        let mut problems = Problems::new();
        let node = Node::from_yaml(yaml, &mut problems).unwrap();
        let config = node.parse::<Spanned<SignatureConfig>>(&mut problems);
        let compiled = config.and_then(|config| Signature::compile(&config, &mut problems));
        compiled.filter(|_| !problems.has_errors()).ok_or_else(|| problems.render())
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    #[test]
    fn githubs_documented_vector_is_good_and_a_changed_body_is_not() {
        // docs.github.com, "Validating webhook deliveries": secret, payload and signature.
        let check = signature("{secrets: [\"It's a Secret to Everybody\"], header: X-Hub-Signature-256, prefix: \"sha256=\"}").unwrap();
        let signed = headers(&[("x-hub-signature-256", "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17")]);
        assert!(check.check("POST", "/", &signed, b"Hello, World!", 0).is_ok());
        assert_eq!(check.check("POST", "/", &signed, b"Hello, World?", 0).unwrap_err(), "the signature does not fit the body");
        assert_eq!(check.check("POST", "/", &HeaderMap::new(), b"", 0).unwrap_err(), "the header `x-hub-signature-256` is missing");
        assert_eq!(check.life(), None);
    }

    #[test]
    fn the_time_of_signing_is_signed_and_bounded() {
        let check = signature("{secrets: [old, new], timestamp: X-Time, prefix: \"v1=\", window: 1m}").unwrap();
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"new");
        let hex: String = hmac::sign(&key, b"1000.{}").as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        let signed = headers(&[("x-time", "1000"), ("x-signature", &format!("v1=00,v1={hex}"))]);
        assert!(check.check("POST", "/", &signed, b"{}", 1_060_000_000).is_ok());
        assert!(check.check("POST", "/", &signed, b"{}", 1_061_000_000).unwrap_err().contains("more than the window of 60 s"));
        let moved = headers(&[("x-time", "1001"), ("x-signature", &format!("v1={hex}"))]);
        assert_eq!(check.check("POST", "/", &moved, b"{}", 1_000_000_000).unwrap_err(), "the signature does not fit the body");
        assert_eq!(read_time("1763726880123"), Some(1_763_726_880_123_000));
        assert_eq!(read_time("2025-11-21T12:08:00Z"), Some(1_763_726_880_000_000));
    }

    #[test]
    fn what_signs_no_body_or_an_open_time_is_refused() {
        assert!(signature("{secrets: [a], signs: \"{path}\"}").unwrap_err().contains("signs no `{body}`"));
        assert!(signature("{secrets: [a], timestamp: X-T, signs: \"{body}\"}").unwrap_err().contains("anybody could change it"));
        assert!(signature("{secrets: []}").unwrap_err().contains("nobody could sign"));
    }
}
