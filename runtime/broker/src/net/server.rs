//! Accepts connections until the broker stops.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::broker::Broker;
use crate::call::Session;
use crate::limits::{CONNECTIONS_MAX, STRANGERS_MAX};
use crate::net::connection::{self, Ended};

/// Between two lines of the same kind.
const QUIET: Duration = Duration::from_secs(10);
/// How long a client may take for TLS.
const HANDSHAKE: Duration = Duration::from_secs(10);

pub async fn run(broker: Arc<Broker>, listener: TcpListener) {
    let mut connections = JoinSet::new();
    let said = Arc::new(Said::default());
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) if connections.len() < CONNECTIONS_MAX => {
                    connections.spawn(converse(broker.clone(), stream, peer, said.clone()));
                }
                Ok((_, peer)) => said.warn(&Line::Full, || format!("refused {peer}: {CONNECTIONS_MAX} connections are open")),
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

async fn converse(broker: Arc<Broker>, stream: TcpStream, peer: std::net::SocketAddr, said: Arc<Said>) {
    let Ok(local) = stream.local_addr() else { return };
    let _ = stream.set_nodelay(true);
    let login = Mutex::default();
    let session = Session { peer, local, login, sends_bare_tokens: AtomicBool::new(false), produces: tokio::sync::Mutex::default() };
    let stranger = match broker.guard.is_some().then(|| broker.limits.strangers.clone().try_acquire_owned()).transpose() {
        Ok(stranger) => stranger,
        Err(_) => return said.warn(&Line::Strangers, || format!("refused {peer}: {STRANGERS_MAX} clients have not logged in yet")),
    };
    let served = match &broker.guard {
        None => connection::serve(broker, stream, session, None).await,
        Some(guard) => match tokio::time::timeout(HANDSHAKE, guard.tls.accept(stream)).await {
            Ok(Ok(stream)) => connection::serve(broker, stream, session, stranger).await,
            Ok(Err(e)) => return said.warn(&Line::Tls, || format!("no TLS with {peer}: {e}")),
            Err(_) => return,
        },
    };
    match served {
        Ok(()) | Err(Ended::Io(_)) => {}
        Err(e) => said.warn(&Line::Ended(std::mem::discriminant(&e)), || format!("connection of {peer} closed: {e}")),
    }
}

/// What is said about clients.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Line {
    Full,
    Strangers,
    Tls,
    Ended(std::mem::Discriminant<Ended>),
}

/// When what was said last: whoever connects again and again fills no log.
#[derive(Default)]
struct Said(Mutex<HashMap<Line, (Instant, u64)>>);

impl Said {
    /// Says it, unless its like was said within [`QUIET`]; then it is counted for the next time.
    fn warn(&self, line: &Line, text: impl FnOnce() -> String) {
        let now = Instant::now();
        let mut said = self.0.lock();
        let unsaid = match said.get_mut(line) {
            Some((last, unsaid)) if now.duration_since(*last) < QUIET => {
                *unsaid += 1;
                return;
            }
            Some((_, unsaid)) => *unsaid,
            None => 0,
        };
        said.insert(line.clone(), (now, 0));
        drop(said);
        let before = if unsaid > 0 { format!(" (and {unsaid} times before)") } else { String::new() };
        tracing::warn!("a client of the embedded broker was turned away: {}{before}", text());
    }
}
