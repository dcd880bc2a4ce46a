//! Accepts connections until the broker stops.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::broker::Broker;
use crate::connection::{self, Ended, Session};

/// Connections at once; what comes beyond is closed.
const MOST_CONNECTIONS: usize = 2_000;

/// How long a client may take for TLS.
const HANDSHAKE: Duration = Duration::from_secs(10);

pub async fn run(broker: Arc<Broker>, listener: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) if connections.len() < MOST_CONNECTIONS => {
                    connections.spawn(converse(broker.clone(), stream, peer));
                }
                Ok((_, peer)) => tracing::warn!(%peer, "refused: {MOST_CONNECTIONS} connections are open"),
                Err(e) => {
                    tracing::warn!("cannot accept a connection: {e}");
                    // Out of file descriptors, most likely; they come back when connections end.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(ended) = connections.join_next() => {
                if let Err(e) = ended && e.is_panic() {
                    tracing::error!("a connection ended by a fault of the broker: {e}");
                }
            }
            () = broker.stopped() => return,
        }
    }
}

async fn converse(broker: Arc<Broker>, stream: TcpStream, peer: std::net::SocketAddr) {
    let Ok(local) = stream.local_addr() else { return };
    let _ = stream.set_nodelay(true);
    let session = Session { peer, local, login: Mutex::default(), sends_bare_tokens: AtomicBool::new(false) };
    let served = match &broker.guard {
        None => connection::serve(broker, stream, session).await,
        Some(guard) => match tokio::time::timeout(HANDSHAKE, guard.tls.accept(stream)).await {
            Ok(Ok(stream)) => connection::serve(broker, stream, session).await,
            Ok(Err(e)) => {
                tracing::warn!(%peer, "no TLS: {e}");
                return;
            }
            Err(_) => return,
        },
    };
    match served {
        Ok(()) | Err(Ended::Io(_)) => {}
        Err(e) => tracing::warn!(%peer, "connection closed: {e}"),
    }
}
