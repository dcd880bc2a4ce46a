//! From an endpoint to a stream of bytes: TCP, TLS, WebSocket.
//!
//! MQTT over WebSocket is a stream cut into binary messages, without regard to packets (MQTT 5.0, section 6).

use bytes::{Buf, Bytes};
use futures_util::{Sink, Stream};
use millrace_config::Reason;
use millrace_contract::Failure;
use millrace_kit::Tls;
use std::fmt;
use std::io;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::{self, Message};

/// A stream of bytes both ways, whatever is between it and the socket.
pub trait Wire: AsyncRead + AsyncWrite + Send + Unpin {
    fn socket(&self) -> &TcpStream;
}

impl Wire for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }
}

impl Wire for TlsStream<TcpStream> {
    fn socket(&self) -> &TcpStream {
        self.get_ref().0
    }
}

impl Wire for Box<dyn Wire> {
    fn socket(&self) -> &TcpStream {
        (**self).socket()
    }
}

/// Has the kernel say that bytes have come only when there are this many, or the peer is gone. One: at once.
///
/// A socket that rests would otherwise wake a thread for each segment that comes meanwhile. Where the kernel does not do it, that is all that happens.
pub fn tell_when(socket: &TcpStream, bytes: usize) {
    let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    // SAFETY: the descriptor is open while the stream is borrowed, and the option's value is one int that outlives the call.
    unsafe {
        let value = std::ptr::from_ref(&bytes).cast();
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVLOWAT, value, size_of_val(&bytes) as libc::socklen_t);
    }
}

/// `mqtt://host`, `mqtts://host:port`, `ws://host/path` or `wss://host/path`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    text: String,
    pub tls: bool,
    websocket: bool,
    pub host: String,
    pub port: u16,
    path: String,
}

impl Endpoint {
    /// Reads an endpoint. Errors: one line for a person.
    pub fn parse(text: &str) -> Result<Self, Reason> {
        let (scheme, rest) = text.split_once("://").ok_or_else(|| format!("`{text}` has no scheme; write mqtt://{text}"))?;
        let (tls, websocket, usual_port) = match scheme {
            "mqtt" | "tcp" => (false, false, 1883),
            "mqtts" | "ssl" => (true, false, 8883),
            "ws" => (false, true, 80),
            "wss" => (true, true, 443),
            other => return Err(format!("`{other}` is no transport of MQTT; there are mqtt, mqtts, ws and wss").into()),
        };
        let (authority, path) = match rest.split_once('/') {
            Some((authority, path)) => (authority, format!("/{path}")),
            None => (rest, String::new()),
        };
        if !websocket && !path.trim_end_matches('/').is_empty() {
            return Err(format!("`{path}` in `{text}`: only ws and wss have a path").into());
        }
        if authority.contains('@') {
            return Err("a login does not belong into the endpoint; write `login: {user: .., password: \"${env:..}\"}`".into());
        }
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') && (!host.contains(':') || host.starts_with('[')) => {
                let number = port.parse().ok().filter(|port| *port != 0);
                (host, number.ok_or_else(|| format!("`{port}` in `{text}` is no port from 1 to 65535"))?)
            }
            _ => (authority, usual_port),
        };
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if bare.is_empty() || bare.contains(|c: char| c.is_whitespace() || "[]{}?#".contains(c)) {
            return Err(format!("`{host}` in `{text}` is no host name and no IP address").into());
        }
        Ok(Self { text: text.into(), tls, websocket, host: bare.into(), port, path })
    }

    /// Connects, does the handshakes, and hands over a stream. Errors: `Blocked` for what a human must mend.
    pub async fn open(&self, tls: &Tls) -> Result<Box<dyn Wire>, Failure> {
        let stream = TcpStream::connect((&*self.host, self.port))
            .await
            .map_err(|error| Failure::Reconnect(format!("cannot connect to {self}: {error}")))?;
        let _ = stream.set_nodelay(true);
        let stream: Box<dyn Wire> = match self.tls {
            true => Box::new(tls.connect(stream, &self.host, &self.text).await?),
            false => Box::new(stream),
        };
        if !self.websocket {
            return Ok(stream);
        }
        let refused = |error: tungstenite::Error| match error {
            tungstenite::Error::Http(response) => Failure::Blocked(format!(
                "{self} answered {} instead of opening a WebSocket; check the path, often `/mqtt`",
                response.status()
            )),
            other => Failure::Reconnect(format!("cannot open a WebSocket to {self}: {other}; is it a WebSocket port?")),
        };
        let mut request = self.text.as_str().into_client_request().map_err(refused)?;
        request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static("mqtt"));
        let (socket, _) = tokio_tungstenite::client_async(request, stream).await.map_err(refused)?;
        Ok(Box::new(Messages { socket, rest: Bytes::new() }))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A WebSocket's binary messages as one stream of bytes.
