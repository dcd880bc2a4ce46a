//! Who may ask what.
//!
//! - Without tokens (on loopback): whoever is on this machine. A browser there may be led by a page of somebody else, so the `Host` must be a name of
//!   this machine (DNS rebinding), and what changes something must not come from another origin.
//! - With tokens or users: `Authorization: Bearer ..` (or `Basic`, with a token's name and the token) on everything but `/health/*`, `/login` and the page itself, which holds no data. The token of a
//!   program stands in the file, that of a person is the session that [`logins`](crate::logins) opened. A viewer reads, an operator also changes.
//! - Whatever changes something is written to `millrace.audit` before it is done, with who asked and from where; refused attempts, too.
//! - One address asks so often and no more ([`rate`](crate::rate)).
//!
//! Invariants: no answer holds a token of the file; tokens are compared in constant time; a wrong one is answered slowly. No cookie is used, so a page of
//! somebody else never carries a login.

use crate::clock::now;
use crate::listener::Peer;
pub use crate::logins::Role;
use crate::logins::{LoginError, Logins, User};
use crate::rate::{Buckets, CHANGES, LOOKS};
use axum::Json;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use millrace_engine::Engine;
use serde::Deserialize;
use serde_json::{Value, json};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A token and whose it is.
#[derive(Clone)]
pub struct Token {
    pub name: String,
    pub secret: String,
    pub role: Role,
}

/// The rules of access.
#[derive(Clone, Default)]
pub struct Access {
    /// With no users, either: nobody is asked for one.
    pub tokens: Vec<Token>,
    pub users: Vec<User>,
    /// Names under which it is reached, beside those of loopback.
    pub hosts: Vec<String>,
}

/// Who asks; there is one for every request that got through.
#[derive(Clone, Debug)]
pub struct Who {
    pub name: String,
    pub role: Role,
}

/// What stands between a request and its answer.
pub struct Gate {
    access: Access,
    logins: Logins,
    looks: Buckets,
    changes: Buckets,
    engine: Arc<Engine>,
}

const SLOWLY: Duration = Duration::from_millis(300);
/// How long the audit may take before a change goes on without it: a full log must not keep a person from mending it.
const AUDIT_WITHIN: Duration = Duration::from_secs(3);

impl Gate {
    pub fn new(access: Access, engine: Arc<Engine>) -> Arc<Self> {
        Arc::new(Self { access, logins: Logins::default(), looks: Buckets::new(LOOKS), changes: Buckets::new(CHANGES), engine })
    }

    /// Writes down who asked for what, before it is done.
    async fn audit(&self, who: &str, from: IpAddr, what: &str, outcome: &str) {
        let entry = json!({ "time": now(), "by": who, "from": from.to_string(), "request": what, "outcome": outcome });
        let written = tokio::time::timeout(AUDIT_WITHIN, self.engine.audit(who, &entry)).await;
        let failed = match written {
            Ok(Ok(())) => return,
            Ok(Err(why)) => why.to_string(),
            Err(_) => format!("its log took nothing for {AUDIT_WITHIN:?}"),
        };
        tracing::warn!(by = who, request = what, outcome, "cannot write to millrace.audit: {failed}");
    }

    /// Who a token of the file is of that came as a password, under its name: the tools for Kafka Connect know no other login.
    fn basic(&self, headers: &HeaderMap) -> Option<Who> {
        let text = headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Basic ")?;
        let text = String::from_utf8(BASE64_STANDARD.decode(text.trim()).ok()?).ok()?;
        let (name, secret) = text.split_once(':')?;
        let found = self.access.tokens.iter().find(|known| known.name == name && same(known.secret.as_bytes(), secret.as_bytes()))?;
        Some(Who { name: found.name.clone(), role: found.role })
    }

    /// Who a token is of. `None`: nobody's.
    fn who(&self, token: &str) -> Option<Who> {
        let of_file = self.access.tokens.iter().find(|known| same(known.secret.as_bytes(), token.as_bytes()));
        match of_file {
            Some(token) => Some(Who { name: token.name.clone(), role: token.role }),
            None => self.logins.who(token).map(|(name, role)| Who { name, role }),
        }
    }
}

