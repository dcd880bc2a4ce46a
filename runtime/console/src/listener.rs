//! What accepts connections: plain or TLS, no more at a time than are served, none that never speaks.
//!
//! A connection has a time until the first answer on it begins, however its bytes drip in; from then on it ends when it rests too long, in both
//! directions. Live records and events have a byte to send more often than that.

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, Sleep};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Clients of live samples at a time.
pub const FOLLOWERS: usize = 1024;
/// Connections served at a time; the next ones wait in the kernel's queue.
const CONNECTIONS: usize = FOLLOWERS + 256;
/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How long connections are borne.
#[derive(Clone, Copy)]
pub struct Patience {
    /// From a connection's begin to the first byte of an answer.
    pub first: Duration,
    /// Without a byte in either direction, from then on.
    pub rest: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { first: Duration::from_secs(30), rest: Duration::from_secs(120) }
    }
}

/// Accepts connections and their handshakes, each on its own: a slow stranger holds nobody up.
pub struct Doors {
    ready: mpsc::Receiver<(Connection, SocketAddr)>,
    listen: SocketAddr,
}

impl Doors {
    pub fn open(listener: TcpListener, tls: Option<TlsAcceptor>, patience: Patience) -> io::Result<Self> {
        let listen = listener.local_addr()?;
        let (sender, ready) = mpsc::channel(16);
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        tokio::spawn(async move {
            loop {
                let Ok(permit) = room.clone().acquire_owned().await else { return };
                let (stream, peer) = match listener.accept().await {
                    Ok(accepted) => accepted,
                    // No more files, or the peer is gone already: neither ends the console.
                    Err(_) => {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                };
                let (tls, sender) = (tls.clone(), sender.clone());
                tokio::spawn(async move {
                    let stream = match tls {
                        None => Stream::Plain(stream),
                        Some(tls) => match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
                            Ok(Ok(stream)) => Stream::Tls(Box::new(stream)),
                            _ => return,
                        },
                    };
                    let _ = sender.send((Connection::new(stream, patience, permit), peer)).await;
                });
            }
        });
        Ok(Self { ready, listen })
    }
}

impl Listener for Doors {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        match self.ready.recv().await {
            Some(accepted) => accepted,
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.listen)
    }
}

/// Where a connection comes from.
#[derive(Clone, Copy)]
pub struct Peer(pub SocketAddr);

impl Connected<IncomingStream<'_, Doors>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Doors>) -> Self {
        Self(*stream.remote_addr())
    }
}

/// One connection; its place is free again when it is dropped.
pub struct Connection {
    stream: Stream,
    rest: Duration,
    answered: bool,
    end: Pin<Box<Sleep>>,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    fn new(stream: Stream, patience: Patience, permit: OwnedSemaphorePermit) -> Self {
        Self { stream, rest: patience.rest, answered: false, end: Box::pin(tokio::time::sleep(patience.first)), _permit: permit }
    }

    /// Errors: its time is over.
    fn in_time(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.end.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }

    fn rests_from_now(&mut self) {
        let end = Instant::now() + self.rest;
        self.end.as_mut().reset(end);
    }
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.in_time(cx)?;
        let read = match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        };
        if read.is_ready() && self.answered {
            self.rests_from_now();
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.in_time(cx)?;
        let written = match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        };
        if written.is_ready() {
            self.answered = true;
            self.rests_from_now();
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::{Body, Bytes};
    use axum::routing::get;
    use futures_util::StreamExt;
    use std::convert::Infallible;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const PATIENCE: Patience = Patience { first: Duration::from_millis(500), rest: Duration::from_secs(4) };
    const PIECES: usize = 12;

    /// Serves `hello` at `/`, and at `/slow` bytes that take longer than a connection may rest, one now and then.
    async fn served(patience: Patience) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let doors = Doors::open(listener, None, patience).unwrap();
        let listen = doors.local_addr().unwrap();
        let drip = || async {
            let bytes = futures_util::stream::unfold((), |()| async {
                tokio::time::sleep(PATIENCE.rest / 8).await;
                Some((Ok::<_, Infallible>(Bytes::from_static(b".")), ()))
            });
            Body::from_stream(bytes.take(PIECES))
        };
        let router = axum::Router::new().route("/", get(|| async { "hello" })).route("/slow", get(drip));
        tokio::spawn(async move { axum::serve(doors, router).await });
        listen
    }

    #[tokio::test]
    async fn a_connection_that_never_comes_to_a_request_is_closed_however_its_bytes_drip_in() {
        let listen = served(PATIENCE).await;
        for drips in [false, true] {
            let begun = Instant::now();
            let (mut read, mut write) = TcpStream::connect(listen).await.unwrap().into_split();
            let dripping = tokio::spawn(async move {
                let _ = write.write_all(b"GET / HTTP/1.1\r\nX: ").await;
                while drips && write.write_all(b"x").await.is_ok() {
                    tokio::time::sleep(PATIENCE.first / 10).await;
                }
                std::future::pending::<()>().await;
            });
            let mut said = Vec::new();
            let _ = read.read_to_end(&mut said).await;
            dripping.abort();
            assert!(said.is_empty() && begun.elapsed() >= PATIENCE.first, "{drips} {:?} {said:?}", begun.elapsed());
        }
    }

    #[tokio::test]
    async fn an_answer_that_takes_its_time_comes_whole_and_a_connection_that_rests_is_closed() {
        let listen = served(PATIENCE).await;
        let mut stream = TcpStream::connect(listen).await.unwrap();
        stream.write_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said).await;
        let said = String::from_utf8_lossy(&said);
        assert!(said.ends_with("0\r\n\r\n") && said.matches("\r\n.\r\n").count() == PIECES, "{said}");
    }

    #[tokio::test]
    async fn no_more_connections_are_served_than_there_are_places_and_one_that_ends_makes_room() {
        let listen = served(Patience::default()).await;
        let mut idle = Vec::new();
        for _ in 0..CONNECTIONS {
            idle.push(TcpStream::connect(listen).await.unwrap());
        }
        let mut last = TcpStream::connect(listen).await.unwrap();
        last.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut said = Vec::new();
        let waits = tokio::time::timeout(Duration::from_millis(300), last.read_to_end(&mut said)).await;
        assert!(waits.is_err(), "served though all places are taken: {said:?}");
        idle.truncate(CONNECTIONS - 1);
        tokio::time::timeout(Duration::from_secs(20), last.read_to_end(&mut said)).await.unwrap().unwrap();
        assert!(String::from_utf8_lossy(&said).ends_with("hello"));
    }
}
