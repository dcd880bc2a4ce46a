//! TLS of a connection to PostgreSQL, as the kit has it.

use millrace_contract::Failure;
use millrace_kit::Tls;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};

/// How a connection is encrypted.
pub(crate) struct Encrypt {
    pub tls: Tls,
    pub host: String,
    pub address: String,
}

/// Why the handshake failed, with what a session does next.
#[derive(Debug)]
pub(crate) struct Refused(pub Failure);

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Refused {}

type Encrypted = tokio_rustls::client::TlsStream<TcpStream>;

impl TlsConnect<TcpStream> for Encrypt {
    type Stream = Wrapped;
    type Error = Refused;
    type Future = Pin<Box<dyn Future<Output = Result<Wrapped, Refused>> + Send>>;

    fn connect(self, stream: TcpStream) -> Self::Future {
        Box::pin(async move { self.tls.connect(stream, &self.host, &self.address).await.map(Wrapped).map_err(Refused) })
    }
}

pub(crate) struct Wrapped(Encrypted);

impl TlsStream for Wrapped {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl AsyncRead for Wrapped {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wrapped {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
