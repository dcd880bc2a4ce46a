//! A TCP cable that can be cut, silenced, slowed, delayed, refused and corrupted.
//!
//! ```text
//! client ──> proxy 127.0.0.1:port ──> target        every chunk passes the fault that holds now
//! ```
//!
//! Faults hold for open and for new connections, both ways, until the next one or [`FaultProxy::heal`].

use parking_lot::Mutex;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

#[derive(Clone, Copy, PartialEq, Debug)]
enum Fault {
    None,
    Cut,
    Refuse,
    HalfOpen,
    Slow { bytes_per_s: u64 },
    Delay(Duration),
    Corrupt { one_in: u64 },
}

/// What the proxy does now, and which connections it still carries.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Line {
    fault: Fault,
    /// Connections of an older generation are reset.
    generation: u64,
}

/// A TCP proxy whose faults the test chooses. Dropped, it resets its connections and stops listening.
pub struct FaultProxy {
    addr: SocketAddr,
    line: watch::Sender<Line>,
    shared: Arc<Shared>,
    accept: JoinHandle<()>,
}

struct Shared {
    target: Mutex<String>,
    accepted: watch::Sender<u64>,
    open: watch::Sender<u64>,
    to_client_bytes: AtomicU64,
    to_target_bytes: AtomicU64,
    /// What clients sent, by connection; `None`: it is not kept.
    sent: Mutex<Option<Vec<Vec<u8>>>>,
}

impl FaultProxy {
    /// A proxy to `host:port`, on a free port of the loopback.
    pub async fn to(target: impl ToString) -> Self {
        Self::listen("127.0.0.1:0", target).await
    }

    /// A proxy on a given address, for peers that announce their own.
    pub async fn listen(at: &str, target: impl ToString) -> Self {
        let listener = TcpListener::bind(at).await.unwrap_or_else(|e| panic!("cannot listen on {at}: {e}"));
        let addr = listener.local_addr().expect("a bound socket has an address");
        let line = watch::Sender::new(Line { fault: Fault::None, generation: 0 });
        let shared = Arc::new(Shared {
            target: Mutex::new(target.to_string()),
            accepted: watch::Sender::new(0),
            open: watch::Sender::new(0),
            to_client_bytes: AtomicU64::new(0),
            to_target_bytes: AtomicU64::new(0),
            sent: Mutex::new(None),
        });
        let accept = tokio::spawn(accept(listener, addr, line.subscribe(), shared.clone()));
        Self { addr, line, shared, accept }
    }

    /// Where clients connect.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// New connections go to another target.
    pub fn retarget(&self, target: impl ToString) {
        *self.shared.target.lock() = target.to_string();
    }

    /// No fault. Connections that were half open or slow go on.
    pub fn heal(&self) {
        self.set(Fault::None);
    }

    /// Resets every connection and refuses new ones.
    pub fn cut(&self) {
        self.set(Fault::Cut);
        self.reset();
    }

    /// Resets every connection; new ones are welcome.
    pub fn reset(&self) {
        self.line.send_modify(|line| line.generation += 1);
    }

    /// Refuses new connections; open ones go on.
    pub fn refuse(&self) {
        self.set(Fault::Refuse);
    }

    /// Accepts, forwards nothing, says nothing: no FIN, no RST.
    pub fn half_open(&self) {
        self.set(Fault::HalfOpen);
    }

    /// At most so many bytes a second, per connection and direction.
    pub fn slow(&self, bytes_per_s: u64) {
        self.set(Fault::Slow { bytes_per_s: bytes_per_s.max(1) });
    }

    /// Every chunk arrives later.
    pub fn delay(&self, by: Duration) {
        self.set(Fault::Delay(by));
    }

    /// Flips a bit of about one byte in so many.
    pub fn corrupt(&self, one_in: u64) {
        self.set(Fault::Corrupt { one_in: one_in.max(1) });
    }

