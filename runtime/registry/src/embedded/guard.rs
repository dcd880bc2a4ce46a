//! Who is let in, before anything is done for them.
//!
//! - A page in a browser is not: requests of another origin, bodies that a form could send, and names that lead to this machine by a foreign DNS.
//! - Off loopback everybody logs in; [`super::serve`] does not begin otherwise.
//! - Connections at once are bounded, and one on which nothing comes ends.

use super::operations::Fault;
use crate::client::RegistryLogin;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

/// Connections at once; the next one waits for a place.
const CONNECTIONS: usize = 256;
/// How long a connection may bring nothing. Longer than clients keep idle ones.
const IDLE: Duration = Duration::from_secs(120);
/// After a failed accept: file descriptors come back when connections end.
const PAUSE: Duration = Duration::from_millis(100);

/// What a request must show.
#[derive(Clone, Default)]
pub(super) struct Guard {
    /// The value of `Authorization`, where a login is asked for.
    authorization: Option<Arc<str>>,
    /// Reached by names of this machine's network, too.
    takes_any_host: bool,
}

impl Guard {
    pub fn new(listen: SocketAddr, login: Option<&RegistryLogin>) -> Self {
        let authorization = login.map(|login| match login {
            RegistryLogin::Basic { user, password } => {
                let both = format!("{user}:{}", password.expose());
                format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(both)).into()
            }
            RegistryLogin::Token(token) => format!("Bearer {}", token.expose()).into(),
        });
        Self { authorization, takes_any_host: !listen.ip().is_loopback() }
    }

    fn judge(&self, method: &Method, headers: &HeaderMap) -> Result<(), Fault> {
        let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("\0"));
        let host = text(header::HOST).unwrap_or_default();
        if !self.takes_any_host && !is_own(host) {
            return Err(Fault::new(403, format!("this registry is reached by address or as localhost, not as {host:?}")));
        }
        if text(header::ORIGIN).is_some_and(|origin| origin.split_once("://").map(|(_, from)| from) != Some(host)) {
            return Err(Fault::new(403, "requests from pages of other sites are refused"));
        }
        if let Some(expected) = &self.authorization {
            let given = text(header::AUTHORIZATION).unwrap_or_default();
            if !is_same(given.as_bytes(), expected.as_bytes()) {
                return Err(Fault::new(401, "this registry asks for a login: user and password, or a token, as `schemas.login` says"));
            }
        }
        let is_empty = !headers.contains_key(header::TRANSFER_ENCODING) && text(header::CONTENT_LENGTH).is_none_or(|length| length == "0");
        let has_body = matches!(*method, Method::POST | Method::PUT | Method::PATCH) && !is_empty;
        if has_body && !text(header::CONTENT_TYPE).is_some_and(is_json) {
            return Err(Fault::new(415, "HTTP 415 Unsupported Media Type: send Content-Type: application/vnd.schemaregistry.v1+json"));
        }
        Ok(())
    }
}

pub(super) async fn guard(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    match guard.judge(request.method(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(fault) => {
            let asks = fault.status == 401;
            let mut response = fault.into_response();
            if asks {
                response
                    .headers_mut()
                    .insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Basic realm=\"schema registry\""));
            }
            response
        }
    }
}

/// Whether a `Host` names this machine without DNS.
fn is_own(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

fn is_json(kind: &str) -> bool {
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind == "application/json" || kind == "application/octet-stream" || kind.starts_with("application/") && kind.ends_with("+json")
}

/// Compares in a time that says nothing about where they differ.
fn is_same(given: &[u8], expected: &[u8]) -> bool {
    given.len() == expected.len() && given.iter().zip(expected).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

/// A listener with so many places.
pub(super) struct Places {
    listener: TcpListener,
    left: Arc<Semaphore>,
}

impl Places {
    pub fn new(listener: TcpListener) -> Self {
        Self { listener, left: Arc::new(Semaphore::new(CONNECTIONS)) }
    }
}

impl axum::serve::Listener for Places {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let place = self.left.clone().acquire_owned().await.expect("nobody closes it");
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    let idle = Box::pin(tokio::time::sleep(IDLE));
                    return (Connection { stream, idle, _place: place }, peer);
                }
                Err(error) => {
                    tracing::debug!("the schema registry cannot accept a connection: {error}");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that ends when nothing comes for [`IDLE`].
pub(super) struct Connection {
    stream: TcpStream,
    idle: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if read.is_ready() {
            self.idle.as_mut().reset(Instant::now() + IDLE);
        } else if self.idle.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_this_machine_need_no_dns() {
        for own in ["127.0.0.1:8081", "localhost:8081", "LOCALHOST", "[::1]:8081", "10.0.0.7"] {
            assert!(is_own(own), "{own}");
        }
        for foreign in ["evil.example:8081", "localhost.evil.example", "", "\0", "127.0.0.1.nip.io:8081"] {
            assert!(!is_own(foreign), "{foreign}");
        }
    }
}