/// Refuses what is not allowed; the rest goes on.
pub async fn guard(
    State(gate): State<Arc<Gate>>,
    ConnectInfo(Peer(peer)): ConnectInfo<Peer>,
    mut request: Request,
    next: Next,
) -> Response {
    let (access, from) = (&gate.access, peer.ip());
    let path = request.uri().path();
    let changes = !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    let bucket = if changes { &gate.changes } else { &gate.looks };
    if !path.starts_with("/health/")
        && let Err(wait) = bucket.take(from, Instant::now())
    {
        let mut answer = refused(StatusCode::TOO_MANY_REQUESTS, "asked too often from this address; come again later");
        let seconds = header::HeaderValue::from(wait.as_secs() + 1);
        answer.headers_mut().insert(header::RETRY_AFTER, seconds);
        return answer;
    }
    // A WebSocket is open to a page of another origin, other than what it reads with `fetch`.
    let reaches_in = changes || request.headers().contains_key(header::UPGRADE);
    if reaches_in && let Some(why) = other_origin(request.headers()) {
        return refused(StatusCode::FORBIDDEN, &why);
    }
    let what = format!("{} {}", request.method(), request.uri().path_and_query().map_or(path, |all| all.as_str()));
    if access.tokens.is_empty() && access.users.is_empty() {
        if !access.is_ours(request.headers()) {
            let why = "this Host is not a name of this machine; add it to `http: {hosts: [..]}` if it is";
            return refused(StatusCode::MISDIRECTED_REQUEST, why);
        }
        if changes {
            gate.audit("this machine", from, &what, "asked").await;
        }
        request.extensions_mut().insert(Who { name: "this machine".to_owned(), role: Role::Admin });
        return next.run(request).await;
    }
    if path.starts_with("/health/") || is_page(path, request.headers()) {
        return next.run(request).await;
    }
    let Some(who) = bearer(request.headers()).and_then(|token| gate.who(token)).or_else(|| gate.basic(request.headers())) else {
        tokio::time::sleep(SLOWLY).await;
        let why = "a token is wanted: `Authorization: Bearer ..`, one of `http.tokens`, or that of a login";
        let mut answer = refused(StatusCode::UNAUTHORIZED, why);
        answer.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
        // A stranger keeps no place.
        answer.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"));
        return answer;
    };
    let needed = needed(request.method(), path);
    if who.role < needed {
        gate.audit(&who.name, from, &what, "refused").await;
        return refused(StatusCode::FORBIDDEN, &format!("`{}` is a {}; this takes an {}", who.name, who.role.word(), needed.word()));
    }
    if changes {
        gate.audit(&who.name, from, &what, "asked").await;
    }
    request.extensions_mut().insert(who);
    next.run(request).await
}