    fn set(&self, fault: Fault) {
        self.line.send_modify(|line| line.fault = fault);
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> u64 {
        *self.shared.accepted.borrow()
    }

    /// Waits until more connections than these were accepted.
    pub async fn until_more_than(&self, accepted: u64) {
        let mut now = self.shared.accepted.subscribe();
        crate::soon(&format!("a connection after the first {accepted}"), async { now.wait_for(|n| *n > accepted).await.map(|_| ()) })
            .await
            .expect("the proxy lives");
    }

    /// Connections open now.
    pub fn open(&self) -> u64 {
        *self.shared.open.borrow()
    }

    /// Waits until so many connections are open.
    pub async fn until_open(&self, count: u64) {
        let mut open = self.shared.open.subscribe();
        crate::soon(&format!("{count} open connections"), async { open.wait_for(|n| *n == count).await.map(|_| ()) })
            .await
            .expect("the proxy lives");
    }

    /// Keeps all that clients send from now on, of connections that are made from now on.
    pub fn capture(&self) {
        self.shared.sent.lock().get_or_insert_default();
    }

    /// What clients sent since [`capture`](Self::capture): the bytes of each connection.
    pub fn captured(&self) -> Vec<Vec<u8>> {
        self.shared.sent.lock().clone().unwrap_or_default()
    }

    pub fn to_client_bytes(&self) -> u64 {
        self.shared.to_client_bytes.load(Relaxed)
    }

    pub fn to_target_bytes(&self) -> u64 {
        self.shared.to_target_bytes.load(Relaxed)
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.reset();
        self.accept.abort();
    }
}

/// Accepts connections. While they are refused the listening socket is closed, so that clients see a real refusal.
async fn accept(listener: TcpListener, addr: SocketAddr, mut line: watch::Receiver<Line>, shared: Arc<Shared>) {
    let mut listener = Some(listener);
    loop {
        let refused = matches!(line.borrow_and_update().fault, Fault::Cut | Fault::Refuse);
        if refused {
            listener = None;
        } else if listener.is_none() {
            listener = TcpListener::bind(addr).await.ok();
            if listener.is_none() {
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            }
        }
        let Some(open) = &listener else {
            if line.changed().await.is_err() {
                return;
            }
            continue;
        };
        tokio::select! {
            changed = line.changed() => if changed.is_err() { return },
            accepted = open.accept() => if let Ok((client, _)) = accepted {
                shared.accepted.send_modify(|n| *n += 1);
                tokio::spawn(carry(client, line.clone(), shared.clone()));
            },
        }
    }
}

/// One connection, both ways, until either side closes or it is reset.
async fn carry(mut client: TcpStream, mut line: watch::Receiver<Line>, shared: Arc<Shared>) {
    let generation = line.borrow().generation;
    shared.open.send_modify(|n| *n += 1);
    let target = shared.target.lock().clone();
    // A target that cannot be reached looks to the client as through a cable: reset.
    if let Ok(mut target) = TcpStream::connect(&target).await {
        let _ = client.set_nodelay(true);
        let _ = target.set_nodelay(true);
        let (from_client, to_client) = client.split();
        let (from_target, to_target) = target.split();
        let kept = shared.sent.lock().as_mut().map(|sent| {
            sent.push(Vec::new());
            sent.len() - 1
        });
        let keep = |bytes: &[u8]| {
            shared.to_target_bytes.fetch_add(bytes.len() as u64, Relaxed);
            if let (Some(index), Some(sent)) = (kept, shared.sent.lock().as_mut()) {
                sent[index].extend_from_slice(bytes);
            }
        };
        let count = |bytes: &[u8]| _ = shared.to_client_bytes.fetch_add(bytes.len() as u64, Relaxed);
        let up = pump(from_client, to_target, line.clone(), keep, 1);
        let down = pump(from_target, to_client, line.clone(), count, 2);
        let was_reset = tokio::select! {
            // Each way ends by itself: a half-closed connection still carries the other.
            _ = async { tokio::join!(up, down) } => false,
            _ = line.wait_for(|now| now.generation != generation) => true,
        };
        if was_reset {
            let _ = client.set_zero_linger();
            let _ = target.set_zero_linger();
        }
    } else {
        let _ = client.set_zero_linger();
    }
    shared.open.send_modify(|n| *n -= 1);
}

async fn pump(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, mut line: watch::Receiver<Line>, note: impl Fn(&[u8]), seed: u64) {
    let mut chunk = vec![0; 16 * 1024];
    let mut random = fastrand::Rng::with_seed(seed);
    loop {
        let now = *line.borrow_and_update();
        let most = match now.fault {
            Fault::HalfOpen => {
                if line.changed().await.is_err() {
                    return;
                }
                continue;
            }
            Fault::Slow { bytes_per_s } => (bytes_per_s / 20).clamp(1, chunk.len() as u64) as usize,
            _ => chunk.len(),
        };
        let read = tokio::select! {
            changed = line.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
            read = from.read(&mut chunk[..most]) => read,
        };
        let bytes = match read {
            Ok(n) if n > 0 => &mut chunk[..n],
            _ => {
                let _ = to.shutdown().await;
                return;
            }
        };
        match now.fault {
            Fault::Slow { bytes_per_s } => tokio::time::sleep(Duration::from_secs_f64(bytes.len() as f64 / bytes_per_s as f64)).await,
            Fault::Delay(by) => tokio::time::sleep(by).await,
            Fault::Corrupt { one_in } => {
                for byte in bytes.iter_mut() {
                    if random.u64(0..one_in) == 0 {
                        *byte ^= 1 << random.u32(0..8);
                    }
                }
            }
            _ => {}
        }
        note(bytes);
        if to.write_all(bytes).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::soon;

    /// Sends back what it gets.
    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.into_split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        addr
    }

    async fn round_trip(stream: &mut TcpStream, text: &[u8]) -> std::io::Result<Vec<u8>> {
        stream.write_all(text).await?;
        let mut back = vec![0; text.len()];
        stream.read_exact(&mut back).await?;
        Ok(back)
    }

    #[tokio::test]
    async fn a_healthy_cable_carries_both_ways_and_counts() {
        let proxy = FaultProxy::to(echo().await).await;
        let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
        assert_eq!(soon("echo", round_trip(&mut stream, b"hello")).await.unwrap(), b"hello");
        assert_eq!((proxy.accepted(), proxy.to_target_bytes(), proxy.to_client_bytes()), (1, 5, 5));
        drop(stream);
        proxy.until_open(0).await;
    }

    #[tokio::test]
    async fn what_clients_send_is_kept_by_connection_where_that_is_asked_for() {
        let proxy = FaultProxy::to(echo().await).await;
        let mut before = TcpStream::connect(proxy.addr()).await.unwrap();
        soon("echo", round_trip(&mut before, b"before")).await.unwrap();
        proxy.capture();
        for text in [b"one", b"two"] {
            let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
            soon("echo", round_trip(&mut stream, text)).await.unwrap();
            soon("echo", round_trip(&mut stream, b"!")).await.unwrap();
        }
        assert_eq!(proxy.captured(), [b"one!".to_vec(), b"two!".to_vec()]);
    }

    #[tokio::test]
    async fn a_cut_cable_breaks_and_refuses_until_it_is_healed() {
        let proxy = FaultProxy::to(echo().await).await;
        let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
        soon("echo", round_trip(&mut stream, b"a")).await.unwrap();
        proxy.cut();
        assert!(soon("the break", round_trip(&mut stream, b"b")).await.is_err());
        soon("refusal", async { while TcpStream::connect(proxy.addr()).await.is_ok() {} }).await;
        proxy.heal();
        let mut stream = soon("healing", async {
            loop {
                if let Ok(stream) = TcpStream::connect(proxy.addr()).await {
                    break stream;
                }
                tokio::task::yield_now().await;
            }
        })
        .await;
        soon("echo", round_trip(&mut stream, b"c")).await.unwrap();
    }

    #[tokio::test]
    async fn a_half_open_cable_is_silent_and_goes_on_when_healed() {
        let proxy = FaultProxy::to(echo().await).await;
        let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
        soon("echo", round_trip(&mut stream, b"a")).await.unwrap();
        proxy.half_open();
        stream.write_all(b"lost?").await.unwrap();
        assert_eq!(proxy.to_target_bytes(), 1);
        proxy.heal();
        let mut back = [0; 5];
        soon("the rest", stream.read_exact(&mut back)).await.unwrap();
        assert_eq!(&back, b"lost?");
    }

    #[tokio::test]
    async fn a_corrupting_cable_changes_bytes_and_keeps_their_number() {
        let proxy = FaultProxy::to(echo().await).await;
        proxy.corrupt(4);
        let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
        let back = soon("echo", round_trip(&mut stream, &[0; 256])).await.unwrap();
        assert_ne!(back, [0; 256]);
    }
}
