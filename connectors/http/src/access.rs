//! Who may post: a bearer token, a token as the password of basic authentication, or a signature ([`crate::signature`]).
//!
//! A client's certificate, where one is asked for, is looked at before there is a request. Without any of them a source listens on loopback alone, and takes no post that a page in a browser may have sent: the host must be this
//! machine, and there must be no `Origin`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, HOST, ORIGIN};
use millrace_config::Secret;
use ring::digest::{SHA256, digest};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// The tokens, by the names of those who have them.
#[derive(Clone, PartialEq, Debug)]
pub struct Access {
    /// Digests: compared without telling by the time it takes how much of a token is right.
    tokens: Vec<(Box<str>, [u8; 32])>,
    is_signed: bool,
    /// Whoever is connected has shown a certificate.
    is_certified: bool,
}

/// What a request shows before its body is read.
#[derive(Clone, PartialEq, Debug)]
pub enum Shown {
    /// Nothing is asked for.
    Open,
    /// The name of the token.
    Named(Box<str>),
    /// Its signature is to be checked, over the body.
    Signature,
}

/// Why a request is turned away: 401 or 403.
#[derive(Clone, PartialEq, Debug)]
pub struct Denied {
    pub status: u16,
    pub reason: &'static str,
}

impl Access {
    pub fn new(tokens: &BTreeMap<String, Secret>, is_signed: bool, is_certified: bool) -> Self {
        let tokens = tokens.iter().map(|(name, token)| (name.as_str().into(), hash(token.expose().as_bytes()))).collect();
        Self { tokens, is_signed, is_certified }
    }

    /// Nobody is asked who he is.
    pub fn is_open(&self) -> bool {
        self.asks_nothing() && !self.is_certified
    }

    /// What is asked for, for a person.
    pub fn wants(&self) -> impl Iterator<Item = &'static str> {
        let posts = match (self.tokens.is_empty(), self.is_signed) {
            (false, true) => Some("posts are signed, or show a token"),
            (true, true) => Some("posts are signed"),
            (false, false) => Some("posts show a token"),
            (true, false) => None,
        };
        self.is_certified.then_some("senders show a certificate").into_iter().chain(posts)
    }

    /// A request need not show anything.
    fn asks_nothing(&self) -> bool {
        self.tokens.is_empty() && !self.is_signed
    }

    pub fn check(&self, headers: &HeaderMap) -> Result<Shown, Denied> {
        if self.asks_nothing() {
            return if headers.contains_key(ORIGIN) {
                Err(Denied { status: 403, reason: "a page in a browser may not post here; give the source `tokens`" })
            } else if !self.is_certified && !headers.get(HOST).and_then(|host| host.to_str().ok()).is_some_and(is_this_machine) {
                Err(Denied { status: 403, reason: "without `tokens`, posts are for this machine alone: use 127.0.0.1 as the host" })
            } else {
                Ok(Shown::Open)
            };
        }
        let token = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(token_of);
        match token {
            Some(token) => {
                let given = hash(token.as_bytes());
                let known = self.tokens.iter().find(|(_, known)| *known == given);
                known.map(|(name, _)| Shown::Named(name.clone())).ok_or(Denied { status: 401, reason: "the token is not known" })
            }
            None if self.is_signed => Ok(Shown::Signature),
            None => Err(Denied { status: 401, reason: "a token is asked for: `Authorization: Bearer TOKEN`" }),
        }
    }
}

fn hash(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    out
}

/// The token of a bearer, or the password of basic authentication.
fn token_of(value: &str) -> Option<String> {
    let (scheme, rest) = value.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.trim().to_owned());
    }
    let pair = STANDARD.decode(rest.trim()).ok().filter(|_| scheme.eq_ignore_ascii_case("basic"))?;
    String::from_utf8(pair).ok()?.split_once(':').map(|(_, password)| password.to_owned())
}

/// Whether a `Host` names this machine, and not a name that somebody let point to it.
fn is_this_machine(host: &str) -> bool {
    let host = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(hyper::header::HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_token_is_known_as_a_bearer_and_as_a_password() {
        let access = Access::new(&[("press".to_owned(), Secret::new("0123456789abcdef"))].into(), false, false);
        for good in ["Bearer 0123456789abcdef", "bearer 0123456789abcdef", "Basic eDowMTIzNDU2Nzg5YWJjZGVm"] {
            assert_eq!(access.check(&headers(&[(AUTHORIZATION, good)])), Ok(Shown::Named("press".into())), "{good}");
        }
        for bad in ["Bearer 0123456789abcdee", "Bearer", "Basic !!", "Digest 0123456789abcdef"] {
            assert_eq!(access.check(&headers(&[(AUTHORIZATION, bad)])).unwrap_err().status, 401, "{bad}");
        }
        assert_eq!(access.check(&HeaderMap::new()).unwrap_err().status, 401);
    }

    #[test]
    fn without_a_login_only_this_machine_posts_and_no_page_does() {
        let access = Access::new(&BTreeMap::new(), false, false);
        for good in ["127.0.0.1:80", "localhost", "[::1]:8080"] {
            assert_eq!(access.check(&headers(&[(HOST, good)])), Ok(Shown::Open), "{good}");
        }
        assert_eq!(access.check(&headers(&[(HOST, "plant.example")])).unwrap_err().status, 403);
        assert_eq!(access.check(&headers(&[(HOST, "localhost"), (ORIGIN, "http://localhost")])).unwrap_err().status, 403);
    }

    #[test]
    fn whoever_showed_a_certificate_posts_from_anywhere_but_no_page_does_it_for_him() {
        let access = Access::new(&BTreeMap::new(), false, true);
        assert!(!access.is_open() && access.wants().eq(["senders show a certificate"]));
        assert_eq!(access.check(&headers(&[(HOST, "plant.example")])), Ok(Shown::Open));
        assert_eq!(access.check(&headers(&[(HOST, "plant.example"), (ORIGIN, "https://plant.example")])).unwrap_err().status, 403);
        let both = Access::new(&[("press".to_owned(), Secret::new("0123456789abcdef"))].into(), false, true);
        assert_eq!(both.check(&headers(&[(HOST, "plant.example")])).unwrap_err().status, 401, "a token is asked for all the same");
    }
}