/// What a request takes: whom Millrace trusts is an administrator's business.
fn needed(method: &Method, path: &str) -> Role {
    match *method {
        Method::GET | Method::HEAD | Method::OPTIONS => Role::Viewer,
        _ if path == "/logout" => Role::Viewer,
        _ if path.starts_with("/certificates") => Role::Admin,
        _ => Role::Operator,
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    Some(headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")?.trim())
}

#[derive(Deserialize)]
pub struct LoginRequest {
    user: String,
    password: String,
}

/// `POST /login`: a session for name and password.
pub async fn login(State(gate): State<Arc<Gate>>, ConnectInfo(Peer(peer)): ConnectInfo<Peer>, Json(asked): Json<LoginRequest>) -> Response {
    // A name that is no name would fill the audit.
    let name: String = asked.user.chars().filter(|c| !c.is_control()).take(100).collect();
    let outcome = gate.logins.login(&gate.access.users, peer.ip(), &asked.user, asked.password).await;
    match outcome {
        Ok((token, role)) => {
            gate.audit(&name, peer.ip(), "POST /login", "logged in").await;
            Json(json!({ "token": token, "user": name, "role": role.word() })).into_response()
        }
        Err(LoginError::Wrong) => {
            gate.audit(&name, peer.ip(), "POST /login", "refused").await;
            refused(StatusCode::UNAUTHORIZED, "the name or the password is wrong")
        }
        Err(LoginError::Wait) => refused(StatusCode::TOO_MANY_REQUESTS, "too many wrong passwords from this address; wait a minute"),
    }
}

/// `POST /logout`: the session ends.
pub async fn logout(State(gate): State<Arc<Gate>>, headers: HeaderMap) -> Json<Value> {
    if let Some(token) = bearer(&headers) {
        gate.logins.logout(token);
    }
    Json(json!({}))
}

/// `GET /me`: who asks, as the page needs it to show what can be done.
pub async fn me(State(gate): State<Arc<Gate>>, axum::Extension(who): axum::Extension<Who>) -> Json<Value> {
    let by_login = !gate.access.tokens.is_empty() || !gate.access.users.is_empty();
    Json(json!({ "name": who.name, "role": who.role.word(), "login": by_login }))
}

/// The page itself holds no data: whoever has no token sees the field to type one into.
fn is_page(path: &str, headers: &HeaderMap) -> bool {
    let is_file = matches!(path, "/console.js" | "/console.css" | "/login") || path.starts_with("/page/");
    is_file || path == "/" && is_for_a_page(headers)
}

/// Whether the root is asked for by a browser, which says that it wants HTML, or says nothing; other programs take JSON or anything.
pub(crate) fn is_for_a_page(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    accept.is_none_or(|accept| accept.contains("text/html"))
}

pub fn refused(code: StatusCode, why: &str) -> Response {
    // Twice, because the clients of Kafka Connect look for the latter two.
    (code, Json(json!({ "error": why, "error_code": code.as_u16(), "message": why }))).into_response()
}

impl Access {
    fn is_ours(&self, headers: &HeaderMap) -> bool {
        // HTTP/1.0 has none; a browser always sends one.
        let Some(host) = headers.get(header::HOST) else { return true };
        let Some(host) = host.to_str().ok().and_then(host_of) else { return false };
        let is_loopback = host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        is_loopback || self.hosts.iter().any(|ours| ours.eq_ignore_ascii_case(&host))
    }
}

/// The name in `name:port` or `[::1]:port`.
fn host_of(text: &str) -> Option<String> {
    let authority: Authority = text.parse().ok()?;
    Some(authority.host().trim_start_matches('[').trim_end_matches(']').to_owned())
}

/// Why a request comes from another origin. A browser says where a request that changes something comes from; other programs do not.
fn other_origin(headers: &HeaderMap) -> Option<String> {
    let Some(origin) = headers.get(header::ORIGIN).and_then(|origin| origin.to_str().ok()) else {
        return match headers.get("sec-fetch-site").and_then(|site| site.to_str().ok()) {
            None | Some("same-origin" | "none") => None,
            Some(site) => Some(format!("a {site} page may not reach in here")),
        };
    };
    let origin_host = origin.split_once("://").map_or(origin, |(_, rest)| rest);
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("");
    (!origin_host.eq_ignore_ascii_case(host)).then(|| "a page of another origin may not reach in here".to_owned())
}

/// Takes the same time whether the first byte differs or the last.
fn same(a: &[u8], b: &[u8]) -> bool {
    let difference = a.iter().zip(b).fold(0u8, |difference, (a, b)| difference | (a ^ b));
    a.len() == b.len() && difference == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse::<header::HeaderName>().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_host_that_is_no_name_of_this_machine_is_refused() {
        let access = Access { hosts: vec!["millrace.plant".into()], ..Access::default() };
        for host in ["localhost:8080", "127.0.0.1:8080", "[::1]:8080", "Millrace.Plant", "127.9.9.9"] {
            assert!(access.is_ours(&headers(&[("host", host)])), "{host}");
        }
        for host in ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "localhost.evil.example:8080", "10.0.0.1"] {
            assert!(!access.is_ours(&headers(&[("host", host)])), "{host}");
        }
    }

    #[test]
    fn a_page_of_another_origin_changes_nothing() {
        assert_eq!(other_origin(&headers(&[("host", "localhost:8080")])), None);
        assert_eq!(other_origin(&headers(&[("host", "localhost:8080"), ("origin", "http://localhost:8080")])), None);
        assert!(other_origin(&headers(&[("host", "localhost:8080"), ("origin", "http://evil.example")])).is_some());
        assert!(other_origin(&headers(&[("host", "localhost:8080"), ("origin", "null")])).is_some());
        assert!(other_origin(&headers(&[("host", "localhost:8080"), ("sec-fetch-site", "cross-site")])).is_some());
    }

    #[test]
    fn looking_takes_a_viewer_changing_an_operator_and_trust_an_administrator() {
        assert_eq!(needed(&Method::GET, "/certificates"), Role::Viewer);
        assert_eq!(needed(&Method::POST, "/reload"), Role::Operator);
        assert_eq!(needed(&Method::POST, "/certificates/abc/approve"), Role::Admin);
        assert!(Role::Viewer < Role::Operator && Role::Operator < Role::Admin);
    }

    #[test]
    fn tokens_are_compared_whole() {
        assert!(same(b"abc", b"abc"));
        assert!(!same(b"abc", b"abd") && !same(b"abc", b"ab") && !same(b"", b"a"));
    }
}