struct Messages<S> {
    socket: WebSocketStream<S>,
    /// What of the last message is not read yet.
    rest: Bytes,
}

impl<S: Wire> Wire for Messages<S> {
    fn socket(&self) -> &TcpStream {
        self.socket.get_ref().socket()
    }
}

impl<S: Wire> AsyncRead for Messages<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) => self.rest = bytes,
                // Tungstenite answers pings itself; a text is no MQTT.
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Text(_))) => {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "a WebSocket text message")));
                }
                Some(Ok(Message::Close(_))) | None => return Poll::Ready(Ok(())),
                Some(Err(error)) => return Poll::Ready(Err(into_io(error))),
            }
        }
        let n = self.rest.len().min(out.remaining());
        out.put_slice(&self.rest[..n]);
        self.rest.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl<S: Wire> AsyncWrite for Messages<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.socket).poll_ready(cx)).map_err(into_io)?;
        let message = Message::Binary(Bytes::copy_from_slice(bytes));
        Pin::new(&mut self.socket).start_send(message).map_err(into_io)?;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx).map_err(into_io)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_close(cx).map_err(into_io)
    }
}

fn into_io(error: tungstenite::Error) -> io::Error {
    match error {
        tungstenite::Error::Io(error) => error,
        tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed => io::ErrorKind::ConnectionAborted.into(),
        other => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_with_their_usual_ports() {
        for (text, host, port, tls, websocket, path) in [
            ("mqtt://broker", "broker", 1883, false, false, ""),
            ("mqtt://broker/", "broker", 1883, false, false, "/"),
            ("mqtts://broker.plant:8884", "broker.plant", 8884, true, false, ""),
            ("mqtt://10.0.0.5:1884", "10.0.0.5", 1884, false, false, ""),
            ("mqtt://[::1]:1884", "::1", 1884, false, false, ""),
            ("mqtt://[fe80::1]", "fe80::1", 1883, false, false, ""),
            ("mqtt://::1", "::1", 1883, false, false, ""),
            ("ws://broker/mqtt", "broker", 80, false, true, "/mqtt"),
            ("wss://broker:9001", "broker", 9001, true, true, ""),
        ] {
            let endpoint = Endpoint::parse(text).unwrap();
            let expected = Endpoint { text: text.into(), tls, websocket, host: host.into(), port, path: path.into() };
            assert_eq!(endpoint, expected);
        }
    }

    #[test]
    fn a_wrong_endpoint_says_what_is_wrong() {
        for (text, part) in [
            ("broker:1883", "write mqtt://broker:1883"),
            ("http://broker", "there are mqtt, mqtts, ws and wss"),
            ("mqtt://broker:0", "no port"),
            ("mqtt://broker:70000", "no port"),
            ("mqtt://:1883", "no host name"),
            ("mqtt://bro ker", "no host name"),
            ("mqtt://broker/topic", "only ws and wss have a path"),
            ("mqtt://me:secret@broker", "login"),
        ] {
            let error = Endpoint::parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
