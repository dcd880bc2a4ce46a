//! A small MQTT broker in this process: sessions, retained messages, wills, and faults on demand.
//!
//! It serves 3.1.1 and 5 with every QoS, kept sessions and their expiry, retained messages, wills with their delay, shared subscriptions and
//! subscription identifiers. It does not do TLS, passwords (any login is welcome), topic aliases, message expiry, or persistence over its own end.
//!
//! Invariants: connections, sessions, subscriptions, retained messages, packets and queues are bounded ([`Bounds`]); what does not fit is dropped
//! and counted, or refused with its reason code. A client that reads nothing costs its own queue and nobody's time.

use crate::connection;
use crate::shared::Shared;
pub use crate::shared::{Bounds, Break, Counts};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A running broker. Dropped, it ends its connections and stops listening.
pub struct Broker {
    shared: Arc<Shared>,
    addr: SocketAddr,
    tasks: Vec<JoinHandle<()>>,
}

impl Broker {
    /// Listens, and serves until it is dropped.
    ///
    /// Errors: the address is taken or not this machine's.
    pub async fn listen(listen: SocketAddr, bounds: Bounds) -> io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared::new(bounds));
        let tasks = vec![tokio::spawn(accept(listener, shared.clone())), tokio::spawn(sweep(shared.clone()))];
        Ok(Self { shared, addr, tasks })
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Breaks the cable to the client of this id (every client with `""`) for so long.
    pub fn break_cable(&self, client_id: &str, how: Break, lasts: Duration) {
        self.shared.break_cable(client_id, how, lasts);
    }

    pub fn counts(&self) -> Counts {
        self.shared.counts()
    }

    /// Whether this client is connected, and how many messages wait for it; `None` where it is not known.
    pub fn client(&self, client_id: &str) -> Option<(bool, usize)> {
        self.shared.client(client_id)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        self.shared.end_all();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) if shared.comes_in() => {
                let shared = shared.clone();
                tokio::spawn(async move {
                    connection::serve(stream, &shared).await;
                    shared.goes_out();
                });
            }
            Ok(_) => {}
            // Out of file descriptors, say: others may close theirs.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// Forgets every quarter of a second whom nobody waits for any more.
async fn sweep(shared: Arc<Shared>) {
    let mut every = tokio::time::interval(Duration::from_millis(250));
    loop {
        every.tick().await;
        shared.sweep();
    }
}
